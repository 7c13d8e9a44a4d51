# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a small Linux guest is made of: Debian's kernel and busybox, from packages
in the cache, and ext4 images.  No mount, no root needed.
"""

import glob
import lzma
import os
import re
import shutil
import subprocess
from typing import Sequence

HERE = os.path.dirname(os.path.realpath(__file__))
# The programs of e2fsprogs are not in the path of each user.
TOOLS = {**os.environ, 'PATH': f'{os.environ["PATH"]}:/usr/sbin:/sbin'}


def unpack(cache: str, package: str, outdir: str) -> str:
    """Unpack a Debian package from the cache; return the folder."""
    path, = glob.glob(f'{cache}/files/{package}_*.deb')
    subprocess.run(['dpkg-deb', '-x', path, outdir], check=True)
    return outdir


def modules(linux: str, wanted: str) -> list[tuple[str, bytes]]:
    """A kernel module after all those that it depends on."""
    found: list[tuple[str, bytes]] = []
    names = {}
    for path in glob.glob(f'{linux}/usr/lib/modules/*/kernel/**/*.ko.xz',
                          recursive=True):
        names[os.path.basename(path)[:-6].replace('-', '_')] = path

    def add(name: str) -> None:
        if name not in names or any(name == n for n, _ in found):
            return                      # built in, or there already
        with lzma.open(names[name]) as file:
            image = file.read()
        match = re.search(rb'\0depends=([^\0]*)\0', image)
        for other in match.group(1).decode().split(',') if match else []:
            add(other.replace('-', '_'))
        found.append((name, image))

    add(wanted)
    return found


def install(program: str, path: str) -> None:
    """Copy a program, for all users to run."""
    shutil.copy(program, path)
    os.chmod(path, 0o755)


def busybox_root(root: str, busybox: str) -> None:
    """The folders that a root file system needs, and busybox in it."""
    for folder in ('bin', 'sbin', 'dev', 'proc', 'sys', 'tmp', 'root'):
        os.makedirs(f'{root}/{folder}')
    install(busybox, f'{root}/bin/busybox')


# pylint: disable=too-many-arguments
def make_initramfs(root: str, linux: str, busybox: str, out: str,
                   init: str, *programs: str, drivers: Sequence[str] = ()
                   ) -> None:
    """
    The initramfs: busybox, the drivers of the disk and others, init, and
    programs.
    """
    busybox_root(root, busybox)
    install(init, f'{root}/init')
    shutil.copy(f'{HERE}/disk.sh', root)
    for program in programs:
        install(program, f'{root}/bin/{os.path.basename(program)}')
    os.makedirs(f'{root}/modules')
    for i, (name, image) in enumerate(
            module for driver in ('virtio_blk', *drivers)
            for module in modules(linux, driver)):
        with open(f'{root}/modules/{i:02}-{name}.ko', 'wb') as file:
            file.write(image)
    files = subprocess.run(['find', '.'], cwd=root, check=True,
                           stdout=subprocess.PIPE).stdout
    with open(out, 'wb') as file:
        subprocess.run(['cpio', '-o', '-H', 'newc', '--quiet',
                        '-R', '0:0'], cwd=root, check=True, input=files,
                       stdout=file)


def make_ext4(path: str, mib: int, *options: str) -> None:
    """An ext4 image."""
    with open(path, 'wb') as file:
        file.truncate(mib * 2**20)
    subprocess.run(['mke2fs', '-q', '-F', '-t', 'ext4', *options,
                    '-E', 'root_owner=0:0', path], check=True, env=TOOLS)


class Parts:
    """
    The parts of a guest, in a folder beside @out, which they replace when the
    block has been left in peace: vmlinuz, and whatever is made in self.tmp but
    for what is in self.scratch.
    """
    def __init__(self, cache: str, out: str) -> None:
        self.cache = cache
        self.out = out
        self.tmp = f'{out}.tmp'
        self.scratch = f'{self.tmp}/scratch'

    def __enter__(self) -> 'Parts':
        shutil.rmtree(self.tmp, ignore_errors=True)
        os.makedirs(self.scratch)
        self.linux = unpack(self.cache, 'linux-image-*',
                            f'{self.scratch}/linux')
        self.busybox = unpack(self.cache, 'busybox-static',
                              f'{self.scratch}/busybox') + '/usr/bin/busybox'
        vmlinuz, = glob.glob(f'{self.linux}/boot/vmlinuz-*')
        shutil.copy(vmlinuz, f'{self.tmp}/vmlinuz')
        return self

    def initramfs(self, init: str, *programs: str,
                  drivers: Sequence[str] = ()) -> None:
        """Make initrd, see make_initramfs()."""
        make_initramfs(f'{self.scratch}/initramfs', self.linux, self.busybox,
                       f'{self.tmp}/initrd', init, *programs, drivers=drivers)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.scratch)
            shutil.rmtree(self.out, ignore_errors=True)
            os.rename(self.tmp, self.out)
