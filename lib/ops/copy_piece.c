#include "lib/checked.h"
#include "lib/ops/copy_engine.h"
#include "lib/zero.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 };

/* Room for one more item of SIZE bytes. */
static int grow(void *array, size_t count, size_t *room, size_t size, struct img_error *err)
{
    void **items = array;
    if (count < *room)
        return 0;
    size_t more = *room ? 2 * *room : 16;
    void *p = realloc(*items, more * size);
    if (!p)
        return img_fail_nomem(err);
    *items = p;
    *room = more;
    return 0;
}

int copy_piece_add(struct copy_piece *p, const struct copy_part *part, struct img_error *err)
{
    int ret = grow(&p->parts, p->part_count, &p->part_room, sizeof *part, err);
    if (!ret)
        p->parts[p->part_count++] = *part;
    return ret;
}

int copy_piece_add_run(struct copy_piece *p, const struct copy_run *run, struct img_error *err)
{
    int ret = grow(&p->runs, p->run_count, &p->run_room, sizeof *run, err);
    if (!ret)
        p->runs[p->run_count++] = *run;
    return ret;
}

int copy_piece_late_room(struct copy_piece *p, struct img_error *err)
{
    return grow(&p->late, p->late_count, &p->late_room, sizeof *p->late, err);
}

/* ---- reading ------------------------------------------------------------------------------- */

int copy_failed(struct img_error *err, int ret, const char *doing, uint64_t offset)
{
    if (!err || ret == -ECANCELED)
        return ret;
    struct img_error before = *err;
    *err = (struct img_error)IMG_ERROR_INIT;
    img_fail_errno(err, -ret, "error while %s at byte %" PRIu64, doing, offset);
    img_context(err, "%s", img_error_message(&before));
    img_error_clear(&before);
    return ret;
}

/* Sector by sector, what cannot be read is zero. */
static void salvage(const struct copy_job *j, struct copy_part part, uint8_t *buf, uint64_t offset)
{
    while (part.length) {
        struct img_error e = IMG_ERROR_INIT;
        uint64_t n = min_u64(part.length, SECTOR);
        char text[160];
        int ret = copy_part_read(&part, buf, n, &e);
        if (ret < 0) {
            memset(buf, 0, n);
            snprintf(text, sizeof text, "error while reading offset %" PRIu64 ": %s", offset,
                     strerror(-ret));
            if (j->warn)
                j->warn(j->opaque, text);
        }
        img_error_clear(&e);
        extent_skip(&part.extent, n);
        part.length -= n;
        part.offset += n;
        buf += n;
        offset += n;
    }
}

/* What is not in the source's top layer, in the middle of a unit, is what the target has below. */
static int read_below(const struct copy_job *j, uint8_t *buf, uint64_t offset, uint64_t length,
                      struct img_error *err)
{
    struct img *below = j->target->below;
    uint64_t size = below ? img_size(below) : 0;
    uint64_t n = offset < size ? min_u64(length, size - offset) : 0;
    memset(buf + n, 0, length - n);
    return n ? img_read(below, buf, n, offset, err) : 0;
}

static int read_part(const struct copy_job *j, const struct copy_part *part, uint8_t *buf,
                     uint64_t offset, struct img_error *err)
{
    if (part->kind == COPY_ABSENT)
        return read_below(j, buf, offset, part->length, err);
    int ret = copy_part_read(part, buf, part->length, err);
    if (ret < 0 && j->salvage) {
        salvage(j, *part, buf, offset);
        ret = 0;
    }
    return ret;
}

/* Bytes of P with the rest of its last unit. */
static size_t whole_length(const struct copy_job *j, const struct copy_piece *p)
{
    return (size_t)align_up(p->length, j->target->unit);
}

static int make_buffer(const struct copy_job *j, struct copy_piece *p, struct img_error *err)
{
    if (p->buf)
        return 0;
    p->buf = aligned_alloc(4096, (size_t)copy_piece_size(j));
    return p->buf ? 0 : img_fail_nomem(err);
}

int copy_piece_read(const struct copy_job *j, struct copy_piece *p, struct img_error *err)
{
    int ret = make_buffer(j, p, err);
    uint8_t *to = p->buf;
    uint64_t offset = p->start;
    for (size_t i = 0; i < p->part_count && !ret; i++) {
        ret = read_part(j, &p->parts[i], to, offset, err);
        to += p->parts[i].length;
        offset += p->parts[i].length;
    }
    if (ret < 0)
        return copy_failed(err, ret, "reading", p->start);
    memset(p->buf + p->length, 0, whole_length(j, p) - p->length);
    return 0;
}

/* ---- dividing ------------------------------------------------------------------------------ */

/* What is looked at at once for zeroes: a power of two, as qemu-img has it, and whole units. */
static uint64_t zero_block(const struct copy_job *j)
{
    uint64_t power = j->sparse;
    while (power & (power - 1))
        power &= power - 1;
    return max_u64(min_u64(power, COPY_PIECE), j->target->unit);
}

