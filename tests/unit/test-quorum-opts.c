/*
 * Unit tests of the quorum driver's file names and spellings of options
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qnull.h"
#include "qobject/qstring.h"
#include "block/quorum/opts.h"

/* --- file names --- */

static void test_split(void)
{
    static const struct {
        const char *filename;
        int threshold;
        const char *names[4];
    } cases[] = {
        { "quorum:1/1:a",                1, { "a" } },
        { "quorum:2/3:a:b:c",            2, { "a", "b", "c" } },
        { "quorum:3/3:a:a:a",            3, { "a", "a", "a" } },
        /* the prefix is optional */
        { "2/3:a:b:c",                   2, { "a", "b", "c" } },
        { "1/1:quorum",                  1, { "quorum" } },
        /* numbers are decimal */
        { "quorum:02/002:a:b",           2, { "a", "b" } },
        /* escapes */
        { "quorum:1/2:a\\:b:c",          1, { "a:b", "c" } },
        { "quorum:1/2:a\\\\:c",          1, { "a\\", "c" } },
        { "quorum:1/1:a\\\\\\:c",        1, { "a\\:c" } },
        { "quorum:1/3:\\::\\\\:\\:\\:",  1, { ":", "\\", "::" } },
        { "quorum:1/2:nbd\\://h\\:1/:/d/e", 1, { "nbd://h:1/", "/d/e" } },
        { "quorum:1/1:quorum\\:1/2\\:a\\\\\\:b\\:c",
                                         1, { "quorum:1/2:a\\:b:c" } },
        /* nothing else has a meaning */
        { "quorum:1/2: :/",              1, { " ", "/" } },
        { "quorum:1/2:a,b=c:?d#%3a",     1, { "a,b=c", "?d#%3a" } },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(QuorumFileName) name =
            quorum_filename_split(cases[i].filename, &error_abort);
        int total = 0;

        g_test_message("%s", cases[i].filename);
        g_assert_cmpint(name->threshold, ==, cases[i].threshold);
        while (cases[i].names[total]) {
            g_assert_cmpint(total, <, name->total);
            g_assert_cmpstr(name->names[total], ==, cases[i].names[total]);
            total++;
        }
        g_assert_cmpint(name->total, ==, total);
        g_assert_null(name->names[total]);
    }
}

#define NO_FORM "it must be of the form quorum:THRESHOLD/TOTAL:FILE1:...:" \
                "FILEn, where THRESHOLD is a number"
#define NO_TOTAL "after the slash there must be the number of files, 1 to " \
                 "1000, and a colon"
#define NO_THRESHOLD(total, threshold) \
    "the threshold must be 1 to " #total ", the number of files, and not " \
    #threshold
#define NO_COUNT(total, names) \
    "it announces " #total " files and names " #names \
    " (a colon in a name is written as \\:)"
#define EMPTY(n) "the name of file " #n " is empty"
#define LAST_BACKSLASH "it ends with a backslash, which must be followed by " \
                       "a colon or another backslash"
#define BAD_ESCAPE(c) "a backslash must be followed by a colon or another " \
                      "backslash, not by '" c "'"

