/* The persistent bitmaps of the source, once its disk is copied. */
#include "lib/ops/convert.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static bool wanted(const struct conversion *c)
{
    return c->given->flags & IMG_CONVERT_BITMAPS;
}

static bool skip_broken(const struct conversion *c)
{
    return c->given->flags & IMG_CONVERT_SKIP_BROKEN_BITMAPS;
}

int conversion_check_bitmaps(const struct conversion *c, struct img_error *err)
{
    struct img_info *info;
    if (!wanted(c))
        return 0;
    if (c->image_count > 1)
        return img_fail(err, EINVAL, "Copying bitmaps only possible with single source");
    int ret = img_describe(c->images[0], 0, &info, err);
    if (ret < 0)
        return ret;
    if (!info->is_qcow2 || info->qcow2.version < 3)
        ret = img_fail(err, ENOTSUP, "Source lacks bitmap support");
    for (size_t i = info->qcow2.bitmap_count; !ret && i-- > 0;) { /* QEMU names the last first */
        const struct img_bitmap_info *b = &info->qcow2.bitmaps[i];
        if (!(b->flags & IMG_BITMAP_IN_USE) || skip_broken(c))
            continue;
        ret = img_fail(err, EINVAL, "Cannot copy inconsistent bitmap '%s'", b->name);
        img_hint(err, "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it");
    }
    img_info_free(info);
    if (!ret && c->target.driver && !c->target.driver->change_bitmap)
        ret = img_fail(err, ENOTSUP, "Format driver '%s' does not support bitmaps", c->format);
    return ret;
}

static int copy_bitmap(const struct conversion *c, struct img *to, const struct img_bitmap_info *b,
                       struct img_error *err)
{
    struct img_bitmap_action actions[] = {
        {.kind = IMG_BITMAP_ADD, .granularity = b->granularity},
        {.kind = b->flags & IMG_BITMAP_AUTO ? IMG_BITMAP_ENABLE : IMG_BITMAP_DISABLE},
        {.kind = IMG_BITMAP_MERGE, .source_name = b->name, .source = c->images[0]},
    };
    size_t failed;
    int ret = img_bitmap_change(to, b->name, actions, sizeof actions / sizeof *actions, &failed,
                                err);
    return ret < 0
               ? img_prefix(err, ret,
                            "Failed to %s bitmap %s: ", failed < 2 ? "create" : "populate", b->name)
               : 0;
}

static void warn_skipped(const struct conversion *c, const char *name)
{
    char *text;
    if (!c->given->warn || asprintf(&text, "Skipping inconsistent bitmap '%s'", name) < 0)
        return;
    c->given->warn(c->given->opaque, text);
    free(text);
}

int conversion_copy_bitmaps(const struct conversion *c, struct img *to, struct img_error *err)
{
    struct img_info *info;
    if (!wanted(c))
        return 0;
    if (!to->layers[0]->driver->change_bitmap)
        return img_fail(err, ENOTSUP, "Format driver '%s' does not support bitmaps",
                        to->layers[0]->driver->name);
    int ret = img_describe(c->images[0], 0, &info, err);
    if (ret < 0)
        return ret;
    const struct img_bitmap_info *bitmaps = info->qcow2.bitmaps;
    size_t count = info->qcow2.bitmap_count;
    for (size_t i = count; i-- > 0;)
        if (bitmaps[i].flags & IMG_BITMAP_IN_USE)
            warn_skipped(c, bitmaps[i].name);
    for (size_t i = 0; !ret && i < count; i++)
        if (!(bitmaps[i].flags & IMG_BITMAP_IN_USE))
            ret = copy_bitmap(c, to, &bitmaps[i], err);
    img_info_free(info);
    return ret;
}

int conversion_reopen(const struct conversion *c, unsigned flags, struct img **out,
                      struct img_error *err)
{
    const struct new_image *n = &c->target;
    struct file *f = NULL, *data = NULL;
    int ret = file_duplicate(&f, n->image->file, err);
    if (!ret && n->data)
        ret = file_duplicate(&data, n->data->file, err);
    if (ret < 0) {
        file_close(f);
        return ret;
    }
    return img_open_file(out, f, data, c->format, flags, err);
}

int conversion_copy_bitmaps_to_new(const struct conversion *c, struct img_error *err)
{
    struct img *to;
    if (!wanted(c))
        return 0;
    int ret = conversion_reopen(c, IMG_OPEN_WRITE, &to, err);
    if (ret < 0)
        return ret;
    ret = conversion_copy_bitmaps(c, to, err);
    img_close(to);
    return ret;
}
