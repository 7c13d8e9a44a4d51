/*
 * Quorum block driver: flushing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A flush takes no range: what it must cover is what the QuorumSync knows to be
 * unflushed.  It holds flush_lock alone, so that there is one at a time.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/timer.h"
#include "debug.h"
#include "late.h"
#include "losses.h"
#include "state.h"
#include "write.h"

/* How often a flush votes: a server may be lost again meanwhile. */
#define QUORUM_FLUSH_VOTES 3

int64_t coroutine_fn quorum_ask_flush(QuorumRequest *req, QuorumAnswer *a)
{
    /* To the core, flushing what is not there is a success (promise 1). */
    int ret = bdrv_co_is_inserted(a->child->bs) ? bdrv_co_flush(a->child->bs)
                                                : -ENOMEDIUM;

    if (ret < 0) {
        quorum_flush_failed(a);
    }
    return ret;
}

static void quorum_flush_collect_missed(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        req->missed[i] = !quorum_answer_is_good(&req->answers[i]);
    }
}

/* A QuorumEnoughFn.  Those that are back will be asked when others are done. */
static bool quorum_flush_is_enough(QuorumRequest *req)
{
    quorum_flush_collect_missed(req);
    for (int i = 0; i < req->n; i++) {
        req->missed[i] &= !quorum_answer_is_back(&req->answers[i]);
    }
    return quorum_sync_would_flush(req->s->sync, req->missed,
                                   req->s->opts.threshold);
}

/*
 * Flush all children, after @votes on what some of them are unsure of.  The
 * guest hears of a failure, which is in *@ret then, if @heard; but if children
 * are unsure, only if there will be no more votes.
 */
static QuorumFlushOutcome coroutine_fn GRAPH_RDLOCK
quorum_flush_once(BlockDriverState *bs, bool heard, int votes, int *ret)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req = quorum_request_new(bs, 0, 0, NULL, 0);
    bool last = votes == QUORUM_FLUSH_VOTES;
    QuorumFlushOutcome outcome;

    quorum_request_admit(req);
    qemu_co_rwlock_wrlock(&s->flush_lock);
    req->bytes = quorum_length(bs);
    if (quorum_sync_is_degraded(s->sync)) {
        quorum_request_leave_out_unasked(req);
    }
    quorum_sync_flush_begin(s->sync);
    req->enough = quorum_flush_is_enough;
    quorum_ask_all(req, quorum_ask_flush);
    if (quorum_sync_is_degraded(s->sync) && quorum_request_take_back(req)) {
        quorum_ask_all(req, quorum_ask_flush);
    }
    quorum_notice_losses(bs);
    quorum_late_notice(bs);
    quorum_flush_collect_missed(req);
    outcome = quorum_sync_flush_settle(s->sync, req->missed, s->opts.threshold,
                                       heard, !votes, last);
    quorum_trace_missed(req, outcome == QUORUM_FLUSH_DONE ? "flush"
                                                          : "failed flush");
    qemu_co_rwlock_unlock(&s->flush_lock);
    quorum_report_errors(req, QUORUM_OP_TYPE_FLUSH);
    *ret = 0;
    if (outcome == QUORUM_FLUSH_FAILED ||
        (outcome == QUORUM_FLUSH_UNSURE && last)) {
        *ret = quorum_request_fail(req, "flush");
    } else if (outcome == QUORUM_FLUSH_DONE && heard &&
               qatomic_xchg(&s->flush_failed_unheard, false)) {
        *ret = -EIO;
        quorum_report_failure(req, "flush", *ret);
    }
    quorum_request_free(req);
    return outcome;
}

/*
 * Flush; and if unsure children are all that is in the way, find out first what
 * they have lost.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_flush(BlockDriverState *bs,
                                                  bool heard)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumFlushOutcome outcome;
    int votes = 0, restores = 0;
    int ret;

    stat64_set(&s->last_flush_ns, quorum_now_ns());
    outcome = quorum_flush_once(bs, heard, 0, &ret);
    while (outcome == QUORUM_FLUSH_UNSURE && votes < QUORUM_FLUSH_VOTES) {
        quorum_reached(QUORUM_BRANCH_FLUSH_UNSURE);
        if (!quorum_confirm_unsure(bs, !heard, &restores)) {
            votes++;
        }
        outcome = quorum_flush_once(bs, heard, MAX(votes, 1), &ret);
    }
    if (ret < 0 && heard) {
        qatomic_set(&s->flush_failed_unheard, false);
    } else if (outcome == QUORUM_FLUSH_FAILED) {
        quorum_flush_failed_unheard(bs);
    }
    /* Otherwise the guest's next flush finds unsure children as they are. */
    if (ret == 0 && outcome == QUORUM_FLUSH_DONE) {
        ret = quorum_state_record(bs);
    }
    return ret;
}

int coroutine_fn quorum_co_flush(BlockDriverState *bs)
{
    return quorum_flush(bs, true);
}

int coroutine_fn quorum_co_flush_unheard(BlockDriverState *bs)
{
    return quorum_flush(bs, false);
}

/* --- flushes that the guest has not asked for --- */

void quorum_flush_failed_unheard(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    qatomic_set(&s->flush_failed_unheard, true);
}

static void coroutine_fn GRAPH_UNLOCKED quorum_flush_entry(void *opaque)
{
    BlockDriverState *bs = opaque;
    BDRVQuorumState *s = bs->opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        quorum_co_flush_unheard(bs);
    }
    qatomic_set(&s->flushes_by_itself, false);
    bdrv_dec_in_flight(bs);
}

void coroutine_fn quorum_flush_by_itself(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    if (!qatomic_xchg(&s->flushes_by_itself, true)) {
        bdrv_inc_in_flight(bs);
        qemu_coroutine_enter(qemu_coroutine_create(quorum_flush_entry, bs));
    }
}

void coroutine_fn quorum_flush_after_a_while(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t now;

    if (!quorum_sync_any_unflushed(s->sync)) {
        return;
    }
    now = quorum_now_ns();
    if (now - (int64_t)stat64_get(&s->last_flush_ns) <
        quorum_limits.flush_after_ns) {
        return;
    }
    /* Also if the core leaves the flush out, the next try is a while later. */
    stat64_set(&s->last_flush_ns, now);
    quorum_flush_by_itself(bs);
}
