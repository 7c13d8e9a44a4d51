/*
 * Quorum block driver: resizing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A resize holds all that is, or will be, behind the smaller of both lengths.
 * It goes to all children, and succeeds if at least threshold of them do it;
 * otherwise it is undone.  What comes into sight reads as zeroes on all that
 * have done it (promise 4).
 *
 * With a threshold of more than half of the slots, the children need not have
 * the length of the node: one that is shorter is stale from its end on, and
 * extended before it is repaired; one that is longer is not read behind the
 * end.  Otherwise a child that has another length than an exact resize has
 * asked for is excluded.  See quorum_length_is_majority().
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "debug.h"
#include "late.h"
#include "losses.h"
#include "qapi/error.h"
#include "vote.h"
#include "state.h"
#include "write.h"

/* --- asking --- */

bool quorum_promises_zeroes(BlockDriverState *bs)
{
    /* A filter that does not resize by itself hands flags on. */
    while (bs && bs->drv && bs->drv->is_filter && !bs->drv->bdrv_co_truncate) {
        bs = bdrv_filter_bs(bs);
    }
    return bs && (bs->supported_truncate_flags & BDRV_REQ_ZERO_WRITE);
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_truncate(QuorumRequest *req, QuorumAnswer *a)
{
    int64_t old_length = req->resize.old_length;
    int64_t length = req->resize.length;
    bool zeroes = quorum_promises_zeroes(a->child->bs);
    int64_t child_length = quorum_child_length(a->child);
    int64_t garbage_end;
    int ret;

    /* Being asked again, a child may have been cut off already. */
    quorum_note_short(a, MIN(old_length, length));
    ret = bdrv_co_truncate(a->child, length, req->resize.exact,
                           req->resize.prealloc,
                           (req->flags & ~BDRV_REQ_ZERO_WRITE) |
                           (zeroes ? BDRV_REQ_ZERO_WRITE : 0), &a->err);
    /*
     * What a child that can't promise zeroes had there, or what a request that
     * failed has left behind the end, must not come into sight; nor what was
     * there in an overlay that is longer.
     */
    garbage_end = zeroes ? MIN(MAX(req->resize.touched_end, child_length),
                               length) : length;
    if (ret < 0 || garbage_end <= old_length) {
        return ret;
    }
    if (!(a->child->perm & BLK_PERM_WRITE)) {
        return -EPERM;
    }
    return bdrv_co_pwrite_zeroes(a->child, old_length, garbage_end - old_length,
                                 BDRV_REQ_MAY_UNMAP);
}

/*
 * Ask for the length that the child has already: would it do a resize?  A child
 * that is not to be cut off has nothing to lose, and a write that is not behind
 * the new end may be making it longer at this moment.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_same_length(QuorumRequest *req, QuorumAnswer *a)
{
    int64_t length = quorum_child_length(a->child);

    return length <= req->resize.length ? 0 :
           bdrv_co_truncate(a->child, length, true, PREALLOC_MODE_OFF, 0,
                            &a->err);
}

/* How many members have failed so far. */
static int GRAPH_RDLOCK quorum_count_failed(const QuorumRequest *req)
{
    int failed = 0;

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        failed += quorum_answer_counts(a) && a->done && a->ret < 0 &&
                  quorum_is_member(req->s, i);
    }
    return failed;
}

/*
 * Ask for an exact shrink, one child after the other, and stop when too many
 * have failed: the children that have not been cut are enough then to hold what
 * the others have lost.  If, even so, they would not be enough, all are asked
 * first for the length that they have, so that one that refuses any resize is
 * found before another one is cut.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_shrink(QuorumRequest *req)
{
    int threshold = req->s->opts.threshold;
    int members = 0, copies;

    for (int i = 0; i < req->n; i++) {
        members += quorum_is_member(req->s, i);
    }
    copies = quorum_sync_count_copies(req->s->sync, req->missed, req->offset,
                                      req->bytes);
    if (threshold > (copies + 1) / 2) {
        quorum_reached(QUORUM_BRANCH_SHRINK_TRIED);
        quorum_ask_all(req, quorum_ask_same_length);
    }
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!quorum_answer_counts(a) || (a->done && a->ret < 0)) {
            continue;
        }
        if (quorum_sync_is_lagging(req->s->sync, i)) {
            quorum_answer_leave_out(a, QUORUM_PART_LAGGING);
            continue;
        }
        if (quorum_count_failed(req) > members - threshold) {
            /* It is not asked at all. */
            quorum_reached(QUORUM_BRANCH_SHRINK_STOPPED);
            a->part = QUORUM_PART_DEFERRED;
            continue;
        }
        quorum_ask_one(a, quorum_ask_truncate);
        a->done = true;
    }
}

