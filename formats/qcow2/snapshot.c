/* "Snapshots": the table of internal snapshots. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "formats/qcow2/reader.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int read_extra(const struct qcow2 *q, struct reader *r, struct qcow2_snapshot *s,
                      uint32_t extra_size, size_t index, struct img_error *err)
{
    struct ondisk_snapshot_extra d;
    uint8_t raw[MAX_SNAPSHOT_EXTRA];
    if (extra_size > MAX_SNAPSHOT_EXTRA) {
        int ret = img_fail(err, EFBIG, "Too much extra metadata in snapshot table entry %zu",
                           index);
        img_context(err, "extra_data_size %" PRIu32 ", at most %d", extra_size, MAX_SNAPSHOT_EXTRA);
        img_hint(err, "You can force-remove this extra metadata with qemu-img check -r all");
        return ret;
    }
    int ret = reader_get(r, raw, extra_size, err);
    if (ret < 0)
        return ret;
    memset(&d, 0, sizeof d);
    memcpy(&d, raw, min_u64(extra_size, sizeof d));
    if (extra_size >= 8)
        s->info.vm_state_size = load_be64(d.vm_state_size);
    s->has_disk_size = extra_size >= 16;
    s->info.disk_size = extra_size >= 16 ? load_be64(d.disk_size) : q->layer->size;
    s->info.has_icount = extra_size >= 24 && load_be64(d.icount) != UINT64_MAX;
    s->info.icount = load_be64(d.icount);
    return 0;
}

static int check_one(const struct qcow2 *q, const struct qcow2_snapshot *s, size_t index,
                     struct img_error *err)
{
    int ret = qcow2_validate_table(q, s->l1_offset, s->l1_size, 8, MAX_L1_BYTES,
                                   "Snapshot L1 table", "l1_size", err);
    const char *other = qcow2_overlapped(q, s->l1_offset, s->l1_size * 8ull);
    if (!ret && other)
        ret = img_fail(err, EINVAL, "Snapshot L1 table at %#" PRIx64 " overlaps the %s",
                       s->l1_offset, other);
    /* without a recorded size the disk may have grown since: its end is unallocated then */
    unsigned table_bits = q->geometry.cluster_bits + q->geometry.l2_bits;
    uint64_t size = s->info.disk_size;
    if (!ret && s->has_disk_size && size && (size - 1) >> table_bits >= s->l1_size)
        ret = img_fail(err, EINVAL,
                       "Snapshot L1 table is too small (l1_size %" PRIu32 ", disk size %" PRIu64
                       ")",
                       s->l1_size, size);
    return ret < 0 ? img_prefix(err, ret, "Snapshot table entry %zu ('%s'): ", index, s->info.name)
                   : 0;
}

static int read_one(const struct qcow2 *q, struct reader *r, struct qcow2_snapshot *s, size_t index,
                    struct img_error *err)
{
    struct ondisk_snapshot d;
    s->place = r->at;
    int ret = reader_get(r, &d, sizeof d, err);
    if (ret < 0)
        return ret;
    s->extra_size = load_be32(d.extra_data_size);
    s->l1_offset = load_be64(d.l1_table_offset);
    s->l1_size = load_be32(d.l1_size);
    s->info.vm_state_size = load_be32(d.vm_state_size);
    s->info.date_sec = load_be32(d.date_sec);
    s->info.date_nsec = load_be32(d.date_nsec);
    s->info.vm_clock_nsec = load_be64(d.vm_clock_nsec);
    ret = read_extra(q, r, s, s->extra_size, index, err);
    if (!ret)
        ret = reader_get_string(r, &s->info.id, load_be16(d.id_size), err);
    if (!ret)
        ret = reader_get_string(r, &s->info.name, load_be16(d.name_size), err);
    return ret;
}

