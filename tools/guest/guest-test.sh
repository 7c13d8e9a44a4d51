#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A Linux guest with ext4 under load while replicas die, hang, rot, lose their
# caches and return, and while QEMU is killed.  Speaks TAP.
#
# usage: guest-test.sh [TEST...]     (all: faults crashes hangs losses state, and
#                                    with QUORUM_TEST_SECONDS: rot)
#
# In each all that can happen does so once, and goes on to happen for
# QUORUM_TEST_SECONDS.  QUORUM_TEST_SEED makes a run again what it was.  After a failure
# build/guest/failed has what the guest, its kernel and QEMU have said.

. "$(dirname "$0")/make-guest.sh"

skip() {
    printf '1..1\nok 1 guest # SKIP %s\n' "$1"
    exit 0
}

for tool in gcc cpio mke2fs e2fsck; do
    command -v "$tool" >/dev/null || skip "there is no $tool"
done
echo 'int main(void) { return 0; }' | gcc -static -x c -o /dev/null - 2>/dev/null ||
    skip "gcc -static does not work here"
lock "$build/.guest-lock"
make_guest "$build/guest" "$top"/tools/guest/{build_guest.py,guest-init.sh,disk.sh,load.c} >&2
need_space "${TMPDIR:-/tmp}" 400 "the guest's disks" >&2
exec /usr/bin/python3 -B "$top/tools/guest/guest_test.py" "$build/bin" "$build/guest" "$@"
