/* The qcow2 format: what the core asks of it. */
#include "formats/qcow2/qcow2.h"
#include "formats/qcow2/amend.h"
#include "formats/qcow2/backing.h"
#include "formats/qcow2/build.h"
#include "formats/qcow2/create.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/snapshot_change.h"
#include "formats/qcow2/write.h"
#include "formats/qcow2/resize.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int qcow2_probe(const uint8_t *head, size_t len)
{
    /* version 1 is another format of the same magic; a version nobody knows is refused by name here
     */
    return len >= 8 && load_be32(head) == QCOW2_MAGIC && load_be32(head + 4) >= 2 ? 100 : 0;
}

static int read_backing_name(struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    if (!h->backing_offset)
        return 0;
    uint64_t room = min_u64(MAX_BACKING_NAME, q->geometry.cluster_size - h->backing_offset);
    if (h->backing_size > room)
        return img_fail_detail(err, EINVAL, "Backing file name too long",
                               "%" PRIu32 " bytes, at most %" PRIu64, h->backing_size, room);
    char **name = &q->layer->backing_name;
    int ret = qcow2_read_name(q, h->backing_offset, h->backing_size, "Backing file name", name,
                              err);
    if (!ret && !**name) { /* an empty name is none */
        free(*name);
        *name = NULL;
    }
    return ret;
}

static int check_data_file(struct qcow2 *q, unsigned flags, struct img_error *err)
{
    bool external = q->geometry.external_data;
    bool raw = q->header.autoclear & AUTOCLEAR_DATA_FILE_RAW;
    const char *name = q->layer->data_file_name;
    bool nameless = !name || !*name;
    q->layer->external_data = external;
    if (external && nameless && !q->layer->data_file_given && !(flags & IMG_OPEN_NO_DATA))
        return img_fail(err, EINVAL, "'data-file' is required for this image");
    if (!external && raw)
        return img_fail_detail(err, EINVAL, "data-file-raw requires a data file",
                               "autoclear bit 1");
    if (raw && q->layer->backing_name)
        return img_fail(err, EINVAL, "data-file-raw forbids a backing file ('%s')",
                        q->layer->backing_name);
    if (!external) { /* a name without its feature bit is only words */
        free(q->layer->data_file_name);
        q->layer->data_file_name = NULL;
    }
    return 0;
}

static int check_encryption(struct qcow2 *q, unsigned flags, struct img_error *err)
{
    uint32_t method = q->header.crypt_method;
    if (method == CRYPT_NONE)
        return 0;
    q->layer->encrypted = true;
    if (method == CRYPT_LUKS && !q->ext.has_crypto)
        return img_fail(err, EINVAL, "Missing CRYPTO header for crypt method %" PRIu32, method);
    int ret = method == CRYPT_LUKS && !q->tolerant ? qcow2_read_luks_header(q, err) : 0;
    if (!ret && !(flags & IMG_OPEN_NO_DATA))
        ret = img_fail(err, ENOTSUP, "Parameter 'encrypt.key-secret' is required for cipher");
    return ret;
}

static int read_metadata(struct qcow2 *q, struct img_error *err)
{
    unsigned flags = q->flags;
    int ret = file_size(q->file, &q->file_size, err);
    if (ret < 0)
        return ret;
    atomic_store(&q->known_size, q->file_size);
    ret = qcow2_read_header(q, err);
    if (ret < 0)
        return ret;
    struct layer *l = q->layer;
    l->size = align_down(q->header.size, 512);
    l->cluster_size = q->geometry.cluster_size;
    q->l1_offset = q->header.l1_offset;
    q->l1_size = q->header.l1_size;
    ret = qcow2_read_extensions(q, err);
    if (!ret)
        ret = qcow2_check_overlaps(q, err);
    if (!ret)
        ret = read_backing_name(q, err);
    if (!ret)
        ret = check_data_file(q, flags, err);
    if (!ret)
        ret = check_encryption(q, flags, err);
    if (!ret && q->tolerant)
        return 0;
    if (!ret)
        ret = qcow2_read_snapshots(q, err);
    if (!ret)
        ret = qcow2_read_bitmaps(q, err);
    if (!ret && !(flags & IMG_OPEN_NO_DATA))
        ret = qcow2_load_l1(q, err);
    return ret;
}

