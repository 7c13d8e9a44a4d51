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
 * Read for the guest, with the range held, and fill @qiov with the winners;
 * @reported[slot] tells which children this request has reported before, or is
 * NULL.  Reports dissenters and failures, and repairs if the options ask for
 * it.  @why is for traces.  Returns 0, or -errno if a unit has no winner.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_locked_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags,
                   const bool *reported, const char *why);

/*
 * The guest has its answer already: vote on the range with the range held, and
 * repair what can be repaired.  A unit without a winner is no failure here.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_repair_range(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    const bool *reported, const char *why);

#endif /* BLOCK_QUORUM_READ_LOCKED_H */
