/*
 * Creating images: what is the same for every format.
 *
 * First everything that can be known without touching the target: options, the backing file's size,
 * the format's plan. Then the files are written under no name, flushed, and named: the data file
 * first, since an image without its data file is worse than a data file too many.
 */
#include "lib/image.h"
#include "lib/policy.h"

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

struct creation {
    const char *filename; /* as given */
    const char *path;     /* on this host */
    const char *format;
    const struct img_create_options *given;
    const struct driver *driver;
    struct option_set options;
    struct create_plan plan;
    struct cancel cancel;
    struct progress_sink progress;
    struct file_identity *chain; /* the files that the new image will read; not to be replaced */
    size_t chain_count;
    struct new_file *image, *data;
};

/* ---- names ---- */

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

/* ---- the backing file ---- */

/* Opens the chain below the new image, for its metadata only. */
static int open_backing(struct img *img, const char *full, const char *format,
                        struct img_error *err)
{
    struct img_open_options options = {.format = format,
                                       .flags = IMG_OPEN_NO_DATA | IMG_OPEN_FORCE_SHARE |
                                                IMG_OPEN_PROBE_LIKE_QEMU};
    struct image_ref ref;
    img->flags = options.flags;
    img->layers = calloc(1, sizeof *img->layers);
    if (!img->layers)
        return img_fail_nomem(err);
    int ret = layer_open_top(&img->layers[0], &ref, full, &options, err);
    if (ret < 0)
        return ret;
    img->depth = 1;
    ret = chain_open(img, &options, &ref, err);
    ref_clear(&ref);
    return ret;
}

static int remember_chain(struct creation *c, const struct img *img, struct img_error *err)
{
    c->chain = calloc(img->depth, sizeof *c->chain);
    if (!c->chain)
        return img_fail_nomem(err);
    for (unsigned i = 0; i < img->depth; i++)
        c->chain[c->chain_count++] = img->layers[i]->file->id;
    return 0;
}

/* What BACKING is, and how large. */
static int learn_backing(struct creation *c, const char *backing, uint64_t *size,
                         struct img_error *err)
{
    const char *format = options_text(&c->options, "backing_fmt");
    struct img *img = calloc(1, sizeof *img);
    char *full = NULL;
    int ret = img ? policy_backing_name(&full, c->path, backing, err) : img_fail_nomem(err);
    if (!ret) {
        ret = open_backing(img, full, format, err);
        if (ret < 0)
            img_hint(err, "Could not open backing image.");
    }
    if (!ret && !format) {
        ret = img_fail(err, EINVAL, "Backing file specified without backing format");
        img_hint(err, "Detected format of %s.", img->layers[0]->driver->name);
    }
    if (!ret)
        ret = remember_chain(c, img, err);
    if (!ret)
        *size = img->layers[0]->size;
    img_close(img);
    free(full);
    return ret;
}

/* With IMG_CREATE_UNSAFE_BACKING, nobody looks. */
static int trust_backing(const char *format, struct img_error *err)
{
    if (!format)
        return img_fail(err, EINVAL, "Backing file specified without backing format");
    return 0;
}

static int settle_backing(struct creation *c, struct img_error *err)
{
    const char *backing = options_text(&c->options, "backing_file");
    bool unsafe = c->given->flags & IMG_CREATE_UNSAFE_BACKING;
    uint64_t size;
    if (!backing)
        return 0;
    if (!strcmp(backing, c->filename))
        return img_fail(err, EINVAL,
                        "Error: Trying to create an image with the same filename as "
                        "the backing file");
    if (!*backing)
        return img_fail(err, EINVAL, "Expected backing file name, got empty string");
    int ret = unsafe ? trust_backing(options_text(&c->options, "backing_fmt"), err)
                     : learn_backing(c, backing, &size, err);
    if (!ret && !unsafe && !options_given(&c->options, "size"))
        ret = options_put_number(&c->options, "size", size, err);
    return ret;
}

/* ---- options ---- */

static int put_backing(struct creation *c, struct img_error *err)
{
    const struct img_create_options *g = c->given;
    if (g->backing_file && !options_know(&c->options, "backing_file"))
        return img_fail(err, EINVAL, "Backing file not supported for file format '%s'", c->format);
    if (g->backing_format && !options_know(&c->options, "backing_fmt"))
        return img_fail(err, EINVAL, "Backing file format not supported for file format '%s'",
                        c->format);
    int ret = 0;
    if (g->backing_file)
        ret = options_put(&c->options, "backing_file", g->backing_file, err);
    if (!ret && g->backing_format)
        ret = options_put(&c->options, "backing_fmt", g->backing_format, err);
    return ret;
}

static int read_options(struct creation *c, struct img_error *err)
{
    const struct img_create_options *g = c->given;
    int ret = driver_find(&c->driver, c->format, err);
    if (!ret)
        ret = check_driver(c->driver, c->format, err);
    if (!ret)
        ret = find_path(&c->path, c->filename, err);
    if (ret < 0)
        return ret;
    options_init(&c->options, c->driver->create_options, host_options);
    if (g->options)
        ret = options_parse(&c->options, g->options, err);
    if (!ret && g->size != IMG_SIZE_UNKNOWN)
        ret = options_given(&c->options, "size")
                  ? img_fail(err, EINVAL, "The image size must be specified only once")
                  : options_put_number(&c->options, "size", g->size, err);
    if (!ret)
        ret = put_backing(c, err);
    if (!ret)
        ret = settle_backing(c, err);
    if (!ret && !options_given(&c->options, "size"))
        ret = img_fail(err, EINVAL, "Image creation needs a size parameter");
    return ret;
}

