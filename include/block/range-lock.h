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
 * The lock remembers of each byte the *claim*: who asked for it last and has
 * not given it back.  Claims are disjoint.  A request takes over all claims in
 * its range, in one critical section, and then waits for the requests that had
 * them: these are its *blockers*.  When it gives the range back it drops what
 * is left of its own claims and tells those that wait for it.
 *
 * Why this is enough:
 *  - No overlap is held twice, and the order is that of asking: let B ask
 *    after A for a byte that A still wants or holds.  If A's claim on it is
 *    still there, B waits for A.  If not, somebody in between took it over, and
 *    waits for A; by induction B waits, directly or not, until A is done.
 *  - No lost wake-up: the blockers are counted in the critical section in which
 *    they are found, and a blocker takes itself off that count in another one.
 *    Who takes the count to zero wakes the waiter, and nobody else does.
 *  - No deadlock and no starvation: a request waits only for requests that
 *    asked earlier, so the waits-for graph has no cycle, and the oldest request
 *    never waits.  This holds as long as a coroutine asks for one range at a
 *    time; a holder that asks for a second, overlapping range waits for itself.
 *
 * Cost: a request adds at most two claims, its own and the rest of one that it
 * cuts in two, and each claim that it takes over in whole is gone.  So it meets
 * a constant number of them in the mean, however many requests there are in
 * flight, each in O(log n).
 */

#ifndef BLOCK_RANGE_LOCK_H
#define BLOCK_RANGE_LOCK_H

#include "qemu/coroutine.h"
#include "qemu/interval-tree.h"
#include "qemu/queue.h"
#include "qemu/thread.h"

typedef struct RangeLock {
    QemuMutex mutex;
    IntervalTreeRoot claims;    /* of RangeLockClaim.  Protected by mutex. */
} RangeLock;

typedef struct RangeLockRequest RangeLockRequest;
typedef struct RangeLockWait RangeLockWait;

/* Protected by the lock's mutex. */
typedef struct RangeLockClaim {
    IntervalTreeNode node;
    RangeLockRequest *owner;
    QLIST_ENTRY(RangeLockClaim) next;           /* of its owner */
} RangeLockClaim;

/*
 * A held or wanted range.  The memory is the caller's (its stack will do) and
 * must stay from range_lock_co_lock() to the end of range_lock_co_unlock().
 * Protected by the lock's mutex.
 */
struct RangeLockRequest {
    RangeLockClaim first;                       /* most never need another */
    QLIST_HEAD(, RangeLockClaim) claims;
    QSLIST_HEAD(, RangeLockWait) waiters;       /* for this request */
    int blockers;                               /* that this one waits for */
    Coroutine *co;
    QSLIST_ENTRY(RangeLockRequest) next_ready;
};

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
