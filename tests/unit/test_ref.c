/* Names of images: paths, "file:", "json:", lists of options, and nonsense with its exact message.
 */
#include "lib/flatopts.h"
#include "make_qcow2.h"

#include <stdio.h>

#define JSON "Could not parse the JSON options: JSON parse error, "

static struct image_ref parse(const char *name)
{
    struct image_ref ref;
    struct img_error err = IMG_ERROR_INIT;
    if (ref_parse(&ref, name, &err) < 0)
        fail_msg("'%s': %s", name, img_error_message(&err));
    return ref;
}

static void expect_path(const char *name, const char *format, const char *path)
{
    struct image_ref ref = parse(name);
    assert_string_equal(ref.path, path);
    assert_string_equal(ref.format ? ref.format : "none", format ? format : "none");
    ref_clear(&ref);
    assert_null(ref.path);
}

static void paths(void **state)
{
    (void)state;
    expect_path("a.qcow2", NULL, "a.qcow2");
    expect_path("/a/b:c", NULL, "/a/b:c"); /* a colon after a slash is no protocol's */
    expect_path("./nbd:x", NULL, "./nbd:x");
    expect_path("file:a.qcow2", NULL, "a.qcow2");
    expect_path("file:file:a", NULL, "./file:a");
    expect_path("file:///a", NULL, "///a");
    expect_path("a,b=c", NULL, "a,b=c"); /* not a list */
}

static void json(void **state)
{
    (void)state;
    expect_path("json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"x y\"}}",
                "qcow2", "x y");
    expect_path("json:{\"file.filename\":\"x\",\"driver\":\"qcow2\"}", "qcow2", "x");
    expect_path("json: { \"driver\" : \"file\", \"filename\" : \"x\" } \n", "raw", "x");
    expect_path("json:{\"driver\":\"host_device\",\"filename\":\"x\"}", "raw", "x");
    expect_path("json:{\"file\":{\"filename\":\"\\u00e4\\\"\"}}", NULL, "\xc3\xa4\"");
    expect_path("json:{\"file.filename\":\"a\",\"driver\":\"qcow2\",\"read-only\":true,"
                "\"l2-cache-size\":1048576,\"cache\":{\"direct\":false}}",
                "qcow2", "a");
}

static void raw_windows(void **state)
{
    (void)state;
    struct image_ref ref = parse("json:{\"driver\":\"raw\",\"offset\":512,\"size\":\"1024\","
                                 "\"file\":{\"filename\":\"a\\\"b\"}}");
    assert_int_equal(ref.raw_offset, 512);
    assert_int_equal(ref.raw_size, 1024);
    char *shown = ref_display_name(&ref);
    assert_string_equal(shown,
                        "json:{\"offset\": \"512\", \"driver\": \"raw\", \"size\": \"1024\", "
                        "\"file\": {\"driver\": \"file\", \"filename\": \"a\\\"b\"}}");
    struct image_ref again = parse(shown);
    assert_int_equal(again.raw_size, 1024);
    assert_string_equal(again.path, "a\"b");
    free(shown);
    ref_clear(&again);
    ref_clear(&ref);
    ref = parse("json:{\"driver\":\"qcow2\",\"file.filename\":\"a\"}");
    shown = ref_display_name(&ref);
    assert_string_equal(shown, "a");
    free(shown);
    ref_clear(&ref);
}

static void backing(void **state)
{
    (void)state;
    struct image_ref ref = parse(
        "json:{\"driver\":\"qcow2\",\"file.filename\":\"top\",\"backing\":{"
        "\"driver\":\"raw\",\"file\":{\"filename\":\"base\"}}}");
    assert_non_null(ref.backing);
    assert_string_equal(ref.backing->path, "base");
    assert_string_equal(ref.backing->format, "raw");
    assert_false(ref.no_backing);
    ref_clear(&ref);
    ref = parse("json:{\"driver\":\"qcow2\",\"file.filename\":\"top\",\"backing\":null}");
    assert_true(ref.no_backing);
    assert_null(ref.backing);
    ref_clear(&ref);
    ref = parse("json:{\"driver\":\"qcow2\",\"file.filename\":\"a\",\"backing.driver\":\"qcow2\","
                "\"backing.file.filename\":\"b\",\"backing.backing.driver\":\"qcow2\","
                "\"backing.backing.file.filename\":\"c\",\"backing.backing.backing\":null}");
    assert_string_equal(ref.backing->backing->path, "c");
    assert_true(ref.backing->backing->no_backing);
    ref_clear(&ref);
}

