/*
 * Unit tests of the format of the quorum driver's state nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What is random is drawn from GLib's seed, which it prints; --seed repeats it.
 */

#include "qemu/osdep.h"
#include "block/block-common.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "quorum-format-test.h"
#include "quorum-state-naive.h"


/* A number of any length: as many small ones as large ones */
static uint64_t rand_size(int bits)
{
    return rand64() >> (64 - g_test_rand_int_range(1, bits + 1));
}

static bool rand_bool(void)
{
    return g_test_rand_int() & 1;
}

static void random_record(QuorumStateLabel *label, int k)
{
    QuorumStateRecord *r = &label->records[k];

    *r = (QuorumStateRecord) {
        .member = rand_uuid(),
        .place = k < label->places ? k : -1,
        .flags = g_test_rand_int_range(0, 8),
        .state_seq = rand64(),
        .stale_bytes = rand64(),
    };
    if (r->place < 0) {
        r->status = QUORUM_STATE_REMOVED;
    } else {
        r->status = rand_bool() ? QUORUM_STATE_MEMBER : QUORUM_STATE_REBUILDING;
    }
    if (label->old_threshold && rand_bool()) {
        r->flags |= r->place < 0 ? QUORUM_STATE_LEFT : QUORUM_STATE_JOINED;
    }
}

static void random_label(QuorumStateLabel *label)
{
    *label = (QuorumStateLabel) {
        .set = rand_uuid(),
        .member = rand_uuid(),
        .session = rand_uuid(),
        .opens = rand_size(64),
        .seq = rand_size(63),
        .layout = rand64(),
        .flags = g_test_rand_int_range(0, 8),
        .places = 1 + rand_size(14),
        .config = rand_size(64),
        .disk_bytes = rand_size(63),
        .digests = rand_uuid(),
    };
    label->threshold = 1 + rand64() % label->places;
    label->old_threshold = rand_bool() ? rand_size(15) : 0;
    quorum_state_lay_out(label, label->disk_bytes);
    for (int i = g_test_rand_int_range(0, QUORUM_STATE_HISTORY + 1); i--; ) {
        label->history[i] = rand_uuid();
    }
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (rand_bool()) {
            random_record(label, k);
        }
    }
}

static void random_page(const QuorumStateLabel *label, uint64_t seq,
                        uint32_t number, uint8_t *buf)
{
    QuorumStatePage page = {
        .number = number,
        .layout = label->layout,
        .seq = seq,
        .set = label->set,
        .session = quorum_state_session_low(&label->session),
    };

    for (int i = 0; i < QUORUM_STATE_BITS / 8; i++) {
        quorum_state_bits(buf)[i] = g_test_rand_int();
    }
    quorum_state_encode_page(&page, buf);
}

static bool is_label(const uint8_t *buf)
{
    QuorumStateLabel label;
    Error *err = NULL;
    bool good = quorum_state_decode_label(buf, &label, &err);

    g_assert_true(good == !err);
    error_free(err);
    g_assert_true(good == naive_label_is_good(buf));
    return good;
}

static void assert_same_label(const QuorumStateLabel *a,
                              const QuorumStateLabel *b)
{
    assert_same_uuid(&a->set, &b->set);
    assert_same_uuid(&a->member, &b->member);
    assert_same_uuid(&a->session, &b->session);
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        assert_same_uuid(&a->history[i], &b->history[i]);
    }
    g_assert_cmphex(a->opens, ==, b->opens);
    g_assert_cmphex(a->seq, ==, b->seq);
    g_assert_cmphex(a->layout, ==, b->layout);
    g_assert_cmphex(a->flags, ==, b->flags);
    g_assert_cmpint(a->places, ==, b->places);
    g_assert_cmpint(a->threshold, ==, b->threshold);
    g_assert_cmpint(a->old_threshold, ==, b->old_threshold);
    g_assert_cmphex(a->config, ==, b->config);
    g_assert_cmphex(a->disk_bytes, ==, b->disk_bytes);
    g_assert_cmphex(a->max_bytes, ==, b->max_bytes);
    g_assert_cmpint(a->intent_shift, ==, b->intent_shift);
    g_assert_cmpint(a->stale_shift, ==, b->stale_shift);
    assert_same_uuid(&a->digests, &b->digests);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        const QuorumStateRecord *r = &a->records[k], *s = &b->records[k];

        assert_same_uuid(&r->member, &s->member);
        g_assert_cmpint(r->place, ==, s->place);
        g_assert_cmpint(r->status, ==, s->status);
        g_assert_cmphex(r->flags, ==, s->flags);
        g_assert_cmphex(r->state_seq, ==, s->state_seq);
        g_assert_cmphex(r->stale_bytes, ==, s->stale_bytes);
    }
}

/* --- the bytes, which must not change --- */

