#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A Linux guest works on an ext4 file system, on a quorum of three NBD servers,
and knows what it has written.  Meanwhile servers are killed, hang, rot, are
taken out and put in again, never more than one of them at a time; in the
second test QEMU is killed, too, and in the third one servers hang until QEMU
does without them.  In the fourth one they have caches, and one at a time loses
what it was not told to flush.  In the fifth one there are state nodes, and
QEMU is killed, or the power fails, while a replica is behind or is not; the
guest starts at once again.  In the sixth one, and at the begin of the first,
digests of all that is on the disk are known (read-pattern=checked), and two
replicas rot at the same places.  The guest may see neither a wrong byte nor an
error, and in the end the replicas are identical, and clean.  Only when two
servers have lost the same, at the end of the fourth test, it has to see an
error, and nothing that is older than what it has synced.

usage: guest_test.py BIN GUEST [TEST...]

QEMU's python/ and tests/qemu-iotests/ must be in the PYTHONPATH.
"""

import collections
import contextlib
import errno
import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Iterator, Optional, Sequence

from qemu.qmp import QMPError
from quorum.faults import flip_bits, rot
from quorum.oracle import BLOCK
from quorum.losing import losing_command
from quorum.qmp import Failed
from quorum.replay import SECONDS, SEED, trace
from quorum.servers import Server

from host import Machine, work_folder
from image import TOOLS, make_ext4

BIN, GUEST = sys.argv[1:3]

REPLICAS = 3
THRESHOLD = 2
DISK_MIB = 64
STATE_MIB = 16
WORKERS = 4
PATIENCE = 120      # seconds for any one thing that the guest is to do
CHILD_TIMEOUT = 2000    # milliseconds that a server may hang in the third test
# What a program in the guest is told of a disk that has failed
DISK_ERRORS = tuple(os.strerror(number) for number in (errno.EIO, errno.EROFS))


def rounds(rand: random.Random, kinds: Sequence[Any]) -> Iterator[Any]:
    """All kinds of things once, and then again in another order."""
    while True:
        yield from rand.sample(kinds, len(kinds))


class Log:
    """What happens: of interest if the test fails, or by its number."""

    def __init__(self, work: str) -> None:
        self.path = f'{work}/scenario.log'
        self.counts: collections.Counter[str] = collections.Counter()

    def write(self, text: str) -> None:
        """Something has happened."""
        with open(self.path, 'a', encoding='utf-8') as file:
            print(f'{time.monotonic():.3f} {text}', file=file)
        trace(text)

    def count(self, what: str) -> None:
        """Something happens that is told even if the test does not fail."""
        self.write(f'-- {what}')
        self.counts[what] += 1


class Replica(Server):
    """A copy of the disk, and the server in front of it"""

    def __init__(self, number: int, work: str) -> None:
        self.number = number
        self.child = f'children.{number}'
        self.name = f'copy{number}'
        super().__init__(f'{BIN}/qemu-nbd', f'{work}/{self.name}.img',
                         f'{work}/{self.name}.sock',
                         options=['--discard=unmap'],
                         log=f'{work}/{self.name}.log')

    def rot(self, rand: random.Random) -> None:
        """Flip bits here and there, in what is used more often than not."""
        size = os.path.getsize(self.image)
        places = [rand.randrange(rand.choice((2**20, size)))
                  for _ in range(rand.randrange(1, 200))]
        flip_bits(self.image, places, rand)

    def make_blank(self) -> None:
        """The replica gets a new disk."""
        size = os.path.getsize(self.image)
        with open(self.image, 'r+b') as file:
            file.truncate(0)
            file.truncate(size)


class LosingReplica(Replica):
    """Its server has a cache, and loses it when it is killed."""

    def __init__(self, number: int, work: str) -> None:
        super().__init__(number, work)
        self.command = losing_command(self.image, self.pid_file, self.address)

    def stop_flushing(self) -> None:
        """What comes from now on is in the cache, and flushes wait."""
        self.signal(signal.SIGUSR1)

    def end(self) -> None:
        """The server is told to end, and loses nothing; see wait_end()."""
        self.signal(signal.SIGTERM)

    def wait_end(self) -> None:
        """It has."""
        assert self.process
        self.process.wait(timeout=PATIENCE)


class RememberedReplica(LosingReplica):
    """The same, and beside it is its state node, behind such a server, too."""

    def __init__(self, number: int, work: str) -> None:
        super().__init__(number, work)
        image = f'{work}/state{number}.img'
        self.state = Server('', image, f'{work}/state{number}.sock',
                            log=f'{work}/state{number}.log')
        self.state.command = losing_command(image, self.state.pid_file,
                                            self.state.address)
        self.make_blank_state()

    def start(self) -> None:
        super().start()
        self.state.start()

    def kill(self) -> None:
        super().kill()
        self.state.kill()

    def signal(self, number: int) -> None:
        super().signal(number)
        self.state.signal(number)

    def make_blank(self) -> None:
        """Servers that hold what was there are gone."""
        super().make_blank()
        self.make_blank_state()

    def make_blank_state(self) -> None:
        """As at the beginning"""
        with open(self.state.image, 'wb') as file:
            file.truncate(STATE_MIB << 20)


class LoadedMachine(Machine):
    """
    A machine whose guest bears the load.  An event that says that a request
    of the guest has failed is an error, unless self.may_fail.  Then the guest
    may say so, too: in self.errors is what it has said.
    """

    def __init__(self, log: Log, work: str, processes: contextlib.ExitStack,
                 *options: str) -> None:
        super().__init__(BIN, GUEST, work, processes, *options)
        self.log = log
        self.may_fail = False
        self.errors: list[str] = []
        self.was_told = False       # does the file system know of an error?
        self.load = 0               # operations of the load, so far
        self.done: list[str] = []   # what the guest has said to be done
        # (kept or block, worker, which one): its generation
        self.safe: dict[tuple[str, str, str], str] = {}

    def heard(self, words: list[str]) -> None:
        self.log.write(f'guest: {" ".join(words)}')
        if words[0] in ('kept', 'block') and len(words) == 4:
            self.safe[words[0], words[1], words[2]] = words[3]
        elif words[0] == 'load':
            self.load = int(words[1])
        elif words[0] == 'done':
            self.done.append(words[1])
        elif words[0] == 'complaint':
            self.complained(' '.join(words[1:]))

    def failed(self, what: str) -> None:
        # What is not synced may be anything after the first error.
        if self.errors or self.may_fail and what.endswith(DISK_ERRORS):
            self.log.write(f'guest: failed {what}')
            self.errors.append(what)
        else:
            super().failed(what)

    def complained(self, what: str) -> None:
        """The guest's kernel is not content with the disk."""
        if not self.may_fail and not (
                self.was_told and 'mounting fs with errors' in what):
            raise Failed(f'the kernel says: {what}')

    def happened(self, event: dict) -> None:
        kind = event['event']
        if not kind.startswith(('QUORUM', 'BLOCK')):
            return
        text = f'{kind} {json.dumps(event["data"])}'
        self.log.write(f'event: {text}')
        if kind in ('QUORUM_FAILURE', 'BLOCK_IO_ERROR') and not self.may_fail:
            raise Failed(text)

    def scrub(self, **options: Any) -> dict[str, Any]:
        found = super().scrub(**options)
        self.log.write(f'scrub {options}: {found}')
        return found

    def wait_done(self, what: str) -> None:
        """Wait until the guest has done something."""
        self.wait(lambda: bool(self.done), PATIENCE, f'the guest: {what}')
        assert self.done.pop(0) == what

    def ask(self, command: str, *args: object) -> None:
        """Let the guest do something, and wait until it has."""
        self.tell(' '.join((command, *map(str, args))))
        self.wait_done(command)

    def boot(self, *commands: str) -> None:
        """Let the guest run, do these commands, and mount its disk."""
        self.cmd('cont')
        self.wait_done('boot')
        for command in *commands, 'mount':
            self.ask(command)

    def live(self, operations: int = 100) -> None:
        """The load must go on."""
        until = self.load + operations
        self.wait(lambda: self.load >= until, PATIENCE,
                  f'{operations} operations of the load')


