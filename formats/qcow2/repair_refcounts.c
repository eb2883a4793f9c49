/*
 * Refcounts as they shall be: the counted references, written into blocks a piece at a time. The
 * counts are all that is kept in memory.
 *
 * Where blocks move, each that moves changes the refcounts of two clusters, which may lie in other
 * blocks that then move too; that ends, since there are only so many blocks.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refword.h"
#include "formats/qcow2/repair.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t per_block(const struct repair *r)
{
    return r->q->geometry.cluster_size * 8ull >> r->q->header.refcount_order;
}

/* The offset of block INDEX in the file as it is; 0: there is none. */
static uint64_t stored_block(const struct repair *r, uint64_t index)
{
    const struct check *c = r->c;
    if (index >= c->reftable_entries)
        return 0;
    uint64_t offset = load_be64(c->reftable + index * 8) & REFTABLE_OFFSET_MASK;
    return offset < c->end && is_aligned(offset, r->q->geometry.cluster_size) ? offset : 0;
}

/* The same, as far as it stays, or moves. */
static uint64_t old_block(const struct repair *r, uint64_t index)
{
    return r->c->rebuild ? 0 : stored_block(r, index);
}

/* ---- pieces of blocks ---------------------------------------------------------------------- */

static uint64_t per_piece(const struct repair *r)
{
    return min_u64(per_block(r), CHECK_PIECE * 8ull >> r->q->header.refcount_order);
}

/* The stored refcounts of the piece that begins with cluster FIRST. */
static int load_old(struct repair *r, uint64_t first)
{
    unsigned order = r->q->header.refcount_order;
    uint64_t offset = stored_block(r, first / per_block(r));
    size_t bytes = (size_t)(per_piece(r) << order >> 3);
    if (r->old_at == first + 1)
        return 0;
    memset(r->old_piece, 0, bytes);
    r->old_at = 0;
    int ret = 0;
    if (offset)
        ret = file_read_padded(r->q->file, r->old_piece, bytes,
                               host(offset + (first % per_block(r) << order >> 3)), r->err);
    if (ret < 0)
        return img_prefix(r->err, ret, "Could not read a refcount block: ");
    r->old_at = first + 1;
    return 0;
}

/* The same as they shall be; load_old has loaded them as they are. */
static void make_new(struct repair *r, uint64_t first)
{
    unsigned order = r->q->header.refcount_order;
    uint64_t n = per_piece(r);
    memset(r->new_piece, 0, (size_t)(n << order >> 3));
    for (uint64_t i = 0; i < n; i++) {
        uint64_t count = refs_get(&r->c->refs, first + i);
        /* only leaks are repaired, and this is none; or nobody looked at what lies behind the end
         */
        if (count > REFS_MAX || (!count && first + i >= r->c->clusters && !r->c->rebuild))
            count = refword_get(r->old_piece, i, order);
        if (count)
            refword_set(r->new_piece, i, order, count);
    }
}

/* Calls FN for every piece of the blocks that change. */
typedef int (*piece_fn)(struct repair *r, uint64_t first, uint64_t block_offset, void *opaque);
static int each_piece(struct repair *r, piece_fn fn, void *opaque)
{
    unsigned order = r->q->header.refcount_order;
    int ret = 0;
    for (uint64_t i = 0; i < r->blocks && !ret; i++) {
        if (!r->c->dirty[i])
            continue;
        uint64_t first = i * per_block(r), end = first + per_block(r);
        uint64_t offset = r->places[i] ? r->places[i] : old_block(r, i);
        for (uint64_t at = first; at < end && !ret; at += per_piece(r)) {
            ret = load_old(r, at);
            if (!ret) {
                make_new(r, at);
                ret = fn(r, at, offset + ((at - first) << order >> 3), opaque);
            }
        }
    }
    return ret;
}

/* ---- places -------------------------------------------------------------------------------- */

static int grow_blocks(struct repair *r, uint64_t blocks)
{
    uint64_t *places = realloc(r->places, blocks * sizeof *places);
    if (places)
        r->places = places;
    uint8_t *dirty = places ? realloc(r->c->dirty, blocks) : NULL;
    if (!dirty)
        return img_fail_nomem(r->err);
    r->c->dirty = dirty;
    memset(places + r->blocks, 0, (blocks - r->blocks) * sizeof *places);
    memset(dirty + r->blocks, 0, blocks - r->blocks);
    r->blocks = blocks;
    return 0;
}

/* The refcounts of these clusters change. */
static int mark(struct repair *r, uint64_t first, uint64_t count)
{
    uint64_t last = (first + count - 1) / per_block(r);
    if (last >= r->blocks) {
        int ret = grow_blocks(r, last + 1);
        if (ret < 0)
            return ret;
    }
    memset(r->c->dirty + first / per_block(r), 1, last - first / per_block(r) + 1);
    return 0;
}

