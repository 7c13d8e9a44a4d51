/*
 * Quorum block driver: what survives a restart: choosing what to believe
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * All state nodes are read as a whole, which is a few MiB at most and mostly
 * holes.  Of their labels, one is the *head*: the newest one, if enough of them
 * are here to know that.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qemu/memalign.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "state-open.h"

/* --- reading --- */

void quorum_state_files_free(QuorumStateFile *files, int n)
{
    for (int i = 0; i < n; i++) {
        error_free(files[i].err);
        g_free(files[i].why);
        qemu_vfree(files[i].data);
    }
    g_free(files);
}

/* Read all of the state node @child. */
static void coroutine_fn GRAPH_RDLOCK quorum_state_read_all(BdrvChild *child,
                                                            QuorumStateFile *f)
{
    int64_t length = bdrv_co_getlength(child->bs);
    int64_t bytes;

    if (length < 0) {
        error_setg_errno(&f->err, -length, "cannot be read");
        return;
    }
    /* More than any layout takes is not ours. */
    bytes = MIN(QEMU_ALIGN_DOWN(length, QUORUM_STATE_PAGE), 64 * MiB);
    if (bytes < QUORUM_STATE_LABELS) {
        error_setg(&f->err, "is too small: %" PRId64 " bytes; 16 MiB are "
                   "enough for most disks", length);
        return;
    }
    f->data = qemu_try_blockalign(child->bs, bytes);
    if (!f->data) {
        error_setg(&f->err, "cannot be read: no memory");
        return;
    }
    f->bytes = bytes;
    for (int64_t pos = 0; pos < bytes; pos += MiB) {
        int64_t part = MIN(MiB, bytes - pos);
        int ret = bdrv_co_pread(child, pos, part, f->data + pos, 0);

        if (ret < 0) {
            error_setg_errno(&f->err, -ret, "cannot be read");
            return;
        }
    }
}

void coroutine_fn GRAPH_RDLOCK quorum_state_read(QuorumState *st, int i,
                                                 QuorumStateFile *f)
{
    QuorumStateNode *node = &st->nodes[i];

    WITH_QEMU_LOCK_GUARD(&st->lock) {
        quorum_state_ask_locked(node);
    }
    quorum_state_wake(st);
    quorum_state_read_all(node->child, f);
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        node->busy = false;
    }
}

/* The highest sequence number that is on the state node, by @label, too. */
static void quorum_state_find_seq(QuorumStateFile *f,
                                  const QuorumStateLabel *label)
{
    uint32_t pages = quorum_state_pages(label);

    f->seq = MAX(f->seq, f->label.seq);
    for (uint32_t p = 0; p < pages; p++) {
        for (int place = 0; place < 2; place++) {
            int64_t offset = quorum_state_offset(p, place);
            QuorumStatePage page;

            if (offset + QUORUM_STATE_PAGE <= f->bytes &&
                quorum_state_decode_page(f->data + offset, label, p, &page)) {
                f->seq = MAX(f->seq, page.seq);
            }
        }
    }
}

/*
 * Whether there is room for what was written down of the members of its label.
 * A page that was cut off must not be taken for one that was never written.
 */
static bool quorum_state_is_whole(const QuorumStateFile *f, Error **errp)
{
    int64_t needed = 0;

    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (f->label.records[k].status) {
            needed = quorum_state_offset(
                quorum_state_stale_page(&f->label, k + 1, 0), 0);
        }
    }
    if (f->bytes < needed) {
        error_setg(errp, "was cut short: it has %" PRId64 " bytes, and what is "
                   "written down takes %" PRId64, f->bytes, needed);
    }
    return f->bytes >= needed;
}

