# What block nodes may hold after a crash, by what was written to them and when
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A log of each node's own, as of blklogwrites, does not tell which of two
# writes to different nodes came first, and lists a write when it has ended.
# What is promised of a crash is about both.  So the servers here write one log
# together: of each request, when it came, and when it was done.

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
import random
import struct
import threading
import time
from typing import Dict, FrozenSet, Iterator, List, Optional

from .losing import CACHING, FUA, SECTOR
from .nbd import FLUSH, TRIM, WRITE, WRITE_ZEROES, HeldNBD, Request
from .servers import Address

Sectors = Dict[int, bytes]      # those that are not zero, by number
Versions = FrozenSet[int]

CHANGES = WRITE, WRITE_ZEROES, TRIM


class Crash(Enum):
    KILL = 'what was done stays'
    POWER = 'what was not flushed may be lost'


class Clock:
    """Puts all that happens, anywhere, into one order"""
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0

    def tick(self) -> int:
        with self._lock:
            self.now += 1
            return self.now


@dataclass
class Op:
    """A request, to a server or of a guest"""
    kind: int
    offset: int
    data: bytes
    fua: bool
    start: int
    end: Optional[int] = None       # when it was done, if it was

    def done(self, at: int) -> bool:
        return self.end is not None and self.end < at


def is_safe(op: Op, flushes: List[Op], crash: Crash, at: int) -> bool:
    """Whether what was done can't get lost any more by then"""
    if not op.done(at) or op.end is None:
        return False
    return crash == Crash.KILL or op.fua or any(
        op.end < flush.start and flush.done(at) for flush in flushes)


@dataclass
class NodeLog:
    """What was written to a node"""
    base: Sectors
    ops: List[Op]

    def crashed(self, at: int, crash: Crash, rand: random.Random) -> Sectors:
        """
        What is there if everything ends just before @at: what is safe, and of
        the rest all, nothing, or some sectors
        """
        found = dict(self.base)
        flushes = [op for op in self.ops if op.kind == FLUSH]
        likely = rand.choice((0.0, 0.5, 1.0))
        for op in self.ops:
            if op.kind == FLUSH or op.start >= at:
                continue
            safe = is_safe(op, flushes, crash, at)
            whole = rand.random() < likely
            torn = rand.random() < 0.3
            for i in range(0, len(op.data), SECTOR):
                sector, data = (op.offset + i) // SECTOR, op.data[i:i + SECTOR]
                there = rand.random() < 0.5 if torn else whole
                if safe or there:
                    found[sector] = data
        return found


class LoggingNBD(HeldNBD):
    """
    A server that takes its time with all that changes something, and logs it.
    Meanwhile it gets more, and does all that in any order.
    """
    # pylint: disable=too-many-instance-attributes

    def __init__(self, path: Address, base: Sectors, size: int, clock: Clock,
                 rand: random.Random, slow: float) -> None:
        self.log = NodeLog(base, [])
        self.slow = slow            # seconds that a request takes, at most
        self.wants_error = False
        self._clock = clock
        self._rand = rand
        self._running: Dict[int, Op] = {}
        self._over = False
        image = bytearray(size)
        for sector, data in base.items():
            image[sector * SECTOR:(sector + 1) * SECTOR] = data
        super().__init__(path, image, CACHING)
        self.hold = self._begin
        self.fail = lambda request: self.wants_error and \
            request.kind in CHANGES
        self._worker = threading.Thread(target=self._work)
        self._worker.start()

    def _begin(self, request: Request) -> bool:
        if request.kind not in (*CHANGES, FLUSH):
            return False
        op = Op(request.kind, request.offset,
                request.data if request.kind == WRITE
                else bytes(request.length),
                bool(request.flags & FUA), self._clock.tick())
        self.log.ops.append(op)
        self._running[request.cookie] = op
        return True

    def _work(self) -> None:
        while not self._over:
            with self._changed:
                self._changed.wait_for(lambda: self.held or self._over)
            # So that more can come
            if self._rand.random() < 0.5:
                time.sleep(self._rand.random() * self.slow)
            with self._changed:
                if self.held:
                    request = self.held.pop(
                        self._rand.randrange(len(self.held)))
                    try:
                        self._answer(request)
                    except OSError:
                        pass

    def _do(self, request: Request) -> bytes:
        data = super()._do(request)
        op = self._running.pop(request.cookie, None)
        if op:
            op.end = self._clock.tick()
        return data

    def stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._worker.join()
        super().stop()


def sector_of(version: int, sector: int) -> bytes:
    """No other version, and no other sector, has these bytes."""
    return struct.pack('<QQ', version, sector) * (SECTOR // 16) \
        if version else bytes(SECTOR)


def version_of(data: bytes, sector: int) -> int:
    """The version that a sector has; -1 if it is none of those"""
    version, = struct.unpack_from('<Q', data)
    return version if data == sector_of(version, sector) else -1


@dataclass
class GuestOp:
    """A write; or a read, which showed some of the versions of the base"""
    version: int
    op: Op
    sectors: range


@dataclass
class GuestLog:
    """What guests have done, and what they may find after a crash"""
    base: Dict[int, Versions]       # what each sector may have had before
    writes: List[GuestOp] = field(default_factory=list)
    reads: Dict[int, List[GuestOp]] = field(
        default_factory=lambda: defaultdict(list))      # by sector
    flushes: List[Op] = field(default_factory=list)

    def sectors(self) -> Iterator[int]:
        return iter(self.base)

    def may_have(self, at: int, crash: Crash) -> Dict[int, Versions]:
        """
        What each sector may have, if everything ends just before @at: what
        is safe, or any write that did not end before that began.
        """
        begun = [write for write in self.writes if write.op.start < at]
        safe = [write for write in begun
                if is_safe(write.op, self.flushes, crash, at)]
        found = {}
        for sector, versions in self.base.items():
            for read in self.reads[sector]:
                if is_safe(read.op, self.flushes, crash, at):
                    versions &= {read.version}
            here = [write for write in safe if sector in write.sectors]
            if here:
                versions = frozenset()
            versions |= {
                write.version for write in begun if sector in write.sectors
                and not any(write.op.done(other.op.start) for other in here)}
            found[sector] = versions
        return found
