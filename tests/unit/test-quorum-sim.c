/*
 * Simulation of quorum nodes over faulty children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A schedule is a whole quorum node over children in memory, a few guest
 * requests that overlap in place and time, and faults.  All that happens below
 * the node waits in a list of pending operations, and a seeded generator says
 * which of them goes on next, how far, and how it ends.  No time, no files, no
 * threads: the same seed gives the same run.  When nothing is in flight, a
 * child may leave, and another one come that is not in sync.
 *
 * The disk is up to 64 cells, and everything is a whole number of cells.  A
 * cell is filled with one byte, its tag, which names the request that wrote it;
 * the children keep only tags.  They keep the tag of a request that wrote
 * zeroes, too, so that each value of a cell has one author.
 *
 * What is checked are the promises of block/quorum/quorum-int.h; see
 * sim_checks[].  A violation is shrunk to a short schedule, which is printed
 * step by step.
 *
 * The driver counts its rare branches (QuorumBranch).  If all schedules were
 * run, each of them must have been taken: a random test says nothing of a
 * branch that it never took.
 *
 * Environment:
 *   QUORUM_SIM_SEED   one schedule (with -p, the test that it belongs to)
 *   QUORUM_SIM_COUNT  schedules for each test, the second half of them new ones
 *                     each time; without it, they are always the same
 *   QUORUM_SIM_SKIP   names of checks that are left out
 *   QUORUM_SIM_TRACE  print the schedule of QUORUM_SIM_SEED even if it is well
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

/* --- a schedule that violates something --- */

#define SHRINK_RUNS 6000

static int shrink_runs;

/* Does @s still violate what @check is about? */
static bool still_violates(Schedule *s, Check check)
{
    if (++shrink_runs > SHRINK_RUNS) {
        return false;
    }
    sim_run(s, false, false);
    return sim.verdict.violated && sim.verdict.check == check;
}

/* Try @changed; take it for @s if it violates the same. */
static bool shrink_to(Schedule *s, Schedule *changed, Check check)
{
    if (!still_violates(changed, check)) {
        return false;
    }
    *s = *changed;
    s->num_choices = MIN(s->num_choices, sim.dice.choice);
    return true;
}

static bool shrink_requests(Schedule *s, Schedule *try, Check check)
{
    bool shrunk = false;

    for (int i = s->num_reqs - 1; i >= 0; i--) {
        *try = *s;
        memmove(&try->reqs[i], &try->reqs[i + 1],
                (try->num_reqs - i - 1) * sizeof(Req));
        try->num_reqs--;
        shrunk |= shrink_to(s, try, check);
    }
    *try = *s;
    for (int i = 0; i < s->num_reqs; i++) {
        try->reqs[i].alone = true;
    }
    shrunk |= memcmp(try, s, sizeof(*s)) && shrink_to(s, try, check);
    for (int i = 0; i < s->num_reqs; i++) {
        for (int what = 0; what < 5 + s->num_children; what++) {
            Req *r = &try->reqs[i];
            Req old;

            *try = *s;
            old = *r;
            switch (what) {
            default:
                r->no_faults |= 1 << (what - 5);
                break;
            case 0:
                r->flags = 0;
                break;
            case 1:
                r->alone = true;
                break;
            case 2:
                r->place.num = MIN(r->place.num, 1);
                break;
            case 3:
                r->place.cell += r->place.num / 2;
                r->place.num -= r->place.num / 2;
                break;
            case 4:
                r->place.num -= r->place.num / 2;
                break;
            }
            if (old.flags != r->flags || old.alone != r->alone ||
                old.place.num != r->place.num ||
                old.no_faults != r->no_faults) {
                shrunk |= shrink_to(s, try, check);
            }
        }
    }
    return shrunk;
}

