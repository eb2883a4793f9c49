/*
 * Relocating: first every chain is walked, by the names as they will be, and what they become is
 * worked out; then old and new files are compared; then the images that change are locked, and then
 * they are changed.
 */
#include "lib/ops/relocate.h"
#include "lib/ops/chain_edit.h"
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
    struct chain_edit edit;
    struct journal old; /* found on the way: it has to be finished first */
    struct same_request *pairs;
    size_t pair_count;
    uint64_t done, total;
    struct img_name_changes result;
};

static int go_on(const struct relocation *r, struct img_error *err)
{
    if (r->cancel.wanted && r->cancel.wanted(r->cancel.opaque))
        return img_fail(err, ECANCELED, "Interrupted");
    return 0;
}

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

/* What L names is not looked at, as WHY says, which is cleared. */
static void chain_ends(const struct relocation *r, const struct layer *l, const char *name,
                       struct img_error *why)
{
    char *text;
    if (r->given->warn && asprintf(&text, "'%s', which '%s' names, is not looked at: %s", name,
                                   l->filename, img_error_message(why)) >= 0) {
        r->given->warn(r->given->opaque, IMG_WARN_CHAIN_ENDS, text);
        free(text);
    }
    img_error_clear(why);
}

/* What lies below an image, and how that was named. */
struct below {
    struct image_ref ref; /* path NULL: nothing does */
    char *full;
};

static void below_clear(struct below *b)
{
    ref_clear(&b->ref);
    free(b->full);
    *b = (struct below){0};
}

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

static int find_below(const struct edited_image *i, const char *name, struct below *b,
                      struct img_error *err)
{
    struct layer renamed = *i->layer;
    renamed.backing_name = (char *)(uintptr_t)name;
    return chain_backing_ref(&b->ref, &b->full, &renamed, err);
}

/* A name that stays may lead elsewhere than to a file of this host. */
static int follow_old_name(const struct relocation *r, const struct edited_image *i,
                           struct below *b, struct img_error *err)
{
    struct img_error why = IMG_ERROR_INIT;
    int ret = find_below(i, i->layer->backing_name, b, &why);
    if (ret < 0 && ret != -ENOMEM)
        chain_ends(r, i->layer, i->layer->backing_name, &why);
    img_error_clear(&why);
    return ret == -ENOMEM ? img_fail_nomem(err) : 0;
}

/* *B: what the image names then. */
static int relocate_backing(struct relocation *r, struct edited_image *i, struct below *b,
                            struct img_error *err)
{
    if (!i->layer->backing_name || i->layer->cut_off)
        return 0;
    int ret = relocation_name(&r->map, i->layer, false, &i->backing, err);
    if (!ret && !i->backing)
        return follow_old_name(r, i, b, err);
    if (!ret)
        ret = find_below(i, i->backing, b, err);
    if (ret < 0)
        return ret;
    struct below old = {0};
    ret = find_below(i, i->layer->backing_name, &old, err);
    if (!ret)
        ret = add_pairs(r, &old.ref, &b->ref, err);
    below_clear(&old);
    return ret;
}

/* ---- the walk ------------------------------------------------------------------------------ */

static int look_for_journal(struct relocation *r, const struct layer *l, struct img_error *err)
{
    if (r->result.finished && r->given->dry_run)
        return 0;
    char *real = realpath(l->file->name, NULL);
    int ret = real ? journal_find(&r->old, real, err) : errno == ENOMEM ? img_fail_nomem(err) : 0;
    free(real);
    return ret;
}

static struct img_open_options look_options(const struct relocation *r)
{
    return (struct img_open_options){
        .flags = IMG_OPEN_NO_DATA, .warn = r->given->warn, .opaque = r->given->opaque};
}

/* The way down. */
struct descent {
    struct below last;            /* what an image named last */
    const struct image_ref *rest; /* the part of it that is still to come; NULL: nothing */
    bool renamed;                 /* by a new name, which has to lead somewhere */
    struct chain_trail trail;
};

/* The layer that D leads to; *L is NULL when the chain ends there. */
static int open_next(struct relocation *r, struct descent *d, const struct layer *above,
                     struct layer **l, struct img_error *err)
{
    struct img_open_options options = look_options(r);
    struct img_error why = IMG_ERROR_INIT;
    bool probed;
    *l = NULL;
    if (!d->rest || !d->rest->path)
        return 0;
    struct image_ref alone = *d->rest;
    alone.backing = NULL;
    alone.no_backing = d->rest->backing || d->rest->no_backing; /* its own name does not count */
    int ret = layer_open(l, &alone, &options, true, &probed, d->renamed ? err : &why);
    if (!ret) {
        if (probed)
            chain_warn_probed(&options, above, d->last.full, (*l)->driver->name);
        return 0;
    }
    *l = NULL;
    if (d->renamed)
        return img_prefix(err, ret, "Could not open '%s': ", d->rest->path);
    if (ret == -ENOMEM)
        return img_fail_nomem(err);
    chain_ends(r, above, d->last.full, &why);
    return 0;
}

