/*
 * Quorum block driver: the parts of a locked read
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * For read-locked.c and read-locked-repair.c, and for those that vote or repair
 * by them: checked.c, losses.c, resync.c and scrub-chunk.c.
 */

#ifndef BLOCK_QUORUM_READ_LOCKED_INT_H
#define BLOCK_QUORUM_READ_LOCKED_INT_H

#include "digest.h"
#include "read-locked.h"

/* The bytes from start to end, without the latter. */
typedef struct QuorumRange {
    int64_t start;
    int64_t end;
} QuorumRange;

typedef struct QuorumLockedRead {
    QuorumRequest *req;
    RangeLockRequest range;
    int64_t base;               /* where unit 0 begins, or would */
    int units;
    bool may_verify;            /* what is found to be alike is verified */

    /*
     * Where there is no winner, the child decides whose node this is, without
     * filters; or NULL.
     */
    BlockDriverState *prefer;

    /* [slot * units + unit] */
    unsigned long *stale;       /* the child has no vote there */
    unsigned long *unsure;      /* the child can only support others there */
    unsigned long *late;        /* a write to it may still come there */
    unsigned long *wrong;       /* the child has other data than the winner */
    unsigned long *missing;     /* the child has no answer */
    unsigned long *to_repair;   /* to be overwritten, and not yet done */
    unsigned long *given;       /* has been overwritten with the winner */

    /* [unit] */
    unsigned long *no_winner;   /* of the vote */
    unsigned long *weak;        /* wrong, and nothing to repair it from */
    unsigned long *resolve;     /* unresolved, and one outcome was chosen */
    unsigned long *by_digest;   /* the digest is known, and a child has it */
    uint64_t *digests;          /* what is known; NULL: not pattern checked */
    bool lost;                  /* somewhere no child has the known digest */

    /* [slot], for the unit at hand */
    const uint8_t **data;       /* NULL without an answer */
    int *version;
    bool *sure;                 /* has lost nothing */

    BdrvRequestFlags repair_flags;
    uint64_t losses;            /* bdrv_last_loss_generation() before */

    uint8_t *result;            /* the winners; private */
} QuorumLockedRead;

/* Whether a digest is known that decides unit @u (promise 12). */
static inline bool quorum_unit_is_known(const QuorumLockedRead *lr, int u)
{
    return lr->digests && lr->digests[u] != QUORUM_DIGEST_UNKNOWN;
}

/* The part of unit @u that is in the request. */
QuorumRange quorum_unit(const QuorumLockedRead *lr, int u);

static inline long quorum_bit(const QuorumLockedRead *lr, int i, int u)
{
    return (long)i * lr->units + u;
}

/* What is in @buf, which holds the whole request, at the offset @pos. */
static inline uint8_t *quorum_data_at(const QuorumLockedRead *lr, uint8_t *buf,
                                      int64_t pos)
{
    return buf + (pos - lr->req->offset);
}

/* A request for a locked read; @reported and @why: see quorum_locked_read(). */
QuorumRequest *GRAPH_RDLOCK
quorum_locked_request_new(BlockDriverState *bs, int64_t offset, int64_t bytes,
                          BdrvRequestFlags flags, const bool *reported,
                          const char *why);

/*
 * Get all the memory that a locked read needs.  False if there is none; @lr is
 * to be freed in any case.
 */
bool coroutine_fn GRAPH_RDLOCK
quorum_locked_read_alloc(QuorumLockedRead *lr, QuorumRequest *req);
void quorum_locked_read_free(QuorumLockedRead *lr);

/*
 * Take the range, read from all children, and vote: on all units, or if
 * @all_units is not set, up to the first one that has no winner.  Returns 0, or
 * the error of the first unit for which there are no data.  The range stays
 * held.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_locked_read_vote(QuorumLockedRead *lr, bool all_units);

void coroutine_fn quorum_locked_read_unlock(QuorumLockedRead *lr);

/* Report and count those that were outvoted, and have not been reported. */
void GRAPH_RDLOCK quorum_report_wrong(QuorumLockedRead *lr);

/* --- read-locked-repair.c --- */

/*
 * All units have been voted on, the range is still held, and nothing more is to
 * be repaired: what all children hold alike is verified (quorum_opts_verify()).
 */
void quorum_locked_read_verify(const QuorumLockedRead *lr);

/*
 * Repair all children, with the range still held; returns the error of the
 * first one that failed.
 */
int coroutine_fn GRAPH_RDLOCK quorum_repair_all(QuorumLockedRead *lr);

/*
 * The same, but only what is in @which, too.  What is not stays to be repaired:
 * it is not alike, nor confirmed.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_repair_some(QuorumLockedRead *lr, const unsigned long *which);

#endif /* BLOCK_QUORUM_READ_LOCKED_INT_H */
