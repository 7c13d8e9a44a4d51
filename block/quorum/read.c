/*
 * Quorum block driver: reading
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read first asks without any lock: when all children that answer agree and
 * are enough, and no child is to be repaired, that is the end of it.  Only if
 * not, it takes the range (so that no write runs beside it, promise 5), asks
 * again into private buffers and votes unit by unit: read-locked.c.
 *
 * Why a read may believe what it sees without a lock: a child that is not stale
 * when the read begins has all that was acknowledged by then.  If all such
 * children agree on something else, then a write beside the read has put it
 * there, and the guest can't tell which of the two came first.  A difference is
 * where a read learns that there may be such a write; it waits for the write
 * under the lock.
 *
 * With or without the lock, a flush that fails may take back what a child had
 * when the read began.  So the read looks once more which children are stale
 * when all have answered (promise 3).
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "debug.h"
#include "read.h"
#include "read-locked.h"

/*
 * If all children that have answered say the same, and no other version could
 * win (promise 2), return one of them: the one that has read into the caller's
 * vector, if that is among them.  Otherwise NULL.  *@failed tells whether any
 * have failed.
 */
static QuorumAnswer *quorum_unanimous(QuorumRequest *req, bool *failed)
{
    QuorumAnswer *one = NULL;
    int others = 0;
    int unasked = 0;

    *failed = false;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!quorum_answer_counts(a)) {
            unasked += a->part == QUORUM_PART_DEFERRED;
        } else if (a->ret < 0) {
            *failed = true;
        } else if (one && a->buf) {
            req->others[others++] = a->buf;
        } else {
            if (one) {
                req->others[others++] = one->buf;
            }
            one = a;
        }
    }
    if (!one || others + 1 < req->s->opts.threshold || others + 1 <= unasked) {
        return NULL;
    }
    return qemu_iovec_equals_bufs(quorum_answer_qiov(one), req->others, others)
           ? one : NULL;
}

/* --- what is worth a repair --- */

/*
 * Whether a read in which children have failed should go on to a vote under the
 * lock, for the sake of repairing one of them.
 */
static bool GRAPH_RDLOCK quorum_wants_repair(const QuorumRequest *req)
{
    if (!req->s->opts.rewrite_corrupted) {
        return false;
    }
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret < 0 &&
            quorum_may_repair(req->bs, i) &&
            quorum_child_reaches(a->child, req->offset + req->bytes) &&
            !qatomic_read(&req->s->slots[i].repair_failed)) {
            return true;
        }
    }
    return false;
}

/* Whether a child that is stale in the range may, and should, be repaired. */
static bool GRAPH_RDLOCK quorum_has_stale_repairable(BlockDriverState *bs,
                                                     int64_t offset,
                                                     int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree QuorumStaleness *staleness = NULL;

    if (!s->opts.rewrite_corrupted) {
        return false;
    }
    staleness = g_new(QuorumStaleness, s->num_slots);
    quorum_sync_staleness(s->sync, offset, bytes, staleness);
    for (int i = 0; i < s->num_slots; i++) {
        if (staleness[i] && quorum_may_repair(bs, i) &&
            !qatomic_read(&s->slots[i].repair_failed)) {
            return true;
        }
    }
    return false;
}

/* Whether those that have answered outnumber all others (promise 6). */
static bool quorum_answers_outnumber_rest(const QuorumRequest *req)
{
    return quorum_count_good(req) * 2 > quorum_count_asked(req);
}

/* --- patterns quorum and threshold --- */

/* Which children @req has reported.  Owned by the caller. */
static bool *quorum_reported_children(const QuorumRequest *req)
{
    bool *reported = g_new(bool, req->n);

    for (int i = 0; i < req->n; i++) {
        reported[i] = req->answers[i].reported;
    }
    return reported;
}

/* Whether the child of @a is stale in the range now. */
static bool quorum_answer_is_stale(const QuorumAnswer *a)
{
    QuorumSync *sync = a->req->s->sync;

    return quorum_sync_is_degraded(sync) &&
           quorum_sync_is_stale(sync, quorum_answer_slot(a), a->req->offset,
                                a->req->bytes);
}

/*
 * quorum_request_leave_out_stale(), when the children have answered: some may
 * have become stale since.
 */
static bool GRAPH_RDLOCK quorum_leave_out_stale_again(QuorumRequest *req)
{
    int asked = quorum_count_asked(req);
    bool clear = quorum_request_leave_out_stale(req);

    if (quorum_count_asked(req) < asked) {
        quorum_reached(QUORUM_BRANCH_STALE_MEANWHILE);
    }
    return clear;
}

