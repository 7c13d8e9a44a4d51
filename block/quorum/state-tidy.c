/*
 * Quorum block driver: what survives a restart: tidying up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A timer of the main loop takes marks away that are needed no more (R5), tries
 * state nodes again that have failed, gives those up that do not answer, and
 * looks whether another program writes to the disk.  No flush of the children
 * is made for that: a region that was not flushed stays marked.
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qemu/bitmap.h"
#include "qemu/timer.h"
#include "debug.h"
#include "digest-store.h"
#include "late.h"
#include "state-int.h"

#define QUORUM_STATE_TICK_NS (500 * SCALE_MS)
#define QUORUM_STATE_TIDY_NS (5 * NANOSECONDS_PER_SECOND)

/*
 * For how long a state node that has failed is asked for an answer, with
 * breaks: the first requests may just let a client connect again.
 */
#define QUORUM_STATE_PROBE_NS       (4 * NANOSECONDS_PER_SECOND)
#define QUORUM_STATE_PROBE_BREAK_NS (50 * SCALE_MS)

/* How many regions are tidied up at a time. */
#define QUORUM_STATE_TIDY_REGIONS 256

/* --- maps and marks --- */

/* Whether it is stored that members which are away lack the region. */
static bool quorum_state_away_is_stored(QuorumState *st, int64_t offset,
                                        int64_t bytes)
{
    int64_t first = offset >> st->label.stale_shift;
    int64_t end = MIN(DIV_ROUND_UP(offset + bytes,
                                   INT64_C(1) << st->label.stale_shift),
                      quorum_state_stale_bits(st));

    QEMU_LOCK_GUARD(&st->lock);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (st->away[k] &&
            !(st->stored[k] &&
              find_next_zero_bit(st->stored[k], end, first) >= end)) {
            return false;
        }
    }
    return true;
}

/* Whether what the child in slot @i lacks in the region is stored. */
static bool quorum_state_is_stored(QuorumState *st, int i, int64_t offset,
                                   int64_t bytes)
{
    BDRVQuorumState *s = st->bs->opaque;
    int shift = st->label.stale_shift;
    int64_t first = offset >> shift;
    int64_t count = DIV_ROUND_UP(bytes, INT64_C(1) << shift);
    g_autofree unsigned long *lacks = bitmap_new(count);
    const unsigned long *stored;

    if (st->nodes[i].record < 0 || !quorum_sync_is_behind(s->sync, i)) {
        return true;
    }
    stored = st->stored[st->nodes[i].record];
    quorum_sync_lacking_bits(s->sync, i, shift, first, count, lacks);
    for (int64_t b = find_first_bit(lacks, count); b < count;
         b = find_next_bit(lacks, count, b + 1)) {
        if (!(stored && test_bit(first + b, stored))) {
            return false;
        }
    }
    return true;
}

/* R5: take away the mark of region @b, if that is safe. */
static bool coroutine_fn GRAPH_RDLOCK quorum_state_unmark(BlockDriverState *bs,
                                                          int64_t b)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int shift = st->label.intent_shift;
    int64_t offset = b << shift;
    int64_t bytes = INT64_C(1) << shift;
    RangeLockRequest range;
    bool safe;

    /* So no write is in flight there, and none can begin. */
    range_lock_co_lock(&s->range_lock, &range, offset, bytes);
    /* Nor is a map on its way that says less than what is stored. */
    qemu_co_mutex_lock(&st->record_lock);
    qemu_co_rwlock_rdlock(&st->layout_lock);
    safe = shift == st->label.intent_shift &&
           b < quorum_state_intent_bits(st) &&
           quorum_sync_is_flushed(s->sync, offset, bytes) &&
           quorum_state_away_is_stored(st, offset, bytes);
    for (int i = 0; i < st->num_nodes && safe; i++) {
        safe = quorum_state_is_stored(st, i, offset, bytes);
    }
    if (safe) {
        qemu_mutex_lock(&st->lock);
        safe = quorum_state_has_voters_locked(st, offset, bytes) &&
               quorum_store_may_unmark_locked(st, offset, bytes);
        if (safe) {
            quorum_state_clear_mark_locked(st, b);
        }
        qemu_mutex_unlock(&st->lock);
    }
    qemu_co_rwlock_unlock(&st->layout_lock);
    qemu_co_mutex_unlock(&st->record_lock);
    range_lock_co_unlock(&s->range_lock, &range);
    return safe;
}

