# What the tests of the quorum driver share
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from contextlib import contextmanager
import os
import re
import resource
import struct
from typing import Any, Dict, Iterator, List, Optional

import iotests
from heldnbd import HeldNBD
from iotests import qemu_io

SIZE = 1024 * 1024
UNIT = 4096


def image(i: int) -> str:
    return os.path.join(iotests.test_dir, f'quorum-{i}.raw')


def raw_options() -> str:
    """A quorum of three raw images, for a command line"""
    return ','.join(['driver=quorum', 'vote-threshold=2'] + [
        f'children.{i}.driver=raw,children.{i}.file.driver=file,'
        f'children.{i}.file.filename={image(i)}' for i in range(3)])


def spoil(i: int, pattern: int, offset: int = 0, size: int = SIZE) -> None:
    """Overwrite a part of a child behind everybody's back."""
    with open(image(i), 'r+b') as file:
        file.seek(offset)
        file.write(bytes([pattern]) * size)


def contents(i: int) -> bytes:
    with open(image(i), 'rb') as file:
        return file.read()


def corrupt_qcow2(i: int) -> None:
    """
    Let the first L2 entry of a qcow2 image not be aligned to a cluster: the
    node loses its driver when it sees that.
    """
    with open(image(i), 'r+b') as file:
        file.seek(40)
        l1_offset, = struct.unpack('>Q', file.read(8))
        file.seek(l1_offset)
        l1_entry, = struct.unpack('>Q', file.read(8))
        l2_offset = l1_entry & 0x00fffffffffffe00
        file.seek(l2_offset)
        l2_entry, = struct.unpack('>Q', file.read(8))
        file.seek(l2_offset)
        file.write(struct.pack('>Q', l2_entry | 0x200))


class QuorumTestCase(iotests.QMPTestCase):
    """
    A QEMU with a quorum node 'q' over raw images, whose nodes are 'c0', 'c1',
    ..., exported over NBD so that requests come in parallel.
    """
    children = 3

    def setUp(self) -> None:
        self.socket = os.path.join(iotests.sock_dir, 'nbd.sock')
        self.servers: Dict[int, HeldNBD] = {}
        for i in range(self.children):
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
        for i in range(self.children):
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
        for i in range(self.children):
            self.add_child(i, (between or {}).get(i))
        options.setdefault('vote-threshold', self.children // 2 + 1)
        self.vm.cmd('blockdev-add', {
            'driver': 'quorum', 'node-name': 'q',
            'children': [f'c{i}' for i in range(self.children)], **options})
        if export:
            self.export()

    def export(self) -> None:
        self.vm.cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': self.socket}}})
        self.vm.cmd('block-export-add', {
            'id': 'q', 'type': 'nbd', 'node-name': 'q', 'writable': True})

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

    def node(self, name: str = 'q') -> Dict[str, Any]:
        for node in self.vm.cmd('query-named-block-nodes', {'flat': True}):
            if node['node-name'] == name:
                return dict(node)
        raise AssertionError(f'no node {name}')

    def stats(self) -> List[Dict[str, Any]]:
        for node in self.vm.cmd('query-blockstats', {'query-nodes': True}):
            if node.get('node-name') == 'q':
                return node['driver-specific']['children']
        raise AssertionError('no statistics of the quorum node')

    def counts(self, name: str) -> List[int]:
        """One of the counters, for each child."""
        return [child[name] for child in self.stats()]

    def wait_event(self, name: str) -> Dict[str, Any]:
        event = self.vm.event_wait(name, timeout=5.0)
        self.assertIsNotNone(event, f'no {name}')
        return event['data']

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
