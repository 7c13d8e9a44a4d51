/*
 * Quorum block driver: what tests may switch on and look at
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-common.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "debug.h"
#include "opts.h"
#include "state-format.h"
#include "sync.h"

QuorumDebug quorum_debug = {
#if defined(QEMU_SANITIZE_ADDRESS) || defined(QEMU_SANITIZE_THREAD)
    .on = true,
#endif
};

/* See QuorumLimits for what these are. */
#define QUORUM_COROUTINES       1024
#define QUORUM_POOL_BYTES       (64 * MiB)
#define QUORUM_WRITE_BUFS       (32 * MiB)
#define QUORUM_REPAIR_BUFS      (16 * MiB)
#define QUORUM_STALE_BITS       (32 * MiB)
#define QUORUM_UNFLUSHED_BITS   (8 * MiB)
#define QUORUM_UNFLUSHED_SHIFT  20

/* One request to as many children as there may be fits. */
QEMU_BUILD_BUG_ON(QUORUM_CHILDREN_MAX - 1 > QUORUM_COROUTINES);
/* A unit can be read from as many children as there may be. */
QEMU_BUILD_BUG_ON((QUORUM_CHILDREN_MAX + 1) * QUORUM_UNIT > QUORUM_POOL_BYTES);
QEMU_BUILD_BUG_ON((QUORUM_CHILDREN_MAX + 1) * QUORUM_UNIT > QUORUM_REPAIR_BUFS);
/* A granule of the unflushed map is a whole number of small stale granules. */
QEMU_BUILD_BUG_ON((1 << QUORUM_UNFLUSHED_SHIFT) % QUORUM_UNIT);
QEMU_BUILD_BUG_ON(QUORUM_UNIT & (QUORUM_UNIT - 1));
QEMU_BUILD_BUG_ON(QUORUM_UNIT % BDRV_SECTOR_SIZE);

QuorumLimits quorum_limits = {
    /*
     * 512 requests to three children at once, which is more than disks can do
     * side by side.  A coroutine takes two of the 65530 mappings that Linux
     * gives to a process, so these are 3 percent of them: guests with as many
     * requests in flight as a plain node can bear can have a quorum, too.
     */
    .coroutines = QUORUM_COROUTINES,

    /*
     * 32 reads of 1 MiB from three children at once: each takes two buffers,
     * and the guest's own one.
     */
    .pool_bytes = QUORUM_POOL_BYTES,

    /* 32 writes of 1 MiB at once: a copy serves all children. */
    .write_pool_bytes = QUORUM_WRITE_BUFS,

    /* Four repairs of 1 MiB at once, of three children. */
    .repair_pool_bytes = QUORUM_REPAIR_BUFS,

    /*
     * 4 MiB for a map, of which a child can have five.  Below 128 GiB, a
     * granule is QUORUM_UNIT.
     */
    .stale_bits = QUORUM_STALE_BITS,

    /*
     * 1 MiB for each of the five maps of a node, and granules of 1 MiB up to
     * 8 TiB.  They are coarse because every write marks them.
     */
    .unflushed_bits = QUORUM_UNFLUSHED_BITS,
    .unflushed_shift = QUORUM_UNFLUSHED_SHIFT,

    /*
     * More than guests have FUA writes in flight, and little memory: 32 bytes
     * each.
     */
    .fua_done = 1024,

    /*
     * A child that fails a FUA write becomes stale in all that is unflushed.
     * Guests that flush do so more often than this.
     */
    .flush_after_ns = 5 * NANOSECONDS_PER_SECOND,

    /*
     * As many requests as guests mostly have in flight; and, for all children,
     * an eighth of the coroutines.
     */
    .stragglers = 64,
    .stragglers_all = QUORUM_COROUTINES / 8,

    /* Disks that grow do so a few times, or begin small; maps are sparse. */
    .state_bytes = 256 * GiB,
    .state_intent_shift = QUORUM_STATE_INTENT_SHIFT,
};

