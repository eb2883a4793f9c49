#include "lib/ops/edit_walk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

void below_clear(struct below *b)
{
    ref_clear(&b->ref);
    free(b->full);
    *b = (struct below){0};
}

int edit_go_on(const struct edit_walk *w, struct img_error *err)
{
    if (w->cancel->wanted && w->cancel->wanted(w->cancel->opaque))
        return img_fail(err, ECANCELED, "Interrupted");
    return 0;
}

/* ---- names --------------------------------------------------------------------------------- */

/* What L names is not looked at, as WHY says, which is cleared. */
static void chain_ends(const struct edit_walk *w, const struct layer *l, const char *name,
                       struct img_error *why)
{
    char *text;
    if (w->warn && asprintf(&text, "'%s', which '%s' names, is not looked at: %s", name,
                            l->filename, img_error_message(why)) >= 0) {
        w->warn(w->opaque, IMG_WARN_CHAIN_ENDS, text);
        free(text);
    }
    img_error_clear(why);
}

int edit_find_below(const struct edited_image *i, const char *name, struct below *b,
                    struct img_error *err)
{
    struct layer renamed = *i->layer;
    renamed.backing_name = (char *)(uintptr_t)name;
    return chain_backing_ref(&b->ref, &b->full, &renamed, err);
}

int edit_follow(const struct edit_walk *w, const struct edited_image *i, struct below *b,
                struct img_error *err)
{
    struct img_error why = IMG_ERROR_INIT;
    int ret = edit_find_below(i, i->layer->backing_name, b, &why);
    if (ret < 0 && ret != -ENOMEM)
        chain_ends(w, i->layer, i->layer->backing_name, &why);
    img_error_clear(&why);
    return ret == -ENOMEM ? img_fail_nomem(err) : 0;
}

/* ---- one chain ----------------------------------------------------------------------------- */

/* Before the file is opened: it may be no image at all until the change is finished. */
static int find_journal(const struct edit_walk *w, const char *path, struct journal *old,
                        struct img_error *err)
{
    if (w->finished && w->dry_run)
        return 0;
    char *real = realpath(path, NULL);
    int ret = real ? journal_find(old, real, err) : errno == ENOMEM ? img_fail_nomem(err) : 0;
    free(real);
    return ret;
}

static struct img_open_options look_options(const struct edit_walk *w)
{
    struct img_open_options options = w->open ? *w->open : (struct img_open_options){0};
    options.flags |= IMG_OPEN_NO_DATA;
    options.warn = w->warn;
    options.opaque = w->opaque;
    return options;
}

/* The way down. */
struct descent {
    struct below last;            /* what an image named last */
    const struct image_ref *rest; /* the part of it that is still to come; NULL: nothing */
    struct chain_trail trail;
};

/* The layer that D leads to; *L is NULL when the chain ends there, or when OLD was found. */
static int open_next(const struct edit_walk *w, const struct descent *d, const struct layer *above,
                     struct journal *old, struct layer **l, struct img_error *err)
{
    struct img_open_options options = look_options(w);
    struct img_error why = IMG_ERROR_INIT;
    bool probed;
    *l = NULL;
    if (!d->rest || !d->rest->path)
        return 0;
    int ret = find_journal(w, d->rest->path, old, err);
    if (ret < 0 || old->path)
        return ret;
    struct image_ref alone = *d->rest;
    alone.backing = NULL;
    alone.no_backing = d->rest->backing || d->rest->no_backing; /* its own name does not count */
    ret = layer_open(l, &alone, &options, true, &probed, d->last.firm ? err : &why);
    if (!ret) {
        if (probed)
            chain_warn_probed(&options, above, d->last.full, (*l)->driver->name);
        return 0;
    }
    *l = NULL;
    if (d->last.firm)
        return img_prefix(err, ret, "Could not open '%s': ", d->rest->path);
    if (ret == -ENOMEM)
        return img_fail_nomem(err);
    chain_ends(w, above, d->last.full, &why);
    return 0;
}

