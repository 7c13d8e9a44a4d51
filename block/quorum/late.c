/*
 * Quorum block driver: children that do not answer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What runs where: quorum_late_tick(), quorum_late_act() and
 * quorum_probe_done() in the main thread, quorum_late_look() in the thread of
 * the requests that it looks at, probes in the AioContext of the node.  Each of
 * them but the first holds a count of bs->in_flight, so that the node and its
 * slots stay.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "debug.h"
#include "late.h"
#include "resync.h"
#include "write.h"

/* When a child that was dropped is probed, and how long between probes. */
#define QUORUM_BACKOFF_MIN_NS (1LL * NANOSECONDS_PER_SECOND)
#define QUORUM_BACKOFF_MAX_NS (60LL * NANOSECONDS_PER_SECOND)

/* A child that was dropped three times within this time is not trusted soon. */
#define QUORUM_FLAPPING_NS (600LL * NANOSECONDS_PER_SECOND)

/*
 * How much is read to see whether a child answers, how often, with breaks.  If
 * it can't be read, the next probe reads at another one of so many places: one
 * bad sector is no silence.
 */
#define QUORUM_PROBE_BYTES 4096
#define QUORUM_PROBE_PLACES 8
#define QUORUM_PROBES_GOOD 2
#define QUORUM_PROBE_BREAK_NS (50 * SCALE_MS)

/*
 * How long a write waits to see whether a child with late writes is there: an
 * NBD client tries to connect again after one second, and then after two more.
 */
#define QUORUM_LATE_CHANCE_NS (5LL * NANOSECONDS_PER_SECOND)
#define QUORUM_LATE_WAIT_NS (20 * SCALE_MS)

/* What quorum_late_look() finds out about the requests of one thread. */
typedef struct QuorumLook {
    BlockDriverState *bs;
    AioContext *ctx;
    bool *drop;                 /* [slot]: the child is to be dropped */
    bool *needed;               /* [slot]: a request can't do without it */
    int others;                 /* so many others have answered */
    bool probe;                 /* see who answers */
} QuorumLook;

typedef struct QuorumProbe {
    BlockDriverState *bs;
    int slot;
    bool back;                  /* is a child that was dropped back? */
    int64_t most_ns;            /* how long that may take */
    bool stuck;                 /* a drain waits for requests anyway */
    int place;                  /* where it reads */
    int ret;
} QuorumProbe;

void quorum_late_wake(BDRVQuorumState *s)
{
    timer_mod_ns(s->late_timer, quorum_now_ns() +
                                quorum_late_period_ns(s));
}

/* Arm the timer unless it is; quorum_request_sent() does that, too. */
static void quorum_late_arm(BDRVQuorumState *s)
{
    bool wake;

    qemu_spin_lock(&s->in_flight_lock);
    wake = !s->late_ticks;
    s->late_ticks = true;
    qemu_spin_unlock(&s->in_flight_lock);
    if (wake) {
        quorum_late_wake(s);
    }
}

/* --- probes --- */

/* Whether writes to @child can't change anything but what they write. */
static bool GRAPH_RDLOCK quorum_late_is_local(BdrvChild *child)
{
    return quorum_grows_by_writes(child->bs);
}

/* What leads to the node at the bottom of @child. */
static BdrvChild * GRAPH_RDLOCK quorum_late_leaf(BdrvChild *child)
{
    BdrvChild *below;

    while ((below = bdrv_primary_child(child->bs))) {
        child = below;
    }
    return child;
}

/* Read what @qiov takes, or what there is, at @offset or before. */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_read_place(BdrvChild *child, int64_t offset, QEMUIOVector *qiov)
{
    int64_t length = quorum_child_length(child);
    int64_t bytes = MIN(length, qiov->size);

    if (bytes <= 0) {
        return length < 0 ? length : 0;
    }
    return bdrv_co_preadv(child, MIN(offset, length - bytes), bytes, qiov, 0);
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_probe(QuorumRequest *req, QuorumAnswer *a)
{
    int64_t ret = quorum_read_place(a->child, req->offset, &a->qiov);

    if (ret < 0 || quorum_late_is_local(a->child)) {
        return ret;
    }
    /* A format may know by itself what it has there. */
    return quorum_read_place(quorum_late_leaf(a->child), req->offset,
                             &a->qiov);
}

/*
 * The same for a child that was dropped.  One that reads from its cache, and
 * does not come back from a flush, would hold up the guest's next one.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_probe_back(QuorumRequest *req, QuorumAnswer *a)
{
    int64_t ret = quorum_ask_probe(req, a);

    if (ret >= 0) {
        /* One that fails has been answered; one that has not is cut. */
        bdrv_co_flush(a->child->bs);
    }
    return ret;
}

