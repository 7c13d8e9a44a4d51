/*
 * Quorum block driver: reads that need one replica
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "checked.h"
#include "debug.h"
#include "digest-store.h"
#include "early.h"
#include "read-locked-int.h"
#include "repair.h"
#include "state.h"
#include "vote.h"

/* Digests of so many units are on the stack. */
#define QUORUM_FEW_UNITS 16

/* What larger writes have written is unknown (promise 8). */
#define QUORUM_CHECKED_WRITE (64 * MiB)

bool quorum_checked_make(BDRVQuorumState *s, const QuorumOptions *opts,
                         QuorumDigests **digests, Error **errp)
{
    if (opts->read_pattern != QUORUM_READ_PATTERN_CHECKED) {
        *digests = NULL;
        return true;
    }
    if (s->digests && s->opts.digest == opts->digest &&
        s->opts.digest_cache_size == opts->digest_cache_size) {
        *digests = s->digests;
        return true;
    }
    *digests = quorum_digests_new(opts->digest_cache_size,
                                  quorum_checked_alg(opts), NULL, errp);
    return *digests;
}

void quorum_checked_use(BDRVQuorumState *s, QuorumDigests *digests)
{
    if (s->digests != digests) {
        quorum_digests_free(s->digests);
    }
    s->digests = digests;
}

void quorum_checked_unload(BDRVQuorumState *s)
{
    if (s->digests) {
        quorum_store_unload(s);
        quorum_digests_forget_all(s->digests);
    }
}

/* An inactive image, or a shared one, may be written by others all the time. */
static bool quorum_may_know(const BlockDriverState *bs)
{
    return !(bs->open_flags & BDRV_O_INACTIVE) && !bs->force_share;
}

/*
 * Whether a child that has answered may get late writes in the range: what the
 * children say is what they are going to hold only when these have ended.
 */
static bool quorum_may_change_late(const QuorumRequest *req, int64_t offset,
                                   int64_t bytes)
{
    QuorumSync *sync = req->s->sync;

    if (likely(!quorum_sync_is_degraded(sync))) {
        return false;
    }
    for (int i = 0; i < req->n; i++) {
        if (quorum_answer_counts(&req->answers[i]) &&
            quorum_sync_is_late(sync, i, offset, bytes)) {
            return true;
        }
    }
    return false;
}

/* --- changes --- */

/* The whole units in [@offset, @offset + @bytes) to *@first and *@end. */
static void quorum_whole_units(int64_t offset, int64_t bytes, int64_t *first,
                               int64_t *end)
{
    *first = ROUND_UP(offset, QUORUM_UNIT);
    *end = MAX(*first, QEMU_ALIGN_DOWN(offset + bytes, QUORUM_UNIT));
}

/* Digests of some units. */
typedef struct QuorumUnits {
    int count;
    uint64_t *digests;          /* [unit] */
    uint64_t few[QUORUM_FEW_UNITS];
} QuorumUnits;

static void quorum_units_init(QuorumUnits *units, int64_t bytes)
{
    units->count = bytes / QUORUM_UNIT;
    units->digests = units->count > QUORUM_FEW_UNITS ?
                     g_new(uint64_t, units->count) : units->few;
}

static void quorum_units_destroy(QuorumUnits *units)
{
    if (units->digests != units->few) {
        g_free(units->digests);
    }
}

/*
 * Memory for the digests of what @req writes.  Without any, or if it writes
 * very much, what it writes is unknown afterwards.
 */
static uint64_t *quorum_checked_alloc(QuorumRequest *req)
{
    int64_t first, end;

    quorum_whole_units(req->offset, req->bytes, &first, &end);
    if (!req->checked.digests && end == first + QUORUM_UNIT) {
        req->checked.digests = &req->checked.one;
    } else if (!req->checked.digests && end > first &&
               end - first <= QUORUM_CHECKED_WRITE) {
        req->checked.digests = g_try_new0(uint64_t,
                                          (end - first) / QUORUM_UNIT);
    }
    return req->checked.digests;
}

