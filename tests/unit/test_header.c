/* The header: every field at its limit and one past it. */
#include "make_qcow2.h"

/* An image of 4 KiB clusters and a disk of 4 MiB: two L1 entries. */
static struct image small(void)
{
    return make_qcow2(3, 12, 4 << 20, 0);
}

static void minimal_image_opens(void **state)
{
    (void)state;
    for (unsigned bits = MIN_CLUSTER_BITS; bits <= MAX_CLUSTER_BITS; bits++) {
        for (unsigned version = 2; version <= 3; version++) {
            struct image m = make_qcow2(version, bits, 64 << 10, 0);
            struct img *img = image_open(&m, 0);
            assert_int_equal(img_size(img), 64 << 10);
            assert_string_equal(img_layer_format(img, 0), "qcow2");
            img_close(img);
            image_free(&m);
        }
    }
}

/* One field set to one value: the message that follows, or NULL where it must open. */
struct field_case {
    size_t offset;
    unsigned width;
    uint64_t value;
    int code;
    const char *message;
};

#define AT32(field, value, code, message)                                                          \
    {                                                                                              \
        offsetof(struct ondisk_header, field), 4, value, code, message                             \
    }
#define AT64(field, value, code, message)                                                          \
    {                                                                                              \
        offsetof(struct ondisk_header, field), 8, value, code, message                             \
    }

