# SPDX-License-Identifier: GPL-2.0-or-later
"""
What the rows of the bench share: the two builds, images in memory, contests in
which the contestants take turns, and the figures that come out of them.
"""

import datetime
import os
import platform
import random
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
import threading
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional

import svg

KIB = 1024
MIB = 1024 * KIB

CHILDREN = 3
IMAGE_BYTES = 256 * MIB
PATTERN = 0x5a              # each byte of each image
TIMEOUT = 300               # seconds for one run; then it hangs

# The programs in this directory that are built against a tree, and the sources
# of the tree that each of them is made of, too.
PROGRAMS = {
    'again': [],
    'digest': [],
    'iov': [],
    'latency': [],
    'settle': [],
    'threads': ['tests/unit/iothread.c'],
}


class Skip(Exception):
    """A row can't be run here; says why."""


class Run(NamedTuple):
    """What one run of a program took."""
    seconds: float          # of the load, without starting the program
    cpu: float              # seconds of the processors, the start included
    rss: int                # bytes it had in memory at its peak
    output: str


class Figure(NamedTuple):
    """A line of the table."""
    row: str
    name: str
    value: float
    values: List[float]     # of each round
    target: str
    met: str                # yes, no, noise; or nothing, if there is no target


def size_name(size: int) -> str:
    return f'{size // MIB} MiB' if size >= MIB else f'{size // KIB} KiB'


