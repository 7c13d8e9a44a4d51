/*
 * Fuzzing: qemu_iovec_compare() and qemu_iovec_equals_bufs()
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The input is the length of two vectors, where they differ, and how each of
 * them is cut into elements.
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "fuzz.h"
#include "iov-naive.h"

#define MAX_SIZE 16384
#define MAX_ELEMENTS 64

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

static size_t fuzz_size(FuzzInput *in, size_t max)
{
    int high = fuzz_byte(in);

    return (high << 8 | fuzz_byte(in)) % (max + 1);
}

/* Each element is an allocation of its own: no byte too many may be read. */
static void cut(QEMUIOVector *qiov, const uint8_t *data, size_t size,
                FuzzInput *in)
{
    qemu_iovec_init(qiov, 1);
    while (qiov->size < size) {
        size_t rest = size - qiov->size;
        size_t len = rest;

        if (in->left && qiov->niov < MAX_ELEMENTS) {
            /* short ones more often than long ones */
            len = fuzz_byte(in);
            len = MIN(rest, len < 200 ? len : fuzz_size(in, MAX_SIZE));
        }
        qemu_iovec_add(qiov, len ? g_memdup2(data + qiov->size, len) : NULL,
                       len);
    }
}

static void uncut(QEMUIOVector *qiov)
{
    for (int i = 0; i < qiov->niov; i++) {
        g_free(qiov->iov[i].iov_base);
    }
    qemu_iovec_destroy(qiov);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    size_t a_size = fuzz_size(&in, MAX_SIZE);
    size_t b_size = fuzz_byte(&in) % 2 ? a_size : fuzz_size(&in, MAX_SIZE);
    g_autofree uint8_t *a = g_malloc(a_size);
    g_autofree uint8_t *b = g_malloc(b_size);
    QEMUIOVector qa, qb;
    ssize_t expected;

    for (size_t i = 0; i < a_size; i++) {
        a[i] = i * 7;
    }
    for (size_t i = 0; i < b_size; i++) {
        b[i] = i * 7;
    }
    for (int n = fuzz_below(&in, 4); n > 0 && b_size; n--) {
        b[fuzz_size(&in, b_size - 1)]++;
    }
    expected = naive_compare(a, a_size, b, b_size);

    cut(&qa, a, a_size, &in);
    cut(&qb, b, b_size, &in);
    g_assert_cmpint(qemu_iovec_compare(&qa, &qb), ==, expected);
    g_assert_cmpint(qemu_iovec_compare(&qb, &qa), ==, expected);
    if (a_size == b_size) {
        void *bufs[] = { a, b };

        g_assert_true(qemu_iovec_equals_bufs(&qa, bufs, 2) == (expected < 0));
        g_assert_true(qemu_iovec_equals_bufs(&qb, bufs, 2) == (expected < 0));
    }
    uncut(&qa);
    uncut(&qb);
    return 0;
}
