/*
 * Quorum block driver: options, their spellings, and file names
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block_int.h"
#include "block/qdict.h"
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qemu/option.h"
#include "qobject/qnull.h"
#include "qobject/qstring.h"
#include "digest.h"
#include "opts.h"

#define PREFIX "quorum:"

/* --- file names --- */

void quorum_filename_free(QuorumFileName *name)
{
    if (name) {
        g_strfreev(name->names);
        g_free(name);
    }
}

/*
 * Read the number at *@pos, which must be followed by @end; leave *@pos behind
 * that.  Returns -1 if there is no such number.
 */
static int quorum_read_number(const char **pos, char end)
{
    unsigned long value;
    const char *after;

    if (!qemu_isdigit(**pos) || qemu_strtoul(*pos, &after, 10, &value) < 0 ||
        *after != end || value > QUORUM_CHILDREN_MAX) {
        return -1;
    }
    *pos = after + 1;
    return value;
}

/*
 * Split @list at its colons and unescape the pieces.  Returns NULL with @errp
 * set if there is an escape that means nothing.
 */
static GPtrArray *quorum_split_names(const char *list, const char *filename,
                                     Error **errp)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) name = g_string_new(NULL);

    for (const char *c = list; ; c++) {
        if (*c == '\\') {
            c++;
            if (*c == '\0') {
                error_setg(errp, "Invalid file name '%s': it ends with a "
                           "backslash, which must be followed by a colon or "
                           "another backslash", filename);
                return NULL;
            }
            if (*c != ':' && *c != '\\') {
                error_setg(errp, "Invalid file name '%s': a backslash must be "
                           "followed by a colon or another backslash, not by "
                           "'%c'", filename, *c);
                return NULL;
            }
            g_string_append_c(name, *c);
        } else if (*c == ':' || *c == '\0') {
            g_ptr_array_add(names, g_strdup(name->str));
            g_string_truncate(name, 0);
            if (*c == '\0') {
                return g_steal_pointer(&names);
            }
        } else {
            g_string_append_c(name, *c);
        }
    }
}

QuorumFileName *quorum_filename_split(const char *filename, Error **errp)
{
    g_autoptr(QuorumFileName) result = g_new0(QuorumFileName, 1);
    g_autoptr(GPtrArray) names = NULL;
    const char *pos = filename;

    strstart(filename, PREFIX, &pos);

    result->threshold = quorum_read_number(&pos, '/');
    if (result->threshold < 0) {
        error_setg(errp, "Invalid file name '%s': it must be of the form "
                   "quorum:THRESHOLD/TOTAL:FILE1:...:FILEn, where THRESHOLD "
                   "is a number", filename);
        return NULL;
    }
    result->total = quorum_read_number(&pos, ':');
    if (result->total < 1) {
        error_setg(errp, "Invalid file name '%s': after the slash there must "
                   "be the number of files, 1 to %d, and a colon",
                   filename, QUORUM_CHILDREN_MAX);
        return NULL;
    }
    if (result->threshold < 1 || result->threshold > result->total) {
        error_setg(errp, "Invalid file name '%s': the threshold must be 1 to "
                   "%d, the number of files, and not %d", filename,
                   result->total, result->threshold);
        return NULL;
    }

    names = quorum_split_names(pos, filename, errp);
    if (!names) {
        return NULL;
    }
    for (guint i = 0; i < names->len; i++) {
        if (*(char *)names->pdata[i] == '\0') {
            error_setg(errp, "Invalid file name '%s': the name of file %u is "
                       "empty", filename, i + 1);
            return NULL;
        }
    }
    if (names->len != result->total) {
        error_setg(errp, "Invalid file name '%s': it announces %d files and "
                   "names %u (a colon in a name is written as \\:)", filename,
                   result->total, names->len);
        return NULL;
    }

    g_ptr_array_add(names, NULL);
    result->names = (char **)g_ptr_array_free(g_steal_pointer(&names), false);
    return g_steal_pointer(&result);
}

