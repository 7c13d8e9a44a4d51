/*
 * Quorum block driver: shared structures
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A quorum node keeps N replicas of one disk on N children and believes none of
 * them alone: it writes to all, reads and votes.
 *
 * What it promises; code and tests cite these numbers, and why it keeps them is
 * in docs/devel/quorum.rst.
 *
 * 1. Acknowledged means held.  A write is acknowledged only if at least
 *    threshold children took it and are not stale there; those that failed it
 *    are stale before the guest hears of success.
 * 2. Never a guess.  A read (except pattern fifo, which does not vote) returns
 *    a winner for every unit, or an error.  A tie has no winner.
 * 3. Stale children are silent.  A child that is known to lack acknowledged
 *    data does not vote there.
 * 4. Same order everywhere.  Overlapping writes reach all children in one
 *    order.
 * 5. No false alarm.  A read that overlaps a write in flight neither fails nor
 *    reports a child because of it.
 * 6. Repair never goes back in time, and never guesses.  It holds the range
 *    against writes, votes again under that hold, writes from a private buffer,
 *    and only if the winner outnumbers all other children together, those
 *    that failed included.
 * 7. One bad child is one bad child.  Whatever one child does costs that child,
 *    not the disk, while threshold others are well.
 * 8. Bounded memory.  What the driver itself holds is capped.
 *
 * A child is *stale* in a range in which it missed an acknowledged write, or
 * may have lost one in a flush that failed.
 */

#ifndef BLOCK_QUORUM_INT_H
#define BLOCK_QUORUM_INT_H

#include "block/block_int.h"
#include "block/buffer-pool.h"
#include "block/range-lock.h"
#include "qemu/hbitmap.h"
#include "qemu/queue.h"
#include "qemu/stats64.h"
#include "qemu/thread.h"
#include "qemu/units.h"

/*
 * What is voted on: a piece of a request of at most this many bytes, aligned to
 * the disk; and the smallest granule of a stale map.  Small, so that two
 * children's misfortunes seldom meet in one unit.
 */
#define QUORUM_UNIT 4096

/* How often a child was wrong, and what was done about it.  Atomic. */
typedef struct QuorumCounters {
    Stat64 read_errors;         /* requests that failed on the child */
    Stat64 write_errors;
    Stat64 flush_errors;
    Stat64 mismatches;          /* reads in which it was outvoted */
    Stat64 repaired_bytes;
} QuorumCounters;

/* The place N in the list of children: what is known of children.N. */
typedef struct QuorumSlot {
    /* NULL if vacant.  Written at open, then under the graph write lock. */
    BdrvChild *child;

    /*
     * The child's length is not the one that the children agree on, so it
     * neither votes nor counts as a holder.  It is stale throughout.  Atomic:
     * a resize that fails on the child sets it while other requests are in
     * flight, below the range that the resize holds.
     */
    bool out;

    /*
     * The child is not in sync: it was added with other contents, and since
     * then there has always been something of it that was stale, or not flushed
     * since it was cured.  See quorum_set_rebuilding().  Written under
     * BDRVQuorumState.lock, read without.
     */
    bool rebuilding;

    /*
     * A repair of the child has failed, and no write has succeeded since: it is
     * dead, full or read-only, and not each read need try again.  Atomic.
     */
    bool repair_failed;

    /*
     * Where the child lacks what has been acknowledged; NULL if nowhere.  Under
     * BDRVQuorumState.lock.
     */
    HBitmap *stale;

    /*
     * Where it has ceased to be stale since its last good flush: [0] after the
     * last flush began, which may have come too early for what the child got
     * there, [1] before.  If a flush fails on it, that is undone.  NULL if
     * nowhere.  Under BDRVQuorumState.lock.
     */
    HBitmap *cured[2];

    /*
     * BDRVQuorumState.flush_epoch when a flush or a FUA write was last seen to
     * fail on the child: what was in flight then may be lost on it.  Under
     * BDRVQuorumState.lock.
     */
    uint64_t lost_epoch;

    /*
     * The kinds of operation (bits of QuorumOpType) for which the scrub at work
     * has reported the child.  Only the scrub uses it.
     */
    unsigned scrub_reported;

    QuorumCounters counters;

    /* Why the slot is vacant, if its child could not be opened.  Set once. */
    char *error;
} QuorumSlot;

/*
 * A write, or what changes the children like one, from before it is sent until
 * it is settled.  It belongs to the request.
 */
