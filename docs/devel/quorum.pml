/*
 * The quorum driver's protocol, for the model checker spin
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Three replicas of one granule of the stale map, in which there are two cells
 * that can be written one by one; two writers, a reader, a scrub; and children
 * that fail for a while and return.  spin tries all orders of their steps.  A
 * step is what one child does, or one critical section of QuorumSync.lock; the
 * functions that a step stands for are named beside it.
 *
 * Writes of a cell are numbered in the order in which they held its range, and
 * the n-th one writes the number n: a smaller number is older data.  Numbers
 * in brackets are those of the promises in block/quorum/quorum-int.h.  Each
 * name in capitals with #ifdef either chooses what is tried or breaks a rule,
 * which spin must notice: see quorum.rst.
 */

#ifndef T
#define T 2                     /* vote-threshold */
#endif
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

/* A set of children is a mask. */
#define N 3
#define EVERYBODY 7
#define has(set, i)     (((set) >> (i)) & 1)
#define size(set)       (has(set, 0) + has(set, 1) + has(set, 2))

/* The granule: a cell is a nibble, and a set of cells is a mask of nibbles. */
#define LEFT  15
#define RIGHT 240
#define WHOLE 255
#define ROTTEN 15               /* in the left cell: no write has this number */
#define is_rotten(v)    (((v) & LEFT) == ROTTEN)
#define as_new(v, w)    (((v) & LEFT) >= ((w) & LEFT) && ((v) >> 4) >= ((w) >> 4))
#define newest(v, w, cell) \
    (((v) & cell) > ((w) & cell) -> ((v) & cell) : ((w) & cell))

byte data[N];                   /* what the children store */
byte down;                      /* children that fail all requests */
byte rotten;                    /* children whose left cell has rotted */
byte bad;                       /* children that were ever down or rotten */
byte stale;                     /* children with a QuorumSyncChild.stale map */

byte last;                      /* of each cell, the last write that began */
byte acked;                     /* of each cell, the last acknowledged write */
byte seen;                      /* of each cell, the last write that was read */

/* --- range_lock: wait for earlier requests for some of the same cells --- */

byte wanted[4], blockers[4];

#define blocks(q, p, cells) ((q != p && (wanted[q] & cells)) -> 1 << q : 0)

inline ask_for(p, cells) {
    blockers[p] = blocks(0, p, cells) | blocks(1, p, cells) |
                  blocks(2, p, cells) | blocks(3, p, cells);
    wanted[p] = cells
}

#ifdef NO_RANGE_LOCK
#define granted(p) true
#else
#define granted(p) blockers[p] == 0
#endif

inline unlock(p) {
    wanted[p] = 0;
    blockers[0] = blockers[0] & ~(1 << p);
    blockers[1] = blockers[1] & ~(1 << p);
    blockers[2] = blockers[2] & ~(1 << p);
    blockers[3] = blockers[3] & ~(1 << p)
}

/* --- what must be true --- */

/* One bad child is one bad child: with more, requests may fail. [7] */
#define may_fail (size(bad) > 1)

/* Enough children are not stale; they have all acknowledged data. [1, 3] */
#define good_voter(i) \
    (has(stale, i) || has(rotten, i) || as_new(data[i], acked))

inline check() {
    assert(good_voter(0) && good_voter(1) && good_voter(2));
    assert(size(EVERYBODY & ~stale) >= T)
}

/* What a read may return at least: a majority remembers what it has shown. */
#if 2 * T > N
#define floor_now (newest(acked, seen, LEFT) + newest(acked, seen, RIGHT))
#else
#define floor_now acked
#endif

/* --- quorum_ask_all(): in any order, and each child ends by itself --- */

inline next_child(i, set) {
    if
    :: has(set, 0) -> i = 0
    :: has(set, 1) -> i = 1
    :: has(set, 2) -> i = 2
    fi;
    set = set & ~(1 << i)
}

/* --- quorum/write.c: quorum_co_pwritev() --- */

inline store(i, cells, v) {
    data[i] = (data[i] & ~(cells)) | ((v) & (cells))
}

/* quorum_sync_write_settle() */
inline count_copies() {
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

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
            if :: cells = part :: cells = WHOLE fi;
            ask_for(p, cells)
        };
        atomic {
            granted(p);
            last = last + (17 & cells);
            v = last;
            left = EVERYBODY
        };
        do
        :: atomic {
            left != 0 ->
            next_child(i, left);
            if
            :: !has(down, i) -> store(i, cells, v)
            :: has(down, i) -> failed = failed | 1 << i
            :: has(down, i) ->  /* the child fails, but has stored the write */
                failed = failed | 1 << i;
                store(i, cells, v)
            fi
           }
        :: atomic {
            left == 0 ->
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
            break
           }
        od
    od
}

/* --- quorum/read.c, quorum/read-locked.c --- */

