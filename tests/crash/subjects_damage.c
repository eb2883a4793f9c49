/* Repairs of damaged images: at every instant no worse than before, and the same to the guest. */
#include "subjects.h"

#include <errno.h>
#include <inttypes.h>

static int repair_image(struct img *img, unsigned what, struct img_error *err)
{
    struct img_repair_options options = {.what = what};
    struct img_check result;
    return img_repair(img, &options, &result, err);
}

static int repair(struct stage *s, unsigned what, struct img_error *err)
{
    struct damage left;
    int ret = repair_image(s->img, what, err);
    if (!ret)
        ret = stage_step(s, false, true, err);
    if (!ret)
        ret = check_disks(s->scene, s->recorder.now, &left, err);
    if (!ret && (left.leaks || (left.corruptions && what == IMG_REPAIR_ALL)))
        ret = img_fail(err, EIO, "repaired, it has %" PRIu64 " corruptions and %" PRIu64 " leaks",
                       left.corruptions, left.leaks);
    return ret;
}

static int repair_leaks(struct stage *s, struct img_error *err)
{
    return repair(s, IMG_REPAIR_LEAKS, err);
}

static int repair_all(struct stage *s, struct img_error *err)
{
    return repair(s, IMG_REPAIR_ALL, err);
}

/* All that can be. */
static int repair_some(struct stage *s, struct img_error *err)
{
    int ret = repair_image(s->img, IMG_REPAIR_ALL, err);
    return ret < 0 ? ret : stage_step(s, false, true, err);
}

#define QEMU_REPAIR(what)                                                                          \
    "$P $QEMU_IMG check -q -r " what " image.qcow2 >>io.log 2>&1 || [ $? -le 3 ]"

static const struct subject damage_subjects[] = {
    {"check -r leaks", "leaks", DAMAGED, .run = repair_leaks, .qemu = QEMU_REPAIR("leaks")},
    {"check -r leaks", "many leaks, 512-byte clusters", DAMAGED, .run = repair_leaks,
     .qemu = QEMU_REPAIR("leaks")},
    {"check -r leaks", "leaks of clusters in use", DAMAGED, .run = repair_leaks,
     .qemu = QEMU_REPAIR("leaks")},
    {"check -r all", "leaks of clusters in use", DAMAGED, .run = repair_all,
     .qemu = QEMU_REPAIR("all")},
    {"check -r all", "leaks of clusters in use, an entry behind the end", DAMAGED,
     .run = repair_some, .qemu = QEMU_REPAIR("all")},
    {"check -r all", "leaks", DAMAGED, .run = repair_all, .qemu = QEMU_REPAIR("all")},
    {"check -r all", "refcounts too low", DAMAGED, .run = repair_all, .qemu = QEMU_REPAIR("all")},
    {"check -r all", "wrong flags, snapshot", DAMAGED, .run = repair_all,
     .qemu = QEMU_REPAIR("all")},
    {"check -r all", "no refcounts", DAMAGED, .run = repair_all, .qemu = QEMU_REPAIR("all")},
    {0},
};
SUBJECT_GROUP(damage)