void quorum_checked_copy(QuorumRequest *req, QEMUIOVector *qiov, int64_t bytes)
{
    uint64_t *digests = quorum_checked_alloc(req);
    uint8_t *buf = req->bufs[0];
    int64_t from = req->offset + req->copied;
    int64_t first, end;

    quorum_whole_units(from, bytes, &first, &end);
    if (!digests || first == end) {
        qemu_iovec_to_buf(qiov, req->copied, buf, bytes);
        return;
    }
    qemu_iovec_to_buf(qiov, req->copied, buf, first - from);
    quorum_digests_hash_copy(req->s->digests, qiov, first - req->offset,
                             end - first, buf + (first - from),
                             digests + (first - ROUND_UP(req->offset,
                                                         QUORUM_UNIT)) /
                                       QUORUM_UNIT);
    qemu_iovec_to_buf(qiov, end - req->offset, buf + (end - from),
                      from + bytes - end);
}

void quorum_checked_do_end(QuorumRequest *req, bool held)
{
    QuorumDigests *d = req->s->digests;
    bool zeroes = !req->qiov;

    /* Units that are not remembered, or not whole, have been forgotten. */
    if (held && quorum_may_know(req->bs)) {
        if (!zeroes && req->checked.digests) {
            quorum_digests_remember(d, req->offset, req->bytes,
                                    req->checked.digests);
        } else if (zeroes && !quorum_debug_has_odd_zeroes()) {
            quorum_digests_remember_zeroes(d, req->offset, req->bytes);
        }
    }
    quorum_digests_end_change(d, req->checked.offset, req->checked.bytes);
}

/* --- votes --- */

uint64_t quorum_checked_do_generation(const QuorumRequest *req)
{
    int64_t first, end;

    quorum_whole_units(req->offset, req->bytes, &first, &end);
    return quorum_digests_generation(req->s->digests, first, end - first);
}

/*
 * Whether the good answers outnumber all that may hold something else (promise
 * 6): with a small threshold, a few that could be read for a moment must not
 * decide what the others are overwritten with.
 */
static bool quorum_good_outnumber_rest(const QuorumRequest *req)
{
    int good = quorum_count_good(req);
    int rest = -good;

    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        rest += quorum_answer_is_member(a) &&
                (a->part != QUORUM_PART_STALE || a->absent);
    }
    return good > rest;
}

/* The buffer of a good answer, or NULL if the only one is in guest memory. */
static const uint8_t *quorum_private_answer(const QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_is_good(a) && a->buf) {
            return a->buf;
        }
    }
    return NULL;
}

bool quorum_checked_do_agree(QuorumRequest *req, QuorumAnswer *one,
                             uint64_t generation)
{
    QuorumDigests *d = req->s->digests;
    const uint8_t *buf = quorum_private_answer(req);
    QuorumUnits said;
    int64_t first, end;
    bool ok;

    quorum_whole_units(req->offset, req->bytes, &first, &end);
    if (first == end || !quorum_may_know(req->bs)) {
        return true;
    }
    quorum_units_init(&said, end - first);
    if (buf) {
        quorum_digests_hash_buf(d, buf + (first - req->offset), end - first,
                                said.digests);
    } else {
        quorum_digests_hash(d, quorum_answer_qiov(one), first - req->offset,
                            end - first, said.digests);
    }
    ok = !quorum_digests_contradict(d, first, end - first, said.digests);
    if (!ok) {
        quorum_reached(QUORUM_BRANCH_DIGEST_DISAGREES);
    } else if (buf && quorum_good_outnumber_rest(req) &&
               !quorum_may_change_late(req, first, end - first)) {
        /* Else the guest may change its own memory meanwhile. */
        quorum_digests_remember_if(d, first, end - first, said.digests,
                                   generation);
    }
    quorum_units_destroy(&said);
    return ok;
}

/* --- votes with the range held --- */

uint64_t *quorum_checked_vote_new(const QuorumRequest *req, int units)
{
    return req->s->digests ? g_new0(uint64_t, units) : NULL;
}

/* Whether unit @u is a whole one. */
static bool quorum_unit_is_whole(const QuorumLockedRead *lr, int u)
{
    QuorumRange unit = quorum_unit(lr, u);

    return unit.end - unit.start == QUORUM_UNIT;
}

