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
#include "system/block-backend.h"
#include "late.h"
#include "state-int.h"

/* What is put back if the change fails */
struct QuorumStateNodesChange {
    QuorumStateNode *nodes;     /* the old ones */
    int num_nodes;
};

/*
 * Whether the state node in slot @i has been written, or never had to be.  One
 * that a crash has left behind the others gets what it lacks with the next
 * write; one that does not know the disk counts when it has got it.
 */
static bool quorum_state_node_is_well(const QuorumState *st, int i)
{
    const QuorumStateNode *node = &st->nodes[i];

    return node->child &&
           (!st->label.opens || node->state == QUORUM_STATE_NODE_STATE_OK ||
            (node->state == QUORUM_STATE_NODE_STATE_OLD && !node->erase));
}

static void GRAPH_WRLOCK quorum_state_free_node(QuorumStateNode *node)
{
    g_free(node->dirty);
    g_free(node->newest);
    g_free(node->error);
}

/* Only @stay state nodes that are well would be left, fewer than @threshold. */
static void quorum_state_too_few(BlockDriverState *bs, int threshold, int stay,
                                 Error **errp)
{
    error_setg(errp, "Quorum '%s' needs at least %d state nodes, as "
               "vote-threshold says, and of those that stay %d can be written; "
               "change fewer at a time, and wait until they are",
               bdrv_get_node_name(bs), threshold, stay);
}

/*
 * Whether as many state nodes as @threshold needs stay that are well, or as
 * many as there are now, if those go whose children do.
 */
static bool GRAPH_RDLOCK
quorum_state_enough_are_kept(BlockDriverState *bs, BlockDriverState **nodes,
                             const int *from, int n, int threshold,
                             Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    int well = 0, kept = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        well += quorum_state_node_is_well(st, i);
    }
    for (int i = 0; i < n; i++) {
        kept += from[i] >= 0 && (nodes[i] || !s->slots[from[i]].child) &&
                quorum_state_node_is_well(st, from[i]);
    }
    if (kept < threshold && kept < well) {
        quorum_state_too_few(bs, threshold, kept, errp);
        return false;
    }
    return true;
}

int quorum_state_change_begin(BlockDriverState *bs, BlockDriverState **nodes,
                              const int *from, int n, int threshold,
                              Transaction *tran, GSList **detached,
                              QuorumStateNodesChange **change, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    QuorumStateNode *new;

    assert(n > 0);
    *change = NULL;
    if (!st) {
        return 0;
    }
    if (st->creating) {
        error_setg(errp, "The state nodes of quorum '%s' are being created; "
                   "try again when that has ended", bdrv_get_node_name(bs));
        return -EBUSY;
    }
    if (!quorum_state_check_slots(n, errp) ||
        !quorum_state_enough_are_kept(bs, nodes, from, n, threshold, errp)) {
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
            int ret = quorum_late_detach(bs, child, tran, detached, errp);

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
    st->changing = true;
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
            quorum_state_leave(r);
        } else if (st->away[k] && r->place >= 0 &&
                   (r->place >= st->num_nodes || s->slots[r->place].child)) {
            quorum_state_leave(r);
            g_clear_pointer(&st->away[k], g_free);
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        quorum_sync_set_recorded(s->sync, i, st->nodes[i].record < 0);
    }
    st->label.config++;
    quorum_state_note_change(st);
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
    st->changing = false;
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
    /* The other one that is no replica is the node of digests. */
    return child->role & BDRV_CHILD_METADATA &&
           strstart(child->name, QUORUM_OPT_STATE, NULL);
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

    if (!s->state->changing) {
        quorum_state_free_node(&one->was);
    }
    s->state->joined |= s->state->nodes[one->slot].child != NULL;
    quorum_state_config_changed(s->state);
    quorum_state_wake(s->state);
}

