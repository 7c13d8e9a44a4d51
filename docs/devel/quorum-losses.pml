/*
 * The quorum driver's protocol where children lose what they have
 * acknowledged, for the model checker spin
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * This is promise 10 of block/quorum/quorum-int.h.  As in quorum.pml, there are
 * three replicas of one granule with two cells, and the n-th write of a cell
 * writes the number n.  Each child has a volatile cache and a medium.  A child
 * may restart, and then lose of its cache what it likes; a flush of it may fail,
 * and then its cache shows what the medium has not, until that is evicted.
 *
 * A step is what one child does, or one critical section of QuorumSync.lock.
 * Names in capitals with #ifdef break a rule, which spin must notice: see
 * quorum.rst.  What quorum.pml looks at is left out: children that hang, that
 * lie, patterns.
 */

#include "quorum-common.pml"

#ifndef WRITES
#define WRITES 1                /* of the first writer */
#endif
#ifndef OTHERS
#define OTHERS 0                /* writes of the second one */
#endif
#ifndef FLUSHES
#define FLUSHES 1
#endif
#ifndef READS
#define READS 1
#endif
#ifndef LOSSES
#define LOSSES 2                /* restarts of all children together */
#endif
#ifndef ERRORS
#define ERRORS 0                /* of flushes of children */
#endif
#ifndef OUTAGES
#define OUTAGES 0
#endif
#ifndef FUA
#define FUA false               /* whether writes of the first writer are FUA */
#endif
#ifndef UNHEARD
#define UNHEARD 0               /* flushes before, by the quorum itself */
#endif
#ifndef AGAIN
#define AGAIN 3                 /* how often a lost write is sent again */
#endif
#ifndef FINE
#define FINE 3                  /* whose votes are looked at step by step */
#endif
#ifndef VOTES
#define VOTES 3                 /* how often a flush, or a write, votes */
#endif

/* --- the children --- */

byte cache[N];                  /* what reads return */
byte medium[N];                 /* what a flush has made durable */
byte dirty[N];                  /* cells that the next flush writes */
byte down;                      /* children that fail all requests */
byte news;                      /* whose loss generation has grown unnoticed */
byte flush_news;                /* the same, by a flush that failed */
byte restarts = LOSSES, errors = ERRORS;

#define merge(old, new, cells) (((old) & ~(cells)) | ((new) & (cells)))

inline store(i, cells, v) {
    cache[i] = merge(cache[i], v, cells);
    dirty[i] = dirty[i] | (cells)
}

/* What is dirty is durable; or it may be lost, but looks as if it were. */
inline flush_child(i) {
    medium[i] = merge(medium[i], cache[i], dirty[i]);
    dirty[i] = 0
}
inline fail_flush(i) {
    errors--;
    dirty[i] = 0;
    flush_news = flush_news | 1 << i;
    bad = bad | 1 << i;
    trouble = true
}

/* --- what the driver knows: one granule of each map --- */

byte stale;                     /* children that lack something for certain */
byte unsure;                    /* that may have lost something */
byte rewrite;                   /* of these, whose cache proves nothing */
bool unflushed, flushing;
bool told;                      /* the guest knows of the loss from a flush */
bool unheard;                   /* the next flush of the guest has to fail */
byte since, before;             /* made sure after, before the last flush */

byte asking;                    /* processes that have asked children */
byte writing, overtaken;        /* processes that write; since which one began */
byte lost[4];                   /* [process]: children with a loss since it asked */
byte erred;                     /* children whose last loss was a failed flush */
byte flush_lock_writers;
bool flush_lock_alone;

#define ALL EVERYBODY
#define sure (ALL & ~(stale | unsure))

#define lose(p, set) lost[p] = lost[p] | (has(asking, p) -> (set) : 0)
inline lose_in_flight(set) {
    lose(0, set); lose(1, set); lose(2, set); lose(3, set)
}
inline begin_asking(p) { lost[p] = 0; asking = asking | 1 << p }
inline end_asking(p) {
    lost[p] = 0;
    asking = asking & ~(1 << p);
    erred = (asking == 0 -> 0 : erred)
}

