/*
 * The quorum driver's protocol, for the model checker spin
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Three replicas of one granule of the stale map, in which there are two cells
 * that can be written one by one; two writers, a reader, a scrub; and children
 * that fail, or do not answer, for a while and return.  spin tries all orders of
 * their steps.  A step is what one child does, or one critical section of
 * QuorumSync.lock; the functions that a step stands for are named beside it.
 *
 * Writes of a cell are numbered in the order in which they held its range, and
 * the n-th one writes the number n: a smaller number is older data.  Numbers
 * in brackets are those of the promises in block/quorum/quorum-int.h.  Each
 * name in capitals with #ifdef either chooses what is tried or breaks a rule,
 * which spin must notice: see quorum.rst.
 */

#include "quorum-common.pml"

#ifndef WRITES
#define WRITES 1                /* of the first writer; the second has one */
#endif
#ifndef READS
#define READS 1
#endif
#ifndef SCRUBS
#define SCRUBS 1
#endif
#ifndef OUTAGES
#define OUTAGES 1               /* of all children together */
#endif
#define ROTTEN 15               /* in the left cell: no write has this number */
#define is_rotten(v)    (((v) & LEFT) == ROTTEN)

byte data[N];                   /* what the children store */
byte down;                      /* children that fail all requests */
byte rotten;                    /* children whose left cell has rotted */
byte bad;                       /* children ever down, hung or rotten */
byte stale;                     /* children with a QuorumSyncChild.stale map */

byte last;                      /* of each cell, the last write that began */
byte acked;                     /* of each cell, the last acknowledged write */
byte seen;                      /* of each cell, the last write that was read */

/* --- quorum/late.c: children that do not answer, and late writes [9] --- */

#ifdef HANGS                    /* so many hangs of all children together */
byte hung;                      /* children that answer nothing for now */
byte lagging;                   /* children with QuorumSyncChild.lagging */
byte late;                      /* children with a late range in the granule */
bool broken;                    /* a child has ever been down */
byte dropped[2];                /* by a write that is not settled yet */
#ifdef QUARANTINE_WITHOUT_PROBE
byte heard;                     /* children that have answered a write since */
#endif

/*
 * What process p has sent to the children in flight_to[p], and may land there
 * although its request has ended.  The last of them counts, if there are more.
 */
byte flight_to[4], flight[4];

#define flies_to(i) (has(flight_to[0], i) || has(flight_to[1], i) || \
                     has(flight_to[2], i) || has(flight_to[3], i))
#define can_fly(p, v) (flight_to[p] == 0 || flight[p] == (v))
#define cells_of(p) \
    (p > 1 -> WHOLE : ((flight[p] & LEFT -> LEFT : 0) | \
                       (flight[p] & RIGHT -> RIGHT : 0)))
#else
#define hung 0
#define lagging 0
#define late 0
#endif

#define silent (hung & ~lagging)        /* their requests do not end */
#define ready(set) ((set) & ~silent)
#define can_drop(set) (size(EVERYBODY & ~(lagging | (set))) >= T)
#define is_well(i) (!has(down | hung | lagging, i))

#ifdef HANGS
#define end_late() unsent = 0; dropped[p] = 0
#else
#define end_late() skip
#endif
#ifdef QUARANTINE_WITHOUT_PROBE
#define note_answer(i) heard = heard | 1 << i
#else
#define note_answer(i) skip
#endif

/* The request on @i ends with an error, but what it asks for may come later. */
inline let_fly(p, i, v) {
#ifdef QUARANTINE_WITHOUT_PROBE
    heard = heard & ~(1 << i);
#endif
    flight_to[p] = flight_to[p] | 1 << i;
    flight[p] = v;
#ifdef LATE_ONLY_ON_DROP
    if :: has(lagging, i) -> late = late | 1 << i :: else fi
#else
    late = late | 1 << i
#endif
}

/* --- what must be true --- */

/* One bad child is one bad child: with more, requests may fail. [7] */
#define may_fail (size(bad) > 1)

/* Enough children are not stale; they have all acknowledged data. [1, 3] */
#define good_voter(i) \
    (has(stale, i) || has(rotten, i) || as_new(data[i], acked))

