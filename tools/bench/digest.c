/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What does the digest of 4 KiB take?
 *
 * usage: digest xxh3|sha256|copy|copy-xxh3 BYTES ROUNDS
 *
 * Of each unit in a buffer of BYTES, which fits into a cache or does not.
 * "copy" copies it and no more, and "copy-..." hashes the copy.
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "crypto/init.h"
#include "qapi/error.h"
#include "qemu/memalign.h"
#include "block/quorum/digest.h"

int main(int argc, char **argv)
{
    bool copies, hashes;
    QuorumDigests *d;
    QEMUIOVector qiov;
    g_autofree uint64_t *digests = NULL;
    uint8_t *from, *to;
    int64_t bytes, start;

    g_assert_cmpint(argc, ==, 4);
    copies = g_str_has_prefix(argv[1], "copy");
    hashes = strcmp(argv[1], "copy");
    bytes = atoll(argv[2]);
    qcrypto_init(&error_fatal);
    d = quorum_digests_new(QUORUM_DIGEST_CACHE_MIN,
                           g_str_has_suffix(argv[1], "sha256") ?
                           QUORUM_DIGEST_ALG_SHA256 : QUORUM_DIGEST_ALG_XXH3,
                           NULL, &error_fatal);
    from = qemu_memalign(QUORUM_DIGEST_UNIT, bytes);
    to = qemu_memalign(QUORUM_DIGEST_UNIT, bytes);
    memset(from, 0x5a, bytes);
    memset(to, 0, bytes);
    digests = g_new0(uint64_t, bytes / QUORUM_DIGEST_UNIT);
    qemu_iovec_init_buf(&qiov, from, bytes);

    start = g_get_monotonic_time();
    for (int i = 0; i < atoi(argv[3]); i++) {
        if (copies && hashes) {
            quorum_digests_hash_copy(d, &qiov, 0, bytes, to, digests);
        } else if (copies) {
            qemu_iovec_to_buf(&qiov, 0, to, bytes);
        } else {
            quorum_digests_hash_buf(d, from, bytes, digests);
        }
    }
    printf("completed in %f seconds\n", (g_get_monotonic_time() - start) / 1e6);
    quorum_digests_free(d);
    qemu_vfree(from);
    qemu_vfree(to);
    return 0;
}
