#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Draw costs.svg, which README shows, from the table "Times" of results.md.

usage: costs.py            write tools/bench/costs.svg
       costs.py --check    fail if it is not what would be written
"""

from pathlib import Path
import re
import sys
from typing import List, NamedTuple

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from svg import text        # noqa: E402

HERE = Path(__file__).resolve().parent
WIDTH, LEFT, RIGHT, TOP = 720, 240, 40, 58
BAR, GAP, BETWEEN = 16, 4, 12
# Readable on white and on black
STYLE = '''<style>
text { fill: #24292f; }
.axis { stroke: #8c959f; }
.same { stroke: #cf222e; stroke-dasharray: 5 3; }
.bar { fill: #0072b2; }
.value { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.same { stroke: #ff7b72; }
.bar { fill: #56b4e9; }
.value { fill: #0d1117; }
}
</style>'''


class Row(NamedTuple):
    """Of the table"""
    name: str
    values: List[float]


def parse(markdown: str) -> tuple[List[str], List[Row]]:
    """What the columns and the rows of the table are."""
    section = re.search(r'^## Times\n(.*?)^## ', markdown, re.M | re.S)
    assert section, 'results.md has no section "Times"'
    lines = [[cell.strip().replace('`', '') for cell in line.split('|')[1:-1]]
             for line in section[1].splitlines() if line.startswith('|')]
    return lines[0][2:], [Row(f'{cells[0]}\nagainst {cells[1]}',
                              [float(value) for value in cells[2:]])
                          for cells in lines[2:]]


def draw(columns: List[str], rows: List[Row]) -> str:
    """A bar for each figure; the line is where both take the same time."""
    group = len(columns) * (BAR + GAP) + BETWEEN
    bottom = TOP + len(rows) * group
    scale = (WIDTH - LEFT - RIGHT) / 1.0
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
           f'height="{bottom + 10}" viewBox="0 0 {WIDTH} {bottom + 10}" '
           'font-family="sans-serif" font-size="13" role="img">',
           '<!-- SPDX-License-Identifier: GPL-2.0-or-later -->',
           '<title>Time of a request, against another</title>', STYLE,
           text(LEFT, 20, 'Time of a request, against another', 'start',
                'font-size="15"'),
           text(LEFT + scale, 44, '1.00', 'middle')]
    for i, row in enumerate(rows):
        y = TOP + i * group
        for line, words in enumerate(row.name.split('\n')):
            out.append(text(LEFT - 76, y + 24 + 18 * line, words, 'end'))
        for column, value in zip(columns, row.values):
            out += [text(LEFT - 8, y + 13, column, 'end'),
                    f'<rect class="bar" x="{LEFT}" y="{y}" '
                    f'width="{value * scale:.1f}" height="{BAR}"/>',
                    text(LEFT + value * scale - 6, y + 13, f'{value:.2f}',
                         'end', 'class="value"')]
            y += BAR + GAP
    out += [f'<path class="axis" d="M{LEFT} {TOP - 6}V{bottom}"/>',
            f'<path class="same" d="M{LEFT + scale:.1f} {TOP - 6}V{bottom}"/>']
    return '\n'.join(out) + '\n</svg>\n'


def main() -> int:
    """Write the figure, or compare it."""
    columns, rows = parse((HERE / 'results.md').read_text(encoding='utf-8'))
    figure, file = draw(columns, rows), HERE / 'costs.svg'
    if sys.argv[1:] == ['--check']:
        if file.read_text(encoding='utf-8') != figure:
            print('tools/bench/costs.svg is not what results.md says: run '
                  'tools/bench/costs.py')
            return 1
    else:
        file.write_text(figure, encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
