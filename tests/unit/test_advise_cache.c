/*
 * The cache rules against values worked out by hand from QEMU's documentation
 * (docs/qcow2-cache.txt) and, for each generation of rules, from what that version did.
 */
#include "lib/imgtool.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define KIB 1024ull
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

static struct img_qemu_version version(const char *text)
{
    struct img_qemu_version v;
    assert_int_equal(img_qemu_version_parse(&v, text, NULL), 0);
    return v;
}

static struct img_cache_facts disk(uint64_t size, uint64_t cluster)
{
    return (struct img_cache_facts){.virtual_size = size, .cluster_size = cluster};
}

static struct img_cache_advice advise(struct img_cache_facts facts, const char *qemu)
{
    struct img_qemu_version v = version(qemu);
    struct img_cache_advice a;
    assert_int_equal(img_advise_cache(&a, &facts, &v, NULL), 0);
    return a;
}

static void a_cache_maps_the_whole_disk(void **state)
{
    (void)state;
    static const struct {
        uint64_t size, cluster;
        bool extended;
        uint64_t l2, refcount;
    } cases[] = {
        {8 * GIB, 64 * KIB, false, 1 * MIB, 256 * KIB},
        {64 * GIB, 64 * KIB, false, 8 * MIB, 256 * KIB},
        {64 * GIB, 64 * KIB, true, 16 * MIB, 256 * KIB},
        {1 * TIB, 64 * KIB, false, 128 * MIB, 256 * KIB},
        {1 * TIB, 2 * MIB, false, 4 * MIB, 8 * MIB},
        {64 * TIB, 64 * KIB, false, 8 * GIB, 256 * KIB},
        {1 * GIB, 512, false, 16 * MIB, 2 * KIB},
        /* 160 KiB of entries lie in three tables */
        {1280 * MIB, 64 * KIB, false, 192 * KIB, 256 * KIB},
        {512 * MIB + 512, 64 * KIB, false, 128 * KIB, 256 * KIB},
        {512, 64 * KIB, false, 64 * KIB, 256 * KIB},
        {512, 2 * MIB, false, 2 * MIB, 8 * MIB},
        {0, 64 * KIB, false, 0, 256 * KIB},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct img_cache_facts f = disk(cases[i].size, cases[i].cluster);
        f.extended_l2 = cases[i].extended;
        struct img_cache_advice a = advise(f, "newest");
        assert_int_equal(a.advised.l2_cache_size, cases[i].l2);
        assert_int_equal(a.advised.refcount_cache_size, cases[i].refcount);
        assert_int_equal(a.advised.l2_entry_size, cases[i].cluster);
        assert_int_equal(a.advised.coverage, cases[i].size);
        assert_true(a.advised.covers_disk);
        assert_false(a.l2_by_sum);
    }
}

