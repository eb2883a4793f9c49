/*
 * Bitmaps of a disk that changes its size.
 *
 * A bitmap's table must be as long as the disk needs, no longer: QEMU does not load it otherwise.
 * Its bits end with the disk, too; behind that there may be anything, which must not come to mean
 * something when the disk grows.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/resize.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_OFFSET_MASK 0x00fffffffffffe00ull
#define TABLE_ALL_ONES    1ull

struct bitmap_job {
    struct transaction *t;
    uint64_t old_size, new_size, move;
    bool changed; /* the directory */
};

/* One bitmap. */
struct bitmap_table {
    struct ondisk_bitmap *entry; /* in the directory */
    uint64_t offset;
    uint64_t count, new_count; /* entries */
    uint64_t bits;             /* that stay as they are; behind them all are clean */
    uint8_t *data;             /* room for the longer of both */
    bool changed;
};

static int load_table(struct bitmap_job *b, struct bitmap_table *m, struct img_error *err)
{
    const struct qcow2_geometry *g = &b->t->q->geometry;
    unsigned granularity = m->entry->granularity_bits;
    uint64_t new_bits = div_round_up(b->new_size, 1ull << granularity);
    m->offset = load_be64(m->entry->table_offset);
    m->count = load_be32(m->entry->table_size);
    m->new_count = div_round_up(div_round_up(new_bits, 8), g->cluster_size);
    m->bits = div_round_up(min_u64(b->old_size, b->new_size), 1ull << granularity);
    if (m->new_count > MAX_BITMAP_TABLE_ENTRIES ||
        m->new_count << g->cluster_bits > MAX_BITMAP_BYTES)
        return img_fail(err, EFBIG,
                        "A bitmap of granularity %" PRIu64 " is too large for a disk of %" PRIu64
                        " bytes",
                        (uint64_t)1 << granularity, b->new_size);
    m->data = calloc(max_u64(m->count, m->new_count) + 1, 8);
    if (!m->data)
        return img_fail_nomem(err);
    m->changed = m->new_count != m->count || m->offset >= b->move;
    int ret = file_read(b->t->q->file, m->data, m->count * 8, host(m->offset), err);
    return ret < 0 ? img_prefix(err, ret, "Could not read bitmap table: ") : 0;
}

static int drop_entry(struct bitmap_job *b, struct bitmap_table *m, uint64_t index,
                      struct img_error *err)
{
    uint8_t *p = m->data + index * 8;
    uint64_t place = load_be64(p) & TABLE_OFFSET_MASK;
    m->changed |= load_be64(p) != 0;
    store_be64(p, 0);
    return place ? tx_release(b->t, place, b->t->q->geometry.cluster_size, err) : 0;
}

/* A cluster of bits, to a new place. */
static int put_cluster(struct bitmap_job *b, struct bitmap_table *m, uint64_t index,
                       const uint8_t *bits, struct img_error *err)
{
    uint64_t place;
    int ret = drop_entry(b, m, index, err);
    if (!ret)
        ret = tx_allocate(b->t, 1, &place, err);
    if (ret < 0)
        return ret;
    store_be64(m->data + index * 8, place);
    m->changed = true;
    return tx_write(b->t, place, bits, b->t->q->geometry.cluster_size, err);
}

/* Clears all but the first KEEP bits; were there others? */
static bool clear_behind(uint8_t *bits, size_t size, uint64_t keep)
{
    bool any = false;
    for (size_t i = keep / 8; i < size; i++) {
        uint8_t mask = i == keep / 8 ? (uint8_t)((1u << keep % 8) - 1) : 0;
        any |= bits[i] & ~mask;
        bits[i] &= mask;
    }
    return any;
}

/* The cluster in which the bits end. */
static int cut_cluster(struct bitmap_job *b, struct bitmap_table *m, uint64_t index, uint64_t keep,
                       struct img_error *err)
{
    size_t size = b->t->q->geometry.cluster_size;
    uint64_t entry = load_be64(m->data + index * 8);
    bool longer = b->new_size > b->old_size;
    if (!entry || (entry == TABLE_ALL_ONES && !longer))
        return 0;
    uint8_t *bits = malloc(size);
    int ret = bits ? 0 : img_fail_nomem(err);
    if (!ret && entry & TABLE_OFFSET_MASK)
        ret = file_read_padded(b->t->q->file, bits, size, host(entry & TABLE_OFFSET_MASK), err);
    else if (!ret)
        memset(bits, 0xff, size);
    if (!ret && clear_behind(bits, size, keep))
        ret = put_cluster(b, m, index, bits, err);
    free(bits);
    return ret;
}

/* Clusters of bits that have to move. */
static int move_clusters(struct bitmap_job *b, struct bitmap_table *m, struct img_error *err)
{
    size_t size = b->t->q->geometry.cluster_size;
    uint8_t *bits = malloc(size);
    int ret = bits ? 0 : img_fail_nomem(err);
    for (uint64_t i = 0; i < m->new_count && !ret; i++) {
        uint64_t place = load_be64(m->data + i * 8) & TABLE_OFFSET_MASK;
        if (!place || place < b->move)
            continue;
        ret = file_read_padded(b->t->q->file, bits, size, host(place), err);
        if (!ret)
            ret = put_cluster(b, m, i, bits, err);
    }
    free(bits);
    return ret;
}

