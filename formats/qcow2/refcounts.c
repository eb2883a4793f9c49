#include "formats/qcow2/refcounts.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refword.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint64_t refcounts_per_block(const struct refcounts *r)
{
    return r->q->geometry.cluster_size * 8ull >> r->order;
}

static uint64_t per_block(const struct refcounts *r, unsigned order)
{
    return r->q->geometry.cluster_size * 8ull >> order;
}

/* ---- life time ----------------------------------------------------------------------------- */

static int load_table(struct refcounts *r, struct img_error *err)
{
    struct qcow2 *q = r->q;
    size_t bytes = (size_t)q->header.reftable_clusters << q->header.cluster_bits;
    uint8_t *raw = malloc(bytes);
    r->old_entries = bytes / 8;
    r->entries = r->old_entries;
    r->old = calloc(r->old_entries, sizeof *r->old);
    r->blocks = calloc(r->entries, sizeof(struct refblock *));
    r->changed = calloc(r->entries, sizeof *r->changed);
    int ret = raw && r->old && r->blocks && r->changed ? 0 : img_fail_nomem(err);
    if (!ret)
        ret = file_read_padded(q->file, raw, bytes, host(q->header.reftable_offset), err);
    for (uint64_t i = 0; !ret && i < r->old_entries; i++) {
        uint64_t entry = load_be64(raw + i * 8);
        r->old[i] = entry & REFTABLE_OFFSET_MASK;
        if ((entry & REFTABLE_RESERVED_MASK) || !is_aligned(r->old[i], q->geometry.cluster_size) ||
            (r->old[i] && !qcow2_in_file(q, r->old[i])))
            ret = img_fail(err, EINVAL,
                           "Refcount block offset %#" PRIx64
                           " unaligned or outside the file (refcount table index: %#" PRIx64 ")",
                           entry, i);
    }
    free(raw);
    return ret < 0 ? img_prefix(err, ret, "Could not read the refcount table: ") : 0;
}

int refcounts_init(struct refcounts *r, struct qcow2 *q, struct img_error *err)
{
    *r = (struct refcounts){
        .q = q, .order = q->header.refcount_order, .old_order = q->header.refcount_order};
    int ret = load_table(r, err);
    if (!ret)
        ret = refcounts_guard(r, err);
    if (ret < 0)
        refcounts_free(r);
    return ret;
}

static void free_block(struct refblock *b)
{
    if (!b)
        return;
    free(b->data);
    free(b->old_used);
    free(b);
}

void refcounts_forget(struct refcounts *r, uint64_t index)
{
    if (index >= r->entries || !r->blocks[index] || r->blocks[index]->old_used)
        return;
    free_block(r->blocks[index]);
    r->blocks[index] = NULL;
}

void refcounts_free(struct refcounts *r)
{
    for (uint64_t i = 0; r->blocks && i < r->entries; i++)
        free_block(r->blocks[i]);
    free(r->blocks);
    free(r->changed);
    free(r->old);
    free(r->metadata);
    *r = (struct refcounts){0};
}

/* Room for COUNT blocks at least. */
static int grow(struct refcounts *r, uint64_t count, struct img_error *err)
{
    if (count <= r->entries)
        return 0;
    if (count > MAX_REFTABLE_BYTES / 8)
        return img_fail(err, EFBIG,
                        "The image would need %" PRIu64 " refcount blocks, at most %d are possible",
                        count, MAX_REFTABLE_BYTES / 8);
    uint64_t entries = max_u64(count, r->entries + r->entries / 2);
    entries = min_u64(align_up(entries, r->q->geometry.cluster_size / 8), MAX_REFTABLE_BYTES / 8);
    struct refblock **blocks = realloc(r->blocks, entries * sizeof(struct refblock *));
    if (blocks) {
        memset(blocks + r->entries, 0, (entries - r->entries) * sizeof(struct refblock *));
        r->blocks = blocks;
    }
    uint64_t *changed = realloc(r->changed, entries * sizeof *changed);
    r->changed = changed ? changed : r->changed;
    if (!blocks || !changed)
        return img_fail_nomem(err);
    r->entries = entries;
    return 0;
}

