/*
 * Simulation of quorum nodes: what must not be, as it happens
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/quorum/quorum-int.h"
#include "quorum-sim.h"

/* --- operations of children --- */

/*
 * Has @c said @value of @cell since @start?  With @votes, what it says while it
 * is stale does not count.
 */
static bool has_said(const Child *c, int cell, uint8_t value, int start,
                     bool votes)
{
    for (int i = sim.seen.num_answers - 1; i >= 0; i--) {
        Answer *a = &sim.seen.answers[i];

        if (a->time < start) {
            break;
        }
        if (a->child == c->index && a->ret == 0 && a->mask & BIT_ULL(cell) &&
            a->val[cell] == value && !(votes && a->stale & BIT_ULL(cell))) {
            return true;
        }
    }
    return sim.seen.num_answers == MAX_ANSWERS;
}

/*
 * How many children say in all of @mask, in @unit, what @op writes?  They said
 * it since a read there has begun and the guest's last write there has ended,
 * and hold it now.
 */
static void repair_votes(Op *op, uint64_t mask, int unit, int *winners,
                         int *others)
{
    int start = sim_node_flushes_by_itself() ? 0 : NEVER;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        /*
         * A read that meets a stale granule repairs all of it, later.  A flush
         * votes where children are unsure, so does a write before it is tried
         * again (or, with digests, before it is sent), and a resize at the end
         * of the disk.
         */
        if (r->start != NEVER &&
            (((r->type == REQ_READ || r->type == REQ_SCRUB ||
               sim_is_tried_again(r) ||
               (sim_is_checked(sim.s) && sim_is_write(r))) &&
              sim_granules_mask(r->mask) & sim_unit_mask(unit)) ||
             (sim_is_tried_again(r) && r->flags & BDRV_REQ_FUA) ||
             r->type == REQ_FLUSH || r->type == REQ_RESIZE)) {
            start = MIN(start, r->start);
        }
    }
    for (uint64_t m = mask; m && start != NEVER; m &= m - 1) {
        start = MAX(start, sim.seen.written_at[ctz64(m)]);
    }

    *winners = *others = 0;
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        bool agrees = true;

        if (c->stale_since[unit] && c->stale_since[unit] < start) {
            continue;
        }
        for (uint64_t m = mask; m; m &= m - 1) {
            int i = ctz64(m);

            agrees &= has_said(c, i, op->val[i], start, true);
            agrees &= c->image[i] == op->val[i] || sim_is_liar(c, i) ||
                      c->ever_late & BIT_ULL(i) ||
                      (sim_has_losses(sim.s) && c->ever_lost) ||
                      (sim.s->plan[n].bad && sim.s->plan[n].drops);
        }
        if (agrees) {
            *winners += 1;
        } else if (!sim_may_be_stale(c, mask) && !c->ever_lost) {
            *others += 1;
        }
    }
}

/* No write and no repair that overlap may be in flight on any children. */
static void check_overlap(const Op *op)
{
    for (int i = 0; i < sim.pending.num; i++) {
        Op *other = sim.pending.op[i];

        if ((other->type == OP_WRITE || other->type == OP_ZERO) &&
            other->repair != op->repair && op->cover & other->cover) {
            sim_violation(CHECK_REPAIR, "op %d and op %d: a repair and a write "
                          "that overlap are in flight", op->id, other->id);
        }
    }
}

/* What @c has said of all of @mask since @start, or NULL if that may vary */
static const uint8_t *definite_answer(const Child *c, uint64_t mask, int start)
{
    const uint8_t *said = NULL;

    for (int i = sim.seen.num_answers - 1; i >= 0; i--) {
        const Answer *a = &sim.seen.answers[i];

        if (a->time < start) {
            break;
        }
        if (a->child != c->index || !(a->mask & mask)) {
            continue;
        }
        if (a->ret < 0 || mask & ~a->mask) {
            return NULL;
        }
        for (uint64_t m = said ? mask : 0; m; m &= m - 1) {
            if (a->val[ctz64(m)] != said[ctz64(m)]) {
                return NULL;
            }
        }
        said = a->val;
    }
    return sim_may_be_stale(c, mask) ? NULL : said;
}

