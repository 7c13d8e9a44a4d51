/*
 * Unit tests of the quorum driver's table of digests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "crypto/init.h"
#include "qemu/host-utils.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "../../block/quorum/digest.h"
#include "thread-stress.h"

enum {
    UNIT = QUORUM_DIGEST_UNIT,
};

static uint64_t rand64(void)
{
    return (uint64_t)(uint32_t)g_test_rand_int() << 32 |
           (uint32_t)g_test_rand_int();
}

/* Anything that may be a digest. */
static uint64_t rand_digest(void)
{
    uint64_t digest = rand64() & MAKE_64BIT_MASK(0, QUORUM_DIGEST_BITS);

    return digest > QUORUM_DIGEST_ELSEWHERE ? digest : QUORUM_DIGEST_ZERO;
}

static QuorumDigests *new_table(uint64_t cache_size)
{
    return quorum_digests_new(cache_size, quorum_digest_alg_default(), NULL,
                              &error_abort);
}

/* The digest of the unit at @offset, or QUORUM_DIGEST_UNKNOWN. */
static uint64_t get(QuorumDigests *d, int64_t offset)
{
    uint64_t digest = 4711;

    return quorum_digests_lookup(d, offset, UNIT, &digest) ?
           digest : QUORUM_DIGEST_UNKNOWN;
}

static void put(QuorumDigests *d, int64_t offset, uint64_t digest)
{
    quorum_digests_remember(d, offset, UNIT, &digest);
}

/* --- the hash --- */

static void fill(uint8_t *buf, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        buf[i] = g_test_rand_int();
    }
    for (size_t i = 0; i < bytes / UNIT; i++) {
        if (g_test_rand_int_range(0, 4) == 0) {
            memset(buf + i * UNIT, 0, UNIT);
        }
    }
}

/* A vector with the @bytes bytes at @buf in pieces, some of them empty. */
static void split(QEMUIOVector *qiov, uint8_t *buf, size_t bytes)
{
    static const int sizes[] = { 1, 513, UNIT - 1, UNIT, UNIT + 1, 5 * UNIT };
    size_t done = 0;

    qemu_iovec_init(qiov, 16);
    while (done < bytes) {
        size_t len = g_test_rand_int_range(0, sizes[g_test_rand_int_range(
                                               0, ARRAY_SIZE(sizes))] + 1);

        if (g_test_rand_int_range(0, 2)) {
            len = ROUND_UP(len, UNIT);
        }
        len = MIN(len, bytes - done);
        qemu_iovec_add(qiov, buf + done, len);
        done += len;
    }
}

static void check_vectors(QuorumDigests *d)
{
    enum { UNITS = 24 };
    g_autofree uint8_t *buf = g_malloc((UNITS + 2) * UNIT);
    g_autofree uint8_t *copy = g_malloc(UNITS * UNIT);

    for (int run = 0; run < 100; run++) {
        size_t offset = g_test_rand_int_range(0, 2) ?
                        g_test_rand_int_range(0, UNIT) : 0;
        size_t tail = g_test_rand_int_range(0, UNIT);
        int units = g_test_rand_int_range(0, UNITS + 1);
        uint64_t expected[UNITS], digests[UNITS];
        QEMUIOVector qiov;

        fill(buf + offset, units * UNIT);
        split(&qiov, buf, offset + units * UNIT + tail);
        quorum_digests_hash_buf(d, buf + offset, units * UNIT, expected);

        quorum_digests_hash(d, &qiov, offset, units * UNIT, digests);
        g_assert_cmpmem(digests, units * 8, expected, units * 8);

        memset(copy, 0xee, UNITS * UNIT);
        memset(digests, 0xee, sizeof(digests));
        quorum_digests_hash_copy(d, &qiov, offset, units * UNIT, copy, digests);
        g_assert_cmpmem(digests, units * 8, expected, units * 8);
        g_assert_cmpmem(copy, units * UNIT, buf + offset, units * UNIT);
        g_assert_true(units == UNITS || copy[units * UNIT] == 0xee);
        qemu_iovec_destroy(&qiov);
    }
}

/* Every bit counts, and what is not all zeroes does not look like that. */
static void check_bits(QuorumDigests *d)
{
    static const int places[] = { 0, 7, 8, 4000, UNIT - 1 };
    g_autofree uint8_t *buf = g_malloc0(UNIT);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_int64_hash,
                                                       g_int64_equal, g_free,
                                                       NULL);
    uint64_t digest;

    quorum_digests_hash_buf(d, buf, UNIT, &digest);
    g_assert_cmphex(digest, ==, QUORUM_DIGEST_ZERO);
    for (int i = 0; i < ARRAY_SIZE(places); i++) {
        for (int bit = 0; bit < 8; bit++) {
            buf[places[i]] ^= 1 << bit;
            quorum_digests_hash_buf(d, buf, UNIT, &digest);
            g_assert_cmphex(digest, >, QUORUM_DIGEST_ZERO);
            g_assert_cmphex(digest >> QUORUM_DIGEST_BITS, ==, 0);
            g_assert_true(g_hash_table_add(seen,
                                           g_memdup2(&digest, sizeof(digest))));
            buf[places[i]] ^= 1 << bit;
        }
    }
}

/* The same data have another digest with another key. */
static void check_key(QuorumDigests *d, QuorumDigestAlg alg)
{
    uint8_t key[QUORUM_DIGEST_KEY];
    uint8_t buf[UNIT] = "data";
    uint64_t digest, other;
    QuorumDigests *same, *differs;

    memcpy(key, quorum_digests_key(d), sizeof(key));
    same = quorum_digests_new(QUORUM_DIGEST_CACHE_MIN, alg, key, &error_abort);
    differs = quorum_digests_new(QUORUM_DIGEST_CACHE_MIN, alg, NULL,
                                 &error_abort);
    g_assert_cmpmem(quorum_digests_key(same), sizeof(key), key, sizeof(key));
    quorum_digests_hash_buf(d, buf, UNIT, &digest);
    quorum_digests_hash_buf(same, buf, UNIT, &other);
    g_assert_cmphex(digest, ==, other);
    quorum_digests_hash_buf(differs, buf, UNIT, &other);
    g_assert_cmphex(digest, !=, other);
    quorum_digests_free(same);
    quorum_digests_free(differs);
}

