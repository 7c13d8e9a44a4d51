/*
 * Quorum block driver: reading
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read first asks without any lock: when all children that answer agree and
 * are enough, the guest has its answer.  Only if not, the read takes the range
 * (so that no write runs beside it, promise 5), asks again into private buffers
 * and votes unit by unit: read-locked.c.  What is to be repaired is repaired
 * behind the read: repair.c.
 *
 * Why a read may believe what it sees without a lock: a child that is not stale
 * when the read begins has all that was acknowledged by then.  If all such
 * children agree on something else, then a write beside the read has put it
 * there, and the guest can't tell which of the two came first.  A difference is
 * where a read learns that there may be such a write; it waits for the write
 * under the lock.
 *
 * With or without the lock, a child may lose what it had when the read began.
 * So the read looks once more which children are stale or unsure when all have
 * answered (promises 3 and 10).  Without the lock, one may have been repaired
 * meanwhile, so it leaves out all that have lost something since it began.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/memalign.h"
#include "checked.h"
#include "debug.h"
#include "early.h"
#include "late.h"
#include "losses.h"
#include "read.h"
#include "read-locked.h"
#include "repair.h"

/* The answers of a read that asks without a range, put together. */
typedef struct QuorumTally {
    QuorumAnswer *one;          /* a good one */
    int good;
    int unasked;                /* they may hold another version */
    int pending;                /* have not answered */
    bool failed;                /* some have failed */
    bool alike;                 /* all good ones are */
} QuorumTally;

/*
 * Put the answers together.  one is the child that has read into the caller's
 * vector, if that is good.
 */
static QuorumTally quorum_tally(QuorumRequest *req)
{
    QuorumTally t = { 0 };
    int others = 0;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!quorum_answer_counts(a)) {
            t.unasked += a->part == QUORUM_PART_DEFERRED || a->absent;
        } else if (a->in_flight || !a->done) {
            t.pending++;
        } else if (a->ret < 0) {
            t.failed = true;
        } else if (t.one && a->buf) {
            req->others[others++] = a->buf;
        } else {
            if (t.one) {
                req->others[others++] = t.one->buf;
            }
            t.one = a;
        }
    }
    t.good = t.one ? others + 1 : 0;
    t.alike = !others || qemu_iovec_equals_bufs(quorum_answer_qiov(t.one),
                                                req->others, others);
    return t;
}

/*
 * Whether all that have answered say the same, and no other version could win
 * (promise 2): neither if those that were not asked had another one, nor, if
 * @open, those that have not answered.
 */
static bool quorum_tally_wins(const QuorumRequest *req, const QuorumTally *t,
                              bool open)
{
    return t->alike && t->good >= req->s->opts.threshold &&
           t->good > t->unasked + (open ? t->pending : 0);
}

/*
 * A QuorumEnoughFn.  Pattern threshold asks the others if a child fails, and
 * the locked read asks those that are back: they have to show that they answer.
 */
static bool quorum_read_is_enough(QuorumRequest *req)
{
    QuorumTally t = quorum_tally(req);

    assume_graph_lock();    /* the request holds it */
    if (quorum_tally_wins(req, &t, false)) {
        return true;
    }
    if (!t.alike) {
        /* A write may be under way: then the locked read will decide. */
        return quorum_others_answer(req);
    }
    for (int i = 0; i < req->n; i++) {
        if (req->answers[i].part == QUORUM_PART_DEFERRED) {
            return quorum_others_answer(req);
        }
    }
    return quorum_others_are_back(req);
}

/* A QuorumEarlyFn. */
static QuorumEarly quorum_judge_vote(QuorumRequest *req)
{
    QuorumTally t = quorum_tally(req);

    if (quorum_tally_wins(req, &t, true)) {
        return QUORUM_EARLY_ENOUGH;
    }
    return t.alike ? QUORUM_EARLY_WAIT : QUORUM_EARLY_HOPELESS;
}

/* --- what is worth a repair --- */

/*
 * Note which children are stale in the range and should be repaired.  Returns
 * whether there are any.
 */
static bool GRAPH_RDLOCK quorum_find_stale(QuorumFindings *found,
                                           BlockDriverState *bs,
                                           int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree QuorumStaleness *staleness = NULL;
    bool any = false;

    if (!s->opts.rewrite_corrupted) {
        return false;
    }
    if (quorum_sync_granule_bytes(s->sync) > quorum_repair_max_bytes(bs)) {
        return false;           /* a scrub may have enough memory */
    }
    staleness = g_new(QuorumStaleness, s->num_slots);
    quorum_sync_staleness(s->sync, offset, bytes, staleness);
    for (int i = 0; i < s->num_slots; i++) {
        if (staleness[i] && quorum_worth_repair(bs, i)) {
            quorum_find_to_repair(found, s, i, "stale child");
            any = true;
        }
    }
    return any;
}

