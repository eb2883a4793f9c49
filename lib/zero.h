/* Looking for zeroes in data, with the widest vectors that the processor has. */
#ifndef LIB_ZERO_H
#define LIB_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Are all LENGTH bytes zero? Of most data that is not, only the first few are looked at. */
bool zero_all(const void *data, size_t length);

/*
 * How many bytes from the front of DATA are of one sort: blocks that are zero as a whole (*ZERO),
 * or blocks of which none is. Blocks are BLOCK bytes long and counted from DATA on; the last may be
 * shorter. LENGTH and BLOCK are at least 1.
 *
 * Where DATA begins at a multiple of BLOCK, this is how qemu-img splits what it copies: stretches
 * of data are rounded outwards to its alignment, stretches of zeroes inwards.
 */
size_t zero_run(const void *data, size_t length, size_t block, bool *zero);

/* The ways of zero_all, the first that a machine has is its best; for tests, which try each. */
enum zero_path { ZERO_AVX2, ZERO_SSE2, ZERO_NEON, ZERO_PLAIN, ZERO_PATHS };

/* NULL: not on this machine. */
typedef bool zero_all_fn(const void *data, size_t length);
zero_all_fn *zero_path(enum zero_path path);

#endif
