/* dd: a part of a disk, counted in blocks, as a new image. */
#include "lib/ops/convert.h"
#include "lib/checked.h"

#include <errno.h>
#include <string.h>

enum { DEFAULT_BLOCK = 512 };

struct dd {
    struct conversion conversion; /* first: so that the one is the other */
    const struct img_dd_options *options;
    bool beyond;
};

/* BLOCKS in bytes, or UINT64_MAX. */
static uint64_t block_bytes(const struct img_dd_options *o, uint64_t blocks)
{
    uint64_t size = o->block_size ? o->block_size : DEFAULT_BLOCK;
    return blocks > UINT64_MAX / size ? UINT64_MAX : blocks * size;
}

static void choose_window(struct conversion *c)
{
    struct dd *d = (struct dd *)c;
    const struct img_dd_options *o = d->options;
    uint64_t end = img_size(c->images[0]), start = block_bytes(o, o->skip);
    if (o->has_count)
        end = min_u64(end, block_bytes(o, o->count));
    d->beyond = start > end;
    c->window.start = min_u64(start, end);
    c->window.length = end - c->window.start;
}

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

/* What convert says of a copy that failed, in dd's words; where it was becomes the context. */
static void reword(int ret, struct img_error *err)
{
    bool reading = begins(img_error_message(err), "error while reading ");
    if (!err || (!reading && !begins(img_error_message(err), "error while writing ")))
        return;
    struct img_error before = *err;
    bool table = begins(img_error_message(&before), "error while reading block status ");
    *err = (struct img_error)IMG_ERROR_INIT;
    img_fail_errno(err, table ? EIO : -ret, "error while %s image file",
                   reading ? "reading from input" : "writing to output");
    img_context(err, "%s", img_error_message(&before));
    if (before.context)
        img_context(err, "%s", before.context);
    img_error_clear(&before);
}

int img_dd(const char *target, const char *source, const struct img_dd_options *o, bool *beyond,
           struct img_error *err)
{
    struct dd d = {.conversion = {.choose_window = choose_window,
                                  .creating = "error while creating output image"},
                   .options = o};
    const struct img_convert_options options = {
        .sources = &source,
        .source_count = 1,
        .open = o->open,
        .format = o->format,
        .progress = o->progress,
        .cancelled = o->cancelled,
        .opaque = o->opaque,
    };
    int ret = conversion_run(&d.conversion, target, &options, err);
    if (ret < 0 && d.conversion.image_count && o->format && !driver_named_by_qemu(o->format))
        ret = img_fail_detail(err, EINVAL, "Unknown file format", "'%s'", o->format);
    if (ret < 0 && ret != -ECANCELED)
        reword(ret, err);
    if (beyond)
        *beyond = d.beyond;
    return ret;
}
