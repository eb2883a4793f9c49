/*
 * The header: decoded in one place, then checked field by field, in the order and mostly in the
 * words of QEMU, with the value added where QEMU leaves it out.
 *
 * QEMU does not look whether tables lie inside the file or on top of each other; we do, so that no
 * number leads to a large allocation that the file does not pay for.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static void decode(struct qcow2_header *h, const struct ondisk_header *d)
{
    *h = (struct qcow2_header){
        .version = load_be32(d->version),
        .backing_offset = load_be64(d->backing_file_offset),
        .backing_size = load_be32(d->backing_file_size),
        .cluster_bits = load_be32(d->cluster_bits),
        .size = load_be64(d->size),
        .crypt_method = load_be32(d->crypt_method),
        .l1_size = load_be32(d->l1_size),
        .l1_offset = load_be64(d->l1_table_offset),
        .reftable_offset = load_be64(d->refcount_table_offset),
        .reftable_clusters = load_be32(d->refcount_table_clusters),
        .snapshot_count = load_be32(d->nb_snapshots),
        .snapshots_offset = load_be64(d->snapshots_offset),
        .refcount_order = 4,
        .length = HEADER_V2_LENGTH,
    };
    if (h->version < 3)
        return;
    h->incompatible = load_be64(d->incompatible_features);
    h->compatible = load_be64(d->compatible_features);
    h->autoclear = load_be64(d->autoclear_features);
    h->refcount_order = load_be32(d->refcount_order);
    h->length = load_be32(d->header_length);
    if (h->length > HEADER_V3_LENGTH)
        h->compression = d->compression_type;
}

static int check_magic(const struct qcow2 *q, const struct ondisk_header *d, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    if (q->file_size < sizeof d->magic || load_be32(d->magic) != QCOW2_MAGIC)
        return img_fail_detail(err, EINVAL, "Image is not in qcow2 format", "magic %#" PRIx32,
                               load_be32(d->magic));
    if (q->file_size < HEADER_V2_LENGTH)
        return img_fail(err, EINVAL,
                        "qcow2 header is cut short: the file has %" PRIu64 " bytes, at least %d "
                        "are needed",
                        q->file_size, HEADER_V2_LENGTH);
    if (h->version != 2 && h->version != 3)
        return img_fail(err, ENOTSUP, "Unsupported qcow2 version %" PRIu32, h->version);
    if (h->version == 3 && q->file_size < HEADER_V3_LENGTH)
        return img_fail(err, EINVAL,
                        "qcow2 version 3 header is cut short: the file has %" PRIu64
                        " bytes, at least %d are needed",
                        q->file_size, HEADER_V3_LENGTH);
    if (h->cluster_bits < MIN_CLUSTER_BITS || h->cluster_bits > MAX_CLUSTER_BITS)
        return img_fail(err, EINVAL, "Unsupported cluster size: 2^%" PRIu32, h->cluster_bits);
    return 0;
}

static int check_lengths(const struct qcow2_header *h, uint32_t cluster_size, struct img_error *err)
{
    if (h->version > 2 && h->length < HEADER_V3_LENGTH)
        return img_fail_detail(err, EINVAL, "qcow2 header too short",
                               "header_length %" PRIu32 ", at least %d", h->length,
                               HEADER_V3_LENGTH);
    if (h->length > cluster_size)
        return img_fail_detail(err, EINVAL, "qcow2 header exceeds cluster size",
                               "header_length %" PRIu32 ", cluster size %" PRIu32, h->length,
                               cluster_size);
    if (!is_aligned(h->length, 8))
        return img_fail(err, EINVAL, "qcow2 header_length %" PRIu32 " is not a multiple of 8",
                        h->length);
    if (h->backing_offset > cluster_size)
        return img_fail_detail(err, EINVAL, "Invalid backing file offset",
                               "%#" PRIx64 " is outside the first cluster", h->backing_offset);
    if (h->backing_offset && h->backing_offset < h->length)
        return img_fail_detail(err, EINVAL, "Invalid backing file offset",
                               "%#" PRIx64 " is inside the header", h->backing_offset);
    return 0;
}

static int check_compression(const struct qcow2_header *h, struct img_error *err)
{
    if (h->compression != COMPRESSION_ZLIB && h->compression != COMPRESSION_ZSTD)
        return img_fail(err, ENOTSUP, "qcow2: unknown compression type: %u", h->compression);
    bool flagged = h->incompatible & INCOMPAT_COMPRESSION;
    if (h->compression != COMPRESSION_ZLIB && !flagged)
        return img_fail_detail(err, EINVAL,
                               "qcow2: Compression type incompatible feature bit must be set",
                               "compression type %u", h->compression);
    if (h->compression == COMPRESSION_ZLIB && flagged)
        return img_fail_detail(err, EINVAL,
                               "qcow2: Compression type incompatible feature bit must not be set",
                               "compression type %u", h->compression);
    return 0;
}

static int check_features(struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    if (h->incompatible & ~(uint64_t)INCOMPAT_KNOWN)
        return qcow2_refuse_features(q, h->incompatible & ~(uint64_t)INCOMPAT_KNOWN, err);
    if (h->incompatible & INCOMPAT_CORRUPT && q->writable && !q->tolerant)
        return img_fail(err, EACCES, "qcow2: Image is corrupt; cannot be opened read/write");
    if (h->incompatible & INCOMPAT_EXTENDED_L2 && q->geometry.cluster_size / SUBCLUSTERS < 512)
        return img_fail(err, EINVAL, "Unsupported subcluster size: %" PRIu32,
                        q->geometry.cluster_size / SUBCLUSTERS);
    if (h->refcount_order > MAX_REFCOUNT_ORDER)
        return img_fail_detail(err, EINVAL,
                               "Reference count entry width too large; may not exceed 64 bits",
                               "refcount_order %" PRIu32, h->refcount_order);
    if (h->crypt_method > CRYPT_LUKS)
        return img_fail(err, ENOTSUP, "Unsupported encryption method %" PRIu32 " (crypt_method)",
                        h->crypt_method);
    return 0;
}

static void set_geometry(struct qcow2 *q)
{
    struct qcow2_geometry *g = &q->geometry;
    const struct qcow2_header *h = &q->header;
    g->version = h->version;
    g->cluster_bits = h->cluster_bits;
    g->cluster_size = 1u << h->cluster_bits;
    g->extended_l2 = h->incompatible & INCOMPAT_EXTENDED_L2;
    g->external_data = h->incompatible & INCOMPAT_DATA_FILE;
    g->l2_entry_size = g->extended_l2 ? 16 : 8;
    g->l2_bits = g->cluster_bits - (g->extended_l2 ? 4 : 3);
    g->subcluster_bits = g->cluster_bits - (g->extended_l2 ? 5 : 0);
}

int qcow2_validate_table(const struct qcow2 *q, uint64_t offset, uint64_t count,
                         uint64_t entry_size, uint64_t max_bytes, const char *name,
                         const char *count_name, struct img_error *err)
{
    if (count > max_bytes / entry_size) {
        img_error_set(err, EFBIG, "%s too large", name);
        img_context(err, "%s %" PRIu64 ", at most %" PRIu64, count_name, count,
                    max_bytes / entry_size);
        return -EFBIG;
    }
    uint64_t bytes = count * entry_size;
    if (offset > INT64_MAX - bytes || !is_aligned(offset, q->geometry.cluster_size)) {
        img_error_set(err, EINVAL, "%s offset invalid", name);
        img_context(err, "offset %#" PRIx64, offset);
        return -EINVAL;
    }
    if (bytes && offset + bytes > q->file_size && !q->tolerant)
        return img_fail(err, EINVAL,
                        "%s lies outside the file (offset %#" PRIx64 ", %" PRIu64
                        " bytes, the file ends at %#" PRIx64 ")",
                        name, offset, bytes, q->file_size);
    return 0;
}

static int check_refcount_table(const struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    if (!h->reftable_clusters && !q->tolerant)
        return img_fail_detail(err, EINVAL, "Image does not contain a reference count table",
                               "refcount_table_clusters 0");
    return qcow2_validate_table(q, h->reftable_offset, h->reftable_clusters,
                                q->geometry.cluster_size, MAX_REFTABLE_BYTES,
                                "Reference count table", "refcount_table_clusters", err);
}

static int check_l1(const struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    int ret = qcow2_validate_table(q, h->l1_offset, h->l1_size, 8, MAX_L1_BYTES, "Active L1 table",
                                   "l1_size", err);
    if (ret < 0)
        return ret;
    unsigned shift = q->geometry.cluster_bits + q->geometry.l2_bits;
    uint64_t needed = (h->size >> shift) + ((h->size & ((1ull << shift) - 1)) != 0);
    if (needed > INT_MAX)
        return img_fail_detail(err, EFBIG, "Image is too big", "size %" PRIu64, h->size);
    if (h->l1_size < needed)
        return img_fail_detail(err, EINVAL, "L1 table is too small",
                               "l1_size %" PRIu32 ", size %" PRIu64 " needs %" PRIu64, h->l1_size,
                               h->size, needed);
    return 0;
}

static int check_snapshot_table(const struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    return qcow2_validate_table(q, h->snapshots_offset, h->snapshot_count,
                                sizeof(struct ondisk_snapshot),
                                sizeof(struct ondisk_snapshot) * (uint64_t)MAX_SNAPSHOTS,
                                "Snapshot table", "nb_snapshots", err);
}

/* Headers, extensions and names are mostly within this much. */
enum { HEAD_LENGTH = 4096 };

