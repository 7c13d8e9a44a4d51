/*
 * Simulation of quorum nodes: where decisions come from
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "quorum-sim.h"

uint64_t sim_rng_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

uint8_t sim_script_next(void)
{
    if (!sim.script.left) {
        return 0;
    }
    sim.script.left--;
    return *sim.script.next++;
}

int sim_choose_next(int bound)
{
    Schedule *s = sim.s;

    if (bound <= 1) {
        return 0;
    }
    if (sim.script.next) {
        return sim_script_next() % bound;
    }
    if (sim.dice.recording && sim.dice.choice < MAX_CHOICES) {
        s->choices[sim.dice.choice] = sim_rng_next(&sim.dice.rng) >> 32;
        s->num_choices = sim.dice.choice + 1;
    }
    if (sim.dice.choice >= s->num_choices) {
        return 0;
    }
    return s->choices[sim.dice.choice++] % bound;
}

void sim_use_dice(Req *r, int child)
{
    sim.dice.req = r;
    sim.dice.child = child;
    if (sim.script.next) {
        sim.script.fate = sim_script_next();
        sim.script.fate_dice = 0;
    }
}

static uint32_t roll(void)
{
    Req *r = sim.dice.req;
    int child = sim.dice.child;
    uint64_t state;

    if (sim.time.calm) {
        return 0;
    }
    if (sim.script.next ? !sim.script.fate : r->no_faults & (1 << child)) {
        return 0;
    }
    if (sim.script.next) {
        state = sim.script.fate + ((uint64_t)sim.script.fate_dice++ << 32);
        return sim_rng_next(&state) >> 32;
    }
    state = sim.s->seed + r->key * 0x1000003ULL + child * 0x10001ULL +
            ((uint64_t)sim.dice.rolled[r->key][child]++ << 32);
    return sim_rng_next(&state) >> 32;
}

int sim_choose(int bound)
{
    return bound <= 1 ? 0 : roll() % bound;
}

bool sim_chance(int permille)
{
    return permille > 0 && roll() % 1000 >= 1000 - permille;
}

uint64_t sim_choose_subset(uint64_t mask)
{
    uint64_t subset = 0;

    switch (sim_choose(4)) {
    case 1:
        return mask;
    case 2:
        /* up to a place */
        for (int n = sim_choose(ctpop64(mask) + 1); n > 0; n--) {
            subset |= BIT_ULL(ctz64(mask & ~subset));
        }
        return subset;
    case 3:
        subset = roll();
        return mask & (subset | subset << 32);
    default:
        return 0;
    }
}
