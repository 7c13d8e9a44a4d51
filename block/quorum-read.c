/*
 * Quorum block driver: reading, voting, repairing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read first asks without any lock: when all children that answer agree and
 * are enough, and nobody is to be repaired, that is the end of it.  Only if
 * not, it takes the range (so that no write runs beside it, promise 5), asks
 * again into private buffers and votes unit by unit.
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
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "quorum-io.h"
#include "quorum-vote.h"

/*
 * Repairs look for zeroes in aligned blocks of this size: cut into smaller
 * pieces than the clusters of most images, they would not make it any thinner.
 */
#define QUORUM_ZEROES (64 * KiB)

/* --- asking --- */

/*
 * Get all the memory that @req needs from the pool at once (promise 8), with no
 * range held: who waits for memory holds nothing that others wait for.
 *
 * A request with a vector of the caller's lets the first child read into that;
 * one without gets one buffer more, for the result, as the first one.  Returns
 * false if there is no memory.
 */
static bool coroutine_fn GRAPH_RDLOCK quorum_request_alloc(QuorumRequest *req)
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

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_read(QuorumRequest *req, QuorumAnswer *a)
{
    BdrvRequestFlags flags = req->flags;

    if (!quorum_child_reaches(a->child, req->offset + req->bytes)) {
        return -EIO;
    }
    if (a->buf) {
        /* It is the caller's memory that is registered, not ours. */
        flags &= ~BDRV_REQ_REGISTERED_BUF;
    }
    return bdrv_co_preadv(a->child, req->offset, req->bytes,
                          quorum_answer_qiov(a), flags);
}

/*
 * Whether all children that have answered say the same.  Tells how many have,
 * if so, and whether some have failed.
 */
static bool quorum_answers_agree(QuorumRequest *req, int *good, bool *failed)
{
    QuorumAnswer *first = NULL;

    *good = 0;
    *failed = false;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child) {
            continue;
        }
        if (a->ret < 0) {
            *failed = true;
            continue;
        }
        (*good)++;
        if (!first) {
            first = a;
        } else if (!qemu_iovec_equals(quorum_answer_qiov(first),
                                      quorum_answer_qiov(a))) {
            return false;
        }
    }
    return true;
}

/* --- the locked read --- */

/* The votes on one locked read, unit by unit. */
typedef struct QuorumBallot {
    QuorumRequest *req;
    int units;
    unsigned long *stale;   /* [slot * units + unit]: has no vote there */
    unsigned long *wrong;   /* the same: lost the vote there */
    unsigned long *mend;    /* the same: not the winner, and to be repaired */
    unsigned long *missing; /* [unit]: a child has no answer */
    unsigned long *weak;    /* [unit]: wrong, and nothing to repair it from */
    const uint8_t **data;   /* [slot]: the unit at hand, NULL without answer */
    int *version;           /* [slot]: the unit at hand */
    uint8_t *result;        /* the winners; private */
} QuorumBallot;

/* Where unit @u of a request is: *pos bytes from its start; returns its size */
static size_t quorum_unit(const QuorumRequest *req, int u, int64_t *pos)
{
    int64_t aligned = QEMU_ALIGN_DOWN(req->offset, QUORUM_UNIT);
    int64_t start = MAX(aligned + (int64_t)u * QUORUM_UNIT, req->offset);
    int64_t end = MIN(aligned + (int64_t)(u + 1) * QUORUM_UNIT,
                      req->offset + req->bytes);

    *pos = start - req->offset;
    return end - start;
}

static bool quorum_bit(QuorumBallot *b, unsigned long *bits, int i, int u)
{
    return test_bit((long)i * b->units + u, bits);
}

/*
 * Choose who takes part in the vote, unit by unit; who is stale throughout is
 * not even asked.  The range is held, so nobody's staleness ends meanwhile; but
 * it may begin, so this is done again when they have answered.
 */
static void GRAPH_RDLOCK quorum_ballot_voters(QuorumBallot *b)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;

    quorum_request_recheck(req);
    if (!qatomic_read(&s->stale_slots)) {
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    for (int i = 0; i < req->n; i++) {
        if (!quorum_is_stale(s, i, req->offset, req->bytes)) {
            continue;
        }
        for (int u = 0; u < b->units; u++) {
            int64_t pos;
            size_t size = quorum_unit(req, u, &pos);

            if (quorum_is_stale(s, i, req->offset + pos, size)) {
                set_bit((long)i * b->units + u, b->stale);
            }
        }
        if (quorum_is_all_stale(s, i, req->offset, req->bytes)) {
            req->answers[i].child = NULL;
        }
    }
}

