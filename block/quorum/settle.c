/*
 * Quorum block driver: what becomes of requests that change the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * When all children have answered a write, a flush or a resize, it is
 * *settled*: may it be acknowledged, and who is stale from now on?
 *
 * All that makes a child stale, or ends that, happens under one mutex, and so
 * does each decision that counts children that are not stale.  That is what
 * keeps this true at any moment (promise 1): what has been acknowledged is held
 * by at least threshold children that are not stale there, unless children were
 * taken out since, or a flush that failed has taken back what had cured them.
 * Two requests that each lose another child in one granule can't both believe
 * in the other's loser.
 *
 * Staleness ends only where a write or a repair covers a whole granule, with
 * its range held in range_lock: no other write in flight can have made the
 * granule stale for good reason meanwhile.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "debug.h"
#include "sync-int.h"

/*
 * How many children that are in have not failed; *@any_failed says whether one
 * has.
 */
static int GRAPH_RDLOCK quorum_count_done(BDRVQuorumState *s,
                                          const bool *failed,
                                          bool *any_failed)
{
    int done = 0;

    *any_failed = false;
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_slot_is_in(&s->slots[i])) {
            done += !failed[i];
            *any_failed |= failed[i];
        }
    }
    return done;
}

/* --- writes --- */

/* Called with lock held. */
static void quorum_set_unflushed(BDRVQuorumState *s, int64_t offset,
                                 int64_t bytes)
{
    int64_t first = offset >> s->unflushed_shift;
    int64_t last = (offset + bytes - 1) >> s->unflushed_shift;

    /* Mostly it is one that is set already. */
    if (bytes && (first != last || !test_bit(first, s->unflushed))) {
        bitmap_set(s->unflushed, first, last - first + 1);
    }
}

/* Forget the oldest FUA write that was acknowledged.  Called with lock held. */
static void quorum_fua_forget(BDRVQuorumState *s)
{
    QuorumFuaDone *done = QSIMPLEQ_FIRST(&s->fua_done);

    QSIMPLEQ_REMOVE_HEAD(&s->fua_done, next);
    s->num_fua_done--;
    g_free(done);
}

/* ... but that it was written.  Called with lock held. */
static void quorum_fua_to_unflushed(BDRVQuorumState *s)
{
    QuorumFuaDone *done = QSIMPLEQ_FIRST(&s->fua_done);
    int64_t end = MIN(done->offset + done->bytes, s->map_bytes);

    if (done->offset < end) {
        quorum_set_unflushed(s, done->offset, end - done->offset);
    }
    quorum_fua_forget(s);
}

/* The FUA write @w has ended.  Called with lock held. */
static void quorum_fua_end(BDRVQuorumState *s, QuorumWrite *w, bool held)
{
    QuorumWrite *oldest;

    QTAILQ_REMOVE(&s->fua_writes, w, next);
    oldest = QTAILQ_FIRST(&s->fua_writes);
    if (!held) {
        /* Some may have it, and others may have lost what they had. */
        quorum_set_unflushed(s, w->offset, w->bytes);
        while (!QSIMPLEQ_EMPTY(&s->fua_done)) {
            quorum_fua_to_unflushed(s);
        }
    } else if (oldest) {
        QuorumFuaDone *done = g_new(QuorumFuaDone, 1);

        *done = (QuorumFuaDone) {
            .offset = w->offset,
            .bytes = w->bytes,
            .ended = s->fua_clock++,
        };
        QSIMPLEQ_INSERT_TAIL(&s->fua_done, done, next);
        quorum_reached(QUORUM_BRANCH_FUA_REMEMBERED);
        if (++s->num_fua_done > quorum_limits.fua_done) {
            quorum_reached(QUORUM_BRANCH_FUA_LIST_FULL);
            quorum_fua_to_unflushed(s);
        }
    }
    while (!QSIMPLEQ_EMPTY(&s->fua_done) &&
           (!oldest || QSIMPLEQ_FIRST(&s->fua_done)->ended < oldest->begun)) {
        quorum_fua_forget(s);
    }
}

void quorum_write_begin(BDRVQuorumState *s, QuorumWrite *w, int64_t offset,
                        int64_t bytes, bool fua, bool *failed)
{
    *w = (QuorumWrite) {
        .offset = offset,
        .bytes = bytes,
        .failed = failed,
        .fua = fua,
    };

    QEMU_LOCK_GUARD(&s->lock);
    if (offset + bytes > s->map_bytes) {
        quorum_maps_resize_locked(s, offset + bytes);
    }
    if (fua) {
        w->begun = s->fua_clock++;
        QTAILQ_INSERT_TAIL(&s->fua_writes, w, next);
    } else {
        quorum_set_unflushed(s, offset, bytes);
    }
    w->epoch = stat64_get(&s->flush_epoch);
}

