/*
 * Whatever fails while an image's metadata is changed, it is the old image or the new one
 * afterwards. A change is a line in CHANGES: an image to begin with and a function that changes it.
 */
#include "change_faults.h"

/* ---- images to begin with ------------------------------------------------------------------ */

enum { CLUSTER_BITS = 9, L2_ENTRIES = (1 << CLUSTER_BITS) / 8 };

/* All clusters in use, none shared; the refcount block is nearly full. */
static struct image full(void)
{
    struct image m = make_qcow2(3, CLUSTER_BITS, 120 << 10, 0);
    for (unsigned table = 0; table < 4; table++) {
        if (table)
            image_add_l2(&m, table, ENTRY_COPIED);
        for (unsigned i = 0; i < L2_ENTRIES && table * L2_ENTRIES + i < 240; i++)
            image_set_entry(&m, i, image_add_filled(&m, table * 64 + i) | ENTRY_COPIED, 0);
    }
    image_settle_refcounts(&m);
    return m;
}

/* Clusters of every kind, and two snapshots of which the second has something else. */
static struct image shared(void)
{
    static const struct snapshot_spec snapshots[] = {{"1", "first", 40, 80 << 10},
                                                     {"2", "second", 16, 70 << 10}};
    struct image m = make_qcow2(3, CLUSTER_BITS, 80 << 10, 0);
    store_be64(m.data + m.l1, m.l2);
    image_set_entry(&m, 0, image_add_filled(&m, 1), 0);
    image_set_entry(&m, 1, ENTRY_ZERO, 0);
    image_set_entry(&m, 2, image_add_filled(&m, 2) | ENTRY_ZERO, 0);
    image_add_compressed(&m, 4);
    image_add_l2(&m, 2, 0);
    image_set_entry(&m, 7, image_add_filled(&m, 3), 0);
    size_t table = image_add_snapshots(&m, snapshots, 2), l1 = image_grow(&m, 1);
    memcpy(m.data + l1, m.data + m.l1, m.cluster);
    store_be64(m.data + table + align_up(sizeof(struct ondisk_snapshot) + 40 + 1 + 5, 8), l1);
    m.l2 = image_grow(&m, 1);
    store_be64(m.data + l1 + 8, m.l2);
    /* flags of a snapshot's own tables mean nothing, and count again when it is applied */
    image_set_entry(&m, 5, image_add_filled(&m, 4) | ENTRY_COPIED, 0);
    image_add_compressed(&m, 8);
    image_settle_refcounts(&m);
    return m;
}

static int take_one(struct img *img, struct img_error *err)
{
    uint8_t bytes[3000];
    fill_bytes(bytes, sizeof bytes, 1);
    int ret = img_write(img, bytes, sizeof bytes, 5000, err);
    return ret < 0 ? ret : img_snapshot_create(img, "new", err);
}

static struct image with_one(void)
{
    return created(40 << 10, "cluster_size=512", take_one);
}

/* Two bitmaps, the first with bits in several places. */
static int add_bitmaps(struct img *img, struct img_error *err)
{
    uint8_t bytes[3000];
    fill_bytes(bytes, sizeof bytes, 2);
    int ret = img_bitmap_add(img, "bits", 512, err);
    if (!ret)
        ret = img_write(img, bytes, sizeof bytes, 5000, err);
    if (!ret)
        ret = img_write(img, bytes, sizeof bytes, 3 << 20, err);
    if (!ret)
        ret = img_flush(img, err);
    return ret < 0 ? ret : img_bitmap_add(img, "other", 4096, err);
}

static struct image with_bitmaps(void)
{
    return created(4 << 20, "cluster_size=512", add_bitmaps);
}

/* Zero clusters that hide space of their own. */
static int write_zeroes(struct img *img, struct img_error *err)
{
    uint8_t bytes[9000];
    fill_bytes(bytes, sizeof bytes, 3);
    int ret = img_write(img, bytes, sizeof bytes, 3000, err);
    if (!ret)
        ret = img_write_zeroes(img, 4000, 5000, 0, err);
    return ret < 0 ? ret : img_write_zeroes(img, 30000, 5000, 0, err);
}

static struct image with_zeroes(void)
{
    return created(60 << 10, "cluster_size=512", write_zeroes);
}

static struct image version_2(void)
{
    return created(60 << 10, "cluster_size=512,compat=0.10", take_one);
}

static int turn_off(struct img *img, struct img_error *err)
{
    return img_bitmap_disable(img, "bits", err);
}

static int add_disabled(struct img *img, struct img_error *err)
{
    int ret = add_bitmaps(img, err);
    return ret < 0 ? ret : turn_off(img, err);
}

