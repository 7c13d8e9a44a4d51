/*
 * Quorum block driver: repairs behind reads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/aio.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "checked.h"
#include "debug.h"
#include "read-locked.h"
#include "repair.h"
#include "trace.h"
#include "write.h"

/*
 * How many repairs of a node go on at a time: enough that one child that is
 * slow, or hangs, does not stop all; few beside what guests have in flight.
 */
#define QUORUM_REPAIRS_AT_WORK 4

/* How many there may be with those that wait: a burst, and little memory. */
#define QUORUM_REPAIRS 64

/*
 * How much is repaired at once: as a scrub does, for the same reasons, and so
 * that what one has tried lies within one chunk of the other.
 */
#define QUORUM_REPAIR_CHUNK (1 * MiB)

/* How long a drain waits for a repair that takes several chunks. */
#define QUORUM_REPAIR_DRAIN_NS (1 * NANOSECONDS_PER_SECOND)

struct QuorumRepair {
    BlockDriverState *bs;
    int64_t start;
    int64_t end;
    const char *why;
    bool *children;             /* [slot]: to be repaired */
    bool *reported;             /* [slot]: by the read, or NULL */
    bool at_work;               /* or it waits */
    QTAILQ_ENTRY(QuorumRepair) next;    /* in BDRVQuorumState.repairs */
};

/* --- creation, and sizes --- */

void quorum_repairs_init(BDRVQuorumState *s)
{
    buffer_pool_init(&s->repair_pool, quorum_limits.repair_pool_bytes,
                     qemu_real_host_page_size());
    qemu_mutex_init(&s->repairs_lock);
    QTAILQ_INIT(&s->repairs);
}

void quorum_repairs_destroy(BDRVQuorumState *s)
{
    assert(QTAILQ_EMPTY(&s->repairs) && !s->repairs_at_work);
    qemu_mutex_destroy(&s->repairs_lock);
    buffer_pool_destroy(&s->repair_pool);
}

int64_t quorum_repair_max_bytes(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    return buffer_pool_max_size(&s->repair_pool, s->num_slots + 1);
}

/* How much of the range from @start to @end is repaired next. */
static int64_t quorum_repair_next(BlockDriverState *bs, int64_t start,
                                  int64_t end)
{
    BDRVQuorumState *s = bs->opaque;
    int n = s->num_slots + 1;
    int64_t chunk = MIN(buffer_pool_max_size(&s->repair_pool,
                                             QUORUM_REPAIRS_AT_WORK * n),
                        QUORUM_REPAIR_CHUNK);

    return quorum_sync_chunk(s->sync, start, end, MAX(chunk, QUORUM_UNIT),
                             quorum_repair_max_bytes(bs));
}

/* --- the repairs of a node; called with repairs_lock held --- */

static void quorum_repair_add(BDRVQuorumState *s, QuorumRepair *r)
{
    QTAILQ_INSERT_TAIL(&s->repairs, r, next);
    qatomic_set(&s->num_repairs, s->num_repairs + 1);
}

static void quorum_repair_free(QuorumRepair *r)
{
    g_free(r->children);
    g_free(r->reported);
    g_free(r);
}

static void quorum_repair_remove(BDRVQuorumState *s, QuorumRepair *r)
{
    QTAILQ_REMOVE(&s->repairs, r, next);
    qatomic_set(&s->num_repairs, s->num_repairs - 1);
    quorum_repair_free(r);
}

/* Let @r wait as a part of @other, if they touch and are not too large. */
static bool quorum_repair_merge(QuorumRepair *other, const QuorumRepair *r,
                                int n)
{
    int64_t start = MIN(r->start, other->start);
    int64_t end = MAX(r->end, other->end);

    if (other->at_work || r->start > other->end || r->end < other->start ||
        end - start > QUORUM_REPAIR_CHUNK) {
        return false;
    }
    other->start = start;
    other->end = end;
    for (int i = 0; i < n; i++) {
        other->children[i] |= r->children[i];
        if (other->reported) {
            other->reported[i] |= r->reported && r->reported[i];
        }
    }
    return true;
}

/*
 * Take in @r, which is to begin at once if r->at_work is set.  Returns false if
 * it is not needed, or there is no place for it: *@why.
 */
static bool quorum_repair_take_in(BDRVQuorumState *s, QuorumRepair *r,
                                  const char **why)
{
    QuorumRepair *other;

    QTAILQ_FOREACH(other, &s->repairs, next) {
        if (other->start <= r->start && other->end >= r->end) {
            *why = "is to be repaired already";
            return false;
        }
    }
    if (qatomic_read(&r->bs->quiesce_counter)) {
        *why = "the node is being drained";
        return false;
    }
    r->at_work = s->repairs_at_work < QUORUM_REPAIRS_AT_WORK;
    if (r->at_work) {
        s->repairs_at_work++;
        quorum_repair_add(s, r);
        return true;
    }
    QTAILQ_FOREACH(other, &s->repairs, next) {
        if (quorum_repair_merge(other, r, s->num_slots)) {
            *why = "is added to another one that waits";
            return false;
        }
    }
    if (s->num_repairs == QUORUM_REPAIRS) {
        *why = "too many wait";
        return false;
    }
    quorum_repair_add(s, r);
    return true;
}

