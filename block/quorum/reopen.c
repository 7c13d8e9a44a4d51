/*
 * Quorum block driver: reopening
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A reopen may change options and children, together with other nodes.  All is
 * read and checked when the node is prepared; the children change when all
 * nodes are prepared, as a part of the transaction, which changes them back if
 * it fails.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/qdict.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "checked.h"
#include "digest-store.h"
#include "graph.h"
#include "state.h"

/* What a reopen asks for */
typedef struct QuorumReopen {
    QuorumOptions opts;
    QuorumDigests *digests;     /* for them; owned if it is not the node's */
    BlockDriverState **nodes;   /* [slot], NULL: vacant; with references */
    int n;
    bool has_state;             /* state nodes are given, as well: */
    BlockDriverState **state;   /* [slot], NULL: none; with references */
    bool created;               /* they are the first ones, and in use */
} QuorumReopen;

static void GRAPH_UNLOCKED quorum_reopen_free(BDRVReopenState *state)
{
    QuorumReopen *r = state->opaque;

    for (int i = 0; i < r->n; i++) {
        bdrv_unref(r->nodes[i]);
        bdrv_unref(r->state[i]);
    }
    if (r->digests != ((BDRVQuorumState *)state->bs->opaque)->digests) {
        quorum_digests_free(r->digests);
    }
    g_free(r->nodes);
    g_free(r->state);
    g_free(r);
    state->opaque = NULL;
}

/*
 * A list of children, or of state nodes, that is shorter than ours takes away
 * the others.  Say so with false as their value, before the core takes out the
 * options of the children that it reopens with us: later the two kinds could
 * not be told from each other.
 */
void quorum_reopen_parse_children(BlockDriverState *bs, QDict *options)
{
    bool has[] = {
        quorum_opts_have(options, QUORUM_OPT_CHILDREN),
        quorum_opts_have(options, QUORUM_OPT_STATE),
    };
    BdrvChild *child;

    QLIST_FOREACH(child, &bs->children, next) {
        g_autofree char *prefix = g_strconcat(child->name, ".", NULL);

        if (has[quorum_state_is_node(child)] &&
            !quorum_store_is_node(bs->opaque, child) &&
            !qdict_haskey(options, child->name) &&
            !quorum_opts_have(options, prefix)) {
            qdict_put_bool(options, child->name, false);
        }
    }
}

/*
 * Which node @key, the name of a child, is to be, with a reference, according
 * to its value in @options: *@node; now it is @child, or NULL.  Returns false
 * if it is not mentioned, or with @errp set.
 */
static bool GRAPH_RDLOCK
quorum_reopen_child(BlockDriverState *bs, QDict *options, const char *key,
                    BdrvChild *child, BlockDriverState **node, Error **errp)
{
    QObject *value = qdict_get(options, key);
    const char *name = qdict_get_try_str(options, key);

    *node = NULL;
    if (qobject_to(QBool, value)) {
        return false;
    }
    if (value && quorum_key_is_vacant(options, key)) {
        return true;
    }
    if (!value) {
        /* The core has taken out the options of a child that stays. */
        *node = child ? child->bs : NULL;
    } else if (name) {
        *node = bdrv_find_node(name);
        if (!*node) {
            error_setg(errp, "Cannot make '%s' %s of quorum '%s': there is no "
                       "node of this name", name, key, bdrv_get_node_name(bs));
            return false;
        }
        /* A job may have put an implicit filter there. */
        if (child && bdrv_skip_implicit_filters(child->bs) == *node) {
            *node = child->bs;
        }
    } else {
        error_setg(errp, "Invalid value of option '%s': it must be the name of "
                   "a node, or null", key);
        return false;
    }
    if (*node) {
        bdrv_ref(*node);
    }
    return *node != NULL;
}

/* Fill in @r->nodes with the children as they are. */
static void GRAPH_RDLOCK quorum_reopen_keep_children(BDRVQuorumState *s,
                                                     QuorumReopen *r)
{
    for (; r->n < s->num_slots; r->n++) {
        if (s->slots[r->n].child) {
            r->nodes[r->n] = s->slots[r->n].child->bs;
            bdrv_ref(r->nodes[r->n]);
        }
    }
}

/* Whether all children in @options are given as values, not as options. */
static bool quorum_reopen_check_keys(BlockDriverState *bs, QDict *options,
                                     const char *prefix, Error **errp)
{
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *index;

        if (strstart(qdict_entry_key(e), prefix, &index) &&
            strchr(index, '.')) {
            error_setg(errp, "Cannot open a child by '%s' when reopening "
                       "quorum '%s': add a node, and give its name",
                       qdict_entry_key(e), bdrv_get_node_name(bs));
            return false;
        }
    }
    return true;
}

/* Whether each implicit filter stays where it is. */
static bool GRAPH_RDLOCK quorum_reopen_keeps_filters(BlockDriverState *bs,
                                                     const QuorumReopen *r,
                                                     Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child && child->bs->implicit && r->nodes[i] != child->bs) {
            error_setg(errp, "Cannot replace implicit %s child of %s",
                       child->name, bdrv_get_node_name(bs));
            return false;
        }
    }
    return true;
}