/*
 * The options that open the file @name, with a protocol prefix as it is allowed
 * where images are created (bdrv_co_create_file()).  NULL with @errp set if
 * there is no such protocol.
 */
static QDict *quorum_file_options(const char *name, Error **errp)
{
    ERRP_GUARD();
    BlockDriver *drv = bdrv_find_protocol(name, true, errp);
    g_autoptr(QDict) options = qdict_new();

    if (!drv) {
        return NULL;
    }
    qdict_put_str(options, "driver", drv->format_name);
    qdict_put_str(options, "filename", name);
    if (drv->bdrv_parse_filename) {
        /* As the core does it: the name goes once it has been parsed. */
        drv->bdrv_parse_filename(name, options, errp);
        if (*errp) {
            return NULL;
        }
        if (!drv->bdrv_needs_filename) {
            qdict_del(options, "filename");
        }
    }
    return g_steal_pointer(&options);
}

/*
 * The children are raw: an image format that the file name is opened with goes
 * over the quorum, and must not be seen again below it.
 */
void quorum_parse_filename(const char *filename, QDict *options, Error **errp)
{
    g_autoptr(QuorumFileName) name = quorum_filename_split(filename, errp);

    if (!name) {
        return;
    }
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *key = qdict_entry_key(e);

        if (!strcmp(key, QUORUM_OPT_VOTE_THRESHOLD) ||
            strstart(key, "children", NULL)) {
            error_setg(errp, "%s can't be given beside the file name '%s', "
                       "which says it already", key, filename);
            return;
        }
    }
    for (int i = 0; i < name->total; i++) {
        g_autofree char *key = quorum_child_name(i);
        g_autofree char *file_key = g_strdup_printf("%s.file.", key);
        g_autoptr(QDict) file = quorum_file_options(name->names[i], errp);
        g_autofree char *driver_key = g_strdup_printf("%s.driver", key);

        if (!file) {
            return;
        }
        qdict_put_str(options, driver_key, "raw");
        for (const QDictEntry *e = qdict_first(file); e;
             e = qdict_next(file, e)) {
            g_autofree char *to = g_strconcat(file_key, qdict_entry_key(e),
                                              NULL);

            qdict_put_obj(options, to, qobject_ref(qdict_entry_value(e)));
        }
    }
    qdict_put_int(options, QUORUM_OPT_VOTE_THRESHOLD, name->threshold);
}

/* --- keys of children --- */

char *quorum_child_name(int i)
{
    return g_strdup_printf(QUORUM_OPT_CHILDREN "%d", i);
}

bool quorum_key_is_vacant(QDict *options, const char *key)
{
    QObject *value = qdict_get(options, key);
    QString *string = qobject_to(QString, value);

    /* In dotted syntax, which has no null, an empty string stands for it. */
    return qobject_to(QNull, value) || (string && !*qstring_get_str(string));
}

bool quorum_opts_have(QDict *options, const char *prefix)
{
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        if (strstart(qdict_entry_key(e), prefix, NULL)) {
            return true;
        }
    }
    return false;
}

bool quorum_opts_is_away(const Error *err)
{
    static const char *const texts[] = {
        "Cannot find device=",
        "Duplicate nodes with node-name=",
        "Invalid node-name:",
        "is conflicting with a device id",
        "Node name too long",
        "support the option '",
        "Permission conflict on node",
        "Failed to get \"",
        "Failed to get shared \"",
    };

    for (int i = 0; i < ARRAY_SIZE(texts); i++) {
        if (strstr(error_get_pretty(err), texts[i])) {
            return false;
        }
    }
    return true;
}

void quorum_opts_delete_child(QDict *options, const char *key)
{
    g_autofree char *prefix = g_strconcat(key, ".", NULL);
    g_autoptr(QDict) below = NULL;

    qdict_del(options, key);
    qdict_extract_subqdict(options, &below, prefix);
}

/*
 * If @key is of the 2013 spelling, set *@index and *@rest (what follows the
 * index: nothing, or a dot and more) and return true; set @errp too if it only
 * looks like it.
 */
