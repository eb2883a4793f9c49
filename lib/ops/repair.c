/* Repairing one image: the format does it, this counts and hands on. */
#include "lib/check.h"
#include "lib/image.h"

#include <errno.h>

int img_repair(struct img *img, const struct img_repair_options *options, struct img_check *result,
               struct img_error *err)
{
    struct layer *l = img->layers[0];
    struct check_report report = {.result = result,
                                  .fn = options->finding,
                                  .opaque = options->opaque,
                                  .progress = &img->progress};
    *result = (struct img_check){0};
    if (!l->driver->repair)
        return img_fail(err, ENOTSUP, "This image format does not support checks");
    if (!(img->flags & IMG_OPEN_CHECK))
        return img_fail(err, EINVAL, "The image was not opened to be checked");
    if (!(img->flags & IMG_OPEN_WRITE) && !options->dry_run)
        return img_fail(err, EBADF, "The image '%s' was not opened for writing", l->filename);
    if (!options->what || (options->what & ~(unsigned)IMG_REPAIR_ALL))
        return img_fail(err, EINVAL, "Nothing that can be repaired is named (%#x)", options->what);
    int ret = l->driver->repair(l, options, &report, err);
    if (!ret)
        progress_report(&img->progress, "repair", report.total, report.total);
    return ret;
}