static int grow(struct qcow2 *q, size_t *capacity, struct img_error *err)
{
    if (q->snapshot_count < *capacity)
        return 0;
    size_t wanted = *capacity ? *capacity * 2 : 8;
    struct qcow2_snapshot *list = realloc(q->snapshots, wanted * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    q->snapshots = list;
    *capacity = wanted;
    return 0;
}

/* Adds up the table by the fixed parts of its entries alone, before anything of it is kept. */
static int check_total(const struct qcow2 *q, struct img_error *err)
{
    uint64_t start = q->header.snapshots_offset;
    struct reader r;
    reader_init(&r, q->file, host(start), q->file_size - start);
    for (uint32_t i = 0; i < q->header.snapshot_count; i++) {
        struct ondisk_snapshot d;
        int ret = reader_skip(&r, align_up(r.at - start, 8) - (r.at - start), err);
        if (!ret)
            ret = reader_get(&r, &d, sizeof d, err);
        if (!ret)
            ret = reader_skip(&r,
                              (uint64_t)load_be32(d.extra_data_size) + load_be16(d.id_size) +
                                  load_be16(d.name_size),
                              err);
        if (ret == -EINVAL) { /* found again, and worded, when it is read */
            img_error_clear(err);
            return 0;
        }
        if (ret < 0)
            return img_prefix(err, ret, "Failed to read snapshot table (entry %" PRIu32 "): ", i);
        if (load_be32(d.extra_data_size) > MAX_SNAPSHOT_EXTRA)
            return 0;
        if (r.at - start <= MAX_SNAPSHOT_TABLE_BYTES)
            continue;
        ret = img_fail_detail(err, EFBIG, "Snapshot table is too big",
                              "more than %d bytes with entry %" PRIu32, MAX_SNAPSHOT_TABLE_BYTES,
                              i);
        img_hint(err,
                 "You can force-remove all %" PRIu32 " overhanging snapshots with qemu-img "
                 "check -r all",
                 q->header.snapshot_count - i);
        return ret;
    }
    return 0;
}

int qcow2_read_snapshots(struct qcow2 *q, struct img_error *err)
{
    uint64_t start = q->header.snapshots_offset;
    q->snapshots_length = 0;
    if (!q->header.snapshot_count)
        return 0;
    int ret = check_total(q, err);
    if (ret < 0)
        return ret;
    struct reader r;
    size_t capacity = 0;
    reader_init(&r, q->file, host(start), q->file_size - start);
    for (uint32_t i = 0; i < q->header.snapshot_count; i++) {
        ret = grow(q, &capacity, err);
        if (ret < 0)
            return ret;
        struct qcow2_snapshot *s = &q->snapshots[q->snapshot_count++];
        memset(s, 0, sizeof *s);
        ret = reader_skip(&r, align_up(r.at - start, 8) - (r.at - start), err);
        if (!ret)
            ret = read_one(q, &r, s, i, err);
        if (ret == -EFBIG)
            return ret;
        if (ret < 0)
            return img_prefix(err, ret, "Failed to read snapshot table (entry %" PRIu32 "): ", i);
        ret = check_one(q, s, i, err);
        if (ret < 0)
            return ret;
    }
    q->snapshots_length = r.at - start;
    return 0;
}

const struct qcow2_snapshot *qcow2_find_snapshot_both(const struct qcow2 *q, const char *id,
                                                      const char *name)
{
    for (size_t i = 0; i < q->snapshot_count; i++) {
        const struct img_snapshot_info *s = &q->snapshots[i].info;
        if ((!id || !strcmp(s->id, id)) && (!name || !strcmp(s->name, name)))
            return &q->snapshots[i];
    }
    return NULL;
}

const struct qcow2_snapshot *qcow2_find_snapshot_name(const struct qcow2 *q, const char *name)
{
    return qcow2_find_snapshot_both(q, NULL, name);
}

const struct qcow2_snapshot *qcow2_find_snapshot(const struct qcow2 *q, const char *id_or_name)
{
    const struct qcow2_snapshot *s = qcow2_find_snapshot_both(q, id_or_name, NULL);
    return s ? s : qcow2_find_snapshot_name(q, id_or_name);
}