static void test_hash(gconstpointer opaque)
{
    QuorumDigestAlg alg = GPOINTER_TO_INT(opaque);
    QuorumDigests *d = quorum_digests_new(QUORUM_DIGEST_CACHE_MIN, alg, NULL,
                                          &error_abort);

    check_bits(d);
    check_key(d, alg);
    check_vectors(d);
    quorum_digests_free(d);
}

/* What is remembered over restarts must not get another meaning. */
static void test_golden(gconstpointer opaque)
{
    QuorumDigestAlg alg = GPOINTER_TO_INT(opaque);
    uint8_t key[QUORUM_DIGEST_KEY], buf[UNIT];
    uint64_t digest;
    QuorumDigests *d;

    for (int i = 0; i < sizeof(key); i++) {
        key[i] = i * 7 + 1;
    }
    for (int i = 0; i < sizeof(buf); i++) {
        buf[i] = i * 13 + i / 256;
    }
    d = quorum_digests_new(QUORUM_DIGEST_CACHE_MIN, alg, key, &error_abort);
    quorum_digests_hash_buf(d, buf, UNIT, &digest);
    g_assert_cmphex(digest, ==, alg == QUORUM_DIGEST_ALG_XXH3 ?
                    UINT64_C(0x84186cee1605c5) : UINT64_C(0x7c82e15c55070d));
    quorum_digests_free(d);
}

static void test_reserved(void)
{
    uint64_t last = MAKE_64BIT_MASK(0, QUORUM_DIGEST_BITS);

    /* The lowest bits of the hash are not used. */
    g_assert_cmphex(quorum_digest_from_hash(0xff), ==, 3);
    g_assert_cmphex(quorum_digest_from_hash(0x1ff), ==, 4);
    g_assert_cmphex(quorum_digest_from_hash(0x2ff), ==, 5);
    g_assert_cmphex(quorum_digest_from_hash(0x3ff), ==, 3);
    g_assert_cmphex(quorum_digest_from_hash(0x345678), ==, 0x3456);
    g_assert_cmphex(quorum_digest_from_hash(UINT64_MAX), ==, last);
}

static void test_no_alg(void)
{
#ifndef CONFIG_XXHASH
    Error *err = NULL;

    g_assert_null(quorum_digests_new(QUORUM_DIGEST_CACHE_MIN,
                                     QUORUM_DIGEST_ALG_XXH3, NULL, &err));
    error_free_or_abort(&err);
#endif
}

/* More than there can be: an error, not the end. */
static void test_no_memory(void)
{
    Error *err = NULL;
    QuorumDigests *d = quorum_digests_new(UINT64_C(1) << 62,
                                          quorum_digest_alg_default(), NULL,
                                          &err);

    if (d) {
        /* A host that promises all memory that it is asked for */
        quorum_digests_free(d);
    } else {
        error_free_or_abort(&err);
    }
}

/* --- the table against a naive one --- */

enum {
    NAIVE_UNITS = 200000,       /* 781 MiB: the second table can't hold that */
};

typedef struct Naive {
    uint64_t digests[NAIVE_UNITS];
    unsigned changes[NAIVE_UNITS];
    int changing[NAIVE_UNITS];
    struct {
        int64_t offset, bytes;
    } under_way[3];             /* changes, those of no bytes left out */
} Naive;

/* A range that begins and ends anywhere, short or long. */
static void rand_range(int64_t *offset, int64_t *bytes)
{
    int64_t end = (int64_t)NAIVE_UNITS * UNIT;
    int shift = g_test_rand_int_range(0, ctz64(pow2floor(end)));

    *offset = rand64() % end;
    *bytes = rand64() % (MIN(end - *offset, INT64_C(1) << shift) + 1);
    if (g_test_rand_int_range(0, 2)) {
        *offset = ROUND_DOWN(*offset, UNIT);
        *bytes = ROUND_DOWN(*bytes, UNIT);
    }
}

static void naive_change(Naive *naive, int64_t offset, int64_t bytes,
                         const uint64_t *digests)
{
    int64_t first = DIV_ROUND_UP(offset, UNIT);

    if (!bytes) {
        return;
    }
    for (int64_t i = offset / UNIT; i < DIV_ROUND_UP(offset + bytes, UNIT);
         i++) {
        bool whole = i >= first && (i + 1) * UNIT <= offset + bytes;

        naive->changes[i]++;
        naive->digests[i] = whole && digests ? digests[i - first] :
                            QUORUM_DIGEST_UNKNOWN;
    }
}

static unsigned naive_changes(const Naive *naive, int64_t offset, int64_t bytes)
{
    unsigned sum = 0;

    for (int64_t i = offset / UNIT;
         bytes && i < DIV_ROUND_UP(offset + bytes, UNIT); i++) {
        sum += naive->changes[i];
    }
    return sum;
}

/* Begin a change, or end one that has begun. */
static void begin_or_end(QuorumDigests *d, Naive *naive)
{
    int n = g_test_rand_int_range(0, ARRAY_SIZE(naive->under_way));
    int64_t offset = naive->under_way[n].offset;
    int64_t bytes = naive->under_way[n].bytes;
    int more = bytes ? -1 : 1;

    if (bytes) {
        quorum_digests_end_change(d, offset, bytes);
        naive->under_way[n].bytes = 0;
    } else {
        rand_range(&offset, &bytes);
        quorum_digests_begin_change(d, offset, bytes);
        naive_change(naive, offset, bytes, NULL);
        naive->under_way[n].offset = offset;
        naive->under_way[n].bytes = bytes;
    }
    for (int64_t i = offset / UNIT;
         bytes && i < DIV_ROUND_UP(offset + bytes, UNIT); i++) {
        naive->changing[i] += more;
    }
}

static bool naive_is_changing(const Naive *naive, int64_t offset, int64_t bytes)
{
    for (int64_t i = offset / UNIT;
         bytes && i < DIV_ROUND_UP(offset + bytes, UNIT); i++) {
        if (naive->changing[i]) {
            return true;
        }
    }
    return false;
}

