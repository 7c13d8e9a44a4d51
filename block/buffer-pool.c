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

/* A kept buffer: while nobody uses it, the list is in the buffer itself. */
struct BufferPoolKept {
    QSLIST_ENTRY(BufferPoolKept) next;
};

/* On the stack of the coroutine that waits, for as long as it does. */
struct BufferPoolWaiter {
    size_t size;
    int n;
    void **bufs;
    Coroutine *co;
    QSIMPLEQ_ENTRY(BufferPoolWaiter) next;      /* waiting, or to be woken */
};

/* The size of the buffers that requests of @bytes get. */
static size_t buffer_pool_size(const BufferPool *pool, size_t bytes, int n)
{
    uint64_t size = pow2ceil(MAX(bytes, BUFFER_POOL_MIN_SIZE));

    /* 0 is what pow2ceil() can't represent. */
    assert(n > 0 && size > 0 && size <= pool->capacity / n);
    return size;
}

static int buffer_pool_class(size_t size)
{
    return ctz64(size) - ctz64(BUFFER_POOL_MIN_SIZE);
}

/*
 * Free the largest kept buffer, so that few have to go.  Returns false if none
 * is kept.  Called with the mutex held.
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

/* Let the timer look again in a while.  Called with the mutex held. */
static void buffer_pool_set_timer(BufferPool *pool)
{
    pool->was_asked = false;
    timer_mod(&pool->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                            BUFFER_POOL_IDLE_MS);
}

/*
 * Free what is kept if nobody asked since the timer was set.  One at a time,
 * so that somebody who asks just now needn't wait for all of it.
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
    /* The AioContext's, as tools that have no main loop still poll that. */
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
 * Count @n buffers of @size as used, if there's room, and put into @bufs those
 * that are kept, and NULL for each that is still to be allocated.  Called with
 * the mutex held.
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
     * If something is missing, nothing of this class is kept any more.  The
     * mutex stays locked while others are freed, or their memory might be
     * given to somebody while it still is allocated.
     */
    while (missing > pool->capacity - pool->held) {
        bool freed = buffer_pool_free_one(pool);

        assert(freed);
    }
    pool->held += missing;
    return true;
}

/*
 * Undo buffer_pool_reserve(), keep those of @bufs that aren't NULL, and serve
 * those who wait.
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
     * Once woken, a waiter's memory may go; and if it was the last one to use
     * the pool, that may go, too.
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
     * Somebody may give us our buffers and wake us before we get here.  From
     * another thread they can only schedule us, and that is looked at after
     * the yield; in this thread they can't run before.
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
    /* Memory is scarce: keep nothing. */
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
