/*
 * The n-th read of the host fails, for every n until all goes well: opening, describing, counting
 * tables, mapping, reading and checking images that have everything. What must then be so, see
 * fault_scene.h.
 */
#include "build_image.h"
#include "fault_scene.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- images ------------------------------------------------------------------------------- */

static void test_snapshots_bitmaps_and_all_kinds_of_clusters(void **state)
{
    (void)state;
    static const struct snapshot_spec snapshots[] = {{"1", "first", 24, 5 << 20},
                                                     {"2", "second", 16, 5 << 20}};
    struct image m = make_qcow2(3, 12, 5 << 20, 0);
    static const struct ondisk_feature_name feature = {0, 0, "dirty bit"};
    image_extend(&m, EXT_FEATURE_NAMES, &feature, sizeof feature);
    store_be64(m.data + m.l1, m.l2); /* shared with the snapshots: not COPIED */
    for (unsigned i = 0; i < 3; i++) /* a run, then a cluster elsewhere */
        image_set_entry(&m, i, image_add_filled(&m, i), 0);
    image_add_compressed(&m, 4);
    image_set_entry(&m, 3, image_add_filled(&m, 3), 0);
    image_set_entry(&m, 7, ENTRY_ZERO, 0);
    image_set_entry(&m, 8, image_add_filled(&m, 8) | ENTRY_ZERO, 0);
    image_set_entry(&m, 511, image_add_filled(&m, 9), 0);
    image_add_l2(&m, 1, 0);
    image_set_entry(&m, 0, image_add_filled(&m, 10), 0);
    image_set_entry(&m, 1, ENTRY_ZERO, 0);
    image_add_l2(&m, 2, 0);
    image_set_entry(&m, 5, image_add_filled(&m, 11), 0);
    image_add_compressed(&m, 6);
    size_t table = image_add_snapshots(&m, snapshots, 2), l1 = image_grow(&m, 1);
    memcpy(m.data + l1, m.data + m.l1, m.cluster); /* one of its own for the second */
    store_be64(m.data + table + 72, l1);
    image_add_bitmap(&m, "changed");
    image_settle_refcounts(&m);
    struct scene s = scene_new("everything", m);
    scene_try(&s);
}

static void test_extended_entries(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 14, 1 << 20, INCOMPAT_EXTENDED_L2);
    image_set_entry(&m, 0, image_add_filled(&m, 1) | ENTRY_COPIED, 0xffffffffu);
    image_set_entry(&m, 1, image_add_filled(&m, 2) | ENTRY_COPIED, 0xffffffffu);
    image_set_entry(&m, 2, image_add_filled(&m, 3) | ENTRY_COPIED, 0x00ff0f00ull << 32 | 0xf00fu);
    image_set_entry(&m, 3, 0, 0xffff0000ull << 32);
    image_add_compressed(&m, 5);
    image_settle_refcounts(&m);
    struct scene s = scene_new("extended L2", m);
    scene_try(&s);
}

/* L2 tables are read in pieces of 64 KiB: with clusters of 128 KiB, two make a table. */
static void test_large_clusters(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 17, 1200 << 20, 0);
    image_set_entry(&m, 0, image_add_filled(&m, 1) | ENTRY_COPIED, 0);
    image_set_entry(&m, 8191, image_add_filled(&m, 2) | ENTRY_COPIED, 0);
    image_set_entry(&m, 8192, image_add_filled(&m, 3) | ENTRY_COPIED, 0);
    image_set_entry(&m, 9000, image_add_filled(&m, 4) | ENTRY_COPIED, 0);
    image_settle_refcounts(&m);
    struct scene s = scene_new("large clusters", m);
    scene_try(&s);
}

