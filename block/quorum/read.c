/*
 * Quorum block driver: reading
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read first asks without any lock: when all children that answer agree and
 * are enough, and nobody is to be repaired, that is the end of it.  Only if
 * not, it takes the range (so that no write runs beside it, promise 5), asks
 * again into private buffers and votes unit by unit: read-locked.c.
 *
 * Why it may believe what it sees without a lock: a child that is not stale
 * when the read begins has all that was acknowledged by then.  If all those
 * agree on something else, then a write beside the read has put it there, and
 * the guest can't tell which of them came first.  A difference is where a read
 * learns that there may be such a write; it waits for it under the lock.
 *
 * With or without it, a flush that fails may take back what a child had when
 * the read began.  So who is stale is looked at once more when all have
 * answered (promise 3).
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/lockable.h"
#include "debug.h"
#include "request.h"

/* --- asking --- */

bool coroutine_fn quorum_request_alloc(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;
    bool first = req->qiov != NULL;
    int n = first ? -1 : 1;

    for (int i = 0; i < req->n; i++) {
        n += req->answers[i].child || req->answers[i].spare;
    }
    if (n <= 0) {
        return true;
    }
    if (!buffer_pool_co_get(&s->pool, req->bytes, n, req->bufs)) {
        return false;
    }
    req->n_bufs = n;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (first && a->child) {
            first = false;
        } else if (a->child || a->spare) {
            a->buf = req->bufs[--n];
            qemu_iovec_init_buf(&a->qiov, a->buf, req->bytes);
        }
    }
    return true;
}

/* How much can be read at once: buffers for each child and the result fit. */
int64_t quorum_read_most(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    return buffer_pool_max_size(&s->pool, s->num_slots + 1);
}

/* Where @a reads into: a child without a buffer, into the caller's vector. */
static QEMUIOVector *quorum_answer_qiov(QuorumAnswer *a)
{
    return a->buf ? &a->qiov : a->req->qiov;
}

/* The child can't read: report it, the first time. */
static int64_t GRAPH_RDLOCK quorum_read_failed(QuorumAnswer *a, int ret)
{
    if (!a->reported) {
        a->reported = true;
        quorum_child_failed(a->req, a - a->req->answers, QUORUM_OP_TYPE_READ,
                            ret);
    }
    return ret;
}

int64_t coroutine_fn quorum_ask_read(QuorumRequest *req, QuorumAnswer *a)
{
    BdrvRequestFlags flags = req->flags;
    int ret;

    if (!quorum_child_reaches(a->child, req->offset + req->bytes)) {
        return quorum_read_failed(a, -EIO);
    }
    if (a->buf) {
        /* It is the caller's memory that is registered, not ours. */
        flags &= ~BDRV_REQ_REGISTERED_BUF;
    }
    ret = bdrv_co_preadv(a->child, req->offset, req->bytes,
                         quorum_answer_qiov(a), flags);
    return ret < 0 ? quorum_read_failed(a, ret) : ret;
}

/*
 * If all children that have answered say the same, and no other version could
 * win (promise 2), return one of them: the one that has read into the caller's
 * vector, if that is among them.  Otherwise NULL.  *@failed tells whether any
 * have failed.
 */
static QuorumAnswer *quorum_unanimous(QuorumRequest *req, bool *failed)
{
    BDRVQuorumState *s = req->bs->opaque;
    QuorumAnswer *one = NULL;
    int others = 0;
    int unasked = 0;

    *failed = false;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child) {
            unasked += a->spare;
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
    if (!one || others + 1 < s->opts.threshold || others + 1 <= unasked) {
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
    BDRVQuorumState *s = req->bs->opaque;

    if (!s->opts.rewrite_corrupted) {
        return false;
    }
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret < 0 && quorum_may_repair(req->bs, i) &&
            quorum_child_reaches(a->child, req->offset + req->bytes) &&
            !qatomic_read(&s->slots[i].repair_failed)) {
            return true;
        }
    }
    return false;
}

/* Whether a child that may be repaired is stale in the range. */
static bool GRAPH_RDLOCK quorum_met_stale(BlockDriverState *bs, int64_t offset,
                                          int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    if (!s->opts.rewrite_corrupted) {
        return false;
    }
    QEMU_LOCK_GUARD(&s->lock);
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_may_repair(bs, i) &&
            !qatomic_read(&s->slots[i].repair_failed) &&
            quorum_is_stale(s, i, offset, bytes)) {
            return true;
        }
    }
    return false;
}

