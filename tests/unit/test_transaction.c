/* Transactions: the whole of an image moves to new places, again and again, and stays the same. */
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/rewrite.h"
#include "make_qcow2.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static char path[] = "/tmp/test_transaction.XXXXXX";

static void fail_with(struct img_error *err)
{
    fail_msg("%s", img_error_message(err));
}

static struct img *open_image(unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    struct img_open_options o = {.format = "qcow2", .flags = flags};
    if (img_open(&img, path, &o, &err) < 0)
        fail_with(&err);
    return img;
}

static struct img *create(uint64_t size, const char *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_create_options o = {.format = "qcow2", .size = size, .options = options};
    if (img_create(path, &o, &err) < 0)
        fail_with(&err);
    return open_image(IMG_OPEN_WRITE);
}

static void expect_sound(void)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check result;
    struct img *img = open_image(IMG_OPEN_CHECK);
    if (img_check(img, &result, NULL, NULL, &err) < 0)
        fail_with(&err);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    img_close(img);
}

static uint64_t file_length(void)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = open_image(0);
    uint64_t size;
    if (file_size(img->layers[0]->file, &size, &err) < 0)
        fail_with(&err);
    img_close(img);
    return size;
}

static int touch(void *opaque, struct transaction *t, struct l2_view *v, struct img_error *err)
{
    (void)opaque;
    (void)t;
    (void)err;
    v->changed = true;
    return 0;
}

/* Everything that can move does. */
static int move_all(struct transaction *t, struct img_error *err)
{
    uint8_t *l1 = NULL;
    uint32_t size = t->q->header.l1_size;
    int ret = tx_load_l1(t, t->q->header.l1_offset, size, &l1, err);
    if (!ret)
        ret = tx_each_l2(t, l1, size, touch, NULL, err);
    if (!ret)
        ret = tx_replace_l1(t, l1, size, err);
    free(l1);
    return ret;
}

static void moves_and_stays_sound(uint64_t size, const char *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(size, options);
    struct qcow2 *q = img->layers[0]->state;
    uint64_t lengths[6];
    for (unsigned i = 0; i < 6; i++) {
        struct transaction t;
        uint64_t before = q->header.l1_offset, table = q->header.reftable_offset;
        if (tx_begin(&t, q, &err) < 0 || move_all(&t, &err) < 0 || tx_commit(&t, &err) < 0)
            fail_with(&err);
        tx_end(&t);
        assert_int_not_equal(q->header.l1_offset, before);
        assert_int_not_equal(q->header.reftable_offset, table);
        assert_int_equal(load_be64(q->l1) & L1_RESERVED_MASK, 0);
        img_close(img);
        expect_sound();
        lengths[i] = file_length();
        img = open_image(IMG_OPEN_WRITE);
        q = img->layers[0]->state;
    }
    img_close(img);
    /* what one transaction frees, the next one takes */
    assert_int_equal(lengths[5], lengths[3]);
}

