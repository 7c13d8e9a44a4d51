# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command state"""

import argparse
import json
from typing import Iterator

from .assembly import Assembly
from .basics import NOT_WELL, WELL, Dictionary, Failure
from .statefile import RECORDS, StateNode, id_text
from .text import head_lines, human_size, printable, table


def state_node_lines(node: StateNode) -> Iterator[str]:
    """What is in a state node, for people"""
    def describe(place: Dictionary) -> str:
        return f"place {place['place']} is {place['condition']}" + (
            f", seq {place['seq']}" if 'seq' in place else '') + (
            f" ({place['error']})" if 'error' in place else '')

    data, label = node.data(), node.label
    yield printable(node.path)
    pairs = [('state', node.condition + (
        f", place {data['newest']} is the newest" if label else '') + (
        f' ({node.error})' if node.error else ''))]
    pairs += [('label', describe(place)) for place in node.labels
              if node.condition != 'blank']
    if label:
        pages = data['pages']
        pairs += [
            ('set', data['label']['set']),
            ('member', data['label']['member']),
            ('session', f"{data['label']['session']}, number {label.opens}, " +
             ('closed well' if label.clean else 'not closed') + (
                 '; MAPS ARE INVALID' if label.maps_invalid else ''))]
        if label.history:
            pairs += [('history', ' '.join(
                id_text(earlier)[:8] for earlier in label.history))]
        pairs += [
            ('config', f'{label.config}: {label.threshold} of {label.places} '
             'must agree'),
            ('disk', f'{human_size(label.disk_bytes)}, maps for '
             f'{human_size(label.max_bytes)}; marked by '
             f'{human_size(1 << label.intent_shift)}, stale by '
             f'{human_size(1 << label.stale_shift)}'),
            ('pages', f"{len(label.map_pages())} + {RECORDS} * "
             f'{len(label.map_pages(0))} of layout {label.layout}: '
             f"{pages['valid']} valid, {pages['blank']} blank, "
             f"{pages['unknown']} unknown; {pages['damaged-places']} places "
             'are damaged'),
            ('marked', human_size(data['marked-bytes']))]
        if data['label']['digests']:
            pairs += [('digests', data['label']['digests'])]
    yield from head_lines(pairs)
    if not label:
        return
    rows = [['SLOT', 'MEMBER', 'STATUS', 'STATE-SEQ', 'STALE', 'FLAGS']] + [
        ['-' if record['place'] < 0 else str(record['place']),
         record['member'][:8], record['status'], str(record['state-seq']),
         human_size(record['stale-bytes']) if record['stale-bytes'] else '0',
         ' '.join(record['flags']) or '-'] for record in data['records']]
    yield ''
    yield from (f'  {line}' for line in table(rows, (0, 1, 2)))


def show_state(args: argparse.Namespace) -> int:
    """The command that needs no QEMU"""
    if len(set(args.files)) < len(args.files):
        raise Failure('a file is named twice')
    nodes = [StateNode(path) for path in args.files]
    together = Assembly(nodes) if len(nodes) > 1 else None
    well = all(node.well for node in nodes) and \
        not (together and (together.problems or together.notes))
    if args.json:
        result: Dictionary = {'well': well,
                              'files': [node.data() for node in nodes]}
        if together:
            result['together'] = together.data
        print(json.dumps(result, indent=2))
        return WELL if well else NOT_WELL
    for i, node in enumerate(nodes):
        if i:
            print()
        for line in state_node_lines(node):
            print(line)
    if together:
        for line in together.lines(args.list):
            print(line)
    return WELL if well else NOT_WELL
