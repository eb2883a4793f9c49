#include "view.h"
#include "states.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void scene_free(struct scene *s)
{
    for (unsigned i = 0; i < MAX_FILES; i++)
        disk_free(&s->disks[i]);
    disk_free(&s->base);
    disk_free(&s->undo);
}

/* ---- opening ------------------------------------------------------------------------------ */

static int add_base(struct img *img, const struct scene *s, struct img_error *err)
{
    struct layer *base;
    int ret = layer_open_file(&base, disk_open(&s->base, "base"), "raw", 0, err);
    if (ret < 0)
        return ret;
    img->layers = must(realloc(img->layers, 2 * sizeof *img->layers));
    img->layers[img->depth++] = base;
    img->flags &= ~(unsigned)IMG_OPEN_NO_BACKING;
    return 0;
}

int scene_open(struct img **out, const struct scene *s, struct file *image, struct file *data_file,
               unsigned flags, struct img_error *err)
{
    struct img *img = NULL;
    int ret = img_open_file(&img, image, data_file, s->format, flags, err);
    if (!ret && s->base.size && !(flags & IMG_OPEN_CHECK) && img->layers[0]->backing_name)
        ret = add_base(img, s, err);
    if (ret < 0)
        img_close(img);
    else
        *out = img;
    return ret;
}

int scene_look(struct img **out, const struct scene *s, const struct disk *disks, unsigned flags,
               struct img_error *err)
{
    struct file *data_file = s->files > 1 ? disk_open(&disks[1], "data") : NULL;
    return scene_open(out, s, disk_open(&disks[0], "image"), data_file, flags, err);
}

/* ---- in words ----------------------------------------------------------------------------- */

static void print_qcow2(FILE *out, const struct img_qcow2_info *q)
{
    fprintf(out, "version %u, %s, %u refcount bits%s%s%s, data file %s%s\n", q->version,
            q->compression_type, q->refcount_bits, q->lazy_refcounts ? ", lazy" : "",
            q->corrupt ? ", marked corrupt" : "", q->extended_l2 ? ", extended L2" : "",
            q->data_file ? q->data_file : "none", q->data_file_raw ? ", raw" : "");
    for (size_t i = 0; i < q->bitmap_count; i++)
        fprintf(out, "bitmap %s, flags %u, granularity %" PRIu32 "\n", q->bitmaps[i].name,
                q->bitmaps[i].flags, q->bitmaps[i].granularity);
}

static void print_info(FILE *out, const struct img_info *i)
{
    fprintf(out, "size %" PRIu64 ", clusters of %" PRIu64 ", backing %s format %s\n",
            i->virtual_size, i->cluster_size, i->backing_filename ? i->backing_filename : "none",
            i->backing_format ? i->backing_format : "none");
    if (i->is_qcow2)
        print_qcow2(out, &i->qcow2);
    for (size_t k = 0; k < i->snapshot_count; k++) {
        const struct img_snapshot_info *s = &i->snapshots[k];
        fprintf(out,
                "snapshot %s '%s' size %" PRIu64 " vm %" PRIu64 " date %" PRIu32 ".%" PRIu32
                " clock %" PRIu64 "\n",
                s->id, s->name, s->disk_size, s->vm_state_size, s->date_sec, s->date_nsec,
                s->vm_clock_nsec);
    }
}

static int take_info(struct view *v, struct img *img, struct img_error *err)
{
    struct img_info *info;
    size_t length;
    int ret = img_describe(img, 0, &info, err);
    if (ret < 0)
        return ret;
    FILE *out = must(open_memstream(&v->info, &length));
    print_info(out, info);
    fclose(out);
    must(v->info);
    img_info_free(info);
    return 0;
}

enum {
    UNREADABLE = 0xee, /* all bytes of a sector; no guest here writes these */
    PIECE = 64 << 10,  /* read at once */
};