#ifdef FLUSHING_IS_SAFE
#define at_risk unflushed
#else
#define at_risk (unflushed || flushing)
#endif

/* The children in @set may have lost what is not flushed, and are unsure. */
#define recovered(set) ((set) & (since | before))
#define may_lose(set) (at_risk -> (set) : recovered(set))
inline make_unsure(set) {
    unsure = unsure | may_lose(set) & ~stale;
    if
    :: told && may_lose(set) != 0 -> told = false; unflushed = true
    :: else
    fi;
    if :: recovered(set) != 0 -> unflushed = true :: else fi
}

/* quorum_sync_lost() */
inline note_loss(set) {
    lose_in_flight(set);
    erred = erred & ~(set);
    make_unsure(set)
}

/* quorum_notice_losses(): in each section that believes answers. */
inline notice() {
    if
    :: (news | flush_news) != 0 ->
        note_loss(news | flush_news);
#ifndef FLUSH_ERROR_UNHEARD     /* the flush has yet to hear of it */
        rewrite = rewrite | flush_news & unsure;
#endif
        news = 0;
        flush_news = 0
    :: else
    fi
}

/* quorum_sync_flush_failed(), and quorum_know_failed_flush() */
inline flush_failed(set) {
    note_loss(set);
    erred = (asking == 0 -> 0 : erred | (set));
    rewrite = rewrite | (set) & unsure;
    since = since & ~(set);
    before = before & ~(set);
    flush_news = flush_news & ~(set)
}

/* The children in @set have all that the winner, or a whole write, has. */
inline make_sure(set, flushed) {
    since = since | (flushed -> 0 : (set) & (stale | unsure));
    stale = stale & ~(set);
    unsure = unsure & ~(set);
    rewrite = rewrite & ~(set);
    if :: unsure == 0 -> told = false :: else fi
}

inline make_stale(set) {
    stale = stale | (set);
    unsure = unsure & ~stale;
    rewrite = rewrite & ~stale;
    if :: unsure == 0 -> told = false :: else fi
}

/* --- what must be true --- */

byte last;                      /* of each cell, the last write that began */
byte acked;                     /* the last acknowledged write */
byte promised;                  /* of these, what no failed flush has told of */
byte durable;                   /* what a flush has promised */
byte floor;                     /* what the reader may rely on */
byte bad;                       /* that ever lost data, failed or were unsure */
byte restarted;
bool trouble;                   /* since the last flush that failed */
bool owed;                      /* an error that the guest has to hear of */

#define max2(v, w) (newest(v, w, LEFT) + newest(v, w, RIGHT))
#define older(v, w, cell) \
    (((v) & cell) < ((w) & cell) -> ((v) & cell) : ((w) & cell))
#define min2(v, w) (older(v, w, LEFT) + older(v, w, RIGHT))

/* With one bad child, and one that never restarted, nothing fails. [7, 10] */
#define may_fail (size(bad) > N - T || (bad | restarted) == ALL)

/* Who is sure has what was acknowledged, and may lose what is unflushed only. */
#define is_sure(i) has(sure & ~(news | flush_news), i)
#define good(i) \
    (!is_sure(i) || (as_new(cache[i], acked) && \
                     (unflushed || flushing || as_new(medium[i], acked))))

inline check() {
    assert(good(0) && good(1) && good(2));
    assert(size(ALL & ~stale) >= T);
    assert((rewrite & ~unsure) == 0 && (unsure & stale) == 0)
}

#define has_durable(i, v) (has(ALL & ~stale, i) && as_new(medium[i], v))
#define has_all(i) (has(ALL & ~stale, i) && as_new(cache[i], acked))
#define copies(v) \
    (has_durable(0, v) + has_durable(1, v) + has_durable(2, v))
