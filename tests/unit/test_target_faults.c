/*
 * create, dd, and convert into what is there, when the n-th allocation or call to the host fails,
 * for every n until all goes well: one clean error, nothing left behind, and under the target's
 * name what was there before, or all that was to come there.
 */
#include "alloc_faults.h"
#include "host_faults.h"

#include <imgtool.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { DISK = 96 << 10, MOST = 256 << 10 };

static char folder[] = "/tmp/test_target_XXXXXX";

/* A disk; LENGTH 0: there is no image. */
struct seen {
    uint8_t bytes[DISK];
    uint64_t length;
};

static struct seen old, new, now;

/* ---- what is done -------------------------------------------------------------------------- */

static int create(const char *name, uint64_t size, const char *format, const char *options,
                  const char *backing, struct img_error *err)
{
    struct img_create_options o = {.format = format,
                                   .options = options,
                                   .size = size,
                                   .backing_file = backing,
                                   .backing_format = backing ? "raw" : NULL};
    return img_create(name, &o, err);
}

static int convert(const char *source, const char *format, const char *options, unsigned flags,
                   struct img_error *err)
{
    struct img_convert_options o = {.sources = &source,
                                    .source_count = 1,
                                    .format = format,
                                    .options = options,
                                    .flags = flags,
                                    .threads = 1};
    return img_convert("target", &o, err);
}

static int create_raw(struct img_error *err)
{
    return create("target", DISK / 2, "raw", "preallocation=falloc", NULL, err);
}

static int create_qcow2(struct img_error *err)
{
    return create("target", DISK / 2, "qcow2", "cluster_size=4k,preallocation=metadata", NULL, err);
}

static int create_overlay(struct img_error *err)
{
    return create("target", DISK / 2, "qcow2", NULL, "source.raw", err);
}

static int create_with_data(struct img_error *err)
{
    return create("target", DISK / 2, "qcow2", "data_file=data.raw,data_file_raw=on", NULL, err);
}

static int convert_with_data(struct img_error *err)
{
    return convert("source.raw", "qcow2", "data_file=data.raw", 0, err);
}

static int convert_bitmaps(struct img_error *err)
{
    return convert("source.qcow2", "qcow2", "cluster_size=4k", IMG_CONVERT_BITMAPS, err);
}

static int adopt(struct img_error *err)
{
    return convert("source.raw", "qcow2", NULL, IMG_CONVERT_ADOPT, err);
}

static int convert_into_qcow2(struct img_error *err)
{
    return convert("source.raw", "qcow2", NULL, IMG_CONVERT_EXISTING, err);
}

static int convert_compressed_into(struct img_error *err)
{
    return convert("source.raw", "qcow2", NULL, IMG_CONVERT_EXISTING | IMG_CONVERT_COMPRESS, err);
}

static int convert_into_raw(struct img_error *err)
{
    return convert("source.raw", "raw", NULL, IMG_CONVERT_EXISTING, err);
}

static int dd(struct img_error *err)
{
    struct img_dd_options o = {.format = "qcow2", .block_size = 1000, .skip = 3};
    return img_dd("target", "source.raw", &o, NULL, err);
}

/* ---- what is there ------------------------------------------------------------------------- */

static int old_qcow2(struct img_error *err)
{
    return create("target", DISK, "qcow2", "cluster_size=4k,preallocation=metadata", NULL, err);
}

static int old_raw(struct img_error *err)
{
    return create("target", DISK, "raw", NULL, NULL, err);
}

static int old_pair(struct img_error *err)
{
    struct img *img;
    struct img_open_options open = {.flags = IMG_OPEN_WRITE};
    int ret = create("target", DISK, "qcow2", "cluster_size=4k,data_file=data.raw", NULL, err);
    if (!ret)
        ret = img_open(&img, "target", &open, err);
    if (ret < 0)
        return ret;
    ret = img_write(img, "old", 3, 1000, err);
    img_close(img);
    return ret;
}

static const struct job {
    const char *name;
    int (*before)(struct img_error *err); /* NULL: nothing is there */
    int (*run)(struct img_error *err);
    bool in_place; /* a part of it may be there */
} jobs[] = {
    {"create raw", NULL, create_raw, false},
    {"create qcow2", NULL, create_qcow2, false},
    {"create qcow2 over an old one", old_qcow2, create_qcow2, false},
    {"create an overlay", NULL, create_overlay, false},
    {"create with a data file", NULL, create_with_data, false},
    {"create with a data file over an old pair", old_pair, create_with_data, false},
    {"convert with a data file over an old pair", old_pair, convert_with_data, false},
    {"convert with bitmaps", NULL, convert_bitmaps, false},
    {"convert --adopt", NULL, adopt, false},
    {"convert --adopt over an old one", old_qcow2, adopt, false},
    {"dd", NULL, dd, false},
    {"dd over an old one", old_raw, dd, false},
    {"convert -n", old_qcow2, convert_into_qcow2, true},
    {"convert -n -c", old_qcow2, convert_compressed_into, true},
    {"convert -n to raw", old_raw, convert_into_raw, true},
    {"convert -n with a data file", old_pair, convert_into_qcow2, true},
};

