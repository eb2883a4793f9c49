#include "lib/ops/sweep.h"

#include <errno.h>

int sweep_leaks(struct layer *l, struct img_error *err)
{
    struct img_error ignored = IMG_ERROR_INIT;
    int ret = l->driver->sweep ? l->driver->sweep(l, &ignored) : 0;
    if (ret == -ECANCELED)
        ret = img_fail(err, ECANCELED, "Interrupted");
    else if (ret == -ENOMEM)
        ret = img_fail_nomem(err);
    else
        ret = 0;
    img_error_clear(&ignored);
    return ret;
}
