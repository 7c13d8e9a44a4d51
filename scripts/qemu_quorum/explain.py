# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command explain"""

from typing import Iterator, List, NamedTuple

from .basics import Dictionary
from .newstate import commands_to_add, commands_to_change
from .quorum import Quorum, is_late, resync_line, scrub_line
from .status import Status, health
from .text import fold, human_size, printable


class Finding(NamedTuple):
    """Something that is to be said of a quorum"""
    what: str               # is so
    means: str
    mend: List[str]         # commands, and what is to be done otherwise
    wrong: bool = True      # it should be mended


def place_of(child: Dictionary) -> str:
    """Which replica that is, for somebody who has to walk there"""
    where = child.get('file')
    return f"{child['child']}" + (
        f" (node {child['node-name']}{', ' + where if where else ''})"
        if 'node-name' in child else '')


def explain(quorum: Quorum) -> Iterator[Finding]:
    """Everything that there is to say"""
    if quorum.is_beginning():
        yield Finding(
            'The disk has one replica yet, children.0.',
            'It is as safe as without a quorum.',
            [f'qemu-quorum adopt {quorum.word} --replica URI --replica URI'])
    else:
        yield from explain_node(quorum)
    for child in quorum.children:
        if not (quorum.is_beginning() and child['state'] == 'vacant'):
            yield from explain_child(quorum, child)
    if len(quorum.children) > 1 and not quorum.votes():
        yield Finding(
            'Nothing is voted on: a read asks one replica (vote-threshold is '
            '1, and read-pattern fifo).',
            'One that fails is noticed, and one that lies is believed.',
            [f'to fill and compare what is new, and have it vote then: {adopt}'
             for adopt in quorum.adopt() if not quorum.is_beginning()], False)
    yield from explain_state_nodes(quorum)


def explain_node(quorum: Quorum) -> Iterator[Finding]:
    """How many replicas more may fail"""
    count, must = len(quorum.children), quorum.threshold
    if must is None:
        yield Finding(
            'Too few replicas agree on how long the disk is, or can be used '
            'at all.',
            'The guest gets I/O errors, and QEMU can not describe the disk.',
            ['bring back the servers of the replicas that are named below',
             f"then, for one that stays away: {quorum.replace('SLOT')}"])
        return
    usable = quorum.usable()
    well = sum(child['state'] == 'ok' for child in quorum.children)
    if usable < must:
        yield Finding(
            f'Only {usable} of {count} replicas can be used, and {must} must '
            'agree.',
            'The guest gets I/O errors, rather than data that nobody vouches '
            'for. What it had been told is written is still on the replicas.',
            ['bring back the servers of the replicas that are named below: '
             'the disk goes on by itself',
             'a guest that was stopped by the errors goes on with: cont '
             '(QMP)'])
    elif well < must:
        yield Finding(
            f'Only {well} of {count} replicas have everything, and {must} '
            'must agree.',
            'Where two of them lack something at the same place, the guest '
            'gets I/O errors.',
            [f'qemu-quorum resync {quorum.word}'])
    elif well < count and well == must:
        yield Finding(
            f'{well} of {count} replicas are well, and that many must agree.',
            'The guest notices nothing, but no other replica may fail until '
            'this is mended.', [])


def errors_of(child: Dictionary) -> str:
    """What it was asked for in vain"""
    words = [f'{child[key]} {text}' for key, text in (
        ('read-errors', 'reads'), ('write-errors', 'writes'),
        ('flush-errors', 'flushes')) if child[key]]
    return ', '.join(words)


