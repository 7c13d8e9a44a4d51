/*
 * Quorum block driver: the locked read: voting unit by unit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A read that could not decide without its range, each repair behind a read,
 * and each chunk of a scrub takes the range, reads into private buffers and
 * votes on each unit by itself.  Repairs, in read-locked-repair.c, happen under
 * the same hold, from the same buffers (promise 6); a read of the guest leaves
 * them to a request of their own.
 *
 * Offsets are bytes of the disk.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "checked.h"
#include "qemu/bitmap.h"
#include "debug.h"
#include "late.h"
#include "losses.h"
#include "read-locked-int.h"
#include "scrub-chunk.h"
#include "state.h"
#include "trace.h"
#include "vote.h"
#include "write.h"

/* --- units --- */

QuorumRange quorum_unit(const QuorumLockedRead *lr, int u)
{
    const QuorumRequest *req = lr->req;
    int64_t start = lr->base + (int64_t)u * QUORUM_UNIT;

    assert(u >= 0 && u < lr->units);
    return (QuorumRange) {
        .start = MAX(start, req->offset),
        .end = MIN(start + QUORUM_UNIT, req->offset + req->bytes),
    };
}

/* --- voting --- */

typedef bool QuorumSyncQuestion(QuorumSync *sync, int i, int64_t offset,
                                int64_t bytes);

/* Set the bits in @map of the units of which @ask says so, of slot @i. */
static void quorum_find_units(QuorumLockedRead *lr, int i,
                              QuorumSyncQuestion *ask, unsigned long *map)
{
    for (int u = 0; u < lr->units; u++) {
        QuorumRange unit = quorum_unit(lr, u);

        if (ask(lr->req->s->sync, i, unit.start, unit.end - unit.start)) {
            set_bit(quorum_bit(lr, i, u), map);
        }
    }
}

/*
 * Choose which children take part in the vote, unit by unit; a child that is
 * stale throughout is not even asked.  The range is held, so no child ceases to
 * be stale meanwhile; but one may become stale, so this is done again when all
 * have answered.
 */
static void GRAPH_RDLOCK quorum_choose_voters(QuorumLockedRead *lr)
{
    QuorumRequest *req = lr->req;
    g_autofree QuorumStaleness *staleness = NULL;

    if (!quorum_sync_is_degraded(req->s->sync)) {
        return;
    }
    quorum_request_leave_out_unasked(req);
    staleness = g_new(QuorumStaleness, req->n);
    quorum_sync_stale_units(req->s->sync, req->offset, req->bytes, staleness,
                            lr->stale, lr->units);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (staleness[i] == QUORUM_STALE_THROUGHOUT &&
            quorum_answer_is_member(a)) {
            quorum_answer_leave_out(a, QUORUM_PART_STALE);
        }
        if (quorum_sync_late_marks(req->s->sync, i)) {
            quorum_find_units(lr, i, quorum_sync_is_late, lr->late);
        }
        if (quorum_sync_any_unsure(req->s->sync)) {
            quorum_find_units(lr, i, quorum_sync_is_unsure, lr->unsure);
        }
    }
}

/*
 * A QuorumAskFn: read req->reread alone.  What the child has answered to the
 * whole request stays.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_reread(QuorumRequest *req, QuorumAnswer *a)
{
    uint8_t *buf = a->buf + (req->reread.offset - req->offset);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, req->reread.bytes);

    a->reread_ret = bdrv_co_preadv(a->child, req->reread.offset,
                                   req->reread.bytes, &qiov, 0);
    return a->ret;
}

/*
 * A child that could not read the whole request may well be able to read most
 * of its units (promise 7): ask those that may vote on unit @u for that alone.
 * Returns how many more have answered.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_reread_unit(QuorumLockedRead *lr, int u)
{
    QuorumRequest *req = lr->req;
    QuorumRange unit = quorum_unit(lr, u);
    int answers = 0;

    quorum_reached(QUORUM_BRANCH_UNIT_READ_AGAIN);
    req->enough = NULL;
    req->reread.offset = unit.start;
    req->reread.bytes = unit.end - unit.start;
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        a->done = a->ret >= 0 || test_bit(quorum_bit(lr, i, u), lr->stale) ||
                  !quorum_child_reaches(a->child, unit.end);
        a->reread_ret = -EIO;
    }
    quorum_ask_all(req, quorum_ask_reread);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->reread_ret >= 0) {
            lr->data[i] = quorum_data_at(lr, a->buf, unit.start);
            answers++;
        }
    }
    quorum_notice_losses(req->bs);
    quorum_choose_voters(lr);
    for (int i = 0; i < req->n; i++) {
        if (test_bit(quorum_bit(lr, i, u), lr->stale)) {
            lr->data[i] = NULL;
        }
    }
    return answers;
}

/*
 * The child in slot @i has other data than the winner in unit @u.  If it was
 * unsure there, it has lost the unit.  If only the digest tells so (the child
 * @outvotes the winner), it must not be believed any more, for the digest may
 * be forgotten before the child is repaired.
 *
 * Where more than a unit would be stale, the child is unsure instead: units
 * beside this one, of which others may have lost their copies, need its vote.
 */
