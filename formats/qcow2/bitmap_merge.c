/* One bitmap's bits set in another's, whose granularity and clusters may differ. */
#include "formats/qcow2/bit_runs.h"
#include "formats/qcow2/bitmap.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>

int merge_open(struct bitmap_merge *m, struct qcow2 *q, const struct qcow2_bitmap *bitmap,
               struct img_error *err)
{
    *m = (struct bitmap_merge){.piece = malloc(q->geometry.cluster_size), .loaded = UINT32_MAX};
    if (!m->piece)
        return img_fail_nomem(err);
    int ret = bits_load(&m->src, q, bitmap, err);
    if (ret < 0)
        merge_close(m);
    return ret;
}

void merge_close(struct bitmap_merge *m)
{
    bits_free(&m->src);
    free(m->piece);
    m->piece = NULL;
}

/* The part of a piece that is to be set, in bits of the bitmap: [FIRST, END). */
struct target {
    uint8_t *piece;
    uint64_t first, end;
    unsigned granularity_bits;
};

/* Source bits [FROM, TO) are set. */
static void set_run(const struct target *t, unsigned granularity_bits, uint64_t from, uint64_t to)
{
    unsigned shift;
    if (granularity_bits >= t->granularity_bits) {
        shift = granularity_bits - t->granularity_bits;
        from <<= shift;
        to <<= shift;
    } else {
        shift = t->granularity_bits - granularity_bits;
        from >>= shift;
        to = ((to - 1) >> shift) + 1;
    }
    from = max_u64(from, t->first);
    to = min_u64(to, t->end);
    if (from < to)
        bits_set(t->piece, from - t->first, to - t->first);
}

/* Source bits [FROM, TO), all of piece INDEX of the source. */
static int merge_part(struct bitmap_merge *m, const struct target *t, uint32_t index, uint64_t from,
                      uint64_t to, struct img_error *err)
{
    uint64_t base = index * (m->src.q->geometry.cluster_size * 8ull);
    int ret = 0;
    if (bits_clear_piece(&m->src, index))
        return 0;
    if (m->loaded != index) {
        m->loaded = UINT32_MAX;
        ret = bits_read_piece(&m->src, index, m->piece, err);
        if (ret < 0)
            return ret;
        m->loaded = index;
    }
    uint64_t end = to - base, at = bits_find(m->piece, from - base, end, true);
    while (at < end) {
        uint64_t stop = bits_find(m->piece, at, end, false);
        set_run(t, m->src.granularity_bits, base + at, base + stop);
        at = bits_find(m->piece, stop, end, true);
    }
    return 0;
}

int merge_piece(struct bitmap_merge *m, const struct bitmap_bits *dst, uint32_t index,
                uint8_t *piece, struct img_error *err)
{
    uint64_t first = index * (dst->q->geometry.cluster_size * 8ull);
    struct target t = {piece, first, first + bits_in_piece(dst, index), dst->granularity_bits};
    uint64_t disk = dst->q->layer->size, per_piece = m->src.q->geometry.cluster_size * 8ull;
    /* what of the disk this is, in bits of the source */
    uint64_t from = t.first << t.granularity_bits >> m->src.granularity_bits;
    uint64_t last = t.end < dst->count ? (t.end << t.granularity_bits) - 1 : disk - 1;
    uint64_t end = (last >> m->src.granularity_bits) + 1;
    int ret = 0;
    while (from < end && !ret) {
        uint64_t next = min_u64(end, (from / per_piece + 1) * per_piece);
        ret = merge_part(m, &t, (uint32_t)(from / per_piece), from, next, err);
        from = next;
    }
    return ret;
}
