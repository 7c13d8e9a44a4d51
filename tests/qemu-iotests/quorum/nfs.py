# NFS servers of the test, and what can befall them
#
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors
#
# For tests that run in_own_namespaces().

import os
import re
import shutil
import signal
import struct
import subprocess
import time
from typing import Any, Dict, List

import iotests

from .namespaces import Cable, in_own_namespaces, why_no_namespaces
from .proxy import HoldingProxy, Link
from .servers import start_process

PORTMAP_PORT, MOUNT_PORT, NFS_PORT = 111, 20048, 2049
NFS_PROGRAM = 100003
WRITE, COMMIT = 7, 21               # its procedures
UNSTABLE, FILE_SYNC = 0, 2          # how a server may write

# QEMU's NFS client speaks version 3 only.  That takes a portmapper.
CONFIG = '''
NFS_CORE_PARAM {{
    {more}
    Protocols = 3;
    MNT_Port = {mount_port};
    Enable_UDP = false;
    Enable_NLM = false;
    Enable_RQUOTA = false;
}}
NFSV4 {{
    Graceless = true;
    RecoveryBackend = fs;
    RecoveryRoot = {folder}/recovery;
}}
EXPORT {{
    Export_Id = 1;
    Path = {folder}/export;
    Pseudo = /export;
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = sys;
    FSAL {{ Name = VFS; }}
}}
'''


def ganesha_version() -> int:
    """As 6, of V6.5"""
    text = subprocess.run(['ganesha.nfsd', '-v'], check=True,
                          capture_output=True, text=True).stdout
    found = re.search(r'V(\d+)\.', text)
    assert found, text
    return int(found[1])


class NFSBox:
    """A server of a new image"""
    def __init__(self, number: int, size: int) -> None:
        self.cable = Cable(number)
        # FSAL VFS needs file handles, which some file systems don't have.
        # tmpfs has, and goes away with the namespace in which it is mounted;
        # but it is not exported any more from version 6 on.
        self.folder = os.path.join(iotests.test_dir, self.cable.name)
        os.makedirs(self.folder, exist_ok=True)
        self.in_memory = ganesha_version() < 6
        if self.in_memory:
            subprocess.run(['mount', '-t', 'tmpfs', 'box', self.folder],
                           check=True)
        for name in 'export', 'recovery':
            os.mkdir(f'{self.folder}/{name}')
        self.image = f'{self.folder}/export/disk.raw'
        self.log = f'{self.folder}/log'
        with open(self.image, 'wb') as file:
            file.truncate(size)
        with open(f'{self.folder}/config', 'w', encoding='utf-8') as file:
            # A privilege that a container may not have
            more = '' if self.in_memory else \
                'Allow_Set_Io_Flusher_Fail = true;'
            file.write(CONFIG.format(folder=self.folder, more=more,
                                     mount_port=MOUNT_PORT))
        self.start()

    def start(self) -> None:
        script = f"""
            mount -t tmpfs run /run
            rpcbind -f &
            until rpcinfo -p > /dev/null 2>&1; do sleep 0.02; done
            exec ganesha.nfsd -F -f '{self.folder}/config' -L '{self.log}' \\
                -p /run/ganesha.pid -N EVENT"""
        self.process = start_process([*self.cable.inside, 'sh', '-c', script])

    def wait(self) -> None:
        """Its portmapper knows where to find it."""
        for _ in range(600):
            if self.process.poll() is not None:
                break
            if subprocess.run(['rpcinfo', '-T', 'tcp', self.cable.host,
                               'nfs', '3'], check=False,
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.05)
        with open(self.log, encoding='utf-8') as file:
            raise AssertionError(f'no NFS server: {file.read()}')

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def freeze(self) -> None:
        """Stop it; it answers nothing any more."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def remove(self) -> None:
        self.kill()
        self.cable.remove()
        if self.in_memory:
            subprocess.run(['umount', '-l', self.folder], check=True)
            os.rmdir(self.folder)
        else:
            shutil.rmtree(self.folder)

    def node(self) -> Dict[str, Any]:
        return {'driver': 'nfs', 'node-name': self.cable.name,
                'server': {'type': 'inet', 'host': self.cable.host},
                'path': self.image}


class Calls(HoldingProxy):
    """A link to an NFS server, which shows what clients ask for"""
    def __init__(self, host: str, server: str) -> None:
        self.stable: List[int] = []     # how each write is to be done
        self.commits = 0
        self._parts: Dict[Link, bytes] = {}
        super().__init__((host, NFS_PORT), [(server, NFS_PORT)])

    def _sent(self, link: Link, data: bytes) -> None:
        data = self._parts.get(link, b'') + data
        while len(data) >= 4:
            end = 4 + (int.from_bytes(data[:4], 'big') & 0x7fffffff)
            if len(data) < end:
                break
            self._called(data[4:end])
            data = data[end:]
        self._parts[link] = data

    def _called(self, call: bytes) -> None:
        """The parts that have no fixed length come after their lengths."""
        def skip(offset: int) -> int:
            length, = struct.unpack_from('>I', call, offset)
            return offset + 4 + (length + 3) // 4 * 4

        kind, _, program, _, procedure = struct.unpack_from('>5I', call, 4)
        if kind != 0 or program != NFS_PROGRAM:
            return
        if procedure == COMMIT:
            self.commits += 1
        elif procedure == WRITE:
            handle = skip(skip(28) + 4)     # after credentials and verifier
            self.stable.append(
                struct.unpack_from('>I', call, skip(handle) + 12)[0])


class Detour:
    """The way to a server through an address of the test's own"""
    def __init__(self, box: NFSBox) -> None:
        self.host = f'127.0.0.{box.cable.number + 2}'
        self.calls = Calls(self.host, box.cable.host)
        self.proxies = [self.calls, *(
            HoldingProxy((self.host, port), [(box.cable.host, port)])
            for port in (PORTMAP_PORT, MOUNT_PORT))]

    def remove(self) -> None:
        for proxy in self.proxies:
            proxy.stop()


def why_no_nfs() -> str:
    """Why there can be no NFS servers here; empty if there can."""
    for program in 'ganesha.nfsd', 'rpcbind', 'rpcinfo':
        if not shutil.which(program):
            return f'there is no {program}: install nfs-ganesha, ' \
                'nfs-ganesha-vfs and rpcbind'
    if os.getuid() != 0:
        return 'ganesha.nfsd opens files by handle, as root only'
    return why_no_namespaces()


def verify_nfs() -> None:
    """Skip the test where it can't have NFS servers of its own."""
    why = why_no_nfs()
    if why:
        iotests.notrun(why)
    in_own_namespaces()