static const struct field_case cases[] = {
    AT32(magic, 0x514649fa, EINVAL, "Image is not in qcow2 format (magic 0x514649fa)"),
    AT32(version, 0, ENOTSUP, "Unsupported qcow2 version 0"),
    AT32(version, 1, ENOTSUP, "Unsupported qcow2 version 1"),
    AT32(version, 4, ENOTSUP, "Unsupported qcow2 version 4"),
    AT32(cluster_bits, 8, EINVAL, "Unsupported cluster size: 2^8"),
    AT32(cluster_bits, 22, EINVAL, "Unsupported cluster size: 2^22"),
    AT32(cluster_bits, 0xffffffff, EINVAL, "Unsupported cluster size: 2^4294967295"),
    AT32(header_length, 96, EINVAL, "qcow2 header too short (header_length 96, at least 104)"),
    AT32(header_length, 104, 0, NULL),
    AT32(header_length, 4096, 0, NULL),
    AT32(header_length, 4104, EINVAL,
         "qcow2 header exceeds cluster size (header_length 4104, cluster size 4096)"),
    AT32(header_length, 108, EINVAL, "qcow2 header_length 108 is not a multiple of 8"),
    AT64(backing_file_offset, 104, EINVAL,
         "Invalid backing file offset (0x68 is inside the header)"),
    AT64(backing_file_offset, 112, 0, NULL),
    AT64(backing_file_offset, 4096, 0, NULL),
    AT64(backing_file_offset, 4097, EINVAL,
         "Invalid backing file offset (0x1001 is outside the first cluster)"),
    AT64(backing_file_offset, UINT64_MAX, EINVAL,
         "Invalid backing file offset (0xffffffffffffffff is outside the first cluster)"),
    AT32(refcount_order, 0, 0, NULL),
    AT32(refcount_order, 6, 0, NULL),
    AT32(refcount_order, 7, EINVAL,
         "Reference count entry width too large; may not exceed 64 bits (refcount_order 7)"),
    AT32(crypt_method, 3, ENOTSUP, "Unsupported encryption method 3 (crypt_method)"),
    AT32(crypt_method, 2, EINVAL, "Missing CRYPTO header for crypt method 2"),
    AT32(crypt_method, 1, ENOTSUP, "Parameter 'encrypt.key-secret' is required for cipher"),
    AT32(refcount_table_clusters, 0, EINVAL,
         "Image does not contain a reference count table (refcount_table_clusters 0)"),
    AT32(refcount_table_clusters, 2049, EFBIG,
         "Reference count table too large (refcount_table_clusters 2049, at most 2048)"),
    AT32(refcount_table_clusters, 2048, EINVAL,
         "Reference count table lies outside the file (offset 0x1000, 8388608 bytes, the file ends "
         "at 0x5000)"),
    AT64(refcount_table_offset, 0x1200, EINVAL,
         "Reference count table offset invalid (offset 0x1200)"),
    AT64(refcount_table_offset, 0x5000, EINVAL,
         "Reference count table lies outside the file (offset 0x5000, 4096 bytes, the file ends at "
         "0x5000)"),
    AT64(refcount_table_offset, 0xfffffffffffff000, EINVAL,
         "Reference count table offset invalid (offset 0xfffffffffffff000)"),
    AT32(l1_size, 1, EINVAL, "L1 table is too small (l1_size 1, size 4194304 needs 2)"),
    AT32(l1_size, 3, 0, NULL),
    AT32(l1_size, 1024, EINVAL,
         "Active L1 table lies outside the file (offset 0x4000, 8192 bytes, the file ends at "
         "0x5000)"),
    AT32(l1_size, 4194305, EFBIG, "Active L1 table too large (l1_size 4194305, at most 4194304)"),
    AT64(l1_table_offset, 0x3008, EINVAL, "Active L1 table offset invalid (offset 0x3008)"),
    AT64(l1_table_offset, 0x8000000000000000, EINVAL,
         "Active L1 table offset invalid (offset 0x8000000000000000)"),
    AT64(
        l1_table_offset, 0x7ffffffffffff000, EINVAL,
        "Active L1 table lies outside the file (offset 0x7ffffffffffff000, 16 bytes, the file ends "
        "at 0x5000)"),
    AT64(size, 0, 0, NULL),
    AT64(size, 4194305, EINVAL, "L1 table is too small (l1_size 2, size 4194305 needs 3)"),
    AT64(size, UINT64_MAX, EFBIG, "Image is too big (size 18446744073709551615)"),
    AT32(nb_snapshots, 65537, EFBIG,
         "Snapshot table too large (nb_snapshots 65537, at most 65536)"),
    AT32(nb_snapshots, 65536, EINVAL,
         "Snapshot table lies outside the file (offset 0, 2621440 bytes, the file ends at 0x5000)"),
    AT64(snapshots_offset, 0x808, EINVAL, "Snapshot table offset invalid (offset 0x808)"),
    AT64(compatible_features, UINT64_MAX, 0, NULL),
    AT64(autoclear_features, AUTOCLEAR_DATA_FILE_RAW, EINVAL,
         "data-file-raw requires a data file (autoclear bit 1)"),
    AT64(incompatible_features, INCOMPAT_DIRTY | INCOMPAT_CORRUPT, 0, NULL),
    AT64(incompatible_features, INCOMPAT_EXTENDED_L2, EINVAL, "Unsupported subcluster size: 128"),
    AT64(incompatible_features, INCOMPAT_COMPRESSION, EINVAL,
         "qcow2: Compression type incompatible feature bit must not be set (compression type 0)"),
    AT64(incompatible_features, INCOMPAT_DATA_FILE, EINVAL,
         "'data-file' is required for this image"),
};

static void run_case(const struct field_case *c)
{
    struct image m = small();
    if (c->offset == offsetof(struct ondisk_header, l1_size) && c->value == 1024) {
        /* one L1 table more than there is room for */
        SET64(&m, l1_table_offset, m.l2);
    }
    if (c->width == 4)
        store_be32(m.data + c->offset, (uint32_t)c->value);
    else
        store_be64(m.data + c->offset, c->value);
    if (c->message)
        expect_open(&m, 0, c->code, c->message);
    else
        expect_opens(&m, 0);
    image_free(&m);
}

static void each_field_at_its_limits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i]);
}