/*
 * A QuorumEnoughFn.  An exact shrink asks one child after the other: others
 * have to show that they answer.
 */
static bool quorum_resize_is_enough(QuorumRequest *req)
{
    int good = 0;

    assume_graph_lock();    /* the request holds it */
    for (int i = 0; i < req->n; i++) {
        good += req->answers[i].done &&
                quorum_answer_is_good(&req->answers[i]) &&
                quorum_is_member(req->s, i);
    }
    return good >= req->s->opts.threshold || quorum_others_answer(req);
}

static void coroutine_fn GRAPH_RDLOCK quorum_ask_resize(QuorumRequest *req)
{
    bool shrinks = req->resize.length < req->resize.old_length;

    req->enough = quorum_resize_is_enough;
    quorum_request_ask_excluded(req);
    if (shrinks && req->resize.exact && quorum_length_is_majority(req->s)) {
        quorum_ask_shrink(req);
    } else {
        quorum_ask_all(req, quorum_ask_truncate);
    }
    /* A child that says that it failed may have been resized all the same. */
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret < 0) {
            quorum_in_flight_begin(a);
            bdrv_co_refresh_total_sectors(a->child->bs,
                                          a->child->bs->total_sectors);
            quorum_in_flight_end(a);
        }
    }
}

/* --- deciding --- */

/* Whether a child that has another length afterwards is excluded. */
static bool quorum_resize_is_strict(const QuorumRequest *req)
{
    return !quorum_length_is_majority(req->s) &&
           (req->resize.exact || req->resize.length > req->resize.old_length);
}

/*
 * The children have answered a shrink that need not be exact.  Some may have
 * become as short as that and others not, and all is well with both: the node
 * is as short as at least threshold of them are, or else as long as at least
 * threshold of them are.  But what the others have cut off must not be missed:
 * if those that are that long do not store it, the node is as short as asked
 * for, and it does not matter that they are longer.
 */
static int64_t GRAPH_RDLOCK quorum_shrunk_length(const QuorumRequest *req)
{
    g_autofree int64_t *lengths = g_new(int64_t, req->n);
    g_autofree bool *shorter = g_new0(bool, req->n);
    int64_t asked = ROUND_UP(req->resize.length, BDRV_SECTOR_SIZE);
    int threshold = req->s->opts.threshold;
    int followed = 0;
    int64_t length;

    for (int i = 0; i < req->n; i++) {
        lengths[i] = quorum_is_member(req->s, i) ?
                     quorum_child_length(req->s->slots[i].child) : -ENOMEDIUM;
        followed += lengths[i] == asked;
    }
    if (followed >= threshold) {
        return asked;
    }
    length = quorum_nth_largest(lengths, req->n, threshold);
    length = MIN(MAX(length, asked), req->resize.old_length);
    for (int i = 0; i < req->n; i++) {
        shorter[i] = lengths[i] < length;
    }
    return quorum_sync_count_copies(req->s->sync, shorter, asked,
                                    length - asked) < threshold ?
           asked : length;
}

/*
 * Whether the resize may be acknowledged; *@length is what the node has then.
 * Children that have missed it are excluded if they must be.
 */
static bool GRAPH_RDLOCK quorum_settle_resize(QuorumRequest *req,
                                              int64_t *length)
{
    BDRVQuorumState *s = req->s;
    g_autofree bool *refused = g_new0(bool, req->n);
    int64_t kept = req->offset;
    int done = 0;

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        done += quorum_answer_counts(a) && a->ret >= 0 &&
                quorum_is_member(s, i);
    }
    if (!req->resize.exact && req->resize.length < req->resize.old_length) {
        *length = quorum_shrunk_length(req);
        return done >= s->opts.threshold || *length < req->resize.old_length;
    }
    *length = ROUND_UP(req->resize.length, BDRV_SECTOR_SIZE);
    if (!quorum_length_is_majority(s)) {
        /* One that has done it may be longer, and will be excluded, too. */
        for (int i = 0; i < req->n; i++) {
            BdrvChild *child = req->answers[i].child;

            req->missed[i] |= quorum_resize_is_strict(req) && child &&
                              quorum_child_length(child) != *length;
        }
        return quorum_sync_resize_settle(s->sync, req->missed, kept,
                                         s->opts.threshold);
    }
    if (req->resize.length > req->resize.old_length) {
        done = quorum_sync_count_growing(s->sync, req->missed, *length);
    }
    if (done < s->opts.threshold) {
        return false;
    }
    /* Those that can't ever follow are excluded, if there is no need of them */
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        refused[i] = quorum_answer_counts(a) &&
                     (a->ret == -ENOTSUP || a->ret == -EINVAL) &&
                     quorum_child_length(a->child) < *length;
    }
    quorum_sync_resize_settle(s->sync, refused, kept, s->opts.threshold);
    return true;
}

