#include "formats/qcow2/build.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refword.h"
#include "lib/checked.h"

#include <stdlib.h>
#include <string.h>

static bool bit(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] >> (i % 8) & 1;
}

static uint64_t per_block(const struct qcow2_layout *l)
{
    return 8ull << l->cluster_bits >> l->refcount_order;
}

static uint64_t place(const struct build_refs *r, uint64_t index)
{
    uint64_t i = index < r->skip_from ? index : index - r->skip;
    return r->layout->refblocks_offset + (i << r->layout->cluster_bits);
}

int build_refs_init(struct build_refs *r, const struct qcow2_layout *l, struct file *f,
                    struct img_error *err)
{
    *r = (struct build_refs){.layout = l, .file = f, .index = UINT64_MAX};
    r->block = malloc((size_t)1 << l->cluster_bits);
    r->stored = calloc(1, l->refblocks / 8 + 1);
    return r->block && r->stored ? 0 : img_fail_nomem(err);
}

void build_refs_skip(struct build_refs *r, uint64_t first, uint64_t count)
{
    r->skip_from = first;
    r->skip = count;
}

void build_refs_free(struct build_refs *r)
{
    free(r->block);
    free(r->stored);
}

static int store(struct build_refs *r, struct img_error *err)
{
    if (!r->dirty)
        return 0;
    r->dirty = false;
    return build_write(r->file, r->block, (size_t)1 << r->layout->cluster_bits, place(r, r->index),
                       err);
}

static int load(struct build_refs *r, uint64_t index, struct img_error *err)
{
    if (r->index == index)
        return 0;
    int ret = store(r, err);
    if (ret < 0)
        return ret;
    size_t size = (size_t)1 << r->layout->cluster_bits;
    r->index = index;
    if (bit(r->stored, index))
        return file_read_padded(r->file, r->block, size, host(place(r, index)), err);
    memset(r->block, 0, size);
    r->stored[index / 8] |= (uint8_t)(1u << (index % 8));
    return 0;
}

int build_refs_fill(struct build_refs *r, uint64_t first, uint64_t count, struct img_error *err)
{
    unsigned order = r->layout->refcount_order;
    uint64_t per = per_block(r->layout);
    while (count) {
        uint64_t at = first % per, n = min_u64(count, per - at);
        int ret = load(r, first / per, err);
        if (ret < 0)
            return ret;
        for (uint64_t i = at; i < at + n; i++)
            refword_set(r->block, i, order, 1);
        r->dirty = true;
        first += n;
        count -= n;
    }
    return 0;
}

int build_refs_add(struct build_refs *r, uint64_t cluster, bool *full, struct img_error *err)
{
    unsigned order = r->layout->refcount_order;
    uint64_t per = per_block(r->layout), at = cluster % per;
    int ret = load(r, cluster / per, err);
    if (ret < 0)
        return ret;
    uint64_t value = refword_get(r->block, at, order) + 1;
    refword_set(r->block, at, order, value);
    r->dirty = true;
    *full = value == refword_max(order);
    return 0;
}

/* Blocks that only came to be since they count other blocks are counted, too. */
static int count_blocks(struct build_refs *r, struct img_error *err)
{
    unsigned bits = r->layout->cluster_bits;
    uint64_t count = r->layout->refblocks;
    uint8_t *counted = calloc(1, count / 8 + 1);
    bool more = true;
    int ret = counted ? 0 : img_fail_nomem(err);
    while (!ret && more) {
        more = false;
        for (uint64_t i = 0; i < count && !ret; i++) {
            if (!bit(r->stored, i) || bit(counted, i))
                continue;
            counted[i / 8] |= (uint8_t)(1u << (i % 8));
            ret = build_refs_fill(r, place(r, i) >> bits, 1, err);
            more = true;
        }
    }
    free(counted);
    return ret;
}

static int write_table(struct build_refs *r, struct img_error *err)
{
    const struct qcow2_layout *l = r->layout;
    size_t length = (size_t)(l->reftable_clusters << l->cluster_bits);
    uint8_t *table = calloc(1, length);
    if (!table)
        return img_fail_nomem(err);
    for (uint64_t i = 0; i < l->refblocks; i++)
        if (bit(r->stored, i))
            store_be64(table + i * 8, place(r, i));
    int ret = build_write(r->file, table, length, l->reftable_offset, err);
    free(table);
    return ret;
}

int build_refs_finish(struct build_refs *r, struct img_error *err)
{
    int ret = count_blocks(r, err);
    if (!ret)
        ret = store(r, err);
    return ret < 0 ? ret : write_table(r, err);
}
