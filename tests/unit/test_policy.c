/* How names inside images resolve, and what may be opened unasked. */
#include "lib/policy.h"
#include "make_qcow2.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void expect_backing(const char *overlay, const char *name, const char *want)
{
    char *full;
    assert_int_equal(policy_backing_name(&full, overlay, name, NULL), 0);
    assert_string_equal(full, want);
    free(full);
}

static void backing_names(void **state)
{
    (void)state;
    expect_backing("top.qcow2", "base.img", "base.img");
    expect_backing("dir/top.qcow2", "base.img", "dir/base.img");
    expect_backing("/a/b/top.qcow2", "../base.img", "/a/b/../base.img");
    expect_backing("/top.qcow2", "base.img", "/base.img");
    expect_backing("dir/top.qcow2", "/abs/base.img", "/abs/base.img");
    expect_backing("dir/top.qcow2", "nbd:host:1", "nbd:host:1");
    expect_backing("dir/top.qcow2", "file:base.img", "file:base.img");
    expect_backing("dir/top.qcow2", "json:{\"a\":1}", "json:{\"a\":1}");
    expect_backing("dir/top.qcow2", "sub/a:b", "dir/sub/a:b");
    expect_backing("json:{}", "/abs/base.img", "/abs/base.img");
    struct img_error err = IMG_ERROR_INIT;
    char *full;
    int ret = policy_backing_name(&full, "json:{\"driver\": \"raw\"}", "base.img", &err);
    expect_error(&err, ret, EINVAL,
                 "Cannot use relative backing file names for 'json:{\"driver\": \"raw\"}'");
}

static void expect_data_file(const char *image, const char *name, const char *want)
{
    char *path;
    assert_int_equal(policy_data_file_path(&path, image, name, NULL), 0);
    assert_string_equal(path, want);
    free(path);
}

/* The current folder first, as QEMU; else beside the image; where neither is, the name as it
 * stands. */
static void data_file_names(void **state)
{
    (void)state;
    char before[PATH_MAX];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(mkdir(test_path("here"), 0777), 0);
    assert_int_equal(mkdir(test_path("here/images"), 0777), 0);
    assert_int_equal(chdir(test_path("here")), 0);
    write_file("both", "", 0);
    write_file("images/both", "", 0);
    write_file("images/beside", "", 0);
    write_file("json:{}", "", 0);
    expect_data_file("images/a.qcow2", "both", "both");
    expect_data_file("images/a.qcow2", "beside", "images/beside");
    expect_data_file("images/a.qcow2", "nowhere", "nowhere");
    expect_data_file("a.qcow2", "beside", "beside");
    expect_data_file("images/a.qcow2", "/beside", "/beside");
    expect_data_file("images/a.qcow2", "json:{}", "json:{}"); /* a path like any other */
    assert_int_equal(chdir(before), 0);
}

static void absolute_names(void **state)
{
    (void)state;
    char *folder = realpath(test_path(""), NULL), want[PATH_MAX], *got;
    write_file(test_path("there"), "", 0);
    snprintf(want, sizeof want, "%s/there", folder);
    got = policy_absolute(test_path("./there"));
    assert_string_equal(got, want);
    free(got);
    snprintf(want, sizeof want, "%s/missing", folder);
    got = policy_absolute(test_path("./missing")); /* its folder can still be named */
    assert_string_equal(got, want);
    free(got);
    char *here = getcwd(NULL, 0);
    snprintf(want, sizeof want, "%s/no/such/folder/x", here);
    got = policy_absolute("no/such/folder/x");
    assert_string_equal(got, want);
    free(here);
    free(got);
    got = policy_absolute("nbd:host:1");
    assert_string_equal(got, "nbd:host:1");
    free(got);
    got = policy_absolute("/missing");
    assert_string_equal(got, "/missing");
    free(got);
    free(folder);
}

static void backing_files_of_unstated_format(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct file *f;
    assert_int_equal(file_open_memory(&f, "base.img", "", 0, NULL), 0);
    const struct driver *iso = driver_by_name("iso"), *raw = driver_by_name("raw");
    assert_int_equal(policy_probed_backing(raw, f, true, &err), 0);
    assert_int_equal(policy_probed_backing(driver_by_name("qcow2"), f, false, &err), 0);
    assert_int_equal(policy_probed_backing(driver_by_name("vpc"), f, false, &err), 0);
    expect_error(
        &err, policy_probed_backing(iso, f, true, &err), ENOTSUP,
        "Backing file 'base.img' has no stated format; it would be taken for raw, but looks "
        "like 'iso'");
    file_close(f);
    assert_null(driver_by_name("bochs"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backing_names),
        cmocka_unit_test(data_file_names),
        cmocka_unit_test(absolute_names),
        cmocka_unit_test(backing_files_of_unstated_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
