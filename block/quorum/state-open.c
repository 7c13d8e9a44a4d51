/*
 * Quorum block driver: what survives a restart: what it says
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Who is a member, and how it is, is what the head says, the newest label (see
 * state-head.c); of each page, the newest valid one on any node counts.  As
 * what is durable is on as many nodes as the threshold says, and that many less
 * one may be missing at most, nothing that is durable is overlooked.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "digest-store.h"
#include "late.h"
#include "state-open.h"
#include "trace.h"

/* --- attaching --- */

void quorum_state_alloc_node(const QuorumState *st, QuorumStateNode *node)
{
    long pages = quorum_state_num_pages(st) + 1;

    node->dirty = bitmap_new(pages);
    node->newest = g_malloc(pages);
    memset(node->newest, QUORUM_STATE_NOWHERE, pages);
}

void quorum_state_alloc_maps(QuorumState *st)
{
    st->intent = bitmap_new(quorum_state_intent_bits(st));
    st->wanted = bitmap_new(quorum_state_intent_bits(st));
    st->touched = bitmap_new(quorum_state_intent_bits(st));
    st->marked = 0;
    st->last_mark = -2;
    for (int i = 0; i < st->num_nodes; i++) {
        quorum_state_alloc_node(st, &st->nodes[i]);
    }
}

void quorum_state_free_maps(QuorumState *st)
{
    g_clear_pointer(&st->intent, g_free);
    g_clear_pointer(&st->wanted, g_free);
    g_clear_pointer(&st->touched, g_free);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        st->written[k] = false;
        g_clear_pointer(&st->stored[k], g_free);
        g_clear_pointer(&st->away[k], g_free);
    }
    for (int i = 0; i < st->num_nodes; i++) {
        g_clear_pointer(&st->nodes[i].dirty, g_free);
        g_clear_pointer(&st->nodes[i].newest, g_free);
    }
}

char *quorum_state_name(int i)
{
    return g_strdup_printf(QUORUM_OPT_STATE "%d", i);
}

void quorum_state_attached(BdrvChild *child)
{
    if (bdrv_can_abandon(child)) {
        bdrv_unabandon(child);
    }
}

/*
 * Open the state node beside the child in slot @i, if @options name one.  If
 * open-degraded lets the quorum do without it, *@away, which the caller frees,
 * gets the reason.
 */
static int quorum_state_attach_node(BlockDriverState *bs, QDict *options, int i,
                                    Error **away, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *key = quorum_state_name(i);
    Error *local_err = NULL;

    if (quorum_key_is_vacant(options, key)) {
        qdict_del(options, key);
    } else {
        s->state->nodes[i].child = bdrv_open_child(NULL, options, key, bs,
                                                   &child_of_bds,
                                                   BDRV_CHILD_METADATA, true,
                                                   &local_err);
        if (!local_err) {
            return 0;
        }
        if (!s->opts.open_degraded || !quorum_opts_is_away(local_err)) {
            error_propagate_prepend(errp, local_err, "%s: ", key);
            return -EINVAL;
        }
        *away = local_err;
    }
    quorum_opts_delete_child(bs->options, key);
    quorum_opts_delete_child(bs->explicit_options, key);
    return 0;
}

/* The quorum does without the state node in slot @i because of @err. */
static void quorum_state_tell_away(QuorumState *st, int i, const Error *err)
{
    g_autofree char *key = quorum_state_name(i);

    warn_report("quorum: %s is done without: %s", key, error_get_pretty(err));
    bdrv_graph_rdlock_main_loop();
    quorum_state_tell_failure(st, i, error_get_pretty(err), false);
    bdrv_graph_rdunlock_main_loop();
}

QuorumState *quorum_state_new(BlockDriverState *bs, int slots)
{
    QuorumState *st = g_new0(QuorumState, 1);

    st->bs = bs;
    st->num_nodes = slots;
    st->nodes = g_new0(QuorumStateNode, slots);
    qemu_mutex_init(&st->lock);
    qemu_co_rwlock_init(&st->layout_lock);
    qemu_co_mutex_init(&st->record_lock);
    qemu_co_queue_init(&st->waiters);
    st->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                              SCALE_NS, quorum_state_tick, st);
    for (int i = 0; i < slots; i++) {
        st->nodes[i].record = -1;
    }
    return st;
}