static void quorum_unit_is_lost(const QuorumLockedRead *lr, int i, int u,
                                bool outvotes)
{
    QuorumSync *sync = lr->req->s->sync;
    bool unsure = test_bit(quorum_bit(lr, i, u), lr->unsure);
    QuorumRange unit = quorum_unit(lr, u);
    int64_t size = unit.end - unit.start;

    if (!outvotes && !unsure) {
        return;
    }
    if (quorum_sync_is_coarse(sync)) {
        quorum_reached(QUORUM_BRANCH_LOST_OF_GRANULE);
        if (!unsure) {
            quorum_sync_doubt_outvoted(sync, i, unit.start, size);
        }
    } else if (outvotes) {
        quorum_sync_mark_outvoted(sync, i, unit.start, size);
    } else {
        quorum_sync_mark_stale(sync, i, unit.start, size, "lost");
    }
}

/*
 * @members of @voters have voted for @winner in unit @u.  Take note of the
 * children that have something else, and whether they may be repaired.
 */
static void quorum_judge_unit(QuorumLockedRead *lr, int u, int winner,
                              int members, int voters)
{
    QuorumRequest *req = lr->req;
    bool outvoted, outnumbers;

    /* What a late write may change at any moment supports no repair. */
    for (int i = 0; i < req->n; i++) {
        members -= lr->version[i] == winner &&
                   test_bit(quorum_bit(lr, i, u), lr->late);
    }
    /* Promise 6: the winner must outnumber all others together, or be known. */
    outvoted = members <= voters - members;
    outnumbers = quorum_unit_is_known(lr, u) || !outvoted;
    for (int i = 0; i < req->n; i++) {
        if (!quorum_answer_is_member(&req->answers[i])) {
            continue;
        }
        if (lr->version[i] == winner) {
            if (!test_bit(quorum_bit(lr, i, u), lr->unsure) ||
                !quorum_sync_wants_rewrite(req->s->sync, i)) {
                continue;
            }
            quorum_reached(QUORUM_BRANCH_WRITTEN_AGAIN);
        } else if (lr->version[i] != QUORUM_NO_VERSION) {
            set_bit(quorum_bit(lr, i, u), lr->wrong);
            if (outnumbers) {
                quorum_unit_is_lost(lr, i, u, outvoted);
            }
        } else {
            set_bit(quorum_bit(lr, i, u), lr->missing);
        }
        if (outnumbers) {
            set_bit(quorum_bit(lr, i, u), lr->to_repair);
        } else {
            quorum_reached(QUORUM_BRANCH_REPAIR_TOO_WEAK);
            set_bit(u, lr->weak);
        }
    }
}

/* Whether the child of @a has read all of @unit. */
static bool quorum_has_unit(const QuorumLockedRead *lr, const QuorumAnswer *a,
                            QuorumRange unit)
{
    /* A child that is shorter says how much it has. */
    return a->ret == 0 ||
           (a->ret > 0 && unit.end - lr->req->offset <= a->ret);
}

/*
 * Unit @u has no winner.  If one child is preferred and has a vote there, the
 * others are to get what it holds: an operator knows more than a vote can tell.
 * A child that is stale there, or can't be read, decides nothing (promise 3).
 * Returns the slot of the child that decides, or QUORUM_NO_VERSION.
 */
