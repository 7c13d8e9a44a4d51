#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Make the guest that bears a load: a kernel, and an initramfs with all of it.

usage: build_guest.py CACHE OUTDIR
"""

import os
import subprocess
import sys

from image import Parts

HERE = os.path.dirname(os.path.realpath(__file__))


def main() -> None:
    """Nothing of the host's system is in the guest: the load is static."""
    cache, out = sys.argv[1:]
    with Parts(cache, out) as parts:
        load = f'{parts.scratch}/load'
        subprocess.run(['gcc', '-static', '-O2', '-Wall', '-Wextra', '-Werror',
                        '-o', load, f'{HERE}/load.c'], check=True)
        parts.initramfs(f'{HERE}/guest-init.sh', load)


if __name__ == '__main__':
    main()