static void test_split_errors(void)
{
    static const struct {
        const char *filename;
        const char *error;
    } cases[] = {
        { "",                         NO_FORM },
        { "quorum",                   NO_FORM },
        { "quorum:",                  NO_FORM },
        { "quorum:quorum:1/1:a",      NO_FORM },
        { "quorum::",                 NO_FORM },
        { "quorum:/",                 NO_FORM },
        { "quorum:/3:a:b:c",          NO_FORM },
        { "quorum:2",                 NO_FORM },
        { "quorum:2:a:b",             NO_FORM },
        { "quorum:x/3:a:b:c",         NO_FORM },
        { "quorum:2x/3:a:b:c",        NO_FORM },
        { "quorum:0x2/3:a:b:c",       NO_FORM },
        { "quorum:2 /3:a:b:c",        NO_FORM },
        { "quorum: 2/3:a:b:c",        NO_FORM },
        { "quorum:+2/3:a:b:c",        NO_FORM },
        { "quorum:-2/3:a:b:c",        NO_FORM },
        { "quorum:1001/3:a:b:c",      NO_FORM },
        { "quorum:4294967297/3:a:b:c",  NO_FORM },
        { "quorum:99999999999999999999/3:a:b:c", NO_FORM },

        { "quorum:2/",                NO_TOTAL },
        { "quorum:2/3",               NO_TOTAL },
        { "quorum:2/:a:b",            NO_TOTAL },
        { "quorum:2/x:a:b",           NO_TOTAL },
        { "quorum:2/3x:a:b:c",        NO_TOTAL },
        { "quorum:2/ 3:a:b:c",        NO_TOTAL },
        { "quorum:2/-3:a:b:c",        NO_TOTAL },
        { "quorum:2/+3:a:b:c",        NO_TOTAL },
        { "quorum:2/3/a:b:c",         NO_TOTAL },
        { "quorum:2/1001:a",          NO_TOTAL },
        { "quorum:2/4294967298:a:b",  NO_TOTAL },
        { "quorum:2/18446744073709551618:a:b", NO_TOTAL },
        /* both are wrong: the error is that of the first */
        { "quorum:x/x:",              NO_FORM },

        { "quorum:0/3:a:b:c",         NO_THRESHOLD(3, 0) },
        { "quorum:4/3:a:b:c",         NO_THRESHOLD(3, 4) },
        { "quorum:1000/999:a",       NO_THRESHOLD(999, 1000) },
        { "quorum:1/0:",              NO_TOTAL },
        { "quorum:0/0:",              NO_TOTAL },

        { "quorum:2/3:a:b",           NO_COUNT(3, 2) },
        { "quorum:2/3:a",             NO_COUNT(3, 1) },
        { "quorum:2/3:a:b:c:d",       NO_COUNT(3, 4) },
        { "quorum:2/3:a\\:b:c",       NO_COUNT(3, 2) },
        { "quorum:1/1:nbd:h",         NO_COUNT(1, 2) },
        { "quorum:1/1000:a",          NO_COUNT(1000, 1) },

        { "quorum:1/1:",              EMPTY(1) },
        { "quorum:2/3:",              EMPTY(1) },
        { "quorum:2/3::b:c",          EMPTY(1) },
        { "quorum:2/3:a::c",          EMPTY(2) },
        { "quorum:2/3:a:b:",          EMPTY(3) },
        { "quorum:2/3:a:b:c:",        EMPTY(4) },

        { "quorum:1/1:\\",            LAST_BACKSLASH },
        { "quorum:1/1:a\\",           LAST_BACKSLASH },
        { "quorum:1/1:a\\\\\\",       LAST_BACKSLASH },
        { "quorum:1/2:a:b\\",         LAST_BACKSLASH },
        { "quorum:1/1:\\a",           BAD_ESCAPE("a") },
        { "quorum:1/1:C\\:\\x\\",     BAD_ESCAPE("x") },
        { "quorum:1/1:a\\ b",         BAD_ESCAPE(" ") },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *expected =
            g_strdup_printf("Invalid file name '%s': %s", cases[i].filename,
                            cases[i].error);
        Error *err = NULL;

        g_test_message("%s", cases[i].filename);
        g_assert_null(quorum_filename_split(cases[i].filename, &err));
        g_assert_cmpstr(error_get_pretty(err), ==, expected);
        error_free(err);

        /* The caller may ask for no error text. */
        g_assert_null(quorum_filename_split(cases[i].filename, NULL));
    }
    quorum_filename_free(NULL);
}

/* A string of up to @max characters out of @letters. */
static char *random_string(const char *letters, int max)
{
    GString *string = g_string_new(NULL);
    int n = g_test_rand_int_range(0, max + 1);

    for (int i = 0; i < n; i++) {
        g_string_append_c(string, letters[g_test_rand_int_range(
                                              0, strlen(letters))]);
    }
    return g_string_free(string, false);
}

