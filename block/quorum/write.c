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
#include "checked.h"
#include "copy.h"
#include "debug.h"
#include "late.h"
#include "losses.h"
#include "resync.h"
#include "state.h"
#include "write.h"

/*
 * How often what is around a write is voted on before it is written once more:
 * children may be lost again meanwhile.
 */
#define QUORUM_WRITE_VOTES 3

typedef struct QuorumVotes {
    int count;                  /* of those before */
    int restores;               /* see quorum_confirm_unsure() */
    bool due;                   /* another one */
} QuorumVotes;

/* --- what writes, zeroes and resizes share --- */

/* Whether @ret may say that the child has not even tried. */
static bool quorum_is_refusal(int64_t ret)
{
    return ret == -ENOTSUP || ret == -EINVAL;
}

bool quorum_write_is_back(const QuorumRequest *req, int i)
{
    const QuorumAnswer *a = &req->answers[i];

    /* A FUA write that has failed counts as a failed flush: see write.h. */
    return !req->missed[i] && quorum_answer_is_back(a) &&
           !(a->dropped && (req->flags & BDRV_REQ_FUA));
}

/* A QuorumEnoughFn. */
static bool quorum_write_is_enough(QuorumRequest *req)
{
    g_autofree bool *missed = g_new(bool, req->n);
    g_autofree bool *waited_for = g_new(bool, req->n);
    bool back = false;

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        waited_for[i] = a->in_flight;
        /* One that refuses zeroes without a fallback will write them. */
        missed[i] = !quorum_answer_is_good(a) &&
                    (a->in_flight || !(req->flags & BDRV_REQ_NO_FALLBACK) ||
                     !quorum_answer_counts(a) || !quorum_is_refusal(a->ret));
    }
    if (quorum_sync_would_hold(req->s->sync, &req->write, missed, waited_for,
                               req->s->opts.threshold)) {
        return true;
    }
    /* These will be asked when the others are done. */
    for (int i = 0; i < req->n; i++) {
        if (quorum_write_is_back(req, i) ||
            (quorum_late_comes_in(req, i) && quorum_child_answers(req, i))) {
            missed[i] = false;
            back = true;
        }
    }
    assume_graph_lock();    /* the request holds it */
    return back && quorum_sync_would_hold_later(req->s->sync, &req->write,
                                                missed,
                                                req->s->opts.threshold) &&
           quorum_others_store_unflushed(req, &req->write);
}

/* The range is held: @req is about to be sent, for the first time or again. */
static void GRAPH_RDLOCK quorum_write_start(QuorumRequest *req, int64_t offset,
                                            int64_t bytes)
{
    req->late_generation = req->late_looked = bdrv_late_generation();
    quorum_late_notice(req->bs);
    if (quorum_sync_is_degraded(req->s->sync)) {
        quorum_request_leave_out_unasked(req);
        quorum_request_leave_out_late(req, offset, bytes);
    }
    /* What was lost before it begins has nothing to do with it. */
    quorum_notice_losses(req->bs);
    req->enough = quorum_write_is_enough;
}

int coroutine_fn quorum_write_lock(QuorumRequest *req, RangeLockRequest *range,
                                   int64_t offset, int64_t bytes,
                                   int64_t locked_bytes)
{
    bool fua = req->flags & BDRV_REQ_FUA;
    int ret;

    if (!req->coroutines) {
        quorum_request_admit(req);  /* a resize may come here again */
    }
    quorum_range_lock(req->bs, range, offset, locked_bytes);
    ret = quorum_state_prepare(req->bs, offset, bytes);
    if (unlikely(ret < 0)) {
        range_lock_co_unlock(&req->s->range_lock, range);
        return ret;
    }
    if (fua) {
        qemu_co_rwlock_rdlock(&req->s->flush_lock);
    }
    quorum_checked_begin(req, offset, bytes);
    quorum_write_start(req, offset, bytes);
    quorum_sync_write_begin(req->s->sync, &req->write, offset, bytes, fua,
                            req->missed);
    return 0;
}

void quorum_write_again(QuorumRequest *req)
{
    trace_quorum_write_again(req->bs->node_name, req->offset, req->bytes);
    quorum_request_reset(req);
    quorum_write_start(req, req->write.offset, req->write.bytes);
    quorum_sync_write_again(req->s->sync, &req->write);
}

