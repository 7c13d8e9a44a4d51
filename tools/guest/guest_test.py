#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A Linux guest works on an ext4 file system, on a quorum of three NBD servers,
and knows what it has written.  Meanwhile servers are killed, hang, rot, are
taken out and put in again, never more than one of them at a time; and in the
second test QEMU is killed, too.  The guest may see neither a wrong byte nor an
error, and in the end the replicas are identical, and clean.

usage: guest_test.py BIN GUEST QEMU-SOURCE [TEST...]
"""

import asyncio
import contextlib
import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import (
    Any, Awaitable, Callable, Coroutine, Iterator, Optional, Sequence)

from host import (
    Ended, Failed, Line, Processes, child_stats, connect, start_server,
    start_vm, use_python_of, work_folder)
from image import TOOLS, make_ext4

BIN, GUEST, SOURCE = sys.argv[1:4]
use_python_of(SOURCE)
from qemu.qmp import QMPClient, QMPError  # noqa: E402

REPLICAS = 3
THRESHOLD = 2
DISK_MIB = 64
WORKERS = 4
PATIENCE = 120      # seconds for any one thing that the guest is to do
SEED = int(os.environ.get('QUORUM_TEST_SEED',
                          random.SystemRandom().randrange(2**32)))
SECONDS = float(os.environ.get('QUORUM_TEST_SECONDS', 0))


def rounds(rand: random.Random, kinds: Sequence[Any]) -> Iterator[Any]:
    """All kinds of things once, and then again in another order."""
    while True:
        yield from rand.sample(kinds, len(kinds))


class Replica:
    """A copy of the disk, the server in front of it, and what befalls them."""

    def __init__(self, number: int, work: str, processes: Processes) -> None:
        self.number = number
        self.child = f'children.{number}'
        self.node = f'copy{number}'
        self.image = f'{work}/{self.node}.img'
        self.path = f'{work}/{self.node}.sock'
        self.log = f'{work}/{self.node}.log'
        self.processes = processes
        self.server: Optional[subprocess.Popen] = None

    async def start(self) -> None:
        """Start the server, and wait until it listens."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.server = start_server(self.processes, BIN, self.image, self.path,
                                   self.log, '--discard=unmap')
        _, writer = await connect(self.path, self.server, self.log)
        writer.close()

    def kill(self) -> None:
        """What the server has acknowledged is in the host's page cache."""
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None

    def signal(self, number: int) -> None:
        """Stop or continue the server."""
        assert self.server
        self.server.send_signal(number)

    def rot(self, rand: random.Random) -> None:
        """Flip bits here and there, in what is used more often than not."""
        size = os.path.getsize(self.image)
        with open(self.image, 'r+b') as file:
            for _ in range(rand.randrange(1, 200)):
                place = rand.randrange(rand.choice((2**20, size)))
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 1 << rand.randrange(8)]))

    def make_blank(self) -> None:
        """Somebody puts in a new disk."""
        size = os.path.getsize(self.image)
        with open(self.image, 'r+b') as file:
            file.truncate(0)
            file.truncate(size)


class Guest(Line):
    """What the guest has told us to be safe, and how far it is."""

    def __init__(self, *streams: Any) -> None:
        super().__init__(*streams)
        self.load = 0
        self.answers: asyncio.Queue[str] = asyncio.Queue()
        # (kept or block, worker, which one): its generation
        self.safe: dict[tuple[str, str, str], str] = {}

    def note(self, words: list[str]) -> None:
        if words[0] in ('kept', 'block') and len(words) == 4:
            self.safe[words[0], words[1], words[2]] = words[3]
        elif words[0] == 'load':
            self.load = int(words[1])
        elif words[0] == 'done':
            self.answers.put_nowait(words[1])

    async def has_done(self, what: str) -> None:
        """Wait until the guest says so."""
        try:
            answer = await asyncio.wait_for(self.answers.get(), PATIENCE)
        except asyncio.TimeoutError:
            raise Failed(f'the guest is not done with: {what}') from None
        assert answer == what

    async def ask(self, command: str, *args: object) -> None:
        """Let the guest do something, and wait until it has."""
        self.tell(' '.join((command, *map(str, args))))
        await self.has_done(command)


