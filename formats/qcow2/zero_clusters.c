/*
 * Zero clusters, for a version that does not have them.
 *
 * Without a backing file, an unallocated cluster reads as zeroes, too: where none of the zero
 * clusters has a place in the file, the L2 tables are changed where they are. That is safe at every
 * instant: whichever sectors have been written, the guest reads the same, and no reference changes.
 * Otherwise tables get new places in the transaction. A table that several L1 tables share stays
 * shared: its refcount says how many references its clusters have through it.
 */
#include "formats/qcow2/amend.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/snapshot_table.h"
#include "formats/qcow2/rewrite.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- which tables there are ---------------------------------------------------------------- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void sort_unique(struct zero_survey *s)
{
    size_t n = 0;
    if (!s->count) /* qsort wants a list */
        return;
    qsort(s->tables, s->count, sizeof *s->tables, compare_u64);
    for (size_t i = 0; i < s->count; i++)
        if (!n || s->tables[i] != s->tables[n - 1])
            s->tables[n++] = s->tables[i];
    s->count = n;
}

/* Snapshots name the same tables again and again: before the list grows, what is double goes. */
static int add_table(struct zero_survey *s, size_t *room, uint64_t table, struct img_error *err)
{
    if (s->count == *room && s->count)
        sort_unique(s);
    if (s->count >= *room / 2) {
        size_t wanted = *room ? *room * 2 : 64;
        uint64_t *tables = realloc(s->tables, wanted * sizeof *tables);
        if (!tables)
            return img_fail_nomem(err);
        s->tables = tables;
        *room = wanted;
    }
    s->tables[s->count++] = table;
    return 0;
}

static int add_tables(struct transaction *t, struct zero_survey *s, size_t *room, const uint8_t *l1,
                      uint32_t size, struct img_error *err)
{
    int ret = 0;
    for (uint32_t i = 0; i < size && !ret; i++) {
        uint64_t entry = load_be64(l1 + i * (size_t)8);
        if (!(entry & L1_OFFSET_MASK))
            continue;
        ret = qcow2_check_l1_entry(t->q, entry, i, err);
        if (!ret)
            ret = add_table(s, room, entry & L1_OFFSET_MASK, err);
    }
    return ret;
}

static int collect(struct transaction *t, struct zero_survey *s, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    size_t room = 0;
    int ret = add_tables(t, s, &room, q->l1, q->l1_size, err);
    for (size_t i = 0; i < q->snapshot_count && !ret; i++) {
        const struct qcow2_snapshot *n = &q->snapshots[i];
        uint8_t *l1 = NULL;
        ret = tx_load_l1(t, n->l1_offset, n->l1_size, &l1, err);
        if (!ret)
            ret = add_tables(t, s, &room, l1, n->l1_size, err);
        free(l1);
    }
    sort_unique(s);
    return ret;
}

/* ---- what is in them ----------------------------------------------------------------------- */

static int read_table(const struct transaction *t, uint64_t offset, uint8_t *table,
                      struct img_error *err)
{
    int ret = file_read(t->q->file, table, t->q->geometry.cluster_size, host(offset), err);
    return ret < 0 ? img_prefix(err, ret, "Could not read L2 table: ") : 0;
}

static int decode(const struct transaction *t, uint64_t entry, uint64_t table, uint32_t index,
                  struct qcow2_mapping *m, struct img_error *err)
{
    const char *wrong = qcow2_decode_entry(&t->q->geometry, entry, 0, 0, m);
    return wrong ? img_fail(err, EINVAL,
                            "%s (L2 entry %#" PRIx64 ", L2 table offset: %#" PRIx64
                            ", L2 index: %#" PRIx32 ")",
                            wrong, entry, table, index)
                 : 0;
}

/* Looks at one table; *FOUND: it has zero clusters. */
static int survey_table(struct transaction *t, struct zero_survey *s, uint64_t offset,
                        uint8_t *table, bool *found, struct img_error *err)
{
    uint32_t entries = t->q->geometry.cluster_size / 8;
    int ret = read_table(t, offset, table, err);
    *found = false;
    for (uint32_t i = 0; i < entries && !ret; i++) {
        uint64_t entry = load_be64(table + i * (size_t)8);
        struct qcow2_mapping m;
        if (!entry)
            continue;
        ret = decode(t, entry, offset, i, &m, err);
        if (ret < 0)
            break;
        s->compressed |= m.type == MAP_COMPRESSED;
        s->placed |= m.type == MAP_ZERO_ALLOC;
        *found |= m.type == MAP_ZERO_ALLOC || m.type == MAP_ZERO_PLAIN;
    }
    return ret;
}