/*
 * Pattern threshold: ask a majority of the voters first, and no fewer than
 * threshold, so that no other version can win if they agree (promise 2).  Each
 * read defers the next ones, so that each child carries its share.
 */
static void quorum_defer_children(QuorumRequest *req)
{
    int voters = quorum_count_asked(req);
    int deferred = voters - MAX(req->s->opts.threshold, voters / 2 + 1);
    int start, rank = 0;

    if (deferred <= 0) {
        return;
    }
    start = qatomic_fetch_inc(&req->s->next_deferred) % voters;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) &&
            (rank++ - start + voters) % voters < deferred) {
            a->part = QUORUM_PART_DEFERRED;
        }
    }
}

/* Ask the children that have been deferred so far. */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_deferred(QuorumRequest *req)
{
    quorum_reached(QUORUM_BRANCH_DEFERRED_ASKED);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->part != QUORUM_PART_DEFERRED) {
            continue;
        }
        if (quorum_answer_is_stale(a)) {
            quorum_answer_leave_out(a, QUORUM_PART_STALE);
        } else {
            a->part = QUORUM_PART_ASKED;
        }
    }
    quorum_ask_all(req, quorum_ask_read);
}

/* Ask all children, or first enough of them, and believe those that agree. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_vote(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    bool defer = req->s->opts.read_pattern == QUORUM_READ_PATTERN_THRESHOLD;
    g_autofree bool *reported = NULL;
    QuorumAnswer *answer = NULL;
    bool failed;

    if (quorum_sync_is_degraded(req->s->sync) &&
        (!quorum_request_leave_out_stale(req) ||
         quorum_has_stale_repairable(bs, offset, bytes))) {
        quorum_request_free(req);
        return quorum_locked_read(bs, offset, bytes, qiov, flags, NULL,
                                  "stale child");
    }
    if (defer) {
        quorum_defer_children(req);
    }
    /*
     * The first child reads into the caller's vector.  Should that overlap
     * itself or be scribbled on by the guest, the answers differ and the locked
     * read decides from private buffers.
     */
    if (!quorum_request_alloc(req)) {
        trace_quorum_failure(bs->node_name, "read", offset, bytes, -ENOMEM);
        quorum_request_free(req);
        return -ENOMEM;
    }
    quorum_ask_all(req, quorum_ask_read);

    if (defer && quorum_count_good(req) < quorum_count_asked(req)) {
        quorum_ask_deferred(req);
    }

    if (!quorum_sync_is_degraded(req->s->sync) ||
        quorum_leave_out_stale_again(req)) {
        answer = quorum_unanimous(req, &failed);
    }
    if (answer && !quorum_debug_skips_fast_path() &&
        !(failed && quorum_answers_outnumber_rest(req) &&
          quorum_wants_repair(req))) {
        if (answer->buf) {
            /*
             * The child that reads straight into @qiov is not the one we
             * believe (it failed, or has become stale), so @qiov holds garbage:
             * copy the answer.
             */
            qemu_iovec_from_buf(qiov, 0, answer->buf, bytes);
        }
        quorum_request_free(req);
        return 0;
    }

    /* The buffers go back before we wait for the range. */
    reported = quorum_reported_children(req);
    quorum_request_free(req);
    return quorum_locked_read(bs, offset, bytes, qiov, flags, reported,
                              answer ? "repair" : "no agreement");
}

/* --- pattern fifo --- */

static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags);

