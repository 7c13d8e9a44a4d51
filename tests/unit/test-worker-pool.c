/*
 * Unit tests of the pool of workers that may hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/worker-pool.h"
#include "qemu/main-loop.h"
#include "thread-stress.h"

#define THREADS 4

/* A job that hangs in a system call: it reads from an empty pipe. */
typedef struct TestJob {
    WorkerJob job;
    int fd;             /* -1: does not hang */
    char byte;
} TestJob;

/* A coroutine that waits for a job. */
typedef struct Waiter {
    WorkerPool *pool;
    TestJob *job;
    bool ran;
    int ret;
    bool done;
} Waiter;

static int jobs;        /* that have not been freed */
static int begun;
static int ended;
static int hang[2];

static int test_job_run(WorkerJob *opaque)
{
    TestJob *job = container_of(opaque, TestJob, job);
    int ret = 42;

    qatomic_inc(&begun);
    if (job->fd >= 0) {
        ret = RETRY_ON_EINTR(read(job->fd, &job->byte, 1));
    }
    qatomic_inc(&ended);
    return ret;
}

static void test_job_free(WorkerJob *opaque)
{
    g_free(container_of(opaque, TestJob, job));
    qatomic_dec(&jobs);
}

static TestJob *test_job_new(int fd)
{
    TestJob *job = g_new0(TestJob, 1);

    worker_job_init(&job->job, test_job_run, test_job_free);
    job->fd = fd;
    qatomic_inc(&jobs);
    return job;
}

static void coroutine_fn waiter_entry(void *opaque)
{
    Waiter *w = opaque;

    w->ran = worker_pool_co_run(w->pool, &w->job->job);
    w->ret = w->ran ? w->job->job.ret : 0;
    worker_job_unref(&w->job->job);
    w->done = true;
}

static void waiter_start(Waiter *w, WorkerPool *pool, int fd, bool has_effect)
{
    *w = (Waiter) { .pool = pool, .job = test_job_new(fd) };
    w->job->job.has_effect = has_effect;
    qemu_coroutine_enter(qemu_coroutine_create(waiter_entry, w));
}

static void let_go(int n)
{
    while (n-- > 0) {
        g_assert_cmpint(write(hang[1], "x", 1), ==, 1);
    }
}

static void setup(void)
{
    begun = ended = 0;
    g_assert_cmpint(jobs, ==, 0);
    g_assert_true(g_unix_open_pipe(hang, FD_CLOEXEC, NULL));
}

static void teardown(WorkerPool *pool)
{
    worker_pool_free(pool);
    WAIT_FOR(qatomic_read(&jobs) == 0);
    close(hang[0]);
    close(hang[1]);
}

/* More jobs than threads, of which each has its result. */
static void test_run(void)
{
    WorkerPool *pool = worker_pool_new(THREADS);
    Waiter w[5 * THREADS];

    setup();
    for (int i = 0; i < ARRAY_SIZE(w); i++) {
        waiter_start(&w[i], pool, i % 2 ? hang[0] : -1, true);
    }
    let_go(ARRAY_SIZE(w) / 2);
    for (int i = 0; i < ARRAY_SIZE(w); i++) {
        WAIT_FOR(w[i].done);
        g_assert_true(w[i].ran);
        g_assert_cmpint(w[i].ret, ==, i % 2 ? 1 : 42);
    }
    g_assert_false(worker_pool_is_late(pool));
    teardown(pool);
}

/*
 * All threads hang and jobs wait for them.  Those that wait for a job go on;
 * what was begun ends later, and the rest never begins.
 */
static void test_abandon(void)
{
    WorkerPool *pool = worker_pool_new(THREADS);
    Waiter w[3 * THREADS], later;

    setup();
    for (int i = 0; i < ARRAY_SIZE(w); i++) {
        waiter_start(&w[i], pool, hang[0], i == 0);
    }
    WAIT_FOR(qatomic_read(&begun) == THREADS);

    worker_pool_abandon(pool);
    g_assert_false(w[0].done);          /* not within the call */
    g_assert_true(worker_pool_is_abandoned(pool));
    for (int i = 0; i < ARRAY_SIZE(w); i++) {
        WAIT_FOR(w[i].done);
        g_assert_false(w[i].ran);
    }
    g_assert_cmpint(jobs, ==, THREADS);
    g_assert_true(worker_pool_is_late(pool));

    waiter_start(&later, pool, -1, true);
    g_assert_true(later.done);
    g_assert_false(later.ran);

    let_go(THREADS);
    WAIT_FOR(qatomic_read(&jobs) == 0);
    g_assert_false(worker_pool_is_late(pool));
    g_assert_cmpint(begun, ==, THREADS);
    g_assert_cmpint(ended, ==, THREADS);
    teardown(pool);
}

