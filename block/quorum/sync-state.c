/*
 * Quorum block driver: who stores what: what outlives a restart
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What state nodes are told of the children, and what they tell when the node
 * is opened: see state.h.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "sync-int.h"
#include "trace.h"

/* --- what children lack --- */

/* Whether the child may lack something, also only after a crash. */
static bool quorum_sync_lacks_something(const QuorumSyncChild *c)
{
    return c->present &&
           (c->stale || c->unsure || quorum_sync_child_is_late(c) ||
            c->excluded || c->recovered_since_flush ||
            c->recovered_before_flush);
}

static bool quorum_sync_child_is_unrecorded(const QuorumSyncChild *c)
{
    return quorum_sync_lacks_something(c) && !c->recorded &&
           (c->news.end || c->storing.end);
}

void quorum_sync_count_unrecorded_locked(QuorumSync *sync)
{
    int count = 0;

    assert(sync->locked);
    for (int i = 0; i < sync->num_children; i++) {
        count += quorum_sync_child_is_unrecorded(&sync->children[i]);
    }
    qatomic_set(&sync->num_unrecorded, count);
}

void quorum_sync_add_news_locked(QuorumSync *sync, QuorumSyncChild *c,
                                 int64_t start, int64_t end)
{
    int64_t granule = INT64_C(1) << sync->stale_shift;
    bool none = !c->news.end;

    assert(sync->locked && end > start);
    start = QEMU_ALIGN_DOWN(start, granule);
    end = end > INT64_MAX - granule ? INT64_MAX : ROUND_UP(end, granule);
    c->news.start = none ? start : MIN(c->news.start, start);
    c->news.end = MAX(c->news.end, end);
    if (none) {
        quorum_sync_count_unrecorded_locked(sync);
    }
}

void quorum_sync_all_is_news_locked(QuorumSync *sync)
{
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_lacks_something(&sync->children[i])) {
            quorum_sync_add_news_locked(sync, &sync->children[i], 0, INT64_MAX);
        }
    }
}

bool quorum_sync_any_unrecorded(QuorumSync *sync)
{
    return qatomic_read(&sync->num_unrecorded);
}

bool quorum_sync_is_unrecorded(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_child_is_unrecorded(&sync->children[i]);
}

bool quorum_sync_is_behind(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_lacks_something(&sync->children[i]);
}

bool quorum_sync_set_recorded(QuorumSync *sync, int i, bool recorded)
{
    bool was;

    QUORUM_SYNC_GUARD(sync);
    was = sync->children[i].recorded;
    sync->children[i].recorded = recorded;
    quorum_sync_count_unrecorded_locked(sync);
    return was;
}

bool quorum_sync_store_begin(QuorumSync *sync, int i, int64_t *start,
                             int64_t *end)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    assert(!c->storing.end);
    c->storing = c->news;
    c->news = (QuorumSyncNews) {};
    *start = c->storing.start;
    *end = c->storing.end;
    return c->storing.end;
}

void quorum_sync_store_end(QuorumSync *sync, int i, bool done)
{
    QuorumSyncChild *c = &sync->children[i];
    QuorumSyncNews storing;

    QUORUM_SYNC_GUARD(sync);
    storing = c->storing;
    c->storing = (QuorumSyncNews) {};
    if (storing.end && !done) {
        quorum_sync_add_news_locked(sync, c, storing.start, storing.end);
    }
    quorum_sync_count_unrecorded_locked(sync);
}

/*
 * Set the bits in @bits, of 1 << @shift bytes each, from bit @first on, @count
 * of them, that touch what is in @map.
 */
static void quorum_sync_copy_bits_locked(HBitmap *map, int64_t length,
                                         int shift, int64_t first,
                                         int64_t count, unsigned long *bits)
{
    int64_t pos = first << shift;
    int64_t end = MIN((first + count) << shift, length);
    int64_t bytes;

    while (map && pos < end &&
           hbitmap_next_dirty_area(map, pos, end, INT64_MAX, &pos, &bytes)) {
        int64_t from = pos >> shift;
        int64_t last = (pos + bytes - 1) >> shift;

        bitmap_set(bits, from - first, last - from + 1);
        pos += bytes;
    }
}

