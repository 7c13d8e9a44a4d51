# A file system with one file, whose system calls can be held
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later
#
# usage: heldfile.py DIRECTORY IMAGE
#
# Mount a file system (FUSE) at DIRECTORY.  It has one file, "disk", whose
# contents are those of IMAGE.  Commands, one a line, come from stdin, and each
# is answered by a line:
#   hold OP...   don't answer requests of these kinds from now on; "all": none
#   release      answer what is held, and hold nothing any more
#   held         how many requests are held
#   seen OP      how many requests of this kind there were
# A thread whose request is held cannot be killed; it goes on when this program
# ends.  Needs the privilege to mount, and no library.

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import subprocess
import sys
from typing import List, NamedTuple, Set

OPS = {
    1: 'lookup', 3: 'getattr', 4: 'setattr', 14: 'open', 15: 'read',
    16: 'write', 17: 'statfs', 18: 'release', 20: 'fsync', 25: 'flush',
    26: 'init', 43: 'fallocate', 46: 'lseek',
}
NO_REPLY = (2, 36, 42)          # forget, interrupt, batch forget
ROOT = 1
DISK = 2
# Straight to this program, and writes side by side
FOPEN_DIRECT_IO = 1 << 0
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
FATTR_SIZE = 1 << 3
MAX_WRITE = 128 * 1024

libc = ctypes.CDLL(None, use_errno=True)


class Request(NamedTuple):
    op: str
    unique: int
    node: int
    data: bytes


def check(ret: int) -> None:
    if ret < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class FileSystem:
    def __init__(self, directory: str, image: str) -> None:
        self.image = os.open(image, os.O_RDWR)
        self.hold: Set[str] = set()
        self.held: List[Request] = []
        self.seen = dict.fromkeys(OPS.values(), 0)
        self.fuse = os.open('/dev/fuse', os.O_RDWR)
        options = (f'fd={self.fuse},rootmode=40000,'
                   f'user_id={os.getuid()},group_id={os.getgid()}')
        check(libc.mount(b'held', directory.encode(), b'fuse', 0,
                         options.encode()))

    # --- commands ---

    def command(self, line: str) -> str:
        verb, *args = line.split()
        if verb == 'hold':
            self.hold = set(OPS.values()) if args == ['all'] else set(args)
            assert self.hold <= set(OPS.values()), line
        elif verb == 'release':
            self.hold = set()
            held, self.held = self.held, []
            for request in held:
                self.answer(request)
        elif verb == 'held':
            return str(len(self.held))
        elif verb == 'seen':
            return str(self.seen[args[0]])
        else:
            raise ValueError(line)
        return 'ok'

    # --- the kernel's requests ---

    def serve(self) -> None:
        """Return when stdin ends, or the file system was unmounted."""
        pending = b''
        while True:
            ready, _, _ = select.select([0, self.fuse], [], [])
            if self.fuse in ready and not self.receive():
                return
            if 0 in ready:
                new = os.read(0, 4096)
                if not new:
                    return
                *lines, pending = (pending + new).split(b'\n')
                for line in lines:
                    print(self.command(line.decode()), flush=True)

    def receive(self) -> bool:
        try:
            raw = os.read(self.fuse, MAX_WRITE + 4096)
        except OSError as e:
            return e.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN)
        _, opcode, unique, node = struct.unpack_from('<IIQQ', raw)
        if opcode in NO_REPLY:
            return True
        if opcode not in OPS:
            self.reply(unique, errno.ENOSYS)
            return True
        request = Request(OPS[opcode], unique, node, raw[40:])
        self.seen[request.op] += 1
        if request.op in self.hold:
            self.held.append(request)
        else:
            self.answer(request)
        return True

    def reply(self, unique: int, error: int, data: bytes = b'') -> None:
        try:
            os.write(self.fuse, struct.pack('<IiQ', 16 + len(data), -error,
                                            unique) + data)
        except FileNotFoundError:
            pass                # the asker has been killed meanwhile

    def answer(self, request: Request) -> None:
        try:
            data = getattr(self, 'do_' + request.op)(request)
        except OSError as e:
            self.reply(request.unique, e.errno or errno.EIO)
        else:
            self.reply(request.unique, 0, data)

    def attr(self, node: int) -> bytes:
        st = os.fstat(self.image)
        mode, size = stat.S_IFREG | 0o600, st.st_size
        if node == ROOT:
            mode, size = stat.S_IFDIR | 0o700, 0
        return struct.pack('<QQQQQQIIIIIIIIII', node, size, st.st_blocks,
                           0, 0, 0, 0, 0, 0, mode, 1, os.getuid(),
                           os.getgid(), 0, 4096, 0)

    def do_init(self, request: Request) -> bytes:
        _, _, readahead = struct.unpack_from('<III', request.data)
        return struct.pack('<IIIIHHIIHHI7I', 7, 31, readahead, 0, 0, 0,
                           MAX_WRITE, 1, 0, 0, 0, *[0] * 7)

    def do_lookup(self, request: Request) -> bytes:
        if request.data != b'disk\0':
            raise OSError(errno.ENOENT, 'no such file')
        return struct.pack('<QQQQII', DISK, 0, 0, 0, 0, 0) + self.attr(DISK)

    def do_getattr(self, request: Request) -> bytes:
        return struct.pack('<QII', 0, 0, 0) + self.attr(request.node)

    def do_setattr(self, request: Request) -> bytes:
        valid, _, _, size = struct.unpack_from('<IIQQ', request.data)
        if valid & FATTR_SIZE:
            os.ftruncate(self.image, size)
        return self.do_getattr(request)

    def do_open(self, _: Request) -> bytes:
        return struct.pack('<QII', 0, FOPEN_DIRECT_IO |
                           FOPEN_PARALLEL_DIRECT_WRITES, 0)

    def do_read(self, request: Request) -> bytes:
        _, offset, size = struct.unpack_from('<QQI', request.data)
        return os.pread(self.image, size, offset)

    def do_write(self, request: Request) -> bytes:
        _, offset, size = struct.unpack_from('<QQI', request.data)
        done = os.pwrite(self.image, request.data[40:40 + size], offset)
        return struct.pack('<II', done, 0)

    def do_fsync(self, _: Request) -> bytes:
        os.fdatasync(self.image)
        return b''

    def do_flush(self, _: Request) -> bytes:
        return b''

    def do_release(self, _: Request) -> bytes:
        return b''

    def do_statfs(self, _: Request) -> bytes:
        return struct.pack('<QQQQQIIII6I', 0, 0, 0, 0, 0, 4096, 255, 4096, 0,
                           *[0] * 6)

    def do_fallocate(self, request: Request) -> bytes:
        _, offset, length, mode = struct.unpack_from('<QQQI', request.data)
        check(libc.fallocate(self.image, mode, ctypes.c_long(offset),
                             ctypes.c_long(length)))
        return b''

    def do_lseek(self, request: Request) -> bytes:
        _, offset, whence = struct.unpack_from('<QQI', request.data)
        return struct.pack('<Q', os.lseek(self.image, offset, whence))


