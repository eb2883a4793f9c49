/*
 * The contents of an image, and of the layers between, brought into its base.
 *
 * The image reads the same all the time: what it holds hides what changes below it. When the base
 * is on disk, the image may be emptied, in one step; until then, whatever happens, the whole can be
 * done again.
 */
#include "lib/ops/commit.h"
#include "lib/checked.h"
#include "lib/ops/sweep.h"
#include "lib/layer_seen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int open_chain(struct commit *c, const char *filename, struct img_error *err)
{
    struct img_open_options open = {0};
    if (c->options->open)
        open = *c->options->open;
    open.flags |= IMG_OPEN_WRITE;
    open.cancelled = NULL; /* it would be asked with another pointer */
    int ret = img_open(&c->img, filename, &open, err);
    if (!ret && c->options->cancelled)
        img_set_cancel(c->img, c->options->cancelled, c->options->opaque);
    return ret;
}

/* The base as it was named, opened once more, now to be written. */
static int open_base(const struct commit *c, struct layer **out, const char *name,
                     const char *format, struct img_error *err)
{
    struct img_open_options open = {.flags = IMG_OPEN_WRITE};
    struct image_ref ref = {0};
    bool probed;
    int ret = ref_parse(&ref, name, err);
    if (!ret && !ref.format) {
        ref.format = strdup(format);
        ret = ref.format ? 0 : img_fail_nomem(err);
    }
    ref.force_share = false;
    if (c->options->open) {
        open.warn = c->options->open->warn;
        open.opaque = c->options->open->opaque;
    }
    if (!ret)
        ret = layer_open(out, &ref, &open, false, &probed, err);
    ref_clear(&ref);
    return ret;
}

/* Nobody may read a file that is written, the chain that it belongs to neither: it is closed
 * first. */
static int take_base(struct commit *c, struct img_error *err)
{
    struct layer *old = c->img->layers[c->into], *l = NULL;
    struct layer_seen seen;
    char *name = strdup(old->filename);
    size_t cache_bytes = old->cache_bytes;
    if (!name)
        return img_fail_nomem(err);
    layer_close_for_now(old, &seen);
    c->img->layers[c->into] = NULL;
    int ret = open_base(c, &l, name, seen.driver->name, err);
    if (!ret)
        ret = layer_still_is(l, &seen, err); /* what is below it is open as it was */
    if (ret < 0)
        img_prefix(err, ret, "Could not open the base '%s' for writing: ", name);
    layer_seen_clear(&seen);
    free(name);
    c->img->layers[c->into] = l;
    if (ret < 0)
        return ret;
    l->cache_bytes = cache_bytes;
    c->upper = (struct img){.layers = c->img->layers, .depth = c->into};
    c->base = (struct img){.layers = c->img->layers + c->into,
                           .depth = c->img->depth - c->into,
                           .flags = IMG_OPEN_WRITE};
    if (c->options->cancelled)
        img_set_cancel(&c->base, c->options->cancelled, c->options->opaque);
    return 0;
}

/* It reads all tables of the base: of a large one that may take longer than a small commit. */
static bool worth_a_sweep(const struct commit *c)
{
    const uint64_t cheap = 8 << 20; /* 64 GiB of a disk in clusters of 64 KiB */
    struct layer *base = c->base.layers[0];
    struct layer_tables tables;
    uint64_t held = 0;
    if (!base->driver->tables || base->driver->tables(base, &tables, NULL) < 0)
        return false;
    for (unsigned i = 0; i < c->upper.depth; i++) {
        const struct layer *l = c->upper.layers[i];
        struct file *f = l->data_file ? l->data_file : l->file;
        int64_t allocated = f->ops->allocated(f);
        held += allocated > 0 ? (uint64_t)allocated : 0;
    }
    return tables.l2_bytes <= max_u64(cheap, held);
}

int commit_sweep(struct commit *c, struct img_error *err)
{
    if (c->swept)
        return 0;
    c->swept = true;
    return worth_a_sweep(c) ? sweep_leaks(c->base.layers[0], err) : 0;
}

static int grow_base(struct commit *c, struct img_error *err)
{
    uint64_t size = img_size(c->img);
    if (img_size(&c->base) >= size)
        return 0;
    int ret = commit_sweep(c, err);
    if (ret < 0)
        return ret;
    c->result.grown = true;
    ret = img_resize(&c->base, size, NULL, err);
    return ret < 0 ? img_prefix(err, ret, "Could not give the base '%s' the image's size: ",
                                c->base.layers[0]->filename)
                   : 0;
}

/* All that was written is on disk, and nothing of it is kept in memory. What the first flush let go
 * is free on disk with the second: once the image is empty, no later run would look for it. */
static int finish_base(struct commit *c, struct img_error *err)
{
    int ret = img_flush(&c->base, err);
    return ret < 0 ? ret : layer_settle(c->base.layers[0], err);
}

static int empty_image(struct commit *c, struct img_error *err)
{
    struct layer *l = c->img->layers[0];
    bool keep = (c->options->flags & IMG_COMMIT_KEEP) || c->options->base;
    if (keep || !l->driver->make_empty)
        return 0;
    int ret = l->driver->make_empty(l, err);
    if (ret < 0)
        return img_prefix(err, ret,
                          "All is in the base, but '%s' could not be emptied: ", l->filename);
    c->result.emptied = true;
    return 0;
}

static int commit(struct commit *c, const char *filename, struct img_error *err)
{
    int ret = open_chain(c, filename, err);
    if (!ret)
        ret = commit_find_base(c, err);
    if (!ret)
        ret = commit_check_needed(c, err);
    if (!ret)
        ret = take_base(c, err);
    if (!ret)
        ret = grow_base(c, err);
    if (!ret)
        ret = commit_copy(c, err);
    if (!ret)
        ret = finish_base(c, err);
    return ret < 0 ? ret : empty_image(c, err);
}

int img_commit(const char *filename, const struct img_commit_options *options,
               struct img_commit_result *result, struct img_error *err)
{
    const struct img_commit_options none = {0};
    struct commit c = {.options = options ? options : &none};
    int ret = commit(&c, filename, err);
    img_close(c.img);
    if (result)
        *result = c.result;
    return ret;
}