/* The next region from @from on that is marked, and was not written lately. */
static int64_t quorum_state_next_old(QuorumState *st, int64_t from, bool any)
{
    int64_t bits = quorum_state_intent_bits(st);
    int64_t b;

    QEMU_LOCK_GUARD(&st->lock);
    for (b = find_next_bit(st->wanted, bits, from); b < bits;
         b = find_next_bit(st->wanted, bits, b + 1)) {
        if (any || !test_bit(b, st->touched)) {
            return b;
        }
    }
    return -1;
}

/* Whether a child lacks less by now than what is stored says. */
static bool GRAPH_RDLOCK quorum_state_may_shrink(QuorumState *st)
{
    int64_t count = quorum_state_stale_bits(st);

    /* A request in another thread may be storing a map. */
    QEMU_LOCK_GUARD(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        int k = st->nodes[i].record;
        g_autofree unsigned long *lacks = NULL;

        if (k >= 0 && st->written[k] && !st->stored[k]) {
            return true;
        }
        if (k >= 0 && st->stored[k] && quorum_state_slot_of(st, k) == i) {
            lacks = quorum_state_lacking(st, i);
            if (bitmap_andnot(lacks, st->stored[k], lacks, count)) {
                return true;
            }
        }
    }
    return false;
}

int64_t quorum_state_marked_bytes(QuorumState *st)
{
    QEMU_LOCK_GUARD(&st->lock);
    return MIN(st->marked << st->label.intent_shift,
               st->label.disk_bytes);
}

/* Take away marks until there are not too many of them. */
static void coroutine_fn GRAPH_RDLOCK
quorum_state_tidy_marks(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int shift = st->label.intent_shift;
    int64_t limit = s->opts.dirty_limit;
    int tried = 0;

    for (int pass = 0; pass < 2; pass++) {
        int64_t enough = pass ? limit : limit / 2;
        int64_t offsets[QUORUM_STATE_TIDY_REGIONS];
        int64_t b = -1;
        int n = 0;

        if (quorum_state_marked_bytes(st) <= enough) {
            continue;
        }
        while (tried + n < QUORUM_STATE_TIDY_REGIONS &&
               (b = quorum_state_next_old(st, b + 1, pass)) >= 0) {
            offsets[n++] = b << shift;
        }
        quorum_store_clean(bs, offsets, n, INT64_C(1) << shift);
        for (int i = 0; i < n && quorum_state_marked_bytes(st) > enough; i++) {
            quorum_state_unmark(bs, offsets[i] >> shift);
            tried++;
        }
    }
    qemu_mutex_lock(&st->lock);
    bitmap_zero(st->touched, quorum_state_intent_bits(st));
    qemu_mutex_unlock(&st->lock);
}

/*
 * Let a label say now and then what the nodes are known to have, so that one
 * that is put back to what it was before, with its child, gives itself away.
 */
static bool quorum_state_tidy_label(QuorumState *st)
{
    QEMU_LOCK_GUARD(&st->lock);
    if (!st->session || !st->untold) {
        return false;
    }
    st->untold = false;
    quorum_state_dirty_label_locked(st);
    return true;
}

/*
 * Take away marks: those that are old, if there are more than half of what may
 * be; and if there are more than may be, others, too.  What is taken away is
 * written with the next round, for it may be lost: then more is looked at after
 * a crash.  So that this is not all that a child ever lacked, what it has got
 * since is written down, too.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_state_tidy(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    bool marks = quorum_state_marked_bytes(st) > s->opts.dirty_limit / 2;
    bool news = quorum_state_tidy_behind(st);
    bool shrink;

    qemu_co_rwlock_rdlock(&st->layout_lock);
    shrink = quorum_state_may_shrink(st);
    qemu_co_rwlock_unlock(&st->layout_lock);
    if ((marks || shrink ? quorum_state_store(bs)
                         : quorum_state_end_flags(st)) < 0) {
        return;
    }
    if (marks) {
        quorum_state_tidy_marks(bs);
    }
    news |= quorum_state_tidy_label(st);
    if (marks || news) {
        quorum_state_commit(st);
    }
    quorum_store_write_news(bs);
}

/* --- the timer --- */

/* A read of the node in slot @i, which was busy with it, has ended. */
static void GRAPH_RDLOCK quorum_state_end_read(QuorumState *st, int i, int ret)
{
    if (ret < 0) {
        quorum_state_node_failed(st, i, "read", ret);
    }
    QEMU_LOCK_GUARD(&st->lock);
    st->nodes[i].busy = false;
    qemu_co_queue_restart_all(&st->waiters);
}

