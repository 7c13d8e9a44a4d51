/*
 * Quorum block driver: memory for copies of what is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "copy.h"
#include "debug.h"

/* How many small_copies a node has, and of how many bytes. */
#define QUORUM_SMALL_COPIES      32
#define QUORUM_SMALL_COPY_BYTES  4096

void quorum_copies_init(BDRVQuorumState *s)
{
    buffer_pool_init(&s->write_pool, quorum_limits.write_pool_bytes,
                     qemu_real_host_page_size());
    s->small_copies = qemu_memalign(qemu_real_host_page_size(),
                                    QUORUM_SMALL_COPIES *
                                    QUORUM_SMALL_COPY_BYTES);
    s->small_free = MAKE_64BIT_MASK(0, QUORUM_SMALL_COPIES);
}

void quorum_copies_destroy(BDRVQuorumState *s)
{
    assert(s->small_free == MAKE_64BIT_MASK(0, QUORUM_SMALL_COPIES));
    qemu_vfree(s->small_copies);
    buffer_pool_destroy(&s->write_pool);
}

/*
 * Take one of small_copies.  A mutex, twice for each write, would cost as much
 * as copying 4 KiB does.
 */
static inline bool quorum_take_small_copy(QuorumRequest *req)
{
    BDRVQuorumState *s = req->s;
    uint32_t free = qatomic_read(&s->small_free);

    while (likely(free)) {
        uint32_t rest = free & (free - 1);
        uint32_t old = qatomic_cmpxchg(&s->small_free, free, rest);

        if (likely(old == free)) {
            req->small_copy = free ^ rest;
            req->bufs[0] = s->small_copies +
                           ctz32(free) * QUORUM_SMALL_COPY_BYTES;
            return true;
        }
        free = old;
    }
    return false;
}

bool coroutine_fn quorum_copy_alloc(QuorumRequest *req)
{
    req->buf_bytes = req->bytes;
    if (req->bytes <= QUORUM_SMALL_COPY_BYTES && quorum_take_small_copy(req)) {
        return true;
    }
    req->pool = &req->s->write_pool;
    /*
     * A write that took the whole pool would wait until all others have ended,
     * and keep those behind it waiting.
     */
    req->buf_bytes = MIN(req->bytes, buffer_pool_max_size(req->pool, 4));
    req->n_bufs = buffer_pool_co_get(req->pool, req->buf_bytes, 1, req->bufs);
    return req->n_bufs;
}
