/*
 * Many coroutines in several threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef TESTS_UNIT_THREAD_STRESS_H
#define TESTS_UNIT_THREAD_STRESS_H

#include "qemu/coroutine.h"

/* What coroutine @id (from 1) does.  @rand is its own. */
typedef void coroutine_fn ThreadStressFn(int id, GRand *rand);

/*
 * Run @fn in @coroutines coroutines in each of @threads new iothreads, with
 * seeds that follow from that of the test, and wait for all of them.  That
 * takes two minutes at most: a lost wake-up shows as coroutines that never end.
 */
void thread_stress(int threads, int coroutines, ThreadStressFn *fn);

/* Now and then sleep, or go to another of the threads, and mostly neither. */
void coroutine_fn thread_stress_pause(GRand *rand);

#endif /* TESTS_UNIT_THREAD_STRESS_H */
