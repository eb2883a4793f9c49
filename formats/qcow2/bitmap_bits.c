/* "Bitmap table", "Bitmap data": the bits of a bitmap, read and written a cluster at a time. */
#include "formats/qcow2/bit_runs.h"
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t bits_per_piece(const struct qcow2 *q)
{
    return q->geometry.cluster_size * 8ull;
}

void bits_init(struct bitmap_bits *b, struct qcow2 *q, const char *name, uint32_t granularity)
{
    uint64_t count = div_round_up(q->layer->size, granularity);
    *b = (struct bitmap_bits){.q = q,
                              .name = name,
                              .granularity_bits = (unsigned)__builtin_ctz(granularity),
                              .count = count,
                              .pieces = (uint32_t)div_round_up(count, bits_per_piece(q))};
}

void bits_free(struct bitmap_bits *b)
{
    free(b->table);
    b->table = NULL;
}

/* ---- tables -------------------------------------------------------------------------------- */

static const char *broken_entry(const struct qcow2 *q, uint64_t entry)
{
    uint64_t offset = entry & BITMAP_OFFSET_MASK;
    if (entry & BITMAP_RESERVED_MASK)
        return "has reserved bits set";
    if (offset && (entry & BITMAP_ALL_ONES))
        return "has both an offset and the flag for ones";
    if (!is_aligned(offset, q->geometry.cluster_size))
        return "is not cluster aligned";
    if (offset && !qcow2_in_file((struct qcow2 *)(uintptr_t)q, offset))
        return "lies outside the file";
    if (offset && qcow2_overlapped(q, offset, q->geometry.cluster_size))
        return "lies inside another table";
    return NULL;
}

/* The table as numbers, whatever they say. */
static int read_table(struct qcow2 *q, const struct qcow2_bitmap *bitmap, uint64_t **table,
                      struct img_error *err)
{
    size_t bytes = bitmap->table_entries * sizeof(uint64_t);
    *table = malloc(bytes + !bytes);
    int ret = *table ? 0 : img_fail_nomem(err);
    if (!ret)
        ret = file_read(q->file, *table, bytes, host(bitmap->table_offset), err);
    for (uint32_t i = 0; !ret && i < bitmap->table_entries; i++)
        (*table)[i] = load_be64(*table + i);
    if (ret < 0) {
        free(*table);
        *table = NULL;
        img_prefix(err, ret, "Could not read bitmap_table table from image for bitmap '%s': ",
                   bitmap->info.name);
    }
    return ret;
}

static int check_table(const struct qcow2 *q, const struct qcow2_bitmap *bitmap,
                       const uint64_t *table, struct img_error *err)
{
    for (uint32_t i = 0; i < bitmap->table_entries; i++) {
        const char *broken = broken_entry(q, table[i]);
        if (broken)
            return img_fail(err, EINVAL,
                            "Could not read bitmap_table table from image for bitmap '%s': "
                            "entry %" PRIu32 " %s: %#" PRIx64,
                            bitmap->info.name, i, broken, table[i]);
    }
    return 0;
}

int bits_load(struct bitmap_bits *b, struct qcow2 *q, const struct qcow2_bitmap *bitmap,
              struct img_error *err)
{
    bits_init(b, q, bitmap->info.name, bitmap->info.granularity);
    if (bitmap->table_entries != b->pieces)
        return img_fail(err, EINVAL,
                        "Could not read bitmap '%s' from image: it has %" PRIu32
                        " clusters where the disk needs %" PRIu32,
                        b->name, bitmap->table_entries, b->pieces);
    int ret = read_table(q, bitmap, &b->table, err);
    if (!ret)
        ret = check_table(q, bitmap, b->table, err);
    b->table_offset = bitmap->table_offset;
    if (ret < 0)
        bits_free(b);
    return ret;
}

/* Of a bitmap in use, nobody has looked at the table: what it has of clusters is given back. */
int bitmap_release(struct transaction *t, const struct qcow2_bitmap *bitmap, struct img_error *err)
{
    struct qcow2 *q = t->q;
    uint64_t *table;
    int ret = read_table(q, bitmap, &table, err);
    if (!ret && !(bitmap->info.flags & IMG_BITMAP_IN_USE))
        ret = check_table(q, bitmap, table, err);
    for (uint32_t i = 0; !ret && i < bitmap->table_entries; i++)
        if (!broken_entry(q, table[i]) && (table[i] & BITMAP_OFFSET_MASK))
            ret = tx_release(t, table[i], q->geometry.cluster_size, err);
    free(table);
    return ret < 0 ? ret : tx_release(t, bitmap->table_offset, bitmap->table_entries * 8ull, err);
}