/* quorum_ask_all() */
inline next_child(i, set) {
    one_of(i, set);
    set = set & ~(1 << i)
}

/* --- quorum/read.c, read-locked.c and read-locked-repair.c --- */

#define same(i, j) (has(good_, i) && has(good_, j) && answer[i] == answer[j])
#define like(w) (same(w, 0) | same(w, 1) << 1 | same(w, 2) << 2)
#define members(i) size(like(i))
#define beats(i, j) (same(i, j) || members(i) > members(j))
#ifdef UNSURE_WIN
#define supported(i) true
#else
#define supported(i) ((like(i) & sure) != 0)
#endif
#define wins(i) \
    (members(i) >= T && supported(i) && beats(i, 0) && beats(i, 1) && \
     beats(i, 2))
#define find_winner() \
    w = (wins(0) -> 0 : (wins(1) -> 1 : (wins(2) -> 2 : N)))

/* All have the same, though none is sure, and the guest knows of the loss. */
#define believed(i) (told && sure == 0 && members(i) == N)

/* The data are older than what was acknowledged, but the guest was told. */
inline lower(to) {
    acked = min2(acked, to);
    floor = min2(floor, to)
}

inline ask_one() {
    atomic {
        left != 0 ->
        next_child(i, left);
        if
        :: has(down, i)
        :: else -> good_ = good_ | 1 << i; answer[i] = cache[i]
        fi;
        i = 0
    }
}

/* In one step: what may come in between, is looked at elsewhere. */
inline ask_at_once() {
    good_ = left & ~down;
    left = 0;
    answer[0] = cache[0] * has(good_, 0);
    answer[1] = cache[1] * has(good_, 1);
    answer[2] = cache[2] * has(good_, 2)
}

/*
 * The vote has a winner: unsure children that agree are sure from now on, others
 * are stale.  A child that had a loss after it was asked may agree no more.
 */
inline confirm(p, lacking) {
#ifdef CONFIRM_BESIDE_LOSS
    took = like(w) & unsure;
#else
    took = like(w) & unsure & ~lost[p];
#endif
    make_stale(unsure & good_ & ~like(w));
#ifdef NO_REWRITE
    rewrite = 0;
#endif
    left = (lacking) & ~like(w) | like(w) & unsure & rewrite;
    took = took & ~rewrite;
#ifndef CONFIRMED_HAS_FLUSHED
    since = since | took;
#endif
    unsure = unsure & ~took;
    took = 0;
    if :: 2 * size(like(w)) <= size(ALL & ~stale | like(w)) -> left = 0 :: else fi
}

#define is_coarse(p) (p != FINE)

/* Vote, and repair those of the children in @lacking that lack the winner. */
inline vote(p, lacking) {
    atomic { ask_for(p, WHOLE) };
    atomic {
        granted(p);
        notice();
        begin_asking(p);
        left = ALL & ~stale;
        if :: is_coarse(p) -> ask_at_once() :: else fi
    };
    do
    :: ask_one()
    :: atomic {
        left == 0 ->
        notice();
        good_ = good_ & ~stale;
        find_winner();
        if
        :: w < N ->
            assert(as_new(answer[w], acked));
            confirm(p, lacking)
        :: w == N && believed(0) -> w = 0
        :: w == N && !believed(0) && believed(1) -> w = 1
        :: else -> left = 0
        fi;
        if
        :: w < N && !supported(w) ->
            assert(as_new(answer[w], promised));
            assert(as_new(answer[w], acked) || members(w) == N);
            lower(answer[w]);
            confirm(p, lacking)
        :: else
        fi;
        value = (w < N -> answer[w] : 0);
        break
       }
    od;
    do
    :: atomic {                 /* quorum_repair_slot() */
        left != 0 ->
        next_child(i, left);
        if
        :: !has(down, i) ->
            assert(as_new(value, acked));
            writing = writing | 1 << p;
            overtaken = overtaken & ~(1 << p);
            unflushed = true;
            lost[p] = lost[p] & ~(1 << i);
            store(i, WHOLE, value)
        :: has(down, i) -> i = N
        fi
       };
       atomic {
        notice();
        if
        :: i < N && !has(lost[p], i) ->
            make_sure(1 << i, false);
            if :: has(overtaken, p) -> unflushed = true :: else fi;
            check()
        :: else
        fi;
        writing = writing & ~(1 << p);
        overtaken = overtaken & ~(1 << p);
        i = 0
       }
    :: atomic {
        left == 0 ->
        unlock(p);
        end_asking(p);
        good_ = 0; answer[0] = 0; answer[1] = 0; answer[2] = 0;
        break
       }
    od
}

