/*
 * Simulation of quorum nodes: resizes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The disk grows and shrinks, alone or beside other requests.  These stay below
 * the smaller one of both lengths: a guest does not use what it is about to cut
 * off, or has not got yet.
 *
 * A resize that succeeds leaves the length that was asked for, or a larger one
 * if it need not be exact, and at least threshold children have it.  What was
 * cut off is forgotten.  What comes into sight is zero; to the oracle, the
 * resize has written that.
 *
 * A resize that fails leaves the old length, and what a read may return is what
 * it was.  But a child that had done its part is stale where it was cut off,
 * and so may be all of them: what was durable there need not be so any more.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "quorum-sim.h"

/* --- the guest --- */

int sim_usable_cells(void)
{
    int cells = sim.guest.length;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->type == REQ_RESIZE && r->end == NEVER) {
            cells = MIN(r->length, r->old_length);
        }
    }
    return cells;
}

/* A scrub goes by whole units, or up to the end of the disk. */
static int unit_of(const Req *r)
{
    return r->type == REQ_CHECK || r->type == REQ_SCRUB ?
           sim.node.cells_per_unit : 1;
}

/*
 * The unit in which @r needs what a resize keeps.
 *
 * A read that repairs does all of a stale granule, and the driver does not see
 * that the granule has become shorter while it waited: all children would be
 * reported, because they can't read what is not there.
 */
static int kept_unit_of(const Req *r)
{
    return r->type == REQ_READ && sim.s->rewrite_corrupted ?
           sim.node.cells_per_granule : unit_of(r);
}

bool sim_resize_may_start(const Req *r)
{
    int kept = MIN(r->length, sim.guest.length);

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *other = &sim.s->reqs[i];
        int usable = kept - kept % kept_unit_of(other);

        if (other->end == NEVER &&
            (other->type == REQ_RESIZE ||
             other->mask & ~sim_cells_mask(0, usable))) {
            return false;
        }
    }
    return true;
}

bool sim_find_place(Req *r)
{
    int unit = unit_of(r);
    int usable = sim_usable_cells();

    if (usable < sim.guest.length) {
        usable -= usable % kept_unit_of(r);
    }
    if (!usable) {
        return false;
    }
    r->cell = r->place.cell % usable;
    r->cell -= r->cell % unit;
    r->num = MIN(ROUND_UP(r->place.num, unit), usable - r->cell);
    r->mask = sim_cells_mask(r->cell, r->num);
    return true;
}

int coroutine_fn sim_resize(Req *r)
{
    int64_t size = sim.s->cell_bytes;
    int old = sim.guest.length;
    int kept = MIN(r->length, old), longest = MAX(r->length, old);
    Error *err = NULL;
    int ret;

    sim_set_granules(longest);
    r->old_length = old;
    r->mask = longest > kept ? sim_cells_mask(kept, longest - kept) : 0;
    for (int n = 0; n < sim.s->num_children; n++) {
        r->shortest[n] = sim.child[n].length;
    }
    ret = blk_co_truncate(sim.node.blk, r->length * size, r->exact,
                          PREALLOC_MODE_OFF, 0, &err);
    if (err) {
        sim_trace("  %s", error_get_pretty(err));
        error_free(err);
    }
    sim.guest.length = blk_co_getlength(sim.node.blk) / size;
    return ret;
}

/* --- what must not be --- */

/* The cells that writes in flight have yet to settle */
static uint64_t being_written(void)
{
    uint64_t mask = 0;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        mask |= sim_is_write(r) && r->end == NEVER ? r->mask : 0;
    }
    return mask;
}

/* From @cell on, the disk is cut off. */
static void forget_cells(int cell)
{
    int unit = sim.node.cells_per_unit;
    int first = DIV_ROUND_UP(cell, unit);

    /*
     * A write in flight may have covered what is left of a unit that is cut.
     * If it ends now, the unit is whole, and what was stale of it is not.
     */
    if (cell % unit && being_written() & BIT_ULL(cell - 1)) {
        first = cell / unit;
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        for (int u = first; u * unit < MAX_CELLS; u++) {
            sim.child[n].stale_since[u] = 0;
        }
    }
}

/* Count the children that have the new length, and the zeroes behind it. */
static void check_resized(Req *r)
{
    int length = sim.guest.length;
    int count = 0;

    if (r->exact ? length != r->length : length < r->length) {
        sim_violation(CHECK_LENGTH, "resize %d to %d cells has made them %d",
                      r->id, r->length, length);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        count += c->bs && r->ok[n] && c->length == length;
    }
    if (count < sim.s->threshold) {
        sim_violation(CHECK_LENGTH, "resize %d to %d cells is acknowledged, "
                      "and %d children have done it", r->id, length, count);
    }
    for (int u = 0; u < sim_num_units(); u++) {
        int holders = 0;

        for (int n = 0; n < sim.s->num_children; n++) {
            Child *c = &sim.child[n];

            holders += r->ok[n] && c->length == length && !c->stale_since[u];
        }
        if (r->grown & sim_unit_mask(u) && holders < sim.s->threshold) {
            sim_violation(CHECK_HELD, "resize %d has brought unit %d into "
                          "sight, which has %d holders", r->id, u, holders);
        }
    }
}

/* What becomes of the child @c when the resize @r has ended */
static void note_resize(Req *r, Child *c)
{
    int n = c->index;
    int length = sim.guest.length;
    bool behind = c->length != length || (r->ret >= 0 && !r->ok[n]);

    if (behind && (r->ret >= 0 || length == r->old_length)) {
        /* It is excluded, and so stale throughout. */
        sim_set_stale(c, ~being_written());
    }
    if (r->ret < 0 && r->shortest[n] < length) {
        sim_set_stale(c, sim_cells_mask(r->shortest[n],
                                        length - r->shortest[n]));
        c->ever_failed = UINT64_MAX;
        c->failed = true;
    }
    /* The node may think so of others, too, and undoing it may have failed. */
    if (behind || c->failed_at >= r->start) {
        c->maybe_excluded = true;
        c->ever_failed = UINT64_MAX;
    } else if (r->ret >= 0) {
        c->maybe_excluded = false;
    }
}

void sim_check_resize(Req *r)
{
    int old = r->old_length, length = sim.guest.length;

    if (MAX(r->length, length) > old) {
        /* If it has failed, zeroes may be there, as of a write that did. */
        r->grown = sim_cells_mask(old, MAX(r->length, length) - old);
    }
    for (int i = old; i < length; i++) {
        sim.seen.grown_at[i] = r->end;
        sim.seen.cut_in_vain &= ~BIT_ULL(i);
    }
    if (r->ret < 0 && r->length < old) {
        sim.seen.cut_in_vain |= sim_cells_mask(r->length, old - r->length);
    }
    /*
     * If those that have done it do not agree on a length, which a resize that
     * is exact makes sure of, it fails after the fact: the core then takes the
     * length that was asked for.
     */
    if (r->ret < 0 && length != old &&
        (r->exact || length != r->length || length > old)) {
        sim_violation(CHECK_LENGTH, "resize %d has failed, and made %d cells "
                      "of %d", r->id, length, old);
    }
    if (length < old) {
        forget_cells(length);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        if (sim.child[n].bs) {
            note_resize(r, &sim.child[n]);
        }
    }
    if (r->ret >= 0) {
        check_resized(r);
    }
}
