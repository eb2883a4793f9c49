/*
 * rebase and commit while the n-th allocation fails, for every n until all goes well: each time it
 * is one clean error, nothing is left in memory, the image reads its old bytes and is not corrupt,
 * and the same call, made again, ends as it should. On one processor, so that it is always the same
 * allocation.
 */
#include "alloc_faults.h"
#include "build_image.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

enum { SIZE = 96 << 10, LOW_SIZE = 64 << 10, CLUSTER_BITS = 9 };

static uint8_t old_base[SIZE], new_base[LOW_SIZE], disk[SIZE];
static struct image top;

/* ---- files --------------------------------------------------------------------------------- */

static void fail_with(const char *what, const struct img_error *err)
{
    fail_msg("%s: %s", what, img_error_message(err));
}

static struct image overlay(const char *base)
{
    struct image m = make_qcow2(3, CLUSTER_BITS, SIZE, 0);
    image_set_backing(&m, base);
    image_extend(&m, EXT_BACKING_FORMAT, "raw", 3);
    image_set_entry(&m, 2, image_add_filled(&m, 1) | ENTRY_COPIED, 0);
    image_set_entry(&m, 5, ENTRY_ZERO, 0);
    image_settle_refcounts(&m);
    return m;
}

static void lay_out(void)
{
    write_file(test_path("old.raw"), old_base, sizeof old_base);
    write_file(test_path("new.raw"), new_base, sizeof new_base);
    image_write(&top, "top.qcow2");
}

static void read_disk(const char *name, uint8_t *out)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options o = {.format = "qcow2"};
    struct img *img = NULL;
    if (img_open(&img, test_path(name), &o, &err) < 0 || img_read(img, out, SIZE, 0, &err) < 0)
        fail_with(name, &err);
    img_close(img);
}

static void expect_sound(const char *name, bool leaks)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options o = {.format = "qcow2", .flags = IMG_OPEN_CHECK};
    struct img_check c;
    struct img *img = NULL;
    if (img_open(&img, test_path(name), &o, &err) < 0 || img_check(img, &c, NULL, NULL, &err) < 0)
        fail_with(name, &err);
    img_close(img);
    assert_int_equal(c.corruptions, 0);
    if (!leaks)
        assert_int_equal(c.leaks, 0);
}

static void expect_disk(const char *when)
{
    static uint8_t now[SIZE];
    read_disk("top.qcow2", now);
    for (size_t i = 0; i < SIZE; i++)
        if (now[i] != disk[i])
            fail_msg("%s: byte %zu is %02x, was %02x", when, i, now[i], disk[i]);
}

/* ---- what is done -------------------------------------------------------------------------- */

static int rebase(const char *base, unsigned flags, struct img_error *err)
{
    struct img_open_options open = {.format = "qcow2"};
    struct img_rebase_options o = {
        .backing_file = base, .backing_format = "raw", .flags = flags, .open = &open};
    return img_rebase(test_path("top.qcow2"), &o, NULL, err);
}

static int to_new(struct img_error *err)
{
    return rebase("new.raw", 0, err);
}

static int to_none(struct img_error *err)
{
    return rebase("", IMG_REBASE_COMPRESS, err);
}

static int dry_run(struct img_error *err)
{
    return rebase("new.raw", IMG_REBASE_DRY_RUN, err);
}

static int unsafe(struct img_error *err)
{
    return rebase("./old.raw", IMG_REBASE_UNSAFE | IMG_REBASE_COMPARE, err);
}

static int commit(struct img_error *err)
{
    struct img_open_options open = {.format = "qcow2"};
    struct img_commit_options o = {.open = &open};
    return img_commit(test_path("top.qcow2"), &o, NULL, err);
}

static const struct {
    const char *name;
    int (*run)(struct img_error *err);
} jobs[] = {
    {"rebase", to_new},
    {"rebase -c to none", to_none},
    {"rebase --dry-run", dry_run},
    {"rebase -u", unsafe},
    {"commit", commit},
};

/* True: the N-th allocation failed. */
static bool try_one(size_t job, long n)
{
    struct img_error err = IMG_ERROR_INIT;
    lay_out();
    long before = live;
    countdown = n;
    int ret = jobs[job].run(&err);
    bool failed = countdown == 0;
    countdown = 0;
    if (ret < 0 && (ret != -ENOMEM || err.code != ENOMEM))
        fail_with(jobs[job].name, &err);
    img_error_clear(&err);
    if (live != before)
        fail_msg("%s, allocation %ld: %ld blocks are left", jobs[job].name, n, live - before);
    expect_disk("after a fault");
    expect_sound("top.qcow2", true);
    if (ret < 0 && jobs[job].run(&err) < 0)
        fail_with("the second time", &err);
    expect_disk("after the second time");
    expect_sound("top.qcow2", true);
    return failed;
}

static void every_allocation(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        long n = 1;
        while (try_one(i, n))
            n++;
        print_message("%s: %ld allocations\n", jobs[i].name, n - 1);
        assert_true(n > 20);
    }
}

static void without_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        struct img_error err = IMG_ERROR_INIT;
        lay_out();
        if (jobs[i].run(&err) < 0)
            fail_with(jobs[i].name, &err);
        expect_disk(jobs[i].name);
        expect_sound("top.qcow2", false);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_faults),
        cmocka_unit_test(every_allocation),
    };
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    fill_bytes(old_base, sizeof old_base, 3);
    memset(old_base + 20000, 0, 3000);
    memcpy(new_base, old_base, sizeof new_base);
    fill_bytes(new_base + 9000, 5000, 4);
    top = overlay("old.raw");
    lay_out();
    read_disk("top.qcow2", disk);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    image_free(&top);
    return failed;
}
