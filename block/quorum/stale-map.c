/*
 * Quorum block driver: what is known of the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Each slot has counters and, from the first failure on, a *stale map*: where
 * the child lacks what has been acknowledged.  The node has an *unflushed map*:
 * where a child may have lost something if a flush fails on it.
 *
 * Whatever makes a child stale, or ends that, does so under the lock of
 * BDRVQuorumState.  Who decides that, and why: settle.c.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "debug.h"
#include "sync-int.h"

/* --- slots --- */

/* Slots that are vacant, so that nothing is known of them. */
static QuorumSlot *quorum_slots_new(int n)
{
    QuorumSlot *slots = g_new0(QuorumSlot, n);

    for (int i = 0; i < n; i++) {
        stat64_init(&slots[i].counters.read_errors, 0);
        stat64_init(&slots[i].counters.write_errors, 0);
        stat64_init(&slots[i].counters.flush_errors, 0);
        stat64_init(&slots[i].counters.mismatches, 0);
        stat64_init(&slots[i].counters.repaired_bytes, 0);
    }
    return slots;
}

static void quorum_slot_clear(QuorumSlot *slot)
{
    g_clear_pointer(&slot->stale, hbitmap_free);
    g_clear_pointer(&slot->cured[0], hbitmap_free);
    g_clear_pointer(&slot->cured[1], hbitmap_free);
    g_clear_pointer(&slot->error, g_free);
}

void quorum_slots_init(BDRVQuorumState *s, int slots)
{
    s->slots = quorum_slots_new(slots);
    s->num_slots = slots;
    qemu_mutex_init(&s->lock);
    s->stale_shift = ctz32(QUORUM_UNIT);
    s->unflushed_shift = quorum_limits.unflushed_shift;
    s->unflushed = bitmap_new(1);
    s->flushing = bitmap_new(1);
    stat64_init(&s->flush_epoch, 0);
    QTAILQ_INIT(&s->fua_writes);
    QSIMPLEQ_INIT(&s->fua_done);
}

void quorum_slots_destroy(BDRVQuorumState *s)
{
    for (int i = 0; i < s->num_slots; i++) {
        quorum_slot_clear(&s->slots[i]);
    }
    g_free(s->slots);
    assert(QTAILQ_EMPTY(&s->fua_writes) && QSIMPLEQ_EMPTY(&s->fua_done));
    g_free(s->unflushed);
    g_free(s->flushing);
    qemu_mutex_destroy(&s->lock);
}

/* Called with lock held. */
static void quorum_drop_map(BDRVQuorumState *s, int i)
{
    if (s->slots[i].stale) {
        hbitmap_free(s->slots[i].stale);
        s->slots[i].stale = NULL;
        qatomic_set(&s->stale_slots, s->stale_slots - 1);
    }
}

struct QuorumSlotsChange {
    QuorumSlot *slots;          /* the old ones */
    int num_slots;
    int *from;                  /* [slot]: which one it was, or -1 */
};

/* Called with lock held. */
static void quorum_slots_install(BDRVQuorumState *s, QuorumSlot *slots, int n)
{
    int stale_slots = 0;

    for (int i = 0; i < n; i++) {
        stale_slots += slots[i].stale != NULL;
    }
    s->slots = slots;
    s->num_slots = n;
    qatomic_set(&s->stale_slots, stale_slots);
}

QuorumSlotsChange *quorum_slots_change_begin(BDRVQuorumState *s,
                                             const int *from, int n)
{
    QuorumSlotsChange *change = g_new(QuorumSlotsChange, 1);
    QuorumSlot *slots = quorum_slots_new(n);

    QEMU_LOCK_GUARD(&s->lock);
    *change = (QuorumSlotsChange) {
        .slots = s->slots,
        .num_slots = s->num_slots,
        .from = g_memdup2(from, n * sizeof(*from)),
    };
    for (int i = 0; i < n; i++) {
        if (from[i] >= 0) {
            slots[i] = s->slots[from[i]];
        }
    }
    quorum_slots_install(s, slots, n);
    return change;
}

