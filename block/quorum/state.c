/*
 * Quorum block driver: what survives a restart: sessions and marks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Before the first request that changes children, a session begins (R4); and
 * before the first one in a region, that is marked (R1).  When the disk is
 * closed well, all that is known is written down, and marks go.  What is
 * waited for each time is a round, see state-round.c.
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qemu/bitmap.h"
#include "qemu/timer.h"
#include "digest-store.h"
#include "state-int.h"
#include "trace.h"
#include "write.h"

/* How many regions are marked ahead of a sequential stream. */
#define QUORUM_STATE_AHEAD 15

/* --- sessions --- */

void quorum_state_begin_session_locked(QuorumState *st)
{
    QuorumStateLabel *l = &st->label;

    if (st->session) {
        return;
    }
    memmove(&l->history[1], &l->history[0],
            sizeof(l->history) - sizeof(l->history[0]));
    l->history[0] = l->session;
    qemu_uuid_generate(&l->session);
    l->opens++;
    l->flags &= ~(QUORUM_STATE_CLEAN | QUORUM_STATE_BEGUN);
    quorum_store_begin_session_locked(st);
    /* No page of a session that we have not seen is newer than ours. */
    st->seq |= UINT32_MAX;
    st->session = true;
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (st->away[k]) {
            l->records[k].flags |= QUORUM_STATE_BEHIND;
        }
    }
    /* Pages of sessions that are forgotten would not be believed. */
    quorum_state_dirty_set_locked(st);
    trace_quorum_state_session(st->bs->node_name, l->opens);
}

/*
 * R4.  A session that dies in its first round may be known to a few nodes only,
 * and others may go on without them.  So nothing is done before enough nodes
 * have it, and only then it says so.
 */
int coroutine_fn quorum_state_begin_session(QuorumState *st)
{
    int ret = 0;

    qemu_mutex_lock(&st->lock);
    if (st->label.flags & QUORUM_STATE_BEGUN && st->session) {
        qemu_mutex_unlock(&st->lock);
        return 0;
    }
    quorum_state_begin_session_locked(st);
    st->config_want = MAX(st->config_want, st->want + 1);
    qemu_mutex_unlock(&st->lock);
    ret = quorum_state_commit(st);
    if (ret < 0) {
        return ret;
    }
    if (st->label.opens == 1) {
        /* A node that is blank when others are not has nothing to say. */
        quorum_state_wait_all(st);
    }
    qemu_mutex_lock(&st->lock);
    if (st->session) {
        st->label.flags |= QUORUM_STATE_BEGUN;
        quorum_state_dirty_label_locked(st);
        st->config_want = MAX(st->config_want, st->want + 1);
    }
    qemu_mutex_unlock(&st->lock);
    return 0;
}

/* --- marking --- */

/* Whether all bits from @first to @last are durably set. */
static bool quorum_state_is_marked_locked(const QuorumState *st, int64_t first,
                                          int64_t last)
{
    return first > last ||
           (test_bit(first, st->intent) && test_bit(last, st->intent) &&
            find_next_zero_bit(st->intent, last + 1, first) > last);
}

/* Set the bits from *@first to *@last in the map that is to be written. */
static void quorum_state_mark_locked(QuorumState *st, int64_t first,
                                     int64_t *last)
{
    int64_t bits = quorum_state_disk_bits(st);

    if (first == st->last_mark + 1 && first <= *last) {
        /* A sequential stream needs one round in 16. */
        *last = MAX(*last, MIN(*last + QUORUM_STATE_AHEAD, bits - 1));
    }
    for (int64_t b = first; b <= *last; b++) {
        if (!test_and_set_bit(b, st->wanted)) {
            st->marked++;
            quorum_state_dirty_page_locked(st, b / QUORUM_STATE_BITS);
        }
    }
    st->last_mark = *last;
}

void quorum_state_clear_mark_locked(QuorumState *st, int64_t b)
{
    clear_bit(b, st->intent);
    st->marked -= test_and_clear_bit(b, st->wanted);
    st->unmarked++;
    quorum_state_dirty_page_locked(st, b / QUORUM_STATE_BITS);
}

void quorum_state_add_marked_locked(const QuorumState *st, unsigned long *map)
{
    int64_t bits = quorum_state_intent_bits(st);
    int shift = st->label.intent_shift - st->label.stale_shift;

    for (int64_t b = find_first_bit(st->wanted, bits); b < bits;
         b = find_next_bit(st->wanted, bits, b + 1)) {
        int64_t first = b << shift;

        bitmap_set(map, first, MIN(INT64_C(1) << shift,
                                   quorum_state_stale_bits(st) - first));
    }
}

