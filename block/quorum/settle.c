/*
 * Quorum block driver: who stores what: settling writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * When all children have answered a write, a flush or a resize, the request is
 * *settled*: may it be acknowledged, and which children are stale from now on?
 * Here are writes, and what all of them count by; flushes and resizes are in
 * settle-flush.c.
 *
 * All that makes a child stale, or ends that, happens under one mutex, and so
 * does each decision that counts children that are not stale.  That is what
 * keeps this true at any moment (promise 1): what has been acknowledged is
 * stored by at least threshold children that are not stale there.  Exceptions:
 * children were taken out since, the threshold was raised, a flush that failed
 * has cost them what they had not flushed, or a shrink was undone.  Of two
 * requests that each miss another child in one granule, the later one finds the
 * child of the earlier one stale, and does not count it.
 *
 * Staleness ends only where a write or a repair covers a whole granule, with
 * its range held in BDRVQuorumState.range_lock: no other write in flight can
 * have made the granule stale for good reason meanwhile.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "sync-int.h"
#include "trace.h"

/* --- counting --- */

int quorum_sync_count_done(const QuorumSync *sync, const bool *missed,
                           bool *any_missed)
{
    int done = 0;

    *any_missed = false;
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_is_member(sync, i)) {
            done += !missed[i];
            *any_missed |= missed[i];
        }
    }
    return done;
}

int quorum_sync_count_copies_locked(const QuorumSync *sync,
                                    const bool *missed, int64_t offset,
                                    int64_t bytes, QuorumCopy copy)
{
    int64_t end = offset + bytes;
    int fewest = INT_MAX;

    while (offset < end) {
        int copies = 0;

        for (int i = 0; i < sync->num_children; i++) {
            copies += quorum_sync_is_member(sync, i) && !missed[i] &&
                      !quorum_sync_lacks_locked(sync, i, offset, 1, copy);
        }
        fewest = MIN(fewest, copies);
        offset += quorum_sync_uniform_range_locked(sync, offset, end - offset,
                                                   copy);
    }
    return fewest;
}

/*
 * Whether at least @threshold members that are not in @missed have a copy of
 * all of the node, because they have no map that says otherwise.  With one dead
 * child, there is no need then to walk through its map of maybe millions of
 * ranges.
 */
static bool quorum_sync_enough_are_whole_locked(const QuorumSync *sync,
                                                const bool *missed,
                                                QuorumCopy copy, int threshold)
{
    int whole = 0;

    for (int i = 0; i < sync->num_children; i++) {
        const QuorumSyncChild *c = &sync->children[i];

        whole += quorum_sync_is_member(sync, i) && !missed[i] && !c->stale &&
                 !(copy & QUORUM_COPY_FLUSHED && c->recovered_since_flush) &&
                 !(copy & QUORUM_COPY_SURE && c->unsure);
    }
    return whole >= threshold;
}

/*
 * Whether at least @threshold members that are not in @missed have a copy of
 * the range, without the granules that are whole in @w, which may be NULL.
 */
static bool quorum_sync_has_copies_locked(const QuorumSync *sync,
                                          const bool *missed, int64_t offset,
                                          int64_t bytes, QuorumCopy copy,
                                          const QuorumWrite *w, int threshold)
{
    int64_t end = offset + bytes;
    int64_t skip = end, resume = end;

    if (quorum_sync_enough_are_whole_locked(sync, missed, copy, threshold)) {
        return true;
    }
    if (w) {
        skip = w->offset;
        resume = w->offset + w->bytes;
        quorum_sync_whole_granules_locked(sync, &skip, &resume);
        skip = MIN(MAX(skip, offset), end);
        resume = MIN(MAX(resume, skip), end);
    }
    return quorum_sync_count_copies_locked(sync, missed, offset, skip - offset,
                                           copy) >= threshold &&
           quorum_sync_count_copies_locked(sync, missed, resume, end - resume,
                                           copy) >= threshold;
}

bool quorum_sync_next_unflushed_locked(const QuorumSync *sync,
                                       const unsigned long *map,
                                       int64_t *start, int64_t *bytes)
{
    int64_t bits = quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift);
    int64_t from = DIV_ROUND_UP(*start, INT64_C(1) << sync->unflushed_shift);
    int64_t first = find_next_bit(map, bits, from);
    int64_t end = find_next_zero_bit(map, bits, first);

    *start = first << sync->unflushed_shift;
    *bytes = MIN(end << sync->unflushed_shift, sync->bytes) - *start;
    return first < bits && *bytes > 0;
}

