/* convert to and from what only goes forward. */
#include "lib/ops/convert.h"

#include <errno.h>
#include <string.h>

static int refuse_raw(const char *name, struct img_error *err)
{
    return img_fail(err, ENOTSUP,
                    "'%s' is a stream: its format must be qcow2, as nobody knows the length of a "
                    "raw one beforehand",
                    name);
}

int conversion_open_stream(struct conversion *c, const struct img_open_options *open,
                           struct img_error *err)
{
    const struct img_convert_options *g = c->given;
    const char *name = g->sources[0];
    struct file *f;
    if (open->snapshot || open->snapshot_id || open->snapshot_name ||
        (g->flags & IMG_CONVERT_BITMAPS))
        return img_fail(err, ENOTSUP, "Of a stream, neither snapshots nor bitmaps can be read");
    if (g->flags & IMG_CONVERT_VERIFY)
        return img_fail(err, ENOTSUP, "A stream cannot be read again to verify its copy");
    if (open->format && !strcmp(open->format, "raw"))
        return refuse_raw(name, err);
    int ret = file_open_pipe(&f, g->source_fd, name, false, c->job.cancel, err);
    if (ret < 0)
        return ret;
    ret = img_open_file(&c->images[0], f, NULL, open->format, IMG_OPEN_PROBE_LIKE_QEMU, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", name);
    c->image_count = 1;
    c->from_stream = f;
    c->job.in_order = true;
    const struct layer *l = c->images[0]->layers[0];
    if (l->driver->plain)
        return refuse_raw(name, err);
    if (l->external_data || l->backing_name)
        return img_fail(err, ENOTSUP,
                        "The image in the stream has a %s ('%s'): it is not all in one file",
                        l->external_data ? "data file" : "backing file",
                        l->external_data ? l->data_file_name : l->backing_name);
    return 0;
}

void conversion_explain_stream(const struct conversion *c, int ret, struct img_error *err)
{
    if (ret == -ENODATA)
        img_error_set(err, EIO, "The stream '%s' ends before the data of its image does",
                      c->given->sources[0]);
    if (ret != -ESPIPE && ret != -EFBIG)
        return;
    img_error_set(
        err, EINVAL,
        "The image in the stream '%s' cannot be read from front to end: its tables do not "
        "come before its data%s; put it into a file first",
        c->given->sources[0], ret == -EFBIG ? ", or are larger than 40 MiB" : "");
}

static int check(const struct conversion *c, struct img_error *err)
{
    unsigned flags = c->given->flags;
    if (flags & IMG_CONVERT_EXISTING)
        return img_fail(err, EINVAL, "A stream cannot be an image that exists");
    if (flags & IMG_CONVERT_COMPRESS)
        return img_fail(err, ENOTSUP,
                        "A stream cannot be compressed: its tables come before its data; compress "
                        "the stream, or the image at its end");
    if (flags & IMG_CONVERT_BITMAPS)
        return img_fail(err, ENOTSUP, "A stream cannot have bitmaps");
    if (flags & IMG_CONVERT_VERIFY)
        return img_fail(err, ENOTSUP, "A stream cannot be verified");
    return 0;
}

/* Where the builder puts things is found out twice: for the tables, and when the data is there. */
int conversion_to_stream(struct conversion *c, struct img_error *err)
{
    struct file *f = NULL;
    int ret = check(c, err);
    if (!ret)
        ret = conversion_plan(c, err);
    if (!ret)
        ret = file_open_pipe(&f, c->given->target_fd, c->filename, true, c->job.cancel, err);
    if (ret < 0)
        return ret;
    const struct driver_building *b = c->to.building;
    c->to.stream = f;
    c->to.zero_is_nothing = !c->backing;
    c->job.as_mapped = true;
    ret = conversion_start_copy(c, err);
    if (!ret)
        ret = b->start(c->to.builder, f, NULL, true, err);
    if (!ret)
        ret = copy_place(&c->job, err);
    if (!ret)
        ret = b->finish(c->to.builder, err);
    if (!ret)
        ret = copy_run(&c->job, c->data_bytes, err);
    if (!ret)
        ret = b->finish(c->to.builder, err);
    if (!ret && c->from_stream)
        ret = file_pipe_drain(c->from_stream, err);
    file_close(f);
    return ret;
}
