/*
 * Guest range to extent: as long as neighbours continue each other, over clusters, pieces and
 * tables.
 *
 * An L2 entry is decoded once where a run begins; the rest of the run is found by comparing raw
 * entries with what a continuation would look like, so that a table of one extent costs one compare
 * an entry.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>

/* Where an entry was found, for messages. */
struct place {
    uint64_t guest;
    uint64_t table;
    uint32_t l2_index;
};

static int bad_entry(const struct place *p, uint64_t entry, const char *what, struct img_error *err)
{
    return img_fail(err, EINVAL,
                    "%s: %#" PRIx64 " (L2 offset: %#" PRIx64 ", L2 index: %#" PRIx32 ")", what,
                    entry, p->table, p->l2_index);
}

static uint64_t raw_entry(const struct qcow2 *q, const struct l2_piece *piece, uint32_t i)
{
    return load_be64(piece->entries + (size_t)i * q->geometry.l2_entry_size);
}

static uint64_t raw_bitmap(const struct qcow2 *q, const struct l2_piece *piece, uint32_t i)
{
    return q->geometry.extended_l2 ? load_be64(piece->entries + (size_t)i * 16 + 8) : 0;
}

/* Data must lie in the file, and in an external data file where the guest has it. */
static int check_place(struct qcow2 *q, const struct place *p, const struct qcow2_mapping *m,
                       struct img_error *err)
{
    if (m->type != MAP_NORMAL && m->type != MAP_COMPRESSED)
        return 0;
    if (q->geometry.external_data) {
        uint64_t wanted = align_down(p->guest, q->geometry.cluster_size);
        if (m->host == wanted)
            return 0;
        return img_fail(err, EINVAL,
                        "External data file host cluster offset %#" PRIx64
                        " does not match guest cluster offset: %#" PRIx64 ", L2 index: %#" PRIx32,
                        m->host, wanted, p->l2_index);
    }
    if (!qcow2_in_file(q, m->host))
        return bad_entry(p, m->host,
                         m->type == MAP_NORMAL ? "Data cluster outside the file"
                                               : "Compressed cluster outside the file",
                         err);
    return 0;
}

static int decode_at(struct qcow2 *q, const struct l2_piece *piece, const struct place *p,
                     unsigned sub, struct qcow2_mapping *m, struct img_error *err)
{
    uint32_t i = p->l2_index - piece->first;
    uint64_t entry = raw_entry(q, piece, i);
    const char *wrong = qcow2_decode_entry(&q->geometry, entry, raw_bitmap(q, piece, i), sub, m);
    if (wrong)
        return bad_entry(p, entry, wrong, err);
    return check_place(q, p, m, err);
}

static uint32_t run_compressed(struct qcow2 *q, const struct l2_piece *piece, uint32_t i,
                               uint32_t n)
{
    unsigned offset_bits = 62 - (q->geometry.cluster_bits - 8);
    uint64_t mask = (1ull << offset_bits) - 1;
    uint32_t count = 1;
    for (; count < n; count++) {
        uint64_t entry = raw_entry(q, piece, i + count);
        if (!(entry & ENTRY_COMPRESSED) || !qcow2_in_file(q, entry & mask))
            break;
    }
    return count;
}

enum { BATCH = 16 };

/* The first entry, COPIED or not, is FIRST; each that follows is STRIDE more. */
static uint32_t run_stride(const uint8_t *entries, uint32_t n, uint64_t first, uint64_t stride)
{
    uint64_t expected = first & ~ENTRY_COPIED;
    uint32_t count = 1;
    for (; count + BATCH <= n; count += BATCH, expected += BATCH * stride) {
        uint64_t differs = 0; /* no branch an entry: this loop is what a large map is made of */
        for (uint32_t i = 0; i < BATCH; i++)
            differs |= (load_be64(entries + (size_t)(count + i) * 8) & ~ENTRY_COPIED) ^
                       (expected + (i + 1) * stride);
        if (differs)
            break;
    }
    for (; count < n; count++) {
        expected += stride;
        if ((load_be64(entries + (size_t)count * 8) & ~ENTRY_COPIED) != expected)
            break;
    }
    return count;
}

