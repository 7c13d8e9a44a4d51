/*
 * Quorum block driver: the format of the state nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-common.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "debug.h"
#include "page-crc.h"
#include "state-format.h"

#define STATE_MAGIC   "QMQP"
#define LABEL_MAGIC   "QEMUQST1"
#define LABEL_VERSION 1
#define LABEL_FLAGS   (QUORUM_STATE_CLEAN | QUORUM_STATE_MAPS_INVALID | \
                       QUORUM_STATE_BEGUN)
#define RECORD_FLAGS  (QUORUM_STATE_BEHIND | QUORUM_STATE_OUT | \
                       QUORUM_STATE_FAILED | QUORUM_STATE_JOINED | \
                       QUORUM_STATE_LEFT)

/* All numbers are little endian. */
typedef struct QEMU_PACKED QuorumStateHeaderDisk {
    char magic[4];
    uint32_t crc;               /* CRC-32C of the page, with 0 here */
    uint64_t seq;
    uint32_t number;
    uint32_t layout;
    uint8_t set[16];
    uint8_t session[8];
    uint8_t reserved[16];
} QuorumStateHeaderDisk;

QEMU_BUILD_BUG_ON(sizeof(QuorumStateHeaderDisk) != QUORUM_STATE_HEADER);
QEMU_BUILD_BUG_ON(QUORUM_STATE_PAGE != QUORUM_PAGE_BYTES);

typedef struct QEMU_PACKED QuorumStateRecordDisk {
    uint8_t member[16];
    int16_t place;
    uint8_t status;
    uint8_t flags;
    uint32_t reserved;
    uint64_t state_seq;
    uint64_t stale_bytes;
    uint8_t reserved2[24];
} QuorumStateRecordDisk;

QEMU_BUILD_BUG_ON(sizeof(QuorumStateRecordDisk) != 64);

typedef struct QEMU_PACKED QuorumStateLabelDisk {
    QuorumStateHeaderDisk header;
    char magic[8];
    uint32_t version;
    uint32_t length;            /* of this structure */
    uint64_t incompatible;      /* features: unknown ones forbid to open */
    uint64_t compatible;
    uint8_t member[16];
    uint8_t session[16];
    uint8_t history[QUORUM_STATE_HISTORY][16];
    uint64_t opens;
    uint32_t flags;
    uint8_t intent_shift;
    uint8_t stale_shift;
    uint16_t capacity;
    uint16_t places;
    uint16_t threshold;
    uint16_t old_threshold;
    uint16_t reserved;
    uint64_t config;
    uint64_t disk_bytes;
    uint64_t max_bytes;
    uint8_t digests[16];
    QuorumStateRecordDisk records[QUORUM_STATE_RECORDS];
} QuorumStateLabelDisk;

QEMU_BUILD_BUG_ON(offsetof(QuorumStateLabelDisk, opens) != 384);
QEMU_BUILD_BUG_ON(offsetof(QuorumStateLabelDisk, digests) != 432);
QEMU_BUILD_BUG_ON(offsetof(QuorumStateLabelDisk, records) != 448);
QEMU_BUILD_BUG_ON(sizeof(QuorumStateLabelDisk) > QUORUM_STATE_PAGE);

/* --- where things are --- */

static int quorum_state_shift(int64_t bytes, int least, int64_t bits)
{
    int shift = least;

    while (quorum_state_count_bits(bytes, shift) > bits) {
        shift++;
    }
    return shift;
}

void quorum_state_lay_out(QuorumStateLabel *label, int64_t bytes)
{
    int64_t least = quorum_limits.state_bytes;

    label->max_bytes = bytes > INT64_MAX / 8 ? bytes
                                             : ROUND_UP(MAX(bytes * 4, least),
                                                        MIN(least, GiB));
    label->intent_shift = quorum_state_shift(label->max_bytes,
                                             quorum_limits.state_intent_shift,
                                             QUORUM_STATE_INTENT_BITS);
    label->stale_shift = quorum_state_shift(label->max_bytes,
                                            QUORUM_STATE_STALE_SHIFT,
                                            QUORUM_STATE_STALE_BITS);
}

static uint32_t quorum_state_map_pages(const QuorumStateLabel *label, int shift)
{
    return DIV_ROUND_UP(quorum_state_count_bits(label->max_bytes, shift),
                        QUORUM_STATE_BITS);
}

uint32_t quorum_state_intent_pages(const QuorumStateLabel *label)
{
    return quorum_state_map_pages(label, label->intent_shift);
}

uint32_t quorum_state_stale_pages(const QuorumStateLabel *label)
{
    return quorum_state_map_pages(label, label->stale_shift);
}

