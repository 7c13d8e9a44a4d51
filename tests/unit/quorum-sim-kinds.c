/*
 * Simulation of quorum nodes: what tests want of their schedules
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

/* Any request comes with these weights; kinds have more of what they are for */
const int sim_weight[REQ__MAX] = {
    [REQ_READ] = 40,
    [REQ_WRITE] = 40,
    [REQ_ZERO] = 10,
    [REQ_DISCARD] = 5,
    [REQ_STATUS] = 2,
    [REQ_FLUSH] = 3,
};

const Rates sim_rates = {
    .three_children = 600,
    .majority = 750,
    .pattern_quorum = 500,
    .pattern_threshold = 400,
    .rewrite = 500,
    .blocks = 500,
    .all_zero_fast = 500,
    .all_zero = 500,
    .all_zero_growth = 500,

    .few_stragglers = 500,
    .small_budget = 300,
    .small_pool = 300,
    .coarse_maps = 300,
    .fine_unflushed = 500,
    .short_fua_list = 500,
    .no_fast_path = 200,

    .many = 300,
    .alone = 200,
    .split = 333,
    .fua = 150,
    .may_unmap = 300,
    .no_fallback = 200,
    .scrub_stale = 400,
    .scrub_prefers = 700,
    .resync = 300,
    .leaves = 300,
    .exact = 500,
    .grows = 400,

    .lies_or_drops = 500,
    .drops = 800,
    .bad_units = 300,
    .dead = 300,
    .power_cut = 100,
    .power_cut_flushed = 500,
    .hold = 250,
    .flush_catches = 500,
    .power_cut_loses = 500,
    .thaw = 50,
    .no_timeout = 100,
    .all_abandon = 800,
    .shows = 500,
    .together = 300,
    .tells_late = 500,
    .evicts = 50,
};

