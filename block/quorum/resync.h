/*
 * Quorum block driver: copying what children lack, in the background
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * With auto-resync=on, what a child is known to lack is copied to it without
 * anyone asking for that: a child that was away for a while gets what it has
 * missed, and one that joined with other contents gets everything.  Each chunk
 * is a locked read, which votes under the range (promise 6).  Where that has no
 * winner, or a child does not take what it is given, a resync goes on behind,
 * and tries again after a while.
 *
 * There is no coroutine that lives as long as a resync.  A timer of the main
 * loop starts one for a slice of work, which ends before the timer is armed
 * again.  So a resync holds nothing between two slices and believes nothing
 * that it learned in one: drained sections, changes of the children, reopening,
 * other AioContexts and closing need no care.  Within a slice, a drained
 * section waits for the chunk at hand.
 *
 * The timer is armed only while there is something to copy.  The guest's
 * requests pay for a resync with one count each.
 *
 * How a resync leaves the guest its throughput: see QuorumPace in resync.c.
 */

#ifndef BLOCK_QUORUM_RESYNC_H
#define BLOCK_QUORUM_RESYNC_H

#include "quorum-int.h"

/* What came of a step. */
typedef enum QuorumResyncStep {
    QUORUM_RESYNC_MORE,         /* there is more to do */
    QUORUM_RESYNC_DONE,         /* no child lacks anything that it can take */
    QUORUM_RESYNC_STUCK,        /* what is left could not be copied */
    QUORUM_RESYNC_OFF,          /* it may not go on */
} QuorumResyncStep;

/* In the main thread; the second one with all requests drained. */
void quorum_resync_init(BlockDriverState *bs);
void quorum_resync_destroy(BDRVQuorumState *s);

/*
 * Something has changed that may give a resync of @bs something to do: look a
 * while later.  Any thread.
 */
void quorum_resync_kick(BlockDriverState *bs);

/* BlockDriver.bdrv_set_perm: the children may be writable from now on. */
void GRAPH_RDLOCK quorum_resync_set_perm(BlockDriverState *bs, uint64_t perm,
                                         uint64_t shared);

/*
 * Do one chunk, or what comes when all have been done.  @fresh: try again
 * what has failed before.
 */
QuorumResyncStep coroutine_fn GRAPH_UNLOCKED
quorum_resync_step(BlockDriverState *bs, bool fresh);

/*
 * What is left to be copied, and how fast that goes; to be freed by the caller.
 * NULL if nothing is, or may be.  Any thread.
 */
QuorumResyncInfo *GRAPH_RDLOCK quorum_resync_info(BlockDriverState *bs);

#endif /* BLOCK_QUORUM_RESYNC_H */