static int add_data(struct copy_piece *p, size_t from, size_t to, struct img_error *err)
{
    const struct copy_run run = {.kind = RUN_DATA,
                                 .offset = p->start + from,
                                 .length = to - from,
                                 .data = p->buf + from,
                                 .stored = to - from};
    return from == to ? 0 : copy_piece_add_run(p, &run, err);
}

/* Zeroes are mentioned where they have to be. */
static int add_zero(const struct copy_job *j, struct copy_piece *p, size_t from, size_t to,
                    struct img_error *err)
{
    const struct copy_run run = {.kind = RUN_ZERO, .offset = p->start + from, .length = to - from};
    if (from == to || j->target->zero_is_nothing)
        return 0;
    return j->target->says_zero ? copy_piece_add_run(p, &run, err) : add_data(p, from, to, err);
}

/* The end of the stretch at AT that the source stores in one way, in whole units; *PART is the one
 * that begins there, LENGTH that of the piece. */
static size_t stretch_end(const struct copy_job *j, const struct copy_piece *p, size_t at,
                          size_t length, size_t *part)
{
    size_t end = at;
    do {
        if (*part == p->part_count)
            return length;
        end += (size_t)p->parts[(*part)++].length;
    } while (!is_aligned(end, j->target->unit));
    return end;
}

/*
 * Zeroes count where there are enough of them in a row, or where they are next to what the source
 * stores in another way, or what is none of this piece: there they may go on. Blocks are those of
 * the disk, not of the piece.
 */
static int divide_plain(const struct copy_job *j, struct copy_piece *p, struct img_error *err)
{
    size_t length = whole_length(j, p), block = (size_t)zero_block(j);
    if (!j->sparse || j->as_mapped || (!j->target->zero_is_nothing && !j->target->says_zero))
        return add_data(p, 0, length, err);
    size_t from = 0, at = 0; /* FROM: where data began that is not yet added */
    size_t start = 0, end = 0, part = 0;
    int ret = 0;
    while (at < length && !ret) {
        if (at == end) {
            start = at;
            end = stretch_end(j, p, at, length, &part);
        }
        size_t rest = block - (size_t)((p->start + at) & (block - 1));
        size_t n = rest < end - at ? rest : end - at;
        bool zero = zero_all(p->buf + at, n);
        if (n == block)
            n = zero_run(p->buf + at, end - at, block, &zero);
        if (zero && (n >= min_u64(j->sparse, COPY_PIECE) || at == start || at + n == end)) {
            ret = add_data(p, from, at, err);
            if (!ret)
                ret = add_zero(j, p, at, at + n, err);
            from = at + n;
        }
        at += n;
    }
    return ret < 0 ? ret : add_data(p, from, length, err);
}

/* The format's, whether the image is new or not. */
static const struct driver_building *packing(const struct copy_job *j)
{
    const struct copy_target *t = j->target;
    return t->building ? t->building : t->img->layers[0]->driver->building;
}

static int make_compressor(const struct copy_job *j, struct copy_piece *p, struct img_error *err)
{
    const struct copy_target *t = j->target;
    if (p->compressor)
        return 0;
    p->packed = malloc((size_t)copy_piece_size(j));
    if (!p->packed)
        return img_fail_nomem(err);
    if (t->building)
        return t->building->compressor_create(&p->compressor, t->builder, j->level, err);
    const struct layer *l = t->img->layers[0];
    return l->driver->writing->compressor_create(&p->compressor, l, err);
}

/* Can a unit that begins there be compressed? Not where an image that exists has the rest of it. */
static bool is_packed(const struct copy_job *j, uint64_t offset)
{
    const struct copy_target *t = j->target;
    return t->building || offset + t->unit <= t->size || t->size == img_size(t->img);
}

/* Unit by unit; what does not become shorter stays as it is. */
static int divide_compressed(const struct copy_job *j, struct copy_piece *p, struct img_error *err)
{
    size_t unit = (size_t)j->target->unit, length = whole_length(j, p);
    uint8_t *out;
    int ret = make_compressor(j, p, err);
    out = p->packed;
    for (size_t at = 0; at < length && !ret; at += unit) {
        const uint8_t *in = p->buf + at;
        if (j->sparse && zero_all(in, unit)) {
            ret = add_zero(j, p, at, at + unit, err);
            continue;
        }
        bool packed = is_packed(j, p->start + at);
        size_t stored = packed ? packing(j)->compress(p->compressor, in, out) : 0;
        const struct copy_run run = {.kind = RUN_COMPRESSED,
                                     .offset = p->start + at,
                                     .length = unit,
                                     .data = out,
                                     .stored = stored};
        ret = stored ? copy_piece_add_run(p, &run, err) : add_data(p, at, at + unit, err);
        out += stored;
    }
    return ret;
}

int copy_piece_divide(const struct copy_job *j, struct copy_piece *p, struct img_error *err)
{
    return (j->compress ? divide_compressed : divide_plain)(j, p, err);
}

void copy_piece_free(const struct copy_job *j, struct copy_piece *p)
{
    if (p->compressor)
        packing(j)->compressor_destroy(p->compressor);
    free(p->parts);
    free(p->runs);
    free(p->late);
    free(p->buf);
    free(p->packed);
}
