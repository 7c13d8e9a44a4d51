/*
 * Many coroutines in several threads, and waiting for other threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef TESTS_UNIT_THREAD_STRESS_H
#define TESTS_UNIT_THREAD_STRESS_H

#include "qemu/coroutine.h"

/* What coroutine @id (from 1) does.  Each coroutine has its own @rand. */
typedef void coroutine_fn ThreadStressFn(int id, GRand *rand);

/*
 * Run @fn in @coroutines coroutines in each of @threads new iothreads, with
 * seeds that follow from the seed of the test, and wait for all of them.  If
 * they have not ended after two minutes, the test fails: a wake-up was lost.
 */
void thread_stress(int threads, int coroutines, ThreadStressFn *fn);

/* At random: sleep, or move to another of the threads, or do nothing. */
void coroutine_fn thread_stress_pause(GRand *rand);

/*
 * Run the main loop until @cond; the test fails if that takes more than 10
 * seconds.
 */
#define WAIT_FOR(cond)                                                  \
    do {                                                                \
        int64_t deadline = g_get_monotonic_time() + 10 * G_USEC_PER_SEC; \
        while (!(cond)) {                                               \
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);       \
            aio_poll(qemu_get_aio_context(), false);                    \
            g_usleep(100);                                              \
        }                                                               \
    } while (0)

#endif /* TESTS_UNIT_THREAD_STRESS_H */
