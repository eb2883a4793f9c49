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

bool check_is_one(struct check *c, uint64_t offset, bool *one)
{
    uint64_t cluster = offset >> c->q->geometry.cluster_bits, refcount = 0;
    uint64_t counted = cluster < c->clusters ? refs_get(&c->refs, cluster) : 0;
    if (counted == REFS_UNKNOWN)
        return false;
    /* what is not counted inside the file will have the refcount 0 */
    if (!counted && !(c->fix && cluster < c->clusters) &&
        !check_stored_refcount(c, cluster, &refcount))
        return false;
    *one = counted ? counted == 1 : refcount == 1;
    return true;
}

static uint64_t exact_refcount(struct check *c, uint64_t offset)
{
    uint64_t refcount = 0, cluster = offset >> c->q->geometry.cluster_bits;
    uint64_t counted = cluster < c->clusters ? refs_get(&c->refs, cluster) : REFS_OTHER;
    if (c->fix && counted <= REFS_MAX)
        return counted;
    check_stored_refcount(c, cluster, &refcount);
    return refcount;
}

bool check_can_move(const struct check *c, const struct l2_table *t)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t count = refs_get(&c->refs, t->offset >> g->cluster_bits);
    return is_aligned(t->offset, g->cluster_size) && t->offset && t->offset < c->end && count &&
           count <= REFS_MAX;
}

/* All of the active L1 table was counted, whatever else lies there. */
static bool l1_can_move(const struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    uint64_t end = h->l1_offset + h->l1_size * 8ull;
    for (uint64_t at = h->l1_offset; at < end; at += c->q->geometry.cluster_size) {
        uint64_t count = refs_get(&c->refs, at >> c->q->geometry.cluster_bits);
        if (!count || count > REFS_MAX)
            return false;
    }
    return true;
}

/* Counts a finding, or a repair. */
static void tell_flag(struct check *c, uint64_t place, uint64_t guest, bool fix, const char *text,
                      uint64_t a, uint64_t b, uint64_t refcount)
{
    struct check_subject s = {.kind = IMG_FINDING_COPIED_FLAG,
                              .severity = fix ? IMG_SEVERITY_REPAIRED : IMG_SEVERITY_CORRUPTION,
                              .host = place,
                              .has_guest = true,
                              .guest = guest};
    c->report->result->corruptions_fixed += fix;
    c->fixes_errors |= fix;
    const char *verb = fix ? "Repairing" : "ERROR";
    if (text)
        check_tell(c->report, &s,
                   "%s OFLAG_COPIED %s: l1_index=%" PRIu64 " l1_entry=%" PRIx64
                   " refcount=%" PRIu64,
                   verb, text, a, b, refcount);
    else
        check_tell(c->report, &s,
                   "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, verb, b,
                   refcount);
}

/* A misaligned place that a repair takes from a cluster without data: there is no flag then. */
static bool loses_place(const struct check *c, const struct l2_table *t, uint64_t entry,
                        uint64_t bitmap)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    bool data = g->extended_l2 ? (uint32_t)bitmap != 0 : !(entry & ENTRY_ZERO);
    return t->fix && (c->fix & IMG_REPAIR_ERRORS) && !data &&
           !is_aligned(entry & L2_OFFSET_MASK, g->cluster_size);
}

static void check_entry(struct check *c, struct l2_table *t, uint64_t entry, uint64_t bitmap,
                        uint64_t place, uint64_t guest)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t offset = entry & L2_OFFSET_MASK;
    bool one = true;
    if ((entry & ENTRY_COMPRESSED) ||
        (!offset && !(g->external_data && (entry & ENTRY_COPIED) &&
                      (g->extended_l2 || !(entry & ENTRY_ZERO)))) ||
        loses_place(c, t, entry, bitmap))
        return;
    if (!g->external_data && !check_is_one(c, offset, &one))
        return;
    if (one == !!(entry & ENTRY_COPIED))
        return;
    bool fix = c->fix_flags && check_can_move(c, t);
    t->fix |= fix;
    tell_flag(c, place, guest, fix, NULL, 0, entry,
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

static int check_pieces(struct check *c, struct l2_table *t, uint64_t guest)
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
                check_entry(c, t, entry, g->extended_l2 ? load_be64(c->piece + byte + 8) : 0,
                            t->offset + at + byte,
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
    if (!offset || !check_is_one(c, offset, &one))
        return 0;
    if (one != !!(entry & ENTRY_COPIED)) {
        c->l1_fix |= c->fix_flags;
        tell_flag(c, place, guest, c->fix_flags, "L2 cluster", index, entry,
                  exact_refcount(c, offset));
    }
    struct l2_table *t = check_find_l2(c, offset);
    return t ? check_table(c, t, guest) : 0;
}

/* The refcounts are right by now, or will be, if nothing is left that is wrong. */
static bool fixes_flags(const struct check *c)
{
    const struct img_check *r = c->report->result;
    if (!l1_can_move(c))
        return false;
    return (c->fix & IMG_REPAIR_ERRORS) ||
           (c->fix && !r->check_errors && r->corruptions == r->unseen_by_qemu && !r->leaks);
}

int check_copied_flags(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    c->fix_flags = fixes_flags(c);
    return check_each_l1(c, h->l1_offset, h->l1_size, true, check_l1_entry);
}
