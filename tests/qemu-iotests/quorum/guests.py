# Guests that know what they have written
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from collections import Counter
import random
import threading
import time
from typing import Callable, Counter as CounterOf, Optional, Tuple

from .nbd import NBD, NBDError
from .oracle import BLOCK, Disk, Wrong, contents_of
from .replay import SEED


class Guest(threading.Thread):
    """
    Sends random requests for the blocks [first, last) of a disk, on a
    connection of its own, and checks what it reads.
    """
    # pylint: disable=too-many-instance-attributes

    def __init__(self, disk: Disk, first: int, last: int,
                 socket_path: str, name: str) -> None:
        super().__init__(name=name)
        self.disk = disk
        self.first = first
        self.last = last
        self.rand = random.Random(f'{SEED} {name}')
        self.nbd = NBD(socket_path)
        self.over = False
        self.fua = 0.1              # which part of the writes have it
        self.tolerant = False       # are errors, and lost connections, fine?
        self.awake = threading.Lock()
        self.lost = False           # the connection
        self.done = 0               # requests
        self.errors = 0             # those that have failed
        self.failed: CounterOf[str] = Counter()     # the same, of each kind
        self.doing = ''
        self.wrong: Optional[str] = None

    def some(self) -> Tuple[int, int]:
        first = self.rand.randrange(self.first, self.last)
        return first, min(self.last,
                          first + self.rand.choice((1, 1, 1, 2, 5, 16, 40)))

    def write(self, first: int, last: int, zero: bool = False) -> None:
        self.doing = 'write'
        version = 0 if zero else self.disk.new_version()
        fua = self.rand.random() < self.fua
        flags = NBD.FUA if fua else 0
        losses = self.disk.will_write(first, last, version)
        if zero:
            flags |= self.rand.choice((0, NBD.NO_HOLE))
            self.nbd.zero(first * BLOCK, (last - first) * BLOCK, flags)
        else:
            self.nbd.write(first * BLOCK, b''.join(
                contents_of(block, version) for block in range(first, last)),
                flags)
        self.disk.has_written(first, last, version, fua, losses)

    def read(self, first: int, last: int) -> None:
        self.doing = 'read'
        data = self.nbd.read(first * BLOCK, (last - first) * BLOCK)
        self.disk.check(first, data)

    def flush(self) -> None:
        self.doing = 'flush'
        held = self.disk.before_flush(self.first, self.last)
        self.nbd.flush()
        self.disk.has_flushed(self.first, held)

    def manages(self, what: Callable[..., None], *args: int) -> bool:
        """Do something, and tell whether it has not failed."""
        try:
            what(*args)
        except NBDError:
            self.errors += 1
            self.failed[self.doing] += 1
            return False
        return True

    def one(self) -> None:
        what = self.rand.random()
        if what < 0.45:
            self.write(*self.some())
        elif what < 0.85:
            self.read(*self.some())
        elif what < 0.93:
            self.write(*self.some(), zero=True)
        else:
            self.flush()

    def read_all(self) -> None:
        for first in range(self.first, self.last, 64):
            self.read(first, min(first + 64, self.last))

    def run(self) -> None:
        while not self.over and not self.wrong:
            with self.awake:
                if not self.lost:
                    self.step()
            time.sleep(0.0005)

    def step(self) -> None:
        try:
            try:
                self.one()
            except NBDError:
                self.errors += 1
                self.failed[self.doing] += 1
                if not self.tolerant:
                    raise
            except (EOFError, OSError):
                self.lost = True
                if not self.tolerant:
                    raise
        except (EOFError, OSError, NBDError, Wrong) as error:
            self.wrong = f'{self.name}: {self.doing}: {error!r}'
        self.done += 1

    def stop(self, hurry: bool = False) -> None:
        self.over = True
        if hurry:
            self.nbd.shutdown()     # what it waits for may never come
        self.join()
        self.nbd.close()
