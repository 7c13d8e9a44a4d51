#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Make the guest of the test of the full build: a disk with a GPT, from which UEFI
firmware boots a kernel that has its initramfs and its options with it, and a
small Linux root on ext4 with files whose checksums are known.  No mount, no
root needed.

usage: build_guest.py CACHE OUTDIR

tools/guest/ must be in the PYTHONPATH.
"""

import hashlib
import os
import random
import re
import subprocess
import sys

from image import TOOLS, Parts, busybox_root, install, make_ext4

HERE = os.path.dirname(os.path.realpath(__file__))
STUB = '/usr/lib/systemd/boot/efi/linuxx64.efi.stub'
APPLETS = ('sh', 'cat', 'cp', 'dmesg', 'echo', 'grep', 'ifconfig', 'mkdir',
           'mount', 'poweroff', 'rm', 'route', 'sha256sum', 'stty', 'sync',
           'touch', 'uname', 'wc', 'wget')
OPTIONS = 'console=ttyS0 panic=-1 mitigations=off no_timer_check'
MIB = 2**20
ESP_MIB = 64            # the system partition, which begins at 1 MiB
ROOT_MIB = 64           # the other one, behind it
DATA_FILES = 20
DATA_MIB = 24


def run(*command: str, stdin: str = '') -> str:
    """Run a command that must end well; return what it prints."""
    return subprocess.run(command, check=True, env=TOOLS, text=True,
                          input=stdin, stdout=subprocess.PIPE).stdout


def make_efi_program(parts: Parts) -> str:
    """Kernel, initramfs and options, joined by the stub of systemd-boot."""
    options = f'{parts.scratch}/options'
    with open(options, 'w', encoding='ascii') as file:
        file.write(OPTIONS)
    ends = [int(size, 16) + int(address, 16) for size, address in re.findall(
        r'^ +\d+ \.\S+ +(\w+) +(\w+) ', run('objdump', '-h', STUB), re.M)]
    place = max(ends)
    command = ['objcopy']
    for name, path in (('.cmdline', options),
                       ('.initrd', f'{parts.tmp}/initrd'),
                       ('.linux', f'{parts.tmp}/vmlinuz')):
        place = (place + MIB) // 4096 * 4096
        command += ['--add-section', f'{name}={path}',
                    '--change-section-vma', f'{name}={place:#x}']
        place += os.path.getsize(path)
    program = f'{parts.scratch}/linux.efi'
    run(*command, STUB, program)
    return program


def make_system_partition(path: str, program: str) -> None:
    """Firmware runs the program of this name without being told to."""
    with open(path, 'wb') as file:
        file.truncate(ESP_MIB * MIB)
    run('mkfs.fat', '-n', 'ESP', path)
    run('mmd', '-i', path, '::/EFI', '::/EFI/BOOT')
    run('mcopy', '-i', path, program, '::/EFI/BOOT/BOOTX64.EFI')


def make_root_partition(path: str, root: str, busybox: str) -> None:
    """Busybox, guest-init.sh, and files with checksums."""
    busybox_root(root, busybox)
    for applet in APPLETS:
        os.symlink('busybox', f'{root}/bin/{applet}')
    install(f'{HERE}/guest-init.sh', f'{root}/sbin/init')
    os.makedirs(f'{root}/data')
    rand = random.Random(0)
    with open(f'{root}/data/SHA256SUMS', 'w', encoding='ascii') as sums:
        for i in range(DATA_FILES):
            data = rand.randbytes(DATA_MIB * MIB // DATA_FILES)
            name = f'{i:02}.bin'
            with open(f'{root}/data/{name}', 'wb') as file:
                file.write(data)
            sums.write(f'{hashlib.sha256(data).hexdigest()}  {name}\n')
    make_ext4(path, ROOT_MIB, '-d', root)


def make_disk(path: str, *partitions: str) -> None:
    """Both partitions below a GPT, of which there is a copy at the end."""
    with open(path, 'wb') as disk:
        disk.truncate((1 + ESP_MIB + ROOT_MIB + 1) * MIB)
    run('sfdisk', '-q', path, stdin=f'label: gpt\n'
        f'start=1MiB, size={ESP_MIB}MiB, type=uefi\n'
        f'size={ROOT_MIB}MiB, type=linux\n')
    with open(path, 'r+b') as disk:
        disk.seek(MIB)
        for partition in partitions:
            with open(partition, 'rb') as file:
                disk.write(file.read())


def main() -> None:
    """Make everything in a folder beside, and put it in place at the end."""
    cache, out = sys.argv[1:]
    with Parts(cache, out) as parts:
        parts.initramfs(f'{HERE}/initramfs-init.sh', drivers=('virtio_net',))
        esp, root = f'{parts.scratch}/esp', f'{parts.scratch}/ext4'
        make_system_partition(esp, make_efi_program(parts))
        make_root_partition(root, f'{parts.scratch}/root', parts.busybox)
        make_disk(f'{parts.tmp}/disk.img', esp, root)


if __name__ == '__main__':
    main()