/* What can have no effect is not late, but hangs all the same. */
static void test_no_effect(void)
{
    WorkerPool *pool = worker_pool_new(THREADS);
    Waiter w;

    setup();
    waiter_start(&w, pool, hang[0], false);
    WAIT_FOR(qatomic_read(&begun) == 1);
    worker_pool_abandon(pool);
    g_assert_false(worker_pool_is_late(pool));
    WAIT_FOR(w.done);
    let_go(1);
    teardown(pool);
}

/*
 * Orphans take no threads away, until they are as many as threads: then jobs
 * end at once until one returns, so that a file that hangs each time when it is
 * tried again does not collect threads without end.
 */
static void test_unabandon(void)
{
    WorkerPool *pool = worker_pool_new(THREADS);
    Waiter w[THREADS], next;

    setup();
    for (int i = 0; i < THREADS; i++) {
        waiter_start(&next, pool, -1, true);
        WAIT_FOR(next.done);
        g_assert_true(next.ran);

        waiter_start(&w[i], pool, hang[0], true);
        WAIT_FOR(qatomic_read(&begun) == 2 * i + 2);
        worker_pool_abandon(pool);
        WAIT_FOR(w[i].done);
        worker_pool_unabandon(pool);
    }
    waiter_start(&next, pool, -1, true);
    g_assert_true(next.done);
    g_assert_false(next.ran);

    let_go(1);
    WAIT_FOR(qatomic_read(&jobs) == THREADS - 1);
    waiter_start(&next, pool, -1, true);
    WAIT_FOR(next.done);
    g_assert_true(next.ran);
    g_assert_true(worker_pool_is_late(pool));
    let_go(THREADS - 1);
    teardown(pool);
}

/* A pool that is given back while workers hang leaves, and they follow. */
static void test_free(void)
{
    WorkerPool *pool = worker_pool_new(THREADS);
    Waiter w[THREADS];

    setup();
    for (int i = 0; i < THREADS; i++) {
        waiter_start(&w[i], pool, hang[0], true);
    }
    WAIT_FOR(qatomic_read(&begun) == THREADS);
    worker_pool_abandon(pool);
    for (int i = 0; i < THREADS; i++) {
        WAIT_FOR(w[i].done);
    }

    /* To close the file, for example: an abandoned pool still does that. */
    worker_pool_run_detached(pool, &test_job_new(-1)->job);
    worker_pool_free(pool);
    WAIT_FOR(qatomic_read(&jobs) == THREADS);
    g_assert_cmpint(begun, ==, THREADS + 1);
    let_go(THREADS);
    WAIT_FOR(qatomic_read(&jobs) == 0);
    close(hang[0]);
    close(hang[1]);
}

/* A detached job that no worker has begun is not abandoned. */
static void test_detached(void)
{
    WorkerPool *pool = worker_pool_new(1);
    Waiter w;

    setup();
    waiter_start(&w, pool, hang[0], true);
    WAIT_FOR(qatomic_read(&begun) == 1);
    worker_pool_run_detached(pool, &test_job_new(-1)->job);
    worker_pool_abandon(pool);
    WAIT_FOR(qatomic_read(&ended) == 1);
    WAIT_FOR(w.done);
    g_assert_cmpint(jobs, ==, 1);
    let_go(1);
    teardown(pool);
}

/* --- many threads --- */

static WorkerPool *stress_pool;

static void coroutine_fn stress_entry(int id, GRand *rand)
{
    for (int round = 0; round < 200; round++) {
        Waiter w = { .pool = stress_pool };

        if (id == 1) {
            thread_stress_pause(rand);
            worker_pool_abandon(stress_pool);
            thread_stress_pause(rand);
            worker_pool_unabandon(stress_pool);
            continue;
        }
        w.job = test_job_new(-1);
        w.job->job.has_effect = true;
        waiter_entry(&w);
        g_assert_true(!w.ran || w.ret == 42);
        thread_stress_pause(rand);
    }
}

static void test_stress(void)
{
    setup();
    stress_pool = worker_pool_new(THREADS);
    thread_stress(3, 10, stress_entry);
    WAIT_FOR(!worker_pool_is_late(stress_pool));
    teardown(stress_pool);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/worker-pool/run", test_run);
    g_test_add_func("/worker-pool/abandon", test_abandon);
    g_test_add_func("/worker-pool/no-effect", test_no_effect);
    g_test_add_func("/worker-pool/unabandon", test_unabandon);
    g_test_add_func("/worker-pool/free", test_free);
    g_test_add_func("/worker-pool/detached", test_detached);
    g_test_add_func("/worker-pool/stress", test_stress);
    return g_test_run();
}