/* A name that is escaped and split is the same name again. */
static void test_split_round_trip(void)
{
    for (int round = 0; round < 10000; round++) {
        int total = g_test_rand_int_range(1, 8);
        int threshold = g_test_rand_int_range(1, total + 1);
        g_autoptr(GString) filename = g_string_new("quorum:");
        g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
        g_autoptr(QuorumFileName) result = NULL;

        g_string_append_printf(filename, "%d/%d", threshold, total);
        for (int i = 0; i < total; i++) {
            g_autofree char *rest = random_string("a:\\/ 1\n\x80", 12);
            char *name = g_strconcat(g_test_rand_bit() ? ":" : "\\", rest,
                                     NULL);

            g_ptr_array_add(names, name);
            g_string_append_c(filename, ':');
            for (const char *c = name; *c; c++) {
                if (*c == ':' || *c == '\\') {
                    g_string_append_c(filename, '\\');
                }
                g_string_append_c(filename, *c);
            }
        }

        result = quorum_filename_split(filename->str, &error_abort);
        g_assert_cmpint(result->threshold, ==, threshold);
        g_assert_cmpint(result->total, ==, total);
        for (int i = 0; i < total; i++) {
            g_assert_cmpstr(result->names[i], ==, names->pdata[i]);
        }
        g_assert_null(result->names[total]);
    }
}

/* The largest number of files there may be. */
static void test_split_many(void)
{
    g_autoptr(GString) filename = g_string_new("quorum:1000/1000");
    g_autoptr(QuorumFileName) result = NULL;

    for (int i = 0; i < 1000; i++) {
        g_string_append_printf(filename, ":%d", i);
    }
    result = quorum_filename_split(filename->str, &error_abort);
    g_assert_cmpint(result->threshold, ==, 1000);
    g_assert_cmpint(result->total, ==, 1000);
    g_assert_cmpstr(result->names[999], ==, "999");
    g_assert_null(result->names[1000]);
}

/* Any text gives either names or an error. */
static void test_split_random(void)
{
    for (int round = 0; round < 100000; round++) {
        g_autofree char *rest = random_string("123/:\\a", 14);
        g_autofree char *filename =
            g_strconcat(g_test_rand_bit() ? "quorum:" : "",
                        g_test_rand_bit() ? "1/2:" : "", rest, NULL);
        Error *err = NULL;
        g_autoptr(QuorumFileName) name = quorum_filename_split(filename, &err);

        g_assert_true(!name == !!err);
        if (name) {
            g_assert_cmpint(name->threshold, >=, 1);
            g_assert_cmpint(name->threshold, <=, name->total);
            g_assert_cmpint(g_strv_length(name->names), ==, name->total);
            for (int i = 0; i < name->total; i++) {
                g_assert_cmpstr(name->names[i], !=, "");
            }
        }
        error_free(err);
    }
}

/* --- keys --- */

/* Options written as "KEY=VALUE KEY=VALUE"; a value of null is no string. */
static QDict *parse(const char *words)
{
    g_auto(GStrv) list = g_strsplit(words, " ", 0);
    QDict *options = qdict_new();

    for (char **word = list; *word; word++) {
        char *value = strchr(*word, '=');

        if (value) {
            *value++ = '\0';
            if (!strcmp(value, "null")) {
                qdict_put_null(options, *word);
            } else {
                qdict_put_str(options, *word, value);
            }
        }
    }
    return options;
}

static void assert_options(QDict *options, const char *words)
{
    g_autoptr(QDict) expected = parse(words);

    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        g_test_message("has %s", qdict_entry_key(e));
    }
    g_assert_true(qobject_is_equal(QOBJECT(options), QOBJECT(expected)));
}

