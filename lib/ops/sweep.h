/* Leaked clusters that an interrupted run has left in an image that is about to be written. */
#ifndef LIB_OPS_SWEEP_H
#define LIB_OPS_SWEEP_H

#include "lib/image.h"

/*
 * Frees the clusters of the layer that nothing references. It was opened to be written, and has
 * not been written yet. What cannot be freed stays: an image with other damage is left as it is.
 * Fails only when it is interrupted or out of memory. Time and memory: those of img_check.
 */
int sweep_leaks(struct layer *l, struct img_error *err);

#endif