int quorum_state_attach(BlockDriverState *bs, QDict *options, int slots,
                        Error **away, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int nodes = 0, first_away = -1;
    QuorumState *st;

    if (!quorum_opts_have(options, QUORUM_OPT_STATE)) {
        if (s->opts.state_init || s->opts.state_force) {
            error_setg(errp, "state-init and state-force need state nodes: "
                       "give state.0, state.1, ..., one for each child");
            return -EINVAL;
        }
        return 0;
    }
    st = s->state = quorum_state_new(bs, slots);
    st->init = s->opts.state_init;
    for (int i = 0; i < slots; i++) {
        int ret = quorum_state_attach_node(bs, options, i, &away[i], errp);

        if (ret < 0) {
            return ret;
        }
        nodes += st->nodes[i].child && s->slots[i].child;
        first_away = away[i] && first_away < 0 ? i : first_away;
    }
    if (nodes < s->opts.threshold && first_away >= 0) {
        error_propagate_prepend(errp, g_steal_pointer(&away[first_away]),
                                QUORUM_OPT_STATE "%d: ", first_away);
        return -EINVAL;
    }
    if (!quorum_state_check_count(nodes, s->opts.threshold, errp) ||
        !quorum_state_check_slots(slots, errp)) {
        return -EINVAL;
    }
    for (int i = 0; i < slots; i++) {
        if (away[i]) {
            quorum_state_tell_away(st, i, away[i]);
        }
    }
    return 0;
}

void quorum_state_detach(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;

    if (!st) {
        return;
    }
    quorum_state_free_maps(st);
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].child) {
            bdrv_unref_child(bs, st->nodes[i].child);
        }
        g_free(st->nodes[i].error);
    }
    timer_free(st->timer);
    qemu_mutex_destroy(&st->lock);
    g_free(st->nodes);
    g_clear_pointer(&s->state, g_free);
}

/* --- what it says --- */

/*
 * The newest valid page @number of any node, to @bits.  False if no node has
 * one.  Notes in which place each node has it, and in *@known, on how many
 * nodes it can be told: a page that was never written has no bit set, and one
 * that is damaged in both places might have had any.
 */
static bool quorum_state_merge_page(QuorumState *st, QuorumStateFile *f,
                                    uint32_t number, unsigned long *bits,
                                    int *known)
{
    uint64_t best = 0;

    *known = 0;
    for (int i = 0; i < st->num_nodes; i++) {
        QuorumStateNode *node = &st->nodes[i];
        uint64_t here = 0;
        int blank = 0;

        if (!f[i].good) {
            continue;
        }
        for (int place = 0; place < 2; place++) {
            int64_t offset = quorum_state_offset(number, place);
            uint8_t *buf = f[i].data + offset;
            QuorumStatePage page;

            if (offset + QUORUM_STATE_PAGE > f[i].bytes ||
                quorum_state_is_blank(buf, QUORUM_STATE_PAGE)) {
                blank++;
                continue;
            }
            /* Whatever it is, it is to be overwritten. */
            if (node->newest[number] == QUORUM_STATE_NOWHERE) {
                node->newest[number] = !place;
            }
            if (!quorum_state_decode_page(buf, &st->label, number, &page)) {
                continue;
            }
            if (page.seq > here) {
                here = page.seq;
                node->newest[number] = place;
            }
            if (page.seq > best) {
                best = page.seq;
                bitmap_from_le(bits, quorum_state_bitmap(buf),
                               QUORUM_STATE_BITS);
            }
        }
        /* Behind an older label, no page of this layout has ever counted. */
        *known += here || blank == 2 ||
                  f[i].label.layout != st->label.layout;
    }
    st->seq = MAX(st->seq, best);
    return best;
}

/*
 * Merge the pages from @first on, @count of them, to @map of @bits bits.  Of a
 * page that can be told on fewer than @needed nodes, the newest one may be
 * missing: then all of it counts as set.
 */
