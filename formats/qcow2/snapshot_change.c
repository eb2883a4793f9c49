/*
 * Snapshots taken, gone back to and deleted, each in one transaction.
 *
 * A snapshot is an L1 table of its own that shares everything below it with others. What is shared
 * must not have the COPIED flag in the active disk's tables, and what no longer is must have it: so
 * the L2 tables whose flags change get new places, like everything else that changes.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/rewrite.h"
#include "formats/qcow2/snapshot_change.h"
#include "formats/qcow2/snapshot_table.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* An L1 table in memory. */
struct l1_table {
    uint8_t *data;
    uint32_t size;
};

static size_t bytes_of(uint32_t entries)
{
    return entries * (size_t)8;
}

static int load_active(struct transaction *t, struct l1_table *l1, struct img_error *err)
{
    const struct qcow2_header *h = &t->q->header;
    l1->size = h->l1_size;
    return tx_load_l1(t, h->l1_offset, h->l1_size, &l1->data, err);
}

static int load_snapshot(struct transaction *t, const struct qcow2_snapshot *s, struct l1_table *l1,
                         struct img_error *err)
{
    l1->size = s->l1_size;
    return tx_load_l1(t, s->l1_offset, s->l1_size, &l1->data, err);
}

/* The active L1 table is L1 from now on; where that is what the file has, it stays. */
static int set_active(struct transaction *t, const struct l1_table *l1, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    bool same = q->l1 && l1->size == q->l1_size && !memcmp(l1->data, q->l1, bytes_of(l1->size));
    return same ? 0 : tx_replace_l1(t, l1->data, l1->size, err);
}

/* Runs CHANGE within a transaction. */
typedef int (*change_fn)(struct transaction *t, void *opaque, struct img_error *err);
static int in_transaction(struct qcow2 *q, change_fn change, void *opaque, struct img_error *err)
{
    struct transaction t;
    int ret = tx_begin(&t, q, err);
    if (ret < 0)
        return ret;
    t.progress = q->file->progress;
    ret = change(&t, opaque, err);
    if (!ret)
        ret = tx_commit(&t, err);
    if (!ret)
        tx_go_home(&t, UINT64_MAX);
    tx_end(&t);
    return ret;
}

/* Can the image have snapshots, and be changed? */
static int check_image(const struct qcow2 *q, struct img_error *err)
{
    int ret = qcow2_still_there(q, err);
    if (!ret && q->geometry.external_data)
        ret = img_fail_detail(err, ENOTSUP, "Operation not supported",
                              "the image has an external data file");
    return ret;
}

/* ---- taking one ---------------------------------------------------------------------------- */