int zero_clusters_survey(struct transaction *t, struct zero_survey *s, struct img_error *err)
{
    uint8_t *table = malloc(t->q->geometry.cluster_size);
    size_t n = 0;
    *s = (struct zero_survey){.count = 0};
    int ret = table ? collect(t, s, err) : img_fail_nomem(err);
    for (size_t i = 0; i < s->count && !ret; i++) {
        bool found;
        ret = survey_table(t, s, s->tables[i], table, &found, err);
        if (found)
            s->tables[n++] = s->tables[i];
    }
    s->count = n;
    free(table);
    return ret;
}

void zero_clusters_free(struct zero_survey *s)
{
    free(s->tables);
    *s = (struct zero_survey){.count = 0};
}

/* ---- changing them ------------------------------------------------------------------------- */

struct expansion {
    struct transaction *t;
    const struct zero_survey *survey;
    bool backed;
    bool in_place;
    uint64_t *places; /* of each table of the survey, when it has been done; 0 before */
    uint8_t *table;
    struct amend_progress *progress;
    uint64_t visited, to_visit; /* L1 entries */
};

/* Takes TIMES references away from the cluster at OFFSET. */
static int release_times(struct transaction *t, uint64_t offset, uint64_t times,
                         struct img_error *err)
{
    uint64_t cluster = offset >> t->q->geometry.cluster_bits, refcount;
    int ret = refcounts_get(&t->refs, cluster, &refcount, err);
    if (!ret && refcount < times) {
        ret = img_fail(err, EINVAL,
                       "The refcount of the cluster at offset %#" PRIx64 " is too low (%" PRIu64
                       ", at least %" PRIu64 ")",
                       offset, refcount, times);
        img_hint(err, "Repair the image with 'check -r all' first.");
    }
    return ret < 0 ? ret : refcounts_set(&t->refs, cluster, refcount - times, err);
}

/* COUNT clusters of zeroes, each with the refcount TIMES. */
static int allocate_zeroes(struct transaction *t, uint64_t count, uint64_t times, uint64_t *offset,
                           struct img_error *err)
{
    unsigned bits = t->q->geometry.cluster_bits;
    int ret = count ? tx_allocate(t, count, offset, err) : 0;
    for (uint64_t i = 0; i < count && times != 1 && !ret; i++)
        ret = refcounts_set(&t->refs, (*offset >> bits) + i, times, err);
    if (!ret && count) {
        t->written = true;
        ret = file_zero(t->q->file, host(*offset), count << bits, err);
    }
    return ret;
}

static uint64_t count_zero_clusters(const struct expansion *x)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < x->t->q->geometry.cluster_size / 8; i++) {
        uint64_t entry = load_be64(x->table + i * (size_t)8);
        n += !(entry & ENTRY_COMPRESSED) && (entry & ENTRY_ZERO);
    }
    return n;
}

/* The table in memory, with TIMES references, gets rid of its zero clusters. */
static int expand_entries(struct expansion *x, uint64_t times, struct img_error *err)
{
    uint32_t cluster = x->t->q->geometry.cluster_size;
    uint64_t data = 0, copied = times == 1 ? ENTRY_COPIED : 0;
    int ret = allocate_zeroes(x->t, x->backed ? count_zero_clusters(x) : 0, times, &data, err);
    for (uint32_t i = 0; i < cluster / 8 && !ret; i++) {
        uint8_t *p = x->table + i * (size_t)8;
        uint64_t entry = load_be64(p), place = entry & L2_OFFSET_MASK;
        if ((entry & ENTRY_COMPRESSED) || !(entry & ENTRY_ZERO))
            continue;
        if (place)
            ret = release_times(x->t, place, times, err);
        store_be64(p, x->backed ? data | copied : 0);
        data += x->backed ? cluster : 0;
    }
    return ret;
}

/* Gives the table a new place, with all the references of the old one. */
static int move_table(struct expansion *x, uint64_t old, uint64_t times, uint64_t *place,
                      struct img_error *err)
{
    struct transaction *t = x->t;
    uint32_t cluster = t->q->geometry.cluster_size;
    int ret = tx_allocate(t, 1, place, err);
    if (!ret)
        ret = refcounts_set(&t->refs, *place >> t->q->geometry.cluster_bits, times, err);
    if (!ret)
        ret = tx_write(t, *place, x->table, cluster, err);
    return ret < 0 ? ret : release_times(t, old, times, err);
}