/*
 * A child that could not read the whole request may well be able to read most
 * of its units (promise 7): ask those that may vote on unit @u for that alone.
 * Returns how many more have answered.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_reread_unit(QuorumBallot *b, int u)
{
    QuorumRequest *req = b->req;
    int64_t pos;
    size_t size = quorum_unit(req, u, &pos);
    int answers = 0;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret < 0 && !quorum_bit(b, b->stale, i, u) &&
            quorum_child_reaches(a->child, req->offset + pos + size)) {
            QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, a->buf + pos, size);

            if (bdrv_co_preadv(a->child, req->offset + pos, size, &qiov, 0)
                >= 0) {
                b->data[i] = a->buf + pos;
                answers++;
            }
        }
    }
    quorum_ballot_voters(b);
    for (int i = 0; i < req->n; i++) {
        if (quorum_bit(b, b->stale, i, u)) {
            b->data[i] = NULL;
        }
    }
    return answers;
}

/* Vote on unit @u and note who was wrong.  Returns 0, or -errno: no winner. */
static int coroutine_fn GRAPH_RDLOCK quorum_vote_unit(QuorumBallot *b, int u)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;
    int64_t pos;
    size_t size = quorum_unit(req, u, &pos);
    int voters = 0, answers = 0;
    int winner, members;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        bool votes = a->child && !quorum_bit(b, b->stale, i, u);

        b->data[i] = votes && a->ret >= 0 ? a->buf + pos : NULL;
        voters += votes;
        answers += b->data[i] != NULL;
    }

    quorum_group_data(b->data, req->n, size, b->version);
    winner = quorum_winner(b->version, req->n, s->opts.threshold, &members);
    if (winner < 0 && answers < voters) {
        answers += quorum_reread_unit(b, u);
        quorum_group_data(b->data, req->n, size, b->version);
        winner = quorum_winner(b->version, req->n, s->opts.threshold, &members);
    }
    if (winner < 0) {
        set_bit(u, b->weak);
        return answers < s->opts.threshold ? quorum_request_errno(req) : -EIO;
    }

    memcpy(b->result + pos, b->data[winner], size);
    for (int i = 0; i < req->n; i++) {
        if (!quorum_slot_is_in(&s->slots[i]) || b->version[i] == winner) {
            continue;
        }
        if (b->version[i] != QUORUM_NO_VERSION) {
            set_bit((long)i * b->units + u, b->wrong);
        } else {
            set_bit(u, b->missing);
        }
        /* Promise 6: the winner must outnumber all others together. */
        if (members > voters - members) {
            set_bit((long)i * b->units + u, b->mend);
        } else {
            set_bit(u, b->weak);
        }
    }
    return 0;
}

/*
 * Whether the child in slot @i may be written to for a repair.  Not without the
 * permission: the image is inactive, or the child read-only.
 */
static bool GRAPH_RDLOCK quorum_may_repair(BlockDriverState *bs, int i)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumSlot *slot = &s->slots[i];

    return quorum_slot_is_in(slot) && (slot->child->perm & BLK_PERM_WRITE) &&
           !(bs->open_flags & BDRV_O_INACTIVE);
}

/*
 * The winners from @pos on, up to @end at most, in a block of QUORUM_ZEROES:
 * *@past is where it ends.  Returns whether they are zeroes.
 */
static bool quorum_next_piece(QuorumBallot *b, int64_t pos, int64_t end,
                              int64_t *past)
{
    int64_t offset = b->req->offset;

    *past = MIN(ROUND_UP(offset + pos + 1, QUORUM_ZEROES) - offset, end);
    return buffer_is_zero(b->result + pos, *past - pos);
}

/* Whether it is known that the range of @child has nothing but zeroes. */
static bool coroutine_fn GRAPH_RDLOCK
quorum_child_has_zeroes(BdrvChild *child, int64_t offset, int64_t bytes)
{
    int64_t pnum = 0;
    int ret = bdrv_co_block_status_above(child->bs, NULL, offset, bytes, &pnum,
                                         NULL, NULL);

    return ret >= 0 && (ret & BDRV_BLOCK_ZERO) && pnum == bytes;
}

