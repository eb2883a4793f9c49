/*
 * A repair from beginning to end: rounds in an overlay, then all of it at once.
 *
 * What a round changes may be what another finding depends on: a refcount block that an L1 entry
 * takes for an L2 table, an entry that leads to where the file grows. So the image is looked at
 * again, as it would be, until there is nothing left to do; only then is the file changed, round
 * after round, so that at every instant it is what one of them begins with or leaves.
 */
#include "formats/qcow2/repair.h"
#include "formats/qcow2/ondisk.h"
#include "lib/file_overlay.h"
#include "lib/file_undo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Random damage takes three at most, one more than a look at the result. */
enum { MAX_ROUNDS = 16 };

/* ---- rounds -------------------------------------------------------------------------------- */

/* Of later rounds, only what they repair is told. */
static void tell_repairs(void *opaque, const struct img_finding *f)
{
    const struct check_report *to = opaque;
    if (f->severity != IMG_SEVERITY_REPAIRED)
        return;
    to->result->told++;
    to->fn(to->opaque, f);
}

/* What is left is what the last round found. */
static void take_result(struct img_check *all, const struct img_check *last)
{
    struct img_check sum = *last;
    sum.corruptions_fixed += all->corruptions_fixed;
    sum.leaks_fixed += all->leaks_fixed;
    sum.told = all->told;
    sum.untold = all->untold;
    *all = sum;
}

static int later_round(struct repair_run *run, struct check_report *report, struct img_error *err)
{
    struct img_check found = {0};
    struct check_report quiet = {
        .result = &found, .fn = report->fn ? tell_repairs : NULL, .opaque = report};
    int ret = qcow2_reload(run->q, err);
    if (!ret)
        ret = repair_round(run, &quiet, err);
    if (!ret)
        take_result(report->result, &found);
    return ret;
}

static int rounds(struct repair_run *run, struct check_report *report, struct img_error *err)
{
    int ret = repair_round(run, report, err);
    for (unsigned i = 1; run->changed && !ret; i++) {
        if (i == MAX_ROUNDS)
            return img_fail(err, EIO,
                            "what would be repaired makes other damage each time; nothing is "
                            "repaired");
        ret = later_round(run, report, err);
    }
    return ret;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int save_change(void *opaque, host_off off, size_t len, const uint8_t *new,
                       struct img_error *err)
{
    return undo_save(opaque, off, len, new, err);
}

static int save_undo(struct repair_run *run, struct file *image, struct undo_writer **undo,
                     struct img_error *err)
{
    unsigned versions = run->overlay ? overlay_versions(run->overlay) : 0;
    int ret = undo_start(undo, image, run->options->undo_file, versions, err);
    if (ret < 0)
        return ret;
    if (run->overlay)
        ret = overlay_each_change(run->overlay, save_change, *undo, err);
    if (!ret)
        ret = undo_finish(*undo, err);
    return ret < 0 ? img_prefix(err, ret, "Could not save what would be overwritten: ") : 0;
}

/* Is the file what it was, byte for byte? Nothing leads to what was written behind its end. */
static bool take_back(struct file *image, uint64_t before, const struct overlay_progress *p)
{
    uint64_t now;
    if (p->begun || file_size(image, &now, NULL) < 0)
        return false;
    if (!image->device && now != before && image->ops->truncate(image, before) < 0)
        return false;
    return !p->inside;
}

static int change_file(struct repair_run *run, struct file *image, struct img_error *err)
{
    struct undo_writer *undo = NULL;
    struct overlay_progress done = {0};
    uint64_t before = 0;
    int ret = file_size(image, &before, err);
    if (!ret && run->options->undo_file)
        ret = save_undo(run, image, &undo, err);
    if (!ret && run->overlay) {
        ret = overlay_replay(run->overlay, image, run->safe, &done, err);
        /* an undo file stays as long as there is a byte that it knows and the image does not */
        if (ret < 0 && take_back(image, before, &done) && undo)
            undo_withdraw(undo);
        if (ret < 0 && done.begun &&
            run->new_header) /* which header the file has now, nobody knows */
            run->q->writable = false;
    }
    undo_close(undo);
    return ret;
}

static int repair(struct repair_run *run, struct check_report *report, struct img_error *err)
{
    struct qcow2 *q = run->q;
    struct file *image = q->file;
    int ret = rounds(run, report, err);
    bool moved = q->file != image;
    q->file = image;
    if (!ret && !run->options->dry_run && run->options->what)
        ret = change_file(run, image, err);
    if (moved) {
        int again = qcow2_reload(q, ret ? NULL : err);
        ret = ret ? ret : again;
    }
    file_close(run->overlay);
    return ret;
}

int qcow2_repair(struct layer *l, const struct img_repair_options *options,
                 struct check_report *report, struct img_error *err)
{
    struct repair_run run = {.q = l->state, .options = options, .safe = UINT32_MAX};
    int ret = qcow2_still_there(run.q, err);
    if (!ret && !run.q->writable && !options->dry_run)
        ret = img_fail(err, EBADF, "What a repair of '%s' that failed has left is not known",
                       l->filename);
    return ret ? ret : repair(&run, report, err);
}

/* ---- opening a dirty image ----------------------------------------------------------------- */

/* Keeps what is told, up to a length that nobody reads to the end. */
enum { MAX_STORY = 1 << 20 };

static void remember(void *opaque, const struct img_finding *f)
{
    FILE *story = opaque;
    if (f->severity != IMG_SEVERITY_NOTE && ftell(story) < MAX_STORY)
        fprintf(story, "%s%s", ftell(story) > 0 ? "\n" : "", f->what);
}

int qcow2_repair_dirty(struct layer *l, struct img_error *err)
{
    struct img_repair_options o = {.what = IMG_REPAIR_ALL};
    struct img_check found = {0};
    size_t length = 0;
    FILE *story = open_memstream(&l->repaired, &length);
    if (!story)
        return img_fail_nomem(err);
    struct check_report report = {.result = &found, .fn = remember, .opaque = story};
    int ret = qcow2_repair(l, &o, &report, err);
    if (!ret && found.check_errors)
        ret = img_fail(err, EIO, "a part of it could not be checked");
    fclose(story);
    if (!length) {
        free(l->repaired);
        l->repaired = NULL;
    }
    return ret < 0 ? img_prefix(err, ret, "Could not repair dirty image: ") : 0;
}
