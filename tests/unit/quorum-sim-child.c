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
 * A resize that need not be exact may leave a child longer than asked for.
 *
 * Drops.  A flush that fails, or a FUA write, loses any part of what the child
 * has taken since its last good flush, and of what is in flight.  It may do so
 * some time before it ends.
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
 * What children are not made to do here, because the driver does not promise to
 * bear it:
 *
 *  - A child that is well has the length that was asked for.  The driver goes
 *    by the length that threshold children agree on, and excludes the others,
 *    whether they did wrong or not.
 *  - What comes into sight when a child grows is zero if the flag that asks for
 *    it is given, and all children know that flag.
 *  - A child does not hang for ever.
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

/* --- what becomes of an operation --- */

static void cells_changed(Child *c, int cell, uint8_t value)
{
    if (c->image[cell] != value) {
        c->older[cell] = c->image[cell];
    }
    c->image[cell] = value;
    c->changed[cell] = sim.now;
}

/* Store the cells of @mask that are not stored yet. */
static void op_apply(Op *op, uint64_t mask)
{
    Child *c = op->child;

    mask &= op->mask & ~op->applied;
    op->applied |= mask;
    for (; mask; mask &= mask - 1) {
        int i = ctz64(mask);

        sim_check_stored(op, i);
        c->bad_cells &= ~BIT_ULL(i);
        if (!(op->lost_by_flush & BIT_ULL(i))) {
            cells_changed(c, i, op->val[i]);
            c->lost &= ~BIT_ULL(i);
        } else if (!sim_is_liar(c, i)) {
            c->lost |= BIT_ULL(i);
        }
    }
}

static void op_capture(Op *op)
{
    if (!op->captured) {
        memcpy(op->val, op->child->image, sizeof(op->val));
        op->captured = true;
    }
}

static void fault(Child *c)
{
    c->failed = true;
    sim.faults.count++;
}

static uint8_t choose_lie(Child *c, int cell)
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

/* A flush of @c has failed: forget some of what was not flushed. */
static void child_drop(Child *c)
{
    uint64_t dirty = 0, lost;

    for (int i = 0; i < c->length; i++) {
        if (c->changed[i] > c->safe_at[i]) {
            dirty |= BIT_ULL(i);
        }
    }
    lost = sim_choose_subset(dirty);
    for (int i = 0; i < c->length; i++) {
        if (lost & BIT_ULL(i)) {
            c->image[i] = c->durable[i];
            c->changed[i] = c->safe_at[i];
            /* If a flush has lied, the node can't know. */
            c->lost |= sim_is_liar(c, i) ? 0 : BIT_ULL(i);
        }
    }
    if (lost) {
        sim_trace("    child %d loses cells %016" PRIx64, c->index, lost);
    }
    for (int i = 0; i < sim.pending.num; i++) {
        Op *op = sim.pending.op[i];

        if (op->child == c &&
            (op->type == OP_WRITE || op->type == OP_ZERO ||
             op->type == OP_RESIZE)) {
            op->lost_by_flush |= sim_choose_subset(op->mask & ~op->applied);
            lost |= op->lost_by_flush;
        }
    }
    sim_note_drop(c, lost);
}

/* Whether @op flushes, or may be a write and a flush. */
static bool op_syncs(const Op *op)
{
    return op->type == OP_FLUSH || op->flags & BDRV_REQ_FUA;
}

static bool op_fails(Op *op, Plan *plan)
{
    Child *c = op->child;

    if (!plan->bad) {
        return false;
    }
    if (plan->dead_after && c->ops > plan->dead_after) {
        c->dead = true;
    }
    if (c->dead) {
        return true;
    }
    switch (op->type) {
    case OP_READ:
        return op->mask & c->bad_cells || sim_chance(plan->read_error);
    case OP_WRITE:
    case OP_ZERO:
        return sim_chance(plan->write_error);
    case OP_RESIZE:
        return sim_chance(plan->resize_error);
    default:
        return sim_chance(plan->flush_error);
    }
}

/*
 * Where @op goes to by mistake: the first cell of another place of its size.
 * Its own place if it finds none in which the child may lie.
 */
static int choose_wrong_place(const Op *op)
{
    int place = sim_choose(sim.guest.length - op->num + 1);

    for (int i = 0; i < op->num; i++) {
        if (!sim_is_liar(op->child, op->cell + i) ||
            !sim_is_liar(op->child, place + i)) {
            return op->cell;
        }
    }
    return place;
}

static void misdirect_read(Op *op)
{
    Child *c = op->child;
    int place = choose_wrong_place(op);

    if (place != op->cell) {
        memcpy(&op->val[op->cell], &c->image[place], op->num);
        fault(c);
        sim_trace("    child %d: op %d is misdirected to cell %d", c->index,
                  op->id, place);
    }
}