inline check() {
    assert(good_voter(0) && good_voter(1) && good_voter(2)
           with_fourth(&& good_voter(3)));
    assert(size(EVERYBODY & ~stale) >= T);
    assert(size(EVERYBODY & ~lagging) >= T)     /* [9] */
}

/* What a read may return at least: a majority remembers what it has shown. */
#if 2 * T > N
#define floor_now (newest(acked, seen, LEFT) + newest(acked, seen, RIGHT))
#else
#define floor_now acked
#endif

/* --- quorum_ask_all(): in any order, and each child ends by itself --- */

inline next_child(i, set) {
    one_of(i, ready(set));
    set = set & ~(1 << i)
}

/* --- quorum/write.c: quorum_co_pwritev() --- */

inline store(i, cells, v) {
    data[i] = (data[i] & ~(cells)) | ((v) & (cells))
}

/* The children in @set that store a write of the cells if they do it. */
#define holders(set) ((set) & ~(cells == WHOLE -> 0 : stale))

/*
 * A write does not go to children that are late in its granule, so that what is
 * late there can't come over it.  If too few store it without @unsent, those
 * that are well get it when they are not late any more.
 */
#ifdef HOLD_LATE
#define unasked lagging
#else
#define unasked (lagging | late)
#endif
#define come_later (unsent & ~(down | lagging))
#if defined(NO_WAIT) || !defined(HANGS)
#define waits_for_late false
#define too_many_late false
#elif defined(WAIT_BEFORE_SENDING)
#define waits_for_late false
#define too_many_late \
    (size(holders(EVERYBODY & ~(lagging | late))) < T && \
     size(holders(EVERYBODY & ~(lagging | down))) >= T)
#else
#define waits_for_late \
    (size(holders(EVERYBODY & ~failed)) < T && \
     size(holders(EVERYBODY & ~failed | come_later)) >= T)
#define too_many_late false
#endif

/*
 * Whether a write is settled without the children that have not done it.  Those
 * that lag may have done it, but are stale soon: another write in the granule
 * will be settled without them. [9]
 */
#ifdef LAGGING_IS_ENOUGH
#define uncertain left
#else
#define uncertain (left | lagging)
#endif
#ifdef DROP_BEFORE_ENOUGH
#define is_enough true
#else
#define is_enough (size(holders(EVERYBODY & ~(failed | uncertain))) >= T)
#endif

/* quorum_sync_write_settle() */
inline count_copies() {
#ifdef LATE_AT_SETTLE
    failed = failed | late;
#endif
    took = EVERYBODY & ~failed;
#ifndef STALE_CHILD_HOLDS
    if :: cells != WHOLE -> took = took & ~stale :: else fi;
#endif
    stored = (size(took) >= T)
}

inline mark_stale() {
    if
    :: stored ->
#ifndef RECOVERED_BY_A_PART
        if :: cells != WHOLE -> failed = failed | stale :: else fi;
#endif
        stale = failed
    :: else
    fi
}

/* The guest hears of the outcome. [1, 7] */
inline acknowledge() {
    assert(stored || may_fail);
#ifdef HANGS
    assert(stored || broken);   /* a child that only hangs is waited for */
    assert(stored || size(holders(EVERYBODY & ~failed | come_later)) < T);
#endif
    if
    :: stored ->
        v = v & cells;
        acked = newest(acked, v, LEFT) + newest(acked, v, RIGHT);
        check()
    :: else
    fi
}

