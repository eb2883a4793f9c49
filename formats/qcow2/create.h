/* Making new images: see struct driver. */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include "lib/driver.h"

extern const struct option_desc qcow2_create_options[];

int qcow2_plan(struct create_plan *plan, const struct option_set *options, struct img_error *err);
int qcow2_create(const struct create_plan *plan, struct file *f, struct img_error *err);

#endif
