/*
 * Quorum block driver: what survives a restart: state nodes that come and go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * All with requests drained and under the graph write lock, where no I/O can be
 * done: what has changed is written with the next round, for which requests
 * that change children wait (R3).
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "state-int.h"

/* What is put back if the change fails */
struct QuorumStateNodesChange {
    QuorumStateNode *nodes;     /* the old ones */
    int num_nodes;
};

static void GRAPH_WRLOCK quorum_state_free_node(QuorumStateNode *node)
{
    g_free(node->dirty);
    g_free(node->newest);
    g_free(node->error);
}

int quorum_state_change_begin(BlockDriverState *bs, BlockDriverState **nodes,
                              const int *from, int n, Transaction *tran,
                              GSList **detached,
                              QuorumStateNodesChange **change, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    QuorumStateNode *new;

    *change = NULL;
    if (!st) {
        return 0;
    }
    if (st->creating) {
        error_setg(errp, "The state nodes of quorum '%s' are being created; "
                   "try again when that has ended", bdrv_get_node_name(bs));
        return -EBUSY;
    }
    if (!quorum_state_check_slots(n, errp)) {
        return -EINVAL;
    }
    new = g_new0(QuorumStateNode, n);
    for (int i = 0; i < n; i++) {
        QuorumStateNode *old = from[i] >= 0 ? &st->nodes[from[i]] : NULL;
        g_autofree char *name = quorum_state_name(i);

        if (!old || !old->child ||
            (!nodes[i] && s->slots[from[i]].child)) {
            new[i].record = -1;
            continue;
        }
        new[i] = *old;
        if (from[i] != i) {
            new[i].child = bdrv_attach_child_tran(bs, old->child->bs, name,
                                                  &child_of_bds,
                                                  BDRV_CHILD_METADATA, tran,
                                                  errp);
            if (!new[i].child) {
                g_free(new);
                return -EINVAL;
            }
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        BdrvChild *child = st->nodes[i].child;

        if (child && (i >= n || new[i].child != child)) {
            int ret = bdrv_detach_child_tran(bs, child, tran, detached, errp);

            if (ret < 0) {
                g_free(new);
                return ret;
            }
        }
    }
    *change = g_new(QuorumStateNodesChange, 1);
    **change = (QuorumStateNodesChange) {
        .nodes = st->nodes,
        .num_nodes = st->num_nodes,
    };
    st->nodes = new;
    st->num_nodes = n;
    return 0;
}

/* Whether the node in @nodes[i] is also among the others. */
static bool quorum_state_node_stays(const QuorumStateNode *node,
                                    const QuorumStateNode *others, int n)
{
    for (int i = 0; i < n; i++) {
        if (others[i].dirty == node->dirty) {
            return true;
        }
    }
    return false;
}

/* Records of children that have left; requests wait until that is written. */
static void GRAPH_WRLOCK quorum_state_config_changed(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;

    QEMU_LOCK_GUARD(&st->lock);
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        QuorumStateRecord *r = &st->label.records[k];
        bool here = false;

        for (int i = 0; i < st->num_nodes; i++) {
            here |= st->nodes[i].record == k;
        }
        if (r->status && !here && !st->away[k]) {
            r->status = QUORUM_STATE_REMOVED;
            r->place = -1;
        } else if (st->away[k] && r->place >= 0 &&
                   (r->place >= st->num_nodes || s->slots[r->place].child)) {
            r->status = QUORUM_STATE_REMOVED;
            r->place = -1;
            g_clear_pointer(&st->away[k], g_free);
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        quorum_sync_set_recorded(s->sync, i, st->nodes[i].record < 0);
    }
    st->label.config++;
    /* Fewer nodes may be enough now to read it all. */
    quorum_state_dirty_set_locked(st);
    st->config_want = st->want + 1;
}

void quorum_state_change_end(BlockDriverState *bs,
                             QuorumStateNodesChange *change, bool commit)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    QuorumStateNode *nodes = NULL;
    int n = 0;

    if (!change) {
        return;
    }
    if (commit) {
        nodes = change->nodes;
        n = change->num_nodes;
    } else {
        nodes = st->nodes;
        n = st->num_nodes;
        st->nodes = change->nodes;
        st->num_nodes = change->num_nodes;
    }
    for (int i = 0; i < n; i++) {
        if (nodes[i].dirty &&
            !quorum_state_node_stays(&nodes[i], st->nodes, st->num_nodes)) {
            quorum_state_free_node(&nodes[i]);
        }
    }
    g_free(nodes);
    g_free(change);
    if (commit && st->loaded) {
        quorum_state_config_changed(st);
    }
}

void quorum_state_gather_options(BlockDriverState *bs, QDict *target)
{
    BDRVQuorumState *s = bs->opaque;
    QList *list;

    if (!s->state) {
        return;
    }
    list = qlist_new();
    for (int i = 0; i < s->state->num_nodes; i++) {
        BdrvChild *child = s->state->nodes[i].child;
        QDict *options = child ? child->bs->full_open_options : NULL;

        if (options) {
            qlist_append(list, qobject_ref(options));
        } else {
            qlist_append_null(list);
        }
    }
    qdict_put(target, "state", list);
}

bool quorum_state_in_use(const BDRVQuorumState *s)
{
    return s->state && s->state->loaded;
}

bool quorum_state_is_node(BdrvChild *child)
{
    return child->role & BDRV_CHILD_METADATA;
}

