# SPDX-License-Identifier: GPL-2.0-or-later
"""
What it takes to run a guest and to talk to it: processes that end with us, and
the line on which it says how it goes on.
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any, Iterator

GUEST_TIMEOUT = 180     # seconds that a guest may be silent


class Failed(Exception):
    """What was promised has not come true."""


class Ended(Failed):
    """The guest is not there any more."""


# --- processes: ended whatever happens ---

def die_with_parent() -> None:
    """In a child: end when we end, even if we are killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Processes(contextlib.ExitStack):
    """Start processes; all of them end with the block."""

    def start(self, log: str, *args: str) -> subprocess.Popen:
        """Start one with its output in a file, after what is there."""
        with open(log, 'ab') as out:
            # pylint: disable=subprocess-popen-preexec-fn
            process = subprocess.Popen(args, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out,
                                       start_new_session=True,
                                       preexec_fn=die_with_parent)
        self.callback(process.wait)
        self.callback(process.kill)
        return process


@contextlib.contextmanager
def work_folder(kept: str) -> Iterator[str]:
    """
    A folder for disks, sockets and logs, which goes away; after an error the
    logs are in the folder @kept.  We can be asked to end, too.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    work = tempfile.mkdtemp(prefix='quorum-guest-')
    try:
        yield work
    except Exception:
        shutil.rmtree(kept, ignore_errors=True)
        os.makedirs(kept)
        for name in os.listdir(work):
            if name.endswith('.log'):
                shutil.copy(f'{work}/{name}', kept)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def start_server(processes: Processes, bin_dir: str, image: str, path: str,
                 log: str, *options: str) -> subprocess.Popen:
    """An NBD server for a raw image."""
    return processes.start(log, f'{bin_dir}/qemu-nbd', '--format=raw',
                           '--persistent', '--shared=0', *options,
                           f'--socket={path}', image)


def start_vm(processes: Processes, bin_dir: str, guest: str, work: str,
             *options: str) -> subprocess.Popen:
    """
    A QEMU with a guest: its console is in console.log, its line in guest.sock,
    and QMP in qmp.sock.
    """
    return processes.start(
        f'{work}/qemu.log', f'{bin_dir}/qemu-system-x86_64',
        '-nodefaults', '-display', 'none', '-accel', 'tcg', '-m', '256',
        '-kernel', f'{guest}/vmlinuz', '-initrd', f'{guest}/initrd',
        # Emulated beside others that compute, the timer seems to be missing.
        '-append', 'console=ttyS0 panic=-1 mitigations=off no_timer_check',
        '-no-reboot',
        '-chardev', f'file,id=console,path={work}/console.log,append=on',
        '-serial', 'chardev:console',
        '-serial', f'unix:{work}/guest.sock,server=on,wait=off',
        '-qmp', f'unix:{work}/qmp.sock,server=on,wait=off', *options)


async def connect(path: str, process: subprocess.Popen, log: str
                  ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket that a process is about to open."""
    for _ in range(200):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(path)
        if process.poll() is not None:
            break
        await asyncio.sleep(0.05)
    with open(log, encoding='utf-8', errors='replace') as file:
        raise Failed(f'{process.args[0]} did not start: {file.read()}')


# --- the guest ---

class Line:
    """What the guest tells, line by line, and what it is told."""

    def __init__(self, reader: asyncio.StreamReader,
                 writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def hear(self) -> list[str]:
        """The next line, in words."""
        try:
            line = await asyncio.wait_for(self.reader.readline(),
                                          GUEST_TIMEOUT)
        except asyncio.TimeoutError:
            raise Failed('the guest says nothing any more') from None
        if not line:
            raise Ended('the guest ended early')
        words = line.decode(errors='replace').split()
        if words and words[0] == 'failed':
            raise Failed(f'the guest failed: {" ".join(words[1:])}')
        return words

    def note(self, words: list[str]) -> None:
        """Something was heard."""

    async def until(self, word: str) -> list[str]:
        """Follow the guest until a line that begins with this word."""
        while True:
            words = await self.hear()
            if words:
                self.note(words)
                if words[0] == word:
                    return words

    def tell(self, text: str) -> None:
        """Send a line."""
        self.writer.write(f'{text}\n'.encode())


async def child_stats(qmp: Any) -> list[dict]:
    """The counters of the children of the node 'quorum', from a QMPClient."""
    for node in await qmp.execute('query-blockstats', {'query-nodes': True}):
        if node.get('node-name') == 'quorum':
            return node['driver-specific']['children']
    raise Failed('query-blockstats does not show the quorum')


def use_python_of(source: str) -> None:
    """Make QEMU's own Python packages importable."""
    sys.path.append(f'{source}/python')
