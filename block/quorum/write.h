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
 * Begin to change the children in [@offset, @offset + @bytes): wait for the
 * budget, and for @locked_bytes from @offset on, leave out the children that
 * have been excluded meanwhile, and tell the QuorumSync of req->write.  Ended
 * by quorum_write_unlock(), after req->write has been settled or abandoned:
 * what was written is remembered (checked.h) if it is @held by enough children.
 * Returns 0, or -errno if what must be written down before could not be; then
 * nothing has begun.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_write_lock(QuorumRequest *req, RangeLockRequest *range,
                  int64_t offset, int64_t bytes, int64_t locked_bytes);
void coroutine_fn quorum_write_unlock(QuorumRequest *req,
                                      RangeLockRequest *range, bool held);

/*
 * Children have lost something while @req was in flight, and its range is still
 * held: it is sent to all again, but not more than QUORUM_WRITE_AGAIN times.  A
 * child that loses its connection each time has failed.
 */
void GRAPH_RDLOCK quorum_write_again(QuorumRequest *req);
#define QUORUM_WRITE_AGAIN 3

/*
 * Whether the child in slot @i has missed nothing of the write @req yet, and
 * may be asked (again): see quorum_answer_is_back().  Where a flush has failed,
 * what was in flight counts as lost; so a FUA write is not asked for again.
 */
bool quorum_write_is_back(const QuorumRequest *req, int i);

/*
 * Fill in @req->missed[] with the children that have not done the request, or
 * were not asked; those that have done it can be repaired again.  Returns
 * whether an error is to be reported.
 */
bool GRAPH_RDLOCK quorum_collect_missed(QuorumRequest *req);

/*
 * The child of @a is about to be made longer: what it lacks of @length bytes is
 * stale, or the zeroes that it gets there would have a vote.  Mostly that is so
 * already; not if it got a shorter overlay.
 */
void GRAPH_RDLOCK quorum_note_short(const QuorumAnswer *a, int64_t length);

/*
 * Whether a write behind the end of @bs makes it longer for good.  Most formats
 * have their length in a header, which only a resize changes, and metadata
 * which writes change.
 */
bool GRAPH_RDLOCK quorum_grows_by_writes(BlockDriverState *bs);

/* A QuorumAskFn: flush the child. */
int64_t coroutine_fn GRAPH_RDLOCK quorum_ask_flush(QuorumRequest *req,
                                                   QuorumAnswer *a);

/* Trace which children were asked and have missed the request @what. */
void quorum_trace_missed(const QuorumRequest *req, const char *what);

/*
 * A flush that the guest has not asked for has failed: the next one that it
 * asks for fails, too.
 */
void quorum_flush_failed_unheard(BlockDriverState *bs);

/*
 * Something has been written that the guest may never flush: flush it if that
 * has not happened for a while.  Does not wait.
 */
void coroutine_fn GRAPH_RDLOCK quorum_flush_after_a_while(BlockDriverState *bs);

/*
 * Whether what the node @bs grows by reads as zeroes without being written, if
 * it is asked for that.
 */
bool GRAPH_RDLOCK quorum_promises_zeroes(BlockDriverState *bs);

/*
 * Extend the children that may be repaired and are shorter than @end, a place
 * in the node or its end, to the length of the node.  Takes a range, so none
 * may be held.  @scrub is on whose behalf that is, or NULL.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_extend_children(BlockDriverState *bs, int64_t end, QuorumScrub *scrub);

/*
 * Flush without being asked to, and without waiting for it.  Children that fail
 * may have lost what the guest has not flushed yet.  If too few are left that
 * have not, it must hear of that: the next flush that it asks for fails, too.
 */
void coroutine_fn GRAPH_RDLOCK quorum_flush_by_itself(BlockDriverState *bs);

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

/*
 * The same, but the guest has not asked for it: if too few children can flush,
 * it is told with its next flush.
 */
int coroutine_fn GRAPH_RDLOCK quorum_co_flush_unheard(BlockDriverState *bs);
int coroutine_fn GRAPH_RDLOCK
quorum_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                   PreallocMode prealloc, BdrvRequestFlags flags,
                   Error **errp);

#endif /* BLOCK_QUORUM_WRITE_H */
