# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What all commands that speak to a QEMU have in common"""

import argparse
import json
import shutil
import sys
import time
from typing import List, Tuple

from .basics import Failure
from .monitor import Monitor
from .quorum import Quorum, System
from .text import printable


POLL_SECONDS = 0.5


class Command:
    """One invocation."""

    def __init__(self, args: argparse.Namespace, monitor: Monitor) -> None:
        self.args = args
        self.monitor = monitor
        self.system = System(monitor)
        self.tty = sys.stdout.isatty() and not args.json

    def say(self, text: str) -> None:
        if not self.args.json:
            print(printable(text), flush=True)

    def result(self, **data: object) -> None:
        if self.args.json:
            print(json.dumps(data), flush=True)

    def _selected(self) -> List[Quorum]:
        if self.args.node is not None:
            return [self.system.choose(self.args.node)]
        return self.system.quorums()

    def _clear_line(self) -> None:
        if self.tty:
            print('\r\x1b[K', end='', flush=True)

    def _show(self, line: str, printed: float) -> float:
        """
        How far it is: at once on a terminal, each ten seconds elsewhere.
        Returns when something was printed for the last time.
        """
        now = time.monotonic()
        if self.tty:
            columns = shutil.get_terminal_size().columns
            print(f'\r\x1b[K{line[:columns - 1]}', end='', flush=True)
        elif now - printed >= 10:
            self.say(line)
            printed = now
        return printed

    def _end_line(self) -> None:
        if self.tty:
            print()

    def _node_and_slot(self, words: List[str], rest: int, usage: str
                       ) -> Tuple[Quorum, List[str]]:
        """[NODE] and @rest words"""
        if not rest <= len(words) <= rest + 1:
            raise Failure(f'usage: qemu-quorum {usage}')
        node = words[0] if len(words) > rest else None
        return self.system.choose(node), words[-rest:]
