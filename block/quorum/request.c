/*
 * Quorum block driver: one request: fan out, collect, count, report
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A request asks its children in parallel (but see pattern fifo), decides when
 * all of them have answered, and then reports those that failed.  Only reads
 * report at once, because nothing has to be settled before.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/timer.h"
#include "system/qtest.h"
#include "copy.h"
#include "debug.h"
#include "early.h"
#include "late.h"
#include "losses.h"
#include "request.h"
#include "resync.h"
#include "vote.h"

/*
 * How long a request waits for its range before a trace tells.  Long beside
 * what healthy children take, and short beside what a guest notices.
 */
#define QUORUM_RANGE_WAIT_NS (100 * SCALE_MS)

/*
 * Where latencies need not be known well, those of one in 16 requests are
 * measured: bits of the time that are about random, as it is in ns.
 */
#define QUORUM_SAMPLE_MASK 0x3c0

/* --- creation and memory --- */

/* Where the arrays are that follow the answers of a request of @n children. */
typedef struct QuorumRequestLayout {
    size_t bufs;                /* void *[n + 1] */
    size_t others;              /* void *[n] */
    size_t missed;              /* bool[n] */
    size_t size;
} QuorumRequestLayout;

static inline QuorumRequestLayout quorum_request_layout(int n)
{
    QuorumRequestLayout l;

    QEMU_BUILD_BUG_ON(sizeof(QuorumAnswer) % sizeof(void *));
    l.bufs = offsetof(QuorumRequest, answers) + n * sizeof(QuorumAnswer);
    l.others = l.bufs + (n + 1) * sizeof(void *);
    l.missed = l.others + n * sizeof(void *);
    l.size = l.missed + n * sizeof(bool);
    return l;
}

/* All members are asked.  The answers are zeroed. */
static inline void GRAPH_RDLOCK quorum_request_init_answers(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        a->req = req;
        a->child = req->s->slots[i].child;
        a->part = a->child ? QUORUM_PART_ASKED : QUORUM_PART_VACANT;
    }
}

QuorumRequest *quorum_request_new(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  BdrvRequestFlags flags)
{
    BDRVQuorumState *s = bs->opaque;
    int n = s->num_slots;
    QuorumRequestLayout layout = quorum_request_layout(n);
    QuorumRequest *req = g_malloc(layout.size);

    /* glibc's calloc() takes four times as long. */
    memset(req, 0, layout.size);
    req->bs = bs;
    req->s = s;
    req->offset = offset;
    req->bytes = bytes;
    req->qiov = qiov;
    req->flags = flags;
    req->pool = &s->pool;
    req->bufs = (void **)((char *)req + layout.bufs);
    req->others = (void **)((char *)req + layout.others);
    req->missed = (bool *)req + layout.missed;
    req->n = n;
    /* Who has lost something before is unsure when the request chooses. */
    req->losses = bdrv_last_loss_generation();
    quorum_notice_losses(bs);
    quorum_request_init_answers(req);
    if (quorum_sync_is_degraded(s->sync)) {
        quorum_request_leave_out_unasked(req);
    }
    return req;
}

void quorum_request_reset(QuorumRequest *req)
{
    memset(req->missed, 0, req->n * sizeof(req->missed[0]));
    memset(req->answers, 0, req->n * sizeof(req->answers[0]));
    quorum_request_init_answers(req);
}

void coroutine_fn quorum_request_free(QuorumRequest *req)
{
    assert(!req->pending);
    quorum_tell_states(req->bs);
    if (req->small_copy) {
        quorum_copy_free_small(req);
    } else if (req->n_bufs) {
        buffer_pool_put(req->pool, req->buf_bytes, req->n_bufs, req->bufs);
    }
    if (req->coroutines) {
        fair_budget_give_back(&req->s->budget, req->coroutines);
    }
    if (req->checked.digests != &req->checked.one) {
        g_free(req->checked.digests);
    }
    g_free(req);
}

/*
 * Whether the child of @a is asked now, or may be later.  One that lags may be
 * back when the locked read needs it: see quorum_request_take_back().
 */
static bool quorum_answer_needs_buffer(const QuorumAnswer *a)
{
    return a->part == QUORUM_PART_ASKED || a->part == QUORUM_PART_DEFERRED ||
           (a->part == QUORUM_PART_LAGGING && a->req->locked);
}

