#include "repair.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A crash of the repair: its verdict. */
struct second {
    const struct judge *judge;
    struct verdict *verdict;
};

static bool judge_second(void *opaque, const struct state *s)
{
    const struct second *x = opaque;
    return judge_state(x->judge, s, x->verdict);
}

/* Does the repair, recorded. */
static int repair(struct recorder *r, const struct judge *j, const struct state *s,
                  struct img_error *err)
{
    struct img_repair_options options = {.what = IMG_REPAIR_ALL};
    struct img_check result;
    struct img *img = NULL;
    recorder_init(r, s->disks, j->scene->files);
    r->device = j->may_be_none;
    struct file *data = j->scene->files > 1 ? record_open(r, 1, "data.raw") : NULL;
    int ret = scene_open(&img, j->scene, record_open(r, 0, "image.qcow2"), data,
                         IMG_OPEN_CHECK | IMG_OPEN_WRITE, err);
    if (!ret)
        ret = img_repair(img, &options, &result, err);
    img_close(img);
    recorder_step(r, 1, true);
    return ret;
}

/* What the image shows before and after, and what is wrong with it. */
static int compare(struct judge *second, const struct recorder *r, const struct damage *allowed,
                   struct img_error *err)
{
    struct damage left;
    int ret = judge_add_version(second, r->log.start, false, err);
    if (!ret)
        ret = judge_add_version(second, r->now, false, err);
    if (!ret)
        ret = check_disks(second->scene, r->now, &left, err);
    if (!ret && !view_keeps(&second->versions[0].view, &second->versions[1].view))
        ret = img_fail(err, EIO, "repaired, it shows something else");
    if (!ret && (left.corruptions > allowed->corruptions || left.leaks))
        ret = img_fail(err, EIO, "repaired, it has %" PRIu64 " corruptions and %" PRIu64 " leaks",
                       left.corruptions, left.leaks);
    if (!ret && !second->own.corruptions && !second->own.leaks && r->log.count > 1 &&
        !second->versions[0].view.unknown)
        ret = img_fail(err, EIO, "it was clean, and the repair wrote to it");
    return ret;
}

/* A crash of the repair, at any instant. */
static bool crash_repair(const struct judge *judge, const struct recorder *r,
                         const struct states_options *o, struct verdict *v,
                         struct states_count *count)
{
    static const char when[] = "when its repair fails: ";
    struct second x = {judge, v};
    if (states_each(&r->log, o, judge_second, &x, count))
        return true;
    memmove(v->why + sizeof when - 1, v->why, sizeof v->why - sizeof when);
    memcpy(v->why, when, sizeof when - 1);
    v->why[sizeof v->why - 1] = 0;
    return false;
}

bool repair_state(const struct judge *j, const struct state *s, uint64_t seed, size_t limit,
                  bool *clean, struct verdict *v, struct states_count *count)
{
    struct img_error err = IMG_ERROR_INIT;
    struct recorder r;
    struct judge judge = {.scene = j->scene, .after = j->after};
    struct states_options o = {.seed = seed, .limit = limit, .drop_flush = -1};
    *v = (struct verdict){0};
    int ret = check_disks(j->scene, s->disks, &judge.own, &err);
    *clean = !ret && !judge.own.corruptions && !judge.own.leaks;
    if (ret < 0)
        recorder_init(&r, s->disks, 0);
    else
        ret = repair(&r, j, s, &err);
    bool untouched = *clean && !ret && r.log.count == 1;
    if (!ret && !untouched)
        ret = compare(&judge, &r, &j->after, &err);
    if (ret < 0) {
        v->corrupt = true;
        snprintf(v->why, sizeof v->why, "%s", img_error_message(&err));
    } else if (!untouched) {
        crash_repair(&judge, &r, &o, v, count);
    }
    recorder_free(&r);
    judge_free(&judge);
    img_error_clear(&err);
    return !v->corrupt && !v->leaked && !v->neither;
}