/*
 * Write the winners over [@pos, @end) of @child.  Zeroes are written as such,
 * and not where a stale child has them anyway, so that it stays thin.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_repair_write(QuorumBallot *b, BdrvChild *child, int64_t pos, int64_t end,
                    bool stale)
{
    int ret = 0;

    while (pos < end && ret >= 0) {
        int64_t offset = b->req->offset + pos;
        int64_t past, next;
        bool zeroes = quorum_next_piece(b, pos, end, &past);

        while (past < end && quorum_next_piece(b, past, end, &next) == zeroes) {
            past = next;
        }
        if (!zeroes) {
            QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, b->result + pos,
                                                    past - pos);

            ret = bdrv_co_pwritev(child, offset, past - pos, &qiov, 0);
        } else if (!stale ||
                   !quorum_child_has_zeroes(child, offset, past - pos)) {
            ret = bdrv_co_pwrite_zeroes(child, offset, past - pos,
                                        BDRV_REQ_MAY_UNMAP);
        }
        pos = past;
    }
    return ret;
}

/* Repair [@pos, @pos + @size) of slot @i, which is all stale there or not. */
static int coroutine_fn GRAPH_RDLOCK
quorum_repair_run(QuorumBallot *b, int i, int64_t pos, int64_t size, bool stale)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;
    QuorumSlot *slot = &s->slots[i];
    int64_t offset = req->offset + pos;
    int ret;

    /* The permission may go while we wait for a write. */
    if (!quorum_may_repair(req->bs, i) ||
        !quorum_child_reaches(slot->child, offset + size)) {
        return -EPERM;
    }
    ret = quorum_repair_write(b, slot->child, pos, pos + size, stale);
    quorum_note_repair(slot, ret < 0);
    if (ret < 0) {
        quorum_child_failed(req, i, QUORUM_OP_TYPE_WRITE, ret);
        return ret;
    }
    quorum_repair_settle(s, &req->write, i, offset, size);
    stat64_add(&slot->counters.repaired_bytes, size);
    return 0;
}

/*
 * Write the winners over what the child in slot @i holds.  The range is held,
 * and the data are private (promise 6).  What is left to be mended stays in
 * @b->mend.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_repair(QuorumBallot *b, int i)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;
    unsigned long base = (unsigned long)i * b->units;
    unsigned long end = base + b->units;
    unsigned long first = base, past;

    for (; (first = find_next_bit(b->mend, end, first)) < end; first = past) {
        bool stale = test_bit(first, b->stale);
        int64_t pos, last_pos, size;
        int ret;

        /* A run of units that are all stale, or all not. */
        past = find_next_zero_bit(b->mend, end, first);
        past = MIN(past, stale ? find_next_zero_bit(b->stale, end, first)
                               : find_next_bit(b->stale, end, first));
        quorum_unit(req, first - base, &pos);
        size = quorum_unit(req, past - 1 - base, &last_pos);
        size += last_pos - pos;

        /*
         * A child that can't read can't fill up a write to its own blocks
         * either: garbage would become valid data.  So it gets whole units.
         * And only what covers a whole granule ends being stale.
         */
        if (stale || req->answers[i].ret < 0) {
            int64_t start = req->offset + pos;
            int64_t stop = start + size;

            if (stale) {
                quorum_whole_granules(s, &start, &stop);
            } else {
                start = ROUND_UP(start, QUORUM_UNIT);
                if (stop < req->bs->total_sectors << BDRV_SECTOR_BITS) {
                    stop = QEMU_ALIGN_DOWN(stop, QUORUM_UNIT);
                }
            }
            pos = start - req->offset;
            size = stop - start;
        }
        if (size <= 0) {
            continue;
        }
        ret = quorum_repair_run(b, i, pos, size, stale);
        if (ret < 0) {
            /* It will not take more; what is left of it stays as it is. */
            return ret;
        }
        pos += req->offset % QUORUM_UNIT;
        bitmap_clear(b->mend, base + pos / QUORUM_UNIT,
                     DIV_ROUND_UP(pos + size, QUORUM_UNIT) - pos / QUORUM_UNIT);
    }
    return 0;
}

/* Repair all children; returns the error of the first one that failed. */
static int coroutine_fn GRAPH_RDLOCK quorum_repair_all(QuorumBallot *b)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;
    long bits = (long)req->n * b->units;
    int ret = 0;

    if (find_first_bit(b->mend, bits) == bits) {
        return 0;
    }
    quorum_write_begin(s, &req->write, req->offset, req->bytes, req->failed);
    for (int i = 0; i < req->n; i++) {
        int child_ret = quorum_repair(b, i);

        ret = ret < 0 ? ret : child_ret;
    }
    quorum_write_end(s, &req->write);
    return ret;
}

