#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The full build, as it was installed: has it what production asks for, and does
it boot a guest under libvirt, from a quorum of an NBD server with TLS, an iSCSI
target and an ssh server, one of which after the other dies under load?
Speaks TAP.

usage: full_test.py PREFIX DISK WORK

DISK is the guest's disk.  WORK is an empty folder for all that is made.  All
runs as an ordinary user; root becomes one.  Of libvirt, nothing is used but its
daemon for a session, with a home of its own.

QEMU's python/ and tests/qemu-iotests/ must be in the PYTHONPATH, and
tools/guest/, too.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import xml.sax.saxutils
from typing import Any, Callable, Optional, Sequence

from qemu.qmp import QMPError
from quorum.qmp import Failed
from quorum.servers import Server, start_process

from host import Conversation

PREFIX, DISK, WORK = sys.argv[1:]
QEMU = f'{PREFIX}/bin/qemu-system-x86_64'
BOOT_TIMEOUT = 300      # seconds, emulated beside others that compute
GUEST_TIMEOUT = 180     # seconds that the guest may be silent
CHILD_TIMEOUT = 3000    # milliseconds until the quorum goes on without one
TARGET = 'iqn.2026-01.org.quorum:copy1'


def become_user() -> None:
    """No server here needs root, and libvirt's is not a session's then."""
    if os.getuid() == 0:
        # Each Debian has this one; sshd takes "nobody" for a locked account.
        user = pwd.getpwnam('games')
        os.chown(WORK, user.pw_uid, user.pw_gid)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    # Nothing is read from the user's own home, and nothing written to it.
    for name in 'run', 'config', 'cache', 'data':
        os.mkdir(f'{WORK}/{name}', 0o700)
    os.environ.update({
        'HOME': WORK, 'XDG_RUNTIME_DIR': f'{WORK}/run',
        'XDG_CONFIG_HOME': f'{WORK}/config', 'XDG_CACHE_HOME': f'{WORK}/cache',
        'XDG_DATA_HOME': f'{WORK}/data', 'TGT_IPC_SOCKET': f'{WORK}/tgtd',
        'SSH_AUTH_SOCK': f'{WORK}/agent.sock'})


def run(*command: str, **options: Any) -> str:
    """Run a command that must end well; return all that it prints."""
    done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=120, check=False, **options)
    if done.returncode:
        raise Failed(f'{" ".join(command)}: {done.stdout}')
    return done.stdout


def free_port() -> int:
    """A port on which no server listens."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise Failed(f'{what}: not within 30 s')
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Is there a server?"""
    with socket.socket() as sock:
        return sock.connect_ex(('127.0.0.1', port)) == 0


def kill_tree(process: subprocess.Popen) -> None:
    """Kill a process and what it has started, unless that is done."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)     # so that it starts no more
    found, tree = [process.pid], []
    while found:
        tree += found
        found = [int(pid) for pid in subprocess.run(
            ['ps', '-o', 'pid=', '--ppid', ','.join(map(str, found))],
            stdout=subprocess.PIPE, check=False).stdout.split()]
    for pid in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


# --- the servers ---

class Copy:
    """A replica behind a server of its own"""
    def __init__(self, number: int, node: str) -> None:
        self.image = f'{WORK}/copy{number}.img'
        self.slot = f'children.{number}'
        self.name = node
        self.port = free_port()
        shutil.copy(DISK, self.image)

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        raise NotImplementedError

    def kill(self) -> None:
        """No warning, no goodbye"""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Options of a node that is its client"""
        raise NotImplementedError


