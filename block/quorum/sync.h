/*
 * Quorum block driver: who stores what
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A QuorumSync knows of each child of a node where it lacks acknowledged data,
 * and what it may lose if a flush fails on it.  All decisions that count which
 * children store what are made here, each in one critical section: whether a
 * write, a flush or a resize may be acknowledged (promise 1), and which
 * children are stale afterwards (promise 3).
 *
 * A child is *stale* in a range in which it missed an acknowledged write, has
 * lost one, or may have lost one in a flush that enough others have done; a
 * child that is shorter than the node is stale from its end on.  A child is
 * *rebuilding* if it joined with other contents and has not caught up since;
 * see quorum_sync_set_rebuilding().  A child is *excluded* if its length can't
 * be the one of the node: it neither votes nor counts.  A *member* is a child
 * that is there and not excluded.
 *
 * A child is *unsure* in a range if it may have lost what it had acknowledged
 * there: its server was restarted, or a flush has failed on it and it is not
 * known whether the others can do without it.  There it can only support what a
 * member says that is neither stale nor unsure, which is *sure* (promise 10).
 * It ceases to be unsure where a vote confirms it, or a write replaces what it
 * had.
 *
 * A range is *unverified* as long as it is not known of some member whether it
 * lacks something that was acknowledged before the node was opened.  Only the
 * pattern that believes one child cares.
 *
 * A QuorumSync does no I/O and knows nothing of the block layer.  Children are
 * named by their slots, 0 to num_children - 1.  Offsets and lengths are bytes.
 *
 * Thread safety: all functions may be called from any thread.  They take the
 * lock of the QuorumSync themselves, or read atomically what is said to be a
 * hint; nothing yields under the lock.  Functions whose comment says "with all
 * requests drained" may not run beside any other.  (In the driver, children
 * change under the graph write lock.)
 */

#ifndef BLOCK_QUORUM_SYNC_H
#define BLOCK_QUORUM_SYNC_H

#include "qapi/qapi-types-block-core.h"
#include "qemu/queue.h"

/*
 * What is voted on: a part of a request of at most this many bytes, aligned to
 * the disk; and the smallest granule of a stale map.  It is small, so that
 * faults of two children seldom meet in one unit.
 */
#define QUORUM_UNIT 4096

typedef struct QuorumSync QuorumSync;

/* What becomes of a write: see quorum_sync_write_settle(). */
typedef enum QuorumWriteOutcome {
    QUORUM_WRITE_HELD,
    QUORUM_WRITE_REFUSED,
    QUORUM_WRITE_LOST,
    QUORUM_WRITE_UNSURE,
} QuorumWriteOutcome;

/* What becomes of a flush: see quorum_sync_flush_settle(). */
typedef enum QuorumFlushOutcome {
    QUORUM_FLUSH_DONE,
    QUORUM_FLUSH_FAILED,
    QUORUM_FLUSH_UNSURE,
} QuorumFlushOutcome;

/*
 * In how much of a range a child is stale; a child that is unsure in any of it
 * counts as stale in a part.
 */
typedef enum QuorumStaleness {
    QUORUM_STALE_NOWHERE,
    QUORUM_STALE_PARTLY,
    QUORUM_STALE_THROUGHOUT,
} QuorumStaleness;

/*
 * A write, or another request that changes the children like one, from before
 * it is sent to the first child until it is settled or abandoned.  The memory
 * belongs to the caller, the contents to the QuorumSync.
 */
typedef struct QuorumWrite {
    /* If it grows, settling adds what is between the end and the write. */
    int64_t offset;
    int64_t bytes;

    /*
     * [slot]: the child has not done the write, was not asked, or may lose what
     * it was given.  The caller fills it in before settling.
     */
    bool *missed;

    bool fua;
    bool grows;                 /* reaches behind the end, when it began */
    bool sent_again;            /* it was QUORUM_WRITE_LOST before */
    uint64_t flush_generation;  /* of the QuorumSync at the beginning */
    uint64_t begun;             /* the same, and it stays that */
    uint64_t begun_tick;        /* if @fua: QuorumSync.fua_ticks then */
    QTAILQ_ENTRY(QuorumWrite) fua_next;
    QTAILQ_ENTRY(QuorumWrite) checked_next;     /* only for quorum_debug.on */
} QuorumWrite;

