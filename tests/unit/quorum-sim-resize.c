/*
 * Simulation of quorum nodes: resizes, and writes behind the end
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The disk grows and shrinks, alone or beside other requests.  What is written
 * beside a resize stays below the smaller one of both lengths: a guest does not
 * write to what it is about to cut off, or has not got yet.  It may read there:
 * then it does not matter what it reads, but no child is to blame for it.
 *
 * A resize that succeeds leaves the length that was asked for; if it need not
 * be exact and makes the disk shorter, a larger one will do, up to the old one,
 * and then at least threshold children are that long.  What was cut off is
 * forgotten.  What comes into sight is zero; to the oracle, the resize has
 * written that.
 *
 * A resize that fails leaves the old length, and what a read may return is what
 * it was.  But a child that had done its part is stale where it was cut off,
 * and so may be all of them: what was durable there need not be so any more.
 *
 * A write behind the end makes the disk longer when it is acknowledged.  What
 * it leaves out, the gap, is zero then.  All such zeroes have one tag, for it
 * depends on the order of writes whose gap a cell is in.  A write that fails
 * leaves the length as it was, and anything behind the end of the children.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "quorum-sim.h"

/* --- the guest --- */

static Req *resize_in_flight(void)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->type == REQ_RESIZE && r->end == NEVER) {
            return r;
        }
    }
    return NULL;
}

int sim_usable_cells(void)
{
    Req *r = resize_in_flight();

    return r ? MIN(r->length, r->old_length) : sim.guest.length;
}

/* A scrub goes by whole units, or up to the end of the disk. */
static int unit_of(const Req *r)
{
    return r->type == REQ_CHECK || r->type == REQ_SCRUB ?
           sim.node.cells_per_unit : 1;
}

/* What a request can't be sure of beside a resize that keeps @kept cells */
static uint64_t unsure_cells(int kept)
{
    int unit = sim.node.cells_per_unit;

    return kept < sim.guest.length ?
           ~sim_cells_mask(0, QEMU_ALIGN_DOWN(kept, unit)) : 0;
}

/* Whether @r only reads, as far as the guest is concerned. */
static bool reads(const Req *r)
{
    return r->type == REQ_READ || r->type == REQ_STATUS ||
           r->type == REQ_CHECK || r->type == REQ_SCRUB;
}

bool sim_resize_may_start(const Req *r)
{
    int kept = MIN(r->length, sim.guest.length);

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *other = &sim.s->reqs[i];

        if (other->end == NEVER &&
            (other->type == REQ_RESIZE || other->grown ||
             (!reads(other) && other->mask & ~sim_cells_mask(0, kept)))) {
            return false;
        }
    }
    return true;
}

/* Whether @r goes behind the end of the disk, and what comes into sight then */
static bool find_growth(Req *r)
{
    int sector = MAX(1, BDRV_SECTOR_SIZE / sim.s->cell_bytes);
    int length = sim.guest.length;
    int cell = MAX(length + r->ahead, 0);
    int end;

    cell -= cell % sector;
    end = MIN(ROUND_UP(cell + r->place.num, sector), sim.s->most_cells);
    if (!r->grows || resize_in_flight() || end <= length || end <= cell) {
        return false;
    }
    r->cell = cell;
    r->num = end - cell;
    r->mask = sim_cells_mask(cell, r->num);
    r->old_length = length;
    r->grown = sim_cells_mask(length, end - length);
    r->gap = r->grown & ~r->mask;
    sim_set_granules(end);
    return true;
}

bool sim_find_place(Req *r)
{
    int unit = unit_of(r);
    int usable = sim_usable_cells();
    int kept = usable;

    r->grown = r->gap = r->unsure = 0;
    if (find_growth(r)) {
        return true;
    }
    if (reads(r)) {
        usable = sim.guest.length;
    }
    if (!usable) {
        return false;
    }
    r->cell = r->place.cell % usable;
    r->cell -= r->cell % unit;
    r->num = MIN(ROUND_UP(r->place.num, unit), usable - r->cell);
    r->mask = sim_cells_mask(r->cell, r->num);
    r->unsure = unsure_cells(kept) | sim.seen.leftover;
    return true;
}

