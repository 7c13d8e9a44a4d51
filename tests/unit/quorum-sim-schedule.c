/*
 * Simulation of quorum nodes: schedules
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "quorum-sim.h"

/* --- a seed, or a script --- */

static int rng_below(uint64_t *state, int bound)
{
    if (sim.script.next) {
        return sim_script_next() * bound / 256;
    }
    return (sim_rng_next(state) >> 16) % bound;
}

static bool rng_hit(uint64_t *state, int permille)
{
    return rng_below(state, 1000) < permille;
}

static uint32_t rng_mask(uint64_t *state)
{
    return sim.script.next ? sim_script_next() : sim_rng_next(state);
}

/* --- requests --- */

static int unit_cells(const Schedule *s)
{
    return MAX(1, UNIT_BYTES / s->cell_bytes);
}

static ReqType choose_type(const Schedule *s, uint64_t *rng)
{
    int sum = 0, dice;

    for (int type = 0; type < REQ__MAX; type++) {
        sum += s->weight[type];
    }
    dice = rng_below(rng, sum);
    for (int type = 0; ; type++) {
        dice -= s->weight[type];
        if (dice < 0) {
            return type;
        }
    }
}

/* Anything, whole units, the hot unit, or some of its cells */
static void choose_place(const Schedule *s, Req *r, uint64_t *rng)
{
    int unit = unit_cells(s);
    int cells = s->most_cells;
    int cell, num;

    switch (rng_below(rng, 4)) {
    case 0:
        cell = rng_below(rng, cells);
        num = 1 + rng_below(rng, cells - cell);
        break;
    case 1:
        cell = rng_below(rng, DIV_ROUND_UP(cells, unit)) * unit;
        num = unit * (1 + rng_below(rng, 2));
        break;
    case 2:
        cell = s->hot_cell;
        num = unit;
        break;
    default:
        cell = MIN(s->hot_cell + rng_below(rng, unit), cells - 1);
        num = 1 + rng_below(rng, 4);
        break;
    }
    if (r->type == REQ_CHECK || r->type == REQ_SCRUB) {
        num = ROUND_UP(num + cell % unit, unit);
        cell -= cell % unit;
    }
    num = MIN(num, cells - cell);
    if (s->cell_bytes < s->align &&
        (r->type == REQ_ZERO || r->type == REQ_DISCARD)) {
        /* The core would split what is not aligned. */
        num = ROUND_UP(cell % 2 + num, 2);
        cell -= cell % 2;
    }
    r->place.cell = cell;
    r->place.num = num;
}

/* The length of a disk in cells, @bound at most: it is a number of sectors. */
static int choose_length(const Schedule *s, int bound, uint64_t *rng)
{
    int cells = MAX(1, BDRV_SECTOR_SIZE / s->cell_bytes);

    return cells * (1 + rng_below(rng, bound / cells));
}

/* A write behind the end leaves a gap, or none, or begins before the end. */
static void choose_growth(const Schedule *s, Req *r, uint64_t *rng)
{
    r->grows = s->kind->grows && rng_hit(rng, s->rates.grows);
    if (r->grows) {
        r->ahead = MAX(rng_below(rng, 2 * unit_cells(s) + 6) - 4, 0);
        r->ahead -= rng_below(rng, 4) ? 0 : 3;
    }
}

static void make_request(Schedule *s, uint64_t *rng)
{
    const Rates *rates = &s->rates;
    Req *r = &s->reqs[s->num_reqs];

    memset(r, 0, sizeof(*r));
    r->key = s->num_reqs++;
    r->type = choose_type(s, rng);
    r->alone = rng_hit(rng, rates->alone);
    switch (r->type) {
    case REQ_FLUSH:
    case REQ_DRAIN:
        return;
    case REQ_RESTART:
        do {
            r->restart = rng_below(rng, RESTART__MAX);
        } while (!sim.script.next && !(s->kind->restarts & BIT(r->restart)));
        r->fuse = rng_below(rng, 24);
        if (r->restart <= RESTART_CLOSING) {
            r->alone = true;
        }
        return;
    case REQ_CHANGE:
        r->alone = true;
        r->child = rng_below(rng, s->num_children);
        r->leaves = rng_hit(rng, rates->leaves);
        return;
    case REQ_RESIZE:
        r->length = choose_length(s, s->most_cells, rng);
        r->exact = rng_hit(rng, rates->exact);
        return;
    default:
        choose_place(s, r, rng);
    }
    switch (r->type) {
    case REQ_ZERO:
        r->flags |= rng_hit(rng, rates->may_unmap) ? BDRV_REQ_MAY_UNMAP : 0;
        r->flags |= rng_hit(rng, rates->no_fallback) ? BDRV_REQ_NO_FALLBACK : 0;
        r->flags |= rng_hit(rng, rates->fua) ? BDRV_REQ_FUA : 0;
        choose_growth(s, r, rng);
        break;
    case REQ_WRITE:
        r->flags |= rng_hit(rng, rates->fua) ? BDRV_REQ_FUA : 0;
        choose_growth(s, r, rng);
        /* fall through */
    case REQ_READ:
        if (rng_hit(rng, rates->split)) {
            r->split = rng_below(rng, r->place.num);
        }
        break;
    case REQ_SCRUB:
        r->stale = rng_hit(rng, rates->scrub_stale);
        if (s->kind->prefers) {
            r->prefers = rng_hit(rng, rates->scrub_prefers);
            r->child = rng_below(rng, s->num_children);
        }
        r->resync = !r->prefers && rng_hit(rng, rates->resync);
        break;
    default:
        break;
    }
}

