# Faults: requests that fail, and bytes that change behind QEMU's back
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from errno import EIO
import random
import struct
from typing import Any, Dict, Iterable, Optional, Union

from .oracle import BLOCK, contents_of
from .qmp import dashed

Options = Dict[str, Any]


def fault(op: Optional[str] = None, errno: int = EIO, once: bool = False,
          event: str = 'none', **more: Any) -> Options:
    """
    A rule for blkdebug(): requests of the kind @op ('read', 'write',
    'write-zeroes', 'discard', 'flush' or 'block-status'; None means any but
    the last one) fail with @errno.  If @once, only the first one fails; unless
    @event is 'none', none fails before that event of blkdebug; @more says what
    else a rule can have, such as a sector.
    """
    rule: Options = {'event': event, 'errno': errno, 'once': once, **more}
    if op is not None:
        rule['iotype'] = op
    return rule


def blkdebug(*rules: Options, **options: Any) -> Options:
    """A blkdebug node with these rules"""
    return {'driver': 'blkdebug', 'inject-error': list(rules),
            **dashed(options)}


def failing(*ops: str, image: Union[None, str, Options] = None, **how: Any
            ) -> Options:
    """
    A blkdebug node on which requests of these kinds fail, see fault(); @image
    is the node below it.
    """
    node = blkdebug(*(fault(op, **how) for op in ops))
    if image is not None:
        node['image'] = image
    return node


def flip_bits(path: str, places: Iterable[int], rand: random.Random) -> None:
    """Flip one bit in each of these bytes of a file."""
    with open(path, 'r+b') as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << rand.randrange(8)]))


def rot(path: str, blocks: Iterable[int], rand: random.Random) -> None:
    """Flip one bit somewhere in each of these blocks of an image."""
    flip_bits(path, [block * BLOCK + rand.randrange(BLOCK)
                     for block in blocks], rand)


def lose(path: str, blocks: Iterable[int]) -> None:
    """Put something in each of these blocks that may have been there before."""
    with open(path, 'r+b') as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(contents_of(block, 1))


def corrupt_qcow2(path: str) -> None:
    """
    Let the first L2 entry of a qcow2 image not be aligned to a cluster: the
    node loses its driver when it sees that.
    """
    with open(path, 'r+b') as file:
        offset = 40             # where the header has the L1 table's offset
        for _ in range(3):
            file.seek(offset)
            entry, = struct.unpack('>Q', file.read(8))
            where, offset = offset, entry & 0x00fffffffffffe00
        file.seek(where)
        file.write(struct.pack('>Q', entry | 0x200))