static void test_normalise(void)
{
    static const struct {
        const char *options;
        const char *normal;
        int children;
    } cases[] = {
        { "", "", 0 },
        { "vote-threshold=2", "vote-threshold=2", 0 },
        /* The new spelling stays as it is. */
        { "children.0=a", "children.0=a", 1 },
        { "children.0= children.1=null", "children.0= children.1=null", 2 },
        { "children.0.driver=raw children.0.file.filename=/a children.1=b",
          "children.0.driver=raw children.0.file.filename=/a children.1=b",
          2 },
        { "children.0.file=node", "children.0.file=node", 1 },
        /* childrenN is children.N */
        { "children0=a", "children.0=a", 1 },
        { "children0=null", "children.0=null", 1 },
        { "children0= children1=", "children.0= children.1=", 2 },
        { "children0.driver=qcow2 children0.file.filename=/a",
          "children.0.driver=qcow2 children.0.file.filename=/a", 1 },
        { "children0.x.y.z=1", "children.0.x.y.z=1", 1 },
        { "children0.=1", "children.0.=1", 1 },
        { "children10=k", "children.10=k", -EINVAL },
        { "children999=k", "children.999=k", -EINVAL },
        /* childrenN.file is a file name, if it is a string */
        { "children0.file=/a", "children.0.file.filename=/a", 1 },
        { "children0.file=", "children.0.file.filename=", 1 },
        { "children0.file=null", "children.0.file=null", 1 },
        { "children0.filename=/a", "children.0.filename=/a", 1 },
        { "children0.files=/a", "children.0.files=/a", 1 },
        { "children0.x.file=/a", "children.0.x.file=/a", 1 },
        { "children0.file=/a children0.driver=raw",
          "children.0.file.filename=/a children.0.driver=raw", 1 },
        /* Each child in a spelling of its own */
        { "children0.file=/a children.1.file.filename=/b children2=c",
          "children.0.file.filename=/a children.1.file.filename=/b "
          "children.2=c", 3 },
        { "children1.file=/a children.10=c",
          "children.1.file.filename=/a children.10=c", -EINVAL },
        /* No digit, no child */
        { "childrenx=1 child0=1 xchildren0=1 children-1=2 children_0=1",
          "childrenx=1 child0=1 xchildren0=1 children-1=2 children_0=1", 0 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(QDict) options = parse(cases[i].options);

        g_test_message("%s", cases[i].options);
        g_assert_true(quorum_opts_normalise(options, &error_abort));
        assert_options(options, cases[i].normal);
        g_assert_cmpint(quorum_opts_count_children(options, NULL), ==,
                        cases[i].children);

        /* Normal options stay as they are. */
        g_assert_true(quorum_opts_normalise(options, &error_abort));
        assert_options(options, cases[i].normal);
    }
}

#define NO_INDEX(key) "Invalid option '" key "': the index of a child is 0 " \
                      "to 999"
#define NOT_SPELLED(key) "Invalid option '" key "': a child is spelled " \
                         "children.N or childrenN, where N is a number"
#define ZEROS(key) "Invalid option '" key "': the index of a child has no " \
                   "leading zeros"
#define TWICE(key) "Child 0 is given twice, as '" key "' and as 'children.0'"

static void test_normalise_errors(void)
{
    static const struct {
        const char *options;
        const char *error;
    } cases[] = {
        { "children1000=a", NO_INDEX("children1000") },
        { "children1000.file=/a", NO_INDEX("children1000.file") },
        { "children4294967296.file=/a", NO_INDEX("children4294967296.file") },
        { "children18446744073709551616=a",
          NO_INDEX("children18446744073709551616") },
        { "children99999999999999999999999.file=/a",
          NO_INDEX("children99999999999999999999999.file") },
        { "children0x.file=/a", NOT_SPELLED("children0x.file") },
        { "children0x1.file=/a", NOT_SPELLED("children0x1.file") },
        { "children1-file=/a", NOT_SPELLED("children1-file") },
        { "children01x=/a", NOT_SPELLED("children01x") },
        { "children00=a", ZEROS("children00") },
        { "children00.file=/a", ZEROS("children00.file") },
        { "children007.file=/a", ZEROS("children007.file") },
        { "children0=a children.0=a", TWICE("children0") },
        { "children0= children.0=", TWICE("children0") },
        { "children0=null children.0=null", TWICE("children0") },
        { "children0.file=/a children.0=a", TWICE("children0.file") },
        { "children0.file=/a children.0.file.filename=/a",
          TWICE("children0.file") },
        { "children0.driver=raw children.0.file.filename=/a",
          TWICE("children0.driver") },
        { "children0=a children.0.=1", TWICE("children0") },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(QDict) options = parse(cases[i].options);
        g_autoptr(QDict) again = parse(cases[i].options);
        Error *err = NULL;

        g_test_message("%s", cases[i].options);
        g_assert_false(quorum_opts_normalise(options, &err));
        g_assert_cmpstr(error_get_pretty(err), ==, cases[i].error);
        error_free(err);
        g_assert_false(quorum_opts_normalise(again, NULL));
    }
}

/* If a file name is given twice, neither may be dropped without an error. */
static void test_normalise_two_names(void)
{
    g_autoptr(QDict) options =
        parse("children0.file=/a children0.file.filename=/b");
    Error *err = NULL;

    g_assert_false(quorum_opts_normalise(options, &err));
    g_assert_nonnull(err);
    error_free(err);
}

#define ARRAY "Option children is not a valid array: "
#define NOT_INDEXED(key) ARRAY "'" key "' does not have an index from 0 to 999"
#define GAP(has, lacks) ARRAY "there is children." #has ", but no children." \
                        #lacks
#define SINGLE ARRAY "it is a single value; the first child is children.0"
#define BOTH(n) ARRAY "'children." #n "' is given both as a value and with " \
                "options of its own"

static void test_count(void)
{
    static const struct {
        const char *options;
        int children;
        const char *error;
    } cases[] = {
        { "", 0, NULL },
        { "vote-threshold=1 childrenx=1", 0, NULL },
        { "children.0=a", 1, NULL },
        { "children.0.driver=raw children.0.file=b", 1, NULL },
        { "children.0=a children.1.x=b children.2=", 3, NULL },
        { "children.0= children.1=null", 2, NULL },
        /* not a list */
        { "children=foo", -EINVAL, SINGLE },
        { "children=", -EINVAL, SINGLE },
        { "children=foo children.0=a", -EINVAL, SINGLE },
        /* not an index */
        { "children.=1", -EINVAL, NOT_INDEXED("children.") },
        { "children.x=1", -EINVAL, NOT_INDEXED("children.x") },
        { "children.x.file=1", -EINVAL, NOT_INDEXED("children.x.file") },
        { "children.-1=1", -EINVAL, NOT_INDEXED("children.-1") },
        { "children.+1=1", -EINVAL, NOT_INDEXED("children.+1") },
        { "children.0x=1", -EINVAL, NOT_INDEXED("children.0x") },
        { "children.00=1", -EINVAL, NOT_INDEXED("children.00") },
        { "children.01.file=1", -EINVAL, NOT_INDEXED("children.01.file") },
        { "children..0=1", -EINVAL, NOT_INDEXED("children..0") },
        { "children.1000=1", -EINVAL, NOT_INDEXED("children.1000") },
        { "children.4294967296=1", -EINVAL,
          NOT_INDEXED("children.4294967296") },
        { "children.99999999999999999999=1", -EINVAL,
          NOT_INDEXED("children.99999999999999999999") },
        { "children.0=a children.x=1", -EINVAL, NOT_INDEXED("children.x") },
        /* gaps */
        { "children.1=a", -EINVAL, GAP(1, 0) },
        { "children.0=a children.2=b", -EINVAL, GAP(2, 1) },
        { "children.0.x=a children.2.x=b", -EINVAL, GAP(2, 1) },
        { "children.0=a children.1=a children.999.x=b", -EINVAL,
          GAP(999, 2) },
        /* a value and options */
        { "children.0=a children.0.driver=raw", -EINVAL, BOTH(0) },
        { "children.0= children.0.driver=raw", -EINVAL, BOTH(0) },
        { "children.0=a children.1=a children.1.x=raw", -EINVAL, BOTH(1) },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(QDict) options = parse(cases[i].options);
        Error *err = NULL;

        g_test_message("%s", cases[i].options);
        g_assert_cmpint(quorum_opts_count_children(options, &err), ==,
                        cases[i].children);
        if (cases[i].error) {
            g_assert_cmpstr(error_get_pretty(err), ==, cases[i].error);
        } else {
            g_assert_null(err);
        }
        error_free(err);
        /* Counting changes no options; the caller may want no error text. */
        assert_options(options, cases[i].options);
        g_assert_cmpint(quorum_opts_count_children(options, NULL), ==,
                        cases[i].children);
    }
}

/* The largest list there may be, in the old spelling. */
static void test_count_many(void)
{
    g_autoptr(QDict) options = qdict_new();

    for (int i = 0; i < 1000; i++) {
        g_autofree char *key = g_strdup_printf("children%d.file", i);

        qdict_put_str(options, key, "/a");
    }
    g_assert_true(quorum_opts_normalise(options, &error_abort));
    g_assert_cmpint(quorum_opts_count_children(options, &error_abort), ==,
                    1000);
    g_assert_cmpint(qdict_size(options), ==, 1000);
    g_assert_cmpstr(qdict_get_str(options, "children.999.file.filename"), ==,
                    "/a");
}

/* Any options give either success or an error, and no option is lost. */
static void test_random_keys(void)
{
    static const char *const starts[] = {
        "children", "children.", "children.0", "children.1", "children0",
        "children1", "child", "",
    };

    for (int round = 0; round < 50000; round++) {
        g_autoptr(QDict) options = qdict_new();
        int n = g_test_rand_int_range(1, 5);
        Error *err = NULL;
        size_t size;
        bool good;
        int count;

        for (int i = 0; i < n; i++) {
            g_autofree char *end = random_string("012.xf", 5);
            g_autofree char *key =
                g_strconcat(starts[g_test_rand_int_range(
                                       0, ARRAY_SIZE(starts))],
                            g_test_rand_bit() ? end : ".file", NULL);

            if (g_test_rand_bit()) {
                qdict_put_str(options, key, g_test_rand_bit() ? "v" : "");
            } else if (g_test_rand_bit()) {
                qdict_put_null(options, key);
            } else {
                qdict_put_int(options, key, 1);
            }
        }
        size = qdict_size(options);

        good = quorum_opts_normalise(options, &err);
        g_assert_true(good == !err);
        error_free(err);
        err = NULL;
        if (!good) {
            continue;
        }
        g_assert_cmpint(qdict_size(options), ==, size);

        count = quorum_opts_count_children(options, &err);
        g_assert_true((count >= 0) == !err);
        g_assert_true(count >= 0 || count == -EINVAL);
        error_free(err);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/quorum/opts/split", test_split);
    g_test_add_func("/quorum/opts/split/errors", test_split_errors);
    g_test_add_func("/quorum/opts/split/round-trip", test_split_round_trip);
    g_test_add_func("/quorum/opts/split/many", test_split_many);
    g_test_add_func("/quorum/opts/split/random", test_split_random);
    g_test_add_func("/quorum/opts/normalise", test_normalise);
    g_test_add_func("/quorum/opts/normalise/errors", test_normalise_errors);
    g_test_add_func("/quorum/opts/normalise/two-names",
                    test_normalise_two_names);
    g_test_add_func("/quorum/opts/count", test_count);
    g_test_add_func("/quorum/opts/count/many", test_count_many);
    g_test_add_func("/quorum/opts/random-keys", test_random_keys);
    return g_test_run();
}
