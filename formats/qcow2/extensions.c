/* "Header extensions": a list of (type, length, data) between the header and the backing name. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct extension {
    uint32_t type, length;
    uint64_t offset; /* of its data */
};

static uint64_t extensions_end(const struct qcow2 *q)
{
    return q->header.backing_offset ? q->header.backing_offset : q->geometry.cluster_size;
}

/* The extension at OFFSET, checked to lie inside the area. */
static int read_one(const struct qcow2 *q, uint64_t offset, struct extension *e,
                    struct img_error *err)
{
    struct ondisk_extension d;
    uint64_t end = extensions_end(q);
    if (end - offset < sizeof d)
        return img_fail_detail(err, EINVAL, "Header extension too large",
                               "it begins at %#" PRIx64 ", the area ends at %#" PRIx64, offset,
                               end);
    int ret = qcow2_read_head(q, &d, sizeof d, offset, err);
    if (ret < 0)
        return ret;
    *e = (struct extension){load_be32(d.type), load_be32(d.length), offset + sizeof d};
    if (e->type != EXT_END && e->length > end - e->offset)
        return img_fail_detail(err, EINVAL, "Header extension too large",
                               "type %#" PRIx32 ", length %" PRIu32 ", the area ends at %#" PRIx64,
                               e->type, e->length, end);
    return 0;
}

