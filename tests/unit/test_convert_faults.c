/*
 * convert, when the n-th allocation, read or write fails, for every n until all goes well: one
 * clean error, no target under its name, nothing left behind; and the last time, the whole disk.
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
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

enum { DISK = 600 << 10 };

/* ---- what is converted ---- */

static char folder[] = "/tmp/test_convert_XXXXXX";
static uint8_t disk[DISK];

static const char *path(const char *name)
{
    static char text[4][128];
    static unsigned turn;
    char *p = text[turn++ % 4];
    snprintf(p, sizeof text[0], "%s/%s", folder, name);
    return p;
}

static void write_file(const char *name, const void *data, size_t length)
{
    FILE *f = fopen(path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, length, f), length);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    uint32_t random = 1;
    for (size_t i = 0; i < DISK; i++) {
        random = random * 1103515245 + 12345;
        bool dull = (i >> 16) % 3 == 1, zero = (i >> 16) % 3 == 2;
        disk[i] = zero ? 0 : dull ? 'x' : (uint8_t)(random >> 16);
    }
    if (!mkdtemp(folder))
        return -1;
    write_file("source.raw", disk, DISK);
    return 0;
}

/* How many files there are in the folder. */
static unsigned files(void)
{
    DIR *d = opendir(folder);
    unsigned n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path("source.raw"));
    unlink(path("source.qcow2"));
    return rmdir(folder);
}

struct sample {
    const char *source, *format, *options, *backing;
    unsigned flags;
};

static int convert(const struct sample *s, const char *target, struct img_error *err)
{
    const char *source = path(s->source);
    struct img_convert_options o = {
        .sources = &source,
        .source_count = 1,
        .format = s->format,
        .options = s->options,
        .backing_file = s->backing ? path(s->backing) : NULL,
        .backing_format = s->backing ? "raw" : NULL,
        .flags = s->flags,
        .threads = 1,
    };
    return img_convert(path(target), &o, err);
}

static void check_disk(const char *name)
{
    static uint8_t now[DISK];
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    assert_int_equal(img_open(&img, path(name), NULL, &err), 0);
    assert_int_equal(img_read(img, now, DISK, 0, &err), 0);
    assert_memory_equal(now, disk, DISK);
    img_close(img);
}

/* *LEFT_TO_FAIL runs out one step later each time. A failure that was no reason to fail (a question
 * to the host whose answer is not needed) must not show either. */
static void try_all(const struct sample *s, long *left_to_fail)
{
    const unsigned before = files();
    int ret = -1;
    long n = 1;
    for (; ret < 0 || *left_to_fail == 0; n++) {
        struct img_error err = IMG_ERROR_INIT;
        long blocks = live;
        *left_to_fail = n;
        ret = convert(s, "target", &err);
        if (ret < 0) {
            assert_true(err.message != NULL || err.code != 0);
            bool kept = s->flags & IMG_CONVERT_RESUME && files() > before;
            assert_int_equal(files(), before + (kept ? 2 : 0)); /* for the next to go on with */
        } else {
            long left = *left_to_fail;
            *left_to_fail = 0;
            check_disk("target");
            unlink(path("target"));
            assert_int_equal(files(), before);
            *left_to_fail = left;
        }
        img_error_clear(&err);
        assert_int_equal(live, blocks);
        assert_true(n < 5000);
    }
    assert_true(n > 10);
    print_message("%s to %s: %ld steps\n", s->source, s->format, n);
    *left_to_fail = 0;
}

static const struct sample samples[] = {
    {"source.raw", "raw", NULL, NULL, 0},
    {"source.raw", "qcow2", "cluster_size=4k", NULL, 0},
    {"source.raw", "qcow2", "cluster_size=4k,refcount_bits=1", NULL, IMG_CONVERT_COMPRESS},
    {"source.raw", "qcow2", "compression_type=zstd,extended_l2=on", NULL, IMG_CONVERT_COMPRESS},
    {"source.raw", "qcow2", "preallocation=metadata", NULL, IMG_CONVERT_VERIFY},
    {"source.qcow2", "qcow2", "extended_l2=on", "source.raw", IMG_CONVERT_VERIFY},
    {"source.qcow2", "raw", NULL, NULL, 0},
    {"source.raw", "raw", NULL, NULL, IMG_CONVERT_RESUME},
    {"source.qcow2", "qcow2", NULL, "source.raw", IMG_CONVERT_RESUME | IMG_CONVERT_COMPRESS},
};

static void try_samples(long *left_to_fail)
{
    const struct sample first = {"source.raw", "qcow2", NULL, NULL, IMG_CONVERT_COMPRESS};
    assert_int_equal(convert(&first, "source.qcow2", NULL), 0);
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
        try_all(&samples[i], left_to_fail);
}

/* ---- into an image that exists ---- */

static void check_sound(const char *name, const char *format)
{
    static uint8_t now[DISK];
    struct img_check found = {.corruptions = 0};
    struct img_open_options o = {.format = format, .flags = IMG_OPEN_CHECK};
    struct img *img;
    if (strcmp(format, "raw") != 0) {
        assert_int_equal(img_open(&img, path(name), &o, NULL), 0);
        assert_int_equal(img_check(img, &found, NULL, NULL, NULL), 0);
        assert_int_equal(found.corruptions + found.check_errors, 0);
        img_close(img);
    }
    o.flags = 0;
    assert_int_equal(img_open(&img, path(name), &o, NULL), 0);
    assert_int_equal(img_read(img, now, DISK, 0, NULL), 0);
    for (size_t i = 0; i < DISK; i += 512) {
        bool old = now[i] == 'o' && !memcmp(now + i, now + i + 1, 511);
        assert_true(old || !memcmp(now + i, disk + i, 512));
    }
    img_close(img);
}

/* Each sector is the old one or the new one whatever fails, and the image is sound. */
static void try_existing(const char *format, const char *options, unsigned flags,
                         long *left_to_fail)
{
    const struct sample old = {"old.raw", format, options, NULL, flags};
    const struct sample into = {"source.raw", format, NULL, NULL, IMG_CONVERT_EXISTING};
    int ret = -1;
    long n = 1;
    for (; ret < 0 || *left_to_fail == 0; n++) {
        *left_to_fail = 0;
        assert_int_equal(convert(&old, "target", NULL), 0);
        long blocks = live;
        *left_to_fail = n;
        ret = convert(&into, "target", NULL);
        long left = *left_to_fail;
        *left_to_fail = 0;
        assert_int_equal(live, blocks);
        check_sound("target", format);
        if (!ret)
            check_disk("target");
        unlink(path("target"));
        *left_to_fail = left;
        assert_true(n < 5000);
    }
    assert_true(n > 10);
    *left_to_fail = 0;
}

static void try_all_existing(long *left_to_fail)
{
    static uint8_t old[DISK];
    memset(old, 'o', DISK);
    write_file("old.raw", old, DISK);
    try_existing("raw", NULL, 0, left_to_fail);
    try_existing("qcow2", "extended_l2=on", 0, left_to_fail);
    try_existing("qcow2", "cluster_size=4k", IMG_CONVERT_COMPRESS, left_to_fail); /* all moves */
    unlink(path("old.raw"));
}

static void allocations(void **state)
{
    (void)state;
    try_samples(&countdown);
    try_all_existing(&countdown);
}

static void host_calls(void **state)
{
    (void)state;
    try_samples(&io_countdown);
    try_all_existing(&io_countdown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations),
        cmocka_unit_test(host_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
