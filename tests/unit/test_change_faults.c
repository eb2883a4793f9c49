/*
 * Whatever fails while an image is changed, it is the old image or the new one afterwards.
 *
 * For each change of the table below, the n-th call to the host and the n-th allocation fail, for
 * every n until all goes well, in each way that a call can fail (faulty_disk.h). The change must
 * then say so in one clear error, or succeed; what is in the file must be sound and be the old
 * image or, byte for byte of the guest's disks, the new one; the same handle must be good for
 * another try, or refuse it; and no memory may be left.
 *
 * A change is a line in CHANGES: an image to begin with and a function that changes it.
 */
#include "alloc_faults.h"
#include "build_image.h"
#include "faulty_disk.h"
#include "lib/checked.h"

#include <inttypes.h>

struct change {
    const char *name;
    struct image (*before)(void);
    int (*run)(struct img *img, struct img_error *err);
    bool guest; /* writes the guest's disk: each sector of it old or new, clusters may leak */
};

/* ---- images to begin with ------------------------------------------------------------------ */

enum { CLUSTER_BITS = 9, L2_ENTRIES = (1 << CLUSTER_BITS) / 8 };

/* All clusters in use, none shared; the refcount block is nearly full. */
static struct image full(void)
{
    struct image m = make_qcow2(3, CLUSTER_BITS, 120 << 10, 0);
    for (unsigned table = 0; table < 4; table++) {
        if (table)
            image_add_l2(&m, table, ENTRY_COPIED);
        for (unsigned i = 0; i < L2_ENTRIES && table * L2_ENTRIES + i < 240; i++)
            image_set_entry(&m, i, image_add_filled(&m, table * 64 + i) | ENTRY_COPIED, 0);
    }
    image_settle_refcounts(&m);
    return m;
}

/* Clusters of every kind, and two snapshots of which the second has something else. */
static struct image shared(void)
{
    static const struct snapshot_spec snapshots[] = {{"1", "first", 40, 80 << 10},
                                                     {"2", "second", 16, 70 << 10}};
    struct image m = make_qcow2(3, CLUSTER_BITS, 80 << 10, 0);
    store_be64(m.data + m.l1, m.l2);
    image_set_entry(&m, 0, image_add_filled(&m, 1), 0);
    image_set_entry(&m, 1, ENTRY_ZERO, 0);
    image_set_entry(&m, 2, image_add_filled(&m, 2) | ENTRY_ZERO, 0);
    image_add_compressed(&m, 4);
    image_add_l2(&m, 2, 0);
    image_set_entry(&m, 7, image_add_filled(&m, 3), 0);
    size_t table = image_add_snapshots(&m, snapshots, 2), l1 = image_grow(&m, 1);
    memcpy(m.data + l1, m.data + m.l1, m.cluster);
    store_be64(m.data + table + align_up(sizeof(struct ondisk_snapshot) + 40 + 1 + 5, 8), l1);
    m.l2 = image_grow(&m, 1);
    store_be64(m.data + l1 + 8, m.l2);
    /* flags of a snapshot's own tables mean nothing, and count again when it is applied */
    image_set_entry(&m, 5, image_add_filled(&m, 4) | ENTRY_COPIED, 0);
    image_add_compressed(&m, 8);
    image_settle_refcounts(&m);
    return m;
}

/* ---- changes ------------------------------------------------------------------------------- */

static int take_snapshot(struct img *img, struct img_error *err)
{
    return img_snapshot_create(img, "new", err);
}

static int apply_snapshot(struct img *img, struct img_error *err)
{
    return img_snapshot_apply(img, "second", err);
}

static int delete_snapshot(struct img *img, struct img_error *err)
{
    return img_snapshot_delete(img, "second", err);
}

static int delete_new(struct img *img, struct img_error *err)
{
    return img_snapshot_delete(img, "new", err);
}

static int resize(struct img *img, uint64_t size, enum img_preallocation mode,
                  struct img_error *err)
{
    struct img_resize_options o = {mode, IMG_RESIZE_SHRINK};
    return img_resize(img, size, &o, err);
}

/* A longer L1 table, and an L2 table in which the disk ended within a cluster. */
static int grow_disk(struct img *img, struct img_error *err)
{
    return resize(img, 5 << 20, IMG_PREALLOCATION_OFF, err);
}

static int grow_preallocated(struct img *img, struct img_error *err)
{
    return resize(img, 150 << 10, IMG_PREALLOCATION_FALLOC, err);
}

static int shrink_disk(struct img *img, struct img_error *err)
{
    return resize(img, (33 << 10) + 512, IMG_PREALLOCATION_OFF, err);
}

static struct image with_one(void);