/* ---- blocks -------------------------------------------------------------------------------- */

static int read_old(struct refcounts *r, uint64_t index, uint8_t *data, struct img_error *err)
{
    uint64_t place = index < r->old_entries ? r->old[index] : 0;
    uint32_t size = r->q->geometry.cluster_size;
    if (!place) {
        memset(data, 0, size);
        return 0;
    }
    int ret = file_read_padded(r->q->file, data, size, host(place), err);
    return ret < 0 ? img_prefix(err, ret, "Could not read refcount block: ") : 0;
}

/* The block that stands for INDEX, read on first use. */
int refcounts_load(struct refcounts *r, uint64_t index, struct refblock **out,
                   struct img_error *err)
{
    int ret = grow(r, index + 1, err);
    if (ret < 0)
        return ret;
    *out = r->blocks[index];
    if (*out)
        return 0;
    struct refblock *b = calloc(1, sizeof *b);
    uint8_t *data = malloc(r->q->geometry.cluster_size);
    if (!b || !data) {
        free(b);
        free(data);
        return img_fail_nomem(err);
    }
    b->data = data;
    ret = read_old(r, index, data, err);
    if (ret < 0) {
        free_block(b);
        return ret;
    }
    *out = r->blocks[index] = b;
    return 0;
}

static void change_in_place(struct refcounts *r, uint64_t index, struct refblock *b, size_t from,
                            size_t to)
{
    if (b->dirty_from >= b->dirty_to) {
        b->dirty_from = from;
        b->dirty_to = to;
        r->changed[r->changed_count++] = index;
        return;
    }
    b->dirty_from = (size_t)min_u64(b->dirty_from, from);
    b->dirty_to = (size_t)max_u64(b->dirty_to, to);
}

/* Notes that a block is going to differ, and what of it was in use. */
int refcounts_change(struct refcounts *r, uint64_t index, struct refblock *b, uint64_t at,
                     uint64_t n, struct img_error *err)
{
    if (r->in_place) {
        uint64_t from = at << r->order, to = (at + n) << r->order; /* bits */
        change_in_place(r, index, b, (size_t)(from / 8), (size_t)((to + 7) / 8));
        return 0;
    }
    if (b->old_used)
        return 0;
    uint64_t count = per_block(r, r->order);
    b->old_used = calloc(1, (count + 7) / 8);
    if (!b->old_used)
        return img_fail_nomem(err);
    for (uint64_t i = 0; i < count; i++)
        if (refword_get(b->data, i, r->order))
            b->old_used[i / 8] |= (uint8_t)(1 << i % 8);
    r->changed[r->changed_count++] = index;
    return 0;
}

static bool was_used(const struct refblock *b, uint64_t i)
{
    return b->old_used && b->old_used[i / 8] >> i % 8 & 1;
}

/* ---- one refcount -------------------------------------------------------------------------- */

int refcounts_get(struct refcounts *r, uint64_t cluster, uint64_t *value, struct img_error *err)
{
    struct refblock *b;
    uint64_t n = per_block(r, r->order);
    *value = 0;
    if (cluster / n >= r->entries)
        return 0;
    int ret = refcounts_load(r, cluster / n, &b, err);
    if (!ret)
        *value = refword_get(b->data, cluster % n, r->order);
    return ret;
}

