# The NBD protocol: a client, and a server that answers when it is told to
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from contextlib import contextmanager
import os
import socket
import struct
import threading
from typing import Callable, Iterator, List, NamedTuple

from .servers import Address

READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS = \
    0, 1, 2, 3, 4, 6, 7


def receive(sock: socket.socket, length: int) -> bytes:
    data = b''
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise EOFError('the connection was closed')
        data += part
    return data


class NBDError(Exception):
    """The server has answered with an error."""


class NBD:
    """A connection to an NBD export, with one request at a time"""
    FUA, NO_HOLE = 1, 2

    def __init__(self, address: Address, export: str = 'q') -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket()
        self.sock.connect(address)
        receive(self.sock, 16)
        receive(self.sock, 2)
        name = export.encode()
        self.sock.sendall(struct.pack('>I8sII', 3, b'IHAVEOPT', 1, len(name)) +
                          name)
        self.size, self.flags = struct.unpack('>QH', receive(self.sock, 10))

    def _ask(self, kind: int, offset: int, size: int, data: bytes = b'',
             flags: int = 0) -> bytes:
        self.sock.sendall(struct.pack('>IHHQQI', 0x25609513, flags, kind, 0,
                                      offset, size) + data)
        error, = struct.unpack('>4xI8x', receive(self.sock, 16))
        if error:
            raise NBDError(os.strerror(error))
        return receive(self.sock, size) if kind == READ else b''

    def read(self, offset: int, size: int) -> bytes:
        return self._ask(READ, offset, size)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        self._ask(WRITE, offset, len(data), data, flags)

    def flush(self) -> None:
        self._ask(FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        self._ask(TRIM, offset, size)

    def zero(self, offset: int, size: int, flags: int = 0) -> None:
        self._ask(WRITE_ZEROES, offset, size, flags=flags)

    def shutdown(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self.sock.close()


class Request(NamedTuple):
    """What a client asks HeldNBD for"""
    kind: int
    offset: int
    length: int
    data: bytes
    cookie: int


class HeldNBD:
    """
    Serves @image, a bytearray, to one client at a time.

    A request is answered at once, unless hold(request) is true: then release()
    does what it asks for, and answers it.  Later requests don't wait for it.
    One for which fail(request) is true gets an error instead.
    announce(offset) is called before the payload of a write is received.
    """
    # pylint: disable=too-many-instance-attributes

    def __init__(self, path: str, image: bytes) -> None:
        self.image = bytearray(image)
        self.hold: Callable[[Request], bool] = lambda request: False
        self.fail: Callable[[Request], bool] = lambda request: False
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
            # A client that gets its answer may look at self.held at once.
            held, self.held = self.held, []
            for request in held:
                self._answer(request)

    @contextmanager
    def holding(self, hold: Callable[[Request], bool]) -> Iterator[None]:
        """
        Hold some requests, and release them at the end, also if the test has
        failed: else what waits for them would never end.
        """
        self.hold = hold
        try:
            yield
        finally:
            self.release()

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

    def _handshake(self) -> None:
        """Fixed newstyle, with structured replies and base:allocation"""
        self._client.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
        receive(self._client, 4)
        option = 0
        while option != 7:
            option, length = struct.unpack('>8xII', receive(self._client, 16))
            receive(self._client, length)
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
                struct.unpack('>6xHQQI', receive(self._client, 28))
            if kind == DISCONNECT:
                return
            data = b''
            if kind == WRITE:
                self.announce(offset)
                data = receive(self._client, length)
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
        if self.fail(request):
            kind = 0x8001
            data = struct.pack('>IH', 5, 0)     # EIO, without a text
        elif request.kind == READ:
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
