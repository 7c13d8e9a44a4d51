/*
 * Quorum block driver: file names and spellings of options
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/qdict.h"
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qobject/qstring.h"
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
static int read_number(const char **pos, char end)
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
static GPtrArray *split_names(const char *list, const char *filename,
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

    result->threshold = read_number(&pos, '/');
    if (result->threshold < 0) {
        error_setg(errp, "Invalid file name '%s': it must be of the form "
                   "quorum:THRESHOLD/TOTAL:FILE1:...:FILEn, where THRESHOLD "
                   "is a number", filename);
        return NULL;
    }
    result->total = read_number(&pos, ':');
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

    names = split_names(pos, filename, errp);
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

/* --- keys --- */

/*
 * If @key is of the 2013 spelling, set *@index and *@rest (what follows the
 * index: nothing, or a dot and more) and return true; set @errp too if it only
 * looks like it.
 */
static bool read_old_key(const char *key, int *index, const char **rest,
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
static bool has_keys_below(QDict *options, const char *key)
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
static bool has_child(QDict *options, int index)
{
    g_autofree char *key = g_strdup_printf("children.%d", index);

    return qdict_haskey(options, key) || has_keys_below(options, key);
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
        if (!read_old_key(key, &index, &rest, errp)) {
            continue;
        }
        if (*errp) {
            return false;
        }
        if (has_child(options, index)) {
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
            if (!has_child(options, i)) {
                error_setg(errp, "Option children is not a valid array: there "
                           "is children.%lu, but no children.%d", index, i);
                return -EINVAL;
            }
        }
        if (*rest == '\0' && has_keys_below(options, key)) {
            error_setg(errp, "Option children is not a valid array: '%s' is "
                       "given both as a value and with options of its own",
                       key);
            return -EINVAL;
        }
    }
    error_setg(errp, "Option children is not a valid array");
    return -EINVAL;
}
