/*
 * Quorum block driver: the format of the node of digests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What is on the node in which digests outlive a close, and which
 * docs/interop/quorum-digests.rst describes: a header, in two places of which
 * the older one is overwritten, and pages of digests, each in one place: one
 * that was torn is as good as none, as digests may be forgotten.
 *
 * Whether the node counts at all is not said here, but by the state nodes.
 *
 * Pure functions: nothing here does I/O, and no context or lock is needed.
 * Offsets and lengths are bytes, of the disk or of the node.
 */

#ifndef BLOCK_QUORUM_DIGEST_FORMAT_H
#define BLOCK_QUORUM_DIGEST_FORMAT_H

#include "qemu/uuid.h"
#include "digest.h"

#define QUORUM_DIGESTS_PAGE     4096
#define QUORUM_DIGESTS_HEADERS  (2 * QUORUM_DIGESTS_PAGE)   /* at the start */

/* How much of a node says what it is; a shorter node, as far as it goes. */
#define QUORUM_DIGESTS_PROBE    (128 * KiB)

/* How much of the disk the digests of a page are of. */
#define QUORUM_DIGESTS_UNITS    512
#define QUORUM_DIGESTS_COVERS   (QUORUM_DIGESTS_UNITS * QUORUM_DIGEST_UNIT)

/* A digest that stands for something else in memory, and is never written. */
#define QUORUM_DIGESTS_RESERVED 2

typedef struct QuorumDigestsHeader {
    uint64_t seq;               /* grows with each header */
    QemuUUID set;               /* the set of state nodes that it belongs to */
    QemuUUID stamp;             /* ties the node to the label of that set */
    QemuUUID previous;          /* the stamp before, or null */
    uint64_t page_key;          /* pages with another one don't count; not 0 */
    QuorumDigestAlg alg;
    int64_t disk_bytes;         /* how much of the disk there may be pages of */
    uint8_t key[QUORUM_DIGEST_KEY];     /* of the hash: secret */
} QuorumDigestsHeader;

/* What there is where the headers are. */
typedef enum QuorumDigestsFound {
    QUORUM_DIGESTS_GOOD,        /* a header that is whole */
    QUORUM_DIGESTS_BLANK,       /* nothing: never used, or wiped */
    QUORUM_DIGESTS_DAMAGED,     /* what was a header: torn, or rotten */
    QUORUM_DIGESTS_ALIEN,       /* something else, not to be overwritten */
} QuorumDigestsFound;

/* --- where things are --- */

/* Where place @place, 0 or 1, of the header begins. */
static inline int64_t quorum_digests_header_offset(int place)
{
    return (int64_t)place * QUORUM_DIGESTS_PAGE;
}

/* Where page @number begins.  Page n + 1 comes right behind page n. */
static inline int64_t quorum_digests_page_offset(uint64_t number)
{
    return QUORUM_DIGESTS_HEADERS + (int64_t)number * QUORUM_DIGESTS_PAGE;
}

/* How many pages a disk of @disk_bytes has. */
uint64_t quorum_digests_pages(int64_t disk_bytes);

/* How long the node of such a disk has to be. */
int64_t quorum_digests_size(int64_t disk_bytes);

/* How many pages fit into a node of @node_bytes. */
uint64_t quorum_digests_capacity(int64_t node_bytes);

/* --- to bytes and back --- */

/* Write @header into the QUORUM_DIGESTS_PAGE bytes at @buf. */
void quorum_digests_encode_header(const QuorumDigestsHeader *header,
                                  uint8_t *buf);

/*
 * Look at the @bytes bytes at @buf, with which a node begins: the first
 * QUORUM_DIGESTS_PROBE ones of it, or all that it has, but not less than
 * QUORUM_DIGESTS_HEADERS.
 *
 * If that is QUORUM_DIGESTS_GOOD, *@header becomes the newest header, otherwise
 * all of it 0.  With QUORUM_DIGESTS_ALIEN, @errp says what is there, as in "The
 * node of digests holds something else": it may be worth something.
 *
 * *@next becomes the place which the next header goes to, with a seq that is
 * one higher.  (Not with QUORUM_DIGESTS_ALIEN.)
 */
QuorumDigestsFound quorum_digests_find_header(const uint8_t *buf, size_t bytes,
                                              QuorumDigestsHeader *header,
                                              int *next, Error **errp);

/*
 * Write page @number, with the @digests of QUORUM_DIGESTS_UNITS units, into the
 * QUORUM_DIGESTS_PAGE bytes at @buf.  @page_key is that of the header.
 */
void quorum_digests_encode_page(uint64_t number, uint64_t page_key,
                                const uint64_t *digests, uint8_t *buf);

/*
 * Set @digests to those of the page at @buf.  False, and all of them are
 * QUORUM_DIGEST_UNKNOWN, if it is not page @number with @page_key: blank, torn,
 * rotten, in the wrong place, or given up.  What is written is always what a
 * digest may be: never QUORUM_DIGESTS_RESERVED.
 */
bool quorum_digests_decode_page(const uint8_t *buf, uint64_t number,
                                uint64_t page_key, uint64_t *digests);

#endif /* BLOCK_QUORUM_DIGEST_FORMAT_H */
