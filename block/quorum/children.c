/*
 * Quorum block driver: who stores what: the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * In which state each child is, the queue of changes that are to be told, and
 * children that come and go.  What they store is in their maps: stale-map.c.
 */

#include "qemu/osdep.h"
#include "sync-int.h"
#include "trace.h"

/* --- states --- */

QuorumChildState quorum_sync_state_locked(const QuorumSyncChild *c)
{
    return !c->present ? QUORUM_CHILD_STATE_VACANT :
           c->corrupt ? QUORUM_CHILD_STATE_CORRUPT :
           c->excluded ? QUORUM_CHILD_STATE_EXCLUDED :
           c->lagging ? QUORUM_CHILD_STATE_LAGGING :
           c->rebuilding ? QUORUM_CHILD_STATE_REBUILDING :
           c->stale ? QUORUM_CHILD_STATE_STALE :
           c->unsure ? QUORUM_CHILD_STATE_UNSURE : QUORUM_CHILD_STATE_OK;
}

QuorumChildState quorum_sync_state(QuorumSync *sync, int i)
{
    QUORUM_SYNC_GUARD(sync);
    return quorum_sync_state_locked(&sync->children[i]);
}

/* The child in slot @i is in @state now, and @was in another one. */
static void quorum_sync_add_state_change_locked(QuorumSync *sync, int i,
                                                QuorumChildState was,
                                                QuorumChildState state,
                                                const char *why)
{
    QuorumStateChange *change = g_new(QuorumStateChange, 1);

    *change = (QuorumStateChange) {
        .child = i,
        .was = was,
        .state = state,
        .why = g_strdup(why),
    };
    QSIMPLEQ_INSERT_TAIL(&sync->state_changes, change, next);
    qatomic_set(&sync->has_state_changes, true);
    trace_quorum_child_state(sync->node, i, QuorumChildState_str(state), why);
}

void quorum_sync_note_state_locked(QuorumSync *sync, int i, const char *why)
{
    QuorumSyncChild *c = &sync->children[i];
    QuorumChildState was = c->state;

    assert(sync->locked);
    if (sync->changing) {
        return;
    }
    c->state = quorum_sync_state_locked(c);
    if (c->state != was) {
        quorum_sync_add_state_change_locked(sync, i, was, c->state, why);
    }
}

QuorumStateChange *quorum_sync_next_state_change(QuorumSync *sync)
{
    QuorumStateChange *change;

    if (!qatomic_read(&sync->has_state_changes)) {
        return NULL;
    }
    QUORUM_SYNC_GUARD(sync);
    change = QSIMPLEQ_FIRST(&sync->state_changes);
    if (change) {
        QSIMPLEQ_REMOVE_HEAD(&sync->state_changes, next);
    }
    qatomic_set(&sync->has_state_changes,
                !QSIMPLEQ_EMPTY(&sync->state_changes));
    return change;
}

void quorum_state_change_free(QuorumStateChange *change)
{
    if (change) {
        g_free(change->why);
        g_free(change);
    }
}

void quorum_sync_set_corrupt(QuorumSync *sync, int i, const char *why)
{
    QuorumSyncChild *c = &sync->children[i];

    if (!qatomic_read(&c->corrupt)) {
        QUORUM_SYNC_GUARD(sync);
        qatomic_set(&c->corrupt, true);
        quorum_sync_note_state_locked(sync, i, why);
    }
}

void quorum_sync_set_lagging(QuorumSync *sync, int i, bool lagging,
                             const char *why)
{
    QUORUM_SYNC_GUARD(sync);
    qatomic_set(&sync->children[i].lagging, lagging);
    quorum_sync_count_degraded_locked(sync);
    quorum_sync_note_state_locked(sync, i, why);
}

bool quorum_sync_is_lagging(QuorumSync *sync, int i)
{
    return qatomic_read(&sync->children[i].lagging);
}

void quorum_sync_count_degraded_locked(QuorumSync *sync)
{
    int degraded = 0, unsure = 0;

    assert(sync->locked);
    for (int i = 0; i < sync->num_children; i++) {
        degraded += quorum_sync_child_is_degraded(&sync->children[i]);
        unsure += sync->children[i].unsure != NULL;
    }
    qatomic_set(&sync->num_unsure, unsure);
    qatomic_set(&sync->num_degraded, degraded);
    quorum_sync_count_unrecorded_locked(sync);
}

