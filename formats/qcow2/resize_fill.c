/* What a disk gets when it grows: zeroes, and a place for them where that is asked for. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/resize.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SUBCLUSTERS_DATA 0x00000000ffffffffull
#define SUBCLUSTERS_ZERO 0xffffffff00000000ull

/* ---- the cluster in which the disk ended --------------------------------------------------- */

/* What has to be done about it. */
struct tail {
    uint64_t start, from, end; /* of the cluster; where the disk ended in it; end of the cluster */
    bool stale;                /* there are bytes behind the old end */
    bool compressed;           /* in a compressed cluster */
    bool shines;               /* the backing file's bytes would be seen there */
    bool placed;               /* the cluster has a place */
    bool own;                  /* and shares it with nobody */
};

static bool is_zero(const uint8_t *p, size_t len)
{
    return !len || (!*p && !memcmp(p, p + 1, len - 1));
}

static int look_at(struct resize_job *j, struct tail *tail, const struct extent *e, uint64_t at,
                   uint8_t *buf, struct img_error *err)
{
    int ret = 0;
    if (e->kind == IMG_EXTENT_UNALLOCATED)
        tail->shines |= j->covers;
    else if (e->kind == IMG_EXTENT_DATA)
        ret = file_read_padded(e->file, buf, e->length, e->host, err);
    else if (e->kind == IMG_EXTENT_COMPRESSED)
        ret = qcow2_read_compressed(j->q->layer, buf, e->length, guest(at), err);
    tail->compressed |= e->kind == IMG_EXTENT_COMPRESSED;
    if (!ret && (e->kind == IMG_EXTENT_DATA || e->kind == IMG_EXTENT_COMPRESSED))
        tail->stale |= !is_zero(buf, e->length);
    return ret;
}

static bool takes_space(const struct resize_job *j)
{
    return j->mode == PREALLOC_FALLOC || j->mode == PREALLOC_FULL;
}

/* Only the active disk has the cluster, and it does not reach that far yet. */
static int overwrite(struct resize_job *j, const struct tail *tail, uint8_t *buf,
                     struct img_error *err)
{
    int ret = 0;
    memset(buf, 0, j->q->geometry.cluster_size);
    j->data_touched |= j->q->geometry.external_data;
    j->t.written |= !j->q->geometry.external_data;
    for (uint64_t at = tail->from, end = min_u64(tail->end, j->new_size); at < end && !ret;) {
        struct extent e;
        ret = qcow2_map(j->q->layer, guest(at), end - at, MAP_ALLOCATION, &e, err);
        if (!ret && e.file && (e.kind == IMG_EXTENT_DATA || takes_space(j)))
            ret = file_write(e.file, buf, e.length, e.host, err);
        at += ret < 0 ? 0 : e.length;
    }
    return ret;
}

static int examine(struct resize_job *j, struct tail *tail, uint8_t *buf, struct img_error *err)
{
    int ret = 0;
    for (uint64_t at = tail->from; at < tail->end && !ret;) {
        struct extent e;
        ret = qcow2_map(j->q->layer, guest(at), tail->end - at, MAP_ALLOCATION, &e, err);
        if (!ret)
            ret = look_at(j, tail, &e, at, buf, err);
        at += ret < 0 ? 0 : e.length;
    }
    return ret;
}

/* Has the cluster a place of its own? */
static int find_place(struct resize_job *j, struct tail *tail, struct img_error *err)
{
    struct qcow2_mapping m;
    uint64_t refcount = 1;
    int ret = qcow2_lookup(j->q, guest(tail->from), &m, err);
    tail->placed = !ret && (m.type == MAP_NORMAL || m.type == MAP_ZERO_ALLOC ||
                            m.type == MAP_UNALLOCATED_ALLOC);
    if (tail->placed && !j->q->geometry.external_data)
        ret = tx_refcount(&j->t, m.host, &refcount, err);
    tail->own = tail->placed && refcount == 1;
    return ret;
}

struct placing {
    uint32_t index;
    uint64_t host;
};