typedef struct QuorumWrite {
    int64_t offset;
    int64_t bytes;
    bool *failed;               /* [slot]: has not done it, or may lose it */
    uint64_t epoch;             /* BDRVQuorumState.flush_epoch at the begin */
    bool fua;
    uint64_t begun;             /* if fua: BDRVQuorumState.fua_clock then */
    QTAILQ_ENTRY(QuorumWrite) next;
} QuorumWrite;

/* A FUA write that was acknowledged, while others were in flight. */
typedef struct QuorumFuaDone {
    int64_t offset;
    int64_t bytes;
    uint64_t ended;             /* BDRVQuorumState.fua_clock then */
    QSIMPLEQ_ENTRY(QuorumFuaDone) next;
} QuorumFuaDone;

typedef struct QuorumOptions {
    int threshold;              /* 1..occupied slots */
    bool blkverify;             /* exit at the first difference */
    bool rewrite_corrupted;     /* repair on read */
    QuorumReadPattern read_pattern;
    bool open_degraded;         /* do without children that can't be opened */
} QuorumOptions;

/*
 * Order of taking things: graph read lock, all the memory that is needed from
 * the pool, range_lock, sync_lock, lock.
 */
typedef struct BDRVQuorumState {
    /* Set when the node is opened or, with all requests drained, reopened. */
    QuorumOptions opts;

    /*
     * The slots; a slot's index never changes.  The array grows under the graph
     * write lock only, so pointers into it hold while the graph lock is held.
     */
    QuorumSlot *slots;
    int num_slots;

    /*
     * There is a scrub of the node, and it repairs: it is a user of the
     * children's write permission.  In the main thread only.
     */
    bool scrub;
    bool scrub_repairs;

    /* What reads compare (promise 8). */
    BufferPool pool;

    /* Pattern threshold: whom the next read spares first.  Atomic. */
    unsigned next_spare;

    /*
     * Held by writes, by repairs, and by reads that could not decide without
     * it (promises 4 to 6).  Taken with the graph read lock held and all memory
     * at hand; one range at a time.
     */
    RangeLock range_lock;

    /*
     * A flush holds it alone, FUA writes share it.  A FUA write that fails on a
     * child may have lost what was written before, and that may become known
     * only after a flush of the child, later but answered sooner, has succeeded
     * and seemed to prove that nothing was lost.  So a flush of all children
     * has no FUA write beside it.
     */
    CoRwlock sync_lock;

    /* Protects the maps and what is below.  Nothing yields under it. */
    QemuMutex lock;

    /*
     * Slots that have a stale map, or for a moment more.  Written under lock,
     * read without.
     */
    int stale_slots;

    /*
     * The maps cover [0, map_bytes), the node or more if it has tried to grow;
     * a granule is 1 << stale_shift bytes.
     */
    int64_t map_bytes;
    int stale_shift;

    /*
     * What was written and not flushed yet, a bit for 1 << unflushed_shift
     * bytes: a child whose flush fails may have lost any of it.  A flush moves
     * it to flushing, and there it stays until the flush has ended; there is
     * one at a time (sync_lock).
     */
    unsigned long *unflushed;
    unsigned long *flushing;
    int unflushed_shift;

    /*
     * FUA writes are flushed when they are acknowledged, but for one thing:
     * another one that was in flight at the same time, and fails, may have lost
     * what the first one wrote before that was flushed.  So the clock ticks
     * whenever one begins or ends; those in flight are here in the order of
     * their beginnings; and those that were acknowledged, in the order of their
     * ends, until all that began before have ended.
     */
    uint64_t fua_clock;
    QTAILQ_HEAD(, QuorumWrite) fua_writes;
    QSIMPLEQ_HEAD(, QuorumFuaDone) fua_done;
    int num_fua_done;

    /*
     * Grows when a flush begins and when a flush or a FUA write has failed on a
     * child: a write that sees it change has been in flight meanwhile.  Written
     * under lock, read without.
     */
    Stat64 flush_epoch;
} BDRVQuorumState;

/* What is wrong with units, in bytes: each unit counts once in each of them. */
typedef struct QuorumFigures {
    int64_t mismatched;         /* a child has other data than the winner */
    int64_t missing;            /* a child is stale there, or can't read */
    int64_t repaired;           /* nothing is wrong with it any more */
    int64_t unrepairable;       /* no winner, too weak a one, or can't write */
} QuorumFigures;

/* A scrub, as its requests see it.  They come one after the other. */
typedef struct QuorumScrub {
    bool repair;                /* if not, it only counts */
    bool failure_reported;      /* QUORUM_FAILURE has been sent */

    /*
     * What quorum_co_scrub() has found in its range: in units that have been
     * repaired, and in the others, where it would find the same again.
     */
    QuorumFigures mended;
    QuorumFigures left;
    bool write_failed;          /* what it returns is the error of a write */
} QuorumScrub;