static int GRAPH_RDLOCK quorum_prefer(QuorumLockedRead *lr, int u)
{
    QuorumRequest *req = lr->req;
    int preferred = QUORUM_NO_VERSION;
    int members = 0;

    set_bit(u, lr->no_winner);
    for (int i = 0; i < req->n; i++) {
        if (!quorum_answer_is_member(&req->answers[i])) {
            continue;
        }
        members++;
        if (!lr->data[i]) {
            set_bit(quorum_bit(lr, i, u), lr->missing);
        } else if (lr->prefer && lr->prefer ==
                   bdrv_skip_filters(req->answers[i].child->bs)) {
            preferred = i;
        }
    }
    if (preferred < 0 || members < req->s->opts.threshold) {
        set_bit(u, lr->weak);
        return QUORUM_NO_VERSION;
    }
    for (int i = 0; i < req->n; i++) {
        if (!quorum_answer_is_member(&req->answers[i]) ||
            lr->version[i] == lr->version[preferred]) {
            continue;
        }
        set_bit(quorum_bit(lr, i, u), lr->to_repair);
        if (lr->version[i] != QUORUM_NO_VERSION) {
            set_bit(quorum_bit(lr, i, u), lr->wrong);
        }
    }
    return preferred;
}

/* A scrub tells of unit @u that the disk has lost a child. */
static void quorum_note_excluded(QuorumLockedRead *lr, int u)
{
    const QuorumRequest *req = lr->req;

    for (int i = 0; i < req->n; i++) {
        if (req->answers[i].part == QUORUM_PART_EXCLUDED) {
            set_bit(quorum_bit(lr, i, u), lr->missing);
            if (req->scrub->repair) {
                set_bit(u, lr->weak);
            }
        }
    }
}

/* What the child in slot @i says of unit @u, if it has a vote there, or NULL */
static const uint8_t *quorum_unit_answer(const QuorumLockedRead *lr, int i,
                                         int u)
{
    QuorumAnswer *a = &lr->req->answers[i];
    QuorumRange unit = quorum_unit(lr, u);

    return quorum_answer_is_good(a) &&
           !test_bit(quorum_bit(lr, i, u), lr->stale) &&
           quorum_has_unit(lr, a, unit) ?
           quorum_data_at(lr, a->buf, unit.start) : NULL;
}

/*
 * The winner among @version[slot] of @data[slot], which are unit @u, and how
 * many @members it has.
 *
 * Where no member is sure, all may have lost the same.  Before the guest has
 * been told that by a flush that failed, nothing can be believed (promise 10);
 * afterwards, what all of them agree on is what the disk has become: that is
 * what a single disk does after such a flush.
 */
static int quorum_unit_winner(const QuorumLockedRead *lr, int u,
                              const uint8_t *const *data, const int *version,
                              int *members)
{
    const QuorumRequest *req = lr->req;
    int threshold = req->s->opts.threshold;
    QuorumRange unit = quorum_unit(lr, u);
    int winner, all = 0;

    if (quorum_unit_is_known(lr, u)) {
        return quorum_checked_winner(lr, u, data, version, members);
    }
    if (likely(!quorum_sync_any_unsure(req->s->sync))) {
        return quorum_winner(version, req->n, threshold, NULL, members);
    }
    for (int i = 0; i < req->n; i++) {
        lr->sure[i] = !test_bit(quorum_bit(lr, i, u), lr->unsure);
        all += quorum_answer_is_member(&req->answers[i]);
    }
    winner = quorum_winner(version, req->n, threshold, lr->sure, members);
    if (winner < 0) {
        winner = quorum_winner(version, req->n, threshold, NULL, members);
        if (winner >= 0 && (*members < all ||
                            !quorum_sync_is_told(req->s->sync, unit.start,
                                                 unit.end - unit.start))) {
            quorum_reached(QUORUM_BRANCH_NOT_VOUCHED);
            *members = 0;
            return QUORUM_NO_VERSION;
        } else if (winner >= 0) {
            quorum_reached(QUORUM_BRANCH_TOLD);
        }
    }
    return winner;
}

/* Whether a child that has not answered may be sure of unit @u. */
static bool quorum_sure_may_come(const QuorumLockedRead *lr, int u)
{
    for (int i = 0; i < lr->req->n; i++) {
        long bit = quorum_bit(lr, i, u);

        if (lr->req->answers[i].in_flight && !test_bit(bit, lr->unsure) &&
            !test_bit(bit, lr->stale)) {
            return true;
        }
    }
    return false;
}