class Story:
    """One test: what happens, and what must not."""

    def __init__(self, name: str, work: str, processes: Processes) -> None:
        self.work = work
        self.processes = processes
        self.rand = random.Random(f'{SEED} {name}')
        self.replicas = [Replica(i, work, processes) for i in range(REPLICAS)]
        self.options = {
            'rewrite-corrupted': name == 'faults' or self.rand.random() < 0.5,
            'read-pattern': self.rand.choice(('quorum', 'threshold'))}
        self.kinds = (self.dies, self.keeps_dying, self.hangs, self.rots,
                      self.dies_and_rots, self.is_exchanged)
        self.misfortunes = rounds(self.rand, self.kinds)
        self.vm: subprocess.Popen
        self.guest: Guest
        self.qmp = QMPClient('guest')
        self.scrubbed: asyncio.Queue[dict] = asyncio.Queue()
        self.tasks: list[asyncio.Task] = []     # those that listen
        self.teller: Optional[asyncio.Task] = None
        self.failure: Optional[BaseException] = None
        self.may_fail = False       # may there be no winner somewhere?
        self.ending = False         # may the guest fall silent?
        self.mismatches: dict[str, int] = {}
        self.folder = 0             # of the load
        self.counts: dict[str, int] = {}

    def log(self, text: str) -> None:
        """What happens is of interest only if the test fails."""
        line = f'{time.monotonic():.3f} {text}'
        with open(f'{self.work}/story.log', 'a', encoding='utf-8') as file:
            print(line, file=file)
        if os.environ.get('QUORUM_TEST_TRACE'):
            print(line, file=sys.stderr, flush=True)

    def count(self, what: str) -> None:
        """To be told if it doesn't."""
        self.log(f'-- {what}')
        self.counts[what] = self.counts.get(what, 0) + 1

    async def pause(self, most: float) -> None:
        """Let the guest go on."""
        await asyncio.sleep(self.rand.uniform(0.05, most))

    # --- QEMU, and what it and the guest say ---

    def listen(self, what: Coroutine[Any, Any, None]) -> None:
        """In the background; the story ends if it fails."""
        def over(task: asyncio.Task) -> None:
            if not task.cancelled() and task.exception() and self.teller:
                self.failure = self.failure or task.exception()
                self.teller.cancel()

        task = asyncio.create_task(what)
        task.add_done_callback(over)
        self.tasks.append(task)

    async def hear_guest(self, guest: Guest) -> None:
        """All that it says, until it is switched off."""
        try:
            while True:
                words = await guest.hear()
                self.log(f'guest: {" ".join(words)}')
                guest.note(words)
        except (Ended, ConnectionError):
            if not self.ending:
                raise

    async def hear_events(self, qmp: QMPClient) -> None:
        """Those that speak of the quorum."""
        async for event in qmp.events:
            kind = event['event']
            if kind.startswith(('QUORUM', 'BLOCK')):
                self.log(f'event: {kind} {json.dumps(event["data"])}')
            if kind in ('QUORUM_FAILURE', 'BLOCK_IO_ERROR') and \
               not self.may_fail:
                raise Failed(f'{kind} {json.dumps(event["data"])}')
            if kind == 'QUORUM_SCRUB_COMPLETED':
                self.scrubbed.put_nowait(event['data'])

    def node_options(self, replica: Replica) -> dict:
        """A child."""
        return {'driver': 'nbd', 'node-name': replica.node,
                'discard': 'unmap',
                'reconnect-delay': self.rand.choice((0, 0, 0, 2)),
                'server': {'type': 'unix', 'path': replica.path}}

    def quorum_options(self, children: Sequence[Optional[Replica]],
                       threshold: int = THRESHOLD) -> dict:
        """The quorum; None is a place that is vacant."""
        return {'driver': 'quorum', 'node-name': 'quorum',
                'vote-threshold': threshold, 'discard': 'unmap',
                'children': [child.node if child else None
                             for child in children], **self.options}

    async def start(self, children: Sequence[Optional[Replica]]) -> None:
        """Start QEMU; the guest does not run yet."""
        args = ['-S']
        for child in children:
            if child:
                args += ['-blockdev', json.dumps(self.node_options(child))]
        args += ['-blockdev', json.dumps(self.quorum_options(children)),
                 '-device', 'virtio-blk-pci,drive=quorum']
        for name in 'guest.sock', 'qmp.sock':
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f'{self.work}/{name}')
        self.ending = False
        self.vm = start_vm(self.processes, BIN, GUEST, self.work, *args)
        self.guest = Guest(*await connect(f'{self.work}/guest.sock', self.vm,
                                          f'{self.work}/qemu.log'))
        self.qmp = QMPClient('guest')
        await self.qmp.connect(f'{self.work}/qmp.sock')
        self.listen(self.hear_guest(self.guest))
        self.listen(self.hear_events(self.qmp))

    async def boot(self) -> None:
        """Let the guest run, and mount its disk."""
        await self.qmp.execute('cont')
        await self.guest.has_done('boot')
        await self.guest.ask('mount')

    async def stop_listening(self) -> None:
        """QEMU has ended; what the guest has said before still counts."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=1,
                               return_when=asyncio.FIRST_COMPLETED)
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self.qmp.disconnect()

    # --- how the replicas are ---

    async def states(self) -> list[str]:
        """Of all places."""
        for node in await self.qmp.execute('query-named-block-nodes',
                                           {'flat': True}):
            if node['node-name'] == 'quorum':
                data = node['image']['format-specific']['data']
                return [child['state'] for child in data['children']]
        raise Failed('query-named-block-nodes does not show the quorum')

    async def scrub(self, **options: object) -> dict:
        """Scrub once; return what was found."""
        await self.qmp.execute('quorum-scrub', {
            'job-id': 'scrub', 'node': 'quorum', **options})
        found = await asyncio.wait_for(self.scrubbed.get(), PATIENCE)
        while any(job['device'] == 'scrub' for job in
                  await self.qmp.execute('query-block-jobs')):
            await asyncio.sleep(0.01)
        return found

    async def heal(self, sync: str) -> None:
        """
        All servers are there again; let all replicas be well before anything
        else happens.  QEMU may not have found its way back to a server yet.
        What it was told to heal must be all that was wrong.
        """
        for _ in range(60):
            found = await self.scrub(sync=sync)
            states = await self.states()
            self.log(f'{states}')
            if 'error' not in found and states == ['ok'] * REPLICAS and \
               found['unrepairable-bytes'] == 0:
                found = await self.scrub(repair=False)
                if found['mismatched-bytes']:
                    raise Failed(f'not healed: {found}')
                if 'error' not in found and not found['missing-bytes']:
                    return
            await asyncio.sleep(0.3)
        raise Failed(f'not healed: {states}, {found}')

    async def check_accusations(self, liar: Optional[Replica]) -> None:
        """Nobody but the liar was outvoted since the last time."""
        for child in await child_stats(self.qmp):
            name = child['child']
            known = self.mismatches.get(name, 0)
            if child['mismatches'] > known and \
               (liar is None or name != liar.child):
                raise Failed(f'{name} was outvoted {child["mismatches"]} '
                             f'times, not {known}, although it was right')
            self.mismatches[name] = child['mismatches']

    async def live(self, operations: int = 100) -> None:
        """The load must go on."""
        end = time.monotonic() + PATIENCE
        until = self.guest.load + operations
        while self.guest.load < until:
            if time.monotonic() > end:
                raise Failed('the load does not go on')
            await asyncio.sleep(0.05)

    # --- what can befall one replica; the answer is what heals it ---

    async def take_out(self, replica: Replica) -> None:
        """Take a child out."""
        await self.qmp.execute('x-blockdev-change', {
            'parent': 'quorum', 'child': replica.child})
        await self.qmp.execute('blockdev-del', {'node-name': replica.node})

    async def add_node(self, replica: Replica) -> None:
        """Connect to its server."""
        await self.qmp.execute('blockdev-add', self.node_options(replica))

    async def put_in(self, replica: Replica) -> None:
        """Put it in again; it lacks what it has missed."""
        await self.qmp.execute('x-blockdev-change', {
            'parent': 'quorum', 'child': replica.child, 'node': replica.node,
            'in-sync': False})

    async def dies(self, replica: Replica) -> str:
        """Its server is killed, and comes back."""
        replica.kill()
        await self.pause(2)
        await replica.start()
        return 'stale'

    async def keeps_dying(self, replica: Replica) -> str:
        """It comes back before the guest's next flush could fail."""
        for _ in range(10):
            replica.kill()
            await replica.start()
            await self.pause(0.3)
        return 'stale'

    async def hangs(self, replica: Replica) -> str:
        """Its server does not answer, and goes on or is killed."""
        replica.signal(signal.SIGSTOP)
        await self.pause(2)
        if self.rand.random() < 0.5:
            replica.signal(signal.SIGCONT)
        else:
            replica.kill()
            await self.pause(1)
            await replica.start()
        return 'stale'

    async def rots(self, replica: Replica) -> str:
        """Bits are flipped on its disk."""
        for _ in range(3):
            replica.rot(self.rand)
            await self.pause(1)
        return 'full'

    async def dies_and_rots(self, replica: Replica) -> str:
        """What comes back is not what has gone."""
        replica.kill()
        await self.pause(1)
        replica.rot(self.rand)
        await replica.start()
        return 'full'

    async def is_exchanged(self, replica: Replica) -> str:
        """It is taken out, and put in again: old, or with a new disk."""
        await self.take_out(replica)
        replica.kill()
        await self.pause(1)
        if self.rand.random() < 0.5:
            replica.make_blank()
        await replica.start()
        await self.add_node(replica)
        await self.put_in(replica)
        if self.rand.random() < 0.5:
            # It dies while it is being filled.
            await self.qmp.execute('quorum-scrub', {
                'job-id': 'scrub', 'node': 'quorum', 'sync': 'stale'})
            await self.pause(0.2)
            replica.kill()
            found = await asyncio.wait_for(self.scrubbed.get(), PATIENCE)
            self.log(f'a fill was interrupted: {found}')
            await replica.start()
        return 'stale'

    async def misfortune(self, what: Callable[[Replica], Awaitable[str]]
                         ) -> None:
        """One of them, for one replica."""
        replica = self.rand.choice(self.replicas)
        self.count(f'{replica.node} {what.__name__}'.replace('_', ' '))
        sync = await what(replica)
        await self.heal(sync)
        await self.check_accusations(replica if sync == 'full' else None)
        await self.live()

    # --- QEMU is killed ---

    async def crash(self, how: str) -> Optional[Replica]:
        """Kill QEMU; return the replica that is behind, if any is."""
        replica = self.rand.choice(self.replicas)
        self.count(f'QEMU is killed, {how}')
        behind = None
        if how == 'one hangs':
            replica.signal(signal.SIGSTOP)
        elif how == 'one is stale':
            behind = replica
            replica.kill()
            for _ in range(10 * PATIENCE):
                if (await self.states())[replica.number] == 'stale':
                    break
                await asyncio.sleep(0.1)
            else:
                raise Failed(f'{replica.node} is dead, but not stale')
        elif how == 'one is rebuilding':
            behind = replica
            await self.take_out(replica)
            replica.make_blank()
            await self.add_node(replica)
            await self.put_in(replica)
        await self.pause(2)
        if self.rand.random() < 0.5:
            # What another one has not got yet is lost on it.
            late = self.rand.choice([child for child in self.replicas
                                     if child is not replica])
            self.log(f'{late.node} is late')
            late.signal(signal.SIGSTOP)
            await self.pause(0.5)
        self.ending = True
        self.vm.kill()
        self.vm.wait()
        await self.stop_listening()
        for other in self.replicas:
            other.kill()
            await other.start()
        return behind

    async def rise(self, behind: Optional[Replica]) -> None:
        """
        Start again as the manual says: without the replica that is behind,
        which is to be filled.
        """
        safe = self.guest.safe
        well = [None if child is behind else child for child in self.replicas]
        await self.start(well)
        self.may_fail = True
        found = await self.scrub(**{'on-error': 'ignore'})
        self.log(f'after the crash: {found}')
        if found['unrepairable-bytes']:
            # Two that differ in what was not acknowledged: choose one.
            self.count('no winner after that')
            await asyncio.sleep(1.1)    # for events that were held back
            chosen = self.rand.choice([child for child in well if child])
            await self.reopen([child if child is chosen else None
                               for child in well], 1)
            for child in well:
                if child and child is not chosen:
                    await self.put_in(child)
        self.may_fail = False
        if behind:
            await self.add_node(behind)
            await self.put_in(behind)
        await self.boot()
        for key, generation in safe.items():
            await self.guest.ask('must', *key, generation)
        await self.guest.ask('check', f'load{self.folder}', SEED)
        await self.heal('stale')
        await self.reopen(self.replicas, THRESHOLD)
        self.mismatches = {child['child']: child['mismatches']
                           for child in await child_stats(self.qmp)}
        await self.guest.ask('remove', f'load{self.folder}')

    async def reopen(self, children: Sequence[Optional[Replica]],
                     threshold: int) -> None:
        """Change the quorum."""
        await self.qmp.execute('blockdev-reopen', {
            'options': [self.quorum_options(children, threshold)]})

    # --- all of it ---

    async def begin_load(self) -> None:
        """In a folder of its own."""
        self.folder += 1
        self.guest.safe = {}
        await self.guest.ask('load', f'load{self.folder}', SEED, WORKERS)
        await self.live()

    async def begin(self) -> None:
        """Three replicas, and a guest that works on them."""
        block_size = self.rand.choice((1024, 4096))
        make_ext4(self.replicas[0].image, DISK_MIB, '-b', str(block_size))
        for replica in self.replicas:
            if replica.number > 0:
                subprocess.run(['cp', '--sparse=always',
                                self.replicas[0].image, replica.image],
                               check=True)
            await replica.start()
        self.log(f'{self.options}, blocks of {block_size}')
        await self.start(self.replicas)
        await self.boot()
        await self.begin_load()

    async def end(self) -> None:
        """All is verified, in the guest and without it."""
        guest = self.guest
        await guest.ask('stop')
        await guest.ask('umount')
        await guest.ask('mount')
        for key, generation in guest.safe.items():
            await guest.ask('must', *key, generation)
        await guest.ask('check', f'load{self.folder}', SEED)
        await guest.ask('umount')
        found = await self.scrub()
        if 'error' in found or found['mismatched-bytes'] or \
           found['missing-bytes']:
            raise Failed(f'the last scrub has found something: {found}')
        await self.check_accusations(None)
        self.ending = True
        await guest.ask('off')
        self.vm.wait(timeout=PATIENCE)
        await self.stop_listening()
        for replica in self.replicas:
            replica.kill()
            if not filecmp.cmp(self.replicas[0].image, replica.image,
                               shallow=False):
                raise Failed(f'{replica.node} is not like copy0')
            fsck = subprocess.run(['e2fsck', '-fn', replica.image], text=True,
                                  stdout=subprocess.PIPE, check=False,
                                  stderr=subprocess.STDOUT, env=TOOLS)
            if fsck.returncode != 0:
                raise Failed(f'{replica.node} is not clean: {fsck.stdout}')

    async def faults(self) -> None:
        """Replicas die and return."""
        await self.begin()
        deadline = time.monotonic() + SECONDS
        for i, what in enumerate(self.misfortunes):
            if i >= len(self.kinds) and time.monotonic() > deadline:
                break
            await self.misfortune(what)
        await self.end()

    async def crashes(self) -> None:
        """So does QEMU."""
        await self.begin()
        deadline = time.monotonic() + SECONDS
        kinds = ('all well', 'one hangs', 'one is stale', 'one is rebuilding')
        for i, how in enumerate(rounds(self.rand, kinds)):
            if i >= len(kinds):
                if time.monotonic() > deadline:
                    break
                await self.misfortune(next(self.misfortunes))
            await self.rise(await self.crash(how))
            await self.begin_load()
        await self.end()

    async def run(self, name: str) -> None:
        """See to it that what is heard is not ignored."""
        self.teller = asyncio.current_task()
        try:
            await asyncio.wait_for(getattr(self, name)(),
                                   SECONDS + 5 * PATIENCE)
        except asyncio.TimeoutError:
            raise Failed('something hangs') from None
        except asyncio.CancelledError:
            if self.failure:
                raise self.failure from None
            raise
        finally:
            self.teller = None
            await self.stop_listening()


