# The digests node of a quorum, by docs/interop/quorum-digests.rst
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from dataclasses import dataclass
import hashlib
import struct
from typing import List, Optional

from .statefile import NULL, PAGE, seal

HEADER = struct.Struct('<4sIQQ8x8sIIIIQQ16s16s16s8x192s')
PAGE_HEADER = struct.Struct('<4sIQQ8x')
MAGIC, HEADER_MAGIC = b'QMQD', b'QEMUQDG1'
HEADER_NUMBER = 0xffffffffffffffff
HEADERS = 2 * PAGE

UNIT = 4096
UNITS = 512                     # of a page
COVERS = UNITS * UNIT
DIGEST = 7

XXH3, SHA256 = range(2)
UNKNOWN, ZEROES, RESERVED = range(3)


def is_whole(page: bytes) -> bool:
    return page[:4] == MAGIC and seal(page) == page


def size_of(disk_bytes: int) -> int:
    """How long the node of a disk has to be"""
    return HEADERS + -(-disk_bytes // COVERS) * PAGE


@dataclass
class Header:       # pylint: disable=too-many-instance-attributes
    page_key: int
    algorithm: int
    seq: int
    disk_bytes: int
    set: bytes
    stamp: bytes
    previous: bytes = NULL
    key: bytes = bytes(192)
    version: int = 1
    unit_shift: int = 12
    digest_bits: int = 56

    def pack(self) -> bytes:
        return seal(HEADER.pack(
            MAGIC, 0, HEADER_NUMBER, self.page_key, HEADER_MAGIC, self.version,
            self.algorithm, self.unit_shift, self.digest_bits, self.seq,
            self.disk_bytes, self.set, self.stamp, self.previous, self.key
        ).ljust(PAGE, b'\0'))

    @staticmethod
    def unpack(page: bytes) -> Optional['Header']:
        """None if it is not a header of this version"""
        (_, _, number, page_key, magic, version, algorithm, unit_shift,
         digest_bits, seq, disk_bytes, set_id, stamp, previous, key
         ) = HEADER.unpack(page[:HEADER.size])
        if not is_whole(page) or (number, magic, version, unit_shift,
                                  digest_bits) != (
                HEADER_NUMBER, HEADER_MAGIC, 1, 12, 56) or \
           algorithm > SHA256 or disk_bytes >> 63 or not page_key or \
           NULL in (set_id, stamp):
            return None
        return Header(page_key, algorithm, seq, disk_bytes, set_id, stamp,
                      previous, key)

    def digest_of(self, data: bytes) -> int:
        """Of a unit; only with SHA-256"""
        assert self.algorithm == SHA256 and len(data) == UNIT
        if not any(data):
            return ZEROES
        found = hashlib.sha256(self.key[:32] + data).digest()
        digest = int.from_bytes(found[:8], 'big') >> 8
        return digest if digest > RESERVED else digest + 3


class Digests:
    """What is on a digests node, of which @image is the contents"""
    def __init__(self, image: bytearray) -> None:
        self.image = image

    def place(self, place: int) -> Optional[Header]:
        return Header.unpack(bytes(self.image[place * PAGE:][:PAGE]))

    def newest_place(self) -> int:
        """-1: there is no header"""
        found = [(header.seq, -place) for place, header in
                 ((place, self.place(place)) for place in (0, 1)) if header]
        return -max(found)[1] if found else -1

    def header(self) -> Optional[Header]:
        place = self.newest_place()
        return None if place < 0 else self.place(place)

    def change_header(self, **values: object) -> None:
        """Of the newest one, where it is"""
        place, header = self.newest_place(), self.header()
        assert header
        for name, value in values.items():
            setattr(header, name, value)
        self.image[place * PAGE:(place + 1) * PAGE] = header.pack()

    @staticmethod
    def offset_of(page: int) -> int:
        return HEADERS + page * PAGE

    def page(self, number: int) -> bytes:
        return bytes(self.image[self.offset_of(number):][:PAGE])

    def put_page(self, number: int, page: bytes) -> None:
        begin = self.offset_of(number)
        self.image[begin:begin + PAGE] = page

    def digests(self, number: int) -> List[int]:
        """What the node says of the units of a page"""
        header, page = self.header(), self.page(number)
        if not header or not is_whole(page) or \
           PAGE_HEADER.unpack(page[:PAGE_HEADER.size])[2:] != (
                   number, header.page_key):
            return [UNKNOWN] * UNITS
        begin = PAGE_HEADER.size
        found = [int.from_bytes(page[i:i + DIGEST], 'little') for i in range(
            begin, begin + UNITS * DIGEST, DIGEST)]
        return [UNKNOWN if digest == RESERVED else digest for digest in found]

    def known(self, offset: int, size: int) -> int:
        """How many units of a range of the disk it knows"""
        return sum(digest != UNKNOWN for digest in self.all_of(offset, size))

    def all_of(self, offset: int, size: int) -> List[int]:
        """The digests of the units of a range of the disk"""
        first, end = offset // UNIT, (offset + size) // UNIT
        pages = range(first // UNITS, -(-end // UNITS))
        found = [digest for page in pages for digest in self.digests(page)]
        begin = first - first // UNITS * UNITS
        return found[begin:begin + end - first]