/* Ask the children in @left; those in @good have answered with @answer[]. */
inline ask_read() {
    do
    :: atomic {
        left != 0 ->
        next_child(i, left);
        if
        :: !has(down, i) -> good = good | 1 << i; answer[i] = data[i]
        :: has(down, i)
        fi;
        i = 0
       }
    :: left == 0 -> break
    od
}

#define same(i, j) (has(good, i) && has(good, j) && answer[i] == answer[j])
#define members(i) (same(i, 0) + same(i, 1) + same(i, 2))
#define beats(i, j) (same(i, j) || members(i) > members(j))
#define wins(i) \
    (members(i) >= T && beats(i, 0) && beats(i, 1) && beats(i, 2))
#ifdef NO_COMPARISON
#define agree(i) (has(good, i) && size(good) >= T)
#else
#define agree(i) (members(i) >= T && members(i) == size(good))
#endif

/* @w is a child that has the winner, or N if there is no winner. */
#define has_winner (wins(0) || wins(1) || wins(2))
#define find_winner() w = (wins(0) -> 0 : (wins(1) -> 1 : (wins(2) -> 2 : N)))

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
inline repair() {
    if
    :: !has(down, i) ->
        assert(as_new(answer[w], floor_now) && !is_rotten(answer[w]));
        store(i, WHOLE, answer[w]);
        stale = stale & ~(1 << i);
        check()
    :: has(down, i)
    fi
}

inline forget() {
    i = 0; left = 0; good = 0; voters = 0; w = 0;
    answer[0] = 0; answer[1] = 0; answer[2] = 0
}

inline finish() {
    forget();
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
            left = voters
        :: else
        fi
    };
    ask_read();
    atomic {
        find_winner();
        assert(w < N || may_fail);
        if
        :: w < N && revote ->
            assert(justly_reported(0) && justly_reported(1) &&
                   justly_reported(2))
        :: else
        fi;
        if
        :: w < N && 2 * members(w) > size(voters) ->
            left = EVERYBODY & ~(same(w, 0) | same(w, 1) << 1 | same(w, 2) << 2)
        :: else
        fi
    };
    do
    :: atomic { left != 0 -> next_child(i, left); repair() }
    :: atomic {                 /* there is nothing more to repair */
#ifndef VOTE_WITHOUT_LOCK
        unlock(p);
#endif
        deliver(); finish();
        break
       }
    od
}

#ifdef REPAIR_WITHOUT_REVOTE
#define REVOTE false
#else
#define REVOTE true
#endif

/* quorum_read_vote() */
proctype Reader(byte p, n) {
    byte i, left, voters, good, answer[N], w, floor, deferred;
    bool again;

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
            left = voters
        };
        ask_read();
        atomic {                /* quorum_ask_deferred(), if a child failed */
            if
            :: deferred != 0 && good != voters ->
                left = deferred & ~stale;
                voters = voters | left
            :: else
            fi;
            deferred = 0
        };
        ask_read();
        atomic {
            good = good & ~stale;       /* quorum_leave_out_stale() again [3] */
            if
            :: agree(0) || agree(1) || agree(2) ->
                w = (agree(0) -> 0 : (agree(1) -> 1 : 2));
                deliver(); finish()
            :: !(agree(0) || agree(1) || agree(2)) -> again = true
            :: good != voters || stale != 0 -> again = true     /* to repair */
            fi
        };
        if
        :: again -> again = false; vote_locked(p, REVOTE)
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
    byte i, left, voters, good, answer[N], w, floor;

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

proctype Fate(byte outages) {
    byte i, set;

    do
    :: atomic {
        outages > 0 && (candidates & ~down) != 0 ->
        outages--;
        set = candidates & ~down;
        next_child(i, set);
        down = down | 1 << i;
        bad = bad | 1 << i;
        i = 0; set = 0
       }
    :: atomic {
        down != 0 ->
        set = down;
        next_child(i, set);
        down = down & ~(1 << i);
        i = 0; set = 0
       }
#ifdef LIES
    :: atomic {
        rotten == 0 ->
        set = candidates;
        next_child(i, set);
        store(i, LEFT, ROTTEN);
        rotten = 1 << i;
        bad = bad | rotten;
        i = 0; set = 0
       }
#endif
    :: outages == 0 && down == 0 -> break
    od
}

/* Children that never failed have got all writes in one order. [4] */
#define alike(i, j) (has(bad, i) || has(bad, j) || data[i] == data[j])

/* A process that never ends would be an invalid end state. */
init {
    atomic {
        run Writer(0, WRITES, LEFT);
        run Writer(1, 1, RIGHT);
        run Reader(2, READS);
        run Scrub(3, SCRUBS);
#ifdef FIFO
        run FifoReader(1);
#endif
        run Fate(OUTAGES)
    };
    _nr_pr == 1;
    check();
    assert(alike(0, 1) && alike(0, 2) && alike(1, 2))
}
