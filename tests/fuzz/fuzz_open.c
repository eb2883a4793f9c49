/*
 * The bytes of an image: opened as what they look like and as qcow2, described, mapped, read, and
 * once more for each snapshot. What is done follows the input's own numbers only up to fixed
 * bounds, so that a disk of an exabyte costs as little as a small one.
 *
 * Besides not crashing, an image must keep some promises: extents in order without gaps, reads that
 * agree with each other.
 */
#include "lib/image.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_EXTENTS = 4096,
    MAX_READ = 1 << 20, /* bytes read of one disk */
    PIECE = 16 << 10,
    MAX_SNAPSHOTS_READ = 8,
};

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct walk {
    struct img *img;
    uint64_t next; /* where the next extent must begin */
    unsigned extents;
    uint64_t left; /* bytes that may still be read */
};

/* Reads the first bytes of an extent, in one call and then again in two odd parts. */
static void read_piece(struct walk *w, const struct img_extent *e)
{
    static uint8_t whole[PIECE], parts[PIECE];
    size_t n = e->length < PIECE ? (size_t)e->length : PIECE;
    size_t cut = n > 700 ? 700 : n / 2;
    struct img_error err = IMG_ERROR_INIT;
    if (w->left < 2 * n)
        return;
    w->left -= 2 * n;
    int ret = img_read(w->img, whole, n, e->start, &err);
    REQUIRE(ret <= 0 && (ret == 0) == (err.code == 0));
    img_error_clear(&err);
    int again = img_read(w->img, parts, cut, e->start, NULL);
    if (!again)
        again = img_read(w->img, parts + cut, n - cut, e->start + cut, NULL);
    REQUIRE(!ret == !again);
    REQUIRE(ret || !memcmp(whole, parts, n));
    for (size_t i = 0;
         !ret && (e->kind == IMG_EXTENT_ZERO || e->kind == IMG_EXTENT_UNALLOCATED) && i < n; i++)
        REQUIRE(!whole[i]);
}

static int visit(void *opaque, const struct img_extent *e)
{
    struct walk *w = opaque;
    REQUIRE(e->start == w->next && e->length);
    REQUIRE(e->length <= img_size(w->img) - e->start);
    REQUIRE(!e->has_offset == !e->filename);
    w->next += e->length;
    read_piece(w, e);
    return ++w->extents == MAX_EXTENTS;
}

static void read_disk(struct img *img)
{
    struct walk w = {.img = img, .left = MAX_READ};
    struct img_error err = IMG_ERROR_INIT;
    uint64_t size = img_size(img);
    int ret = img_map(img, 0, UINT64_MAX, visit, &w, &err);
    REQUIRE(ret || w.next == size);
    REQUIRE(ret >= 0 || err.code == -ret);
    img_error_clear(&err);
    /* and the end of the disk, which a bounded walk may not reach */
    w.next = size > PIECE ? size - PIECE : 0;
    w.left = 4 * PIECE;
    img_map(img, w.next, PIECE, visit, &w, NULL);
    char byte;
    REQUIRE(img_read(img, &byte, 1, size, NULL) < 0);
}

static void read_snapshots(struct img *img, const struct img_info *info)
{
    struct layer *l = img->layers[0];
    for (size_t i = 0; i < info->snapshot_count && i < MAX_SNAPSHOTS_READ; i++) {
        struct img_error err = IMG_ERROR_INIT;
        struct img_open_options chosen = {.snapshot = info->snapshots[i].id};
        if (l->driver->select_snapshot(l, &chosen, &err) == 0)
            read_disk(img);
        else
            REQUIRE(err.code && err.message);
        img_error_clear(&err);
    }
}

/* A program prints these: they must be there. */
static void touch_info(const struct img_info *info)
{
    REQUIRE(info->filename && info->format && info->file_name && info->file_protocol);
    for (size_t i = 0; i < info->snapshot_count; i++)
        REQUIRE(info->snapshots[i].id && info->snapshots[i].name);
    for (size_t i = 0; i < info->qcow2.bitmap_count; i++)
        REQUIRE(info->qcow2.bitmaps[i].name && info->qcow2.bitmaps[i].granularity);
    REQUIRE(!info->is_qcow2 || info->qcow2.compression_type);
}

static int64_t allocates_nothing(struct file *f)
{
    (void)f;
    return 0;
}

/* As if the file were one hole: then the refcounts are looked at, too. */
static void claim_holes(struct img *img)
{
    static struct file_ops ops;
    struct file *f = img->layers[0]->file;
    ops = *f->ops;
    ops.allocated = allocates_nothing;
    f->ops = &ops;
}

static void use(const uint8_t *data, size_t size, const char *format, unsigned flags)
{
    struct img *img;
    struct img_info *info;
    struct img_error err = IMG_ERROR_INIT;
    int ret = img_open_memory(&img, data, size, format, flags, &err);
    REQUIRE(ret <= 0 && err.code == -ret && !err.message == !ret);
    img_error_clear(&err);
    if (ret < 0)
        return;
    claim_holes(img);
    if (img_describe(img, 0, &info, &err) == 0) {
        struct layer_tables tables;
        struct layer *l = img->layers[0];
        touch_info(info);
        if (l->driver->tables)
            l->driver->tables(l, &tables, NULL);
        if (!(flags & IMG_OPEN_NO_DATA)) {
            read_disk(img);
            read_snapshots(img, info);
        }
        img_info_free(info);
    }
    img_error_clear(&err);
    img_close(img);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    use(data, size, NULL, 0);
    use(data, size, NULL, IMG_OPEN_PROBE_LIKE_QEMU | IMG_OPEN_NO_DATA);
    use(data, size, "qcow2", IMG_OPEN_NO_DATA);
    return 0;
}