static const GoldenBytes golden_label[] = {
    { 0,    "514d5150" },                                   /* magic */
    { 4,    "cbd852b7" },                                      /* CRC-32C */
    { 8,    "1817161514131211" },                           /* seq */
    { 16,   "ffffffff" },                                   /* number */
    { 20,   "24232221" },                                   /* layout */
    { 24,   "101112131415161718191a1b1c1d1e1f" },           /* set */
    { 40,   "3031323334353637" },                           /* session */
    { 64,   "51454d5551535431" },                           /* magic */
    { 72,   "01000000" },                                   /* version */
    { 76,   "c00b0000" },                                   /* length */
    { 96,   "202122232425262728292a2b2c2d2e2f" },           /* member */
    { 112,  "303132333435363738393a3b3c3d3e3f" },           /* session */
    { 128,  "404142434445464748494a4b4c4d4e4f" },           /* history */
    { 144,  "505152535455565758595a5b5c5d5e5f" },
    { 368,  "606162636465666768696a6b6c6d6e6f" },
    { 384,  "0807060504030201" },                           /* opens */
    { 392,  "03000000" },                                   /* flags */
    { 396,  "16" },                                         /* intent_shift */
    { 397,  "12" },                                         /* stale_shift */
    { 398,  "2800" },                                       /* capacity */
    { 400,  "0201" },                                       /* places */
    { 402,  "0101" },                                       /* threshold */
    { 404,  "0302" },                                       /* old_threshold */
    { 408,  "3837363534333231" },                           /* config */
    { 416,  "4544434241000000" },                           /* disk_bytes */
    { 424,  "f5f4f3f2f1000000" },                           /* max_bytes */
    { 432,  "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf" },           /* digests */
    { 448,  "707172737475767778797a7b7c7d7e7f" },           /* record 0 */
    { 464,  "0101" },                                       /* place */
    { 466,  "01" },                                         /* status */
    { 467,  "0d" },                                         /* flags */
    { 472,  "8887868584838281" },                           /* state_seq */
    { 480,  "9897969594939291" },                           /* stale_bytes */
    { 512,  "808182838485868788898a8b8c8d8e8f" },           /* record 1 */
    { 528,  "02000202" },
    { 2944, "909192939495969798999a9b9c9d9e9f" },           /* record 39 */
    { 2960, "ffff0310" },
    { -1 }
};

static const GoldenBytes golden_page[] = {
    { 0,    "514d5150" },                                   /* magic */
    { 4,    "8925a27a" },                                      /* CRC-32C */
    { 8,    "f8f7f6f5f4f3f2f1" },                           /* seq */
    { 16,   "04030201" },                                   /* number */
    { 20,   "24232221" },                                   /* layout */
    { 24,   "101112131415161718191a1b1c1d1e1f" },           /* set */
    { 40,   "6061626364656667" },                           /* session */
    { 64,   "01800f" },                                     /* bits */
    { 4095, "80" },
    { -1 }
};

static void golden_to_label(QuorumStateLabel *label)
{
    *label = (QuorumStateLabel) {
        .set = counting_uuid(0x10),
        .member = counting_uuid(0x20),
        .session = counting_uuid(0x30),
        .history = {
            [0] = counting_uuid(0x40),
            [1] = counting_uuid(0x50),
            [15] = counting_uuid(0x60),
        },
        .opens = 0x0102030405060708,
        .seq = 0x1112131415161718,
        .layout = 0x21222324,
        .flags = QUORUM_STATE_CLEAN | QUORUM_STATE_MAPS_INVALID,
        .places = 0x102,
        .threshold = 0x101,
        .old_threshold = 0x203,
        .config = 0x3132333435363738,
        .disk_bytes = 0x4142434445,
        .max_bytes = 0xf1f2f3f4f5,
        .intent_shift = 22,
        .stale_shift = 18,
        .digests = counting_uuid(0xa0),
        .records = {
            [0] = {
                .member = counting_uuid(0x70),
                .place = 0x101,
                .status = QUORUM_STATE_MEMBER,
                .flags = QUORUM_STATE_BEHIND | QUORUM_STATE_FAILED |
                         QUORUM_STATE_JOINED,
                .state_seq = 0x8182838485868788,
                .stale_bytes = 0x9192939495969798,
            },
            [1] = {
                .member = counting_uuid(0x80),
                .place = 2,
                .status = QUORUM_STATE_REBUILDING,
                .flags = QUORUM_STATE_OUT,
            },
            [39] = {
                .member = counting_uuid(0x90),
                .place = -1,
                .status = QUORUM_STATE_REMOVED,
                .flags = QUORUM_STATE_LEFT,
            },
        },
    };
}

static void test_golden_label(void)
{
    uint8_t golden[QUORUM_STATE_PAGE], buf[QUORUM_STATE_PAGE];
    QuorumStateLabel label, decoded;

    golden_to_bytes(golden_label, golden);
    golden_to_label(&label);
    memset(buf, 0xff, sizeof(buf));
    quorum_state_encode_label(&label, buf);
    g_assert_cmpmem(buf, sizeof(buf), golden, sizeof(golden));

    memset(&decoded, 0xff, sizeof(decoded));
    g_assert_true(quorum_state_decode_label(golden, &decoded, &error_abort));
    assert_same_label(&decoded, &label);
    g_assert_true(naive_label_is_good(golden));
}

