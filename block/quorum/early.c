/*
 * Quorum block driver: reads that do not wait for all
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "debug.h"
#include "early.h"
#include "repair.h"

/* When a child counts as late, whatever its latencies were. */
#define QUORUM_HEDGE_MIN_NS (1 * SCALE_MS)
#define QUORUM_HEDGE_MAX_NS (250 * SCALE_MS)

/*
 * Hedges are at most a tenth of the reads that may send them, and at most 16 of
 * them at once: in tenths of a hedge.  A read that is late by any measure asks
 * on all the same: that is rare, or the child hangs.
 */
#define QUORUM_HEDGE_COST 10
#define QUORUM_HEDGE_MOST 160

/* Every so often a read asks a slow child, too, to see how it is. */
#define QUORUM_ROTATE 32

/* The same where a read asks no other: less than one of a hundred waits. */
#define QUORUM_ROTATE_ALONE 128

/* --- latencies --- */

/* Up to which size a request counts as small. */
#define QUORUM_LATENCY_SMALL (64 * KiB)

/* The unit in which latencies are kept: 1/16 us, so that they fit an int. */
#define QUORUM_LATENCY_NS 62.5

static QuorumLatency *quorum_latency_of(QuorumSlot *slot,
                                        const QuorumRequest *req)
{
    return &slot->latency[req->measured][req->bytes > QUORUM_LATENCY_SMALL];
}

/*
 * The mean and the mean deviation as TCP estimates them (Jacobson, Congestion
 * Avoidance and Control, 1988).  Two threads may lose an update of each other,
 * which does not matter.
 */
void quorum_note_latency(const QuorumAnswer *a)
{
    const QuorumRequest *req = a->req;
    QuorumLatency *l = quorum_latency_of(&req->s->slots[quorum_answer_slot(a)],
                                         req);
    int64_t ns = MIN(quorum_now_ns() - (a->asked_ns ?: req->asked_ns),
                     60 * NANOSECONDS_PER_SECOND);
    int now = MAX(ns / QUORUM_LATENCY_NS, 1);
    int mean = qatomic_read(&l->mean);
    int dev = qatomic_read(&l->deviation);

    if (a->ret < 0) {
        return;
    }
    if (!mean) {
        qatomic_set(&l->mean, now);
        qatomic_set(&l->deviation, now / 2);
        return;
    }
    qatomic_set(&l->deviation, dev + (ABS(now - mean) - dev) / 4);
    qatomic_set(&l->mean, MAX(mean + (now - mean) / 8, 1));
}

int64_t quorum_latency_us(const QuorumSlot *slot, QuorumLatencyKind kind)
{
    int mean = qatomic_read(&slot->latency[kind][0].mean);

    return mean ? mean * QUORUM_LATENCY_NS / SCALE_US : -1;
}

/* When, after it was asked, a child counts as late by any measure. */
static int64_t quorum_hedge_most_ns(const BDRVQuorumState *s)
{
    int64_t timeout = (int64_t)s->opts.child_timeout_ms * SCALE_MS;

    return timeout ? MIN(timeout / 4, QUORUM_HEDGE_MAX_NS)
                   : QUORUM_HEDGE_MAX_NS;
}

/* When, after it was asked, the child in slot @i counts as late. */
static int64_t quorum_hedge_ns(const QuorumRequest *req, int i)
{
    const QuorumLatency *l = quorum_latency_of(&req->s->slots[i], req);
    int64_t ns = (qatomic_read(&l->mean) +
                  4LL * qatomic_read(&l->deviation)) * QUORUM_LATENCY_NS;

    return MIN(MAX(ns, QUORUM_HEDGE_MIN_NS), quorum_hedge_most_ns(req->s));
}

/* --- whom to ask --- */

/*
 * The smaller, the sooner the child in slot @i should answer.  What is in
 * flight counts as much as how long it takes: the mean alone changes too late,
 * so that all reads would go to one child, and then all to another.
 */
static int64_t quorum_score(const QuorumRequest *req, int i)
{
    QuorumSlot *slot = &req->s->slots[i];
    int64_t mean = qatomic_read(&quorum_latency_of(slot, req)->mean);
    unsigned stragglers = qatomic_read(&slot->stragglers);

    if (!mean && stragglers) {
        return INT64_MAX / 2;   /* it has not answered yet, but others have */
    }
    return mean * (1 + MAX(stragglers, qatomic_read(&slot->reading)));
}

static bool quorum_sits_out(const QuorumRequest *req, int i)
{
    const QuorumSlot *slot = &req->s->slots[i];

    return qatomic_read(&slot->stragglers) >= quorum_limits.stragglers ||
           qatomic_read(&slot->straggling_bytes) >=
           quorum_limits.pool_bytes / 8;
}