/* What is left of a schedule that is larger, or has more, than it must */
static bool shrink_setting(Schedule *s, int what)
{
    switch (what) {
    case 0:
        s->power_cut = false;
        return true;
    case 1:
        s->rewrite_corrupted = false;
        return true;
    case 2:
        s->depth = 1;
        return true;
    case 3:
        s->no_fast_path = false;
        return true;
    case 4:
        s->limits.pool_bytes = sim_limits.pool_bytes;
        s->limits.write_pool_bytes = sim_limits.write_pool_bytes;
        s->limits.repair_pool_bytes = sim_limits.repair_pool_bytes;
        return true;
    case 5:
        s->limits.stale_bits = sim_limits.stale_bits;
        return true;
    case 6:
        s->limits.unflushed_bits = sim_limits.unflushed_bits;
        s->limits.unflushed_shift = sim_limits.unflushed_shift;
        return true;
    case 7:
        s->limits.fua_done = sim_limits.fua_done;
        return true;
    case 8:
        s->limits.coroutines = sim_limits.coroutines;
        return true;
    default:
        return false;
    }
}

static bool shrink_plans(Schedule *s, Schedule *try, Check check)
{
    bool shrunk = false;

    for (int i = 0; i < s->num_children; i++) {
        for (int field = 0; field < PLAN_FIELDS; field++) {
            *try = *s;
            if (((int *)&try->plan[i])[field]) {
                ((int *)&try->plan[i])[field] = 0;
                shrunk |= shrink_to(s, try, check);
            }
        }
    }
    *try = *s;
    for (int what = 0; shrink_setting(try, what); what++, *try = *s) {
        shrunk |= memcmp(try, s, offsetof(Schedule, reqs)) &&
                  shrink_to(s, try, check);
    }
    return shrunk;
}

static bool shrink_choices(Schedule *s, Schedule *try, Check check)
{
    bool shrunk = false;

    while (s->num_choices) {
        *try = *s;
        try->num_choices /= 2;
        if (!shrink_to(s, try, check)) {
            break;
        }
        shrunk = true;
    }
    for (int size = 64; size >= 1; size /= 4) {
        for (int i = 0; i < s->num_choices; i += size) {
            int num = MIN(size, s->num_choices - i);

            *try = *s;
            memset(&try->choices[i], 0, num * sizeof(try->choices[0]));
            if (memcmp(&try->choices[i], &s->choices[i],
                       num * sizeof(try->choices[0]))) {
                shrunk |= shrink_to(s, try, check);
            }
            *try = *s;
            if (i < s->num_choices) {
                num = MIN(size, s->num_choices - i);
                memmove(&try->choices[i], &try->choices[i + num],
                        (s->num_choices - i - num) * sizeof(try->choices[0]));
                try->num_choices -= num;
                shrunk |= shrink_to(s, try, check);
            }
        }
    }
    return shrunk;
}

static void shrink(Schedule *s, Check check)
{
    Schedule *try = g_new(Schedule, 1);
    bool shrunk;

    shrink_runs = 0;
    do {
        shrunk = shrink_requests(s, try, check);
        shrunk |= shrink_plans(s, try, check);
        shrunk |= shrink_choices(s, try, check);
    } while (shrunk && shrink_runs < SHRINK_RUNS);
    g_free(try);
}

static void print_schedule(Schedule *s)
{
    g_autofree char *text = sim_schedule_text(s);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (int i = 0; lines[i]; i++) {
        g_test_message("%s", lines[i]);
    }
}

static const Kind *current_kind;
static Schedule *current;
static int num_kinds;
static int kinds_done;          /* kinds of which no schedule was left out */

/* The driver has aborted: say where. */
static void on_abort(int sig)
{
    if (current_kind) {
        fprintf(stderr, "aborted in QUORUM_SIM_SEED=0x%" PRIx64
                " -p /quorum/sim/%s\n", current->seed, current_kind->name);
        if (sim.verdict.trace) {
            fprintf(stderr, "%s\n", sim.verdict.trace->str);
        }
    }
}

