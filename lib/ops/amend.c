/*
 * Changing the options of an image: here the list is read, as QEMU reads it; what the options mean
 * is the format's.
 */
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>

/* Can images of D be amended? FORMAT is how the user calls it. */
static int check_driver(const struct driver *d, const char *format, struct img_error *err)
{
    if (d && d->amend)
        return 0;
    return img_fail(err, ENOTSUP, "Format driver '%s' does not support option amendment", format);
}

/* Is there nothing wrong with LIST but that an image must be created with it? */
static bool only_for_creation(const struct driver *d, const char *list)
{
    struct option_set options;
    options_init(&options, d->amend_options, d->create_options);
    int ret = options_parse(&options, list, NULL);
    options_clear(&options);
    return !ret;
}

static int read_options(struct option_set *options, const struct driver *d, const char *list,
                        struct img_error *err)
{
    int ret = options_parse(options, list, err);
    if (ret < 0 && only_for_creation(d, list))
        img_hint(err, "This option is only supported for image creation");
    return ret;
}

static int resize(void *opaque, uint64_t size, struct img_error *err)
{
    struct img_resize_options options = {.flags = IMG_RESIZE_SHRINK};
    return img_resize(opaque, size, &options, err);
}

/* Remembers what the whole was last said to be, so that the end can be told. */
struct watch {
    const struct img_amend_options *given;
    uint64_t total;
};

static void watch(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct watch *w = opaque;
    w->total = total;
    if (w->given->progress)
        w->given->progress(w->given->opaque, phase, done, total);
}

int img_amend(struct img *img, const struct img_amend_options *given, struct img_error *err)
{
    struct watch w = {given, 1};
    struct layer *l = img->layers[0];
    struct option_set options;
    struct amend_request request = {
        .options = &options,
        .backed = img->depth > 1,
        .progress = {watch, &w},
        .resize = resize,
        .opaque = img,
    };
    int ret = check_driver(l->driver, l->driver->name, err);
    if (ret < 0)
        return ret;
    options_init(&options, l->driver->amend_options, NULL);
    ret = read_options(&options, l->driver, given->options, err);
    if (!ret) {
        progress_report(&request.progress, "amend", 0, w.total);
        ret = layer_settle(l, err);
        if (!ret)
            ret = l->driver->amend(l, &request, err);
        if (!ret)
            progress_report(&request.progress, "amend", w.total, w.total);
    }
    options_clear(&options);
    return ret;
}

int img_amend_help(char **text, const char *format, struct img_error *err)
{
    const struct driver *driver;
    struct option_set options;
    int ret = driver_find(&driver, format, err);
    if (!ret)
        ret = check_driver(driver, format, err);
    if (ret < 0)
        return ret;
    options_init(&options, driver->amend_options, NULL);
    *text = options_help(&options);
    options_clear(&options);
    return *text ? 0 : img_fail_nomem(err);
}
