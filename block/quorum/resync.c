/*
 * Quorum block driver: copying what children lack, in the background
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/aio.h"
#include "qemu/bitmap.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "debug.h"
#include "read-locked-int.h"
#include "repair.h"
#include "resync.h"
#include "trace.h"
#include "write.h"

/*
 * How long after a change a resync begins.  Programs that open a node for one
 * command end before that, and a child that fails once in a while has failed
 * more than once.
 */
#define QUORUM_RESYNC_DELAY_NS (1 * NANOSECONDS_PER_SECOND)

/* How long it leaves alone what it could not copy, at least and at most. */
#define QUORUM_RESYNC_BACKOFF_NS (1 * NANOSECONDS_PER_SECOND)
#define QUORUM_RESYNC_BACKOFF_MAX_NS (60 * NANOSECONDS_PER_SECOND)

/* When it looks again whether a drained section has ended. */
#define QUORUM_RESYNC_DRAINED_NS (100 * SCALE_MS)

/*
 * How many chunks in a row may be in vain.  There may be holes in what can be
 * copied; but where nothing can be, a resync must not read the whole disk to
 * find that out.
 */
#define QUORUM_RESYNC_VAIN 16

/*
 * How much is copied at once: at most what a scrub does, for the same reasons;
 * less if that takes too long for a guest that waits for the range.
 */
#define QUORUM_RESYNC_CHUNK (1 * MiB)
#define QUORUM_RESYNC_CHUNK_MIN (64 * KiB)
#define QUORUM_RESYNC_CHUNK_NS (100 * SCALE_MS)

/* How long a slice is: what a guest on a busy disk waits for anyway. */
#define QUORUM_RESYNC_SLICE_NS (10 * SCALE_MS)

/*
 * How a resync leaves the guest its throughput.  As long as there are requests
 * of the guest, each slice of work is followed by a rest, which is at least
 * twice as long: so the guest keeps two thirds of its throughput even if no
 * request gets on beside the work.  That is not enough where the children owe
 * something after they have answered (caches that are written back, bandwidth
 * that was lent), which makes the guest slower while the resync rests.  So each
 * second there is a long rest, in the second half of which it is counted what
 * the guest gets done when it is left alone.  What it gets done otherwise is
 * to be QUORUM_PACE_KEPT of that, which is more than the half that is promised:
 * rests become longer or shorter accordingly, and begin with long ones.
 */
#define QUORUM_PACE_KEPT 0.7
#define QUORUM_PACE_REST_MIN 2.0
#define QUORUM_PACE_REST_FIRST 8.0
#define QUORUM_PACE_REST_MAX 1000.0
#define QUORUM_PACE_REST_MIN_NS (1 * SCALE_MS)
#define QUORUM_PACE_REST_MAX_NS (10 * NANOSECONDS_PER_SECOND)
#define QUORUM_PACE_WINDOW_NS (1 * NANOSECONDS_PER_SECOND)
#define QUORUM_PACE_CALM_NS (100 * SCALE_MS)

/* How many requests have to be counted before that is believed. */
#define QUORUM_PACE_REQUESTS 10

/* By how much rests change at once, at least and at most. */
#define QUORUM_PACE_SHRINK 0.5
#define QUORUM_PACE_GROW 4.0

/* Over which time the rate of a resync is taken, and how long it is told. */
#define QUORUM_RATE_WINDOW_NS (500 * SCALE_MS)
#define QUORUM_RATE_OLD_NS (5 * NANOSECONDS_PER_SECOND)

typedef enum QuorumPhase {
    QUORUM_PHASE_WORK,          /* a slice is next, or at work */
    QUORUM_PHASE_SETTLE,        /* the first half of a long rest */
    QUORUM_PHASE_CALM,          /* the second one */
} QuorumPhase;

/* How many requests the guest has sent by when. */
typedef struct QuorumSample {
    int64_t ns;
    uint64_t requests;
    bool in_flight;             /* and whether one is in flight */
} QuorumSample;