bool coroutine_fn quorum_request_alloc(QuorumRequest *req)
{
    bool early = req->early.on;
    bool first = req->qiov && !early;
    int n = first ? -1 : early ? 0 : 1;

    assert(!req->n_bufs);
    for (int i = 0; i < req->n; i++) {
        n += quorum_answer_needs_buffer(&req->answers[i]);
    }
    if (n <= 0) {
        return true;
    }
    if (!buffer_pool_co_get(req->pool, req->bytes, n, req->bufs)) {
        return false;
    }
    req->n_bufs = n;
    req->buf_bytes = req->bytes;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (first && quorum_answer_counts(a)) {
            first = false;
        } else if (quorum_answer_needs_buffer(a)) {
            a->buf = req->bufs[--n];
            qemu_iovec_init_buf(&a->qiov, a->buf, req->bytes);
        }
    }
    return true;
}

int64_t quorum_request_max_bytes(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    return buffer_pool_max_size(&s->pool, s->num_slots + 1);
}

/* --- who takes part --- */

void quorum_answer_leave_out(QuorumAnswer *a, QuorumPart part)
{
    static const char *const why[] = {
        [QUORUM_PART_STALE] = "stale",
        [QUORUM_PART_IN_REPAIR] = "being repaired",
        [QUORUM_PART_LAGGING] = "lagging",
        [QUORUM_PART_LATE] = "late write",
        [QUORUM_PART_EXCLUDED] = "excluded",
    };

    assert(a->child && part < ARRAY_SIZE(why) && why[part]);
    if (a->part != part) {
        a->part = part;
        trace_quorum_left_out(a->req->bs->node_name, quorum_answer_slot(a),
                              a->req->offset, a->req->bytes, why[part]);
    }
}

bool quorum_answer_is_back(const QuorumAnswer *a)
{
    return (a->part == QUORUM_PART_LAGGING ||
            (quorum_answer_counts(a) && a->dropped)) &&
           !quorum_sync_is_lagging(a->req->s->sync, quorum_answer_slot(a));
}

bool quorum_request_take_back(QuorumRequest *req)
{
    bool any = false;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        a->done = true;
        if (quorum_answer_is_back(a)) {
            quorum_answer_ask_again(a);
            any = true;
        }
    }
    return any;
}

bool quorum_answer_is_stale(const QuorumAnswer *a)
{
    QuorumSync *sync = a->req->s->sync;

    return quorum_sync_is_degraded(sync) &&
           quorum_sync_is_doubtful(sync, quorum_answer_slot(a), a->req->offset,
                                   a->req->bytes);
}

void quorum_answer_leave_out_stale(QuorumAnswer *a)
{
    if (quorum_answer_is_stale(a)) {
        quorum_answer_leave_out(a, QUORUM_PART_STALE);
    }
}

void quorum_request_leave_out_unasked(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->child && quorum_sync_is_excluded(req->s->sync, i)) {
            quorum_answer_leave_out(a, QUORUM_PART_EXCLUDED);
        } else if (a->child && !a->done &&
                   quorum_sync_is_lagging(req->s->sync, i)) {
            /* What a child has answered before that is good. */
            quorum_answer_leave_out(a, QUORUM_PART_LAGGING);
        }
    }
}

void quorum_request_leave_out_dropped(QuorumRequest *req)
{
    if (unlikely(quorum_sync_is_degraded(req->s->sync))) {
        quorum_request_leave_out_unasked(req);
    }
}

void quorum_request_leave_out_late(QuorumRequest *req, int64_t offset,
                                   int64_t bytes)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) &&
            quorum_sync_is_late(req->s->sync, i, offset, bytes)) {
            quorum_answer_leave_out(a, QUORUM_PART_LATE);
        }
    }
}

void quorum_request_leave_out_stale(QuorumRequest *req)
{
    QuorumSync *sync = req->s->sync;
    g_autofree QuorumStaleness *staleness = NULL;

    if (!quorum_sync_is_degraded(sync)) {
        return;
    }
    quorum_request_leave_out_unasked(req);
    staleness = g_new(QuorumStaleness, req->n);
    quorum_sync_staleness(sync, req->offset, req->bytes, staleness);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (staleness[i] && quorum_answer_is_member(a)) {
            a->absent |= staleness[i] == QUORUM_STALE_PARTLY;
            quorum_answer_leave_out(a, QUORUM_PART_STALE);
        }
    }
}

