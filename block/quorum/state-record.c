/*
 * Quorum block driver: what survives a restart: who lacks what
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A request that a child has missed is acknowledged when that is written down
 * (R2).  Mostly, the label says that the child is BEHIND: after a crash, it is
 * taken to lack all that is marked.  That is one page for each outage, but it
 * takes the child's vote in all of these regions.  So when more children lack
 * something than may, each somewhere else maybe, their exact maps are written
 * instead, before each acknowledgement that adds to them, and no label says
 * BEHIND.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "state-int.h"
#include "trace.h"

/* --- stale maps --- */

unsigned long *quorum_state_lacking(QuorumState *st, int i)
{
    BDRVQuorumState *s = st->bs->opaque;
    int64_t count = quorum_state_stale_bits(st);
    unsigned long *bits = bitmap_new(count);

    quorum_sync_lacking_bits(s->sync, i, st->label.stale_shift, 0, count, bits);
    return bits;
}

/* How many slots lack nothing in each of @count bits of stored maps. */
static void quorum_state_count_stored_locked(QuorumState *st, int64_t first,
                                             int64_t count, int *copies)
{
    BDRVQuorumState *s = st->bs->opaque;

    for (int i = 0; i < st->num_nodes; i++) {
        int k = st->nodes[i].record;
        const unsigned long *stored = k >= 0 ? st->stored[k] : NULL;
        g_autofree unsigned long *lacks = bitmap_new(count);

        quorum_sync_lacking_bits(s->sync, i, st->label.stale_shift, first,
                                 count, lacks);
        for (int64_t b = 0; b < count && s->slots[i].child; b++) {
            copies[b] += !test_bit(b, lacks) &&
                         !(stored && test_bit(first + b, stored));
        }
    }
}

bool quorum_state_has_voters_locked(QuorumState *st, int64_t offset,
                                    int64_t bytes)
{
    BDRVQuorumState *s = st->bs->opaque;
    int shift = st->label.stale_shift;
    int64_t first = offset >> shift;
    int64_t count = MIN(DIV_ROUND_UP(bytes, INT64_C(1) << shift),
                        quorum_state_stale_bits(st) - first);
    int64_t length = quorum_sync_length(s->sync);
    g_autofree int *then = g_new0(int, MAX(count, 1));
    g_autofree bool *none = g_new0(bool, s->num_slots);

    quorum_state_count_stored_locked(st, first, count, then);
    for (int64_t b = 0; b < count && (first + b) << shift < length; b++) {
        int64_t pos = (first + b) << shift;

        if (then[b] < s->opts.threshold &&
            quorum_sync_count_copies(s->sync, none, pos,
                                     MIN(INT64_C(1) << shift, length - pos)) >=
            s->opts.threshold) {
            return false;
        }
    }
    return true;
}

void quorum_state_store_begin_locked(QuorumState *st, int k)
{
    int64_t count = quorum_state_stale_bits(st);

    st->storing[k] = bitmap_new(count);
    bitmap_fill(st->storing[k], count);
    st->written[k] = false;
    quorum_state_dirty_stale_locked(st, k);
}

/*
 * The same for those pages that have something of [@start, @end) of the disk,
 * and do not say what the child in slot @i lacks, or on some nodes only.
 * Returns whether there are any.
 */
static bool quorum_state_store_range_locked(QuorumState *st, int i,
                                            int64_t start, int64_t end)
{
    BDRVQuorumState *s = st->bs->opaque;
    int k = st->nodes[i].record;
    int shift = st->label.stale_shift;
    int64_t count = quorum_state_stale_bits(st);
    int64_t bytes = (int64_t)QUORUM_STATE_BITS << shift;
    int64_t past = MIN(DIV_ROUND_UP(MIN(end, st->label.max_bytes), bytes),
                       quorum_state_stale_pages(&st->label));
    bool any = false;

    st->storing[k] = bitmap_new(count);
    if (st->stored[k]) {
        bitmap_copy(st->storing[k], st->stored[k], count);
    }
    for (int64_t p = start / bytes; p < past; p++) {
        int64_t first = p * QUORUM_STATE_BITS;
        int64_t bits = MIN(QUORUM_STATE_BITS, count - first);
        unsigned long *storing = st->storing[k] + BIT_WORD(first);
        g_autofree unsigned long *lacks = bitmap_new(bits);

        quorum_sync_lacking_bits(s->sync, i, shift, first, bits, lacks);
        if ((st->written[k] && !st->stored[k]) ||
            !bitmap_equal(lacks, storing, bits)) {
            bitmap_fill(storing, bits);
            quorum_state_dirty_page_locked(
                st, quorum_state_stale_page(&st->label, k, p));
            any = true;
        }
    }
    return any;
}