/* Whether those that have answered outnumber all others (promise 6). */
static bool quorum_answers_outnumber_rest(const QuorumRequest *req)
{
    return quorum_count_good(req) * 2 > quorum_count_asked(req);
}

/* --- patterns quorum and threshold --- */

/* How many children are QuorumAnswer.absent. */
static int quorum_count_absent(const QuorumRequest *req)
{
    int absent = 0;

    for (int i = 0; i < req->n; i++) {
        absent += req->answers[i].absent;
    }
    return absent;
}

/*
 * Leave out the children that are stale in the range or being repaired there.
 * Returns false if the others may not be enough without them.
 */
static bool GRAPH_RDLOCK quorum_leave_out_absent(QuorumRequest *req)
{
    int absent;

    quorum_request_leave_out_stale(req);
    quorum_leave_out_in_repair(req);
    absent = quorum_count_absent(req);
    return !absent || quorum_count_asked(req) >= MAX(req->s->opts.threshold,
                                                     absent + 1);
}

/*
 * quorum_request_leave_out_stale(), when the children have answered: some may
 * have become stale since.
 */
static void GRAPH_RDLOCK quorum_leave_out_stale_again(QuorumRequest *req)
{
    int asked = quorum_count_asked(req);

    quorum_request_leave_out_stale(req);
    if (quorum_count_asked(req) < asked) {
        quorum_reached(QUORUM_BRANCH_STALE_MEANWHILE);
    }
}

/*
 * How many voters to ask, so that no other version can win if they agree
 * (promise 2): a majority, and no fewer than threshold.
 */
static int quorum_count_needed(const QuorumRequest *req)
{
    int all = quorum_count_asked(req) + quorum_count_absent(req);

    return MAX(req->s->opts.threshold, all / 2 + 1);
}

/*
 * Pattern threshold: ask as many as are needed first.  Each read defers the
 * next ones, so that each child carries its share.
 */
static void quorum_defer_children(QuorumRequest *req)
{
    int voters = quorum_count_asked(req);
    int deferred = voters - quorum_count_needed(req);
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

        if (a->part == QUORUM_PART_DEFERRED) {
            a->part = QUORUM_PART_ASKED;
            quorum_answer_leave_out_stale(a);
        }
    }
    quorum_ask_all(req, quorum_ask_read);
}

static bool quorum_defers(const QuorumRequest *req)
{
    return req->s->opts.read_pattern == QUORUM_READ_PATTERN_THRESHOLD;
}

/* Choose which children are asked first, or, with early-reads, not at all. */
static void GRAPH_RDLOCK quorum_choose_asked(QuorumRequest *req)
{
    if (req->early.on) {
        int needed = quorum_count_needed(req);

        quorum_early_choose(req, quorum_defers(req) ? needed : INT_MAX, needed);
    } else if (quorum_defers(req)) {
        quorum_defer_children(req);
    }
}

/* Ask them, and the others if that is not enough. */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_voters(QuorumRequest *req)
{
    bool more;

    req->enough = quorum_read_is_enough;
    if (req->early.on) {
        quorum_ask_early(req, quorum_judge_vote, quorum_defers(req));
        more = req->early.verdict == QUORUM_EARLY_WAIT;
    } else {
        quorum_ask_all(req, quorum_ask_read);
        more = quorum_defers(req);
    }
    if (more && quorum_count_good(req) < quorum_count_asked(req)) {
        quorum_ask_deferred(req);
    }
}