void quorum_slots_change_end(BDRVQuorumState *s, QuorumSlotsChange *change,
                             bool commit)
{
    QuorumSlot *slots = s->slots;
    int n = s->num_slots;

    QEMU_LOCK_GUARD(&s->lock);
    for (int i = 0; i < n; i++) {
        if (change->from[i] >= 0) {
            /* Both arrays know it; it goes with the one that stays. */
            QuorumSlot *other = commit ? &change->slots[change->from[i]]
                                       : &slots[i];

            other->stale = other->cured[0] = other->cured[1] = NULL;
            other->error = NULL;
        }
    }
    if (!commit) {
        quorum_slots_install(s, change->slots, change->num_slots);
        change->slots = slots;
        change->num_slots = n;
    }
    for (int i = 0; i < change->num_slots; i++) {
        quorum_slot_clear(&change->slots[i]);
    }
    g_free(change->slots);
    g_free(change->from);
    g_free(change);
}

/* --- stale maps --- */

/* Add what is in *@from, which may be NULL, to *@to, and forget it there. */
static void quorum_map_move(HBitmap **to, HBitmap **from)
{
    if (*from && *to) {
        hbitmap_merge(*to, *from, *to);
        g_clear_pointer(from, hbitmap_free);
    } else if (*from) {
        *to = g_steal_pointer(from);
    }
}

/* The smallest shift, from @shift up, so that @bytes take @most bits or less */
static int quorum_map_shift(int64_t bytes, int shift, int64_t most)
{
    while ((bytes >> shift) >= most) {
        shift++;
    }
    return shift;
}

/* @map, for a node of @bytes, with another granule.  Called with lock held. */
static HBitmap *quorum_map_resize(BDRVQuorumState *s, HBitmap *map, int shift,
                                  int64_t bytes)
{
    int64_t end = MIN(bytes, s->map_bytes);
    int64_t start = 0, count;
    HBitmap *coarse;

    if (!map || shift == s->stale_shift) {
        if (map) {
            hbitmap_truncate(map, bytes);
        }
        return map;
    }
    coarse = hbitmap_alloc(bytes, shift);
    while (hbitmap_next_dirty_area(map, start, end, INT64_MAX, &start,
                                   &count)) {
        hbitmap_set(coarse, start, count);
        start += count;
    }
    hbitmap_free(map);
    return coarse;
}

int64_t quorum_unflushed_bits(int64_t bytes, int shift)
{
    return MAX(DIV_ROUND_UP(bytes, INT64_C(1) << shift), 1);
}

/* Called with lock held. */
static void quorum_unflushed_resize(BDRVQuorumState *s, unsigned long **map,
                                    int shift, int64_t bytes)
{
    int64_t bits = quorum_unflushed_bits(bytes, shift);
    int64_t old_bits = quorum_unflushed_bits(s->map_bytes, s->unflushed_shift);
    int by = shift - s->unflushed_shift;
    unsigned long *old = *map;

    if (bits == old_bits && by == 0) {
        return;
    }
    *map = bitmap_new(bits);
    for (int64_t bit = find_first_bit(old, old_bits);
         bit < old_bits && bit >> by < bits;
         bit = find_next_bit(old, old_bits, bit + 1)) {
        set_bit(bit >> by, *map);
    }
    g_free(old);
}

void quorum_maps_resize_locked(BDRVQuorumState *s, int64_t bytes)
{
    int stale_shift = quorum_map_shift(bytes, s->stale_shift,
                                       quorum_limits.stale_bits);
    int unflushed_shift = quorum_map_shift(bytes, s->unflushed_shift,
                                           quorum_limits.unflushed_bits);

    if (stale_shift != s->stale_shift || unflushed_shift != s->unflushed_shift) {
        quorum_reached(QUORUM_BRANCH_MAPS_COARSER);
    }
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];

        slot->stale = quorum_map_resize(s, slot->stale, stale_shift, bytes);
        slot->cured[0] = quorum_map_resize(s, slot->cured[0], stale_shift,
                                           bytes);
        slot->cured[1] = quorum_map_resize(s, slot->cured[1], stale_shift,
                                           bytes);
        if (slot->stale && hbitmap_empty(slot->stale)) {
            quorum_drop_map(s, i);
        }
    }
    quorum_unflushed_resize(s, &s->unflushed, unflushed_shift, bytes);
    quorum_unflushed_resize(s, &s->flushing, unflushed_shift, bytes);
    s->stale_shift = stale_shift;
    s->unflushed_shift = unflushed_shift;
    s->map_bytes = bytes;
}

