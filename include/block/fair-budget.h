/*
 * Fair budget for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A budget is a number of things, coroutines for example, of which requests
 * take some and give them back.  A request that wants more than there is waits
 * for its turn.
 *
 * SharedResource (qemu/co-shared-resource.h) does that, too, but wakes all
 * requests that wait whenever something is given back, which takes a time of
 * n * n for n requests, and lets a request that comes at the right moment pass
 * them.
 *
 * Why this is enough:
 *  - No starvation: while a request waits, @left is negative, so that each
 *    other one finds too little and joins the queue; and the queue is served
 *    from its head only.
 *  - No lost wake-up: the first request that waits subtracts a number from
 *    @left that is larger than any budget, and looks at what was there before.
 *    It has seen what was given back earlier.  A request that gives back later
 *    finds @left negative, and serves the queue, for which it waits for the
 *    mutex that the first request holds until it is in the queue.  All of that
 *    is done to one atomic variable, so there is an order.
 *  - No deadlock: a request takes all that it needs at once, or nothing.  This
 *    holds as long as a coroutine takes once at a time; one that has taken and
 *    wants more may wait for itself.
 *
 * Cost: while there is enough, one compare-and-swap, and an addition when it is
 * given back.
 */

#ifndef BLOCK_FAIR_BUDGET_H
#define BLOCK_FAIR_BUDGET_H

#include "qemu/atomic.h"
#include "qemu/coroutine.h"
#include "qemu/queue.h"
#include "qemu/thread.h"

/* No budget is larger. */
#define FAIR_BUDGET_MAX (1 << 30)

typedef struct FairBudgetWaiter FairBudgetWaiter;

typedef struct FairBudget {
    int total;                  /* constant */
    int left;                   /* atomic; less FAIR_BUDGET_MAX if any wait */
    QemuMutex mutex;
    QSIMPLEQ_HEAD(, FairBudgetWaiter) waiters;      /* protected by mutex */
} FairBudget;

/* Make @budget one of @total, 0 < @total < FAIR_BUDGET_MAX. */
void fair_budget_init(FairBudget *budget, int total);

/* All has been given back, and no request waits any more. */
void fair_budget_destroy(FairBudget *budget);

/* For fair_budget_co_take() and fair_budget_give_back() only */
void coroutine_fn fair_budget_co_wait(FairBudget *budget, int n);
void coroutine_fn fair_budget_wake(FairBudget *budget);

/*
 * Take @n of @budget, 0 < @n <= the total.  Waits until there are so many, and
 * no earlier request waits.  May yield; the coroutine goes on in its own
 * AioContext.
 */
static inline void coroutine_fn fair_budget_co_take(FairBudget *budget, int n)
{
    int left = qatomic_read(&budget->left);

    while (left >= n) {
        int old = qatomic_cmpxchg(&budget->left, left, left - n);

        if (likely(old == left)) {
            return;
        }
        left = old;
    }
    fair_budget_co_wait(budget, n);
}

/*
 * Give back @n that were taken, and wake the requests that have enough now.
 * Does not yield.
 */
static inline void coroutine_fn fair_budget_give_back(FairBudget *budget, int n)
{
    if (unlikely(qatomic_add_fetch(&budget->left, n) < 0)) {
        fair_budget_wake(budget);
    }
}

#endif /* BLOCK_FAIR_BUDGET_H */
