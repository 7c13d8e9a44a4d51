# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What "watch" shows on a terminal, and the terminal"""

import asyncio
from contextlib import suppress
import os
import signal
import sys
import termios
import time
import tty
from typing import Any, Iterator, List, NamedTuple, Optional

from .basics import Dictionary
from .monitor import Monitor
from .quorum import Quorum, is_late, resync_line, scrub_line
from .text import event_line, fold, human_size, latencies, printable, stamp

ENDS = (signal.SIGTERM, signal.SIGHUP)
GREEN, YELLOW, RED = 32, 33, 31
NODE_COLOURS = {'ONLINE': GREEN, 'DEGRADED': YELLOW, 'FAILED': RED}
CHILD_COLOURS = {'ok': GREEN, 'unsure': YELLOW, 'stale': YELLOW,
                 'rebuilding': YELLOW}
HEAD = ('SLOT', 'NODE', 'STATE', 'LACKS', 'ERRORS', 'LIES', 'READ/WRITE',
        'WHERE')
WIDTHS = (4, 10, 10, 8, 6, 4, 11)       # the last one has what is left


class Line(NamedTuple):
    """A line of the screen, of which a word may have a colour"""
    text: str
    word: str = ''
    colour: int = 0

    def shown(self, columns: int, colourful: bool) -> str:
        """As much of it as there is room for"""
        text = crop(printable(self.text), columns)
        if not colourful or not self.word or self.word not in text:
            return text
        before, _, after = text.rpartition(self.word) \
            if self.text.endswith(self.word) else text.partition(self.word)
        return f'{before}\x1b[{self.colour}m{self.word}\x1b[0m{after}'


def crop(text: str, width: int) -> str:
    """The beginning of it, if it does not fit"""
    return text if len(text) <= width else text[:max(width - 3, 0)] + \
        '...'[:width]


def crop_path(text: str, width: int) -> str:
    """The end of it, which tells more"""
    return text if len(text) <= width or width < 4 else \
        '...' + text[3 - width:]


def row(cells: List[str], columns: int) -> str:
    """Of the table: what is counted is on the right of its column."""
    fixed = [crop(cell, width).ljust(width) if i in (0, 1, 2)
             else crop(cell, width).rjust(width)
             for i, (cell, width) in enumerate(zip(cells, WIDTHS))]
    text = ' '.join(fixed) + '  '
    return (text + crop_path(cells[-1], columns - len(text))).rstrip()


def child_line(child: Dictionary, columns: int) -> Line:
    """How a replica is"""
    state = child['state']
    slot = child['child'].rpartition('.')[2]
    shown = state if state == 'ok' else state.upper()
    colour = CHILD_COLOURS.get(state, RED)
    if state == 'vacant':
        cells = [slot, '-', shown, '-', '-', '-', '-', child.get('error', '')]
    else:
        if is_late(child):
            shown, colour = 'LATE', RED
        lacks = child['stale-bytes'] or child.get('unsure-bytes', 0)
        errors = sum(child[f'{kind}-errors']
                     for kind in ('read', 'write', 'flush'))
        cells = [slot, child['node-name'], shown,
                 human_size(lacks) if lacks else '0', str(errors),
                 str(child['mismatches']), latencies(child),
                 child.get('error') or child.get('file', '')]
    return Line(row(cells, columns), shown, colour)


def node_lines(quorum: Quorum, columns: int) -> Iterator[Line]:
    """A node, its children, and what is to be done"""
    state = quorum.data['state']
    size = human_size(quorum.data['size']) if 'size' in quorum.data else '?'
    yield Line(f'{quorum.name}  {size}, {quorum.threshold or "?"} of '
               f'{len(quorum.children)}  {state}', state,
               NODE_COLOURS[state])
    if quorum.resync:
        yield Line(f'resync: {resync_line(quorum.resync)}')
    if quorum.scrub:
        yield Line(f'scrub: {scrub_line(quorum.scrub)}')
    yield Line(row(list(HEAD), columns))
    for child in quorum.children:
        yield child_line(child, columns)
    for advice in quorum.data['advice']:
        for text in fold(printable(advice), '- ', '  ', min(columns, 80)):
            yield Line(text)


