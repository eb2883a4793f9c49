/* Changing an image's snapshots: what the driver table names. */
#ifndef QCOW2_SNAPSHOT_CHANGE_H
#define QCOW2_SNAPSHOT_CHANGE_H

#include "lib/driver.h"

int qcow2_snapshot_create(struct layer *l, const char *name, struct img_error *err);
int qcow2_snapshot_apply(struct layer *l, const char *id_or_name, struct img_error *err);
int qcow2_snapshot_delete(struct layer *l, const char *name, struct img_error *err);

#endif
