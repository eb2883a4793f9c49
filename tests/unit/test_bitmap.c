/* The bitmap directory: each constraint at its limit, and one past it. */
#include "formats/qcow2/qcow2.h"
#include "make_qcow2.h"

#define FIELD(name) offsetof(struct ondisk_bitmap, name)
#define EXT(name)   offsetof(struct ondisk_bitmaps, name)

/* A 4 MiB disk; one bitmap cluster of 4 KiB, 64 KiB a bit, stands for 2 GiB. */
static struct image with_bitmap(size_t *directory)
{
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    *directory = image_add_bitmap(&m, "bitmap");
    return m;
}

static void store(uint8_t *p, unsigned width, uint64_t value)
{
    if (width == 1)
        *p = (uint8_t)value;
    else if (width == 2)
        store_be16(p, (uint16_t)value);
    else if (width == 4)
        store_be32(p, (uint32_t)value);
    else
        store_be64(p, value);
}

static void check(struct image *m, const char *message)
{
    if (message)
        expect_open(m, 0, EINVAL, message);
    else
        expect_opens(m, 0);
    image_free(m);
}

/* One field of the directory's entry, or of the extension, set to one value. */
static void entry_with(size_t field, unsigned width, uint64_t value, const char *message)
{
    size_t at;
    struct image m = with_bitmap(&at);
    store(m.data + at + field, width, value);
    check(&m, message);
}

static void extension_with(size_t field, unsigned width, uint64_t value, const char *message)
{
    size_t at;
    struct image m = with_bitmap(&at);
    store(m.data + 112 + 8 + field, width, value);
    check(&m, message);
}

static void what_is_read(void **state)
{
    (void)state;
    size_t at;
    struct image m = with_bitmap(&at);
    struct img *img = image_open(&m, 0);
    struct img_info *info;
    assert_int_equal(img_describe(img, 0, &info, NULL), 0);
    assert_int_equal(info->qcow2.bitmap_count, 1);
    assert_string_equal(info->qcow2.bitmaps[0].name, "bitmap");
    assert_int_equal(info->qcow2.bitmaps[0].flags, IMG_BITMAP_AUTO);
    assert_int_equal(info->qcow2.bitmaps[0].granularity, 65536);
    img_info_free(info);
    img_close(img);
    /* without the autoclear bit, another program has written since: they say nothing any more */
    SET64(&m, autoclear_features, 0);
    store_be32(m.data + at + FIELD(flags), 77);
    img = image_open(&m, 0);
    assert_int_equal(((struct qcow2 *)img->layers[0]->state)->bitmap_count, 0);
    img_close(img);
    image_free(&m);
}

static void the_extension(void **state)
{
    (void)state;
    extension_with(EXT(reserved), 4, 1, "bitmaps_ext: Reserved field is not zero (0x1)");
    extension_with(EXT(nb_bitmaps), 4, 0,
                   "found bitmaps extension with zero bitmaps (nb_bitmaps 0)");
    extension_with(EXT(nb_bitmaps), 4, 65536,
                   "bitmaps_ext: Image has 65536 bitmaps, exceeding the QEMU supported maximum of "
                   "65535");
    extension_with(EXT(nb_bitmaps), 4, 65535,
                   "Broken bitmap directory: 65535 bitmaps do not fit in 32 bytes");
    extension_with(EXT(nb_bitmaps), 4, 2,
                   "Broken bitmap directory: 2 bitmaps do not fit in 32 bytes");
    extension_with(EXT(directory_offset), 8, 0x6008,
                   "bitmaps_ext: invalid bitmap directory offset (0x6008)");
    extension_with(EXT(directory_size), 8, 67107841,
                   "bitmaps_ext: bitmap directory size (67107841) exceeds the maximum supported "
                   "size (67107840)");
    extension_with(EXT(directory_size), 8, 67107840,
                   "bitmaps_ext: bitmap directory lies outside the file (offset 0x6000, 67107840 "
                   "bytes, the file ends at 0x7000)");
    extension_with(EXT(directory_offset), 8, 0x7ffffffffffff000,
                   "bitmaps_ext: bitmap directory lies outside the file (offset "
                   "0x7ffffffffffff000, 32 bytes, the file ends at 0x7000)");
    extension_with(EXT(directory_offset), 8, 0x3000,
                   "The bitmap directory at 0x3000 overlaps the active L1 table");
}

