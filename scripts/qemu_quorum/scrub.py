# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The commands scrub and resync"""

import argparse
import re
from shlex import quote
import signal
import time
from typing import Iterator, List, Optional

from .basics import INTERRUPTED, NOT_WELL, WELL, Dictionary, Failure
from .command import POLL_SECONDS, Command
from .monitor import ExecuteError, Monitor
from .quorum import (
    Quorum,
    describe_scrub,
    find_slot,
    resync_line,
    scrub_line,
)
from .text import human_size, table


RESYNC_SECONDS = 3.0        # in which a resync in the background begins


class Scrub(Command):
    """Let the children be compared, and given what they lack"""

    changes = True

    def __init__(self, args: argparse.Namespace, monitor: Monitor) -> None:
        super().__init__(args, monitor)
        self.ranges: List[Dictionary] = []  # that a scrub has told of
        self.wanted = True                  # until a signal comes
        self.said_at_signal = 'interrupted'

    def scrub(self) -> int:
        self._check_scrub_options()
        quorum = self.system.choose(self.args.node)
        if self.args.stop:
            return self._stop(quorum)
        prefer = None
        if self.args.prefer is not None:
            prefer = f'children.{find_slot(quorum, self.args.prefer)}'
        job = self._start_scrub(quorum, not self.args.check,
                                'stale' if self.args.stale else 'full',
                                self.args.speed, self.args.on_error, prefer)
        if not self.args.wait:
            self.say(f"{quorum.name}: the scrub has begun (job '{job}')")
            self.result(**{'node-name': quorum.name, 'job-id': job})
            return WELL
        figures = self._wait_for_scrub(quorum.name, job)
        lines = list(scrub_report(quorum.name, figures, self.ranges))
        if self.args.list:
            lines += range_table(self.ranges, figures['ranges-omitted'])
            figures['ranges'] = self.ranges
        for line in lines:
            self.say(line)
        self.result(**figures)
        return scrub_status(figures)

    def _check_scrub_options(self) -> None:
        args = self.args
        if args.stop and (args.check or args.stale or args.list or
                          args.prefer is not None or not args.wait):
            raise Failure('--stop ends a scrub: what a scrub should do does '
                          'not go with it')
        if args.prefer is not None and args.check:
            raise Failure('--prefer has the scrub write, and --check has it '
                          'write nothing: leave one of them out')
        if args.list and not args.wait:
            raise Failure('--list prints what the scrub has found at its end:'
                          ' leave --no-wait out')

    def _stop(self, quorum: Quorum) -> int:
        if not quorum.scrub:
            raise Failure(f"'{quorum.name}' is not being scrubbed")
        job = quorum.scrub['job-id']
        self.monitor.change('block-job-cancel', {'device': job})
        self.say(f"{quorum.name}: the scrub (job '{job}') ends")
        self.result(**{'node-name': quorum.name, 'job-id': job})
        return WELL

    def _start_scrub(self, quorum: Quorum, repair: bool, sync: str,
                     speed: Optional[int], on_error: str,
                     prefer: Optional[str] = None) -> str:
        if quorum.scrub:
            raise Failure(f"'{quorum.name}' is being scrubbed already; to end "
                          'that: qemu-quorum scrub --stop '
                          f'{quorum.word}', NOT_WELL)
        job = 'scrub-' + re.sub(r'[^A-Za-z0-9._-]', '', quorum.name)
        arguments = {'job-id': job, 'node': quorum.name, 'repair': repair,
                     'sync': sync, 'on-error': on_error}
        if speed is not None:
            arguments['speed'] = speed
        if prefer is not None:
            arguments['prefer'] = prefer
        self.ranges = []
        try:
            self.monitor.execute('quorum-scrub', arguments)
        except ExecuteError as error:
            if error.error_class == 'CommandNotFound':
                raise Failure('this QEMU cannot scrub: it has no command '
                              'quorum-scrub', NOT_WELL) from None
            raise Failure(str(error), NOT_WELL) from None
        return job

    def _end_between_commands(self) -> None:
        """
        A command that QEMU is working on can't be taken back: so let a signal
        end this one between two of them.  The second does not wait for that.
        """
        def interrupt(number: int, _: object) -> None:
            self.wanted = False
            signal.signal(number, signal.SIG_DFL)

        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, interrupt)

    def _check_wanted(self) -> None:
        if not self.wanted:
            raise Failure(self.said_at_signal, INTERRUPTED)

    def _completed(self, job: str) -> Optional[Dictionary]:
        for event in self.monitor.events():
            data = dict(event.get('data', {}))
            if data.get('id') != job:
                continue
            if event['event'] == 'QUORUM_SCRUB_RANGE':
                del data['id']
                self.ranges.append(data)
            elif event['event'] == 'QUORUM_SCRUB_COMPLETED':
                self.ranges.sort(key=lambda found: (found['offset'],
                                                    found['what']))
                return data
        return None

    def _wait_for_scrub(self, name: str, job: str) -> Dictionary:
        """Show how far it is; return what the event says in the end."""
        printed = time.monotonic()
        seen: Optional[Dictionary] = None
        figures = None
        pause = POLL_SECONDS / 16       # a small disk takes no time
        try:
            while figures is None:
                self.monitor.sleep(pause)
                pause = min(2 * pause, POLL_SECONDS)
                self._check_wanted()
                jobs = self.monitor.ask('query-block-jobs')
                figures = self._completed(job)
                running = [j for j in jobs if j['device'] == job]
                if figures or not running:
                    continue
                scrub = describe_scrub(running[0],
                                       (seen['time'], seen) if seen else None)
                if not seen or scrub['time'] - seen['time'] > 5:
                    seen = scrub        # the speed over the last seconds
                if scrub['paused'] and scrub['io-status'] != 'ok':
                    raise Failure(
                        f"the scrub of '{name}' has met an error and waits; "
                        'to try again: block-job-resume (QMP); to end it: '
                        f'qemu-quorum scrub --stop {quote(name)}', NOT_WELL)
                printed = self._show(f'{name}: {scrub_line(scrub)}', printed)
        except KeyboardInterrupt:
            self._end_line()
            raise Failure(f"interrupted; the scrub of '{name}' goes on: see "
                          'qemu-quorum status, or end it by qemu-quorum '
                          f'scrub --stop {quote(name)}', INTERRUPTED) from None
        except Failure:
            self._end_line()
            raise
        self._clear_line()
        return figures

    def resync(self) -> int:
        """Wait until nobody lacks anything, or let a scrub see to it."""
        name = self.system.choose(self.args.node).name
        begun = time.monotonic()
        printed = begun
        try:
            while True:
                quorum = self.system.choose(name)
                now = time.monotonic()
                if quorum.resync:
                    begun = now
                    line = f'{name}: {resync_line(quorum.resync)}'
                    printed = self._show(line, printed)
                elif not quorum.lacking():
                    self._clear_line()
                    return self._report_resync(quorum)
                elif quorum.scrub or now - begun > RESYNC_SECONDS:
                    break
                self.monitor.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self._end_line()
            raise Failure(f"interrupted; the resync of '{name}' goes on: see "
                          'qemu-quorum status', INTERRUPTED) from None
        # There is none in the background (auto-resync)
        self._clear_line()
        job = self._start_scrub(quorum, True, 'stale', None, 'ignore')
        figures = self._wait_for_scrub(name, job)
        for line in scrub_report(name, figures, self.ranges):
            self.say(line)
        return self._report_resync(self.system.choose(name), figures)

    def _report_resync(self, quorum: Quorum,
                       figures: Optional[Dictionary] = None) -> int:
        bad = [child for child in quorum.children
               if child['state'] != 'ok' or 'error' in child]
        lacking = [child['child'] for child in bad]
        failed = quorum.data['state'] == 'FAILED'
        if failed:
            self.say(f'{quorum.name}: too few children can be used: see '
                     f'qemu-quorum explain {quorum.word}')
        elif not bad:
            self.say(f'{quorum.name}: no child lacks anything')
        for child in bad:
            why = child.get('error') or child['state']
            if child['stale-bytes']:
                why += f", {human_size(child['stale-bytes'])} missing"
            self.say(f"{quorum.name}: {child['child']} is " + (
                'vacant' if child['state'] == 'vacant' else
                f'NOT in sync ({why})'))
        data: Dictionary = {'node-name': quorum.name, 'lacking': lacking}
        if figures:
            data['scrub'] = figures
        self.result(**data)
        return NOT_WELL if failed or bad else WELL


