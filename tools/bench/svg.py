# SPDX-License-Identifier: GPL-2.0-or-later
"""A line chart, as SVG."""

import math
from typing import Dict, List, NamedTuple, Tuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 76, 60
# Told apart also by those who can't tell red from green
COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9',
           '#000000']


class Chart(NamedTuple):
    """Curves of y over x; x is spaced by its logarithm if asked to."""
    title: str
    x_label: str
    y_label: str
    curves: Dict[str, List[Tuple[float, float]]]
    log_x: bool = False

    def render(self) -> str:
        points = [p for curve in self.curves.values() for p in curve]
        xs = sorted({x for x, _ in points})
        step = nice_step(max(y for _, y in points))
        top = step * math.ceil(max(y for _, y in points) / step)

        def place(x: float) -> float:
            scale = math.log if self.log_x else float
            low, high = scale(xs[0]), scale(xs[-1])
            share = (scale(x) - low) / (high - low) if high > low else 0.5
            return LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20)

        def height(y: float) -> float:
            return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

        out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
               f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
               f'font-family="sans-serif" font-size="13">',
               f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
               text(WIDTH / 2, 20, self.title, 'middle', 'font-size="15"'),
               text(WIDTH / 2, HEIGHT - 16, self.x_label, 'middle'),
               text(18, (HEIGHT + TOP - BOTTOM) / 2, self.y_label, 'middle',
                    f'transform="rotate(-90 18 '
                    f'{(HEIGHT + TOP - BOTTOM) / 2:.0f})"')]
        for i in range(round(top / step) + 1):
            y = height(i * step)
            out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" '
                       f'stroke="{"#888" if i == 0 else "#ddd"}"/>')
            out.append(text(LEFT - 8, y + 4, f'{i * step:g}', 'end'))
        for x in xs:
            out.append(f'<path d="M{place(x):.1f} {HEIGHT - BOTTOM}v5" '
                       f'stroke="#888"/>')
            out.append(text(place(x), HEIGHT - BOTTOM + 20, f'{x:g}',
                            'middle'))
        at, line = LEFT, 38
        for i, (name, curve) in enumerate(self.curves.items()):
            colour = COLOURS[i % len(COLOURS)]
            dashes = '' if i % 2 == 0 else ' stroke-dasharray="6 3"'
            path = 'L'.join(f'{place(x):.1f} {height(y):.1f}'
                            for x, y in curve)
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" '
                       f'stroke-width="2"{dashes}/>')
            out += [f'<circle cx="{place(x):.1f}" cy="{height(y):.1f}" r="3" '
                    f'fill="{colour}"/>' for x, y in curve]
            if at + 30 + 8 * len(name) > WIDTH - RIGHT:
                at, line = LEFT, line + 20
            out.append(f'<path d="M{at} {line}h24" stroke="{colour}" '
                       f'stroke-width="2"{dashes}/>')
            out.append(text(at + 30, line + 4, name, 'start'))
            at += 30 + 8 * len(name) + 16
        return '\n'.join(out) + '\n</svg>\n'


def nice_step(top: float) -> float:
    """A round step that makes 4 to 10 lines up to @top."""
    step = 10.0 ** math.floor(math.log10(top)) if top > 0 else 1.0
    while top / step < 4:
        step /= 2 if f'{step:.0e}'[0] != '5' else 2.5
    return step


def text(x: float, y: float, words: str, anchor: str, more: str = '') -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>'
            f'{escape(words)}</text>')
