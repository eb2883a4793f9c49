/* The files of a new image. */
#include "lib/ops/new_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct option_desc host_options[] = {
    {"size", OPTION_SIZE, "Virtual disk size", NULL},
    {"nocow", OPTION_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL},
    {"preallocation", OPTION_STRING, "Preallocation mode (allowed values: off, falloc, full)",
     NULL},
    {"extent_size_hint", OPTION_SIZE, "Extent size hint for the image file, 0 to disable", NULL},
    {NULL, OPTION_STRING, NULL, NULL},
};

enum { DEFAULT_EXTENT_SIZE = 1 << 20 };

/* ---- names and options ---- */

static int check_driver(const struct driver *d, const char *format, struct img_error *err)
{
    if (d && d->create)
        return 0;
    return img_fail(err, ENOTSUP, "Format driver '%s' does not support image creation", format);
}

/* The path that FILENAME means. */
static int find_path(const char **path, const char *filename, struct img_error *err)
{
    size_t colon = strcspn(filename, ":/");
    bool file = !strncmp(filename, "file:", 5);
    *path = file ? filename + 5 : filename;
    if (filename[colon] == ':' && !file)
        return img_fail(err, ENOTSUP, "Unknown protocol '%.*s'", (int)colon, filename);
    return 0;
}

int new_image_start(struct new_image *n, const char *filename, const char *format,
                    const struct option_desc *more, struct img_error *err)
{
    n->filename = filename;
    n->format = format;
    int ret = driver_find(&n->driver, format, err);
    if (!ret)
        ret = check_driver(n->driver, format, err);
    if (!ret)
        ret = find_path(&n->path, filename, err);
    if (ret < 0)
        return ret;
    options_init(&n->options, n->driver->create_options, host_options);
    options_add(&n->options, more);
    return 0;
}

int new_image_put_backing(struct new_image *n, const char *backing, const char *backing_format,
                          struct img_error *err)
{
    if (backing && !options_know(&n->options, "backing_file"))
        return img_fail(err, EINVAL, "Backing file not supported for file format '%s'", n->format);
    if (backing_format && !options_know(&n->options, "backing_fmt"))
        return img_fail(err, EINVAL, "Backing file format not supported for file format '%s'",
                        n->format);
    int ret = 0;
    if (backing)
        ret = options_put(&n->options, "backing_file", backing, err);
    if (!ret && backing_format)
        ret = options_put(&n->options, "backing_fmt", backing_format, err);
    return ret;
}

int new_image_keep_chain(struct new_image *n, struct layer *const *layers, unsigned depth,
                         struct img_error *err)
{
    struct file_identity *chain = realloc(n->chain, (n->chain_count + 2 * depth) * sizeof *chain);
    if (!chain)
        return img_fail_nomem(err);
    n->chain = chain;
    for (unsigned i = 0; i < depth; i++) {
        chain[n->chain_count++] = layers[i]->file->id;
        if (layers[i]->data_file)
            chain[n->chain_count++] = layers[i]->data_file->id;
    }
    return 0;
}

int new_image_plan(struct new_image *n, struct img_error *err)
{
    const char *backing_format = options_text(&n->options, "backing_fmt");
    if (backing_format && !driver_named_by_qemu(backing_format))
        return img_fail(err, EINVAL, "Parameter 'backing-fmt' does not accept value '%s'",
                        backing_format);
    if (options_number(&n->options, "extent_size_hint", 0) > UINT32_MAX)
        return img_fail(err, EINVAL, "Extent size hint is too large");
    return n->driver->plan(&n->plan, &n->options, err);
}

int new_image_explain_size(const struct new_image *n, struct img_error *err)
{
    const char *hint = options_know(&n->options, "cluster_size")
                           ? " (try using a larger cluster size)"
                           : "";
    return img_fail(err, EFBIG, "The image size is too large for file format '%s'%s", n->format,
                    hint);
}

int new_image_help(char **text, const char *format, const char *filename, struct img_error *err)
{
    const struct driver *driver;
    struct option_set options;
    const char *path;
    int ret = driver_find(&driver, format, err);
    if (!ret)
        ret = check_driver(driver, format, err);
    if (!ret && filename)
        ret = find_path(&path, filename, err);
    if (ret < 0)
        return ret;
    options_init(&options, driver->create_options, filename ? host_options : NULL);
    *text = options_help(&options);
    options_clear(&options);
    return *text ? 0 : img_fail_nomem(err);
}

/* ---- the files ---- */

