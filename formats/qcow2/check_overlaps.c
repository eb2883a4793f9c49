/*
 * What a comparison of counts with refcounts cannot see: metadata that is used twice, with a
 * refcount of two; and tables that reach past the end of the file by less than a cluster.
 *
 * Each is told only where the comparison had nothing to say, so that nothing counts twice.
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdlib.h>

void check_alone(struct check *c, const char *name, uint64_t offset, uint64_t length)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    if (!length || offset >= c->end)
        return;
    uint64_t last = min_u64(offset + length - 1, c->end - 1) >> g->cluster_bits;
    for (uint64_t i = offset >> g->cluster_bits; i <= last; i++) {
        uint64_t count = refs_get(&c->refs, i);
        if (count < 2 || count > REFS_MAX)
            continue;
        check_once(c, OVERLAP, i << g->cluster_bits,
                   "ERROR the %s at 0x%" PRIx64 " overlaps something else: cluster %" PRIu64
                   " refcount=%" PRIu64,
                   name, offset, i, count);
        return;
    }
}

/* A table of which the end is missing. What is missing reads as zeroes, and can be so. */
static void reaches_past(struct check *c, const char *name, uint64_t offset)
{
    struct check_subject s = {.kind = IMG_FINDING_OUTSIDE,
                              .severity = IMG_SEVERITY_CORRUPTION,
                              .host = offset,
                              .unseen = true};
    bool fix = (c->fix & IMG_REPAIR_ERRORS) && !c->q->file->device;
    if (fix) {
        s.severity = IMG_SEVERITY_REPAIRED;
        c->pad = c->fixes_errors = true;
        c->report->result->corruptions_fixed++;
    } else {
        c->once++;
    }
    check_tell(c->report, &s,
               "%s the %s at 0x%" PRIx64 " reaches past the end of the file at 0x%" PRIx64,
               fix ? "Repairing" : "ERROR", name, offset, c->end);
}

static void check_placed(struct check *c, const char *name, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    check_alone(c, name, offset, length);
    if (length && offset < c->end && end > c->end && end < c->end + c->q->geometry.cluster_size)
        reaches_past(c, name, offset);
}

static int by_offset(const void *a, const void *b)
{
    const struct l2_table *x = *(const struct l2_table *const *)a;
    const struct l2_table *y = *(const struct l2_table *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void check_l2_place(struct check *c, const struct l2_table *t)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t count = refs_get(&c->refs, t->offset >> g->cluster_bits);
    if (!is_aligned(t->offset, g->cluster_size) || t->offset >= c->end)
        return;
    if (t->offset + g->cluster_size > c->end)
        reaches_past(c, "L2 table", t->offset);
    if (t->shared && (count > REFS_MAX || count < 2)) {
        check_note(c, SHARED_TABLE, t->offset,
                   "the L2 table at 0x%" PRIx64 " is shared by several entries of one L1 table",
                   t->offset);
        return;
    }
    if (count > REFS_MAX || count < 2)
        return;
    if (count > t->uses)
        check_once(c, OVERLAP, t->offset,
                   "ERROR the L2 table at 0x%" PRIx64 " overlaps something else: refcount=%" PRIu64,
                   t->offset, count);
    else if (t->shared)
        check_once(c, SHARED_TABLE, t->offset,
                   "ERROR the L2 table at 0x%" PRIx64
                   " is shared by several entries of one L1 table",
                   t->offset);
}

/* Calls check_l2_place for all tables in order of their offsets. */
static int check_l2_places(struct check *c)
{
    const struct l2_set *s = &c->tables;
    const struct l2_table **sorted = calloc(s->count + 1, sizeof *sorted);
    size_t n = 0;
    if (!sorted)
        return img_fail_nomem(c->err);
    for (size_t i = 0; i < s->capacity; i++)
        if (s->slots[i].uses)
            sorted[n++] = &s->slots[i];
    if (n)
        qsort(sorted, n, sizeof *sorted, by_offset);
    for (size_t i = 0; i < n; i++)
        check_l2_place(c, sorted[i]);
    free(sorted);
    return 0;
}

static void check_snapshot(struct check *c, const struct check_snapshot *s)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    char id[256], name[256];
    bool complete = s->has_disk_size || g->version < 3;
    bool small = s->walked && s->has_disk_size && s->disk_size &&
                 (s->disk_size - 1) >> (g->cluster_bits + g->l2_bits) >= s->l1_size;
    if (s->walked)
        check_placed(c, "L1 table of a snapshot", s->l1_offset, s->l1_size * 8ull);
    if (!complete || (!small && s->id_size))
        return;
    check_snapshot_names(c, s, id, name);
    if (small)
        check_once(c, SNAPSHOT, s->place,
                   "ERROR snapshot %s (%s) l1_size=%#" PRIx32
                   ": L1 table is too small for the disk size %" PRIu64,
                   id, name, s->l1_size, s->disk_size);
    if (!s->id_size)
        check_once(c, SNAPSHOT, s->place, "ERROR snapshot (%s) has no ID", name);
}

int check_overlaps(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    const struct qcow2_extensions *ext = &c->q->ext;
    check_placed(c, "header", 0, 1);
    check_placed(c, "active L1 table", h->l1_offset, h->l1_size * 8ull);
    if (!c->again) /* else it is about to get another place */
        check_placed(c, "refcount table", h->reftable_offset, c->reftable_entries * 8);
    check_placed(c, "snapshot table", h->snapshots_offset, c->snapshots_size);
    if (ext->has_crypto && ext->crypto_offset <= INT64_MAX && ext->crypto_length <= INT64_MAX)
        check_placed(c, "encryption header", ext->crypto_offset, ext->crypto_length);
    for (uint32_t i = 0; i < c->snapshot_count; i++)
        check_snapshot(c, &c->snapshots[i]);
    int ret = check_bitmaps(c, true);
    return ret ? ret : check_l2_places(c);
}