static const struct change changes[] = {
    {"snapshot -c", full, take_snapshot, false},
    {"snapshot -c beside others", shared, take_snapshot, false},
    {"snapshot -a", shared, apply_snapshot, false},
    {"snapshot -d", shared, delete_snapshot, false},
    {"resize", full, grow_disk, false},
    {"resize beside snapshots", shared, grow_disk, false},
    {"resize --preallocation", full, grow_preallocated, false},
    {"resize --shrink", full, shrink_disk, false},
    {"resize --shrink beside snapshots", shared, shrink_disk, false},
    {"snapshot -d of the last one", with_one, delete_new, false},
};

/* ---- what an image is ---------------------------------------------------------------------- */

struct state {
    char *text;    /* all but the active disk's bytes */
    uint8_t *disk; /* these */
    size_t size;
};

static struct img *open_bytes(const struct disk *d, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    if (img_open_memory(&img, d->data, d->size, "qcow2", flags, &err) < 0)
        fail_msg("cannot be opened any more: %s", img_error_message(&err));
    return img;
}

static uint8_t *read_disk(struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    uint8_t *bytes = malloc(img_size(img) + 1);
    assert_non_null(bytes);
    if (img_read(img, bytes, img_size(img), 0, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    return bytes;
}

/* The disk of a snapshot, summed up. */
static void print_snapshot(FILE *out, const struct disk *d, const struct img_snapshot_info *s)
{
    struct img *img = open_bytes(d, 0);
    assert_int_equal(img->layers[0]->driver->select_snapshot(img->layers[0], s->id, NULL), 0);
    uint8_t *bytes = read_disk(img);
    uint64_t sum = 0;
    for (size_t i = 0; i < img_size(img); i++)
        sum = (sum ^ bytes[i]) * 0x100000001b3;
    fprintf(out, "snapshot %s %s, %" PRIu64 " bytes: %" PRIx64 ", VM %" PRIu64 "\n", s->id, s->name,
            s->disk_size, sum, s->vm_state_size);
    free(bytes);
    img_close(img);
}

static struct state look(const struct disk *d)
{
    struct state s = {0};
    size_t length;
    struct img_info *info;
    FILE *out = open_memstream(&s.text, &length);
    assert_non_null(out);
    struct img *img = open_bytes(d, 0);
    assert_int_equal(img_describe(img, 0, &info, NULL), 0);
    fprintf(out, "%" PRIu64 " bytes, version %u, refcounts of %u bits, lazy %d, over %s\n",
            info->virtual_size, info->qcow2.version, info->qcow2.refcount_bits,
            info->qcow2.lazy_refcounts, info->backing_filename ? info->backing_filename : "-");
    for (size_t i = 0; i < info->snapshot_count; i++)
        print_snapshot(out, d, &info->snapshots[i]);
    for (size_t i = 0; i < info->qcow2.bitmap_count; i++)
        fprintf(out, "bitmap %s %u %" PRIu32 "\n", info->qcow2.bitmaps[i].name,
                info->qcow2.bitmaps[i].flags, info->qcow2.bitmaps[i].granularity);
    img_info_free(info);
    s.disk = read_disk(img);
    s.size = img_size(img);
    img_close(img);
    assert_int_equal(fclose(out), 0);
    return s;
}

static void forget(struct state *s)
{
    free(s->text);
    free(s->disk);
}

static bool equal(const struct state *a, const struct state *b)
{
    return !strcmp(a->text, b->text) && a->size == b->size && !memcmp(a->disk, b->disk, a->size);
}

/* Is each sector of S what it is in A or in B? */
static bool mixed(const struct state *s, const struct state *a, const struct state *b)
{
    bool good = !strcmp(s->text, a->text) && s->size == a->size && s->size == b->size;
    for (size_t at = 0; good && at < s->size; at += 512)
        good = !memcmp(s->disk + at, a->disk + at, 512) || !memcmp(s->disk + at, b->disk + at, 512);
    return good;
}

/* ---- one try ------------------------------------------------------------------------------- */

struct trial {
    const struct change *change;
    struct image image;
    struct state old, new;
    struct disk_faults faults;
    struct disk disk;
    struct img *img;
};

static void print_finding(void *opaque, const struct img_finding *f)
{
    (void)opaque;
    print_message("%s\n", f->what);
}

static void expect_sound(const struct trial *t, const char *when)
{
    struct img_check c;
    struct img *img = open_bytes(&t->disk, IMG_OPEN_CHECK);
    assert_int_equal(img_check(img, &c, print_finding, NULL, NULL), 0);
    img_close(img);
    if (c.corruptions || c.check_errors || (c.leaks && !t->change->guest))
        fail_msg("%s, %s: %" PRIu64 " corruptions, %" PRIu64 " leaks", t->change->name, when,
                 c.corruptions, c.leaks);
}

enum outcome { OLD, NEW, NEITHER };

static enum outcome judge(const struct trial *t, const char *when)
{
    expect_sound(t, when);
    struct state s = look(&t->disk);
    enum outcome o = equal(&s, &t->new) ? NEW : equal(&s, &t->old) ? OLD : NEITHER;
    if (o == NEITHER && !(t->change->guest && mixed(&s, &t->old, &t->new)))
        fail_msg("%s, %s: neither old nor new:\n%s", t->change->name, when, s.text);
    forget(&s);
    return o;
}

static void begin(struct trial *t)
{
    struct img_error err = IMG_ERROR_INIT;
    t->faults = (struct disk_faults){0};
    t->disk = disk_new(t->image.data, t->image.size, &t->faults);
    struct file *f = disk_open(&t->disk, "image");
    if (img_open_file(&t->img, f, NULL, "qcow2", IMG_OPEN_WRITE, &err) < 0)
        fail_msg("%s: %s", t->change->name, img_error_message(&err));
}

static void end(struct trial *t)
{
    img_close(t->img);
    t->img = NULL;
    free(t->disk.data);
}

static void expect_clear(struct img_error *err, int ret, bool memory, const struct trial *t)
{
    bool good = memory ? ret == -ENOMEM : ret == -EIO || ret == -ENOSPC;
    if (!good || err->code != -ret || !err->message || strlen(err->message) < 10 ||
        strchr(err->message, '\n'))
        fail_msg("%s: %d, '%s'", t->change->name, ret, img_error_message(err));
    img_error_clear(err);
}

/* All is well again: the change succeeds, or the handle says that it is not to be used any more. */
static void try_again(struct trial *t, enum outcome before)
{
    struct img_error err = IMG_ERROR_INIT;
    int ret = t->change->run(t->img, &err);
    enum outcome after = NEITHER;
    if (ret == -EBADF)
        after = judge(t, "refused");
    else if (ret == 0 && before == OLD)
        after = judge(t, "after the second try");
    if (ret != -EBADF && (ret < 0 || (before == OLD && after != NEW)))
        fail_msg("%s: the second try, after %s: %s", t->change->name,
                 before == NEW ? "it was done" : "it was not done", img_error_message(&err));
    if (ret == -EBADF && after != before)
        fail_msg("%s: changed by what was refused", t->change->name);
    img_error_clear(&err);
}

/* The N-th call, or allocation (MEMORY), fails. False: there are not so many. */
static bool try_one(struct trial *t, bool memory, enum disk_fault fault, long n)
{
    struct img_error err = IMG_ERROR_INIT;
    long before = live;
    begin(t);
    countdown = memory ? n : 0;
    t->faults = (struct disk_faults){.fault = fault, .countdown = memory ? 0 : n};
    int ret = t->change->run(t->img, &err);
    bool happened = memory ? countdown == 0 : t->faults.happened;
    countdown = 0;
    t->faults = (struct disk_faults){0};
    if (!happened)
        assert_int_equal(ret, 0);
    if (ret < 0)
        expect_clear(&err, ret, memory, t);
    enum outcome o = judge(t, "after a fault");
    if (ret == 0)
        assert_int_equal(o, NEW);
    else if (!t->change->guest)
        try_again(t, o);
    end(t);
    if (live != before)
        fail_msg("%s: %ld blocks are left", t->change->name, live - before);
    return happened;
}

static long try_all(struct trial *t, bool memory, enum disk_fault fault)
{
    long n = 1;
    while (try_one(t, memory, fault, n))
        n++;
    assert_true(n > 10);
    return n - 1;
}

/* What it is when all goes well. */
static void learn(struct trial *t)
{
    struct img_error err = IMG_ERROR_INIT;
    begin(t);
    expect_sound(t, "at first");
    t->old = look(&t->disk);
    if (t->change->run(t->img, &err) < 0)
        fail_msg("%s: %s", t->change->name, img_error_message(&err));
    expect_sound(t, "in the end");
    t->new = look(&t->disk);
    assert_false(equal(&t->old, &t->new));
    end(t);
}

static struct image with_one(void)
{
    struct trial t = {.change = &changes[0], .image = full()};
    begin(&t);
    assert_int_equal(take_snapshot(t.img, NULL), 0);
    img_close(t.img);
    free(t.image.data);
    t.image.data = t.disk.data;
    t.image.size = t.disk.size;
    return t.image;
}

static void every_fault(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct trial t = {.change = &changes[i], .image = changes[i].before()};
        learn(&t);
        long calls = 0, allocations = try_all(&t, true, DISK_EIO);
        for (enum disk_fault fault = 0; fault < DISK_FAULTS; fault++)
            calls = try_all(&t, false, fault);
        print_message("%s: %ld calls, %ld allocations\n", t.change->name, calls, allocations);
        forget(&t.old);
        forget(&t.new);
        image_free(&t.image);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
