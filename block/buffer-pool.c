/*
 * Capped pool of aligned bounce buffers for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/buffer-pool.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"

#define BUFFER_POOL_IDLE_MS 1000

/* A kept buffer: as no request uses it, the list is in the buffer itself. */
struct BufferPoolKept {
    QSLIST_ENTRY(BufferPoolKept) next;
};

/* On the stack of the coroutine that waits, until that coroutine is woken. */
struct BufferPoolWaiter {
    size_t size;
    int n;
    void **bufs;
    Coroutine *co;
    QSIMPLEQ_ENTRY(BufferPoolWaiter) next;      /* waiting, or to be woken */
};

/* The size, in bytes, of the @n buffers that a request of @bytes gets. */
static size_t buffer_pool_size(const BufferPool *pool, size_t bytes, int n)
{
    uint64_t size = pow2ceil(MAX(bytes, BUFFER_POOL_MIN_SIZE));

    /* pow2ceil() returns 0 if the result does not fit. */
    assert(n > 0 && size > 0 && size <= pool->capacity / n);
    return size;
}

static int buffer_pool_class(size_t size)
{
    return ctz64(size) - ctz64(BUFFER_POOL_MIN_SIZE);
}

/*
 * Free the largest kept buffer, so that few buffers have to be freed.  Returns
 * false if no buffer is kept.  Called with the mutex held.
 */
static bool buffer_pool_free_one(BufferPool *pool)
{
    for (int class = BUFFER_POOL_CLASSES - 1; class >= 0; class--) {
        BufferPoolKept *buf = QSLIST_FIRST(&pool->kept[class]);

        if (buf) {
            QSLIST_REMOVE_HEAD(&pool->kept[class], next);
            qemu_vfree(buf);
            pool->held -= (size_t)BUFFER_POOL_MIN_SIZE << class;
            return true;
        }
    }
    return false;
}

/* Start the timer (again).  Called with the mutex held. */
static void buffer_pool_set_timer(BufferPool *pool)
{
    pool->was_asked = false;
    timer_mod(&pool->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                            BUFFER_POOL_IDLE_MS);
}

/*
 * Free all kept buffers if there was no request since the timer was set.  The
 * mutex is held for one buffer at a time, so that a request that comes just now
 * need not wait until all of them are freed.
 */
static void buffer_pool_timer_cb(void *opaque)
{
    BufferPool *pool = opaque;
    bool more;

    do {
        WITH_QEMU_LOCK_GUARD(&pool->mutex) {
            if (pool->was_asked) {
                buffer_pool_set_timer(pool);
                more = false;
            } else {
                more = buffer_pool_free_one(pool);
                pool->timer_armed = more;
            }
        }
    } while (more);
}

void buffer_pool_init(BufferPool *pool, size_t capacity, size_t alignment)
{
    *pool = (BufferPool) {
        .capacity = capacity,
        .alignment = alignment,
    };
    qemu_mutex_init(&pool->mutex);
    QSIMPLEQ_INIT(&pool->waiters);
    /* In the main AioContext: tools without a main loop still poll that. */
    aio_timer_init(qemu_get_aio_context(), &pool->timer, QEMU_CLOCK_REALTIME,
                   SCALE_MS, buffer_pool_timer_cb, pool);
}

void buffer_pool_destroy(BufferPool *pool)
{
    GLOBAL_STATE_CODE();
    assert(pool->used == 0 && QSIMPLEQ_EMPTY(&pool->waiters));

    timer_del(&pool->timer);
    while (buffer_pool_free_one(pool)) {
        /* nothing */
    }
    assert(pool->held == 0);
    qemu_mutex_destroy(&pool->mutex);
}

size_t buffer_pool_max_size(const BufferPool *pool, int n)
{
    size_t size;

    assert(n > 0);
    size = pow2floor(pool->capacity / n);
    return size < BUFFER_POOL_MIN_SIZE ? 0 : size;
}

/*
 * If there is room for @n buffers of @size, count them as used, put kept ones
 * into @bufs, and NULL for each buffer that is still to be allocated.
 * Otherwise return false.  Called with the mutex held.
 */