class System:
    """
    Three replicas, and a machine on a quorum of them; what management does
    with these.
    """
    machine: LoadedMachine

    def __init__(self, log: Log, rand: random.Random, work: str,
                 processes: contextlib.ExitStack, repairs: bool,
                 kind: type[Replica], reconnect_delays: Sequence[int],
                 patterns: Sequence[str]) -> None:
        self.log = log
        self.rand = rand
        self.work = work
        self.processes = processes
        self.reconnect_delays = reconnect_delays
        self.replicas = [kind(i, work) for i in range(REPLICAS)]
        self.block_sizes: Sequence[int] = (1024, 4096)
        self.remembers = kind is RememberedReplica
        for replica in self.replicas:
            processes.callback(replica.kill)
        self.options = {
            'rewrite-corrupted': repairs,
            'read-pattern': rand.choice(patterns)}

    def node_options(self, replica: Replica) -> dict:
        """A child"""
        return replica.node(replica.name, discard='unmap',
                            reconnect_delay=self.rand.choice(
                                self.reconnect_delays))

    def nodes_of(self, replica: Replica) -> list[dict]:
        """A child, and its state node"""
        nodes = [self.node_options(replica)]
        if isinstance(replica, RememberedReplica):
            nodes.append(replica.state.node(f'state{replica.number}'))
        return nodes

    def quorum_options(self, children: Sequence[Optional[Replica]],
                       threshold: int = THRESHOLD) -> dict:
        """The quorum; None is a place that is vacant."""
        options = {'driver': 'quorum', 'node-name': 'quorum',
                   'vote-threshold': threshold, 'discard': 'unmap',
                   'children': [child.name if child else None
                                for child in children], **self.options}
        if self.remembers:
            options['state'] = [f'state{child.number}' if child else None
                                for child in children]
            options['state-init'] = not hasattr(self, 'machine')
        return options

    def make_replicas(self) -> None:
        """All of them hold the same file system, and are served."""
        block_size = self.rand.choice(self.block_sizes)
        self.log.write(f'{self.options}, blocks of {block_size}')
        first = self.replicas[0].image
        make_ext4(first, DISK_MIB, '-b', str(block_size))
        for replica in self.replicas:
            if replica.image != first:
                subprocess.run(['cp', '--sparse=always', first, replica.image],
                               check=True)
            replica.start()

    def start(self, children: Sequence[Optional[Replica]]) -> None:
        """Start QEMU; the guest does not run yet."""
        args = ['-S']
        for child in children:
            for options in self.nodes_of(child) if child else ():
                args += ['-blockdev', json.dumps(options)]
        args += ['-blockdev', json.dumps(self.quorum_options(children)),
                 '-device', 'virtio-blk-pci,drive=quorum']
        self.machine = LoadedMachine(self.log, self.work, self.processes,
                                     *args)

    def pause(self, most: float) -> None:
        """Let the guest go on for some time."""
        self.machine.pause(self.rand.uniform(0.05, most))

    def take_out(self, replica: Replica) -> None:
        """Take a child out."""
        self.machine.change(child=replica.child)
        for options in self.nodes_of(replica):
            self.machine.cmd('blockdev-del', {
                'node-name': options['node-name']})

    def add_node(self, replica: Replica) -> None:
        """Connect to its server."""
        for options in self.nodes_of(replica):
            self.machine.cmd('blockdev-add', options)

    def put_in(self, replica: Replica) -> None:
        """Put a child in again; it lacks what it has missed."""
        self.machine.change(child=replica.child, node=replica.name,
                            in_sync=False)
        if self.remembers:
            self.machine.change(child=f'state.{replica.number}',
                                node=f'state{replica.number}')

    def reopen(self, children: Sequence[Optional[Replica]], threshold: int
               ) -> None:
        """Change the quorum."""
        self.machine.cmd('blockdev-reopen', {
            'options': [self.quorum_options(children, threshold)]})

    def some_replica(self, but: Optional[Replica] = None) -> Replica:
        """One of them"""
        return self.rand.choice([replica for replica in self.replicas
                                 if replica is not but])


