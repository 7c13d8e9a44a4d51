# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: what a child costs that is slow, pauses, or does not answer."""

import contextlib
import functools
import json
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from typing import (Callable, Dict, Iterator, List, NamedTuple, Optional,
                    Tuple)

from contest import Bench, CHILDREN, KIB, MIB, Skip, ratios, row
from loads import instructions

SIZE = 64 * MIB
DELAY = 0.05                # seconds, of each answer of a child that is slow
RATE = 150                  # 7.5 delayed ones in flight; NBD clients have 16
SECONDS = 8
ROUNDS = 3
QUANTILES = ('p50', 'p99', 'p99.9')
TIMEOUT_MS = 1000           # child-timeout, where a child hangs
SLICE_MS = 100              # as in latency.c
EARLY = ',early-reads=on'
THRESHOLD = ',early-reads=on,read-pattern=threshold'


class Latency(NamedTuple):
    """What tools/bench/latency.c prints"""
    quantiles: List[float]      # in ms
    gap: float                  # ms, the longest in which no request ended
    gap_end: float              # ms after the start
    slices: List[int]           # requests that have ended, each 100 ms
    hedges: int                 # reads sent because another child was late
    requests: int

    def per_second(self, first: int, last: int) -> float:
        """Requests that ended from one slice to another"""
        some = self.slices[first:last]
        return sum(some) / len(some) * 1000 / SLICE_MS


# pylint: disable=too-many-arguments
def latency(bench: Bench, key: str, options: str, kind: str, rate: int = RATE,
            depth: int = 0, seconds: float = SECONDS) -> Latency:
    program = bench.make_once(key, 'latency')
    output = bench.run(program, options, kind, str(4 * KIB), str(rate),
                       str(depth), str(seconds)).output

    def numbers(name: str) -> List[float]:
        line = re.search(rf'^{name} (.*)', output, re.M)
        assert line
        return [float(word) for word in line[1].split() if word != 'until']

    stats = re.search('^stats (.*)', output, re.M)
    assert stats
    hedges = sum(child.get('hedged-reads', 0)
                 for node in json.loads(stats[1])
                 for child in node.get('driver-specific', {})
                 .get('children', []))
    slices = [int(number) for number in numbers('slices')]
    gap, gap_end = numbers('gap')
    return Latency(numbers('ms'), gap, gap_end, slices, hedges, sum(slices))