proctype Writer(byte p, n, part) {
    byte i, cells, left, failed, took, v;
    bool stored;
#ifdef HANGS
    byte unsent;                /* to these, as they are late */
#endif

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
#ifdef ONE_CELL
            cells = WHOLE;
#else
            if :: cells = part :: cells = WHOLE fi;
#endif
            ask_for(p, cells)
        };
        atomic {
            granted(p) && !too_many_late;
            last = last + (17 & cells);
            v = last;
#ifdef HANGS
            unsent = late & ~lagging;
            failed = unasked;
#ifdef RETURN_NOT_STALE
            failed = failed & ~lagging;
#endif
#if defined(SEND_TO_LATE)
            left = EVERYBODY & ~lagging
#elif defined(LATE_AT_SETTLE)
            failed = lagging;
            left = EVERYBODY & ~lagging
#else
            left = EVERYBODY & ~unasked
#endif
#else
            left = EVERYBODY
#endif
        };
        do
        :: atomic {
            ready(left) != 0 ->
            next_child(i, left);
            if
            :: is_well(i) -> store(i, cells, v); note_answer(i)
            :: !is_well(i) -> failed = failed | 1 << i
            :: has(down, i) ->  /* the child fails, but has stored the write */
                failed = failed | 1 << i;
                store(i, cells, v)
#ifdef HANGS
            :: !is_well(i) && can_fly(p, v & cells) ->
                failed = failed | 1 << i;
                let_fly(p, i, v & cells)
#ifdef LATE_IF_FAILED_ONLY
            :: has(down, i) && can_fly(p, v & cells) ->
                flight_to[p] = flight_to[p] | 1 << i;
                flight[p] = v & cells;
                store(i, cells, v)      /* sent again, with success */
#endif
#endif
            fi
           }
#ifdef HANGS
        :: atomic { left != 0 && ready(left) == 0 && is_enough ->
            lagging = lagging | left;
            dropped[p] = left
           }
#endif
#ifdef HANGS
        :: atomic {
            left == 0 && waits_for_late && (come_later & ~late) != 0 ->
            left = come_later & ~late;
            failed = failed & ~left;
            unsent = unsent & ~left
           }
#endif
        :: atomic {
            left == 0 && !waits_for_late ->
            /*
             * These may be one step: all that each of them does for others is
             * to let them go on, and they could as well have gone on later.
             */
#if defined(SETTLE_AFTER_UNLOCK)
            unlock(p) }; atomic { count_copies(); mark_stale(); acknowledge();
#elif defined(ACK_BEFORE_STALE)
            count_copies(); unlock(p); acknowledge() }; atomic { mark_stale();
#else
            count_copies(); mark_stale(); unlock(p); acknowledge();
#endif
            n--; i = 0; cells = 0; failed = 0; took = 0; v = 0; stored = false;
            end_late();
            break
           }
        od
    od
}

/* --- quorum/read.c, read-locked.c and read-locked-repair.c --- */

#define same(i, j) (has(good, i) && has(good, j) && answer[i] == answer[j])
#define members(i) \
    (same(i, 0) + same(i, 1) + same(i, 2) with_fourth(+ same(i, 3)))
#define like(w) \
    (same(w, 0) | same(w, 1) << 1 | same(w, 2) << 2 \
     with_fourth(| same(w, 3) << 3))
#define beats(i, j) (same(i, j) || members(i) > members(j))
#define wins(i) \
    (members(i) >= T && beats(i, 0) && beats(i, 1) && beats(i, 2) \
     with_fourth(&& beats(i, 3)))

/* @w is a child that has the winner, or N if there is no winner. */
#define has_winner \
    (wins(0) || wins(1) || wins(2) with_fourth(|| wins(3)))
#define find_winner() \
    w = (wins(0) -> 0 : (wins(1) -> 1 : (wins(2) -> 2 : \
         or_fourth(wins(3), N))))

/* How many answers are missing; those that were not asked are, too. */
#ifdef COUNT_UNASKED_NOT
#define missing size(left)
#else
#define missing size((voters | deferred) & ~good)
#endif

/* With early-reads, a read ends when what is missing can't change the winner. */
#ifdef EARLY_TIE
#define is_ahead(i, j) (same(i, j) || members(i) >= members(j) + missing)
#else
#define is_ahead(i, j) (same(i, j) || members(i) > members(j) + missing)
#endif

#if defined(EARLY)
#define agree(i) \
    (members(i) >= T && is_ahead(i, 0) && is_ahead(i, 1) && is_ahead(i, 2) \
     with_fourth(&& is_ahead(i, 3)))
#elif defined(NO_COMPARISON)
#define agree(i) (has(good, i) && size(good) >= T)
#else
#define agree(i) (members(i) >= T && members(i) == size(good))
#endif
#define any_agrees \
    (agree(0) || agree(1) || agree(2) with_fourth(|| agree(3)))