int new_image_check_kept(const struct new_image *n, const struct file *f, struct img_error *err)
{
    for (size_t i = 0; i < n->chain_count; i++)
        if (n->chain[i].device == f->id.device && n->chain[i].inode == f->id.inode)
            return img_fail(err, EINVAL, "%s", n->in_chain);
    return 0;
}

static int open_one(struct new_image *n, struct new_file **out, const char *path,
                    struct img_error *err)
{
    struct new_file_options options = {
        .nocow = options_on(&n->options, "nocow"),
        .extent_size_hint = options_number(&n->options, "extent_size_hint", DEFAULT_EXTENT_SIZE),
        .partial = n->partial,
        .cancel = n->cancel.wanted ? &n->cancel : NULL,
        .progress = &n->progress,
    };
    int ret = new_file_open(out, path, &options, err);
    if (ret < 0)
        return ret;
    const struct file *replaced = (*out)->in_place ? (*out)->file : (*out)->old;
    return replaced ? new_image_check_kept(n, replaced, err) : 0;
}

/* An image on a device names its data file as soon as it is one: then that is the new one. */
static int publish_data(void *opaque, struct img_error *err)
{
    struct new_image *n = opaque;
    int ret = new_file_finish(n->data, err);
    return ret < 0 ? ret : new_file_publish(n->data, err);
}

int new_image_open_files(struct new_image *n, struct img_error *err)
{
    const char *data_file = n->plan.data_file;
    int ret = open_one(n, &n->image, n->path, err);
    if (ret < 0 || !data_file)
        return ret;
    if (new_file_is(n->image, data_file))
        return img_fail(err, EINVAL, "Data file '%s' is the image itself", data_file);
    ret = open_one(n, &n->data, data_file, err);
    if (!ret && n->image->in_place && !n->data->in_place) {
        n->plan.before_image = publish_data;
        n->plan.opaque = n;
    }
    return ret;
}

/* Both files lie on the same file system more often than not; each is asked for what it needs
 * alone. */
static int give_data_size(struct new_image *n, struct img_error *err)
{
    const struct create_plan *p = &n->plan;
    enum preallocation mode = p->data_preallocation;
    bool reserve = mode == PREALLOC_FALLOC || mode == PREALLOC_FULL;
    int ret = file_truncate(n->data->file, p->data_size, err);
    if (!ret && reserve)
        ret = file_check_space(n->data->file, p->data_size, err);
    return ret < 0 ? ret : file_extend(n->data->file, 0, p->data_size, mode, err);
}

int new_image_give_size(struct new_image *n, struct img_error *err)
{
    int ret = file_truncate(n->image->file, n->plan.file_length, err);
    if (!ret)
        ret = file_check_space(n->image->file, n->plan.file_bytes, err);
    return ret < 0 || !n->data ? ret : give_data_size(n, err);
}

int new_image_open(struct new_image *n, struct img_error *err)
{
    int ret = new_image_open_files(n, err);
    return ret < 0 ? ret : new_image_give_size(n, err);
}

/* What replaces a file is on disk before, always: else a crash could leave neither. */
static int finish_one(const struct new_image *n, struct new_file *file, struct img_error *err)
{
    file->unflushed = n->unflushed && !n->image->old && !file->old;
    return file->unflushed ? 0 : new_file_finish(file, err);
}

/* The data file first: an image without is worse than a data file too many. */
static int publish_in_turn(struct new_image *n, struct img_error *err)
{
    bool data = n->data && !n->data->published;
    int ret = data ? finish_one(n, n->data, err) : 0;
    if (!ret)
        ret = finish_one(n, n->image, err);
    if (!ret && data)
        ret = new_file_publish(n->data, err);
    if (!ret)
        ret = new_file_publish(n->image, err);
    if (ret < 0) { /* a folder that could not be flushed, too, is a failure */
        new_file_withdraw(n->image);
        if (n->data)
            new_file_withdraw(n->data);
    }
    return ret;
}

int new_image_publish(struct new_image *n, struct img_error *err)
{
    bool in_place = n->image->in_place || (n->data && n->data->in_place);
    bool replaces = n->image->old || (n->data && n->data->old);
    return n->data && replaces && !in_place ? new_pair_publish(n, err) : publish_in_turn(n, err);
}

void new_image_close(struct new_image *n)
{
    new_file_close(n->data);
    new_file_close(n->image);
    free(n->plan.layout);
    free(n->chain);
    options_clear(&n->options);
}
