/* Byte order, and sums that cannot overflow unnoticed: bytes.h and checked.h. */
#include "lib/checked.h"
#include "make_qcow2.h"

static void loads_and_stores(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0xee, 1, 2, 3, 4, 5, 6, 7, 8, 0xee};
    const uint8_t *odd = bytes + 1; /* no alignment is asked for */
    assert_int_equal(load_be16(odd), 0x0102);
    assert_int_equal(load_be32(odd), 0x01020304);
    assert_true(load_be64(odd) == 0x0102030405060708);
    assert_int_equal(load_le32(odd), 0x04030201);
    uint8_t out[10];
    memset(out, 0xee, sizeof out);
    store_be64(out + 1, 0x0102030405060708);
    assert_memory_equal(out, bytes, sizeof out);
    memset(out, 0, sizeof out);
    store_be32(out + 1, 0xff020304);
    assert_int_equal(load_be32(out + 1), 0xff020304);
    assert_int_equal(out[5], 0);
    store_be16(out + 1, 0xfffe);
    assert_int_equal(out[1], 0xff);
    assert_int_equal(out[2], 0xfe);
    assert_int_equal(out[3], 3);
}

static void rounding(void **state)
{
    (void)state;
    uint64_t last = UINT64_MAX & ~511ull;
    assert_int_equal(align_up(0, 512), 0);
    assert_int_equal(align_up(1, 512), 512);
    assert_int_equal(align_up(512, 512), 512);
    assert_true(align_up(last, 512) == last);
    assert_true(align_up(last + 1, 512) == last); /* saturates */
    assert_true(align_up(UINT64_MAX, 512) == last);
    assert_int_equal(align_down(511, 512), 0);
    assert_true(align_down(UINT64_MAX, 1ull << 63) == 1ull << 63);
    assert_true(is_aligned(0, 4096) && is_aligned(8192, 4096));
    assert_false(is_aligned(8191, 4096) || is_aligned(1, 2));
    assert_int_equal(div_round_up(0, 7), 0);
    assert_int_equal(div_round_up(7, 7), 1);
    assert_int_equal(div_round_up(8, 7), 2);
    assert_true(div_round_up(UINT64_MAX, 2) == 1ull << 63);
    assert_true(div_round_up(UINT64_MAX, 1) == UINT64_MAX);
}

static void sums(void **state)
{
    (void)state;
    uint64_t sum;
    assert_false(add_overflows(UINT64_MAX, 0, &sum));
    assert_true(sum == UINT64_MAX);
    assert_true(add_overflows(UINT64_MAX, 1, &sum));
    assert_true(add_overflows(1ull << 63, 1ull << 63, &sum));
    assert_int_equal(min_u64(1, 2), 1);
    assert_true(max_u64(UINT64_MAX, 2) == UINT64_MAX);
}

static void overlaps(void **state)
{
    (void)state;
    assert_true(ranges_overlap(0, 10, 9, 1));
    assert_false(ranges_overlap(0, 10, 10, 1));
    assert_true(ranges_overlap(5, 1, 0, 10));
    assert_false(ranges_overlap(10, 5, 0, 10));
    assert_true(ranges_overlap(3, 4, 3, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_and_stores),
        cmocka_unit_test(rounding),
        cmocka_unit_test(sums),
        cmocka_unit_test(overlaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
