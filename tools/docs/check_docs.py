#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Run what README.md and the manuals say.  tools/check-docs is its manual, and
calls it.  Speaks TAP: a test for each chapter.

usage: check_docs.py [--all] [--seconds N] PREFIX IMAGE [TEXT [CHAPTER]]
"""

import argparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

from blocks import Block, Chapter, Mark, Unclear, chapters
from client import Monitor
from compare import (JsonError, anywhere, diff, has_more, read_json, shape)

TOP = Path(__file__).resolve().parents[2]
CACHE = os.path.join(os.environ.get('XDG_CACHE_HOME') or
                     os.path.expanduser('~/.cache'), 'qemu-quorum')
TEXTS = ['README.md', 'docs/system/quorum.rst', 'docs/interop/quorum.rst',
         'docs/tools/qemu-quorum.rst']
SECONDS = 60            # that a command may take, and a start
LONG_SECONDS = 3600     # one of a block that is marked as long
EVENT_SECONDS = 30      # until an event has come


class Wrong(Exception):
    """Something is not as the text says; each line says what."""
    def __init__(self, *lines: str) -> None:
        super().__init__('\n'.join(lines))
        self.lines = lines


class Stuck(Wrong):
    """The rest of the chapter can't be run"""


class Skipped(Exception):
    """The chapter needs what is not here"""


# --- what a block consists of ---

@dataclass
class Command:
    """A command that somebody types"""
    line: int
    host: str
    text: str
    output: List[str] = field(default_factory=list)


@dataclass
class Message:
    """What is sent, or what is to come"""
    line: int
    sent: bool
    value: Any


Step = Union[Command, Message]
PROMPT = re.compile(r'(?P<host>box\d)?(?P<mark>[$#]) (?P<text>.*)')


def is_incomplete(command: str) -> bool:
    """Whether a shell would wait for another line"""
    if command.endswith('\\'):
        return True
    said = subprocess.run(['bash', '-n'], input=command, text=True, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                          ).stderr
    return bool(re.search('unexpected end of file|unexpected EOF|'
                          'delimited by end-of-file', said))


def take_command(lines: List[str], at: int, first: str) -> Tuple[str, int]:
    """The command that begins with @first, and the index behind it"""
    text = first
    while is_incomplete(text):
        if at == len(lines):
            raise Wrong(f'the command does not end: {first}')
        text += '\n' + lines[at]
        at += 1
    return text, at


def messages(line: int, text: str, sent: bool) -> Iterator[Message]:
    try:
        for value in read_json(text):
            if sent and has_more(value):
                raise Wrong('"..." can\'t be sent: mark it', text)
            yield Message(line, sent, value)
    except JsonError as error:
        raise Wrong(str(error)) from None


def take_steps(block: Block) -> List[Step]:
    """Commands and messages, if the block needs no mark to tell"""
    lines = block.text.split('\n')
    first = PROMPT.fullmatch(lines[0])
    if not first and not re.match(r'->|<-', lines[0]):
        if lines[0].startswith('{') and re.search(r'"exec(ute|-oob)"',
                                                  block.text):
            return list(messages(block.line, block.text, True))
        raise Wrong('this block is neither marked, nor a session, nor QMP:',
                    *lines)
    # In what "$ " begins, "# " is output.
    marks = first['mark'] if first else '$#'
    result: List[Step] = []
    at = 0
    while at < len(lines):
        line, start = lines[at], at
        at += 1
        prompt = PROMPT.fullmatch(line)
        if prompt and (prompt['mark'] in marks or prompt['host']):
            text, at = take_command(lines, at, prompt['text'])
            result.append(Command(block.line + start,
                                  prompt['host'] or 'main', text))
        elif re.match(r'(->|<-) ', line):
            while at < len(lines) and not PROMPT.fullmatch(lines[at]) and \
                    not re.match(r'(->|<-) ', lines[at]):
                at += 1
            text = '\n'.join(lines[start:at])
            result += messages(block.line + start, text[3:],
                               text.startswith('->'))
        else:
            assert isinstance(result[-1], Command)
            result[-1].output.append(line)
    return result


def plain_commands(block: Block) -> List[Step]:
    """Each line is one, or the beginning of one"""
    lines = block.text.split('\n')
    result: List[Step] = []
    at = 0
    while at < len(lines):
        start = at
        text, at = take_command(lines, at + 1, lines[at])
        if text.strip():
            result.append(Command(block.line + start, 'main', text))
    return result


# --- where it is run ---

def unshare() -> List[str]:
    command = ['unshare', '--mount', '--net', '--pid', '--ipc', '--uts',
               '--fork', '--kill-child']
    return command + ['--map-root-user'] * (os.getuid() != 0)


