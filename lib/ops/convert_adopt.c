/* A raw image becomes the data file of a qcow2 image: only that one's tables are written. */
#include "lib/ops/convert.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static int check_source(const struct conversion *c, struct img_error *err)
{
    const struct layer *l = c->images[0]->layers[0];
    uint64_t size;
    if (c->image_count > 1)
        return img_fail(err, EINVAL, "--adopt takes one image");
    if (!l->driver->plain || l->raw_offset || l->raw_size != UINT64_MAX)
        return img_fail(err, EINVAL, "--adopt takes a whole raw image, not '%s'", l->filename);
    int ret = file_size(l->file, &size, err);
    if (!ret && size % 512)
        ret = img_fail(err, EINVAL, "The length of '%s' (%" PRIu64 ") is no multiple of 512",
                       l->filename, size);
    return ret;
}

/* The name that the image will have in its header. QEMU looks for a relative one in the folder that
 * it is started in, so it is the whole path unless the user chose another. */
static int name_data_file(struct conversion *c, struct img_error *err)
{
    struct option_set *o = &c->target.options;
    const char *name = c->images[0]->layers[0]->file->name;
    int ret = options_put(o, "data_file_raw", "on", err);
    if (ret < 0 || options_given(o, "data_file"))
        return ret;
    char *path = realpath(name, NULL);
    if (!path)
        return img_fail_errno(err, errno, "Could not find the path of '%s'", name);
    ret = options_put(o, "data_file", path, err);
    free(path);
    return ret;
}

int conversion_adopt(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    int ret = check_source(c, err);
    if (!ret && !options_know(&n->options, "data_file"))
        ret = img_fail(err, EINVAL, "--adopt needs -O qcow2");
    if (!ret)
        ret = name_data_file(c, err);
    if (!ret)
        ret = new_image_plan(n, err);
    if (!ret)
        ret = new_image_keep_chain(n, c->images[0]->layers, c->images[0]->depth, err);
    n->plan.data_file = NULL; /* it is there */
    if (!ret)
        ret = new_image_open(n, err);
    if (!ret)
        ret = n->driver->create(&n->plan, n->image->file, err);
    return ret < 0 ? ret : new_image_publish(n, err);
}
