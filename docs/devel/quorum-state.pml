/*
 * The state nodes of the quorum driver, for the model checker spin
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * This is promise 11 of block/quorum/quorum-int.h.  There are three replicas of
 * one or two regions, a state node beside each, and a QEMU that dies between any
 * two steps and is started again.  As in quorum.pml, the n-th write of a cell
 * writes the number n; all cells begin with 1.  A region is a cell, or, with
 * PARTS, both cells; it has one bit in the intent map and in each stale map.
 *
 * A step is what one child or one state node does, or one critical section of
 * QuorumSync.lock.  Names in capitals with #ifdef either choose what is tried or
 * break a rule, which spin must notice: see quorum.rst.  What the other models
 * look at is left out: children that hang, lie, or lose data while QEMU lives.
 */

#include "quorum-common.pml"

#ifndef WRITES
#define WRITES 1                /* of the first writer, before the first crash */
#endif
#ifndef OTHERS
#define OTHERS 0                /* of the second one */
#endif
#ifndef LATER
#define LATER 0                 /* of the first one, after each crash */
#endif
#ifndef FLUSHES
#define FLUSHES 0               /* in each life of QEMU */
#endif
#ifndef READS
#define READS 1                 /* after each crash */
#endif
#ifndef OUTAGES
#define OUTAGES 1               /* of all children together */
#endif
#ifndef TIDIES
#define TIDIES 0                /* how much is done in the background */
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#if !defined(REGIONS) || defined(PARTS)
#undef REGIONS
#define REGIONS 1
#endif
#define ALL EVERYBODY

/*
 * What is of children and of regions: a bit for each pair.  Sets of regions are
 * masks, too.
 */
#define in_region(pairs, r)     (((pairs) >> (3 * (r))) & ALL)
#define pairs_of(children, r)   ((children) << (3 * (r)))
#define throughout(children)    ((children) * (REGIONS == 2 -> 9 : 1))
#define everywhere(regions) \
    ((has(regions, 0) -> ALL : 0) + (has(regions, 1) -> ALL << 3 : 0))
#define whose(pairs)            (((pairs) | (pairs) >> 3) & ALL)
#ifdef PARTS
#define cells_of(r) WHOLE
#else
#define cells_of(r) ((r) == 0 -> LEFT : RIGHT)
#endif

/* --- the children --- */

byte cache[N];                  /* what reads return */
#ifdef POWER                    /* a crash takes the power from children, too */
byte medium[N];                 /* what a flush has made durable */
#else
#define medium cache
#endif
byte down;                      /* children that fail all requests */
byte outages = OUTAGES;
byte touched;                   /* children that are not like the others */

#define merge(old, new, cells) (((old) & ~(cells)) | ((new) & (cells)))

/* --- the state nodes: each page has two places, 2 * node and the next one --- */

#define LABEL  0                /* see label_of() */
#define INTENT 1                /* the regions in which writes may be under way */
#define MAPS   2                /* what children lack: the stale maps */
typedef Page {
    byte rank[6];               /* session and sequence number; 0: invalid */
    byte what[6]
};
Page page[3];
byte history[8];                /* [session]: those before it, as its label says */
byte sessions;                  /* so many were begun */

#define label_of(clean, behind, gone) \
    ((clean) | (behind) << 1 | (gone) << 4 | pending << 7)
#define is_clean(label)         has(label, 0)
#define is_pending(label)       has(label, 7)   /* the last change of members */
#define behind_in(label)        (((label) >> 1) & ALL)
#define removed_in(label)       (((label) >> 4) & ALL)
#define session_of(rank)        ((rank) >> 4)

/* The number of a page begins with the session: a later one is newer. */
#ifdef SEQUENCE_ONLY
#define order(rank)     ((rank) & 15)
#else
#define order(rank)     (rank)
#endif

/* --- what the driver knows, until it dies --- */

bool crashing, closing;
byte lineage;                   /* the session of the head, and its history */
byte session;                   /* 0 until something changes */
byte present;                   /* state nodes that could be read, or are blank */
byte members;                   /* of the head */
byte removed;                   /* children */
byte newcomers;                 /* children that the head does not know */
bool pending;                   /* who does not know of the last change goes on */
byte now[3], version[3];        /* of each page, what is to be written; its rank */
byte on[3];                     /* state nodes that have this */
bool labelled;                  /* the label of the session may be written */
bool ready;                     /* and is durable */
byte marked;                    /* regions with a durable bit */
byte kept;                      /* what stale maps that are durable have */
byte noted;                     /* children that are BEHIND, durably */

byte stale;                     /* pairs */
byte cured, curing;             /* pairs that were stale: a flush may fail */
byte unflushed, flushing;       /* regions */
byte unresolved;                /* regions */
byte sending;                   /* processes that write, to each region */
byte requests;                  /* that are under way */
#if defined(CLOSES) || defined(REMOVES)
#define begin_request() requests++
#define end_request() requests--
#else
#define begin_request() skip
#define end_request() skip
#endif

#define present_children        (ALL & ~removed)
#define lacks                   (stale | cured | curing)
#define voters(r)               (present_children & ~in_region(stale, r))

