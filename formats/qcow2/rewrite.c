#include "formats/qcow2/rewrite.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int tx_load_l1(struct transaction *t, uint64_t offset, uint32_t size, uint8_t **l1,
               struct img_error *err)
{
    int ret = qcow2_validate_table(t->q, offset, size, 8, MAX_L1_BYTES, "L1 table", "l1_size", err);
    if (ret < 0)
        return ret;
    *l1 = calloc(1, size * (size_t)8 + 1);
    if (!*l1)
        return img_fail_nomem(err);
    ret = file_read(t->q->file, *l1, size * (size_t)8, host(offset), err);
    if (ret < 0) {
        free(*l1);
        *l1 = NULL;
        img_prefix(err, ret, "Could not read L1 table: ");
    }
    return ret;
}

/* ---- L2 tables ----------------------------------------------------------------------------- */

/* Gives a table that was changed its new place. */
static int move_table(struct transaction *t, const struct l2_view *v, uint8_t *l1_entry,
                      struct img_error *err)
{
    uint32_t size = t->q->geometry.cluster_size;
    uint64_t old = load_be64(l1_entry) & L1_OFFSET_MASK, place;
    int ret = tx_allocate(t, 1, &place, err);
    if (!ret)
        ret = tx_write(t, place, v->table, size, err);
    if (!ret)
        ret = tx_release(t, old, size, err);
    if (!ret)
        ret = tx_note_moved(t, old, place, err);
    if (!ret)
        store_be64(l1_entry, place | ENTRY_COPIED);
    return ret;
}

