/*
 * Quorum block driver: who stores what: looking inside, and what must be true
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * With quorum_debug.on, each critical section of a QuorumSync ends with a check
 * of all that docs/devel/quorum.rst says of it, so that a wrong map is noticed
 * where it becomes wrong, and not only if a later request trips over it.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/range.h"
#include "sync-int.h"

/* --- text for people --- */

static void quorum_text_of_map(GString *text, const QuorumSync *sync,
                                      const char *name, HBitmap *map)
{
    int64_t start = 0, count;
    int ranges = 0;

    if (!map) {
        return;
    }
    g_string_append_printf(text, "    %s: %" PRIu64 " bytes", name,
                           hbitmap_count(map));
    while (hbitmap_next_dirty_area(map, start, sync->bytes, INT64_MAX, &start,
                                   &count)) {
        if (++ranges > 8) {
            g_string_append(text, " ...");
            break;
        }
        g_string_append_printf(text, " [%" PRId64 ", %" PRId64 ")", start,
                               start + count);
        start += count;
    }
    g_string_append_c(text, '\n');
}

static void quorum_text_of_fua(GString *text, const QuorumSync *sync)
{
    const QuorumWrite *w;
    const QuorumFuaDone *done;

    QTAILQ_FOREACH(w, &sync->fua_writes, fua_next) {
        g_string_append_printf(text, "  FUA write in flight: [%" PRId64
                               ", %" PRId64 ") since tick %" PRIu64 "\n",
                               w->offset, w->offset + w->bytes, w->begun_tick);
    }
    QSIMPLEQ_FOREACH(done, &sync->fua_done, next) {
        g_string_append_printf(text, "  FUA write done: [%" PRId64 ", %" PRId64
                               ") at tick %" PRIu64 "\n", done->offset,
                               done->offset + done->bytes, done->ended_tick);
    }
}

static void quorum_text_of_unflushed(GString *text,
                                            const QuorumSync *sync)
{
    int64_t bits = quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift);

    g_string_append_printf(text, "  flush generation %" PRIu64 ", unflushed %ld"
                           " and flushing %ld of %" PRId64 " granules of %"
                           PRId64 " bytes\n",
                           stat64_get(&sync->flush_generation),
                           bitmap_count_one(sync->unflushed, bits),
                           bitmap_count_one(sync->flushing, bits), bits,
                           INT64_C(1) << sync->unflushed_shift);
}

char *quorum_sync_text(const QuorumSync *sync)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "quorum %s: %" PRId64 " bytes, granules of %"
                           PRId64 ", %d children degraded\n",
                           sync->node, sync->bytes,
                           INT64_C(1) << sync->stale_shift,
                           sync->num_degraded);
    quorum_text_of_map(text, sync, "unverified", sync->unverified);
    for (int i = 0; i < sync->num_children; i++) {
        const QuorumSyncChild *c = &sync->children[i];

        g_string_append_printf(text, "  child %d:%s%s%s%s, flush failed at %"
                               PRIu64 "\n", i, c->present ? "" : " vacant",
                               c->excluded ? " excluded" : "",
                               c->rebuilding ? " rebuilding" : "",
                               c->lagging ? " lagging" : "",
                               c->failed_flush_generation);
        quorum_text_of_map(text, sync, "stale", c->stale);
        quorum_text_of_map(text, sync, "unsure", c->unsure);
        quorum_text_of_map(text, sync, "late", c->late);
        if (c->late_end) {
            g_string_append_printf(text, "    late up to %" PRId64 "\n",
                                   c->late_end);
        }
        quorum_text_of_map(text, sync, "recovered since the flush began",
                           c->recovered_since_flush);
        quorum_text_of_map(text, sync, "recovered before the flush",
                           c->recovered_before_flush);
    }
    quorum_text_of_unflushed(text, sync);
    quorum_text_of_fua(text, sync);
    return g_string_free(text, false);
}

/* --- what must be true --- */

static void G_NORETURN quorum_check_failed(const QuorumSync *sync,
                                                  const char *condition,
                                                  const char *function)
{
    g_autofree char *text = quorum_sync_text(sync);

    fprintf(stderr, "%s: not true: %s\n%s", function, condition, text);
    abort();
}

