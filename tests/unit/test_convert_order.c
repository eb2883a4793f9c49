/*
 * convert into an image that exists, on several threads: nothing is being written while the image
 * is flushed, else what it brings to disk next could lead to what is not there. Some writes take
 * their time, so that they would be seen.
 */
#include <imgtool.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* More clusters of 512 bytes than an image lets go of before it flushes. */
enum { DISK = 36 << 20, LARGE = 32 << 10, EVERY = 20, PAUSE = 100000 };

static atomic_uint writing, large, flushes, disturbed;

ssize_t __real_pwrite64(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t n, off_t at);
int __real_fsync(int fd);
int __wrap_fsync(int fd);

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t n, off_t at)
{
    writing++;
    if (n >= LARGE && large++ % EVERY == 0)
        usleep(PAUSE);
    ssize_t ret = __real_pwrite64(fd, buf, n, at);
    writing--;
    return ret;
}

int __wrap_fsync(int fd)
{
    flushes++;
    disturbed += writing > 0;
    return __real_fsync(fd);
}

static char folder[] = "/tmp/test_convert_order_XXXXXX";

static const char *path(const char *name)
{
    static char text[4][128];
    static unsigned turn;
    char *p = text[turn++ % 4];
    snprintf(p, sizeof text[0], "%s/%s", folder, name);
    return p;
}

static void write_disk(const char *name, const uint8_t *disk)
{
    FILE *f = fopen(path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(disk, 1, DISK, f), DISK);
    fclose(f);
}

static void convert(const char *name, const char *options, unsigned flags)
{
    const char *source = path(name);
    const struct img_convert_options o = {.sources = &source,
                                          .source_count = 1,
                                          .open = &(struct img_open_options){.format = "raw"},
                                          .format = "qcow2",
                                          .options = options,
                                          .flags = flags,
                                          .threads = 6};
    assert_int_equal(img_convert(path("target"), &o, NULL), 0);
}

static void check_target(const uint8_t *disk, uint8_t *now)
{
    struct img *img;
    assert_int_equal(img_open(&img, path("target"), NULL, NULL), 0);
    assert_int_equal(img_read(img, now, DISK, 0, NULL), 0);
    assert_memory_equal(now, disk, DISK);
    img_close(img);
}

static void flushed_when_all_is_written(void **state)
{
    (void)state;
    uint8_t *disk = malloc(DISK), *now = malloc(DISK);
    uint32_t random = 1;
    assert_true(disk && now);
    memset(disk, 'o', DISK);
    write_disk("old", disk);
    for (size_t i = 0; i < DISK; i++) {
        random = random * 1103515245 + 12345;
        disk[i] = (uint8_t)(random >> 16);
    }
    write_disk("new", disk);
    convert("old", "cluster_size=512", IMG_CONVERT_COMPRESS);
    large = flushes = disturbed = 0;
    convert("new", NULL, IMG_CONVERT_EXISTING);
    assert_int_equal(disturbed, 0);
    assert_true(large > 10 * EVERY);
    assert_true(flushes > 3); /* not only at the end */
    print_message("%u flushes among %u large writes\n", flushes, large);
    check_target(disk, now);
    free(disk);
    free(now);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path("old"));
    unlink(path("new"));
    unlink(path("target"));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(flushed_when_all_is_written)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