/* Whether @score is so much worse than @best that a child is not asked first */
static bool quorum_is_slower(int64_t score, int64_t best)
{
    return score > best + best / 2;
}

/* Of the children that are asked, the one to be deferred next, or -1. */
static int quorum_worst(const QuorumRequest *req, unsigned turn)
{
    int voters = quorum_count_asked(req);
    int64_t worst_score = -1, best_score = INT64_MAX;
    int worst = -1, rank = 0, due = -1;

    for (int i = 0; i < req->n; i++) {
        int64_t score = quorum_score(req, i);

        if (!quorum_answer_counts(&req->answers[i])) {
            continue;
        }
        if (rank++ == turn % voters) {
            due = i;
        }
        best_score = MIN(best_score, score);
        if (score > worst_score) {
            worst_score = score;
            worst = i;
        }
    }
    return quorum_is_slower(worst_score, best_score) ? worst : due;
}

/* Whether one more child may be asked than are needed. */
static bool quorum_take_hedge(BDRVQuorumState *s)
{
    if (qatomic_fetch_sub(&s->hedges, QUORUM_HEDGE_COST) >= QUORUM_HEDGE_COST) {
        return true;
    }
    qatomic_add(&s->hedges, QUORUM_HEDGE_COST);
    return false;
}

/*
 * All others have been deferred.  Ask one of these, too, if that would hardly
 * ever be asked otherwise: how fast it is now, and what it says.
 */
static void GRAPH_RDLOCK quorum_ask_slow_one(QuorumRequest *req, unsigned turn)
{
    int64_t best_score = INT64_MAX;

    for (int i = 0; i < req->n; i++) {
        if (quorum_answer_counts(&req->answers[i])) {
            best_score = MIN(best_score, quorum_score(req, i));
        }
    }
    for (int k = 0; k < req->n; k++) {
        int i = (turn + k) % req->n;
        QuorumAnswer *a = &req->answers[i];

        if (a->part == QUORUM_PART_DEFERRED && !quorum_sits_out(req, i) &&
            quorum_is_slower(quorum_score(req, i), best_score)) {
            if (quorum_take_hedge(req->s)) {
                a->part = QUORUM_PART_ASKED;
            }
            return;
        }
    }
}

void quorum_early_choose(QuorumRequest *req, int need, int least)
{
    int asked = quorum_count_asked(req);
    unsigned turn;

    for (int i = 0; i < req->n && asked > least; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && quorum_sits_out(req, i)) {
            quorum_reached(QUORUM_BRANCH_SITS_OUT);
            a->part = QUORUM_PART_DEFERRED;
            asked--;
        }
    }
    if (asked <= need) {
        return;
    }
    turn = qatomic_fetch_inc(&req->s->next_deferred);
    while (asked > need) {
        req->answers[quorum_worst(req, turn)].part = QUORUM_PART_DEFERRED;
        asked--;
    }
    if (turn % QUORUM_ROTATE == 0) {
        quorum_ask_slow_one(req, turn / QUORUM_ROTATE);
    }
}

QuorumAnswer *quorum_early_fastest(QuorumRequest *req)
{
    unsigned turn = qatomic_fetch_inc(&req->s->next_deferred);
    bool any_speed = turn % QUORUM_ROTATE_ALONE == 0;
    int64_t least = INT64_MAX;
    QuorumAnswer *fastest = NULL;

    if (any_speed) {
        turn /= QUORUM_ROTATE_ALONE;
    }
    for (int k = 0; k < req->n; k++) {
        int i = (turn + k) % req->n;
        QuorumAnswer *a = &req->answers[i];
        int64_t cost = any_speed ? 0 : quorum_score(req, i);

        if (quorum_answer_counts(a) && !a->done && cost < least) {
            least = cost;
            fastest = a;
        }
    }
    return fastest;
}

/* --- stragglers --- */

/* Whether @req may be left; if so, its stragglers and its memory count. */
static bool quorum_may_leave(QuorumRequest *req)
{
    BDRVQuorumState *s = req->s;
    unsigned n = req->pending;
    unsigned bytes = req->buf_bytes * req->n_bufs;
    unsigned others = qatomic_fetch_add(&s->stragglers, n);
    unsigned held = qatomic_fetch_add(&s->left_bytes, bytes);

    if (others + n <= quorum_limits.stragglers_all &&
        held + bytes <= quorum_limits.pool_bytes / 2) {
        return true;
    }
    quorum_reached(QUORUM_BRANCH_NOT_LEFT);
    qatomic_sub(&s->left_bytes, bytes);
    qatomic_sub(&s->stragglers, n);
    return false;
}

