/*
 * Quorum block driver: reading
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BLOCK_QUORUM_READ_H
#define BLOCK_QUORUM_READ_H

#include "quorum-int.h"

/* Callback of BlockDriver. */
int coroutine_fn GRAPH_RDLOCK
quorum_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags);

#endif /* BLOCK_QUORUM_READ_H */
