/*
 * A new image from front to back.
 *
 * Metadata comes first. How much of it there can be is known before: each L2 table and each data
 * cluster that is expected has room, tables in one region and data behind it, both taken in the
 * disk's order. What is expected and does not come (it was all zeroes, or was compressed) leaves a
 * hole in the file that no refcount counts. So of each kind of table one piece is at hand, and each
 * piece is written once.
 *
 * With preallocation, every cluster of the disk has its place, and all tables are written at once;
 * but extended entries also say which subclusters are data, and come in turn.
 */
#include "formats/qcow2/build.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    L1_PIECE = 64 << 10, /* bytes of the L1 table at hand */
    LOOK_BACK = 2 << 20, /* how far back data may lie: who reads a stream keeps more than that */
};

static unsigned entry_size(const struct builder *b)
{
    return b->layout->extended_l2 ? 16 : 8;
}

static bool is_zero(const uint8_t *data, size_t length)
{
    static const uint8_t zeroes[HOST_BLOCK];
    return !memcmp(data, zeroes, length);
}

int build_write(struct file *f, const uint8_t *data, size_t length, uint64_t at,
                struct img_error *err)
{
    size_t from = 0, to = length;
    while (to - from > HOST_BLOCK && is_zero(data + from, HOST_BLOCK))
        from += HOST_BLOCK;
    while (to - from > HOST_BLOCK && is_zero(data + to - HOST_BLOCK, HOST_BLOCK))
        to -= HOST_BLOCK;
    if (to - from <= HOST_BLOCK && is_zero(data + from, to - from))
        return 0;
    return file_write(f, data + from, to - from, host(at + from), err);
}

/* ---- before it starts ---- */

static void destroy(void *builder)
{
    struct builder *b = builder;
    if (!b)
        return;
    build_refs_free(&b->refs);
    free(b->tables);
    free(b->l2);
    free(b->l1);
    free(b);
}

static int create(void **out, struct create_plan *plan, bool compress, struct img_error *err)
{
    struct builder *b = calloc(1, sizeof *b);
    if (!b)
        return img_fail_nomem(err);
    b->given = plan;
    b->plan = plan->layout;
    b->layout = &b->plan->layout;
    b->mapped = b->layout->mapped;
    b->compress = compress;
    b->table = b->cluster = UINT64_MAX;
    b->tables = calloc(1, b->layout->l1_entries / 8 + 1);
    b->l2 = malloc((size_t)cluster_size(b));
    b->l1 = calloc(1, L1_PIECE);
    if (!b->tables || !b->l2 || !b->l1) {
        destroy(b);
        return img_fail_nomem(err);
    }
    if (!b->mapped) {
        b->layout->counted = true;
        b->layout->l2_tables = b->layout->data_clusters = 0;
    }
    *out = b;
    return 0;
}

static uint64_t unit(const void *builder)
{
    const struct builder *b = builder;
    bool parts = b->layout->extended_l2 && !b->compress;
    if (b->mapped && !parts) /* no table depends on what comes */
        return 512;
    return parts ? cluster_size(b) / SUBCLUSTERS : cluster_size(b);
}

static bool says_zero(const void *builder)
{
    const struct builder *b = builder;
    return b->plan->header.version > 2;
}

/* ---- tables ---- */

static int flush_l1(struct builder *b, struct img_error *err)
{
    uint64_t length = min_u64(L1_PIECE, b->layout->l1_entries * 8 - b->l1_at);
    int ret = build_write(b->file, b->l1, (size_t)length, b->layout->l1_offset + b->l1_at, err);
    memset(b->l1, 0, L1_PIECE);
    return ret;
}

static int put_l1(struct builder *b, uint64_t index, uint64_t entry, struct img_error *err)
{
    uint64_t at = align_down(index * 8, L1_PIECE);
    int ret = at == b->l1_at ? 0 : flush_l1(b, err);
    b->l1_at = at;
    store_be64(b->l1 + index * 8 - at, entry);
    return ret;
}

static uint64_t table_place(const struct builder *b)
{
    uint64_t i = b->mapped ? b->table : b->tables_used - 1;
    return b->layout->l2_offset + (i << b->layout->cluster_bits);
}

/* The table at hand is complete. */
static int flush_table(struct builder *b, struct img_error *err)
{
    if (b->table == UINT64_MAX)
        return 0;
    size_t size = (size_t)cluster_size(b);
    uint64_t at = table_place(b);
    int ret = b->sequential ? file_write(b->file, b->l2, size, host(at), err)
                            : build_write(b->file, b->l2, size, at, err);
    if (!ret && !b->mapped && !b->sequential)
        ret = put_l1(b, b->table, at | ENTRY_COPIED, err);
    b->table = UINT64_MAX;
    return ret;
}

