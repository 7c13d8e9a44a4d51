/*
 * Quorum block driver: the locked read: repairing, and what is known then
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Children that are wrong, or lack something, are overwritten with the winners
 * while the range is held (promise 6).  What a vote has shown of a child is
 * noted afterwards: that it is sure of what it has, or verified.
 *
 * Offsets are bytes of the disk.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "debug.h"
#include "late.h"
#include "losses.h"
#include "read-locked-int.h"
#include "state.h"
#include "trace.h"

/*
 * Repairs look for zeroes in aligned blocks of this size: cut into smaller
 * parts than the clusters of most images, they would not make it any thinner.
 */
#define QUORUM_ZEROES (64 * KiB)
QEMU_BUILD_BUG_ON(QUORUM_ZEROES % QUORUM_UNIT);

/* --- repairing --- */

/*
 * The winners from @pos on, up to @end at most, in a block of QUORUM_ZEROES:
 * *@past is where it ends.  Returns whether they are zeroes.
 */
static bool quorum_next_block(const QuorumLockedRead *lr, int64_t pos,
                              int64_t end, int64_t *past)
{
    *past = MIN(ROUND_UP(pos + 1, QUORUM_ZEROES), end);
    return buffer_is_zero(quorum_data_at(lr, lr->result, pos), *past - pos);
}

/* Whether it is known that the range of @child has nothing but zeroes. */
static bool coroutine_fn GRAPH_RDLOCK
quorum_child_has_zeroes(BdrvChild *child, int64_t offset, int64_t bytes)
{
    int64_t pnum = 0;
    int ret = bdrv_co_block_status_above(child->bs, NULL, offset, bytes, &pnum,
                                         NULL, NULL);

    return ret >= 0 && (ret & BDRV_BLOCK_ZERO) && pnum == bytes;
}

/*
 * Write the winners over @range of @child.  Zeroes are written as such, and not
 * where a stale child has them anyway, so that it stays thin.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_repair_write(QuorumLockedRead *lr, BdrvChild *child, QuorumRange range,
                    bool stale)
{
    int64_t pos = range.start;
    int ret = 0;

    while (pos < range.end && ret >= 0) {
        int64_t past, next;
        bool zeroes = quorum_next_block(lr, pos, range.end, &past);

        while (past < range.end &&
               quorum_next_block(lr, past, range.end, &next) == zeroes) {
            past = next;
        }
        if (!zeroes) {
            QEMUIOVector qiov =
                QEMU_IOVEC_INIT_BUF(qiov, quorum_data_at(lr, lr->result, pos),
                                    past - pos);

            ret = bdrv_co_pwritev(child, pos, past - pos, &qiov,
                                  lr->repair_flags);
        } else if (!stale ||
                   !quorum_child_has_zeroes(child, pos, past - pos)) {
            ret = bdrv_co_pwrite_zeroes(child, pos, past - pos,
                                        BDRV_REQ_MAY_UNMAP | lr->repair_flags);
        }
        pos = past;
    }
    return ret;
}

/* Repair @range of slot @i, which is all stale there or not. */
static int coroutine_fn GRAPH_RDLOCK
quorum_repair_slot_range(QuorumLockedRead *lr, int i, QuorumRange range,
                         bool stale)
{
    QuorumRequest *req = lr->req;
    QuorumSlot *slot = &req->s->slots[i];
    int64_t size = range.end - range.start;
    int ret;

    req->late_generation = bdrv_late_generation();
    quorum_late_notice(req->bs);
    /* The permission may go while we wait for a write. */
    if (!quorum_may_repair(req->bs, i) ||
        quorum_sync_is_late(req->s->sync, i, range.start, size) ||
        !quorum_child_reaches(slot->child, range.end)) {
        return -EPERM;
    }
    quorum_in_flight_begin(&req->answers[i]);
    ret = quorum_repair_write(lr, slot->child, range, stale);
    quorum_in_flight_end(&req->answers[i]);
    if (ret < 0 || bdrv_is_late_since(slot->child, req->late_generation)) {
        quorum_late_note(&req->answers[i], range.start, size);
    }
    trace_quorum_repair(req->bs->node_name, i, range.start, size, ret);
    quorum_set_repair_failed(slot, ret < 0);
    if (ret < 0 && lr->repair_flags & BDRV_REQ_FUA) {
        quorum_flush_failed(&req->answers[i]);
    }
    if (ret < 0) {
        quorum_answer_failed(&req->answers[i], QUORUM_OP_TYPE_WRITE, ret);
        return ret;
    }
    if (!quorum_sync_repair_settle(req->s->sync, &req->write, i, range.start,
                                   size)) {
        return -EIO;    /* a flush has failed on it meanwhile */
    }
    quorum_reached(QUORUM_BRANCH_REPAIR);
    stat64_add(&slot->counters.repaired_bytes, size);
    return 0;
}