class Faults:
    """
    What can befall one replica.  Each function returns how much a scrub has to
    look at to repair that.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.rand = system.rand
        self.kinds = (self.die, self.keep_dying, self.hang, self.rot,
                      self.die_and_rot, self.replace)

    def die(self, replica: Replica) -> str:
        """Its server is killed, and comes back."""
        replica.kill()
        self.system.pause(2)
        replica.start()
        return 'stale'

    def keep_dying(self, replica: Replica) -> str:
        """It comes back before the guest's next flush could fail."""
        for _ in range(10):
            replica.kill()
            replica.start()
            self.system.pause(0.3)
        return 'stale'

    def hang(self, replica: Replica) -> str:
        """Its server does not answer, and goes on or is killed."""
        replica.signal(signal.SIGSTOP)
        self.system.pause(2)
        if self.rand.random() < 0.5:
            replica.signal(signal.SIGCONT)
        else:
            replica.kill()
            self.system.pause(1)
            replica.start()
        return 'stale'

    def rot(self, replica: Replica) -> str:
        """Bits are flipped on its disk."""
        for _ in range(3):
            replica.rot(self.rand)
            self.system.pause(1)
        return 'full'

    def die_and_rot(self, replica: Replica) -> str:
        """What comes back is not what has gone."""
        replica.kill()
        self.system.pause(1)
        replica.rot(self.rand)
        replica.start()
        return 'full'

    def replace(self, replica: Replica) -> str:
        """It is taken out, and put in again: old, or with a new disk."""
        self.system.take_out(replica)
        replica.kill()
        self.system.pause(1)
        if self.rand.random() < 0.5:
            replica.make_blank()
        replica.start()
        self.system.add_node(replica)
        self.system.put_in(replica)
        if self.rand.random() < 0.5:
            # It dies while it is being filled.
            self.system.machine.start_scrub(sync='stale')
            self.system.pause(0.2)
            replica.kill()
            found = self.system.machine.end_scrub()
            self.system.log.write(f'a fill was interrupted: {found}')
            replica.start()
        return 'stale'


