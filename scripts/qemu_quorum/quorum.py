# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The quorum nodes behind a monitor, as they are"""

import re
from shlex import quote
import time
from typing import Dict, Iterator, List, Optional, Set, Tuple

from .basics import Dictionary, Failure
from .monitor import Monitor
from .text import (
    bar,
    human_size,
    human_time,
    latencies,
    printable,
    stamp,
    table,
)


LATE_MS = 1000              # a request that waits for longer is told of

COUNTERS = ('read-errors', 'write-errors', 'flush-errors', 'mismatches')
FIGURES = ('checked-bytes', 'mismatched-bytes', 'missing-bytes',
           'repaired-bytes', 'preferred-bytes', 'unrepairable-bytes')

# A child in one of these is asked for nothing
UNUSABLE_STATES = ('vacant', 'excluded', 'corrupt', 'lagging')


def is_late(child: Dictionary) -> bool:
    return bool(child.get('oldest-request-ms', 0) >= LATE_MS)


class Quorum:
    """
    A quorum node, as it was when it was asked.  @data is what --json prints.
    """

    def __init__(self, data: Dictionary) -> None:
        self.data = data
        self.name: str = data['node-name']
        self.word = quote(self.name)    # of a command line: '#block012'
        self.children: List[Dictionary] = data['children']
        self.threshold: Optional[int] = data.get('vote-threshold')
        self.scrub: Optional[Dictionary] = data.get('scrub')
        self.resync: Optional[Dictionary] = data.get('resync')
        # What is known over restarts
        self.memory: Optional[Dictionary] = data.get('state-nodes')
        data['state'] = self._state()
        data['advice'] = list(self._advice())

    def _state(self) -> str:
        if self.threshold is None or self.usable() < self.threshold:
            return 'FAILED'
        if any(child['state'] != 'ok' for child in self.children) or \
           self.bad_state_nodes():
            return 'DEGRADED'
        return 'ONLINE'

    def usable(self) -> int:
        """How many children are asked"""
        return sum(child['state'] not in UNUSABLE_STATES
                   for child in self.children)

    def votes(self) -> bool:
        """Whether a read compares anything"""
        return self.threshold != 1 or self.data.get('read-pattern') != 'fifo'

    def is_beginning(self) -> bool:
        """It is one that "adopt" makes, or asks for: there is but the disk."""
        return not self.votes() and all(
            (child['state'] == 'vacant') == (i > 0)
            for i, child in enumerate(self.children))

    def adopt(self) -> List[str]:
        """The command that has it vote, if there is one"""
        return [] if self.memory else [f'qemu-quorum adopt {self.word}']

    def replace(self, slot: str) -> str:
        """The command that puts another child there"""
        state = ' --state STATE' if self.memory else ''
        return f'qemu-quorum replace {self.word} {slot} FILE{state}'

    def state_node(self, slot: str) -> Optional[Dictionary]:
        """That of the child there, if it has one"""
        nodes = self.memory['nodes'] if self.memory else []
        for node in nodes:
            if node['child'] == slot:
                return dict(node)
        return None

    def bad_state_nodes(self) -> List[Dictionary]:
        """Those that don't get what a restart must not forget"""
        nodes = self.memory['nodes'] if self.memory else []
        return [node for node in nodes
                if node['state'] in ('failed', 'foreign')]

    def _advice(self) -> Iterator[str]:
        well = sum(child['state'] == 'ok' for child in self.children)
        if self.threshold is None:
            yield "QEMU can't describe the node: its children do not agree " \
                  'on a length any more'
        elif self.data['state'] == 'FAILED':
            yield 'too few children are left: the guest gets I/O errors'
        elif well < self.threshold:
            yield 'where children lack data at the same place, the guest ' \
                  'gets I/O errors'
        elif well < len(self.children) and well == self.threshold:
            yield 'no other child may fail until this is mended'

        if len(self.children) > 1 and not self.votes() and \
           not self.is_beginning():
            yield ': '.join(['nothing is voted on, and a replica that lies is '
                             'believed', *self.adopt()])
        yield from self._advice_of_late()
        for node in self.bad_state_nodes():
            yield f"the state node of {node['child']} " + (
                'belongs to another disk or side of a split'
                if node['state'] == 'foreign' else
                f"fails: {node.get('error', 'unknown error')}")
        lacking = []
        for child in self.children:
            slot, state = child['child'], child['state']
            if state == 'vacant' and self.is_beginning():
                if slot == 'children.1':
                    yield 'the disk has one replica yet: qemu-quorum adopt ' \
                          f'{self.word} --replica URI --replica URI'
            elif state == 'vacant':
                yield f'{slot} is vacant: {self.replace(slot)}'
            elif state in ('excluded', 'corrupt'):
                why = 'is corrupt' if state == 'corrupt' else \
                    'is excluded, its length is wrong'
                yield f'{slot} {why}: {self.replace(slot)}'
            elif state == 'lagging':
                pass        # it has been said
            elif child['stale-bytes']:
                lacking.append(f"{slot} lacks "
                               f"{human_size(child['stale-bytes'])}")
            elif child.get('unsure-bytes'):
                lacking.append(f"{slot} may have lost "
                               f"{human_size(child['unsure-bytes'])}")
            elif state == 'rebuilding':
                lacking.append(f'{slot} has not flushed all yet')
            elif any(child[name] for name in COUNTERS):
                yield f'{slot} has failed or lied before: watch it, and ' \
                      'replace it if the figures grow'
        if lacking and not (self.resync or
                            self.scrub and self.scrub['repair']):
            yield f"{', '.join(lacking)}: qemu-quorum scrub --stale " \
                  f'{self.word}'

    def _advice_of_late(self) -> Iterator[str]:
        for child in self.children:
            slot = child['child']
            drop = f'qemu-quorum drop {self.word} {slot}'
            if child['state'] == 'lagging':
                since = f" since {child['since']}" if 'since' in child else ''
                yield f'{slot} is lagging{since}: it has not answered in ' \
                      'time, and is left out until it answers again; to ' \
                      f'give it up: {drop}'
            elif is_late(child):
                seconds = child['oldest-request-ms'] / 1000
                yield f'{slot} has not answered for {seconds:.1f} s' + (
                    f'; if it goes on like that: {drop}'
                    if self.can_spare(child) else '')

    def lacking(self) -> bool:
        """Whether there is something that a child could be given now"""
        return any(child['state'] == 'rebuilding' or child['stale-bytes'] or
                   child.get('unsure-bytes') for child in self.children
                   if child['state'] not in UNUSABLE_STATES)

    def can_spare(self, child: Dictionary) -> bool:
        """Whether enough other children vote"""
        return self.threshold is not None and self.threshold <= sum(
            other['state'] in ('ok', 'unsure', 'stale')
            for other in self.children if other is not child)

    def _head(self) -> Iterator[Tuple[str, str]]:
        must = f'{self.threshold} of ' if self.threshold is not None else ''
        pattern = self.data.get('read-pattern')
        yield 'quorum', printable(self.name) + (
            f"   ({human_size(self.data['size'])})"
            if 'size' in self.data else '')
        yield 'state', self.data['state']
        yield 'vote', f'{must}{len(self.children)}' + (
            f', read-pattern {pattern}' if pattern else '')
        for advice in self.data['advice']:
            yield 'note', printable(advice)
        if self.scrub:
            yield 'scrub', scrub_line(self.scrub)
        if self.resync:
            yield 'resync', resync_line(self.resync)

    def lines(self) -> Iterator[str]:
        previous = ''
        for key, text in self._head():
            label = f'{key}:' if key != previous else ''
            yield f'{label:>8} {text}'
            previous = key
        yield ''
        # What most nodes have nothing of is not shown
        late = any(child.get('timeouts') for child in self.children)
        unsure = any(child.get('unsure-bytes') for child in self.children)
        timed = any(f'{what}-latency-us' in child for child in self.children
                    for what in ('read', 'write'))
        rows = [['SLOT', 'NODE', 'STATE', 'STALE', *['UNSURE'] * unsure,
                 'READ', 'WRITE', 'FLUSH', 'MISMATCH', 'REPAIRED',
                 *['TIMEOUT'] * late, *['LATENCY'] * timed, 'WHERE']]
        for child in self.children:
            row = [child['child'], child.get('node-name', '-'),
                   child['state'].upper() if child['state'] != 'ok' else 'ok']
            if child['state'] == 'vacant':
                row += ['-'] * (6 + unsure + late + timed)
            else:
                row += [human_size(child['stale-bytes'])
                        if child['stale-bytes'] else '0']
                row += [human_size(child['unsure-bytes'])
                        if child['unsure-bytes'] else '0'] * unsure
                row += [str(child[name]) for name in COUNTERS]
                row += [human_size(child['repaired-bytes'])
                        if child['repaired-bytes'] else '0']
                row += [str(child['timeouts'])] * late
                row += [latencies(child)] * timed
            rows.append([printable(cell) for cell in
                         [*row, child.get('error') or child.get('file', '')]])
        for line in table(rows, (0, 1, 2)):
            yield f'  {line}'