static void test_golden_page(void)
{
    uint8_t golden[QUORUM_STATE_PAGE], buf[QUORUM_STATE_PAGE];
    QuorumStatePage page = {
        .number = 0x01020304,
        .layout = 0x21222324,
        .seq = 0xf1f2f3f4f5f6f7f8,
        .set = counting_uuid(0x10),
        .session = 0x6061626364656667,
    };
    QuorumStatePage decoded;
    QuorumStateLabel label;

    golden_to_bytes(golden_page, golden);
    memset(buf, 0xff, QUORUM_STATE_HEADER);
    memset(buf + QUORUM_STATE_HEADER, 0, QUORUM_STATE_BITS / 8);
    for (int i = 0; i < 5; i++) {
        static const int bits[] = { 0, 15, 16, 17, 18 };

        quorum_state_bits(buf)[bits[i] / 8] |= 1 << bits[i] % 8;
    }
    quorum_state_bits(buf)[2] |= 1 << 3;
    quorum_state_bits(buf)[(QUORUM_STATE_BITS - 1) / 8] |= 0x80;
    quorum_state_encode_page(&page, buf);
    g_assert_cmpmem(buf, sizeof(buf), golden, sizeof(golden));

    golden_to_label(&label);
    memset(&decoded, 0xff, sizeof(decoded));
    g_assert_true(quorum_state_decode_page(golden, &label, page.number,
                                           &decoded));
    g_assert_cmphex(decoded.number, ==, page.number);
    g_assert_cmphex(decoded.layout, ==, page.layout);
    g_assert_cmphex(decoded.seq, ==, page.seq);
    assert_same_uuid(&decoded.set, &page.set);
    g_assert_cmphex(decoded.session, ==, page.session);
}

static void test_crc(void)
{
    uint8_t buf[QUORUM_STATE_PAGE];
    QuorumStateLabel label;

    for (int i = 0; i < 100; i++) {
        random_label(&label);
        random_page(&label, rand64(), rand64(), buf);
        g_assert_cmphex((uint32_t)ldl_le_p(buf + 4), ==, naive_crc(buf));
        quorum_state_encode_label(&label, buf);
        g_assert_cmphex((uint32_t)ldl_le_p(buf + 4), ==, naive_crc(buf));
    }
}

static void test_round_trip(void)
{
    uint8_t buf[QUORUM_STATE_PAGE], again[QUORUM_STATE_PAGE];
    QuorumStateLabel label, decoded;

    for (int i = 0; i < 1000; i++) {
        random_label(&label);
        quorum_state_encode_label(&label, buf);
        g_assert_true(naive_label_is_good(buf));
        g_assert_true(quorum_state_decode_label(buf, &decoded, &error_abort));
        assert_same_label(&decoded, &label);
        quorum_state_encode_label(&decoded, again);
        g_assert_cmpmem(buf, sizeof(buf), again, sizeof(again));
    }
}

/* --- damage --- */

static void test_flipped_bits(void)
{
    uint8_t label_buf[QUORUM_STATE_PAGE], page_buf[QUORUM_STATE_PAGE];
    QuorumStateLabel label, decoded;
    QuorumStatePage page;

    random_label(&label);
    quorum_state_encode_label(&label, label_buf);
    random_page(&label, 1, 7, page_buf);
    for (int bit = 0; bit < QUORUM_STATE_PAGE * 8; bit++) {
        Error *err = NULL;

        label_buf[bit / 8] ^= 1 << bit % 8;
        g_assert_false(quorum_state_decode_label(label_buf, &decoded, &err));
        error_free_or_abort(&err);
        label_buf[bit / 8] ^= 1 << bit % 8;

        page_buf[bit / 8] ^= 1 << bit % 8;
        g_assert_false(quorum_state_decode_page(page_buf, &label, 7, &page));
        page_buf[bit / 8] ^= 1 << bit % 8;
    }
    g_assert_true(is_label(label_buf));
    g_assert_true(quorum_state_decode_page(page_buf, &label, 7, &page));
}

/* Each choice of sectors of @old and @new, not only a beginning of one */
static void tear(const uint8_t *old, const uint8_t *new,
                 bool (*is_good)(const uint8_t *buf, const void *opaque),
                 const void *opaque)
{
    uint8_t buf[QUORUM_STATE_PAGE];
    int good = 0;

    for (int choice = 0; choice < FORMAT_CHOICES; choice++) {
        tear_page(buf, old, new, choice);
        if (is_good(buf, opaque)) {
            g_assert_true(!memcmp(buf, old, sizeof(buf)) ||
                          !memcmp(buf, new, sizeof(buf)));
            good++;
        }
    }
    g_assert_cmpint(good, >=, 2);
}

static bool whole_label(const uint8_t *buf, const void *opaque)
{
    return is_label(buf);
}

static bool whole_page(const uint8_t *buf, const void *opaque)
{
    QuorumStatePage page;

    return quorum_state_decode_page(buf, opaque, 3, &page);
}

static void test_torn(void)
{
    uint8_t old[QUORUM_STATE_PAGE], new[QUORUM_STATE_PAGE];
    QuorumStateLabel label;

    for (int i = 0; i < 10; i++) {
        random_label(&label);
        quorum_state_encode_label(&label, old);
        label.seq++;
        random_record(&label, g_test_rand_int_range(0, QUORUM_STATE_RECORDS));
        quorum_state_encode_label(&label, new);
        tear(old, new, whole_label, NULL);

        random_page(&label, 1, 3, old);
        random_page(&label, 2, 3, new);
        tear(old, new, whole_page, &label);

        /* Only the header differs: in its sector, which is never torn. */
        memcpy(new, old, sizeof(new));
        stq_le_p(new + 8, 3);
        naive_set_crc(new);
        tear(old, new, whole_page, &label);
    }
}

