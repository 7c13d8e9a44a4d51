/*
 * Quorum block driver: what survives a restart: rounds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Writing it down.  Who wants something to be durable waits for a *round*,
 * which writes to each state node what it lacks, for all who wait.  It is
 * durable when enough of them have it; a node that has failed gets it later.
 *
 * Pages have no contents of their own in memory: those are made from the maps,
 * and from what the QuorumSync knows, when a round writes them.  So what is
 * dirty is a bit for each page and node, and a page that changes while it is
 * written just becomes dirty again.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "debug.h"
#include "losses.h"
#include "state-int.h"
#include "trace.h"

/* How long a node that has failed is left alone, at least and at most. */
#define QUORUM_STATE_BACKOFF_NS     (1 * NANOSECONDS_PER_SECOND)
#define QUORUM_STATE_BACKOFF_MAX_NS (60 * NANOSECONDS_PER_SECOND)

/* How often a round is written to a node that loses it meanwhile */
#define QUORUM_STATE_TRIES 3

/* --- what is dirty --- */

void quorum_state_dirty_page_locked(QuorumState *st, uint32_t number)
{
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].record >= 0) {
            set_bit(number, st->nodes[i].dirty);
        }
    }
}

void quorum_state_dirty_label_locked(QuorumState *st)
{
    quorum_state_dirty_page_locked(st, quorum_state_label_bit(st));
}

void quorum_state_dirty_all_locked(QuorumState *st, int i)
{
    QuorumStateNode *node = &st->nodes[i];
    long pages = quorum_state_num_pages(st);

    /* What any node has, this one must have. */
    for (long p = 0; p < pages; p++) {
        for (int j = 0; j < st->num_nodes; j++) {
            if (st->nodes[j].record >= 0 &&
                (st->nodes[j].newest[p] != QUORUM_STATE_NOWHERE ||
                 test_bit(p, st->nodes[j].dirty))) {
                set_bit(p, node->dirty);
            }
        }
    }
    set_bit(quorum_state_label_bit(st), node->dirty);
}

/* The stale map of record @k is to be written as it is now. */
void quorum_state_dirty_stale_locked(QuorumState *st, int k)
{
    uint32_t pages = quorum_state_stale_pages(&st->label);

    for (uint32_t p = 0; p < pages; p++) {
        quorum_state_dirty_page_locked(
            st, quorum_state_stale_page(&st->label, k, p));
    }
}

void quorum_state_dirty_set_locked(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;

    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].record >= 0) {
            quorum_state_dirty_all_locked(st, i);
            if (quorum_sync_is_behind(s->sync, i)) {
                /* It may have been found out just now. */
                quorum_state_dirty_stale_locked(st, st->nodes[i].record);
            }
        }
    }
}

/* --- what is durable --- */

/*
 * quorum_state_is_enough(), for the configuration that is, or with @old for the
 * one before, of which those that have left can't have it.  Members that are
 * not here count.
 */
static bool quorum_state_is_enough_of(const QuorumState *st, uint64_t slots,
                                      bool old)
{
    const BDRVQuorumState *s = st->bs->opaque;
    int threshold = old ? st->label.old_threshold : s->opts.threshold;
    int nodes = 0, here = 0, have = 0;

    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        nodes += quorum_state_is_member(&st->label, k, false) &&
                 quorum_state_is_member(&st->label, k, old);
    }
    for (int i = 0; i < st->num_nodes; i++) {
        int k = st->nodes[i].record;

        if (k >= 0 && quorum_state_is_member(&st->label, k, old)) {
            here++;
            have += slots >> i & 1;
        }
    }
    return have >= MIN(threshold, s->opts.state_force ? here : nodes);
}

bool quorum_state_is_enough(const QuorumState *st, uint64_t slots)
{
    return quorum_state_is_enough_of(st, slots, false) &&
           quorum_state_is_enough_of(st, slots, true);
}

void quorum_state_leave(QuorumStateRecord *r)
{
    r->flags = r->status == QUORUM_STATE_REMOVED
               ? r->flags : r->flags & QUORUM_STATE_JOINED
               ? 0 : QUORUM_STATE_LEFT;
    r->status = QUORUM_STATE_REMOVED;
    r->place = -1;
}

/* All records are what they always were. */
static void quorum_state_forget_change(QuorumState *st)
{
    st->label.old_threshold = 0;
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        st->label.records[k].flags &= ~(QUORUM_STATE_JOINED |
                                        QUORUM_STATE_LEFT);
    }
}