/* Ask all children, or first enough of them, and believe those that agree. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_vote(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags,
                 QuorumFindings *found)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    uint64_t generation = quorum_checked_generation(req);
    QuorumTally t;

    req->measured = QUORUM_LATENCY_READ;
    req->early.on = req->s->opts.early_reads;
    if ((quorum_sync_is_degraded(req->s->sync) ||
         qatomic_read(&req->s->num_repairs)) && !quorum_leave_out_absent(req)) {
        quorum_request_free(req);
        return quorum_locked_read(bs, offset, bytes, 0, qiov, flags, found,
                                  "stale child");
    }
    quorum_choose_asked(req);
    /*
     * The first child reads into the caller's vector.  Should that overlap
     * itself or be scribbled on by the guest, the answers differ and the locked
     * read decides from private buffers.
     */
    quorum_tell_for(req, found, offset, bytes);
    quorum_request_admit(req);
    if (!quorum_request_alloc(req)) {
        trace_quorum_failure(bs->node_name, "read", offset, bytes, -ENOMEM);
        quorum_request_free(req);
        return -ENOMEM;
    }
    quorum_ask_voters(req);

    quorum_notice_losses(bs);
    if (unlikely(bdrv_last_loss_generation() != req->losses)) {
        quorum_request_leave_out_lost(req);
    }
    if (quorum_sync_is_degraded(req->s->sync)) {
        quorum_leave_out_stale_again(req);
    }
    t = quorum_tally(req);
    if (quorum_tally_wins(req, &t, true) && !quorum_debug_skips_fast_path() &&
        quorum_checked_agree(req, t.one, generation)) {
        if (t.one->buf) {
            /*
             * The child that reads straight into @qiov is not the one we
             * believe (it failed, or has become stale), so @qiov holds garbage:
             * copy the answer.
             */
            qemu_iovec_from_buf(qiov, 0, t.one->buf, bytes);
        }
        if (t.failed && quorum_answers_outnumber_rest(req)) {
            quorum_find_failed(found, req);
        }
        if (found->in_order) {
            quorum_tell_errors_in_order(req, offset, bytes);
        }
        quorum_request_leave(req, t.one);
        return 0;
    }

    /*
     * The buffers go back before we wait for the range; or when the last
     * straggler ends, which does not wait for it.
     */
    quorum_find_reported(found, req);
    quorum_request_leave(req, NULL);
    return quorum_locked_read(bs, offset, bytes, 0, qiov, flags, found,
                              "no agreement");
}

/* --- pattern fifo --- */

static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags,
                 QuorumFindings *found);

/*
 * The range is being cut off: wait for the end of that, and read what is left.
 * For the rest, zeroes will do.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo_cut(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QEMUIOVector *qiov, BdrvRequestFlags flags,
                     QuorumFindings *found)
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
        ret = quorum_read_fifo(bs, offset, left, &part, flags, found);
        qemu_iovec_destroy(&part);
    }
    return ret;
}

/* Whether the child of @a has answered with what can be believed. */
static bool GRAPH_RDLOCK quorum_has_answered(const QuorumAnswer *a)
{
    if (!quorum_answer_is_good(a) || !a->done) {
        return false;
    }
    quorum_notice_losses(a->req->bs);
    return !quorum_answer_has_lost(a) && !quorum_answer_is_stale(a);
}

/* Ask one child after the other until one answers. */
static bool coroutine_fn GRAPH_RDLOCK
quorum_ask_in_order(QuorumRequest *req)
{
    bool answered = false;

    for (int i = 0; i < req->n && !answered; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->done) {
            continue;
        }
        quorum_request_leave_out_dropped(req);
        if (quorum_answer_counts(a)) {
            quorum_answer_leave_out_stale(a);
        }
        if (quorum_answer_counts(a)) {
            a->done = true;
            quorum_ask_one(a, quorum_ask_read);
            answered = quorum_has_answered(a);
        }
        if (answered && a->buf) {
            qemu_iovec_from_buf(req->qiov, 0, a->buf, req->bytes);
        }
    }
    return answered;
}

/*
 * A QuorumEarlyFn.  The first good answer remains that, whatever becomes stale
 * before the request goes on.
 */
static QuorumEarly quorum_judge_first(QuorumRequest *req)
{
    assume_graph_lock();    /* the request holds it */
    for (int i = 0; i < req->n && !req->early.winner; i++) {
        if (quorum_has_answered(&req->answers[i])) {
            req->early.winner = &req->answers[i];
        }
    }
    return req->early.winner ? QUORUM_EARLY_ENOUGH : QUORUM_EARLY_WAIT;
}

static void quorum_leave_out_stale_answers(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a)) {
            quorum_answer_leave_out_stale(a);
        }
    }
}

/*
 * Ask the child that should answer first, and others if it is late or fails;
 * or all in order, if there is no memory for that.  Returns whether one has
 * answered.
 */
static bool coroutine_fn GRAPH_RDLOCK
quorum_ask_fastest(QuorumRequest *req)
{
    quorum_leave_out_stale_answers(req);
    quorum_early_choose(req, 1, 1);
    quorum_request_admit(req);
    if (quorum_request_alloc(req)) {
        /* A child may have become stale while the request waited. */
        quorum_leave_out_stale_answers(req);
        quorum_ask_early(req, quorum_judge_first, true);
    }
    if (req->early.winner) {
        qemu_iovec_from_buf(req->qiov, 0, req->early.winner->buf, req->bytes);
        return true;
    }
    /* One that has answered may have become stale: the others may not be. */
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->part == QUORUM_PART_DEFERRED) {
            a->part = QUORUM_PART_ASKED;
        }
    }
    return quorum_ask_in_order(req);
}

