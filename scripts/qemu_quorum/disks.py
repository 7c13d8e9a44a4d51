# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""A disk that a guest uses, and what the block graph around it looks like"""

import json
from typing import Dict, Iterator, List, NamedTuple, Optional, Set

from .basics import NOT_WELL, Dictionary, Failure
from .monitor import Monitor
from .places import Place

# Formats whose options are the node below, as far as is known here
FORMATS = ('raw', 'qcow2', 'qed', 'vdi', 'vhdx', 'vmdk', 'vpc')
WINDOW = ('offset', 'size')     # that a raw node shows of the node below


class User(NamedTuple):
    """What uses a node"""
    kind: str           # 'block-driver', 'block-backend' or 'block-job'
    name: str
    writes: bool

    def __str__(self) -> str:
        what = {'block-driver': 'node', 'block-job': 'job'}.get(self.kind)
        return f"{what or 'device'} '{self.name}'" if self.name else \
            'an export'


def cache_options(info: Dictionary) -> Dictionary:
    """With which a node is cached as this one, of which QEMU tells @info"""
    return {key: info['cache'][key] for key in ('direct', 'no-flush')}


class Graph:
    """The nodes of a QEMU, and what uses what"""

    def __init__(self, monitor: Monitor) -> None:
        graph = monitor.ask('x-debug-query-block-graph')
        self.parts: Dict[int, Dictionary] = {part['id']: part
                                             for part in graph['nodes']}
        self.edges: List[Dictionary] = graph['edges']
        self.nodes: Dict[str, Dictionary] = {
            node['node-name']: node for node in
            monitor.ask('query-named-block-nodes', flat=True)}
        self.devices: List[Dictionary] = [
            block for block in monitor.ask('query-block') if 'qdev' in block]

    def _number(self, name: str) -> int:
        return next(number for number, part in self.parts.items()
                    if (part['type'], part['name']) == ('block-driver', name))

    def users(self, name: str) -> List[User]:
        number = self._number(name)
        return [User(self.parts[edge['parent']]['type'],
                     self.parts[edge['parent']]['name'],
                     'write' in edge['perm'])
                for edge in self.edges if edge['child'] == number]

    def child(self, name: str, role: str) -> Optional[str]:
        """The name of the node that is this child of another one"""
        number = self._number(name)
        for edge in self.edges:
            if (edge['parent'], edge['name']) == (number, role):
                return str(self.parts[edge['child']]['name'])
        return None

    def below(self, name: str) -> Set[str]:
        """The names of a node and all that it uses"""
        seen: Set[int] = set()
        new = {self._number(name)}
        while new:
            seen |= new
            new = {edge['child'] for edge in self.edges
                   if edge['parent'] in new} - seen
        return {self.parts[number]['name'] for number in seen}

    def jobs(self, name: str) -> Iterator[str]:
        """Those that do something with it, or with what it uses"""
        below = self.below(name)
        for edge in self.edges:
            parent = self.parts[edge['parent']]
            if parent['type'] == 'block-job' and \
               self.parts[edge['child']]['name'] in below:
                yield parent['name']

    def device_of(self, user: User) -> Optional[Dictionary]:
        for device in self.devices:
            if user.kind == 'block-backend' and user.name and \
               user.name in (device['device'], device['qdev']):
                return device
        return None

    def find(self, text: str) -> str:
        """The node that is meant by its name, or by that of its device"""
        if text in self.nodes:
            return text
        for device in self.devices:
            qdev = device['qdev']
            if text in (device['device'], qdev) or \
               qdev.startswith(f'/machine/peripheral/{text}/'):
                if 'inserted' not in device:
                    raise Failure(f"device '{text}' has no medium")
                return str(device['inserted']['node-name'])
        there = ', '.join(
            f"'{name}' ({user})" for name in sorted(self.nodes)
            for user in self.users(name) if self.device_of(user))
        raise Failure(f"'{text}' is neither a node nor a device with a disk; "
                      f"there is {there or 'no device that has one'}")

    def cache_of(self, name: str) -> Optional[Dictionary]:
        """How it is cached, if that is not the default"""
        cache = cache_options(self.nodes[name])
        return cache if any(cache.values()) else None

    def describe(self, name: str) -> Optional[Dictionary]:
        """
        The options with which the node could be opened once more, as far as
        QEMU tells; None if it does not tell enough.
        """
        info = self.nodes[name]
        below = self.child(name, 'file')
        node: Optional[Dictionary] = None
        if info['drv'] in FORMATS and below and not info['encrypted']:
            file = self.describe(below)
            # Another backing image than that of the header, say
            other = self._options(name).keys() - {'driver', 'file', *WINDOW}
            if file and not other:
                node = {'driver': info['drv'], **self.window(name),
                        'file': file}
        elif not below:
            node = self._describe_protocol(info)
        if node:
            cache = self.cache_of(name)
            node['discard'] = 'unmap'
            if cache:
                node['cache'] = cache
        return node

    def describe_named(self, name: str, new_name: str = '') -> Dictionary:
        """The same, called so, or with a hint in place of what is unknown"""
        node = self.describe(name) or {
            'driver': f"(the options of '{name}')"}
        called = new_name or name
        # Only QEMU can call a node '#block012'
        return node if called[0] == '#' else {'node-name': called, **node}

    def window(self, name: str) -> Dictionary:
        """Which part of the node below a raw node shows, if not all of it"""
        options = self._options(name)
        return {key: int(options[key]) for key in WINDOW
                if options.get('driver') == self.nodes[name]['drv'] == 'raw'
                and key in options}

    def _options(self, name: str) -> Dictionary:
        """
        Those that QEMU puts in place of a filename if that does not tell how
        a node was opened
        """
        filename = self.nodes[name]['file']
        if not filename.startswith('json:'):
            return {}
        try:
            return dict(json.loads(filename[5:]))
        except ValueError:
            return {'.': 'too long, and cut'}

    def _describe_protocol(self, info: Dictionary) -> Optional[Dictionary]:
        driver, filename = info['drv'], info['file']
        options = self._options(info['node-name'])
        if options:
            flat = any('.' in key for key in options)
            return None if flat or options.get('driver') != driver else options
        if driver in ('file', 'host_device'):
            return {'driver': driver, 'filename': filename}
        try:
            options = Place('', filename).options
        except Failure:
            return None
        return options if options['driver'] == driver else None


def check_adoptable(graph: Graph, disk: str, node: str) -> None:
    """That it is a disk that can be written to, and is left alone by jobs"""
    info = graph.nodes[node]
    jobs = ', '.join(f"'{job}'" for job in sorted(set(graph.jobs(node))))
    if jobs:
        raise Failure(f"'{disk}' is being worked on by the job {jobs}: wait "
                      'for its end, or cancel it (block-job-cancel, QMP)',
                      NOT_WELL)
    if not info.get('active', True):
        raise Failure(f"'{disk}' is inactive: this QEMU waits for a migration,"
                      ' or has migrated away', NOT_WELL)
    if info['ro']:
        raise Failure(f"'{disk}' is read-only: nothing can be written to "
                      'replicas of it', NOT_WELL)
