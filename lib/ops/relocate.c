/*
 * Relocating: first every chain is walked, by the names as they will be, and what they become is
 * worked out; then old and new files are compared; then the images that change are locked, and then
 * they are changed.
 */
#include "lib/ops/relocate.h"
#include "lib/ops/edit_walk.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct relocation {
    const struct img_relocate_options *given;
    struct relocation_map map;
    struct cancel cancel;
    struct progress_sink progress;
    struct edit_walk walk;
    struct same_request *pairs;
    size_t pair_count;
    uint64_t done, total;
};

/* ---- what is to be compared ---------------------------------------------------------------- */

static void pair_clear(struct same_request *p)
{
    free((char *)(uintptr_t)p->old);
    free((char *)(uintptr_t)p->new);
    free((char *)(uintptr_t)p->format);
}

static int add_pair(struct relocation *r, const char *old, const char *new, const char *format,
                    struct img_error *err)
{
    for (size_t i = 0; i < r->pair_count; i++)
        if (!strcmp(r->pairs[i].old, old) && !strcmp(r->pairs[i].new, new))
            return 0;
    struct same_request *all = realloc(r->pairs, (r->pair_count + 1) * sizeof *all);
    if (!all)
        return img_fail_nomem(err);
    r->pairs = all;
    struct same_request p = {strdup(old), strdup(new), format ? strdup(format) : NULL, 0};
    all[r->pair_count++] = p;
    return p.old && p.new && (p.format || !format) ? 0 : img_fail_nomem(err);
}

/* Both name the same, layer by layer; where the paths differ, their files have to be the same. */
static int add_pairs(struct relocation *r, const struct image_ref *old, const struct image_ref *new,
                     struct img_error *err)
{
    int ret = 0;
    for (; old && new && !ret; old = old->backing, new = new->backing) {
        if (strcmp(old->path, new->path) != 0)
            ret = add_pair(r, old->path, new->path, new->format, err);
        if (!ret && old->data_file && new->data_file &&strcmp(old->data_file, new->data_file) != 0)
            ret = add_pair(r, old->data_file, new->data_file, "raw", err);
    }
    return ret;
}

/* ---- one image ----------------------------------------------------------------------------- */

static int relocate_data_file(struct relocation *r, struct edited_image *i, struct img_error *err)
{
    char *old = NULL;
    int ret = relocation_name(&r->map, i->layer, true, &i->data_file, err);
    if (ret < 0 || !i->data_file)
        return ret;
    char *new = NULL;
    ret = policy_data_file_path(&old, i->layer->filename, i->layer->data_file_name, err);
    if (!ret)
        ret = policy_data_file_path(&new, i->layer->filename, i->data_file, err);
    if (!ret)
        ret = add_pair(r, old, new, "raw", err);
    free(old);
    free(new);
    return ret;
}

/* *B: what the image names then. */
static int relocate_backing(struct relocation *r, struct edited_image *i, struct below *b,
                            struct img_error *err)
{
    if (!i->layer->backing_name || i->layer->cut_off)
        return 0;
    int ret = relocation_name(&r->map, i->layer, false, &i->backing, err);
    if (!ret && !i->backing)
        return edit_follow(&r->walk, i, b, err);
    if (!ret)
        ret = edit_find_below(i, i->backing, b, err);
    if (ret < 0)
        return ret;
    struct below old = {0};
    ret = edit_find_below(i, i->layer->backing_name, &old, err);
    if (!ret)
        ret = add_pairs(r, &old.ref, &b->ref, err);
    below_clear(&old);
    b->firm = true;
    return ret;
}

static int take(struct edit_walk *w, struct edited_image *i, struct below *b, struct img_error *err)
{
    struct relocation *r = w->job;
    int ret = relocate_data_file(r, i, err);
    return ret < 0 ? ret : relocate_backing(r, i, b, err);
}

/* ---- all of it ----------------------------------------------------------------------------- */

static void forget_pairs(struct edit_walk *w)
{
    struct relocation *r = w->job;
    for (size_t i = 0; i < r->pair_count; i++)
        pair_clear(&r->pairs[i]);
    free(r->pairs);
    r->pairs = NULL;
    r->pair_count = 0;
}

static int step(void *opaque, uint64_t bytes, struct img_error *err)
{
    struct relocation *r = opaque;
    r->done += bytes;
    progress_report(&r->progress, "compare", r->done, r->total);
    return edit_go_on(&r->walk, err);
}

static int compare_all(struct relocation *r, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < r->pair_count && !ret; i++) {
        ret = same_look(&r->pairs[i], err);
        r->total += r->pairs[i].size;
    }
    if (!ret && r->total)
        progress_report(&r->progress, "compare", 0, r->total);
    for (size_t i = 0; i < r->pair_count && !ret; i++)
        if (r->pairs[i].size)
            ret = same_bytes(&r->pairs[i], step, r, err);
    return ret;
}

static int relocate(struct relocation *r, const char *const *files, size_t count,
                    struct img_name_changes *result, struct img_error *err)
{
    struct chain_edit *edit = &r->walk.edit;
    int ret = edit_walk(&r->walk, files, count, err);
    if (ret < 0)
        return ret;
    edit_tell(&r->walk, result, r->given->change);
    ret = r->given->dry_run ? 0 : edit_open(edit, err);
    if (!ret)
        ret = edit_plan(edit, err);
    if (!ret)
        ret = compare_all(r, err);
    if (!ret && !r->given->dry_run)
        ret = edit_commit(edit, err);
    if (!ret)
        progress_report(&r->progress, "relocate", r->total, r->total);
    return ret;
}

int img_relocate(const char *const *files, size_t count, const struct img_relocate_options *given,
                 struct img_name_changes *result, struct img_error *err)
{
    struct img_name_changes unwanted;
    struct relocation r = {
        .given = given,
        .cancel = {given->cancelled, given->opaque},
        .progress = {given->progress, given->opaque},
    };
    r.walk = (struct edit_walk){.edit.cancel = &r.cancel,
                                .cancel = &r.cancel,
                                .dry_run = given->dry_run,
                                .warn = given->warn,
                                .opaque = given->opaque,
                                .take = take,
                                .forget = forget_pairs,
                                .job = &r};
    int ret = relocation_map_init(&r.map, given->from, given->to, given->style, err);
    if (ret < 0)
        return ret;
    result = result ? result : &unwanted;
    *result = (struct img_name_changes){0};
    ret = relocate(&r, files, count, result, err);
    edit_clear(&r.walk.edit);
    forget_pairs(&r.walk);
    relocation_map_clear(&r.map);
    return ret;
}
