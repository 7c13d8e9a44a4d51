# SPDX-License-Identifier: GPL-2.0-or-later
"""
Rows: read-pattern=checked, which asks one child for what is known.

The peer is md raid1, in a guest.
"""

import functools
import json
import os
import re
import sys
from typing import Any, Callable, Dict, List, NamedTuple

import delays
from contest import (Bench, KIB, MIB, Run, Skip, ratios, row,
                     size_name)
from loads import READ, Servers

ROUNDS = 3
UNIT = 4 * KIB
PEER_MS = 1000              # for each load of a disk
CHECKED = ',read-pattern=checked'
PATTERNS = {'quorum': '', 'threshold': ',read-pattern=threshold',
            'checked': CHECKED}


class Again(NamedTuple):
    """What tools/bench/again.c prints"""
    run: Run
    first: float                    # seconds, until all was read or written
    stats: List[Dict[str, Any]]     # then, and at the end

    def grown(self, *path: str) -> int:
        """By how much a counter has grown in the part that is measured."""
        def get(stats: Any) -> int:
            for word in path:
                stats = stats[word]
            return int(stats)

        return get(self.stats[1]) - get(self.stats[0])

    def of_children(self, when: int) -> List[int]:
        """Bytes that had been read from each child then."""
        return [child['read-bytes'] for child in self.stats[when]['children']]


# pylint: disable=too-many-arguments
def again(bench: Bench, options: str, size: int, count: int, depth: int,
          kind: str = 'read') -> Again:
    """Requests to what has all been read, or written, once before."""
    run = bench.run(bench.make_once('ours', 'again'), options, kind, str(size),
                    str(count), str(depth))
    first = re.search(r'^at first in (.*) seconds', run.output, re.M)
    assert first
    stats = [node.get('driver-specific', {})
             for line in re.findall('^stats (.*)', run.output, re.M)
             for node in json.loads(line)
             if node.get('driver-specific', {}).get('driver') == 'quorum']
    return Again(run, float(first[1]), stats)


