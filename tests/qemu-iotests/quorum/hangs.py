# Test cases with servers that stop answering
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from concurrent.futures import ThreadPoolExecutor, TimeoutError as Hangs
from contextlib import ExitStack, contextmanager
import os
import signal
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

import iotests

from .cases import Box, QuorumNodeTestCase
from .nbd import NBD
from .oracle import BLOCK

CHILD_TIMEOUT_MS = 1000
D = CHILD_TIMEOUT_MS / 1000     # seconds that a child may be late
SLACK = 1.0                     # what more anything may take
PATIENCE = 6.0                  # how long to wait for what must not hang
TEST_SECONDS = 60               # that one test may take
KIB = 1024
MIB = 1024 * KIB
SIZE = 8 * MIB


class Heartbeat(threading.Thread):
    """
    Tells for how long this machine, busy with something else, has not let us
    run when we should have: so long may others have been kept waiting, too.
    """
    BEAT = 0.02

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.missed = 0.0           # seconds, since the start
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self.BEAT):
            now = time.monotonic()
            self.missed += max(0.0, now - before - 2 * self.BEAT)
            before = now

    def stop(self) -> None:
        self._over.set()
        self.join()


class Stopwatch:
    """Since when something goes on, and what the machine has missed then"""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._begin = time.monotonic()
        self._missed = heartbeat.missed

    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def fair_seconds(self) -> float:
        """The same, without what was missed"""
        return self.seconds() - (self._heartbeat.missed - self._missed)


class Sent:
    """A request that has been sent, and for whose answer a thread waits"""

    def __init__(self, pool: ThreadPoolExecutor, watch: Stopwatch,
                 request: Callable[..., Any], *args: Any) -> None:
        self.watch = watch
        self.took = self.took_fairly = 0.0
        self._future = pool.submit(self._run, request, *args)

    def _run(self, request: Callable[..., Any], *args: Any) -> Any:
        try:
            return request(*args)
        finally:
            self.took = self.watch.seconds()
            self.took_fairly = self.watch.fair_seconds()

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> Any:
        try:
            return self._future.result(timeout=PATIENCE)
        except Hangs as error:
            raise AssertionError(f'no answer in {PATIENCE} s') from error