class NBDCopy(Copy):
    """qemu-nbd with TLS, at which also the client shows a certificate"""
    def __init__(self, number: int) -> None:
        super().__init__(number, 'nbd')
        self.make_certificates()
        self.server = Server(
            f'{PREFIX}/bin/qemu-nbd', self.image, ('127.0.0.1', self.port),
            log=f'{WORK}/nbd.log', options=[
                '--object', 'tls-creds-x509,id=tls0,endpoint=server,'
                f'dir={WORK}/pki/server,verify-peer=yes',
                '--tls-creds', 'tls0'])
        self.start, self.kill = self.server.start, self.server.kill

    @staticmethod
    def make_certificates() -> None:
        """A CA, and what it has signed for the server and for QEMU"""
        pki = f'{WORK}/pki'

        def sign(name: str, folder: str, how: Sequence[str], lines: str
                 ) -> None:
            os.makedirs(f'{pki}/{folder}', exist_ok=True)
            with open(f'{pki}/{name}.info', 'w', encoding='ascii') as info:
                info.write(lines + 'expiration_days = 2\n')
            key = f'{pki}/{folder}/{name}-key.pem'
            run('certtool', '--generate-privkey', '--key-type=ecdsa',
                '--outfile', key)
            run('certtool', *how, '--load-privkey', key,
                '--template', f'{pki}/{name}.info',
                '--outfile', f'{pki}/{folder}/{name}-cert.pem')

        sign('ca', '', ['--generate-self-signed'],
             'cn = quorum test\nca\ncert_signing_key\n')
        by_ca = ['--generate-certificate',
                 '--load-ca-certificate', f'{pki}/ca-cert.pem',
                 '--load-ca-privkey', f'{pki}/ca-key.pem']
        for end in 'server', 'client':
            sign(f'{end}', end, by_ca, 'cn = localhost\ndns_name = localhost\n'
                 f'tls_www_{end}\nsigning_key\n')
            shutil.copy(f'{pki}/ca-cert.pem', f'{pki}/{end}/')

    def options(self) -> dict[str, Any]:
        return {'driver': 'nbd', 'node-name': self.name,
                'server': {'type': 'inet', 'host': '127.0.0.1',
                           'port': str(self.port)},
                'tls-creds': 'tls0', 'tls-hostname': 'localhost'}


class ISCSICopy(Copy):
    """
    tgtd, which serves targets from user space.  libiscsi connects again and
    again, and fails no request meanwhile; so its client is a storage daemon,
    without which the quorum can go on.
    """
    def __init__(self, number: int, processes: contextlib.ExitStack) -> None:
        super().__init__(number, 'iscsi')
        self.processes = processes
        self.daemon: Optional[subprocess.Popen] = None
        self.process: subprocess.Popen

    @staticmethod
    def admin(mode: str, operation: str, *words: str) -> None:
        """Have a command done by tgtd."""
        run('tgtadm', '--lld', 'iscsi', '--mode', mode, '--op', operation,
            '--tid', '1', *words)

    def start(self) -> None:
        for name in 'tgtd.0', 'tgtd.0.lock':
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f'{WORK}/{name}')
        self.process = start_process(
            ['tgtd', '-f', '--iscsi', f'portal=127.0.0.1:{self.port}'],
            f'{WORK}/tgtd.log')
        wait_until(lambda: listens(self.port), 'tgtd')
        self.admin('target', 'new', '-T', TARGET)
        self.admin('logicalunit', 'new', '--lun', '1', '-b', self.image)
        self.admin('target', 'bind', '-I', 'ALL')
        if not self.daemon:
            self.start_daemon()

    def start_daemon(self) -> None:
        """The client, which serves what it has over NBD"""
        node = {'driver': 'iscsi', 'node-name': 'disk', 'transport': 'tcp',
                'portal': f'127.0.0.1:{self.port}', 'target': TARGET, 'lun': 1}
        self.daemon = start_process(
            [f'{PREFIX}/bin/qemu-storage-daemon',
             '--blockdev', json.dumps(node),
             '--nbd-server', f'addr.type=unix,addr.path={WORK}/iscsi.sock',
             '--export', 'nbd,id=disk,node-name=disk,writable=on',
             '--pidfile', f'{WORK}/iscsi.pid'], f'{WORK}/iscsi.log')
        self.processes.callback(self.daemon.wait)
        self.processes.callback(self.daemon.kill)
        wait_until(lambda: os.path.exists(f'{WORK}/iscsi.pid'),
                   'qemu-storage-daemon')

    def kill(self) -> None:
        kill_tree(self.process)

    def options(self) -> dict[str, Any]:
        return {'driver': 'nbd', 'node-name': self.name, 'export': 'disk',
                'server': {'type': 'unix', 'path': f'{WORK}/iscsi.sock'}}


