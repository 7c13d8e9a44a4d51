# State nodes of a quorum, read and written by docs/interop/quorum-state.rst
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from dataclasses import dataclass, field, replace
import os
import struct
from typing import Dict, Iterable, List, Optional, Sequence

PAGE = 4096
SECTOR = 512
HEADER = struct.Struct('<4sIQII16s8s16x')
LABEL = struct.Struct('<8sIIQQ16s16s256sQIBBHHHHHQQQ16s')
RECORD = struct.Struct('<16shBBIQQ24x')
BITS = (PAGE - HEADER.size) * 8

HISTORY = 16
RECORDS = 40
LABEL_NUMBER = 0xffffffff
NULL = bytes(16)

UNUSED, MEMBER, REBUILDING, REMOVED = range(4)
BEHIND, OUT, STATE_FAILED, JOINED, LEFT = 1, 2, 4, 8, 16
CLEAN, MAPS_INVALID, BEGUN = 1, 2, 4


def _crc_table() -> List[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xff]
    return crc ^ 0xffffffff


def seal(page: bytes) -> bytes:
    """With the right checksum"""
    return page[:4] + struct.pack('<I', crc32c(
        page[:4] + bytes(4) + page[8:])) + page[8:]


def is_sealed(page: bytes) -> bool:
    return page[:4] == b'QMQP' and seal(page) == page


def offset_of(number: int, place: int) -> int:
    """Where a place of a page is; that of the label is LABEL_NUMBER."""
    pair = 0 if number == LABEL_NUMBER else 1 + number
    return (2 * pair + place) * PAGE


@dataclass
class Record:
    member: bytes = NULL
    place: int = 0
    status: int = UNUSED
    flags: int = 0
    state_seq: int = 0
    stale_bytes: int = 0

    def pack(self) -> bytes:
        return RECORD.pack(self.member, self.place, self.status, self.flags, 0,
                           self.state_seq, self.stale_bytes)

    @staticmethod
    def unpack(data: bytes) -> 'Record':
        member, place, status, flags, _, seq, stale = RECORD.unpack(data)
        return Record(member, place, status, flags, seq, stale)


