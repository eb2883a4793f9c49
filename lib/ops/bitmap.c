/* Changing bitmaps: what is the same for every format. */
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>

enum { MIN_GRANULARITY = 512 };
#define MAX_GRANULARITY (1ull << 31)

int bitmap_check_new(const char *name, uint64_t granularity, struct img_error *err)
{
    if (!*name)
        return img_fail(err, EINVAL, "Bitmap name cannot be empty");
    bool power = (granularity & (granularity - 1)) == 0;
    if (granularity && (!power || granularity < MIN_GRANULARITY || granularity > MAX_GRANULARITY))
        return img_fail_detail(err, EINVAL, "Granularity must be power of 2 and at least 512",
                               "%llu bytes; at most 2 GiB", (unsigned long long)granularity);
    return 0;
}

int bitmap_not_found(const char *name, struct img_error *err)
{
    return img_fail(err, ENOENT, "Dirty bitmap '%s' not found", name);
}

/* A format without bitmaps refuses the first thing that is asked of it. */
static int refuse(const struct layer *l, const char *name, const struct bitmap_action *action,
                  struct img_error *err)
{
    if (action->kind != IMG_BITMAP_ADD)
        return bitmap_not_found(name, err);
    int ret = bitmap_check_new(name, action->granularity, err);
    return ret < 0 ? ret
                   : img_fail(err, ENOTSUP,
                              "Can't store persistent bitmaps to %s: Operation not supported",
                              l->filename);
}

int img_bitmap_change(struct img *img, const char *name, const struct img_bitmap_action *actions,
                      size_t count, size_t *failed, struct img_error *err)
{
    struct layer *l = img->layers[0];
    size_t unused;
    failed = failed ? failed : &unused;
    *failed = count;
    if (!(img->flags & IMG_OPEN_WRITE))
        return img_fail(err, EBADF, "The image '%s' was not opened for writing", l->filename);
    if (!count)
        return 0;
    struct bitmap_action *list = calloc(count, sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        struct img *source = actions[i].source;
        list[i] = (struct bitmap_action){.kind = actions[i].kind,
                                         .granularity = actions[i].granularity,
                                         .source_name = actions[i].source_name,
                                         .source = source ? source->layers[0] : NULL};
    }
    int ret;
    if (l->driver->change_bitmap) {
        *failed = 0;
        ret = layer_settle(l, err);
        if (!ret)
            ret = l->driver->change_bitmap(l, name, list, count, failed, err);
    } else {
        *failed = 0;
        ret = refuse(l, name, list, err);
    }
    free(list);
    return ret;
}

static int one(struct img *img, const char *name, struct img_bitmap_action action,
               struct img_error *err)
{
    return img_bitmap_change(img, name, &action, 1, NULL, err);
}

int img_bitmap_add(struct img *img, const char *name, uint64_t granularity, struct img_error *err)
{
    return one(img, name,
               (struct img_bitmap_action){.kind = IMG_BITMAP_ADD, .granularity = granularity}, err);
}

int img_bitmap_remove(struct img *img, const char *name, struct img_error *err)
{
    return one(img, name, (struct img_bitmap_action){.kind = IMG_BITMAP_REMOVE}, err);
}

int img_bitmap_clear(struct img *img, const char *name, struct img_error *err)
{
    return one(img, name, (struct img_bitmap_action){.kind = IMG_BITMAP_CLEAR}, err);
}

int img_bitmap_enable(struct img *img, const char *name, struct img_error *err)
{
    return one(img, name, (struct img_bitmap_action){.kind = IMG_BITMAP_ENABLE}, err);
}

int img_bitmap_disable(struct img *img, const char *name, struct img_error *err)
{
    return one(img, name, (struct img_bitmap_action){.kind = IMG_BITMAP_DISABLE}, err);
}

int img_bitmap_merge(struct img *img, const char *name, struct img *source, const char *source_name,
                     struct img_error *err)
{
    return one(img, name,
               (struct img_bitmap_action){
                   .kind = IMG_BITMAP_MERGE, .source_name = source_name, .source = source},
               err);
}