/* A child is in another state than before. */
typedef struct QuorumStateChange {
    int child;                  /* its slot */
    QuorumChildState was;
    QuorumChildState state;
    char *why;                  /* for people */
    QSIMPLEQ_ENTRY(QuorumStateChange) next;
} QuorumStateChange;

/* --- creation, and children that come and go --- */

/*
 * A QuorumSync for @num_children slots that are all vacant, and 0 bytes.  @node
 * names it in traces, and must outlive it.
 */
QuorumSync *quorum_sync_new(const char *node, int num_children);
void quorum_sync_free(QuorumSync *sync);

/*
 * Whether slot @i has a child from now on, which is no change of its state.
 * With all requests drained.
 */
void quorum_sync_set_present(QuorumSync *sync, int i, bool present);

/*
 * From now on there are @n slots: slot i is what slot @from[i] was, or if that
 * is negative, vacant.  The caller ends the change, which is returned, with
 * quorum_sync_change_end(): for good if @commit, else everything is what it was
 * before.  All with all requests drained.
 */
typedef struct QuorumSyncChange QuorumSyncChange;
QuorumSyncChange *quorum_sync_change_begin(QuorumSync *sync, const int *from,
                                           int n);
void quorum_sync_change_end(QuorumSync *sync, QuorumSyncChange *change,
                            bool commit);

/* --- what is known of the children --- */

/*
 * Whether some child is stale, unsure, excluded or lagging, or has a write that
 * may still come.  False means that no child is; it is
 * exact where the caller holds off all that could change it, and otherwise a
 * hint that may be outdated when the caller gets it.  Callers may rely on one
 * direction only: a child that was stale before the call began, and still is,
 * is seen.  One atomic load.
 */
bool quorum_sync_is_degraded(QuorumSync *sync);

/*
 * The child in slot @i is stale from now on in the range, which is rounded
 * outwards to whole granules.  @why is for traces.
 */
void quorum_sync_mark_stale(QuorumSync *sync, int i, int64_t offset,
                            int64_t bytes, const char *why);

/*
 * The same for a child that has something else than what is known to be right,
 * which fewer members than the threshold may have.  Those that have it can give
 * it to the others: so a write or a flush for which there are too few copies
 * is QUORUM_WRITE_UNSURE or QUORUM_FLUSH_UNSURE then, as if children were
 * unsure.
 */
void quorum_sync_mark_outvoted(QuorumSync *sync, int i, int64_t offset,
                               int64_t bytes);

/* Whether that is so of some child, which is still stale somewhere. */
bool quorum_sync_any_outvoted(QuorumSync *sync);

/*
 * The child in slot @i joined with other contents: it is stale from end to end,
 * and rebuilding until nothing of it is stale any more and all that it has been
 * given since is flushed.
 *
 * What is stale is forgotten when the node is closed.  For a child that was in
 * sync once that is no danger if the threshold is a majority: any threshold of
 * answers include one of a child that has acknowledged the newest data.  But a
 * newcomer has acknowledged nothing of what is older than itself: blank beside
 * another child that is behind, it would outvote the truth.  So it must not be
 * opened as a voter again before all that it was lacking is on its medium,
 * where a crash can't take it back.
 */
void quorum_sync_set_rebuilding(QuorumSync *sync, int i);
bool quorum_sync_is_rebuilding(QuorumSync *sync, int i);

/* It was rebuilding before; where it is stale, it is told otherwise. */
void quorum_sync_resume_rebuilding(QuorumSync *sync, int i);

/*
 * The length of the child in slot @i can't be that of the node.  It is stale
 * throughout, unless the image is @inactive: then the others are not written
 * to either, and its length may be right again before they are.
 */
void quorum_sync_exclude(QuorumSync *sync, int i, bool inactive,
                         const char *why);

/*
 * The child in slot @i has the length of the node again.  It stays stale, or if
 * @missed_writes is set, becomes stale, throughout.
 */
