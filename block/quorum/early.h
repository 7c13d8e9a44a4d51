/*
 * Quorum block driver: reads that do not wait for all
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * With early-reads=on a read that holds no range answers when no answer that is
 * still to come could change the winner; so its latency is that of the T-th
 * fastest child.  The coroutine that has asked *leaves*; what is still in
 * flight for it are *stragglers*.
 *
 * What must hold:
 *
 * - All children read into buffers of the request (L5): a straggler never
 *   touches the memory of the guest.
 * - An answer that has not come may be anything: the winner has at least
 *   threshold members, and more than there are children that have not answered,
 *   including those that were not asked.
 * - A request that was left holds the graph lock once more, one count of
 *   bs->in_flight, its buffers and a coroutine for each straggler until its
 *   last straggler has ended.  It stays in BDRVQuorumState.in_flight, so that a
 *   child that does not answer is dropped because of it, too (late.c): drains
 *   and changes of the graph wait for stragglers, but no longer than
 *   child-timeout.
 * - Requests that were left hold at most half of the pool, and
 *   quorum_limits.stragglers_all coroutines, which is an eighth of them; a read
 *   that finds no place left waits for all of its children. A child that has
 *   quorum_limits.stragglers of them is not asked by such reads, as long as
 *   enough others are.
 * - What a straggler says is compared with the winner.  If it differs, a repair
 *   behind the read votes again with the range held: only that accuses a child
 *   (promise 5), and so a lie of a slow child is found, a moment later.
 *
 * Patterns threshold and fifo ask the children that answer fastest, and one
 * more (a *hedge*) if one of them takes longer than it mostly does.  See Dean
 * and Barroso, The Tail at Scale, CACM 2013.
 */

#ifndef BLOCK_QUORUM_EARLY_H
#define BLOCK_QUORUM_EARLY_H

#include "request.h"

/*
 * Defer the children that need not be asked first, so that @need are, or all:
 * the slow ones; of those that are about as fast as each other, each in turn.
 * Now and then a slow one is asked beside the others, as a hedge is.  Fewer
 * than @need are never left.  With @need as many as there are, only those that
 * have too many stragglers already are deferred, down to @least.
 */
void GRAPH_RDLOCK quorum_early_choose(QuorumRequest *req, int need, int least);

/*
 * Of the children that take part and have not been asked, the one that should
 * answer first; those that are about as fast as each other come in turn, and
 * now and then a slow one does.  NULL if there is none.
 */
QuorumAnswer *GRAPH_RDLOCK quorum_early_fastest(QuorumRequest *req);

/*
 * Ask the children that take part, and wait until they are enough, or can't
 * agree, or all of them have answered; if @hedge, ask a deferred one if one is
 * late or fails.  Followed by quorum_request_leave().
 */
void coroutine_fn GRAPH_RDLOCK quorum_ask_early(QuorumRequest *req,
                                                QuorumEarlyFn *judge,
                                                bool hedge);

/*
 * Done with @req: free it, or leave it to its stragglers, which are to be
 * compared with @winner, unless that is NULL.
 */
void coroutine_fn GRAPH_RDLOCK quorum_request_leave(QuorumRequest *req,
                                                    QuorumAnswer *winner);

/* --- latencies --- */

/* The child of @a has just answered a request that is measured. */
void quorum_note_latency(const QuorumAnswer *a);

/*
 * How long small requests of the @kind take in @slot, in us, on average over
 * the last ones; negative if that has not been measured.
 */
int64_t quorum_latency_us(const QuorumSlot *slot, QuorumLatencyKind kind);

#endif /* BLOCK_QUORUM_EARLY_H */
