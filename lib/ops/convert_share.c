/* Can the new image share its data with the source? The file system is asked by trying. */
#include "lib/ops/convert.h"

#include <errno.h>

enum { BLOCK = 4096 };

/* A block of FROM at the beginning of TO, which is empty and is made so again. */
static int probe(struct file *to, struct file *from, struct img_error *err)
{
    uint64_t size, length;
    int ret = file_size(from, &size, err);
    if (!ret)
        ret = file_size(to, &length, err);
    if (ret < 0 || size < BLOCK)
        return ret < 0 ? ret : -EOPNOTSUPP;
    ret = file_share(to, host(0), from, host(0), BLOCK, err);
    if (ret < 0)
        return ret;
    ret = file_truncate(to, 0, err);
    return ret < 0 ? ret : file_truncate(to, length, err);
}

static struct file *data_file(const struct img *img)
{
    struct layer *top = img->layers[0];
    return top->data_file ? top->data_file : top->file;
}

int conversion_try_sharing(struct conversion *c, struct img_error *err)
{
    enum img_reflink wanted = c->given->reflink;
    const struct new_image *n = &c->target;
    struct new_file *target = n->data ? n->data : n->image;
    bool whole = c->job.compress || !c->job.sparse || n->plan.data_preallocation != PREALLOC_OFF;
    bool possible = !whole && !target->in_place && !c->from_stream;
    if (wanted == IMG_REFLINK_NEVER || c->goes_on) /* as it began */
        return 0;
    int ret = possible ? probe(target->file, data_file(c->images[0]), err) : -EOPNOTSUPP;
    if (ret == -EOPNOTSUPP && wanted == IMG_REFLINK_ALWAYS)
        return img_fail(err, ENOTSUP, "--reflink=always: '%s' cannot share data with '%s' (%s)",
                        c->filename, c->images[0]->layers[0]->filename,
                        possible ? "both must lie on one file system that can"
                                 : "not with these options");
    c->job.share = !ret;
    return ret == -EOPNOTSUPP ? 0 : ret;
}