static struct image with_disabled(void)
{
    return created(4 << 20, "cluster_size=512", add_disabled);
}

static struct image lazy(void)
{
    return created(60 << 10, "cluster_size=512,lazy_refcounts=on", write_zeroes);
}

static struct image external(void)
{
    char options[500];
    snprintf(options, sizeof options, "cluster_size=512,data_file=%s", test_path("data.raw"));
    return created(60 << 10, options, write_zeroes);
}

static struct image external_raw(void)
{
    char options[500];
    snprintf(options, sizeof options, "cluster_size=512,data_file_raw=on,data_file=%s",
             test_path("data.raw"));
    return created(60 << 10, options, write_zeroes);
}

static struct image over_base(void)
{
    const char *base = test_path("base.raw");
    FILE *f = fopen(base, "wb");
    char options[500];
    assert_non_null(f);
    for (int i = 0; i < 60 << 10; i++)
        fputc(i >> 9 & 255, f);
    assert_int_equal(fclose(f), 0);
    snprintf(options, sizeof options, "cluster_size=512,backing_fmt=raw,backing_file=%s", base);
    return created(40 << 10, options, write_zeroes);
}

/* ---- changes ------------------------------------------------------------------------------- */

static int take_snapshot(struct trial *t, struct img_error *err)
{
    return img_snapshot_create(t->img, "new", err);
}

static int apply_snapshot(struct trial *t, struct img_error *err)
{
    return img_snapshot_apply(t->img, "second", err);
}

static int delete_snapshot(struct trial *t, struct img_error *err)
{
    return img_snapshot_delete(t->img, "second", err);
}

static int delete_new(struct trial *t, struct img_error *err)
{
    return img_snapshot_delete(t->img, "new", err);
}

static int amend(struct trial *t, const char *options, struct img_error *err)
{
    return img_amend(t->img, &(struct img_amend_options){.options = options}, err);
}

static int amend_to_new(struct trial *t, struct img_error *err)
{
    return amend(t, "compat=1.1", err);
}

static int amend_to_old(struct trial *t, struct img_error *err)
{
    return amend(t, "compat=0.10", err);
}

static int amend_lazy(struct trial *t, struct img_error *err)
{
    return amend(t, "lazy_refcounts=on", err);
}

static int amend_eager(struct trial *t, struct img_error *err)
{
    return amend(t, "lazy_refcounts=off", err);
}

static int amend_data_file(struct trial *t, struct img_error *err)
{
    return amend(t, "data_file=some/other.raw", err);
}

static int amend_not_raw(struct trial *t, struct img_error *err)
{
    return amend(t, "data_file_raw=off", err);
}

static int amend_several(struct trial *t, struct img_error *err)
{
    return amend(t, "compat=1.1,lazy_refcounts=on,refcount_bits=32", err);
}

static int amend_wide(struct trial *t, struct img_error *err)
{
    return amend(t, "refcount_bits=64", err);
}

static int amend_narrow(struct trial *t, struct img_error *err)
{
    return amend(t, "refcount_bits=2", err);
}

static int amend_size(struct trial *t, struct img_error *err)
{
    return amend(t, "size=8M", err);
}

static int add_bitmap(struct trial *t, struct img_error *err)
{
    return img_bitmap_add(t->img, "third", 0, err);
}

static int remove_bitmap(struct trial *t, struct img_error *err)
{
    return img_bitmap_remove(t->img, "bits", err);
}

static int clear_bitmap(struct trial *t, struct img_error *err)
{
    return img_bitmap_clear(t->img, "bits", err);
}

static int disable_bitmap(struct trial *t, struct img_error *err)
{
    return img_bitmap_disable(t->img, "bits", err);
}

static int enable_bitmap(struct trial *t, struct img_error *err)
{
    return img_bitmap_enable(t->img, "bits", err);
}

static int merge_bitmap(struct trial *t, struct img_error *err)
{
    return img_bitmap_merge(t->img, "other", NULL, "bits", err);
}

static int several_actions(struct trial *t, struct img_error *err)
{
    static const struct img_bitmap_action actions[] = {
        {.kind = IMG_BITMAP_ADD, .granularity = 1024},
        {.kind = IMG_BITMAP_MERGE, .source_name = "bits"},
        {.kind = IMG_BITMAP_DISABLE},
    };
    return img_bitmap_change(t->img, "third", actions, 3, NULL, err);
}

static int resize(struct img *img, uint64_t size, enum img_preallocation mode,
                  struct img_error *err)
{
    struct img_resize_options o = {.preallocation = mode, .flags = IMG_RESIZE_SHRINK};
    return img_resize(img, size, &o, err);
}