/* --- finishing --- */

/*
 * Too few children were resized: give the child of @a its old length back, if
 * it has another one now.  A child that was cut off has zeroes where the others
 * have data.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_undo_resize_of(QuorumAnswer *a)
{
    QuorumRequest *req = a->req;
    int64_t old_length = req->resize.old_length;
    int64_t length = quorum_child_length(a->child);
    int i = quorum_answer_slot(a);

    if (length == old_length) {
        return;
    }
    if (req->resize.length < old_length) {
        quorum_sync_mark_stale(req->s->sync, i, length, old_length - length,
                               "cut off in vain");
    }
    if (quorum_sync_is_lagging(req->s->sync, i)) {
        return;
    }
    quorum_in_flight_begin(a);
    bdrv_co_truncate(a->child, old_length, true, PREALLOC_MODE_OFF, 0, NULL);
    quorum_in_flight_end(a);
}

static void coroutine_fn GRAPH_RDLOCK quorum_undo_resize(QuorumRequest *req)
{
    quorum_reached(QUORUM_BRANCH_RESIZE_UNDONE);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && quorum_is_member(req->s, i)) {
            quorum_undo_resize_of(a);
        }
    }
}

/* The node has @length now. */
static void GRAPH_RDLOCK quorum_finish_resize(QuorumRequest *req,
                                              int64_t length)
{
    QuorumSync *sync = req->s->sync;
    bool strict = quorum_resize_is_strict(req);

    quorum_sync_resize(sync, length);
    quorum_sync_set_unflushed(sync, &req->write, req->resize.old_length,
                              length - req->resize.old_length);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        int64_t child_length;

        if (!a->child) {
            continue;
        }
        child_length = quorum_child_length(a->child);
        if (quorum_sync_is_excluded(sync, i)) {
            if (quorum_answer_counts(a) && a->ret >= 0 &&
                (child_length == length ||
                 (!strict && child_length > length))) {
                /* The child has the right length now, but not the data. */
                quorum_sync_include(sync, i, true);
            }
        } else if (strict && child_length != length) {
            quorum_sync_exclude(sync, i, false, "resized otherwise");
        } else {
            /* A child may be as long, and not have the zeroes, or not now. */
            int64_t good = req->missed[i] ?
                           MIN(child_length, req->resize.old_length) :
                           child_length;

            quorum_sync_mark_stale(sync, i, good, length - good, "shorter");
        }
        if (child_length > length) {
            quorum_sync_set_touched_end(sync, child_length);
        }
        if (req->missed[i]) {
            /* A write that failed may have made it longer than is known. */
            quorum_sync_set_touched_end(sync, req->resize.old_length);
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

/* --- children that are shorter than the node --- */

/*
 * Whether the child in slot @i should be made longer before a repair.  A scrub
 * tries that again with a child that has failed repairs before.
 */
static bool GRAPH_RDLOCK quorum_should_extend(BlockDriverState *bs, int i,
                                              int64_t end, bool scrub)
{
    BDRVQuorumState *s = bs->opaque;

    return quorum_may_repair(bs, i) &&
           (s->slots[i].child->perm & BLK_PERM_RESIZE) &&
           !quorum_child_reaches(s->slots[i].child, end) &&
           (scrub || !qatomic_read(&s->slots[i].repair_failed));
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_extend(QuorumRequest *req, QuorumAnswer *a)
{
    BlockDriverState *child_bs = a->child->bs;
    int64_t length = quorum_child_length(a->child);

    if (length >= req->resize.length) {
        return 0;       /* a write has made it longer meanwhile */
    }
    quorum_reached(QUORUM_BRANCH_CHILD_EXTENDED);
    trace_quorum_extend(req->bs->node_name, quorum_answer_slot(a), length,
                        req->resize.length);
    quorum_note_short(a, req->resize.length);
    return bdrv_co_truncate(a->child, req->resize.length, false,
                            PREALLOC_MODE_OFF,
                            quorum_promises_zeroes(child_bs) ?
                            BDRV_REQ_ZERO_WRITE : 0, NULL);
}

/*
 * Nothing is written behind a child's end meanwhile: else the child might be
 * cut off.
 */
void coroutine_fn quorum_extend_children(BlockDriverState *bs, int64_t end,
                                         QuorumScrub *scrub)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    RangeLockRequest range;
    int64_t shortest = INT64_MAX;

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_should_extend(bs, i, end, scrub)) {
            shortest = MIN(shortest, quorum_child_length(s->slots[i].child));
        }
    }
    if (likely(shortest == INT64_MAX)) {
        return;
    }
    req = quorum_request_new(bs, shortest, end - shortest, NULL, 0);
    req->scrub = scrub;
    quorum_request_admit(req);
    quorum_range_lock(bs, &range, shortest, INT64_MAX - shortest);
    req->resize.length = quorum_sync_length(s->sync);
    for (int i = 0; i < req->n; i++) {
        if (quorum_answer_counts(&req->answers[i]) &&
            !quorum_should_extend(bs, i, end, scrub)) {
            req->answers[i].part = QUORUM_PART_DEFERRED;
        }
    }
    quorum_ask_all(req, quorum_ask_extend);
    range_lock_co_unlock(&s->range_lock, &range);
    quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret < 0) {
            quorum_set_repair_failed(&s->slots[i], true);
        }
    }
    quorum_request_free(req);
}

