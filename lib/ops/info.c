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

int layer_describe(struct img_info **out, struct layer *l, struct img_error *err)
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
    return layer_describe(info, img->layers[depth], err);
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

static int add_layer(void *opaque, struct layer *l, struct img_error *err)
{
    struct img_chain_info *chain = opaque;
    struct img_info **layers = realloc(chain->layers, (chain->count + 1) * sizeof *layers);
    if (!layers)
        return img_fail_nomem(err);
    chain->layers = layers;
    int ret = layer_describe(&layers[chain->count], l, err);
    if (!ret)
        chain->count++;
    return ret;
}

int img_chain_info(struct img_chain_info *chain, const char *filename,
                   const struct img_open_options *options, struct img_error *err)
{
    *chain = (struct img_chain_info){0};
    return each_layer(filename, options, WALK_NAMED, add_layer, chain, err);
}
