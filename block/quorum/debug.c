/*
 * Quorum block driver: what tests may switch on and look at
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "debug.h"

QuorumDebug quorum_debug = {
#if defined(QEMU_SANITIZE_ADDRESS) || defined(QEMU_SANITIZE_THREAD)
    .on = true,
#endif
};

QuorumLimits quorum_limits = {
    /*
     * 32 reads of 1 MiB from three children at once: each takes two buffers,
     * and the guest's own one.
     */
    .pool_bytes = 64 * MiB,

    /*
     * 4 MiB for a map, of which a child can have three.  Up to 128 GiB, a
     * granule is QUORUM_UNIT.
     */
    .stale_bits = 32 * MiB,

    /*
     * 1 MiB for each of the two maps of a node, and granules of 1 MiB up to
     * 8 TiB.  They are coarse because every write marks them.
     */
    .unflushed_bits = 8 * MiB,
    .unflushed_shift = 20,

    /*
     * More than guests have FUA writes in flight, and little memory: 32 bytes
     * each.
     */
    .fua_done = 1024,
};

#define QUORUM_BRANCH_TEXT(name, text) [QUORUM_BRANCH_##name] = text,
const char *const quorum_branch_text[QUORUM_BRANCH__MAX] = {
    QUORUM_BRANCHES(QUORUM_BRANCH_TEXT)
};