void quorum_state_note_change(QuorumState *st)
{
    const BDRVQuorumState *s = st->bs->opaque;
    QuorumStateLabel *l = &st->label;
    bool changed = l->threshold != s->opts.threshold;

    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        const QuorumStateRecord *r = &l->records[k];

        changed |= r->status &&
                   r->flags & (QUORUM_STATE_JOINED | QUORUM_STATE_LEFT);
    }
    if (!l->opens) {
        quorum_state_forget_change(st);     /* nothing is written */
    } else if (changed && !l->old_threshold) {
        l->old_threshold = l->threshold;
    }
}

void quorum_state_end_change_locked(QuorumState *st)
{
    if (st->label.old_threshold && st->session && st->config_want &&
        st->durable >= st->config_want) {
        quorum_state_forget_change(st);
        quorum_state_dirty_label_locked(st);
    }
}

/* --- rounds --- */

/* What one round writes; freed by the last node that has it. */
typedef struct QuorumStateRound {
    QuorumState *st;
    uint64_t want;              /* what a node has that has it all */
    int users;
    GHashTable *pages;          /* number to the bytes of the page */
    uint8_t *labels[];          /* [slot] */
} QuorumStateRound;

/* What is written to one node in a round. */
typedef struct QuorumStateJob {
    QuorumStateRound *round;
    int slot;
    long *pages;                /* bits of dirty */
    int num_pages;
    uint8_t *places;            /* where each goes */
    long label;                 /* the bit of the label */
    unsigned generation;        /* of the layout */
    uint64_t seq;               /* the highest in it */
    bool erase;                 /* the labels that are there, first */
    bool look;                  /* whether what is there may be overwritten */
    bool flush;                 /* so that what is there stays */
} QuorumStateJob;

static void quorum_state_round_unref_locked(QuorumStateRound *round)
{
    if (--round->users == 0) {
        g_hash_table_destroy(round->pages);
        for (int i = 0; i < round->st->num_nodes; i++) {
            qemu_vfree(round->labels[i]);
        }
        g_free(round);
    }
}

/* How the child in slot @i is, to its record. */
static void GRAPH_RDLOCK
quorum_state_fill_record_locked(QuorumState *st, int i)
{
    BDRVQuorumState *s = st->bs->opaque;
    const QuorumStateNode *node = &st->nodes[i];
    QuorumStateRecord *r = &st->label.records[node->record];

    r->state_seq = node->seq;
    if (!s->slots[i].child) {
        return;                 /* it is away, and stays what it was */
    }
    r->place = i;
    r->status = quorum_sync_is_rebuilding(s->sync, i) ? QUORUM_STATE_REBUILDING
                                                      : QUORUM_STATE_MEMBER;
    r->flags &= QUORUM_STATE_BEHIND | QUORUM_STATE_JOINED;
    r->flags |= (quorum_sync_is_excluded(s->sync, i) ? QUORUM_STATE_OUT : 0) |
                (node->state == QUORUM_STATE_NODE_STATE_FAILED ?
                 QUORUM_STATE_FAILED : 0);
    r->stale_bytes = quorum_sync_stale_bytes(s->sync, i);
}

/* The label as it is now, of the node in slot @i. */
static uint8_t *quorum_state_make_label_locked(QuorumState *st, int i,
                                               uint64_t seq)
{
    uint8_t *buf = qemu_memalign(QUORUM_STATE_PAGE, QUORUM_STATE_PAGE);
    BDRVQuorumState *s = st->bs->opaque;

    st->label.seq = seq;
    st->label.places = st->num_nodes;
    st->label.threshold = s->opts.threshold;
    st->label.disk_bytes = MIN(quorum_sync_length(s->sync),
                               st->label.max_bytes);
    st->label.member = st->label.records[st->nodes[i].record].member;
    quorum_state_encode_label(&st->label, buf);
    return buf;
}

int quorum_state_slot_of(const QuorumState *st, int k)
{
    const BDRVQuorumState *s = st->bs->opaque;

    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].record == k && s->slots[i].child) {
            return i;
        }
    }
    return -1;
}

/* What page @page of @map, which has @count bits in all, has in @bits. */
static void quorum_state_copy_page(unsigned long *bits,
                                   const unsigned long *map, uint32_t page,
                                   int64_t count)
{
    int64_t first = (int64_t)page * QUORUM_STATE_BITS;

    bitmap_copy(bits, map + BIT_WORD(first),
                MIN(QUORUM_STATE_BITS, count - first));
}

