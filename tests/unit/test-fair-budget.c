/*
 * Unit tests of the fair budget
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/fair-budget.h"
#include "qemu/main-loop.h"
#include "qemu/processor.h"
#include "thread-stress.h"

/* --- one thread: which requests wait --- */

/*
 * A coroutine that is woken in the same thread runs when the coroutine that
 * woke it yields, so these tests need no main loop.
 */

typedef struct Taker {
    FairBudget *budget;
    int n;
    Coroutine *co;
    bool has;               /* has taken */
    bool done;              /* has given back */
} Taker;

static void coroutine_fn taker_entry(void *opaque)
{
    Taker *t = opaque;

    fair_budget_co_take(t->budget, t->n);
    t->has = true;
    qemu_coroutine_yield();
    t->done = true;
    fair_budget_give_back(t->budget, t->n);
}

static void taker_start(Taker *t, FairBudget *budget, int n)
{
    *t = (Taker) {
        .budget = budget, .n = n,
        .co = qemu_coroutine_create(taker_entry, t),
    };
    qemu_coroutine_enter(t->co);
}

static void taker_end(Taker *t)
{
    g_assert_true(t->has && !t->done);
    qemu_coroutine_enter(t->co);
}

/* Requests are served in order, and no small one passes a large one. */
static void test_fifo(void)
{
    enum { N = 26 };
    FairBudget budget;
    Taker t[N], big, small[N];

    fair_budget_init(&budget, 8);
    for (int i = 0; i < N; i++) {
        taker_start(&t[i], &budget, 5);
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            g_assert_cmpint(t[k].has, ==, k <= i);
        }
        taker_end(&t[i]);
    }

    taker_start(&t[0], &budget, 1);
    taker_start(&t[1], &budget, 1);
    taker_start(&big, &budget, 8);
    for (int i = 0; i < N; i++) {
        taker_start(&small[i], &budget, 1);
        g_assert_false(small[i].has);
    }
    taker_end(&t[0]);
    g_assert_false(big.has || small[0].has);
    taker_end(&t[1]);
    g_assert_true(big.has);
    g_assert_false(small[0].has);

    /* As many as fit are served at once, and no more. */
    taker_end(&big);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            g_assert_cmpint(small[k].has, ==, k < i + 8);
        }
        taker_end(&small[i]);
    }
    fair_budget_destroy(&budget);
}

/*
 * Random requests are compared with the rule itself: one is served if and only
 * if it fits, and all earlier ones have been served.
 */
static void test_random(void)
{
    enum { TOTAL = 24, N = 48, STEPS = 20000 };
    FairBudget budget;
    Taker t[N];                     /* in order of asking */
    bool served[N];                 /* by the rule */
    int asked = 0, step = 0, used = 0;

    fair_budget_init(&budget, TOTAL);
    while (step < STEPS || asked) {
        int takers[N], k = 0;

        if (step++ < STEPS && asked < N && g_test_rand_int_range(0, 3)) {
            served[asked] = false;
            taker_start(&t[asked++], &budget,
                        g_test_rand_int_range(1, TOTAL + 1));
        }
        for (int i = 0; i < asked; i++) {
            if (!served[i]) {
                if (used + t[i].n > TOTAL) {
                    break;
                }
                used += t[i].n;
                served[i] = true;
            }
        }
        for (int i = 0; i < asked; i++) {
            g_assert_cmpint(t[i].has, ==, served[i]);
            if (t[i].has && !t[i].done) {
                takers[k++] = i;
            }
        }
        if (k && (step > STEPS || asked == N || g_test_rand_bit())) {
            int i = takers[g_test_rand_int_range(0, k)];

            used -= t[i].n;
            taker_end(&t[i]);
        }
        while (asked && t[asked - 1].done) {
            asked--;
        }
    }
    fair_budget_destroy(&budget);
}

/* --- several threads: nothing is taken twice, and no wake-up is lost --- */

enum { STRESS_TOTAL = 16 };

static FairBudget stress_budget;
static int stress_used;

static void coroutine_fn stress_entry(int id, GRand *rand)
{
    for (int i = 0; i < 300; i++) {
        /* Most fit together; now and then, one needs all. */
        int n = g_rand_int_range(rand, 0, 20) ? g_rand_int_range(rand, 1, 4)
                                              : STRESS_TOTAL;

        fair_budget_co_take(&stress_budget, n);
        g_assert_cmpint(qatomic_add_fetch(&stress_used, n), <=, STRESS_TOTAL);
        thread_stress_pause(rand);
        g_assert_cmpint(qatomic_sub_fetch(&stress_used, n), >=, 0);
        fair_budget_give_back(&stress_budget, n);
    }
}

static void test_stress(void)
{
    fair_budget_init(&stress_budget, STRESS_TOTAL);
    thread_stress(4, 12, stress_entry);
    g_assert_cmpint(stress_used, ==, 0);
    fair_budget_destroy(&stress_budget);
}

/*
 * Two coroutines in two threads, with room for one of them.  A wake-up that is
 * lost shows here, because there is no third coroutine that would make up for
 * it when it gives back.
 */
static void coroutine_fn handover_entry(int id, GRand *rand)
{
    for (int i = 0; i < 40000; i++) {
        /* As long as a wake-up takes: then one often asks just in time. */
        for (int k = g_rand_int_range(rand, 0, 1000); k > 0; k--) {
            cpu_relax();
        }
        fair_budget_co_take(&stress_budget, 1);
        g_assert_cmpint(qatomic_fetch_inc(&stress_used), ==, 0);
        qatomic_dec(&stress_used);
        fair_budget_give_back(&stress_budget, 1);
    }
}

static void test_handover(void)
{
    fair_budget_init(&stress_budget, 1);
    thread_stress(2, 1, handover_entry);
    fair_budget_destroy(&stress_budget);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fair-budget/fifo", test_fifo);
    g_test_add_func("/fair-budget/random", test_random);
    g_test_add_func("/fair-budget/stress", test_stress);
    g_test_add_func("/fair-budget/handover", test_handover);
    return g_test_run();
}
