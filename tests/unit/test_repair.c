/* Repairs through the library: a dirty image opened to be written, and what a caller is told. */
#include "make_qcow2.h"

#include <stdio.h>
#include <unistd.h>

static char path[] = "/tmp/test_repair.XXXXXX";

static void write_image(const struct image *m)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(m->data, 1, m->size, f), m->size);
    assert_int_equal(fclose(f), 0);
}

static uint8_t byte_at(long offset)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, offset, SEEK_SET), 0);
    int c = fgetc(f);
    fclose(f);
    return (uint8_t)c;
}

/* An image whose one data cluster has the refcount 0; DIRTY: and that was in use. */
static struct image stale(bool dirty)
{
    struct image m = make_qcow2(3, 12, 1 << 20, dirty ? INCOMPAT_DIRTY : 0);
    size_t data = image_add_data(&m, 0x77);
    store_be64(m.data + m.l2, data | ENTRY_COPIED);
    store_be64(m.data + m.l1, m.l2 | ENTRY_COPIED);
    for (size_t i = 0; i < m.size / m.cluster; i++)
        store_be16(m.data + m.refblock + i * 2, i * m.cluster != data);
    return m;
}

static void take_warning(void *opaque, enum img_warning warning, const char *message)
{
    if (warning == IMG_WARN_REPAIRED)
        snprintf(opaque, 400, "%s", message);
}

static int open_image(struct img **img, unsigned flags, char *told)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options o = {
        .format = "qcow2", .flags = flags, .warn = take_warning, .opaque = told};
    int ret = img_open(img, path, &o, &err);
    if (ret < 0)
        print_message("%s\n", img_error_message(&err));
    img_error_clear(&err);
    return ret;
}

static void expect_sound(void)
{
    char told[400] = "";
    struct img *img;
    struct img_check c;
    assert_int_equal(open_image(&img, IMG_OPEN_CHECK, told), 0);
    assert_int_equal(img_check(img, &c, NULL, NULL, NULL), 0);
    assert_int_equal(c.corruptions + c.leaks + c.check_errors, 0);
    img_close(img);
}

static void a_dirty_image_is_repaired_when_it_is_opened_to_be_written(void **state)
{
    (void)state;
    char told[400] = "";
    struct img *img;
    struct image m = stale(true);
    write_image(&m);
    assert_int_equal(open_image(&img, 0, told), 0); /* reading needs no refcounts */
    img_close(img);
    assert_int_equal(byte_at(79), INCOMPAT_DIRTY);
    assert_string_equal(told, "");
    assert_int_equal(open_image(&img, IMG_OPEN_WRITE, told), 0);
    img_close(img);
    assert_int_equal(byte_at(79), 0);
    assert_string_equal(told, "ERROR cluster 5 refcount=0 reference=1\n"
                              "Rebuilding refcount structure\n"
                              "Repairing cluster 1 refcount=1 reference=0\n"
                              "Repairing cluster 2 refcount=1 reference=0");
    expect_sound();
    image_free(&m);
}

static void one_that_was_closed_is_not(void **state)
{
    (void)state;
    char told[400] = "";
    struct img *img;
    struct image m = stale(false);
    write_image(&m);
    assert_int_equal(open_image(&img, IMG_OPEN_WRITE, told), 0);
    img_close(img);
    assert_string_equal(told, "");
    assert_int_equal(byte_at((long)m.refblock + 11), 0);
    image_free(&m);
}

static void repair(unsigned flags, struct img_repair_options *o, int expected, const char *words)
{
    char told[400] = "";
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    struct img_check c;
    assert_int_equal(open_image(&img, flags, told), 0);
    assert_int_equal(img_repair(img, o, &c, &err), expected);
    if (words)
        assert_non_null(strstr(img_error_message(&err), words));
    img_error_clear(&err);
    img_close(img);
}

