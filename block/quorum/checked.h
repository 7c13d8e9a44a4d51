/*
 * Quorum block driver: reads that need one replica
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Read pattern checked: what threshold children have stored, or agreed on, once
 * need not be voted on again as long as its digest is remembered (digest.h).
 * One child is asked; if its answer has the digest, it is right (promise 12).
 *
 * What must hold:
 *
 * D1 Forget first.  Before the first child is asked to change a unit, its
 *    digest becomes unknown, with the range held.
 * D2 Remember what is held.  When a write may be acknowledged, and before its
 *    range is given back, the units that it covers get the digests of its copy.
 * D3 Remember what was agreed.  A vote that has a winner, which outnumbers all
 *    others (promise 6), remembers its units; without the range only if no
 *    change was under way when the first child was asked, and none has begun
 *    since: the generation of the range is the same.
 * D4 Ask one.  If all units of a read were known when it began, any answer that
 *    has their digests is right, whoever it comes from, and whatever happened
 *    to the child meanwhile.
 * D5 A wrong digest accuses no child.  The range is held, and all are asked
 *    again: the version that has the digest wins, even if one child has it; if
 *    none has it, the read fails.
 * D6 A write that fails leaves what it covers unknown.
 *
 * Why D3 is right without the range.  Whoever changes a unit makes its
 * generation grow before the first child is asked, and until the last one has
 * answered, the generation is one that no vote remembers anything for.  So if a
 * vote finds the same generation before its first question and when it
 * remembers, no change was under way at any time in between, and what was
 * agreed is what the unit holds.  (A vote in the middle of a change may see
 * what was there before it when others have already seen what comes after; and
 * if it is remembered when the change has ended, the unit can't be read any
 * more.)
 *
 * Repairs don't change what the disk holds: they leave digests alone, unless an
 * operator has said which child decides.
 */

#ifndef BLOCK_QUORUM_CHECKED_H
#define BLOCK_QUORUM_CHECKED_H

#include "digest.h"
#include "request.h"

QEMU_BUILD_BUG_ON(QUORUM_UNIT != QUORUM_DIGEST_UNIT);

static inline QuorumDigestAlg quorum_checked_alg(const QuorumOptions *opts)
{
    return opts->digest == QUORUM_DIGEST_SHA256 ? QUORUM_DIGEST_ALG_SHA256
                                                : QUORUM_DIGEST_ALG_XXH3;
}

/*
 * A table of digests as @opts want it, which take the place of those of @s:
 * *@digests, which is NULL if they want none, and that of @s if it is what they
 * want already.  Returns false with @errp set if there is no memory for that.
 */
bool quorum_checked_make(BDRVQuorumState *s, const QuorumOptions *opts,
                         QuorumDigests **digests, Error **errp);

/* Use @digests.  In the main thread, with all requests drained. */
void quorum_checked_use(BDRVQuorumState *s, QuorumDigests *digests);

/*
 * The image is not ours from now on, or was not: forget all, but for what is
 * kept on a node, which is looked at again with the state nodes.
 */
void quorum_checked_unload(BDRVQuorumState *s);

/* --- changes --- */

/* D1: a request that holds the range is about to change the children there. */
static inline void quorum_checked_begin(QuorumRequest *req, int64_t offset,
                                        int64_t bytes)
{
    if (unlikely(req->s->digests)) {
        req->checked.offset = offset;
        req->checked.bytes = bytes;
        quorum_digests_begin_change(req->s->digests, offset, bytes);
    }
}

/*
 * Copy the next @bytes that @req writes, from @req->copied on in @qiov, to its
 * buffer, and note the digests of the copy.
 */
void quorum_checked_copy(QuorumRequest *req, QEMUIOVector *qiov, int64_t bytes);

/*
 * D2, D6: what quorum_checked_begin() was called for is done, and the range is
 * still held: remember it, if it is @held by enough children, as it was copied,
 * or as zeroes.
 */
void quorum_checked_do_end(QuorumRequest *req, bool held);

