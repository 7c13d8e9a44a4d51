/*
 * Quorum block driver: who stores what: what the maps say
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "sync-int.h"

bool quorum_sync_is_stale_locked(const QuorumSync *sync, int i, int64_t offset,
                                 int64_t bytes)
{
    return quorum_sync_lacks_locked(sync, i, offset, bytes, QUORUM_COPY_ANY);
}

bool quorum_sync_lacks_locked(const QuorumSync *sync, int i, int64_t offset,
                              int64_t bytes, QuorumCopy copy)
{
    const QuorumSyncChild *c = &sync->children[i];
    HBitmap *recovered = copy & QUORUM_COPY_FLUSHED ? c->recovered_since_flush
                                                    : NULL;
    HBitmap *unsure = copy & QUORUM_COPY_SURE ? c->unsure : NULL;

    assert(sync->locked);
    bytes = MIN(bytes, sync->bytes - offset);
    if (bytes <= 0) {
        return false;
    }
    return (c->stale && hbitmap_next_dirty(c->stale, offset, bytes) >= 0) ||
           (recovered && hbitmap_next_dirty(recovered, offset, bytes) >= 0) ||
           (unsure && hbitmap_next_dirty(unsure, offset, bytes) >= 0);
}

static QuorumStaleness quorum_sync_staleness_locked(const QuorumSync *sync,
                                                    int i, int64_t offset,
                                                    int64_t bytes)
{
    bytes = MIN(bytes, sync->bytes - offset);
    if (!quorum_sync_is_stale_locked(sync, i, offset, bytes)) {
        return quorum_sync_is_unsure_locked(sync, i, offset, bytes) ?
               QUORUM_STALE_PARTLY : QUORUM_STALE_NOWHERE;
    }
    return hbitmap_next_zero(sync->children[i].stale, offset, bytes) < 0 ?
           QUORUM_STALE_THROUGHOUT : QUORUM_STALE_PARTLY;
}

bool quorum_sync_is_stale(QuorumSync *sync, int i, int64_t offset,
                          int64_t bytes)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_is_stale_locked(sync, i, offset, bytes);
}

void quorum_sync_staleness(QuorumSync *sync, int64_t offset, int64_t bytes,
                           QuorumStaleness *staleness)
{
    QUORUM_SYNC_GUARD(sync);
    for (int i = 0; i < sync->num_children; i++) {
        staleness[i] = quorum_sync_staleness_locked(sync, i, offset, bytes);
    }
}

/* Set bit @bit + u if the child in slot @i is stale in unit u of the range. */
static void quorum_sync_stale_units_locked(const QuorumSync *sync, int i,
                                           int64_t offset, int64_t bytes,
                                           unsigned long *units, long bit)
{
    int64_t end = offset + bytes;

    while (offset < end) {
        int64_t unit_end = MIN(QEMU_ALIGN_DOWN(offset, QUORUM_UNIT) +
                               QUORUM_UNIT, end);

        if (quorum_sync_is_stale_locked(sync, i, offset, unit_end - offset)) {
            set_bit(bit, units);
        }
        bit++;
        offset = unit_end;
    }
}

void quorum_sync_stale_units(QuorumSync *sync, int64_t offset, int64_t bytes,
                             QuorumStaleness *staleness, unsigned long *units,
                             int num_units)
{
    QUORUM_SYNC_GUARD(sync);
    for (int i = 0; i < sync->num_children; i++) {
        staleness[i] = quorum_sync_staleness_locked(sync, i, offset, bytes);
        if (staleness[i]) {
            quorum_sync_stale_units_locked(sync, i, offset, bytes, units,
                                           (long)i * num_units);
        }
    }
}

/* How far from @offset, up to @bytes, all of @map is alike. */
static int64_t quorum_sync_map_edge_locked(HBitmap *map, int64_t offset,
                                           int64_t bytes)
{
    int64_t edge;

    if (!map) {
        return bytes;
    }
    edge = hbitmap_get(map, offset) ? hbitmap_next_zero(map, offset, bytes)
                                    : hbitmap_next_dirty(map, offset, bytes);
    return edge < 0 ? bytes : edge - offset;
}

int64_t quorum_sync_uniform_range_locked(const QuorumSync *sync, int64_t offset,
                                         int64_t bytes, QuorumCopy copy)
{
    int64_t inside = MIN(bytes, sync->bytes - offset);

    assert(sync->locked);
    if (inside <= 0) {
        return bytes;
    }
    for (int i = 0; i < sync->num_children; i++) {
        QuorumSyncChild *c = &sync->children[i];

        inside = quorum_sync_map_edge_locked(c->stale, offset, inside);
        if (copy & QUORUM_COPY_FLUSHED) {
            inside = quorum_sync_map_edge_locked(c->recovered_since_flush,
                                                 offset, inside);
        }
        if (copy & QUORUM_COPY_SURE) {
            inside = quorum_sync_map_edge_locked(c->unsure, offset, inside);
        }
    }
    return inside;
}

int64_t quorum_sync_uniform_range(QuorumSync *sync, int64_t offset,
                                  int64_t bytes)
{
    if (!quorum_sync_is_degraded(sync)) {
        return bytes;
    }
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_uniform_range_locked(sync, offset, bytes,
                                            QUORUM_COPY_SURE);
}

void quorum_sync_widen(QuorumSync *sync, int64_t *offset, int64_t *bytes)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_sync_widen_locked(sync, offset, bytes);
}

int64_t quorum_sync_granule_bytes(QuorumSync *sync)
{
    int64_t offset = 0, granule = 1;

    quorum_sync_widen(sync, &offset, &granule);
    return granule;
}

