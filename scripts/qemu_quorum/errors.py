# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What QEMU has said when it could not open a quorum, in plain words"""

import json
import re
import sys
from typing import Dict, List, NamedTuple

from .basics import NOT_WELL, Failure
from .text import fold, printable


class Meaning(NamedTuple):
    """Of a message that has @pattern in it"""
    pattern: str
    means: str
    mend: str


MEANINGS = [
    Meaning(
        r'(state\.\d+) and (state\.\d+) have gone different ways',
        'Split brain: two QEMUs have had this disk, neither of which knew of '
        'the other. The replicas of \\1 and \\2 have different data, and no '
        'vote can tell which are wanted.',
        'Look at both sides (qemu-quorum state FILE...). Decide whose data '
        'are to stay; give null for the children and state nodes of the '
        'other, start, and replace them: qemu-quorum replace --force.'),
    Meaning(
        r'(state\.\d+) and (state\.\d+) belong to different disks',
        'The options mix replicas of two disks.',
        'Give the files of one disk: qemu-quorum state FILE... shows of '
        'which set each is.'),
    Meaning(
        r'(state\.\d+) is a copy of (state\.\d+)',
        'Two state nodes are the same one: a box was cloned, or a path is '
        'given twice.',
        'Give each child a state node of its own; a new one is made by: '
        'truncate -s 42M FILE'),
    Meaning(
        r'All state nodes are blank',
        'Nothing was ever written down for this disk.',
        'If its replicas are alike, start it once with state-init=on, until '
        'something was written; "qemu-quorum create" does that.'),
    Meaning(
        r'state-init=on needs state nodes that are all blank',
        'The disk has been in use with these state nodes; state-init is for '
        'the first start only.', 'Leave state-init=on out.'),
    Meaning(
        r'(\d+) of (\d+) state nodes can be used, and (\d+) are needed',
        'Only \\1 of \\2 state nodes can be read. The newest state may be on '
        'one that is missing, and old data could win.',
        'Bring the servers or files of the others back. Only if they are '
        'lost for ever: state-force=on.'),
    Meaning(
        r'No state node can be used',
        'None of the state nodes can be read.',
        'Are the paths right, and the servers there? qemu-quorum state '
        'FILE... shows what is in them.'),
    Meaning(
        r'Only (\d+) of the children can be believed, and vote-threshold is '
        r'(\d+)',
        'Too few replicas have what the disk holds: \\1, and \\2 must agree.',
        'Bring the servers or files of the others back, with their state '
        'nodes. Only if they are lost for good: state-force=on, and then '
        'qemu-quorum scrub --prefer.'),
    Meaning(
        r'state\.(\d+) .*; its child may have what others lack',
        'The state node of children.\\1 can not be read, and some of the data '
        'may be on that replica and too few others.',
        'Bring its server back. Only if it is lost for good: state-force=on, '
        'and then qemu-quorum scrub --prefer.'),
    Meaning(
        r'(children\.\d+) .* is taken for a newcomer: (.*)',
        '\\1 is not believed (\\2): it is filled again from the others.',
        'Nothing is to be done, but for finding out whether its server was '
        'restored from a backup.'),
    Meaning(
        r'(children\.\d+) is left vacant: (.*)',
        '\\1 could not be opened: \\2. The disk has started without it '
        '(open-degraded).',
        'Bring its server back, or replace it: qemu-quorum replace.'),
    Meaning(
        r'state\.(\d+) is done without: (.*)',
        'The state node of children.\\1 could not be opened: \\2. The disk has '
        'started without it and its replica (open-degraded).',
        'Bring its server back before the next start: then the replica gets '
        'what was written meanwhile.'),
    Meaning(
        r'(digests) is done without: (.*)',
        'The node of \\1 could not be opened: \\2. The disk has started '
        'without it (open-degraded): what is read first is voted on.',
        'Bring its server back before the next start.'),
    Meaning(
        r'The disk has grown to (\d+) bytes without its state nodes',
        'The replicas were made longer while the quorum was not there, and it '
        'was not closed well before: its state nodes do not know the end.',
        'Make the replicas as short as the error says, start, and use '
        'block_resize. Or, if all replicas are alike: new, blank state nodes '
        'and state-init=on.'),
    Meaning(
        r'Failed to get .*lock|Is another process using the image',
        'Another program has this file open. Two must not write to it.',
        'End the other one (fuser -v FILE shows it).'),
    Meaning(
        r'Failed to connect to|Connection refused|No route to host',
        'A server is away.',
        'Bring it back; or start without that replica: open-degraded=on.'),
    Meaning(
        r'No such file or directory',
        'A file is not where the options say.',
        'Is its file system mounted? Start without that replica: '
        'open-degraded=on.'),
]


def explain_errors(path: str, as_json: bool) -> int:
    """For each message in a file ('-': standard input) that is known"""
    try:
        if path == '-':
            lines = sys.stdin.buffer.read().decode(
                errors='replace').splitlines()
        else:
            with open(path, encoding='utf-8', errors='replace') as file:
                lines = file.read().splitlines()
    except OSError as error:
        raise Failure(f"cannot read '{path}': {error.strerror}") from None
    found = []
    for line in lines:
        for meaning in MEANINGS:
            match = re.search(meaning.pattern, line)
            if match:
                found.append({'error': line,
                              'means': match.expand(meaning.means),
                              'mend': meaning.mend})
                break
    if as_json:
        print(json.dumps({'errors': found}))
    else:
        print('\n'.join(text_of(found)))
    return NOT_WELL


def text_of(found: List[Dict[str, str]]) -> List[str]:
    """For people"""
    lines: List[str] = []
    for error in found:
        lines += ['', *fold(printable(error['error']), '* ', '  '),
                  *fold(printable(error['means']), '  ', '  '),
                  *fold(error['mend'], '  -> ', '     ')]
    return lines[1:] or ['There is no message in it that is known.']
