/*
 * Quorum block driver: requests that change the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * All of them hold their range while the children work, so that these see
 * overlapping ones in one order (promise 4), and settle before they give it
 * back: who reads under the same range sees the children's staleness as it is.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "debug.h"
#include "request.h"

/* --- writing --- */

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
 * @ret is what the child has answered to a write.  If that was FUA, it may be
 * the error of a flush, whatever number it has, unless the child has been told
 * not to do it if it is not cheap, and won't.
 */
static int64_t quorum_note_fua(QuorumAnswer *a, int64_t ret)
{
    QuorumRequest *req = a->req;
    bool refused = ret == -ENOTSUP && (req->flags & BDRV_REQ_NO_FALLBACK);

    if (ret < 0 && (req->flags & BDRV_REQ_FUA) && !refused) {
        quorum_note_loss(req->bs->opaque, a - req->answers);
    }
    return ret;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write(QuorumRequest *req, QuorumAnswer *a)
{
    if (!quorum_child_can_take(req, a->child)) {
        return -EIO;
    }
    return quorum_note_fua(a, bdrv_co_pwritev(a->child, req->offset,
                                              req->bytes, req->qiov,
                                              req->flags));
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write_zeroes(QuorumRequest *req, QuorumAnswer *a)
{
    if (!quorum_child_can_take(req, a->child)) {
        return -EIO;
    }
    return quorum_note_fua(a, bdrv_co_pwrite_zeroes(a->child, req->offset,
                                                    req->bytes, req->flags));
}

/* Wait for the range. */
static void coroutine_fn quorum_modify_lock(const QuorumRequest *req,
                                            RangeLockRequest *range,
                                            int64_t bytes)
{
    BDRVQuorumState *s = req->bs->opaque;

    range_lock_co_lock(&s->range_lock, range, req->offset, bytes);
    if (req->flags & BDRV_REQ_FUA) {
        qemu_co_rwlock_rdlock(&s->sync_lock);
    }
}

static void coroutine_fn quorum_modify_unlock(const QuorumRequest *req,
                                              RangeLockRequest *range)
{
    BDRVQuorumState *s = req->bs->opaque;

    if (req->flags & BDRV_REQ_FUA) {
        qemu_co_rwlock_unlock(&s->sync_lock);
    }
    range_lock_co_unlock(&s->range_lock, range);
}

/* Begin to change the children: wait for the range, and choose them. */
static void coroutine_fn GRAPH_RDLOCK
quorum_modify_begin(QuorumRequest *req, RangeLockRequest *range,
                    int64_t locked_bytes)
{
    BDRVQuorumState *s = req->bs->opaque;

    quorum_modify_lock(req, range, locked_bytes);
    quorum_request_recheck(req);
    quorum_write_begin(s, &req->write, req->offset, req->bytes,
                       req->flags & BDRV_REQ_FUA, req->failed);
}

/*
 * Tell @req->failed[] who has not done it; who has can be repaired again.
 * Returns whether an error is to be reported.
 */
static bool GRAPH_RDLOCK quorum_collect_failures(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;
    bool errors = false;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret >= 0) {
            quorum_note_repair(&s->slots[i], false);
        } else {
            req->failed[i] = true;
            errors |= a->child != NULL;
        }
    }
    return errors;
}

