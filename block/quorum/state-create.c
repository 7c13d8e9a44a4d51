/*
 * Quorum block driver: what survives a restart: beginning while in use
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A quorum that is in use gets state nodes.  First they are attached, looked at
 * and tried, while requests go on and know nothing of them.  Then, with
 * requests drained for the time of one round, it is written down how all is:
 * from there on it is as if the quorum had been opened with them.  If anything
 * fails, they are made blank again and detached.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "state-int.h"
#include "trace.h"

/* --- checks --- */

/* Whether the quorum is one that can be given state nodes. */
static bool GRAPH_RDLOCK quorum_state_may_create(BlockDriverState *bs, int n,
                                                 Error **errp)
{
    const char *name = bdrv_get_node_name(bs);
    BDRVQuorumState *s = bs->opaque;

    if (s->state) {
        error_setg(errp, "Quorum '%s' has state nodes already; "
                   "x-blockdev-change and blockdev-reopen change single ones",
                   name);
    } else if (bs->open_flags & BDRV_O_INACTIVE) {
        error_setg(errp, "Quorum '%s' is inactive; activate it first", name);
    } else if (bdrv_is_read_only(bs)) {
        error_setg(errp, "Quorum '%s' is read-only, so that nothing can be "
                   "written down; reopen it with read-only=off", name);
    } else if (n != s->num_slots) {
        error_setg(errp, "Quorum '%s' has %d children, and %d state nodes are "
                   "given; give one for each child, or null", name,
                   s->num_slots, n);
    } else {
        return quorum_state_check_slots(n, errp);
    }
    return false;
}

bool quorum_state_check_node(BlockDriverState *bs, int i,
                             BlockDriverState *node, bool beside_child,
                             Error **errp)
{
    const char *name = bdrv_get_node_name(node);
    BDRVQuorumState *s = bs->opaque;
    BdrvChild *parent = QLIST_FIRST(&node->parents);

    if (!beside_child) {
        error_setg(errp, "There is no child for 'state.%d' to be beside in "
                   "quorum '%s'; give null for it", i, bdrv_get_node_name(bs));
    } else if (parent) {
        g_autofree char *desc = parent->klass->get_parent_desc(parent);

        error_setg(errp, "Node '%s' cannot be state.%d of quorum '%s': %s uses "
                   "it; give a node that is not in use", name, i,
                   bdrv_get_node_name(bs), desc);
    } else if (bdrv_is_read_only(node)) {
        error_setg(errp, "Node '%s' cannot be state.%d of quorum '%s': it is "
                   "read-only", name, i, bdrv_get_node_name(bs));
    } else if (s->state && s->state->loaded) {
        return quorum_state_check_room(s->state, i, node,
                                       node->total_sectors * BDRV_SECTOR_SIZE,
                                       errp);
    } else {
        return true;
    }
    return false;
}

bool quorum_state_check_slots(int slots, Error **errp)
{
    if (slots > QUORUM_STATE_RECORDS) {
        error_setg(errp, "Option state can be used with up to %d children, "
                   "not %d", QUORUM_STATE_RECORDS, slots);
        return false;
    }
    return true;
}

bool quorum_state_check_count(int nodes, int threshold, Error **errp)
{
    if (nodes < threshold) {
        error_setg(errp, "Option state gives %d state nodes, and "
                   "vote-threshold=%d needs at least as many", nodes,
                   threshold);
        return false;
    }
    return true;
}