def scrub_line(scrub: Dictionary) -> str:
    """A bar, and what there is to say of a scrub that runs."""
    words = [bar(scrub['fraction'])]
    if scrub['paused']:
        words.append('PAUSED')
    elif scrub.get('speed'):
        words.append(f"{human_size(scrub['speed'])}/s")
        words.append(f"{human_time(scrub['seconds-left'])} left")
    words.append('repairs' if scrub['repair'] else 'only counts')
    for name, text in (('mismatched-bytes', 'differs'),
                       ('missing-bytes', 'missing'),
                       ('repaired-bytes', 'repaired'),
                       ('unrepairable-bytes', 'UNREPAIRABLE')):
        if scrub[name]:
            words.append(f'{human_size(scrub[name])} {text}')
    return ', '.join(words)


def resync_line(resync: Dictionary) -> str:
    """How much is to be copied yet"""
    line = f"{human_size(resync['remaining-bytes'])} to go"
    if resync['bytes-per-second']:
        line += f", {human_size(resync['bytes-per-second'])}/s, " \
                f"{human_time(resync['seconds-left'])} left"
    return line


def describe_resync(info: Dictionary) -> Dictionary:
    """With an estimate"""
    resync = dict(info)
    if info['bytes-per-second']:
        resync['seconds-left'] = round(info['remaining-bytes'] /
                                       info['bytes-per-second'])
    return resync