/* Change both in the same way. */
static void change(QuorumDigests *d, Naive *naive, int64_t max_zeroes)
{
    g_autofree uint64_t *digests = g_new(uint64_t, NAIVE_UNITS);
    int64_t offset, bytes;

    if (g_test_rand_int_range(0, 3) == 0) {
        begin_or_end(d, naive);
        return;
    }
    rand_range(&offset, &bytes);
    for (int i = 0; i < bytes / UNIT; i++) {
        digests[i] = g_test_rand_int_range(0, 8) ? rand_digest() :
                     g_test_rand_int_range(0, 2);
    }
    switch (g_test_rand_int_range(0, 16)) {
    case 0 ... 4:
        quorum_digests_forget(d, offset, bytes);
        naive_change(naive, offset, bytes, NULL);
        break;
    case 5 ... 13:
        quorum_digests_remember(d, offset, bytes, digests);
        naive_change(naive, offset, bytes, digests);
        break;
    case 14:
        for (int i = 0; i < NAIVE_UNITS; i++) {
            digests[i] = QUORUM_DIGEST_ZERO;
        }
        bytes = MIN(bytes, max_zeroes);
        quorum_digests_remember_zeroes(d, offset, bytes);
        naive_change(naive, offset, bytes, digests);
        break;
    default:
        if (g_test_rand_int_range(0, 8) == 0) {
            quorum_digests_forget_all(d);
            naive_change(naive, 0, (int64_t)NAIVE_UNITS * UNIT, NULL);
        }
    }
}

/*
 * A vote, during which other things may change.  Returns whether something of
 * it was remembered.
 */
static bool vote(QuorumDigests *d, Naive *naive, int64_t max_zeroes)
{
    g_autofree uint64_t *digests = g_new(uint64_t, NAIVE_UNITS);
    int64_t offset, bytes;
    uint64_t generation;
    unsigned changes;
    bool changing, done;

    rand_range(&offset, &bytes);
    generation = quorum_digests_generation(d, offset, bytes);
    changes = naive_changes(naive, offset, bytes);
    for (int i = g_test_rand_int_range(0, 3); i; i--) {
        change(d, naive, max_zeroes);
    }
    g_assert_true(changes == naive_changes(naive, offset, bytes) ||
                  generation != quorum_digests_generation(d, offset, bytes) ||
                  generation == QUORUM_DIGEST_CHANGING);

    bytes -= MIN(bytes, ROUND_UP(offset, UNIT) - offset);
    offset = ROUND_UP(offset, UNIT);
    bytes = ROUND_DOWN(bytes, UNIT);
    generation = quorum_digests_generation(d, offset, bytes);
    changes = naive_changes(naive, offset, bytes);
    changing = naive_is_changing(naive, offset, bytes);
    g_assert_true(!changing || generation == QUORUM_DIGEST_CHANGING);
    if (g_test_rand_int_range(0, 2)) {
        change(d, naive, max_zeroes);
    }
    for (int i = 0; i < bytes / UNIT; i++) {
        digests[i] = rand_digest();
    }
    done = quorum_digests_remember_if(d, offset, bytes, digests, generation);
    g_assert_false(done && changes != naive_changes(naive, offset, bytes));
    g_assert_false(done && changing);
    if (done) {
        g_assert_cmphex(generation, ==,
                        quorum_digests_generation(d, offset, bytes));
        for (int i = 0; i < bytes / UNIT; i++) {
            naive->digests[offset / UNIT + i] = digests[i];
        }
    }
    return done && bytes;
}

/* What the table knows is right; if @all, it knows all. */
static int compare(QuorumDigests *d, const Naive *naive, bool all)
{
    int known = 0;

    for (int i = 0; i < NAIVE_UNITS; i++) {
        uint64_t digest = get(d, (int64_t)i * UNIT);

        known += digest != QUORUM_DIGEST_UNKNOWN;
        if (all || digest != QUORUM_DIGEST_UNKNOWN) {
            g_assert_cmphex(digest, ==, naive->digests[i]);
        }
    }
    return known;
}

static void compare_range(QuorumDigests *d, const Naive *naive, bool all)
{
    g_autofree uint64_t *digests = g_new(uint64_t, NAIVE_UNITS);
    int64_t offset, bytes;
    bool expected = true;

    rand_range(&offset, &bytes);
    offset = ROUND_DOWN(offset, UNIT);
    bytes = ROUND_DOWN(bytes, UNIT);
    for (int i = 0; i < bytes / UNIT; i++) {
        expected &= naive->digests[offset / UNIT + i] != QUORUM_DIGEST_UNKNOWN;
    }
    if (quorum_digests_lookup(d, offset, bytes, digests)) {
        g_assert_true(expected);
        g_assert_cmpmem(digests, bytes / UNIT * 8,
                        &naive->digests[offset / UNIT], bytes / UNIT * 8);
    } else {
        g_assert_false(expected && all);
    }
}

static void random_ops(uint64_t cache_size, int runs, bool all)
{
    QuorumDigests *d = new_table(cache_size);
    g_autofree Naive *naive = g_new0(Naive, 1);
    /* How much of a zero write becomes known is not what is tested here. */
    int64_t max_zeroes = all ? INT64_MAX : 0;
    int known = 0, remembered = 0;

    for (int run = 0; run < runs; run++) {
        change(d, naive, max_zeroes);
        remembered += vote(d, naive, max_zeroes);
        compare_range(d, naive, all);
        if (run % 64 == 0) {
            known += compare(d, naive, all);
        }
        g_assert_cmpuint(quorum_digests_memory(d), <=, cache_size);
    }
    g_assert_cmpint(known, >, 0);
    g_assert_cmpint(remembered, >, 0);
    quorum_digests_free(d);
}

/* A table that has room for all that there is forgets nothing. */
static void test_random(void)
{
    random_ops(4 * MiB, 4000, true);
}

/* One that has not, says nothing wrong. */
static void test_random_evict(void)
{
    random_ops(QUORUM_DIGEST_CACHE_MIN, 4000, false);
}

/* --- memory --- */

