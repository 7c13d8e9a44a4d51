/*
 * Quorum block driver: who stores what: what children may have lost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Each child that may have lost something has an *unsure map*.  It is the
 * mechanism, as in stale-map.c; what is in it, and what of it the guest has
 * been told, is decided here (promise 10).
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "sync-int.h"
#include "trace.h"

/* How much a flush votes on that could do without those that are unsure */
#define QUORUM_VOTE_BYTES (64 * MiB)

/* --- the map --- */

void quorum_sync_drop_empty_unsure_locked(QuorumSync *sync, int i,
                                          const char *why)
{
    QuorumSyncChild *c = &sync->children[i];

    if (!c->unsure || !hbitmap_empty(c->unsure)) {
        return;
    }
    g_clear_pointer(&c->unsure, hbitmap_free);
    c->rewrite = false;
    if (!c->stale) {
        g_clear_pointer(&c->may_lose, g_free);
    }
    quorum_sync_count_degraded_locked(sync);
    quorum_sync_note_state_locked(sync, i, why);
}

bool quorum_sync_is_unsure_locked(const QuorumSync *sync, int i, int64_t offset,
                                  int64_t bytes)
{
    const QuorumSyncChild *c = &sync->children[i];

    assert(sync->locked);
    bytes = MIN(bytes, sync->bytes - offset);
    return c->unsure && bytes > 0 &&
           hbitmap_next_dirty(c->unsure, offset, bytes) >= 0;
}

void quorum_sync_untell_locked(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    int64_t first = offset >> sync->unflushed_shift;
    int64_t past = ((offset + bytes - 1) >> sync->unflushed_shift) + 1;

    if (!sync->told || bytes <= 0) {
        return;
    }
    for (first = find_next_bit(sync->told, past, first); first < past;
         first = find_next_bit(sync->told, past, first)) {
        clear_bit(first, sync->told);
        quorum_sync_set_unflushed_locked(sync, first << sync->unflushed_shift,
                                         INT64_C(1) << sync->unflushed_shift);
    }
}

void quorum_sync_mark_unsure_locked(QuorumSync *sync, int i, int64_t offset,
                                    int64_t bytes, const char *why)
{
    bytes = MIN(bytes, sync->bytes - offset);
    if (bytes > 0) {
        trace_quorum_child_unsure(sync->node, i, offset, bytes, why);
        quorum_sync_mark_locked(sync, i, &sync->children[i].unsure, offset,
                                bytes, why);
        quorum_sync_untell_locked(sync, offset, bytes);
    }
}

void quorum_sync_doubt_outvoted(QuorumSync *sync, int i, int64_t offset,
                                int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_widen_locked(sync, &offset, &bytes);
    for (int j = 0; j < sync->num_children; j++) {
        if (j != i && quorum_sync_is_member(sync, j) &&
            !quorum_sync_lacks_locked(sync, j, offset, bytes,
                                      QUORUM_COPY_SURE)) {
            quorum_sync_mark_unsure_locked(sync, i, offset, bytes, "outvoted");
            return;
        }
    }
}

void quorum_sync_clear_unsure_locked(QuorumSync *sync, int i, int64_t offset,
                                     int64_t bytes, const char *why)
{
    QuorumSyncChild *c = &sync->children[i];
    int64_t start = offset;
    int64_t end = offset + bytes;

    quorum_sync_whole_granules_locked(sync, &start, &end);
    if (c->unsure && start < end) {
        hbitmap_reset(c->unsure, start, end - start);
        quorum_sync_drop_empty_unsure_locked(sync, i, why);
    }
}

bool quorum_sync_any_unsure(QuorumSync *sync)
{
    return qatomic_read(&sync->num_unsure);
}

bool quorum_sync_is_unsure(QuorumSync *sync, int i, int64_t offset,
                           int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_is_unsure_locked(sync, i, offset, bytes);
}

bool quorum_sync_widen_unsure(QuorumSync *sync, int64_t *offset,
                              int64_t *bytes)
{
    QUORUM_SYNC_GUARD(sync);
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_is_unsure_locked(sync, i, *offset, *bytes) ||
            (sync->children[i].outvoted &&
             quorum_sync_is_stale_locked(sync, i, *offset, *bytes))) {
            quorum_sync_widen_locked(sync, offset, bytes);
            return true;
        }
    }
    return false;
}

bool quorum_sync_is_doubtful(QuorumSync *sync, int i, int64_t offset,
                             int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_lacks_locked(sync, i, offset, bytes, QUORUM_COPY_SURE);
}

bool quorum_sync_wants_rewrite(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return sync->children[i].rewrite;
}

