/*
 * Quorum block driver: one request: fan out, collect, decide, repair
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A request asks its children in parallel (but see fifo) and decides when all
 * of them have answered.  A read first asks without any lock: when all children
 * that answer agree and are enough, and nobody is to be repaired, that is the
 * end of it.  Only if not, it takes the range (so that no write runs beside it,
 * promise 5), asks again into private buffers and votes unit by unit.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "quorum.h"
#include "quorum-vote.h"

typedef struct QuorumRequest QuorumRequest;
typedef struct QuorumAnswer QuorumAnswer;

/* Ask one child, with the graph lock held; returns its number, or -errno. */
typedef int64_t coroutine_fn QuorumAskFn(QuorumRequest *req, QuorumAnswer *a);

/* What one child is asked, and what it says. */
struct QuorumAnswer {
    QuorumRequest *req;
    BdrvChild *child;           /* NULL: not asked */
    int64_t ret;                /* a number, or -errno */
    uint8_t *buf;               /* private, of req->bytes bytes, or NULL */
    QEMUIOVector qiov;          /* of buf */
    int64_t pnum;               /* block status: bytes it is good for */
    Error *err;                 /* resize: what the child says */
};

/*
 * One question to all children.  It belongs to one coroutine; its children's
 * coroutines run in the same AioContext, so that nothing here needs a lock.
 */
struct QuorumRequest {
    BlockDriverState *bs;
    int64_t offset;
    int64_t bytes;
    QEMUIOVector *qiov;         /* the caller's */
    BdrvRequestFlags flags;
    struct {
        int64_t length;
        bool exact;
        PreallocMode prealloc;
    } resize;

    QuorumAskFn *ask;           /* what is being asked */
    Coroutine *co;
    int pending;                /* coroutines that have not ended */
    bool waiting;               /* co sleeps until pending is 0 */

    int n;
    QuorumAnswer answers[];     /* by slot */
};

/* --- asking --- */

static QuorumRequest *GRAPH_RDLOCK
quorum_request_new(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = g_malloc0(sizeof(*req) +
                                   s->num_slots * sizeof(req->answers[0]));

    *req = (QuorumRequest) {
        .bs = bs,
        .offset = offset,
        .bytes = bytes,
        .qiov = qiov,
        .flags = flags,
        .n = s->num_slots,
    };
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        a->req = req;
        a->child = quorum_slot_is_in(&s->slots[i]) ? s->slots[i].child : NULL;
    }
    return req;
}

static void quorum_request_free(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        qemu_vfree(req->answers[i].buf);
        error_free(req->answers[i].err);
    }
    g_free(req);
}

/* Give @a a private buffer of the request's size. */
static bool GRAPH_RDLOCK quorum_answer_alloc(QuorumAnswer *a)
{
    a->buf = qemu_try_blockalign(a->child->bs, a->req->bytes);
    if (!a->buf) {
        return false;
    }
    qemu_iovec_init_buf(&a->qiov, a->buf, a->req->bytes);
    return true;
}

/*
 * This can count as GRAPH_RDLOCK because the asking coroutine holds the lock
 * until this one has ended.  It must not take it again: a writer that has
 * announced itself in between would wait for the asker, the asker for us, and
 * we for the writer.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_entry(void *opaque)
{
    QuorumAnswer *a = opaque;
    QuorumRequest *req = a->req;

    a->ret = req->ask(req, a);

    /*
     * The asking coroutine may still be on its way to the yield: it must not
     * be entered before.  It is the same thread, so this is no race.
     */
    if (--req->pending == 0 && req->waiting) {
        aio_co_wake(req->co);
    }
}

/*
 * Ask all children in parallel and wait for all of them: req->answers[].ret is
 * the outcome.  The last child is asked by this coroutine itself.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_ask_all(QuorumRequest *req, QuorumAskFn *ask)
{
    BDRVQuorumState *s = req->bs->opaque;
    QuorumAnswer *last = NULL;

    req->ask = ask;
    req->co = qemu_coroutine_self();
    assert(req->pending == 0);

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        /* A resize that we waited for may have put a child out. */
        if (a->child && !quorum_slot_is_in(&s->slots[i])) {
            a->child = NULL;
        }
        if (!a->child) {
            continue;
        }
        if (last) {
            req->pending++;
            qemu_coroutine_enter(qemu_coroutine_create(quorum_ask_entry, last));
        }
        last = a;
    }
    if (last) {
        last->ret = ask(req, last);
    }

    if (req->pending) {
        req->waiting = true;
        qemu_coroutine_yield();
        req->waiting = false;
        assert(req->pending == 0);
    }
}

