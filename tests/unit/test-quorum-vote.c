/*
 * Unit tests of the quorum driver's voting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/quorum/vote.h"
#include "quorum-vote-naive.h"

#define MAX_CHILDREN 9

/*
 * Answers are written as letters, '.' for a child without one: "aab." is three
 * children of which the first two agree, and one that failed.
 */
static int vote(const char *answers, int threshold, int *members)
{
    int n = strlen(answers);
    uint8_t bytes[MAX_CHILDREN];
    const uint8_t *data[MAX_CHILDREN] = { NULL };
    int version[MAX_CHILDREN];

    for (int i = 0; i < n; i++) {
        bytes[i] = answers[i];
        data[i] = answers[i] == '.' ? NULL : &bytes[i];
    }
    quorum_group_data(data, n, 1, version);
    for (int i = 0; i < n; i++) {
        const char *first = strchr(answers, answers[i]);

        g_assert_cmpint(version[i], ==,
                        answers[i] == '.' ? QUORUM_NO_VERSION
                                          : first - answers);
    }
    return quorum_winner(version, n, threshold, NULL, members);
}

static void test_winner(void)
{
    static const struct {
        const char *answers;
        int threshold;
        int winner;
        int members;
    } cases[] = {
        /* one child */
        { "a",         1,  0, 1 },
        { ".",         1, -1, 0 },
        /* all alike, all different */
        { "aaa",       2,  0, 3 },
        { "abc",       2, -1, 0 },
        { "abc",       1, -1, 0 },
        /* one liar, in each place */
        { "baa",       2,  1, 2 },
        { "aba",       2,  0, 2 },
        { "aab",       2,  0, 2 },
        /* errors have no vote */
        { ".aa",       2,  1, 2 },
        { "a.b",       2, -1, 0 },
        { "a..",       2, -1, 0 },
        { "...",       1, -1, 0 },
        /* threshold 1 and N */
        { "a..",       1,  0, 1 },
        { "ab.",       1, -1, 0 },
        { "aab",       1,  0, 2 },
        { "aab",       3, -1, 0 },
        { "aaa",       3,  0, 3 },
        /* ties have no winner, whoever comes first or last */
        { "ab",        1, -1, 0 },
        { "aabb",      2, -1, 0 },
        { "abab",      2, -1, 0 },
        { "abba",      1, -1, 0 },
        { "aabbc",     2, -1, 0 },
        { "caabb",     2, -1, 0 },
        { "aabbcc",    2, -1, 0 },
        /* a tie that a later version breaks, and one behind the winner */
        { "aabbccc",   2,  4, 3 },
        { "cccaabb",   2,  0, 3 },
        /* nine children */
        { "aaaaabbbb", 5,  0, 5 },
        { "babababab", 5,  0, 5 },
        { "abcdefghi", 1, -1, 0 },
        { "aaaabbbbc", 4, -1, 0 },
        { "aaaabbbbc", 5, -1, 0 },
        { "....aaaaa", 5,  4, 5 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int members = 1234;

        g_test_message("%s, threshold %d", cases[i].answers,
                       cases[i].threshold);
        g_assert_cmpint(vote(cases[i].answers, cases[i].threshold, &members),
                        ==, cases[i].winner);
        g_assert_cmpint(members, ==, cases[i].members);
        g_assert_cmpint(vote(cases[i].answers, cases[i].threshold, NULL),
                        ==, cases[i].winner);
    }
}

/* Every vote there is: up to six children, four versions and errors. */
static void test_winner_exhaustive(void)
{
    static const char letters[] = "abcd.";

    for (int n = 1; n <= 6; n++) {
        int total = 1;

        for (int i = 0; i < n; i++) {
            total *= 5;
        }
        for (int v = 0; v < total; v++) {
            char answers[7] = "";

            for (int i = 0, rest = v; i < n; i++, rest /= 5) {
                answers[i] = letters[rest % 5];
            }
            for (int threshold = 1; threshold <= n; threshold++) {
                int expected = naive_winner(answers, threshold);

                if (vote(answers, threshold, NULL) != expected) {
                    g_test_message("%s, threshold %d: expected %d", answers,
                                   threshold, expected);
                    g_test_fail();
                    return;
                }
            }
        }
    }
}

/* A single bit, anywhere in a long answer, makes another version. */
static void test_group_data_bits(void)
{
    static const size_t sizes[] = { 1, 2, 511, 512, 4095, 4096 };

    for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
        size_t size = sizes[s];
        g_autofree uint8_t *a = g_malloc(size);
        g_autofree uint8_t *b = g_malloc(size);
        g_autofree uint8_t *c = g_malloc(size);
        const uint8_t *data[] = { a, NULL, b, c };
        int version[4];

        for (size_t i = 0; i < size; i++) {
            a[i] = b[i] = c[i] = g_test_rand_int();
        }
        for (int round = 0; round < 100; round++) {
            size_t bit = g_test_rand_int_range(0, size * 8);

            b[bit / 8] ^= 1 << bit % 8;
            quorum_group_data(data, 4, size, version);
            g_assert_cmpint(version[0], ==, 0);
            g_assert_cmpint(version[1], ==, QUORUM_NO_VERSION);
            g_assert_cmpint(version[2], ==, 2);
            g_assert_cmpint(version[3], ==, 0);

            b[bit / 8] ^= 1 << bit % 8;
            quorum_group_data(data, 4, size, version);
            g_assert_cmpint(version[2], ==, 0);
        }
    }
}

