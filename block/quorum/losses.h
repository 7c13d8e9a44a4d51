/*
 * Quorum block driver: children that may have lost data
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A server that is restarted has lost what it had acknowledged and not flushed,
 * unless it is lucky, and does not say so.  The block layer notices: see
 * bdrv_loss_generation().  The driver looks at it whenever children have
 * answered, before it believes or counts what they say: the drivers below make
 * the number grow before they hand up the first answer that may see the loss.
 * What a loss means is in sync.h: the child is unsure in what was not flushed.
 *
 * What was in flight on the child when it lost something may be lost as well,
 * however it was answered.  Such a write is sent again as a whole, with its
 * range held; and if too few children are sure of what is around it, it is done
 * once more after a vote on that.  So a network that fails for a moment, and
 * takes nothing with it, costs the guest no error.
 */

#ifndef BLOCK_QUORUM_LOSSES_H
#define BLOCK_QUORUM_LOSSES_H

#include "request.h"

/* Look at all children. */
void GRAPH_RDLOCK quorum_find_losses(BlockDriverState *bs);

/*
 * Children have answered: note which of them have lost something since this was
 * last called.  Two loads and a comparison if nothing has been lost.
 *
 * losses_seen grows only when all children have been looked at, so another
 * thread that finds it to be up to date finds the children to be unsure, too.
 */
static inline void GRAPH_RDLOCK quorum_notice_losses(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    if (unlikely(bdrv_last_loss_generation() != stat64_get(&s->losses_seen))) {
        quorum_find_losses(bs);
    }
    /* The children are looked at after that; see quorum_find_losses(). */
    smp_rmb();
}

/*
 * When @child has lost something, or failed to flush, the last time: if that is
 * what it was when a request began, what that has written can still be flushed.
 */
uint64_t GRAPH_RDLOCK quorum_latest_loss(BdrvChild *child);

/* There is a new child in slot @i: what it has lost before does not matter. */
void GRAPH_RDLOCK quorum_know_new_child(BDRVQuorumState *s, int i);

/*
 * Whether the child of @a has lost something since its request began: what it
 * has answered may be older than what it holds by now, and is sure of.
 */
bool GRAPH_RDLOCK quorum_answer_has_lost(const QuorumAnswer *a);

/* If any has: leave those out.  They are QuorumAnswer.absent. */
void GRAPH_RDLOCK quorum_request_leave_out_lost(QuorumRequest *req);

/*
 * The child of @a has failed to flush, or a FUA write which may have failed in
 * its flush.
 */
void GRAPH_RDLOCK quorum_flush_failed(const QuorumAnswer *a);

/*
 * Whether some child may have been outvoted by a digest, and lack something
 * still.  Where granules are larger than units, such a child is unsure.
 */
bool quorum_any_outvoted(const BDRVQuorumState *s);

/*
 * Vote on what is unflushed and unsure, and write what has to be written again
 * (quorum_sync_wants_rewrite()): what could be confirmed is sure.  Children
 * that a digest has outvoted are given what they lack of it.  With nothing
 * held, neither a range nor memory nor the flush lock.  If no guest waits for
 * it, @yields to a drained section.
 *
 * Returns whether outvoted children have been given anything, here or by others
 * meanwhile, or were outvoted only meanwhile.  Then the next try may find more
 * that is rotten, but that comes to an end: it need not count.  @restores says
 * how often that was so.
 */
#define QUORUM_RESTORES_MAX 1024
bool coroutine_fn GRAPH_RDLOCK quorum_confirm_unsure(BlockDriverState *bs,
                                                     bool yields,
                                                     int *restores);

/*
 * The same, but only of the granules that a write of the range covers partly.
 * The guest waits for it.
 */
void coroutine_fn GRAPH_RDLOCK quorum_confirm_around(BlockDriverState *bs,
                                                     int64_t offset,
                                                     int64_t bytes);

#endif /* BLOCK_QUORUM_LOSSES_H */
