/*
 * Quorum block driver: one chunk of a scrub: what is found and repaired
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "read-locked-int.h"
#include "scrub-chunk.h"
#include "write.h"

/* --- ranges --- */

void quorum_scrub_range_free(QuorumScrubRange *range)
{
    if (range) {
        g_free(range->children);
        g_free(range);
    }
}

void quorum_scrub_ranges_init(QuorumScrub *scrub)
{
    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        scrub->ranges[what] = g_ptr_array_new_with_free_func(
            (GDestroyNotify)quorum_scrub_range_free);
    }
}

void quorum_scrub_ranges_free(QuorumScrub *scrub)
{
    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        g_clear_pointer(&scrub->ranges[what], g_ptr_array_unref);
    }
}

bool quorum_scrub_range_extend(QuorumScrubRange *range,
                               const QuorumScrubRange *next)
{
    assert(range->what == next->what);
    if (range->offset + range->bytes != next->offset ||
        range->winner != next->winner || range->n != next->n ||
        !bitmap_equal(range->children, next->children, range->n)) {
        return false;
    }
    range->bytes += next->bytes;
    return true;
}

/* Add @found, of which the children are copied, to the ranges of @scrub. */
static void quorum_scrub_add_range(QuorumScrub *scrub,
                                   const QuorumScrubRange *found)
{
    GPtrArray *ranges = scrub->ranges[found->what];
    QuorumScrubRange *range;

    if (!ranges) {
        return;
    }
    range = ranges->len ? g_ptr_array_index(ranges, ranges->len - 1) : NULL;
    if (range && range->left == found->left &&
        quorum_scrub_range_extend(range, found)) {
        return;
    }
    range = g_new(QuorumScrubRange, 1);
    *range = *found;
    range->children = bitmap_new(found->n);
    bitmap_copy(range->children, found->children, found->n);
    g_ptr_array_add(ranges, range);
}

/* --- findings --- */

/* Whose data belong into unit @u */
static QuorumScrubWinner quorum_unit_winner(const QuorumLockedRead *lr, int u)
{
    return test_bit(u, lr->by_digest) ? QUORUM_SCRUB_WINNER_DIGEST :
           !test_bit(u, lr->no_winner) ? QUORUM_SCRUB_WINNER_VOTED :
           test_bit(u, lr->weak) ? QUORUM_SCRUB_WINNER_NONE :
                                   QUORUM_SCRUB_WINNER_PREFERRED;
}

/*
 * Whether slot @i is among those of which it is to be told that @what was found
 * in unit @u
 */
static bool quorum_unit_concerns(const QuorumLockedRead *lr, int u, int i,
                                 QuorumScrubFinding what,
                                 QuorumScrubWinner winner)
{
    long bit = quorum_bit(lr, i, u);
    bool wrong = test_bit(bit, lr->wrong);
    bool missing = test_bit(bit, lr->missing);

    switch (what) {
    case QUORUM_SCRUB_FINDING_MISMATCHED:
        return wrong;
    case QUORUM_SCRUB_FINDING_MISSING:
        return missing;
    case QUORUM_SCRUB_FINDING_UNREPAIRABLE:
        if (winner == QUORUM_SCRUB_WINNER_NONE) {
            return quorum_answer_is_member(&lr->req->answers[i]) && !missing;
        }
        if (test_bit(u, lr->weak)) {
            return wrong || missing;
        }
        return lr->req->scrub->repair && test_bit(bit, lr->to_repair);
    default:
        g_assert_not_reached();
    }
}

/*
 * Fill in @found, with memory for the children, for unit @u; no bytes if it is
 * not found there.
 */
static void quorum_examine_unit(const QuorumLockedRead *lr, int u,
                                QuorumScrubRange *found)
{
    QuorumRange unit = quorum_unit(lr, u);
    bool is_found = found->what == QUORUM_SCRUB_FINDING_UNREPAIRABLE &&
                    test_bit(u, lr->weak);

    found->offset = unit.start;
    found->winner = quorum_unit_winner(lr, u);
    bitmap_zero(found->children, found->n);
    for (int i = 0; i < found->n; i++) {
        if (quorum_unit_concerns(lr, u, i, found->what, found->winner)) {
            set_bit(i, found->children);
            is_found = true;
        }
    }
    found->bytes = is_found ? unit.end - unit.start : 0;
}