/* The newest valid place of a page on a node. */
#define valid(p, k) \
    (page[p].rank[k] != 0 && has(lineage, session_of(page[p].rank[k])))
#define order_of(p, k)  (valid(p, k) -> order(page[p].rank[k]) : 0)
#define top(p, i) \
    (order_of(p, 2 * (i)) > order_of(p, 2 * (i) + 1) -> 2 * (i) : 2 * (i) + 1)
/* Durable: on so many of the state nodes. */
#ifdef W_MINUS_1
#define W (T - 1)
#else
#define W T
#endif

/*
 * Only child 0 is taken out and given back.  A label that says so need not be
 * durable, and who does not know of it goes on with the members of before.  So
 * until it is, what counts must be enough for both.
 */
#define enough_of(set) (size((set) & ~newcomers) >= size(set) - T + 1)
#if defined(R_MINUS_1)
#define may_open (size(ALL & ~newcomers) >= N - T)
#elif defined(R_OF_MEMBERS)
#define may_open enough_of(members)
#else
#define may_open \
    (enough_of(members) && (!is_pending(now[LABEL]) || enough_of(members ^ 1)))
#endif
#ifdef W_OF_MEMBERS
#define durable(p) (size(on[p]) >= W)
#else
#define durable(p) \
    (size(on[p]) >= W && (!pending || size(on[p] & (ALL & ~1)) >= W))
#endif

/* --- what must be true --- */

byte last;                      /* of each cell, the last write that began */
byte soft, soft_last;           /* what reads return if no power is lost */
byte floor, floor_last;         /* and what they return anyhow */
byte used;                      /* the last session in which requests were sent */
bool lenient;                   /* a write has failed: it may be seen, or not */
bool few;                       /* after a crash, there need not be T voters */

/*
 * Data are not older than what is promised; and where a version was shown after
 * a crash, what was written before that, and not shown, does not come back.
 */
#define legal_cell(v, cell) \
    (((v) & cell) == (floor & cell) || \
     (((v) & cell) > (floor & cell) && \
      (lenient || ((v) & cell) > (floor_last & cell))))
#define legal(v, cells) \
    ((((cells) & LEFT) == 0 || legal_cell(v, LEFT)) && \
     (((cells) & RIGHT) == 0 || legal_cell(v, RIGHT)))

#ifdef POWER
#define promise_soft() skip
#else
#define promise_soft() floor = soft; floor_last = soft_last
#endif

/* --- writing pages --- */

inline bump(p) {
    assert((version[p] & 15) < 15);
    on[p] = 0;
    version[p] = session << 4 | ((version[p] & 15) + 1)
}

/* What is not in the page any more is durable no more. */
hidden byte draft;
inline change(p) {
    if
    :: now[p] != draft ->
        now[p] = draft;
        bump(p);
        if
        :: p == LABEL -> noted = noted & behind_in(now[p])
        :: p == INTENT -> marked = marked & now[p]
        :: p == MAPS -> kept = kept & now[p]
        fi
    :: else
    fi
}

inline note_durable(p) {
    if
    :: durable(p) && p == LABEL ->
        noted = behind_in(now[p]);
        ready = true;
        used = session
    :: durable(p) && p == INTENT -> marked = now[p]
    :: durable(p) && p == MAPS -> kept = now[p]
    :: else
    fi
}

/*
 * A write that is under way when QEMU dies leaves a page that is old (it was not
 * written yet), new, or torn: see tear().
 */
inline find_place(p, i) {
#ifdef OVERWRITE_NEWEST
    k = (order_of(p, top(p, i)) != 0 -> top(p, i) : top(p, i) ^ 1)
#else
    k = top(p, i) ^ 1
#endif
}
inline write_page(p, i) {
    find_place(p, i);
    page[p].rank[k] = version[p];
    page[p].what[k] = now[p];
    on[p] = on[p] | 1 << i;
    k = 0;
    note_durable(p)
}
#define is_due(p, i) \
    (has(present & ~on[p], i) && session_of(version[p]) == session)

#define is_any_due(i) (is_due(LABEL, i) || is_due(INTENT, i) || is_due(MAPS, i))
inline write_pages(i) {
    if :: is_due(LABEL, i) -> write_page(LABEL, i) :: else fi;
    if :: is_due(INTENT, i) -> write_page(INTENT, i) :: else fi;
    if :: is_due(MAPS, i) -> write_page(MAPS, i) :: else fi
}

/* The change is durable: the members of before are none any more. */
#ifdef PENDING_ENDS_SOON
#define is_agreed (size(on[LABEL]) >= 1)
#else
#define is_agreed durable(LABEL)
#endif
#define END_CHANGE \
    :: d_step { \
        is_pending(now[LABEL]) && labelled && is_agreed -> \
        pending = false; \
        draft = now[LABEL] & 127; \
        change(LABEL) \
       }