static void quorum_state_merge_map(QuorumState *st, QuorumStateFile *f,
                                   uint32_t first, uint32_t count,
                                   unsigned long *map, int64_t bits,
                                   int needed)
{
    g_autofree unsigned long *page = bitmap_new(QUORUM_STATE_BITS);

    for (uint32_t p = 0; p < count; p++) {
        int64_t base = (int64_t)p * QUORUM_STATE_BITS;
        int64_t here = MIN(QUORUM_STATE_BITS, bits - base);
        int known;
        bool found = quorum_state_merge_page(st, f, first + p, page, &known);

        if (known < needed) {
            bitmap_set(map, base, here);
        } else if (found) {
            /* What is behind the end of the map means nothing. */
            bitmap_clear(page, here, QUORUM_STATE_BITS - here);
            bitmap_copy(map + BIT_WORD(base), page, here);
        }
    }
}

/* A record that is not used, the first one, or -1. */
static int quorum_state_find_record(const QuorumState *st,
                                    QuorumStateStatus status)
{
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (st->label.records[k].status == status &&
            !quorum_state_is_member(&st->label, k, true)) {
            return k;
        }
    }
    return -1;
}

int quorum_state_new_record(QuorumState *st, int slot)
{
    int unused = quorum_state_find_record(st, QUORUM_STATE_UNUSED);
    int removed = quorum_state_find_record(st, QUORUM_STATE_REMOVED);
    int k = unused;

    /* State nodes need not be large as long as the first ones are used. */
    if (removed >= 0 && (unused < 0 || unused >= 2 * st->num_nodes)) {
        k = removed;
    }
    if (k < 0) {
        return -1;
    }
    st->label.records[k] = (QuorumStateRecord) {
        .status = QUORUM_STATE_REBUILDING,
        .place = slot,
        .flags = QUORUM_STATE_JOINED,
    };
    qemu_uuid_generate(&st->label.records[k].member);
    g_clear_pointer(&st->stored[k], g_free);
    g_clear_pointer(&st->away[k], g_free);
    return k;
}

/*
 * What the child lacks that record @k is of, as bits of its stale map: a new
 * bitmap.
 */
static unsigned long *quorum_state_lacked(const QuorumState *st, int k)
{
    int64_t bits = quorum_state_stale_bits(st);
    unsigned long *map = bitmap_new(bits);

    if (st->stored[k]) {
        bitmap_copy(map, st->stored[k], bits);
    }
    if (st->label.records[k].flags & QUORUM_STATE_BEHIND &&
        !(st->label.flags & QUORUM_STATE_CLEAN)) {
        quorum_state_add_marked_locked(st, map);
    }
    return map;
}

/* The child in slot @i is stale where the bits of @map are set. */
static void quorum_state_mark_stale(const QuorumState *st, int i,
                                    const unsigned long *map)
{
    const BDRVQuorumState *s = st->bs->opaque;
    int64_t bits = quorum_state_stale_bits(st);
    int shift = st->label.stale_shift;
    int64_t first, past;

    for (first = find_first_bit(map, bits); first < bits;
         first = find_next_bit(map, bits, past)) {
        past = find_next_zero_bit(map, bits, first);
        quorum_sync_mark_stale(s->sync, i, first << shift,
                               (past - first) << shift, "state");
    }
}

/* The child that record @k is of is not here. */
static void quorum_state_is_away(QuorumState *st, int k)
{
    QuorumStateRecord *r = &st->label.records[k];
    const BDRVQuorumState *s = st->bs->opaque;

    st->away[k] = quorum_state_lacked(st, k);
    if (r->place >= 0 && (r->place >= s->num_slots ||
                          s->slots[r->place].child)) {
        /* Another child has its place. */
        quorum_state_leave(r);
        g_clear_pointer(&st->away[k], g_free);
    }
}