/*
 * Make @node, whose reference is taken over, the child in slot @i, unless it is
 * one already.
 */
static bool GRAPH_RDLOCK quorum_reopen_add_node(BlockDriverState *bs,
                                                QuorumReopen *r, int i,
                                                BlockDriverState *node,
                                                Error **errp)
{
    for (int j = 0; node && j < r->n; j++) {
        if (r->nodes[j] == node) {
            error_setg(errp, "Node '%s' cannot be both children.%d and "
                       "children.%d of quorum '%s'", bdrv_get_node_name(node),
                       j, i, bdrv_get_node_name(bs));
            bdrv_unref(node);
            return false;
        }
    }
    assert(i >= r->n && i < QUORUM_CHILDREN_MAX);
    r->nodes[i] = node;
    r->n = i + 1;
    return true;
}

/* Fill in @r->nodes from @options, where their keys are deleted. */
static bool GRAPH_RDLOCK quorum_reopen_children(BlockDriverState *bs,
                                                QDict *options, QuorumReopen *r,
                                                Error **errp)
{
    ERRP_GUARD();
    BDRVQuorumState *s = bs->opaque;
    int gap = -1;

    if (!quorum_opts_have(options, QUORUM_OPT_CHILDREN)) {
        quorum_reopen_keep_children(s, r);
        return true;
    }
    if (!quorum_reopen_check_keys(bs, options, QUORUM_OPT_CHILDREN, errp)) {
        return false;
    }
    for (int i = 0; i < QUORUM_CHILDREN_MAX; i++) {
        g_autofree char *key = quorum_child_name(i);
        BdrvChild *child = i < s->num_slots ? s->slots[i].child : NULL;
        BlockDriverState *node;
        bool mentioned = quorum_reopen_child(bs, options, key, child, &node,
                                             errp);

        if (*errp) {
            return false;
        }
        qdict_del(options, key);
        if (!mentioned) {
            gap = gap < 0 ? i : gap;
            continue;
        }
        if (!quorum_reopen_add_node(bs, r, i, node, errp)) {
            return false;
        }
        if (gap >= 0) {
            error_setg(errp, "Option children is not a valid array: there is "
                       "%s, but no children.%d", key, gap);
            return false;
        }
    }
    return quorum_reopen_keeps_filters(bs, r, errp);
}

/* Fill in @r->state from @options, where their keys are deleted. */
static bool GRAPH_RDLOCK quorum_reopen_state(BlockDriverState *bs,
                                             QDict *options, QuorumReopen *r,
                                             Error **errp)
{
    ERRP_GUARD();

    r->has_state = quorum_opts_have(options, QUORUM_OPT_STATE);
    if (!r->has_state) {
        return true;
    }
    if (!quorum_reopen_check_keys(bs, options, QUORUM_OPT_STATE, errp)) {
        return false;
    }
    for (int i = 0; i < QUORUM_CHILDREN_MAX; i++) {
        g_autofree char *key = g_strdup_printf(QUORUM_OPT_STATE "%d", i);
        BdrvChild *child = quorum_state_child(bs->opaque, i);
        BlockDriverState *node = NULL;
        /* False: one that is not given. */
        bool given = qdict_haskey(options, key) &&
                     !qobject_to(QBool, qdict_get(options, key));

        quorum_reopen_child(bs, options, key, child, &node, errp);
        if (*errp) {
            return false;
        }
        qdict_del(options, key);
        if (i >= r->n && (node || given)) {
            bdrv_unref(node);
            error_setg(errp, "Option %s is given, and quorum '%s' has %d "
                       "children; give one state node for each, or null", key,
                       bdrv_get_node_name(bs), r->n);
            return false;
        }
        for (int j = 0; j < i && node; j++) {
            if (r->state[j] == node) {
                bdrv_unref(node);
                error_setg(errp, "Node '%s' cannot be both state.%d and "
                           "state.%d of quorum '%s'", bdrv_get_node_name(node),
                           j, i, bdrv_get_node_name(bs));
                return false;
            }
        }
        r->state[i] = node;
    }
    return true;
}

/*
 * The state nodes are the first ones: begin to use them.  All requests are
 * drained.
 */
static int quorum_reopen_create_state(BlockDriverState *bs, QuorumReopen *r,
                                      Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    bool same = r->n == s->num_slots;
    int ret;

    bdrv_graph_rdlock_main_loop();
    for (int i = 0; i < r->n && same; i++) {
        same = r->nodes[i] == child_bs(s->slots[i].child);
    }
    bdrv_graph_rdunlock_main_loop();
    if (!same) {
        error_setg(errp, "Quorum '%s' can't get state nodes and other children "
                   "in one reopen: change the children first",
                   bdrv_get_node_name(bs));
        return -EINVAL;
    }
    ret = quorum_state_create(bs, r->state, r->n, errp);
    r->created = ret == 0;
    return ret;
}