/* Whether a vote on @unit that began after @start certainly had a winner */
static bool had_winner(int unit, int start)
{
    uint64_t mask = sim_unit_mask(unit) & sim_cells_mask(0, sim.guest.length);
    const uint8_t *said[MAX_CHILDREN];

    if (sim.seen.num_answers == MAX_ANSWERS) {
        return false;
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        said[n] = definite_answer(&sim.child[n], mask, start);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        int members = 0;

        for (int other = 0; said[n] && other < sim.s->num_children; other++) {
            bool same = said[other];

            for (uint64_t m = same ? mask : 0; m; m &= m - 1) {
                same &= said[n][ctz64(m)] == said[other][ctz64(m)];
            }
            members += same;
        }
        if (members >= sim.s->threshold &&
            members > sim.s->num_children - members) {
            return true;
        }
    }
    return false;
}

/*
 * Whether @op, which is not what enough children say of @unit, is what a child
 * says that a scrub prefers; there must have been no winner then.
 */
static bool is_preferred(const Op *op, int unit)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];
        Child *c = &sim.child[r->child];
        bool said = r->prefers && r->end == NEVER &&
                    r->mask & sim_unit_mask(unit) &&
                    (!c->stale_since[unit] || c->stale_since[unit] > r->start);

        for (uint64_t m = sim_unit_mask(unit) & op->cover; m && said;
             m &= m - 1) {
            said = has_said(c, ctz64(m), op->val[ctz64(m)], r->start, true);
        }
        if (said) {
            if (had_winner(unit, r->start)) {
                sim_violation(CHECK_REPAIR, "op %d: scrub %d lets child %d "
                              "decide in unit %d, which has a winner", op->id,
                              r->id, c->index, unit);
            }
            sim.seen.decided |= sim_unit_mask(unit);
            return true;
        }
    }
    return false;
}

/*
 * Cells that the core may have added to the repair @op, so that it is aligned:
 * they keep what the child has.
 */
static uint64_t padding(const Op *op)
{
    uint64_t cells = 0;

    if (sim.s->align <= sim.s->cell_bytes) {
        return 0;
    }
    for (uint64_t m = op->cover; m; m &= m - 1) {
        if (op->val[ctz64(m)] == op->child->image[ctz64(m)]) {
            cells |= BIT_ULL(ctz64(m));
        }
    }
    return cells;
}

/*
 * Whether the child of @op is known to lack what it is given: a digest has
 * outvoted it.  There need be no other reason to repair it.
 */
static bool was_outvoted(const Op *op)
{
    BDRVQuorumState *s = blk_bs(sim.node.blk)->opaque;

    return sim_is_checked(sim.s) &&
           quorum_sync_is_doubtful(s->sync, op->child->index,
                                   (int64_t)ctz64(op->mask) *
                                   sim.s->cell_bytes, 1);
}

static void check_repair(Op *op)
{
    Child *c = op->child;
    bool changes = false;

    for (uint64_t m = op->mask; m; m &= m - 1) {
        changes |= op->val[ctz64(m)] != c->image[ctz64(m)];
    }
    /* One that changes nothing may still end that a child is stale. */
    if (changes && !sim.s->rewrite_corrupted && !c->ever_lost &&
        !was_outvoted(op) &&
        !sim_is_scrubbed(REQ_SCRUB, op->mask) && !sim_unresolved(op->mask)) {
        sim_violation(CHECK_REPAIR, "op %d: a repair without the option and "
                      "without a scrub", op->id);
    }
    for (int u = 0; u < sim_num_units(); u++) {
        uint64_t mask = sim_unit_mask(u) & op->cover & ~padding(op);
        int winners, others;

        if (!mask || sim_unresolved(mask)) {
            continue;
        }
        repair_votes(op, mask, u, &winners, &others);
        if (winners && sim_is_checked(sim.s)) {
            continue;           /* a digest decides: sim_check_stored() */
        }
        if ((winners < sim.s->threshold || winners <= others) &&
            !is_preferred(op, u) && changes) {
            sim_violation(CHECK_REPAIR, "op %d: a repair of unit %d with what "
                          "only %d children say, and %d do not", op->id, u,
                          winners, others);
        }
    }
}