proctype StateNodes() {
    byte k;

    {
end:
        do
        END_CHANGE
#ifdef ROUGH                    /* in one step: all pages of a node; a flush */
        :: d_step { is_any_due(0) -> write_pages(0) }
        :: d_step { is_any_due(1) -> write_pages(1) }
        :: d_step { is_any_due(2) -> write_pages(2) }
#else
        :: d_step { is_due(LABEL, 0) -> write_page(LABEL, 0) }
        :: d_step { is_due(LABEL, 1) -> write_page(LABEL, 1) }
        :: d_step { is_due(LABEL, 2) -> write_page(LABEL, 2) }
        :: d_step { is_due(INTENT, 0) -> write_page(INTENT, 0) }
        :: d_step { is_due(INTENT, 1) -> write_page(INTENT, 1) }
        :: d_step { is_due(INTENT, 2) -> write_page(INTENT, 2) }
        :: d_step { is_due(MAPS, 0) -> write_page(MAPS, 0) }
        :: d_step { is_due(MAPS, 1) -> write_page(MAPS, 1) }
        :: d_step { is_due(MAPS, 2) -> write_page(MAPS, 2) }
#endif
        od
    } unless { crashing }
}

/*
 * BEHIND makes a child stale in all that is marked, which may be more than it
 * lacks.  If this, and what others lack, may leave too few voters, exact maps are
 * stored instead: of those that are BEHIND, then a label without that, then all.
 */
#ifdef BEHIND_ALWAYS
#define many false
#else
#define many (size(whose(lacks)) > size(present_children) - T)
#endif
#define to_note (many -> 0 : whose(lacks))
#define is_behind behind_in(now[LABEL])
#ifdef MAPS_ALL_AT_ONCE
#define to_keep lacks
#else
#define to_keep \
    (lacks & (many && is_behind != 0 -> throughout(is_behind) : throughout(ALL)))
#endif
#define is_recorded(set) \
    (many -> (lacks & throughout(set) & ~kept) == 0 && noted == 0 && \
             labelled && is_behind == 0 && durable(LABEL) : \
             (set & whose(lacks) & ~noted) == 0)

/* --- before a request is sent --- */

inline renew(p) {
    if :: on[p] != present -> bump(p) :: else fi
}

inline begin_session() {
    if
    :: session == 0 ->
        sessions++;
        session = sessions;
        history[session] = lineage;
        lineage = lineage | 1 << session;
#ifndef MERGED_IS_DURABLE
        renew(INTENT);
        renew(MAPS)
#endif
    :: else
    fi
}

/*
 * The label makes the newcomers members, and may forget that a child is BEHIND.
 * The maps that it relies on must be durable before it is written anywhere.
 */
#ifdef LABEL_BESIDE_MAPS
#define may_label true
#define are_kept ((throughout(newcomers) & ~kept) == 0)
#else
#define may_label ((must_keep & ~kept) == 0)
#define are_kept true
#endif
#ifdef NEWCOMER_VOTES
#define must_keep (many -> to_keep & ~throughout(newcomers) : 0)
#else
#define must_keep (throughout(newcomers) | (many -> to_keep : 0))
#endif
inline write_label() {
#ifdef BEHIND_FORGOTTEN
    now[LABEL] = label_of(0, 0, removed);
#else
    now[LABEL] = label_of(0, to_note, removed);
#endif
    bump(LABEL);
    labelled = true
}
#define BEGIN_LABEL \
    :: d_step { \
        session != 0 && !labelled && (must_keep & ~now[MAPS]) != 0 -> \
        draft = now[MAPS] | must_keep; \
        change(MAPS) \
       } \
    :: d_step { \
        session != 0 && !labelled && (must_keep & ~now[MAPS]) == 0 && \
        may_label -> \
        write_label() \
       }

#ifdef SESSION_AFTER_SEND
#define is_ready true
#else
#define is_ready (labelled && ready && are_kept)
#endif
inline prepare(r) {
    d_step {
        begin_session();
        draft = now[INTENT] | 1 << r;
        change(INTENT)
    };
    do
    BEGIN_LABEL
    :: is_ready && has(marked, r) -> break
    od
}

/* --- before a request is acknowledged --- */

/* The children in @set have missed something. */
inline commit(set) {
    d_step { if :: is_recorded(set) :: else -> begin_session() fi };
    do
    BEGIN_LABEL
    :: is_recorded(set) -> break
    :: d_step {
        !is_recorded(set) && labelled && !many &&
        (to_note & ~behind_in(now[LABEL])) != 0 ->
        draft = label_of(0, to_note | behind_in(now[LABEL]), removed);
        change(LABEL)
       }
    :: d_step {
        !is_recorded(set) && labelled && many && (to_keep & ~now[MAPS]) != 0 &&
        (is_behind != 0 || durable(LABEL)) ->
        draft = now[MAPS] | to_keep;
        change(MAPS)
       }
    :: d_step {
        !is_recorded(set) && labelled && many && is_behind != 0 &&
        (lacks & throughout(is_behind) & ~kept) == 0 ->
        draft = label_of(0, 0, removed);
        change(LABEL)
       }
    od
}

/* --- requests --- */

/* The first outage is one of child 0: all are alike. */
inline may_go_down(i) {
    if
    :: true
    :: outages > 0 && down == 0 && (touched != 0 || i == 0) ->
        outages--;
        down = 1 << i;
        touched = touched | down
    fi
}

