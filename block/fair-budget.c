/*
 * Fair budget for coroutines in any AioContext
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/fair-budget.h"
#include "qemu/lockable.h"

/* On the stack of the coroutine that waits, until that coroutine is woken. */
struct FairBudgetWaiter {
    int n;
    Coroutine *co;
    QSIMPLEQ_ENTRY(FairBudgetWaiter) next;      /* waiting, or to be woken */
};

void fair_budget_init(FairBudget *budget, int total)
{
    assert(total > 0 && total < FAIR_BUDGET_MAX);
    *budget = (FairBudget) {
        .total = total,
        .left = total,
    };
    qemu_mutex_init(&budget->mutex);
    QSIMPLEQ_INIT(&budget->waiters);
}

void fair_budget_destroy(FairBudget *budget)
{
    assert(budget->left == budget->total);
    assert(QSIMPLEQ_EMPTY(&budget->waiters));
    qemu_mutex_destroy(&budget->mutex);
}

void coroutine_fn fair_budget_co_wait(FairBudget *budget, int n)
{
    FairBudgetWaiter waiter = {
        .n = n,
        .co = qemu_coroutine_self(),
    };

    assert(n > 0 && n <= budget->total);
    WITH_QEMU_LOCK_GUARD(&budget->mutex) {
        if (QSIMPLEQ_EMPTY(&budget->waiters) &&
            qatomic_fetch_sub(&budget->left, FAIR_BUDGET_MAX) >= n) {
            /* Some was given back just now: no request waits after all. */
            qatomic_add(&budget->left, FAIR_BUDGET_MAX - n);
            return;
        }
        QSIMPLEQ_INSERT_TAIL(&budget->waiters, &waiter, next);
    }

    /*
     * Another request may wake us before we get here.  From another thread it
     * can only schedule us, and that is looked at after the yield; in this
     * thread it can't run before.
     */
    qemu_coroutine_yield();
}

void coroutine_fn fair_budget_wake(FairBudget *budget)
{
    QSIMPLEQ_HEAD(, FairBudgetWaiter) ready =
        QSIMPLEQ_HEAD_INITIALIZER(ready);
    FairBudgetWaiter *waiter;

    WITH_QEMU_LOCK_GUARD(&budget->mutex) {
        /* While any wait, others only add to what is left. */
        while ((waiter = QSIMPLEQ_FIRST(&budget->waiters)) &&
               qatomic_read(&budget->left) + FAIR_BUDGET_MAX >= waiter->n) {
            QSIMPLEQ_REMOVE_HEAD(&budget->waiters, next);
            QSIMPLEQ_INSERT_TAIL(&ready, waiter, next);
            qatomic_sub(&budget->left, waiter->n);
            if (QSIMPLEQ_EMPTY(&budget->waiters)) {
                qatomic_add(&budget->left, FAIR_BUDGET_MAX);
            }
        }
    }

    /*
     * Once a waiter is woken, the memory of its FairBudgetWaiter may be gone;
     * and if it was the last user of the budget, so may be the budget.
     */
    while ((waiter = QSIMPLEQ_FIRST(&ready))) {
        QSIMPLEQ_REMOVE_HEAD(&ready, next);
        aio_co_wake(waiter->co);
    }
}