/* --- counting and reporting --- */

void quorum_report_bad(QuorumOpType type, int64_t offset, int64_t bytes,
                       BdrvChild *child, const char *error)
{
    int64_t first = offset / BDRV_SECTOR_SIZE;
    int64_t end = DIV_ROUND_UP(offset + bytes, BDRV_SECTOR_SIZE);

    qapi_event_send_quorum_report_bad(type, error, child->bs->node_name,
                                      first, end - first);
}

static void GRAPH_RDLOCK quorum_report_failure(const QuorumRequest *req)
{
    int64_t first = req->offset / BDRV_SECTOR_SIZE;
    int64_t end = DIV_ROUND_UP(req->offset + req->bytes, BDRV_SECTOR_SIZE);

    qapi_event_send_quorum_failure(bdrv_get_device_or_node_name(req->bs),
                                   first, end - first);
}

static Stat64 *quorum_error_counter(QuorumSlot *slot, QuorumOpType type)
{
    switch (type) {
    case QUORUM_OP_TYPE_READ:
        return &slot->counters.read_errors;
    case QUORUM_OP_TYPE_WRITE:
        return &slot->counters.write_errors;
    case QUORUM_OP_TYPE_FLUSH:
        return &slot->counters.flush_errors;
    default:
        g_assert_not_reached();
    }
}

static void quorum_note_write(QuorumSlot *slot, int ret)
{
    if (qatomic_read(&slot->write_failed) != (ret < 0)) {
        qatomic_set(&slot->write_failed, ret < 0);
    }
}

/* The child in slot @i has failed with @ret: count and report it. */
static void GRAPH_RDLOCK quorum_child_failed(const QuorumRequest *req, int i,
                                             QuorumOpType type, int ret)
{
    BDRVQuorumState *s = req->bs->opaque;

    stat64_add(quorum_error_counter(&s->slots[i], type), 1);
    quorum_report_bad(type, req->offset, req->bytes, req->answers[i].child,
                      strerror(-ret));
}

/* How many children have been asked. */
static int quorum_count_asked(const QuorumRequest *req)
{
    int asked = 0;

    for (int i = 0; i < req->n; i++) {
        asked += req->answers[i].child != NULL;
    }
    return asked;
}

/* How many of them have not failed. */
static int quorum_count_good(const QuorumRequest *req)
{
    int good = 0;

    for (int i = 0; i < req->n; i++) {
        good += req->answers[i].child && req->answers[i].ret >= 0;
    }
    return good;
}

static bool quorum_any_failed(const QuorumRequest *req)
{
    return quorum_count_good(req) < quorum_count_asked(req);
}

/* The most common error among the children; all zero where they are well. */
static int quorum_request_errno(const QuorumRequest *req)
{
    g_autofree int64_t *rets = g_new0(int64_t, req->n);

    for (int i = 0; i < req->n; i++) {
        rets[i] = req->answers[i].child ? req->answers[i].ret : 0;
    }
    return quorum_vote_errno(rets, req->n);
}

/*
 * Finish a request that needs no vote on contents: it succeeds if at least
 * threshold children have done it.  Those that have not are reported.
 */
static int GRAPH_RDLOCK quorum_settle(QuorumRequest *req, QuorumOpType type)
{
    BDRVQuorumState *s = req->bs->opaque;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child) {
            continue;
        }
        if (type == QUORUM_OP_TYPE_WRITE) {
            quorum_note_write(&s->slots[i], a->ret);
        }
        if (a->ret < 0) {
            quorum_child_failed(req, i, type, a->ret);
        }
    }
    if (quorum_count_good(req) < s->threshold) {
        quorum_report_failure(req);
        return quorum_request_errno(req);
    }
    return 0;
}

/*
 * Whether @child has all bytes before @end.  One that has become shorter than
 * the others (it missed a growing write, or got an overlay that is) would say
 * zeroes that the core makes up, and must not be written behind its end.
 */
