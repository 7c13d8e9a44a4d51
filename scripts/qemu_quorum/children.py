# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The commands remove and drop"""

import re
from typing import List, Optional, Set, Tuple

from .basics import NOT_WELL, WELL, Failure, Stuck
from .monitor import ANSWER_SECONDS, ExecuteError
from .quorum import Quorum, find_slot
from .scrub import Scrub


STUCK_SECONDS = 3.0         # without an answer, for "drop"


class Children(Scrub):
    """Take children out of their slots"""

    def remove(self) -> int:
        quorum, (word,) = self._node_and_slot(self.args.words, 1,
                                              'remove [NODE] SLOT')
        slot = find_slot(quorum, word)
        self._check_occupied(quorum, slot)
        self._take_out(quorum, slot, None)
        self.result(**{'node-name': quorum.name, 'child': f'children.{slot}',
                       'removed': quorum.children[slot]['node-name']})
        return WELL

    @staticmethod
    def _check_occupied(quorum: Quorum, slot: int) -> None:
        if quorum.children[slot]['state'] == 'vacant':
            raise Failure(f"children.{slot} of '{quorum.name}' is vacant "
                          'already', NOT_WELL)

    def _take_out(self, quorum: Quorum, slot: int, seconds: Optional[float]
                  ) -> None:
        self.monitor.change('x-blockdev-change', {
            'parent': quorum.name, 'child': f'children.{slot}'}, seconds)
        self.say(f'{quorum.name}: children.{slot} is vacant now')
        self._say_left(quorum.children[slot]['node-name'])

    def drop(self) -> int:
        """
        Cut the connections below a child, so that whatever waits for it goes
        on, then take it out.
        """
        words = self.args.words
        if len(words) > 2:
            raise Failure('usage: qemu-quorum drop [NODE] SLOT|NODE-NAME')
        node, word = (words[0] if len(words) > 1 else None), words[-1]
        cut: List[str] = []     # the nodes whose connection has been
        self.monitor.patience = STUCK_SECONDS
        try:
            found = self._find_child(node, word)
        except Stuck:
            self._cut(self._hung(word), cut)
            self.monitor.patience = ANSWER_SECONDS
            found = self._find_child(node, word)
            if not found:
                # The command that was stuck has taken the child out
                self.say('QEMU goes on')
                self.result(cut=cut)
                return WELL
        self.monitor.patience = ANSWER_SECONDS
        if not found:
            raise Failure(f"'{word}' is neither a slot nor a node that is, or "
                          'is below, a child of a quorum')
        quorum, slot = found
        self._check_occupied(quorum, slot)
        child = quorum.children[slot]
        if not quorum.can_spare(child):
            raise Failure(
                f"'{quorum.name}' needs children.{slot}: too few others vote "
                f'(vote-threshold is {quorum.threshold})', NOT_WELL)
        _, exclusive = self.system.below(child['node-name'])
        for name in sorted(exclusive & self._connections()):
            self._cut(name, cut)
        if not cut:
            self.say(f'{quorum.name}: children.{slot} has no connection that '
                     'can be cut and that nothing else uses; waiting until '
                     'its requests have ended')
        try:
            self._take_out(quorum, slot, ANSWER_SECONDS)
        except Stuck:
            raise Failure(
                f'{quorum.name}: requests have not ended, of children.{slot} '
                'or of another child; QEMU takes children.'
                f'{slot} out when they do', NOT_WELL) from None
        self.result(**{'node-name': quorum.name, 'child': f'children.{slot}',
                       'removed': child['node-name'], 'cut': cut})
        return WELL

    def _connections(self) -> Set[str]:
        """The nodes that have one which can be cut"""
        try:
            return {instance['node-name'] for instance
                    in self.monitor.ask_at_once('query-yank')
                    if instance['type'] == 'block-node'}
        except ExecuteError:
            return set()

    def _cut(self, name: str, cut: List[str]) -> None:
        if name in cut:
            return
        self.monitor.ask_at_once('yank', {'instances': [
            {'type': 'block-node', 'node-name': name}]})
        self.say(f"the connection of node '{name}' is cut")
        cut.append(name)

    def _hung(self, word: str) -> str:
        """
        QEMU is stuck, and can't be asked what is below a child; so @word must
        be the name of the node whose connection is to be cut.
        """
        names = self._connections()
        if word in names:
            return word
        if not names:
            raise Failure('QEMU is stuck, and has no connection that can be '
                          'cut')
        listed = ', '.join(f"'{name}'" for name in sorted(names))
        raise Failure(
            f"QEMU is stuck, and can't tell what is below '{word}': give the "
            'name of the node whose server hangs; those whose connection can '
            f'be cut: {listed}')

    def _find_child(self, node: Optional[str], word: str
                    ) -> Optional[Tuple[Quorum, int]]:
        """By its slot, or by the name of a node that is there or below"""
        if re.fullmatch(r'(?:children\.)?\d+', word):
            quorum = self.system.choose(node)
            return quorum, find_slot(quorum, word)
        quorums = self.system.quorums()
        if node is not None:
            quorums = [self.system.choose(node)]
        for quorum in quorums:
            for slot, child in enumerate(quorum.children):
                if 'node-name' in child and \
                   word in self.system.below(child['node-name'])[0]:
                    return quorum, slot
        return None

    def _say_left(self, name: str) -> None:
        """What becomes of a node that was taken out"""
        self.system.quorums()
        if name in self.system.nodes:
            self.say(f"node '{name}' is still open; to close it: blockdev-del "
                     '(QMP)')
