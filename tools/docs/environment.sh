# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What a chapter sees: a root of its own, in which what a new user writes to is
# empty, with our QEMU in /opt/qemu-quorum, and everything else is as outside.
# The mounts, the network and the processes are those of namespaces that the
# caller has made, and end with these.
#
# usage: environment.sh FOLDER PREFIX TOP CACHE
#
# FOLDER is seen as /run/check-docs inside.

set -eu
folder=$1
prefix=$2
top=$3
cache=$4
root=$folder/root
mkdir "$root"
mount -t tmpfs root "$root"

# Empty ones, and those that are copied or made in part
for name in srv run root export mnt opt tmp etc var var/lib; do
    mkdir "$root/$name"
done
chmod 1777 "$root/tmp"
# show FILE...: bind it, or copy a link
show() {
    local file
    for file; do
        [ ! -e "$root$file" ] || continue
        if [ -L "$file" ]; then
            ln -s "$(readlink "$file")" "$root$file"
        elif [ -d "$file" ]; then
            mkdir "$root$file"
            mount --rbind "$file" "$root$file"
        elif [ -e "$file" ]; then
            : > "$root$file"
            mount --bind "$file" "$root$file"
        fi
    done
}
cp -dR --preserve=mode /etc/. "$root/etc/" 2>/dev/null || :      # but for what only root reads
mkdir "$root/proc"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
show /*
show /var/*
show /var/lib/dpkg /var/lib/apt

for name in a b c d e; do         # on disks of their own
    mkdir "$root/srv/$name"
    mount -t tmpfs "$name" "$root/srv/$name"
done
mkdir -p "$root/var/lib/prometheus/node-exporter" \
    "$root/run/check-docs" "$root/opt/qemu-quorum"
rm -f "$root/etc/hosts"
printf '127.0.0.1 localhost\n10.0.1.2 box1\n10.0.2.2 box2\n10.0.3.2 box3\n' > "$root/etc/hosts"
mount --bind "$folder" "$root/run/check-docs"
mount --bind "$prefix" "$root/opt/qemu-quorum"
mount -o remount,bind,ro "$root/opt/qemu-quorum"    # all chapters share it
# The clone, if it is in a folder that is empty here
[ -e "$root$top" ] || { mkdir -p "$root$top"; mount --rbind "$top" "$root$top"; }

# What was fetched before, for there is no network
if [ -d "$cache" ]; then
    mkdir -p "$root/root/.cache/qemu-quorum"
    mount --bind "$cache" "$root/root/.cache/qemu-quorum"
fi

ip link set lo up
echo 1 > "$root/proc/sys/net/ipv4/ip_forward"   # between other hosts
mkdir "$root/old"
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
exec chroot / env -i HOME=/root PATH=/opt/qemu-quorum/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LC_ALL=C.UTF-8 LOGNAME=root USER=root QUORUM_CHECK_DOCS=1 top="$top" \
    bash /run/check-docs/shell.sh main
