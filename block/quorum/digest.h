/*
 * Quorum block driver: digests of what the disk holds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The hash, and a table of the digests that are remembered, for reads that ask
 * one child and check what it says.  What may be remembered when is decided
 * elsewhere; nothing here knows of children, or does I/O.
 *
 * The disk is divided into units.  A unit is *known*, with a digest, or
 * *unknown*; which of them are kept in memory is up to the table: a known unit
 * may become unknown at any time, and no unit becomes known by itself.
 *
 * A table may be *kept*: on some node, which nothing here knows, there is what
 * it knows, and more than fits into memory.  Then a unit of which that node has
 * to be asked is *elsewhere*, which is neither known nor unknown; and the table
 * knows which of its pages that node lacks, or is wrong about.
 *
 * A digest has 56 bits, so that the digests of 32 GiB, with all that is needed
 * to find them, take less than 64 MiB, and 512 of them with a header less than
 * 4 KiB.  Data that a child has made up without knowing the key have the digest
 * of the right data by chance with a probability of 2^-56 per unit: with a
 * million rotten units in each second, once in 2,000 years.  (The key, random,
 * makes sure that it is chance.  Against a child that could learn digests,
 * XXH3 is no defence, and SHA-256 one of 56 bits; but they stay on this host.)
 *
 * All functions may be called in any thread; none blocks for longer than it
 * takes to copy the digests of the range.
 */

#ifndef BLOCK_QUORUM_DIGEST_H
#define BLOCK_QUORUM_DIGEST_H

#include "qemu/iov.h"
#include "qemu/units.h"

#define QUORUM_DIGEST_UNIT      4096
#define QUORUM_DIGEST_BITS      56

/*
 * The digest of what is unknown, which no data have, and that of zeroes; and in
 * the table only, that of what is elsewhere.
 */
#define QUORUM_DIGEST_UNKNOWN   0
#define QUORUM_DIGEST_ZERO      1
#define QUORUM_DIGEST_ELSEWHERE 2

/* How many units a page of the table has, and how much of the disk that is. */
#define QUORUM_DIGEST_PAGE_UNITS 512
#define QUORUM_DIGEST_PAGE_BYTES (QUORUM_DIGEST_PAGE_UNITS * QUORUM_DIGEST_UNIT)

/* The generation of what is just being changed. */
#define QUORUM_DIGEST_CHANGING  UINT64_MAX

/* The least size of a table. */
#define QUORUM_DIGEST_CACHE_MIN (1ULL * MiB)

/* The length of a key, of which SHA-256 uses only a part. */
#define QUORUM_DIGEST_KEY       192

typedef enum QuorumDigestAlg {
    QUORUM_DIGEST_ALG_XXH3,
    QUORUM_DIGEST_ALG_SHA256,
} QuorumDigestAlg;

typedef struct QuorumDigests QuorumDigests;

/* The fastest algorithm that this build has. */
QuorumDigestAlg quorum_digest_alg_default(void);

/*
 * Create a table in which all is unknown, and which takes at most @cache_size
 * bytes of memory.  @key has QUORUM_DIGEST_KEY bytes; NULL stands for a random
 * one.  Returns NULL with @errp set if this build does not have the algorithm,
 * or there is no memory.
 */
QuorumDigests *quorum_digests_new(uint64_t cache_size, QuorumDigestAlg alg,
                                  const uint8_t *key, Error **errp);
void quorum_digests_free(QuorumDigests *d);

/* The key of the table, which is secret: QUORUM_DIGEST_KEY bytes. */
const uint8_t *quorum_digests_key(const QuorumDigests *d);

/* Whether there never was anything in the table. */
bool quorum_digests_is_empty(QuorumDigests *d);

/* How many bytes of memory the table takes now. */
uint64_t quorum_digests_memory(QuorumDigests *d);

/* --- the hash --- */

/* The digest of data that are not zeroes and have the hash @hash. */
static inline uint64_t quorum_digest_from_hash(uint64_t hash)
{
    uint64_t digest = hash >> (64 - QUORUM_DIGEST_BITS);

    /* Three values stand for something else. */
    return digest > QUORUM_DIGEST_ELSEWHERE ? digest : digest + 3;
}