static int visit(struct transaction *t, struct l2_view *v, uint8_t *l1_entry, l2_fn fn,
                 void *opaque, struct img_error *err)
{
    uint64_t entry = load_be64(l1_entry);
    int ret = qcow2_check_l1_entry(t->q, entry, v->l1_index, err);
    if (!ret)
        ret = file_read(t->q->file, v->table, t->q->geometry.cluster_size,
                        host(entry & L1_OFFSET_MASK), err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read L2 table: ");
    v->changed = false;
    ret = fn(opaque, t, v, err);
    if (!ret && v->changed)
        ret = move_table(t, v, l1_entry, err);
    return ret;
}

static void tell_progress(const struct transaction *t)
{
    uint64_t size = t->q->geometry.cluster_size;
    progress_report(t->progress, "snapshot", t->tables_done * size, t->tables * size);
}

int tx_each_l2(struct transaction *t, uint8_t *l1, uint32_t l1_size, l2_fn fn, void *opaque,
               struct img_error *err)
{
    for (uint32_t i = 0; i < l1_size && t->progress; i++)
        t->tables += load_be64(l1 + i * (size_t)8) != 0;
    tell_progress(t);
    const struct qcow2_geometry *g = &t->q->geometry;
    struct l2_view v = {.table = malloc(g->cluster_size),
                        .entries = g->cluster_size / g->l2_entry_size};
    int ret = v.table ? 0 : img_fail_nomem(err);
    for (uint32_t i = 0; i < l1_size && !ret; i++) {
        v.l1_index = i;
        if (!load_be64(l1 + i * (size_t)8))
            continue;
        ret = visit(t, &v, l1 + i * (size_t)8, fn, opaque, err);
        t->tables_done++;
        tell_progress(t);
    }
    free(v.table);
    return ret;
}

int l2_view_used(const struct transaction *t, const struct l2_view *v, uint32_t index,
                 uint64_t *offset, uint64_t *length, struct img_error *err)
{
    const struct qcow2_geometry *g = &t->q->geometry;
    const uint8_t *p = v->table + (size_t)index * g->l2_entry_size;
    struct qcow2_mapping m;
    uint64_t entry = load_be64(p);
    *offset = *length = 0;
    if (!entry)
        return 0;
    const char *wrong = qcow2_decode_entry(g, entry, g->extended_l2 ? load_be64(p + 8) : 0, 0, &m);
    if (wrong)
        return img_fail(err, EINVAL,
                        "%s (L2 entry %#" PRIx64 ", L1 index: %#" PRIx64 ", L2 index: %#" PRIx32
                        ")",
                        wrong, entry, v->l1_index, index);
    if (g->external_data || !m.host)
        return 0;
    *offset = m.host;
    *length = m.type == MAP_COMPRESSED ? m.host_length : g->cluster_size;
    return 0;
}

/* ---- COPIED flags -------------------------------------------------------------------------- */

static void set_flag(struct l2_view *v, uint8_t *p, bool copied)
{
    uint64_t entry = load_be64(p), wanted = (entry & ~ENTRY_COPIED) | (copied ? ENTRY_COPIED : 0);
    if (wanted == entry)
        return;
    store_be64(p, wanted);
    v->changed = true;
}

static int fix_table(void *opaque, struct transaction *t, struct l2_view *v, struct img_error *err)
{
    int ret = 0;
    (void)opaque;
    for (uint32_t i = 0; i < v->entries && !ret; i++) {
        uint8_t *p = v->table + (size_t)i * t->q->geometry.l2_entry_size;
        uint64_t offset, length, refcount = 0;
        ret = l2_view_used(t, v, i, &offset, &length, err);
        if (ret < 0 || !length)
            continue;
        if (!(load_be64(p) & ENTRY_COMPRESSED)) /* these never have the flag */
            ret = tx_refcount(t, offset, &refcount, err);
        if (!ret)
            set_flag(v, p, refcount == 1);
    }
    return ret;
}

int tx_fix_copied(struct transaction *t, uint8_t *l1, uint32_t l1_size, struct img_error *err)
{
    int ret = tx_each_l2(t, l1, l1_size, fix_table, NULL, err);
    for (uint32_t i = 0; i < l1_size && !ret; i++) {
        uint8_t *p = l1 + i * (size_t)8;
        uint64_t table = load_be64(p) & L1_OFFSET_MASK, refcount = 0;
        if (!table)
            continue;
        ret = tx_refcount(t, table, &refcount, err);
        store_be64(p, table | (refcount == 1 ? ENTRY_COPIED : 0));
    }
    return ret;
}

/* ---- references ---------------------------------------------------------------------------- */

struct counting {
    int delta;
    bool share;              /* flags are cleared on the way */
    uint64_t offset, length; /* a run of clusters that is not counted yet */
};

static int count_range(struct transaction *t, uint64_t offset, uint64_t length, int delta,
                       struct img_error *err)
{
    return delta > 0 ? tx_reference(t, offset, length, err) : tx_release(t, offset, length, err);
}

/* Counts what was collected, and begins anew with a range. */
static int next_run(struct transaction *t, struct counting *c, uint64_t offset, uint64_t length,
                    struct img_error *err)
{
    int ret = count_range(t, c->offset, c->length, c->delta, err);
    c->offset = offset;
    c->length = length;
    return ret;
}

static int count_table(void *opaque, struct transaction *t, struct l2_view *v,
                       struct img_error *err)
{
    struct counting *c = opaque;
    const struct qcow2_geometry *g = &t->q->geometry;
    int ret = 0;
    for (uint32_t i = 0; i < v->entries && !ret; i++) {
        uint64_t offset, length;
        ret = l2_view_used(t, v, i, &offset, &length, err);
        if (ret < 0 || !length)
            continue;
        if (c->share)
            set_flag(v, v->table + (size_t)i * g->l2_entry_size, false);
        bool whole = length == g->cluster_size && is_aligned(offset, length);
        if (!whole) { /* two compressed clusters may touch the same one */
            ret = count_range(t, offset, length, c->delta, err);
        } else if (c->offset + c->length == offset) {
            c->length += length;
        } else {
            ret = next_run(t, c, offset, length, err);
        }
    }
    return ret;
}

static int count_all(struct transaction *t, struct counting *c, uint8_t *l1, uint32_t l1_size,
                     struct img_error *err)
{
    int ret = tx_each_l2(t, l1, l1_size, count_table, c, err);
    for (uint32_t i = 0; i < l1_size && !ret; i++) {
        uint8_t *p = l1 + i * (size_t)8;
        uint64_t table = load_be64(p) & L1_OFFSET_MASK, cluster = t->q->geometry.cluster_size;
        if (c->share)
            store_be64(p, load_be64(p) & ~ENTRY_COPIED);
        if (table)
            ret = next_run(t, c, table, cluster, err);
    }
    return ret ? ret : next_run(t, c, 0, 0, err);
}

int tx_count_all(struct transaction *t, uint8_t *l1, uint32_t l1_size, int delta,
                 struct img_error *err)
{
    struct counting c = {.delta = delta};
    return count_all(t, &c, l1, l1_size, err);
}

int tx_share_all(struct transaction *t, uint8_t *l1, uint32_t l1_size, struct img_error *err)
{
    struct counting c = {.delta = 1, .share = true};
    return count_all(t, &c, l1, l1_size, err);
}

/* ---- the L1 table -------------------------------------------------------------------------- */

int tx_write_l1(struct transaction *t, const uint8_t *l1, uint32_t size, uint64_t *offset,
                struct img_error *err)
{
    uint32_t cluster = t->q->geometry.cluster_size;
    size_t bytes = size * (size_t)8, padded = (size_t)align_up(bytes, cluster);
    *offset = 0;
    if (!size)
        return 0;
    uint8_t *buf = calloc(1, padded);
    if (!buf)
        return img_fail_nomem(err);
    memcpy(buf, l1, bytes);
    int ret = tx_allocate(t, padded / cluster, offset, err);
    if (!ret)
        ret = tx_write(t, *offset, buf, padded, err);
    free(buf);
    return ret;
}

int tx_replace_l1(struct transaction *t, const uint8_t *l1, uint32_t size, struct img_error *err)
{
    const struct qcow2_header *old = &t->q->header;
    uint64_t offset;
    int ret = tx_write_l1(t, l1, size, &offset, err);
    if (!ret)
        ret = tx_release(t, old->l1_offset, old->l1_size * 8ull, err);
    if (!ret) {
        t->header.l1_offset = offset;
        t->header.l1_size = size;
        t->moved_l1 = (struct moved_table){size <= old->l1_size ? old->l1_offset : 0, offset};
    }
    return ret;
}
