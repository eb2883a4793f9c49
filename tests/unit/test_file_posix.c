/* Files of this host: reads, the end, holes, identity, and what is no file. */
#include "make_qcow2.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static struct file *open_file(const char *path)
{
    struct file *f = NULL;
    struct img_error err = IMG_ERROR_INIT;
    if (file_open_posix(&f, path, false, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    return f;
}

static void expect_refused(const char *path, int code, const char *format)
{
    struct img_error err = IMG_ERROR_INIT;
    struct file *f;
    char want[600];
    snprintf(want, sizeof want, format, path);
    expect_error(&err, file_open_posix(&f, path, false, &err), code, want);
}

static void what_is_no_file(void **state)
{
    (void)state;
    expect_refused(test_path("missing"), ENOENT, "Could not open '%s': No such file or directory");
    expect_refused(test_path(""), EINVAL, "'file' driver requires '%s' to be a regular file");
    assert_int_equal(mkfifo(test_path("fifo"), 0666), 0);
    expect_refused(test_path("fifo"), EINVAL, /* and it does not wait for a writer */
                   "'file' driver requires '%s' to be a regular file");
    assert_int_equal(symlink("loop", test_path("loop")), 0);
    expect_refused(test_path("loop"), ELOOP,
                   "Could not open '%s': Too many levels of symbolic links");
}

static void reading_to_the_end(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    uint8_t buf[16];
    uint64_t size;
    char want[600];
    const char *path = test_path("ten");
    write_file(path, "0123456789", 10);
    struct file *f = open_file(path);
    assert_string_equal(f->ops->protocol, "file");
    assert_int_equal(file_size(f, &size, &err), 0);
    assert_int_equal(size, 10);
    assert_int_equal(file_read(f, buf, 10, host(0), &err), 0);
    assert_memory_equal(buf, "0123456789", 10);
    snprintf(want, sizeof want, "'%s' ends at 0xa, 5 bytes at 0x8 wanted", path);
    expect_error(&err, file_read(f, buf, 5, host(8), &err), EINVAL, want);
    memset(buf, 0xee, sizeof buf);
    assert_int_equal(file_read_padded(f, buf, 5, host(8), &err), 0);
    assert_memory_equal(buf, "89\0\0\0\xee", 6);
    assert_int_equal(file_read_padded(f, buf, 5, host(1ull << 60), &err), 0);
    assert_memory_equal(buf, "\0\0\0\0\0", 5);
    snprintf(want, sizeof want, "Read of 2 bytes at 0x7fffffffffffffff of '%s' is out of range",
             path);
    expect_error(&err, file_read_padded(f, buf, 2, host(INT64_MAX), &err), EINVAL, want);
    write_file(path, "0123456789abc", 13); /* it grew: asked anew each time */
    assert_int_equal(file_size(f, &size, &err), 0);
    assert_int_equal(size, 13);
    file_close(f);
    file_close(NULL);
}

static void host_errors_are_told(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    char byte, want[600];
    const char *path = test_path("gone");
    write_file(path, "x", 1);
    struct file *f = open_file(path);
    int fd = f->fd, write_only = open(path, O_WRONLY);
    f->fd = write_only;
    snprintf(want, sizeof want, "Could not read 1 bytes at 0 of '%s': Bad file descriptor", path);
    expect_error(&err, file_read(f, &byte, 1, host(0), &err), EBADF, want);
    f->fd = 12345;
    uint64_t size;
    snprintf(want, sizeof want, "Could not get the size of '%s': Bad file descriptor", path);
    expect_error(&err, file_size(f, &size, &err), EBADF, want);
    f->fd = fd;
    close(write_only);
    file_close(f);
}

static void holes(void **state)
{
    (void)state;
    enum { MIB = 1 << 20 };
    const char *path = test_path("sparse");
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    char block[65536];
    memset(block, 'x', sizeof block);
    assert_int_equal(pwrite(fd, block, sizeof block, MIB), sizeof block);
    assert_int_equal(ftruncate(fd, 4 * MIB), 0);
    close(fd);
    struct file *f = open_file(path);
    struct file_extent e;
    assert_int_equal(f->ops->extent(f, host(0), &e), 0);
    if (e.data) { /* a file system that knows no holes: everything is data */
        assert_true(e.length >= 4 * MIB);
        file_close(f);
        return;
    }
    assert_int_equal(e.length, MIB);
    assert_int_equal(f->ops->extent(f, host(1000), &e), 0);
    assert_false(e.data);
    assert_int_equal(e.length, MIB - 1000);
    assert_int_equal(f->ops->extent(f, host(MIB + 1), &e), 0);
    assert_true(e.data);
    assert_int_equal(e.length, sizeof block - 1);
    assert_int_equal(f->ops->extent(f, host(MIB + sizeof block), &e), 0);
    assert_false(e.data);
    assert_true(e.length >= 3 * MIB - sizeof block);
    assert_int_equal(f->ops->extent(f, host(1ull << 50), &e), 0); /* past the end: a hole */
    assert_false(e.data);
    assert_true(f->ops->allocated(f) < 2 * MIB);
    file_close(f);
}

static void identity_is_not_the_name(void **state)
{
    (void)state;
    write_file(test_path("one"), "", 0);
    write_file(test_path("two"), "", 0);
    assert_int_equal(link(test_path("one"), test_path("hard")), 0);
    assert_int_equal(symlink("one", test_path("soft")), 0);
    struct file *one = open_file(test_path("one")), *hard = open_file(test_path("hard"));
    struct file *soft = open_file(test_path("soft")), *two = open_file(test_path("two"));
    assert_memory_equal(&one->id, &hard->id, sizeof one->id);
    assert_memory_equal(&one->id, &soft->id, sizeof one->id);
    assert_memory_not_equal(&one->id, &two->id, sizeof one->id);
    file_close(one);
    file_close(hard);
    file_close(soft);
    file_close(two);
}

/* No file of ours reaches a child, and reading leaves no lock or position behind. */
static void descriptors_are_closed_on_exec(void **state)
{
    (void)state;
    write_file(test_path("one"), "", 0);
    struct file *f = open_file(test_path("one"));
    assert_true(fcntl(f->fd, F_GETFD) & FD_CLOEXEC);
    int fd = f->fd;
    file_close(f);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void character_devices(void **state)
{
    (void)state;
    struct file *f = open_file("/dev/null");
    uint64_t size = 1;
    assert_string_equal(f->ops->protocol, "host_device");
    assert_int_equal(file_size(f, &size, NULL), 0);
    assert_int_equal(size, 0);
    file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_file),
        cmocka_unit_test(reading_to_the_end),
        cmocka_unit_test(host_errors_are_told),
        cmocka_unit_test(holes),
        cmocka_unit_test(identity_is_not_the_name),
        cmocka_unit_test(descriptors_are_closed_on_exec),
        cmocka_unit_test(character_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