/* Whether a read goes on without the children that have not answered. [9] */
#define FIRST    0              /* to the deferred ones */
#define UNLOCKED 1
#define LOCKED   2
#if defined(DROP_BEFORE_ENOUGH)
#define is_enough_to_read(phase) true
#elif defined(DROP_BEFORE_WINNER)
#define is_enough_to_read(phase) (phase == FIRST || size(good) >= T)
#else
#define is_enough_to_read(phase) \
    (phase == FIRST || (phase == UNLOCKED && size(good) >= T) || \
     (has_winner && can_drop(left)))
#endif

/*
 * Ask the children in @left; those in @good have answered with @answer[].  Go
 * on when the rest is silent and it is enough without them, or with
 * early-reads, when the rest can't change the winner.
 */
inline ask_read(phase) {
    do
    :: atomic {
        ready(left) != 0 ->
        next_child(i, left);
        if
        :: is_well(i) -> good = good | 1 << i; answer[i] = data[i]
        :: !is_well(i)
        fi;
        i = 0
       }
    :: left == 0 -> break
#ifdef HANGS
    :: left != 0 && ready(left) == 0 && is_enough_to_read(phase) -> break
#endif
#ifdef EARLY
    :: phase != LOCKED && left != 0 && any_agrees -> break
#endif
    od
}

#define let_answer(i) \
    answer[i] = data[i]; good = good | 1 << i; voters = voters & ~(1 << i)

/* The answers that are missing come now, and the winner has won indeed. [2] */
inline let_all_answer() {
#ifdef EARLY
    voters = (voters | deferred) & ~good;
    do
    :: voters == 0 -> break
    :: has(voters, 0) -> let_answer(0)
    :: has(voters, 1) -> let_answer(1)
    :: has(voters, 2) -> let_answer(2)
    with_fourth(:: has(voters, 3) -> let_answer(3))
    od;
    assert(wins(w))
#else
    skip
#endif
}

/* Only children that fail or differ may be reported. [5, 7] */
#define justly_reported(i) \
    (!has(voters, i) || same(w, i) || has(bad, i) || may_fail)

/* The guest gets the winner: never older data than it may know of. [2, 3] */
inline deliver() {
    if
    :: w < N ->
        assert(as_new(answer[w], floor));
        assert(!is_rotten(answer[w]) || may_fail);
        seen = newest(seen, answer[w], LEFT) + newest(seen, answer[w], RIGHT)
    :: else
    fi
}

/* quorum_repair_slot(): never back in time, never one child's own idea. [6] */
inline repair(p) {
    if
    :: is_well(i) ->
        assert(as_new(answer[w], floor_now) && !is_rotten(answer[w]));
        store(i, WHOLE, answer[w]);
        stale = stale & ~(1 << i);
        check()
    :: !is_well(i)
#ifdef HANGS
    :: !is_well(i) && can_fly(p, answer[w]) ->
        let_fly(p, i, answer[w])
#endif
    fi
}

/*
 * What a child has where it is late may change although the range is held, so
 * it supports no repair of others.
 */
#if defined(HANGS) && !defined(LATE_SUPPORTS_REPAIR)
#define may_change late_then
#else
#define may_change 0
#endif
#ifdef HANGS
#define note_late() late_then = late
#define forget_late() late_then = 0
#else
#define note_late() skip
#define forget_late() skip
#endif

#ifdef CLEAR_LATE
#define repairable EVERYBODY & ~lagging
#else
#define repairable EVERYBODY & ~(lagging | late)
#endif

inline forget() {
    i = 0; left = 0; good = 0; voters = 0; w = 0;
    answer[0] = 0; answer[1] = 0; answer[2] = 0 with_fourth(; answer[3] = 0)
}

inline finish() {
    forget();
    forget_late();
    n--; floor = 0
}

