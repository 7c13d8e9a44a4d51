/*
 * Simulation of quorum nodes: schedules
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

/* --- kinds of schedules --- */

const Kind sim_kinds[] = {
    {
        .name = "no-faults",
        .count = 2000,
        .rewrite = -1,
        .flush_weight = 5,
    }, {
        .name = "errors",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .rewrite = -1,
    }, {
        .name = "one-bad",
        .count = 3000,
        .max_bad = 1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 10,
    }, {
        .name = "lies",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .lies = true,
        .rot = true,
        .rewrite = -1,
    }, {
        .name = "flush",
        .count = 5000,
        .max_bad = -1,
        .errors = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 40,
    }, {
        .name = "fifo",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .read_pattern = "fifo",
        .rewrite = -1,
    }, {
        .name = "repair",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .lies = true,
        .rot = true,
        .read_pattern = "quorum",
        .rewrite = 1,
    }, {
        .name = "ties",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .ties = true,
        .read_pattern = "quorum",
        .rewrite = -1,
    }, {
        .name = "sizes",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .drops = true,
        .any_size = true,
        .rewrite = -1,
        .flush_weight = 10,
    }, {
        .name = "scrub-no-faults",
        .count = 1000,
        .rewrite = -1,
        .scrub_weight = 40,
    }, {
        .name = "scrub",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .any_size = true,
        .rewrite = -1,
        .scrub_weight = 60,
    }, {
        .name = "scrub-flush",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 30,
        .scrub_weight = 60,
    }, {
        .name = "changes",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .rewrite = -1,
        .flush_weight = 5,
        .scrub_weight = 40,
        .change_weight = 30,
    }, {
        .name = "changes-flush",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 30,
        .scrub_weight = 40,
        .change_weight = 30,
    },
    { .name = NULL }
};

/* --- schedules from a seed, or from a script --- */

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

static void make_request(Schedule *s, uint64_t *rng)
{
    const Kind *kind = s->kind;
    Req *r = &s->reqs[s->num_reqs];
    int unit = MAX(1, UNIT_BYTES / s->cell_bytes);
    int units = DIV_ROUND_UP(s->cells, unit);
    int flushes = 100 + kind->flush_weight;
    int scrubs = flushes + kind->scrub_weight;
    int dice = rng_below(rng, scrubs + kind->change_weight);

    memset(r, 0, sizeof(*r));
    r->key = s->num_reqs++;
    r->type = dice < 40 ? REQ_READ : dice < 80 ? REQ_WRITE :
              dice < 90 ? REQ_ZERO : dice < 95 ? REQ_DISCARD :
              dice < 97 ? REQ_STATUS : dice < flushes ? REQ_FLUSH :
              dice >= scrubs ? REQ_CHANGE :
              rng_hit(rng, 200) ? REQ_CHECK : REQ_SCRUB;
    r->alone = rng_hit(rng, 200);
    if (r->type == REQ_FLUSH) {
        return;
    }
    if (r->type == REQ_CHANGE) {
        r->alone = true;
        r->child = rng_below(rng, s->num_children);
        r->leaves = rng_hit(rng, 300);
        return;
    }
    switch (rng_below(rng, 4)) {
    case 0:                 /* anything */
        r->cell = rng_below(rng, s->cells);
        r->num = 1 + rng_below(rng, s->cells - r->cell);
        break;
    case 1:                 /* whole units */
        r->cell = rng_below(rng, units) * unit;
        r->num = unit * (1 + rng_below(rng, 2));
        break;
    case 2:                 /* the hot unit */
        r->cell = s->hot_cell;
        r->num = unit;
        break;
    default:                /* some cells of the hot unit */
        r->cell = MIN(s->hot_cell + rng_below(rng, unit), s->cells - 1);
        r->num = 1 + rng_below(rng, 4);
        break;
    }
    if (r->type == REQ_CHECK || r->type == REQ_SCRUB) {
        r->num = ROUND_UP(r->num + r->cell % unit, unit);
        r->cell -= r->cell % unit;
        r->stale = r->type == REQ_SCRUB && rng_hit(rng, 400);
    }
    r->num = MIN(r->num, s->cells - r->cell);
    if (s->cell_bytes < s->align &&
        (r->type == REQ_ZERO || r->type == REQ_DISCARD)) {
        /* The core splits what is not aligned: who is who then? */
        r->num = ROUND_UP(r->cell % 2 + r->num, 2);
        r->cell -= r->cell % 2;
    }
    r->split = rng_below(rng, 3) ? 0 : rng_below(rng, r->num);
    if (r->type == REQ_WRITE || r->type == REQ_ZERO) {
        r->flags |= rng_hit(rng, 150) ? BDRV_REQ_FUA : 0;
    }
    if (r->type == REQ_ZERO) {
        r->flags |= rng_hit(rng, 300) ? BDRV_REQ_MAY_UNMAP : 0;
        r->flags |= rng_hit(rng, 200) ? BDRV_REQ_NO_FALLBACK : 0;
    }
}