static void nonsense(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int code;
        const char *message;
    } cases[] = {
        {"", EINVAL, "The 'file' block driver requires a file name"},
        {"nbd:localhost:10809", ENOTSUP, "Unknown protocol 'nbd'"},
        {"https://host/a.qcow2", ENOTSUP, "Unknown protocol 'https'"},
        {"FILE:a", ENOTSUP, "Unknown protocol 'FILE'"},
        {"filex:a", ENOTSUP, "Unknown protocol 'filex'"},
        {":a", ENOTSUP, "Unknown protocol ''"},
        {"null-co:a", EINVAL, "The only allowed filename for this driver is 'null-co://'"},
        {"json:", EINVAL, JSON "premature EOI"},
        {"json:{", EINVAL, JSON "premature EOI"},
        {"json:{\"driver\":\"raw\"", EINVAL, JSON "premature EOI"},
        {"json:{} x", EINVAL, JSON "'x' follows the object"},
        {"json:[]", EINVAL, "Invalid JSON object given"},
        {"json:\"a\"", EINVAL, "Invalid JSON object given"},
        {"json:null", EINVAL, "Invalid JSON object given"},
        {"json:{}", EINVAL, "Must specify either driver or file"},
        {"json:{\"driver\":\"qcow2\"}", EINVAL, "A block device must be specified for \"file\""},
        {"json:{\"file\":[\"a\"]}", EINVAL, "Option 'file' cannot be a list"},
        {"json:{\"file\":{\"filename\":null}}", EINVAL, "Option 'file.filename' cannot be null"},
        {"json:{\"file\":\"node0\"}", EINVAL, "Cannot find device='node0' nor node-name='node0'"},
        {"json:{\"driver\":\"qcow2\",\"backing\":\"node0\"}", EINVAL,
         "Cannot find device='node0' nor node-name='node0'"},
        {"json:{\"file\":{\"driver\":\"nbd\",\"host\":\"h\"}}", ENOTSUP,
         "Protocol driver 'nbd' is not allowed, only 'file'"},
        {"json:{\"file\":{\"host\":\"h\",\"driver\":\"https\"}}", ENOTSUP,
         "Protocol driver 'https' is not allowed, only 'file'"},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"a\",\"pr-manager\":\"x\"}}", EINVAL,
         "Block protocol 'file' doesn't support the option 'pr-manager'"},
        {"json:{\"driver\":\"qcow2\",\"file.filename\":\"a\",\"encrypt.key-secret\":\"x\"}", EINVAL,
         "Block format 'qcow2' does not support the option 'encrypt.key-secret'"},
        {"json:{\"file.filename\":\"a\",\"bogus\":1}", EINVAL,
         "Block format 'raw' does not support the option 'bogus'"},
        {"json:{\"driver\":\"qcow2\",\"file.filename\":\"a\",\"offset\":512}", EINVAL,
         "Block format 'qcow2' does not support the option 'offset'"},
        {"json:{\"driver\":\"raw\",\"file.filename\":\"a\",\"offset\":-1}", EINVAL,
         "Parameter 'offset' expects a size, not '-1'"},
        {"json:{\"driver\":\"raw\",\"file.filename\":\"a\",\"size\":\"12x\"}", EINVAL,
         "Parameter 'size' expects a size, not '12x'"},
        {"json:{\"driver\":\"raw\",\"file.filename\":\"a\",\"size\":9223372036854775808}", EINVAL,
         "Parameter 'size' expects a size, not '9223372036854775808'"},
        {"json:{\"driver\":\"raw\",\"file.filename\":\"a\\u0000b\"}", EINVAL,
         "Option 'file.filename' holds a NUL character"},
        {"json:{\"driver\":\"qcow2\",\"file.filename\":\"a\",\"backing\":{\"driver\":\"raw\"}}",
         EINVAL, "A block device must be specified for \"file\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct img_error err = IMG_ERROR_INIT;
        struct image_ref ref;
        int ret = ref_parse(&ref, cases[i].name, &err);
        expect_error(&err, ret, cases[i].code, cases[i].message);
        assert_null(ref.path);
        assert_null(ref.backing);
    }
}

static void null_device(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct image_ref ref;
    assert_int_equal(ref_parse(&ref, "null-co://", &err), 0);
    assert_true(ref.null);
    assert_int_equal(ref.null_size, 1 << 30);
    assert_null(ref.format);
    ref_clear(&ref);
    assert_int_equal(ref_parse(&ref, "json:{\"driver\":\"null-co\",\"size\":65536}", &err), 0);
    assert_true(ref.null);
    assert_int_equal(ref.null_size, 65536);
    assert_string_equal(ref.format, "raw");
    ref_clear(&ref);
}