void coroutine_fn quorum_checked_vote_begin(QuorumLockedRead *lr)
{
    QuorumDigests *d = lr->req->s->digests;

    if (!lr->digests) {
        return;
    }
    if (!quorum_may_know(lr->req->bs)) {
        /* Nor is anything to be remembered if the node becomes active. */
        g_clear_pointer(&lr->digests, g_free);
        return;
    }
    quorum_store_fetch(lr->req->bs, lr->req->offset, lr->req->bytes);
    for (int u = 0; u < lr->units; u++) {
        if (!quorum_unit_is_whole(lr, u) ||
            !quorum_digests_lookup(d, quorum_unit(lr, u).start, QUORUM_UNIT,
                                   &lr->digests[u])) {
            lr->digests[u] = QUORUM_DIGEST_UNKNOWN;
        }
    }
}

int quorum_checked_winner(const QuorumLockedRead *lr, int u,
                          const uint8_t *const *data, const int *version,
                          int *members)
{
    const QuorumRequest *req = lr->req;
    int winner = QUORUM_NO_VERSION;

    *members = 0;
    for (int i = 0; i < req->n; i++) {
        uint64_t digest;

        if (data[i] && version[i] == i && winner < 0) {
            quorum_digests_hash_buf(req->s->digests, data[i], QUORUM_UNIT,
                                    &digest);
            winner = digest == lr->digests[u] ? i : winner;
        }
        *members += winner >= 0 && version[i] == winner;
    }
    return winner;
}

/*
 * Whether all members have said what they have in unit @u, and some may have
 * lost it, and not been given it again.
 */
static bool quorum_is_lost_by_all(const QuorumLockedRead *lr, int u)
{
    bool unsure = false;

    for (int i = 0; i < lr->req->n; i++) {
        if (quorum_answer_is_member(&lr->req->answers[i]) && !lr->data[i]) {
            return false;
        }
        unsure |= test_bit(quorum_bit(lr, i, u), lr->unsure);
    }
    return unsure;
}

bool coroutine_fn quorum_checked_gives_up(QuorumLockedRead *lr, int u)
{
    QuorumRange unit = quorum_unit(lr, u);

    /* What was told long ago does not excuse a loss of what came later. */
    if (!quorum_unit_is_known(lr, u) || !quorum_is_lost_by_all(lr, u) ||
        !quorum_sync_is_told(lr->req->s->sync, unit.start,
                             unit.end - unit.start)) {
        return false;
    }
    /* Else it would be known again after a crash (P1). */
    if (lr->req->s->store &&
        quorum_state_prepare(lr->req->bs, unit.start,
                             unit.end - unit.start) < 0) {
        return false;
    }
    quorum_reached(QUORUM_BRANCH_DIGEST_TOLD);
    quorum_checked_unit_changes(lr, u);
    return true;
}

void quorum_checked_decided(QuorumLockedRead *lr, int u, bool winner,
                            int members)
{
    const QuorumRequest *req = lr->req;
    QuorumRange unit = quorum_unit(lr, u);

    if (winner) {
        set_bit(u, lr->by_digest);
        if (members < req->s->opts.threshold) {
            quorum_reached(QUORUM_BRANCH_DIGEST_DECIDED);
            trace_quorum_digest_decided(req->bs->node_name, unit.start,
                                        members);
        }
    } else {
        quorum_reached(QUORUM_BRANCH_DIGEST_LOST);
        trace_quorum_digest_lost(req->bs->node_name, unit.start);
        lr->lost = true;
    }
}

void quorum_checked_unit_changes(QuorumLockedRead *lr, int u)
{
    QuorumRange unit = quorum_unit(lr, u);

    if (lr->digests) {
        quorum_digests_forget(lr->req->s->digests, unit.start,
                              unit.end - unit.start);
        lr->digests[u] = QUORUM_DIGEST_UNKNOWN;
    }
}