/* Whether @slot takes part in I/O. */
static inline bool GRAPH_RDLOCK quorum_slot_is_in(const QuorumSlot *slot)
{
    return slot->child && !qatomic_read(&slot->out);
}

/* --- stale-map.c: what is known of the children --- */

/*
 * Everything here takes BDRVQuorumState.lock, or, where it says so, wants it
 * held.  Offsets and lengths are in bytes.
 */

/* Get ready to know something about the children in @slots vacant slots. */
void quorum_slots_init(BDRVQuorumState *s, int slots);
void quorum_slots_destroy(BDRVQuorumState *s);

/*
 * From now on there are @n slots: slot i is what slot @from[i] was, or if that
 * is negative, vacant.  All requests are drained, and the graph write lock is
 * held, until the caller ends the change, which the function returns, with
 * quorum_slots_change_end(): either for good (@commit), and what is known of
 * the slots that are not among @from is forgotten, or going back to what was.
 */
typedef struct QuorumSlotsChange QuorumSlotsChange;
QuorumSlotsChange *quorum_slots_change_begin(BDRVQuorumState *s,
                                             const int *from, int n);
void quorum_slots_change_end(BDRVQuorumState *s, QuorumSlotsChange *change,
                             bool commit);

/*
 * The node has @bytes from now on.  What was known of a range that is cut off
 * is forgotten.
 */
void quorum_maps_resize(BDRVQuorumState *s, int64_t bytes);

/*
 * The child in slot @i lacks acknowledged data in [@offset, @offset + @bytes),
 * which is rounded outwards to whole granules.
 */
void quorum_set_stale(BDRVQuorumState *s, int i, int64_t offset,
                      int64_t bytes);

/*
 * The child in slot @i is a newcomer with other contents: it is stale from end
 * to end, and not in sync until nothing of it is stale any more and what cured
 * it has been flushed.
 *
 * What is stale is forgotten when the node is closed.  For a child that was in
 * sync once that is no danger if vote-threshold is a majority: any threshold of
 * answers include one of a child that has acknowledged the newest data.  But
 * a newcomer has acknowledged nothing of what is older than itself: blank
 * beside another child that is behind, it would outvote the truth.  So it must
 * not be opened as a voter again before all that it was lacking is on its
 * medium, where a crash can't take it back.
 */
void quorum_set_rebuilding(BDRVQuorumState *s, int i);

/* The child in slot @i has another length than the node: it is out. */
void quorum_put_out(BDRVQuorumState *s, int i);

/* How many bytes of the child in slot @i are stale. */
int64_t quorum_stale_bytes(BDRVQuorumState *s, int i);

/*
 * Whether the child in slot @i is stale in any of the range, or in all of it.
 * Called with lock held.
 */
bool quorum_is_stale(BDRVQuorumState *s, int i, int64_t offset, int64_t bytes);
bool quorum_is_all_stale(BDRVQuorumState *s, int i, int64_t offset,
                         int64_t bytes);

/*
 * How far from @offset, up to @bytes, each child is either stale or not.
 * Called with lock held.
 */
int64_t quorum_stale_run(BDRVQuorumState *s, int64_t offset, int64_t bytes);

/* How many bytes of all children that are in are stale in the range. */
int64_t GRAPH_RDLOCK quorum_stale_sum(BDRVQuorumState *s, int64_t offset,
                                      int64_t bytes);

/*
 * Find the first range in [@offset, @end) in which, throughout, some child that
 * is in is stale: [*@start, *@start + *@bytes).  False if there is none.
 */
bool GRAPH_RDLOCK quorum_next_stale(BDRVQuorumState *s, int64_t offset,
                                    int64_t end, int64_t *start,
                                    int64_t *bytes);

/*
 * Cut [*@start, *@end) down to the granules that are whole in it.  The last one
 * of the node is whole with fewer bytes.
 */
void quorum_whole_granules(BDRVQuorumState *s, int64_t *start, int64_t *end);

/*
 * Widen the range to whole granules of all stale maps, within the node's
 * length: a write of it ends any staleness in it.
 */
void quorum_stale_widen(BDRVQuorumState *s, int64_t *offset, int64_t *bytes);

/* --- settle.c: what becomes of requests that change the children --- */

/*
 * As stale-map.c: it takes BDRVQuorumState.lock, and offsets and lengths are
 * in bytes.
 */

