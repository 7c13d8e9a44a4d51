# Test cases with a quorum that has state nodes
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import subprocess
import time
from typing import Any, Dict, List, Optional

import iotests

from .cases import QuorumTestCase, image
from .nbd import HeldNBD
from .qmp import dashed

MIB = 1024 * 1024
STATE_SIZE = 16 * MIB
REGION = MIB            # what is marked at a time, of a disk so small

Nodes = Optional[Dict[int, Dict[str, Any]]]


def state_file(i: int) -> str:
    return os.path.join(iotests.test_dir, f'quorum-{i}.state')


def copy(source: str, target: str) -> None:
    """Copy a file that consists of holes for the most part."""
    subprocess.run(['cp', '--sparse=always', source, target], check=True)


def saved(path: str) -> str:
    return f'{path}.saved'


class StateTestCase(QuorumTestCase):
    """
    A quorum with state nodes 's0', 's1', ..., which are files beside the
    images.  The disk has some regions.
    """
    size = 8 * MIB

    def setUp(self) -> None:
        super().setUp()
        self.state_servers: Dict[int, HeldNBD] = {}
        for i in range(self.replicas):
            os.truncate(image(i), 0)
            os.truncate(image(i), self.size)
            self.blank_state(i)
            self.addCleanup(iotests.try_remove, state_file(i))

    def tearDown(self) -> None:
        for server in self.state_servers.values():
            server.fail = lambda request: False
            server.release()
        try:
            super().tearDown()
        finally:
            for server in self.state_servers.values():
                server.stop()

    def serve_state(self, i: int) -> HeldNBD:
        """From now on, the state node of child i is behind a server."""
        path = os.path.join(iotests.sock_dir, f'state-{i}.sock')
        with open(state_file(i), 'rb') as file:
            self.state_servers[i] = HeldNBD(path, file.read())
        return self.state_servers[i]

    @staticmethod
    def blank_state(i: int, size: int = STATE_SIZE) -> None:
        with open(state_file(i), 'wb') as file:
            file.truncate(size)

    def save(self, *places: int) -> None:
        """Keep the replicas, and what is written beside them, as they are."""
        for i in places:
            for path in image(i), state_file(i):
                copy(path, saved(path))
                self.addCleanup(iotests.try_remove, saved(path))

    @staticmethod
    def restore(*places: int) -> None:
        for i in places:
            for path in image(i), state_file(i):
                copy(saved(path), path)

    def add_state(self, i: int, between: Optional[Dict[str, Any]] = None,
                  **options: Any) -> None:
        """The state node of child i; @between is as in add_child()."""
        if i in self.state_servers:
            self.cmd('blockdev-add', {
                'driver': 'nbd', 'node-name': f's{i}', 'server': {
                    'type': 'unix', 'path': os.path.join(
                        iotests.sock_dir, f'state-{i}.sock')}})
            return
        file: Dict[str, Any] = {'driver': 'file', 'filename': state_file(i),
                                **dashed(options)}
        if between:
            key = 'image' if between['driver'] == 'blkdebug' else 'file'
            file = {key: file, **between}
        self.cmd('blockdev-add', {'driver': 'raw', 'node-name': f's{i}',
                                  **dashed(options), 'file': file})

    def add_missing_nodes(self, children: Nodes = None, states: Nodes = None
                          ) -> None:
        there = {node['node-name'] for node in self.cmd(
            'query-named-block-nodes', {'flat': True})}
        for i in range(self.replicas):
            if f'c{i}' not in there:
                self.add_child(i, (children or {}).get(i))
            if f's{i}' not in there and os.path.exists(state_file(i)):
                self.add_state(i, (states or {}).get(i))

    def options(self, **options: Any) -> Dict[str, Any]:
        """Those of the quorum; state=None: without state nodes"""
        given = {**self.driver, 'node-name': 'q',
                 'children': [f'c{i}' for i in range(self.replicas)],
                 'state': [f's{i}' for i in range(self.replicas)],
                 **dashed(options)}
        return {key: value for key, value in given.items()
                if value is not None}

    def add_quorum(self, between: Nodes = None, export: bool = True,
                   states: Nodes = None, **options: Any) -> None:
        self.add_missing_nodes(between, states)
        self.cmd('blockdev-add', self.options(**options))
        if export:
            self.export()

    def begin(self, *args: Any, **options: Any) -> None:
        """The first time that there are state nodes"""
        self.add_quorum(*args, state_init=True, **options)

    def restart(self, between: Nodes = None, crash: bool = False,
                **options: Any) -> None:
        """QEMU ends, or is killed, and opens the disk again."""
        self.stop(crash)
        self.vm.launch()
        self.add_quorum(between, **options)

    def stop(self, crash: bool = False) -> None:
        if crash:
            self.vm.kill()
        else:
            self.vm.shutdown()

    def restart_refused(self, *words: str, **options: Any) -> None:
        self.stop()
        self.vm.launch()
        self.refused(*words, **options)

    def refused(self, *words: str, states: Nodes = None, **options: Any
                ) -> None:
        """The quorum can't be opened; each of @words is in the error."""
        self.add_missing_nodes(states=states)
        reply = self.vm.qmp('blockdev-add', self.options(**options))
        self.assertIn('error', reply)
        for word in words:
            self.assertIn(word, reply['error']['desc'])

    def remove_quorum(self) -> None:
        self.cmd('nbd-server-stop')
        self.cmd('blockdev-del', {'node-name': 'q'})

    def state(self) -> Dict[str, Any]:
        """What is told of the state nodes"""
        return dict(self.specific()['state'])

    def state_nodes(self) -> List[str]:
        """How each state node is"""
        return [node['state'] for node in self.state()['nodes']]

    def stale(self) -> List[int]:
        return list(self.counts('stale-bytes'))

    def wait_state_nodes(self, *states: str, timeout: float = 15) -> None:
        with iotests.Timeout(timeout, f'state nodes are not {states}'):
            while self.state_nodes() != list(states):
                time.sleep(0.05)

    def wait_resolved(self, timeout: float = 20) -> None:
        with iotests.Timeout(timeout, 'not resolved'):
            while self.state()['unresolved-bytes']:
                time.sleep(0.05)

    def check_alike(self) -> None:
        """QEMU has ended; the replicas are identical."""
        with open(image(0), 'rb') as file:
            first = file.read()
        for i in range(1, self.replicas):
            with open(image(i), 'rb') as file:
                self.assertTrue(file.read() == first,
                                f'replicas 0 and {i} differ')