/* ---- one after the other ------------------------------------------------------------------- */

static void succeed(const char *what, int ret, struct img_error *err)
{
    if (ret < 0)
        fail_msg("%s: %s", what, img_error_message(err));
}

static void expect_sound(struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check c = {0};
    if (img_check(img, &c, NULL, NULL, &err) < 0) { /* raw has nothing to be checked */
        assert_int_equal(err.code, ENOTSUP);
        img_error_clear(&err);
    }
    assert_int_equal(c.corruptions, 0);
}

static void look(const char *what, struct seen *s)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    *s = (struct seen){0};
    if (access("target", F_OK) != 0)
        return;
    succeed(what, img_open(&img, "target", NULL, &err), &err);
    s->length = img_size(img);
    assert_true(s->length && s->length <= DISK);
    succeed(what, img_read(img, s->bytes, s->length, 0, &err), &err);
    img_close(img);
    struct img_open_options check = {.flags = IMG_OPEN_CHECK};
    succeed(what, img_open(&img, "target", &check, &err), &err);
    expect_sound(img);
    img_close(img);
}

static bool same(const struct seen *a, const struct seen *b)
{
    return a->length == b->length && !memcmp(a->bytes, b->bytes, DISK);
}

/* The files besides those that were there from the first, as bits: an image, a data file, others.
 */
static unsigned files(void)
{
    unsigned found = 0;
    DIR *d = opendir(".");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        const char *name = e->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..") || !strncmp(name, "source.", 7))
            continue;
        found |= !strcmp(name, "target") ? 1 : !strcmp(name, "data.raw") ? 2 : 4;
    }
    closedir(d);
    return found;
}

static void remove_others(void)
{
    DIR *d = opendir(".");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_type == DT_REG && strncmp(e->d_name, "source.", 7) != 0)
            unlink(e->d_name);
    closedir(d);
}

static void lay_out(const struct job *j)
{
    struct img_error err = IMG_ERROR_INIT;
    remove_others();
    if (j->before)
        succeed(j->name, j->before(&err), &err);
}

static void judge(const struct job *j, int ret, unsigned before, unsigned after)
{
    unsigned found = files();
    look(j->name, &now);
    if (!ret) {
        assert_true(same(&now, &new));
        assert_int_equal(found, after);
    } else if (!j->in_place) {
        if (!same(&now, &old) && !same(&now, &new))
            fail_msg("%s: the disk is neither the old one nor the new", j->name);
        /* once a pair is the new one, its data file may have another name */
        bool renamed = before & after & 2 && same(&now, &new);
        assert_true(found == before || found == after || renamed);
        assert_true(!same(&now, &old) || same(&old, &new) || found == before);
    }
}

static void try_all(const struct job *j, long *left_to_fail)
{
    struct img_error err = IMG_ERROR_INIT;
    lay_out(j);
    unsigned before = files();
    look(j->name, &old);
    succeed(j->name, j->run(&err), &err);
    unsigned after = files();
    look(j->name, &new);
    int ret = -1;
    long n = 1;
    for (bool failed = true; failed; n++) {
        lay_out(j);
        long blocks = live;
        *left_to_fail = n;
        ret = j->run(&err);
        failed = *left_to_fail == 0;
        *left_to_fail = 0;
        if (ret < 0)
            assert_true(failed && strlen(img_error_message(&err)) > 10);
        img_error_clear(&err);
        assert_int_equal(live, blocks);
        judge(j, ret, before, after);
        assert_true(n < 5000);
    }
    assert_int_equal(ret, 0);
    assert_true(n > 5);
    print_message("%s: %ld steps\n", j->name, n - 1);
}

static void allocations(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        try_all(&jobs[i], &countdown);
}

static void host_calls(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        try_all(&jobs[i], &io_countdown);
}

/* ---- the sources --------------------------------------------------------------------------- */

static int setup(void **state)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options open = {.format = "qcow2", .flags = IMG_OPEN_WRITE};
    struct img *img;
    uint32_t random = 1;
    (void)state;
    if (!mkdtemp(folder) || chdir(folder) < 0)
        return -1;
    FILE *f = fopen("source.raw", "wb");
    assert_non_null(f);
    for (size_t i = 0; i < DISK; i++) {
        random = random * 1103515245 + 12345;
        fputc(i >> 14 & 1 ? 0 : (int)(random >> 16 & 255), f);
    }
    fclose(f);
    const char *source = "source.raw";
    struct img_convert_options o = {.sources = &source, .source_count = 1, .format = "qcow2"};
    succeed("source", img_convert("source.qcow2", &o, &err), &err);
    succeed("source", img_open(&img, "source.qcow2", &open, &err), &err);
    succeed("source", img_bitmap_add(img, "bits", 4096, &err), &err);
    succeed("source", img_write(img, "new", 3, 50000, &err), &err);
    img_close(img);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_others();
    unlink("source.raw");
    unlink("source.qcow2");
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations),
        cmocka_unit_test(host_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