/*
 * Page @page of a stale map is about to be written, with @bits: what @stored
 * says is stored is no more than what it says.  Of two rounds, the nodes may
 * have either page; so what is stored is in all pages that were made.
 */
static void quorum_state_note_page_locked(const QuorumState *st,
                                          unsigned long *stored, uint32_t page,
                                          const unsigned long *bits)
{
    int64_t first = (int64_t)page * QUORUM_STATE_BITS;

    if (stored) {
        bitmap_and(stored + BIT_WORD(first), stored + BIT_WORD(first), bits,
                   MIN(QUORUM_STATE_BITS, quorum_state_stale_bits(st) - first));
    }
}

/* Make page @number as it is now. */
static uint8_t *GRAPH_RDLOCK
quorum_state_make_page_locked(QuorumState *st, uint32_t number)
{
    BDRVQuorumState *s = st->bs->opaque;
    uint32_t intent_pages = quorum_state_intent_pages(&st->label);
    uint32_t stale_pages = quorum_state_stale_pages(&st->label);
    uint8_t *buf = qemu_memalign(QUORUM_STATE_PAGE, QUORUM_STATE_PAGE);
    g_autofree unsigned long *bits = bitmap_new(QUORUM_STATE_BITS);
    QuorumStatePage page = {
        .number = number,
        .layout = st->label.layout,
        .seq = ++st->seq,
        .set = st->label.set,
        .session = quorum_state_session_low(&st->label.session),
    };

    if (number < intent_pages) {
        quorum_state_copy_page(bits, st->wanted, number,
                               quorum_state_intent_bits(st));
    } else {
        int k = (number - intent_pages) / stale_pages;
        int slot = quorum_state_slot_of(st, k);
        uint32_t p = (number - intent_pages) % stale_pages;

        if (slot >= 0) {
            quorum_sync_lacking_bits(s->sync, slot, st->label.stale_shift,
                                     (int64_t)p * QUORUM_STATE_BITS,
                                     QUORUM_STATE_BITS, bits);
        } else if (st->away[k]) {
            quorum_state_copy_page(bits, st->away[k], p,
                                   quorum_state_stale_bits(st));
        }
        quorum_state_note_page_locked(st, st->stored[k], p, bits);
        quorum_state_note_page_locked(st, st->storing[k], p, bits);
        st->written[k] |= !bitmap_empty(bits, QUORUM_STATE_BITS);
    }
    bitmap_to_le(quorum_state_bitmap(buf), bits, QUORUM_STATE_BITS);
    quorum_state_encode_page(&page, buf);
    return buf;
}

/*
 * A round, of which @job is for the node in slot @i: list what is dirty there,
 * and make what is not made yet.
 */
static void GRAPH_RDLOCK
quorum_state_fill_job_locked(QuorumState *st, int i, QuorumStateRound *round,
                             QuorumStateJob *job)
{
    QuorumStateNode *node = &st->nodes[i];
    long label = quorum_state_label_bit(st);
    bool invalid = st->label.flags & QUORUM_STATE_MAPS_INVALID;
    /* As long as the maps are not valid, pages wait. */
    long first = invalid ? label : 0;
    int n = bitmap_count_one(node->dirty, label + 1);
    long p;

    *job = (QuorumStateJob) {
        .round = round,
        .slot = i,
        .label = label,
        .generation = st->generation,
        .pages = g_new(long, n),
        .places = g_new(uint8_t, n),
    };
    for (p = find_next_bit(node->dirty, label + 1, first); p <= label;
         p = find_next_bit(node->dirty, label + 1, p + 1)) {
        uint8_t *buf = g_hash_table_lookup(round->pages, GINT_TO_POINTER(p));

        if (p < label && !buf) {
            buf = quorum_state_make_page_locked(st, p);
            g_hash_table_insert(round->pages, GINT_TO_POINTER(p), buf);
        }
        if (p < label) {
            job->seq = MAX(job->seq, quorum_state_page_seq(buf));
        }
        job->pages[job->num_pages] = p;
        job->places[job->num_pages++] = node->newest[p] == 0;
    }
    bitmap_clear(node->dirty, first, label + 1 - first);
    job->erase = node->erase;
    job->look = node->look;
    job->flush = node->cached;
}

