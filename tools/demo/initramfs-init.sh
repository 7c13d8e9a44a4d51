#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# First process of the demo's guest: load what it takes to see the disk, then
# go on from there.

. /disk.sh
mount -t ext4 -o ro /dev/vda /root || echo "demo: no root file system"
mount --move /dev /root/dev
exec switch_root /root /sbin/init
