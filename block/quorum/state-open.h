/*
 * Quorum block driver: what survives a restart: what was read
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * For state-open.c and state-head.c.
 */

#ifndef BLOCK_QUORUM_STATE_OPEN_H
#define BLOCK_QUORUM_STATE_OPEN_H

#include "state-int.h"

/* What is on one state node. */
typedef struct QuorumStateFile {
    QuorumStateLabel label;
    bool valid;                 /* the label is */
    bool blank;
    bool unborn;                /* nothing was done since it was blank */
    bool good;                  /* it may be one of those that are counted */
    Error *err;                 /* why it is neither */
    bool unread;                /* it could not be read; maybe later */
    char *why;                  /* why its child is not believed */
    uint8_t *data;              /* all of it */
    int64_t bytes;
    int newest;                 /* place of the label */
    uint64_t seq;               /* the highest of what is valid */
} QuorumStateFile;

/* --- state-head.c --- */

/* Free the @n elements of @files, and what they have. */
void quorum_state_files_free(QuorumStateFile *files, int n);

/*
 * Read all of the state node in slot @i, which is given up if it does not
 * answer; @f->err says what was wrong.
 */
void coroutine_fn GRAPH_RDLOCK quorum_state_read(QuorumState *st, int i,
                                                 QuorumStateFile *f);

/* Find the label in what was read. */
void quorum_state_judge_label(QuorumStateFile *f);

/* What the labels of all in @f say, as text for an error; to be freed. */
char *quorum_state_describe(QuorumState *st, const QuorumStateFile *f);

/* Whether all state nodes have room for what is written down of the disk. */
bool GRAPH_RDLOCK quorum_state_has_room(QuorumState *st,
                                        const QuorumStateFile *f,
                                        Error **errp);

/*
 * The state nodes are all blank, or QEMU died before it had done anything with
 * them: begin to use them.  Those that have the first label keep it until they
 * have the next one, and who has none yet is known by its place.
 */
void GRAPH_RDLOCK quorum_state_begin(QuorumState *st,
                                     const QuorumStateFile *f);

/*
 * What is wrong with the state node that has @f, whose record in @head is @r;
 * NULL if nothing is, and its child has all but what the record says.  To be
 * freed.
 */
char *quorum_state_complaint(const QuorumStateFile *f,
                             const QuorumStateLabel *head,
                             const QuorumStateRecord *r);

/*
 * Returns the slot of the state node with the newest label, the head, or -errno
 * with @errp set.  Sets @good in each of @f.  *@needed: on how many state nodes
 * a page must be readable, so that the newest one is among them.
 */
int quorum_state_choose_head(BlockDriverState *bs, QuorumStateFile *f,
                             int *needed, Error **errp);

#endif /* BLOCK_QUORUM_STATE_OPEN_H */