/*
 * Whether each unit has a winner, among those that have answered; or has none
 * because they are all unsure, and those that have not answered can't help.
 */
static bool quorum_vote_has_winners(QuorumRequest *req)
{
    const QuorumLockedRead *lr = req->locked;
    g_autofree const uint8_t **data = g_new(const uint8_t *, req->n);
    g_autofree int *version = g_new(int, req->n);
    int members;

    for (int u = 0; u < lr->units; u++) {
        QuorumRange unit = quorum_unit(lr, u);

        for (int i = 0; i < req->n; i++) {
            data[i] = quorum_unit_answer(lr, i, u);
        }
        quorum_group_data(data, req->n, unit.end - unit.start, version);
        if (quorum_unit_winner(lr, u, data, version, &members) < 0 &&
            (quorum_unit_is_known(lr, u) ||
             quorum_winner(version, req->n, req->s->opts.threshold, NULL,
                           NULL) < 0 || quorum_sure_may_come(lr, u))) {
            return false;
        }
    }
    return true;
}

/* A QuorumEnoughFn.  Who is back will be asked when the others are done. */
static bool quorum_vote_is_enough(QuorumRequest *req)
{
    assume_graph_lock();    /* the request holds it */
    return quorum_vote_has_winners(req) || quorum_others_are_back(req);
}

/*
 * What most children have of unit @u; but among those that have something else
 * than any sure child, only if there is no other and the guest was told: see
 * quorum_unit_winner(), which has found no winner.
 */
static int quorum_most_common_outcome(const QuorumLockedRead *lr, int u,
                                      int *members)
{
    const QuorumRequest *req = lr->req;
    QuorumRange unit = quorum_unit(lr, u);
    g_autofree int *vouched = g_new(int, req->n);
    int winner;

    for (int i = 0; i < req->n; i++) {
        vouched[i] = QUORUM_NO_VERSION;
        for (int j = 0; j < req->n; j++) {
            bool sure = !test_bit(quorum_bit(lr, j, u), lr->unsure);

            if (lr->version[j] == lr->version[i] && sure) {
                vouched[i] = lr->version[i];
            }
        }
    }
    winner = quorum_most_common(vouched, req->n, members);
    if (winner < 0 && quorum_sync_is_told(req->s->sync, unit.start,
                                          unit.end - unit.start)) {
        return quorum_most_common(lr->version, req->n, members);
    }
    return winner;
}

/*
 * A crash has left each child its own outcome in unit @u: each of them may be
 * it, as on a single disk, but one must be chosen for good (promise 11).  If
 * @winner is none, choose the one that most children have.  Children that were
 * behind may all be stale here, though each lacks something else; but one that
 * is not stale has all that was acknowledged, so it may decide even alone.
 * Since the crash, the guest may have written here, and a child have lost that.
 * Returns the slot of a child that has what was chosen, or QUORUM_NO_VERSION if
 * too few have answered.
 */
static int GRAPH_RDLOCK quorum_choose_outcome(QuorumLockedRead *lr, int u,
                                              int winner, int answers,
                                              int voters, int *members)
{
    QuorumRequest *req = lr->req;
    QuorumRange unit = quorum_unit(lr, u);

    for (int i = 0; i < req->n; i++) {
        const BdrvChild *child = req->answers[i].child;

        if (child && quorum_is_member(req->s, i) &&
            (!(child->perm & BLK_PERM_WRITE) ||
             req->bs->open_flags & BDRV_O_INACTIVE)) {
            /* What is chosen could not be written: a vote as ever. */
            return winner;
        }
    }
    if (winner < 0 && answers >= MIN(req->s->opts.threshold, voters) &&
        answers > 0) {
        winner = quorum_most_common_outcome(lr, u, members);
    }
    if (winner >= 0) {
        quorum_reached(QUORUM_BRANCH_RESOLVED);
        trace_quorum_resolved(req->bs->node_name, unit.start,
                              unit.end - unit.start, winner, *members);
        set_bit(u, lr->resolve);
    }
    return winner;
}

/*
 * Unit @u has been chosen: who has something else, or has not answered, gets
 * it.  That is no fault of theirs.
 */
