/*
 * Quorum block driver: permissions, children that come and go, reopening
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Everything here is global state: it runs in the main loop, under the BQL.
 */

#ifndef BLOCK_QUORUM_GRAPH_H
#define BLOCK_QUORUM_GRAPH_H

#include "quorum-int.h"

/* --- graph.c --- */

/*
 * @n vacant slots, with counters of 0; freed by quorum_slots_free(), which
 * leaves the children alone.
 */
QuorumSlot *quorum_slots_new(int n);
void quorum_slots_free(QuorumSlot *slots, int n);

/*
 * Bottom half: let the node @opaque migrate if no child is rebuilding any more.
 */
void quorum_unblock_migration(void *opaque);

/*
 * The options are @opts from now on, and the children the @n @nodes, in their
 * slots; NULL makes a slot vacant.  What is known of a node moves with it; a
 * node that was not a child is stale throughout, unless @in_sync.  For the
 * other arguments, see BlockDriver.bdrv_add_child_tran.  Returns 0, or -errno
 * with @errp set and changes in @tran to be undone.
 */
int GRAPH_WRLOCK
quorum_change_children(BlockDriverState *bs, const QuorumOptions *opts,
                       BlockDriverState **nodes, int n, bool in_sync,
                       Transaction *tran, GSList **detached, Error **errp);

/* Callbacks of BlockDriver. */

void GRAPH_RDLOCK
quorum_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                  BlockReopenQueue *reopen_queue, uint64_t perm,
                  uint64_t shared, uint64_t *nperm, uint64_t *nshared);
bool GRAPH_RDLOCK quorum_recurse_can_replace(BlockDriverState *bs,
                                             BlockDriverState *to_replace);
bool GRAPH_RDLOCK quorum_recurse_can_snapshot(BlockDriverState *bs);
bool GRAPH_RDLOCK quorum_can_lose_child(BlockDriverState *bs, BdrvChild *child);

int GRAPH_WRLOCK
quorum_add_child(BlockDriverState *bs, const char *name, BlockDriverState *node,
                 bool in_sync, Transaction *tran, GSList **detached,
                 Error **errp);
int GRAPH_WRLOCK
quorum_del_child(BlockDriverState *bs, BdrvChild *child, Transaction *tran,
                 GSList **detached, Error **errp);

/* --- reopen.c: callbacks of BlockDriver --- */

void GRAPH_RDLOCK quorum_reopen_parse_children(BlockDriverState *bs,
                                               QDict *options);
int GRAPH_UNLOCKED quorum_reopen_prepare(BDRVReopenState *state,
                                         BlockReopenQueue *queue, Error **errp);
int GRAPH_WRLOCK
quorum_reopen_change_children(BDRVReopenState *state, Transaction *tran,
                              GSList **detached, Error **errp);
void GRAPH_UNLOCKED quorum_reopen_commit(BDRVReopenState *state);
void GRAPH_UNLOCKED quorum_reopen_abort(BDRVReopenState *state);

#endif /* BLOCK_QUORUM_GRAPH_H */
