/*
 * The layout of a new file.
 *
 * Refcount blocks count themselves and the table that names them, so that their number is a fixed
 * point: begin with none and add what is missing until nothing is.
 */
#include "formats/qcow2/layout.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <string.h>

/* Clusters for the refcounts of OTHERS clusters and of themselves. */
static void size_refcounts(struct qcow2_layout *l, uint64_t others)
{
    uint64_t per_block = 8ull << l->cluster_bits >> l->refcount_order;
    uint64_t per_table = 1ull << (l->cluster_bits - 3);
    uint64_t blocks = 0, table = 0, before;
    do {
        before = blocks + table;
        blocks = div_round_up(others + before, per_block);
        table = div_round_up(blocks, per_table);
    } while (blocks + table != before);
    l->refblocks = blocks;
    l->reftable_clusters = table;
}

bool qcow2_layout_count(struct qcow2_layout *l)
{
    const unsigned bits = l->cluster_bits, entry_bits = l->extended_l2 ? 4 : 3;
    const uint64_t cluster = 1ull << bits;
    uint64_t guest_clusters = div_round_up(l->size, cluster);
    l->l1_entries = div_round_up(guest_clusters, cluster >> entry_bits);
    if (l->size > INT64_MAX)
        return false;
    if (!l->counted) {
        l->data_clusters = l->mapped ? guest_clusters : 0;
        l->l2_tables = l->mapped ? l->l1_entries : 0;
    }

    uint64_t l1_clusters = div_round_up(l->l1_entries * 8, cluster);
    uint64_t inside = l->external_data ? 0 : l->data_clusters;
    uint64_t others = 1 + l1_clusters + l->l2_tables + inside;
    size_refcounts(l, others);
    l->clusters = others + l->refblocks + l->reftable_clusters;
    l->reftable_offset = cluster;
    l->refblocks_offset = l->reftable_offset + (l->reftable_clusters << bits);
    uint64_t l1_offset = l->refblocks_offset + (l->refblocks << bits);
    l->l1_offset = l->l1_entries ? l1_offset : 0;
    l->l2_offset = l1_offset + (l1_clusters << bits);
    uint64_t data_offset = l->l2_offset + (l->l2_tables << bits);
    l->data_offset = l->external_data ? 0 : data_offset;
    l->metadata = data_offset;
    /* the L1 table may be the last thing in the file, and need not be padded */
    bool more = l->l2_tables || inside;
    l->end = more ? l->clusters << bits : l1_offset + l->l1_entries * 8;
    return true;
}

bool qcow2_layout_l1_fits(const struct qcow2_layout *l)
{
    return l->l1_entries <= MAX_L1_BYTES / 8;
}

bool qcow2_layout_compute(struct qcow2_layout *l)
{
    const unsigned bits = l->cluster_bits;
    return qcow2_layout_count(l) && qcow2_layout_l1_fits(l) &&
           l->reftable_clusters <= (uint64_t)MAX_REFTABLE_BYTES >> bits &&
           l->clusters <= (L2_OFFSET_MASK >> bits) && l->data_clusters <= (L2_OFFSET_MASK >> bits);
}

/* Entries that lead to consecutive clusters from FIRST on: INDEX is the one at the start of BUF. */
static void fill_offsets(uint8_t *buf, size_t length, unsigned entry_size, uint64_t index,
                         uint64_t count, uint64_t first, unsigned cluster_bits, uint64_t flags)
{
    memset(buf, 0, length);
    for (size_t at = 0; at < length && index < count; at += entry_size, index++)
        store_be64(buf + at, (first + (index << cluster_bits)) | flags);
}

void qcow2_layout_reftable(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset,
                           size_t length)
{
    fill_offsets(buf, length, 8, offset / 8, l->refblocks, l->refblocks_offset, l->cluster_bits, 0);
}

void qcow2_layout_l1(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset, size_t length)
{
    fill_offsets(buf, length, 8, offset / 8, l->l2_tables, l->l2_offset, l->cluster_bits,
                 ENTRY_COPIED);
}

/* In an extended entry, the bitmap says of no subcluster that it is allocated: only the place is.
 */
void qcow2_layout_l2(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset, size_t length)
{
    unsigned entry = l->extended_l2 ? 16 : 8;
    fill_offsets(buf, length, entry, offset / entry, l->data_clusters, l->data_offset,
                 l->cluster_bits, ENTRY_COPIED);
}

/* Refcounts of less than a byte: the first is in the lowest bits. */
static void fill_bits(const struct qcow2_layout *l, uint8_t *buf, uint64_t first, uint64_t count)
{
    static const uint8_t ones[] = {0xff, 0x55, 0x11};
    unsigned order = l->refcount_order, per_byte = 8u >> order;
    uint64_t left = first < l->clusters ? min_u64(l->clusters - first, count) : 0;
    memset(buf, ones[order], left / per_byte);
    if (left % per_byte)
        buf[left / per_byte] = (uint8_t)(ones[order] & ((1u << ((left % per_byte) << order)) - 1));
}

void qcow2_layout_refblocks(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset,
                            size_t length)
{
    memset(buf, 0, length);
    uint64_t first = offset * 8 >> l->refcount_order;
    if (l->refcount_order < 3) {
        fill_bits(l, buf, first, length * 8 >> l->refcount_order);
        return;
    }
    size_t width = (size_t)1 << (l->refcount_order - 3);
    for (size_t at = 0; at < length && first < l->clusters; at += width, first++)
        buf[at + width - 1] = 1;
}
