/*
 * Refcounts, as far as a reader needs them: to tell whether data clusters were only reserved.
 *
 * The file then has many more clusters in use than the host has allocated. The rule (how many more)
 * is QEMU's, so that map answers alike: at least a ninth more, and two.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <stdlib.h>

/* Non-zero refcounts among the first N of DATA. */
static uint64_t count_in_use(const uint8_t *data, uint64_t n, unsigned order)
{
    uint64_t count = 0;
    if (order >= 3) {
        size_t width = (size_t)1 << (order - 3);
        for (uint64_t i = 0; i < n; i++) {
            uint8_t any = 0;
            for (size_t j = 0; j < width; j++)
                any |= data[i * width + j];
            count += any != 0;
        }
        return count;
    }
    unsigned bits = 1u << order;
    uint8_t mask = (uint8_t)((1u << bits) - 1);
    for (uint64_t i = 0; i < n; i++)
        count += (data[i * bits / 8] >> (i * bits % 8) & mask) != 0;
    return count;
}

/* Adds the clusters in use of the block at OFFSET, which stands for the next *LEFT clusters at
 * most. */
static bool count_block(struct qcow2 *q, uint64_t offset, uint64_t *left, uint64_t *count,
                        uint8_t *buf)
{
    unsigned order = q->header.refcount_order;
    uint64_t per_block = q->geometry.cluster_size * 8ull >> order;
    uint64_t n = min_u64(per_block, *left);
    *left -= n;
    if (!offset)
        return true;
    if (!is_aligned(offset, q->geometry.cluster_size) || (offset & REFTABLE_RESERVED_MASK))
        return false;
    size_t bytes = (size_t)(((n << order) + 7) / 8);
    if (file_read(q->file, buf, bytes, host(offset), NULL) < 0)
        return false;
    *count += count_in_use(buf, n, order);
    return true;
}

/* 1, 0, or -1: could not be found out this time. */
static int detect(struct qcow2 *q)
{
    int64_t allocated = q->file->ops->allocated(q->file);
    uint64_t size, count = 0;
    if (allocated < 0)
        return 0;
    if (file_size(q->file, &size, NULL) < 0)
        return -1;
    uint32_t cluster = q->geometry.cluster_size;
    uint64_t real = (uint64_t)allocated / cluster;
    uint64_t threshold = max_u64(real * 10 / 9, real + 2);
    uint64_t left = div_round_up(align_up(size, 512), cluster);
    uint64_t entries = ((uint64_t)q->header.reftable_clusters << q->header.cluster_bits) / 8;
    if (left < threshold)
        return 0;

    uint8_t *buf = malloc(cluster), table[4096];
    bool ok = buf != NULL;
    for (uint64_t i = 0; ok && i < entries && left && count < threshold; i++) {
        size_t at = (size_t)(i * 8 % sizeof table);
        if (!at)
            ok = file_read_padded(q->file, table, sizeof table,
                                  host(q->header.reftable_offset + i * 8), NULL) == 0;
        ok = ok && count_block(q, load_be64(table + at), &left, &count, buf);
    }
    free(buf);
    return ok ? count >= threshold : -1;
}

bool qcow2_data_has_holes(struct layer *l)
{
    struct qcow2 *q = l->state;
    int known = atomic_load(&q->data_has_holes);
    if (known < 0) {
        known = detect(q);
        atomic_store(&q->data_has_holes, known);
    }
    return known > 0; /* not known: all data is called data, which is never wrong */
}
