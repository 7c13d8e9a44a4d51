# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command replace"""

import argparse
from functools import partial
import json
import os
from shlex import quote
from typing import Callable, List, Optional, Tuple

from .basics import NOT_WELL, WELL, Dictionary, Failure
from .children import Children
from .disks import Graph, cache_options
from .layout import new_name
from .monitor import Monitor
from .newstate import NewStateNode
from .places import Place, check_utf8
from .programs import QemuImg
from .quorum import Quorum, find_slot
from .scrub import scrub_report
from .text import fold, human_size


STATE_SECONDS = 3.0         # in which a new state node is written to


class Replace(Children):
    """
    Put a child into a slot, and its state node beside it, and fill it.  First
    everything is looked at and opened; from the moment on when another child
    has gone for the new one, there is no way back.
    """
    def __init__(self, args: argparse.Namespace, monitor: Monitor) -> None:
        super().__init__(args, monitor)
        self.place: Optional[Place] = None      # None: the node is open
        self.state: Optional[NewStateNode] = None
        self.state_error = ''       # why it is not there
        self.options: Dictionary = {}   # of the child, for the next start

    def _look(self) -> Tuple[Quorum, int, str]:
        """The slot in which a node or file is to be, if that may be"""
        quorum, (word, what) = self._node_and_slot(
            self.args.words, 2, 'replace [NODE] SLOT FILE|NODE-NAME')
        slot = find_slot(quorum, word, new=True)
        if quorum.scrub:
            raise Failure(f"'{quorum.name}' is being scrubbed: wait, or end "
                          f'it by qemu-quorum scrub --stop {quorum.word}',
                          NOT_WELL)
        if self.system.nodes[quorum.name]['ro']:
            raise Failure(f"'{quorum.name}' is read-only: what is new could "
                          'not be filled', NOT_WELL)
        check_utf8('--format', self.args.format or '')
        if what in self.system.nodes and self.args.format:
            raise Failure(f"'{what}' is the name of a node, which is open: "
                          '--format is for files (./FILE)')
        if self.args.state is not None:
            self.state = NewStateNode(self.monitor, quorum, slot,
                                      self.args.state)
            self.state.check_apart(what)
        if what not in self.system.nodes:
            self.place = self._look_at_file(os.path.abspath(what))
        return quorum, slot, what

    def _look_at_file(self, path: str) -> Place:
        """It may be used; that its length is right, QEMU finds out."""
        try:
            os.stat(path)
        except OSError as error:
            raise Failure(f"'{path}' is neither the name of a node nor a "
                          f'file: {error.strerror}') from None
        place = Place('FILE', path)
        place.check_unused()
        if not self.args.force:
            node = {'driver': self.args.format or 'raw',
                    'file': place.options}
            img = QemuImg()
            try:
                size = int(img.info(node)['virtual-size'])
                blank = img.is_zero(node, size)
            except ValueError as error:
                raise place.refuse(str(error)) from None
            if not blank:
                raise place.refuse('is there, and has data; to overwrite '
                                   'them: --force')
        return place

    def _open(self, quorum: Quorum, slot: int, place: Place) -> str:
        """Open the file, as the others are; the name of its node."""
        place.check_unused()
        name = new_name(quorum.name, str(slot), self.system.nodes)
        protocol: Dictionary = {**place.options, 'discard': 'unmap'}
        image: Dictionary = {'driver': self.args.format or 'raw',
                             'node-name': name, 'discard': 'unmap'}
        for child in quorum.children:
            other = self.system.nodes.get(child.get('node-name', ''))
            if other:
                protocol['cache'] = image['cache'] = cache_options(other)
                break
        self.monitor.change('blockdev-add', {**image, 'file': protocol})
        return name

    def replace(self) -> int:
        quorum, slot, what = self._look()
        name = what
        undo: List[Callable[[], None]] = []
        self._end_between_commands()
        self.said_at_signal = 'interrupted; all is as before'
        try:
            if self.place:
                name = self._open(quorum, slot, self.place)
                undo.append(partial(self._close, name))
            if self.state:
                undo.append(self.state.close)
                self.state.open()
            self._check_wanted()
            self._put_in(quorum, slot, name)
            undo.append(partial(self._empty, quorum, slot))
            self._add_state_node()
            job = self._begin_to_fill(quorum, slot, name, undo)
        except BaseException:
            for action in reversed(undo):
                action()
            raise
        self.say(f"{quorum.name}: children.{slot} is node '{name}' now" +
                 (f", opened as {self.args.format or 'raw'}" if self.place
                  else '') + '; it is being filled')
        self._say_state_node(quorum, slot)
        self._say_replaced(quorum, slot)
        self._say_options(quorum, slot, name)
        self.said_at_signal = \
            f"interrupted; children.{slot} is node '{name}' now, and the " \
            'scrub that fills it goes on: see qemu-quorum status, or end it ' \
            f'by qemu-quorum scrub --stop {quorum.word}'
        figures = self._wait_for_scrub(quorum.name, job)
        for line in scrub_report(quorum.name, figures, self.ranges):
            self.say(line)
        return self._report_replaced(quorum.name, slot, figures)

    def _close(self, name: str) -> None:
        self.monitor.change('blockdev-del', {'node-name': name})

    def _empty(self, quorum: Quorum, slot: int) -> None:
        self.monitor.change('x-blockdev-change', {
            'parent': quorum.name, 'child': f'children.{slot}'})

    def _put_in(self, quorum: Quorum, slot: int, name: str) -> None:
        try:
            self.monitor.change('x-blockdev-change', {
                'parent': quorum.name, 'child': f'children.{slot}',
                'node': name, 'in-sync': False})
        except Failure as failure:
            if self._occupied(quorum, slot) and 'threshold' in str(failure):
                states = [child['state'] for child in quorum.children]
                free = [*states, 'vacant'].index('vacant')
                raise Failure(
                    f'{failure}; so add the new child first, as children.'
                    f'{free}, then remove children.{slot}', NOT_WELL) from None
            raise

    def _add_state_node(self) -> None:
        """The child is in, and goes on without one if it must."""
        if self.state:
            try:
                self.state.add()
            except Failure as failure:
                self.state_error = str(failure)

    def _begin_to_fill(self, quorum: Quorum, slot: int, name: str,
                       undo: List[Callable[[], None]]) -> str:
        try:
            return self._start_scrub(quorum, True, 'stale', self.args.speed,
                                     'ignore')
        except Failure as failure:
            if not self._occupied(quorum, slot):
                raise
            # The old child has missed what was written since, so it can't be
            # put back as if nothing had happened
            undo.clear()
            raise Failure(
                f"{failure}; children.{slot} is node '{name}' now, and lacks "
                'everything; once that is mended: '
                f'qemu-quorum scrub --stale {quorum.word}', NOT_WELL) from None

    @staticmethod
    def _occupied(quorum: Quorum, slot: int) -> bool:
        return slot < len(quorum.children) and \
            quorum.children[slot]['state'] != 'vacant'

    def _say_state_node(self, quorum: Quorum, slot: int) -> None:
        name = f'children.{slot}'
        if not self.state:
            if quorum.memory:
                self.say(f'{quorum.name}: {name} has NO state node: each '
                         'start takes it for a new one, and fills all of it '
                         'once more; next time give replace --state FILE, and '
                         f'for this one see qemu-quorum explain {quorum.word}')
        elif self.state_error:
            self.say(f'{quorum.name}: its state node can NOT be added: '
                     f'{self.state_error}')
        else:
            self.say(f'{quorum.name}: its state node is {self.state}')

    def _say_replaced(self, quorum: Quorum, slot: int) -> None:
        """What becomes of the nodes that were there"""
        for node in (*quorum.children[slot:slot + 1],
                     quorum.state_node(f'children.{slot}')):
            name = (node or {}).get('node-name')
            if name and not (self.state and name == self.state.name):
                self._say_left(name)

    def _say_options(self, quorum: Quorum, slot: int, name: str) -> None:
        """State nodes would tell the old child from the new one."""
        self.options = Graph(self.monitor).describe_named(name)
        if not quorum.memory:
            for line in fold(
                    f'For the next start, have this as children.{slot} among '
                    f"the options of '{quorum.name}'. Without state nodes a "
                    'start believes what it finds: a child that was replaced '
                    'has old data, and two of them outvote the others:'):
                self.say(line)
            self.say(json.dumps(self.options))

    def _look_at_state_node(self, name: str, slot: int
                            ) -> Optional[Dictionary]:
        """When there was time to write to it"""
        seconds = STATE_SECONDS
        while True:
            quorum = self.system.choose(name)
            node = quorum.state_node(f'children.{slot}')
            if not node or node['state'] != 'blank' or seconds <= 0:
                return node
            self.monitor.sleep(0.1)
            seconds -= 0.1

    def _report_state_node(self, name: str, slot: int) -> Dictionary:
        """What there is to say of it in the end"""
        node = self._look_at_state_node(name, slot)
        if self.state_error:
            assert self.state
            self.say(f'{name}: children.{slot} has NO state node, so each '
                     'start fills all of it once more; to add it: '
                     f'{self.state.command()}')
        elif self.state and (not node or node['state'] in ('foreign',
                                                           'failed')):
            why = (node or {}).get('error', 'it is not blank')
            self.state_error = f"'{self.state.name}' is of no use: {why}"
            self.say(f'{name}: its state node {self.state_error}; see '
                     f'qemu-quorum explain {quote(name)}')
        error = {'state-error': self.state_error} if self.state_error else {}
        return {'state-node': node['node-name'] if node else None, **error}

    def _report_replaced(self, name: str, slot: int,
                         figures: Dictionary) -> int:
        child = self.system.choose(name).children[slot]
        well = child['state'] == 'ok'
        if well:
            self.say(f'{name}: children.{slot} is in sync')
        else:
            self.say(f'{name}: children.{slot} is NOT in sync '
                     f"({child['state']}, "
                     f"{human_size(child['stale-bytes'])} missing); once what "
                     'is wrong is mended: qemu-quorum scrub --stale '
                     f'{quote(name)}')
        state = self._report_state_node(name, slot)
        self.result(**{'node-name': name, 'child': f'children.{slot}',
                       'new': child.get('node-name'), 'state': child['state'],
                       **state, 'blockdev': self.options,
                       'scrub': figures})
        return WELL if well and not self.state_error else NOT_WELL