static bool is_unreadable(const uint8_t *sector)
{
    for (size_t i = 0; i < SECTOR; i++)
        if (sector[i] != UNREADABLE)
            return false;
    return true;
}

static void mark_unreadable(struct img *img, uint8_t *buf, size_t len, size_t at)
{
    for (size_t i = 0; i < len; i += SECTOR) {
        size_t n = (size_t)min_u64(SECTOR, len - i);
        if (img_read(img, buf + i, n, at + i, NULL) < 0)
            memset(buf + i, UNREADABLE, n);
    }
}

/* LEN bytes at AT; where they are not all zeroes, the disk is held as far as there. */
static int take_piece(struct view *v, const struct scene *s, struct img *img, size_t len, size_t at,
                      struct img_error *err)
{
    uint8_t piece[PIECE] = {0};
    int ret = img_read(img, piece, len, at, err);
    if (ret < 0 && !s->damaged)
        return ret;
    if (ret < 0) {
        img_error_clear(err);
        mark_unreadable(img, piece, len, at);
        v->lost = true;
    }
    if (!*piece && !memcmp(piece, piece + 1, len - 1))
        return 0;
    size_t end = align_up(at + len, SECTOR);
    v->guest = must(realloc(v->guest, end));
    memset(v->guest + v->held, 0, end - v->held);
    memcpy(v->guest + at, piece, end - at);
    v->held = end;
    return 0;
}

int view_take_guest(struct view *v, const struct scene *s, struct img *img, struct img_error *err)
{
    int ret = 0;
    v->size = img_size(img);
    v->held = 0;
    for (size_t at = 0; at < v->size && ret >= 0; at += PIECE)
        ret = take_piece(v, s, img, (size_t)min_u64(PIECE, v->size - at), at, err);
    return ret;
}

const uint8_t *view_sector(const struct view *v, size_t at)
{
    static const uint8_t zeroes[SECTOR];
    return at < v->held ? v->guest + at : zeroes;
}

bool view_same_guest(const struct view *a, const struct view *b)
{
    bool same = a->size == b->size;
    for (size_t at = 0; same && at < max_u64(a->held, b->held); at += SECTOR)
        same = !memcmp(view_sector(a, at), view_sector(b, at), SECTOR);
    return same;
}

/* ---- snapshots and bitmaps ---------------------------------------------------------------- */

static int print_snapshot(FILE *out, const struct scene *s, const struct disk *disks,
                          const char *id, bool *lost, struct img_error *err)
{
    struct img *img = NULL;
    struct view v = {0};
    int ret = scene_look(&img, s, disks, 0, err);
    if (!ret)
        ret = img->layers[0]->driver->select_snapshot(
            img->layers[0], &(struct img_open_options){.snapshot = id}, err);
    if (!ret)
        ret = view_take_guest(&v, s, img, err);
    *lost |= v.lost;
    if (!ret)
        fprintf(out, "snapshot %s holds %zu bytes, hash %" PRIx64 "\n", id, v.size,
                hash_bytes(0, v.guest, v.held));
    view_free(&v);
    img_close(img);
    return ret;
}

/* A cluster of a bitmap: data, all zeroes or all ones. */
static int hash_bitmap_cluster(const struct disk *d, uint64_t entry, size_t cluster, uint64_t *hash,
                               struct img_error *err)
{
    uint64_t offset = entry & ~(uint64_t)511;
    if (offset > d->size || (offset && d->size - offset < cluster))
        return img_fail(err, EINVAL, "A bitmap's data at %#" PRIx64 " lies outside the file",
                        offset);
    uint8_t *filled = must(malloc(cluster));
    memset(filled, entry & 1 ? 0xff : 0, cluster);
    *hash = hash_bytes(*hash, offset ? d->data + offset : filled, cluster);
    free(filled);
    return 0;
}

