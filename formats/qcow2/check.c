/*
 * Looking for damage: everything that the header leads to is walked, every host cluster that it
 * uses is counted, and the counts are compared with the refcounts. In this order, which is QEMU's:
 *
 *   snapshot table, header, active L1 table with its L2 tables, the same of snapshots, refcount
 * table, encryption header, bitmaps, refcount blocks; then refcounts, then COPIED flags
 *
 * and then what QEMU does not look at. A bad entry is told and not followed. Nothing is changed: on
 * the way to a repair, what will be repaired is told as such, and remembered (repair.c does it).
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPARE_BUDGET = 32 << 20, /* for tables, more than the file holds of them */
    REPEAT_BUDGET = 8 << 20, /* to tell again what is wrong with a table */
    MAX_OVERFLOWS_TOLD = 16, /* of one cluster, at once */
    MAX_SPARSENESS = 64,     /* no file system's compression makes files smaller than this */
    MAX_BEYOND = 64 << 10,   /* clusters behind the end, listed */
};

/* The file never grows so far that what lies farther behind its end matters, unless it has to. */
#define FAR_BEYOND (1ull << 30)

/* So that the file can grow without that it leads to something. */
static int list_beyond(struct check *c, uint64_t from, uint64_t end)
{
    unsigned bits = c->q->geometry.cluster_bits;
    uint64_t first = from >> bits, last = (end - 1) >> bits;
    c->beyond_full |= last - first >= MAX_BEYOND - c->beyond.count;
    int ret = 0;
    for (uint64_t i = first; i <= last && !c->beyond_full && !ret; i++)
        ret = cluster_list_add(&c->beyond, i, c->err);
    return ret;
}

int check_note_outside(struct check *c, uint64_t offset, uint64_t length)
{
    uint64_t size = c->q->geometry.cluster_size, from = max_u64(offset, c->end);
    if (!c->fix)
        return 0;
    if (offset <= INT64_MAX - length && from - c->end < FAR_BEYOND && !c->beyond_full) {
        int ret = list_beyond(c, from, offset + length);
        if (ret < 0 || !c->beyond_full)
            return ret;
    }
    /* one cluster is counted, and all of it is there, once it begins inside; a table would have
     * other entries as soon as there is anything where it lies */
    if (length <= size)
        from = max_u64(c->end, offset > INT64_MAX - length ? offset : offset + length - size);
    c->outside_from = min_u64(c->outside_from, from);
    return 0;
}

int check_reference(struct check *c, uint64_t offset, uint64_t length, uint64_t times,
                    uint64_t place)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    if (!length)
        return 0;
    /* the last cluster may be cut short by the end of the file, so its end may lie past that */
    if (offset > INT64_MAX - length || offset + length >= c->end + g->cluster_size) {
        check_bad(
            c, OUTSIDE, place,
            "ERROR: counting reference for region exceeding the end of the file by one cluster or "
            "more: offset 0x%" PRIx64 " size 0x%" PRIx64,
            offset, length);
        return c->moves ? 0 : check_note_outside(c, offset, length);
    }
    uint64_t first = offset >> g->cluster_bits, last = (offset + length - 1) >> g->cluster_bits;
    c->clusters = max_u64(c->clusters, last + 1);
    return refs_add(&c->refs, first, last - first + 1, times, c->err);
}

static void overflow(void *opaque, uint64_t cluster, uint64_t lost)
{
    struct check *c = opaque;
    uint64_t told = min_u64(lost, MAX_OVERFLOWS_TOLD);
    uint64_t offset = cluster << c->q->geometry.cluster_bits;
    for (uint64_t i = 0; i < told; i++)
        check_bad(c, REFCOUNT_OVERFLOW, offset, "ERROR: overflow cluster offset=0x%" PRIx64,
                  offset);
    check_count(c->report, IMG_SEVERITY_CORRUPTION, lost - told);
    c->once += lost;
}

bool check_is_void(const struct check *c, uint64_t l1_entry)
{
    return (c->fix & IMG_REPAIR_ERRORS) && l1_entry && !(l1_entry & L1_OFFSET_MASK);
}

/* An L1 table changes, for what QEMU does not look at. */
static void repair_l1(struct check *c, bool active, enum img_finding_kind kind, uint64_t place,
                      const char *what)
{
    struct check_subject s = {
        .kind = kind, .severity = IMG_SEVERITY_REPAIRED, .host = place, .unseen = true};
    *(active ? &c->l1_fix : &c->snapshot_l1_fix) = true;
    c->fixes_errors = true;
    if (c->again)
        return;
    c->report->result->corruptions_fixed++;
    check_tell(c->report, &s, "Repairing %s", what);
}

/* Every reader takes it for an entry of 0, and QEMU's check for one that names the header. */
static void repair_void(struct check *c, uint64_t index, uint64_t entry, uint64_t place,
                        bool active)
{
    char what[120];
    snprintf(what, sizeof what,
             "L1 entry without an offset: l1_index=%" PRIu64 " l1_entry=%" PRIx64, index, entry);
    repair_l1(c, active, IMG_FINDING_RESERVED_BITS, place, what);
}

