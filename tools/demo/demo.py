#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Boot a Linux guest from a quorum of three, with a liar in it, kill one of the
servers under load, and tell a person what happens.

The three copies of the disk are served by three real NBD servers.  Copy 1 has
bits flipped in many places.  The guest reads everything, which heals copy 1,
then works on while the server of copy 2 is killed.  Exit status 0 only if the
guest saw neither a wrong byte nor an I/O error, and copies 0 and 1 are
identical in the end.

usage: demo.py BIN GUEST

QEMU's python/ and tests/qemu-iotests/ must be in the PYTHONPATH, and
tools/guest/, too.
"""

import collections
import contextlib
import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import time
from typing import Any

from qemu.qmp import QMPError
from quorum.faults import flip_bits
from quorum.qmp import Failed
from quorum.servers import Server

from host import Machine, work_folder

BIN, GUEST = sys.argv[1:]

COPIES = 3
LIAR = 1
VICTIM = 2
GUEST_TIMEOUT = 180     # seconds that the guest may be silent
TTY = sys.stdout.isatty()
START = time.monotonic()


# --- telling ---

class Account:
    """What a person reads: numbered steps, facts below them, one bar."""

    def __init__(self) -> None:
        self.steps = 0
        self.bar_shown = False

    def _line(self, text: str) -> None:
        if self.bar_shown:
            print()
            self.bar_shown = False
        print(text, flush=True)

    def step(self, text: str) -> None:
        """A new step."""
        self.steps += 1
        stamp = f'{time.monotonic() - START:5.1f} s'
        bold, plain = ('\033[1m', '\033[0m') if TTY else ('', '')
        self._line(f'\n{stamp}  {bold}{self.steps}. {text}{plain}')

    def fact(self, text: str) -> None:
        """Something about the step."""
        self._line(f'            {text}')

    def event(self, text: str) -> None:
        """An event from QEMU."""
        dim, plain = ('\033[33m', '\033[0m') if TTY else ('', '')
        self._line(f'            {dim}event: {text}{plain}')

    def bar(self, done: int, total: int, unit: str) -> None:
        """Progress, on a terminal only."""
        if TTY:
            full = 30 * done // total
            print(f'\r            [{"#" * full}{"." * (30 - full)}] '
                  f'{done} of {total} {unit}', end='', flush=True)
            self.bar_shown = True


account = Account()


def describe(event: dict) -> str:
    """An event in words."""
    data = event['data']
    if event['event'] == 'QUORUM_REPORT_BAD':
        where = f'sectors {data["sector-num"]} to ' \
                f'{data["sector-num"] + data["sectors-count"] - 1}'
        if 'error' in data:
            return f'{data["node-name"]} failed a {data["type"]} ' \
                   f'({data["error"]}), {where}'
        return f'{data["node-name"]} was outvoted on a {data["type"]}, {where}'
    if event['event'] == 'QUORUM_FAILURE':
        return f'NO QUORUM on {data["reference"]}, sector {data["sector-num"]}'
    return f'{event["event"]} {json.dumps(data)}'


# --- the disks ---

def make_liar(path: str, blocks: list[int]) -> tuple[int, int]:
    """
    Flip one bit in each of many bytes: everywhere, where the file system keeps
    its superblock, and inside files.  Return how many bits, and how many of
    them in files.
    """
    rand = random.Random(1)
    size = os.path.getsize(path)
    inside = {block + rand.randrange(4096)
              for block in blocks for _ in range(5)}
    places = inside | {rand.randrange(size) for _ in range(150)} \
        | {1024 + rand.randrange(1024) for _ in range(10)}
    flip_bits(path, places, rand)
    return len(places), len(inside)


def differing_bytes(one: str, other: str) -> int:
    """How many bytes of two files of one length differ."""
    count = 0
    with open(one, 'rb') as file, open(other, 'rb') as file2:
        while chunk := file.read(2**20):
            chunk2 = file2.read(2**20)
            if chunk != chunk2:
                count += sum(a != b for a, b in zip(chunk, chunk2))
    return count


def disk_option(work: str) -> str:
    """The quorum, as one writes it on a command line."""
    options = ['if=none,id=disk,driver=quorum,node-name=quorum',
               'vote-threshold=2,rewrite-corrupted=on']
    for i in range(COPIES):
        options += [f'children.{i}.driver=nbd',
                    f'children.{i}.node-name=copy{i}',
                    f'children.{i}.server.type=unix',
                    f'children.{i}.server.path={work}/nbd{i}.sock']
    return ','.join(options)


# --- the guest ---

class DemoMachine(Machine):
    """What its guest and QEMU say is told as it comes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: collections.deque[list[str]] = collections.deque()
        self.bad_files = 0

    def heard(self, words: list[str]) -> None:
        self.lines.append(words)

    def note(self, words: list[str]) -> None:
        """Tell what the guest says."""
        if words[0] == 'read':
            account.bar(int(words[1]), int(words[2]), 'MiB')
        elif words[0] == 'verified':
            folder, files, bad = words[1], int(words[2]), int(words[3])
            self.bad_files += bad
            account.fact(f'{folder}: {files} files, all checksums right'
                         if not bad else
                         f'{folder}: {bad} OF {files} FILES ARE WRONG')

    def happened(self, event: dict) -> None:
        if event['event'].startswith(('QUORUM', 'BLOCK_IO_ERROR')):
            account.event(describe(event))

    def until(self, word: str) -> list[str]:
        """Follow the guest until a line that begins with this word."""
        while True:
            self.wait(lambda: bool(self.lines), GUEST_TIMEOUT,
                      f'the guest on its way to: {word}')
            words = self.lines.popleft()
            self.note(words)
            if words[0] == word:
                return words

    def until_load(self, rounds: int) -> int:
        """Follow the guest until its load has done so many rounds."""
        while (done := int(self.until('load')[1])) < rounds:
            pass
        return done


