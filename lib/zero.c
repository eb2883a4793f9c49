/*
 * Each path looks at the first bytes alone, which settles most data that is not zero; then at
 * strides of several vectors, or-ed together, with one branch a stride. What is left at the end,
 * less than a stride, is covered by vectors that overlap what was looked at already.
 */
#include "lib/zero.h"
#include "lib/checked.h"

#include <stdint.h>
#include <string.h>

enum { HEAD = 16 };

/* ---- plain C -------------------------------------------------------------------------------- */

/* At most HEAD bytes, as all paths begin. */
static inline bool zero_head(const uint8_t *p, size_t length)
{
    uint64_t a = 0, b = 0;
    if (length >= 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + length - 8, 8);
        return !(a | b);
    }
    for (size_t i = 0; i < length; i++)
        a |= p[i];
    return !a;
}

static bool zero_plain(const void *data, size_t length)
{
    enum { STRIDE = 64 };
    const uint8_t *p = data, *end = p + length;
    if (!zero_head(p, length < HEAD ? length : HEAD))
        return false;
    for (; (size_t)(end - p) >= STRIDE; p += STRIDE) {
        uint64_t w[STRIDE / 8], any = 0;
        memcpy(w, p, STRIDE);
        for (size_t i = 0; i < STRIDE / 8; i++)
            any |= w[i];
        if (any)
            return false;
    }
    for (; (size_t)(end - p) >= HEAD; p += HEAD)
        if (!zero_head(p, HEAD))
            return false;
    return zero_head(p, (size_t)(end - p));
}

/*
 * The same with vectors. LOAD gives a vector, OR joins two, ANY says whether one has a bit set; the
 * rest after whole strides is the last stride of the data, seen again in part.
 */
#define ZERO_VECTORS(name, attributes, vector, load, or, any)                                      \
    attributes static bool name(const void *data, size_t length)                                   \
    {                                                                                              \
        enum { WIDTH = sizeof(vector), STRIDE = 8 * WIDTH };                                       \
        const uint8_t *p = data, *end = p + length;                                                \
        if (length < STRIDE)                                                                       \
            return zero_plain(data, length);                                                       \
        if (!zero_head(p, HEAD))                                                                   \
            return false;                                                                          \
        for (;; p += STRIDE) {                                                                     \
            if (end - p < STRIDE)                                                                  \
                p = end - STRIDE;                                                                  \
            vector a = or (load(p), load(p + WIDTH));                                              \
            vector b = or (load(p + 2 * WIDTH), load(p + 3 * WIDTH));                              \
            vector c = or (load(p + 4 * WIDTH), load(p + 5 * WIDTH));                              \
            vector d = or (load(p + 6 * WIDTH), load(p + 7 * WIDTH));                              \
            a = or (or (a, b), or (c, d));                                                         \
            if (any(a))                                                                            \
                return false;                                                                      \
            if (end - p == STRIDE)                                                                 \
                return true;                                                                       \
        }                                                                                          \
    }

/* ---- x86-64 --------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#include <immintrin.h>

/* Every x86-64 has SSE2. */
#define SSE2_LOAD(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define SSE2_ANY(v)  (_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128())) != 0xffff)
ZERO_VECTORS(zero_sse2, , __m128i, SSE2_LOAD, _mm_or_si128, SSE2_ANY)

#define AVX2_LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define AVX2_ANY(v)  (!_mm256_testz_si256(v, v))
ZERO_VECTORS(zero_avx2, __attribute__((target("avx2"))), __m256i, AVX2_LOAD, _mm256_or_si256,
             AVX2_ANY)

zero_all_fn *zero_path(enum zero_path path)
{
    switch (path) {
    case ZERO_AVX2:
        return __builtin_cpu_supports("avx2") ? zero_avx2 : NULL;
    case ZERO_SSE2:
        return zero_sse2;
    default:
        return path == ZERO_PLAIN ? zero_plain : NULL;
    }
}

/* ---- arm64 ---------------------------------------------------------------------------------- */

#elif defined(__aarch64__)
#include <arm_neon.h>

/* Every arm64 processor that runs Linux has it: there is nothing to ask. */
#define NEON_ANY(v) (vmaxvq_u8(v) != 0)
ZERO_VECTORS(zero_neon, , uint8x16_t, vld1q_u8, vorrq_u8, NEON_ANY)

zero_all_fn *zero_path(enum zero_path path)
{
    return path == ZERO_NEON ? zero_neon : path == ZERO_PLAIN ? zero_plain : NULL;
}

/* ---- elsewhere ------------------------------------------------------------------------------ */

#else

zero_all_fn *zero_path(enum zero_path path)
{
    return path == ZERO_PLAIN ? zero_plain : NULL;
}

#endif

/* What the processor has is asked for anew each time: a load and a test, and no global to write. */
static zero_all_fn *best_path(void)
{
    zero_all_fn *fn = NULL;
    for (unsigned path = 0; !fn; path++)
        fn = zero_path((enum zero_path)path);
    return fn;
}

bool zero_all(const void *data, size_t length)
{
    return best_path()(data, length);
}

size_t zero_run(const void *data, size_t length, size_t block, bool *zero)
{
    zero_all_fn *all = best_path();
    const uint8_t *p = data;
    size_t at = (size_t)min_u64(block, length);
    *zero = all(p, at);
    while (at < length) {
        size_t n = (size_t)min_u64(block, length - at);
        if (all(p + at, n) != *zero)
            break;
        at += n;
    }
    return at;
}
