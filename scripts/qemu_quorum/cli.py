# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command line"""

import argparse
import io
import json
import logging
import os
import sys
from typing import Callable, Dict, Type

from .adopt import Adopt
from .basics import INTERRUPTED, NOT_WELL, Failure, abandon_stdout
from .children import Children
from .command import Command
from .create import create
from .errors import explain_errors
from .explain import Explain
from .metrics import Metrics, forget
from .monitor import HAVE_QMP, ExecuteError, Monitor
from .places import KINDS
from .printing import FORMS
from .replace import Replace
from .scrub import Scrub
from .state import show_state
from .status import Status
from .text import (
    interval_argument,
    printable,
    size_argument,
    speed_argument,
)
from .watch import Watch


SOCKET_VARIABLE = 'QEMU_QUORUM_SOCKET'

COMMANDS: Dict[str, Type[Command]] = {
    'status': Status,
    'explain': Explain,
    'metrics': Metrics,
    'watch': Watch,
    'scrub': Scrub,
    'resync': Scrub,
    'replace': Replace,
    'remove': Children,
    'drop': Children,
    'adopt': Adopt,
}
WITHOUT_QEMU: Dict[str, Callable[[argparse.Namespace], int]] = {
    'create': create,
    'state': show_state,
}


def add_threshold(sub: argparse.ArgumentParser) -> None:
    """What "create" and "adopt" both have."""
    sub.add_argument('--threshold', type=int, metavar='N',
                     help='how many replicas must agree (default: the '
                          'majority)')


def add_create(sub: argparse.ArgumentParser) -> None:
    """The options of "create"."""
    sub.add_argument('name', metavar='NAME',
                     help='what the node is to be called')
    sub.add_argument('--size', type=size_argument, metavar='BYTES',
                     help='length of the disk (as 100G; default: that of the '
                          'image)')
    sub.add_argument('--replica', action='append', default=[], metavar='URI',
                     help=f'where a replica is to be: {KINDS}')
    add_threshold(sub)
    sub.add_argument('--from', dest='source', metavar='IMAGE',
                     help='an image that the disk begins with')
    sub.add_argument('--from-format', metavar='FORMAT',
                     help='its format (default: what it looks like)')
    sub.add_argument('--state', action='append', default=[], metavar='URI',
                     help='where a state node is to be, once for each '
                          'replica; or once a folder for all of them '
                          '(default: beside each replica)')
    sub.add_argument('--no-state', action='store_true',
                     help='no state nodes: a restart forgets who lacks what')
    sub.add_argument('--force', action='store_true',
                     help='overwrite what is there')
    sub.add_argument('--print', choices=FORMS, default='blockdev',
                     help='for a command line (blockdev, the default), for '
                          'libvirt, or for a storage daemon that systemd '
                          'starts')


def add_adopt(sub: argparse.ArgumentParser) -> None:
    """The options of "adopt"."""
    sub.add_argument('disk', metavar='DISK',
                     help='its node, or its device: the name or the id')
    sub.add_argument('--replica', action='append', default=[], metavar='URI',
                     help='where a new replica is to be, besides the disk '
                          f'itself: {KINDS}')
    add_threshold(sub)
    sub.add_argument('--state', action='append', default=[], metavar='URI',
                     help='where a state node is to be: once for the disk '
                          'and each new replica, or once a folder for all of '
                          'them (default: no state nodes)')
    sub.add_argument('--name', metavar='NAME',
                     help="what the quorum is to be called (default: DISK's "
                          'name, and -quorum)')
    sub.add_argument('--speed', type=speed_argument, metavar='BYTES',
                     help='fill and compare no faster than that, a second '
                          '(as 50M)')
    sub.add_argument('--force', action='store_true',
                     help='overwrite what is there')
    sub.add_argument('--dry-run', action='store_true',
                     help='only say what would be done')
    sub.add_argument('--print', choices=FORMS, default='blockdev',
                     help='what to print for the next start: see create')


