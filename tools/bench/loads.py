# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: how long reads and writes take, against pristine and the floor."""

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Dict, List, Optional

from contest import (Bench, CHILDREN, IMAGE_BYTES, KIB, MIB, PATTERN, Skip,
                     ratios, row, threads_load)

sys.path.append(os.path.join(os.path.dirname(__file__),
                             '../../tests/qemu-iotests'))
# pylint: disable=wrong-import-position
from quorum.nbd import BLOCK_STATUS, FLUSH, READ, HeldNBD, Request   # noqa: E402

CAP_MIB = 66                # 64 for buffers, the rest for coroutines' stacks
DELAY = 0.1                 # seconds
SAME_TIME = 1.02            # "never slower", and what a measurement is good for


# --- cached files ---

# pylint: disable=too-many-arguments
def load_row(bench: Bench, size: int, count: int, depth: int,
             write: bool = False, floor: Optional[float] = None,
             faster: float = 0, pristine_count: int = 0) -> None:
    """
    Reading has a floor: the same number of requests to each of the raw
    children, one child after the other.  (What a quorum adds is two
    comparisons; what it may save is that the children work side by side, where
    there are processors for it.)

    A load of less than some seconds measures how it begins: threads start, and
    memory is touched for the first time.  Where pristine QEMU would take much
    longer, it does with @pristine_count requests.
    """
    flags = ['-w'] if write else []
    counts = {'ours': count, 'pristine': pristine_count or count}
    files = bench.files()
    quorum = bench.quorum(files)
    cpu: Dict[str, List[float]] = {key: [] for key in bench.tops}

    def seconds(key: str) -> float:
        run = bench.load(key, quorum, size, counts[key], depth, *flags)
        cpu[key].append(run.cpu * count / counts[key])
        return run.seconds * count / counts[key]

    times = bench.contest({
        **{key: functools.partial(seconds, key) for key in bench.tops},
        'floor': lambda: sum(
            bench.load('ours', child, size, count, depth, *flags).seconds
            for child in files),
    })
    if faster:
        bench.figure('times as fast as pristine',
                     ratios(times, 'pristine', 'ours'), at_least=faster)
    else:
        bench.figure('times the time of pristine',
                     ratios(times, 'ours', 'pristine'), at_most=SAME_TIME)
    bench.figure('processor time : that of pristine',
                 ratios(cpu, 'ours', 'pristine')[1:])
    bench.figure('times the floor (3 x raw child)',
                 ratios(times, 'ours', 'floor'), at_most=floor)


row('read-4k')(lambda b: load_row(b, 4 * KIB, 30000, 64))
row('read-64k')(lambda b: load_row(b, 64 * KIB, 12000, 8, floor=1.05))
row('read-1M')(lambda b: load_row(b, MIB, 12000, 8, floor=1.15, faster=6,
                                  pristine_count=2000))
row('read-1M-d64')(lambda b: load_row(b, MIB, 12000, 64, floor=1.15,
                                      pristine_count=2000))
row('write-4k')(lambda b: load_row(b, 4 * KIB, 20000, 64, True))
row('write-64k')(lambda b: load_row(b, 64 * KIB, 6000, 8, True))
row('write-1M')(lambda b: load_row(b, MIB, 500, 8, True))


# --- instructions ---

class Profile:
    """What callgrind has counted."""

    def __init__(self, text: str) -> None:
        total = re.search(r'^(?:totals|summary): (\d+)', text, re.M)
        assert total
        self.instructions = int(total[1])
        self.names = dict(re.findall(r'fn=\((\d+)\) (\S+)', text))
        self.calls: Dict[str, int] = {}
        for fn, count in re.findall(r'^cfn=\((\d+)\).*\ncalls=(\d+)', text,
                                    re.M):
            name = self.names[fn]
            self.calls[name] = self.calls.get(name, 0) + int(count)


def profile(bench: Bench, key: str, options: str, size: int, count: int,
            depth: int, *more: str) -> Profile:
    """Run a load under callgrind."""
    if not shutil.which('valgrind'):
        raise Skip('there is no valgrind')
    out = f'{bench.work}/callgrind.out'
    bench.run('valgrind', '--tool=callgrind', f'--callgrind-out-file={out}',
              bench.program(key, 'qemu-img'), 'bench', '-s', str(size),
              '-c', str(count), '-d', str(depth), *more, '--image-opts',
              options)
    with open(out, encoding='utf-8') as file:
        return Profile(file.read())


