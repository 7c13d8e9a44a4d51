/*
 * Quorum block driver: the job that reads everything, votes and repairs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A scrub goes once from the start of the node to its end, chunk by chunk, and
 * each chunk is one locked read (see quorum_co_scrub()).  Between two chunks it
 * holds nothing at all: the guest may be waiting for a range, a drained section
 * waits for the job, and the graph may change.  So nothing that was learned of
 * the node in one chunk is believed in the next one.
 *
 * Reads of the guest end once a winner is found, so only a scrub finds out what
 * a second failure would cost.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/blockjob_int.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/bitmap.h"
#include "qemu/stats64.h"
#include "qemu/units.h"
#include "digest-store.h"
#include "resync.h"
#include "scrub-chunk.h"
#include "trace.h"
#include "write.h"

/*
 * How much is read at once: enough for disks to be busy, little enough for a
 * guest that waits for the range.
 */
#define QUORUM_SCRUB_CHUNK (1 * MiB)
QEMU_BUILD_BUG_ON(QUORUM_SCRUB_CHUNK % QUORUM_UNIT);

/*
 * How many events a scrub may send for the ranges that it finds: more than
 * people read, and too few to flood a monitor.
 */
#define QUORUM_SCRUB_RANGES_MAX 1000

typedef struct QuorumScrubJob {
    BlockJob common;

    /* Set once.  The job keeps the node. */
    BlockDriverState *bs;
    QuorumScrubSync sync;
    bool forget;                /* first, all digests */
    BlockdevOnError on_error;

    /* Used by the job's coroutine only. */
    QuorumScrub scrub;
    int64_t offset;             /* all before it is done */
    int64_t left_stale;         /* stale bytes before offset */

    /*
     * The last range of each kind, which may go on in the next chunk, or NULL;
     * and how many have been told.  At the end, used by the main thread.
     */
    QuorumScrubRange *last_range[QUORUM_SCRUB_FINDING__MAX];
    int ranges_told;

    /* Atomic: the job's coroutine writes, query commands read. */
    Stat64 checked;
    Stat64 known;
    Stat64 mismatched;
    Stat64 missing;
    Stat64 repaired;
    Stat64 preferred;
    Stat64 unrepairable;
    Stat64 ranges_omitted;
} QuorumScrubJob;

static void quorum_scrub_count(QuorumScrubJob *sj, const QuorumFigures *figures)
{
    stat64_add(&sj->mismatched, figures->mismatched);
    stat64_add(&sj->missing, figures->missing);
    stat64_add(&sj->repaired, figures->repaired);
    stat64_add(&sj->preferred, figures->preferred);
    stat64_add(&sj->unrepairable, figures->unrepairable);
}

/* Tell of the last range of the kind @what, which is complete. */
static void quorum_scrub_tell(QuorumScrubJob *sj, QuorumScrubFinding what)
{
    QuorumScrubRange *range = g_steal_pointer(&sj->last_range[what]);
    strList *children = NULL, **tail = &children;

    if (range && sj->ranges_told == QUORUM_SCRUB_RANGES_MAX) {
        stat64_add(&sj->ranges_omitted, 1);
    } else if (range) {
        for (int i = find_first_bit(range->children, range->n); i < range->n;
             i = find_next_bit(range->children, range->n, i + 1)) {
            QAPI_LIST_APPEND(tail, quorum_child_name(i));
        }
        qapi_event_send_quorum_scrub_range(sj->common.job.id, range->offset,
                                           range->bytes, what, range->winner,
                                           children);
        qapi_free_strList(children);
        sj->ranges_told++;
    }
    quorum_scrub_range_free(range);
}

/*
 * Tell of the ranges that have been found, but for the last one of each kind.
 * If the chunk is to be @repeated, what has not been repaired will be found
 * once more.
 */
static void coroutine_fn quorum_scrub_tell_ranges(QuorumScrubJob *sj,
                                                  bool repeated)
{
    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        GPtrArray *ranges = sj->scrub.ranges[what];

        for (guint i = 0; i < ranges->len; i++) {
            QuorumScrubRange *range = g_ptr_array_index(ranges, i);
            QuorumScrubRange *last = sj->last_range[what];

            if ((repeated && range->left) ||
                (last && quorum_scrub_range_extend(last, range))) {
                continue;
            }
            quorum_scrub_tell(sj, what);
            sj->last_range[what] = range;
            ranges->pdata[i] = NULL;
        }
        g_ptr_array_set_size(ranges, 0);
    }
}

