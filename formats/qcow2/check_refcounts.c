/*
 * The refcounts as stored, beside the references as counted.
 *
 * Where every cluster of a stretch is used once, or not at all, both sides are compared by the
 * word. After the comparison the array of counts says what the refcounts are, for check_flags.c.
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refword.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

/* Clusters that are compared at once; a refcount block stands for a multiple of it. */
enum { GROUP = 64 };

/* Host file systems have files of 16 TiB at most, or of far more; QEMU finds out by trying. */
#define MAX_HOST_FILE ((1ull << 44) - (1ull << 22))

static void fill_ones(uint8_t pattern[GROUP * 8], unsigned order)
{
    static const uint8_t small[] = {0xff, 0x55, 0x11};
    memset(pattern, order < 3 ? small[order] : 0, GROUP * 8);
    size_t width = order < 3 ? 0 : (size_t)1 << (order - 3);
    for (size_t i = 0; width && i < GROUP; i++)
        pattern[i * width + width - 1] = 1;
}

/*
 * QEMU makes the file so long that the block lies inside, full of zeroes. Here the table forgets
 * it, which comes to the same; what is told is what QEMU says.
 */
static int outside(struct check *c, uint64_t index, uint64_t offset)
{
    uint64_t place = c->q->header.reftable_offset + index * 8;
    if (!(c->fix & IMG_REPAIR_ERRORS)) {
        check_bad(c, OUTSIDE, place, "ERROR refcount block %" PRIu64 " is outside image", index);
        return 0;
    }
    check_repairs(c, OUTSIDE, place, "Repairing refcount block %" PRIu64 " is outside image",
                  index);
    c->fixes_errors = true;
    if (offset > MAX_HOST_FILE) {
        c->rebuild = true;
        c->report->result->corruptions++; /* QEMU says it in these words: */
        check_repairs(
            c, OUTSIDE, place, "ERROR could not resize image: %s",
            strerror(offset > (uint64_t)INT64_MAX - c->q->geometry.cluster_size ? EINVAL : EFBIG));
        return 0;
    }
    c->report->result->corruptions_fixed++;
    return cluster_list_add(&c->gone, offset >> c->q->geometry.cluster_bits, c->err);
}

int check_refcount_blocks(struct check *c)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t table = c->q->header.reftable_offset;
    for (uint64_t i = 0; i < c->reftable_entries; i++) {
        uint64_t entry = load_be64(c->reftable + i * 8), place = table + i * 8;
        uint64_t offset = entry & REFTABLE_OFFSET_MASK;
        if (!entry)
            continue;
        if (entry & REFTABLE_RESERVED_MASK) {
            c->rebuild = true;
            check_bad(c, RESERVED_BITS, place,
                      "ERROR refcount table entry %" PRIu64 " has reserved bits set", i);
            continue;
        }
        if (!is_aligned(offset, g->cluster_size)) {
            c->rebuild = true;
            check_bad(c, REFCOUNT_BLOCK, place,
                      "ERROR refcount block %" PRIu64
                      " is not cluster aligned; refcount table entry corrupted",
                      i);
            continue;
        }
        if (offset >> g->cluster_bits >= c->clusters) {
            int ret = outside(c, i, offset);
            if (ret < 0)
                return ret;
            continue;
        }
        int ret = check_reference(c, offset, g->cluster_size, 1, place);
        if (ret < 0)
            return ret;
        uint64_t count = refs_get(&c->refs, offset >> g->cluster_bits);
        if (c->fix && (ret = cluster_list_add(&c->old, offset >> g->cluster_bits, c->err)) < 0)
            return ret;
        c->rebuild |= count != 1;
        if (count != 1)
            check_bad(c, REFCOUNT_BLOCK, place,
                      "ERROR refcount block %" PRIu64 " refcount=%" PRIu64, i, count);
    }
    return 0;
}

/* The block that holds the refcount of CLUSTER: 0 where there is none; -errno: it cannot be read.
 */
