/*
 * Quorum block driver: repairs behind reads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read answers the guest as soon as it has a winner.  What it has found to be
 * wrong is repaired behind it, by a coroutine of its own, which starts with
 * nothing held and votes again under the range (promise 6).  So a child that is
 * slow to take its repair, or never answers, does not keep the guest waiting.
 *
 * Only a few repairs go on at a time on each node.  Others wait in a queue, in
 * which ranges that touch become one, because guests read in bursts.  The queue
 * is short: where reads find more than can be repaired, it would be full all
 * the time.  What does not fit is dropped, and so is what waits when the
 * node is drained: a drained section waits only for the repairs that have
 * begun.
 * Nothing is lost with it, for the next read of the range finds the same again,
 * and so does a scrub.
 */

#ifndef BLOCK_QUORUM_REPAIR_H
#define BLOCK_QUORUM_REPAIR_H

#include "request.h"

void quorum_repairs_init(BDRVQuorumState *s);
void quorum_repairs_destroy(BDRVQuorumState *s);

/*
 * Repair the children of @found->to_repair in the range, behind the read that
 * has found them, which is in flight until this returns.  Takes the arrays of
 * @found.  Does not yield.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_repair_behind(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QuorumFindings *found);

/* The largest granule of a stale map that a repair can do at once. */
int64_t quorum_repair_max_bytes(BlockDriverState *bs);

/*
 * Leave out the children that are being repaired in the range of @req, so that
 * the read need not wait for that.  They are QuorumAnswer.absent.
 */
void GRAPH_RDLOCK quorum_leave_out_in_repair(QuorumRequest *req);

#endif /* BLOCK_QUORUM_REPAIR_H */
