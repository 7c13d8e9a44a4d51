/*
 * Quorum block driver: the table of digests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The table is an array of *pages*, each with the digests of 512 units that lie
 * one behind the other, and an index of them by number, with chains.  It is
 * allocated at once, but a page that was never used takes no memory.  When all
 * pages are in use, the one that goes is the next one that was not looked up
 * since the last time that it was considered (CLOCK).  Of a table that is kept,
 * a page that is neither dirty nor has news goes first.
 *
 * All changes are made with the lock held.  Lookups do without: each page has a
 * sequence lock, which tells a reader that what it has read has changed under
 * way; and as pages are never freed, reading them at the wrong time does no
 * harm.  Fields that such readers see are atomic therefore.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "crypto/random.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "qemu/processor.h"
#include "digest-int.h"

#define PAGE_UNITS      QUORUM_DIGEST_PAGE_UNITS
#define PAGE_BYTES      QUORUM_DIGEST_PAGE_BYTES
#define NONE            UINT32_MAX      /* no page, and none of the disk's */

#define STRIPES         QUORUM_DIGEST_STRIPES
#define STRIPE_BYTES    (64 * KiB)      /* of which these are */

/* How many pages with something to write are passed over for one without. */
#define EVICT_TRIES     64

/* How often a lookup tries to do without the lock. */
#define LOOKUP_TRIES    16

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

/* Whether the node has to be told of something in page @number. */
static bool quorum_digest_is_to_write_locked(const QuorumDigests *d,
                                             uint32_t number)
{
    return number < d->kept &&
           (test_bit(number, d->dirty) || test_bit(number, d->news));
}

/*
 * A page that was not used yet, or else one that can go: its index.  As few of
 * them are pinned, there is always one.  What was news in it is lost; and if it
 * was dirty, it stays so, and is unknown (T3).
 */
static uint32_t quorum_digest_evict_locked(QuorumDigests *d)
{
    uint32_t i, second_best = NONE;
    int tries = 0;

    if (d->used_pages < d->num_pages) {
        return d->used_pages++;
    }
    while (true) {
        i = d->hand;
        d->hand = (i + 1) % d->num_pages;
        if (test_bit(i, d->pinned) || qatomic_xchg(&d->looked_up[i], 0)) {
            continue;
        }
        if (!quorum_digest_is_to_write_locked(d, d->pages[i].number)) {
            break;
        }
        second_best = second_best == NONE ? i : second_best;
        if (++tries == EVICT_TRIES) {
            i = second_best;
            break;
        }
    }
    quorum_digest_unlink_locked(d, &d->pages[i]);
    if (d->pages[i].number < d->kept) {
        clear_bit(d->pages[i].number, d->news);
    }
    return i;
}