void sim_check_op(Op *op)
{
    check_overlap(op);
    if (op->repair) {
        check_repair(op);
    }
}

void sim_check_stored(const Op *op, int cell)
{
    Child *c = op->child;

    if (op->repair && !sim_is_liar(c, cell) &&
        op->val[cell] != c->image[cell] &&
        !(sim.seen.decided & BIT_ULL(cell)) &&
        !sim_permitted(cell, op->val[cell], sim.now, sim.now,
                       sim.faults.power_cut)) {
        sim_violation(CHECK_REPAIR,
                      "a repair puts %s over %s in cell %d of child %d",
                      sim_value_text(op->val[cell]),
                      sim_value_text(c->image[cell]), cell, c->index);
    }
    if (op->repair && !sim_is_liar(c, cell)) {
        sim_check_chosen(cell, op->val[cell], false);
    }
    if (op->repair && sim_has_losses(sim.s) &&
        sim_is_older(cell, op->val[cell], c->image[cell], sim.now)) {
        sim_violation(CHECK_TOLD, "a repair puts %s over %s in cell %d of "
                      "child %d", sim_value_text(op->val[cell]),
                      sim_value_text(c->image[cell]), cell, c->index);
    }
}

/* --- writes and flushes of the guest --- */

/*
 * @c has stored @cells, whole units of them maybe in several operations; and
 * what has kept it from that may have come to its end since.
 */
static void note_stored(Child *c, uint64_t cells, int end)
{
    for (int u = 0; u < sim_num_units(); u++) {
        if (!(sim_unit_mask(u) & ~cells) && c->stale_since[u] <= end) {
            c->stale_since[u] = 0;
        }
    }
}

/*
 * Of @cells of @r, those that @c has not been given again since.  Where there
 * are state nodes, a write may have to wait for them after its part is done.
 */
static uint64_t not_overtaken(const Req *r, const Child *c, uint64_t cells)
{
    for (int u = 0; u < sim_num_units() && sim_has_state(sim.s); u++) {
        if (c->whole_at[u] > r->op_end[c->index]) {
            cells &= ~sim_unit_mask(u);
        }
    }
    return cells;
}

/* Whether @c was stale in @cells of @r, when that was done */
static bool was_stale(const Req *r, const Child *c, uint64_t cells)
{
    for (int u = 0; u < sim_num_units() && sim_has_state(sim.s); u++) {
        if (c->stale_since[u] > r->op_end[c->index]) {
            cells &= ~sim_unit_mask(u);
        }
    }
    return sim_is_stale(c, cells);
}

/*
 * What others in flight were given may have been zeroes of @r: it may have been
 * done before them although it began later.
 */
static void move_zeroes(Req *r)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *other = &sim.s->reqs[i];

        if (!sim_are_alike(r, other, UINT64_MAX)) {
            continue;
        }
        for (int n = 0; n < sim.s->num_children; n++) {
            uint64_t cells = other->ok[n] & ~r->ok[n] &
                             sim_zeroed_by(other) & sim_touched(r);

            if (sim_has_state(sim.s) && r->op_end[n]) {
                continue;       /* it was done, and has waited since */
            }

            r->ok[n] |= cells;
            other->ok[n] &= ~cells;
        }
    }
}

/*
 * Whether it is not known which zeroes are of @r, as another write that fills a
 * gap there may have been given up and begun again meanwhile
 */
static bool may_be_mistaken(const Req *r)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        const Req *other = &sim.s->reqs[i];

        if (r->given_up && other != r && other->end > r->start &&
            other->start < r->end && other->gap & sim_zeroed_by(r)) {
            return true;
        }
    }
    return false;
}

