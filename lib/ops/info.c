/* Describing one layer, and a chain layer by layer. */
#include "lib/checked.h"
#include "lib/image.h"
#include "lib/policy.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

static void describe_file(struct img_info *info, struct file *f, uint64_t size)
{
    int64_t allocated = f->ops->allocated(f);
    info->has_actual_size = allocated >= 0;
    info->actual_size = allocated >= 0 ? (uint64_t)allocated : 0;
    info->file_protocol = f->ops->protocol;
    info->file_length = align_up(size, 512);
    struct fsxattr attr;
    if (f->fd >= 0 && ioctl(f->fd, FS_IOC_FSGETXATTR, &attr) == 0 && attr.fsx_extsize) {
        info->has_extent_size_hint = true;
        info->extent_size_hint = attr.fsx_extsize;
    }
}

static char *copy_of(const char *s, bool *failed)
{
    char *copy = s ? strdup(s) : NULL;
    *failed |= s && !copy;
    return copy;
}

static int fill(struct img_info *info, struct layer *l, struct img_error *err)
{
    uint64_t size;
    bool failed = false;
    int ret = file_size(l->file, &size, err);
    if (ret < 0)
        return ret;
    describe_file(info, l->file, size);
    info->filename = copy_of(l->filename, &failed);
    info->file_name = copy_of(l->file->name, &failed);
    info->format = l->driver->name;
    info->virtual_size = l->size;
    info->cluster_size = l->cluster_size;
    info->encrypted = l->encrypted;
    info->backing_filename = copy_of(l->backing_name, &failed);
    info->backing_format = copy_of(l->backing_format, &failed);
    if (l->backing_name) /* that it cannot be put together is no error: it is left out */
        failed |= policy_backing_name(&info->full_backing_filename, l->filename, l->backing_name,
                                      NULL) == -ENOMEM;
    if (failed)
        return img_fail_nomem(err);
    return l->driver->describe ? l->driver->describe(l, info, err) : 0;
}

static int describe_layer(struct img_info **out, struct layer *l, struct img_error *err)
{
    struct img_info *info = calloc(1, sizeof *info);
    if (!info)
        return img_fail_nomem(err);
    int ret = fill(info, l, err);
    if (ret < 0)
        img_info_free(info);
    else
        *out = info;
    return ret;
}

int img_describe(struct img *img, unsigned depth, struct img_info **info, struct img_error *err)
{
    if (depth >= img->depth)
        return img_fail(err, EINVAL, "No layer %u in a chain of %u", depth, img->depth);
    return describe_layer(info, img->layers[depth], err);
}

void img_info_free(struct img_info *info)
{
    if (!info)
        return;
    for (size_t i = 0; i < info->snapshot_count; i++) {
        free(info->snapshots[i].id);
        free(info->snapshots[i].name);
    }
    for (size_t i = 0; i < info->qcow2.bitmap_count; i++)
        free(info->qcow2.bitmaps[i].name);
    free(info->snapshots);
    free(info->qcow2.bitmaps);
    free(info->qcow2.data_file);
    free(info->filename);
    free(info->backing_filename);
    free(info->full_backing_filename);
    free(info->backing_format);
    free(info->file_name);
    free(info);
}

void img_chain_info_free(struct img_chain_info *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        img_info_free(chain->layers[i]);
    free(chain->layers);
    *chain = (struct img_chain_info){0};
}

static int add_layer(struct img_chain_info *chain, struct layer *l, struct img_error *err)
{
    struct img_info **layers = realloc(chain->layers, (chain->count + 1) * sizeof *layers);
    if (!layers)
        return img_fail_nomem(err);
    chain->layers = layers;
    int ret = describe_layer(&layers[chain->count], l, err);
    if (!ret)
        chain->count++;
    return ret;
}

/* Opens what lies below *L and puts it in its place. */
static int descend(struct layer **l, struct chain_trail *trail,
                   const struct img_open_options *options, struct img_error *err)
{
    struct layer *above = *l, *below = NULL;
    struct image_ref ref = {0};
    char *full = NULL;
    bool probed;
    int ret = chain_backing_ref(&ref, &full, above, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", above->backing_name);
    ret = layer_open(&below, &ref, options, true, &probed, err);
    if (ret < 0)
        img_prefix(err, ret, "Could not open '%s': ", full);
    else
        ret = chain_trail_add(trail, below, full, err);
    if (ret < 0) {
        chain_explain(err, above, full);
        layer_close(below);
    } else {
        if (probed)
            chain_warn_probed(options, above, full, below->driver->name);
        layer_close(above);
        *l = below;
    }
    ref_clear(&ref);
    free(full);
    return ret;
}

int img_chain_info(struct img_chain_info *chain, const char *filename,
                   const struct img_open_options *given, struct img_error *err)
{
    struct img_open_options options = given ? *given : (struct img_open_options){0};
    struct chain_trail trail = {0};
    struct image_ref ref;
    struct layer *l = NULL;
    options.flags |= IMG_OPEN_NO_DATA;
    *chain = (struct img_chain_info){0};
    int ret = layer_open_top(&l, &ref, filename, &options, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", filename);
    ref_clear(&ref);
    ret = chain_trail_add(&trail, l, filename, err);
    if (!ret)
        ret = add_layer(chain, l, err);
    while (!ret && l->backing_name) {
        ret = descend(&l, &trail, &options, err);
        if (!ret)
            ret = add_layer(chain, l, err);
    }
    free(trail.seen);
    layer_close(l);
    return ret;
}
