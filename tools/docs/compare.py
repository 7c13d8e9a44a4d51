# SPDX-License-Identifier: GPL-2.0-or-later
"""
Whether what a command has said is what a text says.  tools/check-docs says
what is equal.
"""

import json
import re
from typing import Any, Iterator, List, Tuple

# --- lines of text ---

NUMBER = r'\d+(?:\.\d+)?'
UUID = r'[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}'
BYTES = r'(?:bytes|[KMGTPE]?i?B)'
# What matches any of its kind
KINDS = [
    UUID,
    r'#block\d+',
    r'\d{4}-\d\d-\d\d',
    r'\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?',
    rf'{NUMBER} ?(?:{BYTES}|ops)/s(?:ec)?\b',
    rf'{NUMBER} ?(?:ms|us|ns|s|sec|seconds|minutes)\b(?!/)',
    r'\bpid \d+\b',
    r'^\[\d+\] \d+$',
]
# With the mark "about": a number, with the unit of a size
SIZE = rf'{NUMBER}(?: ?{BYTES}(?![\w/]))?'
ZERO = rf'0+(?:\.0+)?(?: ?{BYTES}(?![\w/]))?'

TOKEN = re.compile('|'.join([r'(?P<any>\.\.\.)', *(
    f'(?P<kind{i}>{kind})' for i, kind in enumerate(KINDS))]))
SIZES = re.compile(rf'(?<![\w.#]){SIZE}(?![\w.])')


def squeeze(line: str) -> str:
    return ' '.join(line.split())


def literal(text: str, about: bool) -> str:
    """A pattern for a part of a line"""
    if not about:
        return re.escape(text)
    result, end = '', 0
    for match in SIZES.finditer(text):
        result += re.escape(text[end:match.start()])
        result += ZERO if re.fullmatch(ZERO, match[0]) else \
            rf'(?!{ZERO}(?![\w.])){SIZE}'
        end = match.end()
    return result + re.escape(text[end:])


def pattern(expected: str, about: bool) -> 're.Pattern[str]':
    """What a line must be, without the blanks that don't count"""
    expected = squeeze(expected)
    result, end = '', 0
    for match in TOKEN.finditer(expected):
        result += literal(expected[end:match.start()], about)
        assert match.lastgroup
        result += '.*' if match['any'] else \
            KINDS[int(match.lastgroup.removeprefix('kind'))]
        end = match.end()
    result += literal(expected[end:], about)
    # Blanks beside "..." are part of it.
    return re.compile(result.replace(r'\ .*', r'(?:\ .*)?')
                      .replace(r'.*\ ', r'(?:.*\ )?'))


def diff(expected: str, actual: str, about: bool = False
         ) -> Tuple[bool, List[str]]:
    """
    Whether the lines are equal, and a diff: the cheapest one, in which a
    line "..." takes any lines for nothing.
    """
    want = [line for line in expected.split('\n') if line.strip()]
    have = [line for line in actual.split('\n') if line.strip()]
    patterns = [None if line.strip() == '...' else pattern(line, about)
                for line in want]
    rows, columns = len(want), len(have)
    # cost[i][j] of making have[j:] of want[i:], and the first step of that
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]
    step = [[''] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows, -1, -1):
        for j in range(columns, -1, -1):
            ways = []
            if i < rows and patterns[i] is None:
                ways.append((cost[i + 1][j], 'end'))
                if j < columns:
                    ways.append((cost[i][j + 1], 'any'))
            else:
                if i < rows and j < columns and \
                   patterns[i].fullmatch(squeeze(have[j])):
                    ways.append((cost[i + 1][j + 1], 'same'))
                if i < rows:
                    ways.append((cost[i + 1][j] + 1, 'gone'))
                if j < columns:
                    ways.append((cost[i][j + 1] + 1, 'new'))
            cost[i][j], step[i][j] = min(ways, default=(0, 'stop'))
    i = j = 0
    lines: List[str] = []
    while step[i][j] not in ('stop', ''):
        way = step[i][j]
        if way in ('gone', 'end'):
            lines.append(('- ' if way == 'gone' else '  ') + want[i])
        elif way != 'any':
            lines.append(('+ ' if way == 'new' else '  ') + have[j])
        i += way in ('same', 'gone', 'end')
        j += way in ('same', 'new', 'any')
    return cost[0][0] == 0, lines


# --- JSON ---

class More:
    """What "..." stands for"""
    def __repr__(self) -> str:
        return '...'


MORE = More()
JSON_TOKEN = re.compile(
    r'\s*(?:(?P<more>\.\.\.)|(?P<mark>[{}\[\]:,])|(?P<string>"(?:\\.|[^"\\])*")'
    r'|(?P<word>-?\d[\d.eE+-]*|true|false|null))', re.S)


class JsonError(Exception):
    """It is no JSON"""


