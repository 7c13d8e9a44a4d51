# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What all commands that speak to a QEMU have in common"""

import argparse
from contextlib import suppress
import json
import shutil
import sys
import time
from typing import List, Tuple

from .basics import NOT_WELL, Failure, abandon_stdout
from .monitor import Monitor
from .quorum import Quorum, System
from .text import printable


POLL_SECONDS = 0.5


class Output:
    """
    Standard output.  If a command @changes something, it must come to its end
    although that can't be written: then all goes to standard error.
    """
    def __init__(self, changes: bool) -> None:
        self.changes = changes
        self.error = ''

    def write(self, text: str, end: str = '\n') -> None:
        if not self.error:
            try:
                print(text, end=end, flush=True)
                return
            except OSError as error:
                if not self.changes:
                    raise
                self.error = error.strerror
                abandon_stdout()
        with suppress(OSError):
            print(text, end=end, file=sys.stderr, flush=True)

    def check(self) -> None:
        """In the end"""
        if self.error:
            raise Failure('cannot write to standard output, so it is said '
                          f'here: {self.error}', NOT_WELL)


class Command:
    """One invocation."""

    changes = False     # whether it does more than look

    def __init__(self, args: argparse.Namespace, monitor: Monitor) -> None:
        self.args = args
        self.monitor = monitor
        self.system = System(monitor)
        self.output = Output(self.changes)
        self.tty = sys.stdout.isatty() and not args.json

    def say(self, text: str) -> None:
        if not self.args.json:
            self.output.write(printable(text))

    def result(self, **data: object) -> None:
        if self.args.json:
            self.output.write(json.dumps(data))

    def _selected(self) -> List[Quorum]:
        if self.args.node is not None:
            return [self.system.choose(self.args.node)]
        return self.system.quorums()

    def _clear_line(self) -> None:
        if self.tty:
            self.output.write('\r\x1b[K', end='')

    def _show(self, line: str, printed: float) -> float:
        """
        How far it is: at once on a terminal, each ten seconds elsewhere.
        Returns when something was printed for the last time.
        """
        now = time.monotonic()
        if self.tty:
            columns = shutil.get_terminal_size().columns
            self.output.write(f'\r\x1b[K{line[:columns - 1]}', end='')
        elif now - printed >= 10:
            self.say(line)
            printed = now
        return printed

    def _end_line(self) -> None:
        if self.tty:
            self.output.write('')

    def _node_and_slot(self, words: List[str], rest: int, usage: str
                       ) -> Tuple[Quorum, List[str]]:
        """[NODE] and @rest words"""
        if not rest <= len(words) <= rest + 1:
            raise Failure(f'usage: qemu-quorum {usage}')
        node = words[0] if len(words) > rest else None
        return self.system.choose(node), words[-rest:]