/* How the child in slot @i is, and which record is that of its state node. */
static void GRAPH_RDLOCK quorum_state_judge_child(QuorumState *st, int i,
                                                  QuorumStateFile *f)
{
    const BDRVQuorumState *s = st->bs->opaque;
    QuorumStateNode *node = &st->nodes[i];
    int k = f[i].valid ? quorum_state_find(&st->label, &f[i].label.member) : -1;
    QuorumStateRecord *r = k >= 0 ? &st->label.records[k] : NULL;
    char *why;

    /* What was read may be in a cache, and not be there for long. */
    node->seq = r ? r->state_seq : 0;
    if (!s->slots[i].child) {
        node->record = k;
        return;
    }
    why = f[i].why = node->child ? quorum_state_complaint(&f[i], &st->label, r)
                                 : g_strdup("it has no state node");
    if (node->child) {
        node->state = f[i].err ? QUORUM_STATE_NODE_STATE_FAILED :
                      f[i].blank ? QUORUM_STATE_NODE_STATE_BLANK :
                      why || f[i].label.seq < st->label.seq ?
                      QUORUM_STATE_NODE_STATE_OLD : QUORUM_STATE_NODE_STATE_OK;
        node->error = f[i].err ? g_strdup(error_get_pretty(f[i].err)) : NULL;
    }
    node->erase = why && !f[i].blank;
    if (why && r && r->status != QUORUM_STATE_REMOVED) {
        r->status = QUORUM_STATE_REBUILDING;
    } else if (why && node->child) {
        k = quorum_state_new_record(st, i);
    }
    node->record = node->child ? k : -1;
    if (node->record >= 0) {
        st->label.records[k].place = i;
    }
}

/* Tell the QuorumSync how the child in slot @i is, which has been judged. */
static void GRAPH_RDLOCK quorum_state_tell_child(BlockDriverState *bs, int i,
                                                 const QuorumStateFile *f)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int k = st->nodes[i].record;
    const QuorumStateRecord *r = k >= 0 ? &st->label.records[k] : NULL;
    g_autofree unsigned long *map = NULL;

    if (!s->slots[i].child) {
        return;
    }
    if (f[i].why) {
        warn_report("quorum: children.%d (node '%s') is taken for a newcomer: "
                    "%s", i, bdrv_get_node_name(s->slots[i].child->bs),
                    f[i].why);
        quorum_sync_set_rebuilding(s->sync, i);
        return;
    }
    if (r->status == QUORUM_STATE_REBUILDING) {
        quorum_sync_resume_rebuilding(s->sync, i);
    }
    if (r->flags & QUORUM_STATE_OUT) {
        quorum_sync_mark_stale(s->sync, i, 0, INT64_MAX, "was excluded");
    }
    map = quorum_state_lacked(st, k);
    quorum_state_mark_stale(st, i, map);
}

/* All that is marked is unresolved. */
static void quorum_state_apply_intent(BDRVQuorumState *s, QuorumState *st)
{
    int64_t bits = quorum_state_intent_bits(st);
    int64_t first, past;

    for (first = find_first_bit(st->intent, bits); first < bits;
         first = find_next_bit(st->intent, bits, past)) {
        past = find_next_zero_bit(st->intent, bits, first);
        quorum_sync_set_unresolved(s->sync, first << st->label.intent_shift,
                                   (past - first) << st->label.intent_shift);
    }
}

/* The maps are not valid: who is behind lacks everything. */
static void quorum_state_take_for_stale(QuorumState *st, int k)
{
    const QuorumStateRecord *r = &st->label.records[k];

    if (r->flags & QUORUM_STATE_BEHIND ||
        r->status == QUORUM_STATE_REBUILDING) {
        st->stored[k] = bitmap_new(quorum_state_stale_bits(st));
        bitmap_fill(st->stored[k], quorum_state_stale_bits(st));
    }
}

/*
 * What QEMU has written before it died may be in caches, and what it has asked
 * state nodes for may still be done.
 */
static void GRAPH_RDLOCK quorum_state_apply_caches(BDRVQuorumState *s,
                                                   QuorumState *st)
{
    bool died = !(st->label.flags & QUORUM_STATE_CLEAN);

    for (int i = 0; i < st->num_nodes; i++) {
        BdrvChild *child = st->nodes[i].child;

        if (died && s->slots[i].child) {
            bdrv_set_unflushed(s->slots[i].child->bs);
        }
        if (died && child) {
            bdrv_set_unflushed(child->bs);
        }
        if (died || (child && bdrv_late(child) != BDRV_LATE_ENDED)) {
            st->again_ns = quorum_now_ns() + QUORUM_LATE_QUARANTINE_NS;
        }
    }
}

