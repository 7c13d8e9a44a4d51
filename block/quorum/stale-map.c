/*
 * Quorum block driver: who stores what: the maps
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Each child has, from its first failure on, a *stale map*: where it lacks what
 * has been acknowledged; and after a loss an *unsure map*: what it may have
 * lost of that.  The node has an *unflushed map*: where a child may
 * have lost something if a flush fails on it; and, if it believes one child,
 * an *unverified map*: where it does not know yet what each child lacks.
 *
 * This is the mechanism.  What makes a child stale, or ends that, and why, is
 * decided in settle.c and settle-flush.c.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "sync-int.h"
#include "trace.h"

/* The maps start with granules of this size, which double as the disk grows. */
#define QUORUM_STALE_SHIFT ctz32(QUORUM_UNIT)

/* --- creation --- */

QuorumSync *quorum_sync_new(const char *node, int num_children)
{
    QuorumSync *sync = g_new0(QuorumSync, 1);

    sync->node = node;
    sync->children = g_new0(QuorumSyncChild, num_children);
    sync->num_children = num_children;
    for (int i = 0; i < num_children; i++) {
        sync->children[i].state = QUORUM_CHILD_STATE_VACANT;
    }
    QSIMPLEQ_INIT(&sync->state_changes);
    qemu_mutex_init(&sync->lock);
    stat64_init(&sync->flush_generation, 0);
    sync->stale_shift = QUORUM_STALE_SHIFT;
    sync->unflushed_shift = quorum_limits.unflushed_shift;
    sync->unflushed = bitmap_new(1);
    sync->flushing = bitmap_new(1);
    QTAILQ_INIT(&sync->fua_writes);
    QSIMPLEQ_INIT(&sync->fua_done);
    QTAILQ_INIT(&sync->checked_writes);
    return sync;
}

void quorum_sync_free(QuorumSync *sync)
{
    if (!sync) {
        return;
    }
    assert(QTAILQ_EMPTY(&sync->fua_writes));
    assert(QSIMPLEQ_EMPTY(&sync->fua_done));
    assert(QTAILQ_EMPTY(&sync->checked_writes));
    while (!QSIMPLEQ_EMPTY(&sync->state_changes)) {
        quorum_state_change_free(quorum_sync_next_state_change(sync));
    }
    for (int i = 0; i < sync->num_children; i++) {
        quorum_sync_free_child(&sync->children[i]);
    }
    g_clear_pointer(&sync->unverified, hbitmap_free);
    g_clear_pointer(&sync->unresolved, hbitmap_free);
    g_free(sync->children);
    g_free(sync->unflushed);
    g_free(sync->flushing);
    g_free(sync->told);
    g_free(sync->since_flush);
    g_free(sync->lost_beside);
    qemu_mutex_destroy(&sync->lock);
    g_free(sync);
}

/* --- the length --- */

/* The smallest shift, from @shift up, so that @bytes take at most @most bits */
static int quorum_sync_shift(int64_t bytes, int shift, int64_t most)
{
    while ((bytes >> shift) >= most) {
        shift++;
    }
    return shift;
}

/*
 * @map, for a node of @bytes, with granules of 1 << @shift bytes: coarser or
 * finer ones than before, or as they were.
 */
static HBitmap *quorum_sync_resize_map_locked(QuorumSync *sync, HBitmap *map,
                                              int shift, int64_t bytes)
{
    int64_t end = MIN(bytes, sync->bytes);
    int64_t start = 0, count;
    HBitmap *resized;

    if (!map || shift == sync->stale_shift) {
        if (map) {
            hbitmap_truncate(map, bytes);
        }
        return map;
    }
    resized = hbitmap_alloc(bytes, shift);
    while (hbitmap_next_dirty_area(map, start, end, INT64_MAX, &start,
                                   &count)) {
        hbitmap_set(resized, start, count);
        start += count;
    }
    hbitmap_free(map);
    return resized;
}

