/* Planning the commits that shorten a chain: lib/ops/plan*.c among themselves. */
#ifndef LIB_OPS_PLAN_H
#define LIB_OPS_PLAN_H

#include "lib/image.h"

enum { PLAN_MAX_DEPTH = 1000 };

/* plan_obstacles.c: what forbids to commit each layer into the next one. */
int plan_find_obstacles(struct img_merge_plan *plan, const struct img *img,
                        const struct img_plan_options *options, struct img_error *err);

/* plan_cost.c */

/*
 * What a commit copies. *COST is owned by the caller, a square of depth - 1: [first * (depth - 1) +
 * last] is the number of bytes that go when layers FIRST to LAST are committed at once: those of
 * FIRST's disk that one of them holds as data. Fills in how much each layer holds.
 */
int plan_measure(struct img_merge_plan *plan, struct img *img, uint64_t **cost,
                 struct img_error *err);

/* Chooses the commits that copy least, and among those the fewest, from the lowest upwards. */
int plan_choose(struct img_merge_plan *plan, const uint64_t *cost, struct img_error *err);

#endif
