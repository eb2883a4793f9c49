/*
 * Sequences of guest writes that are the same each time: after each flush nothing is lost; until
 * then each sector is the old one, the new one or one between them. The image is never corrupt, but
 * may leak.
 */
#include "subjects.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { NO_PATTERN = -1 };

/* What a read shows now must be PATTERN in the range; the step is done. */
static int done(struct stage *s, int pattern, uint64_t offset, uint64_t length,
                struct img_error *err)
{
    int ret = stage_step(s, false, false, err);
    if (ret < 0 || pattern == NO_PATTERN)
        return ret;
    const struct judge *j = s->judge;
    const struct view *v = &j->versions[j->count - 1].view;
    for (uint64_t i = offset; i < offset + length; i++) {
        uint8_t byte = view_sector(v, i / SECTOR * SECTOR)[i % SECTOR];
        if (byte != pattern)
            return img_fail(err, EIO, "The byte at %#" PRIx64 " reads %#x, not %#x", i, byte,
                            (unsigned)pattern);
    }
    return 0;
}

static int put(struct stage *s, uint8_t pattern, uint64_t offset, uint64_t length,
               struct img_error *err)
{
    uint8_t *buf = must(malloc(length + 1));
    memset(buf, pattern, length);
    int ret = img_write(s->img, buf, length, offset, err);
    free(buf);
    return ret < 0 ? ret : done(s, pattern, offset, length, err);
}

static int zero(struct stage *s, uint64_t offset, uint64_t length, unsigned flags,
                struct img_error *err)
{
    int ret = img_write_zeroes(s->img, offset, length, flags, err);
    return ret < 0 ? ret : done(s, 0, offset, length, err);
}

static int discard(struct stage *s, uint64_t offset, uint64_t length, struct img_error *err)
{
    int ret = img_discard(s->img, offset, length, err);
    return ret < 0 ? ret : done(s, NO_PATTERN, offset, length, err);
}

static int flush(struct stage *s, struct img_error *err)
{
    int ret = img_flush(s->img, err);
    return ret < 0 ? ret : stage_step(s, false, true, err);
}

/* New clusters and old ones, and parts of each. */
static int writes(struct stage *s, struct img_error *err)
{
    uint64_t size = img_size(s->img);
    int ret = put(s, 0x21, 0, 1024, err);
    if (!ret)
        ret = put(s, 0x22, size / 2 + 700, 5000, err);
    if (!ret)
        ret = put(s, 0x23, size - 3000, 3000, err);
    if (!ret)
        ret = flush(s, err);
    if (!ret)
        ret = put(s, 0x24, 9 * 1024, 20 * 1024, err);
    return ret < 0 ? ret : flush(s, err);
}

/* Into what has no place yet, at the end of the disk. */
static int writes_behind(struct stage *s, struct img_error *err)
{
    int ret = put(s, 0x26, img_size(s->img) - (300 << 10), 120 << 10, err);
    return ret < 0 ? ret : flush(s, err);
}

static int write_once(struct stage *s, struct img_error *err)
{
    int ret = put(s, 0x31, 10 << 10, 6 << 10, err);
    if (!ret)
        ret = put(s, 0x32, 50 << 10, 6 << 10, err);
    return ret < 0 ? ret : flush(s, err);
}

static int zeroes(struct stage *s, struct img_error *err)
{
    uint64_t size = img_size(s->img);
    int ret = zero(s, 0, 9 << 10, 0, err);
    if (!ret)
        ret = zero(s, 20 << 10, 30 << 10, IMG_ZERO_UNMAP, err);
    if (!ret)
        ret = flush(s, err);
    if (!ret)
        ret = zero(s, size - (40 << 10) + 100, 33 << 10, IMG_ZERO_UNMAP, err);
    if (!ret)
        ret = put(s, 0x41, 22 << 10, 5000, err);
    return ret < 0 ? ret : flush(s, err);
}

static int discards(struct stage *s, struct img_error *err)
{
    int ret = discard(s, 0, 16 << 10, err);
    if (!ret)
        ret = flush(s, err);
    if (!ret)
        ret = put(s, 0x51, 4 << 10, 4 << 10, err); /* may take what has become free */
    if (!ret)
        ret = discard(s, 64 << 10, img_size(s->img) - (64 << 10), err);
    if (!ret)
        ret = put(s, 0x52, 90 << 10, 9 << 10, err);
    return ret < 0 ? ret : flush(s, err);
}

/* Again and again into the same place, without a flush. */
static int overwrites(struct stage *s, struct img_error *err)
{
    int ret = 0;
    for (unsigned i = 0; i < 4 && !ret; i++) {
        ret = put(s, (uint8_t)(0x61 + i), 8 << 10, 3 << 10, err);
        if (!ret && i == 1)
            ret = zero(s, 8 << 10, 4 << 10, IMG_ZERO_UNMAP, err);
        if (!ret && i == 2)
            ret = discard(s, 8 << 10, 4 << 10, err);
    }
    return ret < 0 ? ret : flush(s, err);
}

#define QEMU_IO(commands) "$P $QEMU_IO -f qcow2 " commands " image.qcow2 >>io.log"
/* ---- what is not flushed when something else changes the image ------------------------------ */

