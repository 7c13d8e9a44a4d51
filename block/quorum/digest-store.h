/*
 * Quorum block driver: digests that outlive a close
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The table of digests (digest.h) may be kept on a node, the *store*, named
 * "digests", of which digest-format.h says what is on it.  It takes part in
 * nothing else: it has no vote, and no request needs it.  If it is lost, so are
 * digests: what they were of is voted on again.  But if it were wrong, reads of
 * right data would fail.  So the rules are about when it counts.
 *
 * What ties it to the disk is a random *stamp*, in its header and in the labels
 * of the state nodes (state.h), and what makes it right again after a crash are
 * their marks: what is marked, the store may be wrong about.
 *
 * P1 Of a unit of a region that is not durably marked, the store says that it
 *    is unknown, or what is right, in any state that a crash may leave it in,
 *    as long as the durable label names a stamp of its header.
 * P2 The label names a stamp only after a header with it is durable; and what
 *    the store says while it has another stamp, or none, counts for nothing.
 * P3 No request waits for the store longer than child-timeout and a tick each
 *    time that it looks for digests, which is twice at most; and nothing that
 *    was written to the store late, or in vain, ever counts.
 *
 * Why P1 holds.  A request that changes a unit does three things in this order,
 * with the range held: the region is marked, durably (R1 of state.h); the unit
 * becomes unknown in the table, whose page becomes dirty if the store might
 * have another opinion (D1 of checked.h, T1 and T2 of digest.h); the children
 * are asked.  So a crash at any time from the first child on finds the mark.
 * What is left is the moment when a mark is taken away: quorum_state_unmark(),
 * with the range held, and a clean close.  Neither does so before all pages
 * that overlap the region are *clean*: since the last change there, each was
 * copied from the table, written, and then flushed, so no older page can come
 * back.  From then on, the unit can't change without a mark, and pages that are
 * written meanwhile have nothing else to say of it: what a vote remembers of it
 * is news only where the table, and so the store, said that it is unknown, and
 * a unit of which the store has to be asked (it is elsewhere) no vote may
 * remember.  A page that was torn counts as all unknown; and as one that can't
 * be read, or looks damaged, may be whole when it is read again, it is dirty.
 *
 * What is marked when the disk is opened counts as changed just then.  (After a
 * clean close, too, where marks stay only on what could not be flushed: of what
 * may be lost, it is better to know nothing.)
 *
 * Who changes a unit otherwise?  A resize goes the way of a write.  A repair
 * writes what the disk holds already.  Where an operator decides, or a loss was
 * told to the guest and is accepted, what the disk holds changes: that is
 * marked like a write.  Other programs: those that know of no store write a
 * label without a stamp, at the latest when their session begins (R4), and so
 * does this one for a store that it does not use.
 *
 * The store is in one of three states:
 *
 *   fresh    What is on it does not count, and it is not written to.  When a
 *            session has begun, so that no label names an old stamp, it gets a
 *            header with a new stamp and a new *page key*, without which no
 *            page counts.  Then it is in use, and the label gets the stamp.
 *   in use   What is on it counts.  At the beginning of each session, and at a
 *            clean close, the stamp is *renewed*: first a header with both the
 *            new and the previous stamp, which is the one in the durable label,
 *            then the label.  A crash in between leaves a label with one of
 *            both.  A store that was put back to what it was before is found
 *            out by that; so no mark is taken away in a session before that.
 *   off      It has failed, or did not answer in time.  The label names no
 *            stamp any more, and no mark is taken away before that is durable.
 *            It stays off until the quorum is opened again; then it is fresh.
 *
 * Why nothing that comes late counts.  A write that has failed, or was not
 * waited for, may still be done; but it is what makes the store off, and
 * whoever uses the store again gives it another page key.  Writes of a QEMU
 * that was killed are a different case, as the store counts afterwards: pages
 * that it has sent may come over those that are written later, so after a crash
 * no page is written for QUORUM_LATE_QUARANTINE_NS, but by a clean close; and
 * what is dirty stays marked so long.  (The same is done, and left open, for
 * state nodes.)
 *
 * Why no wait is unbounded.  All I/O is done by coroutines that belong to no
 * request, in quorum_store_do(), with buffers of their own.  Who waits for one
 * waits in a queue, until it has ended or the store is off; and a timer of the
 * main loop, which runs during drains, too, makes it off when an I/O takes
 * longer than child-timeout (if that is 0, its default), and has the node's
 * requests abandoned, where the driver can do that.  While a page is read or
 * written, others that need it wait, for no longer than that all together, and
 * then go on as if nothing was known.  Who waits may hold a range, but whoever
 * is waited for takes none.
 *
 * Order of taking things: a range, the layout lock and the lock of the state,
 * under which all of this is, then the lock of the table.
 */

