# Networks of the test's own, whose cables can be pulled
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import subprocess
import sys
from typing import List

import iotests


def _unshare() -> List[str]:
    command = ['unshare', '--net', '--mount', '--pid', '--fork',
               '--kill-child']
    return command + ['--map-root-user'] * (os.getuid() != 0)


def why_no_namespaces() -> str:
    """Why a test can't have namespaces of its own; empty if it can."""
    if 'QUORUM_TEST_INSIDE' in os.environ:
        return ''
    try:
        tried = subprocess.run(
            [*_unshare(), 'sh', '-c', 'mount -t tmpfs run /run && ip link'],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            check=False)
    except FileNotFoundError:
        return 'there is no unshare'
    if tried.returncode != 0:
        return 'no namespaces of its own: ' + \
            tried.stderr.strip().replace('\n', '; ')
    return ''


def in_own_namespaces() -> None:
    """
    Run the test in namespaces of its own, so that its network, its mounts and
    its processes end when it does, however that happens.  Skip it where that
    takes a privilege that is missing.
    """
    if 'QUORUM_TEST_INSIDE' in os.environ:
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        return
    why = why_no_namespaces()
    if why:
        iotests.notrun(why)
    # The names of network namespaces, which are in /run, are the test's, too.
    os.environ['QUORUM_TEST_INSIDE'] = '1'
    os.execvp('unshare', [
        *_unshare(), 'sh', '-c', 'mount -t tmpfs run /run && exec "$@"', 'sh',
        sys.executable, *sys.argv])


def ip(*args: str) -> None:
    subprocess.run(['ip', *args], check=True)


class Cable:
    """
    Leads to a network namespace of its own.  For tests that run
    in_own_namespaces().
    """
    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f'box{number}'
        self.host = f'10.0.{number}.2'
        self.inside = ['ip', 'netns', 'exec', self.name]
        ip('netns', 'add', self.name)
        ip('link', 'add', self.name, 'type', 'veth', 'peer', 'eth0',
           'netns', self.name)
        ip('addr', 'add', f'10.0.{number}.1/24', 'dev', self.name)
        ip('-n', self.name, 'addr', 'add', f'{self.host}/24', 'dev', 'eth0')
        ip('link', 'set', self.name, 'up')
        ip('-n', self.name, 'link', 'set', 'lo', 'up')
        ip('-n', self.name, 'link', 'set', 'eth0', 'up')

    def remove(self) -> None:
        ip('link', 'del', self.name)
        ip('netns', 'del', self.name)

    def pull(self, far: bool = False) -> None:
        """Pull the cable at one end."""
        self._link('down', far)

    def plug(self, far: bool = False) -> None:
        self._link('up', far)

    def _link(self, state: str, far: bool) -> None:
        if far:
            ip('-n', self.name, 'link', 'set', 'eth0', state)
        else:
            ip('link', 'set', self.name, state)