/* A QuorumEnoughFn. */
static bool quorum_probe_is_enough(QuorumRequest *req)
{
    assume_graph_lock();    /* the request holds it */
    return quorum_others_answer(req);
}

/*
 * Read from the child that @p is about.  Takes no memory from a pool, which
 * requests that wait for this probe may hold.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_probe_once(QuorumProbe *p)
{
    int64_t step = quorum_length(p->bs) / QUORUM_PROBE_PLACES;
    int64_t offset = QEMU_ALIGN_DOWN(step * p->place, QUORUM_PROBE_BYTES);
    QuorumRequest *req = quorum_request_new(p->bs, offset, QUORUM_PROBE_BYTES,
                                            NULL, 0);
    QuorumAnswer *a = &req->answers[p->slot];
    int64_t start = quorum_now_ns();
    void *buf = NULL;
    int ret = -ENOMEDIUM;

    if (a->child) {
        buf = qemu_try_blockalign(a->child->bs, QUORUM_PROBE_BYTES);
        ret = buf ? 0 : -ENOMEM;
    }
    if (ret == 0) {
        a->part = QUORUM_PART_ASKED;
        req->background = true;
        req->enough = quorum_probe_is_enough;
        qemu_iovec_init_buf(&a->qiov, buf, QUORUM_PROBE_BYTES);
        quorum_ask_one(a, p->back ? quorum_ask_probe_back : quorum_ask_probe);
        ret = a->ret;
    }
    if (ret >= 0) {
        stat64_set(&req->s->slots[p->slot].answered_ns, start);
    }
    quorum_request_free(req);
    qemu_vfree(buf);
    return ret;
}

/* The probe @opaque has ended. */
static void quorum_probe_done(void *opaque)
{
    QuorumProbe *p = opaque;
    BDRVQuorumState *s = p->bs->opaque;
    QuorumSlot *slot = &s->slots[p->slot];
    QuorumLateness *l = &slot->late;

    bdrv_graph_rdlock_main_loop();
    quorum_late_notice(p->bs);
    trace_quorum_late_probe(p->bs->node_name, p->slot, p->ret);
    l->probing = false;
    l->place = p->place;
    /* It may have been abandoned since it answered. */
    if (p->back && p->ret >= 0 && !l->cut) {
        quorum_reached(QUORUM_BRANCH_LATE_BACK);
        trace_quorum_late_back(p->bs->node_name, p->slot);
        quorum_sync_set_lagging(s->sync, p->slot, false, "answers again");
        quorum_tell_states(p->bs);
    } else if (p->back) {
        l->cut = true;
        bdrv_abandon(slot->child);
        if (!qatomic_read(&p->bs->quiesce_counter)) {
            l->backoff_ns = MIN(l->backoff_ns * 2, QUORUM_BACKOFF_MAX_NS);
        }
    }
    bdrv_graph_rdunlock_main_loop();
    bdrv_dec_in_flight(p->bs);
    g_free(p);
}

/*
 * Probe a child.  One that was dropped may need some tries, until it is
 * connected again, and has to answer more than once.
 */
static void coroutine_fn GRAPH_UNLOCKED quorum_probe_entry(void *opaque)
{
    QuorumProbe *p = opaque;
    int64_t start = quorum_now_ns();
    int good = 0;

    while (true) {
        WITH_GRAPH_RDLOCK_GUARD() {
            p->ret = quorum_probe_once(p);
        }
        good = p->ret < 0 ? 0 : good + 1;
        if (p->ret < 0) {
            p->place = (p->place + 1) % QUORUM_PROBE_PLACES;
        }
        if (!p->back || good == QUORUM_PROBES_GOOD ||
            (!p->stuck && qatomic_read(&p->bs->quiesce_counter)) ||
            quorum_now_ns() - start >= p->most_ns) {
            break;
        }
        if (p->ret < 0) {
            quorum_co_sleep_ns(QUORUM_PROBE_BREAK_NS);
        }
    }
    if (p->back && p->ret >= 0 && good < QUORUM_PROBES_GOOD) {
        p->ret = -ETIMEDOUT;
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), quorum_probe_done, p);
}