def why_no_namespaces() -> str:
    """Why nothing can be run here; empty if it can."""
    tried = subprocess.run(
        [*unshare(), 'sh', '-c', 'mount -t tmpfs tmp /tmp && ip link'],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        check=False)
    return tried.stderr.strip().replace('\n', '; ') if tried.returncode else ''


class Environment:
    """That of one chapter"""

    def __init__(self, prefix: str, image: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix='check-docs-'))
        self.numbers = 0
        self.monitors: List[Monitor] = []
        self.programs = 0           # that have been seen
        self.events: List[Dict[str, Any]] = []
        for name in 'shell.sh', 'client.py', 'environment.sh':
            shutil.copy(TOP / 'tools/docs' / name, self.folder)
        self.log = self.folder / 'environment.log'
        with open(self.log, 'wb') as log:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                [*unshare(), 'bash', self.folder / 'environment.sh',
                 self.folder, prefix, TOP, CACHE], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)
        try:
            self._begin(image)
        except BaseException:
            self.end()
            raise

    def _begin(self, image: str) -> None:
        self._wait(self.folder / 'in.main', SECONDS)
        shutil.copy(image, self.folder)
        self.must('cp /run/check-docs/debian.qcow2 . && '
                  'cp debian.qcow2 debian-13.qcow2')

    def end(self) -> None:
        """Nothing is left of it."""
        for monitor in self.monitors:
            monitor.socket.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, path: Path, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not path.exists():
            self._connect()
            if self.process.poll() is not None:
                raise Stuck('the environment has ended:',
                            self.log.read_text(errors='replace'))
            if time.monotonic() > end:
                raise Stuck(f'it takes more than {seconds:g} seconds')
            time.sleep(0.005)

    def run(self, host: str, text: str, seconds: float = SECONDS
            ) -> Tuple[int, str]:
        """The exit status of a command, and its output"""
        if host != 'main':
            self.must(f'_box {host}')
        self.numbers += 1
        name = f'{self.numbers}'
        (self.folder / f'cmd.{name}').write_text(text + '\n')
        with open(self.folder / f'in.{host}', 'w', encoding='utf-8') as fifo:
            fifo.write(name + '\n')
        self._wait(self.folder / f'done.{name}', seconds)
        self._connect()
        if (self.folder / 'skip').exists():
            raise Skipped((self.folder / 'skip').read_text().strip())
        return (int((self.folder / f'done.{name}').read_text()),
                (self.folder / f'out.{name}').read_text(errors='replace'))

    def must(self, text: str, seconds: float = SECONDS) -> str:
        """Run each command of a script, all of which must succeed."""
        status, output = self.run('main', (
            '_failed=0; trap \'_failed=1; echo "check-docs: this has failed: '
            '$BASH_COMMAND" >&2\' ERR\n' + text +
            '\ntrap - ERR; (exit $_failed)'), seconds)
        if status:
            raise Wrong('commands that the text does not show have failed:',
                        output)
        return output

    # QMP

    def _connect(self) -> None:
        """Listen to what programs that are new have to say."""
        path = self.folder / 'programs'
        names = path.read_text().split() if path.exists() else []
        for name in names[self.programs:]:
            self.monitors.append(Monitor(str(self.folder / f'{name}.qmp'),
                                         oob=True))
        self.programs = len(names)

    def _receive(self, monitor: Monitor, seconds: float
                 ) -> Optional[Dict[str, Any]]:
        """The next message, if one comes in time; events are kept."""
        monitor.socket.settimeout(max(seconds, 0.001))
        try:
            message = monitor.receive()
        except (TimeoutError, BlockingIOError):
            return None
        except (EOFError, OSError):
            self.monitors.remove(monitor)
            return None
        if 'event' in message:
            self.events.append(message)
        return message

    def ask(self, message: Any) -> Dict[str, Any]:
        """The answer to a command"""
        if not self.monitors:
            raise Wrong('there is no QEMU that it could be sent to')
        monitor = self.monitors[-1]
        if message.get('exec-oob') == 'qmp_capabilities':
            # A client that comes late
            monitor = Monitor(str(self._side()))
            self.monitors.append(monitor)
        monitor.socket.settimeout(SECONDS)
        try:
            monitor.send(message)
        except OSError:
            self.monitors.remove(monitor)
            raise Wrong('QEMU has ended') from None
        end = time.monotonic() + SECONDS
        while monitor in self.monitors and time.monotonic() < end:
            answer = self._receive(monitor, SECONDS)
            if answer and 'event' not in answer:
                return answer
        raise Wrong('no answer to: ' + json.dumps(message))

    def _side(self) -> Path:
        name = (self.folder / 'programs').read_text().split()[-1]
        return self.folder / f'{name}.side'

    def expect_event(self, want: Any, about: bool) -> None:
        """Use up one that is like this, when it has come."""
        end = time.monotonic() + EVENT_SECONDS
        while True:
            for event in self.events:
                if not list(shape(want, event, about)):
                    self.events.remove(event)
                    return
            if time.monotonic() > end or not self.monitors:
                break
            for monitor in list(self.monitors):
                self._receive(monitor, 0.05)
        like = [(list(shape(want, event, about)), event)
                for event in self.events if event['event'] == want['event']]
        wrong, event = min(like, key=lambda pair: len(pair[0]),
                           default=(['there was none'], None))
        raise Wrong(f"no such event {want['event']}:", *wrong,
                    *([f'that one was {json.dumps(event)}'] if event else []))


