# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The patched QEMU tree, build/qemu: a git repository in which each patch of
# patches/ is a commit, and into which the new files are linked.
#
# Refs:  pristine   what Debian's tarball holds (without roms/)
#        removed    that, without the files which new files stand in for
#        applied    removed + patches/, as it was last made from patches/

tree=$build/qemu
# QEMU's own files that ours replace; the old tests are kept as
# tests/qemu-iotests/base-081[.out] of the build, see scripts/check.
replaced=(block/quorum.c tests/qemu-iotests/081 tests/qemu-iotests/081.out)

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
    git -C "$top" ls-files --cached --others --exclude-standard \
        -- block include docs tests python/qemu scripts/qemu-quorum | while read -r file; do
        [ ! -f "$top/$file" ] || printf '%s\n' "$file"
    done
}

# Lines of the file "series": a patch, then the new files that go with it.
series_lines() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$top/series"; }

# What stands for the patches and their order.
patches_stamp() {
    local patches
    patches=$(series_lines | awk '{ print $1 }')
    # shellcheck disable=SC2086  # a word each
    { echo $patches; (cd "$top/patches" && cat /dev/null $patches); } | sha256sum
}

# commit_patch PARENT PATCH [NEWFILE...]: commit a patch (its message and its
# edits) and whole new files on top of PARENT without touching a work tree;
# print the commit.
commit_patch() {
    local parent=$1 patch=$2 file mode tmp new_tree
    shift 2
    tmp=$(mktemp -d "$build/commit.XXXXXX")
    export GIT_INDEX_FILE=$tmp/index
    git mailinfo --encoding=UTF-8 "$tmp/body" "$tmp/diff" < "$patch" > "$tmp/info"
    sed -nE 's/^Subject: //p' "$tmp/info" > "$tmp/message"
    { echo; cat "$tmp/body"; } >> "$tmp/message"
    tree_git read-tree "$parent"
    if grep -q '^diff --git' "$tmp/diff"; then
        tree_git apply --cached --unidiff-zero "$tmp/diff" ||
            die "$(basename "$patch") does not apply to this QEMU"
    fi
    for file in "$@"; do
        mode=100644
        [ ! -x "$top/$file" ] || mode=100755
        tree_git update-index --add --cacheinfo \
            "$mode,$(tree_git hash-object -w "$top/$file"),$file"
    done
    new_tree=$(tree_git write-tree)
    unset GIT_INDEX_FILE
    git -C "$tree" commit-tree -p "$parent" -F "$tmp/message" "$new_tree"
    rm -rf "$tmp"
}
