/*
 * Unit tests of the format of the quorum driver's node of digests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What is random is drawn from GLib's seed, which it prints; --seed repeats it.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "quorum-digests-naive.h"
#include "quorum-format-test.h"

#define PAGE   QUORUM_DIGESTS_PAGE
#define UNITS  QUORUM_DIGESTS_UNITS

static void random_header(QuorumDigestsHeader *header)
{
    *header = (QuorumDigestsHeader) {
        .seq = rand64() >> 1,
        .set = rand_uuid(),
        .stamp = rand_uuid(),
        .previous = rand_uuid(),
        .page_key = rand64() | 1,
        .alg = g_test_rand_int() & 1,
        .disk_bytes = rand64() >> 1,
    };
    for (int i = 0; i < QUORUM_DIGEST_KEY; i++) {
        header->key[i] = g_test_rand_int();
    }
}

static void random_digests(uint64_t *digests)
{
    for (int i = 0; i < UNITS; i++) {
        digests[i] = quorum_digest_from_hash(rand64());
        digests[i] += digests[i] == QUORUM_DIGESTS_RESERVED;
        if (g_test_rand_int() & 1) {
            digests[i] = g_test_rand_int() & 1;     /* unknown, zeroes */
        }
    }
}

static void assert_same_header(const QuorumDigestsHeader *a,
                               const QuorumDigestsHeader *b)
{
    g_assert_cmphex(a->seq, ==, b->seq);
    assert_same_uuid(&a->set, &b->set);
    assert_same_uuid(&a->stamp, &b->stamp);
    assert_same_uuid(&a->previous, &b->previous);
    g_assert_cmphex(a->page_key, ==, b->page_key);
    g_assert_cmpint(a->alg, ==, b->alg);
    g_assert_cmpint(a->disk_bytes, ==, b->disk_bytes);
    g_assert_cmpmem(a->key, sizeof(a->key), b->key, sizeof(b->key));
}

/* What a node with @place0 and @place1 is; NULL stands for zeroes. */
static QuorumDigestsFound find(const uint8_t *place0, const uint8_t *place1,
                               QuorumDigestsHeader *header, int *next)
{
    uint8_t buf[2 * PAGE] = { 0 };
    QuorumDigestsFound found;
    Error *err = NULL;
    int place;

    if (place0) {
        memcpy(buf, place0, PAGE);
    }
    if (place1) {
        memcpy(buf + PAGE, place1, PAGE);
    }
    memset(header, 0xff, sizeof(*header));
    found = quorum_digests_find_header(buf, sizeof(buf), header, next, &err);
    g_assert_true((found == QUORUM_DIGESTS_ALIEN) == !!err);
    error_free(err);
    g_assert_cmpint(found, ==, naive_digests_find(buf, sizeof(buf), &place));
    if (found == QUORUM_DIGESTS_GOOD) {
        uint8_t again[PAGE];

        g_assert_cmpint(*next, ==, !place);
        quorum_digests_encode_header(header, again);
        naive_digests_forget_reserved(buf + place * PAGE);
        g_assert_cmpmem(again, PAGE, buf + place * PAGE, PAGE);
    } else {
        g_assert_true(buffer_is_zero(header, sizeof(*header)));
        g_assert_true(found == QUORUM_DIGESTS_ALIEN || *next == 0);
    }
    return found;
}

static QuorumDigestsFound what_is(const uint8_t *buf)
{
    QuorumDigestsHeader header;
    int next;
    QuorumDigestsFound found = find(buf, NULL, &header, &next);

    /* It makes no difference which place it is in. */
    g_assert_cmpint(find(NULL, buf, &header, &next), ==, found);
    return found;
}

/* --- the bytes, which must not change --- */