static int expand_table(struct expansion *x, uint64_t offset, uint64_t *place,
                        struct img_error *err)
{
    uint64_t times;
    int ret = read_table(x->t, offset, x->table, err);
    if (!ret)
        ret = tx_refcount(x->t, offset, &times, err);
    if (!ret && !times) {
        ret = img_fail(err, EINVAL,
                       "The L2 table at offset %#" PRIx64 " is in use, but its refcount is 0",
                       offset);
        img_hint(err, "Repair the image with 'check -r all' first.");
    }
    if (!ret)
        ret = expand_entries(x, times, err);
    if (ret < 0 || !x->in_place)
        return ret < 0 ? ret : move_table(x, offset, times, place, err);
    *place = offset;
    x->t->written = true;
    return file_write(x->t->q->file, x->table, x->t->q->geometry.cluster_size, host(offset), err);
}

/* What an L1 entry shall say. */
static int expand_below(struct expansion *x, uint8_t *entry, bool *changed, struct img_error *err)
{
    uint64_t old = load_be64(entry) & L1_OFFSET_MASK, times;
    const struct zero_survey *s = x->survey;
    const uint64_t *found = old ? bsearch(&old, s->tables, s->count, sizeof old, compare_u64)
                                : NULL;
    if (!found)
        return 0;
    uint64_t *place = &x->places[found - s->tables];
    int ret = *place ? 0 : expand_table(x, old, place, err);
    if (ret < 0 || x->in_place)
        return ret;
    ret = tx_refcount(x->t, *place, &times, err);
    store_be64(entry, *place | (times == 1 ? ENTRY_COPIED : 0));
    *changed = true;
    return ret;
}

/* L1 is changed in memory. */
static int expand_l1(struct expansion *x, uint8_t *l1, uint32_t size, bool *changed,
                     struct img_error *err)
{
    int ret = 0;
    *changed = false;
    for (uint32_t i = 0; i < size && !ret; i++) {
        ret = expand_below(x, l1 + i * (size_t)8, changed, err);
        amend_progress_report(x->progress, ++x->visited, x->to_visit);
    }
    return ret;
}

static int expand_active(struct expansion *x, struct img_error *err)
{
    const struct qcow2 *q = x->t->q;
    bool changed = false;
    uint8_t *l1 = malloc(q->l1_size * (size_t)8 + 1);
    if (!l1)
        return img_fail_nomem(err);
    memcpy(l1, q->l1, q->l1_size * (size_t)8);
    int ret = expand_l1(x, l1, q->l1_size, &changed, err);
    if (!ret && changed)
        ret = tx_replace_l1(x->t, l1, q->l1_size, err);
    free(l1);
    return ret;
}

static int expand_snapshot(struct expansion *x, const struct qcow2_snapshot *s, uint64_t *l1_offset,
                           bool *any, struct img_error *err)
{
    uint8_t *l1 = NULL;
    bool changed = false;
    int ret = tx_load_l1(x->t, s->l1_offset, s->l1_size, &l1, err);
    if (!ret)
        ret = expand_l1(x, l1, s->l1_size, &changed, err);
    *l1_offset = s->l1_offset;
    if (!ret && changed) {
        *any = true;
        ret = tx_write_l1(x->t, l1, s->l1_size, l1_offset, err);
        if (!ret)
            ret = tx_release(x->t, s->l1_offset, s->l1_size * 8ull, err);
    }
    free(l1);
    return ret;
}

static int expand_snapshots(struct expansion *x, struct img_error *err)
{
    const struct qcow2 *q = x->t->q;
    bool any = false;
    uint64_t *l1 = calloc(q->snapshot_count + 1, sizeof *l1);
    int ret = l1 ? 0 : img_fail_nomem(err);
    for (size_t i = 0; i < q->snapshot_count && !ret; i++)
        ret = expand_snapshot(x, &q->snapshots[i], &l1[i], &any, err);
    if (!ret && any)
        ret = tx_replace_snapshots(x->t, l1, err);
    free(l1);
    return ret;
}

int zero_clusters_expand(struct transaction *t, const struct zero_survey *s, bool backed,
                         struct amend_progress *progress, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    struct expansion x = {
        .t = t,
        .survey = s,
        .backed = backed,
        .in_place = !backed && !s->placed,
        .places = calloc(s->count + 1, sizeof *x.places),
        .table = malloc(q->geometry.cluster_size),
        .progress = progress,
        .to_visit = q->l1_size,
    };
    for (size_t i = 0; i < q->snapshot_count; i++)
        x.to_visit += q->snapshots[i].l1_size;
    int ret = x.places && x.table ? expand_active(&x, err) : img_fail_nomem(err);
    if (!ret)
        ret = expand_snapshots(&x, err);
    if (x.in_place)
        cache_forget(&t->q->tables);
    free(x.places);
    free(x.table);
    return ret;
}