static void test_blank(void)
{
    uint8_t buf[2 * QUORUM_STATE_PAGE] = { 0 };
    QuorumStateLabel label;
    QuorumStatePage page;

    random_label(&label);
    g_assert_true(quorum_state_is_blank(buf, sizeof(buf)));
    g_assert_false(is_label(buf));
    g_assert_false(quorum_state_decode_page(buf, &label, 0, &page));
    for (size_t i = 0; i < sizeof(buf); i++) {
        buf[i] = 1;
        g_assert_false(quorum_state_is_blank(buf, sizeof(buf)));
        buf[i] = 0;
    }
}

/* --- values --- */

static int naive_shift(__int128 bytes, int least, int most_bits)
{
    int shift = least;

    while ((bytes + ((__int128)1 << shift) - 1) >> shift > (1 << most_bits)) {
        shift++;
    }
    return shift;
}

static void check_places(const QuorumStateLabel *label)
{
    uint32_t intent = quorum_state_intent_pages(label);
    uint32_t stale = quorum_state_stale_pages(label);
    uint32_t number = 0;
    int64_t offset = 0;

    /* The label and all pages, one after the other, without a gap */
    for (int place = 0; place < 2; place++, offset += QUORUM_STATE_PAGE) {
        g_assert_cmpint(quorum_state_offset(QUORUM_STATE_LABEL, place), ==,
                        offset);
    }
    for (int k = -1; k < QUORUM_STATE_RECORDS; k++) {
        for (uint32_t page = 0; page < (k < 0 ? intent : stale); page++) {
            if (k >= 0) {
                g_assert_cmpint(quorum_state_stale_page(label, k, page), ==,
                                number);
            }
            for (int i = 0; i < 2; i++, offset += QUORUM_STATE_PAGE) {
                g_assert_cmpint(quorum_state_offset(number, i), ==, offset);
            }
            number++;
        }
    }
    g_assert_cmpint(quorum_state_pages(label), ==, number);
    g_assert_cmpint(quorum_state_size(label), ==, offset);
    g_assert_cmpint(offset, <=, 42 * MiB);
}

static void check_layout(int64_t bytes)
{
    QuorumStateLabel label, decoded;
    uint8_t buf[QUORUM_STATE_PAGE];
    __int128 pages;

    g_test_message("%" PRId64 " bytes", bytes);
    random_label(&label);
    label.disk_bytes = bytes;
    quorum_state_lay_out(&label, bytes);
    if (bytes <= INT64_MAX / 8) {
        g_assert_cmpint(label.max_bytes, >=, 4 * bytes);
        g_assert_cmpint(label.max_bytes, >=, 256 * GiB);
        g_assert_cmpint(label.max_bytes, <,
                        MAX(4 * bytes + 1 * GiB, 256 * GiB + 1));
    } else {
        g_assert_cmpint(label.max_bytes, ==, bytes);
    }
    g_assert_cmpint(label.intent_shift, ==,
                    naive_shift(label.max_bytes, 20, 18));
    g_assert_cmpint(label.stale_shift, ==,
                    naive_shift(label.max_bytes, 12, 22));

    /* There is a bit for the last byte. */
    pages = quorum_state_intent_pages(&label);
    g_assert_true(pages >= 1 && pages <= 9);
    g_assert_true((pages * QUORUM_STATE_BITS) << label.intent_shift >=
                  label.max_bytes);
    g_assert_true(((pages - 1) * QUORUM_STATE_BITS) << label.intent_shift <
                  label.max_bytes);
    pages = quorum_state_stale_pages(&label);
    g_assert_true(pages >= 1 && pages <= 131);
    g_assert_true((pages * QUORUM_STATE_BITS) << label.stale_shift >=
                  label.max_bytes);
    g_assert_true(((pages - 1) * QUORUM_STATE_BITS) << label.stale_shift <
                  label.max_bytes);
    check_places(&label);

    quorum_state_encode_label(&label, buf);
    g_assert_true(quorum_state_decode_label(buf, &decoded, &error_abort));
    assert_same_label(&decoded, &label);
}

static void test_layout(void)
{
    static const int64_t sizes[] = {
        0, 1, FORMAT_SECTOR, 1 * GiB, 16 * GiB, 1 * TiB, 100 * TiB, 1 * EiB,
        INT64_MAX / 8, INT64_MAX / 2, INT64_MAX - 1 * GiB, BDRV_MAX_LENGTH,
    };

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        check_layout(sizes[i]);
    }
    for (int shift = 1; shift < 63; shift++) {
        for (int64_t off = -2; off <= 2; off++) {
            check_layout(MAX((INT64_C(1) << shift) + off, 0));
        }
    }
    for (int i = 0; i < 200; i++) {
        check_layout(rand_size(63));
    }
}