static const GoldenBytes golden_header[] = {
    { 0,    "514d5144" },                                   /* magic */
    { 4,    "d51cbc04" },                                   /* CRC-32C */
    { 8,    "ffffffffffffffff" },                           /* number */
    { 16,   "0807060504030201" },                           /* page_key */
    { 32,   "51454d5551444731" },                           /* magic2 */
    { 40,   "01000000" },                                   /* version */
    { 44,   "01000000" },                                   /* algorithm */
    { 48,   "0c000000" },                                   /* unit_shift */
    { 52,   "38000000" },                                   /* digest_bits */
    { 56,   "1817161514131211" },                           /* seq */
    { 64,   "2827262524232221" },                           /* disk_bytes */
    { 72,   "303132333435363738393a3b3c3d3e3f" },           /* set */
    { 88,   "404142434445464748494a4b4c4d4e4f" },           /* stamp */
    { 104,  "505152535455565758595a5b5c5d5e5f" },           /* previous */
    { 128,  "60616263" },                                   /* hash key */
    { 316,  "1c1d1e1f" },
    { -1 }
};

static const GoldenBytes golden_page[] = {
    { 0,    "514d5144" },                                   /* magic */
    { 4,    "af74f8e4" },                                   /* CRC-32C */
    { 8,    "1817161514131211" },                           /* number */
    { 16,   "2827262524232221" },                           /* page_key */
    { 32,   "07060504030201" },                             /* digests */
    { 39,   "01000000000000" },
    { 46,   "03000000000000" },
    { 53,   "00000000000000" },
    { 3609, "ffffffffffffff" },
    { -1 }
};

static void test_golden_header(void)
{
    uint8_t golden[PAGE], buf[PAGE];
    QuorumDigestsHeader decoded;
    QuorumDigestsHeader header = {
        .seq = 0x1112131415161718,
        .set = counting_uuid(0x30),
        .stamp = counting_uuid(0x40),
        .previous = counting_uuid(0x50),
        .page_key = 0x0102030405060708,
        .alg = QUORUM_DIGEST_ALG_SHA256,
        .disk_bytes = 0x2122232425262728,
    };
    int next;

    golden_to_bytes(golden_header, golden);
    for (int i = 0; i < QUORUM_DIGEST_KEY; i++) {
        header.key[i] = 0x60 + i;
        golden[128 + i] = 0x60 + i;
    }
    memset(buf, 0xff, sizeof(buf));
    quorum_digests_encode_header(&header, buf);
    g_assert_cmpmem(buf, PAGE, golden, PAGE);
    g_assert_cmphex((uint32_t)ldl_le_p(golden + 4), ==, naive_crc(golden));

    g_assert_cmpint(find(NULL, golden, &decoded, &next), ==,
                    QUORUM_DIGESTS_GOOD);
    assert_same_header(&decoded, &header);
    g_assert_cmpint(next, ==, 0);
}

static void test_golden_page(void)
{
    uint64_t digests[UNITS] = {
        [0] = 0x01020304050607,
        [1] = QUORUM_DIGEST_ZERO,
        [2] = 3,
        [511] = 0xffffffffffffff,
    };
    uint64_t decoded[UNITS];
    uint8_t golden[PAGE], buf[PAGE];

    golden_to_bytes(golden_page, golden);
    memset(buf, 0xff, sizeof(buf));
    quorum_digests_encode_page(0x1112131415161718, 0x2122232425262728, digests,
                               buf);
    g_assert_cmpmem(buf, PAGE, golden, PAGE);
    g_assert_cmphex((uint32_t)ldl_le_p(golden + 4), ==, naive_crc(golden));

    memset(decoded, 0xff, sizeof(decoded));
    g_assert_true(quorum_digests_decode_page(golden, 0x1112131415161718,
                                             0x2122232425262728, decoded));
    g_assert_cmpmem(decoded, sizeof(decoded), digests, sizeof(digests));
}