int64_t quorum_sync_granule(int64_t bytes)
{
    return INT64_C(1) << quorum_sync_shift(bytes, QUORUM_STALE_SHIFT,
                                           quorum_limits.stale_bits);
}

int64_t quorum_sync_unflushed_bits(int64_t bytes, int shift)
{
    return bytes > 0 ? ((bytes - 1) >> shift) + 1 : 1;
}

void quorum_sync_set_bits(unsigned long *map, int shift, int64_t offset,
                          int64_t bytes)
{
    int64_t first = offset >> shift;
    int64_t last = (offset + bytes - 1) >> shift;

    /* Mostly it is one bit, and set already. */
    if (bytes && (first != last || !test_bit(first, map))) {
        bitmap_set(map, first, last - first + 1);
    }
}

/* The same for a map of what is unflushed, which may be NULL. */
static void quorum_sync_resize_unflushed_locked(QuorumSync *sync,
                                                unsigned long **map, int shift,
                                                int64_t bytes)
{
    int old_shift = sync->unflushed_shift;
    int64_t bits = quorum_sync_unflushed_bits(bytes, shift);
    int64_t old_bits = quorum_sync_unflushed_bits(sync->bytes, old_shift);
    unsigned long *old = *map;
    int64_t first, past;

    if (!old || (bits == old_bits && shift == old_shift)) {
        return;
    }
    *map = bitmap_new(bits);
    for (first = find_first_bit(old, old_bits);
         first < old_bits && first << old_shift < bytes;
         first = find_next_bit(old, old_bits, past)) {
        past = find_next_zero_bit(old, old_bits, first);
        quorum_sync_set_bits(*map, shift, first << old_shift,
                             MIN(past << old_shift, bytes) -
                             (first << old_shift));
    }
    g_free(old);
}

void quorum_sync_install_map_locked(QuorumSync *sync, HBitmap **where,
                                    HBitmap *map)
{
    assert(sync->locked);
    if (map && hbitmap_empty(map)) {
        g_clear_pointer(&map, hbitmap_free);
    }
    qatomic_set(where, map);
}

static void quorum_sync_drop_map_locked(QuorumSync *sync, int i,
                                        const char *why)
{
    QuorumSyncChild *c = &sync->children[i];

    g_clear_pointer(&c->stale, hbitmap_free);
    c->outvoted = false;
    if (!c->unsure) {
        g_clear_pointer(&c->may_lose, g_free);
    }
    quorum_sync_count_degraded_locked(sync);
    quorum_sync_note_state_locked(sync, i, why);
}

/* The range, as far as the node has it, is late on the child @c. */
static void quorum_sync_set_late_locked(QuorumSync *sync, QuorumSyncChild *c,
                                        int64_t offset, int64_t end)
{
    end = MIN(end, sync->bytes);
    if (offset < end) {
        c->late = c->late ?: hbitmap_alloc(sync->bytes, sync->stale_shift);
        hbitmap_set(c->late, offset, end - offset);
        quorum_sync_add_news_locked(sync, c, offset, end);
    }
}

/* The node, which had @old_bytes, has another length. */
static void quorum_sync_move_late_end_locked(QuorumSync *sync,
                                             QuorumSyncChild *c,
                                             int64_t old_bytes)
{
    quorum_sync_set_late_locked(sync, c, old_bytes, c->late_end);
    if (c->late_end <= sync->bytes) {
        c->late_end = 0;
    }
    if (c->late && hbitmap_empty(c->late)) {
        g_clear_pointer(&c->late, hbitmap_free);
    }
}

/* The granules of maps are about to be others. */
static void quorum_sync_note_shifts_locked(QuorumSync *sync, int stale_shift,
                                           int unflushed_shift)
{
    if (stale_shift > sync->stale_shift) {
        /* In coarser ones, children lack more. */
        quorum_sync_all_is_news_locked(sync);
    }
    if (stale_shift > sync->stale_shift ||
        unflushed_shift > sync->unflushed_shift) {
        quorum_reached(QUORUM_BRANCH_MAPS_COARSER);
    }
    if (stale_shift < sync->stale_shift ||
        unflushed_shift < sync->unflushed_shift) {
        quorum_reached(QUORUM_BRANCH_MAPS_FINER);
    }
}