/*
 * Finish a write: those that failed are reported, and, if it may be
 * acknowledged, stale.  Gives the range back and frees the request.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_modify_end(QuorumRequest *req, RangeLockRequest *range)
{
    BDRVQuorumState *s = req->bs->opaque;
    bool errors = quorum_collect_failures(req);
    bool held = quorum_write_settle(s, &req->write);
    int ret = 0;

    quorum_modify_unlock(req, range);
    if (errors) {
        quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
    }
    if (!held) {
        ret = quorum_request_fail(req);
    }
    quorum_request_free(req);
    return ret;
}

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
    quorum_modify_begin(req, &range, bytes);
    quorum_ask_all(req, quorum_ask_write);
    return quorum_modify_end(req, &range);
}

int coroutine_fn quorum_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    RangeLockRequest range;
    int unable = 0;

    if (!bytes) {
        return 0;
    }
    req = quorum_request_new(bs, offset, bytes, NULL, flags);
    quorum_modify_begin(req, &range, bytes);
    quorum_ask_all(req, quorum_ask_write_zeroes);

    /*
     * If no child can do it efficiently, the caller gets to hear that.  If only
     * some cannot (-ENOTSUP, or -EINVAL for what is not aligned), they must not
     * stay behind the others.  Neither must they if the request is not aligned
     * for all of them: the core cuts it into pieces for those with a smaller
     * alignment, and some pieces may be done.  (Such a request is small.)
     */
    for (int i = 0; i < req->n; i++) {
        unable += req->answers[i].child && req->answers[i].ret == -ENOTSUP;
    }
    if ((flags & BDRV_REQ_NO_FALLBACK) &&
        unable == quorum_count_asked(req) &&
        QEMU_IS_ALIGNED(offset, bs->bl.pwrite_zeroes_alignment) &&
        QEMU_IS_ALIGNED(bytes, bs->bl.pwrite_zeroes_alignment)) {
        quorum_reached(QUORUM_BRANCH_ZEROES_REFUSED);
        quorum_write_end(s, &req->write);
        quorum_modify_unlock(req, &range);
        quorum_request_free(req);
        return -ENOTSUP;
    }
    if (flags & BDRV_REQ_NO_FALLBACK) {
        req->flags &= ~BDRV_REQ_NO_FALLBACK;
        for (int i = 0; i < req->n; i++) {
            QuorumAnswer *a = &req->answers[i];

            a->done = !quorum_is_refusal(a->ret);
            if (a->child && !a->done) {
                quorum_reached(QUORUM_BRANCH_ZEROES_FALLBACK);
            }
        }
        quorum_ask_all(req, quorum_ask_write_zeroes);
    }
    return quorum_modify_end(req, &range);
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
    /* A discard may go past the end, and must not make anybody longer. */
    int64_t end = QEMU_ALIGN_DOWN(MIN(offset + bytes, bs->total_sectors <<
                                      BDRV_SECTOR_BITS), alignment);
    int64_t most = QEMU_ALIGN_DOWN(MIN_NON_ZERO(bs->bl.max_pwrite_zeroes,
                                                INT64_MAX), alignment);
    int ret = 0;

    if (!(bs->supported_zero_flags & BDRV_REQ_NO_FALLBACK)) {
        return 0;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_slot_is_in(&s->slots[i]) &&
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

/* --- resizing --- */

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
 * Too few children were resized: give the others their old length back.  A
 * child that was cut off, even if it says that it failed, has zeroes now where
 * the others have data: it is stale there.  One that can't go back is out.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_undo_resize(QuorumRequest *req, int64_t old_length)
{
    BDRVQuorumState *s = req->bs->opaque;

    quorum_reached(QUORUM_BRANCH_RESIZE_UNDONE);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        bool changed;
        int ret;

        if (!a->child || qatomic_read(&s->slots[i].out)) {
            continue;
        }
        ret = bdrv_co_refresh_total_sectors(a->child->bs,
                                            a->child->bs->total_sectors);
        changed = a->ret >= 0 || ret < 0 ||
                  bdrv_co_getlength(a->child->bs) != old_length;
        if (!changed) {
            continue;
        }
        if (req->resize.length < old_length) {
            quorum_set_stale(s, i, req->resize.length,
                             old_length - req->resize.length);
        }
        if (bdrv_co_truncate(a->child, old_length, true, PREALLOC_MODE_OFF, 0,
                             NULL) < 0) {
            quorum_put_out(s, i);
        }
    }
}