bool quorum_sync_map_has_copies_locked(const QuorumSync *sync,
                                       const unsigned long *map,
                                       const bool *missed,
                                       QuorumCopy copy,
                                       const QuorumWrite *w,
                                       int threshold)
{
    int64_t start, bytes;

    if (quorum_sync_enough_are_whole_locked(sync, missed, copy, threshold)) {
        return true;
    }
    for (start = 0;
         quorum_sync_next_unflushed_locked(sync, map, &start, &bytes);
         start += bytes) {
        QuorumCopy here = copy;

        if (copy & QUORUM_COPY_TOLD &&
            quorum_sync_was_told_locked(sync, start, &bytes)) {
            here &= ~QUORUM_COPY_SURE;
        }
        if (!quorum_sync_has_copies_locked(sync, missed, start, bytes, here, w,
                                           threshold)) {
            return false;
        }
    }
    return true;
}

/* The members in @missed may have lost the range; enough others store it. */
static void quorum_sync_range_lost_locked(QuorumSync *sync, const bool *missed,
                                          int64_t offset, int64_t bytes,
                                          const char *why)
{
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_is_member(sync, i) && missed[i]) {
            quorum_sync_mark_stale_locked(sync, i, offset, bytes, why);
        }
    }
}

/* Mark all that is in @map of the child in slot @i. */
static void quorum_sync_map_lost_locked(QuorumSync *sync, int i,
                                        const unsigned long *map,
                                        QuorumSyncMarkFn *mark,
                                        const char *why)
{
    int64_t start, bytes;

    for (start = 0;
         quorum_sync_next_unflushed_locked(sync, map, &start, &bytes);
         start += bytes) {
        mark(sync, i, start, bytes, why);
    }
}

void quorum_sync_mark_may_lose_locked(QuorumSync *sync, int i,
                                      QuorumSyncMarkFn *mark, const char *why)
{
    const QuorumSyncChild *c = &sync->children[i];

    if (c->may_lose) {
        quorum_sync_map_lost_locked(sync, i, c->may_lose, mark, why);
    } else {
        quorum_sync_map_lost_locked(sync, i, sync->flushing, mark, why);
        quorum_sync_map_lost_locked(sync, i, sync->unflushed, mark, why);
    }
}

void quorum_sync_nothing_to_lose_locked(QuorumSync *sync, int i)
{
    QuorumSyncChild *c = &sync->children[i];

    g_clear_pointer(&c->may_lose, g_free);
    if (c->stale || c->unsure) {
        c->may_lose = bitmap_new(quorum_sync_unflushed_bits(
                                     sync->bytes, sync->unflushed_shift));
    }
}

void quorum_sync_unflushed_lost_locked(QuorumSync *sync,
                                       const bool *missed,
                                       const char *why)
{
    for (int i = 0; i < sync->num_children; i++) {
        QuorumSyncChild *c = &sync->children[i];

        if (!quorum_sync_is_member(sync, i) || !missed[i]) {
            continue;
        }
        quorum_sync_mark_may_lose_locked(sync, i,
                                         quorum_sync_mark_stale_locked, why);
        quorum_sync_nothing_to_lose_locked(sync, i);
        /* Another one may have seen the failed flush as a loss, before. */
        c->rewrite = c->unsure;
    }
}

/*
 * The acknowledged write @w, of which the children know by now: those in
 * w->missed have a stale map.  What they can lose is what they had taken
 * before.  The others may lose anything again.
 */
static void quorum_sync_note_taken_locked(QuorumSync *sync,
                                          const QuorumWrite *w)
{
    int64_t bits = quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift);

    for (int i = 0; i < sync->num_children; i++) {
        QuorumSyncChild *c = &sync->children[i];

        if (!w->missed[i]) {
            g_clear_pointer(&c->may_lose, g_free);
        } else if ((c->stale || c->unsure) && !c->may_lose) {
            c->may_lose = bitmap_new(bits);
            bitmap_or(c->may_lose, sync->unflushed, sync->flushing, bits);
        }
    }
}

void quorum_sync_check_map_copies_locked(const QuorumSync *sync,
                                         const unsigned long *map,
                                         int threshold)
{
    int64_t start, bytes;

    for (start = 0; quorum_debug.on &&
         quorum_sync_next_unflushed_locked(sync, map, &start, &bytes);
         start += bytes) {
        quorum_check_copies_locked(sync, start, bytes, threshold);
    }
}

