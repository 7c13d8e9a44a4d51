# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""Where replicas and state nodes are: files, and what URIs name"""

import errno
import fcntl
import os
import re
import stat
from typing import Dict, Optional, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from .basics import NOT_WELL, Dictionary, Failure
from .programs import QemuImg
from .text import human_size

KINDS = "a path, nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, " \
        'nfs://HOST/PATH or ssh://[USER@]HOST[:PORT]/PATH'

# What a URI may have behind its '?', and what that is called as an option
QUERIES: Dict[str, Dict[str, str]] = {
    'nbd': {},
    'nbd+unix': {'socket': 'path'},
    'nfs': {'uid': 'user', 'gid': 'group'},
    'ssh': {},
}


def check_utf8(option: str, text: str) -> None:
    """QMP and JSON have no other texts."""
    try:
        text.encode('utf-8')
    except UnicodeEncodeError:
        raise Failure(f"{option} '{text}' is not UTF-8, so QEMU can't be told "
                      'of it; give one that is') from None


def inet(host: str, port: int) -> Dictionary:
    return {'host': host, 'port': str(port)}


class Place:
    """
    One of them.  @option and @text are what the user has typed, for errors.
    """
    def __init__(self, option: str, text: str) -> None:
        self.option, self.text = option, text
        self.size: Optional[int] = None     # None: there is nothing yet
        self.blank = True
        self.usable = 0                     # bytes of it that are used
        self.path = ''                      # of a file on this machine
        self.made = self.was_there = False
        self.opened = False                 # in QEMU, by a call before
        check_utf8(option, os.path.abspath(text))
        if re.match(r'[a-z][a-z+]+:', text):
            self.options = self._parse(text)
        else:
            self.path = os.path.abspath(text)
            self.options = {
                'driver': 'host_device' if self.is_device() else 'file',
                'filename': self.path}

    def refuse(self, text: str, status: int = NOT_WELL) -> Failure:
        return Failure(f"{self.option} '{self.text}': {text}", status)

    def is_device(self) -> bool:
        """Whether it is a block device of this machine"""
        return os.path.exists(self.path) and \
            stat.S_ISBLK(os.stat(self.path).st_mode)

    # The port comes from a property that may raise.
    def _parse(self, text: str) -> Dictionary:
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError as error:
            raise self.refuse(f'{error}; give {KINDS}', 2) from None
        if url.scheme not in QUERIES:
            raise self.refuse(f"'{url.scheme}' is not known; give {KINDS}", 2)
        query: Dict[str, str] = {}
        for key, value in parse_qsl(url.query, keep_blank_values=True):
            if key not in QUERIES[url.scheme]:
                allowed = ', '.join(QUERIES[url.scheme]) or 'nothing'
                raise self.refuse(f"'{key}' is not known here; behind '?' may "
                                  f'be {allowed}', 2)
            query[QUERIES[url.scheme][key]] = value
        path = unquote(url.path)
        if url.scheme == 'nbd+unix':
            if url.netloc or not query.get('path'):
                raise self.refuse('give nbd+unix:///EXPORT?socket=PATH', 2)
            server = {'type': 'unix', 'path': os.path.abspath(query['path'])}
            return {'driver': 'nbd', 'server': server, 'export': path[1:]}
        if not url.hostname:
            raise self.refuse(f'there is no host in it; give {KINDS}', 2)
        if url.scheme == 'nbd':
            server = {'type': 'inet', **inet(url.hostname, port or 10809)}
            return {'driver': 'nbd', 'server': server, 'export': path[1:]}
        if len(path) < 2 or path.endswith('/'):
            raise self.refuse(f'there is no file in it; give {KINDS}', 2)
        if url.scheme == 'nfs':
            return {'driver': 'nfs', 'path': path, **self._numbers(query),
                    'server': {'type': 'inet', 'host': url.hostname}}
        user = {'user': url.username} if url.username else {}
        return {'driver': 'ssh', 'path': path, **user,
                'server': inet(url.hostname, port or 22)}

    def _numbers(self, query: Dict[str, str]) -> Dict[str, int]:
        for value in query.values():
            if not re.fullmatch('[0-9]{1,10}', value):
                raise self.refuse(f"'{value}' is not the number of a user or "
                                  'group', 2)
        return {key: int(value) for key, value in query.items()}

    def node(self, name: Optional[str] = None) -> Dictionary:
        """The options of a raw node, of the length that is used"""
        result: Dictionary = {'driver': 'raw'}
        if name:
            result['node-name'] = name
        if self.size is not None and self.usable and \
           self.size > self.usable:
            result['size'] = self.usable
        return {**result, 'file': self.options}

    # What is there

    def look(self, img: QemuImg, size: int, exactly: bool, force: bool
             ) -> None:
        """
        Whether there is something already, with @size bytes, or, unless it
        must be exactly so many, at least.
        """
        if self.path:
            self._look_at_file()
            if not os.path.exists(self.path):
                return
        driver = self.options['driver']
        try:
            found = int(img.info(self.node())['virtual-size'])
        except ValueError as error:
            text = str(error)
            if driver in ('nfs', 'ssh') and \
               re.search('No such file|NOENT', text):
                return
            hint = '; an NBD server must be there before, with an export ' \
                'of this size' if driver == 'nbd' else ''
            raise self.refuse(text + hint) from None
        if driver == 'file' and (force or not found):
            return          # it can begin again
        larger = exactly and driver in ('nbd', 'host_device')
        if found < size or exactly and found > size and not larger:
            more = ' or more' if larger or not exactly else ''
            raise self.refuse(f'is there, and has {found} bytes; it must have '
                              f'{size} ({human_size(size)}){more}')
        self.size = found
        self.usable = size if exactly else found
        try:
            self.blank = img.is_zero(self.node(), self.usable)
        except ValueError as error:
            raise self.refuse(str(error)) from None

    def _look_at_file(self) -> None:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise self.refuse(f"there is no folder '{folder}'")
        if os.path.isdir(self.path):
            raise self.refuse('is a folder; give the name of a file in it')
        try:
            found = os.lstat(self.path)
            if stat.S_ISLNK(found.st_mode):
                found = os.stat(self.path)
        except FileNotFoundError:
            if os.path.islink(self.path):
                raise self.refuse('is a link that leads nowhere') from None
            return
        except OSError as error:
            raise self.refuse(error.strerror) from None
        if not stat.S_ISREG(found.st_mode) and not self.is_device():
            raise self.refuse('is neither a file nor a block device')
        self.check_unused()

    def check_unused(self) -> None:
        """That neither a program nor the kernel uses the file."""
        if not self.path:
            return
        try:
            file = self._open(os.O_RDWR)
            try:
                self._check_lock(file)
            finally:
                os.close(file)
        except OSError as error:
            raise self.refuse(error.strerror) from None

    def _open(self, flags: int) -> int:
        """O_EXCL tells of a block device whether the kernel has it."""
        if not self.is_device():
            return os.open(self.path, flags, 0o666)
        try:
            return os.open(self.path, flags | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise self.refuse('is in use by this machine: it is mounted, or '
                              'swap, or a part of LVM or RAID') from None

    def _check_lock(self, file: int) -> None:
        """QEMU locks some of these bytes of an image, unless told not to."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 200, 100)
        except BlockingIOError:
            raise self.refuse('is in use by another program') from None

    def identity(self) -> Sequence[object]:
        """What two that are the same have in common"""
        if self.path:
            try:
                found = os.stat(self.path)
                return [found.st_dev, found.st_ino]
            except OSError:
                return [os.path.realpath(self.path)]
        return sorted(map(repr, self.options.items()))

    # Making it

    def make(self, img: QemuImg, size: int) -> None:
        """
        Let it have this size, and nothing in it.  What is there, and can be
        used, only must not have come into use meanwhile.
        """
        if self.size is not None:
            self.check_unused()
            return
        if not self.path:
            try:
                img.create(self.text, size)
            except ValueError as error:
                raise self.refuse(str(error)) from None
            self.made = True
        else:
            # If another program makes it right now, that one shall have it.
            self.was_there = os.path.exists(self.path)
            flags = 0 if self.was_there else os.O_CREAT | os.O_EXCL
            try:
                file = self._open(os.O_WRONLY | flags)
                try:
                    self._check_lock(file)
                    self.made = True
                    os.ftruncate(file, 0)
                    os.ftruncate(file, size)
                finally:
                    os.close(file)
            except OSError as error:
                raise self.refuse(f'cannot make it, with {size} bytes: '
                                  f'{error.strerror}') from None
        self.size = self.usable = size

    def unmake(self) -> bool:
        """
        Remove what was made, or leave it empty if it was there; whether that
        can be done from here.
        """
        if not self.path:
            return False
        try:
            if self.was_there:
                os.truncate(self.path, 0)
            else:
                os.unlink(self.path)
        except OSError:
            pass        # it has gone already
        return True