const Kind sim_kinds[] = {
    {
        .name = "no-faults",
        .count = 2000,
        .more = { [REQ_FLUSH] = 5 },
    }, {
        .name = "errors",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH,
    }, {
        .name = "one-bad",
        .count = 3000,
        .max_bad = 1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_LIES |
                  DAMAGE_MISDIRECTS | DAMAGE_DROPS,
        .more = { [REQ_FLUSH] = 10 },
    }, {
        .name = "lies",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_LIES | DAMAGE_MISDIRECTS,
    }, {
        .name = "misdirects",
        .count = 2000,
        .max_bad = -1,
        .damage = DAMAGE_MISDIRECTS,
    }, {
        .name = "flush",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = { [REQ_FLUSH] = 40 },
    }, {
        .name = "fua",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = { [REQ_FLUSH] = 10 },
        .fua = true,
    }, {
        .name = "fifo",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH,
        .read_pattern = "fifo",
    }, {
        .name = "repair",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_LIES | DAMAGE_MISDIRECTS,
        .read_pattern = "quorum",
        .repairs = true,
    }, {
        .name = "ties",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS,
        .ties = true,
        .read_pattern = "quorum",
    }, {
        .name = "sizes",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_LIES |
                  DAMAGE_MISDIRECTS | DAMAGE_DROPS,
        .any_size = true,
        .more = { [REQ_FLUSH] = 10 },
    }, {
        .name = "scrub-no-faults",
        .count = 1000,
        .more = { [REQ_CHECK] = 8, [REQ_SCRUB] = 32 },
    }, {
        .name = "scrub",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_LIES |
                  DAMAGE_MISDIRECTS,
        .any_size = true,
        .more = { [REQ_CHECK] = 12, [REQ_SCRUB] = 48 },
    }, {
        .name = "scrub-flush",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = {
            [REQ_FLUSH] = 30,
            [REQ_CHECK] = 12,
            [REQ_SCRUB] = 48,
        },
    }, {
        .name = "changes",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_LIES |
                  DAMAGE_MISDIRECTS,
        .more = {
            [REQ_FLUSH] = 5,
            [REQ_CHECK] = 8,
            [REQ_SCRUB] = 32,
            [REQ_CHANGE] = 30,
        },
    }, {
        .name = "changes-flush",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = {
            [REQ_FLUSH] = 30,
            [REQ_CHECK] = 8,
            [REQ_SCRUB] = 32,
            [REQ_CHANGE] = 30,
        },
    }, {
        .name = "resizes-no-faults",
        .count = 1000,
        .more = {
            [REQ_CHECK] = 5,
            [REQ_SCRUB] = 15,
            [REQ_RESIZE] = 40,
        },
        .grows = true,
    }, {
        .name = "resizes",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_LIES |
                  DAMAGE_MISDIRECTS,
        .any_size = true,
        .more = {
            [REQ_CHECK] = 5,
            [REQ_SCRUB] = 15,
            [REQ_CHANGE] = 10,
            [REQ_RESIZE] = 40,
        },
        .grows = true,
    }, {
        .name = "resizes-flush",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = {
            [REQ_FLUSH] = 30,
            [REQ_SCRUB] = 15,
            [REQ_RESIZE] = 40,
        },
        .grows = true,
    }, {
        .name = "growth",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_DROPS,
        .any_size = true,
        .more = {
            [REQ_WRITE] = 30,
            [REQ_FLUSH] = 10,
            [REQ_SCRUB] = 10,
            [REQ_CHANGE] = 5,
            [REQ_RESIZE] = 5,
        },
        .grows = true,
    }, {
        .name = "scrub-prefers",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_DEATH | DAMAGE_LIES |
                  DAMAGE_MISDIRECTS,
        .prefers = true,
        .more = { [REQ_CHECK] = 4, [REQ_SCRUB] = 60 },
    }, {
        .name = "one-hangs",
        .count = 3000,
        .max_bad = 1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS,
        .more = { [REQ_FLUSH] = 10, [REQ_DRAIN] = 4 },
    }, {
        .name = "hangs",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS,
        .more = { [REQ_FLUSH] = 10, [REQ_DRAIN] = 4 },
    }, {
        .name = "hangs-errors",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS | DAMAGE_ERRORS,
        .more = {
            [REQ_FLUSH] = 10,
            [REQ_SCRUB] = 20,
            [REQ_DRAIN] = 4,
        },
    }, {
        .name = "hangs-fua",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS,
        .more = { [REQ_FLUSH] = 10, [REQ_DRAIN] = 4 },
        .fua = true,
    }, {
        .name = "early",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_ERRORS | DAMAGE_LIES,
        .early = true,
        .more = { [REQ_READ] = 60, [REQ_DRAIN] = 4 },
    }, {
        .name = "early-hangs",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS | DAMAGE_ERRORS,
        .early = true,
        .more = { [REQ_READ] = 60, [REQ_DRAIN] = 4 },
    }, {
        .name = "hangs-repair",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS | DAMAGE_ERRORS,
        .read_pattern = "quorum",
        .repairs = true,
        .more = { [REQ_SCRUB] = 10 },
    }, {
        .name = "hangs-changes",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS,
        .more = {
            [REQ_FLUSH] = 5,
            [REQ_SCRUB] = 20,
            [REQ_CHANGE] = 20,
            [REQ_DRAIN] = 4,
        },
    }, {
        .name = "hangs-growth",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS,
        .any_size = true,
        .more = {
            [REQ_WRITE] = 30,
            [REQ_FLUSH] = 10,
            [REQ_SCRUB] = 10,
        },
        .grows = true,
    }, {
        .name = "hangs-resizes",
        .count = 3000,
        .max_bad = -1,
        .damage = DAMAGE_HANGS | DAMAGE_CUTS,
        .any_size = true,
        .more = {
            [REQ_FLUSH] = 5,
            [REQ_SCRUB] = 15,
            [REQ_RESIZE] = 40,
            [REQ_DRAIN] = 4,
        },
        .grows = true,
    },
    {
        .name = "losses",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS,
        .more = { [REQ_FLUSH] = 15 },
    }, {
        .name = "losses-nothing-lost",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS,
        .keeps = true,
        .more = {
            [REQ_FLUSH] = 15,
            [REQ_CHECK] = 5,
            [REQ_SCRUB] = 15,
        },
    }, {
        .name = "losses-flush",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = { [REQ_FLUSH] = 30 },
    }, {
        .name = "losses-fua",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = { [REQ_FLUSH] = 10 },
        .fua = true,
    }, {
        .name = "losses-hangs",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_HANGS | DAMAGE_CUTS,
        .more = { [REQ_FLUSH] = 15, [REQ_DRAIN] = 4 },
    }, {
        .name = "losses-early",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_ERRORS | DAMAGE_DROPS,
        .early = true,
        .more = { [REQ_READ] = 40, [REQ_FLUSH] = 15 },
    }, {
        .name = "losses-fifo",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_ERRORS | DAMAGE_DROPS,
        .read_pattern = "fifo",
        .more = { [REQ_FLUSH] = 15 },
    }, {
        .name = "losses-threshold",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_ERRORS | DAMAGE_DROPS,
        .read_pattern = "threshold",
        .more = { [REQ_FLUSH] = 15 },
    }, {
        .name = "losses-scrub",
        .count = 5000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_ERRORS | DAMAGE_DROPS,
        .more = {
            [REQ_FLUSH] = 20,
            [REQ_CHECK] = 10,
            [REQ_SCRUB] = 40,
        },
    }, {
        .name = "blips-fifo",
        .count = 2000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS,
        .keeps = true,
        .read_pattern = "fifo",
        .more = { [REQ_FLUSH] = 15 },
    }, {
        .name = "blips-early",
        .count = 2000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS,
        .keeps = true,
        .early = true,
        .more = { [REQ_READ] = 40, [REQ_FLUSH] = 15 },
    }, {
        .name = "blips-fua",
        .count = 2000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS,
        .keeps = true,
        .fua = true,
        .more = { [REQ_FLUSH] = 10 },
    }, {
        .name = "blips-hangs",
        .count = 2000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS | DAMAGE_HANGS,
        .keeps = true,
        .more = { [REQ_FLUSH] = 15, [REQ_DRAIN] = 4 },
    }, {
        .name = "blips-changes",
        .count = 2000,
        .max_bad = -1,
        .damage = DAMAGE_RESTARTS,
        .keeps = true,
        .more = { [REQ_FLUSH] = 15, [REQ_CHANGE] = 20 },
    }, {
        .name = "blips-lies",
        .count = 2000,
        .max_bad = 1,
        .damage = DAMAGE_RESTARTS | DAMAGE_LIES,
        .keeps = true,
        .more = { [REQ_FLUSH] = 15, [REQ_SCRUB] = 10 },
    },
    { .name = NULL }
};
