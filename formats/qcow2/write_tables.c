/* L2 tables under guest writes: which pieces of them differ from the file. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t bucket_of(uint64_t offset)
{
    return (size_t)((offset >> 9) * 0x9e3779b97f4a7c15ull >> 52) % PENDING_BUCKETS;
}

struct pending_piece *qcow2_pending(const struct qcow2 *q, uint64_t offset)
{
    struct pending_piece *p = q->writer->buckets[bucket_of(offset)];
    while (p && p->offset != offset)
        p = p->next;
    return p;
}

void qcow2_forget_pieces(struct qcow2 *q)
{
    struct qcow2_writer *w = q->writer;
    for (size_t i = 0; i < w->piece_count; i++)
        free(w->pieces[i]);
    memset(w->buckets, 0, sizeof w->buckets);
    w->piece_count = w->piece_bytes = 0;
}

/* Takes back the last COUNT pieces, which were new. */
static void take_back(struct qcow2_writer *w, size_t count, uint32_t bytes)
{
    while (count--) {
        struct pending_piece *p = w->pieces[--w->piece_count];
        w->buckets[bucket_of(p->offset)] = p->next; /* each was put in front */
        w->piece_bytes -= bytes;
        free(p);
    }
}

static int room_for_piece(struct qcow2_writer *w)
{
    if (w->piece_count < w->piece_capacity)
        return 0;
    size_t capacity = w->piece_capacity ? w->piece_capacity * 2 : 64;
    struct pending_piece **pieces = realloc(w->pieces, capacity * sizeof *pieces);
    if (!pieces)
        return -ENOMEM;
    w->pieces = pieces;
    w->piece_capacity = capacity;
    return 0;
}

/* A piece with the bytes at CONTENT, or zeroes without any. */
static int add_piece(struct qcow2 *q, uint64_t offset, const uint8_t *content, bool fresh,
                     struct pending_piece **out, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    uint32_t bytes = qcow2_piece_bytes(q);
    struct pending_piece *p = room_for_piece(w) ? NULL : malloc(sizeof *p + bytes);
    if (!p)
        return img_fail_nomem(err);
    size_t bucket = bucket_of(offset);
    *p = (struct pending_piece){.next = w->buckets[bucket], .offset = offset, .fresh = fresh};
    if (content)
        memcpy(p->data, content, bytes);
    else
        memset(p->data, 0, bytes);
    w->buckets[bucket] = p;
    w->pieces[w->piece_count++] = p;
    w->piece_bytes += bytes;
    cache_drop(&q->tables, offset); /* what the file has is old from now on */
    *out = p;
    return 0;
}

/* ---- tables -------------------------------------------------------------------------------- */

static uint64_t l1_entry(const struct qcow2 *q, uint64_t l1_index)
{
    return l1_index < q->l1_size ? load_be64(q->l1 + l1_index * 8) : 0;
}

static bool is_private(const struct qcow2 *q, uint64_t l1_index)
{
    uint64_t entry = l1_entry(q, l1_index);
    return (entry & L1_OFFSET_MASK) && (entry & ENTRY_COPIED);
}