void quorum_state_judge_label(QuorumStateFile *f)
{
    Error *err = NULL;

    if (f->err) {
        f->unread = true;
        return;
    }
    for (int place = 0; place < 2; place++) {
        QuorumStateLabel label;
        Error *this_err = NULL;

        if (!quorum_state_decode_label(f->data + place * QUORUM_STATE_PAGE,
                                       &label, &this_err)) {
            error_free(err);
            err = this_err;
        } else if (!f->valid || label.seq > f->label.seq) {
            f->label = label;
            f->newest = place;
            f->valid = true;
        }
    }
    if (f->valid && !quorum_state_is_whole(f, &f->err)) {
        f->valid = false;
        error_free(err);
    } else if (f->valid) {
        quorum_state_find_seq(f, &f->label);
        error_free(err);
    } else if (quorum_state_is_blank(f->data, QUORUM_STATE_LABELS)) {
        f->blank = true;
        error_free(err);
    } else {
        f->err = err;
    }
    /* Its first label may be cut short; BEGUN is never in that one. */
    f->unborn = f->valid ? f->label.opens <= 1 &&
                           !(f->label.flags & QUORUM_STATE_BEGUN)
                         : quorum_state_is_blank(f->data + QUORUM_STATE_PAGE,
                                                 QUORUM_STATE_PAGE);
}

/* --- which one is right --- */

char *quorum_state_describe(QuorumState *st, const QuorumStateFile *f)
{
    GString *text = g_string_new(NULL);

    for (int i = 0; i < st->num_nodes; i++) {
        if (!st->nodes[i].child) {
            continue;
        }
        g_string_append_printf(text, "%sstate.%d (node '%s'): ",
                               text->len ? "; " : "", i,
                               bdrv_get_node_name(st->nodes[i].child->bs));
        if (f[i].valid) {
            g_autofree char *set = qemu_uuid_unparse_strdup(&f[i].label.set);

            g_string_append_printf(text, "disk %.8s, opened %" PRIu64
                                   " times, last sequence number %" PRIu64,
                                   set, f[i].label.opens, f[i].label.seq);
        } else {
            g_string_append(text, f[i].blank ? "blank" :
                            error_get_pretty(f[i].err));
        }
    }
    return g_string_free(text, false);
}

bool quorum_state_check_room(const QuorumState *st, int i,
                             BlockDriverState *node, int64_t bytes,
                             Error **errp)
{
    int records = MIN(2 * st->num_nodes + 1, QUORUM_STATE_RECORDS);
    int64_t needed = quorum_state_offset(
        quorum_state_stale_page(&st->label, records, 0), 0);

    if (bytes < needed) {
        error_setg(errp, "state.%d (node '%s') is too small: %" PRId64
                   " bytes; what is written down of %d children of this "
                   "disk takes %" PRId64, i,
                   bdrv_get_node_name(node), bytes, st->num_nodes, needed);
        return false;
    }
    return true;
}

bool GRAPH_RDLOCK quorum_state_has_room(QuorumState *st,
                                        const QuorumStateFile *f,
                                        Error **errp)
{
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].child &&
            !quorum_state_check_room(st, i, st->nodes[i].child->bs, f[i].bytes,
                                     errp)) {
            return false;
        }
    }
    return true;
}

void quorum_state_begin_set(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    QuorumStateLabel *l = &st->label;

    *l = (QuorumStateLabel) { .layout = 1, .config = 1 };
    quorum_state_lay_out(l, quorum_sync_length(s->sync));
    qemu_uuid_generate(&l->set);
    qemu_uuid_generate(&l->session);
    l->disk_bytes = quorum_sync_length(s->sync);
    quorum_state_alloc_maps(st);
}

/* The record of the head for place @i, or -1. */
static int quorum_state_find_place(const QuorumState *st, int i)
{
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (st->label.records[k].status && st->label.records[k].place == i) {
            return k;
        }
    }
    return -1;
}

