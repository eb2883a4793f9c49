/*
 * Creating images: what is the same for every format.
 *
 * First everything that can be known without touching the target: options, the backing file's size,
 * the format's plan. Then the files are written under no name, flushed, and named.
 */
#include "lib/image.h"
#include "lib/ops/new_image.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char same_name[] = "Error: Trying to create an image with the same filename as the "
                                "backing file";

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

/* What BACKING is, and how large. */
static int learn_backing(struct new_image *n, const char *backing, uint64_t *size,
                         struct img_error *err)
{
    const char *format = options_text(&n->options, "backing_fmt");
    struct img *img = calloc(1, sizeof *img);
    char *full = NULL;
    int ret = img ? policy_backing_name(&full, n->path, backing, err) : img_fail_nomem(err);
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
        ret = new_image_keep_chain(n, img->layers, img->depth, err);
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

static int settle_backing(struct new_image *n, bool unsafe, struct img_error *err)
{
    const char *backing = options_text(&n->options, "backing_file");
    uint64_t size;
    if (!backing)
        return 0;
    if (!strcmp(backing, n->filename))
        return img_fail(err, EINVAL, "%s", same_name);
    if (!*backing)
        return img_fail(err, EINVAL, "Expected backing file name, got empty string");
    int ret = unsafe ? trust_backing(options_text(&n->options, "backing_fmt"), err)
                     : learn_backing(n, backing, &size, err);
    if (!ret && !unsafe && !options_given(&n->options, "size"))
        ret = options_put_number(&n->options, "size", size, err);
    return ret;
}

/* ---- options ---- */

static int read_options(struct new_image *n, const char *filename,
                        const struct img_create_options *g, struct img_error *err)
{
    int ret = new_image_start(n, filename, g->format ? g->format : "raw", NULL, err);
    if (!ret && g->options)
        ret = options_parse(&n->options, g->options, err);
    if (!ret && g->size != IMG_SIZE_UNKNOWN)
        ret = options_given(&n->options, "size")
                  ? img_fail(err, EINVAL, "The image size must be specified only once")
                  : options_put_number(&n->options, "size", g->size, err);
    if (!ret)
        ret = new_image_put_backing(n, g->backing_file, g->backing_format, err);
    if (!ret)
        ret = settle_backing(n, g->flags & IMG_CREATE_UNSAFE_BACKING, err);
    if (!ret && !options_given(&n->options, "size"))
        ret = img_fail(err, EINVAL, "Image creation needs a size parameter");
    return ret;
}

static int announce(const struct new_image *n, const struct img_create_options *given,
                    struct img_error *err)
{
    if (!given->announce)
        return 0;
    char *summary = options_summary(&n->options);
    if (!summary)
        return img_fail_nomem(err);
    given->announce(given->opaque, summary);
    free(summary);
    return 0;
}

/* What was written or reserved beforehand, in one of the files. */
static uint64_t preallocated(const struct new_image *n)
{
    return n->plan.data_file ? n->plan.data_size : n->plan.file_length;
}

/* The checks whose failure comes after the announcement are those of the plan, as qemu-img has it.
 */
int img_create(const char *filename, const struct img_create_options *given, struct img_error *err)
{
    struct new_image n = {
        .in_chain = same_name,
        .cancel = {given->cancelled, given->opaque},
        .progress = {given->progress, given->opaque},
    };
    int ret = read_options(&n, filename, given, err);
    if (!ret)
        ret = announce(&n, given, err);
    if (!ret)
        ret = new_image_plan(&n, err);
    if (!ret)
        ret = new_image_open(&n, err);
    if (!ret)
        ret = n.driver->create(&n.plan, n.image->file, err);
    if (!ret)
        ret = new_image_publish(&n, err);
    if (!ret)
        progress_report(&n.progress, "create", preallocated(&n), preallocated(&n));
    if (ret == -EFBIG)
        ret = new_image_explain_size(&n, err);
    new_image_close(&n);
    return ret < 0 ? img_prefix(err, ret, "%s: ", filename) : 0;
}

int img_create_help(char **text, const char *format, const char *filename, struct img_error *err)
{
    return new_image_help(text, format ? format : "raw", filename, err);
}
