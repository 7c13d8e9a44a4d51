# The command qemu-quorum, as a test calls it
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import re
import subprocess
import sys
from typing import Any, Dict, Optional, Tuple

import iotests

from .cases import Daemon

TOOL = os.path.join(os.path.dirname(iotests.__file__), '..', '..', 'scripts',
                    'qemu-quorum')


class ToolTestCase(iotests.QMPTestCase):
    """Calls the command with the QMP socket self.path."""

    def setUp(self) -> None:
        self.path = os.path.join(iotests.sock_dir, 'people.sock')
        self.addCleanup(iotests.try_remove, self.path)

    def start_daemon(self, *args: str) -> Daemon:
        """A storage daemon with such a socket"""
        return Daemon('--chardev', f'socket,id=people,path={self.path},'
                      'server=on,wait=off', '--monitor', 'chardev=people',
                      *args)

    @staticmethod
    def claim(device: str) -> int:
        """As a mount or swap does it, until this is closed"""
        return os.open(device, os.O_RDONLY | os.O_EXCL)

    @staticmethod
    def environment() -> Dict[str, str]:
        """It looks for qemu-img."""
        return {**os.environ, 'QEMU_IMG': os.environ['QEMU_IMG_PROG']}

    def block_device(self, size: int) -> Optional[str]:
        """One of the kernel's; None, and a note, if there can be none."""
        path = os.path.join(iotests.test_dir, 'below-device')
        self.addCleanup(iotests.try_remove, path)
        with open(path, 'wb') as file:
            file.truncate(size)
        try:
            device = subprocess.run(
                ['losetup', '--show', '-f', path], check=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            iotests.case_notrun('there is no block device')
            return None
        self.addCleanup(subprocess.run, ['losetup', '-d', device], check=True)
        return device

    def start(self, *args: str, **options: Any) -> 'subprocess.Popen[str]':
        options.setdefault('env', self.environment())
        options.setdefault('stdout', subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, TOOL, '-s', self.path, *args], text=True,
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)

    def finish(self, process: 'subprocess.Popen[str]', status: Optional[int]
               ) -> Tuple[str, str]:
        """What it printed, and its errors; with the right exit status"""
        out, err = process.communicate(timeout=60)
        self.assertNotIn('Traceback', err)
        if status is not None:
            self.assertEqual(process.returncode, status, f'{out}{err}')
        return out, err

    def finish_full(self, *args: str, status: int = 1, **options: Any) -> str:
        """Its errors if there is no space for what it prints"""
        with open('/dev/full', 'wb') as full:
            process = self.start(*args, stdout=full, **options)
        return self.finish(process, status)[1]

    def tool(self, *args: str, status: Optional[int] = 0) -> str:
        out, err = self.finish(self.start(*args), status)
        self.assertEqual(err, '')
        return out

    def fails(self, error: str, *args: str, status: int = 2) -> None:
        """An error is one line, which says so."""
        out, err = self.finish(self.start(*args), status)
        self.assertEqual(out, '')
        self.assertRegex(err, rf'\Aqemu-quorum: .*{error}.*\n\Z')

    def data(self, *args: str, status: Optional[int] = 0) -> Dict[str, Any]:
        return dict(json.loads(self.tool('--json', *args, status=status)))

    def wait_line(self, process: 'subprocess.Popen[str]', pattern: str
                  ) -> None:
        """Read what it prints up to a line that matches."""
        assert process.stdout
        for line in process.stdout:
            if re.search(pattern, line):
                return
        self.fail(f'has not printed {pattern}')
