/*
 * Another size for the disk, as one transaction.
 *
 * Growing. What is new must read as zeroes. Mostly nothing is mapped there, and only the size (and
 * a longer L1 table) changes; what is mapped there all the same is released first: the VM state of
 * a snapshot that was gone back to, or entries that a strange program left. Where the backing file
 * is longer than the disk was, the new part becomes zero clusters, to its end, as QEMU does it.
 *
 * The last cluster may hold bytes behind the old end: a disk that was cut within a cluster keeps
 * them. They are dealt with when a disk grows and not when it is cut, since other programs cut too
 * and leave them, and since the old disk must not lose them before the cut is final. Where nobody
 * shares the cluster they are overwritten: the old disk does not reach that far. Where a snapshot
 * may see them, or where the cluster is compressed, it is written anew, to another place.
 *
 * Shrinking releases all that lies behind the end, writes the L2 table anew in which it lies, and
 * shortens the L1 table.
 *
 * What a transaction writes anew may lie behind all that the old image had; a second one
 * (compact.c) moves it to the front, into what the first one gave up, so that the file is no longer
 * than need be.
 *
 * An external data file gets longer before the commit and shorter after it.
 */
#include "formats/qcow2/resize.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t l1_entries_for(const struct qcow2_geometry *g, uint64_t size)
{
    return div_round_up(size, 1ull << (g->cluster_bits + g->l2_bits));
}

/* ---- what cannot be ------------------------------------------------------------------------ */

static int check_snapshots(const struct qcow2 *q, struct img_error *err)
{
    if (!q->header.snapshot_count)
        return 0;
    if (q->header.version < 3)
        return img_fail(err, ENOTSUP, "Can't resize a v2 image which has snapshots");
    for (size_t i = 0; i < q->snapshot_count; i++) {
        const struct qcow2_snapshot *s = &q->snapshots[i];
        if (s->has_disk_size)
            continue;
        int ret = img_fail(
            err, ENOTSUP, "Can't resize an image with a snapshot ('%s') whose size is not recorded",
            s->info.name);
        img_hint(err, "Repair the image with 'check -r all' first.");
        return ret;
    }
    return 0;
}

