/*
 * Quorum block driver: digests of what the disk holds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The table is an array of *pages*, each with the digests of 512 units that lie
 * one behind the other, and an index of them by number, with chains.  It is
 * allocated at once, but a page that was never used takes no memory.  When all
 * pages are in use, the one that goes is the next one that was not looked up
 * since the last time that it was considered (CLOCK).
 *
 * All changes are made with the lock held.  Lookups do without: each page has a
 * sequence lock, which tells a reader that what it has read has changed under
 * way; and as pages are never freed, reading them at the wrong time does no
 * harm.  Fields that such readers see are atomic therefore.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "crypto/random.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/processor.h"
#include "qemu/seqlock.h"
#include "qemu/thread.h"
#include "digest.h"
#ifdef CONFIG_XXHASH
#ifdef CONFIG_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

QEMU_BUILD_BUG_ON(QUORUM_DIGEST_KEY < XXH3_SECRET_SIZE_MIN);
#endif

#define PAGE_UNITS      512
#define PAGE_BYTES      (PAGE_UNITS * QUORUM_DIGEST_UNIT)
#define NONE            UINT32_MAX      /* no page, and none of the disk's */

/* Ranges that have generations of their own, and how many of these exist. */
#define STRIPE_BYTES    (64 * KiB)
#define STRIPES         4096

/* How often a lookup tries to do without the lock. */
#define LOOKUP_TRIES    16

/* Of a key, what SHA-256 uses. */
#define SHA256_KEY      32

typedef struct QuorumDigestPage {
    QemuSeqLock seq;            /* of all below but @next */
    uint32_t number;            /* which page of the disk */
    uint32_t next;              /* in the chain: an index in pages[] */

    /* Digests, in three parts, because nothing that has 56 bits is atomic. */
    union {
        struct {
            uint32_t low[PAGE_UNITS];
            uint16_t mid[PAGE_UNITS];
            uint8_t high[PAGE_UNITS];
        };
        uint32_t words[PAGE_UNITS * QUORUM_DIGEST_BITS / 32];
    };
} QuorumDigestPage;

QEMU_BUILD_BUG_ON(sizeof_field(QuorumDigestPage, words) !=
                  offsetof(QuorumDigestPage, high[PAGE_UNITS]) -
                  offsetof(QuorumDigestPage, low));

struct QuorumDigests {
    QuorumDigestAlg alg;
    uint8_t key[QUORUM_DIGEST_KEY];
    uint32_t num_pages;
    uint32_t num_buckets;       /* a power of two */
    uint64_t overhead;          /* bytes, of all that is not pages */

    QemuMutex lock;             /* for changes of all below */
    uint32_t used_pages;        /* have been used, from pages[0] on */
    uint32_t hand;              /* of the CLOCK */
    QuorumDigestPage *pages;
    uint32_t *buckets;          /* the first page in the chain */
    uint8_t *looked_up;         /* for each page: whether it was, lately */

    /*
     * Nothing has to be kept of pages that were evicted: changes are counted in
     * the stripes of their ranges.  The generation of a range is the sum over
     * its stripes.  It grows by one for each change in each of them, so it
     * looks the same only after 2^32 of them.
     */
    struct {
        uint32_t generation;
        uint32_t changing;      /* changes that are under way */
    } stripes[STRIPES];
};

/* --- the hash --- */

QuorumDigestAlg quorum_digest_alg_default(void)
{
#ifdef CONFIG_XXHASH
    return QUORUM_DIGEST_ALG_XXH3;
#else
    return QUORUM_DIGEST_ALG_SHA256;
#endif
}

static bool quorum_digest_check_alg(QuorumDigestAlg alg, Error **errp)
{
#ifndef CONFIG_XXHASH
    if (alg == QUORUM_DIGEST_ALG_XXH3) {
        error_setg(errp, "This build has no XXH3 hash support: "
                   "use 'sha256' digests");
        return false;
    }
#endif
    if (alg == QUORUM_DIGEST_ALG_SHA256 &&
        !qcrypto_hash_supports(QCRYPTO_HASH_ALGO_SHA256)) {
        error_setg(errp, "This build has no SHA-256 hash support, "
                   "which 'sha256' digests need");
        return false;
    }
    return true;
}

