/*
 * Raw: the file is the disk. A length that is not a multiple of 512 is rounded up and reads as
 * zeroes past the end, as QEMU has it.
 */
#include "lib/checked.h"
#include "lib/driver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int raw_probe(const uint8_t *head, size_t len)
{
    (void)head;
    (void)len;
    return 1;
}

static int raw_open(struct layer *l, unsigned flags, struct img_error *err)
{
    (void)flags;
    uint64_t size;
    int ret = file_size(l->file, &size, err);
    if (ret < 0)
        return ret;
    size = align_up(size, 512);
    if (l->raw_offset > size)
        return img_fail(err, EINVAL,
                        "Offset (%" PRIu64 ") cannot be greater than size of the containing file "
                        "(%" PRIu64 ")",
                        l->raw_offset, size);
    size -= l->raw_offset;
    if (l->raw_size != UINT64_MAX && !is_aligned(l->raw_size, 512))
        return img_fail_detail(err, EINVAL, "Specified size is not multiple of 512", "%" PRIu64,
                               l->raw_size);
    if (l->raw_size != UINT64_MAX && l->raw_size > size)
        return img_fail(err, EINVAL,
                        "The sum of offset (%" PRIu64 ") and size (%" PRIu64
                        ") has to be smaller or equal to the  actual size of the containing file "
                        "(%" PRIu64 ")",
                        l->raw_offset, l->raw_size, size + l->raw_offset);
    l->size = align_up(min_u64(size, l->raw_size), 512);
    return 0;
}

static void raw_close(struct layer *l)
{
    (void)l;
}

static int raw_map(struct layer *l, guest_off off, uint64_t max, enum map_detail detail,
                   struct extent *out, struct img_error *err)
{
    host_off at = host(l->raw_offset + off.v);
    *out = (struct extent){.length = max, .kind = IMG_EXTENT_DATA, .file = l->file, .host = at};
    if (detail == MAP_ALLOCATION)
        return 0;
    struct file_extent stretch;
    int ret = l->file->ops->extent(l->file, at, &stretch);
    if (ret < 0)
        return img_fail_errno(err, -ret, "Could not find the holes of '%s' at %#" PRIx64,
                              l->file->name, at.v);
    out->kind = stretch.data ? IMG_EXTENT_DATA : IMG_EXTENT_ZERO;
    if (l->direct && stretch.data && stretch.length < max) /* the last one, which the file cuts */
        stretch.length = align_up(at.v + stretch.length, 512) - at.v;
    out->length = min_u64(max, stretch.length);
    return 0;
}

/* ---- writing: every place is where it always was ------------------------------------------- */

static int raw_place(struct layer *l, guest_off off, uint64_t max, struct placement *out,
                     struct img_error *err)
{
    (void)err;
    *out = (struct placement){
        .length = max, .file = l->file, .host = host(l->raw_offset + off.v), .may_be_late = true};
    return 0;
}

static int raw_link(struct layer *l, guest_off off, const struct placement *p,
                    struct img_error *err)
{
    (void)l;
    (void)off;
    (void)p;
    (void)err;
    return 0;
}

static void raw_give_up(struct layer *l, guest_off off, const struct placement *p)
{
    (void)l;
    (void)off;
    (void)p;
}

static uint64_t raw_zero_unit(const struct layer *l)
{
    (void)l;
    return 1;
}

static int raw_zero(struct layer *l, guest_off off, uint64_t len, unsigned flags, uint64_t *done,
                    struct img_error *err)
{
    host_off at = host(l->raw_offset + off.v);
    *done = len;
    return (flags & IMG_ZERO_UNMAP ? file_zero : file_zero_keep)(l->file, at, len, err);
}

static int raw_discard(struct layer *l, guest_off off, uint64_t len, uint64_t *done,
                       struct img_error *err)
{
    *done = len;
    return file_zero(l->file, host(l->raw_offset + off.v), len, err);
}

static int raw_flush(struct layer *l, struct img_error *err)
{
    return file_flush(l->file, err);
}

static const struct driver_writing writing = {
    .place = raw_place,
    .link = raw_link,
    .give_up = raw_give_up,
    .zero_unit = raw_zero_unit,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
};

