# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the scripts share: where things are, how they speak to a person, and
# how they stop.  Source it first; it sets -euo pipefail.

set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C.UTF-8
# What a caller has set for its own purposes is not meant for us.
unset CDPATH
# shellcheck disable=SC2046  # a word each
unset $(git rev-parse --local-env-vars 2>/dev/null || :)
export PATH=$PATH:/usr/sbin:/sbin
export NINJA_STATUS='[%f/%t] '

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
case $top in
*[[:space:]:]*)
    echo "error: QEMU's build can't bear spaces or colons in a path: $top" >&2
    exit 1 ;;
esac
# The release series of QEMU that the patches are made for.  BASE names another
# one to build instead, beside it; compat/BASE.patch is what differs there.
primary=10.0
base=${BASE:-$primary}
# The release of QEMU that "make series" writes for: what is new is there since it.
# The sources say written_since, as the parser of QAPI's documentation wants a number.
# shellcheck disable=SC2034  # used by tools/patches
since=12.0 written_since=10.1
build=$top/build
[ "$base" = "$primary" ] || build=$top/build/$base
log=$build/log
# shellcheck disable=SC2034  # used by the scripts that source this file
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/qemu-quorum

say()  { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }

# Say what is wrong, then what to do about it (one argument a line), and stop.
die() {
    local line
    printf '\nerror: %s\n' "$1" >&2
    shift
    for line in "$@"; do
        printf '       %s\n' "$line" >&2
    done
    exit 1
}

[[ $base =~ ^[0-9]+\.[0-9]+$ ]] ||
    die "BASE is not a release series of QEMU: $base" "for instance: make BASE=10.2"

# --- running things -------------------------------------------------------

_job=          # process group of the command that run_logged has started
_timer=        # a process that ends when that has taken too long
limit=         # seconds that a command may take, if there is a limit
root=()        # what makes a command run as root, if we are not

_stop() {
    trap - INT TERM HUP
    if [ -n "$_job" ]; then
        kill -TERM -- "-$_job" 2>/dev/null || :
        [ "${#root[@]}" = 0 ] || sudo -n kill -TERM -- "-$_job" 2>/dev/null || :
        wait "$_job" 2>/dev/null || :
    fi
    [ -z "$_timer" ] || kill "$_timer" 2>/dev/null || :
    [ -n "${QUORUM_NESTED-}" ] ||
        printf '\ninterrupted; the next run takes up from here\n' >&2
    exit 130
}
trap _stop INT TERM HUP

# A script that calls others: only this one says that it was interrupted.
export_nested() {
    trap 'unset QUORUM_NESTED; _stop' INT TERM HUP
    [ -z "${QUORUM_NESTED-}" ] || trap _stop INT TERM HUP
    export QUORUM_NESTED=1
}

# Read "COUNT TOTAL" or "COUNT TOTAL WORDS" lines and draw a bar labelled $1; on
# something that is not a terminal, a line at every tenth.
progress_bar() {
    local label=$1 count total words last=-1 tenth width=30 full
    while read -r count total words; do
        if ! [[ $count =~ ^[0-9]+$ && $total =~ ^[1-9][0-9]*$ ]]; then
            continue
        fi
        if [ -t 1 ]; then
            full=$((width * count / total))
            printf '\r%-12s [%s%s] %3d%% %-24.24s' "$label" \
                "$(printf '%*s' "$full" '' | tr ' ' '#')" \
                "$(printf '%*s' $((width - full)) '' | tr ' ' '.')" \
                $((100 * count / total)) "$words"
            last=0
        else
            tenth=$((10 * count / total))
            if [ "$tenth" -gt "$last" ]; then
                printf '%-12s %3d%%\n' "$label" $((10 * tenth))
                last=$tenth
            fi
        fi
    done
    if [ -t 1 ] && [ "$last" -ge 0 ]; then
        printf '\n'
    fi
}