/* Any one of the children, in any order */
inline next_child(i, set) {
    one_of(i, set);
    set = set & ~(1 << i);
    may_go_down(i)
}

inline store(i, cells, v) {
    cache[i] = merge(cache[i], v, cells)
}
inline flush_child(i, cells) {
    medium[i] = merge(medium[i], cache[i], cells)
}

#define sends(p, r) (1 << ((p) + 4 * (r)))
#define is_sending(r) (((sending >> (4 * (r))) & 15) != 0)
#define all_sending (is_sending(0) | is_sending(1) << 1)

/* Those in @failed miss what the others have; it makes them good if it is @whole. */
inline settle(failed, whole) {
    stale = stale | pairs_of(failed, r);
    if
    :: whole ->
        cured = cured | (stale & pairs_of(present_children & ~(failed), r));
        stale = stale & ~pairs_of(present_children & ~(failed), r)
    :: else
    fi
}

inline send_one() {
    next_child(i, left);
    d_step {
        if
        :: has(down, i) -> failed = failed | 1 << i
        :: else -> store(i, cells, v)
        fi;
        i = 0
    }
}

#define is_whole (cells == cells_of(r))
#define holders \
    (present_children & ~failed & (is_whole -> ALL : ~in_region(stale, r)))

inline any_region() {
    if
    :: r = 0
#if REGIONS == 2
    :: r = 1
#endif
    fi
}

proctype Writer(byte p, n) {
    byte i, r, cells, left, failed, v;
    bool stored;

    {
        do
        :: n == 0 -> break
        :: n > 0 ->
            atomic {
                !closing;
                begin_request();
                any_region();
                cells = cells_of(r);
#ifdef PARTS
                if
                :: true
                :: cells = LEFT
                :: cells = RIGHT
                fi;
#endif
                ask_for(p, cells)
            };
            granted(p);
#ifndef MARK_AFTER_SEND
            prepare(r);
#endif
            atomic { true; d_step {
                last = last + (17 & cells);
                v = last;
                unflushed = unflushed | 1 << r;
                sending = sending | sends(p, r);
                failed = 0;
                left = present_children
            } };
            do
            :: atomic { left != 0 -> send_one() }
            :: left == 0 -> break
            od;
#ifdef MARK_AFTER_SEND
            prepare(r);
#endif
            atomic { true; d_step {
                stored = (size(holders) >= T);
                if
                :: stored -> settle(failed, is_whole)
                :: else -> lenient = true; failed = 0
                fi;
                sending = sending & ~sends(p, r);
                unlock(p)
            } };
#ifndef ACK_BEFORE_BEHIND
            commit(failed);
#endif
            atomic { true; d_step {
                if
                :: stored ->
                    if
                    :: (v & LEFT & cells) > (soft & LEFT & cells) ->
                        soft = merge(soft, v, LEFT)
                    :: else
                    fi;
                    if
                    :: (v & RIGHT & cells) > (soft & RIGHT & cells) ->
                        soft = merge(soft, v, RIGHT)
                    :: else
                    fi;
                    promise_soft()
                :: else
                fi;
                stored = false; failed = 0; v = 0; cells = 0; r = 0;
                n--;
                end_request()
            } }
        od
    } unless { crashing }
}

/* What was being written when it began is not flushed by it. */
inline begin_flush() {
    flushing = unflushed;
    unflushed = all_sending;
    curing = curing | cured;
    cured = 0;
    goal = soft;
    goal_last = soft_last;
    failed = 0;
    left = present_children
}
inline flush_one() {
    next_child(i, left);
    d_step {
        if
        :: has(down, i) -> failed = failed | 1 << i
        :: else -> flush_child(i, WHOLE)
        fi;
        i = 0
    }
}
inline flush_all() {
    failed = left & down;
    left = 0;
    if :: !has(down, 0) -> flush_child(0, WHOLE) :: else fi;
    if :: !has(down, 1) -> flush_child(1, WHOLE) :: else fi;
    if :: !has(down, 2) -> flush_child(2, WHOLE) :: else fi
}
#define flushed_by(r) \
    (!has(flushing, r) || size(voters(r) & ~failed) >= T)
inline settle_flush() {
    stored = (flushed_by(0) && (REGIONS == 1 || flushed_by(1)) &&
              size(present_children & ~failed) >= T);
    if
    :: stored ->
        stale = stale | (throughout(failed) &
                         (curing | everywhere(flushing | unflushed)));
        curing = 0
    :: else ->
        curing = curing & throughout(failed);
        unflushed = unflushed | flushing;
        failed = 0
    fi;
    flushing = 0
}
inline keep_goal() {
    floor = goal;
    floor_last = goal_last
}

proctype Flusher(byte n) {
    byte i, left, failed, goal, goal_last;
    bool stored;

    {
        do
        :: n == 0 -> break
        :: n > 0 ->
end:
#ifdef ROUGH
            atomic {
                !closing && (unflushed != 0 || cured != 0);
                may_go_down(0); may_go_down(1); may_go_down(2);
                d_step {
                    begin_request();
                    begin_flush();
                    flush_all();
                    settle_flush()
                }
            };
#else
            d_step {
                !closing && flushing == 0 && curing == 0 ->
                begin_request();
                begin_flush()
            };
            do
            :: atomic { left != 0 -> flush_one() }
            :: left == 0 -> break
            od;
            atomic { true; d_step { settle_flush() } };
#endif
#ifndef ACK_BEFORE_BEHIND
            commit(failed);
#endif
            atomic { true; d_step {
                if
                :: stored -> keep_goal()
                :: else
                fi;
                stored = false; failed = 0; goal = 0; goal_last = 0;
                n--;
                end_request()
            } }
        od
    } unless { crashing }
}

