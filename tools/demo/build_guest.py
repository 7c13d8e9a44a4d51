#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Make the demo's guest: a kernel, an initramfs and an ext4 image with a small
Linux root and files whose checksums are known.  No mount, no root needed.

usage: build_guest.py CACHE OUTDIR

tools/guest/ must be in the PYTHONPATH.
"""

import hashlib
import json
import os
import random
import subprocess
import sys

from image import Parts, busybox_root, install, make_ext4

HERE = os.path.dirname(os.path.realpath(__file__))
DISK_MIB = 96
DATA_FILES = 31         # 00 to 30; init copies by the first digit
DATA_MIB = 40


def make_disk(root: str, busybox: str, out: str) -> None:
    """The disk: busybox, guest-init.sh, and files with checksums."""
    busybox_root(root, busybox)
    applets = subprocess.run([busybox, '--list'], check=True, text=True,
                             stdout=subprocess.PIPE).stdout.split()
    for applet in applets:
        if applet != 'busybox':
            os.symlink('busybox', f'{root}/bin/{applet}')
    install(f'{HERE}/guest-init.sh', f'{root}/sbin/init')

    os.makedirs(f'{root}/data')
    rand = random.Random(0)
    blocks = []         # one from the middle of each file
    shares = [rand.expovariate(1) + 0.05 for _ in range(DATA_FILES)]
    with open(f'{root}/data/SHA256SUMS', 'w', encoding='ascii') as sums:
        for i, share in enumerate(shares):
            size = int(DATA_MIB * 2**20 * share / sum(shares))
            data = rand.randbytes(size)
            name = f'{i:02}.bin'
            middle = size // 2 & ~4095
            blocks.append(data[middle:middle + 4096])
            with open(f'{root}/data/{name}', 'wb') as file:
                file.write(data)
            sums.write(f'{hashlib.sha256(data).hexdigest()}  {name}\n')

    make_ext4(out, DISK_MIB, '-L', 'quorum-demo', '-d', root)
    # Where in the image these blocks are: the demo damages them.
    with open(out, 'rb') as file:
        image = file.read()
    with open(f'{out}.blocks', 'w', encoding='ascii') as file:
        json.dump([image.index(block) for block in blocks], file)


def main() -> None:
    """Make everything in a folder beside, and put it in place at the end."""
    cache, out = sys.argv[1:]
    with Parts(cache, out) as parts:
        parts.initramfs(f'{HERE}/initramfs-init.sh')
        make_disk(f'{parts.scratch}/root', parts.busybox,
                  f'{parts.tmp}/disk.img')


if __name__ == '__main__':
    main()
