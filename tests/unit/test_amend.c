/* amend, with every call to the host failing in turn; and how far it says it is. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "make_qcow2.h"

#include <stdio.h>
#include <unistd.h>

static char path[] = "/tmp/test_amend.XXXXXX";

/* ---- a file whose n-th call fails ---------------------------------------------------------- */

static const struct file_ops *real;
static long countdown; /* calls until one fails; 0: none will */
static int fault;      /* as what */

static bool fails(void)
{
    return countdown && --countdown == 0;
}

static int64_t try_pread(struct file *f, void *buf, size_t len, host_off off)
{
    return fails() ? -fault : real->pread(f, buf, len, off);
}

static int try_size(struct file *f, uint64_t *size)
{
    return fails() ? -fault : real->size(f, size);
}

static int try_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    return fails() ? -fault : real->pwrite(f, buf, len, off);
}

static int try_truncate(struct file *f, uint64_t size)
{
    return fails() ? -fault : real->truncate(f, size);
}

static int try_zero(struct file *f, host_off off, uint64_t len)
{
    return fails() ? -fault : real->zero(f, off, len);
}

static int try_flush(struct file *f)
{
    return fails() ? -fault : real->flush(f);
}

/* Puts the functions above between the library and the file of IMG. */
static void watch(struct img *img, struct file_ops *ops)
{
    struct file *f = img->layers[0]->file;
    real = f->ops;
    *ops = *real;
    ops->pread = try_pread;
    ops->size = try_size;
    ops->pwrite = try_pwrite;
    ops->truncate = try_truncate;
    ops->zero = try_zero;
    ops->flush = try_flush;
    f->ops = ops;
}

/* ---- images -------------------------------------------------------------------------------- */

static void fail_with(struct img_error *err)
{
    fail_msg("%s", img_error_message(err));
}

static struct img *open_image(unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    struct img_open_options o = {.format = "qcow2", .flags = flags};
    if (img_open(&img, path, &o, &err) < 0)
        fail_with(&err);
    return img;
}

static void create(const char *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_create_options o = {.format = "qcow2", .size = 256 << 10, .options = options};
    if (img_create(path, &o, &err) < 0)
        fail_with(&err);
}

/* Makes zero clusters, which keep their places, of the first COUNT clusters of the disk. */
static void hide(unsigned count)
{
    struct img *img = open_image(IMG_OPEN_WRITE);
    struct qcow2 *q = img->layers[0]->state;
    uint64_t table = load_be64(q->l1) & L1_OFFSET_MASK;
    for (unsigned i = 0; i < count; i++) {
        uint8_t entry[8];
        assert_int_equal(file_read(q->file, entry, 8, host(table + i * 8ull), NULL), 0);
        store_be64(entry, load_be64(entry) | ENTRY_ZERO);
        assert_int_equal(file_write(q->file, entry, 8, host(table + i * 8ull), NULL), 0);
    }
    img_close(img);
}

static void expect_sound(void)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check result;
    struct img *img = open_image(IMG_OPEN_CHECK);
    if (img_check(img, &result, NULL, NULL, &err) < 0)
        fail_with(&err);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    img_close(img);
    img = open_image(0);
    uint8_t byte = 1;
    for (uint64_t at = 0; at < img_size(img); at += 4096) {
        assert_int_equal(img_read(img, &byte, 1, at, NULL), 0);
        assert_int_equal(byte, 0);
    }
    img_close(img);
}

static int amend(struct img *img, const char *list, struct img_error *err)
{
    struct img_amend_options o = {.options = list};
    return img_amend(img, &o, err);
}

/* ---- tests --------------------------------------------------------------------------------- */

/* The n-th call fails, for every n until all goes well. */
static void survives(const char *options, unsigned zero_clusters, const char *list)
{
    bool done = false;
    for (long n = 1; !done; n++) {
        struct img_error err = IMG_ERROR_INIT;
        struct file_ops ops;
        create(options);
        hide(zero_clusters);
        struct img *img = open_image(IMG_OPEN_WRITE);
        watch(img, &ops);
        countdown = n;
        fault = n % 2 ? EIO : ENOSPC;
        int ret = amend(img, list, &err);
        done = countdown > 0; /* nobody ran into it */
        countdown = 0;
        if (ret < 0) {
            assert_true(*img_error_message(&err));
            if (done)
                fail_with(&err);
        }
        img_error_clear(&err);
        img_close(img);
        expect_sound();
        assert_true(n < 2000);
    }
}

static void every_call_may_fail(void **state)
{
    (void)state;
    survives("cluster_size=4096,preallocation=metadata", 5, "compat=0.10");
    survives("cluster_size=4096,refcount_bits=8", 0, "compat=0.10,refcount_bits=16");
    survives("cluster_size=512,preallocation=metadata", 0, "refcount_bits=64");
    survives("compat=0.10", 0, "compat=1.1,refcount_bits=1,lazy_refcounts=on");
}

struct steps {
    uint64_t last_done, last_total;
    unsigned count;
    bool over;
};

static void hear(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    assert_string_equal(phase, "amend");
    struct steps *s = opaque;
    assert_true(done <= total && total > 0);
    s->last_done = done;
    s->last_total = total;
    s->over |= done == total;
    s->count++;
}

static void progress_ends_at_the_end(void **state)
{
    (void)state;
    static const char *const lists[] = {"compat=0.10", "compat=1.1", "compat=1.1,refcount_bits=8",
                                        "refcount_bits=16,compat=0.10", "lazy_refcounts=off"};
    create("cluster_size=512,preallocation=metadata");
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct img_error err = IMG_ERROR_INIT;
        struct steps s = {0};
        struct img_amend_options o = {.options = lists[i], .progress = hear, .opaque = &s};
        struct img *img = open_image(IMG_OPEN_WRITE);
        if (img_amend(img, &o, &err) < 0)
            fail_with(&err);
        img_close(img);
        assert_true(s.over && s.last_done == s.last_total && s.count >= 2);
        expect_sound();
    }
}

static void widths_keep_every_refcount(void **state)
{
    (void)state;
    static const char *const lists[] = {"refcount_bits=64", "refcount_bits=1",  "refcount_bits=32",
                                        "refcount_bits=2",  "refcount_bits=16", "refcount_bits=4",
                                        "refcount_bits=8"};
    struct img_error err = IMG_ERROR_INIT;
    create("cluster_size=512,preallocation=metadata");
    struct img *img = open_image(IMG_OPEN_WRITE); /* one handle for all */
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (amend(img, lists[i], &err) < 0)
            fail_with(&err);
        struct img_info *info;
        assert_int_equal(img_describe(img, 0, &info, NULL), 0);
        assert_int_equal(info->qcow2.refcount_bits, strtoul(strchr(lists[i], '=') + 1, NULL, 10));
        img_info_free(info);
    }
    img_close(img);
    expect_sound();
}

static void an_image_opened_to_be_read_is_not_changed(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    create(NULL);
    struct img *img = open_image(0);
    assert_int_equal(amend(img, "compat=0.10", &err), -EBADF);
    img_error_clear(&err);
    img_close(img);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_may_fail),
        cmocka_unit_test(progress_ends_at_the_end),
        cmocka_unit_test(widths_keep_every_refcount),
        cmocka_unit_test(an_image_opened_to_be_read_is_not_changed),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