/* The same with extended L2, where the bitmaps must be alike too. */
static uint32_t run_extended(const uint8_t *entries, uint32_t n, uint64_t first, uint64_t stride)
{
    uint64_t expected = first & ~ENTRY_COPIED, bitmap = load_be64(entries + 8);
    uint32_t count = 1;
    for (; count < n; count++) {
        const uint8_t *e = entries + (size_t)count * 16;
        expected += stride;
        if ((load_be64(e) & ~ENTRY_COPIED) != expected || load_be64(e + 8) != bitmap)
            break;
    }
    return count;
}

/* How many clusters from entry I of the piece on (at most N) are as M says, each continuing the
 * last. */
static uint32_t run_length(struct qcow2 *q, const struct l2_piece *piece, uint32_t i, uint32_t n,
                           const struct qcow2_mapping *m)
{
    const uint8_t *entries = piece->entries + (size_t)i * q->geometry.l2_entry_size;
    uint64_t entry = load_be64(entries);
    uint64_t cluster = q->geometry.cluster_size;
    if (m->type == MAP_COMPRESSED)
        return run_compressed(q, piece, i, n);
    bool placed = m->type == MAP_NORMAL || m->type == MAP_ZERO_ALLOC ||
                  m->type == MAP_UNALLOCATED_ALLOC;
    uint64_t stride = placed ? cluster : 0;
    uint32_t count = q->geometry.extended_l2 ? run_extended(entries, n, entry, stride)
                                             : run_stride(entries, n, entry, stride);
    if (m->type != MAP_NORMAL || q->geometry.external_data)
        return count;
    while (count > 1 && !qcow2_in_file(q, m->host + (count - 1) * cluster))
        count--; /* the next call says what is wrong with it */
    return count;
}

static enum img_extent_kind kind_of(enum qcow2_mapping_type type)
{
    switch (type) {
    case MAP_ZERO_PLAIN:
    case MAP_ZERO_ALLOC:
        return IMG_EXTENT_ZERO;
    case MAP_NORMAL:
        return IMG_EXTENT_DATA;
    case MAP_COMPRESSED:
        return IMG_EXTENT_COMPRESSED;
    default:
        return IMG_EXTENT_UNALLOCATED;
    }
}

static void to_extent(struct qcow2 *q, const struct qcow2_mapping *m, uint64_t in_cluster,
                      uint64_t length, struct extent *out)
{
    bool placed = m->type == MAP_NORMAL || m->type == MAP_ZERO_ALLOC ||
                  m->type == MAP_UNALLOCATED_ALLOC;
    *out = (struct extent){.length = length, .kind = kind_of(m->type)};
    if (placed) {
        out->file = q->geometry.external_data ? q->layer->data_file : q->file;
        out->host = host(m->host + in_cluster);
    }
}

/* The extent at P within one piece of an L2 table. */
static int map_in_piece(struct qcow2 *q, const struct l2_piece *piece, const struct place *p,
                        uint64_t max, struct extent *out, struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    uint64_t in_cluster = p->guest & (g->cluster_size - 1);
    unsigned sub = g->extended_l2 ? (unsigned)(in_cluster >> g->subcluster_bits) : 0;
    unsigned subclusters = g->extended_l2 ? SUBCLUSTERS : 1;
    struct qcow2_mapping m;
    int ret = decode_at(q, piece, p, sub, &m, err);
    if (ret < 0)
        return ret;

    uint64_t end = (uint64_t)(sub + m.subclusters) << g->subcluster_bits;
    if (m.type == MAP_COMPRESSED)
        end = g->cluster_size;
    uint32_t i = p->l2_index - piece->first;
    uint64_t wanted = div_round_up(in_cluster + max, g->cluster_size);
    uint32_t n = (uint32_t)min_u64(piece->count - i, wanted);
    bool to_the_end = end == g->cluster_size;
    bool alike = m.type == MAP_COMPRESSED || sub + m.subclusters == subclusters;
    if (to_the_end && alike && n > 1) {
        struct qcow2_mapping whole;
        /* a run of clusters needs the cluster to be of one kind from its first subcluster on */
        ret = sub ? decode_at(q, piece, p, 0, &whole, err) : 0;
        bool uniform = !sub || whole.subclusters == SUBCLUSTERS;
        if (!ret && uniform)
            end = (uint64_t)run_length(q, piece, i, n, &m) << g->cluster_bits;
    }
    if (ret < 0)
        return ret;
    to_extent(q, &m, in_cluster, min_u64(end - in_cluster, max), out);
    return 0;
}

