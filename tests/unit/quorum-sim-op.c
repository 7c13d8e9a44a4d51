/*
 * Simulation of quorum nodes: how the operations of children go on, and end
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

/* Store the cells of @mask that are not stored yet. */
static void op_apply(Op *op, uint64_t mask)
{
    Child *c = op->child;

    mask &= op->mask & ~op->applied;
    op->applied |= mask;
    for (; mask; mask &= mask - 1) {
        int i = ctz64(mask);

        sim_check_stored(op, i);
        sim_child_grow(c, i + 1);
        c->bad_cells &= ~BIT_ULL(i);
        if (!(op->lost_by_flush & BIT_ULL(i))) {
            sim_child_store(c, i, op->val[i]);
            c->lost &= ~BIT_ULL(i);
            c->doomed &= ~BIT_ULL(i);
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
        op->cut = sim_chance(plan->cut);
        return op->cut || sim_chance(plan->write_error) ||
               (op->cell + op->num > c->length && sim_chance(plan->no_space));
    case OP_RESIZE:
        return sim_chance(plan->resize_error) ||
               (op->length > c->length && sim_chance(plan->no_space));
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
    int place = sim_choose(op->child->length - op->num + 1);

    if (op->cell + op->num > op->child->length) {
        return op->cell;
    }
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
        sim_child_fault(c);
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
        sim_child_store(c, place + i, op->val[op->cell + i]);
    }
    sim_child_fault(c);
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
        sim_child_fault(c);
        if (sim_choose(4) == 3) {
            op->flips |= BIT_ULL(i);
            op->val[i] = TAG_TORN;
        } else {
            op->val[i] = sim_choose_lie(c, i);
        }
    }
    if (sim.seen.num_answers < MAX_ANSWERS) {
        a = &sim.seen.answers[sim.seen.num_answers++];
        a->time = sim.now;
        a->child = c->index;
        a->ret = op->ret;
        a->mask = op->mask;
        a->stale = sim_stale_cells(c);
        memcpy(a->val, op->val, sizeof(a->val));
    }
}

static void finish_write(Op *op, Plan *plan)
{
    Child *c = op->child;
    uint64_t lost = 0;

    if (op->refused) {
        return;
    }
    if (op->ret < 0) {
        op_apply(op, sim_choose_subset(op->mask));
        if (op->abandoned || op->cut) {
            sim_op_late(op);
        }
        return;
    }
    for (uint64_t m = op->mask & ~op->applied; plan->bad && m; m &= m - 1) {
        int i = ctz64(m);

        if (sim_is_liar(c, i) && sim_chance(plan->lose)) {
            sim_child_fault(c);
            lost |= BIT_ULL(i);
        }
    }
    if (plan->bad && sim_chance(plan->misdirect_write)) {
        lost |= misdirect_write(op);
    }
    op_apply(op, op->mask & ~lost);
    sim_child_grow(c, op->cell + op->num);
    for (int i = op->cell; i < op->cell + op->num; i++) {
        if (op->flags & BDRV_REQ_FUA && op->mask & ~c->doomed & BIT_ULL(i) &&
            !(sim_is_liar(c, i) && sim_chance(plan->skip_flush))) {
            c->durable[i] = c->image[i];
            c->safe_at[i] = c->changed[i];
        }
    }
    for (int u = 0; u < sim_num_units(); u++) {
        /* A resize may have been done, and not come back yet. */
        uint64_t unit = sim_unit_mask(u) &
                        sim_cells_mask(0, sim_node_cells());

        if (unit && !(unit & (~op->mask | sim_late_cells(c)))) {
            c->stale_since[u] = 0;
            c->whole_at[u] = sim.now;
        }
    }
}