def describe_scrub(job: Dictionary,
                   since: Optional[Tuple[float, Dictionary]]) -> Dictionary:
    """
    The quorum-scrub @job, as query-block-jobs has it; @since: when it was
    asked for the last time, and what this returned then.
    """
    total, done = job['len'], job['offset']
    scrub = {
        'job-id': job['device'], 'sync': job['sync'], 'repair': job['repair'],
        'done-bytes': done, 'total-bytes': total,
        'fraction': min(done / total, 1.0) if total else 1.0,
        'paused': job['paused'], 'io-status': job['io-status'],
        'time': time.monotonic(),
        **{name: job[name] for name in FIGURES},
    }
    if since and since[1]['job-id'] == scrub['job-id']:
        took = max(scrub['time'] - since[0], 0.001)
        speed = (done - since[1]['done-bytes']) / took
        if speed > 0:
            scrub['speed'] = round(speed)
            scrub['seconds-left'] = round((total - done) / speed)
    return scrub


class System:
    """All quorum nodes behind a monitor."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.scrubs: Dict[str, Dictionary] = {}     # as they were last seen
        self.nodes: Dict[str, Dictionary] = {}      # by name, all of them
        # Since when, by node and slot, as far as events have told
        self.lagging: Dict[Tuple[str, str], str] = {}

    def _describe_child(self, stats: Dictionary,
                        info: Optional[Dictionary]) -> Dictionary:
        child = {**stats, **(info or {})}
        if not info:
            vacant = 'node-name' not in stats
            child['state'] = 'vacant' if vacant else \
                'stale' if stats['stale-bytes'] else 'ok'
        node = self.nodes.get(child.get('node-name', ''))
        if node:
            child['file'] = node['file']
            if node['drv'] == '?':
                child['error'] = 'its image is corrupt, or could not be read'
            elif child['state'] == 'excluded':
                child['error'] = 'its length is ' \
                    f"{node['image']['virtual-size']} bytes"
        return child

    def quorums(self) -> List[Quorum]:
        ask = self.monitor.ask
        self.nodes = {node['node-name']: node for node in
                      ask('query-named-block-nodes', flat=True)}
        scrubs = {}
        for job in ask('query-block-jobs'):
            if job['type'] == 'quorum-scrub':
                name = job['node-name']
                last = self.scrubs.get(name)
                scrubs[name] = describe_scrub(
                    job, (last['time'], last) if last else None)
        self.scrubs = scrubs

        found = []
        for stats in ask('query-blockstats', query_nodes=True):
            children = stats.get('driver-specific', {}).get('children')
            if children is None:
                continue
            name = stats['node-name']
            data: Dictionary = {'node-name': name}
            image = self.nodes.get(name, {}).get('image', {})
            infos: List[Optional[Dictionary]] = [None] * len(children)
            # It has none if too few of its children are there
            if 'format-specific' in image:
                specific = image['format-specific']['data']
                infos = specific['children']
                data['size'] = image['virtual-size']
                data['vote-threshold'] = specific['vote-threshold']
                data['read-pattern'] = specific['read-pattern']
                if 'state' in specific:
                    data['state-nodes'] = specific['state']
                if 'resync' in specific:
                    data['resync'] = describe_resync(specific['resync'])
            data['children'] = [self._describe_child(child, info)
                                for child, info in zip(children, infos)]
            for child in data['children']:
                since = self.lagging.get((name, child['child']))
                if since and child['state'] == 'lagging':
                    child['since'] = since
            if name in scrubs:
                data['scrub'] = {key: value for key, value
                                 in scrubs[name].items() if key != 'time'}
            found.append(Quorum(data))
        if not found and any(node['drv'] == 'quorum'
                             for node in self.nodes.values()):
            raise Failure('this QEMU has a quorum, but its driver does not '
                          'tell how the children are')
        return sorted(found, key=lambda quorum: quorum.name)

    def note(self, event: Dictionary) -> None:
        """Remember when a child began to lag."""
        data = event.get('data', {})
        if event['event'] == 'QUORUM_CHILD_STATE' and \
           data['state'] == 'lagging':
            self.lagging[data['reference'], data['child']] = stamp(event)

    def below(self, top: str) -> Tuple[Set[str], Set[str]]:
        """
        The names of the node @top and all below it; and those of them that
        are used by nothing but @top.
        """
        graph = self.monitor.ask('x-debug-query-block-graph')
        names = {node['id']: node['name'] for node in graph['nodes']
                 if node['type'] == 'block-driver'}

        def reached(start: Set[int], without: Set[int]) -> Set[int]:
            seen: Set[int] = set()
            new = start - without
            while new:
                seen |= new
                new = {edge['child'] for edge in graph['edges']
                       if edge['parent'] in new} - seen - without
            return seen

        first = {number for number, name in names.items() if name == top}
        children = {edge['child'] for edge in graph['edges']}
        others = reached({node['id'] for node in graph['nodes']} - children,
                         first)
        every = reached(first, set())
        return ({names[number] for number in every},
                {names[number] for number in every - others})

    def choose(self, name: Optional[str]) -> Quorum:
        """The node @name, or the only one that there is."""
        quorums = self.quorums()
        names = ', '.join(f"'{quorum.name}'" for quorum in quorums)
        if not quorums:
            raise Failure('there is no quorum node in this QEMU')
        if name is None:
            if len(quorums) > 1:
                raise Failure(f'which quorum node? There are {names}')
            return quorums[0]
        for quorum in quorums:
            if quorum.name == name:
                return quorum
        raise Failure(f"'{name}' is not a quorum node; there is {names}")


def find_slot(quorum: Quorum, text: str, new: bool = False) -> int:
    """The number of 'children.N' or 'N'; with @new, the next one, too"""
    match = re.fullmatch(r'(?:children\.)?(\d{1,4})', text)
    slots = len(quorum.children)
    if not match or int(match[1]) >= slots + new:
        after = f', and children.{slots} would be a new one' if new else ''
        raise Failure(f"'{text}' is not a slot of '{quorum.name}': there is "
                      f'children.0 to children.{slots - 1}{after}')
    return int(match[1])
