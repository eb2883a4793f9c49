/* The snapshot table, written anew: entries are carried over byte by byte but for what changes. */
#include "formats/qcow2/amend.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/reader.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A table in memory that grows. */
struct image_part {
    uint8_t *bytes;
    size_t length, room;
};

/* LENGTH bytes more, zeroed; *AT is where they are until the next call. */
static int append(struct image_part *p, size_t length, uint8_t **at, struct img_error *err)
{
    if (length > p->room - p->length) {
        size_t room = (p->room + length) * 2;
        uint8_t *bytes = realloc(p->bytes, room);
        if (!bytes)
            return img_fail_nomem(err);
        p->bytes = bytes;
        p->room = room;
    }
    *at = p->bytes + p->length;
    memset(*at, 0, length);
    p->length += length;
    return 0;
}

static int copy_bytes(struct image_part *p, struct reader *r, size_t length, struct img_error *err)
{
    uint8_t *at;
    int ret = append(p, length, &at, err);
    return ret < 0 ? ret : reader_get(r, at, length, err);
}

/* The extra data, which version 3 wants to have the disk's size at least. */
static int copy_extra(struct image_part *p, struct reader *r, const struct qcow2_snapshot *s,
                      uint32_t length, struct img_error *err)
{
    struct ondisk_snapshot_extra d;
    uint8_t *at;
    if (length >= sizeof d)
        return copy_bytes(p, r, length, err);
    int ret = append(p, sizeof d, &at, err);
    if (!ret)
        ret = reader_skip(r, length, err);
    if (ret < 0)
        return ret;
    store_be64(d.vm_state_size, s->info.vm_state_size);
    store_be64(d.disk_size, s->info.disk_size);
    store_be64(d.icount, UINT64_MAX);
    memcpy(at, &d, sizeof d);
    return 0;
}

static int copy_entry(struct image_part *p, struct reader *r, const struct qcow2_snapshot *s,
                      uint64_t l1_offset, struct img_error *err)
{
    struct ondisk_snapshot d;
    uint8_t *at;
    int ret = reader_get(r, &d, sizeof d, err);
    if (!ret)
        ret = append(p, sizeof d, &at, err);
    if (ret < 0)
        return ret;
    uint32_t extra = load_be32(d.extra_data_size);
    size_t names = (size_t)load_be16(d.id_size) + load_be16(d.name_size);
    store_be64(d.l1_table_offset, l1_offset);
    store_be32(d.extra_data_size, (uint32_t)max_u64(extra, sizeof(struct ondisk_snapshot_extra)));
    memcpy(at, &d, sizeof d);
    ret = copy_extra(p, r, s, extra, err);
    if (!ret)
        ret = copy_bytes(p, r, names, err);
    return ret < 0 ? ret : append(p, align_up(p->length, 8) - p->length, &at, err);
}

/* *END: where the old table ends. */
static int copy_table(const struct qcow2 *q, const uint64_t *l1, struct image_part *p,
                      uint64_t *end, struct img_error *err)
{
    uint64_t start = q->header.snapshots_offset;
    struct reader r;
    int ret = 0;
    reader_init(&r, q->file, host(start), q->file_size - start);
    for (size_t i = 0; i < q->snapshot_count && !ret; i++) {
        ret = reader_skip(&r, align_up(r.at - start, 8) - (r.at - start), err);
        if (!ret)
            ret = copy_entry(p, &r, &q->snapshots[i], l1 ? l1[i] : q->snapshots[i].l1_offset, err);
    }
    *end = r.at;
    if (!ret && p->length > MAX_SNAPSHOT_TABLE_BYTES)
        ret = img_fail(err, EFBIG, "Snapshot table is too big");
    return ret < 0 ? img_prefix(err, ret, "Failed to update the snapshot table: ") : 0;
}

int tx_replace_snapshots(struct transaction *t, const uint64_t *l1, struct img_error *err)
{
    struct image_part p = {.length = 0};
    uint32_t cluster = t->q->geometry.cluster_size;
    uint64_t start = t->q->header.snapshots_offset, end, place = 0;
    uint8_t *padding;
    int ret = copy_table(t->q, l1, &p, &end, err);
    if (!ret)
        ret = append(&p, align_up(p.length, cluster) - p.length, &padding, err);
    if (!ret)
        ret = tx_allocate(t, p.length / cluster, &place, err);
    if (!ret)
        ret = tx_write(t, place, p.bytes, p.length, err);
    if (!ret)
        ret = tx_release(t, start, end - start, err);
    if (!ret)
        t->header.snapshots_offset = place;
    free(p.bytes);
    return ret;
}
