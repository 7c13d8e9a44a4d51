# Test cases with a quorum
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from contextlib import ExitStack, contextmanager
import os
import random
import re
import resource
import signal
import time
from typing import Any, Dict, Iterator, List, Optional, Sequence

import iotests
from iotests import qemu_img_create, qemu_io

from .guests import Guest
from .nbd import NBD, HeldNBD, NBDError
from .oracle import BLOCK, Disk, Wrong
from .qmp import QuorumCommands, dashed
from .replay import SECONDS, SEED, trace
from .servers import Address, Server
from .virtio import Request, VirtioBlk

SIZE = 1024 * 1024
UNIT = 4096

# What a child misses stays as it is until a test has it repaired: a resync,
# which begins after a second, would make the outcome depend on how fast the
# test is.
QUORUM: Dict[str, Any] = {'driver': 'quorum', 'auto-resync': False}


def image(i: int) -> str:
    return os.path.join(iotests.test_dir, f'quorum-{i}.raw')


def children_options(driver: str = 'raw', count: int = 3,
                     missing: Sequence[int] = ()) -> List[str]:
    """
    The images as children of a quorum, in words for a command line; those of
    the children that are @missing don't exist.
    """
    return [word for i in range(count) for word in (
        f'children.{i}.driver={driver}',
        f'children.{i}.file.driver=file',
        f'children.{i}.file.filename=' +
        ('/nowhere' if i in missing else image(i)))]


def raw_options() -> str:
    """A quorum of three raw images, for a command line"""
    return ','.join(['driver=quorum', 'vote-threshold=2',
                     *children_options()])


def spoil(i: int, pattern: int, offset: int = 0, size: int = SIZE) -> None:
    """Overwrite a part of an image behind QEMU's back."""
    with open(image(i), 'r+b') as file:
        file.seek(offset)
        file.write(bytes([pattern]) * size)


def contents(i: int) -> bytes:
    with open(image(i), 'rb') as file:
        return file.read()


def nbd_server(name: str, path: str, fmt: str = 'raw',
               prefix: Sequence[str] = ()) -> Server:
    """A server of the image @path, at a socket called @name"""
    return Server(iotests.qemu_nbd_prog, path,
                  os.path.join(iotests.sock_dir, f'{name}.sock'), fmt, prefix)


class Box(Server):
    """A server of a new image"""
    def __init__(self, name: str, blocks: int, fmt: str = 'raw',
                 address: Optional[Address] = None, prefix: Sequence[str] = ()
                 ) -> None:
        self.name = name
        path = os.path.join(iotests.test_dir, f'{name}.{fmt}')
        options = ['-o', 'cluster_size=4k'] if fmt == 'qcow2' else []
        qemu_img_create('-f', fmt, *options, path, str(blocks * BLOCK))
        super().__init__(
            iotests.qemu_nbd_prog, path,
            address or os.path.join(iotests.sock_dir, f'{name}.sock'),
            fmt, prefix)
        self.start()

    def node(self, name: str = '', **options: Any) -> Dict[str, Any]:
        return super().node(name or self.name, **options)


@contextmanager
def replayable(hang: float = 120) -> Iterator[None]:
    """
    A random test: print the seed if it fails, and let it fail if it takes
    @hang seconds longer than it was asked to.
    """
    try:
        with iotests.Timeout(int(hang + SECONDS), 'something hangs'):
            yield
    except BaseException:
        print(f'To replay: QUORUM_TEST_SEED={SEED}')
        raise


class Daemon(iotests.QemuStorageDaemon):
    """A storage daemon that can be used like a VM"""

    def __init__(self, *args: str) -> None:
        super().__init__(*args, qmp=True)
        self._come: List[Dict[str, Any]] = []

    def event_wait(self, name: str, timeout: float = 60.0) -> Dict[str, Any]:
        for event in self._come:
            if event['event'] == name:
                self._come.remove(event)
                return event
        while True:
            event = self.get_qmp().pull_event(wait=timeout) or {}
            if event['event'] == name:
                return event
            self._come.append(event)

    def get_qmp_events(self) -> List[Dict[str, Any]]:
        events = self._come + self.get_qmp().get_events()
        self._come = []
        return events

    def qtest(self, _: str) -> None:
        """The time of a daemon passes by itself."""

    def signal(self, number: int) -> None:
        assert self._p
        self._p.send_signal(number)

    def shutdown(self, hard: bool = False) -> None:
        if self._p is not None:
            self.stop(signal.SIGKILL if hard else signal.SIGTERM)

    def end(self, by_command: bool) -> int:
        """Let the daemon end by 'quit' or SIGTERM; return its exit status."""
        process = self._p
        assert process
        if by_command:
            self.cmd('quit')
        else:
            process.send_signal(signal.SIGTERM)
        try:
            self.get_qmp().get_events(wait=30.0)
            self.stop()
        except (EOFError, ConnectionResetError):
            pass
        return process.wait()


