/*
 * The COPIED flag: set where a refcount is exactly 1, so that a writer need not look it up. The
 * specification asks for it in what the active L1 table reaches alone; QEMU leaves it as it was
 * in the L1 tables of snapshots.
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <inttypes.h>

/* The refcount of the cluster at OFFSET, as far as it matters; false: nobody can say. */
static bool is_one(struct check *c, uint64_t offset, bool *one)
{
    uint64_t cluster = offset >> c->q->geometry.cluster_bits, refcount = 0;
    uint64_t counted = cluster < c->clusters ? refs_get(&c->refs, cluster) : 0;
    if (counted == REFS_UNKNOWN)
        return false;
    if (!counted && !check_stored_refcount(c, cluster, &refcount))
        return false;
    *one = counted ? counted == 1 : refcount == 1;
    return true;
}

static uint64_t exact_refcount(struct check *c, uint64_t offset)
{
    uint64_t refcount = 0;
    check_stored_refcount(c, offset >> c->q->geometry.cluster_bits, &refcount);
    return refcount;
}

static void check_entry(struct check *c, uint64_t entry, uint64_t place, uint64_t guest)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t offset = entry & L2_OFFSET_MASK;
    bool one = true;
    if ((entry & ENTRY_COMPRESSED) || (!offset && !(g->external_data && (entry & ENTRY_COPIED) &&
                                                    (g->extended_l2 || !(entry & ENTRY_ZERO)))))
        return;
    if (!g->external_data && !is_one(c, offset, &one))
        return;
    if (one == !!(entry & ENTRY_COPIED))
        return;
    struct check_subject s = {.kind = IMG_FINDING_COPIED_FLAG,
                              .severity = IMG_SEVERITY_CORRUPTION,
                              .host = place,
                              .has_guest = true,
                              .guest = guest};
    check_tell(c->report, &s,
               "ERROR OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, entry,
               g->external_data ? 1 : exact_refcount(c, offset));
}

/* How many entries from P on are a row of clusters with refcount 1 and the flag: nothing to say. */
static uint32_t good_row(const struct check *c, const uint8_t *p, uint32_t n)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t entry = load_be64(p), offset = entry & L2_OFFSET_MASK;
    uint64_t cluster = offset >> g->cluster_bits;
    if (g->extended_l2 || g->external_data || !(entry & ENTRY_COPIED) ||
        (entry & ENTRY_COMPRESSED) || cluster >= c->clusters || refs_empty(&c->refs, cluster))
        return 0;
    const uint8_t *counts = refs_bytes(&c->refs, cluster);
    if (!counts)
        return 0;
    uint64_t most = min_u64(n, REFS_CHUNK - cluster % REFS_CHUNK), expected = entry;
    uint32_t count = 0;
    while (count < most && counts[count] == 1 && load_be64(p + count * 8ul) == expected) {
        expected += g->cluster_size;
        count++;
    }
    return count;
}

static int check_pieces(struct check *c, const struct l2_table *t, uint64_t guest)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint32_t bytes = (uint32_t)min_u64(g->cluster_size, CHECK_PIECE);
    uint32_t n = bytes / g->l2_entry_size;
    for (uint64_t at = 0; at < g->cluster_size; at += bytes) {
        bool zeroes;
        int ret = check_read(c, c->piece, bytes, t->offset + at, &zeroes);
        if (ret < 0)
            return img_prefix(c->err, ret, "Could not read L2 table: ");
        for (uint32_t i = 0; i < n && !zeroes;) {
            size_t byte = (size_t)i * g->l2_entry_size;
            uint64_t entry = load_be64(c->piece + byte);
            uint32_t row = entry ? good_row(c, c->piece + byte, n - i) : 1;
            if (!row)
                check_entry(c, entry, t->offset + at + byte,
                            guest + ((at / g->l2_entry_size + i) << g->cluster_bits));
            i += row ? row : 1;
        }
    }
    return 0;
}

static int check_table(struct check *c, struct l2_table *t, uint64_t guest)
{
    uint64_t before = c->report->result->corruptions;
    if (c->plain && !t->not_copied && !t->found)
        return 0;
    if (t->checked && !(t->flagged && check_repeat(c, c->q->geometry.cluster_size))) {
        check_count(c->report, IMG_SEVERITY_CORRUPTION, t->flagged);
        return 0;
    }
    int ret = check_pieces(c, t, guest);
    t->flagged = (uint32_t)(c->report->result->corruptions - before);
    t->checked = true;
    return ret;
}

static int check_l1_entry(struct check *c, uint64_t index, uint64_t entry, uint64_t place,
                          bool active)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t offset = entry & L1_OFFSET_MASK;
    uint64_t guest = index << (g->l2_bits + g->cluster_bits);
    bool one;
    (void)active;
    if (!offset || !is_one(c, offset, &one))
        return 0;
    if (one != !!(entry & ENTRY_COPIED)) {
        struct check_subject s = {.kind = IMG_FINDING_COPIED_FLAG,
                                  .severity = IMG_SEVERITY_CORRUPTION,
                                  .host = place,
                                  .has_guest = true,
                                  .guest = guest};
        check_tell(c->report, &s,
                   "ERROR OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
                   " refcount=%" PRIu64,
                   index, entry, exact_refcount(c, offset));
    }
    struct l2_table *t = check_find_l2(c, offset);
    return t ? check_table(c, t, guest) : 0;
}

int check_copied_flags(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    return check_each_l1(c, h->l1_offset, h->l1_size, true, check_l1_entry);
}
