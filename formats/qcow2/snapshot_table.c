#include "formats/qcow2/snapshot_table.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t extra_size(const struct qcow2_snapshot *s)
{
    return (uint32_t)max_u64(s->extra_size, sizeof(struct ondisk_snapshot_extra));
}

uint64_t snapshot_entry_size(const struct qcow2_snapshot *s)
{
    return sizeof(struct ondisk_snapshot) + extra_size(s) + strlen(s->info.id) +
           strlen(s->info.name);
}

void snapshot_encode(uint8_t *entry, const struct qcow2_snapshot *s)
{
    struct ondisk_snapshot *d = (struct ondisk_snapshot *)entry;
    struct ondisk_snapshot_extra *x = (struct ondisk_snapshot_extra *)(entry + sizeof *d);
    uint8_t *strings = entry + sizeof *d + extra_size(s);
    size_t id = strlen(s->info.id), name = strlen(s->info.name);
    memset(entry, 0, sizeof *d + extra_size(s));
    store_be64(d->l1_table_offset, s->l1_offset);
    store_be32(d->l1_size, s->l1_size);
    store_be16(d->id_size, (uint16_t)id);
    store_be16(d->name_size, (uint16_t)name);
    store_be32(d->date_sec, s->info.date_sec);
    store_be32(d->date_nsec, s->info.date_nsec);
    store_be64(d->vm_clock_nsec, s->info.vm_clock_nsec);
    if (s->info.vm_state_size <= UINT32_MAX) /* else, to old readers, there is none */
        store_be32(d->vm_state_size, (uint32_t)s->info.vm_state_size);
    store_be32(d->extra_data_size, extra_size(s));
    store_be64(x->vm_state_size, s->info.vm_state_size);
    store_be64(x->disk_size, s->info.disk_size);
    store_be64(x->icount, s->info.has_icount ? s->info.icount : UINT64_MAX);
    memcpy(strings, s->info.id, id);
    memcpy(strings + id, s->info.name, name);
}

void snapshot_next_id(const struct qcow2 *q, char id[24])
{
    unsigned long most = 0;
    for (size_t i = 0; i < q->snapshot_count; i++) {
        unsigned long n = strtoul(q->snapshots[i].info.id, NULL, 10);
        most = n > most ? n : most;
    }
    snprintf(id, 24, "%lu", most + 1);
}

/* The extra data that only the file knows. */
static int copy_unknown(const struct qcow2 *q, uint8_t *entry, const struct qcow2_snapshot *s,
                        struct img_error *err)
{
    const size_t known = sizeof(struct ondisk_snapshot) + sizeof(struct ondisk_snapshot_extra);
    size_t length = extra_size(s) - sizeof(struct ondisk_snapshot_extra);
    if (!s->place || !length)
        return 0;
    int ret = file_read(q->file, entry + known, length, host(s->place + known), err);
    return ret < 0 ? img_prefix(err, ret, "Failed to read snapshot table: ") : 0;
}

static int fill_table(const struct qcow2 *q, uint8_t *table, const struct qcow2_snapshot *list,
                      size_t count, struct img_error *err)
{
    uint64_t at = 0;
    int ret = 0;
    for (size_t i = 0; i < count && !ret; i++) {
        at = align_up(at, 8);
        snapshot_encode(table + at, &list[i]);
        ret = copy_unknown(q, table + at, &list[i], err);
        at += snapshot_entry_size(&list[i]);
    }
    return ret;
}

static int write_table(struct transaction *t, const struct qcow2_snapshot *list, size_t count,
                       uint64_t size, uint64_t *offset, struct img_error *err)
{
    uint32_t cluster = t->q->geometry.cluster_size;
    uint64_t padded = align_up(size, cluster);
    uint8_t *table = calloc(1, padded);
    int ret = table ? fill_table(t->q, table, list, count, err) : img_fail_nomem(err);
    if (!ret)
        ret = tx_allocate(t, padded / cluster, offset, err);
    if (!ret)
        ret = tx_write(t, *offset, table, padded, err);
    free(table);
    return ret;
}

int tx_set_snapshots(struct transaction *t, const struct qcow2_snapshot *list, size_t count,
                     struct img_error *err)
{
    const struct qcow2 *q = t->q;
    uint64_t size = 0, offset = 0;
    for (size_t i = 0; i < count; i++)
        size = align_up(size, 8) + snapshot_entry_size(&list[i]);
    if (count > MAX_SNAPSHOTS || size > MAX_SNAPSHOT_TABLE_BYTES)
        return img_fail_detail(err, EFBIG, "File too large",
                               "%zu snapshots in a table of %" PRIu64
                               " bytes, at most %d in %d are possible",
                               count, size, MAX_SNAPSHOTS, MAX_SNAPSHOT_TABLE_BYTES);
    int ret = count ? write_table(t, list, count, size, &offset, err) : 0;
    if (!ret)
        ret = tx_release(t, q->header.snapshots_offset, q->snapshots_length, err);
    t->header.snapshots_offset = offset;
    t->header.snapshot_count = (uint32_t)count;
    return ret;
}

int tx_replace_snapshots(struct transaction *t, const uint64_t *l1, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    struct qcow2_snapshot *list = calloc(q->snapshot_count + 1, sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    for (size_t i = 0; i < q->snapshot_count; i++) {
        list[i] = q->snapshots[i];
        list[i].l1_offset = l1 ? l1[i] : list[i].l1_offset;
    }
    int ret = tx_set_snapshots(t, list, q->snapshot_count, err);
    free(list);
    return ret;
}
