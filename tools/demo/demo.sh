#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Make the demo's guest if it isn't there yet, then run the demo.

. "$(dirname "$0")/../guest/make-guest.sh"

lock "$build/.demo-lock"
make_guest "$build/demo" "$top"/tools/demo/{build_guest.py,guest-init.sh,initramfs-init.sh} "$top/tools/guest/disk.sh"
need_space "${TMPDIR:-/tmp}" 400 "the demo's disks"
[ -w /dev/kvm ] || say "There is no usable /dev/kvm here; the demo does not need it (TCG)."
exec /usr/bin/python3 -B "$top/tools/demo/demo.py" "$build/bin" "$build/demo"