static void test_round_trip(void)
{
    for (int i = 0; i < 300; i++) {
        uint64_t digests[UNITS], decoded[UNITS];
        uint64_t number = rand64(), key = rand64();
        QuorumDigestsHeader header, found;
        uint8_t buf[PAGE];
        int next;

        random_header(&header);
        quorum_digests_encode_header(&header, buf);
        g_assert_cmpint(find(buf, NULL, &found, &next), ==,
                        QUORUM_DIGESTS_GOOD);
        assert_same_header(&found, &header);

        random_digests(digests);
        quorum_digests_encode_page(number, key, digests, buf);
        g_assert_true(naive_digests_is_page(buf, number));
        g_assert_true(quorum_digests_decode_page(buf, number, key, decoded));
        g_assert_cmpmem(decoded, sizeof(decoded), digests, sizeof(digests));
        for (int unit = 0; unit < UNITS; unit++) {
            g_assert_cmphex(naive_digests_of(buf, unit), ==, digests[unit]);
        }
    }
}

/* --- damage --- */

static bool is_page(const uint8_t *buf, uint64_t number, uint64_t key)
{
    uint64_t digests[UNITS];
    bool good;

    memset(digests, 0xff, sizeof(digests));
    good = quorum_digests_decode_page(buf, number, key, digests);
    g_assert_true(good || buffer_is_zero(digests, sizeof(digests)));
    return good;
}

static void test_flipped_bits(void)
{
    uint8_t headers[2 * PAGE] = { 0 }, page[PAGE];
    uint64_t digests[UNITS];
    QuorumDigestsHeader header, found;
    int next;

    random_header(&header);
    quorum_digests_encode_header(&header, headers);
    random_digests(digests);
    quorum_digests_encode_page(7, 8, digests, page);
    for (int bit = 0; bit < PAGE * 8; bit++) {
        page[bit / 8] ^= 1 << bit % 8;
        g_assert_false(is_page(page, 7, 8));
        page[bit / 8] ^= 1 << bit % 8;

        headers[bit / 8] ^= 1 << bit % 8;
        g_assert_cmpint(quorum_digests_find_header(headers, sizeof(headers),
                                                   &found, &next, NULL), ==,
                        bit < 32 ? QUORUM_DIGESTS_ALIEN
                                 : QUORUM_DIGESTS_DAMAGED);
        g_assert_true(buffer_is_zero(&found, sizeof(found)));
        headers[bit / 8] ^= 1 << bit % 8;
    }
    g_assert_true(is_page(page, 7, 8));
    g_assert_cmpint(what_is(headers), ==, QUORUM_DIGESTS_GOOD);
}

/* Each byte with each other value */
static void test_wrong_bytes(void)
{
    uint64_t digests[UNITS];
    uint8_t page[PAGE];

    random_digests(digests);
    quorum_digests_encode_page(7, 8, digests, page);
    for (int at = 0; at < PAGE; at++) {
        for (int wrong = 1; wrong < 256; wrong += at < 64 ? 1 : 37) {
            page[at] ^= wrong;
            g_assert_false(is_page(page, 7, 8));
            page[at] ^= wrong;
        }
    }
    g_assert_true(is_page(page, 7, 8));
}

static void test_torn_page(void)
{
    uint8_t old[PAGE], new[PAGE], buf[PAGE];
    uint64_t digests[UNITS];

    random_digests(digests);
    quorum_digests_encode_page(7, 8, digests, old);
    for (int i = 0; i < UNITS; i++) {
        digests[i] ^= 0xf0;
    }
    quorum_digests_encode_page(7, 8, digests, new);
    for (int choice = 0; choice < FORMAT_CHOICES; choice++) {
        tear_page(buf, old, new, choice);
        g_assert_true(is_page(buf, 7, 8) == (!memcmp(buf, old, PAGE) ||
                                             !memcmp(buf, new, PAGE)));
    }
    /* As the first one in its place */
    memset(old, 0, sizeof(old));
    for (int choice = 0; choice < FORMAT_CHOICES; choice++) {
        tear_page(buf, old, new, choice);
        g_assert_true(is_page(buf, 7, 8) == !memcmp(buf, new, PAGE));
    }
}