/* The digests of 32 GiB are in 64 MiB of memory. */
static void test_cap(void)
{
    const uint64_t cap = 64 * MiB;
    const int64_t units = 32 * GiB / UNIT;
    QuorumDigests *d = new_table(cap);

    for (int64_t i = 0; i < units; i++) {
        put(d, i * UNIT, i + 3);
    }
    for (int64_t i = 0; i < units; i++) {
        g_assert_cmphex(get(d, i * UNIT), ==, i + 3);
    }
    g_test_message("32 GiB of data: %" PRIu64 " bytes",
                   quorum_digests_memory(d));
    /* Go on until something has to go. */
    for (int64_t i = units; i < units * 2; i++) {
        put(d, i * UNIT, i + 3);
        g_assert_cmpuint(quorum_digests_memory(d), <=, cap);
    }
    g_assert_cmphex(get(d, (units * 2 - 1) * UNIT), ==, units * 2 + 2);
    g_assert_cmphex(get(d, 0), ==, QUORUM_DIGEST_UNKNOWN);
    quorum_digests_free(d);
}

/* What is looked up again and again stays, whatever passes by. */
static void test_clock(void)
{
    enum { HOT = 100 };
    const int64_t far = 2 * MiB;
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);

    for (int64_t i = 0; i < HOT; i++) {
        put(d, i * far, i + 3);
    }
    for (int64_t i = HOT; i < 10000; i++) {
        put(d, i * far, i + 3);
        g_assert_cmphex(get(d, (i % HOT) * far), ==, i % HOT + 3);
    }
    quorum_digests_free(d);
}

/* A zero write of any length is quick, and leaves others what they have. */
static void test_zeroes(void)
{
    const uint64_t cap = 16 * MiB;
    const int64_t length = 1 * TiB;
    QuorumDigests *d = new_table(cap);
    int64_t begin = g_get_monotonic_time();
    int64_t known = 0, units = 0;
    uint64_t generation;

    for (int64_t i = 0; i < 1000; i++) {
        put(d, 2 * length + i * 2 * MiB, i + 3);
        get(d, 2 * length + i * 2 * MiB);
    }
    generation = quorum_digests_generation(d, length - 1, 1);
    quorum_digests_remember_zeroes(d, 100, length - 200);
    g_assert_cmphex(generation, !=, quorum_digests_generation(d, length - 1,
                                                              1));
    g_assert_cmphex(get(d, 0), ==, QUORUM_DIGEST_UNKNOWN);
    g_assert_cmphex(get(d, UNIT), ==, QUORUM_DIGEST_ZERO);
    for (int64_t i = 0; i < length; i += MiB, units++) {
        uint64_t digest = get(d, i + UNIT);

        g_assert_true(digest == QUORUM_DIGEST_ZERO ||
                      digest == QUORUM_DIGEST_UNKNOWN);
        known += digest == QUORUM_DIGEST_ZERO;
    }
    g_assert_cmpint(known, <, units);
    for (int64_t i = 0; i < 1000; i++) {
        g_assert_cmphex(get(d, 2 * length + i * 2 * MiB), ==, i + 3);
    }
    g_assert_cmpuint(quorum_digests_memory(d), <=, cap);
    g_test_message("%" PRId64 " us", g_get_monotonic_time() - begin);

    /* What became zero, but could not be remembered, is not what it was. */
    put(d, length - 2 * UNIT, 4711);
    quorum_digests_remember_zeroes(d, 0, length);
    g_assert_cmphex(get(d, length - 2 * UNIT), !=, 4711);
    quorum_digests_free(d);
}

/* To forget more pages than there are, the table goes through its own. */
static void test_forget_many(void)
{
    const int64_t begin = 6 * MiB + 3 * UNIT, end = 8 * GiB + 5 * UNIT;
    static const int64_t inside[] = {
        begin - UNIT, begin, begin + 2 * MiB, end - 2 * UNIT, end - UNIT,
    };
    static const int64_t outside[] = {
        0, begin - 2 * UNIT, end, end + UNIT, end + 2 * MiB,
    };
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);

    for (int i = 0; i < ARRAY_SIZE(inside); i++) {
        put(d, inside[i], i + 3);
        put(d, outside[i], i + 12);
    }
    quorum_digests_forget(d, begin - 1, end - begin - UNIT + 2);
    for (int i = 0; i < ARRAY_SIZE(inside); i++) {
        g_assert_cmphex(get(d, inside[i]), ==, QUORUM_DIGEST_UNKNOWN);
        g_assert_cmphex(get(d, outside[i]), ==, i + 12);
    }
    quorum_digests_free(d);
}

/* The ends of what can be said. */
static void test_edges(void)
{
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);
    const int64_t last = ROUND_DOWN(INT64_MAX, UNIT) - UNIT;
    uint64_t generation = quorum_digests_generation(d, last, UNIT);
    uint64_t digest = 5;

    put(d, 0, MAKE_64BIT_MASK(0, QUORUM_DIGEST_BITS));
    g_assert_cmphex(get(d, 0), ==, MAKE_64BIT_MASK(0, QUORUM_DIGEST_BITS));
    g_assert_true(quorum_digests_remember_if(d, last, UNIT, &digest,
                                             generation));
    /* So far out, there is no place for it. */
    g_assert_cmphex(get(d, last), ==, QUORUM_DIGEST_UNKNOWN);
    quorum_digests_forget(d, last, UNIT);
    g_assert_cmphex(quorum_digests_generation(d, last, UNIT), !=, generation);
    quorum_digests_remember_zeroes(d, 0, INT64_MAX);
    g_assert_cmphex(get(d, 0), ==, QUORUM_DIGEST_ZERO);
    quorum_digests_forget_all(d);
    g_assert_cmphex(get(d, 0), ==, QUORUM_DIGEST_UNKNOWN);
    /* Of nothing, everything is known. */
    g_assert_true(quorum_digests_lookup(d, 0, 0, &digest));
    quorum_digests_remember(d, 1, UNIT, &digest);
    g_assert_cmphex(get(d, 0), ==, QUORUM_DIGEST_UNKNOWN);
    quorum_digests_free(d);
    quorum_digests_free(NULL);
}

/* --- threads --- */