static void test_group_values(void)
{
    int64_t values[] = { 0, -EIO, 5LL << 40, 0, -EIO, 5LL << 40, 7 };
    int version[ARRAY_SIZE(values)];
    int expected[] = { 0, -1, 2, 0, -1, 2, 6 };

    quorum_group_values(values, ARRAY_SIZE(values), version);
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        g_assert_cmpint(version[i], ==, expected[i]);
    }
    g_assert_cmpint(quorum_winner(version, ARRAY_SIZE(values), 2, NULL, NULL),
                    ==, -1);
    values[6] = 0;
    quorum_group_values(values, ARRAY_SIZE(values), version);
    g_assert_cmpint(quorum_winner(version, ARRAY_SIZE(values), 2, NULL, NULL),
                    ==, 0);
}

/* All values of up to five children, of which three are lengths: by sorting. */
static void test_nth_largest(void)
{
    static const int64_t lengths[] = { -EIO, -ENOMEDIUM, 0, 512, 5LL << 40 };

    for (int n = 1; n <= 5; n++) {
        int total = 1;

        for (int i = 0; i < n; i++) {
            total *= ARRAY_SIZE(lengths);
        }
        for (int v = 0; v < total; v++) {
            int64_t values[5];
            int count[ARRAY_SIZE(lengths)] = { 0 };

            for (int i = 0, rest = v; i < n; i++, rest /= 5) {
                values[i] = lengths[rest % 5];
                count[rest % 5]++;
            }
            for (int nth = 1; nth <= n; nth++) {
                int largest = ARRAY_SIZE(lengths) - 1;

                for (int left = nth; (left -= count[largest]) > 0; ) {
                    largest--;
                }
                g_assert_cmpint(quorum_nth_largest(values, n, nth), ==,
                                MAX(lengths[largest], -1));
            }
        }
    }
}

static void test_errno(void)
{
    g_assert_cmpint(quorum_vote_errno((int64_t[]) { 0, 0 }, 2), ==, -EIO);
    g_assert_cmpint(quorum_vote_errno((int64_t[]) { -ENOSPC }, 1), ==,
                    -ENOSPC);
    g_assert_cmpint(quorum_vote_errno((int64_t[]) {
                        0, -EIO, -ENOSPC, -ENOSPC, 7 }, 5), ==, -ENOSPC);
    /* equally common: the first */
    g_assert_cmpint(quorum_vote_errno((int64_t[]) {
                        0, -EPIPE, -ENOSPC, -ENOSPC, -EPIPE }, 5), ==, -EPIPE);
    g_assert_cmpint(quorum_vote_errno((int64_t[]) {
                        -EIO, -EPIPE, -EPERM }, 3), ==, -EIO);
}

/* Those who may all have lost the same can't win, but are in the way. */
static void test_sure(void)
{
    const bool sure[] = { true, false, false, false };
    int versions[] = { 0, 0, 2, 2 };
    int members;

    g_assert_cmpint(quorum_winner(versions, 3, 2, sure, &members), ==, 0);
    g_assert_cmpint(members, ==, 2);
    /* Two unsure children and a sure one that says something else */
    versions[1] = versions[2] = 1;
    g_assert_cmpint(quorum_winner(versions, 3, 2, sure, &members), ==,
                    QUORUM_NO_VERSION);
    g_assert_cmpint(members, ==, 0);
    g_assert_cmpint(quorum_winner(versions, 3, 1, sure, NULL), ==,
                    QUORUM_NO_VERSION);
    g_assert_cmpint(quorum_winner(versions, 3, 2, NULL, NULL), ==, 1);
    /* A child without an answer is sure of nothing. */
    versions[0] = QUORUM_NO_VERSION;
    g_assert_cmpint(quorum_winner(versions, 3, 2, sure, NULL), ==,
                    QUORUM_NO_VERSION);
}

/* The most common one; of a tie, the first. */
static void test_most_common(void)
{
    static const struct {
        int version[5];
        int which;
        int members;
    } cases[] = {
        { { 0, 1, 1, 0, 1 },        1, 3 },
        { { 0, 1, 1, 0, -1 },       0, 2 },
        { { -1, 1, 2, 2, 1 },       1, 2 },
        { { -1, -1, -1, 3, -1 },    3, 1 },
        { { -1, -1, -1, -1, -1 },   QUORUM_NO_VERSION, 0 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int members;

        g_assert_cmpint(quorum_most_common(cases[i].version, 5, &members), ==,
                        cases[i].which);
        g_assert_cmpint(members, ==, cases[i].members);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_true(quorum_vote_init(&error_abort));

    g_test_add_func("/quorum/vote/most-common", test_most_common);
    g_test_add_func("/quorum/vote/winner", test_winner);
    g_test_add_func("/quorum/vote/winner/exhaustive", test_winner_exhaustive);
    g_test_add_func("/quorum/vote/group-data/bits", test_group_data_bits);
    g_test_add_func("/quorum/vote/group-values", test_group_values);
    g_test_add_func("/quorum/vote/nth-largest", test_nth_largest);
    g_test_add_func("/quorum/vote/errno", test_errno);
    g_test_add_func("/quorum/vote/sure", test_sure);
    return g_test_run();
}