/* Called with lock held. */
static void quorum_write_end_locked(BDRVQuorumState *s, QuorumWrite *w)
{
    uint64_t epoch = stat64_get(&s->flush_epoch);

    if (epoch == w->epoch) {
        return;
    }
    quorum_reached(QUORUM_BRANCH_WRITE_BESIDE_FLUSH);
    if (!w->fua) {
        /* The flush may well have come too early for it. */
        quorum_set_unflushed(s, w->offset, w->bytes);
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (s->slots[i].lost_epoch > w->epoch) {
            w->failed[i] = true;
        }
    }
    w->epoch = epoch;
}

void quorum_write_end(BDRVQuorumState *s, QuorumWrite *w)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_write_end_locked(s, w);
    if (w->fua) {
        quorum_fua_end(s, w, false);
    }
}

/*
 * The smallest number, anywhere in the range, of children that are not stale
 * and have not failed.  Called with lock held.
 */
static int GRAPH_RDLOCK
quorum_count_holders(BDRVQuorumState *s, const bool *failed, int64_t offset,
                     int64_t bytes)
{
    int64_t end = offset + bytes;
    int least = INT_MAX;

    while (offset < end) {
        int holders = 0;

        for (int i = 0; i < s->num_slots; i++) {
            holders += quorum_slot_is_in(&s->slots[i]) && !failed[i] &&
                       !quorum_is_stale(s, i, offset, 1);
        }
        least = MIN(least, holders);
        offset += quorum_stale_run(s, offset, end - offset);
    }
    return least;
}

/*
 * Find the next area from *@start on in @map, which is unflushed or flushing.
 * Called with lock held.
 */
static bool quorum_next_unflushed(BDRVQuorumState *s, const unsigned long *map,
                                  int64_t *start, int64_t *bytes)
{
    int64_t bits = quorum_unflushed_bits(s->map_bytes, s->unflushed_shift);
    int64_t from = DIV_ROUND_UP(*start, INT64_C(1) << s->unflushed_shift);
    int64_t first = find_next_bit(map, bits, from);
    int64_t end = find_next_zero_bit(map, bits, first);

    *start = first << s->unflushed_shift;
    *bytes = MIN(end << s->unflushed_shift, s->map_bytes) - *start;
    return first < bits && *bytes > 0;
}

/*
 * Whether the range is held by enough children that have not failed.  Granules
 * that are whole in @w, if not NULL, are not looked at.  Called with lock held.
 */
static bool GRAPH_RDLOCK
quorum_range_is_held(BDRVQuorumState *s, const bool *failed, int64_t offset,
                     int64_t bytes, const QuorumWrite *w)
{
    int64_t end = offset + bytes;
    int64_t skip = end, resume = end;

    if (w) {
        skip = w->offset;
        resume = w->offset + w->bytes;
        quorum_whole_granules_locked(s, &skip, &resume);
        skip = MIN(MAX(skip, offset), end);
        resume = MIN(MAX(resume, skip), end);
    }
    return quorum_count_holders(s, failed, offset, skip - offset) >=
           s->opts.threshold &&
           quorum_count_holders(s, failed, resume, end - resume) >=
           s->opts.threshold;
}

/* The same for all that is in @map. */
static bool GRAPH_RDLOCK quorum_is_held(BDRVQuorumState *s,
                                        const unsigned long *map,
                                        const bool *failed,
                                        const QuorumWrite *w)
{
    int64_t start, bytes;

    for (start = 0; quorum_next_unflushed(s, map, &start, &bytes);
         start += bytes) {
        if (!quorum_range_is_held(s, failed, start, bytes, w)) {
            return false;
        }
    }
    return true;
}

void quorum_note_loss(BDRVQuorumState *s, int i)
{
    /*
     * What is in flight counts as failed even if the flush, as it turns out,
     * makes nobody stale because too many have failed it: the guest may hear of
     * a write after it has heard of that flush, and rely on it (promise 1).
     */
    QEMU_LOCK_GUARD(&s->lock);
    stat64_add(&s->flush_epoch, 1);
    s->slots[i].lost_epoch = stat64_get(&s->flush_epoch);
    /* What ended its being stale may be what is lost. */
    quorum_stale_restore(s, i);
}

