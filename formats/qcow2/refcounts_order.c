/*
 * Another width of refcounts: every block is made anew in memory, the old ones are released, and
 * the transaction then treats what was made as blocks that changed.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refcounts.h"
#include "formats/qcow2/refword.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What replaces the blocks of a struct refcounts. */
struct widened {
    unsigned order;
    uint64_t per_block, entries, changed_count;
    struct refblock **blocks;
    uint64_t *changed;
};

static void widened_free(struct widened *w)
{
    for (uint64_t i = 0; i < w->changed_count; i++) {
        struct refblock *b = w->blocks[w->changed[i]];
        free(b->data);
        free(b->old_used);
        free(b);
    }
    free(w->blocks);
    free(w->changed);
}

static int widened_init(struct widened *w, const struct refcounts *r, unsigned order,
                        struct img_error *err)
{
    uint64_t old_per_block = r->q->geometry.cluster_size * 8ull >> r->old_order;
    *w = (struct widened){.order = order, .per_block = r->q->geometry.cluster_size * 8ull >> order};
    w->entries = min_u64(div_round_up(r->old_entries * old_per_block, w->per_block),
                         MAX_REFTABLE_BYTES / 8);
    w->blocks = calloc(w->entries, sizeof(struct refblock *));
    w->changed = calloc(w->entries, sizeof *w->changed);
    return w->blocks && w->changed ? 0 : img_fail_nomem(err);
}

/* The block of INDEX, empty on first use. */
static int block_for(struct widened *w, const struct refcounts *r, uint64_t index,
                     struct refblock **out, struct img_error *err)
{
    if (index >= w->entries)
        return img_fail(err, ENOTSUP,
                        "This operation would make the refcount table grow beyond the maximum "
                        "size supported by QEMU, aborting");
    *out = w->blocks[index];
    if (*out)
        return 0;
    struct refblock *b = calloc(1, sizeof *b);
    uint8_t *data = calloc(1, r->q->geometry.cluster_size);
    uint8_t *used = calloc(1, (w->per_block + 7) / 8);
    if (!b || !data || !used) {
        free(b);
        free(data);
        free(used);
        return img_fail_nomem(err);
    }
    *b = (struct refblock){.data = data, .old_used = used};
    w->blocks[index] = *out = b;
    w->changed[w->changed_count++] = index;
    return 0;
}

static int take_over(struct widened *w, const struct refcounts *r, uint64_t cluster, uint64_t value,
                     struct img_error *err)
{
    struct refblock *b;
    uint64_t at = cluster % w->per_block;
    if (value > refword_max(w->order))
        return img_fail(err, EINVAL,
                        "Cannot decrease refcount entry width to %u bits: Cluster at offset "
                        "%#" PRIx64 " has a refcount of %" PRIu64,
                        1u << w->order, cluster << r->q->geometry.cluster_bits, value);
    int ret = block_for(w, r, cluster / w->per_block, &b, err);
    if (ret < 0)
        return ret;
    refword_set(b->data, at, w->order, value);
    b->old_used[at / 8] |= (uint8_t)(1 << at % 8);
    return 0;
}

/* All refcounts of the old block INDEX. */
static int convert(struct widened *w, const struct refcounts *r, uint64_t index, uint8_t *data,
                   struct img_error *err)
{
    uint64_t n = r->q->geometry.cluster_size * 8ull >> r->old_order;
    int ret = file_read_padded(r->q->file, data, r->q->geometry.cluster_size, host(r->old[index]),
                               err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read refcount block: ");
    for (uint64_t i = 0; i < n && !ret; i++) {
        uint64_t value = refword_get(data, i, r->old_order);
        if (value)
            ret = take_over(w, r, index * n + i, value, err);
    }
    return ret;
}

static int convert_all(struct widened *w, const struct refcounts *r, refcounts_progress fn,
                       void *opaque, struct img_error *err)
{
    uint8_t *data = malloc(r->q->geometry.cluster_size);
    int ret = data ? 0 : img_fail_nomem(err);
    /* QEMU goes over the table three times: these are the numbers that people know */
    uint64_t n = r->old_entries;
    for (uint64_t i = 0; i < n && !ret; i++) {
        for (uint64_t k = 0; k < 3; k++)
            fn(opaque, 3 * i + k, 3 * n);
        if (r->old[i])
            ret = convert(w, r, i, data, err);
    }
    fn(opaque, 3 * n, 3 * n);
    free(data);
    return ret;
}

/* The new blocks in the place of those that were read. */
static int exchange(struct refcounts *r, struct widened *w, struct img_error *err)
{
    uint64_t old_entries = r->old_entries;
    for (uint64_t i = 0; i < r->entries; i++) {
        if (!r->blocks[i])
            continue;
        free(r->blocks[i]->data);
        free(r->blocks[i]);
    }
    free(r->blocks);
    free(r->changed);
    r->blocks = w->blocks;
    r->changed = w->changed;
    r->entries = w->entries;
    r->changed_count = w->changed_count;
    r->order = w->order;
    *w = (struct widened){0};
    r->old_entries = 0; /* no old block is named any more */
    int ret = 0;
    for (uint64_t i = 0; i < old_entries && !ret; i++)
        if (r->old[i])
            ret = refcounts_add(r, r->old[i] >> r->q->geometry.cluster_bits, 1, -1, err);
    return ret;
}

int refcounts_change_order(struct refcounts *r, unsigned order, refcounts_progress fn, void *opaque,
                           struct img_error *err)
{
    struct widened w;
    int ret = widened_init(&w, r, order, err);
    if (!ret)
        ret = convert_all(&w, r, fn, opaque, err);
    if (!ret)
        ret = exchange(r, &w, err);
    widened_free(&w);
    return ret;
}