/* How many children have, or seem to have, at least @length */
static int count_long(int length)
{
    int count = 0;

    for (int n = 0; n < sim.s->num_children; n++) {
        count += sim.child[n].bs && sim.child[n].length >= length;
    }
    return count;
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
    for (int i = 0; i < sim.guest.next_req; i++) {
        if (sim.s->reqs[i].end == NEVER) {
            sim.s->reqs[i].unsure |= unsure_cells(kept);
        }
    }
    r->long_before = count_long(old);
    for (int n = 0; n < sim.s->num_children; n++) {
        r->shortest[n] = MAX_CELLS;
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

void sim_note_growth(Req *r)
{
    int end = r->cell + r->num;

    if (!r->grown) {
        return;
    }
    r->old_length = sim.guest.length;
    /* What others have brought into sight meanwhile is theirs. */
    r->gap &= ~sim_cells_mask(0, r->old_length);
    for (int i = r->old_length; i < end; i++) {
        sim.seen.grown_at[i] = r->end;
    }
    sim.guest.length = MAX(sim.guest.length, end);
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

/* More than half of the children have to agree. */
static bool is_majority(void)
{
    return sim.s->threshold > sim.s->num_children / 2;
}

static bool shrinks(const Req *r)
{
    return r->length < r->old_length;
}

/*
 * Whether @c is as long as @r should have made it.  A write that grows and
 * comes late may make it longer again, which is not looked at.
 */
static bool has_length(const Req *r, const Child *c)
{
    uint64_t behind = ~sim_cells_mask(0, sim.guest.length);

    return r->exact && !(c->ever_late & behind) ?
           c->length == sim.guest.length : c->length >= sim.guest.length;
}

/* @r has succeeded: has the disk the length that it should have? */
static void check_length(const Req *r)
{
    int length = sim.guest.length;
    int needed = MIN(sim.s->threshold, r->long_before);
    int done = 0, followed = 0;

    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        done += c->bs && r->ok[n] && has_length(r, c);
        followed += c->bs && !c->maybe_excluded && c->length == r->length;
    }
    if (!r->exact && shrinks(r)) {
        if (length < r->length || length > r->old_length ||
            (length > r->length && followed >= sim.s->threshold) ||
            count_long(length) < needed) {
            sim_violation(CHECK_LENGTH, "resize %d to %d cells has made them "
                          "%d, %d children have followed, %d are that long",
                          r->id, r->length, length, followed,
                          count_long(length));
        }
    } else if (length != r->length || done < sim.s->threshold) {
        sim_violation(CHECK_LENGTH, "resize %d to %d cells has made them %d, "
                      "and %d children have done it", r->id, r->length, length,
                      done);
    }
}

/* Count the children that have the new length, and the zeroes behind it. */
static void check_resized(Req *r)
{
    check_length(r);
    for (int u = 0; u < sim_num_units(); u++) {
        int holders = 0;

        for (int n = 0; n < sim.s->num_children; n++) {
            Child *c = &sim.child[n];

            holders += r->ok[n] && has_length(r, c) && !c->stale_since[u];
        }
        if (r->grown & sim_unit_mask(u) && holders < sim.s->threshold) {
            sim_violation(CHECK_HELD, "resize %d has brought unit %d into "
                          "sight, which has %d holders", r->id, u, holders);
        }
    }
}

void sim_check_shrink(const Req *r, int child)
{
    int members = 0;

    for (int n = 0; n < sim.s->num_children; n++) {
        members += !!sim.child[n].bs;
        /* If one was lost meanwhile, all are asked again, and may succeed. */
        if (sim.child[n].maybe_excluded || sim.child[n].ever_lost) {
            return;
        }
    }
    if (r->exact && shrinks(r) && is_majority() &&
        ctpop32(r->failed) > members - sim.s->threshold) {
        sim_violation(CHECK_LENGTH, "child %d is to be cut off, although "
                      "resize %d has failed", child, r->id);
    }
}

/* What becomes of the child @c when the resize @r has ended */
static void note_resize(Req *r, Child *c)
{
    int n = c->index;
    int length = sim.guest.length;
    int end = c->length;
    bool missed = r->ret >= 0 && !r->ok[n];
    uint64_t lacks = 0;

    if (sim_has_hangs(sim.s)) {
        /* What has come late may have made it longer; no one knows of that. */
        end = MIN(end, c->bs->total_sectors * BDRV_SECTOR_SIZE /
                       sim.s->cell_bytes);
    }
    if (!is_majority() && (r->exact || r->length > r->old_length) &&
        (missed || end != length)) {
        /* It is excluded, and so stale throughout. */
        lacks = UINT64_MAX;
    } else if (missed) {
        end = MIN(end, r->old_length);
    } else if (r->ret < 0) {
        end = MIN(end, r->shortest[n]);
    }
    lacks |= end < length ? sim_cells_mask(end, length - end) : 0;
    sim_set_stale(c, lacks & ~being_written());
    if (lacks || c->failed_at >= r->start) {
        c->ever_failed = UINT64_MAX;
    }
    c->failed |= lacks;
    /* The node may think so of others, too, and undoing it may have failed. */
    if (lacks == UINT64_MAX || c->failed_at >= r->start) {
        c->maybe_excluded = true;
    } else if (r->ret >= 0 && c->length == length) {
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
    if (r->ret < 0 && length != old) {
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

/* --- writes behind the end --- */

/* Whether @c, which has done the write @r, may hold what is in @cell. */
static bool gap_is_well(const Req *r, const Child *c, int cell)
{
    return sim_is_liar(c, cell) || c->lost & BIT_ULL(cell) ||
           sim_is_stale(c, BIT_ULL(cell)) ||
           sim_permitted(cell, c->image[cell], r->end, r->end, false);
}

void sim_check_growth(Req *r)
{
    int length = sim.guest.length;

    if (!r->grown) {
        return;
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        int end = MAX(r->old_length, c->length);

        if (!c->bs) {
            continue;
        }
        if (r->mask & ~r->ok[n]) {
            sim_set_stale(c, end < length ? sim_cells_mask(end, length - end)
                                          : 0);
            continue;
        }
        for (uint64_t m = r->gap; m; m &= m - 1) {
            int i = ctz64(m);

            if (!gap_is_well(r, c, i)) {
                sim_violation(CHECK_HELD, "W%d has brought cell %d into sight, "
                              "which has %s on child %d", r->id, i,
                              sim_value_text(c->image[i]), n);
            }
        }
    }
}

void sim_check_lengths(void)
{
    int length = sim.guest.length;

    if (blk_getlength(sim.node.blk) / sim.s->cell_bytes != length ||
        sim_node_cells() != length) {
        sim_violation(CHECK_LENGTH, "the node has %" PRId64 " bytes, the "
                      "driver %d cells, and it should be %d cells",
                      blk_getlength(sim.node.blk), sim_node_cells(), length);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        if (c->bs && c->length < length) {
            sim_set_stale(c, sim_cells_mask(c->length, length - c->length));
        }
    }
}

/* --- restarts --- */

bool sim_may_restart(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        if (sim.child[n].is_new) {
            return false;
        }
    }
    return sim.s->seed & 2 && is_majority() &&
           (sim_has_lengths(sim.s->kind) ||
            g_str_equal(sim.s->read_pattern, "fifo")) && !sim_any_drops() &&
           !sim_has_losses(sim.s) && !sim_any_liars() &&
           ctpop32(sim_bad_children(sim.s)) < sim.s->threshold;
}

/*
 * What failed requests have left behind the end comes into sight where
 * threshold children have it: whatever that is.  And what was cut off in vain
 * is no longer known to be stale.
 */
void sim_note_restart(void)
{
    int old = sim.guest.length;
    int length = MAX_CELLS;
    bool cut = false;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        /* It may have been done, and undoing it may have failed. */
        cut |= r->type == REQ_RESIZE && r->ret < 0 && shrinks(r);
    }
    while (length > 0 && count_long(length) < sim.s->threshold) {
        length--;
    }
    sim_trace("the node is opened again, with %d cells", length);
    if (sim_node_cells() != length || (length < old && !cut)) {
        sim_violation(CHECK_LENGTH, "the node is opened with %d cells instead "
                      "of %d, and had %d", sim_node_cells(), length, old);
    }
    sim.guest.length = sim_node_cells();
    sim.seen.leftover = ~sim_cells_mask(0, old) | sim.seen.cut_in_vain;
    for (int n = 0; n < sim.s->num_children; n++) {
        memset(sim.child[n].stale_since, 0, sizeof(sim.child[n].stale_since));
        sim.child[n].maybe_excluded = false;
        sim.child[n].ever_failed = UINT64_MAX;
    }
}