/* ---- creating ------------------------------------------------------------------------------ */

static const struct option_desc create_options[] = {
    {"size", OPTION_SIZE, "Virtual disk size", NULL},
    {NULL, OPTION_STRING, NULL, NULL},
};

struct raw_layout {
    uint64_t size;
    enum preallocation preallocation;
};

/* How the file is preallocated is the host file's option; its words differ from a format's. */
static int read_preallocation(enum preallocation *out, const char *mode, struct img_error *err)
{
    if (!mode || !strcmp(mode, "off"))
        *out = PREALLOC_OFF;
    else if (!strcmp(mode, "falloc"))
        *out = PREALLOC_FALLOC;
    else if (!strcmp(mode, "full"))
        *out = PREALLOC_FULL;
    else if (!strcmp(mode, "metadata"))
        return img_fail(err, ENOTSUP, "Unsupported preallocation mode: metadata");
    else
        return img_fail(err, EINVAL, "invalid parameter value: %s", mode);
    return 0;
}

static int raw_plan(struct create_plan *plan, const struct option_set *options,
                    struct img_error *err)
{
    struct raw_layout *r = calloc(1, sizeof *r);
    if (!r)
        return img_fail_nomem(err);
    plan->layout = r;
    int ret = read_preallocation(&r->preallocation, options_text(options, "preallocation"), err);
    if (ret < 0)
        return ret;
    r->size = align_up(options_number(options, "size", 0), 512);
    if (r->size > INT64_MAX)
        return img_fail_errno(err, EINVAL, "Could not resize file");
    plan->file_length = r->size;
    plan->file_bytes = r->preallocation == PREALLOC_OFF ? 0 : r->size;
    return 0;
}

/*
 * The file's first block is allocated as QEMU does it: where nothing is, some file systems do not
 * tell what alignment direct reads need. The block may be too much for a full disk.
 */
static void allocate_first_block(struct file *f, uint64_t size)
{
    static const uint8_t zeroes[4096];
    if (size)
        (void)f->ops->pwrite(f, zeroes, size < sizeof zeroes ? 512 : sizeof zeroes, host(0));
}

/* A device that held another image must not be taken for that one. */
static int raw_create(const struct create_plan *plan, struct file *f, struct img_error *err)
{
    const struct raw_layout *r = plan->layout;
    uint64_t size = 0;
    int ret = file_extend(f, 0, r->size, r->preallocation, err);
    if (!ret && !f->device && r->preallocation != PREALLOC_FULL)
        allocate_first_block(f, r->size);
    if (!ret && f->device)
        ret = file_size(f, &size, err);
    return ret < 0 ? ret : file_zero(f, host(0), min_u64(size, 512), err);
}

/* A raw file is as long as its disk, whatever lies in it. */
static int raw_measure(const struct measure_request *r, struct img_measurement *out,
                       struct img_error *err)
{
    (void)err;
    uint64_t size = r->source ? r->source->virtual_size : options_number(r->options, "size", 0);
    *out = (struct img_measurement){.required = align_up(size, 512)};
    out->fully_allocated = out->required;
    return 0;
}

/* ---- building: every run is where it always is --------------------------------------------- */

struct raw_builder {
    const struct raw_layout *layout;
    struct file *file;
    bool sequential, placed;
};

static int build_create(void **out, struct create_plan *plan, bool compress, struct img_error *err)
{
    struct raw_builder *b = calloc(1, sizeof *b);
    (void)compress;
    if (!b)
        return img_fail_nomem(err);
    b->layout = plan->layout;
    *out = b;
    return 0;
}

static uint64_t build_unit(const void *builder)
{
    (void)builder;
    return 512;
}

static bool build_says_zero(const void *builder)
{
    (void)builder;
    return true;
}

static int build_expect(void *builder, guest_off off, uint64_t len, struct img_error *err)
{
    (void)builder;
    (void)off;
    (void)len;
    (void)err;
    return 0;
}