static int append(struct transaction *t, const struct qcow2_snapshot *s, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    struct qcow2_snapshot *list = malloc((q->snapshot_count + 1) * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    if (q->snapshot_count)
        memcpy(list, q->snapshots, q->snapshot_count * sizeof *list);
    list[q->snapshot_count] = *s;
    int ret = tx_set_snapshots(t, list, q->snapshot_count + 1, err);
    free(list);
    return ret;
}

static int create(struct transaction *t, void *opaque, struct img_error *err)
{
    struct qcow2_snapshot *s = opaque;
    struct l1_table l1;
    int ret = load_active(t, &l1, err);
    if (ret < 0)
        return ret;
    ret = tx_share_all(t, l1.data, l1.size, err);
    if (!ret)
        ret = tx_write_l1(t, l1.data, l1.size, &s->l1_offset, err);
    if (!ret)
        ret = set_active(t, &l1, err);
    s->l1_size = l1.size;
    if (!ret)
        ret = append(t, s, err);
    free(l1.data);
    return ret;
}

int qcow2_snapshot_create(struct layer *l, const char *name, struct img_error *err)
{
    struct qcow2 *q = l->state;
    char id[24], kept[MAX_SNAPSHOT_NAME + 1];
    struct timespec now;
    if (q->snapshot_count >= MAX_SNAPSHOTS)
        return img_fail_detail(err, EFBIG, "File too large", "%zu snapshots are the most",
                               q->snapshot_count);
    int ret = check_image(q, err);
    if (ret < 0)
        return ret;
    clock_gettime(CLOCK_REALTIME, &now);
    snapshot_next_id(q, id);
    snprintf(kept, sizeof kept, "%s", name);
    struct qcow2_snapshot s = {.info = {.id = id,
                                        .name = kept,
                                        .disk_size = l->size,
                                        .date_sec = (uint32_t)now.tv_sec,
                                        .date_nsec = (uint32_t)now.tv_nsec,
                                        .has_icount = true}};
    return in_transaction(q, create, &s, err);
}

/* ---- going back to one --------------------------------------------------------------------- */

/* Sharing has moved L2 tables of the snapshot: its L1 table follows them. */
static int move_snapshot(struct transaction *t, const struct qcow2_snapshot *s,
                         const struct l1_table *l1, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    size_t index = (size_t)(s - q->snapshots);
    struct qcow2_snapshot *list = malloc(q->snapshot_count * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    memcpy(list, q->snapshots, q->snapshot_count * sizeof *list);
    int ret = tx_write_l1(t, l1->data, s->l1_size, &list[index].l1_offset, err);
    if (!ret)
        ret = tx_release(t, s->l1_offset, s->l1_size * 8ull, err);
    if (!ret)
        ret = tx_set_snapshots(t, list, q->snapshot_count, err);
    free(list);
    return ret;
}

/* Shares what the snapshot has. *MOVED: not all its tables are where they were. */
static int share_snapshot(struct transaction *t, struct l1_table *l1, bool *moved,
                          struct img_error *err)
{
    uint8_t *before = malloc(bytes_of(l1->size) + 1);
    if (!before)
        return img_fail_nomem(err);
    memcpy(before, l1->data, bytes_of(l1->size));
    int ret = tx_share_all(t, l1->data, l1->size, err);
    *moved = false;
    for (size_t i = 0; i < bytes_of(l1->size); i += 8)
        *moved |= (load_be64(before + i) ^ load_be64(l1->data + i)) & L1_OFFSET_MASK;
    free(before);
    return ret;
}

/* Lets go of everything that the active disk has. */
static int release_active(struct transaction *t, struct img_error *err)
{
    struct l1_table l1;
    int ret = load_active(t, &l1, err);
    if (ret < 0)
        return ret;
    ret = tx_count_all(t, l1.data, l1.size, -1, err);
    free(l1.data);
    return ret;
}

/* An active L1 table never gets shorter here. */
static int grow_l1(struct l1_table *l1, uint32_t size, struct img_error *err)
{
    if (size <= l1->size)
        return 0;
    uint8_t *data = realloc(l1->data, bytes_of(size));
    if (!data)
        return img_fail_nomem(err);
    memset(data + bytes_of(l1->size), 0, bytes_of(size - l1->size));
    *l1 = (struct l1_table){data, size};
    return 0;
}

static int apply(struct transaction *t, void *opaque, struct img_error *err)
{
    const struct qcow2_snapshot *s = opaque;
    struct l1_table l1;
    bool moved = false;
    int ret = load_snapshot(t, s, &l1, err);
    if (ret < 0)
        return ret;
    ret = release_active(t, err); /* first, so that no refcount is higher than it has to be */
    if (!ret)
        ret = share_snapshot(t, &l1, &moved, err);
    if (!ret && moved)
        ret = move_snapshot(t, s, &l1, err);
    if (!ret)
        ret = grow_l1(&l1, t->q->header.l1_size, err);
    if (!ret)
        ret = set_active(t, &l1, err);
    if (s->info.disk_size != t->q->layer->size)
        t->header.size = s->info.disk_size;
    free(l1.data);
    return ret;
}

static int check_disk_size(const struct qcow2 *q, const struct qcow2_snapshot *s,
                           struct img_error *err)
{
    if (s->info.disk_size == q->layer->size)
        return 0;
    if (q->header.version < 3)
        return img_fail_detail(err, ENOTSUP, "Operation not supported",
                               "Can't resize a v2 image which has snapshots");
    if (!is_aligned(s->info.disk_size, 512))
        return img_fail_detail(err, EINVAL, "Invalid argument",
                               "the snapshot's disk size %" PRIu64 " is not a multiple of 512",
                               s->info.disk_size);
    return 0;
}

int qcow2_snapshot_apply(struct layer *l, const char *id_or_name, struct img_error *err)
{
    struct qcow2 *q = l->state;
    const struct qcow2_snapshot *s;
    if (q->bitmap_count) /* they would describe another disk */
        return img_fail_detail(err, EBUSY, "Device has active dirty bitmaps",
                               "%zu of them, one is '%s'", q->bitmap_count,
                               q->bitmaps[0].info.name);
    int ret = check_image(q, err);
    if (!ret) {
        s = qcow2_find_snapshot(q, id_or_name);
        ret = s ? check_disk_size(q, s, err) : img_fail(err, ENOENT, "No such file or directory");
    }
    if (!ret)
        ret = in_transaction(q, apply, (void *)(uintptr_t)s, err);
    return ret < 0 ? img_prefix(err, ret, "Failed to load snapshot: ") : 0;
}

/* ---- deleting one -------------------------------------------------------------------------- */

static int take_out(struct transaction *t, size_t index, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    size_t count = q->snapshot_count - 1;
    struct qcow2_snapshot *list = malloc(q->snapshot_count * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    memcpy(list, q->snapshots, index * sizeof *list);
    memcpy(list + index, q->snapshots + index + 1, (count - index) * sizeof *list);
    int ret = tx_set_snapshots(t, list, count, err);
    free(list);
    return ret < 0 ? img_prefix(err, ret, "Failed to remove snapshot from snapshot list: ") : 0;
}

static int release_snapshot(struct transaction *t, const struct qcow2_snapshot *s,
                            struct img_error *err)
{
    struct l1_table l1;
    int ret = load_snapshot(t, s, &l1, err);
    if (ret < 0)
        return ret;
    ret = tx_count_all(t, l1.data, l1.size, -1, err);
    if (!ret)
        ret = tx_release(t, s->l1_offset, s->l1_size * 8ull, err);
    free(l1.data);
    return ret < 0 ? img_prefix(err, ret, "Failed to free the cluster and L1 table: ") : 0;
}

/* What only the active disk has now gets the flag that says so. */
static int claim(struct transaction *t, struct img_error *err)
{
    struct l1_table l1;
    int ret = load_active(t, &l1, err);
    if (ret < 0)
        return ret;
    ret = tx_fix_copied(t, l1.data, l1.size, err);
    if (!ret)
        ret = set_active(t, &l1, err);
    free(l1.data);
    return ret < 0 ? img_prefix(err, ret, "Failed to update snapshot status in disk: ") : 0;
}

static int delete (struct transaction *t, void *opaque, struct img_error *err)
{
    const struct qcow2_snapshot *s = opaque;
    int ret = take_out(t, (size_t)(s - t->q->snapshots), err);
    if (!ret)
        ret = release_snapshot(t, s, err);
    return ret < 0 ? ret : claim(t, err);
}

int qcow2_snapshot_delete(struct layer *l, const char *name, struct img_error *err)
{
    struct qcow2 *q = l->state;
    const struct qcow2_snapshot *s = qcow2_find_snapshot_name(q, name);
    int ret = qcow2_still_there(q, err);
    if (ret < 0)
        return ret;
    if (!s || q->geometry.external_data) /* QEMU lists none there */
        return img_fail(err, ENOENT, "snapshot not found");
    return in_transaction(q, delete, (void *)(uintptr_t)s, err);
}