# --- the story, step by step ---

class Demo:
    """Three copies, and the machine that runs on them"""
    machine: DemoMachine

    def __init__(self, work: str, processes: contextlib.ExitStack) -> None:
        self.work = work
        self.processes = processes
        self.copies = [f'{work}/copy{i}.img' for i in range(COPIES)]
        self.servers = [
            Server(f'{BIN}/qemu-nbd', copy, f'{work}/nbd{i}.sock',
                   log=f'{work}/nbd{i}.log')
            for i, copy in enumerate(self.copies)]
        self.io_errors = 0
        self.stats: list[dict] = []

    def serve_copies(self) -> None:
        """Make the copies, one of them bad, and start the servers."""
        with open(f'{GUEST}/disk.img.blocks', encoding='ascii') as file:
            blocks = json.load(file)
        for copy in self.copies:
            shutil.copy(f'{GUEST}/disk.img', copy)
        size = os.path.getsize(self.copies[0]) // 2**20
        account.step(f'Three copies of a disk ({size} MiB, ext4), '
                     'each behind an NBD server of its own')
        flipped, inside = make_liar(self.copies[LIAR], blocks)
        for server in self.servers:
            self.processes.callback(server.kill)
            server.start()
        account.fact('copy 0 is good')
        account.fact(f'copy {LIAR} lies: {flipped} bits are flipped, {inside} '
                     'of them inside files, and its server knows nothing of '
                     'it')
        account.fact(f'copy {VICTIM} is good, but its server will be killed')

    def boot(self) -> None:
        """Start the guest."""
        account.step('A guest boots from them: vote-threshold=2, '
                     'rewrite-corrupted=on')
        disk = disk_option(self.work)
        account.fact('-drive ' + disk.replace(self.work, '...')
                     .replace(',children', ',\n              children'))
        self.machine = DemoMachine(BIN, GUEST, self.work, self.processes,
                                   '-drive', disk,
                                   '-device', 'virtio-blk-pci,drive=disk')
        words = self.machine.until('booted')
        account.fact(f'Linux {words[1]} is up, its root file system is on '
                     f'/dev/{words[3]}')

    def read_lies(self) -> None:
        """The guest reads everything, which heals the liar."""
        account.step('The guest reads the whole disk and verifies its files: '
                     'every lie meets a vote')
        self.machine.until('synced')
        lie = self.machine.stats()[LIAR]
        account.fact(f'copy {LIAR} was outvoted in {lie["mismatches"]} reads, '
                     f'and {lie["repaired-bytes"]} bytes of it were repaired')
        if not lie['mismatches'] or not lie['repaired-bytes']:
            raise Failed(f'the lies of copy {LIAR} were not noticed')

    def kill_server(self) -> None:
        """A server dies while the guest writes, and the guest writes on."""
        account.step(f'With copy {LIAR} healed, the server of copy {VICTIM} '
                     'is killed (SIGKILL) while the guest writes')
        account.fact('Not before: a liar and a dead server at once are two '
                     'faults,')
        account.fact('more than 2 of 3 can bear, and the guest would get '
                     'errors instead of guesses.')
        self.machine.tell('go on')
        self.machine.until_load(3)
        self.servers[VICTIM].kill()
        self.machine.tell('server killed')
        before = int(self.machine.until('load')[1])
        rounds = self.machine.until_load(before + 4)
        self.machine.tell('enough')
        account.fact(f'the guest wrote on: {rounds} rounds of its load are '
                     'done')

    def verify_all(self) -> None:
        """The guest looks at everything once more, and ends."""
        account.step('The guest writes new files and verifies everything '
                     'again')
        self.io_errors = int(self.machine.until('io-errors')[1])
        self.machine.until('load-intact')
        self.machine.until('end')
        self.stats = self.machine.stats()
        self.machine.tell('off')
        self.machine.wait_end(30)
        for server in self.servers:
            server.kill()

    def look_at_copies(self) -> None:
        """See what is left, and what the guest has seen."""
        account.step('What is left')
        bad_files, stats = self.machine.bad_files, self.stats
        differ = differing_bytes(self.copies[0], self.copies[LIAR])
        behind = not filecmp.cmp(self.copies[0], self.copies[VICTIM],
                                 shallow=False)
        account.fact(f'the guest saw {bad_files or "no"} wrong file and '
                     f'{self.io_errors or "no"} I/O error')
        account.fact(f'copies 0 and {LIAR} are ' +
                     ('identical' if not differ else f'{differ} BYTES APART'))
        account.fact(f'copy {VICTIM} ' +
                     ('lacks what was written after its server died'
                      if behind else
                      'IS NOT BEHIND, as if nobody had killed it'))
        outvoted = sum(child['mismatches'] for child in stats)
        repaired = sum(child['repaired-bytes'] for child in stats)
        account.fact(f'outvoted reads: {outvoted}, bytes repaired: '
                     f'{repaired}, failed writes of copy {VICTIM}: '
                     f'{stats[VICTIM]["write-errors"]}')
        if bad_files or self.io_errors or differ:
            raise Failed(f'the guest was hurt, or copy {LIAR} was not healed')
        if not behind or not stats[VICTIM]['write-errors']:
            raise Failed(f'the server of copy {VICTIM} was not missed')
        if stats[0]['mismatches']:
            raise Failed('copy 0 was accused, although it was right')

    def run(self) -> None:
        """Tell and check the whole of it."""
        self.serve_copies()
        self.boot()
        self.read_lies()
        self.kill_server()
        self.verify_all()
        self.look_at_copies()


def main() -> int:
    """Run it, and clean up whatever happens."""
    kept = f'{GUEST}/failed'
    try:
        with work_folder(kept) as work, contextlib.ExitStack() as processes:
            Demo(work, processes).run()
    except (Failed, QMPError, EOFError, OSError, LookupError, ValueError,
            subprocess.SubprocessError) as error:
        print(f'\nThe demo FAILED: {error}', file=sys.stderr)
        with contextlib.suppress(OSError), \
                open(f'{kept}/qemu.log', encoding='utf-8') as file:
            print(file.read(), end='', file=sys.stderr)
        print(f'QEMU\'s output and the guest\'s console are in {kept}',
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        return 130
    print(f'\nThe demo SUCCEEDED after {time.monotonic() - START:.0f} s: '
          'the guest saw no wrong byte.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