void coroutine_fn quorum_write_unlock(QuorumRequest *req,
                                      RangeLockRequest *range, bool held)
{
    quorum_checked_end(req, held);
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
            if (quorum_set_repair_failed(&req->s->slots[i], false)) {
                quorum_resync_kick(req->bs);
            }
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

void quorum_note_short(const QuorumAnswer *a, int64_t length)
{
    int64_t start = quorum_child_length(a->child);

    if (start < length) {
        quorum_sync_mark_stale(a->req->s->sync, quorum_answer_slot(a), start,
                               length - start, "shorter");
    }
}

bool quorum_grows_by_writes(BlockDriverState *bs)
{
    while (bs && bs->drv) {
        if (bs->drv->is_format && strcmp(bs->drv->format_name, "raw") &&
            strcmp(bs->drv->format_name, "luks")) {
            return false;
        }
        bs = bdrv_primary_bs(bs);
    }
    return true;
}

/*
 * Whether the child of @a can be written to where @req wants to.  A child that
 * is shorter than the node may have to be extended before.  If the write itself
 * does that, because it grows the node, note what the child lacks.
 */
static bool GRAPH_RDLOCK quorum_can_take(const QuorumRequest *req,
                                         const QuorumAnswer *a)
{
    int64_t end = req->offset + req->bytes;
    int64_t length;

    if (quorum_child_reaches(a->child, end)) {
        return true;
    }
    length = quorum_length(req->bs);
    if (end > length) {
        quorum_note_short(a, length);
    }
    return (a->child->perm & BLK_PERM_RESIZE) &&
           (end > length || quorum_grows_by_writes(a->child->bs));
}

/*
 * @ret is what the child has answered to a write with @flags.  A FUA write may
 * have failed in its flush, and the error number does not tell, so treat any
 * error as a failed flush.
 */
static inline int64_t GRAPH_RDLOCK
quorum_tell_fua_error(QuorumAnswer *a, int64_t ret, BdrvRequestFlags flags)
{
    if (unlikely(ret < 0) && (flags & BDRV_REQ_FUA)) {
        quorum_flush_failed(a);
    }
    return ret;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write(QuorumRequest *req, QuorumAnswer *a)
{
    int ret;

    if (!quorum_can_take(req, a)) {
        return -EIO;
    }
    ret = bdrv_co_pwritev(a->child, req->offset + req->copied, req->qiov->size,
                          req->qiov, req->flags);
    return quorum_tell_fua_error(a, ret, req->flags);
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write_zeroes(QuorumRequest *req, QuorumAnswer *a)
{
    BdrvRequestFlags flags = req->flags;
    int64_t ret;

    if (!quorum_can_take(req, a)) {
        return -EIO;
    }
    if (flags & BDRV_REQ_NO_FALLBACK) {
        /* So that a refusal can't be the error of a flush */
        flags &= ~BDRV_REQ_FUA;
    }
    ret = bdrv_co_pwrite_zeroes(a->child, req->offset, req->bytes, flags);
    return quorum_tell_fua_error(a, ret, flags);
}

/* --- writes that make the node longer --- */

/* Write zeroes from the end of the node, req->write.offset, to the request. */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_fill_gap(QuorumRequest *req, QuorumAnswer *a)
{
    BdrvRequestFlags flags = BDRV_REQ_MAY_UNMAP | (req->flags & BDRV_REQ_FUA);
    int64_t start = req->write.offset;
    int ret;

    if (!quorum_can_take(req, a)) {
        return -EIO;
    }
    ret = bdrv_co_pwrite_zeroes(a->child, start, req->offset - start, flags);
    return quorum_tell_fua_error(a, ret, flags);
}

/* Whether what is between the end of the node and a write may differ. */
static bool GRAPH_RDLOCK quorum_gap_is_garbage(BDRVQuorumState *s)
{
    if (quorum_sync_touched_end(s->sync) > quorum_sync_length(s->sync)) {
        return true;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_is_member(s, i) &&
            !quorum_promises_zeroes(s->slots[i].child->bs)) {
            return true;
        }
    }
    return false;
}

/*
 * Begin a write or a zero write.  If it leaves a gap behind the end of the
 * node, what becomes visible there is zero on all children that take part
 * (promise 4).  Mostly the children see to that by themselves; otherwise the
 * request begins with the gap, and holds all from there on, so that the end of
 * the node stays where it is meanwhile.  Returns 0, or -errno with nothing
 * held.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_write_begin(QuorumRequest *req, RangeLockRequest *range)
{
    int64_t end = req->offset + req->bytes;
    int64_t start = quorum_length(req->bs);
    int ret;

    if (unlikely(end > start)) {
        /* The block layer counts the length in sectors. */
        end = ROUND_UP(end, BDRV_SECTOR_SIZE);
    }
    if (likely(req->offset <= start) || !quorum_gap_is_garbage(req->s)) {
        return quorum_write_lock(req, range, req->offset, end - req->offset,
                                 end - req->offset);
    }
    ret = quorum_write_lock(req, range, start, end - start, INT64_MAX - start);
    if (ret < 0) {
        return ret;
    }
    /* Others may have filled the gap, or a part of it, before. */
    start = MIN(quorum_sync_length(req->s->sync), req->offset);
    req->write.offset = start;
    req->write.bytes = end - start;
    return 0;
}