bool quorum_state_check_blank(const uint8_t *labels, BlockDriverState *bs,
                              int i, const QemuUUID *set, Error **errp)
{
    if (quorum_state_is_blank(labels, QUORUM_STATE_LABELS)) {
        return true;
    }
    for (int place = 0; place < 2; place++) {
        QuorumStateLabel label;
        g_autofree char *text = NULL;

        if (!quorum_state_decode_label(labels + place * QUORUM_STATE_PAGE,
                                       &label, NULL)) {
            continue;
        }
        if (set && qemu_uuid_is_equal(&label.set, set)) {
            return true;
        }
        text = qemu_uuid_unparse_strdup(&label.set);
        error_setg(errp, "state.%d (node '%s') is not blank: it belongs to "
                   "disk %.8s, which was opened %" PRIu64 " times with it; "
                   "give a blank one, or make it blank if that disk is gone",
                   i, bdrv_get_node_name(bs), text, label.opens);
        return false;
    }
    error_setg(errp, "state.%d (node '%s') is not blank: give a node whose "
               "first 8 KiB, at least, are zeroes", i, bdrv_get_node_name(bs));
    return false;
}

/* --- attaching --- */

/* Detach the state nodes again.  In the main thread, with requests drained. */
static void quorum_state_drop(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    bdrv_graph_wrlock();
    quorum_state_detach(bs);
    bdrv_graph_wrunlock();
    for (int i = 0; i < s->num_slots; i++) {
        quorum_sync_set_recorded(s->sync, i, false);
    }
}

/* Attach the state nodes; requests know nothing of them yet. */
static bool GRAPH_WRLOCK quorum_state_attach_new(BlockDriverState *bs,
                                                 BlockDriverState **nodes,
                                                 int n, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st;
    int count = 0;

    if (!quorum_state_may_create(bs, n, errp)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        count += nodes[i] != NULL;
        if (nodes[i] && !quorum_state_check_node(bs, i, nodes[i],
                                                 s->slots[i].child, errp)) {
            return false;
        }
    }
    if (!quorum_state_check_count(count, s->opts.threshold, errp)) {
        return false;
    }
    st = quorum_state_new(bs, n);
    st->creating = st->checking = true;
    s->state = st;
    for (int i = 0; i < n; i++) {
        g_autofree char *name = quorum_state_name(i);

        if (!nodes[i]) {
            continue;
        }
        bdrv_ref(nodes[i]);
        st->nodes[i].child = bdrv_attach_child(bs, nodes[i], name,
                                               &child_of_bds,
                                               BDRV_CHILD_METADATA, errp);
        if (!st->nodes[i].child) {
            quorum_state_detach(bs);
            return false;
        }
        quorum_state_attached(st->nodes[i].child);
    }
    return true;
}

/* --- trying and writing --- */

/* Look whether the state node in slot @i is blank and can be written to. */
static bool coroutine_fn GRAPH_RDLOCK quorum_state_try_node(QuorumState *st,
                                                            int i,
                                                            Error **errp)
{
    g_autofree uint8_t *labels = g_malloc(QUORUM_STATE_LABELS);
    QuorumStateNode *node = &st->nodes[i];
    BdrvChild *child = node->child;
    const char *what = "read";
    bool blank = true;
    int64_t length = bdrv_co_getlength(child->bs);
    int ret;

    if (length < 0) {
        error_setg_errno(errp, -length, "state.%d (node '%s') cannot be read",
                         i, bdrv_get_node_name(child->bs));
        return false;
    }
    if (!quorum_state_check_room(st, i, child->bs, length, errp)) {
        return false;
    }
    /* If it does not answer, the timer gives it up like in a round. */
    qemu_mutex_lock(&st->lock);
    quorum_state_ask_locked(node);
    qemu_mutex_unlock(&st->lock);
    quorum_state_wake(st);
    ret = bdrv_co_pread(child, 0, QUORUM_STATE_LABELS, labels, 0);
    if (ret >= 0) {
        blank = quorum_state_check_blank(labels, child->bs, i, NULL, errp);
    }
    if (ret >= 0 && blank) {
        what = "written";
        ret = bdrv_co_pwrite_zeroes(child, 0, QUORUM_STATE_LABELS,
                                    BDRV_REQ_FUA);
    }
    qemu_mutex_lock(&st->lock);
    node->busy = false;
    qemu_mutex_unlock(&st->lock);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "state.%d (node '%s') cannot be %s", i,
                         bdrv_get_node_name(child->bs), what);
    }
    return ret >= 0 && blank;
}