uint32_t quorum_state_pages(const QuorumStateLabel *label)
{
    return quorum_state_stale_page(label, QUORUM_STATE_RECORDS, 0);
}

uint32_t quorum_state_stale_page(const QuorumStateLabel *label, int k,
                                 uint32_t page)
{
    return quorum_state_intent_pages(label) +
           k * quorum_state_stale_pages(label) + page;
}

int64_t quorum_state_offset(uint32_t number, int place)
{
    int64_t pair = number == QUORUM_STATE_LABEL ? 0 : INT64_C(1) + number;

    return (2 * pair + place) * QUORUM_STATE_PAGE;
}

int64_t quorum_state_size(const QuorumStateLabel *label)
{
    return quorum_state_offset(quorum_state_pages(label), 0);
}

uint64_t quorum_state_session_low(const QemuUUID *uuid)
{
    return ldq_be_p(uuid->data);
}

/* --- headers of pages --- */

void quorum_state_encode_page(const QuorumStatePage *page, uint8_t *buf)
{
    QuorumStateHeaderDisk *h = (QuorumStateHeaderDisk *)buf;

    memset(h, 0, sizeof(*h));
    memcpy(h->magic, STATE_MAGIC, sizeof(h->magic));
    stq_le_p(&h->seq, page->seq);
    stl_le_p(&h->number, page->number);
    stl_le_p(&h->layout, page->layout);
    memcpy(h->set, page->set.data, sizeof(h->set));
    stq_be_p(h->session, page->session);
    stl_le_p(&h->crc, quorum_page_crc(buf));
}

/* What the header of a page that is whole says; false if it is not. */
static bool quorum_state_decode_header(const uint8_t *buf, QuorumStatePage *p)
{
    const QuorumStateHeaderDisk *h = (const QuorumStateHeaderDisk *)buf;

    if (memcmp(h->magic, STATE_MAGIC, sizeof(h->magic)) ||
        ldl_le_p(&h->crc) != quorum_page_crc(buf)) {
        return false;
    }
    p->seq = ldq_le_p(&h->seq);
    p->number = ldl_le_p(&h->number);
    p->layout = ldl_le_p(&h->layout);
    memcpy(p->set.data, h->set, sizeof(h->set));
    p->session = ldq_be_p(h->session);
    return true;
}

bool quorum_state_decode_page(const uint8_t *buf, const QuorumStateLabel *label,
                              uint32_t number, QuorumStatePage *page)
{
    bool known;

    if (!quorum_state_decode_header(buf, page) || page->number != number ||
        page->layout != label->layout ||
        !qemu_uuid_is_equal(&page->set, &label->set)) {
        return false;
    }
    known = page->session == quorum_state_session_low(&label->session);
    for (int i = 0; i < QUORUM_STATE_HISTORY && !known; i++) {
        known = !qemu_uuid_is_null(&label->history[i]) &&
                page->session == quorum_state_session_low(&label->history[i]);
    }
    return known;
}

/* --- the label --- */

static void quorum_state_encode_record(const QuorumStateRecord *r,
                                       QuorumStateRecordDisk *d)
{
    memcpy(d->member, r->member.data, sizeof(d->member));
    stw_le_p(&d->place, r->place);
    d->status = r->status;
    d->flags = r->flags;
    stq_le_p(&d->state_seq, r->state_seq);
    stq_le_p(&d->stale_bytes, r->stale_bytes);
}

void quorum_state_encode_label(const QuorumStateLabel *label, uint8_t *buf)
{
    QuorumStateLabelDisk *d = (QuorumStateLabelDisk *)buf;
    QuorumStatePage page = {
        .number = QUORUM_STATE_LABEL,
        .layout = label->layout,
        .seq = label->seq,
        .set = label->set,
        .session = quorum_state_session_low(&label->session),
    };

    memset(buf, 0, QUORUM_STATE_PAGE);
    memcpy(d->magic, LABEL_MAGIC, sizeof(d->magic));
    stl_le_p(&d->version, LABEL_VERSION);
    stl_le_p(&d->length, sizeof(*d));
    memcpy(d->member, label->member.data, sizeof(d->member));
    memcpy(d->session, label->session.data, sizeof(d->session));
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        memcpy(d->history[i], label->history[i].data, sizeof(d->history[i]));
    }
    stq_le_p(&d->opens, label->opens);
    stl_le_p(&d->flags, label->flags);
    d->intent_shift = label->intent_shift;
    d->stale_shift = label->stale_shift;
    stw_le_p(&d->capacity, QUORUM_STATE_RECORDS);
    stw_le_p(&d->places, label->places);
    stw_le_p(&d->threshold, label->threshold);
    stw_le_p(&d->old_threshold, label->old_threshold);
    stq_le_p(&d->config, label->config);
    stq_le_p(&d->disk_bytes, label->disk_bytes);
    stq_le_p(&d->max_bytes, label->max_bytes);
    memcpy(d->digests, label->digests.data, sizeof(d->digests));
    for (int i = 0; i < QUORUM_STATE_RECORDS; i++) {
        quorum_state_encode_record(&label->records[i], &d->records[i]);
    }
    quorum_state_encode_page(&page, buf);
}

