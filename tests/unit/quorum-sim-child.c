/*
 * Simulation of quorum nodes: what a child stores, and what is wrong with it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A child is well, or it is bad.  A child that is well does what it is asked,
 * in its own time: any part of a write may be stored long before it ends.  Only
 * that it can't write zeroes, or FUA, is nothing wrong.  What a bad child may
 * do besides is in its Plan:
 *
 * Errors.  A request fails.  Any part of a write that fails may be stored.
 * Some units may be unreadable until they are written, and from some moment on
 * all requests may fail (death).
 *
 * Lies.  All seems well, but a read returns something else (older data, what
 * was there at first, what another liar may say as well, or a flipped bit), a
 * write is not stored, what is stored changes, or a flush does nothing.  Or a
 * child mistakes one place for another: a read returns what is stored there, or
 * a write is stored there, over other data, and not where it belongs.
 *
 * A resize that need not be exact may leave a child longer than asked for.  A
 * resize may fail and have been done nevertheless.
 *
 * Hangs.  Operations do not end by themselves, and writes that fail may come
 * later: see quorum-sim-hang.c.
 *
 * Drops.  A flush that fails, or a FUA write, loses any part of what the child
 * has taken since its last good flush, and of what is in flight.  It may do so
 * some time before it ends.
 *
 * Losses.  A child has a cache: what it was given and has not flushed.  When it
 * is restarted, it loses any part of that, all, or nothing, once or several in
 * a row, one child or all at once, and says so by bdrv_inc_loss_generation()
 * at once or just before its next answer.  What is in flight then is done
 * again, or is lost, too, and ends well nevertheless.  In these schedules a
 * flush that fails loses what it loses when it ends, or it goes on showing it
 * for a while, as a page cache does after a failed fsync, and is silent when
 * that ends.
 *
 * And at the end of a schedule there may be a power cut: each child loses any
 * part of what it has not flushed.
 *
 * The promises hold while enough is well, so not all of this may meet:
 *
 *  - Errors may meet anything, and any number of children may have them:
 *    requests may fail then, but never with wrong data.
 *  - Lies have their places, the units of Schedule.liars.  In each unit fewer
 *    than threshold children are liars: together they could win a vote.  In
 *    another unit it may be others.  Where a place is mistaken for another one,
 *    the child is a liar in both.
 *  - Drops need a majority for threshold.  With less, those that have lost a
 *    write are enough to agree on what was there before.
 *  - There are no liars beside a child that drops, unless they are the same
 *    and only bad child.  Between the loss and the end of the flush, the node
 *    can't know that the child is stale; with it and a liar against it, the
 *    third child would be outvoted.
 *  - With losses there are no lies, no power cuts and no resizes; drops need
 *    no majority there.
 *  - A power cut needs a majority for threshold, a read pattern that votes, and
 *    fewer than threshold bad children: those that failed to flush come back
 *    with old data, and it is as if they were liars.
 *  - Where a child's blocks are larger than the cells, a bad child has no
 *    errors and no lies when it reads: the core fills up a block that is
 *    written in part with what it has read.
 *
 * Schedules with ties are another matter: half of the children fail most
 * writes, and threshold is one half.  No child is wrong, they just disagree.
 *
 * What must hold with losses (promise 10; quorum-sim-check.c):
 *
 *  - A read returns the newest acknowledged data, or what writes in flight may
 *    have made of it, or an error.  Older data only if a flush that ended after
 *    the write has failed (a FUA write that fails tells nothing), and only if
 *    no child has had anything newer during all of the read.
 *  - No repair puts older data over newer ones, also after such a flush.
 *  - After a flush that succeeds, threshold children have on their media what
 *    was acknowledged before it began, or something newer, unless the guest has
 *    been told before that it may be lost.  The same holds for a FUA write.
 *  - A flush that fails does so for something that has gone wrong since the
 *    last one began.  At the end, when nothing goes wrong any more, the guest
 *    flushes twice.
 *  - While enough children for threshold are well, and outnumber the others,
 *    nothing fails.  And if restarts lose nothing, and one child is never
 *    restarted, nothing fails at all and no child is reported; the driver need
 *    not try again without end, so there is at most one in a request then.
 *
 * What children are not made to do here, because the driver promises nothing
 * for it:
 *
 *  - A child that is well has the length that was asked for, if it has said
 *    that it was resized.
 *  - What comes into sight behind the end of the disk is zero if the flag that
 *    asks for it is given, or a write leaves a gap.  (Not all children know the
 *    flag.  Otherwise it is garbage, and so is all that comes into sight before
 *    the end of the disk: there a child that was shorter is stale.)
 *  - Each operation of a child comes to an end, if there is no child-timeout or
 *    too few others do.
 *  - A resize that was abandoned is done at once, or never.
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

void sim_child_store(Child *c, int cell, uint8_t value)
{
    if (c->image[cell] != value) {
        c->older[cell] = c->image[cell];
    }
    c->image[cell] = value;
    c->changed[cell] = sim.now;
}

void sim_child_grow(Child *c, int end)
{
    end = ROUND_UP(end, MAX(1, BDRV_SECTOR_SIZE / sim.s->cell_bytes));
    for (; c->length < end; c->length++) {
        int i = c->length;

        sim_child_store(c, i, i < sim_node_cells() ? TAG_GARBAGE : TAG_GAP);
        c->durable[i] = c->image[i];
        c->safe_at[i] = c->changed[i];
    }
}

void sim_child_fault(Child *c)
{
    c->failed = true;
    sim.faults.count++;
    sim.faults.last = sim.now;
}

uint8_t sim_choose_lie(Child *c, int cell)
{
    switch (sim_choose(3)) {
    case 0:
        return c->older[cell];
    case 1:
        return TAG_LIE + sim_choose(2);
    default:
        return TAG_INIT;
    }
}

/* --- caches that are lost --- */