static int block_of(const struct check *c, uint64_t cluster, uint64_t *offset)
{
    unsigned bits = c->q->header.cluster_bits + 3 - c->q->header.refcount_order;
    uint64_t index = cluster >> bits;
    *offset = 0;
    if (index >= c->reftable_entries)
        return 0;
    *offset = load_be64(c->reftable + index * 8) & REFTABLE_OFFSET_MASK;
    if (!is_aligned(*offset, c->q->geometry.cluster_size) ||
        *offset > (uint64_t)INT64_MAX - c->q->geometry.cluster_size)
        return -EIO;
    return 0;
}

bool check_stored_refcount(struct check *c, uint64_t cluster, uint64_t *refcount)
{
    unsigned order = c->q->header.refcount_order;
    uint64_t block, in_block = cluster & ((c->q->geometry.cluster_size * 8ull >> order) - 1);
    uint8_t data[8];
    *refcount = 0;
    if (block_of(c, cluster, &block) < 0)
        return false;
    if (!block)
        return true;
    uint64_t bit = in_block << order;
    size_t bytes = order < 3 ? 1 : (size_t)1 << (order - 3);
    if (file_read_padded(c->q->file, data, bytes, host(block + bit / 8), NULL) < 0)
        return false;
    *refcount = refword_get(data, order < 3 ? (bit & 7) >> order : 0, order);
    return true;
}

struct comparison {
    struct check *c;
    unsigned fix;
    bool last;
    uint64_t highest; /* the last cluster that is in use or said to be */
    uint8_t ones[GROUP * 8];
};

/* Notes that the refcount of CLUSTER changes. */
static void change(struct check *c, uint64_t cluster)
{
    c->dirty[cluster >> (c->q->header.cluster_bits + 3 - c->q->header.refcount_order)] = 1;
}

/* A difference that is repaired. A refcount of 0 is never told so: then all are made anew. */
static bool repairs(struct comparison *m, uint64_t cluster, uint64_t stored, uint64_t count)
{
    struct img_check *r = m->c->report->result;
    bool leak = stored > count;
    if (!stored || !(m->fix & (leak ? IMG_REPAIR_LEAKS : IMG_REPAIR_ERRORS)))
        return false;
    *(leak ? &r->leaks_fixed : &r->corruptions_fixed) += 1;
    m->c->fixes_errors |= !leak;
    change(m->c, cluster);
    struct check_subject s = {.kind = leak ? IMG_FINDING_LEAK : IMG_FINDING_REFCOUNT_TOO_LOW,
                              .severity = IMG_SEVERITY_REPAIRED,
                              .host = cluster << m->c->q->geometry.cluster_bits};
    check_tell(m->c->report, &s,
               "Repairing cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, cluster,
               stored, count);
    return true;
}

static void compare_one(struct comparison *m, uint64_t cluster, uint64_t stored)
{
    struct check *c = m->c;
    uint64_t count = refs_get(&c->refs, cluster);
    struct check_subject s = {.kind = IMG_FINDING_LEAK,
                              .severity = IMG_SEVERITY_LEAK,
                              .host = cluster << c->q->geometry.cluster_bits};
    if (stored || count)
        m->highest = cluster;
    if (count && stored != 1)
        c->plain = false;
    if (count == stored)
        return;
    c->rebuild |= !stored;
    if (repairs(m, cluster, stored, count)) {
        c->plain = false;
        return;
    }
    if (stored < count) {
        s.kind = IMG_FINDING_REFCOUNT_TOO_LOW;
        s.severity = IMG_SEVERITY_CORRUPTION;
    }
    if (count && m->last)
        refs_set(&c->refs, cluster, stored < 2 ? stored : REFS_OTHER);
    check_tell(c->report, &s, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
               stored < count ? "ERROR" : "Leaked", cluster, stored, count);
}