class Bench:
    """The surroundings of all rows.  A context manager: clears up behind it."""

    def __init__(self, build: str, runs: int) -> None:
        self.build = os.path.realpath(build)
        self.tops = {'ours': self.build, 'pristine': f'{self.build}/base'}
        self.runs = runs
        self.row = ''
        self.figures: List[Figure] = []
        self.raw: Dict[str, Dict[str, List[float]]] = {}
        parent = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
        self.work = tempfile.mkdtemp(prefix='quorum-bench-', dir=parent)

    def __enter__(self) -> 'Bench':
        return self

    def __exit__(self, *args: object) -> None:
        shutil.rmtree(self.work)

    def about(self) -> Dict[str, object]:
        """Which builds and which machine this is."""
        def output(*args: str) -> str:
            return subprocess.run(args, check=True, text=True,
                                  stdout=subprocess.PIPE).stdout.strip()

        def version(program: str) -> str:
            # some rows can do without the pristine one
            return output(program, '--version').split()[2] \
                if os.path.exists(program) else 'not built'

        top = os.path.dirname(self.build)
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            model = re.search(r'^model name\s*: (.*)', file.read(), re.M)
        commit = output('git', '-C', top, 'rev-parse', '--short', 'HEAD')
        if output('git', '-C', top, 'status', '--porcelain'):
            commit += ' and changes'
        return {
            **{f'QEMU, {key}': version(self.program(key, 'qemu-img'))
               for key in self.tops},
            'commit': commit,
            'date': datetime.datetime.now().astimezone().isoformat(
                timespec='seconds'),
            'processors': os.cpu_count(),
            'model': model[1] if model else platform.processor(),
            'memory MiB': os.sysconf('SC_PAGE_SIZE') *
                          os.sysconf('SC_PHYS_PAGES') // MIB,
            'kernel': f'{platform.system()} {platform.release()}',
            'load before': os.getloadavg()[0],
            'images in': os.path.dirname(self.work),
            'runs': self.runs,
        }

    # --- programs ---

    def program(self, key: str, name: str) -> str:
        return f'{self.tops[key]}/bin/{name}'

    def make(self, key: str, name: str) -> str:
        """
        Compile tools/bench/NAME.c, and sources of the build's own tree, in
        the place of qemu-img.c.
        """
        obj = f'{self.tops[key]}/obj'
        sources = [os.path.join(os.path.dirname(__file__), f'{name}.c')]
        sources += [f'{self.tops[key]}/qemu/{source}'
                    for source in PROGRAMS[name]]

        def command(target: str) -> List[str]:
            lines = subprocess.run(
                ['ninja', '-C', obj, '-t', 'commands', target], check=True,
                text=True, stdout=subprocess.PIPE).stdout.splitlines()
            return shlex.split(lines[-1])

        words = command('qemu-img.p/qemu-img.c.o')
        compiler = words[:words.index('-MD')]
        objects = []
        for i, source in enumerate(sources):
            objects.append(f'{self.work}/{name}-{key}-{i}.o')
            subprocess.run(
                [*compiler, f'-I{self.tops[key]}/qemu/tests/unit', '-o',
                 objects[-1], '-c', source], check=True, cwd=obj)
        words = command('qemu-img')
        at = words.index('qemu-img.p/qemu-img.c.o')
        words[at:at + 1] = objects
        program = words[words.index('-o') + 1] = f'{self.work}/{name}-{key}'
        subprocess.run(words, check=True, cwd=obj)
        return program

    def make_once(self, key: str, name: str) -> str:
        """The same, unless it is there."""
        program = f'{self.work}/{name}-{key}'
        return program if os.path.exists(program) else self.make(key, name)

    def run(self, *args: str) -> Run:
        """Run a program; what it says it took counts, if it does."""
        # pylint: disable=consider-using-with
        with tempfile.TemporaryFile('w+', dir=self.work) as out:
            process = subprocess.Popen(args, stdout=out,
                                       stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL)
            killer = threading.Timer(TIMEOUT, process.kill)
            killer.start()
            _, status, usage = os.wait4(process.pid, 0)
            killer.cancel()
            process.returncode = status
            out.seek(0)
            output = out.read()
        if status:
            raise RuntimeError(f'status {status} of {shlex.join(args)}:\n' +
                               output[-2000:])
        took = re.search(r'completed in ([0-9.]+) seconds', output)
        return Run(float(took[1]) if took else 0,
                   usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB,
                   output)

    def load(self, key: str, options: str, size: int, count: int, depth: int,
             *more: str) -> Run:
        """
        Run a load of "qemu-img bench" in one of the builds.  What it writes is
        what the images hold already.
        """
        return self.run(self.program(key, 'qemu-img'), 'bench',
                        '-s', str(size), '-c', str(count), '-d', str(depth),
                        '-t', 'writeback', '--pattern', str(PATTERN), *more,
                        '--image-opts', options)

    # --- what the loads run on ---

    def image(self, i: int, size: int = IMAGE_BYTES) -> str:
        """
        An image, made when it is first asked for.  All are alike inside: the
        requests of "qemu-img bench" all read into one buffer, and to a quorum a
        buffer that changes while it reads looks like a guest at work, so that
        it takes a second look.
        """
        name = f'{self.work}/{i}-{size}.raw'
        if not os.path.exists(name):
            with open(name, 'wb') as file:
                for done in range(0, size, MIB):
                    file.write(bytes([PATTERN]) * min(MIB, size - done))
        return name

    def files(self, n: int = CHILDREN, size: int = IMAGE_BYTES) -> List[str]:
        """Options of children in files."""
        return [f'driver=raw,file.driver=file,'
                f'file.filename={self.image(i, size)}' for i in range(n)]

    @staticmethod
    def null(n: int = CHILDREN, more: str = '') -> List[str]:
        """Options of children that do nothing; they read as zeroes."""
        return [f'driver=null-co,size={IMAGE_BYTES},read-zeroes=on{more}'] * n

    @staticmethod
    def quorum(children: List[str], more: str = '') -> str:
        """Options of a quorum of @children, with a threshold of a majority."""
        words = ['driver=quorum',
                 f'vote-threshold={len(children) // 2 + 1}{more}']
        for i, child in enumerate(children):
            words += [f'children.{i}.{word}' for word in child.split(',')]
        return ','.join(words)

    def spoil(self, i: int, size: int, share: float = 1.0,
              end: int = IMAGE_BYTES) -> str:
        """
        A copy of an image in which some blocks of @size begin with another
        byte, always the same ones.  They are spoilt again if the copy is there.
        """
        name = f'{self.work}/spoilt-{size}.raw'
        if not os.path.exists(name):
            shutil.copyfile(self.image(i), name)
        rand = random.Random(1)
        with open(name, 'r+b', buffering=0) as file:
            for offset in range(0, end, size):
                wrong = rand.random() < share
                os.pwrite(file.fileno(), bytes([PATTERN ^ wrong]), offset)
        return f'driver=raw,file.driver=file,file.filename={name}'

    # --- contests and figures ---

    def contest(self, contestants: Dict[str, Callable[[], float]],
                runs: Optional[int] = None) -> Dict[str, List[float]]:
        """
        Let the contestants take turns, so that a noisy machine is noisy for all
        of them.  The first round warms the caches and does not count.
        """
        values: Dict[str, List[float]] = {key: [] for key in contestants}
        for _ in range((runs or self.runs) + 1):
            for key, contestant in contestants.items():
                values[key].append(contestant())
        result = {key: some[1:] for key, some in values.items()}
        self.raw.setdefault(self.row, {}).update(result)
        return result

    def note(self, values: Dict[str, float]) -> None:
        """Values of which there is one only."""
        self.raw.setdefault(self.row, {}).update(
            {key: [value] for key, value in values.items()})

    def figure(self, name: str, values: Iterable[float],
               at_most: Optional[float] = None,
               at_least: Optional[float] = None) -> None:
        """
        Print a line of the table: the median of @values.  A target that the
        median misses, but the better quarter of the rounds meets, is "noise".
        """
        values = sorted(values)
        value = statistics.median(values)
        met, target = '', ''
        if at_most is not None:
            best = values[(len(values) - 1) // 4]
            target = f'<= {at_most:g}'
            met = ('yes' if value <= at_most else
                   'noise' if best <= at_most else 'no')
        elif at_least is not None:
            best = values[len(values) - 1 - (len(values) - 1) // 4]
            target = f'>= {at_least:g}'
            met = ('yes' if value >= at_least else
                   'noise' if best >= at_least else 'no')
        self.figures.append(Figure(self.row, name, value, values, target, met))
        print(f'{self.row:14} {name:45} {value:8.4g} {target:>8} {met:5}',
              flush=True)

    def plot(self, name: str, chart: svg.Chart) -> None:
        os.makedirs(f'{self.build}/bench', exist_ok=True)
        with open(f'{self.build}/bench/{name}.svg', 'w',
                  encoding='utf-8') as file:
            file.write(chart.render())


def ratios(times: Dict[str, List[float]], a: str, b: str) -> List[float]:
    """Of each round."""
    return [x / y for x, y in zip(times[a], times[b])]


def threads_load(bench: Bench, key: str, options: str, threads: int, count: int,
                 size: int, write: bool) -> float:
    """Run a load from several threads on a writable node; returns seconds."""
    program = bench.make_once(key, 'threads')
    return bench.run(program, options, str(threads), str(count), str(size),
                     'write' if write else 'read').seconds


RowFn = Callable[[Bench], None]
ROWS: Dict[str, RowFn] = {}


def row(name: str) -> Callable[[RowFn], RowFn]:
    """Make a function a row of the table."""
    def register(function: RowFn) -> RowFn:
        ROWS[name] = function
        return function
    return register