/* quorum_locked_read_vote(), quorum_repair_all() */
inline vote_locked(p, revote) {
    atomic {
        if :: revote -> forget() :: else fi;
#ifndef VOTE_WITHOUT_LOCK
        ask_for(p, WHOLE)
    };
    atomic {
        granted(p);
#endif
        if
        :: revote ->
#ifdef STALE_CHILD_VOTES
            voters = EVERYBODY;
#else
            voters = EVERYBODY & ~stale;
#endif
            left = voters & ~lagging;
            note_late()
        :: else
        fi
    };
    ask_read(LOCKED);
    atomic {
        find_winner();
#ifdef HANGS
        assert(w < N || left == 0);     /* no one was dropped in vain */
        lagging = lagging | left;
#endif
        assert(w < N || may_fail);
        if
        :: w < N && revote ->
            assert(justly_reported(0) && justly_reported(1) &&
                   justly_reported(2) with_fourth(&& justly_reported(3)))
        :: else
        fi;
        if
        :: w < N && 2 * size(like(w) & ~may_change) > size(voters) ->
            left = repairable & ~like(w)
        :: else -> left = 0
        fi
    };
    do
    :: atomic { ready(left) != 0 -> next_child(i, left); repair(p) }
#ifdef HANGS
    :: atomic { left != 0 && ready(left) == 0 && can_drop(left) ->
        lagging = lagging | left
       }
#endif
    :: atomic {                 /* there is nothing more to repair */
#ifndef VOTE_WITHOUT_LOCK
        unlock(p);
#endif
        deliver(); finish();
        break
       }
    od
}

/* The read has been answered without those that are silent. [9] */
inline drop_silent() {
#ifdef HANGS
    if
    :: can_drop(left & silent) -> lagging = lagging | (left & silent)
    :: left != 0
    :: else
    fi
#else
    skip
#endif
}

#ifdef REPAIR_WITHOUT_REVOTE
#define REVOTE false
#else
#define REVOTE true
#endif

/* quorum_read_vote() */
proctype Reader(byte p, n) {
    byte i, left, voters, good, answer[N], w, floor, deferred;
    bool again;                 /* under the lock */
#ifdef HANGS
    byte late_then;             /* when the vote began */
#endif

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
            floor = floor_now;
            voters = EVERYBODY & ~stale;
#ifdef DEFER                    /* read-pattern threshold */
            if
            :: voters == EVERYBODY -> next_child(i, voters); deferred = 1 << i
            :: else
            fi;
#endif
            left = voters & ~lagging
        };
        ask_read(FIRST);
        atomic {                /* quorum_ask_deferred(), if a child failed */
            if
            :: deferred != 0 && good != voters && !any_agrees ->
                left = left | (deferred & ~(stale | lagging));
                voters = voters | (deferred & ~stale);
                deferred = 0
            :: else
            fi
        };
        ask_read(UNLOCKED);
        atomic {
            good = good & ~stale;       /* quorum_leave_out_stale() again [3] */
            if
            :: any_agrees ->
                w = (agree(0) -> 0 : (agree(1) -> 1 : (agree(2) -> 2 : 3)));
                drop_silent();
                let_all_answer();
                deliver(); finish();
                deferred = 0
            :: !any_agrees -> again = true
            :: good != voters || stale != 0 -> again = true     /* to repair */
            fi
        };
        if
        :: again -> again = false; deferred = 0; vote_locked(p, REVOTE)
        :: else
        fi
    od
}

/* quorum_read_fifo(): the first child that answers and is not stale then [3] */
proctype FifoReader(byte n) {
    byte i, floor;

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic { floor = acked; i = 0 };
        do
        :: i == N -> break
#ifndef STALE_CHILD_VOTES
        :: i < N && has(stale, i) -> i++
        :: i < N && !has(stale, i) ->
#else
        :: i < N ->
#endif
            if
            :: atomic { !has(down, i) -> assert(as_new(data[i], floor)) }; break
            :: has(down, i) -> i++
            fi
        od;
        n--
    od
}

/* quorum_co_scrub() */
proctype Scrub(byte p, n) {
    byte i, left, voters, good, answer[N], w, floor, deferred;
#ifdef HANGS
    byte late_then;
#endif

    do
    :: n == 0 -> break
    :: n > 0 -> vote_locked(p, true)
    od
}

/* --- the world --- */

/* The children are alike, so let child 0 be the first that fails. */
#ifdef FIFO
#define candidates EVERYBODY
#else
#define candidates (bad == 0 -> 1 : (bad == 1 -> 3 : EVERYBODY))
#endif

inline pick(i, from) {
    set = from;
    one_of(i, set);
    set = 0
}

