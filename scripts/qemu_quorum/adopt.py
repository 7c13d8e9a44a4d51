# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command adopt"""

import argparse
from functools import partial
import re
from shlex import quote
from typing import Callable, Iterator, List, Optional, Tuple

from .basics import NOT_WELL, WELL, Dictionary, Failure, Gone
from .disks import Graph, check_adoptable
from .insertion import (
    Impossible,
    Insertion,
    alone,
    beginning,
    find_insertion,
)
from .layout import (
    check_distinct,
    check_name,
    check_threshold,
    child_node,
    choose_states,
    least_state_size,
    note,
    note_common_fate,
    note_threshold,
)
from .monitor import ExecuteError, Monitor
from .places import Place
from .printing import FORMS, quote_node
from .programs import QemuImg
from .quorum import Quorum
from .scrub import Scrub, scrub_report, scrub_status
from .statefile import RECORDS, state_size
from .text import fold, human_size

ROUNDS = 3                  # of filling what is missing, if a replica errs
FLUSH_SECONDS = 10.0        # in which what is filled is flushed, too


class Adopt(Scrub):
    """
    Turn a disk that a guest uses into a quorum.  Up to the end the disk has
    all data, as without us: so what was done can be undone at any time, unless
    the disk has failed, and the new replicas have not.
    """
    def __init__(self, args: argparse.Namespace, monitor: Monitor) -> None:
        super().__init__(args, monitor)
        self.img = QemuImg()
        self.graph = Graph(monitor)
        self.to_undo: List[Tuple[str, Callable[[], None]]] = []
        self.node = self.graph.find(args.disk)
        self.name = args.name or self._choose_name()
        self.replicas = [Place('--replica', text) for text in args.replica]
        self.states: List[Place] = []
        self.job: Optional[str] = None  # that is running
        # When it has been looked at:
        self.insertion: Insertion
        self.size = self.threshold = 0
        self.children: List[str] = []   # nodes: the disk, then the others

    def _choose_name(self) -> str:
        if self.graph.nodes[self.node]['drv'] == 'quorum':
            return self.node
        base = re.sub(r'[^A-Za-z0-9._-]', '', self.args.disk)[:17]
        return f"{base if base[:1].isalpha() else f'disk{base}'[:17]}-quorum"

    # Whether it can be done

    def _look(self) -> None:
        args = self.args
        self._check_name()
        check_adoptable(self.graph, args.disk, self.node)
        self.insertion = find_insertion(self.graph, args.disk, self.node,
                                        self.name, len(self.replicas))
        self._choose_children()
        below = self.graph.nodes[self.insertion.below]
        self.size = below['image']['virtual-size']
        for replica in self.replicas:
            replica.look(self.img, self.size, True, args.force)
        for state in self.states:
            if not state.opened:
                state.look(self.img,
                           least_state_size(self.size, len(self.children)),
                           False, args.force)
        replicas = self.replicas
        if below['file'].startswith('/'):
            replicas = [Place('DISK', below['file']), *replicas]
        check_distinct([*replicas, *self.states], args.force)
        note_common_fate(replicas, self.states)
        note_threshold(self.threshold, len(self.children))
        if not self.states:
            note('without --state, a restart forgets which replica lacks what')

    def _check_name(self) -> None:
        there = self.graph.nodes[self.node]['drv'] == 'quorum'
        check_name('DISK' if there else '--name', self.name)
        if there and self.name != self.node:
            raise Failure(f"--name '{self.name}': the quorum is there, and is "
                          f"called '{self.node}'; leave --name out")
        if not there and self.name == self.node:
            raise Failure(f"--name '{self.name}': so the disk itself is "
                          'called; choose another name')

    def _choose_children(self) -> None:
        there = [self.insertion.below, *self.insertion.filled]
        count = len(there) + len(self.replicas)
        if not 2 <= count <= RECORDS:
            raise Failure('give --replica once for each new replica, best '
                          f'twice, and {RECORDS - 1} times at most; the disk '
                          'itself is the first one')
        self.threshold = check_threshold(self.args.threshold, count)
        self._choose_states(count)
        new = [f'{self.name}-{i}' for i in range(len(there), count)]
        self.children = [*there, *new]
        names = [*new, *(self._state(i) for i, state in enumerate(self.states)
                         if not state.opened)]
        for name in [*names, *[self.name] * (self.name != self.node)]:
            if name in self.graph.nodes:
                raise Failure(f"there is a node '{name}' already: choose "
                              'another name by --name', NOT_WELL)

    def _choose_states(self, count: int) -> None:
        """Those that are open already are used: a call before was killed."""
        names = [self._state(i) for i in range(count)]
        there: List[Optional[Dictionary]] = [
            self.graph.nodes.get(name) if self.name == self.node else None
            for name in names]
        if self.args.state:
            self.states = choose_states(self.name, self.args.state, count)
        elif all(there):
            self.states = [Place('--state', node['file'])
                           for node in there if node]
        for name, place, node in zip(names, self.states, there):
            if not node:
                continue
            place.size = node['image']['virtual-size']
            place.opened = self._is_free(name, place, node)
            if not place.opened:
                raise place.refuse(
                    f"there is a node '{name}' already, which has another "
                    'file, or is in use: close it first (blockdev-del, QMP)')

    def _is_free(self, name: str, place: Place, node: Dictionary) -> bool:
        """That nothing but we have opened it for this"""
        try:
            other = Place('--state', node['file'])
        except Failure:
            return False
        return other.identity() == place.identity() and \
            not self.graph.users(name)

    def _new(self) -> Iterator[Tuple[int, Place]]:
        """The new replicas, and their slots"""
        return enumerate(self.replicas,
                         len(self.children) - len(self.replicas))

    def _state(self, slot: int) -> str:
        return f'{self.name}-s{slot}'

    def _plan(self) -> Iterator[str]:
        """What would be done"""
        def size_of(place: Place) -> str:
            return human_size(state_size(self.size) if place in self.states
                              else self.size)

        for place in [*self.replicas, *self.states]:
            verb = 'make' if place.size is None else 'use' if place.blank \
                else 'overwrite'
            yield f"{verb} '{place.text}' ({size_of(place)})"
        yield f"open the quorum '{self.name}'; {self.insertion.text}"
        yield 'fill what is new'
        yield 'compare all replicas'
        yield f'let them vote: {self.threshold} of {len(self.children)} ' \
              'must agree'
        if self.states:
            yield 'begin to use the state nodes'

    # Doing it, and undoing it

    def _undo_later(self, text: str, action: Callable[[], None]) -> None:
        self.to_undo.append((text, action))

    def _change_and_back(self, text: str, command: str, arguments: Dictionary,
                         back: str, back_arguments: Dictionary) -> None:
        self.monitor.change(command, arguments)
        self._undo_later(text, lambda: self.monitor.change(back,
                                                           back_arguments))

    def _make(self, place: Place, size: int) -> None:
        def unmake() -> None:
            if not place.unmake():
                note(f"'{place.text}' was made, and can't be removed from "
                     'here')

        try:
            place.make(self.img, size)
        finally:
            if place.made:
                self._undo_later(f"remove '{place.text}'", unmake)

    def _open(self, place: Place, node: Dictionary) -> None:
        name = node['node-name']
        try:
            self._change_and_back(f"close '{name}'", 'blockdev-add', node,
                                  'blockdev-del', {'node-name': name})
        except Failure as failure:
            raise place.refuse(f'QEMU cannot open it: {failure}') from None

    def _prepare(self) -> None:
        """Open what is new; the guest has nothing to do with it yet."""
        for replica in self.replicas:
            self._make(replica, self.size)
        for state in self.states:
            if not state.opened:
                self._make(state, state_size(self.size))
        cache = self.graph.cache_of(self.insertion.below)
        for i, replica in self._new():
            self._open(replica, child_node(replica, self.children[i], cache))
        for i, state in enumerate(self.states):
            if not state.opened:
                self._open(state, state.node(self._state(i)))
        self._check_wanted()

    def _insert(self) -> None:
        """
        Let the guest use the quorum, with the disk as its only child, which
        changes nothing for the guest; then let the quorum have the others.
        """
        if self.name != self.node:
            self._change_and_back(
                f"close '{self.name}'", 'blockdev-add',
                alone(self.name, self.insertion.below, len(self.children)),
                'blockdev-del', {'node-name': self.name})
        self.insertion.insert(self.monitor, self.name)
        self._undo_later('give the guest its disk', self._remove)
        for i, _ in self._new():
            self._add(i)
        self._check_wanted()

    def _remove(self) -> None:
        self._check_disk()
        self.insertion.remove(self.monitor)

    def _add(self, slot: int) -> None:
        place = {'parent': self.name, 'child': f'children.{slot}'}

        def take_out() -> None:
            self._check_disk()
            self.monitor.change('x-blockdev-change', place)

        self.monitor.change('x-blockdev-change', {
            **place, 'node': self.children[slot], 'in-sync': False})
        self._undo_later(f'take out children.{slot}', take_out)

    def _check_disk(self) -> None:
        """
        A write that has failed on the disk alone was acknowledged, for it is
        on a new replica, which has to stay then.
        """
        disk = self._quorum().children[0]
        if disk['state'] != 'ok':
            raise Failure(
                f"'{self.args.disk}' is {disk['state']}: it has failed, and "
                'lacks what the new replicas have, so they have to stay')

    def _quorum(self) -> Quorum:
        return self.system.choose(self.name)

    def _describe(self, child: Dictionary) -> str:
        slot = int(child['child'].partition('.')[2])
        text = dict(self._new())[slot].text if slot in dict(self._new()) \
            else child.get('file', child['node-name'])
        return f"{child['child']} ('{text}')"

    def _scrub(self, repair: bool, sync: str) -> Dictionary:
        self.job = self._start_scrub(self._quorum(), repair, sync,
                                     self.args.speed, 'ignore')
        figures = self._wait_for_scrub(self.name, self.job)
        self.job = None
        return figures

    def _end_scrub(self) -> None:
        """It must not use what is about to be closed."""
        if self.job is None:
            return
        try:
            self.monitor.change('block-job-cancel', {'device': self.job})
        except Failure:
            pass        # it has ended by itself
        while any(job['device'] == self.job for job in
                  self.monitor.ask('query-block-jobs')):
            self.monitor.sleep(0.1)
        self.job = None

    def _fill(self) -> None:
        self.say(f'{self.name}: {len(self.children) - 1} replicas are being '
                 'filled')
        for replica in self.replicas:
            if not replica.made:
                text = f"'{replica.text}' was overwritten, in part at least"
                self._undo_later('tell so', partial(note, text))
        for _ in range(ROUNDS):
            figures = self._scrub(True, 'stale')
            for line in scrub_report(self.name, figures, self.ranges):
                self.say(line)
            bad = self._wait_for_children()
            if not bad:
                return
        raise Failure('; '.join(
            f"{self._describe(child)} could not be filled: it is "
            f"{child['state']}, and lacks {human_size(child['stale-bytes'])}; "
            f"{child['write-errors']} writes and {child['flush-errors']} "
            'flushes have failed on it' for child in bad), NOT_WELL)

    def _wait_for_children(self) -> List[Dictionary]:
        """Those that are not well, after there was time for a flush"""
        seconds = FLUSH_SECONDS
        while True:
            bad = [child for child in self._quorum().children
                   if child['state'] != 'ok']
            waits = all(child['state'] == 'rebuilding' and
                        not child['stale-bytes'] for child in bad)
            if not bad or not waits or seconds <= 0:
                return bad
            self.monitor.sleep(0.1)
            self._check_wanted()
            seconds -= 0.1

    def _compare(self) -> None:
        """Nothing has been read from the new replicas yet."""
        self.say(f'{self.name}: the replicas are being compared')
        figures = self._scrub(False, 'full')
        if scrub_status(figures) == WELL:
            return
        slots = {slot for found in self.ranges for slot in found['children']}
        bad = [self._describe(child) for child in self._quorum().children
               if child['child'] in slots and child['child'] != 'children.0']
        size = sum(figures[key] for key in (
            'mismatched-bytes', 'missing-bytes', 'unrepairable-bytes'))
        raise Failure(
            f"{', '.join(bad) or 'a new replica'}: after it was filled, "
            f'{human_size(size)} can not be read as they were written: '
            f"{figures.get('error', 'its storage is bad')}", NOT_WELL)

    def _reopen(self, options: Dictionary) -> None:
        self.monitor.change('blockdev-reopen', {'options': [options]})

    def _vote(self) -> None:
        first = beginning(self.name, self.children)
        self._reopen({**first, 'read-pattern': 'quorum',
                      'vote-threshold': self.threshold,
                      'rewrite-corrupted': True})
        self._undo_later('let the disk count alone', lambda:
                         self._reopen(first))
        if self.states:
            self.monitor.change('quorum-state-create', {
                'node': self.name, 'state': [
                    self._state(i) for i in range(len(self.states))]})

    def _undo(self, failure: BaseException) -> None:
        """Raises what there is to be said in the end, unless that is a bug."""
        status = failure.status if isinstance(failure, Failure) else NOT_WELL
        text = 'end the scrub'
        try:
            self._end_scrub()
            while self.to_undo:
                text, action = self.to_undo[-1]
                action()
                self.to_undo.pop()
        except Gone:
            raise Failure(
                f"the connection is lost, QEMU has ended: '{self.args.disk}' "
                'has all data, if it has not failed; start it with that as '
                'before. What was made for the new replicas is worth nothing '
                'yet', NOT_WELL) from None
        except (Failure, ExecuteError) as other:
            raise Failure(
                f"{failure}; and this could not be undone ({text}): {other}. "
                f"The guest goes on; how the quorum '{self.name}' is tells: "
                f'qemu-quorum explain {quote(self.name)}', status) from None
        if isinstance(failure, (Failure, ExecuteError, OSError)):
            raise Failure(f"{failure}; all is undone, and the guest is on "
                          f"'{self.args.disk}' as before", status) from None

    # What comes of it

    def _configuration(self) -> Dictionary:
        """For the next start"""
        cache = self.graph.cache_of(self.insertion.below)
        new = dict(self._new())
        result = {
            'driver': 'quorum', 'node-name': self.name,
            'vote-threshold': self.threshold, 'rewrite-corrupted': True,
            'discard': 'unmap', 'children': [
                child_node(new[i], f'{self.name}-{i}', cache) if i in new else
                self.graph.describe_named(node, f'{self.name}-{i}')
                for i, node in enumerate(self.children)]}
        if self.states:
            result['state'] = [state.node(self._state(i))
                               for i, state in enumerate(self.states)]
        return result

    def _print_configuration(self) -> None:
        node = self._configuration()
        for line in fold(
                f"For the next start, put this in place of the options of "
                f"'{self.args.disk}', and let its device or export use "
                f"'{self.name}'. A start without the new replicas would leave "
                'them behind, and a later one with them would outvote what '
                'was written meanwhile.'):
            self.say(line)
        form = self.args.print
        text = f'-blockdev {quote_node(node)}' if form == 'blockdev' else \
            FORMS[form](node)
        for line in text.splitlines():
            self.say(line)

    def adopt(self) -> int:
        try:
            self._look()
        except Impossible as impossible:
            self.say('The shortest way with an interruption:')
            for number, step in enumerate(impossible.steps, 1):
                for line in f'{number}. {step}'.splitlines():
                    self.say(line)
            raise
        if self.args.dry_run:
            for line in self._plan():
                self.say(f'would {line}')
            self._print_configuration()
        else:
            self._end_between_commands()
            try:
                self._prepare()
                self._insert()
                self._fill()
                self._compare()
                self._vote()
            except BaseException as error:
                self._undo(error)
                raise
            self.say(f"{self.name}: the guest has {len(self.children)} "
                     f'replicas now, and {self.threshold} must agree')
            self._print_configuration()
        self.result(**{'node-name': self.name, 'size': self.size,
                       'vote-threshold': self.threshold,
                       'done': not self.args.dry_run,
                       'blockdev': self._configuration()})
        return WELL