/* --- reads after a crash: what is unresolved is decided once --- */

#define same(i, j) \
    (has(asked, i) && has(asked, j) && \
     (cache[i] & cells_of(r)) == (cache[j] & cells_of(r)))
#define like(w) (same(w, 0) | same(w, 1) << 1 | same(w, 2) << 2)
#define most(w) \
    (has(asked, w) && size(like(w)) >= size(like(0)) && \
     size(like(w)) >= size(like(1)) && size(like(w)) >= size(like(2)))

/* With one child that fails, and none that was forgotten, no read fails. */
#define may_fail (lenient || few || down != 0 || removed != 0)

#ifdef RESOLVED_UNFLUSHED
#define repair_child(i) store(i, cells_of(r), v)
#else
#define repair_child(i) store(i, cells_of(r), v); flush_child(i, cells_of(r))
#endif
inline resolve_one() {
    next_child(i, left);
    d_step {
        if
        :: has(down, i) -> failed = failed | 1 << i
        :: else -> repair_child(i)
        fi;
        i = 0
    }
}

/* Where what is shown was on the medium, not even a power cut changes it. */
#define is_firm(w) \
    (!has(like(i), w) || ((medium[w] ^ cache[w]) & cells_of(r)) == 0)
inline tell() {
    assert(legal(v, cells_of(r)));
    soft = merge(soft, v, cells_of(r));
    soft_last = merge(soft_last, last, cells_of(r));
    if
    :: firm ->
        floor = merge(floor, v, cells_of(r));
        floor_last = merge(floor_last, last, cells_of(r))
    :: else -> promise_soft()
    fi
}

/* What those that vote have, if it can be believed: the likeliest version */
inline vote() {
    may_go_down(0);
    may_go_down(1);
    may_go_down(2);
    asked = voters(r) & ~down;
    if
    :: size(asked) < T -> assert(may_fail); asked = 0
    :: else ->
        if
        :: most(0) -> i = 0
        :: most(1) -> i = 1
        :: most(2) -> i = 2
        fi
    fi
}
inline settle_vote() {
    if
    :: asked != 0 ->
        v = cache[i];
        firm = is_firm(0) && is_firm(1) && is_firm(2);
        left = present_children & ~like(i);
        if
        :: size(like(i)) < T && !has(unresolved, r) ->
            assert(may_fail);
            asked = 0
        :: else
        fi;
        i = 0
    :: else
    fi;
    if
    :: asked != 0 && (left == 0 || !has(unresolved, r)) ->
        tell();
        unresolved = unresolved & ~(1 << r);
        asked = 0
    :: else
    fi;
    if
    :: asked == 0 -> left = 0; unlock(p)
    :: else
    fi
}

/* The version was written to all others: it counts if so many have it. */
inline settle_resolve() {
    if
#ifdef RESOLVE_WITHOUT_WRITE
    :: true
#else
    :: size(present_children & ~failed) >= T -> settle(failed, true)
    :: else -> asked = 0; failed = 0
#endif
    fi;
#ifdef RESOLVED_BEFORE_BEHIND
    if
    :: asked != 0 ->
        tell();
        unresolved = unresolved & ~(1 << r);
        asked = 0
    :: else
    fi;
#endif
    sending = sending & ~sends(p, r)
}

proctype Reader(byte p, n) {
    byte i, r, asked, left, failed, v;
    bool firm;

    {
        do
        :: n == 0 -> break
        :: n > 0 ->
            atomic {
                !closing;
                begin_request();
                any_region();
                ask_for(p, cells_of(r))
            };
            atomic { granted(p); vote(); d_step { settle_vote() } };
            if
            :: asked != 0 ->
#ifdef RESOLVED_BEFORE_HELD
                d_step {
                    tell();
                    unresolved = unresolved & ~(1 << r)
                };
#endif
                prepare(r);
                atomic { true; d_step {
                    unflushed = unflushed | 1 << r;
                    sending = sending | sends(p, r)
                } };
#ifdef RESOLVE_WITHOUT_WRITE
                left = 0;
#endif
                do
                :: atomic { left != 0 -> resolve_one() }
                :: left == 0 -> break
                od;
                atomic { true; d_step { settle_resolve() } };
                commit(failed);
                atomic { true; d_step {
                    if
                    :: asked != 0 ->
#ifndef RESOLVED_BEFORE_HELD
                        tell();
#endif
                        unresolved = unresolved & ~(1 << r)
                    :: else
                    fi;
                    unlock(p)
                } }
            :: else
            fi;
            d_step {
                asked = 0; firm = false; failed = 0; v = 0; r = 0;
                n--;
                end_request()
            }
        od
    } unless { crashing }
}