# Turn what a tool prints into lines for progress_bar.
ninja_lines() { sed -unE 's/^\[([0-9]+)\/([0-9]+)\].*/\1 \2 steps/p'; }
apt_lines() {
    sed -unE 's/^dlstatus:[0-9]+:([0-9]+)[0-9.]*:.*/\1 100/p;
              s/^pmstatus:([^:]*):([0-9]+)[0-9.]*:.*/\2 100 \1/p'
}

# run_logged NAME COMMAND...: run it with its output in build/log/NAME.log.  It
# runs in a process group of its own, so that an interrupt ends all of it, and so
# does the $limit.
run_logged() {
    mkdir -p "$log"
    set -m
    "${@:2}" > "$log/$1.log" 2>&1 < /dev/null &
    _job=$!
    set +m
    _wait_for_job "$1"
}

# run_with_bar NAME FILTER COMMAND...: the same, with a bar that FILTER makes from
# what the command prints.
run_with_bar() {
    mkdir -p "$log"
    set -m
    { "${@:3}" 2>&1 < /dev/null | tee "$log/$1.log" | "$2" | progress_bar "$1"
      exit "${PIPESTATUS[0]}"; } &
    _job=$!
    set +m
    _wait_for_job "$1"
}

_wait_for_job() {
    local status=0 ended=''
    if [ -n "$limit" ]; then
        sleep "$limit" &
        _timer=$!
        wait -n -p ended "$_job" "$_timer" || status=$?
        if [ "$ended" = "$_timer" ]; then
            status=0
            _end_job >> "$log/$1.log"
            wait "$_job" 2>/dev/null || status=$?
        else
            kill "$_timer" 2>/dev/null || :
            wait "$_timer" 2>/dev/null || :
        fi
        _timer=
    else
        wait "$_job" || status=$?
    fi
    _job=
    return "$status"
}

# The job has taken too long: say what hangs, and end it.
_end_job() {
    printf '\nBail out! After %d s these are ended:\n' "$limit"
    ps -A -o pgid,pid,ppid,etime,time,stat,wchan:20,args |
        awk -v job="$_job" 'NR == 1 || $1 == job' || :
    kill -TERM -- "-$_job" || :
    sleep 5
    kill -KILL -- "-$_job" 2>/dev/null || :
}

# What matters in a log, for a person to read after a failure; then stop.
die_with_log() {
    local name=$1 errors
    shift
    errors=$(grep -m 10 -A 4 -E ' error: |undefined reference|^ninja: error' "$log/$name.log" || :)
    printf '\n%s\n' "${errors:-$(grep -vE '^(dl|pm)status:' "$log/$name.log" | tail -n 25)}" | sed 's/^/    | /' >&2
    if grep -qi 'no space left on device' "$log/$name.log"; then
        die "the disk is full" "free some space below $build or ${TMPDIR:-/tmp}, then run the same command again"
    fi
    die "$@" "the whole log is $log/$name.log"
}

# need_space DIR MIB WHAT: stop early rather than fill a disk.
need_space() {
    local dir=$1 free
    mkdir -p "$dir" 2>/dev/null ||
        die "cannot create the folder $dir" "it must be writable for $(id -un)"
    free=$(df -Pm "$dir" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt "$2" ]; then
        die "not enough room in $dir: $free MiB free, $2 MiB needed for $3" \
            "free some space, then run the same command again"
    fi
}

# Hold a lock until the script ends: one run at a time for each FILE.
lock() {
    local fd
    { mkdir -p "$(dirname "$1")" && : >> "$1"; } 2>/dev/null ||
        die "cannot write to the folder $(dirname "$1")" \
            "it must be writable for $(id -un); if root made it, root can remove it"
    exec {fd}>> "$1"
    if ! flock -n "$fd"; then
        say "waiting for another run that is using $(dirname "$1")"
        flock "$fd"
    fi
}