def scrub_status(figures: Dictionary) -> int:
    found = figures['unrepairable-bytes']
    if not figures['repair']:
        found += figures['mismatched-bytes'] + figures['missing-bytes']
    return NOT_WELL if found or 'error' in figures else WELL


def range_table(ranges: List[Dictionary], omitted: int) -> List[str]:
    """Where a scrub has found what, and with which children"""
    texts = {
        ('mismatched', 'voted'): 'differs',
        ('mismatched', 'preferred'): 'was decided',
        ('unrepairable', 'none'): 'NO WINNER',
    }
    rows = [['OFFSET', 'BYTES', 'SIZE', 'WHAT', 'CHILDREN']]
    for found in ranges:
        what = found['what']
        rows.append([str(found['offset']), str(found['bytes']),
                     human_size(found['bytes']),
                     texts.get((what, found['winner'])) or
                     ('missing' if what == 'missing' else 'UNREPAIRABLE'),
                     ', '.join(found['children']) or '-'])
    lines = [f'  {line}' for line in table(rows, (3,))] if ranges else []
    if omitted:
        lines.append(f'  ... and {omitted} more')
    return lines


def scrub_report(name: str, figures: Dictionary, ranges: List[Dictionary]
                 ) -> Iterator[str]:
    """What a scrub has done, from its event."""
    def size(key: str) -> str:
        return human_size(figures[f'{key}-bytes'])

    found = [f'{size(key)} {text}' for key, text in (
        ('mismatched', 'differed'), ('missing', 'was missing'),
        ('repaired', 'repaired'), ('preferred', 'of that decided'),
        ('unrepairable', 'CANNOT BE REPAIRED'))
             if figures[f'{key}-bytes']]
    yield f"{name}: {size('checked')} checked: " + (
        ', '.join(found) or 'nothing is wrong')
    lost = sum(found['bytes'] for found in ranges if
               (found['what'], found['winner']) == ('unrepairable', 'none'))
    if lost:
        yield f'{name}: {human_size(lost)} has no winner: see "Blocks ' \
              'without a winner" in the manual; qemu-quorum scrub --list ' \
              'shows where'
    if figures['unrepairable-bytes'] > lost:
        yield f'{name}: too few children agree there, or one could not be ' \
              'written; see qemu-quorum status'
    if 'error' in figures:
        yield f"{name}: the scrub has failed: {figures['error']}"
    elif not figures['repair'] and scrub_status(figures) != WELL:
        yield f'{name}: to repair it: qemu-quorum scrub {quote(name)}'