/* Whether those that have answered outnumber all others (promise 6). */
static bool quorum_good_outnumber(const QuorumRequest *req)
{
    return quorum_count_good(req) * 2 > quorum_count_asked(req);
}

/* --- the read patterns --- */

/*
 * Let the locked read decide what @req could not, or, without @qiov, repair.
 * Frees @req: its buffers go back before we wait for the range.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_over_again(QuorumRequest *req, QEMUIOVector *qiov)
{
    g_autofree bool *reported = g_new(bool, req->n);
    BlockDriverState *bs = req->bs;
    int64_t offset = req->offset;
    int64_t bytes = req->bytes;
    BdrvRequestFlags flags = req->flags;

    for (int i = 0; i < req->n; i++) {
        reported[i] = req->answers[i].reported;
    }
    quorum_request_free(req);
    return quorum_read_locked(bs, offset, bytes, qiov, flags, reported);
}

/* Whether the child in slot @i has become stale in the range meanwhile. */
static bool quorum_stale_by_now(const QuorumRequest *req, int i)
{
    BDRVQuorumState *s = req->bs->opaque;

    if (!qatomic_read(&s->stale_slots)) {
        return false;
    }
    QEMU_LOCK_GUARD(&s->lock);
    if (!quorum_is_stale(s, i, req->offset, req->bytes)) {
        return false;
    }
    quorum_reached(QUORUM_BRANCH_STALE_MEANWHILE);
    return true;
}

/*
 * Leave out the children that are stale in the range (promise 3).  Returns
 * false if one of them is so in a part of it only, which the locked read can
 * tell apart.
 */
static bool GRAPH_RDLOCK quorum_choose_voters(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;
    bool clear = true;

    QEMU_LOCK_GUARD(&s->lock);
    for (int i = 0; i < req->n; i++) {
        if (quorum_is_stale(s, i, req->offset, req->bytes)) {
            clear &= quorum_is_all_stale(s, i, req->offset, req->bytes);
            req->answers[i].child = NULL;
        }
    }
    return clear;
}

/*
 * Pattern threshold: ask a majority of the voters first, and no fewer than
 * threshold, so that no other version can win if they agree (promise 2).
 * Each read spares the next ones, so that each child carries its share.
 */
static void GRAPH_RDLOCK quorum_choose_spares(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;
    int voters = quorum_count_asked(req);
    int spares = voters - MAX(s->opts.threshold, voters / 2 + 1);
    int start, rank = 0;

    if (spares <= 0) {
        return;
    }
    start = qatomic_fetch_inc(&s->next_spare) % voters;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && (rank++ - start + voters) % voters < spares) {
            a->child = NULL;
            a->spare = true;
        }
    }
}

/* Ask those that have been spared so far. */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_spares(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;

    quorum_reached(QUORUM_BRANCH_DEFERRED_ASKED);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->spare && quorum_slot_is_in(&s->slots[i]) &&
            !quorum_stale_by_now(req, i)) {
            a->child = s->slots[i].child;
        }
    }
    quorum_ask_all(req, quorum_ask_read);
}

/* Ask all children, or first enough of them, and believe those that agree. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_vote(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    QuorumAnswer *answer = NULL;
    bool failed;

    if (qatomic_read(&s->stale_slots) &&
        (!quorum_choose_voters(req) || quorum_met_stale(bs, offset, bytes))) {
        quorum_request_free(req);
        return quorum_read_locked(bs, offset, bytes, qiov, flags, NULL);
    }
    if (s->opts.read_pattern == QUORUM_READ_PATTERN_THRESHOLD) {
        quorum_choose_spares(req);
    }
    /*
     * The first child reads into the caller's vector.  Should that overlap
     * itself or be scribbled on by the guest, the answers differ and the locked
     * read decides from private buffers.
     */
    if (!quorum_request_alloc(req)) {
        quorum_request_free(req);
        return -ENOMEM;
    }
    quorum_ask_all(req, quorum_ask_read);

    if (s->opts.read_pattern == QUORUM_READ_PATTERN_THRESHOLD &&
        quorum_count_good(req) < quorum_count_asked(req)) {
        quorum_ask_spares(req);
    }

    if (!qatomic_read(&s->stale_slots) || quorum_choose_voters(req)) {
        answer = quorum_unanimous(req, &failed);
    }
    if (answer && !quorum_debug.no_fast_path &&
        !(failed && quorum_good_outnumber(req) && quorum_wants_repair(req))) {
        if (answer->buf) {
            /* Not who reads into the caller's vector: that holds anything. */
            qemu_iovec_from_buf(qiov, 0, answer->buf, bytes);
        }
        quorum_request_free(req);
        return 0;
    }
    return quorum_read_over_again(req, qiov);
}

