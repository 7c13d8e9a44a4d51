/*
 * Fuzzing: a whole quorum node over faulty children, see test-quorum-sim.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The input is the kind of schedule, and then its script: see
 * sim_make_schedule().
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"
#include "fuzz.h"

static Schedule *schedule;
static int num_kinds;

#ifndef CONFIG_FUZZ
/* What the corpus has reached of the driver */
static void print_branches(void)
{
    for (int i = 0; i < QUORUM_BRANCH__MAX; i++) {
        g_autofree char *text = sim_branch_text(i);

        printf("# %s\n", text);
    }
}
#endif

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    sim_init();
    schedule = g_new0(Schedule, 1);
    while (sim_kinds[num_kinds].name) {
        num_kinds++;
    }
#ifndef CONFIG_FUZZ
    atexit(print_branches);
#endif
    return 0;
}

static void run_script(const uint8_t *data, size_t size, bool with_trace)
{
    sim.script.next = data + 1;
    sim.script.left = size - 1;
    sim_make_schedule(schedule, &sim_kinds[data[0] % num_kinds], 0);
    sim_run(schedule, false, with_trace);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) {
        return 0;
    }
    run_script(data, size, false);
    if (sim.verdict.violated) {
        const CheckText *check = &sim_checks[sim.verdict.check];
        g_autofree char *text = NULL;

        run_script(data, size, true);
        text = sim_schedule_text(schedule);
        fprintf(stderr, "this violates %s (%s): %s\n%s", check->name,
                check->meaning, sim.verdict.text, text);
        abort();
    }
    return 0;
}