bool quorum_sync_is_coarse(QuorumSync *sync)
{
    return quorum_sync_granule_bytes(sync) > QUORUM_UNIT;
}

int64_t quorum_sync_chunk(QuorumSync *sync, int64_t start, int64_t end,
                          int64_t chunk, int64_t most)
{
    chunk = MIN(MAX(chunk, pow2ceil(quorum_sync_granule_bytes(sync))), most);
    return MIN(end, QEMU_ALIGN_DOWN(start + chunk, chunk)) - start;
}

/* How many bytes of the node have a bit in @map, which may be NULL. */
static int64_t quorum_sync_map_bytes_locked(const QuorumSync *sync,
                                            const HBitmap *map)
{
    int64_t granule = INT64_C(1) << sync->stale_shift;
    int64_t bytes;

    if (!map) {
        return 0;
    }
    bytes = hbitmap_count(map);
    if (hbitmap_get(map, sync->bytes - 1)) {
        bytes -= ROUND_UP(sync->bytes, granule) - sync->bytes;
    }
    return bytes;
}

int64_t quorum_sync_stale_bytes(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_map_bytes_locked(sync, sync->children[i].stale);
}

/* The first byte in the range where the child lacks data or may, or -1. */
static int64_t quorum_sync_next_doubtful_locked(const QuorumSyncChild *c,
                                                int64_t offset, int64_t bytes)
{
    int64_t stale = c->stale ? hbitmap_next_dirty(c->stale, offset, bytes) : -1;
    int64_t unsure = c->unsure ? hbitmap_next_dirty(c->unsure, offset, bytes)
                               : -1;

    return stale < 0 ? unsure : unsure < 0 ? stale : MIN(stale, unsure);
}

/* From @pos on, where it does, the end of that. */
static int64_t quorum_sync_doubtful_end_locked(const QuorumSyncChild *c,
                                               int64_t pos, int64_t end)
{
    HBitmap *maps[] = { c->stale, c->unsure };
    bool more = true;

    while (more && pos < end) {
        more = false;
        for (int j = 0; j < ARRAY_SIZE(maps) && pos < end; j++) {
            if (maps[j] && hbitmap_get(maps[j], pos)) {
                int64_t edge = hbitmap_next_zero(maps[j], pos, end - pos);

                pos = edge < 0 ? end : edge;
                more = true;
            }
        }
    }
    return pos;
}

/* How many bytes of the range the child in slot @i lacks, or may. */
static int64_t quorum_sync_doubtful_bytes_locked(const QuorumSync *sync, int i,
                                                 int64_t offset, int64_t bytes)
{
    const QuorumSyncChild *c = &sync->children[i];
    int64_t end = offset + bytes;
    int64_t pos = offset, sum = 0;

    if (bytes == sync->bytes && !c->unsure) {
        return quorum_sync_map_bytes_locked(sync, c->stale);
    }
    while (pos < end) {
        int64_t past;

        pos = quorum_sync_next_doubtful_locked(c, pos, end - pos);
        if (pos < 0) {
            break;
        }
        past = quorum_sync_doubtful_end_locked(c, pos, end);
        sum += past - pos;
        pos = past;
    }
    return sum;
}

int64_t quorum_sync_doubtful_bytes(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_doubtful_bytes_locked(sync, i, 0, sync->bytes);
}

int64_t quorum_sync_unsure_bytes(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    if (!sync->children[i].unsure) {
        return 0;
    }
    return quorum_sync_doubtful_bytes_locked(sync, i, 0, sync->bytes) -
           quorum_sync_map_bytes_locked(sync, sync->children[i].stale);
}

int64_t quorum_sync_stale_sum(QuorumSync *sync, int64_t offset, int64_t bytes)
{
    int64_t sum = 0;

    QUORUM_SYNC_GUARD(sync);
    bytes = MIN(bytes, sync->bytes - offset);
    for (int i = 0; i < sync->num_children; i++) {
        if (quorum_sync_is_asked(sync, i)) {
            sum += quorum_sync_doubtful_bytes_locked(sync, i, offset, bytes);
        }
    }
    return sum;
}

/* The end of the range that begins at @pos, in which each byte is in doubt. */
static int64_t quorum_sync_stale_end_locked(const QuorumSync *sync, int64_t pos,
                                            int64_t end)
{
    int64_t before;

    do {
        before = pos;
        for (int i = 0; i < sync->num_children && pos < end; i++) {
            if (quorum_sync_is_asked(sync, i)) {
                pos = quorum_sync_doubtful_end_locked(&sync->children[i], pos,
                                                      end);
            }
        }
    } while (pos > before);
    return pos;
}

bool quorum_sync_next_stale(QuorumSync *sync, int64_t offset, int64_t end,
                            int64_t *start, int64_t *bytes)
{
    int64_t first = end;

    QUORUM_SYNC_GUARD(sync);
    end = MIN(end, sync->bytes);
    for (int i = 0; i < sync->num_children && offset < end; i++) {
        int64_t next = -1;

        if (quorum_sync_is_asked(sync, i)) {
            next = quorum_sync_next_doubtful_locked(&sync->children[i], offset,
                                                    end - offset);
        }
        if (next >= 0) {
            first = MIN(first, next);
        }
    }
    *start = first;
    *bytes = quorum_sync_stale_end_locked(sync, first, end) - first;
    return *bytes > 0;
}

int64_t quorum_sync_next_stale_of(QuorumSync *sync, int i, int64_t offset,
                                  int64_t end)
{
    QUORUM_SYNC_GUARD(sync);
    end = MIN(end, sync->bytes);
    return offset < end ?
           quorum_sync_next_doubtful_locked(&sync->children[i], offset,
                                            end - offset) : -1;
}
