/*
 * Fuzzing: the quorum driver's file names and spellings of options
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The first line of the input is a file name, the others are options.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qnull.h"
#include "qobject/qstring.h"
#include "block/quorum/opts.h"
#include "fuzz.h"

#define MAX_INDEX (QUORUM_CHILDREN_MAX - 1)

static GRegex *filename_regex, *old_key_regex, *index_regex;

static GRegex *regex(const char *pattern)
{
    GRegex *result = g_regex_new(pattern, G_REGEX_RAW | G_REGEX_DOTALL |
                                 G_REGEX_DOLLAR_ENDONLY | G_REGEX_OPTIMIZE, 0,
                                 NULL);

    g_assert_nonnull(result);
    return result;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    /* threshold, total, and the names with their colons */
    filename_regex = regex("^(?:quorum:)?0*([0-9]{1,4})/0*([0-9]{1,4})"
                           "((?::(?:[^:\\\\]|\\\\[:\\\\])++)++)$");
    /* index, rest */
    old_key_regex = regex("^children(0|[1-9][0-9]*)((?:\\..*)?)$");
    /* index */
    index_regex = regex("^children\\.(0|[1-9][0-9]*)(?:\\..*)?$");
    return 0;
}

/* --- file names --- */

static char *escape_names(const QuorumFileName *name)
{
    GString *text = g_string_new(NULL);

    for (int i = 0; i < name->total; i++) {
        g_string_append_c(text, ':');
        for (const char *c = name->names[i]; *c; c++) {
            if (*c == ':' || *c == '\\') {
                g_string_append_c(text, '\\');
            }
            g_string_append_c(text, *c);
        }
    }
    return g_string_free(text, false);
}

static int count_names(const char *names)
{
    int count = 0;

    for (const char *c = names; *c; c++) {
        if (*c == '\\') {
            c++;
        } else {
            count += *c == ':';
        }
    }
    return count;
}

static void check_filename(const char *filename)
{
    g_autoptr(GMatchInfo) match = NULL;
    g_autoptr(QuorumFileName) name = NULL;
    g_autofree char *names = NULL;
    int threshold = 0, total = 0;
    Error *err = NULL;
    bool good;

    good = g_regex_match(filename_regex, filename, 0, &match);
    if (good) {
        g_autofree char *first = g_match_info_fetch(match, 1);
        g_autofree char *second = g_match_info_fetch(match, 2);

        names = g_match_info_fetch(match, 3);
        threshold = atoi(first);
        total = atoi(second);
        good = threshold >= 1 && threshold <= total &&
               total <= MAX_INDEX + 1 && total == count_names(names);
    }

    name = quorum_filename_split(filename, &err);
    g_assert_true(!!name == good);
    g_assert_true(!err == good);
    if (good) {
        g_autofree char *escaped = escape_names(name);

        g_assert_cmpint(name->threshold, ==, threshold);
        g_assert_cmpint(name->total, ==, total);
        g_assert_null(name->names[total]);
        g_assert_cmpstr(escaped, ==, names);
    } else {
        g_autofree char *start =
            g_strdup_printf("Invalid file name '%s': ", filename);

        g_assert_true(g_str_has_prefix(error_get_pretty(err), start));
        error_free(err);
    }
}

/* --- keys --- */

/* "KEY" is null, "KEY=VALUE" a string */
static QDict *parse_options(char **lines)
{
    QDict *options = qdict_new();

    for (; *lines; lines++) {
        char *value = strchr(*lines, '=');

        if (value) {
            g_autofree char *key = g_strndup(*lines, value - *lines);

            qdict_put_str(options, key, value + 1);
        } else {
            qdict_put_null(options, *lines);
        }
    }
    return options;
}

