/*
 * Quorum block driver: the format of the node of digests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "digest-format.h"
#include "page-crc.h"

#define PAGE_MAGIC     "QMQD"
#define HEADER_MAGIC   "QEMUQDG1"
#define HEADER_VERSION 1
#define HEADER_NUMBER  UINT64_MAX   /* among the numbers of pages */
#define DIGEST_BYTES   (QUORUM_DIGEST_BITS / 8)

/* All numbers are little endian. */
typedef struct QEMU_PACKED QuorumDigestsPageDisk {
    char magic[4];
    uint32_t crc;               /* CRC-32C of the page, with 0 here */
    uint64_t number;
    uint64_t page_key;
    uint8_t reserved[8];
    uint8_t digests[QUORUM_DIGESTS_UNITS][DIGEST_BYTES];
    uint8_t reserved2[480];
} QuorumDigestsPageDisk;

QEMU_BUILD_BUG_ON(QUORUM_DIGEST_BITS % 8);
QEMU_BUILD_BUG_ON(QUORUM_DIGESTS_PAGE != QUORUM_PAGE_BYTES);
QEMU_BUILD_BUG_ON(offsetof(QuorumDigestsPageDisk, digests) != 32);
QEMU_BUILD_BUG_ON(sizeof(QuorumDigestsPageDisk) != QUORUM_DIGESTS_PAGE);

typedef struct QEMU_PACKED QuorumDigestsHeaderDisk {
    char magic[4];
    uint32_t crc;
    uint64_t number;
    uint64_t page_key;
    uint8_t reserved[8];
    char magic2[8];
    uint32_t version;
    uint32_t alg;
    uint32_t unit_shift;
    uint32_t digest_bits;
    uint64_t seq;
    uint64_t disk_bytes;
    uint8_t set[16];
    uint8_t stamp[16];
    uint8_t previous[16];
    uint8_t reserved2[8];
    uint8_t key[QUORUM_DIGEST_KEY];
} QuorumDigestsHeaderDisk;

QEMU_BUILD_BUG_ON(offsetof(QuorumDigestsHeaderDisk, magic2) != 32);
QEMU_BUILD_BUG_ON(offsetof(QuorumDigestsHeaderDisk, set) != 72);
QEMU_BUILD_BUG_ON(offsetof(QuorumDigestsHeaderDisk, key) != 128);

/*
 * All of it is in the first sector.  So the first header of a blank node, even
 * if it is torn, has its magic or leaves the node blank: nothing that looks
 * like data of another kind.
 */
QEMU_BUILD_BUG_ON(sizeof(QuorumDigestsHeaderDisk) > 512);

/* --- where things are --- */

/* DIV_ROUND_UP() could overflow. */
uint64_t quorum_digests_pages(int64_t disk_bytes)
{
    return disk_bytes / QUORUM_DIGESTS_COVERS +
           !!(disk_bytes % QUORUM_DIGESTS_COVERS);
}

int64_t quorum_digests_size(int64_t disk_bytes)
{
    return quorum_digests_page_offset(quorum_digests_pages(disk_bytes));
}

uint64_t quorum_digests_capacity(int64_t node_bytes)
{
    return MAX(node_bytes - QUORUM_DIGESTS_HEADERS, 0) / QUORUM_DIGESTS_PAGE;
}

/* --- the header --- */