/* @req can't be sent, for what must be written down before could not be. */
static int coroutine_fn GRAPH_RDLOCK quorum_write_fail(QuorumRequest *req,
                                                       int ret)
{
    quorum_report_failure(req, "write", ret);
    quorum_request_free(req);
    return ret;
}

/* The request begins with a gap: fill it. */
static void coroutine_fn GRAPH_RDLOCK quorum_fill_gap(QuorumRequest *req)
{
    quorum_reached(QUORUM_BRANCH_GROWTH_ZEROED);
    quorum_ask_all(req, quorum_ask_fill_gap);
    quorum_collect_missed(req);
    for (int i = 0; i < req->n; i++) {
        req->answers[i].done = req->answers[i].ret < 0;
    }
}

/* --- writes from a copy --- */

/* qemu_iovec_to_buf() of all @bytes, without its loop for what is common. */
static inline void quorum_copy(void *buf, QEMUIOVector *qiov, int64_t from,
                               int64_t bytes)
{
    if (likely(qiov->niov == 1)) {
        memcpy(buf, (char *)qiov->iov->iov_base + from, bytes);
    } else {
        qemu_iovec_to_buf(qiov, from, buf, bytes);
    }
}

/*
 * The children have answered one piece of a write, which is still in the
 * buffer: this is the last time that they can be asked for it.  So those that
 * have missed it have missed the write, and are asked for no more.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_piece_end(QuorumRequest *req)
{
    quorum_late_send_rest(req);
    quorum_collect_missed(req);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->part == QUORUM_PART_LATE) {
            quorum_answer_leave_out(a, QUORUM_PART_STALE);
        }
        a->done = req->missed[i];
        if (quorum_answer_is_member(a) && req->missed[i]) {
            quorum_reached(QUORUM_BRANCH_PIECE_MISSED);
        }
    }
}

/*
 * Write what @qiov holds, of which each byte is read once each time that the
 * write is tried: a guest that changes its memory meanwhile can't make the
 * children differ (promise 4).  The range is held over all pieces, so that no
 * other write comes between them.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_write_pieces(QuorumRequest *req, QEMUIOVector *qiov)
{
    int64_t bytes = req->bytes;

    if (unlikely(bytes > req->buf_bytes)) {
        quorum_reached(QUORUM_BRANCH_WRITE_IN_PIECES);
        /* Each but the last one ends where no child has to read around it. */
        bytes = req->buf_bytes - req->offset % req->buf_bytes;
    }
    req->qiov = &req->copy;
    req->copied = 0;
    /* The caller's memory is registered, the buffer is not. */
    req->flags &= ~BDRV_REQ_REGISTERED_BUF;
    while (true) {
        if (unlikely(req->s->digests)) {
            quorum_checked_copy(req, qiov, bytes);
        } else {
            quorum_copy(req->bufs[0], qiov, req->copied, bytes);
        }
        qemu_iovec_init_buf(&req->copy, req->bufs[0], bytes);
        quorum_ask_all(req, quorum_ask_write);
        if (likely(req->copied + bytes == req->bytes)) {
            return;
        }
        quorum_piece_end(req);
        req->copied += bytes;
        bytes = MIN(req->buf_bytes, req->bytes - req->copied);
    }
}

/* --- sending, settling, and sending again --- */