static int note_l1(struct qcow2_writer *w, struct img_error *err)
{
    if (w->l1_dirty_count < w->l1_dirty_capacity)
        return 0;
    size_t capacity = w->l1_dirty_capacity ? w->l1_dirty_capacity * 2 : 64;
    uint32_t *list = realloc(w->l1_dirty, capacity * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    w->l1_dirty = list;
    w->l1_dirty_capacity = capacity;
    return 0;
}

/* Fills the table at TABLE with what the one at OLD has, or with zeroes where that is 0. */
static int copy_table(struct qcow2 *q, uint64_t table, uint64_t old, struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    uint32_t bytes = qcow2_piece_bytes(q);
    size_t done = 0;
    int ret = 0;
    for (uint32_t at = 0; !ret && at < g->cluster_size; at += bytes) {
        struct l2_piece piece = {.page = NULL};
        struct pending_piece *p;
        if (old)
            ret = qcow2_l2_piece(q, old, at / g->l2_entry_size, 1, &piece, err);
        if (!ret)
            ret = add_piece(q, table + at, piece.entries, true, &p, err);
        cache_put(&q->tables, piece.page);
        done += !ret;
    }
    if (ret < 0)
        take_back(q->writer, done, bytes);
    return ret;
}

/* Gives an L1 entry a table that only this disk uses. */
static int make_table(struct qcow2 *q, uint64_t l1_index, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    const struct qcow2_geometry *g = &q->geometry;
    uint64_t old, first, count;
    if (l1_index >= q->l1_size)
        return img_fail(err, EINVAL, "The L1 table is too small for the disk");
    int ret = qcow2_l1_entry(q, l1_index, &old, err);
    if (!ret && old)
        ret = qcow2_check_freed(q, old, err);
    if (!ret)
        ret = qcow2_reserve_freed(q, 1, err);
    if (!ret)
        ret = note_l1(w, err);
    if (!ret)
        ret = refcounts_take(&w->refs, 1, &first, &count, err);
    if (ret < 0)
        return ret;
    ret = copy_table(q, first << g->cluster_bits, old, err);
    if (ret < 0) {
        refcounts_give_back(&w->refs, first, 1);
        return ret;
    }
    uint64_t end = (first + 1) << g->cluster_bits;
    if (end > atomic_load(&q->known_size)) /* it will be there before anyone looks */
        atomic_store(&q->known_size, end);
    w->file_end = max_u64(w->file_end, end);
    store_be64(q->l1 + l1_index * 8, first << g->cluster_bits | ENTRY_COPIED);
    w->l1_dirty[w->l1_dirty_count++] = (uint32_t)l1_index;
    if (old)
        qcow2_note_freed_clusters(q, old >> g->cluster_bits, 1, false);
    return 0;
}

/* ---- entries ------------------------------------------------------------------------------- */

static uint32_t l2_index_of(const struct qcow2 *q, uint64_t guest)
{
    return (uint32_t)(guest >> q->geometry.cluster_bits) & ((1u << q->geometry.l2_bits) - 1);
}

int qcow2_entries_view(struct qcow2 *q, uint64_t guest, struct entries_view *out,
                       struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    uint64_t l1_index = guest >> (g->cluster_bits + g->l2_bits), table;
    uint32_t index = l2_index_of(q, guest);
    *out = (struct entries_view){.private = is_private(q, l1_index)};
    int ret = qcow2_l1_entry(q, l1_index, &table, err);
    if (ret < 0)
        return ret;
    if (!table) {
        uint32_t per_piece = qcow2_piece_bytes(q) / g->l2_entry_size;
        out->count = per_piece - (index & (per_piece - 1));
        return 0;
    }
    struct l2_piece piece;
    ret = qcow2_l2_piece(q, table, index, 1, &piece, err);
    if (ret < 0)
        return ret;
    out->page = piece.page;
    out->at = piece.entries + (size_t)(index - piece.first) * g->l2_entry_size;
    out->count = piece.count - (index - piece.first);
    return 0;
}

int qcow2_own_table(struct qcow2 *q, uint64_t guest, struct img_error *err)
{
    uint64_t l1_index = guest >> (q->geometry.cluster_bits + q->geometry.l2_bits);
    return is_private(q, l1_index) ? 0 : make_table(q, l1_index, err);
}

int qcow2_entries_for_change(struct qcow2 *q, uint64_t guest, struct entries *out,
                             struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    uint64_t l1_index = guest >> (g->cluster_bits + g->l2_bits);
    int ret = qcow2_own_table(q, guest, err);
    uint64_t table = l1_entry(q, l1_index) & L1_OFFSET_MASK;
    uint32_t bytes = qcow2_piece_bytes(q), index = l2_index_of(q, guest);
    uint32_t at = index * g->l2_entry_size, in_piece = at & (bytes - 1);
    if (ret < 0)
        return ret;
    out->piece = qcow2_pending(q, table + at - in_piece);
    if (!out->piece) {
        struct l2_piece piece;
        ret = qcow2_l2_piece(q, table, index, 1, &piece, err);
        if (!ret) {
            ret = add_piece(q, table + at - in_piece, piece.entries, false, &out->piece, err);
            cache_put(&q->tables, piece.page);
        }
        if (ret < 0)
            return ret;
    }
    out->at = out->piece->data + in_piece;
    out->count = (bytes - in_piece) / g->l2_entry_size;
    return 0;
}

void qcow2_entries_changed(struct qcow2 *q, const struct entries *e, uint32_t count)
{
    struct pending_piece *p = e->piece;
    uint32_t from = (uint32_t)(e->at - p->data), to = from + count * q->geometry.l2_entry_size;
    bool clean = p->dirty_from >= p->dirty_to;
    p->dirty_from = clean || from < p->dirty_from ? from : p->dirty_from;
    p->dirty_to = clean || to > p->dirty_to ? to : p->dirty_to;
}
