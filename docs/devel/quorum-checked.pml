/*
 * Checked reads of the quorum driver, for the model checker spin
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * This is promise 12 of block/quorum/quorum-int.h.  There are three replicas of
 * one unit with two cells, and a digest of the unit, or none.  As in quorum.pml,
 * the n-th write of a cell writes the number n; both cells begin with 1, and the
 * number 0 is what no write wrote.  The digest of a unit is what it holds.
 *
 * A step is what one child does, or one critical section of the driver.  Names
 * in capitals with #ifdef either choose what is tried or break a rule, which
 * spin must notice: see quorum.rst.  What the other models look at is left out:
 * children that hang, losses that are noticed, restarts.
 */

#include "quorum-common.pml"

#ifndef WRITES
#define WRITES 1                /* of the first writer */
#endif
#ifndef OTHERS
#define OTHERS 0                /* of the second one */
#endif
#ifndef READS
#define READS 1                 /* of the first reader */
#endif
#ifndef OTHER_READS
#define OTHER_READS 0           /* of the second one */
#endif
#ifndef FAILURES
#define FAILURES 0              /* of one child to write */
#endif
#ifndef LOSSES
#define LOSSES 0                /* children that forget what was written */
#endif
#ifndef ROTS
#define ROTS 0                  /* children that hold something else */
#endif
#define ALL EVERYBODY
#define FIRST_DATA 17

#define merge(old, new, cells) (((old) & ~(cells)) | ((new) & (cells)))
#define max2(v, w) (newest(v, w, LEFT) + newest(v, w, RIGHT))

/* --- the children --- */

byte data[N];
byte failures = FAILURES, losses = LOSSES, rots = ROTS;

/* --- what the driver knows --- */

byte stale;                     /* children that missed a write */
byte digest;                    /* 0: unknown */
byte generation;
byte changing;                  /* changes that are under way */

inline forget() { digest = 0; generation++ }

/* --- what must be true --- */

byte last = FIRST_DATA;         /* of each cell, the last write that began */
byte content = FIRST_DATA;      /* what the last change left behind, */
bool uncertain;                 /* unless a write failed */
byte acked = FIRST_DATA;        /* acknowledged */
byte shown = FIRST_DATA;        /* the same, or seen by a read that ended */
byte bad;                       /* children that ever lost or changed anything */

#define in_sync (ALL & ~stale)

bool misled;                    /* by a vote that wrong children won */

/* No child is called wrong that holds what it should. */
#define accuse(value) assert(uncertain || misled || (value) != content)

/*
 * What is read is not older than what was acknowledged before; unless children
 * that agreed on it were wrong, and nothing was remembered.  Nor is it older
 * than what was read before, if all children did what they should.
 */
inline finish_read(v, is_known) {
    if
    :: !(is_known) && size(bad) >= T && !as_new(v, content) -> misled = true
    :: else
    fi;
    assert(as_new(v, floor) || misled);
    assert(as_new(v, seen) || bad != 0);
    shown = (as_new(v, shown) -> v : shown)
}
/*
 * After a write that failed, replicas may hold anything; but what is known is
 * what enough of them hold.
 */
inline fail_read(is_known) {
    assert(misled || size(in_sync & ~bad) < ((is_known) -> 1 : T) ||
           (uncertain && (!(is_known) || bad != 0)))
}

/* --- writes --- */

/* Promises 1 and 3: who missed it is stale; only a whole write ends that. */
inline settle_write() {
    held = done & (cells == WHOLE -> ALL : in_sync);
    if
    :: size(held) >= T ->
        stale = (stale | (ALL & ~done)) & ~(cells == WHOLE -> done : 0);
        content = merge(content, value, cells);
        uncertain = uncertain && cells != WHOLE;
        acked = merge(acked, value, cells);
        shown = max2(shown, acked)
    :: else ->
        held = 0;
        uncertain = true
    fi
}

/* D2 and D6: a whole unit that was acknowledged is known, anything else not. */
inline end_change() {
    if
    :: cells == WHOLE && held != 0 -> digest = hashed
#ifdef REMEMBER_FAILED
    :: cells == WHOLE && held == 0 -> digest = hashed
#endif
    :: else
    fi;
    changing--
}

proctype Writer(byte p, n) {
    byte cells, value, hashed, left, i, done, held;

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
            if
            :: cells = LEFT
            :: cells = WHOLE
            fi;
            ask_for(p, cells)
        };
        atomic {
            granted(p) ->
            value = merge(last, last + FIRST_DATA, cells);
            last = value;
            hashed = value;
#ifdef HASH_OF_BUFFER           /* which the guest changes under way */
            if
            :: true
            :: hashed = 255
            fi;
#endif
            changing++;
#ifndef FORGET_AFTER_SEND
            forget();
#endif
            left = ALL
        };
        do
        :: atomic { left != 0 -> one_of(i, left); left = left & ~(1 << i) };
            if
            :: d_step {
                data[i] = merge(data[i], value, cells);
                done = done | 1 << i
               }
            :: d_step { failures > 0 -> failures-- }
            fi
        :: left == 0 -> break
        od;
#ifdef FORGET_AFTER_SEND
        atomic { forget() };
#endif
#ifdef REMEMBER_AFTER_UNLOCK
        atomic { settle_write(); unlock(p) };
        d_step { end_change() };
#else
        atomic { settle_write(); end_change(); unlock(p) };