void quorum_sync_resize_locked(QuorumSync *sync, int64_t bytes)
{
    int stale_shift = quorum_sync_shift(bytes, QUORUM_STALE_SHIFT,
                                        quorum_limits.stale_bits);
    int unflushed_shift = quorum_sync_shift(bytes,
                                            quorum_limits.unflushed_shift,
                                            quorum_limits.unflushed_bits);
    unsigned long **of_node[] = {
        &sync->unflushed, &sync->flushing, &sync->told, &sync->since_flush,
        &sync->lost_beside,
    };
    int64_t old_bytes = sync->bytes;

    assert(sync->locked && bytes >= 0);
    if (unflushed_shift != sync->unflushed_shift) {
        /* A coarser granule would tell of more. */
        quorum_sync_untell_locked(sync, 0, old_bytes);
        g_clear_pointer(&sync->told, g_free);
    }
    quorum_sync_note_shifts_locked(sync, stale_shift, unflushed_shift);
    for (int i = 0; i < sync->num_children; i++) {
        QuorumSyncChild *c = &sync->children[i];
        HBitmap **maps[] = {
            &c->stale, &c->recovered_since_flush, &c->recovered_before_flush,
            &c->late, &c->unsure,
        };

        if (c->late && bytes < old_bytes &&
            hbitmap_next_dirty(c->late, bytes, INT64_MAX) >= 0) {
            c->late_end = MAX(c->late_end, old_bytes);
        }
        for (int j = 0; j < ARRAY_SIZE(maps); j++) {
            *maps[j] = quorum_sync_resize_map_locked(sync, *maps[j],
                                                     stale_shift, bytes);
        }
        quorum_sync_resize_unflushed_locked(sync, &c->may_lose,
                                            unflushed_shift, bytes);
    }
    /* What the node grows by is written by requests that are settled. */
    quorum_sync_install_map_locked(
        sync, &sync->unverified,
        quorum_sync_resize_map_locked(sync, sync->unverified, stale_shift,
                                      bytes));
    quorum_sync_install_map_locked(
        sync, &sync->unresolved,
        quorum_sync_resize_map_locked(sync, sync->unresolved, stale_shift,
                                      bytes));
    for (int j = 0; j < ARRAY_SIZE(of_node); j++) {
        quorum_sync_resize_unflushed_locked(sync, of_node[j], unflushed_shift,
                                            bytes);
    }
    sync->stale_shift = stale_shift;
    sync->unflushed_shift = unflushed_shift;
    sync->bytes = bytes;

    for (int i = 0; i < sync->num_children; i++) {
        QuorumSyncChild *c = &sync->children[i];

        if (c->excluded && !c->excluded_inactive) {
            /* What the node has grown by, the child does not have either. */
            quorum_sync_mark_stale_locked(sync, i, old_bytes, bytes - old_bytes,
                                          "excluded");
        }
        if (c->stale && hbitmap_empty(c->stale)) {
            quorum_sync_drop_map_locked(sync, i, "cut off");
        }
        quorum_sync_drop_empty_unsure_locked(sync, i, "cut off");
        quorum_sync_move_late_end_locked(sync, c, old_bytes);
    }
    quorum_sync_count_degraded_locked(sync);
}

int64_t quorum_sync_length(QuorumSync *sync)
{
    QUORUM_SYNC_GUARD(sync);
    return sync->bytes;
}

void quorum_sync_set_touched_end(QuorumSync *sync, int64_t end)
{
    QUORUM_SYNC_GUARD(sync);
    sync->touched_end = MAX(sync->touched_end, end);
}

int64_t quorum_sync_touched_end(QuorumSync *sync)
{
    QUORUM_SYNC_GUARD(sync);
    return sync->touched_end;
}

/* --- what makes a child stale, and what ends that --- */

