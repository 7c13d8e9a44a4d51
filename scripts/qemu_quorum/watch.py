# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command watch"""

import shutil
import sys
import time
from typing import List

from .basics import WELL, Dictionary
from .quorum import Quorum
from .screen import Screen, describe_event, frame
from .status import Status, health, picture
from .text import event_line

# The events that "watch" tells of
EVENTS = ('QUORUM_REPORT_BAD', 'QUORUM_FAILURE', 'QUORUM_CHILD_STATE',
          'QUORUM_STATE_FAILURE', 'QUORUM_SCRUB_RANGE',
          'QUORUM_SCRUB_COMPLETED', 'BLOCK_IMAGE_CORRUPTED',
          'BLOCK_IO_ERROR', 'BLOCK_JOB_ERROR', 'STOP', 'RESUME', 'SHUTDOWN')
EVENT_SECONDS = 0.2         # in which an event is seen
MOST_EVENTS = 200


class Watch(Status):
    """How each child is, again and again, and events"""

    def watch(self) -> int:
        """Until q or Ctrl-C"""
        if self.args.once:
            return self._once()
        try:
            if self.tty:
                self._on_terminal()
            else:
                self._in_pipe()
        except KeyboardInterrupt:
            pass
        return WELL

    def _once(self) -> int:
        quorums = self.look()
        self.result(nodes=[quorum.data for quorum in quorums])
        if not self.args.json:
            columns = shutil.get_terminal_size().columns
            print('\n'.join(frame(quorums, [], columns, None,
                                  sys.stdout.isatty())))
        return health(quorums)

    def _events(self) -> List[Dictionary]:
        come = [event for event in self.monitor.events()
                if event['event'] in EVENTS]
        for event in come:
            self.system.note(event)
        return come

    def _on_terminal(self) -> None:
        events: List[str] = []
        quorums: List[Quorum] = []
        with Screen(self.monitor) as screen:
            due = 0.0
            while True:
                come = self._events()
                events += map(describe_event, come)
                events = events[-MOST_EVENTS:]
                if come or time.monotonic() >= due:
                    quorums = self._selected()
                    due = time.monotonic() + self.args.interval
                    screen.show(quorums, events)
                if screen.wait(EVENT_SECONDS):
                    screen.show(quorums, events)

    def _in_pipe(self) -> None:
        """Only what has changed, below what was there"""
        shown: List[str] = []
        while True:
            quorums = self._selected()
            for event in self._events():
                self.result(event=event)
                self.say(event_line(event))
            self.result(nodes=[quorum.data for quorum in quorums])
            lines = picture(quorums)
            if lines != shown and not self.args.json:
                print(time.strftime('--- %H:%M:%S'), *lines, sep='\n',
                      flush=True)
            shown = lines
            self.monitor.sleep(self.args.interval)