const char *const quorum_branch_text[QUORUM_BRANCH__MAX] = {
    [QUORUM_BRANCH_LOCKED_READ] = "read decided with the range held",
    [QUORUM_BRANCH_TIE] = "unit without a winner, although all answered",
    [QUORUM_BRANCH_UNIT_READ_AGAIN] = "unit read by itself after an error",
    [QUORUM_BRANCH_STALE_MEANWHILE] = "child became stale while it was read",
    [QUORUM_BRANCH_DEFERRED_ASKED] = "deferred children asked",
    [QUORUM_BRANCH_READ_SPLIT] = "read larger than the pool allows at once",
    [QUORUM_BRANCH_REPAIR] = "range repaired",
    [QUORUM_BRANCH_REPAIR_TOO_WEAK] = "no repair: the winner has no majority",
    [QUORUM_BRANCH_PREFERRED] = "unit without a winner decided by one child",
    [QUORUM_BRANCH_REPAIR_LOST] = "repair taken back by a flush that failed",
    [QUORUM_BRANCH_REPAIR_WAITS] = "repair waits for others",
    [QUORUM_BRANCH_REPAIR_DROPPED] = "repair behind a read dropped",
    [QUORUM_BRANCH_REPAIR_FUTILE] = "repaired range still can't be read",
    [QUORUM_BRANCH_READ_BESIDE_REPAIR] =
        "child left out that is being repaired",
    [QUORUM_BRANCH_RESYNC] = "chunk copied in the background",
    [QUORUM_BRANCH_WRITE_IN_PIECES] = "write larger than a copy may be",
    [QUORUM_BRANCH_PIECE_MISSED] = "child asked for no more pieces of a write",
    [QUORUM_BRANCH_WRITE_REFUSED] = "write stored by too few children",
    [QUORUM_BRANCH_WRITE_MADE_STALE] = "write made a child stale",
    [QUORUM_BRANCH_WRITE_BESIDE_FLUSH] =
        "flush or loss while a write was in flight",
    [QUORUM_BRANCH_ZEROES_FALLBACK] =
        "zeroes written by children that had refused",
    [QUORUM_BRANCH_ZEROES_REFUSED] = "zeroes refused by all children",
    [QUORUM_BRANCH_FUA_REMEMBERED] =
        "FUA write remembered while others are in flight",
    [QUORUM_BRANCH_FUA_LIST_FULL] = "remembered FUA write counted as unflushed",
    [QUORUM_BRANCH_FUA_MADE_STALE] = "FUA write acknowledged that some failed",
    [QUORUM_BRANCH_FUA_REFUSED] =
        "FUA write failed because older data lacks copies",
    [QUORUM_BRANCH_FLUSH_REFUSED] = "flush failed",
    [QUORUM_BRANCH_FLUSH_MADE_STALE] = "flush made a child stale",
    [QUORUM_BRANCH_FLUSH_TOOK_BACK] =
        "a loss made recovered ranges unsure",
    [QUORUM_BRANCH_RECOVERED_TOO_LATE] =
        "range recovered after the flush began",
    [QUORUM_BRANCH_IN_SYNC] = "rebuilding ended",
    [QUORUM_BRANCH_RESIZE_UNDONE] = "resize undone",
    [QUORUM_BRANCH_RESIZE_EXCLUDED] = "resize excluded a child",
    [QUORUM_BRANCH_SHRINK_TRIED] =
        "children asked for their own length before a shrink",
    [QUORUM_BRANCH_SHRINK_STOPPED] = "child spared by a shrink that fails",
    [QUORUM_BRANCH_GROWTH_ZEROED] = "zeroes written before a growing write",
    [QUORUM_BRANCH_CHILD_EXTENDED] = "shorter child extended",
    [QUORUM_BRANCH_READ_CLIPPED] = "locked read of what was cut off meanwhile",
    [QUORUM_BRANCH_VERIFIED] = "children found alike after an open",
    [QUORUM_BRANCH_RESOLVED] = "an outcome chosen after a crash",
    [QUORUM_BRANCH_MAPS_COARSER] = "granules of the maps doubled",
    [QUORUM_BRANCH_MAPS_FINER] = "granules of the maps halved",
    [QUORUM_BRANCH_ANSWERED_EARLY] = "a read answered before all children had",
    [QUORUM_BRANCH_NOT_LEFT] = "a read that waited, for many were left",
    [QUORUM_BRANCH_SITS_OUT] = "a child not asked, as it has stragglers",
    [QUORUM_BRANCH_HEDGED] = "one more child asked, as one was late",
    [QUORUM_BRANCH_STRAGGLER_DIFFERS] = "a straggler was wrong, or erred",
    [QUORUM_BRANCH_LATE_DROPPED] = "a child that did not answer dropped",
    [QUORUM_BRANCH_LATE_BACK] = "a child that was dropped back again",
    [QUORUM_BRANCH_LATE_JOINED] = "a newcomer that may have late writes",
    [QUORUM_BRANCH_LATE_TAKEN_BACK] = "a write asked a child that was back",
    [QUORUM_BRANCH_LATE_WRITE] = "a write that failed may still come",
    [QUORUM_BRANCH_LATE_METADATA] = "metadata of a format may still come",
    [QUORUM_BRANCH_LATE_RESENT] = "a write done may be done again, later",
    [QUORUM_BRANCH_LATE_WAIT] = "a write waited for the end of late ones",
    [QUORUM_BRANCH_LATE_QUARANTINE] = "late writes ended by quarantine",
    [QUORUM_BRANCH_MADE_UNSURE] = "a child may have lost data",
    [QUORUM_BRANCH_FLUSH_UNSURE] = "flush votes on unsure data",
    [QUORUM_BRANCH_FLUSH_LOST] = "flush fails as data may be lost",
    [QUORUM_BRANCH_WRITE_LOST] = "write lost in flight, and sent again",
    [QUORUM_BRANCH_WRITE_UNSURE] = "write waits for a vote on what is around",
    [QUORUM_BRANCH_NOT_VOUCHED] = "winner is not vouched for",
    [QUORUM_BRANCH_TOLD] = "all agree after the loss was told",
    [QUORUM_BRANCH_CONFIRMED] = "unsure child confirmed",
    [QUORUM_BRANCH_WRITTEN_AGAIN] = "confirmed data written again",
    [QUORUM_BRANCH_CHECKED] = "read checked by digests",
    [QUORUM_BRANCH_WRONG_DIGEST] = "one child has a wrong digest",
    [QUORUM_BRANCH_DIGEST_DISAGREES] = "all agree on what has a wrong digest",
    [QUORUM_BRANCH_DIGEST_DECIDED] = "digest decided what no vote could",
    [QUORUM_BRANCH_DIGEST_LOST] = "no child has the digest",
    [QUORUM_BRANCH_DIGEST_TOLD] = "digest of what was lost, as was told",
    [QUORUM_BRANCH_OUTVOTED_REPAIRED] = "what a digest knows given to others",
    [QUORUM_BRANCH_LOST_OF_GRANULE] =
        "child that lost a part of a granule kept",
};
