#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Compare our driver with the one of pristine QEMU, and with what its children
alone would take.

Each row of the table is a load, most of them of "qemu-img bench" on files in
memory; it has one or more figures, and some of these a target.  Figures are
medians of ratios within one round, in which all contestants take a turn.  What
misses its target by less than the better quarter of the rounds is "noise".

usage: bench.py BUILD [--runs N] [--list] [--compile] [ROW...]

Leaves BUILD/bench/results.json, or ROW.json for each ROW that is named, and a
plot ROW.svg of each row that is a curve.
"""

import argparse
import json
import os
import sys
import time

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from contest import Bench, PROGRAMS, ROWS, Skip     # noqa: E402
import loads                                # noqa: E402,F401
import curves                               # noqa: E402,F401
import resync                               # noqa: E402,F401
import delays                               # noqa: E402,F401
import state                                # noqa: E402,F401
import checked                              # noqa: E402,F401


def main() -> int:
    """Run the rows and print a table."""
    parser = argparse.ArgumentParser(description='ours : pristine : children')
    parser.add_argument('build')
    parser.add_argument('--runs', type=int, default=5, metavar='N',
                        help='rounds that count (default: 5)')
    parser.add_argument('--list', action='store_true',
                        help='print the names of the rows, and end')
    parser.add_argument('rows', nargs='*', metavar='ROW')
    parser.add_argument('--compile', action='store_true',
                        help='compile the programs that rows run, and end')
    args = parser.parse_intermixed_args()
    if args.list:
        print(*ROWS, sep='\n')
        return 0
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f'no such row: {", ".join(sorted(unknown))}; '
                     f'there are: {", ".join(ROWS)}')
    if args.runs < 1:
        parser.error(f'--runs {args.runs}: at least one round is needed')

    if args.compile:
        with Bench(args.build, args.runs) as bench:
            for name in PROGRAMS:
                bench.make('ours', name)
        return 0

    start = time.monotonic()
    skipped = {}
    with Bench(args.build, args.runs) as bench:
        about = bench.about()
        for key, value in about.items():
            print(f'{key + ":":20} {value}')
        print(f'\n{"row":14} {"figure":45} {"median":>8} {"target":>8}')
        for name in args.rows or ROWS:
            bench.row = name
            try:
                ROWS[name](bench)
            except Skip as reason:
                skipped[name] = str(reason)
                print(f'{name:14} skipped: {reason}')
        took = time.monotonic() - start

        result = {
            'about': about,
            'seconds': round(took),
            'skipped': skipped,
            'figures': [figure._asdict() for figure in bench.figures],
            'values': bench.raw,
        }
        os.makedirs(f'{args.build}/bench', exist_ok=True)
        for name in args.rows or ['results']:
            with open(f'{args.build}/bench/{name}.json', 'w',
                      encoding='ascii') as file:
                json.dump(result, file, indent=1)

    met = [figure.met for figure in bench.figures]
    print(f'\n{met.count("yes")} targets met, {met.count("noise")} within the '
          f'noise, {met.count("no")} missed; {len(skipped)} rows skipped; '
          f'{took:.0f} s.  In {args.build}/bench: *.json, *.svg')
    return 0


if __name__ == '__main__':
    sys.exit(main())
