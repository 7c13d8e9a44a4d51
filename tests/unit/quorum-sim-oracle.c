/*
 * Simulation of quorum nodes: what may be
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

Sim sim;

/* --- cells and units --- */

uint8_t sim_decode_cell(const uint8_t *buf)
{
    int size = sim.s->cell_bytes;

    return memcmp(buf, buf + 1, size - 1) == 0 ? buf[0] : TAG_TORN;
}

uint64_t sim_cells_mask(int cell, int num)
{
    return num >= 64 ? UINT64_MAX : (BIT_ULL(num) - 1) << cell;
}

int sim_cell_unit(int cell)
{
    return cell / sim.node.cells_per_unit;
}

uint64_t sim_unit_mask(int unit)
{
    int first = unit * sim.node.cells_per_unit;

    return sim_cells_mask(first, MIN(sim.node.cells_per_unit,
                                     sim.guest.length - first));
}

uint64_t sim_granules_mask(uint64_t mask)
{
    int num = sim.node.cells_per_granule;
    uint64_t granules = 0;

    for (int cell = 0; cell < MAX_CELLS; cell += num) {
        uint64_t granule = sim_cells_mask(cell, MIN(num, MAX_CELLS - cell));

        if (mask & granule) {
            granules |= granule;
        }
    }
    return granules;
}

int sim_num_units(void)
{
    return DIV_ROUND_UP(sim.guest.length, sim.node.cells_per_unit);
}

/* --- children --- */

int sim_bad_children(const Schedule *s)
{
    int mask = 0;

    for (int i = 0; i < s->num_children; i++) {
        mask |= !!s->plan[i].bad << i;
    }
    return mask;
}

int sim_any_liars(void)
{
    int mask = 0;

    for (int u = 0; u < MAX_CELLS; u++) {
        mask |= sim.s->liars[u];
    }
    return mask & sim_bad_children(sim.s);
}

bool sim_is_liar(const Child *c, int cell)
{
    return sim.s->plan[c->index].bad &&
           sim.s->liars[sim_cell_unit(cell)] & (1 << c->index);
}

bool sim_any_drops(void)
{
    for (int i = 0; i < sim.s->num_children; i++) {
        if (sim.s->plan[i].bad && sim.s->plan[i].drops) {
            return true;
        }
    }
    return false;
}

bool sim_any_lost(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        if (sim.child[n].ever_lost) {
            return true;
        }
    }
    return false;
}

/* Whether a child may lose what it has acknowledged, and not say so */
static bool any_forgets(void)
{
    for (int i = 0; i < sim.s->num_children; i++) {
        if (sim.s->plan[i].bad && sim.s->plan[i].forgets) {
            return true;
        }
    }
    return false;
}

/* Mask of those that were not there from the start, or are not there now */
static int new_children(void)
{
    int mask = 0;

    for (int i = 0; i < sim.s->num_children; i++) {
        mask |= sim.child[i].is_new << i;
    }
    return mask;
}

bool sim_well_enough(void)
{
    int bad = sim_bad_children(sim.s) | new_children();
    int well = sim.s->num_children - ctpop32(bad);
    int against = ctpop32(sim_any_drops() || any_forgets() ? bad :
                          sim_any_liars());

    return well >= sim.s->threshold && well > against;
}

/* --- requests and values --- */

bool sim_is_write(const Req *r)
{
    return r->type == REQ_WRITE || r->type == REQ_ZERO ||
           r->type == REQ_DISCARD || r->type == REQ_RESIZE;
}

uint64_t sim_touched(const Req *r)
{
    /* A discard may be dropped. */
    return r->type == REQ_DISCARD ? r->sent :
           r->type == REQ_RESIZE ? r->grown : r->mask;
}

uint64_t sim_replaced(const Req *r)
{
    return sim_touched(r) | r->gap;
}

static bool acknowledged(const Req *r)
{
    return r->end != NEVER && r->ret >= 0;
}

static Req *value_req(uint8_t value)
{
    int i = value - TAG_REQ;

    return i >= 0 && i < sim.guest.next_req ? &sim.s->reqs[i] : NULL;
}

bool sim_is_zeroes(uint8_t value)
{
    Req *r = value_req(value);

    return value == TAG_GAP ||
           (r && (r->type == REQ_ZERO || r->type == REQ_DISCARD ||
                  r->type == REQ_RESIZE));
}

uint64_t sim_zeroed_by(const Req *r)
{
    return r->type == REQ_ZERO || r->type == REQ_DISCARD ||
           r->type == REQ_RESIZE ? r->mask : 0;
}

bool sim_are_alike(const Req *r, const Req *other, uint64_t mask)
{
    return other != r && other->end == NEVER &&
           sim_zeroed_by(r) & sim_zeroed_by(other) & mask;
}

bool sim_is_scrubbed(ReqType type, uint64_t mask)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->type == type && r->end == NEVER && r->mask & mask) {
            return true;
        }
    }
    return false;
}

