/*
 * Threads for system calls that may never return
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A system call on a file whose server does not answer (a hard NFS mount, a
 * dead disk) can hang without end, and with it the thread that makes it.
 * Nothing takes such a thread back.  But what waits for it can go on: a worker
 * pool abandons its jobs, and leaves each thread that hangs behind as an
 * *orphan*.  For that,
 *
 * - a job lives on the heap, with all the memory that its system call reads or
 *   writes, and belongs to those that still refer to it;
 * - a pool belongs to one file, so that its threads starve no other file;
 * - a pool lives until the last orphan has returned.
 *
 * One thread of a pool is always idle, unless all threads are busy: a thread
 * starts the next one before it makes a system call.  So only a thread of the
 * pool starts another one, or the main thread, and never a vCPU, whose affinity
 * it would get.
 */

#ifndef BLOCK_WORKER_POOL_H
#define BLOCK_WORKER_POOL_H

#include "qemu/coroutine.h"
#include "qemu/queue.h"

typedef struct WorkerPool WorkerPool;
typedef struct WorkerJob WorkerJob;

struct WorkerJob {
    /* Called in a worker; the return value becomes ret. */
    int (*run)(WorkerJob *job);
    /* Called when the last reference is gone, in any thread. */
    void (*free)(WorkerJob *job);
    bool has_effect;        /* if it is an orphan, it may have one later */
    int ret;                /* valid if worker_pool_co_run() returned true */

    /* For the pool only.  All but refs are protected by the pool's lock. */
    int refs;
    bool orphan;
    Coroutine *co;          /* waits for the job; NULL: nothing does */
    QTAILQ_ENTRY(WorkerJob) next;
};

/* Make a pool with up to @max_threads threads that are not orphans. */
WorkerPool *worker_pool_new(int max_threads);

/*
 * Give @pool back; no coroutine may wait for a job.  Never waits: jobs that
 * were started are still done, and the pool goes with its last thread.
 */
void worker_pool_free(WorkerPool *pool);

/* Make @job ready for use.  The caller gets a reference to it. */
void worker_job_init(WorkerJob *job, int (*run)(WorkerJob *job),
                     void (*free)(WorkerJob *job));
void worker_job_unref(WorkerJob *job);

/*
 * Run @job in a worker and wait for it.  Return false if it was abandoned, or
 * could not be started because others are: then it may still be running, and
 * belongs to its worker.  The caller keeps its reference.
 */
bool coroutine_fn worker_pool_co_run(WorkerPool *pool, WorkerJob *job);

/*
 * Run @job in a worker some time, even if the pool is abandoned, and do not
 * wait for it.  Takes over the caller's reference.
 */
void worker_pool_run_detached(WorkerPool *pool, WorkerJob *job);

/*
 * End all jobs for those that wait for them, in a moment and without waiting.
 * Those that no worker has begun never run.  From now on, new jobs end at once;
 * worker_pool_unabandon() undoes that.  Not in the thread of a vCPU.
 */
void worker_pool_abandon(WorkerPool *pool);
void worker_pool_unabandon(WorkerPool *pool);
bool worker_pool_is_abandoned(WorkerPool *pool);

/* Whether an orphan may still have an effect.  Any thread. */
bool worker_pool_is_late(WorkerPool *pool);

#endif /* BLOCK_WORKER_POOL_H */
