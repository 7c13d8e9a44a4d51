/*
 * Quorum block driver: what tests may switch on and look at
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The simulator and the fuzzers run the driver with checks of its invariants,
 * with limits that are small enough to be met, and without its fast paths; and
 * they count which rare branches were taken, because a test that never took a
 * branch says nothing about it.  QEMU itself changes nothing here, unless it is
 * built with a sanitizer: then the checks are on.
 *
 * Everything here is global, for all nodes.  A test changes it while no node is
 * open.
 */

#ifndef BLOCK_QUORUM_DEBUG_H
#define BLOCK_QUORUM_DEBUG_H

#include "qemu/atomic.h"
#include "qemu/coroutine.h"
#include "qemu/timer.h"

/* Branches that are rare, and of which each has to be right. */
typedef enum QuorumBranch {
    QUORUM_BRANCH_LOCKED_READ,
    QUORUM_BRANCH_TIE,
    QUORUM_BRANCH_UNIT_READ_AGAIN,
    QUORUM_BRANCH_STALE_MEANWHILE,
    QUORUM_BRANCH_DEFERRED_ASKED,
    QUORUM_BRANCH_READ_SPLIT,
    QUORUM_BRANCH_REPAIR,
    QUORUM_BRANCH_REPAIR_TOO_WEAK,
    QUORUM_BRANCH_PREFERRED,
    QUORUM_BRANCH_REPAIR_LOST,
    QUORUM_BRANCH_REPAIR_WAITS,
    QUORUM_BRANCH_REPAIR_DROPPED,
    QUORUM_BRANCH_REPAIR_FUTILE,
    QUORUM_BRANCH_READ_BESIDE_REPAIR,
    QUORUM_BRANCH_RESYNC,
    QUORUM_BRANCH_WRITE_IN_PIECES,
    QUORUM_BRANCH_PIECE_MISSED,
    QUORUM_BRANCH_WRITE_REFUSED,
    QUORUM_BRANCH_WRITE_MADE_STALE,
    QUORUM_BRANCH_WRITE_BESIDE_FLUSH,
    QUORUM_BRANCH_ZEROES_FALLBACK,
    QUORUM_BRANCH_ZEROES_REFUSED,
    QUORUM_BRANCH_FUA_REMEMBERED,
    QUORUM_BRANCH_FUA_LIST_FULL,
    QUORUM_BRANCH_FUA_MADE_STALE,
    QUORUM_BRANCH_FUA_REFUSED,
    QUORUM_BRANCH_FLUSH_REFUSED,
    QUORUM_BRANCH_FLUSH_MADE_STALE,
    QUORUM_BRANCH_FLUSH_TOOK_BACK,
    QUORUM_BRANCH_RECOVERED_TOO_LATE,
    QUORUM_BRANCH_IN_SYNC,
    QUORUM_BRANCH_RESIZE_UNDONE,
    QUORUM_BRANCH_RESIZE_EXCLUDED,
    QUORUM_BRANCH_SHRINK_TRIED,
    QUORUM_BRANCH_SHRINK_STOPPED,
    QUORUM_BRANCH_GROWTH_ZEROED,
    QUORUM_BRANCH_CHILD_EXTENDED,
    QUORUM_BRANCH_READ_CLIPPED,
    QUORUM_BRANCH_VERIFIED,
    QUORUM_BRANCH_RESOLVED,
    QUORUM_BRANCH_MAPS_COARSER,
    QUORUM_BRANCH_MAPS_FINER,
    QUORUM_BRANCH_ANSWERED_EARLY,
    QUORUM_BRANCH_NOT_LEFT,
    QUORUM_BRANCH_SITS_OUT,
    QUORUM_BRANCH_HEDGED,
    QUORUM_BRANCH_STRAGGLER_DIFFERS,
    QUORUM_BRANCH_LATE_DROPPED,
    QUORUM_BRANCH_LATE_BACK,
    QUORUM_BRANCH_LATE_TAKEN_BACK,
    QUORUM_BRANCH_LATE_JOINED,
    QUORUM_BRANCH_LATE_WRITE,
    QUORUM_BRANCH_LATE_METADATA,
    QUORUM_BRANCH_LATE_RESENT,
    QUORUM_BRANCH_LATE_WAIT,
    QUORUM_BRANCH_LATE_QUARANTINE,
    QUORUM_BRANCH_MADE_UNSURE,
    QUORUM_BRANCH_FLUSH_UNSURE,
    QUORUM_BRANCH_FLUSH_LOST,
    QUORUM_BRANCH_WRITE_LOST,
    QUORUM_BRANCH_WRITE_UNSURE,
    QUORUM_BRANCH_NOT_VOUCHED,
    QUORUM_BRANCH_TOLD,
    QUORUM_BRANCH_CONFIRMED,
    QUORUM_BRANCH_WRITTEN_AGAIN,
    QUORUM_BRANCH_CHECKED,
    QUORUM_BRANCH_WRONG_DIGEST,
    QUORUM_BRANCH_DIGEST_DISAGREES,
    QUORUM_BRANCH_DIGEST_DECIDED,
    QUORUM_BRANCH_DIGEST_LOST,
    QUORUM_BRANCH_DIGEST_TOLD,
    QUORUM_BRANCH_OUTVOTED_REPAIRED,
    QUORUM_BRANCH_LOST_OF_GRANULE,
    QUORUM_BRANCH__MAX
} QuorumBranch;