static bool quorum_read_old_key(const char *key, int *index, const char **rest,
                                Error **errp)
{
    const char *digits;
    unsigned long value;

    if (!strstart(key, "children", &digits) || !qemu_isdigit(*digits)) {
        return false;
    }
    if (qemu_strtoul(digits, rest, 10, &value) < 0 ||
        value >= QUORUM_CHILDREN_MAX) {
        error_setg(errp, "Invalid option '%s': the index of a child is 0 to %d",
                   key, QUORUM_CHILDREN_MAX - 1);
    } else if (**rest != '\0' && **rest != '.') {
        error_setg(errp, "Invalid option '%s': a child is spelled "
                   "children.N or childrenN, where N is a number", key);
    } else if (*digits == '0' && *rest - digits > 1) {
        error_setg(errp, "Invalid option '%s': the index of a child has no "
                   "leading zeros", key);
    }
    *index = value;
    return true;
}

/* Whether @options have a key that begins with @key and a dot. */
static bool quorum_has_keys_below(QDict *options, const char *key)
{
    const QDictEntry *entry;
    const char *rest;

    for (entry = qdict_first(options); entry;
         entry = qdict_next(options, entry)) {
        if (strstart(qdict_entry_key(entry), key, &rest) && *rest == '.') {
            return true;
        }
    }
    return false;
}

/* Whether @options say anything of children.@index. */
static bool quorum_has_child(QDict *options, int index)
{
    g_autofree char *key = g_strdup_printf("children.%d", index);

    return qdict_haskey(options, key) || quorum_has_keys_below(options, key);
}

bool quorum_opts_normalise(QDict *options, Error **errp)
{
    ERRP_GUARD();
    g_autoptr(QDict) renamed = qdict_new();
    const QDictEntry *entry, *next;

    for (entry = qdict_first(options); entry; entry = next) {
        const char *key = qdict_entry_key(entry);
        g_autofree char *new_key = NULL;
        const char *rest;
        int index;

        next = qdict_next(options, entry);
        if (!quorum_read_old_key(key, &index, &rest, errp)) {
            continue;
        }
        if (*errp) {
            return false;
        }
        if (quorum_has_child(options, index)) {
            error_setg(errp, "Child %d is given twice, as '%s' and as "
                       "'children.%d'", index, key, index);
            return false;
        }

        new_key = g_strdup_printf("children.%d%s", index, rest);
        if (!strcmp(rest, ".file") &&
            qobject_to(QString, qdict_entry_value(entry))) {
            /* Alone, a string would be taken for the name of a node. */
            char *longer = g_strdup_printf("%s.filename", new_key);

            g_free(new_key);
            new_key = longer;
        }
        if (qdict_haskey(renamed, new_key)) {
            error_setg(errp, "Child %d is given twice: '%s' and another option "
                       "both mean '%s'", index, key, new_key);
            return false;
        }
        qdict_put_obj(renamed, new_key, qobject_ref(qdict_entry_value(entry)));
        qdict_del(options, key);
    }

    qdict_join(options, renamed, true);
    if (qdict_haskey(options, "state")) {
        error_setg(errp, "Option state is an empty list, or none at all: give "
                   "one state node for each child, as state.0, state.1, ..., "
                   "or leave it out");
        return false;
    }
    return true;
}

