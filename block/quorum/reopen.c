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
#include "graph.h"
#include "state.h"

/* What a reopen asks for */
typedef struct QuorumReopen {
    QuorumOptions opts;
    QuorumDigests *digests;     /* for them; owned if it is not the node's */
    BlockDriverState **nodes;   /* [slot], NULL: vacant; with references */
    int n;
} QuorumReopen;

static void GRAPH_UNLOCKED quorum_reopen_free(BDRVReopenState *state)
{
    QuorumReopen *r = state->opaque;

    for (int i = 0; i < r->n; i++) {
        bdrv_unref(r->nodes[i]);
    }
    if (r->digests != ((BDRVQuorumState *)state->bs->opaque)->digests) {
        quorum_digests_free(r->digests);
    }
    g_free(r->nodes);
    g_free(r);
    state->opaque = NULL;
}

/*
 * A list of children that is shorter than ours takes away the others.  Say so
 * with false as their value, before the core takes out the options of the
 * children that it reopens with us: later the two kinds could not be told from
 * each other.
 */
void quorum_reopen_parse_children(BlockDriverState *bs, QDict *options)
{
    BDRVQuorumState *s = bs->opaque;

    if (!quorum_opts_have(options, QUORUM_OPT_CHILDREN)) {
        return;
    }
    for (int i = 0; i < s->num_slots; i++) {
        g_autofree char *key = quorum_child_name(i);
        g_autofree char *prefix = g_strconcat(key, ".", NULL);
        bool named = qdict_haskey(options, key);

        for (const QDictEntry *e = qdict_first(options); e && !named;
             e = qdict_next(options, e)) {
            named = strstart(qdict_entry_key(e), prefix, NULL);
        }
        if (s->slots[i].child && !named) {
            qdict_put_bool(options, key, false);
        }
    }
}

/*
 * Which node children.@i is to be, with a reference, according to the value of
 * its key in @options: *@node.  Returns false if it is not mentioned, or with
 * @errp set.
 */
static bool GRAPH_RDLOCK
quorum_reopen_child(BlockDriverState *bs, QDict *options, int i,
                    BlockDriverState **node, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *key = quorum_child_name(i);
    QObject *value = qdict_get(options, key);
    const char *name = qdict_get_try_str(options, key);
    BdrvChild *child = i < s->num_slots ? s->slots[i].child : NULL;

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
                                     Error **errp)
{
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *index;

        if (strstart(qdict_entry_key(e), QUORUM_OPT_CHILDREN, &index) &&
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
    int gap = -1;

    r->nodes = g_new0(BlockDriverState *, QUORUM_CHILDREN_MAX);
    if (!quorum_opts_have(options, QUORUM_OPT_CHILDREN)) {
        quorum_reopen_keep_children(bs->opaque, r);
        return true;
    }
    if (!quorum_reopen_check_keys(bs, options, errp)) {
        return false;
    }
    for (int i = 0; i < QUORUM_CHILDREN_MAX; i++) {
        g_autofree char *key = quorum_child_name(i);
        BlockDriverState *node;
        bool mentioned = quorum_reopen_child(bs, options, i, &node, errp);

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

int quorum_reopen_prepare(BDRVReopenState *state, BlockReopenQueue *queue,
                          Error **errp)
{
    BlockDriverState *bs = state->bs;
    BDRVQuorumState *s = bs->opaque;
    QuorumReopen *r = g_new0(QuorumReopen, 1);
    int occupied = 0;
    bool ok;
    int ret = -EINVAL;

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
    ok = quorum_reopen_children(bs, state->options, r, errp);
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
    if (!quorum_checked_make(s, &r->opts, &r->digests, errp)) {
        ret = -ENOMEM;
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

    return quorum_change_children(state->bs, &r->opts, r->nodes, r->n, false,
                                  tran, detached, errp);
}

void quorum_reopen_commit(BDRVReopenState *state)
{
    g_autoptr(QDict) options = NULL;
    g_autoptr(QDict) explicit_options = NULL;

    /* The core forgets only those of children that exist. */
    qdict_extract_subqdict(state->options, &options, QUORUM_OPT_CHILDREN);
    qdict_extract_subqdict(state->explicit_options, &explicit_options,
                           QUORUM_OPT_CHILDREN);
    quorum_checked_use(state->bs->opaque,
                       ((QuorumReopen *)state->opaque)->digests);
    quorum_reopen_free(state);
}

/* What has been changed, the transaction changes back. */
void quorum_reopen_abort(BDRVReopenState *state)
{
    quorum_reopen_free(state);
}