def instructions(bench: Bench, key: str, options: str, *more: str) -> float:
    """
    Instructions for a request of 4 KiB: the difference between two counts of
    requests leaves out what the program does besides.
    """
    few, many = 500, 3500
    return (profile(bench, key, options, 4096, many, 64, *more).instructions -
            profile(bench, key, options, 4096, few, 64, *more).instructions
            ) / (many - few)


def instructions_row(bench: Bench, *more: str) -> None:
    """
    The core and the children have their share, whatever the driver does: that
    of a request to one child, and thrice what one node more costs.  (A raw
    node over a child is hardly more than what the core does for a node.)
    """
    child, = bench.null(1)
    quorum = bench.quorum(bench.null())
    above = 'driver=raw,file.' + child.replace(',', ',file.')
    count = functools.partial(instructions, bench)
    one = count('ours', child, *more)
    # one node more, without what the child itself does for a read
    node = count('ours', above, *more) - one
    plain = one
    if not more:
        plain = count('ours', child.replace('zeroes=on', 'zeroes=off'))
    core = plain + 3 * node + 3 * (one - plain)
    ours = count('ours', quorum, *more)
    pristine = count('pristine', quorum, *more)
    bench.note({'one child': one, 'core and children': core, 'ours': ours,
                'pristine': pristine})
    bench.figure('times fewer instructions than pristine',
                 [pristine / ours], at_least=1.3)
    bench.figure('the same, without core and children',
                 [(pristine - core) / (ours - core)])
    bench.figure('times fewer, if the driver cost nothing',
                 [pristine / core])
    bench.figure('instructions for a request, ours', [ours])
    bench.figure('instructions for a request, pristine', [pristine])
    bench.figure('instructions for a request, core and children', [core])


row('null-read-4k')(instructions_row)
row('null-write-4k')(lambda bench: instructions_row(bench, '-w'))


@row('stable-writes')
def stable_writes(bench: Bench) -> None:
    """What the copies cost: of instructions, and of time over files."""
    words = {'off': ',stable-writes=off', 'on': ',stable-writes=on'}
    count = {name: instructions(bench, 'ours',
                                bench.quorum(bench.null(), word), '-w')
             for name, word in words.items()}
    bench.note({f'instructions, {name}': n for name, n in count.items()})
    bench.figure('instructions for 4 KiB, on : off',
                 [count['on'] / count['off']], at_most=1.05)
    files = bench.files()
    for size, requests, depth, most in ((4 * KIB, 60000, 64, SAME_TIME),
                                        (64 * KIB, 18000, 8, SAME_TIME),
                                        (MIB, 1500, 8, 1.10)):
        times = bench.contest({f'{name}, {size}': functools.partial(
            lambda options, *load: bench.load('ours', options, *load).seconds,
            bench.quorum(files, word), size, requests, depth, '-w')
            for name, word in words.items()})
        bench.figure(f'time of {size // KIB} KiB over files, on : off',
                     ratios(times, f'on, {size}', f'off, {size}'),
                     at_most=most)


@row('iovec-compare')
def iovec_compare(bench: Bench) -> None:
    """Find the last byte of two vectors of 1 MiB to differ."""
    programs = {key: bench.make(key, 'iov') for key in bench.tops}
    times = bench.contest({key: lambda p=program: bench.run(p).seconds
                           for key, program in programs.items()})
    bench.figure('times as fast as pristine',
                 ratios(times, 'pristine', 'ours'))


@row('dead-child')
def dead_child(bench: Bench) -> None:
    """The longest critical section, with 8 Mi ranges stale on one child."""
    program = bench.make('ours', 'settle')
    times = [bench.run(program).seconds * 1000 for _ in range(bench.runs)]
    bench.note({'ms': max(times)})
    bench.figure('ms under the lock, at most', times, at_most=1)


# --- read-pattern=threshold ---

def threshold_row(bench: Bench, size: int, count: int) -> None:
    files = bench.files()
    times = bench.contest({
        pattern: functools.partial(
            lambda options: bench.load('ours', options, size, count, 8).seconds,
            bench.quorum(files, f',read-pattern={pattern}'))
        for pattern in ('quorum', 'threshold')})
    bench.figure('times the time of pattern quorum',
                 ratios(times, 'threshold', 'quorum'), at_most=0.75)


row('threshold-64k')(lambda bench: threshold_row(bench, 64 * KIB, 12000))
row('threshold-1M')(lambda bench: threshold_row(bench, MIB, 1000))