class Hangs:
    """How a server can hang until QEMU does without it, and what comes then"""

    def __init__(self, system: System) -> None:
        self.system = system
        self.rand = system.rand
        self.kinds = (self.hang, self.hang_and_die, self.hang_for_long,
                      self.die)

    def hang_until_dropped(self, replica: Replica) -> None:
        """The guest and management go on without it."""
        machine = self.system.machine
        replica.signal(signal.SIGSTOP)
        machine.wait(lambda: machine.states()[replica.number] == 'lagging',
                     PATIENCE, f'{replica.name} hangs, and is given up')
        machine.live()
        begin = time.monotonic()
        machine.cmd('stop')
        machine.cmd('cont')
        seconds = time.monotonic() - begin
        if seconds > CHILD_TIMEOUT / 1000 + 1:
            raise Failed(f'to stop and go on took {seconds:.1f} s')

    def hang(self, replica: Replica) -> None:
        """It answers again."""
        self.hang_until_dropped(replica)
        replica.signal(signal.SIGCONT)

    def hang_for_long(self, replica: Replica) -> None:
        """The same, after some probes"""
        self.hang_until_dropped(replica)
        self.system.pause(5)
        self.system.machine.live()
        replica.signal(signal.SIGCONT)

    def hang_and_die(self, replica: Replica) -> None:
        """It is killed while it hangs, and comes back."""
        self.hang_until_dropped(replica)
        replica.kill()
        self.system.pause(1)
        replica.start()

    def die(self, replica: Replica) -> None:
        """It is killed, and comes back."""
        replica.kill()
        self.system.pause(2)
        replica.start()