void quorum_digests_encode_header(const QuorumDigestsHeader *header,
                                  uint8_t *buf)
{
    QuorumDigestsHeaderDisk *d = (QuorumDigestsHeaderDisk *)buf;

    memset(buf, 0, QUORUM_DIGESTS_PAGE);
    memcpy(d->magic, PAGE_MAGIC, sizeof(d->magic));
    stq_le_p(&d->number, HEADER_NUMBER);
    stq_le_p(&d->page_key, header->page_key);
    memcpy(d->magic2, HEADER_MAGIC, sizeof(d->magic2));
    stl_le_p(&d->version, HEADER_VERSION);
    stl_le_p(&d->alg, header->alg);
    stl_le_p(&d->unit_shift, ctz32(QUORUM_DIGEST_UNIT));
    stl_le_p(&d->digest_bits, QUORUM_DIGEST_BITS);
    stq_le_p(&d->seq, header->seq);
    stq_le_p(&d->disk_bytes, header->disk_bytes);
    memcpy(d->set, header->set.data, sizeof(d->set));
    memcpy(d->stamp, header->stamp.data, sizeof(d->stamp));
    memcpy(d->previous, header->previous.data, sizeof(d->previous));
    memcpy(d->key, header->key, sizeof(d->key));
    stl_le_p(&d->crc, quorum_page_crc(buf));
}

/* Whether the header at @buf is whole; of which version is all one. */
static bool quorum_digests_header_is_whole(const uint8_t *buf)
{
    const QuorumDigestsHeaderDisk *d = (const QuorumDigestsHeaderDisk *)buf;

    return !memcmp(d->magic, PAGE_MAGIC, sizeof(d->magic)) &&
           ldl_le_p(&d->crc) == quorum_page_crc(buf) &&
           ldq_le_p(&d->number) == HEADER_NUMBER &&
           !memcmp(d->magic2, HEADER_MAGIC, sizeof(d->magic2));
}

/* Whether the values of @h, and those of @d that are always the same, can be */
static bool quorum_digests_header_is_sane(const QuorumDigestsHeaderDisk *d,
                                          const QuorumDigestsHeader *h)
{
    return ldl_le_p(&d->unit_shift) == ctz32(QUORUM_DIGEST_UNIT) &&
           ldl_le_p(&d->digest_bits) == QUORUM_DIGEST_BITS &&
           (h->alg == QUORUM_DIGEST_ALG_XXH3 ||
            h->alg == QUORUM_DIGEST_ALG_SHA256) &&
           h->page_key && h->disk_bytes >= 0 && !qemu_uuid_is_null(&h->set) &&
           !qemu_uuid_is_null(&h->stamp);
}

/* The header at @buf to @h, which is 0 if it is none. */
static QuorumDigestsFound quorum_digests_decode_header(const uint8_t *buf,
                                                       QuorumDigestsHeader *h,
                                                       Error **errp)
{
    const QuorumDigestsHeaderDisk *d = (const QuorumDigestsHeaderDisk *)buf;

    memset(h, 0, sizeof(*h));
    if (buffer_is_zero(buf, QUORUM_DIGESTS_PAGE)) {
        return QUORUM_DIGESTS_BLANK;
    }
    if (memcmp(d->magic, PAGE_MAGIC, sizeof(d->magic))) {
        error_setg(errp, "holds something else than digests");
        return QUORUM_DIGESTS_ALIEN;
    }
    if (!quorum_digests_header_is_whole(buf)) {
        return QUORUM_DIGESTS_DAMAGED;
    }
    if (ldl_le_p(&d->version) != HEADER_VERSION) {
        error_setg(errp, "was made by a newer version: version %" PRIu32,
                   ldl_le_p(&d->version));
        return QUORUM_DIGESTS_ALIEN;
    }
    *h = (QuorumDigestsHeader) {
        .seq = ldq_le_p(&d->seq),
        .page_key = ldq_le_p(&d->page_key),
        .alg = ldl_le_p(&d->alg),
        .disk_bytes = ldq_le_p(&d->disk_bytes),
    };
    memcpy(h->set.data, d->set, sizeof(d->set));
    memcpy(h->stamp.data, d->stamp, sizeof(d->stamp));
    memcpy(h->previous.data, d->previous, sizeof(d->previous));
    memcpy(h->key, d->key, sizeof(d->key));
    if (!quorum_digests_header_is_sane(d, h)) {
        memset(h, 0, sizeof(*h));
        return QUORUM_DIGESTS_DAMAGED;
    }
    return QUORUM_DIGESTS_GOOD;
}

