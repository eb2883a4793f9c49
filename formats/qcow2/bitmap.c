/* "Bitmaps": the directory of persistent bitmaps. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "formats/qcow2/reader.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What QEMU calls the constraints of a bitmap; NULL when D keeps them, else the field. */
static const char *broken_field(const struct qcow2 *q, const struct ondisk_bitmap *d,
                                uint64_t *value)
{
    uint64_t offset = load_be64(d->table_offset);
    uint32_t entries = load_be32(d->table_size), flags = load_be32(d->flags);
    uint64_t bytes = (uint64_t)entries << q->geometry.cluster_bits;
    *value = entries;
    if (!entries || entries > MAX_BITMAP_TABLE_ENTRIES)
        return "bitmap_table_size";
    if (bytes > MAX_BITMAP_BYTES)
        return "bitmap_table_size (too many clusters)";
    *value = offset;
    if (!offset || !is_aligned(offset, q->geometry.cluster_size) || offset > q->file_size ||
        entries * 8ull > q->file_size - offset)
        return "bitmap_table_offset";
    if (qcow2_overlapped(q, offset, entries * 8ull))
        return "bitmap_table_offset (inside another table)";
    *value = flags;
    if (flags & ~(uint32_t)(IMG_BITMAP_IN_USE | IMG_BITMAP_AUTO))
        return "flags";
    *value = d->type;
    if (d->type != BITMAP_TYPE_DIRTY)
        return "type";
    *value = d->granularity_bits;
    if (d->granularity_bits < MIN_BITMAP_GRANULARITY_BITS ||
        d->granularity_bits > MAX_BITMAP_GRANULARITY_BITS)
        return "granularity_bits";
    *value = entries;
    if (!(flags & IMG_BITMAP_IN_USE) && q->layer->size > bytes * 8 << d->granularity_bits)
        return "bitmap_table_size (too small for the disk)";
    return NULL;
}

static int read_one(const struct qcow2 *q, struct reader *r, struct qcow2_bitmap *b,
                    struct img_error *err)
{
    struct ondisk_bitmap d;
    uint64_t start = r->at, value;
    int ret = reader_get(r, &d, sizeof d, err);
    if (ret < 0)
        return img_prefix(err, ret, "Broken bitmap directory: ");
    if (load_be32(d.extra_data_size))
        return img_fail(err, EINVAL,
                        "Bitmap extra data is not supported (extra_data_size %" PRIu32 ")",
                        load_be32(d.extra_data_size));
    if (!load_be16(d.name_size))
        return img_fail(err, EINVAL, "Bitmap name is empty (name_size 0)");
    if (load_be16(d.name_size) > MAX_BITMAP_NAME)
        return img_fail(err, EINVAL, "Bitmap name too long (name_size %u, at most %d)",
                        load_be16(d.name_size), MAX_BITMAP_NAME);
    ret = reader_get_string(r, &b->info.name, load_be16(d.name_size), err);
    if (!ret) /* entries are padded to 8 bytes */
        ret = reader_skip(r, align_up(r->at - start, 8) - (r->at - start), err);
    if (ret < 0)
        return img_prefix(err, ret, "Broken bitmap directory: ");
    const char *field = broken_field(q, &d, &value);
    if (field)
        return img_fail(err, EINVAL,
                        "Bitmap '%s' doesn't satisfy the constraints (%s: %#" PRIx64 ")",
                        b->info.name, field, value);
    b->info.flags = load_be32(d.flags);
    b->info.granularity = 1u << d.granularity_bits;
    b->table_offset = load_be64(d.table_offset);
    b->table_entries = load_be32(d.table_size);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct img_bitmap_info *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* "The name of the bitmap ... must be unique among all bitmaps": found by sorting. */
static int check_unique(const struct qcow2 *q, struct img_error *err)
{
    const struct img_bitmap_info **sorted = calloc(q->bitmap_count, sizeof *sorted);
    int ret = 0;
    if (!sorted)
        return img_fail_nomem(err);
    for (size_t i = 0; i < q->bitmap_count; i++)
        sorted[i] = &q->bitmaps[i].info;
    qsort(sorted, q->bitmap_count, sizeof *sorted, by_name);
    for (size_t i = 1; i < q->bitmap_count && !ret; i++)
        if (!strcmp(sorted[i - 1]->name, sorted[i]->name))
            ret = img_fail(err, EINVAL, "Bitmap already exists: %s", sorted[i]->name);
    free(sorted);
    return ret;
}

int qcow2_read_bitmaps(struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_extensions *ext = &q->ext;
    struct reader r;
    int ret = 0;
    if (!ext->has_bitmaps)
        return 0;
    /* an entry takes at least its fixed part: a directory cannot hold more than fit */
    if (ext->bitmap_count > ext->bitmap_directory_size / sizeof(struct ondisk_bitmap))
        return img_fail(err, EINVAL,
                        "Broken bitmap directory: %" PRIu32 " bitmaps do not fit in %" PRIu64
                        " bytes",
                        ext->bitmap_count, ext->bitmap_directory_size);
    for (size_t i = 0; i < q->bitmap_count; i++) /* a check reads them each time anew */
        free(q->bitmaps[i].info.name);
    free(q->bitmaps);
    q->bitmap_count = 0;
    q->bitmaps = calloc(ext->bitmap_count, sizeof *q->bitmaps);
    if (!q->bitmaps)
        return img_fail_nomem(err);
    reader_init(&r, q->file, host(ext->bitmap_directory_offset), ext->bitmap_directory_size);
    while (!ret && q->bitmap_count < ext->bitmap_count && r.at < r.end)
        ret = read_one(q, &r, &q->bitmaps[q->bitmap_count++], err);
    if (!ret && q->bitmap_count < ext->bitmap_count)
        ret = img_fail(err, EINVAL,
                       "Less bitmaps found than specified in header extension (%zu, "
                       "nb_bitmaps %" PRIu32 ")",
                       q->bitmap_count, ext->bitmap_count);
    if (!ret && r.at < r.end)
        ret = img_fail(err, EINVAL,
                       "More bitmaps found than specified in header extension "
                       "(nb_bitmaps %" PRIu32 ")",
                       ext->bitmap_count);
    return ret < 0 ? ret : check_unique(q, err);
}
