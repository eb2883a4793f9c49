/* The bytes of the snapshot table, and what changes of snapshots leave in the header. */
#include "build_image.h"
#include "faulty_disk.h"
#include "formats/qcow2/snapshot_table.h"

static struct disk_faults no_faults;

static struct qcow2_snapshot named(const char *id, const char *name)
{
    return (struct qcow2_snapshot){
        .info = {.id = (char *)(uintptr_t)id, .name = (char *)(uintptr_t)name}};
}

static void test_an_entry_has_24_bytes_of_extra_data_at_least(void **state)
{
    (void)state;
    struct qcow2_snapshot s = named("12", "name");
    assert_int_equal(snapshot_entry_size(&s), 40 + 24 + 2 + 4);
    s.extra_size = 16;
    assert_int_equal(snapshot_entry_size(&s), 40 + 24 + 2 + 4);
    s.extra_size = 31;
    assert_int_equal(snapshot_entry_size(&s), 40 + 31 + 2 + 4);
}

static void test_every_field_of_an_entry(void **state)
{
    (void)state;
    static const uint8_t wanted[] = {
        1,    2,    3,    4,    5,    6,    7,    8, /* L1 offset */
        0,    0,    1,    5,                         /* L1 size */
        0,    1,    0,    2,                         /* lengths of ID and name */
        9,    8,    7,    6,                         /* seconds */
        1,    0,    0,    2,                         /* nanoseconds */
        0,    1,    2,    3,    4,    5,    6,    7, /* VM clock */
        0x87, 0x65, 0x43, 0x21,                      /* VM state */
        0,    0,    0,    26,                        /* extra data: */
        0,    0,    0,    0,    0x87, 0x65, 0x43, 0x21, 0, 0, 0, 0, 0, 16, 0, 0, /* disk size */
        0,    0,    0,    0,    0,    0,    0,    77,                            /* icount */
        0,    0, /* what is not known here */
        '7',  'a',  'b',
    };
    struct qcow2_snapshot s = named("7", "ab");
    s.l1_offset = 0x0102030405060708;
    s.l1_size = 0x105;
    s.extra_size = 26;
    s.info.date_sec = 0x09080706;
    s.info.date_nsec = 0x01000002;
    s.info.vm_clock_nsec = 0x0001020304050607;
    s.info.vm_state_size = 0x87654321;
    s.info.disk_size = 1 << 20;
    s.info.has_icount = true;
    s.info.icount = 77;
    uint8_t entry[sizeof wanted + 1];
    memset(entry, 0xaa, sizeof entry);
    assert_int_equal(snapshot_entry_size(&s), sizeof wanted);
    snapshot_encode(entry, &s);
    assert_memory_equal(entry, wanted, sizeof wanted);
    assert_int_equal(entry[sizeof wanted], 0xaa);
}

static void test_a_large_vm_state_and_no_counter(void **state)
{
    (void)state;
    struct qcow2_snapshot s = named("1", "");
    s.info.vm_state_size = 1ull << 32; /* to readers of the old field there is none */
    uint8_t entry[128];
    snapshot_encode(entry, &s);
    assert_int_equal(load_be32(entry + 32), 0);
    assert_int_equal(load_be64(entry + 40), 1ull << 32);
    assert_true(load_be64(entry + 56) == UINT64_MAX);
}

static void expect_next(const char *const *ids, size_t count, const char *wanted)
{
    struct qcow2_snapshot list[4];
    char id[24];
    for (size_t i = 0; i < count; i++)
        list[i] = named(ids[i], "");
    struct qcow2 q = {.snapshots = list, .snapshot_count = count};
    snapshot_next_id(&q, id);
    assert_string_equal(id, wanted);
}

static void test_the_next_id(void **state)
{
    (void)state;
    expect_next(NULL, 0, "1");
    expect_next((const char *const[]){"1", "9", "3"}, 3, "10");
    expect_next((const char *const[]){"x", "4y", ""}, 3, "5");
    expect_next((const char *const[]){"18446744073709551614"}, 1, "18446744073709551615");
}

/* ---- on an image --------------------------------------------------------------------------- */

