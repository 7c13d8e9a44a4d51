/*
 * Quorum block driver: what the children say about themselves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Their length, what they have allocated, their clusters, and where they have
 * zeroes.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "losses.h"
#include "request.h"
#include "vote.h"

int64_t quorum_winning_length(const BDRVQuorumState *s, const int64_t *lengths)
{
    g_autofree int *version = NULL;
    int unknown = 0;
    int winner;

    for (int i = 0; i < s->num_slots; i++) {
        unknown += lengths[i] < 0;
    }
    if (s->num_slots - unknown < s->opts.threshold) {
        return -1;
    }
    if (quorum_length_is_majority(s)) {
        /* Those that are not there may be among the threshold longest. */
        return quorum_nth_largest(lengths, s->num_slots,
                                  MAX(s->opts.threshold - unknown, 1));
    }
    version = g_new(int, s->num_slots);
    quorum_group_values(lengths, s->num_slots, version);
    winner = quorum_winner(version, s->num_slots, s->opts.threshold, NULL,
                           NULL);
    return winner < 0 ? -1 : lengths[winner];
}

int64_t coroutine_fn quorum_co_getlength(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    return quorum_sync_length(s->sync);
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_allocated_file_size(QuorumRequest *req, QuorumAnswer *a)
{
    return bdrv_co_get_allocated_file_size(a->child->bs);
}

int64_t coroutine_fn quorum_co_get_allocated_file_size(BlockDriverState *bs)
{
    QuorumRequest *req = quorum_request_new(bs, 0, 0, NULL, 0);
    int64_t sum = 0;

    quorum_ask_all(req, quorum_ask_allocated_file_size);
    for (int i = 0; i < req->n; i++) {
        const QuorumAnswer *a = &req->answers[i];

        if (quorum_answer_counts(a) && a->ret > 0) {
            sum += a->ret;
        }
    }
    if (!quorum_count_good(req)) {
        sum = quorum_request_errno(req);
    }
    quorum_request_free(req);
    return sum;
}

/*
 * A caller that copies cluster by cluster must not split the cluster of any
 * child: the largest one is a size that suits all of them.
 */
int coroutine_fn quorum_co_get_info(BlockDriverState *bs, BlockDriverInfo *bdi)
{
    BDRVQuorumState *s = bs->opaque;
    int ret = -ENOTSUP;

    for (int i = 0; i < s->num_slots; i++) {
        BlockDriverInfo child_info = { 0 };

        if (quorum_is_asked(s, i) &&
            bdrv_co_get_info(s->slots[i].child->bs, &child_info) >= 0) {
            bdi->cluster_size = MAX(bdi->cluster_size,
                                    child_info.cluster_size);
            bdi->subcluster_size = MAX(bdi->subcluster_size,
                                       child_info.subcluster_size);
            ret = 0;
        }
    }
    return ret;
}

bool coroutine_fn quorum_co_is_inserted(BlockDriverState *bs)
{
    /*
     * A vote here would be the wrong place to find out that too few children
     * have a medium: to the core, flushing what is not inserted is a success.
     * And one child without a medium does not make the disk one without a
     * medium (promise 7).
     */
    return true;
}

static int64_t coroutine_fn GRAPH_RDLOCK
quorum_ask_block_status(QuorumRequest *req, QuorumAnswer *a)
{
    int ret = bdrv_co_block_status_above(a->child->bs, NULL, req->offset,
                                         req->bytes, &a->pnum, NULL, NULL);

    /* A child that ends early can't say anything about the rest. */
    return ret >= 0 && a->pnum == 0 ? -EIO : ret;
}

/*
 * Zero only if enough voters say so and none says otherwise: a caller that
 * takes zeroes for granted does not read, so that there is no vote (promise 2).
 */
int coroutine_fn quorum_co_block_status(BlockDriverState *bs, bool want_zero,
                                        int64_t offset, int64_t bytes,
                                        int64_t *pnum, int64_t *map,
                                        BlockDriverState **file)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumRequest *req;
    int64_t data_bytes = 0;         /* some child has data that far */
    int64_t zero_bytes = INT64_MAX; /* all children have zeroes that far */
    int zeroes = 0;

    if (!want_zero) {
        /* All of it is allocated here: there is nothing to ask. */
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }

    req = quorum_request_new(bs, offset, bytes, NULL, 0);
    quorum_request_admit(req);
    /* As far as each child is either stale or not */
    bytes = quorum_sync_uniform_range(s->sync, offset, bytes);
    req->bytes = bytes;
    quorum_request_leave_out_stale(req);
    quorum_ask_all(req, quorum_ask_block_status);
    quorum_notice_losses(bs);
    quorum_request_leave_out_stale(req);
    if (unlikely(bdrv_last_loss_generation() != req->losses)) {
        quorum_request_leave_out_lost(req);
    }

    for (int i = 0; i < req->n; i++) {
        QuorumAnswer *a = &req->answers[i];

        if (!quorum_answer_counts(a) || a->ret < 0) {
            continue;
        }
        if (a->ret & BDRV_BLOCK_ZERO) {
            zeroes++;
            zero_bytes = MIN(zero_bytes, a->pnum);
        } else {
            data_bytes = MAX(data_bytes, a->pnum);
        }
    }
    quorum_request_free(req);

    if (data_bytes) {
        *pnum = data_bytes;
        return BDRV_BLOCK_DATA;
    }
    if (zeroes < s->opts.threshold) {
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }
    *pnum = zero_bytes;
    return BDRV_BLOCK_ZERO;
}
