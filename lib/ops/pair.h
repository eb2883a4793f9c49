/*
 * Two chains side by side, by extents: where they must read the same, and where they read as
 * zeroes, as their mappings alone tell it.
 *
 * They read the same where the same layer decides in both (the same file in the same format,
 * whatever names led to it), where both lead to the same bytes of the same file, and where both
 * read as zeroes. A file's holes count as zeroes.
 */
#ifndef LIB_OPS_PAIR_H
#define LIB_OPS_PAIR_H

#include "lib/image.h"

/* One of them. Past its end, and where there is none (IMG is NULL), it reads as zeroes. */
struct pair_side {
    struct img *img;
    struct chain_walk walk;
};

struct pair {
    struct pair_side sides[2];
};

/* The stretch from an offset on. */
struct pair_stretch {
    uint64_t length;
    bool same;    /* nothing has to be read to know that both read the same */
    bool zero[2]; /* this side reads as zeroes */
};

/* The images are borrowed. */
int pair_init(struct pair *p, struct img *one, struct img *other, struct img_error *err);
void pair_free(struct pair *p);

/* The stretch at OFF, MAX bytes at most. For one thread at a time; cheap in ascending order. */
int pair_map(struct pair *p, uint64_t off, uint64_t max, struct pair_stretch *out,
             struct img_error *err);

/* Reads LENGTH bytes of a side. Safe from several threads at once. */
int pair_read(const struct pair_side *s, void *buf, size_t length, uint64_t off,
              struct img_error *err);

#endif
