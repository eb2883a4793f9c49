/* Repairs: what was found before is fixed or not, and nothing else happens. */
#include "subjects.h"

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
    {.command = "undo",
     .image = "repaired, with its undo file",
     .flags = DAMAGED,
     .script = "$P $IMGTOOL undo -q undo image.qcow2",
     .needless = "each sector put back leaves an image that reads the same, and undo goes on"},
    {.command = "undo",
     .image = "leaks repaired, with their undo file",
     .flags = DAMAGED,
     .script = "$P $IMGTOOL undo -q undo image.qcow2",
     .needless = "each sector put back leaves an image that reads the same, and undo goes on"},
    {0},
};
SUBJECT_GROUP(repair)