static int load_head(struct qcow2 *q, struct img_error *err)
{
    q->head = malloc(HEAD_LENGTH);
    if (!q->head)
        return img_fail_nomem(err);
    int ret = file_read_padded(q->file, q->head, HEAD_LENGTH, host(0), err);
    return ret < 0 ? img_prefix(err, ret, "Could not read qcow2 header: ") : 0;
}

int qcow2_read_head(const struct qcow2 *q, void *buf, size_t len, uint64_t offset,
                    struct img_error *err)
{
    if (offset > HEAD_LENGTH || len > HEAD_LENGTH - offset)
        return file_read_padded(q->file, buf, len, host(offset), err);
    memcpy(buf, q->head + offset, len);
    return 0;
}

int qcow2_read_header(struct qcow2 *q, struct img_error *err)
{
    struct ondisk_header d = {0};
    int ret = load_head(q, err);
    if (!ret)
        ret = qcow2_read_head(q, &d, sizeof d, 0, err);
    if (ret < 0)
        return ret;
    decode(&q->header, &d);
    ret = check_magic(q, &d, err);
    if (ret < 0)
        return ret;
    set_geometry(q);
    ret = check_lengths(&q->header, q->geometry.cluster_size, err);
    if (!ret)
        ret = check_compression(&q->header, err);
    if (!ret)
        ret = check_features(q, err);
    if (!ret)
        ret = check_refcount_table(q, err);
    if (!ret)
        ret = q->tolerant ? 0 : check_snapshot_table(q, err);
    if (!ret)
        ret = check_l1(q, err);
    return ret;
}

