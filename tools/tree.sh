# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The patched QEMU tree, for scripts that make it or use it; source this instead of
# lib.sh.  tools/patches makes it, and says what is in it.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tree=$build/qemu
# shellcheck disable=SC2034     # used by the scripts that source this file
shown=${tree#"$top/"}       # as it is called in messages
# shellcheck disable=SC2034
compat=$top/compat/$base.patch

# Whoever makes a commit in the tree is whoever works on this repository.
git_name=$(git -C "$top" config user.name || echo quorum)
git_email=$(git -C "$top" config user.email || echo quorum@localhost)
export GIT_AUTHOR_NAME=$git_name GIT_AUTHOR_EMAIL=$git_email
export GIT_COMMITTER_NAME=$git_name GIT_COMMITTER_EMAIL=$git_email
# A build/qemu without a repository must not be taken for this one.
export GIT_CEILING_DIRECTORIES=$build

# git as it comes: the user's configuration must not change what is written,
# and nothing may go on in the background.
plain_git() {
    git -c gc.auto=0 -c maintenance.auto=false -c core.autocrlf=false \
        -c commit.gpgsign=false -c core.hooksPath=/dev/null \
        -c diff.noprefix=false -c diff.mnemonicPrefix=false "$@"
}
tree_git() { plain_git -C "$tree" "$@"; }

# The new files of this repository, by the paths they have in QEMU.
new_files() {
    local file
    git -C "$top" ls-files --cached --others --exclude-standard \
        -- block contrib include docs tests scripts |
        while read -r file; do
        [ ! -f "$top/$file" ] || printf '%s\n' "$file"
    done
}

# QEMU's own unit tests that touch what we change.
qemu_unit_tests=(test-iov test-bdrv-drain test-bdrv-graph-mod test-blockjob
                 test-blockjob-txn test-block-iothread test-replication)

# unit_tests DIR: these and ours, as far as a source tree builds them.
unit_tests() {
    { new_files | sed -nE 's|^tests/unit/(.*)\.c$|\1|p'
      printf '%s\n' "${qemu_unit_tests[@]}"; } | sort |
        comm -12 - <(grep -oE "'[a-z0-9-]+'" "$1/tests/unit/meson.build" | tr -d "'" | sort -u)
}

# run_iotests OBJ SOURCE DIR ARG...: call the iotests' runner of a source tree, for the
# programs of a build, in a folder of its own.
run_iotests() {
    local iotests=$2/tests/qemu-iotests
    mkdir -p "$3" && cd "$3" &&
        "$1/pyvenv/bin/python3" "$iotests/check" --source-dir "$iotests" \
            --build-dir "$1/tests/qemu-iotests" "${@:4}"
}