/* --- FUA writes --- */

void quorum_sync_set_unflushed_locked(QuorumSync *sync, int64_t offset,
                                      int64_t bytes)
{
    bytes = MIN(bytes, sync->bytes - offset);
    if (bytes > 0) {
        quorum_sync_set_bits(sync->unflushed, sync->unflushed_shift, offset,
                             bytes);
        if (unlikely(sync->since_flush)) {
            quorum_sync_set_bits(sync->since_flush, sync->unflushed_shift,
                                 offset, bytes);
        }
        qatomic_set(&sync->any_unflushed, true);
    }
}

/* Stop tracking the oldest acknowledged FUA write: it is safe. */
static void quorum_sync_forget_fua_locked(QuorumSync *sync)
{
    QuorumFuaDone *done = QSIMPLEQ_FIRST(&sync->fua_done);

    QSIMPLEQ_REMOVE_HEAD(&sync->fua_done, next);
    sync->num_fua_done--;
    g_free(done);
}

/*
 * Stop tracking the oldest acknowledged FUA write by itself, and count its
 * range as unflushed instead.
 */
static void quorum_sync_fua_to_unflushed_locked(QuorumSync *sync)
{
    QuorumFuaDone *done = QSIMPLEQ_FIRST(&sync->fua_done);
    int64_t bytes = MIN(done->bytes, sync->bytes - done->offset);

    if (bytes > 0) {
        quorum_sync_set_unflushed_locked(sync, done->offset, bytes);
        /* Children that have taken nothing since had taken this. */
        for (int i = 0; i < sync->num_children; i++) {
            if (sync->children[i].may_lose) {
                quorum_sync_set_bits(sync->children[i].may_lose,
                                     sync->unflushed_shift, done->offset,
                                     bytes);
            }
        }
    }
    quorum_sync_forget_fua_locked(sync);
}

/* The FUA write @w is acknowledged: other ones in flight may still lose it. */
static void quorum_sync_remember_fua_locked(QuorumSync *sync,
                                            const QuorumWrite *w)
{
    QuorumFuaDone *done = g_new(QuorumFuaDone, 1);

    quorum_reached(QUORUM_BRANCH_FUA_REMEMBERED);
    *done = (QuorumFuaDone) {
        .offset = w->offset,
        .bytes = w->bytes,
        .ended_tick = sync->fua_ticks++,
    };
    QSIMPLEQ_INSERT_TAIL(&sync->fua_done, done, next);
    if (++sync->num_fua_done > quorum_limits.fua_done) {
        quorum_reached(QUORUM_BRANCH_FUA_LIST_FULL);
        quorum_sync_fua_to_unflushed_locked(sync);
    }
}

/* The FUA write @w has ended, and is @acknowledged or not. */
static void quorum_sync_end_fua_locked(QuorumSync *sync, QuorumWrite *w,
                                       bool acknowledged)
{
    QuorumWrite *oldest;

    QTAILQ_REMOVE(&sync->fua_writes, w, fua_next);
    oldest = QTAILQ_FIRST(&sync->fua_writes);
    if (!acknowledged) {
        /*
         * Some children may have @w unflushed, and others may have lost in its
         * flush what earlier FUA writes had given them.
         */
        quorum_sync_set_unflushed_locked(sync, w->offset, w->bytes);
        while (!QSIMPLEQ_EMPTY(&sync->fua_done)) {
            quorum_sync_fua_to_unflushed_locked(sync);
        }
    } else if (oldest) {
        quorum_sync_remember_fua_locked(sync, w);
    }
    while (!QSIMPLEQ_EMPTY(&sync->fua_done) &&
           (!oldest || QSIMPLEQ_FIRST(&sync->fua_done)->ended_tick <
                       oldest->begun_tick)) {
        quorum_sync_forget_fua_locked(sync);
    }
}

/*
 * @w was a FUA write and failed on some children.  The part that failed may
 * have been the flush, so those children may also have lost everything they had
 * not flushed yet.  Enough children store @w itself: is that so of the older
 * data, too?
 */
