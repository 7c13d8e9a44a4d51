/*
 * Simulation of quorum nodes: what must not be, when nothing is in flight
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/qapi-types-block-core.h"
#include "qapi/qapi-visit-block-core.h"
#include "quorum-sim.h"

static void read_counters(void)
{
    BlockStatsSpecific *stats;
    QuorumChildStatsList *list;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    stats = bdrv_get_specific_stats(blk_bs(sim.node.blk));
    list = stats->u.quorum.children;
    for (int i = 0; i < sim.s->num_children; i++, list = list->next) {
        uint64_t *counters = sim.child[i].counters;

        counters[0] = list->value->read_errors;
        counters[1] = list->value->write_errors;
        counters[2] = list->value->flush_errors;
        counters[3] = list->value->mismatches;
        counters[4] = list->value->repaired_bytes;
        counters[5] = list->value->timeouts;
        /* What it may have lost, it is not believed in either. */
        sim.child[i].stale_bytes = list->value->stale_bytes +
                                   list->value->unsure_bytes;
    }
    qapi_free_BlockStatsSpecific(stats);
}

/*
 * The node says how much of a child is stale, not where: that is no less than
 * what is certain to be stale.
 */
void sim_check_known(void)
{
    bool any = false;

    for (int n = 0; n < sim.s->num_children; n++) {
        any |= sim_is_stale(&sim.child[n], UINT64_MAX);
    }
    if (!any) {
        return;
    }
    read_counters();
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        int64_t bytes = 0;

        for (int u = 0; u < sim_num_units(); u++) {
            bytes += c->stale_since[u] ?
                     ctpop64(sim_unit_mask(u)) * sim.s->cell_bytes : 0;
        }
        if (c->bs && c->stale_bytes < bytes) {
            sim_violation(CHECK_KNOWN, "of child %d, %" PRId64 " bytes are "
                          "stale, and %" PRId64 " should be", n,
                          c->stale_bytes, bytes);
        }
    }
}

void sim_check_counters(void)
{
    static const char *const names[] = {
        "read errors", "write errors", "flush errors", "mismatches",
        "repaired bytes", "timeouts",
    };

    read_counters();
    for (int n = 0; n < sim.s->num_children; n++) {
        for (int i = 0; i < ARRAY_SIZE(names); i++) {
            uint64_t count = sim.child[n].counters[i];

            if (i == 4 && sim.restart.crashed) {
                continue;       /* what was in flight was to be settled */
            }
            if (count && sim.faults.count == 0 &&
                !(sim.child[n].ever_lost && i == 4)) {
                sim_violation(CHECK_ALARM, "child %d has %" PRIu64 " %s", n,
                              count, names[i]);
            }
            if (count && !sim.s->plan[n].bad && !sim.child[n].is_new &&
                sim_well_enough()) {
                sim_violation(CHECK_ONE_BAD, "child %d is well and has %"
                              PRIu64 " %s", n, count, names[i]);
            }
        }
    }
}

/* Promise 4 */
void sim_check_order(void)
{
    uint64_t all = sim_cells_mask(0, sim.guest.length);
    Child *model = NULL;

    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        if (c->failed || c->bad_cells) {
            continue;
        }
        if (!model) {
            model = c;
        } else if (memcmp(model->image, c->image, sim.guest.length)) {
            g_autofree char *a = sim_values_text(model->image, all);
            g_autofree char *b = sim_values_text(c->image, all);

            sim_violation(CHECK_ORDER, "child %d holds%s, child %d holds%s",
                          model->index, a, c->index, b);
        }
    }
}

/*
 * Gibbons and Korach: the zone of a value goes from the first end to the last
 * start of the requests that wrote or read it.  It is a forward zone if the end
 * comes first: then the value was there from the one to the other.  If the
 * start comes first, it is a backward zone: the value was there at some moment
 * in between.  A register with unique values is linearizable if no two forward
 * zones overlap, and no backward zone lies within a forward one.
 *
 * One inequality says both of a forward zone a and another one b.  If b is
 * forward, a and b overlap if each of them begins, at its end[], before the
 * other one is over, at its start[].  If b is backward, from start[b] to
 * end[b], it lies within a if it begins after end[a] and is over before
 * start[a].  Both times, end[a] < start[b] and end[b] < start[a].
 */
/* What is given up and done again may be seen around what overlaps it. */
static bool was_given_up(int value)
{
    return value >= TAG_REQ && sim.s->reqs[value - TAG_REQ].given_up;
}

static void check_linear_cell(int cell)
{
    int *end = sim.seen.first_end[cell], *start = sim.seen.last_start[cell];

    for (int a = TAG_INIT; a < TAG_REQ + sim.guest.next_req; a++) {
        if (end[a] >= start[a]) {
            continue;           /* backward, or never seen */
        }
        for (int b = TAG_INIT; b < TAG_REQ + sim.guest.next_req; b++) {
            if (a == b || end[b] == NEVER || was_given_up(a) ||
                was_given_up(b)) {
                continue;
            }
            if (end[a] < start[b] && end[b] < start[a]) {
                sim_violation(CHECK_LINEAR, "cell %d: %s was seen at %d and "
                              "%d, %s at %d and %d", cell, sim_value_text(a),
                              end[a], start[a], sim_value_text(b), end[b],
                              start[b]);
                return;
            }
        }
    }
}

void sim_check_linear(void)
{
    /* What a write in flight did is seen, then lost, and done again. */
    if (sim_any_liars() || sim_any_drops() || sim.faults.last_loss ||
        sim.s->threshold <= sim.s->num_children / 2 ||
        g_str_equal(sim.s->read_pattern, "fifo")) {
        return;
    }
    for (int cell = 0; cell < MAX_CELLS; cell++) {
        if (sim.seen.decided & BIT_ULL(cell)) {
            continue;
        }
        if (!sim.restart.since ||
            sim.seen.first_end[cell][TAG_INIT] != NEVER) {
            sim.seen.first_end[cell][TAG_INIT] = 0;
        }
        for (int i = 0; i < sim.guest.next_req; i++) {
            Req *r = &sim.s->reqs[i];
            int *end = &sim.seen.first_end[cell][TAG_REQ + i];
            int *start = &sim.seen.last_start[cell][TAG_REQ + i];

            if (sim_is_from_before(TAG_REQ + i)) {
                /* It was there, or not. */
                *end = *end != NEVER ? 0 : NEVER;
                continue;
            }
            /* A write that failed counts if it was read. */
            if (sim_is_write(r) && sim_touched(r) & BIT_ULL(cell) &&
                (r->ret >= 0 || *end != NEVER)) {
                /* One that failed may still come. */
                *end = MIN(*end, r->ret < 0 && sim_has_hangs(sim.s) ?
                                 NEVER : r->end);
                *start = MAX(*start, r->start);
            }
        }
        check_linear_cell(cell);
    }
}
