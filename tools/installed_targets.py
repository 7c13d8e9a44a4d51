#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Print what ninja has to build of a configured QEMU so that "meson install"
finds all that it takes: without QEMU's tests, which ninja's own target
"install" builds, too.

usage: installed_targets.py OBJ
"""

import json
import os
import subprocess
import sys


def main() -> None:
    """The outputs of each target that is installed, a line each"""
    obj = os.path.realpath(sys.argv[1])
    found = subprocess.run([f'{obj}/pyvenv/bin/meson', 'introspect',
                            '--targets', obj], check=True,
                           stdout=subprocess.PIPE).stdout
    for target in json.loads(found):
        if target['installed']:
            for name in target['filename']:
                print(os.path.relpath(name, obj))


if __name__ == '__main__':
    main()
