# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command watch"""

import shutil
import time
from typing import List

from .basics import WELL
from .command import Command
from .status import picture
from .text import event_line


# The events that "watch" tells of
EVENTS = ('QUORUM_REPORT_BAD', 'QUORUM_FAILURE', 'QUORUM_CHILD_STATE',
          'QUORUM_SCRUB_RANGE', 'QUORUM_SCRUB_COMPLETED',
          'BLOCK_IMAGE_CORRUPTED', 'BLOCK_IO_ERROR', 'BLOCK_JOB_ERROR',
          'STOP', 'RESUME', 'SHUTDOWN')


class Watch(Command):
    """How each child is, again and again, and events"""

    def watch(self) -> int:
        tail: List[str] = []        # the last events, for a terminal
        shown: List[str] = []
        try:
            while True:
                quorums = self._selected()
                come = [event for event in self.monitor.events()
                        if event['event'] in EVENTS]
                for event in come:
                    self.result(event=event)
                    self.system.note(event)
                self.result(nodes=[quorum.data for quorum in quorums])
                lines = picture(quorums)
                tail += [event_line(event) for event in come]
                if self.tty:
                    size = shutil.get_terminal_size()
                    room = size.lines - len(lines) - 2
                    tail = tail[-max(room, 1):]
                    print('\x1b[H\x1b[J' + '\n'.join(
                        line[:size.columns] for line in [*lines, '', *tail]),
                        flush=True)
                elif not self.args.json:
                    for line in tail:
                        print(line, flush=True)
                    tail = []
                    if lines != shown:
                        print(time.strftime('--- %H:%M:%S'), *lines, sep='\n',
                              flush=True)
                    shown = lines
                self.monitor.sleep(self.args.interval)
        except KeyboardInterrupt:
            return WELL