static bool GRAPH_RDLOCK quorum_child_reaches(BdrvChild *child, int64_t end)
{
    return DIV_ROUND_UP(end, BDRV_SECTOR_SIZE) <= child->bs->total_sectors;
}

static bool GRAPH_RDLOCK quorum_child_can_take(const QuorumRequest *req,
                                               BdrvChild *child)
{
    return quorum_child_reaches(child, req->offset + req->bytes) ||
           (child->perm & BLK_PERM_RESIZE);
}

/* --- reading --- */

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

/* Whether all children that have answered say the same. */
static bool quorum_answers_agree(QuorumRequest *req)
{
    QuorumAnswer *first = NULL;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child || a->ret < 0) {
            continue;
        }
        if (!first) {
            first = a;
        } else if (!qemu_iovec_equals(quorum_answer_qiov(first),
                                      quorum_answer_qiov(a))) {
            return false;
        }
    }
    return true;
}

/* The votes on one locked read, unit by unit. */
typedef struct QuorumBallot {
    QuorumRequest *req;
    int units;
    unsigned long *wrong;   /* [slot * units + unit]: lost the vote there */
    unsigned long *mend;    /* the same: not the winner, and may be repaired */
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

/*
 * A child that could not read the whole request may well be able to read most
 * of its units: ask it for the one at @pos alone.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_reread_unit(QuorumBallot *b, int64_t pos, size_t size)
{
    QuorumRequest *req = b->req;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret < 0 &&
            quorum_child_reaches(a->child, req->offset + pos + size)) {
            QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, a->buf + pos, size);

            if (bdrv_co_preadv(a->child, req->offset + pos, size, &qiov, 0)
                >= 0) {
                b->data[i] = a->buf + pos;
            }
        }
    }
}

/* Vote on unit @u and note who was wrong.  Returns 0, or -errno: no winner. */
static int coroutine_fn GRAPH_RDLOCK quorum_vote_unit(QuorumBallot *b, int u)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;
    int64_t pos;
    size_t size = quorum_unit(req, u, &pos);
    bool any_error = quorum_any_failed(req);
    int winner, members;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        b->data[i] = a->child && a->ret >= 0 ? a->buf + pos : NULL;
    }

    quorum_group_data(b->data, req->n, size, b->version);
    winner = quorum_winner(b->version, req->n, s->threshold, &members);
    if (winner < 0 && any_error) {
        quorum_reread_unit(b, pos, size);
        quorum_group_data(b->data, req->n, size, b->version);
        winner = quorum_winner(b->version, req->n, s->threshold, &members);
    }
    if (winner < 0) {
        int answers = 0;

        for (int i = 0; i < req->n; i++) {
            answers += b->data[i] != NULL;
        }
        return answers < s->threshold ? quorum_request_errno(req) : -EIO;
    }

    memcpy(b->result + pos, b->data[winner], size);
    for (int i = 0; i < req->n; i++) {
        if (!req->answers[i].child || b->version[i] == winner) {
            continue;
        }
        if (b->version[i] != QUORUM_NO_VERSION) {
            set_bit((long)i * b->units + u, b->wrong);
        }
        /* Promise 6: the winner must outnumber all others together. */
        if (members > quorum_count_asked(req) - members) {
            set_bit((long)i * b->units + u, b->mend);
        }
    }
    return 0;
}

/*
 * Whether the child in slot @i may be written to for a repair.  Not without the
 * permission: the image is inactive, or the child read-only.
 */
static bool GRAPH_RDLOCK quorum_may_repair(const QuorumRequest *req, int i)
{
    BdrvChild *child = req->answers[i].child;

    return child && (child->perm & BLK_PERM_WRITE) &&
           !(req->bs->open_flags & BDRV_O_INACTIVE);
}

/*
 * Write the winners over what the child in slot @i holds.  The range is held,
 * and the data are private (promise 6).
 */