static bool quorum_sync_survives_failed_fua_locked(const QuorumSync *sync,
                                                   const QuorumWrite *w,
                                                   QuorumCopy copy,
                                                   int threshold)
{
    QuorumFuaDone *done;
    bool failed = false;
    bool ok;

    for (int i = 0; i < sync->num_children; i++) {
        /* If no child has failed it, none has lost anything in its flush. */
        failed |= sync->children[i].failed_flush_generation > w->begun;
    }
    if (!failed) {
        copy = QUORUM_COPY_ANY;
    }
    ok = quorum_sync_map_has_copies_locked(sync, sync->unflushed, w->missed,
                                           copy, w, threshold);

    QSIMPLEQ_FOREACH(done, &sync->fua_done, next) {
        ok = ok && quorum_sync_has_copies_locked(sync, w->missed, done->offset,
                                                 done->bytes, copy, w,
                                                 threshold);
    }
    return ok;
}

/* That is so: the children that have failed are stale in the older data. */
static void quorum_sync_settle_failed_fua_locked(QuorumSync *sync,
                                                 const QuorumWrite *w)
{
    QuorumFuaDone *done;

    quorum_reached(QUORUM_BRANCH_FUA_MADE_STALE);
    QSIMPLEQ_FOREACH(done, &sync->fua_done, next) {
        quorum_sync_range_lost_locked(sync, w->missed, done->offset,
                                      done->bytes, "failed FUA write");
    }
    quorum_sync_unflushed_lost_locked(sync, w->missed, "failed FUA write");
}

/* --- writes --- */

void quorum_sync_write_begin(QuorumSync *sync, QuorumWrite *w, int64_t offset,
                             int64_t bytes, bool fua, bool *missed)
{
    *w = (QuorumWrite) {
        .offset = offset,
        .bytes = bytes,
        .missed = missed,
        .fua = fua,
    };

    QUORUM_SYNC_GUARD(sync);
    w->grows = offset + bytes > sync->bytes;
    if (fua) {
        w->begun_tick = sync->fua_ticks++;
        QTAILQ_INSERT_TAIL(&sync->fua_writes, w, fua_next);
    } else {
        quorum_sync_set_unflushed_locked(sync, offset, bytes);
    }
    w->flush_generation = stat64_get(&sync->flush_generation);
    w->begun = w->flush_generation;
    if (unlikely(quorum_debug.on)) {
        quorum_check_write_begins_locked(sync, w);
    }
}

void quorum_sync_catch_up_locked(QuorumSync *sync, QuorumWrite *w)
{
    uint64_t generation = stat64_get(&sync->flush_generation);

    if (generation == w->flush_generation) {
        return;
    }
    quorum_reached(QUORUM_BRANCH_WRITE_BESIDE_FLUSH);
    if (!w->fua) {
        quorum_sync_set_unflushed_locked(sync, w->offset, w->bytes);
    }
    for (int i = 0; i < sync->num_children; i++) {
        if (sync->children[i].failed_flush_generation > w->flush_generation) {
            trace_quorum_lost_in_flight(sync->node, i, w->offset, w->bytes);
            w->missed[i] = true;
        }
    }
    w->flush_generation = generation;
}

void quorum_sync_write_abandon(QuorumSync *sync, QuorumWrite *w)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_catch_up_locked(sync, w);
    if (w->fua) {
        quorum_sync_end_fua_locked(sync, w, false);
    }
    if (unlikely(quorum_debug.on)) {
        quorum_check_write_ends_locked(sync, w);
    }
}

int quorum_sync_count_growing_locked(const QuorumSync *sync,
                                     const bool *missed, int64_t pos,
                                     int64_t bytes, QuorumCopy copy)
{
    int64_t granule = quorum_sync_granule(bytes);
    int64_t start = QEMU_ALIGN_DOWN(pos, granule);
    int64_t end = MIN(ROUND_UP(pos, granule), sync->bytes);
    int count = 0;

    for (int i = 0; i < sync->num_children; i++) {
        count += quorum_sync_is_member(sync, i) && !missed[i] &&
                 !quorum_sync_lacks_locked(sync, i, start, end - start, copy);
    }
    return count;
}

/*
 * Whether at least @threshold of the members that have done @w store it, once
 * the granules that are whole in it have ceased to be stale.  They may be
 * others in its first granule than in its last one.
 */