void quorum_state_store_end(QuorumState *st, bool done)
{
    int64_t count = quorum_state_stale_bits(st);

    QEMU_LOCK_GUARD(&st->lock);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (st->storing[k] && done) {
            g_free(st->stored[k]);
            st->stored[k] = g_steal_pointer(&st->storing[k]);
            if (bitmap_empty(st->stored[k], count)) {
                g_clear_pointer(&st->stored[k], g_free);
            }
        } else if (st->storing[k]) {
            st->written[k] = true;
        }
        g_clear_pointer(&st->storing[k], g_free);
    }
}

/* What children have come to lack is stored, if @done. */
static void quorum_state_end_news(QuorumState *st, const bool *begun, bool done)
{
    BDRVQuorumState *s = st->bs->opaque;

    quorum_state_store_end(st, done);
    for (int i = 0; i < st->num_nodes; i++) {
        if (begun[i]) {
            quorum_sync_store_end(s->sync, i, done);
        }
    }
}

/* --- who is behind --- */

bool quorum_state_set_recorded_locked(QuorumState *st, int i, bool recorded)
{
    BDRVQuorumState *s = st->bs->opaque;

    return quorum_sync_set_recorded(s->sync, i,
                                    recorded || st->nodes[i].record < 0);
}

QuorumStateRecord *quorum_state_record_of(QuorumState *st, int i)
{
    int k = st->nodes[i].record;

    return k >= 0 ? &st->label.records[k] : NULL;
}

/*
 * Slots with a child that lacks something, or would after a crash, because it
 * is BEHIND or its map is not up to date; bit i for slot i.
 */
static uint64_t quorum_state_lacking_slots_locked(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    uint64_t slots = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        int k = st->nodes[i].record;

        if (s->slots[i].child &&
            (quorum_sync_is_behind(s->sync, i) ||
             (k >= 0 && (st->stored[k] || st->written[k] ||
                         st->label.records[k].flags & QUORUM_STATE_BEHIND)))) {
            slots |= UINT64_C(1) << i;
        }
    }
    return slots;
}

/*
 * Whether these are so many that exact maps are to be written instead of saying
 * that they are BEHIND.
 */
static bool quorum_state_wants_maps_locked(QuorumState *st, uint64_t lacking)
{
    BDRVQuorumState *s = st->bs->opaque;
    int present = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        present += s->slots[i].child != NULL;
    }
    return ctpop64(lacking) > present - s->opts.threshold &&
           /* They would not be written. */
           !(st->label.flags & QUORUM_STATE_MAPS_INVALID);
}

/* Of the slots in @lacking, those whose children are BEHIND. */
static uint64_t quorum_state_flagged_slots_locked(QuorumState *st,
                                                  uint64_t lacking)
{
    uint64_t slots = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        const QuorumStateRecord *r = quorum_state_record_of(st, i);

        if (lacking >> i & 1 && r && r->flags & QUORUM_STATE_BEHIND) {
            slots |= UINT64_C(1) << i;
        }
    }
    return slots;
}