void quorum_sync_mark_locked(QuorumSync *sync, int i, HBitmap **map,
                             int64_t offset, int64_t bytes, const char *why)
{
    uint64_t had = *map ? hbitmap_count(*map) : 0;

    assert(sync->locked && offset >= 0 && bytes <= sync->bytes - offset);
    if (!*map) {
        *map = hbitmap_alloc(sync->bytes, sync->stale_shift);
        quorum_sync_count_degraded_locked(sync);
        quorum_sync_note_state_locked(sync, i, why);
    }
    hbitmap_set(*map, offset, bytes);
    if (hbitmap_count(*map) > had) {
        quorum_sync_add_news_locked(sync, &sync->children[i], offset,
                                    offset + bytes);
    }
}

void quorum_sync_mark_stale_locked(QuorumSync *sync, int i, int64_t offset,
                                   int64_t bytes, const char *why)
{
    bytes = MIN(bytes, sync->bytes - offset);
    if (bytes > 0) {
        trace_quorum_child_stale(sync->node, i, offset, bytes, why);
        quorum_sync_mark_locked(sync, i, &sync->children[i].stale, offset,
                                bytes, why);
    }
}

void quorum_sync_mark_stale(QuorumSync *sync, int i, int64_t offset,
                            int64_t bytes, const char *why)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_mark_stale_locked(sync, i, offset, bytes, why);
}

void quorum_sync_mark_outvoted(QuorumSync *sync, int i, int64_t offset,
                               int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_mark_stale_locked(sync, i, offset, bytes, "outvoted");
    sync->children[i].outvoted = sync->children[i].stale;
}

bool quorum_sync_any_outvoted_locked(const QuorumSync *sync)
{
    bool any = false;

    assert(sync->locked);
    for (int i = 0; i < sync->num_children; i++) {
        any |= sync->children[i].outvoted;
    }
    return any;
}

bool quorum_sync_any_outvoted(QuorumSync *sync)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_any_outvoted_locked(sync);
}

void quorum_sync_set_rebuilding(QuorumSync *sync, int i)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    /* An empty disk has nothing to lack. */
    qatomic_set(&c->rebuilding, sync->bytes > 0);
    quorum_sync_mark_stale_locked(sync, i, 0, INT64_MAX, "new");
    quorum_sync_note_state_locked(sync, i, "new");
}

void quorum_sync_resume_rebuilding(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    qatomic_set(&sync->children[i].rebuilding, sync->bytes > 0);
    quorum_sync_note_state_locked(sync, i, "goes on");
}

bool quorum_sync_is_rebuilding(QuorumSync *sync, int i)
{
    return qatomic_read(&sync->children[i].rebuilding);
}

void quorum_sync_exclude_locked(QuorumSync *sync, int i, bool inactive,
                                const char *why)
{
    QuorumSyncChild *c = &sync->children[i];

    assert(sync->locked);
    qatomic_set(&c->excluded, true);
    c->excluded_inactive = inactive;
    quorum_sync_note_state_locked(sync, i, why);
    quorum_sync_count_degraded_locked(sync);
    if (!inactive) {
        quorum_sync_mark_stale_locked(sync, i, 0, sync->bytes, why);
    }
}

void quorum_sync_exclude(QuorumSync *sync, int i, bool inactive,
                         const char *why)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_exclude_locked(sync, i, inactive, why);
}

void quorum_sync_include(QuorumSync *sync, int i, bool missed_writes)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    if (missed_writes) {
        quorum_sync_mark_stale_locked(sync, i, 0, sync->bytes,
                                      "was excluded");
    }
    qatomic_set(&c->excluded, false);
    c->excluded_inactive = false;
    quorum_sync_count_degraded_locked(sync);
    quorum_sync_note_state_locked(sync, i, "included");
}

bool quorum_sync_is_excluded(QuorumSync *sync, int i)
{
    return qatomic_read(&sync->children[i].excluded);
}

