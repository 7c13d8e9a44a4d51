# A parser of OpenMetrics text that accepts nothing else
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
from typing import Dict, List, NamedTuple, Optional, Tuple

NAME = r'[a-zA-Z_:][a-zA-Z0-9_:]*'
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
NUMBER = r'[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?'
SAMPLE = re.compile(rf'({NAME})(?:{{((?:{LABEL})(?:,{LABEL})*)?}})? '
                    rf'({NUMBER})')
META = re.compile(rf'# (HELP|TYPE|UNIT) ({NAME})(?: (.*))?')
TYPES = {'counter': ('_total',), 'gauge': ('',)}    # that we use

Labels = Tuple[Tuple[str, str], ...]


class Malformed(Exception):
    """The text is no OpenMetrics."""


class Family(NamedTuple):
    """What is said of it, and its samples"""
    meta: Dict[str, str]
    samples: Dict[Tuple[str, Labels], float]


def need(condition: object, line: str) -> None:
    if not condition:
        raise Malformed(line)


def parse(text: str) -> Dict[str, Family]:
    """By the names of families; raises Malformed"""
    need(text.endswith('\n# EOF\n'), 'no EOF at the end')
    families: Dict[str, Family] = {}
    name: Optional[str] = None
    for line in text.split('\n')[:-2]:
        if line.startswith('#'):
            match = META.fullmatch(line)
            need(match, line)
            assert match
            if match[2] != name:
                # A family is in one piece.
                need(match[2] not in families, line)
                name = match[2]
                families[name] = Family({}, {})
            add_meta(families[name], line, *match.groups())
        else:
            need(name, line)
            add_sample(name or '', families[name or ''], line)
    for name, family in families.items():
        need(family.samples and {'TYPE', 'HELP'} <= set(family.meta), name)
    return families


def add_meta(family: Family, line: str, kind: str, name: str, text: str
             ) -> None:
    need(not family.samples and kind not in family.meta and text, line)
    need(kind != 'TYPE' or text in TYPES, line)
    need(kind != 'UNIT' or name.endswith(f'_{text}'), line)
    need(kind != 'TYPE' or not name.endswith(('_total', '_created')), line)
    need(not re.search(r'\\(?![\\n"])', text), line)
    family.meta[kind] = text


def add_sample(name: str, family: Family, line: str) -> None:
    match = SAMPLE.fullmatch(line)
    need(match and 'TYPE' in family.meta, line)
    assert match
    need(match[1] in [name + suffix for suffix in
                      TYPES[family.meta['TYPE']]], line)
    found: List[Tuple[str, str]] = re.findall(LABEL, match[2] or '')
    labels = tuple(sorted(found))
    need(len(dict(labels)) == len(labels), line)
    need((match[1], labels) not in family.samples, line)
    value = float(match[match.lastindex or 0])
    need(value >= 0 or family.meta['TYPE'] != 'counter', line)
    family.samples[match[1], labels] = value