# --- running it ---

class Runner:
    """Runs one chapter"""

    def __init__(self, text: str, preludes: List[Mark], chapter: Chapter,
                 args: argparse.Namespace) -> None:
        self.text = text
        self.preludes = preludes
        self.chapter = chapter
        self.args = args
        self.counts: Counter[str] = Counter()
        self.problems: List[str] = []
        self.skipped = ''
        self.seconds = 0.0

    def _is_run(self, block: Block) -> bool:
        return not (block.mark('not-run') or
                    block.mark('long') and not self.args.all)

    def run(self) -> None:
        """All of it; what is wrong is in problems."""
        start = time.monotonic()
        runnable = any(map(self._is_run, self.chapter.blocks()))
        if runnable and self.args.why_not:
            self.skipped = self.args.why_not
            runnable = False
        environment = None
        try:
            if runnable:
                environment = Environment(self.args.prefix, self.args.image)
                for mark in self.preludes:
                    environment.must(mark.body)
            for item in self.chapter.items:
                self._item(environment, item)
        except Stuck as error:
            self._problem(self.chapter.line, error.lines)
        except Skipped as error:
            self.skipped = str(error)
        except (OSError, EOFError) as error:
            self._problem(self.chapter.line, (f'check-docs: {error!r}',))
        finally:
            if environment:
                environment.end()
        self.seconds = time.monotonic() - start

    def _problem(self, line: int, lines: Tuple[str, ...]) -> None:
        self.problems.append(f'{self.text}:{line}: ' + '\n'.join(lines))

    def _item(self, environment: Optional[Environment],
              item: Union[Mark, Block]) -> None:
        try:
            if isinstance(item, Block):
                self._block(environment, item)
            elif environment:
                environment.must(item.body)
        except Stuck as error:
            self._problem(item.line, error.lines)
            raise Stuck('what follows in this chapter was not run') from None
        except Wrong as error:
            self._problem(item.line, error.lines)

    def _block(self, environment: Optional[Environment], block: Block
               ) -> None:
        reason = block.mark('not-run')
        if reason:
            self.counts[f'not run: {reason.args}'] += 1
            return
        if block.mark('long') and not self.args.all:
            self.counts['not run without --all'] += 1
            return
        use, output = block.mark('use'), block.mark('output')
        steps = [] if use or output else plain_commands(block) \
            if block.mark('commands') else take_steps(block)
        if not environment:
            return
        self.counts['run'] += 1
        if use:
            self._use(environment, block, use)
        elif output:
            compare_output(block.text, environment.must(output.body),
                           bool(block.mark('about')))
        self._steps(environment, block, steps)

    def _steps(self, environment: Environment, block: Block,
               steps: List[Step]) -> None:
        """Take them all, whatever becomes of one."""
        about = bool(block.mark('about'))
        seconds = LONG_SECONDS if block.mark('long') else \
            self.args.seconds
        answer: Any = None
        asked = block.line
        for step in [*steps, None]:
            line = step.line if step else asked
            try:
                if not step or isinstance(step, Message) and (
                        step.sent or 'event' in step.value):
                    last, answer = answer, None
                    must_return(last)
                if isinstance(step, Command):
                    run_command(environment, step, about, seconds)
                elif step and step.sent:
                    asked = step.line
                    answer = environment.ask(step.value)
                elif step and 'event' in step.value:
                    environment.expect_event(step.value, about)
                elif step:
                    last, answer = answer, None
                    compare_answer(step.value, last, about)
            except Stuck as error:
                raise Stuck(f'line {line}:', *error.lines) from None
            except Wrong as error:
                self._problem(line, error.lines)

    @staticmethod
    def _use(environment: Environment, block: Block, use: Mark) -> None:
        text = block.text
        if use.args:
            dots, equals, instead = use.args.strip('\'"').partition('=')
            if not equals:
                raise Wrong(f"'use {use.args}' does not say instead of what")
            text = text.replace(dots, instead)
        environment.numbers += 1
        name = f'block.{environment.numbers}'
        (environment.folder / name).write_text(text)
        environment.must(f'block=$(cat /run/check-docs/{name})\n{use.body}')