typedef struct QuorumPace {
    const char *node;           /* for traces */
    QuorumPhase phase;
    double rest;                /* how long to rest for each time of work */
    QuorumSample begun;         /* when the last slice began */
    QuorumSample ended;         /* when the last slice ended */
    QuorumSample window;        /* when the last long rest ended; or 0 */
    QuorumSample calm;          /* when its second half began */

    /* Since @rest was last looked at: beside the resync, and left alone. */
    int64_t beside_ns;
    int64_t calm_ns;
    uint64_t beside_requests;
    uint64_t calm_requests;
} QuorumPace;

struct QuorumResync {
    BlockDriverState *bs;
    QEMUTimer *timer;           /* of the main loop */

    /* Atomic. */

    /* There is a slice at work. */
    bool at_work;

    /* quorum_resync_kick() has been called since a slice was begun. */
    bool kicked;

    /* Bytes a second, and when that was found out. */
    Stat64 rate;
    Stat64 rate_ns;

    /* Used by the slice that is at work; by the main thread if none is. */
    bool active;                /* begun, and not ended */
    bool fresh;                 /* what has failed is to be tried again */
    int64_t pos;                /* goes around the disk */
    int64_t resolve_pos;        /* the same for what is unresolved */
    int vain;                   /* chunks, since something was copied */
    bool unflushed;             /* something was copied since a flush */
    int64_t backoff_ns;
    int64_t chunk;
    int64_t window_ns;          /* since when @window_bytes were copied */
    int64_t window_bytes;
    QuorumPace pace;
};

/* --- what there is to do --- */

/*
 * Whether the child in slot @i can be given what it lacks.  All that stands
 * against that, but for what has failed, is here.
 */
static bool GRAPH_RDLOCK quorum_resync_can_take(BlockDriverState *bs, int i)
{
    return quorum_may_repair(bs, i);
}

/* Up to where the child in slot @i can be given anything. */
static int64_t GRAPH_RDLOCK quorum_resync_end_of(BlockDriverState *bs, int i)
{
    BDRVQuorumState *s = bs->opaque;
    BdrvChild *child = s->slots[i].child;
    int64_t length = quorum_length(bs);

    return (child->perm & BLK_PERM_RESIZE) ? length :
           MIN(length, quorum_child_length(child));
}

/* The same, unless that has failed. */
static bool GRAPH_RDLOCK quorum_resync_wants(BlockDriverState *bs, int i)
{
    BDRVQuorumState *s = bs->opaque;

    return quorum_resync_can_take(bs, i) &&
           !qatomic_read(&s->slots[i].repair_failed);
}

/* How many bytes the children lack that can be given to them. */
static int64_t GRAPH_RDLOCK quorum_resync_remaining(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t sum = 0;

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_resync_can_take(bs, i)) {
            sum += quorum_sync_doubtful_bytes(s->sync, i);
        }
    }
    return sum;
}

/*
 * Where the first byte from @offset on is that some child lacks and can be
 * given, children that have failed left aside; or -1.
 */
static int64_t GRAPH_RDLOCK quorum_resync_find(BlockDriverState *bs,
                                               int64_t offset)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t first = -1;

    for (int i = 0; i < s->num_slots; i++) {
        int64_t next;

        if (!quorum_resync_wants(bs, i)) {
            continue;
        }
        next = quorum_sync_next_stale_of(s->sync, i, offset,
                                         quorum_resync_end_of(bs, i));
        if (next >= 0 && (first < 0 || next < first)) {
            first = next;
        }
    }
    return first;
}

/* Whether a child lacks nothing but a flush to be in sync. */
static bool GRAPH_RDLOCK quorum_resync_wants_flush(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_sync_is_rebuilding(s->sync, i) &&
            quorum_resync_can_take(bs, i) &&
            !quorum_sync_stale_bytes(s->sync, i)) {
            return true;
        }
    }
    return false;
}

static bool quorum_resync_may_run(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    return s->opts.auto_resync && !s->opts.blkverify &&
           !(bs->open_flags & BDRV_O_INACTIVE);
}

/* --- a chunk --- */