/* Tell of the ranges that can't go on, since all before sj->offset is done. */
static void coroutine_fn quorum_scrub_tell_ended(QuorumScrubJob *sj)
{
    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        const QuorumScrubRange *last = sj->last_range[what];

        if (last && last->offset + last->bytes < sj->offset) {
            quorum_scrub_tell(sj, what);
        }
    }
}

/* What is still to be done, as far as one can tell */
static int64_t GRAPH_RDLOCK quorum_scrub_remaining(QuorumScrubJob *sj,
                                                   int64_t length)
{
    BDRVQuorumState *s = sj->bs->opaque;
    int64_t ahead = MAX(length - sj->offset, 0);
    int64_t stale;

    if (sj->sync == QUORUM_SCRUB_SYNC_FULL) {
        return ahead;
    }
    /*
     * An estimate: a range that is stale on two children is counted twice here,
     * but one chunk repairs both.
     */
    stale = quorum_sync_stale_sum(s->sync, 0, INT64_MAX) - sj->left_stale;
    return MIN(MAX(stale, 0), ahead);
}

/*
 * Choose what to read next, [*start, *start + *bytes): it ends at a multiple of
 * the chunk's size, so that granules of stale maps, larger ones included, are
 * whole in it.  Returns false at the end.
 */
static bool GRAPH_RDLOCK quorum_scrub_next(QuorumScrubJob *sj, int64_t length,
                                           int64_t *start, int64_t *bytes)
{
    BDRVQuorumState *s = sj->bs->opaque;

    *start = sj->offset;
    *bytes = length - sj->offset;
    if (*bytes <= 0 ||
        (sj->sync == QUORUM_SCRUB_SYNC_STALE &&
         !quorum_sync_next_stale(s->sync, sj->offset, length, start, bytes))) {
        return false;
    }
    *bytes = quorum_sync_chunk(s->sync, *start, *start + *bytes,
                               QUORUM_SCRUB_CHUNK,
                               quorum_request_max_bytes(sj->bs));
    return true;
}

/*
 * Do one chunk.  Returns its error, and in *@bytes how far it went; sj->offset
 * is where it began.  At the end, that is 0 bytes.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_scrub_chunk(QuorumScrubJob *sj, int64_t *bytes)
{
    BlockDriverState *bs = sj->bs;
    int64_t length = quorum_length(bs);
    int64_t start;
    int ret;

    job_progress_set_remaining(&sj->common.job,
                               quorum_scrub_remaining(sj, length));
    if (!quorum_scrub_next(sj, length, &start, bytes)) {
        job_progress_set_remaining(&sj->common.job, 0);
        *bytes = 0;
        return 0;
    }
    assert(start >= sj->offset && *bytes > 0);
    sj->offset = start;
    ret = quorum_co_scrub(bs, start, *bytes, &sj->scrub);
    trace_quorum_scrub_chunk(bs->node_name, start, *bytes,
                             sj->scrub.left.mismatched +
                             sj->scrub.in_repaired.mismatched,
                             sj->scrub.left.missing +
                             sj->scrub.in_repaired.missing,
                             sj->scrub.left.unrepairable, ret);
    quorum_scrub_count(sj, &sj->scrub.in_repaired);
    return ret;
}

/* The chunk from sj->offset on has been done, well or not. */
static void coroutine_fn GRAPH_UNLOCKED
quorum_scrub_advance(QuorumScrubJob *sj, int64_t bytes)
{
    quorum_scrub_count(sj, &sj->scrub.left);
    quorum_scrub_tell_ranges(sj, false);
    stat64_add(&sj->checked, bytes);
    stat64_add(&sj->known, sj->scrub.known);
    if (sj->sync == QUORUM_SCRUB_SYNC_STALE) {
        BDRVQuorumState *s = sj->bs->opaque;

        GRAPH_RDLOCK_GUARD();
        sj->left_stale += quorum_sync_stale_sum(s->sync, sj->offset, bytes);
    }
    sj->offset += bytes;
    quorum_scrub_tell_ended(sj);
    job_progress_update(&sj->common.job, bytes);
}

/* How often a child has failed a flush. */
static uint64_t GRAPH_RDLOCK quorum_flush_errors(BDRVQuorumState *s)
{
    uint64_t sum = 0;

    for (int i = 0; i < s->num_slots; i++) {
        sum += stat64_get(&s->slots[i].counters.flush_errors);
    }
    return sum;
}

/*
 * Flush what has been repaired.  A flush of the node may well succeed although
 * a child fails it; then that child is stale again, and the repair was in vain.
 */
