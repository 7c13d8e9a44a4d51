# An oracle: what a disk may hold, by what was written to it
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import random
import struct
import threading
from typing import FrozenSet, List, Set

BLOCK = 4096


def contents_of(block: int, version: int) -> bytes:
    """No other version of this block, and no other block, has these bytes."""
    return struct.pack('<QQ', version, block) * (BLOCK // 16) if version else \
        bytes(BLOCK)


class Wrong(Exception):
    """A disk has shown what it must not hold."""


Versions = FrozenSet[int]


class Disk:
    """
    What a disk may hold.  A block whose last write was acknowledged has one
    version; a block whose last write has failed may have that version or the
    one before.  A crash may lose what was acknowledged, but not flushed.

    With read-pattern=checked, one replica that has what was acknowledged last
    is enough where a block is known (promise 12): it was acknowledged since the
    node was opened, or read when no other request was under way.
    """
    def __init__(self, blocks: int) -> None:
        self.may: List[Versions] = [frozenset((0,))] * blocks
        self.after_crash: List[Versions] = list(self.may)
        self.next_version = 1
        self.known: Set[int] = set()
        self.losses = 0                 # how often has_lost() was called
        self.lock = threading.Lock()

    def new_version(self) -> int:
        with self.lock:
            self.next_version += 1
            return self.next_version

    def will_write(self, first: int, last: int, version: int) -> int:
        """Returns what has_written() is to be told."""
        with self.lock:
            for block in range(first, last):
                self.may[block] |= {version}
                self.after_crash[block] |= {version}
            self.known.difference_update(range(first, last))
            return self.losses

    def has_written(self, first: int, last: int, version: int,
                    fua: bool = False, losses: int = 0) -> None:
        with self.lock:
            for block in range(first, last):
                # What was acknowledged may already be among what was lost
                if fua or losses == self.losses:
                    self.may[block] = frozenset((version,))
                    self.known.add(block)
                if fua:
                    self.after_crash[block] = self.may[block]

    def before_flush(self, first: int, last: int) -> List[Versions]:
        return self.may[first:last]

    def has_flushed(self, first: int, held: List[Versions]) -> None:
        """What was acknowledged before the flush can't be lost any more."""
        for block, versions in enumerate(held, first):
            self.after_crash[block] = versions

    def has_lost(self) -> None:
        """A flush has failed: that tells of what was not flushed."""
        with self.lock:
            self.losses += 1
            self.known.clear()
            self.may = [may | after for may, after in
                        zip(self.may, self.after_crash)]

    def was_opened(self) -> None:
        """Nothing is known."""
        with self.lock:
            self.known.clear()

    def was_read(self, first: int, last: int) -> None:
        """All of that is known."""
        with self.lock:
            self.known.update(range(first, last))

    def some_known(self, rand: random.Random, count: int) -> List[int]:
        with self.lock:
            return rand.sample(sorted(self.known), count)

    def crash(self) -> None:
        self.may = list(self.after_crash)

    def check(self, first: int, data: bytes, narrow: bool = True) -> None:
        """
        See that @data can be what is at @first.  If @narrow, the disk has
        voted for @data, and from now on may hold nothing else there.
        """
        for block in range(first, first + len(data) // BLOCK):
            place = (block - first) * BLOCK
            found = data[place:place + BLOCK]
            version, = struct.unpack_from('<Q', found)
            if version not in self.may[block] or \
               found != contents_of(block, version):
                raise Wrong(f'block {block} may be one of '
                            f'{sorted(self.may[block])}, but is {version}: '
                            f'{found[:32].hex()}')
            if narrow:
                self.may[block] = frozenset((version,))
