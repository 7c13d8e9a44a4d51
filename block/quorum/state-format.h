/*
 * Quorum block driver: the format of the state nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * What is on a state node, which docs/interop/quorum-state.rst describes: a
 * label, which says whose children these are and how they are, and the pages of
 * maps.  Everything is there in two places, of which the older valid one is
 * overwritten, so that a write that is cut short costs nothing.
 *
 * Pure functions: nothing here does I/O, and no context or lock is needed.
 * Offsets and lengths are bytes, of the disk or of the state node.
 */

#ifndef BLOCK_QUORUM_STATE_FORMAT_H
#define BLOCK_QUORUM_STATE_FORMAT_H

#include "qemu/bswap.h"
#include "qemu/uuid.h"

#define QUORUM_STATE_PAGE    4096
#define QUORUM_STATE_HEADER  64
#define QUORUM_STATE_LABELS  (2 * QUORUM_STATE_PAGE)    /* at the beginning */
#define QUORUM_STATE_BITS    ((QUORUM_STATE_PAGE - QUORUM_STATE_HEADER) * 8)

/* The number of the label, among the numbers of pages. */
#define QUORUM_STATE_LABEL   UINT32_MAX

#define QUORUM_STATE_HISTORY 16     /* earlier sessions that are remembered */
#define QUORUM_STATE_RECORDS 40     /* children, with those that have left */

/* How many bits a map may have, and the least that a bit may stand for. */
#define QUORUM_STATE_INTENT_BITS  (INT64_C(1) << 18)
#define QUORUM_STATE_INTENT_SHIFT 20
#define QUORUM_STATE_STALE_BITS   (INT64_C(1) << 22)
#define QUORUM_STATE_STALE_SHIFT  12

/* How a member is: QuorumStateRecord.status. */
typedef enum QuorumStateStatus {
    QUORUM_STATE_UNUSED,        /* the record is not used */
    QUORUM_STATE_MEMBER,        /* it has all but what its map says */
    QUORUM_STATE_REBUILDING,    /* it joined with other contents */
    QUORUM_STATE_REMOVED,       /* it has left */
    QUORUM_STATE_STATUS__MAX,
} QuorumStateStatus;

/* Bits of QuorumStateRecord.flags. */
#define QUORUM_STATE_BEHIND 0x1     /* it may lack more than its map says */
#define QUORUM_STATE_OUT    0x2     /* excluded: it lacks everything */
#define QUORUM_STATE_FAILED 0x4     /* its state node could not be written */
#define QUORUM_STATE_JOINED 0x8     /* not of the configuration before */
#define QUORUM_STATE_LEFT   0x10    /* removed, and of the one before */

/* Bits of QuorumStateLabel.flags. */
#define QUORUM_STATE_CLEAN        0x1   /* closed well, nothing written since */
#define QUORUM_STATE_MAPS_INVALID 0x2   /* the maps are changing their layout */
#define QUORUM_STATE_BEGUN        0x4   /* enough nodes know of the session */

/* What is known of one member. */
typedef struct QuorumStateRecord {
    QemuUUID member;
    int place;                  /* slot, or -1 */
    QuorumStateStatus status;
    uint8_t flags;
    uint64_t state_seq;         /* the highest that is surely on its node */
    uint64_t stale_bytes;       /* for people */
} QuorumStateRecord;

typedef struct QuorumStateLabel {
    QemuUUID set;               /* all state nodes of one quorum */
    QemuUUID member;            /* whose state node this is */
    QemuUUID session;           /* who has written last */
    QemuUUID history[QUORUM_STATE_HISTORY];     /* before, the newest first */
    uint64_t opens;             /* how many sessions there have been */
    uint64_t seq;               /* of the page that the label is */
    uint32_t layout;            /* grows when the maps' layout changes */
    uint32_t flags;
    int places;                 /* slots */
    int threshold;
    int old_threshold;          /* see quorum_state_is_member(); or 0 */
    uint64_t config;            /* grows when members come and go */
    int64_t disk_bytes;
    int64_t max_bytes;          /* what the maps can cover */
    QemuUUID digests;           /* the stamp of the node of digests, or null */
    int intent_shift;           /* a bit of the intent map: 1 << that bytes */
    int stale_shift;
    QuorumStateRecord records[QUORUM_STATE_RECORDS];
} QuorumStateLabel;

