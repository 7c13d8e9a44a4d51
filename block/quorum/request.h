/*
 * Quorum block driver: one request to all children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The life of a read (read.c, read-locked.c, read-locked-repair.c):
 *
 *   quorum_co_preadv()           splits it into ranges that the pool can serve
 *   quorum_read_vote()           leaves out stale children; pattern threshold
 *                                defers some
 *   quorum_request_admit()       may wait for the node's budget of coroutines
 *   quorum_request_alloc()       all buffers at once; may wait for memory
 *   quorum_ask_all()             all children that are asked, in parallel
 *   quorum_tally_wins()          all answers are alike, and enough: done
 *   ---------------------------  otherwise, with no buffer held:
 *   quorum_locked_read()         takes buffers, then the range: no write beside
 *   quorum_locked_read_vote()    asks again, then votes unit by unit
 *   ---------------------------  if asked for, when the guest has its answer:
 *   quorum_repair_behind()       a coroutine of its own, which votes again
 *   quorum_repair_all()          winners over all that differ
 *
 * The life of a write (write.c; zeroes, discards and resizes are alike):
 *
 *   quorum_request_admit()       may wait for the node's budget of coroutines
 *   quorum_copy_alloc()          a buffer for a copy; may wait for memory
 *   quorum_write_lock()          waits for the range, and a FUA write for
 *                                flush_lock
 *   quorum_sync_write_begin()    the range counts as unflushed
 *   quorum_ask_all()             all children, stale ones, too
 *   quorum_collect_missed()      which children have not done it
 *   ...                          a large write: the same for all its pieces
 *   quorum_sync_write_settle()   may it be acknowledged?  Those that missed it
 *                                are stale before the range is given back
 *   quorum_write_unlock()        the next write of the range goes on
 *   quorum_report_errors()       events and counters; then the guest hears
 *
 * The life of a flush (flush.c):
 *
 *   quorum_request_admit()       may wait for the node's budget of coroutines
 *   flush_lock                   alone: no FUA write and no other flush beside
 *   quorum_sync_flush_begin()    what is unflushed is being flushed now
 *   quorum_ask_all()             one that fails: quorum_flush_failed()
 *   quorum_sync_flush_settle()   is all of it on enough media?  Those that
 *                                failed are stale there
 */

#ifndef BLOCK_QUORUM_REQUEST_H
#define BLOCK_QUORUM_REQUEST_H

#include "quorum-int.h"
#include "trace.h"

typedef struct QuorumAnswer QuorumAnswer;
typedef struct QuorumScrub QuorumScrub;

/* Ask one child, with the graph lock held; returns its number, or -errno. */
typedef int64_t coroutine_fn QuorumAskFn(QuorumRequest *req, QuorumAnswer *a);

/*
 * Whether enough children have answered for the request to succeed, if all that
 * are still QuorumAnswer.in_flight failed.  Not in a coroutine, but in the
 * thread of the request; takes no lock but that of the QuorumSync.
 */
typedef bool QuorumEnoughFn(QuorumRequest *req);

/*
 * What a read finds out.  Zeroed at first.  The arrays are freed by
 * quorum_findings_clear().
 */
typedef struct QuorumFindings {
    bool in_order;              /* tell of errors as pattern fifo does */
    bool again;                 /* if this vote fails, there is another one */
    bool *reported;             /* [slot]: the read has reported it, or NULL */
    bool *to_repair;            /* [slot]: it should be repaired, or NULL */
    const char *why;            /* to_repair: for traces */
} QuorumFindings;

/* What an early read has come to. */
typedef enum QuorumEarly {
    QUORUM_EARLY_WAIT,          /* for more answers */
    QUORUM_EARLY_ENOUGH,        /* there is a winner */
    QUORUM_EARLY_HOPELESS,      /* this way there will be none */
} QuorumEarly;

typedef QuorumEarly QuorumEarlyFn(QuorumRequest *req);

