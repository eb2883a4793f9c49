/*
 * Whatever fails while the guest's disk is written, the image is sound, and each sector of the disk
 * is what it was at some time. That goes for the closing of the image as well, which stores
 * bitmaps.
 */
#include "change_faults.h"

enum { KIB = 1 << 10 };

/* ---- images to begin with ------------------------------------------------------------------ */

static int fill(struct img *img, uint64_t offset, size_t length, unsigned seed,
                struct img_error *err)
{
    uint8_t bytes[32 * KIB]; /* not allocated: such allocations would count */
    assert_true(length <= sizeof bytes);
    fill_bytes(bytes, length, seed);
    return img_write(img, bytes, length, offset, err);
}

static int some_data(struct img *img, struct img_error *err)
{
    int ret = fill(img, 0, 20 * KIB, 1, err);
    if (!ret)
        ret = fill(img, 70 * KIB, 9 * KIB, 2, err);
    return ret < 0 ? ret : img_write_zeroes(img, 4 * KIB, 2 * KIB, 0, err);
}

static int shared_data(struct img *img, struct img_error *err)
{
    int ret = some_data(img, err);
    if (!ret)
        ret = img_snapshot_create(img, "first", err);
    return ret < 0 ? ret : fill(img, 8 * KIB, 3 * KIB, 3, err);
}

static int recorded_data(struct img *img, struct img_error *err)
{
    int ret = some_data(img, err);
    if (!ret)
        ret = img_bitmap_add(img, "fine", 512, err);
    return ret < 0 ? ret : img_bitmap_add(img, "coarse", 4096, err);
}

static struct image plain(void)
{
    return created(100 * KIB, "cluster_size=512", some_data);
}

static struct image lazy(void)
{
    return created(100 * KIB, "cluster_size=1k,lazy_refcounts=on", some_data);
}

static struct image with_snapshot(void)
{
    return created(100 * KIB, "cluster_size=512", shared_data);
}

static struct image subclusters(void)
{
    return created(100 * KIB, "cluster_size=16k,extended_l2=on", shared_data);
}

static struct image bitmaps(void)
{
    return created(100 * KIB, "cluster_size=512", recorded_data);
}

static struct image external(void)
{
    char options[500];
    snprintf(options, sizeof options, "cluster_size=512,data_file=%s", test_path("data.raw"));
    return created(100 * KIB, options, some_data);
}

/* Compressed clusters, and the host cluster that two of them lie in shared with a snapshot. */
static struct image compressed(void)
{
    static const struct snapshot_spec snapshot[] = {{"1", "first", 16, 100 * KIB}};
    struct image m = make_qcow2(3, 9, 100 * KIB, 0);
    store_be64(m.data + m.l1, m.l2);
    image_add_compressed(&m, 4);
    image_add_compressed(&m, 20);
    image_set_entry(&m, 7, image_add_filled(&m, 3), 0);
    image_add_snapshots(&m, snapshot, 1);
    image_settle_refcounts(&m);
    return m;
}

static struct image compressed_alone(void)
{
    struct image m = make_qcow2(3, 9, 100 * KIB, 0);
    store_be64(m.data + m.l1, m.l2 | ENTRY_COPIED);
    image_add_compressed(&m, 4);
    image_add_compressed(&m, 20);
    image_settle_refcounts(&m);
    return m;
}

/* ---- sequences ----------------------------------------------------------------------------- */

static int put(struct trial *t, uint64_t offset, size_t length, unsigned seed,
               struct img_error *err)
{
    int ret = fill(t->img, offset, length, seed, err);
    return ret < 0 ? ret : step(t);
}

static int zero(struct trial *t, uint64_t offset, uint64_t length, unsigned flags,
                struct img_error *err)
{
    int ret = img_write_zeroes(t->img, offset, length, flags, err);
    return ret < 0 ? ret : step(t);
}

static int discard(struct trial *t, uint64_t offset, uint64_t length, struct img_error *err)
{
    int ret = img_discard(t->img, offset, length, err);
    return ret < 0 ? ret : step(t);
}