/* Nothing uses it, and its refcount says so; that can be asked too much. */
static int is_free(struct repair *r, uint64_t cluster, bool *is)
{
    unsigned order = r->q->header.refcount_order;
    *is = false;
    if (refs_get(&r->c->refs, cluster) || cluster_list_has(&r->c->old, cluster))
        return 0;
    if (cluster >= r->limit || r->desperate) {
        *is = true;
        return 0;
    }
    uint64_t first = align_down(cluster, per_piece(r));
    int ret = load_old(r, first);
    *is = !refword_get(r->old_piece, cluster - first, order);
    return ret;
}

/* The first COUNT free clusters in a row from FROM on; -ENOSPC where the file must not grow. */
static int find_free(struct repair *r, uint64_t count, uint64_t from, uint64_t *first)
{
    uint64_t found = 0, at = r->append ? max_u64(from, r->limit) : from;
    for (; found < count; at++) {
        bool is;
        if (at >= r->limit && (at >= r->most || r->q->file->device))
            return -ENOSPC;
        int ret = is_free(r, at, &is);
        is &= !cluster_list_has(&r->c->beyond, at);
        if (ret < 0)
            return ret;
        found = is ? found + 1 : 0;
    }
    *first = at - count;
    return 0;
}

static int no_room(struct repair *r)
{
    if (r->q->file->device)
        return img_fail(r->err, ENOSPC, "The device has no room for what a repair must write");
    return img_fail(r->err, ENOSPC,
                    "The file has no room for what a repair must write, and must not grow, since "
                    "entries refer to what lies behind its end");
}

int repair_allocate(struct repair *r, uint64_t count, uint64_t from, uint64_t *offset)
{
    struct check *c = r->c;
    uint64_t first;
    int ret = find_free(r, count, from, &first);
    if (ret == -ENOSPC)
        ret = find_free(r, count, 0, &first);
    if (ret == -ENOSPC) {
        r->desperate = true;
        r->append = false;
        ret = find_free(r, count, 0, &first);
    }
    if (ret == -ENOSPC)
        return no_room(r);
    if (!ret && first + count > c->refs.clusters)
        ret = refs_grow(&c->refs, first + count + (first + count) / 8, r->err);
    if (!ret)
        ret = refs_add(&c->refs, first, count, 1, r->err);
    if (ret < 0)
        return ret;
    c->clusters = max_u64(c->clusters, first + count);
    *offset = first << r->q->geometry.cluster_bits;
    return mark(r, first, count);
}

int repair_release(struct repair *r, uint64_t offset, uint64_t length, uint64_t times)
{
    unsigned bits = r->q->geometry.cluster_bits;
    uint64_t counted = r->limit << bits; /* what lies behind it was told, and not counted */
    if (!length || offset >= counted || length > counted - offset)
        return 0;
    if (r->release_count == r->release_room) {
        size_t room = r->release_room ? r->release_room * 2 : 64;
        struct release *wider = realloc(r->releases, room * sizeof *wider);
        if (!wider)
            return img_fail_nomem(r->err);
        r->releases = wider;
        r->release_room = room;
    }
    uint64_t first = offset >> bits, last = (offset + length - 1) >> bits;
    r->releases[r->release_count++] = (struct release){first, last - first + 1, times};
    return mark(r, first, last - first + 1);
}

static void apply_releases(struct repair *r)
{
    for (size_t i = 0; i < r->release_count; i++) {
        const struct release *x = &r->releases[i];
        for (uint64_t k = 0; k < x->count; k++)
            refs_drop(&r->c->refs, x->first + k, x->times);
    }
}

/* All blocks with a count in them are made. */
static int mark_counted(struct repair *r)
{
    const struct refs *refs = &r->c->refs;
    int ret = 0;
    memset(r->c->dirty, 0, r->blocks);
    for (uint64_t i = 0; i < refs->clusters && !ret;) {
        uint64_t in_block = per_block(r) - i % per_block(r);
        if (refs_empty(refs, i)) {
            i += min_u64(REFS_CHUNK - i % REFS_CHUNK, in_block);
        } else if (refs_get(refs, i)) {
            ret = mark(r, i, 1);
            i += in_block;
        } else {
            i++;
        }
    }
    return ret;
}

static int place_block(struct repair *r, uint64_t index)
{
    struct check *c = r->c;
    uint64_t old = old_block(r, index), from = 0;
    if (c->rebuild) /* as QEMU has it: not before the clusters that it counts, and in order */
        from = max_u64(index * per_block(r), r->next_block);
    uint64_t place;
    int ret = repair_allocate(r, 1, from, &place);
    if (ret < 0)
        return ret;
    if (c->rebuild)
        r->next_block = place >> r->q->geometry.cluster_bits;
    r->places[index] = place;
    return old ? repair_release(r, old, r->q->geometry.cluster_size, 1) : 0;
}

/* Every block that changes; what they change in turn is for the next call. *DONE: there was none.
 */
static int place_blocks(struct repair *r, bool *done)
{
    int ret = 0;
    for (uint64_t i = 0; i < r->blocks && !ret; i++) {
        if (!r->c->dirty[i] || r->places[i])
            continue;
        *done = false;
        ret = place_block(r, i);
    }
    return ret;
}