void quorum_sync_set_sure(QuorumSync *sync, int i, int64_t offset,
                          int64_t bytes, uint64_t generation)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    if (MAX(c->loss_generation, c->loss_by_flush) <= generation &&
        !c->rewrite) {
        int64_t start = offset, end = offset + bytes;

        /* It may be a write in flight that it agrees in. */
        quorum_sync_whole_granules_locked(sync, &start, &end);
        quorum_sync_remember_recovered_locked(sync, i, c->unsure, start, end);
        quorum_sync_clear_unsure_locked(sync, i, offset, bytes, "confirmed");
        /* It has something to lose again. */
        g_clear_pointer(&c->may_lose, g_free);
    }
}

bool quorum_sync_was_told_locked(const QuorumSync *sync, int64_t start,
                                 int64_t *bytes)
{
    assert(sync->locked);
    if (!sync->told) {
        return false;
    }
    *bytes = MIN(*bytes, INT64_C(1) << sync->unflushed_shift);
    return test_bit(start >> sync->unflushed_shift, sync->told);
}

bool quorum_sync_is_told(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    int64_t last;

    QUORUM_SYNC_GUARD(sync);
    bytes = MIN(bytes, sync->bytes - offset);
    if (!sync->told || bytes <= 0) {
        return false;
    }
    last = (offset + bytes - 1) >> sync->unflushed_shift;
    return find_next_zero_bit(sync->told, last + 1,
                              offset >> sync->unflushed_shift) > last;
}

/* --- losses --- */

void quorum_sync_mark_all_unsure_locked(QuorumSync *sync, int i,
                                        const char *why)
{
    int64_t bits = quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift);

    if (sync->flush_in_flight) {
        sync->lost_beside = sync->lost_beside ?: bitmap_new(bits);
        bitmap_or(sync->lost_beside, sync->lost_beside,
                  sync->since_flush ?: sync->unflushed, bits);
    }
    quorum_sync_mark_may_lose_locked(sync, i, quorum_sync_mark_unsure_locked,
                                     why);
}

/*
 * The child in slot @i may have lost what it had taken and not flushed, and
 * from now on it has nothing to lose, until it takes something again.
 */
static void quorum_sync_make_unsure_locked(QuorumSync *sync, int i,
                                           const char *why)
{
    quorum_reached(QUORUM_BRANCH_MADE_UNSURE);
    quorum_sync_mark_all_unsure_locked(sync, i, why);
    quorum_sync_nothing_to_lose_locked(sync, i);
}

void quorum_sync_recovered_unsure_locked(QuorumSync *sync, int i,
                                         const char *why)
{
    QuorumSyncChild *c = &sync->children[i];
    HBitmap *maps[] = { c->recovered_since_flush, c->recovered_before_flush };

    if (maps[0] || maps[1]) {
        quorum_reached(QUORUM_BRANCH_FLUSH_TOOK_BACK);
    }
    for (int j = 0; j < ARRAY_SIZE(maps); j++) {
        int64_t start = 0, count;

        while (maps[j] && hbitmap_next_dirty_area(maps[j], start, sync->bytes,
                                                  INT64_MAX, &start, &count)) {
            quorum_sync_mark_unsure_locked(sync, i, start, count, why);
            /* The guest has to hear of it, if no vote helps. */
            quorum_sync_set_unflushed_locked(sync, start, count);
            start += count;
        }
    }
}

bool quorum_sync_lost(QuorumSync *sync, int i, uint64_t generation,
                      uint64_t failed_flush)
{
    QuorumSyncChild *c = &sync->children[i];
    bool by_flush;
    const char *why;

    QUORUM_SYNC_GUARD(sync);
    by_flush = failed_flush > c->loss_by_flush;
    if (generation <= c->loss_generation && !by_flush) {
        return false;
    }
    why = by_flush ? "failed flush of another" : "server restarted";
    trace_quorum_child_lost(sync->node, i, MAX(generation, failed_flush), why);
    c->losses++;
    quorum_sync_lose_in_flight_locked(sync, i);
    quorum_sync_make_unsure_locked(sync, i, why);
    quorum_sync_recovered_unsure_locked(sync, i, why);
    c->rewrite |= by_flush && c->unsure;
    c->loss_generation = MAX(generation, c->loss_generation);
    c->loss_by_flush = MAX(failed_flush, c->loss_by_flush);
    return true;
}

void quorum_sync_know_losses(QuorumSync *sync, int i, uint64_t generation,
                             uint64_t failed_flush)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    c->loss_generation = MAX(generation, c->loss_generation);
    c->loss_by_flush = MAX(failed_flush, c->loss_by_flush);
}

uint64_t quorum_sync_losses(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return sync->children[i].losses;
}

void quorum_sync_make_missed_unsure_locked(QuorumSync *sync,
                                           const bool *missed)
{
    for (int i = 0; i < sync->num_children; i++) {
        QuorumSyncChild *c = &sync->children[i];

        if (quorum_sync_is_member(sync, i) && missed[i]) {
            quorum_sync_make_unsure_locked(sync, i, "missed flush");
            c->rewrite = c->unsure;
        }
    }
}

