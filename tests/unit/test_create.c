/* The layout of new qcow2 files: invariants that hold for every geometry, and a few worked by hand.
 */
#include "formats/qcow2/layout.h"
#include "make_qcow2.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };
#define GIB (1ull << 30)
#define TIB (1ull << 40)

static uint64_t up(uint64_t v, uint64_t by)
{
    return (v + by - 1) / by;
}

/* What must be true of any layout, counted another way than the code counts. */
static void check_layout(const struct qcow2_layout *l)
{
    uint64_t c = 1ull << l->cluster_bits;
    uint64_t per_l2 = c / (l->extended_l2 ? 16 : 8), per_block = c * 8 / (1u << l->refcount_order);
    uint64_t guest = up(l->size, c);
    assert_int_equal(l->l1_entries, up(guest, per_l2));
    assert_int_equal(l->l2_tables, l->mapped ? l->l1_entries : 0);
    assert_int_equal(l->data_clusters, l->mapped ? guest : 0);

    /* one after another, no gap */
    uint64_t at = c;
    assert_int_equal(l->reftable_offset, at);
    at += l->reftable_clusters * c;
    assert_int_equal(l->refblocks_offset, at);
    at += l->refblocks * c;
    assert_int_equal(l->l1_offset, l->l1_entries ? at : 0);
    at += up(l->l1_entries * 8, c) * c;
    assert_int_equal(l->l2_offset, at);
    at += l->l2_tables * c;
    assert_int_equal(l->metadata, at);
    assert_int_equal(l->data_offset, l->external_data ? 0 : at);
    at += l->external_data ? 0 : l->data_clusters * c;
    assert_int_equal(l->clusters, at / c);
    /* the file ends with its last cluster, whose tail need not be there */
    assert_true(l->end <= at && up(l->end, c) == l->clusters);

    /* enough refcounts, and not a block or a table cluster too many */
    assert_true(l->refblocks * per_block >= l->clusters);
    assert_true(l->refblocks == 1 || (l->refblocks - 1) * per_block < l->clusters);
    assert_int_equal(l->reftable_clusters, up(l->refblocks * 8, c));
    assert_true(l->reftable_clusters * c <= MAX_REFTABLE_BYTES);
    assert_true(l->l1_entries * 8 <= MAX_L1_BYTES);
}

static void every_geometry(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0,        512,        1024,          65536,     65536 + 512,
                                     1 * MIB,  100 * MIB,  5 * GIB + 512, 128 * GIB, 2 * TIB,
                                     64 * TIB, 1024 * TIB, 1ull << 62};
    unsigned possible = 0;
    for (unsigned bits = MIN_CLUSTER_BITS; bits <= MAX_CLUSTER_BITS; bits++)
        for (unsigned order = 0; order <= MAX_REFCOUNT_ORDER; order++)
            for (unsigned flags = 0; flags < 8; flags++)
                for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                    struct qcow2_layout l = {
                        .size = sizes[s],
                        .cluster_bits = bits,
                        .refcount_order = order,
                        .extended_l2 = flags & 1,
                        .external_data = flags & 2,
                        .mapped = flags & 4,
                    };
                    if (!qcow2_layout_compute(&l))
                        continue;
                    check_layout(&l);
                    possible++;
                }
    assert_true(possible > 4000);
}

static struct qcow2_layout layout(uint64_t size, unsigned bits, unsigned order, bool mapped)
{
    struct qcow2_layout l = {
        .size = size, .cluster_bits = bits, .refcount_order = order, .mapped = mapped};
    assert_true(qcow2_layout_compute(&l));
    return l;
}

static void by_hand(void **state)
{
    (void)state;
    /* the image that everybody has: three clusters and one L1 entry */
    struct qcow2_layout l = layout(1 * MIB, 16, 4, false);
    assert_int_equal(l.l1_offset, 3 * 64 * KIB);
    assert_int_equal(l.end, 3 * 64 * KIB + 8);
    assert_int_equal(l.clusters, 4);

    /* 1 TiB mapped: 2^24 clusters of data, 2048 L2 tables (L1: 16 KiB, one cluster); 2^24 + 2050
     * and the refcounts' own clusters, 32768 refcounts a block: 513 blocks, one table */
    l = layout(1 * TIB, 16, 4, true);
    assert_int_equal(l.l2_tables, 2048);
    assert_int_equal(l.refblocks, 513);
    assert_int_equal(l.reftable_clusters, 1);
    assert_int_equal(l.clusters, (1 << 24) + 2048 + 1 + 513 + 1 + 1);

    /* nothing: no L1 table at all */
    l = layout(0, 16, 4, true);
    assert_int_equal(l.l1_entries, 0);
    assert_int_equal(l.l1_offset, 0);
    assert_int_equal(l.clusters, 3);
}

/* One entry more of L1 table than its 32 MiB hold is one too many. */
static void largest_sizes(void **state)
{
    (void)state;
    for (unsigned bits = MIN_CLUSTER_BITS; bits <= MAX_CLUSTER_BITS; bits++) {
        uint64_t largest = (MAX_L1_BYTES / 8ull) << (2 * bits - 3);
        struct qcow2_layout l = layout(largest, bits, 4, false);
        check_layout(&l);
        l.size = largest + 512;
        assert_false(qcow2_layout_compute(&l));
        l.size = largest;
        l.extended_l2 = true; /* half as many entries a table */
        assert_false(qcow2_layout_compute(&l));
    }
    /* 512-byte clusters, 64-bit refcounts: an 8 MiB table names 2^20 blocks of 64 refcounts, 32 GiB
     * of file */
    struct qcow2_layout l = layout(31 * GIB, 9, 6, true);
    l.size = 32 * GIB;
    assert_false(qcow2_layout_compute(&l));
    /* the offsets in L2 entries end at 2^56, whatever file they lead into */
    l = (struct qcow2_layout){
        .size = 1ull << 57, .cluster_bits = 21, .refcount_order = 4, .external_data = true};
    assert_true(qcow2_layout_compute(&l));
    l.mapped = true;
    assert_false(qcow2_layout_compute(&l));
    l = (struct qcow2_layout){.size = 1ull << 63, .cluster_bits = 21, .refcount_order = 4};
    assert_false(qcow2_layout_compute(&l));
}