static void make_requests(Schedule *s, uint64_t *rng)
{
    int unit = unit_cells(s);
    int num;

    s->hot_cell = rng_below(rng, DIV_ROUND_UP(s->most_cells, unit)) * unit;
    if (sim.script.next) {
        return;                 /* they come one by one */
    }
    num = 3 + rng_below(rng, rng_hit(rng, s->rates.many) ? 28 : 12);
    while (s->num_reqs < MIN(num, MAX_REQS)) {
        make_request(s, rng);
    }
}

bool sim_next_request(Schedule *s)
{
    if (!sim.script.left || s->num_reqs == MAX_REQS) {
        return false;
    }
    make_request(s, NULL);
    return true;
}

/* --- faults: the code of what is said in quorum-sim-child.c --- */

#define ANY_LIES (DAMAGE_LIES | DAMAGE_MISDIRECTS)

/* How often a fault comes: one of these chances in 1/1000, the last one rot */
static int choose_rate(uint64_t *rng, bool highest)
{
    static const int often[] = { 0, 30, 100, 300, 700 };

    return often[rng_below(rng, ARRAY_SIZE(often) - !highest)];
}

/* Which damage of the kind may be in this schedule */
static int choose_damage(const Schedule *s, uint64_t *rng)
{
    int damage = s->kind->damage;

    if (s->threshold <= s->num_children / 2 && !sim_has_losses(s)) {
        damage &= ~DAMAGE_DROPS;
    }
    if (damage & DAMAGE_DROPS && damage & ANY_LIES && s->kind->max_bad != 1) {
        damage &= rng_hit(rng, s->rates.lies_or_drops) ? ~DAMAGE_DROPS
                                                       : ~ANY_LIES;
    }
    return damage;
}

/* A child that has no faults yet gets them. */
static Plan *choose_bad_child(Schedule *s, uint64_t *rng)
{
    int n = s->num_children;
    int who = rng_below(rng, n);

    while (s->plan[who].bad) {
        who = sim.script.next ? (who + 1) % n : rng_below(rng, n);
    }
    s->plan[who].bad = true;
    return &s->plan[who];
}

static void make_errors(Schedule *s, Plan *plan, int damage, uint64_t *rng)
{
    plan->read_error = choose_rate(rng, true);
    plan->write_error = choose_rate(rng, true);
    plan->flush_error = choose_rate(rng, true);
    if (sim_has_lengths(s->kind)) {
        plan->resize_error = choose_rate(rng, true);
        plan->resize_refused = choose_rate(rng, false);
        plan->no_space = choose_rate(rng, true);
        plan->stays_longer = choose_rate(rng, false);
    }
    if (s->kind->ties) {
        plan->read_error = 0;
        plan->write_error = 700;
        return;
    }
    if (rng_hit(rng, s->rates.bad_units)) {
        plan->bad_units = rng_mask(rng) & rng_mask(rng) & 0xffff;
    }
    if (damage & DAMAGE_DEATH && rng_hit(rng, s->rates.dead)) {
        plan->dead_after = 1 + rng_below(rng, 30);
    }
}

static void make_lies(Plan *plan, uint64_t *rng)
{
    plan->lie = choose_rate(rng, true);
    plan->lose = choose_rate(rng, true);
    plan->skip_flush = choose_rate(rng, true);
    plan->rot = choose_rate(rng, false);
}

/* They come often enough that the same write meets several. */
static void make_restarts(Schedule *s, Plan *plan, int damage, uint64_t *rng)
{
    plan->restart = choose_rate(rng, true) / 6;
    if (!s->kind->keeps) {
        plan->forgets = choose_rate(rng, true);
    }
    if (damage & DAMAGE_DROPS) {
        plan->shows = rng_hit(rng, s->rates.shows);
    }
}

