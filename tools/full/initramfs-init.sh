#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# First process of the guest: load what it takes to see disk and network, then go
# on from there.

. /disk.sh
mount -t ext4 -o ro /dev/vda2 /root || echo "no root file system"
mount --move /dev /root/dev
exec switch_root /root /sbin/init