static void short_files(void **state)
{
    (void)state;
    static const struct {
        size_t size;
        unsigned version;
        const char *message;
    } files[] = {
        {0, 3, "Image is not in qcow2 format (magic 0)"},
        {3, 3, "Image is not in qcow2 format (magic 0x51464900)"},
        {4, 3, "qcow2 header is cut short: the file has 4 bytes, at least 72 are needed"},
        {71, 2, "qcow2 header is cut short: the file has 71 bytes, at least 72 are needed"},
        {103, 3,
         "qcow2 version 3 header is cut short: the file has 103 bytes, at least 104 are needed"},
        {104, 3,
         "Reference count table lies outside the file (offset 0x1000, 4096 bytes, the file ends at "
         "0x68)"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct image m = make_qcow2(files[i].version, 12, 4 << 20, 0);
        image_resize(&m, files[i].size);
        expect_open(&m, 0, EINVAL, files[i].message);
        image_free(&m);
    }
}

/* A cut anywhere gives an error or an image, and the header's tables are never read past the end.
 */
static void every_truncation_is_survived(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 9, 64 << 10, 0);
    size_t opened = 0;
    while (m.size) {
        struct img_error err = IMG_ERROR_INIT;
        struct img *img;
        image_resize(&m, m.size - 1);
        int ret = img_open_memory(&img, m.data, m.size, "qcow2", 0, &err);
        assert_int_equal(ret, -err.code);
        if (!ret) {
            opened++;
            img_close(img);
        }
        img_error_clear(&err);
    }
    assert_int_equal(opened, 512 + (512 - 16)); /* what follows the last L1 entry may be missing */
    image_free(&m);
}

static void compression_types(void **state)
{
    (void)state;
    struct image m = small();
    *HEADER(&m, compression_type) = 1;
    expect_open(
        &m, 0, EINVAL,
        "qcow2: Compression type incompatible feature bit must be set (compression type 1)");
    SET64(&m, incompatible_features, INCOMPAT_COMPRESSION);
    expect_opens(&m, 0);
    *HEADER(&m, compression_type) = 2;
    expect_open(&m, 0, ENOTSUP, "qcow2: unknown compression type: 2");
    /* a header of 104 bytes has no such field */
    SET32(&m, header_length, 104);
    SET64(&m, incompatible_features, 0);
    store_be64(m.data + 104, 0);
    expect_opens(&m, 0);
    image_free(&m);
}

static void tables_on_top_of_each_other(void **state)
{
    (void)state;
    struct image m = small();
    SET64(&m, l1_table_offset, 0);
    expect_open(&m, 0, EINVAL, "The active L1 table at 0 overlaps the header");
    SET64(&m, l1_table_offset, m.reftable);
    expect_open(&m, 0, EINVAL, "The refcount table at 0x1000 overlaps the active L1 table");
    SET64(&m, l1_table_offset, m.l1);
    SET64(&m, snapshots_offset, m.l1);
    expect_opens(&m, 0); /* no snapshots: no table */
    SET32(&m, nb_snapshots, 1);
    expect_open(&m, 0, EINVAL, "The snapshot table at 0x3000 overlaps the active L1 table");
    image_free(&m);
}

static void unknown_features_are_named(void **state)
{
    (void)state;
    struct image m = small();
    SET64(&m, incompatible_features, 1ull << 5 | 1ull << 63);
    expect_open(&m, 0, ENOTSUP,
                "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000020");
    uint8_t names[3 * 48] = {0};
    names[0] = 1; /* a compatible feature's name is not this one's */
    names[1] = 5;
    strcpy((char *)names + 2, "other");
    names[48 + 1] = 5;
    strcpy((char *)names + 50, "shiny new thing");
    names[96 + 1] = 64; /* no such bit */
    strcpy((char *)names + 98, "nowhere");
    image_extend(&m, EXT_FEATURE_NAMES, names, sizeof names);
    expect_open(&m, 0, ENOTSUP,
                "Unsupported qcow2 feature(s): shiny new thing, Unknown incompatible feature: "
                "8000000000000000");
    SET64(&m, incompatible_features, 1ull << 5);
    expect_open(&m, 0, ENOTSUP, "Unsupported qcow2 feature(s): shiny new thing");
    image_free(&m);
}

static void size_is_rounded_down_to_sectors(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 5000, 0);
    struct img *img = image_open(&m, 0);
    assert_int_equal(img_size(img), 4608);
    img_close(img);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(minimal_image_opens),
        cmocka_unit_test(each_field_at_its_limits),
        cmocka_unit_test(short_files),
        cmocka_unit_test(every_truncation_is_survived),
        cmocka_unit_test(compression_types),
        cmocka_unit_test(tables_on_top_of_each_other),
        cmocka_unit_test(unknown_features_are_named),
        cmocka_unit_test(size_is_rounded_down_to_sectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