/* A longer L1 table, and an L2 table in which the disk ended within a cluster. */
static int grow_disk(struct trial *t, struct img_error *err)
{
    return resize(t->img, 5 << 20, IMG_PREALLOCATION_OFF, err);
}

static int grow_preallocated(struct trial *t, struct img_error *err)
{
    return resize(t->img, 150 << 10, IMG_PREALLOCATION_FALLOC, err);
}

static int grow_a_little(struct trial *t, struct img_error *err)
{
    return resize(t->img, 70 << 10, IMG_PREALLOCATION_OFF, err);
}

static int shrink_disk(struct trial *t, struct img_error *err)
{
    return resize(t->img, (33 << 10) + 512, IMG_PREALLOCATION_OFF, err);
}

static int name_base(struct trial *t, struct img_error *err)
{
    struct layer *l = t->img->layers[0];
    int ret = l->driver->set_backing(l, "some/base.img", "raw", true, err);
    return ret < 0 ? ret : l->driver->set_backing(l, "some/base.img", "raw", false, err);
}

static int make_empty(struct trial *t, struct img_error *err)
{
    struct layer *l = t->img->layers[0];
    return l->driver->make_empty(l, err);
}

static const struct change changes[] = {
    {"another backing file's name", full, name_base, 0, NULL},
    {"another backing file's name beside bitmaps", with_bitmaps, name_base, 0, NULL},
    {"emptied", full, make_empty, 0, NULL},
    {"emptied beside snapshots", shared, make_empty, 0, NULL},
    {"emptied beside bitmaps", with_bitmaps, make_empty, 0, NULL},
    {"emptied, version 2", version_2, make_empty, 0, NULL},
    {"resize", full, grow_disk, 0, NULL},
    {"resize beside snapshots", shared, grow_disk, 0, NULL},
    {"resize --preallocation", full, grow_preallocated, 0, NULL},
    {"resize --shrink", full, shrink_disk, 0, NULL},
    {"resize --shrink beside snapshots", shared, shrink_disk, 0, NULL},
    {"resize beside bitmaps", with_bitmaps, grow_disk, 0, NULL},
    {"resize --shrink beside bitmaps", with_bitmaps, shrink_disk, 0, NULL},
    {"resize over a backing file", over_base, grow_disk, 0, NULL},
    {"resize, data file", external, grow_a_little, DATA_FILE, NULL},
    {"resize --shrink, data file", external, shrink_disk, DATA_FILE, NULL},
    {"resize, raw data file", external_raw, grow_a_little, DATA_FILE, NULL},
    {"snapshot -c", full, take_snapshot, 0, NULL},
    {"snapshot -c beside others", shared, take_snapshot, 0, NULL},
    {"snapshot -a", shared, apply_snapshot, 0, NULL},
    {"snapshot -d", shared, delete_snapshot, 0, NULL},
    {"snapshot -d of the last one", with_one, delete_new, 0, NULL},
    {"amend -o compat=1.1", version_2, amend_to_new, 0, NULL},
    {"amend -o compat=0.10", with_zeroes, amend_to_old, 0, NULL},
    {"amend -o lazy_refcounts=on", with_zeroes, amend_lazy, 0, NULL},
    {"amend -o lazy_refcounts=off", lazy, amend_eager, 0, NULL},
    {"amend -o data_file", external, amend_data_file, DATA_FILE, NULL},
    {"amend -o data_file_raw=off", external_raw, amend_not_raw, DATA_FILE, NULL},
    {"amend -o three things", version_2, amend_several, 0, NULL},
    {"amend -o refcount_bits=64", full, amend_wide, 0, NULL},
    {"amend -o refcount_bits=2", with_one, amend_narrow, 0, NULL},
    {"amend -o size=8M", with_bitmaps, amend_size, 0, NULL},
    {"amend -o size=8M, full", full, amend_size, 0, NULL},
    {"bitmap --add", with_bitmaps, add_bitmap, 0, NULL},
    {"bitmap --add, the first", full, add_bitmap, 0, NULL},
    {"bitmap --remove", with_bitmaps, remove_bitmap, 0, NULL},
    {"bitmap --clear", with_bitmaps, clear_bitmap, 0, NULL},
    {"bitmap --disable", with_bitmaps, disable_bitmap, 0, NULL},
    {"bitmap --enable", with_disabled, enable_bitmap, 0, NULL},
    {"bitmap --merge", with_bitmaps, merge_bitmap, 0, NULL},
    {"bitmap, three actions", with_bitmaps, several_actions, 0, NULL},
};

static void metadata(void **state)
{
    (void)state;
    every_fault(changes, sizeof changes / sizeof *changes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metadata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