/*
 * Write down that those of @lacking who lack something are BEHIND.  The flag
 * stays until quorum_state_tidy_behind() or a clean close takes it away, or
 * exact maps do, so that of two rounds the later one has it, too.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_record_behind(QuorumState *st, uint64_t lacking)
{
    BDRVQuorumState *s = st->bs->opaque;
    int ret;

    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateRecord *r = quorum_state_record_of(st, i);

        if (r && lacking >> i & 1 && quorum_sync_is_unrecorded(s->sync, i)) {
            r->flags |= QUORUM_STATE_BEHIND;
        }
    }
    quorum_state_dirty_label_locked(st);
    qemu_mutex_unlock(&st->lock);

    ret = quorum_state_commit(st);
    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes && ret == 0; i++) {
        QuorumStateRecord *r = quorum_state_record_of(st, i);

        if (!r || r->flags & QUORUM_STATE_BEHIND) {
            quorum_state_set_recorded_locked(st, i, true);
        }
    }
    qemu_mutex_unlock(&st->lock);
    return ret;
}

/*
 * Write what the children in @slots have come to lack into their maps.  With
 * @others, what is there of the maps of all others is written, too, if they
 * lack something else by now: or a crash might leave too few votes there.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_store_news(QuorumState *st, uint64_t slots, bool others)
{
    BDRVQuorumState *s = st->bs->opaque;
    g_autofree bool *begun = g_new0(bool, st->num_nodes);
    int64_t first = INT64_MAX, past = 0;
    bool any = false;
    int ret;

    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        int64_t start, end;

        if (slots >> i & 1 && st->nodes[i].record >= 0 &&
            quorum_sync_store_begin(s->sync, i, &start, &end)) {
            begun[i] = true;
            first = MIN(first, start);
            past = MAX(past, end);
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        int k = st->nodes[i].record;

        if (begun[i] ||
            (others && past && k >= 0 && s->slots[i].child &&
             (st->stored[k] || st->written[k]))) {
            any |= quorum_state_store_range_locked(st, i, first, past);
        }
    }
    qemu_mutex_unlock(&st->lock);
    ret = any ? quorum_state_commit(st) : 0;
    quorum_state_end_news(st, begun, ret == 0);
    return ret;
}

/*
 * Instead of saying that the children in @flagged are BEHIND, write down what
 * they lack: first that, then the label that relies on it (R6).  Of what they
 * come to lack meanwhile nothing is acknowledged, as it is unrecorded.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_end_behind(QuorumState *st, uint64_t flagged)
{
    int ret = quorum_state_store_news(st, flagged, false);

    if (ret < 0) {
        return ret;
    }
    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        if (flagged >> i & 1) {
            quorum_state_record_of(st, i)->flags &= ~QUORUM_STATE_BEHIND;
        }
    }
    quorum_state_dirty_label_locked(st);
    qemu_mutex_unlock(&st->lock);
    ret = quorum_state_commit(st);

    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes && ret < 0; i++) {
        if (flagged >> i & 1) {
            quorum_state_record_of(st, i)->flags |= QUORUM_STATE_BEHIND;
        }
    }
    qemu_mutex_unlock(&st->lock);
    return ret;
}

/*
 * Write down exactly what the children in @lacking lack.  Those that are BEHIND
 * come first: if it were still said of them when others have a map, both could
 * lack a region of which either has all.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_record_maps(QuorumState *st, uint64_t lacking)
{
    uint64_t flagged;
    int ret = 0;

    qemu_mutex_lock(&st->lock);
    flagged = quorum_state_flagged_slots_locked(st, lacking);
    for (int i = 0; i < st->num_nodes; i++) {
        if (flagged >> i & 1) {
            quorum_state_set_recorded_locked(st, i, false);
        }
    }
    qemu_mutex_unlock(&st->lock);
    if (flagged) {
        ret = quorum_state_end_behind(st, flagged);
    }
    return ret < 0 ? ret : quorum_state_store_news(st, lacking, true);
}

int coroutine_fn quorum_state_do_record(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    uint64_t lacking;
    bool maps;
    int ret;

    if (st->creating) {
        return 0;
    }
    ret = quorum_state_begin_session(st);
    if (ret < 0) {
        return ret;
    }
    qemu_co_mutex_lock(&st->record_lock);
    /* Whoever had the lock may have done it for others, too. */
    if (quorum_sync_any_unrecorded(s->sync)) {
        qemu_co_rwlock_rdlock(&st->layout_lock);
        WITH_QEMU_LOCK_GUARD(&st->lock) {
            lacking = quorum_state_lacking_slots_locked(st);
            maps = quorum_state_wants_maps_locked(st, lacking);
        }
        ret = maps ? quorum_state_record_maps(st, lacking)
                   : quorum_state_record_behind(st, lacking);
        trace_quorum_state_record(bs->node_name, maps, ret);
        qemu_co_rwlock_unlock(&st->layout_lock);
    }
    qemu_co_mutex_unlock(&st->record_lock);
    return ret;
}