class SSHCopy(Copy):
    """sshd on a port of its own, for a key that an agent has"""
    def __init__(self, number: int, processes: contextlib.ExitStack) -> None:
        super().__init__(number, 'ssh')
        self.process: subprocess.Popen
        for key in 'host', 'user':
            run('ssh-keygen', '-q', '-t', 'ecdsa', '-N', '',
                '-f', f'{WORK}/{key}_key')
        shutil.copy(f'{WORK}/user_key.pub', f'{WORK}/authorized_keys')
        with open(f'{WORK}/sshd_config', 'w', encoding='ascii') as config:
            config.write(f'''
ListenAddress 127.0.0.1
Port {self.port}
HostKey {WORK}/host_key
PidFile none
StrictModes no
AuthorizedKeysFile {WORK}/authorized_keys
AuthenticationMethods publickey
Subsystem sftp internal-sftp
''')
        agent = start_process(['ssh-agent', '-D', '-a',
                               os.environ['SSH_AUTH_SOCK']])
        processes.callback(agent.wait)
        processes.callback(agent.kill)
        wait_until(lambda: os.path.exists(os.environ['SSH_AUTH_SOCK']),
                   'ssh-agent')
        run('ssh-add', '-q', f'{WORK}/user_key')

    def start(self) -> None:
        program = shutil.which('sshd')
        assert program          # sshd wants its whole path
        self.process = start_process(
            [program, '-D', '-e', '-f', f'{WORK}/sshd_config'],
            f'{WORK}/sshd.log')
        wait_until(lambda: listens(self.port), 'sshd')

    def kill(self) -> None:
        kill_tree(self.process)

    def options(self) -> dict[str, Any]:
        with open(f'{WORK}/host_key.pub', encoding='ascii') as file:
            blob = base64.b64decode(file.read().split()[1])
        return {'driver': 'ssh', 'node-name': self.name, 'path': self.image,
                'server': {'host': '127.0.0.1', 'port': str(self.port)},
                'user': pwd.getpwuid(os.getuid()).pw_name,
                'host-key-check': {
                    'mode': 'hash', 'type': 'sha256',
                    'hash': hashlib.sha256(blob).hexdigest()}}


# --- libvirt and the guest ---

class Libvirt:
    """A daemon for this session alone"""
    def __init__(self, processes: contextlib.ExitStack) -> None:
        daemon = shutil.which('virtqemud') or shutil.which('libvirtd')
        assert daemon
        os.makedirs(f'{WORK}/config/libvirt')
        with open(f'{WORK}/config/libvirt/qemu.conf', 'w',
                  encoding='ascii') as config:
            config.write('stdio_handler = "file"\n')   # and no virtlogd
        # Where a session looks for descriptors of firmware.
        os.makedirs(f'{WORK}/config/qemu')
        os.symlink(f'{PREFIX}/share/qemu/firmware',
                   f'{WORK}/config/qemu/firmware')
        self.process = start_process([daemon], f'{WORK}/libvirt.log')
        processes.callback(self.process.wait)
        processes.callback(self.process.terminate)
        processes.callback(self.destroy)
        wait_until(lambda: self.virsh_status('list') == 0, daemon)

    @staticmethod
    def virsh_status(*command: str) -> int:
        """Run a command of virsh; return how it ends."""
        return subprocess.run(
            ['virsh', '-q', '-c', 'qemu:///session', *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=60, check=False).returncode

    @staticmethod
    def virsh(*command: str) -> str:
        """Run a command of virsh that must end well."""
        return run('virsh', '-q', '-c', 'qemu:///session', *command)

    def destroy(self) -> None:
        """Whatever happens, no guest is left."""
        self.virsh_status('destroy', 'quorum-full')


def domain_xml(copies: Sequence[Copy]) -> str:
    """
    The domain: what libvirt has elements for, by these, and the quorum by
    its passthrough, see "With libvirt" in the manual.
    """
    quorum = {'driver': 'quorum', 'node-name': 'quorum', 'vote-threshold': 2,
              'rewrite-corrupted': True, 'child-timeout': CHILD_TIMEOUT,
              'children': [copy.name for copy in copies]}
    arguments = ['-object', f'tls-creds-x509,id=tls0,endpoint=client,'
                 f'dir={WORK}/pki/client',
                 '-qmp', f'unix:{WORK}/qmp.sock,server=on,wait=off']
    for node in [*(copy.options() for copy in copies), quorum]:
        arguments += ['-blockdev', json.dumps(node)]
    arguments += ['-device', 'virtio-blk-pci,drive=quorum,bus=pcie.0,'
                  'addr=0x1e,bootindex=1']
    passed = ''.join(f'<qemu:arg value={xml.sax.saxutils.quoteattr(arg)}/>'
                     for arg in arguments)
    return f"""
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>quorum-full</name>
  <memory unit='MiB'>384</memory>
  <os firmware='efi'>
    <type arch='x86_64' machine='q35'>hvm</type>
    <firmware><feature enabled='no' name='secure-boot'/></firmware>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{QEMU}</emulator>
    <serial type='file'><source path='{WORK}/console.log'/></serial>
    <serial type='unix'>
      <source mode='bind' path='{WORK}/guest.sock'/>
    </serial>
    <interface type='user'><model type='virtio'/></interface>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>{passed}
    <qemu:env name='SSH_AUTH_SOCK' value='{os.environ["SSH_AUTH_SOCK"]}'/>
  </qemu:commandline>
</domain>"""


class Guest(Conversation):
    """The guest, which libvirt has started"""
    def __init__(self, libvirt: Libvirt, processes: contextlib.ExitStack
                 ) -> None:
        self.lines: list[list[str]] = []
        super().__init__(WORK, libvirt.process, processes)

    def heard(self, words: list[str]) -> None:
        self.lines.append(words)

    def happened(self, event: dict) -> None:
        if event['event'] in ('QUORUM_FAILURE', 'BLOCK_IO_ERROR'):
            raise Failed(json.dumps(event))

    def until(self, *begin: str, seconds: float = GUEST_TIMEOUT) -> list[str]:
        """Wait until the guest says a line that begins with these words."""
        while True:
            self.wait(lambda: bool(self.lines), seconds,
                      f'the guest on its way to: {" ".join(begin)}')
            words = self.lines.pop(0)
            if words[:len(begin)] == list(begin):
                return words[len(begin):]

    def until_load(self, rounds: int) -> None:
        """Wait until the load has done so many rounds more."""
        self.lines.clear()
        for _ in range(rounds + 1):     # one may have been under way
            self.until('load')


class TokenHandler(http.server.BaseHTTPRequestHandler):
    """What the guest fetches"""
    token = secrets.token_hex(16)

    # pylint: disable=invalid-name
    def do_GET(self) -> None:
        """One page for all addresses"""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.token.encode())

    def log_message(self, *_: Any) -> None:
        """Standard output is for TAP."""