static int coroutine_fn GRAPH_UNLOCKED quorum_scrub_flush(QuorumScrubJob *sj)
{
    BlockDriverState *bs = sj->bs;
    uint64_t errors;
    int ret;

    GRAPH_RDLOCK_GUARD();
    if (bs->open_flags & BDRV_O_INACTIVE) {
        return -EPERM;
    }
    errors = quorum_flush_errors(bs->opaque);
    ret = quorum_co_flush_unheard(bs);
    if (ret == 0 && quorum_flush_errors(bs->opaque) != errors) {
        ret = -EIO;
    }
    return ret;
}

/* What is to be done about the error @ret of a chunk */
static BlockErrorAction quorum_scrub_action(QuorumScrubJob *sj, int ret,
                                            bool first)
{
    if (sj->on_error == BLOCKDEV_ON_ERROR_IGNORE && !first) {
        /* The first error has been told; the others are like it. */
        return BLOCK_ERROR_ACTION_IGNORE;
    }
    return block_job_error_action(&sj->common, sj->on_error,
                                  !sj->scrub.write_failed, -ret);
}

/* Forget all digests, if that is asked for. */
static int coroutine_fn GRAPH_UNLOCKED
quorum_scrub_forget(QuorumScrubJob *sj, Error **errp)
{
    BlockDriverState *bs = sj->bs;
    BDRVQuorumState *s = bs->opaque;
    int ret = 0;

    bdrv_inc_in_flight(bs);
    WITH_GRAPH_RDLOCK_GUARD() {
        if (sj->forget && s->digests && !(bs->open_flags & BDRV_O_INACTIVE)) {
            ret = quorum_store_forget(bs, errp);
        }
    }
    bdrv_dec_in_flight(bs);
    return ret;
}

static int coroutine_fn quorum_scrub_run(Job *job, Error **errp)
{
    QuorumScrubJob *sj = container_of(job, QuorumScrubJob, common.job);
    BlockDriverState *bs = sj->bs;
    int error = 0;
    int ret;

    ret = quorum_scrub_forget(sj, errp);
    if (ret < 0) {
        return ret;
    }
    while (true) {
        BlockErrorAction action = BLOCK_ERROR_ACTION_IGNORE;
        int64_t bytes = 0;
        bool inactive;

        block_job_ratelimit_sleep(&sj->common);
        if (job_is_cancelled(job)) {
            return 0;
        }

        ret = 0;
        bdrv_inc_in_flight(bs);
        WITH_GRAPH_RDLOCK_GUARD() {
            inactive = bs->open_flags & BDRV_O_INACTIVE;
            if (!inactive) {
                ret = quorum_scrub_chunk(sj, &bytes);
            }
        }
        bdrv_dec_in_flight(bs);

        if (inactive) {
            error_setg(errp, "Node '%s' has become inactive",
                       bdrv_get_node_name(bs));
            return -EPERM;
        }
        if (ret < 0) {
            action = quorum_scrub_action(sj, ret, error == 0);
            if (action == BLOCK_ERROR_ACTION_STOP) {
                quorum_scrub_tell_ranges(sj, true);
                continue;
            }
            error = error ?: ret;
        }
        if (bytes == 0) {
            break;
        }
        quorum_scrub_advance(sj, bytes);
        if (action == BLOCK_ERROR_ACTION_REPORT) {
            break;
        }
        block_job_ratelimit_processed_bytes(&sj->common, bytes);
    }

    if (sj->scrub.repair) {
        ret = quorum_scrub_flush(sj);
        error = error ?: ret;
    }
    return error;
}

/*
 * The children of @bs that could be preferred, for an error message.  Owned by
 * the caller.
 */
static char *GRAPH_RDLOCK quorum_scrub_candidates(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    GString *names = g_string_new(NULL);

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_is_member(s, i)) {
            g_autofree char *name = quorum_child_name(i);

            g_string_append_printf(names, "%s%s", names->len ? ", " : "", name);
        }
    }
    return g_string_free(names, false);
}

/*
 * The node, without filters, of the child @name of @bs; the caller gets a
 * reference.  NULL with @errp set if the child can't be preferred.
 */
