# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""qemu-img, and what is asked of it"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import List, Optional

from .basics import NOT_WELL, Dictionary, Failure
from .text import bar, printable

SHOW_SECONDS = 10       # between lines where there is no terminal


def find_program(name: str) -> str:
    """One that $QEMU_IMG or the like names, that beside this one, or any."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), name)
    path = os.environ.get(name.upper().replace('-', '_')) or \
        (beside if os.access(beside, os.X_OK) else shutil.which(name))
    if not path:
        raise Failure(f"the program '{name}' is neither beside qemu-quorum "
                      'nor in $PATH')
    return path


def json_name(node: Dictionary) -> str:
    """What qemu-img takes for the name of an image"""
    return 'json:' + json.dumps(node)


def zeroes(size: int) -> Dictionary:
    return {'driver': 'raw', 'size': size, 'file': {
        'driver': 'null-co', 'size': size, 'read-zeroes': True}}


class QemuImg:
    """Calls qemu-img, which must be one that has this quorum driver."""

    def __init__(self) -> None:
        self.program = find_program('qemu-img')

    def _run(self, *args: str) -> 'subprocess.CompletedProcess[str]':
        try:
            # A file's name need not be UTF-8
            return subprocess.run([self.program, *args], text=True,
                                  errors='replace', stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, check=False,
                                  stderr=subprocess.PIPE)
        except OSError as error:
            raise Failure(f"cannot run '{self.program}': {error.strerror}"
                          ) from None

    @staticmethod
    def _error(text: str) -> str:
        """What it complained of: the last line, without the file's name"""
        line = (text.strip().splitlines() or ['it does not say why'])[-1]
        line = re.sub(r'^qemu-img: ', '', line)
        return re.sub(r"^Could not open '.*': |^json:\{.*\}: ", '', line)

    def info(self, node: Dictionary) -> Dictionary:
        """Raises ValueError with the reason if it can't be opened."""
        done = self._run('info', '--output=json', json_name(node))
        if done.returncode:
            raise ValueError(self._error(done.stderr))
        return dict(json.loads(done.stdout))

    def image_size(self, path: str, fmt: Optional[str]) -> int:
        """The same for an image of any format, which the user has named."""
        done = self._run('info', '--output=json',
                         *(['-f', fmt] if fmt else []), '--', path)
        if done.returncode:
            raise ValueError(self._error(done.stderr))
        return int(json.loads(done.stdout)['virtual-size'])

    def is_zero(self, node: Dictionary, size: int) -> bool:
        """Whether there is nothing but zeroes; ValueError if unreadable."""
        done = self._run('compare', json_name(node), json_name(zeroes(size)))
        if done.returncode > 1:
            raise ValueError(self._error(done.stderr))
        return done.returncode == 0

    def create(self, url: str, size: int) -> None:
        """ValueError if that fails"""
        done = self._run('create', '-q', '-f', 'raw', '--', url, str(size))
        if done.returncode:
            raise ValueError(self._error(done.stderr))

    def convert(self, source: str, fmt: Optional[str], target: Dictionary,
                what: str = '') -> None:
        """
        Write all of an image over a node that is there.  How far that is, is
        shown if there is a text for it; without, zeroes are written, too.
        """
        if target['driver'] != 'raw':       # as which qemu-img opens it
            target = {'driver': 'raw', 'file': target}
        command = [self.program, 'convert', '-n', '-p',
                   *([] if what else ['-S', '0']),
                   *(['-f', fmt] if fmt else []), '--',
                   source, json_name(target)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE
                              ) as process:
            try:
                self._show(process, what)
            except BaseException:
                process.terminate()
                raise
            assert process.stderr
            errors = process.stderr.read().decode(errors='replace')
        if process.returncode:
            raise Failure(f'{what or "filling"} has failed: '
                          f'{self._error(errors)}', NOT_WELL)

    @staticmethod
    def _show(process: 'subprocess.Popen[bytes]', what: str) -> None:
        """Make a bar of '    (12.34/100%)' on stderr."""
        assert process.stdout
        said = time.monotonic()
        tty = sys.stderr.isatty()
        text = b''
        while True:
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                break
            text = (text + part)[-100:]
            found: List[bytes] = re.findall(rb'\((\d+\.\d+)/100%\)', text)
            if not found or not what:
                continue
            line = f'{what}: {bar(float(found[-1]) / 100)}'
            if tty:
                columns = shutil.get_terminal_size().columns
                print(f'\r\x1b[K{printable(line)[:columns - 1]}', end='',
                      file=sys.stderr, flush=True)
            elif time.monotonic() - said >= SHOW_SECONDS:
                print(printable(line), file=sys.stderr, flush=True)
                said = time.monotonic()
        if tty and what:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)
