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

usage: demo.py BIN GUEST QEMU-SOURCE
"""

import asyncio
import contextlib
import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import time

sys.path.append(f'{os.path.dirname(os.path.realpath(__file__))}/../guest')
from host import (  # noqa: E402
    Failed, Line, Processes, child_stats, connect, start_server, start_vm,
    use_python_of, work_folder)

BIN, GUEST, SOURCE = sys.argv[1:]
use_python_of(SOURCE)
from qemu.qmp import QMPClient, QMPError  # noqa: E402

COPIES = 3
LIAR = 1
VICTIM = 2
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

def flip_bits(path: str, blocks: list[int]) -> tuple[int, int]:
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
    with open(path, 'r+b') as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << rand.randrange(8)]))
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
    """The quorum, as anybody would write it on a command line."""
    options = ['if=none,id=disk,driver=quorum,node-name=quorum',
               'vote-threshold=2,rewrite-corrupted=on']
    for i in range(COPIES):
        options += [f'children.{i}.driver=nbd',
                    f'children.{i}.node-name=copy{i}',
                    f'children.{i}.server.type=unix',
                    f'children.{i}.server.path={work}/nbd{i}.sock']
    return ','.join(options)


# --- the guest ---

class Guest(Line):
    """Its account is shown as it comes."""
    bad_files = 0

    def note(self, words: list[str]) -> None:
        if words[0] == 'read':
            account.bar(int(words[1]), int(words[2]), 'MiB')
        elif words[0] == 'verified':
            folder, files, bad = words[1], int(words[2]), int(words[3])
            self.bad_files += bad
            account.fact(f'{folder}: {files} files, all checksums right'
                         if not bad else
                         f'{folder}: {bad} OF {files} FILES ARE WRONG')


async def tell_events(qmp: QMPClient) -> None:
    """Pass on the events that speak of the quorum."""
    async for event in qmp.events:
        if event['event'].startswith(('QUORUM', 'BLOCK_IO_ERROR')):
            account.event(describe(event))


# --- the story ---

async def run(work: str, processes: Processes) -> None:
    """Tell and check the whole of it."""
    copies = [f'{work}/copy{i}.img' for i in range(COPIES)]
    with open(f'{GUEST}/disk.img.blocks', encoding='ascii') as file:
        blocks = json.load(file)
    for copy in copies:
        shutil.copy(f'{GUEST}/disk.img', copy)

    size = os.path.getsize(copies[0]) // 2**20
    account.step(f'Three copies of a disk ({size} MiB, ext4), '
                 'each behind an NBD server of its own')
    flipped, inside = flip_bits(copies[LIAR], blocks)
    servers = [start_server(processes, BIN, copies[i], f'{work}/nbd{i}.sock',
                            f'{work}/nbd{i}.log')
               for i in range(COPIES)]
    account.fact('copy 0 is good')
    account.fact(f'copy {LIAR} lies: {flipped} bits are flipped, {inside} of '
                 'them inside files, and its server knows nothing of it')
    account.fact(f'copy {VICTIM} is good, but its server will be killed')
    for i, server in enumerate(servers):
        _, writer = await connect(f'{work}/nbd{i}.sock', server,
                                  f'{work}/nbd{i}.log')
        writer.close()

    account.step('A guest boots from them: vote-threshold=2, '
                 'rewrite-corrupted=on')
    disk = disk_option(work)
    account.fact('-drive ' + disk.replace(work, '...')
                 .replace(',children', ',\n              children'))
    vm = start_vm(processes, BIN, GUEST, work, '-drive', disk,
                  '-device', 'virtio-blk-pci,drive=disk')
    guest = Guest(*await connect(f'{work}/guest.sock', vm,
                                 f'{work}/qemu.log'))
    qmp = QMPClient('demo')
    await qmp.connect(f'{work}/qmp.sock')
    teller = asyncio.create_task(tell_events(qmp))

    words = await guest.until('booted')
    account.fact(f'Linux {words[1]} is up, its root file system is on '
                 f'/dev/{words[3]}')

    account.step('The guest reads the whole disk and verifies its files: '
                 'every lie meets a vote')
    await guest.until('synced')
    healed = await child_stats(qmp)
    lie = healed[LIAR]
    account.fact(f'copy {LIAR} was outvoted in {lie["mismatches"]} reads, and '
                 f'{lie["repaired-bytes"]} bytes of it were repaired')
    if not lie['mismatches'] or not lie['repaired-bytes']:
        raise Failed('the lies of copy 1 were not noticed')

    account.step(f'With copy {LIAR} healed, the server of copy {VICTIM} is '
                 'killed (SIGKILL) while the guest writes')
    account.fact('Not before: a liar and a dead server at once are two faults,')
    account.fact('more than 2 of 3 can bear, and the guest would get errors '
                 'instead of guesses.')
    guest.tell('go on')
    while int((await guest.until('load'))[1]) < 3:
        pass
    servers[VICTIM].kill()
    servers[VICTIM].wait()
    guest.tell('server killed')
    before = int((await guest.until('load'))[1])
    while int((words := await guest.until('load'))[1]) < before + 4:
        pass
    guest.tell('enough')
    account.fact(f'the guest wrote on: {words[1]} rounds of its load are done')

    account.step('The guest writes new files and verifies everything again')
    io_errors = int((await guest.until('io-errors'))[1])
    await guest.until('load-intact')
    await guest.until('end')
    stats = await child_stats(qmp)
    guest.tell('off')
    try:
        vm.wait(timeout=30)
    except subprocess.TimeoutExpired:
        raise Failed('the guest does not switch itself off') from None
    teller.cancel()
    with contextlib.suppress(QMPError, EOFError):
        await qmp.disconnect()
    for server in servers:
        server.terminate()
        server.wait()

    account.step('What is left')
    differ = differing_bytes(copies[0], copies[LIAR])
    behind = not filecmp.cmp(copies[0], copies[VICTIM], shallow=False)
    account.fact(f'the guest saw {guest.bad_files or "no"} wrong file and '
                 f'{io_errors or "no"} I/O error')
    account.fact(f'copies 0 and {LIAR} are ' +
                 ('identical' if not differ else f'{differ} BYTES APART'))
    account.fact(f'copy {VICTIM} ' +
                 ('lacks what was written after its server died'
                  if behind else 'IS NOT BEHIND, as if nobody had killed it'))
    account.fact(f'outvoted reads: {sum(c["mismatches"] for c in stats)}, '
                 f'bytes repaired: {sum(c["repaired-bytes"] for c in stats)}, '
                 f'failed writes of copy {VICTIM}: '
                 f'{stats[VICTIM]["write-errors"]}')
    if guest.bad_files or io_errors or differ:
        raise Failed('the guest was hurt, or copy 1 was not healed')
    if not behind or not stats[VICTIM]['write-errors']:
        raise Failed(f'the server of copy {VICTIM} was not missed')
    if stats[0]['mismatches']:
        raise Failed('copy 0 was accused, although it was right')


def main() -> int:
    """Run it, and clean up whatever happens."""
    kept = f'{GUEST}/failed'
    try:
        with work_folder(kept) as work, Processes() as processes:
            asyncio.run(run(work, processes))
    except (Failed, QMPError, EOFError, OSError, LookupError,
            ValueError) as error:
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