static void what_cannot_be_done_is_refused(void **state)
{
    (void)state;
    struct img_repair_options all = {.what = IMG_REPAIR_ALL}, none = {.what = 0},
                              leaks = {.what = IMG_REPAIR_LEAKS},
                              undo = {.what = IMG_REPAIR_ALL, .undo_file = path};
    struct image m = stale(false);
    write_image(&m);
    repair(IMG_OPEN_CHECK, &all, -EBADF, "was not opened for writing");
    repair(IMG_OPEN_WRITE, &all, -EINVAL, "was not opened to be checked");
    repair(IMG_OPEN_WRITE | IMG_OPEN_CHECK, &none, -EINVAL, "Nothing that can be repaired");
    repair(IMG_OPEN_WRITE | IMG_OPEN_CHECK, &leaks, -EIO, "need to rebuild");
    repair(IMG_OPEN_WRITE | IMG_OPEN_CHECK, &undo, -EEXIST, "exists already");
    assert_int_equal(byte_at((long)m.refblock + 11), 0);
    repair(IMG_OPEN_WRITE | IMG_OPEN_CHECK, &all, 0, NULL);
    expect_sound();
    image_free(&m);
}

/* ---- interrupted --------------------------------------------------------------------------- */

static bool countdown(void *opaque)
{
    return --*(int *)opaque < 0;
}

static struct image load(void)
{
    struct image m = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    m.data = malloc(1 << 20);
    m.size = fread(m.data, 1, 1 << 20, f);
    fclose(f);
    return m;
}

static bool is_as(const struct image *m)
{
    struct image now = load();
    bool same = now.size == m->size && !memcmp(now.data, m->data, m->size);
    image_free(&now);
    return same;
}

/* Stopped when it asks for the N-th time; *ENDED: it did not ask so often. */
static void repair_until(int n, const char *undo, bool *ended)
{
    struct img_open_options open = {.format = "qcow2",
                                    .flags = IMG_OPEN_CHECK | IMG_OPEN_WRITE,
                                    .cancelled = countdown,
                                    .opaque = &n};
    struct img_repair_options o = {.what = IMG_REPAIR_ALL, .undo_file = undo};
    struct img *img;
    struct img_check c;
    assert_int_equal(img_open(&img, path, &open, NULL), 0);
    int ret = img_repair(img, &o, &c, NULL);
    assert_true(!ret || ret == -ECANCELED);
    img_close(img);
    *ended = !ret;
}

/* Flags wrong in two sectors, so that the table moves, and free clusters that it can move to. */
static struct image unflagged(void)
{
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    store_be64(m.data + m.l1, m.l2 | ENTRY_COPIED);
    for (size_t i = 0; i <= 100; i += 100) {
        size_t data = image_add_data(&m, 0x77);
        store_be64(m.data + m.l2 + i * 8, data);
    }
    size_t used = m.size / m.cluster;
    image_grow(&m, 8);
    for (size_t i = 0; i < m.cluster / 2; i++)
        store_be16(m.data + m.refblock + i * 2, i < used);
    return m;
}

/* Free clusters of the image take what moves, so an image that is still the old one may have other
 * bytes. */
static void an_undo_file_stays_when_a_byte_has_changed(void **state)
{
    (void)state;
    char undo[sizeof path + 8];
    struct img_undone done;
    struct image m = unflagged();
    unsigned changed = 0, vanished = 0;
    snprintf(undo, sizeof undo, "%s.undo", path);
    bool ended = false;
    for (int n = 0; !ended; n++) {
        write_image(&m);
        repair_until(n, undo, &ended);
        if (access(undo, F_OK) == 0) {
            changed += !ended && !is_as(&m);
            assert_int_equal(img_undo(undo, path, NULL, &done, NULL), 0);
            assert_int_equal(unlink(undo), 0);
        } else {
            vanished++;
        }
        assert_true(is_as(&m));
    }
    assert_true(changed && vanished);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dirty_image_is_repaired_when_it_is_opened_to_be_written),
        cmocka_unit_test(one_that_was_closed_is_not),
        cmocka_unit_test(what_cannot_be_done_is_refused),
        cmocka_unit_test(an_undo_file_stays_when_a_byte_has_changed),
    };
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
