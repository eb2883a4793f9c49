/*
 * The n-th allocation fails, for every n until all goes well: opening, describing, mapping and
 * reading images that have everything must end in one clean error each time, and leave nothing
 * behind.
 */
#include "alloc_faults.h"
#include "make_qcow2.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* ---- what is done each time --------------------------------------------------------------- */

static int ignore(void *opaque, const struct img_extent *e)
{
    (void)opaque, (void)e;
    return 0;
}

static void ignore_warning(void *opaque, enum img_warning warning, const char *message)
{
    (void)opaque, (void)warning, (void)message;
}

static int describe_all(struct img *img, struct img_error *err)
{
    int ret = 0;
    for (unsigned i = 0; i < img_depth(img) && !ret; i++) {
        struct img_info *info = NULL;
        ret = img_describe(img, i, &info, err);
        if (!ret)
            img_info_free(info);
    }
    return ret;
}

/* Opens, describes, maps, reads. */
static int use(const char *name, unsigned flags, const char *snapshot, struct img_error *err)
{
    static uint8_t buf[256 << 10];
    struct img_open_options options = {
        .flags = flags, .snapshot = snapshot, .warn = ignore_warning};
    struct img *img = NULL;
    int ret = img_open(&img, name, &options, err);
    if (ret < 0)
        return ret;
    ret = describe_all(img, err);
    if (!ret)
        ret = img_map(img, 0, UINT64_MAX, ignore, NULL, err);
    if (!ret)
        ret = img_read(img, buf, sizeof buf, 0, err);
    if (!ret)
        ret = img_read(img, buf, 1000, 3, err); /* compressed clusters, in part */
    img_close(img);
    return ret;
}

static int use_chain(const char *name, unsigned flags, const char *snapshot, struct img_error *err)
{
    struct img_open_options options = {.flags = flags, .warn = ignore_warning};
    struct img_chain_info chain;
    (void)snapshot;
    int ret = img_chain_info(&chain, name, &options, err);
    img_chain_info_free(&chain);
    return ret;
}

/* NAME is a folder, and SNAPSHOT a file in it. */
static int use_tree(const char *name, unsigned flags, const char *snapshot, struct img_error *err)
{
    struct img_tree *tree;
    struct img_tree_dependents dependents;
    int ret = img_tree_read(&tree, &name, 1, flags, err);
    if (ret < 0)
        return ret;
    ret = img_tree_find_dependents(&dependents, tree, snapshot, err);
    img_tree_dependents_free(&dependents);
    img_tree_free(tree);
    return ret;
}

static int use_plan(const char *name, unsigned flags, const char *snapshot, struct img_error *err)
{
    const struct img_open_options open = {.warn = ignore_warning};
    const struct img_plan_options options = {.depth = 1, .flags = flags, .open = &open};
    struct img_merge_plan *plan;
    (void)snapshot;
    int ret = img_plan_merge(&plan, name, &options, err);
    if (!ret)
        img_merge_plan_free(plan);
    return ret;
}

typedef int (*job)(const char *name, unsigned flags, const char *snapshot, struct img_error *err);

/* With all memory, RUN must answer EXPECTED; for each allocation that fails, that or -ENOMEM. */
static void every_failure(job run, const char *name, unsigned flags, const char *snapshot,
                          int expected)
{
    struct img_error err = IMG_ERROR_INIT;
    long before = live, allocations = total_so_far;
    int ret = run(name, flags, snapshot, &err);
    if (ret != expected)
        fail_msg("'%s': %d, %s", name, ret, img_error_message(&err));
    img_error_clear(&err);
    allocations = total_so_far - allocations;
    assert_int_equal(live, before);
    assert_true(allocations > 10);
    for (long n = 1; n <= allocations; n++) {
        countdown = n;
        ret = run(name, flags, snapshot, &err);
        if (countdown)
            fail_msg("'%s': allocation %ld of %ld was not reached", name, n, allocations);
        if (ret != -ENOMEM && ret != expected)
            fail_msg("'%s', allocation %ld: %d, %s", name, n, ret, img_error_message(&err));
        assert_int_equal(err.code, -ret);
        assert_int_equal(*img_error_message(&err) == 0, 0);
        img_error_clear(&err);
        if (live != before)
            fail_msg("'%s', allocation %ld: %ld blocks are left", name, n, live - before);
    }
}

/* ---- the images --------------------------------------------------------------------------- */

static void add_compressed(struct image *m, size_t index)
{
    uint8_t in[4096], out[8192];
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i / 9);
    z_stream z = {.next_in = in, .avail_in = sizeof in, .next_out = out, .avail_out = sizeof out};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t at = image_grow(m, 1);
    memcpy(m->data + at, out, z.total_out);
    image_set_entry(m, index, ENTRY_COMPRESSED | (z.total_out - 1) / 512 << 58 | at, 0);
    deflateEnd(&z);
}