/* The maps that the label has; the newest pages of what state nodes have. */
static void quorum_state_merge_maps(QuorumState *st, QuorumStateFile *f,
                                    int needed)
{
    uint32_t stale_pages = quorum_state_stale_pages(&st->label);
    int64_t stale_bits = quorum_state_stale_bits(st);
    int64_t bits = quorum_state_intent_bits(st);

    if (st->label.flags & QUORUM_STATE_MAPS_INVALID) {
        bitmap_fill(st->intent, quorum_state_disk_bits(st));
    } else {
        quorum_state_merge_map(st, f, 0, quorum_state_intent_pages(&st->label),
                               st->intent, bits, needed);
    }
    bitmap_copy(st->wanted, st->intent, bits);
    st->marked = bitmap_count_one(st->wanted, bits);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (!st->label.records[k].status) {
            continue;
        }
        if (st->label.flags & QUORUM_STATE_MAPS_INVALID) {
            quorum_state_take_for_stale(st, k);
            continue;
        }
        st->stored[k] = bitmap_new(stale_bits);
        quorum_state_merge_map(st, f,
                               quorum_state_stale_page(&st->label, k, 0),
                               stale_pages, st->stored[k], stale_bits,
                               needed);
        if (bitmap_empty(st->stored[k], stale_bits)) {
            g_clear_pointer(&st->stored[k], g_free);
        }
    }
}

/*
 * What the state nodes say, by the label of @head: what is unresolved, who
 * lacks what, and who is believed.  The QuorumSync is not told yet.
 */
static void GRAPH_RDLOCK quorum_state_judge(QuorumState *st,
                                            QuorumStateFile *f, int head,
                                            int needed)
{
    st->label = f[head].label;
    st->seq = st->label.seq;
    quorum_state_alloc_maps(st);
    quorum_state_merge_maps(st, f, needed);
    for (int i = 0; i < st->num_nodes; i++) {
        if (f[i].valid) {
            st->nodes[i].newest[quorum_state_num_pages(st)] = f[i].newest;
            st->seq = MAX(st->seq, f[i].seq);
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        quorum_state_judge_child(st, i, f);
    }
    /* Members that are not here miss what is written meanwhile. */
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        QuorumStateRecord *r = &st->label.records[k];

        if ((r->status == QUORUM_STATE_MEMBER ||
             r->status == QUORUM_STATE_REBUILDING) &&
            quorum_state_slot_of(st, k) < 0) {
            quorum_state_is_away(st, k);
        }
    }
    quorum_state_note_change(st);
}

/* Tell the QuorumSync what was judged, which is going to be believed. */
static void GRAPH_RDLOCK quorum_state_apply(BlockDriverState *bs,
                                            const QuorumStateFile *f)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;

    quorum_state_apply_intent(s, st);
    quorum_state_apply_caches(s, st);
    for (int i = 0; i < st->num_nodes; i++) {
        quorum_state_tell_child(bs, i, f);
    }
}

/*
 * Whether enough state nodes are here, well or not, that no program can go on
 * with the others alone.
 */
static bool quorum_state_can_go_on(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    uint64_t slots = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        slots |= (uint64_t)(st->nodes[i].record >= 0) << i;
    }
    if (bdrv_is_read_only(bs) || quorum_state_is_enough(st, slots)) {
        return true;
    }
    error_setg(errp, "State nodes of members are missing: when the disk was "
               "closed, vote-threshold was %d, and as many of those that were "
               "there then are needed to go on, so that the others can't; "
               "state-force=on does without", st->label.old_threshold
               ? st->label.old_threshold : st->label.threshold);
    return false;
}