/* When children are told of that can't read. */
typedef enum QuorumTell {
    QUORUM_TELL_EACH,           /* at once */
    QUORUM_TELL_IN_ORDER,       /* when all before it can't, either */
    QUORUM_TELL_WANTED,         /* the same, if it can't read what is wanted */
} QuorumTell;

/* What part a child has in a request. */
typedef enum QuorumPart {
    QUORUM_PART_ASKED,          /* it is asked, and its answer counts */
    QUORUM_PART_DEFERRED,       /* it is asked later, if at all */
    QUORUM_PART_STALE,          /* none: it lacks data there */
    QUORUM_PART_IN_REPAIR,      /* none: it is being repaired */
    QUORUM_PART_LAGGING,        /* none: it does not answer */
    QUORUM_PART_LATE,           /* none: an older write may still come */
    QUORUM_PART_EXCLUDED,       /* none: it has another length */
    QUORUM_PART_VACANT,         /* there is no child */
} QuorumPart;

/* What one child is asked, and what it says. */
struct QuorumAnswer {
    QuorumRequest *req;
    BdrvChild *child;           /* NULL only if VACANT */
    QuorumPart part;
    bool done;                  /* has answered in an earlier round */
    bool in_flight;             /* is at work.  Atomic */
    bool dropped;               /* has failed, as it did not answer */
    bool absent;                /* not asked, but may have a vote in parts */
    bool reported;              /* as one that can't read, or was outvoted */
    int64_t ret;                /* a number, or -errno */
    uint8_t *buf;               /* one of req->bufs, or NULL */
    QEMUIOVector qiov;          /* of buf */
    int64_t asked_ns;           /* when, if that is not QuorumRequest's */
    int64_t reread_ret;         /* what it says of req->reread, or wanted */
    int64_t pnum;               /* block status: bytes it is good for */
    Error *err;                 /* resize: what the child says */
};

/*
 * One question to all children.  It belongs to one coroutine; its children's
 * coroutines run in the same AioContext, so that nothing here needs a lock,
 * except for what query commands look at: in_flight and asked_ns.
 */
struct QuorumRequest {
    BlockDriverState *bs;
    BDRVQuorumState *s;
    int64_t offset;
    int64_t bytes;
    QEMUIOVector *qiov;         /* the caller's, or copy */
    BdrvRequestFlags flags;
    QEMUIOVector copy;          /* of a write, or of a piece of it */
    int64_t copied;             /* bytes in the pieces before that one */
    uint32_t small_copy;        /* bufs[0] is this one of small_copies; or 0 */
    struct {
        int64_t length;
        int64_t old_length;     /* of the node */
        int64_t touched_end;    /* see QuorumSync */
        bool exact;
        PreallocMode prealloc;
    } resize;

    struct {                    /* a part of it that is read by itself */
        int64_t offset;
        int64_t bytes;
    } reread;

    struct {                    /* QUORUM_TELL_WANTED: what the guest wants */
        int64_t offset;
        int64_t bytes;
    } wanted;

    QuorumAskFn *ask;           /* what is being asked */
    int64_t asked_ns;           /* when, in QEMU_CLOCK_REALTIME */
    QuorumEnoughFn *enough;     /* for late.c; NULL: see there */
    int64_t enough_ns;          /* when it was first seen to be so, or 0 */
    AioContext *ctx;            /* whose thread it belongs to */
    int pending;                /* coroutines that have not ended */
    Coroutine *co;              /* sleeps until pending is 0, or NULL */
    QLIST_ENTRY(QuorumRequest) next;    /* in BDRVQuorumState.in_flight */

    QuorumLatencyKind measured; /* whether, and as what, latencies are kept */
    bool sampled;               /* those of this request are */

