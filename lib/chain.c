/*
 * Backing chains: opening layer after layer, loops, and the walk from the top to the base.
 *
 * A layer is known by its file (device and inode) and its format, whatever name led to it, so that
 * two names of one file are a loop too.
 */
#include "lib/checked.h"
#include "lib/image.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int chain_backing_ref(struct image_ref *ref, char **full, const struct layer *l,
                      struct img_error *err)
{
    int ret = policy_backing_name(full, l->filename, l->backing_name, err);
    if (ret < 0)
        return ret;
    ret = ref_parse(ref, *full, err);
    if (!ret && !ref->format && l->backing_format && *l->backing_format) {
        ref->format = strdup(l->backing_format);
        if (!ref->format)
            ret = img_fail_nomem(err);
    }
    if (ret < 0) {
        chain_explain(err, l, *full);
        free(*full);
        *full = NULL;
        ref_clear(ref);
    }
    return ret;
}

void chain_explain(struct img_error *err, const struct layer *l, const char *full)
{
    char *absolute = policy_absolute(strncmp(full, "file:", 5) ? full : full + 5);
    img_context(err, "the backing file '%s' named by '%s', looked for at '%s'",
                l->backing_name ? l->backing_name : full, l->filename, absolute ? absolute : full);
    free(absolute);
}

void chain_warn_probed(const struct img_open_options *options, const struct layer *l,
                       const char *full, const char *format)
{
    char *text;
    if (!options->warn ||
        asprintf(&text, "'%s' names no format for its backing file '%s'; it looks like %s",
                 l->filename, full, format) < 0)
        return;
    options->warn(options->opaque, IMG_WARN_NO_BACKING_FORMAT, text);
    free(text);
}

int chain_trail_add(struct chain_trail *t, const struct layer *l, const char *name,
                    struct img_error *err)
{
    const struct file_identity *id = &l->file->id;
    for (size_t i = 0; i < t->count; i++)
        if (t->seen[i].id.device == id->device && t->seen[i].id.inode == id->inode &&
            t->seen[i].driver == l->driver)
            return img_fail(err, ELOOP, "Backing file '%s' creates an infinite loop.", name);
    struct chain_seen *seen = realloc(t->seen, (t->count + 1) * sizeof *seen);
    if (!seen)
        return img_fail_nomem(err);
    t->seen = seen;
    seen[t->count++] = (struct chain_seen){*id, l->driver};
    return 0;
}

static int append(struct img *img, struct layer *l, struct img_error *err)
{
    struct layer **layers = realloc(img->layers, (img->depth + 1) * sizeof *layers);
    if (!layers)
        return img_fail_nomem(err);
    img->layers = layers;
    layers[img->depth++] = l;
    return 0;
}

/* Opens the layer below the lowest. FULL is its name, for messages. */
static int open_below(struct img *img, struct chain_trail *trail,
                      const struct img_open_options *options, const struct image_ref *ref,
                      const char *full, struct img_error *err)
{
    const struct layer *above = img->layers[img->depth - 1];
    struct layer *l;
    bool probed;
    int ret = layer_open(&l, ref, options, true, &probed, err);
    if (ret < 0) {
        chain_explain(err, above, full);
        return ret;
    }
    ret = chain_trail_add(trail, l, full, err);
    if (ret < 0)
        chain_explain(err, above, full);
    else
        ret = append(img, l, err);
    if (ret < 0)
        layer_close(l);
    else if (probed)
        chain_warn_probed(options, above, full, l->driver->name);
    return ret;
}

/* The way down: how the lowest layer was named, which may say what lies below it. */
struct descent {
    const struct image_ref *how; /* the user's reference or a part of it, or of OWN */
    struct image_ref own;        /* the last name that came out of an image */
};

static int descend(struct img *img, struct chain_trail *trail,
                   const struct img_open_options *options, struct descent *d, bool *done,
                   struct img_error *err)
{
    const struct layer *l = img->layers[img->depth - 1];
    const struct image_ref *given = d->how->backing;
    *done = d->how->no_backing || (!given && !l->backing_name);
    if (*done)
        return 0;
    if (given) {
        d->how = given;
        return open_below(img, trail, options, given, given->path, err);
    }
    struct image_ref ref = {0};
    char *full = NULL;
    int ret = chain_backing_ref(&ref, &full, l, err);
    if (!ret)
        ret = open_below(img, trail, options, &ref, full, err);
    free(full);
    ref_clear(&d->own);
    d->own = ref;
    d->how = &d->own;
    return ret;
}

int chain_open(struct img *img, const struct img_open_options *options, const struct image_ref *top,
               struct img_error *err)
{
    struct chain_trail trail = {0};
    struct descent d = {.how = top};
    bool done = false;
    int ret = chain_trail_add(&trail, img->layers[0], img->layers[0]->filename, err);
    while (!ret && !done)
        ret = descend(img, &trail, options, &d, &done, err);
    for (unsigned i = 0; ret < 0 && i < img->depth; i++)
        img_prefix(err, ret, "Could not open backing file: ");
    ref_clear(&d.own);
    free(trail.seen);
    return ret;
}

/* What layer DEPTH says at OFF, out of the walk's memory where it is there. */
static int step(struct img *img, unsigned depth, guest_off off, uint64_t max, uint64_t ask,
                enum map_detail detail, struct chain_walk *walk, struct extent *out,
                struct img_error *err)
{
    struct layer *l = img->layers[depth];
    struct chain_step *s = walk ? &walk->steps[depth] : NULL;
    if (s && off.v >= s->start && off.v - s->start < s->extent.length) {
        *out = s->extent;
        extent_skip(out, off.v - s->start);
    } else {
        int ret = l->driver->map(l, off, s ? min_u64(ask, l->size - off.v) : max, detail, out, err);
        if (ret < 0)
            return ret;
        if (s)
            *s = (struct chain_step){off.v, *out};
    }
    out->length = min_u64(out->length, max);
    return 0;
}

int chain_map(struct img *img, guest_off off, uint64_t max, enum map_detail detail,
              struct chain_walk *walk, struct extent *out, unsigned *depth, struct img_error *err)
{
    uint64_t ask = max;
    for (unsigned i = 0;; i++) {
        max = min_u64(max, img->layers[i]->size - off.v);
        int ret = step(img, i, off, max, ask, detail, walk, out, err);
        *depth = i;
        if (ret < 0 || out->kind != IMG_EXTENT_UNALLOCATED)
            return ret;
        max = out->length;
        /* past the end of a shorter backing file, it is this layer that reads as zeroes */
        if (i + 1 == img->depth || off.v >= img->layers[i + 1]->size)
            return 0;
    }
}
