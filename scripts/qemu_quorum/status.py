# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command status"""

from typing import List

from .basics import NOT_WELL, WELL
from .command import POLL_SECONDS, Command
from .quorum import Quorum, is_late


def picture(quorums: List[Quorum]) -> List[str]:
    lines = []
    for quorum in quorums:
        lines += ['', *quorum.lines()]
    return lines[1:] or ['no quorum nodes']


def health(quorums: List[Quorum]) -> int:
    """A VM that was started without its quorum is not well either."""
    online = quorums and all(q.data['state'] == 'ONLINE' for q in quorums)
    waits = any(is_late(child) for q in quorums for child in q.children)
    return WELL if online and not waits else NOT_WELL


class Status(Command):
    """How each child is"""

    def look(self) -> List[Quorum]:
        """The nodes that were asked for"""
        quorums = self._selected()
        if any(quorum.scrub for quorum in quorums):
            # How fast it is takes two looks
            self.monitor.sleep(POLL_SECONDS)
            quorums = self._selected()
        return quorums

    def status(self) -> int:
        quorums = self.look()
        self.result(nodes=[quorum.data for quorum in quorums])
        if not self.args.json:
            print('\n'.join(picture(quorums)))
        return health(quorums)
