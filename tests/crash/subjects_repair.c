/* Repairs: what was found before is fixed or not, and nothing else happens. */
#include "subjects.h"
#include "lib/file_undo.h"

static int repair_as(struct stage *s, unsigned what, struct img_error *err)
{
    struct img_repair_options o = {.what = what};
    struct img_check result;
    int ret = img_repair(s->img, &o, &result, err);
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

static int repair_all(struct stage *s, struct img_error *err)
{
    return repair_as(s, IMG_REPAIR_ALL, err);
}

static int repair_leaks(struct stage *s, struct img_error *err)
{
    return repair_as(s, IMG_REPAIR_LEAKS, err);
}

static int undo_on(const struct scene *s, struct recorder *r, struct img_error *err)
{
    struct img_undone result;
    struct file *undo = disk_open(&s->undo, "undo"), *image = record_open(r, 0, "image");
    int ret = undo_apply(undo, image, &result, err);
    file_close(image);
    file_close(undo);
    return ret;
}

/* As the command does it. */
static int undo(struct stage *s, struct img_error *err)
{
    int ret = undo_on(s->scene, &s->recorder, err);
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

#define CHECK_UNDOABLE(what, name)                                                                 \
    .command = "check -r --undo", .image = name, .flags = DAMAGED | UNDOABLE,                      \
    .script = "$P $IMGTOOL check -q -r " what " --undo undo image.qcow2 2>>io.log"

#define UNDO(name)                                                                                 \
    .command = "undo", .image = name, .flags = DAMAGED | CLOSED | EXACT_IMAGE, .run = undo,        \
    .again = undo_on

static const struct subject repair_subjects[] = {
    {.command = "check -r leaks",
     .image = "leaks in two refcount blocks",
     .flags = DAMAGED,
     .run = repair_leaks,
     .qemu = "$P $QEMU_IMG check -q -r leaks image.qcow2",
     .needless = "nothing but refcounts that go down: in any order, each makes the image better"},
    {.command = "check -r all",
     .image = "leaks in two refcount blocks",
     .flags = DAMAGED,
     .run = repair_all,
     .needless = "nothing but refcounts that go down: in any order, each makes the image better"},
    {.command = "check -r all",
     .image = "stale refcounts, dirty",
     .flags = DAMAGED,
     .run = repair_all,
     .needless = "the last one: the guest reads the same before and after",
     .qemu = "$P $QEMU_IMG check -q -r all image.qcow2"},
    {.command = "check -r all",
     .image = "flags as before the snapshot",
     .flags = DAMAGED,
     .run = repair_all,
     .needless = "the last one: the guest reads the same before and after",
     .qemu = "$P $QEMU_IMG check -q -r all image.qcow2"},
    {CHECK_UNDOABLE("leaks", "leaks in two refcount blocks")},
    {CHECK_UNDOABLE("all", "refcounts too low")},
    {CHECK_UNDOABLE("all", "no refcounts")},
    {CHECK_UNDOABLE("all", "in rounds: an entry leads where the file grows"),
     .needless = BETWEEN_ROUNDS},
    {CHECK_UNDOABLE("all", "in rounds: an entry leads where the file grows, and flags"),
     .needless = BETWEEN_ROUNDS},
    {CHECK_UNDOABLE("all", "in rounds: an entry leads to refcounts of one bit"),
     .needless = BETWEEN_ROUNDS},
    {.command = "check -r --undo",
     .image = "in rounds: a table changes in both",
     .flags = DAMAGED | UNDOABLE | NO_CHECKER,
     .script = "$P $IMGTOOL check -q -r all --undo undo image.qcow2 2>>io.log || [ $? -eq 2 ]",
     .needless = BETWEEN_ROUNDS},
    {UNDO("repaired, with its undo file")},
    {UNDO("repaired into free clusters, with its undo file")},
    {UNDO("leaks repaired, with their undo file")},
    {UNDO("repaired in rounds, with its undo file")},
    {.command = "undo",
     .image = "repaired in rounds, a table in both, with its undo file",
     .flags = DAMAGED | CLOSED | EXACT_IMAGE | NO_CHECKER,
     .run = undo,
     .again = undo_on},
    {UNDO("repaired in rounds, flags too, with its undo file")},
    {UNDO("repaired in rounds, refcounts of one bit, with its undo file")},
    {.command = "undo",
     .image = "repaired, with its undo file",
     .flags = DAMAGED | EXACT_IMAGE,
     .script = "$P $IMGTOOL undo -q undo image.qcow2",
     .again = undo_on},
    {0},
};
SUBJECT_GROUP(repair)