void quorum_maps_resize(BDRVQuorumState *s, int64_t bytes)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_maps_resize_locked(s, bytes);
}

void quorum_stale_set(BDRVQuorumState *s, int i, int64_t offset,
                      int64_t bytes)
{
    QuorumSlot *slot = &s->slots[i];

    bytes = MIN(bytes, s->map_bytes - offset);
    if (bytes <= 0) {
        return;
    }
    if (!slot->stale) {
        slot->stale = hbitmap_alloc(s->map_bytes, s->stale_shift);
        qatomic_set(&s->stale_slots, s->stale_slots + 1);
    }
    hbitmap_set(slot->stale, offset, bytes);
}

void quorum_set_stale(BDRVQuorumState *s, int i, int64_t offset, int64_t bytes)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_stale_set(s, i, offset, bytes);
}

void quorum_set_rebuilding(BDRVQuorumState *s, int i)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_stale_set(s, i, 0, INT64_MAX);
    /* An empty disk has nothing to lack. */
    qatomic_set(&s->slots[i].rebuilding, s->slots[i].stale != NULL);
}

void quorum_put_out_locked(BDRVQuorumState *s, int i)
{
    qatomic_set(&s->slots[i].out, true);
    quorum_stale_set(s, i, 0, s->map_bytes);
}

void quorum_put_out(BDRVQuorumState *s, int i)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_put_out_locked(s, i);
}

void quorum_whole_granules_locked(BDRVQuorumState *s, int64_t *start,
                                  int64_t *end)
{
    int64_t granule = INT64_C(1) << s->stale_shift;

    *start = ROUND_UP(*start, granule);
    *end = *end >= s->map_bytes ? s->map_bytes : QEMU_ALIGN_DOWN(*end, granule);
    *end = MAX(*start, *end);
}

void quorum_whole_granules(BDRVQuorumState *s, int64_t *start, int64_t *end)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_whole_granules_locked(s, start, end);
}

/* Called with lock held. */
static void quorum_note_cured(BDRVQuorumState *s, int i, int64_t start,
                              int64_t end)
{
    QuorumSlot *slot = &s->slots[i];
    int64_t count;

    while (hbitmap_next_dirty_area(slot->stale, start, end, INT64_MAX, &start,
                                   &count)) {
        if (!slot->cured[0]) {
            slot->cured[0] = hbitmap_alloc(s->map_bytes, s->stale_shift);
        }
        hbitmap_set(slot->cured[0], start, count);
        start += count;
    }
}

void quorum_stale_clear(BDRVQuorumState *s, int i, int64_t offset,
                        int64_t bytes)
{
    QuorumSlot *slot = &s->slots[i];
    int64_t start = offset;
    int64_t end = offset + bytes;

    quorum_whole_granules_locked(s, &start, &end);
    if (!slot->stale || start == end) {
        return;
    }
    quorum_note_cured(s, i, start, end);
    hbitmap_reset(slot->stale, start, end - start);
    if (hbitmap_empty(slot->stale)) {
        quorum_drop_map(s, i);
    }
}

void quorum_stale_restore(BDRVQuorumState *s, int i)
{
    QuorumSlot *slot = &s->slots[i];
    bool was_stale = slot->stale != NULL;

    if (slot->cured[0] || slot->cured[1]) {
        quorum_reached(QUORUM_BRANCH_FLUSH_TOOK_BACK);
    }
    quorum_map_move(&slot->stale, &slot->cured[0]);
    quorum_map_move(&slot->stale, &slot->cured[1]);
    if (slot->stale && !was_stale) {
        qatomic_set(&s->stale_slots, s->stale_slots + 1);
    }
    if (slot->stale && hbitmap_empty(slot->stale)) {
        quorum_drop_map(s, i);
    }
}

void quorum_cured_age(BDRVQuorumState *s, int i)
{
    HBitmap **cured = s->slots[i].cured;

    quorum_map_move(&cured[1], &cured[0]);
}

bool quorum_is_stale(BDRVQuorumState *s, int i, int64_t offset, int64_t bytes)
{
    bytes = MIN(bytes, s->map_bytes - offset);
    return s->slots[i].stale && bytes > 0 &&
           hbitmap_next_dirty(s->slots[i].stale, offset, bytes) >= 0;
}