/* Whether the child in slot @i is believed, at least where it lacks nothing. */
static bool quorum_state_is_believed(const QuorumState *st,
                                     const QuorumStateFile *f, int i)
{
    const BDRVQuorumState *s = st->bs->opaque;
    int k = st->nodes[i].record;

    return s->slots[i].child && !f[i].why && k >= 0 &&
           !(st->label.records[k].flags & QUORUM_STATE_OUT);
}

/* In how many of those that are believed something is lacking, at most. */
static int quorum_state_most_lacking(const QuorumState *st,
                                     const QuorumStateFile *f)
{
    int64_t bits = quorum_state_stale_bits(st);
    g_autofree uint8_t *lacking = g_new0(uint8_t, bits);
    int most = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        g_autofree unsigned long *map = NULL;

        if (!quorum_state_is_believed(st, f, i)) {
            continue;
        }
        map = quorum_state_lacked(st, st->nodes[i].record);
        for (int64_t b = find_first_bit(map, bits); b < bits;
             b = find_next_bit(map, bits, b + 1)) {
            most = MAX(most, ++lacking[b]);
        }
    }
    return most;
}

/*
 * Whether as many children are believed as must agree: without them no vote can
 * have a winner.  And if the state node of another one can't be read, whether
 * they have all that was written, so that it can be taken for a newcomer: that
 * is for good.
 */
static bool GRAPH_RDLOCK quorum_state_can_vote(BlockDriverState *bs,
                                               const QuorumStateFile *f,
                                               Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int believed = 0, unread = -1;

    if (s->opts.state_force || bdrv_is_read_only(bs) ||
        quorum_store_is_in_use(s) ||
        s->opts.read_pattern == QUORUM_READ_PATTERN_FIFO) {
        return true;
    }
    for (int i = 0; i < st->num_nodes; i++) {
        believed += quorum_state_is_believed(st, f, i);
        unread = s->slots[i].child && f[i].unread ? i : unread;
    }
    if (believed < s->opts.threshold) {
        error_setg(errp, "Only %d of the children can be believed, and "
                   "vote-threshold is %d: bring back the others with their "
                   "state nodes; state-force=on does without, and takes the "
                   "others for newcomers", believed, s->opts.threshold);
        return false;
    }
    if (unread >= 0 && believed - quorum_state_most_lacking(st, f) <
        s->opts.threshold) {
        error_setg(errp, "state.%d %s; its child may have what others lack, of "
                   "which fewer than %d have all: bring it back; "
                   "state-force=on does without, and takes that child for a "
                   "newcomer", unread, error_get_pretty(f[unread].err),
                   s->opts.threshold);
        return false;
    }
    return true;
}

/* Begin with what an earlier load has left. */
static void quorum_state_reset(QuorumState *st)
{
    quorum_state_free_maps(st);
    for (int i = 0; i < st->num_nodes; i++) {
        st->nodes[i].record = -1;
        st->nodes[i].durable = st->nodes[i].seq = 0;
        st->nodes[i].cached = true;
        st->nodes[i].unheard = false;
        g_clear_pointer(&st->nodes[i].error, g_free);
    }
    st->loaded = st->session = false;
    st->want = st->durable = st->failed = st->config_want = 0;
    st->seq = 0;
    st->untold = false;
    st->again_ns = 0;
    st->fenced = false;
}

/* Who is behind is written down already; and nodes may have failed. */
static void GRAPH_RDLOCK quorum_state_tell_loaded(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;

    for (int i = 0; i < st->num_nodes; i++) {
        int k = st->nodes[i].record;

        quorum_sync_set_recorded(s->sync, i, k < 0 ||
                                 st->label.records[k].flags &
                                 QUORUM_STATE_BEHIND);
        if (st->nodes[i].error) {
            quorum_state_tell_failure(st, i, st->nodes[i].error, false);
        }
    }
}

/*
 * Whether the disk is not longer than the maps of @head cover, or may be.  If
 * it was closed well, they are laid out again before something is written; but
 * what QEMU was doing when it died may be behind their end, and not marked.
 */