static int more_than_expected(struct img_error *err)
{
    return img_fail(err, EIO, "The source has changed while it was copied");
}

/* Is there room for all that was given a place? */
static int check_room(const struct builder *b, struct img_error *err)
{
    bool fits = b->mapped || b->next_host <= b->layout->clusters << b->layout->cluster_bits;
    return fits ? 0 : more_than_expected(err);
}

/* The entry of a guest cluster; clusters come in order, so its table is at hand or a new one. */
static int find_entry(struct builder *b, uint64_t cluster, uint8_t **out, struct img_error *err)
{
    uint64_t table = cluster >> table_bits(b), in_table = cluster & ((1ull << table_bits(b)) - 1);
    if (table != b->table) {
        int ret = flush_table(b, err);
        if (!ret && !b->mapped && b->tables_used == b->layout->l2_tables)
            ret = more_than_expected(err);
        if (ret < 0)
            return ret;
        b->table = table;
        b->tables_used++;
        if (b->mapped)
            qcow2_layout_l2(b->layout, b->l2, table << b->layout->cluster_bits,
                            (size_t)cluster_size(b));
        else
            memset(b->l2, 0, (size_t)cluster_size(b));
    }
    *out = b->l2 + in_table * entry_size(b);
    return 0;
}

/* ---- runs ---- */

/* The subclusters of CLUSTER that lie in [OFF, END), as bits; the disk's end may cut the last. */
static uint64_t subcluster_bits(const struct builder *b, uint64_t cluster, uint64_t off,
                                uint64_t end)
{
    uint64_t start = cluster << b->layout->cluster_bits, size = cluster_size(b) / SUBCLUSTERS;
    unsigned from = off > start ? (unsigned)((off - start) / size) : 0;
    end += end == b->layout->size ? size - 1 : 0;
    unsigned to = (unsigned)(min_u64(end - start, cluster_size(b)) / size);
    return ((1ull << to) - 1) & ~((1ull << from) - 1);
}

/* Where a guest cluster lies; a new one goes behind all others. */
static uint64_t place_cluster(struct builder *b, uint64_t cluster)
{
    const struct qcow2_layout *l = b->layout;
    if (l->external_data)
        return cluster << l->cluster_bits;
    if (b->mapped)
        return l->data_offset + (cluster << l->cluster_bits);
    if (cluster != b->cluster) {
        b->cluster = cluster;
        b->cluster_host = b->next_host;
        b->next_host += cluster_size(b);
    }
    return b->cluster_host;
}

static int put_data(struct builder *b, guest_off off, uint64_t end, struct img_error *err)
{
    uint64_t first = off.v >> b->layout->cluster_bits;
    for (uint64_t c = first; c << b->layout->cluster_bits < end; c++) {
        uint8_t *entry;
        uint64_t place = place_cluster(b, c);
        if (b->written)
            continue;
        int ret = find_entry(b, c, &entry, err);
        if (ret < 0)
            return ret;
        store_be64(entry, place | ENTRY_COPIED);
        if (b->layout->extended_l2)
            store_be64(entry + 8, load_be64(entry + 8) | subcluster_bits(b, c, off.v, end));
    }
    return 0;
}

static int data(void *builder, guest_off off, uint64_t len, struct build_place *out,
                struct img_error *err)
{
    struct builder *b = builder;
    uint64_t first = off.v >> b->layout->cluster_bits;
    out->file = b->layout->external_data ? b->data_file : b->file;
    out->host = host(place_cluster(b, first) + (off.v & (cluster_size(b) - 1)));
    int ret = b->mapped && !b->layout->extended_l2 ? 0 : put_data(b, off, off.v + len, err);
    return ret < 0 ? ret : check_room(b, err);
}

static int zero(void *builder, guest_off off, uint64_t len, struct img_error *err)
{
    struct builder *b = builder;
    uint64_t end = off.v + len;
    if (b->mapped && !b->layout->extended_l2)
        return 0; /* there is nothing below */
    for (uint64_t c = off.v >> b->layout->cluster_bits; c << b->layout->cluster_bits < end; c++) {
        uint8_t *entry;
        int ret = find_entry(b, c, &entry, err);
        if (ret < 0)
            return ret;
        if (b->layout->extended_l2)
            store_be64(entry + 8, load_be64(entry + 8) | subcluster_bits(b, c, off.v, end) << 32);
        else
            store_be64(entry, load_be64(entry) | ENTRY_ZERO);
    }
    return 0;
}

/* Whole clusters that were placed since the last time are used once each. */
static int count_data(struct builder *b, struct img_error *err)
{
    unsigned bits = b->layout->cluster_bits;
    uint64_t first = b->uncounted >> bits, end = b->next_host >> bits;
    b->uncounted = b->next_host;
    return build_refs_fill(&b->refs, first, end - first, err);
}