static void each_version_has_its_default(void **state)
{
    (void)state;
    static const struct {
        const char *qemu;
        uint64_t size, cluster;
        uint64_t l2, entry, refcount, coverage;
        bool covers;
    } cases[] = {
        /* before 3.1: 1 MiB or 8 clusters, whatever the disk needs */
        {"2.5", 64 * GIB, 64 * KIB, 1 * MIB, 64 * KIB, 256 * KIB, 8 * GIB, false},
        {"2.11.2", 8 * GIB, 64 * KIB, 1 * MIB, 64 * KIB, 256 * KIB, 8 * GIB, true},
        {"2.11", 1 * TIB, 2 * MIB, 16 * MIB, 2 * MIB, 8 * MIB, 1 * TIB, true},
        {"2.11", 1 * GIB, 512, 1 * MIB, 512, 256 * KIB, 64 * MIB, false},
        {"2.12", 1 * GIB, 512, 1 * MIB, 512, 2 * KIB, 64 * MIB, false},
        {"3.0", 64 * GIB, 64 * KIB, 1 * MIB, 64 * KIB, 256 * KIB, 8 * GIB, false},
        {"3.0.1", 100 * MIB, 64 * KIB, 1 * MIB, 64 * KIB, 256 * KIB, 100 * MIB, true},
        /* from 3.1: what is needed, at most 32 MiB */
        {"3.1", 64 * GIB, 64 * KIB, 8 * MIB, 64 * KIB, 256 * KIB, 64 * GIB, true},
        {"3.1", 256 * GIB, 64 * KIB, 32 * MIB, 64 * KIB, 256 * KIB, 256 * GIB, true},
        {"3.1", 1 * TIB, 64 * KIB, 32 * MIB, 64 * KIB, 256 * KIB, 256 * GIB, false},
        /* from 4.0: in small entries where it does not suffice */
        {"4", 1 * TIB, 64 * KIB, 32 * MIB, 4 * KIB, 256 * KIB, 256 * GIB, false},
        {"4.2", 256 * GIB, 64 * KIB, 32 * MIB, 64 * KIB, 256 * KIB, 256 * GIB, true},
        {"10.0.2", 256 * GIB + 512, 64 * KIB, 32 * MIB, 4 * KIB, 256 * KIB, 256 * GIB, false},
        {"10.0.2", 4 * GIB, 512, 32 * MIB, 512, 2 * KIB, 2 * GIB, false},
        {"newest", 64 * TIB, 2 * MIB, 32 * MIB, 4 * KIB, 8 * MIB, 8 * TIB, false},
        /* at least two entries */
        {"newest", 100 * MIB, 64 * KIB, 128 * KIB, 64 * KIB, 256 * KIB, 100 * MIB, true},
        {"newest", 512, 2 * MIB, 4 * MIB, 2 * MIB, 8 * MIB, 512, true},
        {"newest", 0, 64 * KIB, 128 * KIB, 64 * KIB, 256 * KIB, 0, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct img_cache_advice a = advise(disk(cases[i].size, cases[i].cluster), cases[i].qemu);
        assert_int_equal(a.taken.l2_cache_size, cases[i].l2);
        assert_int_equal(a.taken.l2_entry_size, cases[i].entry);
        assert_int_equal(a.taken.refcount_cache_size, cases[i].refcount);
        assert_int_equal(a.taken.coverage, cases[i].coverage);
        assert_int_equal(a.taken.covers_disk, cases[i].covers);
        assert_int_equal(a.verdict, cases[i].covers ? IMG_CACHE_KEEP_DEFAULT : IMG_CACHE_SET);
        assert_int_equal(a.reason, cases[i].covers ? IMG_CACHE_COVERED : IMG_CACHE_TOO_SMALL);
    }
}

static void extended_entries_halve_what_the_default_maps(void **state)
{
    (void)state;
    struct img_cache_facts f = disk(128 * GIB, 64 * KIB);
    f.extended_l2 = true;
    assert_int_equal(advise(f, "newest").verdict, IMG_CACHE_KEEP_DEFAULT);
    f.virtual_size += 512;
    struct img_cache_advice a = advise(f, "newest");
    assert_int_equal(a.verdict, IMG_CACHE_SET);
    assert_int_equal(a.taken.coverage, 128 * GIB);
}

static void a_need_that_was_rounded_down_is_set_by_the_sum(void **state)
{
    (void)state;
    static const struct {
        const char *qemu;
        bool cut;
        uint64_t l2;
    } cases[] = {
        {"3.0", false, 1 * MIB},     {"3.1", true, 128 * KIB},  {"4.1.0", true, 128 * KIB},
        {"4.1.1", false, 192 * KIB}, {"4.2", false, 192 * KIB},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct img_cache_advice a = advise(disk(1280 * MIB, 64 * KIB), cases[i].qemu);
        assert_int_equal(a.l2_by_sum, cases[i].cut);
        assert_int_equal(a.taken.l2_cache_size, cases[i].l2);
        assert_int_equal(a.verdict, cases[i].cut ? IMG_CACHE_SET : IMG_CACHE_KEEP_DEFAULT);
        assert_int_equal(a.advised.l2_cache_size, 192 * KIB);
    }
}

static void snapshots_make_the_refcount_cache_matter(void **state)
{
    (void)state;
    struct img_cache_facts f = disk(64 * GIB, 64 * KIB);
    f.file_length = 40 * GIB; /* 640 Ki clusters of 2 bytes */
    assert_int_equal(advise(f, "newest").advised.refcount_cache_size, 256 * KIB);
    f.snapshots = 1;
    struct img_cache_advice a = advise(f, "newest");
    assert_int_equal(a.advised.refcount_cache_size, 1280 * KIB);
    assert_int_equal(a.verdict, IMG_CACHE_SET);
    assert_int_equal(a.reason, IMG_CACHE_REFCOUNTS);
    f.refcount_bits = 1;
    assert_int_equal(advise(f, "newest").advised.refcount_cache_size, 256 * KIB);
    f.refcount_bits = 64;
    assert_int_equal(advise(f, "newest").advised.refcount_cache_size, 5 * MIB);
    f.file_length = 1 << 20;
    assert_int_equal(advise(f, "newest").verdict, IMG_CACHE_KEEP_DEFAULT);
    /* the length of a sparse file is no reason for more than the L2 cache */
    f.file_length = INT64_MAX;
    assert_int_equal(advise(f, "newest").advised.refcount_cache_size, 8 * MIB);
    /* before 2.12, a quarter of the L2 cache was there anyway */
    f = disk(8 * GIB, 512);
    f.snapshots = 1;
    f.file_length = 64 * MIB;
    assert_int_equal(advise(f, "2.11").taken.refcount_cache_size, 256 * KIB);
    assert_int_equal(advise(f, "2.11").advised.refcount_cache_size, 256 * KIB);
}

static void other_formats_have_no_cache(void **state)
{
    (void)state;
    struct img_cache_advice a = advise(disk(1 * TIB, 0), "newest");
    assert_int_equal(a.verdict, IMG_CACHE_NOT_APPLICABLE);
    assert_int_equal(a.reason, IMG_CACHE_NO_TABLES);
    assert_int_equal(a.advised.l2_cache_size, 0);
}

static void refuse(struct img_cache_facts f, const char *message)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_cache_advice a;
    assert_int_equal(img_advise_cache(&a, &f, NULL, &err), -EINVAL);
    assert_string_equal(img_error_message(&err), message);
    assert_int_equal(a.verdict, IMG_CACHE_NOT_APPLICABLE);
    img_error_clear(&err);
}

