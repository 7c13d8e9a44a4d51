/*
 * Unit tests of the byte-range lock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/range-lock.h"
#include "qemu/main-loop.h"
#include "thread-stress.h"

/* --- one thread: who waits for whom --- */

typedef struct Holder {
    RangeLock *lock;
    int64_t offset;
    int64_t bytes;
    GString *trace;     /* of all holders */
    char letter;        /* upper case: has locked; lower case: unlocks */
    Coroutine *co;
    bool holds;         /* has got its range */
    bool done;          /* has given its range back */
} Holder;

static void coroutine_fn holder_entry(void *opaque)
{
    Holder *h = opaque;
    RangeLockRequest req;

    range_lock_co_lock(h->lock, &req, h->offset, h->bytes);
    g_string_append_c(h->trace, g_ascii_toupper(h->letter));
    h->holds = true;
    qemu_coroutine_yield();
    g_string_append_c(h->trace, h->letter);
    h->done = true;
    range_lock_co_unlock(h->lock, &req);
}

static void holder_start(Holder *h, RangeLock *lock, GString *trace,
                         char letter, int64_t offset, int64_t bytes)
{
    *h = (Holder) {
        .lock = lock, .offset = offset, .bytes = bytes,
        .trace = trace, .letter = letter,
        .co = qemu_coroutine_create(holder_entry, h),
    };
    qemu_coroutine_enter(h->co);
}

/* Let @h give its range back, and the waiters that it wakes go on. */
static void holder_release(Holder *h)
{
    qemu_coroutine_enter(h->co);
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* nothing */
    }
}

static void test_order(void)
{
    RangeLock lock;
    g_autoptr(GString) trace = g_string_new(NULL);
    Holder a, b, c, d, e;

    range_lock_init(&lock);

    /* Neighbours do not overlap: the ranges are half open. */
    holder_start(&a, &lock, trace, 'a', 0, 4096);
    holder_start(&b, &lock, trace, 'b', 4096, 1);
    holder_start(&c, &lock, trace, 'c', 4097, INT64_MAX - 4097);
    g_assert_cmpstr(trace->str, ==, "ABC");

    /*
     * d waits for a, b and c; e overlaps only a and d.  e must not pass d, or
     * d might starve.
     */
    holder_start(&d, &lock, trace, 'd', 0, INT64_MAX);
    holder_start(&e, &lock, trace, 'e', 0, 10);
    holder_release(&a);
    g_assert_cmpstr(trace->str, ==, "ABCa");
    holder_release(&c);
    g_assert_cmpstr(trace->str, ==, "ABCac");
    holder_release(&b);
    g_assert_cmpstr(trace->str, ==, "ABCacbD");
    holder_release(&d);
    g_assert_cmpstr(trace->str, ==, "ABCacbDdE");
    holder_release(&e);
    g_assert_cmpstr(trace->str, ==, "ABCacbDdEe");

    range_lock_destroy(&lock);
}

/* A line of requests for one range is served in order. */
static void test_fifo(void)
{
    enum { N = 26 };
    RangeLock lock;
    g_autoptr(GString) trace = g_string_new(NULL);
    Holder h[N];

    range_lock_init(&lock);
    for (int i = 0; i < N; i++) {
        holder_start(&h[i], &lock, trace, 'a' + i, 100 - i, 100);
    }
    for (int i = 0; i < N; i++) {
        g_assert_cmpint(trace->len, ==, 2 * i + 1);
        holder_release(&h[i]);
        g_assert_cmpint(trace->str[2 * i], ==, 'A' + i);
    }
    range_lock_destroy(&lock);
}

/*
 * Random ranges, held and given back at random, are compared with the rule
 * itself: a request holds its range if and only if it overlaps no request that
 * asked earlier and is not done.
 */
static void test_random(void)
{
    enum { N = 48, STEPS = 4000, SIZE = 1000 };
    RangeLock lock;
    g_autoptr(GString) trace = g_string_new(NULL);
    Holder h[N];            /* in order of asking */
    int asked = 0, step = 0;

    range_lock_init(&lock);
    while (step < STEPS || asked) {
        int holders[N], n = 0;

        if (step++ < STEPS && asked < N && g_test_rand_int_range(0, 3)) {
            int start = g_test_rand_int_range(0, SIZE);
            int most = g_test_rand_int_range(0, 8) ? 100 : SIZE;
            int bytes = g_test_rand_int_range(1, most + 1);

            /* The coroutine has a pointer to its element: none is moved. */
            holder_start(&h[asked++], &lock, trace, 'x', start, bytes);
        }
        for (int i = 0; i < asked; i++) {
            bool free = true;

            for (int k = 0; k < i; k++) {
                free &= h[k].offset + h[k].bytes <= h[i].offset ||
                        h[i].offset + h[i].bytes <= h[k].offset ||
                        h[k].done;
            }
            g_assert_cmpint(h[i].holds, ==, free);
            if (h[i].holds && !h[i].done) {
                holders[n++] = i;
            }
        }
        if (n && (step > STEPS || asked == N || g_test_rand_int_range(0, 2))) {
            holder_release(&h[holders[g_test_rand_int_range(0, n)]]);
        }
        while (asked && h[asked - 1].done) {
            asked--;
        }
    }
    range_lock_destroy(&lock);
}

/* --- many coroutines in several threads --- */

enum {
    THREADS = 4,
    COROUTINES = 32,        /* in each thread */
    ROUNDS = 400,           /* of each coroutine */
    CELLS = 64,             /* bytes of the range that is locked */
};

static RangeLock stress_lock;
static int cell_owner[CELLS];           /* 0: none */
static int overlaps;

static void coroutine_fn stress_entry(int id, GRand *rand)
{
    for (int round = 0; round < ROUNDS; round++) {
        int start = g_rand_int_range(rand, 0, CELLS);
        /* Sometimes a range that overlaps nearly all others. */
        int cells = g_rand_int_range(rand, 0, 16)
                        ? g_rand_int_range(rand, 1, 8) : CELLS;
        RangeLockRequest req;

        cells = MIN(cells, CELLS - start);
        thread_stress_pause(rand);
        range_lock_co_lock(&stress_lock, &req, start, cells);

        for (int i = start; i < start + cells; i++) {
            if (qatomic_cmpxchg(&cell_owner[i], 0, id) != 0) {
                qatomic_inc(&overlaps);
            }
        }
        thread_stress_pause(rand);
        for (int i = start; i < start + cells; i++) {
            qatomic_cmpxchg(&cell_owner[i], id, 0);
        }

        range_lock_co_unlock(&stress_lock, &req);
    }
}

static void test_stress(void)
{
    range_lock_init(&stress_lock);
    thread_stress(THREADS, COROUTINES, stress_entry);
    g_assert_cmpint(overlaps, ==, 0);
    range_lock_destroy(&stress_lock);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);

    /* The seed is printed, and replayed by --seed=... */
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/range-lock/order", test_order);
    g_test_add_func("/range-lock/fifo", test_fifo);
    g_test_add_func("/range-lock/random", test_random);
    g_test_add_func("/range-lock/stress", test_stress);
    return g_test_run();
}