/* N clusters of one chunk; DATA: their refcounts, NULL where all are 0. */
static void compare_chunk(struct comparison *m, uint64_t first, uint64_t n, const uint8_t *data)
{
    static const uint8_t ones[GROUP] = {[0 ... GROUP - 1] = 1}, zeroes[GROUP * 8];
    struct check *c = m->c;
    unsigned order = c->q->header.refcount_order;
    size_t group_bytes = (size_t)GROUP << order >> 3;
    bool empty = refs_empty(&c->refs, first);
    const uint8_t *counts = empty ? NULL : refs_bytes(&c->refs, first);
    if (empty && !data)
        return;
    for (uint64_t i = 0; i < n; i += GROUP) {
        const uint8_t *stored = data ? data + (i << order >> 3) : zeroes;
        const uint8_t *counted = empty ? zeroes : counts ? counts + i : NULL;
        uint64_t in_group = min_u64(GROUP, n - i);
        if (in_group == GROUP && counted) {
            if (!memcmp(counted, ones, GROUP) && !memcmp(stored, m->ones, group_bytes)) {
                m->highest = first + i + GROUP - 1;
                continue;
            }
            if (!memcmp(counted, zeroes, GROUP) && !memcmp(stored, zeroes, group_bytes))
                continue;
            if (!check_tells(c->report) && !memcmp(counted, zeroes, GROUP) &&
                !memcmp(stored, m->ones, group_bytes)) {
                if (m->fix & IMG_REPAIR_LEAKS) {
                    c->report->result->leaks_fixed += GROUP;
                    c->report->result->untold += GROUP;
                    change(c, first + i);
                } else {
                    check_count(c->report, IMG_SEVERITY_LEAK, GROUP);
                }
                m->highest = first + i + GROUP - 1;
                continue;
            }
        }
        for (uint64_t k = 0; k < in_group; k++)
            compare_one(m, first + i + k, refword_get(stored, k, order));
    }
}

static void cannot_read(const struct comparison *m, uint64_t first, uint64_t end, int code)
{
    struct check *c = m->c;
    for (uint64_t i = first; i < end; i++) {
        struct check_subject s = {.kind = IMG_FINDING_UNREADABLE,
                                  .severity = IMG_SEVERITY_UNCHECKED,
                                  .host = i << c->q->geometry.cluster_bits};
        if (refs_get(&c->refs, i) && m->last)
            refs_set(&c->refs, i, REFS_UNKNOWN);
        check_tell(c->report, &s, "Can't get refcount for cluster %" PRIu64 ": %s", i,
                   strerror(code));
    }
    c->plain = false;
}

/* The clusters [FIRST, END), whose refcounts lie in one block. */
static void compare_block(struct comparison *m, uint64_t first, uint64_t end, uint64_t block)
{
    struct check *c = m->c;
    unsigned order = c->q->header.refcount_order;
    uint64_t per_piece = min_u64((CHECK_PIECE * 8ull) >> order, REFS_CHUNK);
    uint64_t loaded_from = 0, loaded_to = 0, per_load = (CHECK_PIECE * 8ull) >> order, n;
    bool zeroes = true;
    for (uint64_t at = first; at < end; at += n) {
        n = min_u64(min_u64(end - at, per_piece), REFS_CHUNK - at % REFS_CHUNK);
        if (block && at >= loaded_to) {
            loaded_from = at;
            loaded_to = min_u64(end, at + per_load);
            size_t bytes = (size_t)(((loaded_to - loaded_from) << order) + 7) / 8;
            int ret = check_read(c, c->piece, bytes, block + ((at - first) << order >> 3), &zeroes);
            if (ret < 0) {
                cannot_read(m, at, end, -ret);
                c->failure = ret;
                img_error_clear(c->err); /* told as findings */
                return;
            }
        }
        compare_chunk(m, at, n,
                      block && !zeroes ? c->piece + ((at - loaded_from) << order >> 3) : NULL);
    }
}

int check_compare_refcounts(struct check *c, unsigned fix, bool last)
{
    unsigned order = c->q->header.refcount_order;
    uint64_t per_block = c->q->geometry.cluster_size * 8ull >> order;
    struct comparison m = {.c = c, .fix = fix, .last = last};
    fill_ones(m.ones, order);
    c->plain = true;
    for (uint64_t first = 0; first < c->clusters; first += per_block) {
        uint64_t block, end = min_u64(first + per_block, c->clusters);
        int ret = file_go_on(c->q->file, c->err);
        if (ret < 0)
            return ret;
        ret = block_of(c, first, &block);
        if (ret < 0)
            cannot_read(&m, first, end, -ret);
        else
            compare_block(&m, first, end, block);
    }
    c->report->result->image_end_offset = (m.highest + 1) << c->q->geometry.cluster_bits;
    return 0;
}
