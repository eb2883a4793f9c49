/* img_compare and img_measure: what is told, what is read, and that failures are told in order. */
#include "build_image.h"
#include "faulty_file.h"

#include <inttypes.h>
#include <stdio.h>

enum { CLUSTER = 4096, DISK = 2 << 20 };

struct told {
    char text[2000];
    size_t count;
    size_t stop_after; /* 0: never */
};

static int tell(void *opaque, const struct img_difference *d)
{
    static const char *const kinds[] = {"", "status ", "size "};
    struct told *t = opaque;
    size_t end = strlen(t->text);
    snprintf(t->text + end, sizeof t->text - end, "%s%s%" PRIu64 "+%" PRIu64, end ? " " : "",
             kinds[d->kind], d->start, d->length);
    return ++t->count == t->stop_after;
}

/* Compares with FLAGS, in so many threads; what was told is in TOLD. */
static int compare(struct img *a, struct img *b, unsigned flags, unsigned threads,
                   struct told *told, struct img_comparison *result, struct img_error *err)
{
    const struct img_compare_options options = {
        .flags = flags, .threads = threads, .difference = tell, .opaque = told};
    return img_compare(a, b, &options, result, err);
}

static void assert_told(struct img *a, struct img *b, unsigned flags, const char *expected)
{
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct told told = {.count = 0};
        struct img_comparison r;
        struct img_error err = IMG_ERROR_INIT;
        assert_int_equal(compare(a, b, flags, threads, &told, &r, &err), 0);
        assert_string_equal(told.text, expected);
        assert_int_equal(r.differ, *expected != 0);
        assert_null(err.message);
    }
}

/* A disk with data in every third cluster, some of it compressed or zero. */
static struct image make_image(void)
{
    struct image m = make_qcow2(3, 12, DISK, 0);
    for (unsigned i = 0; i < 500; i += 3)
        image_set_entry(&m, i, image_add_data(&m, (uint8_t)(i + 1)) | ENTRY_COPIED, 0);
    image_set_entry(&m, 1, ENTRY_ZERO, 0);
    image_set_entry(&m, 4, image_add_data(&m, 0) | ENTRY_COPIED, 0);
    return m;
}

static void what_differs_is_told_in_order(void **state)
{
    (void)state;
    struct image m = make_image(), changed = make_image();
    struct img *a = image_open(&m, 0);
    struct told told = {.stop_after = 2};
    struct img_comparison r;
    /* data instead of nothing; a sector; the end of one cluster and the start of another */
    image_set_entry(&changed, 2, image_add_data(&changed, 'x') | ENTRY_COPIED, 0);
    size_t data = changed.size;
    image_set_entry(&changed, 300, image_add_data(&changed, 301 & 0xff) | ENTRY_COPIED, 0);
    changed.data[data + 1000] ^= 1;
    data = changed.size;
    image_set_entry(&changed, 399, image_add_data(&changed, 400 & 0xff) | ENTRY_COPIED, 0);
    changed.data[data + 4095] ^= 1;
    image_set_entry(&changed, 400, image_add_data(&changed, 0) | ENTRY_COPIED, 0);
    changed.data[changed.size - CLUSTER] = 1;
    struct img *b = image_open(&changed, 0);
    assert_told(a, b, IMG_COMPARE_ALL, "8192+4096 1229312+512 1637888+1024");
    assert_told(b, a, IMG_COMPARE_ALL, "8192+4096 1229312+512 1637888+1024");
    assert_told(a, b, 0, "8192+512");
    assert_told(a, b, IMG_COMPARE_STRICT, "status 8192+4096");
    assert_int_equal(compare(a, b, IMG_COMPARE_ALL, 2, &told, &r, NULL), 0);
    assert_string_equal(told.text, "8192+4096 1229312+512"); /* until told to stop */
    img_close(a);
    img_close(b);
    image_free(&m);
    image_free(&changed);
}

static void nothing_is_read_in_vain(void **state)
{
    (void)state;
    struct image m = make_image(), empty = make_qcow2(3, 12, DISK, 0);
    struct img *a = image_open(&m, 0), *none = image_open(&empty, 0);
    struct told told = {.count = 0};
    struct img_comparison r;
    assert_int_equal(compare(none, none, 0, 2, &told, &r, NULL), 0);
    assert_int_equal(r.read, 0);
    assert_int_equal(compare(a, a, 0, 2, &told, &r, NULL), 0); /* the same bytes of one file */
    assert_int_equal(r.read, 0);
    assert_false(r.differ);
    assert_int_equal(compare(none, a, IMG_COMPARE_ALL, 2, &told, &r, NULL), 0);
    assert_true(r.read == 168 * CLUSTER);      /* of one image alone, and what it holds */
    assert_true(r.differing == 166 * CLUSTER); /* two are full of zeroes */
    img_close(a);
    img_close(none);
    image_free(&m);
    image_free(&empty);
}

static void sizes(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, DISK, 0), longer = make_qcow2(3, 12, DISK + 8192, 0);
    struct img *a = image_open(&m, 0), *b = image_open(&longer, 0);
    assert_told(a, b, 0, "");
    assert_told(a, b, IMG_COMPARE_STRICT, "size 2097152+8192");
    img_close(b);
    image_add_l2(&longer, 1, ENTRY_COPIED);
    image_set_entry(&longer, 1, image_add_data(&longer, 'x') | ENTRY_COPIED, 0);
    b = image_open(&longer, 0);
    assert_told(a, b, IMG_COMPARE_ALL, "2101248+4096");
    assert_told(b, a, IMG_COMPARE_ALL, "2101248+4096");
    img_close(a);
    img_close(b);
    image_free(&m);
    image_free(&longer);
}

