/*
 * Capped pool of aligned bounce buffers for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A driver that needs a buffer of the size of each request has two problems.
 * One is the sum: many large requests at a time must not take memory without
 * limit.  The other is the cost: malloc gives large buffers back to the kernel
 * when they are freed, so that each request pays again for mapping its buffers
 * and for a page fault every 4 KiB.  The pool never has more memory than its
 * capacity, lets requests wait for their turn where the capacity is not enough,
 * and keeps buffers that are given back for the next request.
 *
 * Sizes are rounded up to classes, powers of two from BUFFER_POOL_MIN_SIZE on,
 * and a kept buffer serves only requests of its class.  All *kept* buffers are
 * at the disposal of the next request: if there is no room to allocate, kept
 * buffers of other classes are freed.  So whether a request fits depends only
 * on the memory that is *used*; kept buffers never make a request wait.
 *
 * Why this is enough:
 *  - Never more than the capacity: memory is counted in @held before it is
 *    allocated, and until after it is freed.  Kept buffers that must make room
 *    are freed in the critical section in which the new buffers are counted.
 *  - No lost wake-up: a request finds that it does not fit in the same critical
 *    section in which it joins the queue.  It will fit only after another
 *    request has given buffers back.  In the critical section in which a
 *    request gives its buffers back, it takes the waiters that fit now off the
 *    queue, and counts their memory as used.  So each waiter is woken once, and
 *    no other request can take its memory between that section and the wake-up.
 *  - No starvation: a request waits if any other request is waiting already,
 *    and the queue is served from its head only.  Small requests wait behind a
 *    large one; they never pass it.
 *  - No deadlock: a request gets all its buffers at once, or none and waits.
 *    So a request that holds buffers does not wait for others.  When all
 *    buffers have been given back, the head of the queue fits, because no
 *    request may exceed the capacity.  This holds as long as a coroutine asks
 *    once at a time; a coroutine that holds buffers and asks for more may wait
 *    for itself.
 *
 * Memory that is not needed any more is freed: while any buffer is kept, a
 * timer in the main loop checks about once a second whether there was a request
 * since, and if there was none, frees all kept buffers.
 *
 * Cost: while there is room, and buffers of the class are kept, getting and
 * giving back locks a mutex once each and allocates nothing.
 */

#ifndef BLOCK_BUFFER_POOL_H
#define BLOCK_BUFFER_POOL_H

#include "qemu/coroutine.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "qemu/timer.h"

#define BUFFER_POOL_MIN_SIZE 4096
#define BUFFER_POOL_CLASSES 52          /* to 2^63, in powers of two */

typedef struct BufferPoolKept BufferPoolKept;
typedef struct BufferPoolWaiter BufferPoolWaiter;

typedef struct BufferPool {
    size_t capacity;                    /* constant */
    size_t alignment;                   /* constant */

    QemuMutex mutex;

    /* Protected by mutex.  used <= held <= capacity. */
    size_t used;                        /* bytes that requests have, or get */
    size_t held;                        /* used bytes, and bytes kept */
    QSLIST_HEAD(, BufferPoolKept) kept[BUFFER_POOL_CLASSES];
    QSIMPLEQ_HEAD(, BufferPoolWaiter) waiters;

    QEMUTimer timer;                    /* in the main loop */
    bool timer_armed;                   /* always, if a buffer is kept */
    bool was_asked;                     /* a request came since it was set */
} BufferPool;

/*
 * Make @pool ready for use.  It hands out buffers aligned to @alignment (a
 * power of two) and allocates at most @capacity bytes.  Undone by
 * buffer_pool_destroy().
 */
void buffer_pool_init(BufferPool *pool, size_t capacity, size_t alignment);

/*
 * No coroutine may use or wait for a buffer any more.  Called in the main
 * thread, as the timer might be running otherwise.
 */
void buffer_pool_destroy(BufferPool *pool);

/*
 * The largest size, in bytes, of which @n buffers fit into an otherwise unused
 * pool; 0 if not even @n of the smallest buffers do.
 */
size_t buffer_pool_max_size(const BufferPool *pool, int n);

/*
 * Get @n buffers of (at least) @bytes into @bufs, @bytes being at most
 * buffer_pool_max_size(@pool, @n).  Waits until there is room for all of them
 * and no earlier request is waiting.  The contents of the buffers are
 * undefined.  Returns false if memory can't be allocated; then the request
 * holds no buffer, and @bufs is undefined.  May yield; the coroutine goes on in
 * its own AioContext.
 */
bool coroutine_fn buffer_pool_co_get(BufferPool *pool, size_t bytes, int n,
                                     void **bufs);

/*
 * Give back the @bufs of buffer_pool_co_get(), which was called with the same
 * @bytes and @n, and wake the waiters that fit now.  Does not yield.
 */
void coroutine_fn buffer_pool_put(BufferPool *pool, size_t bytes, int n,
                                  void **bufs);

/* How many bytes @pool has allocated, used or kept. */
size_t buffer_pool_held(BufferPool *pool);

#endif /* BLOCK_BUFFER_POOL_H */