static void make_plan(Schedule *s, Plan *plan, int damage, uint64_t *rng)
{
    if (damage & DAMAGE_ERRORS) {
        make_errors(s, plan, damage, rng);
    }
    if (damage & DAMAGE_DROPS) {
        plan->drops = rng_hit(rng, s->rates.drops);
    }
    if (damage & DAMAGE_RESTARTS) {
        make_restarts(s, plan, damage, rng);
    }
    if (damage & DAMAGE_HANGS) {
        plan->hang = choose_rate(rng, false) / 3;
        plan->hang_one = choose_rate(rng, false) / 3;
    }
    if (damage & DAMAGE_CUTS) {
        plan->cut = choose_rate(rng, false);
    }
    if (damage & DAMAGE_LIES) {
        make_lies(plan, rng);
    }
    if (damage & DAMAGE_MISDIRECTS) {
        plan->misdirect_read = choose_rate(rng, false);
        plan->misdirect_write = choose_rate(rng, false);
    }
    if (s->cell_bytes < s->align) {
        plan->read_error = plan->bad_units = plan->dead_after = 0;
        plan->lie = plan->rot = plan->misdirect_read = 0;
        plan->misdirect_write = 0;
    }
}

/* Say where children may lie: everywhere the same ones, or not. */
static void place_liars(Schedule *s, uint64_t *rng)
{
    int units = DIV_ROUND_UP(s->most_cells, unit_cells(s));
    int most = MIN(s->threshold - 1, ctpop32(sim_bad_children(s)));

    for (int u = 0; u < units; u++) {
        if (u > 0 && s->seed & 1) {
            s->liars[u] = s->liars[0];
            continue;
        }
        for (int i = rng_below(rng, most + 1); i > 0; i--) {
            s->liars[u] |= 1 << rng_below(rng, s->num_children);
        }
        s->liars[u] &= sim_bad_children(s);
    }
}

static void make_faults(Schedule *s, uint64_t *rng)
{
    int n = s->num_children;
    int max_bad = s->kind->max_bad >= 0 ? MIN(s->kind->max_bad, n) : n;
    int num_bad, damage;

    max_bad -= s->kind->keeps && max_bad == n;
    num_bad = max_bad ? 1 + rng_below(rng, max_bad) : 0;
    damage = choose_damage(s, rng);

    for (int i = 0; i < num_bad; i++) {
        make_plan(s, choose_bad_child(s, rng), damage, rng);
    }
    if (damage & ANY_LIES) {
        place_liars(s, rng);
    }
    /* Where threshold is no majority, all of them are needed. */
    for (int i = s->threshold; i < n && s->threshold > n / 2 &&
         s->kind->state_errors; i++) {
        s->bad_states |= 1 << rng_below(rng, n);
    }
    if (s->threshold <= n / 2 || g_str_equal(s->read_pattern, "fifo") ||
        num_bad >= s->threshold || sim_has_losses(s) || sim_has_state(s) ||
        s->kind->more[REQ_CHANGE]) {    /* who has left has flushed more */
        s->power_cut = false;
    }
}

/* --- the driver --- */

static void make_limits(Schedule *s, uint64_t *rng)
{
    const Rates *rates = &s->rates;

    s->limits = sim_limits;
    if (rng_hit(rng, rates->small_budget)) {
        /* For one request, or one and a half */
        s->limits.coroutines = MAX(1, s->num_children - 1 +
                                      rng_below(rng, s->num_children));
    }
    /* A granule that can't be voted on at once is not confirmed. */
    if (rng_hit(rng, rates->small_pool) && !s->kind->keeps) {
        /* What is read at once, and room for one or two such reads */
        s->limits.pool_bytes = (UINT64_C(4096) << rng_below(rng, 3)) *
                               (s->num_children + 1 +
                                rng_below(rng, s->num_children + 1));
        s->limits.write_pool_bytes = UINT64_C(16384) << rng_below(rng, 3);
        s->limits.repair_pool_bytes = (UINT64_C(4096) << rng_below(rng, 3)) *
                                      (s->num_children + 1);
    }
    if (rng_hit(rng, rates->coarse_maps)) {
        s->limits.stale_bits = 1 + rng_below(rng, 6);
    }
    if (rng_hit(rng, rates->fine_unflushed)) {
        s->limits.unflushed_shift = 9 + rng_below(rng, 6);
        s->limits.unflushed_bits = 1 + rng_below(rng, 64);
    }
    if (rng_hit(rng, rates->short_fua_list)) {
        s->limits.fua_done = rng_below(rng, 3);
    }
    if (s->kind->early && rng_hit(rng, rates->few_stragglers)) {
        s->limits.stragglers = rng_below(rng, 3);
        s->limits.stragglers_all = rng_below(rng, 6);
    }
    s->no_fast_path = rng_hit(rng, rates->no_fast_path);
    if (sim_has_state(s)) {
        s->limits.state_bytes = 256 * KiB;
        s->limits.state_intent_shift = rng_hit(rng, rates->fine_regions) ?
                                       12 + rng_below(rng, 3) : 20;
        s->dirty_limit = (int64_t)rng_below(rng, 4) << 12;
    }
}

