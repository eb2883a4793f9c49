/* Backing chains: who answers for which byte, shorter layers, loops, and names that lead nowhere.
 */
#include "make_qcow2.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

/* Cluster I of the image that is written as NAME holds BYTE, for each I that CLUSTERS names. */
static void layer(const char *name, uint64_t size, const char *backing, const char *format,
                  const char *clusters, uint8_t byte)
{
    struct image m = make_qcow2(3, 12, size, 0);
    if (format)
        image_extend(&m, EXT_BACKING_FORMAT, format, strlen(format));
    if (backing)
        image_set_backing(&m, backing);
    for (; *clusters; clusters++)
        image_set_entry(&m, (size_t)(*clusters - '0'), image_add_data(&m, byte) | ENTRY_COPIED, 0);
    image_write(&m, name);
    image_free(&m);
}

static void raw_layer(const char *name, size_t size, uint8_t byte)
{
    uint8_t *data = malloc(size);
    memset(data, byte, size);
    write_file(test_path(name), data, size);
    free(data);
}

static struct img *open_path(const char *name, unsigned flags)
{
    struct img_open_options options = {.flags = flags};
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    if (img_open(&img, test_path(name), &options, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    return img;
}

/* The disk, a character for each cluster: '.' for zeroes. */
static void expect_disk(struct img *img, const char *want)
{
    char got[64] = "";
    uint8_t cluster[4096];
    for (uint64_t at = 0; at < img_size(img); at += 4096) {
        size_t n = img_size(img) - at < 4096 ? (size_t)(img_size(img) - at) : 4096;
        assert_int_equal(img_read(img, cluster, n, at, NULL), 0);
        for (size_t i = 1; i < n; i++)
            assert_int_equal(cluster[i], cluster[0]);
        got[strlen(got)] = cluster[0] ? (char)cluster[0] : '.';
    }
    assert_string_equal(got, want);
    /* in one read, it is the same */
    uint8_t *all = malloc(img_size(img));
    assert_int_equal(img_read(img, all, img_size(img), 0, NULL), 0);
    for (uint64_t at = 0; at < img_size(img); at += 4096)
        assert_int_equal(all[at] ? all[at] : '.', want[at / 4096]);
    free(all);
}

static void expect_text(struct img *img, const char *want)
{
    char *text = map_text(img, 0, UINT64_MAX);
    assert_string_equal(text, want);
    free(text);
}

static void three_layers(void **state)
{
    (void)state;
    raw_layer("base.raw", 8 * 4096, 'b');
    layer("mid.qcow2", 8 * 4096, "base.raw", "raw", "1256", 'm');
    layer("top.qcow2", 8 * 4096, "mid.qcow2", "qcow2", "27", 't');
    struct img *img = open_path("top.qcow2", 0);
    assert_int_equal(img_depth(img), 3);
    assert_string_equal(img_layer_format(img, 2), "raw");
    assert_string_equal(img_layer_filename(img, 1), test_path("mid.qcow2"));
    assert_null(img_layer_filename(img, 3));
    expect_disk(img, "bmtbbmmt");
    expect_text(img, "0+4096 data/2@0 4096+4096 data/1@20480 8192+4096 data@20480 "
                     "12288+8192 data/2@12288 20480+8192 data/1@28672 28672+4096 data@24576");
    img_close(img);
    img = open_path("top.qcow2", IMG_OPEN_NO_BACKING);
    assert_int_equal(img_depth(img), 1);
    expect_disk(img, "..t....t");
    img_close(img);
}

/* What lies past the end of a shorter layer is that of nobody below it. */
static void shorter_layers(void **state)
{
    (void)state;
    raw_layer("base.raw", 8 * 4096, 'b');
    layer("short.qcow2", 3 * 4096, "base.raw", "raw", "1", 'm');
    layer("top.qcow2", 6 * 4096, "short.qcow2", "qcow2", "4", 't');
    struct img *img = open_path("top.qcow2", 0);
    expect_disk(img, "bmb.t.");
    expect_text(img, "0+4096 data/2@0 4096+4096 data/1@20480 8192+4096 data/2@8192 "
                     "12288+4096 unallocated 16384+4096 data@20480 20480+4096 unallocated");
    img_close(img);
    /* a base that ends inside a cluster: 1000 bytes are a disk of 1024 */
    raw_layer("odd.raw", 1000, 'o');
    layer("odd.qcow2", 2 * 4096, "odd.raw", "raw", "", 0);
    img = open_path("odd.qcow2", 0);
    uint8_t buf[8192], want[8192] = {0};
    memset(want, 'o', 1000);
    assert_int_equal(img_read(img, buf, sizeof buf, 0, NULL), 0);
    assert_memory_equal(buf, want, sizeof buf);
    expect_text(img, "0+1000 data/1@0 1000+24 zero/1@1000 1024+7168 unallocated");
    img_close(img);
    /* an empty base */
    raw_layer("empty.raw", 0, 0);
    layer("over-empty.qcow2", 4096, "empty.raw", "raw", "", 0);
    img = open_path("over-empty.qcow2", 0);
    assert_int_equal(img_depth(img), 2);
    expect_disk(img, ".");
    img_close(img);
}

static void zeroes_hide_what_is_below(void **state)
{
    (void)state;
    raw_layer("base.raw", 4 * 4096, 'b');
    struct image m = make_qcow2(3, 12, 4 * 4096, 0);
    image_set_backing(&m, "base.raw");
    image_extend(&m, EXT_BACKING_FORMAT, "raw", 3);
    image_set_entry(&m, 1, ENTRY_ZERO, 0);
    image_set_entry(&m, 2, image_add_data(&m, 'x') | ENTRY_ZERO, 0);
    image_write(&m, "zero.qcow2");
    struct img *img = open_path("zero.qcow2", 0);
    expect_disk(img, "b..b");
    img_close(img);
    image_free(&m);
}

/* Fails with MESSAGE, in which each % stands for the test's folder. */
static void expect_open_fails(const char *name, int code, const char *message, const char *context)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    char want[2000] = "", *folder = realpath(test_path(""), NULL), shown[400];
    snprintf(shown, sizeof shown, "%s", test_path(""));
    shown[strlen(shown) - 1] = 0; /* the slash */
    for (const char *p = message; *p; p++)
        snprintf(want + strlen(want), sizeof want - strlen(want), *p == '%' ? "%s" : "%.1s",
                 *p == '%' ? shown : p);
    int ret = img_open(&img, test_path(name), NULL, &err);
    assert_int_equal(ret, -code);
    if (context) {
        assert_non_null(err.context);
        assert_non_null(strstr(err.context, context));
        assert_non_null(strstr(err.context, folder)); /* the place in full */
    }
    assert_string_equal(img_error_message(&err), want);
    assert_int_equal(err.code, code);
    img_error_clear(&err);
    free(folder);
}

static void loops(void **state)
{
    (void)state;
    layer("self.qcow2", 4096, "self.qcow2", "qcow2", "", 0);
    expect_open_fails("self.qcow2", ELOOP,
                      "Could not open '%/self.qcow2': Could not open backing file: Backing file "
                      "'%/self.qcow2' creates an infinite loop.",
                      "named by");
    layer("a.qcow2", 4096, "b.qcow2", "qcow2", "", 0);
    layer("b.qcow2", 4096, "c.qcow2", "qcow2", "", 0);
    layer("c.qcow2", 4096, "link.qcow2", "qcow2", "", 0); /* another name of a.qcow2 */
    assert_int_equal(symlink("a.qcow2", test_path("link.qcow2")), 0);
    expect_open_fails("a.qcow2", ELOOP,
                      "Could not open '%/a.qcow2': Could not open backing file: Could not open "
                      "backing file: Could not open backing file: Backing file '%/link.qcow2' "
                      "creates an infinite loop.",
                      "link.qcow2");
    /* the same file as another format is no loop: it ends there */
    layer("raw-self.qcow2", 4096, "raw-self.qcow2", "raw", "", 0);
    struct img *img = open_path("raw-self.qcow2", 0);
    assert_int_equal(img_depth(img), 2);
    img_close(img);
}

static void names_that_lead_nowhere(void **state)
{
    (void)state;
    layer("lost.qcow2", 4096, "gone.img", "raw", "", 0);
    expect_open_fails("lost.qcow2", ENOENT,
                      "Could not open '%/lost.qcow2': Could not open backing file: Could not open "
                      "'%/gone.img': No such file or directory",
                      "the backing file 'gone.img' named by");
    layer("middle.qcow2", 4096, "lost.qcow2", "qcow2", "", 0);
    expect_open_fails(
        "middle.qcow2", ENOENT,
        "Could not open '%/middle.qcow2': Could not open backing file: Could not open "
        "backing file: Could not open '%/gone.img': No such file or directory",
        "the backing file 'gone.img' named by");
    layer("net.qcow2", 4096, "nbd://host/x", "raw", "", 0);
    expect_open_fails("net.qcow2", ENOTSUP,
                      "Could not open '%/net.qcow2': Could not open backing file: Unknown protocol "
                      "'nbd'",
                      NULL);
    layer("unknown.qcow2", 4096, "lost.qcow2", "bogus", "", 0);
    expect_open_fails(
        "unknown.qcow2", EINVAL,
        "Could not open '%/unknown.qcow2': Could not open backing file: Unknown driver "
        "'bogus'",
        "the backing file 'lost.qcow2' named by");
}

static void warn(void *opaque, enum img_warning warning, const char *message)
{
    assert_int_equal(warning, IMG_WARN_NO_BACKING_FORMAT);
    snprintf(opaque, 2000, "%s", message);
}

/* A backing file of unstated format is looked at, unless it would be taken for raw and is not. */
static void unstated_formats(void **state)
{
    (void)state;
    char said[2000] = "", want[2000];
    struct img_open_options options = {.warn = warn, .opaque = said};
    struct img *img;
    layer("base.qcow2", 4096, NULL, NULL, "0", 'q');
    layer("unstated.qcow2", 4096, "base.qcow2", NULL, "", 0);
    assert_int_equal(img_open(&img, test_path("unstated.qcow2"), &options, NULL), 0);
    expect_disk(img, "q");
    img_close(img);
    snprintf(want, sizeof want,
             "'%s' names no format for its backing file '%s'; it looks like qcow2",
             test_path("unstated.qcow2"), test_path("base.qcow2"));
    assert_string_equal(said, want);

    uint8_t *iso = calloc(1, 40960);
    memcpy(iso + 32769, "CD001", 5);
    write_file(test_path("disc.iso"), iso, 40960);
    free(iso);
    layer("on-iso.qcow2", 4096, "disc.iso", NULL, "", 0);
    expect_open_fails(
        "on-iso.qcow2", ENOTSUP,
        "Could not open '%/on-iso.qcow2': Could not open backing file: Backing file "
        "'%/disc.iso' has no stated format; it would be taken for raw, but looks like "
        "'iso'",
        NULL);
    layer("on-raw-iso.qcow2", 4096, "disc.iso", "raw", "", 0);
    img_close(open_path("on-raw-iso.qcow2", 0));
}

static void backing_files_that_the_user_names(void **state)
{
    (void)state;
    char name[2000];
    struct img *img;
    raw_layer("base.raw", 4096, 'b');
    raw_layer("other.raw", 4096, 'o');
    layer("top.qcow2", 4096, "base.raw", "raw", "", 0);
    snprintf(name, sizeof name,
             "json:{\"driver\":\"qcow2\",\"file.filename\":\"%s\",\"backing\":{\"driver\":\"raw\","
             "\"file.filename\":\"%s\"}}",
             test_path("top.qcow2"), test_path("other.raw"));
    assert_int_equal(img_open(&img, name, NULL, NULL), 0);
    expect_disk(img, "o");
    img_close(img);
    snprintf(name, sizeof name,
             "driver=qcow2,file.filename=%s,backing.driver=raw,"
             "backing.file.filename=%s",
             test_path("top.qcow2"), test_path("other.raw"));
    struct img_open_options options = {.flags = IMG_OPEN_IMAGE_OPTS};
    assert_int_equal(img_open(&img, name, &options, NULL), 0);
    expect_disk(img, "o");
    img_close(img);
    snprintf(name, sizeof name,
             "json:{\"driver\":\"qcow2\",\"file.filename\":\"%s\",\"backing\":null}",
             test_path("top.qcow2"));
    assert_int_equal(img_open(&img, name, NULL, NULL), 0);
    expect_disk(img, ".");
    img_close(img);
}

/* Each layer is described; where the chain breaks, what lies above is still told. */
static void chain_info(void **state)
{
    (void)state;
    struct img_chain_info chain;
    struct img_error err = IMG_ERROR_INIT;
    raw_layer("base.raw", 8 * 4096, 'b');
    layer("mid.qcow2", 8 * 4096, "base.raw", "raw", "", 0);
    layer("top.qcow2", 8 * 4096, "mid.qcow2", "qcow2", "", 0);
    assert_int_equal(img_chain_info(&chain, test_path("top.qcow2"), NULL, &err), 0);
    assert_int_equal(chain.count, 3);
    assert_string_equal(chain.layers[0]->backing_filename, "mid.qcow2");
    assert_string_equal(chain.layers[0]->full_backing_filename, test_path("mid.qcow2"));
    assert_string_equal(chain.layers[1]->backing_format, "raw");
    assert_string_equal(chain.layers[2]->format, "raw");
    assert_int_equal(chain.layers[2]->virtual_size, 8 * 4096);
    img_chain_info_free(&chain);
    assert_int_equal(unlink(test_path("base.raw")), 0);
    assert_int_equal(img_chain_info(&chain, test_path("top.qcow2"), NULL, &err), -ENOENT);
    assert_int_equal(chain.count, 2);
    assert_non_null(strstr(err.message, "base.raw': No such file or directory"));
    img_error_clear(&err);
    img_chain_info_free(&chain);
    /* the code is the same when nobody wants the words */
    assert_int_equal(img_chain_info(&chain, test_path("missing"), NULL, NULL), -ENOENT);
    img_chain_info_free(&chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_layers),
        cmocka_unit_test(shorter_layers),
        cmocka_unit_test(zeroes_hide_what_is_below),
        cmocka_unit_test(loops),
        cmocka_unit_test(names_that_lead_nowhere),
        cmocka_unit_test(unstated_formats),
        cmocka_unit_test(backing_files_that_the_user_names),
        cmocka_unit_test(chain_info),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
