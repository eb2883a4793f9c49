/* The snapshot table: what is read from it, what is refused, and reading a snapshot's disk. */
#include "formats/qcow2/qcow2.h"
#include "make_qcow2.h"

static const struct snapshot_spec two[] = {
    {"1", "first", 24, 4 << 20}, {"2", "1", 16, 2 << 20}, /* named like the other's ID */
};

static void what_is_read(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    image_add_snapshots(&m, two, 2);
    struct img *img = image_open(&m, 0);
    struct img_info *info;
    assert_int_equal(img_describe(img, 0, &info, NULL), 0);
    assert_int_equal(info->snapshot_count, 2);
    const struct img_snapshot_info *s = info->snapshots;
    assert_string_equal(s[0].id, "1");
    assert_string_equal(s[0].name, "first");
    assert_int_equal(s[0].date_sec, 1000);
    assert_int_equal(s[0].date_nsec, 5);
    assert_int_equal(s[0].vm_clock_nsec, 77);
    assert_int_equal(s[0].vm_state_size, 1ull << 33); /* the 64-bit one counts */
    assert_int_equal(s[0].disk_size, 4 << 20);
    assert_true(s[0].has_icount);
    assert_int_equal(s[0].icount, 42);
    assert_string_equal(s[1].id, "2");
    assert_string_equal(s[1].name, "1");
    assert_false(s[1].has_icount);
    assert_int_equal(s[1].disk_size, 2 << 20);
    img_info_free(info);
    img_close(img);
    image_free(&m);
}

static void extra_data_of_each_length(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 7, 8, 15, 16, 23, 24, 25, 1023, 1024};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct snapshot_spec spec[] = {{"1", "a", sizes[i], 2 << 20}, {"2", "b", 0, 0}};
        struct image m = make_qcow2(3, 12, 4 << 20, 0);
        image_add_snapshots(&m, spec, 2);
        struct img *img = image_open(&m, 0);
        const struct qcow2 *q = img->layers[0]->state;
        assert_int_equal(q->snapshot_count, 2);
        const struct img_snapshot_info *s = &q->snapshots[0].info;
        assert_int_equal(s->vm_state_size, sizes[i] >= 8 ? 1ull << 33 : 123);
        assert_int_equal(s->disk_size, sizes[i] >= 16 ? 2 << 20 : 4 << 20);
        assert_int_equal(s->has_icount, sizes[i] >= 24);
        assert_string_equal(q->snapshots[1].info.name, "b"); /* found behind it */
        img_close(img);
        image_free(&m);
    }
}

/* QEMU reads such tables, too. */
static void no_id(void **state)
{
    (void)state;
    struct snapshot_spec spec[] = {{"", "a", 24, 4 << 20}, {"", "", 24, 4 << 20}};
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    image_add_snapshots(&m, spec, 2);
    struct img *img = image_open(&m, 0);
    const struct qcow2 *q = img->layers[0]->state;
    assert_int_equal(q->snapshot_count, 2);
    assert_string_equal(q->snapshots[0].info.id, "");
    img_close(img);
    image_free(&m);
}

static void too_much_extra_data(void **state)
{
    (void)state;
    struct snapshot_spec spec[] = {{"1", "a", 1025, 0}};
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    image_add_snapshots(&m, spec, 1);
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    int ret = img_open_memory(&img, m.data, m.size, "qcow2", 0, &err);
    assert_string_equal(err.hint,
                        "You can force-remove this extra metadata with qemu-img check -r all");
    expect_error(&err, ret, EFBIG,
                 "Too much extra metadata in snapshot table entry 0 (extra_data_size 1025, at most "
                 "1024)");
    image_free(&m);
}

/* One field of the second entry set to one value. */
static void refused(size_t field, unsigned width, uint64_t value, int code, const char *message)
{
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    size_t at = image_add_snapshots(&m, two, 2);
    at += 40 + 24 + 1 + 5 + 2; /* the first entry, padded */
    if (width == 2)
        store_be16(m.data + at + field, (uint16_t)value);
    else if (width == 4)
        store_be32(m.data + at + field, (uint32_t)value);
    else
        store_be64(m.data + at + field, value);
    if (message)
        expect_open(&m, 0, code, message);
    else
        expect_opens(&m, 0);
    image_free(&m);
}

