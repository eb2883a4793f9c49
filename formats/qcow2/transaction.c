#include "formats/qcow2/transaction.h"
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int tx_begin(struct transaction *t, struct qcow2 *q, struct img_error *err)
{
    *t = (struct transaction){.q = q, .header = q->header};
    int ret = qcow2_still_there(q, err);
    if (ret < 0)
        return ret;
    if (!q->writable)
        return img_fail(err, EBADF, "The image '%s' was not opened for writing",
                        q->layer->filename);
    ret = qcow2_settle(q, err);
    if (ret < 0)
        return ret;
    t->header = q->header;
    t->header.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;
    ret = file_size(q->file, &t->file_size, err);
    if (!ret)
        ret = qcow2_read_parts(q, &t->parts, &t->head, err);
    if (!ret)
        ret = refcounts_init(&t->refs, q, err);
    if (ret < 0)
        tx_end(t);
    return ret;
}

int tx_allocate(struct transaction *t, uint64_t count, uint64_t *offset, struct img_error *err)
{
    uint64_t first;
    int ret = refcounts_allocate(&t->refs, count, &first, err);
    if (!ret)
        *offset = first << t->q->geometry.cluster_bits;
    return ret;
}

int tx_allocate_at_end(struct transaction *t, uint64_t count, uint64_t *offset,
                       struct img_error *err)
{
    struct refcounts *r = &t->refs;
    unsigned bits = t->q->geometry.cluster_bits;
    uint64_t size, cursor = r->cursor;
    int ret = file_size(t->q->file, &size, err);
    if (ret < 0)
        return ret;
    r->cursor = max_u64(max_u64(div_round_up(size, 1ull << bits), r->end), cursor);
    ret = tx_allocate(t, count, offset, err);
    r->cursor = cursor;
    return ret;
}

static int add(struct transaction *t, uint64_t offset, uint64_t length, int delta,
               struct img_error *err)
{
    unsigned bits = t->q->geometry.cluster_bits;
    uint64_t end;
    if (!length)
        return 0;
    if (add_overflows(offset, length, &end) ||
        ((end - 1) >> bits >= t->refs.end && !qcow2_in_file(t->q, (end - 1) >> bits << bits)))
        return img_fail(err, EINVAL,
                        "The clusters at offset %#" PRIx64 " (%" PRIu64
                        " bytes) lie outside the file",
                        offset, length);
    uint64_t first = offset >> bits, last = (end - 1) >> bits;
    return refcounts_add(&t->refs, first, last - first + 1, delta, err);
}

int tx_reference(struct transaction *t, uint64_t offset, uint64_t length, struct img_error *err)
{
    return add(t, offset, length, 1, err);
}

int tx_release(struct transaction *t, uint64_t offset, uint64_t length, struct img_error *err)
{
    return add(t, offset, length, -1, err);
}

int tx_refcount(struct transaction *t, uint64_t offset, uint64_t *refcount, struct img_error *err)
{
    return refcounts_get(&t->refs, offset >> t->q->geometry.cluster_bits, refcount, err);
}

int tx_write(struct transaction *t, uint64_t offset, const void *buf, size_t len,
             struct img_error *err)
{
    t->written = true;
    return file_write(t->q->file, buf, len, host(offset), err);
}

/* ---- the commit ---------------------------------------------------------------------------- */

/* Clusters that the refcount table needs; it ends with the last block there is. */
static uint64_t table_clusters(const struct refcounts *r)
{
    uint64_t last = 0;
    for (uint64_t i = 0; i < r->entries; i++)
        if ((i < r->old_entries && r->old[i]) || (r->blocks[i] && r->blocks[i]->place))
            last = i;
    uint64_t clusters = div_round_up((last + 1) * 8, r->q->geometry.cluster_size);
    return max_u64(clusters, r->q->header.reftable_clusters);
}

/* For the refcount table: home, if it is wanted there. */
static int place_table(struct transaction *t, uint64_t clusters, uint64_t *offset,
                       struct img_error *err)
{
    unsigned bits = t->q->geometry.cluster_bits;
    bool taken = false;
    int ret = 0;
    *offset = t->reftable_home;
    if (*offset && clusters == t->q->header.reftable_clusters)
        ret = refcounts_allocate_at(&t->refs, *offset >> bits, clusters, &taken, err);
    return ret < 0 || taken ? ret : tx_allocate(t, clusters, offset, err);
}