/* The first of the COUNT tables that a range shares a byte with. */
static const char *overlapped(const struct placed_table *t, size_t count, uint64_t offset,
                              uint64_t length)
{
    for (size_t i = 0; i < count && length; i++)
        if (t[i].length && ranges_overlap(t[i].offset, t[i].length, offset, length))
            return t[i].name;
    return NULL;
}

const char *qcow2_overlapped(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    return overlapped(q->placed, PLACED_TABLES, offset, length);
}

int qcow2_check_overlaps(struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_header *h = &q->header;
    const struct placed_table tables[PLACED_TABLES] = {
        {"header", 0, q->geometry.cluster_size},
        {"active L1 table", h->l1_offset, h->l1_size * 8ull},
        {"refcount table", h->reftable_offset, (uint64_t)h->reftable_clusters << h->cluster_bits},
        {"snapshot table", h->snapshots_offset,
         h->snapshot_count * (uint64_t)sizeof(struct ondisk_snapshot)},
        {"bitmap directory", q->ext.bitmap_directory_offset, q->ext.bitmap_directory_size},
    };
    memcpy(q->placed, tables, sizeof tables);
    for (size_t i = 1; i < PLACED_TABLES; i++) {
        const char *other = overlapped(tables, i, tables[i].offset, tables[i].length);
        if (other && !q->tolerant)
            return img_fail(err, EINVAL, "The %s at %#" PRIx64 " overlaps the %s", tables[i].name,
                            tables[i].offset, other);
    }
    return 0;
}