/* ---- pieces -------------------------------------------------------------------------------- */

uint64_t bits_in_piece(const struct bitmap_bits *b, uint32_t index)
{
    uint64_t full = bits_per_piece(b->q);
    return min_u64(full, b->count - index * full);
}

bool bits_clear_piece(const struct bitmap_bits *b, uint32_t index)
{
    return !b->table || !b->table[index];
}

int bits_read_piece(const struct bitmap_bits *b, uint32_t index, uint8_t *piece,
                    struct img_error *err)
{
    uint32_t size = b->q->geometry.cluster_size;
    uint64_t entry = b->table ? b->table[index] : 0;
    int ret = 0;
    if (entry & BITMAP_OFFSET_MASK)
        ret = file_read_padded(b->q->file, piece, size, host(entry), err);
    else
        memset(piece, entry & BITMAP_ALL_ONES ? 0xff : 0, size);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read bitmap '%s' from image: ", b->name);
    bits_cut(piece, bits_in_piece(b, index), size);
    return 0;
}

/* What stands for PIECE in the table. */
static int store_piece(struct transaction *t, const struct bitmap_bits *b, uint32_t index,
                       const uint8_t *piece, uint64_t *entry, struct img_error *err)
{
    uint32_t size = t->q->geometry.cluster_size;
    *entry = 0;
    if (bytes_are(piece, size, 0))
        return 0;
    *entry = BITMAP_ALL_ONES;
    if (bits_in_piece(b, index) == bits_per_piece(t->q) && bytes_are(piece, size, 0xff))
        return 0;
    int ret = tx_allocate(t, 1, entry, err);
    return ret < 0 ? ret : tx_write(t, *entry, piece, size, err);
}

/* Every entry of NEW, and the clusters that OLD has and NEW has not given back. */
static int store_pieces(struct transaction *t, const struct bitmap_bits *old,
                        const struct bits_source *source, uint64_t *new, struct img_error *err)
{
    uint32_t size = t->q->geometry.cluster_size;
    uint8_t *piece = malloc(size);
    int ret = piece ? 0 : img_fail_nomem(err);
    for (uint32_t i = 0; !ret && i < old->pieces; i++) {
        uint64_t before = old->table ? old->table[i] : 0;
        memset(piece, 0, size);
        ret = source->fill(source->opaque, i, piece, err);
        if (ret == BITS_KEPT) {
            new[i] = before;
            ret = 0;
            continue;
        }
        if (!ret && (before & BITMAP_OFFSET_MASK))
            ret = tx_release(t, before, size, err);
        if (!ret)
            ret = store_piece(t, old, i, piece, &new[i], err);
    }
    free(piece);
    return ret;
}

static int store_table(struct transaction *t, uint64_t *table, uint32_t entries, uint64_t *offset,
                       struct img_error *err)
{
    uint64_t clusters = div_round_up(entries * 8ull, t->q->geometry.cluster_size);
    for (uint32_t i = 0; i < entries; i++)
        store_be64(table + i, table[i]);
    int ret = tx_allocate(t, clusters, offset, err);
    if (!ret)
        ret = tx_write(t, *offset, table, clusters << t->q->geometry.cluster_bits, err);
    return ret;
}

int bits_store(struct transaction *t, const struct bitmap_bits *old,
               const struct bits_source *source, struct qcow2_bitmap *bitmap, struct img_error *err)
{
    size_t bytes = old->pieces * sizeof(uint64_t);
    uint64_t *new = calloc(1, align_up(bytes, t->q->geometry.cluster_size));
    int ret = new ? store_pieces(t, old, source, new, err) : img_fail_nomem(err);
    bitmap->table_offset = old->table_offset;
    bitmap->table_entries = old->pieces;
    if (!ret && (!old->table || memcmp(new, old->table, bytes))) {
        ret = tx_release(t, old->table_offset, old->table ? bytes : 0, err);
        if (!ret)
            ret = store_table(t, new, old->pieces, &bitmap->table_offset, err);
    }
    free(new);
    return ret < 0 ? img_prefix(err, ret, "Failed to write bitmap '%s' to file: ", old->name) : 0;
}