int quorum_opts_count_children(QDict *options, Error **errp)
{
    int count = qdict_array_entries(options, "children.");

    if (qobject_to(QString, qdict_get(options, "children"))) {
        error_setg(errp, "Option children is not a valid array: it is a single "
                   "value; the first child is children.0");
        return -EINVAL;
    }
    if (count >= 0) {
        return count;
    }

    /* It is known that something is wrong; say what. */
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *key = qdict_entry_key(e);
        const char *digits, *rest;
        unsigned long index;

        if (!strstart(key, "children.", &digits)) {
            continue;
        }
        if (!qemu_isdigit(*digits) ||
            qemu_strtoul(digits, &rest, 10, &index) < 0 ||
            index >= QUORUM_CHILDREN_MAX || (*rest != '\0' && *rest != '.') ||
            (*digits == '0' && rest - digits > 1)) {
            error_setg(errp, "Option children is not a valid array: '%s' does "
                       "not have an index from 0 to %d", key,
                       QUORUM_CHILDREN_MAX - 1);
            return -EINVAL;
        }
        for (int i = 0; i < index; i++) {
            if (!quorum_has_child(options, i)) {
                error_setg(errp, "Option children is not a valid array: there "
                           "is children.%lu, but no children.%d", index, i);
                return -EINVAL;
            }
        }
        if (*rest == '\0' && quorum_has_keys_below(options, key)) {
            error_setg(errp, "Option children is not a valid array: '%s' is "
                       "given both as a value and with options of its own",
                       key);
            return -EINVAL;
        }
    }
    error_setg(errp, "Option children is not a valid array");
    return -EINVAL;
}

/* --- values --- */

static QemuOptsList quorum_runtime_opts = {
    .name = "quorum",
    .head = QTAILQ_HEAD_INITIALIZER(quorum_runtime_opts.head),
    .desc = {
        {
            .name = QUORUM_OPT_VOTE_THRESHOLD,
            .type = QEMU_OPT_NUMBER,
            .help = "How many equal answers make a version believable",
        },
        {
            .name = QUORUM_OPT_BLKVERIFY,
            .type = QEMU_OPT_BOOL,
            .help = "Exit at the first difference between two children",
        },
        {
            .name = QUORUM_OPT_REWRITE_CORRUPTED,
            .type = QEMU_OPT_BOOL,
            .help = "Repair the children that were outvoted on a read",
        },
        {
            .name = QUORUM_OPT_READ_PATTERN,
            .type = QEMU_OPT_STRING,
            .help = "quorum: ask all children and vote; "
                    "threshold: ask just enough of them, and vote; "
                    "fifo: ask one after the other until one answers; "
                    "checked: ask one, and check the digest of what it says",
        },
        {
            .name = QUORUM_OPT_OPEN_DEGRADED,
            .type = QEMU_OPT_BOOL,
            .help = "Do without a child that can't be opened",
        },
        {
            .name = QUORUM_OPT_CHILD_TIMEOUT,
            .type = QEMU_OPT_NUMBER,
            .help = "Go on without a child that takes that many ms longer than "
                    "enough others; 0: wait for ever",
        },
        {
            .name = QUORUM_OPT_EARLY_READS,
            .type = QEMU_OPT_BOOL,
            .help = "Answer reads without waiting for the slowest children",
        },
        {
            .name = QUORUM_OPT_AUTO_RESYNC,
            .type = QEMU_OPT_BOOL,
            .help = "Copy to children what they lack, in the background",
        },
        {
            .name = QUORUM_OPT_STABLE_WRITES,
            .type = QEMU_OPT_BOOL,
            .help = "Write a copy, which the guest can't change meanwhile",
        },
        {
            .name = QUORUM_OPT_STATE_INIT,
            .type = QEMU_OPT_BOOL,
            .help = "The state nodes are blank, and the children alike",
        },
        {
            .name = QUORUM_OPT_STATE_FORCE,
            .type = QEMU_OPT_BOOL,
            .help = "Open although the newest state may be missing",
        },
        {
            .name = QUORUM_OPT_DIRTY_LIMIT,
            .type = QEMU_OPT_SIZE,
            .help = "How much of the disk may be marked at a time",
        },
        {
            .name = QUORUM_OPT_DIGEST,
            .type = QEMU_OPT_STRING,
            .help = "What is remembered for checked reads: xxh3 or sha256",
        },
        {
            .name = QUORUM_OPT_DIGEST_CACHE_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "How much memory may be used for that",
        },
        { /* end of list */ }
    },
};