static bool quorum_state_decode_record(const QuorumStateRecordDisk *d,
                                       QuorumStateRecord *r, int places)
{
    memcpy(r->member.data, d->member, sizeof(d->member));
    r->place = (int16_t)lduw_le_p(&d->place);
    r->status = d->status;
    r->flags = d->flags;
    r->state_seq = ldq_le_p(&d->state_seq);
    r->stale_bytes = ldq_le_p(&d->stale_bytes);
    if (r->status == QUORUM_STATE_UNUSED) {
        return true;
    }
    return r->status < QUORUM_STATE_STATUS__MAX && r->place >= -1 &&
           r->place < places && !qemu_uuid_is_null(&r->member) &&
           !(r->flags & ~RECORD_FLAGS) &&
           (r->status == QUORUM_STATE_REMOVED) == (r->place < 0);
}

/* Whether the maps are laid out as is possible. */
static bool quorum_state_layout_is_sane(const QuorumStateLabel *l)
{
    return l->disk_bytes >= 0 && l->max_bytes > 0 &&
           l->max_bytes <= BDRV_MAX_LENGTH &&
           l->max_bytes >= l->disk_bytes &&
           l->intent_shift >= quorum_limits.state_intent_shift &&
           l->intent_shift < 63 && l->stale_shift < 63 &&
           l->stale_shift >= QUORUM_STATE_STALE_SHIFT &&
           l->stale_shift <= l->intent_shift &&
           quorum_state_count_bits(l->max_bytes, l->intent_shift) <=
           QUORUM_STATE_INTENT_BITS &&
           quorum_state_count_bits(l->max_bytes, l->stale_shift) <=
           QUORUM_STATE_STALE_BITS;
}

/* Whether it says who is who, and nothing that this version does not know. */
static bool quorum_state_ids_are_sane(const QuorumStateLabel *l)
{
    return !qemu_uuid_is_null(&l->set) && !qemu_uuid_is_null(&l->member) &&
           !qemu_uuid_is_null(&l->session) && !(l->flags & ~LABEL_FLAGS) &&
           l->threshold > 0 && l->threshold <= l->places &&
           l->places <= INT16_MAX && l->old_threshold <= INT16_MAX;
}

/* Whether @r says only what it can of what it was before a change. */
static bool quorum_state_change_is_sane(const QuorumStateLabel *l,
                                        const QuorumStateRecord *r)
{
    int other = r->status == QUORUM_STATE_REMOVED ? QUORUM_STATE_JOINED
                                                  : QUORUM_STATE_LEFT;

    return !r->status || !(r->flags & (l->old_threshold ? other :
                                       QUORUM_STATE_JOINED |
                                       QUORUM_STATE_LEFT));
}

/* Whether no member has two records, and no place two members. */
static bool quorum_state_records_are_sane(const QuorumStateLabel *l)
{
    for (int i = 0; i < QUORUM_STATE_RECORDS; i++) {
        const QuorumStateRecord *r = &l->records[i];

        if (!quorum_state_change_is_sane(l, r)) {
            return false;
        }
        for (int j = 0; j < i && r->status; j++) {
            const QuorumStateRecord *other = &l->records[j];

            if (other->status &&
                (qemu_uuid_is_equal(&r->member, &other->member) ||
                 (r->place >= 0 && r->place == other->place))) {
                return false;
            }
        }
    }
    return true;
}

