# Servers that misbehave, and guests that remember what they have written
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from contextlib import ExitStack, contextmanager
import ctypes
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, \
    Sequence, Tuple, Union

import iotests

BLOCK = 4096

# To replay a run, give it the seed that it has printed; to have more of it,
# say for how many seconds each test is to go on.
SEED = int(os.environ.get('QUORUM_TEST_SEED',
                          random.SystemRandom().randrange(2**32)))
SECONDS = float(os.environ.get('QUORUM_TEST_SECONDS', 0))

# A path, or a host and a port
Address = Union[str, Tuple[str, int]]


class Deadline:
    """True until @seconds, or as many as we were asked to take, have passed"""
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + (SECONDS or seconds)

    def __bool__(self) -> bool:
        return time.monotonic() < self.end


@contextmanager
def replayable(hang: float = 120) -> Iterator[None]:
    """Print the seed on failure; that nothing moves for too long is one."""
    try:
        with iotests.Timeout(int(hang + SECONDS), 'something hangs'):
            yield
    except BaseException:
        print(f'To replay: QUORUM_TEST_SEED={SEED}')
        raise


def trace(what: str) -> None:
    """What a run does is of interest only if it fails."""
    if os.environ.get('QUORUM_TEST_TRACE'):
        print(f'{time.monotonic():.3f} {what}', file=sys.stderr, flush=True)


