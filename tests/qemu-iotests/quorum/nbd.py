# The NBD protocol: a client, and a server that answers when it is told to
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from contextlib import contextmanager, suppress
from enum import IntEnum
from errno import EINVAL, EIO
import os
import re
import select
import socket
import struct
import threading
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

from .servers import Address

READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS = \
    0, 1, 2, 3, 4, 6, 7

# What an export says of itself
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, \
    SEND_FAST_ZERO = 1, 2, 4, 8, 32, 64, 2048


def shutdown(sock: socket.socket) -> None:
    """Let whoever waits for the socket, here or there, go on."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


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


class NBDInstance:
    """
    A connection of a client that asks for qemu:fence, maybe other contexts,
    too, and does not wait for answers unless it is told to; then for at most
    10 seconds
    """
    def __init__(self, address: str, instance: str, *others: str,
                 export: str = 'q') -> None:
        structured, set_contexts, go = 8, 10, 7
        self.contexts: List[str] = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(address)
        receive(self.sock, 18)
        self.sock.sendall(struct.pack('>I', 3))
        self._option(structured)
        assert self._reply()[0] == 1
        name = struct.pack('>I', len(export)) + export.encode()
        queries = [query.encode()
                   for query in (f'qemu:fence:{instance}', *others)]
        self._option(set_contexts, name + struct.pack('>I', len(queries)) +
                     b''.join(struct.pack('>I', len(query)) + query
                              for query in queries))
        while True:
            kind, data = self._reply()
            if kind == 1:
                break
            assert kind == 4, hex(kind)
            self.contexts.append(data[4:].decode())
        self._option(go, name + struct.pack('>H', 0))

    def _option(self, option: int, data: bytes = b'') -> None:
        self.sock.sendall(struct.pack('>8sII', b'IHAVEOPT', option,
                                      len(data)) + data)

    def _reply(self) -> Tuple[int, bytes]:
        kind, length = struct.unpack('>12xII', receive(self.sock, 20))
        return kind, receive(self.sock, length)

    def heard(self, timeout: float = 0.2) -> bool:
        """Whether anything has come from the server, or its end"""
        return bool(select.select([self.sock], [], [], timeout)[0])

    def connected(self) -> bool:
        """Wait for the answer to NBD_OPT_GO; tell whether it is a good one."""
        kind = 3
        while kind == 3:
            kind, _ = self._reply()
        return kind == 1

    def send(self, kind: int, offset: int = 0, data: bytes = b'',
             length: int = 0) -> None:
        self.sock.sendall(struct.pack('>IHHQQI', 0x25609513, 0, kind, 0,
                                      offset, length or len(data)) + data)

    def result(self) -> int:
        """Wait for the answer to a request that gets no data."""
        magic, = struct.unpack('>I', receive(self.sock, 4))
        if magic == 0x67446698:
            return int.from_bytes(receive(self.sock, 12)[:4], 'big')
        kind, length = struct.unpack('>2xH8xI', receive(self.sock, 16))
        data = receive(self.sock, length)
        return int.from_bytes(data[:4], 'big') if kind & 0x8000 else 0

    def ended(self) -> bool:
        """Wait for the server's end of the connection."""
        try:
            return not self.sock.recv(1)
        except ConnectionError:
            return True

    def close(self) -> None:
        self.sock.close()


class Request(NamedTuple):
    """What a client asks HeldNBD for"""
    kind: int
    offset: int
    length: int
    data: bytes
    cookie: int
    flags: int


class Headers(IntEnum):
    """The forms of requests and replies; each offer includes those before"""
    SIMPLE, STRUCTURED, EXTENDED = range(3)


class Offer(NamedTuple):
    """What HeldNBD offers to those that connect"""
    flags: int = HAS_FLAGS | SEND_FLUSH | SEND_FUA
    headers: Headers = Headers.STRUCTURED
    block_status: bool = True
    # Minimum, preferred and maximum, if they are told
    block_sizes: Optional[Tuple[int, int, int]] = None
    size: Optional[int] = None          # if it is not that of the image
    fence: bool = False                 # see docs/interop/nbd.rst