def hashing(bench: Bench, what: str, size: int, count: int,
            depth: int = 1) -> float:
    """Seconds for the hashes of as many bytes; see tools/bench/digest.c."""
    program = bench.make_once('ours', 'digest')
    return bench.run(program, what, str(size * depth),
                     str(count // depth)).seconds


# --- reads ---

def files_row(bench: Bench, size: int, count: int, depth: int,
              at_most: float) -> None:
    """What is known, in cached files."""
    files = bench.files()
    times = bench.contest({
        'child': lambda: again(bench, files[0], size, count, depth
                               ).run.seconds,
        **{name: functools.partial(
            lambda more: again(bench, bench.quorum(files, more), size, count,
                               depth).run.seconds, more)
           for name, more in PATTERNS.items()}})
    bench.figure('times the time of pattern quorum',
                 ratios(times, 'checked', 'quorum'), at_most=at_most)
    bench.figure('times the time of pattern threshold',
                 ratios(times, 'checked', 'threshold'))
    bench.figure('times the time of a raw child',
                 ratios(times, 'checked', 'child'))


row('checked-4k')(lambda bench: files_row(bench, 4 * KIB, 60000, 32, 1))
row('checked-64k')(lambda bench: files_row(bench, 64 * KIB, 24000, 16, 0.7))
row('checked-1M')(lambda bench: files_row(bench, MIB, 3000, 8, 0.5))


def nbd_row(bench: Bench, tcp: bool) -> None:
    """
    What is known, on three servers: the floor is one of them, without a
    quorum, and the time that hashes take.
    """
    for size, count, depth in ((4 * KIB, 40000, 32), (64 * KIB, 12000, 16),
                               (MIB, 1500, 8)):
        name = size_name(size)
        first: List[float] = []
        known: List[float] = []
        share: List[float] = []

        with delays.Servers(bench, 3, tcp=tcp) as servers:
            def seconds(more: str) -> float:
                # pylint: disable=cell-var-from-loop
                one = again(bench, bench.quorum(servers.children, more), size,
                            count, depth)
                if more == CHECKED:
                    begun, ended = one.of_children(0), one.of_children(1)
                    read = [b - a for a, b in zip(begun, ended)]
                    first.append(sum(begun) / delays.SIZE)
                    known.append(sum(read) / size / count)
                    share.append(max(read) / sum(read))
                return one.run.seconds

            load = (size, count, depth)
            contestants: Dict[str, Callable[[], float]] = {
                f'child, {name}': functools.partial(
                    lambda child, *load: again(bench, child, *load
                                               ).run.seconds,
                    servers.children[0], *load),
                f'hashes, {name}': functools.partial(hashing, bench, 'xxh3',
                                                     *load),
                **{f'{pattern}, {name}': functools.partial(seconds, more)
                   for pattern, more in PATTERNS.items()}}
            times = bench.contest(contestants, runs=min(bench.runs, ROUNDS))
        for other in 'quorum', 'threshold', 'child':
            bench.figure(f'{name}: throughput : {other}',
                         ratios(times, f'{other}, {name}', f'checked, {name}'))
        floor = [sum(both) for both in zip(times[f'child, {name}'],
                                           times[f'hashes, {name}'])]
        bench.figure(f'{name}: throughput : child and hashes',
                     [a / b for a, b in zip(floor, times[f'checked, {name}'])],
                     at_least=0.95)
        bench.figure(f'{name}: MB/s',
                     [size * count / 1e6 / took
                      for took in times[f'checked, {name}']])
        bench.figure(f'{name}: bytes of children : of the guest', known[1:],
                     at_most=1.05)
        bench.figure(f'{name}: the same at first touch', first[1:], at_most=3)
        bench.figure(f'{name}: share of the busiest child', share[1:])


row('checked-nbd')(lambda bench: nbd_row(bench, False))
row('checked-tcp')(lambda bench: nbd_row(bench, True))


@row('checked-limited')
def checked_limited(bench: Bench) -> None:
    """Do three children with little bandwidth give three times as much?"""
    limit = 100 * MIB
    for size, depth in ((64 * KIB, 16), (64 * KIB, 64), (MIB, 8), (MIB, 32)):
        count = limit // size
        with delays.Servers(bench, 3, limit=limit) as servers:
            name = f'{size_name(size)}, {depth} in flight'
            nodes = {'child': servers.children[0],
                     'checked': bench.quorum(servers.children, CHECKED)}
            times = bench.contest({
                f'{node}, {name}': functools.partial(
                    lambda *load: again(bench, *load).run.seconds,
                    options, size, count, depth)
                for node, options in nodes.items()},
                runs=min(bench.runs, ROUNDS))
        bench.figure(f'throughput : child, {name}',
                     ratios(times, f'child, {name}', f'checked, {name}'),
                     at_least=2.7)


@row('checked-load')
def checked_load(bench: Bench) -> None:
    """What do servers count?"""
    count = 2560
    for size in UNIT, 64 * KIB:
        read = []
        with Servers(bench) as nbd:
            for requests in 0, count:
                for server in nbd.servers:
                    server.seen.clear()
                again(bench, bench.quorum(nbd.children, CHECKED), size,
                      requests, 8)
                read.append([sum(request.length for request in server.seen
                                 if request.kind == READ)
                             for server in nbd.servers])
        first, both = read
        known = [b - a for a, b in zip(first, both)]
        name = size_name(size)
        bench.note({f'{name}, child {i}': n for i, n in enumerate(known)})
        bench.figure(f'{name}: bytes of servers : of the guest',
                     [sum(known) / size / count], at_most=1.05)
        bench.figure(f'{name}: the same at first touch', [sum(first) / MIB],
                     at_most=3)
        bench.figure(f'{name}: busiest child : idlest child',
                     [max(known) / max(1, min(known))])


@row('checked-threads')
def checked_threads(bench: Bench) -> None:
    """
    Two iothreads of one disk, as with iothread-vq-mapping, read the same 2 MiB:
    do they wait for each other?  Over children that do nothing they would most,
    and where they do, so may those of one child, for what the core shares.
    """
    program = bench.make_once('ours', 'threads')
    cpu: Dict[str, List[float]] = {}

    def seconds(name: str, *words: str) -> float:
        run = bench.run(program, *words, 'hot')
        cpu.setdefault(name, []).append(run.cpu)
        return run.seconds

    for where, children, count in (('nothing', bench.null(), 2000000),
                                   ('files', bench.files(), 200000)):
        nodes = {'child': children[0],
                 **{pattern: bench.quorum(children, more)
                    for pattern, more in PATTERNS.items()
                    if pattern != 'threshold'}}
        times = bench.contest({
            f'{node}, {where}, {n}': functools.partial(
                seconds, f'{node}, {where}, {n}', options, str(n),
                str(count), str(UNIT))
            for node, options in nodes.items() for n in (1, 2)})
        gains = {}
        for node in nodes:
            one, two = (f'{node}, {where}, {n}' for n in (1, 2))
            gains[node] = ratios(times, one, two)
            bench.figure(f'{node}, {where}: throughput, two : one', gains[node])
            bench.figure(f'{node}, {where}: processor time, two : one',
                         [b / a for a, b in zip(cpu[one][1:], cpu[two][1:])])
        bench.figure(f'{where}: gain of checked : gain of a child',
                     ratios(gains, 'checked', 'child'), at_least=0.9)


# --- the peer ---

@row('peer')
def peer_row(bench: Bench) -> None:
    """
    In a guest, md over three disks, each of which is on a server, and quorums
    of the same servers.  The guest is emulated, which takes much of the time
    of small requests, and the same for all.
    """
    sys.path += [f'{bench.build}/qemu/python',
                 os.path.join(os.path.dirname(__file__), '../guest')]
    # pylint: disable-next=import-outside-toplevel
    from peer import machine

    loads = ('read', 4 * KIB, 32), ('read', 64 * KIB, 16), ('read', MIB, 8), \
        ('write', 4 * KIB, 32), ('write', 64 * KIB, 16), ('write', MIB, 8)
    with delays.Servers(bench, 3) as servers:
        quorums = [bench.quorum(servers.children, more)
                   for more in PATTERNS.values()]
        with machine(bench, [*servers.children, *quorums]) as guest:
            guest.ask('mirror', '/dev/md0', '/dev/vda', '/dev/vdb', '/dev/vdc')
            paths = {'md': '/dev/md0', 'quorum': '/dev/vdd',
                     'threshold': '/dev/vde', 'checked': '/dev/vdf'}
            for path in paths.values():
                guest.ask('read', path, MIB, 4, 0)
            for kind, size, depth in loads:
                if kind == 'write':
                    paths.pop('threshold', None)
                name = f'{kind} {size_name(size)}'
                speeds = bench.contest({
                    f'{disk}, {name}': functools.partial(
                        lambda *words: float(guest.ask(*words)) / 1e6,
                        kind, path, size, depth, PEER_MS)
                    for disk, path in paths.items()},
                    runs=min(bench.runs, ROUNDS))
                bench.figure(f'{name}: MB/s of md', speeds[f'md, {name}'])
                for disk in list(paths)[1:]:
                    bench.figure(
                        f'{name}: throughput of {disk} : md',
                        ratios(speeds, f'{disk}, {name}', f'md, {name}'),
                        at_least=1 if kind == 'read' and disk == 'checked'
                        else None)
                if kind == 'read' and size == MIB:
                    bench.figure('reads that asked one child, of all',
                                 [guest.share_checked()], at_least=0.99)


# --- writes ---

@row('checked-write')
def checked_write(bench: Bench) -> None:
    """What hashing costs those who write."""
    files = bench.files()
    for size, count, depth, most in ((4 * KIB, 40000, 64, 1.05),
                                     (64 * KIB, 12000, 8, 1.10),
                                     (MIB, 1000, 8, 1.10)):
        times = bench.contest({
            f'{pattern}, {size}': functools.partial(
                lambda more, *load: again(bench, bench.quorum(files, more),
                                          *load, 'write').run.seconds,
                more + ',stable-writes=on', size, count, depth)
            for pattern, more in PATTERNS.items() if pattern != 'threshold'})
        bench.figure(f'{size_name(size)}: times the time of pattern quorum',
                     ratios(times, f'checked, {size}', f'quorum, {size}'),
                     at_most=most)


# --- what it is made of ---

@row('digest')
def digest(bench: Bench) -> None:
    """What the digest of 4 KiB takes, in a cache and out of it."""
    ways = {'xxh3': 'xxh3', 'sha256': 'sha256', 'copy': 'copying',
            'copy-xxh3': 'copying and xxh3'}
    for size, rounds in (64 * KIB, 10000), (64 * MIB, 10):
        counts = {way: rounds // 10 if way == 'sha256' else rounds
                  for way in ways}
        times = bench.contest({
            f'{way}, {size}': functools.partial(hashing, bench, way, size,
                                                count)
            for way, count in counts.items()})
        for way, count in counts.items():
            bench.figure(f'ns for 4 KiB of {size_name(size)}, {ways[way]}',
                         [seconds * 1e9 * UNIT / (count * size)
                          for seconds in times[f'{way}, {size}']])


@row('checked-memory')
def checked_memory(bench: Bench) -> None:
    """Are 32 GiB known in 64 MiB?  The children are zeroes, and no data."""
    hot = 32 * 1024 * MIB
    child = f'driver=null-co,size={hot},read-zeroes=on'
    some = {name: again(bench, bench.quorum([child] * 3, more), MIB,
                        hot // MIB, 8)
            for name, more in (('quorum', ''), (
                'checked', f'{CHECKED},digest-cache-size={64 * MIB}'))}
    run = some['checked']
    if not run.stats:
        raise Skip('no figures')
    bench.figure('cache-bytes, MiB, 32 GiB known',
                 [run.stats[1]['checked']['cache-bytes'] / MIB], at_most=64)
    bench.figure('reads that hit, of all, at second touch',
                 [run.grown('checked', 'hits') / (hot // MIB)], at_least=1)
    bench.figure('MiB at the peak, more than pattern quorum',
                 [(run.run.rss - some['quorum'].run.rss) / MIB])