/* Tell people, once, why reads fail although the children agree. */
static void quorum_tell_lost(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    if (!qatomic_xchg(&s->digest_lost_told, true)) {
        error_report("quorum '%s': no child has the data that was last written "
                     "to some place; if all children were restored from a "
                     "backup while the node was open, use quorum-scrub with "
                     "digests=forget", bdrv_get_node_name(bs));
    }
}

void quorum_checked_vote_end(QuorumLockedRead *lr, int ret)
{
    const QuorumRequest *req = lr->req;

    if (likely(!lr->digests)) {
        return;
    }
    if (lr->lost) {
        quorum_tell_lost(req->bs);
    }
    if (ret < 0 || req->background || req->scrub || !quorum_may_know(req->bs)) {
        return;
    }
    for (int u = 0; u < lr->units; u++) {
        int64_t start = quorum_unit(lr, u).start;
        uint64_t digest;

        if (quorum_unit_is_known(lr, u) || !quorum_unit_is_whole(lr, u) ||
            test_bit(u, lr->weak) ||
            quorum_may_change_late(req, start, QUORUM_UNIT)) {
            continue;
        }
        quorum_digests_hash_buf(req->s->digests,
                                lr->result + (start - req->offset),
                                QUORUM_UNIT, &digest);
        quorum_digests_remember_vote(req->s->digests, start, QUORUM_UNIT,
                                     &digest);
    }
}

/* --- reads --- */

void quorum_checked_widen(const BlockDriverState *bs, int64_t *offset,
                          int64_t *bytes)
{
    const BDRVQuorumState *s = bs->opaque;
    int64_t end = *offset + *bytes;

    if (s->digests) {
        end = MAX(end, MIN(ROUND_UP(end, QUORUM_UNIT), quorum_length(bs)));
        *offset = QEMU_ALIGN_DOWN(*offset, QUORUM_UNIT);
        *bytes = end - *offset;
    }
}

int64_t quorum_checked_max_bytes(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes)
{
    const BDRVQuorumState *s = bs->opaque;
    int64_t most = quorum_request_max_bytes(bs);

    return likely(!s->digests) || QEMU_IS_ALIGNED(offset | bytes, QUORUM_UNIT) ?
           most : MAX(most - 2 * QUORUM_UNIT, QUORUM_UNIT);
}

/* Whether what the child of @a has said is right. */
static bool quorum_answer_is_right(QuorumAnswer *a, const QuorumUnits *known)
{
    const QuorumDigests *d = a->req->s->digests;
    const QEMUIOVector *qiov = quorum_answer_qiov(a);

    for (int u = 0; u < known->count; u += QUORUM_FEW_UNITS) {
        uint64_t digests[QUORUM_FEW_UNITS];
        int n = MIN(known->count - u, QUORUM_FEW_UNITS);

        quorum_digests_hash(d, qiov, (size_t)u * QUORUM_UNIT,
                            (int64_t)n * QUORUM_UNIT, digests);
        for (int i = 0; i < n; i++) {
            if (digests[i] != known->digests[u + i]) {
                return false;
            }
        }
    }
    return true;
}

/* Ask one child, and the next one if it can't read. */
static QuorumChecked coroutine_fn GRAPH_RDLOCK
quorum_check_in_turn(QuorumRequest *req, const QuorumUnits *known)
{
    QuorumAnswer *a;

    while ((a = quorum_early_fastest(req))) {
        a->done = true;
        quorum_ask_one(a, quorum_ask_read);
        if (quorum_answer_is_good(a)) {
            return quorum_answer_is_right(a, known) ? QUORUM_CHECKED_RIGHT
                                                    : QUORUM_CHECKED_WRONG;
        }
        quorum_request_leave_out_dropped(req);
    }
    return QUORUM_CHECKED_UNKNOWN;
}

/* A QuorumEarlyFn: the first good answer is right or not. */
static QuorumEarly quorum_judge_digest(QuorumRequest *req)
{
    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_is_good(a) && a->done) {
            if (!quorum_answer_is_right(a, req->checked.known)) {
                return QUORUM_EARLY_HOPELESS;
            }
            req->early.winner = a;
            return QUORUM_EARLY_ENOUGH;
        }
    }
    return QUORUM_EARLY_WAIT;
}

