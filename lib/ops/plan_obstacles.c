/*
 * What forbids a commit.
 *
 * To commit layer K into K + 1 changes what K + 1 reads as, and nothing that reads through K. So
 * nobody but K may need K + 1. When layer K has further overlays, these still read the same; only K
 * itself must then stay.
 */
#include "lib/ops/plan.h"
#include "lib/ops/relatives.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int add_obstacle(struct img_plan_layer *l, enum img_plan_kind kind, const char *filename,
                        struct img_error *err, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static int add_obstacle(struct img_plan_layer *l, enum img_plan_kind kind, const char *filename,
                        struct img_error *err, const char *fmt, ...)
{
    struct img_plan_obstacle *all = realloc(l->obstacles, (l->obstacle_count + 1) * sizeof *all);
    if (!all)
        return img_fail_nomem(err);
    l->obstacles = all;
    struct img_plan_obstacle *o = &all[l->obstacle_count];
    *o = (struct img_plan_obstacle){.kind = kind};
    va_list ap;
    va_start(ap, fmt);
    int printed = vasprintf(&o->what, fmt, ap);
    va_end(ap);
    if (printed < 0)
        return img_fail_nomem(err);
    l->obstacle_count++;
    o->filename = filename ? strdup(filename) : NULL;
    return filename && !o->filename ? img_fail_nomem(err) : 0;
}

/* ---- what the layers themselves say ---- */

static bool is_window(const struct layer *l)
{
    return l->raw_offset || l->raw_size != UINT64_MAX;
}

static int check_target(struct img_plan_layer *out, const struct layer *below, uint64_t size,
                        struct img_error *err)
{
    int ret = 0;
    struct file *files[] = {below->file, below->data_file};
    for (size_t i = 0; i < 2 && !ret; i++)
        if (files[i] && access(files[i]->name, W_OK) < 0)
            ret = add_obstacle(out, IMG_PLAN_TARGET, NULL, err, "'%s' may not be written: %s",
                               files[i]->name, strerror(errno));
    if (!ret && is_window(below))
        ret = add_obstacle(out, IMG_PLAN_TARGET, NULL, err, "'%s' is only a part of its file",
                           below->file->name);
    else if (!ret && below->driver->plain && below->file->device && below->size < size)
        ret = add_obstacle(out, IMG_PLAN_SIZE, NULL, err, "'%s' is a device, and too small",
                           below->file->name);
    return ret;
}

/* Is the file of layer LOW met in the chain before? */
static int check_same_file(struct img_plan_layer *out, const struct img *img, unsigned low,
                           struct img_error *err)
{
    const struct file_identity *id = &img->layers[low]->file->id;
    for (unsigned i = 0; i < img->depth; i++) {
        const struct file_identity *other = &img->layers[i]->file->id;
        if (i != low && other->device == id->device && other->inode == id->inode)
            return add_obstacle(out, IMG_PLAN_TARGET, NULL, err,
                                "'%s' is in the chain twice, in different formats",
                                img->layers[low]->filename);
    }
    return 0;
}

/* What the description of a layer says: of the one to commit, its snapshots; of its target, that it
 * is damaged. */
static int check_described(struct img_plan_layer *out, const struct img *img, unsigned i,
                           struct img_error *err)
{
    struct img_info *info, *below;
    int ret = layer_describe(&info, img->layers[i], err);
    if (ret < 0)
        return ret;
    ret = layer_describe(&below, img->layers[i + 1], err);
    if (ret < 0) {
        img_info_free(info);
        return ret;
    }
    if (info->snapshot_count)
        ret = add_obstacle(out, IMG_PLAN_SNAPSHOTS, NULL, err,
                           "'%s' has %zu internal snapshots, which read what is below it",
                           info->filename, info->snapshot_count);
    if (!ret && below->is_qcow2 && below->qcow2.corrupt)
        ret = add_obstacle(out, IMG_PLAN_TARGET, NULL, err, "'%s' is marked corrupt",
                           below->filename);
    img_info_free(info);
    img_info_free(below);
    return ret;
}

/*
 * The end of a longer layer below is hidden by this one. When this one is gone, a longer one above
 * would read it; and so would the guest, if this one is the image itself.
 */