/* A hash of the unit at @data: 64 bits, or a negative error. */
static int quorum_digest_hash(const QuorumDigests *d, const void *data,
                              uint64_t *hash)
{
    uint8_t result[QCRYPTO_HASH_DIGEST_LEN_SHA256];
    uint8_t *ptr = result;
    size_t len = sizeof(result);
    struct iovec parts[] = {
        { .iov_base = (void *)d->key, .iov_len = SHA256_KEY },
        { .iov_base = (void *)data, .iov_len = QUORUM_DIGEST_UNIT },
    };

#ifdef CONFIG_XXHASH
    if (d->alg == QUORUM_DIGEST_ALG_XXH3) {
        *hash = XXH3_64bits_withSecret(data, QUORUM_DIGEST_UNIT, d->key,
                                       QUORUM_DIGEST_KEY);
        return 0;
    }
#endif
    if (qcrypto_hash_bytesv(QCRYPTO_HASH_ALGO_SHA256, parts, ARRAY_SIZE(parts),
                            &ptr, &len, NULL) < 0) {
        return -EIO;
    }
    *hash = ldq_be_p(result);
    return 0;
}

static uint64_t quorum_digest_unit(const QuorumDigests *d, const void *data)
{
    uint64_t hash;

    if (buffer_is_zero(data, QUORUM_DIGEST_UNIT)) {
        return QUORUM_DIGEST_ZERO;
    }
    if (quorum_digest_hash(d, data, &hash) < 0) {
        return QUORUM_DIGEST_UNKNOWN;
    }
    return quorum_digest_from_hash(hash);
}

void quorum_digests_hash_buf(const QuorumDigests *d, const void *buf,
                             int64_t bytes, uint64_t *digests)
{
    assert(QEMU_IS_ALIGNED(bytes, QUORUM_DIGEST_UNIT));
    for (int64_t i = 0; i < bytes / QUORUM_DIGEST_UNIT; i++) {
        digests[i] = quorum_digest_unit(d, buf + i * QUORUM_DIGEST_UNIT);
    }
}

/* A place in a vector. */
typedef struct QuorumDigestCursor {
    const struct iovec *iov;
    size_t offset;              /* in *@iov */
} QuorumDigestCursor;

static QuorumDigestCursor quorum_digest_cursor(const QEMUIOVector *qiov,
                                               size_t qiov_offset)
{
    QuorumDigestCursor c = { .iov = qiov->iov, .offset = qiov_offset };

    while (c.offset && c.offset >= c.iov->iov_len) {
        c.offset -= c.iov->iov_len;
        c.iov++;
    }
    return c;
}

/* Copy the next unit to @dst. */
static void quorum_digest_copy_unit(QuorumDigestCursor *c, uint8_t *dst)
{
    size_t done = 0;

    while (done < QUORUM_DIGEST_UNIT) {
        size_t len = MIN(c->iov->iov_len - c->offset,
                         QUORUM_DIGEST_UNIT - done);

        memcpy(dst + done, c->iov->iov_base + c->offset, len);
        done += len;
        c->offset += len;
        if (c->offset == c->iov->iov_len) {
            c->iov++;
            c->offset = 0;
        }
    }
}

/* The next unit where it is, if it is there in one piece, or a copy in @tmp. */
static const void *quorum_digest_next_unit(QuorumDigestCursor *c, uint8_t *tmp)
{
    if (c->iov->iov_len - c->offset > QUORUM_DIGEST_UNIT) {
        c->offset += QUORUM_DIGEST_UNIT;
        return c->iov->iov_base + c->offset - QUORUM_DIGEST_UNIT;
    }
    if (c->iov->iov_len - c->offset == QUORUM_DIGEST_UNIT) {
        const void *unit = c->iov->iov_base + c->offset;

        c->iov++;
        c->offset = 0;
        return unit;
    }
    quorum_digest_copy_unit(c, tmp);
    return tmp;
}

