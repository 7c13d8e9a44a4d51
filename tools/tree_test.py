#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Test what can be seen of this repository without running it: where files are,
and how they are written.  Speaks TAP.

usage: tree_test.py BUILD      BUILD/qemu is the patched tree
       tree_test.py --shrink   bring tools/ratchet.txt up to date, where what
                               it lists has become less
"""

from collections import Counter
from functools import lru_cache
from pathlib import Path
import os
import re
import subprocess
import sys
from typing import Dict, Iterator, List, Tuple

TOP = Path(__file__).resolve().parents[1]
RATCHET = TOP / 'tools/ratchet.txt'
MAX_LINES = 70
PATCH_LINES = 1000

Complaints = Iterator[str]
# How much there is of what should not be: by kind, file and (if any) function,
# the figure and what it counts
Figures = Dict[str, Tuple[int, str]]

# The first one goes on where another comment has ended.  The others are words
# for which this project has plainer ones: child, repair, again, deferred ...
BANNED = re.compile(
    r'^\s*\.\.\.|\b(?:no|some|any)body\b|\bbef[ae]ll\w*|\bthrice\b|'
    r'\banew\b|\bfor ever\b|\bin (?:their|its) stead\b|\bmend(?:s|ed|ing)?\b|'
    r'\bcur(?:e|es|ed|ing)\b|\bballots?\b|\bspar(?:e|es|ed|ing)\b', re.I)


@lru_cache()
def files(*folders: str) -> List[str]:
    """The files of this repository, by their paths."""
    names = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others',
                            '--exclude-standard', '--', *folders], cwd=TOP,
                           check=True, stdout=subprocess.PIPE, text=True)
    return sorted(name for name in names.stdout.split('\0')
                  if name and (TOP / name).exists())


def c_files(*folders: str) -> List[str]:
    return [name for name in files(*folders)
            if name.endswith(('.c', '.h', '.pml'))]


def read(name: str) -> str:
    return (TOP / name).read_text(encoding='utf-8')


def split_comments(text: str) -> Tuple[str, List[str]]:
    """C without its comments, and these, each in one line."""
    comments: List[str] = []

    def take(match: 're.Match[str]') -> str:
        if match[1] is None:        # a string or a character
            return match[0]
        comments.append(re.sub(r'\s*\n[\s*]*', ' ', match[1]))
        return ' '

    code = re.sub(r'/\*+(.*?)\*/|"(?:\\.|[^"\\\n])*"|' r"'(?:\\.|[^'\\\n])+'",
                  take, text, flags=re.S)
    return code, comments


# --- where files are ---

def our_files() -> List[str]:
    """Those that go into QEMU.  Each file of these folders does."""
    return files('block', 'contrib', 'include', 'docs', 'tests', 'scripts')


def check_series() -> Complaints:
    """The file series names each file that goes into QEMU, once."""
    text = read('series')
    named = Counter(re.findall(r'^ +(\S+)$', text, re.M))
    for name, title in re.findall(r'^ +(\S+): (.*)', text, re.M):
        if not re.search(rf'^{re.escape(title)}\n[-~]+$', read(name), re.M):
            yield f'{name} has no chapter "{title}", which is in series'
    for name in sorted({*our_files(), *named}):
        if name not in our_files():
            yield f'{name} is in series, but is not there'
        elif named[name] != 1:
            yield f'{name} is in series {named[name]} times'
    for patch, lines in re.findall(r'^(\d{4}-\S+)\n((?: .*\n)*)', text, re.M):
        size = patch_size(patch, re.findall(r'^ +(block/\S+\.[ch])$', lines,
                                            re.M))
        if size > PATCH_LINES:
            yield (f'{patch} adds {size} lines of C to block/: nobody reads '
                   f'more than {PATCH_LINES} at once')


def patch_size(patch: str, names: List[str]) -> int:
    """How many lines of C a patch adds to block/, with the new files."""
    size = sum(read(name).count('\n') for name in names)
    for part in read(f'patches/{patch}').split('\ndiff --git ')[1:]:
        if re.match(r'a/block/\S+\.[ch] ', part):
            size += len(re.findall(r'^\+(?!\+\+ )', part, re.M))
    return size


def check_links(build: Path) -> Complaints:
    """Each of them is a link in BUILD/qemu, and no other file is."""
    tree = build / 'qemu'
    links = {str(path.relative_to(tree)): os.readlink(path)
             for folder, dirs, names in os.walk(tree)
             for path in (Path(folder, name) for name in dirs + names)
             if path.is_symlink()}
    ours = {name: target for name, target in links.items()
            if target.startswith(f'{TOP}/')}
    # What is different for another base is no link, but a file of the tree.
    compat = TOP / f'compat/{build.name}.patch'
    edited = re.findall(r'^\+\+\+ b/(.*)', compat.read_text(encoding='utf-8'),
                        re.M) if compat.exists() else []
    wanted = {name: f'{TOP}/{name}'
              for name in our_files() if name not in edited}
    for name in sorted({*ours, *wanted}):
        if ours.get(name) != wanted.get(name):
            yield (f'{tree}/{name} links to {ours.get(name, "nothing")}, '
                   f'not to {wanted.get(name, "nothing")}')


def check_unit_tests(build: Path) -> Complaints:
    """Each unit test of ours is built, and so run: meson.build names it."""
    names = set(re.findall(r"'((?:test|fuzz)-[\w-]+)'", (
        build / 'qemu/tests/unit/meson.build').read_text('utf-8')))
    for name in our_files():
        match = re.fullmatch(r'tests/unit/((?:test|fuzz)-[\w-]+)\.c', name)
        if match and match[1] not in names | {'fuzz-replay'}:
            yield f'{name} is not in tests/unit/meson.build'


def check_spdx() -> Complaints:
    """Each file says its license, unless its format has no comments."""
    for name in files():
        if (name.endswith(('.md', '.out', 'COPYING', 'MAINTAINERS', 'series'))
                or name == '.gitignore'
                or name.startswith(('patches/', 'compat/'))):
            continue
        head = read(name).splitlines()[:12]
        if not any('SPDX-License-Identifier: GPL-2.0-or-later' in line
                   for line in head):
            yield f'{name} has no SPDX line'


# --- how they are written ---

def check_names() -> Complaints:
    """Functions that docs/devel and comments name are there."""
    sources = {name: split_comments(read(name))
               for name in c_files('block', 'include')}
    words = set(re.findall(r'\w+', ' '.join(code for code, _ in
                                            sources.values())))
    named = {(name, function) for name in files('docs/devel')
             for pair in re.findall(r'``(\w+)\(\)``|``(quorum_\w+)``',
                                    read(name))
             for function in pair if function}
    named |= {(name, function) for name, (_, comments) in sources.items()
              for function in re.findall(r'\b(quorum_\w+)\(\)',
                                         ' '.join(comments))}
    for name, function in sorted(named):
        if function not in words:
            yield f'{name} names {function}(), which is not there'


def check_meanings() -> Complaints:
    """What qemu-quorum explains of the driver's errors, the driver says."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(TOP / 'scripts'))
    # pylint: disable=import-outside-toplevel,import-error
    from qemu_quorum.errors import MEANINGS
    code = ' '.join(split_comments(read(name))[0] for name in c_files('block'))
    said = re.sub(r'"\s*"', '', code)
    for pattern, _, _ in MEANINGS:
        if '|' in pattern or pattern.startswith('No such file'):
            continue            # QEMU's own, or the system's
        words = max(re.split(r'\([^)]*\)|\.\*|\\\.', pattern), key=len)
        if words not in said:
            yield f'errors.py explains what the driver does not say: {pattern}'