#endif
        d_step { cells = 0; value = 0; hashed = 0; i = 0; done = 0; held = 0; n-- }
    od
}

/* --- reads --- */

/* The first of the answers that at least T children gave, or 0. */
#define given(v) \
    (((has(asked, 0) && answer[0] == (v)) -> 1 : 0) + \
     ((has(asked, 1) && answer[1] == (v)) -> 1 : 0) + \
     ((has(asked, 2) && answer[2] == (v)) -> 1 : 0))
#define winner \
    (given(answer[0]) >= T && has(asked, 0) -> answer[0] : \
    (given(answer[1]) >= T && has(asked, 1) -> answer[1] : 0))

inline ask(i) {
    d_step {
        answer[i] = data[i];
        asked = asked | 1 << i
    }
}
inline forget_answers() {
    answer[0] = 0; answer[1] = 0; answer[2] = 0; asked = 0; i = 0; g = 0; d = 0;
    beside = false
}

/* D3, without the range: as in early reads, T answers that are alike will do. */
inline vote() {
    do
    :: atomic { winner == 0 && (in_sync & ~asked) != 0 ->
                one_of(i, in_sync & ~asked) };
        ask(i);
#ifdef GENERATION_AFTER_QUESTION
        atomic { g = generation; beside = changing != 0 }
#endif
    :: winner != 0 || (in_sync & ~asked) == 0 -> break
    od;
    atomic {
        asked = asked & in_sync;
        v = winner;
        if
        :: v != 0 ->
            if
#ifdef REMEMBER_ANYHOW
            :: true -> digest = v
#else
            :: g == generation && !beside -> digest = v
            :: else
#endif
            fi;
            finish_read(v, false);
            v = 0;
            n--
        :: else -> again = true
        fi
    }
}

/* Which version wins under the range: the known one, or else the vote's. */
#ifdef DIGEST_DOES_NOT_DECIDE
#define decided winner
#else
#define decided (d != 0 -> (given(d) > 0 -> d : 0) : winner)
#endif
#ifdef ALL_AGREE_ON_OLD
#define or_agreed(v) ((v) == 0 -> winner : (v))
#else
#define or_agreed(v) (v)
#endif

inline repair_one(k) {
    if
    :: has(asked, k) && answer[k] != v ->
        accuse(answer[k]);
        left = left | 1 << k
    :: else
    fi
}

/* D5, and votes with the range held, which never fail because of a write. */
inline locked_read(p) {
    atomic { ask_for(p, WHOLE) };
    atomic {
        granted(p) ->
#ifdef NO_SECOND_LOOKUP
        if :: d == 0 -> d = digest :: else fi;
#else
        d = digest;
#endif
        /* What is known while the range is held is what was settled. */
        assert(d == 0 || d == content || uncertain || misled);
        asked = 0
    };
    do
    :: atomic { (in_sync & ~asked) != 0 -> one_of(i, in_sync & ~asked) };
        ask(i)
    :: (in_sync & ~asked) == 0 -> break
    od;
    atomic {
        v = or_agreed(decided);
        if
        :: v != 0 ->
            finish_read(v, d != 0);
            repair_one(0); repair_one(1); repair_one(2);
            digest = v;
            if                  /* a vote ends all doubt */
            :: d == 0 && as_new(v, content) -> content = v; uncertain = false
            :: else
            fi
        :: else -> fail_read(d != 0)
        fi
    };
    do                          /* what is repaired stays the same */
    :: atomic { left != 0 -> one_of(i, left); left = left & ~(1 << i);
                data[i] = v }
    :: left == 0 -> break
    od;
    atomic { unlock(p); v = 0; n-- }
}

proctype Reader(byte p, n) {
    byte i, d, g, v, asked, answer[N], floor, seen, left;
    bool again, beside;

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
            floor = acked;
            seen = shown;
            d = digest;
            g = generation;
#ifndef VOTE_BESIDE_CHANGE
            beside = changing != 0
#endif
        };
        if
        :: d != 0 ->            /* D4 */
            atomic { one_of(i, in_sync) };
            ask(i);
            atomic {
                if
                :: answer[i] == d -> finish_read(d, true); n--
                :: else ->
                    again = true;
#ifdef ACCUSE_WITHOUT_RANGE
                    assert(!as_new(answer[i], floor));
#endif
                fi
            }
        :: d == 0 -> vote()
        fi;
        if
        :: again -> again = false; locked_read(p)
        :: else
        fi;
        d_step { forget_answers(); floor = 0; seen = 0 }
    od
}

/* --- the world --- */

proctype Fate() {
    byte i;

end:
    do
    :: atomic { losses > 0 -> losses--; one_of(i, ALL); data[i] = FIRST_DATA;
                bad = bad | 1 << i; i = 0 }
    :: atomic { rots > 0 -> rots--; one_of(i, ALL); data[i] = data[i] & RIGHT;
                bad = bad | 1 << i; i = 0 }
    od
}

init {
    atomic {
        data[0] = FIRST_DATA; data[1] = FIRST_DATA; data[2] = FIRST_DATA;
        if                      /* a table that is new, or one that is full */
        :: digest = FIRST_DATA
        :: true
        fi;
        run Writer(0, WRITES);
        run Writer(1, OTHERS);
        run Reader(2, READS);
        run Reader(3, OTHER_READS);
        run Fate()
    }
}