static void facts_of_no_image_are_refused(void **state)
{
    (void)state;
    refuse(disk(GIB, 256), "Cluster size 256 is not a power of two between 512 and 2097152");
    refuse(disk(GIB, 4 * MIB),
           "Cluster size 4194304 is not a power of two between 512 and 2097152");
    refuse(disk(GIB, 65535), "Cluster size 65535 is not a power of two between 512 and 2097152");
    refuse(disk(UINT64_MAX, 2 * MIB),
           "A disk of 18446744073709551615 bytes is too large for clusters of 2097152");
    refuse(disk(128 * GIB + 512, 512),
           "A disk of 137438953984 bytes is too large for clusters of 512");
    struct img_cache_facts f = disk(GIB, 8 * KIB);
    f.extended_l2 = true;
    refuse(f, "Extended L2 entries need clusters of at least 16384 bytes, not 8192");
    f = disk(GIB, 64 * KIB);
    f.refcount_bits = 3;
    refuse(f, "Refcount width 3 is not a power of two up to 64");
    f.refcount_bits = 128;
    refuse(f, "Refcount width 128 is not a power of two up to 64");
    f.refcount_bits = 16;
    f.file_length = UINT64_MAX;
    refuse(f, "A file of 18446744073709551615 bytes cannot be");
    advise(disk(128 * GIB, 512), "newest"); /* the largest there is */
}

