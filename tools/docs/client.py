# SPDX-License-Identifier: GPL-2.0-or-later
"""
What the functions of shell.sh say to a QEMU or a storage daemon.

usage: client.py hello SOCKET           whether it has started, and answers
       client.py qmp SOCKET JSON        or COMMAND [KEY=VALUE...]
       client.py guest SOCKET COMMAND...    qemu-io's commands on its first disk
"""

import json
import socket
import sys
from typing import Any, Dict


class Failed(Exception):
    """What was asked for was refused"""


class Monitor:
    """A QMP connection"""
    def __init__(self, path: str, oob: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.data = b''
        self.receive()
        if oob:
            # Out of band itself: a chapter may have hung a server already.
            self.send({'exec-oob': 'qmp_capabilities',
                       'arguments': {'enable': ['oob']}})
            self.receive()

    def send(self, message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b'\n')

    def receive(self) -> Dict[str, Any]:
        """The next message; TimeoutError if there is none in time."""
        while b'\n' not in self.data:
            part = self.socket.recv(65536)
            if not part:
                raise EOFError('QEMU has ended')
            self.data += part
        line, self.data = self.data.split(b'\n', 1)
        return dict(json.loads(line))

    def command(self, message: Any) -> Any:
        self.send(message)
        while True:
            answer = self.receive()
            if 'error' in answer:
                raise Failed(answer['error']['desc'])
            if 'return' in answer:
                return answer['return']


def value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {'on': True, 'off': False}.get(text, text)


def parse(words: list[str]) -> Any:
    if words[0].startswith('{'):
        return json.loads(' '.join(words))
    arguments: Dict[str, Any] = {}
    for word in words[1:]:
        path, _, text = word.partition('=')
        *outer, key = path.split('.')
        inner = arguments
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[key] = value(text)
    return {'execute': words[0], 'arguments': arguments}


def guest(monitor: Monitor, commands: list[str]) -> None:
    disks = [disk for disk in monitor.command({'execute': 'query-block'})
             if disk.get('inserted') and disk.get('qdev')]
    if not disks:
        raise Failed('the VM has no disk')
    for command in commands:
        line = f'qemu-io -d {disks[0]["qdev"]} "{command}"'
        said = monitor.command({'execute': 'human-monitor-command',
                                'arguments': {'command-line': line}})
        print(said, end='')
        if 'failed' in said or 'rror' in said:
            raise Failed(f'the guest could not do: {command}')


def main() -> int:
    what, path, *words = sys.argv[1:]
    try:
        monitor = Monitor(path, what != 'hello')
        if what == 'hello':
            # Not out of band: the main loop answers, once all is there.
            monitor.command({'execute': 'qmp_capabilities'})
        elif what == 'qmp':
            print(json.dumps(monitor.command(parse(words))))
        elif what == 'guest':
            guest(monitor, words)
    except (Failed, OSError, EOFError) as error:
        print(f'check-docs: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