/* A page of a map. */
typedef struct QuorumStatePage {
    uint32_t number;
    uint32_t layout;
    uint64_t seq;
    QemuUUID set;
    uint64_t session;           /* the first half of the id, big endian */
} QuorumStatePage;

/* --- where things are --- */

/* Set the shifts and @label->max_bytes for a disk of @bytes. */
void quorum_state_lay_out(QuorumStateLabel *label, int64_t bytes);

/* How many pages the intent map has, and each stale map. */
uint32_t quorum_state_intent_pages(const QuorumStateLabel *label);
uint32_t quorum_state_stale_pages(const QuorumStateLabel *label);
uint32_t quorum_state_pages(const QuorumStateLabel *label);

/* The number of page @page of the stale map of record @k. */
uint32_t quorum_state_stale_page(const QuorumStateLabel *label, int k,
                                 uint32_t page);

/* Where place @place, 0 or 1, of page @number begins on a state node. */
int64_t quorum_state_offset(uint32_t number, int place);

/* How long a state node has to be. */
int64_t quorum_state_size(const QuorumStateLabel *label);

/* The first half of @uuid. */
uint64_t quorum_state_session_low(const QemuUUID *uuid);

/* --- to bytes and back --- */

/* Write @label into the QUORUM_STATE_PAGE bytes at @buf. */
void quorum_state_encode_label(const QuorumStateLabel *label, uint8_t *buf);

/*
 * The label at @buf to @label.  False, with @errp set, if it is none: torn,
 * rotten, of another version, or with values that can't be.
 */
bool quorum_state_decode_label(const uint8_t *buf, QuorumStateLabel *label,
                               Error **errp);

/*
 * Finish the page at @buf, whose bits are in place (see quorum_state_bits()).
 */
void quorum_state_encode_page(const QuorumStatePage *page, uint8_t *buf);

/*
 * What the page at @buf says of itself; false if it is torn, rotten, not page
 * @number of the maps of @label, or of a session that is not one of its.
 */
bool quorum_state_decode_page(const uint8_t *buf, const QuorumStateLabel *label,
                              uint32_t number, QuorumStatePage *page);

/* The bits of the page at @buf: bit n is bit n % 8 of byte n / 8. */
static inline uint8_t *quorum_state_bits(uint8_t *buf)
{
    return buf + QUORUM_STATE_HEADER;
}

/*
 * The same as a bitmap for bitmap_to_le() and bitmap_from_le(): @buf is aligned
 * for that.  In the bitmap of a whole map, a page begins with a word, too.
 */
static inline unsigned long *quorum_state_bitmap(uint8_t *buf)
{
    return (unsigned long *)quorum_state_bits(buf);
}
QEMU_BUILD_BUG_ON(QUORUM_STATE_BITS % 64);

/* The sequence number of a page, or label, that is about to be written. */
static inline uint64_t quorum_state_page_seq(const uint8_t *buf)
{
    return ldq_le_p(buf + 8);
}

/* How many bits there are for @bytes.  DIV_ROUND_UP() could overflow. */
static inline int64_t quorum_state_count_bits(int64_t bytes, int shift)
{
    return (bytes >> shift) + !!(bytes & ((INT64_C(1) << shift) - 1));
}

/* Whether nothing was ever written to a state node that begins with @buf. */
bool quorum_state_is_blank(const uint8_t *buf, size_t bytes);

/* --- which label is right --- */

/* Whether @label's session is @session, or comes after it. */
bool quorum_state_knows(const QuorumStateLabel *label, const QemuUUID *session);

/*
 * The newest of the @n @labels, of which NULL ones are left out: the one whose
 * session all others have led to.  -1 if there is none; -2 if two of them, *@a
 * and *@b, have gone different ways (split brain).  A label so old that
 * the newest one has forgotten its session is not in the way, and neither is
 * one of a session that died before it had begun: nothing was done in it.
 */
int quorum_state_head(QuorumStateLabel *const *labels, int n, int *a, int *b);

/*
 * Whether record @k of @label is a member; or with @old, was one before the
 * last change of members or of the threshold.  As long as that is not durable,
 * which @label->old_threshold says, a program that does not know of it may go
 * on with the old configuration.  So what is durable is so in both of them,
 * and enough state nodes of both must be readable.
 */
bool quorum_state_is_member(const QuorumStateLabel *label, int k, bool old);

/* The record of @member in @label, or -1. */
int quorum_state_find(const QuorumStateLabel *label, const QemuUUID *member);

#endif /* BLOCK_QUORUM_STATE_FORMAT_H */
