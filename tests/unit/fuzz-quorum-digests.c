/*
 * Fuzzing: the format of the quorum driver's node of digests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The input changes a node that has two good headers and a page.  It begins
 * with a byte that says how; the rest are changes: two bytes for what and
 * where, one for how many bytes, and these.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "fuzz.h"
#include "quorum-digests-naive.h"

/* Bits of the first byte */
#define FIX_CRC     0x01        /* make the checksums right at last */
#define EMPTY       0x02        /* change nothing but zeroes */
#define NO_SECOND   0x04        /* begin with only one header */
#define OWN_NUMBER  0x08        /* ask for the page that it says it is */

enum { HEADER, SECOND, PAGE, PAGES };

static void good_header(uint8_t *buf, int which)
{
    QuorumDigestsHeader header = {
        .seq = 7 + which,
        .set.data = { 1 },
        .stamp.data = { 2, which },
        .previous.data = { 2, which - 1 },
        .page_key = 3,
        .disk_bytes = 1 << 20,
    };

    quorum_digests_encode_header(&header, buf);
}

static void good_page(uint8_t *buf)
{
    uint64_t digests[QUORUM_DIGESTS_UNITS] = { 0, 1, 3, 4, [511] = 5 };

    quorum_digests_encode_page(0, 3, digests, buf);
}

static void check_headers(const uint8_t *buf, size_t bytes)
{
    uint8_t again[QUORUM_DIGESTS_PAGE], known[QUORUM_DIGESTS_PAGE];
    QuorumDigestsFound found;
    QuorumDigestsHeader header;
    Error *err = NULL;
    int next, place;

    found = quorum_digests_find_header(buf, bytes, &header, &next, &err);
    g_assert_true((found == QUORUM_DIGESTS_ALIEN) == !!err);
    error_free(err);
    g_assert_cmpint(found, ==, naive_digests_find(buf, bytes, &place));
    if (found != QUORUM_DIGESTS_GOOD) {
        g_assert_true(naive_is_zero((uint8_t *)&header, sizeof(header)));
        return;
    }
    g_assert_cmpint(next, ==, !place);
    quorum_digests_encode_header(&header, again);
    memcpy(known, buf + place * QUORUM_DIGESTS_PAGE, sizeof(known));
    naive_digests_forget_reserved(known);
    g_assert_cmpmem(again, sizeof(again), known, sizeof(known));
    g_assert_cmpint(quorum_digests_size(header.disk_bytes) - 1, >=,
                    header.disk_bytes / 512);
}

static void check_page(const uint8_t *buf, uint64_t number)
{
    uint64_t digests[QUORUM_DIGESTS_UNITS];
    bool good = quorum_digests_decode_page(buf, number, 3, digests);

    g_assert_true(good == (naive_digests_is_page(buf, number) &&
                           ldq_le_p(buf + 16) == 3));
    for (int i = 0; i < QUORUM_DIGESTS_UNITS; i++) {
        g_assert_cmphex(digests[i], ==, good ? naive_digests_of(buf, i) : 0);
    }
    if (good) {
        uint8_t again[QUORUM_DIGESTS_PAGE];

        quorum_digests_encode_page(number, 3, digests, again);
        g_assert_true(naive_digests_is_page(again, number));
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t pages[PAGES][QUORUM_DIGESTS_PAGE] = { 0 };
    uint8_t how = fuzz_byte(&in);

    if (!(how & EMPTY)) {
        good_header(pages[HEADER], 0);
        good_page(pages[PAGE]);
        if (!(how & NO_SECOND)) {
            good_header(pages[SECOND], 1);
        }
    }
    while (in.left) {
        fuzz_change_page(&in, pages, PAGES);
    }
    for (int i = 0; i < PAGES && how & FIX_CRC; i++) {
        naive_set_crc(pages[i]);
    }
    check_headers(pages[0], sizeof(pages));
    check_page(pages[PAGE], how & OWN_NUMBER ? ldq_le_p(pages[PAGE] + 8) : 0);
    return 0;
}