/*
 * Look at a node that was added: what is not ours is not overwritten.  Returns
 * 0, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_state_look_at(QuorumState *st,
                                                          QuorumStateNode *node)
{
    g_autofree uint8_t *buf = g_malloc(QUORUM_STATE_LABELS);
    int ret = bdrv_co_pread(node->child, 0, QUORUM_STATE_LABELS, buf, 0);

    QEMU_LOCK_GUARD(&st->lock);
    node->foreign = ret >= 0 &&
                    !quorum_state_check_blank(buf, node->child->bs, 0,
                                              &st->label.set, NULL);
    return node->foreign ? -EEXIST : ret;
}

/*
 * Write one page, and if @durably, onto the medium.  Where the driver has no
 * FUA, the core would make up for it with a flush, but leave that out right
 * after another one.
 */
static int coroutine_fn GRAPH_RDLOCK quorum_state_put(BdrvChild *child,
                                                      int64_t offset,
                                                      uint8_t *buf,
                                                      bool durably)
{
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, QUORUM_STATE_PAGE);
    bool fua = child->bs->supported_write_flags & BDRV_REQ_FUA;
    int ret;

    ret = bdrv_co_pwritev(child, offset, QUORUM_STATE_PAGE, &qiov,
                          durably && fua ? BDRV_REQ_FUA : 0);
    return ret < 0 || !durably || fua ? ret : bdrv_co_flush(child->bs);
}

/*
 * Write to one node what the round has for it.  The label comes last, for it
 * says that all the rest is there, too.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_try_job(QuorumStateJob *job)
{
    QuorumState *st = job->round->st;
    BdrvChild *child = st->nodes[job->slot].child;
    long label = job->label;
    int64_t length = child->bs->total_sectors * BDRV_SECTOR_SIZE;
    int ret = !(child->perm & BLK_PERM_WRITE) ? -EROFS :
              length < QUORUM_STATE_LABELS ? -ENOSPC :
              job->look ? quorum_state_look_at(st, &st->nodes[job->slot]) : 0;

    if (job->flush && ret >= 0) {
        ret = bdrv_co_flush(child->bs);
    }
    if (job->erase && ret >= 0) {
        ret = bdrv_co_pwrite_zeroes(child, 0, QUORUM_STATE_LABELS,
                                    BDRV_REQ_FUA);
    }
    for (int j = 0; j < job->num_pages && ret >= 0; j++) {
        long p = job->pages[j];
        uint8_t *buf = p == label ? job->round->labels[job->slot] :
                       g_hash_table_lookup(job->round->pages,
                                           GINT_TO_POINTER(p));
        uint32_t number = p == label ? QUORUM_STATE_LABEL : p;
        int64_t offset = quorum_state_offset(number, job->places[j]);

        if (offset + QUORUM_STATE_PAGE > length) {
            return -ENOSPC;
        }
        if (p == label && j > 0) {
            ret = bdrv_co_flush(child->bs);
        }
        if (ret >= 0) {
            ret = quorum_state_put(child, offset, buf, p == label ||
                                                       job->num_pages == 1);
        }
        if (ret >= 0 && p != label && job->num_pages > 1 &&
            j == job->num_pages - 1) {
            ret = bdrv_co_flush(child->bs);
        }
    }
    return ret;
}

/*
 * The same, until the node has lost nothing meanwhile: its server may have been
 * started again between a page and the flush that was to make it durable.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_write_job(QuorumStateJob *job)
{
    BdrvChild *child = job->round->st->nodes[job->slot].child;
    uint64_t losses;
    int ret, tries = 0;

    do {
        losses = quorum_latest_loss(child);
        ret = quorum_state_try_job(job);
        if (ret < 0 || quorum_latest_loss(child) == losses) {
            return ret;
        }
    } while (++tries < QUORUM_STATE_TRIES);
    return -EIO;
}

/* The node has done its job, or failed with @ret. */
static void GRAPH_RDLOCK quorum_state_end_job(QuorumStateJob *job, int ret)
{
    QuorumStateRound *round = job->round;
    QuorumState *st = round->st;
    QuorumStateNode *node = &st->nodes[job->slot];

    if (ret < 0) {
        quorum_state_node_failed(st, job->slot, "written", ret);
    }
    qemu_mutex_lock(&st->lock);
    for (int j = 0; j < job->num_pages; j++) {
        long p = job->pages[j];

        if (p == job->label) {
            p = quorum_state_label_bit(st);
        } else if (job->generation != st->generation) {
            continue;           /* there is another page of that number */
        }
        if (ret < 0) {
            /* The same place again: the other one is valid. */
            set_bit(p, node->dirty);
        } else {
            node->newest[p] = job->places[j];
        }
    }
    if (ret >= 0) {
        node->durable = MAX(node->durable, round->want);
        node->seq = MAX(node->seq, job->seq);
        if (node->state != QUORUM_STATE_NODE_STATE_OK) {
            /* The label still says that it has failed. */
            quorum_state_dirty_label_locked(st);
            node->state = QUORUM_STATE_NODE_STATE_OK;
            g_clear_pointer(&node->error, g_free);
        }
        node->backoff_ns = 0;
        node->erase = node->look = node->cached = false;
    }
    node->busy = false;
    quorum_state_round_unref_locked(round);
    qemu_co_queue_restart_all(&st->waiters);
    qemu_mutex_unlock(&st->lock);
    g_free(job->pages);
    g_free(job->places);
    g_free(job);
}