/* What the layout of some sizes is; people know it from the manual. */
static void test_granularity(void)
{
    static const struct {
        int64_t bytes;
        int intent_shift;
        int stale_shift;
        int64_t state_bytes;
    } cases[] = {
        { 0,         20, 16, (1 + 9 + 40 * 131) * 8192 },
        { 4 * GiB,   20, 16, (1 + 9 + 40 * 131) * 8192 },
        { 64 * GiB,  20, 16, (1 + 9 + 40 * 131) * 8192 },
        { 1 * TiB,   24, 20, (1 + 9 + 40 * 131) * 8192 },
        { 100 * TiB, 31, 27, (1 + 7 + 40 * 102) * 8192 },
        { INT64_MAX, 45, 41, (1 + 9 + 40 * 131) * 8192 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        QuorumStateLabel label;

        g_test_message("%" PRId64 " bytes", cases[i].bytes);
        quorum_state_lay_out(&label, cases[i].bytes);
        g_assert_cmpint(label.intent_shift, ==, cases[i].intent_shift);
        g_assert_cmpint(label.stale_shift, ==, cases[i].stale_shift);
        g_assert_cmpint(quorum_state_size(&label), ==, cases[i].state_bytes);
    }
}

/* A label that is @hex at @offset is refused because of @error. */
static void check_refused(int offset, const char *hex, const char *error)
{
    const GoldenBytes change[] = { { offset, hex }, { -1 } };
    uint8_t buf[QUORUM_STATE_PAGE], bytes[QUORUM_STATE_PAGE];
    QuorumStateLabel label;
    Error *err = NULL;

    g_test_message("%s at %d", hex, offset);
    golden_to_bytes(golden_label, buf);
    golden_to_bytes(change, bytes);
    memcpy(buf + offset, bytes + offset, strlen(hex) / 2);
    naive_set_crc(buf);
    g_assert_false(quorum_state_decode_label(buf, &label, &err));
    g_assert_true(g_str_has_prefix(error_get_pretty(err), error));
    error_free_or_abort(&err);
    g_assert_false(naive_label_is_good(buf));
}

#define NULL_UUID "00000000000000000000000000000000"

static const char magic[] = "damaged: its checksum or its magic";
static const char version[] = "made by a newer version";
static const char values[] = "damaged: its checksum is right, and its";
static const struct {
    int offset;
    const char *hex;
    const char *error;
} impossible_labels[] = {
    { 0,    "514d5151",         magic },
    { 16,   "00000000",         magic },    /* page 0 */
    { 64,   "51454d5551535432", magic },
    { 72,   "00000000",         version },
    { 72,   "02000000",         version },
    { 80,   "0100000000000000", version },  /* incompatible */
    { 80,   "0000000000000080", version },
    { 24,   NULL_UUID,          values },   /* set */
    { 40,   "3031323334353638", values },   /* not the session below */
    { 76,   "bf0b0000",         values },   /* length */
    { 76,   "c10b0000",         values },
    { 96,   NULL_UUID,          values },   /* member */
    { 112,  NULL_UUID,          values },   /* session */
    { 112,  "0000000000000000", values },
    { 392,  "08000000",         values },   /* flags */
    { 392,  "00000080",         values },
    { 396,  "13",               values },   /* intent_shift */
    { 396,  "15",               values },   /* too many bits */
    { 396,  "3f",               values },
    { 396,  "40",               values },
    { 396,  "ff",               values },
    { 397,  "0b",               values },   /* stale_shift */
    { 397,  "11",               values },   /* too many bits */
    { 397,  "17",               values },   /* more than intent_shift */
    { 397,  "00",               values },
    { 397,  "ff",               values },
    { 398,  "2700",             values },   /* capacity */
    { 398,  "2900",             values },
    { 400,  "0000",             values },   /* places */
    { 400,  "0080",             values },
    { 400,  "0001",             values },   /* fewer than the threshold */
    { 402,  "0000",             values },   /* threshold */
    { 402,  "0301",             values },
    { 404,  "0080",             values },   /* old_threshold */
    { 404,  "0000",             values },   /* and flags of records */
    { 416,  "00000000f2000000", values },   /* disk_bytes: > max_bytes */
    { 416,  "ffffffffffffffff", values },
    { 424,  "4444434241000000", values },   /* max_bytes: < disk_bytes */
    { 424,  "ffffffffffffff7f", values },   /* too many bits */
    { 424,  "ffffffffffffffff", values },
    { 424,  "0000000000000080", values },
    { 416,  "0000000000000000"              /* disk_bytes, max_bytes */
            "0000000000000000", values },
    { 448,  NULL_UUID,          values },   /* member of record 0 */
    { 448,  "808182838485868788898a8b8c8d8e8f", values },  /* of 0 and 1 */
    { 464,  "0201",             values },   /* place, of 258 */
    { 464,  "0200",             values },   /* of 0 and 1 */
    { 464,  "ffff",             values },   /* and not removed */
    { 464,  "feff",             values },
    { 464,  "ff7f",             values },
    { 464,  "0080",             values },
    { 466,  "03",               values },   /* removed, from a place */
    { 466,  "04",               values },
    { 466,  "ff",               values },
    { 467,  "10",               values },   /* flags */
    { 467,  "20",               values },
    { 467,  "85",               values },
    { 2963, "08",               values },
    { 2944, "707172737475767778797a7b7c7d7e7f", values }, /* of 0 and 39 */
    { 2960, "feff",             values },   /* place of record 39 */
    { 2960, "0000",             values },
};

static void test_impossible_labels(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(impossible_labels); i++) {
        check_refused(impossible_labels[i].offset, impossible_labels[i].hex,
                      impossible_labels[i].error);
    }
}

