/* Which format is a file in: the magic of each, and what only resembles one. */
#include "make_qcow2.h"

#include <stdio.h>

static const char *probe(const void *data, size_t size, bool far, bool *guessed)
{
    const struct driver *d = NULL;
    struct file *f;
    assert_int_equal(file_open_memory(&f, "probed", data, size, NULL), 0);
    assert_int_equal(driver_probe(&d, f, far, guessed, NULL), 0);
    file_close(f);
    return d->name;
}

static void expect_probe(const void *data, size_t size, const char *name)
{
    bool guessed;
    assert_string_equal(probe(data, size, false, &guessed), name);
    assert_int_equal(guessed, !strcmp(name, "raw"));
}

#define MAGIC(text, name)                                                                          \
    do {                                                                                           \
        uint8_t head[600] = text;                                                                  \
        expect_probe(head, sizeof head, name);                                                     \
        expect_probe(head, sizeof(text) - 2, "raw"); /* one byte short */                          \
    } while (0)

static void magics(void **state)
{
    (void)state;
    MAGIC("QFI\xfb\0\0\0\3", "qcow2");
    MAGIC("QFI\xfb\0\0\0\2", "qcow2");
    MAGIC("QFI\xfb\0\0\0\1", "qcow");
    MAGIC("QED\0", "qed");
    MAGIC("KDMV", "vmdk");
    MAGIC("COWD", "vmdk");
    MAGIC("vhdxfile", "vhdx");
    MAGIC("conectix", "vpc");
    MAGIC("LUKS\xba\xbe", "luks");
    MAGIC("WithoutFreeSpace", "parallels");
    MAGIC("WithouFreSpacExt", "parallels");
    uint8_t vdi[0x44] = {0};
    memcpy(vdi + 0x40, "\x7f\x10\xda\xbe", 4);
    expect_probe(vdi, sizeof vdi, "vdi");
    expect_probe(vdi, sizeof vdi - 1, "raw");
    expect_probe("", 0, "raw");
    expect_probe("QFI\xfb\0\0\0\0", 8, "raw");
    expect_probe("QFI\xfb\0\0\0\x63", 8, "qcow2"); /* refused by name, not taken for raw */
}

static void vmdk_descriptors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name;
    } cases[] = {
        {"version=1\n", "vmdk"},
        {"version=3", "vmdk"},
        {"# Disk DescriptorFile\n\nversion=2\r\n", "vmdk"},
        {"#\r\n\r\n \n# more\nversion=1\n", "vmdk"},
        {"version=4\n", "raw"},
        {"version=", "raw"},
        {"Version=1\n", "raw"},
        {"# a comment alone", "raw"},
        {"#\nsomething else\nversion=1\n", "raw"},
        {"\n\n\n", "raw"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_probe(cases[i].text, strlen(cases[i].text), cases[i].name);
    char long_comment[4000];
    memset(long_comment, '#', sizeof long_comment);
    memcpy(long_comment + 3000, "\nversion=1\n", 11); /* past what is looked at */
    expect_probe(long_comment, sizeof long_comment, "raw");
}

static void what_stands_further_on(void **state)
{
    (void)state;
    uint8_t *iso = calloc(1, 40000);
    bool guessed;
    memcpy(iso + 32769, "CD001", 5);
    assert_string_equal(probe(iso, 40000, true, &guessed), "iso");
    assert_true(guessed);
    assert_string_equal(probe(iso, 40000, false, &guessed), "raw"); /* as QEMU */
    assert_string_equal(probe(iso, 32774, true, &guessed), "iso");
    assert_string_equal(probe(iso, 32773, true, &guessed), "raw");
    memcpy(iso, "LUKS\xba\xbe", 6); /* the first bytes go first */
    assert_string_equal(probe(iso, 40000, true, &guessed), "luks");
    assert_false(guessed);
    free(iso);

    uint8_t vhd[4096] = {0};
    memcpy(vhd + 4096 - 512, "conectix", 8);
    assert_string_equal(probe(vhd, sizeof vhd, true, &guessed), "vpc");
    assert_string_equal(probe(vhd, sizeof vhd, false, &guessed), "raw");
    assert_string_equal(probe(vhd, sizeof vhd - 1, true, &guessed), "raw");
}

static void open_memory(struct img_error *err, const void *data, size_t size, const char *format,
                        unsigned flags, int code, const char *message)
{
    struct img *img;
    int ret = img_open_memory(&img, data, size, format, flags, err);
    if (!ret) {
        assert_null(message);
        assert_string_equal(img_layer_format(img, 0), "raw");
        img_close(img);
        return;
    }
    assert_non_null(message);
    expect_error(err, ret, code, message);
}

static void foreign_formats_are_refused(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    uint8_t *iso = calloc(1, 40000);
    memcpy(iso + 32769, "CD001", 5);
    open_memory(&err, "KDMV", 4, NULL, 0, ENOTSUP,
                "Format 'vmdk' is recognised, but cannot be read");
    open_memory(&err, "KDMV", 4, "raw", 0, 0, NULL);
    open_memory(&err, "KDMV", 4, "vmdx", 0, EINVAL, "Unknown driver 'vmdx'");
    open_memory(&err, iso, 40000, NULL, IMG_OPEN_PROBE_LIKE_QEMU, 0, NULL);
    struct img *img;
    int ret = img_open_memory(&img, iso, 40000, NULL, 0, &err);
    assert_string_equal(
        err.hint, "An ISO image is a plain disk too: state the format raw to read it as one.");
    expect_error(&err, ret, ENOTSUP, "Format 'iso' is recognised, but cannot be read");
    free(iso);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(magics),
        cmocka_unit_test(vmdk_descriptors),
        cmocka_unit_test(what_stands_further_on),
        cmocka_unit_test(foreign_formats_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
