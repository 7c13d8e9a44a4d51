# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The patched QEMU tree, build/qemu: a git repository in which each patch of
# patches/ is a commit, and into which the new files are linked.
#
# Refs:  pristine   what Debian's tarball holds (without roms/)
#        removed    that, without the files which new files stand in for
#        applied    removed + patches/, as it was last made from patches/
#        series     pristine + the series as it would be mailed: new files, too
#
# The patches are made for one release series, $primary.  The tree of another
# one, build/BASE/qemu, has that one's history below its own, and gets what the
# patches make of it by a three-way merge; where both have changed the same
# lines, the patches win.  compat/BASE.patch mends what that leaves to be done:
# the difference between the two bases, and all of it.
#
# Refs:  primary    "removed" of the release series that the patches are for
#        merged     removed + patches/, merged, and the new files that are
#                   edited by compat/BASE.patch; these are no links
#        applied    merged + compat/BASE.patch

tree=$build/qemu
shown=${tree#"$top/"}       # as it is called in messages
compat=$top/compat/$base.patch
# QEMU's own files that ours replace.  Its own test runs, too, from a tree of
# pristine tests: see suite_qemu in tools/check.
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
        -- block include docs tests scripts |
        while read -r file; do
        [ ! -f "$top/$file" ] || printf '%s\n' "$file"
    done
}

# The patches that the file "series" names, in order.
series_patches() { grep -E '^[0-9]{4}-' "$top/series"; }

# series_files NAME: the new files that "series" names below the patch whose
# name ends in NAME; below all patches, if NAME is empty.
series_files() {
    awk -v name="$1" '
        /^[0-9]/ { this = name == "" || substr($1, length($1) - length(name) + 1) == name }
        /^ +[^ ]/ && this { print $1 }' "$top/series"
}

# The new files that compat/BASE.patch edits.
compat_files() {
    [ ! -f "$compat" ] ||
        grep -xFf <(sed -nE 's|^\+\+\+ b/||p' "$compat") <(new_files) || :
}

# What stands for the patches and their order.
patches_stamp() {
    local patches
    patches=$(series_patches)
    # shellcheck disable=SC2086  # a word each
    {
        echo $patches; (cd "$top/patches" && cat /dev/null $patches)
        if [ "$base" != "$primary" ]; then
            # shellcheck disable=SC2046
            (cd "$top" && cat /dev/null $(compat_files))
            [ ! -f "$compat" ] || cat "$compat"
        fi
    } | sha256sum
}

# A new file, whole, into the index.
add_new_file() {
    local mode=100644
    [ ! -x "$top/$1" ] || mode=100755
    tree_git update-index --add --cacheinfo \
        "$mode,$(tree_git hash-object -w "$top/$1"),$1"
}

# commit_patch PARENT PATCH [NEWFILE...]: commit a patch (its message and its
# edits) and whole new files on top of PARENT without touching a work tree;
# print the commit.
commit_patch() {
    local parent=$1 patch=$2 file tmp new_tree
    shift 2
    tmp=$(mktemp -d "$build/commit.XXXXXX")
    export GIT_INDEX_FILE=$tmp/index
    git mailinfo --encoding=UTF-8 "$tmp/body" "$tmp/diff" < "$patch" > "$tmp/info"
    sed -nE 's/^Subject: //p' "$tmp/info" > "$tmp/message"
    { echo; cat "$tmp/body"; } >> "$tmp/message"
    tree_git read-tree "$parent"
    if grep -q '^diff --git' "$tmp/diff"; then
        if ! tree_git apply --cached "$tmp/diff"; then
            [ "$patch" != "$compat" ] ||
                die "compat/$base.patch does not apply any more; mend it:" \
                    "git -C $shown reset --hard refs/quorum/merged" \
                    "git -C $shown apply --reject $compat" \
                    "do by hand what is in *.rej, commit it, and run: make BASE=$base patches"
            die "$(basename "$patch") does not apply to this QEMU"
        fi
    fi
    for file in "$@"; do
        add_new_file "$file"
    done
    new_tree=$(tree_git write-tree)
    unset GIT_INDEX_FILE
    git -C "$tree" commit-tree -p "$parent" -F "$tmp/message" "$new_tree"
    rm -rf "$tmp"
}

# merge_series SERIES: what the patches make of this base, by what they have
# made of the primary one: a commit on "removed".  The places where both have
# changed the same lines are listed in .git/quorum-conflicts.
merge_series() {
    local series=$1 conflicts=$tree/.git/quorum-conflicts file mode tmp new_tree
    tmp=$(mktemp -d "$build/commit.XXXXXX")
    export GIT_INDEX_FILE=$tmp/index
    tree_git read-tree refs/quorum/removed
    : > "$conflicts"
    for file in $(tree_git diff --name-only refs/quorum/primary "$series"); do
        mode=$(tree_git ls-tree --format='%(objectmode)' refs/quorum/removed -- "$file")
        [ -n "$mode" ] || die "$file is not there in QEMU $base"
        tree_git show "refs/quorum/removed:$file" > "$tmp/QEMU $base"
        tree_git show "refs/quorum/primary:$file" > "$tmp/QEMU $primary"
        tree_git show "$series:$file" > "$tmp/patches"
        { (cd "$tmp" && git merge-file -p --diff3 "QEMU $base" "QEMU $primary" patches) || :; } |
            sed -n '/^<<<<<<< /,/^>>>>>>> /p' > "$tmp/conflicts"
        [ ! -s "$tmp/conflicts" ] || { echo "--- $file"; cat "$tmp/conflicts"; } >> "$conflicts"
        (cd "$tmp" && git merge-file -q --theirs "QEMU $base" "QEMU $primary" patches)
        tree_git update-index --cacheinfo \
            "$mode,$(tree_git hash-object -w "$tmp/QEMU $base"),$file"
    done
    for file in $(compat_files); do
        add_new_file "$file"
    done
    new_tree=$(tree_git write-tree)
    unset GIT_INDEX_FILE
    tree_git commit-tree -p refs/quorum/removed -m "patches, merged into QEMU $base" "$new_tree"
    rm -rf "$tmp"
}