static int change_table(struct bitmap_job *b, struct bitmap_table *m, struct img_error *err)
{
    uint64_t per_cluster = (uint64_t)b->t->q->geometry.cluster_size * 8;
    uint64_t last = m->bits / per_cluster, keep = m->bits % per_cluster;
    int ret = 0;
    if (b->new_size != b->old_size) {
        if (keep && last < m->count)
            ret = cut_cluster(b, m, last, keep, err);
        for (uint64_t i = last + (keep != 0); i < m->count && !ret; i++)
            ret = drop_entry(b, m, i, err);
    }
    return ret < 0 || b->move == UINT64_MAX ? ret : move_clusters(b, m, err);
}

static int write_table(struct bitmap_job *b, struct bitmap_table *m, struct img_error *err)
{
    uint32_t cluster = b->t->q->geometry.cluster_size;
    uint64_t place, clusters = div_round_up(m->new_count * 8, cluster);
    int ret = tx_allocate(b->t, clusters, &place, err);
    if (!ret)
        ret = tx_write(b->t, place, m->data, m->new_count * 8, err);
    if (!ret)
        ret = tx_release(b->t, m->offset, m->count * 8, err);
    if (ret < 0)
        return ret;
    store_be64(m->entry->table_offset, place);
    store_be32(m->entry->table_size, (uint32_t)m->new_count);
    b->changed = true;
    return 0;
}

static int change_bitmap(struct bitmap_job *b, struct ondisk_bitmap *entry, struct img_error *err)
{
    struct bitmap_table m = {.entry = entry};
    int ret = load_table(b, &m, err);
    if (!ret)
        ret = change_table(b, &m, err);
    if (!ret && m.changed)
        ret = write_table(b, &m, err);
    free(m.data);
    return ret;
}

static int write_directory(struct bitmap_job *b, const uint8_t *directory, struct img_error *err)
{
    struct qcow2_extensions *ext = &b->t->parts.ext;
    uint64_t size = ext->bitmap_directory_size, place;
    uint64_t clusters = div_round_up(size, b->t->q->geometry.cluster_size);
    int ret = tx_release(b->t, ext->bitmap_directory_offset, size, err);
    if (!ret)
        ret = tx_allocate(b->t, clusters, &place, err);
    if (!ret)
        ret = tx_write(b->t, place, directory, size, err);
    if (ret < 0)
        return ret;
    ext->bitmap_directory_offset = place;
    b->t->parts_changed = true;
    return 0;
}

int tx_resize_bitmaps(struct transaction *t, uint64_t old_size, uint64_t new_size, uint64_t move,
                      struct img_error *err)
{
    const struct qcow2_extensions *ext = &t->q->ext;
    struct bitmap_job b = {.t = t, .old_size = old_size, .new_size = new_size, .move = move};
    if (!ext->has_bitmaps || (old_size == new_size && move == UINT64_MAX))
        return 0;
    size_t size = ext->bitmap_directory_size, at = 0;
    uint8_t *directory = malloc(size + 1);
    if (!directory)
        return img_fail_nomem(err);
    b.changed = ext->bitmap_directory_offset >= move;
    int ret = file_read(t->q->file, directory, size, host(ext->bitmap_directory_offset), err);
    for (size_t i = 0; i < t->q->bitmap_count && !ret; i++) { /* checked when they were read */
        struct ondisk_bitmap *entry = (struct ondisk_bitmap *)(directory + at);
        ret = change_bitmap(&b, entry, err);
        at += align_up(sizeof *entry + load_be16(entry->name_size), 8);
    }
    if (!ret && b.changed)
        ret = write_directory(&b, directory, err);
    free(directory);
    return ret;
}

/* ---- where they lie ------------------------------------------------------------------------ */

static int each_range(struct qcow2 *q, const struct ondisk_bitmap *entry, range_fn fn, void *opaque,
                      struct img_error *err)
{
    uint64_t offset = load_be64(entry->table_offset), count = load_be32(entry->table_size);
    uint8_t *table = malloc(count * 8 + 1);
    int ret = table ? file_read(q->file, table, count * 8, host(offset), err) : img_fail_nomem(err);
    if (!ret)
        ret = fn(opaque, offset, count * 8, err);
    for (uint64_t i = 0; i < count && !ret; i++)
        ret = fn(opaque, load_be64(table + i * 8) & TABLE_OFFSET_MASK, q->geometry.cluster_size,
                 err);
    free(table);
    return ret;
}

int qcow2_each_bitmap_range(struct qcow2 *q, range_fn fn, void *opaque, struct img_error *err)
{
    const struct qcow2_extensions *ext = &q->ext;
    size_t size = ext->bitmap_directory_size, at = 0;
    if (!ext->has_bitmaps)
        return 0;
    uint8_t *directory = malloc(size + 1);
    if (!directory)
        return img_fail_nomem(err);
    int ret = file_read(q->file, directory, size, host(ext->bitmap_directory_offset), err);
    if (!ret)
        ret = fn(opaque, ext->bitmap_directory_offset, size, err);
    for (size_t i = 0; i < q->bitmap_count && !ret; i++) {
        const struct ondisk_bitmap *entry = (const struct ondisk_bitmap *)(directory + at);
        ret = each_range(q, entry, fn, opaque, err);
        at += align_up(sizeof *entry + load_be16(entry->name_size), 8);
    }
    free(directory);
    return ret;
}