void GRAPH_RDLOCK quorum_state_begin(QuorumState *st,
                                     const QuorumStateFile *f)
{
    BDRVQuorumState *s = st->bs->opaque;

    quorum_state_begin_set(st);
    for (int i = 0; i < st->num_nodes; i++) {
        if (f[i].valid) {
            st->label.set = f[i].label.set;
            memcpy(st->label.records, f[i].label.records,
                   sizeof(st->label.records));
            st->nodes[i].newest[quorum_state_num_pages(st)] = f[i].newest;
            if (f[i].seq >= st->seq) {
                /* It has begun on a node that is not here, maybe. */
                st->label.session = f[i].label.session;
                memcpy(st->label.history, f[i].label.history,
                       sizeof(st->label.history));
            }
            st->seq = MAX(st->seq, f[i].seq);
        }
    }
    /* Who is not here is a newcomer when it comes. */
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        QuorumStateRecord *r = &st->label.records[k];

        if (r->status && (r->place < 0 || r->place >= st->num_nodes ||
                          !s->slots[r->place].child)) {
            *r = (QuorumStateRecord) { .status = QUORUM_STATE_UNUSED };
        }
    }
    for (int i = 0; i < st->num_nodes; i++) {
        if (st->nodes[i].child && s->slots[i].child) {
            int k = quorum_state_find_place(st, i);

            st->nodes[i].record = k < 0 ? quorum_state_new_record(st, i) : k;
            st->nodes[i].state = QUORUM_STATE_NODE_STATE_BLANK;
            st->label.records[st->nodes[i].record].status =
                QUORUM_STATE_MEMBER;
        }
    }
    quorum_state_note_change(st);
}

char *quorum_state_complaint(const QuorumStateFile *f,
                             const QuorumStateLabel *head,
                             const QuorumStateRecord *r)
{
    if (f->err) {
        return g_strdup_printf("its state node %s", error_get_pretty(f->err));
    }
    if (f->blank) {
        return g_strdup("its state node is blank");
    }
    if (!r) {
        return g_strdup("it is not known to the others");
    }
    if (r->status == QUORUM_STATE_REMOVED) {
        return g_strdup("it was removed before");
    }
    if (!quorum_state_knows(head, &f->label.session)) {
        return g_strdup("it has gone another way since it was with the others, "
                        "or is very old");
    }
    if (f->seq < r->state_seq) {
        return g_strdup("it was rolled back, or its state node has lost what "
                        "was written to it, which is newer");
    }
    return NULL;
}

/*
 * Whether the state node @f has all that was ever known to be on it, so that
 * what it does not know is not durable.  It may be of a member that has left.
 */
static bool quorum_state_has_all(const QuorumStateFile *f,
                                 const QuorumStateLabel *head)
{
    int k = f->valid ? quorum_state_find(head, &f->label.member) : -1;
    g_autofree char *why = NULL;

    if (k < 0 || f->seq < head->records[k].state_seq ||
        !quorum_state_knows(head, &f->label.session)) {
        return false;
    }
    why = quorum_state_complaint(f, head, &head->records[k]);
    return !why || head->records[k].status == QUORUM_STATE_REMOVED;
}

/* How many members have a state node that can be used, and must have one */
typedef struct QuorumStateCount {
    int members;
    int readable;
    int needed;
} QuorumStateCount;

/* Of the configuration of @head, or with @old, of the one before. */
static QuorumStateCount quorum_state_count(const QuorumState *st,
                                           const QuorumStateFile *f,
                                           const QuorumStateLabel *head,
                                           bool old)
{
    int threshold = old ? head->old_threshold : head->threshold;
    QuorumStateCount c = { 0 };

    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        c.members += quorum_state_is_member(head, k, old);
    }
    for (int i = 0; i < st->num_nodes; i++) {
        c.readable += quorum_state_has_all(&f[i], head) &&
                      quorum_state_is_member(
                          head, quorum_state_find(head, &f[i].label.member),
                          old);
    }
    c.needed = threshold ? c.members - MIN(threshold, c.members) + 1 : 0;
    return c;
}

