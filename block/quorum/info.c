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
#include "qemu/timer.h"
#include "checked.h"
#include "digest-store.h"
#include "early.h"
#include "info.h"
#include "request.h"
#include "resync.h"
#include "state.h"

BlockStatsSpecific *quorum_get_stats(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    BlockStatsSpecific *stats = g_new0(BlockStatsSpecific, 1);
    QuorumChildStatsList **tail = &stats->u.quorum.children;

    stats->driver = BLOCKDEV_DRIVER_QUORUM;
    stats->u.quorum.checked = quorum_checked_stats(s);
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        QuorumChildStats *info = g_new0(QuorumChildStats, 1);
        int64_t us;

        info->child = quorum_child_name(i);
        if (slot->child) {
            info->node_name = g_strdup(bdrv_get_node_name(slot->child->bs));
        }
        info->stale_bytes = quorum_sync_stale_bytes(s->sync, i);
        info->unsure_bytes = quorum_sync_unsure_bytes(s->sync, i);
        info->losses = quorum_sync_losses(s->sync, i);
        info->read_errors = stat64_get(&slot->counters.read_errors);
        info->write_errors = stat64_get(&slot->counters.write_errors);
        info->flush_errors = stat64_get(&slot->counters.flush_errors);
        info->mismatches = stat64_get(&slot->counters.mismatches);
        info->repaired_bytes = stat64_get(&slot->counters.repaired_bytes);
        info->hedged_reads = stat64_get(&slot->counters.hedged_reads);
        info->late_reads = stat64_get(&slot->counters.late_reads);
        us = quorum_latency_us(slot, QUORUM_LATENCY_READ);
        info->has_read_latency_us = us >= 0;
        info->read_latency_us = MAX(us, 0);
        us = quorum_latency_us(slot, QUORUM_LATENCY_WRITE);
        info->has_write_latency_us = us >= 0;
        info->write_latency_us = MAX(us, 0);
        info->timeouts = stat64_get(&slot->counters.timeouts);
        info->has_read_bytes = s->digests;
        info->read_bytes = stat64_get(&slot->counters.read_bytes);
        QAPI_LIST_APPEND(tail, info);
    }
    return stats;
}

static QuorumChildState GRAPH_RDLOCK
quorum_child_state(BDRVQuorumState *s, int i)
{
    BdrvChild *child = s->slots[i].child;

    /* Before a request has failed because of that */
    if (child && !child->bs->drv) {
        return QUORUM_CHILD_STATE_CORRUPT;
    }
    return quorum_sync_state(s->sync, i);
}

ImageInfoSpecific *quorum_get_specific_info(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    ImageInfoSpecific *spec = g_new0(ImageInfoSpecific, 1);
    ImageInfoSpecificQuorum *quorum = g_new0(ImageInfoSpecificQuorum, 1);
    QuorumChildInfoList **tail = &quorum->children;
    g_autofree int64_t *ages = g_new(int64_t, s->num_slots);

    quorum_request_ages(s, ages);
    spec->type = IMAGE_INFO_SPECIFIC_KIND_QUORUM;
    spec->u.quorum.data = quorum;
    quorum->vote_threshold = s->opts.threshold;
    quorum->read_pattern = s->opts.read_pattern;
    quorum->resync = quorum_resync_info(bs);
    quorum->state = quorum_state_info(bs);
    quorum->digests = quorum_store_info(bs);
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        QuorumChildInfo *info = g_new0(QuorumChildInfo, 1);

        info->child = quorum_child_name(i);
        if (slot->child) {
            info->node_name = g_strdup(bdrv_get_node_name(slot->child->bs));
        } else {
            info->error = g_strdup(slot->error);
        }
        info->stale_bytes = quorum_sync_stale_bytes(s->sync, i);
        info->unsure_bytes = quorum_sync_unsure_bytes(s->sync, i);
        info->state = quorum_child_state(s, i);
        info->has_oldest_request_ms = ages[i] >= 0;
        info->oldest_request_ms = ages[i] / SCALE_MS;
        QAPI_LIST_APPEND(tail, info);
    }
    return spec;
}

void quorum_dump(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *text = quorum_sync_text(s->sync);
    QuorumRequest *req;

    /* No lock is taken: in a debugger, its owner does not go on. */
    fputs(text, stderr);
    QLIST_FOREACH(req, &s->in_flight, next) {
        fprintf(stderr, "  request [%" PRId64 ", %" PRId64 ") waits for:",
                req->offset, req->offset + req->bytes);
        for (int i = 0; i < req->n; i++) {
            if (qatomic_read(&req->answers[i].in_flight)) {
                fprintf(stderr, " child %d", i);
            }
        }
        fputc('\n', stderr);
    }
}