def die_with_parent() -> None:
    """In a child process: don't outlive the test, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


def in_own_namespaces() -> None:
    """
    Run the test in namespaces of its own, so that its network, its mounts and
    its processes end when it does, however that happens.  Skip it where that
    takes a privilege that we don't have.
    """
    if 'QUORUM_TEST_INSIDE' in os.environ:
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        return
    unshare = ['unshare', '--net', '--mount', '--pid', '--fork',
               '--kill-child']
    if os.getuid() != 0:
        unshare.append('--map-root-user')
    try:
        tried = subprocess.run(
            [*unshare, 'sh', '-c', 'mount -t tmpfs run /run && ip link'],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            check=False)
    except FileNotFoundError:
        iotests.notrun('there is no unshare')
    if tried.returncode != 0:
        iotests.notrun('no namespaces of its own: ' +
                       tried.stderr.strip().replace('\n', '; '))
    # What is found in /run, as the names of network namespaces, is ours, too.
    os.environ['QUORUM_TEST_INSIDE'] = '1'
    os.execvp('unshare', [
        *unshare, 'sh', '-c', 'mount -t tmpfs run /run && exec "$@"', 'sh',
        sys.executable, *sys.argv])


# --- a client ---

class NBDError(Exception):
    """The server has answered with an error."""


class NBD:
    """A connection to an NBD export, with one request at a time"""
    FUA, NO_HOLE = 1, 2

    def __init__(self, address: Address, export: str = 'q') -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket()
        self.sock.connect(address)
        self._receive(16)
        self._receive(2)
        name = export.encode()
        self.sock.sendall(struct.pack('>I8sII', 3, b'IHAVEOPT', 1, len(name)) +
                          name)
        self.size, self.flags = struct.unpack('>QH', self._receive(10))

    def _receive(self, size: int) -> bytes:
        data = b''
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError('the server has closed the connection')
            data += part
        return data

    def _ask(self, kind: int, offset: int, size: int, data: bytes = b'',
             flags: int = 0) -> bytes:
        self.sock.sendall(struct.pack('>IHHQQI', 0x25609513, flags, kind, 0,
                                      offset, size) + data)
        error, = struct.unpack('>4xI8x', self._receive(16))
        if error:
            raise NBDError(os.strerror(error))
        return self._receive(size) if kind == 0 else b''

    def read(self, offset: int, size: int) -> bytes:
        return self._ask(0, offset, size)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        self._ask(1, offset, len(data), data, flags)

    def flush(self) -> None:
        self._ask(3, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        self._ask(4, offset, size)

    def zero(self, offset: int, size: int, flags: int = 0) -> None:
        self._ask(6, offset, size, flags=flags)

    def shutdown(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self.sock.close()


# --- guests ---

def contents_of(block: int, version: int) -> bytes:
    """Nobody else ever writes this to anywhere."""
    return struct.pack('<QQ', version, block) * (BLOCK // 16) if version else \
        bytes(BLOCK)


class Wrong(Exception):
    """A guest has seen what must not be."""


Versions = FrozenSet[int]


class Disk:
    """
    What a disk may hold.  A block whose last write was acknowledged has one
    version; after one that has failed it may be either.  What was acknowledged,
    but not flushed, may be lost in a crash.
    """
    def __init__(self, blocks: int) -> None:
        self.may: List[Versions] = [frozenset((0,))] * blocks
        self.after_crash: List[Versions] = list(self.may)
        self.next_version = 1
        self.lock = threading.Lock()

    def new_version(self) -> int:
        with self.lock:
            self.next_version += 1
            return self.next_version

    def will_write(self, first: int, last: int, version: int) -> None:
        for block in range(first, last):
            self.may[block] |= {version}
            self.after_crash[block] |= {version}

    def has_written(self, first: int, last: int, version: int,
                    fua: bool = False) -> None:
        for block in range(first, last):
            self.may[block] = frozenset((version,))
            if fua:
                self.after_crash[block] = self.may[block]

    def before_flush(self, first: int, last: int) -> List[Versions]:
        return self.may[first:last]

    def has_flushed(self, first: int, held: List[Versions]) -> None:
        """What was acknowledged before the flush can't be lost any more."""
        for block, versions in enumerate(held, first):
            self.after_crash[block] = versions

    def crash(self) -> None:
        self.may = list(self.after_crash)

    def check(self, first: int, data: bytes, narrow: bool = True) -> None:
        """
        See that @data can be what is at @first.  From now on nothing else can,
        for it was voted for; after a crash it may be another matter.
        """
        for block in range(first, first + len(data) // BLOCK):
            place = (block - first) * BLOCK
            found = data[place:place + BLOCK]
            version, = struct.unpack_from('<Q', found)
            if version not in self.may[block] or \
               found != contents_of(block, version):
                raise Wrong(f'block {block} may be one of '
                            f'{sorted(self.may[block])}, but is {version}: '
                            f'{found[:32].hex()}')
            if narrow:
                self.may[block] = frozenset((version,))


class Guest(threading.Thread):
    """
    Does what comes to its mind with blocks [first, last) of a disk, on a
    connection of its own.
    """
    def __init__(self, disk: Disk, first: int, last: int,
                 socket_path: str, name: str) -> None:
        super().__init__(name=name)
        self.disk = disk
        self.first = first
        self.last = last
        self.rand = random.Random(f'{SEED} {name}')
        self.nbd = NBD(socket_path)
        self.over = False
        self.tolerant = False       # are errors, and lost connections, fine?
        self.awake = threading.Lock()
        self.lost = False           # the connection
        self.done = 0               # requests
        self.errors = 0             # those that have failed
        self.wrong: Optional[str] = None

    def some(self) -> Tuple[int, int]:
        first = self.rand.randrange(self.first, self.last)
        return first, min(self.last,
                          first + self.rand.choice((1, 1, 1, 2, 5, 16, 40)))

    def write(self, first: int, last: int, zero: bool = False) -> None:
        version = 0 if zero else self.disk.new_version()
        fua = self.rand.random() < 0.1
        flags = NBD.FUA if fua else 0
        self.disk.will_write(first, last, version)
        if zero:
            flags |= self.rand.choice((0, NBD.NO_HOLE))
            self.nbd.zero(first * BLOCK, (last - first) * BLOCK, flags)
        else:
            self.nbd.write(first * BLOCK, b''.join(
                contents_of(block, version) for block in range(first, last)),
                flags)
        self.disk.has_written(first, last, version, fua)

    def read(self, first: int, last: int) -> None:
        data = self.nbd.read(first * BLOCK, (last - first) * BLOCK)
        self.disk.check(first, data)

    def flush(self) -> None:
        held = self.disk.before_flush(self.first, self.last)
        self.nbd.flush()
        self.disk.has_flushed(self.first, held)

    def one(self) -> None:
        what = self.rand.random()
        if what < 0.45:
            self.write(*self.some())
        elif what < 0.85:
            self.read(*self.some())
        elif what < 0.93:
            self.write(*self.some(), zero=True)
        else:
            self.flush()

    def read_all(self) -> None:
        for first in range(self.first, self.last, 64):
            self.read(first, min(first + 64, self.last))

    def run(self) -> None:
        while not self.over and not self.wrong:
            with self.awake:
                if not self.lost:
                    self.step()
            time.sleep(0.0005)

    def step(self) -> None:
        try:
            try:
                self.one()
            except NBDError:
                self.errors += 1
                if not self.tolerant:
                    raise
            except (EOFError, OSError):
                self.lost = True
                if not self.tolerant:
                    raise
        except (EOFError, OSError, NBDError, Wrong) as error:
            self.wrong = f'{self.name}: {error!r}'
        self.done += 1

    def stop(self, hurry: bool = False) -> None:
        self.over = True
        if hurry:
            self.nbd.shutdown()     # what it waits for may never come
        self.join()
        self.nbd.close()


# --- servers ---

class Server:
    """A qemu-nbd that serves an image, and what can befall it"""
    def __init__(self, name: str, image: str, address: Address,
                 prefix: Sequence[str] = (), fmt: str = 'raw') -> None:
        self.image = image
        self.address = address
        self.pid_file = os.path.join(iotests.test_dir, f'{name}.pid')
        if isinstance(address, str):
            where = ['-k', address]
        else:
            where = ['-b', address[0], '-p', str(address[1])]
        self.command = [*prefix, iotests.qemu_nbd_prog, '-t', '-e', '8',
                        '-f', fmt, '--pid-file', self.pid_file, *where, image]
        self.process: Optional['subprocess.Popen[bytes]'] = None

    def start(self) -> None:
        iotests.try_remove(self.pid_file)
        if isinstance(self.address, str):
            iotests.try_remove(self.address)
        # It complains when a client is killed.
        # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
        self.process = subprocess.Popen(self.command,
                                        stderr=subprocess.DEVNULL,
                                        preexec_fn=die_with_parent)
        while not os.path.exists(self.pid_file):
            assert self.process.poll() is None, self.command
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.kill()
        for path in self.pid_file, self.image:
            iotests.try_remove(path)
        if isinstance(self.address, str):
            iotests.try_remove(self.address)

    def socket_address(self) -> Dict[str, Any]:
        if isinstance(self.address, str):
            return {'type': 'unix', 'path': self.address}
        return {'type': 'inet', 'host': self.address[0],
                'port': str(self.address[1])}

    def node(self, name: str, **options: Any) -> Dict[str, Any]:
        return {'driver': 'nbd', 'node-name': name,
                'server': self.socket_address(), **options}


def ip(*args: str) -> None:
    subprocess.run(['ip', *args], check=True)


class Cable:
    """
    Leads to a network namespace of its own.  For tests that run
    in_own_namespaces().
    """
    def __init__(self, number: int) -> None:
        self.name = f'box{number}'
        self.host = f'10.0.{number}.2'
        self.inside = ['ip', 'netns', 'exec', self.name]
        ip('netns', 'add', self.name)
        ip('link', 'add', self.name, 'type', 'veth', 'peer', 'eth0',
           'netns', self.name)
        ip('addr', 'add', f'10.0.{number}.1/24', 'dev', self.name)
        ip('-n', self.name, 'addr', 'add', f'{self.host}/24', 'dev', 'eth0')
        ip('link', 'set', self.name, 'up')
        ip('-n', self.name, 'link', 'set', 'lo', 'up')
        ip('-n', self.name, 'link', 'set', 'eth0', 'up')

    def pull(self, far: bool = False) -> None:
        """Pull the cable at one end."""
        self._link('down', far)

    def plug(self, far: bool = False) -> None:
        self._link('up', far)

    def _link(self, state: str, far: bool) -> None:
        if far:
            ip('-n', self.name, 'link', 'set', 'eth0', state)
        else:
            ip('link', 'set', self.name, state)


def rot(image: str, blocks: Sequence[int], rand: random.Random) -> None:
    """Flip a bit in each of these blocks, behind everybody's back."""
    with open(image, 'r+b') as file:
        for block in blocks:
            place = block * BLOCK + rand.randrange(BLOCK)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << rand.randrange(8)]))


