/*
 * Fair byte-range lock for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/range-lock.h"
#include "qemu/lockable.h"

void range_lock_init(RangeLock *lock)
{
    *lock = (RangeLock) { .next_ticket = 0 };
    qemu_mutex_init(&lock->mutex);
}

void range_lock_destroy(RangeLock *lock)
{
    assert(interval_tree_is_empty(&lock->tree));
    qemu_mutex_destroy(&lock->mutex);
}

/*
 * The youngest of those that @req has to wait for, or NULL.  Waiting for the
 * youngest one means that in a line of requests for one range each is woken
 * once, and not once for every request before it.  Called with the mutex held.
 */
static RangeLockRequest *range_lock_blocker(RangeLock *lock,
                                            RangeLockRequest *req)
{
    RangeLockRequest *youngest = NULL;
    IntervalTreeNode *node;

    for (node = interval_tree_iter_first(&lock->tree, req->node.start,
                                         req->node.last);
         node;
         node = interval_tree_iter_next(node, req->node.start,
                                        req->node.last)) {
        RangeLockRequest *other = container_of(node, RangeLockRequest, node);

        if (other->ticket < req->ticket &&
            (!youngest || other->ticket > youngest->ticket)) {
            youngest = other;
        }
    }
    return youngest;
}

void coroutine_fn range_lock_co_lock(RangeLock *lock, RangeLockRequest *req,
                                     int64_t offset, int64_t bytes)
{
    RangeLockRequest *blocker;

    assert(offset >= 0 && bytes > 0 && bytes <= INT64_MAX - offset);

    *req = (RangeLockRequest) {
        .node.start = offset,
        .node.last = offset + bytes - 1,
    };
    qemu_co_queue_init(&req->waiters);

    WITH_QEMU_LOCK_GUARD(&lock->mutex) {
        req->ticket = lock->next_ticket++;
        interval_tree_insert(&req->node, &lock->tree);

        while ((blocker = range_lock_blocker(lock, req))) {
            qemu_co_queue_wait(&blocker->waiters, &lock->mutex);
        }
    }
}

void coroutine_fn range_lock_co_unlock(RangeLock *lock, RangeLockRequest *req)
{
    WITH_QEMU_LOCK_GUARD(&lock->mutex) {
        interval_tree_remove(&req->node, &lock->tree);
    }

    /* Out of the tree, nobody can find req and join its queue any more. */
    qemu_co_queue_restart_all(&req->waiters);
}