static void counts_that_differ(void **state)
{
    (void)state;
    size_t at;
    struct image m = with_bitmap(&at);
    memcpy(m.data + at + 32, m.data + at, 32);
    m.data[at + 32 + 24] = 'c'; /* another name */
    store_be64(m.data + 120 + EXT(directory_size), 64);
    expect_open(&m, 0, EINVAL,
                "More bitmaps found than specified in header extension (nb_bitmaps 1)");
    store_be32(m.data + 120 + EXT(nb_bitmaps), 2);
    expect_opens(&m, 0);
    m.data[at + 32 + 24] = 'b';
    expect_open(&m, 0, EINVAL, "Bitmap already exists: bitmap");
    image_free(&m);
}

/* A directory with room for two, the first of which takes it all. */
static void less_than_said(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    image_add_bitmap(&m, "a name of forty bytes, which is forty...");
    store_be32(m.data + 120 + EXT(nb_bitmaps), 2);
    check(&m, "Less bitmaps found than specified in header extension (1, nb_bitmaps 2)");
}

static void names(void **state)
{
    (void)state;
    entry_with(FIELD(name_size), 2, 1024, "Bitmap name too long (name_size 1024, at most 1023)");
    entry_with(FIELD(name_size), 2, 1023,
               "Broken bitmap directory: 1023 bytes at 0x6018 reach past its end at 0x6020");
    entry_with(FIELD(extra_data_size), 4, 8,
               "Bitmap extra data is not supported (extra_data_size 8)");
}

static void constraints(void **state)
{
    (void)state;
    entry_with(FIELD(table_size), 4, 0,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_size: 0)");
    entry_with(FIELD(table_size), 4, 0x8000001,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_size: 0x8000001)");
    entry_with(FIELD(table_size), 4, 131073, /* of 4 KiB: past 512 MiB */
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_size (too many "
               "clusters): 0x20001)");
    entry_with(FIELD(table_size), 4, 131072,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_offset: 0x5000)");
    entry_with(FIELD(table_offset), 8, 0,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_offset: 0)");
    entry_with(FIELD(table_offset), 8, 0x5200,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_offset: 0x5200)");
    entry_with(FIELD(table_offset), 8, 0x7000,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_offset: 0x7000)");
    entry_with(FIELD(table_offset), 8, 0x3000,
               "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_offset (inside "
               "another table): 0x3000)");
    entry_with(FIELD(flags), 4, 3, NULL);
    entry_with(FIELD(flags), 4, 4, "Bitmap 'bitmap' doesn't satisfy the constraints (flags: 0x4)");
    entry_with(FIELD(type), 1, 0, "Bitmap 'bitmap' doesn't satisfy the constraints (type: 0)");
    entry_with(FIELD(type), 1, 2, "Bitmap 'bitmap' doesn't satisfy the constraints (type: 0x2)");
    entry_with(FIELD(granularity_bits), 1, 8,
               "Bitmap 'bitmap' doesn't satisfy the constraints (granularity_bits: 0x8)");
    entry_with(FIELD(granularity_bits), 1, 9, NULL); /* 2^15 bits of 512 bytes: 16 MiB */
    entry_with(FIELD(granularity_bits), 1, 31, NULL);
    entry_with(FIELD(granularity_bits), 1, 32,
               "Bitmap 'bitmap' doesn't satisfy the constraints (granularity_bits: 0x20)");
}

static void too_small_for_the_disk(void **state)
{
    (void)state;
    size_t at;
    struct image m = make_qcow2(3, 12, 16 << 20, 0);
    at = image_add_bitmap(&m, "bitmap");
    m.data[at + FIELD(granularity_bits)] = 9;
    expect_opens(&m, 0); /* exactly */
    image_free(&m);
    m = make_qcow2(3, 12, (16 << 20) + 512, 0);
    at = image_add_bitmap(&m, "bitmap");
    m.data[at + FIELD(granularity_bits)] = 9;
    expect_open(&m, 0, EINVAL,
                "Bitmap 'bitmap' doesn't satisfy the constraints (bitmap_table_size (too small for "
                "the disk): 0x1)");
    store_be32(m.data + at + FIELD(flags), IMG_BITMAP_IN_USE); /* stale: QEMU lets it be */
    expect_opens(&m, 0);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read),
        cmocka_unit_test(the_extension),
        cmocka_unit_test(counts_that_differ),
        cmocka_unit_test(less_than_said),
        cmocka_unit_test(names),
        cmocka_unit_test(constraints),
        cmocka_unit_test(too_small_for_the_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