static void coroutine_fn GRAPH_RDLOCK quorum_repair(QuorumBallot *b, int i)
{
    QuorumRequest *req = b->req;
    BDRVQuorumState *s = req->bs->opaque;
    QuorumAnswer *a = &req->answers[i];
    unsigned long base = (unsigned long)i * b->units;
    unsigned long end = base + b->units;
    unsigned long first = base, past;

    for (; (first = find_next_bit(b->mend, end, first)) < end; first = past) {
        int64_t pos, last_pos;
        int64_t size;
        QEMUIOVector qiov;
        int ret;

        past = find_next_zero_bit(b->mend, end, first);
        quorum_unit(req, first - base, &pos);
        size = quorum_unit(req, past - 1 - base, &last_pos);
        size += last_pos - pos;

        /*
         * A child that can't read can't fill up a write to its own blocks
         * either: garbage would become valid data.  So it gets whole units.
         */
        if (a->ret < 0) {
            int64_t start = ROUND_UP(req->offset + pos, QUORUM_UNIT);
            int64_t stop = QEMU_ALIGN_DOWN(req->offset + pos + size,
                                           QUORUM_UNIT);

            pos = start - req->offset;
            size = stop - start;
            if (size <= 0) {
                continue;
            }
        }

        /* The permission may go while we wait for a write. */
        if (!quorum_may_repair(req, i) ||
            !quorum_child_reaches(a->child, req->offset + pos + size)) {
            return;
        }
        qemu_iovec_init_buf(&qiov, b->result + pos, size);
        ret = bdrv_co_pwritev(a->child, req->offset + pos, size, &qiov, 0);
        quorum_note_write(&s->slots[i], ret);
        if (ret < 0) {
            /* It will not take more; what is left of it stays as it is. */
            quorum_child_failed(req, i, QUORUM_OP_TYPE_WRITE, ret);
            return;
        }
        stat64_add(&s->slots[i].counters.repaired_bytes, size);
    }
}

/*
 * Whether a read in which children have failed should go on to a vote under the
 * lock, for the sake of repairing one of them.
 */
