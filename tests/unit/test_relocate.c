/*
 * The n-th allocation of a relocation fails, for every n: each time the images are the old ones or
 * the new ones, no journal is left, and no memory. And what a callback is told.
 */
#include "alloc_faults.h"
#include "make_qcow2.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGES = 3 };

static char old_folder[400], new_folder[400], images[IMAGES][500], journal[500];
static uint8_t *before[IMAGES], *after[IMAGES];
static size_t sizes[IMAGES];

static uint8_t *read_all(const char *path, size_t *size)
{
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    *size = (size_t)ftell(in);
    rewind(in);
    uint8_t *data = __real_malloc(*size + 1);
    assert_int_equal(fread(data, 1, *size, in), *size);
    fclose(in);
    return data;
}

static void create(const char *path, const char *backing, const char *options)
{
    struct img_error err = IMG_ERROR_INIT;
    const struct img_create_options o = {.format = "qcow2",
                                         .size = 1 << 20,
                                         .backing_file = backing,
                                         .backing_format = backing ? "qcow2" : NULL,
                                         .options = options,
                                         .flags = IMG_CREATE_UNSAFE_BACKING};
    if (img_create(path, &o, &err) < 0)
        fail_msg("%s", img_error_message(&err));
}

/* Overlays in the test's folder over a base that is in both places. */
static int setup(void **state)
{
    (void)state;
    char base[600], name[600], json[800];
    snprintf(old_folder, sizeof old_folder, "%s", test_path("old"));
    snprintf(new_folder, sizeof new_folder, "%s", test_path("new"));
    assert_int_equal(mkdir(old_folder, 0700), 0);
    assert_int_equal(mkdir(new_folder, 0700), 0);
    snprintf(base, sizeof base, "%s/base", new_folder);
    create(base, NULL, NULL);
    snprintf(base, sizeof base, "%s/base", old_folder);
    create(base, NULL, NULL);
    snprintf(json, sizeof json,
             "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
             base);
    const char *const backing[IMAGES] = {base, "old/base", json};
    for (int i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "image%d", i);
        snprintf(images[i], sizeof images[i], "%s", test_path(name));
        create(images[i], backing[i], i == 1 ? "cluster_size=1k" : NULL);
        before[i] = read_all(images[i], &sizes[i]);
    }
    snprintf(journal, sizeof journal, "%s", test_path(".image0.imgtool-journal"));
    return 0;
}

static void put_back(void)
{
    for (int i = 0; i < IMAGES; i++) {
        FILE *out = fopen(images[i], "r+b");
        assert_non_null(out);
        assert_int_equal(fwrite(before[i], 1, sizes[i], out), sizes[i]);
        fclose(out);
    }
}

struct heard {
    unsigned changes;
    uint64_t done, total;
};

static void hear_change(void *opaque, const struct img_name_change *c)
{
    struct heard *h = opaque;
    assert_string_equal(c->what, "backing-file");
    assert_true(strstr(c->from, "old/base") && strstr(c->to, "new/base"));
    h->changes++;
}

static void hear_progress(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct heard *h = opaque;
    assert_true(!strcmp(phase, "compare") || !strcmp(phase, "relocate"));
    assert_true(done <= total && done >= h->done);
    h->done = done;
    h->total = total;
}

static int relocate(struct heard *h, struct img_name_changes *result, struct img_error *err)
{
    const char *const files[IMAGES] = {images[0], images[1], images[2]};
    const struct img_relocate_options o = {.from = old_folder,
                                           .to = new_folder,
                                           .change = hear_change,
                                           .progress = hear_progress,
                                           .opaque = h};
    return img_relocate(files, IMAGES, &o, result, err);
}

static void callbacks_are_told(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct heard h = {0};
    struct img_name_changes result;
    if (relocate(&h, &result, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    assert_int_equal(h.changes, 3);
    assert_int_equal(result.names, 3);
    assert_int_equal(result.changed, 3);
    assert_int_equal(result.images, 4);
    assert_false(result.finished);
    assert_int_equal(h.total, 1 << 20); /* three names lead to the same two files */
    assert_int_equal(h.done, h.total);
    for (int i = 0; i < IMAGES; i++) {
        size_t size;
        after[i] = read_all(images[i], &size);
        assert_int_equal(size, sizes[i]);
        assert_memory_not_equal(before[i], after[i], size);
    }
}

/* All are the old ones, or all the new ones. */
static void expect_one_state(long n, int ret)
{
    unsigned old = 0, new = 0;
    for (int i = 0; i < IMAGES; i++) {
        size_t size;
        uint8_t *now = read_all(images[i], &size);
        assert_int_equal(size, sizes[i]);
        old += !memcmp(now, before[i], size);
        new += !memcmp(now, after[i], size);
        __real_free(now);
    }
    if (old != (ret < 0 ? IMAGES : 0) || new != (ret < 0 ? 0 : IMAGES))
        fail_msg("allocation %ld: %u images are old, %u new; it returned %d", n, old, new, ret);
    assert_int_equal(access(journal, F_OK), -1);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct heard h = {0};
    put_back();
    long start = live, allocations = total_so_far;
    assert_int_equal(relocate(&h, NULL, NULL), 0);
    allocations = total_so_far - allocations;
    assert_int_equal(live, start);
    assert_true(allocations > 100);
    for (long n = 1; n <= allocations; n++) {
        h = (struct heard){0};
        put_back();
        countdown = n;
        int ret = relocate(&h, NULL, &err);
        assert_int_equal(countdown, 0);
        if (ret && ret != -ENOMEM)
            fail_msg("allocation %ld: %d, %s", n, ret, img_error_message(&err));
        expect_one_state(n, ret);
        img_error_clear(&err);
        if (live != start)
            fail_msg("allocation %ld: %ld blocks are left", n, live - start);
    }
}

static bool no(void *opaque)
{
    unsigned *count = opaque;
    return --*count == 0;
}

/* Whenever it is asked whether to go on, the answer may be no. */
static void it_can_be_cancelled(void **state)
{
    (void)state;
    const char *const files[IMAGES] = {images[0], images[1], images[2]};
    for (unsigned n = 1;; n++) {
        unsigned count = n;
        const struct img_relocate_options o = {
            .from = old_folder, .to = new_folder, .cancelled = no, .opaque = &count};
        put_back();
        int ret = img_relocate(files, IMAGES, &o, NULL, NULL);
        expect_one_state(n, ret);
        if (!ret) {
            assert_true(n > 5);
            break;
        }
        assert_int_equal(ret, -ECANCELED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callbacks_are_told),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(it_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
