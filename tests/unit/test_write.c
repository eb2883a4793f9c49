/* Guest writes: edges, refusals, and what is left alone. What QEMU would have done is compared
 * elsewhere (tests/interop/test_random_writes). */
#include "formats/qcow2/qcow2.h"
#include "make_qcow2.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KIB = 1 << 10, MIB = 1 << 20, CLUSTER = 64 * KIB };

static void fail_with(struct img_error *err)
{
    fail_msg("%s", img_error_message(err));
}

static struct img *open_path(const char *path, const char *format, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    struct img_open_options o = {.format = format, .flags = flags};
    if (img_open(&img, path, &o, &err) < 0)
        fail_with(&err);
    return img;
}

/* Creates NAME, or opens it again. */
static struct img *create(const char *name, uint64_t size, const char *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_create_options o = {.format = "qcow2", .size = size, .options = options};
    if (img_create(test_path(name), &o, &err) < 0)
        fail_with(&err);
    return open_path(test_path(name), "qcow2", IMG_OPEN_WRITE);
}

static struct img *reopen(struct img *img, const char *name)
{
    img_close(img);
    return open_path(test_path(name), "qcow2", IMG_OPEN_WRITE);
}

static void put(struct img *img, uint64_t offset, size_t length, int pattern)
{
    struct img_error err = IMG_ERROR_INIT;
    void *buf = malloc(length + 1);
    memset(buf, pattern, length);
    if (img_write(img, buf, length, offset, &err) < 0)
        fail_with(&err);
    free(buf);
}

static void flush(struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    if (img_flush(img, &err) < 0)
        fail_with(&err);
}

static void zero(struct img *img, uint64_t offset, uint64_t length, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    if (img_write_zeroes(img, offset, length, flags, &err) < 0)
        fail_with(&err);
}

static void discard(struct img *img, uint64_t offset, uint64_t length)
{
    struct img_error err = IMG_ERROR_INIT;
    if (img_discard(img, offset, length, &err) < 0)
        fail_with(&err);
}

static void expect_bytes(struct img *img, uint64_t offset, size_t length, int pattern)
{
    struct img_error err = IMG_ERROR_INIT;
    uint8_t *buf = malloc(length + 1);
    if (img_read(img, buf, length, offset, &err) < 0)
        fail_with(&err);
    for (size_t i = 0; i < length; i++)
        if (buf[i] != (uint8_t)pattern)
            fail_msg("byte %" PRIu64 " is %d, not %d", offset + i, buf[i], pattern);
    free(buf);
}

static void expect_mapped(struct img *img, uint64_t length, const char *want)
{
    char *text = map_text(img, 0, length);
    assert_string_equal(text, want);
    free(text);
}

/* Closes IMG; the file NAME is sound and has no leak. */
static void close_sound(struct img *img, const char *name)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check result;
    img_close(img);
    img = open_path(test_path(name), "qcow2", IMG_OPEN_CHECK);
    if (img_check(img, &result, NULL, NULL, &err) < 0)
        fail_with(&err);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    img_close(img);
}

static uint64_t length_of(const char *name)
{
    struct stat st;
    assert_int_equal(stat(test_path(name), &st), 0);
    return (uint64_t)st.st_size;
}

static struct qcow2 *inside(struct img *img)
{
    return img->layers[0]->state;
}

/* ---- what is refused ----------------------------------------------------------------------- */

static void refusals(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    char want[600];
    uint8_t byte = 1;
    img_close(create("refused", MIB, NULL));
    struct img *img = open_path(test_path("refused"), "qcow2", 0);
    snprintf(want, sizeof want, "The image '%s' was not opened for writing", test_path("refused"));
    expect_error(&err, img_write(img, &byte, 1, 0, &err), EINVAL, want);
    expect_error(&err, img_discard(img, 0, MIB, &err), EINVAL, want);
    expect_error(&err, img_flush(img, &err), EINVAL, want);
    img_close(img);

    img = open_path(test_path("refused"), "qcow2", IMG_OPEN_WRITE);
    expect_error(&err, img_write(img, &byte, 1, MIB, &err), EINVAL,
                 "Write of 1 bytes at 1048576 is past the end of the disk (1048576 bytes)");
    expect_error(&err, img_write_zeroes(img, MIB - 1, 2, 0, &err), EINVAL,
                 "Write of 2 bytes at 1048575 is past the end of the disk (1048576 bytes)");
    expect_error(&err, img_discard(img, 512, UINT64_MAX, &err), EINVAL,
                 "Discard of 18446744073709551615 bytes at 512 is past the end of the disk "
                 "(1048576 bytes)");
    put(img, MIB, 0, 1);
    put(img, 0, 0, 1);
    discard(img, 0, 0);
    zero(img, MIB, 0, 0);
    assert_null(inside(img)->writer);
    close_sound(img, "refused");

    img = open_path(test_path("refused"), "qcow2", IMG_OPEN_WRITE | IMG_OPEN_NO_DATA);
    expect_error(&err, img_write(img, &byte, 1, 0, &err), EINVAL,
                 "The image was opened for its metadata only");
    img_close(img);
}

