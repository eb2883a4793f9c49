/* Disks that get another size. What a single file holds is done by the command itself. */
#include "subjects.h"

#define GROW(arguments) .script = "$P $IMGTOOL resize -q -f qcow2 image.qcow2 " arguments
#define SHRINK(size)    .script = "$P $IMGTOOL resize -q -f qcow2 --shrink image.qcow2 " size
#define QEMU(arguments) .qemu = "$P $QEMU_IMG resize -q -f qcow2 " arguments

#define STEPS                                                                                      \
    "a header that changes in steps flushes what was written before them, and the names of "       \
    "features are only words"

static int resize(struct stage *s, uint64_t size, enum img_preallocation mode,
                  struct img_error *err)
{
    struct img_resize_options o = {.preallocation = mode, .flags = IMG_RESIZE_SHRINK};
    int ret = img_resize(s->img, size, &o, err);
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

/* The last cluster ends with the disk, then within it, and what was behind its end is gone. */
static int with_data_file(struct stage *s, struct img_error *err)
{
    int ret = resize(s, 400 << 10, IMG_PREALLOCATION_OFF, err);
    if (!ret)
        ret = resize(s, 101 << 10, IMG_PREALLOCATION_OFF, err);
    if (!ret)
        ret = resize(s, 300 << 10, IMG_PREALLOCATION_METADATA, err);
    if (!ret)
        ret = resize(s, 5 << 10, IMG_PREALLOCATION_OFF, err);
    return ret < 0 ? ret : resize(s, 64 << 10, IMG_PREALLOCATION_FULL, err);
}

/* Bytes that nobody saw must be gone before they could be seen. */
static int over_stale_bytes(struct stage *s, struct img_error *err)
{
    int ret = resize(s, 150 << 10, IMG_PREALLOCATION_METADATA, err);
    return ret < 0 ? ret : resize(s, 170 << 10, IMG_PREALLOCATION_OFF, err);
}

static int within_clusters(struct stage *s, struct img_error *err)
{
    int ret = resize(s, 101 << 10, IMG_PREALLOCATION_OFF, err);
    if (!ret)
        ret = resize(s, 200 << 10, IMG_PREALLOCATION_OFF, err);
    if (!ret)
        ret = resize(s, 512, IMG_PREALLOCATION_OFF, err);
    return ret < 0 ? ret : resize(s, 70 << 10, IMG_PREALLOCATION_FALLOC, err);
}

/* Whoever reads the data file alone sees the same disk. */
static int raw_data_file(struct stage *s, struct img_error *err)
{
    int ret = resize(s, 300 << 10, IMG_PREALLOCATION_OFF, err);
    return ret < 0 ? ret : resize(s, 20 << 10, IMG_PREALLOCATION_OFF, err);
}

static int raw(struct stage *s, struct img_error *err)
{
    int ret = resize(s, 200 << 10, IMG_PREALLOCATION_OFF, err);
    if (!ret)
        ret = resize(s, 250 << 10, IMG_PREALLOCATION_FALLOC, err);
    if (!ret)
        ret = resize(s, 20 << 10, IMG_PREALLOCATION_OFF, err);
    return ret < 0 ? ret : resize(s, 90 << 10, IMG_PREALLOCATION_FULL, err);
}

static const struct subject resize_subjects[] = {
    {"resize", "512-byte clusters, 2 snapshots", GROW("+100k"), QEMU("image.qcow2 +100k")},
    {"resize", "64 KiB clusters, snapshot, bitmap", GROW("+800M"), .needless = STEPS},
    {"resize", "version 2, no snapshots", GROW("--preallocation=metadata +100k")},
    {"resize", "three bitmaps", GROW("+100M")},
    {"resize", "extended L2, backing file, snapshot", GROW("--preallocation=falloc +100k")},
    {"resize", "backing file, compressed clusters", GROW("--preallocation=metadata +100k")},
    {"resize --shrink", "512-byte clusters, 2 snapshots", SHRINK("20k"),
     QEMU("--shrink image.qcow2 20k")},
    {"resize --shrink", "64 KiB clusters, snapshot, bitmap", SHRINK("70k"), .needless = STEPS},
    {"resize --shrink", "version 2, no snapshots", SHRINK("41k")},
    {"resize --shrink", "three bitmaps", SHRINK("70k")},
    {"resize --shrink", "extended L2, backing file, snapshot", SHRINK("17k")},
    {"resize --shrink", "backing file, compressed clusters", SHRINK("17k")},
    {"resize --shrink", "1-bit refcounts", SHRINK("17k")},
    {"resize, back and forth", "plain, 4 KiB clusters", .run = within_clusters},
    {"resize, back and forth", "64-bit refcounts, snapshot", .run = within_clusters},
    {"resize, back and forth", "external data file", .run = with_data_file,
     .needless = "where the data file had nothing, it may as well be too short"},
    {"resize, back and forth", "data file longer than its disk", .run = over_stale_bytes},
    {"resize", "raw data file", EXACT_DATA_FILE, .run = raw_data_file},
    {"resize, raw", "raw disk", .run = raw,
     .needless = "zeroes that take space read as those that do not"},
    {0},
};

SUBJECT_GROUP(resize)
