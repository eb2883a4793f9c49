/* L1 and L2 tables: where they lie, checked before each use, and L2 through the cache. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* L2 tables are cached in pieces of at most this; the tables of large clusters are 2 MiB long. */
enum { PIECE_MAX = 64 << 10 };

bool qcow2_in_file(struct qcow2 *q, uint64_t offset)
{
    if (offset < atomic_load_explicit(&q->known_size, memory_order_relaxed))
        return true;
    uint64_t size;
    if (file_size(q->file, &size, NULL) < 0)
        return true; /* not to be known now: the read will say */
    atomic_store_explicit(&q->known_size, size, memory_order_relaxed);
    return offset < size;
}

int qcow2_load_l1(struct qcow2 *q, struct img_error *err)
{
    size_t bytes = q->l1_size * (size_t)8;
    free(q->l1);
    q->l1 = malloc(bytes ? bytes : 1);
    if (!q->l1)
        return img_fail_nomem(err);
    int ret = file_read(q->file, q->l1, bytes, host(q->l1_offset), err);
    return ret < 0 ? img_prefix(err, ret, "Could not read L1 table: ") : 0;
}

int qcow2_check_l1_entry(struct qcow2 *q, uint64_t entry, uint64_t l1_index, struct img_error *err)
{
    uint64_t table = entry & L1_OFFSET_MASK;
    uint32_t cluster_size = q->geometry.cluster_size;
    const char *wrong = NULL, *other = qcow2_overlapped(q, table, cluster_size);
    if (entry & L1_RESERVED_MASK)
        return img_fail(err, EINVAL,
                        "Reserved bits set in L1 entry %#" PRIx64 " (L1 index: %#" PRIx64 ")",
                        entry, l1_index);
    if (!is_aligned(table, cluster_size))
        wrong = "unaligned";
    else if (!table)
        return 0;
    else if (!qcow2_in_file(q, table + cluster_size - 1))
        wrong = "outside the file";
    else if (other)
        return img_fail(err, EINVAL,
                        "L2 table offset %#" PRIx64 " is inside the %s (L1 index: %#" PRIx64 ")",
                        table, other, l1_index);
    if (wrong)
        return img_fail(err, EINVAL, "L2 table offset %#" PRIx64 " %s (L1 index: %#" PRIx64 ")",
                        table, wrong, l1_index);
    return 0;
}

int qcow2_l1_entry(struct qcow2 *q, uint64_t l1_index, uint64_t *table, struct img_error *err)
{
    *table = 0;
    int ret = qcow2_still_there(q, err);
    if (ret < 0)
        return ret;
    if (l1_index >= q->l1_size)
        return 0;
    uint64_t entry = load_be64(q->l1 + l1_index * 8);
    if (!entry)
        return 0;
    *table = entry & L1_OFFSET_MASK;
    return qcow2_check_l1_entry(q, entry, l1_index, err);
}

static int fill_piece(void *opaque, uint64_t offset, uint8_t *data, struct img_error *err)
{
    struct qcow2 *q = opaque;
    int ret = file_read(q->file, data, q->tables.page_size, host(offset), err);
    return ret < 0 ? img_prefix(err, ret, "Could not read L2 table: ") : 0;
}

uint32_t qcow2_piece_bytes(const struct qcow2 *q)
{
    return (uint32_t)min_u64(q->geometry.cluster_size, PIECE_MAX);
}

int qcow2_l2_piece(struct qcow2 *q, uint64_t table, uint32_t l2_index, uint64_t max,
                   struct l2_piece *out, struct img_error *err)
{
    uint32_t bytes = qcow2_piece_bytes(q);
    uint32_t entries = bytes / q->geometry.l2_entry_size;
    uint32_t first = l2_index & ~(entries - 1);
    uint64_t offset = table + (uint64_t)first * q->geometry.l2_entry_size;
    out->first = first;
    out->count = entries;
    const struct pending_piece *pending = q->writer ? qcow2_pending(q, offset) : NULL;
    if (pending) { /* what the file will have */
        out->page = NULL;
        out->entries = pending->data;
        return 0;
    }
    bool passing = max >> q->geometry.cluster_bits >= entries;
    int ret = cache_get(&q->tables, bytes, q->layer->cache_bytes, offset, passing, fill_piece, q,
                        &out->page, err);
    if (ret < 0)
        return ret;
    out->entries = out->page->data;
    return 0;
}

int qcow2_count_l2(struct qcow2 *q, uint64_t *tables, struct img_error *err)
{
    uint8_t buf[16 << 10];
    uint64_t left = q->l1_size * 8ull, at = q->l1_offset;
    *tables = 0;
    while (left) {
        size_t n = (size_t)min_u64(left, sizeof buf);
        int ret = file_read(q->file, buf, n, host(at), err);
        if (ret < 0)
            return img_prefix(err, ret, "Could not read L1 table: ");
        for (size_t i = 0; i < n; i += 8)
            *tables += (load_be64(buf + i) & L1_OFFSET_MASK) != 0;
        at += n;
        left -= n;
    }
    return 0;
}