def run_command(environment: Environment, step: Command, about: bool,
                seconds: float) -> None:
    status, output = environment.run(step.host, step.text, seconds)
    expected = '\n'.join(step.output)
    if expected.strip():
        output = without_progress(output)
        if 'LATENCY' not in expected:
            output = without_latency(output)
        same, lines = diff(expected, output, about)
        if not same:
            raise Wrong(f'the output of "{step.text}" is not that of the text '
                        f'(-), but (+):', *lines)
    elif status:
        raise Wrong(f'"{step.text}" has failed ({status}):', output)


def without_latency(output: str) -> str:
    """
    What qemu-quorum prints, without the column LATENCY, which is there when
    enough requests have been measured.
    """
    lines = output.split('\n')
    at: Optional[Tuple[int, int]] = None
    for i, line in enumerate(lines):
        match = re.search(r' *LATENCY', line)
        if match:
            at = match.span()
        if at:
            lines[i] = line[:at[0]] + line[at[1]:]
        if not line.strip():
            at = None
    return '\n'.join(lines)


def without_progress(output: str) -> str:
    """The same without what it prints every ten seconds on how far it is"""
    return re.sub(r'^disk0: \S+ \S+ to go, .*\n|^.*: \[=*>? *\] \d+\.\d%.*\n',
                  '', output, flags=re.M)


def must_return(answer: Any) -> None:
    """What nothing is said of has not failed."""
    if answer is not None and 'error' in answer:
        raise Wrong('it was refused: ' + json.dumps(answer['error']))


def compare_answer(want: Any, have: Any, about: bool) -> None:
    if have is None:
        raise Wrong('nothing was asked that this could be the answer to')
    wrong = list(shape(want, have, about))
    if wrong:
        raise Wrong('another answer came:', *wrong,
                    f'All of it: {json.dumps(have)[:2000]}')


def compare_output(want: str, have: str, about: bool) -> None:
    if not re.match(r'[{\[]|"[\w-]+":', want):
        same, lines = diff(want, have, about)
        if not same:
            raise Wrong('the output is not that of the text (-), but (+):',
                        *lines)
        return
    try:
        if want.startswith('"'):
            want = f'{{ {want.rstrip().rstrip(",")}, ... }}'
        parts, = read_json(want)
        all_of_it = read_json(have)
    except (JsonError, ValueError) as error:
        raise Wrong(str(error), have) from None
    wrong = anywhere(parts, all_of_it, about)
    if wrong:
        raise Wrong('the output has nothing that is like this:', *wrong,
                    f'All of it: {have[:2000]}')


# --- telling ---

def tell(number: int, runner: Runner) -> None:
    """A line of TAP, and what is wrong."""
    counts = ', '.join(f'{count} {what}'
                       for what, count in sorted(runner.counts.items()))
    state = 'not ok' if runner.problems else 'ok'
    skip = f' # SKIP {runner.skipped}' if runner.skipped else ''
    print(f'{state} {number} {runner.text}: {runner.chapter.title} '
          f'({counts}; {runner.seconds:.1f} s){skip}')
    for problem in runner.problems:
        for line in problem.split('\n'):
            print(f'# {line}')
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('--all', action='store_true')
    parser.add_argument('--seconds', type=float, default=SECONDS)
    parser.add_argument('prefix')
    parser.add_argument('image')
    parser.add_argument('text', nargs='?')
    parser.add_argument('chapter', nargs='?')
    return parser.parse_args()


def main() -> int:
    args = arguments()
    args.why_not = why_no_namespaces()
    number = failed = 0
    total: Counter[str] = Counter()
    runners: List[Runner] = []
    for text in [args.text] if args.text else TEXTS:
        if not args.text and not (TOP / text).exists():
            continue
        try:
            preludes, found = chapters(TOP / text)
        except Unclear as error:
            number += 1
            failed += 1
            print(f'not ok {number} {text}\n# {text}:{error.line}: {error}')
            continue
        runners += [Runner(text, preludes, chapter, args) for chapter in found
                    if args.chapter in (None, chapter.title)]
    # They wait more than they work.
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        # The longest first, but told in the order of the texts
        jobs = {id(runner): pool.submit(runner.run) for runner in sorted(
            runners, key=lambda runner: -len(runner.chapter.items))}
        for runner in runners:
            jobs[id(runner)].result()
            number += 1
            failed += bool(runner.problems)
            total += runner.counts
            tell(number, runner)
    print(f'1..{number}')
    print(f'# {total.pop("run", 0)} blocks were run')
    for what, count in total.most_common():
        print(f'# {count} {what}')
    return bool(failed or not number)


if __name__ == '__main__':
    sys.exit(main())