/* A stretch of L1 entries without an L2 table. */
static uint64_t unallocated_tables(const struct qcow2 *q, uint64_t l1_index, uint64_t max_tables)
{
    uint64_t n = 1;
    while (n < max_tables && (l1_index + n >= q->l1_size || !load_be64(q->l1 + (l1_index + n) * 8)))
        n++;
    return n;
}

/* The extent at OFF within one L2 table, or a stretch of L1 without any. ASKED: of the whole walk.
 */
static int map_in_table(struct qcow2 *q, uint64_t off, uint64_t max, uint64_t asked,
                        struct extent *out, struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    unsigned table_bits = g->cluster_bits + g->l2_bits;
    uint64_t l1_index = off >> table_bits, table;
    uint64_t in_table = off & ((1ull << table_bits) - 1);
    int ret = qcow2_l1_entry(q, l1_index, &table, err);
    if (ret < 0)
        return ret;
    if (!table) {
        uint64_t tables = (in_table + max - 1) / (1ull << table_bits) + 1;
        uint64_t length = (unallocated_tables(q, l1_index, tables) << table_bits) - in_table;
        *out = (struct extent){.length = min_u64(length, max), .kind = IMG_EXTENT_UNALLOCATED};
        return 0;
    }
    struct place p = {off, table, (uint32_t)(in_table >> g->cluster_bits)};
    struct l2_piece piece;
    ret = qcow2_l2_piece(q, table, p.l2_index, asked, &piece, err);
    if (ret < 0)
        return ret;
    ret = map_in_piece(q, &piece, &p, max, out, err);
    cache_put(&q->tables, piece.page);
    return ret;
}

/* Does what lies at OFF continue E? Looks at one cluster, so that no run is measured in vain. */
static bool continues_at(struct qcow2 *q, const struct extent *e, uint64_t off, uint64_t max,
                         uint64_t asked)
{
    struct extent next;
    uint64_t least = min_u64(max, q->geometry.cluster_size);
    /* what is wrong further on is reported when the walk gets there */
    return map_in_table(q, off, least, asked, &next, NULL) == 0 && extent_continues(e, &next);
}

int qcow2_map(struct layer *l, guest_off off, uint64_t max, enum map_detail detail,
              struct extent *out, struct img_error *err)
{
    (void)detail;
    struct qcow2 *q = l->state;
    int ret = map_in_table(q, off.v, max, max, out, err);
    while (!ret && out->length < max) {
        struct extent next;
        uint64_t at = off.v + out->length, left = max - out->length;
        if (!continues_at(q, out, at, left, max) || map_in_table(q, at, left, max, &next, NULL) < 0)
            break;
        out->length += next.length;
    }
    return ret;
}

int qcow2_lookup(struct qcow2 *q, guest_off off, struct qcow2_mapping *out, struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    struct place p = {.guest = off.v};
    struct l2_piece piece;
    int ret = qcow2_l1_entry(q, off.v >> (g->cluster_bits + g->l2_bits), &p.table, err);
    if (ret < 0)
        return ret;
    if (!p.table) {
        *out = (struct qcow2_mapping){.type = MAP_UNALLOCATED, .subclusters = 1};
        return 0;
    }
    p.l2_index = (uint32_t)(off.v >> g->cluster_bits) & ((1u << g->l2_bits) - 1);
    ret = qcow2_l2_piece(q, p.table, p.l2_index, g->cluster_size, &piece, err);
    if (ret < 0)
        return ret;
    ret = decode_at(q, &piece, &p, 0, out, err);
    cache_put(&q->tables, piece.page);
    return ret;
}
