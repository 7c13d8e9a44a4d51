# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""How things are written for people"""

import argparse
import re
import textwrap
import time
from typing import Iterator, List, Tuple

from .basics import Dictionary


def human_size(size: float) -> str:
    """4096 is '4 KiB'."""
    if size < 1024:
        return f'{size:.0f} B'
    for unit in ('KiB', 'MiB', 'GiB', 'TiB', 'PiB'):
        size /= 1024
        if size < 1000 or unit == 'PiB':
            break
    digits = 0 if size >= 100 or size == int(size) else 1
    return f'{size:.{digits}f} {unit}'


def human_time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f'{seconds:.0f} s'
    if minutes < 100:
        return f'{minutes} min'
    return f'{minutes // 60} h {minutes % 60} min'


def latencies(child: Dictionary) -> str:
    """Of reads and writes: '0.21/13 ms'"""
    def milliseconds(key: str) -> str:
        if key not in child:
            return '-'
        value = child[key] / 1000
        return f'{value:.{2 if value < 1 else 1 if value < 10 else 0}f}'

    return f"{milliseconds('read-latency-us')}/" \
           f"{milliseconds('write-latency-us')} ms"


def bar(fraction: float, width: int = 20) -> str:
    """How much of something is done"""
    filled = int(fraction * width)
    return f"[{'=' * filled}{'>' * (filled < width)}".ljust(width + 1)[
        :width + 1] + f'] {100 * fraction:.1f}%'


def printable(text: str) -> str:
    """Names come from files: they must not play with the terminal."""
    return ''.join(c if c.isprintable() else '?' for c in text)


def table(rows: List[List[str]], left: Tuple[int, ...]) -> List[str]:
    """Columns of equal width; those in @left begin there, the last is free."""
    widths = [max(len(row[i]) for row in rows)
              for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [row[i].ljust(width) if i in left else row[i].rjust(width)
                 for i, width in enumerate(widths)]
        lines.append('  '.join([*cells, row[-1]]).rstrip())
    return lines


def parse_bytes(text: str, what: str, example: str) -> int:
    match = re.fullmatch(r'([0-9]{1,20})([kmgt]?)(i?b)?', text.lower())
    if not match:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a {what}, or with a suffix as in {example}")
    return int(match[1]) << (10 * ' kmgt'.index(match[2] or ' '))


def speed_argument(text: str) -> int:
    """For argparse: bytes, or with a suffix."""
    speed = parse_bytes(re.sub('/s$', '', text),
                        'speed: give bytes a second', '50M')
    if speed >= 1 << 63:
        raise argparse.ArgumentTypeError(
            f"'{text}' is too fast: a speed must be less than 8 EiB a second; "
            'without it there is no limit')
    return speed


def size_argument(text: str) -> int:
    """The same for the length of a disk, which has one"""
    size = parse_bytes(text, 'size: give bytes', '100G')
    if not 0 < size < 1 << 63:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not the size of a disk: it must be 512 bytes or "
            'more, and less than 8 EiB')
    return size


def interval_argument(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an interval: give seconds, 0.1 to 86400")
    return seconds


def fold(text: str, first: str = '', indent: str = '', width: int = 79
         ) -> List[str]:
    """Lines that fit on any terminal; what is to be typed stays whole."""
    return textwrap.wrap(text, max(width, 20), initial_indent=first,
                         subsequent_indent=indent, break_on_hyphens=False,
                         break_long_words=False)


def head_lines(pairs: List[Tuple[str, str]]) -> Iterator[str]:
    """Texts behind what they are about, folded"""
    previous = ''
    for key, text in pairs:
        lines = textwrap.wrap(printable(text), 70, break_on_hyphens=False,
                              break_long_words=False)
        for line in lines:
            label = f'{key}:' if key != previous else ''
            yield f'{label:>8} {line}'
            previous = key


def stamp(event: Dictionary) -> str:
    """When it has come"""
    return time.strftime('%H:%M:%S',
                         time.localtime(event['timestamp']['seconds']))


def event_line(event: Dictionary) -> str:
    """What has happened, in a line."""
    data = event.get('data', {})
    words = [f'{key}={",".join(value) if key == "children" else value}'
             for key, value in data.items()
             if key == 'children' or not isinstance(value, (dict, list))]
    return printable(' '.join([stamp(event), event['event'], *words]))