void quorum_request_ask_excluded(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->part == QUORUM_PART_EXCLUDED) {
            a->part = QUORUM_PART_ASKED;
        }
    }
}

/* --- asking --- */

/*
 * From now until quorum_request_answered(), query commands see the request: its
 * answers that are in_flight are what its children are working on.
 */
static inline void quorum_request_sent(QuorumRequest *req)
{
    BDRVQuorumState *s = req->s;
    bool wake;

    req->asked_ns = quorum_now_ns();
    req->enough_ns = 0;
    req->sampled = req->measured && (req->early.on ||
                                     !(req->asked_ns & QUORUM_SAMPLE_MASK));
    req->ctx = qemu_get_current_aio_context();
    qemu_spin_lock(&s->in_flight_lock);
    QLIST_INSERT_HEAD(&s->in_flight, req, next);
    s->guest_requests += !req->background;
    wake = !s->late_ticks && s->opts.child_timeout_ms;
    s->late_ticks |= wake;
    qemu_spin_unlock(&s->in_flight_lock);
    if (unlikely(wake)) {
        quorum_late_wake(s);
    }
}

static inline void quorum_request_answered(QuorumRequest *req)
{
    qemu_spin_lock(&req->s->in_flight_lock);
    QLIST_REMOVE(req, next);
    qemu_spin_unlock(&req->s->in_flight_lock);
}

void quorum_in_flight_add(QuorumRequest *req)
{
    quorum_request_sent(req);
}

void quorum_in_flight_remove(QuorumRequest *req)
{
    quorum_request_answered(req);
}

void quorum_in_flight_begin(QuorumAnswer *a)
{
    quorum_request_sent(a->req);
    qatomic_set(&a->in_flight, true);
}

void quorum_in_flight_end(QuorumAnswer *a)
{
    qatomic_set(&a->in_flight, false);
    quorum_request_answered(a->req);
}

void quorum_request_ages(BDRVQuorumState *s, int64_t *ages)
{
    int64_t now = quorum_now_ns();
    QuorumRequest *req;

    for (int i = 0; i < s->num_slots; i++) {
        ages[i] = -1;
    }
    qemu_spin_lock(&s->in_flight_lock);
    QLIST_FOREACH(req, &s->in_flight, next) {
        for (int i = 0; i < req->n; i++) {
            if (qatomic_read(&req->answers[i].in_flight)) {
                ages[i] = MAX(ages[i], now - req->asked_ns);
            }
        }
    }
    qemu_spin_unlock(&s->in_flight_lock);
}

/* Ask the child of @a, in the coroutine of the caller. */
static inline void coroutine_fn GRAPH_RDLOCK quorum_ask(QuorumAnswer *a)
{
    qatomic_set(&a->in_flight, true);
    a->ret = a->req->ask(a->req, a);
    if (unlikely(a->ret < 0)) {
        /* A child is lagging before its requests are given up. */
        a->dropped = quorum_sync_is_lagging(a->req->s->sync,
                                            quorum_answer_slot(a));
    }
    qatomic_set(&a->in_flight, false);
    if (unlikely(a->req->sampled)) {
        quorum_note_latency(a);
    }
}

void coroutine_fn quorum_ask_child(QuorumAnswer *a)
{
    quorum_ask(a);
}

/*
 * This can count as GRAPH_RDLOCK because the asking coroutine holds the lock
 * until this one has ended.  It must not take the lock again: a writer that has
 * announced itself in between would wait for the asking coroutine, which waits
 * for this one, which would wait for the writer.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_ask_entry(void *opaque)
{
    QuorumAnswer *a = opaque;
    QuorumRequest *req = a->req;

    quorum_ask(a);

    /*
     * The asking coroutine may still be on its way to the yield, and must not
     * be entered before.  It runs in the same thread, so this is no race.
     */
    if (--req->pending == 0 && req->co) {
        aio_co_wake(req->co);
    }
}