def describe_event(event: Dictionary) -> str:
    """In few words"""
    data = event.get('data', {})
    kind = event['event']
    if kind == 'QUORUM_CHILD_STATE':
        name = f" ({data['node-name']})" if 'node-name' in data else ''
        text = f"{data['child']}{name} is {data['state']}, was " \
            f"{data['was']}: {data['reason']}"
    elif kind == 'QUORUM_REPORT_BAD':
        text = f"{data['node-name']} has failed a {data['type']}: " \
            f"{data['error']}" if 'error' in data else \
            f"{data['node-name']} was outvoted on a {data['type']}"
    elif kind == 'QUORUM_FAILURE':
        text = f"{data['reference']}: THE GUEST GOT AN ERROR, at sector " \
            f"{data['sector-num']}"
    elif kind == 'QUORUM_STATE_FAILURE':
        text = f"the state node of {data['child']} fails: {data['error']}"
    else:
        return event_line(event)
    return printable(f'{stamp(event)} {text}')


def frame(quorums: List[Quorum], events: List[str], columns: int,
          lines: Optional[int], colourful: bool) -> List[str]:
    """What fits; the last events are below."""
    shown: List[Line] = []
    for quorum in quorums:
        shown += [Line(''), *node_lines(quorum, columns)]
    shown = shown[1:] or [Line('no quorum nodes')]
    if lines is not None:
        shown = shown[:lines]
        room = lines - len(shown) - 1
        events = events[-room:] if room > 0 else []
    if events:
        shown += [Line(''), *map(Line, events)]
    return [line.shown(columns, colourful) for line in shown]


class Screen:
    """
    The terminal, as long as it is used as one.  What was there before comes
    back, however that ends.
    """
    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.wake = asyncio.Event()
        self.colourful = 'NO_COLOR' not in os.environ
        self.before: Optional[List[Any]] = None
        self.ended_by: Optional[int] = None     # a signal

    def __enter__(self) -> 'Screen':
        loop = self.monitor.loop
        loop.add_signal_handler(signal.SIGWINCH, self.wake.set)
        for number in ENDS:
            loop.add_signal_handler(number, self._end, number)
        if sys.stdin.isatty():
            self.before = termios.tcgetattr(0)
            tty.setcbreak(0)
            loop.add_reader(0, self._key)
        # The other page of the terminal, without a cursor
        print('\x1b[?1049h\x1b[?25l', end='', flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        loop = self.monitor.loop
        with suppress(OSError, termios.error):      # it may have gone
            print('\x1b[?25h\x1b[?1049l', end='', flush=True)
            if self.before is not None:
                loop.remove_reader(0)
                termios.tcsetattr(0, termios.TCSADRAIN, self.before)
        for number in (signal.SIGWINCH, *ENDS):
            loop.remove_signal_handler(number)
        if self.ended_by is not None:
            os.kill(os.getpid(), self.ended_by)

    def _end(self, number: int) -> None:
        """First let the terminal be as before."""
        self.ended_by = number
        raise KeyboardInterrupt

    @staticmethod
    def _key() -> None:
        """As Ctrl-C does, also while QEMU does not answer"""
        data = os.read(0, 100)
        if not data or b'q' in data.lower():
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> bool:
        """Until then, or until something is to be done"""
        self.wake.clear()
        self.monitor.wait(self.wake, seconds)
        return self.wake.is_set()

    def show(self, quorums: List[Quorum], events: List[str]) -> None:
        """Draw over what is there, so that nothing flickers"""
        size = os.get_terminal_size(1)
        clock = time.strftime(' %H:%M:%S  q: quit')[:size.columns]
        lines = frame(quorums, events, size.columns, size.lines - 1,
                      self.colourful)
        print('\x1b[H' + ''.join(f'{line}\x1b[K\r\n' for line in lines) +
              '\x1b[J' + f'\x1b[{size.lines};1H{clock}\x1b[K', end='',
              flush=True)
