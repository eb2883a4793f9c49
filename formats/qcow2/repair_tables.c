/*
 * L2 and L1 tables: which of their entries a repair changes, and where they move.
 *
 * An L2 table that moves is named by the active L1 table, or by snapshots', or both; all of these
 * move too then, and with the L1 table of a snapshot the snapshot table.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/repair.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

bool repair_has_tables(const struct repair *r)
{
    const struct l2_set *s = &r->c->tables;
    for (size_t i = 0; i < s->capacity; i++)
        if (s->slots[i].uses && s->slots[i].fix)
            return true;
    return r->c->l1_fix || r->c->snapshot_l1_fix;
}

bool repair_tables_alone(const struct repair *r)
{
    const struct check *c = r->c;
    const struct l2_set *s = &c->tables;
    const struct qcow2_header *h = &r->q->header;
    uint64_t size = r->q->geometry.cluster_size, end = h->l1_offset + h->l1_size * 8ull;
    for (size_t i = 0; i < s->capacity; i++)
        if (s->slots[i].uses && s->slots[i].fix &&
            refs_get(&c->refs, s->slots[i].offset / size) != s->slots[i].uses)
            return false;
    for (uint64_t at = h->l1_offset; at < end && c->l1_fix; at += size)
        if (refs_get(&c->refs, at / size) != 1)
            return false;
    return true;
}

/* ---- what becomes of an entry -------------------------------------------------------------- */

static uint64_t with_flag(uint64_t entry, bool copied)
{
    return copied ? entry | ENTRY_COPIED : entry & ~ENTRY_COPIED;
}

bool repair_l2_entry(struct repair *r, const struct l2_table *t, uint8_t *p)
{
    const struct qcow2_geometry *g = &r->q->geometry;
    uint64_t entry = load_be64(p), was = entry, bitmap = g->extended_l2 ? load_be64(p + 8) : 0;
    uint64_t offset = entry & L2_OFFSET_MASK;
    bool errors = r->c->fix & IMG_REPAIR_ERRORS, zero = (entry & ENTRY_ZERO) && !g->extended_l2;
    bool one = true, data = g->extended_l2 ? (uint32_t)bitmap : !zero;
    if (entry & ENTRY_COMPRESSED)
        return false;
    bool placed = offset || (!zero && g->external_data && (entry & ENTRY_COPIED));
    if (placed && errors && !data && !is_aligned(offset, g->cluster_size)) {
        /* what reads as zeroes goes on doing so */
        store_be64(p, g->extended_l2 ? 0 : ENTRY_ZERO);
        if (g->extended_l2)
            store_be64(p + 8, (bitmap | bitmap << 32) & 0xffffffff00000000ull);
        return true;
    }
    if (errors && g->extended_l2)
        entry &= ~ENTRY_ZERO;
    if (errors && !placed)
        entry &= ~ENTRY_COPIED;
    if (placed && t->active && r->c->fix_flags &&
        (g->external_data || check_is_one(r->c, offset, &one)))
        entry = with_flag(entry, one);
    store_be64(p, entry);
    return entry != was;
}

/* An entry of an L1 table, once L2 tables have moved. FLAGS: it is the active one, whose flags are
 * put right. */
static uint64_t repair_l1_entry(struct repair *r, uint64_t entry, bool flags)
{
    uint64_t offset = entry & L1_OFFSET_MASK;
    const struct l2_table *t = offset ? check_find_l2(r->c, offset) : NULL;
    bool one;
    if (check_is_void(r->c, entry))
        return 0;
    if (t && t->moved) {
        entry = (entry & ~L1_OFFSET_MASK) | t->moved;
        offset = t->moved;
    }
    if (offset && flags && r->c->fix_flags && check_is_one(r->c, offset, &one))
        entry = with_flag(entry, one);
    return entry;
}

/* ---- L2 tables in pieces ------------------------------------------------------------------- */

struct l2_work {
    struct repair *r;
    int (*fn)(struct l2_work *w, const struct l2_table *t, uint64_t at, size_t len);
    uint8_t *old, *new;
    bool count_only;
    uint64_t *sectors;
};

static int each_l2_piece(struct l2_work *w, const struct l2_table *t)
{
    const struct qcow2_geometry *g = &w->r->q->geometry;
    uint32_t len = (uint32_t)min_u64(g->cluster_size, CHECK_PIECE);
    int ret = 0;
    for (uint64_t at = 0; at < g->cluster_size && !ret; at += len) {
        ret = file_read_padded(w->r->q->file, w->old, len, host(t->offset + at), w->r->err);
        if (ret < 0)
            return img_prefix(w->r->err, ret, "Could not read L2 table: ");
        memcpy(w->new, w->old, len);
        for (uint32_t i = 0; i < len; i += g->l2_entry_size)
            repair_l2_entry(w->r, t, w->new + i);
        ret = w->fn(w, t, at, len);
    }
    return ret;
}

