# SPDX-License-Identifier: GPL-2.0-or-later
"""
What there is to run in a text: its chapters, and the blocks and the marks of
each, in their order.  tools/check-docs says what marks there are.
"""

from dataclasses import dataclass, field
from pathlib import Path
import re
import textwrap
from typing import Iterator, List, Optional, Tuple, Union

# Marks that say what to do with the block behind them, and the others
ABOUT_A_BLOCK = ('about', 'commands', 'long', 'not-run', 'use', 'output')
BY_THEMSELVES = ('run', 'prelude', 'same-shell', 'fresh')
WITH_BODY = ('run', 'prelude', 'use', 'output')


class Unclear(Exception):
    """Something in a text that nothing can be made of"""
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass
class Mark:
    """A comment for check-docs"""
    line: int
    word: str
    args: str = ''
    body: str = ''


@dataclass
class Block:
    """A literal block, with the marks before it"""
    line: int
    text: str
    marks: List[Mark] = field(default_factory=list)

    def mark(self, word: str) -> Optional[Mark]:
        return next((mark for mark in self.marks if mark.word == word), None)


@dataclass
class Chapter:
    """What shares one environment"""
    line: int
    title: str
    level: int = 2
    items: List[Union[Mark, Block]] = field(default_factory=list)

    def blocks(self) -> List[Block]:
        return [item for item in self.items if isinstance(item, Block)]


Piece = Union[Mark, Block, Chapter]


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def indented(lines: List[str], start: int, more_than: int) -> int:
    """The index behind what is indented by more than @more_than columns."""
    end = start
    for i in range(start, len(lines)):
        if lines[i].strip():
            if indentation(lines[i]) <= more_than:
                break
            end = i + 1
    return end


def new_mark(line: int, head: str, body: str) -> Mark:
    word, _, args = head.strip().partition(' ')
    mark = Mark(line, word, args.strip(), textwrap.dedent(body).strip('\n'))
    if word not in ABOUT_A_BLOCK + BY_THEMSELVES:
        raise Unclear(line, f"unknown mark '{word}'")
    if bool(mark.body) != (word in WITH_BODY):
        raise Unclear(line, f"the mark '{word}' "
                      + ('can have no body' if mark.body else 'has no body'))
    if word == 'not-run' and not mark.args:
        raise Unclear(line, "the mark 'not-run' gives no reason")
    if mark.args and word not in ('not-run', 'use'):
        raise Unclear(line, f"the mark '{word}' can't have '{mark.args}'")
    return mark


class Rst:
    """reStructuredText, as far as needed"""

    ADORNMENT = re.compile(r'([=\-~^"\'.+*#`:_])\1{2,}\s*$')
    MARK = re.compile(r'\s*\.\. check-docs:(?!:) *(.*)')
    CODE = re.compile(r'\s*\.\. (?:code-block|code|parsed-literal)::')
    BULLET = re.compile(r'\s*(?:[-*+]|\d+\.|#\.)\s+')

    def __init__(self, text: str) -> None:
        self.lines = text.split('\n')
        self.styles: List[Tuple[str, bool]] = []    # of headings, by level
        self.next = 0

    def pieces(self) -> Iterator[Piece]:
        while self.next < len(self.lines):
            piece = self._piece()
            if piece:
                yield piece

    def _piece(self) -> Optional[Piece]:
        """What begins at the next line, if anything; and go behind it."""
        number, line = self.next, self.lines[self.next]
        self.next += 1
        match = self.MARK.match(line)
        if match:
            start = self.next
            self.next = indented(self.lines, start, indentation(line))
            return new_mark(number + 1, match[1],
                            '\n'.join(self.lines[start:self.next]))
        if re.match(r'\.\. check-docs', line.strip()):
            raise Unclear(number + 1, 'write it as: .. check-docs: MARK')
        if self.CODE.match(line):
            return self._block(indentation(line), True)
        if line.lstrip().startswith('.. '):     # another directive
            return None
        if line.rstrip().endswith('::'):
            bullet = self.BULLET.match(line)
            return self._block(bullet.end() if bullet and
                               line.strip() != '::' else indentation(line),
                               False)
        return self._heading(number)

    def _block(self, outer: int, directive: bool) -> Optional[Block]:
        start = self.next
        end = indented(self.lines, start, outer)
        lines = self.lines[start:end]
        while directive and lines and re.match(r'\s+:[\w-]+:', lines[0]):
            lines.pop(0)
            start += 1
        while lines and not lines[0].strip():
            lines.pop(0)
            start += 1
        self.next = max(end, self.next)
        if not lines:
            return None
        return Block(start + 1, textwrap.dedent('\n'.join(lines)))

    def _heading(self, number: int) -> Optional[Chapter]:
        """A title: @number is its underline."""
        match = self.ADORNMENT.match(self.lines[number])
        title = self.lines[number - 1] if number else ''
        if not match or not title.strip() or title[0] == ' ' and number < 2 \
           or self.ADORNMENT.match(title):
            return None
        over = number > 1 and self.lines[number - 2] == self.lines[number]
        if len(self.lines[number].strip()) < len(title.rstrip()) or (
                number > 1 and not over and self.lines[number - 2].strip()):
            return None
        style = match[1], over
        if style not in self.styles:
            self.styles.append(style)
        return Chapter(number, title.strip(), self.styles.index(style) + 1)


