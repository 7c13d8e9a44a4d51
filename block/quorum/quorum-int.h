/*
 * Quorum block driver: the promises, and the state of a node
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
 *    order, and each as the same data (with stable-writes=on: also if the guest
 *    changes its buffer meanwhile).
 * 5. No false alarm.  A read that overlaps a write in flight neither fails nor
 *    reports a child because of it.
 * 6. Repair never goes back in time, and never guesses.  It holds the range
 *    against writes, votes again under that hold, writes from a private buffer,
 *    and only if the winner outnumbers all other children together, those
 *    that failed included.  Where there is no winner, an operator may say to
 *    a scrub which child is to decide.
 * 7. One bad child is one bad child.  Whatever one child does costs that child,
 *    not the disk, while threshold others are well.
 * 8. Bounded memory.  What the driver itself holds is capped: buffers, maps,
 *    and coroutines beyond the one that each request comes with.
 * 9. Silence costs its latency once.  While enough others have done a request,
 *    a child that does not answer delays it by at most child-timeout, and from
 *    then on it delays nothing.  When its old requests have ended, it comes
 *    back, stale where it missed something.  What it was asked before may still
 *    reach its disk later, and never undoes newer data unnoticed.
 * 10. A loss is never outvoted, and never kept quiet.  A child that may have
 *    lost what it had acknowledged supports only what a child says that has
 *    lost nothing.  Where too few are left, the flush that should have covered
 *    the data fails, and until then the read fails.
 * 11. Restarts remember (with state nodes).  Who lacks what survives a restart,
 *    a crash and a migration.  A crash costs a look at what was in flight,
 *    never a read without a winner there.  A child of another disk, of the
 *    losing side of a split, or that was rolled back, is recognised and not
 *    believed.
 * 12. Checked means agreed (read pattern checked).  What one child says is
 *    believed only if it has the digest that was remembered when at least
 *    threshold children stored it or agreed on it, and nothing newer has been
 *    acknowledged since.  Where a digest is known, it decides, not the vote; if
 *    no child has such data, the read fails.
 *
 * What *stale* means is in sync.h.  Each room of the driver says in its own
 * header what others may ask of it: flush.c and resize.c in write.h, reopen.c
 * in graph.h, status.c in request.h, state-open.c in state.h, and the class
 * QuorumSync (children.c, stale-map.c, stale-query.c, settle.c, settle-flush.c,
 * unsure.c, sync-state.c, sync-debug.c) in sync.h.
 */

#ifndef BLOCK_QUORUM_INT_H
#define BLOCK_QUORUM_INT_H

#include "block/block_int.h"
#include "block/buffer-pool.h"
#include "block/fair-budget.h"
#include "block/range-lock.h"
#include "qemu/queue.h"
#include "qemu/stats64.h"
#include "qemu/thread.h"
#include "opts.h"
#include "sync.h"

typedef struct QuorumDigests QuorumDigests;
typedef struct QuorumDigestStore QuorumDigestStore;
typedef struct QuorumRepair QuorumRepair;
typedef struct QuorumRequest QuorumRequest;
typedef struct QuorumResync QuorumResync;
typedef struct QuorumState QuorumState;

/* How often a child was wrong, and what was done about it.  Atomic. */
typedef struct QuorumCounters {
    Stat64 read_errors;         /* requests that failed on the child */
    Stat64 write_errors;
    Stat64 flush_errors;
    Stat64 mismatches;          /* reads in which the child was outvoted */
    Stat64 repaired_bytes;
    Stat64 hedged_reads;        /* reads sent to it as others were late */
    Stat64 late_reads;          /* reads that have not waited for it */
    Stat64 timeouts;            /* times that it did not answer in time */
    Stat64 read_bytes;          /* counted with read pattern checked */
} QuorumCounters;

/* What latencies are kept of. */
typedef enum QuorumLatencyKind {
    QUORUM_LATENCY_NONE,
    QUORUM_LATENCY_READ,
    QUORUM_LATENCY_WRITE,
    QUORUM_LATENCY_KINDS
} QuorumLatencyKind;

/* In 1/16 us; 0: not measured yet.  Atomic. */
typedef struct QuorumLatency {
    int mean;
    int deviation;
} QuorumLatency;