static int walk_l1_entry(struct check *c, uint64_t index, uint64_t entry, uint64_t place,
                         bool active)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t offset = entry & L1_OFFSET_MASK;
    if (check_is_void(c, entry)) {
        repair_void(c, index, entry, place, active);
        return 0;
    }
    if (entry & L1_RESERVED_MASK)
        check_bad(c, RESERVED_BITS, place, "ERROR found L1 entry with reserved bits set: %" PRIx64,
                  entry);
    int ret = check_reference(c, offset, g->cluster_size, 1, place);
    if (ret < 0)
        return ret;
    if (!is_aligned(offset, g->cluster_size))
        check_bad(c, UNALIGNED, place,
                  "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted",
                  offset);
    struct l2_table *t = check_find_l2(c, offset);
    return t ? check_l2_table(c, t, index, active) : 0;
}

static int walk_l1(struct check *c, uint64_t offset, uint32_t size, bool active, uint64_t place)
{
    if (!offset && size && (c->fix & IMG_REPAIR_ERRORS)) /* changes in the header would be in it */
        repair_l1(c, active, IMG_FINDING_OVERLAP, place, "the L1 table at 0x0 overlaps the header");
    int ret = check_reference(c, offset, size * 8ull, 1, place);
    return ret < 0 ? ret : check_each_l1(c, offset, size, active, walk_l1_entry);
}

static bool sound_l1(const struct check *c, const struct check_snapshot *s)
{
    return is_aligned(s->l1_offset, c->q->geometry.cluster_size) && s->l1_size <= MAX_L1_BYTES / 8;
}

static int register_tables(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    int ret = check_register_l1(c, h->l1_offset, h->l1_size);
    for (uint32_t i = 0; i < c->snapshot_count && !ret; i++) {
        const struct check_snapshot *s = &c->snapshots[i];
        if (sound_l1(c, s))
            ret = check_register_l1(c, s->l1_offset, s->l1_size);
    }
    return ret;
}

static int walk_snapshot(struct check *c, struct check_snapshot *s)
{
    char id[256], name[256];
    if (sound_l1(c, s)) {
        /* counting the clusters of the table itself costs time too, holes or not */
        uint64_t cost = (s->l1_size * 8ull >> c->q->geometry.cluster_bits) * 16;
        c->exhausted |= cost > c->budget;
        if (c->exhausted)
            return 0;
        c->budget -= cost;
        s->walked = true;
        return walk_l1(c, s->l1_offset, s->l1_size, false, s->place);
    }
    check_snapshot_names(c, s, id, name);
    if (!is_aligned(s->l1_offset, c->q->geometry.cluster_size))
        check_bad(c, SNAPSHOT, s->place,
                  "ERROR snapshot %s (%s) l1_offset=%#" PRIx64
                  ": L1 table is not cluster aligned; snapshot table entry corrupted",
                  id, name, s->l1_offset);
    else
        check_bad(c, SNAPSHOT, s->place,
                  "ERROR snapshot %s (%s) l1_size=%#" PRIx32
                  ": L1 table is too large; snapshot table entry corrupted",
                  id, name, s->l1_size);
    return 0;
}

static int walk_snapshots(struct check *c)
{
    int ret = 0;
    if (c->snapshot_count && c->q->geometry.external_data)
        check_bad(c, SNAPSHOT, c->q->header.snapshots_offset,
                  "ERROR %" PRIu32 " snapshots in image with data file", c->snapshot_count);
    for (uint32_t i = 0; i < c->snapshot_count && !ret; i++)
        ret = walk_snapshot(c, &c->snapshots[i]);
    return ret;
}

static int check_encryption(struct check *c)
{
    const struct qcow2_extensions *ext = &c->q->ext;
    struct img_error err = IMG_ERROR_INIT;
    if (!ext->has_crypto)
        return 0;
    int ret = qcow2_read_luks_header(c->q, &err);
    if (ret == -EIO) {
        ret = img_fail(c->err, -ret, "%s", img_error_message(&err));
        img_error_clear(&err);
        return ret;
    }
    if (ret < 0) {
        c->hidden = true;
        check_once(c, ENCRYPTION, ext->crypto_offset, "ERROR encryption header: %s",
                   img_error_message(&err));
        img_error_clear(&err);
    }
    return check_reference(c, ext->crypto_offset, ext->crypto_length, 1, 0);
}