/* Store @op at another place.  Returns the cells where it is missing. */
static uint64_t misdirect_write(Op *op)
{
    Child *c = op->child;
    int place = choose_wrong_place(op);

    if (place == op->cell) {
        return 0;
    }
    for (int i = 0; i < op->num; i++) {
        c->bad_cells &= ~BIT_ULL(place + i);
        cells_changed(c, place + i, op->val[op->cell + i]);
    }
    fault(c);
    sim_trace("    child %d: op %d is misdirected to cell %d", c->index,
              op->id, place);
    return op->mask;
}

static void finish_read(Op *op, Plan *plan)
{
    Child *c = op->child;
    Answer *a;

    op_capture(op);
    if (op->ret == 0 && plan->bad && sim_chance(plan->misdirect_read)) {
        misdirect_read(op);
    }
    for (uint64_t m = op->mask; op->ret == 0 && plan->bad && m; m &= m - 1) {
        int i = ctz64(m);

        if (!sim_is_liar(c, i) || !sim_chance(plan->lie)) {
            continue;
        }
        fault(c);
        if (sim_choose(4) == 3) {
            op->flips |= BIT_ULL(i);
            op->val[i] = TAG_TORN;
        } else {
            op->val[i] = choose_lie(c, i);
        }
    }
    if (sim.seen.num_answers < MAX_ANSWERS) {
        a = &sim.seen.answers[sim.seen.num_answers++];
        a->time = sim.now;
        a->child = c->index;
        a->ret = op->ret;
        a->mask = op->mask;
        memcpy(a->val, op->val, sizeof(a->val));
    }
}

static void finish_write(Op *op, Plan *plan)
{
    Child *c = op->child;
    uint64_t lost = 0;

    if (op->ret < 0) {
        op_apply(op, sim_choose_subset(op->mask));
        return;
    }
    for (uint64_t m = op->mask & ~op->applied; plan->bad && m; m &= m - 1) {
        int i = ctz64(m);

        if (sim_is_liar(c, i) && sim_chance(plan->lose)) {
            fault(c);
            lost |= BIT_ULL(i);
        }
    }
    if (plan->bad && sim_chance(plan->misdirect_write)) {
        lost |= misdirect_write(op);
    }
    op_apply(op, op->mask & ~lost);
    for (int i = op->cell; i < op->cell + op->num; i++) {
        if (op->flags & BDRV_REQ_FUA && op->mask & BIT_ULL(i) &&
            !(sim_is_liar(c, i) && sim_chance(plan->skip_flush))) {
            c->durable[i] = c->image[i];
            c->safe_at[i] = c->changed[i];
        }
    }
    for (int u = 0; u < sim_num_units(); u++) {
        if ((sim_unit_mask(u) & op->mask) == sim_unit_mask(u)) {
            c->stale_since[u] = 0;
        }
    }
}

static void finish_flush(Op *op, Plan *plan)
{
    Child *c = op->child;

    for (int i = 0; i < c->length; i++) {
        if (sim_is_liar(c, i) && sim_chance(plan->skip_flush)) {
            fault(c);
            continue;
        }
        /* What was written meanwhile may be caught by it or not. */
        if (c->changed[i] < op->start ||
            sim_chance(sim.s->rates.flush_catches)) {
            c->durable[i] = c->image[i];
            c->safe_at[i] = c->changed[i];
        } else if (c->safe_at[i] < op->start) {
            c->durable[i] = op->snap[i];
            c->safe_at[i] = op->start;
        }
    }
}

/* A child that fails may have done it nevertheless. */
static void finish_resize(Op *op, Plan *plan)
{
    Child *c = op->child;
    Req *r = op->req;
    int kept = MIN(op->length, c->length);

    if (op->ret < 0 && !sim_choose(2)) {
        return;
    }
    if (op->ret == 0 && !op->exact && op->length < c->length &&
        plan->bad && sim_chance(plan->stays_longer)) {
        fault(c);
        return;
    }
    /* Without the flag, anything may come into sight. */
    op_apply(op, op->flags & BDRV_REQ_ZERO_WRITE || sim_choose(2) ?
                 op->mask : 0);
    c->length = op->length;
    c->bad_cells &= sim_cells_mask(0, kept);
    r->shortest[c->index] = MIN(r->shortest[c->index], c->length);
}