/* What the guest has been told of, and reads again, it may rely on again. */
inline end_read() {
    if
    :: w < N ->
        assert(as_new(value, floor));
        promised = max2(promised, min2(value, acked))
    :: else
    fi;
    good_ = 0; answer[0] = 0; answer[1] = 0; answer[2] = 0; w = 0;
    value = 0; floor = 0; end_asking(p);
    n--
}

proctype Reader(byte p, n) {
    byte i, left, good_, answer[N], w, value, took;

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
            floor = acked;
            begin_asking(p);
            left = sure;
            if :: size(left) < T -> left = 0 :: else fi
        };
        do
        :: ask_one()
        :: atomic {
            left == 0 ->
#ifndef NOTICE_TOO_LATE
            notice();
#endif
            good_ = good_ & sure & ~lost[p];    /* it may be sure again */
            w = (members(0) > 0 -> 0 : 1);
            if
            :: members(w) >= T && like(w) == good_ -> value = answer[w]
            :: else -> w = N
            fi;
#ifdef NOTICE_TOO_LATE
            notice();
#endif
            if
            :: w < N -> end_read()
            :: else
            fi;
            break
           }
        od;
        if
        :: w == N ->
            vote(p, ALL);
            atomic { assert(w < N || may_fail); end_read() }
        :: else
        fi
    od
}

/* --- quorum/write.c --- */

/* Who stores a write, but for those in @missed; and if all were confirmed. */
#define storing(missed) \
    (ALL & ~(missed) & (cells == WHOLE -> ALL : ~stale))
#ifdef ONE_IS_SURE
#define is_held(missed) \
    (size(storing(missed)) >= T && \
     (cells == WHOLE || (storing(missed) & sure) != 0))
#else
#ifdef WRITE_WITHOUT_SURE
#define is_held(missed) (size(storing(missed)) >= T)
#else
#define is_held(missed) \
    (size(storing(missed) & (cells == WHOLE -> ALL : sure)) >= T)
#endif
#endif
#define may_be_held(missed) (size(storing(missed)) >= T)

/* On which children it may be lost, and was not by a flush that failed. */
#define is_lost (lost[p] & ~erred)

/*
 * quorum_sync_write_settle(): those in @failed have not done it.  If it is lost,
 * @again says so; if too few are sure of what is around it, @votes does.
 */
inline settle_write() {
    if
    :: has(overtaken, p) && !fua -> unflushed = true
    :: else
    fi;
    stored = is_held(failed | lost[p]);
    if
    :: is_lost != 0 && again < AGAIN &&
       may_be_held((failed | lost[p]) & ~is_lost) ->
#ifdef RANGE_GIVEN_BACK
        unlock(p);
        ask_for(p, cells);
#endif
        again++
    :: else ->
        again = 0;
        if
        :: !stored && fua -> unflushed = true
        :: else
        fi;
        if
        :: !stored && votes < VOTES && may_be_held(failed | lost[p]) -> votes++
        :: else -> votes = 0; decide_write()
        fi;
        end_write()
    fi;
    stored = false
}