enum {
    STRESS_BLOCKS = 600,        /* each in a page, more than the table has */
    STRESS_UNITS = 4,           /* in a block */
    STRESS_HOT = 8,             /* blocks that are used more often */
    STRESS_LOOPS = 4000,
};

/* What the disk holds, and whether a range is locked. */
typedef struct StressBlock {
    int locked;
    uint32_t versions[STRESS_UNITS];
} StressBlock;

static QuorumDigests *stress_table;
static StressBlock stress_blocks[STRESS_BLOCKS];
static int stress_hits, stress_refused;

/* A digest that says what it is of, three times. */
static uint64_t stress_digest(int block, int unit, uint32_t version)
{
    uint8_t mark = block * STRESS_UNITS + unit;

    return 2 + ((version & 0xffffff) | (uint64_t)mark << 24 |
                (uint64_t)(version & 0xffff) << 32 |
                (uint64_t)(uint8_t)(version + mark) << 48) %
               MAKE_64BIT_MASK(0, QUORUM_DIGEST_BITS);
}

static bool stress_is_whole(int block, int unit, uint64_t digest)
{
    return digest == stress_digest(block, unit, (digest - 2) & 0xffffff);
}

static void stress_read_disk(int block, uint64_t *digests)
{
    for (int u = 0; u < STRESS_UNITS; u++) {
        digests[u] = stress_digest(block, u, qatomic_read(
                                       &stress_blocks[block].versions[u]));
    }
}

static bool stress_lock(int block)
{
    return !qatomic_xchg(&stress_blocks[block].locked, 1);
}

static void stress_unlock(int block)
{
    qatomic_store_release(&stress_blocks[block].locked, 0);
}

/* Write some units, perhaps in part, perhaps with a failure. */
static void coroutine_fn stress_write(int block, GRand *rand)
{
    int64_t offset = (int64_t)block * 2 * MiB;
    int first = g_rand_int_range(rand, 0, STRESS_UNITS);
    int past = g_rand_int_range(rand, first + 1, STRESS_UNITS + 1);
    int torn = g_rand_int_range(rand, 0, 4) == 0 ? UNIT / 2 : 0;
    uint64_t digests[STRESS_UNITS];
    int64_t bytes = (past - first) * UNIT - torn;

    offset += first * UNIT;
    quorum_digests_begin_change(stress_table, offset, bytes);
    for (int u = first; u < past; u++) {
        uint32_t *version = &stress_blocks[block].versions[u];

        if (g_rand_int_range(rand, 0, 8) == 0) {
            thread_stress_pause(rand);
        }
        qatomic_set(version, (*version + 1) & 0xffffff);
    }
    stress_read_disk(block, digests);
    if (g_rand_int_range(rand, 0, 4)) {
        quorum_digests_remember(stress_table, offset, bytes, digests + first);
    }
    quorum_digests_end_change(stress_table, offset, bytes);
}

/* With the range locked: what is known is what is there. */
static void stress_check(int block)
{
    uint64_t digests[STRESS_UNITS], digest;

    stress_read_disk(block, digests);
    for (int u = 0; u < STRESS_UNITS; u++) {
        digest = get(stress_table, (int64_t)block * 2 * MiB + u * UNIT);
        g_assert_true(!digest || digest == digests[u]);
    }
}

static void coroutine_fn stress_vote(int block, GRand *rand)
{
    int64_t offset = (int64_t)block * 2 * MiB;
    uint64_t digests[STRESS_UNITS];
    uint64_t generation = quorum_digests_generation(stress_table, offset,
                                                    sizeof(digests) / 8 * UNIT);

    stress_read_disk(block, digests);
    if (g_rand_int_range(rand, 0, 8) == 0) {
        thread_stress_pause(rand);
    }
    if (!quorum_digests_remember_if(stress_table, offset, STRESS_UNITS * UNIT,
                                    digests, generation)) {
        qatomic_inc(&stress_refused);
    }
}

static void coroutine_fn stress(int id, GRand *rand)
{
    for (int i = 0; i < STRESS_LOOPS; i++) {
        bool hot = g_rand_int_range(rand, 0, 2);
        int block = g_rand_int_range(rand, 0, hot ? STRESS_HOT : STRESS_BLOCKS);
        uint64_t digests[STRESS_UNITS];

        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
            if (stress_lock(block)) {
                stress_check(block);
                stress_write(block, rand);
                stress_check(block);
                stress_unlock(block);
            }
            break;
        case 1:
            stress_vote(block, rand);
            break;
        default:
            if (quorum_digests_lookup(stress_table, (int64_t)block * 2 * MiB,
                                      STRESS_UNITS * UNIT, digests)) {
                for (int u = 0; u < STRESS_UNITS; u++) {
                    g_assert_true(stress_is_whole(block, u, digests[u]));
                }
                qatomic_inc(&stress_hits);
            }
        }
    }
}

static void test_threads(void)
{
    stress_table = new_table(QUORUM_DIGEST_CACHE_MIN);
    thread_stress(4, 4, stress);
    for (int block = 0; block < STRESS_BLOCKS; block++) {
        stress_check(block);
    }
    g_test_message("%d lookups found all, %d votes were too late", stress_hits,
                   stress_refused);
    g_assert_cmpint(stress_hits, >, 0);
    g_assert_cmpint(stress_refused, >, 0);
    quorum_digests_free(stress_table);
}

/* --- lookups beside evictions --- */

enum {
    PINNED = 7,                 /* the page that all look up */
    CHURN_THREADS = 4,
    CHURN_BATCH = 100,          /* far fewer pages than the table has */
    CHURN_BATCHES = 400,
};

static int churn_lookups, churn_missed, churn_torn;
static bool churn_ended;

/* A digest of which any two parts of different ones are none. */
static uint64_t churn_digest(uint8_t value)
{
    return UINT64_C(0x01010101010101) * value;
}

static void churn_lookup(void)
{
    uint64_t digest = get(stress_table, PINNED * 2 * MiB);

    if (digest == QUORUM_DIGEST_UNKNOWN) {
        qatomic_inc(&churn_missed);
    } else if (digest != churn_digest(digest)) {
        qatomic_inc(&churn_torn);
    }
    qatomic_inc(&churn_lookups);
}