static bool buffer_pool_reserve(BufferPool *pool, size_t size, int n,
                                void **bufs)
{
    int class = buffer_pool_class(size);
    size_t missing = 0;

    if (n * size > pool->capacity - pool->used) {
        return false;
    }
    pool->used += n * size;

    for (int i = 0; i < n; i++) {
        BufferPoolKept *buf = QSLIST_FIRST(&pool->kept[class]);

        if (buf) {
            QSLIST_REMOVE_HEAD(&pool->kept[class], next);
        } else {
            missing += size;
        }
        bufs[i] = buf;
    }

    /*
     * If a buffer is missing, no buffer of this class is kept any more.  The
     * mutex stays locked while buffers of other classes are freed: otherwise
     * another request could allocate what these buffers still occupy.
     */
    while (missing > pool->capacity - pool->held) {
        bool freed = buffer_pool_free_one(pool);

        assert(freed);
    }
    pool->held += missing;
    return true;
}

/*
 * Undo buffer_pool_reserve(), keep those of @bufs that are not NULL, and serve
 * the waiters that fit now.
 */
static void coroutine_fn buffer_pool_release(BufferPool *pool, size_t size,
                                             int n, void **bufs)
{
    QSIMPLEQ_HEAD(, BufferPoolWaiter) ready =
        QSIMPLEQ_HEAD_INITIALIZER(ready);
    int class = buffer_pool_class(size);
    BufferPoolWaiter *waiter;

    WITH_QEMU_LOCK_GUARD(&pool->mutex) {
        pool->used -= n * size;
        for (int i = 0; i < n; i++) {
            BufferPoolKept *buf = bufs[i];

            if (buf) {
                QSLIST_INSERT_HEAD(&pool->kept[class], buf, next);
            } else {
                pool->held -= size;
            }
        }

        while ((waiter = QSIMPLEQ_FIRST(&pool->waiters)) &&
               buffer_pool_reserve(pool, waiter->size, waiter->n,
                                   waiter->bufs)) {
            QSIMPLEQ_REMOVE_HEAD(&pool->waiters, next);
            QSIMPLEQ_INSERT_TAIL(&ready, waiter, next);
        }

        if (pool->held > pool->used && !pool->timer_armed) {
            pool->timer_armed = true;
            buffer_pool_set_timer(pool);
        }
    }

    /*
     * Once a waiter is woken, the memory of its BufferPoolWaiter may be gone;
     * and if it was the last user of the pool, so may be the pool.
     */
    while ((waiter = QSIMPLEQ_FIRST(&ready))) {
        QSIMPLEQ_REMOVE_HEAD(&ready, next);
        aio_co_wake(waiter->co);
    }
}

bool coroutine_fn buffer_pool_co_get(BufferPool *pool, size_t bytes, int n,
                                     void **bufs)
{
    BufferPoolWaiter waiter = {
        .size = buffer_pool_size(pool, bytes, n),
        .n = n,
        .bufs = bufs,
        .co = qemu_coroutine_self(),
    };
    bool wait;

    WITH_QEMU_LOCK_GUARD(&pool->mutex) {
        pool->was_asked = true;
        wait = !QSIMPLEQ_EMPTY(&pool->waiters) ||
               !buffer_pool_reserve(pool, waiter.size, n, bufs);
        if (wait) {
            QSIMPLEQ_INSERT_TAIL(&pool->waiters, &waiter, next);
        }
    }

    /*
     * Another request may have given us our buffers and woken us before we get
     * here.  A request in another thread only schedules us, and a scheduled
     * coroutine is entered after it has yielded; a request in this thread can't
     * run before we yield.
     */
    if (wait) {
        qemu_coroutine_yield();
    }

    for (int i = 0; i < n; i++) {
        if (!bufs[i]) {
            bufs[i] = qemu_try_memalign(pool->alignment, waiter.size);
            if (!bufs[i]) {
                goto fail;
            }
        }
    }
    return true;

fail:
    /* Memory is scarce: keep no buffer. */
    for (int i = 0; i < n; i++) {
        qemu_vfree(bufs[i]);
        bufs[i] = NULL;
    }
    buffer_pool_release(pool, waiter.size, n, bufs);
    return false;
}

void coroutine_fn buffer_pool_put(BufferPool *pool, size_t bytes, int n,
                                  void **bufs)
{
    buffer_pool_release(pool, buffer_pool_size(pool, bytes, n), n, bufs);
}

size_t buffer_pool_held(BufferPool *pool)
{
    QEMU_LOCK_GUARD(&pool->mutex);

    return pool->held;
}