inline decide_write() {
    if
    :: !stored && fua ->
        unheard = true;
        owed = true;
        trouble = true
    :: else
    fi;
    if
    :: stored && cells == WHOLE -> make_sure(ALL & ~(failed | lost[p]), fua)
#ifdef SURE_BY_A_PART
    :: stored && cells != WHOLE ->
        make_sure(ALL & ~(failed | lost[p] | stale), fua)
#endif
    :: else
    fi;
    if
    :: stored -> make_stale(failed | lost[p])
    :: else
    fi;
    acknowledge()
}

inline end_write() {
    unlock(p);
    writing = writing & ~(1 << p);
    overtaken = overtaken & ~(1 << p);
    end_asking(p);
    if :: fua -> flush_lock_writers-- :: else fi;
    if
    :: votes == 0 -> n--; cells = 0; v = 0
    :: else
    fi
}

inline acknowledge() {
    assert(stored || may_fail);
    if
    :: stored ->
        v = v & cells;
        acked = max2(acked, v);
        promised = max2(promised, v);
        if
        :: fua -> durable = max2(durable, v); assert(copies(v) >= T)
        :: else
        fi;
        assert(has_all(0) || has_all(1) || has_all(2));
        check()
    :: else
    fi
}

/* The error of a FUA write may be one of its flush. */
inline hear_of_failure() {
#ifndef FUA_LOSES_NOTHING
    flush_failed(fails);
#else
    flush_news = flush_news & ~fails;
#endif
    failed = failed | fails;
    fails = 0
}

/* Begun once more, it is a new write, and what came in between is older. */
inline number_write() {
    if
    :: votes == 0 || ((last ^ v) & cells) != 0 ->
        last = last + (17 & cells);
        v = last
    :: else
    fi
}

/* quorum_sync_write_begin(), and quorum_sync_write_again() */
inline send_write() {
    if :: !fua -> unflushed = true :: else fi;
    writing = writing | 1 << p;
    overtaken = overtaken & ~(1 << p);
    lost[p] = 0;
    failed = 0;
    left = ALL
}

proctype Writer(byte p, n, part; bool fua) {
    byte i, cells, left, fails, failed, v, again, votes;
    byte good_, answer[N], w, value, took;
    bool stored, resends;

    do
    :: n == 0 -> break
    :: n > 0 ->
        atomic {
#ifdef ONE_CELL
            cells = WHOLE;
#else
            if
            :: votes == 0 -> cells = part
            :: votes == 0 -> cells = WHOLE
            :: votes > 0
            fi;
#endif
            ask_for(p, cells)
        };
        atomic { granted(p) };
        atomic {                /* quorum_write_lock() */
            !fua || !flush_lock_alone;
            notice();
            if :: fua -> flush_lock_writers++ :: else fi;
            number_write();
            begin_asking(p);
            send_write()
        };
        do
        :: atomic {
            left != 0 ->
            next_child(i, left);
            if
            :: has(down, i) && fua -> fails = fails | 1 << i
            :: has(down, i) && !fua -> failed = failed | 1 << i
            :: !has(down, i) ->
                store(i, cells, v);
                if :: fua -> flush_child(i) :: else fi
            :: fua && !has(down, i) && errors > 0 ->
                store(i, cells, v);
                fail_flush(i);
                fails = fails | 1 << i
            fi;
            i = 0
           }
        :: atomic { fails != 0 -> hear_of_failure() }
        :: atomic {
            left == 0 && fails == 0 && !resends ->
            notice();
#ifdef LOST_WRITE_COUNTS
            lost[p] = 0;
#endif
            settle_write();
            failed = 0;
            if :: again == 0 -> break :: else -> resends = true fi
           }
        :: atomic {             /* quorum_write_resend(), its range is held */
#ifdef RANGE_GIVEN_BACK
            resends && granted(p) ->
#else
            resends ->
#endif
            resends = false;
            notice();
            send_write()
           }
        od;
        if
#ifndef AGAIN_WITHOUT_VOTE
        :: votes > 0 && unsure != 0 -> vote(p, 0); w = 0; value = 0
#endif
        :: else
        fi
    od
}