int qcow2_read_name(const struct qcow2 *q, uint64_t offset, uint32_t length, const char *what,
                    char **out, struct img_error *err)
{
    free(*out); /* given twice, the last one counts, as in QEMU */
    *out = calloc(1, (size_t)length + 1);
    if (!*out)
        return img_fail_nomem(err);
    int ret = qcow2_read_head(q, *out, length, offset, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read %s: ", what);
    size_t end = strlen(*out);
    for (size_t i = end; i < length; i++) /* padding is fine, hidden words are not */
        if ((*out)[i])
            return img_fail(err, EINVAL, "%s '%s' goes on after a NUL byte (length %" PRIu32 ")",
                            what, *out, length);
    return 0;
}

static int read_bitmaps(struct qcow2 *q, const struct extension *e, struct img_error *err)
{
    struct ondisk_bitmaps d;
    if (e->length != sizeof d)
        return img_fail_detail(err, EINVAL, "bitmaps_ext: Invalid extension length",
                               "%" PRIu32 ", it must be %zu", e->length, sizeof d);
    if (!(q->header.autoclear & AUTOCLEAR_BITMAPS)) {
        q->layer->bitmaps_stale =
            q->header.version < 3
                ? "This qcow2 v2 image contains bitmaps, but they may have been modified by a "
                  "program "
                  "without persistent bitmap support; so now they must all be considered "
                  "inconsistent"
                : "a program lacking bitmap support modified this file, so all bitmaps are now "
                  "considered inconsistent";
        return 0;
    }
    int ret = qcow2_read_head(q, &d, sizeof d, e->offset, err);
    if (ret < 0)
        return ret;
    if (q->ext.has_bitmaps)
        return img_fail(err, EINVAL, "Bitmaps extension is given twice (again at %#" PRIx64 ")",
                        e->offset);
    uint32_t count = load_be32(d.nb_bitmaps);
    uint64_t size = load_be64(d.directory_size), offset = load_be64(d.directory_offset);
    if (load_be32(d.reserved))
        return img_fail_detail(err, EINVAL, "bitmaps_ext: Reserved field is not zero", "%#" PRIx32,
                               load_be32(d.reserved));
    if (count > MAX_BITMAPS)
        return img_fail(err, EINVAL,
                        "bitmaps_ext: Image has %" PRIu32 " bitmaps, exceeding the QEMU "
                        "supported maximum of %d",
                        count, MAX_BITMAPS);
    if (!count)
        return img_fail_detail(err, EINVAL, "found bitmaps extension with zero bitmaps",
                               "nb_bitmaps 0");
    if (!is_aligned(offset, q->geometry.cluster_size))
        return img_fail_detail(err, EINVAL, "bitmaps_ext: invalid bitmap directory offset",
                               "%#" PRIx64, offset);
    if (size > MAX_BITMAP_DIRECTORY_BYTES)
        return img_fail(err, EINVAL,
                        "bitmaps_ext: bitmap directory size (%" PRIu64 ") exceeds the "
                        "maximum supported size (%d)",
                        size, MAX_BITMAP_DIRECTORY_BYTES);
    if (!q->tolerant && (offset > INT64_MAX - size || offset + size > q->file_size))
        return img_fail(err, EINVAL,
                        "bitmaps_ext: bitmap directory lies outside the file (offset %#" PRIx64
                        ", %" PRIu64 " bytes, the file ends at %#" PRIx64 ")",
                        offset, size, q->file_size);
    q->ext.has_bitmaps = true;
    q->ext.bitmap_count = count;
    q->ext.bitmap_directory_size = size;
    q->ext.bitmap_directory_offset = offset;
    return 0;
}

static int read_crypto(struct qcow2 *q, const struct extension *e, struct img_error *err)
{
    struct ondisk_crypto d;
    if (q->header.crypt_method != CRYPT_LUKS)
        return img_fail_detail(err, EINVAL,
                               "CRYPTO header extension only expected with LUKS encryption method",
                               "crypt_method %" PRIu32, q->header.crypt_method);
    if (e->length != sizeof d)
        return img_fail(err, EINVAL,
                        "CRYPTO header extension size %" PRIu32 ", but expected size %zu",
                        e->length, sizeof d);
    int ret = qcow2_read_head(q, &d, sizeof d, e->offset, err);
    if (ret < 0)
        return ret;
    if (q->ext.has_crypto)
        return img_fail(err, EINVAL,
                        "CRYPTO header extension is given twice (again at %#" PRIx64 ")",
                        e->offset);
    uint64_t offset = load_be64(d.offset), length = load_be64(d.length);
    if (!is_aligned(offset, q->geometry.cluster_size))
        return img_fail(err, EINVAL,
                        "Encryption header offset '%" PRIu64 "' is not a multiple of "
                        "cluster size '%" PRIu32 "'",
                        offset, q->geometry.cluster_size);
    if (!q->tolerant &&
        (offset > INT64_MAX || length > INT64_MAX - offset || offset + length > q->file_size))
        return img_fail(err, EINVAL,
                        "Encryption header lies outside the file (offset %" PRIu64
                        ", length %" PRIu64 ")",
                        offset, length);
    q->ext.has_crypto = true;
    q->ext.crypto_offset = offset;
    q->ext.crypto_length = length;
    return 0;
}

static int read_known(struct qcow2 *q, const struct extension *e, struct img_error *err)
{
    switch (e->type) {
    case EXT_BACKING_FORMAT:
        if (e->length > MAX_BACKING_FORMAT)
            return img_fail(err, EINVAL,
                            "ERROR: ext_backing_format: len=%" PRIu32 " too large (>=%d)",
                            e->length, MAX_BACKING_FORMAT + 1);
        return qcow2_read_name(q, e->offset, e->length, "Backing format", &q->layer->backing_format,
                               err);
    case EXT_DATA_FILE:
        if (e->length > MAX_DATA_FILE_NAME)
            return img_fail(err, EINVAL, "Data file name too long (%" PRIu32 " bytes, at most %d)",
                            e->length, MAX_DATA_FILE_NAME);
        return qcow2_read_name(q, e->offset, e->length, "Data file name", &q->layer->data_file_name,
                               err);
    case EXT_BITMAPS:
        return read_bitmaps(q, e, err);
    case EXT_CRYPTO:
        return read_crypto(q, e, err);
    default:
        return 0; /* unknown extensions say nothing to a reader */
    }
}

int qcow2_read_extensions(struct qcow2 *q, struct img_error *err)
{
    uint64_t offset = q->header.length, end = extensions_end(q);
    while (offset < end) {
        struct extension e;
        int ret = read_one(q, offset, &e, err);
        if (!ret && e.type == EXT_END)
            return 0;
        if (!ret)
            ret = read_known(q, &e, err);
        if (ret < 0)
            return ret;
        offset = e.offset + align_up(e.length, 8);
    }
    return 0;
}

/* Appends the names that the table gives to bits of *UNKNOWN, and takes these bits away. */
static int name_features(const struct qcow2 *q, const struct extension *e, uint64_t *unknown,
                         FILE *out, const char **separator, struct img_error *err)
{
    for (uint32_t at = 0; at < e->length; at += sizeof(struct ondisk_feature_name)) {
        struct ondisk_feature_name name = {0}; /* the last one may be cut short */
        size_t length = min_u64(sizeof name, e->length - at);
        int ret = qcow2_read_head(q, &name, length, e->offset + at, err);
        if (ret < 0)
            return ret;
        if (!name.name[0])
            return 0;
        if (name.type || name.bit > 63 || !(*unknown >> name.bit & 1))
            continue;
        fprintf(out, "%s%.46s", *separator, name.name);
        *separator = ", ";
        *unknown &= ~(1ull << name.bit);
    }
    return 0;
}

int qcow2_refuse_features(struct qcow2 *q, uint64_t unknown, struct img_error *err)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return img_fail_nomem(err);
    const char *separator = "";
    uint64_t offset = q->header.length, end = extensions_end(q);
    while (offset < end) {
        struct extension e;
        if (read_one(q, offset, &e, NULL) < 0 || e.type == EXT_END)
            break;
        if (e.type == EXT_FEATURE_NAMES &&
            name_features(q, &e, &unknown, out, &separator, NULL) < 0)
            break;
        offset = e.offset + align_up(e.length, 8);
    }
    if (unknown)
        fprintf(out, "%sUnknown incompatible feature: %" PRIx64, separator, unknown);
    int ret = fclose(out) ? img_fail_nomem(err)
                          : img_fail(err, ENOTSUP, "Unsupported qcow2 feature(s): %s", text);
    free(text);
    return ret;
}