    struct {                    /* used by early.c */
        bool on;                /* may be answered before all have answered */
        bool left;              /* has been, and its coroutine is gone */
        bool hedge_due;         /* a child is late */
        QuorumEarlyFn *judge;
        QuorumEarly verdict;    /* after the latest answer */
        QuorumAnswer *winner;   /* for stragglers, or NULL */
        QuorumFindings found;   /* by stragglers */
    } early;

    struct {                    /* used by checked.c */
        uint64_t *digests;      /* of the whole units of a write, or NULL */
        uint64_t one;           /* room for that of one unit */
        int64_t offset, bytes;  /* what a change has begun with */
        const struct QuorumUnits *known;    /* what an early read checks */
    } checked;

    QuorumTell tell;            /* children that can't read */
    bool background;            /* no guest waits for it */
    int coroutines;             /* taken from the budget */
    BufferPool *pool;           /* where bufs come from */
    void **bufs;                /* room for n + 1 of them */
    int n_bufs;
    int64_t buf_bytes;          /* of each of them */
    void **others;              /* of bufs, what one answer is compared with */
    struct QuorumLockedRead *locked;    /* that votes on it, or NULL */
    QuorumScrub *scrub;         /* on whose behalf it is, or NULL */
    unsigned late_generation;   /* when write began */
    unsigned late_looked;       /* the same, when it was last looked at */
    uint64_t losses;            /* bdrv_last_loss_generation() before asking */
    QuorumWrite write;          /* a request that changes the children */
    bool *missed;               /* [slot], all false: memory for write */

    int n;
    QuorumAnswer answers[];     /* [slot] */
};

/*
 * How often events of one kind are sent: as often as the monitor lets them
 * pass.  Those that it would throw away need not be made.
 */
#define QUORUM_EVENT_INTERVAL_MS 1000

/* --- creation and memory --- */

/*
 * A request to all members.  Freed by quorum_request_free(), with the buffers.
 */
QuorumRequest *GRAPH_RDLOCK
quorum_request_new(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   QEMUIOVector *qiov, BdrvRequestFlags flags);
void coroutine_fn GRAPH_RDLOCK quorum_request_free(QuorumRequest *req);

/*
 * A write, which needs no buffers of its children, is to be sent again: all
 * members are asked again, and have not answered or missed anything yet.
 */
void GRAPH_RDLOCK quorum_request_reset(QuorumRequest *req);

/*
 * Wait until the coroutines that ask the children of @req fit into the budget
 * of the node (promise 8); quorum_request_free() gives them back.  Called once,
 * with nothing held: a request that waits here has nothing that others wait
 * for, and the others have all the coroutines that they need.
 *
 * Requests that come from management alone, and do not read or write (lengths,
 * sizes), need not be admitted: there are few, and a resize that holds its
 * range asks for a length.
 */
static inline void coroutine_fn quorum_request_admit(QuorumRequest *req)
{
    FairBudget *budget = &req->s->budget;

    assert(!req->coroutines);
    if (req->early.on) {
        /* None of its children is asked by its own coroutine, which sleeps. */
        req->coroutines = MIN(req->n, budget->total);
    } else {
        req->coroutines = req->n - 1;
    }
    if (req->coroutines) {
        fair_budget_co_take(budget, req->coroutines);
    }
}

/*
 * Get all the memory that @req needs from the pool at once (promise 8), with no
 * range held: a request that waits for memory holds nothing that others wait
 * for.
 *
 * A request with a vector of the caller's lets the first child read into that
 * vector; one without gets one buffer more, for the result, as the first one.
 * An early one has a buffer for each child, and none for the result.
 * Returns false if there is no memory.
 */
bool coroutine_fn GRAPH_RDLOCK quorum_request_alloc(QuorumRequest *req);

/* How much can be read at once: each child and the result get a buffer. */
int64_t quorum_request_max_bytes(BlockDriverState *bs);

/* --- who takes part --- */

/* The slot of the child that @a is of. */
static inline int quorum_answer_slot(const QuorumAnswer *a)
{
    return a - a->req->answers;
}