bool coroutine_fn quorum_state_tidy_behind(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    bool news = false;

    qemu_co_mutex_lock(&st->record_lock);
    qemu_mutex_lock(&st->lock);
    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateRecord *r = quorum_state_record_of(st, i);

        if (!r || !s->slots[i].child) {
            continue;           /* who is away lacks what is marked */
        }
        news |= (r->status == QUORUM_STATE_REBUILDING) !=
                quorum_sync_is_rebuilding(s->sync, i);
        if (r->flags & QUORUM_STATE_BEHIND) {
            /* First: whatever becomes stale from now on is to be recorded. */
            bool was = quorum_state_set_recorded_locked(st, i, false);

            if (quorum_sync_is_behind(s->sync, i)) {
                quorum_state_set_recorded_locked(st, i, was);
                continue;
            }
            r->flags &= ~QUORUM_STATE_BEHIND;
            news = true;
        }
    }
    if (news) {
        quorum_state_dirty_label_locked(st);
    }
    qemu_mutex_unlock(&st->lock);
    qemu_co_mutex_unlock(&st->record_lock);
    return news;
}

int coroutine_fn GRAPH_RDLOCK quorum_state_end_flags(QuorumState *st)
{
    uint64_t lacking;
    bool maps;
    int ret = 0;

    qemu_co_mutex_lock(&st->record_lock);
    qemu_co_rwlock_rdlock(&st->layout_lock);
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        lacking = quorum_state_lacking_slots_locked(st);
        maps = quorum_state_wants_maps_locked(st, lacking) &&
               quorum_state_flagged_slots_locked(st, lacking);
    }
    if (maps) {
        ret = quorum_state_record_maps(st, lacking);
    }
    qemu_co_rwlock_unlock(&st->layout_lock);
    qemu_co_mutex_unlock(&st->record_lock);
    return ret;
}

int coroutine_fn quorum_state_store(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    g_autofree bool *begun = g_new0(bool, st->num_nodes);
    bool any = false;
    uint64_t lacking;
    int ret = quorum_state_end_flags(st);       /* in the order it takes */

    if (ret < 0) {
        return ret;
    }
    qemu_co_mutex_lock(&st->record_lock);
    qemu_co_rwlock_rdlock(&st->layout_lock);
    qemu_mutex_lock(&st->lock);
    lacking = quorum_state_lacking_slots_locked(st);
    if (st->label.flags & QUORUM_STATE_MAPS_INVALID) {
        ret = -EAGAIN;          /* pages are not written now */
    }
    for (int k = 0; k < QUORUM_STATE_RECORDS && ret == 0; k++) {
        int i = quorum_state_slot_of(st, k);
        int64_t start, end;

        if (st->away[k]) {
            quorum_state_add_marked_locked(st, st->away[k]);
        }
        if (!st->away[k] && !st->stored[k] && !st->written[k] &&
            (i < 0 || !(lacking >> i & 1))) {
            continue;
        }
        if (i >= 0 && lacking >> i & 1) {
            begun[i] = quorum_sync_store_begin(s->sync, i, &start, &end);
        }
        quorum_state_store_begin_locked(st, k);
        any = true;
    }
    qemu_mutex_unlock(&st->lock);
    if (any) {
        ret = quorum_state_commit(st);
    }
    quorum_state_end_news(st, begun, ret == 0);
    qemu_co_rwlock_unlock(&st->layout_lock);
    qemu_co_mutex_unlock(&st->record_lock);
    return ret;
}
