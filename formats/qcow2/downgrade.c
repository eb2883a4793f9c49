/* From version 3 to version 2, in the order and the words of QEMU. */
#include "formats/qcow2/amend.h"
#include "formats/qcow2/ondisk.h"

#include <errno.h>
#include <inttypes.h>

/* Programs that know only version 2 would not see how large a snapshot's disk or its state is. */
static int check_snapshots(const struct qcow2 *q, struct img_error *err)
{
    for (size_t i = 0; i < q->snapshot_count; i++) {
        const struct img_snapshot_info *s = &q->snapshots[i].info;
        if (s->vm_state_size > UINT32_MAX || s->disk_size != q->layer->size)
            return img_fail_detail(err, ENOTSUP, "Internal snapshots prevent downgrade of image",
                                   "snapshot '%s': disk size %" PRIu64 ", VM state size %" PRIu64,
                                   s->name, s->disk_size, s->vm_state_size);
    }
    return 0;
}

static int check_possible(const struct transaction *t, struct img_error *err)
{
    uint64_t features = t->header.incompatible & ~(uint64_t)INCOMPAT_COMPRESSION;
    if (t->header.refcount_order != 4)
        return img_fail_detail(err, ENOTSUP, "compat=0.10 requires refcount_bits=16",
                               "refcount_bits %u", 1u << t->header.refcount_order);
    if (t->q->geometry.external_data)
        return img_fail(err, ENOTSUP, "Cannot downgrade an image with a data file");
    int ret = check_snapshots(t->q, err);
    if (!ret && features)
        ret = img_fail(err, ENOTSUP,
                       "Cannot downgrade an image with incompatible features %#" PRIx64 " set",
                       features);
    return ret;
}

/* Unlike QEMU, which looks at the disk alone: a snapshot's data are lost, too, when the wrong
 * program uncompresses them. */
static int check_clusters(const struct transaction *t, const struct zero_survey *s, bool backed,
                          struct img_error *err)
{
    if (t->header.compression == COMPRESSION_ZSTD && s->compressed)
        return img_fail(err, ENOTSUP,
                        "Cannot downgrade an image with zstd compression type and existing "
                        "compressed clusters");
    if (t->q->layer->encrypted && backed && s->count)
        return img_fail(err, ENOTSUP,
                        "Cannot downgrade an encrypted image with zero clusters and a backing "
                        "file");
    return 0;
}

int qcow2_downgrade(struct transaction *t, bool backed, struct amend_progress *progress,
                    struct img_error *err)
{
    struct zero_survey survey;
    int ret = check_possible(t, err);
    if (ret < 0)
        return ret;
    ret = zero_clusters_survey(t, &survey, err);
    if (!ret)
        ret = check_clusters(t, &survey, backed, err);
    if (!ret)
        ret = zero_clusters_expand(t, &survey, backed, progress, err);
    zero_clusters_free(&survey);
    if (!ret)
        ret = tx_drop_bitmaps(t, err);
    if (ret < 0)
        return ret;
    t->header.version = 2;
    t->header.incompatible = t->header.compatible = t->header.autoclear = 0;
    t->header.compression = COMPRESSION_ZLIB;
    t->parts.fields_length = 0;
    t->parts_changed = true;
    return 0;
}
