/*
 * Where clusters are smaller than a block of the host.
 *
 * Tables have room before the data for all that is expected. What of it does not come leaves a gap,
 * which gives back whole blocks of the host only: a part of one may be lost on each side of it, and
 * the refcounts of what is around it may need a cluster more. So what nobody needs who reads a
 * stream comes last before the gap, no longer than it has to be, and where a block would still be
 * lost, the last data clusters go into the gap. So the file takes as many blocks as if it had been
 * written without gaps.
 */
#include "formats/qcow2/build.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>

/* Data that may go into the gap: who reads a stream can keep so much. */
enum { MOVED_MOST = 16 << 20, MOVE_STEP = 64 << 10 };

void build_small_lay_out(struct builder *b)
{
    struct qcow2_layout *l = b->layout;
    l->l1_offset = cluster_size(b);
    l->l2_offset = l->l1_offset + align_up(l->l1_entries * 8, cluster_size(b));
    uint64_t room = (l->l2_tables + l->refblocks + l->reftable_clusters) << l->cluster_bits;
    l->metadata = l->l2_offset + room;
    if (room >= HOST_BLOCK)
        l->metadata = align_up(l->metadata, HOST_BLOCK);
}

/* ---- how the file can end ---- */

/* All of it in clusters: used are [0, FRONT) and [DATA, END). */
struct ending {
    uint64_t refblocks, reftable; /* how many clusters each */
    uint64_t most_refblocks;      /* those that are not there are counted */
    uint64_t skip_from;           /* the first of these */
    uint64_t front, data, end;
};

static void count_refcounts(const struct builder *b, struct ending *e)
{
    uint64_t per = 8ull << b->layout->cluster_bits >> b->layout->refcount_order;
    e->skip_from = div_round_up(e->front, per);
    e->most_refblocks = e->skip_from;
    e->refblocks = e->skip_from;
    if (e->data < e->end) {
        uint64_t first = max_u64(e->data / per, e->skip_from);
        e->most_refblocks = max_u64(div_round_up(e->end, per), e->skip_from);
        e->refblocks += e->most_refblocks - min_u64(first, e->most_refblocks);
    }
    e->reftable = div_round_up(e->most_refblocks * 8, cluster_size(b));
}

/* MOVED of the data clusters in [DATA, END) lie before the gap, behind TABLES clusters. */
static struct ending ending(const struct builder *b, uint64_t tables, uint64_t data, uint64_t end,
                            uint64_t moved)
{
    struct ending e = {.data = data, .end = end - moved};
    uint64_t before;
    do {
        before = e.refblocks + e.reftable;
        e.front = tables + before + moved;
        count_refcounts(b, &e);
    } while (e.refblocks + e.reftable > before);
    return e;
}

/* Blocks of the host. */
static uint64_t blocks(const struct builder *b, const struct ending *e)
{
    unsigned in_block = HOST_BLOCK >> b->layout->cluster_bits;
    uint64_t front = div_round_up(e->front, in_block), end = div_round_up(e->end, in_block);
    if (e->data >= e->end)
        return front;
    uint64_t data = e->data / in_block;
    return front <= data ? front + end - data : end;
}

/* The one that takes the fewest blocks, and of these the one that moves the least. */
static struct ending best_ending(const struct builder *b, uint64_t *moved)
{
    unsigned bits = b->layout->cluster_bits;
    uint64_t tables = (b->layout->l2_offset >> bits) + b->tables_used;
    uint64_t data = b->layout->metadata >> bits, end = b->next_host >> bits;
    uint64_t most = min_u64(end - data, MOVED_MOST >> bits);
    struct ending best = ending(b, tables, data, end, 0);
    struct ending without_gap = ending(b, tables + end - data, data, data, 0);
    uint64_t fewest = blocks(b, &without_gap);
    *moved = 0;
    for (uint64_t n = 1; n <= most && blocks(b, &best) > fewest; n++) {
        struct ending e = ending(b, tables, data, end, n);
        if (e.front > data)
            break;
        if (blocks(b, &e) < blocks(b, &best)) {
            best = e;
            *moved = n;
        }
    }
    return best;
}

/* ---- moving ---- */

static int copy_bytes(struct builder *b, uint64_t from, uint64_t to, uint64_t length,
                      struct img_error *err)
{
    uint8_t *buf = malloc(MOVE_STEP);
    int ret = buf ? 0 : img_fail_nomem(err);
    for (uint64_t done = 0, n; done < length && !ret; done += n) {
        n = min_u64(length - done, MOVE_STEP);
        ret = file_read_padded(b->file, buf, (size_t)n, host(from + done), err);
        if (!ret)
            ret = file_write(b->file, buf, (size_t)n, host(to + done), err);
    }
    free(buf);
    return ret;
}

/* The entries of the table at AT that lead to FROM or behind it lead as far behind TO. *LEFT: how
 * many there still are. */
static int move_entries(struct builder *b, uint64_t at, uint64_t from, uint64_t to, uint64_t *left,
                        struct img_error *err)
{
    size_t size = (size_t)cluster_size(b);
    int ret = file_read(b->file, b->l2, size, host(at), err);
    for (size_t i = size; !ret && *left && i; i -= 8) {
        uint64_t entry = load_be64(b->l2 + i - 8), place = entry & L2_OFFSET_MASK;
        if (place < from)
            continue;
        store_be64(b->l2 + i - 8, (entry & ~L2_OFFSET_MASK) | (place - from + to));
        --*left;
    }
    return ret < 0 ? ret : file_write(b->file, b->l2, size, host(at), err);
}

/* The data from FROM on. It was given its places in order: so it belongs to the last tables. */
static int move_data(struct builder *b, uint64_t from, uint64_t to, uint64_t length,
                     struct img_error *err)
{
    unsigned bits = b->layout->cluster_bits;
    uint64_t left = length >> bits;
    int ret = copy_bytes(b, from, to, length, err);
    for (uint64_t t = b->tables_used; !ret && left && t; t--)
        ret = move_entries(b, b->layout->l2_offset + ((t - 1) << bits), from, to, &left, err);
    return ret;
}

int build_small_finish(struct builder *b, struct img_error *err)
{
    struct qcow2_layout *l = b->layout;
    struct qcow2_header *h = &b->plan->header;
    unsigned bits = l->cluster_bits;
    uint64_t moved;
    struct ending e = best_ending(b, &moved);
    l->refblocks_offset = l->l2_offset + (b->tables_used << bits);
    l->reftable_offset = l->refblocks_offset + (e.refblocks << bits);
    l->reftable_clusters = e.reftable;
    l->refblocks = e.most_refblocks;
    h->reftable_offset = l->reftable_offset;
    h->reftable_clusters = (uint32_t)l->reftable_clusters;
    build_refs_skip(&b->refs, e.skip_from, e.most_refblocks - e.refblocks);
    uint64_t place = l->reftable_offset + (e.reftable << bits);
    uint64_t end = b->next_host - (moved << bits);
    int ret = moved ? move_data(b, end, place, moved << bits, err) : 0;
    b->next_host = end;
    return ret < 0 ? ret
                   : build_refs_fill(&b->refs, l->reftable_offset >> bits, e.reftable + moved, err);
}
