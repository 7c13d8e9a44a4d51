# An NBD server in the test's own process, which answers when it is told to
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import socket
import struct
import threading
from typing import Callable, List, NamedTuple

READ, WRITE, DISCONNECT, FLUSH, BLOCK_STATUS = 0, 1, 2, 3, 7


class Request(NamedTuple):
    kind: int
    offset: int
    length: int
    data: bytes
    cookie: int


class HeldNBD:
    """
    Serves @image, a bytearray, to one client at a time.

    A request is answered at once, unless hold(request) is true: then release()
    does what it asks for, and answers it.  Those after it don't wait for it.
    announce(offset) is called before the payload of a write is received.
    """
    # pylint: disable=too-many-instance-attributes

    def __init__(self, path: str, image: bytes) -> None:
        self.image = bytearray(image)
        self.hold: Callable[[Request], bool] = lambda request: False
        self.announce: Callable[[int], None] = lambda offset: None
        self.seen: List[Request] = []       # all that have come
        self.held: List[Request] = []       # those without an answer
        self._path = path
        self._changed = threading.Condition()   # protects all of these
        self._listener = socket.socket(socket.AF_UNIX)
        self._client = self._listener       # there is none yet
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def wait_for(self, condition: Callable[[], bool],
                 timeout: float = 5.0) -> bool:
        """Wait until something that depends on what has come is true."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def saw(self, kind: int, offset: int = 0, count: int = 1,
            timeout: float = 5.0) -> bool:
        """Wait for requests of a kind; tell whether they have come."""
        return self.wait_for(
            lambda: sum((request.kind, request.offset) == (kind, offset)
                        for request in self.seen) >= count, timeout)

    def release(self) -> None:
        """Answer what is held, and hold nothing any more."""
        with self._changed:
            self.hold = lambda request: False
            # Who gets an answer may look at once whether anything is held.
            held, self.held = self.held, []
            for request in held:
                self._answer(request)

    def stop(self) -> None:
        # Wakes the thread up, wherever it waits
        for sock in self._listener, self._client:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join()
        self._listener.close()
        os.remove(self._path)

    def _serve(self) -> None:
        while True:
            try:
                self._client = self._listener.accept()[0]
            except OSError:
                return
            with self._client:
                try:
                    self._handshake()
                    self._requests()
                except (EOFError, OSError):
                    pass

    def _receive(self, length: int) -> bytes:
        data = b''
        while len(data) < length:
            part = self._client.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _handshake(self) -> None:
        """Fixed newstyle, with structured replies and base:allocation"""
        self._client.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
        self._receive(4)
        option = 0
        while option != 7:
            option, length = struct.unpack('>8xII', self._receive(16))
            self._receive(length)
            replies = {
                7: [(3, struct.pack('>HQH', 0, len(self.image), 0x0d)),
                    (1, b'')],                                  # go
                8: [(1, b'')],                                  # structured
                10: [(4, struct.pack('>I', 1) + b'base:allocation'),
                     (1, b'')],                                 # meta context
            }
            for kind, data in replies.get(option, [(0x80000001, b'')]):
                self._client.sendall(struct.pack(
                    '>QIII', 0x3e889045565a9, option, kind, len(data)) + data)

    def _requests(self) -> None:
        while True:
            kind, cookie, offset, length = \
                struct.unpack('>6xHQQI', self._receive(28))
            if kind == DISCONNECT:
                return
            data = b''
            if kind == WRITE:
                self.announce(offset)
                data = self._receive(length)
            request = Request(kind, offset, length, data, cookie)
            with self._changed:
                self.seen.append(request)
                if self.hold(request):
                    self.held.append(request)
                else:
                    self._answer(request)
                self._changed.notify_all()

    def _answer(self, request: Request) -> None:
        kind, data = 0, b''
        end = request.offset + request.length
        if request.kind == READ:
            kind = 1
            data = struct.pack('>Q', request.offset) + \
                self.image[request.offset:end]
        elif request.kind == WRITE:
            self.image[request.offset:end] = request.data
        elif request.kind == BLOCK_STATUS:
            kind = 5
            data = struct.pack('>III', 1, request.length, 0)
        self._client.sendall(struct.pack(
            '>IHHQI', 0x668e33ef, 1, kind, request.cookie, len(data)) + data)