static void check_label_refused(const QuorumStateLabel *label)
{
    uint8_t buf[QUORUM_STATE_PAGE];

    quorum_state_encode_label(label, buf);
    g_assert_false(is_label(buf));
}

/* What nothing else is wrong with: few bits, and the header says the same */
static void test_impossible_values(void)
{
    uint8_t buf[QUORUM_STATE_PAGE];
    QuorumStateLabel label, bad;

    random_label(&label);
    label.disk_bytes = 1 * MiB;
    quorum_state_lay_out(&label, label.disk_bytes);
    quorum_state_encode_label(&label, buf);
    g_assert_true(is_label(buf));

    bad = label;
    bad.intent_shift--;
    check_label_refused(&bad);
    bad = label;
    bad.stale_shift--;
    check_label_refused(&bad);
    bad = label;
    memset(&bad.session, 0, sizeof(bad.session));
    check_label_refused(&bad);
    /* It has few bits only if their number overflows. */
    bad = label;
    bad.max_bytes = INT64_MAX;
    check_label_refused(&bad);
    bad.intent_shift = 62;
    check_label_refused(&bad);
}

/* What this version does not know, but may ignore, and bounds that are good */
static void test_possible_labels(void)
{
    static const GoldenBytes cases[] = {
        { 48,   "0102030405060708090a0b0c0d0e0f10" },   /* reserved */
        { 88,   "ffffffffffffffff" },                   /* compatible */
        { 404,  "0100" },                               /* old_threshold */
        { 404,  "ff7f" },
        { 406,  "0102" },                               /* reserved */
        { 432,  NULL_UUID },                            /* digests */
        { 468,  "01020304" },
        { 511,  "ff" },
        { 3008, "ff" },                                 /* after the records */
        { 4095, "ff" },
        { 466,  "00" },                                 /* unused */
        { 464,  "0000" },                               /* place */
        { 402,  "0201" },                               /* threshold: places */
        { 402,  "0100" },
        { 416,  "0000000000000000" },                   /* disk_bytes */
        { 416,  "f5f4f3f2f1000000" },                   /* max_bytes */
        { 396,  "3e" },                                 /* intent_shift */
        { 397,  "16" },
        { 424,  "0000000000010000" },                   /* all bits used */
        { 128,  NULL_UUID },                            /* history */
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const GoldenBytes change[] = { cases[i], { -1 } };
        uint8_t buf[QUORUM_STATE_PAGE], bytes[QUORUM_STATE_PAGE];
        QuorumStateLabel label;

        g_test_message("%s at %d", cases[i].hex, cases[i].offset);
        golden_to_bytes(golden_label, buf);
        golden_to_bytes(change, bytes);
        memcpy(buf + cases[i].offset, bytes + cases[i].offset,
               strlen(cases[i].hex) / 2);
        naive_set_crc(buf);
        g_assert_true(naive_label_is_good(buf));
        g_assert_true(quorum_state_decode_label(buf, &label, &error_abort));
        quorum_state_encode_label(&label, bytes);
        naive_forget_reserved(buf);
        g_assert_cmpmem(buf, sizeof(buf), bytes, sizeof(bytes));
    }
}

static void test_pages(void)
{
    uint8_t buf[QUORUM_STATE_PAGE];
    QuorumStateLabel label, other;
    QuorumStatePage page;

    random_label(&label);
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        label.history[i] = rand_uuid();
    }
    random_page(&label, 9, 5, buf);
    g_assert_true(quorum_state_decode_page(buf, &label, 5, &page));
    g_assert_cmpint(page.seq, ==, 9);
    g_assert_false(quorum_state_decode_page(buf, &label, 4, &page));
    g_assert_false(quorum_state_decode_page(buf, &label, QUORUM_STATE_LABEL,
                                            &page));
    other = label;
    other.layout++;
    g_assert_false(quorum_state_decode_page(buf, &other, 5, &page));
    other = label;
    other.set.data[15] ^= 1;
    g_assert_false(quorum_state_decode_page(buf, &other, 5, &page));
    other = label;
    other.session = rand_uuid();
    g_assert_false(quorum_state_decode_page(buf, &other, 5, &page));

    /* The session is any one of the history, and only there. */
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        QemuUUID old = other.history[i];

        other.history[i] = label.session;
        g_assert_true(quorum_state_decode_page(buf, &other, 5, &page));
        other.history[i] = old;
    }
    g_assert_false(quorum_state_decode_page(buf, &other, 5, &page));

    /* A session without a number is not one of those that never were. */
    memset(label.history, 0, sizeof(label.history));
    other = label;
    memset(&other.session, 0, sizeof(other.session));
    random_page(&other, 9, 5, buf);
    g_assert_false(quorum_state_decode_page(buf, &label, 5, &page));
}

static void test_find(void)
{
    QuorumStateLabel label;
    QemuUUID null = { 0 };

    random_label(&label);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        random_record(&label, k);
    }
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        QemuUUID member = label.records[k].member;

        g_assert_cmpint(quorum_state_find(&label, &member), ==, k);
        label.records[k].status = QUORUM_STATE_UNUSED;
        g_assert_cmpint(quorum_state_find(&label, &member), ==, -1);
    }
    label.records[0].member = null;
    g_assert_cmpint(quorum_state_find(&label, &null), ==, -1);
}

/* --- which label is right --- */