/*
 * Ask one child after the other until one answers: there is no vote.  All of
 * the range is stale on a child, or none of it.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo_run(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    bool answered = false;
    int ret = 0;

    for (int i = 0; i < req->n && !answered; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && quorum_stale_by_now(req, i)) {
            a->child = NULL;
        }
        if (a->child) {
            a->ret = quorum_ask_read(req, a);
            answered = a->ret >= 0 && !quorum_stale_by_now(req, i);
        }
    }

    if (answered && quorum_wants_repair(req)) {
        /*
         * The one answer is no ground for a repair, a vote is (promise 6).
         * Whether it succeeds does not matter to the guest.
         */
        quorum_read_over_again(req, NULL);
        return 0;
    }
    if (!answered) {
        ret = quorum_request_fail(req);
    }
    quorum_request_free(req);
    return ret;
}

/* Who is stale may change on the way: read piece by piece. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t done = 0;
    int ret = 0;

    if (!qatomic_read(&s->stale_slots)) {
        return quorum_read_fifo_run(bs, offset, bytes, qiov, flags);
    }
    while (done < bytes && ret == 0) {
        QEMUIOVector piece;
        int64_t size;

        WITH_QEMU_LOCK_GUARD(&s->lock) {
            size = quorum_stale_run(s, offset + done, bytes - done);
        }
        qemu_iovec_init_slice(&piece, qiov, done, size);
        ret = quorum_read_fifo_run(bs, offset + done, size, &piece, flags);
        qemu_iovec_destroy(&piece);
        done += size;
    }
    return ret;
}

/* Repair the granule at @pos, unless all of it is in the range. */
static void coroutine_fn GRAPH_RDLOCK
quorum_heal_granule(BlockDriverState *bs, int64_t pos, int64_t offset,
                    int64_t bytes)
{
    int64_t start = pos;
    int64_t size = 1;

    quorum_stale_widen(bs->opaque, &start, &size);
    if (start + size > bs->total_sectors << BDRV_SECTOR_BITS) {
        return;
    }
    if ((start < offset || start + size > offset + bytes) &&
        size <= quorum_read_most(bs) && quorum_met_stale(bs, start, size)) {
        quorum_read_locked(bs, start, size, NULL, 0, NULL);
    }
}

/*
 * A read that met stale granules repairs them, also where it covers them in
 * part only.  (Those that it covers, the locked read has repaired.)
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_heal(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    if (s->opts.read_pattern == QUORUM_READ_PATTERN_FIFO) {
        quorum_read_locked(bs, offset, bytes, NULL, 0, NULL);
    }
    quorum_heal_granule(bs, offset, offset, bytes);
    quorum_heal_granule(bs, offset + bytes - 1, offset, bytes);
}

/* A read that is small enough for the pool. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_piece(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int ret;

    if (s->opts.read_pattern == QUORUM_READ_PATTERN_FIFO) {
        ret = quorum_read_fifo(bs, offset, bytes, qiov, flags);
    } else {
        ret = quorum_read_vote(bs, offset, bytes, qiov, flags);
    }
    if (ret == 0 && qatomic_read(&s->stale_slots) &&
        quorum_met_stale(bs, offset, bytes)) {
        quorum_heal(bs, offset, bytes);
    }
    return ret;
}

int coroutine_fn quorum_co_preadv(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  BdrvRequestFlags flags)
{
    int64_t most = quorum_read_most(bs);
    int64_t done = 0;
    int ret = 0;

    if (bytes <= most) {
        return bytes ? quorum_read_piece(bs, offset, bytes, qiov, flags) : 0;
    }
    quorum_reached(QUORUM_BRANCH_READ_IN_PIECES);
    while (done < bytes && ret == 0) {
        int64_t start = offset + done;
        int64_t end = MIN(QEMU_ALIGN_DOWN(start + most, QUORUM_UNIT),
                          offset + bytes);
        QEMUIOVector piece;

        qemu_iovec_init_slice(&piece, qiov, done, end - start);
        ret = quorum_read_piece(bs, start, end - start, &piece, flags);
        qemu_iovec_destroy(&piece);
        done = end - offset;
    }
    return ret;
}