/* Calls FN for every piece of the L2 tables that change. */
static int each_l2(struct l2_work *w)
{
    const struct l2_set *s = &w->r->c->tables;
    w->old = malloc(CHECK_PIECE);
    w->new = malloc(CHECK_PIECE);
    int ret = w->old && w->new ? 0 : img_fail_nomem(w->r->err);
    for (size_t i = 0; i < s->capacity && !ret; i++)
        if (s->slots[i].uses && s->slots[i].fix)
            ret = each_l2_piece(w, &s->slots[i]);
    free(w->old);
    free(w->new);
    return ret;
}

static int write_l2(struct l2_work *w, const struct l2_table *t, uint64_t at, size_t len)
{
    return file_write(w->r->q->file, w->new, len, host(t->moved + at), w->r->err);
}

static int replace_l2(struct l2_work *w, const struct l2_table *t, uint64_t at, size_t len)
{
    return repair_sectors(w->r, w->old, w->new, len, t->offset + at, w->count_only, w->sectors);
}

static int tell_l2(struct l2_work *w, const struct l2_table *t, uint64_t at, size_t len)
{
    const struct qcow2_geometry *g = &w->r->q->geometry;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t from = load_be64(w->old + i), to = load_be64(w->new + i);
        uint64_t index = (at + i) / g->l2_entry_size;
        if (from != to)
            repair_tell(
                w->r, &(struct img_change){.what = i % g->l2_entry_size ? "l2-bitmap" : "l2-entry",
                                           .host_offset = t->offset + at + i,
                                           .has_guest_offset = t->active,
                                           .guest_offset = ((t->l1_index << g->l2_bits) + index)
                                                           << g->cluster_bits,
                                           .from = from,
                                           .to = to});
    }
    return 0;
}

/* ---- L1 tables ----------------------------------------------------------------------------- */

/* Calls FN for every piece of an L1 table as it is and as it shall be. */
struct l1_work {
    struct repair *r;
    uint64_t to; /* where it moves */
    bool active, changes, count_only;
    uint64_t *sectors;
};
typedef int (*l1_fn)(struct l1_work *w, const uint8_t *old, const uint8_t *new, size_t len,
                     uint64_t offset, uint64_t at);

static int each_l1_piece(struct l1_work *w, uint64_t offset, uint32_t size, l1_fn fn)
{
    uint8_t old[16 << 10], new[sizeof old];
    uint64_t bytes = align_up(size * 8ull, w->r->q->geometry.cluster_size);
    int ret = 0;
    for (uint64_t at = 0; at < bytes && !ret; at += sizeof old) {
        size_t len = (size_t)min_u64(sizeof old, bytes - at);
        ret = file_read_padded(w->r->q->file, old, len, host(offset + at), w->r->err);
        if (ret < 0)
            return img_prefix(w->r->err, ret, "Could not read L1 table: ");
        memcpy(new, old, len);
        for (size_t i = 0; i < len && (at + i) / 8 < size; i += 8)
            store_be64(new + i, repair_l1_entry(w->r, load_be64(old + i), w->active));
        ret = fn(w, old, new, len, offset, at);
    }
    return ret;
}

static int compare_l1(struct l1_work *w, const uint8_t *old, const uint8_t *new, size_t len,
                      uint64_t offset, uint64_t at)
{
    (void)offset, (void)at;
    w->changes |= memcmp(old, new, len) != 0;
    return 0;
}

static int write_l1(struct l1_work *w, const uint8_t *old, const uint8_t *new, size_t len,
                    uint64_t offset, uint64_t at)
{
    (void)old, (void)offset;
    return file_write(w->r->q->file, new, len, host(w->to + at), w->r->err);
}

static int replace_l1(struct l1_work *w, const uint8_t *old, const uint8_t *new, size_t len,
                      uint64_t offset, uint64_t at)
{
    return repair_sectors(w->r, old, new, len, offset + at, w->count_only, w->sectors);
}

static int tell_l1(struct l1_work *w, const uint8_t *old, const uint8_t *new, size_t len,
                   uint64_t offset, uint64_t at)
{
    const struct qcow2_geometry *g = &w->r->q->geometry;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t from = load_be64(old + i), to = load_be64(new + i);
        if (from != to)
            repair_tell(w->r, &(struct img_change){
                                  .what = "l1-entry",
                                  .host_offset = offset + at + i,
                                  .has_guest_offset = w->active,
                                  .guest_offset = ((at + i) / 8) << (g->l2_bits + g->cluster_bits),
                                  .from = from,
                                  .to = to});
    }
    return 0;
}

/* An L1 table that changes gets a new place, and gives up its old one. */
static int place_l1(struct repair *r, uint64_t offset, uint32_t size, bool active, uint64_t *to)
{
    struct l1_work w = {.r = r, .active = active};
    uint64_t clusters = div_round_up(size * 8ull, r->q->geometry.cluster_size);
    bool leaves = !offset && size && (r->c->fix & IMG_REPAIR_ERRORS); /* the header */
    int ret = each_l1_piece(&w, offset, size, compare_l1);
    if (ret < 0 || !(w.changes || leaves))
        return ret;
    ret = repair_allocate(r, clusters, 0, to);
    return ret ? ret : repair_release(r, offset, size * 8ull, 1);
}

