/* How a new image begins: what it will need is counted, then all parts are given their places. */
#include "formats/qcow2/build.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <string.h>

static bool expected(const struct builder *b, uint64_t table)
{
    return b->tables[table / 8] >> (table % 8) & 1;
}

int build_expect(void *builder, guest_off off, uint64_t len, struct img_error *err)
{
    struct builder *b = builder;
    (void)err;
    if (b->mapped)
        return 0;
    uint64_t first = max_u64(off.v >> b->layout->cluster_bits, b->next_expected);
    uint64_t end = div_round_up(off.v + len, cluster_size(b));
    if (first >= end)
        return 0;
    b->layout->data_clusters += end - first;
    b->next_expected = end;
    for (uint64_t t = first >> table_bits(b); t <= (end - 1) >> table_bits(b); t++) {
        b->layout->l2_tables += !expected(b, t);
        b->tables[t / 8] |= (uint8_t)(1u << (t % 8));
    }
    return 0;
}

/* ---- a pipe: all that comes before the L2 tables ---- */

typedef void fill_fn(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset, size_t length);

static int write_filled(struct builder *b, uint64_t at, uint64_t length, fill_fn *fill,
                        struct img_error *err)
{
    size_t n = (size_t)cluster_size(b);
    int ret = 0;
    for (uint64_t done = 0; done < length && !ret; done += n) {
        fill(b->layout, b->l2, done, n);
        ret = file_write(b->file, b->l2, n, host(at + done), err);
    }
    return ret;
}

static int write_l1_ahead(struct builder *b, struct img_error *err)
{
    const struct qcow2_layout *l = b->layout;
    uint64_t table = 0, per = cluster_size(b) / 8, at = l->l1_offset;
    int ret = 0;
    for (uint64_t i = 0; i < l->l1_entries && !ret; at += cluster_size(b)) {
        memset(b->l2, 0, (size_t)cluster_size(b));
        for (uint64_t k = 0; k < per && i < l->l1_entries; k++, i++)
            if (expected(b, i))
                store_be64(b->l2 + k * 8,
                           (l->l2_offset + (table++ << l->cluster_bits)) | ENTRY_COPIED);
        ret = file_write(b->file, b->l2, (size_t)cluster_size(b), host(at), err);
    }
    return ret;
}

static int start_sequential(struct builder *b, struct img_error *err)
{
    const struct qcow2_layout *l = b->layout;
    unsigned bits = l->cluster_bits;
    int ret = qcow2_encode_header(b->l2, &b->plan->header, &b->plan->names);
    if (ret < 0) /* the plan has seen that it fits */
        return img_fail_errno(err, -ret, "Could not write qcow2 header");
    ret = file_write(b->file, b->l2, (size_t)cluster_size(b), host(0), err);
    if (!ret)
        ret = write_filled(b, l->reftable_offset, l->reftable_clusters << bits,
                           qcow2_layout_reftable, err);
    if (!ret)
        ret = write_filled(b, l->refblocks_offset, l->refblocks << bits, qcow2_layout_refblocks,
                           err);
    return ret < 0 ? ret : write_l1_ahead(b, err);
}

/* ---- starting ---- */

static int lay_out(struct builder *b, struct img_error *err)
{
    struct qcow2_layout *l = b->layout;
    struct qcow2_header *h = &b->plan->header;
    b->small = cluster_size(b) < HOST_BLOCK && l->l2_tables && !b->compress && !b->sequential &&
               !b->file->device;
    if (b->small) /* for the gap before the data */
        l->data_clusters += HOST_BLOCK >> l->cluster_bits;
    if (!qcow2_layout_compute(l))
        return img_fail(err, EFBIG, "The image size is too large");
    if (b->small)
        build_small_lay_out(b);
    h->l1_offset = l->l1_offset;
    h->reftable_offset = l->reftable_offset;
    h->reftable_clusters = (uint32_t)l->reftable_clusters;
    b->next_host = b->uncounted = l->metadata;
    return 0;
}

/* Every cluster of a used file has its place already. */
static int forget_all_but_data(struct builder *b, struct img_error *err)
{
    const struct qcow2_layout *l = b->layout;
    int ret = file_truncate(b->file, l->end, err);
    if (!ret)
        ret = file_forget_rest(b->file, b->plan->preallocation, err);
    return ret < 0 ? ret : file_zero_keep(b->file, host(0), min_u64(l->metadata, l->end), err);
}

int build_start(void *builder, struct file *f, struct file *data_file, bool sequential,
                struct img_error *err)
{
    struct builder *b = builder;
    b->file = f;
    b->data_file = data_file;
    b->sequential = sequential;
    if (sequential && (b->mapped || b->layout->external_data))
        return img_fail(err, ENOTSUP, "A stream has no preallocation and no data file");
    int ret = data_file && data_file->used
                  ? file_forget_rest(data_file, b->plan->preallocation, err)
                  : 0;
    if (!ret && b->mapped && f->used)
        ret = forget_all_but_data(b, err);
    if (!ret && b->mapped)
        ret = qcow2_write_new_tables(f, b->plan, err);
    if (ret < 0 || b->mapped)
        return ret;
    ret = lay_out(b, err);
    if (ret < 0 || sequential)
        return ret < 0 ? ret : start_sequential(b, err);
    if (f->used)
        ret = file_truncate(f, f->good, err);
    if (!ret && (f->device || f->used))
        ret = qcow2_clear_header(f, err);
    if (!ret && (f->device || f->used)) /* tables are written where they are not zero */
        ret = file_zero(f, host(cluster_size(b)), b->layout->metadata - cluster_size(b), err);
    if (!ret)
        ret = build_refs_init(&b->refs, b->layout, f, err);
    return ret;
}