/* Ask the child that should answer first, and others if it is late or fails. */
static QuorumChecked coroutine_fn GRAPH_RDLOCK
quorum_check_early(QuorumRequest *req, const QuorumUnits *known)
{
    quorum_early_choose(req, 1, 1);
    quorum_request_admit(req);
    if (!quorum_request_alloc(req)) {
        return QUORUM_CHECKED_UNKNOWN;
    }
    req->checked.known = known;
    quorum_ask_early(req, quorum_judge_digest, true);
    req->checked.known = NULL;
    if (req->early.winner) {
        qemu_iovec_from_buf(req->qiov, 0, req->early.winner->buf, req->bytes);
        return QUORUM_CHECKED_RIGHT;
    }
    return req->early.verdict == QUORUM_EARLY_HOPELESS ? QUORUM_CHECKED_WRONG
                                                       : QUORUM_CHECKED_UNKNOWN;
}

/* Leave out those that can't help. */
static void GRAPH_RDLOCK quorum_check_choose(QuorumRequest *req)
{
    if (quorum_sync_is_degraded(req->s->sync)) {
        quorum_request_leave_out_stale(req);
        quorum_request_leave_out_late(req, req->offset, req->bytes);
    }
    if (qatomic_read(&req->s->num_repairs)) {
        quorum_leave_out_in_repair(req);
    }
}

/* Look up the range, wherever its digests are. */
static bool coroutine_fn GRAPH_RDLOCK
quorum_check_lookup(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    uint64_t *digests)
{
    BDRVQuorumState *s = bs->opaque;

    if (likely(quorum_digests_lookup(s->digests, offset, bytes, digests))) {
        return true;
    }
    if (!s->store) {
        return false;
    }
    quorum_store_do_fetch(bs, offset, bytes);
    return quorum_digests_lookup(s->digests, offset, bytes, digests);
}

QuorumChecked coroutine_fn
quorum_checked_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    QEMUIOVector *qiov, BdrvRequestFlags flags,
                    QuorumFindings *found)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumChecked result = QUORUM_CHECKED_UNKNOWN;
    QuorumRequest *req;
    QuorumUnits known;

    quorum_units_init(&known, bytes);
    if (!QEMU_IS_ALIGNED(offset | bytes, QUORUM_UNIT) || !quorum_may_know(bs) ||
        !quorum_check_lookup(bs, offset, bytes, known.digests)) {
        stat64_add(&s->checked_misses, 1);
        quorum_units_destroy(&known);
        return QUORUM_CHECKED_UNKNOWN;
    }
    req = quorum_request_new(bs, offset, bytes, qiov, flags);
    req->measured = QUORUM_LATENCY_READ;
    req->early.on = s->opts.early_reads;
    quorum_check_choose(req);
    if (quorum_count_asked(req)) {
        result = req->early.on ? quorum_check_early(req, &known)
                               : quorum_check_in_turn(req, &known);
        quorum_find_failed(found, req);
    }
    if (result == QUORUM_CHECKED_WRONG) {
        quorum_reached(QUORUM_BRANCH_WRONG_DIGEST);
        stat64_add(&s->checked_mismatches, 1);
    } else if (result == QUORUM_CHECKED_RIGHT) {
        quorum_reached(QUORUM_BRANCH_CHECKED);
        stat64_add(&s->checked_hits, 1);
    }
    quorum_request_leave(req, req->early.winner);
    quorum_units_destroy(&known);
    return result;
}

QuorumCheckedStats *quorum_checked_stats(BDRVQuorumState *s)
{
    QuorumCheckedStats *stats;

    if (!s->digests) {
        return NULL;
    }
    stats = g_new0(QuorumCheckedStats, 1);
    stats->hits = stat64_get(&s->checked_hits);
    stats->misses = stat64_get(&s->checked_misses);
    stats->mismatches = stat64_get(&s->checked_mismatches);
    stats->cache_bytes = quorum_digests_memory(s->digests);
    quorum_store_fill_stats(s, stats);
    return stats;
}