int check_count_references(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    int ret = check_reference(c, 0, c->q->geometry.cluster_size, 1, 0);
    if (!ret)
        ret = walk_l1(c, h->l1_offset, h->l1_size, true,
                      offsetof(struct ondisk_header, l1_table_offset));
    if (!ret)
        ret = walk_snapshots(c);
    c->moves = c->snapshots_fix;
    if (!ret)
        ret = check_reference(c, h->snapshots_offset, c->snapshots_size, 1,
                              offsetof(struct ondisk_header, snapshots_offset));
    c->moves = false;
    if (!ret && !c->again)
        ret = check_reference(c, h->reftable_offset, c->reftable_entries * 8, 1,
                              offsetof(struct ondisk_header, refcount_table_offset));
    if (!ret)
        ret = check_encryption(c);
    if (!ret)
        ret = check_bitmaps(c, false);
    c->walk_errors = c->report->result->corruptions - c->before;
    return ret || c->again ? ret : check_refcount_blocks(c);
}

static int load_refcount_table(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    size_t bytes = (size_t)h->reftable_clusters << h->cluster_bits;
    c->reftable_entries = bytes / 8;
    c->reftable = calloc(1, bytes + !bytes);
    if (!c->reftable)
        return img_fail_nomem(c->err);
    for (size_t at = 0; at < bytes; at += c->q->geometry.cluster_size) {
        bool zeroes;
        int ret = check_read(c, c->reftable + at, c->q->geometry.cluster_size,
                             h->reftable_offset + at, &zeroes);
        if (ret < 0)
            return img_prefix(c->err, ret, "Could not read the refcount table: ");
    }
    return 0;
}

int check_start_counting(struct check *c)
{
    struct qcow2 *q = c->q;
    unsigned bits = 1u << q->header.refcount_order;
    int64_t allocated = q->file->ops->allocated(q->file);
    uint64_t data = allocated < 0 ? q->file_size
                                  : min_u64(q->file_size, (uint64_t)allocated * MAX_SPARSENESS);
    c->budget = data * 3 + SPARE_BUDGET; /* L1 tables are read three times, L2 tables twice */
    c->repeats = REPEAT_BUDGET;
    refs_free(&c->refs);
    int ret = refs_init(&c->refs, c->clusters + 1, bits == 64 ? UINT64_MAX : (1ull << bits) - 1,
                        c->err);
    c->refs.overflow = overflow;
    c->refs.opaque = c;
    return ret;
}

static int set_up(struct check *c)
{
    struct qcow2 *q = c->q;
    c->end = align_up(q->file_size, 512);
    c->clusters = div_round_up(c->end, q->geometry.cluster_size);
    if (c->clusters > INT_MAX)
        return img_fail(c->err, EFBIG,
                        "the file has %" PRIu64 " clusters, at most %d can be checked", c->clusters,
                        INT_MAX);
    c->report->result->total_clusters = div_round_up(q->layer->size, q->geometry.cluster_size);
    c->piece = malloc(CHECK_PIECE);
    if (!c->piece)
        return img_fail_nomem(c->err);
    int ret = check_start_counting(c);
    if (!ret)
        ret = load_refcount_table(c);
    if (!ret && c->fix) {
        c->dirty = calloc(1, c->reftable_entries + !c->reftable_entries);
        ret = c->dirty ? 0 : img_fail_nomem(c->err);
    }
    return ret;
}

/* L2 tables are read for what they reference and for their flags, refcount blocks once. */
static void start_progress(struct check *c)
{
    struct check_report *r = c->report;
    uint64_t size = c->q->geometry.cluster_size, tables = 2 * c->tables.count;
    for (uint64_t i = 0; i < c->reftable_entries; i++)
        tables += load_be64(c->reftable + i * 8) != 0;
    r->done = 0;
    r->total = c->q->header.l1_size * 16ull + tables * size;
    check_progress(r);
}

int check_run(struct check *c)
{
    int ret = check_read_snapshots(c);
    c->before = c->report->result->corruptions;
    if (!ret)
        ret = set_up(c);
    if (!ret)
        ret = register_tables(c);
    if (!ret) {
        start_progress(c);
        ret = check_count_references(c);
    }
    if (!ret && c->fix)
        ret = check_fix_refcounts(c);
    else if (!ret)
        ret = check_compare_refcounts(c, 0, true);
    if (!ret)
        ret = check_copied_flags(c);
    if (!ret)
        ret = check_overlaps(c);
    if (!ret && c->exhausted) {
        struct check_subject s = {.kind = IMG_FINDING_UNREADABLE,
                                  .severity = IMG_SEVERITY_UNCHECKED};
        check_tell(c->report, &s,
                   "ERROR tables overlap each other so much that not all of them were "
                   "looked at");
    }
    return ret;
}

void check_end(struct check *c)
{
    refs_free(&c->refs);
    free(c->tables.slots);
    free(c->snapshots);
    free(c->reftable);
    free(c->piece);
    free(c->dirty);
    free(c->old.items);
    free(c->gone.items);
    free(c->beyond.items);
}

int qcow2_check(struct layer *l, struct check_report *report, struct img_error *err)
{
    struct check c = {.q = l->state, .report = report, .err = err, .outside_from = UINT64_MAX};
    int ret = check_run(&c);
    check_end(&c);
    return ret;
}