static void quorum_give_outcome(QuorumLockedRead *lr, int u, int winner)
{
    QuorumRequest *req = lr->req;

    for (int i = 0; i < req->n; i++) {
        long bit = quorum_bit(lr, i, u);

        clear_bit(bit, lr->wrong);
        clear_bit(bit, lr->missing);
        if (quorum_answer_is_member(&req->answers[i]) &&
            lr->version[i] != winner) {
            set_bit(bit, lr->to_repair);
        }
    }
    clear_bit(u, lr->weak);
}

/*
 * Give what was chosen to all members, before anyone sees it.  Those that do
 * not take it are stale there.  Returns 0, or -errno if too few have it.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_resolve(QuorumLockedRead *lr)
{
    QuorumRequest *req = lr->req;
    long bits = (long)req->n * lr->units;
    g_autofree unsigned long *resolved = bitmap_new(bits);
    int ret = 0;

    for (int i = 0; i < req->n; i++) {
        for (int u = 0; u < lr->units; u++) {
            if (test_bit(u, lr->resolve)) {
                set_bit(quorum_bit(lr, i, u), resolved);
            }
        }
    }
    /* What was shown must not change with the next power cut. */
    lr->repair_flags = BDRV_REQ_FUA;
    /* No flush is to wait for this; if it fails, so do the repairs. */
    quorum_state_prepare(req->bs, req->offset, req->bytes);
    qemu_co_rwlock_rdlock(&req->s->flush_lock);
    quorum_repair_some(lr, resolved);
    qemu_co_rwlock_unlock(&req->s->flush_lock);
    lr->repair_flags = 0;
    for (int u = find_first_bit(lr->resolve, lr->units); u < lr->units;
         u = find_next_bit(lr->resolve, lr->units, u + 1)) {
        QuorumRange unit = quorum_unit(lr, u);
        int holders = 0;

        for (int i = 0; i < req->n; i++) {
            if (!quorum_answer_is_member(&req->answers[i])) {
                continue;
            }
            if (test_bit(quorum_bit(lr, i, u), lr->to_repair)) {
                /* A scrub is to tell of it. */
                if (req->scrub) {
                    set_bit(quorum_bit(lr, i, u), lr->missing);
                } else {
                    clear_bit(quorum_bit(lr, i, u), lr->to_repair);
                }
                quorum_sync_mark_stale(req->s->sync, i, unit.start,
                                       unit.end - unit.start, "unresolved");
                set_bit(quorum_bit(lr, i, u), lr->stale);
            } else {
                holders++;
            }
        }
        if (holders < req->s->opts.threshold) {
            clear_bit(u, lr->resolve);
            set_bit(u, lr->weak);
            ret = -EIO;
        }
    }
    if (quorum_state_record(req->bs) < 0) {
        /* Another read would see it, and a crash could undo it. */
        bitmap_zero(lr->resolve, lr->units);
        ret = -EIO;
    }
    return ret;
}