static inline bool quorum_answer_counts(const QuorumAnswer *a)
{
    return a->part == QUORUM_PART_ASKED;
}

/* Whether the child of @a is a member, as far as the request knows. */
static inline bool quorum_answer_is_member(const QuorumAnswer *a)
{
    return a->part != QUORUM_PART_VACANT && a->part != QUORUM_PART_EXCLUDED;
}

/* The child of @a takes no part any more, for the reason @part. */
void quorum_answer_leave_out(QuorumAnswer *a, QuorumPart part);

/*
 * Whether the child of @a did not answer when it was to be asked, or was given
 * up meanwhile, and answers again: it may be asked (again).
 */
bool quorum_answer_is_back(const QuorumAnswer *a);

/* The child of @a has not been asked, or is to be asked once more. */
static inline void quorum_answer_ask_again(QuorumAnswer *a)
{
    a->part = QUORUM_PART_ASKED;
    a->done = false;
    a->dropped = false;
    a->ret = -EAGAIN;
}

/*
 * Take such children in, to be asked by the next quorum_ask_all(), and no
 * others.  Returns whether there are any.
 */
bool quorum_request_take_back(QuorumRequest *req);

/* Whether the child of @a is stale or unsure in the range now. */
bool quorum_answer_is_stale(const QuorumAnswer *a);

/* If so, it takes no part any more. */
void quorum_answer_leave_out_stale(QuorumAnswer *a);

/*
 * Leave out the children that lag behind, or have been excluded since: a resize
 * may have done that while the request waited for its range.  (A resize may
 * have included a child as well; as that child is stale, it can wait for the
 * next request.)
 */
void GRAPH_RDLOCK quorum_request_leave_out_unasked(QuorumRequest *req);

/* The same, if there may be such children: the request has waited. */
void GRAPH_RDLOCK quorum_request_leave_out_dropped(QuorumRequest *req);

/*
 * A write of the range is about to be sent: leave out the children to which an
 * older one may still come there, and undo it.
 */
void GRAPH_RDLOCK quorum_request_leave_out_late(QuorumRequest *req,
                                                int64_t offset, int64_t bytes);

/*
 * quorum_request_leave_out_unasked(), and leave out the children that are stale
 * in the range (promise 3).
 * One that is stale in a part of it only is QuorumAnswer.absent: the locked
 * read can tell the parts from each other.
 */
void GRAPH_RDLOCK quorum_request_leave_out_stale(QuorumRequest *req);

/* Ask the excluded children as well. */
void GRAPH_RDLOCK quorum_request_ask_excluded(QuorumRequest *req);

/* --- asking --- */

/*
 * Ask, in parallel, all children that take part and have not answered in an
 * earlier round, and wait for all of them: req->answers[].ret is the outcome.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_ask_all(QuorumRequest *req, QuorumAskFn *ask);

/* Ask the child of @a alone, and wait for it. */
void coroutine_fn GRAPH_RDLOCK
quorum_ask_one(QuorumAnswer *a, QuorumAskFn *ask);

/*
 * A QuorumAskFn: read the whole request into the answer's buffer.  Returns 0,
 * or -errno; of a request without a vector of the caller's, a child that is
 * shorter reads what it has, and returns how many bytes that are.  A child that
 * can't read is reported at once, for others may take long, and only the first
 * time.
 */
int64_t coroutine_fn GRAPH_RDLOCK quorum_ask_read(QuorumRequest *req,
                                                  QuorumAnswer *a);

/* Where @a reads into: a child without a buffer, into the caller's vector. */
static inline QEMUIOVector *quorum_answer_qiov(QuorumAnswer *a)
{
    return a->buf ? &a->qiov : a->req->qiov;
}

/* Ask the child of @a in this coroutine; for early.c. */
void coroutine_fn GRAPH_RDLOCK quorum_ask_child(QuorumAnswer *a);

