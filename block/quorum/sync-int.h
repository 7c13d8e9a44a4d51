/*
 * Quorum block driver: changing what is known of the children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * This is between stale-map.c and settle.c.  Everything here is called
 * with BDRVQuorumState.lock held; offsets and lengths are in bytes.
 */

#ifndef BLOCK_QUORUM_SLOT_H
#define BLOCK_QUORUM_SLOT_H

#include "quorum-int.h"

/* As quorum_maps_resize(), quorum_put_out() and quorum_whole_granules(). */
void quorum_maps_resize_locked(BDRVQuorumState *s, int64_t bytes);
void quorum_put_out_locked(BDRVQuorumState *s, int i);
void quorum_whole_granules_locked(BDRVQuorumState *s, int64_t *start,
                                  int64_t *end);

/* How many bits a map of what is unflushed has, for a node of @bytes. */
int64_t quorum_unflushed_bits(int64_t bytes, int shift);

/*
 * The child in slot @i is stale from now on in all granules that the range
 * touches, or is not stale any more in those that are whole in it.
 */
void quorum_stale_set(BDRVQuorumState *s, int i, int64_t offset,
                      int64_t bytes);
void quorum_stale_clear(BDRVQuorumState *s, int i, int64_t offset,
                        int64_t bytes);

/*
 * The child in slot @i is stale again wherever it ceased to be since its last
 * good flush: see QuorumSlot.cured.
 */
void quorum_stale_restore(BDRVQuorumState *s, int i);

/* A flush begins: what has cured the child in slot @i was there before it. */
void quorum_cured_age(BDRVQuorumState *s, int i);

#endif /* BLOCK_QUORUM_SLOT_H */
