/*
 * Fuzzing: the format of the quorum driver's state nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The input changes a good label, another one and a page.  It begins with a
 * byte that says how; the rest are changes: two bytes for what and where, one
 * for how many bytes, and these.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "fuzz.h"
#include "quorum-state-naive.h"

/* Bits of the first byte */
#define FIX_CRC     0x01        /* make the checksums right at last */
#define EMPTY       0x02        /* change nothing but zeroes */
#define SAME_MEMBER 0x04        /* the second label begins as the first */
#define OWN_NUMBER  0x08        /* ask for the page that it says it is */

enum { LABEL, OTHER, MAP, PAGES };

static void good_label(uint8_t *buf, int which)
{
    QuorumStateLabel label = {
        .set.data = { 1 },
        .member.data = { 2, which },
        .session.data = { 3, which },
        .history[0].data = { 3, which + 1 },
        .history[1].data = { 3, which + 2 },
        .opens = 20 - which,
        .seq = 8 - which,
        .layout = 5,
        .places = 3,
        .threshold = 2,
        .config = 6,
        .disk_bytes = 1 << 20,
    };

    quorum_state_lay_out(&label, label.disk_bytes);
    for (int k = 0; k < 3; k++) {
        label.records[k] = (QuorumStateRecord) {
            .member.data = { 2, k },
            .place = k,
            .status = k < 2 ? QUORUM_STATE_MEMBER : QUORUM_STATE_REBUILDING,
            .flags = k,
        };
    }
    label.records[3] = (QuorumStateRecord) {
        .member.data = { 2, 3 },
        .place = -1,
        .status = QUORUM_STATE_REMOVED,
    };
    quorum_state_encode_label(&label, buf);
}

static void good_page(uint8_t *buf)
{
    QuorumStatePage page = {
        .number = 0,
        .layout = 5,
        .seq = 7,
        .set.data = { 1 },
        .session = UINT64_C(3) << 56,
    };

    memset(buf, 0, QUORUM_STATE_PAGE);
    quorum_state_encode_page(&page, buf);
}

static void check_layout(const QuorumStateLabel *label)
{
    uint32_t intent = quorum_state_intent_pages(label);
    uint32_t stale = quorum_state_stale_pages(label);
    uint32_t pages = intent + QUORUM_STATE_RECORDS * stale;
    uint64_t intent_bits = naive_count(label->max_bytes, label->intent_shift);
    uint64_t stale_bits = naive_count(label->max_bytes, label->stale_shift);

    g_assert_cmpint(intent, ==, (intent_bits + 32255) / 32256);
    g_assert_cmpint(stale, ==, (stale_bits + 32255) / 32256);
    g_assert_true(intent >= 1 && intent <= 9);
    g_assert_true(stale >= 1 && stale <= 131);
    g_assert_cmpint(quorum_state_pages(label), ==, pages);
    g_assert_cmpint(quorum_state_size(label), ==, INT64_C(8192) * (1 + pages));
}

/* The label at @buf to @label, if there is one. */
static bool check_label(const uint8_t *buf, QuorumStateLabel *label)
{
    uint8_t again[QUORUM_STATE_PAGE], known[QUORUM_STATE_PAGE];
    QuorumStateLabel second;
    Error *err = NULL;
    bool good = quorum_state_decode_label(buf, label, &err);

    g_assert_true(good == naive_label_is_good(buf));
    g_assert_true(good == !err);
    error_free(err);
    if (!good) {
        return false;
    }
    memset(again, 0xff, sizeof(again));
    quorum_state_encode_label(label, again);
    memcpy(known, buf, sizeof(known));
    naive_forget_reserved(known);
    g_assert_cmpmem(again, sizeof(again), known, sizeof(known));
    g_assert_true(quorum_state_decode_label(again, &second, &error_abort));

    check_layout(label);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (label->records[k].status) {
            g_assert_cmpint(quorum_state_find(label,
                                              &label->records[k].member), ==,
                            k);
        }
    }
    return true;
}

static void check_page(const uint8_t *buf, const uint8_t *label_buf,
                       const QuorumStateLabel *label, uint32_t number)
{
    uint8_t again[QUORUM_STATE_PAGE], known[QUORUM_STATE_PAGE];
    QuorumStatePage page;
    bool good = quorum_state_decode_page(buf, label, number, &page);

    g_assert_true(good == naive_page_is_good(buf, label_buf, number));
    if (good) {
        memcpy(again, buf, sizeof(again));
        quorum_state_encode_page(&page, again);
        memcpy(known, buf, sizeof(known));
        memset(known + 48, 0, 16);
        naive_set_crc(known);
        g_assert_cmpmem(again, sizeof(again), known, sizeof(known));
    }
}

/* Two labels, the second one behind a node that has none */
static void check_head(QuorumStateLabel *x, const uint8_t *x_buf,
                       QuorumStateLabel *y, const uint8_t *y_buf)
{
    QuorumStateLabel *labels[] = { x, NULL, y };
    bool x_follows = naive_label_follows(x_buf, y_buf);
    bool y_follows = naive_label_follows(y_buf, x_buf);
    bool x_begun = x->flags & QUORUM_STATE_BEGUN;
    bool y_begun = y->flags & QUORUM_STATE_BEGUN;
    int a = -1, b = -1;
    int head = quorum_state_head(labels, ARRAY_SIZE(labels), &a, &b);

    if (x_begun && y_begun) {
        g_assert_cmpint(head, ==, y_follows ? 2 : x_follows ? 0 : -2);
    } else if (y_begun) {
        g_assert_cmpint(head, ==, x_follows ? 0 : 2);
    } else {
        g_assert_cmpint(head, ==, y_follows ? 2 : 0);
    }
    g_assert_cmpint(a, ==, head == -2 ? 0 : -1);
    g_assert_cmpint(b, ==, head == -2 ? 2 : -1);
    g_assert_true(quorum_state_knows(x, &x->session));
    g_assert_true(quorum_state_knows(x, &y->session) ==
                  naive_knows(x_buf, y->session.data));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t pages[PAGES][QUORUM_STATE_PAGE] = { 0 };
    QuorumStateLabel label, other;
    uint8_t how = fuzz_byte(&in);
    bool is_label, is_other;

    if (!(how & EMPTY)) {
        good_label(pages[LABEL], 0);
        good_label(pages[OTHER], !(how & SAME_MEMBER));
        good_page(pages[MAP]);
    }
    while (in.left) {
        fuzz_change_page(&in, pages, PAGES);
    }
    for (int i = 0; i < PAGES && how & FIX_CRC; i++) {
        naive_set_crc(pages[i]);
    }

    is_label = check_label(pages[LABEL], &label);
    is_other = check_label(pages[OTHER], &other);
    if (is_label) {
        check_page(pages[MAP], pages[LABEL], &label,
                   how & OWN_NUMBER ? ldl_le_p(pages[MAP] + 16) : 0);
    }
    if (is_label && is_other) {
        check_head(&label, pages[LABEL], &other, pages[OTHER]);
    }
    return 0;
}