static void versions_are_read(void **state)
{
    (void)state;
    static const char *const good[] = {"2.2", "2.5", "3.0", "3.1", "4", "10.0.2", "999.999.999"};
    static const char *const bad[] = {
        "",   "x",  "4.",  ".4",   "4..1",          "4.1.2.3", "4.1-rc1", "-4",  "+4",
        " 4", "4 ", "1e3", "1000", "4.99999999999", "0x10",    "new",     "v4.0"};
    struct img_qemu_version v;
    struct img_error err = IMG_ERROR_INIT;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(img_qemu_version_parse(&v, good[i], NULL), 0);
    v = version("10.0.2");
    assert_true(v.major == 10 && v.minor == 0 && v.micro == 2);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(img_qemu_version_parse(&v, bad[i], &err), -EINVAL);
        assert_non_null(strstr(img_error_message(&err), "is not a version of QEMU"));
    }
    assert_int_equal(img_qemu_version_parse(&v, "2.1.9", &err), -EINVAL);
    assert_string_equal(img_error_message(&err),
                        "QEMU 2.1.9 has no cache that can be set; 2.2 is the first");
    assert_int_equal(img_qemu_version_parse(&v, "0", &err), -EINVAL);
    assert_non_null(strstr(img_error_message(&err), "QEMU 0 has no cache"));
    img_error_clear(&err);
    v = version("2.11.9");
    assert_false(img_qemu_has_l2_entry_size(&v));
    v = version("2.12");
    assert_true(img_qemu_has_l2_entry_size(&v));
    v = version("newest");
    assert_true(img_qemu_has_l2_entry_size(&v));
    assert_true(img_qemu_has_l2_entry_size(NULL));
}

/* ---- budgets ---- */

static uint64_t share(struct img_cache_advice *a, const struct img_cache_facts *f, size_t n,
                      uint64_t budget, const char *qemu)
{
    struct img_qemu_version v = version(qemu);
    uint64_t sum = 0;
    assert_int_equal(img_share_cache(a, f, n, budget, &v, NULL, NULL), 0);
    for (size_t i = 0; i < n; i++)
        sum += a[i].advised.l2_cache_size + a[i].advised.refcount_cache_size;
    assert_true(sum <= budget);
    return sum;
}

static void a_budget_goes_where_a_byte_maps_most(void **state)
{
    (void)state;
    struct img_cache_facts f[3] = {disk(TIB, 64 * KIB), disk(TIB, 2 * MIB), disk(TIB, 64 * KIB)};
    f[2].extended_l2 = true;
    struct img_cache_advice a[3];
    /* the large clusters first: 4 MiB map all of that disk */
    share(a, f, 3, 32 * MIB, "newest");
    assert_int_equal(a[1].advised.l2_cache_size, 4 * MIB);
    assert_true(a[1].advised.covers_disk);
    assert_int_equal(a[1].advised.refcount_cache_size, 8 * MIB);
    /* then the small entries; extended ones get their minimum of two entries */
    assert_int_equal(a[2].advised.l2_cache_size, 8 * KIB);
    assert_int_equal(a[2].advised.l2_entry_size, 4 * KIB);
    assert_int_equal(a[0].advised.l2_cache_size, 32 * MIB - 12 * MIB - 2 * 256 * KIB - 8 * KIB);
    assert_int_equal(a[0].reason, IMG_CACHE_SHARED);
    assert_int_equal(a[0].advised.coverage, a[0].advised.l2_cache_size / 8 * 64 * KIB);
}

static void equals_get_the_same_part(void **state)
{
    (void)state;
    struct img_cache_facts f[2] = {disk(TIB, 64 * KIB), disk(3 * TIB, 64 * KIB)};
    struct img_cache_advice a[2];
    uint64_t least = 2 * (8 * KIB + 256 * KIB);
    share(a, f, 2, 16 * MIB + least, "newest");
    uint64_t ratio = a[1].advised.l2_cache_size * 1000 / a[0].advised.l2_cache_size;
    assert_in_range(ratio, 2990, 3000);
    /* nothing is left over but less than an entry, in any order */
    for (uint64_t more = 0; more < 64 * KIB; more += 1000) {
        uint64_t budget = 20 * MIB + more;
        assert_true(budget - share(a, f, 2, budget, "newest") < 4 * KIB);
        for (size_t i = 0; i < 2; i++)
            assert_int_equal(a[i].advised.l2_cache_size % a[i].advised.l2_entry_size, 0);
    }
}

