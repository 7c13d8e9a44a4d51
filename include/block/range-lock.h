/*
 * Fair byte-range lock for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A range lock keeps overlapping requests apart and lets all others through.
 * It is fair: among overlapping requests, whoever asked first holds first, so
 * that nobody starves behind a stream of later requests.
 *
 * All waiting rules are these two:
 *  - a request waits as long as an overlapping request with a smaller ticket
 *    is in the tree, whether that one already holds its range or still waits;
 *  - a request that is in the tree leaves it only by range_lock_co_unlock().
 *
 * Why this is enough:
 *  - No overlap is held twice: of two overlapping requests in the tree, the one
 *    with the larger ticket does not hold.  A request gets its ticket and its
 *    place in the tree in one critical section, so tickets in the tree are
 *    never handed out behind anybody's back.
 *  - No lost wake-up: a waiter looks for its blocker and queues up behind it in
 *    one critical section; the blocker leaves the tree in another one and wakes
 *    its queue after that.  If the blocker was still found, it has not left
 *    yet, and will find the waiter in its queue.  If it was not found, it is
 *    not waited for.
 *  - No starvation and no deadlock: a request waits only for smaller tickets,
 *    so the waits-for graph has no cycle, and the smallest ticket never waits.
 *    This holds as long as a coroutine asks for one range at a time; a holder
 *    that asks for a second, overlapping range waits for itself.
 */

#ifndef BLOCK_RANGE_LOCK_H
#define BLOCK_RANGE_LOCK_H

#include "qemu/coroutine.h"
#include "qemu/interval-tree.h"
#include "qemu/thread.h"

typedef struct RangeLock {
    QemuMutex mutex;

    /* Protected by mutex. */
    IntervalTreeRoot tree;      /* of RangeLockRequest: holders and waiters */
    uint64_t next_ticket;
} RangeLock;

/*
 * A held or wanted range.  The memory is the caller's (its stack will do) and
 * must stay from range_lock_co_lock() to the end of range_lock_co_unlock().
 */
typedef struct RangeLockRequest {
    /* Set once, under the lock's mutex, when the range is asked for. */
    IntervalTreeNode node;
    uint64_t ticket;

    /*
     * The requests that wait for this one.  Protected by the lock's mutex as
     * long as this request is in the tree, after that only unlock knows it.
     */
    CoQueue waiters;
} RangeLockRequest;

/* Make @lock ready for use.  range_lock_destroy() undoes it. */
void range_lock_init(RangeLock *lock);

/* Nobody may hold or wait for a range any more. */
void range_lock_destroy(RangeLock *lock);

/*
 * Wait until [@offset, @offset + @bytes) (in bytes, @bytes > 0) is free of all
 * that asked for it earlier, and hold it.  May yield; the coroutine goes on in
 * its own AioContext.
 */
void coroutine_fn range_lock_co_lock(RangeLock *lock, RangeLockRequest *req,
                                     int64_t offset, int64_t bytes);

/*
 * Give the range of @req back and wake those who waited for it.  Does not
 * yield.
 */
void coroutine_fn range_lock_co_unlock(RangeLock *lock, RangeLockRequest *req);

#endif /* BLOCK_RANGE_LOCK_H */
