/*
 * Threads for system calls that may never return
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/worker-pool.h"
#include "qemu/atomic.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"

/* An idle thread ends after this time if there is another one. */
#define WORKER_POOL_IDLE_MS 10000

typedef QTAILQ_HEAD(WorkerJobs, WorkerJob) WorkerJobs;

struct WorkerPool {
    int max_threads;

    QemuMutex lock;
    QemuCond wake;

    /* Protected by lock. */
    WorkerJobs queue;       /* no worker has begun them */
    WorkerJobs running;     /* without orphans */
    int threads;            /* without orphans */
    int idle;               /* of threads: wait for a job, or are starting */
    int orphans;
    int late;               /* of orphans: may have an effect */
    bool abandoned;
    bool closed;            /* nothing but the threads refers to the pool */
};

/* --- jobs --- */

void worker_job_init(WorkerJob *job, int (*run)(WorkerJob *job),
                     void (*free)(WorkerJob *job))
{
    *job = (WorkerJob) {
        .run = run,
        .free = free,
        .refs = 1,
    };
}

void worker_job_unref(WorkerJob *job)
{
    if (qatomic_fetch_dec(&job->refs) == 1) {
        job->free(job);
    }
}

/*
 * Let the coroutine that waits for @job go on, and not before its thread gets
 * round to it: the caller may be in the middle of something.  Called with the
 * lock held.
 */
static void worker_job_wake(WorkerJob *job)
{
    Coroutine *co = job->co;

    if (co) {
        job->co = NULL;
        aio_co_schedule(qemu_coroutine_get_aio_context(co), co);
    }
}

/* --- threads --- */

static void *worker_thread(void *opaque);

/* Called with the lock held. */
static void worker_pool_keep_one_idle(WorkerPool *pool)
{
    QemuThread thread;

    if (pool->idle || pool->threads >= pool->max_threads ||
        (pool->closed && QTAILQ_EMPTY(&pool->queue))) {
        return;
    }
    pool->threads++;
    pool->idle++;
    qemu_thread_create(&thread, "worker", worker_thread, pool,
                       QEMU_THREAD_DETACHED);
}

/* Called with the lock held, and counted as idle.  NULL: end the thread. */
static WorkerJob *worker_pool_next_job(WorkerPool *pool)
{
    bool in_time = true;
    WorkerJob *job;

    while (QTAILQ_EMPTY(&pool->queue)) {
        if (pool->closed || (!in_time && pool->idle > 1)) {
            return NULL;
        }
        in_time = qemu_cond_timedwait(&pool->wake, &pool->lock,
                                      WORKER_POOL_IDLE_MS);
    }
    job = QTAILQ_FIRST(&pool->queue);
    QTAILQ_REMOVE(&pool->queue, job, next);
    return job;
}

/* Called with the lock held.  Return whether the thread may go on. */
static bool worker_pool_run_job(WorkerPool *pool, WorkerJob *job)
{
    bool orphan;
    int ret;

    QTAILQ_INSERT_TAIL(&pool->running, job, next);
    worker_pool_keep_one_idle(pool);

    qemu_mutex_unlock(&pool->lock);
    ret = job->run(job);
    qemu_mutex_lock(&pool->lock);

    orphan = job->orphan;
    if (orphan) {
        pool->late -= job->has_effect;
    } else {
        QTAILQ_REMOVE(&pool->running, job, next);
        job->ret = ret;
        worker_job_wake(job);
    }

    /*
     * This may make a system call, too: to close a file, for example.  As long
     * as this thread counts, as one of threads or orphans, the pool stays.
     */
    qemu_mutex_unlock(&pool->lock);
    worker_job_unref(job);
    qemu_mutex_lock(&pool->lock);
    pool->orphans -= orphan;
    return !orphan;
}

static void *worker_thread(void *opaque)
{
    WorkerPool *pool = opaque;
    WorkerJob *job;
    bool last;

    qemu_mutex_lock(&pool->lock);
    while ((job = worker_pool_next_job(pool))) {
        pool->idle--;
        if (!worker_pool_run_job(pool, job)) {
            goto out;           /* an orphan counts no more */
        }
        pool->idle++;
    }
    pool->idle--;
    pool->threads--;
out:
    last = pool->closed && !pool->threads && !pool->orphans;
    qemu_mutex_unlock(&pool->lock);

    if (last) {
        qemu_cond_destroy(&pool->wake);
        qemu_mutex_destroy(&pool->lock);
        g_free(pool);
    }
    return NULL;
}

/* --- the pool --- */

WorkerPool *worker_pool_new(int max_threads)
{
    WorkerPool *pool = g_new0(WorkerPool, 1);

    pool->max_threads = max_threads;
    qemu_mutex_init(&pool->lock);
    qemu_cond_init(&pool->wake);
    QTAILQ_INIT(&pool->queue);
    QTAILQ_INIT(&pool->running);
    WITH_QEMU_LOCK_GUARD(&pool->lock) {
        worker_pool_keep_one_idle(pool);
    }
    return pool;
}

void worker_pool_free(WorkerPool *pool)
{
    QEMU_LOCK_GUARD(&pool->lock);
    pool->closed = true;
    qemu_cond_broadcast(&pool->wake);
}

bool coroutine_fn worker_pool_co_run(WorkerPool *pool, WorkerJob *job)
{
    WITH_QEMU_LOCK_GUARD(&pool->lock) {
        /* More orphans than threads: they are hanging again and again. */
        if (pool->abandoned || pool->orphans >= pool->max_threads) {
            return false;
        }
        qatomic_inc(&job->refs);
        job->co = qemu_coroutine_self();
        QTAILQ_INSERT_TAIL(&pool->queue, job, next);
        qemu_cond_signal(&pool->wake);
    }
    qemu_coroutine_yield();
    return !qatomic_read(&job->orphan);
}

void worker_pool_run_detached(WorkerPool *pool, WorkerJob *job)
{
    QEMU_LOCK_GUARD(&pool->lock);
    QTAILQ_INSERT_TAIL(&pool->queue, job, next);
    qemu_cond_signal(&pool->wake);
}

void worker_pool_abandon(WorkerPool *pool)
{
    WorkerJob *job, *next;

    QEMU_LOCK_GUARD(&pool->lock);
    pool->abandoned = true;

    QTAILQ_FOREACH_SAFE(job, &pool->queue, next, next) {
        if (job->co) {
            QTAILQ_REMOVE(&pool->queue, job, next);
            job->orphan = true;
            worker_job_unref(job);  /* the coroutine has a reference, too */
            worker_job_wake(job);
        }
    }
    QTAILQ_FOREACH_SAFE(job, &pool->running, next, next) {
        QTAILQ_REMOVE(&pool->running, job, next);
        job->orphan = true;
        pool->threads--;
        pool->orphans++;
        pool->late += job->has_effect;
        worker_job_wake(job);
    }
    worker_pool_keep_one_idle(pool);
}

void worker_pool_unabandon(WorkerPool *pool)
{
    QEMU_LOCK_GUARD(&pool->lock);
    pool->abandoned = false;
}

bool worker_pool_is_abandoned(WorkerPool *pool)
{
    QEMU_LOCK_GUARD(&pool->lock);
    return pool->abandoned;
}

bool worker_pool_is_late(WorkerPool *pool)
{
    QEMU_LOCK_GUARD(&pool->lock);
    return pool->late;
}