#ifndef BLOCK_QUORUM_DIGEST_STORE_H
#define BLOCK_QUORUM_DIGEST_STORE_H

#include "block/block_int.h"
#include "qapi/qapi-types-block-core.h"
#include "quorum-int.h"

/* The name of the child, and the option that says which node it is. */
#define QUORUM_STORE_CHILD QUORUM_OPT_DIGESTS

/* --- in the main thread --- */

/*
 * Attach the node that @options name, if they do; the options are deleted.  The
 * state nodes are attached.  Returns 0, or -EINVAL with @errp set.
 */
int quorum_store_attach(BlockDriverState *bs, QDict *options, Error **errp);
void GRAPH_WRLOCK quorum_store_detach(BlockDriverState *bs);

/* Whether @child is the store. */
bool quorum_store_is_node(const BDRVQuorumState *s, const BdrvChild *child);

/* Whether the table of the node may become what @opts want. */
bool quorum_store_check_opts(const BDRVQuorumState *s,
                             const QuorumOptions *opts, Error **errp);

/* Add the store to @target, as the options take it. */
void GRAPH_RDLOCK quorum_store_gather_options(BlockDriverState *bs,
                                              QDict *target);

/* The image is not ours any more: the store does not count. */
void quorum_store_unload(BDRVQuorumState *s);

/* What is told to management, or NULL. */
QuorumDigestsInfo *GRAPH_RDLOCK quorum_store_info(BlockDriverState *bs);
void quorum_store_fill_stats(const BDRVQuorumState *s,
                             QuorumCheckedStats *stats);

/* --- for requests --- */

/* Load all of the range that is elsewhere, or do without after a while. */
void coroutine_fn GRAPH_RDLOCK
quorum_store_do_fetch(BlockDriverState *bs, int64_t offset, int64_t bytes);

static inline void coroutine_fn GRAPH_RDLOCK
quorum_store_fetch(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    if (unlikely(s->store)) {
        quorum_store_do_fetch(bs, offset, bytes);
    }
}

/*
 * Forget all digests, also those of the store, if there is one: durably, or
 * else returns -errno with @errp set, and they are forgotten until the node is
 * opened again.
 */
int coroutine_fn GRAPH_RDLOCK quorum_store_forget(BlockDriverState *bs,
                                                  Error **errp);

/* --- for state*.c --- */

/*
 * The state nodes were read, when the node was opened, or @activated: see
 * whether the store counts.  Returns 0, also if it does not, or -errno with
 * @errp set if it is a mistake to use it; if it is @activated, it is off then.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_store_co_load(BlockDriverState *bs, bool activated, Error **errp);

/* Whether there is a store, and what is on it counts. */
bool quorum_store_is_in_use(const BDRVQuorumState *s);

/* A session begins: the next label names no stamp that does not count. */
void quorum_store_begin_session_locked(QuorumState *st);

/* P1: whether the mark of the range, which is held, may be taken away. */
bool quorum_store_may_unmark_locked(const QuorumState *st, int64_t offset,
                                    int64_t bytes);

/*
 * Make the @n ranges of @bytes bytes at @offsets, which ascend, clean, as far
 * as that can be done now.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_store_clean(BlockDriverState *bs, const int64_t *offsets, int n,
                   int64_t bytes);

/* Write some of what is news. */
void coroutine_fn GRAPH_RDLOCK quorum_store_write_news(BlockDriverState *bs);

/*
 * Whether a stamp is to be made or renewed, or there is much to write; do that.
 * It waits for no state node, so it may be done while a round does.
 */
bool quorum_store_is_due(QuorumState *st);
void coroutine_fn GRAPH_RDLOCK quorum_store_tick(BlockDriverState *bs);

/* Whether there is something that a clean close would write. */
bool quorum_store_has_news(QuorumState *st);

/*
 * A clean close: write everything, and renew the stamp; or make the store off,
 * durably.  Returns 0, or -errno if not even that could be done.  All requests
 * are drained, and a session has begun.
 */
int coroutine_fn GRAPH_RDLOCK quorum_store_close(BlockDriverState *bs);

/*
 * The timer: look for I/O that takes too long.  Returns whether there is
 * anything to be looked after.  In the main thread.
 */
bool GRAPH_RDLOCK quorum_store_look(BlockDriverState *bs);

#endif /* BLOCK_QUORUM_DIGEST_STORE_H */
