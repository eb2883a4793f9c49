/*
 * Bringing metadata from the end of a file to the gaps before it.
 *
 * A transaction writes to free clusters, and when a disk has just shrunk, those that it gave up
 * were not free yet: what it wrote lies behind them. Now they are free. Tables that the active disk
 * has to itself, refcount blocks and bitmaps can move; data and what belongs to snapshots stay.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/resize.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <stdlib.h>

struct compaction {
    struct transaction t;
    uint64_t used;  /* clusters */
    uint64_t last;  /* the last of them */
    uint64_t limit; /* offset from which on what can move does */
    uint64_t *movable;
    size_t count, room;
};

/* ---- what there is ------------------------------------------------------------------------- */

static int note(struct compaction *c, uint64_t offset, uint64_t length, struct img_error *err)
{
    unsigned bits = c->t.q->geometry.cluster_bits;
    uint64_t first = offset >> bits, count = div_round_up(length, 1ull << bits);
    if (!offset)
        return 0;
    if (c->count + count > c->room) {
        size_t room = c->room * 2 + count;
        uint64_t *list = realloc(c->movable, room * sizeof *list);
        if (!list)
            return img_fail_nomem(err);
        c->movable = list;
        c->room = room;
    }
    for (uint64_t i = 0; i < count; i++)
        c->movable[c->count++] = first + i;
    return 0;
}

/* Is this L1 entry's table the active disk's alone? */
static int is_own(struct compaction *c, uint64_t table, bool *own, struct img_error *err)
{
    uint64_t refcount = 0;
    int ret = table ? tx_refcount(&c->t, table, &refcount, err) : 0;
    *own = refcount == 1;
    return ret;
}

static int note_tables(struct compaction *c, struct img_error *err)
{
    const struct qcow2 *q = c->t.q;
    const struct refcounts *r = &c->t.refs;
    uint32_t cluster = q->geometry.cluster_size;
    int ret = note(c, q->header.l1_offset, q->l1_size * 8ull, err);
    if (!ret)
        ret = note(c, q->header.reftable_offset, (uint64_t)q->header.reftable_clusters * cluster,
                   err);
    for (uint64_t i = 0; i < r->old_entries && !ret; i++)
        ret = note(c, r->old[i], cluster, err);
    for (uint32_t i = 0; i < q->l1_size && !ret; i++) {
        uint64_t table = load_be64(q->l1 + i * (size_t)8) & L1_OFFSET_MASK;
        bool own;
        ret = is_own(c, table, &own, err);
        if (!ret && own)
            ret = note(c, table, cluster, err);
    }
    return ret;
}

static int note_bitmap_cluster(void *opaque, uint64_t offset, uint64_t length,
                               struct img_error *err)
{
    return note(opaque, offset, length, err);
}

/* Of all refcount blocks that the file has, or will have. */
static int count_used(struct compaction *c, struct img_error *err)
{
    struct refcounts *r = &c->t.refs;
    unsigned bits = c->t.q->geometry.cluster_bits;
    uint64_t per = c->t.q->geometry.cluster_size * 8ull >> r->order;
    int ret = 0;
    c->used = c->last = 0;
    for (uint64_t i = 0; i < r->entries && !ret; i++) {
        bool there = r->blocks[i] || (i < r->old_entries && r->old[i]);
        for (uint64_t k = i * per; there && k < (i + 1) * per && !ret; k++) {
            uint64_t refcount;
            ret = tx_refcount(&c->t, k << bits, &refcount, err);
            c->used += refcount != 0;
            c->last = refcount ? k : c->last;
        }
    }
    return ret;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Everything can move that lies behind all that cannot, and behind the end of a file without gaps.
 */
static int find_limit(struct compaction *c, struct img_error *err)
{
    unsigned bits = c->t.q->geometry.cluster_bits;
    uint64_t end = c->last + 1;
    int ret = 0;
    qsort(c->movable, c->count, sizeof *c->movable, compare_u64);
    while (end > c->used && !ret) {
        uint64_t cluster = end - 1, refcount;
        ret = tx_refcount(&c->t, cluster << bits, &refcount, err);
        if (!ret && refcount &&
            !bsearch(&cluster, c->movable, c->count, sizeof cluster, compare_u64))
            break;
        end--;
    }
    c->limit = end << bits;
    return ret;
}

static int survey(struct compaction *c, struct img_error *err)
{
    int ret = count_used(c, err);
    if (!ret)
        ret = note_tables(c, err);
    if (!ret)
        ret = qcow2_each_bitmap_range(c->t.q, note_bitmap_cluster, c, err);
    return ret < 0 ? ret : find_limit(c, err);
}

/* ---- moving it ----------------------------------------------------------------------------- */

static int touch(void *opaque, struct transaction *t, struct l2_view *v, struct img_error *err)
{
    (void)opaque;
    (void)t;
    (void)err;
    v->changed = true;
    return 0;
}

static int move_l2(struct compaction *c, uint8_t *l1, bool *moved, struct img_error *err)
{
    int ret = 0;
    for (uint32_t i = 0; i < c->t.q->l1_size && !ret; i++) {
        uint8_t *entry = l1 + i * (size_t)8;
        uint64_t table = load_be64(entry) & L1_OFFSET_MASK;
        bool own = false;
        if (table >= c->limit)
            ret = is_own(c, table, &own, err);
        if (ret < 0 || !own)
            continue;
        ret = tx_each_l2(&c->t, entry, 1, touch, NULL, err);
        *moved = true;
    }
    return ret;
}

static int move_tables(struct compaction *c, struct img_error *err)
{
    const struct qcow2_header *h = &c->t.q->header;
    bool moved = h->l1_offset >= c->limit;
    uint8_t *l1 = NULL;
    int ret = tx_load_l1(&c->t, h->l1_offset, h->l1_size, &l1, err);
    if (!ret)
        ret = move_l2(c, l1, &moved, err);
    if (!ret && moved)
        ret = tx_replace_l1(&c->t, l1, h->l1_size, err);
    free(l1);
    return ret;
}

static int move_all(struct compaction *c, struct img_error *err)
{
    struct refcounts *r = &c->t.refs;
    uint64_t size = c->t.q->layer->size;
    int ret = move_tables(c, err);
    if (!ret)
        ret = tx_resize_bitmaps(&c->t, size, size, c->limit, err);
    for (uint64_t i = 0; i < r->old_entries && !ret; i++)
        if (r->old[i] >= c->limit)
            ret = refcounts_move(r, i, err);
    if (!ret && c->t.q->header.reftable_offset >= c->limit) /* it moves with any block */
        ret = refcounts_move(r, 0, err);
    return ret;
}

/* Behind the last cluster that is used now. */
static void cut_file(struct compaction *c)
{
    struct file *f = c->t.q->file;
    uint64_t size;
    if (f->device || count_used(c, NULL) < 0 || file_size(f, &size, NULL) < 0)
        return;
    uint64_t end = (c->last + 1) << c->t.q->geometry.cluster_bits;
    if (end < size)
        f->ops->truncate(f, end);
}

void qcow2_compact(struct qcow2 *q)
{
    struct compaction c = {.used = 0};
    if (tx_begin(&c.t, q, NULL) < 0)
        return;
    int ret = survey(&c, NULL);
    if (!ret)
        ret = move_all(&c, NULL);
    if (!ret && c.t.refs.changed_count)
        ret = tx_commit(&c.t, NULL);
    if (!ret)
        cut_file(&c);
    if (!ret && c.t.refs.changed_count)
        tx_go_home(&c.t, c.limit); /* tables that only moved because others did */
    tx_end(&c.t);
    free(c.movable);
}
