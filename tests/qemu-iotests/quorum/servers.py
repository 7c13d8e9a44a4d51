# Servers of the test, which end when it does
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import ctypes
import os
import signal
import subprocess
import time
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from .qmp import dashed

# A path, or a host and a port
Address = Union[str, Tuple[str, int]]


def die_with_parent() -> None:
    """In a child process: don't outlive the test, however it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def start_process(command: Sequence[str], log: Optional[str] = None
                  ) -> 'subprocess.Popen[bytes]':
    """
    Start a process which dies with the test, but does not get what a terminal
    sends to the test.  What it says goes to the end of a file, or nowhere.
    """
    with open(log or os.devnull, 'ab') as out:
        # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
        return subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                stdout=out, stderr=out,
                                start_new_session=True,
                                preexec_fn=die_with_parent)


def remove(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        pass


class Server:
    """A qemu-nbd that serves an image, and what can befall it"""
    def __init__(self, program: str, image: str, address: Address,
                 fmt: str = 'raw', prefix: Sequence[str] = (),
                 options: Sequence[str] = (), log: Optional[str] = None
                 ) -> None:
        """@prefix is a command that runs @program, as in a namespace."""
        self.image = image
        self.address = address
        self.log = log
        self.pid_file = f'{image}.pid'
        if isinstance(address, str):
            where = [f'--socket={address}']
        else:
            where = [f'--bind={address[0]}', f'--port={address[1]}']
        self.command = [*prefix, program, '--persistent', '--shared=0',
                        f'--format={fmt}', f'--pid-file={self.pid_file}',
                        *where, *options, image]
        self.process: Optional['subprocess.Popen[bytes]'] = None

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._remove_traces()
        self.process = start_process(self.command, self.log)
        while not os.path.exists(self.pid_file):
            assert self.process.poll() is None, self.command
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        """What the server has acknowledged is in the host's page cache."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.kill()
        self._remove_traces()
        remove(self.image)

    def _remove_traces(self) -> None:
        remove(self.pid_file)
        if isinstance(self.address, str):
            remove(self.address)

    def node(self, name: str, **options: Any) -> Dict[str, Any]:
        """Options of a node that is a client of the server"""
        server: Dict[str, Any] = {'type': 'unix', 'path': self.address}
        if not isinstance(self.address, str):
            server = {'type': 'inet', 'host': self.address[0],
                      'port': str(self.address[1])}
        return {'driver': 'nbd', 'node-name': name, 'server': server,
                **dashed(options)}