/* Check the state nodes that are to come and go, or create the first ones. */
static int quorum_reopen_prepare_state(BlockDriverState *bs, QuorumReopen *r,
                                       Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int count = 0;

    if (r->opts.state_init && s->state) {
        error_setg(errp, "Quorum '%s' has state nodes already: state-init=on "
                   "has no meaning", bdrv_get_node_name(bs));
        return -EINVAL;
    }
    r->opts.state_init = false;
    if (!r->has_state) {
        return 0;
    }
    for (int i = 0; i < r->n; i++) {
        count += r->state[i] != NULL;
    }
    if (!quorum_state_check_count(count, r->opts.threshold, errp)) {
        return -EINVAL;
    }
    if (!s->state) {
        return quorum_reopen_create_state(bs, r, errp);
    }
    return quorum_state_check_nodes(bs, r->state, r->nodes, r->n, errp)
           ? 0 : -EINVAL;
}

int quorum_reopen_prepare(BDRVReopenState *state, BlockReopenQueue *queue,
                          Error **errp)
{
    BlockDriverState *bs = state->bs;
    BDRVQuorumState *s = bs->opaque;
    QuorumReopen *r = g_new0(QuorumReopen, 1);
    int occupied = 0;
    bool ok;
    int ret = -EINVAL;

    r->nodes = g_new0(BlockDriverState *, QUORUM_CHILDREN_MAX);
    r->state = g_new0(BlockDriverState *, QUORUM_CHILDREN_MAX);
    state->opaque = r;
    if (s->scrub_repairs && !(state->flags & BDRV_O_RDWR)) {
        error_setg(errp, "Cannot make node '%s' read-only while a scrub "
                   "repairs it; cancel the scrub first",
                   bdrv_get_node_name(bs));
        ret = -EBUSY;
        goto fail;
    }
    if (!quorum_opts_normalise(state->options, errp) ||
        !quorum_opts_normalise(state->explicit_options, errp)) {
        goto fail;
    }
    bdrv_graph_rdlock_main_loop();
    ok = quorum_reopen_children(bs, state->options, r, errp) &&
         quorum_reopen_state(bs, state->options, r, errp);
    bdrv_graph_rdunlock_main_loop();
    if (!ok) {
        goto fail;
    }
    for (int i = 0; i < r->n; i++) {
        occupied += r->nodes[i] != NULL;
    }
    ret = quorum_read_options(&r->opts, state->options, r->n, occupied, errp);
    if (ret < 0) {
        goto fail;
    }
    if (r->opts.blkverify != s->opts.blkverify) {
        error_setg(errp, "Cannot change the option '" QUORUM_OPT_BLKVERIFY "'");
        ret = -EINVAL;
        goto fail;
    }
    if (!quorum_store_check_opts(s, &r->opts, errp)) {
        ret = -EINVAL;
        goto fail;
    }
    if (!quorum_checked_make(s, &r->opts, &r->digests, errp)) {
        ret = -ENOMEM;
        goto fail;
    }
    /* Last, for what has been created would have to go again. */
    ret = quorum_reopen_prepare_state(bs, r, errp);
    if (ret < 0) {
        goto fail;
    }
    if (!(state->flags & BDRV_O_RDWR)) {
        /* If it stays writable after all, the next write begins a session. */
        quorum_state_clean(bs);
    }
    return 0;

fail:
    quorum_reopen_free(state);
    return ret;
}

/* From here on permissions are asked for as the new options want it. */
int quorum_reopen_change_children(BDRVReopenState *state, Transaction *tran,
                                  GSList **detached, Error **errp)
{
    QuorumReopen *r = state->opaque;
    int ret = quorum_change_children(state->bs, &r->opts, r->nodes, r->n, false,
                                     tran, detached, errp);

    if (ret < 0 || !r->has_state || r->created) {
        return ret;
    }
    return quorum_state_change_nodes(state->bs, r->state, r->n, tran, detached,
                                     errp);
}

void quorum_reopen_commit(BDRVReopenState *state)
{
    g_autoptr(QDict) options = NULL;
    g_autoptr(QDict) explicit_options = NULL;

    /* The core forgets only those of children that exist. */
    qdict_extract_subqdict(state->options, &options, QUORUM_OPT_CHILDREN);
    qdict_extract_subqdict(state->explicit_options, &explicit_options,
                           QUORUM_OPT_CHILDREN);
    qdict_extract_subqdict(state->options, NULL, QUORUM_OPT_STATE);
    qdict_extract_subqdict(state->explicit_options, NULL, QUORUM_OPT_STATE);
    /* It was begun, now or when the node was opened. */
    qdict_del(state->options, QUORUM_OPT_STATE_INIT);
    qdict_del(state->explicit_options, QUORUM_OPT_STATE_INIT);
    quorum_checked_use(state->bs->opaque,
                       ((QuorumReopen *)state->opaque)->digests);
    quorum_reopen_free(state);
}

/* What has been changed, the transaction changes back. */
void quorum_reopen_abort(BDRVReopenState *state)
{
    QuorumReopen *r = state->opaque;

    if (r->created) {
        quorum_state_uncreate(state->bs);
    }
    quorum_reopen_free(state);
}