/* Writes COUNT bytes into the file itself. */
static void patch(const char *name, uint64_t offset, const void *bytes, size_t count)
{
    int fd = open(test_path(name), O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, bytes, count, (off_t)offset), count);
    close(fd);
}

static void patch64(const char *name, uint64_t offset, uint64_t value)
{
    uint8_t bytes[8];
    store_be64(bytes, value);
    patch(name, offset, bytes, sizeof bytes);
}

static void expect_write_fails(const char *name, size_t length, const char *what)
{
    struct img_error err = IMG_ERROR_INIT;
    char want[800];
    struct img *img = open_path(test_path(name), "qcow2", IMG_OPEN_WRITE);
    uint8_t *buf = calloc(1, length);
    snprintf(want, sizeof want, "Error while writing offset 0 of '%s': %s", test_path(name), what);
    expect_error(&err, img_write(img, buf, length, 0, &err), EINVAL, want);
    free(buf);
    img_close(img);
}

static void damage(void **state)
{
    (void)state;
    struct img *img = create("damaged", MIB, NULL);
    put(img, 0, CLUSTER, 1);
    flush(img);
    uint64_t l1 = inside(img)->header.l1_offset;
    uint64_t l2 = load_be64(inside(img)->l1) & L1_OFFSET_MASK;
    img_close(img);
    struct img_error err = IMG_ERROR_INIT;
    uint64_t data;
    img = open_path(test_path("damaged"), "qcow2", 0);
    struct extent e;
    assert_int_equal(qcow2_map(img->layers[0], guest(0), 512, MAP_ALLOCATION, &e, &err), 0);
    data = e.host.v;
    img_close(img);

    patch64("damaged", l2, l2 | ENTRY_COPIED); /* the table as data */
    char want[800];
    snprintf(want, sizeof want, "Data cluster lies on metadata: %#" PRIx64 " (guest offset: 0)",
             l2);
    expect_write_fails("damaged", 512, want);
    patch64("damaged", l2, l1 | ENTRY_COPIED);
    snprintf(want, sizeof want, "Data cluster lies on metadata: %#" PRIx64 " (guest offset: 0)",
             l1);
    expect_write_fails("damaged", 512, want);
    patch64("damaged", l2, (1ull << 40) | ENTRY_COPIED);
    expect_write_fails("damaged", 512,
                       "Data cluster outside the file: 0x10000000000 (guest offset: 0)");
    patch64("damaged", l2, data | ENTRY_COPIED | 2);
    snprintf(want, sizeof want, "Reserved bits set in L2 entry: %#" PRIx64 " (guest offset: 0)",
             (uint64_t)(data | ENTRY_COPIED | 2));
    expect_write_fails("damaged", 512, want);
    /* a refcount of 0 */
    patch64("damaged", l2, data | ENTRY_COPIED);
    patch("damaged", 2 * CLUSTER + data / CLUSTER * 2, "\0\0", 2);
    snprintf(want, sizeof want,
             "Error while discarding 65536 bytes at 0 of '%s': The cluster at offset %#" PRIx64
             " is in use, but its refcount is 0",
             test_path("damaged"), data);
    img = open_path(test_path("damaged"), "qcow2", IMG_OPEN_WRITE);
    expect_error(&err, img_discard(img, 0, CLUSTER, &err), EINVAL, want);
    img_close(img);
}

/* ---- chains -------------------------------------------------------------------------------- */

static struct img *create_overlay(const char *name, const char *base, uint64_t base_size,
                                  uint64_t size, const char *options)
{
    uint8_t *data = malloc(base_size);
    memset(data, 0xbb, base_size);
    write_file(test_path(base), data, base_size);
    free(data);
    struct img_error err = IMG_ERROR_INIT;
    struct img_create_options o = {.format = "qcow2",
                                   .size = size,
                                   .backing_file = base,
                                   .backing_format = "raw",
                                   .options = options};
    if (img_create(test_path(name), &o, &err) < 0)
        fail_with(&err);
    return open_path(test_path(name), "qcow2", IMG_OPEN_WRITE);
}