/* Look at all state nodes, and try them. */
static bool coroutine_fn GRAPH_RDLOCK quorum_state_co_try(QuorumState *st,
                                                          Error **errp)
{
    quorum_state_begin_set(st);
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].child) {
            st->nodes[i].record = quorum_state_new_record(st, i);
            st->nodes[i].state = QUORUM_STATE_NODE_STATE_BLANK;
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].child && !quorum_state_try_node(st, i, errp)) {
            return false;
        }
    }
    return true;
}

/*
 * What was written and not flushed is marked, as if state nodes had been there.
 * What children lack is in their maps, and where these are too coarse, marks
 * say that something has to be chosen.
 */
static void GRAPH_RDLOCK quorum_state_note_all_locked(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    int shift = st->label.intent_shift;
    int64_t length = quorum_sync_length(s->sync);

    for (int64_t b = 0; b << shift < length; b++) {
        if (!quorum_sync_is_flushed(s->sync, b << shift,
                                    INT64_C(1) << shift) ||
            (quorum_sync_is_degraded(s->sync) &&
             !quorum_state_has_voters_locked(st, b << shift,
                                             INT64_C(1) << shift))) {
            set_bit(b, st->wanted);
            st->marked++;
            quorum_state_dirty_page_locked(st, b / QUORUM_STATE_BITS);
        }
    }
}

/* Wait for all state nodes: each of them must have what was written. */
static bool coroutine_fn GRAPH_RDLOCK quorum_state_co_check(QuorumState *st,
                                                            Error **errp)
{
    bool ok = true;
    uint64_t want;

    qemu_mutex_lock(&st->lock);
    want = st->config_want;
    for (int i = 0; i < st->num_nodes && ok; i++) {
        QuorumStateNode *node = &st->nodes[i];

        while (node->record >= 0 && node->durable < want && node->busy) {
            qemu_co_queue_wait(&st->waiters, &st->lock);
        }
        if (node->record >= 0 && node->durable < want) {
            error_setg(errp, "state.%d (node '%s') %s", i,
                       bdrv_get_node_name(node->child->bs),
                       node->error ?: "could not be written");
            ok = false;
        }
    }
    st->checking &= !ok;
    qemu_mutex_unlock(&st->lock);
    return ok;
}

/*
 * With requests drained: write down how all is.  Enough state nodes have it
 * then, and it is as if they had been there from the beginning.
 */
static bool coroutine_fn GRAPH_RDLOCK quorum_state_co_begin(QuorumState *st,
                                                            Error **errp)
{
    BlockDriverState *bs = st->bs;
    BDRVQuorumState *s = bs->opaque;

    if (bs->open_flags & BDRV_O_INACTIVE ||
        quorum_sync_length(s->sync) > st->label.max_bytes) {
        error_setg(errp, "Quorum '%s' was %s meanwhile; try again",
                   bdrv_get_node_name(bs), bs->open_flags & BDRV_O_INACTIVE ?
                   "made inactive" : "resized");
        return false;
    }
    qemu_mutex_lock(&st->lock);
    /* There is no earlier configuration that could know better. */
    quorum_state_note_change(st);
    /* It is known from the first label on, which says all. */
    quorum_state_begin_session_locked(st);
    st->label.flags |= QUORUM_STATE_BEGUN;
    st->config_want = st->want + 1;
    quorum_state_note_all_locked(st);
    qemu_mutex_unlock(&st->lock);
    if (quorum_state_store(bs) < 0 || quorum_state_commit(st) < 0) {
        if (quorum_state_co_check(st, errp)) {
            error_setg(errp, "The state nodes of quorum '%s' could not be "
                       "written", bdrv_get_node_name(bs));
        }
        return false;
    }
    qemu_mutex_lock(&st->lock);
    bitmap_copy(st->intent, st->wanted, quorum_state_intent_bits(st));
    for (int i = 0; i < st->num_nodes; i++) {
        quorum_state_set_recorded_locked(st, i, false);
    }
    st->creating = false;
    st->loaded = st->begun = true;
    qemu_mutex_unlock(&st->lock);
    return true;
}