/* As assert(), and tells all that is known. */
#define quorum_check(sync, condition)                                       \
    do {                                                                    \
        if (!(condition)) {                                                 \
            quorum_check_failed(sync, #condition, __func__);         \
        }                                                                   \
    } while (0)

/* A map has the granules of all maps, and no bits behind the end. */
static void quorum_check_map_locked(const QuorumSync *sync, const HBitmap *map)
{
    if (map) {
        quorum_check(sync, hbitmap_granularity(map) == sync->stale_shift);
        quorum_check(sync,
                     hbitmap_next_dirty(map, sync->bytes, INT64_MAX) < 0);
    }
}

static void quorum_check_child_locked(const QuorumSync *sync,
                                      const QuorumSyncChild *c)
{
    quorum_check_map_locked(sync, c->stale);
    quorum_check_map_locked(sync, c->recovered_since_flush);
    quorum_check_map_locked(sync, c->recovered_before_flush);
    quorum_check_map_locked(sync, c->late);
    quorum_check_map_locked(sync, c->unsure);

    /* A stale map that is empty is none. */
    quorum_check(sync, !c->stale || !hbitmap_empty(c->stale));
    quorum_check(sync, !c->unsure || !hbitmap_empty(c->unsure));
    quorum_check(sync, c->unsure || !c->rewrite);
    quorum_check(sync, c->stale || c->unsure || !c->may_lose);
    quorum_check(sync, !c->late || !hbitmap_empty(c->late));
    quorum_check(sync, !c->late_end || c->late_end > sync->bytes);
    if (!c->present) {
        quorum_check(sync, !c->corrupt && !c->excluded && !c->rebuilding &&
                           !c->lagging && !quorum_sync_child_is_late(c));
        quorum_check(sync, !c->stale && !c->unsure &&
                           !c->recovered_since_flush &&
                           !c->recovered_before_flush);
    }
    quorum_check(sync, c->excluded || !c->excluded_inactive);
    if (c->excluded && !c->excluded_inactive && sync->bytes) {
        /* An excluded child is stale throughout. */
        quorum_check(sync, c->stale &&
                           hbitmap_count(c->stale) >= sync->bytes);
    }
    quorum_check(sync, c->failed_flush_generation <=
                       stat64_get(&sync->flush_generation));
    /* Each change of the state has been noted. */
    quorum_check(sync, sync->changing ||
                       c->state == quorum_sync_state_locked(c));
}

/* The list of FUA writes: see QuorumSync.fua_done. */
static void quorum_check_fua_locked(const QuorumSync *sync)
{
    const QuorumWrite *oldest = QTAILQ_FIRST(&sync->fua_writes);
    const QuorumWrite *w;
    const QuorumFuaDone *done;
    uint64_t last = 0;
    int count = 0;

    QTAILQ_FOREACH(w, &sync->fua_writes, fua_next) {
        quorum_check(sync, w == oldest || w->begun_tick > last);
        quorum_check(sync, w->begun_tick < sync->fua_ticks);
        last = w->begun_tick;
    }
    last = 0;
    QSIMPLEQ_FOREACH(done, &sync->fua_done, next) {
        /* Those that no FUA write in flight can have lost are forgotten. */
        quorum_check(sync, oldest && done->ended_tick > oldest->begun_tick);
        quorum_check(sync, done->ended_tick > last);
        quorum_check(sync, done->ended_tick < sync->fua_ticks);
        last = done->ended_tick;
        count++;
    }
    quorum_check(sync, count == sync->num_fua_done);
    quorum_check(sync, count <= quorum_limits.fua_done);
}

void quorum_check_invariants_locked(const QuorumSync *sync)
{
    int degraded = 0;

    quorum_check(sync, sync->locked);
    quorum_check(sync, sync->bytes >= 0);
    quorum_check(sync,
                 sync->bytes >> sync->stale_shift < quorum_limits.stale_bits);
    quorum_check(sync, sync->bytes >> sync->unflushed_shift <
                       quorum_limits.unflushed_bits);
    for (int i = 0; i < sync->num_children; i++) {
        const QuorumSyncChild *c = &sync->children[i];

        quorum_check_child_locked(sync, c);
        degraded += quorum_sync_child_is_degraded(c);
    }
    quorum_check(sync, sync->num_degraded == degraded);
    quorum_check_map_locked(sync, sync->unverified);
    quorum_check(sync, !sync->unverified || !hbitmap_empty(sync->unverified));
    quorum_check_fua_locked(sync);
}

void quorum_check_write_begins_locked(QuorumSync *sync, QuorumWrite *w)
{
    QuorumWrite *other;

    for (int i = 0; i < sync->num_children; i++) {
        quorum_check(sync, !w->missed[i]);
    }
    QTAILQ_FOREACH(other, &sync->checked_writes, checked_next) {
        quorum_check(sync, !w->bytes || !other->bytes ||
                           !ranges_overlap(w->offset, w->bytes,
                                           other->offset, other->bytes));
    }
    QTAILQ_INSERT_TAIL(&sync->checked_writes, w, checked_next);
}

void quorum_check_write_ends_locked(QuorumSync *sync, QuorumWrite *w)
{
    QuorumWrite *other;

    QTAILQ_FOREACH(other, &sync->checked_writes, checked_next) {
        if (other == w) {
            break;
        }
    }
    quorum_check(sync, other);
    QTAILQ_REMOVE(&sync->checked_writes, w, checked_next);
}

void quorum_check_write_ends(QuorumSync *sync, QuorumWrite *w)
{
    QUORUM_SYNC_GUARD(sync);
    quorum_check_write_ends_locked(sync, w);
}

void quorum_check_copies_locked(const QuorumSync *sync, int64_t offset,
                                int64_t bytes, int threshold)
{
    int64_t end = offset + bytes;

    while (offset < end) {
        int copies = 0;

        for (int i = 0; i < sync->num_children; i++) {
            copies += quorum_sync_is_member(sync, i) &&
                      !quorum_sync_is_stale_locked(sync, i, offset, 1);
        }
        quorum_check(sync, copies >= threshold);
        offset += quorum_sync_uniform_range_locked(sync, offset, end - offset,
                                                   QUORUM_COPY_ANY);
    }
}

void quorum_check_flush_begins_locked(const QuorumSync *sync)
{
    int64_t bits = quorum_sync_unflushed_bits(sync->bytes,
                                              sync->unflushed_shift);

    /* See BDRVQuorumState.flush_lock. */
    quorum_check(sync, QTAILQ_EMPTY(&sync->fua_writes));
    quorum_check(sync, bitmap_empty(sync->flushing, bits));
}
