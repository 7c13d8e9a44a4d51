/*
 * Quorum block driver: digests that outlive a close: the inside
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * For digest-store.c, which reads and writes pages, digest-stamp.c, which says
 * when they count, and digest-open.c, which sees whether what is there does.
 * What ends in _locked is called with the lock of the state held.
 */

#ifndef BLOCK_QUORUM_DIGEST_STORE_INT_H
#define BLOCK_QUORUM_DIGEST_STORE_INT_H

#include "qemu/coroutine.h"
#include "qemu/stats64.h"
#include "digest-format.h"
#include "digest-store.h"

typedef enum QuorumStoreStage {
    QUORUM_STORE_UNUSED,        /* the state nodes have not been read */
    QUORUM_STORE_FRESH,
    QUORUM_STORE_IN_USE,
    QUORUM_STORE_OFF,
} QuorumStoreStage;

typedef enum QuorumStoreOp {
    QUORUM_STORE_READ,
    QUORUM_STORE_WRITE,
    QUORUM_STORE_FLUSH,
} QuorumStoreOp;

/* What the node is asked for: owned by who waits for it and who does it. */
typedef struct QuorumStoreIo {
    QuorumDigestStore *store;
    QuorumStoreOp op;
    int64_t offset, bytes;
    uint8_t *buf;
    int users;
    bool done;
    int ret;
    int64_t start_ns;
    QLIST_ENTRY(QuorumStoreIo) next;
} QuorumStoreIo;

struct QuorumDigestStore {
    BlockDriverState *bs;
    BdrvChild *child;           /* graph lock */

    /* Set when it is loaded. */
    int64_t length;             /* of the node */
    int64_t disk_bytes;         /* the part of the disk that is kept */
    uint64_t page_key;          /* when its use has begun */

    /* Under QuorumState.lock. */

    QuorumStoreStage stage;
    char *error;                /* why it is off, or does not count; or NULL */
    QuorumDigestsHeader header; /* what was last written */
    int place;                  /* where the next header goes */
    bool renewed;               /* the stamp is one of this session */
    bool writing;               /* there is one who writes */
    unsigned late_generation;   /* bdrv_late_generation() when it was used */
    int64_t write_ns;           /* no page is written before then */
    uint64_t losses;            /* those of the node that are dealt with */

    /* QuorumState.want, when the label has no stamp, or another one. */
    uint64_t off_want;
    uint64_t stamp_want;

    QLIST_HEAD(, QuorumStoreIo) ios;
    QLIST_HEAD(, QuorumStoreClaim) claims;
    int num_claims;
    int waiting;                /* in the queue: */
    CoQueue waiters;

    Stat64 loaded_pages;
    Stat64 written_pages;
};

/* How long one I/O may take, and how long a request waits for all of them. */
int64_t quorum_store_timeout_ns(const BDRVQuorumState *s);

/* --- off --- */

/*
 * From the next round on, the label has @stamp, or none if that is NULL.  That
 * is durable as soon as QuorumState.durable is what this returns.
 */
uint64_t quorum_store_label_locked(QuorumState *st, const QemuUUID *stamp);

/*
 * The store has failed because of @why, with @ret: it is off.  Until that is
 * durable, marks stay.  Who waits for the store is still to be woken.
 */
void quorum_store_fail_locked(QuorumDigestStore *store, const char *why,
                              int ret);

/* The same without the lock, and who waits is woken. */
void coroutine_fn quorum_store_fail(QuorumDigestStore *store, const char *why,
                                    int ret);

/* --- I/O --- */

/*
 * An @op of @bytes bytes at @offset, with a buffer of its own of a page or
 * more, and one user, the caller.
 */
QuorumStoreIo *quorum_store_io_new(QuorumDigestStore *store, QuorumStoreOp op,
                                   int64_t offset, int64_t bytes);

/* One user has done with @io; the last one frees it. */
void quorum_store_io_unref(QuorumStoreIo *io);

/* P3: do @io, or give up when the store does.  Returns 0 or -errno. */
int coroutine_fn GRAPH_RDLOCK quorum_store_do(QuorumStoreIo *io);

/* Flush the node, in the same way. */
int coroutine_fn GRAPH_RDLOCK quorum_store_flush(QuorumDigestStore *store);

/*
 * The node has answered: before the answer is believed, see whether it has lost
 * what was not flushed.  Its driver knows that before it answers (see
 * bdrv_loss_generation()).
 */
void GRAPH_RDLOCK quorum_store_notice_loss(QuorumDigestStore *store);

/* --- writing --- */

/*
 * Become the one who writes, waiting until @end_ns at most.  Returns false if
 * another one still does then; else quorum_store_end_writing() has to follow.
 */
bool coroutine_fn quorum_store_begin_writing(QuorumDigestStore *store,
                                             int64_t end_ns);
void quorum_store_end_writing(QuorumDigestStore *store);

/*
 * Write pages from @page to @end that are dirty, or with @news, have news:
 * about @max of them, and until @end_ns.  Called by the one who writes.
 */
void coroutine_fn GRAPH_RDLOCK
quorum_store_write_pages(QuorumDigestStore *store, uint32_t page, uint32_t end,
                         bool news, int max, int64_t end_ns);

/* Whether pages may be written now. */
bool quorum_store_may_write_locked(const QuorumDigestStore *store);

/* --- stamps --- */

/*
 * Keep as much of a disk of @disk_bytes as the node has room for; it is @fresh,
 * or says what it said before.  If there is no memory for that, the store
 * fails, and this returns false.
 */
bool coroutine_fn quorum_store_keep(QuorumDigestStore *store,
                                    int64_t disk_bytes, bool fresh);

#endif /* BLOCK_QUORUM_DIGEST_STORE_INT_H */
