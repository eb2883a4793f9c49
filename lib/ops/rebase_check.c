/*
 * A backing file that is named without anything being compared: is it one that can be below the
 * image at all?
 */
#include "lib/checked.h"
#include "lib/ops/rebase.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* The disk of the base that the image names now; UINT64_MAX: it cannot be opened. */
static int old_size(const struct rebase *r, uint64_t *size, struct img_error *err)
{
    const struct layer *top = r->img->layers[0];
    struct img_open_options open = {.flags = IMG_OPEN_FORCE_SHARE | IMG_OPEN_NO_DATA};
    struct image_ref ref = {0};
    struct layer *l = NULL;
    char *full = NULL;
    bool probed;
    *size = UINT64_MAX;
    if (!top->backing_name)
        return 0;
    int ret = chain_backing_ref(&ref, &full, top, NULL);
    if (!ret)
        ret = layer_open(&l, &ref, &open, true, &probed, NULL);
    if (!ret)
        *size = l->size;
    layer_close(l);
    ref_clear(&ref);
    free(full);
    return ret == -ENOMEM ? img_fail_nomem(err) : 0;
}

/* What is shorter than the old base hides data; without the old one, what is shorter than the image
 * may. */
static int check_size(const struct rebase *r, struct img_error *err)
{
    uint64_t old, size = img_size(r->new_base);
    int ret = old_size(r, &old, err);
    if (ret < 0 || size >= min_u64(old, img_size(r->img)))
        return ret;
    if (old == UINT64_MAX)
        return img_fail(err, EINVAL,
                        "New backing file '%s' is smaller (%" PRIu64
                        " bytes) than the image (%" PRIu64 " bytes)",
                        r->new_name, size, img_size(r->img));
    return img_fail(err, EINVAL,
                    "New backing file '%s' is smaller (%" PRIu64
                    " bytes) than the old one (%" PRIu64 " bytes)",
                    r->new_name, size, old);
}

/* Metadata of another format would show through as the disk. */
static int check_format(const struct rebase *r, struct img_error *err)
{
    const struct layer *l = r->new_base->layers[0];
    const struct driver *probed;
    bool guessed;
    if (!l->driver->plain || l->raw_offset)
        return 0;
    int ret = driver_probe(&probed, l->file, false, &guessed, err);
    if (ret < 0 || probed == l->driver)
        return ret;
    return img_fail(err, EINVAL, "New backing file '%s' looks like %s, not %s", r->new_name,
                    probed->name, l->driver->name);
}

int rebase_check_base(struct rebase *r, struct img_error *err)
{
    if (!r->new_base)
        return 0;
    int ret = check_format(r, err);
    if (!ret)
        ret = check_size(r, err);
    if (ret < 0)
        img_hint(err, "Use --force to name it all the same.");
    return ret;
}