/* End @op, in the way that the dice say. */
static void op_finish(Op *op)
{
    Child *c = op->child;
    Plan *plan = &sim.s->plan[c->index];

    c->ops++;
    if (op->type == OP_ZERO && !(sim.s->native_zeroes & (1 << c->index))) {
        op->ret = -ENOTSUP;
    } else if (op->failed || op_fails(op, plan)) {
        fault(c);
        op->ret = op->type == OP_WRITE && sim_choose(2) ? -ENOSPC : -EIO;
    }
    switch (op->type) {
    case OP_READ:
        finish_read(op, plan);
        break;
    case OP_WRITE:
    case OP_ZERO:
        if (op->ret < 0 && op->req && op->req->type != REQ_WRITE) {
            op->req->issued[c->index] &= ~op->cover;    /* try again */
        }
        if (op->ret == -ENOTSUP) {
            break;
        }
        finish_write(op, plan);
        if (op->ret < 0) {
            c->ever_failed |= op->req && op->req->flags & BDRV_REQ_FUA ?
                              UINT64_MAX : op->mask;
            if (op->flags & BDRV_REQ_FUA) {
                c->failed_at = sim.now;
                if (plan->drops && !op->failed) {
                    child_drop(c);
                }
            }
        } else if (op->req) {
            op->req->ok[c->index] |= op->cover;
        }
        break;
    case OP_RESIZE:
        finish_resize(op, plan);
        op->req->ok[c->index] = op->ret < 0 ? 0 : UINT64_MAX;
        c->failed_at = op->ret < 0 ? sim.now : c->failed_at;
        break;
    case OP_FLUSH:
        if (op->ret == 0) {
            finish_flush(op, plan);
        } else {
            c->failed_at = sim.now;
            c->ever_failed = UINT64_MAX;
            if (plan->drops && !op->failed) {
                child_drop(c);
            }
        }
        break;
    }
    if (sim.verdict.trace) {
        g_autofree char *values =
            sim_values_text(op->val, op->type == OP_READ && op->ret == 0 ?
                                     op->mask : op->applied);

        sim_trace("    child %d: op %d %s: %s%s%s", c->index, op->id,
                  sim_op_name[op->type],
                  op->ret < 0 ? strerror(-op->ret) : "ok",
                  op->type == OP_READ ? "" : op->applied ? ", stored" : "",
                  op->type == OP_READ && op->ret < 0 ? "" : values);
    }
    op->done = true;
    aio_co_wake(op->co);
}

/* Some of what @op does, it does before it ends. */
static void op_hold(Op *op)
{
    Child *c = op->child;
    Plan *plan = &sim.s->plan[c->index];

    op->holds++;
    if (op->type == OP_READ) {
        op_capture(op);
        return;
    }
    if (op->type == OP_ZERO && !(sim.s->native_zeroes & (1 << c->index))) {
        return;
    }
    if (op->type == OP_WRITE || op->type == OP_ZERO) {
        /* Losses are decided at the end: liars store nothing yet. */
        uint64_t mask = sim_choose_subset(op->mask);

        if (!plan->bad) {
            op_apply(op, mask);
        }
    }
    if (op_syncs(op) && plan->drops && !op->failed && op_fails(op, plan)) {
        /* Other operations may come and go before its end tells of it. */
        sim_trace("    child %d: op %d is failing", c->index, op->id);
        op->failed = true;
        fault(c);
        child_drop(c);
    }
}

void sim_op_step(int index)
{
    Op *op = sim.pending.op[index];

    sim_use_dice(op->dice_req, op->child->index);
    if (op->holds < 2 && sim_chance(sim.s->rates.hold)) {
        op_hold(op);
        return;
    }
    memmove(&sim.pending.op[index], &sim.pending.op[index + 1],
            (sim.pending.num - index - 1) * sizeof(sim.pending.op[0]));
    sim.pending.num--;
    op_finish(op);
}

/* --- what happens to a child by itself --- */

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
    memcpy(c->durable, c->image, sizeof(c->durable));
    memcpy(c->older, c->image, sizeof(c->older));
    for (int i = 0; i < MAX_CELLS; i++) {
        c->changed[i] = c->safe_at[i] = sim.now;
    }
    for (int u = 0; u < sim_num_units(); u++) {
        c->stale_since[u] = sim.now;
    }
    c->ever_failed = UINT64_MAX;
    c->lost = c->bad_cells = 0;
    c->ops = 0;
    c->dead = false;
    c->is_new = true;
    c->maybe_excluded = false;
    fault(c);
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
            cells_changed(c, cell, choose_lie(c, cell));
            c->durable[cell] = c->image[cell];
            c->safe_at[cell] = c->changed[cell];
            fault(c);
            sim_trace("    child %d: cell %d rots: %s", n, cell,
                      sim_value_text(c->image[cell]));
        }
    }
}

void sim_power_cut(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        sim_use_dice(&sim.s->reqs[sim.guest.next_req - 1], n);
        for (int i = 0; i < c->length; i++) {
            if (c->changed[i] > c->safe_at[i] &&
                sim_chance(sim.s->rates.power_cut_loses)) {
                c->image[i] = c->durable[i];
            }
        }
        sim_trace("    child %d: power cut", n);
    }
    sim.faults.power_cut = true;
}