/*
 * One brings new pages, and waits now and then until the others have looked up
 * the page that is there all the time, for which reason it stays.  What is in
 * that page changes.
 */
static void coroutine_fn churn(int id, GRand *rand)
{
    int64_t number = PINNED;

    if (id > 1) {
        while (!qatomic_read(&churn_ended)) {
            churn_lookup();
        }
        return;
    }
    for (int i = 0; i < CHURN_BATCHES; i++) {
        int before = qatomic_read(&churn_lookups);

        for (int j = 0; j < CHURN_BATCH; j++) {
            put(stress_table, ++number * 2 * MiB, 5);
            put(stress_table, PINNED * 2 * MiB, churn_digest(1 + number % 255));
        }
        while (qatomic_read(&churn_lookups) < before + 2 * CHURN_THREADS) {
            g_usleep(1);
        }
    }
    qatomic_set(&churn_ended, true);
}

static void test_evictions(void)
{
    stress_table = new_table(QUORUM_DIGEST_CACHE_MIN);
    put(stress_table, PINNED * 2 * MiB, churn_digest(1));
    thread_stress(CHURN_THREADS, 1, churn);
    g_test_message("%d lookups", churn_lookups);
    g_assert_cmpint(churn_missed, ==, 0);
    g_assert_cmpint(churn_torn, ==, 0);
    quorum_digests_free(stress_table);
}

/* --- a table that is kept --- */

enum {
    PAGE = QUORUM_DIGEST_PAGE_UNITS,
    KEPT_PAGES = 600,           /* the table has room for half of them */
    KEPT_UNITS = KEPT_PAGES * PAGE,
    KEPT_VERSIONS = 4,
};

typedef struct Kept {
    QuorumDigests *d;
    uint64_t truth[KEPT_UNITS]; /* what the disk holds */
    bool marked[KEPT_PAGES];    /* as a region of the state nodes is */

    /* Each page on the node, as a crash may leave it; the last is the newest */
    uint64_t node[KEPT_PAGES][KEPT_VERSIONS][PAGE];
    int versions[KEPT_PAGES];
} Kept;

static void kept_open(Kept *k)
{
    quorum_digests_free(k->d);
    k->d = new_table(QUORUM_DIGEST_CACHE_MIN);
    g_assert_true(quorum_digests_keep(k->d, KEPT_PAGES, false));
    for (int p = 0; p < KEPT_PAGES; p++) {
        if (k->marked[p]) {
            quorum_digests_forget(k->d, (int64_t)p * PAGE * UNIT, PAGE * UNIT);
        }
    }
}

/* P1 of digest-store.h, and that all that is known is right. */
static void kept_check(const Kept *k, int p)
{
    int64_t first = (int64_t)p * PAGE;

    for (int u = 0; u < PAGE; u++) {
        uint64_t digest = get(k->d, (first + u) * UNIT);

        g_assert_true(digest == QUORUM_DIGEST_UNKNOWN ||
                      digest == k->truth[first + u]);
        for (int v = 0; v < k->versions[p] && !k->marked[p]; v++) {
            g_assert_true(k->node[p][v][u] == QUORUM_DIGEST_UNKNOWN ||
                          k->node[p][v][u] == k->truth[first + u]);
        }
    }
}

static void kept_change(Kept *k)
{
    int first = g_test_rand_int_range(0, KEPT_UNITS);
    int n = g_test_rand_int_range(1, g_test_rand_int_range(0, 4) ? 64
                                                                 : 3 * PAGE);
    int64_t skew = g_test_rand_int_range(0, 2) ? 512 : 0;
    int64_t offset = (int64_t)first * UNIT + skew;
    int64_t bytes;

    n = MIN(n, KEPT_UNITS - first);
    bytes = (int64_t)n * UNIT - skew;
    for (int p = first / PAGE; p <= (first + n - 1) / PAGE; p++) {
        k->marked[p] = true;
    }
    quorum_digests_begin_change(k->d, offset, bytes);
    for (int u = first; u < first + n; u++) {
        k->truth[u] = g_test_rand_int_range(0, 8) ? rand_digest() :
                      QUORUM_DIGEST_ZERO;
    }
    if (g_test_rand_int_range(0, 2)) {
        quorum_digests_remember(k->d, offset, bytes,
                                k->truth + first + (skew > 0));
    }
    quorum_digests_end_change(k->d, offset, bytes);
}

/* Of what is elsewhere, the vote is wrong. */
static void kept_vote(Kept *k)
{
    int n = g_test_rand_int_range(1, 64);
    int first = g_test_rand_int_range(0, KEPT_UNITS - n);
    int64_t offset = (int64_t)first * UNIT;
    g_autofree uint64_t *digests = g_memdup2(k->truth + first, n * 8);
    uint32_t page;

    for (int i = 0; i < n; i++) {
        if (quorum_digests_find_elsewhere(k->d, offset + i * UNIT, UNIT,
                                          &page)) {
            digests[i] = rand_digest();
        }
    }
    if (g_test_rand_int_range(0, 2)) {
        quorum_digests_remember_vote(k->d, offset, n * UNIT, digests);
    } else {
        uint64_t now = quorum_digests_generation(k->d, offset, n * UNIT);

        g_assert_true(quorum_digests_remember_if(k->d, offset, n * UNIT,
                                                 digests, now));
    }
}

static void kept_load(Kept *k, uint32_t p)
{
    uint32_t found;

    if (!quorum_digests_load_begin(k->d, p)) {
        g_assert_false(quorum_digests_find_elsewhere(
            k->d, (int64_t)p * PAGE * UNIT, PAGE * UNIT, &found));
        return;
    }
    for (int i = g_test_rand_int_range(0, 4); i; i--) {
        kept_change(k);
    }
    /* Sometimes it can't be read. */
    quorum_digests_load_end(k->d, p, g_test_rand_int_range(0, 8)
                                     ? k->node[p][k->versions[p] - 1] : NULL);
    g_assert_false(quorum_digests_find_elsewhere(
        k->d, (int64_t)p * PAGE * UNIT, PAGE * UNIT, &found));
}