static void write_images(void)
{
    static const struct snapshot_spec snapshots[] = {
        {"1", "first", 24, 1 << 20}, {"2", "second", 16, 1 << 20}, {"3", "third", 0, 0}};
    uint8_t names[96] = {[1] = 1, [49] = 7};
    strcpy((char *)names + 2, "corrupt");
    strcpy((char *)names + 50, "unheard of");

    write_file(test_path("base.raw"), "raw", 3);
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    image_set_backing(&m, "base.raw"); /* of unstated format: it is probed, with a warning */
    image_set_entry(&m, 3, image_add_data(&m, 'm'), 0);
    image_write(&m, "mid.qcow2");
    image_free(&m);

    m = make_qcow2(3, 12, 1 << 20, 0);
    image_set_backing(&m, "mid.qcow2");
    image_extend(&m, EXT_BACKING_FORMAT, "qcow2", 5);
    image_extend(&m, EXT_FEATURE_NAMES, names, sizeof names);
    image_set_entry(&m, 1, image_add_data(&m, 't'), 0);
    image_set_entry(&m, 2, ENTRY_ZERO, 0);
    add_compressed(&m, 0);
    add_compressed(&m, 5);
    image_add_snapshots(&m, snapshots, 3);
    image_add_bitmap(&m, "bitmap");
    image_write(&m, "top.qcow2");
    SET64(&m, incompatible_features, 1 << 7 | 1 << 9);
    image_write(&m, "unknown.qcow2");
    image_free(&m);

    m = make_qcow2(3, 12, 1 << 20, INCOMPAT_DATA_FILE);
    image_extend(&m, EXT_DATA_FILE, "disk.data", 9);
    image_set_entry(&m, 0, ENTRY_COPIED, 0);
    image_write(&m, "data-file.qcow2");
    image_free(&m);
    write_file(test_path("disk.data"), "data", 4);

    m = make_qcow2(3, 12, 1 << 20, 0);
    image_set_backing(&m, "lost.qcow2");
    image_extend(&m, EXT_BACKING_FORMAT, "qcow2", 5);
    image_write(&m, "broken.qcow2");
    image_free(&m);
}

static void an_image_with_everything(void **state)
{
    (void)state;
    every_failure(use, test_path("top.qcow2"), 0, NULL, 0);
    every_failure(use, test_path("top.qcow2"), IMG_OPEN_NO_BACKING, "second", 0);
    every_failure(use_chain, test_path("top.qcow2"), 0, NULL, 0);
}

static void a_data_file(void **state)
{
    (void)state;
    every_failure(use, test_path("data-file.qcow2"), 0, NULL, 0);
}

static void images_that_are_refused(void **state)
{
    (void)state;
    every_failure(use, test_path("unknown.qcow2"), 0, NULL, -ENOTSUP);
    every_failure(use, test_path("broken.qcow2"), 0, NULL, -ENOENT);
    every_failure(use_chain, test_path("broken.qcow2"), 0, NULL, -ENOENT);
    every_failure(use, test_path("top.qcow2"), 0, "no such", -ENOENT);
}

static void names_of_every_kind(void **state)
{
    (void)state;
    char name[2000];
    snprintf(name, sizeof name,
             "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"},"
             "\"backing\":{\"driver\":\"raw\",\"offset\":0,\"file.filename\":\"%s\"}}",
             test_path("top.qcow2"), test_path("base.raw"));
    every_failure(use, name, 0, NULL, 0);
    snprintf(name, sizeof name,
             "driver=qcow2,file.filename=%s,backing.driver=raw,"
             "backing.file.filename=%s,backing.size=0",
             test_path("top.qcow2"), test_path("base.raw"));
    every_failure(use, name, IMG_OPEN_IMAGE_OPTS, NULL, 0);
}

/* The folder of the test's files, with every image that was written above. */
static void a_tree_and_a_plan(void **state)
{
    (void)state;
    char folder[400], link[500];
    snprintf(folder, sizeof folder, "%s", test_path("tree"));
    assert_int_equal(mkdir(folder, 0700), 0);
    static const char *const names[] = {"base.raw",        "mid.qcow2",    "top.qcow2",
                                        "data-file.qcow2", "broken.qcow2", "unknown.qcow2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(link, sizeof link, "%s/%s", folder, names[i]);
        assert_int_equal(symlink(test_path(names[i]), link), 0);
    }
    snprintf(link, sizeof link, "%s/second-name.qcow2", folder);
    assert_int_equal(symlink("mid.qcow2", link), 0);
    every_failure(use_tree, folder, 0, test_path("base.raw"), 0);
    every_failure(use_tree, folder, IMG_TREE_FLAT, test_path("no such"), -ENOENT);
    every_failure(use_plan, test_path("mid.qcow2"), IMG_PLAN_MERGE_TOP, NULL, 0);
    every_failure(use_plan, test_path("top.qcow2"), 0, NULL, 0);
}

static int setup(void **state)
{
    (void)state;
    write_images();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_with_everything), cmocka_unit_test(a_data_file),
        cmocka_unit_test(images_that_are_refused),  cmocka_unit_test(names_of_every_kind),
        cmocka_unit_test(a_tree_and_a_plan),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