void coroutine_fn quorum_ask_all(QuorumRequest *req, QuorumAskFn *ask)
{
    QuorumAnswer *last = NULL;
    bool degraded = quorum_sync_is_degraded(req->s->sync);

    req->ask = ask;
    quorum_request_sent(req);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!quorum_answer_counts(a) || a->done) {
            continue;
        }
        if (unlikely(degraded) &&
            quorum_sync_is_lagging(req->s->sync, quorum_answer_slot(a))) {
            /* It was dropped while the request waited for something. */
            quorum_answer_leave_out(a, QUORUM_PART_LAGGING);
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
        quorum_ask(last);
    }

    if (req->pending) {
        req->co = qemu_coroutine_self();
        qemu_coroutine_yield();
        req->co = NULL;
        assert(req->pending == 0);
    }
    quorum_request_answered(req);
}

void coroutine_fn quorum_ask_one(QuorumAnswer *a, QuorumAskFn *ask)
{
    assert(quorum_answer_counts(a));
    a->req->ask = ask;
    quorum_request_sent(a->req);
    quorum_ask(a);
    quorum_request_answered(a->req);
}

/* Report that the child of @a can't read, the first time. */
static void GRAPH_RDLOCK quorum_tell_read_error(QuorumAnswer *a)
{
    if (!a->reported) {
        a->reported = true;
        quorum_answer_failed(a, QUORUM_OP_TYPE_READ, a->ret);
    }
}

/* Report those before the first child that can read, or may still do so. */
static void GRAPH_RDLOCK quorum_tell_first_errors(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret >= 0) {
            return;
        }
        if (quorum_answer_counts(a)) {
            quorum_tell_read_error(a);
        }
    }
}

void quorum_tell_errors_in_order(QuorumRequest *req, int64_t offset,
                                 int64_t bytes)
{
    req->offset = offset;
    req->bytes = bytes;
    quorum_tell_first_errors(req);
}

/*
 * The child of @a can't read the request: if it can't read what the guest wants
 * of it, and no child before it can, tell that at once.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_tell_wanted_error(QuorumAnswer *a)
{
    QuorumRequest *req = a->req;
    int64_t offset = req->offset, bytes = req->bytes;
    QEMUIOVector part;

    if (req->wanted.offset + req->wanted.bytes > offset + bytes) {
        return;                 /* some of it has been cut off */
    }
    for (int i = 0; i < quorum_answer_slot(a); i++) {
        if (quorum_answer_counts(&req->answers[i]) &&
            req->answers[i].reread_ret >= 0) {
            return;
        }
    }
    qemu_iovec_init_slice(&part, &a->qiov, req->wanted.offset - offset,
                          req->wanted.bytes);
    a->reread_ret = bdrv_co_preadv(a->child, req->wanted.offset,
                                   req->wanted.bytes, &part,
                                   req->flags & ~BDRV_REQ_REGISTERED_BUF);
    qemu_iovec_destroy(&part);
    if (a->reread_ret < 0) {
        req->offset = req->wanted.offset;
        req->bytes = req->wanted.bytes;
        quorum_tell_read_error(a);
        req->offset = offset;
        req->bytes = bytes;
    }
}

/* The child of @a can't read. */
static int64_t coroutine_fn GRAPH_RDLOCK quorum_read_failed(QuorumAnswer *a,
                                                            int ret)
{
    /* A child that has not answered has 0 there. */
    a->ret = ret;
    switch (a->req->tell) {
    case QUORUM_TELL_EACH:
        quorum_tell_read_error(a);
        break;
    case QUORUM_TELL_IN_ORDER:
        quorum_tell_first_errors(a->req);
        break;
    case QUORUM_TELL_WANTED:
        quorum_tell_wanted_error(a);
        break;
    }
    return ret;
}

/*
 * quorum_ask_read() of a child that ends before the request does: a locked read
 * can do with what the child has.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_read_up_to_end(QuorumRequest *req, QuorumAnswer *a)
{
    int64_t bytes = quorum_child_length(a->child) - req->offset;
    int ret;

    if (quorum_is_cut_off(req->s, req->offset + req->bytes)) {
        return -EIO;    /* no fault of the child */
    }
    if (req->qiov || req->early.on || bytes <= 0) {
        return quorum_read_failed(a, -EIO);
    }
    ret = bdrv_co_preadv(a->child, req->offset, bytes, &a->qiov,
                         req->flags & ~BDRV_REQ_REGISTERED_BUF);
    return ret < 0 ? quorum_read_failed(a, ret) : bytes;
}