void quorum_sync_include(QuorumSync *sync, int i, bool missed_writes);
bool quorum_sync_is_excluded(QuorumSync *sync, int i);

/*
 * The child in slot @i has not answered in time, for the reason @why, and is
 * asked for nothing; or it answers again.  It stays a member: it is counted
 * with those that have missed what they were not asked.
 */
void quorum_sync_set_lagging(QuorumSync *sync, int i, bool lagging,
                             const char *why);
bool quorum_sync_is_lagging(QuorumSync *sync, int i);

/*
 * A write to the child in slot @i has failed, but may still reach its disk, any
 * time until quorum_sync_clear_late().  The caller sends nothing to the child
 * in that range until then, for it may be undone: a write that is acknowledged
 * makes the child stale there, and no write or repair ends that.  The range of
 * the write is held.
 */
void quorum_sync_mark_late(QuorumSync *sync, int i, int64_t offset,
                           int64_t bytes);

/*
 * How often quorum_sync_mark_late() was called for the child in slot @i; 0 if
 * nothing is late.  No write to it may come any more that was marked before
 * there were @marks of them: if there are no more now, nothing is late.
 */
uint64_t quorum_sync_late_marks(QuorumSync *sync, int i);
void quorum_sync_clear_late(QuorumSync *sync, int i, uint64_t marks);

/* Whether something is late on the child in slot @i in the range. */
bool quorum_sync_is_late(QuorumSync *sync, int i, int64_t offset,
                         int64_t bytes);

/*
 * The child in slot @i may have lost what it had acknowledged and not flushed:
 * lately at @generation, as bdrv_loss_generation() says, or at @failed_flush,
 * as bdrv_failed_flush_generation() does.  If that was not known, the child is
 * unsure there, and as after quorum_sync_flush_failed(), what is in flight
 * counts as not done.  Returns whether it was not known.
 */
bool quorum_sync_lost(QuorumSync *sync, int i, uint64_t generation,
                      uint64_t failed_flush);

/* What the child in slot @i has lost up to then was before it joined. */
void quorum_sync_know_losses(QuorumSync *sync, int i, uint64_t generation,
                             uint64_t failed_flush);

/* How often quorum_sync_lost() has told of the child in slot @i. */
uint64_t quorum_sync_losses(QuorumSync *sync, int i);

/* Whether some child is unsure.  A hint, one atomic load. */
bool quorum_sync_any_unsure(QuorumSync *sync);

/*
 * The same as quorum_sync_mark_outvoted() where more than that would be stale:
 * the child in slot @i is unsure in the range, which is rounded outwards to
 * whole granules; but not if it is the last one that is sure there, for what is
 * beside the range could not be read any more.
 */
void quorum_sync_doubt_outvoted(QuorumSync *sync, int i, int64_t offset,
                                int64_t bytes);

/* Whether the child in slot @i is unsure in any of the range. */
bool quorum_sync_is_unsure(QuorumSync *sync, int i, int64_t offset,
                           int64_t bytes);

/* In how many bytes the child in slot @i is unsure and not stale. */
int64_t quorum_sync_unsure_bytes(QuorumSync *sync, int i);

/*
 * Whether what the child in slot @i is unsure of must be written again, even if
 * a vote confirms it: a flush has failed on the child, and after that, a cache
 * may go on showing what will never be on the medium.
 */
bool quorum_sync_wants_rewrite(QuorumSync *sync, int i);

/*
 * The range is held, and a vote has confirmed what the child in slot @i says of
 * it; @generation is bdrv_last_loss_generation() from before it was asked.  If
 * it is not known to have lost anything since, and need not be written again,
 * it ceases to be unsure in the granules that are whole in the range.
 */
void quorum_sync_set_sure(QuorumSync *sync, int i, int64_t offset,
                          int64_t bytes, uint64_t generation);

/*
 * Whether the guest has been told, by a flush that failed, of all that may have
 * been lost in the range.
 */
bool quorum_sync_is_told(QuorumSync *sync, int64_t offset, int64_t bytes);