/*
 * A write of the range is about to be sent, @failed[slot] all false; if @fua,
 * sync_lock is held until it has been settled, or ended.  This comes before the
 * first child gets it, so that the range counts as unflushed whenever a flush
 * fails.
 */
void quorum_write_begin(BDRVQuorumState *s, QuorumWrite *w, int64_t offset,
                        int64_t bytes, bool fua, bool *failed);

/*
 * The write @w has ended, with @w->failed[] set for those that did not do it,
 * or were not asked.  Its range is still held.  Returns whether it may be
 * acknowledged: at least threshold children hold it (promise 1).  Then those
 * that failed are stale in the range, and those that did not are not, in its
 * whole granules.  If it is FUA, which failed children may owe to a flush, they
 * are stale in all that is not flushed, too.  If not, nobody becomes stale.
 */
bool GRAPH_RDLOCK quorum_write_settle(BDRVQuorumState *s, QuorumWrite *w);

/*
 * A piece of the repair @w has been written to slot @i.  The range of @w is
 * held.  Returns whether the child is not stale there any more: false if it may
 * have lost the piece already.
 */
bool GRAPH_RDLOCK quorum_repair_settle(BDRVQuorumState *s, QuorumWrite *w,
                                       int i, int64_t offset, int64_t bytes);

/*
 * @w, which is not to be settled, has ended: should a flush have begun since it
 * did, its range is still unflushed, and should it have failed on a child,
 * that one has failed @w.
 */
void GRAPH_RDLOCK quorum_write_end(BDRVQuorumState *s, QuorumWrite *w);

/*
 * The child in slot @i has just failed a flush, or a FUA write, which may have
 * been a flush.  What is in flight may be lost on it, and what had cured it
 * since its last good flush.  Called with sync_lock held.
 */
void quorum_note_loss(BDRVQuorumState *s, int i);

/* A flush is about to be sent.  sync_lock is held until it is settled. */
void quorum_flush_begin(BDRVQuorumState *s);

/*
 * The flush has ended; @failed[slot] says which children have not done it, or
 * were not asked.  Returns whether it may be acknowledged: all that had been
 * written is held by at least threshold children that did it.  Then those that
 * failed are stale there, and in what was written meanwhile.  If not, nobody
 * becomes stale (but see cured), and nothing counts as flushed.
 */
bool GRAPH_RDLOCK quorum_flush_settle(BDRVQuorumState *s,
                                      const bool *failed);

/*
 * A resize has ended; @failed[slot] as for a flush, and what is below @kept
 * stays.  Returns whether it may be acknowledged: at least threshold children
 * did it, and they hold what stays without the others.  Then those that failed
 * are out.
 */
bool GRAPH_RDLOCK quorum_resize_settle(BDRVQuorumState *s, const bool *failed,
                                       int64_t kept);

/* --- info.c: what management is told --- */

/*
 * What query-blockstats shows of the node.  Owned by the caller.  Any thread,
 * the graph lock held.  No event is lost or counted twice; but the figures are
 * read one after the other, so with requests in flight they may be of
 * different moments.
 */
BlockStatsSpecific *GRAPH_RDLOCK quorum_get_stats(BlockDriverState *bs);

/*
 * The format-specific information: how each child is.  Owned by the caller.
 * Any thread, the graph lock held.  Does not fail.
 */
ImageInfoSpecific *GRAPH_RDLOCK
quorum_get_specific_info(BlockDriverState *bs, Error **errp);

/* --- global state: in the main loop, under the BQL --- */

/* quorum.c */

#define QUORUM_OPT_BLKVERIFY         "blkverify"
#define QUORUM_OPT_CHILDREN          "children."

/* "children.@i", the name of the child in slot @i.  Owned by the caller. */
char *quorum_child_name(int i);

/* Whether the value of @key in @options stands for a vacant slot. */
bool quorum_key_is_vacant(QDict *options, const char *key);

/*
 * Read all @options but the children into @o, and delete them.  There are
 * @slots children, and @occupied of them are given.  Returns 0, or -EINVAL with
 * @errp set.
 */
int quorum_read_options(QuorumOptions *o, QDict *options, int slots,
                        int occupied, Error **errp);

/* graph.c: the callbacks of BlockDriver, and what they share */

/* The children have changed: set the supported flags of @bs. */
void GRAPH_RDLOCK quorum_refresh_flags(BlockDriverState *bs);