static void over_a_shorter_base(void **state)
{
    (void)state;
    struct img *img = create_overlay("over", "base", 96 * KIB, 200 * KIB, NULL);
    put(img, CLUSTER + 100, 1000, 1); /* in the cluster in which the base ends */
    put(img, 200 * KIB - 7, 7, 2);    /* in the disk's last, which is not whole */
    expect_bytes(img, 0, CLUSTER + 100, 0xbb);
    expect_bytes(img, CLUSTER + 100, 1000, 1);
    expect_bytes(img, CLUSTER + 1100, 96 * KIB - CLUSTER - 1100, 0xbb);
    expect_bytes(img, 96 * KIB, 200 * KIB - 7 - 96 * KIB, 0);
    expect_bytes(img, 200 * KIB - 7, 7, 2);
    img = reopen(img, "over");
    expect_bytes(img, CLUSTER, 100, 0xbb);
    expect_bytes(img, CLUSTER + 100, 1000, 1);
    discard(img, CLUSTER, CLUSTER); /* what the base has must not come back */
    expect_bytes(img, CLUSTER, CLUSTER, 0);
    zero(img, 1, 2, 0);
    expect_bytes(img, 0, 1, 0xbb);
    expect_bytes(img, 1, 2, 0);
    expect_bytes(img, 3, CLUSTER - 3, 0xbb);
    close_sound(img, "over");
}

static void version_2_keeps_what_it_cannot_say(void **state)
{
    (void)state;
    struct img *img = create_overlay("over2", "base2", MIB, MIB, "compat=0.10");
    put(img, 0, CLUSTER, 1);
    discard(img, 0, MIB);
    expect_bytes(img, 0, CLUSTER, 1);
    expect_bytes(img, CLUSTER, CLUSTER, 0xbb);
    zero(img, CLUSTER, 3 * CLUSTER, IMG_ZERO_UNMAP);
    expect_bytes(img, CLUSTER, 3 * CLUSTER, 0);
    expect_bytes(img, 4 * CLUSTER, CLUSTER, 0xbb);
    close_sound(img, "over2");
    img = create("alone2", MIB, "compat=0.10");
    put(img, 0, MIB, 1);
    zero(img, CLUSTER, CLUSTER, 0);
    discard(img, 4 * CLUSTER, CLUSTER);
    expect_bytes(img, CLUSTER, CLUSTER, 0);
    expect_bytes(img, 4 * CLUSTER, CLUSTER, 0);
    expect_bytes(img, 5 * CLUSTER, CLUSTER, 1);
    close_sound(img, "alone2");
}