/* Tell about the violation that has just been seen in @s. */
static void tell(const Kind *kind, Schedule *s, int nth)
{
    Check check = sim.verdict.check;

    g_test_message("schedule %d violates %s (%s): %s", nth,
                   sim_checks[check].name, sim_checks[check].meaning,
                   sim.verdict.text);
    g_test_message("to see it again: QUORUM_SIM_SEED=0x%" PRIx64
                   " -p /quorum/sim/%s", s->seed, kind->name);
    shrink(s, check);
    sim_run(s, false, true);
    g_test_message("shrunk to %d requests and %d choices in %d runs:",
                   s->num_reqs, s->num_choices, shrink_runs);
    print_schedule(s);
}

static void test_kind(const void *opaque)
{
    const Kind *kind = opaque;
    const char *seed_env = getenv("QUORUM_SIM_SEED");
    const char *count_env = getenv("QUORUM_SIM_COUNT");
    int count = count_env ? atoi(count_env) : kind->count;
    uint64_t seed = 20260101;
    int64_t start = g_get_monotonic_time();
    int64_t ops = 0, reqs = 0;
    int i;

    current_kind = kind;
    if (seed_env) {
        seed = g_ascii_strtoull(seed_env, NULL, 0);
        count = count_env ? count : 1;
    }
    for (i = 0; i < count; i++) {
        if (i == count / 2 && count_env && !seed_env) {
            seed = (uint64_t)g_test_rand_int() << 32 | g_test_rand_int();
            g_test_message("from here on: seed 0x%" PRIx64, seed);
        }
        sim_make_schedule(current, kind, seed);
        sim_run(current, true, getenv("QUORUM_SIM_TRACE"));
        ops += sim.pending.total;
        reqs += sim.guest.next_req;
        if (seed_env && sim.verdict.trace) {
            print_schedule(current);
        }
        if (sim.verdict.violated) {
            tell(kind, current, i);
            current_kind = NULL;
            g_test_fail();
            return;
        }
        sim_rng_next(&seed);
        seed ^= 1;
    }
    kinds_done += count >= kind->count;
    current_kind = NULL;
    start = g_get_monotonic_time() - start;
    g_test_message("%d schedules, %" PRId64 " requests, %" PRId64
                   " operations of children, %" PRId64 " schedules a minute",
                   i, reqs, ops, i * (int64_t)60000000 / MAX(start, 1));
}

static void test_branches(void)
{
    if (kinds_done < num_kinds) {
        g_test_skip("not all schedules were run");
        return;
    }
    for (int i = 0; i < QUORUM_BRANCH__MAX; i++) {
        g_autofree char *text = sim_branch_text(i);

        g_test_message("%s", text);
        if (i == QUORUM_BRANCH_HEDGED || i == QUORUM_BRANCH_LATE_METADATA) {
            continue;           /* They take a timer, and a format. */
        }
        if (!qatomic_read(&quorum_debug.reached[i])) {
            g_test_message("no schedule took this branch, so nothing is known "
                           "of it");
            g_test_fail();
        }
    }
}

int main(int argc, char **argv)
{
    const char *skip = getenv("QUORUM_SIM_SKIP");
    struct sigaction action = {
        .sa_handler = on_abort,
        .sa_flags = SA_RESETHAND,
    };
    g_auto(GStrv) names = g_strsplit(skip ?: "", ",", -1);

    sim_init();
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < CHECK__MAX; i++) {
        sim_checks[i].skipped = g_strv_contains((const char *const *)names,
                                                sim_checks[i].name);
    }
    current = g_new0(Schedule, 1);
    sigaction(SIGABRT, &action, NULL);
    for (const Kind *kind = sim_kinds; kind->name; kind++) {
        g_autofree char *path = g_strdup_printf("/quorum/sim/%s", kind->name);

        g_test_add_data_func(path, kind, test_kind);
        num_kinds++;
    }
    g_test_add_func("/quorum/sim/branches", test_branches);
    return g_test_run();
}