/*
 * Probe the child in slot @i, which is to be @back.  @stuck: a drain waits for
 * requests, and so for the probe, too.
 */
static void GRAPH_RDLOCK quorum_probe(BlockDriverState *bs, int i, bool back,
                                      bool stuck)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumLateness *l = &s->slots[i].late;
    QuorumProbe *p = g_new(QuorumProbe, 1);

    assert(!l->probing);
    *p = (QuorumProbe) {
        .bs = bs,
        .slot = i,
        .back = back,
        .most_ns = quorum_timeout_ns(s) / 2,
        .stuck = stuck,
        .place = l->place,
    };
    l->probing = true;
    l->back = back;
    l->probed_ns = quorum_now_ns();
    if (back) {
        l->cut = false;
        bdrv_unabandon(s->slots[i].child);
    }
    bdrv_inc_in_flight(bs);
    aio_co_enter(bdrv_get_aio_context(bs),
                 qemu_coroutine_create(quorum_probe_entry, p));
}

/* Probe the children that take part, but not more often than now and then. */
static void GRAPH_RDLOCK quorum_probe_members(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        const QuorumLateness *l = &s->slots[i].late;

        if (quorum_is_asked(s, i) && !l->probing &&
            quorum_now_ns() - l->probed_ns >= quorum_late_period_ns(s)) {
            quorum_probe(bs, i, false, false);
        }
    }
}

bool quorum_child_answers(const QuorumRequest *req, int i)
{
    return (int64_t)stat64_get(&req->s->slots[i].answered_ns) > req->asked_ns;
}

bool quorum_others_answer(const QuorumRequest *req)
{
    BDRVQuorumState *s = req->s;
    int others = 0;

    for (int i = 0; i < req->n; i++) {
        others += quorum_is_asked(s, i) &&
                  !qatomic_read(&req->answers[i].in_flight) &&
                  quorum_child_answers(req, i);
    }
    return others >= s->opts.threshold;
}

bool quorum_others_store_unflushed(const QuorumRequest *req,
                                   const QuorumWrite *w)
{
    BDRVQuorumState *s = req->s;
    g_autofree bool *missed = g_new(bool, req->n);

    for (int i = 0; i < req->n; i++) {
        missed[i] = req->answers[i].in_flight || !quorum_is_asked(s, i);
    }
    return quorum_sync_unflushed_has_copies(s->sync, missed, w,
                                            s->opts.threshold);
}

bool quorum_others_are_back(const QuorumRequest *req)
{
    bool any = false;

    for (int i = 0; i < req->n; i++) {
        any |= quorum_answer_is_back(&req->answers[i]);
    }
    return any && quorum_others_answer(req) &&
           quorum_others_store_unflushed(req, NULL);
}

/* --- dropping --- */

/* How many children but the one in slot @i are asked. */
static int GRAPH_RDLOCK quorum_late_count_others(BDRVQuorumState *s, int i)
{
    int others = 0;

    for (int j = 0; j < s->num_slots; j++) {
        others += j != i && quorum_is_asked(s, j);
    }
    return others;
}

/*
 * Whether the child in slot @i has everything, and all others that are asked
 * are still being filled from it: then none can stand in for it.
 */
static bool GRAPH_RDLOCK quorum_late_is_source(BDRVQuorumState *s, int i)
{
    for (int j = 0; j < s->num_slots; j++) {
        if (j != i && quorum_is_asked(s, j) &&
            !quorum_sync_is_rebuilding(s->sync, j)) {
            return false;
        }
    }
    return !quorum_sync_is_rebuilding(s->sync, i);
}

