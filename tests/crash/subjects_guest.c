/* Guest writes: each sector is the old one or the new one. */
#include "subjects.h"

#include <stdlib.h>
#include <string.h>

enum { OPERATIONS = 6, KIB = 1 << 10 };

/* Where, and how long: bytes, sectors or whole stretches of KiB. */
static void choose_range(struct stage *s, uint64_t *offset, uint64_t *length)
{
    static const uint64_t units[] = {1, 512, KIB, 4 * KIB, 16 * KIB};
    uint64_t size = img_size(s->img), unit = units[draw_below(&s->seed, 5)];
    *offset = draw_below(&s->seed, size) / unit * unit;
    *length = (1 + draw_below(&s->seed, 12)) * unit;
    if (*length > size - *offset)
        *length = size - *offset;
}

static int write_some(struct stage *s, uint64_t offset, uint64_t length, struct img_error *err)
{
    uint8_t *buf = must(malloc(length));
    for (uint64_t i = 0; i < length; i += SECTOR) /* sectors that tell each other apart */
        memset(buf + i, (int)draw(&s->seed) | 1, length - i < SECTOR ? length - i : SECTOR);
    int ret = img_write(s->img, buf, length, offset, err);
    free(buf);
    return ret;
}

/* One operation, a step of its own. A flush is none: it changes nothing that can be seen. */
static int operate(struct stage *s, bool *flushed, struct img_error *err)
{
    uint64_t offset, length;
    unsigned kind = (unsigned)draw_below(&s->seed, 16);
    choose_range(s, &offset, &length);
    *flushed = false;
    if (kind < 8)
        return write_some(s, offset, length, err);
    if (kind < 10)
        return img_write_zeroes(s->img, offset, length, 0, err);
    if (kind < 12)
        return img_write_zeroes(s->img, offset, length, IMG_ZERO_UNMAP, err);
    if (kind < 14)
        return img_discard(s->img, offset, length, err);
    *flushed = true;
    return img_flush(s->img, err);
}

/* A change that can be seen, and what closing the image does, the bitmaps included. */
static int finish(struct stage *s, struct img_error *err)
{
    int ret = write_some(s, img_size(s->img) - 3 * KIB - 50, 2 * KIB, err);
    if (!ret)
        ret = stage_step(s, false, false, err);
    if (!ret)
        ret = layer_settle(s->img->layers[0], err);
    return ret < 0 ? ret : stage_step(s, false, true, err);
}

static int write_at_random(struct stage *s, struct img_error *err)
{
    bool flushed;
    int ret = 0;
    for (int i = 0; i < OPERATIONS && !ret; i++) {
        ret = operate(s, &flushed, err);
        if (!ret)
            ret = stage_step(s, false, flushed, err);
    }
    return ret < 0 ? ret : finish(s, err);
}

/* The same places again and again, so that what one write frees the next one takes. */
static int overwrite(struct stage *s, struct img_error *err)
{
    int ret = 0;
    for (int i = 0; i < 2 && !ret; i++) {
        ret = img_discard(s->img, 0, 24 * KIB, err);
        if (!ret)
            ret = stage_step(s, false, false, err);
        if (!ret)
            ret = write_some(s, 3 * KIB + 100, 20 * KIB, err);
        if (!ret)
            ret = stage_step(s, false, false, err);
        if (!ret)
            ret = img_flush(s->img, err);
        if (!ret)
            ret = stage_step(s, false, true, err);
    }
    return ret < 0 ? ret : finish(s, err);
}

/* New refcount blocks, and a refcount table that becomes too short. */
static int grow(struct stage *s, struct img_error *err)
{
    int ret = 0;
    for (uint64_t at = 0; at < img_size(s->img) && !ret; at += 100 * KIB) {
        uint64_t left = img_size(s->img) - at;
        ret = write_some(s, at, left < 100 * KIB ? left : 100 * KIB, err);
        if (!ret)
            ret = stage_step(s, false, false, err);
        if (!ret && at % (200 * KIB))
            ret = img_flush(s->img, err);
        if (!ret && at % (200 * KIB))
            ret = stage_step(s, false, true, err);
    }
    return ret < 0 ? ret : finish(s, err);
}

static const struct subject guest_subjects[] = {
    {"guest writes", "512-byte clusters, 2 snapshots", MAY_LEAK, .run = write_at_random},
    {"guest writes", "512-byte clusters, 2 snapshots", MAY_LEAK, .run = overwrite},
    {"guest writes", "64 KiB clusters, snapshot, bitmap", MAY_LEAK, .run = write_at_random},
    {"guest writes", "version 2, snapshots", MAY_LEAK, .run = write_at_random},
    {"guest writes", "version 2, no snapshots", MAY_LEAK, .run = write_at_random},
    {"guest writes", "extended L2, backing file, snapshot", MAY_LEAK, .run = write_at_random},
    {"guest writes", "extended L2, backing file, snapshot", MAY_LEAK, .run = overwrite},
    {"guest writes", "backing file, compressed clusters", MAY_LEAK, .run = write_at_random},
    {"guest writes", "backing file, compressed clusters", MAY_LEAK, .run = overwrite},
    {"guest writes", "1-bit refcounts", MAY_LEAK, .run = write_at_random},
    {"guest writes", "64-bit refcounts, snapshot", MAY_LEAK, .run = write_at_random},
    {"guest writes", "three bitmaps", MAY_LEAK, .run = write_at_random},
    {"guest writes", "external data file", MAY_LEAK, .run = write_at_random},
    {"guest writes", "plain, 4 KiB clusters", MAY_LEAK, .run = write_at_random},
    {"guest writes", "512-byte clusters, 64-bit refcounts", MAY_LEAK, .run = grow},
    {0},
};
SUBJECT_GROUP(guest)