/* The last straggler of @req has ended. */
static void coroutine_fn GRAPH_RDLOCK quorum_stragglers_end(QuorumRequest *req)
{
    BlockDriverState *bs = req->bs;
    QuorumFindings found = req->early.found;
    int64_t offset = req->offset;
    int64_t bytes = req->bytes;

    qatomic_sub(&req->s->left_bytes, req->buf_bytes * req->n_bufs);
    quorum_in_flight_remove(req);
    if (found.to_repair) {
        /* The repair does not report once more what stragglers have. */
        quorum_find_reported(&found, req);
    }
    quorum_request_free(req);
    if (found.to_repair) {
        quorum_reached(QUORUM_BRANCH_STRAGGLER_DIFFERS);
        quorum_repair_behind(bs, offset, bytes, &found);
    }
    quorum_findings_clear(&found);
}

/* The child of @a has answered; the request was left before. */
static void coroutine_fn GRAPH_RDLOCK quorum_straggler_ended(QuorumAnswer *a)
{
    QuorumRequest *req = a->req;
    QuorumSlot *slot = &req->s->slots[quorum_answer_slot(a)];
    QuorumAnswer *winner = req->early.winner;

    qatomic_dec(&req->s->stragglers);
    qatomic_dec(&slot->stragglers);
    qatomic_sub(&slot->straggling_bytes, req->bytes);
    if (winner && quorum_answer_counts(a) &&
        (a->ret < 0 ? quorum_worth_rewrite(a)
                    : memcmp(a->buf, winner->buf, req->bytes))) {
        quorum_find_to_repair(&req->early.found, req->s, quorum_answer_slot(a),
                              "late answer");
    }
    if (!req->pending) {
        BlockDriverState *bs = req->bs;

        quorum_stragglers_end(req);
        bdrv_graph_co_rdunlock_again();
        bdrv_dec_in_flight(bs);
    }
}

/*
 * Counts as GRAPH_RDLOCK because the asking coroutine holds the lock until this
 * one has ended, or hands it on; see quorum_ask_entry().
 */
static void coroutine_fn GRAPH_RDLOCK quorum_early_entry(void *opaque)
{
    QuorumAnswer *a = opaque;
    QuorumRequest *req = a->req;

    quorum_ask_child(a);
    req->pending--;
    if (req->early.left) {
        quorum_straggler_ended(a);
        return;
    }
    req->early.verdict = req->early.judge(req);
    /* Entered when this coroutine has ended. */
    if (req->co) {
        aio_co_wake(g_steal_pointer(&req->co));
    }
}

static void coroutine_fn GRAPH_RDLOCK quorum_ask_apart(QuorumAnswer *a)
{
    a->done = true;
    a->asked_ns = quorum_now_ns();
    a->req->pending++;
    qemu_coroutine_enter(qemu_coroutine_create(quorum_early_entry, a));
}

/* --- hedging --- */

/* The request @opaque has waited for long.  In its thread. */
static void quorum_hedge_due(void *opaque)
{
    QuorumRequest *req = opaque;

    req->early.hedge_due = true;
    if (req->co) {
        aio_co_wake(g_steal_pointer(&req->co));
    }
}

/* The deferred child that should be asked next, or NULL. */
static QuorumAnswer *quorum_next_deferred(QuorumRequest *req)
{
    QuorumAnswer *best = NULL;
    int64_t best_score = INT64_MAX;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        int64_t score = quorum_score(req, i);

        if (a->part == QUORUM_PART_DEFERRED) {
            /* It may have become so since the others were asked. */
            quorum_answer_leave_out_stale(a);
        }
        if (a->part == QUORUM_PART_DEFERRED && score < best_score) {
            best_score = score;
            best = a;
        }
    }
    return best;
}

/* When the slowest of those that are asked counts as late. */
static int64_t quorum_hedge_at(const QuorumRequest *req)
{
    int64_t ns = QUORUM_HEDGE_MIN_NS;

    for (int i = 0; i < req->n; i++) {
        if (quorum_answer_counts(&req->answers[i])) {
            ns = MAX(ns, quorum_hedge_ns(req, i));
        }
    }
    return ns;
}

/* Ask one more child, if there is one: one is late, or has failed. */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_one_more(QuorumRequest *req,
                                                          bool late)
{
    QuorumAnswer *a;

    quorum_request_leave_out_dropped(req);
    a = quorum_next_deferred(req);
    if (!a) {
        return;
    }
    a->part = QUORUM_PART_ASKED;
    if (late) {
        quorum_reached(QUORUM_BRANCH_HEDGED);
        stat64_add(&req->s->slots[quorum_answer_slot(a)].counters.hedged_reads,
                   1);
    }
    quorum_ask_apart(a);
}

