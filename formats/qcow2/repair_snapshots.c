/* The snapshot table as a repair leaves it: entries complete, with their L1 tables' places. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/repair.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Extra data is never less than what is known of it, where the table is repaired. */
static uint64_t extra_size(const struct check *c, const struct check_snapshot *s)
{
    uint64_t size = min_u64(s->extra, MAX_SNAPSHOT_EXTRA);
    if (c->fix & IMG_REPAIR_ERRORS)
        size = max_u64(size, sizeof(struct ondisk_snapshot_extra));
    return size;
}

static uint64_t entry_size(const struct check *c, const struct check_snapshot *s)
{
    return sizeof(struct ondisk_snapshot) + extra_size(c, s) + s->id_size + s->name_size;
}

/* What the L1 table of a snapshot leads to: a disk that has grown since was no longer than that. */
static uint64_t covered(const struct repair *r, const struct ondisk_snapshot *d)
{
    const struct qcow2_geometry *g = &r->q->geometry;
    unsigned bits = g->cluster_bits + g->l2_bits;
    uint64_t entries = load_be32(d->l1_size);
    return entries >> (63 - bits) ? INT64_MAX : entries << bits;
}

/* What an entry without it means by its absence. */
static void fill_extra(struct repair *r, const struct check_snapshot *s, uint8_t *entry)
{
    struct ondisk_snapshot *d = (struct ondisk_snapshot *)entry;
    struct ondisk_snapshot_extra *x = (struct ondisk_snapshot_extra *)(entry + sizeof *d);
    if (s->extra < 8)
        store_be64(x->vm_state_size, load_be32(d->vm_state_size));
    if (s->extra < 16)
        store_be64(x->disk_size, min_u64(r->q->layer->size, covered(r, d)));
    if (s->extra < 24)
        store_be64(x->icount, UINT64_MAX);
}

static int build_entry(struct repair *r, const struct check_snapshot *s, uint8_t *out)
{
    struct ondisk_snapshot *d = (struct ondisk_snapshot *)out;
    uint64_t extra = extra_size(r->c, s), known = min_u64(s->extra, extra);
    uint8_t *strings = out + sizeof *d + extra;
    int ret = file_read_padded(r->q->file, out, sizeof *d + known, host(s->place), r->err);
    if (!ret)
        ret = file_read_padded(r->q->file, strings, (size_t)s->id_size + s->name_size,
                               host(s->strings), r->err);
    if (ret < 0)
        return img_prefix(r->err, ret, "failed to read the snapshot table: ");
    if (known < extra)
        fill_extra(r, s, out);
    store_be32(d->extra_data_size, (uint32_t)extra);
    if (s->moved)
        store_be64(d->l1_table_offset, s->moved);
    return 0;
}

int repair_build_snapshots(struct repair *r)
{
    const struct check *c = r->c;
    uint64_t size = 0;
    for (uint32_t i = 0; i < c->snapshot_count; i++)
        size = align_up(size, 8) + entry_size(c, &c->snapshots[i]);
    if (size > MAX_SNAPSHOT_TABLE_BYTES)
        return img_fail(r->err, EFBIG, "The repaired snapshot table would be too big");
    r->snapshots_size = size;
    r->snapshots = calloc(1, size);
    if (!r->snapshots)
        return img_fail_nomem(r->err);
    uint64_t at = 0;
    int ret = 0;
    for (uint32_t i = 0; i < c->snapshot_count && !ret; i++) {
        at = align_up(at, 8);
        ret = build_entry(r, &c->snapshots[i], r->snapshots + at);
        at += entry_size(c, &c->snapshots[i]);
    }
    return ret;
}