/* New clusters and old ones, parts of each, more than one table. */
static int writes(struct trial *t, struct img_error *err)
{
    int ret = put(t, 300, 1000, 11, err);
    if (!ret)
        ret = put(t, 9 * KIB, 3 * KIB, 12, err);
    if (!ret)
        ret = put(t, 31 * KIB, 9 * KIB, 13, err);
    if (!ret)
        ret = img_flush(t->img, err);
    if (!ret)
        ret = put(t, 98 * KIB + 100, 700, 14, err);
    return ret < 0 ? ret : img_flush(t->img, err);
}

static int zeroes(struct trial *t, struct img_error *err)
{
    int ret = zero(t, 700, 5 * KIB, 0, err);
    if (!ret)
        ret = zero(t, 10 * KIB, 6 * KIB, IMG_ZERO_UNMAP, err);
    if (!ret)
        ret = img_flush(t->img, err);
    if (!ret)
        ret = zero(t, 30 * KIB, 50 * KIB, 0, err);
    return ret < 0 ? ret : img_flush(t->img, err);
}

static int discards(struct trial *t, struct img_error *err)
{
    int ret = discard(t, 0, 18 * KIB, err);
    if (!ret)
        ret = img_flush(t->img, err);
    if (!ret)
        ret = put(t, 2 * KIB, 2 * KIB, 15, err); /* may take what has become free */
    if (!ret)
        ret = discard(t, 64 * KIB, 36 * KIB, err);
    return ret < 0 ? ret : img_flush(t->img, err);
}

/* The same place again and again. */
static int overwrites(struct trial *t, struct img_error *err)
{
    int ret = put(t, 8 * KIB, 4 * KIB, 16, err);
    if (!ret)
        ret = discard(t, 8 * KIB, 3 * KIB, err);
    if (!ret)
        ret = put(t, 9 * KIB, 1 * KIB, 17, err);
    if (!ret)
        ret = zero(t, 8 * KIB, 2 * KIB, IMG_ZERO_UNMAP, err);
    if (!ret)
        ret = img_flush(t->img, err);
    if (!ret)
        ret = put(t, 8 * KIB, 4 * KIB, 18, err);
    return ret < 0 ? ret : img_flush(t->img, err);
}

static const struct change changes[] = {
    {"writes", plain, writes, GUEST, NULL},
    {"writes, snapshot", with_snapshot, writes, GUEST, NULL},
    {"writes, compressed", compressed_alone, writes, GUEST, NULL},
    {"writes, compressed, snapshot", compressed, writes, GUEST, NULL},
    {"writes, extended L2", subclusters, writes, GUEST, NULL},
    {"writes, data file", external, writes, GUEST | DATA_FILE, NULL},
    {"writes, bitmaps", bitmaps, writes, GUEST, NULL},
    {"writes, lazy refcounts", lazy, writes, GUEST, NULL},
    {"zeroes", plain, zeroes, GUEST, NULL},
    {"zeroes, snapshot", with_snapshot, zeroes, GUEST, NULL},
    {"zeroes, compressed, snapshot", compressed, zeroes, GUEST, NULL},
    {"zeroes, extended L2", subclusters, zeroes, GUEST, NULL},
    {"zeroes, data file", external, zeroes, GUEST | DATA_FILE, NULL},
    {"discards", plain, discards, GUEST, NULL},
    {"discards, compressed", compressed_alone, discards, GUEST, NULL},
    {"discards, extended L2", subclusters, discards, GUEST, NULL},
    {"discards, data file", external, discards, GUEST | DATA_FILE, NULL},
    {"discards, bitmaps", bitmaps, discards, GUEST, NULL},
    {"overwrites", plain, overwrites, GUEST, NULL},
    {"overwrites, snapshot", with_snapshot, overwrites, GUEST, NULL},
    {"overwrites, bitmaps", bitmaps, overwrites, GUEST, NULL},
};

static void guest_writes(void **state)
{
    (void)state;
    every_fault(changes, sizeof changes / sizeof *changes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
