/*
 * Quorum block driver: what survives a restart
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Beside each child there may be a *state node*, on which it is written down
 * which child lacks what, and in which regions of the disk writes may be under
 * way (promise 11).  What is on it is in state-format.h; state-head.c and
 * state-open.c read it, state.c and state-round.c write it.  Nothing here knows
 * of votes, or reads or writes the disk.
 *
 * A region of the disk is *marked* before the first child gets a write there.
 * What is marked after a crash is *unresolved*: each child may have its own
 * outcome of what was in flight, until one of them is chosen for all.
 *
 * What must hold; *durable* means: on at least as many state nodes as the
 * threshold says, so that any readable majority has it.
 *
 * R1 Intent.  The region is durably marked before a child gets a write.
 * R2 Behind.  Before a request is acknowledged that some child has missed, it
 *    is durable that the child is behind: it lacks more than its map says; or
 *    its map says all that it lacks.
 * R3 Newcomers.  Before the first request that changes children after a child
 *    has joined or left, that is durable.
 * R4 A session begins before the first change of a child: it is durable that
 *    the disk is not closed well any more, and who writes to it.
 * R5 A mark is taken away only if all that was written there is flushed, and
 *    what children lack there is durably in their maps.
 * R6 What a step that takes something away relies on was durable before that
 *    step was sent to any state node: so pages of different age can be mixed.
 *
 * A *round* writes what has changed to all state nodes.  Whoever needs it does
 * it, in its own coroutine and under its own graph lock, and all who come
 * meanwhile share the next one.  A round ends when enough state nodes have
 * it; what the others get, they get by themselves.
 *
 * Order of taking things: a request that takes part in a round holds the graph
 * lock for reading, memory and a range, and locks of QuorumState.  A round
 * waits for state nodes only.
 */

#ifndef BLOCK_QUORUM_STATE_H
#define BLOCK_QUORUM_STATE_H

#include "block/block_int.h"
#include "qapi/qapi-types-block-core.h"
#include "quorum-int.h"

/* --- state-open.c --- */

/*
 * Attach the state nodes that @options name, one for each of the @slots slots
 * or none; their options are deleted.  If open-degraded lets the quorum do
 * without one, @away[slot] gets the reason, which the caller frees.  Returns 0,
 * or -errno with @errp set.  In the main thread.
 */
int quorum_state_attach(BlockDriverState *bs, QDict *options, int slots,
                        Error **away, Error **errp);

/*
 * Read the state nodes, and tell the QuorumSync what they say.  The length of
 * the node is known.  quorum_state_load() is for the main thread, when the node
 * is opened; quorum_state_co_load() for when it is activated.
 */
int GRAPH_RDLOCK quorum_state_load(BlockDriverState *bs, Error **errp);
int coroutine_fn GRAPH_RDLOCK
quorum_state_co_load(BlockDriverState *bs, Error **errp);

/* Give the state nodes up.  In the main thread, with all requests drained. */
void GRAPH_WRLOCK quorum_state_detach(BlockDriverState *bs);

/* --- state.c and state-record.c --- */

/*
 * R1, R3, R4: a request is about to change the children in the range, which it
 * holds.  May wait for a round.  If that fails, nothing may be sent.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_state_do_prepare(BlockDriverState *bs, int64_t offset, int64_t bytes);

/* R2: a request that was settled is about to be acknowledged. */
int coroutine_fn GRAPH_RDLOCK quorum_state_do_record(BlockDriverState *bs);

/* The two above, in a few instructions if there is nothing to wait for. */
static inline int coroutine_fn GRAPH_RDLOCK
quorum_state_prepare(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    return likely(!s->state) ? 0 : quorum_state_do_prepare(bs, offset, bytes);
}

static inline int coroutine_fn GRAPH_RDLOCK
quorum_state_record(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    return likely(!s->state || !quorum_sync_any_unrecorded(s->sync)) ?
           0 : quorum_state_do_record(bs);
}

