/* The snapshot table, read for a check: an entry at a time, keeping little of it. */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int read_extra(struct check *c, struct check_snapshot *s, uint64_t at, uint32_t size,
                      uint32_t index)
{
    struct ondisk_snapshot_extra d;
    if (size > MAX_SNAPSHOT_EXTRA && (c->fix & IMG_REPAIR_ERRORS)) {
        c->report->result->corruptions_fixed++;
        c->snapshots_fix = true;
        check_repairs(c, SNAPSHOT, at,
                      "Discarding too much extra metadata in snapshot table entry %" PRIu32
                      " (%" PRIu32 " > %d)",
                      index, size, MAX_SNAPSHOT_EXTRA);
    } else if (size > MAX_SNAPSHOT_EXTRA) {
        int ret = img_fail(c->err, EFBIG,
                           "failed to read the snapshot table: Too much extra metadata "
                           "in snapshot table entry %" PRIu32,
                           index);
        img_context(c->err, "extra_data_size %" PRIu32 ", at most %d", size, MAX_SNAPSHOT_EXTRA);
        img_hint(c->err, "You can force-remove this extra metadata with qemu-img check -r all");
        return ret;
    }
    int ret = file_read_padded(c->q->file, &d, sizeof d, host(at), c->err);
    s->has_disk_size = size >= 16;
    s->disk_size = load_be64(d.disk_size);
    return ret;
}

/* Reads the entry at *AT and moves that behind it. */
static int read_entry(struct check *c, struct check_snapshot *s, uint64_t *at, uint32_t index)
{
    struct ondisk_snapshot d;
    int ret = file_read_padded(c->q->file, &d, sizeof d, host(*at), c->err);
    if (ret < 0)
        return img_prefix(c->err, ret, "failed to read the snapshot table: ");
    uint32_t extra = load_be32(d.extra_data_size);
    ret = read_extra(c, s, *at + sizeof d, extra, index);
    if (ret < 0)
        return ret;
    s->place = *at;
    s->extra = extra;
    s->l1_offset = load_be64(d.l1_table_offset);
    s->l1_size = load_be32(d.l1_size);
    s->strings = *at + sizeof d + extra;
    s->id_size = load_be16(d.id_size);
    s->name_size = load_be16(d.name_size);
    *at = s->strings + s->id_size + s->name_size;
    return 0;
}

/* Gives up what comes behind the first COUNT snapshots; all else follows from that. */
static void drop(struct check *c, uint32_t count)
{
    c->snapshots_dropped += c->snapshot_count - count;
    c->report->result->corruptions_fixed += c->snapshot_count - count;
    c->fixes_errors = true;
    c->snapshot_count = count;
}

static void incomplete(struct check *c, uint32_t index)
{
    uint64_t place = c->snapshots[index].place;
    if (!(c->fix & IMG_REPAIR_ERRORS)) {
        check_bad(c, SNAPSHOT, place, "ERROR snapshot table entry %" PRIu32 " is incomplete",
                  index);
        return;
    }
    c->report->result->corruptions_fixed++;
    c->snapshots_fix = true;
    check_repairs(c, SNAPSHOT, place, "Repairing snapshot table entry %" PRIu32 " is incomplete",
                  index);
}

static int read_table(struct check *c, uint64_t start)
{
    uint64_t at = start, length = 0; /* length: without the extra data that a repair drops */
    for (uint32_t i = 0; i < c->snapshot_count; i++) {
        uint64_t before = at;
        at = start + align_up(at - start, 8);
        int ret = read_entry(c, &c->snapshots[i], &at, i);
        if (ret < 0)
            return ret;
        const struct check_snapshot *s = &c->snapshots[i];
        length = align_up(length, 8) + sizeof(struct ondisk_snapshot) + s->id_size + s->name_size +
                 min_u64(s->extra, MAX_SNAPSHOT_EXTRA);
        if (length <= MAX_SNAPSHOT_TABLE_BYTES && at - start <= INT_MAX)
            continue;
        if (c->fix & IMG_REPAIR_ERRORS) {
            check_repairs(c, SNAPSHOT, s->place,
                          "Discarding %" PRIu32
                          " overhanging snapshots (snapshot table is too big)",
                          c->snapshot_count - i);
            drop(c, i);
            at = before;
        } else {
            ret = img_fail(c->err, EFBIG,
                           "failed to read the snapshot table: Snapshot table is too "
                           "big");
            img_hint(c->err,
                     "You can force-remove all %" PRIu32 " overhanging snapshots with "
                     "qemu-img check -r all",
                     c->snapshot_count - i);
            return ret;
        }
    }
    c->snapshots_size = at - start;
    for (uint32_t i = 0; i < c->snapshot_count && c->q->header.version >= 3; i++)
        if (!c->snapshots[i].has_disk_size)
            incomplete(c, i);
    c->fixes_errors |= c->snapshots_fix;
    return 0;
}

int check_read_snapshots(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    c->snapshot_count = h->snapshot_count;
    if (h->snapshot_count > MAX_SNAPSHOTS && (c->fix & IMG_REPAIR_ERRORS)) {
        check_repairs(c, SNAPSHOT, offsetof(struct ondisk_header, nb_snapshots),
                      "Discarding %" PRIu32 " overhanging snapshots",
                      h->snapshot_count - MAX_SNAPSHOTS);
        drop(c, MAX_SNAPSHOTS);
    }
    int ret = qcow2_validate_table(c->q, h->snapshots_offset, c->snapshot_count,
                                   sizeof(struct ondisk_snapshot),
                                   sizeof(struct ondisk_snapshot) * (uint64_t)MAX_SNAPSHOTS,
                                   "snapshot table", "nb_snapshots", c->err);
    if (ret < 0) {
        if (h->snapshot_count > MAX_SNAPSHOTS)
            img_hint(c->err,
                     "You can force-remove all %" PRIu32 " overhanging snapshots with "
                     "qemu-img check -r all",
                     h->snapshot_count - MAX_SNAPSHOTS);
        return ret;
    }
    if (!c->snapshot_count)
        return 0;
    if (!h->snapshots_offset && (c->fix & IMG_REPAIR_ERRORS)) {
        c->snapshots_fix = true; /* a repair changes the header, and so would change the table */
        c->report->result->corruptions_fixed++;
        check_repairs(c, OVERLAP, offsetof(struct ondisk_header, snapshots_offset),
                      "Repairing the snapshot table at 0x0 overlaps the header");
    }
    c->snapshots = calloc(c->snapshot_count, sizeof *c->snapshots);
    if (!c->snapshots)
        return img_fail_nomem(c->err);
    return read_table(c, h->snapshots_offset);
}

static void read_string(struct check *c, char out[256], uint64_t at, uint16_t size)
{
    size_t n = (size_t)min_u64(size, 255);
    if (file_read_padded(c->q->file, out, n, host(at), NULL) < 0)
        n = 0;
    out[n] = 0;
}

void check_snapshot_names(struct check *c, const struct check_snapshot *s, char id[256],
                          char name[256])
{
    read_string(c, id, s->strings, s->id_size);
    read_string(c, name, s->strings + s->id_size, s->name_size);
}