class Reader:
    """
    JSON, in which "..." may stand for members, elements or a value, and
    strings may be broken into lines.
    """
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def _take(self) -> Any:
        match = JSON_TOKEN.match(self.text, self.at)
        if not match:
            raise JsonError('no JSON: ' + squeeze(self.text[self.at:])[:60])
        self.at = match.end()
        return match

    def _peek(self) -> str:
        match = JSON_TOKEN.match(self.text, self.at)
        return match[0].strip() if match else ''

    def value(self) -> Any:
        token = self._take()
        if token['more']:
            return MORE
        if token['mark'] == '{':
            return self._members()
        if token['mark'] == '[':
            return self._elements()
        if token['mark']:
            raise JsonError(f"no JSON: '{token['mark']}' is not expected")
        if token['string']:
            return json.loads(re.sub(r'\s*\n\s*', ' ', token['string']))
        return json.loads(token['word'])

    def _expect(self, mark: str) -> None:
        if self._take()['mark'] != mark:
            raise JsonError(f"no JSON: '{mark}' is missing before: "
                            + squeeze(self.text[self.at:])[:60])

    def _members(self) -> Any:
        result: Any = {}
        while self._peek() != '}':
            key = self.value()
            if key is MORE:
                result[MORE] = True
            else:
                self._expect(':')
                result[key] = self.value()
            if self._peek() != '}':
                self._expect(',')
        self._expect('}')
        return result

    def _elements(self) -> Any:
        result: Any = []
        while self._peek() != ']':
            result.append(self.value())
            if self._peek() != ']':
                self._expect(',')
        self._expect(']')
        return result

    def at_end(self) -> bool:
        return not self.text[self.at:].strip()


def read_json(text: str) -> List[Any]:
    """All that there is, one behind the other"""
    reader, result = Reader(text), []
    while not reader.at_end():
        result.append(reader.value())
    return result


def has_more(value: Any) -> bool:
    """Whether "..." is in it, so that it can't be sent"""
    if isinstance(value, dict):
        return MORE in value or any(map(has_more, value.values()))
    if isinstance(value, list):
        return any(map(has_more, value))
    return value is MORE


VARYING = re.compile(r'.*(-ms|-ns|seconds|bytes-per-second)|session|sequence')


def shape(want: Any, have: Any, about: bool = False, path: str = ''
          ) -> Iterator[str]:
    """Where @have is not what @want says"""
    here = path or 'it'
    if want is MORE:
        return
    if isinstance(want, dict) and isinstance(have, dict):
        for key in want:
            if key is MORE:
                continue
            if key not in have:
                yield f'{path}.{key}: is not there'
            elif not (isinstance(want[key], type(have[key])) and
                      VARYING.fullmatch(key)):
                yield from shape(want[key], have[key], about, f'{path}.{key}')
        for key in have:
            if key not in want and MORE not in want and not (
                    key == 'timestamp' and 'event' in have):
                yield f'{path}.{key}: the text does not have it'
    elif isinstance(want, list) and isinstance(have, list):
        yield from list_shape(want, have, about, path)
    elif isinstance(want, str) and isinstance(have, str):
        if not pattern(want, about).fullmatch(squeeze(have)):
            yield f'{here}: {have!r} instead of {want!r}'
    elif about and is_number(want) and is_number(have):
        if bool(want) != bool(have):
            yield f'{here}: {have!r} instead of about {want!r}'
    elif want != have or isinstance(want, bool) != isinstance(have, bool):
        yield f'{here}: {have!r} instead of {want!r}'


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def list_shape(want: List[Any], have: List[Any], about: bool, path: str
               ) -> Iterator[str]:
    """With "..." in it, the others must be there in their order."""
    named = [value for value in want if value is not MORE]
    if MORE not in want:
        if len(want) != len(have):
            yield f'{path or "it"}: {len(have)} elements instead of {len(want)}'
            return
        for i, pair in enumerate(zip(want, have)):
            yield from shape(*pair, about, f'{path}[{i}]')
        return
    start = 0
    for i, value in enumerate(named):
        tries = [list(shape(value, other, about, f'{path}[{start + j}]'))
                 for j, other in enumerate(have[start:])]
        if [] not in tries:
            yield f'{path}: nothing is like element {i + 1} of the text'
            # Most likely, the one of the same name was meant.
            yield from min(tries, default=[], key=lambda found: (
                any('node-name: ' in line for line in found), len(found)))
            return
        start += tries.index([]) + 1


def parts(value: Any) -> Iterator[Any]:
    """The value, and all that is in it"""
    yield value
    for part in value.values() if isinstance(value, dict) else \
            value if isinstance(value, list) else []:
        yield from parts(part)


def anywhere(want: Any, have: Any, about: bool) -> List[str]:
    """The same, for the part of @have that is the most like it"""
    return min((list(shape(want, part, about)) for part in parts(have)
                if isinstance(part, type(want)) and
                not (isinstance(want, dict) and set(want).isdisjoint(part))),
               key=len, default=['nothing has these members'])