static struct img *open_disk(struct disk *d)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    if (img_open_file(&img, disk_open(d, "image"), NULL, NULL, IMG_OPEN_WRITE, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    return img;
}

static const struct qcow2 *qcow2_of(const struct img *img)
{
    return img->layers[0]->state;
}

/* Extra data of the future survives, that of the past is completed. */
static void test_other_snapshots_keep_what_they_have(void **state)
{
    (void)state;
    static const struct snapshot_spec specs[] = {
        {"1", "old", 0, 0}, {"2", "short", 16, 1 << 20}, {"7", "future", 48, 1 << 20}};
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    store_be64(m.data + m.l1, m.l2); /* shared */
    image_add_snapshots(&m, specs, 3);
    image_settle_refcounts(&m);
    struct disk d = disk_new(m.data, m.size, &no_faults);
    struct img *img = open_disk(&d);
    const struct qcow2 *q = qcow2_of(img);
    uint64_t place = q->snapshots[2].place;
    memcpy(d.data + place + 64, "what nobody here knows..", 24);
    assert_int_equal(img_snapshot_create(img, "new", NULL), 0);
    assert_int_equal(img_snapshot_delete(img, "short", NULL), 0);
    assert_int_equal(q->snapshot_count, 3);
    assert_string_equal(q->snapshots[2].info.id, "8");
    assert_true(q->snapshots[2].info.has_icount);
    assert_int_equal(q->snapshots[2].info.icount, 0);
    assert_int_equal(q->snapshots[0].extra_size, 24);
    assert_false(q->snapshots[0].info.has_icount);
    assert_int_equal(q->snapshots[0].info.disk_size, 1 << 20);
    assert_int_equal(q->snapshots[1].extra_size, 48);
    assert_int_equal(q->snapshots[1].info.vm_state_size, 1ull << 33);
    assert_int_equal(q->snapshots[1].info.vm_clock_nsec, 77);
    assert_int_equal(q->snapshots[1].info.date_sec, 1002);
    assert_memory_equal(d.data + q->snapshots[1].place + 64, "what nobody here knows..", 24);
    img_close(img);
    free(d.data);
    image_free(&m);
}

static void test_the_last_one_leaves_no_table(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    image_set_entry(&m, 3, image_add_filled(&m, 1) | ENTRY_COPIED, 0);
    struct disk d = disk_new(m.data, m.size, &no_faults);
    struct img *img = open_disk(&d);
    const struct qcow2 *q = qcow2_of(img);
    assert_int_equal(img_snapshot_create(img, "one", NULL), 0);
    assert_int_equal(load_be64(q->l1) >> 63, 0);
    assert_int_equal(img_snapshot_delete(img, "one", NULL), 0);
    assert_int_equal(q->header.snapshot_count, 0);
    assert_int_equal(q->header.snapshots_offset, 0);
    assert_int_equal(load_be64(q->l1) >> 63, 1);
    uint64_t table = load_be64(q->l1) & L1_OFFSET_MASK;
    assert_int_equal(load_be64(d.data + table + 24) >> 63, 1);
    img_close(img);
    free(d.data);
    image_free(&m);
}

/* A name of which the format could keep more than QEMU does. */
static void test_a_name_is_cut(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    struct disk d = disk_new(m.data, m.size, &no_faults);
    struct img *img = open_disk(&d);
    char name[70000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(img_snapshot_create(img, name, NULL), 0);
    assert_int_equal(strlen(qcow2_of(img)->snapshots[0].info.name), 255);
    img_close(img);
    free(d.data);
    image_free(&m);
}

static void expect_failure(struct img *img,
                           int (*call)(struct img *, const char *, struct img_error *),
                           const char *name, int code, const char *message)
{
    struct img_error err = IMG_ERROR_INIT;
    expect_error(&err, call(img, name, &err), code, message);
}

static void test_refusals(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    image_add_bitmap(&m, "changed");
    image_settle_refcounts(&m);
    struct disk d = disk_new(m.data, m.size, &no_faults);
    struct img *img = open_disk(&d);
    expect_failure(img, img_snapshot_apply, "x", EBUSY,
                   "Could not apply snapshot 'x': Device has active dirty bitmaps (1 of them, one "
                   "is 'changed')");
    expect_failure(img, img_snapshot_delete, "x", ENOENT,
                   "Could not delete snapshot 'x': snapshot not found");
    img_close(img);
    SET64(&m, autoclear_features, 0); /* bitmaps that say nothing any more do not count */
    memcpy(d.data, m.data, m.cluster);
    img = open_disk(&d);
    expect_failure(img, img_snapshot_apply, "x", ENOENT,
                   "Could not apply snapshot 'x': Failed to load snapshot: No such file or "
                   "directory");
    img_close(img);
    free(d.data);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_entry_has_24_bytes_of_extra_data_at_least),
        cmocka_unit_test(test_every_field_of_an_entry),
        cmocka_unit_test(test_a_large_vm_state_and_no_counter),
        cmocka_unit_test(test_the_next_id),
        cmocka_unit_test(test_other_snapshots_keep_what_they_have),
        cmocka_unit_test(test_the_last_one_leaves_no_table),
        cmocka_unit_test(test_a_name_is_cut),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
