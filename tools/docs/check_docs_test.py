#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Test that what is wrong in a text is noticed: comparisons by themselves, and
texts that are run, each of which has one thing that is wrong.  Speaks TAP.

usage: check_docs_test.py PREFIX IMAGE
"""

from pathlib import Path
import re
import subprocess
import sys
import tempfile
from typing import Dict, Iterator, List, Tuple

from blocks import Unclear, chapters
from compare import diff, read_json, shape

HERE = Path(__file__).resolve().parent
STATUS = ' quorum: disk0   (1 GiB)\n  state: ONLINE\n   vote: 2 of 3\n'
UUIDS = ('71020f78-361e-4dc7-8eec-ccf37b522438',
         'c225710a-dc82-4628-809f-7deb3e00aafc')

# Whether two texts are equal, with "about", and without
LINES: List[Tuple[bool, bool, str, str]] = [
    (True, True, STATUS, STATUS),
    (True, True, STATUS, STATUS.replace('   ', ' ') + '\n\n'),
    (False, False, STATUS, STATUS.replace('ONLINE', 'DEGRADED')),
    (False, False, STATUS, STATUS.replace('  state: ONLINE\n', '')),
    (False, False, STATUS, STATUS + 'one more\n'),
    (False, False, 'a\nb', 'b\na'),
    (True, True, 'a\n...\nz', 'a\nz'),
    (True, True, 'a\n...\nz', 'a\nb\nc\nz'),
    (False, False, 'a\n...\nz', 'a\nb\nc\nz\nmore'),
    (True, True, 'a\n...', 'a\nb'),
    (True, True, 'from ... to there', 'from here to there'),
    (False, False, 'from ... to there', 'from here to elsewhere'),
    (True, True, 'a ...', 'a'),
    (True, True, f'set {UUIDS[0]}', f'set {UUIDS[1]}'),
    (False, False, f'set {UUIDS[0]}', 'set 71020f78'),
    (True, True, 'for 4.1 s; if', 'for 12.25 s; if'),
    (True, True, '00.14 sec (58.033 MiB/sec and 7.2541 ops/sec)',
     '01.00 sec (1 GiB/sec and 12 ops/sec)'),
    (False, False, '(58.033 MiB/sec)', '(58.033 MiB)'),
    (True, True, 'node #block123 of', 'node #block7 of'),
    (False, False, 'node copy1 of', 'node copy2 of'),
    (True, False, '12.1 MiB was missing', '900 KiB was missing'),
    (False, False, '12 MiB was missing', '0 was missing'),
    (False, False, '0 was missing', '12 MiB was missing'),
    (True, False, 'children.1  STALE  12 MiB  3  0',
     'children.1 STALE 8 MiB 4 0'),
    (False, False, 'children.1  STALE  12 MiB  3  0',
     'children.2 STALE 12 MiB 3 0'),
    (False, False, 'children.1  STALE  12 MiB  3  0',
     'children.1 STALE 12 MiB 3 1'),
    (False, False, 'a.b', 'axb'),
]

# The same of JSON
SHAPES: List[Tuple[bool, bool, str, str]] = [
    (True, True, '{"a": 1, "b": [2, 3]}', '{"b": [2, 3], "a": 1}'),
    (False, False, '{"a": 1}', '{"a": 1, "b": 2}'),
    (True, True, '{"a": 1, ...}', '{"a": 1, "b": 2}'),
    (False, False, '{"a": 1, ...}', '{"b": 2}'),
    (True, False, '{"a": 1}', '{"a": 2}'),
    (False, False, '{"a": 1}', '{"a": 0}'),
    (False, False, '{"a": 1}', '{"a": "1"}'),
    (False, False, '{"a": 1}', '{"a": true}'),
    (False, False, '{"a": null}', '{"a": 0}'),
    (False, False, '[1, 1]', '[1]'),
    (True, True, '[...]', '[1, 2]'),
    (True, True, '[{"n": "b", ...}, ...]', '[{"n": "a"}, {"n": "b", "x": 1}]'),
    (False, False, '[{"n": "b", ...}, ...]', '[{"n": "a"}, {"n": "c"}]'),
    (False, False, '[{"n": "b"}, {"n": "a"}, ...]', '[{"n": "a"}, {"n": "b"}]'),
    (True, True, '{"oldest-request-ms": 4399}', '{"oldest-request-ms": 7}'),
    (False, False, '{"oldest-request-ms": 4399}', '{"oldest-request-ms": "x"}'),
    (True, True, '{"error": {"desc": "is\n   not there"}}',
     '{"error": {"desc": "is not there"}}'),
    (False, False, '{"error": {"desc": "is there"}}',
     '{"error": {"desc": "is not there"}}'),
    (True, True, '{"event": "E", "data": {}}',
     '{"event": "E", "data": {}, "timestamp": {"seconds": 1}}'),
    (False, False, '{"event": "E", "data": {}}',
     '{"event": "E", "data": {"a": 1}}'),
]

# Texts of which nothing can be made, and what is said of them
UNCLEAR = {
    '.. check-docs: rnu\n   true\n': "unknown mark 'rnu'",
    '.. check-docs: run\n': "'run' has no body",
    '.. check-docs: about\n   true\n\n::\n\n  $ true\n': 'can have no body',
    '.. check-docs: not-run\n\n::\n\n  x\n': 'gives no reason',
    '.. check-docs: about\n\nWords\n': 'no block follows',
    '.. check-docs:: run\n': 'write it as',
}

DISK = '''
.. check-docs: run
   truncate -s 1M /srv/a/d
   vm -blockdev driver=raw,node-name=d,file.driver=file,file.filename=/srv/a/d

'''
# What a chapter says, and what is said of it; '' if nothing
CHAPTERS: Dict[str, Tuple[str, str]] = {
    'well': ("::\n\n  $ echo 'a  b'\n  a b\n  $ cd /srv/a\n\n"
             '::\n\n  $ pwd; echo x > y; cat y\n  /srv/a\n  x\n', ''),
    'nothing is left': ('::\n\n  $ ls /srv/a; pwd\n  /root\n', ''),
    'unmarked': ('::\n\n  qemu-img info x\n', 'neither marked, nor'),
    'unmarked in a list': ('- It is::\n\n    -blockdev x\n\n  and\n',
                           'neither marked, nor'),
    'unmarked code': ('.. code-block:: json\n\n   {"a": 1}\n',
                      'neither marked, nor'),
    'another output': ('::\n\n  $ echo a; echo b\n  a\n  c\n',
                       '# - c\n# [+] b'),
    'a column that may be there': (
        "::\n\n  $ printf ' N  LATENCY  B\\n 1    2 ms  4\\n\\n LATENCY 3\\n'\n"
        '  N B\n  1 4\n  LATENCY 3\n', '# - +N B'),
    'a column that is there': (
        "::\n\n  $ printf ' N  LATENCY  B\\n 1   2/- ms  4\\n\\n 3\\n'\n"
        '  N B\n  1 4\n  3\n', ''),
    'lines on how far it is': (
        '::\n\n  $ echo "disk0: 1.1 GiB to go, 164 MiB/s, 7 s left"; echo '
        '"filling: [=>  ] 4.8%"; echo "disk0: [=>  ] 4.8%, 50 MiB/s"; echo a\n'
        '  a\n', ''),
    'a failed command': ('::\n\n  $ true\n  $ test -e /srv/nothing\n',
                         'has failed .1.'),
    'an unknown command': ('::\n\n  $ qemu-quorom status\n', 'not found'),
    'a command that does not end': ('::\n\n  $ echo "a\n', 'does not end'),
    'a run that fails': ('.. check-docs: run\n   true\n   false\n   true\n\n'
                         '::\n\n  $ true\n', 'does not show have failed'),
    'options': (DISK + '.. check-docs: use\n   with_block vm\n\n::\n\n'
                '  -blockdev driver=null-co,node-name=n,\\\n  size=4096\n\n'
                '::\n\n  -> { "execute": "query-named-block-nodes" }\n'
                '  <- { "return": [ { "node-name": "n", ... }, ... ] }\n', ''),
    'options with a slip': ('.. check-docs: use\n   with_block vm\n\n::\n\n'
                            '  -blockdev driver=null-co,nodename=n\n',
                            "'nodename' is unexpected|Parameter"),
    'another line': ('.. check-docs: output\n   echo 4 of 5\n\n::\n\n'
                     '  3 of 5\n', '# - 3 of 5\n# [+] 4 of 5'),
    'other members': ('.. check-docs: output\n'
                      "   echo '{\"x\": [{\"a\": {\"b\": 2}}]}'\n\n::\n\n"
                      '  "a": { "b": 1 }\n', '2 instead of 1'),
    'members': ('.. check-docs: output\n'
                "   echo '{\"x\": [{\"a\": {\"b\": 1}, \"c\": 1}]}'\n\n::\n\n"
                '  "a": { "b": 1 }\n', ''),
    'QMP': (DISK + '::\n\n  -> { "execute": "block_resize", "arguments": {\n'
            '         "node-name": "d", "size": 2097152 } }\n'
            '  <- { "return": {} }\n  $ stat -c %s /srv/a/d\n  2097152\n', ''),
    'a refused command': (DISK + '::\n\n  -> { "execute": "block_resise" }\n'
                          '  <- { "return": {} }\n',
                          'block_resise has not been found'),
    'a refused command, of which nothing is said': (
        DISK + '::\n\n  { "execute": "block_resise" }\n', 'was refused'),
    'an event': (DISK + '::\n\n  -> { "execute": "stop" }\n'
                 '  <- { "return": {} }\n  <- { "event": "STOP" }\n', ''),
    'another event': (DISK + '::\n\n  -> { "execute": "quit" }\n'
                      '  <- { "return": {} }\n  <- { "event": "SHUTDOWN", '
                      '"data": { "guest": true, ... } }\n',
                      'no such event SHUTDOWN'),
    'dots that are sent': (DISK + '::\n\n  -> { "execute": "stop", ... }\n',
                           "can't be sent"),
    'no QEMU': ('::\n\n  -> { "execute": "stop" }\n', 'there is no QEMU'),
    'hosts': ('::\n\n  box1$ truncate -s 1M /srv/d; hostname\n  box1\n'
              '  box1$ qemu-nbd -f raw -x d -t /srv/d\n'
              '  $ echo /srv/*\n  /srv/a /srv/b /srv/c /srv/d /srv/e\n'
              '  box2$ qemu-img info nbd://box1/d\n'
              '  image: nbd://box1:10809/d\n  ...\n'
              '  box2$ ls /srv /tmp; hostname\n  /srv:\n  /tmp:\n  box2\n', ''),
}


HANGS = {'a command that hangs': (
    '::\n\n  $ true\n  $ sleep 100\n  $ true\n',
    '(?s)line [0-9]+:\n# it takes more than 1 seconds.*was not run')}
HEADING = '=====\nTexts\n=====\n\n'


def text_of(chapter: str, title: str = 'Title') -> str:
    return f'{HEADING}{title}\n{"-" * len(title)}\n\n{chapter}\n'


def check_comparisons() -> Iterator[str]:
    """Complaints about diff() and shape()"""
    for *wanted, text, said in LINES:
        for about, same in zip((True, False), wanted):
            if diff(text, said, about)[0] != same:
                yield f'about {about}: {text!r} and {said!r}'
    for *wanted, text, said in SHAPES:
        for about, same in zip((True, False), wanted):
            found = list(shape(*read_json(text), *read_json(said), about))
            if bool(found) == same:
                yield f'about {about}: {text} and {said}: {found}'


def check_marks(folder: Path) -> Iterator[str]:
    """Complaints about chapters()"""
    path = folder / 'unclear.rst'
    for text, what in UNCLEAR.items():
        path.write_text(text_of(text), 'utf-8')
        try:
            chapters(path)
            yield f'nothing is said of {text!r}'
        except Unclear as error:
            if what not in str(error):
                yield f'{text!r}: {error}'
    path = folder / 'well.md'
    path.write_text('# A\n\n```\n$ true\n```\n\n## B\n\n<!-- check-docs: run\n'
                    'true\n-->\n<!-- check-docs: about -->\n\n```sh\nx\n```\n',
                    'utf-8')
    _, found = chapters(path)
    if [len(chapter.items) for chapter in found] != [1, 2] or \
       not found[1].blocks()[0].mark('about'):
        yield f'Markdown: {found}'
    path = folder / 'well.rst'
    path.write_text(text_of(
        '::\n\n  $ a\n\nOne\n~~~\n\n::\n\n  $ b\n\nTwo\n~~~\n\n'
        '.. check-docs: fresh\n\n::\n\n  $ c\n\nNext\n----\n\n'
        '.. check-docs: same-shell\n\n::\n\n  $ d\n'), 'utf-8')
    _, found = chapters(path)
    if [(chapter.title, len(chapter.items)) for chapter in found] != [
            ('Title', 2), ('Title: Two, Next', 2)]:
        yield f'reStructuredText: {found}'


def run(folder: Path, texts: Dict[str, Tuple[str, str]], *args: str
        ) -> Iterator[str]:
    """Complaints about what check_docs.py says of chapters"""
    path = folder / 'texts.rst'
    path.write_text(HEADING + ''.join(
        text_of(chapter, title)[len(HEADING):]
        for title, (chapter, _) in texts.items()), 'utf-8')
    said = subprocess.run(
        [sys.executable, '-B', HERE / 'check_docs.py', *args, path],
        stdout=subprocess.PIPE, text=True, check=False).stdout
    parts = re.split(r'^(?=ok|not ok|1\.\.)', said, flags=re.M)[1:]
    if len(parts) != len(texts) + 1:
        yield said
    for (title, (_, wanted)), part in zip(texts.items(), parts):
        if '# SKIP' not in part and (
                part.startswith('ok') == bool(wanted) or
                wanted and not re.search(wanted, part)):
            yield f'{title}: {part}'


def main() -> int:
    """Make all checks."""
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks = {'comparisons': check_comparisons(),
                  'marks': check_marks(folder),
                  'wrong texts': run(folder, CHAPTERS, *sys.argv[1:]),
                  'a text that hangs': run(folder, HANGS, '--seconds', '1',
                                           *sys.argv[1:])}
        print(f'1..{len(checks)}')
        for number, (what, check) in enumerate(checks.items(), 1):
            complaints = list(check)
            failed += bool(complaints)
            print(f'{"not " if complaints else ""}ok {number} {what}')
            for complaint in complaints:
                print('# ' + complaint.strip().replace('\n', '\n# '))
    return bool(failed)


sys.exit(main())