bool quorum_sync_is_degraded(QuorumSync *sync)
{
    return qatomic_read(&sync->num_degraded);
}

/* --- children that come and go --- */

void quorum_sync_free_child(QuorumSyncChild *c)
{
    g_clear_pointer(&c->stale, hbitmap_free);
    g_clear_pointer(&c->unsure, hbitmap_free);
    g_clear_pointer(&c->late, hbitmap_free);
    g_clear_pointer(&c->recovered_since_flush, hbitmap_free);
    g_clear_pointer(&c->recovered_before_flush, hbitmap_free);
    g_clear_pointer(&c->may_lose, g_free);
}

void quorum_sync_set_present(QuorumSync *sync, int i, bool present)
{
    QuorumSyncChild *c = &sync->children[i];

    QUORUM_SYNC_GUARD(sync);
    c->present = present;
    c->state = quorum_sync_state_locked(c);
}

struct QuorumSyncChange {
    QuorumSyncChild *children;  /* the old ones */
    int num_children;
    int *from;                  /* [slot]: which slot it was, or -1 */
};

static void quorum_sync_install_locked(QuorumSync *sync,
                                       QuorumSyncChild *children, int n)
{
    sync->children = children;
    sync->num_children = n;
    quorum_sync_count_degraded_locked(sync);
}

QuorumSyncChange *quorum_sync_change_begin(QuorumSync *sync, const int *from,
                                           int n)
{
    QuorumSyncChange *change = g_new(QuorumSyncChange, 1);
    QuorumSyncChild *children = g_new0(QuorumSyncChild, n);

    QUORUM_SYNC_GUARD(sync);
    assert(!sync->changing);
    sync->changing = true;
    *change = (QuorumSyncChange) {
        .children = sync->children,
        .num_children = sync->num_children,
        .from = g_memdup2(from, n * sizeof(*from)),
    };
    for (int i = 0; i < n; i++) {
        if (from[i] >= 0) {
            assert(from[i] < sync->num_children);
            children[i] = sync->children[from[i]];
        }
    }
    quorum_sync_install_locked(sync, children, n);
    return change;
}

/* The slots are what they are: note the states that differ from those before */
static void quorum_sync_note_change_locked(QuorumSync *sync,
                                           const QuorumSyncChange *change)
{
    for (int i = 0; i < MAX(sync->num_children, change->num_children); i++) {
        QuorumChildState was = i < change->num_children ?
                               change->children[i].state :
                               QUORUM_CHILD_STATE_VACANT;
        QuorumChildState state = QUORUM_CHILD_STATE_VACANT;

        if (i < sync->num_children) {
            QuorumSyncChild *c = &sync->children[i];

            state = c->state = quorum_sync_state_locked(c);
        }
        /* A child that is removed, or added in sync, is what was asked for. */
        if (state != was && state != QUORUM_CHILD_STATE_VACANT &&
            !(change->from[i] < 0 && state == QUORUM_CHILD_STATE_OK)) {
            quorum_sync_add_state_change_locked(
                sync, i, was, state, change->from[i] < 0 ? "added" : "moved");
        }
    }
}

void quorum_sync_change_end(QuorumSync *sync, QuorumSyncChange *change,
                            bool commit)
{
    QuorumSyncChild *children = sync->children;
    int n = sync->num_children;

    QUORUM_SYNC_GUARD(sync);
    sync->changing = false;
    if (commit) {
        quorum_sync_note_change_locked(sync, change);
    }
    for (int i = 0; i < n; i++) {
        if (change->from[i] >= 0) {
            /* Both arrays have the child's maps; one keeps them. */
            QuorumSyncChild *loser = commit ? &change->children[change->from[i]]
                                            : &children[i];

            loser->stale = NULL;
            loser->unsure = NULL;
            loser->late = NULL;
            loser->recovered_since_flush = NULL;
            loser->recovered_before_flush = NULL;
            loser->may_lose = NULL;
        }
    }
    if (!commit) {
        quorum_sync_install_locked(sync, change->children,
                                   change->num_children);
        change->children = children;
        change->num_children = n;
    }
    for (int i = 0; i < change->num_children; i++) {
        quorum_sync_free_child(&change->children[i]);
    }
    g_free(change->children);
    g_free(change->from);
    g_free(change);
}
