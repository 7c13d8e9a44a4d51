/*
 * How fast are two equal vectors compared?  tools/bench/bench.py builds this once
 * against our tree and once against pristine QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"

int main(void)
{
    enum { SIZE = 1024 * 1024, ROUNDS = 500 };
    uint8_t *a = g_malloc0(SIZE);
    uint8_t *b = g_malloc0(SIZE);
    QEMUIOVector qa, qb;
    int64_t start;

    qemu_iovec_init(&qa, 256);
    qemu_iovec_init(&qb, 256);
    for (size_t i = 0; i < SIZE; i += 4096) {
        qemu_iovec_add(&qa, a + i, 4096);
        qemu_iovec_add(&qb, b + i, 4096);
    }
    b[SIZE - 1] = 1;

    start = g_get_monotonic_time();
    for (int i = 0; i < ROUNDS; i++) {
        g_assert_cmpint(qemu_iovec_compare(&qa, &qb), ==, SIZE - 1);
    }
    printf("completed in %f seconds\n", (g_get_monotonic_time() - start) / 1e6);
    return 0;
}