static bool GRAPH_RDLOCK quorum_wants_repair(const QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;

    for (int i = 0; i < req->n && s->rewrite_corrupted; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (a->ret < 0 && quorum_may_repair(req, i) &&
            quorum_child_reaches(a->child, req->offset + req->bytes) &&
            !qatomic_read(&s->slots[i].write_failed)) {
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

/*
 * Vote with the range held; @errors[slot] is what children have failed with in
 * this request before.  Reports dissenters and failures, repairs if asked to,
 * and fills @qiov with the winners; if it is NULL, the guest has its answer,
 * and a vote without a winner is no failure.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_locked(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags,
                   const int64_t *errors)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, NULL, flags);
    int units = (QEMU_ALIGN_UP(offset + bytes, QUORUM_UNIT) -
                 QEMU_ALIGN_DOWN(offset, QUORUM_UNIT)) / QUORUM_UNIT;
    g_autofree unsigned long *wrong = bitmap_new((long)req->n * units);
    g_autofree unsigned long *mend = bitmap_new((long)req->n * units);
    g_autofree const uint8_t **data = g_new(const uint8_t *, req->n);
    g_autofree int *version = g_new(int, req->n);
    QEMU_AUTO_VFREE uint8_t *result = qemu_try_blockalign(bs, bytes);
    QuorumBallot ballot = {
        .req = req,
        .units = units,
        .wrong = wrong,
        .mend = mend,
        .data = data,
        .version = version,
        .result = result,
    };
    RangeLockRequest range;
    bool enough_memory = result != NULL;
    int ret = 0;

    for (int i = 0; i < req->n && enough_memory; i++) {
        if (req->answers[i].child) {
            enough_memory = quorum_answer_alloc(&req->answers[i]);
        }
    }
    if (!enough_memory) {
        for (int i = 0; i < req->n; i++) {
            if (req->answers[i].child && errors[i] < 0) {
                quorum_child_failed(req, i, QUORUM_OP_TYPE_READ, errors[i]);
            }
        }
        quorum_request_free(req);
        return -ENOMEM;
    }

    range_lock_co_lock(&s->range_lock, &range, offset, bytes);

    quorum_ask_all(req, quorum_ask_read);
    if (s->blkverify) {
        quorum_blkverify(req);
    }
    for (int u = 0; u < units && ret == 0; u++) {
        ret = quorum_vote_unit(&ballot, u);
    }

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        unsigned long base = (unsigned long)i * units;

        if (!a->child) {
            continue;
        }
        if (a->ret < 0 || errors[i] < 0) {
            quorum_child_failed(req, i, QUORUM_OP_TYPE_READ,
                                a->ret < 0 ? a->ret : errors[i]);
        } else if (ret == 0 &&
                   find_next_bit(wrong, base + units, base) < base + units) {
            stat64_add(&s->slots[i].counters.mismatches, 1);
            quorum_report_bad(QUORUM_OP_TYPE_READ, offset, bytes, a->child,
                              NULL);
        }
        if (ret == 0 && s->rewrite_corrupted) {
            quorum_repair(&ballot, i);
        }
    }

    range_lock_co_unlock(&s->range_lock, &range);

    if (qiov && ret < 0) {
        quorum_report_failure(req);
    } else if (qiov) {
        qemu_iovec_from_buf(qiov, 0, result, bytes);
    }
    quorum_request_free(req);
    return ret;
}

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

/* Ask all children and believe those that agree. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_vote(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    g_autofree int64_t *errors = NULL;
    bool first = true;

    /*
     * The first child reads into the caller's vector.  Should that vector
     * overlap itself or be scribbled on by the guest, the answers differ and
     * the locked read decides from private buffers.
     */
    for (int i = 0; i < req->n; i++) {
        if (!req->answers[i].child) {
            continue;
        }
        if (!first && !quorum_answer_alloc(&req->answers[i])) {
            quorum_request_free(req);
            return -ENOMEM;
        }
        first = false;
    }

    quorum_ask_all(req, quorum_ask_read);

    if (quorum_count_good(req) >= s->threshold && quorum_answers_agree(req) &&
        !(quorum_good_outnumber(req) && quorum_wants_repair(req))) {
        int ret = quorum_settle(req, QUORUM_OP_TYPE_READ);

        quorum_deliver(req);
        quorum_request_free(req);
        return ret;
    }

    /* Give the buffers back before waiting for the range. */
    errors = quorum_request_errors(req);
    quorum_request_free(req);
    return quorum_read_locked(bs, offset, bytes, qiov, flags, errors);
}

/* Ask one child after the other until one answers: there is no vote. */
static int coroutine_fn GRAPH_RDLOCK
quorum_read_fifo(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, qiov, flags);
    g_autofree int64_t *errors = NULL;
    bool answered = false;
    int ret = 0;

    for (int i = 0; i < req->n && !answered; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child) {
            a->ret = quorum_ask_read(req, a);
            answered = a->ret >= 0;
        }
    }

    errors = quorum_request_errors(req);
    if (answered && quorum_wants_repair(req)) {
        /*
         * The one answer is no ground for a repair, a vote is (promise 6).  It
         * also reports; whether it succeeds does not matter to the guest.
         */
        quorum_read_locked(bs, offset, bytes, NULL, flags, errors);
    } else {
        for (int i = 0; i < req->n; i++) {
            if (errors[i] < 0) {
                quorum_child_failed(req, i, QUORUM_OP_TYPE_READ, errors[i]);
            }
        }
        if (!answered) {
            quorum_report_failure(req);
            ret = quorum_request_errno(req);
        }
    }
    quorum_request_free(req);
    return ret;
}

int coroutine_fn quorum_co_preadv(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;

    if (!bytes) {
        return 0;
    }
    if (s->read_pattern == QUORUM_READ_PATTERN_FIFO) {
        return quorum_read_fifo(bs, offset, bytes, qiov, flags);
    }
    return quorum_read_vote(bs, offset, bytes, qiov, flags);
}

