/*
 * Changes of an image under faults: each change of a table is done while the n-th call to the host
 * or the n-th allocation fails, for every n until all goes well, in each way that a call can fail
 * (faulty_disk.h). The change must then say so in one clear error, or succeed; what is in the file
 * must be sound and be the old image or, byte for byte of the guest's disks, the new one; the same
 * handle must be good for another try, or refuse it; and no memory may be left.
 *
 * For one source file of a test program, as alloc_faults.h is.
 */
#ifndef CHANGE_FAULTS_H
#define CHANGE_FAULTS_H

#include "alloc_faults.h"
#include "build_image.h"
#include "faulty_disk.h"
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/qcow2.h"
#include "lib/checked.h"

#include <inttypes.h>

struct trial;

enum change_flags {
    GUEST = 1 << 0,     /* writes the guest's disk: each sector of it what it was after some step
                           of the change, or before; clusters may leak */
    DAMAGED = 1 << 1,   /* the image before or after it is not sound; no state may be worse */
    GRADUAL = 1 << 2,   /* and every state between is as good */
    UNOPENED = 1 << 3,  /* the change opens t->file itself, or works on it */
    TO_CHECK = 1 << 4,  /* opened with IMG_OPEN_CHECK */
    DATA_FILE = 1 << 5, /* the data lies in the test's file "data.raw" */
};

struct change {
    const char *name;
    struct image (*before)(void);
    int (*run)(struct trial *t, struct img_error *err);
    unsigned flags; /* enum change_flags, or-ed */
    /* Looks at what the change left elsewhere, and removes it. May be NULL. */
    void (*afterwards)(struct trial *t);
};

/* What an image is. */
struct state {
    char *text;    /* all but the active disk's bytes */
    uint8_t *disk; /* these */
    size_t size;
    uint64_t corruptions, leaks;
};

enum { MAX_STEPS = 16 };

struct trial {
    const struct change *change;
    struct image image, data;
    struct state old, new;
    bool learning;
    uint8_t *steps[MAX_STEPS]; /* the disk after each step of GUEST */
    unsigned step_count;
    struct disk_faults faults;
    struct disk disk, data_disk;
    struct file *file; /* of UNOPENED */
    struct img *img;
};

/* ---- images to begin with ------------------------------------------------------------------ */

/* What a file of the test holds. */
static struct image load_file(const char *name)
{
    struct image m = {0};
    FILE *f = fopen(test_path(name), "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    m.size = (size_t)ftell(f);
    rewind(f);
    m.data = malloc(m.size + !m.size);
    assert_non_null(m.data);
    assert_int_equal(fread(m.data, 1, m.size, f), m.size);
    assert_int_equal(fclose(f), 0);
    return m;
}

static inline void succeed(int ret, struct img_error *err)
{
    if (ret < 0)
        fail_msg("%s", img_error_message(err));
}

/* A new image, to which PREPARE, which may be NULL, has done something. */
static inline struct image created(uint64_t size, const char *options,
                                   int (*prepare)(struct img *img, struct img_error *err))
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_create_options create = {.format = "qcow2", .size = size, .options = options};
    struct img_open_options open = {.format = "qcow2", .flags = IMG_OPEN_WRITE};
    struct img *img = NULL;
    succeed(img_create(test_path("start"), &create, &err), &err);
    if (prepare) {
        succeed(img_open(&img, test_path("start"), &open, &err), &err);
        succeed(prepare(img, &err), &err);
        img_close(img);
    }
    return load_file("start");
}

/* ---- what an image is ---------------------------------------------------------------------- */

static struct img *open_state(const struct trial *t, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct file *file = NULL, *data = NULL;
    struct img *img = NULL;
    succeed(file_open_memory(&file, "image", t->disk.data, t->disk.size, &err), &err);
    if (t->change->flags & DATA_FILE)
        succeed(file_open_memory(&data, "data", t->data_disk.data, t->data_disk.size, &err), &err);
    if (img_open_file(&img, file, data, "qcow2", flags, &err) < 0)
        fail_msg("%s: cannot be opened any more: %s", t->change->name, img_error_message(&err));
    return img;
}

static uint8_t *read_disk(struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    uint8_t *bytes = malloc(img_size(img) + 1);
    assert_non_null(bytes);
    succeed(img_read(img, bytes, img_size(img), 0, &err), &err);
    return bytes;
}

static uint64_t sum_bytes(uint64_t sum, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ bytes[i]) * 0x100000001b3;
    return sum;
}