void quorum_sync_lacking_bits(QuorumSync *sync, int i, int shift,
                              int64_t first, int64_t count,
                              unsigned long *bits)
{
    const QuorumSyncChild *c = &sync->children[i];

    /* Before the maps are looked at: another thread may free them. */
    QUORUM_SYNC_GUARD(sync);

    HBitmap *maps[] = {
        c->stale, c->unsure, c->late, c->recovered_since_flush,
        c->recovered_before_flush,
    };

    for (int j = 0; j < ARRAY_SIZE(maps); j++) {
        quorum_sync_copy_bits_locked(maps[j], sync->bytes, shift, first, count,
                                     bits);
    }
}

/* Whether the range of the node is in @map, in any of it. */
static bool quorum_sync_map_touches_locked(const QuorumSync *sync,
                                           const unsigned long *map,
                                           int64_t offset, int64_t bytes)
{
    int64_t first = offset >> sync->unflushed_shift;
    int64_t past = ((offset + bytes - 1) >> sync->unflushed_shift) + 1;

    return map && bytes > 0 && find_next_bit(map, past, first) < past;
}

bool quorum_sync_is_flushed(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    QuorumFuaDone *done;

    QUORUM_SYNC_GUARD(sync);
    bytes = MIN(bytes, sync->bytes - offset);
    if (quorum_sync_map_touches_locked(sync, sync->unflushed, offset, bytes) ||
        quorum_sync_map_touches_locked(sync, sync->flushing, offset, bytes)) {
        return false;
    }
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_is_unsure_locked(sync, i, offset, bytes)) {
            return false;
        }
    }
    QSIMPLEQ_FOREACH(done, &sync->fua_done, next) {
        if (done->offset < offset + bytes &&
            offset < done->offset + done->bytes) {
            return false;
        }
    }
    return !sync->unresolved || bytes <= 0 ||
           hbitmap_next_dirty(sync->unresolved, offset, bytes) < 0;
}

/* --- what a crash has left --- */

void quorum_sync_set_unresolved(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    bytes = MIN(bytes, sync->bytes - offset);
    if (bytes > 0) {
        HBitmap *map = sync->unresolved ?: hbitmap_alloc(sync->bytes,
                                                         sync->stale_shift);

        hbitmap_set(map, offset, bytes);
        quorum_sync_install_map_locked(sync, &sync->unresolved, map);
        /* What was acknowledged there need not be on any medium. */
        quorum_sync_set_unflushed_locked(sync, offset, bytes);
    }
}

void quorum_sync_set_resolved(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    quorum_sync_clear_map(sync, &sync->unresolved, offset, bytes);
}

bool quorum_sync_is_unresolved(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    int64_t start, count;

    return quorum_sync_next_unresolved(sync, offset, offset + bytes, &start,
                                       &count);
}

bool quorum_sync_widen_unresolved(QuorumSync *sync, int64_t *offset,
                                  int64_t *bytes)
{
    return quorum_sync_widen_over(sync, &sync->unresolved, offset, bytes);
}

bool quorum_sync_next_unresolved(QuorumSync *sync, int64_t offset, int64_t end,
                                 int64_t *start, int64_t *bytes)
{
    if (!qatomic_read(&sync->unresolved)) {
        return false;
    }
    QUORUM_SYNC_GUARD(sync);
    end = MIN(end, sync->bytes);
    return sync->unresolved && offset < end &&
           hbitmap_next_dirty_area(sync->unresolved, offset, end, INT64_MAX,
                                   start, bytes);
}

int64_t quorum_sync_unresolved_bytes(QuorumSync *sync)
{
    int64_t offset = 0, start, bytes, sum = 0;

    while (quorum_sync_next_unresolved(sync, offset, INT64_MAX, &start,
                                       &bytes)) {
        sum += bytes;
        offset = start + bytes;
    }
    return sum;
}
