/*
 * Quorum block driver: what survives a restart: maps for a larger disk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * When the disk is to grow beyond what the maps cover, they are laid out again,
 * with coarser bits, while requests go on.  First, it is durable that the maps
 * are not valid: whoever opens the disk then takes all of it for marked, and
 * who is behind for stale throughout.  Then all pages are written in their new
 * places, on each state node before the label that says so.  So whichever
 * labels are found after a crash, the newest one is right: it has its pages
 * with it, or it says that there are none.
 *
 * A layout that was interrupted is done again, with another number, so that
 * what it has written already is not taken for its pages.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "state-int.h"
#include "trace.h"

bool quorum_state_wants_layout(QuorumState *st, int64_t end)
{
    QEMU_LOCK_GUARD(&st->lock);
    return end > st->label.max_bytes ||
           st->label.flags & QUORUM_STATE_MAPS_INVALID;
}

/* The next label says that the maps are not valid. */
static void GRAPH_RDLOCK quorum_state_invalidate_locked(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;

    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateRecord *r = quorum_state_record_of(st, i);

        if (r && quorum_sync_is_behind(s->sync, i)) {
            r->flags |= QUORUM_STATE_BEHIND;
        }
    }
    /* A number that no page has, whatever becomes of this. */
    st->label.layout++;
    st->label.flags |= QUORUM_STATE_MAPS_INVALID;
    quorum_state_dirty_label_locked(st);
}

/* Set the bits of @to that stand for what those in @from do, or more. */
static void quorum_state_scale(unsigned long *to, const unsigned long *from,
                               int64_t bits, int shift)
{
    for (int64_t b = find_first_bit(from, bits); b < bits;
         b = find_next_bit(from, bits, b + 1)) {
        set_bit(b >> shift, to);
    }
}

/* Choose a geometry for @bytes that is not finer than the one that there is. */
static void quorum_state_choose_geometry(QuorumStateLabel *l, int64_t bytes)
{
    QuorumStateLabel old = *l;

    if (bytes > l->max_bytes) {
        quorum_state_lay_out(l, bytes);
        l->intent_shift = MAX(l->intent_shift, old.intent_shift);
        l->stale_shift = MAX(l->stale_shift, old.stale_shift);
    }
}

/* All pages are to be written in the layout that there is now. */
static void quorum_state_dirty_layout_locked(QuorumState *st)
{
    for (uint32_t p = 0; p < quorum_state_intent_pages(&st->label); p++) {
        quorum_state_dirty_page_locked(st, p);
    }
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (st->label.records[k].status) {
            quorum_state_store_begin_locked(st, k);
        }
    }
    quorum_state_dirty_label_locked(st);
}

/* Mark what too few children would have a vote in because maps are coarser. */
static void quorum_state_mark_coarse_locked(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    int shift = st->label.intent_shift;
    int64_t length = quorum_sync_length(s->sync);

    if (!quorum_sync_is_degraded(s->sync)) {
        return;
    }
    for (int64_t b = 0; b << shift < length; b++) {
        if (!quorum_state_has_voters_locked(st, b << shift,
                                            INT64_C(1) << shift)) {
            set_bit(b, st->intent);
            set_bit(b, st->wanted);
        }
    }
}

/* From now on there are other maps, for @bytes. */
static void quorum_state_replace_maps_locked(QuorumState *st, int64_t bytes,
                                             bool mark_all)
{
    QuorumStateLabel old = st->label;
    int64_t intent_bits = quorum_state_intent_bits(st);
    int64_t stale_bits = quorum_state_stale_bits(st);
    g_autofree unsigned long *intent = g_steal_pointer(&st->intent);
    g_autofree unsigned long *wanted = g_steal_pointer(&st->wanted);
    g_autofree uint8_t *places = g_new(uint8_t, st->num_nodes);
    unsigned long *away[QUORUM_STATE_RECORDS];
    int shift;

    for (int i = 0; i < st->num_nodes; i++) {
        places[i] = st->nodes[i].newest[quorum_state_label_bit(st)];
    }
    memcpy(away, st->away, sizeof(away));
    memset(st->away, 0, sizeof(st->away));
    quorum_state_free_maps(st);

    st->label.layout++;
    st->label.flags &= ~QUORUM_STATE_MAPS_INVALID;
    quorum_state_choose_geometry(&st->label, bytes);
    st->generation++;
    quorum_state_alloc_maps(st);
    for (int i = 0; i < st->num_nodes; i++) {
        st->nodes[i].newest[quorum_state_label_bit(st)] = places[i];
    }
    shift = st->label.intent_shift - old.intent_shift;
    quorum_state_scale(st->intent, intent, intent_bits, shift);
    quorum_state_scale(st->wanted, wanted, intent_bits, shift);
    if (mark_all) {
        bitmap_fill(st->intent, quorum_state_disk_bits(st));
        bitmap_fill(st->wanted, quorum_state_disk_bits(st));
    }
    shift = st->label.stale_shift - old.stale_shift;
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (away[k]) {
            st->away[k] = bitmap_new(quorum_state_stale_bits(st));
            quorum_state_scale(st->away[k], away[k], stale_bits, shift);
            g_free(away[k]);
        }
    }
    quorum_state_mark_coarse_locked(st);
    st->marked = bitmap_count_one(st->wanted, quorum_state_intent_bits(st));
    quorum_state_dirty_layout_locked(st);
}

static int coroutine_fn GRAPH_RDLOCK
quorum_state_change_layout(QuorumState *st, int64_t bytes)
{
    bool interrupted;
    int ret;

    qemu_mutex_lock(&st->lock);
    interrupted = st->label.flags & QUORUM_STATE_MAPS_INVALID;
    quorum_state_invalidate_locked(st);
    qemu_mutex_unlock(&st->lock);
    /* Until it is known that they are not valid, no page is overwritten. */
    ret = quorum_state_commit(st);

    qemu_mutex_lock(&st->lock);
    if (ret == 0) {
        quorum_state_replace_maps_locked(st, bytes, interrupted);
    } else if (!interrupted) {
        st->label.layout--;
        st->label.flags &= ~QUORUM_STATE_MAPS_INVALID;
        quorum_state_dirty_label_locked(st);
    }
    qemu_mutex_unlock(&st->lock);
    if (ret < 0) {
        return ret;
    }
    ret = quorum_state_commit(st);
    quorum_state_store_end(st, ret == 0);
    return ret;
}

int coroutine_fn quorum_state_lay_out_again(QuorumState *st, int64_t end)
{
    BDRVQuorumState *s = st->bs->opaque;
    int64_t bytes = MAX(end, quorum_sync_length(s->sync));
    int ret = 0;

    qemu_co_rwlock_wrlock(&st->layout_lock);
    if (quorum_state_wants_layout(st, bytes)) {
        ret = quorum_state_change_layout(st, bytes);
        trace_quorum_state_layout(st->bs->node_name, bytes, st->label.layout,
                                  st->label.max_bytes, ret);
    }
    qemu_co_rwlock_unlock(&st->layout_lock);
    /* While the maps were not valid, all who lack something were BEHIND. */
    return ret < 0 ? ret : quorum_state_end_flags(st);
}