static BlockDriverState *quorum_scrub_find_preferred(BlockDriverState *bs,
                                                     const char *name,
                                                     Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    const char *node = bdrv_get_node_name(bs);
    g_autofree char *candidates = NULL;
    BlockDriverState *found;
    int i;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    for (i = 0; i < s->num_slots; i++) {
        g_autofree char *child = quorum_child_name(i);

        if (!strcmp(child, name)) {
            break;
        }
    }
    if (i < s->num_slots && quorum_is_member(s, i)) {
        found = bdrv_skip_filters(s->slots[i].child->bs);
        bdrv_ref(found);
        return found;
    }
    candidates = quorum_scrub_candidates(bs);
    error_setg(errp, "Cannot prefer '%s' of node '%s': %s; what can be "
               "preferred is: %s", name, node,
               i == s->num_slots ? "there is no such child" :
               !s->slots[i].child ? "the slot is vacant" :
               "the child is excluded, its length is not the node's",
               candidates);
    return NULL;
}

/*
 * A scrub of @bs, which may be any node, is about to start; with @repair the
 * children get the permission to be written to as soon as permissions are
 * refreshed.  If @prefer is not NULL, @preferred is set to the node of that
 * child, as above.  Returns false, with @errp set, if that can't be.
 */
static bool quorum_scrub_begin(BlockDriverState *bs, bool repair,
                               const char *prefer, BlockDriverState **preferred,
                               Error **errp)
{
    const char *name = bdrv_get_node_name(bs);
    BDRVQuorumState *s;

    if (g_strcmp0(bdrv_get_format_name(bs), "quorum") != 0) {
        error_setg(errp, "Cannot scrub node '%s': it is not a quorum node, its "
                   "driver is '%s'", name, bdrv_get_format_name(bs) ?: "none");
        return false;
    }
    s = bs->opaque;
    if (s->scrub) {
        error_setg(errp, "Cannot scrub node '%s': there is a scrub of it "
                   "already", name);
        return false;
    }
    if (s->opts.blkverify) {
        error_setg(errp, "Cannot scrub node '%s': with blkverify=on, QEMU ends "
                   "at the first difference; open it without", name);
        return false;
    }
    if (bs->open_flags & BDRV_O_INACTIVE) {
        error_setg(errp, "Cannot scrub node '%s': it is inactive; activate it "
                   "first", name);
        return false;
    }
    if (repair && bdrv_is_read_only(bs)) {
        error_setg(errp, "Cannot repair node '%s': it is read-only; use "
                   "repair=false, or reopen it with read-only=off", name);
        return false;
    }
    if (prefer && !repair) {
        error_setg(errp, "Parameter 'prefer' needs repair=true: what '%s' "
                   "holds would be written over the other children", prefer);
        return false;
    }
    *preferred = prefer ? quorum_scrub_find_preferred(bs, prefer, errp) : NULL;
    if (prefer && !*preferred) {
        return false;
    }
    bdrv_graph_rdlock_main_loop();
    for (int i = 0; i < s->num_slots; i++) {
        s->slots[i].scrub_reported = 0;
    }
    bdrv_graph_rdunlock_main_loop();
    qatomic_set(&s->scrub, true);
    s->scrub_repairs = repair;
    return true;
}

/* The scrub of @bs has ended, or has not started after all. */
static void quorum_scrub_end(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    qatomic_set(&s->scrub, false);
    s->scrub_repairs = false;
    bdrv_graph_rdlock_main_loop();
    for (int i = 0; i < s->num_slots; i++) {
        if (s->slots[i].child) {
            /* Giving up a permission can't fail. */
            bdrv_child_refresh_perms(bs, s->slots[i].child, NULL);
        }
    }
    bdrv_graph_rdunlock_main_loop();
    quorum_resync_kick(bs);
}

/* Owned by the caller: what @info points to. */
static void quorum_scrub_describe(QuorumScrubJob *sj,
                                  BlockJobInfoQuorumScrub *info)
{
    *info = (BlockJobInfoQuorumScrub) {
        .node_name = g_strdup(bdrv_get_node_name(sj->bs)),
        .repair = sj->scrub.repair,
        .sync = sj->sync,
        .checked_bytes = stat64_get(&sj->checked),
        .digest_bytes = stat64_get(&sj->known),
        .mismatched_bytes = stat64_get(&sj->mismatched),
        .missing_bytes = stat64_get(&sj->missing),
        .repaired_bytes = stat64_get(&sj->repaired),
        .preferred_bytes = stat64_get(&sj->preferred),
        .unrepairable_bytes = stat64_get(&sj->unrepairable),
        .ranges_omitted = stat64_get(&sj->ranges_omitted),
    };
}

static void quorum_scrub_query(BlockJob *job, BlockJobInfo *info)
{
    quorum_scrub_describe(container_of(job, QuorumScrubJob, common),
                          &info->u.quorum_scrub);
}