/* --- writing --- */

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write(QuorumRequest *req, QuorumAnswer *a)
{
    if (!quorum_child_can_take(req, a->child)) {
        return -EIO;
    }
    return bdrv_co_pwritev(a->child, req->offset, req->bytes, req->qiov,
                           req->flags);
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_write_zeroes(QuorumRequest *req, QuorumAnswer *a)
{
    if (!quorum_child_can_take(req, a->child)) {
        return -EIO;
    }
    return bdrv_co_pwrite_zeroes(a->child, req->offset, req->bytes,
                                 req->flags);
}

int coroutine_fn quorum_co_pwritev(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, QEMUIOVector *qiov,
                                   BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    RangeLockRequest range;
    int ret;

    if (!bytes) {
        return 0;
    }
    req = quorum_request_new(bs, offset, bytes, qiov, flags);
    range_lock_co_lock(&s->range_lock, &range, offset, bytes);
    quorum_ask_all(req, quorum_ask_write);
    range_lock_co_unlock(&s->range_lock, &range);

    ret = quorum_settle(req, QUORUM_OP_TYPE_WRITE);
    quorum_request_free(req);
    return ret;
}

int coroutine_fn quorum_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    RangeLockRequest range;
    int unable = 0;
    int ret;

    if (!bytes) {
        return 0;
    }
    req = quorum_request_new(bs, offset, bytes, NULL, flags);
    range_lock_co_lock(&s->range_lock, &range, offset, bytes);
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
        range_lock_co_unlock(&s->range_lock, &range);
        quorum_request_free(req);
        return -ENOTSUP;
    }
    if (flags & BDRV_REQ_NO_FALLBACK) {
        req->flags &= ~BDRV_REQ_NO_FALLBACK;
        for (int i = 0; i < req->n; i++) {
            QuorumAnswer *a = &req->answers[i];

            if (a->child && a->ret < 0) {
                a->ret = quorum_ask_write_zeroes(req, a);
            }
        }
    }
    range_lock_co_unlock(&s->range_lock, &range);

    ret = quorum_settle(req, QUORUM_OP_TYPE_WRITE);
    quorum_request_free(req);
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
 * dropped for all of them.  What is not aligned for each child is dropped, too.
 */
int coroutine_fn quorum_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    uint32_t alignment = bs->bl.pwrite_zeroes_alignment;
    int64_t end = QEMU_ALIGN_DOWN(offset + bytes, alignment);
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
    return bdrv_co_truncate(a->child, req->resize.length, req->resize.exact,
                            req->resize.prealloc, req->flags, &a->err);
}

/*
 * Too few children were resized: give those that were their old length back.  A
 * child that can't go back has another length than the others and is out.  One
 * that was cut off, and now has zeroes where the others have data, is out if
 * the others can do without it.  (If not, it stays for the sake of the rest:
 * fewer than threshold children are like that, so their zeroes don't win.)
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_undo_resize(QuorumRequest *req, int64_t old_length)
{
    BDRVQuorumState *s = req->bs->opaque;
    int others = quorum_count_asked(req) - quorum_count_good(req);
    bool cut_off = req->resize.length < old_length;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret >= 0) {
            int ret = bdrv_co_truncate(a->child, old_length, true,
                                       PREALLOC_MODE_OFF, 0, NULL);

            if (ret < 0 || (cut_off && others >= s->threshold)) {
                qatomic_set(&s->slots[i].out, true);
            }
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
    range_lock_co_lock(&s->range_lock, &range, start, INT64_MAX - start);
    quorum_ask_all(req, quorum_ask_truncate);

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret < 0) {
            quorum_child_failed(req, i, QUORUM_OP_TYPE_WRITE, a->ret);
        }
    }
    if (quorum_count_good(req) < s->threshold) {
        ret = quorum_request_errno(req);
        quorum_report_failure(req);
        quorum_tell_error(req, ret, errp);
        quorum_undo_resize(req, old_length);
    } else {
        for (int i = 0; i < req->n; i++) {
            if (req->answers[i].child && req->answers[i].ret < 0) {
                qatomic_set(&s->slots[i].out, true);
            }
        }
    }
    range_lock_co_unlock(&s->range_lock, &range);
    quorum_request_free(req);
    return ret;
}

/* --- the rest --- */

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_flush(QuorumRequest *req, QuorumAnswer *a)
{
    /* To the core, flushing what is not there is a success. */
    if (!bdrv_co_is_inserted(a->child->bs)) {
        return -ENOMEDIUM;
    }
    return bdrv_co_flush(a->child->bs);
}