/*
 * This can count as GRAPH_RDLOCK because the leader of the round has taken the
 * lock once more for this coroutine, which gives it back.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_state_job_entry(void *opaque)
{
    QuorumStateJob *job = opaque;
    BlockDriverState *bs = job->round->st->bs;

    quorum_state_end_job(job, quorum_state_write_job(job));
    bdrv_graph_co_rdunlock_again();
    bdrv_dec_in_flight(bs);
}

/* Whether the node in slot @i can be written to now. */
static bool quorum_state_may_write_locked(const QuorumState *st, int i)
{
    const QuorumStateNode *node = &st->nodes[i];

    return node->record >= 0 && !node->busy && !node->abandoned &&
           !node->unheard &&
           (node->state != QUORUM_STATE_NODE_STATE_FAILED ||
            quorum_now_ns() >= node->retry_ns);
}

/* What is durable by now, on enough nodes. */
static uint64_t quorum_state_durable_locked(const QuorumState *st)
{
    uint64_t best = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        uint64_t durable = st->nodes[i].durable;
        uint64_t have = 0;

        for (int j = 0; j < st->num_nodes; j++) {
            if (st->nodes[j].durable >= durable) {
                have |= UINT64_C(1) << j;
            }
        }
        if (st->nodes[i].record >= 0 && quorum_state_is_enough(st, have)) {
            best = MAX(best, durable);
        }
    }
    return best;
}

static void coroutine_fn GRAPH_RDLOCK quorum_state_start_round(QuorumState *st)
{
    g_autofree QuorumStateJob **jobs = g_new0(QuorumStateJob *, st->num_nodes);
    QuorumStateRound *round;
    int n = 0;

    round = g_malloc0(sizeof(*round) + st->num_nodes * sizeof(uint8_t *));
    qemu_mutex_lock(&st->lock);
    round->st = st;
    round->want = st->want;
    round->pages = g_hash_table_new_full(NULL, NULL, NULL, qemu_vfree);
    for (int i = 0; i < st->num_nodes; i++) {
        if (quorum_state_may_write_locked(st, i)) {
            jobs[i] = g_new(QuorumStateJob, 1);
            quorum_state_fill_job_locked(st, i, round, jobs[i]);
            n++;
        }
    }
    /* All labels of a round say the same of all children. */
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].record >= 0) {
            quorum_state_fill_record_locked(st, i);
        }
    }
    st->untold |= g_hash_table_size(round->pages) > 0;
    st->seq++;
    for (int i = 0; i < st->num_nodes; i++) {
        if (jobs[i]) {
            round->labels[i] = quorum_state_make_label_locked(st, i, st->seq);
            if (jobs[i]->num_pages &&
                jobs[i]->pages[jobs[i]->num_pages - 1] ==
                quorum_state_label_bit(st)) {
                jobs[i]->seq = st->seq;
            }
            quorum_state_ask_locked(&st->nodes[i]);
        }
    }
    round->users = n + 1;
    qemu_mutex_unlock(&st->lock);

    for (int i = 0; i < st->num_nodes; i++) {
        if (jobs[i]) {
            bdrv_inc_in_flight(st->bs);
            bdrv_graph_co_rdlock_again();
            qemu_coroutine_enter(qemu_coroutine_create(quorum_state_job_entry,
                                                       jobs[i]));
        }
    }
    qemu_mutex_lock(&st->lock);
    quorum_state_round_unref_locked(round);
    qemu_mutex_unlock(&st->lock);
}

/* Whether some node has a round at work. */
static bool quorum_state_any_busy_locked(const QuorumState *st)
{
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].busy) {
            return true;
        }
    }
    return false;
}