/* --- in the background --- */

#if TIDIES > 0
byte tidies = TIDIES;

/*
 * A bit of the intent map goes if no write is under way, what was written is
 * flushed, and what children lack there is in maps that are durable.
 */
#ifdef CLEAR_WHILE_UNFLUSHED
#define is_flushed(r) true
#else
#define is_flushed(r) (!has(unflushed | flushing, r))
#endif
#if defined(CLEAR_BEFORE_STORED)
#define is_stored(r) true
#elif defined(CLEAR_BESIDE_STORING)
#define is_stored(r) (in_region(lacks & ~now[MAPS], r) == 0)
#else
#define is_stored(r) (in_region(lacks & ~kept, r) == 0)
#endif
#ifdef CLEAR_UNRESOLVED
#define is_resolved(r) true
#else
#define is_resolved(r) (!has(unresolved, r))
#endif
#define wanted_by_all (wanted[0] | wanted[1] | wanted[2] | wanted[3])
#define may_clear(r) \
    (has(now[INTENT], r) && (wanted_by_all & cells_of(r)) == 0 && \
     is_flushed(r) && is_stored(r) && is_resolved(r))

/* What a failed flush may give back, a child still lacks. */
#ifdef CAUGHT_UP_BEFORE_FLUSH
#define still_behind whose(stale)
#else
#define still_behind whose(lacks)
#endif

proctype Tidier(byte p) {
    byte i, r, left, v, asked;

    {
end:
        do
        :: d_step {
            tidies > 0 && !closing && labelled && now[MAPS] != to_keep &&
            (!many || is_behind != 0 || durable(LABEL)) ->
            draft = to_keep;
            change(MAPS);
            tidies--
           }
        :: d_step {
            tidies > 0 && !closing && labelled && may_clear(0) ->
            draft = now[INTENT] & ~1;
            change(INTENT);
            tidies--
           }
#if REGIONS == 2
        :: d_step {
            tidies > 0 && !closing && labelled && may_clear(1) ->
            draft = now[INTENT] & ~2;
            change(INTENT);
            tidies--
           }
#endif
        :: d_step {
            tidies > 0 && !closing && labelled &&
            (behind_in(now[LABEL]) & ~still_behind) != 0 ->
            draft = label_of(0, behind_in(now[LABEL]) & still_behind, removed);
            change(LABEL);
            tidies--
           }
        :: atomic {             /* a resync of a region */
            tidies > 0 && !closing &&
            (stale & throughout(present_children & ~down)) != 0 ->
            tidies--;
            begin_request();
            if
            :: (in_region(stale, 0) & present_children & ~down) != 0 -> r = 0
#if REGIONS == 2
            :: (in_region(stale, 1) & present_children & ~down) != 0 -> r = 1
#endif
            fi;
            ask_for(p, cells_of(r))
           };
           granted(p);
           prepare(r);
           atomic {
            asked = voters(r) & ~down;
            left = in_region(stale, r) & present_children & ~down;
            if
            :: has(asked, 0) -> i = 0
            :: !has(asked, 0) && has(asked, 1) -> i = 1
            :: else -> i = 2
            fi;
            if
            :: left != 0 && size(like(i)) >= T ->
                v = cache[i];
                one_of(i, left);
                unflushed = unflushed | 1 << r;
                sending = sending | sends(p, r)
            :: else -> left = 0
            fi;
            asked = 0
           };
           if
           :: left != 0 ->
            d_step {
                if
                :: has(down, i) -> left = 0
                :: else -> store(i, cells_of(r), v)
                fi
            }
           :: else
           fi;
           d_step {
            if
            :: left != 0 ->
                cured = cured | (stale & pairs_of(1 << i, r));
                stale = stale & ~pairs_of(1 << i, r)
            :: else
            fi;
            sending = sending & ~sends(p, r);
            unlock(p);
            left = 0; i = 0; r = 0; v = 0;
            end_request()
           }
        od
    } unless { crashing }
}
#endif

#ifdef CLOSES
/* --- QEMU ends well: the maps are exact, and the label says CLEAN --- */

proctype Closer() {
    byte i, left, failed, goal, goal_last;
    bool stored;

    {
        d_step {
            !closing && requests == 0 && ready ->
            closing = true;
            begin_flush()
        };
#ifdef CLEAN_BEFORE_FLUSH
        atomic { left = 0; flushing = 0; curing = 0; stored = true };
#else
        do
        :: atomic { left != 0 -> flush_one() }
        :: left == 0 -> break
        od;
        atomic { true; d_step {
            settle_flush();
            if :: stored -> keep_goal() :: else fi
        } };
#endif
        if
        :: stored ->
            atomic { draft = stale;
 change(MAPS) };
#ifndef CLEAN_BEFORE_STORED
            durable(MAPS);
#endif
            atomic { draft = unresolved;
 change(INTENT) };
            atomic { draft = label_of(1, 0, removed);
 change(LABEL) };
            atomic { durable(LABEL) -> stored = false }
        :: else
        fi
    } unless { crashing }
}
#endif

#ifdef REMOVES
/* --- child 0 is taken out, and given again after the next crash --- */