static bool quorum_sync_write_has_copies_locked(const QuorumSync *sync,
                                                const QuorumWrite *w,
                                                QuorumCopy copy, int threshold)
{
    int64_t end = w->offset + w->bytes;

    if (end > sync->bytes) {
        return quorum_sync_count_growing_locked(sync, w->missed, w->offset, end,
                                                copy) >= threshold;
    }
    return quorum_sync_has_copies_locked(sync, w->missed, w->offset, w->bytes,
                                         copy, w, threshold);
}

/* @w is acknowledged: children that missed it are stale, others are not. */
static void quorum_sync_acknowledge_locked(QuorumSync *sync,
                                           const QuorumWrite *w, int threshold)
{
    for (int i = 0; i < sync->num_children; i++) {
        if (!sync->children[i].present) {
            continue;
        }
        if (w->missed[i] || !quorum_sync_is_member(sync, i)) {
            if (!quorum_sync_is_stale_locked(sync, i, w->offset, w->bytes)) {
                quorum_reached(QUORUM_BRANCH_WRITE_MADE_STALE);
            }
            quorum_sync_mark_stale_locked(sync, i, w->offset, w->bytes,
                                          "missed write");
        } else {
            quorum_sync_clear_stale_locked(sync, i, w->offset, w->bytes,
                                           w->fua);
        }
    }
    if (unlikely(quorum_debug.on)) {
        quorum_check_copies_locked(sync, w->offset, w->bytes, threshold);
    }
}

/*
 * @w reaches behind what was the end of the node when it began.  If it is
 * acknowledged, the node is as long as that, and the children have yet to flush
 * what is new.  Otherwise, some of them may have it.
 */
static void quorum_sync_settle_growth_locked(QuorumSync *sync,
                                             const QuorumWrite *w,
                                             int64_t gap, bool acknowledged)
{
    int64_t end = w->offset + w->bytes;

    if (!acknowledged) {
        sync->touched_end = MAX(sync->touched_end, end);
        return;
    }
    if (end > sync->bytes) {
        quorum_sync_resize_locked(sync, end);
    }
    quorum_sync_set_unflushed_locked(sync, w->offset, w->fua ? gap : w->bytes);
}

/*
 * A write that grows, and begins behind the end: who has done it also has the
 * zeroes in between, and no one else.  Makes them a part of @w, and returns how
 * much that is.
 */
static int64_t quorum_sync_add_gap_locked(const QuorumSync *sync,
                                          QuorumWrite *w)
{
    int64_t gap = w->grows ? MAX(w->offset - sync->bytes, 0) : 0;

    w->offset -= gap;
    w->bytes += gap;
    return gap;
}

/*
 * Whether @w may be acknowledged: enough members have done it and are sure of
 * what is around it in granules that it covers partly; or with QUORUM_COPY_ANY,
 * whether that might be so if those were confirmed that are unsure.
 */
static bool quorum_sync_is_held_locked(const QuorumSync *sync,
                                       const QuorumWrite *w, QuorumCopy copy,
                                       int threshold)
{
    bool any_missed;
    int done = quorum_sync_count_done(sync, w->missed, &any_missed);

    return done >= threshold &&
           quorum_sync_write_has_copies_locked(sync, w, copy, threshold) &&
           (!w->fua || !any_missed ||
            quorum_sync_survives_failed_fua_locked(sync, w, copy, threshold));
}

/* Add to @missed[slot] the children that may undo @w by an older write. */
static void quorum_sync_add_late_locked(const QuorumSync *sync,
                                        const QuorumWrite *w, bool *missed)
{
    for (int i = 0; i < sync->num_children; i++) {
        missed[i] |= quorum_sync_is_late_locked(sync, i, w->offset, w->bytes);
    }
}

/*
 * Which members have lost something while @w was in flight, so that it has
 * failed on them, or may be lost?  Those on which @w has failed in its flush
 * are not among them, nor are those that would not be asked again, as they do
 * not answer.  Returns whether there are any.
 */
static bool quorum_sync_find_lost_locked(const QuorumSync *sync,
                                         const QuorumWrite *w, bool *lost)
{
    bool any = false;

    for (int i = 0; i < sync->num_children; i++) {
        const QuorumSyncChild *c = &sync->children[i];

        lost[i] = quorum_sync_is_member(sync, i) && !c->lagging &&
                  c->failed_flush_generation > w->flush_generation &&
                  c->failed_flush_generation > c->flush_error_generation;
        any |= lost[i];
    }
    return any;
}

