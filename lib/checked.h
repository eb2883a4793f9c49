/* Sums, rounding and alignment that cannot overflow unnoticed. */
#ifndef LIB_CHECKED_H
#define LIB_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
    return __builtin_add_overflow(a, b, sum);
}

/* ALIGN is a power of two in all of these. */
static inline bool is_aligned(uint64_t v, uint64_t align)
{
    return (v & (align - 1)) == 0;
}

static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

/* Saturates at the largest aligned value. */
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    uint64_t sum;
    return add_overflows(v, align - 1, &sum) ? align_down(UINT64_MAX, align)
                                             : align_down(sum, align);
}

static inline uint64_t div_round_up(uint64_t v, uint64_t by)
{
    return v / by + (v % by != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Do [a, a + alen) and [b, b + blen) share a byte? The ends must not overflow. */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return a < b + blen && b < a + alen;
}

#endif
