/*
 * Quorum block driver: the locked read: voting unit by unit, and repairing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read that could not decide without its range, and each chunk of a scrub,
 * takes the range, reads into private buffers and votes on each unit by itself.
 * Repairs happen under the same hold, from the same buffers (promise 6).
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "debug.h"
#include "request.h"
#include "vote.h"

/*
 * Repairs look for zeroes in aligned blocks of this size: cut into smaller
 * pieces than the clusters of most images, they would not make it any thinner.
 */
#define QUORUM_ZEROES (64 * KiB)

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
        quorum_reached(QUORUM_BRANCH_UNIT_READ_AGAIN);
        answers += quorum_reread_unit(b, u);
        quorum_group_data(b->data, req->n, size, b->version);
        winner = quorum_winner(b->version, req->n, s->opts.threshold, &members);
    }
    if (winner < 0) {
        if (answers >= s->opts.threshold) {
            quorum_reached(QUORUM_BRANCH_TIE);
        }
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
            quorum_reached(QUORUM_BRANCH_REPAIR_TOO_WEAK);
            set_bit(u, b->weak);
        }
    }
    return 0;
}

bool quorum_may_repair(BlockDriverState *bs, int i)
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
    if (!quorum_repair_settle(s, &req->write, i, offset, size)) {
        quorum_reached(QUORUM_BRANCH_REPAIR_LOST);
        return -EIO;    /* a flush has failed on it meanwhile */
    }
    quorum_reached(QUORUM_BRANCH_REPAIR);
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
    quorum_write_begin(s, &req->write, req->offset, req->bytes, false,
                       req->failed);
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

/* Report and count those that were outvoted, and have not been reported. */
static void GRAPH_RDLOCK quorum_report_wrong(QuorumBallot *b)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        unsigned long base = (unsigned long)i * b->units;
        unsigned long end = base + b->units;

        if (a->child && !a->reported &&
            find_next_bit(b->wrong, end, base) < end) {
            stat64_add(&s->slots[i].counters.mismatches, 1);
            quorum_request_report_bad(req, i, QUORUM_OP_TYPE_READ, NULL);
        }
    }
}

/*
 * Vote with the range held.  Reports dissenters and failures, repairs if asked
 * to, and fills @qiov with the winners; if it is NULL, the guest has its
 * answer, and a unit without a winner is a failure only to a scrub.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_vote_locked(QuorumRequest *req, QEMUIOVector *qiov)
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

    if (ret == 0 || scrub) {
        quorum_report_wrong(&ballot);
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

int coroutine_fn quorum_read_locked(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, QEMUIOVector *qiov,
                                    BdrvRequestFlags flags,
                                    const bool *reported)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, NULL, flags);
    int ret;

    quorum_reached(QUORUM_BRANCH_LOCKED_READ);
    for (int i = 0; i < req->n; i++) {
        req->answers[i].reported = reported && reported[i];
    }
    ret = quorum_vote_locked(req, qiov);
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
    ret = quorum_vote_locked(req, NULL);
    quorum_request_free(req);
    return ret;
}