void quorum_digests_hash(const QuorumDigests *d, const QEMUIOVector *qiov,
                         size_t qiov_offset, int64_t bytes, uint64_t *digests)
{
    QuorumDigestCursor c = quorum_digest_cursor(qiov, qiov_offset);
    uint8_t tmp[QUORUM_DIGEST_UNIT];

    assert(QEMU_IS_ALIGNED(bytes, QUORUM_DIGEST_UNIT));
    assert(bytes <= qiov->size && qiov_offset <= qiov->size - bytes);
    for (int64_t i = 0; i < bytes / QUORUM_DIGEST_UNIT; i++) {
        digests[i] = quorum_digest_unit(d, quorum_digest_next_unit(&c, tmp));
    }
}

void quorum_digests_hash_copy(const QuorumDigests *d, const QEMUIOVector *qiov,
                              size_t qiov_offset, int64_t bytes, void *dst,
                              uint64_t *digests)
{
    QuorumDigestCursor c = quorum_digest_cursor(qiov, qiov_offset);

    assert(QEMU_IS_ALIGNED(bytes, QUORUM_DIGEST_UNIT));
    assert(bytes <= qiov->size && qiov_offset <= qiov->size - bytes);
    for (int64_t i = 0; i < bytes / QUORUM_DIGEST_UNIT; i++) {
        quorum_digest_copy_unit(&c, dst);
        digests[i] = quorum_digest_unit(d, dst);
        dst += QUORUM_DIGEST_UNIT;
    }
}

/* --- pages --- */

static inline uint64_t quorum_digest_get(const QuorumDigestPage *p, int unit)
{
    return qatomic_read(&p->low[unit]) |
           (uint64_t)qatomic_read(&p->mid[unit]) << 32 |
           (uint64_t)qatomic_read(&p->high[unit]) << 48;
}

static inline void quorum_digest_set(QuorumDigestPage *p, int unit,
                                     uint64_t digest)
{
    assert(!(digest >> QUORUM_DIGEST_BITS));
    qatomic_set(&p->low[unit], (uint32_t)digest);
    qatomic_set(&p->mid[unit], (uint16_t)(digest >> 32));
    qatomic_set(&p->high[unit], (uint8_t)(digest >> 48));
}

static inline uint32_t *quorum_digest_bucket(QuorumDigests *d, uint32_t number)
{
    /* Neighbours, and pages at any one distance, go to different buckets. */
    uint32_t hash = number * UINT32_C(2654435769);

    return &d->buckets[(hash ^ hash >> 16) & (d->num_buckets - 1)];
}

/* The page @number, or NULL.  Called with the lock held. */
static QuorumDigestPage *quorum_digest_find_locked(QuorumDigests *d,
                                                   uint32_t number)
{
    uint32_t i = *quorum_digest_bucket(d, number);

    while (i != NONE && d->pages[i].number != number) {
        i = d->pages[i].next;
    }
    return i == NONE ? NULL : &d->pages[i];
}

static void quorum_digest_unlink_locked(QuorumDigests *d, QuorumDigestPage *p)
{
    uint32_t *where = quorum_digest_bucket(d, p->number);

    while (&d->pages[*where] != p) {
        where = &d->pages[*where].next;
    }
    qatomic_set(where, p->next);
}

/* A page that was not used yet, or else one that can go: its index. */
static uint32_t quorum_digest_evict_locked(QuorumDigests *d)
{
    uint32_t i;

    if (d->used_pages < d->num_pages) {
        return d->used_pages++;
    }
    do {
        i = d->hand;
        d->hand = (i + 1) % d->num_pages;
    } while (qatomic_xchg(&d->looked_up[i], 0));
    quorum_digest_unlink_locked(d, &d->pages[i]);
    return i;
}