/* What of @range can be repaired on slot @i, all stale there or not. */
static QuorumRange quorum_repairable(const QuorumLockedRead *lr, int i,
                                     QuorumRange range, bool stale)
{
    QuorumRequest *req = lr->req;

    if (stale) {
        /* Only what covers a whole granule ends being stale. */
        quorum_sync_whole_granules(req->s->sync, &range.start, &range.end);
    } else if (req->answers[i].ret < 0) {
        /*
         * A child that can't read can't fill up a write to its own blocks
         * either: garbage would become valid data.  So it gets whole units.
         */
        range.start = ROUND_UP(range.start, QUORUM_UNIT);
        if (range.end < quorum_length(req->bs)) {
            range.end = QEMU_ALIGN_DOWN(range.end, QUORUM_UNIT);
        }
    }
    return range;
}

/*
 * Write the winners over what the child in slot @i holds.  The range is held,
 * and the data are private (promise 6).  What is left to be repaired stays in
 * @lr->to_repair.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_repair_slot(QuorumLockedRead *lr,
                                                        int i)
{
    long base = quorum_bit(lr, i, 0);
    long end = base + lr->units;
    long first = base, past;

    for (; (first = find_next_bit(lr->to_repair, end, first)) < end;
         first = past) {
        bool stale = test_bit(first, lr->stale);
        long first_unit, past_unit;
        QuorumRange range;
        int ret;

        /* Units that are all stale, or all not. */
        past = find_next_zero_bit(lr->to_repair, end, first);
        past = MIN(past, stale ? find_next_zero_bit(lr->stale, end, first)
                               : find_next_bit(lr->stale, end, first));
        range.start = quorum_unit(lr, first - base).start;
        range.end = quorum_unit(lr, past - 1 - base).end;
        assert(range.start < range.end);

        range = quorum_repairable(lr, i, range, stale);
        if (range.start >= range.end) {
            continue;
        }
        ret = quorum_repair_slot_range(lr, i, range, stale);
        if (ret < 0) {
            /* The child will not take more; the rest of it stays as it is. */
            return ret;
        }
        first_unit = (range.start - lr->base) / QUORUM_UNIT;
        past_unit = DIV_ROUND_UP(range.end - lr->base, QUORUM_UNIT);
        bitmap_clear(lr->to_repair, base + first_unit, past_unit - first_unit);
        bitmap_set(lr->given, base + first_unit, past_unit - first_unit);
    }
    return 0;
}

/*
 * The child in slot @i could not read the request, and has been repaired.  One
 * that takes each write, but can't read what it has been given, is not to be
 * rewritten with each read of the guest: see QUORUM_FUTILE_REPAIRS.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_read_back(QuorumLockedRead *lr,
                                                       int i)
{
    QuorumRequest *req = lr->req;
    QuorumAnswer *a = &req->answers[i];
    QuorumSlot *slot = &req->s->slots[i];
    int count;
    int ret;

    quorum_in_flight_begin(a);
    ret = bdrv_co_preadv(a->child, req->offset, req->bytes, &a->qiov, 0);
    quorum_in_flight_end(a);
    if (ret >= 0) {
        qatomic_set(&slot->futile_repairs, 0);
        return;
    }
    quorum_reached(QUORUM_BRANCH_REPAIR_FUTILE);
    stat64_set(&slot->futile_start, req->offset);
    stat64_set(&slot->futile_end, req->offset + req->bytes);
    count = MIN(qatomic_read(&slot->futile_repairs) + 1, QUORUM_FUTILE_REPAIRS);
    qatomic_set(&slot->futile_repairs, count);
    trace_quorum_repair_futile(req->bs->node_name, i, req->offset, req->bytes,
                               ret, count);
}

int coroutine_fn quorum_repair_all(QuorumLockedRead *lr)
{
    QuorumRequest *req = lr->req;
    long bits = (long)req->n * lr->units;
    int ret = 0;

    if (find_first_bit(lr->to_repair, bits) == bits) {
        return 0;
    }
    /* What an operator decides is another thing than the disk has held. */
    ret = quorum_state_prepare(req->bs, req->offset,
                               req->s->store && lr->prefer ? req->bytes : 0);
    if (ret < 0) {
        return ret;
    }
    req->enough = NULL;         /* that others can do it, they have to show */
    /* What was chosen after a crash has been given to them before. */
    memset(req->missed, 0, req->n * sizeof(req->missed[0]));
    quorum_sync_write_begin(req->s->sync, &req->write, req->offset, req->bytes,
                            false, req->missed);
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];
        long base = quorum_bit(lr, i, 0);
        long end = base + lr->units;
        int child_ret;

        if (find_next_bit(lr->to_repair, end, base) == end) {
            continue;
        }
        child_ret = quorum_repair_slot(lr, i);
        if (child_ret == 0 && quorum_answer_counts(a) && a->ret < 0 &&
            quorum_may_repair(req->bs, i)) {
            quorum_read_back(lr, i);
        }
        ret = ret ?: child_ret;
    }
    quorum_sync_write_abandon(req->s->sync, &req->write);
    return ret;
}