static void quorum_scrub_clean(Job *job)
{
    QuorumScrubJob *sj = container_of(job, QuorumScrubJob, common.job);
    QuorumScrubCompleted info = { 0 };

    quorum_scrub_end(sj->bs);
    bdrv_unref(sj->scrub.prefer);
    trace_quorum_scrub_end(sj->bs->node_name, job->ret);

    for (int what = 0; what < QUORUM_SCRUB_FINDING__MAX; what++) {
        quorum_scrub_tell(sj, what);
    }
    quorum_scrub_ranges_free(&sj->scrub);
    quorum_scrub_describe(sj, qapi_QuorumScrubCompleted_base(&info));
    info.id = job->id;
    WITH_JOB_LOCK_GUARD() {
        info.error = job->ret ? g_strdup(error_get_pretty(job->err)) : NULL;
    }
    qapi_event_send_quorum_scrub_completed(&info);
    g_free(info.error);
    g_free(info.node_name);
}

static const BlockJobDriver quorum_scrub_job_driver = {
    .job_driver = {
        .instance_size = sizeof(QuorumScrubJob),
        .job_type      = JOB_TYPE_QUORUM_SCRUB,
        .free          = block_job_free,
        .user_resume   = block_job_user_resume,
        .run           = quorum_scrub_run,
        .clean         = quorum_scrub_clean,
    },
    .query = quorum_scrub_query,
};

void qmp_quorum_scrub(const char *job_id, const char *node,
                      bool has_repair, bool repair,
                      bool has_sync, QuorumScrubSync sync,
                      const char *prefer,
                      bool has_digests, QuorumScrubDigests digests,
                      bool has_speed, int64_t speed,
                      bool has_on_error, BlockdevOnError on_error,
                      bool has_auto_finalize, bool auto_finalize,
                      bool has_auto_dismiss, bool auto_dismiss, Error **errp)
{
    BlockDriverState *bs, *preferred;
    QuorumScrubJob *sj;
    int flags = JOB_DEFAULT;
    bool named;

    GLOBAL_STATE_CODE();

    if (!has_repair) {
        repair = true;
    }
    if (has_auto_finalize && !auto_finalize) {
        flags |= JOB_MANUAL_FINALIZE;
    }
    if (has_auto_dismiss && !auto_dismiss) {
        flags |= JOB_MANUAL_DISMISS;
    }

    bs = bdrv_lookup_bs(node, node, errp);
    if (!bs) {
        return;
    }
    bdrv_graph_rdlock_main_loop();
    named = job_id || *bdrv_get_device_name(bs);
    bdrv_graph_rdunlock_main_loop();
    if (!named) {
        error_setg(errp, "Parameter 'job-id' is missing: node '%s' is not of "
                   "a device, whose name the job could take",
                   bdrv_get_node_name(bs));
        return;
    }

    /* The children's permissions are refreshed by what comes next. */
    if (!quorum_scrub_begin(bs, repair, prefer, &preferred, errp)) {
        return;
    }
    sj = block_job_create(job_id, &quorum_scrub_job_driver, NULL, bs,
                          BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                          has_speed ? speed : 0, flags, NULL, NULL, errp);
    if (!sj) {
        quorum_scrub_end(bs);
        bdrv_unref(preferred);
        return;
    }
    /* Nothing that is done to the node meanwhile harms a scrub. */
    bdrv_op_unblock_all(bs, sj->common.blocker);

    sj->bs = bs;
    sj->forget = has_digests && digests == QUORUM_SCRUB_DIGESTS_FORGET;
    sj->sync = has_sync ? sync : QUORUM_SCRUB_SYNC_FULL;
    sj->on_error = has_on_error ? on_error : BLOCKDEV_ON_ERROR_REPORT;
    sj->scrub.repair = repair;
    sj->scrub.prefer = preferred;
    quorum_scrub_ranges_init(&sj->scrub);
    stat64_init(&sj->checked, 0);
    stat64_init(&sj->known, 0);
    stat64_init(&sj->mismatched, 0);
    stat64_init(&sj->missing, 0);
    stat64_init(&sj->repaired, 0);
    stat64_init(&sj->preferred, 0);
    stat64_init(&sj->unrepairable, 0);
    stat64_init(&sj->ranges_omitted, 0);
    trace_quorum_scrub_start(bs->node_name, repair,
                             QuorumScrubSync_str(sj->sync), prefer ?: "");
    job_start(&sj->common.job);
}
