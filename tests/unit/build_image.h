/* More of what an image can hold, for tests that need all of it. */
#ifndef BUILD_IMAGE_H
#define BUILD_IMAGE_H

#include "make_qcow2.h"

/* Bytes that differ everywhere, none of them zero. */
void fill_bytes(uint8_t *p, size_t n, unsigned seed);

/* Adds a cluster of such bytes. */
size_t image_add_filled(struct image *m, unsigned seed);

/* Another L2 table, for L1_INDEX; entries go there from now on. COPIED: the flag, or 0. */
void image_add_l2(struct image *m, size_t l1_index, uint64_t copied);

/* Two streams in one host cluster, for clusters INDEX and INDEX + 1. */
void image_add_compressed(struct image *m, size_t index);

/* Makes every refcount what it has to be. */
void image_settle_refcounts(struct image *m);

#endif
