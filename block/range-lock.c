/*
 * Fair byte-range lock for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/range-lock.h"
#include "qemu/lockable.h"

/* @waiter waits for the request in whose list this is. */
struct RangeLockWait {
    RangeLockRequest *waiter;
    QSLIST_ENTRY(RangeLockWait) next;
};

void range_lock_init(RangeLock *lock)
{
    *lock = (RangeLock) { };
    qemu_mutex_init(&lock->mutex);
}

void range_lock_destroy(RangeLock *lock)
{
    assert(interval_tree_is_empty(&lock->claims));
    qemu_mutex_destroy(&lock->mutex);
}

/* Let @claim of @owner be [@start, @last].  Called with the mutex held. */
static void range_lock_add_claim(RangeLock *lock, RangeLockClaim *claim,
                                 RangeLockRequest *owner, uint64_t start,
                                 uint64_t last)
{
    *claim = (RangeLockClaim) {
        .node.start = start,
        .node.last = last,
        .owner = owner,
    };
    interval_tree_insert(&claim->node, &lock->claims);
    QLIST_INSERT_HEAD(&owner->claims, claim, next);
}

/* Called with the mutex held. */
static void range_lock_remove_claim(RangeLock *lock, RangeLockClaim *claim)
{
    interval_tree_remove(&claim->node, &lock->claims);
    QLIST_REMOVE(claim, next);
    if (claim != &claim->owner->first) {
        g_free(claim);
    }
}

/* Let @claim be [@start, @last].  Called with the mutex held. */
static void range_lock_cut_claim(RangeLock *lock, RangeLockClaim *claim,
                                 uint64_t start, uint64_t last)
{
    interval_tree_remove(&claim->node, &lock->claims);
    claim->node.start = start;
    claim->node.last = last;
    interval_tree_insert(&claim->node, &lock->claims);
}

/*
 * Take what @claim has of [@start, @last] away from its owner, and let @req
 * wait for that.  Called with the mutex held.
 */
static void range_lock_take_over(RangeLock *lock, RangeLockClaim *claim,
                                 RangeLockRequest *req, uint64_t start,
                                 uint64_t last)
{
    RangeLockWait *wait = g_new(RangeLockWait, 1);
    uint64_t claim_start = claim->node.start;
    uint64_t claim_last = claim->node.last;

    wait->waiter = req;
    QSLIST_INSERT_HEAD(&claim->owner->waiters, wait, next);
    req->blockers++;

    if (claim_start < start && claim_last > last) {
        range_lock_add_claim(lock, g_new(RangeLockClaim, 1), claim->owner,
                             last + 1, claim_last);
    }
    if (claim_start < start) {
        range_lock_cut_claim(lock, claim, claim_start, start - 1);
    } else if (claim_last > last) {
        range_lock_cut_claim(lock, claim, last + 1, claim_last);
    } else {
        range_lock_remove_claim(lock, claim);
    }
}

void coroutine_fn range_lock_co_lock(RangeLock *lock, RangeLockRequest *req,
                                     int64_t offset, int64_t bytes)
{
    uint64_t start = offset;
    uint64_t last = offset + bytes - 1;
    IntervalTreeNode *node, *next;
    bool wait;

    assert(offset >= 0 && bytes > 0 && bytes <= INT64_MAX - offset);

    *req = (RangeLockRequest) { .co = qemu_coroutine_self() };

    WITH_QEMU_LOCK_GUARD(&lock->mutex) {
        for (node = interval_tree_iter_first(&lock->claims, start, last);
             node; node = next) {
            next = interval_tree_iter_next(node, start, last);
            range_lock_take_over(lock,
                                 container_of(node, RangeLockClaim, node),
                                 req, start, last);
        }
        range_lock_add_claim(lock, &req->first, req, start, last);
        wait = req->blockers > 0;
    }

    /*
     * The last blocker may wake us before we get here.  From another thread it
     * can only schedule us, and that is looked at after the yield; in this
     * thread it can't run before.
     */
    if (wait) {
        qemu_coroutine_yield();
    }
}

void coroutine_fn range_lock_co_unlock(RangeLock *lock, RangeLockRequest *req)
{
    QSLIST_HEAD(, RangeLockRequest) ready = QSLIST_HEAD_INITIALIZER(ready);
    RangeLockRequest *waiter;
    RangeLockClaim *claim;
    RangeLockWait *wait;

    WITH_QEMU_LOCK_GUARD(&lock->mutex) {
        while ((claim = QLIST_FIRST(&req->claims))) {
            range_lock_remove_claim(lock, claim);
        }
        while ((wait = QSLIST_FIRST(&req->waiters))) {
            QSLIST_REMOVE_HEAD(&req->waiters, next);
            if (--wait->waiter->blockers == 0) {
                QSLIST_INSERT_HEAD(&ready, wait->waiter, next_ready);
            }
            g_free(wait);
        }
    }

    /* Once woken, a waiter's memory may go. */
    while ((waiter = QSLIST_FIRST(&ready))) {
        QSLIST_REMOVE_HEAD(&ready, next_ready);
        aio_co_wake(waiter->co);
    }
}
