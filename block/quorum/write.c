/*
 * Quorum block driver: writes and discards
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A write holds its range while the children work, so that they see overlapping
 * ones in one order (promise 4), and is settled before it gives the range back:
 * a request that reads under the same range sees the children's staleness as it
 * is.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "debug.h"
#include "write.h"

/* --- what writes, zeroes and resizes share --- */

void coroutine_fn quorum_write_lock(QuorumRequest *req, RangeLockRequest *range,
                                    int64_t locked_bytes)
{
    bool fua = req->flags & BDRV_REQ_FUA;

    quorum_request_admit(req);
    quorum_range_lock(req->bs, range, req->offset, locked_bytes);
    if (fua) {
        qemu_co_rwlock_rdlock(&req->s->flush_lock);
    }
    if (quorum_sync_is_degraded(req->s->sync)) {
        quorum_request_leave_out_excluded(req);
    }
    quorum_sync_write_begin(req->s->sync, &req->write, req->offset, req->bytes,
                            fua, req->missed);
}

void coroutine_fn quorum_write_unlock(QuorumRequest *req,
                                      RangeLockRequest *range)
{
    if (req->flags & BDRV_REQ_FUA) {
        qemu_co_rwlock_unlock(&req->s->flush_lock);
    }
    range_lock_co_unlock(&req->s->range_lock, range);
}

bool quorum_collect_missed(QuorumRequest *req)
{
    bool errors = false;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        bool asked = quorum_answer_counts(a);

        if (asked && a->ret >= 0) {
            quorum_set_repair_failed(&req->s->slots[i], false);
        } else {
            req->missed[i] = true;
            errors |= asked;
        }
    }
    return errors;
}

void quorum_trace_missed(const QuorumRequest *req, const char *what)
{
    if (!trace_event_get_state_backends(TRACE_QUORUM_MISSED)) {
        return;
    }
    for (int i = 0; i < req->n; i++) {
        if (req->missed[i] && quorum_answer_counts(&req->answers[i])) {
            trace_quorum_missed(req->bs->node_name, i, what, req->offset,
                                req->bytes, req->answers[i].ret);
        }
    }
}

/* --- asking --- */

/* Whether @child can be written to where @req wants to. */
static bool GRAPH_RDLOCK quorum_child_can_take(const QuorumRequest *req,
                                               BdrvChild *child)
{
    return quorum_child_reaches(child, req->offset + req->bytes) ||
           (child->perm & BLK_PERM_RESIZE);
}

/* Whether @ret may say that the child has not even tried. */
static bool quorum_is_refusal(int64_t ret)
{
    return ret == -ENOTSUP || ret == -EINVAL;
}

/*
 * @ret is what the child has answered to a write.  A FUA write may have failed
 * in its flush, and the error number does not tell, so treat any error as a
 * failed flush.  Exception: -ENOTSUP with BDRV_REQ_NO_FALLBACK means that the
 * child did not start.
 */
