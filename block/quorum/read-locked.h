/*
 * Quorum block driver: reading with the range held, voting and repairing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BLOCK_QUORUM_READ_LOCKED_H
#define BLOCK_QUORUM_READ_LOCKED_H

#include "request.h"

/* What is wrong with units, in bytes: each unit counts once in each of them. */
typedef struct QuorumFigures {
    int64_t mismatched;         /* a child has other data than the winner */
    int64_t missing;            /* a child is stale there, or can't read */
    int64_t repaired;           /* nothing is wrong with it any more */
    int64_t unrepairable;       /* no winner, too weak a one, or can't write */
} QuorumFigures;

/* A scrub, as its requests see it.  They come one after the other. */
struct QuorumScrub {
    bool repair;                /* if not, it only counts */
    bool failure_reported;      /* QUORUM_FAILURE has been sent */

    /*
     * What quorum_co_scrub() has found in its range: in units that have been
     * repaired, and in the others, where it would find the same again.
     */
    QuorumFigures in_repaired;
    QuorumFigures left;
    bool write_failed;          /* what it returns is the error of a write */
};

/*
 * Read for the guest, with the range held, and fill @qiov with the winners.
 * Reports dissenters and failures, but for children that are in
 * @found->reported already, and adds them there; adds to @found what is to be
 * repaired.  @why is for traces.  Returns 0, or -errno if a unit has no winner.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_locked_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags,
                   QuorumFindings *found, const char *why);

/*
 * The guest has its answer already: vote on the range with the range held, and
 * repair what can be repaired.  Children that are in @reported (or NULL) have
 * been reported by the read.  A unit without a winner is no failure here.  The
 * range is no longer than quorum_repair_max_bytes().
 */
void coroutine_fn GRAPH_RDLOCK
quorum_repair_range(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    const bool *reported, const char *why);

/*
 * Read the range from all children whatever the read pattern is, vote with the
 * range held, and, if @scrub wants that, write the winners over all that is not
 * alike, as far as promise 6 allows it.  [@offset, @offset + @bytes) is aligned
 * to QUORUM_UNIT or ends where the node does, and no longer than
 * quorum_request_max_bytes(); only what covers a whole granule of a stale map
 * ends being stale.  @scrub tells what has been found.
 *
 * Returns 0, or the error of the first thing that went wrong: -errno of a write
 * (scrub->write_failed is set), of reads that leave a unit without a winner, or
 * -EIO.  Without scrub->repair, all is well as long as each unit has a winner.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_co_scrub(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QuorumScrub *scrub);

#endif /* BLOCK_QUORUM_READ_LOCKED_H */
