/*
 * By how much an image can grow when ranges of its disk are written: clusters, the tables that map
 * them, and what counts them. Never less than what is needed.
 */
#include "lib/checked.h"
#include "lib/ops/rebase.h"

int rebase_growth_init(struct rebase_growth *g, const struct img *img, struct img_error *err)
{
    struct img_info *info;
    struct layer *l = img->layers[0];
    *g = (struct rebase_growth){.cluster = max_u64(l->cluster_size, 512)};
    int ret = layer_describe(&info, l, err);
    if (ret < 0)
        return ret;
    uint64_t entry = info->qcow2.extended_l2 ? 16 : 8;
    g->per_table = g->cluster / entry * g->cluster;
    g->refcount_bits = info->is_qcow2 ? info->qcow2.refcount_bits : 16;
    g->says_zero = info->is_qcow2 && info->qcow2.version > 2;
    img_info_free(info);
    return 0;
}

/* How many units of SIZE the range touches that were not counted before; *BEHIND: the first of
 * those that were not touched yet. */
static uint64_t count_new(uint64_t *behind, uint64_t off, uint64_t length, uint64_t size)
{
    uint64_t first = max_u64(off / size, *behind), end = div_round_up(off + length, size);
    *behind = max_u64(*behind, end);
    return end > first ? end - first : 0;
}

void rebase_growth_add(struct rebase_growth *g, uint64_t off, uint64_t length, bool zero)
{
    if (!zero || !g->says_zero)
        g->clusters += count_new(&g->clusters_behind, off, length, g->cluster);
    g->tables += count_new(&g->tables_behind, off, length, g->per_table);
}

uint64_t rebase_growth_bytes(const struct rebase_growth *g)
{
    uint64_t n = g->clusters + g->tables;
    if (!n)
        return 0;
    uint64_t per_block = g->cluster * 8 / g->refcount_bits;
    uint64_t blocks = div_round_up(n, per_block - 1) + 1;
    uint64_t reftable = div_round_up(blocks * 8, g->cluster) * 2 + 2; /* a longer one, and spare */
    return (n + blocks + reftable) * g->cluster;
}