static void option_lists(void **state)
{
    (void)state;
    static const struct {
        const char *list, *format, *path, *message;
    } cases[] = {
        {"driver=qcow2,file.filename=a.qcow2", "qcow2", "a.qcow2", NULL},
        {"file.filename=a,,b,,,,c,driver=raw", "raw", "a,b,,c", NULL},
        {"driver=qcow2,file.filename=x=y", "qcow2", "x=y", NULL},
        {"driver=qcow2,file.filename=a,", "qcow2", "a", NULL},
        {"driver=qcow2,file.driver=file,file.filename=a,read-only=on", "qcow2", "a", NULL},
        {"driver=blkdebug,image.driver=qcow2,image.file.filename=a,align=4k", "qcow2", "a", NULL},
        {"driver=blkdebug,image.driver=qcow2", NULL, NULL,
         "A block device must be specified for \"file\""},
        {"driver=blkdebug,image.driver=raw,image.file.filename=a,config=x", NULL, NULL,
         "Block format 'blkdebug' is looked through: the option 'config' is not supported"},
        {"", NULL, NULL, "Must specify either driver or file"},
        {"driver=qcow2", NULL, NULL, "A block device must be specified for \"file\""},
        {"a.qcow2", NULL, NULL, "Cannot find device='a.qcow2' nor node-name='a.qcow2'"},
        {"driver=qcow2,bogus", NULL, NULL,
         "Block format 'qcow2' does not support the option 'bogus'"},
        {"driver=raw,file.filename=a,size=1,offset=k", NULL, NULL,
         "Parameter 'offset' expects a size, not 'k'"},
        {"driver=null-co,size=1M,read-zeroes=on", "raw", "null-co://", NULL},
        {"driver=qcow2,file.driver=null-aio,file.size=1M", "qcow2", "null-co://", NULL},
        {"driver=null-co,size=x", NULL, NULL, "Parameter 'size' expects a size, not 'x'"},
        {"driver=null-co,read-zeroes=2", NULL, NULL,
         "Parameter 'read-zeroes' expects 'on' or 'off'"},
        {"driver=null-co,filename=a", NULL, NULL,
         "Block protocol 'null-co' doesn't support the option 'filename'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct img_error err = IMG_ERROR_INIT;
        struct image_ref ref;
        int ret = ref_parse_opts(&ref, cases[i].list, &err);
        if (cases[i].message) {
            expect_error(&err, ret, EINVAL, cases[i].message);
            continue;
        }
        assert_int_equal(ret, 0);
        assert_string_equal(ref.path, cases[i].path);
        assert_string_equal(ref.format, cases[i].format);
        ref_clear(&ref);
    }
}

/* Lists and depths that a hostile name could fill. */
static void limits(void **state)
{
    (void)state;
    struct flat_options o = {0};
    struct img_error err = IMG_ERROR_INIT;
    char list[4000] = "";
    for (unsigned i = 0; i < 256; i++)
        snprintf(list + strlen(list), 20, "k%u=v,", i);
    assert_int_equal(flat_options_from_list(&o, list, &err), 0);
    assert_int_equal(o.count, 256);
    assert_string_equal(flat_options_get(&o, "k255"), "v");
    assert_null(flat_options_get(&o, "k256"));
    expect_error(&err, flat_options_add(&o, "one", "more", &err), EINVAL, "More than 256 options");
    flat_options_clear(&o);

    char key[1026];
    memset(key, 'k', sizeof key);
    key[1025] = 0;
    expect_error(&err, flat_options_add(&o, key, "v", &err), EINVAL,
                 "Option name too long (1025 characters, at most 1024)");
    assert_int_equal(flat_options_add(&o, key + 1, NULL, &err), 0);
    flat_options_clear(&o);

    char deep[400] = "";
    for (unsigned i = 0; i < 33; i++)
        strcat(deep, "{\"a\":");
    int ret = flat_options_from_json(&o, deep, &err);
    expect_error(&err, ret, EINVAL, JSON "nesting too deep");
    flat_options_clear(&o);
}

static void json_strings(void **state)
{
    (void)state;
    char *s = flat_json_string("a/b\"\\\n\xc3\xa4");
    assert_string_equal(s, "\"a/b\\\"\\\\\\n\xc3\xa4\"");
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths),        cmocka_unit_test(json),     cmocka_unit_test(raw_windows),
        cmocka_unit_test(backing),      cmocka_unit_test(nonsense), cmocka_unit_test(null_device),
        cmocka_unit_test(option_lists), cmocka_unit_test(limits),   cmocka_unit_test(json_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