proctype Admin() {
    {
        atomic { !closing && requests == 0; begin_session() };
        do
        BEGIN_LABEL
        :: atomic {
            ready && requests == 0 ->
            removed = 1;
            pending = true;
            present = present & ~1;
            on[0] = on[0] & ~1; on[1] = on[1] & ~1; on[2] = on[2] & ~1;
            touched = touched | 1;
            draft = label_of(0, behind_in(now[LABEL]), removed);
            change(LABEL);
#ifndef REMOVED_UNRECORDED
            ready = false;
#endif
            break
           }
        od
    } unless { crashing }
}
#endif

/* --- the world --- */

proctype Fate() {
    {
end:
        do
        :: d_step { down != 0 -> down = 0 }
        od
    } unless { crashing }
}

/* --- a crash, and what the next QEMU finds --- */

inline forget_all() {
    closing = false;
    lineage = 0; session = 0; present = 0; members = 0; removed = 0;
    newcomers = 0; pending = false; labelled = false; ready = false;
    now[0] = 0; now[1] = 0; now[2] = 0;
    version[0] = 0; version[1] = 0; version[2] = 0;
    on[0] = 0; on[1] = 0; on[2] = 0;
    marked = 0; kept = 0; noted = 0;
    stale = 0; cured = 0; curing = 0;
    unflushed = 0; flushing = 0; unresolved = 0; sending = 0;
    wanted[0] = 0; wanted[1] = 0; wanted[2] = 0; wanted[3] = 0;
    blockers[0] = 0; blockers[1] = 0; blockers[2] = 0; blockers[3] = 0;
    requests = 0
}

/*
 * A page that is torn leaves the place invalid that it was to overwrite.  What
 * was there before was older than the other place, unless the rule is broken.
 */
inline tear_one(p, i) {
    if
    :: is_due(p, i) ->
        find_place(p, i);
        page[p].rank[k] = 0;
        page[p].what[k] = 0
    :: true
    fi
}
inline tear() {
#ifdef TORN
    tear_one(LABEL, 0); tear_one(LABEL, 1); tear_one(LABEL, 2);
    tear_one(INTENT, 0); tear_one(INTENT, 1); tear_one(INTENT, 2);
    tear_one(MAPS, 0); tear_one(MAPS, 1); tear_one(MAPS, 2);
    k = 0
#else
    skip
#endif
}

/*
 * The older place of a page is not looked at again if the newer one is of a
 * session that is known to all.  Without it, there are less states.
 */
inline forget_older() {
#ifndef TORN
    lineage = 254;
    do
    :: i < 9 ->
        k = top(i / 3, i % 3);
        if
        :: session_of(page[i / 3].rank[k]) <= used ->
            page[i / 3].rank[k ^ 1] = 0;
            page[i / 3].what[k ^ 1] = 0
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0;
    k = 0
#else
    skip
#endif
}

/* What only children have that were stale, and did not flush, a crash may cost. */
inline look_for_copies(r) {
    if
    :: size(present_children & ~in_region(lacks, r)) < T -> few = true
    :: else
    fi
}

/* Of what a child has not flushed, it loses any part. */
inline lose_one(i) {
    if
    :: true
    :: ((cache[i] ^ medium[i]) & LEFT) != 0 ->
        cache[i] = merge(cache[i], medium[i], LEFT)
    :: ((cache[i] ^ medium[i]) & RIGHT) != 0 ->
        cache[i] = merge(cache[i], medium[i], RIGHT)
    :: ((cache[i] ^ medium[i]) & LEFT) != 0 &&
       ((cache[i] ^ medium[i]) & RIGHT) != 0 ->
        cache[i] = medium[i]
    fi
}
inline lose_power() {
#ifdef POWER
    lose_one(0); lose_one(1); lose_one(2);
    medium[0] = cache[0]; medium[1] = cache[1]; medium[2] = cache[2];
    soft = floor;
    soft_last = floor_last
#else
    skip
#endif
}

/*
 * The head is the label whose history has the sessions of all others.  A session
 * that is on fewer than T nodes, for certain, has sent nothing.
 */
#define knows(i, q) \
    (has(present, i) && (own[i] == (q) || has(history[own[i]], q)))
#ifdef ORPHANS_SPLIT
#define is_orphan(q) false
#else
#define is_orphan(q) \
    (knows(0, q) + knows(1, q) + knows(2, q) + N - size(present) < T)
#endif
#define follows(i, j) \
    (own[j] == 0 || knows(i, own[j]) || is_orphan(own[j]))
#define is_head(i) \
    (own[i] != 0 && follows(i, 0) && follows(i, 1) && follows(i, 2))
#define own_session(i) \
    (has(present, i) -> session_of(page[LABEL].rank[top(LABEL, i)]) : 0)

inline find_ranks() {
    lineage = 254;
    own[0] = own_session(0);
    own[1] = own_session(1);
    own[2] = own_session(2)
}
inline find_head() {
    if
    :: is_head(0) -> session = own[0]
    :: is_head(1) && own[1] != own[0] -> session = own[1]
    :: is_head(2) && own[2] != own[0] && own[2] != own[1] -> session = own[2]
    :: !is_head(0) && !is_head(1) && !is_head(2) -> assert(present != ALL)
    fi
}