/*
 * Tell req->scrub what has been found.  Returns false if there is something
 * that should have been repaired, and is not.
 */
static bool quorum_count_units(QuorumBallot *b)
{
    QuorumRequest *req = b->req;
    QuorumScrub *scrub = req->scrub;

    for (int u = 0; u < b->units; u++) {
        bool missing = test_bit(u, b->missing);
        bool left = test_bit(u, b->weak);
        bool wrong = false;
        QuorumFigures *figures;
        int64_t pos;
        size_t size = quorum_unit(req, u, &pos);

        for (int i = 0; i < req->n; i++) {
            wrong |= quorum_bit(b, b->wrong, i, u);
            left |= scrub->repair && quorum_bit(b, b->mend, i, u);
        }
        if (!missing && !wrong && !left) {
            continue;
        }
        figures = scrub->repair && !left ? &scrub->mended : &scrub->left;
        figures->mismatched += wrong ? size : 0;
        figures->missing += missing ? size : 0;
        figures->repaired += scrub->repair && !left ? size : 0;
        figures->unrepairable += left ? size : 0;
    }
    return !scrub->repair || !scrub->left.unrepairable;
}

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

    if (!s->opts.rewrite_corrupted || !qatomic_read(&s->stale_slots)) {
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

/* In blkverify mode a difference ends QEMU: there is nobody to believe. */
static void quorum_blkverify(QuorumRequest *req)
{
    QuorumAnswer *one = &req->answers[0];
    QuorumAnswer *other = &req->answers[1];
    ssize_t pos;

    assert(req->n == 2);
    if (quorum_count_good(req) < 2) {
        return;
    }
    pos = qemu_iovec_compare(&one->qiov, &other->qiov);
    if (pos >= 0) {
        fprintf(stderr, "quorum: offset=%" PRId64 " bytes=%" PRId64
                " contents mismatch at offset %" PRId64 "\n",
                req->offset, req->bytes, req->offset + pos);
        exit(1);
    }
}

/* Report and count those that were outvoted, and not reported in @errors. */
static void GRAPH_RDLOCK quorum_report_wrong(QuorumBallot *b,
                                             const int64_t *errors)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        unsigned long base = (unsigned long)i * b->units;
        unsigned long end = base + b->units;

        if (a->child && a->ret >= 0 && !(errors && errors[i] < 0) &&
            find_next_bit(b->wrong, end, base) < end) {
            stat64_add(&s->slots[i].counters.mismatches, 1);
            quorum_request_report_bad(req, i, QUORUM_OP_TYPE_READ, NULL);
        }
    }
}

