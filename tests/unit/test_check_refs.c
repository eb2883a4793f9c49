/* The array of reference counts: ranges, chunks, wide counts, where counting stops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "formats/qcow2/check_refs.h"

#include <stdlib.h>
#include <string.h>

struct loss {
    uint64_t calls, cluster, lost;
};

static void note_loss(void *opaque, uint64_t cluster, uint64_t lost)
{
    struct loss *l = opaque;
    l->calls++;
    l->cluster = cluster;
    l->lost += lost;
}

static struct refs start(uint64_t clusters, uint64_t max, struct loss *l)
{
    struct refs r;
    assert_int_equal(refs_init(&r, clusters, max, NULL), 0);
    r.overflow = note_loss;
    r.opaque = l;
    return r;
}

static void add(struct refs *r, uint64_t first, uint64_t count, uint64_t times)
{
    assert_int_equal(refs_add(r, first, count, times, NULL), 0);
}

static void untouched_clusters_count_zero(void **state)
{
    (void)state;
    struct loss l = {0};
    struct refs r = start(1ull << 31, UINT16_MAX, &l);
    assert_int_equal(refs_get(&r, 0), 0);
    assert_int_equal(refs_get(&r, (1ull << 31) - 1), 0);
    assert_int_equal(refs_get(&r, 1ull << 40), 0);
    assert_true(refs_empty(&r, 12345));
    assert_null(refs_bytes(&r, 12345));
    refs_free(&r);
}

static void a_range_crosses_chunks(void **state)
{
    (void)state;
    struct loss l = {0};
    struct refs r = start(10 * REFS_CHUNK, UINT16_MAX, &l);
    add(&r, REFS_CHUNK - 3, 2 * REFS_CHUNK, 1);
    add(&r, REFS_CHUNK, 1, 2);
    for (uint64_t i = 0; i < 10 * REFS_CHUNK; i++) {
        uint64_t wanted = i >= REFS_CHUNK - 3 && i < 3 * REFS_CHUNK - 3;
        assert_int_equal(refs_get(&r, i), i == REFS_CHUNK ? 3 : wanted);
    }
    assert_true(refs_empty(&r, 3 * REFS_CHUNK));
    assert_false(refs_empty(&r, 3 * REFS_CHUNK - 1));
    assert_int_equal(refs_bytes(&r, REFS_CHUNK)[0], 3);
    refs_free(&r);
}

static void the_last_cluster_has_a_place(void **state)
{
    (void)state;
    struct loss l = {0};
    for (uint64_t clusters = 1; clusters <= 2 * REFS_CHUNK; clusters += REFS_CHUNK - 1) {
        struct refs r = start(clusters, UINT16_MAX, &l);
        add(&r, clusters - 1, 1, 1);
        assert_int_equal(refs_get(&r, clusters - 1), 1);
        refs_free(&r);
    }
}

/* Each width of a chunk ends at some number; counts on both sides of it are exact. */
static void counts_widen(void **state)
{
    (void)state;
    static const uint64_t counts[] = {252,   253,   254,   255,        256,        65532,   65533,
                                      65534, 65535, 65536, UINT32_MAX, 1ull << 33, REFS_MAX};
    struct loss l = {0};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct refs r = start(REFS_CHUNK, UINT64_MAX, &l);
        add(&r, 0, 3, 1);
        add(&r, 1, 1, counts[i] - 1);
        assert_true(refs_get(&r, 0) == 1 && refs_get(&r, 2) == 1 && refs_get(&r, 3) == 0);
        assert_true(refs_get(&r, 1) == counts[i]);
        assert_int_equal(refs_bytes(&r, 0) != NULL, counts[i] < 254);
        refs_set(&r, 0, REFS_OTHER);
        refs_set(&r, 1, REFS_UNKNOWN);
        refs_set(&r, 2, 0);
        assert_true(refs_get(&r, 0) == REFS_OTHER && refs_get(&r, 1) == REFS_UNKNOWN);
        assert_int_equal(refs_get(&r, 2), 0);
        refs_free(&r);
    }
    assert_int_equal(l.calls, 0);
}

static void counting_stops_at_the_maximum(void **state)
{
    (void)state;
    static const uint64_t maxima[] = {1, 3, 15, 255, 65535, UINT32_MAX};
    for (size_t i = 0; i < sizeof maxima / sizeof *maxima; i++) {
        struct loss l = {0};
        struct refs r = start(100, maxima[i], &l);
        add(&r, 7, 1, maxima[i]);
        assert_int_equal(l.calls, 0);
        add(&r, 7, 1, 5);
        assert_true(refs_get(&r, 7) == maxima[i]);
        assert_true(l.calls == 1 && l.cluster == 7 && l.lost == 5);
        add(&r, 6, 3, 1);
        assert_true(refs_get(&r, 6) == 1 && refs_get(&r, 8) == 1);
        assert_true(l.calls == 2 && l.cluster == 7 && l.lost == 6);
        refs_free(&r);
    }
}

static void a_huge_number_of_times_does_not_wrap(void **state)
{
    (void)state;
    struct loss l = {0};
    struct refs r = start(100, UINT64_MAX, &l);
    add(&r, 1, 1, UINT64_MAX - 10);
    add(&r, 1, 1, UINT64_MAX - 10);
    assert_true(refs_get(&r, 1) == REFS_MAX);
    assert_int_equal(l.calls, 1);
    refs_free(&r);
}

/* Random additions beside a plain array. */
static void random_additions_are_exact(void **state)
{
    (void)state;
    enum { CLUSTERS = 5000 };
    const char *given = getenv("SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : 1;
    print_message("SEED=%u\n", seed);
    srandom(seed);
    struct loss l = {0};
    uint64_t *plain = calloc(CLUSTERS, sizeof *plain), lost = 0, max = 100000;
    struct refs r = start(CLUSTERS, max, &l);
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t first = (uint64_t)random() % CLUSTERS;
        uint64_t count = (uint64_t)random() % 2000 + 1, times = 1u << random() % 10;
        count = count < CLUSTERS - first ? count : CLUSTERS - first;
        add(&r, first, count, times);
        for (uint64_t k = first; k < first + count; k++) {
            uint64_t over = plain[k] + times > max ? plain[k] + times - max : 0;
            plain[k] += times - over;
            lost += over;
        }
    }
    for (uint64_t k = 0; k < CLUSTERS; k++)
        assert_true(refs_get(&r, k) == plain[k]);
    assert_true(l.lost == lost);
    free(plain);
    refs_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(untouched_clusters_count_zero),
        cmocka_unit_test(a_range_crosses_chunks),
        cmocka_unit_test(the_last_cluster_has_a_place),
        cmocka_unit_test(counts_widen),
        cmocka_unit_test(counting_stops_at_the_maximum),
        cmocka_unit_test(a_huge_number_of_times_does_not_wrap),
        cmocka_unit_test(random_additions_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
