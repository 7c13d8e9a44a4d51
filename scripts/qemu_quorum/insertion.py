# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""How a quorum gets between a guest and its disk while the guest runs"""

import re
from shlex import quote
from typing import List, Optional, Sequence

from .basics import NOT_WELL, Dictionary, Failure
from .disks import Graph, User, cache_options
from .monitor import Monitor
from .printing import libvirt, quote_node

LIBVIRT = re.compile(r'libvirt-\d+-(format|storage)')


class Impossible(Failure):
    """It can't be done; there is another way, with an interruption."""

    def __init__(self, why: str, steps: List[str]) -> None:
        super().__init__(why, NOT_WELL)
        self.steps = steps


class Insertion:
    """
    Makes the users of a node use a quorum instead, whose first child the node
    @below is: in one step, with all requests drained, so that each of them
    goes either there or here.  @filled: children that are there already.
    """
    def __init__(self, below: str, text: str,
                 filled: Optional[List[str]] = None) -> None:
        self.below, self.text, self.filled = below, text, filled or []

    def insert(self, monitor: Monitor, quorum: str) -> None:
        raise NotImplementedError

    def remove(self, monitor: Monitor) -> None:
        """Undo it."""
        raise NotImplementedError


class OfDevice(Insertion):
    """
    A device takes another node as its drive.  What it used may be anything: an
    image of any format, or a protocol node.
    """
    def __init__(self, node: str, device: Dictionary) -> None:
        qdev = device['qdev']
        self.path = qdev if qdev.startswith('/') else \
            f'/machine/peripheral/{qdev}'
        super().__init__(node, f"the device '{device['device'] or qdev}' is "
                         f"given it instead of node '{node}' (qom-set)")

    def _set(self, monitor: Monitor, node: str) -> None:
        monitor.change('qom-set', {'path': self.path, 'property': 'drive',
                                   'value': node})

    def insert(self, monitor: Monitor, quorum: str) -> None:
        self._set(monitor, quorum)

    def remove(self, monitor: Monitor) -> None:
        self._set(monitor, self.below)


class BelowRaw(Insertion):
    """
    Exports can't be given another node, but a raw node can be given another
    one below.  A reopen forgets each option that it does not give.  What QEMU
    tells of them is given; of discard=unmap it does not, which can always be
    given, because the node below has the last word on it.
    """
    def __init__(self, graph: Graph, node: str, below: str) -> None:
        super().__init__(below, f"node '{node}' is given it instead of node "
                         f"'{below}' (blockdev-reopen)")
        info = graph.nodes[node]
        self.options = {
            'driver': 'raw', 'node-name': node, 'discard': 'unmap',
            'detect-zeroes': info['detect_zeroes'],
            'cache': cache_options(info)}

    def _reopen(self, monitor: Monitor, below: str) -> None:
        monitor.change('blockdev-reopen', {
            'options': [{**self.options, 'file': below}]})

    def insert(self, monitor: Monitor, quorum: str) -> None:
        self._reopen(monitor, quorum)

    def remove(self, monitor: Monitor) -> None:
        self._reopen(monitor, self.below)


class ThereAlready(Insertion):
    """A quorum that does not vote yet.  It stays, whatever becomes of us."""

    def __init__(self, children: List[str], slots: int) -> None:
        super().__init__(children[0], 'it is there, above node '
                         f"'{children[0]}'", children[1:])
        self.children = [*children, *[None] * (slots - len(children))]

    def insert(self, monitor: Monitor, quorum: str) -> None:
        monitor.change('blockdev-reopen', {
            'options': [beginning(quorum, self.children)]})

    def remove(self, monitor: Monitor) -> None:
        pass


def beginning(name: str, children: Sequence[object]) -> Dictionary:
    """
    The options of a quorum that does not vote.  Reads go to the first child
    that has the data, which is the disk as long as it does not fail.
    """
    return {'driver': 'quorum', 'node-name': name, 'vote-threshold': 1,
            'read-pattern': 'fifo', 'discard': 'unmap',
            'children': list(children)}


def alone(name: str, child: object, slots: int) -> Dictionary:
    """The same if there is but the disk: the other slots are vacant."""
    return beginning(name, [child, *[None] * (slots - 1)])


