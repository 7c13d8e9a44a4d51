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

/* Branches that are rare, and of which each has to be right. */
#define QUORUM_BRANCHES(X)                                                     \
    X(LOCKED_READ,          "read decided with the range held")                \
    X(TIE,                  "unit without a winner, although all answered")    \
    X(UNIT_READ_AGAIN,      "unit read by itself after an error")              \
    X(STALE_MEANWHILE,      "child became stale while it was read")            \
    X(DEFERRED_ASKED,       "deferred children asked")                         \
    X(READ_IN_PIECES,       "read larger than the pool allows at once")        \
    X(REPAIR,               "range repaired")                                  \
    X(REPAIR_TOO_WEAK,      "no repair: the winner has no majority")           \
    X(REPAIR_LOST,          "repair taken back by a flush that failed")        \
    X(WRITE_REFUSED,        "write stored by too few children")                \
    X(WRITE_MADE_STALE,     "write made a child stale")                        \
    X(WRITE_BESIDE_FLUSH,   "flush or loss while a write was in flight")       \
    X(ZEROES_FALLBACK,      "zeroes written by children that had refused")     \
    X(ZEROES_REFUSED,       "zeroes refused by all children")                  \
    X(FUA_REMEMBERED,       "FUA write remembered while others are in flight") \
    X(FUA_LIST_FULL,        "remembered FUA write counted as unflushed")       \
    X(FUA_MADE_STALE,       "FUA write failed, and made a child stale")        \
    X(FUA_REFUSED,          "FUA write failed, and something else with it")    \
    X(FLUSH_REFUSED,        "flush failed")                                    \
    X(FLUSH_MADE_STALE,     "flush made a child stale")                        \
    X(FLUSH_TOOK_BACK,      "failed flush made recovered ranges stale again")  \
    X(RECOVERED_TOO_LATE,   "range recovered after the flush began")           \
    X(IN_SYNC,              "rebuilding ended")                                \
    X(RESIZE_UNDONE,        "resize undone")                                   \
    X(RESIZE_EXCLUDED,      "resize excluded a child")                         \
    X(MAPS_COARSER,         "granules of the maps doubled")

#define QUORUM_BRANCH_ENUM(name, text) QUORUM_BRANCH_##name,
typedef enum QuorumBranch {
    QUORUM_BRANCHES(QUORUM_BRANCH_ENUM)
    QUORUM_BRANCH__MAX
} QuorumBranch;
#undef QUORUM_BRANCH_ENUM

typedef struct QuorumDebug {
    /*
     * Check the invariants after each critical section, and count branches.
     * What follows has an effect only with it.
     */
    bool on;

    /* Leave out the paths that answer without a lock. */
    bool no_fast_path;

    /* How often each branch was taken while @on was set.  Atomic. */
    size_t reached[QUORUM_BRANCH__MAX];
} QuorumDebug;

extern QuorumDebug quorum_debug;

/*
 * The constants of the driver.  They are variables only so that the simulator
 * can make them small; where a value comes from is said in debug.c.
 */
typedef struct QuorumLimits {
    uint64_t pool_bytes;        /* buffers of one node (promise 8) */
    int64_t stale_bits;         /* of a stale map; above, granules double */
    int64_t unflushed_bits;     /* of the unflushed map, in the same way */
    int unflushed_shift;        /* log2 of its smallest granule, in bytes */
    int fua_done;               /* FUA writes that are remembered one by one */
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

#endif /* BLOCK_QUORUM_DEBUG_H */