/* Where the child in slot @i is unsure in the range, it is stale instead. */
static void quorum_sync_range_to_stale_locked(QuorumSync *sync, int i,
                                              int64_t offset, int64_t bytes)
{
    QuorumSyncChild *c = &sync->children[i];
    int64_t pos = offset, count;

    while (c->unsure &&
           hbitmap_next_dirty_area(c->unsure, pos, offset + bytes, INT64_MAX,
                                   &pos, &count)) {
        quorum_sync_mark_stale_locked(sync, i, pos, count, "flushed by others");
        quorum_sync_clear_unsure_locked(sync, i, pos, count, "stale");
        pos += count;
    }
}

void quorum_sync_unsure_to_stale_locked(QuorumSync *sync, int threshold)
{
    int64_t start, bytes;
    int members = 0;

    for (int i = 0; i < sync->num_children; i++) {
        members += quorum_sync_is_member(sync, i);
    }
    if (threshold <= members - threshold) {
        return;
    }
    for (start = 0;
         quorum_sync_next_unflushed_locked(sync, sync->flushing, &start,
                                           &bytes);
         start += bytes) {
        if (quorum_sync_was_told_locked(sync, start, &bytes)) {
            /* There, an unsure child may be one of those that are enough. */
            continue;
        }
        for (int i = 0; sync->num_unsure && i < sync->num_children; i++) {
            quorum_sync_range_to_stale_locked(sync, i, start, bytes);
        }
    }
}

bool quorum_sync_worth_a_vote_locked(const QuorumSync *sync,
                                     const bool *missed)
{
    int64_t start, bytes;

    for (int i = 0; i < sync->num_children; i++) {
        const QuorumSyncChild *c = &sync->children[i];

        if (!c->unsure || missed[i] || c->rewrite ||
            hbitmap_count(c->unsure) > QUORUM_VOTE_BYTES) {
            continue;
        }
        for (start = 0; quorum_sync_next_unflushed_locked(
                            sync, sync->flushing, &start, &bytes);
             start += bytes) {
            if (quorum_sync_is_unsure_locked(sync, i, start, bytes)) {
                return true;
            }
        }
    }
    return false;
}

void quorum_sync_tell_locked(QuorumSync *sync)
{
    int64_t bits = quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift);
    g_autofree unsigned long *map = bitmap_new(bits);
    int64_t start, bytes;

    if (!sync->told) {
        sync->told = bitmap_new(bits);
    }
    bitmap_copy(map, sync->flushing, bits);
    if (sync->lost_beside) {
        /* The flush did not cover that. */
        bitmap_andnot(map, map, sync->lost_beside, bits);
    }
    for (start = 0;
         quorum_sync_next_unflushed_locked(sync, map, &start, &bytes);
         start += bytes) {
        int64_t from = start, count = bytes;

        /* What is unsure beside it is so only because of it. */
        quorum_sync_widen_locked(sync, &from, &count);
        quorum_sync_set_bits(sync->told, sync->unflushed_shift, from, count);
    }
}

/* --- what a flush is to find out --- */

/*
 * The first granules in the range in which a member that is asked is unsure, or
 * stale and was outvoted.
 */
static bool quorum_sync_first_unsure_locked(const QuorumSync *sync,
                                            int64_t offset, int64_t bytes,
                                            int64_t *start, int64_t *size)
{
    int64_t granule = INT64_C(1) << sync->stale_shift;
    int64_t end = offset + bytes;
    int64_t first = end, past = end;

    for (int i = 0; i < sync->num_children; i++) {
        const QuorumSyncChild *c = &sync->children[i];
        HBitmap *maps[] = { c->unsure, c->outvoted ? c->stale : NULL };

        for (int j = 0; j < ARRAY_SIZE(maps); j++) {
            int64_t next = maps[j] && quorum_sync_is_asked(sync, i) ?
                           hbitmap_next_dirty(maps[j], offset, bytes) : -1;

            if (next >= 0 && next < first) {
                int64_t edge = hbitmap_next_zero(maps[j], next, end - next);

                first = next;
                past = edge < 0 ? end : edge;
            }
        }
    }
    *start = QEMU_ALIGN_DOWN(first, granule);
    *size = MIN(ROUND_UP(past, granule), sync->bytes) - *start;
    return first < end;
}

bool quorum_sync_next_unsure(QuorumSync *sync, int64_t offset, int64_t *start,
                             int64_t *bytes)
{
    int64_t pos, size;

    QUORUM_SYNC_GUARD(sync);
    for (pos = QEMU_ALIGN_DOWN(offset, INT64_C(1) << sync->unflushed_shift);
         quorum_sync_next_unflushed_locked(sync, sync->unflushed, &pos, &size);
         pos += size) {
        if (pos < offset) {
            size = MAX(size - (offset - pos), 0);
            pos = offset;
        }
        if (size && quorum_sync_first_unsure_locked(sync, pos, size, start,
                                                    bytes)) {
            return true;
        }
    }
    return false;
}
