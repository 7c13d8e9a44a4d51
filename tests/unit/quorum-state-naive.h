/*
 * Tests of the format of the quorum driver's state nodes: what is right
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The format once more, as docs/interop/quorum-state.rst has it: by the offsets
 * of its fields, and slowly.
 */

#ifndef QUORUM_STATE_NAIVE_H
#define QUORUM_STATE_NAIVE_H

#include "qemu/bswap.h"
#include "block/quorum/state-format.h"

#define NAIVE_RECORDS     448
#define NAIVE_RECORD_SIZE 64
#define NAIVE_LABEL_END   (NAIVE_RECORDS + 40 * NAIVE_RECORD_SIZE)

/* CRC-32C of the page at @buf, with 0 where it is stored, bit by bit */
static inline uint32_t naive_crc(const uint8_t *buf)
{
    uint32_t crc = 0xffffffff;

    for (int i = 0; i < 4096; i++) {
        crc ^= i >= 4 && i < 8 ? 0 : buf[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        }
    }
    return ~crc;
}

static inline void naive_set_crc(uint8_t *buf)
{
    stl_le_p(buf + 4, naive_crc(buf));
}

static inline bool naive_is_zero(const uint8_t *buf, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        if (buf[i]) {
            return false;
        }
    }
    return true;
}

static inline bool naive_record_is_good(const uint8_t *buf, int k)
{
    const uint8_t *r = buf + NAIVE_RECORDS + k * NAIVE_RECORD_SIZE;
    int places = lduw_le_p(buf + 400);
    int place = (int16_t)lduw_le_p(r + 16);
    int status = r[18];

    if (status == 0) {
        return true;
    }
    for (int j = 0; j < k; j++) {
        const uint8_t *other = buf + NAIVE_RECORDS + j * NAIVE_RECORD_SIZE;

        if (other[18] && (!memcmp(other, r, 16) ||
                          (place >= 0 && !memcmp(other + 16, r + 16, 2)))) {
            return false;
        }
    }
    if (r[19] & 0x18 && (!lduw_le_p(buf + 404) ||
                         (r[19] & 0x18) != (status == 3 ? 0x10 : 8))) {
        return false;
    }
    return status <= 3 && r[19] < 32 && !naive_is_zero(r, 16) &&
           (status == 3 ? place == -1 : place >= 0 && place < places);
}

/* How many bits of 2^@shift bytes a map of @bytes has */
static inline uint64_t naive_count(uint64_t bytes, int shift)
{
    uint64_t count = 0;

    if (shift < 63) {
        count = bytes / (UINT64_C(1) << shift);
        count += count * (UINT64_C(1) << shift) < bytes;
    }
    return count;
}

/* Whether @buf is a label */
static inline bool naive_label_is_good(const uint8_t *buf)
{
    int places = lduw_le_p(buf + 400), threshold = lduw_le_p(buf + 402);
    uint64_t disk_bytes = ldq_le_p(buf + 416);
    uint64_t max_bytes = ldq_le_p(buf + 424);
    int intent_shift = buf[396], stale_shift = buf[397];

    for (int k = 0; k < 40; k++) {
        if (!naive_record_is_good(buf, k)) {
            return false;
        }
    }
    return !memcmp(buf, "QMQP", 4) && ldl_le_p(buf + 4) == naive_crc(buf) &&
           ldl_le_p(buf + 16) == UINT32_MAX &&          /* number */
           !naive_is_zero(buf + 24, 16) &&              /* set */
           !memcmp(buf + 40, buf + 112, 8) &&           /* session */
           !memcmp(buf + 64, "QEMUQST1", 8) &&
           ldl_le_p(buf + 72) == 1 &&                   /* version */
           ldl_le_p(buf + 76) == NAIVE_LABEL_END &&     /* length */
           naive_is_zero(buf + 80, 8) &&                /* incompatible */
           !naive_is_zero(buf + 96, 16) &&              /* member */
           !naive_is_zero(buf + 112, 16) &&             /* session */
           (uint32_t)ldl_le_p(buf + 392) < 8 &&                   /* flags */
           lduw_le_p(buf + 398) == 40 &&                /* capacity */
           places >= 1 && places < 32768 &&
           threshold >= 1 && threshold <= places &&
           lduw_le_p(buf + 404) < 32768 &&              /* old_threshold */
           max_bytes >= 1 && max_bytes <= INT64_MAX >> 30 << 30 &&
           ldq_le_p(buf + 8) <= INT64_MAX &&
           disk_bytes <= max_bytes &&
           intent_shift >= 20 && intent_shift <= 62 &&
           stale_shift >= 12 && stale_shift <= intent_shift &&
           naive_count(max_bytes, intent_shift) <= 1 << 18 &&
           naive_count(max_bytes, stale_shift) <= 1 << 22;
}

/* Whether @buf is page @number of the maps of the good label at @of */
static inline bool naive_page_is_good(const uint8_t *buf, const uint8_t *of,
                                      uint32_t number)
{
    bool known = false;

    /* The session and those of the history */
    for (int at = 112; at < 112 + 17 * 16; at += 16) {
        known |= !naive_is_zero(of + at, 16) && !memcmp(buf + 40, of + at, 8);
    }
    return !memcmp(buf, "QMQP", 4) && ldl_le_p(buf + 4) == naive_crc(buf) &&
           ldl_le_p(buf + 16) == number &&
           !memcmp(buf + 20, of + 20, 4 + 16) &&        /* layout, set */
           known;
}

/* Whether the label at @a has session @session, or had it */
static inline bool naive_knows(const uint8_t *a, const uint8_t *session)
{
    bool known = false;

    for (int at = 112; at < 112 + 17 * 16; at += 16) {
        known |= !memcmp(a + at, session, 16);
    }
    return known;
}

/* Whether the good label at @a is as new as that at @b, or newer */
static inline bool naive_label_follows(const uint8_t *a, const uint8_t *b)
{
    uint64_t a_opens = ldq_le_p(a + 384), b_opens = ldq_le_p(b + 384);

    if (!memcmp(a + 112, b + 112, 16)) {
        return ldq_le_p(a + 8) >= ldq_le_p(b + 8);
    }
    return naive_knows(a, b + 112) ||
           (a_opens >= 17 && a_opens - 17 >= b_opens);
}

/* Make 0 of what a label may have, and this version does not know */
static inline void naive_forget_reserved(uint8_t *buf)
{
    memset(buf + 48, 0, 16);
    memset(buf + 88, 0, 8);                             /* compatible */
    memset(buf + 406, 0, 2);
    for (int k = 0; k < 40; k++) {
        uint8_t *r = buf + NAIVE_RECORDS + k * NAIVE_RECORD_SIZE;

        memset(r + 20, 0, 4);
        memset(r + 40, 0, 24);
    }
    memset(buf + NAIVE_LABEL_END, 0, 4096 - NAIVE_LABEL_END);
    naive_set_crc(buf);
}

#endif /* QUORUM_STATE_NAIVE_H */