/* L, which is taken over; D then leads to what lies below it. */
static int take_layer(struct edit_walk *w, struct descent *d, struct layer *l,
                      struct img_error *err)
{
    struct below next = {0};
    struct edited_image *i;
    int ret = edit_add(&w->edit, l, &i, err);
    if (!ret)
        ret = w->take(w, i, &next, err);
    if (ret < 0 || !next.ref.path) {
        below_clear(&next);
        d->rest = d->rest ? d->rest->backing : NULL;
        return ret;
    }
    below_clear(&d->last);
    d->last = next;
    d->rest = &d->last.ref;
    return 0;
}

/* From the image L, which is taken over, to the end of its chain, or to what was seen already, or
 * to where there is something left to finish: OLD. */
static int walk(struct edit_walk *w, struct layer *l, struct journal *old, struct img_error *err)
{
    struct descent d = {.last = {.full = NULL}};
    int ret = 0;
    while (!ret && l) {
        ret = chain_trail_add(&d.trail, l, l->filename, err);
        if (!ret)
            ret = edit_go_on(w, err);
        if (ret < 0 || edit_knows(&w->edit, l)) {
            layer_close(l);
            break;
        }
        ret = take_layer(w, &d, l, err);
        if (!ret)
            ret = open_next(w, &d, l, old, &l, err);
    }
    below_clear(&d.last);
    free(d.trail.seen);
    return ret;
}

static int find_journal_of(const struct edit_walk *w, const char *file, unsigned flags,
                           struct journal *old, struct img_error *err)
{
    struct image_ref ref;
    int ret = flags & IMG_OPEN_IMAGE_OPTS ? ref_parse_opts(&ref, file, err)
                                          : ref_parse(&ref, file, err);
    if (ret < 0)
        return ret;
    ret = find_journal(w, ref.path, old, err);
    ref_clear(&ref);
    return ret;
}

static int walk_from(struct edit_walk *w, const char *file, struct journal *old,
                     struct img_error *err)
{
    struct img_open_options options = look_options(w);
    struct image_ref ref;
    struct layer *l = NULL;
    int ret = find_journal_of(w, file, options.flags, old, err);
    if (ret < 0 || old->path)
        return ret;
    ret = layer_open_top(&l, &ref, file, &options, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", file);
    ref_clear(&ref);
    return walk(w, l, old, err);
}

int edit_walk(struct edit_walk *w, const char *const *files, size_t count, struct img_error *err)
{
    struct journal old = {0};
    for (;;) {
        int ret = 0;
        for (size_t i = 0; i < count && !ret && !old.path; i++)
            ret = walk_from(w, files[i], &old, err);
        if (ret < 0 || !old.path)
            return ret;
        edit_clear(&w->edit); /* its locks would be in the way */
        if (w->forget)
            w->forget(w);
        w->finished = true;
        ret = w->dry_run ? 0 : journal_finish(&old, err);
        journal_clear(&old);
        if (ret < 0)
            return ret;
    }
}

/* ---- what changes -------------------------------------------------------------------------- */

struct listener {
    const struct edit_walk *walk;
    struct img_name_changes *sums;
    void (*fn)(void *opaque, const struct img_name_change *change);
};

static void tell(const struct listener *to, const struct edited_image *i, const char *what,
                 const char *from, const char *name)
{
    const struct img_name_change c = {i->layer->filename, what, from, name};
    if (!name)
        return;
    to->sums->names++;
    if (to->fn)
        to->fn(to->walk->opaque, &c);
}

void edit_tell(const struct edit_walk *w, struct img_name_changes *sums,
               void (*fn)(void *opaque, const struct img_name_change *change))
{
    const struct listener to = {w, sums, fn};
    *sums = (struct img_name_changes){.images = w->edit.count, .finished = w->finished};
    for (size_t i = 0; i < w->edit.count; i++) {
        const struct edited_image *image = &w->edit.images[i];
        const struct layer *l = image->layer;
        sums->changed += edit_changes(image);
        tell(&to, image, "backing-file", l->backing_name, image->backing);
        tell(&to, image, "backing-format", l->backing_format, image->backing_format);
        tell(&to, image, "data-file", l->data_file_name, image->data_file);
    }
}