int refcounts_set(struct refcounts *r, uint64_t cluster, uint64_t value, struct img_error *err)
{
    struct refblock *b;
    uint64_t n = per_block(r, r->order);
    int ret = refcounts_load(r, cluster / n, &b, err);
    if (!ret && refword_get(b->data, cluster % n, r->order) == value)
        return 0;
    if (!ret && value > refword_max(r->order))
        ret = img_fail(err, EINVAL,
                       "The refcount %" PRIu64 " of the cluster at offset %#" PRIx64
                       " does not fit in %u bits",
                       value, cluster << r->q->geometry.cluster_bits, 1u << r->order);
    if (!ret)
        ret = refcounts_change(r, cluster / n, b, cluster % n, 1, err);
    if (!ret)
        refword_set(b->data, cluster % n, r->order, value);
    return ret;
}

static int cannot_add(const struct refcounts *r, uint64_t cluster, int delta, struct img_error *err)
{
    uint64_t offset = cluster << r->q->geometry.cluster_bits;
    if (delta > 0)
        return img_fail_detail(err, EINVAL, "Invalid argument",
                               "the refcount of the cluster at offset %#" PRIx64
                               " would not fit in %u bits",
                               offset, 1u << r->order);
    int ret = img_fail(
        err, EINVAL, "The cluster at offset %#" PRIx64 " is in use, but its refcount is 0", offset);
    img_hint(err, "Repair the image with 'check -r all' first.");
    return ret;
}

/* N clusters of one block, from its entry AT on. */
static int add_in_block(struct refcounts *r, uint64_t index, uint64_t at, uint64_t n, int delta,
                        struct img_error *err)
{
    struct refblock *b;
    uint64_t bound = delta > 0 ? refword_max(r->order) : 0;
    int ret = refcounts_load(r, index, &b, err);
    if (!ret)
        ret = refcounts_change(r, index, b, at, n, err);
    for (uint64_t i = at; !ret && i < at + n; i++) {
        uint64_t value = refword_get(b->data, i, r->order);
        if (value == bound)
            ret = cannot_add(r, index * per_block(r, r->order) + i, delta, err);
        else
            refword_set(b->data, i, r->order, value + (uint64_t)(int64_t)delta);
    }
    return ret;
}

int refcounts_add(struct refcounts *r, uint64_t first, uint64_t count, int delta,
                  struct img_error *err)
{
    uint64_t per = per_block(r, r->order);
    int ret = 0;
    while (count && !ret) {
        uint64_t n = min_u64(count, per - first % per);
        ret = add_in_block(r, first / per, first % per, n, delta, err);
        first += n;
        count -= n;
    }
    return ret;
}

/* ---- allocation ---------------------------------------------------------------------------- */

int refcounts_is_free(struct refcounts *r, uint64_t cluster, bool *out, struct img_error *err)
{
    struct refblock *b;
    uint64_t n = per_block(r, r->order);
    int ret = refcounts_load(r, cluster / n, &b, err);
    if (ret < 0)
        return ret;
    *out = !refword_get(b->data, cluster % n, r->order) && !was_used(b, cluster % n) &&
           !refcounts_guarded(r, cluster, 1);
    return 0;
}

int refcounts_allocate(struct refcounts *r, uint64_t count, uint64_t *first, struct img_error *err)
{
    uint64_t run = 0, at = r->cursor;
    int ret = 0;
    for (; run < count; at++) {
        bool unused;
        if (at >= (uint64_t)INT64_MAX >> r->q->geometry.cluster_bits)
            return img_fail(err, EFBIG, "The image file cannot grow any further");
        ret = refcounts_is_free(r, at, &unused, err);
        if (ret < 0)
            return ret;
        run = unused ? run + 1 : 0;
    }
    *first = at - count;
    ret = refcounts_add(r, *first, count, 1, err);
    if (!ret && count == 1) /* all before it are taken */
        r->cursor = at;
    r->end = max_u64(r->end, at);
    return ret;
}