bool quorum_is_all_stale(BDRVQuorumState *s, int i, int64_t offset,
                         int64_t bytes)
{
    bytes = MIN(bytes, s->map_bytes - offset);
    return s->slots[i].stale && bytes > 0 &&
           hbitmap_next_zero(s->slots[i].stale, offset, bytes) < 0;
}

int64_t quorum_stale_run(BDRVQuorumState *s, int64_t offset, int64_t bytes)
{
    int64_t inside = MIN(bytes, s->map_bytes - offset);

    if (!s->stale_slots || inside <= 0) {
        return bytes;
    }
    for (int i = 0; i < s->num_slots; i++) {
        HBitmap *stale = s->slots[i].stale;
        int64_t edge;

        if (stale) {
            edge = hbitmap_get(stale, offset) ?
                   hbitmap_next_zero(stale, offset, inside) :
                   hbitmap_next_dirty(stale, offset, inside);
            if (edge >= 0) {
                inside = edge - offset;
            }
        }
    }
    return inside;
}

void quorum_stale_widen(BDRVQuorumState *s, int64_t *offset, int64_t *bytes)
{
    QEMU_LOCK_GUARD(&s->lock);
    int64_t granule = INT64_C(1) << s->stale_shift;
    int64_t end = ROUND_UP(*offset + *bytes, granule);

    *offset = QEMU_ALIGN_DOWN(*offset, granule);
    *bytes = MIN(end, s->map_bytes) - *offset;
}

/* Called with lock held. */
static int64_t quorum_stale_bytes_locked(BDRVQuorumState *s, int i)
{
    HBitmap *stale = s->slots[i].stale;
    int64_t granule = INT64_C(1) << s->stale_shift;
    int64_t bytes;

    if (!stale) {
        return 0;
    }
    bytes = hbitmap_count(stale);
    if (hbitmap_get(stale, s->map_bytes - 1)) {
        bytes -= ROUND_UP(s->map_bytes, granule) - s->map_bytes;
    }
    return bytes;
}

int64_t quorum_stale_bytes(BDRVQuorumState *s, int i)
{
    QEMU_LOCK_GUARD(&s->lock);
    return quorum_stale_bytes_locked(s, i);
}

int64_t quorum_stale_sum(BDRVQuorumState *s, int64_t offset, int64_t bytes)
{
    int64_t sum = 0;

    QEMU_LOCK_GUARD(&s->lock);
    bytes = MIN(bytes, s->map_bytes - offset);
    for (int i = 0; i < s->num_slots; i++) {
        HBitmap *stale = s->slots[i].stale;
        int64_t pos = offset;
        int64_t count;

        if (!stale || !quorum_slot_is_in(&s->slots[i])) {
            continue;
        }
        if (bytes == s->map_bytes) {
            sum += quorum_stale_bytes_locked(s, i);
            continue;
        }
        while (hbitmap_next_dirty_area(stale, pos, offset + bytes, INT64_MAX,
                                       &pos, &count)) {
            sum += count;
            pos += count;
        }
    }
    return sum;
}

bool quorum_next_stale(BDRVQuorumState *s, int64_t offset, int64_t end,
                       int64_t *start, int64_t *bytes)
{
    int64_t first = end;
    int64_t past;
    bool more;

    QEMU_LOCK_GUARD(&s->lock);
    end = MIN(end, s->map_bytes);
    for (int i = 0; i < s->num_slots; i++) {
        HBitmap *stale = s->slots[i].stale;
        int64_t next = stale && offset < end &&
                       quorum_slot_is_in(&s->slots[i]) ?
                       hbitmap_next_dirty(stale, offset, end - offset) : -1;

        if (next >= 0) {
            first = MIN(first, next);
        }
    }
    past = first;
    do {
        more = false;
        for (int i = 0; i < s->num_slots && past < end; i++) {
            HBitmap *stale = s->slots[i].stale;

            if (stale && quorum_slot_is_in(&s->slots[i]) &&
                hbitmap_get(stale, past)) {
                int64_t edge = hbitmap_next_zero(stale, past, end - past);

                past = edge < 0 ? end : edge;
                more = true;
            }
        }
    } while (more);

    *start = first;
    *bytes = past - first;
    return past > first;
}