/* Whether nothing is to be written before the range may change. */
static bool quorum_state_is_prepared(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int64_t first, last;

    QEMU_LOCK_GUARD(&st->lock);
    first = offset >> st->label.intent_shift;
    last = (offset + bytes - 1) >> st->label.intent_shift;
    if (!st->session || st->durable < st->config_want || !st->config_want ||
        (bytes && offset + bytes > st->label.max_bytes) ||
        !quorum_state_is_marked_locked(st, first, last)) {
        return false;
    }
    bitmap_set(st->touched, first, MAX(last - first + 1, 0));
    return true;
}

/* R1: mark the range, which the maps cover, durably. */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_mark(QuorumState *st, int64_t offset, int64_t bytes)
{
    int64_t first = offset >> st->label.intent_shift;
    int64_t last = (offset + bytes - 1) >> st->label.intent_shift;
    int64_t ahead = last;
    uint64_t unmarked;
    int ret;

    qemu_mutex_lock(&st->lock);
    quorum_state_mark_locked(st, first, &ahead);
    unmarked = st->unmarked;
    qemu_mutex_unlock(&st->lock);
    ret = quorum_state_commit(st);
    if (ret == 0) {
        qemu_mutex_lock(&st->lock);
        if (unmarked == st->unmarked) {
            last = ahead;       /* else only what we hold is marked for sure */
        }
        bitmap_set(st->intent, first, MAX(last - first + 1, 0));
        bitmap_set(st->touched, first, MAX(last - first + 1, 0));
        qemu_mutex_unlock(&st->lock);
    }
    return ret;
}

int coroutine_fn quorum_state_do_prepare(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int64_t end;
    int ret;

    if (unlikely(st->creating)) {
        return 0;
    }
    if (unlikely(qatomic_read(&st->fenced))) {
        return -EIO;
    }
    if (quorum_state_is_prepared(bs, offset, bytes)) {
        return 0;
    }
    ret = quorum_state_begin_session(st);
    end = MAX(bytes ? offset + bytes : 0, quorum_sync_length(s->sync));
    if (ret == 0 && quorum_state_wants_layout(st, end)) {
        ret = quorum_state_lay_out_again(st, end);
    }
    if (ret < 0) {
        return ret;
    }
    qemu_co_rwlock_rdlock(&st->layout_lock);
    ret = quorum_state_mark(st, offset, bytes);
    qemu_co_rwlock_unlock(&st->layout_lock);
    trace_quorum_state_mark(bs->node_name, offset, bytes, ret);
    return ret;
}

/* --- closing well --- */

bool quorum_state_is_writable(const QuorumState *st)
{
    uint64_t slots = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].record >= 0 &&
            (st->nodes[i].child->perm & BLK_PERM_WRITE)) {
            slots |= UINT64_C(1) << i;
        }
    }
    return quorum_state_is_enough(st, slots);
}

/* Marks stay only where a crash would still make a difference. */
static void quorum_state_unmark_all(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    int64_t bits = quorum_state_intent_bits(st);
    int64_t bytes = INT64_C(1) << st->label.intent_shift;

    for (int64_t b = find_first_bit(st->wanted, bits); b < bits;
         b = find_next_bit(st->wanted, bits, b + 1)) {
        if (quorum_sync_is_flushed(s->sync, b << st->label.intent_shift,
                                   bytes)) {
            QEMU_LOCK_GUARD(&st->lock);
            if (quorum_state_has_voters_locked(
                    st, b << st->label.intent_shift, bytes) &&
                quorum_store_may_unmark_locked(
                    st, b << st->label.intent_shift, bytes)) {
                quorum_state_clear_mark_locked(st, b);
            }
        }
    }
}

/* Whether what is written down is not what is, and can be put right. */
static bool GRAPH_RDLOCK quorum_state_is_outdated(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;

    if (!st->session && !quorum_state_is_writable(st)) {
        return false;
    }
    if (quorum_store_has_news(st)) {
        return true;
    }
    if (st->label.opens && (!(st->label.flags & QUORUM_STATE_CLEAN) ||
                            st->config_want > st->durable)) {
        return true;
    }
    for (int i = 0; i < st->num_nodes && !st->session; i++) {
        QuorumStateRecord *r = quorum_state_record_of(st, i);
        g_autofree unsigned long *lacks = NULL;
        unsigned long *stored;
        int64_t count = quorum_state_stale_bits(st);

        if (!r) {
            continue;
        }
        stored = st->stored[st->nodes[i].record];
        lacks = quorum_state_lacking(st, i);
        if (r->flags & QUORUM_STATE_BEHIND ||
            (stored ? !bitmap_equal(stored, lacks, count)
                    : !bitmap_empty(lacks, count)) ||
            (r->status == QUORUM_STATE_REBUILDING) !=
            quorum_sync_is_rebuilding(s->sync, i)) {
            return true;
        }
    }
    return st->session;
}