static bool quorum_sync_would_hold_locked(const QuorumSync *sync,
                                          const QuorumWrite *w, bool *missed,
                                          const bool *waited_for,
                                          int threshold)
{
    g_autofree bool *lost = g_new(bool, sync->num_children);
    g_autofree bool *missed_later = g_new(bool, sync->num_children);
    QuorumWrite now = *w, later;

    quorum_sync_find_lost_locked(sync, w, lost);
    for (int i = 0; i < sync->num_children; i++) {
        bool waited = waited_for && waited_for[i];

        missed[i] |= w->missed[i] ||
                     sync->children[i].failed_flush_generation >
                     w->flush_generation;
        /* Those that have lost something are sent it again. */
        missed[i] &= !lost[i] || waited;
        missed_later[i] = missed[i] && !waited;
    }
    now.missed = missed;
    quorum_sync_add_gap_locked(sync, &now);
    later = now;
    later.missed = missed_later;
    /* Where one is sure, a vote may confirm the others; else nothing helps. */
    return quorum_sync_is_held_locked(sync, &now, QUORUM_COPY_ANY, threshold) &&
           (quorum_sync_is_held_locked(sync, &now, QUORUM_COPY_SURE, 1) ||
            !quorum_sync_is_held_locked(sync, &later, QUORUM_COPY_SURE, 1));
}

bool quorum_sync_would_hold(QuorumSync *sync, const QuorumWrite *w,
                            bool *missed, const bool *waited_for,
                            int threshold)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_add_late_locked(sync, w, missed);
    return quorum_sync_would_hold_locked(sync, w, missed, waited_for,
                                         threshold);
}

bool quorum_sync_would_hold_later(QuorumSync *sync, const QuorumWrite *w,
                                  bool *missed, int threshold)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_would_hold_locked(sync, w, missed, NULL, threshold);
}

bool quorum_sync_write_is_lost(QuorumSync *sync, const QuorumWrite *w)
{
    g_autofree bool *lost = g_new(bool, sync->num_children);

    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_find_lost_locked(sync, w, lost);
}

/*
 * Whether @w might be held if it was sent again to those in @lost, which may be
 * NULL, and all were confirmed that are unsure.
 */
static bool quorum_sync_may_be_held_locked(const QuorumSync *sync,
                                           const QuorumWrite *w,
                                           const bool *lost, int threshold)
{
    g_autofree bool *missed = g_new(bool, sync->num_children);
    QuorumWrite again = *w;

    for (int i = 0; i < sync->num_children; i++) {
        missed[i] = w->missed[i] && !(lost && lost[i]);
    }
    again.missed = missed;
    return quorum_sync_is_held_locked(sync, &again, QUORUM_COPY_ANY, threshold);
}

/* What becomes of @w, of which the children in @lost have lost something. */
static QuorumWriteOutcome
quorum_sync_write_outcome_locked(const QuorumSync *sync, const QuorumWrite *w,
                                 int threshold, bool may_vote,
                                 const bool *lost)
{
    QuorumCopy copy = QUORUM_COPY_SURE | (may_vote ? 0 : QUORUM_COPY_TOLD);
    bool held = quorum_sync_is_held_locked(sync, w, copy, threshold);
    bool ignored;

    /* A child that others can do without gets one more chance. */
    if (lost && !(held && w->sent_again) &&
        quorum_sync_may_be_held_locked(sync, w, lost, threshold)) {
        return QUORUM_WRITE_LOST;
    }
    if (held) {
        return QUORUM_WRITE_HELD;
    }
    if (may_vote &&
        (quorum_sync_may_be_held_locked(sync, w, NULL, threshold) ||
         (quorum_sync_any_outvoted_locked(sync) &&
          quorum_sync_count_done(sync, w->missed, &ignored) >= threshold))) {
        return QUORUM_WRITE_UNSURE;
    }
    return QUORUM_WRITE_REFUSED;
}

/* @w has ended, and is @acknowledged or not. */
static void quorum_sync_end_write_locked(QuorumSync *sync, QuorumWrite *w,
                                         int64_t gap, bool any_missed,
                                         bool acknowledged)
{
    if (w->fua && any_missed && acknowledged) {
        quorum_sync_settle_failed_fua_locked(sync, w);
    } else if (w->fua && any_missed) {
        quorum_reached(QUORUM_BRANCH_FUA_REFUSED);
    }
    if (w->grows) {
        quorum_sync_settle_growth_locked(sync, w, gap, acknowledged);
    }
    if (w->fua) {
        quorum_sync_end_fua_locked(sync, w, acknowledged);
    }
    if (unlikely(quorum_debug.on)) {
        quorum_check_write_ends_locked(sync, w);
    }
}

