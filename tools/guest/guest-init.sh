#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# First and only process of the test's guest, whose root is in memory.  It does
# what the host tells it on ttyS1, a line for each thing, and answers "done".

. /disk.sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir /mnt
stty raw -echo < /dev/ttyS1
exec 3<>/dev/ttyS1

tell() { echo "$*" >&3; }
# try COMMAND...: something that can't fail on a disk that is well
try() { "$@" >&2 || tell "failed $*"; }
# What the kernel says when the disk has failed it, or it the disk.
complaints() {
    dmesg -c | grep -iE 'I/O error|EXT4-fs (error|warning)|JBD2:.*(error|fail)|Aborting journal|BUG:|Oops' |
        while read -r line; do
            tell "complaint $line"
        done
}

# The replicas are identical only if nobody changes what is being written.
echo 1 > /sys/block/vda/queue/stable_writes
tell "done boot"
while read -r command folder seed workers <&3; do
    case $command in
    mount)
        try mount -t ext4 -o discard /dev/vda /mnt ;;
    read)       # all of the disk
        try dd if=/dev/vda of=/dev/null bs=1M
        echo 3 > /proc/sys/vm/drop_caches ;;
    umount)
        try umount /mnt ;;
    load)
        try mkdir "/mnt/$folder"
        load run "/mnt/$folder" "$seed" "$workers" >&3 3<&- &
        pid=$! ;;
    stop)
        kill -TERM "$pid"
        wait "$pid" || tell "failed the load ended with status $?" ;;
    must)       # FOLDER is a line for "load check"
        echo "$folder $seed $workers" >> /tmp/must ;;
    check)
        echo 3 > /proc/sys/vm/drop_caches
        load check "/mnt/$folder" "$seed" < /tmp/must >&3
        rm -f /tmp/must ;;
    remove)
        try rm -r "/mnt/$folder" ;;
    complaints)
        complaints ;;
    off)
        complaints
        tell "done off"
        poweroff -f ;;
    esac
    tell "done $command"
done