/*
 * The page @number; if the table does not have it, a new one.
 *
 * A new page is put in front of its chain.  So a lookup without the lock, which
 * goes from newer to older pages, does not miss a page that is there all the
 * time: if the page at which the lookup has arrived moves, then to another
 * chain, which shows, or to the front of the same one.
 */
static QuorumDigestPage *quorum_digest_make_locked(QuorumDigests *d,
                                                   uint32_t number)
{
    QuorumDigestPage *p = quorum_digest_find_locked(d, number);
    uint32_t *bucket = quorum_digest_bucket(d, number);
    uint32_t i;

    if (p) {
        return p;
    }
    i = quorum_digest_evict_locked(d);
    p = &d->pages[i];
    seqlock_write_begin(&p->seq);
    qatomic_set(&p->number, number);
    qatomic_set(&p->next, *bucket);
    for (int j = 0; j < ARRAY_SIZE(p->words); j++) {
        qatomic_set(&p->words[j], 0);
    }
    seqlock_write_end(&p->seq);
    qatomic_store_release(bucket, i);
    return p;
}

/* --- ranges --- */

/* The units of a range that are in one page. */
typedef struct QuorumDigestPart {
    uint32_t number;            /* of the page */
    int first, past;            /* of the units in it */
    int64_t offset, end;        /* of what is left of the range behind it */
} QuorumDigestPart;

/*
 * Set @part to the first part of the range, or to the next one of the range in
 * @part; false if there is none.  Pages that have no number, beyond 8 PiB, are
 * always unknown.
 */
static bool quorum_digest_next_part(QuorumDigestPart *part)
{
    int64_t page = part->offset / PAGE_BYTES;
    int64_t units;              /* from the page's first to the range's last */

    if (part->offset >= part->end || page >= NONE) {
        return false;
    }
    units = (part->end - page * PAGE_BYTES - 1) / QUORUM_DIGEST_UNIT + 1;
    part->number = page;
    part->first = part->offset % PAGE_BYTES / QUORUM_DIGEST_UNIT;
    part->past = MIN(units, PAGE_UNITS);
    part->offset = (page + 1) * PAGE_BYTES;
    return true;
}

/* To go through the parts of a range. */
#define QUORUM_DIGEST_FOR_EACH_PART(part, offset_, bytes_)              \
    for (QuorumDigestPart part = {                                      \
             .offset = (offset_), .end = (offset_) + (bytes_),          \
         };                                                             \
         quorum_digest_next_part(&part);)

static void quorum_digest_check_range(int64_t offset, int64_t bytes)
{
    assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
}

static void quorum_digest_check_units(int64_t offset, int64_t bytes)
{
    quorum_digest_check_range(offset, bytes);
    assert(QEMU_IS_ALIGNED(offset | bytes, QUORUM_DIGEST_UNIT));
}

/* The units that the range covers wholly, from *@begin to *@end. */
static void quorum_digest_whole_units(int64_t offset, int64_t bytes,
                                      int64_t *begin, int64_t *end)
{
    *end = QEMU_ALIGN_DOWN(offset + bytes, QUORUM_DIGEST_UNIT);
    *begin = MIN(*end, QEMU_ALIGN_UP(offset, QUORUM_DIGEST_UNIT));
}

/* How many stripes the range has, each counted once; *@first is one of them. */
static int quorum_digest_stripes(int64_t offset, int64_t bytes, int *first)
{
    /* Of units that the range touches: a stripe has whole units. */
    int64_t begin = offset / STRIPE_BYTES;
    int64_t end = bytes ? (offset + bytes - 1) / STRIPE_BYTES + 1 : begin;

    *first = begin % STRIPES;
    return MIN(end - begin, STRIPES);
}

static void quorum_digest_grow_locked(QuorumDigests *d, int64_t offset,
                                      int64_t bytes)
{
    int first;
    int n = quorum_digest_stripes(offset, bytes, &first);

    for (int i = 0; i < n; i++) {
        d->stripes[(first + i) % STRIPES].generation++;
    }
}

