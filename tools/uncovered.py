#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Compare the lines that no test reaches with tools/uncovered.txt, which explains
# them; how that is written is said there.  Fails if they differ.
#
# usage: uncovered.py FIGURES [LIST]
#   FIGURES  what "gcovr --json" has written
#   LIST     instead of tools/uncovered.txt

import json
from pathlib import Path
import re
import sys

TOP = Path(__file__).resolve().parents[1]


def source(file):
    path = TOP / file
    return path.read_text().splitlines() if path.exists() else []


def read_figures(path):
    """How often each line was reached: {file: {number: count}}"""
    figures = {}
    for file in json.loads(path.read_text())['files']:
        name = str((TOP / file['file']).resolve().relative_to(TOP))
        texts = source(name)
        lines = figures.setdefault(name, {})
        for line in file['lines']:
            number = line['line_number']
            # To some versions, a brace alone is code
            if re.search(r'\w', texts[number - 1]) and \
               not line.get('gcovr/noncode'):
                lines[number] = lines.get(number, 0) + line['count']
    return figures


class Piece:
    """A piece of a file in which there are lines that no test reaches"""
    def __init__(self, where, file):
        self.where = where
        self.file = file
        self.marks = []         # of each line: "-", "~" or " "
        self.texts = []

    def find(self):
        """The numbers of its lines in the file, and what is wrong with it"""
        lines = [(number, text.strip())
                 for number, text in enumerate(source(self.file), 1)
                 if text.strip()]
        size = len(self.texts)
        found = [place for place in (lines[i:i + size]
                                     for i in range(len(lines) - size + 1))
                 if [text for _, text in place] == self.texts]
        if not self.texts or not found:
            return [], 'is gone'
        if len(found) > 1:
            return [], 'is there more than once: add the lines around it'
        return [number for number, _ in found[0]], ''


def read_list(path):
    pieces = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line[0] == '#':
            continue
        if line[0] in ' -~':
            pieces[-1].marks.append(line[0])
            pieces[-1].texts.append(line[1:].strip())
        else:
            pieces.append(Piece(f'line {number}', line.split(':')[0]))
    return pieces


def check(figures, pieces):
    """What is wrong, and how many lines there are that no test reaches"""
    missed = {(file, number) for file, lines in figures.items()
              for number, count in lines.items() if count == 0}
    explained = set()
    wrong = [] if figures else ['There are no figures']
    for piece in pieces:
        numbers, error = piece.find()
        counts = figures.get(piece.file, {})
        marked = [(number, mark) for number, mark in zip(numbers, piece.marks)
                  if mark != ' ' and number in counts]
        reached = [number for number, mark in marked
                   if mark == '-' and counts[number]]
        if reached:
            error = f'is reached now, in line {reached[0]}'
        elif not error and not marked:
            error = 'has no line of code that is marked'
        if error:
            wrong.append(f'tools/uncovered.txt, {piece.where}: this piece of '
                         f'{piece.file} {error}')
        explained |= {(piece.file, number) for number, _ in marked}
    for file, number in sorted(missed - explained):
        wrong.append(f'{file}:{number}: no test reaches this, and '
                     f'tools/uncovered.txt does not say why: '
                     f'{source(file)[number - 1].strip()}')
    return wrong, len(missed)


def main():
    path = Path(sys.argv[2]) if sys.argv[2:] else TOP / 'tools/uncovered.txt'
    wrong, missed = check(read_figures(Path(sys.argv[1])), read_list(path))
    if wrong:
        sys.exit('\n'.join(wrong))
    print(f'{missed} lines that no test reaches, all explained in '
          'tools/uncovered.txt')


main()