static void what_cannot_be_compared(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, DISK, 0);
    struct img *a = image_open(&m, 0), *meta = image_open(&m, IMG_OPEN_NO_DATA);
    struct img_comparison r;
    struct told told = {.count = 0};
    struct img_error err = IMG_ERROR_INIT;
    expect_error(&err, compare(a, meta, 0, 1, &told, &r, &err), EINVAL,
                 "The image was opened for its metadata only");
    expect_error(&err, compare(a, a, IMG_COMPARE_ALL | IMG_COMPARE_STRICT, 1, &told, &r, &err),
                 EINVAL, "A strict comparison ends at the first difference");
    img_close(a);
    img_close(meta);
    image_free(&m);
}

/*
 * The n-th call to the host fails, for every n: what is told before it is a beginning of what is
 * told when all goes well, and the failure is that image's.
 */
static void every_call_fails(void **state)
{
    (void)state;
    static const char whole[] = "0+512 4608+512 819200+4096";
    struct image m = make_image(), changed = make_image();
    image_set_entry(&changed, 1, image_add_data(&changed, 0) | ENTRY_COPIED, 0);
    changed.data[changed.size - CLUSTER + 600] = 1;
    image_set_entry(&changed, 200, image_add_data(&changed, 'y') | ENTRY_COPIED, 0);
    size_t first = changed.size;
    image_set_entry(&changed, 0, image_add_data(&changed, 1) | ENTRY_COPIED, 0);
    changed.data[first] = 77;
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        long failures = 0;
        for (long n = 1;; n++) {
            struct faults faults = {.calls = 0};
            struct img *a, *b;
            struct told told = {.count = 0};
            struct img_comparison r;
            struct img_error err = IMG_ERROR_INIT;
            struct file *f = faulty_open(&faults, "changed", changed.data, changed.size);
            a = image_open(&m, 0);
            assert_int_equal(img_open_file(&b, f, NULL, "qcow2", 0, NULL), 0);
            faults_arm(&faults, FAULT_LASTING, n);
            int ret = compare(a, b, IMG_COMPARE_ALL, threads, &told, &r, &err);
            assert_int_equal(strncmp(whole, told.text, strlen(told.text)), 0);
            if (ret < 0) {
                assert_int_equal(ret, -EIO);
                assert_int_equal(r.image, 1);
                assert_non_null(err.message);
                failures++;
            } else {
                assert_string_equal(told.text, whole);
            }
            bool happened = faults.happened;
            img_error_clear(&err);
            img_close(a);
            img_close(b);
            if (!happened)
                break;
        }
        print_message("%u threads: %ld failures\n", threads, failures);
        assert_true(failures > 10);
    }
    image_free(&m);
    image_free(&changed);
}

static void measuring(void **state)
{
    (void)state;
    struct image m = make_image();
    struct img *img = image_open(&m, 0);
    struct img_measurement r;
    struct img_error err = IMG_ERROR_INIT;
    struct img_measure_options o = {.format = "qcow2", .options = "cluster_size=4k"};
    assert_int_equal(img_measure(&r, img, &o, NULL), 0);
    /* 168 clusters of data; 1 header, 1 L1, 1 L2, 1 refcount table and block, 512 of data in all */
    assert_int_equal(r.fully_allocated, (512 + 5) * CLUSTER);
    assert_int_equal(r.required, (168 + 5) * CLUSTER);
    assert_true(r.has_bitmaps && !r.bitmaps);
    o.options = "cluster_size=64k"; /* nearly each has some of it */
    assert_int_equal(img_measure(&r, img, &o, NULL), 0);
    assert_int_equal(r.required, r.fully_allocated);
    o = (struct img_measure_options){.options = "nonsense=1"};
    expect_error(&err, img_measure(&r, img, &o, &err), EINVAL,
                 "Invalid parameter 'nonsense' (in the options of the new image)");
    img_close(img);
    o = (struct img_measure_options){.size = 1000};
    assert_int_equal(img_measure(&r, NULL, &o, NULL), 0);
    assert_int_equal(r.required, 1024);

    long n = 1;
    for (int ret = -1; ret < 0; n++) { /* the n-th call fails */
        struct faults faults = {.calls = 0};
        o = (struct img_measure_options){.format = "qcow2"};
        struct file *f = faulty_open(&faults, "image", m.data, m.size);
        assert_int_equal(img_open_file(&img, f, NULL, "qcow2", 0, NULL), 0);
        faults_arm(&faults, FAULT_LASTING, n);
        ret = img_measure(&r, img, &o, &err);
        assert_true(ret < 0 ? ret == -EIO && err.message : !faults.happened);
        img_error_clear(&err);
        img_close(img);
    }
    assert_true(n > 2);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_differs_is_told_in_order),
        cmocka_unit_test(nothing_is_read_in_vain),
        cmocka_unit_test(sizes),
        cmocka_unit_test(what_cannot_be_compared),
        cmocka_unit_test(every_call_fails),
        cmocka_unit_test(measuring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
