/*
 * Quorum block driver: memory for copies of what is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * With stable-writes=on, children are written from a copy (see write.c).  Small
 * writes take one of a few buffers that need no lock; others, and those that
 * find none of these left, take theirs from a pool, and may have to wait.
 */

#ifndef BLOCK_QUORUM_COPY_H
#define BLOCK_QUORUM_COPY_H

#include "request.h"

/* All buffers of a node.  The second one when no request is left. */
void quorum_copies_init(BDRVQuorumState *s);
void quorum_copies_destroy(BDRVQuorumState *s);

/*
 * Get a buffer for a copy of what @req writes, or of one piece of it after the
 * other, into @req->bufs[0]; @req->buf_bytes is how much that may be.  As with
 * quorum_request_alloc(), no range is held.  Returns false if there is no
 * memory.  quorum_request_free() gives the buffer back.
 */
bool coroutine_fn GRAPH_RDLOCK quorum_copy_alloc(QuorumRequest *req);

/* Give back @req->small_copy, which there is. */
static inline void quorum_copy_free_small(QuorumRequest *req)
{
    qatomic_or(&req->s->small_free, req->small_copy);
}

#endif /* BLOCK_QUORUM_COPY_H */