class ServersTestCase(QuorumNodeTestCase):
    """
    A quorum 'q' of nodes 'c0', 'c1', ..., whose servers self.boxes can be made
    not to answer.  A subclass says what they are.
    """
    # pylint: disable=too-many-public-methods
    boxes: List[Any]

    def setUp(self) -> None:
        super().setUp()
        stack = ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(iotests.Timeout(TEST_SECONDS, 'the test hangs'))
        self.heartbeat = Heartbeat()
        self.addCleanup(self.heartbeat.stop)
        self.pool = ThreadPoolExecutor(max_workers=32)
        self.addCleanup(self.pool.shutdown)
        self.clients: List[NBD] = []
        self.addCleanup(self.close_clients)
        self.set_up_boxes()
        self.vm = self.new_vm()

    def set_up_boxes(self) -> None:
        raise NotImplementedError

    def new_vm(self, *args: str, name: str = '') -> Any:
        vm = iotests.VM(name)
        vm.add_args(*args)
        self.addCleanup(vm.shutdown, hard=True)
        vm.launch()
        return vm

    def close_clients(self) -> None:
        for client in self.clients:
            client.shutdown()
            client.close()
        self.clients = []

    # --- the quorum ---

    def child_node(self, i: int) -> Dict[str, Any]:
        """Options of the node 'c<i>'; that of its connection is 'n<i>'."""
        return {'driver': 'raw', 'node-name': f'c{i}', 'discard': 'unmap',
                'file': self.boxes[i].node(f'n{i}', discard='unmap')}

    def quorum_node(self, **options: Any) -> Dict[str, Any]:
        node: Dict[str, Any] = {
            'driver': 'quorum', 'node-name': 'q', 'discard': 'unmap',
            'child-timeout': CHILD_TIMEOUT_MS,
            'children': [f'c{i}' for i in range(len(self.boxes))]}
        for key, value in options.items():
            node[key.replace('_', '-')] = value
        return node

    def add_quorum(self, **options: Any) -> None:
        for i, _ in enumerate(self.boxes):
            self.cmd('blockdev-add', self.child_node(i))
        self.cmd('blockdev-add', self.quorum_node(**options))

    def begin(self, clients: int = 1, **options: Any) -> None:
        """A quorum, an export, and clients of it, which have written."""
        self.add_quorum(**options)
        self.export()
        self.connect(clients)
        for offset in range(0, SIZE, MIB):
            self.clients[0].write(offset, b'\x11' * MIB)
        self.clients[0].flush()

    def connect(self, clients: int) -> None:
        self.clients += [NBD(self.socket) for _ in range(clients)]

    # --- what takes how long ---

    def watch(self) -> Stopwatch:
        return Stopwatch(self.heartbeat)

    def send(self, name: str, *args: Any, client: int = 0) -> Sent:
        """Let a client send a request: 'write', offset, data ..."""
        return Sent(self.pool, self.watch(),
                    getattr(self.clients[client], name), *args)

    def ends(self, sent: Sent, least: float = 0.0, most: float = D + SLACK
             ) -> Any:
        """It ends well, and in time.  Returns what it has returned."""
        result = sent.result()
        self.assertLessEqual(sent.took_fairly, most, 'seconds')
        self.assertGreaterEqual(sent.took, least, 'seconds: too early')
        return result

    @contextmanager
    def in_time(self, most: float = D + SLACK) -> Iterator[None]:
        """What is done here takes no longer than that."""
        watch = self.watch()
        yield
        self.assertLessEqual(watch.fair_seconds(), most, 'seconds')

    def wait_until(self, what: str, condition: Callable[[], Any],
                   seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, f'never: {what}')
            time.sleep(0.01)

    # --- servers that hang ---

    def hang(self, i: int) -> None:
        box = self.boxes[i]
        box.signal(signal.SIGSTOP)
        self.addCleanup(self.resume, i)
        # Its threads may go on for a moment.
        os.waitid(os.P_PID, box.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self, i: int) -> None:
        if self.boxes[i].process:
            self.boxes[i].signal(signal.SIGCONT)

    def wait_asked(self, i: int) -> None:
        """Wait until child i has a request that it does not answer."""
        # On a busy machine it may be given up before anybody looks.
        self.wait_until(f'children.{i} is asked', lambda: (
            self.children()[i].get('oldest-request-ms', 0) > 0
            or self.states()[i] == 'lagging'))

    @contextmanager
    def hanging(self, i: int = 2, answer: bool = True) -> Iterator[None]:
        """
        Child i hangs, and a write waits for it, during what is done here.  It
        ends in time without the child, unless there is no @answer because the
        guest loses its connection.
        """
        self.hang(i)
        sent = self.send('write', 0, b'\x22' * 64 * KIB)
        self.wait_asked(i)
        yield
        if answer:
            self.ends(sent, D - 0.1)

    def wait_state(self, i: int, *states: str, seconds: float = 60
                   ) -> Dict[str, Any]:
        """Wait for the event that child i is in one of these states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = self.wait_event('QUORUM_CHILD_STATE', seconds)
            if data['child'] == f'children.{i}' and data['state'] in states:
                return data
        raise AssertionError(f'children.{i} is never {states}')

    def check_lagging(self, i: int = 2, good: int = 2) -> None:
        """Child i alone has been found not to answer, and all are told."""
        data = self.wait_state(i, 'lagging', seconds=PATIENCE)
        self.assertEqual((data['reference'], data['node-name']),
                         ('q', f'c{i}'))
        self.assertEqual(data['reason'],
                         f'did not answer for {CHILD_TIMEOUT_MS} ms after '
                         f'{good} others had')
        for k, (state, count) in enumerate(zip(self.states(),
                                               self.counts('timeouts'))):
            self.assertEqual((state == 'lagging', bool(count)),
                             (k == i, k == i), f'children.{k}')

    def goes_on(self, client: int = 0) -> None:
        """Nothing waits for the child that hangs any more."""
        guest = self.clients[client]
        with self.in_time(D / 2):
            guest.write(128 * KIB, b'\x33' * 64 * KIB)
            guest.write(192 * KIB, b'\x44' * 4 * KIB, NBD.FUA)
            guest.zero(256 * KIB, 64 * KIB)
            guest.flush()
            for offset, length, byte in ((128 * KIB, 64 * KIB, b'\x33'),
                                         (192 * KIB, 4 * KIB, b'\x44'),
                                         (256 * KIB, 64 * KIB, b'\0')):
                self.assertEqual(guest.read(offset, length), byte * length)

    def comes_back(self, i: int = 2) -> None:
        """The server answers, and the child gets what it has missed."""
        self.resume(i)
        data = self.wait_state(i, 'stale', 'ok')
        self.assertEqual(data['reason'], 'answers again')
        self.repair_all(sync='stale')

    def comes_back_alike(self, i: int = 2) -> None:
        """The same; then all is over, and the replicas are alike."""
        self.comes_back(i)
        self.end_alike()

    def end_alike(self) -> None:
        if self.clients:
            self.clients[0].flush()
        self.assertEqual(self.counts('stale-bytes'), [0] * len(self.states()))
        self.assertEqual(self.counts('mismatches'), [0] * len(self.states()))
        self.close_clients()
        self.vm.shutdown()
        self.check_alike()

    def check_alike(self) -> None:
        first = b''
        for i, box in enumerate(self.boxes):
            with open(box.image, 'rb') as file:
                data = file.read()
            first = first or data
            self.assertTrue(data == first, f'replicas 0 and {i} differ')


class HangTestCase(ServersTestCase):
    """The servers are those of QEMU."""
    replicas = 3
    fmt = 'raw'

    def set_up_boxes(self) -> None:
        self.boxes = []
        for i in range(self.replicas):
            box = Box(f'box{i}', SIZE // BLOCK, self.fmt)
            self.addCleanup(box.remove)
            self.boxes.append(box)

    def temporary(self, name: str, size: Optional[int] = None) -> str:
        """A file of the test's own"""
        path = os.path.join(iotests.test_dir, name)
        self.addCleanup(iotests.try_remove, path)
        if size is not None:
            with open(path, 'wb') as file:
                file.truncate(size)
        return path