static void forget_metadata(struct qcow2 *q)
{
    for (size_t i = 0; i < q->snapshot_count; i++) {
        free(q->snapshots[i].info.id);
        free(q->snapshots[i].info.name);
    }
    for (size_t i = 0; i < q->bitmap_count; i++)
        free(q->bitmaps[i].info.name);
    free(q->snapshots);
    free(q->bitmaps);
    free(q->l1);
    free(q->head);
    q->snapshots = NULL;
    q->bitmaps = NULL;
    q->snapshot_count = q->bitmap_count = 0;
    q->l1 = q->head = NULL;
}

static void qcow2_close(struct layer *l)
{
    struct qcow2 *q = l->state;
    qcow2_stop_writing(q);
    forget_metadata(q);
    cache_destroy(&q->tables);
    cache_destroy(&q->clusters);
    qcow2_free_decompressors(q);
    free(q);
}

static int qcow2_open(struct layer *l, unsigned flags, struct img_error *err)
{
    struct qcow2 *q = calloc(1, sizeof *q);
    if (!q)
        return img_fail_nomem(err);
    q->layer = l;
    q->file = l->file;
    q->flags = flags;
    q->tolerant = flags & IMG_OPEN_CHECK;
    q->writable = flags & IMG_OPEN_WRITE;
    l->state = q;
    cache_init(&q->tables);
    cache_init(&q->clusters);
    pthread_mutex_init(&q->decompressors_lock, NULL);
    atomic_init(&q->data_has_holes, -1);
    atomic_init(&q->known_size, 0);
    int ret = read_metadata(q, err);
    free(q->head);
    q->head = NULL;
    if (!ret && q->writable && !q->tolerant && (q->header.incompatible & INCOMPAT_DIRTY))
        ret = qcow2_repair_dirty(l, err);
    if (ret < 0)
        qcow2_close(l);
    return ret;
}

static void forget_names(struct layer *l)
{
    char **names[] = {&l->backing_name, &l->backing_format, &l->data_file_name};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        free(*names[i]);
        *names[i] = NULL;
    }
    l->bitmaps_stale = NULL;
}

int qcow2_reload(struct qcow2 *q, struct img_error *err)
{
    forget_metadata(q);
    forget_names(q->layer);
    cache_forget(&q->tables);
    cache_forget(&q->clusters);
    q->ext = (struct qcow2_extensions){0};
    memset(q->placed, 0, sizeof q->placed);
    atomic_store(&q->data_has_holes, -1);
    int ret = read_metadata(q, err);
    free(q->head);
    q->head = NULL;
    if (ret < 0) {
        forget_metadata(q);
        q->lost = true;
        q->writable = false;
        img_prefix(err, ret, "The image was changed, and cannot be read again: ");
    }
    return ret;
}

int qcow2_still_there(const struct qcow2 *q, struct img_error *err)
{
    if (q->lost)
        return img_fail(err, EBADF, "The metadata of '%s' could not be read again after a change",
                        q->layer->filename);
    return 0;
}

static int qcow2_select_snapshot(struct layer *l, const struct img_open_options *options,
                                 struct img_error *err)
{
    struct qcow2 *q = l->state;
    const char *id = options->snapshot_id, *name = options->snapshot_name;
    const struct qcow2_snapshot *s = options->snapshot ? qcow2_find_snapshot(q, options->snapshot)
                                                       : qcow2_find_snapshot_both(q, id, name);
    if (!s)
        return img_fail_detail(err, ENOENT, "Failed to load snapshot: Can't find snapshot", "'%s'",
                               options->snapshot ? options->snapshot
                               : id              ? id
                                                 : name);
    q->l1_offset = s->l1_offset;
    q->l1_size = s->l1_size;
    l->size = align_down(s->info.disk_size, 512);
    return q->l1 ? qcow2_load_l1(q, err) : 0;
}

