# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""The command create"""

import argparse
import json
import signal
import tempfile
from typing import List, Optional

from .basics import NOT_WELL, WELL, Dictionary, Failure
from .command import Output
from .layout import (
    check_distinct,
    check_name,
    check_threshold,
    child_node,
    choose_states,
    least_state_size,
    note,
    note_common_fate,
    note_threshold,
)
from .places import Place
from .printing import FORMS
from .programs import QemuImg, json_name, zeroes
from .statefile import RECORDS, state_size
from .text import human_size

BEGIN_BYTES = 4096          # that are written to begin the state nodes


class Creation:
    """
    A quorum that is being made.  First everything is looked at, then made;
    if that fails, what has been made is removed.
    """
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.img = QemuImg()
        self._check_words()
        self.size = self._choose_size()
        self.replicas = [Place('--replica', text) for text in args.replica]
        self.states = self._choose_states()
        self.threshold = check_threshold(args.threshold, len(self.replicas))
        self.filling: List[Place] = []      # what has been overwritten

    # What is wanted, and whether that is possible

    def _check_words(self) -> None:
        args = self.args
        count = len(args.replica)
        check_name('NAME', args.name)
        if not 2 <= count <= RECORDS:
            raise Failure(f'--replica: there is {count}; give it 2 to '
                          f'{RECORDS} times, best 3 or 5 times')
        check_threshold(args.threshold, count)
        if args.from_format and not args.source:
            raise Failure(f"--from-format '{args.from_format}' is that of "
                          'the image after --from, which is not given')
        if args.no_state and args.state:
            raise Failure('--no-state and --state exclude each other')

    def _choose_size(self) -> int:
        args = self.args
        size: Optional[int] = args.size
        if args.source:
            try:
                least = self.img.image_size(args.source, args.from_format)
            except ValueError as error:
                raise Failure(f"--from '{args.source}': {error}") from None
            if size is not None and size < least:
                raise Failure(f"--size '{size}': the image has {least} bytes "
                              f'({human_size(least)}), so give that or more')
            size = size or least
        if size is None:
            raise Failure('how large is the disk? Give --size, or an image '
                          'by --from')
        if size % 512:
            raise Failure(f"--size '{size}' is no multiple of 512; "
                          f'{size + 512 - size % 512} would be one')
        return size

    def _choose_states(self) -> List[Place]:
        if self.args.no_state:
            return []
        if not self.args.state:
            return [self._beside(replica) for replica in self.replicas]
        return choose_states(self.args.name, self.args.state,
                             len(self.replicas))

    @staticmethod
    def _beside(replica: Place) -> Place:
        driver = replica.options['driver']
        if driver in ('nbd', 'host_device'):
            raise replica.refuse('no state node can be made beside it; give '
                                 '--state for each replica, or --no-state', 2)
        url, question, query = replica.text.partition(
            '\0' if replica.path else '?')
        return Place('--state', f'{url}.state{question}{query}')

    def look(self) -> None:
        """Whether all of this can be made"""
        for replica in self.replicas:
            replica.look(self.img, self.size, True, self.args.force)
        for state in self.states:
            state.look(self.img,
                       least_state_size(self.size, len(self.replicas)),
                       False, self.args.force)
        check_distinct([*self.replicas, *self.states], self.args.force)
        note_common_fate(self.replicas,
                         self.states if self.args.state else [])
        note_threshold(self.threshold, len(self.replicas))

    # Making it

    def make(self) -> None:
        """All or nothing"""
        try:
            for replica in self.replicas:
                replica.make(self.img, self.size)
            for state in self.states:
                state.make(self.img, state_size(self.size))
            self._fill()
            self._begin()
            self._check()
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        for place in [*self.replicas, *self.states]:
            if place.made:
                if not place.unmake():
                    note(f"'{place.text}' was made, and can't be removed from "
                         'here')
            elif place in self.filling and place.blank:
                try:
                    self._clear(place)
                except Failure:
                    note(f"'{place.text}' was blank, and is not any more")

    def _clear(self, place: Place) -> None:
        self.filling.append(place)
        size = place.usable
        self.img.convert(json_name(zeroes(size)), None, place.node(),
                         f"clearing '{place.text}'")

    def _fill(self) -> None:
        for place in [*self.replicas, *self.states]:
            if not place.blank:
                self._clear(place)
        if self.args.source:
            self.filling += self.replicas
            # All of them must agree that it was written.
            self.img.convert(self.args.source, self.args.from_format,
                             self.node(threshold=len(self.replicas),
                                       states=False),
                             f'filling {len(self.replicas)} replicas')

    def _begin(self) -> None:
        """
        Have the state nodes know that the replicas are alike.  That takes a
        write, so they are given once more what they begin with.
        """
        if not self.states:
            return
        self.filling += [*self.replicas, *self.states]
        with tempfile.NamedTemporaryFile(prefix='qemu-quorum-') as file:
            head: Dictionary = {**self.replicas[0].node(),
                                'size': min(BEGIN_BYTES, self.size)}
            self.img.convert(json_name(head), None, self._head_of(file), '')
            self.img.convert(file.name, 'raw', {
                **self.node(), 'state-init': True}, '')

    def _head_of(self, file: 'tempfile._TemporaryFileWrapper[bytes]'
                 ) -> Dictionary:
        file.truncate(min(BEGIN_BYTES, self.size))
        return {'driver': 'raw', 'file': {'driver': 'file',
                                          'filename': file.name}}

    def _check(self) -> None:
        """That it can be opened, and that all is well with it"""
        try:
            info = self.img.info(self.node())
        except ValueError as error:
            raise Failure(f'the new quorum can not be opened: {error}',
                          NOT_WELL) from None
        data = info['format-specific']['data']
        nodes = data['children'] + data.get('state', {}).get('nodes', [])
        for place, found in zip([*self.replicas, *self.states], nodes):
            if found['state'] != 'ok':
                raise place.refuse(f"it is {found['state']} after it was "
                                   f"filled{self._why(found)}")

    @staticmethod
    def _why(found: Dictionary) -> str:
        return f": {found['error']}" if 'error' in found else ''

    # What has come of it

    def node(self, threshold: Optional[int] = None, states: bool = True
             ) -> Dictionary:
        """The options of the quorum"""
        name = self.args.name
        result: Dictionary = {
            'driver': 'quorum', 'node-name': name,
            'vote-threshold': threshold or self.threshold,
            'rewrite-corrupted': True, 'discard': 'unmap',
            'children': [child_node(replica, f'{name}-{i}')
                         for i, replica in enumerate(self.replicas)]}
        if self.states and states:
            result['state'] = [state.node(f'{name}-s{i}')
                               for i, state in enumerate(self.states)]
        return result


def end_by_signal(number: int, _: object) -> None:
    """As Ctrl-C does, so that nothing stays behind"""
    raise KeyboardInterrupt


def create(args: argparse.Namespace) -> int:
    """The command that needs no QEMU, but qemu-img"""
    signal.signal(signal.SIGTERM, end_by_signal)
    creation = Creation(args)
    creation.look()
    creation.make()
    node = creation.node()
    output = Output(changes=True)
    if args.json:
        output.write(json.dumps({
            'node-name': args.name, 'size': creation.size,
            'vote-threshold': creation.threshold, 'blockdev': node}))
    else:
        output.write(FORMS[args.print](node))
    output.check()
    return WELL
