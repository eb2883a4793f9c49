/* Options of a running machine that say nothing about what an image holds. */
#ifndef LIB_REF_RUNTIME_H
#define LIB_REF_RUNTIME_H

#include "lib/error.h"

/* 1: KEY is such an option of images in FORMAT, and nothing is to be done; 0: it is none. Complains
 * about a VALUE that it cannot have. */
int ref_runtime_option(const char *format, const char *key, const char *value,
                       struct img_error *err);

#endif
