/*
 * Quorum block driver: what management is told about the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BLOCK_QUORUM_INFO_H
#define BLOCK_QUORUM_INFO_H

#include "quorum-int.h"

/* Callbacks of BlockDriver. */

/*
 * What query-blockstats shows of the node.  Owned by the caller.  Any thread,
 * the graph lock held.  No event is lost or counted twice; but the figures are
 * read one after the other, so with requests in flight they may be of
 * different moments.
 */
BlockStatsSpecific *GRAPH_RDLOCK quorum_get_stats(BlockDriverState *bs);

/*
 * The format-specific information: how each child is.  Owned by the caller.
 * Any thread, the graph lock held.  Does not fail.
 */
ImageInfoSpecific *GRAPH_RDLOCK
quorum_get_specific_info(BlockDriverState *bs, Error **errp);

/* --- for a debugger --- */

/*
 * Print all that is known of the children, and which requests wait for which of
 * them.  To be called from a debugger: "call quorum_dump(bs)".
 */
void GRAPH_RDLOCK quorum_dump(BlockDriverState *bs);

#endif /* BLOCK_QUORUM_INFO_H */
