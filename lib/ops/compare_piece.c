/* Looking at a piece: both images, a buffer of each at a time, small enough to stay in the cache.
 */
#include "lib/ops/compare.h"
#include "lib/checked.h"
#include "lib/zero.h"

#include <stdlib.h>
#include <string.h>

enum { BUFFER = 128 << 10, SECTOR = 512 };

void piece_reset(struct piece *p, uint64_t number, uint64_t start)
{
    p->number = number;
    p->start = p->end = start;
    p->count = p->run_count = 0;
    p->bytes = p->read = 0;
    p->kind = IMG_DIFFERENCE_DATA;
}

void piece_clear(void *opaque, void *slot)
{
    struct piece *p = slot;
    (void)opaque;
    free(p->runs);
    free(p->buffers[0]);
    free(p->buffers[1]);
}

static int add_run(struct piece *p, uint64_t start, uint64_t length, struct img_error *err)
{
    if (p->run_count == p->run_room) {
        size_t room = p->run_room ? 2 * p->run_room : 16;
        struct run *runs = realloc(p->runs, room * sizeof *runs);
        if (!runs)
            return img_fail_nomem(err);
        p->runs = runs;
        p->run_room = room;
    }
    p->runs[p->run_count++] = (struct run){start, length};
    return 0;
}

/* Room for SIZE bytes of each. */
static int make_room(struct piece *p, size_t size, struct img_error *err)
{
    if (p->buffer_size >= size)
        return 0;
    for (unsigned i = 0; i < 2; i++) {
        free(p->buffers[i]);
        p->buffers[i] = aligned_alloc(4096, size);
    }
    p->buffer_size = p->buffers[0] && p->buffers[1] ? size : 0;
    return p->buffer_size ? 0 : img_fail_nomem(err);
}

/* How much to read at once: compressed clusters whole. */
static size_t stride(const struct span *s)
{
    uint64_t n = BUFFER;
    for (unsigned i = 0; i < 2; i++)
        if (s->parts[i].kind == COPY_DATA && s->parts[i].extent.kind == IMG_EXTENT_COMPRESSED)
            n = max_u64(n, s->parts[i].layer->cluster_size);
    return (size_t)n;
}

/* A NULL buffer stands for zeroes. */
static bool equal(const uint8_t *a, const uint8_t *b, size_t n)
{
    if (a && b)
        return !memcmp(a, b, n);
    return zero_all(a ? a : b, n);
}

/* Adds a sector that differs, at its start; it may be the one that was added last. */
static int add_sector(struct piece *p, uint64_t start, struct img_error *err)
{
    struct run *last = p->run_count ? &p->runs[p->run_count - 1] : NULL;
    if (!last || last->start + last->length < start)
        return add_run(p, start, SECTOR, err);
    last->length = start + SECTOR - last->start;
    return 0;
}

/* The sectors that differ, in N bytes from AT of the disk on, which belong to what begins at START:
 * where a raw file ends, a sector may be cut in two. Who asks for the first only is told that. */
static int find_runs(struct piece *p, uint64_t start, uint64_t at, const uint8_t *a,
                     const uint8_t *b, size_t n, bool first_only, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0, length; i < n && !ret; i += length) {
        uint64_t sector = align_down(at + i, SECTOR);
        length = (size_t)min_u64(sector + SECTOR - (at + i), n - i);
        if (equal(a ? a + i : NULL, b ? b + i : NULL, length))
            continue;
        ret = add_sector(p, first_only ? max_u64(sector, start) : sector, err);
        if (first_only)
            break;
    }
    return ret;
}

/* N bytes of both from offset AT of the span on. */
static int look_at(struct piece *p, struct span *s, uint64_t at, size_t n, bool first_only,
                   unsigned *image, struct img_error *err)
{
    const uint8_t *data[2] = {NULL, NULL};
    for (unsigned i = 0; i < 2; i++) {
        struct copy_part part = s->parts[i];
        if (part.kind != COPY_DATA)
            continue;
        part.offset += at;
        extent_skip(&part.extent, at);
        int ret = copy_part_read(&part, p->buffers[i], n, err);
        if (ret < 0) {
            *image = i;
            return ret;
        }
        data[i] = p->buffers[i];
        p->read += n;
    }
    return equal(data[0], data[1], n)
               ? 0
               : find_runs(p, s->start, s->start + at, data[0], data[1], n, first_only, err);
}

int piece_look(struct piece *p, bool first_only, unsigned *image, uint64_t *offset,
               struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < p->count && !ret; i++) {
        struct span *s = &p->spans[i];
        size_t step = stride(s);
        ret = make_room(p, step, err);
        for (uint64_t at = 0; at < s->length && !ret; at += step) {
            *offset = s->start + at;
            ret = look_at(p, s, at, (size_t)min_u64(step, s->length - at), first_only, image, err);
            if (first_only && p->run_count)
                return ret;
        }
    }
    return ret;
}