/* Promise 1: count the holders, and remember which children are none. */
static void check_write(Req *r)
{
    uint64_t cells = sim_touched(r);

    if (may_be_mistaken(r)) {
        return;
    }
    move_zeroes(r);
    /* What a child was given may be undone by what still comes. */
    for (int n = 0; n < sim.s->num_children; n++) {
        r->ok[n] &= ~sim_late_cells(&sim.child[n]);
        if (cells & ~r->ok[n] ||
            sim_granules_mask(cells) & sim.child[n].ever_late) {
            /*
             * A child with late writes in a granule is not asked for any of the
             * write, and taken for one whose flush has failed.
             */
            sim.child[n].ever_failed |= r->flags & BDRV_REQ_FUA ?
                                        UINT64_MAX : cells | r->gap;
        }
        note_stored(&sim.child[n], cells & r->ok[n],
                    sim_has_state(sim.s) ? r->op_end[n] : sim.now);
    }

    for (uint64_t m = sim.seen.cut_in_vain & sim_replaced(r); m; m &= m - 1) {
        sim.seen.mended_at[ctz64(m)] = sim.now;
    }
    sim.seen.cut_in_vain &= ~sim_replaced(r);
    for (int n = 0; n < sim.s->num_children; n++) {
        sim_set_stale(&sim.child[n],
                      not_overtaken(r, &sim.child[n], cells & ~r->ok[n]));
    }
    sim_check_growth(r);
    for (int u = 0; u < sim_num_units() && cells; u++) {
        int holders = 0;

        for (int n = 0; n < sim.s->num_children; n++) {
            holders += (cells & ~r->ok[n]) == 0 &&
                       !was_stale(r, &sim.child[n], sim_unit_mask(u));
        }
        if (sim_unit_mask(u) & sim_replaced(r) && holders < sim.s->threshold) {
            sim_violation(CHECK_HELD, "W%d is acknowledged and has %d holders "
                          "in unit %d", r->id, holders, u);
        }
    }
}

/*
 * What of @cells was acknowledged before @start is durable.  It was forgotten
 * if the cell has come into sight since, or is being cut off, or was until
 * something was written there.
 */
static void check_durable(uint64_t cells, int start)
{
    cells &= sim_cells_mask(0, sim_usable_cells()) & ~sim.seen.cut_in_vain &
             ~sim.seen.decided;
    for (uint64_t m = cells; m; m &= m - 1) {
        int i = ctz64(m);
        int count = sim_count_gone(i, start);

        if (sim.seen.grown_at[i] > start || sim.seen.mended_at[i] > start ||
            sim_is_told(i, start)) {
            continue;
        }
        for (int n = 0; n < sim.s->num_children; n++) {
            Child *c = &sim.child[n];
            /* One that was excluded since can't be asked to flush any more. */
            uint8_t *kept = c->maybe_excluded ? c->image : c->durable;

            count += sim_is_liar(c, i) ||
                     (i < c->length && sim_permitted(i, kept[i], start,
                                                     sim.now, false));
        }
        if (count < sim.s->threshold) {
            sim_violation(CHECK_DURABLE, "cell %d is flushed and durable on %d "
                          "children", i, count);
        }
    }
}

/* The flush, or FUA write, @r has ended, and may have been the last one. */
static void check_flush(Req *r)
{
    if (r->type == REQ_FLUSH && r->ret >= 0) {
        check_durable(UINT64_MAX, r->start);
    }
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (w->flags & BDRV_REQ_FUA && w->flushed && !w->seen_durable) {
            check_durable(sim_touched(w), w->end);
            w->seen_durable = true;
        }
    }
}

/* --- reads of the guest --- */

/*
 * Promise 2: which children have said what the guest was told?  Where a digest
 * decides, one is enough, whatever it lacks (promise 12); that what it says is
 * not too old, sim_permitted() looks at.
 */