/*
 * Set @digests to the digests of the units of @bytes bytes, which are a
 * multiple of a unit, in @buf or from @qiov_offset on in @qiov.  If there is a
 * reason why data can't be hashed, the digest is QUORUM_DIGEST_UNKNOWN.
 */
void quorum_digests_hash_buf(const QuorumDigests *d, const void *buf,
                             int64_t bytes, uint64_t *digests);
void quorum_digests_hash(const QuorumDigests *d, const QEMUIOVector *qiov,
                         size_t qiov_offset, int64_t bytes, uint64_t *digests);

/*
 * The same for a copy at @dst, which this function makes.  Each unit is hashed
 * as soon as it is copied, while it is in the first cache.
 */
void quorum_digests_hash_copy(const QuorumDigests *d, const QEMUIOVector *qiov,
                              size_t qiov_offset, int64_t bytes, void *dst,
                              uint64_t *digests);

/* --- what is forgotten and remembered --- */

/*
 * The *generation* of a range is a number that is different after any change
 * to it: who finds that it is still the same knows that none has begun or ended
 * meanwhile, and that nothing was forgotten or remembered but by a vote.  While
 * a change is under way, it is QUORUM_DIGEST_CHANGING: a vote that begins in
 * the middle may see what will be there no more, and must not be remembered.
 * (The generation may also be different, or QUORUM_DIGEST_CHANGING, because of
 * other ranges.)
 */

/*
 * Children are going to be asked to change the range: forget all units that it
 * touches.  The caller has locked the range.
 */
void quorum_digests_begin_change(QuorumDigests *d, int64_t offset,
                                 int64_t bytes);

/*
 * The change of exactly this range has ended, and what is to be remembered of
 * it is remembered.  The range is still locked.
 */
void quorum_digests_end_change(QuorumDigests *d, int64_t offset,
                               int64_t bytes);

/* Forget all units that the range touches, also those that it covers partly. */
void quorum_digests_forget(QuorumDigests *d, int64_t offset, int64_t bytes);
void quorum_digests_forget_all(QuorumDigests *d);

/*
 * Remember the @digests of the units that the range covers wholly, and forget
 * those that it covers partly, or whose digest is unknown.
 */
void quorum_digests_remember(QuorumDigests *d, int64_t offset, int64_t bytes,
                             const uint64_t *digests);

/*
 * The same for zeroes.  Of a large range, only as much becomes known as takes
 * an eighth of the table, so that other things stay known, too, and it does not
 * take long; the rest is forgotten.
 */
void quorum_digests_remember_zeroes(QuorumDigests *d, int64_t offset,
                                    int64_t bytes);

/* The generation of all units that the range touches: an opaque number. */
uint64_t quorum_digests_generation(QuorumDigests *d, int64_t offset,
                                   int64_t bytes);

/*
 * Remember the @digests of all units in the range, which begins and ends with a
 * unit, if its generation is still @generation, and that is not
 * QUORUM_DIGEST_CHANGING.  Returns whether it did.  The generation stays the
 * same: this is no change.  What is elsewhere stays so: where a vote did not
 * ask the digest, it may not replace it.
 */
bool quorum_digests_remember_if(QuorumDigests *d, int64_t offset, int64_t bytes,
                                const uint64_t *digests, uint64_t generation);

/*
 * If all units in the range, which begins and ends with a unit, are known,
 * write what is remembered to @digests and return true.  Otherwise what is
 * written there means nothing.  Each digest was remembered at some time during
 * the call, but not necessarily all of them at the same time.
 *
 * Takes a lock only if what it reads changes under way, so that threads that
 * read the same range don't wait for each other.
 */
bool quorum_digests_lookup(QuorumDigests *d, int64_t offset, int64_t bytes,
                           uint64_t *digests);

/*
 * Whether some unit of the range, which begins and ends with a unit, is known
 * with a digest that is not that of @digests, or is elsewhere, where it may be.
 */
bool quorum_digests_contradict(QuorumDigests *d, int64_t offset, int64_t bytes,
                               const uint64_t *digests);