static void GRAPH_WRLOCK quorum_state_one_abort(void *opaque)
{
    QuorumStateOne *one = opaque;
    BDRVQuorumState *s = one->bs->opaque;
    QuorumStateNode *node = &s->state->nodes[one->slot];

    if (!one->was.child) {
        s->state->label.records[node->record] = (QuorumStateRecord) {
            .status = QUORUM_STATE_UNUSED,
        };
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

/*
 * Whether enough state nodes are left that have been written, if those that do
 * not stay in their slots, as @nodes says, go.  Others that come in their place
 * may be lost before they are.
 */
static bool GRAPH_RDLOCK quorum_state_enough_stay(BlockDriverState *bs,
                                                  BlockDriverState **nodes,
                                                  Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    bool all_stay = true;
    int stay = 0;

    for (int i = 0; i < st->num_nodes; i++) {
        BdrvChild *child = st->nodes[i].child;

        if (child && child->bs != nodes[i]) {
            all_stay = false;
        } else {
            stay += quorum_state_node_is_well(st, i);
        }
    }
    if (!all_stay && stay < s->opts.threshold) {
        quorum_state_too_few(bs, s->opts.threshold, stay, errp);
        return false;
    }
    return true;
}

/* Attach @node as the state node in @slot, which has none. */
static int GRAPH_WRLOCK quorum_state_attach_one(BlockDriverState *bs, int slot,
                                                BlockDriverState *node,
                                                Transaction *tran,
                                                Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumStateNode new = { .record = -1, .look = true, .erase = true };
    g_autofree char *name = quorum_state_name(slot);
    BdrvChild *child;

    child = bdrv_attach_child_tran(bs, node, name, &child_of_bds,
                                   BDRV_CHILD_METADATA, tran, errp);
    if (!child) {
        return -EINVAL;
    }
    quorum_state_attached(child);
    new.record = quorum_state_new_record(s->state, slot);
    if (new.record < 0) {
        error_setg(errp, "Quorum '%s' has had too many members",
                   bdrv_get_node_name(bs));
        return -EINVAL;
    }
    new.child = child;
    new.state = QUORUM_STATE_NODE_STATE_BLANK;
    quorum_state_alloc_node(s->state, &new);
    quorum_state_put_one(bs, slot, new, tran);
    /* What the others know, and the map of its child. */
    quorum_state_dirty_all_locked(s->state, slot);
    quorum_state_dirty_stale_locked(s->state, new.record);
    return 0;
}

/* Detach the state node in @slot. */
static int GRAPH_WRLOCK quorum_state_detach_one(BlockDriverState *bs, int slot,
                                                Transaction *tran,
                                                GSList **detached,
                                                Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int ret = quorum_late_detach(bs, s->state->nodes[slot].child, tran,
                                 detached, errp);

    if (ret == 0) {
        quorum_state_put_one(bs, slot, (QuorumStateNode) { .record = -1 },
                             tran);
    }
    return ret;
}

/* Whether state nodes can be added to, and taken away from, the quorum. */
static bool quorum_state_may_change(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    if (!s->state) {
        error_setg(errp, "Quorum '%s' has no state nodes; the command "
                   "quorum-state-create gives it all of them at once",
                   bdrv_get_node_name(bs));
        return false;
    }
    if (!s->state->loaded) {
        error_setg(errp, "Quorum '%s' is inactive, or its state nodes are "
                   "being created", bdrv_get_node_name(bs));
        return false;
    }
    return true;
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
    if (quorum_state_child(s, slot)) {
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
    int slot = quorum_state_slot(bs, name, errp);

    if (slot < 0 || !quorum_state_may_change(bs, errp) ||
        !quorum_state_check_node(bs, slot, node, true, errp)) {
        return -EINVAL;
    }
    return quorum_state_attach_one(bs, slot, node, tran, errp);
}

int quorum_state_del_node(BlockDriverState *bs, BdrvChild *child,
                          Transaction *tran, GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree BlockDriverState **nodes = g_new0(BlockDriverState *,
                                                 s->num_slots);
    int slot = 0;

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_state_child(s, i) == child) {
            slot = i;
        } else {
            nodes[i] = child_bs(quorum_state_child(s, i));
        }
    }
    if (!quorum_state_may_change(bs, errp) ||
        !quorum_state_enough_stay(bs, nodes, errp)) {
        return -EINVAL;
    }
    return quorum_state_detach_one(bs, slot, tran, detached, errp);
}

/* --- all state nodes, in a reopen --- */

BdrvChild *quorum_state_child(const BDRVQuorumState *s, int i)
{
    return s->state && i < s->state->num_nodes ? s->state->nodes[i].child
                                               : NULL;
}

/*
 * Whether @node is a state node already, which is *@ok if it stays with its
 * child, @child, which is to be in slot @i.
 */
static bool GRAPH_RDLOCK quorum_state_is_there(BlockDriverState *bs,
                                               BlockDriverState *node, int i,
                                               BlockDriverState *child,
                                               bool *ok, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    for (int j = 0; j < s->num_slots; j++) {
        if (child_bs(quorum_state_child(s, j)) != node) {
            continue;
        }
        *ok = child ? child_bs(s->slots[j].child) == child : i == j;
        if (!*ok) {
            error_setg(errp, "Node '%s' is state.%d of quorum '%s': it stays "
                       "with its child, and cannot be state.%d",
                       bdrv_get_node_name(node), j, bdrv_get_node_name(bs), i);
        }
        return true;
    }
    return false;
}

/* Whether @node is blank, or was a state node of the quorum before. */
static bool quorum_state_read_check(BlockDriverState *bs, int i,
                                    BlockDriverState *node, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree uint8_t *labels = g_malloc(QUORUM_STATE_LABELS);
    BlockBackend *blk = blk_new_with_bs(node, BLK_PERM_CONSISTENT_READ,
                                        BLK_PERM_ALL, errp);
    int ret;

    if (!blk) {
        return false;
    }
    /* All nodes may be drained, which it does not wait for the end of. */
    blk_set_disable_request_queuing(blk, true);
    ret = blk_pread(blk, 0, QUORUM_STATE_LABELS, labels, 0);
    blk_unref(blk);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "state.%d (node '%s') cannot be read", i,
                         bdrv_get_node_name(node));
        return false;
    }
    return quorum_state_check_blank(labels, node, i, &s->state->label.set,
                                    errp);
}

