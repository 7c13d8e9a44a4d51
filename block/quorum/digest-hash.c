/*
 * Quorum block driver: digests of units
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A digest is what is left of a hash of the unit with a secret key.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/iov.h"
#include "digest-int.h"
#ifdef CONFIG_XXHASH
#ifdef CONFIG_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

QEMU_BUILD_BUG_ON(QUORUM_DIGEST_KEY < XXH3_SECRET_SIZE_MIN);
#endif

/* Of a key, what SHA-256 uses. */
#define SHA256_KEY      32

QuorumDigestAlg quorum_digest_alg_default(void)
{
#ifdef CONFIG_XXHASH
    return QUORUM_DIGEST_ALG_XXH3;
#else
    return QUORUM_DIGEST_ALG_SHA256;
#endif
}

bool quorum_digest_check_alg(QuorumDigestAlg alg, Error **errp)
{
#ifndef CONFIG_XXHASH
    if (alg == QUORUM_DIGEST_ALG_XXH3) {
        error_setg(errp, "This build has no XXH3 hash support: "
                   "use 'sha256' digests");
        return false;
    }
#endif
    if (alg == QUORUM_DIGEST_ALG_SHA256 &&
        !qcrypto_hash_supports(QCRYPTO_HASH_ALGO_SHA256)) {
        error_setg(errp, "This build has no SHA-256 hash support, "
                   "which 'sha256' digests need");
        return false;
    }
    return true;
}

/* A hash of the unit at @data: 64 bits, or a negative error. */
static int quorum_digest_hash(const QuorumDigests *d, const void *data,
                              uint64_t *hash)
{
    uint8_t result[QCRYPTO_HASH_DIGEST_LEN_SHA256];
    uint8_t *ptr = result;
    size_t len = sizeof(result);
    struct iovec parts[] = {
        { .iov_base = (void *)d->key, .iov_len = SHA256_KEY },
        { .iov_base = (void *)data, .iov_len = QUORUM_DIGEST_UNIT },
    };

#ifdef CONFIG_XXHASH
    if (d->alg == QUORUM_DIGEST_ALG_XXH3) {
        *hash = XXH3_64bits_withSecret(data, QUORUM_DIGEST_UNIT, d->key,
                                       QUORUM_DIGEST_KEY);
        return 0;
    }
#endif
    if (qcrypto_hash_bytesv(QCRYPTO_HASH_ALGO_SHA256, parts, ARRAY_SIZE(parts),
                            &ptr, &len, NULL) < 0) {
        return -EIO;
    }
    *hash = ldq_be_p(result);
    return 0;
}

static uint64_t quorum_digest_unit(const QuorumDigests *d, const void *data)
{
    uint64_t hash;

    if (buffer_is_zero(data, QUORUM_DIGEST_UNIT)) {
        return QUORUM_DIGEST_ZERO;
    }
    if (quorum_digest_hash(d, data, &hash) < 0) {
        return QUORUM_DIGEST_UNKNOWN;
    }
    return quorum_digest_from_hash(hash);
}

void quorum_digests_hash_buf(const QuorumDigests *d, const void *buf,
                             int64_t bytes, uint64_t *digests)
{
    assert(QEMU_IS_ALIGNED(bytes, QUORUM_DIGEST_UNIT));
    for (int64_t i = 0; i < bytes / QUORUM_DIGEST_UNIT; i++) {
        digests[i] = quorum_digest_unit(d, buf + i * QUORUM_DIGEST_UNIT);
    }
}

/* A place in a vector. */
typedef struct QuorumDigestCursor {
    const struct iovec *iov;
    size_t offset;              /* in *@iov */
} QuorumDigestCursor;

static QuorumDigestCursor quorum_digest_cursor(const QEMUIOVector *qiov,
                                               size_t qiov_offset)
{
    QuorumDigestCursor c = { .iov = qiov->iov, .offset = qiov_offset };

    while (c.offset && c.offset >= c.iov->iov_len) {
        c.offset -= c.iov->iov_len;
        c.iov++;
    }
    return c;
}

/* Copy the next unit to @dst. */
static void quorum_digest_copy_unit(QuorumDigestCursor *c, uint8_t *dst)
{
    size_t done = 0;

    while (done < QUORUM_DIGEST_UNIT) {
        size_t len = MIN(c->iov->iov_len - c->offset,
                         QUORUM_DIGEST_UNIT - done);

        memcpy(dst + done, c->iov->iov_base + c->offset, len);
        done += len;
        c->offset += len;
        if (c->offset == c->iov->iov_len) {
            c->iov++;
            c->offset = 0;
        }
    }
}

/*
 * The digest of the next unit, which is in pieces.  Apart, because the compiler
 * clears the copy.
 */
static uint64_t __attribute__((noinline))
quorum_digest_torn_unit(const QuorumDigests *d, QuorumDigestCursor *c)
{
    uint8_t unit[QUORUM_DIGEST_UNIT];

    quorum_digest_copy_unit(c, unit);
    return quorum_digest_unit(d, unit);
}

static uint64_t quorum_digest_next_unit(const QuorumDigests *d,
                                        QuorumDigestCursor *c)
{
    size_t left = c->iov->iov_len - c->offset;
    const void *unit = c->iov->iov_base + c->offset;

    if (left < QUORUM_DIGEST_UNIT) {
        return quorum_digest_torn_unit(d, c);
    }
    c->offset += QUORUM_DIGEST_UNIT;
    if (left == QUORUM_DIGEST_UNIT) {
        c->iov++;
        c->offset = 0;
    }
    return quorum_digest_unit(d, unit);
}

void quorum_digests_hash(const QuorumDigests *d, const QEMUIOVector *qiov,
                         size_t qiov_offset, int64_t bytes, uint64_t *digests)
{
    QuorumDigestCursor c = quorum_digest_cursor(qiov, qiov_offset);

    assert(QEMU_IS_ALIGNED(bytes, QUORUM_DIGEST_UNIT));
    assert(bytes <= qiov->size && qiov_offset <= qiov->size - bytes);
    for (int64_t i = 0; i < bytes / QUORUM_DIGEST_UNIT; i++) {
        digests[i] = quorum_digest_next_unit(d, &c);
    }
}

void quorum_digests_hash_copy(const QuorumDigests *d, const QEMUIOVector *qiov,
                              size_t qiov_offset, int64_t bytes, void *dst,
                              uint64_t *digests)
{
    QuorumDigestCursor c = quorum_digest_cursor(qiov, qiov_offset);

    assert(QEMU_IS_ALIGNED(bytes, QUORUM_DIGEST_UNIT));
    assert(bytes <= qiov->size && qiov_offset <= qiov->size - bytes);
    for (int64_t i = 0; i < bytes / QUORUM_DIGEST_UNIT; i++) {
        quorum_digest_copy_unit(&c, dst);
        digests[i] = quorum_digest_unit(d, dst);
        dst += QUORUM_DIGEST_UNIT;
    }
}
