# A guest's load on a virtio-blk device, which knows what it has written
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import random
import threading
import time
from typing import List, Optional

import iotests

from .replay import SEED
from .virtio import Request, VirtioBlk

BLOCK = VirtioBlk.MOST_BYTES


class DeviceLoad(threading.Thread):
    """
    Requests in rounds, several in flight at once, none of which overlaps
    another one of its round.  @memory is what the disk must hold.
    """
    def __init__(self, vm: iotests.VM, memory: bytes) -> None:
        super().__init__()
        self.guest = VirtioBlk(vm, 1)
        self.memory = bytearray(memory)
        self.rand = random.Random(SEED)
        self.rounds = 0
        self.over = False
        self.wrong: Optional[str] = None

    def choose(self) -> List[Request]:
        requests = []
        blocks = range(len(self.memory) // BLOCK)
        for block in self.rand.sample(blocks, 12):
            begin = self.rand.randrange(0, BLOCK, 512)
            size = self.rand.randrange(512, BLOCK - begin + 1, 512)
            requests.append(Request(
                self.rand.choice(('write', 'write', 'read')),
                block * BLOCK + begin, size, self.rand.randrange(1, 256)))
        return requests + [Request('flush')] * (self.rounds % 8 == 0)

    def send(self, requests: List[Request]) -> None:
        """All at once; they must do what they are to."""
        self.guest.fill(0, requests)
        self.guest.kick()
        while not self.guest.done():
            time.sleep(0.0005)
        failed = self.guest.errors()
        if failed:
            raise ValueError(f'round {self.rounds}: {failed}')
        for i, req in enumerate(requests):
            place = slice(req.offset, req.offset + req.size)
            if req.what == 'write':
                self.memory[place] = bytes([req.pattern]) * req.size
            elif req.what == 'read' and \
                    self.guest.data(0, i) != self.memory[place]:
                raise ValueError(f'round {self.rounds}: wrong data in {req}')

    def run(self) -> None:
        try:
            while not self.over:
                self.send(self.choose())
                self.rounds += 1
        except (ValueError, AssertionError) as error:
            self.wrong = str(error)

    def live(self, rounds: int = 3) -> None:
        """Let it do something, which must be right."""
        end = self.rounds + rounds
        with iotests.Timeout(20, 'the guest hangs'):
            while self.rounds < end and not self.wrong:
                time.sleep(0.001)
        assert not self.wrong, self.wrong

    def stop(self) -> None:
        """See that the disk is as it must be, all of it."""
        self.over = True
        self.join()
        assert not self.wrong, self.wrong
        self.send([Request('read', offset, BLOCK)
                   for offset in range(0, len(self.memory), BLOCK)])