/*
 * The disk is about to be closed, or handed on: flush, and write down how all
 * is.  Does nothing if nothing was changed.  Returns 0, or -errno: then the
 * next one to open it finds it as after a crash.  In the main thread, with all
 * requests drained.
 */
int quorum_state_clean(BlockDriverState *bs);

/* --- state-create.c --- */

/*
 * Give a quorum that has none the @n state nodes @nodes, one for each slot or
 * NULL, as the command quorum-state-create does: all or, with @errp set and
 * -errno returned, none.  The second one takes them away again, blank.  In the
 * main thread, with all requests drained.
 */
int quorum_state_create(BlockDriverState *bs, BlockDriverState **nodes, int n,
                        Error **errp);
void quorum_state_uncreate(BlockDriverState *bs);

/* --- state-graph.c: in the main thread, with all requests drained --- */

/*
 * The children are to be the @n @nodes, slot i being what slot @from[i] was, or
 * if that is negative, vacant or a newcomer: state nodes move with their
 * children, and leave with them, unless fewer than @threshold would be well.
 * *@change is ended by quorum_state_change_end(), unless there is none.
 * Returns 0, or -errno with @errp set, and changes in @tran to be undone.
 */
typedef struct QuorumStateNodesChange QuorumStateNodesChange;
int GRAPH_WRLOCK
quorum_state_change_begin(BlockDriverState *bs, BlockDriverState **nodes,
                          const int *from, int n, int threshold,
                          Transaction *tran, GSList **detached,
                          QuorumStateNodesChange **change, Error **errp);
void GRAPH_WRLOCK quorum_state_change_end(BlockDriverState *bs,
                                          QuorumStateNodesChange *change,
                                          bool commit);

/* Whether so many state nodes, as an option gives them, are enough. */
bool quorum_state_check_count(int nodes, int threshold, Error **errp);

/* The state node in slot @i of those that there are now, or NULL. */
BdrvChild *GRAPH_RDLOCK quorum_state_child(const BDRVQuorumState *s, int i);

/*
 * The state nodes are to be the @n @nodes beside the children @children, [slot]
 * and NULL for none.  The first one looks whether they can be; it takes no lock
 * and may poll.  The second one makes them so, when the children are that
 * already; as above, the caller undoes what it has done if it fails.
 */
bool GRAPH_UNLOCKED
quorum_state_check_nodes(BlockDriverState *bs, BlockDriverState **nodes,
                         BlockDriverState **children, int n, Error **errp);
int GRAPH_WRLOCK
quorum_state_change_nodes(BlockDriverState *bs, BlockDriverState **nodes,
                          int n, Transaction *tran, GSList **detached,
                          Error **errp);

/*
 * Make @node, which must be blank, the state node @name, "state.N", beside a
 * child that has none; or take away the state node @child.  As the callbacks
 * bdrv_add_child_tran and bdrv_del_child_tran of BlockDriver.
 */
int GRAPH_WRLOCK
quorum_state_add_node(BlockDriverState *bs, const char *name,
                      BlockDriverState *node, Transaction *tran, Error **errp);
int GRAPH_WRLOCK
quorum_state_del_node(BlockDriverState *bs, BdrvChild *child, Transaction *tran,
                      GSList **detached, Error **errp);

/* --- what others may ask --- */

/* Add the state nodes to @target, as the options take them. */
void GRAPH_RDLOCK quorum_state_gather_options(BlockDriverState *bs,
                                              QDict *target);

/* Whether it is written down how the children are. */
bool quorum_state_in_use(const BDRVQuorumState *s);

/* Whether @child is a state node. */
bool quorum_state_is_node(BdrvChild *child);

/* What is told to management, or NULL. */
QuorumStateInfo *GRAPH_RDLOCK quorum_state_info(BlockDriverState *bs);

#endif /* BLOCK_QUORUM_STATE_H */