/*
 * Those that failed may have lost the range.  Others hold it.  Called with lock
 * held.
 */
static void GRAPH_RDLOCK quorum_range_lost(BDRVQuorumState *s,
                                           const bool *failed, int64_t offset,
                                           int64_t bytes)
{
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_slot_is_in(&s->slots[i]) && failed[i]) {
            quorum_stale_set(s, i, offset, bytes);
        }
    }
}

/* The same for all that is in @map. */
static void GRAPH_RDLOCK quorum_flush_lost(BDRVQuorumState *s,
                                           const unsigned long *map,
                                           const bool *failed)
{
    int64_t start, bytes;

    for (start = 0; quorum_next_unflushed(s, map, &start, &bytes);
         start += bytes) {
        quorum_range_lost(s, failed, start, bytes);
    }
}

/*
 * The FUA write @w has failed on children, which may have been its flush.  That
 * @w is held has been found out before; so here, that what may be lost with it
 * is.  Called with lock held.
 */
static bool GRAPH_RDLOCK quorum_fua_failed(BDRVQuorumState *s,
                                           const QuorumWrite *w)
{
    QuorumFuaDone *done;

    if (!quorum_is_held(s, s->unflushed, w->failed, w)) {
        quorum_reached(QUORUM_BRANCH_FUA_REFUSED);
        return false;
    }
    QSIMPLEQ_FOREACH(done, &s->fua_done, next) {
        if (!quorum_range_is_held(s, w->failed, done->offset, done->bytes,
                                  w)) {
            quorum_reached(QUORUM_BRANCH_FUA_REFUSED);
            return false;
        }
    }
    quorum_reached(QUORUM_BRANCH_FUA_MADE_STALE);
    quorum_flush_lost(s, s->unflushed, w->failed);
    QSIMPLEQ_FOREACH(done, &s->fua_done, next) {
        quorum_range_lost(s, w->failed, done->offset, done->bytes);
    }
    return true;
}

/* Whether the child in slot @i holds @w now.  Called with lock held. */
static bool GRAPH_RDLOCK quorum_holds(BDRVQuorumState *s, QuorumWrite *w, int i)
{
    int64_t start = w->offset;
    int64_t end = w->offset + w->bytes;

    if (!quorum_slot_is_in(&s->slots[i]) || w->failed[i]) {
        return false;
    }
    if (!s->slots[i].stale) {
        return true;
    }
    quorum_whole_granules_locked(s, &start, &end);
    if (start == end) {
        return !quorum_is_stale(s, i, w->offset, w->bytes);
    }
    return !quorum_is_stale(s, i, w->offset, start - w->offset) &&
           !quorum_is_stale(s, i, end, w->offset + w->bytes - end);
}

bool quorum_write_settle(BDRVQuorumState *s, QuorumWrite *w)
{
    bool any_failed;
    int took = quorum_count_done(s, w->failed, &any_failed);
    int holders = 0;
    bool held;

    /*
     * The hot path.  Should a flush begin right now, it comes after what the
     * children have done (see quorum_flush_begin()), and finds the range
     * unflushed.  Should a child become stale right now, then whoever makes it
     * so counts on those that are left, and all of them have @w.
     */
    smp_rmb();
    if (!w->fua && !any_failed && !qatomic_read(&s->stale_slots) &&
        !quorum_debug.no_fast_path &&
        stat64_get(&s->flush_epoch) == w->epoch) {
        return took >= s->opts.threshold;
    }

    QEMU_LOCK_GUARD(&s->lock);
    quorum_write_end_locked(s, w);
    quorum_count_done(s, w->failed, &any_failed);
    for (int i = 0; i < s->num_slots; i++) {
        holders += quorum_holds(s, w, i);
    }
    held = holders >= s->opts.threshold &&
           !(w->fua && any_failed && !quorum_fua_failed(s, w));
    if (w->fua) {
        quorum_fua_end(s, w, held);
    }
    if (!held) {
        quorum_reached(QUORUM_BRANCH_WRITE_REFUSED);
        return false;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (!s->slots[i].child) {
            continue;
        }
        if (w->failed[i] || !quorum_slot_is_in(&s->slots[i])) {
            quorum_reached(QUORUM_BRANCH_WRITE_MADE_STALE);
            quorum_stale_set(s, i, w->offset, w->bytes);
        } else {
            quorum_stale_clear(s, i, w->offset, w->bytes);
        }
    }
    return true;
}