class Markdown:
    """Markdown, as far as needed"""

    def __init__(self, text: str) -> None:
        self.text = text

    def pieces(self) -> Iterator[Piece]:
        for match in re.finditer(
                r'^ *<!--\s*check-docs: *([^\n]*?)\s*(?:\n(.*?))?-->'
                r'|^( *)(```+)[^\n`]*\n(.*?)^\3\4`*[ ]*$'
                r'|^(#+) +([^\n]+)$',
                self.text, re.M | re.S):
            line = self.text.count('\n', 0, match.start()) + 1
            if match[1] is not None:
                yield new_mark(line, match[1], match[2] or '')
            elif match[4]:
                yield Block(line + 1, textwrap.dedent(match[5]).rstrip('\n'))
            else:
                yield Chapter(line, match[7].strip(), len(match[6]))


class Sorter:
    """Puts the pieces of a text into its chapters"""

    def __init__(self, name: str) -> None:
        self.preludes: List[Mark] = []
        self.chapters = [Chapter(1, name)]
        self.marks: List[Mark] = []     # for the next block
        self.section = ''               # of the last chapter

    def take(self, piece: Piece) -> None:
        if isinstance(piece, Block):
            piece.marks, self.marks = self.marks, []
            self.chapters[-1].items.append(piece)
        elif isinstance(piece, Mark):
            self._take_mark(piece)
        else:
            self.complain_of_marks()
            if piece.level <= 2:
                self.chapters.append(piece)
            self.section = piece.title

    def _take_mark(self, mark: Mark) -> None:
        last = self.chapters[-1]
        if mark.word == 'prelude':
            self.preludes.append(mark)
        elif mark.word == 'same-shell':
            if last.items or len(self.chapters) < 2:
                raise Unclear(mark.line,
                              "'same-shell' is not at the start of a chapter")
            self.chapters.pop()
            self.chapters[-1].title += f', {last.title}'
        elif mark.word == 'fresh':
            title = last.title.split(': ')[0]
            self.chapters.append(Chapter(mark.line, f'{title}: {self.section}'))
        elif mark.word == 'run':
            last.items.append(mark)
        else:
            self.marks.append(mark)

    def complain_of_marks(self) -> None:
        if self.marks:
            raise Unclear(self.marks[0].line, 'no block follows this mark')


def chapters(path: Path) -> Tuple[List[Mark], List[Chapter]]:
    """The preludes of a text, and its chapters that have something to run"""
    text = path.read_text(encoding='utf-8')
    sorter = Sorter(path.name)
    for piece in (Markdown if path.suffix == '.md' else Rst)(text).pieces():
        sorter.take(piece)
    sorter.complain_of_marks()
    return sorter.preludes, [chapter for chapter in sorter.chapters
                             if chapter.blocks()]