/*
 * Vote with the range held; @errors[slot] is what children have failed with in
 * this request before, or NULL.  Reports dissenters and failures, repairs if
 * asked to, and fills @qiov with the winners; if it is NULL, the guest has its
 * answer, and a unit without a winner is a failure only to a scrub.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_vote_locked(QuorumRequest *req, QEMUIOVector *qiov,
                   const int64_t *errors)
{
    BDRVQuorumState *s = req->bs->opaque;
    QuorumScrub *scrub = req->scrub;
    int units = (QEMU_ALIGN_UP(req->offset + req->bytes, QUORUM_UNIT) -
                 QEMU_ALIGN_DOWN(req->offset, QUORUM_UNIT)) / QUORUM_UNIT;
    g_autofree unsigned long *stale = bitmap_new((long)req->n * units);
    g_autofree unsigned long *wrong = bitmap_new((long)req->n * units);
    g_autofree unsigned long *mend = bitmap_new((long)req->n * units);
    g_autofree unsigned long *missing = bitmap_new(units);
    g_autofree unsigned long *weak = bitmap_new(units);
    g_autofree const uint8_t **data = g_new(const uint8_t *, req->n);
    g_autofree int *version = g_new(int, req->n);
    QuorumBallot ballot = {
        .req = req,
        .units = units,
        .stale = stale,
        .wrong = wrong,
        .mend = mend,
        .missing = missing,
        .weak = weak,
        .data = data,
        .version = version,
    };
    RangeLockRequest range;
    int repair_ret = 0;
    int ret = 0;

    if (!quorum_request_alloc(req)) {
        quorum_report_errors(req, QUORUM_OP_TYPE_READ, errors);
        if (scrub) {
            scrub->left.unrepairable = req->bytes;
        }
        return -ENOMEM;
    }

    ballot.result = req->bufs[0];

    range_lock_co_lock(&s->range_lock, &range, req->offset, req->bytes);

    quorum_ballot_voters(&ballot);
    quorum_ask_all(req, quorum_ask_read);
    quorum_ballot_voters(&ballot);
    if (s->opts.blkverify) {
        quorum_blkverify(req);
    }
    for (int u = 0; u < units; u++) {
        int unit_ret = quorum_vote_unit(&ballot, u);

        if (unit_ret < 0 && (qiov || scrub)) {
            ret = ret ?: unit_ret;
            if (qiov) {
                break;
            }
        }
    }

    quorum_report_errors(req, QUORUM_OP_TYPE_READ, errors);
    if (ret == 0 || scrub) {
        quorum_report_wrong(&ballot, errors);
        if (scrub ? scrub->repair : s->opts.rewrite_corrupted) {
            repair_ret = quorum_repair_all(&ballot);
        }
    }

    range_lock_co_unlock(&s->range_lock, &range);

    if (ret < 0 && !(scrub && scrub->failure_reported)) {
        quorum_report_failure(req);
    }
    if (ret == 0 && qiov) {
        qemu_iovec_from_buf(qiov, 0, ballot.result, req->bytes);
    }
    if (scrub) {
        scrub->failure_reported |= ret < 0;
        scrub->write_failed = repair_ret < 0;
        ret = repair_ret ?: ret;
        if (!quorum_count_units(&ballot)) {
            ret = ret ?: -EIO;
        }
    }
    return ret;
}

/* The same for a request of the guest. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_locked(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags,
                   const int64_t *errors)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, NULL, flags);
    int ret = quorum_vote_locked(req, qiov, errors);

    quorum_request_free(req);
    return ret;
}

int coroutine_fn quorum_co_scrub(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, QuorumScrub *scrub)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, NULL, 0);
    int ret;

    scrub->mended = (QuorumFigures) { 0 };
    scrub->left = (QuorumFigures) { 0 };
    scrub->write_failed = false;
    req->scrub = scrub;
    ret = quorum_vote_locked(req, NULL, NULL);
    quorum_request_free(req);
    return ret;
}

/* --- the read patterns --- */

/*
 * All that have answered agree.  If the one that reads into the caller's vector
 * is not among them, the vector holds anything: fill it from another one.
 */
static void quorum_deliver(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret >= 0) {
            if (a->buf) {
                qemu_iovec_from_buf(req->qiov, 0, a->buf, req->bytes);
            }
            return;
        }
    }
}

/* What the children have failed with; owned by the caller. */
static int64_t *quorum_request_errors(const QuorumRequest *req)
{
    int64_t *errors = g_new0(int64_t, req->n);

    for (int i = 0; i < req->n; i++) {
        errors[i] = req->answers[i].child ? MIN(req->answers[i].ret, 0) : 0;
    }
    return errors;
}

/* Whether the child in slot @i has become stale in the range meanwhile. */
static bool quorum_stale_by_now(const QuorumRequest *req, int i)
{
    BDRVQuorumState *s = req->bs->opaque;

    if (!qatomic_read(&s->stale_slots)) {
        return false;
    }
    QEMU_LOCK_GUARD(&s->lock);
    return quorum_is_stale(s, i, req->offset, req->bytes);
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
    g_autofree int64_t *errors = NULL;
    int good;
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

    if ((!qatomic_read(&s->stale_slots) || quorum_choose_voters(req)) &&
        quorum_answers_agree(req, &good, &failed) &&
        good >= s->opts.threshold &&
        !(failed && quorum_good_outnumber(req) && quorum_wants_repair(req))) {
        if (failed) {
            quorum_report_errors(req, QUORUM_OP_TYPE_READ, NULL);
        }
        quorum_deliver(req);
        quorum_request_free(req);
        return 0;
    }

    /* Give the buffers back before waiting for the range. */
    errors = quorum_request_errors(req);
    quorum_request_free(req);
    return quorum_read_locked(bs, offset, bytes, qiov, flags, errors);
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
    g_autofree int64_t *errors = NULL;
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
         * The one answer is no ground for a repair, a vote is (promise 6).  It
         * also reports; whether it succeeds does not matter to the guest.
         */
        errors = quorum_request_errors(req);
        quorum_read_locked(bs, offset, bytes, NULL, flags, errors);
    } else {
        quorum_report_errors(req, QUORUM_OP_TYPE_READ, NULL);
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
    if (ret == 0 && quorum_met_stale(bs, offset, bytes)) {
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
