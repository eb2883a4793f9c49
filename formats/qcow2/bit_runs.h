/* Arrays of bits as a bitmap has them: bit N is bit N % 8 of byte N / 8. */
#ifndef QCOW2_BIT_RUNS_H
#define QCOW2_BIT_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sets the bits [FROM, TO), which are not none. */
static inline void bits_set(uint8_t *p, uint64_t from, uint64_t to)
{
    uint64_t first = from / 8, last = (to - 1) / 8;
    uint8_t head = (uint8_t)(0xff << from % 8), tail = (uint8_t)(0xff >> (7 - (to - 1) % 8));
    if (first == last) {
        p[first] |= head & tail;
        return;
    }
    p[first] |= head;
    memset(p + first + 1, 0xff, last - first - 1);
    p[last] |= tail;
}

/* Clears the bits from FROM on, up to the end of LEN bytes. */
static inline void bits_cut(uint8_t *p, uint64_t from, size_t len)
{
    size_t at = from / 8;
    if (at >= len)
        return;
    p[at] &= (uint8_t) ~(0xff << from % 8);
    memset(p + at + 1, 0, len - at - 1);
}

/* Are all of LEN bytes BYTE? */
static inline bool bytes_are(const uint8_t *p, size_t len, uint8_t byte)
{
    return !len || (p[0] == byte && !memcmp(p, p + 1, len - 1));
}

/* The first bit in [FROM, END) that is VALUE; END when none is. */
static inline uint64_t bits_find(const uint8_t *p, uint64_t from, uint64_t end, bool value)
{
    uint64_t word, other = value ? 0 : UINT64_MAX;
    while (from < end) {
        if (from % 8 == 0 && end - from >= 64) {
            memcpy(&word, p + from / 8, sizeof word);
            if (word == other) {
                from += 64;
                continue;
            }
        }
        if (from % 8 == 0 && end - from >= 8 && p[from / 8] == (uint8_t)other)
            from += 8;
        else if ((p[from / 8] >> from % 8 & 1) == value)
            return from;
        else
            from++;
    }
    return end;
}

#endif