static inline int64_t quorum_tell_fua_error(QuorumAnswer *a, int64_t ret)
{
    BdrvRequestFlags flags = a->req->flags;

    if (unlikely(ret < 0) && (flags & BDRV_REQ_FUA) &&
        !(ret == -ENOTSUP && (flags & BDRV_REQ_NO_FALLBACK))) {
        quorum_sync_flush_failed(a->req->s->sync, quorum_answer_slot(a));
    }
    return ret;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write(QuorumRequest *req, QuorumAnswer *a)
{
    if (!quorum_child_can_take(req, a->child)) {
        return -EIO;
    }
    return quorum_tell_fua_error(a, bdrv_co_pwritev(a->child, req->offset,
                                                    req->bytes, req->qiov,
                                                    req->flags));
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write_zeroes(QuorumRequest *req, QuorumAnswer *a)
{
    if (!quorum_child_can_take(req, a->child)) {
        return -EIO;
    }
    return quorum_tell_fua_error(a,
                                 bdrv_co_pwrite_zeroes(a->child, req->offset,
                                                       req->bytes, req->flags));
}

/*
 * Finish a write: children that failed are reported, and, if the write may be
 * acknowledged, stale.  Gives the range back and frees the request.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_write_end(QuorumRequest *req, RangeLockRequest *range)
{
    bool errors = quorum_collect_missed(req);
    bool acknowledged = quorum_sync_write_settle(req->s->sync, &req->write,
                                                 req->s->opts.threshold);
    int ret = 0;

    if (errors) {
        quorum_trace_missed(req, acknowledged ? "write" : "failed write");
    }
    quorum_write_unlock(req, range);
    if (errors) {
        quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
    }
    if (!acknowledged) {
        ret = quorum_request_fail(req, "write");
    }
    quorum_request_free(req);
    return ret;
}

/* --- the callbacks --- */

int coroutine_fn quorum_co_pwritev(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, QEMUIOVector *qiov,
                                   BdrvRequestFlags flags)
{
    QuorumRequest *req;
    RangeLockRequest range;

    if (!bytes) {
        return 0;
    }
    req = quorum_request_new(bs, offset, bytes, qiov, flags);
    quorum_write_lock(req, &range, bytes);
    quorum_ask_all(req, quorum_ask_write);
    return quorum_write_end(req, &range);
}

/*
 * Ask the children that have refused zeroes, because they would not be
 * efficient, to write them all the same.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_ask_zeroes_again(QuorumRequest *req)
{
    req->flags &= ~BDRV_REQ_NO_FALLBACK;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        a->done = !quorum_is_refusal(a->ret);
        if (quorum_answer_counts(a) && !a->done) {
            quorum_reached(QUORUM_BRANCH_ZEROES_FALLBACK);
        }
    }
    quorum_ask_all(req, quorum_ask_write_zeroes);
}

/*
 * Whether all children have refused to write zeroes without a fallback, and
 * none has written any.  If the request is not aligned for all of them, the
 * core cuts it into parts for those with a smaller alignment, and some parts
 * may be done.  (Such a request is small.)
 */
static bool quorum_all_refuse_zeroes(const QuorumRequest *req)
{
    uint32_t alignment = req->bs->bl.pwrite_zeroes_alignment;
    int refused = 0;

    for (int i = 0; i < req->n; i++) {
        refused += quorum_answer_counts(&req->answers[i]) &&
                   req->answers[i].ret == -ENOTSUP;
    }
    return refused == quorum_count_asked(req) &&
           QEMU_IS_ALIGNED(req->offset, alignment) &&
           QEMU_IS_ALIGNED(req->bytes, alignment);
}

int coroutine_fn quorum_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, BdrvRequestFlags flags)
{
    QuorumRequest *req;
    RangeLockRequest range;

    if (!bytes) {
        return 0;
    }
    req = quorum_request_new(bs, offset, bytes, NULL, flags);
    quorum_write_lock(req, &range, bytes);
    quorum_ask_all(req, quorum_ask_write_zeroes);

    /*
     * If no child can do it efficiently, the caller is told.  If only some
     * cannot (-ENOTSUP, or -EINVAL for what is not aligned), they must not stay
     * behind the others.
     */
    if ((flags & BDRV_REQ_NO_FALLBACK) && quorum_all_refuse_zeroes(req)) {
        quorum_reached(QUORUM_BRANCH_ZEROES_REFUSED);
        quorum_sync_write_abandon(req->s->sync, &req->write);
        quorum_write_unlock(req, &range);
        quorum_request_free(req);
        return -ENOTSUP;
    }
    if (flags & BDRV_REQ_NO_FALLBACK) {
        quorum_ask_zeroes_again(req);
    }
    return quorum_write_end(req, &range);
}

/* Whether a zero write may unmap on @child, down to where it becomes blocks. */
static bool GRAPH_RDLOCK quorum_child_may_unmap(BdrvChild *child)
{
    BlockDriverState *p = child->bs;

    while (p && p->open_flags & BDRV_O_UNMAP) {
        BlockDriverState *below = bdrv_primary_bs(p);

        /* A format other than raw unmaps by itself. */
        if (!below || (p->drv && p->drv->is_format &&
                       strcmp(p->drv->format_name, "raw"))) {
            return true;
        }
        p = below;
    }
    return false;
}

/*
 * A discarded range may read as anything, and on each child as something else.
 * So it becomes zeroes, where all children can get them by unmapping, or is
 * dropped for all of them (promise 4).  What is not aligned for each child is
 * dropped, too.
 */
int coroutine_fn quorum_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    uint32_t alignment = bs->bl.pwrite_zeroes_alignment;
    /* A discard may go past the end, and must not make a child longer. */
    int64_t end = QEMU_ALIGN_DOWN(MIN(offset + bytes, quorum_length(bs)),
                                  alignment);
    int64_t most = QEMU_ALIGN_DOWN(MIN_NON_ZERO(bs->bl.max_pwrite_zeroes,
                                                INT64_MAX), alignment);
    int ret = 0;

    if (!(bs->supported_zero_flags & BDRV_REQ_NO_FALLBACK)) {
        return 0;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_is_member(s, i) &&
            !quorum_child_may_unmap(s->slots[i].child)) {
            return 0;
        }
    }
    offset = QEMU_ALIGN_UP(offset, alignment);
    while (offset < end && ret == 0) {
        int64_t size = MIN(end - offset, most);

        ret = quorum_co_pwrite_zeroes(bs, offset, size, BDRV_REQ_MAY_UNMAP |
                                                        BDRV_REQ_NO_FALLBACK);
        offset += size;
    }
    return ret == -ENOTSUP ? 0 : ret;
}
