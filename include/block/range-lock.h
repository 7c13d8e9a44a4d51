/*
 * Fair byte-range lock for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A range lock keeps overlapping requests apart and lets all others through.
 * It is fair: of two overlapping requests, the one that asked first holds its
 * range first, so that no request starves behind a stream of later ones.
 *
 * The lock remembers the *claim* on each byte: which request asked for the byte
 * last and has not given it back.  Claims are disjoint.  A request takes over
 * all claims in its range, in one critical section, and then waits for the
 * requests that had these claims: they are its *blockers*.  A request that
 * gives its range back drops the claims that no later request has taken over,
 * and tells the requests that wait for it.
 *
 * Why this is enough:
 *  - No byte is held twice, and the order is that of asking: let B ask after A
 *    for a byte that A still wants or holds.  If A's claim on the byte is still
 *    there, B waits for A.  If not, a request between A and B took the claim
 *    over, and waits for A; by induction B waits, directly or not, until A is
 *    done.
 *  - No lost wake-up: a request counts its blockers in the critical section in
 *    which it finds them, and a blocker takes itself off that count in another
 *    one.  The blocker that takes the count to zero wakes the request, and no
 *    other blocker does.
 *  - No deadlock and no starvation: a request waits only for requests that
 *    asked earlier, so the waits-for graph has no cycle, and the oldest request
 *    never waits.  This holds as long as a coroutine asks for one range at a
 *    time; a holder that asks for a second, overlapping range waits for itself.
 *
 * Cost: a request adds at most two claims, its own and the rest of a claim that
 * it cuts in two, and each claim that it takes over completely is gone.  So on
 * average a request meets a constant number of claims, however many requests
 * are in flight, and each claim costs O(log n).
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
    QLIST_ENTRY(RangeLockClaim) next;           /* in owner->claims */
} RangeLockClaim;

/*
 * A held or wanted range.  The memory is the caller's (its stack will do) and
 * must stay from range_lock_co_lock() to the end of range_lock_co_unlock().
 * Protected by the lock's mutex.
 */
struct RangeLockRequest {
    RangeLockClaim first;                       /* most have only this claim */
    QLIST_HEAD(, RangeLockClaim) claims;
    QSLIST_HEAD(, RangeLockWait) waiters;       /* wait for this request */
    int blockers;                               /* requests it waits for */
    Coroutine *co;
    QSLIST_ENTRY(RangeLockRequest) next_ready;
};

/* Make @lock ready for use.  Undone by range_lock_destroy(). */
void range_lock_init(RangeLock *lock);

/* No request may hold or wait for a range any more. */
void range_lock_destroy(RangeLock *lock);

/*
 * Wait until all requests that asked earlier for a part of [@offset, @offset +
 * @bytes) (in bytes, @bytes > 0) have given it back, and hold the range.  May
 * yield; the coroutine goes on in its own AioContext.
 */
void coroutine_fn range_lock_co_lock(RangeLock *lock, RangeLockRequest *req,
                                     int64_t offset, int64_t bytes);

/*
 * Give the range of @req back and wake the requests that waited only for @req.
 * Does not yield.
 */
void coroutine_fn range_lock_co_unlock(RangeLock *lock, RangeLockRequest *req);

#endif /* BLOCK_RANGE_LOCK_H */