/* How late.c looks after one child. */
typedef struct QuorumLateness {
    bool probing;               /* a probe of it is in flight */
    bool back;                  /* the probe is to find out if it is back */
    bool cut;                   /* its requests were abandoned, and still are */
    int64_t probed_ns;          /* when the last probe began */
    int place;                  /* of QUORUM_PROBE_PLACES, for the next one */
    int64_t backoff_ns;         /* how long after that the next one may */
    int64_t dropped_ns[3];      /* when it was given up, the latest first */

    /* Its writes that may still come count as ended then; 0: not known yet. */
    int64_t late_until_ns;
    uint64_t late_marks;        /* how many there were when that was set */
} QuorumLateness;

/* Slot N, the child children.N.  Which data it stores: QuorumSync. */
typedef struct QuorumSlot {
    /* Set once. */

    /* Why the slot is vacant, if its child could not be opened. */
    char *error;

    /* Graph lock: written under the write lock, or when the node is opened. */

    /* NULL if the slot is vacant. */
    BdrvChild *child;

    /* Atomic. */

    /*
     * A repair of the child has failed, and no write has succeeded since: the
     * child is dead, full or read-only, and not each read need try again.
     */
    bool repair_failed;

    /*
     * Repairs after which the child could not read what it had been given, one
     * after the other, and where that was the last time.
     */
    int futile_repairs;
    Stat64 futile_start;
    Stat64 futile_end;
    QuorumCounters counters;

    /*
     * When the child may be reported again, in ms: for each QuorumOpType that
     * it fails, and, at the end, for an answer that is not the winner.
     */
    Stat64 next_report[QUORUM_OP_TYPE__MAX + 1];

    /* Atomic: how long requests take, small and large ones. */
    QuorumLatency latency[QUORUM_LATENCY_KINDS][2];

    /* Atomic: reads in flight on the child that were left, and their bytes. */
    unsigned stragglers;
    unsigned reading;           /* reads in flight, with pattern checked */
    unsigned straggling_bytes;

    /* Used by late.c, in the main thread only. */

    QuorumLateness late;

    /*
     * Atomic: when the last probe began that the child has answered (late.c),
     * and when a write of it was last found to be late, by quorum_now_ns().
     */
    Stat64 answered_ns;
    Stat64 late_ns;

    /* Used by the scrub only. */

    /*
     * The kinds of operation (bits of QuorumOpType) for which the scrub at work
     * has reported the child.
     */
    unsigned scrub_reported;
} QuorumSlot;

/*
 * Order of taking things: graph read lock, budget, all the memory that is
 * needed from a pool, range_lock, flush_lock, the lock of sync.  in_flight_lock
 * and repairs_lock are taken alone.
 */