# --- the tests ---

def test_drivers() -> None:
    """qemu-io has drivers for storage, some of them in modules."""
    for driver in ('gluster', 'https', 'iscsi', 'nbd', 'nfs', 'rbd',
                   'ssh', 'quorum'):
        done = subprocess.run(
            [f'{PREFIX}/bin/qemu-io', '-c', 'quit', '--image-opts',
             f'driver={driver}'], text=True, check=False, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        if not done.returncode or \
           re.search('Unknown (driver|protocol)|odule', done.stdout):
            raise Failed(f'{driver}: {done.stdout}')
    run(f'{PREFIX}/bin/qemu-img', 'create', '-f', 'qcow2', '-o',
        'compression_type=zstd', f'{WORK}/zstd.qcow2', '1M')
    if 'fuse' not in run(f'{PREFIX}/bin/qemu-storage-daemon', '--help'):
        raise Failed('qemu-storage-daemon has no exports over FUSE')


def test_emulator() -> None:
    """The emulator has networks, displays, seccomp and UEFI firmware."""
    for option, names in (('-netdev', 'user tap bridge vhost-user vhost-vdpa'),
                          ('-display', 'gtk sdl curses spice-app dbus'),
                          ('-device', 'virtio-gpu-gl-pci usb-redir usb-host '
                           'vhost-vsock-pci virtio-9p-pci qxl')):
        there = run(QEMU, option, 'help')
        for name in names.split():
            if not re.search(fr'(?<![\w-]){name}(?![\w-])', there):
                raise Failed(f'{option} {name} is not there')
    # What can't be asked for is tried; -S and a monitor that ends at once.
    done = subprocess.run(
        [QEMU, '-S', '-nodefaults', '-machine', 'q35,accel=tcg', '-sandbox',
         'on', '-bios', 'OVMF.fd', '-spice', f'unix=on,addr={WORK}/spice.sock,'
         'disable-ticketing=on', '-vga', 'qxl', '-device', 'e1000',
         '-monitor', 'stdio'],
        input='quit\n', text=True, stdout=subprocess.PIPE, timeout=60,
        stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Failed(done.stdout)


class GuestTest:
    """One guest, in which the tests go on where the last one has ended"""
    guest: Guest
    libvirt: Libvirt

    def __init__(self, processes: contextlib.ExitStack) -> None:
        self.processes = processes
        self.nbd, self.iscsi, self.ssh = NBDCopy(0), \
            ISCSICopy(1, processes), SSHCopy(2, processes)
        self.copies = self.nbd, self.iscsi, self.ssh

    def boot(self) -> None:
        """libvirt finds the firmware, and that boots the guest."""
        for copy in self.copies:
            copy.start()
            self.processes.callback(copy.kill)
        self.libvirt = Libvirt(self.processes)
        with open(f'{WORK}/domain.xml', 'w', encoding='ascii') as file:
            file.write(domain_xml(self.copies))
        self.libvirt.virsh('create', f'{WORK}/domain.xml')
        shown = self.libvirt.virsh('dumpxml', 'quorum-full')
        if not re.search(f'<loader[^>]*>{PREFIX}/share/OVMF/OVMF_CODE', shown):
            raise Failed(f'not our firmware: {shown}')
        self.guest = Guest(self.libvirt, self.processes)
        words = self.guest.until('booted', seconds=BOOT_TIMEOUT)
        if words[0] != 'UEFI':
            raise Failed(f'booted by {words}')

    def fetch(self) -> None:
        """The guest has a network without privileges: -netdev user."""
        server = http.server.HTTPServer(('127.0.0.1', 0), TokenHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.guest.tell(f'fetch {server.server_port}')
        words = self.guest.until('fetched')
        server.shutdown()
        if words != [TokenHandler.token]:
            raise Failed(f'fetched {words}')

    def states(self) -> dict[str, str]:
        """The state of each child, by its name"""
        return {copy.name: state for copy, state in
                zip(self.copies, self.guest.states())}

    def check_guest(self) -> None:
        """The load has ended well, and the files are what they were."""
        self.guest.tell('stop')
        self.guest.until('done', 'stop')
        self.guest.tell('verify')
        words = self.guest.until('done', 'verify')
        if words != ['0']:
            raise Failed(f'the guest has seen {words[0]} errors')

    def outlive(self, copy: Copy) -> None:
        """A server is killed under load; the guest goes on."""
        self.guest.tell('load')
        self.guest.until_load(2)
        before = self.guest.stats()
        copy.kill()
        self.guest.until_load(3)
        after = self.guest.stats()
        self.check_guest()
        missed = [c.name for c, b, a in zip(self.copies, before, after)
                  if a['write-errors'] + a['timeouts'] >
                  b['write-errors'] + b['timeouts']]
        if missed != [copy.name] or self.states()[copy.name] == 'ok':
            raise Failed(f'missed were {missed}, {self.states()}')

    def nbd_dies(self) -> None:
        """The TLS NBD server dies, comes back, and gets what it lacks."""
        self.outlive(self.nbd)
        self.nbd.start()
        self.guest.repair_all()

    def iscsi_dies(self) -> None:
        """So does the iSCSI target, whose client waits for it."""
        self.outlive(self.iscsi)
        self.iscsi.start()
        # libiscsi waits longer and longer before it connects again.
        self.guest.wait(lambda: self.states()['iscsi'] != 'lagging', 120,
                        'a connection to the target')
        self.guest.repair_all()

    def ssh_dies(self) -> None:
        """QEMU's ssh client does not: a new node takes its place."""
        self.outlive(self.ssh)
        self.ssh.start()
        self.ssh.name = 'ssh2'
        self.guest.cmd('blockdev-add', self.ssh.options())
        self.guest.change(child=self.ssh.slot, node='ssh2', in_sync=False)
        self.guest.cmd('blockdev-del', {'node-name': 'ssh'})
        self.guest.repair_all()

    def end(self) -> None:
        """The guest ends, and the replicas are identical."""
        if set(self.guest.states()) != {'ok'}:
            raise Failed(f'not in sync: {self.states()}')
        self.guest.ending = True
        self.guest.tell('off')
        self.guest.until('done', 'off')
        wait_until(lambda: self.libvirt.virsh_status('domstate', 'quorum-full')
                   != 0, 'the end of the guest')
        for copy in self.copies[1:]:
            run('cmp', self.nbd.image, copy.image)


def main() -> int:
    """Run all; after a failure, keep logs in WORK/failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    become_user()
    number = bad = 0

    def test(function: Callable[[], None]) -> None:
        nonlocal number, bad
        number += 1
        start = time.monotonic()
        name = function.__name__.replace('test_', '')
        try:
            function()
            print(f'ok {number} {name} ({time.monotonic() - start:.0f} s)',
                  flush=True)
        except (Failed, QMPError, EOFError, OSError, LookupError, ValueError,
                AssertionError, subprocess.SubprocessError):
            bad += 1
            print(f'not ok {number} {name}', flush=True)
            print(re.sub('^', '# ', traceback.format_exc().strip(),
                         flags=re.M), flush=True)

    with contextlib.ExitStack() as processes:
        test(test_drivers)
        test(test_emulator)
        guest = GuestTest(processes)
        for step in (guest.boot, guest.fetch, guest.nbd_dies, guest.ssh_dies,
                     guest.iscsi_dies, guest.end):
            if not bad:
                test(step)
    print(f'1..{number}')
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