static int check_bitmaps(const struct qcow2 *q, struct img_error *err)
{
    for (size_t i = 0; i < q->bitmap_count; i++) {
        if (!(q->bitmaps[i].info.flags & IMG_BITMAP_IN_USE))
            continue;
        int ret = img_fail(err, ENOTSUP, "Bitmap '%s' is inconsistent and cannot be used",
                           q->bitmaps[i].info.name);
        img_hint(err, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
        return ret;
    }
    return 0;
}

/* A device has the length it has. */
static int check_devices(const struct resize_job *j, struct img_error *err)
{
    const struct file *data = j->q->layer->data_file;
    enum preallocation mode = j->r->preallocation;
    uint64_t length;
    if (data && data->device) {
        int ret = file_size(j->q->layer->data_file, &length, err);
        if (!ret && length != j->new_size)
            ret = img_fail(err, ENOTSUP, "Cannot resize device files");
        return ret;
    }
    if (!data && j->q->file->device && (mode == PREALLOC_FALLOC || mode == PREALLOC_FULL))
        return img_fail(err, ENOTSUP,
                        "Failed to resize underlying file: Preallocation mode '%s' unsupported for "
                        "this non-regular file",
                        mode == PREALLOC_FALLOC ? "falloc" : "full");
    return 0;
}

static int check(const struct resize_job *j, struct img_error *err)
{
    const struct qcow2 *q = j->q;
    if (!is_aligned(j->new_size, 512))
        return img_fail(err, EINVAL, "The new size must be a multiple of 512");
    if (q->layer->encrypted)
        return img_fail(err, ENOTSUP, "An encrypted image cannot be resized");
    int ret = check_snapshots(q, err);
    if (!ret)
        ret = check_bitmaps(q, err);
    if (!ret && l1_entries_for(&q->geometry, j->new_size) > MAX_L1_BYTES / 8)
        ret = img_fail_errno(err, EFBIG, "Failed to grow the L1 table");
    bool zero_flags = j->covers && (j->mode == PREALLOC_OFF || j->mode == PREALLOC_METADATA) &&
                      j->new_size > align_up(j->old_size, q->geometry.cluster_size);
    if (!ret && zero_flags && q->header.version < 3)
        ret = img_fail_errno(err, ENOTSUP, "Failed to zero out new clusters");
    return ret < 0 ? ret : check_devices(j, err);
}

/* ---- the L1 table -------------------------------------------------------------------------- */

/* A copy with room for the new size; J->l1_size is what the new image shall have of it. */
static int load_l1(struct resize_job *j, struct img_error *err)
{
    const struct qcow2 *q = j->q;
    uint32_t wanted = (uint32_t)l1_entries_for(&q->geometry, j->new_size);
    bool shorter = j->new_size < j->old_size;
    j->l1_size = shorter && wanted < q->l1_size ? wanted : (uint32_t)max_u64(wanted, q->l1_size);
    j->l1_room = (uint32_t)max_u64(wanted, q->l1_size);
    j->l1 = calloc(j->l1_room + 1, 8);
    if (!j->l1)
        return img_fail_nomem(err);
    memcpy(j->l1, q->l1, q->l1_size * (size_t)8);
    return 0;
}

static int replace_l1(struct resize_job *j, struct img_error *err)
{
    const struct qcow2 *q = j->q;
    if (j->l1_size == q->l1_size && !memcmp(j->l1, q->l1, j->l1_size * (size_t)8))
        return 0;
    return tx_replace_l1(&j->t, j->l1, j->l1_size, err);
}

int resize_edit_l2(struct resize_job *j, uint64_t l1_index, l2_fn fn, void *opaque,
                   struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    uint8_t *entry = j->l1 + l1_index * 8;
    uint64_t place;
    if (load_be64(entry))
        return tx_each_l2(&j->t, entry, 1, fn, opaque, err);
    struct l2_view v = {.l1_index = l1_index,
                        .table = calloc(1, g->cluster_size),
                        .entries = g->cluster_size / g->l2_entry_size};
    int ret = v.table ? fn(opaque, &j->t, &v, err) : img_fail_nomem(err);
    if (!ret && v.changed) {
        ret = tx_allocate(&j->t, 1, &place, err);
        if (!ret)
            ret = tx_write(&j->t, place, v.table, g->cluster_size, err);
        if (!ret)
            store_be64(entry, place | ENTRY_COPIED);
    }
    free(v.table);
    return ret;
}

/* ---- what lies behind an end --------------------------------------------------------------- */

static int clear_entries(void *opaque, struct transaction *t, struct l2_view *v,
                         struct img_error *err)
{
    const uint32_t *first = opaque;
    size_t entry = t->q->geometry.l2_entry_size;
    int ret = 0;
    for (uint32_t i = *first; i < v->entries && !ret; i++) {
        uint8_t *p = v->table + i * entry;
        uint64_t offset, length;
        ret = l2_view_used(t, v, i, &offset, &length, err);
        if (!ret && length)
            ret = tx_release(t, offset, length, err);
        if (!load_be64(p) && (entry == 8 || !load_be64(p + 8)))
            continue;
        memset(p, 0, entry);
        v->changed = true;
    }
    return ret;
}

/* Releases every cluster of the active disk's tables that begins at or behind END. */
static int drop_behind(struct resize_job *j, uint64_t end, struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    uint64_t cluster = div_round_up(end, g->cluster_size), whole = cluster >> g->l2_bits;
    uint32_t first = (uint32_t)(cluster & ((1u << g->l2_bits) - 1));
    int ret = 0;
    if (first && whole < j->q->l1_size && load_be64(j->l1 + whole * 8))
        ret = resize_edit_l2(j, whole, clear_entries, &first, err);
    whole += first != 0;
    if (ret < 0 || whole >= j->q->l1_size)
        return ret;
    uint8_t *rest = j->l1 + whole * 8;
    uint32_t count = j->q->l1_size - (uint32_t)whole;
    ret = tx_count_all(&j->t, rest, count, -1, err);
    memset(rest, 0, count * (size_t)8);
    return ret;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int change(struct resize_job *j, struct img_error *err)
{
    bool grows = j->new_size > j->old_size;
    int ret = load_l1(j, err);
    if (!ret && j->new_size != j->old_size)
        ret = drop_behind(j, grows ? j->old_size : j->new_size, err);
    if (!ret && grows)
        ret = resize_fill(j, err);
    if (!ret)
        ret = replace_l1(j, err);
    if (!ret)
        ret = tx_resize_bitmaps(&j->t, j->old_size, j->new_size, UINT64_MAX, err);
    if (!ret && j->q->layer->data_file && j->data_touched)
        ret = file_flush(j->q->layer->data_file, err);
    j->t.header.size = j->new_size;
    return ret < 0 ? ret : tx_commit(&j->t, err);
}

static int run_transaction(struct resize_job *j, struct img_error *err)
{
    struct file *data = j->q->layer->data_file;
    int ret = data ? file_size(data, &j->data_length, err) : 0;
    if (!ret)
        ret = tx_begin(&j->t, j->q, err);
    if (ret < 0)
        return ret;
    ret = change(j, err);
    j->moved = j->t.refs.changed_count;
    if (!ret)
        tx_go_home(&j->t, UINT64_MAX);
    if (ret < 0 && !j->t.committing && data && j->data_touched && !data->device)
        data->ops->truncate(data, j->data_length); /* not to be cancelled */
    tx_end(&j->t);
    free(j->l1);
    return ret;
}

/* The disk is what it shall be; this is about the length of files, and no error can undo it. */
static void finish(struct resize_job *j)
{
    struct file *data = j->q->layer->data_file;
    uint64_t length;
    if (j->moved || j->new_size < j->old_size)
        qcow2_compact(j->q);
    if (!data || data->device || !j->exact_data_file || file_size(data, &length, NULL) < 0 ||
        length <= j->new_size)
        return;
    if (!data->ops->truncate(data, j->new_size) && j->raw_data)
        data->ops->flush(data); /* the length counts for whoever reads it alone */
}

int qcow2_resize(struct layer *l, const struct resize_request *r, struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct resize_job j = {
        .q = q, .r = r, .old_size = l->size, .new_size = r->size, .mode = r->preallocation};
    bool grows = r->size > l->size;
    j.covers = grows && r->below > l->size;
    j.raw_data = l->external_data && q->header.autoclear & AUTOCLEAR_DATA_FILE_RAW;
    j.exact_data_file = r->preallocation == PREALLOC_OFF && (!j.raw_data || !grows);
    if (grows && j.raw_data && j.mode == PREALLOC_OFF)
        j.mode = PREALLOC_METADATA; /* whoever reads the data file alone reads the same */
    int ret = qcow2_still_there(q, err);
    if (!ret)
        ret = check(&j, err);
    if (!ret)
        ret = run_transaction(&j, err);
    if (!ret)
        finish(&j);
    else
        l->size = j.old_size; /* whatever could be read: nobody knows which one is there */
    return ret;
}