typedef struct BDRVQuorumState {
    /* Set when the node is opened or, with all requests drained, reopened. */
    QuorumOptions opts;

    /*
     * Graph lock: the array changes under the write lock, so that pointers into
     * it hold while the graph lock is held.  A slot's index never changes.
     */
    QuorumSlot *slots;
    int num_slots;

    /* Written in the main thread. */

    /* There is a scrub of the node.  Atomic. */
    bool scrub;

    /* In the main thread only. */

    /* The scrub repairs: it is a user of the children's write permission. */
    bool scrub_repairs;

    /*
     * Why there must be no migration: a child is rebuilding.  NULL if none is;
     * the bottom half finds that out.
     */
    Error *migration_blocker;
    QEMUBH *migration_bh;

    /* Looks after children that do not answer: late.c. */
    QEMUTimer *late_timer;

    /* Atomic. */

    /* Pattern threshold: which child the next read defers first. */
    unsigned next_deferred;

    /*
     * Stragglers of all children, what the reads that were left hold of the
     * pool, and how many hedges there may be: see early.c.
     */
    unsigned stragglers;
    unsigned left_bytes;
    int hedges;

    /* What quorum_notice_losses() has found out.  Atomic. */
    Stat64 losses_seen;

    /* When a flush has last begun, by quorum_now_ns(). */
    Stat64 last_flush_ns;

    /* From where on a resize in flight may have cut children; or INT64_MAX. */
    Stat64 cut_from;

    /* There is a flush that no one has asked for; one has failed. */
    bool flushes_by_itself;
    bool flush_failed_unheard;

    /* When QUORUM_FAILURE may be sent again, in ms. */
    Stat64 next_failure;

    /* How reads of one child have ended: see checked.h. */
    Stat64 checked_hits;
    Stat64 checked_misses;
    Stat64 checked_mismatches;
    bool digest_lost_told;      /* people know what that means */

    /* Thread-safe by themselves. */

    /* Which child stores what. */
    QuorumSync *sync;

    /* Read pattern checked: what is remembered, as opts want it; or NULL. */
    QuorumDigests *digests;

    /*
     * The coroutines that ask children, but for the one of each request itself
     * (promise 8).
     */
    FairBudget budget;

    /*
     * The buffers that reads compare (promise 8).  Writes and repairs behind
     * reads have buffers of their own, or else a child that is slow to take
     * them would keep reads waiting for memory.
     */
    BufferPool pool;
    BufferPool write_pool;
    BufferPool repair_pool;

    /*
     * Buffers for copies of small writes, which need not wait or take a lock:
     * those that find none left go to write_pool.  The bits are those that are
     * free.  Atomic.
     */
    uint8_t *small_copies;
    uint32_t small_free;

    /*
     * Held by writes, by repairs, and by reads that could not decide without it
     * (promises 4 to 6).  Taken with the graph read lock held and all memory at
     * hand; one range at a time.
     */
    RangeLock range_lock;

    /*
     * A flush holds this lock alone, FUA writes share it.  A FUA write that
     * fails on a child may have lost what was written before, and that may
     * become known only after a flush of the child, sent later but answered
     * sooner, has succeeded and seemed to prove that nothing was lost.  So a
     * flush of all children has no FUA write beside it.
     */
    CoRwlock flush_lock;

    /* What is copied in the background, see resync.h. */
    QuorumResync *resync;

    /* What survives a restart, see state.h; NULL without state nodes. */
    QuorumState *state;

    /* Where digests are kept, see digest-store.h; NULL if nowhere. */
    QuorumDigestStore *store;

    /* Under in_flight_lock. */

    /*
     * Requests that children are working on.  The lock is a spin lock because
     * requests hold it for a few instructions; only query commands go through
     * the list.
     */
    QemuSpin in_flight_lock;
    QLIST_HEAD(, QuorumRequest) in_flight;

    /* The timer of late.c is armed. */
    bool late_ticks;

    /* bdrv_late_generation() when quorum_late_notice() last looked.  Atomic */
    unsigned late_noticed;

    /* How many there have been that are not in the background. */
    uint64_t guest_requests;

    /* Under repairs_lock. */

    /*
     * Repairs behind reads (see repair.h), the oldest one first: how many they
     * are, which is also read without the lock, as a hint; and how many of them
     * are being done.
     */
    QemuMutex repairs_lock;
    QTAILQ_HEAD(, QuorumRepair) repairs;
    int num_repairs;
    int repairs_at_work;
} BDRVQuorumState;

/* Whether slot @i has a child that takes part in I/O. */
static inline bool GRAPH_RDLOCK quorum_is_member(BDRVQuorumState *s, int i)
{
    return s->slots[i].child && !quorum_sync_is_excluded(s->sync, i);
}

/* Whether it is also asked, because it does not lag behind. */
static inline bool GRAPH_RDLOCK quorum_is_asked(BDRVQuorumState *s, int i)
{
    return quorum_is_member(s, i) && !quorum_sync_is_lagging(s->sync, i);
}

/*
 * Whether the length of the node is the threshold-th largest one of its
 * children, because a threshold of them is more than half of the slots.  A
 * write or resize that made the node longer and was acknowledged is on at least
 * threshold children, which are at least that long; and one that made it
 * shorter has left fewer than threshold children that are longer.  So that
 * length is right, whatever else the children were in the middle of.  A child
 * whose length is not known may be one of the longest, so it counts as that.
 *
 * With a smaller threshold, the children vote on the length, as they do on
 * data, and one that has another length is excluded.
 */
static inline bool quorum_length_is_majority(const BDRVQuorumState *s)
{
    return s->opts.threshold > s->num_slots / 2 && !s->opts.blkverify;
}

/* The bytes of the node, as the block layer knows them. */
static inline int64_t quorum_length(const BlockDriverState *bs)
{
    return bs->total_sectors << BDRV_SECTOR_BITS;
}

#endif /* BLOCK_QUORUM_INT_H */