int coroutine_fn quorum_co_flush(BlockDriverState *bs)
{
    QuorumRequest *req =
        quorum_request_new(bs, 0, bs->total_sectors << BDRV_SECTOR_BITS, NULL,
                           0);
    int ret;

    quorum_ask_all(req, quorum_ask_flush);
    ret = quorum_settle(req, QUORUM_OP_TYPE_FLUSH);
    quorum_request_free(req);
    return ret;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_length(QuorumRequest *req, QuorumAnswer *a)
{
    return bdrv_co_getlength(a->child->bs);
}

int64_t coroutine_fn quorum_co_getlength(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = quorum_request_new(bs, 0, 0, NULL, 0);
    g_autofree int64_t *lengths = g_new(int64_t, req->n);
    g_autofree int *version = g_new(int, req->n);
    int64_t ret;
    int winner;

    quorum_ask_all(req, quorum_ask_length);
    for (int i = 0; i < req->n; i++) {
        lengths[i] = req->answers[i].child ? req->answers[i].ret : -ENOMEDIUM;
    }
    quorum_group_values(lengths, req->n, version);
    winner = quorum_winner(version, req->n, s->threshold, NULL);
    if (winner >= 0) {
        ret = lengths[winner];
    } else if (quorum_count_good(req) < s->threshold) {
        ret = quorum_request_errno(req);
    } else {
        ret = -EIO;
    }
    quorum_request_free(req);
    return ret;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_allocated_file_size(QuorumRequest *req, QuorumAnswer *a)
{
    return bdrv_co_get_allocated_file_size(a->child->bs);
}

int64_t coroutine_fn quorum_co_get_allocated_file_size(BlockDriverState *bs)
{
    QuorumRequest *req = quorum_request_new(bs, 0, 0, NULL, 0);
    int64_t sum = 0;

    quorum_ask_all(req, quorum_ask_allocated_file_size);
    for (int i = 0; i < req->n; i++) {
        if (req->answers[i].child && req->answers[i].ret > 0) {
            sum += req->answers[i].ret;
        }
    }
    if (!quorum_count_good(req)) {
        sum = quorum_request_errno(req);
    }
    quorum_request_free(req);
    return sum;
}

/*
 * Clusters matter to who copies in their size: the largest of any child is one
 * for all of them.
 */
int coroutine_fn quorum_co_get_info(BlockDriverState *bs, BlockDriverInfo *bdi)
{
    BDRVQuorumState *s = bs->opaque;
    int ret = -ENOTSUP;

    for (int i = 0; i < s->num_slots; i++) {
        BlockDriverInfo child_info = { 0 };

        if (quorum_slot_is_in(&s->slots[i]) &&
            bdrv_co_get_info(s->slots[i].child->bs, &child_info) >= 0) {
            bdi->cluster_size = MAX(bdi->cluster_size,
                                    child_info.cluster_size);
            bdi->subcluster_size = MAX(bdi->subcluster_size,
                                       child_info.subcluster_size);
            ret = 0;
        }
    }
    return ret;
}

bool coroutine_fn quorum_co_is_inserted(BlockDriverState *bs)
{
    /*
     * A vote on it would be the wrong place to find out that too few children
     * have a medium: to the core, flushing what is not inserted is a success.
     */
    return true;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_block_status(QuorumRequest *req, QuorumAnswer *a)
{
    int ret = bdrv_co_block_status_above(a->child->bs, NULL, req->offset,
                                         req->bytes, &a->pnum, NULL, NULL);

    /* A child that ends early can't say anything about the rest. */
    return ret >= 0 && a->pnum == 0 ? -EIO : ret;
}

/*
 * Zero only if enough children say so and none says otherwise: who takes zeroes
 * for granted does not read, and so would not vote.
 */
int coroutine_fn quorum_co_block_status(BlockDriverState *bs, bool want_zero,
                                        int64_t offset, int64_t bytes,
                                        int64_t *pnum, int64_t *map,
                                        BlockDriverState **file)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    int64_t data_bytes = 0;         /* some child has data that far */
    int64_t zero_bytes = INT64_MAX; /* all children have zeroes that far */
    int zeroes = 0;

    if (!want_zero) {
        /* All of it is allocated here: there is nothing to ask. */
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }

    req = quorum_request_new(bs, offset, bytes, NULL, 0);
    quorum_ask_all(req, quorum_ask_block_status);

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child || a->ret < 0) {
            continue;
        }
        if (a->ret & BDRV_BLOCK_ZERO) {
            zeroes++;
            zero_bytes = MIN(zero_bytes, a->pnum);
        } else {
            data_bytes = MAX(data_bytes, a->pnum);
        }
    }
    quorum_request_free(req);

    if (data_bytes) {
        *pnum = data_bytes;
        return BDRV_BLOCK_DATA;
    }
    if (zeroes < s->threshold) {
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }
    *pnum = zero_bytes;
    return BDRV_BLOCK_ZERO;
}
