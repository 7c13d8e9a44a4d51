# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: what it costs to write down who lacks what, on state nodes."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from typing import Dict, Iterator, List, Sequence, Tuple

from contest import Bench, CHILDREN, IMAGE_BYTES, KIB, MIB, ratios, row
from delays import latency
from loads import Servers, profile
from quorum.nbd import FLUSH, WRITE, HeldNBD    # loads knows where it is

STATE_BYTES = 16 * MIB
SECONDS = 12                # marks are taken away each 5 seconds
DEPTH = 32
LIMIT = IMAGE_BYTES // 2    # what may be marked, of what is written to
TERABYTE = 1 << 40


def state_files(folder: str) -> List[str]:
    """Options of blank state nodes."""
    names = [f'{folder}/state-{i}' for i in range(CHILDREN)]
    for name in names:
        with open(name, 'wb') as file:
            file.truncate(STATE_BYTES)
    return [f'driver=file,filename={name}' for name in names]


def with_state(quorum: str, nodes: Sequence[str], more: str = '') -> str:
    """Options of a quorum that has these state nodes, which are blank"""
    words = [f'state.{i}.{word}' for i, node in enumerate(nodes)
             for word in node.split(',')]
    return ','.join((quorum, 'state-init=on', *words)) + more


def random_writes(bench: Bench, children: List[str], folder: str, name: str,
                  at_least: float) -> None:
    """
    All over twice the dirty-limit: a region that is written again was
    unmarked meanwhile, so that it takes a round.
    """
    def per_second(key: str, remembers: bool) -> float:
        options = bench.quorum(children)
        if remembers:
            options = with_state(options, state_files(folder),
                                 f',dirty-limit={LIMIT}')
        return latency(bench, key, options, 'flushed-write', 0, DEPTH,
                       SECONDS).requests / SECONDS

    runs = bench.contest({
        'state': functools.partial(per_second, 'ours', True),
        'ours': functools.partial(per_second, 'ours', False),
        'pristine': functools.partial(per_second, 'pristine', False)}, 3)
    bench.figure(f'writes a second, {name}', runs['state'])
    bench.figure('throughput with state : without',
                 ratios(runs, 'state', 'ours'), at_least=at_least)
    bench.figure('throughput with state : pristine',
                 ratios(runs, 'state', 'pristine'))


@contextlib.contextmanager
def on_disk(bench: Bench, more: str = '') -> Iterator[Tuple[str, List[str]]]:
    """A folder on a disk, and options of children there"""
    with tempfile.TemporaryDirectory(dir=bench.build) as folder:
        children = []
        for i in range(CHILDREN):
            name = f'{folder}/{i}.raw'
            shutil.copyfile(bench.image(i), name)
            children.append(f'driver=raw,file.driver=file,'
                            f'file.filename={name}{more}')
        yield folder, children


@row('state-random')
def state_random(bench: Bench) -> None:
    """All in memory, and all on one disk."""
    random_writes(bench, bench.files(), bench.work, 'in memory', 0.8)
    with on_disk(bench) as (folder, children):
        random_writes(bench, children, folder, 'on a disk', 0.8)


def sequential_writes(bench: Bench, children: List[str], folder: str,
                      where: str, size: int, count: int) -> None:
    def seconds(key: str) -> float:
        options = bench.quorum(children)
        if key == 'state':
            options = with_state(options, state_files(folder))
        elif key == 'child':
            options = children[0]
        top = 'pristine' if key == 'pristine' else 'ours'
        return bench.load(top, options, size, count, 8, '-w').seconds

    times = bench.contest({key: functools.partial(seconds, key)
                           for key in ('state', 'ours', 'pristine', 'child')})
    bench.figure(f'{size // KIB} KiB {where}, with state : without',
                 ratios(times, 'ours', 'state'), at_least=0.95)
    bench.figure('throughput with state : pristine',
                 ratios(times, 'pristine', 'state'))
    bench.figure('times the time of one raw child',
                 ratios(times, 'state', 'child'))


