# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For scripts that boot a guest; source it instead of ../lib.sh.

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# Where their Python programs find QEMU's packages, ours for tests, and each other.
export PYTHONPATH=$build/qemu/python:$top/tests/qemu-iotests:$top/tools/guest

# make_guest DIR MAKER FILE...: run "MAKER CACHE DIR", unless DIR is there and
# neither the maker nor one of the files, what it is made from, has changed.
make_guest() {
    local guest=$1 maker=$2 stamp
    stamp=$(cat "$top/tools/guest/image.py" "${@:2}" "$cache/$primary.manifest" | sha256sum)
    if [ "$(cat "$guest/stamp" 2>/dev/null)" != "$stamp" ]; then
        need_space "$build" 300 "a guest"
        say "Making a guest"
        run_logged guest /usr/bin/python3 -B "$maker" "$cache" "$guest" ||
            die_with_log guest "the guest could not be made"
        echo "$stamp" > "$guest/stamp"
    fi
}
