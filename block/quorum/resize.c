/*
 * Quorum block driver: resizing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A resize holds all that is, or will be, behind the smaller of both lengths.
 * It goes to all children, and succeeds if at least threshold of them do it;
 * otherwise it is undone.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "debug.h"
#include "qapi/error.h"
#include "write.h"

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_truncate(QuorumRequest *req, QuorumAnswer *a)
{
    /*
     * What comes into sight is to be the same on all children (promise 4),
     * whatever their formats: a qcow2 image still has what was cut off from the
     * last of its clusters.
     */
    BdrvRequestFlags zero = a->child->bs->supported_truncate_flags &
                            BDRV_REQ_ZERO_WRITE;

    return bdrv_co_truncate(a->child, req->resize.length, req->resize.exact,
                            req->resize.prealloc, req->flags | zero, &a->err);
}

/*
 * Give the child of @a its old length back, if it has another one now.  A child
 * that was cut off has zeroes now where the others have data: it is stale
 * there.  One that can't go back is excluded.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_undo_resize_of(QuorumAnswer *a, int64_t old_length)
{
    BlockDriverState *child_bs = a->child->bs;
    QuorumRequest *req = a->req;
    int i = quorum_answer_slot(a);
    int ret = bdrv_co_refresh_total_sectors(child_bs, child_bs->total_sectors);

    /* A child that says that it failed may have been resized all the same. */
    if (a->ret < 0 && ret >= 0 && bdrv_co_getlength(child_bs) == old_length) {
        return;
    }
    if (req->resize.length < old_length) {
        quorum_sync_mark_stale(req->s->sync, i, req->resize.length,
                               old_length - req->resize.length,
                               "cut off in vain");
    }
    if (bdrv_co_truncate(a->child, old_length, true, PREALLOC_MODE_OFF, 0,
                         NULL) < 0) {
        quorum_sync_exclude(req->s->sync, i, false,
                            "can't get its length back");
    }
}

/* Too few children were resized: undo the resize of the others. */
static void coroutine_fn GRAPH_RDLOCK
quorum_undo_resize(QuorumRequest *req, int64_t old_length)
{
    QuorumSync *sync = req->s->sync;

    quorum_reached(QUORUM_BRANCH_RESIZE_UNDONE);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && !quorum_sync_is_excluded(sync, i)) {
            quorum_in_flight_begin(a);
            quorum_undo_resize_of(a, old_length);
            quorum_in_flight_end(a);
        }
    }
}

/* Pass on what a child says that failed with @ret, the most common error. */
static void quorum_tell_error(QuorumRequest *req, int ret, Error **errp)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret == ret && a->err) {
            error_propagate(errp, g_steal_pointer(&a->err));
            return;
        }
    }
    error_setg_errno(errp, -ret, "Too few children could be resized");
}

/*
 * Enough children were resized, and the others are excluded.  A resize that
 * need not be exact may leave a child longer than asked for: what they agree on
 * is the length now.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_finish_resize(QuorumRequest *req)
{
    QuorumSync *sync = req->s->sync;
    int64_t length = ROUND_UP(req->resize.length, BDRV_SECTOR_SIZE);

    if (!req->resize.exact) {
        int64_t voted = quorum_co_getlength(req->bs);

        length = voted < 0 ? req->offset + req->bytes : voted;
    }
    quorum_sync_resize(sync, length);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        int64_t child_length;

        if (!a->child || a->ret < 0) {
            continue;
        }
        quorum_in_flight_begin(a);
        child_length = bdrv_co_getlength(a->child->bs);
        quorum_in_flight_end(a);
        if (child_length != length) {
            quorum_sync_exclude(sync, i, false, "resized otherwise");
        } else if (quorum_sync_is_excluded(sync, i)) {
            /* The child has the right length now, but not the data. */
            quorum_sync_include(sync, i, true);
        }
    }
}

int coroutine_fn quorum_co_truncate(BlockDriverState *bs, int64_t offset,
                                    bool exact, PreallocMode prealloc,
                                    BdrvRequestFlags flags, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t old_length = quorum_length(bs);
    int64_t start = MIN(old_length, offset);
    BdrvRequestFlags zero_flags, truncate_flags;
    QuorumRequest *req;
    RangeLockRequest range;
    int ret = 0;

    assert(offset >= 0);
    quorum_supported_flags(s, &zero_flags, &truncate_flags);
    if (flags & ~truncate_flags) {
        error_setg(errp, "Block driver does not support requested flags");
        return -ENOTSUP;
    }
    req = quorum_request_new(bs, start, MAX(old_length, offset) - start, NULL,
                             flags);
    req->resize.length = offset;
    req->resize.exact = exact;
    req->resize.prealloc = prealloc;

    quorum_write_lock(req, &range, INT64_MAX - start);
    quorum_request_ask_excluded(req);
    quorum_ask_all(req, quorum_ask_truncate);
    quorum_collect_missed(req);
    quorum_sync_write_abandon(s->sync, &req->write);

    quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
    quorum_trace_missed(req, "resize");
    if (!quorum_sync_resize_settle(s->sync, req->missed, start,
                                   s->opts.threshold)) {
        ret = quorum_request_fail(req, "resize");
        quorum_tell_error(req, ret, errp);
        quorum_undo_resize(req, old_length);
        quorum_sync_resize(s->sync, old_length);
    } else {
        quorum_finish_resize(req);
    }
    trace_quorum_resize(bs->node_name, old_length, offset, exact, ret);
    quorum_write_unlock(req, &range);
    for (int i = 0; i < req->n; i++) {
        error_free(req->answers[i].err);
    }
    quorum_request_free(req);
    return ret;
}
