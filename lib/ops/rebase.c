/*
 * Another backing file for an image: what both bases have is compared and what differs copied
 * (rebase_copy.c), and then the header changes in one step, before which the driver flushes. Until
 * then the image is over the old base, with more of its own than before, and reads the same.
 */
#include "lib/ops/rebase.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------- */

static bool unsafe(const struct rebase *r)
{
    return r->options->flags & IMG_REBASE_UNSAFE;
}

/* Does the old chain have to be opened? */
static bool needs_old(const struct rebase *r)
{
    return !unsafe(r) || (r->options->flags & IMG_REBASE_COMPARE);
}

static int open_image(struct rebase *r, const char *filename, struct img_error *err)
{
    struct img_open_options open = r->open;
    open.flags &= ~(unsigned)(IMG_OPEN_FORCE_SHARE | IMG_OPEN_WRITE);
    open.cancelled = NULL; /* it would be asked with another pointer */
    if (!(r->options->flags & IMG_REBASE_DRY_RUN))
        open.flags |= IMG_OPEN_WRITE;
    if (!needs_old(r))
        open.flags |= IMG_OPEN_NO_BACKING;
    int ret = img_open(&r->img, filename, &open, err);
    if (ret < 0)
        return ret;
    struct img *img = r->img;
    r->size = img_size(img);
    if (r->options->cancelled)
        img_set_cancel(img, r->options->cancelled, r->options->opaque);
    r->has_old = img->depth > 1;
    r->old_base = (struct img){.layers = img->layers + 1, .depth = img->depth - 1};
    return 0;
}

/* The full name of the new base; NULL: there is none. */
static int new_full_name(const struct rebase *r, char **full, struct img_error *err)
{
    *full = NULL;
    if (!r->new_name)
        return 0;
    int ret = policy_backing_name(full, r->img->layers[0]->filename, r->new_name, err);
    return ret < 0 ? img_prefix(err, ret, "Could not resolve backing filename: ") : 0;
}

static int is_the_image(void *opaque, struct layer *l, struct img_error *err)
{
    const struct rebase *r = opaque;
    const struct file_identity *own = &r->img->layers[0]->file->id, *other = &l->file->id;
    if (own->device == other->device && own->inode == other->inode)
        return img_fail(err, ELOOP, "Backing file '%s' creates an infinite loop.", r->new_name);
    return 0;
}

static struct img_open_options new_base_options(const struct rebase *r, unsigned flags)
{
    unsigned kept = r->open.flags & (IMG_OPEN_FORCE_SHARE | IMG_OPEN_PROBE_LIKE_QEMU);
    return (struct img_open_options){.format = r->options->backing_format, .flags = kept | flags};
}

/* The chain FULL is locked; is that the image itself, which it leads back to? Then says so, where
 * QEMU does not. */
static int explain_lock(struct rebase *r, const char *full, struct img_error *err)
{
    struct img_error e = IMG_ERROR_INIT;
    struct img_open_options open = new_base_options(r, IMG_OPEN_FORCE_SHARE);
    int ret = -EAGAIN;
    if (!(open.flags & IMG_OPEN_PROBE_LIKE_QEMU) &&
        each_layer(full, &open, WALK_USED, is_the_image, r, &e) == -ELOOP)
        ret = img_fail(err, ELOOP, "%s", img_error_message(&e));
    img_error_clear(&e);
    return ret;
}

static int open_new(struct rebase *r, const char *full, struct img_error *err)
{
    struct img_open_options open = new_base_options(r, 0);
    open.warn = r->open.warn;
    open.opaque = r->open.opaque;
    int ret = img_open_plainly(&r->new_base, full, &open, err);
    if (ret == -EAGAIN)
        return explain_lock(r, full, err);
    for (unsigned i = 0; !ret && i < r->new_base->depth; i++)
        ret = is_the_image(r, r->new_base->layers[i], err);
    return ret;
}

int rebase_open_new(struct rebase *r, struct img_error *err)
{
    char *full;
    int ret = new_full_name(r, &full, err);
    if (ret < 0 || !full)
        return ret;
    ret = open_new(r, full, err);
    free(full);
    return ret < 0 ? img_prefix(err, ret, "Could not open new backing file '%s': ", r->new_name)
                   : 0;
}

