/*
 * Tests of the formats of what the quorum driver writes down: pages of bytes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef QUORUM_FORMAT_TEST_H
#define QUORUM_FORMAT_TEST_H

#include "qemu/bswap.h"
#include "qemu/uuid.h"

#define FORMAT_PAGE   4096
#define FORMAT_SECTOR 512

/* How many choices of sectors of two pages there are */
#define FORMAT_CHOICES (1 << FORMAT_PAGE / FORMAT_SECTOR)

static inline uint64_t rand64(void)
{
    return (uint64_t)(uint32_t)g_test_rand_int() << 32 |
           (uint32_t)g_test_rand_int();
}

static inline QemuUUID rand_uuid(void)
{
    QemuUUID uuid;

    stq_le_p(uuid.data, rand64());
    stq_le_p(uuid.data + 8, rand64());
    return uuid;
}

/* The bytes @first, @first + 1, ... */
static inline QemuUUID counting_uuid(uint8_t first)
{
    QemuUUID uuid;

    for (int i = 0; i < 16; i++) {
        uuid.data[i] = first + i;
    }
    return uuid;
}

#define assert_same_uuid(a, b) \
    g_assert_cmpmem((a)->data, 16, (b)->data, 16)

/* Bytes of a page, in an array that ends with offset -1; others are 0. */
typedef struct GoldenBytes {
    int offset;
    const char *hex;
} GoldenBytes;

static inline void golden_to_bytes(const GoldenBytes *golden, uint8_t *buf)
{
    memset(buf, 0, FORMAT_PAGE);
    for (; golden->offset >= 0; golden++) {
        for (size_t i = 0; golden->hex[2 * i]; i++) {
            buf[golden->offset + i] =
                g_ascii_xdigit_value(golden->hex[2 * i]) << 4 |
                g_ascii_xdigit_value(golden->hex[2 * i + 1]);
        }
    }
}

/*
 * Make @buf the sectors of @old and @new that @choice says, which is less than
 * FORMAT_CHOICES: what a write that was cut short may leave.
 */
static inline void tear_page(uint8_t *buf, const uint8_t *old,
                             const uint8_t *new, int choice)
{
    for (int i = 0; i < FORMAT_PAGE; i += FORMAT_SECTOR) {
        memcpy(buf + i, (choice >> i / FORMAT_SECTOR & 1 ? new : old) + i,
               FORMAT_SECTOR);
    }
}

#endif /* QUORUM_FORMAT_TEST_H */