static bool quorum_state_may_grow(BlockDriverState *bs,
                                  const QuorumStateLabel *head, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t length = quorum_sync_length(s->sync);

    if (length <= head->max_bytes || head->flags & QUORUM_STATE_CLEAN) {
        return true;
    }
    error_setg(errp, "The disk has grown to %" PRId64 " bytes without its "
               "state nodes, which cover %" PRId64 ", and it was not closed "
               "well before: shorten the children to %" PRId64 " bytes, as "
               "they were then, and resize the quorum; or give blank state "
               "nodes and state-init=on if the children are alike", length,
               head->max_bytes, head->disk_bytes);
    return false;
}

/*
 * What the state nodes say was @judged, or they are new: see what the node of
 * digests is worth, which may decide where too few children are believed, and
 * tell the QuorumSync.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_believe(BlockDriverState *bs, const QuorumStateFile *f,
                     bool judged, bool activated, Error **errp)
{
    int ret = quorum_store_co_load(bs, activated, errp);

    if (ret < 0 || !judged) {
        return ret;
    }
    if (!quorum_state_can_vote(bs, f, errp)) {
        return -EINVAL;
    }
    quorum_state_apply(bs, f);
    return 0;
}

/* @activated: a guest depends on it, so that errors of an option are none. */
static int coroutine_fn GRAPH_RDLOCK
quorum_state_do_load(BlockDriverState *bs, bool activated, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    QuorumStateFile *f;
    bool all_blank = true, all_unborn = true, any_valid = false;
    bool judged = false;
    int head = 0, needed;

    if (st->creating) {
        return 0;
    }
    f = g_new0(QuorumStateFile, st->num_nodes);
    quorum_state_reset(st);
    for (int i = 0; i < st->num_nodes; i++) {
        /* Another quorum may have given it up before. */
        if (st->nodes[i].child && qemu_in_main_thread()) {
            quorum_state_attached(st->nodes[i].child);
            st->nodes[i].abandoned = false;
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].child) {
            quorum_state_read(st, i, &f[i]);
            quorum_state_judge_label(&f[i]);
            all_blank &= f[i].blank;
            all_unborn &= f[i].unborn;
            any_valid |= f[i].valid;
        } else {
            f[i].blank = true;
        }
    }
    if (all_unborn && (any_valid || st->init || st->begun)) {
        quorum_state_begin(st, f);
        head = quorum_state_has_room(st, f, errp) ? 0 : -EINVAL;
    } else if (st->init && !st->begun) {
        g_autofree char *text = quorum_state_describe(st, f);

        error_setg(errp, "state-init=on needs state nodes that are all blank "
                   "(%s); leave it out to open what is there", text);
        head = -EINVAL;
    } else if (all_blank) {
        error_setg(errp, "All state nodes are blank; give state-init=on if the "
                   "children are alike, and are to be remembered from now on");
        head = -EINVAL;
    } else {
        head = quorum_state_choose_head(bs, f, &needed, errp);
        if (head >= 0 && !quorum_state_may_grow(bs, &f[head].label, errp)) {
            head = -EFBIG;
        }
        if (head >= 0) {
            quorum_state_judge(st, f, head, needed);
            judged = quorum_state_can_go_on(bs, errp);
            head = judged ? 0 : -EINVAL;
        }
    }
    if (head >= 0) {
        head = quorum_state_believe(bs, f, judged, activated, errp);
    }
    quorum_state_files_free(f, st->num_nodes);
    if (head < 0) {
        quorum_state_reset(st);
        return head;
    }
    quorum_state_tell_loaded(st);
    st->loaded = st->begun = true;
    trace_quorum_state_open(bs->node_name, 0, st->label.opens,
                            st->label.flags & QUORUM_STATE_CLEAN,
                            quorum_sync_unresolved_bytes(s->sync));
    return 0;
}

int coroutine_fn quorum_state_co_load(BlockDriverState *bs, Error **errp)
{
    return quorum_state_do_load(bs, true, errp);
}

static int coroutine_fn GRAPH_RDLOCK
quorum_state_co_open(BlockDriverState *bs, Error **errp)
{
    return quorum_state_do_load(bs, false, errp);
}

int quorum_state_load(BlockDriverState *bs, Error **errp)
{
    return quorum_state_run(bs, quorum_state_co_open, errp);
}