static void broken_entries(void **state)
{
    (void)state;
    refused(offsetof(struct ondisk_snapshot, l1_table_offset), 8, 0x5008, EINVAL,
            "Snapshot table entry 1 ('1'): Snapshot L1 table offset invalid (offset 0x5008)");
    refused(offsetof(struct ondisk_snapshot, l1_table_offset), 8, 0x100000, EINVAL,
            "Snapshot table entry 1 ('1'): Snapshot L1 table lies outside the file (offset "
            "0x100000, 16 bytes, the file ends at 0x8000)");
    refused(offsetof(struct ondisk_snapshot, l1_table_offset), 8, 0x3000, EINVAL,
            "Snapshot table entry 1 ('1'): Snapshot L1 table at 0x3000 overlaps the active L1 "
            "table");
    refused(offsetof(struct ondisk_snapshot, l1_size), 4, 4194305, EFBIG,
            "Snapshot table entry 1 ('1'): Snapshot L1 table too large (l1_size 4194305, at most "
            "4194304)");
    refused(offsetof(struct ondisk_snapshot, l1_size), 4, 0, EINVAL,
            "Snapshot table entry 1 ('1'): Snapshot L1 table is too small (l1_size 0, disk size "
            "2097152)");
    refused(sizeof(struct ondisk_snapshot) + 8, 8, 4 << 20, 0, NULL); /* both tables full */
    refused(sizeof(struct ondisk_snapshot) + 8, 8, (4 << 20) + 1, EINVAL,
            "Snapshot table entry 1 ('1'): Snapshot L1 table is too small (l1_size 2, disk size "
            "4194305)");
}

static void table_cut_short(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    size_t at = image_add_snapshots(&m, two, 2);
    image_resize(&m, at + 80 + 20);
    expect_open(&m, 0, EINVAL,
                "Failed to read snapshot table (entry 1): 40 bytes at 0x6048 reach past its end at "
                "0x6064");
    image_free(&m);
}

/* Goes over to a snapshot: any of the names may be NULL. */
static int choose(struct layer *l, const char *any, const char *id, const char *name,
                  struct img_error *err)
{
    struct img_open_options o = {.snapshot = any, .snapshot_id = id, .snapshot_name = name};
    return l->driver->select_snapshot(l, &o, err);
}

static void reading_a_snapshot(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    struct img_error err = IMG_ERROR_INIT;
    uint8_t byte;
    size_t then = image_add_data(&m, 'T'), now = image_add_data(&m, 'N');
    image_set_entry(&m, 0, then | ENTRY_COPIED, 0);
    image_add_snapshots(&m, two, 2);
    /* the active disk gets an L2 table of its own */
    size_t l2 = image_grow(&m, 1);
    store_be64(m.data + l2, now | ENTRY_COPIED);
    store_be64(m.data + m.l1, l2 | ENTRY_COPIED);

    struct img *img = image_open(&m, 0);
    struct layer *l = img->layers[0];
    assert_int_equal(img_read(img, &byte, 1, 0, NULL), 0);
    assert_int_equal(byte, 'N');
    assert_int_equal(choose(l, "1", NULL, NULL, &err), 0); /* the ID goes before the name */
    assert_int_equal(img_size(img), 4 << 20);
    assert_int_equal(img_read(img, &byte, 1, 0, NULL), 0);
    assert_int_equal(byte, 'T');
    assert_int_equal(choose(l, "2", NULL, NULL, &err), 0);
    assert_int_equal(img_size(img), 2 << 20);
    expect_error(&err, choose(l, "third", NULL, NULL, &err), ENOENT,
                 "Failed to load snapshot: Can't find snapshot ('third')");
    expect_error(&err, choose(l, NULL, "1", two[1].name, &err), ENOENT,
                 "Failed to load snapshot: Can't find snapshot ('1')"); /* one has to have both */
    expect_error(&err, choose(l, NULL, "a", NULL, &err), ENOENT,
                 "Failed to load snapshot: Can't find snapshot ('a')");
    assert_int_equal(choose(l, NULL, "1", two[0].name, &err), 0);
    assert_int_equal(img_size(img), 4 << 20);
    assert_int_equal(choose(l, NULL, NULL, two[1].name, &err), 0);
    assert_int_equal(img_size(img), 2 << 20);
    img_close(img);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read),
        cmocka_unit_test(extra_data_of_each_length),
        cmocka_unit_test(no_id),
        cmocka_unit_test(too_much_extra_data),
        cmocka_unit_test(broken_entries),
        cmocka_unit_test(table_cut_short),
        cmocka_unit_test(reading_a_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