void quorum_sync_whole_granules_locked(const QuorumSync *sync, int64_t *start,
                                       int64_t *end)
{
    int64_t granule = INT64_C(1) << sync->stale_shift;

    assert(sync->locked);
    *start = ROUND_UP(*start, granule);
    *end = *end >= sync->bytes ? sync->bytes : QEMU_ALIGN_DOWN(*end, granule);
    *end = MAX(*start, *end);
}

void quorum_sync_whole_granules(QuorumSync *sync, int64_t *start, int64_t *end)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_whole_granules_locked(sync, start, end);
}

void quorum_sync_remember_recovered_locked(QuorumSync *sync, int i,
                                           HBitmap *was, int64_t start,
                                           int64_t end)
{
    QuorumSyncChild *c = &sync->children[i];
    int64_t count;

    while (was && hbitmap_next_dirty_area(was, start, end, INT64_MAX, &start,
                                          &count)) {
        if (!c->recovered_since_flush) {
            c->recovered_since_flush = hbitmap_alloc(sync->bytes,
                                                     sync->stale_shift);
        }
        hbitmap_set(c->recovered_since_flush, start, count);
        start += count;
    }
}

void quorum_sync_clear_stale_locked(QuorumSync *sync, int i, int64_t offset,
                                    int64_t bytes, bool flushed)
{
    QuorumSyncChild *c = &sync->children[i];
    int64_t start = offset;
    int64_t end = offset + bytes;

    quorum_sync_whole_granules_locked(sync, &start, &end);
    if (start == end ||
        quorum_sync_is_late_locked(sync, i, start, end - start)) {
        return;
    }
    if (!flushed) {
        quorum_sync_remember_recovered_locked(sync, i, c->unsure, start, end);
        quorum_sync_remember_recovered_locked(sync, i, c->stale, start, end);
    }
    quorum_sync_clear_unsure_locked(sync, i, start, end - start, "written");
    if (c->stale) {
        hbitmap_reset(c->stale, start, end - start);
        if (hbitmap_empty(c->stale)) {
            quorum_sync_drop_map_locked(sync, i, "all written");
        }
    }
}

/* --- writes that may still come --- */

bool quorum_sync_is_late_locked(const QuorumSync *sync, int i, int64_t offset,
                                int64_t bytes)
{
    const QuorumSyncChild *c = &sync->children[i];
    int64_t end = bytes > INT64_MAX - offset ? INT64_MAX : offset + bytes;

    assert(sync->locked);
    if (bytes && end > sync->bytes) {
        if (c->late_end) {
            return true;
        }
        /* The node is about to grow, and its granules with it. */
        offset = QEMU_ALIGN_DOWN(MIN(offset, sync->bytes),
                                 quorum_sync_granule(end));
        end = sync->bytes;
    }
    return c->late && offset < end &&
           hbitmap_next_dirty(c->late, offset, end - offset) >= 0;
}

void quorum_sync_mark_late(QuorumSync *sync, int i, int64_t offset,
                           int64_t bytes)
{
    QuorumSyncChild *c = &sync->children[i];

    int64_t end = bytes > INT64_MAX - offset ? INT64_MAX : offset + bytes;

    QUORUM_SYNC_GUARD(sync);
    if (bytes <= 0) {
        return;
    }
    trace_quorum_child_late(sync->node, i, offset, bytes);
    c->late_marks++;
    quorum_sync_set_late_locked(sync, c, offset, end);
    if (end > sync->bytes) {
        c->late_end = MAX(c->late_end, end);
        quorum_sync_add_news_locked(sync, c, offset, end);
    }
    quorum_sync_count_degraded_locked(sync);
}

uint64_t quorum_sync_late_marks(QuorumSync *sync, int i)
{
    if (!quorum_sync_is_degraded(sync)) {
        return 0;
    }
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_child_is_late(&sync->children[i]) ?
           sync->children[i].late_marks : 0;
}

void quorum_sync_clear_late(QuorumSync *sync, int i, uint64_t marks)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    if (c->late_marks == marks) {
        g_clear_pointer(&c->late, hbitmap_free);
        c->late_end = 0;
        quorum_sync_count_degraded_locked(sync);
    }
}

