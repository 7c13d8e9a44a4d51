/*
 * Tests of the format of the quorum driver's node of digests: what is right
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The format once more, as docs/interop/quorum-digests.rst has it: by the
 * offsets of its fields, and slowly.
 */

#ifndef QUORUM_DIGESTS_NAIVE_H
#define QUORUM_DIGESTS_NAIVE_H

#include "block/quorum/digest-format.h"
#include "quorum-state-naive.h"

#define NAIVE_DIGESTS      32
#define NAIVE_DIGEST_BYTES 7
#define NAIVE_HEADER_END   320

static inline bool naive_digests_is_page(const uint8_t *buf, uint64_t number)
{
    return !memcmp(buf, "QMQD", 4) && ldl_le_p(buf + 4) == naive_crc(buf) &&
           ldq_le_p(buf + 8) == number;
}

static inline QuorumDigestsFound naive_digests_place(const uint8_t *buf)
{
    if (naive_is_zero(buf, 4096)) {
        return QUORUM_DIGESTS_BLANK;
    }
    if (memcmp(buf, "QMQD", 4)) {
        return QUORUM_DIGESTS_ALIEN;
    }
    if (!naive_digests_is_page(buf, UINT64_MAX) ||
        memcmp(buf + 32, "QEMUQDG1", 8)) {
        return QUORUM_DIGESTS_DAMAGED;
    }
    if (ldl_le_p(buf + 40) != 1) {                      /* version */
        return QUORUM_DIGESTS_ALIEN;
    }
    return (uint32_t)ldl_le_p(buf + 44) <= 1 &&         /* algorithm */
           ldl_le_p(buf + 48) == 12 &&                  /* unit_shift */
           ldl_le_p(buf + 52) == 56 &&                  /* digest_bits */
           buf[71] < 0x80 &&                            /* disk_bytes */
           !naive_is_zero(buf + 16, 8) &&               /* page_key */
           !naive_is_zero(buf + 72, 16) &&              /* set */
           !naive_is_zero(buf + 88, 16)                 /* stamp */
           ? QUORUM_DIGESTS_GOOD : QUORUM_DIGESTS_DAMAGED;
}

/* What a node is that begins with @buf, and which place counts, or -1 */
static inline QuorumDigestsFound naive_digests_find(const uint8_t *buf,
                                                    size_t bytes, int *place)
{
    QuorumDigestsFound a = naive_digests_place(buf);
    QuorumDigestsFound b = naive_digests_place(buf + 4096);

    *place = -1;
    if (a == QUORUM_DIGESTS_GOOD && b == QUORUM_DIGESTS_GOOD) {
        *place = (uint64_t)ldq_le_p(buf + 4096 + 56) >
                 (uint64_t)ldq_le_p(buf + 56);
        return a;
    } else if (a == QUORUM_DIGESTS_GOOD || b == QUORUM_DIGESTS_GOOD) {
        *place = b == QUORUM_DIGESTS_GOOD;
        return QUORUM_DIGESTS_GOOD;
    } else if (a == QUORUM_DIGESTS_ALIEN || b == QUORUM_DIGESTS_ALIEN) {
        return QUORUM_DIGESTS_ALIEN;
    }
    for (size_t at = 0; at < bytes; at += 4096) {
        size_t part = MIN(4096, bytes - at);

        if (!naive_is_zero(buf + at, part) &&
            memcmp(buf + at, "QMQD", MIN(part, 4))) {
            return QUORUM_DIGESTS_ALIEN;
        }
    }
    return a == b ? a : QUORUM_DIGESTS_DAMAGED;
}

/* What the page says of unit @i */
static inline uint64_t naive_digests_of(const uint8_t *buf, int i)
{
    uint64_t digest = 0;

    for (int byte = 6; byte >= 0; byte--) {
        digest = digest << 8 | buf[NAIVE_DIGESTS + i * NAIVE_DIGEST_BYTES +
                                   byte];
    }
    return digest == 2 ? 0 : digest;
}

/* Make 0 of what a header may have, and this version does not know */
static inline void naive_digests_forget_reserved(uint8_t *buf)
{
    memset(buf + 24, 0, 8);
    memset(buf + 120, 0, 8);
    memset(buf + NAIVE_HEADER_END, 0, 4096 - NAIVE_HEADER_END);
    naive_set_crc(buf);
}

#endif /* QUORUM_DIGESTS_NAIVE_H */
