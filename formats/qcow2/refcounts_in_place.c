/*
 * Refcounts under guest writes.
 *
 * A refcount block changes where it is: until the entries that use the new clusters are written,
 * an increment is a leak at worst. A block that does not exist yet lies among the clusters that it
 * counts, so that once the refcount table names it, it counts itself. A refcount table that has
 * become too short is replaced by a longer one, which one write of the header makes the file's.
 */
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refcounts.h"
#include "formats/qcow2/refword.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Where block INDEX is in the file, or will be; 0: nowhere. */
static uint64_t place_of(const struct refcounts *r, uint64_t index)
{
    if (index < r->old_entries && r->old[index])
        return r->old[index];
    return index < r->entries && r->blocks[index] ? r->blocks[index]->place : 0;
}

/* The blocks for a longer table must not need more than the largest one can name. */
static bool beyond_reach(const struct refcounts *r, uint64_t cluster)
{
    return cluster > L2_OFFSET_MASK >> r->q->geometry.cluster_bits;
}

/*
 * Makes a block where there is none. Its place is the first cluster it counts that nothing holds;
 * without any, it stays without a place, and none of its clusters is free.
 */
static int make_block(struct refcounts *r, uint64_t index, struct img_error *err)
{
    struct refblock *b;
    uint64_t n = refcounts_per_block(r);
    if (place_of(r, index))
        return 0;
    int ret = refcounts_load(r, index, &b, err);
    for (uint64_t i = 0; !ret && i < n && !b->place; i++) {
        uint64_t cluster = index * n + i;
        if (refcounts_guarded(r, cluster, 1))
            continue;
        ret = refcounts_change(r, index, b, 0, n, err); /* all of it is to be written */
        if (ret < 0)
            break;
        refword_set(b->data, i, r->order, 1);
        b->place = cluster << r->q->geometry.cluster_bits;
        r->unpublished++;
        r->end = max_u64(r->end, cluster + 1);
    }
    return ret;
}

static int can_take(struct refcounts *r, uint64_t cluster, bool *out, struct img_error *err)
{
    *out = false;
    if (beyond_reach(r, cluster))
        return img_fail(err, EFBIG, "The image file cannot grow any further");
    int ret = make_block(r, cluster / refcounts_per_block(r), err);
    return ret < 0 ? ret : refcounts_is_free(r, cluster, out, err);
}

int refcounts_take(struct refcounts *r, uint64_t max, uint64_t *first, uint64_t *count,
                   struct img_error *err)
{
    uint64_t at = r->cursor, n = 0;
    while (n < max) {
        bool unused;
        int ret = can_take(r, at, &unused, n ? NULL : err);
        if (ret < 0 && !n)
            return ret;
        if (ret < 0 || (n && !unused))
            break;
        at++;
        n += unused;
    }
    int ret = refcounts_add(r, at - n, n, 1, err);
    if (ret < 0)
        return ret;
    *first = at - n;
    *count = n;
    r->cursor = at;
    r->end = max_u64(r->end, at);
    return 0;
}

/* Exactly COUNT side by side. */
static int take_run(struct refcounts *r, uint64_t count, uint64_t *first, struct img_error *err)
{
    uint64_t run = 0, at = r->cursor;
    for (; run < count; at++) {
        bool unused;
        int ret = can_take(r, at, &unused, err);
        if (ret < 0)
            return ret;
        run = unused ? run + 1 : 0;
    }
    *first = at - count;
    r->end = max_u64(r->end, at);
    return refcounts_add(r, *first, count, 1, err);
}

int refcounts_drop(struct refcounts *r, uint64_t first, uint64_t count, struct img_error *err)
{
    int ret = 0;
    for (uint64_t i = first; i < first + count; i++) { /* one that is broken keeps none of them */
        int one = refcounts_add(r, i, 1, -1, ret ? NULL : err);
        ret = ret ? ret : one;
    }
    r->cursor = min_u64(r->cursor, first);
    return ret;
}

void refcounts_give_back(struct refcounts *r, uint64_t first, uint64_t count)
{
    refcounts_drop(r, first, count, NULL); /* their blocks are in memory, their refcounts are 1 */
}

/* ---- the file ------------------------------------------------------------------------------ */

/* Entries that a refcount table needs to name every block. */
static uint64_t entries_needed(const struct refcounts *r)
{
    uint64_t i = r->entries;
    while (i > r->old_entries && !place_of(r, i - 1))
        i--;
    return i;
}