def explain_child(quorum: Quorum, child: Dictionary) -> Iterator[Finding]:
    """How a replica is, and what it has done before"""
    state, place = child['state'], place_of(child)
    replace = quorum.replace(child['child'])
    if state == 'vacant':
        why = f": {child['error']}" if 'error' in child else '.'
        yield Finding(
            f'{place} has no replica{why}',
            'It could not be opened, or was taken out. Meanwhile the disk '
            'has one replica less.', [replace])
    elif state == 'corrupt':
        yield Finding(
            f'{place} is corrupt.', 'QEMU does not use its image any more; '
            'what is in it can not be trusted.', [replace])
    elif state == 'excluded':
        why = child.get('error', 'its length is not known')
        yield Finding(
            f'{place} is excluded: {why}.',
            'It takes no part in anything, because it has not the length of '
            'the disk.', ['if its server is away, bring it back', replace])
    elif state == 'lagging':
        since = f" since {child['since']}" if 'since' in child else ''
        yield Finding(
            f'{place} is lagging: it has not answered in time{since}.',
            'The disk goes on without it, and takes it back when it answers '
            'again. What is written meanwhile it lacks.',
            ['look at its server and the network',
             'to give it up: qemu-quorum drop '
             f'{quorum.word} {child["child"]}'])
    else:
        yield from explain_lacking(quorum, child)
        yield from explain_late(quorum, child)
        yield from explain_past(quorum, child)


def explain_lacking(quorum: Quorum, child: Dictionary) -> Iterator[Finding]:
    """It is asked, but does not have everything."""
    state, place = child['state'], place_of(child)
    resync = f'qemu-quorum resync {quorum.word}'
    if quorum.resync:
        mend = [f'it is being mended: {resync_line(quorum.resync)}',
                f'to wait for the end: {resync}']
    elif quorum.scrub and quorum.scrub['repair']:
        mend = [f'it is being mended: {scrub_line(quorum.scrub)}']
    else:
        mend = [resync]
    if state == 'rebuilding':
        lacks = human_size(child['stale-bytes'])
        yield Finding(
            f'{place} is rebuilding: it is new, and lacks {lacks}.',
            'It gets what the guest writes, and votes where it has data; it '
            'can not stand in for another replica yet.', mend)
    elif state == 'stale':
        yield Finding(
            f'{place} is stale: it has missed writes, and lacks '
            f"{human_size(child['stale-bytes'])}.",
            'Its server was away, or has failed. It gets new writes, but has '
            'no vote where it lacks data.',
            ['if its server is still away, bring it back'] * bool(
                errors_of(child)) + mend)
    elif child.get('unsure-bytes'):
        yield Finding(
            f'{place} is unsure: it may have lost '
            f"{human_size(child['unsure-bytes'])}.",
            'Its server was restarted, or a flush has failed, before these '
            'were on its disk. Until they are compared with the others, it '
            'only supports what another replica says.', mend)


def explain_late(quorum: Quorum, child: Dictionary) -> Iterator[Finding]:
    """It has not been given up yet."""
    if is_late(child):
        seconds = child['oldest-request-ms'] / 1000
        yield Finding(
            f'{place_of(child)} is late: it has not answered for '
            f'{seconds:.1f} s.',
            'The guest waits for it. If enough others have answered, the '
            'disk goes on without it after child-timeout (10 s, if nothing '
            'else was said).',
            ['look at its server and the network'] +
            [f'to go on at once: qemu-quorum drop {quorum.word} '
             f'{child["child"]}'] * quorum.can_spare(child))


def explain_past(quorum: Quorum, child: Dictionary) -> Iterator[Finding]:
    """What its counters tell, since the disk was opened"""
    place, slot = place_of(child), child['child']
    if child['mismatches']:
        yield Finding(
            f'{place} has lied: it was outvoted in '
            f"{child['mismatches']} reads.",
            'It has returned other data than the others have agreed on, and '
            'no error. The guest got the right data. '
            f"{human_size(child['repaired-bytes'])} of it were repaired.",
            [f'to see whether there is more: qemu-quorum scrub --check '
             f'{quorum.word}',
             f'if the figure grows: {quorum.replace(slot)}'], False)
    if child['state'] == 'ok' and errors_of(child):
        yield Finding(
            f'{place} has failed before: {errors_of(child)}.',
            'It has all data again. Once may be a server that was restarted; '
            'often is a disk, a network or a server that fails.',
            [f'if the figures grow: {quorum.replace(slot)}'], False)
    if child['state'] == 'ok' and child.get('timeouts'):
        yield Finding(
            f"{place} was given up {child['timeouts']} times, because it did "
            'not answer in time.', 'It answers now, and has all data again.',
            ['look at its server and the network if that goes on'], False)


