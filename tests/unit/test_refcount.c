/* Are data clusters only reserved? Refcounts of each width, and the threshold of QEMU's rule. */
#include "formats/qcow2/qcow2.h"
#include "make_qcow2.h"

enum { IN_USE = 30, CLUSTERS = 40 };

static void set_refcount(uint8_t *block, unsigned order, unsigned index, uint64_t value)
{
    unsigned bits = 1u << order;
    if (order < 3) {
        block[index * bits / 8] |= (uint8_t)(value << (index * bits % 8));
        return;
    }
    for (unsigned i = 0; i < bits / 8; i++)
        block[index * (bits / 8) + i] = (uint8_t)(value >> (bits - 8 - 8 * i));
}

static int64_t claimed; /* what the host says it has allocated */

static int64_t claim(struct file *f)
{
    (void)f;
    return claimed;
}

static bool has_holes(const struct image *m, int64_t allocated)
{
    struct img *img = image_open(m, 0);
    struct layer *l = img->layers[0];
    struct file_ops ops = *l->file->ops;
    ops.allocated = claim;
    l->file->ops = &ops;
    claimed = allocated;
    bool answer = l->driver->data_has_holes(l);
    claimed = 1ll << 40;
    assert_int_equal(l->driver->data_has_holes(l), answer); /* asked once, remembered */
    img_close(img);
    return answer;
}

/* Thirty clusters in use: a ninth more than 27, but not than 28. */
static void check_threshold(const struct image *m)
{
    assert_true(has_holes(m, 0));
    assert_true(has_holes(m, 27 * 4096 + 4095));
    assert_false(has_holes(m, 28 * 4096));
    assert_false(has_holes(m, CLUSTERS * 4096));
    assert_false(has_holes(m, -95));
}

static struct image with_refcounts(unsigned order, uint64_t value)
{
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    image_grow(&m, CLUSTERS - m.size / m.cluster);
    SET32(&m, refcount_order, order);
    memset(m.data + m.refblock, 0, m.cluster);
    for (unsigned i = 0; i < IN_USE; i++) /* every fourth is free */
        set_refcount(m.data + m.refblock, order, i + i / 3, value);
    return m;
}

static void each_width(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= MAX_REFCOUNT_ORDER; order++) {
        uint64_t most = order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
        uint64_t values[] = {1, most, most ^ most >> 1}; /* lowest bit, all, highest bit */
        for (unsigned i = 0; i < 3; i++) {
            struct image m = with_refcounts(order, values[i]);
            check_threshold(&m);
            image_free(&m);
        }
    }
}

/* Refcounts past the end of the file are stale: they do not count. */
static void only_clusters_of_the_file(void **state)
{
    (void)state;
    struct image m = with_refcounts(4, 1);
    for (unsigned i = CLUSTERS; i < 2048; i++)
        set_refcount(m.data + m.refblock, 4, i, 1);
    check_threshold(&m);
    image_free(&m);
}

static void blocks_that_are_missing_or_broken(void **state)
{
    (void)state;
    struct image m = with_refcounts(4, 1);
    store_be64(m.data + m.reftable, 0);
    assert_false(has_holes(&m, 0));
    store_be64(m.data + m.reftable, m.refblock + 512);
    assert_false(has_holes(&m, 0));
    store_be64(m.data + m.reftable, m.refblock | 1);
    assert_false(has_holes(&m, 0));
    store_be64(m.data + m.reftable, 1ull << 40);
    assert_false(has_holes(&m, 0));
    image_free(&m);
}

/* 512-byte clusters: a block stands for 256 clusters, so that many blocks are looked at. */
static void over_several_blocks(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 9, 16 << 10, 0);
    size_t blocks = image_grow(&m, 3);
    image_grow(&m, 1000 - m.size / m.cluster);
    memset(m.data + m.refblock, 0, m.cluster);
    store_be64(m.data + m.reftable + 8, blocks);
    store_be64(m.data + m.reftable + 16, 0);
    store_be64(m.data + m.reftable + 24, blocks + 1024);
    for (unsigned i = 0; i < 20; i++)
        store_be16(m.data + blocks + 2 * (255 - i), 1); /* clusters 256..511 */
    for (unsigned i = 0; i < 10; i++)
        store_be16(m.data + blocks + 1024 + 2 * i, 1); /* 768..1023 */
    assert_true(has_holes(&m, 27 * 512));
    assert_false(has_holes(&m, 28 * 512));
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_width),
        cmocka_unit_test(only_clusters_of_the_file),
        cmocka_unit_test(blocks_that_are_missing_or_broken),
        cmocka_unit_test(over_several_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