/* --- quorum/flush.c --- */

/*
 * Of a loss that the guest was told of there is nothing left to tell: what it
 * wrote since is on all children that are not stale.  But first, votes repair
 * what they can.
 */
#ifdef FLUSH_COUNTS_UNSURE
#define count_sure(set) size((set) & ~stale)
#else
#ifdef TELL_AGAIN
#define count_sure(set) size((set) & sure)
#else
#define count_sure(set) \
    size((set) & (told && votes == VOTES -> ALL & ~stale : sure))
#endif
#endif
#ifdef RECOVERED_COUNTS
#define has_flushed (ALL & ~failed)
#else
#define has_flushed (ALL & ~(failed | since))
#endif

/* quorum_sync_flush_outcome_locked() */
#define is_done \
    (size(ALL & ~failed) >= T && \
     (!flushing || count_sure(has_flushed) >= T) && \
     (failed == 0 || !unflushed || count_sure(ALL & ~failed) >= T))
#define is_failed \
    (size(ALL & ~failed) < T || \
     (failed != 0 && flushing && size(ALL & ~(failed | stale)) < T))

/* What others have flushed, those that are unsure, or failed, may lack. */
inline flush_is_done() {
    if
#ifdef TOLD_TO_STALE
    :: flushing -> make_stale(unsure)
#else
    :: flushing && !told ->
        bad = bad | unsure;     /* it costs what it had not lost, too */
        make_stale(unsure)
#endif
    :: else
    fi;
    if
    :: at_risk -> make_stale(failed)
    :: else
    fi;
    assert(!flushing || copies(goal) >= T)
}

/* What was promised while the flush went on, it has not covered. */
#define keep(cell) \
    ((promised & cell) > (goal & cell) -> promised & cell : durable & cell)

/*
 * The guest hears of it.  What was written meanwhile is not told of.  There was
 * trouble; or children have recovered something during the last try.
 */
inline tell() {
    assert(may_fail && (trouble || since != 0));
#ifdef TELLS_TOO_MUCH
    told = unsure != 0 && (told || flushing);
#else
    told = unsure != 0 && (told || (flushing && !unflushed));
#endif
    trouble = (news | flush_news | down) != 0 || (unsure != 0 && !told);
    unheard = false;
    owed = false;
    promised = keep(LEFT) + keep(RIGHT);
    floor = min2(floor, promised)
}

/* quorum_sync_flush_settle(), and what the guest hears */
inline settle_flush() {
    before = before & failed;
    if
    :: is_done ->
        flush_is_done();
        flushing = false;
        votes = 0;
        if
        :: heard && unheard ->
            assert(may_fail && trouble);
            trouble = (news | flush_news | down | unsure) != 0;
            unheard = false;
            owed = false
        :: heard && !unheard -> assert(!owed); durable = max2(durable, goal)
        :: else
        fi;
        check()
    :: !is_done ->
        if
        :: !is_failed && heard && votes == VOTES ->
            make_unsure(failed);
            rewrite = rewrite | failed & unsure
        :: else
        fi;
        if
        :: heard && (is_failed || votes == VOTES) -> tell()
#ifdef UNHEARD_TELLS
        :: !heard && (is_failed || votes == VOTES) -> told = unsure != 0
#endif
        :: else
        fi;
        if
        :: !is_failed && heard && votes == VOTES
        :: else -> unflushed = unflushed || flushing
        fi;
#ifndef UNHEARD_FORGOTTEN
        unheard = unheard || (!heard && is_failed);
#endif
        owed = owed || (!heard && is_failed);
        votes = (is_failed || votes == VOTES -> 0 : votes + 1);
        flushing = false
    fi
}