bool sim_was_alone(const Req *r)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *other = &sim.s->reqs[i];

        if (other != r && other->end > r->start && other->start < r->end) {
            return false;
        }
    }
    return sim.faults.unheard < r->start && !sim_node_flushes_by_itself();
}

/*
 * Whether @w was acknowledged before @start, has replaced what was in @cell
 * before, and is there to stay
 */
static bool has_replaced(const Req *w, int cell, int start, bool power_cut)
{
    return sim_is_write(w) && acknowledged(w) &&
           sim_replaced(w) & BIT_ULL(cell) && w->end < start &&
           w->end >= sim.seen.grown_at[cell] &&
           (power_cut ? w->flushed : !w->may_be_lost && !w->loss_unreported);
}

bool sim_is_told(int cell, int start)
{
    int told = NEVER;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (sim_is_write(w) && acknowledged(w) && w->may_be_lost &&
            w->end < start && sim_replaced(w) & BIT_ULL(cell)) {
            told = told == NEVER ? w->end : MAX(told, w->end);
        }
    }
    for (int i = 0; i < sim.guest.next_req && told != NEVER; i++) {
        Req *w = &sim.s->reqs[i];

        if (has_replaced(w, cell, start, false) && w->start > told) {
            told = NEVER;
        }
    }
    return told != NEVER;
}

/*
 * Zeroes that are there because the disk became longer.  They never come after
 * a write of the cell, unless that was done and cut off before.
 */
static bool gap_permitted(int cell, int start, int end, bool power_cut)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];
        bool stays = acknowledged(w) && (power_cut ? w->flushed :
                                         !w->may_be_lost &&
                                         !w->loss_unreported);
        uint64_t zeroes = stays ? w->gap : w->grown;
        bool permitted = sim_is_write(w) && w->type != REQ_RESIZE &&
                         zeroes & BIT_ULL(cell) && w->start <= end;

        for (int j = 0; j < sim.guest.next_req && permitted; j++) {
            Req *other = &sim.s->reqs[j];

            permitted = !has_replaced(other, cell, start, power_cut) ||
                        !(sim_touched(other) & BIT_ULL(cell)) ||
                        other->end < w->start;
        }
        if (permitted) {
            return true;
        }
    }
    return false;
}

/*
 * What was there before the disk grew, if its zeroes have been lost, or since
 * it was cut off in vain, if what was written there has been lost
 */
static bool garbage_permitted(int cell, int start, bool power_cut)
{
    bool permitted = false, cut = false;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (has_replaced(w, cell, start, power_cut)) {
            permitted = cut = false;
        } else if (acknowledged(w)) {
            permitted |= w->grown & BIT_ULL(cell) ||
                         (cut && sim_is_write(w) &&
                          sim_replaced(w) & BIT_ULL(cell));
        } else if (w->type == REQ_RESIZE && w->end != NEVER) {
            cut |= w->length <= cell && cell < w->old_length;
        }
    }
    return permitted;
}

bool sim_is_older(int cell, uint8_t value, uint8_t than, int start)
{
    const Req *old = value_req(value), *new = value_req(than);

    return (value == TAG_INIT || (old && sim_is_write(old))) && new &&
           sim_is_write(new) && acknowledged(new) && new->end < start &&
           sim_touched(new) & BIT_ULL(cell) && new != old &&
           (old ? old->end : 0) < new->start;
}

bool sim_permitted(int cell, uint8_t value, int start, int end, bool power_cut)
{
    int value_end = 0;

    if (value == TAG_GAP) {
        return gap_permitted(cell, start, end, power_cut);
    }
    if (value == TAG_GARBAGE) {
        return garbage_permitted(cell, start, power_cut);
    }
    if (value != TAG_INIT) {
        Req *w = value_req(value);

        if (!w || !sim_is_write(w) || !(sim_touched(w) & BIT_ULL(cell)) ||
            w->start > end) {
            return false;
        }
        value_end = w->end;
    }
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (w->start > value_end && has_replaced(w, cell, start, power_cut)) {
            return false;
        }
    }
    return true;
}

/* --- which children are stale --- */

bool sim_is_stale(const Child *c, uint64_t mask)
{
    for (int u = 0; u < sim_num_units(); u++) {
        if (c->stale_since[u] && mask & sim_unit_mask(u)) {
            return true;
        }
    }
    return false;
}

uint64_t sim_stale_cells(const Child *c)
{
    uint64_t cells = 0;

    for (int u = 0; u < sim_num_units(); u++) {
        cells |= c->stale_since[u] ? sim_unit_mask(u) : 0;
    }
    return cells;
}

void sim_set_stale(Child *c, uint64_t mask)
{
    for (int u = 0; u < sim_num_units(); u++) {
        if (mask & sim_unit_mask(u) && !c->stale_since[u]) {
            c->stale_since[u] = sim.now;
            sim_trace("    child %d is stale for unit %d", c->index, u);
        }
    }
}

