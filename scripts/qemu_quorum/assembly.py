# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What QEMU would make of the state nodes of a quorum"""

from typing import Dict, Iterator, List, Optional

from .basics import Dictionary
from .statefile import (
    MAX_RANGES,
    REBUILDING,
    REMOVED,
    STATUSES,
    Label,
    Ranges,
    StateNode,
    describe_ranges,
    id_text,
    merge_ranges,
    most_overlapping,
    read_map,
    size_of,
)
from .text import head_lines, human_size, printable, table


class Assembly:
    """What a QEMU would make of state nodes"""
    def __init__(self, nodes: List[StateNode]) -> None:
        self.nodes = nodes
        self.head: Optional[StateNode] = None
        self.label: Optional[Label] = None
        self.problems: List[str] = []       # QEMU would not open it
        self.notes: List[str] = []          # it would
        self.standing = {node.path: node.condition for node in nodes}
        self.data: Dictionary = {}
        self.stale: Dict[int, Ranges] = {}      # by place
        self.unresolved: Ranges = []

        valid = self._one_set([node for node in nodes if node.label])
        if not self.problems:
            self._find_head(valid)
        if self.label:
            self._judge(valid, self.label)
        self.data = {'can-be-opened': not self.problems,
                     'problems': self.problems, 'notes': self.notes,
                     **self.data}
        self.data['nodes'] = [{'file': node.path,
                               'standing': self.standing[node.path]}
                              for node in nodes]

    def _one_set(self, valid: List[StateNode]) -> List[StateNode]:
        """What has a label; all is well only if it is one set"""
        for node in self.nodes:
            if node.condition == 'newer':
                self.problems.append(f'{node.path} is of a newer version')
        if not valid:
            self.problems.append(
                'all are blank: there is no set yet'
                if all(node.condition == 'blank' for node in self.nodes) else
                'no label can be read')
        sets: Dict[bytes, List[str]] = {}
        members: Dict[bytes, str] = {}
        for node in valid:
            assert node.label
            sets.setdefault(node.label.set, []).append(node.path)
            other = members.setdefault(node.label.member, node.path)
            if other != node.path:
                self.standing[node.path] = 'copy'
                self.problems.append(
                    f'{node.path} and {other} are of the same member: one is '
                    'a copy')
        if len(sets) > 1:
            most = max(len(paths) for paths in sets.values())
            for set_id, paths in sets.items():
                if [len(other) for other in sets.values()].count(most) > 1 or \
                   len(paths) < most:
                    self.standing.update({path: 'foreign' for path in paths})
                self.problems.append(f"{', '.join(paths)}: of the set "
                                     f'{id_text(set_id)}')
        return valid

    def _find_head(self, valid: List[StateNode]) -> None:
        all_labels = [(node, node.label) for node in valid if node.label]
        labels = [(node, label) for node, label in all_labels
                  if 'begun' in label.flags] or all_labels
        for node, label in labels:
            if all(label.follows(other) for _, other in labels):
                self.head, self.label = node, label
                break
        for node, label in all_labels:
            # It was the next one, and nothing was done yet.
            if self.label and 'begun' not in label.flags and \
                    'begun' in self.label.flags and \
                    label.follows(self.label):
                self.head, self.label = node, label
        if self.label:
            return
        for node, label in labels:
            rivals = [other.path for other, against in labels
                      if not label.follows(against) and
                      not against.follows(label)]
            if rivals:
                self.standing[node.path] = 'split'
                self.problems.append(
                    f"{node.path} and {', '.join(rivals)} have gone different "
                    f'ways: it knows nothing of their sessions, nor they of '
                    f'{id_text(label.session)}')

    def _stand(self, node: StateNode, label: Label, head: Label) -> str:
        record = head.find(label.member)
        if label.is_very_old(head):
            return 'very old'
        if record is None or record.status == REMOVED:
            return 'no member'
        if record.state_seq <= max(node.highest_seq(head),
                                   node.highest_seq(label)):
            return 'counts'
        return 'rolled back'

    def _judge(self, valid: List[StateNode], head: Label) -> None:
        for node in valid:
            assert node.label
            self.standing[node.path] = self._stand(node, node.label, head)
        for node in self.nodes:
            standing = self.standing[node.path]
            if standing != 'counts':
                self.notes.append(f'{node.path} is {standing}: what its child '
                                  'has is not believed')
        count = [node for node in valid
                 if self.standing[node.path] == 'counts']
        members = len(head.members())
        enough = members - min(members, head.threshold) + 1
        short = len(count) < enough
        if short:
            self.problems.append(
                f'only {len(count)} of {members} state nodes can be believed, '
                f'and {enough} must be: the newest state may be missing')
        old_counting = self._judge_old(valid, head)
        marked = read_map(count, head, None, enough)
        everything = [(0, head.disk_bytes)] if head.disk_bytes else []
        self.unresolved = everything if head.maps_invalid else marked
        self.data = {
            'head': self.head.path if self.head else None,
            'set': id_text(head.set), 'session': id_text(head.session),
            'clean': head.clean, 'members': members, 'counting': len(count),
            'needed': enough, 'threshold': head.threshold,
            'old-members-counting': old_counting,
            'unresolved-bytes': size_of(self.unresolved),
            'unresolved': describe_ranges(self.unresolved),
            'children': [],
        }
        files = {node.label.member: node for node in valid if node.label}
        for place in range(head.places):
            self._judge_child(place, head, files, count, enough, everything)
        if not short:
            self._judge_vote(head)

    def _judge_vote(self, head: Label) -> None:
        """As quorum_state_can_vote() in block/quorum does"""
        believed = [self.stale[child['place']] for child
                    in self.data['children']
                    if child['state'] in ('member', 'rebuilding')]
        most = most_overlapping(believed)
        unread = [node.path for node in self.nodes if node.unreadable]
        if len(believed) < head.threshold:
            self.problems.append(
                f'only {len(believed)} children can be believed, and '
                f'{head.threshold} must agree')
        elif unread and len(believed) - most < head.threshold:
            self.problems.append(
                f"{', '.join(unread)} can't be read: its child may have what "
                f'others lack, of which fewer than {head.threshold} have all')

    def _judge_old(self, valid: List[StateNode], head: Label
                   ) -> Optional[int]:
        """Those of before a change that was not finished, which count"""
        if not head.old_threshold:
            return None
        old = {record.member: record for record in head.old_members()}
        labels = [(node, node.label) for node in valid if node.label]
        count = len([label for node, label in labels
                     if label.member in old and not label.is_very_old(head) and
                     old[label.member].state_seq <= node.highest_seq(head)])
        enough = len(old) - min(len(old), head.old_threshold) + 1
        if count < enough:
            self.problems.append(
                'members or the threshold were being changed: only '
                f'{count} of {len(old)} state nodes from before can be '
                f'believed, and {enough} must be: give also those of children '
                'that were taken out')
        return count

    def _judge_child(self, place: int, head: Label,
                     files: Dict[bytes, StateNode], count: List[StateNode],
                     enough: int, everything: Ranges) -> None:
        child: Dictionary = {'place': place, 'state': 'vacant'}
        self.data['children'].append(child)
        record = next((record for record in head.members()
                       if record.place == place), None)
        if not record:
            return
        child.update({'member': id_text(record.member),
                      'state': STATUSES[record.status]})
        node = files.get(record.member)
        if not node:
            # Among those that can't be read, perhaps
            child['state'] = 'missing'
            self.stale[place] = everything
            return
        child['file'] = node.path
        behind = 'behind' in record.flags
        if self.standing[node.path] != 'counts':
            child['state'] = self.standing[node.path]
            stale = everything
        elif 'out' in record.flags:
            child['state'], stale = 'out', everything
        elif head.maps_invalid:
            stale = everything if behind or record.status == REBUILDING else []
        else:
            stale = read_map(count, head, record.number, enough)
            if behind and not head.clean:
                stale = merge_ranges(stale, self.unresolved)
        self.stale[place] = stale
        child.update({'stale-bytes': size_of(stale),
                      'stale': describe_ranges(stale)})

    def lines(self, listed: bool) -> Iterator[str]:
        """For people"""
        yield ''
        yield 'together'
        if self.label and self.head:
            yield from head_lines([
                ('head', f'{self.head.path}, ' + (
                    'closed well' if self.label.clean else
                    'not closed: in use, or after a crash')),
                ('vote', f'{self.label.threshold} of {self.label.places}'),
                ('count', f"{self.data['counting']} of "
                 f"{self.data['members']} state nodes can be believed, "
                 f"{self.data['needed']} must be"),
                ('marked', f"{human_size(self.data['unresolved-bytes'])}, "
                 'unresolved')])
            yield ''
            yield from self._table(self.label)
            yield ''
        elif len(self.nodes) > 1:
            rows = [['STANDING', 'FILE']] + [
                [self.standing[node.path].upper(), printable(node.path)]
                for node in self.nodes]
            yield ''
            yield from (f'  {line}' for line in table(rows, (0,)))
            yield ''
        yield from head_lines(
            [('note', text) for text in self.notes] +
            [('problem', text) for text in self.problems] +
            [('verdict', f"QEMU would{' not' * bool(self.problems)} open it")])
        if listed:
            yield from self._lists()

    def _table(self, label: Label) -> Iterator[str]:
        rows = [['SLOT', 'MEMBER', 'STATE', 'STALE', 'FILE']]
        for child in self.data['children']:
            stale = child.get('stale-bytes')
            rows.append([
                str(child['place']), child.get('member', '-')[:8],
                child['state'] if child['state'] == 'member' else
                child['state'].upper(),
                '-' if stale is None else
                'all' if stale and stale == label.disk_bytes else
                human_size(stale) if stale else '0',
                printable(child.get('file', '-'))])
        listed = {child.get('file') for child in self.data['children']}
        for node in self.nodes:
            if node.path not in listed:
                rows.append(['-', '-', self.standing[node.path].upper(), '-',
                             printable(node.path)])
        yield from (f'  {line}' for line in table(rows, (0, 1, 2)))

    def _lists(self) -> Iterator[str]:
        rows = [['OFFSET', 'BYTES', 'SIZE', 'WHAT']]
        lists = [('unresolved', self.unresolved)] + [
            (f'slot {place} is stale', ranges)
            for place, ranges in sorted(self.stale.items())]
        for what, ranges in lists:
            rows += [[str(begin), str(end - begin), human_size(end - begin),
                      what] for begin, end in ranges[:MAX_RANGES]]
            if len(ranges) > MAX_RANGES:
                rows.append(['...', '', '', f'{what} in '
                             f'{len(ranges) - MAX_RANGES} more places'])
        if len(rows) > 1:
            yield ''
            yield from (f'  {line}' for line in table(rows, ()))