/*
 * Whether some child is unsure in the range, or stale and was outvoted; if so,
 * the range is widened to whole granules.
 */
bool quorum_sync_widen_unsure(QuorumSync *sync, int64_t *offset,
                              int64_t *bytes);

/*
 * Find the first range in [@offset, end of the node) that is unflushed and in
 * which some member is unsure, or stale and was outvoted: [*@start, *@start +
 * *@bytes), in whole granules.
 */
bool quorum_sync_next_unsure(QuorumSync *sync, int64_t offset, int64_t *start,
                             int64_t *bytes);

/* The child in slot @i can't be used any more: its image is corrupt. */
void quorum_sync_set_corrupt(QuorumSync *sync, int i, const char *why);

/* --- the states of the children --- */

QuorumChildState quorum_sync_state(QuorumSync *sync, int i);

/*
 * The oldest change of a state that has not been fetched yet, to be freed with
 * quorum_state_change_free(), or NULL.  Each change can be fetched, once; those
 * of a transaction when it is committed.  One atomic load if there is none.
 */
QuorumStateChange *quorum_sync_next_state_change(QuorumSync *sync);
void quorum_state_change_free(QuorumStateChange *change);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QuorumStateChange, quorum_state_change_free)

/* How many bytes of the child in slot @i are stale. */
int64_t quorum_sync_stale_bytes(QuorumSync *sync, int i);

/* In how many it is stale or unsure. */
int64_t quorum_sync_doubtful_bytes(QuorumSync *sync, int i);

/* Whether the child in slot @i is stale in any of the range. */
bool quorum_sync_is_stale(QuorumSync *sync, int i, int64_t offset,
                          int64_t bytes);

/* Whether it is stale or unsure there, so that it can't be believed alone. */
bool quorum_sync_is_doubtful(QuorumSync *sync, int i, int64_t offset,
                             int64_t bytes);

/* In how much of the range each child is stale: @staleness[slot]. */
void quorum_sync_staleness(QuorumSync *sync, int64_t offset, int64_t bytes,
                           QuorumStaleness *staleness);

/*
 * The same, and for each of the @num_units units that the range touches: sets
 * bit slot * @num_units + u of @units if the child is stale in any of unit u.
 */
void quorum_sync_stale_units(QuorumSync *sync, int64_t offset, int64_t bytes,
                             QuorumStaleness *staleness, unsigned long *units,
                             int num_units);

/*
 * How far from @offset, up to @bytes, each child is either stale or not, and
 * unsure or not: at least 1 byte, if @bytes is not 0.
 */
int64_t quorum_sync_uniform_range(QuorumSync *sync, int64_t offset,
                                  int64_t bytes);

/* How many bytes in the range are stale or unsure, summed over members. */
int64_t quorum_sync_stale_sum(QuorumSync *sync, int64_t offset, int64_t bytes);

/*
 * Find the first range in [@offset, @end) in which, throughout, some member is
 * stale or unsure: [*@start, *@start + *@bytes).  False if there is none.
 */
bool quorum_sync_next_stale(QuorumSync *sync, int64_t offset, int64_t end,
                            int64_t *start, int64_t *bytes);

/*
 * Where the child in slot @i is stale or unsure, the first byte in [@offset,
 * @end), or -1 if nowhere.
 */
int64_t quorum_sync_next_stale_of(QuorumSync *sync, int i, int64_t offset,
                                  int64_t end);

/*
 * Cut [*@start, *@end) down to the granules of stale maps that are whole in it.
 * The last granule of the node is whole with fewer bytes.
 */
void quorum_sync_whole_granules(QuorumSync *sync, int64_t *start, int64_t *end);

/*
 * Widen the range to whole granules of stale maps, within the node's length: a
 * write of it ends any staleness in it.
 */
void quorum_sync_widen(QuorumSync *sync, int64_t *offset, int64_t *bytes);

/* How large a granule of stale maps is, or the node if it is smaller. */
int64_t quorum_sync_granule_bytes(QuorumSync *sync);

/* Whether it is more than a unit: what is stale takes its neighbours along. */
bool quorum_sync_is_coarse(QuorumSync *sync);

