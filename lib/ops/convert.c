/*
 * convert: from the names that a user gave to a copy.
 *
 * First all that can be wrong without a byte being written, in QEMU's order: sources, options, the
 * plan, the files below; then the survey, the files, the copy; last the name.
 */
#include "lib/ops/convert.h"
#include "lib/checked.h"
#include "lib/policy.h"
#include "lib/workers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_SPARSE = 4096, MAX_THREADS = 16 };

static const struct option_desc convert_options[] = {
    {"compression_level", OPTION_NUMBER, "How hard to compress", NULL},
    {NULL, OPTION_STRING, NULL, NULL},
};

/* ---- sources ---- */

static int open_sources(struct conversion *c, struct img_error *err)
{
    const struct img_convert_options *g = c->given;
    struct img_open_options open = g->open ? *g->open : (struct img_open_options){0};
    bool snapshot = open.snapshot || open.snapshot_id || open.snapshot_name;
    open.flags |= IMG_OPEN_STILL;
    if (!g->source_count)
        return img_fail(err, EINVAL, "Must specify image file name");
    if (snapshot && g->source_count > 1)
        return img_fail(err, EINVAL, "No support for concatenating multiple snapshot");
    c->images = calloc(g->source_count, sizeof *c->images);
    if (!c->images)
        return img_fail_nomem(err);
    if (g->flags & IMG_CONVERT_FROM_STREAM)
        return conversion_open_stream(c, &open, err);
    for (; c->image_count < g->source_count; c->image_count++) {
        int ret = img_open(&c->images[c->image_count], g->sources[c->image_count], &open, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static uint64_t total_size(const struct conversion *c)
{
    uint64_t size = 0;
    if (c->choose_window)
        return c->window.length;
    for (size_t i = 0; i < c->image_count; i++)
        if (add_overflows(size, img_size(c->images[i]), &size))
            return UINT64_MAX;
    return size;
}

/* ---- options ---- */

static int check_backing(struct conversion *c, struct img_error *err)
{
    const char *backing = options_text(&c->target.options, "backing_file");
    c->backing = backing ? backing : c->given->backing_file;
    bool zero = c->given->flags & IMG_CONVERT_TARGET_IS_ZERO;
    if (c->backing && zero)
        return img_fail(err, EINVAL,
                        "Cannot use --target-is-zero when the destination image has a backing "
                        "file");
    if (c->backing && c->image_count > 1)
        return img_fail(err, EINVAL,
                        "Having a backing file for the target makes no sense when concatenating "
                        "multiple input images");
    if (backing && !options_text(&c->target.options, "backing_fmt"))
        return img_fail(err, EINVAL, "Use of backing file requires explicit backing format");
    return 0;
}

static int check_compression(const struct conversion *c, struct img_error *err)
{
    const struct option_set *o = &c->target.options;
    const struct driver *d = c->target.driver;
    const char *preallocation = options_text(o, "preallocation");
    if (!(c->given->flags & IMG_CONVERT_COMPRESS))
        return 0;
    if (d && (!d->building || !d->building->compressed))
        return img_fail(err, ENOTSUP, "Compression not supported for this file format");
    if (options_on(o, "encryption") || options_given(o, "encrypt.format"))
        return img_fail(err, EINVAL, "Compression and encryption not supported at the same time");
    if (preallocation && strcmp(preallocation, "off"))
        return img_fail(err, EINVAL,
                        "Compression and preallocation not supported at the same time");
    return 0;
}

static int read_options(struct conversion *c, struct img_error *err)
{
    const struct img_convert_options *g = c->given;
    struct new_image *n = &c->target;
    int ret = new_image_start(n, c->filename, c->format, convert_options, err);
    if (!ret && g->options)
        ret = options_parse(&n->options, g->options, err);
    if (!ret)
        ret = options_put_number(&n->options, "size", total_size(c), err);
    return ret < 0 ? ret : new_image_put_backing(n, g->backing_file, g->backing_format, err);
}

static int check_level(struct conversion *c, struct img_error *err)
{
    const struct option_set *o = &c->target.options;
    uint64_t level = options_number(o, "compression_level", 0);
    if (!options_given(o, "compression_level"))
        return 0;
    if (!(c->given->flags & IMG_CONVERT_COMPRESS))
        return img_fail(err, EINVAL, "compression_level is given, but nothing is compressed");
    if (level < 1 || level > INT32_MAX)
        return img_fail(err, EINVAL, "compression_level must be at least 1");
    c->job.level = (int)level;
    return 0;
}

/* ---- a new target ---- */

/* What lies below the new image, where it is put together with what the source holds. */
static int open_below(struct conversion *c, struct img_error *err)
{
    const struct img_open_options open = {
        .format = options_text(&c->target.options, "backing_fmt"),
        .flags = IMG_OPEN_PROBE_LIKE_QEMU |
                 (c->given->open ? c->given->open->flags & IMG_OPEN_FORCE_SHARE : 0)};
    char *full;
    int ret = policy_backing_name(&full, c->target.path, c->backing, err);
    if (ret < 0)
        return ret;
    ret = img_open_plainly(&c->below, full, &open, err);
    free(full);
    if (ret < 0)
        return img_prefix(err, ret,
                          "Could not open '%s': Could not open backing file: ", c->filename);
    c->to.below = c->below;
    c->to.below_size = img_size(c->below);
    return new_image_keep_chain(&c->target, c->below->layers, c->below->depth, err);
}

static int make_builder(struct conversion *c, struct img_error *err)
{
    const struct driver_building *b = c->target.driver->building;
    if (!b)
        return img_fail(err, ENOTSUP, "Format driver '%s' does not support image creation",
                        c->format);
    int ret = b->create(&c->to.builder, &c->target.plan, c->job.compress, err);
    if (ret < 0)
        return ret;
    c->to.building = b;
    c->to.unit = b->unit(c->to.builder);
    c->to.says_zero = b->says_zero(c->to.builder);
    c->to.below_size = UINT64_MAX;
    return c->backing ? open_below(c, err) : 0;
}

static int keep_sources(struct conversion *c, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < c->image_count && !ret; i++)
        ret = new_image_keep_chain(&c->target, c->images[i]->layers, c->images[i]->depth, err);
    return ret;
}

static void tell_zeroing(const struct conversion *c, const struct file *f)
{
    if (f->block && c->given->zeroing)
        c->given->zeroing(c->given->opaque, f->name, f->zeroing);
}

static int open_new(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    int ret = keep_sources(c, err);
    if (!ret)
        ret = new_image_open_files(n, err);
    if (!ret)
        ret = conversion_resume_find(c, err);
    if (!ret && !c->goes_on)
        ret = new_image_give_size(n, err);
    if (ret == -EFBIG)
        ret = new_image_explain_size(n, err);
    if (ret < 0)
        return ret;
    tell_zeroing(c, (n->data ? n->data : n->image)->file);
    c->data_bytes = 0;
    c->to.zero_is_nothing = !c->backing && !n->image->in_place && !(n->data && n->data->in_place);
    return 0;
}

static int creation_failed(const struct conversion *c, int ret, struct img_error *err)
{
    if (ret == -ECANCELED)
        return ret;
    return c->creating
               ? img_prefix(err, ret, "%s: %s: ", c->filename, c->creating)
               : img_prefix(err, ret, "%s: error while converting %s: ", c->filename, c->format);
}

int conversion_plan(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    int ret = new_image_plan(n, err);
    if (ret == -EFBIG)
        ret = new_image_explain_size(n, err);
    return ret < 0 ? creation_failed(c, ret, err) : make_builder(c, err);
}

/* In QEMU's words, which makes the file and then opens it. */
static int use_direct(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    if (!(c->given->flags & IMG_CONVERT_DIRECT))
        return 0;
    int ret = file_use_direct(n->image->file, err);
    if (!ret && n->data)
        ret = file_use_direct(n->data->file, err);
    return ret < 0 ? img_prefix(err, ret, "Could not open '%s': ", c->filename) : 0;
}

static int convert_to_new(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    int ret = conversion_plan(c, err);
    if (ret < 0)
        return ret;
    ret = open_new(c, err);
    if (ret < 0)
        return creation_failed(c, ret, err);
    ret = use_direct(c, err);
    if (!ret)
        ret = conversion_start_copy(c, err);
    if (!ret)
        ret = conversion_try_sharing(c, err);
    if (!ret)
        ret = conversion_resume_prepare(c, err);
    if (!ret)
        ret = c->to.building->start(c->to.builder, n->image->file, n->data ? n->data->file : NULL,
                                    false, err);
    if (!ret)
        ret = conversion_resume_begin(c, err);
    if (!ret)
        ret = copy_run(&c->job, c->data_bytes, err);
    if (!ret)
        ret = c->to.building->finish(c->to.builder, err);
    if (!ret && c->from_stream)
        ret = file_pipe_drain(c->from_stream, err);
    if (!ret)
        ret = conversion_copy_bitmaps_to_new(c, err);
    if (!ret)
        ret = conversion_verify(c, err);
    return ret < 0 ? ret : new_image_publish(n, err);
}

/* ---- a target that exists ---- */

/* Where the source was opened without locks, they do not tell that it would be overwritten. */
static int check_existing(struct conversion *c, struct img_error *err)
{
    const struct layer *top = c->existing->layers[0];
    int ret = keep_sources(c, err);
    if (!ret)
        ret = new_image_check_kept(&c->target, top->file, err);
    if (!ret && top->data_file)
        ret = new_image_check_kept(&c->target, top->data_file, err);
    return ret < 0 ? img_prefix(err, ret, "Could not open '%s': ", c->filename) : 0;
}

static int open_existing(struct conversion *c, struct img_error *err)
{
    const struct img_convert_options *g = c->given;
    const struct img_open_options open = {
        .format = g->format || !(g->flags & IMG_CONVERT_TARGET_OPTS) ? c->format : NULL,
        .flags = IMG_OPEN_WRITE | (g->flags & IMG_CONVERT_TARGET_OPTS ? IMG_OPEN_IMAGE_OPTS : 0) |
                 (g->flags & IMG_CONVERT_DIRECT ? IMG_OPEN_DIRECT : 0),
        .cancelled = g->cancelled,
        .opaque = g->opaque,
    };
    int ret = img_open(&c->existing, c->filename, &open, err);
    if (!ret)
        ret = check_existing(c, err);
    if (ret < 0)
        return ret;
    if (img_size(c->existing) < total_size(c))
        return img_fail(err, EINVAL, "output file is smaller than input file");
    const struct driver *d = c->existing->layers[0]->driver;
    if (c->job.compress && (!d->building || !d->building->compressed))
        return img_fail(err, ENOTSUP, "Compression not supported for this file format");
    const struct layer *top = c->existing->layers[0];
    tell_zeroing(c, top->data_file ? top->data_file : top->file);
    c->to.img = c->existing;
    c->to.unit = c->job.compress ? c->existing->layers[0]->cluster_size : 512;
    c->to.says_zero = true;
    c->to.below_size = UINT64_MAX;
    c->to.below = c->backing ? c->images[0] : NULL; /* it shall read as the source does */
    c->to.zero_is_nothing = g->flags & IMG_CONVERT_TARGET_IS_ZERO;
    copy_late_start(&c->to);
    return 0;
}

static int convert_to_existing(struct conversion *c, struct img_error *err)
{
    int ret = open_existing(c, err);
    if (!ret)
        ret = conversion_start_copy(c, err);
    if (!ret)
        ret = copy_run(&c->job, c->data_bytes, err);
    if (!ret && c->from_stream)
        ret = file_pipe_drain(c->from_stream, err);
    if (!ret)
        ret = img_flush(c->existing, err);
    if (!ret)
        ret = conversion_verify(c, err);
    return ret < 0 ? ret : conversion_copy_bitmaps(c, c->existing, err);
}

/* ---- all of it ---- */

static void warn(void *opaque, const char *message)
{
    const struct conversion *c = opaque;
    if (c->given->warn)
        c->given->warn(c->given->opaque, message);
}

static void prepare_job(struct conversion *c)
{
    const struct img_convert_options *g = c->given;
    uint64_t sparse = g->sparse_size ? g->sparse_size : DEFAULT_SPARSE;
    unsigned most = g->threads ? g->threads : workers_processors();
    c->job = (struct copy_job){
        .source = &c->source,
        .target = &c->to,
        .sparse = g->flags & IMG_CONVERT_DENSE ? 0 : sparse,
        .compress = g->flags & IMG_CONVERT_COMPRESS,
        .threads = most < MAX_THREADS ? most : MAX_THREADS,
        .rate = g->rate,
        .salvage = g->flags & IMG_CONVERT_SALVAGE,
        .cancel = c->target.cancel.wanted ? &c->target.cancel : NULL,
        .warn = warn,
        .progress = {g->progress, g->opaque},
        .opaque = c,
    };
}

int conversion_start_copy(struct conversion *c, struct img_error *err)
{
    int ret = copy_source_init(&c->source, c->images, c->image_count, c->backing != NULL, err);
    if (!ret && c->choose_window) {
        c->source.first = c->window.start;
        c->source.size = c->window.length;
    }
    c->source.salvage = c->job.salvage && !c->from_stream;
    c->source.warn = warn;
    c->source.opaque = c;
    c->to.size = c->source.size;
    if (!ret)
        ret = copy_survey(&c->job, &c->data_bytes, err);
    if (!ret && c->from_stream)
        file_pipe_stop_keeping(c->from_stream);
    return ret;
}

static int convert(struct conversion *c, struct img_error *err)
{
    bool existing = c->given->flags & IMG_CONVERT_EXISTING;
    int ret = open_sources(c, err);
    if (!ret && c->choose_window)
        c->choose_window(c);
    if (!ret && !existing)
        ret = read_options(c, err);
    if (!ret)
        ret = check_backing(c, err);
    if (!ret)
        ret = check_compression(c, err);
    if (!ret)
        ret = check_level(c, err);
    if (!ret)
        ret = conversion_check_bitmaps(c, err);
    if (ret < 0)
        return ret;
    ret = conversion_resume_check(c, err);
    if (ret < 0)
        return ret;
    if (c->given->flags & IMG_CONVERT_ADOPT)
        return conversion_adopt(c, err);
    if (c->given->flags & IMG_CONVERT_TO_STREAM)
        return conversion_to_stream(c, err);
    return existing ? convert_to_existing(c, err) : convert_to_new(c, err);
}

int conversion_run(struct conversion *c, const char *target,
                   const struct img_convert_options *given, struct img_error *err)
{
    c->given = given;
    c->filename = target;
    c->format = given->format ? given->format : "raw";
    c->target = (struct new_image){.in_chain = "The target is the source, or lies below it",
                                   .cancel = {given->cancelled, given->opaque},
                                   .partial = given->flags & IMG_CONVERT_RESUME,
                                   .unflushed = (given->flags & IMG_CONVERT_UNFLUSHED) &&
                                                !(given->flags & IMG_CONVERT_RESUME),
                                   .progress = {given->progress, given->opaque}};
    prepare_job(c);
    int ret = convert(c, err);
    if (ret < 0 && (given->flags & IMG_CONVERT_FROM_STREAM))
        conversion_explain_stream(c, ret, err);
    conversion_resume_end(c, ret, err);
    if (c->to.building)
        c->to.building->destroy(c->to.builder);
    copy_source_free(&c->source);
    for (size_t i = 0; i < c->image_count; i++)
        img_close(c->images[i]);
    free(c->images);
    img_close(c->below);
    img_close(c->existing);
    copy_late_end(&c->to);
    new_image_close(&c->target);
    return ret;
}

int img_convert(const char *target, const struct img_convert_options *given, struct img_error *err)
{
    struct conversion c = {.creating = NULL};
    return conversion_run(&c, target, given, err);
}