/* Whether another round may give @want to a node that has not got it. */
static bool quorum_state_round_helps_locked(const QuorumState *st,
                                            uint64_t want)
{
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].durable < want &&
            quorum_state_may_write_locked(st, i)) {
            return true;
        }
    }
    return false;
}

/*
 * Do one round, or what is left of others, until enough nodes have @want.  As
 * leader, with the lock held, which is given back meanwhile.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_state_lead_locked(QuorumState *st,
                                                               uint64_t want)
{
    while (st->durable < want) {
        if (quorum_state_round_helps_locked(st, want)) {
            qemu_mutex_unlock(&st->lock);
            quorum_state_start_round(st);
            qemu_mutex_lock(&st->lock);
            st->durable = quorum_state_durable_locked(st);
        } else if (!quorum_state_any_busy_locked(st)) {
            st->failed = MAX(st->failed, want);
            break;
        }
        /* A node that has become free may be what is lacking. */
        while (st->durable < want && quorum_state_any_busy_locked(st) &&
               !quorum_state_round_helps_locked(st, want)) {
            qemu_co_queue_wait(&st->waiters, &st->lock);
            st->durable = quorum_state_durable_locked(st);
        }
    }
}

int coroutine_fn quorum_state_commit(QuorumState *st)
{
    uint64_t want;
    int ret = 0;

    /* Also the first round may meet a node that does not answer. */
    quorum_state_wake(st);
    qemu_mutex_lock(&st->lock);
    want = ++st->want;
    while (st->durable < want && ret == 0) {
        if (st->failed >= want || qatomic_read(&st->fenced)) {
            ret = -EIO;
        } else if (st->leader) {
            qemu_co_queue_wait(&st->waiters, &st->lock);
        } else {
            st->leader = true;
            quorum_state_lead_locked(st, st->want);
            st->leader = false;
            /* Those that came meanwhile need another leader. */
            qemu_co_queue_restart_all(&st->waiters);
        }
    }
    if (ret == 0) {
        quorum_state_end_change_locked(st);
    }
    qemu_mutex_unlock(&st->lock);
    quorum_state_wake(st);
    trace_quorum_state_commit(st->bs->node_name, want, ret);
    return ret;
}

void quorum_state_tell_failure(QuorumState *st, int i, const char *error,
                               bool fatal)
{
    g_autofree char *name = quorum_child_name(i);
    BdrvChild *child = st->nodes[i].child;

    qapi_event_send_quorum_state_failure(
        bdrv_get_device_or_node_name(st->bs), name,
        child ? bdrv_get_node_name(child->bs) : NULL, error, fatal);
}

void quorum_state_node_failed(QuorumState *st, int i, const char *what, int ret)
{
    QuorumStateNode *node = &st->nodes[i];
    bool news, fatal;
    uint64_t well = 0;

    qemu_mutex_lock(&st->lock);
    news = node->state != QUORUM_STATE_NODE_STATE_FAILED;
    node->state = QUORUM_STATE_NODE_STATE_FAILED;
    g_free(node->error);
    node->error = node->foreign
                  ? g_strdup("is neither blank nor of this disk")
                  : g_strdup_printf("could not be %s: %s", what,
                                    strerror(-ret));
    node->backoff_ns = MIN(MAX(node->backoff_ns * 2, QUORUM_STATE_BACKOFF_NS),
                           QUORUM_STATE_BACKOFF_MAX_NS);
    node->unheard = bdrv_late(node->child) != BDRV_LATE_ENDED;
    quorum_state_dirty_label_locked(st);
    for (int j = 0; j < st->num_nodes; j++) {
        if (st->nodes[j].state != QUORUM_STATE_NODE_STATE_FAILED) {
            well |= UINT64_C(1) << j;
        }
    }
    fatal = !quorum_state_is_enough(st, well);
    /* The disk may fail until it is back, and should not for much longer. */
    node->retry_ns = quorum_now_ns() + (fatal ? QUORUM_STATE_BACKOFF_NS
                                              : node->backoff_ns);
    qemu_mutex_unlock(&st->lock);
    trace_quorum_state_failed(st->bs->node_name, i, ret);
    if (news && !st->checking) {
        quorum_state_tell_failure(st, i, node->foreign ? node->error
                                                       : strerror(-ret), fatal);
    }
}

void coroutine_fn quorum_state_wait_all(QuorumState *st)
{
    qemu_mutex_lock(&st->lock);
    while (quorum_state_any_busy_locked(st)) {
        qemu_co_queue_wait(&st->waiters, &st->lock);
    }
    qemu_mutex_unlock(&st->lock);
}