static uint64_t refcount(const uint8_t *blocks, unsigned order, uint64_t index)
{
    if (order < 3)
        return blocks[index >> (3 - order)] >> ((index << order) & 7) & ((1u << (1 << order)) - 1);
    const uint8_t *p = blocks + (index << (order - 3));
    switch (order) {
    case 3:
        return *p;
    case 4:
        return load_be16(p);
    case 5:
        return load_be32(p);
    default:
        return load_be64(p);
    }
}

/* Each cluster of the file has the refcount 1, none behind it has one: in any piece of the blocks.
 */
static void refcounts(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= MAX_REFCOUNT_ORDER; order++) {
        struct qcow2_layout l = layout(300 * KIB + 512, 9, order, true);
        size_t bytes = l.refblocks << 9;
        uint8_t *blocks = malloc(bytes);
        assert_non_null(blocks);
        for (size_t at = 0; at < bytes; at += 512) {
            memset(blocks + at, 0xa5, 512);
            qcow2_layout_refblocks(&l, blocks + at, at, 512);
        }
        for (uint64_t i = 0; i < bytes * 8 >> order; i++)
            assert_int_equal(refcount(blocks, order, i), i < l.clusters);
        free(blocks);
    }
}

static void tables(void **state)
{
    (void)state;
    uint8_t buf[1024];
    struct qcow2_layout l = layout(100 * KIB, 9, 4, true); /* 200 clusters, 4 L2 tables of 64 */
    qcow2_layout_l1(&l, buf, 0, 512);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(load_be64(buf + i * 8),
                         i < 4 ? ENTRY_COPIED | (l.l2_offset + i * 512) : 0);
    qcow2_layout_reftable(&l, buf, 0, 512);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(load_be64(buf + i * 8),
                         i < l.refblocks ? l.refblocks_offset + i * 512 : 0);
    qcow2_layout_l2(&l, buf, 3 * 512, 512); /* the last table: 8 clusters are left */
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(load_be64(buf + i * 8),
                         i < 8 ? ENTRY_COPIED | (l.data_offset + (192 + i) * 512) : 0);

    /* extended: a bitmap follows each entry, in which nothing is allocated */
    l = (struct qcow2_layout){.size = 3 * 16 * KIB,
                              .cluster_bits = 14,
                              .refcount_order = 4,
                              .extended_l2 = true,
                              .external_data = true,
                              .mapped = true};
    assert_true(qcow2_layout_compute(&l));
    qcow2_layout_l2(&l, buf, 0, 64);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(load_be64(buf + i * 16), i < 3 ? ENTRY_COPIED | (i * 16 * KIB) : 0);
        assert_int_equal(load_be64(buf + i * 16 + 8), 0);
    }
}

/* ---- options ---- */

static const struct option_desc some[] = {
    {"text", OPTION_STRING, "A text", NULL}, {"size", OPTION_SIZE, "A size", NULL},
    {"flag", OPTION_BOOL, "A flag", "off"},  {"number", OPTION_NUMBER, "A number", "16"},
    {NULL, OPTION_STRING, NULL, NULL},
};

static void expect_options(const char *list, const char *summary, const char *message)
{
    struct option_set o;
    struct img_error err = IMG_ERROR_INIT;
    options_init(&o, some, NULL);
    int ret = options_parse(&o, list, &err);
    if (message) {
        assert_true(ret < 0);
        assert_string_equal(img_error_message(&err), message);
    } else {
        assert_int_equal(ret, 0);
        char *text = options_summary(&o);
        assert_string_equal(text, summary);
        free(text);
    }
    img_error_clear(&err);
    options_clear(&o);
}

static void option_lists(void **state)
{
    (void)state;
    expect_options("", "flag=off number=16", NULL);
    expect_options("text=a,,b=c,size=1k", "text=a,,b=c size=1024 flag=off number=16", NULL);
    expect_options("flag,number=0x20,id=x", "flag=on number=32", NULL);
    expect_options("flag=yes,noflag", "flag=off number=16", NULL);
    expect_options("number=1,number=-2", "flag=off number=-2", NULL);
    expect_options("text=", "text= flag=off number=16", NULL);
    expect_options("none=1", NULL, "Invalid parameter 'none'");
    expect_options("flag=2", NULL, "Parameter 'flag' expects 'on' or 'off'");
    expect_options("number=1k", NULL, "Parameter 'number' expects a number");
    expect_options("number=99999999999999999999", NULL,
                   "Value '99999999999999999999' is too large for parameter 'number'");
    expect_options("size=x", NULL, "Parameter 'size' expects a non-negative number below 2^64");
    expect_options("size=16E", NULL, "Value '16E' is out of range for parameter 'size'");
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_geometry), cmocka_unit_test(by_hand),
        cmocka_unit_test(largest_sizes),  cmocka_unit_test(refcounts),
        cmocka_unit_test(tables),         cmocka_unit_test(option_lists),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
