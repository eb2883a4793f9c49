#include "formats/qcow2/write_log.h"
#include "lib/checked.h"

#include <stdlib.h>

enum { LEAF_BITS = 15, LEAF_BYTES = 1 << (LEAF_BITS - 3) };

int write_log_init(struct write_log *log, uint64_t size, unsigned granularity_bits,
                   struct img_error *err)
{
    uint64_t per_leaf = 1ull << (granularity_bits + LEAF_BITS);
    *log = (struct write_log){.granularity_bits = granularity_bits,
                              .leaf_count = div_round_up(size, per_leaf)};
    log->leaves = calloc(log->leaf_count + !log->leaf_count, sizeof *log->leaves);
    return log->leaves ? 0 : img_fail_nomem(err);
}

void write_log_free(struct write_log *log)
{
    for (uint64_t i = 0; log->leaves && i < log->leaf_count; i++)
        free(log->leaves[i]);
    free(log->leaves);
    *log = (struct write_log){0};
}

int write_log_reserve(struct write_log *log, uint64_t offset, uint64_t length,
                      struct img_error *err)
{
    unsigned bits = log->granularity_bits + LEAF_BITS;
    for (uint64_t i = offset >> bits; length && i <= (offset + length - 1) >> bits; i++) {
        if (!log->leaves[i])
            log->leaves[i] = calloc(1, LEAF_BYTES);
        if (!log->leaves[i])
            return img_fail_nomem(err);
    }
    return 0;
}

/* Calls of one leaf: bits FROM to LAST of it. */
static bool leaf_any(const uint8_t *leaf, uint32_t from, uint32_t last)
{
    for (uint32_t i = from; leaf && i <= last; i++) {
        if (!(i & 7) && last - i >= 7 && !leaf[i / 8]) {
            i += 7;
            continue;
        }
        if (leaf[i / 8] >> (i & 7) & 1)
            return true;
    }
    return false;
}

static void leaf_set(uint8_t *leaf, uint32_t from, uint32_t last)
{
    for (uint32_t i = from; i <= last; i++) {
        if (!(i & 7) && last - i >= 7) {
            leaf[i / 8] = 0xff;
            i += 7;
            continue;
        }
        leaf[i / 8] |= (uint8_t)(1 << (i & 7));
    }
}

/* The part of a range, given in bits, that lies in the leaf of its first bit. */
static uint64_t in_leaf(uint64_t first, uint64_t last, uint32_t *from, uint32_t *to)
{
    uint64_t leaf = first >> LEAF_BITS, end = ((leaf + 1) << LEAF_BITS) - 1;
    const uint32_t mask = (1u << LEAF_BITS) - 1;
    *from = (uint32_t)first & mask;
    *to = (uint32_t)min_u64(last, end) & mask;
    return leaf;
}

void write_log_note(struct write_log *log, uint64_t offset, uint64_t length)
{
    if (!length)
        return;
    uint64_t first = offset >> log->granularity_bits;
    uint64_t last = (offset + length - 1) >> log->granularity_bits;
    while (first <= last) {
        uint32_t from, to;
        uint64_t leaf = in_leaf(first, last, &from, &to);
        leaf_set(log->leaves[leaf], from, to);
        first = (leaf + 1) << LEAF_BITS;
    }
}

bool write_log_any(const struct write_log *log, uint64_t offset, uint64_t length)
{
    if (!length)
        return false;
    uint64_t first = offset >> log->granularity_bits;
    uint64_t last = (offset + length - 1) >> log->granularity_bits;
    while (first <= last) {
        uint32_t from, to;
        uint64_t leaf = in_leaf(first, last, &from, &to);
        if (leaf < log->leaf_count && leaf_any(log->leaves[leaf], from, to))
            return true;
        first = (leaf + 1) << LEAF_BITS;
    }
    return false;
}