static int print_bitmap(FILE *out, const struct disk *d, size_t at, size_t cluster,
                        struct img_error *err)
{
    const struct ondisk_bitmap *b = (const void *)(d->data + at);
    uint64_t table = load_be64(b->table_offset), hash = 0;
    uint32_t entries = load_be32(b->table_size);
    int ret = 0;
    if (table > d->size || (d->size - table) / 8 < entries)
        return img_fail(err, EINVAL, "A bitmap's table at %#" PRIx64 " lies outside the file",
                        table);
    for (uint32_t i = 0; i < entries && !ret; i++)
        ret = hash_bitmap_cluster(d, load_be64(d->data + table + i * 8), cluster, &hash, err);
    fprintf(out, "bitmap %.*s holds hash %" PRIx64 "\n", load_be16(b->name_size),
            (const char *)(b + 1) + load_be32(b->extra_data_size), hash);
    return ret;
}

/* The directory was checked when the image was opened. */
static int print_bitmaps(FILE *out, const struct qcow2 *q, const struct disk *d,
                         struct img_error *err)
{
    size_t at = q->ext.bitmap_directory_offset;
    int ret = 0;
    for (size_t i = 0; i < q->bitmap_count && !ret; i++) {
        const struct ondisk_bitmap *b = (const void *)(d->data + at);
        ret = print_bitmap(out, d, at, q->geometry.cluster_size, err);
        at += align_up(sizeof *b + load_be32(b->extra_data_size) + load_be16(b->name_size), 8);
    }
    return ret;
}

static int take_kept(struct view *v, const struct scene *s, const struct disk *disks,
                     struct img *img, struct img_error *err)
{
    const struct qcow2 *q = scene_has_qcow2(s, disks) ? img->layers[0]->state : NULL;
    size_t length;
    int ret = 0;
    FILE *out = must(open_memstream(&v->kept, &length));
    for (size_t i = 0; q && i < q->snapshot_count && !ret; i++)
        ret = print_snapshot(out, s, disks, q->snapshots[i].info.id, &v->lost_snapshot, err);
    if (q)
        v->unknown = q->header.autoclear & ~(uint64_t)(AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW);
    if (q && !ret)
        ret = print_bitmaps(out, q, &disks[0], err);
    fclose(out);
    must(v->kept);
    return ret;
}

/* ---- views -------------------------------------------------------------------------------- */

void view_free(struct view *v)
{
    free(v->info);
    free(v->kept);
    free(v->guest);
    *v = (struct view){0};
}

bool view_equal(const struct view *a, const struct view *b)
{
    if (!a->image || !b->image)
        return a->image == b->image;
    return !strcmp(a->info, b->info) && !strcmp(a->kept, b->kept) && view_same_guest(a, b);
}

bool view_keeps(const struct view *a, const struct view *b)
{
    bool same = a->size == b->size && !strcmp(a->info, b->info) &&
                (a->lost_snapshot || !strcmp(a->kept, b->kept));
    for (size_t at = 0; same && at < max_u64(a->held, b->held); at += SECTOR)
        same = !memcmp(view_sector(a, at), view_sector(b, at), SECTOR) ||
               is_unreadable(view_sector(a, at));
    return same;
}

bool scene_has_qcow2(const struct scene *s, const struct disk *d)
{
    return !strcmp(s->format, "qcow2") && d->size >= 4 && !memcmp(d->data, "QFI\xfb", 4);
}

bool scene_has_image(const struct scene *s, const struct disk *d)
{
    return strcmp(s->format, "qcow2") || scene_has_qcow2(s, d);
}

int view_take(struct view *v, const struct scene *s, const struct disk *disks,
              struct img_error *err)
{
    struct img *img = NULL;
    *v = (struct view){.image = scene_has_image(s, disks)};
    if (!v->image)
        return 0;
    int ret = scene_look(&img, s, disks, 0, err);
    if (!ret)
        ret = take_info(v, img, err);
    if (!ret)
        ret = view_take_guest(v, s, img, err);
    if (!ret)
        ret = take_kept(v, s, disks, img, err);
    img_close(img);
    if (ret < 0)
        view_free(v);
    return ret;
}