/* With requests drained: if something was written, it is gone again. */
static bool coroutine_fn GRAPH_RDLOCK quorum_state_co_erase(QuorumState *st,
                                                            Error **errp)
{
    quorum_state_wait_all(st);
    for (int i = 0; i < st->num_nodes && st->session; i++) {
        if (st->nodes[i].record >= 0) {
            bdrv_co_pwrite_zeroes(st->nodes[i].child, 0, QUORUM_STATE_LABELS,
                                  BDRV_REQ_FUA);
        }
    }
    return true;
}

static void quorum_state_created(BlockDriverState *bs, bool ok)
{
    BDRVQuorumState *s = bs->opaque;

    trace_quorum_state_create(bs->node_name, ok);
    /* Now the other side of a migration would know who is rebuilding. */
    qemu_bh_schedule(s->migration_bh);
}

/* --- the command --- */

/* What is asked for, and what has become of it */
typedef struct QuorumStateCreate {
    BlockDriverState *bs;
    BlockDriverState **nodes;   /* [slot], NULL: none; with references */
    int n;
    Error **errp;
    bool ok;
    Coroutine *co;
    void (*fn)(struct QuorumStateCreate *c);
} QuorumStateCreate;

static void quorum_state_create_attach(QuorumStateCreate *c)
{
    bdrv_drained_begin(c->bs);
    bdrv_graph_wrlock();
    c->ok = quorum_state_attach_new(c->bs, c->nodes, c->n, c->errp);
    bdrv_graph_wrunlock();
    bdrv_drained_end(c->bs);
}

static void quorum_state_create_detach(QuorumStateCreate *c)
{
    quorum_state_drop(c->bs);
}

static void quorum_state_create_bh(void *opaque)
{
    QuorumStateCreate *c = opaque;

    c->fn(c);
    aio_co_wake(c->co);
}

/* The graph can't be changed in a coroutine. */
static void coroutine_fn
quorum_state_create_do(QuorumStateCreate *c, void (*fn)(QuorumStateCreate *c))
{
    c->fn = fn;
    c->co = qemu_coroutine_self();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), quorum_state_create_bh, c);
    qemu_coroutine_yield();
}

typedef bool coroutine_fn QuorumStateStep(QuorumState *st, Error **errp);

/* Take a step where the node is at home, with the graph lock. */
static bool coroutine_fn GRAPH_UNLOCKED
quorum_state_create_step(QuorumStateCreate *c, QuorumStateStep *step)
{
    BDRVQuorumState *s = c->bs->opaque;
    AioContext *old = bdrv_co_enter(c->bs);
    bool ok;

    bdrv_graph_co_rdlock();
    ok = step(s->state, c->errp);
    bdrv_graph_co_rdunlock();
    bdrv_co_leave(c->bs, old);
    return ok;
}

static void coroutine_fn GRAPH_UNLOCKED
quorum_state_create_all(QuorumStateCreate *c)
{
    bool ok;

    quorum_state_create_do(c, quorum_state_create_attach);
    if (!c->ok) {
        return;
    }
    ok = quorum_state_create_step(c, quorum_state_co_try);
    if (ok) {
        bdrv_drained_begin(c->bs);
        ok = quorum_state_create_step(c, quorum_state_co_begin);
        bdrv_drained_end(c->bs);
    }
    /* A state node that is slow keeps the command waiting, and no request. */
    ok = ok && quorum_state_create_step(c, quorum_state_co_check);
    if (!ok) {
        bdrv_drained_begin(c->bs);
        quorum_state_create_step(c, quorum_state_co_erase);
        quorum_state_create_do(c, quorum_state_create_detach);
        bdrv_drained_end(c->bs);
    }
    quorum_state_created(c->bs, ok);
}

