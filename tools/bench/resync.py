# SPDX-License-Identifier: GPL-2.0-or-later
"""Row: what a resync takes from the guest, and how fast it is."""

import functools
import json
import socket
import subprocess
import time
from typing import Any, Dict, List, Tuple

from contest import Bench, KIB, MIB, TIMEOUT, ratios, row

SIZE = 256 * MIB
NULL_SIZE = 1 << 40
GUEST = 64 * MIB            # what the guest uses; the rest is to be copied
LIMIT = 64 * MIB            # bytes a second of a child that has a limit


class Daemon:
    """A storage daemon with a quorum of three, and a newcomer for it."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.work = bench.work
        self.kind = kind
        self.used, self.spare = 'c2', 'c3'
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen([
            bench.program('ours', 'qemu-storage-daemon'),
            '--chardev', f'socket,path={self.work}/qmp,server=on,wait=off,id=m',
            '--monitor', 'chardev=m'])
        self.monitor = socket.socket(socket.AF_UNIX)
        try:
            self.start(bench)
        except BaseException:
            self.stop()
            raise

    def start(self, bench: Bench) -> None:
        end = time.monotonic() + 10
        while self.monitor.connect_ex(f'{self.work}/qmp'):
            assert time.monotonic() < end
            time.sleep(0.01)
        self.lines = self.monitor.makefile('r', encoding='utf-8')
        self.lines.readline()
        self.cmd('qmp_capabilities')
        for i in range(4):
            self.cmd('blockdev-add', **self.child(bench, i))
        self.cmd('object-add', qom_type='iothread', id='t')
        self.cmd('blockdev-add', driver='quorum', node_name='q',
                 children=['c0', 'c1', 'c2'])
        # qemu-img bench uses all of what it gets
        self.cmd('blockdev-add', driver='raw', node_name='guest', size=GUEST,
                 file='q')
        self.cmd('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': f'{self.work}/nbd'}})
        self.cmd('block-export-add', type='nbd', id='e', node_name='guest',
                 name='e', writable=True, iothread='t')

    def __enter__(self) -> 'Daemon':
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.monitor.close()
        self.process.terminate()
        self.process.wait()

    def child(self, bench: Bench, i: int) -> Dict[str, Any]:
        """Options of the node 'c<i>'"""
        name = f'c{i}'
        if self.kind == 'null':
            return {'driver': 'null-co', 'node_name': name, 'size': NULL_SIZE,
                    'read_zeroes': True}
        file = {'driver': 'file', 'filename': bench.image(i, SIZE)}
        if self.kind == 'files':
            return {'driver': 'raw', 'node_name': name, 'file': file}
        self.cmd('object-add', qom_type='throttle-group', id=f'g{i}',
                 limits={'bps-total': LIMIT})
        return {'driver': 'throttle', 'node_name': name,
                'throttle_group': f'g{i}', 'file': file}

    def cmd(self, command: str, **args: Any) -> Any:
        request = {'execute': command, 'arguments': {
            key.replace('_', '-'): value for key, value in args.items()}}
        self.monitor.sendall(json.dumps(request).encode() + b'\n')
        while True:
            reply = json.loads(self.lines.readline())
            if 'event' not in reply:
                assert 'return' in reply, (request, reply)
                return reply['return']

    def left(self) -> int:
        """What is still to be copied."""
        stats = self.cmd('query-blockstats', query_nodes=True)
        node, = (n for n in stats if n.get('node-name') == 'q')
        return sum(child['stale-bytes']
                   for child in node['driver-specific']['children'])

    def replace(self) -> None:
        """Begin to fill another child; returns when that is under way."""
        self.spare, self.used = self.used, self.spare
        self.cmd('x-blockdev-change', parent='q', child='children.2',
                 node=self.used, in_sync=False)
        whole = self.left()
        while self.left() == whole:
            time.sleep(0.01)

    def give_up(self) -> None:
        """What has not been copied is all right, too."""
        self.cmd('x-blockdev-change', parent='q', child='children.2')
        self.cmd('x-blockdev-change', parent='q', node=self.used)

    def wait_done(self) -> float:
        """Bytes a second that are copied when the guest is idle."""
        left, start = self.left(), time.monotonic()
        while self.left():
            time.sleep(0.01)
            assert time.monotonic() < start + TIMEOUT
        return left / (time.monotonic() - start)


def rates(bench: Bench, daemon: Daemon, beside: bool, seconds: float,
          size: int, depth: int, flags: List[str]) -> Tuple[float, float]:
    """Requests a second of the guest, and bytes a second of a resync."""
    if beside:
        daemon.replace()
    left, start = daemon.left(), time.monotonic()
    done = 0
    took = 0.0
    count = 256
    while time.monotonic() < start + seconds:
        run = bench.run(
            bench.program('ours', 'qemu-img'), 'bench', '-s', str(size), '-c',
            str(count), '-d', str(depth), '--pattern', '90', *flags,
            '--image-opts', f'driver=nbd,export=e,server.type=unix,'
            f'server.path={daemon.work}/nbd')
        done += count
        took += run.seconds
        # each run takes a while, so that starting it does not matter
        count = max(64, int(count * 0.5 / max(run.seconds, 0.001)))
    now = daemon.left()
    copied = (left - now) / (time.monotonic() - start)
    if beside:
        assert now, 'the resync has ended too soon'
        daemon.give_up()
    return done / took, copied


LOADS = {
    'read 4 KiB, 1 at a time': (4 * KIB, 1, []),
    'read 64 KiB, 16 at a time': (64 * KIB, 16, []),
    'write 4 KiB, 1 at a time': (4 * KIB, 1, ['-w']),
    'write 64 KiB, 16 at a time': (64 * KIB, 16, ['-w']),
}


@row('resync')
def resync(bench: Bench) -> None:
    """
    Children that only take processor time, and children with a limit, which
    serve the guest and the resync one after the other.
    """
    for kind in ("limited", "null"):
        with Daemon(bench, kind) as daemon:
            for name, load in LOADS.items():
                speed: List[float] = []

                def rate(beside: bool, load: Any = load,
                         speed: List[float] = speed) -> float:
                    requests, copied = rates(bench, daemon, beside, 3, *load)
                    if beside:
                        speed.append(copied)
                    return requests

                values = bench.contest({
                    f'{kind}, {name}, {how}': functools.partial(rate, beside)
                    for how, beside in (('alone', False), ('beside', True))},
                    runs=min(bench.runs, 3))
                bench.figure(f'{kind}: {name}: kept', ratios(
                    values, *(f'{kind}, {name}, {how}'
                              for how in ('beside', 'alone'))), at_least=0.5)
                bench.figure('  MB/s copied beside it',
                             [value / 1e6 for value in speed])
    with Daemon(bench, 'files') as daemon:
        speeds = []
        for _ in range(bench.runs):
            daemon.replace()
            speeds.append(daemon.wait_done() / 1e6)
        bench.figure('files: MB/s copied, the guest being idle', speeds)