/*
 * The winner of unit @u, by its digest if that is known, and how many @members
 * it has.  If fewer than @voters have given their *@answers, and there is none,
 * they are asked for the unit alone.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_decide_unit(QuorumLockedRead *lr, int u, int voters, int *answers,
                   int *members)
{
    QuorumRange unit = quorum_unit(lr, u);
    int64_t size = unit.end - unit.start;
    int winner;

    quorum_group_data(lr->data, lr->req->n, size, lr->version);
    winner = quorum_unit_winner(lr, u, lr->data, lr->version, members);
    if (winner < 0 && *answers < voters) {
        *answers += quorum_reread_unit(lr, u);
        quorum_group_data(lr->data, lr->req->n, size, lr->version);
        winner = quorum_unit_winner(lr, u, lr->data, lr->version, members);
    }
    if (winner < 0 && quorum_checked_gives_up(lr, u)) {
        winner = quorum_unit_winner(lr, u, lr->data, lr->version, members);
    }
    if (quorum_unit_is_known(lr, u)) {
        quorum_checked_decided(lr, u, winner >= 0, *members);
    }
    return winner;
}

/* Vote on unit @u.  Returns 0, or -errno: no winner. */
static int coroutine_fn GRAPH_RDLOCK quorum_vote_unit(QuorumLockedRead *lr,
                                                      int u)
{
    QuorumRequest *req = lr->req;
    int threshold = req->s->opts.threshold;
    QuorumRange unit = quorum_unit(lr, u);
    int64_t size = unit.end - unit.start;
    int voters = 0, answers = 0, lagging = 0;
    int winner, members;

    if (req->scrub) {
        quorum_note_excluded(lr, u);
    }
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        bool stale = test_bit(quorum_bit(lr, i, u), lr->stale);

        lr->data[i] = quorum_unit_answer(lr, i, u);
        voters += quorum_answer_counts(a) && !stale;
        lagging += a->part == QUORUM_PART_LAGGING && !stale;
        answers += lr->data[i] != NULL;
    }

    winner = quorum_decide_unit(lr, u, voters, &answers, &members);
    if (unlikely(quorum_sync_is_unresolved(req->s->sync, unit.start, size)) &&
        (winner >= 0 || !quorum_unit_is_known(lr, u))) {
        winner = quorum_choose_outcome(lr, u, winner, answers, voters,
                                       &members);
        if (winner >= 0 && test_bit(u, lr->resolve)) {
            memcpy(quorum_data_at(lr, lr->result, unit.start), lr->data[winner],
                   size);
            quorum_give_outcome(lr, u, winner);
            return 0;
        }
    }
    if (winner < 0) {
        trace_quorum_no_winner(req->bs->node_name, unit.start, size, answers,
                               voters);
        winner = quorum_prefer(lr, u);
        if (winner >= 0) {
            quorum_checked_unit_changes(lr, u);
            quorum_reached(QUORUM_BRANCH_PREFERRED);
            trace_quorum_preferred(req->bs->node_name, winner, unit.start,
                                   size);
            memcpy(quorum_data_at(lr, lr->result, unit.start), lr->data[winner],
                   size);
            return 0;
        }
        if (answers < threshold) {
            return quorum_request_errno(req);
        }
        if (answers == voters) {
            quorum_reached(QUORUM_BRANCH_TIE);
        }
        return -EIO;
    }
    assert(members >= (quorum_unit_is_known(lr, u) ? 1 : threshold));
    assert(members <= voters);
    memcpy(quorum_data_at(lr, lr->result, unit.start), lr->data[winner], size);
    quorum_judge_unit(lr, u, winner, members, voters + lagging);
    return 0;
}

/* In blkverify mode a difference ends QEMU: there is no child to believe. */
static void quorum_blkverify(QuorumRequest *req)
{
    QuorumAnswer *one = &req->answers[0];
    QuorumAnswer *other = &req->answers[1];
    ssize_t pos;

    assert(req->n == 2);
    if (quorum_count_good(req) < 2) {
        return;
    }
    pos = qemu_iovec_compare(&one->qiov, &other->qiov);
    if (pos >= 0) {
        fprintf(stderr, "quorum: offset=%" PRId64 " bytes=%" PRId64
                " contents mismatch at offset %" PRId64 "\n",
                req->offset, req->bytes, req->offset + pos);
        exit(1);
    }
}

/* A child that can read again where repairs were futile gets another chance. */
static void quorum_forget_futile(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];
        QuorumSlot *slot = &req->s->slots[i];

        if (qatomic_read(&slot->futile_repairs) &&
            quorum_answer_counts(a) && a->ret >= 0 &&
            req->offset <= stat64_get(&slot->futile_start) &&
            req->offset + req->bytes >= stat64_get(&slot->futile_end)) {
            qatomic_set(&slot->futile_repairs, 0);
        }
    }
}

bool coroutine_fn quorum_locked_read_alloc(QuorumLockedRead *lr,
                                           QuorumRequest *req)
{
    int64_t base = QEMU_ALIGN_DOWN(req->offset, QUORUM_UNIT);
    int units = DIV_ROUND_UP(req->offset + req->bytes - base, QUORUM_UNIT);

    assert(req->bytes > 0 &&
           req->bytes <= buffer_pool_max_size(req->pool, req->n + 1));
    *lr = (QuorumLockedRead) {
        .req = req,
        .base = base,
        .units = units,
        .stale = bitmap_new((long)req->n * units),
        .unsure = bitmap_new((long)req->n * units),
        .late = bitmap_new((long)req->n * units),
        .wrong = bitmap_new((long)req->n * units),
        .to_repair = bitmap_new((long)req->n * units),
        .given = bitmap_new((long)req->n * units),
        .missing = bitmap_new((long)req->n * units),
        .no_winner = bitmap_new(units),
        .weak = bitmap_new(units),
        .resolve = bitmap_new(units),
        .by_digest = bitmap_new(units),
        .digests = quorum_checked_vote_new(req, units),
        .data = g_new(const uint8_t *, req->n),
        .version = g_new(int, req->n),
        .sure = g_new(bool, req->n),
    };
    req->locked = lr;
    quorum_request_admit(req);
    if (!quorum_request_alloc(req)) {
        return false;
    }
    lr->result = req->bufs[0];
    return true;
}

