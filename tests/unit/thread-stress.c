/*
 * Many coroutines in several threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "iothread.h"
#include "qemu/main-loop.h"
#include "thread-stress.h"

typedef struct Task {
    ThreadStressFn *fn;
    int id;
    uint32_t seed;
} Task;

static AioContext **contexts;
static int num_threads;
static int running;

void coroutine_fn thread_stress_pause(GRand *rand)
{
    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME,
                         g_rand_int_range(rand, 1000, 100000));
        break;
    case 1:
        aio_co_reschedule_self(contexts[g_rand_int_range(rand, 0,
                                                         num_threads)]);
        break;
    default:
        break;
    }
}

static void coroutine_fn task_entry(void *opaque)
{
    Task *task = opaque;
    GRand *rand = g_rand_new_with_seed(task->seed);

    task->fn(task->id, rand);
    g_rand_free(rand);
    qatomic_dec(&running);
}

void thread_stress(int threads, int coroutines, ThreadStressFn *fn)
{
    g_autofree IOThread **iothreads = g_new(IOThread *, threads);
    g_autofree Task *tasks = g_new(Task, threads * coroutines);
    int64_t deadline = g_get_monotonic_time() + 120 * G_USEC_PER_SEC;

    contexts = g_new(AioContext *, threads);
    num_threads = threads;
    running = threads * coroutines;
    for (int t = 0; t < threads; t++) {
        iothreads[t] = iothread_new();
        contexts[t] = iothread_get_aio_context(iothreads[t]);
    }
    for (int i = 0; i < threads * coroutines; i++) {
        tasks[i] = (Task) {
            .fn = fn, .id = i + 1, .seed = g_test_rand_int(),
        };
        aio_co_schedule(contexts[i % threads],
                        qemu_coroutine_create(task_entry, &tasks[i]));
    }

    while (qatomic_read(&running) && g_get_monotonic_time() < deadline) {
        aio_poll(qemu_get_aio_context(), false);
        g_usleep(1000);
    }
    g_assert_cmpint(qatomic_read(&running), ==, 0);

    for (int t = 0; t < threads; t++) {
        iothread_join(iothreads[t]);
    }
    g_clear_pointer(&contexts, g_free);
}
