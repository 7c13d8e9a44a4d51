# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What is in a state node

All of this is by docs/interop/quorum-state.rst, which explains the terms.
"""

import os
import re
import struct
from typing import (
    BinaryIO,
    Dict,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Union,
)
import uuid

from .basics import Dictionary, Failure


PAGE = 4096
PAGE_HEADER = struct.Struct('<4sIQII16s8s16x')
LABEL = struct.Struct('<8sIIQQ16s16s256sQIBBHHHHHQQQ16s')
RECORD = struct.Struct('<16shBBIQQ24x')
LABEL_END = 3008
LABEL_NUMBER = 0xffffffff
PAYLOAD_BITS = (PAGE - PAGE_HEADER.size) * 8
RECORDS = 40
HISTORY = 16
NULL_ID = bytes(16)
STATUSES = ('unused', 'member', 'rebuilding', 'removed')
MEMBER, REBUILDING, REMOVED = 1, 2, 3
LABEL_FLAGS = ('clean', 'maps-invalid', 'begun')
RECORD_FLAGS = ('behind', 'out', 'state-failed', 'joined', 'left')
PAIR = 'AB'
MAX_RANGES = 1000

Ranges = List[Tuple[int, int]]      # begin and end, in order


def make_crc_table() -> List[int]:
    result = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        result.append(value)
    return result


CRC_TABLE = make_crc_table()


def page_crc(page: bytes) -> int:
    """CRC-32C, with 0 where it is kept"""
    crc = 0xffffffff
    for byte in page[:4] + bytes(4) + page[8:]:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xff]
    return crc ^ 0xffffffff


def id_text(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


def flag_names(flags: int, names: Tuple[str, ...]) -> List[str]:
    return [name for i, name in enumerate(names) if flags >> i & 1]


def divide_up(dividend: int, shift: int) -> int:
    return -(-dividend >> shift)


def state_size(disk_bytes: int, records: int = RECORDS) -> int:
    """How long a state node of a new set is, with space for @records"""
    most = (1 << 63) - 1
    max_bytes = disk_bytes if disk_bytes > most // 8 else \
        divide_up(max(4 * disk_bytes, 256 << 30), 30) << 30

    def pages(shift: int, bits: int) -> int:
        while divide_up(max_bytes, shift) > 1 << bits:
            shift += 1
        return -(-divide_up(max_bytes, shift) // PAYLOAD_BITS)

    return 2 * PAGE * (1 + pages(20, 18) + records * pages(12, 22))


def find_ranges(bits: bytes, shift: int, end: int) -> Ranges:
    """What the bits of a map stand for, up to the end of the disk"""
    count = min(divide_up(end, shift), len(bits) * 8)
    number = int.from_bytes(bits, 'little') & (1 << count) - 1
    return [(match.start() << shift, min(match.end() << shift, end))
            for match in re.finditer('1+', f'{number:b}'[::-1])]


def merge_ranges(*lists: Ranges) -> Ranges:
    result: Ranges = []
    for begin, end in sorted(sum(lists, [])):
        if result and begin <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((begin, end))
    return result


def most_overlapping(lists: List[Ranges]) -> int:
    """How many of them have a place in common, at most"""
    most = depth = 0
    for _, step in sorted(edge for ranges in lists for begin, end in ranges
                          for edge in ((begin, 1), (end, -1))):
        depth += step
        most = max(most, depth)
    return most


def size_of(ranges: Ranges) -> int:
    return sum(end - begin for begin, end in ranges)


def describe_ranges(ranges: Ranges) -> List[Dictionary]:
    return [{'offset': begin, 'bytes': end - begin}
            for begin, end in ranges[:MAX_RANGES]]


class Page(NamedTuple):
    """What is in a place, if it is whole"""
    seq: int
    layout: int
    set: bytes
    session: bytes
    data: bytes


class Record(NamedTuple):
    """What a label says of a member"""
    number: int
    member: bytes
    place: int
    status: int
    flags: List[str]
    state_seq: int
    stale_bytes: int


class NewerVersion(Exception):
    """The label is of one."""


class Label:
    """A label; ValueError if it has what can't be, so that it is invalid"""
    member: bytes
    session: bytes
    opens: int
    intent_shift: int
    stale_shift: int
    places: int
    threshold: int
    old_threshold: int
    config: int
    disk_bytes: int
    max_bytes: int
    digests: bytes

    def __init__(self, page: Page) -> None:
        self.page = page
        self.set = page.set
        self.seq = page.seq
        self.layout = page.layout
        (magic, version, length, incompatible, _, self.member, self.session,
         history, self.opens, flags, self.intent_shift, self.stale_shift,
         capacity, self.places, self.threshold, self.old_threshold, _,
         self.config, self.disk_bytes, self.max_bytes, self.digests
         ) = LABEL.unpack_from(page.data, PAGE_HEADER.size)
        if magic != b'QEMUQST1':
            raise ValueError('its magic is wrong')
        if version != 1 or incompatible:
            raise NewerVersion(f'version {version}, incompatible features '
                               f'{incompatible:#x}')
        ids = [history[i:i + 16] for i in range(0, len(history), 16)]
        self.history = [earlier for earlier in ids if earlier != NULL_ID]
        self.flags = flag_names(flags, LABEL_FLAGS)
        begin = LABEL_END - RECORDS * RECORD.size
        unpacked = RECORD.iter_unpack(page.data[begin:LABEL_END])
        flags_known = flags < 1 << len(LABEL_FLAGS)
        self.records = []
        for i, (member, place, status, bits, _, seq, stale) in \
                enumerate(unpacked):
            if status:
                flags_known = flags_known and bits < 1 << len(RECORD_FLAGS)
                self.records.append(Record(
                    i, member, place, status, flag_names(bits, RECORD_FLAGS),
                    seq, stale))
        if (length, capacity) != (LABEL_END, RECORDS) or not flags_known:
            raise ValueError('its length, capacity or flags are wrong')
        self._check()

    def _check(self) -> None:
        if NULL_ID in (self.set, self.member, self.session) or \
           self.page.session != self.session[:8]:
            raise ValueError('an id of it is wrong')
        if not 1 <= self.threshold <= self.places <= 32767 or \
           self.old_threshold > 32767:
            raise ValueError('its threshold or places are wrong')
        if not (max(self.disk_bytes, 1) <= self.max_bytes < 1 << 63 and
                20 <= self.intent_shift <= 62 and
                12 <= self.stale_shift <= self.intent_shift and
                divide_up(self.max_bytes, self.intent_shift) <= 1 << 18 and
                divide_up(self.max_bytes, self.stale_shift) <= 1 << 22):
            raise ValueError('its geometry is wrong')
        taken: Set[object] = set()
        for record in self.records:
            lowest, highest = (-1, -1) if record.status == REMOVED else \
                (0, self.places - 1)
            wrong = {'joined' if record.status == REMOVED else 'left'} \
                if self.old_threshold else {'joined', 'left'}
            if not (record.status < len(STATUSES) and
                    record.member != NULL_ID and
                    not wrong & set(record.flags) and
                    lowest <= record.place <= highest) or \
               taken & {record.member, record.place}:
                raise ValueError(f'its record {record.number} is wrong')
            taken |= {record.member, record.place} - {-1}

    @property
    def clean(self) -> bool:
        return 'clean' in self.flags

    @property
    def maps_invalid(self) -> bool:
        return 'maps-invalid' in self.flags

    def map_pages(self, record: Optional[int] = None) -> range:
        """The pages of the intent map, or of the stale map of a record"""
        intent, stale = (-(-divide_up(self.max_bytes, shift) // PAYLOAD_BITS)
                         for shift in (self.intent_shift, self.stale_shift))
        if record is None:
            return range(intent)
        first = intent + record * stale
        return range(first, first + stale)

    def shift(self, record: Optional[int]) -> int:
        return self.intent_shift if record is None else self.stale_shift

    def accepts(self, page: Page) -> bool:
        """Whether a page of maps is one of its lineage"""
        return (page.set, page.layout) == (self.set, self.layout) and \
            page.session in {earlier[:8] for earlier in
                             [self.session, *self.history]}

    def uses(self, number: int) -> bool:
        """Whether a page is one of a map that means something"""
        return number in self.map_pages() or any(
            number in self.map_pages(record.number)
            for record in self.records)

    def members(self) -> List[Record]:
        return [record for record in self.records
                if record.status in (MEMBER, REBUILDING)]

    def old_members(self) -> List[Record]:
        """Those before the last change, if that need not be durable yet"""
        return [record for record in self.records
                if self.old_threshold and 'joined' not in record.flags and
                (record.status in (MEMBER, REBUILDING) or
                 'left' in record.flags)]

    def find(self, member: bytes) -> Optional[Record]:
        for record in self.records:
            if record.member == member:
                return record
        return None

    def is_very_old(self, newer: 'Label') -> bool:
        """Whether @newer has forgotten its session"""
        return self.session not in (newer.session, *newer.history) and \
            newer.opens - self.opens > HISTORY

    def follows(self, other: 'Label') -> bool:
        if self.session == other.session:
            return self.seq >= other.seq
        return other.session in self.history or other.is_very_old(self)

    def data(self) -> Dictionary:
        return {
            'set': id_text(self.set), 'member': id_text(self.member),
            'session': id_text(self.session),
            'history': [id_text(earlier) for earlier in self.history],
            'opens': self.opens, 'seq': self.seq, 'flags': self.flags,
            'layout': self.layout, 'config': self.config,
            'places': self.places, 'threshold': self.threshold,
            'old-threshold': self.old_threshold or None,
            'disk-bytes': self.disk_bytes, 'max-bytes': self.max_bytes,
            'intent-shift': self.intent_shift,
            'stale-shift': self.stale_shift,
            'digests': None if self.digests == NULL_ID else
            id_text(self.digests),
            'intent-pages': len(self.map_pages()),
            'stale-pages': len(self.map_pages(0)),
        }


class StateNode:
    """A file that is one, and what is in it"""
    def __init__(self, path: str) -> None:
        self.path = path
        self.label: Optional[Label] = None
        self.newest: Optional[int] = None
        self.labels: List[Dictionary] = []
        # Of a page of maps: both places, None if blank, False if damaged
        self.pages: Dict[int, List[Union[Page, None, bool]]] = {}
        self.error = ''
        try:
            with open(path, 'rb') as file:
                self.size = file.seek(0, os.SEEK_END)
                self._load_labels(file)
                if self.label:
                    self._load_pages(file, self.label)
        except OSError as error:
            raise Failure(f"cannot read '{path}': {error.strerror}") from None

    @staticmethod
    def _load(file: BinaryIO, pair: int, number: int
              ) -> List[Union[Page, None, bool]]:
        found: List[Union[Page, None, bool]] = []
        file.seek(pair * 2 * PAGE)
        for _ in PAIR:
            data = file.read(PAGE)
            if not data.strip(b'\0'):
                found.append(None)
                continue
            found.append(False)
            if len(data) == PAGE:
                magic, crc, seq, own, layout, set_id, session = \
                    PAGE_HEADER.unpack_from(data)
                if (magic, own, crc) == (b'QMQP', number, page_crc(data)):
                    found[-1] = Page(seq, layout, set_id, session, data)
        return found

    def _load_labels(self, file: BinaryIO) -> None:
        for place, page in enumerate(self._load(file, 0, LABEL_NUMBER)):
            data: Dictionary = {'place': PAIR[place], 'condition': 'blank'}
            self.labels.append(data)
            try:
                if isinstance(page, Page):
                    data['seq'] = page.seq
                    label = Label(page)
                    data['condition'] = 'valid'
                    if not self.label or label.seq > self.label.seq:
                        self.label, self.newest = label, place
                elif page is False:
                    raise ValueError('its checksum, magic or number is wrong')
            except NewerVersion as error:
                data.update({'condition': 'newer', 'error': str(error)})
            except ValueError as error:
                data.update({'condition': 'damaged', 'error': str(error)})
        conditions = [data['condition'] for data in self.labels]
        self.condition = 'valid' if self.label else \
            'newer' if 'newer' in conditions else \
            'blank' if conditions == ['blank', 'blank'] else 'damaged'

    @property
    def unreadable(self) -> bool:
        """QEMU does not take it for damaged: its data may come back."""
        return self.size < 2 * PAGE

    def _load_pages(self, file: BinaryIO, label: Label) -> None:
        used = label.map_pages(1 + max((record.number for record in
                                        label.records), default=-1)).start
        if self.size < (1 + used) * 2 * PAGE:
            self.condition = 'damaged'
            self.error = f'it is too short: {self.size} bytes, and should ' \
                f'have {(1 + used) * 2 * PAGE}'
            self.label = None
            return
        for number in range(min(label.map_pages(RECORDS).start,
                                self.size // (2 * PAGE) - 1)):
            places = self._load(file, 1 + number, number)
            if places != [None, None]:
                self.pages[number] = places

    def page(self, number: int, label: Label) -> Optional[Tuple[int, bytes]]:
        """Its seq and bits; None if that is unknown here"""
        places = self.pages.get(number)
        if not places:
            return 0, bytes(PAYLOAD_BITS // 8)
        valid = [page for page in places if isinstance(page, Page) and
                 label.accepts(page)]
        if not valid:
            # Behind another label, no page of this layout has ever counted
            return (0, bytes(PAYLOAD_BITS // 8)) if self.label and \
                self.label.layout != label.layout else None
        newest = max(valid, key=lambda page: page.seq)
        return newest.seq, newest.data[PAGE_HEADER.size:]

    def highest_seq(self, label: Label) -> int:
        """Of its label, and of the pages in the lineage of @label"""
        seqs = [page.seq for places in self.pages.values() for page in places
                if isinstance(page, Page) and label.accepts(page)]
        return max(seqs + [self.label.seq] if self.label else seqs, default=0)

    def count(self, label: Label) -> Dictionary:
        """The pages of maps, by how they are"""
        unknown = [number for number in self.pages
                   if self.page(number, label) is None]
        # What an earlier layout has left where no record is used
        left = [number for number in unknown
                if not label.uses(number) and False not in self.pages[number]]
        used = len(self.pages) - len(left)
        return {
            'valid': used - (len(unknown) - len(left)),
            'blank': label.map_pages(RECORDS).start - used,
            'unknown': len(unknown) - len(left),
            'damaged-places': sum(places.count(False) for places
                                  in self.pages.values()),
        }

    @property
    def well(self) -> bool:
        if not self.label or any(data['condition'] in ('damaged', 'newer')
                                 for data in self.labels):
            return False
        pages = self.count(self.label)
        return not pages['damaged-places'] and not pages['unknown']

    def known_ranges(self, record: Optional[int] = None) -> Ranges:
        return read_map([self], self.label, record) if self.label else []

    def data(self) -> Dictionary:
        """For --json"""
        result: Dictionary = {'file': self.path, 'condition': self.condition,
                              'well': self.well, 'labels': self.labels}
        if self.error:
            result['error'] = self.error
        label = self.label
        if not label or self.newest is None:
            return result
        return {
            **result, 'newest': PAIR[self.newest], 'label': label.data(),
            'highest-seq': self.highest_seq(label),
            'pages': self.count(label),
            'marked-bytes': size_of(self.known_ranges()),
            'records': [{
                'record': record.number, 'member': id_text(record.member),
                'place': record.place, 'status': STATUSES[record.status],
                'flags': record.flags, 'state-seq': record.state_seq,
                'label-stale-bytes': record.stale_bytes,
                'stale-bytes': size_of(self.known_ranges(record.number)),
            } for record in label.records]}


def read_map(nodes: List[StateNode], label: Label,
             record: Optional[int] = None, enough: int = 0) -> Ranges:
    """
    The intent map, or the stale map of a record, as it is on all of @nodes;
    what is known on fewer than @enough of them counts as set throughout.
    """
    bits = []
    for number in label.map_pages(record):
        known = [page for page in (node.page(number, label) for node in nodes)
                 if page]
        if len(known) < enough:
            bits.append(b'\xff' * (PAYLOAD_BITS // 8))
        else:
            bits.append(max(known, default=(0, bytes(PAYLOAD_BITS // 8)),
                            key=lambda page: page[0])[1])
    return find_ranges(b''.join(bits), label.shift(record), label.disk_bytes)
