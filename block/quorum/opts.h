/*
 * Quorum block driver: file names and spellings of options
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Text to options; nothing here opens anything.  Global state: under the BQL.
 */

#ifndef BLOCK_QUORUM_OPTS_H
#define BLOCK_QUORUM_OPTS_H

#include "qobject/qdict.h"

/*
 * How many children a node may have: a piece of a read needs a buffer for each
 * of them, and one for the result, from a pool that is capped.
 */
#define QUORUM_CHILDREN_MAX 1000

/* What a file name of the form quorum:THRESHOLD/TOTAL:FILE1:...:FILEn says. */
typedef struct QuorumFileName {
    int threshold;
    int total;
    char **names;       /* total of them, unescaped; ends with NULL */
} QuorumFileName;

/*
 * Take @filename apart; the prefix "quorum:" may be missing.  In a FILE, "\:"
 * stands for a colon and "\\" for a backslash.
 *
 * Returns what it says, to be freed with quorum_filename_free(), or NULL with
 * @errp set.
 */
QuorumFileName *quorum_filename_split(const char *filename, Error **errp);
void quorum_filename_free(QuorumFileName *name);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QuorumFileName, quorum_filename_free)

/*
 * Rewrite the 2013 spelling of children in @options, childrenN.KEY, to
 * children.N.KEY; childrenN.file=NAME, a file whose format is probed, becomes
 * children.N.file.filename=NAME.
 *
 * Returns false, with @errp set and @options in an unspecified state, if a key
 * can't be read or one child is spelled in both ways.
 */
bool quorum_opts_normalise(QDict *options, Error **errp);

/*
 * How many children @options describe, in the spelling children.N; 0 or more,
 * or -EINVAL with @errp set if they are not a list.
 */
int quorum_opts_count_children(QDict *options, Error **errp);

#endif /* BLOCK_QUORUM_OPTS_H */