/* Add what has been found in unit @u; @found[what] is memory for it. */
static void quorum_add_unit(const QuorumLockedRead *lr, int u,
                            QuorumScrubRange *found)
{
    QuorumScrub *scrub = lr->req->scrub;
    int64_t most = 0, unrepairable;
    QuorumFigures *figures;
    bool repaired;

    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        quorum_examine_unit(lr, u, &found[what]);
        most = MAX(most, found[what].bytes);
    }
    unrepairable = found[QUORUM_SCRUB_FINDING_UNREPAIRABLE].bytes;
    repaired = scrub->repair && !unrepairable;

    figures = repaired ? &scrub->in_repaired : &scrub->left;
    figures->mismatched += found[QUORUM_SCRUB_FINDING_MISMATCHED].bytes;
    figures->missing += found[QUORUM_SCRUB_FINDING_MISSING].bytes;
    figures->unrepairable += unrepairable;
    figures->repaired += repaired ? most : 0;
    if (repaired && found->winner == QUORUM_SCRUB_WINNER_PREFERRED) {
        figures->preferred += most;
    }

    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        if (found[what].bytes) {
            found[what].left = !repaired;
            quorum_scrub_add_range(scrub, &found[what]);
        }
    }
}

/*
 * Add to req->scrub what has been found.  Returns false if there is something
 * that should have been repaired, and is not.
 */
static bool quorum_add_findings(const QuorumLockedRead *lr)
{
    QuorumScrub *scrub = lr->req->scrub;
    QuorumScrubRange found[QUORUM_SCRUB_FINDING__MAX] = { 0 };
    long bits = (long)lr->req->n * lr->units;

    if (bitmap_empty(lr->wrong, bits) && bitmap_empty(lr->missing, bits) &&
        bitmap_empty(lr->weak, lr->units)) {
        return true;
    }
    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        found[what].what = what;
        found[what].n = lr->req->n;
        found[what].children = bitmap_new(lr->req->n);
    }
    for (int u = 0; u < lr->units; u++) {
        quorum_add_unit(lr, u, found);
    }
    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        g_free(found[what].children);
    }
    return !scrub->repair || !scrub->left.unrepairable;
}

/* The range could not be read for lack of memory. */
static void quorum_add_unread(QuorumRequest *req)
{
    QuorumScrubRange unread = {
        .offset = req->offset,
        .bytes = req->bytes,
        .what = QUORUM_SCRUB_FINDING_UNREPAIRABLE,
        .winner = QUORUM_SCRUB_WINNER_NONE,
        .left = true,
        .n = req->n,
        .children = bitmap_new(req->n),
    };

    req->scrub->left.unrepairable = req->bytes;
    quorum_scrub_add_range(req->scrub, &unread);
    g_free(unread.children);
}

/* --- a chunk --- */

/* A chunk of a scrub, whose memory is there. */
static int coroutine_fn GRAPH_RDLOCK quorum_scrub_range(QuorumLockedRead *lr)
{
    QuorumRequest *req = lr->req;
    QuorumScrub *scrub = req->scrub;
    int vote_ret, repair_ret = 0;

    vote_ret = quorum_locked_read_vote(lr, true);
    for (int u = 0; u < lr->units; u++) {
        scrub->known += quorum_unit_is_known(lr, u) ? QUORUM_UNIT : 0;
    }
    quorum_report_wrong(lr);
    if (scrub->repair) {
        repair_ret = quorum_repair_all(lr);
    }
    quorum_locked_read_verify(lr);
    quorum_locked_read_unlock(lr);

    if (vote_ret < 0 && !scrub->failure_reported) {
        scrub->failure_reported = true;
        quorum_report_failure(req, "scrub", vote_ret);
    }
    scrub->write_failed = repair_ret < 0;
    if (!quorum_add_findings(lr) && !repair_ret && !vote_ret) {
        return -EIO;
    }
    return repair_ret ?: vote_ret;
}

int coroutine_fn quorum_co_scrub(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, QuorumScrub *scrub)
{
    QuorumRequest *req = quorum_locked_request_new(bs, offset, bytes, 0, NULL,
                                                   "scrub");
    QuorumLockedRead lr;
    int ret;

    scrub->in_repaired = (QuorumFigures) { 0 };
    scrub->left = (QuorumFigures) { 0 };
    scrub->write_failed = false;
    scrub->known = 0;
    req->scrub = scrub;
    if (scrub->repair) {
        quorum_extend_children(bs, offset + bytes, scrub);
    }
    if (quorum_locked_read_alloc(&lr, req)) {
        lr.prefer = scrub->prefer;
        ret = quorum_scrub_range(&lr);
    } else {
        quorum_add_unread(req);
        ret = -ENOMEM;
    }
    quorum_locked_read_free(&lr);
    quorum_request_free(req);
    return ret;
}