/*
 * The options are @opts from now on, and the children the @n @nodes, in their
 * slots, NULL standing for nobody.  What is known of a node moves with it; one
 * that was not a child is stale throughout, unless @in_sync.  For the other
 * arguments, see BlockDriver.bdrv_add_child_tran.  Returns 0, or -errno with
 * @errp set and changes in @tran to be undone.
 */
int GRAPH_WRLOCK
quorum_change_children(BlockDriverState *bs, const QuorumOptions *opts,
                       BlockDriverState **nodes, int n, bool in_sync,
                       Transaction *tran, GSList **detached, Error **errp);

void GRAPH_RDLOCK
quorum_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                  BlockReopenQueue *reopen_queue, uint64_t perm,
                  uint64_t shared, uint64_t *nperm, uint64_t *nshared);
bool GRAPH_RDLOCK quorum_recurse_can_replace(BlockDriverState *bs,
                                             BlockDriverState *to_replace);
bool GRAPH_RDLOCK quorum_recurse_can_snapshot(BlockDriverState *bs);

int GRAPH_WRLOCK
quorum_add_child(BlockDriverState *bs, const char *name, BlockDriverState *node,
                 bool in_sync, Transaction *tran, GSList **detached,
                 Error **errp);
int GRAPH_WRLOCK
quorum_del_child(BlockDriverState *bs, BdrvChild *child, Transaction *tran,
                 GSList **detached, Error **errp);

void GRAPH_RDLOCK quorum_reopen_parse_children(BlockDriverState *bs,
                                               QDict *options);
int GRAPH_UNLOCKED quorum_reopen_prepare(BDRVReopenState *state,
                                         BlockReopenQueue *queue, Error **errp);
int GRAPH_WRLOCK
quorum_reopen_change_children(BDRVReopenState *state, Transaction *tran,
                              GSList **detached, Error **errp);
void GRAPH_UNLOCKED quorum_reopen_commit(BDRVReopenState *state);
void GRAPH_UNLOCKED quorum_reopen_abort(BDRVReopenState *state);

/* --- requests; offsets and lengths in bytes, 0 or -errno --- */

/* read.c */

int coroutine_fn GRAPH_RDLOCK
quorum_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags);

/* The largest range that quorum_co_scrub() takes. */
int64_t quorum_read_most(BlockDriverState *bs);

/* read-locked.c */

/*
 * Read the range from all children whatever the read pattern is, vote with the
 * range held, and, if @scrub wants that, write the winners over all that is not
 * alike, as far as promise 6 allows it.  [@offset, @offset + @bytes) is aligned
 * to QUORUM_UNIT or ends where the node does; only what covers a whole granule
 * of a stale map ends being stale.  @scrub tells what has been found.
 *
 * Returns 0, or the error of the first thing that went wrong: -errno of a write
 * (scrub->write_failed is set), of reads that leave a unit without a winner, or
 * -EIO.  Without scrub->repair, all is well as long as each unit has a winner.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_co_scrub(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QuorumScrub *scrub);

/* write.c */
int coroutine_fn GRAPH_RDLOCK
quorum_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
quorum_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
quorum_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int coroutine_fn GRAPH_RDLOCK quorum_co_flush(BlockDriverState *bs);
int coroutine_fn GRAPH_RDLOCK
quorum_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                   PreallocMode prealloc, BdrvRequestFlags flags,
                   Error **errp);

/* request.c */

/* The length that the children agree on, or -errno if they do not. */
int64_t coroutine_fn GRAPH_RDLOCK quorum_co_getlength(BlockDriverState *bs);

/* What the children occupy together; those that can't tell don't count. */
int64_t coroutine_fn GRAPH_RDLOCK
quorum_co_get_allocated_file_size(BlockDriverState *bs);

int coroutine_fn GRAPH_RDLOCK
quorum_co_get_info(BlockDriverState *bs, BlockDriverInfo *bdi);

bool coroutine_fn GRAPH_RDLOCK quorum_co_is_inserted(BlockDriverState *bs);

int coroutine_fn GRAPH_RDLOCK
quorum_co_block_status(BlockDriverState *bs, bool want_zero, int64_t offset,
                       int64_t bytes, int64_t *pnum, int64_t *map,
                       BlockDriverState **file);

/*
 * Send QUORUM_REPORT_BAD for @child: it failed the operation @type with @error
 * (a text for people), or, if that is NULL, answered with what is not the
 * winner.  [@offset, @offset + @bytes) is the whole request.  Any thread.
 */
void GRAPH_RDLOCK
quorum_report_bad(QuorumOpType type, int64_t offset, int64_t bytes,
                  BdrvChild *child, const char *error);

#endif /* BLOCK_QUORUM_INT_H */