/*
 * A header that is cut short leaves the other one; and the first one of all, on
 * a blank node, leaves nothing that must not be overwritten.
 */
static void test_torn_header(void)
{
    uint8_t first[PAGE], old[PAGE], new[PAGE], buf[PAGE];
    QuorumDigestsHeader a, b, found;
    int next;

    random_header(&a);
    random_header(&b);
    a.seq = 10;
    quorum_digests_encode_header(&a, first);
    b.seq = 9;
    quorum_digests_encode_header(&b, old);
    b.seq = 11;
    b.stamp = rand_uuid();
    quorum_digests_encode_header(&b, new);
    for (int choice = 0; choice < FORMAT_CHOICES; choice++) {
        bool whole;

        tear_page(buf, old, new, choice);
        whole = !memcmp(buf, new, PAGE);
        g_assert_cmpint(find(first, buf, &found, &next), ==,
                        QUORUM_DIGESTS_GOOD);
        assert_same_header(&found, whole ? &b : &a);
        g_assert_cmpint(next, ==, !whole);

        tear_page(buf, (uint8_t[PAGE]) { 0 }, new, choice);
        g_assert_cmpint(what_is(buf), ==,
                        choice & 1 ? QUORUM_DIGESTS_GOOD
                                   : QUORUM_DIGESTS_BLANK);
    }
}

/* --- which place counts --- */