/* The child in slot @i has not answered, and @others have. */
static void GRAPH_RDLOCK quorum_late_drop(BlockDriverState *bs, int i,
                                          int others)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumSlot *slot = &s->slots[i];
    QuorumLateness *l = &slot->late;
    int64_t now = quorum_now_ns();
    g_autofree char *why = NULL;

    if (!slot->child || quorum_sync_is_lagging(s->sync, i)) {
        return;
    }
    if (quorum_late_count_others(s, i) < s->opts.threshold) {
        /* For another request, one of these others has just been dropped. */
        return;
    }
    if (!bdrv_can_abandon(slot->child) || quorum_late_is_source(s, i)) {
        trace_quorum_late_stuck(bs->node_name, i);
        return;
    }
    quorum_reached(QUORUM_BRANCH_LATE_DROPPED);
    trace_quorum_late_drop(bs->node_name, i, s->opts.child_timeout_ms, others);
    stat64_add(&slot->counters.timeouts, 1);
    l->dropped_ns[2] = l->dropped_ns[1];
    l->dropped_ns[1] = l->dropped_ns[0];
    l->dropped_ns[0] = now;
    l->probed_ns = now;
    l->backoff_ns = l->dropped_ns[2] &&
                    now - l->dropped_ns[2] < QUORUM_FLAPPING_NS ?
                    QUORUM_BACKOFF_MAX_NS : QUORUM_BACKOFF_MIN_NS;
    l->cut = true;
    l->late_until_ns = 0;
    why = g_strdup_printf("did not answer for %d ms after %d others had",
                          s->opts.child_timeout_ms, others);
    /*
     * Requests that begin from now on do not ask it.  Those that have just been
     * about to fail like those that are in flight; both note what is late when
     * they end (L3).
     */
    quorum_sync_set_lagging(s->sync, i, true, why);
    bdrv_abandon(slot->child);
}

/* Do what quorum_late_look() has found to be due. */
static void quorum_late_act(void *opaque)
{
    QuorumLook *look = opaque;
    BlockDriverState *bs = look->bs;
    BDRVQuorumState *s = bs->opaque;

    bdrv_graph_rdlock_main_loop();
    for (int i = 0; look->drop && i < s->num_slots; i++) {
        if (look->drop[i]) {
            quorum_late_drop(bs, i, look->others);
        }
    }
    if (look->probe) {
        quorum_probe_members(bs);
    }
    quorum_tell_states(bs);
    bdrv_graph_rdunlock_main_loop();
    bdrv_dec_in_flight(bs);
    g_free(look->drop);
    g_free(look->needed);
    g_free(look);
}

/* Look at @req, whose children were asked a while ago. */
static void GRAPH_RDLOCK quorum_late_judge(QuorumLook *look, QuorumRequest *req,
                                           int64_t now)
{
    bool is_probe = req->enough == quorum_probe_is_enough;
    bool pending = false;

    for (int i = 0; i < req->n; i++) {
        if (qatomic_read(&req->answers[i].in_flight)) {
            pending |= !(is_probe && look->needed[i]);
        }
    }
    if (!pending) {
        return;
    }
    if (!(req->enough ? req->enough(req) : quorum_others_answer(req))) {
        look->probe = true;
        req->enough_ns = 0;
        for (int i = 0; i < req->n && !is_probe; i++) {
            look->needed[i] |= qatomic_read(&req->answers[i].in_flight);
        }
        return;
    }
    if (!req->enough_ns) {
        req->enough_ns = now;
    }
    if (now - req->enough_ns < quorum_timeout_ns(req->s)) {
        return;
    }
    if (look->drop) {
        /*
         * Children are about to be dropped for another request, and may be
         * among those that have done this one: look at it after that.
         */
        return;
    }
    look->drop = g_new(bool, req->n);
    look->others = MAX(quorum_count_good(req), req->s->opts.threshold);
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        /* A child may have been asked later than others. */
        look->drop[i] = qatomic_read(&a->in_flight) &&
                        now - (a->asked_ns ?: req->asked_ns) >=
                        quorum_timeout_ns(req->s);
    }
}

/*
 * Look at the requests of this thread, at probes last: a child that is only
 * known not to answer a probe is kept while a request needs it.  Each request
 * that is found in the list holds the graph lock, and can't end before this
 * bottom half does.
 */
