/* What an image says of the file below it, and letting go of all that it holds itself. */
#ifndef QCOW2_BACKING_H
#define QCOW2_BACKING_H

#include "lib/driver.h"

/* See struct driver. */
int qcow2_set_backing(struct layer *l, const char *name, const char *format, bool only_check,
                      struct img_error *err);
int qcow2_plan_names(struct layer *l, const struct layer_names *names, struct head_change *out,
                     struct img_error *err);
int qcow2_make_empty(struct layer *l, struct img_error *err);

#endif