/* Whether what can be used has the newest of all that is durable. */
static bool quorum_state_is_newest(const QuorumStateCount *now,
                                   const QuorumStateCount *old,
                                   const char *text, Error **errp)
{
    if (now->readable < now->needed) {
        error_setg(errp, "%d of %d state nodes can be used, and %d are needed "
                   "to know that the newest one is among them (%s); "
                   "state-force=on does without", now->readable, now->members,
                   now->needed, text);
        return false;
    }
    if (old->readable < old->needed) {
        error_setg(errp, "The children or the threshold were being changed: "
                   "%d of the %d state nodes from before can be used, and %d "
                   "are needed to know that the newest one is among them (%s); "
                   "give also the children that were taken out; "
                   "state-force=on does without", old->readable, old->members,
                   old->needed, text);
        return false;
    }
    return true;
}

/* Whether two state nodes say that they are the same one. */
static bool quorum_state_is_copied(QuorumState *st, const QuorumStateFile *f,
                                   Error **errp)
{
    for (int i = 0; i < st->num_nodes; i++) {
        for (int j = 0; j < i; j++) {
            if (f[i].valid && f[j].valid &&
                qemu_uuid_is_equal(&f[i].label.member, &f[j].label.member)) {
                error_setg(errp, "state.%d is a copy of state.%d: each child "
                           "needs a state node of its own; make one of them "
                           "blank, and its child is a newcomer", i, j);
                return true;
            }
        }
    }
    return false;
}

int quorum_state_choose_head(BlockDriverState *bs, QuorumStateFile *f,
                             int *needed, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;
    g_autofree QuorumStateLabel **labels = g_new0(QuorumStateLabel *,
                                                  st->num_nodes);
    g_autofree char *text = quorum_state_describe(st, f);
    QuorumStateCount now, old;
    int first = -1, a, b;
    int head;

    for (int i = 0; i < st->num_nodes; i++) {
        if (!f[i].valid) {
            continue;
        }
        labels[i] = &f[i].label;
        first = first < 0 ? i : first;
        if (!qemu_uuid_is_equal(&f[i].label.set, &f[first].label.set)) {
            error_setg(errp, "state.%d and state.%d belong to different "
                       "disks (%s); give null for the children that are not "
                       "of this disk", first, i, text);
            return -EINVAL;
        }
    }
    if (quorum_state_is_copied(st, f, errp)) {
        return -EINVAL;
    }
    head = quorum_state_head(labels, st->num_nodes, &a, &b);
    if (head == -2 && s->opts.state_force) {
        head = a;
        for (int i = 0; i < st->num_nodes; i++) {
            if (labels[i] && labels[i]->seq > labels[head]->seq) {
                head = i;
            }
        }
        warn_report("quorum: state.%d and state.%d have gone different ways; "
                    "state-force=on: state.%d is believed", a, b, head);
    } else if (head == -2) {
        error_setg(errp, "state.%d and state.%d have gone different ways since "
                   "they were together (%s): give null for the children that "
                   "are not to be believed, and add them again with "
                   "in-sync=false; or state-force=on to believe the newest one",
                   a, b, text);
        return -EINVAL;
    }
    if (head < 0) {
        error_setg(errp, "No state node can be used (%s); for children that "
                   "are alike, give blank state nodes and state-init=on", text);
        return -EINVAL;
    }
    for (int i = 0; i < st->num_nodes; i++) {
        /* Labels of one seq say the same. */
        if (labels[i] && labels[i]->seq != labels[head]->seq) {
            quorum_state_find_seq(&f[i], labels[head]);
        }
    }
    now = quorum_state_count(st, f, labels[head], false);
    old = quorum_state_count(st, f, labels[head], true);
    if (!s->opts.state_force && !quorum_state_is_newest(&now, &old, text,
                                                        errp)) {
        return -EINVAL;
    }
    for (int i = 0; i < st->num_nodes; i++) {
        f[i].good = quorum_state_has_all(&f[i], labels[head]) &&
                    quorum_state_is_member(
                        labels[head],
                        quorum_state_find(labels[head], &f[i].label.member),
                        false);
    }
    *needed = MAX(1, MIN(now.needed, now.readable));
    return head;
}
