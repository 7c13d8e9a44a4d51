/*
 * Quorum block driver: who stores what: settling flushes and resizes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What has to be true before a flush or a resize may succeed, and which
 * children are stale, unsure or excluded afterwards.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "sync-int.h"

/* --- flushes --- */

void quorum_sync_lose_in_flight_locked(QuorumSync *sync, int i)
{
    stat64_add(&sync->flush_generation, 1);
    sync->children[i].failed_flush_generation =
        stat64_get(&sync->flush_generation);
}

void quorum_sync_flush_failed(QuorumSync *sync, int i, uint64_t failed_flush)
{
    QuorumSyncChild *c = &sync->children[i];
    QuorumFuaDone *done;

    QUORUM_SYNC_GUARD(sync);
    /*
     * What is in flight counts as failed even if the flush, as it turns out,
     * makes no child stale because too many have failed it: the guest may hear
     * of a write after it has heard of that flush, and rely on it (promise 1).
     */
    quorum_sync_lose_in_flight_locked(sync, i);
    c->flush_error_generation = c->failed_flush_generation;
    c->loss_by_flush = MAX(failed_flush, c->loss_by_flush);
    /* Until it is known how many others have done it: see promise 10. */
    quorum_sync_mark_all_unsure_locked(sync, i, "failed flush");
    QSIMPLEQ_FOREACH(done, &sync->fua_done, next) {
        quorum_sync_mark_unsure_locked(sync, i, done->offset, done->bytes,
                                       "failed flush");
    }
    quorum_sync_recovered_unsure_locked(sync, i, "failed flush");
    g_clear_pointer(&c->recovered_since_flush, hbitmap_free);
    g_clear_pointer(&c->recovered_before_flush, hbitmap_free);
    c->rewrite = c->unsure;
}

/* What is unflushed is being flushed from now on. */
static void quorum_sync_swap_unflushed_locked(QuorumSync *sync)
{
    unsigned long *empty = sync->flushing;

    if (unlikely(quorum_debug.on)) {
        quorum_check_flush_begins_locked(sync);
    }
    sync->flushing = sync->unflushed;
    sync->unflushed = empty;
    qatomic_set(&sync->any_unflushed, false);
    stat64_add(&sync->flush_generation, 1);
    sync->flush_in_flight = true;
    if (!sync->since_flush) {
        g_clear_pointer(&sync->lost_beside, g_free);
    }
    for (int i = 0; i < sync->num_children; i++) {
        quorum_sync_age_recovered_locked(sync, i);
    }
}

void quorum_sync_flush_begin(QuorumSync *sync)
{
    quorum_sync_lock(sync);
    quorum_sync_swap_unflushed_locked(sync);
    quorum_sync_unlock(sync);
    /*
     * Order the store to flush_generation, and the swap of the maps, before the
     * children are asked to flush.  Pairs with smp_rmb() in
     * quorum_sync_write_settle(): a write that still loads the old generation
     * there was completed by all children before this flush was sent to them,
     * so the flush covers it.
     */
    smp_mb();
}

/*
 * Whether the flush may be acknowledged, which enough members have done: they
 * have flushed all that was to be flushed.  If @any_missed, they must also
 * store what was written meanwhile, which the members in @missed may have lost,
 * too.
 */
static bool quorum_sync_flush_may_succeed_locked(const QuorumSync *sync,
                                                 const bool *missed,
                                                 bool any_missed,
                                                 QuorumCopy copy, int threshold)
{
    return quorum_sync_map_has_copies_locked(sync, sync->flushing, missed,
                                             QUORUM_COPY_FLUSHED | copy, NULL,
                                             threshold) &&
           (!any_missed ||
            quorum_sync_map_has_copies_locked(sync, sync->unflushed, missed,
                                              copy, NULL, threshold));
}

/* Whether a child has recovered a range after the flush began. */
static bool quorum_sync_recovered_since_flush_locked(const QuorumSync *sync)
{
    for (int i = 0; i < sync->num_children; i++) {
        if (sync->children[i].recovered_since_flush) {
            return true;
        }
    }
    return false;
}

/*
 * What becomes of the flush, after which there @may be a @vote.  What children
 * have recovered before it began is flushed by now on those that have done it.
 */
static QuorumFlushOutcome
quorum_sync_flush_outcome_locked(const QuorumSync *sync, const bool *missed,
                                 bool any_missed, QuorumCopy copy,
                                 int threshold, bool may_vote)
{
    bool ignored;
    bool too_late = quorum_sync_recovered_since_flush_locked(sync);

    if (too_late) {
        quorum_reached(QUORUM_BRANCH_RECOVERED_TOO_LATE);
    }
    if (quorum_sync_count_done(sync, missed, &ignored) < threshold) {
        return QUORUM_FLUSH_FAILED;
    }
    /* Counting the children that have flushed may not be enough. */
    if (!(any_missed || too_late || sync->num_degraded)) {
        return QUORUM_FLUSH_DONE;
    }
    if (quorum_sync_flush_may_succeed_locked(sync, missed, any_missed, copy,
                                             threshold)) {
        return QUORUM_FLUSH_DONE;
    }
    /*
     * As long as some can't flush, the flush is owed.  If all have done it and
     * there are too few copies all the same, what is lacking was lost, and it
     * will not come back: as if children were unsure, that is told once.
     */
    return any_missed &&
           !(may_vote && quorum_sync_any_outvoted_locked(sync)) &&
           !quorum_sync_map_has_copies_locked(sync, sync->flushing, missed,
                                              QUORUM_COPY_ANY, NULL,
                                              threshold) ?
           QUORUM_FLUSH_FAILED : QUORUM_FLUSH_UNSURE;
}