/* @r has been done: return the next one, or NULL. */
static QuorumRepair *quorum_repair_finish(BDRVQuorumState *s, QuorumRepair *r)
{
    bool drained = qatomic_read(&r->bs->quiesce_counter);
    QuorumRepair *next;

    quorum_repair_remove(s, r);
    QTAILQ_FOREACH_SAFE(r, &s->repairs, next, next) {
        if (!r->at_work && drained) {
            quorum_repair_remove(s, r);
        } else if (!r->at_work) {
            r->at_work = true;
            return r;
        }
    }
    s->repairs_at_work--;
    return NULL;
}

/* --- repairing --- */

/*
 * Whether the node is being drained for longer than what has begun should make
 * it wait; *@since is 0 at first.  (When a tool ends, that drains, too, and
 * what it has read is to be repaired.)
 */
static bool quorum_drain_waits_long(BlockDriverState *bs, int64_t *since)
{
    if (!qatomic_read(&bs->quiesce_counter)) {
        *since = 0;
        return false;
    }
    *since = *since ?: quorum_now_ns();
    return quorum_now_ns() - *since > QUORUM_REPAIR_DRAIN_NS;
}

static void coroutine_fn quorum_repair(const QuorumRepair *r)
{
    BlockDriverState *bs = r->bs;
    int64_t pos = r->start;
    int64_t drained_ns = 0;
    bool more = true;

    while (more) {
        int64_t end;

        GRAPH_RDLOCK_GUARD();
        end = MIN(r->end, quorum_length(bs));
        more = pos < end && !quorum_drain_waits_long(bs, &drained_ns);
        if (more) {
            int64_t size = quorum_repair_next(bs, pos, end);

            quorum_extend_children(bs, pos + size, NULL);
            quorum_repair_range(bs, pos, size, r->reported, r->why, NULL);
            pos += size;
        }
    }
}

static void coroutine_fn quorum_repair_entry(void *opaque)
{
    QuorumRepair *r = opaque;
    BlockDriverState *bs = r->bs;
    BDRVQuorumState *s = bs->opaque;

    while (r) {
        quorum_repair(r);
        WITH_QEMU_LOCK_GUARD(&s->repairs_lock) {
            r = quorum_repair_finish(s, r);
        }
    }
    bdrv_dec_in_flight(bs);
}

void coroutine_fn quorum_repair_behind(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, QuorumFindings *found)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRepair *r = g_new(QuorumRepair, 1);
    const char *dropped = NULL;
    bool at_work = false;

    quorum_checked_widen(bs, &offset, &bytes);
    *r = (QuorumRepair) {
        .bs = bs,
        .start = offset,
        .end = offset + bytes,
        .why = found->why,
        .children = g_steal_pointer(&found->to_repair),
        .reported = g_steal_pointer(&found->reported),
    };
    trace_quorum_repair_behind(bs->node_name, offset, bytes, r->why);
    WITH_QEMU_LOCK_GUARD(&s->repairs_lock) {
        if (quorum_repair_take_in(s, r, &dropped)) {
            at_work = r->at_work;
        }
    }
    if (at_work) {
        bdrv_inc_in_flight(bs);
        /* Entered when this coroutine yields or ends, the answer given. */
        aio_co_enter(qemu_get_current_aio_context(),
                     qemu_coroutine_create(quorum_repair_entry, r));
    } else if (dropped) {
        quorum_reached(QUORUM_BRANCH_REPAIR_DROPPED);
        trace_quorum_repair_dropped(bs->node_name, offset, bytes, dropped);
        quorum_repair_free(r);
    } else {
        quorum_reached(QUORUM_BRANCH_REPAIR_WAITS);
    }
}

/* --- reads beside repairs --- */

void quorum_leave_out_in_repair(QuorumRequest *req)
{
    BDRVQuorumState *s = req->s;
    const QuorumRepair *r;

    if (!qatomic_read(&s->num_repairs)) {
        return;
    }
    QEMU_LOCK_GUARD(&s->repairs_lock);
    QTAILQ_FOREACH(r, &s->repairs, next) {
        if (r->start >= req->offset + req->bytes || r->end <= req->offset) {
            continue;
        }
        for (int i = 0; i < req->n; i++) {
            QuorumAnswer *a = &req->answers[i];

            if (r->children[i] && quorum_answer_counts(a)) {
                quorum_reached(QUORUM_BRANCH_READ_BESIDE_REPAIR);
                a->absent = true;
                quorum_answer_leave_out(a, QUORUM_PART_IN_REPAIR);
            }
        }
    }
}