static bool quorum_check_threshold(int64_t threshold, int occupied,
                                   Error **errp)
{
    ERRP_GUARD();

    if (threshold < 1) {
        error_setg(errp, "Parameter 'vote-threshold' expects a value >= 1");
        return false;
    }
    if (threshold > occupied) {
        error_setg(errp, "threshold may not exceed children count");
        error_append_hint(errp, "vote-threshold is %" PRId64 ", and %d "
                          "children are given.\n", threshold, occupied);
        return false;
    }
    return true;
}

static bool quorum_check_child_timeout(uint64_t ms, Error **errp)
{
    if (ms && (ms < QUORUM_CHILD_TIMEOUT_MIN ||
               ms > QUORUM_CHILD_TIMEOUT_MAX)) {
        error_setg(errp, "Parameter 'child-timeout' expects milliseconds from "
                   "%d to %d, or 0 for ever; it is %" PRIu64,
                   QUORUM_CHILD_TIMEOUT_MIN, QUORUM_CHILD_TIMEOUT_MAX, ms);
        return false;
    }
    return true;
}

static bool quorum_check_dirty_limit(uint64_t bytes, Error **errp)
{
    if (bytes < QUORUM_DIRTY_LIMIT_MIN || bytes > INT64_MAX) {
        error_setg(errp, "Parameter 'dirty-limit' expects a size of at least "
                   "%llu bytes; it is %" PRIu64, QUORUM_DIRTY_LIMIT_MIN,
                   bytes);
        return false;
    }
    return true;
}

static bool quorum_check_digest_cache(uint64_t bytes, Error **errp)
{
    if (bytes < QUORUM_DIGEST_CACHE_MIN || bytes > QUORUM_DIGEST_CACHE_MOST) {
        error_setg(errp, "Parameter 'digest-cache-size' expects a size from "
                   "%llu to %llu bytes; it is %" PRIu64,
                   QUORUM_DIGEST_CACHE_MIN, QUORUM_DIGEST_CACHE_MOST, bytes);
        return false;
    }
    return true;
}

/* Read the options of pattern checked from @opts into @o. */
static bool quorum_read_digest_options(QuorumOptions *o, QemuOpts *opts,
                                       Error **errp)
{
    const char *name = qemu_opt_get(opts, QUORUM_OPT_DIGEST);
    int value = qapi_enum_parse(&QuorumDigest_lookup, name,
                                name ? -EINVAL : 0, NULL);

    if (value < 0) {
        error_setg(errp, "Parameter 'digest' expects %s; it is '%s'",
                   QUORUM_DIGEST__MAX > 1 ? "xxh3 or sha256" :
                   "sha256, as QEMU was built without libxxhash", name);
        return false;
    }
    o->digest = value;
    o->digest_cache_size = qemu_opt_get_size(opts, QUORUM_OPT_DIGEST_CACHE_SIZE,
                                             QUORUM_DIGEST_CACHE_DEFAULT);
    return quorum_check_digest_cache(o->digest_cache_size, errp);
}

/* Whether the options in @o go together. */
static bool quorum_check_options(const QuorumOptions *o, int slots,
                                 int occupied, Error **errp)
{
    if (o->open_degraded && o->threshold <= slots / 2) {
        error_setg(errp, "open-degraded=on needs a vote-threshold of more than "
                   "half the children: %d of %d, not %d",
                   slots / 2 + 1, slots, o->threshold);
        return false;
    }
    if (o->read_pattern == QUORUM_READ_PATTERN_CHECKED && !o->stable_writes) {
        error_setg(errp, "read-pattern=checked needs stable-writes=on: it "
                   "remembers what was copied, and no other is sure to be what "
                   "the children were given");
        return false;
    }
    if (!o->blkverify) {
        return true;
    }
    if (slots != 2 || occupied != 2 || o->threshold != 2) {
        error_setg(errp, "blkverify=on can only be set if there are "
                   "exactly two files and vote-threshold is 2");
        return false;
    }
    if (o->early_reads) {
        error_setg(errp, "early-reads=on cannot be used with blkverify=on");
        return false;
    }
    if (o->rewrite_corrupted) {
        error_setg(errp,
                   "rewrite-corrupted=on cannot be used with blkverify=on");
        return false;
    }
    if (o->read_pattern != QUORUM_READ_PATTERN_QUORUM) {
        error_setg(errp, "read-pattern=%s cannot be used with blkverify=on",
                   QuorumReadPattern_str(o->read_pattern));
        return false;
    }
    return true;
}

