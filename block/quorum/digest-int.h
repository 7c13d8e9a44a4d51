/*
 * Quorum block driver: the inside of QuorumDigests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * For digest.c and digest-hash.c.
 */

#ifndef BLOCK_QUORUM_DIGEST_INT_H
#define BLOCK_QUORUM_DIGEST_INT_H

#include "qemu/seqlock.h"
#include "qemu/thread.h"
#include "digest.h"

/* How many ranges have generations of their own. */
#define QUORUM_DIGEST_STRIPES   4096

typedef struct QuorumDigestPage {
    QemuSeqLock seq;            /* of all below but @next */
    uint32_t number;            /* which page of the disk */
    uint32_t next;              /* in the chain: an index in pages[] */

    /* Digests, in three parts, because nothing that has 56 bits is atomic. */
    union {
        struct {
            uint32_t low[QUORUM_DIGEST_PAGE_UNITS];
            uint16_t mid[QUORUM_DIGEST_PAGE_UNITS];
            uint8_t high[QUORUM_DIGEST_PAGE_UNITS];
        };
        uint32_t words[QUORUM_DIGEST_PAGE_UNITS * QUORUM_DIGEST_BITS / 32];
    };
} QuorumDigestPage;

QEMU_BUILD_BUG_ON(sizeof_field(QuorumDigestPage, words) !=
                  offsetof(QuorumDigestPage, high[QUORUM_DIGEST_PAGE_UNITS]) -
                  offsetof(QuorumDigestPage, low));

struct QuorumDigests {
    QuorumDigestAlg alg;
    uint8_t key[QUORUM_DIGEST_KEY];
    uint32_t num_pages;
    uint32_t num_buckets;       /* a power of two */
    uint64_t overhead;          /* bytes, of all that is not pages */

    QemuMutex lock;             /* for changes of all below */
    uint32_t used_pages;        /* have been used, from pages[0] on */
    uint32_t hand;              /* of the CLOCK */
    QuorumDigestPage *pages;
    uint32_t *buckets;          /* the first page in the chain */
    uint8_t *looked_up;         /* for each page: whether it was, lately */
    unsigned long *pinned;      /* for each page: it can't go */

    /* Of a table that is kept: see digest.h.  Bits are pages of the disk. */
    uint32_t kept;              /* how many are, from the first one on; or 0 */
    unsigned long *dirty;
    unsigned long *news;
    unsigned long *cached;

    /*
     * Nothing has to be kept of pages that were evicted: changes are counted in
     * the stripes of their ranges.  The generation of a range is the sum over
     * its stripes.  It grows by one for each change in each of them, so it
     * looks the same only after 2^32 of them.
     */
    struct {
        uint32_t generation;
        uint32_t changing;      /* changes that are under way */
    } stripes[QUORUM_DIGEST_STRIPES];
};

/* Whether this build can compute digests with @alg. */
bool quorum_digest_check_alg(QuorumDigestAlg alg, Error **errp);

#endif /* BLOCK_QUORUM_DIGEST_INT_H */
