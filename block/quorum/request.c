/*
 * Quorum block driver: one request: fan out, collect, count, report
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A request asks its children in parallel (but see fifo), decides when all of
 * them have answered, and then reports those that failed.  Only reads report at
 * once: nothing is to be settled first.  They are in read.c and
 * read-locked.c, what changes the children in write.c, and what asks
 * them about themselves is here.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/lockable.h"
#include "request.h"
#include "vote.h"

/* --- asking --- */

QuorumRequest *quorum_request_new(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int n = s->num_slots;
    size_t size = sizeof(QuorumRequest) + n * sizeof(QuorumAnswer) +
                  (n + 1 + n) * sizeof(void *) + n * sizeof(bool);
    QuorumRequest *req = g_malloc(size);

    /* glibc's calloc() takes four times as long. */
    memset(req, 0, size);
    req->bs = bs;
    req->offset = offset;
    req->bytes = bytes;
    req->qiov = qiov;
    req->flags = flags;
    req->bufs = (void **)&req->answers[n];
    req->others = req->bufs + n + 1;
    req->failed = (bool *)&req->others[n];
    req->n = n;
    for (int i = 0; i < n; i++) {
        QuorumSlot *slot = &s->slots[i];

        req->answers[i].req = req;
        req->answers[i].child = quorum_slot_is_in(slot) ? slot->child : NULL;
    }
    return req;
}

void quorum_request_recheck(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;

    /* Who goes out is stale throughout. */
    if (!qatomic_read(&s->stale_slots)) {
        return;
    }
    for (int i = 0; i < req->n; i++) {
        if (qatomic_read(&s->slots[i].out)) {
            req->answers[i].child = NULL;
        }
    }
}

void coroutine_fn quorum_request_free(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;

    if (req->n_bufs) {
        buffer_pool_put(&s->pool, req->bytes, req->n_bufs, req->bufs);
    }
    g_free(req);
}

void quorum_request_everybody(QuorumRequest *req)
{
    BDRVQuorumState *s = req->bs->opaque;

    for (int i = 0; i < req->n; i++) {
        req->answers[i].child = s->slots[i].child;
    }
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
    if (--req->pending == 0 && req->co) {
        aio_co_wake(req->co);
    }
}

void coroutine_fn quorum_ask_all(QuorumRequest *req, QuorumAskFn *ask)
{
    QuorumAnswer *last = NULL;

    req->ask = ask;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!a->child || a->done) {
            continue;
        }
        if (last) {
            req->pending++;
            qemu_coroutine_enter(qemu_coroutine_create(quorum_ask_entry, last));
        }
        last = a;
        a->done = true;
    }
    if (last) {
        /* The last child is asked by this coroutine itself. */
        last->ret = ask(req, last);
    }

    if (req->pending) {
        req->co = qemu_coroutine_self();
        qemu_coroutine_yield();
        req->co = NULL;
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

void quorum_report_failure(const QuorumRequest *req)
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

void quorum_request_report_bad(const QuorumRequest *req, int i,
                               QuorumOpType type, const char *error)
{
    BDRVQuorumState *s = req->bs->opaque;
    QuorumSlot *slot = &s->slots[i];

    if (req->scrub) {
        if (slot->scrub_reported & BIT(type)) {
            return;
        }
        slot->scrub_reported |= BIT(type);
    }
    quorum_report_bad(type, req->offset, req->bytes, slot->child, error);
}

void quorum_child_failed(const QuorumRequest *req, int i, QuorumOpType type,
                         int ret)
{
    BDRVQuorumState *s = req->bs->opaque;

    stat64_add(quorum_error_counter(&s->slots[i], type), 1);
    quorum_request_report_bad(req, i, type, strerror(-ret));
}

int quorum_count_asked(const QuorumRequest *req)
{
    int asked = 0;

    for (int i = 0; i < req->n; i++) {
        asked += req->answers[i].child != NULL;
    }
    return asked;
}

int quorum_count_good(const QuorumRequest *req)
{
    int good = 0;

    for (int i = 0; i < req->n; i++) {
        good += req->answers[i].child && req->answers[i].ret >= 0;
    }
    return good;
}

int quorum_request_errno(const QuorumRequest *req)
{
    g_autofree int64_t *rets = g_new0(int64_t, req->n);

    for (int i = 0; i < req->n; i++) {
        rets[i] = req->answers[i].child ? req->answers[i].ret : 0;
    }
    return quorum_vote_errno(rets, req->n);
}

int quorum_request_fail(const QuorumRequest *req)
{
    quorum_report_failure(req);
    return quorum_request_errno(req);
}

void quorum_report_errors(const QuorumRequest *req, QuorumOpType type)
{
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (a->child && a->ret < 0) {
            quorum_child_failed(req, i, type, a->ret);
        }
    }
}

/* --- what the children say about themselves --- */

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
    winner = quorum_winner(version, req->n, s->opts.threshold, NULL);
    if (winner >= 0) {
        ret = lengths[winner];
    } else if (quorum_count_good(req) < s->opts.threshold) {
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
     * And one child without a medium is no disk without one (promise 7).
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
 * Zero only if enough voters say so and none says otherwise: who takes zeroes
 * for granted does not read, and so would not vote (promise 2).
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
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        /* As far as those that are stale now are, and no others. */
        bytes = quorum_stale_run(s, offset, bytes);
        for (int i = 0; i < req->n; i++) {
            if (quorum_is_stale(s, i, offset, bytes)) {
                req->answers[i].child = NULL;
            }
        }
    }
    req->bytes = bytes;
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
    if (zeroes < s->opts.threshold) {
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }
    *pnum = zero_bytes;
    return BDRV_BLOCK_ZERO;
}