static void quorum_late_look(void *opaque)
{
    QuorumLook *look = opaque;
    BlockDriverState *bs = look->bs;
    BDRVQuorumState *s = bs->opaque;
    g_autoptr(GPtrArray) requests = g_ptr_array_new();
    int64_t now = quorum_now_ns();
    QuorumRequest *req;

    assume_graph_lock();
    qemu_spin_lock(&s->in_flight_lock);
    QLIST_FOREACH(req, &s->in_flight, next) {
        if (req->ctx == look->ctx &&
            now - req->asked_ns >= quorum_late_period_ns(s)) {
            g_ptr_array_add(requests, req);
        }
    }
    qemu_spin_unlock(&s->in_flight_lock);
    look->needed = g_new0(bool, s->num_slots);
    for (int probes = 0; probes < 2; probes++) {
        for (guint i = 0; i < requests->len; i++) {
            req = requests->pdata[i];
            if (probes == (req->enough == quorum_probe_is_enough)) {
                quorum_late_judge(look, req, now);
            }
        }
    }
    if (look->drop || look->probe) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), quorum_late_act, look);
    } else {
        bdrv_dec_in_flight(bs);
        g_free(look->needed);
        g_free(look);
    }
}

/* --- late writes --- */

static void quorum_late_mark(BDRVQuorumState *s, int i, int64_t offset,
                             int64_t bytes)
{
    stat64_set(&s->slots[i].late_ns, quorum_now_ns());
    quorum_sync_mark_late(s->sync, i, offset, bytes);
    quorum_late_arm(s);
}

/*
 * Whether there is one driver alone below @child, and that has counted what it
 * has lost: else bdrv_is_late_since() does not say everything.
 */
static bool GRAPH_RDLOCK quorum_late_is_counted(BdrvChild *child)
{
    BdrvChild *below;

    while ((below = QLIST_FIRST(&child->bs->children))) {
        if (QLIST_NEXT(below, next)) {
            return false;
        }
        child = below;
    }
    return bdrv_is_late_since(child, 0);
}

void quorum_late_note(const QuorumAnswer *a, int64_t offset, int64_t bytes)
{
    BdrvLate late = bdrv_late(a->child);

    if (late == BDRV_LATE_ENDED ||
        (late == BDRV_LATE_UNKNOWN && quorum_late_is_counted(a->child) &&
         !bdrv_is_late_since(a->child, a->req->late_generation))) {
        return;     /* Older ones may be late, but they are known. */
    }
    if (!quorum_late_is_local(a->child)) {
        /* A format may have been writing its metadata, which map anything. */
        offset = 0;
        bytes = INT64_MAX;
    }
    quorum_reached(QUORUM_BRANCH_LATE_WRITE);
    quorum_late_mark(a->req->s, quorum_answer_slot(a), offset, bytes);
}

/*
 * Several threads may find the same; then there is one mark more.  late_noticed
 * is set after the marks: who sees it as it is now sees them, too.
 */
void quorum_late_notice(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    unsigned before = qatomic_load_acquire(&s->late_noticed);
    unsigned now = bdrv_late_generation();

    if (likely(now == before)) {
        return;
    }
    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child && !quorum_late_is_local(child) &&
            bdrv_is_late_since(child, before) &&
            bdrv_late(child) != BDRV_LATE_ENDED) {
            quorum_reached(QUORUM_BRANCH_LATE_METADATA);
            quorum_late_mark(s, i, 0, INT64_MAX);
        }
    }
    qatomic_cmpxchg(&s->late_noticed, before, now);
}

void quorum_late_note_all(const QuorumRequest *req, int64_t offset,
                          int64_t bytes)
{
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret < 0) {
            quorum_late_note(a, offset, bytes);
        }
    }
}

/* Whether the child in slot @i has answered since its last late write. */
static bool quorum_answers_since(BDRVQuorumState *s, int i)
{
    return (int64_t)stat64_get(&s->slots[i].answered_ns) >
           (int64_t)stat64_get(&s->slots[i].late_ns);
}

/*
 * The child answers, but may have late writes to anything, for it has a format:
 * it is taken for one that has to be rebuilt, if the others can do without it.
 */
