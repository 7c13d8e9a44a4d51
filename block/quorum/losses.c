/*
 * Quorum block driver: children that may have lost data
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "debug.h"
#include "losses.h"
#include "read-locked-int.h"
#include "repair.h"

/* How much is voted on at once: the guest's requests wait for the range. */
#define QUORUM_CONFIRM_CHUNK (1 * MiB)

void quorum_find_losses(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    uint64_t last = bdrv_last_loss_generation();

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child) {
            quorum_sync_lost(s->sync, i, bdrv_child_loss_generation(child),
                             bdrv_child_failed_flush_generation(child));
        }
    }
    /* After the children: see quorum_notice_losses(). */
    smp_wmb();
    stat64_max(&s->losses_seen, last);
}

void quorum_know_new_child(BDRVQuorumState *s, int i)
{
    BdrvChild *child = s->slots[i].child;

    quorum_sync_know_losses(s->sync, i, bdrv_child_loss_generation(child),
                            bdrv_child_failed_flush_generation(child));
}

void quorum_flush_failed(const QuorumAnswer *a)
{
    /* Read before: what fails after that is found by itself. */
    uint64_t generation = bdrv_child_failed_flush_generation(a->child);

    quorum_sync_flush_failed(a->req->s->sync, quorum_answer_slot(a),
                             generation);
}

uint64_t quorum_latest_loss(BdrvChild *child)
{
    return MAX(bdrv_child_loss_generation(child),
               bdrv_child_failed_flush_generation(child));
}

bool quorum_answer_has_lost(const QuorumAnswer *a)
{
    return unlikely(bdrv_last_loss_generation() != a->req->losses) &&
           quorum_latest_loss(a->child) > a->req->losses;
}

void quorum_request_leave_out_lost(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && quorum_answer_has_lost(a)) {
            a->absent = true;
            quorum_answer_leave_out(a, QUORUM_PART_STALE);
        }
    }
}

/* What a digest has decided, and children that can take it lack: to @map. */
static void GRAPH_RDLOCK quorum_find_outvoted(const QuorumLockedRead *lr,
                                              unsigned long *map)
{
    const QuorumRequest *req = lr->req;

    for (int i = 0; i < req->n; i++) {
        bool takes = quorum_may_repair(req->bs, i) &&
                     !qatomic_read(&req->s->slots[i].repair_failed);

        for (int u = 0; takes && u < lr->units; u++) {
            long bit = quorum_bit(lr, i, u);

            if (test_bit(u, lr->by_digest) && test_bit(bit, lr->to_repair) &&
                test_bit(bit, lr->stale)) {
                quorum_reached(QUORUM_BRANCH_OUTVOTED_REPAIRED);
                set_bit(bit, map);
            }
        }
    }
}

/*
 * A QuorumRepairFn: children that have been confirmed, but not to have it on
 * their media, are given it again; and so are children that lack what a digest
 * knows to be right, if that is why there are too few copies.  What children
 * lack otherwise is left to a resync, except for units of larger granules:
 * there, what is missing of one keeps the child unsure in all of them.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_repair_unsure(BlockDriverState *bs, QuorumLockedRead *lr)
{
    long bits = (long)lr->req->n * lr->units;
    g_autofree unsigned long *outvoted = bitmap_new(bits);
    g_autofree unsigned long *which = bitmap_new(bits);

    if (quorum_sync_any_outvoted(lr->req->s->sync)) {
        quorum_find_outvoted(lr, outvoted);
    }
    bitmap_andnot(which, lr->unsure, lr->stale, bits);
    if (!quorum_sync_is_coarse(lr->req->s->sync)) {
        bitmap_andnot(which, which, lr->wrong, bits);
    }
    bitmap_andnot(which, which, lr->missing, bits);
    bitmap_or(which, which, outvoted, bits);
    quorum_repair_some(lr, which);
}

/* Vote on the range, and write again what has to be. */
static void coroutine_fn GRAPH_RDLOCK
quorum_confirm(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    trace_quorum_confirm(bs->node_name, offset, bytes);
    quorum_repair_range(bs, offset, bytes, NULL, "unsure",
                        quorum_repair_unsure);
}

/* How much has been repaired so far. */
static uint64_t quorum_repaired_bytes(const BDRVQuorumState *s)
{
    uint64_t sum = 0;

    for (int i = 0; i < s->num_slots; i++) {
        sum += stat64_get(&s->slots[i].counters.repaired_bytes);
    }
    return sum;
}

bool quorum_any_outvoted(const BDRVQuorumState *s)
{
    return quorum_sync_any_outvoted(s->sync) ||
           (s->digests && quorum_sync_any_unsure(s->sync) &&
            quorum_sync_is_coarse(s->sync));
}

bool coroutine_fn quorum_confirm_unsure(BlockDriverState *bs, bool yields,
                                        int *restores)
{
    BDRVQuorumState *s = bs->opaque;
    bool outvoted = quorum_any_outvoted(s);
    uint64_t repaired = quorum_repaired_bytes(s);
    int64_t pos = 0, start, bytes;

    while (!(yields && qatomic_read(&bs->quiesce_counter)) &&
           quorum_sync_next_unsure(s->sync, pos, &start, &bytes)) {
        if (start < pos) {
            /* A granule that is larger than what can be voted on at once */
            bytes -= pos - start;
            start = pos;
        }
        bytes = quorum_sync_chunk(s->sync, start, start + bytes,
                                  QUORUM_CONFIRM_CHUNK,
                                  quorum_repair_max_bytes(bs));
        quorum_confirm(bs, start, bytes);
        pos = start + bytes;
    }
    /* A read may have outvoted more meanwhile, which is still to be given. */
    return (outvoted ? quorum_repaired_bytes(s) != repaired
                     : quorum_sync_any_outvoted(s->sync)) &&
           (*restores)++ < QUORUM_RESTORES_MAX;
}

/* Vote on the granule at @pos, if children are unsure there. */
static void coroutine_fn GRAPH_RDLOCK quorum_confirm_at(BlockDriverState *bs,
                                                        int64_t pos)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t bytes = 1;

    if (quorum_sync_widen_unsure(s->sync, &pos, &bytes)) {
        quorum_confirm(bs, pos, MIN(bytes, quorum_repair_max_bytes(bs)));
    }
}

void coroutine_fn quorum_confirm_around(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t length = quorum_length(bs);
    int64_t end = MIN(offset + bytes, length);
    int64_t start = offset, past = end;

    if (offset >= length) {
        /* What comes is in one granule with what is before the end. */
        start = past = offset = MAX(length, 1) - 1;
    } else {
        quorum_sync_whole_granules(s->sync, &start, &past);
    }
    if (start > offset || start == past) {
        quorum_confirm_at(bs, offset);
    }
    if (past < end) {
        quorum_confirm_at(bs, end - 1);
    }
}