/* The disk of a snapshot, summed up. */
static void print_snapshot(FILE *out, const struct trial *t, const struct img_snapshot_info *s)
{
    struct img *img = open_state(t, 0);
    struct img_open_options chosen = {.snapshot = s->id};
    assert_int_equal(img->layers[0]->driver->select_snapshot(img->layers[0], &chosen, NULL), 0);
    uint8_t *bytes = read_disk(img);
    fprintf(out, "snapshot %s %s, %" PRIu64 " bytes: %" PRIx64 ", VM %" PRIu64 "\n", s->id, s->name,
            s->disk_size, sum_bytes(0, bytes, img_size(img)), s->vm_state_size);
    free(bytes);
    img_close(img);
}

/* Is a bit set for each sector of the disk that is not what it was? */
static bool covers(const struct bitmap_bits *b, uint32_t index, const uint8_t *piece,
                   const struct state *s, const struct state *old)
{
    uint64_t unit = 1ull << b->granularity_bits,
             first = (uint64_t)index * 8 * b->q->geometry.cluster_size;
    for (uint64_t i = 0; i < bits_in_piece(b, index); i++) {
        uint64_t from = (first + i) * unit, to = min_u64(from + unit, s->size);
        if (!(piece[i / 8] >> i % 8 & 1) &&
            memcmp(s->disk + from, old->disk + from, to - from) != 0)
            return false;
    }
    return true;
}

/* What a bitmap holds, unless it is in use; one that records writes has recorded all of them. */
static void print_bitmap(FILE *out, const struct trial *t, struct qcow2 *q,
                         const struct qcow2_bitmap *bitmap, const struct state *s)
{
    struct bitmap_bits b;
    uint64_t sum = 0;
    if (bitmap->info.flags & IMG_BITMAP_IN_USE)
        return;
    uint8_t *piece = malloc(q->geometry.cluster_size);
    assert_non_null(piece);
    assert_int_equal(bits_load(&b, q, bitmap, NULL), 0);
    for (uint32_t i = 0; i < b.pieces; i++) {
        assert_int_equal(bits_read_piece(&b, i, piece, NULL), 0);
        sum = sum_bytes(sum, piece, q->geometry.cluster_size);
        if (t->old.disk && t->change->flags & GUEST && bitmap->info.flags & IMG_BITMAP_AUTO &&
            !covers(&b, i, piece, s, &t->old))
            fail_msg("%s: bitmap %s lacks a bit", t->change->name, bitmap->info.name);
    }
    bits_free(&b);
    free(piece);
    if (!(t->change->flags & GUEST))
        fprintf(out, "bitmap %s %u %" PRIu32 ": %" PRIx64 "\n", bitmap->info.name,
                bitmap->info.flags, bitmap->info.granularity, sum);
}

static void print_finding(void *opaque, const struct img_finding *f)
{
    const struct trial *t = opaque;
    if (!(t->change->flags & DAMAGED) && f->severity != IMG_SEVERITY_NOTE &&
        !(t->change->flags & GUEST && f->severity == IMG_SEVERITY_LEAK))
        print_message("%s\n", f->what);
}

static void print_image(FILE *out, const struct trial *t, struct img *img, const struct state *s)
{
    struct img_info *info;
    struct qcow2 *q = img->layers[0]->state;
    assert_int_equal(img_describe(img, 0, &info, NULL), 0);
    fprintf(out, "%" PRIu64 " bytes, version %u, refcounts of %u bits, lazy %d, over %s\n",
            info->virtual_size, info->qcow2.version, info->qcow2.refcount_bits,
            info->qcow2.lazy_refcounts, info->backing_filename ? info->backing_filename : "-");
    if (info->qcow2.has_data_file)
        fprintf(out, "data in %s, raw %d\n", info->qcow2.data_file, info->qcow2.data_file_raw);
    for (size_t i = 0; i < info->snapshot_count; i++)
        print_snapshot(out, t, &info->snapshots[i]);
    for (size_t i = 0; i < q->bitmap_count; i++)
        print_bitmap(out, t, q, &q->bitmaps[i], s);
    img_info_free(info);
}

static void count_damage(struct trial *t, struct state *s)
{
    struct img_check c;
    struct img *img = open_state(t, IMG_OPEN_CHECK);
    assert_int_equal(img_check(img, &c, print_finding, t, NULL), 0);
    assert_int_equal(c.check_errors, 0);
    img_close(img);
    s->corruptions = c.corruptions;
    s->leaks = c.leaks;
}