static int copy_snapshots(const struct qcow2 *q, struct img_info *info, struct img_error *err)
{
    if (!q->snapshot_count)
        return 0;
    info->snapshots = calloc(q->snapshot_count, sizeof *info->snapshots);
    if (!info->snapshots)
        return img_fail_nomem(err);
    for (size_t i = 0; i < q->snapshot_count; i++) {
        struct img_snapshot_info *s = &info->snapshots[info->snapshot_count++];
        *s = q->snapshots[i].info;
        s->id = strdup(s->id);
        s->name = strdup(s->name);
        if (!s->id || !s->name)
            return img_fail_nomem(err);
    }
    return 0;
}

static int copy_bitmaps(const struct qcow2 *q, struct img_qcow2_info *info, struct img_error *err)
{
    if (!q->bitmap_count)
        return 0;
    info->bitmaps = calloc(q->bitmap_count, sizeof *info->bitmaps);
    if (!info->bitmaps)
        return img_fail_nomem(err);
    for (size_t i = 0; i < q->bitmap_count; i++) {
        struct img_bitmap_info *b = &info->bitmaps[info->bitmap_count++];
        *b = q->bitmaps[i].info;
        b->name = strdup(b->name);
        if (!b->name)
            return img_fail_nomem(err);
    }
    return 0;
}

static int qcow2_describe(struct layer *l, struct img_info *info, struct img_error *err)
{
    const struct qcow2 *q = l->state;
    const struct qcow2_header *h = &q->header;
    struct img_qcow2_info *i = &info->qcow2;
    int ret = qcow2_still_there(q, err);
    if (ret < 0)
        return ret;
    info->is_qcow2 = true;
    info->has_dirty = true;
    info->dirty = h->incompatible & INCOMPAT_DIRTY;
    info->encryption = q->encryption;
    i->version = h->version;
    i->compression_type = h->compression == COMPRESSION_ZSTD ? "zstd" : "zlib";
    i->lazy_refcounts = h->compatible & COMPAT_LAZY_REFCOUNTS;
    i->corrupt = h->incompatible & INCOMPAT_CORRUPT;
    i->extended_l2 = q->geometry.extended_l2;
    i->refcount_bits = 1u << h->refcount_order;
    i->has_data_file = q->geometry.external_data;
    i->data_file_raw = h->autoclear & AUTOCLEAR_DATA_FILE_RAW;
    i->l1_entries = h->l1_size;
    if (l->data_file_name) {
        i->data_file = strdup(l->data_file_name);
        if (!i->data_file)
            return img_fail_nomem(err);
    }
    ret = copy_snapshots(q, info, err);
    return ret < 0 ? ret : copy_bitmaps(q, i, err);
}

static int qcow2_tables(struct layer *l, struct layer_tables *out, struct img_error *err)
{
    struct qcow2 *q = l->state;
    const struct qcow2_geometry *g = &q->geometry;
    uint64_t tables;
    int ret = qcow2_count_l2(q, &tables, err);
    if (ret < 0)
        return ret;
    out->l2_bytes = tables << g->cluster_bits;
    out->extended_l2 = g->extended_l2;
    return 0;
}

static const struct driver_writing writing = {
    .place = qcow2_place,
    .link = qcow2_link,
    .place_compressed = qcow2_place_compressed,
    .compressor_create = qcow2_layer_compressor,
    .give_up = qcow2_give_up,
    .zero_unit = qcow2_zero_unit,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .settle = qcow2_settle_layer,
};

const struct driver qcow2_driver = {
    .name = "qcow2",
    .probe = qcow2_probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .select_snapshot = qcow2_select_snapshot,
    .snapshot_head = qcow2_snapshot_head,
    .map = qcow2_map,
    .read_compressed = qcow2_read_compressed,
    .data_has_holes = qcow2_data_has_holes,
    .describe = qcow2_describe,
    .tables = qcow2_tables,
    .check = qcow2_check,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .writing = &writing,
    .repair = qcow2_repair,
    .sweep = qcow2_sweep,
    .resize = qcow2_resize,
    .create_options = qcow2_create_options,
    .plan = qcow2_plan,
    .create = qcow2_create,
    .measure = qcow2_measure,
    .building = &qcow2_building,
    .amend_options = qcow2_amend_options,
    .amend = qcow2_amend,
    .change_bitmap = qcow2_change_bitmap,
    .set_backing = qcow2_set_backing,
    .plan_names = qcow2_plan_names,
    .make_empty = qcow2_make_empty,
};