static void test_luks_header(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    size_t at = image_grow(&m, 1);
    struct ondisk_luks luks = {.magic = {'L', 'U', 'K', 'S', 0xba, 0xbe},
                               .cipher_name = "aes",
                               .cipher_mode = "xts-plain64",
                               .hash_spec = "sha256",
                               .uuid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"};
    store_be16(luks.version, 1);
    store_be32(luks.key_bytes, 64);
    memcpy(m.data + at, &luks, sizeof luks);
    struct ondisk_crypto ext;
    store_be64(ext.offset, at);
    store_be64(ext.length, m.cluster);
    image_extend(&m, EXT_CRYPTO, &ext, sizeof ext);
    SET32(&m, crypt_method, CRYPT_LUKS);
    image_set_entry(&m, 0, image_add_filled(&m, 1) | ENTRY_COPIED, 0);
    image_settle_refcounts(&m);
    struct scene s = scene_new("LUKS", m);
    s.flags |= IMG_OPEN_NO_DATA;
    s.steps[MAP] = s.steps[READ] = false;
    scene_try(&s);
}

static void test_overlay_and_base(void **state)
{
    (void)state;
    struct image top = make_qcow2(3, 12, 1 << 20, 0), base = make_qcow2(2, 13, 900 << 10, 0);
    image_set_backing(&top, "base.qcow2");
    image_set_entry(&top, 1, image_add_filled(&top, 1) | ENTRY_COPIED, 0);
    image_set_entry(&top, 4, ENTRY_ZERO, 0);
    image_set_entry(&base, 0, image_add_filled(&base, 2) | ENTRY_COPIED, 0);
    image_set_entry(&base, 2, image_add_filled(&base, 3) | ENTRY_COPIED, 0);
    image_add_compressed(&base, 5);
    image_settle_refcounts(&top);
    struct scene s = scene_new("overlay", top);
    s.layers = 2;
    s.files[1] = base;
    s.file_names[1] = "base.qcow2";
    scene_try(&s);
}

static void test_external_data_file(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 64 << 10, INCOMPAT_DATA_FILE);
    image_extend(&m, EXT_DATA_FILE, "disk.raw", 8);
    image_set_entry(&m, 0, ENTRY_COPIED, 0);
    image_set_entry(&m, 1, 4096 | ENTRY_COPIED, 0);
    image_set_entry(&m, 3, 3 * 4096 | ENTRY_COPIED, 0);
    image_settle_refcounts(&m);
    struct scene s = scene_new("data file", m);
    s.files[1] = (struct image){.data = malloc(64 << 10), .size = 64 << 10};
    assert_non_null(s.files[1].data);
    fill_bytes(s.files[1].data, s.files[1].size, 5);
    s.file_names[1] = "disk.raw";
    s.data_file = true;
    scene_try(&s);
}

/* Data clusters that were only reserved: map asks the host where its holes are. */
static void test_preallocated_metadata(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    for (unsigned i = 0; i < 100; i++) {
        bool written = i % 40 == 7;
        size_t at = written ? image_add_filled(&m, i) : image_grow(&m, 1);
        image_set_entry(&m, i, at | ENTRY_COPIED, 0);
    }
    image_settle_refcounts(&m);
    struct scene s = scene_new("preallocated", m);
    s.steps[MAP] = false; /* without refcounts it calls all data data, which is right and differs */
    scene_try(&s);
}

static int count_holes(void *opaque, const struct img_extent *e)
{
    *(unsigned *)opaque += e->kind == IMG_EXTENT_DATA && e->reads_zero;
    return 0;
}