/* T3: what is not known of page @number, which is not in memory. */
static bool quorum_digest_is_elsewhere_locked(const QuorumDigests *d,
                                              uint32_t number)
{
    return number < d->kept && !test_bit(number, d->dirty);
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
    if (quorum_digest_is_elsewhere_locked(d, number)) {
        for (int j = 0; j < PAGE_UNITS; j++) {
            quorum_digest_set(p, j, QUORUM_DIGEST_ELSEWHERE);
        }
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

/*
 * Set @first to @past of page @p to @digests, or all to @digest if NULL.  If
 * that comes from a @vote, only what is unknown changes: the vote did not ask
 * what was elsewhere when it began, even if that is known by now.
 */
static void quorum_digest_fill_locked(QuorumDigests *d, QuorumDigestPage *p,
                                      int first, int past,
                                      const uint64_t *digests, uint64_t digest,
                                      bool vote)
{
    bool kept = p->number < d->kept;
    bool news = false, dirty = false;

    seqlock_write_begin(&p->seq);
    for (int i = first; i < past; i++) {
        uint64_t old = quorum_digest_get(p, i);
        uint64_t new = digests ? digests[i - first] : digest;

        if (old == new || (vote && kept && old != QUORUM_DIGEST_UNKNOWN)) {
            continue;
        }
        news |= old == QUORUM_DIGEST_UNKNOWN;
        dirty |= old != QUORUM_DIGEST_UNKNOWN;
        quorum_digest_set(p, i, new);
    }
    seqlock_write_end(&p->seq);
    /* T1, T2 */
    if (kept && news) {
        set_bit(p->number, d->news);
    }
    if (kept && dirty) {
        set_bit(p->number, d->dirty);
    }
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
            quorum_digest_fill_locked(d, p, part.first, part.past, NULL,
                                      QUORUM_DIGEST_UNKNOWN, false);
        }
    }
    if (offset / PAGE_BYTES < d->kept) {
        /* The pages that are not in memory, and there may be many. */
        int64_t end = MIN((offset + bytes - 1) / PAGE_BYTES + 1, d->kept);

        bitmap_set(d->dirty, offset / PAGE_BYTES, end - offset / PAGE_BYTES);
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

        if (!p && quorum_digest_is_elsewhere_locked(d, part.number)) {
            if (part.past - part.first == PAGE_UNITS) {
                set_bit(part.number, d->dirty);
            } else {
                /* The rest of it stays elsewhere. */
                p = quorum_digest_make_locked(d, part.number);
            }
        }
        if (p) {
            quorum_digest_fill_locked(d, p, part.first, part.past, NULL,
                                      QUORUM_DIGEST_UNKNOWN, false);
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
                                          const uint64_t *digests, bool vote)
{
    QUORUM_DIGEST_FOR_EACH_PART(part, offset, bytes) {
        quorum_digest_fill_locked(d, quorum_digest_make_locked(d, part.number),
                                  part.first, part.past, digests, 0, vote);
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
    quorum_digest_remember_locked(d, begin, end - begin, digests, false);
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
    quorum_digest_remember_locked(d, offset, bytes, digests, true);
    return true;
}

void quorum_digests_remember_vote(QuorumDigests *d, int64_t offset,
                                  int64_t bytes, const uint64_t *digests)
{
    quorum_digest_check_units(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    quorum_digest_grow_locked(d, offset, bytes);
    quorum_digest_remember_locked(d, offset, bytes, digests, true);
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
        quorum_digest_fill_locked(d, quorum_digest_make_locked(d, part.number),
                                  part.first, part.past, NULL,
                                  QUORUM_DIGEST_ZERO, false);
    }
}

/* --- lookups --- */

/* Read the units of @part from page @p; false if one of them is unknown. */
static bool quorum_digest_read(const QuorumDigestPage *p,
                               const QuorumDigestPart *part, uint64_t *digests)
{
    for (int i = part->first; i < part->past; i++) {
        uint64_t digest = quorum_digest_get(p, i);

        if (digest == QUORUM_DIGEST_UNKNOWN ||
            digest == QUORUM_DIGEST_ELSEWHERE) {
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

/* --- a table that is kept --- */

static void quorum_digest_keep_no_more_locked(QuorumDigests *d)
{
    d->kept = 0;
    g_clear_pointer(&d->dirty, g_free);
    g_clear_pointer(&d->news, g_free);
    g_clear_pointer(&d->cached, g_free);
}

static void quorum_digest_forget_elsewhere_locked(QuorumDigests *d,
                                                  QuorumDigestPage *p)
{
    for (int i = 0; i < PAGE_UNITS; i++) {
        if (quorum_digest_get(p, i) == QUORUM_DIGEST_ELSEWHERE) {
            quorum_digest_fill_locked(d, p, i, i + 1, NULL,
                                      QUORUM_DIGEST_UNKNOWN, false);
        }
    }
}

void quorum_digests_keep_no_more(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    quorum_digest_keep_no_more_locked(d);
    for (uint32_t i = 0; i < d->used_pages; i++) {
        quorum_digest_forget_elsewhere_locked(d, &d->pages[i]);
    }
}

bool quorum_digests_keep(QuorumDigests *d, uint32_t pages, bool fresh)
{
    unsigned long *dirty = bitmap_try_new(pages);
    unsigned long *news = bitmap_try_new(pages);
    unsigned long *cached = bitmap_try_new(pages);

    if (!dirty || !news || !cached) {
        g_free(dirty);
        g_free(news);
        g_free(cached);
        return false;
    }
    QEMU_LOCK_GUARD(&d->lock);
    assert(!d->kept);
    for (uint32_t i = 0; i < d->used_pages; i++) {
        QuorumDigestPage *p = &d->pages[i];

        if (p->number >= pages) {
            continue;
        }
        if (fresh) {
            set_bit(p->number, news);
        } else {
            quorum_digest_fill_locked(d, p, 0, PAGE_UNITS, NULL,
                                      QUORUM_DIGEST_ELSEWHERE, false);
        }
    }
    d->dirty = dirty;
    d->news = news;
    d->cached = cached;
    d->kept = pages;
    return true;
}

void quorum_digests_set_key(QuorumDigests *d, const uint8_t *key)
{
    quorum_digests_forget_all(d);
    memcpy(d->key, key, sizeof(d->key));
}

/* Whether a unit from @first to @past of page @number is elsewhere. */
static bool quorum_digest_any_elsewhere_locked(QuorumDigests *d,
                                               uint32_t number, int first,
                                               int past)
{
    const QuorumDigestPage *p = quorum_digest_find_locked(d, number);

    if (!p) {
        return quorum_digest_is_elsewhere_locked(d, number);
    }
    for (int i = first; i < past && number < d->kept; i++) {
        if (quorum_digest_get(p, i) == QUORUM_DIGEST_ELSEWHERE) {
            return true;
        }
    }
    return false;
}

bool quorum_digests_find_elsewhere(QuorumDigests *d, int64_t offset,
                                   int64_t bytes, uint32_t *page)
{
    quorum_digest_check_range(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    QUORUM_DIGEST_FOR_EACH_PART(part, offset, bytes) {
        if (quorum_digest_any_elsewhere_locked(d, part.number, part.first,
                                               part.past)) {
            *page = part.number;
            return true;
        }
    }
    return false;
}

bool quorum_digests_load_begin(QuorumDigests *d, uint32_t page)
{
    QEMU_LOCK_GUARD(&d->lock);
    if (!quorum_digest_any_elsewhere_locked(d, page, 0, PAGE_UNITS)) {
        return false;
    }
    set_bit(quorum_digest_make_locked(d, page) - d->pages, d->pinned);
    return true;
}

void quorum_digests_load_end(QuorumDigests *d, uint32_t page,
                             const uint64_t *digests)
{
    QuorumDigestPage *p;

    QEMU_LOCK_GUARD(&d->lock);
    p = quorum_digest_find_locked(d, page);
    clear_bit(p - d->pages, d->pinned);
    seqlock_write_begin(&p->seq);
    for (int i = 0; i < PAGE_UNITS; i++) {
        /* What has changed meanwhile, the node does not know. */
        if (quorum_digest_get(p, i) == QUORUM_DIGEST_ELSEWHERE) {
            quorum_digest_set(p, i, digests ? digests[i]
                                            : QUORUM_DIGEST_UNKNOWN);
        }
    }
    seqlock_write_end(&p->seq);
    if (!digests && page < d->kept) {
        set_bit(page, d->dirty);        /* another time, it might be read */
    }
}

bool quorum_digests_is_clean(QuorumDigests *d, int64_t offset, int64_t bytes)
{
    int64_t first = offset / PAGE_BYTES;
    int64_t end;

    quorum_digest_check_range(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    end = MIN(DIV_ROUND_UP(offset + bytes, PAGE_BYTES), d->kept);
    return first >= end || (find_next_bit(d->dirty, end, first) >= end &&
                            find_next_bit(d->cached, end, first) >= end);
}

bool quorum_digests_next_to_write(QuorumDigests *d, uint32_t *page,
                                  uint32_t end, bool news)
{
    uint64_t next;

    QEMU_LOCK_GUARD(&d->lock);
    end = MIN(end, d->kept);
    if (*page >= end) {
        return false;
    }
    next = find_next_bit(d->dirty, end, *page);
    if (news) {
        next = MIN(next, find_next_bit(d->news, end, *page));
    }
    *page = next;
    return next < end;
}

bool quorum_digests_is_pressed(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return d->kept && bitmap_count_one(d->dirty, d->kept) +
                      bitmap_count_one(d->news, d->kept) > d->num_pages / 8;
}

QuorumDigestsCopy quorum_digests_copy(QuorumDigests *d, uint32_t page,
                                      uint64_t *digests)
{
    const QuorumDigestPage *p;

    QEMU_LOCK_GUARD(&d->lock);
    if (!quorum_digest_is_to_write_locked(d, page)) {
        return QUORUM_DIGESTS_NOT_NEEDED;
    }
    p = quorum_digest_find_locked(d, page);
    for (int i = 0; i < PAGE_UNITS; i++) {
        digests[i] = p ? quorum_digest_get(p, i) : QUORUM_DIGEST_UNKNOWN;
        if (digests[i] == QUORUM_DIGEST_ELSEWHERE) {
            return QUORUM_DIGESTS_LOAD_FIRST;
        }
    }
    clear_bit(page, d->dirty);
    clear_bit(page, d->news);
    set_bit(page, d->cached);
    return QUORUM_DIGESTS_COPIED;
}

void quorum_digests_flushed(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    if (d->kept) {
        bitmap_zero(d->cached, d->kept);
    }
}

void quorum_digests_lost(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    for (uint32_t i = 0; i < d->used_pages; i++) {
        QuorumDigestPage *p = &d->pages[i];

        /* T1: of what is elsewhere, the node may not be right any more. */
        if (p->number < d->kept && test_bit(p->number, d->cached)) {
            quorum_digest_forget_elsewhere_locked(d, p);
        }
    }
    if (d->kept) {
        bitmap_or(d->dirty, d->dirty, d->cached, d->kept);
        bitmap_zero(d->cached, d->kept);
    }
}

bool quorum_digests_contradict(QuorumDigests *d, int64_t offset, int64_t bytes,
                               const uint64_t *digests)
{
    quorum_digest_check_units(offset, bytes);
    QEMU_LOCK_GUARD(&d->lock);
    QUORUM_DIGEST_FOR_EACH_PART(part, offset, bytes) {
        const QuorumDigestPage *p = quorum_digest_find_locked(d, part.number);

        if (!p && quorum_digest_is_elsewhere_locked(d, part.number)) {
            return true;
        }
        for (int i = part.first; i < part.past; i++, digests++) {
            uint64_t digest = p ? quorum_digest_get(p, i)
                                : QUORUM_DIGEST_UNKNOWN;

            if (digest != QUORUM_DIGEST_UNKNOWN && digest != *digests) {
                return true;
            }
        }
    }
    return false;
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
                  BITS_TO_LONGS(pages) * sizeof(d->pinned[0]) +
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
    d->pinned = bitmap_try_new(d->num_pages);
    if (!d->pages || !d->buckets || !d->looked_up || !d->pinned) {
        error_setg(errp, "There is no memory for digests of %" PRIu64 " bytes",
                   cache_size);
        g_free(d->pages);
        g_free(d->buckets);
        g_free(d->looked_up);
        g_free(d->pinned);
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
    quorum_digest_keep_no_more_locked(d);
    qemu_mutex_destroy(&d->lock);
    g_free(d->pages);
    g_free(d->buckets);
    g_free(d->looked_up);
    g_free(d->pinned);
    g_free(d);
}

const uint8_t *quorum_digests_key(const QuorumDigests *d)
{
    return d->key;
}

bool quorum_digests_is_empty(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return d->used_pages == 0;
}

uint64_t quorum_digests_memory(QuorumDigests *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return d->overhead + d->used_pages * sizeof(QuorumDigestPage) +
           3 * BITS_TO_LONGS(d->kept) * sizeof(long);
}