static void make_requests(Schedule *s, uint64_t *rng)
{
    int unit = MAX(1, UNIT_BYTES / s->cell_bytes);
    int num;

    s->hot_cell = rng_below(rng, DIV_ROUND_UP(s->cells, unit)) * unit;
    if (sim.script.next) {
        return;                 /* they come one by one */
    }
    num = 3 + rng_below(rng, rng_hit(rng, 300) ? 28 : 12);
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

static void make_faults(Schedule *s, const Kind *kind, uint64_t *rng)
{
    static const int often[] = { 0, 30, 100, 300, 700 };
    int n = s->num_children;
    int max_bad = kind->max_bad >= 0 ? MIN(kind->max_bad, n) : n;
    int num_bad = max_bad ? 1 + rng_below(rng, max_bad) : 0;
    int units = DIV_ROUND_UP(s->cells, MAX(1, UNIT_BYTES / s->cell_bytes));
    int max_liars = MIN(s->threshold - 1, num_bad);
    /* One that has lost writes and a liar may outvote the third one. */
    bool drops = kind->drops && s->threshold > n / 2;
    bool lies = kind->lies && (!drops || max_bad == 1 || rng_hit(rng, 500));
    bool rot = kind->rot && lies;

    drops &= !lies || max_bad == 1;
    if (lies || rot) {
        /* Liars must not win: fewer than threshold at each place. */
        num_bad = MAX(num_bad, MIN(1, max_liars));
    }
    for (int i = 0; i < num_bad; i++) {
        int who = rng_below(rng, n);
        Plan *plan;

        while (s->plan[who].bad) {
            who = sim.script.next ? (who + 1) % n : rng_below(rng, n);
        }
        plan = &s->plan[who];
        plan->bad = true;
        if (kind->errors) {
            plan->read_error = often[rng_below(rng, 5)];
            plan->write_error = often[rng_below(rng, 5)];
            plan->flush_error = often[rng_below(rng, 5)];
            if (kind->ties) {
                plan->read_error = 0;
                plan->write_error = 700;
                continue;
            }
            if (rng_hit(rng, 300)) {
                plan->bad_units = rng_mask(rng) & rng_mask(rng) & 0xffff;
            }
            if (kind->dead && rng_hit(rng, 300)) {
                plan->dead_after = 1 + rng_below(rng, 30);
            }
        }
        if (drops) {
            plan->drops = rng_hit(rng, 800);
        }
        if (lies) {
            plan->lie = often[rng_below(rng, 5)];
            plan->lose = often[rng_below(rng, 5)];
            plan->skip_flush = often[rng_below(rng, 5)];
        }
        if (rot) {
            plan->rot = often[rng_below(rng, 4)];
        }
        if (s->cell_bytes < s->align) {
            /*
             * The core pads a write with what it reads, and if that fails, with
             * whatever is in the buffer.
             */
            plan->read_error = plan->bad_units = plan->dead_after = 0;
            plan->lie = plan->rot = 0;
        }
    }
    for (int u = 0; u < units && (lies || rot); u++) {
        /* Everywhere the same ones, or not. */
        if (u > 0 && s->seed & 1) {
            s->liars[u] = s->liars[0];
            continue;
        }
        for (int i = rng_below(rng, max_liars + 1); i > 0; i--) {
            int liar = rng_below(rng, n);

            if (s->plan[liar].bad) {
                s->liars[u] |= 1 << liar;
            }
        }
    }
}

void sim_make_schedule(Schedule *s, const Kind *kind, uint64_t seed)
{
    uint64_t rng = seed;
    int n;

    memset(s, 0, offsetof(Schedule, choices));
    s->kind = kind;
    s->seed = sim.script.next ? sim_script_next() : seed;
    n = rng_hit(&rng, 600) ? 3 : 1 + rng_below(&rng, MAX_CHILDREN);
    s->num_children = n;
    s->threshold = rng_hit(&rng, 750) ? n / 2 + 1 : 1 + rng_below(&rng, n);
    if (kind->ties) {
        n = s->num_children = 2 + 2 * rng_below(&rng, 2);
        s->threshold = n / 2;
    }
    s->read_pattern = kind->read_pattern;
    if (!s->read_pattern) {
        int dice = rng_below(&rng, 10);

        s->read_pattern = dice < 5 ? "quorum" : dice < 9 ? "threshold" : "fifo";
    }
    s->rewrite_corrupted = kind->rewrite >= 0 ? kind->rewrite :
                           rng_hit(&rng, 500);
    s->cells = 32;
    s->cell_bytes = 512;
    s->align = 512;
    if (kind->any_size) {
        s->cells = 8 + rng_below(&rng, MAX_CELLS - 7);
        s->cell_bytes = 256 << rng_below(&rng, 5);
        s->cells = ROUND_UP(s->cells, MAX(1, 512 / s->cell_bytes));
        s->align = rng_hit(&rng, 500) ? 1 : 512;
    }
    s->depth = kind->ties ? 1 : 1 + rng_below(&rng, 5);
    s->power_cut = rng_hit(&rng, kind->flush_weight ? 500 : 100);
    s->fua = rng_mask(&rng) & 31;
    s->zeroes = rng_hit(&rng, 500) ? 31 : rng_mask(&rng) & 31;
    s->native_zeroes = rng_hit(&rng, 500) ? 31 : rng_mask(&rng) & 31;
    make_requests(s, &rng);
    make_faults(s, kind, &rng);
    /* Those that did not flush may come back with old data. */
    if (s->threshold <= n / 2 || g_str_equal(s->read_pattern, "fifo") ||
        ctpop32(sim_bad_children(s)) >= s->threshold) {
        s->power_cut = false;
    }
}

char *sim_schedule_text(const Schedule *s)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "%d children, threshold %d, read-pattern %s, "
                           "rewrite-corrupted %s\n", s->num_children,
                           s->threshold, s->read_pattern,
                           s->rewrite_corrupted ? "on" : "off");
    g_string_append_printf(text, "%d cells of %d bytes, alignment %d, FUA %x, "
                           "zeroes advertised %x, native %x\n", s->cells,
                           s->cell_bytes, s->align, s->fua, s->zeroes,
                           s->native_zeroes);
    for (int i = 0; i < s->num_children; i++) {
        const Plan *p = &s->plan[i];

        if (p->bad) {
            g_string_append_printf(text, "child %d: errors %d %d %d, drops %d, "
                                   "dead after %d, bad units %x, lies %d, "
                                   "loses %d, rots %d, skips flush %d\n", i,
                                   p->read_error, p->write_error,
                                   p->flush_error, p->drops, p->dead_after,
                                   p->bad_units, p->lie, p->lose, p->rot,
                                   p->skip_flush);
        }
    }
    g_string_append(text, sim.verdict.trace->str);
    return g_string_free(text, false);
}