class Delay:
    """Passes connections on; what comes back arrives later.  Ends with us."""

    def __init__(self, path: str, server: str) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._start(self._accept)

    @staticmethod
    def _start(function: Callable[..., None], *args: object) -> None:
        threading.Thread(target=function, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                late: 'queue.Queue[Tuple[float, bytes]]' = queue.Queue()
                self._start(self._pass_on, client, server)
                self._start(self._receive, server, late)
                self._start(self._send, late, client)

    @staticmethod
    def _pass_on(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = client.recv(MIB)
                if not data:
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    @staticmethod
    def _receive(server: socket.socket,
                 late: 'queue.Queue[Tuple[float, bytes]]') -> None:
        data = b'.'
        while data:
            data = server.recv(MIB)
            late.put((time.monotonic() + DELAY, data))
        server.close()

    @staticmethod
    def _send(late: 'queue.Queue[Tuple[float, bytes]]', client: socket.socket
              ) -> None:
        with client, contextlib.suppress(OSError):
            while True:
                due, data = late.get()
                if not data:
                    break
                time.sleep(max(0, due - time.monotonic()))
                client.sendall(data)

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


class Servers:
    """Each child is behind a server of its own.  A context manager."""

    def __init__(self, bench: Bench, count: int, delayed: int = 0,
                 tcp: bool = False, limit: int = 0) -> None:
        """
        The last @delayed of @count answer late.  Each sends at most @limit
        bytes a second, if there is a limit.
        """
        self.bench = bench
        self.tcp = tcp
        self.limit = limit
        self.processes: List['subprocess.Popen[bytes]'] = []
        self.delays: List[Delay] = []
        self.children: List[str] = []
        try:
            for i in range(count):
                self._start(i, i >= count - delayed)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> 'Servers':
        return self

    def __exit__(self, *args: object) -> None:
        self.end()

    def _path(self, i: int, what: str) -> str:
        return f'{self.bench.work}/server-{i}.{what}'

    def _start(self, i: int, delayed: bool) -> None:
        path, pid_file = self._path(i, 'sock'), self._path(i, 'pid')
        port = free_port() if self.tcp else 0
        where = ['--bind=127.0.0.1', f'--port={port}'] if self.tcp else \
            [f'--socket={path}']
        image = self.bench.image(i, SIZE)
        what = [
            f'--object=throttle-group,id=g,x-bps-read={self.limit}',
            '--image-opts', 'driver=throttle,throttle-group=g,file.driver=raw,'
            f'file.file.driver=file,file.file.filename={image}'
        ] if self.limit else ['--format=raw', image]
        # pylint: disable=consider-using-with
        self.processes.append(subprocess.Popen([
            self.bench.program('ours', 'qemu-nbd'), '--persistent',
            '--shared=0', *where, f'--pid-file={pid_file}', *what],
            stdin=subprocess.DEVNULL))
        while not os.path.exists(pid_file):
            assert self.processes[i].poll() is None
            time.sleep(0.01)
        if delayed:
            self.delays.append(Delay(self._path(i, 'delayed'), path))
            path = self._path(i, 'delayed')
        self.children.append(
            'driver=nbd,server.type=inet,server.host=127.0.0.1,'
            f'server.port={port}' if self.tcp else
            f'driver=nbd,server.type=unix,server.path={path}')

    def signal(self, i: int, number: int) -> None:
        self.processes[i].send_signal(number)

    def end(self) -> None:
        for delay in self.delays:
            delay.end()
        for i, process in enumerate(self.processes):
            process.kill()
            process.wait()
            for what in 'sock', 'pid', 'delayed':
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self._path(i, what))

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """In turn, each stops for 50 ms, twice a second one of them."""
        over = threading.Event()

        def pause() -> None:
            i = 0
            while not over.wait(0.45):
                self.signal(i, signal.SIGSTOP)
                time.sleep(DELAY)
                self.signal(i, signal.SIGCONT)
                i = (i + 1) % len(self.processes)

        thread = threading.Thread(target=pause)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def quantiles(bench: Bench, contestants: Dict[str, Callable[[], Latency]]
              ) -> Dict[str, List[Latency]]:
    """Print them for each contestant; return all, of the rounds that count."""
    runs: Dict[str, List[Latency]] = {name: [] for name in contestants}

    def run(name: str) -> float:
        runs[name].append(contestants[name]())
        return runs[name][-1].quantiles[1]

    bench.contest({name: functools.partial(run, name) for name in contestants},
                  runs=min(bench.runs, ROUNDS))
    for name in runs:
        runs[name] = runs[name][1:]
        for i, quantile in enumerate(QUANTILES):
            bench.figure(f'ms, {quantile}, {name}',
                         [some.quantiles[i] for some in runs[name]])
    return runs


def p99(runs: Dict[str, List[Latency]], a: str, b: str) -> List[float]:
    return ratios({name: [run.quantiles[1] for run in some]
                   for name, some in runs.items()}, a, b)


def delayed_row(bench: Bench, kind: str) -> None:
    """One child takes 50 ms more for each request, or none does."""
    contestants: Dict[str, Callable[[], Latency]] = {}
    with Servers(bench, CHILDREN + 1, delayed=1) as servers:
        healthy = servers.children[:CHILDREN]
        delayed = servers.children[-CHILDREN:]

        def add(name: str, key: str, children: List[str], more: str = ''
                ) -> None:
            contestants[name] = functools.partial(
                latency, bench, key, bench.quorum(children, more), kind)

        add('healthy', 'ours', healthy)
        add('healthy, pristine', 'pristine', healthy)
        add('delayed', 'ours', delayed)
        add('delayed, pristine', 'pristine', delayed)
        if kind == 'read':
            add('healthy, early-reads', 'ours', healthy, EARLY)
            add('delayed, early-reads', 'ours', delayed, EARLY)
            add('delayed, threshold', 'ours', delayed, THRESHOLD)
        runs = quantiles(bench, contestants)
    bench.figure('p99 : that of pristine, healthy',
                 p99(runs, 'healthy', 'healthy, pristine'), at_most=1.1)
    bench.figure('p99 : that of pristine, delayed',
                 p99(runs, 'delayed', 'delayed, pristine'), at_most=1.05)
    if kind == 'read':
        for name in 'early-reads', 'threshold':
            bench.figure(f'p99, delayed, {name} : healthy',
                         p99(runs, f'delayed, {name}', 'healthy'),
                         at_most=1.5)


row('delayed-read')(lambda bench: delayed_row(bench, 'read'))
row('delayed-write')(lambda bench: delayed_row(bench, 'write'))


@row('pauses')
def pauses(bench: Bench) -> None:
    """Each child stops for 50 ms now and then."""
    with Servers(bench, CHILDREN) as servers:
        def run(key: str, more: str, pausing: bool) -> Latency:
            options = bench.quorum(servers.children, more)
            with servers.pausing() if pausing else contextlib.nullcontext():
                return latency(bench, key, options, 'read')

        runs = quantiles(bench, {
            name: functools.partial(run, key, more, pausing)
            for name, key, more, pausing in (
                ('none', 'ours', '', False),
                ('pauses', 'ours', '', True),
                ('pauses, pristine', 'pristine', '', True),
                ('pauses, early-reads', 'ours', EARLY, True),
                ('pauses, threshold', 'ours', THRESHOLD, True))})
    for name in 'early-reads', 'threshold':
        bench.figure(f'p99, pauses, {name} : none',
                     p99(runs, f'pauses, {name}', 'none'), at_most=1.5)
    bench.figure('reads that were sent twice, of all, threshold',
                 [run.hedges / run.requests
                  for run in runs['pauses, threshold']], at_most=0.1)


def hang_row(bench: Bench, kind: str) -> None:
    """
    A server is stopped for good.  (With pristine QEMU, that is the end.)  The
    stall is the longest time in which no request ended.
    """
    begin, seconds = 3, 10
    stalls, shares = [], []
    for _ in range(min(bench.runs, ROUNDS)):
        with Servers(bench, CHILDREN) as servers:
            stop = threading.Timer(begin, servers.signal,
                                   (CHILDREN - 1, signal.SIGSTOP))
            stop.start()
            run = latency(bench, 'ours', bench.quorum(
                servers.children, f',child-timeout={TIMEOUT_MS}'), kind, 0, 8,
                seconds)
            stop.join()
        after = int(run.gap_end / SLICE_MS) + 2
        if run.gap < TIMEOUT_MS / 2 or after > len(run.slices) - 10:
            raise Skip(f'the hang was not seen: {run}')
        stalls.append((run.gap - TIMEOUT_MS) / 1000)
        shares.append(run.per_second(after, len(run.slices) - 1) /
                      run.per_second(5, 25))
    bench.note({'stall, s more than child-timeout': max(stalls)})
    bench.figure('s of stall, more than child-timeout', stalls, at_most=0.5)
    bench.figure('throughput afterwards : before', shares, at_least=0.9)


row('hang-read')(lambda bench: hang_row(bench, 'read'))
row('hang-write')(lambda bench: hang_row(bench, 'write'))


@row('timeout-cost')
def timeout_cost(bench: Bench) -> None:
    """What child-timeout and early-reads cost when nothing is late."""
    def count(more: str, kind: Optional[str]) -> float:
        flags = [kind] if kind else []
        return instructions(bench, 'ours', bench.quorum(bench.null(), more),
                            *flags)

    for name, kind in ('reads', None), ('writes', '-w'):
        without = count(',child-timeout=0', kind)
        bench.figure(f'instructions with : without child-timeout, {name}',
                     [count(',child-timeout=10000', kind) / without],
                     at_most=1.03)
        bench.figure(f'instructions for a request without, {name}', [without])
    bench.figure('the same with early-reads, reads',
                 [count(EARLY, None) / count(',child-timeout=0', None)])
