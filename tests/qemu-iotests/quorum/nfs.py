# NFS servers of the test, and what can befall them
#
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors
#
# For tests that run in_own_namespaces().

import os
import shutil
import signal
import subprocess
import time
from typing import Any, Dict

import iotests

from .namespaces import Cable, in_own_namespaces, why_no_namespaces
from .servers import start_process

# QEMU's NFS client speaks version 3 only.  That takes a portmapper.
CONFIG = '''
NFS_CORE_PARAM {{
    Protocols = 3;
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


class NFSBox:
    """A server of a new image"""
    def __init__(self, number: int, size: int) -> None:
        self.cable = Cable(number)
        # FSAL VFS needs file handles, which some file systems don't have.
        # tmpfs has, and goes away with the namespace in which it is mounted.
        self.folder = os.path.join(iotests.test_dir, self.cable.name)
        os.makedirs(self.folder, exist_ok=True)
        subprocess.run(['mount', '-t', 'tmpfs', 'box', self.folder],
                       check=True)
        for name in 'export', 'recovery':
            os.mkdir(f'{self.folder}/{name}')
        self.image = f'{self.folder}/export/disk.raw'
        self.log = f'{self.folder}/log'
        with open(self.image, 'wb') as file:
            file.truncate(size)
        with open(f'{self.folder}/config', 'w', encoding='utf-8') as file:
            file.write(CONFIG.format(folder=self.folder))
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
        subprocess.run(['umount', '-l', self.folder], check=True)
        os.rmdir(self.folder)

    def node(self) -> Dict[str, Any]:
        return {'driver': 'nfs', 'node-name': self.cable.name,
                'server': {'type': 'inet', 'host': self.cable.host},
                'path': self.image}


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
