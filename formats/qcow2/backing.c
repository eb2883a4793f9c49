/*
 * The backing file's name and format, changed in one write of the header's first sector; and images
 * made empty, so that all of the disk is read from below.
 *
 * What an empty image still needs is known without looking at its L2 tables, unless snapshots,
 * bitmaps or a key share the file with them: the refcounts then are those of the header, the
 * refcount blocks and their table, and the L1 table. Both ways are one transaction.
 */
#include "formats/qcow2/backing.h"
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/resize.h"
#include "formats/qcow2/write.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the name ------------------------------------------------------------------------------ */

static int check_names(const struct qcow2 *q, const char *name, const char *format,
                       struct img_error *err)
{
    if (name && (q->header.autoclear & AUTOCLEAR_DATA_FILE_RAW))
        return img_fail_detail(err, EINVAL, "Invalid argument",
                               "the external data file is a raw disk by itself, so that no backing "
                               "file can be below it");
    if (name && strlen(name) > MAX_BACKING_NAME)
        return img_fail_detail(err, EINVAL, "Invalid argument",
                               "the name has %zu bytes, at most %d are possible", strlen(name),
                               MAX_BACKING_NAME);
    if (format && strlen(format) > MAX_BACKING_FORMAT)
        return img_fail_detail(err, EINVAL, "Invalid argument",
                               "the format's name has %zu bytes, at most %d are possible",
                               strlen(format), MAX_BACKING_FORMAT);
    return 0;
}

static void set_parts(struct qcow2_header_parts *parts, const struct qcow2_header *header,
                      const char *name, const char *format)
{
    parts->backing = name;
    parts->backing_format = name ? format : NULL;
    if (!(header->autoclear & AUTOCLEAR_BITMAPS)) /* of bitmaps that say nothing any more */
        parts->ext.has_bitmaps = false;
}

static bool equal(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

static int check_room(struct qcow2 *q, const char *name, const char *format, struct img_error *err)
{
    struct qcow2_header_parts parts;
    uint8_t *cluster = NULL;
    int ret = qcow2_read_parts(q, &parts, &cluster, err);
    if (ret < 0)
        return ret;
    set_parts(&parts, &q->header, name, format);
    ret = qcow2_check_header(q, &q->header, &parts, err);
    free(cluster);
    return ret;
}

int qcow2_set_backing(struct layer *l, const char *name, const char *format, bool only_check,
                      struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct transaction t;
    int ret = qcow2_still_there(q, err);
    if (!ret)
        ret = check_names(q, name, format, err);
    if (ret < 0 || only_check)
        return ret < 0 ? ret : check_room(q, name, format, err);
    if (equal(name, l->backing_name) && equal(name ? format : NULL, l->backing_format))
        return q->writable ? qcow2_settle(q, err) : 0;
    ret = tx_begin(&t, q, err);
    if (ret < 0)
        return ret;
    set_parts(&t.parts, &t.header, name, format);
    t.parts_changed = true;
    ret = tx_commit(&t, err);
    tx_end(&t);
    return ret;
}

int qcow2_plan_names(struct layer *l, const struct layer_names *names, struct head_change *out,
                     struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct qcow2_header header = q->header;
    struct qcow2_header_parts parts;
    uint8_t *cluster = NULL;
    const char *backing = names->backing ? names->backing : l->backing_name;
    const char *format = names->backing_format ? names->backing_format : l->backing_format;
    int ret = qcow2_still_there(q, err);
    if (!ret)
        ret = check_names(q, backing, format, err);
    if (!ret && names->data_file && strlen(names->data_file) > MAX_DATA_FILE_NAME)
        ret = img_fail_detail(err, EINVAL, "Invalid argument",
                              "the data file's name has %zu bytes, at most %d are possible",
                              strlen(names->data_file), MAX_DATA_FILE_NAME);
    if (!ret)
        ret = qcow2_read_parts(q, &parts, &cluster, err);
    if (ret < 0)
        return ret;
    header.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;
    set_parts(&parts, &header, backing, format);
    parts.data_file = names->data_file ? names->data_file : l->data_file_name;
    ret = qcow2_plan_header(q, &header, &parts, out, err);
    free(cluster);
    return ret;
}

/* ---- emptiness ----------------------------------------------------------------------------- */

/* Does anything but the header and the disk's own tables and data lie in the file? */
static bool shares_file(const struct qcow2 *q)
{
    return q->snapshot_count || q->ext.has_bitmaps || q->header.crypt_method != CRYPT_NONE ||
           q->geometry.external_data;
}

static int count_range(struct transaction *t, uint64_t offset, uint64_t length,
                       struct img_error *err)
{
    unsigned bits = t->q->geometry.cluster_bits;
    int ret = 0;
    for (uint64_t at = offset >> bits; !ret && at << bits < offset + length; at++)
        ret = refcounts_set(&t->refs, at, 1, err);
    return ret;
}

/* The refcounts of an image with nothing but its tables, whatever they were. */
static int count_tables_only(struct transaction *t, struct img_error *err)
{
    const struct qcow2_header *h = &t->q->header;
    struct refcounts *r = &t->refs;
    uint32_t cluster = t->q->geometry.cluster_size;
    int ret = 0;
    for (uint64_t i = 0; i < r->old_entries && !ret; i++) {
        struct refblock *b;
        if (!r->old[i])
            continue;
        ret = refcounts_load(r, i, &b, err);
        if (!ret)
            ret = refcounts_change(r, i, b, 0, refcounts_per_block(r), err);
        if (!ret)
            memset(b->data, 0, cluster);
    }
    for (uint64_t i = 0; i < r->old_entries && !ret; i++)
        ret = r->old[i] ? count_range(t, r->old[i], cluster, err) : 0;
    if (!ret)
        ret = count_range(t, 0, cluster, err);
    if (!ret)
        ret = count_range(t, h->reftable_offset, (uint64_t)h->reftable_clusters * cluster, err);
    return ret < 0 ? ret : count_range(t, h->l1_offset, h->l1_size * 8ull, err);
}

/* One reference less to all that the disk has. */
static int release_disk(struct transaction *t, struct img_error *err)
{
    const struct qcow2_header *h = &t->q->header;
    uint8_t *l1;
    int ret = tx_load_l1(t, h->l1_offset, h->l1_size, &l1, err);
    if (ret < 0)
        return ret;
    ret = tx_count_all(t, l1, h->l1_size, -1, err);
    free(l1);
    return ret;
}

static int empty(struct transaction *t, struct img_error *err)
{
    uint32_t size = t->q->header.l1_size;
    uint8_t *l1 = calloc(size + 1, 8);
    if (!l1)
        return img_fail_nomem(err);
    int ret = shares_file(t->q) ? release_disk(t, err) : count_tables_only(t, err);
    if (!ret)
        ret = tx_replace_l1(t, l1, size, err);
    free(l1);
    return ret < 0 ? ret : tx_commit(t, err);
}

/* What the data file had is nobody's now. What fails here costs only the host's space. */
static void empty_data_file(const struct layer *l)
{
    uint64_t size;
    struct file *f = l->data_file;
    if (f && !f->device && file_size(f, &size, NULL) == 0)
        f->ops->zero(f, host(0), size);
}

int qcow2_make_empty(struct layer *l, struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct transaction t;
    int ret = tx_begin(&t, q, err);
    if (ret < 0)
        return ret;
    ret = empty(&t, err);
    if (!ret)
        tx_go_home(&t, UINT64_MAX);
    tx_end(&t);
    if (ret < 0)
        return ret;
    empty_data_file(l);
    qcow2_compact(q);
    return 0;
}