#define has_newest(p, i) \
    (has(present, i) && order_of(p, top(p, i)) == order(version[p]))
inline merge_page(p) {
    k = 0;
    do
    :: k < 6 ->
        if
        :: has(present, k / 2) && order_of(p, k) > order(version[p]) ->
            version[p] = page[p].rank[k];
            now[p] = page[p].what[k]
        :: else
        fi;
        k++
    :: k == 6 -> break
    od;
    k = 0;
    on[p] = has_newest(p, 0) | has_newest(p, 1) << 1 | has_newest(p, 2) << 2
}

#define has_label(i) (has(present, i) && order_of(LABEL, top(LABEL, i)) != 0)

inline load() {
    assert(used == 0 || has(lineage, used));
    merge_page(INTENT);
    merge_page(MAPS);
    pending = (is_pending(now[LABEL]) || removed_in(now[LABEL]) != 0);
    newcomers = newcomers | removed_in(now[LABEL]);
    stale = now[MAPS];
    if
    :: is_clean(now[LABEL])
    :: else ->
        stale = stale | (throughout(behind_in(now[LABEL])) &
                         everywhere(now[INTENT]))
    fi;
    stale = stale | throughout(newcomers);
    unresolved = now[INTENT];
#ifndef UNFLUSHED_FORGOTTEN
    unflushed = now[INTENT];
#endif
#ifdef MERGED_IS_DURABLE
    marked = now[INTENT];
    kept = now[MAPS];
#else
    marked = (durable(INTENT) -> now[INTENT] : 0);
    kept = (durable(MAPS) -> now[MAPS] : 0);
#endif
    session = 0
}

/* Who votes has what was promised, and those that differ are known. */
#define good(i, r) (!has(voters(r), i) || legal(cache[i], cells_of(r)))
#define equal(i, j, r) \
    (!has(voters(r), i) || !has(voters(r), j) || \
     ((cache[i] ^ cache[j]) & cells_of(r)) == 0)
inline check(r) {
    assert(good(0, r) && good(1, r) && good(2, r));
    assert(has(unresolved, r) ||
           (equal(0, 1, r) && equal(0, 2, r) && equal(1, 2, r)));
    if
    :: size(voters(r)) < T && newcomers != 0 -> few = true
    :: else
    fi;
    assert(few || size(voters(r)) >= T)
}

/* Any state nodes that are enough can be read. */
inline open() {
    if
    :: present = 7
    :: life > 0 -> present = 6
    :: life > 0 -> present = 5
    :: life > 0 -> present = 3
#if defined(REMOVES) || defined(R_MINUS_1)
    :: life > 0 -> present = 4
    :: life > 0 -> present = 2
    :: life > 0 -> present = 1
#endif
    fi;
    d_step { find_ranks() };
    find_head();
    d_step { take_head() }
}
inline take_head() {
    lineage = (session -> 1 << session | history[session] : 0);
    own[0] = 0; own[1] = 0; own[2] = 0;
    merge_page(LABEL);
    members = ALL & ~removed_in(now[LABEL]);
    newcomers = ALL & ~(has_label(0) | has_label(1) << 1 | has_label(2) << 2);
    if
    :: session != 0 && may_open ->
        load();
        check(0);
        if :: REGIONS == 2 -> check(1) :: else fi
    :: else -> refused = true
    fi
}

init {
    byte i, k, life, crashes = CRASHES, own[N];
    bool refused;

    d_step {
        sessions = 1;
#ifdef BLANK                    /* the node, and the child, of a new place */
        k = 2;
        touched = 1;
#else
        cache[0] = 17;
#endif
        do
        :: k < 6 ->
            page[LABEL].rank[k] = 17;
            page[LABEL].what[k] = label_of(1, 0, 0);
            page[INTENT].rank[k] = 17;
            page[MAPS].rank[k] = 17;
            k = k + 2
        :: else -> break
        od;
        k = 0;
        cache[1] = 17; cache[2] = 17;
#ifdef POWER
        medium[0] = cache[0]; medium[1] = 17; medium[2] = 17;
#endif
        last = 17; soft = 17; floor = 17; soft_last = 17; floor_last = 17
    };
    do
    :: atomic {
        open();
        if                      /* after the last crash, this was all to check */
        :: refused || crashes == 0 -> break
        :: else
        fi;
        run StateNodes();
        run Fate();
        if
        :: life == 0 -> run Writer(0, WRITES); run Writer(1, OTHERS)
        :: else -> run Writer(0, LATER); run Reader(2, READS)
        fi;
        run Flusher(FLUSHES);
#if TIDIES > 0
        run Tidier(3);
#endif
#ifdef CLOSES
        run Closer();
#endif
#ifdef REMOVES
        if :: life == 0 -> run Admin() :: else fi;
#endif
        life++
       };
       atomic { crashes--; crashing = true };
       atomic {
        _nr_pr == 1 ->
        crashing = false;
        d_step { look_for_copies(0); look_for_copies(1) };
        tear();
        lose_power();
        d_step { forget_older() };
        d_step { forget_all() }
       }
    od
}