static void without_its_base(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    char want[600];
    uint8_t *buf = calloc(1, CLUSTER);
    img_close(create_overlay("over3", "base3", MIB, MIB, NULL));
    struct img *img = open_path(test_path("over3"), "qcow2", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
    snprintf(want, sizeof want,
             "Error while writing offset 100 of '%s': What is at offset 0 is in the backing file, "
             "which was not opened",
             test_path("over3"));
    expect_error(&err, img_write(img, buf, 100, 100, &err), EINVAL, want);
    assert_int_equal(img_write(img, buf, CLUSTER, CLUSTER, &err), 0); /* needs nothing of it */
    free(buf);
    close_sound(img, "over3");
}

/* ---- where things go ----------------------------------------------------------------------- */

static void large_writes_are_one_stretch(void **state)
{
    (void)state;
    struct img *img = create("large", 64 * MIB, NULL);
    put(img, 0, 40 * MIB, 1);
    /* behind header, refcount table and block, L1 and L2 table */
    expect_mapped(img, 64 * MIB, "0+41943040 data@327680 41943040+25165824 unallocated");
    flush(img);
    expect_mapped(img, 64 * MIB, "0+41943040 data@327680 41943040+25165824 unallocated");
    uint64_t length = length_of("large");
    put(img, 3, 40 * MIB - 3, 2); /* in place */
    flush(img);
    assert_int_equal(length_of("large"), length);
    close_sound(img, "large");
}

static void nothing_is_seen_before_a_flush(void **state)
{
    (void)state;
    struct img *img = create("waiting", MIB, NULL);
    put(img, 5, 10, 1);
    expect_bytes(img, 5, 10, 1);
    struct img *other = open_path(test_path("waiting"), "qcow2", IMG_OPEN_FORCE_SHARE);
    expect_bytes(other, 0, CLUSTER, 0);
    img_close(other);
    flush(img);
    other = open_path(test_path("waiting"), "qcow2", IMG_OPEN_FORCE_SHARE);
    expect_bytes(other, 5, 10, 1);
    expect_bytes(other, 15, CLUSTER - 15, 0);
    img_close(other);
    close_sound(img, "waiting");
}

/* A cluster that the file still names is not taken before a flush, and is after it. */
static void freed_clusters(void **state)
{
    (void)state;
    struct img *img = create("freed", 4 * MIB, NULL);
    put(img, 0, MIB, 1);
    flush(img);
    uint64_t length = length_of("freed");
    discard(img, 0, MIB);
    put(img, MIB, MIB, 2);
    assert_int_equal(length_of("freed"), length + MIB);
    flush(img);
    put(img, 2 * MIB, MIB, 3);
    assert_int_equal(length_of("freed"), length + MIB);
    expect_bytes(img, 0, MIB, 0);
    expect_bytes(img, MIB, MIB, 2);
    expect_bytes(img, 2 * MIB, MIB, 3);
    close_sound(img, "freed");
}

static void preallocated_zeroes_are_filled(void **state)
{
    (void)state;
    struct img *img = create("kept", MIB, NULL);
    put(img, 0, MIB, 1);
    flush(img);
    uint64_t length = length_of("kept");
    zero(img, 0, MIB, 0);
    expect_bytes(img, 0, MIB, 0);
    put(img, CLUSTER + 1, 1, 2);
    expect_bytes(img, CLUSTER, 1, 0);
    expect_bytes(img, CLUSTER + 1, 1, 2);
    expect_bytes(img, CLUSTER + 2, CLUSTER - 2, 0);
    img = reopen(img, "kept");
    expect_bytes(img, CLUSTER + 2, CLUSTER - 2, 0);
    put(img, 4 * CLUSTER, 2 * CLUSTER, 3);
    zero(img, 0, MIB, IMG_ZERO_UNMAP);
    expect_bytes(img, 0, MIB, 0);
    close_sound(img, "kept");
    assert_int_equal(length_of("kept"), length);
}

static void subclusters(void **state)
{
    (void)state;
    struct img *img = create_overlay("sub", "base-sub", MIB, MIB, "extended_l2=on");
    const uint64_t sub = CLUSTER / 32;
    put(img, 5 * sub + 1, 10, 1);
    expect_bytes(img, 5 * sub, 1, 0xbb);
    char *text = map_text(img, 0, CLUSTER); /* one subcluster has data, the base shows elsewhere */
    assert_non_null(strstr(text, "10240+2048 data@"));
    free(text);
    zero(img, 7 * sub, 2 * sub, 0);
    expect_bytes(img, 6 * sub, sub, 0xbb);
    expect_bytes(img, 7 * sub, 2 * sub, 0);
    put(img, 7 * sub + 9, 1, 2);
    expect_bytes(img, 7 * sub, 9, 0);
    expect_bytes(img, 7 * sub + 10, 2 * sub - 10, 0);
    expect_bytes(img, 9 * sub, sub, 0xbb);
    img = reopen(img, "sub");
    expect_bytes(img, 0, 5 * sub + 1, 0xbb);
    expect_bytes(img, 5 * sub + 1, 10, 1);
    expect_bytes(img, 7 * sub + 9, 1, 2);
    expect_bytes(img, 8 * sub, sub, 0);
    close_sound(img, "sub");
}

/* The smallest clusters and the widest refcounts: a block counts 32 KiB of the file, a cluster of
 * the refcount table names 64 of them. */
static void the_refcount_table_grows(void **state)
{
    (void)state;
    struct img *img = create("grows", 24 * MIB, "cluster_size=512,refcount_bits=64");
    uint32_t before = inside(img)->header.reftable_clusters;
    for (unsigned i = 0; i < 24; i++) {
        put(img, i * (uint64_t)MIB + 77, MIB - 77, (int)i + 1);
        if (i % 5 == 4)
            flush(img);
        if (i == 13)
            img = reopen(img, "grows");
    }
    for (unsigned i = 0; i < 24; i++)
        expect_bytes(img, i * (uint64_t)MIB + 77, MIB - 77, (int)i + 1);
    flush(img);
    assert_true(inside(img)->header.reftable_clusters > before);
    discard(img, 0, 24 * MIB);
    close_sound(img, "grows");
}

static void tables_that_wait_are_bounded(void **state)
{
    (void)state;
    /* each write needs a table of its own, of 2 MiB */
    struct img *img = create("bounded", 12ull << 40, "cluster_size=2M");
    for (unsigned i = 0; i < 12; i++)
        put(img, (uint64_t)i << 40, 1, (int)i + 1);
    for (unsigned i = 0; i < 12; i++)
        expect_bytes(img, (uint64_t)i << 40, 1, (int)i + 1);
    close_sound(img, "bounded");
}

/* ---- what else an image says of its disk --------------------------------------------------- */

static void unknown_autoclear_bits(void **state)
{
    (void)state;
    const size_t field = offsetof(struct ondisk_header, autoclear_features);
    img_close(create("autoclear", MIB, NULL));
    patch64("autoclear", field, 1ull << 40);
    struct img *img = open_path(test_path("autoclear"), "qcow2", IMG_OPEN_WRITE);
    assert_int_equal(inside(img)->header.autoclear, 1ull << 40);
    put(img, 0, 1, 1);
    uint8_t bytes[8] = {1};
    int fd = open(test_path("autoclear"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, bytes, 8, (off_t)field), 8);
    close(fd);
    assert_int_equal(load_be64(bytes), 0);
    close_sound(img, "autoclear");
}

static uint32_t bitmap_flags(const char *name)
{
    struct img *img = open_path(test_path(name), "qcow2", IMG_OPEN_FORCE_SHARE);
    uint32_t flags = inside(img)->bitmaps[0].info.flags;
    img_close(img);
    return flags;
}

static void bitmaps_do_not_lie(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create("bitmap", 4 * MIB, NULL);

    if (img_bitmap_add(img, "b", 0, &err) < 0)
        fail_with(&err);
    expect_bytes(img, 0, MIB, 0);
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO);
    put(img, 0, 1, 1);
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO | IMG_BITMAP_IN_USE);
    flush(img);
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO | IMG_BITMAP_IN_USE);
    close_sound(img, "bitmap");
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO);
    /* something else that changes the image finds a disk at rest, and writes go on after it */
    img = open_path(test_path("bitmap"), "qcow2", IMG_OPEN_WRITE);
    put(img, MIB, 1, 1);
    if (img_bitmap_add(img, "c", 0, &err) < 0)
        fail_with(&err);
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO);
    put(img, 2 * MIB, 1, 1);
    expect_bytes(img, MIB, 1, 1);
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO | IMG_BITMAP_IN_USE);
    close_sound(img, "bitmap");
    assert_int_equal(bitmap_flags("bitmap"), IMG_BITMAP_AUTO);
}