class QuorumNodeTestCase(iotests.QMPTestCase, QuorumCommands):
    """A QEMU, or a storage daemon, with a quorum node 'q'"""
    vm: Any             # an iotests.VM, or a Daemon
    driver = QUORUM     # what each quorum node begins with

    def setUp(self) -> None:
        self.socket = os.path.join(iotests.sock_dir, 'nbd.sock')
        self.rand = random.Random(SEED)
        self.addCleanup(iotests.try_remove, self.socket)

    def cmd(self, name: str, args: Optional[Dict[str, Any]] = None,
            **more: Any) -> Any:
        return self.vm.cmd(name, {**(args or {}), **dashed(more)})

    def wait_event(self, name: str, timeout: float = 5.0) -> Dict[str, Any]:
        event = self.vm.event_wait(name, timeout)
        assert event
        return dict(event['data'])

    def export(self) -> None:
        iotests.try_remove(self.socket)
        self.export_nbd(self.socket)


class QuorumTestCase(QuorumNodeTestCase):
    """
    A quorum over raw images, whose nodes are 'c0', 'c1', ..., exported over
    NBD so that requests come in parallel.
    """
    replicas = 3

    def setUp(self) -> None:
        super().setUp()
        self.servers: Dict[int, HeldNBD] = {}
        for i in range(self.replicas):
            with open(image(i), 'wb') as file:
                file.write(b'\x11' * SIZE)
        self.vm = iotests.VM()
        self.vm.launch()

    def tearDown(self) -> None:
        # QEMU ends when all requests have
        for server in self.servers.values():
            server.release()
        try:
            self.vm.shutdown()
        finally:
            for server in self.servers.values():
                server.stop()
        for i in range(self.replicas):
            iotests.try_remove(image(i))
        iotests.try_remove(self.socket)

    @staticmethod
    def server_path(i: int) -> str:
        return os.path.join(iotests.sock_dir, f'{i}.sock')

    def serve(self, i: int, data: bytes) -> HeldNBD:
        """From now on, child i is behind a server of the test, not a file."""
        self.servers[i] = HeldNBD(self.server_path(i), data)
        return self.servers[i]

    def add_child(self, i: int, between: Optional[Dict[str, Any]] = None
                  ) -> None:
        """
        The node 'c<i>' of image i; @between are the options of a node (as a
        blkdebug) that goes between it and the file.
        """
        if i in self.servers:
            self.vm.cmd('blockdev-add', {
                'driver': 'nbd', 'node-name': f'c{i}',
                'server': {'type': 'unix', 'path': self.server_path(i)}})
            return
        file: Dict[str, Any] = {'driver': 'file', 'filename': image(i)}
        if between:
            key = 'image' if between['driver'] == 'blkdebug' else 'file'
            file = {key: file, **between}
        self.vm.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': f'c{i}', 'file': file})

    def add_quorum(self, between: Optional[Dict[int, Dict[str, Any]]] = None,
                   export: bool = True, **options: Any) -> None:
        for i in range(self.replicas):
            self.add_child(i, (between or {}).get(i))
        self.vm.cmd('blockdev-add', {
            **self.driver, 'node-name': 'q',
            'children': [f'c{i}' for i in range(self.replicas)],
            **dashed(options)})
        if export:
            self.export()

    def close(self) -> None:
        """End QEMU, so that the images can be looked at."""
        self.vm.shutdown()

    def io(self, *commands: str) -> List[str]:
        """
        Run qemu-io commands on the export in one process, aio ones at once;
        return what is said of each that failed.
        """
        args = [arg for command in commands for arg in ('-c', command)]
        result = qemu_io('-f', 'raw', f'nbd+unix:///q?socket={self.socket}',
                         *args, check=False)
        said = re.findall(r'.*(?:failed|rror).*', result.stdout)
        # flush says nothing
        return said or ['failed'] * (result.returncode != 0)

    def check_io(self, *commands: str) -> None:
        self.assertEqual(self.io(*commands), [])

    def check_repair(self, *commands: str) -> None:
        """The same, and what is repaired behind the reads is done, too."""
        self.check_io(*commands)
        self.drain()

    @contextmanager
    def little_memory(self, size: int) -> Iterator[None]:
        """QEMU gets no more than @size bytes of it."""
        pid = self.vm.get_pid()
        assert pid is not None
        with open(f'/proc/{pid}/statm', encoding='ascii') as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        if used > 1 << 40:
            self.case_skip('a sanitizer needs all memory')
        before = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (used + size, before[1]))
        yield
        resource.prlimit(pid, resource.RLIMIT_AS, before)

    def no_event(self, *names: str) -> None:
        """
        Nothing of these names has come.  The events are throttled to one a
        second (of QEMU's own clock), so let the ones that are held back come.
        """
        self.vm.qtest('clock_step 2000000000')
        self.vm.cmd('query-status')
        come = [event['event'] for event in self.vm.get_qmp_events()]
        for name in names:
            self.assertNotIn(name, come)

    def write_and_scribble(self, seconds: int, **options: Any) -> VirtioBlk:
        """
        A guest writes 64 KiB of 0x22 to the middle of a quorum, and has 0x33
        in its memory before children 1 and 2 get them.
        """
        between = {}
        for i in 1, 2:
            self.cmd('object-add', qom_type='throttle-group', id=f'tg{i}',
                     limits={'iops-write': 1})
            between[i] = {'driver': 'throttle', 'throttle-group': f'tg{i}'}
        self.add_quorum(between, export=False, **options)
        self.cmd('device_add', driver='virtio-blk-pci', drive='q', id='disk',
                 addr=f'{VirtioBlk.SLOT}')
        guest = VirtioBlk(self.vm, 1)
        size = VirtioBlk.MOST_BYTES
        # The first one uses up what the throttles let through
        guest.fill(0, [Request('write', 0, size, 0x44),
                       Request('write', SIZE // 2, size, 0x22)])
        guest.kick()
        with iotests.Timeout(seconds, 'child 0 does not get the write'):
            while contents(0)[SIZE // 2:][:size] != b'\x22' * size:
                time.sleep(0.01)
        guest.scribble(0, 1, 0x33)
        with iotests.Timeout(seconds, 'the throttled children get no write'):
            while not guest.done():
                self.vm.qtest('clock_step 100000000')
        return guest


class GuestsTestCase(QuorumNodeTestCase):
    """A quorum that guests use over NBD, and know what it must hold"""
    blocks = 1024

    def setUp(self) -> None:
        super().setUp()
        self.disk = Disk(self.blocks)
        self.guests: List[Guest] = []

    def start(self, options: Dict[str, Any],
              nodes: Sequence[Dict[str, Any]] = ()) -> None:
        """Start QEMU with some nodes, and export a quorum."""
        self.vm = iotests.VM()
        self.addCleanup(self.vm.shutdown, hard=True)
        self.vm.launch()
        for node in nodes:
            self.vm.cmd('blockdev-add', node)
        self.vm.cmd('blockdev-add', {**QUORUM, 'node-name': 'q',
                                     **options})
        self.export()

    def add_guests(self, count: int) -> None:
        each = self.blocks // count
        for i in range(count):
            self.add_guest(Guest(self.disk, i * each, (i + 1) * each,
                                 self.socket, f'guest {i}'))

    def add_guest(self, guest: Guest) -> None:
        self.guests.append(guest)
        self.addCleanup(guest.stop, hurry=True)
        guest.start()

    def live(self, requests: int = 30) -> None:
        """Let the guests do something, and see that it was right."""
        until = [guest.done + requests for guest in self.guests]
        for guest, end in zip(self.guests, until):
            while guest.done < end and not guest.wrong:
                time.sleep(0.005)
        self.check_guests()

    def check_all(self) -> int:
        """
        The guests sleep, and have found out that QEMU was killed.  See that
        all is there that must be.  A block may be unreadable only if a write
        to it was not acknowledged, or could get lost; write such blocks
        again, and say how many there are.
        """
        lost = 0
        for guest in self.guests:
            guest.nbd.close()
            guest.nbd = NBD(self.socket)
            guest.lost = False
            for block in range(guest.first, guest.last):
                try:
                    guest.read(block, block + 1)
                except NBDError as error:
                    if len(self.disk.may[block]) == 1:
                        raise Wrong(f'block {block}: {error}') from error
                    guest.write(block, block + 1)
                    lost += 1
        return lost

    def check_guests(self) -> None:
        for guest in self.guests:
            self.assertIsNone(guest.wrong)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """No guest has a request in flight."""
        with ExitStack() as stack:
            for guest in self.guests:
                stack.enter_context(guest.awake)
            yield

    def end_guests(self) -> None:
        for guest in self.guests:
            guest.stop()
            self.assertIsNone(guest.wrong)
            guest.nbd = NBD(self.socket)
            guest.read_all()
            guest.nbd.close()
        self.check_guests()

    def scrub(self, **options: Any) -> Dict[str, Any]:
        found = super().scrub(**options)
        trace(f'scrub {options}: {found}')
        return found

    def check_image(self, path: str) -> None:
        """A replica, when all is over, holds what the guests know."""
        with open(path, 'rb') as file:
            for first in range(0, self.blocks, 256):
                self.disk.check(first, file.read(256 * BLOCK), narrow=False)


class SlowChildrenTestCase(QuorumNodeTestCase):
    """
    A quorum in a storage daemon, whose clock runs, and which has a thread for
    its export; each child answers at a pace of its own.
    """
    replicas = 3
    size = 512 * 1024

    def setUp(self) -> None:
        super().setUp()
        self.images = [os.path.join(iotests.test_dir, f'slow-{i}.raw')
                       for i in range(self.replicas)]
        for path in self.images:
            self.addCleanup(iotests.try_remove, path)

    def start(self, **options: Any) -> None:
        self.vm = Daemon()
        self.addCleanup(self.vm.shutdown, hard=True)
        self.cmd('object-add', {'qom-type': 'iothread', 'id': 't0'})
        for i, path in enumerate(self.images):
            with open(path, 'wb') as file:
                file.truncate(self.size)
            self.cmd('object-add', {
                'qom-type': 'throttle-group', 'id': f'tg{i}',
                'limits': {'iops-total': self.rand.randrange(2000, 10000)}})
            self.cmd('blockdev-add', {
                'driver': 'raw', 'node-name': f'c{i}', 'file': {
                    'driver': 'throttle', 'throttle-group': f'tg{i}',
                    'file': {'driver': 'file', 'filename': path,
                             'discard': 'unmap'}}})
        self.cmd('blockdev-add', {
            **QUORUM, 'node-name': 'q', 'discard': 'unmap',
            'children': [f'c{i}' for i in range(self.replicas)],
            **dashed(options)})
        self.export_nbd(self.socket, iothread='t0', fixed_iothread=True)

    def check_scrub(self) -> None:
        found = self.scrub()
        self.assertNotIn('error', found)
        self.assertEqual(found['mismatched-bytes'], 0)

    def check_calm(self) -> None:
        """No child has failed or lied, and the replicas are alike."""
        self.assertEqual(self.states(), ['ok'] * self.replicas)
        time.sleep(1.1)     # events are throttled to one a second
        self.cmd('query-jobs')
        for event in self.vm.get_qmp_events():
            self.assertFalse(event['event'].startswith('QUORUM_REPORT') or
                             event['event'] == 'QUORUM_FAILURE', event)
        first = b''
        for i, path in enumerate(self.images):
            with open(path, 'rb') as file:
                data = file.read()
            first = first or data
            self.assertTrue(data == first, f'replicas 0 and {i} differ')


class MigrationTestCase(QuorumTestCase):
    """A disk on images that both sides of a migration open"""

    def setUp(self) -> None:
        super().setUp()
        self.channel = os.path.join(iotests.sock_dir, 'migration.sock')
        self.source = self.vm
        self.target = iotests.VM(path_suffix='-target')
        self.target.add_incoming('defer')
        self.addCleanup(self.end)
        self.target.launch()

    def end(self) -> None:
        for vm in (self.source, self.target):
            vm.shutdown(hard=True)
        for i in range(self.replicas):
            iotests.try_remove(image(i))
        iotests.try_remove(self.channel)

    def plug(self, vm: iotests.VM, **options: Any) -> None:
        self.vm = vm
        self.add_quorum(export=False, **options)
        self.add_disk()

    def add_disk(self) -> None:
        self.vm.cmd('device_add', {'driver': 'virtio-blk-pci', 'id': 'disk',
                                   'drive': 'q', 'addr': '4'})

    def guest(self, command: str) -> None:
        """Let the device do something."""
        result = self.vm.hmp_qemu_io('/machine/peripheral/disk/virtio-backend',
                                     command, qdev=True)
        self.assertNotRegex(result['return'], '[Ee]rror|failed')

    def migrate(self) -> None:
        self.target.cmd('migrate-incoming', {'uri': f'unix:{self.channel}'})
        self.source.cmd('migrate', {'uri': f'unix:{self.channel}'})
        with iotests.Timeout(30, 'the migration hangs'):
            for vm, states in ((self.source, ['postmigrate']),
                               (self.target, ['running', 'paused'])):
                while vm.cmd('query-status')['status'] not in states:
                    migration = self.source.cmd('query-migrate')
                    self.assertNotEqual(migration.get('status'), 'failed',
                                        migration)
        self.vm = self.target
