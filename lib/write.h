/* The write loop, and what surrounds it: parts of one idea in two files. */
#ifndef LIB_WRITE_H
#define LIB_WRITE_H

#include "lib/image.h"

/* Can this range be written? WHAT is done to it, for the message. */
int write_start(struct img *img, uint64_t offset, uint64_t length, const char *what,
                struct img_error *err);

/* Writes a range that write_start has let through. */
int write_data(struct img *img, const void *buf, uint64_t length, uint64_t offset,
               struct img_error *err);

/* The first of these bytes, P->LENGTH of them. With LATE, which needs "fill_late" of the layer,
 * they may be left to be written to the place P: then P->MAY_BE_LATE is true. */
int write_some(struct img *img, const void *buf, uint64_t length, uint64_t offset, bool late,
               struct placement *p, struct img_error *err);
/* Says where RET came from. */
int write_failed(const struct img *img, uint64_t offset, int ret, struct img_error *err);

/* Gives the cluster at OFFSET, a whole one but for the disk's end, the bytes of which a compressor
 * has made STORED. */
int write_compressed(struct img *img, const void *stored, size_t length, uint64_t offset,
                     struct img_error *err);

/* *ALL: do the tables alone say that a range reads as zeroes? Past the end of the disk it does. */
int write_find_zeroes(struct img *img, uint64_t offset, uint64_t length, bool *all,
                      struct img_error *err);

#endif