/*
 * First all nodes get all that is known, so that each of them that is well can
 * say so of itself; then the label that says that this is all.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_state_co_clean(BlockDriverState *bs,
                                                           Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int ret;

    if (!quorum_state_is_outdated(st)) {
        return 0;
    }
    if (quorum_sync_any_unflushed(s->sync)) {
        ret = quorum_co_flush_unheard(bs);
        if (ret < 0) {
            return ret;
        }
    }
    quorum_state_wait_all(st);
    ret = quorum_state_begin_session(st);
    if (ret == 0 && st->label.old_threshold) {
        ret = quorum_state_commit(st);
    }
    if (ret == 0) {
        ret = quorum_state_lay_out_again(st, 0);
    }
    if (ret < 0) {
        return ret;
    }
    ret = quorum_state_store(bs);
    quorum_state_wait_all(st);
    if (ret == 0) {
        ret = quorum_store_close(bs);
    }
    if (ret < 0) {
        return ret;
    }

    /* Now the maps are exact, so that marks are needed no more (R6). */
    quorum_state_unmark_all(st);
    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateRecord *r = quorum_state_record_of(st, i);

        if (r) {
            quorum_state_set_recorded_locked(st, i, false);
        }
    }
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        st->label.records[k].flags &= ~QUORUM_STATE_BEHIND;
    }
    st->label.flags |= QUORUM_STATE_CLEAN;
    quorum_state_dirty_label_locked(st);
    qemu_mutex_unlock(&st->lock);
    ret = quorum_state_commit(st);
    quorum_state_wait_all(st);
    trace_quorum_state_clean(bs->node_name, ret);
    /* Who writes again begins a session of its own. */
    qemu_mutex_lock(&st->lock);
    st->session = false;
    st->config_want = 0;
    qemu_mutex_unlock(&st->lock);
    return ret;
}

int quorum_state_clean(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    int ret;

    if (!s->state || !s->state->loaded) {
        return 0;
    }
    ret = quorum_state_run(bs, quorum_state_co_clean, NULL);
    if (!s->state->session) {
        timer_del(s->state->timer);
    }
    return ret;
}

/* --- from the main loop --- */

typedef struct QuorumStateRun {
    BlockDriverState *bs;
    QuorumStateFn *fn;
    Error **errp;
    bool done;
    int ret;
} QuorumStateRun;

static void coroutine_fn GRAPH_UNLOCKED quorum_state_run_entry(void *opaque)
{
    QuorumStateRun *r = opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        r->ret = r->fn(r->bs, r->errp);
    }
    r->done = true;
    aio_wait_kick();
}

int quorum_state_run(BlockDriverState *bs, QuorumStateFn *fn, Error **errp)
{
    QuorumStateRun r = { .bs = bs, .fn = fn, .errp = errp };

    aio_co_enter(bdrv_get_aio_context(bs),
                 qemu_coroutine_create(quorum_state_run_entry, &r));
    BDRV_POLL_WHILE(bs, !r.done);
    return r.ret;
}

/* --- what management is told --- */

QuorumStateInfo *quorum_state_info(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    QuorumStateNodeInfoList **tail;
    QuorumStateInfo *info;

    if (!st || !st->loaded) {
        return NULL;
    }
    info = g_new0(QuorumStateInfo, 1);
    tail = &info->nodes;
    info->unresolved_bytes = quorum_sync_unresolved_bytes(s->sync);
    info->dirty_bytes = quorum_state_marked_bytes(st);
    QEMU_LOCK_GUARD(&st->lock);
    info->set = qemu_uuid_unparse_strdup(&st->label.set);
    info->session = qemu_uuid_unparse_strdup(&st->label.session);
    info->sequence = st->seq;
    info->clean = st->label.flags & QUORUM_STATE_CLEAN;
    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateNode *node = &st->nodes[i];
        QuorumStateNodeInfo *n;

        if (!node->child) {
            continue;
        }
        n = g_new0(QuorumStateNodeInfo, 1);
        n->child = quorum_child_name(i);
        n->node_name = g_strdup(bdrv_get_node_name(node->child->bs));
        n->state = node->foreign ? QUORUM_STATE_NODE_STATE_FOREIGN
                                 : node->state;
        n->error = g_strdup(node->error);
        QAPI_LIST_APPEND(tail, n);
    }
    return info;
}