proctype Flusher(byte p, n, quiet) {
    byte i, left, good_, answer[N], w, value, took, fails, failed, goal, votes;
    bool heard;

    do
    :: n + quiet == 0 -> break
    :: n + quiet > 0 ->
        heard = (quiet == 0);
        do
        :: atomic {
            !flush_lock_alone && flush_lock_writers == 0 ->
            flush_lock_alone = true;
            goal = promised;    /* of its last try, if it is told */
            flushing = unflushed;
            unflushed = false;
            overtaken = writing;
            before = before | since;
            since = 0;
            failed = 0;
            left = ALL
           };
           do
           :: atomic {
               left != 0 ->
               next_child(i, left);
               if
               :: has(down, i) -> fails = fails | 1 << i
               :: !has(down, i) -> flush_child(i)
               :: !has(down, i) && errors > 0 ->
                   fail_flush(i);
                   fails = fails | 1 << i
               fi;
               i = 0
              }
           :: atomic {          /* the flush hears of it */
               fails != 0 ->
               flush_failed(fails);
               failed = failed | fails;
               fails = 0
              }
           :: atomic {
               left == 0 && fails == 0 ->
               notice();
               settle_flush();
               flush_lock_alone = false;
               failed = 0;
               if
               :: votes == 0 ->
                   goal = 0;
                   if :: heard -> n-- :: else -> quiet-- fi;
                   heard = false
               :: else
               fi;
               break
              }
           od;
           if
           :: votes > 0 && unflushed && unsure != 0 ->
#ifdef TOLD_BEFORE_FAILED
               told = true;
#endif
               vote(p, 0);
               w = 0; value = 0
           :: votes > 0 && !(unflushed && unsure != 0)
           :: votes == 0 -> break
           fi
        od
    od
}

/* --- the world --- */

/* The children are alike, so let child 2 be the first that does something. */
#define touched (bad | restarted)
#define candidates (touched == 0 -> 4 : (touched == 4 -> 6 : ALL))

inline pick(i, from) {
    set = from;
    one_of(i, set);
    set = 0
}

inline forget(i, cells) {
    if
    :: ((cache[i] ^ medium[i]) & (cells)) != 0 -> bad = bad | 1 << i
    :: else
    fi;
    cache[i] = merge(cache[i], medium[i], cells);
    dirty[i] = dirty[i] & ~(cells)
}

/* Cells that are neither durable nor written by the next flush. */
#define shown(i) \
    (((cache[i] ^ medium[i]) & LEFT & ~dirty[i] -> LEFT : 0) + \
     ((cache[i] ^ medium[i]) & RIGHT & ~dirty[i] -> RIGHT : 0))
#define shown_by (((shown(0) != 0)) + ((shown(1) != 0) << 1) + ((shown(2) != 0) << 2))

proctype Fate(byte outages) {
    byte i, set;

end:
    do
    :: atomic {                 /* a new session, with any part of the cache */
        restarts > 0 ->
        restarts--;
        pick(i, candidates);
        if
        :: forget(i, 0)
#ifndef NOTHING_LOST
        :: cache[i] != medium[i] -> forget(i, WHOLE)
#ifndef ONE_CELL
        :: cache[i] != medium[i] -> forget(i, LEFT)
        :: cache[i] != medium[i] -> forget(i, RIGHT)
#endif
#endif
        fi;
        restarted = restarted | 1 << i;
        news = news | 1 << i;
        trouble = true;
        i = 0
       }
    :: atomic {
        outages > 0 ->
        outages--;
        pick(i, candidates & ~down);
        down = down | 1 << i;
        bad = bad | 1 << i;
        trouble = true;
        i = 0
       }
    :: atomic { down != 0 -> pick(i, down); down = down & ~(1 << i); i = 0 }
    :: atomic {                 /* what a flush has failed to write is evicted */
        shown_by != 0 ->
        pick(i, shown_by);
        forget(i, shown(i));
        i = 0
       }
    od
}

init {
    atomic {
        run Writer(0, WRITES, LEFT, FUA);
        run Writer(1, OTHERS, RIGHT, false);
        run Reader(2, READS);
        run Flusher(3, FLUSHES, UNHEARD);
        run Fate(OUTAGES)
    };
}