/*
 * A QuorumRepairFn.  What is known to be missing is copied; what has turned out
 * to be wrong is repaired only if the options ask for that.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_resync_repair(BlockDriverState *bs, QuorumLockedRead *lr)
{
    BDRVQuorumState *s = bs->opaque;
    long bits = (long)lr->req->n * lr->units;
    g_autofree unsigned long *which = bitmap_new(bits);

    if (s->opts.rewrite_corrupted) {
        bitmap_fill(which, bits);
    } else {
        bitmap_or(which, lr->stale, lr->unsure, bits);
    }
    for (int i = 0; i < lr->req->n; i++) {
        if (!quorum_resync_wants(bs, i)) {
            bitmap_clear(which, quorum_bit(lr, i, 0), lr->units);
        }
    }
    quorum_repair_some(lr, which);
}

/* @bytes have been copied now. */
static void quorum_resync_count(QuorumResync *r, int64_t bytes)
{
    int64_t now = quorum_now_ns();
    int64_t ns = now - r->window_ns;

    r->window_bytes += bytes;
    if (ns >= QUORUM_RATE_WINDOW_NS) {
        stat64_set(&r->rate, (double)r->window_bytes *
                             NANOSECONDS_PER_SECOND / ns);
        stat64_set(&r->rate_ns, now);
        r->window_ns = now;
        r->window_bytes = 0;
    }
}

/* Copy what children lack from @start on.  Returns how much has been. */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_resync_chunk(BlockDriverState *bs, int64_t start)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResync *r = s->resync;
    int64_t begun = quorum_now_ns();
    int64_t bytes, copied, took;

    /* What some child lacks begins there; other children don't matter. */
    if (!quorum_sync_next_stale(s->sync, start, quorum_length(bs), &start,
                                &bytes)) {
        r->pos = start;
        return 0;       /* the guest has written it in the meantime */
    }
    bytes = quorum_sync_chunk(s->sync, start, start + bytes, r->chunk,
                              quorum_repair_max_bytes(bs));
    copied = quorum_sync_stale_sum(s->sync, start, bytes);
    quorum_extend_children(bs, start + bytes, NULL);
    quorum_repair_range(bs, start, bytes, NULL, "resync", quorum_resync_repair);
    copied = MAX(copied - quorum_sync_stale_sum(s->sync, start, bytes), 0);
    trace_quorum_resync_chunk(bs->node_name, start, bytes, copied);

    r->pos = start + bytes;
    took = quorum_now_ns() - begun;
    if (took > QUORUM_RESYNC_CHUNK_NS) {
        r->chunk = MAX(r->chunk / 2, QUORUM_RESYNC_CHUNK_MIN);
    } else if (took < QUORUM_RESYNC_CHUNK_NS / 4) {
        r->chunk = MIN(r->chunk * 2, QUORUM_RESYNC_CHUNK);
    }
    quorum_resync_count(r, copied);
    return copied;
}

/* --- what a crash has left --- */

/*
 * Choose an outcome where a crash has left each child its own, from where the
 * last such chunk ended on.  Returns whether there was anything to try.
 */
static bool coroutine_fn GRAPH_RDLOCK
quorum_resync_resolve(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResync *r = s->resync;
    int64_t start, bytes;

    if (!quorum_sync_next_unresolved(s->sync, r->resolve_pos,
                                     quorum_length(bs), &start, &bytes)) {
        return false;
    }
    bytes = quorum_sync_chunk(s->sync, start, start + bytes, r->chunk,
                              quorum_repair_max_bytes(bs));
    quorum_repair_range(bs, start, bytes, NULL, "resolve",
                        quorum_resync_repair);
    r->resolve_pos = start + bytes;
    if (quorum_sync_is_unresolved(s->sync, start, bytes)) {
        r->vain++;
    } else {
        r->unflushed = true;
        r->vain = 0;
        r->backoff_ns = 0;
    }
    return true;
}

/* --- steps --- */

/*
 * All has been copied that could be.  What a crash of a child could take back
 * is flushed; a child that was rebuilding is in sync then.
 */
static QuorumResyncStep coroutine_fn GRAPH_RDLOCK
quorum_resync_finish(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResync *r = s->resync;

    if (r->unflushed || quorum_resync_wants_flush(bs)) {
        r->unflushed = false;
        quorum_flush_by_itself(bs);
    }
    r->resolve_pos = 0;
    return quorum_resync_remaining(bs) || quorum_resync_wants_flush(bs) ||
           quorum_sync_is_unresolved(s->sync, 0, INT64_MAX) ?
           QUORUM_RESYNC_STUCK : QUORUM_RESYNC_DONE;
}

