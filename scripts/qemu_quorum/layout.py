# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""Which replicas and state nodes a quorum is to have, and whether it can"""

from contextlib import suppress
import os
import re
import sys
from typing import Container, List, Optional

from .basics import Dictionary, Failure
from .places import Place
from .statefile import RECORDS, state_size
from .text import printable

NAME = re.compile(r'[A-Za-z][A-Za-z0-9._-]{0,23}')


def note(text: str) -> None:
    """Standard output is for what is to be put somewhere."""
    with suppress(OSError):
        print(f'note: {printable(text)}', file=sys.stderr, flush=True)


def check_name(option: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise Failure(f"{option} '{name}': it must begin with a letter, "
                      "and consist of at most 24 letters, digits, '.', "
                      "'_' and '-'")


def new_name(quorum: str, word: str, taken: Container[str]) -> str:
    """What a node that is opened for this quorum is called"""
    base = re.sub(r'[^A-Za-z0-9._-]', '', quorum)[:20]
    if not base[:1].isalpha():
        base = f'quorum{base}'[:20]
    number, name = 1, f'{base}.{word}'
    while name in taken:
        number += 1
        name = f'{base}.{word}-{number}'
    return name


def check_threshold(threshold: Optional[int], count: int) -> int:
    """Which one it is to be, of @count replicas; by default, a majority"""
    if threshold is not None and not 1 <= threshold <= count:
        raise Failure(f"--threshold '{threshold}': it must be 1 to "
                      f'{count}, the number of replicas')
    return threshold or count // 2 + 1


def choose_states(name: str, texts: List[str], count: int) -> List[Place]:
    """
    Where the state nodes are to be: @texts are places for each of @count
    replicas, or one folder for all.
    """
    if len(texts) == 1 and os.path.isdir(texts[0]):
        texts = texts * count
    if len(texts) != count:
        raise Failure(f'--state: there are {len(texts)}, and {count} '
                      'replicas; give it once for each replica, in the '
                      'same order, or once with a folder')
    return [Place('--state', os.path.join(
        text, f'{name}.{i}.state') if os.path.isdir(text) else text)
            for i, text in enumerate(texts)]


def least_state_size(size: int, count: int) -> int:
    """With space for each child, for one that follows it, and one more"""
    return state_size(size, min(2 * count + 1, RECORDS))


def check_distinct(places: List[Place], force: bool) -> None:
    """That each is another one, and none has data, unless @force"""
    for i, place in enumerate(places):
        for other in places[:i]:
            if place.identity() == other.identity():
                raise place.refuse('is the same as that of '
                                   f"{other.option} '{other.text}'", 2)
        if not place.blank and not force:
            raise place.refuse('is there, and has data; to overwrite '
                               'them: --force')


def note_common_fate(replicas: List[Place], states: List[Place]) -> None:
    """@states: those that were not put beside their replicas"""
    folders = []
    for place in replicas:
        if place.path and place.options['driver'] == 'file':
            with suppress(OSError):     # QEMU may see other folders
                folders.append(os.stat(os.path.dirname(place.path)).st_dev)
    if len(set(folders)) < len(folders):
        note('there are replicas on the same file system: what ends it '
             'ends both')
    folders_of_states = {os.path.dirname(state.path) or state.text
                         for state in states}
    if len(folders_of_states) < len(states):
        note('there are state nodes in the same folder: better keep each '
             'beside its replica')


def note_threshold(threshold: int, count: int) -> None:
    if threshold == count:
        note(f'all {count} replicas must agree, so none may be missing; '
             'with 3 replicas and a threshold of 2, one may')
    elif threshold * 2 <= count:
        note(f'a threshold of {threshold} is no majority of {count}: '
             'two groups of replicas that are separated may each be '
             'believed')


def child_node(place: Place, name: str, cache: Optional[Dictionary] = None
               ) -> Dictionary:
    """The options of a replica; with a @cache mode that is not the default"""
    node: Dictionary = {**place.node(name), 'discard': 'unmap'}
    node['file'] = {**node['file'], 'discard': 'unmap'}
    if cache:
        node['cache'] = node['file']['cache'] = cache
    return node