static void GRAPH_RDLOCK quorum_late_distrust(BDRVQuorumState *s, int i)
{
    g_autofree bool *missed = g_new0(bool, s->num_slots);
    int64_t length = quorum_sync_length(s->sync);

    missed[i] = true;
    if (!quorum_late_is_local(s->slots[i].child) &&
        quorum_sync_count_sure(s->sync, missed, 0, length) >=
        s->opts.threshold) {
        quorum_sync_set_rebuilding(s->sync, i);
    }
}

/*
 * No write that has failed on the child in slot @i can come any more, of those
 * that were there when there were @marks.
 */
static void quorum_late_end(BlockDriverState *bs, int i, uint64_t marks,
                            const char *why)
{
    BDRVQuorumState *s = bs->opaque;

    trace_quorum_late_over(bs->node_name, i, why);
    s->slots[i].late.late_until_ns = 0;
    quorum_sync_clear_late(s->sync, i, marks);
    quorum_resync_kick(bs);
}

/*
 * Look after the late writes of the child in slot @i, which is not lagging.
 * More may become late at the same time: there were @marks before it is asked
 * whether they have ended.
 */
static void GRAPH_RDLOCK quorum_late_writes(BlockDriverState *bs, int i,
                                            uint64_t marks)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumLateness *l = &s->slots[i].late;
    int64_t now = quorum_now_ns();

    switch (bdrv_late(s->slots[i].child)) {
    case BDRV_LATE_ENDED:
        quorum_late_end(bs, i, marks, "they have ended");
        return;
    case BDRV_LATE_PENDING:
        return;
    case BDRV_LATE_UNKNOWN:
        break;
    }
    if (!quorum_answers_since(s, i) || l->late_marks != marks) {
        l->late_until_ns = 0;
        l->late_marks = marks;
        if (!l->probing && now - l->probed_ns >= quorum_late_period_ns(s)) {
            quorum_probe(bs, i, false, false);
        }
    } else if (!l->late_until_ns) {
        l->late_until_ns = now + QUORUM_LATE_QUARANTINE_NS;
        quorum_late_distrust(s, i);
    } else if (now >= l->late_until_ns) {
        quorum_reached(QUORUM_BRANCH_LATE_QUARANTINE);
        quorum_late_end(bs, i, marks, "the quarantine is over");
    }
}

/*
 * Whether the late writes of the child in slot @i are worth waiting for.  As a
 * rule, a quarantine ends in time; what is known to be pending may never end.
 */
static bool quorum_late_may_end(BDRVQuorumState *s, int i)
{
    int64_t age = quorum_now_ns() - (int64_t)stat64_get(&s->slots[i].late_ns);

    return age < (quorum_answers_since(s, i) ? 2 * QUORUM_LATE_QUARANTINE_NS
                                             : QUORUM_LATE_CHANCE_NS);
}

bool quorum_late_comes_in(const QuorumRequest *req, int i)
{
    QuorumSync *sync = req->s->sync;

    return req->answers[i].part == QUORUM_PART_LATE &&
           !quorum_sync_is_lagging(sync, i) &&
           (!quorum_sync_is_late(sync, i, req->write.offset,
                                 req->write.bytes) ||
            quorum_late_may_end(req->s, i));
}

/*
 * Whether the write @req is held only if the children take it, too, that were
 * not asked because of older writes, and may be asked soon.
 */
static bool quorum_late_needed(QuorumRequest *req)
{
    BDRVQuorumState *s = req->s;
    g_autofree bool *now = g_new(bool, req->n);
    g_autofree bool *soon = g_new(bool, req->n);

    for (int i = 0; i < req->n; i++) {
        now[i] = !quorum_answer_is_good(&req->answers[i]);
        soon[i] = now[i] && !quorum_write_is_back(req, i) &&
                  !quorum_late_comes_in(req, i);
    }
    return !quorum_sync_would_hold(s->sync, &req->write, now, NULL,
                                   s->opts.threshold) &&
           quorum_sync_would_hold_later(s->sync, &req->write, soon,
                                        s->opts.threshold);
}

/* Take the children in again whose older writes have ended. */
static bool quorum_late_take_in(QuorumRequest *req)
{
    bool any = false;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->part == QUORUM_PART_LATE &&
            !quorum_sync_is_late(req->s->sync, i, req->write.offset,
                                 req->write.bytes)) {
            quorum_answer_ask_again(a);
            any = true;
        }
    }
    return any;
}