int refcounts_allocate_at(struct refcounts *r, uint64_t first, uint64_t count, bool *taken,
                          struct img_error *err)
{
    int ret = 0;
    *taken = true;
    for (uint64_t i = 0; i < count && *taken && !ret; i++)
        ret = refcounts_is_free(r, first + i, taken, err);
    if (!ret && *taken)
        ret = refcounts_add(r, first, count, 1, err);
    if (!ret && *taken)
        r->end = max_u64(r->end, first + count);
    return ret;
}

static bool is_empty(const struct refcounts *r, const struct refblock *b)
{
    return !*b->data && !memcmp(b->data, b->data + 1, r->q->geometry.cluster_size - 1);
}

/* *MOVED: something was done. A block of zeroes needs no place: the table then names none. */
static int place_one(struct refcounts *r, uint64_t index, bool *moved, struct img_error *err)
{
    struct refblock *b = r->blocks[index];
    unsigned bits = r->q->geometry.cluster_bits;
    uint64_t old = index < r->old_entries ? r->old[index] : 0, place = b->home >> bits;
    bool home = false;
    int ret = 0;
    if (!b->released) {
        *moved = b->released = true;
        if (old)
            ret = refcounts_add(r, old >> bits, 1, -1, err);
    }
    if (ret < 0 || b->place || is_empty(r, b))
        return ret;
    *moved = true;
    if (b->home)
        ret = refcounts_allocate_at(r, place, 1, &home, err);
    if (!ret && !home)
        ret = refcounts_allocate(r, 1, &place, err);
    b->place = ret < 0 ? 0 : place << bits;
    return ret;
}

/* A block that has its place may have become empty since, as others gave up theirs. */
static int give_up_place(struct refcounts *r, uint64_t index, bool *given, struct img_error *err)
{
    struct refblock *b = r->blocks[index];
    uint64_t place = b->place;
    if (!place || !is_empty(r, b))
        return 0;
    *given = true;
    b->place = 0;
    return refcounts_add(r, place >> r->q->geometry.cluster_bits, 1, -1, err);
}

int refcounts_place(struct refcounts *r, struct img_error *err)
{
    int ret = 0;
    for (bool moved = true; moved && !ret;) { /* a place for one can fill another that was empty */
        moved = false;
        for (uint64_t i = 0; i < r->changed_count && !ret; i++) /* the list may grow meanwhile */
            ret = place_one(r, r->changed[i], &moved, err);
    }
    for (bool given = true; given && !ret;) { /* and one given up can empty another */
        given = false;
        for (uint64_t i = 0; i < r->changed_count && !ret; i++)
            ret = give_up_place(r, r->changed[i], &given, err);
    }
    return ret;
}

int refcounts_move(struct refcounts *r, uint64_t index, struct img_error *err)
{
    struct refblock *b;
    int ret = refcounts_load(r, index, &b, err);
    return ret < 0 ? ret : refcounts_change(r, index, b, 0, 0, err);
}

uint64_t refcounts_last_kept(const struct refcounts *r, uint64_t last)
{
    uint64_t n = per_block(r, r->order);
    for (; last; last--) {
        const struct refblock *b = last / n < r->entries ? r->blocks[last / n] : NULL;
        if (!b || !b->old_used || refword_get(b->data, last % n, r->order))
            break;
    }
    return last;
}

void refcounts_each_freed(struct refcounts *r,
                          void (*fn)(void *opaque, uint64_t first, uint64_t count), void *opaque)
{
    uint64_t n = per_block(r, r->order), first = 0, count = 0;
    for (uint64_t k = 0; k < r->changed_count; k++) {
        const struct refblock *b = r->blocks[r->changed[k]];
        for (uint64_t i = 0; i < n; i++) {
            uint64_t cluster = r->changed[k] * n + i;
            if (!was_used(b, i) || refword_get(b->data, i, r->order))
                continue;
            if (count && cluster == first + count) {
                count++;
                continue;
            }
            if (count)
                fn(opaque, first, count);
            first = cluster;
            count = 1;
        }
    }
    if (count)
        fn(opaque, first, count);
}