# --- QEMU ---

class LabTestCase(iotests.QMPTestCase):
    """A QEMU with a quorum node 'q' that guests use over NBD"""
    vm: iotests.VM
    blocks = 1024

    def setUp(self) -> None:
        self.socket = os.path.join(iotests.sock_dir, 'nbd.sock')
        self.rand = random.Random(SEED)
        self.disk = Disk(self.blocks)
        self.guests: List[Guest] = []
        self.addCleanup(iotests.try_remove, self.socket)

    def start(self, options: Dict[str, Any],
              nodes: Sequence[Dict[str, Any]] = ()) -> None:
        """Start QEMU with some nodes, and export a quorum."""
        self.vm = iotests.VM()
        self.addCleanup(self.vm.shutdown, hard=True)
        self.vm.launch()
        for node in nodes:
            self.vm.cmd('blockdev-add', node)
        self.vm.cmd('blockdev-add', {'driver': 'quorum', 'node-name': 'q',
                                     **options})
        self.export()

    def export(self) -> None:
        iotests.try_remove(self.socket)
        self.vm.cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': self.socket}}})
        self.vm.cmd('block-export-add', {
            'id': 'q', 'type': 'nbd', 'node-name': 'q', 'writable': True})

    def add_guests(self, count: int) -> None:
        each = self.blocks // count
        for i in range(count):
            self.guests.append(Guest(self.disk, i * each, (i + 1) * each,
                                     self.socket, f'guest {i}'))
        for guest in self.guests:
            self.addCleanup(guest.stop, hurry=True)
            guest.start()

    def live(self, requests: int = 30) -> None:
        """Let the guests do something, and see that they are content."""
        until = [guest.done + requests for guest in self.guests]
        for guest, end in zip(self.guests, until):
            while guest.done < end and not guest.wrong:
                time.sleep(0.005)
        self.content()

    def check_all(self) -> int:
        """
        The guests sleep, and have found out that QEMU was killed.  See that
        all is there that must be.  A block may be unreadable only if a write to
        it was not acknowledged, or could get lost; write such ones again, and
        say how many there are.
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

    def content(self) -> None:
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
        self.content()

    def node(self) -> Dict[str, Any]:
        return next(node for node in self.vm.cmd('query-named-block-nodes')
                    if node['node-name'] == 'q')

    def children(self) -> List[Dict[str, Any]]:
        image = self.node()['image']
        return list(image['format-specific']['data']['children'])

    def states(self) -> List[str]:
        return [child['state'] for child in self.children()]

    def stats(self) -> List[Dict[str, Any]]:
        for node in self.vm.cmd('query-blockstats', {'query-nodes': True}):
            if node.get('node-name') == 'q':
                return list(node['driver-specific']['children'])
        raise AssertionError('no statistics of the quorum node')

    def scrub(self, **options: Any) -> Dict[str, Any]:
        self.vm.cmd('quorum-scrub', {'job-id': 's', 'node': 'q', **options})
        event = self.vm.event_wait('QUORUM_SCRUB_COMPLETED', timeout=60.0)
        assert event
        trace(f'scrub {options}: {event["data"]}')
        return dict(event['data'])

    def heal(self, **options: Any) -> None:
        """
        All children are there again; let them be alike again.  QEMU may not
        have found its way back to a server yet: its NBD client tries to with
        each request, and lets that fail meanwhile.
        """
        for _ in range(10):
            found = self.scrub(**options)
            if 'error' not in found and found['unrepairable-bytes'] == 0:
                return
            time.sleep(0.3)
        self.fail(f'not healed: {found}')

    def check_image(self, path: str) -> None:
        """A replica, when all is over, holds what the guests know."""
        with open(path, 'rb') as file:
            for first in range(0, self.blocks, 256):
                self.disk.check(first, file.read(256 * BLOCK), narrow=False)


class StormTestCase(iotests.QMPTestCase):
    """
    A quorum in a storage daemon, whose clock runs, and which has a thread for
    its export; each child answers at a pace of its own
    """
    daemon: iotests.QemuStorageDaemon
    replicas = 3
    size = 512 * 1024

    def setUp(self) -> None:
        self.socket = os.path.join(iotests.sock_dir, 'nbd.sock')
        self.rand = random.Random(SEED)
        self.images = [os.path.join(iotests.test_dir, f'storm-{i}.raw')
                       for i in range(self.replicas)]
        self.running = False

    def tearDown(self) -> None:
        self.end_storm()
        for path in self.socket, *self.images:
            iotests.try_remove(path)

    def start_storm(self, **options: Any) -> None:
        self.daemon = iotests.QemuStorageDaemon(qmp=True)
        self.running = True
        cmd = self.daemon.cmd
        cmd('object-add', {'qom-type': 'iothread', 'id': 't0'})
        for i, path in enumerate(self.images):
            with open(path, 'wb') as file:
                file.truncate(self.size)
            cmd('object-add', {
                'qom-type': 'throttle-group', 'id': f'tg{i}',
                'limits': {'iops-total': self.rand.randrange(2000, 10000)}})
            cmd('blockdev-add', {
                'driver': 'raw', 'node-name': f'c{i}', 'file': {
                    'driver': 'throttle', 'throttle-group': f'tg{i}',
                    'file': {'driver': 'file', 'filename': path,
                             'discard': 'unmap'}}})
        cmd('blockdev-add', {
            'driver': 'quorum', 'node-name': 'q', 'discard': 'unmap',
            'children': [f'c{i}' for i in range(self.replicas)], **options})
        cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': self.socket}}})
        cmd('block-export-add', {
            'id': 'q', 'type': 'nbd', 'node-name': 'q', 'writable': True,
            'iothread': 't0', 'fixed-iothread': True})

    def scrub(self) -> None:
        self.daemon.cmd('quorum-scrub', {'job-id': 's', 'node': 'q'})
        event = self.daemon.get_qmp().pull_event(wait=60.0)
        while event and event['event'] != 'QUORUM_SCRUB_COMPLETED':
            self.assertNotIn('QUORUM_REPORT_BAD', event['event'])
            event = self.daemon.get_qmp().pull_event(wait=60.0)
        assert event
        data = event['data']
        self.assertNotIn('error', data)
        self.assertEqual(data['mismatched-bytes'], 0)
        while self.daemon.cmd('query-jobs'):
            time.sleep(0.01)

    def check_calm(self) -> None:
        """Nothing was wrong with anybody, and the replicas are alike."""
        nodes = self.daemon.cmd('query-named-block-nodes', {'flat': True})
        node = next(node for node in nodes if node['node-name'] == 'q')
        children = node['image']['format-specific']['data']['children']
        self.assertEqual([child['state'] for child in children],
                         ['ok'] * self.replicas)
        time.sleep(1.1)     # events are throttled to one a second
        self.daemon.cmd('query-jobs')
        for event in self.daemon.get_qmp().get_events():
            self.assertFalse(event['event'].startswith('QUORUM_REPORT') or
                             event['event'] == 'QUORUM_FAILURE', event)
        first = b''
        for i, path in enumerate(self.images):
            with open(path, 'rb') as file:
                data = file.read()
            first = first or data
            self.assertTrue(data == first, f'replicas 0 and {i} differ')

    def end_storm(self) -> None:
        if self.running:
            self.running = False
            self.daemon.stop(signal.SIGKILL)