/* Write what @qiov holds, or zeroes if it is NULL. */
static void coroutine_fn GRAPH_RDLOCK quorum_write_send(QuorumRequest *req,
                                                        QEMUIOVector *qiov)
{
    if (unlikely(req->write.offset < req->offset)) {
        quorum_fill_gap(req);
    }
    if (!qiov) {
        quorum_ask_all(req, quorum_ask_write_zeroes);
    } else if (likely(req->s->opts.stable_writes)) {
        quorum_write_pieces(req, qiov);
    } else {
        quorum_ask_all(req, quorum_ask_write);
    }
}

/*
 * Children have lost something while the write was in flight.  Write all of it
 * again, with the range still held, so that no other request sees what children
 * have made of it.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_write_resend(QuorumRequest *req,
                                                          QEMUIOVector *qiov)
{
    /* Once some have done it, there is no way back. */
    req->flags &= ~BDRV_REQ_NO_FALLBACK;
    quorum_write_again(req);
    quorum_write_send(req, qiov);
}

/*
 * All children have answered the write of @qiov, or of zeroes: settle it.  If
 * it is to be sent again, do that, and settle it then; @may_vote: see
 * quorum_sync_write_settle().
 */
static QuorumWriteOutcome coroutine_fn GRAPH_RDLOCK
quorum_write_settle(QuorumRequest *req, QEMUIOVector *qiov, bool may_vote)
{
    QuorumWriteOutcome outcome;

    for (int again = 0; ; again++) {
        bool errors;

        quorum_notice_losses(req->bs);
        if (unlikely(quorum_sync_is_degraded(req->s->sync) ||
                     bdrv_late_generation() != req->late_generation)) {
            quorum_late_send_rest(req);
            quorum_notice_losses(req->bs);
        }
        errors = quorum_collect_missed(req);
        outcome = quorum_sync_write_settle(req->s->sync, &req->write,
                                           req->s->opts.threshold,
                                           again < QUORUM_WRITE_AGAIN,
                                           may_vote);
        if (unlikely(errors)) {
            quorum_late_note_all(req, req->write.offset, req->write.bytes);
            quorum_trace_missed(req, outcome == QUORUM_WRITE_HELD ?
                                     "write" : "failed write");
            quorum_report_errors(req, QUORUM_OP_TYPE_WRITE);
        }
        if (likely(outcome != QUORUM_WRITE_LOST)) {
            return outcome;
        }
        quorum_write_resend(req, qiov);
    }
}

/*
 * Finish a write: children that failed are reported, and, if the write may be
 * acknowledged, stale.  Gives the range back and frees the request.
 *
 * If too few children are sure of what is around the write, nothing is decided:
 * sets *@votes, after which it is to be written once more; but that happens
 * only QUORUM_WRITE_VOTES times.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_write_end(QuorumRequest *req, RangeLockRequest *range,
                 QEMUIOVector *qiov, QuorumVotes *votes)
{
    QuorumWriteOutcome outcome =
        quorum_write_settle(req, qiov, votes->count < QUORUM_WRITE_VOTES);
    int ret = 0;

    votes->due = outcome == QUORUM_WRITE_UNSURE;
    quorum_write_unlock(req, range, outcome == QUORUM_WRITE_HELD);
    if (unlikely(outcome == QUORUM_WRITE_REFUSED)) {
        ret = quorum_request_fail(req, "write");
        if (req->flags & BDRV_REQ_FUA) {
            /* What failed may have been a flush of older data: say so once. */
            quorum_flush_failed_unheard(req->bs);
        }
    }
    if (req->flags & BDRV_REQ_FUA) {
        quorum_flush_after_a_while(req->bs);
    }
    if (ret == 0 && outcome == QUORUM_WRITE_HELD) {
        ret = quorum_state_record(req->bs);
        if (unlikely(ret < 0)) {
            quorum_report_failure(req, "write", ret);
        }
    }
    quorum_request_free(req);
    return ret;
}

/*
 * If a vote is due, vote on what is around the write, or after a FUA write on
 * all that is unflushed; returns whether it was due.  Nothing is held
 * meanwhile.
 */
static bool coroutine_fn GRAPH_RDLOCK
quorum_write_votes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   BdrvRequestFlags flags, QuorumVotes *votes)
{
    if (likely(!votes->due)) {
        return false;
    }
    votes->due = false;
    if (!(flags & BDRV_REQ_FUA) ||
        !quorum_confirm_unsure(bs, false, &votes->restores)) {
        votes->count++;
    }
    quorum_confirm_around(bs, offset, bytes);
    return true;
}