/* ---- all of them --------------------------------------------------------------------------- */

static int place_l2(struct repair *r, struct l2_table *t)
{
    uint64_t size = r->q->geometry.cluster_size, to;
    int ret = repair_allocate(r, 1, 0, &to);
    if (!ret && t->uses > 1)
        ret = refs_add(&r->c->refs, to >> r->q->geometry.cluster_bits, 1, t->uses - 1, r->err);
    if (!ret)
        ret = repair_release(r, t->offset, size, t->uses);
    t->moved = to;
    return ret;
}

static int place_snapshots(struct repair *r)
{
    const struct check *c = r->c;
    r->header.snapshots_offset = 0;
    int ret = repair_release(r, r->q->header.snapshots_offset, c->snapshots_size, 1);
    if (ret < 0 || !c->snapshot_count)
        return ret;
    ret = repair_build_snapshots(r);
    uint64_t clusters = div_round_up(r->snapshots_size, r->q->geometry.cluster_size);
    return ret ? ret : repair_allocate(r, clusters, 0, &r->header.snapshots_offset);
}

int repair_place_tables(struct repair *r)
{
    struct check *c = r->c;
    const struct qcow2_header *h = &r->q->header;
    uint64_t to = 0;
    int ret = 0;
    for (size_t i = 0; i < c->tables.capacity && !ret; i++)
        if (c->tables.slots[i].uses && c->tables.slots[i].fix)
            ret = place_l2(r, &c->tables.slots[i]);
    if (!ret)
        ret = place_l1(r, h->l1_offset, h->l1_size, true, &to);
    if (to)
        r->header.l1_offset = to;
    for (uint32_t i = 0; i < c->snapshot_count && !ret; i++) {
        struct check_snapshot *s = &c->snapshots[i];
        if (s->walked && s->l1_offset < c->end)
            ret = place_l1(r, s->l1_offset, s->l1_size, false, &s->moved);
        c->snapshots_fix |= s->moved != 0;
    }
    return ret || !c->snapshots_fix ? ret : place_snapshots(r);
}

/* Calls FN for all L1 tables that move. */
static int each_moved_l1(struct repair *r, l1_fn fn)
{
    const struct qcow2_header *h = &r->q->header;
    struct l1_work w = {.r = r, .to = r->header.l1_offset, .active = true};
    int ret = 0;
    if (h->l1_offset != r->header.l1_offset)
        ret = each_l1_piece(&w, h->l1_offset, h->l1_size, fn);
    w.active = false;
    for (uint32_t i = 0; i < r->c->snapshot_count && !ret; i++) {
        const struct check_snapshot *s = &r->c->snapshots[i];
        w.to = s->moved;
        if (s->moved)
            ret = each_l1_piece(&w, s->l1_offset, s->l1_size, fn);
    }
    return ret;
}

int repair_write_tables(struct repair *r)
{
    struct l2_work w = {.r = r, .fn = write_l2};
    int ret = each_l2(&w);
    if (!ret)
        ret = each_moved_l1(r, write_l1);
    if (!ret && r->snapshots)
        ret = file_write(r->q->file, r->snapshots, r->snapshots_size,
                         host(r->header.snapshots_offset), r->err);
    return ret;
}

int repair_tables_in_place(struct repair *r, bool count_only, uint64_t *sectors)
{
    const struct qcow2_header *h = &r->q->header;
    struct l2_work w = {.r = r, .fn = replace_l2, .count_only = count_only, .sectors = sectors};
    struct l1_work l = {.r = r, .active = true, .count_only = count_only, .sectors = sectors};
    int ret = each_l2(&w);
    return ret || !r->c->l1_fix ? ret : each_l1_piece(&l, h->l1_offset, h->l1_size, replace_l1);
}

int repair_tell_tables(struct repair *r)
{
    const struct qcow2_header *h = &r->q->header;
    struct l2_work w = {.r = r, .fn = tell_l2};
    struct l1_work l = {.r = r, .active = true};
    int ret = each_l2(&w);
    if (!ret && r->in_place && r->c->l1_fix)
        ret = each_l1_piece(&l, h->l1_offset, h->l1_size, tell_l1);
    else if (!ret)
        ret = each_moved_l1(r, tell_l1);
    for (uint32_t i = 0; i < r->c->snapshot_count && !ret; i++) {
        const struct check_snapshot *s = &r->c->snapshots[i];
        if (s->moved)
            repair_tell(r, &(struct img_change){.what = "snapshot-l1",
                                                .host_offset = s->place,
                                                .from = s->l1_offset,
                                                .to = s->moved});
    }
    return ret;
}