/* From now on, @req is seen to be in flight, or is not any more. */
void quorum_in_flight_add(QuorumRequest *req);
void quorum_in_flight_remove(QuorumRequest *req);

/*
 * Whatever else is asked of the child of @a on behalf of the request goes
 * between these two, so that it is seen to be in flight.
 */
void quorum_in_flight_begin(QuorumAnswer *a);
void quorum_in_flight_end(QuorumAnswer *a);

/*
 * For how long, in ns, the oldest request that is in flight on each child has
 * been so: @ages[slot], -1 if there is none.  Any thread, with the graph lock
 * held.
 */
void GRAPH_RDLOCK quorum_request_ages(BDRVQuorumState *s, int64_t *ages);

/* quorum_range_lock() with a trace if that takes long. */
void coroutine_fn quorum_range_lock_timed(BlockDriverState *bs,
                                          RangeLockRequest *range,
                                          int64_t offset, int64_t bytes);

/*
 * Wait until no overlapping range is held, and hold the range.  Released with
 * range_lock_co_unlock().
 */
static inline void coroutine_fn quorum_range_lock(BlockDriverState *bs,
                                                  RangeLockRequest *range,
                                                  int64_t offset, int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;

    if (unlikely(trace_event_get_state_backends(TRACE_QUORUM_RANGE_WAIT))) {
        quorum_range_lock_timed(bs, range, offset, bytes);
    } else {
        range_lock_co_lock(&s->range_lock, range, offset, bytes);
    }
}

/* --- counting and reporting --- */

/* Whether the child of @a has answered, and has not failed. */
static inline bool quorum_answer_is_good(const QuorumAnswer *a)
{
    return quorum_answer_counts(a) && a->ret >= 0 && !a->in_flight;
}

/* How many children take part, and how many of them have answered well. */
int quorum_count_asked(const QuorumRequest *req);
int quorum_count_good(const QuorumRequest *req);

/* How many children have answered that they can't read. */
int quorum_count_failed_reads(const QuorumRequest *req);

/* The most common error among the children, or -EIO if none has failed. */
int quorum_request_errno(const QuorumRequest *req);

/*
 * Send QUORUM_CHILD_STATE for each change of a child's state that has not been
 * told yet.  Any thread.  Done whenever a request is freed; others that may
 * have changed a state call it themselves.
 */
void GRAPH_RDLOCK quorum_tell_states(BlockDriverState *bs);

/*
 * Send QUORUM_REPORT_BAD for the child of @a: it failed the operation @type
 * with @error (a text for people), or, if that is NULL, answered with what is
 * not the winner.  Not more often than QUORUM_EVENT_INTERVAL_MS for each of
 * these, or, for a scrub, once.  Any thread.
 */
void GRAPH_RDLOCK quorum_answer_report_bad(const QuorumAnswer *a,
                                           QuorumOpType type,
                                           const char *error);

/* The child of @a has failed with @ret: count and report it. */
void GRAPH_RDLOCK quorum_answer_failed(const QuorumAnswer *a,
                                       QuorumOpType type, int ret);

/* Count and report all children that have failed. */
void GRAPH_RDLOCK quorum_report_errors(const QuorumRequest *req,
                                       QuorumOpType type);

/*
 * Send QUORUM_FAILURE: the request @what as a whole has failed with @ret.  Not
 * more often than QUORUM_EVENT_INTERVAL_MS.
 */
void GRAPH_RDLOCK quorum_report_failure(const QuorumRequest *req,
                                        const char *what, int ret);

/* The same with the most common error, which is returned. */
int GRAPH_RDLOCK quorum_request_fail(const QuorumRequest *req,
                                     const char *what);

/* --- what may be asked of a child --- */

/*
 * Whether the child in slot @i may be written to for a repair.  Not without the
 * permission: the image is inactive, or the child read-only.
 */
bool GRAPH_RDLOCK quorum_may_repair(BlockDriverState *bs, int i);