int coroutine_fn quorum_repair_some(QuorumLockedRead *lr,
                                    const unsigned long *which)
{
    long bits = (long)lr->req->n * lr->units;
    g_autofree unsigned long *others = bitmap_new(bits);
    int ret;

    bitmap_andnot(others, lr->to_repair, which, bits);
    bitmap_and(lr->to_repair, lr->to_repair, which, bits);
    ret = quorum_repair_all(lr);
    bitmap_or(lr->to_repair, lr->to_repair, others, bits);
    return ret;
}

/* --- what is known of the children afterwards --- */

/* Whether all children that are not stale in unit @u hold the same now. */
static bool quorum_unit_is_alike(const QuorumLockedRead *lr, int u)
{
    if (test_bit(u, lr->weak)) {
        return false;
    }
    for (int i = 0; i < lr->req->n; i++) {
        long bit = quorum_bit(lr, i, u);

        if (test_bit(bit, lr->to_repair) && !test_bit(bit, lr->stale)) {
            return false;
        }
    }
    return true;
}

/*
 * Whether a vote has confirmed what the child in slot @i says of unit @u, or
 * the child has been given what has won.
 */
static bool quorum_unit_is_confirmed(const QuorumLockedRead *lr, int i, int u)
{
    long bit = quorum_bit(lr, i, u);

    if (!quorum_answer_counts(&lr->req->answers[i]) ||
        test_bit(bit, lr->stale) || test_bit(bit, lr->to_repair)) {
        return false;
    }
    return test_bit(bit, lr->given) ||
           (!test_bit(bit, lr->wrong) && !test_bit(bit, lr->missing) &&
            !(test_bit(u, lr->no_winner) && test_bit(u, lr->weak)));
}

/* Children that were unsure, and have been confirmed, are sure. */
static void quorum_locked_read_confirm(const QuorumLockedRead *lr)
{
    QuorumSync *sync = lr->req->s->sync;
    int past;

    for (int i = 0; i < lr->req->n; i++) {
        if (!quorum_sync_is_unsure(sync, i, lr->req->offset, lr->req->bytes) ||
            quorum_sync_wants_rewrite(sync, i)) {
            continue;
        }
        for (int u = 0; u < lr->units; u = past) {
            bool confirmed = quorum_unit_is_confirmed(lr, i, u);

            past = u + 1;
            while (past < lr->units &&
                   quorum_unit_is_confirmed(lr, i, past) == confirmed) {
                past++;
            }
            if (confirmed) {
                int64_t start = quorum_unit(lr, u).start;
                int64_t end = quorum_unit(lr, past - 1).end;

                quorum_reached(QUORUM_BRANCH_CONFIRMED);
                quorum_sync_set_sure(sync, i, start, end - start, lr->losses);
            }
        }
    }
}

void quorum_locked_read_verify(const QuorumLockedRead *lr)
{
    int past;

    if (quorum_sync_any_unsure(lr->req->s->sync)) {
        quorum_locked_read_confirm(lr);
    }
    for (int u = find_first_bit(lr->resolve, lr->units); u < lr->units;
         u = find_next_bit(lr->resolve, lr->units, past)) {
        past = find_next_zero_bit(lr->resolve, lr->units, u);
        quorum_sync_set_resolved(lr->req->s->sync, quorum_unit(lr, u).start,
                                 quorum_unit(lr, past - 1).end -
                                 quorum_unit(lr, u).start);
    }
    if (!lr->may_verify) {
        return;
    }
    for (int u = 0; u < lr->units; u = past) {
        bool alike = quorum_unit_is_alike(lr, u);

        past = u + 1;
        while (past < lr->units && quorum_unit_is_alike(lr, past) == alike) {
            past++;
        }
        if (alike) {
            int64_t start = quorum_unit(lr, u).start;
            int64_t end = quorum_unit(lr, past - 1).end;

            quorum_reached(QUORUM_BRANCH_VERIFIED);
            quorum_sync_set_verified(lr->req->s->sync, start, end - start);
        }
    }
}