bool quorum_state_check_nodes(BlockDriverState *bs, BlockDriverState **nodes,
                              BlockDriverState **children, int n, Error **errp)
{
    if (!quorum_state_may_change(bs, errp)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        bool there = true, ok = true;

        bdrv_graph_rdlock_main_loop();
        if (nodes[i]) {
            there = quorum_state_is_there(bs, nodes[i], i, children[i], &ok,
                                          errp);
        }
        if (!there) {
            ok = quorum_state_check_node(bs, i, nodes[i], children[i], errp);
        }
        bdrv_graph_rdunlock_main_loop();
        if (!ok || (!there && !quorum_state_read_check(bs, i, nodes[i],
                                                       errp))) {
            return false;
        }
    }
    return true;
}

int quorum_state_change_nodes(BlockDriverState *bs, BlockDriverState **nodes,
                              int n, Transaction *tran, GSList **detached,
                              Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int ret = 0;

    if (!quorum_state_enough_stay(bs, nodes, errp)) {
        return -EINVAL;
    }
    for (int i = 0; i < n && ret == 0; i++) {
        BdrvChild *child = quorum_state_child(s, i);

        if (child && child->bs != nodes[i]) {
            ret = quorum_state_detach_one(bs, i, tran, detached, errp);
        }
    }
    for (int i = 0; i < n && ret == 0; i++) {
        if (nodes[i] && !quorum_state_child(s, i)) {
            ret = quorum_state_attach_one(bs, i, nodes[i], tran, errp);
        }
    }
    return ret;
}