static int after(struct stage *s, int ret, struct img_error *err)
{
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

static int write_and_snapshot(struct stage *s, struct img_error *err)
{
    int ret = put(s, 0x61, 3 << 10, 9 << 10, err);
    if (!ret)
        ret = after(s, img_snapshot_create(s->img, "after", err), err);
    if (!ret)
        ret = put(s, 0x62, 0, 5 << 10, err);
    return ret < 0 ? ret : after(s, img_snapshot_apply(s->img, "after", err), err);
}

static int write_and_resize(struct stage *s, struct img_error *err)
{
    int ret = put(s, 0x63, 30 << 10, 9 << 10, err);
    return ret < 0 ? ret : after(s, img_resize(s->img, img_size(s->img) + 8192, NULL, err), err);
}

static int write_and_amend(struct stage *s, struct img_error *err)
{
    const struct img_amend_options options = {.options = "refcount_bits=64"};
    int ret = put(s, 0x64, 30 << 10, 9 << 10, err);
    return ret < 0 ? ret : after(s, img_amend(s->img, &options, err), err);
}

static int write_and_add_bitmap(struct stage *s, struct img_error *err)
{
    int ret = put(s, 0x65, 30 << 10, 9 << 10, err);
    return ret < 0 ? ret : after(s, img_bitmap_add(s->img, "after", 512, err), err);
}

/* As rebase does it, to the base that the image has. */
static int write_and_name_base(struct stage *s, struct img_error *err)
{
    struct layer *l = s->img->layers[0];
    int ret = put(s, 0x66, 30 << 10, 9 << 10, err);
    if (!ret)
        ret = l->driver->set_backing(l, l->backing_name, l->backing_format, false, err);
    return after(s, ret, err);
}

#define QEMU_WRITES   QEMU_IO("-c 'write -P 0x31 10k 6k' -c 'write -P 0x32 50k 6k' -c flush")
#define QEMU_ZEROES   QEMU_IO("-c 'write -z 0 9k' -c 'write -z -u 20k 30k' -c flush")
#define QEMU_DISCARDS QEMU_IO("-d unmap -c 'discard 0 16k' -c 'discard 64k 32k' -c flush")

static const struct subject writes_subjects[] = {
    {"guest writes", "512-byte clusters, 2 snapshots", MAY_LEAK, .run = writes},
    {"guest writes", "512-byte clusters, 2 snapshots", MAY_LEAK, .run = write_once,
     .qemu = QEMU_WRITES},
    {"guest writes", "64 KiB clusters, snapshot, bitmap", MAY_LEAK, .run = writes,
     .qemu = QEMU_WRITES},
    {"guest writes", "version 2, snapshots", MAY_LEAK, .run = writes, .qemu = QEMU_WRITES},
    {"guest writes", "extended L2, backing file, snapshot", MAY_LEAK, .run = writes,
     .qemu = QEMU_WRITES},
    {"guest writes", "backing file, compressed clusters", MAY_LEAK, .run = writes,
     .qemu = QEMU_WRITES},
    {"guest writes", "1-bit refcounts", MAY_LEAK, .run = writes, .qemu = QEMU_WRITES},
    {"guest writes", "64-bit refcounts, snapshot", MAY_LEAK, .run = writes, .qemu = QEMU_WRITES},
    {"guest writes", "three bitmaps", MAY_LEAK, .run = writes},
    {"guest writes", "external data file", MAY_LEAK, .run = writes},
    {"guest writes", "lazy refcounts", MAY_LEAK, .run = writes},
    {"guest writes", "plain, 4 KiB clusters", MAY_LEAK, .run = overwrites},
    {"guest writes", "512-byte clusters, 2 snapshots", MAY_LEAK, .run = overwrites},
    {"guest writes", "raw disk", MAY_LEAK, .run = writes},
    {"guest writes", "raw data file", MAY_LEAK, .run = writes},
    {"guest writes", "unknown autoclear bit", MAY_LEAK, .run = writes},
    {"guest writes", "short refcount table", MAY_LEAK, .run = writes_behind},
    {"guest zeroes", "raw disk", MAY_LEAK, .run = zeroes},
    {"guest zeroes", "512-byte clusters, 2 snapshots", MAY_LEAK, .run = zeroes,
     .qemu = QEMU_ZEROES},
    {"guest zeroes", "extended L2, backing file, snapshot", MAY_LEAK, .run = zeroes,
     .qemu = QEMU_ZEROES},
    {"guest zeroes", "backing file, compressed clusters", MAY_LEAK, .run = zeroes,
     .qemu = QEMU_ZEROES},
    {"guest zeroes", "version 2, no snapshots", MAY_LEAK, .run = zeroes, .qemu = QEMU_ZEROES},
    {"guest discards", "plain, 4 KiB clusters", MAY_LEAK, .run = discards, .qemu = QEMU_DISCARDS},
    {"guest discards", "extended L2, backing file, snapshot", MAY_LEAK, .run = discards,
     .qemu = QEMU_DISCARDS},
    {"guest discards", "version 2, snapshots", MAY_LEAK, .run = discards, .qemu = QEMU_DISCARDS},
    {"guest discards", "raw disk", MAY_LEAK, .run = discards},
    {"guest discards", "external data file", MAY_LEAK, .run = discards},
    {"guest writes, snapshot", "512-byte clusters, 2 snapshots", MAY_LEAK,
     .run = write_and_snapshot},
    {"guest writes, resize", "plain, 4 KiB clusters", MAY_LEAK, .run = write_and_resize},
    {"guest writes, resize", "external data file", MAY_LEAK, .run = write_and_resize},
    {"guest writes, amend", "external data file", MAY_LEAK, .run = write_and_amend},
    {"guest writes, bitmap", "external data file", MAY_LEAK, .run = write_and_add_bitmap},
    {"guest writes, header names", "backing file, compressed clusters", MAY_LEAK,
     .run = write_and_name_base},
    {0},
};
SUBJECT_GROUP(writes)
