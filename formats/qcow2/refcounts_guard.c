/*
 * What must not be allocated, whatever its refcount says: the image's own tables. A refcount of 0
 * where one of them lies shows that the refcounts cannot be trusted: then nothing is changed.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refcounts.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define REPAIR_FIRST "Repair the image with 'check -r all' first."

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

bool refcounts_guarded(const struct refcounts *r, uint64_t first, uint64_t count)
{
    unsigned bits = r->q->geometry.cluster_bits;
    size_t low = 0, high = r->metadata_count;
    while (low < high) { /* the first that does not lie before FIRST */
        size_t middle = low + (high - low) / 2;
        if (r->metadata[middle] < first)
            low = middle + 1;
        else
            high = middle;
    }
    return (low < r->metadata_count && r->metadata[low] < first + count) ||
           qcow2_overlapped(r->q, first << bits, count << bits);
}

/* A block that stands for two ranges would be changed for one and read for the other. */
static int check_twice(const struct refcounts *r, size_t blocks, struct img_error *err)
{
    for (size_t i = 1; i < blocks; i++)
        if (r->metadata[i] == r->metadata[i - 1]) {
            int ret = img_fail(err, EINVAL,
                               "Refcount block %#" PRIx64 " is named twice by the refcount table",
                               r->metadata[i] << r->q->geometry.cluster_bits);
            img_hint(err, REPAIR_FIRST);
            return ret;
        }
    return 0;
}

/* The clusters of L2 tables and refcount blocks. The tables that the header names are elsewhere. */
static int note_metadata(struct refcounts *r, struct img_error *err)
{
    const struct qcow2 *q = r->q;
    size_t most = r->old_entries + (q->l1 ? q->l1_size : 0), n = 0;
    r->metadata = malloc((most + !most) * sizeof *r->metadata);
    if (!r->metadata)
        return img_fail_nomem(err);
    for (uint64_t i = 0; i < r->old_entries; i++)
        if (r->old[i])
            r->metadata[n++] = r->old[i] >> q->geometry.cluster_bits;
    qsort(r->metadata, n, sizeof *r->metadata, compare_u64);
    int ret = check_twice(r, n, err);
    if (ret < 0)
        return ret;
    for (uint32_t i = 0; q->l1 && i < q->l1_size; i++) {
        uint64_t table = load_be64(q->l1 + i * (size_t)8) & L1_OFFSET_MASK;
        if (table)
            r->metadata[n++] = table >> q->geometry.cluster_bits;
    }
    qsort(r->metadata, n, sizeof *r->metadata, compare_u64);
    r->metadata_count = n;
    return 0;
}

static int check_counted(struct refcounts *r, uint64_t cluster, struct img_error *err)
{
    uint64_t value;
    int ret = refcounts_get(r, cluster, &value, err);
    if (ret < 0 || value)
        return ret;
    ret = img_fail(err, EINVAL,
                   "A table lies at offset %#" PRIx64 ", but the refcount of that cluster is 0",
                   cluster << r->q->geometry.cluster_bits);
    img_hint(err, REPAIR_FIRST);
    return ret;
}

/* Blocks that were read on the way are not kept. */
static int check_all_counted(struct refcounts *r, struct img_error *err)
{
    uint64_t per_block = refcounts_per_block(r);
    unsigned bits = r->q->geometry.cluster_bits;
    int ret = 0;
    for (size_t i = 0; i < PLACED_TABLES && !ret; i++) {
        const struct placed_table *p = &r->q->placed[i];
        uint64_t end = div_round_up(p->offset + p->length, r->q->geometry.cluster_size);
        for (uint64_t k = p->offset >> bits; p->length && k < end && !ret; k++)
            ret = check_counted(r, k, err);
    }
    for (size_t i = 0; i < r->metadata_count && !ret; i++) {
        ret = check_counted(r, r->metadata[i], err);
        if (i && r->metadata[i] / per_block != r->metadata[i - 1] / per_block)
            refcounts_forget(r, r->metadata[i - 1] / per_block);
    }
    return ret;
}

int refcounts_guard(struct refcounts *r, struct img_error *err)
{
    int ret = note_metadata(r, err);
    return ret < 0 ? ret : check_all_counted(r, err);
}
