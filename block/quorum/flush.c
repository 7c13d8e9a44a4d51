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
#include "write.h"

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_flush(QuorumRequest *req, QuorumAnswer *a)
{
    /* To the core, flushing what is not there is a success (promise 1). */
    int ret = bdrv_co_is_inserted(a->child->bs) ? bdrv_co_flush(a->child->bs)
                                                : -ENOMEDIUM;

    if (ret < 0) {
        quorum_sync_flush_failed(req->s->sync, quorum_answer_slot(a));
    }
    return ret;
}

int coroutine_fn quorum_co_flush(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    bool acknowledged;
    int ret = 0;

    req = quorum_request_new(bs, 0, 0, NULL, 0);
    quorum_request_admit(req);
    qemu_co_rwlock_wrlock(&s->flush_lock);
    req->bytes = quorum_length(bs);
    if (quorum_sync_is_degraded(s->sync)) {
        quorum_request_leave_out_excluded(req);
    }
    quorum_sync_flush_begin(s->sync);
    quorum_ask_all(req, quorum_ask_flush);
    for (int i = 0; i < req->n; i++) {
        req->missed[i] = !quorum_answer_counts(&req->answers[i]) ||
                         req->answers[i].ret < 0;
    }
    acknowledged = quorum_sync_flush_settle(s->sync, req->missed,
                                            s->opts.threshold);
    quorum_trace_missed(req, acknowledged ? "flush" : "failed flush");
    qemu_co_rwlock_unlock(&s->flush_lock);
    quorum_report_errors(req, QUORUM_OP_TYPE_FLUSH);
    if (!acknowledged) {
        ret = quorum_request_fail(req, "flush");
    }
    quorum_request_free(req);
    return ret;
}
