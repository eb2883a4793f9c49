/* Doing what is put to the test, with every call recorded. */
#include "subjects.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * What the handle reads is what the step has made of the disk. It need not be in the file yet, but
 * when the step is durable it has to.
 */
static int take_guest_from_handle(struct stage *s, struct view *v, bool durable,
                                  struct img_error *err)
{
    struct view seen = {0};
    int ret = view_take_guest(&seen, s->scene, s->img, err);
    if (!ret && (seen.size != v->size || (durable && !view_same_guest(&seen, v))))
        ret = img_fail(err, EIO, "The handle shows something else than the file has");
    free(v->guest);
    v->guest = seen.guest;
    v->held = seen.held;
    return ret;
}

int stage_step(struct stage *s, bool atomic, bool durable, struct img_error *err)
{
    struct judge *j = s->judge;
    int ret = judge_add_version(j, s->recorder.now, atomic, err);
    if (!ret && s->img && !(s->img->flags & IMG_OPEN_NO_DATA))
        ret = take_guest_from_handle(s, &j->versions[j->count - 1].view, durable, err);
    if (ret < 0)
        return img_prefix(err, ret, "after step %u: ", j->count - 1);
    recorder_step(&s->recorder, j->count - 1, durable);
    return 0;
}

/* A clean run starts and ends with images that nobody finds fault with. */
int stage_settle(struct judge *j, const struct disk *end, unsigned flags, struct img_error *err)
{
    j->end = end;
    int ret = judge_allow_own(j, j->scene->disks, end, err);
    bool clean = !(j->own.corruptions | j->own.leaks | j->own_qemu.corruptions | j->own_qemu.leaks);
    if (!ret && !clean && !(flags & (DAMAGED | EXPECT_BAD)))
        ret = img_fail(err, EIO, "it is damaged when nothing has failed");
    return ret;
}

static void set_rules(struct judge *j, unsigned flags)
{
    j->may_leak = flags & MAY_LEAK;
    j->only_after = flags & ONLY_AFTER;
    j->undoable = flags & UNDOABLE;
    j->may_be_none = flags & ON_DEVICE;
    j->exact[0] = flags & EXACT_IMAGE;
    j->exact[1] = flags & EXACT_DATA_FILE;
}

static int open_stage(struct stage *s, unsigned flags, struct img_error *err)
{
    struct file *data = s->scene->files > 1 ? record_open(&s->recorder, 1, "data.raw") : NULL;
    return scene_open(&s->img, s->scene, record_open(&s->recorder, 0, "image.qcow2"), data,
                      IMG_OPEN_WRITE | flags, err);
}

/* Bitmaps are stored when an image is closed. */
static bool closing_wrote(const struct log *l)
{
    return l->count && l->ops[l->count - 1].kind != OP_STEP;
}

int stage_run(struct stage *s, const struct subject *what, const struct scene *scene,
              struct judge *judge, uint64_t seed, struct img_error *err)
{
    *s = (struct stage){.judge = judge, .scene = scene, .seed = seed};
    recorder_init(&s->recorder, scene->disks, scene->files);
    s->recorder.device = what->flags & ON_DEVICE;
    set_rules(judge, what->flags);
    judge->again = what->again;
    int ret = judge_add_version(judge, scene->disks, true, err);
    if (!ret && !(what->flags & (ON_DEVICE | CLOSED)))
        ret = open_stage(s, what->flags & DAMAGED ? IMG_OPEN_CHECK : 0, err);
    if (!ret)
        ret = what->run(s, err);
    img_close(s->img);
    s->img = NULL;
    if (!ret && closing_wrote(&s->recorder.log))
        ret = stage_step(s, false, false, err);
    return ret < 0 ? ret : stage_settle(judge, s->recorder.now, what->flags, err);
}

int record_script(struct log *log, struct disk *end, const char *text, unsigned flags,
                  const struct scene *scene, struct judge *judge, struct img_error *err)
{
    static const char prepare[] = ": >calls.log\n"
                                  "P=\"env LD_PRELOAD=$PRELOAD CRASH_RECORD=image.qcow2 "
                                  "CRASH_BESIDE=undo CRASH_LOG=calls.log "
                                  "ASAN_OPTIONS=verify_asan_link_order=0:$ASAN_OPTIONS\"\n";
    char *script, *path;
    if (asprintf(&script, "%s%s", prepare, text) < 0 ||
        asprintf(&path, "%s/calls.log", work_folder()) < 0)
        exit(1);
    bool done = run_script(script) && log_read(log, path, &scene->disks[0], end);
    free(script);
    free(path);
    if (!done)
        return img_fail(err, EIO, "this script fails: %s", text);
    struct disk now = {0};
    bool same = read_work_file(&now, "image.qcow2") && now.size == end->size &&
                (!now.size || !memcmp(now.data, end->data, now.size));
    disk_free(&now);
    if (!same)
        return img_fail(err, EIO, "not all calls of this script were recorded: %s", text);
    set_rules(judge, flags);
    int ret = judge_add_version(judge, scene->disks, true, err);
    if (!ret)
        ret = judge_add_version(judge, end, !(flags & MAY_LEAK), err);
    log_add(log, &(struct op){.kind = OP_STEP, .offset = 1, .durable = true});
    return ret;
}
