/* Formats of backing files that images do not state: which are written, and which are not. */
#include "make_qcow2.h"

#include <stdio.h>
#include <unistd.h>

enum { SIZE = 1 << 20 };

/* An image of the test, of SIZE bytes. FORMAT NULL: it states none. */
static void layer(const char *name, const char *backing, const char *format)
{
    struct image m = make_qcow2(3, 12, SIZE, 0);
    if (format)
        image_extend(&m, EXT_BACKING_FORMAT, format, strlen(format));
    image_set_backing(&m, backing);
    image_write(&m, name);
    image_free(&m);
}

/* A file of LENGTH bytes, zeroes but for TEXT at AT. */
static void file(const char *name, size_t length, size_t at, const char *text, size_t text_length)
{
    uint8_t *data = calloc(1, length + 1);
    memcpy(data + at, text, text_length);
    write_file(test_path(name), data, length);
    free(data);
}

struct heard {
    char text[2000];
};

static void hear(void *opaque, const struct img_name_change *c)
{
    struct heard *h = opaque;
    size_t n = strlen(h->text);
    const char *slash = strrchr(c->filename, '/');
    snprintf(h->text + n, sizeof h->text - n, "%s %s %s->%s;", slash ? slash + 1 : c->filename,
             c->what, c->from ? c->from : "", c->to);
}

static void hear_warning(void *opaque, enum img_warning warning, const char *message)
{
    struct heard *h = opaque;
    size_t n = strlen(h->text);
    (void)message;
    if (warning == IMG_WARN_CHAIN_ENDS)
        snprintf(h->text + n, sizeof h->text - n, "(the chain ends)");
}

static int fix(const char *name, bool trust, bool dry, struct heard *h, struct img_error *err)
{
    const struct img_fix_formats_options o = {
        .trust_raw = trust, .dry_run = dry, .change = hear, .warn = hear_warning, .opaque = h};
    *h = (struct heard){""};
    return img_fix_backing_formats(test_path(name), &o, NULL, err);
}

static void expect(const char *name, const char *text)
{
    struct img_error err = IMG_ERROR_INIT;
    struct heard h;
    if (fix(name, false, false, &h, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    assert_string_equal(h.text, text);
}

static void expect_format(const char *name, const char *format)
{
    struct img_open_options o = {.flags = IMG_OPEN_NO_DATA};
    struct img *img;
    struct img_info *info;
    assert_int_equal(img_open(&img, test_path(name), &o, NULL), 0);
    assert_int_equal(img_describe(img, 0, &info, NULL), 0);
    if (format)
        assert_string_equal(info->backing_format, format);
    else
        assert_null(info->backing_format);
    img_info_free(info);
    img_close(img);
}

static void expect_refusal(const char *name, int code, const char *text)
{
    struct img_error err = IMG_ERROR_INIT;
    struct heard h;
    assert_int_equal(fix(name, false, false, &h, &err), -code);
    if (!strstr(img_error_message(&err), text))
        fail_msg("'%s'", img_error_message(&err));
    img_error_clear(&err);
    expect_format(name, NULL);
}

static void the_whole_chain_is_fixed(void **state)
{
    (void)state;
    file("base", SIZE, 0, "", 0);
    layer("low", "base", NULL);
    layer("mid", "low", "qcow2");
    layer("top", "mid", NULL);
    struct heard h;
    struct img_error err = IMG_ERROR_INIT;
    static const char changes[] = "top backing-format ->qcow2;low backing-format ->raw;";
    assert_int_equal(fix("top", false, true, &h, &err), 0);
    assert_string_equal(h.text, changes);
    expect_format("top", NULL); /* a dry run */
    expect_format("low", NULL);
    expect("top", changes);
    expect_format("top", "qcow2");
    expect_format("low", "raw");
    expect("top", "");
    char name[500];
    snprintf(name, sizeof name, "%s", test_path(".top.imgtool-journal"));
    assert_int_equal(access(name, F_OK), -1);
}

static void raw_needs_a_sign(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct heard h;
    file("odd", SIZE + 4096, 100, "something", 9);
    layer("over-odd", "odd", NULL);
    layer("over-both", "over-odd", NULL);
    expect_refusal("over-odd", ENOTSUP, "nothing shows that it is a raw disk");
    expect_refusal("over-both", ENOTSUP, "looks like nothing that is known");
    assert_int_equal(fix("over-both", true, false, &h, &err), 0);
    expect_format("over-odd", "raw");
    expect_format("over-both", "qcow2");

    file("mbr", SIZE * 2, 510, "\x55\xaa", 2);
    layer("over-mbr", "mbr", NULL);
    expect("over-mbr", "over-mbr backing-format ->raw;");
    file("ext4", SIZE / 2, 1080, "\x53\xef", 2);
    layer("over-ext4", "ext4", NULL);
    expect("over-ext4", "over-ext4 backing-format ->raw;");
}

/* A damaged header; and what stands behind the first bytes. */
static void what_looks_like_something_else_is_not_raw(void **state)
{
    (void)state;
    file("qcow2-cut", 300, 0, "QFI\xfb\0\0\0\3", 8);
    layer("over-cut", "qcow2-cut", NULL);
    expect_refusal("over-cut", EINVAL, "");
    file("iso", SIZE, 32769, "CD001", 5);
    layer("over-iso", "iso", NULL);
    expect_refusal("over-iso", ENOTSUP, "looks like 'iso'");
    layer("over-nothing", "no such file", NULL);
    expect_refusal("over-nothing", ENOENT, "No such file");
}

static void other_formats_are_named(void **state)
{
    (void)state;
    file("foreign", SIZE, 0, "QED\0", 4);
    layer("over-foreign", "foreign", NULL);
    expect("over-foreign", "(the chain ends)over-foreign backing-format ->qed;");
    expect_format("over-foreign", "qed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_chain_is_fixed),
        cmocka_unit_test(raw_needs_a_sign),
        cmocka_unit_test(what_looks_like_something_else_is_not_raw),
        cmocka_unit_test(other_formats_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
