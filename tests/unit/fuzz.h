/*
 * Fuzzing: what a harness has
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A harness, fuzz-NAME.c, is linked with libFuzzer if QEMU is configured with
 * --enable-fuzzing.  Otherwise it is a unit test, made by fuzz-replay.c, of the
 * inputs in fuzz-NAME.corpus: what libFuzzer found to be worth keeping, and
 * what it once found to be wrong.
 */

#ifndef FUZZ_H
#define FUZZ_H

/* Once, before the first input.  Returns 0. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Try @data.  It is not wrong if this returns; that is always 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Input that is taken apart from its beginning; 0 when it is used up */
typedef struct FuzzInput {
    const uint8_t *data;
    size_t left;
} FuzzInput;

static inline uint8_t fuzz_byte(FuzzInput *in)
{
    if (!in->left) {
        return 0;
    }
    in->left--;
    return *in->data++;
}

/* A number, 0 to @bound - 1, which is 256 or less */
static inline int fuzz_below(FuzzInput *in, int bound)
{
    return fuzz_byte(in) % bound;
}

/* Change up to 16 bytes of one of the @n pages. */
static inline void fuzz_change_page(FuzzInput *in, uint8_t (*pages)[4096],
                                    int n)
{
    uint8_t what = fuzz_byte(in);
    int offset = (what & 15) << 8 | fuzz_byte(in);
    int count = 1 + fuzz_below(in, 16);
    uint8_t *page = pages[(what >> 4) % n];

    while (count-- && offset < 4096) {
        page[offset++] = fuzz_byte(in);
    }
}

#endif /* FUZZ_H */