static struct state look(struct trial *t)
{
    struct state s = {0};
    size_t length;
    FILE *out = open_memstream(&s.text, &length);
    assert_non_null(out);
    struct img *img = open_state(t, 0);
    s.disk = read_disk(img);
    s.size = img_size(img);
    print_image(out, t, img, &s);
    img_close(img);
    count_damage(t, &s);
    if (t->change->flags & DAMAGED)
        fprintf(out, "%" PRIu64 " corruptions, %" PRIu64 " leaks\n", s.corruptions, s.leaks);
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

static bool is_some_step(const struct trial *t, const uint8_t *sector, size_t at)
{
    bool found = !memcmp(sector, t->old.disk + at, 512);
    for (unsigned i = 0; i < t->step_count && !found; i++)
        found = !memcmp(sector, t->steps[i] + at, 512);
    return found;
}

/* Is each sector of S what it was after some step? */
static bool mixed(const struct trial *t, const struct state *s)
{
    bool good = !strcmp(s->text, t->old.text) && s->size == t->old.size;
    for (size_t at = 0; good && at < s->size; at += 512)
        good = is_some_step(t, s->disk + at, at);
    return good;
}

/* ---- one try ------------------------------------------------------------------------------- */

static void expect_sound(const struct trial *t, const struct state *s, const char *when)
{
    uint64_t corruptions = max_u64(t->old.corruptions, t->new.corruptions);
    uint64_t leaks = t->change->flags & GUEST ? UINT64_MAX : max_u64(t->old.leaks, t->new.leaks);
    if (s->corruptions > corruptions || s->leaks > leaks)
        fail_msg("%s, %s: %" PRIu64 " corruptions, %" PRIu64 " leaks", t->change->name, when,
                 s->corruptions, s->leaks);
}

enum outcome { OLD, NEW, NEITHER };

static enum outcome judge(struct trial *t, const char *when)
{
    struct state s = look(t);
    expect_sound(t, &s, when);
    enum outcome o = equal(&s, &t->new) ? NEW : equal(&s, &t->old) ? OLD : NEITHER;
    bool between = t->change->flags & GUEST ? mixed(t, &s)
                                            : t->change->flags & GRADUAL && s.size == t->old.size &&
                                                  !memcmp(s.disk, t->old.disk, s.size);
    if (o == NEITHER && !between)
        fail_msg("%s, %s: neither old nor new:\n%s", t->change->name, when, s.text);
    forget(&s);
    return o;
}

/* A step of GUEST is done. */
static inline int step(struct trial *t)
{
    if (t->learning) {
        assert_true(t->step_count < MAX_STEPS);
        t->steps[t->step_count++] = read_disk(t->img);
    }
    return 0;
}

static void open_trial(struct trial *t)
{
    struct img_error err = IMG_ERROR_INIT;
    unsigned flags = IMG_OPEN_WRITE | (t->change->flags & TO_CHECK ? IMG_OPEN_CHECK : 0);
    struct file *f = disk_open(&t->disk, "image");
    if (t->change->flags & UNOPENED) {
        t->file = f;
        return;
    }
    struct file *data = t->change->flags & DATA_FILE ? disk_open(&t->data_disk, "data") : NULL;
    if (img_open_file(&t->img, f, data, "qcow2", flags, &err) < 0)
        fail_msg("%s: %s", t->change->name, img_error_message(&err));
}

static void begin(struct trial *t)
{
    t->faults = (struct disk_faults){0};
    t->disk = disk_new(t->image.data, t->image.size, &t->faults);
    if (t->change->flags & DATA_FILE)
        t->data_disk = disk_new(t->data.data, t->data.size, &t->faults);
    open_trial(t);
}

static void close_trial(struct trial *t)
{
    img_close(t->img);
    t->img = NULL;
    file_close(t->file);
    t->file = NULL;
}

static void end(struct trial *t)
{
    close_trial(t);
    free(t->disk.data);
    free(t->data_disk.data);
    t->disk.data = t->data_disk.data = NULL;
}

static void expect_clear(struct img_error *err, int ret, bool memory, const struct trial *t)
{
    bool good = memory ? ret == -ENOMEM : ret == -EIO || ret == -ENOSPC;
    if (!good || err->code != -ret || !err->message || strlen(err->message) < 10 ||
        strchr(err->message, '\n'))
        fail_msg("%s: %d, '%s'", t->change->name, ret, img_error_message(err));
    img_error_clear(err);
}

/* Says the handle that it is not to be used any more? */
static bool refuses(const struct trial *t, int ret, const struct img_error *err)
{
    return ret == -EBADF || (t->change->flags & GUEST && ret == -EIO &&
                             strstr(img_error_message(err), "could not be flushed before"));
}

/* All is well again: the change succeeds, or the handle says that it is not to be used any more. */
static void try_again(struct trial *t, enum outcome before)
{
    struct img_error err = IMG_ERROR_INIT;
    bool guest = t->change->flags & GUEST;
    if (t->change->flags & UNOPENED && !t->file && !t->img)
        open_trial(t);
    int ret = t->change->run(t, &err);
    bool refused = ret < 0 && refuses(t, ret, &err);
    enum outcome after = refused || before != NEW || guest ? judge(t, "after the second try") : NEW;
    if (refused ? after != before && !guest : ret < 0 || after != NEW)
        fail_msg("%s: the second try, after %s: %s", t->change->name,
                 before == NEW ? "it was done" : "it was not done", img_error_message(&err));
    img_error_clear(&err);
}

/* Closing writes, too. */
static void close_under_faults(struct trial *t, long left)
{
    if (!(t->change->flags & GUEST))
        return;
    countdown = left;
    close_trial(t);
    countdown = 0;
    judge(t, "when it was closed");
}

/* The N-th call, or allocation (MEMORY), fails; AGAIN: then all is tried again before the image is
 * closed. False: there are not so many. */
static bool try_one(struct trial *t, bool memory, enum disk_fault fault, long n, bool again)
{
    struct img_error err = IMG_ERROR_INIT;
    long before = live;
    begin(t);
    t->faults = (struct disk_faults){.fault = fault, .countdown = memory ? 0 : n};
    countdown = memory ? n : 0;
    int ret = t->change->run(t, &err);
    long left = countdown;
    countdown = 0;
    if (ret < 0) {
        assert_true(memory ? left == 0 : t->faults.happened);
        expect_clear(&err, ret, memory, t);
    }
    enum outcome o = judge(t, "after a fault");
    if (ret == 0)
        assert_int_equal(o, NEW);
    if (!again)
        close_under_faults(t, left);
    bool happened = memory ? left == 0 : t->faults.happened;
    t->faults = (struct disk_faults){0};
    if (again && ret < 0)
        try_again(t, o);
    if (t->change->afterwards)
        t->change->afterwards(t);
    end(t);
    if (live != before)
        fail_msg("%s: %ld blocks are left", t->change->name, live - before);
    return happened;
}

static long try_all(struct trial *t, bool memory, enum disk_fault fault, bool again)
{
    long n = 1;
    while (try_one(t, memory, fault, n, again))
        n++;
    return n - 1;
}

/* What it is when all goes well. */
static void learn(struct trial *t)
{
    struct img_error err = IMG_ERROR_INIT;
    t->learning = true;
    begin(t);
    t->old = look(t);
    if (t->change->run(t, &err) < 0)
        fail_msg("%s: %s", t->change->name, img_error_message(&err));
    if (t->change->flags & GUEST)
        close_trial(t);
    t->new = look(t);
    t->learning = false;
    if (!(t->change->flags & DAMAGED) &&
        (t->old.corruptions | t->old.leaks | t->new.corruptions | t->new.leaks))
        fail_msg("%s: it is damaged when nothing has failed", t->change->name);
    assert_false(equal(&t->old, &t->new));
    if (t->change->afterwards)
        t->change->afterwards(t);
    end(t);
}

static void every_fault(const struct change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct trial t = {.change = &changes[i], .image = changes[i].before()};
        if (changes[i].flags & DATA_FILE)
            t.data = load_file("data.raw");
        learn(&t);
        long calls = 0, allocations = 0;
        for (int again = !(changes[i].flags & GUEST); again < 2; again++) {
            allocations = try_all(&t, true, DISK_EIO, again);
            for (enum disk_fault fault = 0; fault < DISK_FAULTS; fault++)
                calls = try_all(&t, false, fault, again);
        }
        print_message("%s: %ld calls, %ld allocations\n", t.change->name, calls, allocations);
        assert_true(calls > 3 && allocations > 0);
        forget(&t.old);
        forget(&t.new);
        for (unsigned k = 0; k < t.step_count; k++)
            free(t.steps[k]);
        image_free(&t.image);
        free(t.data.data);
    }
}

#endif