bool quorum_sync_would_flush(QuorumSync *sync, const bool *missed,
                             int threshold)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_flush_outcome_locked(sync, missed, true,
                                            QUORUM_COPY_SURE, threshold,
                                            false) != QUORUM_FLUSH_FAILED;
}

bool quorum_sync_unflushed_has_copies(QuorumSync *sync, const bool *missed,
                                      const QuorumWrite *w, int threshold)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_map_has_copies_locked(sync, sync->unflushed, missed,
                                             QUORUM_COPY_ANY, w, threshold) &&
           (!sync->flush_in_flight ||
            quorum_sync_map_has_copies_locked(sync, sync->flushing, missed,
                                              QUORUM_COPY_ANY, w, threshold));
}

QuorumFlushOutcome quorum_sync_flush_settle(QuorumSync *sync,
                                            const bool *missed, int threshold,
                                            bool heard, bool first, bool last)
{
    QuorumFlushOutcome outcome;
    bool any_missed;
    int64_t bits;

    QUORUM_SYNC_GUARD(sync);
    for (int i = 0; i < sync->num_children; i++) {
        if (!missed[i]) {
            quorum_sync_flushed_locked(sync, i);
        }
    }
    bits = quorum_sync_unflushed_bits(sync->bytes, sync->unflushed_shift);

    quorum_sync_count_done(sync, missed, &any_missed);
    /* No loss is told twice, but what can be repaired is repaired before. */
    outcome = quorum_sync_flush_outcome_locked(
        sync, missed, any_missed,
        QUORUM_COPY_SURE | (last ? QUORUM_COPY_TOLD : 0), threshold, !last);
    if (outcome == QUORUM_FLUSH_DONE && first &&
        quorum_sync_worth_a_vote_locked(sync, missed)) {
        outcome = QUORUM_FLUSH_UNSURE;
    }
    if (outcome != QUORUM_FLUSH_UNSURE || last) {
        sync->flush_in_flight = false;
        g_clear_pointer(&sync->since_flush, g_free);
    } else {
        sync->since_flush = sync->since_flush ?: bitmap_new(bits);
        bitmap_or(sync->since_flush, sync->since_flush, sync->unflushed, bits);
    }
    if (outcome == QUORUM_FLUSH_DONE) {
        quorum_sync_unsure_to_stale_locked(sync, threshold);
        if (any_missed) {
            quorum_reached(QUORUM_BRANCH_FLUSH_MADE_STALE);
            quorum_sync_unflushed_lost_locked(sync, missed, "failed flush");
            quorum_sync_check_map_copies_locked(sync, sync->flushing,
                                                threshold);
        }
        bitmap_zero(sync->flushing, bits);
        return outcome;
    }
    if (outcome == QUORUM_FLUSH_UNSURE && heard && last) {
        /* Those that could do it have flushed what they have. */
        quorum_reached(QUORUM_BRANCH_FLUSH_LOST);
        quorum_sync_make_missed_unsure_locked(sync, missed);
        quorum_sync_tell_locked(sync);
    } else {
        quorum_reached(QUORUM_BRANCH_FLUSH_REFUSED);
        if (outcome == QUORUM_FLUSH_FAILED && heard) {
            quorum_sync_tell_locked(sync);
        }
        bitmap_or(sync->unflushed, sync->unflushed, sync->flushing, bits);
        qatomic_set(&sync->any_unflushed, true);
    }
    bitmap_zero(sync->flushing, bits);
    return outcome;
}

bool quorum_sync_any_unflushed(QuorumSync *sync)
{
    return qatomic_read(&sync->any_unflushed);
}

/* --- resizes --- */

void quorum_sync_resize(QuorumSync *sync, int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_resize_locked(sync, bytes);
}

void quorum_sync_set_unflushed(QuorumSync *sync, QuorumWrite *w, int64_t offset,
                               int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_set_unflushed_locked(sync, offset, bytes);
    quorum_sync_catch_up_locked(sync, w);
    for (int i = 0; i < sync->num_children; i++) {
        g_clear_pointer(&sync->children[i].may_lose, g_free);
    }
}

int quorum_sync_count_copies(QuorumSync *sync, const bool *missed,
                             int64_t offset, int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_count_copies_locked(sync, missed, offset, bytes,
                                           QUORUM_COPY_ANY);
}

int quorum_sync_count_sure(QuorumSync *sync, const bool *missed,
                           int64_t offset, int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_count_copies_locked(sync, missed, offset, bytes,
                                           QUORUM_COPY_SURE);
}

int quorum_sync_count_growing(QuorumSync *sync, const bool *missed,
                              int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_count_growing_locked(sync, missed, sync->bytes, bytes,
                                            QUORUM_COPY_SURE);
}

bool quorum_sync_resize_settle(QuorumSync *sync, const bool *missed,
                               int64_t kept, int threshold)
{
    bool any_missed;

    QUORUM_SYNC_GUARD(sync);
    if (quorum_sync_count_done(sync, missed, &any_missed) < threshold ||
        quorum_sync_count_copies_locked(sync, missed, 0, kept,
                                        QUORUM_COPY_ANY) < threshold) {
        return false;
    }
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_is_member(sync, i) && missed[i]) {
            quorum_reached(QUORUM_BRANCH_RESIZE_EXCLUDED);
            quorum_sync_exclude_locked(sync, i, false, "missed resize");
        }
    }
    if (unlikely(quorum_debug.on)) {
        quorum_check_copies_locked(sync, 0, kept, threshold);
    }
    return true;
}
