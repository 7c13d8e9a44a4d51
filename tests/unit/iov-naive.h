/*
 * Comparing vectors, byte by byte
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef IOV_NAIVE_H
#define IOV_NAIVE_H

/* What qemu_iovec_compare() is to return for vectors that hold @a and @b. */
static inline ssize_t naive_compare(const uint8_t *a, size_t a_size,
                                    const uint8_t *b, size_t b_size)
{
    for (size_t i = 0; i < MIN(a_size, b_size); i++) {
        if (a[i] != b[i]) {
            return i;
        }
    }
    return a_size == b_size ? -1 : MIN(a_size, b_size);
}

#endif /* IOV_NAIVE_H */
