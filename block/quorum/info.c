/*
 * Quorum block driver: what management is told about the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/qapi-types-block-core.h"
#include "quorum-int.h"

BlockStatsSpecific *quorum_get_stats(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    BlockStatsSpecific *stats = g_new0(BlockStatsSpecific, 1);
    QuorumChildStatsList **tail = &stats->u.quorum.children;

    stats->driver = BLOCKDEV_DRIVER_QUORUM;
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        QuorumChildStats *info = g_new0(QuorumChildStats, 1);

        info->child = quorum_child_name(i);
        if (slot->child) {
            info->node_name = g_strdup(bdrv_get_node_name(slot->child->bs));
        }
        info->stale_bytes = quorum_stale_bytes(s, i);
        info->read_errors = stat64_get(&slot->counters.read_errors);
        info->write_errors = stat64_get(&slot->counters.write_errors);
        info->flush_errors = stat64_get(&slot->counters.flush_errors);
        info->mismatches = stat64_get(&slot->counters.mismatches);
        info->repaired_bytes = stat64_get(&slot->counters.repaired_bytes);
        QAPI_LIST_APPEND(tail, info);
    }
    return stats;
}

static QuorumChildState GRAPH_RDLOCK
quorum_child_state(const QuorumSlot *slot, int64_t stale_bytes)
{
    if (!slot->child) {
        return QUORUM_CHILD_STATE_VACANT;
    }
    if (!slot->child->bs->drv) {
        return QUORUM_CHILD_STATE_CORRUPT;
    }
    if (qatomic_read(&slot->out)) {
        return QUORUM_CHILD_STATE_OUT;
    }
    if (qatomic_read(&slot->rebuilding)) {
        return QUORUM_CHILD_STATE_REBUILDING;
    }
    return stale_bytes ? QUORUM_CHILD_STATE_STALE : QUORUM_CHILD_STATE_OK;
}

ImageInfoSpecific *quorum_get_specific_info(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    ImageInfoSpecific *spec = g_new0(ImageInfoSpecific, 1);
    ImageInfoSpecificQuorum *quorum = g_new0(ImageInfoSpecificQuorum, 1);
    QuorumChildInfoList **tail = &quorum->children;

    spec->type = IMAGE_INFO_SPECIFIC_KIND_QUORUM;
    spec->u.quorum.data = quorum;
    quorum->vote_threshold = s->opts.threshold;
    quorum->read_pattern = s->opts.read_pattern;
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        QuorumChildInfo *info = g_new0(QuorumChildInfo, 1);

        info->child = quorum_child_name(i);
        if (slot->child) {
            info->node_name = g_strdup(bdrv_get_node_name(slot->child->bs));
        } else {
            info->error = g_strdup(slot->error);
        }
        info->stale_bytes = quorum_stale_bytes(s, i);
        info->state = quorum_child_state(slot, info->stale_bytes);
        QAPI_LIST_APPEND(tail, info);
    }
    return spec;
}