/*
 * Compressed data goes on in the middle of a cluster where it can. Each cluster counts the
 * descriptors that have a byte in it; one whose refcount is full takes no more.
 */
static int compressed(void *builder, guest_off off, uint64_t stored, struct build_place *out,
                      struct img_error *err)
{
    struct builder *b = builder;
    unsigned bits = b->layout->cluster_bits, offset_bits = 62 - (bits - 8);
    if (b->layout->external_data)
        return img_fail(err, ENOTSUP, "An external data file holds no compressed clusters");
    int ret = count_data(b, err);
    uint64_t at = b->free_byte, room = align_up(at, cluster_size(b)) - at;
    if (b->next_host - at > LOOK_BACK)
        room = 0;
    if (stored > room) {
        if (!room || at + room != b->next_host) /* a whole cluster lies behind it */
            at = b->next_host;
        b->next_host += cluster_size(b);
        b->uncounted = b->next_host;
    }
    uint8_t *entry = NULL;
    if (!ret)
        ret = check_room(b, err);
    if (!ret)
        ret = find_entry(b, off.v >> bits, &entry, err);
    bool full = false;
    for (uint64_t c = at >> bits; !ret && c <= (at + stored - 1) >> bits; c++)
        ret = build_refs_add(&b->refs, c, &full, err);
    if (ret < 0)
        return ret;
    uint64_t sectors = ((at + stored - 1) >> 9) - (at >> 9);
    store_be64(entry, ENTRY_COMPRESSED | sectors << offset_bits | at);
    b->free_byte = full ? 0 : at + stored;
    *out = (struct build_place){b->file, host(at)};
    return 0;
}

/* ---- the end ---- */

/* What the last cluster has behind the disk's end: a device's old bytes. */
static int clear_tail(struct builder *b, struct img_error *err)
{
    const struct qcow2_layout *l = b->layout;
    uint64_t used = l->size & (cluster_size(b) - 1);
    if (!b->file->device || !used || b->cluster != l->size >> l->cluster_bits)
        return 0;
    return file_write_zeroes(b->file, host(b->cluster_host + used), cluster_size(b) - used, err);
}

static int finish_tables(struct builder *b, struct img_error *err)
{
    const struct qcow2_layout *l = b->layout;
    uint64_t l1_clusters = div_round_up(l->l1_entries * 8, cluster_size(b));
    int ret = l->l1_entries ? flush_l1(b, err) : 0;
    if (!ret && b->small)
        ret = build_small_finish(b, err);
    if (!ret)
        ret = count_data(b, err);
    if (!ret)
        ret = clear_tail(b, err);
    if (!ret)
        ret = build_refs_fill(&b->refs, 0, b->small ? 1 : 1 + l->reftable_clusters, err);
    if (!ret)
        ret = build_refs_fill(&b->refs, l->l1_offset >> l->cluster_bits, l1_clusters, err);
    if (!ret)
        ret = build_refs_fill(&b->refs, l->l2_offset >> l->cluster_bits, b->tables_used, err);
    if (!ret)
        ret = build_refs_finish(&b->refs, err);
    uint64_t end = b->next_host;
    if (!b->small && !b->tables_used && end == l->metadata &&
        l->l1_entries) /* as short as a new image is */
        end = l->l1_offset + l->l1_entries * 8;
    return ret < 0 || b->file->device ? ret : file_truncate(b->file, end, err);
}

static int finish(void *builder, struct img_error *err)
{
    struct builder *b = builder;
    if (b->written)
        return file_truncate(b->file, b->next_host, err);
    int ret = flush_table(b, err);
    if (b->sequential) {
        b->written = true;
        b->cluster = UINT64_MAX;
        b->next_host = b->layout->metadata;
    }
    if (ret < 0 || b->sequential)
        return ret;
    if (!b->mapped)
        ret = finish_tables(b, err);
    if (!ret && b->given->before_image)
        ret = b->given->before_image(b->given->opaque, err);
    return ret < 0 ? ret : qcow2_write_new_header(b->file, b->plan, err);
}

static int compressor_create(void **compressor, const void *builder, int level,
                             struct img_error *err)
{
    const struct builder *b = builder;
    return qcow2_compressor_create(compressor, &b->plan->header, level, err);
}

static size_t compressor_memory(const void *builder, int level)
{
    const struct builder *b = builder;
    return qcow2_compressor_memory(&b->plan->header, level);
}

const struct driver_building qcow2_building = {
    .create = create,
    .destroy = destroy,
    .unit = unit,
    .says_zero = says_zero,
    .expect = build_expect,
    .start = build_start,
    .data = data,
    .compressed = compressed,
    .zero = zero,
    .finish = finish,
    .compressor_create = compressor_create,
    .compressor_memory = compressor_memory,
    .compressor_destroy = qcow2_compressor_destroy,
    .compress = qcow2_compress,
};
