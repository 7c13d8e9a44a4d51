/*
 * Quorum block driver: what is known of a child
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/qapi-types-block-core.h"
#include "quorum.h"

void quorum_slot_reset(QuorumSlot *slot)
{
    *slot = (QuorumSlot) { .child = NULL };
    stat64_init(&slot->counters.read_errors, 0);
    stat64_init(&slot->counters.write_errors, 0);
    stat64_init(&slot->counters.flush_errors, 0);
    stat64_init(&slot->counters.mismatches, 0);
    stat64_init(&slot->counters.repaired_bytes, 0);
}

BlockStatsSpecific *quorum_get_stats(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    BlockStatsSpecific *stats = g_new0(BlockStatsSpecific, 1);
    QuorumChildStatsList **tail = &stats->u.quorum.children;

    stats->driver = BLOCKDEV_DRIVER_QUORUM;
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        QuorumChildStats *info = g_new0(QuorumChildStats, 1);

        info->child = g_strdup_printf("children.%d", i);
        if (slot->child) {
            info->node_name = g_strdup(bdrv_get_node_name(slot->child->bs));
        }
        info->read_errors = stat64_get(&slot->counters.read_errors);
        info->write_errors = stat64_get(&slot->counters.write_errors);
        info->flush_errors = stat64_get(&slot->counters.flush_errors);
        info->mismatches = stat64_get(&slot->counters.mismatches);
        info->repaired_bytes = stat64_get(&slot->counters.repaired_bytes);
        QAPI_LIST_APPEND(tail, info);
    }
    return stats;
}