static int build_start(void *builder, struct file *f, struct file *data_file, bool sequential,
                       struct img_error *err)
{
    struct raw_builder *b = builder;
    (void)data_file;
    b->file = f;
    b->sequential = sequential;
    if (sequential)
        return 0;
    if (f->used)
        return file_forget_rest(f, b->layout->preallocation, err);
    int ret = file_extend(f, 0, b->layout->size, b->layout->preallocation, err);
    if (!ret && !f->device && b->layout->preallocation != PREALLOC_FULL)
        allocate_first_block(f, b->layout->size);
    return ret;
}

static int build_data(void *builder, guest_off off, uint64_t len, struct build_place *out,
                      struct img_error *err)
{
    const struct raw_builder *b = builder;
    (void)len;
    (void)err;
    *out = (struct build_place){b->file, host(off.v)};
    return 0;
}

static int build_zero(void *builder, guest_off off, uint64_t len, struct img_error *err)
{
    const struct raw_builder *b = builder;
    return file_zero(b->file, host(off.v), len, err);
}

/* Of a stream, the second time. */
static int build_finish(void *builder, struct img_error *err)
{
    struct raw_builder *b = builder;
    bool end = b->sequential && b->placed;
    b->placed = true;
    return end ? file_truncate(b->file, b->layout->size, err) : 0;
}

static const struct driver_building building = {
    .create = build_create,
    .destroy = free,
    .unit = build_unit,
    .says_zero = build_says_zero,
    .expect = build_expect,
    .start = build_start,
    .data = build_data,
    .zero = build_zero,
    .finish = build_finish,
};

/* Before anything is changed: is it a size that this file can have? */
static int check_resize(const struct layer *l, const struct resize_request *r, uint64_t length,
                        struct img_error *err)
{
    static const char *const modes[] = {"off", "metadata", "falloc", "full"};
    enum preallocation mode = r->preallocation;
    uint64_t end;
    if (l->raw_size != UINT64_MAX)
        return img_fail(err, ENOTSUP, "Cannot resize fixed-size raw disks");
    if (add_overflows(l->raw_offset, r->size, &end) || end > INT64_MAX)
        return img_fail(err, EINVAL, "Disk size too large for the chosen offset");
    if (l->file->device && mode != PREALLOC_OFF)
        return img_fail(err, ENOTSUP,
                        "Preallocation mode '%s' unsupported for this non-regular file",
                        modes[mode]);
    if (l->file->device && end != length)
        return img_fail(err, ENOTSUP, "Cannot resize device files");
    if (mode == PREALLOC_METADATA)
        return img_fail(err, ENOTSUP, "Unsupported preallocation mode: metadata");
    return mode == PREALLOC_OFF ? 0 : file_check_space(l->file, end - min_u64(end, length), err);
}

static int raw_resize(struct layer *l, const struct resize_request *r, struct img_error *err)
{
    struct file *f = l->file;
    uint64_t before, after = l->raw_offset + r->size;
    int ret = file_size(f, &before, err);
    if (!ret)
        ret = check_resize(l, r, before, err);
    if (ret < 0)
        return ret;
    bool in_pieces = r->preallocation == PREALLOC_FULL; /* of which any could be lost */
    if (r->preallocation == PREALLOC_OFF || in_pieces)
        ret = file_truncate(f, after, err);
    if (!ret && in_pieces)
        ret = file_flush(f, err);
    if (!ret && r->preallocation != PREALLOC_OFF)
        ret = file_extend(f, before, after, r->preallocation, err);
    if (!ret && !before && !f->device && r->preallocation != PREALLOC_FULL)
        allocate_first_block(f, after);
    if (!ret)
        ret = file_flush(f, err);
    if (!ret)
        l->size = align_up(r->size, 512);
    else if (after > before && !f->device)
        f->ops->truncate(f, before); /* not to be cancelled */
    return ret;
}

const struct driver raw_driver = {
    .name = "raw",
    .plain = true,
    .probe = raw_probe,
    .open = raw_open,
    .close = raw_close,
    .map = raw_map,
    .writing = &writing,
    .resize = raw_resize,
    .create_options = create_options,
    .plan = raw_plan,
    .create = raw_create,
    .measure = raw_measure,
    .building = &building,
};