/* --- schedules --- */

static void make_node(Schedule *s, uint64_t *rng)
{
    const Rates *rates = &s->rates;
    int n = rng_hit(rng, rates->three_children) ?
            3 : 1 + rng_below(rng, MAX_CHILDREN);

    s->num_children = n;
    s->threshold = rng_hit(rng, rates->majority) ?
                   n / 2 + 1 : 1 + rng_below(rng, n);
    if (s->kind->minority) {
        s->num_children = n = MAX(n, 2);
        s->threshold = 1 + rng_below(rng, n / 2);
    }
    if (s->kind->ties) {
        s->num_children = 2 + 2 * rng_below(rng, 2);
        s->threshold = s->num_children / 2;
    }
    s->read_pattern = s->kind->read_pattern;
    if (!s->read_pattern) {
        int dice = rng_below(rng, 1000);

        s->read_pattern =
            dice < rates->pattern_quorum ? "quorum" :
            dice < rates->pattern_quorum + rates->pattern_threshold ?
            "threshold" : "fifo";
    }
    s->rewrite_corrupted = s->kind->repairs || rng_hit(rng, rates->rewrite);
    s->cells = 32;
    s->cell_bytes = 512;
    s->align = 512;
    if (s->kind->any_size) {
        s->cell_bytes = 256 << rng_below(rng, 5);
        s->cells = choose_length(s, MAX_CELLS, rng);
        s->align = rng_hit(rng, rates->blocks) ? 512 : 1;
    }
    s->most_cells = sim_has_lengths(s->kind) ? MAX_CELLS : s->cells;
    s->fua = rng_mask(rng) & 31;
    s->zeroes = rng_hit(rng, rates->all_zero_fast) ? 31 : rng_mask(rng) & 31;
    s->native_zeroes = rng_hit(rng, rates->all_zero) ? 31 : rng_mask(rng) & 31;
    s->zero_growth = !sim_has_lengths(s->kind) ||
                     rng_hit(rng, rates->all_zero_growth) ?
                     31 : rng_mask(rng) & 31;
}

bool sim_has_hangs(const Schedule *s)
{
    return s->kind->damage & (DAMAGE_HANGS | DAMAGE_CUTS);
}

bool sim_has_losses(const Schedule *s)
{
    return s->kind->damage & DAMAGE_RESTARTS;
}

bool sim_is_checked(const Schedule *s)
{
    return g_str_equal(s->read_pattern, "checked");
}

/* What children are like that may not answer */
static void make_late(Schedule *s, uint64_t *rng)
{
    const Rates *rates = &s->rates;

    s->child_timeout_ms = -1;
    if (!sim_has_hangs(s)) {
        return;
    }
    s->child_timeout_ms = rng_hit(rng, rates->no_timeout) ? 0 : 800;
    s->can_abandon = rng_hit(rng, rates->all_abandon) ? 31 : rng_mask(rng) & 31;
    s->knows_late = rng_mask(rng) & 31;
}

bool sim_has_state(const Schedule *s)
{
    return s->kind->restarts;
}

bool sim_has_lengths(const Kind *kind)
{
    return kind->grows || kind->more[REQ_RESIZE];
}

void sim_make_schedule(Schedule *s, const Kind *kind, uint64_t seed)
{
    uint64_t rng = seed;

    memset(s, 0, offsetof(Schedule, choices));
    s->kind = kind;
    s->seed = sim.script.next ? sim_script_next() : seed;
    s->rates = sim_rates;
    if (kind->more[REQ_FLUSH]) {
        s->rates.power_cut = s->rates.power_cut_flushed;
    }
    if (kind->fua) {
        /* What one that fails has lost of the others is to be seen. */
        s->rates.fua = 800;
        s->rates.hold = 500;
        s->rates.alone = 50;
        s->rates.fine_unflushed = 1000;
    }
    for (int i = 0; i < REQ__MAX; i++) {
        s->weight[i] = sim_weight[i] + kind->more[i];
    }
    make_node(s, &rng);
    make_limits(s, &rng);
    make_late(s, &rng);
    s->depth = kind->ties ? 1 : 1 + rng_below(&rng, 5);
    s->power_cut = rng_hit(&rng, s->rates.power_cut);
    make_requests(s, &rng);
    make_faults(s, &rng);
}
