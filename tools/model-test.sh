#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Check the models of the driver's protocol, docs/devel/quorum.pml,
# quorum-losses.pml, quorum-checked.pml and quorum-state.pml: spin tries all that can
# happen in them, and finds nothing; and it finds something in each mutant, which
# leaves a rule out.
#
# usage: model-test.sh             speaks TAP; about three minutes on two processors
#        model-test.sh --long      larger ones, too, which take long and gigabytes
#        model-test.sh [--losses | --checked | --state] -DNAME...
#                                  one variant, with the way to what is wrong in it;
#                                  with --losses, of quorum-losses.pml, and so on
#        model-test.sh --checked   only quorum-checked.pml; about 40 seconds
#        model-test.sh --state     only quorum-state.pml; about 90 seconds
#
# All is done in build/model.

. "$(dirname "$0")/lib.sh"

models=$top/docs/devel
model=quorum.pml
work=$build/model
results=$work/results     # what each variant says, in a file with its number
lanes=$(nproc)
count=0
running=0

# verify NAME DEFINITION...: "N states" or "error"; 1 if it could not be done.
optimize=-O1
search=
memory=             # -DCOLLAPSE takes half of it, and half as long again
verify() {
    local name=$1 dir=$work/$1
    shift
    rm -rf "$dir"
    mkdir -p "$dir"
    cp "$models"/quorum*.pml "$dir/"      # what is found is written beside it
    cd "$dir" &&
        spin "$@" -a "$model" > spin.log 2>&1 &&
        gcc "$optimize" $search $memory -w -DSAFETY -DMEMLIM=8000 -o pan pan.c > gcc.log 2>&1 || return 1
    # It must have seen all, or something that is wrong.
    ./pan -m100000 > pan.log 2>&1 || return 1
    if grep -q 'errors: 1$' pan.log; then
        echo error
    elif ! grep -qE 'Search not completed|max search depth too small' pan.log &&
         grep -q 'errors: 0$' pan.log; then
        echo "$(awk '/states, stored/ { print $1 }' pan.log) states"
    else
        return 1
    fi
}