/* ---- what can be known before anything is read --------------------------------------------- */

static int cannot_change(const struct rebase *r, int ret, struct img_error *err)
{
    const char *name = r->options->backing_file ? r->options->backing_file : "";
    return img_prefix(err, ret, "Could not change the backing file to '%s': ", name);
}

static int set_backing(const struct rebase *r, bool only_check, struct img_error *err)
{
    struct layer *l = r->img->layers[0];
    const char *format = r->new_name ? r->options->backing_format : NULL;
    int ret;
    if (r->new_name && !format)
        ret = img_fail(err, EINVAL, "backing format must be specified");
    else if (!l->driver->set_backing)
        ret = img_fail(err, ENOTSUP, "Operation not supported");
    else
        ret = l->driver->set_backing(l, r->new_name, format, only_check, err);
    if (ret == -ENOSPC && only_check)
        ret = img_fail(err, ENOSPC, "No space left in the file header");
    return ret < 0 ? cannot_change(r, ret, err) : 0;
}

static int check_options(const struct rebase *r, struct img_error *err)
{
    const struct img_rebase_options *o = r->options;
    const struct driver *d = r->img->layers[0]->driver;
    if ((o->flags & IMG_REBASE_COMPRESS) && !(d->writing && d->writing->place_compressed))
        return img_fail(err, ENOTSUP, "Compression not supported for this file format");
    if (o->backing_format && !driver_named_by_qemu(o->backing_format))
        return img_fail(err, EINVAL, "Invalid format name: '%s'", o->backing_format);
    return 0;
}

static int check_bases(struct rebase *r, struct img_error *err)
{
    const unsigned flags = r->options->flags;
    bool forced = unsafe(r) && (flags & IMG_REBASE_FORCE) && !(flags & IMG_REBASE_COMPARE);
    if (forced)
        return set_backing(r, true, err);
    int ret = unsafe(r) ? set_backing(r, true, err) : 0;
    if (!ret)
        ret = rebase_open_new(r, err);
    if (ret < 0 && unsafe(r) && !(flags & IMG_REBASE_COMPARE))
        img_hint(err, "Use --force to name it all the same.");
    if (!ret && unsafe(r) && !(flags & IMG_REBASE_FORCE))
        ret = rebase_check_base(r, err);
    return ret < 0 || unsafe(r) ? ret : set_backing(r, true, err);
}

/* Whoever names a backing file unseen says that it is the same. */
static int check_snapshots(const struct rebase *r, struct img_error *err)
{
    bool compares = !unsafe(r) || (r->options->flags & IMG_REBASE_COMPARE);
    if (!compares || (r->options->flags & IMG_REBASE_FORCE))
        return 0;
    return rebase_check_snapshots(r, err);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int go_over_disk(struct rebase *r, struct img_error *err)
{
    const unsigned flags = r->options->flags;
    if (unsafe(r))
        return flags & IMG_REBASE_COMPARE ? rebase_differences(r, REBASE_COMPARE, err) : 0;
    if (flags & IMG_REBASE_DRY_RUN)
        return rebase_differences(r, REBASE_SURVEY, err);
    return rebase_differences(r, REBASE_COPY, err);
}

static int rebase(struct rebase *r, const char *filename, struct img_error *err)
{
    int ret = open_image(r, filename, err);
    if (!ret)
        ret = check_options(r, err);
    if (!ret)
        ret = check_bases(r, err);
    if (!ret)
        ret = check_snapshots(r, err);
    if (!ret)
        ret = go_over_disk(r, err);
    if (!ret && !(r->options->flags & IMG_REBASE_DRY_RUN))
        ret = set_backing(r, false, err);
    if (!ret)
        rebase_progress(r, img_size(r->img));
    return ret;
}

int img_rebase(const char *filename, const struct img_rebase_options *options,
               struct img_rebase_result *result, struct img_error *err)
{
    struct rebase r = {.options = options, .phase = "compare"};
    if (options->open)
        r.open = *options->open;
    if (options->backing_file && *options->backing_file)
        r.new_name = options->backing_file;
    int ret = rebase(&r, filename, err);
    img_close(r.new_base);
    img_close(r.img);
    if (result)
        *result = r.result;
    return ret;
}