typedef struct QuorumDebug {
    /*
     * Check the invariants after each critical section, and count branches.
     * While this is off, the other fields have no effect.
     */
    bool on;

    /* Leave out the paths that answer without a lock. */
    bool no_fast_path;

    /* What a zero write has written reads as something else. */
    bool odd_zeroes;

    /* The time that the driver is told, and who lets it sleep; 0: the clock. */
    int64_t now_ns;
    void coroutine_fn (*co_sleep_ns)(int64_t ns);

    /* How often each branch was taken while @on was set.  Atomic. */
    size_t reached[QUORUM_BRANCH__MAX];
} QuorumDebug;

extern QuorumDebug quorum_debug;

/*
 * The constants of the driver.  They are variables only so that the simulator
 * can make them small; where a value comes from is said in debug.c.
 */
typedef struct QuorumLimits {
    int coroutines;             /* of one node, for requests (promise 8) */
    uint64_t pool_bytes;        /* buffers of one node (promise 8) */
    uint64_t write_pool_bytes;  /* the same, for copies of what is written */
    uint64_t repair_pool_bytes; /* the same, for repairs behind reads */
    int64_t stale_bits;         /* of a stale map; above, granules double */
    int64_t unflushed_bits;     /* of the unflushed map, in the same way */
    int unflushed_shift;        /* log2 of its smallest granule, in bytes */
    int fua_done;               /* FUA writes that are remembered one by one */
    int64_t flush_after_ns;     /* how long something may be unflushed */
    int stragglers;             /* of one child: more, and it sits out */
    int stragglers_all;         /* of one node: more, and reads wait */
    int64_t state_bytes;        /* for which state nodes have room at least */
    int state_intent_shift;     /* log2 of the smallest region, in bytes */
} QuorumLimits;

extern QuorumLimits quorum_limits;

/* What each branch is, in words. */
extern const char *const quorum_branch_text[QUORUM_BRANCH__MAX];

/* Count that a branch was taken.  Any thread. */
static inline void quorum_reached(QuorumBranch branch)
{
    if (unlikely(quorum_debug.on)) {
        qatomic_inc(&quorum_debug.reached[branch]);
    }
}

static inline bool quorum_debug_skips_fast_path(void)
{
    return unlikely(quorum_debug.on) && quorum_debug.no_fast_path;
}

static inline bool quorum_debug_has_odd_zeroes(void)
{
    return unlikely(quorum_debug.on) && quorum_debug.odd_zeroes;
}

/*
 * The time.  All that the driver decides by time it decides by this, and timers
 * are armed for this: QEMU_CLOCK_REALTIME, or what the simulator says.
 */
static inline int64_t quorum_now_ns(void)
{
    if (unlikely(quorum_debug.on) && quorum_debug.now_ns) {
        return quorum_debug.now_ns;
    }
    return get_clock();
}

static inline void coroutine_fn quorum_co_sleep_ns(int64_t ns)
{
    if (unlikely(quorum_debug.on) && quorum_debug.now_ns) {
        quorum_debug.co_sleep_ns(ns);
    } else {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, ns);
    }
}

#endif /* BLOCK_QUORUM_DEBUG_H */