def long_functions() -> Figures:
    """Lines in the bodies of functions that do not fit on a screen."""
    found: Figures = {}
    for name in c_files('block', 'tests/unit', 'tools'):
        lines = read(name).splitlines()
        for start in [i for i, line in enumerate(lines) if line == '{']:
            head = next(line for line in reversed(lines[:start])
                        if re.match(r'\w', line))
            length = lines.index('}', start) - start - 1
            if length > MAX_LINES:
                function = head.split('(')[0].split()[-1].lstrip('*')
                found[f'function {name} {function}'] = length, 'lines'
    return found


def banned_phrases() -> Figures:
    """Such words in comments, and in all of docs/devel."""
    texts = {name: split_comments(read(name))[1]
             for name in c_files('block', 'include', 'tests/unit',
                                 'docs/devel')}
    for name in files('docs/devel'):
        if name.endswith('.rst'):
            texts[name] = [re.sub(r'\s*\n *', ' ', read(name))]
    phrases = {name: [phrase.strip().lower() for text in texts[name]
                      for phrase in BANNED.findall(text)] for name in texts}
    return {f'phrases {name}': (len(found), ', '.join(sorted(set(found))))
            for name, found in phrases.items() if found}


MEASURES = {'function': long_functions, 'phrases': banned_phrases}


def read_ratchet() -> Dict[str, int]:
    """What tools/ratchet.txt allows."""
    return {what: int(figure) for what, figure in
            re.findall(r'^(\w.*) (\d+)$', RATCHET.read_text('utf-8'), re.M)}


def check_ratchet(kind: str) -> Complaints:
    """There is exactly as much of it as tools/ratchet.txt says."""
    found = MEASURES[kind]()
    allowed = {what: figure for what, figure in read_ratchet().items()
               if what.startswith(f'{kind} ')}
    for what in sorted({*found, *allowed}):
        have, which = found.get(what, (0, ''))
        may = allowed.get(what, 0)
        if have > may:
            yield (f'{what}: {have} ({which}), and tools/ratchet.txt allows '
                   f'{may}')
        elif have < may:
            yield (f'{what} was {may}, and is {have or "well"} now: '
                   'run tools/tree_test.py --shrink')


def shrink() -> None:
    """Lower the figures of tools/ratchet.txt to what there is."""
    found = {what: figure for measure in MEASURES.values()
             for what, (figure, _) in measure().items()}
    head = re.match(r'(#.*\n)*', RATCHET.read_text('utf-8'))
    assert head
    RATCHET.write_text(head[0] + ''.join(
        f'{what} {min(figure, found[what])}\n'
        for what, figure in read_ratchet().items() if what in found), 'utf-8')


def main() -> int:
    """Make all checks, or shrink."""
    if sys.argv[1:] == ['--shrink']:
        shrink()
        return 0
    checks = {
        'series': check_series(), 'links': check_links(Path(sys.argv[1])),
        'unit tests': check_unit_tests(Path(sys.argv[1])),
        'spdx': check_spdx(), 'names of functions': check_names(),
        'meanings of errors': check_meanings(),
        'length of functions': check_ratchet('function'),
        'comments': check_ratchet('phrases'),
    }
    failed = 0
    print(f'1..{len(checks)}')
    for number, (name, check) in enumerate(checks.items(), 1):
        complaints = list(check)
        failed += bool(complaints)
        print(f'{"not " if complaints else ""}ok {number} {name}')
        for complaint in complaints:
            print(f'# {complaint}')
    return bool(failed)


sys.exit(main())