bool quorum_repair_settle(BDRVQuorumState *s, QuorumWrite *w, int i,
                          int64_t offset, int64_t bytes)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_write_end_locked(s, w);
    if (!quorum_slot_is_in(&s->slots[i]) || w->failed[i]) {
        return false;
    }
    quorum_stale_clear(s, i, offset, bytes);
    return true;
}

/* --- flushes --- */

void quorum_flush_begin(BDRVQuorumState *s)
{
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        unsigned long *empty = s->flushing;

        s->flushing = s->unflushed;
        s->unflushed = empty;
        stat64_add(&s->flush_epoch, 1);
        for (int i = 0; i < s->num_slots; i++) {
            quorum_cured_age(s, i);
        }
    }
    /*
     * Before the children get to flush, writes must be able to see that: one
     * that does not, has been done by all children by now.  Pairs with the
     * smp_rmb() in quorum_write_settle().
     */
    smp_mb();
}

/*
 * Whether all that was to be flushed is held by enough children that have done
 * so.  What was cured after the flush began, still counts as stale.  Called
 * with lock held.
 */
static bool GRAPH_RDLOCK quorum_is_flushed(BDRVQuorumState *s,
                                           const bool *failed)
{
    g_autofree HBitmap **stale = g_new(HBitmap *, s->num_slots);
    int stale_slots = s->stale_slots;
    bool held;

    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];

        stale[i] = slot->stale;
        if (slot->cured[0]) {
            quorum_reached(QUORUM_BRANCH_RECOVERED_TOO_LATE);
            slot->stale = hbitmap_alloc(s->map_bytes, s->stale_shift);
            hbitmap_merge(slot->cured[0], stale[i] ?: slot->stale,
                          slot->stale);
            qatomic_set(&s->stale_slots, s->num_slots);
        }
    }
    held = quorum_is_held(s, s->flushing, failed, NULL);
    for (int i = 0; i < s->num_slots; i++) {
        if (s->slots[i].stale != stale[i]) {
            hbitmap_free(s->slots[i].stale);
            s->slots[i].stale = stale[i];
        }
    }
    qatomic_set(&s->stale_slots, stale_slots);
    return held;
}

/*
 * The child has flushed all that was cured before the flush began.  Called with
 * lock held.
 */
static void quorum_note_in_sync(QuorumSlot *slot)
{
    if (slot->rebuilding && !slot->stale && !slot->cured[0]) {
        quorum_reached(QUORUM_BRANCH_IN_SYNC);
        qatomic_set(&slot->rebuilding, false);
    }
}

bool quorum_flush_settle(BDRVQuorumState *s, const bool *failed)
{
    bool any_failed, any_cured = false;
    int64_t bits;
    bool ok;

    QEMU_LOCK_GUARD(&s->lock);

    for (int i = 0; i < s->num_slots; i++) {
        any_cured |= s->slots[i].cured[0] != NULL;
        if (!failed[i]) {
            g_clear_pointer(&s->slots[i].cured[1], hbitmap_free);
            quorum_note_in_sync(&s->slots[i]);
        }
    }
    bits = quorum_unflushed_bits(s->map_bytes, s->unflushed_shift);

    ok = quorum_count_done(s, failed, &any_failed) >= s->opts.threshold;
    if (ok && (any_failed || any_cured || s->stale_slots)) {
        ok = quorum_is_flushed(s, failed);
    }
    if (ok && any_failed) {
        /* What was written meanwhile need not be flushed, but is lost, too. */
        ok = quorum_is_held(s, s->unflushed, failed, NULL);
    }
    if (!ok) {
        quorum_reached(QUORUM_BRANCH_FLUSH_REFUSED);
        bitmap_or(s->unflushed, s->unflushed, s->flushing, bits);
    } else if (any_failed) {
        quorum_reached(QUORUM_BRANCH_FLUSH_MADE_STALE);
        quorum_flush_lost(s, s->flushing, failed);
        quorum_flush_lost(s, s->unflushed, failed);
    }
    bitmap_zero(s->flushing, bits);
    return ok;
}

/* --- resizes --- */

bool quorum_resize_settle(BDRVQuorumState *s, const bool *failed, int64_t kept)
{
    bool any_failed;

    QEMU_LOCK_GUARD(&s->lock);
    if (quorum_count_done(s, failed, &any_failed) < s->opts.threshold ||
        quorum_count_holders(s, failed, 0, kept) < s->opts.threshold) {
        return false;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_slot_is_in(&s->slots[i]) && failed[i]) {
            quorum_reached(QUORUM_BRANCH_RESIZE_EXCLUDED);
            quorum_put_out_locked(s, i);
        }
    }
    return true;
}
