/* The header's cluster, put together: header, extensions, backing file name. */
#include "formats/qcow2/encode.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <string.h>

/* Room left in the cluster. */
struct writer {
    uint8_t *at;
    size_t left;
    bool full;
};

static void *take(struct writer *w, size_t length)
{
    if (w->full || length > w->left) {
        w->full = true;
        return NULL;
    }
    void *p = w->at;
    w->at += length;
    w->left -= length;
    return p;
}

static void put_extension(struct writer *w, uint32_t type, const void *data, size_t length)
{
    size_t padded = align_up(length, 8);
    struct ondisk_extension *e = take(w, sizeof *e + padded);
    if (!e)
        return;
    store_be32(e->type, type);
    store_be32(e->length, (uint32_t)length);
    if (length)
        memcpy(e + 1, data, length);
}

/*
 * The names of the features, for programs that do not know them. Where clusters are small, the
 * table would leave no room for the name of a backing file; QEMU draws the line at the same size.
 */
static void put_feature_names(struct writer *w, const struct qcow2_header *h)
{
    static const struct ondisk_feature_name names[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    enum { LARGEST_WITHOUT = 12 };
    if (h->version > 2 && h->cluster_bits > LARGEST_WITHOUT)
        put_extension(w, EXT_FEATURE_NAMES, names, sizeof names);
}

static void put_text(struct writer *w, uint32_t type, const char *text)
{
    if (text)
        put_extension(w, type, text, strlen(text));
}

static void put_bitmaps(struct writer *w, const struct qcow2_extensions *ext)
{
    struct ondisk_bitmaps d = {.reserved = {0}};
    if (!ext->has_bitmaps)
        return;
    store_be32(d.nb_bitmaps, ext->bitmap_count);
    store_be64(d.directory_size, ext->bitmap_directory_size);
    store_be64(d.directory_offset, ext->bitmap_directory_offset);
    put_extension(w, EXT_BITMAPS, &d, sizeof d);
}

static void put_crypto(struct writer *w, const struct qcow2_extensions *ext)
{
    struct ondisk_crypto d;
    if (!ext->has_crypto)
        return;
    store_be64(d.offset, ext->crypto_offset);
    store_be64(d.length, ext->crypto_length);
    put_extension(w, EXT_CRYPTO, &d, sizeof d);
}

static void put_bytes(struct writer *w, const uint8_t *data, size_t length)
{
    void *p = length ? take(w, length) : NULL;
    if (p)
        memcpy(p, data, length);
}

void qcow2_encode_fields(uint8_t *head, const struct qcow2_header *h)
{
    struct ondisk_header *d = (struct ondisk_header *)head;
    store_be32(d->magic, QCOW2_MAGIC);
    store_be32(d->version, h->version);
    store_be64(d->backing_file_offset, h->backing_offset);
    store_be32(d->backing_file_size, h->backing_size);
    store_be32(d->cluster_bits, h->cluster_bits);
    store_be64(d->size, h->size);
    store_be32(d->crypt_method, h->crypt_method);
    store_be32(d->l1_size, h->l1_size);
    store_be64(d->l1_table_offset, h->l1_offset);
    store_be64(d->refcount_table_offset, h->reftable_offset);
    store_be32(d->refcount_table_clusters, h->reftable_clusters);
    store_be32(d->nb_snapshots, h->snapshot_count);
    store_be64(d->snapshots_offset, h->snapshots_offset);
    if (h->version < 3)
        return;
    store_be64(d->incompatible_features, h->incompatible);
    store_be64(d->compatible_features, h->compatible);
    store_be64(d->autoclear_features, h->autoclear);
    store_be32(d->refcount_order, h->refcount_order);
    store_be32(d->header_length, h->length);
    if (h->length > HEADER_V3_LENGTH)
        d->compression_type = h->compression;
}

/*
 * QEMU's order, but for one thing: the feature names come behind the bitmaps. What changes when an
 * image is used then lies in the file's first sector, and one write can change all of it.
 */
static void put_extensions(struct writer *w, const struct qcow2_header *h,
                           const struct qcow2_header_parts *parts)
{
    put_text(w, EXT_BACKING_FORMAT, parts->backing_format);
    put_text(w, EXT_DATA_FILE, parts->data_file);
    put_crypto(w, &parts->ext);
    put_bitmaps(w, &parts->ext);
    if (!parts->terse)
        put_feature_names(w, h);
    put_bytes(w, parts->unknown, parts->unknown_length);
    put_extension(w, EXT_END, NULL, 0);
}

int qcow2_encode_header(uint8_t *cluster, const struct qcow2_header *header,
                        const struct qcow2_header_parts *parts)
{
    struct qcow2_header h = *header;
    struct writer w = {.at = cluster, .left = (size_t)1 << h.cluster_bits};
    size_t known = h.version < 3 ? HEADER_V2_LENGTH : sizeof(struct ondisk_header);
    memset(cluster, 0, w.left);
    take(&w, known);
    put_bytes(&w, parts->fields, parts->fields_length);
    h.length = (uint32_t)(known + parts->fields_length);
    put_extensions(&w, &h, parts);
    h.backing_offset = h.backing_size = 0;
    size_t used = (size_t)(w.at - cluster);
    if (used < parts->backing_from && parts->gap)
        put_bytes(&w, parts->gap + used, parts->backing_from - used);
    else if (used < parts->backing_from && parts->backing)
        take(&w, parts->backing_from - used);
    if (parts->backing) {
        h.backing_size = (uint32_t)strlen(parts->backing);
        h.backing_offset = (uint64_t)(w.at - cluster);
        put_bytes(&w, (const uint8_t *)parts->backing, h.backing_size);
    }
    qcow2_encode_fields(cluster, &h);
    return w.full ? -ENOSPC : 0;
}