/* A state node that is asked for an answer */
typedef struct QuorumStateProbe {
    QuorumState *st;
    int slot;
} QuorumStateProbe;

/*
 * As of a child (see late.h), what a state node was asked before may come,
 * where no one can tell, for some time from its first answer on.
 */
static void coroutine_fn GRAPH_UNLOCKED quorum_state_probe_entry(void *opaque)
{
    QuorumStateProbe *probe = opaque;
    QuorumState *st = probe->st;
    QuorumStateNode *node = &st->nodes[probe->slot];
    g_autofree uint8_t *buf = g_malloc(QUORUM_STATE_PAGE);
    int64_t start = quorum_now_ns();
    int ret;

    do {
        WITH_GRAPH_RDLOCK_GUARD() {
            ret = bdrv_co_pread(node->child, 0, QUORUM_STATE_PAGE, buf, 0);
        }
        if (ret < 0) {
            quorum_co_sleep_ns(QUORUM_STATE_PROBE_BREAK_NS);
        }
    } while (ret < 0 && !node->abandoned &&
             !qatomic_read(&st->bs->quiesce_counter) &&
             quorum_now_ns() - start < QUORUM_STATE_PROBE_NS);

    WITH_GRAPH_RDLOCK_GUARD() {
        quorum_state_end_read(st, probe->slot, ret);
        if (ret >= 0) {
            BdrvLate late = bdrv_late(node->child);
            int64_t wait = late == BDRV_LATE_ENDED
                           ? 0 : QUORUM_LATE_QUARANTINE_NS;

            QEMU_LOCK_GUARD(&st->lock);
            node->unheard = late == BDRV_LATE_PENDING;
            node->retry_ns = quorum_now_ns() + wait;
        }
    }
    bdrv_dec_in_flight(st->bs);
    g_free(probe);
}

/* Ask the node in slot @i for an answer. */
static void GRAPH_RDLOCK quorum_state_probe(QuorumState *st, int i)
{
    QuorumStateProbe *probe = g_new(QuorumStateProbe, 1);

    *probe = (QuorumStateProbe) { .st = st, .slot = i };
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        quorum_state_ask_locked(&st->nodes[i]);
    }
    bdrv_inc_in_flight(st->bs);
    aio_co_enter(bdrv_get_aio_context(st->bs),
                 qemu_coroutine_create(quorum_state_probe_entry, probe));
}

/*
 * Whether the label is to be written though no request waits for that: children
 * have come or gone, that is durable by now, or another node has failed.
 */
static bool quorum_state_label_is_due(QuorumState *st)
{
    QEMU_LOCK_GUARD(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        const QuorumStateNode *node = &st->nodes[i];

        if (node->record >= 0 && !node->busy &&
            node->state == QUORUM_STATE_NODE_STATE_OK &&
            test_bit(quorum_state_num_pages(st), node->dirty)) {
            return st->session;
        }
    }
    return false;
}

/* Nodes that do not answer are given up; those that have failed tried again. */
static void GRAPH_RDLOCK quorum_state_look(QuorumState *st, bool *retry,
                                           bool *busy)
{
    BDRVQuorumState *s = st->bs->opaque;
    int64_t now = quorum_now_ns();
    int64_t timeout = s->opts.child_timeout_ms * (int64_t)SCALE_MS;
    bool quiet = qatomic_read(&st->bs->quiesce_counter);

    *busy = false;
    *retry = quorum_state_label_is_due(st) ||
             (st->again_ns && now >= st->again_ns);
    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateNode *node = &st->nodes[i];
        bool late, again;

        if (node->record < 0 && !node->busy) {
            continue;           /* what has no record may be read now */
        }
        qemu_mutex_lock(&st->lock);
        *busy |= node->busy || node->state == QUORUM_STATE_NODE_STATE_FAILED;
        /* Who drains does not wait for one that is just asked to answer. */
        late = node->busy && timeout && !node->abandoned &&
               (now - node->busy_ns > timeout || (node->unheard && quiet));
        again = !node->busy && node->state == QUORUM_STATE_NODE_STATE_FAILED &&
                now >= node->retry_ns;
        *retry |= again && !node->unheard;
        qemu_mutex_unlock(&st->lock);
        if (late && bdrv_can_abandon(node->child)) {
            node->abandoned = true;
            bdrv_abandon(node->child);
        } else if (node->abandoned && !node->busy && now >= node->retry_ns &&
                   bdrv_late(node->child) != BDRV_LATE_PENDING) {
            bdrv_unabandon(node->child);
            node->abandoned = false;
        } else if (again && node->unheard && !node->abandoned && !quiet &&
                   st->session) {
            quorum_state_probe(st, i);
        }
    }
}

