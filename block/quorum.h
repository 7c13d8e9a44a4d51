/*
 * Quorum block driver: shared structures
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A quorum node keeps N replicas of one disk on N children and believes none of
 * them alone: it writes to all, reads and votes.
 *
 * What it promises; code and tests cite these numbers.
 *
 * 1. Acknowledged means held.  A write is acknowledged only if at least
 *    threshold children took it.
 * 2. Never a guess.  A read (except pattern fifo, which does not vote) returns
 *    a winner for every unit, or an error.  A tie has no winner.
 * 3. Stale children are silent.  A child that is known to lack acknowledged
 *    data does not vote there.
 * 4. Same order everywhere.  Overlapping writes reach all children in one
 *    order.
 * 5. No false alarm.  A read that overlaps a write in flight neither fails nor
 *    reports a child because of it.
 * 6. Repair never goes back in time, and never guesses.  It holds the range
 *    against writes, votes again under that hold, writes from a private buffer,
 *    and only if the winner outnumbers all other children together, those
 *    that failed included.
 * 7. One bad child is one bad child.  Whatever one child does costs that child,
 *    not the disk, while threshold others are well.
 * 8. Bounded memory.  What the driver itself holds is capped.
 *
 * Where they do not hold yet is said at BDRVQuorumState.
 */

#ifndef BLOCK_QUORUM_H
#define BLOCK_QUORUM_H

#include "block/block_int.h"
#include "block/range-lock.h"
#include "qemu/stats64.h"

/*
 * What is voted on: a piece of a request of at most this many bytes, aligned to
 * the disk.  Small, so that two children's misfortunes in one request seldom
 * meet in one unit.
 */
#define QUORUM_UNIT 4096

/* How often a child was wrong, and what was done about it.  Atomic. */
typedef struct QuorumCounters {
    Stat64 read_errors;         /* requests that failed on the child */
    Stat64 write_errors;
    Stat64 flush_errors;
    Stat64 mismatches;          /* reads in which it was outvoted */
    Stat64 repaired_bytes;
} QuorumCounters;

/* The place N in the list of children: what is known of children.N. */
typedef struct QuorumSlot {
    /* NULL if vacant.  Written at open, then under the graph write lock. */
    BdrvChild *child;

    /*
     * The child's length is not the one that the children agree on, so it
     * neither votes nor counts as a holder.  Atomic: a resize that fails on the
     * child sets it while other requests are in flight, below the range that
     * the resize holds.
     */
    bool out;

    /*
     * The last write to the child has failed: it is dead, full or read-only,
     * and each read that fails on it need not try to repair it.  Atomic.
     */
    bool write_failed;

    QuorumCounters counters;
} QuorumSlot;

/*
 * Known gaps: a child that failed a write or a flush goes on voting (promises 1
 * and 3), and memory is bounded by the requests in flight only (promise 8).
 */
typedef struct BDRVQuorumState {
    /* Set once, when the node is opened. */
    int threshold;              /* 1..occupied slots */
    bool blkverify;             /* exit at the first difference */
    bool rewrite_corrupted;     /* repair on read */
    QuorumReadPattern read_pattern;

    /*
     * The slots; a slot's index never changes.  The array grows under the graph
     * write lock only, so pointers into it hold while the graph lock is held.
     */
    QuorumSlot *slots;
    int num_slots;

    /*
     * Held by writes, by repairs, and by reads that could not decide without
     * it (promises 4 to 6).  Taken with the graph read lock held and all memory
     * at hand; one range at a time.
     */
    RangeLock range_lock;
} BDRVQuorumState;

/* Whether @slot takes part in I/O. */
static inline bool GRAPH_RDLOCK quorum_slot_is_in(const QuorumSlot *slot)
{
    return slot->child && !qatomic_read(&slot->out);
}

/* --- quorum-slot.c: what is known of a child --- */

/* Forget all that is known of the child that was in @slot. */
void quorum_slot_reset(QuorumSlot *slot);

/*
 * What query-blockstats shows of the node.  Owned by the caller.  Any thread,
 * the graph lock held; exact only while no request is in flight.
 */
BlockStatsSpecific *GRAPH_RDLOCK quorum_get_stats(BlockDriverState *bs);

/* --- quorum-io.c: requests; offsets and lengths in bytes, 0 or -errno --- */

int coroutine_fn GRAPH_RDLOCK
quorum_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
quorum_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
quorum_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
quorum_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int coroutine_fn GRAPH_RDLOCK quorum_co_flush(BlockDriverState *bs);
int coroutine_fn GRAPH_RDLOCK
quorum_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                   PreallocMode prealloc, BdrvRequestFlags flags,
                   Error **errp);

/* The length that the children agree on, or -errno if they do not. */
int64_t coroutine_fn GRAPH_RDLOCK quorum_co_getlength(BlockDriverState *bs);

/* What the children occupy together; those that can't tell don't count. */
int64_t coroutine_fn GRAPH_RDLOCK
quorum_co_get_allocated_file_size(BlockDriverState *bs);

int coroutine_fn GRAPH_RDLOCK
quorum_co_get_info(BlockDriverState *bs, BlockDriverInfo *bdi);

bool coroutine_fn GRAPH_RDLOCK quorum_co_is_inserted(BlockDriverState *bs);

int coroutine_fn GRAPH_RDLOCK
quorum_co_block_status(BlockDriverState *bs, bool want_zero, int64_t offset,
                       int64_t bytes, int64_t *pnum, int64_t *map,
                       BlockDriverState **file);

/*
 * Send QUORUM_REPORT_BAD for @child: it failed the operation @type with @error
 * (a text for people), or, if that is NULL, answered with what is not the
 * winner.  [@offset, @offset + @bytes) is the whole request.  Any thread.
 */
void GRAPH_RDLOCK
quorum_report_bad(QuorumOpType type, int64_t offset, int64_t bytes,
                       BdrvChild *child, const char *error);

#endif /* BLOCK_QUORUM_H */