int quorum_read_options(QuorumOptions *o, QDict *options, int slots,
                        int occupied, Error **errp)
{
    ERRP_GUARD();
    QemuOpts *opts = qemu_opts_create(&quorum_runtime_opts, NULL, 0,
                                      &error_abort);
    const char *pattern;
    int64_t threshold;
    uint64_t timeout, dirty_limit;
    int value;
    int ret = -EINVAL;

    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        goto out;
    }

    threshold = qemu_opt_get_number(opts, QUORUM_OPT_VOTE_THRESHOLD,
                                    slots / 2 + 1);
    pattern = qemu_opt_get(opts, QUORUM_OPT_READ_PATTERN);
    value = qapi_enum_parse(&QuorumReadPattern_lookup, pattern,
                            pattern ? -EINVAL : QUORUM_READ_PATTERN_QUORUM,
                            NULL);
    timeout = qemu_opt_get_number(opts, QUORUM_OPT_CHILD_TIMEOUT,
                                  QUORUM_CHILD_TIMEOUT_DEFAULT);
    dirty_limit = qemu_opt_get_size(opts, QUORUM_OPT_DIRTY_LIMIT,
                                    QUORUM_DIRTY_LIMIT_DEFAULT);
    if (!quorum_check_threshold(threshold, occupied, errp) ||
        !quorum_check_child_timeout(timeout, errp) ||
        !quorum_check_dirty_limit(dirty_limit, errp)) {
        goto out;
    }
    if (value < 0) {
        error_setg(errp, "Please set read-pattern as fifo or quorum");
        error_append_hint(errp, "read-pattern is '%s'; threshold and checked "
                          "are possible, too.\n", pattern);
        goto out;
    }
    *o = (QuorumOptions) {
        .threshold = threshold,
        .threshold_given = qemu_opt_find(opts, QUORUM_OPT_VOTE_THRESHOLD),
        .blkverify = qemu_opt_get_bool(opts, QUORUM_OPT_BLKVERIFY, false),
        .rewrite_corrupted =
            qemu_opt_get_bool(opts, QUORUM_OPT_REWRITE_CORRUPTED, false),
        .read_pattern = value,
        .open_degraded =
            qemu_opt_get_bool(opts, QUORUM_OPT_OPEN_DEGRADED, false),
        .child_timeout_given = qemu_opt_find(opts, QUORUM_OPT_CHILD_TIMEOUT),
        .child_timeout_ms = timeout,
        .early_reads = qemu_opt_get_bool(opts, QUORUM_OPT_EARLY_READS, false),
        .auto_resync = qemu_opt_get_bool(opts, QUORUM_OPT_AUTO_RESYNC,
                                         threshold > slots / 2),
        .auto_resync_given = qemu_opt_find(opts, QUORUM_OPT_AUTO_RESYNC),
        .stable_writes =
            qemu_opt_get_bool(opts, QUORUM_OPT_STABLE_WRITES, true),
        .state_init = qemu_opt_get_bool(opts, QUORUM_OPT_STATE_INIT, false),
        .state_force = qemu_opt_get_bool(opts, QUORUM_OPT_STATE_FORCE, false),
        .dirty_limit = dirty_limit,
    };
    assert(o->threshold >= 1 && o->threshold <= occupied && occupied <= slots);
    ret = quorum_read_digest_options(o, opts, errp) &&
          quorum_check_options(o, slots, occupied, errp) ? 0 : -EINVAL;
out:
    qemu_opts_del(opts);
    return ret;
}
