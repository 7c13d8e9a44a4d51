/*
 * Quorum block driver: flushing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A flush takes no range: what it must cover is what the QuorumSync knows to be
 * unflushed.  It holds flush_lock alone, so that there is one at a time.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/timer.h"
#include "debug.h"
#include "write.h"

int64_t coroutine_fn quorum_ask_flush(QuorumRequest *req, QuorumAnswer *a)
{
    /* To the core, flushing what is not there is a success (promise 1). */
    int ret = bdrv_co_is_inserted(a->child->bs) ? bdrv_co_flush(a->child->bs)
                                                : -ENOMEDIUM;

    if (ret < 0) {
        quorum_sync_flush_failed(req->s->sync, quorum_answer_slot(a));
    }
    return ret;
}

static void quorum_flush_collect_missed(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        req->missed[i] = !quorum_answer_is_good(&req->answers[i]);
    }
}

/* A QuorumEnoughFn. */
static bool quorum_flush_is_enough(QuorumRequest *req)
{
    quorum_flush_collect_missed(req);
    return quorum_sync_would_flush(req->s->sync, req->missed,
                                   req->s->opts.threshold);
}

int coroutine_fn quorum_co_flush(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    bool acknowledged;
    int ret = 0;

    stat64_set(&s->last_flush_ns, quorum_now_ns());
    req = quorum_request_new(bs, 0, 0, NULL, 0);
    quorum_request_admit(req);
    qemu_co_rwlock_wrlock(&s->flush_lock);
    req->bytes = quorum_length(bs);
    if (quorum_sync_is_degraded(s->sync)) {
        quorum_request_leave_out_unasked(req);
    }
    quorum_sync_flush_begin(s->sync);
    req->enough = quorum_flush_is_enough;
    quorum_ask_all(req, quorum_ask_flush);
    quorum_flush_collect_missed(req);
    acknowledged = quorum_sync_flush_settle(s->sync, req->missed,
                                            s->opts.threshold);
    quorum_trace_missed(req, acknowledged ? "flush" : "failed flush");
    qemu_co_rwlock_unlock(&s->flush_lock);
    quorum_report_errors(req, QUORUM_OP_TYPE_FLUSH);
    if (!acknowledged) {
        ret = quorum_request_fail(req, "flush");
    } else if (qatomic_xchg(&s->flush_failed_unheard, false)) {
        ret = -EIO;
        quorum_report_failure(req, "flush", ret);
    }
    quorum_request_free(req);
    return ret;
}

/* --- flushes that the guest has not asked for --- */

void quorum_flush_failed_unheard(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    qatomic_set(&s->flush_failed_unheard, true);
}

static void coroutine_fn GRAPH_UNLOCKED quorum_flush_entry(void *opaque)
{
    BlockDriverState *bs = opaque;
    BDRVQuorumState *s = bs->opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        if (bdrv_co_flush(bs) < 0) {
            quorum_flush_failed_unheard(bs);
        }
    }
    qatomic_set(&s->flushes_by_itself, false);
    bdrv_dec_in_flight(bs);
}

void coroutine_fn quorum_flush_by_itself(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    if (!qatomic_xchg(&s->flushes_by_itself, true)) {
        bdrv_inc_in_flight(bs);
        qemu_coroutine_enter(qemu_coroutine_create(quorum_flush_entry, bs));
    }
}

void coroutine_fn quorum_flush_after_a_while(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t now;

    if (!quorum_sync_any_unflushed(s->sync)) {
        return;
    }
    now = quorum_now_ns();
    if (now - (int64_t)stat64_get(&s->last_flush_ns) <
        quorum_limits.flush_after_ns) {
        return;
    }
    /* Also if the core leaves the flush out, the next try is a while later. */
    stat64_set(&s->last_flush_ns, now);
    quorum_flush_by_itself(bs);
}