void quorum_locked_read_free(QuorumLockedRead *lr)
{
    g_free(lr->stale);
    g_free(lr->unsure);
    g_free(lr->late);
    g_free(lr->wrong);
    g_free(lr->to_repair);
    g_free(lr->given);
    g_free(lr->missing);
    g_free(lr->no_winner);
    g_free(lr->weak);
    g_free(lr->resolve);
    g_free(lr->by_digest);
    g_free(lr->digests);
    g_free(lr->data);
    g_free(lr->version);
    g_free(lr->sure);
}

/*
 * The range is held.  What has been cut off while the request waited for it is
 * not there to be read.
 */
static void quorum_clip_request(QuorumLockedRead *lr)
{
    QuorumRequest *req = lr->req;
    int64_t length = quorum_sync_length(req->s->sync);

    if (likely(req->offset + req->bytes <= length)) {
        return;
    }
    quorum_reached(QUORUM_BRANCH_READ_CLIPPED);
    req->bytes = MAX(length - req->offset, 0);
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (a->buf) {
            qemu_iovec_init_buf(&a->qiov, a->buf, req->bytes);
        }
    }
    lr->units = req->bytes ? DIV_ROUND_UP(req->offset + req->bytes - lr->base,
                                          QUORUM_UNIT) : 0;
}

int coroutine_fn
quorum_locked_read_vote(QuorumLockedRead *lr, bool all_units)
{
    QuorumRequest *req = lr->req;
    int ret = 0;

    quorum_range_lock(req->bs, &lr->range, req->offset, req->bytes);
    quorum_clip_request(lr);
    if (req->bytes == 0) {
        return 0;
    }
    /* An inactive image may be written by others all the time. */
    lr->may_verify = quorum_opts_verify(&req->s->opts) &&
                     !(req->bs->open_flags & BDRV_O_INACTIVE);
    lr->losses = bdrv_last_loss_generation();
    quorum_checked_vote_begin(lr);
    quorum_notice_losses(req->bs);
    quorum_choose_voters(lr);
    req->enough = quorum_vote_is_enough;
    quorum_ask_all(req, quorum_ask_read);
    if (quorum_sync_is_degraded(req->s->sync) &&
        !quorum_vote_has_winners(req) && quorum_request_take_back(req)) {
        quorum_choose_voters(lr);
        quorum_ask_all(req, quorum_ask_read);
    }
    quorum_notice_losses(req->bs);
    quorum_choose_voters(lr);
    quorum_forget_futile(req);
    if (req->s->opts.blkverify) {
        quorum_blkverify(req);
    }
    for (int u = 0; u < lr->units && (ret == 0 || all_units); u++) {
        int unit_ret = quorum_vote_unit(lr, u);

        ret = ret ?: unit_ret;
    }
    if (unlikely(!bitmap_empty(lr->resolve, lr->units))) {
        int resolve_ret = quorum_resolve(lr);

        ret = ret ?: resolve_ret;
    }
    quorum_checked_vote_end(lr, ret);
    return ret;
}

void coroutine_fn quorum_locked_read_unlock(QuorumLockedRead *lr)
{
    range_lock_co_unlock(&lr->req->s->range_lock, &lr->range);
}

void quorum_report_wrong(QuorumLockedRead *lr)
{
    QuorumRequest *req = lr->req;

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];
        long base = quorum_bit(lr, i, 0);
        long end = base + lr->units;
        long first = find_next_bit(lr->wrong, end, base);

        /* Where one child has decided, the others were not outvoted. */
        while (first < end && test_bit(first - base, lr->no_winner)) {
            first = find_next_bit(lr->wrong, end, first + 1);
        }
        if (quorum_answer_counts(a) && !a->reported && first < end) {
            trace_quorum_mismatch(req->bs->node_name, i, req->offset,
                                  req->bytes,
                                  quorum_unit(lr, first - base).start);
            a->reported = true;
            stat64_add(&req->s->slots[i].counters.mismatches, 1);
            quorum_answer_report_bad(a, QUORUM_OP_TYPE_READ, NULL);
        }
    }
}