/*
 * The range is being cut off: wait for the end of that, and read what is left.
 * For the rest, zeroes will do.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo_cut(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    RangeLockRequest range;
    QEMUIOVector part;
    int64_t left;
    int ret = 0;

    quorum_range_lock(bs, &range, offset, bytes);
    left = MIN(MAX(quorum_sync_length(s->sync) - offset, 0), bytes);
    range_lock_co_unlock(&s->range_lock, &range);
    qemu_iovec_memset(qiov, left, 0, bytes - left);
    if (left) {
        qemu_iovec_init_slice(&part, qiov, 0, left);
        ret = quorum_read_fifo(bs, offset, left, &part, flags);
        qemu_iovec_destroy(&part);
    }
    return ret;
}

/*
 * Ask one child after the other until one answers: there is no vote.  All of
 * the range is stale on a child, or none of it.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo_range(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    bool answered = false;
    int ret = 0;

    for (int i = 0; i < req->n && !answered; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && quorum_answer_is_stale(a)) {
            quorum_answer_leave_out(a, QUORUM_PART_STALE);
        }
        if (quorum_answer_counts(a)) {
            quorum_ask_one(a, quorum_ask_read);
            answered = a->ret >= 0 && !quorum_answer_is_stale(a);
        }
    }

    if (answered && quorum_wants_repair(req)) {
        /*
         * The one answer is no ground for a repair, a vote is (promise 6).
         * Whether the repair succeeds does not matter to the guest.
         */
        g_autofree bool *reported = quorum_reported_children(req);

        quorum_request_free(req);
        quorum_repair_range(bs, offset, bytes, reported, "failed child");
        return 0;
    }
    if (!answered && quorum_is_cut_off(req->s, offset + bytes)) {
        quorum_request_free(req);
        return quorum_read_fifo_cut(bs, offset, bytes, qiov, flags);
    }
    if (!answered) {
        ret = quorum_request_fail(req, "read");
    }
    quorum_request_free(req);
    return ret;
}

/*
 * Which children are stale may change within the request: read one range after
 * the other, in each of which a child is stale or not.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t done = 0;
    int ret = 0;

    if (!quorum_sync_is_degraded(s->sync)) {
        return quorum_read_fifo_range(bs, offset, bytes, qiov, flags);
    }
    while (done < bytes && ret == 0) {
        int64_t size = quorum_sync_uniform_range(s->sync, offset + done,
                                                 bytes - done);
        QEMUIOVector part;

        qemu_iovec_init_slice(&part, qiov, done, size);
        ret = quorum_read_fifo_range(bs, offset + done, size, &part, flags);
        qemu_iovec_destroy(&part);
        done += size;
    }
    return ret;
}

/* --- repairing what a read has met --- */

/* Repair the granule at @pos, unless all of it is in the range. */
static void coroutine_fn GRAPH_RDLOCK
quorum_repair_granule(BlockDriverState *bs, int64_t pos, int64_t offset,
                      int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t start = pos;
    int64_t size = 1;

    quorum_sync_widen(s->sync, &start, &size);
    if (start + size > quorum_length(bs)) {
        return;
    }
    if ((start < offset || start + size > offset + bytes) &&
        size <= quorum_request_max_bytes(bs) &&
        quorum_has_stale_repairable(bs, start, size)) {
        quorum_repair_range(bs, start, size, NULL, "stale granule");
    }
}

/*
 * A read that met stale granules repairs them, also where it covers only a part
 * of them.  (The locked read has repaired those that it covers completely.)
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_repair_after_read(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    if (s->opts.read_pattern == QUORUM_READ_PATTERN_FIFO) {
        quorum_repair_range(bs, offset, bytes, NULL, "stale range");
    }
    quorum_repair_granule(bs, offset, offset, bytes);
    quorum_repair_granule(bs, offset + bytes - 1, offset, bytes);
}

/* --- the callback --- */

/* A read that is small enough for the pool. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
            QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int ret;

    if (s->opts.read_pattern == QUORUM_READ_PATTERN_FIFO) {
        ret = quorum_read_fifo(bs, offset, bytes, qiov, flags);
    } else {
        ret = quorum_read_vote(bs, offset, bytes, qiov, flags);
    }
    if (ret == 0 && quorum_sync_is_degraded(s->sync) &&
        quorum_has_stale_repairable(bs, offset, bytes)) {
        quorum_repair_after_read(bs, offset, bytes);
    }
    return ret;
}

int coroutine_fn quorum_co_preadv(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  BdrvRequestFlags flags)
{
    int64_t most = quorum_request_max_bytes(bs);
    int64_t done = 0;
    int ret = 0;

    if (bytes <= most) {
        return bytes ? quorum_read(bs, offset, bytes, qiov, flags) : 0;
    }
    quorum_reached(QUORUM_BRANCH_READ_SPLIT);
    while (done < bytes && ret == 0) {
        int64_t start = offset + done;
        int64_t end = MIN(QEMU_ALIGN_DOWN(start + most, QUORUM_UNIT),
                          offset + bytes);
        QEMUIOVector part;

        qemu_iovec_init_slice(&part, qiov, done, end - start);
        ret = quorum_read(bs, start, end - start, &part, flags);
        qemu_iovec_destroy(&part);
        done = end - offset;
    }
    return ret;
}