/* Finds places for all that changed, and for the table that names them. */
static int place_refcounts(struct transaction *t, struct img_error *err)
{
    struct refcounts *r = &t->refs;
    const struct qcow2_header *old = &t->q->header;
    int ret = tx_release(t, old->reftable_offset,
                         (uint64_t)old->reftable_clusters << old->cluster_bits, err);
    if (!ret)
        ret = refcounts_place(r, err);
    for (uint64_t have = 0; !ret && have < table_clusters(r);) {
        uint64_t need = table_clusters(r), offset = 0;
        if (have) /* placing blocks for it made it longer */
            ret = tx_release(t, t->header.reftable_offset, have << old->cluster_bits, err);
        if (!ret)
            ret = place_table(t, need, &offset, err);
        if (!ret)
            ret = refcounts_place(r, err);
        have = need;
        t->header.reftable_offset = offset;
        t->header.reftable_clusters = (uint32_t)have;
    }
    if (t->header.reftable_clusters == old->reftable_clusters)
        t->moved_reftable = (struct moved_table){old->reftable_offset, t->header.reftable_offset};
    return ret;
}

static int write_refcounts(struct transaction *t, struct img_error *err)
{
    struct refcounts *r = &t->refs;
    size_t size = t->q->geometry.cluster_size;
    size_t bytes = (size_t)t->header.reftable_clusters << t->q->geometry.cluster_bits;
    uint8_t *table = calloc(1, bytes);
    int ret = table ? 0 : img_fail_nomem(err);
    for (uint64_t i = 0; !ret && i < min_u64(r->entries, bytes / 8); i++) {
        const struct refblock *b = r->blocks[i];
        uint64_t old = i < r->old_entries && !(b && b->released) ? r->old[i] : 0;
        uint64_t place = b && b->place ? b->place : old;
        store_be64(table + i * 8, place);
        if (b && b->place)
            ret = tx_write(t, b->place, b->data, size, err);
    }
    if (!ret)
        ret = tx_write(t, t->header.reftable_offset, table, bytes, err);
    free(table);
    return ret;
}

/* Clusters that only the old image had. */
static void punch(void *opaque, uint64_t first, uint64_t count)
{
    const struct transaction *t = opaque;
    unsigned bits = t->q->geometry.cluster_bits;
    uint64_t from = first << bits, size;
    if (file_size(t->q->file, &size, NULL) < 0 || from >= size)
        return;
    t->q->file->ops->zero(t->q->file, host(from), min_u64(count << bits, size - from));
}

/* Gives space back to the host. What fails here costs only that. */
static void give_back(struct transaction *t)
{
    unsigned bits = t->q->geometry.cluster_bits;
    uint64_t size;
    if (t->q->file->device || file_size(t->q->file, &size, NULL) < 0 || !size)
        return;
    uint64_t end = (refcounts_last_kept(&t->refs, (size - 1) >> bits) + 1) << bits;
    if (end < size)
        t->q->file->ops->truncate(t->q->file, end);
    refcounts_each_freed(&t->refs, punch, t);
}

int tx_commit(struct transaction *t, struct img_error *err)
{
    struct qcow2 *q = t->q;
    int ret = 0;
    if (t->refs.changed_count) {
        ret = place_refcounts(t, err);
        if (!ret)
            ret = write_refcounts(t, err);
    }
    if (!ret && t->written)
        ret = file_flush(q->file, err);
    if (ret < 0)
        return ret;
    const struct cancel *cancel = q->file->cancel;
    q->file->cancel = NULL; /* no way back from here */
    ret = qcow2_write_header(q, &t->header, t->parts_changed ? &t->parts : NULL, &t->committing,
                             err);
    q->file->cancel = cancel;
    if (ret < 0) { /* the file has the old header or the new one; nobody knows which */
        q->writable = !t->committing;
        return ret;
    }
    give_back(t);
    return qcow2_reload(q, err);
}

void tx_end(struct transaction *t)
{
    uint64_t size;
    if (!t->committing && t->refs.q && file_size(t->q->file, &size, NULL) == 0 &&
        size > t->file_size && !t->q->file->device)
        t->q->file->ops->truncate(t->q->file, t->file_size);
    refcounts_free(&t->refs);
    free(t->head);
    free(t->moved);
    t->head = NULL;
    t->moved = NULL;
}
