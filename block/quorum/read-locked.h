/*
 * Quorum block driver: reading with the range held, voting and repairing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BLOCK_QUORUM_READ_LOCKED_H
#define BLOCK_QUORUM_READ_LOCKED_H

#include "request.h"

/*
 * Read for the guest, with the range held, and fill @qiov with the winners from
 * @skip bytes behind @offset on.  The guest hears of a failure unless it has
 * asked for less than what is read.
 * Reports dissenters and failures, but for children that are in
 * @found->reported already, and adds them there; adds to @found what is to be
 * repaired.  @why is for traces.  Returns 0, or -errno if a unit has no winner.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_locked_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   int64_t skip, QEMUIOVector *qiov, BdrvRequestFlags flags,
                   QuorumFindings *found, const char *why);

/*
 * The range of @lr has been voted on, and is held: repair with
 * quorum_repair_all() what should be repaired of it.
 */
typedef void coroutine_fn QuorumRepairFn(BlockDriverState *bs,
                                         struct QuorumLockedRead *lr);

/*
 * No guest waits: vote on the range with the range held, and repair what can be
 * repaired, with @repair, or if that is NULL, all that differs if the options
 * ask for it.  Children that are in @reported (or NULL) have been reported
 * before.  A unit without a winner is no failure here.  The range is no longer
 * than quorum_repair_max_bytes().
 */
void coroutine_fn GRAPH_RDLOCK
quorum_repair_range(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    const bool *reported, const char *why,
                    QuorumRepairFn *repair);

#endif /* BLOCK_QUORUM_READ_LOCKED_H */
