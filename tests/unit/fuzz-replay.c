/*
 * Fuzzing: run the corpus of a harness as a unit test
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * An input is written in hexadecimal digits, on a line and on those after it
 * that begin with a space.  From a '#' on, the rest of a line is a comment.
 */

#include "qemu/osdep.h"
#include "qemu/ctype.h"
#include "fuzz.h"

static void try_input(GByteArray *input)
{
    /* As large as the input, so that reading beyond it is noticed. */
    g_autofree uint8_t *data = g_memdup2(input->data, input->len);

    if (input->len) {
        LLVMFuzzerTestOneInput(data, input->len);
        g_byte_array_set_size(input, 0);
    }
}

static void add_line(GByteArray *input, const char *line)
{
    for (const char *c = line; *c && *c != '#'; c++) {
        uint8_t byte;

        if (qemu_isspace(*c)) {
            continue;
        }
        g_assert_true(qemu_isxdigit(c[0]) && qemu_isxdigit(c[1]));
        byte = g_ascii_xdigit_value(c[0]) << 4 | g_ascii_xdigit_value(c[1]);
        g_byte_array_append(input, &byte, 1);
        c++;
    }
}

static void test_corpus(const void *opaque)
{
    g_autofree char *corpus = g_strconcat(opaque, ".corpus", NULL);
    g_autofree char *path = g_test_build_filename(G_TEST_DIST, corpus, NULL);
    g_autoptr(GByteArray) input = g_byte_array_new();
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (!qemu_isspace(**line)) {
            try_input(input);
        }
        g_test_message("%s", *line);
        add_line(input, *line);
    }
    try_input(input);
}

int main(int argc, char **argv)
{
    g_autofree char *name = g_path_get_basename(argv[0]);
    g_autofree char *path = g_strdup_printf("/%s/corpus", name);

    g_test_init(&argc, &argv, NULL);
    LLVMFuzzerInitialize(&argc, &argv);
    g_test_add_data_func(path, name, test_corpus);
    return g_test_run();
}
