/*
 * Quorum block driver: children that do not answer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A child that does not answer (its server is stopped, without power, behind a
 * cable that was pulled) would keep the requests of the node waiting without
 * end, and with them all that waits for requests: drains, changes of the graph,
 * the monitor (promise 9).  So once a request has been seen to be done by
 * enough other children, those that have not answered child-timeout later are
 * *dropped*: their requests are abandoned (see bdrv_abandon()), and they are
 * *lagging*: asked for nothing, and stale in what they miss, until they answer
 * a probe.
 *
 * How a request is looked at.  The requests in flight are in a list, with the
 * time when their children were asked.  A timer in the main thread goes through
 * that list now and then, while there are any, so all this costs the requests
 * next to nothing.  What concerns one request is done by a bottom half in the
 * thread of the request: so requests stay single-threaded, and one that is in
 * the list can't end meanwhile.  Children are dropped in the main thread: it
 * alone changes the graph, so there it is as it is.
 *
 * All of this works while the main thread waits for a drain, or to change the
 * graph: AIO_WAIT_WHILE runs its timers and bottom halves.
 *
 * L1 Enough.  A child is dropped only if the others have done a request or
 *    could do it; see QuorumRequest.enough.  Where that can't be told from the
 *    request itself (it asks one child after the other, or changes nothing),
 *    other children are probed: enough of them must have answered since.
 * L2 Silence of the dropped.  It counts as one that has missed all that it was
 *    not asked.
 * L3 No time travel.  A write that has failed may still be done by the server:
 *    its range is *late* on the child (quorum_sync_mark_late()) until it has
 *    surely ended, or where no one can tell, for QUORUM_LATE_QUARANTINE_NS from
 *    the first answer of the child on.  That is so for each write that fails,
 *    by whatever cause, while bdrv_late() of the child says that it may come.
 * L4 Bounded.  Whatever waits for a child waits for child-timeout and a tick
 *    after the others have answered; then its requests end by themselves.
 */

#ifndef BLOCK_QUORUM_LATE_H
#define BLOCK_QUORUM_LATE_H

#include "request.h"

/*
 * For how long after the first answer of a child, its writes that have failed
 * may still come, if no one can tell when they have ended.  By then a server
 * that has been stopped, or a network that was cut, has long delivered what it
 * was holding, or lost it.
 */
#define QUORUM_LATE_QUARANTINE_NS (10LL * NANOSECONDS_PER_SECOND)

/* The timer of a node.  In the main thread. */
void quorum_late_init(BlockDriverState *bs);
void quorum_late_cleanup(BlockDriverState *bs);

/* How often requests are looked at; or 1/8 of child-timeout, if that is less */
#define QUORUM_LATE_PERIOD_NS (100 * SCALE_MS)

/* child-timeout; if it is 0, what is used for probes. */
static inline int64_t quorum_timeout_ns(const BDRVQuorumState *s)
{
    return (int64_t)(s->opts.child_timeout_ms ?:
                     QUORUM_CHILD_TIMEOUT_DEFAULT) * SCALE_MS;
}

static inline int64_t quorum_late_period_ns(const BDRVQuorumState *s)
{
    return MIN(quorum_timeout_ns(s) / 8, QUORUM_LATE_PERIOD_NS);
}

/* Arm the timer: there is something to look after.  Any thread. */
void quorum_late_wake(BDRVQuorumState *s);

/*
 * A write of the range, or some other change, has failed on the child of @a:
 * if it may still be done later, the range is late.  The range is held, and the
 * request settled.
 */
void GRAPH_RDLOCK quorum_late_note(const QuorumAnswer *a, int64_t offset,
                                   int64_t bytes);

/*
 * A driver has lost writes that no request has asked for: a format writes
 * metadata for a flush, or to read.  Children to whose metadata there may be
 * late writes are late everywhere.  To be called before a write is sent, and
 * before it is looked who is late: what is lost after that is lost beside that
 * write.
 */
void GRAPH_RDLOCK quorum_late_notice(BlockDriverState *bs);

/* quorum_late_note() for all children that have failed. */
void GRAPH_RDLOCK quorum_late_note_all(const QuorumRequest *req, int64_t offset,
                                       int64_t bytes);

/*
 * The children have answered a write, but for those to which it was not sent,
 * because an older one may still come there.  If too few hold it without them,
 * but enough would with those that are there: wait for the end of the older
 * ones, and ask them, too.  The same goes for children whose driver has sent it
 * twice (see bdrv_late_generation()): the first one may come later, and undo
 * newer ones.
 */
void coroutine_fn GRAPH_RDLOCK quorum_late_send_rest(QuorumRequest *req);

/*
 * Whether the write @req was not sent to the child in slot @i because of an
 * older one, but may be soon.
 */
bool quorum_late_comes_in(const QuorumRequest *req, int i);

/* Whether the child in slot @i has answered a probe since @req asked. */
bool quorum_child_answers(const QuorumRequest *req, int i);

/*
 * Whether enough other members than those that @req waits for have answered a
 * probe since it asked.
 */
bool GRAPH_RDLOCK quorum_others_answer(const QuorumRequest *req);

/*
 * Whether, without those that @req waits for, enough others store all that is
 * to be flushed, but for what the write @w, which may be NULL, will give them.
 * Else the guest's next flush would fail for what those have, and have not
 * lost.  So it is better to wait for them than for @req to go on with children
 * that are back (see quorum_answer_is_back()).
 */
bool GRAPH_RDLOCK quorum_others_store_unflushed(const QuorumRequest *req,
                                                const QuorumWrite *w);

/*
 * Whether the read @req may go on with children that are back, instead of those
 * that it waits for: they have shown that they answer, and nothing that is to
 * be flushed is lacking without the others.
 */
bool GRAPH_RDLOCK quorum_others_are_back(const QuorumRequest *req);

/*
 * @child is new: let it be asked, and warn if it can't be given up although the
 * options say so.  In the main thread.
 */
void GRAPH_RDLOCK quorum_late_attached(BlockDriverState *bs, BdrvChild *child);

/*
 * bdrv_detach_child_tran() of @child.  It may hang without having been noticed:
 * then who closes its node gives it up after child-timeout.
 */
int GRAPH_WRLOCK quorum_late_detach(BlockDriverState *bs, BdrvChild *child,
                                    Transaction *tran, GSList **detached,
                                    Error **errp);

/*
 * The child in slot @i is new there.  What others have asked its node, and
 * given up, may still be done (L3): all of it is late then.  In the main
 * thread; the length of the node is known.
 */
void GRAPH_RDLOCK quorum_late_joined(BlockDriverState *bs, int i);

#endif /* BLOCK_QUORUM_LATE_H */