/* --- the callbacks --- */

/*
 * Before a write of a part of what was outvoted: give the children what they
 * lack around it.  Afterwards it would be too late, for a write makes its
 * digest unknown.
 */
static inline void coroutine_fn GRAPH_RDLOCK
quorum_restore_around(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    if (unlikely(s->digests) && quorum_sync_is_degraded(s->sync) &&
        quorum_any_outvoted(s)) {
        quorum_confirm_around(bs, offset, bytes);
    }
}

static int coroutine_fn GRAPH_RDLOCK
quorum_write_once(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags,
                  QuorumVotes *votes)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    RangeLockRequest range;
    int ret;

    req = quorum_request_new(bs, offset, bytes, qiov, flags);
    req->measured = QUORUM_LATENCY_WRITE;
    if (s->opts.stable_writes) {
        quorum_request_admit(req);
        if (!quorum_copy_alloc(req)) {
            trace_quorum_failure(bs->node_name, "write", offset, bytes,
                                 -ENOMEM);
            quorum_request_free(req);
            return -ENOMEM;
        }
    }
    ret = quorum_write_begin(req, &range);
    if (unlikely(ret < 0)) {
        return quorum_write_fail(req, ret);
    }
    quorum_write_send(req, qiov);
    return quorum_write_end(req, &range, qiov, votes);
}

int coroutine_fn quorum_co_pwritev(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, QEMUIOVector *qiov,
                                   BdrvRequestFlags flags)
{
    QuorumVotes votes = {};
    int ret;

    if (!bytes) {
        return 0;
    }
    quorum_restore_around(bs, offset, bytes);
    do {
        ret = quorum_write_once(bs, offset, bytes, qiov, flags, &votes);
    } while (quorum_write_votes(bs, offset, bytes, flags, &votes));
    return ret;
}

/* What a child has not done of zeroes without a fallback. */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_rest_of_zeroes(QuorumRequest *req, QuorumAnswer *a)
{
    return a->ret < 0 ? quorum_ask_write_zeroes(req, a)
                      : quorum_ask_flush(req, a);
}

/*
 * Ask the children that have refused zeroes, because they would not be
 * efficient, to write them all the same, and the others for what FUA wants.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_ask_zeroes_again(QuorumRequest *req)
{
    bool fua = req->flags & BDRV_REQ_FUA;

    req->flags &= ~BDRV_REQ_NO_FALLBACK;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        bool refused = quorum_is_refusal(a->ret);

        a->done = !refused && !(fua && a->ret >= 0);
        if (quorum_answer_counts(a) && refused) {
            quorum_reached(QUORUM_BRANCH_ZEROES_FALLBACK);
        }
    }
    quorum_ask_all(req, quorum_ask_rest_of_zeroes);
}

/*
 * Whether all children have refused to write zeroes without a fallback.  That
 * none has written any, this tells only of a part that is aligned: others the
 * core cuts into smaller ones for some children, and some of these may be done.
 */
static bool quorum_all_refuse_zeroes(const QuorumRequest *req)
{
    int refused = 0;

    for (int i = 0; i < req->n; i++) {
        refused += quorum_answer_counts(&req->answers[i]) &&
                   req->answers[i].ret == -ENOTSUP;
    }
    return refused == quorum_count_asked(req);
}

/*
 * Whether all members can write zeroes without a fallback.  This, and the
 * limits of the children, may change whenever a node below a child is replaced
 * or reopened, of which the parents are not told.
 */
static bool GRAPH_RDLOCK quorum_can_do_without_fallback(BDRVQuorumState *s)
{
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_is_member(s, i) &&
            !(s->slots[i].child->bs->supported_zero_flags &
              BDRV_REQ_NO_FALLBACK)) {
            return false;
        }
    }
    return true;
}

/*
 * Limits of the children for writing zeroes, down to where they become blocks:
 * a range that is aligned to *@alignment and has up to *@most bytes, each child
 * writes as a whole or, if it has no efficient way, not at all.
 */