# check NAME WANTED SHOWN ARGUMENT...: one variant, beside others on the other
# processors; it is to end with "states" or "error".
check() {
    if [ "$running" = "$lanes" ]; then
        wait -n || :
        running=$((running - 1))
    fi
    count=$((count + 1))
    running=$((running + 1))
    check_now "$@" > "$results/$count" &
}
check_now() {
    local name=$1 wanted=$2 shown=$3 result option=
    shift 3
    result=$(verify "$name" "$@") || result='not verified'
    if [ "${result##* }" = "$wanted" ]; then
        echo "ok $count $shown: $result"
    else
        echo "not ok $count $shown: $result"
        tail -n 20 "$work/$name"/*.log | sed 's/^/# /'
        case $model in
        quorum-*) option=--${model#quorum-}
                  option="${option%.pml} " ;;
        esac
        echo "# to see how: tools/model-test.sh $option$*"
    fi
}
clean() { check "$1" states "$@"; }
small() {
    local optimize=-O0          # compiling would take longer than it saves
    clean "$@"
}
caught() {
    local optimize=-O0          # errors are found soon
    check "mutant-$1" error "mutant $1" "-D$1" "${@:2}"
}

command -v spin > /dev/null || {
    echo "ok 1 model # SKIP spin is not installed"
    echo "1..1"
    exit 0
}

# Reads from one child, whose digest is known.
check_checked() {
    model=quorum-checked.pml
    clean checked               -DOTHER_READS=1
    clean checked-failures      -DFAILURES=2 -DOTHER_READS=1
    clean checked-two-writers   -DOTHERS=1 -DFAILURES=1
    clean checked-losses        -DLOSSES=3 -DREADS=2 -DFAILURES=1
    clean checked-rot           -DROTS=2 -DREADS=2
    clean checked-loss-and-rot  -DLOSSES=1 -DROTS=1 -DREADS=2 -DFAILURES=1

    caught FORGET_AFTER_SEND    -DOTHER_READS=2
    caught HASH_OF_BUFFER
    caught REMEMBER_FAILED      -DFAILURES=3
    caught REMEMBER_AFTER_UNLOCK -DOTHERS=1
    caught REMEMBER_ANYHOW      -DREADS=2
    caught GENERATION_AFTER_QUESTION -DREADS=2
    caught VOTE_BESIDE_CHANGE   -DREADS=2
    caught ACCUSE_WITHOUT_RANGE
    caught NO_SECOND_LOOKUP
    caught DIGEST_DOES_NOT_DECIDE -DLOSSES=2
    caught ALL_AGREE_ON_OLD     -DLOSSES=3
    if [ "${1-}" = --long ]; then
        clean long-checked-failures -DFAILURES=2 -DREADS=2 -DOTHER_READS=1
        clean long-checked-losses   -DLOSSES=1 -DOTHER_READS=1
        clean long-checked-rot      -DROTS=2 -DREADS=2 -DOTHERS=1
    fi
}

# What must survive on the state nodes.
check_state() {
    model=quorum-state.pml
    clean state-one-crash       -DCRASHES=1
    clean state-torn            -DCRASHES=1 -DREGIONS=2 -DROUGH -DTORN
    clean state-two-crashes     -DROUGH
    clean state-two-outages     -DCRASHES=1 -DOUTAGES=2 -DREGIONS=2 -DWRITES=2 -DROUGH
    clean state-power           -DOUTAGES=0 -DPOWER -DROUGH
    clean state-closes          -DCRASHES=1 -DREGIONS=2 -DCLOSES -DROUGH
    clean state-blank           -DOUTAGES=0 -DBLANK -DROUGH
    clean state-removes         -DOUTAGES=0 -DLATER=1 -DREADS=0 -DREMOVES -DROUGH
    clean state-tidies          -DCRASHES=1 -DREGIONS=2 -DTIDIES=2 -DROUGH
    clean state-tidies-outage   -DCRASHES=1 -DREADS=0 -DTIDIES=1 -DFLUSHES=1 -DROUGH
    clean state-tidies-power    -DCRASHES=1 -DOUTAGES=0 -DTIDIES=2 -DFLUSHES=1 -DPOWER -DROUGH

    caught MARK_AFTER_SEND      -DCRASHES=1 -DOUTAGES=0 -DROUGH
    caught SESSION_AFTER_SEND   -DCRASHES=1 -DOUTAGES=0
    caught ACK_BEFORE_BEHIND    -DCRASHES=1 -DROUGH
    caught W_MINUS_1            -DCRASHES=1 -DOUTAGES=0 -DROUGH
    caught R_MINUS_1            -DCRASHES=1 -DOUTAGES=0 -DROUGH
    caught R_OF_MEMBERS         -DOUTAGES=0 -DLATER=1 -DREADS=0 -DREMOVES -DROUGH
    caught W_OF_MEMBERS         -DOUTAGES=0 -DLATER=1 -DREADS=0 -DREMOVES -DROUGH
    caught PENDING_ENDS_SOON    -DOUTAGES=0 -DLATER=1 -DREADS=0 -DREMOVES -DROUGH
    caught OVERWRITE_NEWEST     -DCRASHES=1 -DOUTAGES=0 -DREGIONS=2 -DWRITES=2 -DTORN -DROUGH
    caught SEQUENCE_ONLY        -DOUTAGES=0 -DREGIONS=2 -DLATER=1 -DREADS=0
    caught ORPHANS_SPLIT        -DOUTAGES=0 -DLATER=1 -DREADS=0 -DROUGH
    caught MERGED_IS_DURABLE    -DOUTAGES=0 -DLATER=1 -DREADS=0 -DROUGH
    caught NEWCOMER_VOTES       -DCRASHES=1 -DOUTAGES=0 -DREGIONS=2 -DBLANK -DROUGH
    caught LABEL_BESIDE_MAPS    -DCRASHES=1 -DOUTAGES=0 -DBLANK
    caught REMOVED_UNRECORDED   -DCRASHES=1 -DOUTAGES=0 -DREMOVES
    caught CLEAR_WHILE_UNFLUSHED -DCRASHES=1 -DOUTAGES=0 -DTIDIES=1 -DPOWER -DROUGH
    caught CLEAR_UNRESOLVED     -DOUTAGES=0 -DREGIONS=2 -DLATER=1 -DREADS=0 -DTIDIES=1 \
                                -DUNFLUSHED_FORGOTTEN -DROUGH
    caught BEHIND_FORGOTTEN     -DROUGH
    caught BEHIND_ALWAYS        -DCRASHES=1 -DOUTAGES=2 -DREGIONS=2 -DWRITES=2 -DROUGH
    caught MAPS_ALL_AT_ONCE     -DCRASHES=1 -DOUTAGES=2 -DREGIONS=2 -DWRITES=2 -DROUGH
    caught RESOLVE_WITHOUT_WRITE -DOUTAGES=0 -DROUGH
    caught RESOLVED_BEFORE_HELD -DOUTAGES=0 -DROUGH
    caught RESOLVED_BEFORE_BEHIND -DROUGH
    caught RESOLVED_UNFLUSHED   -DOUTAGES=0 -DPOWER -DROUGH
    caught CLEAN_BEFORE_FLUSH   -DCRASHES=1 -DOUTAGES=0 -DPOWER -DCLOSES -DROUGH
    caught CLEAN_BEFORE_STORED  -DCRASHES=1 -DCLOSES

    # These are soon found if the last choice is tried first.
    local search='-DREVERSE -DT_REVERSE'
    caught CLEAR_BEFORE_STORED  -DCRASHES=1 -DTIDIES=1 -DFLUSHES=1 -DROUGH
    caught CAUGHT_UP_BEFORE_FLUSH -DCRASHES=1 -DREADS=0 -DTIDIES=2 -DFLUSHES=1 -DPOWER -DROUGH

    search=
    if [ "${1-}" = --long ]; then
        clean long-state-two-writers -DCRASHES=1 -DOTHERS=1 -DPARTS -DROUGH
        clean long-state-two-crashes
        clean long-state-tidies -DCRASHES=1 -DTIDIES=2 -DFLUSHES=1 -DROUGH
        clean long-state-blank  -DOUTAGES=0 -DREGIONS=2 -DBLANK -DROUGH
    fi
}

# Reads, writes, repairs, outages and children that hang.
check_driver() {
    model=quorum.pml
    clean all-at-once
    clean a-liar                    -DLIES -DOUTAGES=0 -DSCRUBS=0
    clean a-liar-and-an-outage      -DLIES -DWRITES=0
    clean two-reads                 -DREADS=2 -DWRITES=0
    clean two-outages               -DOUTAGES=2 -DWRITES=0
    clean two-outages-two-writers   -DOUTAGES=2 -DREADS=0
    clean pattern-threshold         -DDEFER -DSCRUBS=0
    clean pattern-fifo              -DFIFO -DREADS=0 -DSCRUBS=0
    clean threshold-1               -DT=1 -DSCRUBS=0 -DOUTAGES=2 -DWRITES=0

    # Children that hang, and writes that land late.  HANGS=0 has only the latter.
    clean a-hang-two-writers        -DHANGS=1 -DREADS=0 -DSCRUBS=0
    clean a-hang-exact-end          -DHANGS=1 -DREADS=0 -DSCRUBS=0 -DEXACT
    clean a-hang-and-a-scrub        -DHANGS=1 -DREADS=0
    clean a-hang-and-a-read         -DHANGS=1 -DWRITES=0
    clean a-hang-two-outages        -DHANGS=1 -DOUTAGES=2 -DREADS=0 -DWRITES=0
    clean a-hang-threshold-1        -DHANGS=1 -DT=1 -DSCRUBS=0 -DWRITES=0
    clean two-hangs                 -DHANGS=2 -DOUTAGES=0 -DREADS=0 -DSCRUBS=0
    clean late-writes               -DHANGS=0 -DOUTAGES=2 -DREADS=0 -DSCRUBS=0
    clean late-repairs              -DHANGS=0 -DOUTAGES=2 -DWRITES=0 -DONE_CELL
    clean two-hangs-and-a-read      -DHANGS=2 -DOUTAGES=0 -DWRITES=0 -DSCRUBS=0
    clean early-reads               -DEARLY -DHANGS=1 -DOUTAGES=0 -DSCRUBS=0 -DWRITES=0
    clean early-reads-deferred      -DEARLY -DDEFER -DHANGS=1 -DOUTAGES=0 -DSCRUBS=0 -DWRITES=0
    clean early-reads-of-4          -DEARLY -DN=4 -DOUTAGES=0 -DSCRUBS=0 -DWRITES=0
    clean early-reads-of-4-deferred -DEARLY -DDEFER -DN=4 -DOUTAGES=0 -DSCRUBS=0 -DWRITES=0

    caught NO_RANGE_LOCK            -DOUTAGES=0
    caught VOTE_WITHOUT_LOCK        -DOUTAGES=0
    caught NO_COMPARISON            -DREADS=2 -DSCRUBS=0 -DWRITES=0
    caught REPAIR_WITHOUT_REVOTE    -DSCRUBS=0
    caught ACK_BEFORE_STALE         -DREADS=0
    caught SETTLE_AFTER_UNLOCK      -DREADS=0 -DSCRUBS=0
    caught STALE_CHILD_HOLDS        -DREADS=0 -DSCRUBS=0 -DOUTAGES=2
    caught RECOVERED_BY_A_PART      -DREADS=0 -DSCRUBS=0
    caught STALE_CHILD_VOTES        -DT=1 -DOUTAGES=2 -DWRITES=0
    caught STALE_CHILD_READ_BY_FIFO -DSTALE_CHILD_VOTES -DFIFO -DREADS=0 -DSCRUBS=0

    caught CLEAR_LATE               -DHANGS=0 -DREADS=0
    caught HOLD_LATE                -DHANGS=0 -DREADS=0 -DSCRUBS=0
    caught LATE_AT_SETTLE           -DHANGS=0 -DREADS=0 -DSCRUBS=0
    caught LATE_ONLY_ON_DROP        -DHANGS=1 -DREADS=0 -DSCRUBS=0
    caught LATE_IF_FAILED_ONLY      -DHANGS=0 -DREADS=0 -DSCRUBS=0
    caught LATE_SUPPORTS_REPAIR     -DHANGS=0 -DOUTAGES=2 -DWRITES=0 -DONE_CELL
    caught NO_WAIT                  -DHANGS=0 -DOUTAGES=2 -DREADS=0 -DSCRUBS=0
    caught WAIT_BEFORE_SENDING      -DHANGS=0 -DOUTAGES=2 -DREADS=0 -DSCRUBS=0 -DWRITES=2
    caught DROP_BEFORE_ENOUGH       -DHANGS=2 -DOUTAGES=0 -DREADS=0 -DSCRUBS=0
    caught DROP_BEFORE_WINNER       -DHANGS=1 -DOUTAGES=2 -DREADS=0 -DWRITES=0
    caught LAGGING_IS_ENOUGH        -DHANGS=2 -DOUTAGES=0 -DREADS=0 -DSCRUBS=0
    caught RETURN_BEFORE_SETTLED    -DHANGS=2 -DOUTAGES=0 -DREADS=0 -DSCRUBS=0
    caught RETURN_NOT_STALE         -DHANGS=1 -DOUTAGES=0 -DREADS=0 -DSCRUBS=0
    caught QUARANTINE_WITHOUT_PROBE -DHANGS=0 -DOUTAGES=2 -DREADS=0 -DSCRUBS=0
    caught EARLY_TIE                -DEARLY -DN=4 -DOUTAGES=0 -DSCRUBS=0 -DWRITES=0
    caught COUNT_UNASKED_NOT        -DEARLY -DDEFER -DN=4 -DOUTAGES=0 -DSCRUBS=0 -DWRITES=0

    if [ "${1-}" = --long ]; then
        clean long-two-reads        -DREADS=2
        clean long-two-outages      -DOUTAGES=2
        clean long-three-writes     -DWRITES=2
        clean long-three-outages    -DWRITES=2 -DOUTAGES=3 -DREADS=0
        clean long-liar             -DLIES -DSCRUBS=0
        clean long-threshold-1      -DT=1 -DOUTAGES=2
        clean long-fifo             -DFIFO -DREADS=0 -DWRITES=2 -DOUTAGES=2
        clean long-hang-and-a-read  -DHANGS=1 -DOUTAGES=0 -DSCRUBS=0
        clean long-early-reads      -DHANGS=1 -DEARLY -DOUTAGES=0 -DSCRUBS=0
        clean long-hang-two-outages -DHANGS=1 -DOUTAGES=2 -DREADS=0 -DSCRUBS=0
        clean long-late-repairs     -DHANGS=0 -DOUTAGES=2 -DWRITES=0
        clean long-late-writes      -DHANGS=0 -DOUTAGES=2 -DREADS=0 -DSCRUBS=0 -DWRITES=2
        clean long-late-and-reads   -DHANGS=0 -DOUTAGES=2 -DREADS=2 -DSCRUBS=0 -DONE_CELL
        caught SEND_TO_LATE         -DHANGS=0 -DOUTAGES=2 -DREADS=2 -DSCRUBS=0 -DONE_CELL
    fi
}

# Children that lose what they have acknowledged.
check_losses() {
    model=quorum-losses.pml
    clean losses                    -DONE_CELL -DLOSSES=1
    small losses-writes             -DONE_CELL -DREADS=0
    clean losses-two-writers        -DREADS=0 -DOTHERS=1 -DLOSSES=1 -DONE_CELL
    small losses-parts              -DREADS=0 -DWRITES=2 -DLOSSES=1
    clean losses-and-an-outage      -DREADS=0 -DOUTAGES=1 -DLOSSES=1 -DWRITES=2 -DONE_CELL
    clean losses-failed-flush       -DLOSSES=0 -DERRORS=1 -DONE_CELL
    small losses-failed-flushes     -DLOSSES=0 -DERRORS=2 -DONE_CELL -DREADS=0
    small losses-failed-fua         -DLOSSES=1 -DERRORS=2 -DONE_CELL -DFUA=true -DREADS=0
    small losses-unheard            -DREADS=0 -DUNHEARD=1 -DONE_CELL

    caught UNSURE_WIN               -DONE_CELL
    caught NOTICE_TOO_LATE          -DONE_CELL -DOUTAGES=1 -DFLUSHES=0
    caught CONFIRM_BESIDE_LOSS      -DONE_CELL
    caught CONFIRMED_HAS_FLUSHED    -DREADS=0 -DWRITES=2 -DLOSSES=1 -DERRORS=1
    caught SURE_BY_A_PART           -DREADS=0 -DWRITES=2 -DLOSSES=1
    caught NO_REWRITE               -DONE_CELL -DERRORS=2 -DLOSSES=0 -DFLUSHES=2
    caught LOST_WRITE_COUNTS        -DONE_CELL
    caught AGAIN=0                  -DONE_CELL -DREADS=0
    caught RANGE_GIVEN_BACK         -DONE_CELL -DREADS=0 -DLOSSES=1 -DOTHERS=1
    caught AGAIN_WITHOUT_VOTE       -DREADS=0 -DWRITES=2
    caught WRITE_WITHOUT_SURE       -DREADS=0 -DFLUSHES=0 -DWRITES=2 -DOUTAGES=1
    caught TOLD_BEFORE_FAILED       -DONE_CELL -DREADS=0 -DLOSSES=3
    caught TELLS_TOO_MUCH           -DONE_CELL -DREADS=0 -DERRORS=2 -DLOSSES=1 -DFLUSHES=2 -DWRITES=2
    caught TOLD_TO_STALE            -DONE_CELL -DREADS=0 -DERRORS=2 -DLOSSES=0 -DFLUSHES=2
    caught FLUSH_COUNTS_UNSURE      -DONE_CELL -DREADS=0
    caught RECOVERED_COUNTS         -DONE_CELL -DREADS=0 -DWRITES=2
    caught VOTES=1                  -DONE_CELL -DREADS=0 -DOUTAGES=1
    caught FLUSHING_IS_SAFE         -DONE_CELL
    caught FLUSH_ERROR_UNHEARD      -DONE_CELL -DERRORS=2 -DLOSSES=1
    caught FUA_LOSES_NOTHING        -DONE_CELL -DREADS=0 -DFUA=true -DOTHERS=1 -DERRORS=2 -DLOSSES=0
    caught UNHEARD_TELLS            -DONE_CELL -DUNHEARD=1 -DREADS=0 -DLOSSES=3
    caught UNHEARD_FORGOTTEN        -DONE_CELL -DUNHEARD=1 -DREADS=0 -DERRORS=2 -DLOSSES=0
    if [ "${1-}" = --long ]; then
        clean long-losses           -DONE_CELL
        clean long-losses-two-writers -DREADS=0 -DOTHERS=1 -DLOSSES=1
        clean long-losses-of-parts  -DREADS=0 -DWRITES=2
        clean long-failed-flushes   -DLOSSES=0 -DERRORS=2 -DONE_CELL -DREADS=0 -DFLUSHES=2 -DWRITES=2
        clean long-failed-fua       -DLOSSES=1 -DERRORS=1 -DONE_CELL -DFUA=true -DOTHERS=1 -DREADS=0
        clean long-unheard          -DREADS=0 -DUNHEARD=1 -DONE_CELL -DLOSSES=1 -DERRORS=1
        caught TELL_AGAIN           -DREADS=0 -DWRITES=2 -DFLUSHES=2
    fi
}

only=
case ${1-} in
--losses) model=quorum-losses.pml; shift ;;
--checked) model=quorum-checked.pml; only=checked; shift ;;
--state)  model=quorum-state.pml; only=state; shift ;;
esac
case ${1-} in
-D*)
    verify one "$@" || { cat "$work"/one/*.log; exit 1; }
    cd "$work/one"
    [ ! -f "$model.trail" ] || spin -t -p -g "$@" "$model"
    exit ;;
''|--long) ;;
*)  die "unknown option: $1" "usage: model-test.sh [--checked | --state] [--long]" \
         "       model-test.sh [--losses | --checked | --state] -DNAME..." ;;
esac

if [ "${1-}" = --long ]; then
    memory=-DCOLLAPSE
    lanes=2         # each may take 8 GB
fi
rm -rf "$results"
mkdir -p "$results"
for part in ${only:-state driver losses checked}; do
    "check_$part" "${1-}"
done
wait
for ((i = 1; i <= count; i++)); do
    cat "$results/$i"
done | tee "$work/all.tap"
echo "1..$count"
! grep -q '^not ok' "$work/all.tap"