bool quorum_sync_is_late(QuorumSync *sync, int i, int64_t offset, int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_is_late_locked(sync, i, offset, bytes);
}

/* --- flushes --- */

/* Add what is in *@from, which may be NULL, to *@to, and forget *@from. */
static void quorum_sync_move_map_locked(HBitmap **to, HBitmap **from)
{
    if (*from && *to) {
        hbitmap_merge(*to, *from, *to);
        g_clear_pointer(from, hbitmap_free);
    } else if (*from) {
        *to = g_steal_pointer(from);
    }
}

void quorum_sync_age_recovered_locked(QuorumSync *sync, int i)
{
    QuorumSyncChild *c = &sync->children[i];

    assert(sync->locked);
    quorum_sync_move_map_locked(&c->recovered_before_flush,
                                &c->recovered_since_flush);
}

void quorum_sync_flushed_locked(QuorumSync *sync, int i)
{
    QuorumSyncChild *c = &sync->children[i];

    assert(sync->locked);
    g_clear_pointer(&c->recovered_before_flush, hbitmap_free);
    if (c->may_lose) {
        /* What the child has taken since the flush began is in unflushed. */
        bitmap_and(c->may_lose, c->may_lose, sync->unflushed,
                   quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift));
    }
    if (c->rebuilding && !c->stale && !c->unsure && !c->recovered_since_flush) {
        quorum_reached(QUORUM_BRANCH_IN_SYNC);
        qatomic_set(&c->rebuilding, false);
        quorum_sync_note_state_locked(sync, i, "flushed");
    }
}

/* As quorum_sync_widen(). */
void quorum_sync_widen_locked(const QuorumSync *sync, int64_t *offset,
                              int64_t *bytes)
{
    int64_t granule = INT64_C(1) << sync->stale_shift;
    int64_t end = ROUND_UP(*offset + *bytes, granule);

    assert(sync->locked);
    *offset = QEMU_ALIGN_DOWN(*offset, granule);
    *bytes = MIN(end, sync->bytes) - *offset;
}

/* --- what is unverified --- */

void quorum_sync_set_unverified(QuorumSync *sync, bool unverified)
{
    HBitmap *map = NULL;

    QUORUM_SYNC_GUARD(sync);
    if (unverified && sync->bytes) {
        map = hbitmap_alloc(sync->bytes, sync->stale_shift);
        hbitmap_set(map, 0, sync->bytes);
    }
    if (sync->unverified) {
        hbitmap_free(sync->unverified);
    }
    quorum_sync_install_map_locked(sync, &sync->unverified, map);
}

void quorum_sync_clear_map(QuorumSync *sync, HBitmap **where, int64_t offset,
                           int64_t bytes)
{
    int64_t start = offset;
    int64_t end = offset + bytes;

    if (!qatomic_read(where)) {
        return;
    }
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_whole_granules_locked(sync, &start, &end);
    if (*where && start < end) {
        hbitmap_reset(*where, start, end - start);
        quorum_sync_install_map_locked(sync, where, *where);
    }
}

void quorum_sync_set_verified(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    quorum_sync_clear_map(sync, &sync->unverified, offset, bytes);
}

bool quorum_sync_widen_unverified(QuorumSync *sync, int64_t *offset,
                                  int64_t *bytes)
{
    return quorum_sync_widen_over(sync, &sync->unverified, offset, bytes);
}

bool quorum_sync_widen_over(QuorumSync *sync, HBitmap **where, int64_t *offset,
                            int64_t *bytes)
{
    int64_t end = *offset + *bytes;
    int64_t inside;

    if (!qatomic_read(where)) {
        return false;
    }
    QUORUM_SYNC_GUARD(sync);
    inside = MIN(end, sync->bytes) - *offset;
    if (!*where || inside <= 0 ||
        hbitmap_next_dirty(*where, *offset, inside) < 0) {
        return false;
    }
    quorum_sync_widen_locked(sync, offset, bytes);
    *bytes = MAX(*bytes, end - *offset);
    return true;
}
