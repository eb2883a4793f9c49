/* Internal snapshots: taken, gone back to, deleted. */
#include "lib/image.h"

/* The format tells how far it is by way of the file. */
static int begin(struct img *img, struct img_error *err)
{
    struct layer *l = img->layers[0];
    int ret = layer_settle(l, err);
    if (!ret)
        l->file->progress = &img->progress;
    return ret;
}

static int end(struct img *img, int ret)
{
    img->layers[0]->file->progress = NULL;
    return ret;
}

int img_snapshot_create(struct img *img, const char *name, struct img_error *err)
{
    struct layer *l = img->layers[0];
    int ret = begin(img, err);
    if (!ret)
        ret = l->driver->snapshot_create
                  ? l->driver->snapshot_create(l, name, err)
                  : img_fail_detail(err, ENOTSUP, "Operation not supported",
                                    "format '%s' has no internal snapshots", l->driver->name);
    ret = end(img, ret);
    return ret < 0 ? img_prefix(err, ret, "Could not create snapshot '%s': ", name) : 0;
}

int img_snapshot_apply(struct img *img, const char *id_or_name, struct img_error *err)
{
    struct layer *l = img->layers[0];
    int ret = begin(img, err);
    if (!ret)
        ret = l->driver->snapshot_apply
                  ? l->driver->snapshot_apply(l, id_or_name, err)
                  : img_fail(err, ENOTSUP, "Block driver does not support snapshots");
    ret = end(img, ret);
    return ret < 0 ? img_prefix(err, ret, "Could not apply snapshot '%s': ", id_or_name) : 0;
}

int img_snapshot_delete(struct img *img, const char *name, struct img_error *err)
{
    struct layer *l = img->layers[0];
    int ret = begin(img, err);
    if (!ret)
        ret = l->driver->snapshot_delete ? l->driver->snapshot_delete(l, name, err)
                                         : img_fail(err, ENOENT, "snapshot not found");
    ret = end(img, ret);
    return ret < 0 ? img_prefix(err, ret, "Could not delete snapshot '%s': ", name) : 0;
}