def find_insertion(graph: Graph, disk: str, node: str, name: str, added: int
                   ) -> Insertion:
    """
    For so many replicas that are added.  Raises Impossible, or a Failure that
    another command mends.
    """
    users = graph.users(node)
    writers = [user for user in users if user.writes]
    devices = [graph.device_of(user) for user in writers]
    if any(LIBVIRT.fullmatch(each) for each in graph.below(node)):
        raise Impossible(
            f"'{disk}' belongs to libvirt: it would not know of the quorum, "
            'and its next snapshot, migration or start would leave the '
            'replicas out', steps_for_libvirt(graph, node, name, 1 + added))
    if graph.nodes[node]['drv'] == 'quorum':
        if not writers:
            raise Failure(f"nothing writes to '{node}': let the guest use it "
                          'first', NOT_WELL)
        return check_quorum(graph, node, added)
    if not writers:
        raise Failure(f"nothing writes to '{disk}', so it is no disk of a "
                      'guest: to copy it into a new quorum: qemu-quorum create'
                      ' --from', NOT_WELL)
    if len(writers) == 1 and devices[0]:
        return OfDevice(node, devices[0])
    others = ', '.join(str(user) for user in writers)
    above = [user.name for user in writers if user.kind == 'block-driver']
    if above:
        raise Failure(f"'{disk}' is used by {others}: name that one instead, "
                      f'as qemu-quorum adopt {quote(above[0])}', NOT_WELL)
    below = graph.child(node, 'file')
    if graph.nodes[node]['drv'] == 'raw' and below and not graph.window(node):
        return BelowRaw(graph, node, below)
    raise Impossible(
        f"'{disk}' is used by {others}, directly: only a device that is its "
        'only user can be given another node, or a raw node that lies between '
        "(and shows all of it), and there is none",
        steps_for_exports(graph, writers, node, name, 1 + added))


def check_quorum(graph: Graph, node: str, added: int) -> Insertion:
    """It can be adopted if it has not begun to vote."""
    specific = graph.nodes[node]['image']['format-specific']['data']
    children = [child.get('node-name') for child in specific['children']]
    while children and not children[-1]:
        children.pop()
    votes = specific['vote-threshold'] != 1 or \
        len(children) > 1 and specific['read-pattern'] != 'fifo'
    if votes or 'state' in specific or not children or not all(children):
        raise Failure(f"'{node}' is a quorum already: to add a replica: "
                      f'qemu-quorum replace {quote(node)} SLOT FILE', NOT_WELL)
    return ThereAlready(children, len(children) + added)


def first_options(graph: Graph, node: str, name: str, slots: int
                  ) -> Dictionary:
    child: Optional[Dictionary] = graph.describe(node)
    return alone(name, child or f'OPTIONS OF {node}', slots)


def steps_for_libvirt(graph: Graph, node: str, name: str, slots: int
                      ) -> List[str]:
    return [
        'virsh shutdown DOMAIN',
        f"virsh edit DOMAIN: take out the <disk> of '{node}', and put this "
        'before </domain>; let the -device be what the <disk> was (its bus, '
        'serial, bootindex), and add a socket for qemu-quorum (-qmp):\n' +
        libvirt(first_options(graph, node, name, slots)),
        'virsh start DOMAIN',
        f'qemu-quorum adopt {quote(name)} --replica URI --replica URI --print '
        'libvirt: while the guest runs; then virsh edit DOMAIN once more']


def steps_for_exports(graph: Graph, writers: List[User], node: str, name: str,
                      slots: int) -> List[str]:
    exports = any(not user.name for user in writers)
    return [
        'have QEMU open the quorum (QMP): blockdev-add ' +
        quote_node(first_options(graph, node, name, slots) if not exports else
                   alone(name, node, slots)),
        *(['block-export-del, then block-export-add with node-name '
           f"'{name}' and all else as it was: clients that reconnect (NBD: "
           'reconnect-delay) only wait'] if exports else
          [f"restart it with the devices using '{name}' instead"]),
        f'qemu-quorum adopt {quote(name)} --replica URI --replica URI: while '
        'the guest runs']