/* Children that have failed get another chance. */
static void GRAPH_RDLOCK quorum_resync_try_again(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResync *r = s->resync;

    r->vain = 0;
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_sync_doubtful_bytes(s->sync, i)) {
            quorum_set_repair_failed(&s->slots[i], false);
        }
    }
}

QuorumResyncStep coroutine_fn quorum_resync_step(BlockDriverState *bs,
                                                 bool fresh)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResync *r = s->resync;
    int64_t start;

    GRAPH_RDLOCK_GUARD();
    if (!quorum_resync_may_run(bs)) {
        return QUORUM_RESYNC_OFF;
    }
    if (fresh) {
        quorum_resync_try_again(bs);
    }
    if (r->vain < QUORUM_RESYNC_VAIN && quorum_resync_resolve(bs)) {
        return QUORUM_RESYNC_MORE;
    }
    start = quorum_resync_find(bs, r->pos);
    if (start < 0 || r->vain == QUORUM_RESYNC_VAIN) {
        r->pos = start < 0 ? 0 : r->pos;
        return quorum_resync_finish(bs);
    }
    if (quorum_resync_chunk(bs, start)) {
        quorum_reached(QUORUM_BRANCH_RESYNC);
        r->unflushed = true;
        r->vain = 0;
        r->backoff_ns = 0;
    } else {
        r->vain++;
    }
    return QUORUM_RESYNC_MORE;
}

/* --- pace --- */

static QuorumSample quorum_pace_sample(BDRVQuorumState *s)
{
    QuorumSample sample = { .ns = quorum_now_ns() };
    QuorumRequest *req;

    qemu_spin_lock(&s->in_flight_lock);
    sample.requests = s->guest_requests;
    QLIST_FOREACH(req, &s->in_flight, next) {
        if (!req->background) {
            sample.in_flight = true;
            break;
        }
    }
    qemu_spin_unlock(&s->in_flight_lock);
    return sample;
}

/*
 * Whether the guest is at work: a request of it is in flight, or there was one
 * since the last slice ended.  (In the slice itself there may be none because
 * the children need no time, and the guest got none.)
 */
static bool quorum_pace_guest(const QuorumPace *p, const QuorumSample *now)
{
    return now->in_flight || now->requests != p->ended.requests;
}

/* A slice has ended.  Returns how long to wait for what is next. */
static int64_t quorum_pace_rest(QuorumPace *p, const QuorumSample *now)
{
    int64_t rest = (now->ns - p->begun.ns) * p->rest;
    bool guest = quorum_pace_guest(p, now);

    p->ended = *now;
    if (!guest) {
        p->window.ns = 0;
        return 0;
    }
    if (now->ns - p->window.ns > QUORUM_PACE_WINDOW_NS) {
        p->phase = QUORUM_PHASE_SETTLE;
        return QUORUM_PACE_CALM_NS;
    }
    return MIN(MAX(rest, QUORUM_PACE_REST_MIN_NS), QUORUM_PACE_REST_MAX_NS);
}

/* A long rest has ended: should others be longer or shorter? */
static void quorum_pace_adapt(QuorumPace *p, const QuorumSample *now)
{
    double kept, factor;

    if (p->window.ns) {
        p->beside_ns += p->ended.ns - p->window.ns;
        p->beside_requests += p->ended.requests - p->window.requests;
        p->calm_ns += now->ns - p->calm.ns;
        p->calm_requests += now->requests - p->calm.requests;
    }
    p->window = *now;
    if (p->calm_requests < QUORUM_PACE_REQUESTS) {
        return;
    }
    kept = ((double)p->beside_requests / p->beside_ns) /
           ((double)p->calm_requests / p->calm_ns);
    /* What a slice costs the guest, and how long it should take for that */
    factor = (1 - kept) / (1 - QUORUM_PACE_KEPT);
    factor = MIN(MAX(factor, QUORUM_PACE_SHRINK), QUORUM_PACE_GROW);
    p->rest = (1 + p->rest) * factor - 1;
    p->rest = MIN(MAX(p->rest, QUORUM_PACE_REST_MIN), QUORUM_PACE_REST_MAX);
    trace_quorum_resync_pace(p->node, kept * 100, p->rest * 100);
    p->beside_ns = p->calm_ns = 0;
    p->beside_requests = p->calm_requests = 0;
}