/* Whether each of the pages at @buf is blank, or begins as a page does. */
static bool quorum_digests_may_overwrite(const uint8_t *buf, size_t bytes)
{
    for (; bytes > 0; buf += QUORUM_DIGESTS_PAGE) {
        size_t part = MIN(bytes, QUORUM_DIGESTS_PAGE);

        if (!buffer_is_zero(buf, part) &&
            memcmp(buf, PAGE_MAGIC, MIN(part, strlen(PAGE_MAGIC)))) {
            return false;
        }
        bytes -= part;
    }
    return true;
}

QuorumDigestsFound quorum_digests_find_header(const uint8_t *buf, size_t bytes,
                                              QuorumDigestsHeader *header,
                                              int *next, Error **errp)
{
    QuorumDigestsHeader other;
    QuorumDigestsFound a, b;
    Error *err = NULL;

    assert(bytes >= QUORUM_DIGESTS_HEADERS);
    a = quorum_digests_decode_header(buf, header, &err);
    b = quorum_digests_decode_header(buf + QUORUM_DIGESTS_PAGE, &other,
                                     err ? NULL : &err);
    *next = a == QUORUM_DIGESTS_GOOD;
    if (b == QUORUM_DIGESTS_GOOD &&
        (a != QUORUM_DIGESTS_GOOD || other.seq > header->seq)) {
        *header = other;
        *next = 0;
    }
    if (a == QUORUM_DIGESTS_GOOD || b == QUORUM_DIGESTS_GOOD) {
        error_free(err);
        return QUORUM_DIGESTS_GOOD;
    }
    if (!err && !quorum_digests_may_overwrite(buf, bytes)) {
        error_setg(&err, "holds something else than digests");
    }
    if (err) {
        error_propagate(errp, err);
        return QUORUM_DIGESTS_ALIEN;
    }
    return a == b ? a : QUORUM_DIGESTS_DAMAGED;
}

/* --- pages --- */

void quorum_digests_encode_page(uint64_t number, uint64_t page_key,
                                const uint64_t *digests, uint8_t *buf)
{
    QuorumDigestsPageDisk *d = (QuorumDigestsPageDisk *)buf;

    memset(buf, 0, QUORUM_DIGESTS_PAGE);
    memcpy(d->magic, PAGE_MAGIC, sizeof(d->magic));
    stq_le_p(&d->number, number);
    stq_le_p(&d->page_key, page_key);
    for (int i = 0; i < QUORUM_DIGESTS_UNITS; i++) {
        assert(!(digests[i] >> QUORUM_DIGEST_BITS) &&
               digests[i] != QUORUM_DIGESTS_RESERVED);
        for (int byte = 0; byte < DIGEST_BYTES; byte++) {
            d->digests[i][byte] = digests[i] >> (8 * byte);
        }
    }
    stl_le_p(&d->crc, quorum_page_crc(buf));
}

bool quorum_digests_decode_page(const uint8_t *buf, uint64_t number,
                                uint64_t page_key, uint64_t *digests)
{
    const QuorumDigestsPageDisk *d = (const QuorumDigestsPageDisk *)buf;

    memset(digests, 0, QUORUM_DIGESTS_UNITS * sizeof(*digests));
    if (memcmp(d->magic, PAGE_MAGIC, sizeof(d->magic)) ||
        ldq_le_p(&d->number) != number || ldq_le_p(&d->page_key) != page_key ||
        ldl_le_p(&d->crc) != quorum_page_crc(buf)) {
        return false;
    }
    for (int i = 0; i < QUORUM_DIGESTS_UNITS; i++) {
        for (int byte = 0; byte < DIGEST_BYTES; byte++) {
            digests[i] |= (uint64_t)d->digests[i][byte] << (8 * byte);
        }
        if (digests[i] == QUORUM_DIGESTS_RESERVED) {
            digests[i] = QUORUM_DIGEST_UNKNOWN;
        }
    }
    return true;
}