/*
 * Ask one child, and others if it fails: there is no vote.  All of the range is
 * stale on a child, or none of it.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo_range(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       QEMUIOVector *qiov, BdrvRequestFlags flags,
                       QuorumFindings *found)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    bool answered;
    int ret = 0;

    req->measured = QUORUM_LATENCY_READ;
    req->early.on = req->s->opts.early_reads && bytes <=
                    quorum_request_max_bytes(bs);
    answered = req->early.on ? quorum_ask_fastest(req)
                             : quorum_ask_in_order(req);
    if (answered) {
        /* The one answer is no ground for a repair, a vote is (promise 6). */
        quorum_find_failed(found, req);
    } else if (quorum_is_cut_off(req->s, offset + bytes)) {
        quorum_request_leave(req, NULL);
        return quorum_read_fifo_cut(bs, offset, bytes, qiov, flags, found);
    } else if (quorum_sync_any_unsure(req->s->sync) ||
               bdrv_last_loss_generation() != req->losses) {
        /* No child can be believed alone, but maybe together. */
        quorum_request_leave(req, NULL);
        return quorum_locked_read(bs, offset, bytes, 0, qiov, flags, found,
                                  "unsure children");
    } else {
        ret = quorum_request_fail(req, "read");
    }
    quorum_request_leave(req, NULL);
    return ret;
}

/*
 * Which children are stale may change within the request: read one range after
 * the other, in each of which a child is stale or not.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags,
                 QuorumFindings *found)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t done = 0;
    int ret = 0;

    if (!quorum_sync_is_degraded(s->sync)) {
        return quorum_read_fifo_range(bs, offset, bytes, qiov, flags, found);
    }
    while (done < bytes && ret == 0) {
        int64_t size = quorum_sync_uniform_range(s->sync, offset + done,
                                                 bytes - done);
        QEMUIOVector part;

        qemu_iovec_init_slice(&part, qiov, done, size);
        ret = quorum_read_fifo_range(bs, offset + done, size, &part, flags,
                                     found);
        qemu_iovec_destroy(&part);
        done += size;
    }
    return ret;
}

/*
 * Children may lack what was acknowledged before the node was opened: vote.
 * The range [*@start, *@start + *@size) has whole granules, so that they are
 * known from then on.  Where that has no winner, or a repair is not to be
 * waited for, vote on what the guest wants.  *@start and *@size tell what was
 * voted on.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_unverified(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       QEMUIOVector *qiov, BdrvRequestFlags flags,
                       QuorumFindings *found, int64_t *start, int64_t *size)
{
    BDRVQuorumState *s = bs->opaque;

    found->in_order = true;
    if (*size > quorum_request_max_bytes(bs)) {
        *start = offset;
        *size = bytes;
    }
    if (!qatomic_read(&s->num_repairs)) {
        int ret;

        found->again = *size > bytes;
        ret = quorum_locked_read(bs, *start, *size, offset - *start, qiov,
                                 flags, found, "unverified");
        found->again = false;
        if (ret == 0 || *size == bytes) {
            return ret;
        }
    }
    *start = offset;
    *size = bytes;
    return quorum_read_vote(bs, offset, bytes, qiov, flags, found);
}

/*
 * A crash may have left each child its own outcome of what was in flight: vote,
 * and choose one.  The range [@start, @start + @size) has whole granules, so
 * that this is done once.  If that fails, it may be for what the guest does not
 * want: choose for the units that it does.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_unresolved(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       QEMUIOVector *qiov, BdrvRequestFlags flags,
                       QuorumFindings *found, int64_t start, int64_t size)
{
    int64_t most = quorum_request_max_bytes(bs);
    int64_t done = 0;
    int ret = 0;

    if (size <= most) {
        int64_t wanted = offset, least = bytes;

        quorum_checked_widen(bs, &wanted, &least);
        found->again = size > least;
        ret = quorum_locked_read(bs, start, size, offset - start, qiov, flags,
                                 found, "unresolved");
        found->again = false;
        return ret == 0 || size == least ? ret :
               quorum_locked_read(bs, wanted, least, offset - wanted, qiov,
                                  flags, found, "unresolved");
    }
    /* One granule may be as much as is read at a time. */
    while (done < bytes && ret == 0) {
        int64_t part;
        QEMUIOVector slice;

        start = offset + done;
        /* It ends with a unit, so that it is not too long when widened. */
        part = QEMU_ALIGN_DOWN(start + MAX(most / 2, QUORUM_UNIT),
                               QUORUM_UNIT) - start;
        part = MIN(bytes - done, part);
        size = part;
        quorum_checked_widen(bs, &start, &size);
        qemu_iovec_init_slice(&slice, qiov, done, part);
        ret = quorum_locked_read(bs, start, size, offset + done - start, &slice,
                                 flags, found, "unresolved");
        qemu_iovec_destroy(&slice);
        done += part;
    }
    return ret;
}

