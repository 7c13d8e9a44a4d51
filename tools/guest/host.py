# SPDX-License-Identifier: GPL-2.0-or-later
"""
What it takes to run a guest and to talk to it: a folder for its disks, QEMU,
and the line on which the guest says how it goes on.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Any, Callable, Iterator, Optional

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol
from quorum.qmp import Failed, QuorumCommands
from quorum.servers import start_process

QMP_TIMEOUT = 60        # seconds that a command may take


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


def connect(path: str, qemu: subprocess.Popen, log: str) -> socket.socket:
    """Connect to a socket that QEMU is about to open."""
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
        if qemu.poll() is not None:
            break
        time.sleep(0.05)
    with open(log, encoding='utf-8', errors='replace') as file:
        raise Failed(f'QEMU did not start: {file.read()}')


class Conversation(QuorumCommands):
    """
    With a guest, and with the QEMU under it, which has a quorum node
    'quorum'.  What the guest says on its line, and events, are taken by
    poll(), which all that waits here calls.
    """
    quorum = 'quorum'

    def __init__(self, work: str, process: subprocess.Popen,
                 processes: contextlib.ExitStack) -> None:
        """
        The sockets guest.sock and qmp.sock in @work are opened by a QEMU
        which is @process, or which that has started.
        """
        self.process = process
        self.line: Optional[socket.socket] = connect(
            f'{work}/guest.sock', process, f'{work}/qemu.log')
        self.qmp = QEMUMonitorProtocol(f'{work}/qmp.sock')
        self.qmp.settimeout(QMP_TIMEOUT)
        self.qmp.connect()
        processes.callback(self._disconnect)
        self.ending = False         # may the guest fall silent?
        self._unread = b''          # the begin of a line
        self._events: list[dict] = []

    # --- what is said ---

    def heard(self, words: list[str]) -> None:
        """The guest has said a line."""
        raise NotImplementedError

    def failed(self, what: str) -> None:
        """The guest has said that something has gone wrong."""
        raise Failed(f'the guest failed: {what}')

    def happened(self, event: dict) -> None:
        """QEMU has sent an event."""
        raise NotImplementedError

    def poll(self, seconds: float = 0) -> None:
        """Take what is said; if it is nothing, wait a little."""
        if not self.line:
            time.sleep(seconds)
        elif select.select([self.line], [], [], seconds)[0]:
            self._hear(self.line)
        for event in self.qmp.get_events():
            self._events.append(event)
            self.happened(event)

    def _hear(self, line: socket.socket) -> None:
        try:
            data = line.recv(2**16)
        except ConnectionError:
            data = b''
        if not data:
            self.line = None
            if not self.ending:
                raise Failed('the guest ended early')
        *lines, self._unread = (self._unread + data).split(b'\n')
        for text in lines:
            words = text.decode(errors='replace').split()
            if words and words[0] == 'failed':
                self.failed(' '.join(words[1:]))
            elif words:
                self.heard(words)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str
             ) -> None:
        """Wait until something is true."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise Failed(f'{what}: not done within {seconds:g} s')
            self.poll(0.05)

    def pause(self, seconds: float) -> None:
        """Let the guest go on."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self.poll(min(rest, 0.05))

    # --- what is told ---

    def tell(self, text: str) -> None:
        """Send a line to the guest."""
        assert self.line
        self.line.sendall(f'{text}\n'.encode())

    def cmd(self, name: str, args: Optional[dict[str, Any]] = None) -> Any:
        return self.qmp.cmd(name, **(args or {}))

    def wait_event(self, name: str, timeout: float = 60) -> dict[str, Any]:
        def come() -> list[dict]:
            return [event for event in self._events if event['event'] == name]

        self.wait(lambda: bool(come()), timeout, name)
        event = come()[0]
        self._events.remove(event)
        return dict(event['data'])

    def _disconnect(self) -> None:
        with contextlib.suppress(QMPError, EOFError, OSError):
            self.qmp.close()


class Machine(Conversation):
    """A QEMU with a guest.  Its console is in the file console.log."""

    def __init__(self, bin_dir: str, guest: str, work: str,
                 processes: contextlib.ExitStack, *options: str) -> None:
        """QEMU ends with @processes, if it has not ended before."""
        guest_path = f'{work}/guest.sock'
        qmp_path = f'{work}/qmp.sock'
        for path in guest_path, qmp_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        # What the driver says is in qemu.log then.
        trace = ['-msg', 'timestamp=on', '-trace', 'quorum_*'] \
            if os.environ.get('QUORUM_TEST_TRACE') else []
        process = start_process([
            f'{bin_dir}/qemu-system-x86_64',
            '-nodefaults', '-display', 'none', '-accel', 'tcg', '-m', '256',
            '-kernel', f'{guest}/vmlinuz', '-initrd', f'{guest}/initrd',
            # Emulated beside others that compute, the timer seems missing.
            '-append', 'console=ttyS0 panic=-1 mitigations=off no_timer_check',
            '-no-reboot',
            '-chardev', f'file,id=console,path={work}/console.log,append=on',
            '-serial', 'chardev:console',
            '-serial', f'unix:{guest_path},server=on,wait=off',
            '-qmp', f'unix:{qmp_path},server=on,wait=off', *trace,
            *options],
            f'{work}/qemu.log')
        processes.callback(process.wait)
        processes.callback(process.kill)
        super().__init__(work, process, processes)

    # --- the end ---

    def kill(self) -> None:
        """Kill QEMU; what the guest has said before still counts."""
        self.ending = True
        self.process.kill()
        self.wait_end(30)

    def wait_end(self, seconds: float) -> None:
        """QEMU is about to end."""
        self.ending = True
        if self.line:
            self.wait(lambda: not self.line, seconds, 'the end of QEMU')
        self.process.wait(timeout=seconds)
        self._disconnect()