static int announce(const struct creation *c, struct img_error *err)
{
    if (!c->given->announce)
        return 0;
    char *summary = options_summary(&c->options);
    if (!summary)
        return img_fail_nomem(err);
    c->given->announce(c->given->opaque, summary);
    free(summary);
    return 0;
}

/* The checks whose failure comes after the announcement, as qemu-img has it. */
static int plan(struct creation *c, struct img_error *err)
{
    const char *backing_format = options_text(&c->options, "backing_fmt");
    if (backing_format && !driver_named_by_qemu(backing_format))
        return img_fail(err, EINVAL, "Parameter 'backing-fmt' does not accept value '%s'",
                        backing_format);
    if (options_number(&c->options, "extent_size_hint", 0) > UINT32_MAX)
        return img_fail(err, EINVAL, "Extent size hint is too large");
    return c->driver->plan(&c->plan, &c->options, err);
}

/* ---- the files ---- */

/* What the new image will read must not be what it replaces. */
static int check_not_in_chain(const struct creation *c, const struct new_file *n,
                              struct img_error *err)
{
    const struct file *f = n->in_place ? n->file : n->old;
    for (size_t i = 0; f && i < c->chain_count; i++)
        if (c->chain[i].device == f->id.device && c->chain[i].inode == f->id.inode)
            return img_fail(err, EINVAL,
                            "Error: Trying to create an image with the same filename as "
                            "the backing file");
    return 0;
}

static int open_new(struct creation *c, struct new_file **out, const char *path,
                    struct img_error *err)
{
    struct new_file_options options = {
        .nocow = options_on(&c->options, "nocow"),
        .extent_size_hint = options_number(&c->options, "extent_size_hint", DEFAULT_EXTENT_SIZE),
        .cancel = c->given->cancelled ? &c->cancel : NULL,
        .progress = &c->progress,
    };
    int ret = new_file_open(out, path, &options, err);
    return ret < 0 ? ret : check_not_in_chain(c, *out, err);
}

/* Both files lie on the same file system more often than not; each is asked for what it needs
 * alone. */
static int write_data_file(struct creation *c, struct img_error *err)
{
    const struct create_plan *p = &c->plan;
    enum preallocation mode = p->data_preallocation;
    bool reserve = mode == PREALLOC_FALLOC || mode == PREALLOC_FULL;
    if (new_file_is(c->image, p->data_file))
        return img_fail(err, EINVAL, "Data file '%s' is the image itself", p->data_file);
    int ret = open_new(c, &c->data, p->data_file, err);
    if (!ret)
        ret = file_truncate(c->data->file, p->data_size, err);
    if (!ret && reserve)
        ret = file_check_space(c->data->file, p->data_size, err);
    return ret < 0 ? ret : file_extend(c->data->file, 0, p->data_size, mode, err);
}

static int write_files(struct creation *c, struct img_error *err)
{
    int ret = open_new(c, &c->image, c->path, err);
    if (!ret)
        ret = file_truncate(c->image->file, c->plan.file_length, err);
    if (!ret)
        ret = file_check_space(c->image->file, c->plan.file_bytes, err);
    if (!ret && c->plan.data_file)
        ret = write_data_file(c, err);
    if (!ret)
        ret = c->driver->create(&c->plan, c->image->file, err);
    if (!ret && c->data)
        ret = new_file_finish(c->data, err);
    return ret < 0 ? ret : new_file_finish(c->image, err);
}

static int publish(struct creation *c, struct img_error *err)
{
    int ret = c->data ? new_file_publish(c->data, err) : 0;
    if (!ret)
        ret = new_file_publish(c->image, err);
    if (ret < 0 && c->data && !c->image->published)
        new_file_withdraw(c->data);
    return ret;
}

/* The words for a size that is too large are better than a driver's or the host's. */
static int explain_size(const struct creation *c, struct img_error *err)
{
    const char *hint = options_know(&c->options, "cluster_size")
                           ? " (try using a larger cluster size)"
                           : "";
    return img_fail(err, EFBIG, "The image size is too large for file format '%s'%s", c->format,
                    hint);
}

/* What was written or reserved beforehand, in one of the files. */
static uint64_t preallocated(const struct creation *c)
{
    return c->plan.data_file ? c->plan.data_size : c->plan.file_length;
}

int img_create(const char *filename, const struct img_create_options *given, struct img_error *err)
{
    struct creation c = {
        .filename = filename,
        .format = given->format ? given->format : "raw",
        .given = given,
        .cancel = {given->cancelled, given->opaque},
        .progress = {given->progress, given->opaque},
    };
    int ret = read_options(&c, err);
    if (!ret)
        ret = announce(&c, err);
    if (!ret)
        ret = plan(&c, err);
    if (!ret)
        ret = write_files(&c, err);
    if (!ret)
        ret = publish(&c, err);
    if (!ret)
        progress_report(&c.progress, "create", preallocated(&c), preallocated(&c));
    if (ret == -EFBIG)
        ret = explain_size(&c, err);
    new_file_close(c.data);
    new_file_close(c.image);
    free(c.plan.layout);
    free(c.chain);
    options_clear(&c.options);
    return ret < 0 ? img_prefix(err, ret, "%s: ", filename) : 0;
}

int img_create_help(char **text, const char *format, const char *filename, struct img_error *err)
{
    const struct driver *driver;
    struct option_set options;
    const char *path;
    format = format ? format : "raw";
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