static void every_kind(void **state)
{
    (void)state;
    static const char *const options[] = {
        "preallocation=metadata",
        "preallocation=metadata,cluster_size=512,refcount_bits=64",
        "preallocation=metadata,cluster_size=512,refcount_bits=1",
        "preallocation=metadata,cluster_size=2M,refcount_bits=8",
        "preallocation=metadata,extended_l2=on",
        "compat=0.10,preallocation=metadata,cluster_size=1024",
        "compat=0.10",
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        moves_and_stays_sound(8 << 20, options[i]);
    moves_and_stays_sound(512, "cluster_size=4096");
}

/* The refcounts outgrow their table: blocks and table grow with what is allocated. */
static void the_refcount_table_grows(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(1 << 20, "cluster_size=512,refcount_bits=64");
    struct qcow2 *q = img->layers[0]->state;
    struct transaction t;
    uint64_t offset, many = 200000;
    assert_int_equal(q->header.reftable_clusters, 1);
    if (tx_begin(&t, q, &err) < 0 || tx_allocate(&t, many, &offset, &err) < 0 ||
        tx_write(&t, offset + many * 512 - 512, q->l1, 8, &err) < 0 || tx_commit(&t, &err) < 0)
        fail_with(&err);
    tx_end(&t);
    /* 64 refcounts a block, 64 blocks a cluster of the table */
    assert_in_range(q->header.reftable_clusters, many / 64 / 64, many / 64 / 64 * 2);
    if (tx_begin(&t, q, &err) < 0 || tx_release(&t, offset, many * 512, &err) < 0 ||
        tx_commit(&t, &err) < 0)
        fail_with(&err);
    tx_end(&t);
    img_close(img);
    expect_sound();
}

static void what_is_not_committed_leaves_no_trace(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(8 << 20, "preallocation=metadata");
    struct qcow2 *q = img->layers[0]->state;
    struct transaction t;
    uint64_t before, after, l1 = q->header.l1_offset;
    assert_int_equal(file_size(q->file, &before, &err), 0);
    if (tx_begin(&t, q, &err) < 0 || move_all(&t, &err) < 0)
        fail_with(&err);
    tx_end(&t);
    assert_int_equal(file_size(q->file, &after, &err), 0);
    assert_int_equal(after, before);
    assert_int_equal(q->header.l1_offset, l1);
    img_close(img);
    expect_sound();
}

struct countdown {
    unsigned left, asked;
};

static bool cancelled(void *opaque)
{
    struct countdown *c = opaque;
    c->asked++;
    return c->left == 0 || c->left-- == 0;
}

/* Wherever it is stopped, it is the old image, and as long as that was; or all is done. */
static void a_transaction_can_be_cancelled(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct countdown c = {0};
    img_close(create(1 << 20, "preallocation=metadata,cluster_size=512"));
    uint64_t before = file_length();
    for (unsigned n = 0, done = 0; !done; n++) {
        struct img_open_options o = {
            .format = "qcow2", .flags = IMG_OPEN_WRITE, .cancelled = cancelled, .opaque = &c};
        struct img *img = NULL;
        struct transaction t;
        c.left = UINT32_MAX;
        assert_int_equal(img_open(&img, path, &o, &err), 0);
        assert_int_equal(tx_begin(&t, img->layers[0]->state, &err), 0);
        c.left = n;
        int ret = move_all(&t, &err);
        if (!ret)
            ret = tx_commit(&t, &err);
        done = ret == 0;
        assert_true(done || ret == -ECANCELED);
        img_error_clear(&err);
        tx_end(&t);
        img_close(img);
        expect_sound();
        assert_true(done || file_length() == before);
        assert_true(n < 1000);
    }
    assert_true(c.asked > 40);
}

static void an_image_opened_to_be_read_is_not_changed(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct transaction t;
    img_close(create(1 << 20, NULL));
    struct img *img = open_image(0);
    assert_int_equal(tx_begin(&t, img->layers[0]->state, &err), -EBADF);
    assert_non_null(strstr(img_error_message(&err), "was not opened for writing"));
    img_error_clear(&err);
    img_close(img);
}

static void a_refcount_below_zero_is_refused(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(1 << 20, NULL);
    struct transaction t;
    uint64_t offset = 0;
    if (tx_begin(&t, img->layers[0]->state, &err) < 0 || tx_allocate(&t, 1, &offset, &err) < 0 ||
        tx_release(&t, offset, 1, &err) < 0)
        fail_with(&err);
    assert_int_equal(tx_release(&t, offset, 1, &err), -EINVAL);
    assert_non_null(strstr(img_error_message(&err), "is in use, but its refcount is 0"));
    img_error_clear(&err);
    assert_int_equal(tx_reference(&t, 1ull << 40, 1, &err), -EINVAL);
    assert_non_null(strstr(img_error_message(&err), "outside the file"));
    img_error_clear(&err);
    tx_end(&t);
    img_close(img);
}

static void a_refcount_block_named_twice_is_refused(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(1 << 20, NULL);
    struct qcow2 *q = img->layers[0]->state;
    struct transaction t;
    uint8_t entry[8];
    assert_int_equal(file_read(q->file, entry, 8, host(q->header.reftable_offset), &err), 0);
    assert_int_equal(file_write(q->file, entry, 8, host(q->header.reftable_offset + 8), &err), 0);
    assert_int_equal(tx_begin(&t, q, &err), -EINVAL);
    assert_non_null(strstr(img_error_message(&err), "named twice"));
    img_error_clear(&err);
    img_close(img);
}

/* A header that keeps what nobody here knows, and names that do not fit in its first sector. */
static void the_header_is_rewritten(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    static char name[700];
    memset(name, 'n', sizeof name - 1);
    struct img *img = create(1 << 20, NULL);
    for (size_t length = 1; length < sizeof name; length += 97) {
        struct qcow2 *q = img->layers[0]->state;
        struct transaction t;
        if (tx_begin(&t, q, &err) < 0)
            fail_with(&err);
        t.parts.backing = name + sizeof name - 1 - length;
        t.parts.backing_format = "raw";
        t.parts_changed = true;
        if (tx_commit(&t, &err) < 0)
            fail_with(&err);
        tx_end(&t);
        assert_int_equal(strlen(img->layers[0]->backing_name), length);
        assert_string_equal(img->layers[0]->backing_format, "raw");
        img_close(img);
        expect_sound();
        struct img_open_options o = {.flags = IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING};
        if (img_open(&img, path, &o, &err) < 0)
            fail_with(&err);
    }
    img_close(img);
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind),
        cmocka_unit_test(the_refcount_table_grows),
        cmocka_unit_test(what_is_not_committed_leaves_no_trace),
        cmocka_unit_test(a_transaction_can_be_cancelled),
        cmocka_unit_test(an_image_opened_to_be_read_is_not_changed),
        cmocka_unit_test(a_refcount_below_zero_is_refused),
        cmocka_unit_test(a_refcount_block_named_twice_is_refused),
        cmocka_unit_test(the_header_is_rewritten),
    };
    int ret = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return ret;
}