/* Some of what was not flushed: what is lost of it now */
static uint64_t choose_lost(const Child *c)
{
    uint64_t dirty = 0;

    for (int i = 0; i < c->length; i++) {
        if (c->changed[i] > c->safe_at[i]) {
            dirty |= BIT_ULL(i);
        }
    }
    return sim_choose_subset(dirty);
}

/* @c has @lost cells, as far as operations in flight do not store them again */
static void lose_cells(Child *c, uint64_t lost)
{
    if (!lost) {
        return;
    }
    sim_trace("    child %d loses cells %016" PRIx64, c->index, lost);
    sim.faults.last_loss = sim.now;
    c->doomed &= ~lost;
    for (uint64_t m = lost; m; m &= m - 1) {
        int i = ctz64(m);

        c->image[i] = c->durable[i];
        c->changed[i] = c->safe_at[i];
    }
    for (int i = 0; i < sim.pending.num; i++) {
        Op *op = sim.pending.op[i];

        if (op->child != c) {
            continue;
        }
        if (op->type == OP_FLUSH) {
            for (uint64_t m = lost; m; m &= m - 1) {
                op->snap[ctz64(m)] = c->durable[ctz64(m)];
            }
        } else if (op->applied & lost && sim_choose(2)) {
            op->applied &= ~lost;
        }
    }
}

void sim_child_answers(Child *c)
{
    if (c->untold) {
        c->untold = false;
        sim_trace("    child %d tells of its restart", c->index);
        bdrv_inc_loss_generation(c->bs);
        sim.faults.last = sim.now;
    }
}

/* Where nothing is lost, the driver does not try without end. */
static bool may_restart(void)
{
    for (int i = 0; i < sim.guest.next_req && sim.s->kind->keeps; i++) {
        const Req *r = &sim.s->reqs[i];

        if (r->end == NEVER && r->restarts >= 1) {
            return false;
        }
    }
    return true;
}

static void restart(Child *c)
{
    const Plan *plan = &sim.s->plan[c->index];

    sim_trace("    child %d is restarted", c->index);
    c->untold = c->ever_lost = true;
    c->ever_failed = UINT64_MAX;
    sim.faults.last = sim.now;
    if (!sim.s->kind->keeps) {
        sim_child_fault(c);
        lose_cells(c, sim_chance(plan->forgets) ? choose_lost(c) : 0);
    }
    for (int i = 0; i < sim.guest.next_req; i++) {
        sim.s->reqs[i].restarts += sim.s->reqs[i].end == NEVER;
    }
    if (!sim_chance(sim.s->rates.tells_late)) {
        sim_child_answers(c);
    }
}

void sim_lose(void)
{
    Req *r = &sim.s->reqs[MAX(0, sim.guest.next_req - 1)];
    bool together = false;

    if (!sim_has_losses(sim.s)) {
        return;
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        const Plan *plan = &sim.s->plan[n];

        if (!plan->bad || !c->bs) {
            continue;
        }
        sim_use_dice(r, n);
        if (c->doomed && sim_chance(sim.s->rates.evicts)) {
            lose_cells(c, sim_choose_subset(c->doomed));
        }
        if (plan->restart && may_restart() &&
            (together || sim_chance(plan->restart))) {
            together |= sim_chance(sim.s->rates.together);
            restart(c);
        }
    }
}