/* Fill in @c->nodes from @list. */
static bool quorum_state_create_nodes(QuorumStateCreate *c,
                                      const StrOrNullList *list)
{
    const char *name = bdrv_get_node_name(c->bs);

    c->nodes = g_new0(BlockDriverState *, QUORUM_CHILDREN_MAX);
    for (; list && c->n < QUORUM_CHILDREN_MAX; list = list->next, c->n++) {
        BlockDriverState *node;

        if (list->value->type == QTYPE_QNULL) {
            continue;
        }
        node = bdrv_find_node(list->value->u.s);
        if (!node) {
            error_setg(c->errp, "Cannot make '%s' state.%d of quorum '%s': "
                       "there is no node of this name", list->value->u.s, c->n,
                       name);
            return false;
        }
        for (int i = 0; i < c->n; i++) {
            if (c->nodes[i] == node) {
                error_setg(c->errp, "Node '%s' cannot be both state.%d and "
                           "state.%d of quorum '%s'", list->value->u.s, i,
                           c->n, name);
                return false;
            }
        }
        bdrv_ref(node);
        c->nodes[c->n] = node;
    }
    return true;
}

static void quorum_state_create_unref(QuorumStateCreate *c)
{
    for (int i = 0; i < c->n; i++) {
        bdrv_unref(c->nodes[i]);
    }
    g_free(c->nodes);
    bdrv_unref(c->bs);
}

void coroutine_fn qmp_quorum_state_create(const char *node,
                                          StrOrNullList *state, Error **errp)
{
    QuorumStateCreate c = { .errp = errp };

    GLOBAL_STATE_CODE();
    c.bs = bdrv_lookup_bs(node, node, errp);
    if (!c.bs) {
        return;
    }
    if (g_strcmp0(bdrv_get_format_name(c.bs), "quorum") != 0) {
        error_setg(errp, "Cannot create state nodes of node '%s': it is not a "
                   "quorum node, its driver is '%s'", node,
                   bdrv_get_format_name(c.bs) ?: "none");
        return;
    }
    bdrv_ref(c.bs);
    if (quorum_state_create_nodes(&c, state)) {
        quorum_state_create_all(&c);
    }
    quorum_state_create_do(&c, quorum_state_create_unref);
}

/* --- as a part of a reopen: in the main thread, with all drained --- */

static int coroutine_fn GRAPH_RDLOCK
quorum_state_co_create(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    if (quorum_state_co_try(s->state, errp) &&
        quorum_state_co_begin(s->state, errp) &&
        quorum_state_co_check(s->state, errp)) {
        return 0;
    }
    quorum_state_co_erase(s->state, NULL);
    return -EIO;
}

static int coroutine_fn GRAPH_RDLOCK
quorum_state_co_uncreate(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    quorum_state_co_erase(s->state, NULL);
    return 0;
}

int quorum_state_create(BlockDriverState *bs, BlockDriverState **nodes, int n,
                        Error **errp)
{
    bool ok;

    bdrv_graph_wrlock();
    ok = quorum_state_attach_new(bs, nodes, n, errp);
    bdrv_graph_wrunlock();
    if (!ok) {
        return -EINVAL;
    }
    ok = quorum_state_run(bs, quorum_state_co_create, errp) == 0;
    quorum_state_created(bs, ok);
    if (!ok) {
        quorum_state_drop(bs);
        return -EIO;
    }
    return 0;
}

void quorum_state_uncreate(BlockDriverState *bs)
{
    quorum_state_run(bs, quorum_state_co_uncreate, NULL);
    quorum_state_drop(bs);
}
