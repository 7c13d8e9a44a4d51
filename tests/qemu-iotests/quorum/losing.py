# An NBD server that loses what it has not been told to flush
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import signal
import sys
from typing import Callable, Dict, Iterator, List, Sequence

from .nbd import (
    FLUSH, HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_WRITE_ZEROES, WRITE,
    WRITE_ZEROES, HeldNBD, Offer, Request)
from .servers import Address

SECTOR = 512
FUA = 1

CACHING = Offer(flags=HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_WRITE_ZEROES,
                fence=True)

# Tells of a sector whether it has got to the medium though it was not flushed
Survives = Callable[[int], bool]


def none(_sector: int) -> bool:
    return False


def all_of_them(_sector: int) -> bool:
    return True


class LosingNBD(HeldNBD):
    """
    A server with a volatile cache.  What it has acknowledged is in @image;
    what of that is on the medium, too, because it was flushed or written with
    FUA, outlives a restart.
    """
    def __init__(self, path: Address, image: bytes, offer: Offer = CACHING
                 ) -> None:
        # What the medium has of the sectors that are only in the cache
        self._medium: Dict[int, bytes] = {}
        # The same of those that could not be flushed, and are not dirty now
        self._doomed: Dict[int, bytes] = {}
        self._down = False
        self._killed = False        # since the last connection began
        super().__init__(path, image, offer)

    def lose_cache(self, survives: Survives = none) -> None:
        """
        As a disk does whose flush has failed.  For a request's fail(), too,
        which is called with the lock held.
        """
        with self._changed:
            self.evict()
            for sector, old in self._medium.items():
                if not survives(sector):
                    start = sector * SECTOR
                    self.image[start:start + len(old)] = old
            self._write_back(self._medium)
            self._medium.clear()

    def doom_cache(self) -> None:
        """
        As a page cache after a failed fsync(): it shows what the medium has
        not, until evict(), and does not try to write it again.
        """
        with self._changed:
            self._doomed.update(self._medium)
            self._medium.clear()

    def evict(self) -> None:
        with self._changed:
            for sector, old in self._doomed.items():
                start = sector * SECTOR
                self.image[start:start + len(old)] = old
            self._doomed.clear()

    def kill(self, survives: Survives = none) -> None:
        """Lose the cache and the connection; take none until start()."""
        with self._changed:
            self._down = self._killed = True
            self.lose_cache(survives)
            self.held.clear()
            self.disconnect()

    def start(self) -> None:
        with self._changed:
            self._down = False
            self._changed.notify_all()

    def restart(self, survives: Survives = none) -> None:
        self.kill(survives)
        self.start()

    def stop(self) -> None:
        self.start()
        super().stop()

    def _write_back(self, sectors: Dict[int, bytes]) -> None:
        """What is in @image there is on the medium from now on."""

    def _handshake(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._down)
            self._killed = False
        super()._handshake()

    def _answer(self, request: Request) -> None:
        if self._killed:
            raise EOFError('received before the server was killed')
        super()._answer(request)

    def _do(self, request: Request) -> bytes:
        if request.kind in (WRITE, WRITE_ZEROES):
            for sector in self._sectors(request):
                start = sector * SECTOR
                old = self._doomed.pop(sector, None) or \
                    bytes(self.image[start:start + SECTOR])
                self._medium.setdefault(sector, old)
        data = super()._do(request)
        if request.kind == FLUSH:
            self._write_back(self._medium)
            self._medium.clear()
        elif request.flags & FUA:
            self._write_back({sector: self._medium.pop(sector)
                              for sector in self._sectors(request)
                              if sector in self._medium})
        return data

    @staticmethod
    def _sectors(request: Request) -> Iterator[int]:
        end = request.offset + request.length
        return iter(range(request.offset // SECTOR,
                          (end + SECTOR - 1) // SECTOR))


class LosingFileNBD(LosingNBD):
    """The medium is a file, which is all that is left when the process dies"""
    def __init__(self, path: Address, file: str) -> None:
        # pylint: disable=consider-using-with
        self._file = open(file, 'r+b', buffering=0)
        super().__init__(path, self._file.read())

    def _write_back(self, sectors: Dict[int, bytes]) -> None:
        for sector in sectors:
            start = sector * SECTOR
            os.pwrite(self._file.fileno(), self.image[start:start + SECTOR],
                      start)


def losing_command(image: str, pid_file: str, address: Address,
                   prefix: Sequence[str] = ()) -> List[str]:
    """
    For a Server: a process that serves @image, and loses its cache when it is
    killed, but not by SIGTERM.  After SIGUSR1 it answers no flush any more.
    """
    where = [address] if isinstance(address, str) else \
        [address[0], str(address[1])]
    return [*prefix, sys.executable, '-m', 'quorum.losing', image, pid_file,
            *where]


def main() -> None:
    image, pid_file, host, *port = sys.argv[1:]
    signals = [signal.SIGTERM, signal.SIGUSR1]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = LosingFileNBD((host, int(port[0])) if port else host, image)
    with open(pid_file, 'w', encoding='ascii') as file:
        file.write(f'{os.getpid()}\n')
    while signal.sigwait(signals) == signal.SIGUSR1:
        server.hold = lambda request: request.kind == FLUSH
    server.kill(all_of_them)
    # At once, for what it took now would be lost
    os._exit(0)         # pylint: disable=protected-access


if __name__ == '__main__':
    main()