#define SESSIONS 48
#define LABELS   5

/* Sessions, each of which began with what another one has left */
typedef struct Sessions {
    QemuUUID id[SESSIONS];
    int parent[SESSIONS];       /* -1: the first of all */
} Sessions;

static void begin_session(Sessions *s, int i, int parent)
{
    s->id[i] = rand_uuid();
    s->parent[i] = parent;
}

static int count_opens(const Sessions *s, int i)
{
    return i < 0 ? 0 : 1 + count_opens(s, s->parent[i]);
}

static QuorumStateLabel *label_of(const Sessions *s, int i, uint64_t seq)
{
    QuorumStateLabel *label = g_new0(QuorumStateLabel, 1);

    label->session = s->id[i];
    label->opens = count_opens(s, i);
    label->seq = seq;
    label->flags = QUORUM_STATE_BEGUN;
    for (int k = 0, j = s->parent[i]; j >= 0 && k < QUORUM_STATE_HISTORY; k++) {
        label->history[k] = s->id[j];
        j = s->parent[j];
    }
    return label;
}

/* Whether session @a came after @b, or too much later to remember it */
static bool naive_follows(const Sessions *s, int a, int b)
{
    for (int i = a; i >= 0; i = s->parent[i]) {
        if (i == b) {
            return true;
        }
    }
    return count_opens(s, a) > count_opens(s, b) + QUORUM_STATE_HISTORY;
}

/* Check the head of @n labels of the sessions @of, -1 for NULL. */
static void check_head(const Sessions *s, const int *of, const uint64_t *seq,
                       int n)
{
    QuorumStateLabel *labels[LABELS] = { NULL };
    int best = -1, some = -1, head, a = -1, b = -1;

    for (int i = 0; i < n; i++) {
        bool all = of[i] >= 0;

        if (!all) {
            continue;
        }
        some = i;
        labels[i] = label_of(s, of[i], seq[i]);
        for (int j = 0; j < n; j++) {
            all &= of[j] < 0 || (of[i] == of[j] ? seq[i] >= seq[j]
                                                : naive_follows(s, of[i],
                                                                of[j]));
        }
        best = all ? i : best;
    }

    head = quorum_state_head(labels, n, &a, &b);
    if (best >= 0) {
        /* Which of those that are the same is all one. */
        g_assert_cmpint(head, >=, 0);
        g_assert_cmpint(of[head], ==, of[best]);
        g_assert_cmpint(seq[head], ==, seq[best]);
    } else if (some < 0) {
        g_assert_cmpint(head, ==, -1);
    } else {
        g_assert_cmpint(head, ==, -2);
        g_assert_true(a >= 0 && a < n && labels[a]);
        g_assert_true(b >= 0 && b < n && labels[b]);
        g_assert_false(naive_follows(s, of[a], of[b]));
        g_assert_false(naive_follows(s, of[b], of[a]));
    }
    for (int i = 0; i < n; i++) {
        g_free(labels[i]);
    }
}

/* In any order */
static void check_heads(const Sessions *s, int *of, uint64_t *seq, int n, int k)
{
    if (k == n) {
        check_head(s, of, seq, n);
    }
    for (int i = k; i < n; i++) {
        int o = of[i];
        uint64_t q = seq[i];

        of[i] = of[k];
        seq[i] = seq[k];
        of[k] = o;
        seq[k] = q;
        check_heads(s, of, seq, n, k + 1);
        of[k] = of[i];
        seq[k] = seq[i];
        of[i] = o;
        seq[i] = q;
    }
}

/* @labels as "3.1 5 -": session 3 with seq 1, session 5, none */
static int head_of(const Sessions *s, const char *text, int *a, int *b)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    QuorumStateLabel *labels[LABELS] = { NULL };
    int n = g_strv_length(words);
    int head;

    for (int i = 0; i < n; i++) {
        const char *dot = strchr(words[i], '.');

        if (*words[i] != '-') {
            labels[i] = label_of(s, atoi(words[i]), dot ? atoi(dot + 1) : 0);
        }
    }
    head = quorum_state_head(labels, n, a, b);
    for (int i = 0; i < n; i++) {
        g_free(labels[i]);
    }
    return head;
}

static void test_head(void)
{
    /* 0 to 39 are a chain; 40 and 41 have left it after 10, and so has 42. */
    static const struct {
        const char *labels;
        int head;
        int a;
        int b;
    } cases[] = {
        { "-",              -1 },
        { "- - -",          -1 },
        { "0",              0 },
        { "- 39",           1 },
        { "5.3 5.4 5.2",    1 },
        { "5.9 6.0",        1 },
        { "6.0 5.9",        0 },
        { "3 5 4",          1 },
        { "5 - 3",          0 },
        { "20 4",           0 },
        { "20 3",           0 },                /* forgotten */
        { "3 20",           1 },
        { "0 20 39",        2 },
        { "39 0 20",        0 },
        { "10 40",          1 },
        { "40 41 3",        1 },
        { "40 42",          -2, 0, 1 },
        { "42 40",          -2, 0, 1 },
        { "42 3 41",        -2, 0, 2 },
        { "3 42 41",        -2, 1, 2 },
        { "11 40",          -2, 0, 1 },
        { "27 40",          -2, 0, 1 },         /* 16 sessions later */
        { "40 27",          -2, 0, 1 },
        { "28 40",          0 },                /* 17 */
        { "40 28",          1 },
        { "41 28",          -2, 0, 1 },
        { "40 39 42",       1 },
    };
    Sessions s;

    for (int i = 0; i < 40; i++) {
        begin_session(&s, i, i - 1);
    }
    begin_session(&s, 40, 10);
    begin_session(&s, 41, 40);
    begin_session(&s, 42, 10);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int a = 0, b = 0;

        g_test_message("%s", cases[i].labels);
        g_assert_cmpint(head_of(&s, cases[i].labels, &a, &b), ==,
                        cases[i].head);
        g_assert_cmpint(a, ==, cases[i].a);
        g_assert_cmpint(b, ==, cases[i].b);
    }
    g_assert_cmpint(quorum_state_head(NULL, 0, NULL, NULL), ==, -1);
}