TESTS = {'faults': 'a guest under load while replicas die and return',
         'crashes': 'the same while QEMU is killed, too'}


def run_test(number: int, name: str) -> bool:
    """Run a test, and tell in TAP."""
    kept = f'{GUEST}/failed'
    begin = time.monotonic()
    try:
        with work_folder(kept) as work, Processes() as processes:
            story = Story(name, work, processes)
            asyncio.run(story.run(name))
    except (Failed, QMPError, EOFError, OSError, LookupError, ValueError,
            AssertionError, subprocess.SubprocessError,
            asyncio.TimeoutError) as error:
        print(f'not ok {number} {name}: {TESTS[name]}')
        for line in f'{type(error).__name__}: {error}'.splitlines():
            print(f'# {line}')
        print(f'# see {kept}; to replay: QUORUM_TEST_SEED={SEED} '
              f'QUORUM_TEST_SECONDS={SECONDS:g}', flush=True)
        return False
    print(f'ok {number} {name}: {TESTS[name]}')
    print(f'# {time.monotonic() - begin:.0f} s: ' + ', '.join(
        f'{what} ({count})' if count > 1 else what
        for what, count in story.counts.items()), flush=True)
    return True


def main() -> int:
    """Run the tests that were asked for."""
    names = sys.argv[4:] or list(TESTS)
    for name in names:
        if name not in TESTS:
            print(f'no such test: {name}; there are: {" ".join(TESTS)}',
                  file=sys.stderr)
            return 2
    print(f'# QUORUM_TEST_SEED={SEED}')
    print(f'1..{len(names)}', flush=True)
    try:
        results = [run_test(i, name) for i, name in enumerate(names, 1)]
    except KeyboardInterrupt:
        print('Bail out! interrupted')
        return 130
    return 0 if all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