/* --- one state node --- */

/* What an addition or a removal puts back */
typedef struct QuorumStateOne {
    BlockDriverState *bs;
    int slot;
    QuorumStateNode was;
} QuorumStateOne;

static void GRAPH_WRLOCK quorum_state_one_commit(void *opaque)
{
    QuorumStateOne *one = opaque;
    BDRVQuorumState *s = one->bs->opaque;

    if (!one->was.child || !s->state->nodes[one->slot].child) {
        quorum_state_free_node(&one->was);
    }
    quorum_state_config_changed(s->state);
    quorum_state_wake(s->state);
}

static void GRAPH_WRLOCK quorum_state_one_abort(void *opaque)
{
    QuorumStateOne *one = opaque;
    BDRVQuorumState *s = one->bs->opaque;
    QuorumStateNode *node = &s->state->nodes[one->slot];

    if (!one->was.child) {
        s->state->label.records[node->record].status = QUORUM_STATE_UNUSED;
        quorum_state_free_node(node);
    }
    *node = one->was;
}

static TransactionActionDrv quorum_state_one_drv = {
    .commit = quorum_state_one_commit,
    .abort = quorum_state_one_abort,
    .clean = g_free,
};

static void GRAPH_WRLOCK quorum_state_put_one(BlockDriverState *bs, int slot,
                                              QuorumStateNode node,
                                              Transaction *tran)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumStateOne *one = g_new(QuorumStateOne, 1);

    *one = (QuorumStateOne) {
        .bs = bs,
        .slot = slot,
        .was = s->state->nodes[slot],
    };
    s->state->nodes[slot] = node;
    tran_add(tran, &quorum_state_one_drv, one);
}

/* The slot that @name, "state.N", means, or -1 with @errp set. */
static int GRAPH_RDLOCK quorum_state_slot(BlockDriverState *bs,
                                          const char *name, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    const char *number = name + strlen(QUORUM_OPT_STATE);
    unsigned slot;

    if (qemu_strtoui(number, NULL, 10, &slot) < 0 || slot >= s->num_slots ||
        !s->slots[slot].child) {
        error_setg(errp, "There is no child for '%s' to be beside in quorum "
                   "'%s'", name, bdrv_get_node_name(bs));
        return -1;
    }
    if (s->state && s->state->nodes[slot].child) {
        error_setg(errp, "Quorum '%s' has '%s' already; remove it first",
                   bdrv_get_node_name(bs), name);
        return -1;
    }
    return slot;
}

int quorum_state_add_node(BlockDriverState *bs, const char *name,
                          BlockDriverState *node, Transaction *tran,
                          Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int slot = quorum_state_slot(bs, name, errp);
    QuorumStateNode new = { .record = -1, .look = true, .erase = true };
    BdrvChild *child;
    long pages;

    if (slot < 0) {
        return -EINVAL;
    }
    if (!s->state) {
        error_setg(errp, "Quorum '%s' has no state nodes; the command "
                   "quorum-state-create gives it all of them at once",
                   bdrv_get_node_name(bs));
        return -EINVAL;
    }
    if (!s->state->loaded) {
        error_setg(errp, "Quorum '%s' is inactive, or its state nodes are "
                   "being created", bdrv_get_node_name(bs));
        return -EINVAL;
    }
    child = bdrv_attach_child_tran(bs, node, name, &child_of_bds,
                                   BDRV_CHILD_METADATA, tran, errp);
    if (!child) {
        return -EINVAL;
    }
    if (bdrv_can_abandon(child)) {
        bdrv_unabandon(child);
    }
    new.record = quorum_state_new_record(s->state, slot);
    if (new.record < 0) {
        error_setg(errp, "Quorum '%s' has had too many members",
                   bdrv_get_node_name(bs));
        return -EINVAL;
    }
    pages = quorum_state_num_pages(s->state) + 1;
    new.child = child;
    new.state = QUORUM_STATE_NODE_STATE_BLANK;
    new.dirty = bitmap_new(pages);
    new.newest = g_malloc(pages);
    memset(new.newest, QUORUM_STATE_NOWHERE, pages);
    quorum_state_put_one(bs, slot, new, tran);
    /* What the others know, and the map of its child. */
    quorum_state_dirty_all_locked(s->state, slot);
    for (uint32_t p = 0; p < quorum_state_stale_pages(&s->state->label); p++) {
        quorum_state_dirty_page_locked(
            s->state, quorum_state_stale_page(&s->state->label, new.record, p));
    }
    return 0;
}

int quorum_state_del_node(BlockDriverState *bs, BdrvChild *child,
                          Transaction *tran, GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int nodes = 0;
    int slot = 0;
    int ret;

    for (int i = 0; i < st->num_nodes; i++) {
        nodes += st->nodes[i].child != NULL;
        slot = st->nodes[i].child == child ? i : slot;
    }
    if (nodes <= s->opts.threshold) {
        error_setg(errp, "Quorum '%s' needs at least %d state nodes, as "
                   "vote-threshold says", bdrv_get_node_name(bs),
                   s->opts.threshold);
        return -EINVAL;
    }
    ret = bdrv_detach_child_tran(bs, child, tran, detached, errp);
    if (ret < 0) {
        return ret;
    }
    quorum_state_put_one(bs, slot, (QuorumStateNode) { .record = -1 }, tran);
    return 0;
}