def explain_state_nodes(quorum: Quorum) -> Iterator[Finding]:
    """What a restart would know"""
    info = quorum.memory
    if not info:
        yield Finding(
            'There are no state nodes.',
            'Which replica lacks what is known until QEMU ends; after a '
            'crash, see "Crash or power failure" in the manual.',
            ['a disk that is in use can be given state nodes: see "Adding '
             'state nodes" in the manual'], False)
        return
    for slot, child in enumerate(quorum.children):
        if child['state'] not in ('vacant', 'corrupt', 'excluded') and \
           not quorum.state_node(child['child']):
            yield Finding(
                f'{place_of(child)} has no state node.',
                'What it lacks is not written down, so each start takes it '
                'for a new replica, and fills all of it once more.',
                commands_to_add(quorum, slot))
    nodes = info['nodes']
    failing = [node for node in nodes if node['state'] == 'failed']
    must = min(quorum.threshold or 1, len(nodes))
    for node in failing:
        few = len(nodes) - len(failing) < must
        yield Finding(
            f"The state node of {node['child']} ({node['node-name']}) fails: "
            f"{node.get('error', 'it can not be read or written')}.",
            'Too few are left: writes to places that are not marked yet fail.'
            if few else 'The disk goes on. It is tried again, and gets what '
            'it has missed; if QEMU ends before, it is not believed.',
            ['look at its file system or server: is it full, or away?'])
    for node in nodes:
        called = f"The state node of {node['child']} ({node['node-name']})"
        if node['state'] == 'old':
            yield Finding(
                f'{called} is behind.', 'It was rolled back, or not there '
                'for a while. It gets what is new with the next write.', [],
                False)
        elif node['state'] == 'foreign':
            slot = int(node['child'].partition('.')[2])
            yield Finding(
                f'{called} belongs to another disk, or to another side of a '
                'split.', 'Nothing is written to it, so its replica is a '
                'newcomer at the next start.',
                commands_to_change(quorum, slot))
        elif node['state'] == 'blank':
            yield Finding(
                f'{called} is blank: nothing was written yet.',
                'It is begun with the first write.',
                ['leave state-init=on where it is until then'], False)
    if info['unresolved-bytes']:
        yield Finding(
            f"{human_size(info['unresolved-bytes'])} are unresolved: QEMU "
            'had ended without closing the disk, and was perhaps writing '
            'there.', 'The replicas may differ there. What is read is voted '
            'on, and the rest is compared in the background.',
            [f'to have it done now: qemu-quorum scrub --stale {quorum.word}'],
            False)


class Explain(Status):
    """What is wrong, what it means, and how to mend it"""

    def explain(self) -> int:
        """With the exit status of "status"."""
        quorums = self.look()
        findings = [list(explain(quorum)) for quorum in quorums]
        self.result(nodes=[
            {'node-name': quorum.name, 'state': quorum.data['state'],
             'findings': [found._asdict() for found in texts]}
            for quorum, texts in zip(quorums, findings)])
        if not self.args.json:
            for line in self._lines(quorums, findings):
                print(printable(line))
        return health(quorums)

    def _lines(self, quorums: List[Quorum], findings: List[List[Finding]]
               ) -> Iterator[str]:
        if not quorums:
            yield from fold('There is no quorum node in this QEMU. To turn a '
                            'disk into one while a guest uses it:')
            yield '  -> qemu-quorum adopt DISK --replica URI --replica URI'
        for number, (quorum, texts) in enumerate(zip(quorums, findings)):
            if number:
                yield ''
            yield f"{quorum.name} is {quorum.data['state']}."
            if not any(found.wrong for found in texts):
                count = len(quorum.children)
                all_have = f'{count} replicas have all data, as far as is known'
                yield from fold(
                    f'All is well: {all_have}. '
                    f'{count - (quorum.threshold or 0)} of them may fail or '
                    'lie.' if quorum.votes() or count == 1 else
                    f'{all_have}; but they are not compared.')
            for found in texts:
                yield ''
                yield from fold(found.what, '* ', '  ')
                yield from fold(found.means, '  ', '  ')
                for command in found.mend:
                    yield from fold(command, '  -> ', '     ')
