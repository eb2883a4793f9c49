/*
 * Whatever fails while an image is repaired, or what its undo file has is put back, the image is no
 * worse than before or afterwards; an undo file stands under its name only when it is whole, and
 * belongs to the image then. No other file is left.
 */
#include "change_faults.h"
#include "lib/file_undo.h"

#include <dirent.h>
#include <unistd.h>

/* ---- images to begin with ------------------------------------------------------------------ */

enum { CLUSTERS = 40 };

/* Data in all clusters of one L2 table. */
static struct image sound(uint64_t incompatible)
{
    struct image m = make_qcow2(3, 9, 32 << 10, incompatible);
    store_be64(m.data + m.l1, m.l2 | ENTRY_COPIED);
    for (unsigned i = 0; i < CLUSTERS; i++)
        image_set_entry(&m, i, image_add_filled(&m, i) | ENTRY_COPIED, 0);
    image_settle_refcounts(&m);
    return m;
}

static void set_refcount(struct image *m, size_t cluster, uint16_t value)
{
    store_be16(m->data + m->refblock + cluster * 2, value);
}

static struct image leaking(void)
{
    struct image m = sound(0);
    image_grow(&m, 8);
    for (size_t i = 0; i < 8; i++)
        set_refcount(&m, m.size / m.cluster - 8 + i, 1);
    return m;
}

/* Refcounts too low, flags wrong, leaks: everything in sight. */
static struct image damaged(uint64_t incompatible)
{
    struct image m = sound(incompatible);
    size_t first = m.size / m.cluster - CLUSTERS;
    image_grow(&m, 4);
    set_refcount(&m, m.size / m.cluster - 2, 1);
    for (size_t i = 0; i < 10; i++)
        set_refcount(&m, first + i * 3, 0);
    image_set_entry(&m, 1, (first + 1) * m.cluster, 0);
    image_set_entry(&m, 30, (first + 30) * m.cluster, 0);
    return m;
}

static struct image broken(void)
{
    return damaged(0);
}

static struct image dirty(void)
{
    return damaged(INCOMPAT_DIRTY);
}

/* The refcount table leads nowhere: all is counted anew. */
static struct image uncounted(void)
{
    struct image m = sound(0);
    store_be64(m.data + m.reftable, 0);
    return m;
}

/* ---- undo files ---------------------------------------------------------------------------- */

static unsigned files_beside(void)
{
    char folder[400];
    snprintf(folder, sizeof folder, "%s", test_path("."));
    unsigned count = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        count += e->d_name[0] != '.' || (e->d_name[1] && e->d_name[1] != '.');
    closedir(d);
    return count;
}

/* The undo file makes the image, whatever it is now, what it was. */
static void undo_is_whole(struct trial *t)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_undone done = {0};
    struct file *undo;
    bool there = access(test_path("undo"), F_OK) == 0;
    assert_int_equal(files_beside(), there);
    if (!there) {
        assert_int_equal(t->disk.size, t->image.size);
        assert_memory_equal(t->disk.data, t->image.data, t->image.size);
        return;
    }
    struct file *image = disk_open(&t->disk, "image");
    assert_int_equal(file_open_posix(&undo, test_path("undo"), false, NULL), 0);
    succeed(undo_apply(undo, image, &done, &err), &err);
    file_close(undo);
    file_close(image);
    assert_int_equal(t->disk.size, t->image.size);
    assert_memory_equal(t->disk.data, t->image.data, t->image.size);
    assert_int_equal(unlink(test_path("undo")), 0);
}

/* ---- changes ------------------------------------------------------------------------------- */

static int repair(struct trial *t, unsigned what, const char *undo, struct img_error *err)
{
    struct img_repair_options o = {.what = what, .undo_file = undo};
    struct img_check result;
    return img_repair(t->img, &o, &result, err);
}

static int repair_leaks(struct trial *t, struct img_error *err)
{
    return repair(t, IMG_REPAIR_LEAKS, NULL, err);
}

static int repair_all(struct trial *t, struct img_error *err)
{
    return repair(t, IMG_REPAIR_ALL, NULL, err);
}

/* Not tried again once there is an undo file: that is what the image needs then. */
static int repair_with_undo(struct trial *t, struct img_error *err)
{
    if (access(test_path("undo"), F_OK) == 0)
        return img_fail(err, EBADF, "There is an undo file already");
    return repair(t, IMG_REPAIR_ALL, test_path("undo"), err);
}

static int open_dirty(struct trial *t, struct img_error *err)
{
    struct file *f = t->file;
    t->file = NULL;
    if (!t->img)
        return img_open_file(&t->img, f, NULL, "qcow2", IMG_OPEN_WRITE, err);
    file_close(f);
    return 0;
}

/* What "undo" holds belongs to the image that is made here. */
static struct image repaired(void)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_repair_options o = {.what = IMG_REPAIR_ALL, .undo_file = test_path("undo")};
    struct img_open_options open = {.format = "qcow2", .flags = IMG_OPEN_WRITE | IMG_OPEN_CHECK};
    struct img_check result;
    struct img *img = NULL;
    struct image m = broken();
    write_file(test_path("start"), m.data, m.size);
    image_free(&m);
    succeed(img_open(&img, test_path("start"), &open, &err), &err);
    succeed(img_repair(img, &o, &result, &err), &err);
    img_close(img);
    m = load_file("start");
    assert_int_equal(unlink(test_path("start")), 0);
    return m;
}

static int undo(struct trial *t, struct img_error *err)
{
    struct img_undone done = {0};
    struct file *from = NULL;
    int ret = file_open_posix(&from, test_path("undo"), false, err);
    if (!ret)
        ret = undo_apply(from, t->file, &done, err);
    file_close(from);
    return ret;
}

static const struct change changes[] = {
    {"check -r leaks", leaking, repair_leaks, DAMAGED | GRADUAL | TO_CHECK, NULL},
    {"check -r all, leaks", leaking, repair_all, DAMAGED | GRADUAL | TO_CHECK, NULL},
    {"check -r all", broken, repair_all, DAMAGED | TO_CHECK, NULL},
    {"check -r all, no refcounts", uncounted, repair_all, DAMAGED | TO_CHECK, NULL},
    {"a dirty image is opened", dirty, open_dirty, DAMAGED | UNOPENED, NULL},
    {"check -r all --undo", broken, repair_with_undo, DAMAGED | TO_CHECK, undo_is_whole},
    {"undo", repaired, undo, DAMAGED | UNOPENED, NULL},
};

static void repairs(void **state)
{
    (void)state;
    every_fault(changes, sizeof changes / sizeof *changes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