/* Any sessions, any labels of them, in any order */
static void test_head_random(void)
{
    for (int round = 0; round < 2000; round++) {
        int n = g_test_rand_int_range(1, LABELS + 1);
        int forks = g_test_rand_int_range(0, 4);
        uint64_t seq[LABELS];
        int of[LABELS];
        Sessions s;

        for (int i = 0; i < SESSIONS; i++) {
            bool fork = i && g_test_rand_int_range(0, SESSIONS) < forks;

            begin_session(&s, i, fork ? g_test_rand_int_range(0, i) : i - 1);
        }
        for (int i = 0; i < n; i++) {
            of[i] = g_test_rand_int_range(-1, SESSIONS);
            if (i && rand_bool()) {
                of[i] = of[i - 1];
            }
            seq[i] = g_test_rand_int_range(0, 3);
        }
        check_heads(&s, of, seq, n, 0);
    }
}

/* Numbers of sessions that no quorum reaches are no reason to forget one. */
static void test_head_many_opens(void)
{
    QuorumStateLabel old = {
        .opens = 40, .session = rand_uuid(), .flags = QUORUM_STATE_BEGUN,
    };
    QuorumStateLabel new = {
        .opens = UINT64_MAX, .session = rand_uuid(),
        .flags = QUORUM_STATE_BEGUN,
    };
    QuorumStateLabel *labels[] = { &old, &new };
    int a = -1, b = -1;

    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), ==, 1);
    labels[0] = &new;
    labels[1] = &old;
    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), ==, 0);
    old.opens = UINT64_MAX - 3;
    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), ==, -2);
}

/* A session that died before it had begun is in no one's way. */
static void test_head_not_begun(void)
{
    QuorumStateLabel *labels[2];
    int a = -1, b = -1;
    Sessions s;

    for (int i = 0; i < 3; i++) {
        begin_session(&s, i, i - 1);
    }
    begin_session(&s, 3, 0);
    labels[0] = label_of(&s, 2, 9);
    labels[1] = label_of(&s, 3, 10);
    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), ==, -2);
    labels[1]->flags = 0;
    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), ==, 0);
    labels[0]->flags = 0;
    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), >=, 0);
    g_free(labels[1]);

    /* Alone, it is the next one. */
    labels[1] = label_of(&s, 1, 11);
    labels[0]->flags = 0;
    g_assert_cmpint(quorum_state_head(labels, 2, &a, &b), ==, 0);
    g_free(labels[0]);
    g_free(labels[1]);
}

static void test_knows(void)
{
    QuorumStateLabel label;
    QemuUUID session = rand_uuid();

    random_label(&label);
    g_assert_true(quorum_state_knows(&label, &label.session));
    g_assert_false(quorum_state_knows(&label, &session));
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        QemuUUID old = label.history[i];

        label.history[i] = session;
        g_assert_true(quorum_state_knows(&label, &session));
        label.history[i] = old;
    }
    label.session.data[15] ^= 1;
    session = label.session;
    label.session.data[15] ^= 1;
    g_assert_false(quorum_state_knows(&label, &session));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/quorum/state/golden/label", test_golden_label);
    g_test_add_func("/quorum/state/golden/page", test_golden_page);
    g_test_add_func("/quorum/state/crc", test_crc);
    g_test_add_func("/quorum/state/round-trip", test_round_trip);
    g_test_add_func("/quorum/state/flipped-bits", test_flipped_bits);
    g_test_add_func("/quorum/state/torn", test_torn);
    g_test_add_func("/quorum/state/blank", test_blank);
    g_test_add_func("/quorum/state/layout", test_layout);
    g_test_add_func("/quorum/state/granularity", test_granularity);
    g_test_add_func("/quorum/state/labels/impossible", test_impossible_labels);
    g_test_add_func("/quorum/state/labels/values", test_impossible_values);
    g_test_add_func("/quorum/state/labels/possible", test_possible_labels);
    g_test_add_func("/quorum/state/pages", test_pages);
    g_test_add_func("/quorum/state/find", test_find);
    g_test_add_func("/quorum/state/head/cases", test_head);
    g_test_add_func("/quorum/state/head/random", test_head_random);
    g_test_add_func("/quorum/state/head/not-begun", test_head_not_begun);
    g_test_add_func("/quorum/state/head/many-opens", test_head_many_opens);
    g_test_add_func("/quorum/state/knows", test_knows);
    return g_test_run();
}