static void GRAPH_RDLOCK quorum_zeroes_limits(BDRVQuorumState *s,
                                              int64_t *alignment,
                                              int64_t *most)
{
    *alignment = 1;
    *most = INT64_MAX;
    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;
        BlockDriverState *p;

        for (p = child ? child->bs : NULL; p; p = bdrv_primary_bs(p)) {
            *alignment = MAX(*alignment, MAX(p->bl.pwrite_zeroes_alignment,
                                             p->bl.request_alignment));
            *most = MIN_NON_ZERO(*most, p->bl.max_pwrite_zeroes);
        }
    }
    *most = MAX(QEMU_ALIGN_DOWN(*most, *alignment), *alignment);
}

/*
 * How much of the range to write next: up to where it is aligned, then as much
 * as is aligned, then the rest.
 */
static int64_t quorum_zeroes_part(int64_t offset, int64_t bytes,
                                  int64_t alignment, int64_t most)
{
    int64_t head = offset % alignment;

    if (head) {
        return MIN(bytes, alignment - head);
    }
    return bytes < alignment ? bytes :
           MIN(QEMU_ALIGN_DOWN(bytes, alignment), most);
}

/* Write zeroes to a part of the disk that quorum_zeroes_part() has chosen. */
static int coroutine_fn GRAPH_RDLOCK
quorum_write_zeroes_part(BlockDriverState *bs, int64_t offset, int64_t bytes,
                         BdrvRequestFlags flags, bool aligned,
                         QuorumVotes *votes)
{
    QuorumRequest *req;
    RangeLockRequest range;
    int ret;

    req = quorum_request_new(bs, offset, bytes, NULL, flags);
    ret = quorum_write_begin(req, &range);
    if (unlikely(ret < 0)) {
        return quorum_write_fail(req, ret);
    }
    quorum_write_send(req, NULL);

    /*
     * If no child can do it efficiently, the caller is told.  If only some
     * cannot (-ENOTSUP, or -EINVAL for what is not aligned), they must not stay
     * behind the others.
     */
    if ((flags & BDRV_REQ_NO_FALLBACK) && aligned &&
        quorum_all_refuse_zeroes(req)) {
        quorum_reached(QUORUM_BRANCH_ZEROES_REFUSED);
        quorum_sync_write_abandon(req->s->sync, &req->write);
        if (req->write.grows) {
            /* The gap has been filled. */
            quorum_sync_set_touched_end(req->s->sync, offset);
        }
        quorum_write_unlock(req, &range, false);
        quorum_request_free(req);
        return -ENOTSUP;
    }
    if (flags & BDRV_REQ_NO_FALLBACK) {
        quorum_ask_zeroes_again(req);
    }
    return quorum_write_end(req, &range, NULL, votes);
}

int coroutine_fn quorum_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t alignment, most;
    int ret = 0;

    if ((flags & BDRV_REQ_NO_FALLBACK) && !quorum_can_do_without_fallback(s)) {
        return -ENOTSUP;
    }
    quorum_zeroes_limits(s, &alignment, &most);
    while (bytes > 0 && ret == 0) {
        int64_t part = quorum_zeroes_part(offset, bytes, alignment, most);

        bool aligned = offset % alignment == 0 && part % alignment == 0;
        BdrvRequestFlags part_flags = flags;
        QuorumVotes votes = {};

        quorum_restore_around(bs, offset, part);
        do {
            ret = quorum_write_zeroes_part(bs, offset, part, part_flags,
                                           aligned, &votes);
            /* Once some have done it, there is no way back. */
            part_flags &= ~BDRV_REQ_NO_FALLBACK;
        } while (quorum_write_votes(bs, offset, part, part_flags, &votes));
        offset += part;
        bytes -= part;
    }
    return ret;
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
    int64_t alignment, most, end;
    int ret;

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_is_member(s, i) &&
            !quorum_child_may_unmap(s->slots[i].child)) {
            return 0;
        }
    }
    quorum_zeroes_limits(s, &alignment, &most);
    /* A discard may go past the end, and must not make a child longer. */
    end = QEMU_ALIGN_DOWN(MIN(offset + bytes, quorum_length(bs)), alignment);
    offset = QEMU_ALIGN_UP(offset, alignment);
    if (offset >= end) {
        return 0;
    }
    ret = quorum_co_pwrite_zeroes(bs, offset, end - offset,
                                  BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK);
    quorum_flush_after_a_while(bs);
    return ret == -ENOTSUP ? 0 : ret;
}
