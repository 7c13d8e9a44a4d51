# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""
The command metrics

What it prints is OpenMetrics text.  Only gauges and counters are used, so the
textfile collector of Prometheus' node exporter can read it, too.
"""

import os
import tempfile
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from .basics import NOT_WELL, WELL, Dictionary, Failure
from .quorum import Quorum
from .status import Status

PREFIX = 'qemu_quorum_'
Number = Union[int, float]
Labels = Dict[str, str]

NODE_STATES = ('ONLINE', 'DEGRADED', 'FAILED')
CHILD_STATES = ('ok', 'unsure', 'stale', 'rebuilding', 'lagging', 'excluded',
                'corrupt', 'vacant')
STATE_NODE_STATES = ('ok', 'blank', 'old', 'failed', 'foreign')


class Figure(NamedTuple):
    """A figure of each child: what it is called, and where it is"""
    name: str
    key: str
    text: str
    unit: str = ''
    scale: float = 1


GAUGES = (
    Figure('child_stale_bytes', 'stale-bytes',
           'Bytes of the child that lack data and have no vote', 'bytes'),
    Figure('child_unsure_bytes', 'unsure-bytes',
           'Bytes of the child that it may have lost', 'bytes'),
    Figure('child_oldest_request_seconds', 'oldest-request-ms',
           'How long the oldest request of the child has been waiting',
           'seconds', 1e-3),
    Figure('child_read_latency_seconds', 'read-latency-us',
           'How long small reads of the child take', 'seconds', 1e-6),
    Figure('child_write_latency_seconds', 'write-latency-us',
           'How long small writes of the child take', 'seconds', 1e-6),
)
COUNTERS = (
    Figure('child_read_errors', 'read-errors',
           'Requests that the child could not read'),
    Figure('child_write_errors', 'write-errors',
           'Requests that the child could not write'),
    Figure('child_flush_errors', 'flush-errors',
           'Flushes that failed on the child'),
    Figure('child_mismatches', 'mismatches',
           'Reads in which the child was outvoted'),
    Figure('child_repaired_bytes', 'repaired-bytes',
           'Bytes of the child that were repaired', 'bytes'),
    Figure('child_losses', 'losses',
           'How often the child may have lost what was not flushed'),
    Figure('child_timeouts', 'timeouts',
           'How often the child did not answer in time'),
    Figure('child_hedged_reads', 'hedged-reads',
           'Reads that were sent because another child was late'),
    Figure('child_late_reads', 'late-reads',
           'Reads that were answered without waiting for the child'),
)
SCRUB = (
    Figure('scrub_checked_bytes', 'checked-bytes',
           'Bytes that the scrub which runs has read', 'bytes'),
    Figure('scrub_mismatched_bytes', 'mismatched-bytes',
           'Bytes of which it has found that children differ', 'bytes'),
    Figure('scrub_missing_bytes', 'missing-bytes',
           'Bytes that a child has lacked', 'bytes'),
    Figure('scrub_repaired_bytes', 'repaired-bytes',
           'Bytes that it has repaired', 'bytes'),
    Figure('scrub_preferred_bytes', 'preferred-bytes',
           'Bytes of that which a preferred child has decided', 'bytes'),
    Figure('scrub_unrepairable_bytes', 'unrepairable-bytes',
           'Bytes that it could not repair', 'bytes'),
    Figure('scrub_done_bytes', 'done-bytes',
           'How far the scrub is', 'bytes'),
    Figure('scrub_total_bytes', 'total-bytes',
           'How much there is to be done for it', 'bytes'),
)


def escape(text: str) -> str:
    """Of the value of a label"""
    return text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')


class Exposition:
    """The text, family by family"""
    def __init__(self) -> None:
        self.lines: List[str] = []

    def family(self, kind: str, name: str, text: str, unit: str,
               samples: List[Tuple[Labels, Number]]) -> None:
        """A family without samples is left out."""
        if not samples:
            return
        full = PREFIX + name
        self.lines += [f'# HELP {full} {text}.', f'# TYPE {full} {kind}']
        if unit:
            self.lines.append(f'# UNIT {full} {unit}')
        suffix = '_total' if kind == 'counter' else ''
        for labels, value in samples:
            inside = ','.join(f'{key}="{escape(text)}"'
                              for key, text in labels.items())
            number = f'{value:.6f}' if isinstance(value, float) else value
            self.lines.append(f'{full}{suffix}{{{inside}}} {number}')

    def text(self) -> str:
        """All of it"""
        return '\n'.join([*self.lines, '# EOF', ''])


def labels_of(quorum: Quorum, child: Dictionary) -> Labels:
    """What Prometheus tells children by"""
    return {'node': quorum.name, 'child': child['child']}


def one_hot(labels: Labels, state: str, states: Tuple[str, ...]
            ) -> Iterator[Tuple[Labels, Number]]:
    """A sample for each state that could be, 1 for the one that is"""
    for name in states:
        yield {**labels, 'state': name}, int(name == state)


def value_of(data: Dictionary, figure: Figure) -> Optional[Number]:
    """As it is to be printed; None if there is none"""
    if figure.key not in data:
        return None
    value: int = data[figure.key]
    return value if figure.scale == 1 else value * figure.scale


def expose(quorums: List[Quorum]) -> str:
    """All figures of all nodes"""
    out = Exposition()
    out.family('gauge', 'state', 'Whether the node is in this state', '', [
        sample for q in quorums for sample in one_hot(
            {'node': q.name}, q.data['state'], NODE_STATES)])
    for name, key, text, unit in (
            ('size_bytes', 'size', 'Length of the disk', 'bytes'),
            ('vote_threshold', 'vote-threshold',
             'How many children must agree', '')):
        out.family('gauge', name, text, unit, [
            ({'node': q.name}, q.data[key]) for q in quorums if key in q.data])
    for key, unit in ('remaining-bytes', 'bytes'), ('bytes-per-second', ''):
        out.family('gauge', 'resync_' + key.replace('-', '_'),
                   f'{key} of what is copied in the background', unit, [
                       ({'node': q.name}, q.resync[key] if q.resync else 0)
                       for q in quorums])
    for figure in SCRUB:
        out.family('gauge', figure.name, figure.text, figure.unit, [
            ({'node': q.name}, q.scrub[figure.key])
            for q in quorums if q.scrub])
    expose_children(out, quorums)
    expose_state_nodes(out, quorums)
    return out.text()


def expose_children(out: Exposition, quorums: List[Quorum]) -> None:
    """What is known of each child"""
    children = [(labels_of(q, child), child) for q in quorums
                for child in q.children]
    out.family('gauge', 'child_state', 'Whether the child is in this state',
               '', [sample for labels, child in children for sample in
                    one_hot(labels, child['state'], CHILD_STATES)])
    for kind, figures in ('gauge', GAUGES), ('counter', COUNTERS):
        for figure in figures:
            values = [(labels, value_of(child, figure))
                      for labels, child in children
                      if child['state'] != 'vacant']
            out.family(kind, figure.name, figure.text, figure.unit, [
                (labels, value) for labels, value in values
                if value is not None])


def expose_state_nodes(out: Exposition, quorums: List[Quorum]) -> None:
    """What a restart would know"""
    known = [(q, q.memory) for q in quorums if q.memory]
    out.family('gauge', 'state_node_state',
               'Whether the state node of the child is in this state', '', [
                   sample for q, info in known for node in info['nodes']
                   for sample in one_hot(labels_of(q, node), node['state'],
                                         STATE_NODE_STATES)])
    for key, text in (
            ('dirty-bytes', 'Bytes that would be looked at after a crash'),
            ('unresolved-bytes', 'Bytes that are looked at after a crash')):
        out.family('gauge', 'state_' + key.replace('-', '_'), text, 'bytes', [
            ({'node': q.name}, info[key]) for q, info in known])


def write_atomically(path: str, text: str) -> None:
    """A reader sees the old file or the new one, and nothing else."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with tempfile.NamedTemporaryFile('w', dir=folder, delete=False,
                                         prefix='.qemu-quorum-') as file:
            try:
                file.write(text)
                os.chmod(file.fileno(), 0o644)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise Failure(f"--textfile '{path}': {error.strerror}", NOT_WELL
                      ) from None


def forget(path: str) -> None:
    """Old figures would look like new ones."""
    try:
        os.unlink(path)
    except OSError:
        pass


class Metrics(Status):
    """For Prometheus"""

    def metrics(self) -> int:
        """The exit status says only whether it could be asked."""
        text = expose(self.look())
        if self.args.textfile is None:
            print(text, end='', flush=True)
        else:
            write_atomically(self.args.textfile, text)
        return WELL
