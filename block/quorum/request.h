/*
 * Quorum block driver: what the requests share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BLOCK_QUORUM_IO_H
#define BLOCK_QUORUM_IO_H

#include "quorum-int.h"

typedef struct QuorumRequest QuorumRequest;
typedef struct QuorumAnswer QuorumAnswer;

/* Ask one child, with the graph lock held; returns its number, or -errno. */
typedef int64_t coroutine_fn QuorumAskFn(QuorumRequest *req, QuorumAnswer *a);

/* What one child is asked, and what it says. */
struct QuorumAnswer {
    QuorumRequest *req;
    BdrvChild *child;           /* NULL: not asked */
    bool done;                  /* has answered in an earlier round */
    bool spare;                 /* to be asked in a later round, if at all */
    bool reported;              /* that it can't read */
    int64_t ret;                /* a number, or -errno */
    uint8_t *buf;               /* one of req->bufs, or NULL */
    QEMUIOVector qiov;          /* of buf */
    int64_t pnum;               /* block status: bytes it is good for */
    Error *err;                 /* resize: what the child says */
};

/*
 * One question to all children.  It belongs to one coroutine; its children's
 * coroutines run in the same AioContext, so that nothing here needs a lock.
 */
struct QuorumRequest {
    BlockDriverState *bs;
    int64_t offset;
    int64_t bytes;
    QEMUIOVector *qiov;         /* the caller's */
    BdrvRequestFlags flags;
    struct {
        int64_t length;
        bool exact;
        PreallocMode prealloc;
    } resize;

    QuorumAskFn *ask;           /* what is being asked */
    int pending;                /* coroutines that have not ended */
    Coroutine *co;              /* sleeps until pending is 0, or NULL */

    void **bufs;                /* from the pool, room for n + 1 of them */
    int n_bufs;
    void **others;              /* of bufs, what one answer is compared with */
    QuorumScrub *scrub;         /* on whose behalf it is, or NULL */
    QuorumWrite write;          /* a request that changes the children */
    bool *failed;               /* by slot, all false: memory for write */

    int n;
    QuorumAnswer answers[];     /* by slot */
};

/*
 * A request to all children that are in.  Freed by quorum_request_free(), with
 * the buffers.
 */
QuorumRequest *GRAPH_RDLOCK
quorum_request_new(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags);
void coroutine_fn GRAPH_RDLOCK quorum_request_free(QuorumRequest *req);

/*
 * Leave out those that have gone out since: a resize may have done that while
 * the request waited for its range.  (It may have brought one back as well; as
 * that is stale, it can wait for the next request.)
 */
void GRAPH_RDLOCK quorum_request_recheck(QuorumRequest *req);

/* Choose the children that are out as well. */
void GRAPH_RDLOCK quorum_request_everybody(QuorumRequest *req);

/*
 * Ask, in parallel, all children that have not answered in an earlier round,
 * and wait for all of them: req->answers[].ret is the outcome.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_ask_all(QuorumRequest *req, QuorumAskFn *ask);

/* How many children have been asked, and how many of them have not failed. */
int quorum_count_asked(const QuorumRequest *req);
int quorum_count_good(const QuorumRequest *req);

/* The most common error among the children, or -EIO if none has failed. */
int quorum_request_errno(const QuorumRequest *req);

/* Note whether repairs of @slot are worth a try: see repair_failed. */
static inline void quorum_note_repair(QuorumSlot *slot, bool failed)
{
    if (qatomic_read(&slot->repair_failed) != failed) {
        qatomic_set(&slot->repair_failed, failed);
    }
}

/*
 * Report the child in slot @i, as quorum_report_bad().  A scrub does that once
 * for each kind of operation.
 */
void GRAPH_RDLOCK quorum_request_report_bad(const QuorumRequest *req, int i,
                                            QuorumOpType type,
                                            const char *error);

/* The child in slot @i has failed with @ret: count and report it. */
void GRAPH_RDLOCK quorum_child_failed(const QuorumRequest *req, int i,
                                      QuorumOpType type, int ret);

/* Count and report all children that have failed. */
void GRAPH_RDLOCK quorum_report_errors(const QuorumRequest *req,
                                       QuorumOpType type);

/* The request as a whole has failed: report it, and return its error. */
int GRAPH_RDLOCK quorum_request_fail(const QuorumRequest *req);

/* The same, with an error that the caller knows better. */
void GRAPH_RDLOCK quorum_report_failure(const QuorumRequest *req);

/* --- reads: read.c, and with the range held read-locked.c --- */

/*
 * Get all the memory that @req needs from the pool at once (promise 8), with no
 * range held: who waits for memory holds nothing that others wait for.
 *
 * A request with a vector of the caller's lets the first child read into that;
 * one without gets one buffer more, for the result, as the first one.  Returns
 * false if there is no memory.
 */
bool coroutine_fn GRAPH_RDLOCK quorum_request_alloc(QuorumRequest *req);

/*
 * A QuorumAskFn: read the whole request into the answer's buffer.  A child that
 * can't is reported at once, for others may take long, and only the first time.
 */
int64_t coroutine_fn GRAPH_RDLOCK quorum_ask_read(QuorumRequest *req,
                                                  QuorumAnswer *a);

/*
 * Whether the child in slot @i may be written to for a repair.  Not without the
 * permission: the image is inactive, or the child read-only.
 */
bool GRAPH_RDLOCK quorum_may_repair(BlockDriverState *bs, int i);

/*
 * Read with the range held and vote; @reported[slot] tells which children this
 * request has reported before, or is NULL.  Reports dissenters and failures,
 * repairs if the options ask for it, and fills @qiov with the winners; if it is
 * NULL, the guest has its answer, and a unit without a winner is no failure.
 */
int coroutine_fn GRAPH_RDLOCK
quorum_read_locked(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags,
                   const bool *reported);

/*
 * Whether @child has all bytes before @end.  One that has become shorter than
 * the others (it missed a growing write, or got an overlay that is) would say
 * zeroes that the core makes up, and must not be written behind its end.
 */
static inline bool GRAPH_RDLOCK quorum_child_reaches(BdrvChild *child,
                                                     int64_t end)
{
    return end <= child->bs->total_sectors << BDRV_SECTOR_BITS;
}

#endif /* BLOCK_QUORUM_IO_H */