/* --- pattern checked --- */

/* Read from one child if the digests are known, else vote. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_checked(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    QEMUIOVector *qiov, BdrvRequestFlags flags,
                    QuorumFindings *found)
{
    switch (quorum_checked_read(bs, offset, bytes, qiov, flags, found)) {
    case QUORUM_CHECKED_RIGHT:
        return 0;
    case QUORUM_CHECKED_WRONG:
        return quorum_locked_read(bs, offset, bytes, 0, qiov, flags, found,
                                  "wrong digest");
    case QUORUM_CHECKED_UNKNOWN:
        return quorum_read_vote(bs, offset, bytes, qiov, flags, found);
    default:
        g_assert_not_reached();
    }
}

/*
 * The same for a range that does not begin and end with a unit: read all of the
 * units that it touches.  Else it would be voted on each time, and a vote on a
 * part of a unit can't ask its digest which child is right.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_checked_units(BlockDriverState *bs, int64_t offset, int64_t bytes,
                          QEMUIOVector *qiov, BdrvRequestFlags flags,
                          QuorumFindings *found)
{
    int64_t start = offset, size = bytes, end;
    QEMUIOVector units;
    uint8_t *head, *tail;
    int ret;

    quorum_checked_widen(bs, &start, &size);
    if (size == bytes || size > quorum_request_max_bytes(bs)) {
        return quorum_read_checked(bs, offset, bytes, qiov, flags, found);
    }
    if (qiov->niov > IOV_MAX - 2) {
        /* A child can't read into a vector of more than that. */
        return quorum_locked_read(bs, start, size, offset - start, qiov, flags,
                                  found, "long vector");
    }
    end = start + size;
    head = qemu_blockalign(bs, 2 * QUORUM_UNIT);
    tail = head + QUORUM_UNIT;
    qemu_iovec_init(&units, qiov->niov + 2);
    if (start < offset) {
        qemu_iovec_add(&units, head, offset - start);
    }
    qemu_iovec_concat(&units, qiov, 0, bytes);
    if (end > offset + bytes) {
        qemu_iovec_add(&units, tail, end - (offset + bytes));
    }
    ret = quorum_read_checked(bs, start, size, &units,
                              flags & ~BDRV_REQ_REGISTERED_BUF, found);
    qemu_iovec_destroy(&units);
    qemu_vfree(head);
    return ret;
}

/* --- the callback --- */

/*
 * A read has its answer: repair what it has @found behind it, and the granules
 * that are stale, also those of which it covers only a part.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_repair_after_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                         QuorumFindings *found)
{
    BDRVQuorumState *s = bs->opaque;

    if (quorum_sync_is_degraded(s->sync) &&
        quorum_find_stale(found, bs, offset, bytes)) {
        quorum_sync_widen(s->sync, &offset, &bytes);
    }
    if (found->to_repair) {
        quorum_repair_behind(bs, offset, bytes, found);
    }
}

/* A read that is small enough for the pool. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
            QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumFindings found = { 0 };
    int64_t start = offset, size = bytes;
    int ret;

    if (quorum_sync_widen_unresolved(s->sync, &start, &size)) {
        ret = quorum_read_unresolved(bs, offset, bytes, qiov, flags, &found,
                                     start, size);
        start = offset;
        size = bytes;
    } else if (unlikely(s->digests)) {
        ret = quorum_read_checked_units(bs, offset, bytes, qiov, flags, &found);
    } else if (s->opts.read_pattern != QUORUM_READ_PATTERN_FIFO) {
        ret = quorum_read_vote(bs, offset, bytes, qiov, flags, &found);
    } else if (quorum_sync_widen_unverified(s->sync, &start, &size)) {
        ret = quorum_read_unverified(bs, offset, bytes, qiov, flags, &found,
                                     &start, &size);
    } else {
        ret = quorum_read_fifo(bs, offset, bytes, qiov, flags, &found);
    }
    if (ret == 0) {
        quorum_repair_after_read(bs, start, size, &found);
    }
    quorum_findings_clear(&found);
    return ret;
}

int coroutine_fn quorum_co_preadv(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  BdrvRequestFlags flags)
{
    int64_t most = quorum_checked_max_bytes(bs, offset, bytes);
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