@dataclass
class Label:    # pylint: disable=too-many-instance-attributes
    set: bytes = NULL
    member: bytes = NULL
    session: bytes = NULL
    history: List[bytes] = field(default_factory=list)
    opens: int = 1
    seq: int = 0
    layout: int = 1
    flags: int = 0
    places: int = 3
    threshold: int = 2
    old_threshold: int = 0
    config: int = 1
    disk_bytes: int = 0
    max_bytes: int = 0
    intent_shift: int = 0
    stale_shift: int = 0
    digests: bytes = NULL
    records: List[Record] = field(default_factory=list)
    # What no label has, unless a test wants it
    version: int = 1
    incompatible: int = 0

    def lay_out(self) -> None:
        """
        Choose a geometry for @disk_bytes: finer than QEMU's for small disks,
        as readers take it from the label.
        """
        big = self.disk_bytes > (2 ** 63 - 1) // 8
        gib = 1 << 30
        self.max_bytes = self.disk_bytes if big else \
            -(-max(self.disk_bytes, 1) * 4 // gib) * gib
        self.intent_shift, self.stale_shift = 20, 12
        while -(-self.max_bytes >> self.intent_shift) > 1 << 18:
            self.intent_shift += 1
        while -(-self.max_bytes >> self.stale_shift) > 1 << 22:
            self.stale_shift += 1

    def pages(self, record: Optional[int] = None) -> range:
        """Of the stale map of a record, or of the intent map"""
        intent = -(-(-(-self.max_bytes >> self.intent_shift)) // BITS)
        if record is None:
            return range(intent)
        stale = -(-(-(-self.max_bytes >> self.stale_shift)) // BITS)
        first = intent + record * stale
        return range(first, first + stale)

    def size(self) -> int:
        """How long a state node is."""
        return offset_of(self.pages(RECORDS).start, 0)

    def pack(self) -> bytes:
        history = b''.join(self.history[:HISTORY])
        records = b''.join(record.pack() for record in self.records)
        page = HEADER.pack(b'QMQP', 0, self.seq, LABEL_NUMBER, self.layout,
                           self.set, self.session[:8])
        page += LABEL.pack(b'QEMUQST1', self.version, 3008, self.incompatible,
                           0, self.member, self.session, history, self.opens,
                           self.flags, self.intent_shift, self.stale_shift,
                           RECORDS, self.places, self.threshold,
                           self.old_threshold, 0, self.config,
                           self.disk_bytes, self.max_bytes, self.digests)
        return seal((page + records).ljust(PAGE, b'\0'))

    @staticmethod
    def unpack(page: bytes) -> Optional['Label']:
        """None if it is not a label with the right checksum"""
        if not is_sealed(page) or page[64:72] != b'QEMUQST1':
            return None
        _, _, seq, _, layout, set_id, _ = HEADER.unpack(page[:64])
        (_, version, _, incompatible, _, member, session, history, opens,
         flags, intent_shift, stale_shift, _, places, threshold, old_threshold,
         _, config, disk_bytes, max_bytes, digests
         ) = LABEL.unpack(page[64:448])
        ids = [history[i:i + 16] for i in range(0, 16 * HISTORY, 16)]
        return Label(set_id, member, session,
                     [earlier for earlier in ids if earlier != NULL], opens,
                     seq, layout, flags, places, threshold, old_threshold,
                     config, disk_bytes, max_bytes, intent_shift, stale_shift,
                     digests, [Record.unpack(page[i:i + RECORD.size])
                      for i in range(448, 3008, RECORD.size)],
                     version, incompatible)

    def pack_page(self, number: int, seq: int, bits: bytes) -> bytes:
        """A page of maps, written in this session"""
        return seal(HEADER.pack(b'QMQP', 0, seq, number, self.layout, self.set,
                                self.session[:8]) +
                    bits.ljust(PAGE - HEADER.size, b'\0'))


class StateFile:
    """A state node that is a file"""
    def __init__(self, path: str) -> None:
        self.path = path

    def create(self, size: int) -> None:
        with open(self.path, 'wb') as file:
            file.truncate(size)

    def read(self, number: int, place: int) -> bytes:
        with open(self.path, 'rb') as file:
            file.seek(offset_of(number, place))
            return file.read(PAGE)

    def write(self, number: int, place: int, data: bytes) -> None:
        """Of a whole place, or, as by a write that is torn, of its begin"""
        with open(self.path, 'r+b') as file:
            file.seek(offset_of(number, place))
            file.write(data)

    def seqs(self, number: int) -> List[int]:
        """Those of its two places; 0 if there is none, or a damaged one."""
        pages = [self.read(number, place) for place in (0, 1)]
        return [HEADER.unpack(page[:64])[2] if is_sealed(page) else 0
                for page in pages]

    def next_place(self, number: int) -> int:
        """The one to overwrite, which has not the newest contents"""
        seqs = self.seqs(number)
        return 0 if max(seqs) == 0 else seqs.index(min(seqs))

    def put(self, number: int, page: bytes, until: int = PAGE) -> None:
        """
        Write a page as the quorum does, into the older place.  Only @until
        bytes of it arrive.
        """
        self.write(number, self.next_place(number), page[:until])

    def rot(self, offset: int) -> None:
        """A bit of the byte changes."""
        with open(self.path, 'r+b') as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))

    def labels(self) -> List[Optional[Label]]:
        """What its two places have."""
        return [Label.unpack(self.read(LABEL_NUMBER, place))
                for place in (0, 1)]

    def label(self) -> Optional[Label]:
        """The newer one"""
        found = [label for label in self.labels() if label]
        return max(found, key=lambda label: label.seq) if found else None

    def bits(self, record: Optional[int] = None) -> bytes:
        """The intent map, or the stale map of a record: the newest of it"""
        label = self.label()
        assert label
        found = b''
        for number in label.pages(record):
            seqs = self.seqs(number)
            page = self.read(number, seqs.index(max(seqs)))
            found += page[HEADER.size:] if max(seqs) else bytes(BITS // 8)
        return found


def new_id() -> bytes:
    return os.urandom(16)


class StateSet:
    """
    All state nodes of a quorum, and what a quorum would keep of them: it does
    what the specification wants, unless only some nodes are named.
    """
    def __init__(self, paths: Sequence[str], disk_bytes: int,
                 threshold: int = 0) -> None:
        count = len(paths)
        self.files = [StateFile(path) for path in paths]
        self.label = Label(set=new_id(), session=new_id(), places=count,
                           threshold=threshold or count // 2 + 1,
                           disk_bytes=disk_bytes)
        self.label.lay_out()
        self.label.records = [Record(new_id(), i, MEMBER)
                              for i in range(count)]
        self.newest = [0] * count       # the seq that is on each node
        self.pages: Dict[int, bytearray] = {}
        for file in self.files:
            file.create(self.label.size())
        self.save()

    @property
    def records(self) -> List[Record]:
        return self.label.records

    def copy(self) -> 'StateSet':
        """Another one who goes on with the same files"""
        other = StateSet.__new__(StateSet)
        other.files = self.files
        other.label = replace(self.label, records=[
            replace(record) for record in self.records])
        other.newest = list(self.newest)
        other.pages = {number: bytearray(bits)
                       for number, bits in self.pages.items()}
        return other

    def _nodes(self, nodes: Optional[Iterable[int]]) -> List[int]:
        return list(range(len(self.files)) if nodes is None else nodes)

    def next_label(self, node: int) -> Label:
        """What save() would write next"""
        label = replace(self.label, seq=self.label.seq + 1)
        label.member = self.records[node].member
        label.records = [replace(record, state_seq=self.newest[i])
                         for i, record in enumerate(self.records)]
        return label

    def save(self, nodes: Optional[Iterable[int]] = None) -> None:
        """The label"""
        nodes = self._nodes(nodes)
        for node in nodes:
            self.files[node].put(LABEL_NUMBER, self.next_label(node).pack())
        self.label.seq += 1
        for node in nodes:
            self.newest[node] = self.label.seq

    def begin(self, nodes: Optional[Iterable[int]] = None) -> None:
        """A session"""
        self.label.history = [self.label.session, *self.label.history]
        self.label.history = self.label.history[:HISTORY]
        self.label.session = new_id()
        self.label.opens += 1
        self.label.flags &= ~CLEAN
        self.label.flags |= BEGUN
        self.label.seq |= 0xffffffff
        self.save(nodes)

    def end(self, nodes: Optional[Iterable[int]] = None) -> None:
        """Close it well."""
        for number in self.label.pages():
            if number in self.pages:
                self.pages[number] = bytearray(BITS // 8)
                self.save_page(number, nodes)
        self.label.flags |= CLEAN
        self.save(nodes)

    def save_page(self, number: int,
                  nodes: Optional[Iterable[int]] = None) -> None:
        self.label.seq += 1
        page = self.label.pack_page(number, self.label.seq,
                                    bytes(self.pages[number]))
        for node in self._nodes(nodes):
            self.files[node].put(number, page)
            self.newest[node] = self.label.seq

    def _set(self, pages: range, shift: int, offset: int, size: int,
             nodes: Optional[Iterable[int]]) -> None:
        numbers = set()
        for bit in range(offset >> shift, -(-(offset + size) >> shift)):
            number = pages[bit // BITS]
            numbers.add(number)
            bits = self.pages.setdefault(number, bytearray(BITS // 8))
            bits[bit % BITS // 8] |= 1 << bit % 8
        for number in sorted(numbers):
            self.save_page(number, nodes)

    def mark(self, offset: int, size: int,
             nodes: Optional[Iterable[int]] = None) -> None:
        """Writes are under way there."""
        self._set(self.label.pages(), self.label.intent_shift, offset, size,
                  nodes)

    def lack(self, record: int, offset: int, size: int,
             nodes: Optional[Iterable[int]] = None) -> None:
        """A member is stale there."""
        self._set(self.label.pages(record), self.label.stale_shift, offset,
                  size, nodes)