/* A flush of @c has failed: forget some of what was not flushed. */
void sim_child_drop(Child *c)
{
    uint64_t lost = choose_lost(c);

    if (sim.s->plan[c->index].shows) {
        sim_trace("    child %d shows, and will lose, cells %016" PRIx64,
                  c->index, lost);
        c->doomed |= lost;
        return;
    }
    for (int i = 0; i < c->length; i++) {
        if (lost & BIT_ULL(i)) {
            /* If a flush has lied, the node can't know. */
            c->lost |= sim_is_liar(c, i) ? 0 : BIT_ULL(i);
        }
    }
    lose_cells(c, lost);
    for (int i = 0; i < sim.pending.num; i++) {
        Op *op = sim.pending.op[i];

        if (op->child == c &&
            (op->type == OP_WRITE || op->type == OP_ZERO ||
             op->type == OP_RESIZE)) {
            op->lost_by_flush |= sim_choose_subset(op->mask & ~op->applied);
            lost |= op->lost_by_flush;
        }
    }
    if (!sim_has_losses(sim.s)) {
        sim_note_drop(c, lost);
    }
}

void sim_child_reset(Child *c, int index)
{
    BlockDriverState *bs = c->bs;

    memset(c, 0, sizeof(*c));
    c->bs = bs;
    c->index = index;
    c->length = sim.s->cells;
    memset(c->image, TAG_INIT, sizeof(c->image));
    memset(c->durable, TAG_INIT, sizeof(c->durable));
    memset(c->older, TAG_INIT, sizeof(c->older));
    if (sim.s->plan[index].bad) {
        for (int u = 0; u < sim_num_units(); u++) {
            if (sim.s->plan[index].bad_units & (1 << (u % 16))) {
                c->bad_cells |= sim_unit_mask(u);
            }
        }
    }
}

void sim_child_changed(Child *c)
{
    /* The same once more, a blank one, or what other newcomers hold, too */
    switch (sim_choose(3)) {
    case 1:
        memset(c->image, TAG_INIT, sizeof(c->image));
        break;
    case 2:
        memset(c->image, TAG_LIE, sizeof(c->image));
        break;
    }
    memset(&c->image[c->length], TAG_GARBAGE, MAX_CELLS - c->length);
    memcpy(c->durable, c->image, sizeof(c->durable));
    memcpy(c->older, c->image, sizeof(c->older));
    for (int i = 0; i < MAX_CELLS; i++) {
        c->changed[i] = c->safe_at[i] = sim.now;
    }
    for (int u = 0; u < sim_num_units(); u++) {
        c->stale_since[u] = sim.now;
    }
    c->ever_failed = UINT64_MAX;
    c->lost = c->bad_cells = c->doomed = 0;
    c->untold = c->ever_lost = false;
    c->ops = 0;
    c->dead = false;
    c->is_new = true;
    c->maybe_excluded = false;
    c->hangs = c->abandoned = c->lags = c->was_cut = false;
    c->ever_late = 0;
    for (int i = 0; i < sim.time.num_late; i++) {
        if (sim.time.late[i].child == c) {
            sim.time.late[i--] = sim.time.late[--sim.time.num_late];
        }
    }
    sim_child_fault(c);
}

void sim_rot(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        int cell;

        if (!sim.s->plan[n].bad || !sim.s->plan[n].rot) {
            continue;
        }
        sim_use_dice(&sim.s->reqs[MAX(0, sim.guest.next_req - 1)], n);
        if (!sim_chance(sim.s->plan[n].rot)) {
            continue;
        }
        cell = sim_choose(c->length);
        if (sim_is_liar(c, cell)) {
            sim_child_store(c, cell, sim_choose_lie(c, cell));
            c->durable[cell] = c->image[cell];
            c->safe_at[cell] = c->changed[cell];
            sim_child_fault(c);
            sim_trace("    child %d: cell %d rots: %s", n, cell,
                      sim_value_text(c->image[cell]));
        }
    }
}

void sim_power_cut(Req *r)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        sim_use_dice(r, n);
        for (int i = 0; i < c->length; i++) {
            if (c->changed[i] > c->safe_at[i] &&
                sim_chance(sim.s->rates.power_cut_loses)) {
                c->image[i] = c->durable[i];
            }
            /* What is there now is what was on the medium. */
            c->durable[i] = c->image[i];
            c->safe_at[i] = c->changed[i];
        }
        sim_trace("    child %d: power cut", n);
    }
    sim.time.num_late = 0;
}