class HeldNBD:
    """
    Serves @image, a bytearray, to one client at a time.  If it offers more than
    that, there are zeroes behind it, and nothing is written there.

    A request is answered at once, unless hold(request) is true: then release()
    does what it asks for, and answers it.  Later requests don't wait for it.
    One for which fail(request) is true gets @error instead.
    announce(offset) is called before the payload of a write is received.
    A change of @offer is for the next connection; what it does not include is
    refused.
    """
    # pylint: disable=too-many-instance-attributes

    def __init__(self, path: Address, image: bytes, offer: Offer = Offer()
                 ) -> None:
        self.image = bytearray(image)
        self.offer = offer
        self.offered = 0                    # how often it was
        self.hold: Callable[[Request], bool] = lambda request: False
        self.fail: Callable[[Request], bool] = lambda request: False
        self.error = EIO
        self.announce: Callable[[int], None] = lambda offset: None
        # Reads that get what there was at first
        self.old: Callable[[Request], bool] = lambda request: False
        self._first = bytes(image)
        self.seen: List[Request] = []       # all that have come
        self.held: List[Request] = []       # those without an answer
        self._path = path
        self._changed = threading.Condition()   # protects all of these
        self._listener = socket.socket(
            socket.AF_UNIX if isinstance(path, str) else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._client = self._listener       # there is none yet
        self._offer = offer                 # what the client has been offered
        self._headers = Headers.SIMPLE      # what it has chosen
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
                # It is done, be it that who has asked for it is gone.
                with suppress(OSError):
                    self._answer(request)

    def answer_held(self, which: Callable[[Request], bool]) -> None:
        """Answer some of what is held, and go on holding."""
        with self._changed:
            now = [request for request in self.held if which(request)]
            for request in now:
                self.held.remove(request)
                self._answer(request)

    def do_held(self) -> None:
        """Do what is held, late: who has asked for it is gone."""
        with self._changed:
            for request in self.held:
                self._do(request)
            self.held.clear()

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

    def disconnect(self) -> None:
        """End the connection that there is."""
        if self._client is not self._listener:
            shutdown(self._client)

    def stop(self) -> None:
        # Wakes the thread up, wherever it waits
        for sock in self._listener, self._client:
            shutdown(sock)
        self._thread.join()
        self._listener.close()
        if isinstance(self._path, str):
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
        """Fixed newstyle"""
        offer = self._offer = self.offer
        self._headers = Headers.SIMPLE
        ack, info = 1, 3
        size = self._size()
        go = [(info, struct.pack('>HQH', 0, size, offer.flags)), (ack, b'')]
        if offer.block_sizes:
            go.insert(0, (info, struct.pack('>HIII', 3, *offer.block_sizes)))
        replies = {7: go}
        if offer.headers >= Headers.STRUCTURED:
            replies[8] = [(ack, b'')]
        if offer.headers >= Headers.EXTENDED:
            replies[11] = [(ack, b'')]
        if offer.block_status:
            replies[10] = [(4, struct.pack('>I', 1) + b'base:allocation'),
                           (ack, b'')]

        self._client.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
        receive(self._client, 4)
        option = 0
        while option != 7:
            option, length = struct.unpack('>8xII', receive(self._client, 16))
            data = receive(self._client, length)
            chosen = {8: Headers.STRUCTURED, 11: Headers.EXTENDED}
            if option in chosen and option in replies:
                self._headers = chosen[option]
            answers = replies.get(option, [(0x80000001, b'')])
            fence = re.search(b'qemu:fence:[0-9a-f-]*', data)
            if option == 10 and offer.fence and fence:
                # There is one connection at a time, so there is none to end.
                answers = [(4, struct.pack('>I', 2) + fence[0]), *answers]
            for kind, data in answers:
                self._client.sendall(struct.pack(
                    '>QIII', 0x3e889045565a9, option, kind, len(data)) + data)
        with self._changed:
            self.offered += 1
            self._changed.notify_all()

    def _requests(self) -> None:
        form = '>4xHHQQ' + ('Q' if self._headers == Headers.EXTENDED else 'I')
        while True:
            flags, kind, cookie, offset, length = struct.unpack(
                form, receive(self._client, struct.calcsize(form)))
            if kind == DISCONNECT:
                return
            data = b''
            if kind == WRITE:
                self.announce(offset)
                data = receive(self._client, length)
            request = Request(kind, offset, length, data, cookie, flags)
            with self._changed:
                self.seen.append(request)
                if self.hold(request):
                    self.held.append(request)
                else:
                    self._answer(request)
                self._changed.notify_all()

    def _size(self) -> int:
        """The length that has been offered"""
        size = self._offer.size
        return len(self.image) if size is None else size

    def _is_offered(self, request: Request) -> bool:
        """Whether the client may ask for this"""
        fua, fast_zero = 1, 16
        needed = {FLUSH: SEND_FLUSH, TRIM: SEND_TRIM,
                  WRITE_ZEROES: SEND_WRITE_ZEROES}.get(request.kind, 0)
        if request.kind in (WRITE, TRIM, WRITE_ZEROES):
            needed |= SEND_FUA * bool(request.flags & fua)
            if self._offer.flags & READ_ONLY:
                return False
        if request.kind == WRITE_ZEROES and request.flags & fast_zero:
            needed |= SEND_FAST_ZERO
        least, _, most = self._offer.block_sizes or (1, 1, 1 << 25)
        return not needed & ~self._offer.flags and \
            request.offset + request.length <= self._size() and \
            request.offset % least == request.length % least == 0 and \
            (request.kind not in (READ, WRITE) or request.length <= most)

    def _answer(self, request: Request) -> None:
        if not self._is_offered(request):
            self._reply(request, EINVAL)
            return
        if self.fail(request):
            self._reply(request, self.error)
            return
        self._reply(request, 0, self._do(request))

    def _do(self, request: Request) -> bytes:
        """Do what is asked for; return what is to be sent."""
        data = b''
        end = request.offset + request.length
        if request.kind == READ:
            image = self._first if self.old(request) else self.image
            data = bytes(image[request.offset:end])
            data += bytes(request.length - len(data))
        elif request.kind == WRITE:
            assert end <= len(self.image)
            self.image[request.offset:end] = request.data
        elif request.kind == WRITE_ZEROES:
            self.image[request.offset:end] = bytes(request.length)
        elif request.kind == BLOCK_STATUS:
            context, count, allocated = 1, 1, 0
            if self._headers == Headers.EXTENDED:
                data = struct.pack('>IIQQ', context, count, request.length,
                                   allocated)
            else:
                data = struct.pack('>III', context, request.length, allocated)
        return data

    def _reply(self, request: Request, error: int, data: bytes = b'') -> None:
        if self._headers == Headers.SIMPLE:
            self._client.sendall(struct.pack(
                '>IIQ', 0x67446698, error, request.cookie) + data)
            return
        done, none, offset_data, status, status_ext, failed = \
            1, 0, 1, 5, 6, 0x8001
        kind = none
        if error:
            kind, data = failed, struct.pack('>IH', error, 0)
        elif request.kind == READ:
            kind, data = offset_data, struct.pack('>Q', request.offset) + data
        elif request.kind == BLOCK_STATUS:
            kind = status_ext if self._headers == Headers.EXTENDED else status
        if self._headers == Headers.EXTENDED:
            header = struct.pack('>IHHQQQ', 0x6e8a278c, done, kind,
                                 request.cookie, request.offset, len(data))
        else:
            header = struct.pack('>IHHQI', 0x668e33ef, done, kind,
                                 request.cookie, len(data))
        self._client.sendall(header + data)
