/*
 * Quorum block driver: one chunk of a scrub
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BLOCK_QUORUM_SCRUB_CHUNK_H
#define BLOCK_QUORUM_SCRUB_CHUNK_H

#include "request.h"

/* What is wrong with units, in bytes: each unit counts once in each of them. */
typedef struct QuorumFigures {
    int64_t mismatched;         /* a child has other data than the winner */
    int64_t missing;            /* a child is stale there, or can't read */
    int64_t repaired;           /* nothing is wrong with it any more */
    int64_t preferred;          /* of these: there had been no winner */
    int64_t unrepairable;       /* no winner, too weak a one, or can't write */
} QuorumFigures;

/* Adjacent units in which the same is wrong with the same children. */
typedef struct QuorumScrubRange {
    int64_t offset;
    int64_t bytes;
    QuorumScrubFinding what;
    QuorumScrubWinner winner;
    bool left;                  /* not repaired: it would be found again */
    int n;
    unsigned long *children;    /* [n], a bit for each slot */
} QuorumScrubRange;

/* A scrub, as its requests see it.  They come one after the other. */
struct QuorumScrub {
    /* Set once. */
    bool repair;                /* if not, it only counts */

    /*
     * The node, without filters, of the child that decides where there is no
     * winner; or NULL.
     */
    BlockDriverState *prefer;

    /* For quorum_answer_report_bad() and for what follows */
    bool failure_reported;      /* QUORUM_FAILURE has been sent */

    /*
     * What quorum_co_scrub() has found in its range: in units that have been
     * repaired, and in the others, where it would find the same again.
     */
    QuorumFigures in_repaired;
    QuorumFigures left;
    int64_t known;              /* bytes that a digest decided, or should */
    bool write_failed;          /* what it returns is the error of a write */

    /*
     * The same as ranges, QuorumScrubRange, in ascending order; NULL if they
     * are not wanted.
     */
    GPtrArray *ranges[QUORUM_SCRUB_FINDING__MAX];
};

/* Get and free scrub->ranges. */
void quorum_scrub_ranges_init(QuorumScrub *scrub);
void quorum_scrub_ranges_free(QuorumScrub *scrub);

/*
 * Let @range grow by @next if that begins where @range ends, and the same is
 * wrong with the same children.  Returns whether it does.
 */
bool quorum_scrub_range_extend(QuorumScrubRange *range,
                               const QuorumScrubRange *next);
void quorum_scrub_range_free(QuorumScrubRange *range);

/*
 * Read the range from all children whatever the read pattern is, vote with the
 * range held, and, if @scrub wants that, write the winners over all that is not
 * alike, as far as promise 6 allows it.  Where there is no winner, what the
 * child holds that @scrub prefers takes its place.  [@offset, @offset + @bytes)
 * is aligned to QUORUM_UNIT or ends where the node does, and no longer than
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

#endif /* BLOCK_QUORUM_SCRUB_CHUNK_H */
