# A QMP monitor that has a test between itself and its client
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

from contextlib import suppress
import json
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional

from .nbd import shutdown

# Called with a command and how often it has come; returns what is refused
Judge = Callable[[str, int], Optional[str]]


def commands_from(client: socket.socket) -> Iterator[Dict[str, Any]]:
    """What comes from a client, which need not write it in lines"""
    text = ''
    while True:
        data = client.recv(65536)
        if not data:
            return
        text += data.decode()       # all of it is ASCII
        while text:
            try:
                command, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break               # the rest has not come yet
            text = text[end:].lstrip()
            yield command


class MonitorProxy(threading.Thread):
    """
    Hands on what clients of the socket @path say to the one at @target, and
    the answers, one client after the other; but a command for which @judge
    has an error is answered with that.
    """
    def __init__(self, path: str, target: str) -> None:
        super().__init__()
        self.target = target
        self.judge: Judge = lambda command, count: None
        self.come: List[str] = []           # commands of this client
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.come = []
                with client, socket.socket(socket.AF_UNIX) as server:
                    server.connect(self.target)
                    self.serve(client, server)

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        def answer() -> None:
            with suppress(OSError):
                while True:
                    data = server.recv(65536)
                    if not data:
                        break
                    client.sendall(data)
            shutdown(client)

        answers = threading.Thread(target=answer)
        answers.start()
        with suppress(OSError):
            for command in commands_from(client):
                error = self.refuse(command)
                if error:
                    client.sendall(error)
                else:
                    server.sendall(json.dumps(command).encode())
        shutdown(server)
        answers.join()

    def refuse(self, command: Dict[str, Any]) -> Optional[bytes]:
        name = command.get('execute', command.get('exec-oob'))
        self.come.append(name)
        text = self.judge(name, self.come.count(name))
        if text is None:
            return None
        answer = {'id': command['id'],
                  'error': {'class': 'GenericError', 'desc': text}}
        return json.dumps(answer).encode() + b'\n'

    def stop(self) -> None:
        shutdown(self.listener)
        self.listener.close()
        self.join()
