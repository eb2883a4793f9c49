/*
 * Writers that are wrong on purpose, each in the way in which real ones are: the harness must find
 * every one of them out, or it proves nothing.
 */
#include "subjects.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/rewrite.h"
#include "lib/bytes.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static struct qcow2 *qcow2_of(struct stage *s)
{
    return s->img->layers[0]->state;
}

static int put64(struct qcow2 *q, uint64_t at, uint64_t value, struct img_error *err)
{
    uint8_t buf[8];
    store_be64(buf, value);
    return file_write(q->file, buf, sizeof buf, host(at), err);
}

/* A refcount of 16 bits in the first block. */
static int put_refcount(struct qcow2 *q, uint64_t cluster, uint16_t value, struct img_error *err)
{
    uint8_t buf[8];
    int ret = file_read(q->file, buf, 8, host(q->header.reftable_offset), err);
    uint64_t block = load_be64(buf);
    store_be16(buf, value);
    return ret < 0 ? ret : file_write(q->file, buf, 2, host(block + cluster * 2), err);
}

static int reload(struct stage *s, bool durable, struct img_error *err)
{
    int ret = qcow2_reload(qcow2_of(s), err);
    return ret < 0 ? ret : stage_step(s, true, durable, err);
}

/* The size changes twice, each time on disk: growing in two steps. */
static int two_steps(struct stage *s, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    int ret = put64(q, offsetof(struct ondisk_header, size), 300 << 10, err);
    if (!ret)
        ret = file_flush(q->file, err);
    if (!ret)
        ret = put64(q, offsetof(struct ondisk_header, size), 400 << 10, err);
    if (!ret)
        ret = file_flush(q->file, err);
    return ret < 0 ? ret : reload(s, true, err);
}

/* Says that it is done, and has flushed nothing. */
static int no_flush_at_the_end(struct stage *s, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    int ret = put64(q, offsetof(struct ondisk_header, size), 300 << 10, err);
    return ret < 0 ? ret : reload(s, true, err);
}

/* The L1 table, overwritten in its place with an L2 table that may not be there yet. */
static int l1_in_place(struct stage *s, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    uint64_t size, bytes = q->geometry.cluster_size;
    uint8_t *table = must(malloc(bytes)), entry[8];
    int ret = file_size(q->file, &size, err);
    if (!ret)
        ret = file_read(q->file, entry, 8, host(q->header.l1_offset), err);
    uint64_t old = load_be64(entry) & L1_OFFSET_MASK, place = (size + bytes - 1) / bytes * bytes;
    if (!ret)
        ret = file_read(q->file, table, bytes, host(old), err);
    if (!ret)
        ret = put_refcount(q, place / bytes, 1, err);
    if (!ret)
        ret = file_write(q->file, table, bytes, host(place), err);
    if (!ret)
        ret = put64(q, q->header.l1_offset, place | ENTRY_COPIED, err);
    if (!ret)
        ret = put_refcount(q, old / bytes, 0, err);
    if (!ret)
        ret = file_flush(q->file, err);
    free(table);
    return ret < 0 ? ret : reload(s, true, err);
}

/* All in the right order, but a cluster is counted before the header uses it. */
static int counted_in_place(struct stage *s, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    uint64_t size, bytes = q->geometry.cluster_size;
    uint64_t l1_bytes = (uint64_t)q->header.l1_size * 8;
    uint8_t *l1 = must(calloc(1, bytes));
    int ret = file_size(q->file, &size, err);
    uint64_t place = (size + bytes - 1) / bytes * bytes, old = q->header.l1_offset;
    if (!ret)
        ret = file_read(q->file, l1, l1_bytes, host(old), err);
    if (!ret)
        ret = put_refcount(q, place / bytes, 1, err);
    if (!ret)
        ret = file_write(q->file, l1, bytes, host(place), err);
    if (!ret)
        ret = file_flush(q->file, err);
    if (!ret)
        ret = put64(q, offsetof(struct ondisk_header, l1_table_offset), place, err);
    if (!ret)
        ret = file_flush(q->file, err);
    if (!ret)
        ret = put_refcount(q, old / bytes, 0, err);
    if (!ret)
        ret = file_flush(q->file, err);
    free(l1);
    return ret < 0 ? ret : reload(s, true, err);
}

/* A table of two sectors, overwritten in place by one write: the guest's clusters change places. */
static int torn_table(struct stage *s, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    uint8_t entry[8], table[1024], first[8];
    int ret = file_read(q->file, entry, 8, host(q->header.l1_offset), err);
    uint64_t l2 = load_be64(entry) & L1_OFFSET_MASK;
    if (!ret)
        ret = file_read(q->file, table, sizeof table, host(l2), err);
    memcpy(first, table, 8);
    memcpy(table, table + 100 * 8, 8); /* in the second sector */
    memcpy(table + 100 * 8, first, 8);
    if (!ret)
        ret = file_write(q->file, table, sizeof table, host(l2), err);
    if (!ret)
        ret = file_flush(q->file, err);
    return ret < 0 ? ret : reload(s, true, err);
}

/* A guest write that says it is on disk when it is not. */
static int lying_flush(struct stage *s, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    uint8_t entry[8];
    int ret = file_read(q->file, entry, 8, host(q->header.l1_offset), err);
    uint64_t l2 = load_be64(entry) & L1_OFFSET_MASK;
    if (!ret)
        ret = file_read(q->file, entry, 8, host(l2), err);
    uint8_t data[1024];
    memset(data, 0x77, sizeof data);
    if (!ret)
        ret = file_write(q->file, data, sizeof data, host(load_be64(entry) & L2_OFFSET_MASK), err);
    return ret < 0 ? ret : stage_step(s, false, true, err);
}

static const struct subject wrong_subjects[] = {
    {"size in two steps", "plain, 4 KiB clusters", .flags = EXPECT_BAD, .run = two_steps,
     .expect = "neither"},
    {"no flush at the end", "plain, 4 KiB clusters", .flags = EXPECT_BAD,
     .run = no_flush_at_the_end, .expect = "neither"},
    {"L1 table in place", "plain, 4 KiB clusters", .flags = EXPECT_BAD, .run = l1_in_place,
     .expect = "corrupt"},
    {"counted before it is used", "plain, 4 KiB clusters", .flags = EXPECT_BAD,
     .run = counted_in_place, .expect = "leaked"},
    {"a table that can be torn", "plain, 4 KiB clusters", .flags = EXPECT_BAD, .run = torn_table,
     .expect = "corrupt"},
    {"a flush that lies", "plain, 4 KiB clusters", .flags = EXPECT_BAD, .run = lying_flush,
     .expect = "neither"},
    {0},
};
SUBJECT_GROUP(wrong)
