/*
 * Persistent bitmaps under guest writes.
 *
 * A bitmap with the flag "auto" records what is written. Before the first write it is marked "in
 * use" on disk, so that no program believes it should that record never be completed; what is
 * written is noted in memory; at the end the bitmaps are stored with what was noted and are valid
 * again, all in one transaction.
 */
#include "formats/qcow2/bit_runs.h"
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>

static bool records(const struct qcow2_bitmap *b)
{
    return (b->info.flags & IMG_BITMAP_AUTO) && !(b->info.flags & IMG_BITMAP_IN_USE);
}

/* Sets the flags of those that record writes in DIRECTORY, which was checked when the image was
 * opened. *FROM and *TO: the bytes that differ. */
static void set_flags(const struct qcow2 *q, uint8_t *directory, size_t *from, size_t *to)
{
    const size_t field = offsetof(struct ondisk_bitmap, flags);
    size_t at = 0, size = q->ext.bitmap_directory_size;
    *from = size;
    *to = 0;
    for (size_t i = 0; i < q->bitmap_count && size - at >= sizeof(struct ondisk_bitmap); i++) {
        struct ondisk_bitmap *d = (struct ondisk_bitmap *)(directory + at);
        uint64_t length = sizeof *d + (uint64_t)load_be32(d->extra_data_size) +
                          load_be16(d->name_size);
        if (records(&q->bitmaps[i])) {
            store_be32(d->flags, q->bitmaps[i].info.flags | IMG_BITMAP_IN_USE);
            *from = min_u64(*from, at + field);
            *to = at + field + sizeof d->flags;
        }
        at += min_u64(align_up(length, 8), size - at);
    }
}

static int mark_in_use(struct qcow2 *q, struct img_error *err)
{
    size_t size = q->ext.bitmap_directory_size, from, to;
    uint64_t offset = q->ext.bitmap_directory_offset;
    uint8_t *directory = malloc(size);
    if (!directory)
        return img_fail_nomem(err);
    int ret = file_read(q->file, directory, size, host(offset), err);
    if (!ret) {
        set_flags(q, directory, &from, &to);
        ret = file_write(q->file, directory + from, to - from, host(offset + from), err);
    }
    free(directory);
    return ret ? ret : file_flush(q->file, err);
}

int qcow2_open_bitmaps(struct qcow2 *q, struct img_error *err)
{
    uint32_t finest = 0;
    for (size_t i = 0; i < q->bitmap_count; i++)
        if (records(&q->bitmaps[i]) && (!finest || q->bitmaps[i].info.granularity < finest))
            finest = q->bitmaps[i].info.granularity;
    if (!finest || q->log)
        return 0;
    struct write_log *log = calloc(1, sizeof *log);
    int ret = log ? write_log_init(log, q->layer->size, (unsigned)__builtin_ctz(finest), err)
                  : img_fail_nomem(err);
    if (!ret)
        ret = mark_in_use(q, err);
    if (ret < 0) {
        if (log)
            write_log_free(log);
        free(log);
        return img_prefix(err, ret, "Could not mark the bitmaps as in use: ");
    }
    for (size_t i = 0; i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        b->recording = records(b);
        b->info.flags |= b->recording ? IMG_BITMAP_IN_USE : 0;
    }
    q->log = log;
    return 0;
}

void qcow2_forget_log(struct qcow2 *q)
{
    if (q->log)
        write_log_free(q->log);
    free(q->log);
    q->log = NULL;
}

/* ---- the end ------------------------------------------------------------------------------- */

struct addition {
    const struct write_log *log;
    const struct bitmap_bits *bits;
};

/* The bits that the file has, and those of what was written. */
static int add_written(void *opaque, uint32_t index, uint8_t *piece, struct img_error *err)
{
    const struct addition *a = opaque;
    const struct bitmap_bits *b = a->bits;
    uint64_t granule = 1ull << b->granularity_bits, count = bits_in_piece(b, index);
    uint64_t first = index * (b->q->geometry.cluster_size * 8ull);
    if (!write_log_any(a->log, first * granule, count * granule))
        return BITS_KEPT;
    int ret = bits_read_piece(b, index, piece, err);
    for (uint64_t i = 0; !ret && i < count; i++)
        if (write_log_any(a->log, (first + i) * granule, granule))
            bits_set(piece, i, i + 1);
    return ret;
}

static int store_one(struct transaction *t, const struct write_log *log,
                     const struct qcow2_bitmap *old, struct qcow2_bitmap *new,
                     struct img_error *err)
{
    struct bitmap_bits bits;
    struct addition addition = {log, &bits};
    struct bits_source source = {add_written, &addition};
    int ret = bits_load(&bits, t->q, old, err);
    if (ret < 0)
        return ret;
    ret = bits_store(t, &bits, &source, new, err);
    bits_free(&bits);
    return ret;
}

static int store_all(struct transaction *t, const struct write_log *log, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    struct qcow2_bitmap *list = calloc(q->bitmap_count, sizeof *list);
    int ret = list ? 0 : img_fail_nomem(err);
    for (size_t i = 0; !ret && i < q->bitmap_count; i++) {
        list[i] = q->bitmaps[i];
        if (!list[i].recording)
            continue;
        list[i].info.flags &= ~(uint32_t)IMG_BITMAP_IN_USE;
        ret = store_one(t, log, &q->bitmaps[i], &list[i], err);
    }
    if (!ret)
        ret = bitmap_write_directory(t, list, q->bitmap_count, err);
    free(list);
    return ret < 0 ? ret : tx_commit(t, err);
}

int qcow2_store_bitmaps(struct qcow2 *q, struct img_error *err)
{
    struct write_log *log = q->log;
    struct transaction t;
    if (!log)
        return 0;
    q->log = NULL;
    int ret = tx_begin(&t, q, err);
    if (!ret) {
        ret = store_all(&t, log, err);
        tx_end(&t);
    }
    write_log_free(log);
    free(log);
    return ret < 0 ? img_prefix(err, ret, "Lost persistent bitmaps: ") : 0;
}
