#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Print what came of the test quorum-hazards on two builds, a line for each of
its methods, and succeed if all were red on the first, and green on the second.

usage: hazards_table.py PRISTINE-LOG OUR-LOG TEST...

The logs are those of the test with -v.  Red is an assertion that has failed;
anything else that goes wrong is an error.  A test that can't run here is skipped.
"""

from pathlib import Path
import re
import sys

COLOUR = {'ok': 'green', 'FAIL': 'red', 'skipped': 'skipped'}


def read_log(path: Path, titles: dict[str, tuple[str, str]]) -> dict[str, str]:
    """
    The colour of each test.  In a log it has two lines or more: its name, then
    what it is about (which goes into TITLES), and what came of it.
    """
    colours = {}
    test = ''
    for line in path.read_text(errors='replace').splitlines():
        if name := re.match(r'(test_\d\d_\w+)', line):
            test = name[1]
        if title := re.match(r'Promise ([^:]*): (.*?) \.\.\. ', line):
            titles.setdefault(test, (title[1], title[2]))
        if end := re.search(r'(?:^| )(?:(ok|FAIL|ERROR)$|(skipped) )', line):
            colours.setdefault(test, COLOUR.get(end[1] or end[2],
                                               'error'))
    return colours


def main() -> int:
    """Print the table."""
    paths, tests = [Path(arg) for arg in sys.argv[1:3]], sys.argv[3:]
    titles: dict[str, tuple[str, str]] = {}
    logs = [read_log(path, titles) for path in paths]
    print(f'\n{"#":>2}  {"promise":>7}  {"":62} {"pristine":9} ours')
    for test in tests:
        promise, title = titles.get(test, ('', ''))
        pristine, ours = (log.get(test, 'error') for log in logs)
        print(f'{int(test[5:7]):2}  {promise:>7}  {title:62} '
              f'{pristine:9} {ours}')
    tests = [test for test in tests
             if any(log.get(test) != 'skipped' for log in logs)]
    red = sum(logs[0].get(test) == 'red' for test in tests)
    green = sum(logs[1].get(test) == 'green' for test in tests)
    print(f'\n{red} of {len(tests)} red on pristine QEMU, '
          f'{green} of {len(tests)} green here')
    if red == green == len(tests):
        return 0
    print('what they said is in', *paths)
    return 1


sys.exit(main())
