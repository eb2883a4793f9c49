/* How large a new image would be: the source's extents, counted in the new image's clusters. */
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the source's data ---- */

struct data_count {
    uint64_t cluster;
    uint64_t counted; /* up to here: a multiple of the cluster */
    uint64_t bytes;
};

/* A cluster counts once, however many extents touch it. */
static int count_extent(void *opaque, const struct img_extent *e)
{
    struct data_count *c = opaque;
    if (e->reads_zero)
        return 0;
    uint64_t start = max_u64(align_down(e->start, c->cluster), c->counted);
    uint64_t end = align_up(e->start + e->length, c->cluster);
    c->bytes += end - min_u64(start, end);
    c->counted = end;
    return 0;
}

static int count_data(void *opaque, uint64_t cluster, uint64_t *bytes, struct img_error *err)
{
    struct data_count c = {.cluster = cluster};
    int ret = img_map(opaque, 0, UINT64_MAX, count_extent, &c, err);
    *bytes = c.bytes;
    return ret;
}

/* ---- the new image ---- */

static int find_format(const struct driver **driver, const char *format, struct img_error *err)
{
    int ret = driver_find(driver, format, err);
    if (ret < 0)
        return ret;
    if (!*driver)
        return img_fail(err, ENOTSUP, "Format driver '%s' does not support image creation", format);
    if (!(*driver)->measure)
        return img_fail(err, ENOTSUP, "Block driver '%s' does not support size measurement",
                        format);
    return 0;
}

static int read_options(struct option_set *set, const struct img_measure_options *o, bool source,
                        struct img_error *err)
{
    int ret = o->options ? options_parse(set, o->options, err) : 0;
    if (ret < 0) {
        img_context(err, "in the options of the new image");
        return ret;
    }
    return source ? 0 : options_put_number(set, "size", o->size, err);
}

int img_measure(struct img_measurement *out, struct img *source,
                const struct img_measure_options *o, struct img_error *err)
{
    const char *format = o->format ? o->format : "raw";
    const struct driver *driver;
    struct img_info *info = NULL;
    struct option_set set;
    int ret = find_format(&driver, format, err);
    if (ret < 0)
        return ret;
    options_init(&set, driver->create_options, host_options);
    ret = read_options(&set, o, source, err);
    if (!ret && source)
        ret = layer_describe(&info, source->layers[0], err);
    if (!ret) {
        struct measure_request r = {&set, info, count_data, source};
        ret = driver->measure(&r, out, err);
    }
    img_info_free(info);
    options_clear(&set);
    return ret;
}