/* What a child says that has failed with @ret, the most common error. */
static void quorum_tell_error(QuorumRequest *req, int ret, Error **errp)
{
    for (int i = 0; i < req->n; i++) {
        if (req->answers[i].child && req->answers[i].ret == ret &&
            req->answers[i].err) {
            error_propagate(errp, g_steal_pointer(&req->answers[i].err));
            return;
        }
    }
    error_setg_errno(errp, -ret, "Too few children could be resized");
}

/*
 * Enough children were resized, and those that were not are out.  A resize that
 * need not be exact may leave a child longer than asked for: what they agree on
 * is the length now.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_resize_end(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;
    int64_t length = ROUND_UP(req->resize.length, BDRV_SECTOR_SIZE);

    if (!req->resize.exact) {
        int64_t voted = quorum_co_getlength(req->bs);

        length = voted < 0 ? req->offset + req->bytes : voted;
    }
    quorum_maps_resize(s, length);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child || a->ret < 0) {
            continue;
        }
        if (bdrv_co_getlength(a->child->bs) != length) {
            quorum_put_out(s, i);
        } else if (qatomic_read(&s->slots[i].out)) {
            /* It has the right length now, but not the data. */
            quorum_set_stale(s, i, 0, length);
            qatomic_set(&s->slots[i].out, false);
        }
    }
}

int coroutine_fn quorum_co_truncate(BlockDriverState *bs, int64_t offset,
                                    bool exact, PreallocMode prealloc,
                                    BdrvRequestFlags flags, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t old_length = bs->total_sectors << BDRV_SECTOR_BITS;
    int64_t start = MIN(old_length, offset);
    QuorumRequest *req;
    RangeLockRequest range;
    int ret = 0;

    req = quorum_request_new(bs, start, MAX(old_length, offset) - start, NULL,
                             flags);
    req->resize.length = offset;
    req->resize.exact = exact;
    req->resize.prealloc = prealloc;

    /* All that is, or will be, behind the smaller of both lengths. */
    quorum_modify_begin(req, &range, INT64_MAX - start);
    quorum_request_everybody(req);
    quorum_ask_all(req, quorum_ask_truncate);
    quorum_collect_failures(req);
    quorum_write_end(s, &req->write);

    quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
    if (!quorum_resize_settle(s, req->failed, start)) {
        ret = quorum_request_fail(req);
        quorum_tell_error(req, ret, errp);
        quorum_undo_resize(req, old_length);
        quorum_maps_resize(s, old_length);
    } else {
        quorum_resize_end(req);
    }
    quorum_modify_unlock(req, &range);
    for (int i = 0; i < req->n; i++) {
        error_free(req->answers[i].err);
    }
    quorum_request_free(req);
    return ret;
}

/* --- flushing --- */

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_flush(QuorumRequest *req, QuorumAnswer *a)
{
    /* To the core, flushing what is not there is a success (promise 1). */
    int ret = bdrv_co_is_inserted(a->child->bs) ? bdrv_co_flush(a->child->bs)
                                                : -ENOMEDIUM;

    if (ret < 0) {
        quorum_note_loss(a->req->bs->opaque, a - a->req->answers);
    }
    return ret;
}

int coroutine_fn quorum_co_flush(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    bool held;
    int ret = 0;

    qemu_co_rwlock_wrlock(&s->sync_lock);
    req = quorum_request_new(bs, 0, bs->total_sectors << BDRV_SECTOR_BITS, NULL,
                             0);
    quorum_flush_begin(s);
    quorum_ask_all(req, quorum_ask_flush);
    for (int i = 0; i < req->n; i++) {
        req->failed[i] = !req->answers[i].child || req->answers[i].ret < 0;
    }
    held = quorum_flush_settle(s, req->failed);
    qemu_co_rwlock_unlock(&s->sync_lock);
    quorum_report_errors(req, QUORUM_OP_TYPE_FLUSH);
    if (!held) {
        ret = quorum_request_fail(req);
    }
    quorum_request_free(req);
    return ret;
}