class Losses:
    """
    How servers can be restarted so that enough of them have all that they have
    acknowledged.  Each function gets two, and returns the one that may have
    lost something.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.rand = system.rand
        self.kinds = (self.keep_losing, self.lose_and_stay_away,
                      self.two_keep)

    def lose(self, replica: LosingReplica, _other: LosingReplica) -> Replica:
        """A server loses its cache, and is back at once."""
        if self.rand.random() < 0.5:
            replica.stop_flushing()
            self.system.pause(0.2)
        replica.kill()
        replica.start()
        return replica

    def keep_losing(self, replica: LosingReplica, other: LosingReplica
                    ) -> Replica:
        """It does so before what it lacks can be repaired."""
        for _ in range(2):
            self.lose(replica, other)
            self.system.machine.live(20)
        return replica

    def lose_and_stay_away(self, replica: LosingReplica,
                           _other: LosingReplica) -> Replica:
        """The guest waits for the server, which has lost its cache."""
        replica.kill()
        self.system.pause(1)
        replica.start()
        return replica

    def two_keep(self, *replicas: LosingReplica) -> None:
        """Two are away together, and have lost nothing."""
        for _ in range(2):
            for replica in replicas:
                replica.end()
            for replica in replicas:
                replica.wait_end()
                replica.start()
            self.system.machine.live(20)

    def two_lose(self, *replicas: LosingReplica) -> None:
        """Now only the third one has what was lost."""
        for replica in replicas:
            replica.stop_flushing()
        self.system.pause(0.5)
        for replica in replicas:
            replica.kill()
        for replica in replicas:
            replica.start()


class DoubleRots:
    """
    How all replicas but one can get wrong at the same places, where no vote
    could help.  The digests are known.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.rand = system.rand
        self.kinds = (self.two_rot, self.any_two_rot, self.one_rots_beside_dead)

    def some_blocks(self, count: int) -> list[int]:
        """In what is used more often than not"""
        blocks = DISK_MIB * 2**20 // BLOCK
        return self.rand.sample(range(blocks // 4), count) + \
            self.rand.sample(range(blocks // 4, blocks), count)

    def rot(self, blocks: Sequence[int], *replicas: Replica) -> None:
        """All alike, so that they would win a vote, or each in its way."""
        alike = self.rand.random() < 0.5
        self.system.log.write(
            f'{[replica.name for replica in replicas]} rot '
            f'{"alike" if alike else "differently"}: {blocks}')
        seed = self.rand.random()
        for replica in replicas:
            rot(replica.image, blocks,
                random.Random(seed) if alike else self.rand)

    def two_rot(self, *replicas: Replica) -> Sequence[Replica]:
        """Two of them, again and again."""
        for _ in range(3):
            self.rot(self.some_blocks(50), *replicas[:2])
            self.system.pause(0.7)
        return replicas[:2]

    def any_two_rot(self, *replicas: Replica) -> Sequence[Replica]:
        """At each place, another one is well."""
        blocks = self.some_blocks(150)
        for part in range(3):
            for well in replicas:
                self.rot(blocks[part::3][well.number::3],
                         *(other for other in replicas if other is not well))
            self.system.pause(0.7)
        return replicas

    def one_rots_beside_dead(self, *replicas: Replica) -> Sequence[Replica]:
        """What the dead one misses, only one has."""
        dead, rotten = replicas[:2]
        dead.kill()
        self.system.machine.live(20)
        self.rot(self.some_blocks(100), rotten)
        self.system.pause(0.7)
        dead.start()
        return (rotten,)


class Crashes:
    """How QEMU can be killed, and started again"""
    kinds = ('all well', 'one hangs', 'one is stale', 'one is rebuilding')
    kinds_at_once = ('all well', 'all well', 'one is stale',
                     'one is rebuilding')

    def __init__(self, system: System) -> None:
        self.system = system
        self.rand = system.rand

    def crash(self, kind: str) -> Optional[Replica]:
        """Kill QEMU; return the replica that is behind, if any is."""
        replica = self.system.some_replica()
        behind = None
        if kind == 'one hangs':
            replica.signal(signal.SIGSTOP)
        elif kind == 'one is stale':
            behind = replica
            replica.kill()
            machine = self.system.machine
            machine.wait(lambda: machine.states()[replica.number] == 'stale',
                         PATIENCE, f'{replica.name} is dead, and gets stale')
        elif kind == 'one is rebuilding':
            behind = replica
            self.system.take_out(replica)
            replica.make_blank()
            self.system.add_node(replica)
            self.system.put_in(replica)
        self.system.pause(2)
        if self.rand.random() < 0.5:
            # What another one has not got yet is lost on it.
            late = self.system.some_replica(but=replica)
            self.system.log.write(f'{late.name} is late')
            late.signal(signal.SIGSTOP)
            self.system.pause(0.5)
        self.system.machine.kill()
        for other in self.system.replicas:
            other.kill()
            other.start()
        return behind

    def crash_at_once(self, kind: str) -> None:
        """
        The same, at any moment; or the power fails, everywhere: servers lose
        what they were not told to flush, one of them before QEMU ends.
        """
        system = self.system
        replica = system.some_replica()
        if kind == 'one is stale':
            replica.kill()
            system.machine.wait(
                lambda: system.machine.states()[replica.number] == 'stale',
                PATIENCE, f'{replica.name} is dead, and gets stale')
        elif kind == 'one is rebuilding':
            system.take_out(replica)
            replica.kill()
            replica.make_blank()
            replica.start()
            system.add_node(replica)
            system.put_in(replica)
            system.machine.start_scrub(sync='stale', speed=4 << 20)
        system.pause(2)
        power = self.rand.random() < 0.6
        system.log.count('the power fails' if power else 'QEMU is killed')
        if power and self.rand.random() < 0.5:
            replica.kill()
        system.machine.kill()
        for other in system.replicas:
            if power:
                other.kill()
            if not other.process:
                other.start()

    def recover(self, behind: Optional[Replica]) -> None:
        """
        Start again as the manual says: without the replica that is behind,
        which is to be filled.
        """
        well = [None if child is behind else child
                for child in self.system.replicas]
        self.system.start(well)
        machine = self.system.machine
        machine.may_fail = True
        found = machine.scrub(on_error='ignore')
        if found['unrepairable-bytes']:
            # Two that differ in what was not acknowledged: choose one.
            self.system.log.count('no winner after that')
            machine.pause(1.1)      # for events that were held back
            chosen = self.rand.choice([child for child in well if child])
            self.system.reopen([child if child is chosen else None
                                for child in well], 1)
            for child in well:
                if child and child is not chosen:
                    self.system.put_in(child)
        machine.poll()
        machine.may_fail = False
        if behind:
            self.system.add_node(behind)
            self.system.put_in(behind)
        machine.boot()


class Checks:
    """What must be true"""

    def __init__(self, system: System) -> None:
        self.system = system
        self.mismatches: dict[str, int] = {}    # of each child, so far

    def repair(self, sync: str) -> None:
        """The quorum can be repaired by looking at that much of it."""
        machine = self.system.machine
        machine.repair_all(sync=sync)
        states = machine.states()
        if states != ['ok'] * REPLICAS:
            raise Failed(f'not repaired: {states}')

    def mismatches_since(self, *liars: Replica) -> None:
        """No child but the liars was outvoted since the last time."""
        for child in self.system.machine.stats():
            name = child['child']
            known = self.mismatches.get(name, 0)
            if child['mismatches'] > known and \
               name not in [liar.child for liar in liars]:
                raise Failed(f'{name} was outvoted {child["mismatches"]} '
                             f'times, not {known}, although it was right')
            self.mismatches[name] = child['mismatches']

    def forget_mismatches(self) -> None:
        """Those that there are so far are no child's fault."""
        self.mismatches = {child['child']: child['mismatches']
                           for child in self.system.machine.stats()}

    def all_is_known(self) -> None:
        """There is a digest of each block."""
        found = self.system.machine.scrub(repair=False)
        if found['digest-bytes'] != DISK_MIB * 2**20:
            raise Failed(f'not all is known: {found}')

    def files(self, folder: str, safe: dict[tuple[str, str, str], str]
              ) -> None:
        """What was safe is there, and nothing else than what may be."""
        for key, generation in safe.items():
            self.system.machine.ask('must', *key, generation)
        self.system.machine.ask('check', folder, SEED)

    def last_scrub(self) -> None:
        """There is nothing to repair."""
        found = self.system.machine.scrub()
        if 'error' in found or found['mismatched-bytes'] or \
           found['missing-bytes']:
            raise Failed(f'the last scrub has found something: {found}')
        self.mismatches_since()

    def images(self) -> None:
        """All is over, and the replicas are identical and clean."""
        first = self.system.replicas[0]
        for replica in self.system.replicas:
            replica.kill()
            if not filecmp.cmp(first.image, replica.image, shallow=False):
                raise Failed(f'{replica.name} is not like {first.name}')
        for replica in self.system.replicas:
            if self.system.machine.was_told:
                # A mount forgets orphans then, which are in use for ever.
                self.fsck(replica, '-fp', 1)
            self.fsck(replica, '-fn', 0)

    @staticmethod
    def fsck(replica: Replica, options: str, worst: int) -> None:
        """Run e2fsck on an image; 1 says that all could be corrected."""
        fsck = subprocess.run(['e2fsck', options, replica.image], text=True,
                              stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT, env=TOOLS)
        if fsck.returncode > worst:
            raise Failed(f'{replica.name} is not clean: {fsck.stdout}')


class Scenario:
    """A test: what happens, and what is checked then"""

    def __init__(self, name: str, work: str, processes: contextlib.ExitStack
                 ) -> None:
        self.log = Log(work)
        self.rand = random.Random(f'{SEED} {name}')
        repairs = name == 'faults' or self.rand.random() < 0.5
        kind: type[Replica] = Replica
        reconnect_delays = [0, 0, 0, 2]
        patterns = ['quorum', 'threshold', 'checked']
        if name == 'losses':
            kind = LosingReplica
            # With digests, what two have lost need not be lost.
            patterns.remove('checked')
            # Requests wait for a server, for two are away together.
            reconnect_delays = [20]
        elif name == 'state':
            kind = RememberedReplica
        self.system = System(self.log, self.rand, work, processes, repairs,
                             kind, reconnect_delays, patterns)
        if name == 'hangs':
            self.system.options['child-timeout'] = CHILD_TIMEOUT
        self.faults = Faults(self.system)
        self.hangs = Hangs(self.system)
        self.losses = Losses(self.system)
        self.double_rots = DoubleRots(self.system)
        self.crashes = Crashes(self.system)
        self.checks = Checks(self.system)
        self.loads = 0

    @property
    def folder(self) -> str:
        """In which the load works"""
        return f'load{self.loads}'

    def begin(self, *commands: str) -> None:
        """Three replicas, and a guest that works on them"""
        self.system.make_replicas()
        self.system.start(self.system.replicas)
        self.system.machine.boot(*commands)
        self.begin_load()

    def begin_load(self) -> None:
        """In a folder of its own"""
        self.loads += 1
        machine = self.system.machine
        machine.safe = {}
        machine.load = 0
        machine.ask('load', self.folder, SEED, WORKERS)
        machine.live()

    def inject_fault(self, fault: Callable[[Replica], str]) -> None:
        """One fault of one replica, which is then repaired."""
        replica = self.system.some_replica()
        self.log.count(f'{replica.name}: {fault.__name__}'.replace('_', ' '))
        sync = fault(replica)
        self.checks.repair(sync)
        self.checks.mismatches_since(*[replica] * (sync == 'full'))
        self.system.machine.live()

    def inject_double_rot(self, kind: Callable[..., Sequence[Replica]]
                          ) -> None:
        """All but one get wrong at the same places, and are repaired."""
        liars = kind(*self.some_replicas(kind))
        machine = self.system.machine
        machine.live()
        self.checks.repair('full')
        self.checks.mismatches_since(*liars)
        machine.live()

    def inject_hang(self, hang: Callable[[Replica], None], replica: Replica
                    ) -> None:
        """A server hangs or dies; when it is back, its replica follows."""
        self.log.count(f'{replica.name}: {hang.__name__}'.replace('_', ' '))
        hang(replica)
        machine = self.system.machine
        machine.wait(lambda: 'lagging' not in machine.states(), PATIENCE,
                     f'{replica.name} is back')
        self.checks.repair('stale')
        self.checks.mismatches_since()
        machine.live()

    def some_replicas(self, what: Callable[..., Any]) -> list[Any]:
        """Those that something befalls, and those that it does not."""
        replicas = self.rand.sample(self.system.replicas, REPLICAS)
        self.log.count(what.__name__.replace('_', ' '))
        self.log.write(f'replicas {[replica.name for replica in replicas]}')
        return replicas

    def inject_loss(self, loss: Callable[..., Optional[Replica]]) -> None:
        """Servers are restarted, and the guest does not notice."""
        loser = loss(*self.some_replicas(loss)[:2])
        self.checks.repair('stale')
        self.checks.mismatches_since(*[loser] if loser else [])
        self.system.machine.live()

    def lose_two(self) -> None:
        """
        Two servers lose their caches.  The guest is told, and sees nothing
        that is older than what it has synced; when the third one has decided
        what they lack, all of that is there.
        """
        machine = self.system.machine
        machine.ask('complaints')
        machine.may_fail = True
        *losers, survivor = self.some_replicas(self.losses.two_lose)
        self.losses.two_lose(*losers)
        machine.wait(lambda: bool(machine.errors), PATIENCE,
                     'the guest is told')
        for command in 'stop', 'complaints':
            machine.ask(command)
        self.log.count(f'the guest is told ({machine.errors[0]})')
        machine.was_told = True
        machine.errors.clear()
        self.checks.files(self.folder, machine.safe)
        self.log.write(f'before the repair: {machine.errors}')
        machine.ask('umount')
        found = machine.scrub(prefer=survivor.child)
        self.log.count(f'{found["preferred-bytes"]} bytes have no winner')
        self.checks.repair('full')
        self.checks.forget_mismatches()
        machine.errors.clear()
        for command in 'mount', 'complaints':
            machine.ask(command)
        machine.pause(1.1)      # for events that were held back
        machine.may_fail = False
        self.checks.files(self.folder, machine.safe)
        machine.ask('remove', self.folder)

    def crash(self, kind: str) -> None:
        """QEMU is killed, and the guest starts again with what is safe."""
        self.log.count(f'QEMU is killed, {kind}')
        behind = self.crashes.crash(kind)
        safe = self.system.machine.safe
        self.crashes.recover(behind)
        self.checks.files(self.folder, safe)
        self.checks.repair('stale')
        self.system.reopen(self.system.replicas, THRESHOLD)
        self.checks.forget_mismatches()
        self.system.machine.ask('remove', self.folder)

    def crash_at_once(self, kind: str) -> None:
        """What was going on is killed, and the guest starts at once."""
        self.log.count(f'crash, {kind}')
        self.crashes.crash_at_once(kind)
        safe = self.system.machine.safe
        self.system.start(self.system.replicas)
        machine = self.system.machine
        machine.boot()
        self.checks.files(self.folder, safe)
        self.checks.repair('stale')
        machine.ask('remove', self.folder)

    def end(self) -> None:
        """All is verified, in the guest and without it."""
        machine = self.system.machine
        for command in 'stop', 'umount', 'mount':
            machine.ask(command)
        self.checks.files(self.folder, machine.safe)
        machine.ask('umount')
        self.checks.last_scrub()
        machine.ending = True
        machine.ask('off')
        machine.wait_end(PATIENCE)
        self.checks.images()

    def enough(self, kinds: Sequence[Any]) -> Iterator[Any]:
        """All kinds of things once, and more of them until time is up."""
        end = time.monotonic() + SECONDS
        for i, kind in enumerate(rounds(self.rand, kinds)):
            if i >= len(kinds) and time.monotonic() > end:
                break
            yield kind

    def among_faults(self, kinds: Sequence[Any]) -> Iterator[Any]:
        """The same; and before each one more, a replica dies and returns."""
        faults = rounds(self.rand, self.faults.kinds)
        for i, kind in enumerate(self.enough(kinds)):
            if i >= len(kinds):
                self.inject_fault(next(faults))
            yield kind

    def begin_known(self) -> None:
        """
        The guest reads all of its disk first, and then it writes whole blocks,
        so that digests of all of it are known; what it discards becomes zeroes.
        """
        self.system.options['read-pattern'] = 'checked'
        self.system.block_sizes = [BLOCK]
        self.begin('read')

    def run_faults(self) -> None:
        """Two replicas rot; and then, in any pattern, one dies and returns."""
        pattern = self.system.options['read-pattern']
        self.begin_known()
        for kind in self.double_rots.kinds:
            self.inject_double_rot(kind)
        self.checks.all_is_known()
        self.system.options['read-pattern'] = pattern
        self.system.reopen(self.system.replicas, THRESHOLD)
        for fault in self.enough(self.faults.kinds):
            self.inject_fault(fault)
        self.end()

    def run_rot(self) -> None:
        """Again and again two replicas rot, and one dies and returns."""
        self.begin_known()
        for kind in self.among_faults(self.double_rots.kinds):
            self.inject_double_rot(kind)
        self.checks.all_is_known()
        self.end()

    def run_crashes(self) -> None:
        """Replicas die and return, and QEMU does, too."""
        self.begin()
        for kind in self.among_faults(self.crashes.kinds):
            self.crash(kind)
            self.begin_load()
        self.end()

    def run_state(self) -> None:
        """All is killed, and goes on where it was."""
        self.begin()
        for kind in self.enough(self.crashes.kinds_at_once):
            self.crash_at_once(kind)
            self.begin_load()
        self.checks.forget_mismatches()
        self.end()

    def run_hangs(self) -> None:
        """Servers hang, one after the other."""
        self.begin()
        replicas = rounds(self.rand, self.system.replicas)
        for hang in self.enough(self.hangs.kinds):
            self.inject_hang(hang, next(replicas))
        self.end()

    def run_losses(self) -> None:
        """Servers lose their caches."""
        self.begin()
        for loss in self.enough(self.losses.kinds):
            self.inject_loss(loss)
        self.lose_two()
        self.begin_load()
        self.inject_loss(self.losses.lose)
        self.end()


TESTS = {'faults': 'a guest under load while replicas die and return',
         'crashes': 'the same while QEMU is killed, too',
         'hangs': 'a guest under load while servers hang',
         'losses': 'a guest under load while servers lose their caches',
         'state': 'the same while QEMU is killed, or the power fails',
         'rot': 'a guest under load while two replicas rot in one place'}


def run_test(number: int, name: str) -> bool:
    """Run a test, and tell in TAP."""
    kept = f'{GUEST}/failed'
    begin = time.monotonic()
    try:
        with work_folder(kept) as work, contextlib.ExitStack() as processes:
            scenario = Scenario(name, work, processes)
            getattr(scenario, f'run_{name}')()
    except (Failed, QMPError, EOFError, OSError, LookupError, ValueError,
            AssertionError, subprocess.SubprocessError) as error:
        print(f'not ok {number} {name}: {TESTS[name]}')
        for line in f'{type(error).__name__}: {error}'.splitlines():
            print(f'# {line}')
        print(f'# see {kept}; to replay: QUORUM_TEST_SEED={SEED} '
              f'QUORUM_TEST_SECONDS={SECONDS:g}', flush=True)
        return False
    print(f'ok {number} {name}: {TESTS[name]}')
    print(f'# {time.monotonic() - begin:.0f} s: ' + ', '.join(
        f'{what} ({count})' if count > 1 else what
        for what, count in scenario.log.counts.items()), flush=True)
    return True


def main() -> int:
    """Run the tests that were asked for."""
    # Without more time, "rot" does nothing that "faults" does not begin with.
    names = sys.argv[3:] or [name for name in TESTS
                             if SECONDS or name != 'rot']
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
