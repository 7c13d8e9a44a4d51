# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# First thing in a guest's initramfs: load what it takes to see the disk.

/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module"
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && break
    sleep 0.1
done