class Servers:
    """Children that count, and take their time.  A context manager."""

    def __init__(self, bench: Bench) -> None:
        self.servers = [HeldNBD(f'{bench.work}/nbd-{i}', bytes(MIB))
                        for i in range(CHILDREN)]
        self.children = [f'driver=nbd,server.type=unix,'
                         f'server.path={bench.work}/nbd-{i}'
                         for i in range(CHILDREN)]

    def __enter__(self) -> 'Servers':
        return self

    def __exit__(self, *args: object) -> None:
        for server in self.servers:
            server.stop()


@row('threshold-load')
def threshold_load(bench: Bench) -> None:
    """Is each child asked as often as the others?"""
    count = 3000
    with Servers(bench) as nbd:
        bench.load('ours', bench.quorum(nbd.children,
                                        ',read-pattern=threshold'),
                   4096, count, 16)
        reads = [sum(request.kind == READ for request in server.seen)
                 for server in nbd.servers]
    bench.note({f'reads of child {i}': n for i, n in enumerate(reads)})
    bench.figure('reads of a child for each read', [sum(reads) / count],
                 at_most=2.01)
    bench.figure('busiest child : idlest child', [max(reads) / min(reads)],
                 at_most=1.05)


# --- slow children ---

def slow_row(bench: Bench, kind: int, name: str, *args: str) -> None:
    """Answers of a kind take a while: are all children waited for at once?"""
    def answer_slowly(request: Request) -> bool:
        if request.kind == kind:
            time.sleep(DELAY)
        return False

    with Servers(bench) as nbd:
        for server in nbd.servers:
            server.hold = answer_slowly

        def answers() -> int:
            return sum(request.kind == kind
                       for request in nbd.servers[0].seen)

        def milliseconds(key: str, options: str) -> float:
            before, start = answers(), time.monotonic()
            bench.run(bench.program(key, name), *args, '--image-opts', options)
            return (time.monotonic() - start) * 1000 / (answers() - before)

        quorum = bench.quorum(nbd.children)
        times = bench.contest({
            'ours': lambda: milliseconds('ours', quorum),
            'pristine': lambda: milliseconds('pristine', quorum),
            'one child': lambda: milliseconds('ours', nbd.children[0])})
    bench.figure('times the time of one slow child',
                 ratios(times, 'ours', 'one child'), at_most=1.1)
    bench.figure('ms, if each child takes 100 ms', times['ours'])
    bench.figure('the same, pristine', times['pristine'])


row('flush')(lambda bench: slow_row(
    bench, FLUSH, 'qemu-img', 'bench', '-w', '-c', '5', '-d', '1',
    '--flush-interval', '1'))
row('block-status')(lambda bench: slow_row(
    bench, BLOCK_STATUS, 'qemu-img', 'map', '--output=json'))


# --- a child that lies ---

def mismatch_row(bench: Bench, size: int, count: int) -> None:
    """Each read has a dissenter, in one byte."""
    files = bench.files()
    clean = bench.quorum(files)
    liar = bench.quorum([*files[:-1], bench.spoil(CHILDREN - 1, size)])
    loads = {'clean': ('ours', clean), 'mismatch': ('ours', liar),
             'clean, pristine': ('pristine', clean),
             'mismatch, pristine': ('pristine', liar)}
    times = bench.contest({
        name: functools.partial(
            lambda key, options: bench.load(key, options, size, count,
                                            16).seconds, key, options)
        for name, (key, options) in loads.items()})
    bench.figure('times the time of a clean read',
                 ratios(times, 'mismatch', 'clean'), at_most=2.5)
    bench.figure('the same, pristine',
                 ratios(times, 'mismatch, pristine', 'clean, pristine'))
    bench.figure('times the time of pristine',
                 ratios(times, 'mismatch', 'mismatch, pristine'))


row('mismatch-4k')(lambda bench: mismatch_row(bench, 4 * KIB, 10000))
row('mismatch-64k')(lambda bench: mismatch_row(bench, 64 * KIB, 4000))


@row('mismatch-1M')
def mismatch_units(bench: Bench) -> None:
    """Reads of 1 MiB in which each child has another unit wrong."""
    count = 20
    children = []
    for i in range(CHILDREN):
        name = f'{bench.work}/units-{i}.raw'
        with open(name, 'wb') as file:
            file.write(bytes([PATTERN]) * count * MIB)
            for at in range(count):
                file.seek(at * MIB + (5 + 100 * i) * 4 * KIB)
                file.write(b'wrong')
        children.append(f'driver=raw,file.driver=file,file.filename={name}')
    calls = profile(bench, 'ours', bench.quorum(children), MIB, count,
                    1).calls
    bench.figure('hashes for 3 units of 256 that differ',
                 [calls['qcrypto_hash_bytes'] / count], at_most=9)