/*
 * A child is late: ask one more, if the hedges that there may be allow it.  If
 * they do not, wait until the child is late by any measure: that one may hang.
 * Returns when to look again, after now.
 */
static int64_t coroutine_fn GRAPH_RDLOCK quorum_hedge(QuorumRequest *req)
{
    int64_t most = quorum_hedge_most_ns(req->s);
    int64_t waited = quorum_now_ns() - req->asked_ns;

    if (waited < most && !quorum_take_hedge(req->s)) {
        return most - waited;
    }
    quorum_ask_one_more(req, true);
    return quorum_hedge_at(req);
}

static void quorum_hedge_arm(QEMUTimer *timer, int64_t ns)
{
    timer_mod_ns(timer, quorum_now_ns() + ns);
}

/* --- asking --- */

/*
 * No lost wake-up: all of this is in one thread.  Whoever changes what is
 * waited for wakes this coroutine if req->co is set, which it is from just
 * before the yield on; what has changed before is looked at before.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_early_wait(QuorumRequest *req,
                                                        bool hedge)
{
    g_autofree QEMUTimer *timer = NULL;
    int failed = 0;

    while (true) {
        for (; hedge && req->early.verdict == QUORUM_EARLY_WAIT &&
               failed < quorum_count_failed_reads(req); failed++) {
            quorum_ask_one_more(req, false);
        }
        if (!req->pending || req->early.verdict != QUORUM_EARLY_WAIT) {
            break;
        }
        if (hedge && !timer && quorum_next_deferred(req)) {
            timer = aio_timer_new(req->ctx, QEMU_CLOCK_REALTIME, SCALE_NS,
                                  quorum_hedge_due, req);
            quorum_hedge_arm(timer, quorum_hedge_at(req));
        }
        req->co = qemu_coroutine_self();
        qemu_coroutine_yield();
        assert(!req->co);
        if (req->early.hedge_due && req->early.verdict == QUORUM_EARLY_WAIT &&
            quorum_next_deferred(req)) {
            req->early.hedge_due = false;
            quorum_hedge_arm(timer, quorum_hedge(req));
        }
    }
    if (timer) {
        timer_del(timer);
    }
}

void coroutine_fn quorum_ask_early(QuorumRequest *req, QuorumEarlyFn *judge,
                                   bool hedge)
{
    BDRVQuorumState *s = req->s;

    req->ask = quorum_ask_read;
    req->early.judge = judge;
    req->early.verdict = QUORUM_EARLY_WAIT;
    if (hedge && qatomic_read(&s->hedges) < QUORUM_HEDGE_MOST) {
        qatomic_inc(&s->hedges);
    }
    quorum_request_leave_out_dropped(req);
    quorum_in_flight_add(req);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && !a->done) {
            quorum_ask_apart(a);
        }
    }
    quorum_early_wait(req, hedge);
    req->early.left = req->pending && quorum_may_leave(req);
    if (req->pending && !req->early.left) {
        /* There are too many stragglers: this one waits. */
        req->early.verdict = QUORUM_EARLY_WAIT;
        while (req->pending) {
            req->co = qemu_coroutine_self();
            qemu_coroutine_yield();
        }
    }
    if (!req->early.left) {
        quorum_in_flight_remove(req);
    }
}

/* A QuorumEnoughFn: the winner is known. */
static bool quorum_left_is_enough(QuorumRequest *req)
{
    return true;
}

/*
 * The request was left as soon as quorum_ask_early() returned: nothing yields
 * between that and this, so no straggler has ended yet.
 */
void coroutine_fn quorum_request_leave(QuorumRequest *req, QuorumAnswer *winner)
{
    if (!req->early.left) {
        quorum_request_free(req);
        return;
    }
    assert(req->pending);
    quorum_reached(QUORUM_BRANCH_ANSWERED_EARLY);
    req->early.winner = winner;
    req->enough = winner ? quorum_left_is_enough : NULL;
    req->qiov = NULL;
    for (int i = 0; i < req->n; i++) {
        QuorumSlot *slot = &req->s->slots[i];

        if (req->answers[i].in_flight) {
            qatomic_inc(&slot->stragglers);
            qatomic_add(&slot->straggling_bytes, req->bytes);
            stat64_add(&slot->counters.late_reads, 1);
        }
    }
    /* The coroutines of the children that have answered are gone. */
    fair_budget_give_back(&req->s->budget, req->coroutines - req->pending);
    req->coroutines = req->pending;
    bdrv_graph_co_rdlock_again();
    bdrv_inc_in_flight(req->bs);
}
