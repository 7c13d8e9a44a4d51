# SPDX-License-Identifier: GPL-2.0-or-later
"""
The peer: md raid1 in a guest, over the same servers as a quorum beside it.

tools/guest/ and QEMU's python/ must be in sys.path.
"""

import contextlib
import glob
import os
import subprocess
from typing import Iterator, List, Sequence

from contest import Bench, Skip
from host import Machine
from image import Parts

HERE = os.path.dirname(os.path.realpath(__file__))
CACHE = (os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
         ) + '/qemu-quorum'
PATIENCE = 120          # seconds for any one thing that the guest is to do


def make_guest(bench: Bench) -> str:
    """A kernel that has md, and the load; returns the folder."""
    if not glob.glob(f'{CACHE}/files/linux-image-*.deb'):
        raise Skip(f'there is no kernel in {CACHE}')
    out = f'{bench.build}/bench/guest'
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with Parts(CACHE, out) as parts:
        load = f'{parts.scratch}/peer-load'
        subprocess.run(['gcc', '-static', '-O2', '-Wall', '-Wextra', '-Werror',
                        '-o', load, f'{HERE}/peer-load.c'], check=True)
        parts.initramfs(f'{HERE}/peer-init.sh', load, drivers=['raid1'])
    return out


class PeerMachine(Machine):
    """A guest that does what peer-load can."""

    def __init__(self, *args: object) -> None:
        self.said: List[List[str]] = []
        super().__init__(*args)         # type: ignore[arg-type]
        self.cmd('cont')
        self._answer('boot')

    def heard(self, words: List[str]) -> None:
        self.said.append(words)

    def happened(self, event: dict) -> None:
        if event['event'].startswith('QUORUM'):
            raise RuntimeError(f'{event}')

    def _answer(self, what: str) -> List[str]:
        self.wait(lambda: bool(self.said), PATIENCE, what)
        return self.said.pop(0)[1:]

    def ask(self, *words: object) -> str:
        """Let the guest do something; return what that has said."""
        text = ' '.join(map(str, words))
        self.tell(text)
        return ' '.join(self._answer(text))


    def share_checked(self) -> float:
        """Of all reads of the quorum that has read-pattern=checked."""
        stats, = [node['driver-specific']['checked']
                  for node in self.cmd('query-blockstats',
                                       {'query-nodes': True})
                  if 'checked' in node.get('driver-specific', {})]
        hits = int(stats['hits'])
        return hits / (hits + int(stats['misses']))


@contextlib.contextmanager
def machine(bench: Bench, disks: Sequence[str]) -> Iterator[PeerMachine]:
    """
    A guest with these disks, vda and so on; each is the options of a node.
    All are in the main thread, which is not that of the processor: with an
    iothread, an emulated guest misses an interrupt now and then.
    """
    options: List[str] = []
    for i, disk in enumerate(disks):
        options += ['-blockdev', f'node-name=disk{i},{disk}',
                    '-device', f'virtio-blk-pci,drive=disk{i}']
    with contextlib.ExitStack() as processes:
        yield PeerMachine(f'{bench.build}/bin', make_guest(bench), bench.work,
                          processes, *options)
