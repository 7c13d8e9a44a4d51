/*
 * Capped pool of aligned bounce buffers for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A driver that needs a buffer of the size of each request has two worries.
 * One is the sum: many large requests at a time must not take memory without
 * limit.  The other is the cost: malloc gives large buffers back to the kernel
 * when they are freed, so that each request pays anew for mapping them and for
 * a page fault every 4 KiB.  The pool never has more memory than its capacity,
 * lets requests wait for their turn where that isn't enough, and keeps buffers
 * that are given back for the next request.
 *
 * Sizes are rounded up to classes, powers of two from BUFFER_POOL_MIN_SIZE on,
 * and a kept buffer serves only requests of its class.  Whatever is *kept* is
 * at the disposal of the next request: if there's no room to allocate, kept
 * buffers of other classes are freed.  So whether a request fits depends only
 * on what is *used*, and what has been kept never makes anybody wait.
 *
 * Why this is enough:
 *  - Never more than the capacity: memory is counted in @held before it is
 *    allocated, and until after it is freed.  Buffers that have to go are
 *    freed in the critical section in which others are counted in their stead.
 *  - No lost wake-up: a request sees that it doesn't fit in the critical
 *    section in which it joins the queue.  It will fit only after somebody has
 *    given something back, and who does that looks at the queue in the same
 *    critical section, counts the memory of those that fit as used already,
 *    and takes them off the queue.  So each is woken once, has what it waits
 *    for, and nobody can snatch it away in between.
 *  - No starvation: a request waits as soon as somebody else does, and the
 *    queue is served from its head only.  A large request holds up the small
 *    ones behind it rather than being passed by them for ever.
 *  - No deadlock: a request gets all its buffers at once, or none and waits.
 *    So who holds buffers doesn't wait, and when all have given them back the
 *    head of the queue fits, because no request may exceed the capacity.  This
 *    holds as long as a coroutine asks only once at a time; one that holds
 *    buffers and asks for more may wait for itself.
 *
 * Memory that nobody asks for goes back: while anything is kept, a timer in the
 * main loop looks about once a second whether there was a request since, and
 * frees what is kept if not.
 *
 * Cost: while there's room, and buffers of the class are kept, getting and
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

    /* All below is protected by mutex.  used <= held <= capacity. */
    size_t used;                        /* in requests' hands, or on the way */
    size_t held;                        /* that, and what is kept */
    QSLIST_HEAD(, BufferPoolKept) kept[BUFFER_POOL_CLASSES];
    QSIMPLEQ_HEAD(, BufferPoolWaiter) waiters;

    QEMUTimer timer;                    /* in the main loop */
    bool timer_armed;                   /* always, if anything is kept */
    bool was_asked;                     /* since the timer was set */
} BufferPool;

/*
 * Make @pool ready for use.  It hands out buffers aligned to @alignment (a
 * power of two) and allocates at most @capacity bytes.  buffer_pool_destroy()
 * undoes it.
 */
void buffer_pool_init(BufferPool *pool, size_t capacity, size_t alignment);

/*
 * Nobody may use or wait for a buffer any more.  Called in the main thread, as
 * the timer might be running otherwise.
 */
void buffer_pool_destroy(BufferPool *pool);

/*
 * The largest size of which @n buffers fit into an otherwise unused pool; 0 if
 * not even the smallest do.
 */
size_t buffer_pool_max_size(const BufferPool *pool, int n);

/*
 * Get @n buffers of (at least) @bytes into @bufs, @bytes being at most
 * buffer_pool_max_size(@pool, @n).  Waits until there is room for all of them,
 * and nobody who asked earlier waits.  What is in them is undefined.  Returns
 * false if they can't be allocated, with nothing taken and @bufs undefined.
 * May yield; the coroutine goes on in its own AioContext.
 */
bool coroutine_fn buffer_pool_co_get(BufferPool *pool, size_t bytes, int n,
                                     void **bufs);

/*
 * Give back what buffer_pool_co_get() got, called with the same @bytes and @n,
 * and wake those who waited for it.  Does not yield.
 */
void coroutine_fn buffer_pool_put(BufferPool *pool, size_t bytes, int n,
                                  void **bufs);

/* The bytes that @pool has allocated, used or kept. */
size_t buffer_pool_held(BufferPool *pool);

#endif /* BLOCK_BUFFER_POOL_H */
