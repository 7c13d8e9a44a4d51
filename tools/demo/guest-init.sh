#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the demo's guest does with its disk.  It tells the host how it goes on
# ttyS1, a line for each thing, and waits there for what the host has to do.

export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmp /tmp
stty raw -echo < /dev/ttyS1
exec 3<>/dev/ttyS1

tell() { echo "$*" >&3; }
await() {
    while read -r line <&3; do
        [ "$line" != "$1" ] || return
    done
}
# Nothing may come from the guest's memory: the disk is to be believed, or not.
forget() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
}
# verify FOLDER: how many files there are, and how many have changed.
verify() {
    forget
    ok=$(cd "$1" && sha256sum -c SHA256SUMS 2>/dev/null | grep -c ': OK$')
    all=$(wc -l < "$1/SHA256SUMS")
    tell "verified $1 $all $((all - ok))"
}
# fill FOLDER: new files, with checksums made from what they were copied from.
fill() {
    mkdir -p "$1"
    cp /data/1* "$1" && grep '  1' /data/SHA256SUMS > "$1/SHA256SUMS"
    sync
}

tell "booted $(uname -r) from $(sed -nE 's|^/dev/([a-z]+) / .*|\1|p' /proc/mounts)"

sectors=$(cat /sys/block/vda/size)
mib=$((sectors / 2048))
done=0
while [ "$done" -lt "$mib" ]; do
    dd if=/dev/vda of=/dev/null bs=1M iflag=direct skip="$done" count=8 2>/dev/null ||
        tell "failed read at $done MiB"
    done=$((done + 8))
    tell "read $done $mib"
done

verify /data
mount -o remount,rw /
fill /new
verify /new
tell "synced"
await "go on"

# A load that never stops while the host kills a server.
(
    n=0
    while [ ! -e /tmp/stop ]; do
        cp /data/3* /load.tmp && sync && mv /load.tmp /load || tell "failed write"
        n=$((n + 1))
        tell "load $n"
    done
) &
await "server killed"
await "enough"
touch /tmp/stop
wait

fill /later
for folder in /data /new /later; do
    verify "$folder"
done
tell "io-errors $(dmesg | grep -ciE 'I/O error|EXT4-fs error|Aborting journal')"
cp "$(ls /data/3*)" /tmp/3 && cmp -s /tmp/3 /load && tell "load-intact"
mount -o remount,ro /
sync
tell "end"
await "off"
poweroff -f
