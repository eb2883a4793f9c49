/* Committing: lib/ops/commit*.c among themselves. */
#ifndef LIB_OPS_COMMIT_H
#define LIB_OPS_COMMIT_H

#include "lib/image.h"

struct commit {
    const struct img_commit_options *options;
    struct img *img;  /* the image and its whole chain */
    unsigned into;    /* which layer of it is the base */
    struct img upper; /* the layers above the base, which these are */
    struct img base;  /* the base and what is below it, likewise; opened to be written */
    bool swept;       /* the base, of what an interrupted run has left in it */
    struct img_commit_result result;
};

/* commit_check.c */
/* Sets INTO. */
int commit_find_base(struct commit *c, struct img_error *err);
/* -EBUSY when the base's old contents are needed. */
int commit_check_needed(const struct commit *c, struct img_error *err);

/* To be called before the base is written. */
int commit_sweep(struct commit *c, struct img_error *err);

/* commit_copy.c: the base gets all that the layers above it hold. Not flushed. */
int commit_copy(struct commit *c, struct img_error *err);

#endif