/*
 * Children did not answer when @req was sent, and do now.  What they were asked
 * before they were given up may come later.
 */
static void GRAPH_RDLOCK quorum_late_take_back(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_write_is_back(req, i)) {
            quorum_reached(QUORUM_BRANCH_LATE_TAKEN_BACK);
            if (a->dropped) {
                quorum_late_note(a, req->write.offset, req->write.bytes);
            }
            quorum_answer_leave_out(a, QUORUM_PART_LATE);
        }
    }
}

/*
 * Some node has lost a connection since the write @req began.  A child whose
 * driver has sent it again has done it, but is late there.
 */
static void GRAPH_RDLOCK quorum_late_find_resent(QuorumRequest *req)
{
    unsigned before = req->late_looked;

    req->late_looked = bdrv_late_generation();
    if (req->late_looked == before) {
        return;
    }
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_is_good(a) && bdrv_is_late_since(a->child, before) &&
            bdrv_late(a->child) != BDRV_LATE_ENDED) {
            quorum_reached(QUORUM_BRANCH_LATE_RESENT);
            quorum_late_note(a, req->write.offset, req->write.bytes);
            quorum_answer_leave_out(a, QUORUM_PART_LATE);
        }
    }
}

void coroutine_fn quorum_late_send_rest(QuorumRequest *req)
{
    bool any = false;

    quorum_late_find_resent(req);
    for (int i = 0; i < req->n; i++) {
        any |= req->answers[i].part == QUORUM_PART_LATE ||
               quorum_write_is_back(req, i);
        req->answers[i].done = true;
    }
    if (!any || !quorum_late_needed(req)) {
        return;
    }
    quorum_reached(QUORUM_BRANCH_LATE_WAIT);
    trace_quorum_late_wait(req->bs->node_name, req->offset, req->bytes);
    do {
        quorum_late_take_back(req);
        if (quorum_late_take_in(req)) {
            quorum_ask_all(req, req->ask);
            quorum_late_find_resent(req);
        } else {
            quorum_co_sleep_ns(QUORUM_LATE_WAIT_NS);
        }
    } while (quorum_late_needed(req));
}

/* --- the timer --- */

/*
 * Whether the child in slot @i has given all its requests back since they were
 * abandoned.  They themselves may go on, and wait for another child: until they
 * are settled, the child is to them one that has just failed.
 */
static bool GRAPH_RDLOCK quorum_late_is_idle(BDRVQuorumState *s, int i)
{
    g_autofree int64_t *ages = g_new(int64_t, s->num_slots);

    quorum_request_ages(s, ages);
    return ages[i] < 0;
}

/*
 * Look after the child in slot @i, which was dropped.  It comes back when it
 * has nothing to do any more, and what it may still do is known to have an end.
 * A drain does not wait for that, unless it waits for requests that are @stuck:
 * these may need the child.
 */
static void GRAPH_RDLOCK quorum_late_lagging(BlockDriverState *bs, int i,
                                             bool stuck)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumLateness *l = &s->slots[i].late;
    bool drained = qatomic_read(&bs->quiesce_counter) && !stuck;
    int64_t now = quorum_now_ns();

    if (l->probing) {
        if (l->back && !l->cut &&
            (drained || now - l->probed_ns >= quorum_timeout_ns(s) / 2)) {
            l->cut = true;
            bdrv_abandon(s->slots[i].child);
        }
    } else if (!drained && now - l->probed_ns >= l->backoff_ns &&
               quorum_late_is_idle(s, i) &&
               bdrv_late(s->slots[i].child) != BDRV_LATE_PENDING) {
        quorum_probe(bs, i, true, stuck);
    }
}

/* Look after all children that need it.  Returns whether any does. */
static bool GRAPH_RDLOCK quorum_late_children(BlockDriverState *bs, bool stuck)
{
    BDRVQuorumState *s = bs->opaque;
    bool any = false;

    for (int i = 0; i < s->num_slots; i++) {
        uint64_t marks = quorum_sync_late_marks(s->sync, i);

        if (quorum_sync_is_lagging(s->sync, i)) {
            quorum_late_lagging(bs, i, stuck);
            any = true;
        } else if (marks) {
            quorum_late_writes(bs, i, marks);
            any = true;
        }
    }
    return any;
}

