/*
 * The entries of an L2 table: each judged, and what it references counted.
 *
 * Most tables hold long rows of clusters that follow each other in the file; such a row costs a
 * comparison an entry and one count for all.
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <inttypes.h>

/* One walk through a table. */
struct walk {
    struct check *c;
    struct l2_table *table;
    uint64_t times; /* how often what the table references is counted; 0: only tell again */
    bool active;
    uint64_t guest; /* of the first entry, in the active disk */
    uint64_t place; /* of the entry looked at, in the file */
    uint32_t index;
    uint64_t next; /* where the next cluster would lie if nothing were fragmented; 0: anywhere */
};

/* Tells something about the entry looked at. */
static void subject(const struct walk *w, enum img_finding_kind kind, struct check_subject *s)
{
    *s = (struct check_subject){
        .kind = kind,
        .severity = IMG_SEVERITY_CORRUPTION,
        .host = w->place,
        .has_guest = w->active,
        .guest = w->guest + ((uint64_t)w->index << w->c->q->geometry.cluster_bits),
    };
}

#define bad(w, what, ...)                                                                          \
    do {                                                                                           \
        struct check_subject subject_;                                                             \
        subject((w), IMG_FINDING_##what, &subject_);                                               \
        check_tell((w)->c->report, &subject_, __VA_ARGS__);                                        \
    } while (0)

/* What QEMU does not see is told on the first walk alone. */
#define bad_once(w, what, ...)                                                                     \
    do {                                                                                           \
        if ((w)->times) {                                                                          \
            struct check_subject subject_;                                                         \
            subject((w), IMG_FINDING_##what, &subject_);                                           \
            subject_.unseen = true;                                                                \
            (w)->c->once++;                                                                        \
            check_tell((w)->c->report, &subject_, __VA_ARGS__);                                    \
        }                                                                                          \
    } while (0)

static int reference(struct walk *w, uint64_t offset, uint64_t length)
{
    struct check *c = w->c;
    if (offset + length >= c->end + c->q->geometry.cluster_size) {
        bad(w, OUTSIDE,
            "ERROR: counting reference for region exceeding the end of the file by one cluster or "
            "more: "
            "offset 0x%" PRIx64 " size 0x%" PRIx64,
            offset, length);
        return check_note_outside(c, offset, length);
    }
    return w->times ? check_reference(c, offset, length, w->times, w->place) : 0;
}

static void count_allocated(struct walk *w, uint64_t offset, uint32_t clusters)
{
    if (!w->times)
        return;
    w->table->allocated += clusters;
    w->table->fragmented += w->next && offset != w->next;
    w->next = offset + ((uint64_t)clusters << w->c->q->geometry.cluster_bits);
}

/* A cluster past the end of the file that has no refcount will be told when refcounts are compared.
 */
static bool told_by_refcount(struct check *c, uint64_t end)
{
    uint64_t refcount, cluster = (end - 1) >> c->q->geometry.cluster_bits;
    return cluster > (c->end - 1) >> c->q->geometry.cluster_bits &&
           check_stored_refcount(c, cluster, &refcount) && !refcount;
}

static int compressed(struct walk *w, uint64_t entry, uint64_t bitmap)
{
    const struct qcow2_geometry *g = &w->c->q->geometry;
    unsigned offset_bits = 62 - (g->cluster_bits - 8);
    uint64_t offset = entry & ((1ull << offset_bits) - 1);
    if (entry & ENTRY_COPIED) {
        bad(w, COPIED_FLAG,
            "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters",
            offset);
        entry &= ~ENTRY_COPIED;
    }
    if (g->external_data) {
        bad(w, INVALID_ENTRY,
            "ERROR compressed cluster %" PRIu32 " with data file, entry=0x%" PRIx64, w->index,
            entry);
        return 0;
    }
    if (bitmap) {
        bad(w, INVALID_ENTRY,
            "ERROR compressed cluster %" PRIu32
            " with non-zero subcluster allocation bitmap, entry=0x%" PRIx64,
            w->index, entry);
        return 0;
    }
    uint64_t sectors = (entry & ~ENTRY_COMPRESSED) >> offset_bits;
    uint64_t length = (sectors + 1) * 512 - (offset & 511);
    uint64_t end = offset + length;
    int ret = reference(w, offset, length);
    if (end > w->c->end && end < w->c->end + g->cluster_size && !told_by_refcount(w->c, end))
        bad_once(w, OUTSIDE,
                 "ERROR compressed data reaches past the end of the file: offset 0x%" PRIx64
                 " size 0x%" PRIx64 ", the file ends at 0x%" PRIx64,
                 offset, length, w->c->end);
    if (w->times) {
        w->table->allocated++;
        w->table->compressed++;
        w->table->fragmented++; /* always, as QEMU has it */
    }
    return ret;
}

/* Can the table get another place? There what is wrong in it is put right, whatever else lies
 * here. */
static bool may_fix(const struct walk *w)
{
    const struct check *c = w->c;
    uint64_t offset = w->table->offset;
    return (c->fix & IMG_REPAIR_ERRORS) && offset && offset < c->end &&
           is_aligned(offset, c->q->geometry.cluster_size);
}

/* A cluster without data gives up a place that it cannot have, if that may be repaired. */
static bool becomes_zero(struct walk *w, uint64_t offset)
{
    struct check *c = w->c;
    if (!w->table->fix && !may_fix(w))
        return false;
    w->table->fix = c->fixes_errors = true;
    if (!w->times || c->again) /* told already */
        return true;
    struct check_subject s;
    subject(w, IMG_FINDING_UNALIGNED, &s);
    s.severity = IMG_SEVERITY_REPAIRED;
    c->report->result->corruptions_fixed++;
    check_tell(c->report, &s,
               "Repairing offset=%" PRIx64
               ": Preallocated cluster is not properly aligned; L2 entry "
               "corrupted.",
               offset);
    return true;
}

/* A flag that QEMU does not look at, and that promises nothing where it stands. */
static void idle_bit(struct walk *w, enum img_finding_kind kind, const char *text, uint64_t entry)
{
    struct check *c = w->c;
    struct check_subject s;
    bool fix = w->table->fix || may_fix(w);
    subject(w, kind, &s);
    s.unseen = true;
    w->table->fix |= fix;
    c->fixes_errors |= fix;
    if (!w->times || (fix && c->again))
        return;
    if (fix) {
        s.severity = IMG_SEVERITY_REPAIRED;
        c->report->result->corruptions_fixed++;
    } else {
        c->once++;
    }
    check_tell(c->report, &s, "%s %s: l2_entry=%" PRIx64, fix ? "Repairing" : "ERROR", text, entry);
}

/* A cluster with a place of its own: data, or zeroes that were allocated. */
static int placed(struct walk *w, uint64_t entry, uint64_t bitmap)
{
    const struct qcow2_geometry *g = &w->c->q->geometry;
    uint64_t offset = entry & L2_OFFSET_MASK;
    if (bitmap >> 32 & bitmap)
        bad(w, INVALID_ENTRY,
            "ERROR offset=%" PRIx64
            ": Allocated cluster has corrupted subcluster allocation bitmap",
            offset);
    if (g->extended_l2 && (entry & ENTRY_ZERO))
        idle_bit(w, IMG_FINDING_RESERVED_BITS, "reserved bit 0 of an extended L2 entry is set",
                 entry);
    if (!is_aligned(offset, g->cluster_size)) {
        bool data = g->extended_l2 ? (uint32_t)bitmap != 0 : !(entry & ENTRY_ZERO);
        if (!data && becomes_zero(w, offset))
            return 0;
        bad(w, UNALIGNED,
            "ERROR offset=%" PRIx64 ": %s cluster is not properly aligned; L2 entry "
            "corrupted.",
            offset, data ? "Data" : "Preallocated");
    }
    count_allocated(w, offset, 1);
    if (!(entry & ENTRY_COPIED))
        w->table->not_copied = true;
    if (!g->external_data)
        return reference(w, offset, g->cluster_size);
    uint64_t guest_offset = w->guest + ((uint64_t)w->index << g->cluster_bits);
    if (w->active && offset != guest_offset)
        bad_once(w, INVALID_ENTRY,
                 "ERROR offset=%" PRIx64 ": in a data file it must be the guest's offset, %" PRIx64,
                 offset, guest_offset);
    return 0;
}

static int check_entry(struct walk *w, uint64_t entry, uint64_t bitmap)
{
    const struct qcow2_geometry *g = &w->c->q->geometry;
    if (entry & ENTRY_COMPRESSED)
        return compressed(w, entry, bitmap);
    if (entry & L2_RESERVED_MASK)
        bad(w, RESERVED_BITS, "ERROR found l2 entry with reserved bits set: %" PRIx64, entry);
    bool zero = (entry & ENTRY_ZERO) && !g->extended_l2;
    if (zero && g->version < 3)
        bad_once(w, INVALID_ENTRY, "ERROR found zero cluster entry in a version 2 image: %" PRIx64,
                 entry);
    if (entry & L2_OFFSET_MASK || (!zero && g->external_data && (entry & ENTRY_COPIED)))
        return placed(w, entry, bitmap);
    if (g->extended_l2 && (entry & ENTRY_ZERO))
        idle_bit(w, IMG_FINDING_RESERVED_BITS, "reserved bit 0 of an extended L2 entry is set",
                 entry);
    if (!zero && (uint32_t)bitmap)
        bad(w, INVALID_ENTRY, "ERROR: Unallocated cluster has non-zero subcluster allocation map");
    /* a zero cluster that keeps its place at the start of the data file is as QEMU leaves it */
    if ((entry & ENTRY_COPIED) && !(zero && g->external_data))
        idle_bit(w, IMG_FINDING_COPIED_FLAG, "copied flag set for a cluster without an offset",
                 entry);
    return 0;
}

/*
 * How many of the N entries at P, the first of which is ENTRY, are plain and follow each other in
 * the file.
 */
static uint32_t row(const struct walk *w, const uint8_t *p, uint32_t n, uint64_t entry)
{
    const struct check *c = w->c;
    const struct qcow2_geometry *g = &c->q->geometry;
    uint64_t offset = entry & L2_OFFSET_MASK, other = ENTRY_COPIED | L2_OFFSET_MASK;
    if (g->version > 2)
        other |= ENTRY_ZERO;
    if ((entry & ~other) || !offset || !is_aligned(offset, g->cluster_size) || offset >= c->end)
        return 0;
    uint32_t most = (uint32_t)min_u64(n, ((c->end - 1 - offset) >> g->cluster_bits) + 1), count = 1;
    uint64_t expected = entry + g->cluster_size;
    while (count < most && load_be64(p + count * 8ul) == expected) {
        expected += g->cluster_size;
        count++;
    }
    return count;
}

static int check_row(struct walk *w, uint64_t entry, uint32_t count)
{
    uint64_t offset = entry & L2_OFFSET_MASK;
    count_allocated(w, offset, count);
    if (!(entry & ENTRY_COPIED))
        w->table->not_copied = true;
    if (!w->times)
        return 0;
    return check_reference(w->c, offset, (uint64_t)count << w->c->q->geometry.cluster_bits,
                           w->times, w->place);
}

static int check_piece(struct walk *w, const uint8_t *p, uint32_t n)
{
    const struct qcow2_geometry *g = &w->c->q->geometry;
    bool rows = !g->extended_l2 && !g->external_data;
    int ret = 0;
    for (uint32_t i = 0; i < n && !ret;) {
        const uint8_t *at = p + (size_t)i * g->l2_entry_size;
        uint64_t entry = load_be64(at), bitmap = g->extended_l2 ? load_be64(at + 8) : 0;
        uint32_t count = 0;
        if (entry && rows)
            count = row(w, at, n - i, entry);
        if (count)
            ret = check_row(w, entry, count);
        else if (entry || bitmap)
            ret = check_entry(w, entry, bitmap);
        count += !count;
        i += count;
        w->index += count;
        w->place += (uint64_t)count * g->l2_entry_size;
    }
    return ret;
}

static int check_pieces(struct walk *w)
{
    struct check *c = w->c;
    const struct qcow2_geometry *g = &c->q->geometry;
    uint32_t bytes = (uint32_t)min_u64(g->cluster_size, CHECK_PIECE);
    for (uint64_t at = 0; at < g->cluster_size; at += bytes) {
        bool zeroes;
        int ret = check_read(c, c->piece, bytes, w->table->offset + at, &zeroes);
        w->index = (uint32_t)(at / g->l2_entry_size);
        w->place = w->table->offset + at;
        if (!ret && !zeroes)
            ret = check_piece(w, c->piece, bytes / g->l2_entry_size);
        if (ret < 0)
            return img_prefix(c->err, ret, "Could not read L2 table: ");
    }
    return 0;
}

static void add_allocated(struct img_check *r, const struct l2_table *t)
{
    r->allocated_clusters += t->allocated;
    r->fragmented_clusters += t->fragmented;
    r->compressed_clusters += t->compressed;
}

int check_l2_table(struct check *c, struct l2_table *t, uint64_t l1_index, bool active)
{
    const struct qcow2_geometry *g = &c->q->geometry;
    struct img_check *r = c->report->result;
    struct walk w = {
        .c = c,
        .table = t,
        .times = t->seen ? 0 : t->uses,
        .active = active,
        .guest = l1_index << (g->l2_bits + g->cluster_bits),
    };
    int ret = 0;
    if (active) {
        t->active = true;
        t->l1_index = l1_index;
    }
    if (!t->seen || (t->found && check_repeat(c, g->cluster_size))) {
        uint64_t before = r->corruptions - c->once;
        ret = check_pieces(&w);
        t->found = (uint32_t)(r->corruptions - c->once - before);
        t->seen = true;
    } else {
        check_count(c->report, IMG_SEVERITY_CORRUPTION, t->found);
    }
    if (active)
        add_allocated(r, t);
    return ret;
}