/*
 * A child whose connection breaks is down.  A child may hang without end, if it is
 * the only one that ever does anything bad.
 */
proctype Fate(byte outages, hangs) {
    byte i, set;

    do
    :: atomic {
        outages > 0 && (candidates & ~down) != 0 ->
        outages--;
        pick(i, candidates & ~down);
        down = down | 1 << i;
        bad = bad | 1 << i;
#ifdef HANGS
        hung = hung & ~(1 << i);
        broken = true;
#endif
        i = 0
       }
#ifdef HANGS
    :: atomic {
        hangs > 0 && (candidates & ~(down | hung)) != 0 ->
        hangs--;
        pick(i, candidates & ~(down | hung));
        hung = hung | 1 << i;
        bad = bad | 1 << i;
        i = 0
       }
    :: atomic { hung != 0 -> pick(i, hung); hung = hung & ~(1 << i); i = 0 }
#endif
    :: atomic {
        down != 0 ->
        pick(i, down);
        down = down & ~(1 << i);
        i = 0
       }
#ifdef LIES
    :: atomic {
        rotten == 0 ->
        pick(i, candidates);
        store(i, LEFT, ROTTEN);
        rotten = 1 << i;
        bad = bad | rotten;
        i = 0
       }
#endif
    :: outages == 0 && down == 0 && hangs == 0 &&
       (hung == 0 || !may_fail) -> break
    od
}

#ifdef HANGS
#ifdef EXACT                    /* bdrv_late() knows when it has ended */
#define may_end_late(i) true
#elif defined(QUARANTINE_WITHOUT_PROBE)  /* after the answer to some request */
#define may_end_late(i) has(heard, i)
#else                           /* the quarantine, after a good answer */
#define may_end_late(i) is_well(i)
#endif

#define may_end(i) (has(late, i) && !flies_to(i) && may_end_late(i))
#ifdef RETURN_BEFORE_SETTLED
#define may_return(i) (has(lagging, i) && !has(down | hung, i))
#else
#define may_return(i) \
    (has(lagging, i) && !has(down | hung | dropped[0] | dropped[1], i))
#endif

inline land_or_vanish(q) {
    pick(i, flight_to[q]);
    flight_to[q] = flight_to[q] & ~(1 << i);
    if
    :: store(i, cells_of(q), flight[q]); check()
    :: true
    fi;
    if :: flight_to[q] == 0 -> flight[q] = 0 :: else fi;
    i = 0
}

/* What happens by itself. */
proctype Time() {
    byte i, set;

end:
    do
    :: atomic { flight_to[0] != 0 -> land_or_vanish(0) }
    :: atomic { flight_to[1] != 0 -> land_or_vanish(1) }
    :: atomic { flight_to[2] != 0 -> land_or_vanish(2) }
    :: atomic { flight_to[3] != 0 -> land_or_vanish(3) }
    :: atomic { may_end(0) -> late = late & ~1 }
    :: atomic { may_end(1) -> late = late & ~2 }
    :: atomic { may_end(2) -> late = late & ~4 }
    :: atomic { may_return(0) -> lagging = lagging & ~1 }
    :: atomic { may_return(1) -> lagging = lagging & ~2 }
    :: atomic { may_return(2) -> lagging = lagging & ~4 }
    od
}
#endif

/* Children that never failed have got all writes in one order. [4] */
#define alike(i, j) (has(bad, i) || has(bad, j) || data[i] == data[j])

#ifdef HANGS
#define ENDLESS 1               /* Time: it may wait without end */
#else
#define HANGS 0
#define ENDLESS 0
#endif

/* A process that never ends would be an invalid end state. */
init {
    atomic {
#if ENDLESS
        run Time();             /* the first, for the last ones go first */
#endif
        run Writer(0, WRITES, LEFT);
        run Writer(1, 1, RIGHT);
        run Reader(2, READS);
        run Scrub(3, SCRUBS);
#ifdef FIFO
        run FifoReader(1);
#endif
        run Fate(OUTAGES, HANGS)
    };
    _nr_pr == 1 + ENDLESS;
    check();
    assert(alike(0, 1) && alike(0, 2) && alike(1, 2))
}