/* --- the two that read for the guest --- */

QuorumRequest *
quorum_locked_request_new(BlockDriverState *bs, int64_t offset, int64_t bytes,
                          BdrvRequestFlags flags, const bool *reported,
                          const char *why)
{
    QuorumRequest *req = quorum_request_new(bs, offset, bytes, NULL, flags);

    quorum_reached(QUORUM_BRANCH_LOCKED_READ);
    trace_quorum_locked_read(bs->node_name, offset, bytes, why);
    for (int i = 0; i < req->n; i++) {
        req->answers[i].reported = reported && reported[i];
    }
    return req;
}

/* Note which children should be repaired behind the read, and are reported. */
static void GRAPH_RDLOCK quorum_locked_read_find(const QuorumLockedRead *lr,
                                                 QuorumFindings *found)
{
    const QuorumRequest *req = lr->req;

    quorum_find_reported(found, req);
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];
        long base = quorum_bit(lr, i, 0);
        long end = base + lr->units;

        if (quorum_answer_counts(a) &&
            find_next_bit(lr->to_repair, end, base) < end &&
            (a->ret < 0 ? quorum_worth_rewrite(a)
                        : find_next_bit(lr->wrong, end, base) < end &&
                          quorum_worth_repair(req->bs, i))) {
            quorum_find_to_repair(found, req->s, i, "wrong child");
        }
    }
}

int coroutine_fn quorum_locked_read(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, int64_t skip,
                                    QEMUIOVector *qiov, BdrvRequestFlags flags,
                                    QuorumFindings *found, const char *why)
{
    QuorumRequest *req = quorum_locked_request_new(bs, offset, bytes, flags,
                                                   NULL, why);
    QuorumLockedRead lr;
    int ret = -ENOMEM;

    quorum_tell_for(req, found, offset + skip, qiov->size);
    if (quorum_locked_read_alloc(&lr, req)) {
        ret = quorum_locked_read_vote(&lr, false);
        if (ret == 0) {
            quorum_report_wrong(&lr);
            quorum_locked_read_find(&lr, found);
            quorum_locked_read_verify(&lr);
        }
        quorum_locked_read_unlock(&lr);
        if (ret == 0) {
            /* The guest may read what it is cutting off: zeroes will do. */
            memset(lr.result + req->bytes, 0, bytes - req->bytes);
            qemu_iovec_from_buf(qiov, 0, lr.result + skip, qiov->size);
        } else if (!found->again) {
            req->offset = offset + skip;
            req->bytes = qiov->size;
            quorum_report_failure(req, "read", ret);
        }
        if (found->in_order && (ret == 0 || !found->again)) {
            quorum_tell_errors_in_order(req, offset + skip, qiov->size);
        } else if (found->in_order) {
            quorum_find_reported(found, req);
        }
    }
    quorum_locked_read_free(&lr);
    quorum_request_free(req);
    return ret;
}

/* A QuorumRepairFn: all that differs, if the options ask for it. */
static void coroutine_fn GRAPH_RDLOCK
quorum_repair_corrupted(BlockDriverState *bs, QuorumLockedRead *lr)
{
    BDRVQuorumState *s = bs->opaque;

    if (s->opts.rewrite_corrupted) {
        quorum_repair_all(lr);
    }
}

void coroutine_fn quorum_repair_range(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, const bool *reported,
                                      const char *why, QuorumRepairFn *repair)
{
    QuorumRequest *req = quorum_locked_request_new(bs, offset, bytes, 0,
                                                   reported, why);
    QuorumLockedRead lr;

    req->pool = &req->s->repair_pool;
    req->background = true;
    if (quorum_locked_read_alloc(&lr, req)) {
        quorum_locked_read_vote(&lr, true);
        if (lr.units) {         /* else all has been cut off meanwhile */
            quorum_report_wrong(&lr);
            (repair ?: quorum_repair_corrupted)(bs, &lr);
            quorum_locked_read_verify(&lr);
        }
        quorum_locked_read_unlock(&lr);
        quorum_flush_after_a_while(bs);
    }
    quorum_locked_read_free(&lr);
    quorum_request_free(req);
}
