#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# First process of the guest in which md is measured.  It does what the host tells
# it on ttyS1, a line for each thing, and answers "done" with what that has said.

. /disk.sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
stty raw -echo < /dev/ttyS1
exec 3<>/dev/ttyS1
echo md0 > /sys/module/md_mod/parameters/new_array

# Disks without a queue of their own, and without heads to move: md asks the one
# that has the least to do, then.
for queue in /sys/block/vd*/queue; do
    echo none > "$queue/scheduler"
    echo 0 > "$queue/rotational"
done
echo "done" >&3
while read -r line <&3; do
    # shellcheck disable=SC2086  # a word each
    if said=$(peer-load $line 2>&1); then
        echo "done $said" >&3
    else
        echo "failed $said" >&3
    fi
done