@row('state-sequential')
def state_sequential(bench: Bench) -> None:
    """Each region is marked for the first time, and on a disk only so."""
    files = bench.files()
    for size, count in (64 * KIB, 18000), (MIB, 1500):
        sequential_writes(bench, files, bench.work, 'in memory', size, count)
    with on_disk(bench, ',file.cache.direct=on') as (folder, children):
        for size in 64 * KIB, MIB:
            sequential_writes(bench, children, folder, 'on a disk', size,
                              IMAGE_BYTES // size)


@row('state-steady')
def state_steady(bench: Bench) -> None:
    """A region that is marked: what more writes there cost."""
    def requests(count: int) -> Dict[str, int]:
        nodes = [HeldNBD(f'{bench.work}/state-{i}.sock', bytes(STATE_BYTES))
                 for i in range(CHILDREN)]
        try:
            with Servers(bench) as nbd:
                bench.load('ours', with_state(bench.quorum(nbd.children), [
                    f'driver=nbd,server.type=unix,'
                    f'server.path={bench.work}/state-{i}.sock'
                    for i in range(CHILDREN)]), 4 * KIB, count, 16, '-w')
                return {
                    'state writes': sum(request.kind == WRITE
                                        for node in nodes
                                        for request in node.seen),
                    'flushes': sum(request.kind == FLUSH
                                   for node in nodes + nbd.servers
                                   for request in node.seen)}
        finally:
            for node in nodes:
                node.stop()

    # What is written at the beginning is one round more or less, as it comes.
    few, many = requests(500), requests(3500)
    for what, most in ('state writes', CHILDREN), ('flushes', 0):
        bench.note({f'{what}, 500 writes': few[what],
                    f'{what}, 3500 writes': many[what]})
        bench.figure(f'{what} for 3000 more writes', [many[what] - few[what]],
                     at_most=most)
    quorum = bench.quorum(bench.null())

    def total(remembers: bool, count: int) -> int:
        return profile(bench, 'ours', with_state(
            quorum, state_files(bench.work)) if remembers else quorum,
            4 * KIB, count, 64, '-w').instructions

    each = {name: (total(remembers, 3500) - total(remembers, 500)) / 3000
            for name, remembers in (('off', False), ('on', True))}
    bench.note({f'instructions, {name}': n for name, n in each.items()})
    bench.figure('instructions for a write, with state : without',
                 [each['on'] / each['off']], at_most=1.02)


@row('state-memory')
def state_memory(bench: Bench) -> None:
    """Of 1 TiB, all well, and with one child that is stale all over."""
    files = []
    for i in range(CHILDREN):
        name = f'{bench.work}/sparse-{i}'
        with open(name, 'wb') as file:
            file.truncate(TERABYTE)
        files.append(f'driver=raw,file.driver=file,file.filename={name}')
    fails = ('driver=raw,file.driver=blkdebug,'
             'file.inject-error.0.event=none,'
             'file.inject-error.0.iotype=write,'
             f'file.image.driver=file,'
             f'file.image.filename={bench.work}/sparse-{CHILDREN - 1}')

    def resident(children: List[str], remembers: bool, peak: bool) -> float:
        options = bench.quorum(children)
        if remembers:
            options = with_state(options, state_files(bench.work))
        with subprocess.Popen([bench.program('ours', 'qemu-io'),
                               '--image-opts', options],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              bufsize=0) as process:
            assert process.stdin and process.stdout

            def ask(command: bytes) -> None:
                """One at a time: qemu-io doesn't look for a second one."""
                assert process.stdin and process.stdout
                process.stdin.write(command)
                said = b''
                while not said.endswith(b'qemu-io> '):
                    said += process.stdout.read(1)

            ask(b'')
            for offset in range(0, TERABYTE, TERABYTE // 64):
                ask(f'write -q {offset} 4k\n'.encode())
            found = 0.0
            with open(f'/proc/{process.pid}/status', encoding='ascii') as file:
                for line in file:
                    if line.startswith('VmHWM:' if peak else 'VmRSS:'):
                        found = int(line.split()[1]) * KIB / MIB
            process.stdin.write(b'quit\n')
            process.stdin.close()
            process.stdout.read()
            return found

    for name, children, most in (('all well', files, 1),
                                 ('one is stale', [*files[:-1], fails], 4)):
        rss = bench.contest({
            f'{name}, {what}': functools.partial(resident, children, on, peak)
            for what, on, peak in (('state', True, False),
                                   ('none', False, False),
                                   ('state, peak', True, True),
                                   ('none, peak', False, True))}, runs=3)
        for word, limit in ('', most), (', peak', None):
            bench.figure(
                f'MiB more with state, {name}{word}',
                [a - b for a, b in zip(rss[f'{name}, state{word}'],
                                       rss[f'{name}, none{word}'])],
                at_most=limit)
    for i in range(CHILDREN):
        os.unlink(f'{bench.work}/sparse-{i}')
