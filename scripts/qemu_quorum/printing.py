# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What to put where, so that a QEMU, libvirt or a storage daemon has a disk"""

import json
import shlex
from typing import Callable, Dict
from xml.sax.saxutils import quoteattr

from .basics import Dictionary

NAMESPACE = 'http://libvirt.org/schemas/domain/qemu/1.0'
SERVICE = 'qemu-quorum-daemon'
CONFIGURATION = '/etc/qemu-quorum'


def quote_node(node: Dictionary) -> str:
    """A word for a shell"""
    return shlex.quote(json.dumps(node))


def blockdev(node: Dictionary) -> str:
    """Options of a command line, for a shell"""
    return f'-blockdev {quote_node(node)} \\\n' \
           f"-device virtio-blk-pci,drive={node['node-name']}"


def libvirt(node: Dictionary) -> str:
    """
    A part of a domain.  libvirt does not know of this PCI device, and gives
    its own the first slots.
    """
    words = ['-blockdev', json.dumps(node), '-device',
             f"virtio-blk-pci,drive={node['node-name']},addr=0x1e"]
    return '\n'.join([
        f"<qemu:commandline xmlns:qemu='{NAMESPACE}'>",
        *(f'  <qemu:arg value={quoteattr(word)}/>' for word in words),
        '</qemu:commandline>'])


def daemon(node: Dictionary) -> str:
    """What the unit qemu-quorum-daemon@.service wants to know"""
    name = node['node-name']
    # In single quotes systemd leaves everything alone but these.
    text = json.dumps(node).replace("'", '\\u0027')
    return '\n'.join([
        f'# {CONFIGURATION}/{name}.conf',
        f'# then: systemctl enable --now {SERVICE}@{name}',
        f"BLOCKDEV='{text}'",
        f"EXPORTS='--export type=nbd,id=nbd,node-name={name},"
        f"name={name},writable=on'"])


FORMS: Dict[str, Callable[[Dictionary], str]] = {
    'blockdev': blockdev, 'libvirt': libvirt, 'daemon': daemon}
