/*
 * Quorum block driver: requests that change the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Writes and discards (write.c), flushes (flush.c), resizes (resize.c).
 */

#ifndef BLOCK_QUORUM_WRITE_H
#define BLOCK_QUORUM_WRITE_H

#include "request.h"

/* --- for write.c, flush.c and resize.c --- */

/*
 * Begin to change the children: wait for the budget, and for @locked_bytes from
 * req->offset on, leave out the children that have been excluded meanwhile, and
 * tell the QuorumSync of req->write.  Ended by quorum_write_unlock(), after
 * req->write has been settled or abandoned.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_write_lock(QuorumRequest *req, RangeLockRequest *range,
                  int64_t locked_bytes);
void coroutine_fn quorum_write_unlock(QuorumRequest *req,
                                      RangeLockRequest *range);

/*
 * Fill in @req->missed[] with the children that have not done the request, or
 * were not asked; those that have done it can be repaired again.  Returns
 * whether an error is to be reported.
 */
bool GRAPH_RDLOCK quorum_collect_missed(QuorumRequest *req);

/* Trace which children were asked and have missed the request @what. */
void quorum_trace_missed(const QuorumRequest *req, const char *what);

/* --- callbacks of BlockDriver --- */

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

#endif /* BLOCK_QUORUM_WRITE_H */