/* ---- raw ----------------------------------------------------------------------------------- */

static void raw_windows(void **state)
{
    (void)state;
    uint8_t data[8 * KIB];
    char name[700];
    memset(data, 0xaa, sizeof data);
    write_file(test_path("raw"), data, sizeof data);
    snprintf(name, sizeof name,
             "json:{\"driver\":\"raw\",\"offset\":1024,\"size\":2048,\"file\":{\"driver\":\"file\","
             "\"filename\":\"%s\"}}",
             test_path("raw"));
    struct img *img = open_path(name, NULL, IMG_OPEN_WRITE);
    assert_int_equal(img_size(img), 2048);
    put(img, 1, 10, 1);
    zero(img, 100, 50, 0);
    discard(img, 2000, 48);
    flush(img);
    img_close(img);
    img = open_path(test_path("raw"), "raw", 0);
    expect_bytes(img, 0, 1025, 0xaa);
    expect_bytes(img, 1025, 10, 1);
    expect_bytes(img, 1035, 89, 0xaa);
    expect_bytes(img, 1124, 50, 0);
    expect_bytes(img, 1174, 1850, 0xaa);
    expect_bytes(img, 3024, 48, 0);
    expect_bytes(img, 3072, 5120, 0xaa);
    img_close(img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals),
        cmocka_unit_test(damage),
        cmocka_unit_test(over_a_shorter_base),
        cmocka_unit_test(version_2_keeps_what_it_cannot_say),
        cmocka_unit_test(without_its_base),
        cmocka_unit_test(large_writes_are_one_stretch),
        cmocka_unit_test(nothing_is_seen_before_a_flush),
        cmocka_unit_test(freed_clusters),
        cmocka_unit_test(preallocated_zeroes_are_filled),
        cmocka_unit_test(subclusters),
        cmocka_unit_test(the_refcount_table_grows),
        cmocka_unit_test(tables_that_wait_are_bounded),
        cmocka_unit_test(unknown_autoclear_bits),
        cmocka_unit_test(bitmaps_do_not_lie),
        cmocka_unit_test(raw_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