def repair_row(bench: Bench, size: int, count: int,
               faster: Optional[float] = None) -> None:
    """
    Each block is read once, and one in twenty is repaired then.  Where clean
    reads take as long as with pristine, the other nineteen leave little to win.
    """
    files = bench.files()

    def seconds(key: str) -> float:
        spoilt = bench.spoil(CHILDREN - 1, size, 0.05, size * count)
        options = bench.quorum([*files[:-1], spoilt], ',rewrite-corrupted=on')
        return threads_load(bench, key, options, 1, count, size, False)

    times = bench.contest({key: functools.partial(seconds, key)
                           for key in bench.tops})
    bench.figure('times as fast as pristine',
                 ratios(times, 'pristine', 'ours'), at_least=faster)


row('repair-4k')(lambda bench: repair_row(bench, 4 * KIB, 20000))
row('repair-64k')(lambda bench: repair_row(bench, 64 * KIB, 4096))
row('repair-1M')(lambda bench: repair_row(bench, MIB, 256, 3))


# --- memory ---

@row('memory')
def memory(bench: Bench) -> None:
    """64 reads of 4 MiB at once: what is held more than by one raw child."""
    files = bench.files()
    rss = bench.contest({
        name: functools.partial(
            lambda key, options: bench.load(key, options, 4 * MIB, 200,
                                            64).rss / MIB, key, options)
        for name, (key, options) in {
            'raw': ('ours', files[0]),
            'ours': ('ours', bench.quorum(files)),
            'pristine': ('pristine', bench.quorum(files))}.items()}, runs=3)
    bench.figure('MiB at the peak, more than raw',
                 [a - b for a, b in zip(rss['ours'], rss['raw'])],
                 at_most=CAP_MIB)
    bench.figure('the same, pristine',
                 [a - b for a, b in zip(rss['pristine'], rss['raw'])])


@row('storm')
def storm(bench: Bench) -> None:
    """64 reads of 4 MiB at once that all mismatch: they end, and are right."""
    count = 64
    files = bench.files()
    liar = bench.quorum([bench.spoil(0, 64 * KIB), *files[1:]])
    reads: List[str] = []
    for i in range(count):
        offset = i * 4 * MIB % IMAGE_BYTES
        reads += ['-c', f'aio_read -P {PATTERN} {offset} 4M']
    raw = bench.run(bench.program('ours', 'qemu-io'), '-r', *reads,
                    '-c', 'aio_flush', '--image-opts', files[1])
    run = bench.run(bench.program('ours', 'qemu-io'), '-r', *reads,
                    '-c', 'aio_flush', '--image-opts', liar)
    wrong = len(re.findall('verification failed|failed:', run.output))
    done = len(re.findall(r'^read 4194304/4194304 bytes', run.output, re.M))
    bench.figure('right answers of 64', [done - wrong], at_least=count)
    bench.figure('MiB at the peak, more than raw', [(run.rss - raw.rss) / MIB],
                 at_most=CAP_MIB)


@row('idle')
def idle(bench: Bench) -> None:
    """What is still held of the memory two seconds after the last read."""
    def resident(pid: int) -> float:
        with open(f'/proc/{pid}/statm', encoding='ascii') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') \
                / MIB

    with subprocess.Popen([bench.program('ours', 'qemu-io'), '-r',
                           '--image-opts', bench.quorum(bench.files())],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          bufsize=0) as process:
        assert process.stdin and process.stdout

        def ask(command: bytes) -> float:
            """One at a time: qemu-io doesn't look for a second one."""
            assert process.stdin and process.stdout
            process.stdin.write(command)
            said = b''
            while not said.endswith(b'qemu-io> '):
                said += process.stdout.read(1)
            return resident(process.pid)

        ask(b'')        # for the first command
        # the second time nothing is new but the reads
        ask(b'read -q 0 4k\n')
        before = ask(b'read -q 0 4k\n')
        busy = ask(b'read -q 0 16M\n')
        time.sleep(3)
        after = ask(b'length\n')
        process.stdin.write(b'quit\n')
    bench.note({'before': before, 'busy': busy, 'after': after})
    bench.figure('MiB more right after a read of 16 MiB', [busy - before])
    bench.figure('MiB more when idle for 3 s', [after - before], at_most=2)
