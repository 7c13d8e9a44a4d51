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
#include "block/block-io.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "quorum.h"

/* Bits of a map at most; above, granules double. */
#define QUORUM_STALE_BITS_MAX       (32 * MiB)
#define QUORUM_UNFLUSHED_BITS_MAX   (8 * MiB)
#define QUORUM_UNFLUSHED_SHIFT_MIN  20
/* FUA writes to be remembered by themselves; above, they are unflushed. */
#define QUORUM_FUA_DONE_MAX         1024

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
    s->unflushed_shift = QUORUM_UNFLUSHED_SHIFT_MIN;
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

static int64_t quorum_unflushed_bits(int64_t bytes, int shift)
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

/* Called with lock held. */
static void quorum_maps_resize_locked(BDRVQuorumState *s, int64_t bytes)
{
    int stale_shift = quorum_map_shift(bytes, s->stale_shift,
                                       QUORUM_STALE_BITS_MAX);
    int unflushed_shift = quorum_map_shift(bytes, s->unflushed_shift,
                                           QUORUM_UNFLUSHED_BITS_MAX);

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

/* Called with lock held. */
static void quorum_stale_set(BDRVQuorumState *s, int i, int64_t offset,
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

/* Called with lock held. */
static void quorum_put_out_locked(BDRVQuorumState *s, int i)
{
    qatomic_set(&s->slots[i].out, true);
    quorum_stale_set(s, i, 0, s->map_bytes);
}

void quorum_put_out(BDRVQuorumState *s, int i)
{
    QEMU_LOCK_GUARD(&s->lock);
    quorum_put_out_locked(s, i);
}

/* Called with lock held. */
static void quorum_whole_granules_locked(BDRVQuorumState *s, int64_t *start,
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

/* Called with lock held. */
static void quorum_stale_clear(BDRVQuorumState *s, int i, int64_t offset,
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
        if (++s->num_fua_done > QUORUM_FUA_DONE_MAX) {
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
    QuorumSlot *slot = &s->slots[i];
    bool was_stale;

    /*
     * What is in flight counts as failed even if the flush, as it turns out,
     * makes nobody stale because too many have failed it: the guest may hear of
     * a write after it has heard of that flush, and rely on it (promise 1).
     */
    QEMU_LOCK_GUARD(&s->lock);
    stat64_add(&s->flush_epoch, 1);
    slot->lost_epoch = stat64_get(&s->flush_epoch);

    /* What ended its being stale may be what is lost. */
    was_stale = slot->stale != NULL;
    quorum_map_move(&slot->stale, &slot->cured[0]);
    quorum_map_move(&slot->stale, &slot->cured[1]);
    if (slot->stale && !was_stale) {
        qatomic_set(&s->stale_slots, s->stale_slots + 1);
    }
    if (slot->stale && hbitmap_empty(slot->stale)) {
        quorum_drop_map(s, i);
    }
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
        return false;
    }
    QSIMPLEQ_FOREACH(done, &s->fua_done, next) {
        if (!quorum_range_is_held(s, w->failed, done->offset, done->bytes,
                                  w)) {
            return false;
        }
    }
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
        return false;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (!s->slots[i].child) {
            continue;
        }
        if (w->failed[i] || !quorum_slot_is_in(&s->slots[i])) {
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
            HBitmap **cured = s->slots[i].cured;

            quorum_map_move(&cured[1], &cured[0]);
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
    if (!slot->stale && !slot->cured[0]) {
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
        bitmap_or(s->unflushed, s->unflushed, s->flushing, bits);
    } else if (any_failed) {
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
            quorum_put_out_locked(s, i);
        }
    }
    return true;
}
