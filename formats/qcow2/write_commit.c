/* The order in which guest writes come to disk: see write.h for the steps. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What may wait in memory. */
enum { MAX_PIECE_BYTES = 16 << 20, MAX_FREED = 1 << 16 };

/* A flush that failed may have lost what was written before: nothing can build on it. */
static int flush_file(struct qcow2_writer *w, struct file *f, bool *unflushed,
                      struct img_error *err)
{
    if (!*unflushed)
        return 0;
    int ret = file_flush(f, err);
    if (ret == -ECANCELED)
        return ret;
    w->broken = ret < 0;
    *unflushed = false;
    return ret;
}

static int flush_both(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    int ret = flush_file(w, q->layer->data_file, &w->data_unflushed, err);
    return ret < 0 ? ret : flush_file(w, q->file, &w->unflushed, err);
}

/* ---- the steps ----------------------------------------------------------------------------- */

static int store_refcounts(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    if (!w->refs.changed_count)
        return 0;
    w->unflushed = true;
    return refcounts_store(&w->refs, err);
}

/* Pieces of new tables, or of those that the file has. */
static int write_pieces(struct qcow2 *q, bool fresh, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    for (size_t i = 0; i < w->piece_count; i++) {
        struct pending_piece *p = w->pieces[i];
        uint32_t from = p->fresh ? 0 : p->dirty_from;
        uint32_t to = p->fresh ? qcow2_piece_bytes(q) : p->dirty_to;
        if (p->fresh != fresh || from >= to)
            continue;
        w->unflushed = true;
        int ret = file_write(q->file, p->data + from, to - from, host(p->offset + from), err);
        if (ret < 0)
            return img_prefix(err, ret, "Could not write L2 table: ");
        if (!fresh)
            p->dirty_from = p->dirty_to = 0;
    }
    return 0;
}

static int compare_index(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int write_l1(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    if (w->l1_dirty_count)
        qsort(w->l1_dirty, w->l1_dirty_count, sizeof *w->l1_dirty, compare_index);
    for (size_t i = 0, n; i < w->l1_dirty_count; i += n) {
        uint64_t at = w->l1_dirty[i] * 8ull;
        for (n = 1; i + n < w->l1_dirty_count && w->l1_dirty[i + n] == w->l1_dirty[i] + n; n++)
            ;
        w->unflushed = true;
        int ret = file_write(q->file, q->l1 + at, n * 8, host(q->l1_offset + at), err);
        if (ret < 0)
            return img_prefix(err, ret, "Could not write L1 table: ");
    }
    return 0;
}

/* The tables that were new are the file's now. */
static void settle_tables(struct qcow2_writer *w)
{
    w->l1_dirty_count = 0;
    for (size_t i = 0; i < w->piece_count; i++) {
        struct pending_piece *p = w->pieces[i];
        if (p->fresh)
            p->dirty_from = p->dirty_to = 0;
        p->fresh = false;
    }
}

/* What fails here costs only the host's space. */
static void punch(struct qcow2 *q, const struct freed *f)
{
    unsigned bits = q->geometry.cluster_bits;
    uint64_t size, run = 0;
    if (!f->punch || q->file->device || file_size(q->file, &size, NULL) < 0)
        return;
    for (uint64_t i = 0; i <= f->count; i++) { /* what something else still uses stays */
        uint64_t refcount = 1, at = (f->first + i - run) << bits;
        if (i < f->count && refcounts_get(&q->writer->refs, f->first + i, &refcount, NULL) < 0)
            refcount = 1;
        if (!refcount) {
            run++;
            continue;
        }
        if (run && at < size)
            q->file->ops->zero(q->file, host(at), min_u64(run << bits, size - at));
        run = 0;
    }
}

static int drop_freed(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    int ret = 0;
    w->packed = 0; /* its cluster may be among them, and taken again */
    for (size_t i = 0; i < w->freed_count; i++) {
        const struct freed *f = &w->freed[i];
        int one = refcounts_drop(&w->refs, f->first, f->count, ret ? NULL : err);
        ret = ret ? ret : one;
    }
    for (size_t i = 0; i < w->freed_count; i++)
        punch(q, &w->freed[i]);
    w->freed_count = 0;
    int stored = store_refcounts(q, ret ? NULL : err);
    return ret ? ret : stored;
}

/* Steps 1 and 2: all that new entries will lead to. */
static int prepare(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    uint64_t first, count;
    int ret = store_refcounts(q, err);
    if (!ret)
        ret = write_pieces(q, true, err);
    if (!ret)
        ret = flush_both(q, err);
    if (ret < 0 || !w->refs.unpublished)
        return ret;
    ret = qcow2_reserve_freed(q, 1, err);
    if (!ret)
        ret = refcounts_publish(&w->refs, &first, &count, err);
    w->broken = ret < 0; /* it may have been the flush */
    if (!ret && count)
        qcow2_note_freed_clusters(q, first, count, false);
    return ret;
}

/* What is not filled is all the same named by entries in memory. */
static int fill_late(struct qcow2 *q, struct img_error *err)
{
    struct layer *l = q->layer;
    int ret = l->fill_late ? l->fill_late(l->fill_late_opaque, err) : 0;
    q->writer->broken |= ret < 0;
    return ret;
}

int qcow2_commit(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    if (w->broken)
        return img_fail(err, EIO,
                        "'%s' could not be flushed before; what of it is on disk is not known",
                        q->file->name);
    int ret = fill_late(q, err);
    if (!ret)
        ret = prepare(q, err);
    if (!ret)
        ret = write_pieces(q, false, err);
    if (!ret)
        ret = write_l1(q, err);
    if (!ret)
        ret = flush_both(q, err);
    if (ret < 0)
        return ret;
    settle_tables(w);
    return w->freed_count ? drop_freed(q, err) : 0;
}

int qcow2_commit_if_full(struct qcow2 *q, struct img_error *err)
{
    const struct qcow2_writer *w = q->writer;
    if (w->piece_bytes < MAX_PIECE_BYTES && w->freed_count < MAX_FREED)
        return 0;
    int ret = qcow2_commit(q, err);
    if (!ret)
        qcow2_forget_pieces(q);
    return ret;
}