static void plenty_gives_each_what_it_needs_and_no_more(void **state)
{
    (void)state;
    struct img_cache_facts f[4] = {disk(TIB, 64 * KIB), disk(64 * GIB, 64 * KIB),
                                   disk(100 * MIB, 64 * KIB), disk(GIB, 0)};
    f[1].snapshots = 2;
    f[1].file_length = 40 * GIB;
    struct img_cache_advice a[4];
    assert_int_equal(share(a, f, 4, TIB, "newest"),
                     (128 + 8) * MIB + 64 * KIB + 2 * 256 * KIB + 1280 * KIB);
    assert_int_equal(a[1].advised.refcount_cache_size, 1280 * KIB);
    assert_int_equal(a[0].advised.l2_entry_size, 64 * KIB);
    /* one table held in small entries takes no second one */
    assert_int_equal(a[2].advised.l2_cache_size, 64 * KIB);
    assert_int_equal(a[2].advised.l2_entry_size, 4 * KIB);
    assert_int_equal(a[3].verdict, IMG_CACHE_NOT_APPLICABLE);
    /* what the default does anyway is no change */
    struct img_cache_facts one = disk(64 * GIB, 64 * KIB);
    share(a, &one, 1, 8 * MIB + 256 * KIB, "newest");
    assert_int_equal(a[0].verdict, IMG_CACHE_KEEP_DEFAULT);
    assert_int_equal(a[0].reason, IMG_CACHE_COVERED);
}

static void old_versions_share_in_whole_tables(void **state)
{
    (void)state;
    struct img_cache_facts f = disk(TIB, 64 * KIB);
    struct img_cache_advice a;
    share(&a, &f, 1, 5 * MIB + 1000, "2.11");
    assert_int_equal(a.advised.l2_entry_size, 64 * KIB);
    assert_int_equal(a.advised.l2_cache_size, 5 * MIB - 256 * KIB);
    f = disk(100 * MIB, 64 * KIB);
    share(&a, &f, 1, 5 * MIB, "2.11");
    assert_int_equal(a.advised.l2_cache_size, 128 * KIB); /* two tables at least */
}

static void a_budget_below_the_least_is_refused(void **state)
{
    (void)state;
    struct img_cache_facts f[2] = {disk(TIB, 64 * KIB), disk(TIB, 2 * MIB)};
    struct img_cache_advice a[2];
    struct img_error err = IMG_ERROR_INIT;
    uint64_t least = 0, expected = 2 * 8 * KIB + 256 * KIB + 8 * MIB;
    assert_int_equal(img_share_cache(a, f, 2, expected - 1, NULL, &least, &err), -ENOSPC);
    assert_int_equal(least, expected);
    assert_string_equal(img_error_message(&err),
                        "A budget of 8667135 bytes is too small: QEMU takes "
                        "at least 8667136 bytes for 2 images");
    img_error_clear(&err);
    assert_int_equal(img_share_cache(a, f, 2, expected, NULL, &least, &err), 0);
    assert_int_equal(a[0].advised.l2_cache_size, 8 * KIB);
    assert_int_equal(a[1].advised.l2_cache_size, 8 * KIB);
    f[1].cluster_size = 3;
    assert_int_equal(img_share_cache(a, f, 2, GIB, NULL, NULL, &err), -EINVAL);
    img_error_clear(&err);
    assert_int_equal(img_share_cache(NULL, NULL, 0, 0, NULL, &least, NULL), 0);
    assert_int_equal(least, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_maps_the_whole_disk),
        cmocka_unit_test(each_version_has_its_default),
        cmocka_unit_test(extended_entries_halve_what_the_default_maps),
        cmocka_unit_test(a_need_that_was_rounded_down_is_set_by_the_sum),
        cmocka_unit_test(snapshots_make_the_refcount_cache_matter),
        cmocka_unit_test(other_formats_have_no_cache),
        cmocka_unit_test(facts_of_no_image_are_refused),
        cmocka_unit_test(versions_are_read),
        cmocka_unit_test(a_budget_goes_where_a_byte_maps_most),
        cmocka_unit_test(equals_get_the_same_part),
        cmocka_unit_test(plenty_gives_each_what_it_needs_and_no_more),
        cmocka_unit_test(old_versions_share_in_whole_tables),
        cmocka_unit_test(a_budget_below_the_least_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