static void kept_flush(Kept *k)
{
    for (int p = 0; p < KEPT_PAGES; p++) {
        memcpy(k->node[p][0], k->node[p][k->versions[p] - 1],
               sizeof(k->node[p][0]));
        k->versions[p] = 1;
    }
    quorum_digests_flushed(k->d);
}

/* The node loses what was not flushed, or some of it. */
static void kept_lose(Kept *k)
{
    for (int p = 0; p < KEPT_PAGES; p++) {
        int v = g_test_rand_int_range(0, k->versions[p]);

        memmove(k->node[p][0], k->node[p][v], sizeof(k->node[p][0]));
        k->versions[p] = 1;
    }
    quorum_digests_lost(k->d);
}

static void kept_write(Kept *k)
{
    uint32_t p = g_test_rand_int_range(0, KEPT_PAGES);
    uint64_t digests[PAGE];
    QuorumDigestsCopy copy;

    if (!quorum_digests_next_to_write(k->d, &p, KEPT_PAGES,
                                      g_test_rand_int_range(0, 2))) {
        return;
    }
    if (k->versions[p] == KEPT_VERSIONS) {
        kept_flush(k);
    }
    copy = quorum_digests_copy(k->d, p, digests);
    if (copy == QUORUM_DIGESTS_LOAD_FIRST) {
        kept_load(k, p);
        copy = quorum_digests_copy(k->d, p, digests);
    }
    g_assert_cmpint(copy, ==, QUORUM_DIGESTS_COPIED);
    g_assert_false(quorum_digests_is_clean(k->d, (int64_t)p * PAGE * UNIT, 1));
    memcpy(k->node[p][k->versions[p]++], digests, sizeof(digests));
}

static void kept_unmark(Kept *k)
{
    int p = g_test_rand_int_range(0, KEPT_PAGES);

    for (int i = 0; i < 20; i++, p = (p + 1) % KEPT_PAGES) {
        if (quorum_digests_is_clean(k->d, (int64_t)p * PAGE * UNIT,
                                    PAGE * UNIT)) {
            k->marked[p] = false;
        }
    }
}

/* Any version of each page is left, or one that was torn. */
static void kept_crash(Kept *k)
{
    for (int p = 0; p < KEPT_PAGES; p++) {
        int v = g_test_rand_int_range(0, k->versions[p]);

        memmove(k->node[p][0], k->node[p][v], sizeof(k->node[p][0]));
        if (k->versions[p] > 1 && g_test_rand_int_range(0, 4) == 0) {
            memset(k->node[p][0], 0, sizeof(k->node[p][0]));
        }
        k->versions[p] = 1;
    }
    kept_open(k);
}

static void test_kept(void)
{
    Kept *k = g_new0(Kept, 1);

    for (int p = 0; p < KEPT_PAGES; p++) {
        k->versions[p] = 1;
    }
    for (int u = 0; u < KEPT_UNITS; u++) {
        k->truth[u] = k->node[u / PAGE][0][u % PAGE] = rand_digest();
    }
    kept_open(k);
    for (int step = 0; step < 40000; step++) {
        switch (g_test_rand_int_range(0, 16)) {
        case 0 ... 4:
            kept_change(k);
            break;
        case 5 ... 7:
            kept_load(k, g_test_rand_int_range(0, KEPT_PAGES));
            break;
        case 8:
            kept_vote(k);
            break;
        case 9 ... 13:
            kept_write(k);
            break;
        case 14:
            kept_unmark(k);
            break;
        default:
            if (g_test_rand_int_range(0, 20) == 0) {
                kept_flush(k);
            } else if (g_test_rand_int_range(0, 50) == 0) {
                kept_lose(k);
            } else if (g_test_rand_int_range(0, 100) == 0) {
                kept_crash(k);
            }
        }
        kept_check(k, g_test_rand_int_range(0, KEPT_PAGES));
    }
    for (int p = 0; p < KEPT_PAGES; p++) {
        kept_check(k, p);
    }
    quorum_digests_free(k->d);
    g_free(k);
}

/* A vote that began before the node was asked does not know better. */
static void test_late_vote(void)
{
    g_autofree uint64_t *node = g_new0(uint64_t, PAGE);
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);
    uint64_t digest = rand_digest(), old = rand_digest();

    node[0] = digest;
    g_assert_true(quorum_digests_keep(d, 1, false));
    g_assert_true(quorum_digests_load_begin(d, 0));
    quorum_digests_load_end(d, 0, node);
    quorum_digests_remember_vote(d, 0, UNIT, &old);
    g_assert_cmphex(get(d, 0), ==, digest);
    quorum_digests_remember_vote(d, UNIT, UNIT, &old);
    g_assert_cmphex(get(d, UNIT), ==, old);
    quorum_digests_free(d);
}

/* A vote is contradicted by what is known, or may be, and by nothing else. */
static void test_contradict(void)
{
    g_autofree uint64_t *node = g_new0(uint64_t, PAGE);
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);
    uint64_t said[] = { rand_digest(), rand_digest() };
    uint64_t other[] = { said[0], said[1] ^ 1 };

    /* Nothing is known, here or elsewhere. */
    g_assert_false(quorum_digests_contradict(d, 0, 2 * UNIT, said));
    put(d, UNIT, said[1]);
    g_assert_false(quorum_digests_contradict(d, 0, 2 * UNIT, said));
    g_assert_true(quorum_digests_contradict(d, 0, 2 * UNIT, other));
    g_assert_false(quorum_digests_contradict(d, 0, UNIT, other));

    /* The second page is elsewhere, until it is loaded. */
    g_assert_true(quorum_digests_keep(d, 2, false));
    g_assert_true(quorum_digests_contradict(d, 2 * MiB, 2 * UNIT, said));
    g_assert_true(quorum_digests_load_begin(d, 1));
    g_assert_true(quorum_digests_contradict(d, 2 * MiB, 2 * UNIT, said));
    node[1] = said[1];
    quorum_digests_load_end(d, 1, node);
    g_assert_false(quorum_digests_contradict(d, 2 * MiB, 2 * UNIT, said));
    g_assert_true(quorum_digests_contradict(d, 2 * MiB, 2 * UNIT, other));
    quorum_digests_free(d);
}