bool sim_may_be_stale(const Child *c, uint64_t mask)
{
    return c->ever_failed & sim_granules_mask(mask);
}

/* --- flushes, and what they lose --- */

/*
 * Whether a request is in flight that ends in a flush, or the guest is to hear
 * of one by its next flush
 */
static bool flush_in_flight(void)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->end == NEVER &&
            (r->type == REQ_FLUSH || r->flags & BDRV_REQ_FUA)) {
            return true;
        }
    }
    return sim.faults.unheard;
}

void sim_note_flush_failed(void)
{
    if (sim_node_flushes_by_itself()) {
        sim.faults.unheard = sim.now;
    }
}

void sim_note_drop(const Child *c, bool lost)
{
    if (lost) {
        sim.faults.dropped |= 1 << c->index;
        sim.faults.losing = true;
    }
    if (ctpop32(sim.faults.dropped | sim_any_liars()) >= sim.s->threshold) {
        /* Until the guest hears of it, they may outvote the others. */
        for (int i = 0; i < sim.guest.next_req; i++) {
            sim.s->reqs[i].loss_unreported |= !sim.s->reqs[i].flushed;
        }
    }
}

/*
 * Now that the guest has heard of a flush: a child that has lost something is
 * stale there, if it is sure that no other flush lost it.
 */
static void losses_known(Req *r)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        uint64_t lacks = 0;

        for (uint64_t m = c->lost; m; m &= m - 1) {
            int i = ctz64(m);

            if (!sim_permitted(i, c->image[i], sim.now, sim.now, false)) {
                lacks |= BIT_ULL(i);
            }
        }
        if (r->ret < 0) {
            c->lost = 0;
        } else if (!flush_in_flight()) {
            sim_set_stale(c, lacks);
            c->lost = 0;
        }
    }
    if (sim.faults.losing && !flush_in_flight()) {
        sim.faults.losing = false;
        sim.faults.lost_until = sim.now;
    }
}

/* A flush has ended: which writes does it cover, or call into question? */
static void writes_flushed(Req *r)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (!sim_is_write(w) || w->flushed) {
            continue;
        }
        if (r->ret < 0 && sim_has_losses(sim.s)) {
            /* The guest has been told, but not by a FUA write. */
            w->may_be_lost |= r->type == REQ_FLUSH && acknowledged(w);
        } else if (r->ret < 0 && w->end == NEVER) {
            /* The guest has yet to hear of it, and may believe that then. */
            w->loss_unreported &= flush_in_flight();
        } else if (r->ret < 0) {
            w->may_be_lost |= sim_any_drops();
        } else if (acknowledged(w) && w->end < r->start && !w->may_be_lost) {
            w->flushed = true;
        }
    }
}

void sim_note_flush(Req *r)
{
    if (r->type == REQ_FLUSH && r->start > sim.faults.unheard) {
        sim.faults.unheard = 0;
    }
    if (r->ret >= 0 && !flush_in_flight()) {
        /* All is well, the guest has been told. */
        for (int i = 0; i < sim.guest.next_req; i++) {
            sim.s->reqs[i].loss_unreported = false;
        }
    }
    if (r->type == REQ_FLUSH || r->ret < 0) {
        writes_flushed(r);
    }
    if (!flush_in_flight()) {
        for (int i = 0; i < sim.guest.next_req; i++) {
            Req *w = &sim.s->reqs[i];

            w->flushed |= w->flags & BDRV_REQ_FUA && acknowledged(w) &&
                          !w->may_be_lost;
        }
    }
    if (r->type == REQ_FLUSH && r->ret >= 0) {
        sim.faults.dropped = 0;
    }
    if (r->tried_again) {
        /* What failed may have been done at last. */
        for (int n = 0; n < sim.s->num_children; n++) {
            sim.child[n].lost = 0;
        }
    }
    if (!sim_has_losses(sim.s)) {
        losses_known(r);
    }
}

/* --- children that have left --- */

void sim_note_change(const Child *c)
{
    Change *change = &sim.seen.changes[sim.seen.num_changes++];

    change->time = sim.now;
    change->held = 0;
    for (int i = 0; i < c->length; i++) {
        if (sim_permitted(i, c->image[i], sim.now, sim.now, false)) {
            change->held |= BIT_ULL(i);
        }
    }
}

int sim_count_gone(int cell, int start)
{
    int written = 0;
    int count = 0;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (sim_is_write(w) && acknowledged(w) &&
            sim_touched(w) & BIT_ULL(cell) && w->end < start) {
            written = MAX(written, w->start);
        }
    }
    for (int i = 0; i < sim.seen.num_changes; i++) {
        count += sim.seen.changes[i].time > written &&
                 sim.seen.changes[i].held & BIT_ULL(cell);
    }
    return count;
}