static void finish_flush(Op *op, Plan *plan)
{
    Child *c = op->child;

    for (int i = 0; i < c->length; i++) {
        if (sim_is_liar(c, i) && sim_chance(plan->skip_flush)) {
            sim_child_fault(c);
            continue;
        }
        if (c->doomed & BIT_ULL(i)) {
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

/*
 * Make the child of @op longer.  Zeroes are only where the flag asks for them,
 * and the disk has not been: what is before its end is lost on this child.
 */
static void grow(Op *op)
{
    Child *c = op->child;
    int end = sim_node_cells();

    /* Writes may have made it longer since the operation began. */
    op->mask = sim_cells_mask(c->length, op->length - c->length);
    for (uint64_t m = op->mask; m; m &= m - 1) {
        int i = ctz64(m);

        op->val[i] = op->flags & BDRV_REQ_ZERO_WRITE && i >= end ?
                     TAG_REQ + op->req->id : TAG_GARBAGE;
        if (c->durable[i] == TAG_GAP) {
            c->durable[i] = TAG_GARBAGE;    /* of something cut off before */
        }
    }
    c->length = op->length;
    op_apply(op, op->mask);
}

/* A child that fails may have done it nevertheless. */
static void finish_resize(Op *op, Plan *plan)
{
    Child *c = op->child;
    Req *r = op->req;
    int kept = MIN(op->length, c->length);

    if (op->ret == -ENOTSUP || op->refused ||
        (op->ret < 0 && !sim_choose(2))) {
        return;
    }
    if (op->ret == 0 && !op->exact && op->length < c->length &&
        plan->bad && sim_chance(plan->stays_longer)) {
        sim_child_fault(c);
        return;
    }
    if (op->length > c->length) {
        grow(op);
    } else if (r && op->length < c->length) {
        r->shortest[c->index] = MIN(r->shortest[c->index], op->length);
    }
    c->length = op->length;
    c->bad_cells &= sim_cells_mask(0, kept);
}

static void trace_end(const Op *op)
{
    g_autofree char *values = NULL;

    if (!sim.verdict.trace) {
        return;
    }
    values = sim_values_text(op->val, op->type == OP_READ && op->ret == 0 ?
                                      op->mask : op->applied);
    sim_trace("    child %d: op %d %s: %s%s%s", op->child->index, op->id,
              sim_op_name[op->type], op->ret < 0 ? strerror(-op->ret) : "ok",
              op->type == OP_READ ? "" : op->applied ? ", stored" : "",
              op->type == OP_READ && op->ret < 0 ? "" : values);
}

static int choose_error(const Op *op, const Plan *plan)
{
    if (op->type == OP_WRITE) {
        return sim_choose(2) ? -ENOSPC : -EIO;
    }
    return op->type == OP_RESIZE && sim_chance(plan->resize_refused) ?
           -ENOTSUP : -EIO;
}

/* How @op ends */
static void choose_end(Op *op, Plan *plan)
{
    Child *c = op->child;
    bool refuses = op->type == OP_ZERO &&
                   !(sim.s->native_zeroes & (1 << c->index));

    if (op->abandoned) {
        op->ret = -ETIMEDOUT;
        op->refused |= refuses;
    } else if (refuses) {
        op->ret = -ENOTSUP;
    } else if (op->failed || op_fails(op, plan)) {
        sim_child_fault(c);
        op->ret = choose_error(op, plan);
    }
}

/*
 * Whether the failure of @op may be one of a flush, or of what brings cells
 * into sight: then the child may be stale anywhere.
 */
static bool may_fail_everywhere(const Op *op)
{
    for (int i = 0; i < sim.guest.next_req && op->req; i++) {
        const Req *r = &sim.s->reqs[i];

        if ((r == op->req || sim_are_alike(op->req, r, op->mask)) &&
            (r->flags & BDRV_REQ_FUA || r->grown)) {
            return true;
        }
    }
    return false;
}

/*
 * The child of @op has taken it.  If it had that of the request already, it was
 * another one that fills the same with zeroes.
 */
static void note_taken(const Op *op)
{
    int n = op->child->index;
    uint64_t again = op->req->ok[n] & op->cover;

    op->req->ok[n] |= op->cover;
    for (int i = 0; i < sim.guest.next_req && again; i++) {
        Req *r = &sim.s->reqs[i];

        if (sim_are_alike(op->req, r, again)) {
            r->ok[n] |= again & sim_zeroed_by(op->req) & sim_zeroed_by(r);
        }
    }
}

/* @op has failed, and may have flushed something. */
static void note_flush_failed(const Op *op)
{
    op->child->failed_at = sim.now;
    op->child->ever_lost = true;
}

static void note_part_failed(const Op *op)
{
    op->req->failed |= (op->ret < 0) << op->child->index;
    op->child->failed_at = op->ret < 0 ? sim.now : op->child->failed_at;
}

/* What was not flushed may be gone for that. */
static void maybe_drop(const Op *op, const Plan *plan)
{
    if (plan->drops && !op->failed) {
        sim_child_drop(op->child);
    }
}

/* The part of a guest's request that @op is has ended on this child. */
static void note_part_ended(const Op *op)
{
    Child *c = op->child;

    if (op->type == OP_READ && op->ret < 0 && sim_unresolved(op->mask)) {
        /* It may not be given what is chosen. */
        c->ever_failed = UINT64_MAX;
    }
    if (!sim_has_state(sim.s) || !op->req || op->ret == -ENOTSUP) {
        return;
    }
    op->req->op_end[c->index] = sim.now;
    op->req->over[c->index] |= op->cover;
    op->req->failed |= (op->ret < 0) << c->index;
    if (op->ret < 0) {
        /* It may be repaired before the guest hears of the write. */
        c->ever_failed |= op->req->mask;
    }
}

/* End @op, in the way that the dice say. */
static void op_finish(Op *op)
{
    Child *c = op->child;
    Plan *plan = &sim.s->plan[c->index];

    c->ops++;
    choose_end(op, plan);
    switch (op->type) {
    case OP_READ:
        finish_read(op, plan);
        break;
    case OP_WRITE:
    case OP_ZERO:
        /* Not what the core has added, so that it is aligned. */
        for (uint64_t m = op->repair || op->again ? 0 : op->req ?
                          op->mask & sim_touched(op->req) : op->mask;
             m; m &= m - 1) {
            sim.seen.written_at[ctz64(m)] = sim.now;
        }
        if (op->ret < 0 && op->req) {
            /* try again */
            op->req->issued[c->index] &=
                ~(op->cover & (sim_zeroed_by(op->req) | op->req->gap));
            op->req->ok[c->index] &= ~op->mask;
        }
        if (op->ret == -ENOTSUP) {
            break;
        }
        finish_write(op, plan);
        if (op->ret < 0) {
            c->ever_lost |= may_fail_everywhere(op);
            c->ever_failed |= may_fail_everywhere(op) ? UINT64_MAX : op->mask;
            if (op->req && op->req->type == REQ_RESIZE) {
                op->req->ok[c->index] = 0;
                c->failed_at = sim.now;
            }
            if (op->flags & BDRV_REQ_FUA) {
                note_flush_failed(op);
                maybe_drop(op, plan);
            }
        } else if (op->req && op->req->type != REQ_RESIZE) {
            note_taken(op);
        }
        break;
    case OP_RESIZE:
        finish_resize(op, plan);
        if (op->req) {
            op->req->ok[c->index] = op->ret < 0 ? 0 : UINT64_MAX;
            /* It may be asked again, for children were lost meanwhile. */
            op->req->failed &= ~(1u << c->index);
            note_part_failed(op);
        }
        break;
    case OP_FLUSH:
        if (op->ret == 0) {
            finish_flush(op, plan);
        } else {
            note_flush_failed(op);
            c->ever_failed = UINT64_MAX;
            sim_note_flush_failed();
            maybe_drop(op, plan);
        }
        break;
    }
    note_part_ended(op);
    trace_end(op);
    sim_op_ended(op);
    if (!op->abandoned) {
        sim_child_answers(c);
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
    if (op->abandoned) {
        return;
    }
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

        if (!plan->bad || !sim_any_liars()) {
            op_apply(op, mask);
        }
    }
    if (op_syncs(op) && plan->drops && !sim_has_losses(sim.s) && !op->failed &&
        op_fails(op, plan)) {
        /* Other operations may come and go before its end tells of it. */
        sim_trace("    child %d: op %d is failing", c->index, op->id);
        op->failed = true;
        sim_child_fault(c);
        sim_child_drop(c);
    }
}

void sim_ops_cut_off(Req *r)
{
    Op *ops[MAX_PENDING];
    int num = sim.pending.num;

    memcpy(ops, sim.pending.op, num * sizeof(ops[0]));
    sim.pending.num = 0;
    for (int i = 0; i < num; i++) {
        Op *op = ops[i];
        bool refuses = op->type == OP_ZERO &&
                       !(sim.s->native_zeroes & (1 << op->child->index));

        sim_use_dice(r, op->child->index);
        if ((op->type == OP_WRITE || op->type == OP_ZERO) && !refuses) {
            op_apply(op, sim_choose_subset(op->mask));
        }
        op->ret = -EIO;
        trace_end(op);
        op->done = true;
    }
    for (int i = 0; i < num; i++) {
        aio_co_wake(ops[i]->co);
    }
}

void sim_op_step(int index)
{
    Op *op = sim.pending.op[index];

    sim_use_dice(op->dice_req, op->child->index);
    if (sim_op_hangs(op)) {
        return;
    }
    if (op->holds < 2 && sim_chance(sim.s->rates.hold)) {
        op_hold(op);
        return;
    }
    memmove(&sim.pending.op[index], &sim.pending.op[index + 1],
            (sim.pending.num - index - 1) * sizeof(sim.pending.op[0]));
    sim.pending.num--;
    op_finish(op);
}
