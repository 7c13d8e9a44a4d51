#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the full build into a folder of its own, and boot a guest on it, under
# libvirt: see full_test.py.  Speaks TAP.
#
# usage: full-test.sh [PREFIX]      PREFIX: test what is installed there already
#
# After a failure build/full/failed has what the servers, libvirt and the guest's
# kernel have said.

. "$(dirname "$0")/../guest/make-guest.sh"

missing=
for tool in certtool virsh tgtd tgtadm sshd ssh-agent mcopy mkfs.fat sfdisk objcopy; do
    command -v "$tool" >/dev/null || missing+=" $tool"
done
command -v libvirtd virtqemud >/dev/null || missing+=" libvirtd"
[ -e /usr/lib/systemd/boot/efi/linuxx64.efi.stub ] || missing+=" linuxx64.efi.stub"
if [ -n "$missing" ]; then
    printf '1..1\nok 1 full # SKIP not there:%s\n' "$missing"
    exit 0
fi
lock "$build/.full-lock"
make_guest "$build/full/guest" \
    "$top"/tools/full/{build_guest.py,guest-init.sh,initramfs-init.sh} "$top/tools/guest/disk.sh" >&2
need_space "${TMPDIR:-/tmp}" 1500 "an installation and the guest's disks" >&2

tmp=$(mktemp -d "${TMPDIR:-/tmp}/quorum-full.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"        # root's test is run by another user
mkdir "$tmp/work"
prefix=${1-}
if [ -z "$prefix" ]; then
    prefix=$tmp/qemu
    "$top/tools/install" "$prefix" full >&2
fi
cp "$build/full/guest/disk.img" "$tmp/disk.img"
status=0
/usr/bin/python3 -B "$top/tools/full/full_test.py" "$prefix" "$tmp/disk.img" "$tmp/work" || status=$?
rm -rf "$build/full/failed"
if [ "$status" != 0 ]; then
    mkdir "$build/full/failed"
    find "$tmp/work" \( -name '*.log' -o -name domain.xml \) -exec cp {} "$build/full/failed/" \;
fi
exit "$status"