bool quorum_state_decode_label(const uint8_t *buf, QuorumStateLabel *label,
                               Error **errp)
{
    const QuorumStateLabelDisk *d = (const QuorumStateLabelDisk *)buf;
    QuorumStatePage page;
    bool sane;

    if (!quorum_state_decode_header(buf, &page) ||
        page.number != QUORUM_STATE_LABEL ||
        memcmp(d->magic, LABEL_MAGIC, sizeof(d->magic))) {
        error_setg(errp, "damaged: its checksum or its magic number is wrong");
        return false;
    }
    if (ldl_le_p(&d->version) != LABEL_VERSION || ldq_le_p(&d->incompatible)) {
        error_setg(errp, "made by a newer version: version %" PRIu32 ", "
                   "incompatible features 0x%" PRIx64,
                   ldl_le_p(&d->version), ldq_le_p(&d->incompatible));
        return false;
    }
    *label = (QuorumStateLabel) {
        .set = page.set,
        .seq = page.seq,
        .layout = page.layout,
        .opens = ldq_le_p(&d->opens),
        .flags = ldl_le_p(&d->flags),
        .intent_shift = d->intent_shift,
        .stale_shift = d->stale_shift,
        .places = lduw_le_p(&d->places),
        .threshold = lduw_le_p(&d->threshold),
        .old_threshold = lduw_le_p(&d->old_threshold),
        .config = ldq_le_p(&d->config),
        .disk_bytes = ldq_le_p(&d->disk_bytes),
        .max_bytes = ldq_le_p(&d->max_bytes),
    };
    memcpy(label->member.data, d->member, sizeof(d->member));
    memcpy(label->session.data, d->session, sizeof(d->session));
    memcpy(label->digests.data, d->digests, sizeof(d->digests));
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        memcpy(label->history[i].data, d->history[i], sizeof(d->history[i]));
    }
    sane = ldl_le_p(&d->length) == sizeof(*d) &&
           lduw_le_p(&d->capacity) == QUORUM_STATE_RECORDS &&
           label->seq <= INT64_MAX &&      /* others must follow */
           quorum_state_layout_is_sane(label) &&
           quorum_state_ids_are_sane(label) &&
           page.session == quorum_state_session_low(&label->session);
    for (int i = 0; i < QUORUM_STATE_RECORDS && sane; i++) {
        sane = quorum_state_decode_record(&d->records[i], &label->records[i],
                                          label->places);
    }
    if (!sane || !quorum_state_records_are_sane(label)) {
        error_setg(errp, "damaged: its checksum is right, and its values "
                   "cannot be");
        return false;
    }
    return true;
}

bool quorum_state_is_blank(const uint8_t *buf, size_t bytes)
{
    return buffer_is_zero(buf, bytes);
}

/* --- which label is right --- */

bool quorum_state_knows(const QuorumStateLabel *label, const QemuUUID *session)
{
    if (qemu_uuid_is_equal(&label->session, session)) {
        return true;
    }
    for (int i = 0; i < QUORUM_STATE_HISTORY; i++) {
        if (qemu_uuid_is_equal(&label->history[i], session)) {
            return true;
        }
    }
    return false;
}

/* Whether @a comes after @b, or is as new, in the same lineage. */
static bool quorum_state_follows(const QuorumStateLabel *a,
                                 const QuorumStateLabel *b)
{
    if (qemu_uuid_is_equal(&a->session, &b->session)) {
        return a->seq >= b->seq;
    }
    return quorum_state_knows(a, &b->session) ||
           /* So old that its session has been forgotten. */
           (a->opens > b->opens &&
            a->opens - b->opens > QUORUM_STATE_HISTORY);
}

/* The newest of the labels that have all @flags, or -1. */
static int quorum_state_newest(QuorumStateLabel *const *labels, int n,
                               uint32_t flags)
{
    int head = -1;

    for (int i = 0; i < n; i++) {
        if (labels[i] && (labels[i]->flags & flags) == flags &&
            (head < 0 || quorum_state_follows(labels[i], labels[head]))) {
            head = i;
        }
    }
    return head;
}

int quorum_state_head(QuorumStateLabel *const *labels, int n, int *a, int *b)
{
    int head = quorum_state_newest(labels, n, QUORUM_STATE_BEGUN);

    for (int i = 0; i < n && head >= 0; i++) {
        if (labels[i] && labels[i]->flags & QUORUM_STATE_BEGUN &&
            !quorum_state_follows(labels[head], labels[i])) {
            *a = head;
            *b = i;
            return -2;
        }
    }
    if (head < 0) {
        return quorum_state_newest(labels, n, 0);
    }
    for (int i = 0; i < n; i++) {
        /* It was the next one. */
        if (labels[i] && !(labels[i]->flags & QUORUM_STATE_BEGUN) &&
            quorum_state_follows(labels[i], labels[head])) {
            head = i;
        }
    }
    return head;
}

bool quorum_state_is_member(const QuorumStateLabel *label, int k, bool old)
{
    const QuorumStateRecord *r = &label->records[k];
    bool now = r->status == QUORUM_STATE_MEMBER ||
               r->status == QUORUM_STATE_REBUILDING;

    if (!old) {
        return now;
    }
    return now ? !(r->flags & QUORUM_STATE_JOINED)
               : r->status && r->flags & QUORUM_STATE_LEFT;
}

int quorum_state_find(const QuorumStateLabel *label, const QemuUUID *member)
{
    for (int k = 0; k < QUORUM_STATE_RECORDS; k++) {
        if (label->records[k].status &&
            qemu_uuid_is_equal(&label->records[k].member, member)) {
            return k;
        }
    }
    return -1;
}
