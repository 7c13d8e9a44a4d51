/*
 * Quorum block driver: options, their spellings, and file names
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Text to options; nothing here opens anything.  Global state: under the BQL.
 */

#ifndef BLOCK_QUORUM_OPTS_H
#define BLOCK_QUORUM_OPTS_H

#include "qapi/qapi-types-block-core.h"
#include "qobject/qdict.h"

/*
 * How many children a node may have: a read needs a buffer for each of them,
 * and one for the result, from a pool that is capped.
 */
#define QUORUM_CHILDREN_MAX 1000

#define QUORUM_OPT_CHILDREN          "children."
#define QUORUM_OPT_VOTE_THRESHOLD    "vote-threshold"
#define QUORUM_OPT_BLKVERIFY         "blkverify"
#define QUORUM_OPT_REWRITE_CORRUPTED "rewrite-corrupted"
#define QUORUM_OPT_READ_PATTERN      "read-pattern"
#define QUORUM_OPT_OPEN_DEGRADED     "open-degraded"
#define QUORUM_OPT_CHILD_TIMEOUT     "child-timeout"
#define QUORUM_OPT_EARLY_READS       "early-reads"
#define QUORUM_OPT_AUTO_RESYNC       "auto-resync"
#define QUORUM_OPT_STABLE_WRITES     "stable-writes"
#define QUORUM_OPT_STATE             "state."
#define QUORUM_OPT_STATE_INIT        "state-init"
#define QUORUM_OPT_STATE_FORCE       "state-force"
#define QUORUM_OPT_DIRTY_LIMIT       "dirty-limit"
#define QUORUM_OPT_DIGEST            "digest"
#define QUORUM_OPT_DIGEST_CACHE_SIZE "digest-cache-size"
#define QUORUM_OPT_DIGESTS           "digests"

/*
 * Values of child-timeout, in ms.  Less than the smallest is less than what a
 * healthy disk takes now and then, and a guest has given up long before the
 * largest.
 */
#define QUORUM_CHILD_TIMEOUT_DEFAULT 10000
#define QUORUM_CHILD_TIMEOUT_MIN     100
#define QUORUM_CHILD_TIMEOUT_MAX     600000

/* Values of dirty-limit: a few regions must fit. */
#define QUORUM_DIRTY_LIMIT_DEFAULT (4ULL << 30)
#define QUORUM_DIRTY_LIMIT_MIN     (16ULL << 20)

/* Values of digest-cache-size; the least is QUORUM_DIGEST_CACHE_MIN. */
#define QUORUM_DIGEST_CACHE_DEFAULT (64ULL << 20)
#define QUORUM_DIGEST_CACHE_MOST    (1ULL << 40)

typedef struct QuorumOptions {
    int threshold;              /* 1 to the number of occupied slots */
    bool threshold_given;       /* it is not the default */
    bool blkverify;             /* exit at the first difference */
    bool rewrite_corrupted;     /* repair on read */
    QuorumReadPattern read_pattern;
    bool open_degraded;         /* do without children that can't be opened */
    bool child_timeout_given;   /* it is not the default */
    int child_timeout_ms;       /* do without those that don't answer; or 0 */
    bool early_reads;           /* answer without waiting for all children */
    bool auto_resync;           /* copy what children lack, in background */
    bool auto_resync_given;     /* it is not the default */
    bool stable_writes;         /* children are written from a copy */
    bool state_init;            /* the state nodes are blank */
    bool state_force;           /* the newest one may be missing */
    uint64_t dirty_limit;       /* bytes that may be marked */
    QuorumDigest digest;        /* pattern checked: what is remembered */
    uint64_t digest_cache_size; /* and in how much memory */
} QuorumOptions;

/*
 * Whether one child is believed, although a write counts only if several store
 * it: then it must be known that the child has not missed any.
 */
static inline bool quorum_opts_verify(const QuorumOptions *o)
{
    return o->read_pattern == QUORUM_READ_PATTERN_FIFO && o->threshold > 1;
}

/* --- file names --- */

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

/* BlockDriver.bdrv_parse_filename: @filename in the form above to @options. */
void quorum_parse_filename(const char *filename, QDict *options, Error **errp);

/* --- options --- */

/* "children.@i", the name of the child in slot @i.  Owned by the caller. */
char *quorum_child_name(int i);

/* Whether the value of @key in @options stands for a vacant slot. */
bool quorum_key_is_vacant(QDict *options, const char *key);

/* Whether @options have a key that begins with @prefix. */
bool quorum_opts_have(QDict *options, const char *prefix);

/*
 * Whether a node that can't be opened because of @err is just not there.  If
 * another node or process uses it, two disks would be made of one, and the name
 * of a node that does not exist is a slip, so these two concern the whole disk.
 * The core hands up no errno, but these are the only places that say so:
 * bdrv_lookup_bs(), bdrv_a_allow_b() and, in file-posix.c,
 * raw_check_lock_bytes().
 */
bool quorum_opts_is_away(const Error *err);

/* Delete @key, the name of a child, and all that is nested below it. */
void quorum_opts_delete_child(QDict *options, const char *key);

/*
 * Rewrite the 2013 spelling of children in @options, childrenN.KEY, to
 * children.N.KEY; childrenN.file=NAME, a file whose format is probed, becomes
 * children.N.file.filename=NAME.
 *
 * Returns false, with @errp set and @options in an unspecified state, if a key
 * can't be read or one child is spelled in both ways; or if state nodes are not
 * given as a list, or as an empty one, which is not a key of any node.
 */
bool quorum_opts_normalise(QDict *options, Error **errp);

/*
 * How many children @options describe, in the spelling children.N; 0 or more,
 * or -EINVAL with @errp set if they are not a list.
 */
int quorum_opts_count_children(QDict *options, Error **errp);

/*
 * Read all @options but the children into @o, and delete them.  There are
 * @slots slots, of which @occupied are given a child.  Returns 0, or -EINVAL
 * with @errp set.
 */
int quorum_read_options(QuorumOptions *o, QDict *options, int slots,
                        int occupied, Error **errp);

#endif /* BLOCK_QUORUM_OPTS_H */