static int place_entry(void *opaque, struct transaction *t, struct l2_view *v,
                       struct img_error *err)
{
    const struct placing *p = opaque;
    uint8_t *entry = v->table + (size_t)p->index * t->q->geometry.l2_entry_size;
    uint64_t offset, length;
    int ret = l2_view_used(t, v, p->index, &offset, &length, err);
    if (!ret && length)
        ret = tx_release(t, offset, length, err);
    store_be64(entry, p->host | ENTRY_COPIED);
    if (t->q->geometry.extended_l2)
        store_be64(entry + 8, SUBCLUSTERS_DATA);
    v->changed = true;
    return ret;
}

/* The cluster gets a place where it is all data: what the disk has, then zeroes. */
static int write_anew(struct resize_job *j, const struct tail *tail, uint8_t *buf,
                      struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    struct placing p = {
        .index = (uint32_t)(tail->start >> g->cluster_bits & ((1u << g->l2_bits) - 1)),
        .host = tail->start};
    memset(buf, 0, g->cluster_size);
    int ret = j->r->read(j->r->opaque, buf, tail->from - tail->start, guest(tail->start), err);
    if (!ret && g->external_data) {
        size_t length = (size_t)min_u64(g->cluster_size, j->new_size - tail->start);
        j->data_touched = true; /* where the old disk is read from, the same bytes are written */
        ret = file_write(j->q->layer->data_file, buf, length, host(tail->start), err);
    } else if (!ret) {
        ret = tx_allocate(&j->t, 1, &p.host, err);
        if (!ret)
            ret = tx_write(&j->t, p.host, buf, g->cluster_size, err);
    }
    uint64_t l1_index = tail->start >> (g->cluster_bits + g->l2_bits);
    return ret < 0 ? ret : resize_edit_l2(j, l1_index, place_entry, &p, err);
}

static int fill_tail(struct resize_job *j, struct img_error *err)
{
    uint32_t cluster = j->q->geometry.cluster_size;
    struct tail tail = {.start = align_down(j->old_size, cluster), .from = j->old_size};
    tail.end = tail.start + cluster;
    if (tail.from == tail.start || j->raw_data)
        return 0;
    uint8_t *buf = malloc(cluster);
    int ret = buf ? examine(j, &tail, buf, err) : img_fail_nomem(err);
    if (!ret)
        ret = find_place(j, &tail, err);
    bool place_wanted = j->mode != PREALLOC_OFF && !tail.placed;
    bool touched = tail.stale || takes_space(j);
    bool anew = tail.shines || place_wanted || (touched && (tail.compressed || !tail.own));
    if (!ret && anew)
        ret = write_anew(j, &tail, buf, err);
    else if (!ret && touched)
        ret = overwrite(j, &tail, buf, err);
    free(buf);
    return ret;
}

/* ---- the clusters behind it ---------------------------------------------------------------- */

struct fill {
    uint64_t first, end; /* guest clusters */
    uint64_t place;      /* of the first; each that follows lies behind the last */
    bool placed;
    uint64_t flags, bitmap; /* or-ed into each entry; its second half, with extended L2 */
    uint64_t l1_index;      /* of the table that is being filled */
};

static int fill_table(void *opaque, struct transaction *t, struct l2_view *v, struct img_error *err)
{
    const struct fill *f = opaque;
    const struct qcow2_geometry *g = &t->q->geometry;
    (void)err;
    for (uint32_t i = 0; i < v->entries; i++) {
        uint64_t cluster = (f->l1_index << g->l2_bits) + i;
        uint8_t *p = v->table + (size_t)i * g->l2_entry_size;
        if (cluster < f->first || cluster >= f->end)
            continue;
        uint64_t place = f->place + ((cluster - f->first) << g->cluster_bits);
        store_be64(p, (f->placed ? place | ENTRY_COPIED : 0) | f->flags);
        if (g->extended_l2)
            store_be64(p + 8, f->bitmap);
        v->changed = true;
    }
    return 0;
}