/* --- the callback --- */

/*
 * Take the range that the resize needs.  The length of the node may change
 * while others have it.  Returns 0, or -errno with nothing held.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_resize_lock(QuorumRequest *req, RangeLockRequest *range)
{
    QuorumSync *sync = req->s->sync;

    while (true) {
        int64_t old_length = quorum_sync_length(sync);
        int ret;

        req->resize.old_length = old_length;
        req->offset = MIN(old_length, req->resize.length);
        req->bytes = MAX(old_length, req->resize.length) - req->offset;
        ret = quorum_write_lock(req, range, req->offset, req->bytes,
                                INT64_MAX - req->offset);
        if (ret < 0) {
            return ret;
        }
        if (quorum_sync_length(sync) == old_length) {
            req->resize.touched_end = quorum_sync_touched_end(sync);
            return 0;
        }
        quorum_sync_write_abandon(sync, &req->write);
        quorum_write_unlock(req, range, false);
    }
}

/* What the children have said is forgotten. */
static void quorum_resize_free_errors(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        error_free(req->answers[i].err);
    }
}

int coroutine_fn quorum_co_truncate(BlockDriverState *bs, int64_t offset,
                                    bool exact, PreallocMode prealloc,
                                    BdrvRequestFlags flags, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = quorum_request_new(bs, 0, 0, NULL, flags);
    RangeLockRequest range;
    int64_t length;
    int ret = 0;

    assert(offset >= 0);
    req->resize.length = offset;
    req->resize.exact = exact;
    req->resize.prealloc = prealloc;

    /* What the node grows by is in one granule with what is before. */
    quorum_confirm_around(bs, quorum_length(bs), 0);
    ret = quorum_resize_lock(req, &range);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Cannot resize quorum '%s': the resize "
                         "could not be written down on the state nodes",
                         bdrv_get_node_name(bs));
        quorum_request_free(req);
        return ret;
    }
    stat64_set(&s->cut_from, req->offset);
    for (int again = 0; ; again++) {
        quorum_ask_resize(req);
        quorum_notice_losses(bs);
        if (again == QUORUM_WRITE_AGAIN ||
            !quorum_sync_write_is_lost(s->sync, &req->write)) {
            break;
        }
        quorum_resize_free_errors(req);
        quorum_late_note_all(req, req->offset, INT64_MAX - req->offset);
        quorum_write_again(req);
    }
    quorum_collect_missed(req);
    quorum_sync_write_abandon(s->sync, &req->write);

    quorum_late_note_all(req, req->offset, INT64_MAX - req->offset);
    quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
    quorum_trace_missed(req, "resize");
    if (!quorum_settle_resize(req, &length)) {
        ret = quorum_request_fail(req, "resize");
        quorum_tell_error(req, ret, errp);
        quorum_undo_resize(req);
        length = req->resize.old_length;
    }
    quorum_finish_resize(req, length);
    stat64_set(&s->cut_from, INT64_MAX);
    trace_quorum_resize(bs->node_name, req->resize.old_length, offset, exact,
                        ret);
    quorum_write_unlock(req, &range, false);
    quorum_resize_free_errors(req);
    quorum_request_free(req);
    if (ret == 0) {
        /*
         * What has come into sight must not stay unflushed because the guest
         * never flushes, all its writes being FUA.  The resize does not wait
         * for that: what is lost meanwhile because something else failed would
         * be unknown to the guest, which is told of success later.
         */
        quorum_flush_by_itself(bs);
        ret = quorum_state_record(bs);
    }
    return ret;
}