/*
 * The timer has come.  Returns whether a slice is next, or else how long to
 * wait for what is: *@wait_ns.
 */
static bool quorum_pace_go_on(QuorumPace *p, const QuorumSample *now,
                              int64_t *wait_ns)
{
    switch (p->phase) {
    case QUORUM_PHASE_SETTLE:
        p->calm = *now;
        p->phase = QUORUM_PHASE_CALM;
        *wait_ns = QUORUM_PACE_CALM_NS;
        return false;
    case QUORUM_PHASE_CALM:
        quorum_pace_adapt(p, now);
        break;
    case QUORUM_PHASE_WORK:
        break;
    }
    p->phase = QUORUM_PHASE_WORK;
    p->begun = *now;
    return true;
}

/* --- slices --- */

static void quorum_resync_arm(QuorumResync *r, int64_t ns)
{
    timer_mod_anticipate_ns(r->timer, quorum_now_ns() + ns);
}

/* Nothing more is to be done for now; @why is for traces. */
static void quorum_resync_end(QuorumResync *r, const char *why)
{
    if (r->active) {
        r->active = false;
        trace_quorum_resync_end(r->bs->node_name, why);
    }
    r->pace.phase = QUORUM_PHASE_WORK;
}

/* A step has ended the slice.  Returns how long to wait, -1: until kicked. */
static int64_t quorum_resync_wait(QuorumResync *r, QuorumResyncStep step)
{
    BDRVQuorumState *s = r->bs->opaque;
    QuorumSample now;

    r->fresh = step != QUORUM_RESYNC_MORE;
    switch (step) {
    case QUORUM_RESYNC_MORE:
        now = quorum_pace_sample(s);
        return quorum_pace_rest(&r->pace, &now);
    case QUORUM_RESYNC_STUCK:
        r->backoff_ns = r->backoff_ns ?
                        MIN(r->backoff_ns * 2, QUORUM_RESYNC_BACKOFF_MAX_NS) :
                        QUORUM_RESYNC_BACKOFF_NS;
        r->pace.phase = QUORUM_PHASE_WORK;
        trace_quorum_resync_wait(r->bs->node_name, "what is left fails",
                                 r->backoff_ns / SCALE_MS);
        return r->backoff_ns;
    case QUORUM_RESYNC_DONE:
        quorum_resync_end(r, "done");
        return -1;
    case QUORUM_RESYNC_OFF:
        quorum_resync_end(r, "not allowed");
        return -1;
    }
    g_assert_not_reached();
}

/* Whether the slice that has begun at r->pace.begun is to go on. */
static bool quorum_resync_goes_on(QuorumResync *r)
{
    BDRVQuorumState *s = r->bs->opaque;
    QuorumSample now = quorum_pace_sample(s);

    return now.ns - r->pace.begun.ns < QUORUM_RESYNC_SLICE_NS &&
           !quorum_pace_guest(&r->pace, &now) &&
           !qatomic_read(&r->bs->quiesce_counter) && !qatomic_read(&s->scrub);
}

static void coroutine_fn quorum_resync_slice(void *opaque)
{
    QuorumResync *r = opaque;
    BlockDriverState *bs = r->bs;
    QuorumResyncStep step;
    int64_t wait_ns;

    do {
        /* Let others run: children may have answered without waiting. */
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, 0);
        step = quorum_resync_step(bs, r->fresh);
        r->fresh = false;
    } while (step == QUORUM_RESYNC_MORE && quorum_resync_goes_on(r));

    wait_ns = quorum_resync_wait(r, step);
    /*
     * Whoever kicks sets @kicked before looking at @at_work, so one of the two
     * sees the other.
     */
    qatomic_set_mb(&r->at_work, false);
    if (qatomic_read(&r->kicked) && step != QUORUM_RESYNC_MORE) {
        wait_ns = QUORUM_RESYNC_DELAY_NS;
    }
    if (wait_ns >= 0) {
        quorum_resync_arm(r, wait_ns);
    }
    bdrv_dec_in_flight(bs);
}