static inline void quorum_checked_end(QuorumRequest *req, bool held)
{
    if (unlikely(req->s->digests)) {
        quorum_checked_do_end(req, held);
    }
}

/* --- votes --- */

/* What a vote without the range has to know before it asks. */
uint64_t quorum_checked_do_generation(const QuorumRequest *req);

static inline uint64_t quorum_checked_generation(const QuorumRequest *req)
{
    return unlikely(req->s->digests) ? quorum_checked_do_generation(req) : 0;
}

/*
 * D3: the good answers to @req, which has asked at that @generation, are alike,
 * @one is one of them, and they are what the range holds.
 *
 * Returns false if they are not, because the digest of some unit is known and
 * is another one: then a read that holds the range has to decide.
 */
bool quorum_checked_do_agree(QuorumRequest *req, QuorumAnswer *one,
                             uint64_t generation);

static inline bool quorum_checked_agree(QuorumRequest *req,
                                        QuorumAnswer *one,
                                        uint64_t generation)
{
    return likely(!req->s->digests) ||
           quorum_checked_do_agree(req, one, generation);
}

/* --- votes with the range held: read-locked.c --- */

/* Room for the digests of @units, or NULL. */
uint64_t *quorum_checked_vote_new(const QuorumRequest *req, int units);

/* The range has just been taken: look up what is known. */
void coroutine_fn GRAPH_RDLOCK
quorum_checked_vote_begin(struct QuorumLockedRead *lr);

/*
 * D5: of unit @u, which is known, the version among @version[slot] of
 * @data[slot] that has the digest, or QUORUM_NO_VERSION; and how many @members
 * it has.
 */
int quorum_checked_winner(const struct QuorumLockedRead *lr, int u,
                          const uint8_t *const *data, const int *version,
                          int *members);

/*
 * Unit @u has no winner.  If its digest is known, but it was lost, and a flush
 * has told the guest so, what the children have become counts, as it does with
 * a vote: forget the digest, and return true.
 */
bool coroutine_fn GRAPH_RDLOCK
quorum_checked_gives_up(struct QuorumLockedRead *lr, int u);

/* The digest has decided unit @u: @members have it, or there is no winner. */
void quorum_checked_decided(struct QuorumLockedRead *lr, int u, bool winner,
                            int members);

/* An operator has decided what unit @u holds. */
void quorum_checked_unit_changes(struct QuorumLockedRead *lr, int u);

/*
 * D3: the vote has ended with @ret, and the range is still held: remember what
 * has won.  Not what a scrub or a repair reads: that would take the place of
 * what the guest reads.
 */
void quorum_checked_vote_end(struct QuorumLockedRead *lr, int ret);

/* --- reads --- */

/*
 * Widen the range to the units that it touches, as far as the disk has them, if
 * digests are remembered: what is voted on is whole units, or else the digest
 * would have no say, and the one child that is right might be outvoted.
 */
void GRAPH_RDLOCK quorum_checked_widen(const BlockDriverState *bs,
                                       int64_t *offset, int64_t *bytes);

/* quorum_request_max_bytes() of parts of the range, when they are widened. */
int64_t GRAPH_RDLOCK quorum_checked_max_bytes(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes);

/* What a read of one child has come to. */
typedef enum QuorumChecked {
    QUORUM_CHECKED_UNKNOWN,     /* not all is known, or no child can read */
    QUORUM_CHECKED_RIGHT,       /* the answer is in the caller's vector */
    QUORUM_CHECKED_WRONG,       /* a child has something else */
} QuorumChecked;

/*
 * D4: if all of the range is known, read it from one child.  @found as for
 * quorum_locked_read().
 */
QuorumChecked coroutine_fn GRAPH_RDLOCK
quorum_checked_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    QEMUIOVector *qiov, BdrvRequestFlags flags,
                    QuorumFindings *found);

/* What management is told, or NULL. */
QuorumCheckedStats *quorum_checked_stats(BDRVQuorumState *s);

#endif /* BLOCK_QUORUM_CHECKED_H */
