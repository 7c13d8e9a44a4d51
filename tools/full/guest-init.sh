#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the guest of the full build does.  It takes commands on ttyS1, a line
# each, and answers there.

export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmp /tmp
mount -o remount,rw /
stty raw -echo < /dev/ttyS1
exec 3<>/dev/ttyS1

tell() { echo "$*" >&3; }
# Nothing may come from the guest's memory: the disk is to be believed, or not.
forget() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
}
load() {
    n=0
    while [ ! -e /tmp/stop ]; do
        cp /data/0* /new.tmp/ && sync && cp /new.tmp/0* /new/ && sync ||
            tell "failed to write"
        n=$((n + 1))
        tell "load $n"
    done
}
# verify FOLDER PATTERN: do these files have the checksums that they were made with?
verify() {
    forget
    grep "$2" /data/SHA256SUMS > /tmp/sums
    ok=$(cd "$1" && sha256sum -c /tmp/sums 2>/dev/null | grep -c ': OK$')
    [ "$ok" = "$(wc -l < /tmp/sums)" ] || tell "failed: wrong files in $1"
}

firmware=BIOS
[ ! -d /sys/firmware/efi ] || firmware=UEFI
mkdir -p /new /new.tmp
tell "booted $firmware $(uname -r)"
while read -r command what <&3; do
    case $command in
    fetch)
        ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
        route add default gw 10.0.2.2
        tell "fetched $(wget -q -O - "http://10.0.2.2:$what" 2>&1)" ;;
    load)
        rm -f /tmp/stop
        load 3<&- 3>/dev/ttyS1 &
        pid=$! ;;
    stop)
        touch /tmp/stop
        wait "$pid"
        tell "done stop" ;;
    verify)
        verify /data .
        verify /new '  0'
        tell "done verify $(dmesg | grep -ciE 'I/O error|EXT4-fs error|Aborting journal')" ;;
    off)
        mount -o remount,ro /
        sync
        tell "done off"
        poweroff -f ;;
    esac
done
