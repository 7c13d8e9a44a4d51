/*
 * Fuzzing: the quorum driver's voting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The input is the threshold, the length of the answers, and for each child a
 * byte that says where its answer comes from, with the answer if it is new.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/quorum/vote.h"
#include "fuzz.h"
#include "quorum-vote-naive.h"

#define MAX_CHILDREN 16
#define MAX_BYTES 64

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return !quorum_vote_init(&error_abort);
}

static void check_data(const uint8_t *const *data, const bool *sure, int n,
                       size_t bytes, int threshold)
{
    char letters[MAX_CHILDREN + 1] = "";
    int version[MAX_CHILDREN];
    int winner, members, count = 0;
    bool vouched = false;

    for (int i = 0; i < n; i++) {
        int first = 0;

        while (data[i] &&
               (!data[first] || memcmp(data[first], data[i], bytes))) {
            first++;
        }
        letters[i] = data[i] ? 'a' + first : '.';
    }

    quorum_group_data(data, n, bytes, version);
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(version[i], ==,
                        data[i] ? letters[i] - 'a' : QUORUM_NO_VERSION);
    }
    winner = quorum_winner(version, n, threshold, NULL, &members);
    g_assert_cmpint(winner, ==, naive_winner(letters, threshold));
    g_assert_cmpint(quorum_winner(version, n, threshold, NULL, NULL), ==,
                    winner);
    for (int i = 0; i < n; i++) {
        count += winner >= 0 && letters[i] == letters[winner];
        vouched |= winner >= 0 && letters[i] == letters[winner] && sure[i];
    }
    g_assert_cmpint(members, ==, count);
    g_assert_cmpint(quorum_winner(version, n, threshold, sure, &members), ==,
                    vouched ? winner : QUORUM_NO_VERSION);
    g_assert_cmpint(members, ==, vouched ? count : 0);
}

static int count_value(const int64_t *values, int n, int64_t value)
{
    int count = 0;

    for (int i = 0; i < n; i++) {
        count += values[i] == value;
    }
    return count;
}

static void check_values(const int64_t *values, int n)
{
    int version[MAX_CHILDREN];
    int error = quorum_vote_errno(values, n);
    int first = 0;

    quorum_group_values(values, n, version);
    for (int i = 0; i < n; i++) {
        int j = 0;

        while (values[j] != values[i]) {
            j++;
        }
        g_assert_cmpint(version[i], ==, values[i] < 0 ? QUORUM_NO_VERSION : j);
    }

    while (first < n && values[first] != error) {
        first++;
    }
    for (int i = 0; i < n; i++) {
        int count = count_value(values, n, values[i]);

        if (values[i] < 0) {
            g_assert_cmpint(first, <, n);
            g_assert_cmpint(count - (i < first), <,
                            count_value(values, n, error) + (i >= first));
        }
    }
    g_assert_true(first < n || error == -EIO);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    FuzzInput in = { input, size };
    int threshold = 1 + fuzz_below(&in, MAX_CHILDREN);
    size_t bytes = 1 + fuzz_below(&in, MAX_BYTES);
    uint8_t *data[MAX_CHILDREN] = { NULL };
    int64_t values[MAX_CHILDREN];
    bool sure[MAX_CHILDREN];
    int n = 0;

    while (n < MAX_CHILDREN && (in.left || !n)) {
        uint8_t what = fuzz_byte(&in);
        const uint8_t *old = n ? data[what % n] : NULL;

        /* An error, what another one said, the same but for a bit, or new */
        if (what >= 0x40 && what < 0xc0) {
            data[n] = g_memdup2(old, bytes);
            if (what >= 0x80 && old) {
                data[n][fuzz_byte(&in) % bytes] ^= 1 << (what / 16 % 8);
            }
        } else if (what >= 0xc0) {
            data[n] = g_malloc(bytes);
            for (size_t i = 0; i < bytes; i++) {
                data[n][i] = fuzz_byte(&in);
            }
        }
        /* Errors and lengths; some that are equal in their lower half */
        values[n] = (int8_t)what / 8;
        if (values[n] >= 0) {
            values[n] <<= what % 2 * 32;
        }
        sure[n] = what % 3;
        n++;
    }
    threshold = MIN(threshold, n);

    check_data((const uint8_t *const *)data, sure, n, bytes, threshold);
    check_values(values, n);
    for (int i = 0; i < n; i++) {
        g_free(data[i]);
    }
    return 0;
}
