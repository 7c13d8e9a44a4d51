# A guest's driver of a virtio-blk device, over qtest
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import base64
import struct
from typing import List, NamedTuple

import iotests

KIB = 1024


class Request(NamedTuple):
    what: str   # one of VirtioBlk.TYPES
    offset: int = 0
    size: int = 0
    pattern: int = 0


class VirtioBlk:
    """
    A guest's driver of a virtio-blk device that has several queues, each
    served by a thread of QEMU's own.  This is the only way to have one node's
    requests come from several threads at once.
    """
    TYPES = {'read': 0, 'write': 1, 'flush': 4, 'discard': 11,
             'write-zeroes': 13}
    SLOT = 4                        # of the PCI bus
    PORTS = 0xc000
    MOST = 80                       # requests of a queue at once
    MOST_BYTES = 64 * KIB

    # Where things are in a queue's 16 MiB of the guest's memory
    HEADERS = 64 * KIB
    DATA = 1024 * KIB

    def __init__(self, vm: iotests.VM, queues: int):
        self.vm = vm
        self.rings = [(i + 1) << 24 for i in range(queues)]
        self.sent: List[List[Request]] = [[] for _ in self.rings]
        self.seen = [0] * queues
        self.config(0x10, 'l', self.PORTS)
        self.config(4, 'w', 7)      # ports, memory, bus mastering
        self.out(0x12, 'b', 0)
        self.out(0x12, 'b', 3)      # acknowledge, driver
        # Flush, write cache, several queues, discard, write zeroes
        features = int(self.ask(f'inl {self.PORTS}'), 16)
        self.out(4, 'l', features & 0x7a00)
        for i, ring in enumerate(self.rings):
            self.out(0xe, 'w', i)
            self.size = int(self.ask(f'inw {self.PORTS + 0xc}'), 16)
            assert self.size >= 3 * self.MOST
            self.ask(f'memset {ring} {self.DATA} 0')
            self.out(8, 'l', ring >> 12)
        self.avail = 16 * self.size
        self.used = (18 * self.size + 6 + 4095) // 4096 * 4096
        self.out(0x12, 'b', 7)      # ready

    def ask(self, command: str) -> str:
        answer = self.vm.qtest(command).split()
        assert answer and answer[0] == 'OK', answer
        return answer[-1]

    def config(self, offset: int, size: str, value: int) -> None:
        self.ask(f'outl 0xcf8 {0x80000000 | self.SLOT << 11 | offset}')
        self.ask(f'out{size} 0xcfc {value}')

    def out(self, offset: int, size: str, value: int) -> None:
        self.ask(f'out{size} {self.PORTS + offset} {value}')

    def write(self, address: int, data: bytes) -> None:
        self.ask(f'b64write {address} {len(data)} '
                 f'{base64.b64encode(data).decode()}')

    def read(self, address: int, size: int) -> bytes:
        return base64.b64decode(self.ask(f'b64read {address} {size}'))

    def fill(self, queue: int, requests: List[Request]) -> None:
        """Put requests into the ring; the device does not know of them yet."""
        ring = self.rings[queue]
        descriptors = b''
        headers = b''
        heads = b''

        assert len(requests) <= self.MOST
        for i, req in enumerate(requests):
            header = ring + self.HEADERS + i * 32
            data = ring + self.DATA + i * self.MOST_BYTES
            size = req.size
            sector = req.offset // 512

            assert size <= self.MOST_BYTES
            if req.what in ('discard', 'write-zeroes'):
                self.write(data, struct.pack('<QII', sector, size // 512, 0))
                size = 16
                sector = 0
            elif size:
                self.ask(f'memset {data} {size} {req.pattern}')
            headers += struct.pack('<IIQ', self.TYPES[req.what], 0, sector)
            headers += b'\xff' + bytes(15)
            heads += struct.pack('<H', 3 * i)
            # Flags: 1, there is another one; 2, the device writes
            descriptors += struct.pack('<QIHH', header, 16, 1,
                                       3 * i + (1 if size else 2))
            descriptors += struct.pack('<QIHH', data, size,
                                       3 if req.what == 'read' else 1,
                                       3 * i + 2)
            descriptors += struct.pack('<QIHH', header + 16, 1, 2, 0)
        self.write(ring, descriptors)
        self.write(ring + self.HEADERS, headers)
        for i, _ in enumerate(requests):
            place = (self.seen[queue] + i) % self.size
            self.write(ring + self.avail + 4 + 2 * place,
                       heads[2 * i:2 * i + 2])
        self.seen[queue] = (self.seen[queue] + len(requests)) % 65536
        self.sent[queue] = requests

    def kick(self) -> None:
        """Let all queues go, as nearly at once as can be."""
        for ring, seen in zip(self.rings, self.seen):
            self.ask(f'writew {ring + self.avail + 2} {seen}')
        for i, _ in enumerate(self.rings):
            self.out(0x10, 'w', i)

    def scribble(self, queue: int, i: int, pattern: int) -> None:
        """Change the data of a request that the device knows of."""
        data = self.rings[queue] + self.DATA + i * self.MOST_BYTES
        self.ask(f'memset {data} {self.sent[queue][i].size} {pattern}')

    def done(self) -> bool:
        return all(int(self.ask(f'readw {ring + self.used + 2}'), 16) == seen
                   for ring, seen in zip(self.rings, self.seen))

    def errors(self) -> List[Request]:
        """Those of the last requests that have failed."""
        return [req for ring, sent in zip(self.rings, self.sent)
                for i, req in enumerate(sent)
                if self.read(ring + self.HEADERS + i * 32 + 16, 1) != b'\0']

    def data(self, queue: int, i: int) -> bytes:
        return self.read(self.rings[queue] + self.DATA + i * self.MOST_BYTES,
                         self.sent[queue][i].size)
