# A link to a server, on which bytes can be late
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from itertools import cycle
import os
import socket
import threading
from typing import List, Sequence

from .nbd import shutdown
from .servers import Address


def new_socket(address: Address) -> socket.socket:
    """Of the kind that has such addresses"""
    if isinstance(address, str):
        return socket.socket(socket.AF_UNIX)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


class Link:
    """One connection of a client, and the one to a server that it leads to"""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.held = b''         # what the client has sent, and is on its way
        self.holding = False
        self.lost = False       # for the client; the server does not know


class HoldingProxy:
    """
    Connections to @address lead to @servers, to each of them in turn.  From
    hold() on, what clients send is on its way, until deliver().  After lose()
    the clients know that their connections are gone, and the servers don't:
    they still get what is on its way, and what they answer goes nowhere.  New
    connections are not held.
    """

    def __init__(self, address: Address, servers: Sequence[Address]) -> None:
        self._address = address
        self._servers = cycle(servers)
        self._links: List[Link] = []
        self._changed = threading.Condition()   # protects all of these
        self._threads: List[threading.Thread] = []
        self._listener = new_socket(address)
        self._listener.bind(address)
        self._listener.listen()
        self._start(self._accept)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target,    # type: ignore
                                  args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            address = next(self._servers)
            server = new_socket(address)
            try:
                server.connect(address)
            except OSError:
                server.close()
                client.close()
                continue
            link = Link(client, server)
            with self._changed:
                self._links.append(link)
            self._start(self._to_server, link)
            self._start(self._to_client, link)

    def _to_server(self, link: Link) -> None:
        while data := self._receive(link.client):
            self._sent(link, data)
            with self._changed:
                if link.holding:
                    link.held += data
                    self._changed.notify_all()
                    continue
            self._send(link.server, data)
        with self._changed:
            link.lost = True
            if not link.holding:
                shutdown(link.server)

    def _sent(self, link: Link, data: bytes) -> None:
        """A client has sent this; for those who inherit from this."""

    def _to_client(self, link: Link) -> None:
        while data := self._receive(link.server):
            if not link.lost:
                self._send(link.client, data)
        shutdown(link.client)

    @staticmethod
    def _receive(sock: socket.socket) -> bytes:
        try:
            return sock.recv(2**16)
        except OSError:
            return b''

    @staticmethod
    def _send(sock: socket.socket, data: bytes) -> None:
        try:
            sock.sendall(data)
        except OSError:
            pass

    def hold(self) -> None:
        with self._changed:
            for link in self._links:
                link.holding = True

    def holds(self, size: int, timeout: float = 5.0) -> bool:
        """Wait until so many bytes are on their way."""
        with self._changed:
            return self._changed.wait_for(
                lambda: sum(len(link.held) for link in self._links) >= size,
                timeout)

    def lose(self) -> None:
        """The clients lose the connections that are held."""
        with self._changed:
            lost = [link for link in self._links if link.holding]
            for link in lost:
                link.lost = True
        for link in lost:
            shutdown(link.client)

    def deliver(self) -> None:
        """The servers get what is on its way, and then the end."""
        with self._changed:
            late = [link for link in self._links if link.holding]
            for link in late:
                self._send(link.server, link.held)
                link.held = b''
                link.holding = False
        for link in late:
            if link.lost:
                # Else the server might not look at what came before it.
                link.server.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Both sides lose all connections."""
        with self._changed:
            for link in self._links:
                shutdown(link.client)
                shutdown(link.server)

    def stop(self) -> None:
        shutdown(self._listener)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for link in self._links:
            link.client.close()
            link.server.close()
        self._listener.close()
        if isinstance(self._address, str):
            os.remove(self._address)
