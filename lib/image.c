/* Life time of handles, and what can be asked of them without I/O. */
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef IMGTOOL_VERSION
#define IMGTOOL_VERSION "unknown"
#endif

/* A chain shares out the memory that a layer alone may take, but each layer gets this much. */
enum { LAYER_CACHE_MIN = 1 << 20 };

const char *img_version(void)
{
    return IMGTOOL_VERSION;
}

static bool wants_snapshot(const struct img_open_options *o)
{
    return o->snapshot || o->snapshot_id || o->snapshot_name;
}

static int select_snapshot(struct layer *l, const struct img_open_options *options,
                           struct img_error *err)
{
    if (!l->driver->select_snapshot)
        return img_fail(err, ENOTSUP, "Format '%s' has no internal snapshots", l->driver->name);
    l->other_view = true;
    return l->driver->select_snapshot(l, options, err);
}

void img_set_cancel(struct img *img, bool (*wanted)(void *opaque), void *opaque)
{
    struct layer *top = img->layers[0];
    img->cancel = (struct cancel){wanted, opaque};
    top->file->cancel = &img->cancel;
    if (top->data_file)
        top->data_file->cancel = &img->cancel;
}

static int open_all(struct img *img, const char *filename, const struct img_open_options *options,
                    struct img_error *err)
{
    struct image_ref ref;
    img->layers = calloc(1, sizeof *img->layers);
    if (!img->layers)
        return img_fail_nomem(err);
    int ret = layer_open_top(&img->layers[0], &ref, filename, options, err);
    if (ret < 0)
        return ret;
    img->depth = 1;
    img->progress = (struct progress_sink){options->progress, options->opaque};
    if ((options->flags & IMG_OPEN_WRITE) && options->cancelled)
        img_set_cancel(img, options->cancelled, options->opaque);
    if (!(options->flags & (IMG_OPEN_NO_BACKING | IMG_OPEN_NO_DATA)))
        ret = chain_open(img, options, &ref, err);
    ref_clear(&ref);
    size_t share = LAYER_CACHE_MAX / img->depth;
    for (unsigned i = 0; i < img->depth; i++)
        img->layers[i]->cache_bytes = share > LAYER_CACHE_MIN ? share : LAYER_CACHE_MIN;
    return ret;
}

int img_open_plainly(struct img **out, const char *filename, const struct img_open_options *options,
                     struct img_error *err)
{
    struct img_open_options effective = options ? *options : (struct img_open_options){0};
    struct img *img = calloc(1, sizeof *img);
    if (!img)
        return img_fail_nomem(err);
    if (effective.flags & IMG_OPEN_CHECK)
        effective.flags |= IMG_OPEN_NO_DATA;
    img->flags = effective.flags;
    bool writable = effective.flags & IMG_OPEN_WRITE;
    if (writable && (wants_snapshot(&effective) || (effective.flags & IMG_OPEN_FORCE_SHARE))) {
        free(img);
        return img_fail(err, EINVAL, "%s",
                        wants_snapshot(&effective)
                            ? "a snapshot cannot be opened for writing"
                            : "force-share=on can only be used with read-only images");
    }
    int ret = open_all(img, filename, &effective, err);
    if (ret < 0)
        img_close(img);
    else
        *out = img;
    return ret;
}

int img_open(struct img **out, const char *filename, const struct img_open_options *options,
             struct img_error *err)
{
    struct img *img;
    int ret = img_open_plainly(&img, filename, options, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", filename);
    if (options && wants_snapshot(options))
        ret = select_snapshot(img->layers[0], options, err);
    if (ret < 0)
        img_close(img);
    else
        *out = img;
    return ret;
}

/* Takes the files over, on failure too. */
static int open_file_layer(struct img *img, struct file *f, struct file *data_file,
                           const char *format, struct img_error *err)
{
    struct layer *l = NULL;
    int ret = layer_open_file(&l, f, format, img->flags, err);
    if (ret < 0 || !l) {
        file_close(data_file);
        return ret;
    }
    l->data_file = data_file;
    img->layers[img->depth++] = l;
    return 0;
}

int img_open_file(struct img **out, struct file *f, struct file *data_file, const char *format,
                  unsigned flags, struct img_error *err)
{
    struct img *img = calloc(1, sizeof *img);
    struct layer **layers = calloc(1, sizeof *layers);
    if (!img || !layers) {
        free(img);
        free(layers);
        file_close(f);
        file_close(data_file);
        return img_fail_nomem(err);
    }
    flags |= flags & IMG_OPEN_CHECK ? IMG_OPEN_NO_DATA : 0;
    *img = (struct img){.layers = layers, .flags = flags | IMG_OPEN_NO_BACKING};
    int ret = open_file_layer(img, f, data_file, format, err);
    if (ret < 0)
        img_close(img);
    else
        *out = img;
    return ret;
}

int img_open_memory(struct img **out, const void *data, size_t size, const char *format,
                    unsigned flags, struct img_error *err)
{
    struct file *f, *data_file;
    int ret = file_open_memory(&f, "memory", data, size, err);
    if (ret < 0)
        return ret;
    ret = file_open_memory(&data_file, "memory-data", data, size, err);
    if (ret < 0) {
        file_close(f);
        return ret;
    }
    return img_open_file(out, f, data_file, format, flags, err);
}

void img_close(struct img *img)
{
    if (!img)
        return;
    for (unsigned i = 0; i < img->depth; i++)
        layer_close(img->layers[i]);
    free(img->layers);
    free(img);
}

uint64_t img_size(const struct img *img)
{
    return img->layers[0]->size;
}

unsigned img_depth(const struct img *img)
{
    return img->depth;
}

const char *img_layer_filename(const struct img *img, unsigned depth)
{
    return depth < img->depth ? img->layers[depth]->filename : NULL;
}

const char *img_layer_format(const struct img *img, unsigned depth)
{
    return depth < img->depth ? img->layers[depth]->driver->name : NULL;
}
