/* Life time of handles, and what can be asked of them without I/O. */
#include "lib/image.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef IMGTOOL_VERSION
#define IMGTOOL_VERSION "unknown"
#endif

/* Mapping metadata kept for a whole chain, and at least for each layer. */
enum { CACHE_TOTAL = 32 << 20, CACHE_LAYER_MIN = 1 << 20 };

const char *img_version(void)
{
    return IMGTOOL_VERSION;
}

static int choose_driver(struct layer *l, const char *format, unsigned flags, bool is_backing,
                         bool *probed, struct img_error *err)
{
    *probed = !format;
    if (format) {
        l->driver = driver_by_name(format);
        return l->driver ? 0 : img_fail(err, EINVAL, "Unknown driver '%s'", format);
    }
    bool guessed, far = !(flags & IMG_OPEN_PROBE_LIKE_QEMU);
    int ret = driver_probe(&l->driver, l->file, far, &guessed, err);
    if (!ret && is_backing)
        ret = policy_probed_backing(l->driver, l->file, guessed, err);
    return ret;
}

static int open_data_file(struct layer *l, struct img_error *err)
{
    char *path;
    int ret = policy_data_file_path(&path, l->filename, l->data_file_name, err);
    if (ret < 0)
        return ret;
    ret = file_open_posix(&l->data_file, path, err);
    if (ret < 0) {
        char *absolute = policy_absolute(path);
        img_context(err, "the data file '%s' named by '%s', looked for at '%s'", l->data_file_name,
                    l->filename, absolute ? absolute : path);
        free(absolute);
    }
    free(path);
    return ret;
}

int layer_open(struct layer **out, const struct image_ref *ref, unsigned flags, bool is_backing,
               bool *probed, struct img_error *err)
{
    struct layer *l = calloc(1, sizeof *l);
    char *name = ref_display_name(ref);
    if (!l || !name) {
        free(l);
        free(name);
        return img_fail_nomem(err);
    }
    l->filename = name;
    l->raw_offset = ref->raw_offset;
    l->raw_size = ref->raw_size;
    l->cache_bytes = CACHE_TOTAL;
    int ret = file_open_posix(&l->file, ref->path, err);
    if (!ret)
        ret = choose_driver(l, ref->format, flags, is_backing, probed, err);
    if (!ret) {
        ret = l->driver->open(l, flags, err);
        if (ret < 0)
            l->driver = NULL; /* its close must not run */
    }
    if (!ret && l->data_file_name && !(flags & IMG_OPEN_NO_DATA))
        ret = open_data_file(l, err);
    if (ret < 0) {
        layer_close(l);
        return ret;
    }
    *out = l;
    return 0;
}

void layer_close(struct layer *l)
{
    if (!l)
        return;
    if (l->driver)
        l->driver->close(l);
    file_close(l->data_file);
    file_close(l->file);
    free(l->backing_name);
    free(l->backing_format);
    free(l->data_file_name);
    free(l->filename);
    free(l);
}

int layer_open_top(struct layer **out, struct image_ref *ref, const char *filename,
                   const struct img_open_options *options, struct img_error *err)
{
    bool opts = options->flags & IMG_OPEN_IMAGE_OPTS;
    int ret = opts ? ref_parse_opts(ref, filename, err) : ref_parse(ref, filename, err);
    if (!ret && options->format) {
        free(ref->format);
        bool host_driver = !strcmp(options->format, "file");
        ref->format = strdup(host_driver ? "raw" : options->format);
        if (!ref->format)
            ret = img_fail_nomem(err);
    }
    bool probed;
    if (!ret)
        ret = layer_open(out, ref, options->flags, false, &probed, err);
    if (ret < 0)
        ref_clear(ref);
    return ret;
}

static int select_snapshot(struct layer *l, const char *name, struct img_error *err)
{
    if (!l->driver->select_snapshot)
        return img_fail(err, ENOTSUP, "Format '%s' has no internal snapshots", l->driver->name);
    return l->driver->select_snapshot(l, name, err);
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
    if (options->snapshot)
        ret = select_snapshot(img->layers[0], options->snapshot, err);
    if (!ret && !(options->flags & (IMG_OPEN_NO_BACKING | IMG_OPEN_NO_DATA)))
        ret = chain_open(img, options, &ref, err);
    ref_clear(&ref);
    size_t share = CACHE_TOTAL / img->depth;
    for (unsigned i = 0; i < img->depth; i++)
        img->layers[i]->cache_bytes = share > CACHE_LAYER_MIN ? share : CACHE_LAYER_MIN;
    return ret;
}

int img_open(struct img **out, const char *filename, const struct img_open_options *options,
             struct img_error *err)
{
    static const struct img_open_options defaults;
    options = options ? options : &defaults;
    struct img *img = calloc(1, sizeof *img);
    if (!img)
        return img_fail_nomem(err);
    img->flags = options->flags;
    int ret = open_all(img, filename, options, err);
    if (ret < 0) {
        img_close(img);
        img_prefix(err, "Could not open '%s': ", filename);
        return ret;
    }
    *out = img;
    return 0;
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