/* L, which is taken over; D then leads to what lies below it. */
static int take_layer(struct relocation *r, struct descent *d, struct layer *l,
                      struct img_error *err)
{
    struct below next = {0};
    struct edited_image *i;
    int ret = edit_add(&r->edit, l, &i, err);
    if (!ret)
        ret = relocate_data_file(r, i, err);
    if (!ret)
        ret = relocate_backing(r, i, &next, err);
    if (ret < 0 || !next.ref.path) {
        below_clear(&next);
        d->rest = d->rest ? d->rest->backing : NULL;
        return ret;
    }
    d->renamed = i->backing;
    below_clear(&d->last);
    d->last = next;
    d->rest = &d->last.ref;
    return 0;
}

/* From the image L, which is taken over, to the end of its chain, or to what was seen already. */
static int walk(struct relocation *r, struct layer *l, struct img_error *err)
{
    struct descent d = {.last = {.full = NULL}};
    int ret = 0;
    while (!ret && l) {
        ret = chain_trail_add(&d.trail, l, l->filename, err);
        if (!ret)
            ret = go_on(r, err);
        if (!ret)
            ret = look_for_journal(r, l, err);
        if (ret < 0 || r->old.path || edit_knows(&r->edit, l)) {
            layer_close(l);
            break;
        }
        ret = take_layer(r, &d, l, err);
        if (!ret)
            ret = open_next(r, &d, l, &l, err);
    }
    below_clear(&d.last);
    free(d.trail.seen);
    return ret;
}

static int walk_from(struct relocation *r, const char *file, struct img_error *err)
{
    struct img_open_options options = look_options(r);
    struct image_ref ref;
    struct layer *l = NULL;
    int ret = layer_open_top(&l, &ref, file, &options, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", file);
    ref_clear(&ref);
    return walk(r, l, err);
}

/* ---- all of it ----------------------------------------------------------------------------- */

static void forget(struct relocation *r)
{
    edit_clear(&r->edit);
    for (size_t i = 0; i < r->pair_count; i++)
        pair_clear(&r->pairs[i]);
    free(r->pairs);
    r->pairs = NULL;
    r->pair_count = 0;
}

/* Anew after each interrupted change that was found and finished. */
static int walk_all(struct relocation *r, const char *const *files, size_t count,
                    struct img_error *err)
{
    for (;;) {
        int ret = 0;
        for (size_t i = 0; i < count && !ret && !r->old.path; i++)
            ret = walk_from(r, files[i], err);
        if (ret < 0 || !r->old.path)
            return ret;
        forget(r);
        r->result.finished = true;
        ret = r->given->dry_run ? 0 : journal_finish(&r->old, err);
        journal_clear(&r->old);
        if (ret < 0)
            return ret;
    }
}

static void tell(struct relocation *r, const struct edited_image *i, const char *what,
                 const char *from, const char *to)
{
    const struct img_name_change c = {i->layer->filename, what, from, to};
    if (!to)
        return;
    r->result.names++;
    if (r->given->change)
        r->given->change(r->given->opaque, &c);
}

static void tell_all(struct relocation *r)
{
    r->result.images = r->edit.count;
    for (size_t i = 0; i < r->edit.count; i++) {
        const struct edited_image *image = &r->edit.images[i];
        r->result.changed += edit_changes(image);
        tell(r, image, "backing-file", image->layer->backing_name, image->backing);
        tell(r, image, "data-file", image->layer->data_file_name, image->data_file);
    }
}

static int step(void *opaque, uint64_t bytes, struct img_error *err)
{
    struct relocation *r = opaque;
    r->done += bytes;
    progress_report(&r->progress, "compare", r->done, r->total);
    return go_on(r, err);
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
                    struct img_error *err)
{
    int ret = walk_all(r, files, count, err);
    if (ret < 0)
        return ret;
    tell_all(r);
    ret = r->given->dry_run ? 0 : edit_open(&r->edit, err);
    if (!ret)
        ret = edit_plan(&r->edit, err);
    if (!ret)
        ret = compare_all(r, err);
    if (!ret && !r->given->dry_run)
        ret = edit_commit(&r->edit, err);
    if (!ret)
        progress_report(&r->progress, "relocate", r->total, r->total);
    return ret;
}

int img_relocate(const char *const *files, size_t count, const struct img_relocate_options *given,
                 struct img_name_changes *result, struct img_error *err)
{
    struct relocation r = {
        .given = given,
        .cancel = {given->cancelled, given->opaque},
        .progress = {given->progress, given->opaque},
    };
    int ret = relocation_map_init(&r.map, given->from, given->to, given->style, err);
    if (ret < 0)
        return ret;
    r.edit.cancel = &r.cancel;
    ret = relocate(&r, files, count, err);
    if (result)
        *result = r.result;
    forget(&r);
    journal_clear(&r.old);
    relocation_map_clear(&r.map);
    return ret;
}