/* Takes room for a longer table, if one is needed. */
static int plan_table(struct refcounts *r, struct img_error *err)
{
    const struct qcow2_geometry *g = &r->q->geometry;
    const uint64_t most = MAX_REFTABLE_BYTES >> g->cluster_bits;
    while (entries_needed(r) > r->old_entries) {
        uint64_t need = div_round_up(entries_needed(r) * 8, g->cluster_size), first;
        if (r->table_offset && r->table_clusters >= need)
            return 0;
        if (r->table_offset)
            refcounts_give_back(r, r->table_offset >> g->cluster_bits, r->table_clusters);
        r->table_offset = 0;
        if (need > most)
            return img_fail(err, EFBIG, "The refcount table would be longer than %d bytes",
                            MAX_REFTABLE_BYTES);
        r->table_clusters = min_u64(most, need + need / 2 + 1);
        int ret = take_run(r, r->table_clusters, &first, err);
        if (ret < 0)
            return ret;
        r->table_offset = first << g->cluster_bits;
    }
    return 0;
}

static int write_table(struct refcounts *r, struct img_error *err)
{
    size_t bytes = (size_t)r->table_clusters << r->q->geometry.cluster_bits;
    uint8_t *table = calloc(1, bytes);
    if (!table)
        return img_fail_nomem(err);
    for (uint64_t i = 0; i < min_u64(r->entries, bytes / 8); i++)
        store_be64(table + i * 8, place_of(r, i));
    int ret = file_write(r->q->file, table, bytes, host(r->table_offset), err);
    free(table);
    return ret;
}

int refcounts_store(struct refcounts *r, struct img_error *err)
{
    int ret = plan_table(r, err);
    if (!ret && r->table_offset)
        ret = write_table(r, err);
    while (!ret && r->changed_count) {
        uint64_t index = r->changed[r->changed_count - 1];
        struct refblock *b = r->blocks[index];
        ret = file_write(r->q->file, b->data + b->dirty_from, b->dirty_to - b->dirty_from,
                         host(place_of(r, index) + b->dirty_from), err);
        if (ret < 0)
            break;
        b->dirty_from = b->dirty_to = 0;
        r->changed_count--;
    }
    return ret < 0 ? img_prefix(err, ret, "Could not write refcounts: ") : 0;
}

/* Makes the longer table the file's; then it is on disk. */
static int switch_table(struct refcounts *r, uint64_t *old_first, uint64_t *old_clusters,
                        struct img_error *err)
{
    struct qcow2 *q = r->q;
    struct qcow2_header h = q->header;
    uint64_t entries = r->table_clusters << q->geometry.cluster_bits >> 3;
    uint64_t *old = realloc(r->old, entries * sizeof *old);
    if (!old)
        return img_fail_nomem(err);
    r->old = old;
    h.reftable_offset = r->table_offset;
    h.reftable_clusters = (uint32_t)r->table_clusters;
    int ret = qcow2_write_header(q, &h, NULL, NULL, err);
    if (ret < 0)
        return ret;
    *old_first = q->header.reftable_offset >> q->geometry.cluster_bits;
    *old_clusters = q->header.reftable_clusters;
    q->header = h;
    qcow2_check_overlaps(q, NULL); /* cannot fail: the place was free */
    for (uint64_t i = r->old_entries; i < entries; i++)
        old[i] = 0;
    r->old_entries = entries;
    r->table_offset = r->table_clusters = 0;
    return 0;
}

static int write_entries(struct refcounts *r, struct img_error *err)
{
    uint8_t entry[8];
    int ret = 0;
    for (uint64_t i = 0; !ret && i < min_u64(r->entries, r->old_entries); i++) {
        if (r->old[i] || !place_of(r, i))
            continue;
        store_be64(entry, place_of(r, i));
        ret = file_write(r->q->file, entry, sizeof entry,
                         host(r->q->header.reftable_offset + i * 8), err);
    }
    return ret ? ret : file_flush(r->q->file, err);
}

int refcounts_publish(struct refcounts *r, uint64_t *old_first, uint64_t *old_clusters,
                      struct img_error *err)
{
    *old_first = *old_clusters = 0;
    if (!r->unpublished)
        return 0;
    int ret = r->table_offset ? switch_table(r, old_first, old_clusters, err)
                              : write_entries(r, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not write the refcount table: ");
    for (uint64_t i = 0; i < min_u64(r->entries, r->old_entries); i++)
        r->old[i] = place_of(r, i);
    r->unpublished = 0;
    return 0;
}