/*
 * Another program that has opened the disk begins a session of its own: look at
 * one state node, each time at another one, whether the label there is ours.
 * If it is not, what is written down here is worth nothing any more, so nothing
 * more is written.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_state_look_for_others(
    BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    g_autofree uint8_t *buf = g_malloc(QUORUM_STATE_LABELS);
    int i = st->look_at++ % st->num_nodes;
    QuorumStateNode *node = &st->nodes[i];
    bool other = false;
    int ret;

    qemu_mutex_lock(&st->lock);
    if (node->record < 0 || node->busy || node->abandoned ||
        node->state != QUORUM_STATE_NODE_STATE_OK) {
        qemu_mutex_unlock(&st->lock);
        return;
    }
    quorum_state_ask_locked(node);
    qemu_mutex_unlock(&st->lock);

    ret = bdrv_co_pread(node->child, 0, QUORUM_STATE_LABELS, buf, 0);
    quorum_state_end_read(st, i, ret);
    if (ret < 0) {
        return;
    }
    for (int place = 0; place < 2; place++) {
        QuorumStateLabel label;

        if (quorum_state_decode_label(buf + place * QUORUM_STATE_PAGE, &label,
                                      NULL)) {
            /* Not what a session has left that died before it had begun. */
            other |= label.flags & QUORUM_STATE_BEGUN &&
                     !quorum_state_knows(&st->label, &label.session);
        }
    }
    if (other && !qatomic_xchg(&st->fenced, true)) {
        quorum_state_tell_failure(st, i, "another program has written to the "
                                  "disk", true);
    }
}

/*
 * What the QEMU before, which has died, has asked state nodes for may have been
 * done meanwhile, over what was written since.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_state_write_again(QuorumState *st)
{
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        st->again_ns = 0;
        quorum_state_dirty_set_locked(st);
    }
    quorum_state_commit(st);
}

static void coroutine_fn GRAPH_UNLOCKED quorum_state_tick_entry(void *opaque)
{
    QuorumState *st = opaque;
    BlockDriverState *bs = st->bs;
    int64_t now = quorum_now_ns();

    WITH_GRAPH_RDLOCK_GUARD() {
        bool leader;

        qemu_mutex_lock(&st->lock);
        leader = st->leader;
        if (leader) {
            /* A node that is tried again may be what it waits for. */
            qemu_co_queue_restart_all(&st->waiters);
        }
        qemu_mutex_unlock(&st->lock);
        if (leader) {
            /* The next tick comes. */
        } else if (st->again_ns && now >= st->again_ns) {
            quorum_state_write_again(st);
        } else if (st->joined) {
            st->joined = quorum_state_do_prepare(bs, 0, 0) < 0;
        } else if (now - st->tidied_ns >= QUORUM_STATE_TIDY_NS) {
            st->tidied_ns = now;
            quorum_state_look_for_others(bs);
            quorum_state_tidy(bs);
        } else {
            quorum_state_commit(st);
        }
        quorum_store_tick(bs);
    }
    st->ticking = false;
    bdrv_dec_in_flight(bs);
}

void quorum_state_tick(void *opaque)
{
    QuorumState *st = opaque;
    BlockDriverState *bs = st->bs;
    bool retry, busy, join;

    bdrv_graph_rdlock_main_loop();
    quorum_state_look(st, &retry, &busy);
    busy |= quorum_store_look(bs);
    retry |= quorum_store_is_due(st);
    join = st->joined && quorum_state_is_writable(st);
    bdrv_graph_rdunlock_main_loop();
    if (!st->session && !join) {
        if (busy) {
            quorum_state_wake(st);
        }
        return;
    }
    if (!st->ticking && !qatomic_read(&bs->quiesce_counter) &&
        (retry || join ||
         quorum_now_ns() - st->tidied_ns >= QUORUM_STATE_TIDY_NS)) {
        st->ticking = true;
        bdrv_inc_in_flight(bs);
        aio_co_enter(bdrv_get_aio_context(bs),
                     qemu_coroutine_create(quorum_state_tick_entry, st));
    }
    quorum_state_wake(st);
}

/* Any thread. */
void quorum_state_wake(QuorumState *st)
{
    if (!timer_pending(st->timer)) {
        timer_mod_ns(st->timer, quorum_now_ns() + QUORUM_STATE_TICK_NS);
    }
}