/*
 * How much of the range from @start to @end to repair at once: up to a multiple
 * of @chunk, or of what a granule takes if that is more, so that granules of
 * stale maps are whole in it; but in no chunks of more than @most bytes.
 */
int64_t quorum_sync_chunk(QuorumSync *sync, int64_t start, int64_t end,
                          int64_t chunk, int64_t most);

/* --- what is not known of the children --- */

/*
 * All of the node is unverified from now on, or nothing of it, if not
 * @unverified.
 */
void quorum_sync_set_unverified(QuorumSync *sync, bool unverified);

/*
 * The range is held, and all members that are not stale there hold the same,
 * which has won a vote: the granules that are whole in it are verified.
 */
void quorum_sync_set_verified(QuorumSync *sync, int64_t offset, int64_t bytes);

/*
 * Whether some of the range is unverified; if so, the range is widened to whole
 * granules.  One atomic load if nothing of the node is.
 */
bool quorum_sync_widen_unverified(QuorumSync *sync, int64_t *offset,
                                  int64_t *bytes);

/* --- what outlives a restart: see state.h --- */

/*
 * Whether some child lacks something, or might after a crash, and that is not
 * written down.  One atomic load.  Exact for what the caller has settled.
 */
bool quorum_sync_any_unrecorded(QuorumSync *sync);

/* Whether that is so of the child in slot @i. */
bool quorum_sync_is_unrecorded(QuorumSync *sync, int i);

/* Whether the child in slot @i lacks something, or might after a crash. */
bool quorum_sync_is_behind(QuorumSync *sync, int i);

/*
 * That it does is written down from now on, or not, and what it lacks is in its
 * map on state nodes only as far as the next functions say.  Returns what was.
 */
bool quorum_sync_set_recorded(QuorumSync *sync, int i, bool recorded);

/*
 * The map of the child in slot @i is about to be written to state nodes, as it
 * will be from now on: sets the range [*@start, *@end) in which it has come to
 * lack something since that was begun last, and returns whether there is one.
 * What is written in that range is unrecorded until quorum_sync_store_end(),
 * and then again if it is not @done.  One at a time.
 */
bool quorum_sync_store_begin(QuorumSync *sync, int i, int64_t *start,
                             int64_t *end);
void quorum_sync_store_end(QuorumSync *sync, int i, bool done);

/*
 * Set the bits of what the child in slot @i lacks, or might after a crash: bit
 * n of @bits stands for the 1 << @shift bytes from (@first + n) << @shift on,
 * for n below @count.
 */
void quorum_sync_lacking_bits(QuorumSync *sync, int i, int shift,
                              int64_t first, int64_t count,
                              unsigned long *bits);

/*
 * Whether a crash could not make children differ in the range: all that was
 * written there is on their media, and none is unsure of it or unresolved.  The
 * range is held.
 */
bool quorum_sync_is_flushed(QuorumSync *sync, int64_t offset, int64_t bytes);

/*
 * A crash may have left each child its own outcome in the range; or one of
 * them has been chosen, and all members have it there or are stale: that ends
 * it in the granules that are whole in the range.
 */
void quorum_sync_set_unresolved(QuorumSync *sync, int64_t offset,
                                int64_t bytes);
void quorum_sync_set_resolved(QuorumSync *sync, int64_t offset, int64_t bytes);

/* Whether any of the range is unresolved.  One atomic load if nothing is. */
bool quorum_sync_is_unresolved(QuorumSync *sync, int64_t offset,
                               int64_t bytes);

/* The same; if it is, the range is widened to whole granules. */
bool quorum_sync_widen_unresolved(QuorumSync *sync, int64_t *offset,
                                  int64_t *bytes);

/* The first range in [@offset, @end) that is unresolved; false if none is. */
bool quorum_sync_next_unresolved(QuorumSync *sync, int64_t offset, int64_t end,
                                 int64_t *start, int64_t *bytes);
int64_t quorum_sync_unresolved_bytes(QuorumSync *sync);

/* --- writes and repairs --- */