static void choose_entries(const struct resize_job *j, struct fill *f)
{
    bool extended = j->q->geometry.extended_l2;
    bool zero = j->covers && (j->mode == PREALLOC_OFF || j->mode == PREALLOC_METADATA);
    f->placed = j->mode != PREALLOC_OFF;
    f->flags = zero && !extended ? ENTRY_ZERO : 0;
    f->bitmap = zero ? SUBCLUSTERS_ZERO : j->covers ? SUBCLUSTERS_DATA : 0;
}

/* Says no before anything is written, where the host plainly lacks the space. */
static int check_space(struct resize_job *j, const struct fill *f, struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    uint64_t clusters = f->end - f->first, tables = (clusters >> g->l2_bits) + 1, bytes;
    uint64_t blocks = g->external_data || !f->placed
                          ? 0
                          : (clusters << j->q->header.refcount_order) / 8 / g->cluster_size;
    uint64_t data = takes_space(j) ? clusters << g->cluster_bits : 0;
    uint64_t metadata = (tables + blocks) << g->cluster_bits;
    int ret = 0;
    if (g->external_data)
        ret = file_check_space(j->q->layer->data_file, data, err);
    if (add_overflows(metadata, g->external_data ? 0 : data, &bytes))
        bytes = UINT64_MAX;
    return ret < 0 ? ret : file_check_space(j->q->file, bytes, err);
}

/*
 * Clusters in a row that read as zeroes. Behind the end of the file, so that they do, and so that
 * what is reserved there is reserved; a device has no such place.
 */
static int place_clusters(struct resize_job *j, struct fill *f, struct img_error *err)
{
    struct file *file = j->q->file;
    uint64_t count = f->end - f->first, bytes = count << j->q->geometry.cluster_bits;
    int ret;
    if (file->device) {
        ret = tx_allocate(&j->t, count, &f->place, err);
        if (!ret)
            ret = file_truncate(file, f->place + bytes, err);
        j->t.written = true;
        return ret < 0 ? ret : file_zero(file, host(f->place), bytes, err);
    }
    ret = tx_allocate_at_end(&j->t, count, &f->place, err);
    j->t.written = true;
    return ret < 0 ? ret : file_extend(file, f->place, f->place + bytes, j->mode, err);
}

/*
 * The same in an external data file, which may be longer than the disk was. A raw disk's bytes are
 * then seen; elsewhere they must not be.
 */
static int place_in_data_file(struct resize_job *j, const struct fill *f, struct img_error *err)
{
    struct file *data = j->q->layer->data_file;
    uint64_t from = f->first << j->q->geometry.cluster_bits, to = j->new_size;
    int ret = 0;
    j->data_touched = true;
    if (j->raw_data)
        from = min_u64(max_u64(j->old_size, j->data_length), to);
    else if (f->placed && from < min_u64(j->data_length, to))
        ret = file_zero(data, host(from), min_u64(j->data_length, to) - from, err);
    return ret < 0 ? ret : file_extend(data, min_u64(from, to), to, j->mode, err);
}

static int place(struct resize_job *j, struct fill *f, struct img_error *err)
{
    struct file *data = j->q->layer->data_file;
    int ret = 0;
    if (data) { /* its length follows the disk's in any mode */
        f->place = f->first << j->q->geometry.cluster_bits;
        ret = place_in_data_file(j, f, err);
    } else if (f->placed && f->first < f->end) {
        ret = place_clusters(j, f, err);
    }
    return ret;
}

static int fill_rest(struct resize_job *j, struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    struct fill f = {.first = div_round_up(j->old_size, g->cluster_size),
                     .end = div_round_up(j->new_size, g->cluster_size)};
    choose_entries(j, &f);
    bool mapped = f.placed || j->covers;
    int ret = mapped ? check_space(j, &f, err) : 0;
    if (!ret)
        ret = place(j, &f, err);
    if (ret < 0 || !mapped)
        return ret;
    for (f.l1_index = f.first >> g->l2_bits; f.l1_index << g->l2_bits < f.end && !ret; f.l1_index++)
        ret = resize_edit_l2(j, f.l1_index, fill_table, &f, err);
    return ret;
}

int resize_fill(struct resize_job *j, struct img_error *err)
{
    int ret = fill_tail(j, err);
    return ret < 0 ? ret : fill_rest(j, err);
}