/*
 * Have the requests looked at that were sent a while ago, in each thread that
 * has any.  Returns whether there are requests; if not, the timer is not armed
 * any more, unless by others.  Sets *@stuck if one has waited for
 * child-timeout.
 */
static bool quorum_late_requests(BlockDriverState *bs, bool *stuck)
{
    BDRVQuorumState *s = bs->opaque;
    g_autoptr(GHashTable) contexts = g_hash_table_new(NULL, NULL);
    int64_t now = quorum_now_ns();
    GHashTableIter iter;
    QuorumRequest *req;
    gpointer ctx;
    bool any;

    qemu_spin_lock(&s->in_flight_lock);
    any = !QLIST_EMPTY(&s->in_flight) && s->opts.child_timeout_ms;
    s->late_ticks = any;
    QLIST_FOREACH(req, &s->in_flight, next) {
        if (any && now - req->asked_ns >= quorum_late_period_ns(s)) {
            g_hash_table_add(contexts, req->ctx);
        }
        *stuck |= any && req->enough != quorum_probe_is_enough &&
                  now - req->asked_ns >= quorum_timeout_ns(s);
    }
    qemu_spin_unlock(&s->in_flight_lock);

    g_hash_table_iter_init(&iter, contexts);
    while (g_hash_table_iter_next(&iter, &ctx, NULL)) {
        QuorumLook *look = g_new0(QuorumLook, 1);

        look->bs = bs;
        look->ctx = ctx;
        bdrv_inc_in_flight(bs);
        aio_bh_schedule_oneshot(ctx, quorum_late_look, look);
    }
    return any;
}

/*
 * No lost wake-up: the timer counts as not armed, under the lock, before the
 * children are looked at.  Who makes one late does that first, and then arms
 * the timer if it is not.
 */
static void quorum_late_tick(void *opaque)
{
    BlockDriverState *bs = opaque;
    BDRVQuorumState *s = bs->opaque;
    bool stuck = false;
    bool busy;

    bdrv_graph_rdlock_main_loop();
    busy = quorum_late_requests(bs, &stuck);
    quorum_late_notice(bs);
    if (quorum_late_children(bs, stuck)) {
        quorum_late_arm(s);
    }
    if (busy) {
        quorum_late_wake(s);
    }
    quorum_tell_states(bs);
    bdrv_graph_rdunlock_main_loop();
}

void quorum_late_init(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    s->late_noticed = bdrv_late_generation();
    s->late_timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                                  SCALE_NS, quorum_late_tick, bs);
}

void quorum_late_cleanup(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    assert(QLIST_EMPTY(&s->in_flight));
    g_clear_pointer(&s->late_timer, timer_free);
}

void quorum_late_attached(BlockDriverState *bs, BdrvChild *child)
{
    BDRVQuorumState *s = bs->opaque;
    BlockDriverState *leaf = quorum_late_leaf(child)->bs;

    /* It may have been abandoned by another quorum, or by this one before. */
    if (bdrv_can_abandon(child)) {
        bdrv_unabandon(child);
        return;
    }
    if (s->opts.child_timeout_ms && s->opts.child_timeout_given) {
        warn_report("quorum: %s (node '%s', driver '%s') can't be given up "
                    "when it does not answer: child-timeout has no effect "
                    "there", child->name, bdrv_get_node_name(child->bs),
                    leaf->drv ? leaf->drv->format_name : "?");
    }
}

int quorum_late_detach(BlockDriverState *bs, BdrvChild *child,
                       Transaction *tran, GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    child->bs->close_timeout_ms = s->opts.child_timeout_ms;
    return bdrv_detach_child_tran(bs, child, tran, detached, errp);
}

void quorum_late_joined(BlockDriverState *bs, int i)
{
    BDRVQuorumState *s = bs->opaque;

    if (bdrv_late(s->slots[i].child) != BDRV_LATE_ENDED) {
        quorum_reached(QUORUM_BRANCH_LATE_JOINED);
        quorum_late_mark(s, i, 0, INT64_MAX);
    }
}