/*
 * A write of the range is about to be sent; @missed[slot] are all false.  This
 * comes before the first child gets the write, so that the range counts as
 * unflushed whenever a flush fails.  If @fua, the range does not, because no
 * flush runs beside the write until it is settled or abandoned (see
 * BDRVQuorumState.flush_lock).
 */
void quorum_sync_write_begin(QuorumSync *sync, QuorumWrite *w, int64_t offset,
                             int64_t bytes, bool fua, bool *missed);

/*
 * All children have answered the write, @w->missed[] is filled in, and the
 * range is still held against others.
 *
 * QUORUM_WRITE_HELD: it may be acknowledged, for at least @threshold members
 * have done it, and in each of its granules as many of these are sure of all
 * that is in the granule.  Children in @w->missed become stale in the range,
 * and also, after a FUA write, in everything that is not flushed yet (their
 * error may have been a flush error).  All others stop being stale or unsure in
 * the granules that the range covers completely.
 *
 * QUORUM_WRITE_REFUSED: no child becomes stale; those on which a FUA write
 * failed become unsure in everything that is not flushed.
 *
 * QUORUM_WRITE_LOST, only if @may_send: children have lost something meanwhile.
 * If it was sent again, they might have it: see quorum_sync_write_again().
 *
 * QUORUM_WRITE_UNSURE, only if @may_vote: enough have it, but too few of them
 * are sure of what is around it.  A vote may change that.
 *
 * Then nothing is decided, as after quorum_sync_write_abandon().
 */
QuorumWriteOutcome quorum_sync_write_settle(QuorumSync *sync, QuorumWrite *w,
                                            int threshold, bool may_send,
                                            bool may_vote);

/* Whether some child has lost something while @w was in flight. */
bool quorum_sync_write_is_lost(QuorumSync *sync, const QuorumWrite *w);

/*
 * If so, @w may be sent to all again: now @w->missed[slot] are all false.
 */
void quorum_sync_write_again(QuorumSync *sync, QuorumWrite *w);

/*
 * Whether quorum_sync_write_settle() would find @w held if the children in
 * @missed[slot] have not done it, or after it has been sent again or voted on;
 * adds those that have failed to flush it, and leaves out those that it would
 * be sent to again.  A vote needs a child that is sure: if only with those in
 * @waited_for[slot], which may be NULL, each granule might have one, it does
 * not count as held without them.
 */
bool quorum_sync_would_hold(QuorumSync *sync, const QuorumWrite *w,
                            bool *missed, const bool *waited_for,
                            int threshold);

/* As above, if writes that may still come have ended by then. */
bool quorum_sync_would_hold_later(QuorumSync *sync, const QuorumWrite *w,
                                  bool *missed, int threshold);

/*
 * @w has ended without being settled as a whole.  If a flush has begun since @w
 * did, the range counts as unflushed again; if a flush has failed on a child
 * meanwhile, the child is in @w->missed.  If @w was FUA, other FUA writes that
 * it may have lost count as unflushed, too.
 */
void quorum_sync_write_abandon(QuorumSync *sync, QuorumWrite *w);

/*
 * A part of the repair @w has been written to the child in slot @i.  The range
 * of @w is held.  Returns whether the child stores that part now: false if it
 * may have lost it already, in a flush that failed or another loss.
 */
bool quorum_sync_repair_settle(QuorumSync *sync, QuorumWrite *w, int i,
                               int64_t offset, int64_t bytes);

/* --- flushes and resizes --- */

/*
 * A flush, or a FUA write that may have failed in its flush, has just failed on
 * the child in slot @i.  What is in flight on it counts as not done.  It is
 * unsure in all that is not flushed, and where it has ceased to be stale or
 * unsure since its last successful flush; all of that is to be written again.
 * So failures up to @failed_flush (see quorum_sync_lost()) are no news any
 * more.
 */
void quorum_sync_flush_failed(QuorumSync *sync, int i, uint64_t failed_flush);

/*
 * A flush is about to be sent.  One flush at a time, and no FUA write beside it
 * until it is settled.
 */
void quorum_sync_flush_begin(QuorumSync *sync);