/* One change more, or less, is under way. */
static void quorum_digest_count_locked(QuorumDigests *d, int64_t offset,
                                       int64_t bytes, int more)
{
    int first;
    int n = quorum_digest_stripes(offset, bytes, &first);

    for (int i = 0; i < n; i++) {
        uint32_t *changing = &d->stripes[(first + i) % STRIPES].changing;

        assert(more > 0 || *changing > 0);
        *changing += more;
    }
}

static uint64_t quorum_digest_generation_locked(QuorumDigests *d,
                                                int64_t offset, int64_t bytes)
{
    uint64_t sum = 0;
    int first;
    int n = quorum_digest_stripes(offset, bytes, &first);

    for (int i = 0; i < n; i++) {
        if (d->stripes[(first + i) % STRIPES].changing) {
            return QUORUM_DIGEST_CHANGING;
        }
        sum += d->stripes[(first + i) % STRIPES].generation;
    }
    return sum;
}

uint64_t quorum_digests_generation(QuorumDigests *d, int64_t offset,
                                   int64_t bytes)
{
    quorum_digest_check_range(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    return quorum_digest_generation_locked(d, offset, bytes);
}

/* Set @first to @past of page @p to @digests, or all to @digest if NULL. */
static void quorum_digest_fill_locked(QuorumDigestPage *p, int first, int past,
                                      const uint64_t *digests, uint64_t digest)
{
    seqlock_write_begin(&p->seq);
    for (int i = first; i < past; i++) {
        quorum_digest_set(p, i, digests ? digests[i - first] : digest);
    }
    seqlock_write_end(&p->seq);
}

/* --- what is forgotten and remembered --- */

/* Forget by going through all pages: for ranges that have more than these. */
static void quorum_digest_forget_pages_locked(QuorumDigests *d, int64_t offset,
                                              int64_t bytes)
{
    for (uint32_t i = 0; i < d->used_pages; i++) {
        QuorumDigestPage *p = &d->pages[i];
        int64_t begin = MAX(offset, (int64_t)p->number * PAGE_BYTES);
        int64_t end = MIN(offset + bytes,
                          ((int64_t)p->number + 1) * PAGE_BYTES);

        QUORUM_DIGEST_FOR_EACH_PART(part, begin, end - begin) {
            quorum_digest_fill_locked(p, part.first, part.past, NULL,
                                      QUORUM_DIGEST_UNKNOWN);
        }
    }
}

/* Forget what the range touches. */
static void quorum_digest_forget_locked(QuorumDigests *d, int64_t offset,
                                        int64_t bytes)
{
    if (bytes / PAGE_BYTES > d->used_pages) {
        quorum_digest_forget_pages_locked(d, offset, bytes);
        return;
    }
    QUORUM_DIGEST_FOR_EACH_PART(part, offset, bytes) {
        QuorumDigestPage *p = quorum_digest_find_locked(d, part.number);

        if (p) {
            quorum_digest_fill_locked(p, part.first, part.past, NULL,
                                      QUORUM_DIGEST_UNKNOWN);
        }
    }
}

void quorum_digests_begin_change(QuorumDigests *d, int64_t offset,
                                 int64_t bytes)
{
    quorum_digest_check_range(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    quorum_digest_count_locked(d, offset, bytes, 1);
    quorum_digest_grow_locked(d, offset, bytes);
    quorum_digest_forget_locked(d, offset, bytes);
}

void quorum_digests_end_change(QuorumDigests *d, int64_t offset, int64_t bytes)
{
    quorum_digest_check_range(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    quorum_digest_count_locked(d, offset, bytes, -1);
}

void quorum_digests_forget(QuorumDigests *d, int64_t offset, int64_t bytes)
{
    quorum_digest_check_range(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    quorum_digest_grow_locked(d, offset, bytes);
    quorum_digest_forget_locked(d, offset, bytes);
}

void quorum_digests_forget_all(QuorumDigests *d)
{
    quorum_digests_forget(d, 0, INT64_MAX);
}

static void quorum_digest_remember_locked(QuorumDigests *d, int64_t offset,
                                          int64_t bytes,
                                          const uint64_t *digests)
{
    QUORUM_DIGEST_FOR_EACH_PART(part, offset, bytes) {
        quorum_digest_fill_locked(quorum_digest_make_locked(d, part.number),
                                  part.first, part.past, digests, 0);
        digests += part.past - part.first;
    }
}

void quorum_digests_remember(QuorumDigests *d, int64_t offset, int64_t bytes,
                             const uint64_t *digests)
{
    int64_t begin, end, past;

    quorum_digest_check_range(offset, bytes);
    quorum_digest_whole_units(offset, bytes, &begin, &end);
    QEMU_LOCK_GUARD(&d->lock);
    quorum_digest_grow_locked(d, offset, bytes);
    quorum_digest_forget_locked(d, offset, MAX(begin - offset, 0));
    quorum_digest_remember_locked(d, begin, end - begin, digests);
    past = MAX(end, offset);
    quorum_digest_forget_locked(d, past, offset + bytes - past);
}

bool quorum_digests_remember_if(QuorumDigests *d, int64_t offset, int64_t bytes,
                                const uint64_t *digests, uint64_t generation)
{
    quorum_digest_check_units(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    if (generation == QUORUM_DIGEST_CHANGING ||
        quorum_digest_generation_locked(d, offset, bytes) != generation) {
        return false;
    }
    quorum_digest_remember_locked(d, offset, bytes, digests);
    return true;
}

void quorum_digests_remember_zeroes(QuorumDigests *d, int64_t offset,
                                    int64_t bytes)
{
    int64_t max = (int64_t)(d->num_pages / 8) * PAGE_BYTES;
    int64_t begin, end;

    quorum_digest_check_range(offset, bytes);
    quorum_digest_whole_units(offset, bytes, &begin, &end);
    quorum_digests_forget(d, offset, bytes);
    /* Others get the lock in between. */
    QUORUM_DIGEST_FOR_EACH_PART(part, begin, MIN(end - begin, max)) {
        QEMU_LOCK_GUARD(&d->lock);
        quorum_digest_fill_locked(quorum_digest_make_locked(d, part.number),
                                  part.first, part.past, NULL,
                                  QUORUM_DIGEST_ZERO);
    }
}

/* --- lookups --- */

/* Read the units of @part from page @p; false if one of them is unknown. */
static bool quorum_digest_read(const QuorumDigestPage *p,
                               const QuorumDigestPart *part, uint64_t *digests)
{
    for (int i = part->first; i < part->past; i++) {
        uint64_t digest = quorum_digest_get(p, i);

        if (digest == QUORUM_DIGEST_UNKNOWN) {
            return false;
        }
        digests[i - part->first] = digest;
    }
    return true;
}

/*
 * Look up @part without the lock.  Returns the page, or NULL if something is
 * unknown.  Sets *@changed if the table changed under way, so that it is not
 * known which of both it is.
 */
static const QuorumDigestPage *
quorum_digest_try_lookup(QuorumDigests *d, const QuorumDigestPart *part,
                         uint64_t *digests, bool *changed)
{
    uint32_t *bucket = quorum_digest_bucket(d, part->number);
    uint32_t i = qatomic_load_acquire(bucket);

    *changed = false;
    while (i != NONE) {
        const QuorumDigestPage *p = &d->pages[i];
        unsigned seq = seqlock_read_begin(&p->seq);
        uint32_t number = qatomic_read(&p->number);
        bool found = number == part->number;
        bool known = found && quorum_digest_read(p, part, digests);
        uint32_t next = qatomic_read(&p->next);

        if (seqlock_read_retry(&p->seq, seq) ||
            quorum_digest_bucket(d, number) != bucket) {
            *changed = true;
            return NULL;
        }
        if (found) {
            return known ? p : NULL;
        }
        i = next;
    }
    return NULL;
}

static const QuorumDigestPage *
quorum_digest_lookup_part(QuorumDigests *d, const QuorumDigestPart *part,
                          uint64_t *digests)
{
    for (int i = 0; i < LOOKUP_TRIES; i++) {
        const QuorumDigestPage *p;
        bool changed;

        p = quorum_digest_try_lookup(d, part, digests, &changed);
        if (likely(!changed)) {
            return p;
        }
        cpu_relax();
    }
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        const QuorumDigestPage *p = quorum_digest_find_locked(d, part->number);

        if (p && quorum_digest_read(p, part, digests)) {
            return p;
        }
    }
    return NULL;
}

bool quorum_digests_lookup(QuorumDigests *d, int64_t offset, int64_t bytes,
                           uint64_t *digests)
{
    quorum_digest_check_units(offset, bytes);
    if (offset + bytes > (int64_t)NONE * PAGE_BYTES) {
        return false;
    }
    QUORUM_DIGEST_FOR_EACH_PART(part, offset, bytes) {
        const QuorumDigestPage *p = quorum_digest_lookup_part(d, &part,
                                                              digests);
        uint8_t *looked_up;

        if (!p) {
            return false;
        }
        looked_up = &d->looked_up[p - d->pages];
        if (!qatomic_read(looked_up)) {
            qatomic_set(looked_up, 1);
        }
        digests += part.past - part.first;
    }
    return true;
}

/* --- creation --- */

/* How many pages and buckets there may be. */
static void quorum_digest_set_size(QuorumDigests *d, uint64_t cache_size)
{
    uint64_t pages = cache_size / sizeof(QuorumDigestPage);

    /* They have numbers of 32 bits. */
    pages = MIN(pages, UINT64_C(1) << 31);
    d->num_buckets = pow2ceil(pages);
    d->overhead = sizeof(*d) + pages * sizeof(d->looked_up[0]) +
                  (uint64_t)d->num_buckets * sizeof(d->buckets[0]);
    d->num_pages = MIN(pages,
                       (cache_size - d->overhead) / sizeof(QuorumDigestPage));
}

QuorumDigests *quorum_digests_new(uint64_t cache_size, QuorumDigestAlg alg,
                                  const uint8_t *key, Error **errp)
{
    g_autofree QuorumDigests *d = NULL;

    if (!quorum_digest_check_alg(alg, errp)) {
        return NULL;
    }
    assert(cache_size >= QUORUM_DIGEST_CACHE_MIN);
    d = g_new0(QuorumDigests, 1);
    d->alg = alg;
    if (key) {
        memcpy(d->key, key, sizeof(d->key));
    } else if (qcrypto_random_bytes(d->key, sizeof(d->key), errp) < 0) {
        return NULL;
    }
    quorum_digest_set_size(d, cache_size);
    d->pages = g_try_new0(QuorumDigestPage, d->num_pages);
    d->buckets = g_try_new(uint32_t, d->num_buckets);
    d->looked_up = g_try_new0(uint8_t, d->num_pages);
    if (!d->pages || !d->buckets || !d->looked_up) {
        error_setg(errp, "There is no memory for digests of %" PRIu64 " bytes",
                   cache_size);
        g_free(d->pages);
        g_free(d->buckets);
        g_free(d->looked_up);
        return NULL;
    }
    memset(d->buckets, 0xff, d->num_buckets * sizeof(uint32_t));
    qemu_mutex_init(&d->lock);
    return g_steal_pointer(&d);
}

void quorum_digests_free(QuorumDigests *d)
{
    if (!d) {
        return;
    }
    qemu_mutex_destroy(&d->lock);
    g_free(d->pages);
    g_free(d->buckets);
    g_free(d->looked_up);
    g_free(d);
}

const uint8_t *quorum_digests_key(const QuorumDigests *d)
{
    return d->key;
}

uint64_t quorum_digests_memory(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return d->overhead + d->used_pages * sizeof(QuorumDigestPage);
}
