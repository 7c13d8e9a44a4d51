# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The state node that goes with a child"""

import json
import os
from typing import Container, List, Optional

from .basics import NOT_WELL, Dictionary, Failure, Gone
from .disks import Graph, cache_options
from .layout import least_state_size, new_name, note
from .monitor import Monitor
from .places import Place
from .programs import QemuImg
from .quorum import Quorum
from .statefile import StateNode, id_text, state_size


def state_change(quorum: Quorum, slot: int) -> Dictionary:
    """What x-blockdev-change calls it; without a node, it is taken away."""
    return {'parent': quorum.name, 'child': f'state.{slot}'}


def state_name(quorum: Quorum, slot: int, taken: Container[str]) -> str:
    """What a new one is called"""
    return new_name(quorum.name, f's{slot}', taken)


def command(name: str, arguments: Dictionary) -> str:
    """One of QMP, as people are told of it"""
    return f'{name} (QMP): {json.dumps(arguments)}'


def commands_to_add(quorum: Quorum, slot: int) -> List[str]:
    """What gives a blank one to a child that is there"""
    assert quorum.memory
    name = state_name(quorum, slot, [
        node['node-name'] for node in [*quorum.children,
                                       *quorum.memory['nodes']]
        if 'node-name' in node])
    return [
        f"truncate -s {state_size(quorum.data['size'])} FILE",
        command('blockdev-add', {
            'driver': 'raw', 'node-name': name,
            'file': {'driver': 'file', 'filename': 'FILE'}}),
        command('x-blockdev-change', {**state_change(quorum, slot),
                                      'node': name}),
        'then have it among the options with which QEMU is started, too']


def commands_to_change(quorum: Quorum, slot: int) -> List[str]:
    """What gives it a blank one in place of that which it has"""
    return [command('x-blockdev-change', state_change(quorum, slot)),
            *commands_to_add(quorum, slot)]


class NewStateNode:
    """
    @text is the name of a node that is open, or a place.  It is looked at
    here, and nothing is changed; then come open() and add().
    """
    def __init__(self, monitor: Monitor, quorum: Quorum, slot: int, text: str
                 ) -> None:
        self.monitor, self.quorum, self.slot = monitor, quorum, slot
        self.text = text
        self.graph = Graph(monitor)
        self.place: Optional[Place] = None      # None: the node is open
        self.opened = False
        self._check_quorum()
        self.least = least_state_size(quorum.data['size'],
                                      max(len(quorum.children), slot + 1))
        if text in self.graph.nodes:
            self.name = text
            self._check_node()
        else:
            self.name = state_name(quorum, slot, self.graph.nodes)
            self.img = QemuImg()
            self.place = Place('--state', text)
            self._look(self.place)

    def _check_quorum(self) -> None:
        name = self.quorum.name
        if self.quorum.threshold is None:
            raise Failure(
                f"--state: QEMU can't tell whether '{name}' has state nodes, "
                'because too few of its children can be used; do without, '
                f'and see qemu-quorum explain {self.quorum.word} then',
                NOT_WELL)
        if not self.quorum.memory:
            raise Failure(
                f"--state: '{name}' has no state nodes, so one child can't "
                'have one; to give one to all children at once: '
                'quorum-state-create (QMP), see "Adding state nodes" in the '
                'manual')

    def _check_node(self) -> None:
        def refuse(text: str) -> Failure:
            return Failure(f"--state '{self.text}': this node {text}",
                           NOT_WELL)

        info = self.graph.nodes[self.name]
        size = info['image']['virtual-size']
        # That of the child before leaves with it
        before = self.graph.child(self.quorum.name, f'state.{self.slot}')
        users = self.graph.users(self.name)
        if len(users) > (self.name == before):
            raise refuse(f'is used by {users[0]}')
        if info['ro']:
            raise refuse('is read-only')
        if size < self.least:
            raise refuse(f'has {size} bytes; it must have {self.least} or '
                         'more')

    def _look(self, place: Place) -> None:
        place.look(self.img, self.least, False, False)
        if not place.blank and not self._was_ours(place.path):
            raise place.refuse('is there, and has data; give one that is '
                               'blank, or not there yet')

    def _was_ours(self, path: str) -> bool:
        """It belonged to a child that has left: QEMU takes it, too."""
        assert self.quorum.memory
        label = StateNode(path).label if path else None
        return label is not None and \
            id_text(label.set) == self.quorum.memory['set']

    def check_apart(self, replica: str) -> None:
        """It is not what the child is to be, which is a node or a file."""
        if replica == self.name or self.place and \
           os.path.exists(self.place.path) and os.path.exists(replica) and \
           os.path.samefile(self.place.path, replica):
            raise Failure(f"--state '{self.text}': that is the new child; its "
                          'state node must be another one')

    def open(self) -> None:
        """What this does, also if it fails, close() undoes."""
        place = self.place
        if not place:
            return
        place.make(self.img, self._new_size())
        node = place.node(self.name)
        # As the others have it
        for other in self._others()[:1]:
            node['cache'] = cache_options(other)
            node['file'] = {**node['file'], 'cache': node['cache']}
        try:
            self.monitor.change('blockdev-add', node)
        except Failure as failure:
            raise place.refuse(f'QEMU cannot open it: {failure}') from None
        self.opened = True

    def _others(self) -> List[Dictionary]:
        """The state nodes that are there"""
        assert self.quorum.memory
        return [self.graph.nodes[node['node-name']]
                for node in self.quorum.memory['nodes']]

    def _new_size(self) -> int:
        """As of a new quorum, or as the others have"""
        return max([state_size(self.quorum.data['size']), *(
            node['image']['virtual-size'] for node in self._others())])

    def close(self) -> None:
        if self.opened:
            try:
                self.monitor.change('blockdev-del', {'node-name': self.name})
            except Gone:
                pass        # QEMU has ended
        if self.place and self.place.made and not self.place.unmake():
            note(f"'{self.place.text}' was made, and can't be removed from "
                 'here')

    def add(self) -> None:
        """To the child, which is there"""
        self.monitor.change('x-blockdev-change', self._change())

    def _change(self) -> Dictionary:
        return {**state_change(self.quorum, self.slot), 'node': self.name}

    def command(self) -> str:
        """The same for people, for later"""
        return command('x-blockdev-change', self._change())

    def __str__(self) -> str:
        if not self.place:
            return f"'{self.name}'"
        made = 'the new file ' if self.place.made else ''
        return f"'{self.name}', in {made}'{self.place.text}'"