/* That the refcounts could not be read is not remembered: the next map finds the holes. */
static void test_refcounts_are_asked_for_again(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    for (unsigned i = 0; i < 100; i++)
        image_set_entry(&m, i, image_grow(&m, 1) | ENTRY_COPIED, 0);
    image_settle_refcounts(&m);
    struct faults faults = {0};
    struct layer *layer = NULL;
    struct file *f = faulty_open(&faults, "top.qcow2", m.data, m.size);
    assert_int_equal(layer_open_file(&layer, f, "qcow2", 0, NULL), 0);
    struct img img = {.layers = &layer, .depth = 1};
    unsigned before = 0, after = 0;
    faults_arm(&faults, FAULT_ONCE, 1);
    assert_int_equal(img_map(&img, 0, UINT64_MAX, count_holes, &before, NULL), 0);
    assert_true(faults.happened);
    faults_heal(&faults);
    assert_int_equal(img_map(&img, 0, UINT64_MAX, count_holes, &after, NULL), 0);
    assert_int_equal(before, 0);
    assert_true(after > 0);
    layer_close(layer);
    image_free(&m);
}

static void test_raw(void **state)
{
    (void)state;
    struct image m = {.data = calloc(1, 100000), .size = 100000};
    assert_non_null(m.data);
    fill_bytes(m.data + 8192, 20000, 1);
    fill_bytes(m.data + 90000, 10000, 2);
    struct scene s = scene_new("raw", m);
    s.file_names[0] = "disk.raw";
    s.steps[TABLES] = s.steps[CHECK] = false;
    scene_try(&s);
}

/* ---- short reads of a file ---------------------------------------------------------------- */

static long interrupted; /* every so many calls do less than they were asked for; 0: none */
static long host_reads, host_short;

/* Between the library and the C library. A read may be interrupted, or end early, anywhere. */
ssize_t pread(int fd, void *buf, size_t count, off_t offset)
{
    host_reads++;
    if (interrupted && host_reads % interrupted == 0) {
        host_short++;
        if (host_short % 3 == 0) {
            errno = EINTR;
            return -1;
        }
        count = host_short % 3 == 1 ? (count + 1) / 2 : 1;
    }
    return syscall(SYS_pread64, fd, buf, count, offset);
}

/* Only the end of the file ends a read: what a signal or a network file system cuts short goes on.
 */
static void test_short_reads_are_continued(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    for (unsigned i = 0; i < 4; i++)
        image_set_entry(&m, i, image_add_filled(&m, i) | ENTRY_COPIED, 0);
    image_add_compressed(&m, 4);
    size_t end = image_add_filled(&m, 9);
    image_set_entry(&m, 6, end | ENTRY_COPIED, 0);
    image_resize(&m, m.size - 1000); /* this is by design: the last cluster may be cut short */
    image_write(&m, "short.qcow2");
    size_t size = 7 * m.cluster;
    uint8_t *wanted = malloc(size), *got = malloc(size);
    assert_true(wanted && got);
    struct img_error err = IMG_ERROR_INIT;
    for (interrupted = 0; interrupted <= 3; interrupted++) {
        struct img *img = NULL;
        host_reads = host_short = 0;
        assert_int_equal(img_open(&img, test_path("short.qcow2"), NULL, &err), 0);
        memset(got, 0xcc, size);
        assert_int_equal(img_read(img, interrupted ? got : wanted, size, 0, &err), 0);
        img_close(img);
        assert_true(host_reads > 4);
        assert_true(!interrupted || host_short > 2);
        if (interrupted)
            assert_memory_equal(got, wanted, size);
    }
    assert_memory_equal(wanted + 6 * m.cluster, m.data + end, m.cluster - 1000);
    for (size_t i = size - 1000; i < size; i++)
        assert_int_equal(wanted[i], 0);
    free(wanted);
    free(got);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snapshots_bitmaps_and_all_kinds_of_clusters),
        cmocka_unit_test(test_extended_entries),
        cmocka_unit_test(test_large_clusters),
        cmocka_unit_test(test_luks_header),
        cmocka_unit_test(test_overlay_and_base),
        cmocka_unit_test(test_external_data_file),
        cmocka_unit_test(test_preallocated_metadata),
        cmocka_unit_test(test_refcounts_are_asked_for_again),
        cmocka_unit_test(test_raw),
        cmocka_unit_test(test_short_reads_are_continued),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
