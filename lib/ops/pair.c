#include "lib/ops/pair.h"
#include "lib/checked.h"

#include <stdlib.h>
#include <string.h>

static int side_init(struct pair_side *s, struct img *img, struct img_error *err)
{
    s->img = img;
    if (!img)
        return 0;
    s->walk.steps = calloc(img->depth, sizeof *s->walk.steps);
    return s->walk.steps ? 0 : img_fail_nomem(err);
}

int pair_init(struct pair *p, struct img *one, struct img *other, struct img_error *err)
{
    *p = (struct pair){.sides = {{.img = NULL}}};
    int ret = side_init(&p->sides[0], one, err);
    return ret < 0 ? ret : side_init(&p->sides[1], other, err);
}

void pair_free(struct pair *p)
{
    for (size_t i = 0; i < 2; i++)
        free(p->sides[i].walk.steps);
    *p = (struct pair){.sides = {{.img = NULL}}};
}

/* What a side has at an offset. */
struct finding {
    struct extent extent;
    const struct layer *layer; /* NULL: none decides */
};

static int side_map(struct pair_side *s, uint64_t off, uint64_t max, struct finding *out,
                    struct img_error *err)
{
    unsigned depth;
    *out = (struct finding){.extent = {.length = max, .kind = IMG_EXTENT_UNALLOCATED}};
    if (!s->img || off >= img_size(s->img))
        return 0;
    int ret = chain_map(s->img, guest(off), max, MAP_HOLES, &s->walk, &out->extent, &depth, err);
    if (!ret)
        out->layer = s->img->layers[depth];
    return ret < 0 ? img_prefix(err, ret,
                                "Could not read the mapping of '%s': ", s->img->layers[0]->filename)
                   : 0;
}

static bool is_zero(const struct extent *e)
{
    return e->kind == IMG_EXTENT_ZERO || e->kind == IMG_EXTENT_UNALLOCATED;
}

static bool same_file(const struct file *a, const struct file *b)
{
    return a == b || (a && b && a->id.device == b->id.device && a->id.inode == b->id.inode);
}

/* Nothing but a file's own bytes decides what a layer reads as where it decides. */
static bool same_layer(const struct layer *a, const struct layer *b)
{
    return a && b && a->driver == b->driver && same_file(a->file, b->file) &&
           same_file(a->data_file, b->data_file) && a->raw_offset == b->raw_offset;
}

static bool same_place(const struct extent *a, const struct extent *b)
{
    return a->kind == IMG_EXTENT_DATA && b->kind == IMG_EXTENT_DATA &&
           same_file(a->file, b->file) && a->host.v == b->host.v;
}

int pair_map(struct pair *p, uint64_t off, uint64_t max, struct pair_stretch *out,
             struct img_error *err)
{
    struct finding f[2];
    for (size_t i = 0; i < 2; i++) {
        int ret = side_map(&p->sides[i], off, max, &f[i], err);
        if (ret < 0)
            return ret;
        out->zero[i] = is_zero(&f[i].extent);
        max = min_u64(max, f[i].extent.length);
    }
    out->length = max;
    out->same = (out->zero[0] && out->zero[1]) || same_layer(f[0].layer, f[1].layer) ||
                same_place(&f[0].extent, &f[1].extent);
    return 0;
}

int pair_read(const struct pair_side *s, void *buf, size_t length, uint64_t off,
              struct img_error *err)
{
    uint64_t size = s->img ? img_size(s->img) : 0;
    size_t there = off < size ? (size_t)min_u64(length, size - off) : 0;
    memset((uint8_t *)buf + there, 0, length - there);
    return there ? img_read(s->img, buf, there, off, err) : 0;
}
