/* The list of an image's internal snapshots, as text. */
#ifndef TOOLS_SNAPSHOT_LIST_H
#define TOOLS_SNAPSHOT_LIST_H

#include <imgtool.h>
#include <stdio.h>

/* Nothing where there are none. */
void print_snapshots(FILE *out, const struct img_info *info);

#endif