static int check_hidden(struct img_plan_layer *out, const struct img *img, unsigned i,
                        struct img_error *err)
{
    uint64_t size = img->layers[i]->size, highest = i ? 0 : UINT64_MAX;
    for (unsigned k = 0; k < i; k++)
        highest = img->layers[k]->size > highest ? img->layers[k]->size : highest;
    if (img->layers[i + 1]->size <= size || highest <= size)
        return 0;
    return add_obstacle(out, IMG_PLAN_SIZE, NULL, err,
                        "'%s' hides the last %" PRIu64 " bytes of '%s', which would be seen again",
                        img->layers[i]->filename, img->layers[i + 1]->size - size,
                        img->layers[i + 1]->filename);
}

static int check_layer(struct img_merge_plan *plan, const struct img *img, unsigned i,
                       unsigned flags, struct img_error *err)
{
    struct img_plan_layer *out = &plan->layers[i];
    int ret = 0;
    if (i == 0 && !(flags & IMG_PLAN_MERGE_TOP))
        ret = add_obstacle(out, IMG_PLAN_TOP, NULL, err,
                           "'%s' is the image itself, which keeps its name",
                           img->layers[0]->filename);
    if (!ret)
        ret = check_described(out, img, i, err);
    if (!ret)
        ret = check_target(out, img->layers[i + 1], img->layers[i]->size, err);
    if (!ret)
        ret = check_same_file(out, img, i + 1, err);
    return ret < 0 ? ret : check_hidden(out, img, i, err);
}

/* ---- what other images need ---- */

/* IMAGE, which is not the one above it, names a file of layer LAYER. */
static int note_reference(void *opaque, const struct img_tree_image *image, unsigned layer,
                          struct img_error *err)
{
    struct img_merge_plan *plan = opaque;
    plan->layers[layer].needed = true;
    if (layer == 0) /* nothing is committed into it */
        return 0;
    struct img_plan_layer *above = &plan->layers[layer - 1];
    if (above->obstacle_count) {
        const struct img_plan_obstacle *last = &above->obstacles[above->obstacle_count - 1];
        if (last->filename && !strcmp(last->filename, image->filename))
            return 0;
    }
    return add_obstacle(above, IMG_PLAN_DEPENDENT, image->filename, err, "'%s' needs '%s' as it is",
                        image->filename, plan->layers[layer].filename);
}

/* ---- looking for them ---- */

static int add_problem(struct img_merge_plan *plan, const char *filename, const char *error,
                       struct img_error *err)
{
    struct img_tree_problem *all = realloc(plan->problems, (plan->problem_count + 1) * sizeof *all);
    if (!all)
        return img_fail_nomem(err);
    plan->problems = all;
    struct img_tree_problem *p = &all[plan->problem_count++];
    *p = (struct img_tree_problem){strdup(filename), strdup(error)};
    return p->filename && p->error ? 0 : img_fail_nomem(err);
}

/* Images that could not be read may need a layer, too. */
static int keep_problems(struct img_merge_plan *plan, const struct tree *t, struct img_error *err)
{
    const struct img_tree *r = &t->result;
    int ret = 0;
    for (size_t i = 0; i < r->problem_count && !ret; i++)
        ret = add_problem(plan, r->problems[i].filename, r->problems[i].error, err);
    for (size_t i = 0; i < r->count && !ret; i++)
        if (r->images[i].state == IMG_TREE_UNREADABLE && t->nodes[i].has_id)
            ret = add_problem(plan, r->images[i].filename, r->images[i].error, err);
    return ret;
}

int plan_find_obstacles(struct img_merge_plan *plan, const struct img *img,
                        const struct img_plan_options *options, struct img_error *err)
{
    struct tree *t = tree_new(err);
    int ret = t ? relatives_read(t, img, img->depth, options->folders, options->folder_count, true,
                                 err)
                : -ENOMEM;
    for (unsigned i = 0; i + 1 < img->depth && !ret; i++)
        ret = check_layer(plan, img, i, options->flags, err);
    if (!ret)
        ret = relatives_each(t, img, note_reference, plan, err);
    if (!ret)
        ret = keep_problems(plan, t, err);
    if (t)
        tree_destroy(t);
    return ret;
}