/*
 * All children have answered the flush; @missed[slot] says which of them have
 * not done it, or were not asked.
 *
 * QUORUM_FLUSH_DONE: it may be acknowledged, for all that had been written is
 * stored by at least @threshold members that have flushed, and are sure where
 * the guest was not told of a loss.  Then those that missed the flush are stale
 * there, and in what was written meanwhile; and where the guest was not told,
 * so are those that are unsure.
 *
 * QUORUM_FLUSH_FAILED: too few have flushed, or what they have flushed is not
 * all.  No child becomes stale, but those on which it failed are unsure.
 * Nothing counts as flushed.
 *
 * QUORUM_FLUSH_UNSURE: enough have flushed, but what they are sure of is not
 * enough; or on the @first try, some of those that have flushed are unsure.  A
 * vote may change that.  Nothing counts as flushed, unless this is the @last
 * try: then what may be lost is not owed any more.
 *
 * If the guest hears of the failure (@heard), it is told of what was to be
 * flushed.
 */
QuorumFlushOutcome quorum_sync_flush_settle(QuorumSync *sync,
                                            const bool *missed, int threshold,
                                            bool heard, bool first, bool last);

/*
 * Whether the members that are not in @missed[slot] are enough to flush, if a
 * vote confirms those that are unsure.
 */
bool quorum_sync_would_flush(QuorumSync *sync, const bool *missed,
                             int threshold);

/*
 * Whether @threshold members that are not in @missed[slot] store all that is
 * not flushed, but for the granules that @w, which may be NULL, covers.
 */
bool quorum_sync_unflushed_has_copies(QuorumSync *sync, const bool *missed,
                                      const QuorumWrite *w, int threshold);

/*
 * The node has @bytes from now on.  What was known of a range that is cut off
 * is forgotten.
 */
void quorum_sync_resize(QuorumSync *sync, int64_t bytes);

/*
 * The resize @w, which was abandoned, has given children something in the range
 * that they have not flushed, and may lose.  Children that may have lost it
 * already are in @w->missed then.
 */
void quorum_sync_set_unflushed(QuorumSync *sync, QuorumWrite *w, int64_t offset,
                               int64_t bytes);

/* Whether there is something that a flush has not covered yet.  A hint. */
bool quorum_sync_any_unflushed(QuorumSync *sync);

/*
 * The length of the node, as acknowledged writes and resizes have made it.  It
 * is exact where the caller holds the range from there on.
 */
int64_t quorum_sync_length(QuorumSync *sync);

/*
 * Children may hold anything from the end of the node up to @end; the largest
 * @end that was ever told.
 */
void quorum_sync_set_touched_end(QuorumSync *sync, int64_t end);
int64_t quorum_sync_touched_end(QuorumSync *sync);

/*
 * The smallest number, anywhere in the range, of members that are not in
 * @missed[slot] and not stale there.
 */
int quorum_sync_count_copies(QuorumSync *sync, const bool *missed,
                             int64_t offset, int64_t bytes);

/* The same, of those that are sure. */
int quorum_sync_count_sure(QuorumSync *sync, const bool *missed,
                           int64_t offset, int64_t bytes);

/*
 * How many members that are not in @missed[slot] will store what the node grows
 * by, up to @bytes, and what is in the same granule of the stale maps.
 */
int quorum_sync_count_growing(QuorumSync *sync, const bool *missed,
                              int64_t bytes);

/*
 * Members in @missed[slot] can't have the length of the node after a resize;
 * what is below @kept stays.  Returns whether the others are enough: they are
 * at least @threshold, and store what stays.  Then those in @missed are
 * excluded.
 */
bool quorum_sync_resize_settle(QuorumSync *sync, const bool *missed,
                               int64_t kept, int threshold);

/* --- looking inside --- */

/*
 * All that is known, as text for people.  Owned by the caller.  Takes no lock,
 * so that a debugger can call it whatever other threads are doing; otherwise,
 * with all requests drained.
 */
char *quorum_sync_text(const QuorumSync *sync);

#endif /* BLOCK_QUORUM_SYNC_H */