/* Whether a slice may begin now; if not, something will arm the timer again. */
static bool quorum_resync_may_begin(QuorumResync *r)
{
    BlockDriverState *bs = r->bs;
    BDRVQuorumState *s = bs->opaque;

    if (!quorum_resync_may_run(bs)) {
        quorum_resync_end(r, "not allowed");
        return false;
    }
    if (s->scrub) {
        quorum_resync_end(r, "a scrub goes first");
        return false;
    }
    if (qatomic_read(&bs->quiesce_counter)) {
        /* Mostly drained sections end before the main loop comes here. */
        trace_quorum_resync_wait(bs->node_name, "drained",
                                 QUORUM_RESYNC_DRAINED_NS / SCALE_MS);
        quorum_resync_arm(r, QUORUM_RESYNC_DRAINED_NS);
        return false;
    }
    return true;
}

static void quorum_resync_timer(void *opaque)
{
    QuorumResync *r = opaque;
    BlockDriverState *bs = r->bs;
    BDRVQuorumState *s = bs->opaque;
    QuorumSample now;
    int64_t wait_ns;
    bool work;

    if (qatomic_load_acquire(&r->at_work)) {
        return;     /* its end looks at r->kicked */
    }
    bdrv_graph_rdlock_main_loop();
    work = r->unflushed || quorum_resync_remaining(bs) ||
           quorum_resync_wants_flush(bs) ||
           quorum_sync_is_unresolved(s->sync, 0, INT64_MAX);
    bdrv_graph_rdunlock_main_loop();
    if (!work) {
        quorum_resync_end(r, "nothing is left");
        return;
    }
    if (!quorum_resync_may_begin(r)) {
        return;
    }
    now = quorum_pace_sample(s);
    if (!quorum_pace_go_on(&r->pace, &now, &wait_ns)) {
        quorum_resync_arm(r, wait_ns);
        return;
    }
    if (!r->active) {
        r->active = true;
        r->window_ns = now.ns;
        r->window_bytes = 0;
        trace_quorum_resync_start(bs->node_name);
    }
    if (qatomic_xchg(&r->kicked, false)) {
        r->fresh = true;
        r->backoff_ns = 0;
    }
    qatomic_set(&r->at_work, true);
    bdrv_inc_in_flight(bs);
    aio_co_enter(bdrv_get_aio_context(bs),
                 qemu_coroutine_create(quorum_resync_slice, r));
}

/* --- what others call --- */

void quorum_resync_init(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResync *r = g_new0(QuorumResync, 1);

    r->bs = bs;
    r->timer = timer_new_ns(QEMU_CLOCK_REALTIME, quorum_resync_timer, r);
    r->chunk = QUORUM_RESYNC_CHUNK;
    r->pace.node = bs->node_name;
    r->pace.rest = QUORUM_PACE_REST_FIRST;
    stat64_init(&r->rate, 0);
    stat64_init(&r->rate_ns, 0);
    s->resync = r;
}

void quorum_resync_destroy(BDRVQuorumState *s)
{
    assert(!s->resync->at_work);
    timer_free(s->resync->timer);
    g_clear_pointer(&s->resync, g_free);
}

void quorum_resync_kick(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    if (s->opts.auto_resync) {
        qatomic_set_mb(&s->resync->kicked, true);
        quorum_resync_arm(s->resync, QUORUM_RESYNC_DELAY_NS);
    }
}

void quorum_resync_set_perm(BlockDriverState *bs, uint64_t perm,
                            uint64_t shared)
{
    BDRVQuorumState *s = bs->opaque;

    if (s->resync && (quorum_sync_is_degraded(s->sync) ||
                      quorum_sync_is_unresolved(s->sync, 0, INT64_MAX))) {
        quorum_resync_kick(bs);
    }
}

QuorumResyncInfo *quorum_resync_info(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumResyncInfo *info;
    int64_t remaining;

    if (!quorum_resync_may_run(bs)) {
        return NULL;
    }
    remaining = quorum_resync_remaining(bs);
    if (!remaining) {
        return NULL;
    }
    info = g_new0(QuorumResyncInfo, 1);
    info->remaining_bytes = remaining;
    if (quorum_now_ns() - (int64_t)stat64_get(&s->resync->rate_ns) <
        QUORUM_RATE_OLD_NS) {
        info->bytes_per_second = stat64_get(&s->resync->rate);
    }
    return info;
}