QuorumWriteOutcome quorum_sync_write_settle(QuorumSync *sync, QuorumWrite *w,
                                            int threshold, bool may_send,
                                            bool may_vote)
{
    bool any_missed;
    int done = quorum_sync_count_done(sync, w->missed, &any_missed);
    g_autofree bool *lost = NULL;
    QuorumWriteOutcome outcome;
    bool acknowledged;
    int64_t gap;

    /*
     * The fast path: nothing has failed, and nothing is to be marked.
     *
     * The barrier orders the loads of what the children have answered before
     * the load of flush_generation.  It pairs with smp_mb() in
     * quorum_sync_flush_begin(), between the store to flush_generation and what
     * the children are asked.  So if the load here still sees the old value,
     * all children had done this write before the first one was asked to flush:
     * the flush covers the write, and finds its range in the map.
     *
     * If another request makes a child stale at this very moment, it has
     * counted the children that are left, and all of them store this write.
     */
    smp_rmb();
    if (!w->fua && !w->grows && !any_missed &&
        !qatomic_read(&sync->num_degraded) &&
        stat64_get(&sync->flush_generation) == w->flush_generation &&
        !quorum_debug_skips_fast_path()) {
        if (unlikely(quorum_debug.on)) {
            quorum_check_write_ends(sync, w);
        }
        return done >= threshold ? QUORUM_WRITE_HELD : QUORUM_WRITE_REFUSED;
    }

    QUORUM_SYNC_GUARD(sync);
    /* Most writes of a degraded node come here, and nothing was lost. */
    may_send &= stat64_get(&sync->flush_generation) != w->flush_generation;
    if (may_send) {
        lost = g_new(bool, sync->num_children);
        may_send = quorum_sync_find_lost_locked(sync, w, lost);
    }
    quorum_sync_add_late_locked(sync, w, w->missed);
    quorum_sync_catch_up_locked(sync, w);
    quorum_sync_count_done(sync, w->missed, &any_missed);
    gap = quorum_sync_add_gap_locked(sync, w);
    outcome = quorum_sync_write_outcome_locked(sync, w, threshold, may_vote,
                                               may_send ? lost : NULL);
    if (outcome == QUORUM_WRITE_LOST) {
        /* It goes on as it was before. */
        quorum_reached(QUORUM_BRANCH_WRITE_LOST);
        w->offset += gap;
        w->bytes -= gap;
        return outcome;
    }
    acknowledged = outcome == QUORUM_WRITE_HELD;
    quorum_sync_end_write_locked(sync, w, gap, any_missed, acknowledged);
    if (acknowledged) {
        quorum_sync_acknowledge_locked(sync, w, threshold);
    } else {
        quorum_reached(outcome == QUORUM_WRITE_UNSURE ?
                       QUORUM_BRANCH_WRITE_UNSURE :
                       QUORUM_BRANCH_WRITE_REFUSED);
    }
    quorum_sync_note_taken_locked(sync, w);
    return outcome;
}

void quorum_sync_write_again(QuorumSync *sync, QuorumWrite *w)
{
    QUORUM_SYNC_GUARD(sync);
    w->sent_again = true;
    w->grows = w->offset + w->bytes > sync->bytes;
    if (!w->fua) {
        quorum_sync_set_unflushed_locked(sync, w->offset, w->bytes);
    }
    w->flush_generation = stat64_get(&sync->flush_generation);
}

bool quorum_sync_repair_settle(QuorumSync *sync, QuorumWrite *w, int i,
                               int64_t offset, int64_t bytes)
{
    assert(offset >= w->offset && offset + bytes <= w->offset + w->bytes);

    QUORUM_SYNC_GUARD(sync);
    quorum_sync_catch_up_locked(sync, w);
    if (!quorum_sync_is_member(sync, i) || w->missed[i] ||
        quorum_sync_is_late_locked(sync, i, offset, bytes)) {
        quorum_reached(QUORUM_BRANCH_REPAIR_LOST);
        return false;
    }
    quorum_sync_clear_stale_locked(sync, i, offset, bytes, false);
    g_clear_pointer(&sync->children[i].may_lose, g_free);
    return true;
}