int64_t coroutine_fn quorum_ask_read(QuorumRequest *req, QuorumAnswer *a)
{
    QuorumSlot *slot = &req->s->slots[quorum_answer_slot(a)];
    bool counts = req->s->digests;
    BdrvRequestFlags flags = req->flags;
    int ret;

    if (unlikely(!quorum_child_reaches(a->child, req->offset + req->bytes))) {
        return quorum_read_up_to_end(req, a);
    }
    if (a->buf) {
        /* The caller's memory is registered, our buffers are not. */
        flags &= ~BDRV_REQ_REGISTERED_BUF;
    }
    if (unlikely(counts)) {
        stat64_add(&slot->counters.read_bytes, req->bytes);
        qatomic_inc(&slot->reading);
    }
    ret = bdrv_co_preadv(a->child, req->offset, req->bytes,
                         quorum_answer_qiov(a), flags);
    if (unlikely(counts)) {
        qatomic_dec(&slot->reading);
    }
    return ret < 0 ? quorum_read_failed(a, ret) : 0;
}

void coroutine_fn quorum_range_lock_timed(BlockDriverState *bs,
                                          RangeLockRequest *range,
                                          int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t start = quorum_now_ns();
    int64_t ns;

    range_lock_co_lock(&s->range_lock, range, offset, bytes);
    ns = quorum_now_ns() - start;
    if (ns > QUORUM_RANGE_WAIT_NS) {
        trace_quorum_range_wait(bs->node_name, offset, bytes, ns / SCALE_MS);
    }
}

/* --- counting and reporting --- */

void quorum_tell_states(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    while (true) {
        g_autoptr(QuorumStateChange) change =
            quorum_sync_next_state_change(s->sync);
        g_autofree char *name = NULL;
        BdrvChild *child;

        if (likely(!change)) {
            return;
        }
        if (change->state != QUORUM_CHILD_STATE_REBUILDING) {
            /* No child may be rebuilding any more; a bottom half looks. */
            qemu_bh_schedule(s->migration_bh);
        }
        quorum_resync_kick(bs);
        name = quorum_child_name(change->child);
        child = change->child < s->num_slots ? s->slots[change->child].child
                                             : NULL;
        qapi_event_send_quorum_child_state(bdrv_get_device_or_node_name(bs),
                                           name, child ?
                                           child->bs->node_name : NULL,
                                           change->state, change->was,
                                           change->why);
    }
}

/*
 * Whether an event may be sent now.  The monitor sends the first one of an
 * interval at once, and when the interval ends, one that came meanwhile: so two
 * are enough, and a flood of errors does not build more.  @next is twice the
 * end of the interval, and 1 more when the second one has been sent.
 */
static bool quorum_event_is_due(Stat64 *next)
{
    /* The clock that the monitor throttles with */
    int64_t now = qemu_clock_get_ms(qtest_enabled() ? QEMU_CLOCK_VIRTUAL
                                                    : QEMU_CLOCK_REALTIME);
    int64_t old = stat64_get(next);

    if (now >= old / 2) {
        stat64_set(next, (now + QUORUM_EVENT_INTERVAL_MS) * 2);
    } else if (old % 2 == 0) {
        stat64_set(next, old + 1);
    } else {
        return false;
    }
    return true;
}

