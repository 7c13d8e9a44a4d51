/*
 * Quorum block driver: the checksum of a page
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Pages of state nodes and of the node of digests begin alike: four bytes of
 * magic, then the CRC-32C of the whole page, computed with 0 in its place.
 */

#ifndef BLOCK_QUORUM_PAGE_CRC_H
#define BLOCK_QUORUM_PAGE_CRC_H

#include "qemu/crc32c.h"

#define QUORUM_PAGE_BYTES 4096

/* What the CRC of the page at @buf has to be, whatever is there. */
static inline uint32_t quorum_page_crc(const uint8_t *buf)
{
    static const uint8_t zero[4];
    struct iovec parts[] = {
        { .iov_base = (void *)buf, .iov_len = 4 },
        { .iov_base = (void *)zero, .iov_len = 4 },
        { .iov_base = (void *)(buf + 8), .iov_len = QUORUM_PAGE_BYTES - 8 },
    };

    return iov_crc32c(0xffffffff, parts, ARRAY_SIZE(parts));
}

#endif /* BLOCK_QUORUM_PAGE_CRC_H */