static void check_voted(Req *r, int cell, uint8_t value)
{
    bool checked = sim_is_checked(sim.s);
    int said = 0;
    int silent = 0;
    int unit = sim_cell_unit(cell);

    for (int i = sim.seen.num_answers - 1; i >= 0; i--) {
        Answer *a = &sim.seen.answers[i];
        int since = sim.child[a->child].stale_since[unit];

        if (a->time < r->start) {
            break;
        }
        if (since && since < a->time && !checked) {
            continue;           /* it has become stale during the read */
        }
        if (a->ret == 0 && a->mask & BIT_ULL(cell) && a->val[cell] == value) {
            said |= 1 << a->child;
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        int since = sim.child[n].stale_since[unit];

        if (since && since < r->start && !checked) {
            silent |= 1 << n;
        }
    }
    if (sim.seen.num_answers < MAX_ANSWERS &&
        ctpop32(said & ~silent) < (checked ? 1 : sim.s->threshold)) {
        sim_violation(CHECK_VOTED, "R%d returns %s in cell %d, which children "
                      "of mask %x say, of which mask %x is stale", r->id,
                      sim_value_text(value), cell, said, said & silent);
    }
}

/*
 * Promise 2: has another answer as many votes for a unit as the one of which
 * @value in @cell is a part?  @r was alone, so the last answer of a child is
 * its vote.
 */
static void check_tie(Req *r, int cell, uint8_t value)
{
    uint64_t mask = sim_unit_mask(sim_cell_unit(cell)) & r->mask;
    const Answer *last[MAX_CHILDREN] = { NULL };
    int said = 0;               /* mask: have said it */
    int against = 0;            /* mask: never */

    for (int i = 0; i < sim.seen.num_answers; i++) {
        Answer *a = &sim.seen.answers[i];

        if (a->time >= r->start && a->mask & BIT_ULL(cell)) {
            if (a->ret < 0 || (a->mask & mask) != mask) {
                return;
            }
            last[a->child] = a;
            said |= (a->val[cell] == value) << a->child;
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        if (last[n] && !sim_may_be_stale(&sim.child[n], mask)) {
            against |= ~said & (1 << n);
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        int count = 0;

        for (int other = 0; other < sim.s->num_children; other++) {
            bool same = against & (1 << n) && against & (1 << other);

            for (uint64_t m = mask; m && same; m &= m - 1) {
                same = last[n]->val[ctz64(m)] == last[other]->val[ctz64(m)];
            }
            count += same;
        }
        if (count && count >= ctpop32(said)) {
            sim_violation(CHECK_VOTED, "R%d returns %s in cell %d, which %d "
                          "children say, but %d agree on something else",
                          r->id, sim_value_text(value), cell, ctpop32(said),
                          count);
        }
    }
}

/* Has a child something newer, and had it during all of @r? */
static void check_told(Req *r, int cell, uint8_t value)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        const Child *c = &sim.child[n];

        if (c->bs && c->changed[cell] < r->start &&
            sim_is_older(cell, value, c->image[cell], r->start)) {
            sim_violation(CHECK_TOLD, "R%d returns %s in cell %d, and child "
                          "%d has %s", r->id, sim_value_text(value), cell, n,
                          sim_value_text(c->image[cell]));
        }
    }
}

/* Look at one cell of a read.  Returns whether the value may be there. */
static bool check_read_cell(Req *r, int cell, uint8_t value)
{
    bool fifo = g_str_equal(sim.s->read_pattern, "fifo");
    int *first_end, *last_start;

    /* There is no vote that would keep these out. */
    if (fifo && (sim.s->liars[sim_cell_unit(cell)] || sim.faults.losing ||
                 r->start < sim.faults.lost_until)) {
        return true;
    }
    if (sim.seen.decided & BIT_ULL(cell)) {
        if (!fifo && !sim.faults.power_cut) {
            check_voted(r, cell, value);
        }
        return true;
    }
    if (!sim_permitted(cell, value, r->start, r->end, sim.faults.power_cut)) {
        sim_violation(sim.faults.power_cut ? CHECK_DURABLE :
                      fifo && sim_any_drops() ? CHECK_FIFO : CHECK_SILENT,
                      "R%d returns %s in cell %d", r->id,
                      sim_value_text(value), cell);
        return false;
    }
    if (sim.faults.power_cut) {
        return true;
    }
    /* Without a vote, what failed writes have left may be read or not. */
    sim_check_chosen(cell, value, !fifo || r->unresolved & BIT_ULL(cell));
    if (sim_has_losses(sim.s)) {
        check_told(r, cell, value);
    }
    if (!fifo && !(r->unresolved & BIT_ULL(cell))) {
        check_voted(r, cell, value);
        if (sim.s->threshold <= sim.s->num_children / 2 &&
            g_str_equal(sim.s->read_pattern, "quorum") && sim_was_alone(r)) {
            check_tie(r, cell, value);
        }
    }
    if (value >= NUM_VALUES) {
        return true;            /* TAG_GAP, which many may have written */
    }
    first_end = &sim.seen.first_end[cell][value];
    last_start = &sim.seen.last_start[cell][value];
    *first_end = MIN(*first_end, r->end);
    *last_start = MAX(*last_start, r->start);
    return true;
}

static void check_read(Req *r)
{
    for (int i = 0; i < r->num; i++) {
        uint8_t value = sim_decode_cell(r->buf + i * sim.s->cell_bytes);

        if (!(r->unsure & BIT_ULL(r->cell + i)) &&
            !check_read_cell(r, r->cell + i, value)) {
            return;
        }
    }
}

void sim_check_zeroes(Req *r, int num)
{
    for (int i = r->cell; i < r->cell + num; i++) {
        bool zeroes = sim.s->liars[sim_cell_unit(i)] ||
                      (sim.seen.decided | r->unsure) & BIT_ULL(i);

        for (int id = 0; id < sim.guest.next_req; id++) {
            zeroes |= sim_is_zeroes(TAG_REQ + id) &&
                      sim_permitted(i, TAG_REQ + id, r->start, ++sim.now,
                                    false);
        }
        zeroes |= sim_permitted(i, TAG_GAP, r->start, sim.now, false);
        if (!zeroes) {
            sim_violation(CHECK_STATUS, "request %d says that cell %d is "
                          "zeroes", r->id, i);
        }
    }
}

/* --- scrubs --- */

/*
 * When a chunk of a scrub that repairs has succeeded, with nothing else in
 * flight, then children that do not lie have the same there.
 */
static void check_alike(Req *r)
{
    for (uint64_t m = r->mask & ~r->unsure; m; m &= m - 1) {
        int i = ctz64(m);
        Child *model = NULL;

        for (int n = 0; n < sim.s->num_children; n++) {
            Child *c = &sim.child[n];

            if (!c->bs || c->maybe_excluded ||
                sim.s->liars[sim_cell_unit(i)] & (1 << n)) {
                continue;
            }
            model = model ?: c;
            if (c->image[i] != model->image[i]) {
                sim_violation(CHECK_SCRUB, "after scrub %d cell %d has %s on "
                              "child %d, and %s on child %d", r->id, i,
                              sim_value_text(model->image[i]), model->index,
                              sim_value_text(c->image[i]), n);
            }
            if (!(sim.seen.decided & BIT_ULL(i)) &&
                !sim_permitted(i, c->image[i], r->start, sim.now, false)) {
                sim_violation(CHECK_SCRUB, "after scrub %d cell %d has %s on "
                              "child %d", r->id, i,
                              sim_value_text(c->image[i]), n);
            }
        }
    }
}

/* Whether a child is to be given again what it has: a flush of it failed. */
static bool any_rewritten(void)
{
    BDRVQuorumState *s = blk_bs(sim.node.blk)->opaque;

    for (int n = 0; n < sim.s->num_children; n++) {
        if (quorum_sync_wants_rewrite(s->sync, n)) {
            return true;
        }
    }
    return false;
}

void sim_check_scrub(Req *r, int64_t wrong, int64_t unrepairable)
{
    /* A child that was restarted has missed what was in flight on it. */
    if (sim.faults.count == 0 && (wrong || unrepairable) && !sim_any_lost()) {
        sim_violation(CHECK_ALARM, "scrub %d finds something wrong without a "
                      "fault", r->id);
    }
    /* What is to be written again counts as nothing, also if that fails. */
    if (r->type == REQ_SCRUB && (r->ret < 0) != (unrepairable > 0) &&
        !(r->ret < 0 && (sim_any_lost() || any_rewritten()))) {
        sim_violation(CHECK_SCRUB, "scrub %d returns %d and leaves %" PRId64
                      " bytes", r->id, r->ret, unrepairable);
    }
    r->end = ++sim.now;
    if (r->type == REQ_SCRUB && r->ret == 0 && sim_was_alone(r) &&
        sim.faults.last_loss < r->start) {
        check_alike(r);
    }
    r->end = NEVER;
}

/* --- requests that have come back --- */

/*
 * The flush @r has failed: why again, if nothing has gone wrong since?  Only at
 * the end: as long as the guest writes, a flush may have left something out
 * that was written beside it, or in the same granule, and the next one tells of
 * that.
 */
static void check_once(Req *r)
{
    int start = 0;

    for (int i = sim.s->num_reqs; i < sim.guest.next_req; i++) {
        const Req *other = &sim.s->reqs[i];

        if (other->type == REQ_FLUSH && other->end < r->start) {
            start = MAX(start, other->start);
        }
    }
    if (sim.faults.last < start) {
        sim_violation(CHECK_ONCE, "flush %d fails, and nothing has gone wrong "
                      "since %d", r->id, sim.faults.last);
    }
}

static bool may_fail(Req *r)
{
    int all = (1 << sim.s->num_children) - 1;

    if (r->type == REQ_SCRUB && sim.faults.count) {
        return true;
    }
    return r->type == REQ_ZERO && r->flags & BDRV_REQ_NO_FALLBACK &&
           r->ret == -ENOTSUP &&
           (sim.s->zeroes & sim.s->native_zeroes & all) != all;
}

static void trace_end(Req *r)
{
    g_autofree char *values = NULL;
    uint8_t val[MAX_CELLS];

    for (int i = 0; r->type == REQ_READ && i < r->num; i++) {
        val[r->cell + i] = sim_decode_cell(r->buf + i * sim.s->cell_bytes);
    }
    values = sim_values_text(val, r->type == REQ_READ && r->ret == 0 ?
                                  r->mask : 0);
    sim_trace("%s %d: %s%s", sim_req_name[r->type], r->id,
              r->ret < 0 ? strerror(-r->ret) : "ok", values);
}

void sim_guest_ended(Req *r)
{
    if (sim.verdict.trace) {
        trace_end(r);
    }
    if (r->type == REQ_READ && r->ret >= 0) {
        check_read(r);
    }
    if (r->type == REQ_RESIZE) {
        sim_check_resize(r);
    } else if (sim_is_write(r) && r->ret >= 0) {
        sim_note_growth(r);
        check_write(r);
    }
    if (r->type == REQ_FLUSH || r->flags & BDRV_REQ_FUA) {
        sim_note_flush(r);
        check_flush(r);
    }
    if (r->ret < 0 && sim_has_losses(sim.s) && !sim_has_hangs(sim.s)) {
        if (r->type == REQ_FLUSH) {
            check_once(r);
        } else if (r->flags & BDRV_REQ_FUA) {
            sim.faults.last = sim.now;
        }
    }
    /* A scrub can't repair what it sees only a part of. */
    if (r->ret < 0 && !may_fail(r) && !sim.faults.power_cut &&
        !(r->type == REQ_SCRUB && sim_any_lost())) {
        if (sim.faults.count == 0) {
            sim_violation(CHECK_ALARM, "request %d fails without a fault",
                          r->id);
        }
        if (sim_well_enough()) {
            sim_violation(CHECK_ONE_BAD, "request %d fails while enough "
                          "children are well", r->id);
        }
    }
}
