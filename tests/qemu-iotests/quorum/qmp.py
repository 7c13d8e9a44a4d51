# A quorum node, over QMP
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import time
from typing import Any, Dict, List, Optional


class Failed(AssertionError):
    """What was promised has not come true."""


def dashed(options: Dict[str, Any]) -> Dict[str, Any]:
    """Names as QAPI has them: vote-threshold for vote_threshold"""
    return {key.replace('_', '-'): value for key, value in options.items()}


class QuorumCommands:
    """
    What can be asked of a quorum node, and what can be done to it.  A
    subclass says how commands get to QEMU, and how events come from it.
    """
    quorum = 'q'        # the name of the node

    def cmd(self, name: str, args: Optional[Dict[str, Any]] = None) -> Any:
        """Run a command; return what it returns."""
        raise NotImplementedError

    def wait_event(self, name: str, timeout: float = 5.0) -> Dict[str, Any]:
        """Wait for an event, whether it has come already or not."""
        raise NotImplementedError

    def node(self, name: Optional[str] = None) -> Dict[str, Any]:
        """What query-named-block-nodes says of a node, or of the quorum"""
        name = name or self.quorum
        for node in self.cmd('query-named-block-nodes', {'flat': True}):
            if node['node-name'] == name:
                return dict(node)
        raise Failed(f'no node {name}')

    def specific(self) -> Dict[str, Any]:
        """The format-specific information"""
        return dict(self.node()['image']['format-specific']['data'])

    def children(self) -> List[Dict[str, Any]]:
        return list(self.specific()['children'])

    def states(self) -> List[str]:
        return [child['state'] for child in self.children()]

    def wait_states(self, *states: str, timeout: float = 15) -> None:
        """Wait until this is how the children are."""
        end = time.monotonic() + timeout
        while self.states() != list(states):
            if time.monotonic() > end:
                raise Failed(f'{self.states()} instead of {states}')
            time.sleep(0.05)

    def stats(self) -> List[Dict[str, Any]]:
        """The counters of each child"""
        for node in self.cmd('query-blockstats', {'query-nodes': True}):
            if node.get('node-name') == self.quorum:
                return list(node['driver-specific']['children'])
        raise Failed(f'no statistics of {self.quorum}')

    def counts(self, name: str) -> List[int]:
        """One of the counters, for each child"""
        return [child[name] for child in self.stats()]

    def nodes(self) -> List[Optional[str]]:
        """The names of the children's nodes; None for a vacant slot"""
        return [child.get('node-name') for child in self.stats()]

    def change(self, **args: Any) -> None:
        """Add, replace or take out a child."""
        self.cmd('x-blockdev-change', {'parent': self.quorum, **dashed(args)})

    def drain(self) -> None:
        """Wait until no request is in flight, nor a repair behind a read."""
        self.cmd('transaction', {'actions': []})

    def export_nbd(self, path: str, writable: bool = True,
                   **options: Any) -> None:
        """Export the quorum over NBD, at a socket."""
        self.cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': path}}})
        self.cmd('block-export-add', {
            'id': 'q', 'type': 'nbd', 'node-name': self.quorum, 'name': 'q',
            'writable': writable, **dashed(options)})

    def start_scrub(self, **options: Any) -> None:
        self.cmd('quorum-scrub', {
            'job-id': 'scrub', 'node': self.quorum, **dashed(options)})

    def end_scrub(self) -> Dict[str, Any]:
        """Wait for the end of a scrub; return what it has found."""
        found = self.wait_event('QUORUM_SCRUB_COMPLETED', 60.0)
        while any(job['id'] == found['id'] for job in self.cmd('query-jobs')):
            time.sleep(0.01)
        return found

    def scrub(self, **options: Any) -> Dict[str, Any]:
        self.start_scrub(**options)
        return self.end_scrub()

    def repair_all(self, **options: Any) -> None:
        """
        All children are there again: scrub with these options until they are
        in sync, which must make them alike.  QEMU may not have found its way
        back to a server yet: its NBD client tries to with each request, and
        lets that request fail.
        """
        for _ in range(60):
            found = self.scrub(**options)
            states = self.states()
            if 'error' not in found and not found['unrepairable-bytes'] and \
               set(states) <= {'ok', 'vacant'}:
                found = self.scrub(repair=False)
                if found['mismatched-bytes']:
                    break
                if 'error' not in found and not found['missing-bytes']:
                    return
            time.sleep(0.3)
        raise Failed(f'not repaired: {states}, {found}')