void quorum_report_failure(const QuorumRequest *req, const char *what, int ret)
{
    int64_t first = req->offset / BDRV_SECTOR_SIZE;
    int64_t end = DIV_ROUND_UP(req->offset + req->bytes, BDRV_SECTOR_SIZE);

    trace_quorum_failure(req->bs->node_name, what, req->offset, req->bytes,
                         ret);
    if (quorum_event_is_due(&req->s->next_failure)) {
        qapi_event_send_quorum_failure(bdrv_get_device_or_node_name(req->bs),
                                       first, end - first);
    }
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

void quorum_answer_report_bad(const QuorumAnswer *a, QuorumOpType type,
                              const char *error)
{
    const QuorumRequest *req = a->req;
    QuorumSlot *slot = &req->s->slots[quorum_answer_slot(a)];
    int64_t first = req->offset / BDRV_SECTOR_SIZE;
    int64_t end = DIV_ROUND_UP(req->offset + req->bytes, BDRV_SECTOR_SIZE);

    if (req->scrub) {
        if (slot->scrub_reported & BIT(type)) {
            return;
        }
        slot->scrub_reported |= BIT(type);
    } else if (!quorum_event_is_due(&slot->next_report[error ? type :
                                                       QUORUM_OP_TYPE__MAX])) {
        return;
    }
    qapi_event_send_quorum_report_bad(type, error, a->child->bs->node_name,
                                      first, end - first);
}

void quorum_answer_failed(const QuorumAnswer *a, QuorumOpType type, int ret)
{
    const QuorumRequest *req = a->req;
    int i = quorum_answer_slot(a);

    trace_quorum_child_failed(req->bs->node_name, i, QuorumOpType_str(type),
                              req->offset, req->bytes, ret);
    stat64_add(quorum_error_counter(&req->s->slots[i], type), 1);
    if (unlikely(!a->child->bs->drv)) {
        quorum_sync_set_corrupt(req->s->sync, i, "its image is corrupt");
    }
    quorum_answer_report_bad(a, type, strerror(-ret));
}

int quorum_count_asked(const QuorumRequest *req)
{
    int asked = 0;

    for (int i = 0; i < req->n; i++) {
        asked += quorum_answer_counts(&req->answers[i]);
    }
    return asked;
}

int quorum_count_good(const QuorumRequest *req)
{
    int good = 0;

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        good += quorum_answer_is_good(a);
    }
    return good;
}

int quorum_count_failed_reads(const QuorumRequest *req)
{
    int failed = 0;

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        failed += quorum_answer_counts(a) && a->done && !a->in_flight &&
                  a->ret < 0;
    }
    return failed;
}

int quorum_request_errno(const QuorumRequest *req)
{
    g_autofree int64_t *rets = g_new0(int64_t, req->n);

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        rets[i] = quorum_answer_counts(a) ? a->ret : 0;
    }
    return quorum_vote_errno(rets, req->n);
}

int quorum_request_fail(const QuorumRequest *req, const char *what)
{
    int ret = quorum_request_errno(req);

    quorum_report_failure(req, what, ret);
    return ret;
}

void quorum_report_errors(const QuorumRequest *req, QuorumOpType type)
{
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret < 0) {
            quorum_answer_failed(a, type, a->ret);
        }
    }
}

/* --- what may be asked of a child --- */

bool quorum_may_repair(BlockDriverState *bs, int i)
{
    BDRVQuorumState *s = bs->opaque;

    return quorum_is_asked(s, i) &&
           (s->slots[i].child->perm & BLK_PERM_WRITE) &&
           !(bs->open_flags & BDRV_O_INACTIVE);
}

bool quorum_is_cut_off(BDRVQuorumState *s, int64_t end)
{
    return end > (int64_t)stat64_get(&s->cut_from) ||
           end > quorum_sync_length(s->sync);
}

bool quorum_worth_repair(BlockDriverState *bs, int i)
{
    BDRVQuorumState *s = bs->opaque;

    return s->opts.rewrite_corrupted && quorum_may_repair(bs, i) &&
           !qatomic_read(&s->slots[i].repair_failed);
}

bool quorum_worth_rewrite(const QuorumAnswer *a)
{
    const QuorumRequest *req = a->req;
    int i = quorum_answer_slot(a);

    return quorum_worth_repair(req->bs, i) &&
           quorum_child_reaches(a->child, req->offset + req->bytes) &&
           qatomic_read(&req->s->slots[i].futile_repairs) <
           QUORUM_FUTILE_REPAIRS;
}

/* --- what a read finds out --- */

void quorum_findings_clear(QuorumFindings *found)
{
    g_clear_pointer(&found->reported, g_free);
    g_clear_pointer(&found->to_repair, g_free);
}

void quorum_find_to_repair(QuorumFindings *found, const BDRVQuorumState *s,
                           int i, const char *why)
{
    if (!found->to_repair) {
        found->to_repair = g_new0(bool, s->num_slots);
        found->why = why;
    }
    found->to_repair[i] = true;
}

void quorum_find_reported(QuorumFindings *found, const QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        if (req->answers[i].reported) {
            if (!found->reported) {
                found->reported = g_new0(bool, req->n);
            }
            found->reported[i] = true;
        }
    }
}

void quorum_find_failed(QuorumFindings *found, const QuorumRequest *req)
{
    quorum_find_reported(found, req);
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret < 0 && quorum_worth_rewrite(a)) {
            quorum_find_to_repair(found, req->s, i, "failed child");
        }
    }
}