/*
 * The same as quorum_digests_remember() after a vote that held the range, of
 * whole units: what is elsewhere stays so.
 */
void quorum_digests_remember_vote(QuorumDigests *d, int64_t offset,
                                  int64_t bytes, const uint64_t *digests);

/* --- a table that is kept --- */

/*
 * What must hold of page p of a table that is kept, as far as it is *kept* (all
 * pages below a limit are), where "the node" is what was last written there, or
 * is being written:
 *
 * T1 If p is not *dirty*, the node says of each of its units what is remembered
 *    here, or that it is unknown; unless the unit is elsewhere, and the node is
 *    right.
 * T2 A unit that is unknown here is unknown on the node, if p is not dirty.
 * T3 A page of the disk that has no page in memory is elsewhere as a whole, or
 *    if it is dirty, unknown as a whole.
 *
 * So wherever a unit gets another digest, or becomes unknown, which was not
 * unknown before, its page becomes dirty; where it was unknown, there is only
 * *news*, which may be lost.  A page ceases to be dirty when it is copied, to
 * be written; it is *cached* from then on until it is flushed.
 */

/*
 * From now on, the first @pages pages of the disk are kept.  If the node is
 * @fresh, it says that all is unknown, and what is known is news; otherwise all
 * is elsewhere.  Returns false if there is no memory for that.
 */
bool quorum_digests_keep(QuorumDigests *d, uint32_t pages, bool fresh);

/* The table is not kept any more: what was elsewhere is unknown. */
void quorum_digests_keep_no_more(QuorumDigests *d);

/* Forget all, and use @key from now on.  There are no requests. */
void quorum_digests_set_key(QuorumDigests *d, const uint8_t *key);

/*
 * Set *@page to the first page with units of the range that are elsewhere;
 * false if there is none.
 */
bool quorum_digests_find_elsewhere(QuorumDigests *d, int64_t offset,
                                   int64_t bytes, uint32_t *page);

/*
 * The first one makes sure that page @page is in memory, and stays there until
 * the second one is called, with what the node says of its units, or NULL if
 * that is not known: then it is unknown, and dirty.  The first one returns
 * false, and no second one is needed, if none of its units is elsewhere.
 *
 * Not for more than QUORUM_DIGEST_LOADS pages at a time.
 */
#define QUORUM_DIGEST_LOADS 32
bool quorum_digests_load_begin(QuorumDigests *d, uint32_t page);
void quorum_digests_load_end(QuorumDigests *d, uint32_t page,
                             const uint64_t *digests);

/* Whether nothing on the node is wrong about the range, also after a crash. */
bool quorum_digests_is_clean(QuorumDigests *d, int64_t offset, int64_t bytes);

/*
 * Set *@page to the first page from *@page on, and before @end, that is dirty,
 * or with @news, has news; false if there is none.
 */
bool quorum_digests_next_to_write(QuorumDigests *d, uint32_t *page,
                                  uint32_t end, bool news);

/* Whether so much is to be written that pages may soon go before they are. */
bool quorum_digests_is_pressed(QuorumDigests *d);

/* What a page that is to be written is like. */
typedef enum QuorumDigestsCopy {
    QUORUM_DIGESTS_NOT_NEEDED,  /* it is neither dirty, nor has news */
    QUORUM_DIGESTS_COPIED,      /* it is neither any more, but cached */
    QUORUM_DIGESTS_LOAD_FIRST,  /* some of it is elsewhere */
} QuorumDigestsCopy;

/*
 * Copy page @page to @digests, to be written.  If that fails, the node is of no
 * use any more.
 */
QuorumDigestsCopy quorum_digests_copy(QuorumDigests *d, uint32_t page,
                                      uint64_t *digests);

/* All pages that were copied have been written and flushed. */
void quorum_digests_flushed(QuorumDigests *d);

/*
 * The node may have lost what was not flushed.  A page that was read from it
 * since may be an old one; none is remembered before this is called.
 */
void quorum_digests_lost(QuorumDigests *d);

#endif /* BLOCK_QUORUM_DIGEST_H */