/* The index in @key that @which finds, or -1 */
static int index_of(GRegex *which, const char *key, char **rest)
{
    g_autoptr(GMatchInfo) match = NULL;
    g_autofree char *digits = NULL;

    if (!g_regex_match(which, key, 0, &match)) {
        return -1;
    }
    digits = g_match_info_fetch(match, 1);
    if (rest) {
        *rest = g_match_info_fetch(match, 2);
    }
    return strlen(digits) > 4 || atoi(digits) > MAX_INDEX ? -1 : atoi(digits);
}

/* What @options are in the new spelling, or NULL if they can't be read */
static QDict *naive_normalise(QDict *options)
{
    g_autoptr(QDict) normal = qdict_new();
    g_autofree bool *is_new = g_new0(bool, MAX_INDEX + 1);
    g_autofree bool *is_old = g_new0(bool, MAX_INDEX + 1);

    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *key = qdict_entry_key(e);
        QObject *value = qdict_entry_value(e);
        g_autofree char *rest = NULL;
        g_autofree char *new_key = NULL;
        int index = index_of(index_regex, key, NULL);

        if (index >= 0) {
            is_new[index] = true;
        }
        if (!g_str_has_prefix(key, "children") || !g_ascii_isdigit(key[8])) {
            new_key = g_strdup(key);
        } else {
            index = index_of(old_key_regex, key, &rest);
            if (index < 0) {
                return NULL;
            }
            is_old[index] = true;
            new_key = g_strdup_printf("children.%d%s%s", index, rest,
                                      g_str_equal(rest, ".file") &&
                                      qobject_type(value) == QTYPE_QSTRING ?
                                      ".filename" : "");
        }
        if (qdict_haskey(normal, new_key)) {
            return NULL;
        }
        qdict_put_obj(normal, new_key, qobject_ref(value));
    }
    for (int i = 0; i <= MAX_INDEX; i++) {
        if (is_new[i] && is_old[i]) {
            return NULL;
        }
    }
    return g_steal_pointer(&normal);
}

/* How many children there are in the new spelling, or -EINVAL */
static int naive_count(QDict *options)
{
    g_autofree int *values = g_new0(int, MAX_INDEX + 1);
    g_autofree int *below = g_new0(int, MAX_INDEX + 1);
    int total = 0, count = 0;

    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *key = qdict_entry_key(e);
        int index = index_of(index_regex, key, NULL);

        if (g_str_equal(key, "children") &&
            qobject_type(qdict_entry_value(e)) == QTYPE_QSTRING) {
            return -EINVAL;
        }
        if (!g_str_has_prefix(key, "children.")) {
            continue;
        }
        if (index < 0) {
            return -EINVAL;
        }
        *(strchr(key + strlen("children."), '.') ? &below[index]
                                                 : &values[index]) += 1;
        total = MAX(total, index + 1);
    }
    for (int i = 0; i <= MAX_INDEX; i++) {
        if (values[i] && below[i]) {
            return -EINVAL;
        }
        count += values[i] || below[i];
    }
    return count == total ? count : -EINVAL;
}

static void check_options(char **lines)
{
    g_autoptr(QDict) options = parse_options(lines);
    g_autoptr(QDict) normal = naive_normalise(options);
    Error *err = NULL;
    int count;

    g_assert_true(quorum_opts_normalise(options, &err) == !!normal);
    g_assert_true(!err == !!normal);
    if (!normal) {
        error_free(err);
        return;
    }
    g_assert_true(qobject_is_equal(QOBJECT(options), QOBJECT(normal)));

    count = quorum_opts_count_children(options, &err);
    g_assert_cmpint(count, ==, naive_count(normal));
    g_assert_true(!err == (count >= 0));
    error_free(err);
    g_assert_true(qobject_is_equal(QOBJECT(options), QOBJECT(normal)));

    /* What is normal stays normal. */
    g_assert_true(quorum_opts_normalise(options, &error_abort));
    g_assert_true(qobject_is_equal(QOBJECT(options), QOBJECT(normal)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    if (lines[0]) {
        check_filename(lines[0]);
        check_options(lines + 1);
    }
    return 0;
}