def parse_args() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    # Before the command or after it: what is not given must not undo the other
    common.add_argument('-s', '--socket', default=argparse.SUPPRESS,
                        help='QMP socket: a path, or HOST:PORT (default: '
                             f'${SOCKET_VARIABLE})')
    common.add_argument('--json', action='store_true',
                        default=argparse.SUPPRESS,
                        help='print JSON, for programs')
    top = argparse.ArgumentParser(
        prog='qemu-quorum', parents=[common],
        description='Look after the quorum nodes of a running QEMU or storage '
        'daemon.', epilog='Exit status: 0 all is well, 1 it is not, '
        '2 wrong usage or no connection.')
    commands = top.add_subparsers(dest='command', metavar='COMMAND',
                                  required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=text,
                                   description=text)

    def add_node(sub: argparse.ArgumentParser) -> None:
        sub.add_argument('node', nargs='?', metavar='NODE',
                         help='the quorum node (default: the only one)')

    def add_speed(sub: argparse.ArgumentParser) -> None:
        sub.add_argument('--speed', type=speed_argument, metavar='BYTES',
                         help='no faster than that, a second (as 50M)')

    add_node(add('status', 'show how each child is'))

    sub = add('explain', 'say what is wrong, what it means, and what mends '
              'it')
    add_node(sub)
    sub.add_argument('--error', metavar='FILE',
                     help='explain what QEMU has said when it could not open '
                          'a quorum (-: standard input); this needs no QEMU')

    sub = add('metrics', 'print all figures for Prometheus (OpenMetrics)')
    add_node(sub)
    sub.add_argument('--textfile', metavar='PATH',
                     help='write them into this file, for the textfile '
                          'collector of the node exporter')

    sub = add('watch', 'show that again and again, and events')
    add_node(sub)
    sub.add_argument('--interval', type=interval_argument, default=2.0,
                     metavar='SECONDS', help='how often (default: 2)')
    sub.add_argument('--once', action='store_true',
                     help='show it once, and end')

    sub = add('scrub', 'read everything on all children, vote, and repair')
    add_node(sub)
    sub.add_argument('--check', action='store_true',
                     help='only count, repair nothing')
    sub.add_argument('--stale', action='store_true',
                     help='only what children are known to lack')
    sub.add_argument('--list', action='store_true',
                     help='print where something was found, in bytes of the '
                          'disk')
    sub.add_argument('--prefer', metavar='SLOT',
                     help='where there is no winner, and only there, write '
                          'what this child has over the others')
    add_speed(sub)
    sub.add_argument('--on-error', default='ignore',
                     choices=('ignore', 'report', 'stop', 'enospc'),
                     help='what to do where it cannot repair: go on (ignore, '
                          'the default), end (report), or wait (stop; enospc '
                          'if there is no space)')
    sub.add_argument('--no-wait', dest='wait', action='store_false',
                     help='return when it has begun')
    sub.add_argument('--stop', action='store_true',
                     help='end the scrub that runs')

    add_node(add('resync', 'wait until no child lacks anything'))

    sub = add('replace', 'put another file or node into a slot, and fill it')
    sub.add_argument('words', nargs='+', metavar='[NODE] SLOT FILE',
                     help='SLOT is N or children.N; instead of FILE, the name '
                          'of a node will do')
    sub.add_argument('--format', help='format of FILE (default: raw, whatever '
                                      'is in it)')
    sub.add_argument('--state', metavar='STATE',
                     help='a state node for it, blank: a file, which is made '
                          'if it is not there yet, or the name of a node')
    sub.add_argument('--force', action='store_true',
                     help='overwrite what is in FILE')
    add_speed(sub)

    sub = add('remove', 'take a child out; its slot is vacant then')
    sub.add_argument('words', nargs='+', metavar='[NODE] SLOT',
                     help='SLOT is N or children.N')

    sub = add('drop', 'go on without a child that does not answer: cut its '
                      'connections, and take it out')
    sub.add_argument('words', nargs='+', metavar='[NODE] SLOT',
                     help='SLOT is N, children.N, or the name of a node that '
                          'is the child or below it')

    add_adopt(add('adopt', 'turn a disk that a guest uses into a quorum, '
                  'while the guest runs'))

    sub = add('state', 'show and check what the state nodes of a quorum say, '
                       'while no QEMU uses them')
    sub.add_argument('files', nargs='+', metavar='FILE',
                     help='a state node; give all of a quorum to have them '
                          'compared')
    sub.add_argument('--list', action='store_true',
                     help='print what is unresolved, and what children lack, '
                          'in bytes of the disk')

    add_create(add('create', 'make the replicas and state nodes of a new '
                   'quorum, and print what to put where'))

    args = top.parse_args()
    args.json = getattr(args, 'json', False)
    args.socket = getattr(args, 'socket', os.environ.get(SOCKET_VARIABLE))
    return args


def run(args: argparse.Namespace) -> int:
    if args.command in WITHOUT_QEMU:
        return WITHOUT_QEMU[args.command](args)
    if args.command == 'explain' and args.error is not None:
        return explain_errors(args.error, args.json)
    if not HAVE_QMP:
        raise Failure(
            "QEMU's Python library qemu.qmp is missing: it is in the folder "
            'python of its source (run build/qemu/scripts/qemu-quorum), and '
            'to be had by: pip install qemu.qmp')
    if not args.socket:
        raise Failure('which QEMU? Give its QMP socket by --socket or '
                      f'${SOCKET_VARIABLE}')
    monitor = Monitor(args.socket)
    try:
        monitor.connect()
        command = COMMANDS[args.command](args, monitor)
        status = getattr(command, args.command)()
        command.output.check()
        assert isinstance(status, int)
        return status
    except ExecuteError as error:
        raise Failure(f'QEMU refuses: {error}', NOT_WELL) from None
    finally:
        monitor.close()


def main() -> int:
    # What the libraries want to log the user is told in a line
    logging.disable()
    for stream in sys.stdout, sys.stderr:
        # A name that the terminal has no characters for is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')
    args = parse_args()
    try:
        status = run(args)
        sys.stdout.flush()
        return status
    except Failure as failure:
        return report(args, failure)
    except KeyboardInterrupt:
        print('qemu-quorum: interrupted', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        abandon_stdout()        # nobody reads on
        return NOT_WELL
    except OSError as error:
        where = f"'{error.filename}'" if error.filename else 'standard output'
        abandon_stdout()
        return report(args, Failure(f'{where}: {error.strerror}', NOT_WELL))


def report(args: argparse.Namespace, failure: Failure) -> int:
    if args.command == 'metrics' and args.textfile is not None:
        forget(args.textfile)
    if args.json:
        try:
            print(json.dumps({'error': str(failure)}), flush=True)
        except OSError:
            abandon_stdout()
    print(f'qemu-quorum: {printable(str(failure))}', file=sys.stderr)
    return failure.status
