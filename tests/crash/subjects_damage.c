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

/* One round brings to disk what it writes elsewhere, and then the header. */
static int expect_rounds(const struct stage *s, unsigned rounds, struct img_error *err)
{
    const struct log *l = &s->recorder.log;
    unsigned stages = 0;
    for (size_t i = 1; i < l->count; i++)
        stages += l->ops[i].kind == OP_FLUSH && l->ops[i - 1].kind != OP_FLUSH;
    return stages > 2 * rounds - 2
               ? 0
               : img_fail(err, EIO, "it took %u stages, fewer than %u rounds", stages, rounds);
}

static int repair_in_rounds(struct stage *s, struct img_error *err)
{
    int ret = repair(s, IMG_REPAIR_ALL, err);
    return ret < 0 ? ret : expect_rounds(s, 2, err);
}

static int repair_some_in_rounds(struct stage *s, struct img_error *err)
{
    int ret = repair_some(s, err);
    return ret < 0 ? ret : expect_rounds(s, 2, err);
}

#define QEMU_REPAIR(what)                                                                          \
    "$P $QEMU_IMG check -q -r " what " image.qcow2 >>io.log 2>&1 || [ $? -le 3 ]"

#define IN_ROUNDS(image)                                                                           \
    "check -r all, in rounds", image, DAMAGED,                                                     \
        .run = repair_in_rounds, .qemu = QEMU_REPAIR("all"), .needless = BETWEEN_ROUNDS

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
    {IN_ROUNDS("in rounds: an entry leads where the file grows")},
    {IN_ROUNDS("in rounds: an entry leads where the file grows, and flags")},
    {IN_ROUNDS("in rounds: an entry leads to refcounts of one bit")},
    {IN_ROUNDS("in rounds: the refcount table as an L2 table")},
    {IN_ROUNDS("in rounds: a snapshot's L2 table where the file grows")},
    {"check -r all, in rounds", "in rounds: a table changes in both", DAMAGED | NO_CHECKER,
     .run = repair_some_in_rounds, .needless = BETWEEN_ROUNDS},
    {0},
};
SUBJECT_GROUP(damage)
