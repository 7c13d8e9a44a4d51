# Test cases that scrub a quorum
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import time
from typing import Any, Dict, List, Optional, Tuple

from .cases import SIZE, QuorumTestCase, contents, spoil
from .nbd import HeldNBD
from .qmp import dashed

MIB = 1024 * 1024
LENGTH = 4 * MIB        # of the disk: four chunks
HOLD = 1                # a speed that holds the job after its first chunk


class ScrubTestCase(QuorumTestCase):
    def setUp(self) -> None:
        super().setUp()
        for i in range(self.replicas):
            spoil(i, 0x11, SIZE, LENGTH - SIZE)

    def add_quorum_with_server(
            self, between: Optional[Dict[int, Dict[str, Any]]] = None
    ) -> HeldNBD:
        """A quorum whose child 2 is behind a server"""
        server = self.serve(2, b'\x11' * LENGTH)
        self.add_quorum(between)
        return server

    def end_scrub(self, outcome: str = 'BLOCK_JOB_COMPLETED'
                  ) -> Dict[str, Any]:
        """Wait for the end; returns what the job says it has done."""
        data = self.wait_event('QUORUM_SCRUB_COMPLETED', 60.0)
        self.assertEqual((data.pop('id'), data.pop('node-name')),
                         ('scrub', 'q'))
        # They come in this order.
        job = self.vm.event_wait(outcome, timeout=5.0)
        self.assertIsNotNone(job)
        self.assertEqual(job['data'].get('error'),
                         None if 'CANCELLED' in outcome else data.get('error'))
        return data

    def figures(self, data: Dict[str, Any]) -> Tuple[int, ...]:
        """Checked, mismatched, missing, repaired and unrepairable bytes"""
        return tuple(data[f'{name}-bytes'] for name in (
            'checked', 'mismatched', 'missing', 'repaired', 'unrepairable'))

    def check_scrub(self, *figures: int, error: Optional[str] = None,
                    **options: Any) -> None:
        """A scrub ends with @error, and with these figures."""
        data = self.scrub(**options)
        self.assertEqual(self.figures(data), figures)
        self.assertEqual(data.get('error'), error)
        self.assertIs(data['repair'], options.get('repair', True))
        self.assertEqual(data['sync'], options.get('sync', 'full'))

    def job(self) -> Dict[str, Any]:
        job: Dict[str, Any] = self.vm.cmd('query-block-jobs')[0]
        self.assertEqual(job['type'], 'quorum-scrub')
        return job

    def wait_offset(self, offset: int) -> None:
        """Wait until the job, which is being held there, has got so far."""
        while self.job()['offset'] < offset:
            time.sleep(0.001)
        self.assertEqual(self.job()['offset'], offset)

    def set_speed(self, speed: int) -> None:
        self.vm.cmd('block-job-set-speed', device='scrub', speed=speed)

    def wait_paused(self) -> None:
        self.assertIsNotNone(self.vm.event_wait(
            'JOB_STATUS_CHANGE', timeout=5.0,
            match={'data': {'status': 'paused'}}))

    def events(self, *names: str) -> List[Dict[str, Any]]:
        """All events of these names, those that are being held back, too"""
        for _ in range(3):
            self.vm.qtest('clock_step 2000000000')
            self.vm.cmd('query-status')
        return [event['data'] for event in self.vm.get_qmp_events()
                if event['event'] in names]

    def permissions(self) -> List[bool]:
        """Which children the quorum may write to"""
        graph = self.vm.cmd('x-debug-query-block-graph')
        node, = [node['id'] for node in graph['nodes']
                 if node['name'] == 'q']
        return ['write' in edge['perm']
                for edge in sorted(graph['edges'], key=lambda x: x['name'])
                if edge['parent'] == node]

    def close_alike(self) -> None:
        """End QEMU; the replicas are identical"""
        self.close()
        for i in range(1, self.replicas):
            self.assertEqual(contents(i), contents(0))


class RefusedTestCase(ScrubTestCase):
    def refused(self, *words: str, **options: Any) -> None:
        """There is an error with @words in it, and nothing is left behind."""
        jobs = [job['id'] for job in self.vm.cmd('query-jobs')]
        result = self.vm.qmp('quorum-scrub', {
            'job-id': 'scrub', 'node': 'q', **dashed(options)})
        self.assertIn('error', result)
        for word in words:
            self.assertIn(word, result['error']['desc'])
        self.assertEqual([job['id'] for job in self.vm.cmd('query-jobs')],
                         jobs)

    def refused_idle(self, *words: str, **options: Any) -> None:
        self.refused(*words, **options)
        self.assertEqual(self.permissions(), [False] * self.replicas)