class HeldFile:
    """The file system in a process of its own, which dies with the test"""
    def __init__(self, directory: str, image: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.path = os.path.join(directory, 'disk')
        # pylint: disable=consider-using-with
        self._server = subprocess.Popen(
            [sys.executable, __file__, directory, image], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self._read()
        if line != 'mounted':
            self._server.wait()
            raise PermissionError(line)

    def _read(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()

    def _command(self, line: str) -> str:
        assert self._server.stdin
        print(line, file=self._server.stdin, flush=True)
        return self._read()

    def hold(self, *ops: str) -> None:
        assert self._command(' '.join(['hold', *(ops or ['all'])])) == 'ok'

    def release(self) -> None:
        assert self._command('release') == 'ok'

    def held(self) -> int:
        return int(self._command('held'))

    def seen(self, op: str) -> int:
        return int(self._command(f'seen {op}'))

    def close(self) -> None:
        """End the server: what it held fails."""
        self._server.kill()
        self._server.communicate()
        subprocess.run(['umount', '-l', self.directory], check=False)
        os.rmdir(self.directory)


def main() -> None:
    # Not only at the end of stdin: a process with a thread that hangs keeps
    # its files open, even if it was killed, until this program ends.
    pr_set_pdeathsig = 1
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
    try:
        fs = FileSystem(*sys.argv[1:])
    except OSError as e:
        print(f'cannot mount: {e}', flush=True)
        sys.exit(1)
    print('mounted', flush=True)
    fs.serve()


if __name__ == '__main__':
    main()