/*
 * How many futile repairs of a child, one after the other, are enough.  A disk
 * may need a second try; each costs a write and a read.
 */
#define QUORUM_FUTILE_REPAIRS 3

/*
 * Whether a read that has found the child in slot @i to be wrong should have it
 * repaired: the options ask for it, it may be written to, and the last repair
 * did not fail.
 */
bool GRAPH_RDLOCK quorum_worth_repair(BlockDriverState *bs, int i);

/* Whether that is so of the child of @a, which could not read. */
bool GRAPH_RDLOCK quorum_worth_rewrite(const QuorumAnswer *a);

/*
 * Remember whether repairs of @slot are worth a try: see repair_failed.
 * Returns whether that has changed.
 */
static inline bool quorum_set_repair_failed(QuorumSlot *slot, bool failed)
{
    if (qatomic_read(&slot->repair_failed) == failed) {
        return false;
    }
    qatomic_set(&slot->repair_failed, failed);
    return true;
}

/* The bytes of @child, as the block layer knows them. */
static inline int64_t GRAPH_RDLOCK quorum_child_length(BdrvChild *child)
{
    return child->bs->total_sectors << BDRV_SECTOR_BITS;
}

/*
 * Whether @child has all bytes before @end.  One that is shorter than the node
 * (it missed a growing write, or got an overlay that is shorter) would say
 * zeroes that the core makes up.
 */
static inline bool GRAPH_RDLOCK quorum_child_reaches(BdrvChild *child,
                                                     int64_t end)
{
    return end <= quorum_child_length(child);
}

/*
 * Whether the node, or some child of it, may be cut off before @end: the guest
 * makes it shorter.  A hint, unless the range is held.
 */
bool quorum_is_cut_off(BDRVQuorumState *s, int64_t end);

/* --- what a read finds out --- */

void quorum_findings_clear(QuorumFindings *found);

/*
 * The read @req is made for a guest that wants the range, and has @found
 * already which children can't read it.  How it tells of errors: if it asks
 * more children than pattern fifo does, or for more, it is to tell of those
 * errors alone that the latter would have met.
 */
static inline void quorum_tell_for(QuorumRequest *req,
                                   const QuorumFindings *found, int64_t offset,
                                   int64_t bytes)
{
    req->tell = !found->in_order ? QUORUM_TELL_EACH :
                req->bytes == bytes ? QUORUM_TELL_IN_ORDER : QUORUM_TELL_WANTED;
    req->wanted.offset = offset;
    req->wanted.bytes = bytes;
    for (int i = 0; i < req->n && unlikely(found->reported); i++) {
        req->answers[i].reported = found->reported[i];
    }
}

/*
 * The read @req has ended.  Tell, of the guest's range, of those errors that
 * are before the first child that can read, and have not been told.
 */
void GRAPH_RDLOCK quorum_tell_errors_in_order(QuorumRequest *req,
                                              int64_t offset, int64_t bytes);

/* The child in slot @i should be repaired. */
void GRAPH_RDLOCK quorum_find_to_repair(QuorumFindings *found,
                                        const BDRVQuorumState *s, int i,
                                        const char *why);

/*
 * Add the children that @req has reported, and those that could not read and
 * should be repaired.
 */
void GRAPH_RDLOCK quorum_find_failed(QuorumFindings *found,
                                     const QuorumRequest *req);

/* Add the children that @req has reported. */
void GRAPH_RDLOCK quorum_find_reported(QuorumFindings *found,
                                       const QuorumRequest *req);

/* --- status.c: what the children say about themselves --- */

/*
 * The length of a node whose children have @lengths[slot], of which negative
 * ones are errors; see quorum_length_is_majority().  -1 if they do not say.
 */
int64_t quorum_winning_length(const BDRVQuorumState *s, const int64_t *lengths);

/* Callbacks of BlockDriver. */

/* The length that opening, writes and resizes have made. */
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

#endif /* BLOCK_QUORUM_REQUEST_H */
