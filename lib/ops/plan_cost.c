/*
 * What commits copy, and which to choose.
 *
 * Layers next to each other that all go are best committed at once: each byte is then copied out of
 * the highest layer that has it. So a plan is a set of runs of layers, with at least one layer that
 * stays below each, and its cost is the sum of theirs.
 */
#include "lib/checked.h"
#include "lib/ops/plan.h"

#include <stdlib.h>
#include <string.h>

/* ---- measuring ---- */

/* What one layer says from the present offset on. */
struct cursor {
    struct layer *layer;
    uint64_t left;
    enum img_extent_kind kind;
};

static bool is_data(enum img_extent_kind kind)
{
    return kind == IMG_EXTENT_DATA || kind == IMG_EXTENT_COMPRESSED || kind == IMG_EXTENT_ENCRYPTED;
}

/* Past its end a layer reads as zeroes, whatever lies below. */
static int refill(struct cursor *c, struct img_plan_layer *account, uint64_t off,
                  struct img_error *err)
{
    if (c->left)
        return 0;
    *c = (struct cursor){c->layer, UINT64_MAX, IMG_EXTENT_ZERO};
    if (off >= c->layer->size)
        return 0;
    struct extent e;
    int ret = c->layer->driver->map(c->layer, guest(off), c->layer->size - off, MAP_ALLOCATION, &e,
                                    err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read the mapping of '%s': ", c->layer->filename);
    c->left = e.length;
    c->kind = e.kind;
    account->data_bytes += is_data(e.kind) ? e.length : 0;
    account->zero_bytes += e.kind == IMG_EXTENT_ZERO ? e.length : 0;
    return 0;
}

/*
 * Adds a stretch in which no layer changes its mind. Where layer P holds data, and PREVIOUS is the
 * nearest one above it that decides too, P is what every layer between them reads: said once, at
 * [PREVIOUS + 1][P], for sum_up to spread.
 */
static void account(uint64_t *cost, const struct cursor *cursors, size_t n, uint64_t length)
{
    for (size_t p = 0, first = 0; p < n; p++) {
        if (cursors[p].kind == IMG_EXTENT_UNALLOCATED)
            continue;
        if (is_data(cursors[p].kind))
            cost[first * n + p] += length;
        first = p + 1;
    }
}

static void sum_up(uint64_t *cost, size_t n)
{
    for (size_t i = 1; i < n; i++) /* [i][p]: how much layer i reads out of p */
        for (size_t p = i; p < n; p++)
            cost[i * n + p] += cost[(i - 1) * n + p];
    for (size_t i = 0; i < n; i++) /* [i][p]: out of i to p */
        for (size_t p = i + 1; p < n; p++)
            cost[i * n + p] += cost[i * n + p - 1];
}

static int walk(struct img_merge_plan *plan, struct cursor *cursors, size_t n, uint64_t end,
                uint64_t *cost, struct img_error *err)
{
    for (uint64_t off = 0, length; off < end; off += length) {
        length = end - off;
        for (size_t i = 0; i < n; i++) {
            int ret = refill(&cursors[i], &plan->layers[i], off, err);
            if (ret < 0)
                return ret;
            length = min_u64(length, cursors[i].left);
        }
        account(cost, cursors, n, length);
        for (size_t i = 0; i < n; i++)
            cursors[i].left -= length;
    }
    return 0;
}

int plan_measure(struct img_merge_plan *plan, struct img *img, uint64_t **out,
                 struct img_error *err)
{
    size_t n = img->depth - 1; /* the lowest is committed nowhere */
    uint64_t end = 0;
    uint64_t *cost = calloc(n * n + 1, sizeof *cost);
    struct cursor *cursors = calloc(n + 1, sizeof *cursors);
    int ret = cost && cursors ? 0 : img_fail_nomem(err);
    for (size_t i = 0; i < n && !ret; i++) {
        cursors[i].layer = img->layers[i];
        end = img->layers[i]->size > end ? img->layers[i]->size : end;
    }
    if (!ret)
        ret = walk(plan, cursors, n, end, cost, err);
    free(cursors);
    if (ret < 0) {
        free(cost);
        return ret;
    }
    sum_up(cost, n);
    *out = cost;
    return 0;
}

/* ---- choosing ---- */

/* The best that can be done with the layers from some on. */
struct best {
    uint64_t bytes; /* UINT64_MAX: it cannot be done */
    unsigned runs;
    unsigned length; /* of the run that begins with the first of these layers; 0: it stays */
};

static bool is_better(const struct best *a, const struct best *b)
{
    return a->bytes < b->bytes || (a->bytes == b->bytes && a->runs < b->runs);
}

/* Every way to begin with layer K, when so many layers from it on shall GO. ROW is how many such
 * entries a layer has. */
static struct best best_from(const struct img_merge_plan *plan, const uint64_t *cost,
                             const struct best *table, size_t row, size_t k, size_t go)
{
    size_t n = plan->depth - 1;
    struct best best = table[(k + 1) * row + go];
    best.length = 0;
    for (size_t last = k; last < n && last - k < go && !plan->layers[last].obstacle_count; last++) {
        size_t length = last - k + 1;
        const struct best *rest = &table[(last + 2) * row + go - length];
        if (rest->bytes == UINT64_MAX)
            continue;
        struct best other = {cost[k * n + last] + rest->bytes, rest->runs + 1, (unsigned)length};
        if (is_better(&other, &best))
            best = other;
    }
    return best;
}

static int take_steps(struct img_merge_plan *plan, const uint64_t *cost, const struct best *table,
                      size_t row, struct img_error *err)
{
    size_t n = plan->depth - 1, go = plan->depth - plan->wanted;
    unsigned runs = table[go].runs;
    plan->steps = calloc(runs + 1, sizeof *plan->steps);
    if (!plan->steps)
        return img_fail_nomem(err);
    plan->step_count = runs;
    plan->bytes = table[go].bytes;
    for (size_t k = 0; k < n && go;) {
        unsigned length = table[k * row + go].length;
        if (!length) {
            k++;
            continue;
        }
        unsigned last = (unsigned)k + length - 1;
        plan->steps[--runs] = (struct img_plan_step){
            .first = (unsigned)k, .last = last, .into = last + 1, .bytes = cost[k * n + last]};
        k = last + 2;
        go -= length;
    }
    return 0;
}

int plan_choose(struct img_merge_plan *plan, const uint64_t *cost, struct img_error *err)
{
    size_t n = plan->depth - 1;
    plan->least = plan->depth;
    for (size_t i = 0; i < n; i++)
        plan->least -= !plan->layers[i].obstacle_count;
    plan->reachable = plan->least <= plan->wanted;
    if (!plan->reachable || plan->depth <= plan->wanted)
        return 0;
    size_t row = plan->depth - plan->wanted + 1;
    struct best *table = malloc((n + 2) * row * sizeof *table);
    if (!table)
        return img_fail_nomem(err);
    for (size_t i = n * row; i < (n + 2) * row; i++)
        table[i] = (struct best){.bytes = i % row ? UINT64_MAX : 0};
    for (size_t k = n; k-- > 0;)
        for (size_t go = 0; go < row; go++)
            table[k * row + go] = best_from(plan, cost, table, row, k, go);
    int ret = take_steps(plan, cost, table, row, err);
    free(table);
    return ret;
}
