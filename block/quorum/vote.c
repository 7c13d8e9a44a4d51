/*
 * Quorum block driver: voting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "vote.h"

#define DIGEST_ALGO QCRYPTO_HASH_ALGO_SHA256
#define DIGEST_LEN QCRYPTO_HASH_DIGEST_LEN_SHA256

bool quorum_vote_init(Error **errp)
{
    if (!qcrypto_hash_supports(DIGEST_ALGO)) {
        error_setg(errp, "This build has no SHA-256 hash support, "
                   "which the quorum driver needs for voting");
        return false;
    }
    return true;
}

static bool quorum_all_alike(const uint8_t *const *data, int n, size_t bytes)
{
    const uint8_t *first = NULL;

    for (int i = 0; i < n; i++) {
        if (!first) {
            first = data[i];
        } else if (data[i] && memcmp(first, data[i], bytes)) {
            return false;
        }
    }
    return true;
}

void quorum_group_data(const uint8_t *const *data, int n, size_t bytes,
                       int *version)
{
    bool alike = quorum_all_alike(data, n, bytes);
    g_autofree uint8_t *digests = alike ? NULL : g_new(uint8_t, n * DIGEST_LEN);

    for (int i = 0; i < n; i++) {
        uint8_t *digest = alike ? NULL : digests + i * DIGEST_LEN;
        size_t digest_len = DIGEST_LEN;

        version[i] = QUORUM_NO_VERSION;
        if (!data[i]) {
            continue;
        }
        if (!alike &&
            qcrypto_hash_bytes(DIGEST_ALGO, (const char *)data[i], bytes,
                               &digest, &digest_len, NULL) < 0) {
            continue;   /* without a digest it can't be compared: no vote */
        }

        version[i] = i;
        for (int j = 0; j < i; j++) {
            if (version[j] == j &&
                (alike ||
                 !memcmp(digest, digests + j * DIGEST_LEN, DIGEST_LEN))) {
                version[i] = j;
                break;
            }
        }
    }
}

void quorum_group_values(const int64_t *values, int n, int *version)
{
    for (int i = 0; i < n; i++) {
        version[i] = QUORUM_NO_VERSION;
        for (int j = 0; j <= i && values[i] >= 0; j++) {
            if (values[j] == values[i]) {
                version[i] = j;
                break;
            }
        }
    }
}

static int quorum_count_members(const int *version, int n, int which)
{
    int members = 0;

    for (int i = 0; i < n; i++) {
        members += version[i] == which;
    }
    return members;
}

static bool quorum_is_vouched(const int *version, int n, int which,
                              const bool *sure)
{
    for (int i = 0; i < n && sure; i++) {
        if (version[i] == which && sure[i]) {
            return true;
        }
    }
    return !sure;
}

int quorum_winner(const int *version, int n, int threshold, const bool *sure,
                  int *members)
{
    int winner = QUORUM_NO_VERSION;
    int most = 0;

    assert(threshold >= 1);
    for (int i = 0; i < n; i++) {
        int count;

        if (version[i] != i) {
            continue;       /* no answer, or not the first with this one */
        }
        count = quorum_count_members(version, n, i);
        if (count > most) {
            most = count;
            winner = i;
        } else if (count == most) {
            winner = QUORUM_NO_VERSION;     /* so far, it is a tie */
        }
    }

    if (most < threshold ||
        (winner >= 0 && !quorum_is_vouched(version, n, winner, sure))) {
        winner = QUORUM_NO_VERSION;
    }
    if (members) {
        *members = winner == QUORUM_NO_VERSION ? 0 : most;
    }
    return winner;
}

int quorum_most_common(const int *version, int n, int *members)
{
    int which = QUORUM_NO_VERSION;

    *members = 0;
    for (int i = 0; i < n; i++) {
        int count = version[i] == i ? quorum_count_members(version, n, i) : 0;

        if (count > *members) {
            *members = count;
            which = i;
        }
    }
    return which;
}

int64_t quorum_nth_largest(const int64_t *values, int n, int nth)
{
    int64_t largest = -1;

    assert(nth >= 1);
    for (int i = 0; i < n; i++) {
        int reach = 0;

        for (int j = 0; j < n; j++) {
            reach += values[j] >= values[i];
        }
        if (reach >= nth) {
            largest = MAX(largest, values[i]);
        }
    }
    return MAX(largest, -1);
}

int quorum_vote_errno(const int64_t *rets, int n)
{
    int most = 0;
    int winner = -EIO;

    for (int i = 0; i < n; i++) {
        int count = 0;

        for (int j = i; j < n && rets[i] < 0; j++) {
            count += rets[j] == rets[i];
        }
        if (count > most) {
            most = count;
            winner = rets[i];
        }
    }
    return winner;
}