static void test_newest(void)
{
    uint8_t low[PAGE], high[PAGE], rotten[PAGE];
    QuorumDigestsHeader a, b, found;
    int next;

    random_header(&a);
    random_header(&b);
    a.seq = UINT64_C(0x7fffffffffffffff);       /* it is unsigned */
    b.seq = UINT64_C(0x8000000000000000);
    quorum_digests_encode_header(&a, low);
    quorum_digests_encode_header(&b, high);
    memcpy(rotten, high, PAGE);
    rotten[100] ^= 1;

    g_assert_cmpint(find(low, high, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    assert_same_header(&found, &b);
    g_assert_cmpint(next, ==, 0);
    g_assert_cmpint(find(high, low, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    assert_same_header(&found, &b);
    g_assert_cmpint(next, ==, 1);

    g_assert_cmpint(find(low, rotten, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    assert_same_header(&found, &a);
    g_assert_cmpint(next, ==, 1);
    g_assert_cmpint(find(rotten, low, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    assert_same_header(&found, &a);
    g_assert_cmpint(next, ==, 0);
    /* What was written over the other place is no reason to give it up. */
    memset(rotten, 0xee, PAGE);
    g_assert_cmpint(find(low, rotten, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    assert_same_header(&found, &a);
    g_assert_cmpint(next, ==, 1);

    g_assert_cmpint(find(NULL, NULL, &found, &next), ==, QUORUM_DIGESTS_BLANK);
    g_assert_cmpint(find(high, NULL, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    g_assert_cmpint(find(NULL, high, &found, &next), ==, QUORUM_DIGESTS_GOOD);
    memcpy(rotten, high, PAGE);
    rotten[PAGE - 1] ^= 1;
    g_assert_cmpint(find(rotten, rotten, &found, &next), ==,
                    QUORUM_DIGESTS_DAMAGED);
    g_assert_cmpint(find(rotten, NULL, &found, &next), ==,
                    QUORUM_DIGESTS_DAMAGED);
}

static QuorumDigestsFound probe(const uint8_t *buf, size_t bytes)
{
    QuorumDigestsHeader header;
    int next, place;
    QuorumDigestsFound found = quorum_digests_find_header(buf, bytes, &header,
                                                          &next, NULL);

    g_assert_cmpint(found, ==, naive_digests_find(buf, bytes, &place));
    return found;
}

/* Other data are noticed, wherever they begin. */
static void test_alien(void)
{
    g_autofree uint8_t *buf = g_malloc0(QUORUM_DIGESTS_PROBE);
    uint64_t digests[UNITS] = { 0 };
    QuorumDigestsHeader header;
    size_t bytes = QUORUM_DIGESTS_PROBE;
    Error *err = NULL;
    int next;

    g_assert_cmpint(probe(buf, bytes), ==, QUORUM_DIGESTS_BLANK);
    for (size_t at = 0; at < bytes; at += 509) {
        buf[at] = 1;
        g_assert_cmpint(probe(buf, bytes), ==, QUORUM_DIGESTS_ALIEN);
        buf[at] = 0;
    }
    /* Of a node that ends in a page, or before its first one */
    buf[2 * PAGE + 1] = 'M';
    g_assert_cmpint(probe(buf, 2 * PAGE + 2), ==, QUORUM_DIGESTS_ALIEN);
    g_assert_cmpint(probe(buf, 2 * PAGE + 1), ==, QUORUM_DIGESTS_BLANK);
    buf[2 * PAGE] = 'Q';
    g_assert_cmpint(probe(buf, 2 * PAGE + 2), ==, QUORUM_DIGESTS_BLANK);
    g_assert_cmpint(probe(buf, 2 * PAGE), ==, QUORUM_DIGESTS_BLANK);

    /* Pages of digests, also rotten ones, from before it was wiped */
    for (int i = 2; i < bytes / PAGE; i++) {
        quorum_digests_encode_page(i - 2, 5, digests, buf + i * PAGE);
        buf[i * PAGE + 50] = 1;
    }
    g_assert_cmpint(probe(buf, bytes), ==, QUORUM_DIGESTS_BLANK);
    buf[31 * PAGE] = 'q';
    g_assert_cmpint(quorum_digests_find_header(buf, bytes, &header, &next,
                                               &err), ==, QUORUM_DIGESTS_ALIEN);
    g_assert_true(g_str_has_prefix(error_get_pretty(err), "holds something"));
    error_free_or_abort(&err);

    /* Nothing of that matters if there is a header. */
    random_header(&header);
    quorum_digests_encode_header(&header, buf + PAGE);
    g_assert_cmpint(probe(buf, bytes), ==, QUORUM_DIGESTS_GOOD);
}

/* --- values --- */

/* Put @hex at @offset into a good header, or page, and make its CRC right. */
static void patch(uint8_t *buf, int offset, const char *hex)
{
    const GoldenBytes change[] = { { offset, hex }, { -1 } };
    uint8_t bytes[PAGE];

    golden_to_bytes(change, bytes);
    memcpy(buf + offset, bytes + offset, strlen(hex) / 2);
    naive_set_crc(buf);
}

#define NULL_UUID "00000000000000000000000000000000"

static void test_values(void)
{
    static const struct {
        int offset;
        const char *hex;
        QuorumDigestsFound found;
    } cases[] = {
        { 0,   "514d5150",         QUORUM_DIGESTS_ALIEN },      /* magic */
        { 8,   "0000000000000000", QUORUM_DIGESTS_DAMAGED },    /* a page */
        { 8,   "ffffffff00000000", QUORUM_DIGESTS_DAMAGED },
        { 16,  "0000000000000000", QUORUM_DIGESTS_DAMAGED },    /* page_key */
        { 16,  "0000000000000080", QUORUM_DIGESTS_GOOD },
        { 24,  "ffffffffffffffff", QUORUM_DIGESTS_GOOD },       /* reserved */
        { 32,  "51454d5551444732", QUORUM_DIGESTS_DAMAGED },    /* magic2 */
        { 40,  "00000000",         QUORUM_DIGESTS_ALIEN },      /* version */
        { 40,  "02000000",         QUORUM_DIGESTS_ALIEN },
        { 40,  "01000001",         QUORUM_DIGESTS_ALIEN },
        { 44,  "00000000",         QUORUM_DIGESTS_GOOD },       /* algorithm */
        { 44,  "02000000",         QUORUM_DIGESTS_DAMAGED },
        { 44,  "ffffffff",         QUORUM_DIGESTS_DAMAGED },
        { 44,  "01000080",         QUORUM_DIGESTS_DAMAGED },
        { 48,  "0b000000",         QUORUM_DIGESTS_DAMAGED },    /* unit_shift */
        { 48,  "0d000000",         QUORUM_DIGESTS_DAMAGED },
        { 52,  "37000000",         QUORUM_DIGESTS_DAMAGED },    /* bits */
        { 52,  "40000000",         QUORUM_DIGESTS_DAMAGED },
        { 56,  "0000000000000000", QUORUM_DIGESTS_GOOD },       /* seq */
        { 56,  "ffffffffffffffff", QUORUM_DIGESTS_GOOD },
        { 64,  "0000000000000000", QUORUM_DIGESTS_GOOD },       /* disk_bytes */
        { 64,  "ffffffffffffff7f", QUORUM_DIGESTS_GOOD },
        { 64,  "0000000000000080", QUORUM_DIGESTS_DAMAGED },
        { 72,  NULL_UUID,          QUORUM_DIGESTS_DAMAGED },    /* set */
        { 88,  NULL_UUID,          QUORUM_DIGESTS_DAMAGED },    /* stamp */
        { 104, NULL_UUID,          QUORUM_DIGESTS_GOOD },       /* previous */
        { 120, "ffffffffffffffff", QUORUM_DIGESTS_GOOD },       /* reserved */
        { 128, NULL_UUID,          QUORUM_DIGESTS_GOOD },       /* hash key */
        { 320, "ff",               QUORUM_DIGESTS_GOOD },
        { 4095, "ff",              QUORUM_DIGESTS_GOOD },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t buf[PAGE];

        g_test_message("%s at %d", cases[i].hex, cases[i].offset);
        golden_to_bytes(golden_header, buf);
        patch(buf, cases[i].offset, cases[i].hex);
        g_assert_cmpint(what_is(buf), ==, cases[i].found);
    }
}

static void test_newer_version(void)
{
    uint8_t newer[PAGE], old[PAGE], buf[2 * PAGE] = { 0 };
    QuorumDigestsHeader header;
    Error *err = NULL;
    int next;

    golden_to_bytes(golden_header, newer);
    memcpy(old, newer, PAGE);
    patch(newer, 40, "02000000");
    naive_set_crc(newer);
    memcpy(buf + PAGE, newer, PAGE);
    g_assert_cmpint(quorum_digests_find_header(buf, sizeof(buf), &header, &next,
                                               &err), ==, QUORUM_DIGESTS_ALIEN);
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "was made by a newer version: version 2");
    error_free_or_abort(&err);

    /* It has not got as far as the other place. */
    naive_set_crc(old);
    g_assert_cmpint(find(old, newer, &header, &next), ==, QUORUM_DIGESTS_GOOD);
    g_assert_cmpint(next, ==, 1);
}

static void test_pages(void)
{
    uint64_t digests[UNITS], decoded[UNITS];
    uint8_t buf[PAGE] = { 0 };

    g_assert_false(is_page(buf, 0, 0));         /* blank */
    memset(buf, 0xff, sizeof(buf));
    g_assert_false(is_page(buf, UINT64_MAX, UINT64_MAX));

    random_digests(digests);
    quorum_digests_encode_page(5, 8, digests, buf);
    g_assert_true(is_page(buf, 5, 8));
    g_assert_false(is_page(buf, 4, 8));
    g_assert_false(is_page(buf, 5, 9));
    g_assert_false(is_page(buf, 5 + (UINT64_C(1) << 32), 8));
    g_assert_false(is_page(buf, 5, 8 + (UINT64_C(1) << 32)));

    /* What is reserved means nothing, and a value that means nothing, too. */
    patch(buf, 24, "ffffffffffffffff");
    g_assert_true(is_page(buf, 5, 8));
    patch(buf, 3616, "ff");
    patch(buf, 4095, "ff");
    g_assert_true(is_page(buf, 5, 8));
    patch(buf, 32 + 7 * 3, "02000000000000");
    digests[3] = QUORUM_DIGEST_UNKNOWN;
    g_assert_true(quorum_digests_decode_page(buf, 5, 8, decoded));
    g_assert_cmpmem(decoded, sizeof(decoded), digests, sizeof(digests));
    patch(buf, 0, "514d5150");
    g_assert_false(is_page(buf, 5, 8));
}

/* --- where things are --- */

static void check_size(int64_t bytes)
{
    uint64_t pages = quorum_digests_pages(bytes);
    int64_t size = quorum_digests_size(bytes);

    g_test_message("%" PRId64 " bytes", bytes);
    /* There is a page for the last byte, and none behind it. */
    g_assert_true((__int128)pages * (2 * MiB) >= bytes);
    g_assert_true(!pages || (__int128)(pages - 1) * (2 * MiB) < bytes);
    g_assert_cmpint(size, ==, 8192 + 4096 * (int64_t)pages);
    g_assert_cmpint(quorum_digests_page_offset(pages), ==, size);
    g_assert_cmpint(quorum_digests_capacity(size), ==, pages);
    g_assert_cmpint(quorum_digests_capacity(size + 4095), ==, pages);
    g_assert_cmpint(quorum_digests_capacity(size - 1), ==,
                    pages ? pages - 1 : 0);
}

static void test_sizes(void)
{
    static const int64_t sizes[] = {
        0, 1, FORMAT_SECTOR, 2 * MiB - 1, 2 * MiB, 2 * MiB + 1, 1 * TiB,
        8 * PiB, INT64_MAX - 2 * MiB, INT64_MAX - 1, INT64_MAX,
    };

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        check_size(sizes[i]);
    }
    for (int i = 0; i < 200; i++) {
        check_size(rand64() >> g_test_rand_int_range(1, 64));
    }
    /* What people know from the manual */
    g_assert_cmpint(quorum_digests_size(1 * TiB), ==, 2 * GiB + 8 * KiB);
    g_assert_cmpint(quorum_digests_size(0), ==, 8 * KiB);
    g_assert_cmpint(quorum_digests_header_offset(0), ==, 0);
    g_assert_cmpint(quorum_digests_header_offset(1), ==, 4096);
    for (int64_t bytes = 0; bytes <= 8192; bytes += 64) {
        g_assert_cmpint(quorum_digests_capacity(bytes), ==, 0);
    }
    g_assert_cmpint(quorum_digests_capacity(INT64_MAX), ==,
                    (INT64_MAX - 8192) / 4096);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/quorum/digest-format/golden/header", test_golden_header);
    g_test_add_func("/quorum/digest-format/golden/page", test_golden_page);
    g_test_add_func("/quorum/digest-format/round-trip", test_round_trip);
    g_test_add_func("/quorum/digest-format/flipped-bits", test_flipped_bits);
    g_test_add_func("/quorum/digest-format/wrong-bytes", test_wrong_bytes);
    g_test_add_func("/quorum/digest-format/torn/page", test_torn_page);
    g_test_add_func("/quorum/digest-format/torn/header", test_torn_header);
    g_test_add_func("/quorum/digest-format/newest", test_newest);
    g_test_add_func("/quorum/digest-format/alien", test_alien);
    g_test_add_func("/quorum/digest-format/values", test_values);
    g_test_add_func("/quorum/digest-format/newer-version", test_newer_version);
    g_test_add_func("/quorum/digest-format/pages", test_pages);
    g_test_add_func("/quorum/digest-format/sizes", test_sizes);
    return g_test_run();
}