/* What is known when a node comes that says nothing is news for it. */
static void test_fresh(void)
{
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);
    uint64_t digests[PAGE];
    uint32_t page = 0;

    g_assert_true(quorum_digests_is_empty(d));
    put(d, 5 * UNIT, 4711);
    g_assert_false(quorum_digests_is_empty(d));
    g_assert_false(quorum_digests_find_elsewhere(d, 0, 8 * MiB, &page));
    g_assert_true(quorum_digests_keep(d, 3, true));
    g_assert_true(quorum_digests_is_clean(d, 0, INT64_MAX));
    g_assert_cmpuint(get(d, 5 * UNIT), ==, 4711);

    g_assert_false(quorum_digests_next_to_write(d, &page, 3, false));
    page = 0;
    g_assert_true(quorum_digests_next_to_write(d, &page, 3, true));
    g_assert_cmpuint(page, ==, 0);
    g_assert_cmpint(quorum_digests_copy(d, 0, digests), ==,
                    QUORUM_DIGESTS_COPIED);
    g_assert_cmpuint(digests[5], ==, 4711);
    g_assert_cmpuint(digests[4], ==, QUORUM_DIGEST_UNKNOWN);
    g_assert_cmpint(quorum_digests_copy(d, 0, digests), ==,
                    QUORUM_DIGESTS_NOT_NEEDED);

    /* The last page that is kept, and the first one that is not */
    g_assert_true(quorum_digests_find_elsewhere(d, 4 * MiB, UNIT, &page));
    g_assert_cmpuint(page, ==, 2);
    g_assert_false(quorum_digests_find_elsewhere(d, 6 * MiB, UNIT, &page));

    /* One that can't be read might be read another time. */
    g_assert_true(quorum_digests_load_begin(d, 2));
    quorum_digests_load_end(d, 2, NULL);
    g_assert_false(quorum_digests_is_clean(d, 4 * MiB, 1));
    g_assert_false(quorum_digests_find_elsewhere(d, 4 * MiB, UNIT, &page));
    g_assert_cmpint(quorum_digests_copy(d, 2, digests), ==,
                    QUORUM_DIGESTS_COPIED);
    g_assert_false(quorum_digests_is_clean(d, 4 * MiB, 1));
    quorum_digests_flushed(d);
    g_assert_true(quorum_digests_is_clean(d, 4 * MiB, 1));

    put(d, 6 * MiB, 4711);
    page = 0;
    g_assert_false(quorum_digests_next_to_write(d, &page, 9, true));

    quorum_digests_keep_no_more(d);
    g_assert_false(quorum_digests_find_elsewhere(d, 0, 8 * MiB, &page));
    put(d, 4 * MiB, 4711);
    g_assert_cmpuint(get(d, 4 * MiB), ==, 4711);
    quorum_digests_free(d);
}

/* Pages that are not in memory become dirty, too. */
static void test_forget_kept(void)
{
    QuorumDigests *d = new_table(QUORUM_DIGEST_CACHE_MIN);
    uint8_t key[QUORUM_DIGEST_KEY] = { 1 };
    uint32_t page = 0;

    g_assert_true(quorum_digests_keep(d, 100000, false));
    quorum_digests_begin_change(d, 10 * MiB, 90 * GiB);
    g_assert_true(quorum_digests_is_clean(d, 0, 10 * MiB));
    g_assert_true(quorum_digests_next_to_write(d, &page, UINT32_MAX, false));
    g_assert_cmpuint(page, ==, 5);
    g_assert_false(quorum_digests_is_clean(d, 90 * GiB + 10 * MiB - 1, 1));
    g_assert_true(quorum_digests_is_clean(d, 90 * GiB + 10 * MiB, 1));
    quorum_digests_end_change(d, 10 * MiB, 90 * GiB);

    quorum_digests_set_key(d, key);
    g_assert_cmpmem(quorum_digests_key(d), sizeof(key), key, sizeof(key));
    for (page = 0; page < 100000; page++) {
        uint32_t next = page;

        g_assert_true(quorum_digests_next_to_write(d, &next, page + 1, false));
    }
    quorum_digests_free(d);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    qcrypto_init(&error_abort);
    g_test_init(&argc, &argv, NULL);
#ifdef CONFIG_XXHASH
    g_test_add_data_func("/quorum-digest/hash/xxh3",
                         GINT_TO_POINTER(QUORUM_DIGEST_ALG_XXH3), test_hash);
    g_test_add_data_func("/quorum-digest/golden/xxh3",
                         GINT_TO_POINTER(QUORUM_DIGEST_ALG_XXH3), test_golden);
#endif
    g_test_add_data_func("/quorum-digest/hash/sha256",
                         GINT_TO_POINTER(QUORUM_DIGEST_ALG_SHA256), test_hash);
    g_test_add_data_func("/quorum-digest/golden/sha256",
                         GINT_TO_POINTER(QUORUM_DIGEST_ALG_SHA256),
                         test_golden);
    g_test_add_func("/quorum-digest/reserved", test_reserved);
    g_test_add_func("/quorum-digest/no-alg", test_no_alg);
    g_test_add_func("/quorum-digest/no-memory", test_no_memory);
    g_test_add_func("/quorum-digest/random", test_random);
    g_test_add_func("/quorum-digest/random-evict", test_random_evict);
    g_test_add_func("/quorum-digest/cap", test_cap);
    g_test_add_func("/quorum-digest/clock", test_clock);
    g_test_add_func("/quorum-digest/zeroes", test_zeroes);
    g_test_add_func("/quorum-digest/forget-many", test_forget_many);
    g_test_add_func("/quorum-digest/edges", test_edges);
    g_test_add_func("/quorum-digest/threads", test_threads);
    g_test_add_func("/quorum-digest/evictions", test_evictions);
    g_test_add_func("/quorum-digest/kept", test_kept);
    g_test_add_func("/quorum-digest/fresh", test_fresh);
    g_test_add_func("/quorum-digest/late-vote", test_late_vote);
    g_test_add_func("/quorum-digest/contradict", test_contradict);
    g_test_add_func("/quorum-digest/forget-kept", test_forget_kept);
    return g_test_run();
}