static uint64_t table_clusters(const struct repair *r)
{
    uint64_t entries = 1;
    for (uint64_t i = 0; i < r->blocks; i++)
        if (r->places[i] || old_block(r, i))
            entries = i + 1;
    uint64_t clusters = div_round_up(entries * 8, r->q->geometry.cluster_size);
    return r->c->rebuild ? clusters : max_u64(clusters, r->q->header.reftable_clusters);
}

int repair_place_refcounts(struct repair *r)
{
    struct check *c = r->c;
    const struct qcow2_header *old = &r->q->header;
    int ret = r->blocks ? 0 : grow_blocks(r, 1);
    if (!ret && c->rebuild)
        ret = mark_counted(r);
    else if (!ret)
        ret = repair_release(r, old->reftable_offset,
                             (uint64_t)old->reftable_clusters << old->cluster_bits, 1);
    for (size_t i = 0; i < c->gone.count && !ret && !c->rebuild; i++)
        ret = mark(r, c->gone.items[i], 1); /* the refcount of what would lie outside the file */
    uint64_t have = 0;
    for (bool done = false; !ret && !done;) {
        done = true;
        ret = place_blocks(r, &done);
        if (ret < 0 || !done || table_clusters(r) <= have)
            continue;
        if (have) /* placing it made it longer */
            ret = repair_release(r, r->header.reftable_offset, have << old->cluster_bits, 1);
        have = table_clusters(r);
        if (have << old->cluster_bits > MAX_REFTABLE_BYTES)
            return img_fail(r->err, EFBIG, "The refcount table would be larger than %d bytes",
                            MAX_REFTABLE_BYTES);
        if (!ret)
            ret = repair_allocate(r, have, 0, &r->header.reftable_offset);
        r->header.reftable_clusters = (uint32_t)have;
        done = false;
    }
    if (!ret)
        apply_releases(r);
    return ret;
}

/* ---- writing and telling ------------------------------------------------------------------- */

static int write_piece(struct repair *r, uint64_t first, uint64_t offset, void *opaque)
{
    (void)first, (void)opaque;
    size_t bytes = (size_t)(per_piece(r) << r->q->header.refcount_order >> 3);
    return file_write(r->q->file, r->new_piece, bytes, host(offset), r->err);
}

int repair_write_refcounts(struct repair *r)
{
    size_t bytes = (size_t)r->header.reftable_clusters << r->q->geometry.cluster_bits;
    int ret = each_piece(r, write_piece, NULL);
    uint8_t *table = ret ? NULL : calloc(1, bytes);
    if (!ret && !table)
        ret = img_fail_nomem(r->err);
    for (uint64_t i = 0; i < min_u64(r->blocks, bytes / 8) && !ret; i++)
        store_be64(table + i * 8, r->places[i] ? r->places[i] : old_block(r, i));
    if (!ret)
        ret = file_write(r->q->file, table, bytes, host(r->header.reftable_offset), r->err);
    free(table);
    return ret;
}

struct in_place {
    bool count_only;
    uint64_t *sectors;
};

static int replace_piece(struct repair *r, uint64_t first, uint64_t offset, void *opaque)
{
    const struct in_place *p = opaque;
    (void)first;
    size_t bytes = (size_t)(per_piece(r) << r->q->header.refcount_order >> 3);
    return repair_sectors(r, r->old_piece, r->new_piece, bytes, offset, p->count_only, p->sectors);
}

int repair_refcounts_in_place(struct repair *r, bool count_only, uint64_t *sectors)
{
    struct in_place p = {count_only, sectors};
    return each_piece(r, replace_piece, &p);
}

static int tell_piece(struct repair *r, uint64_t first, uint64_t offset, void *opaque)
{
    unsigned order = r->q->header.refcount_order;
    (void)offset, (void)opaque;
    for (uint64_t i = 0; i < per_piece(r); i++) {
        uint64_t from = refword_get(r->old_piece, i, order);
        uint64_t to = refword_get(r->new_piece, i, order);
        if (from != to)
            repair_tell(
                r, &(struct img_change){.what = "refcount",
                                        .host_offset = (first + i) << r->q->geometry.cluster_bits,
                                        .from = from,
                                        .to = to});
    }
    return 0;
}

int repair_tell_refcounts(struct repair *r)
{
    uint64_t entries = max_u64(r->blocks, r->c->reftable_entries);
    int ret = each_piece(r, tell_piece, NULL);
    for (uint64_t i = 0; i < entries && !ret && !r->in_place; i++) {
        uint64_t from = i < r->c->reftable_entries ? load_be64(r->c->reftable + i * 8) : 0;
        uint64_t to = i < r->blocks && r->places[i] ? r->places[i] : old_block(r, i);
        if (from != to)
            repair_tell(r, &(struct img_change){.what = "refcount-table",
                                                .host_offset = r->q->header.reftable_offset + i * 8,
                                                .from = from,
                                                .to = to});
    }
    return ret;
}

bool repair_has_refcounts(const struct repair *r)
{
    return r->c->rebuild || r->c->gone.count || memchr(r->c->dirty, 1, (size_t)r->blocks);
}
