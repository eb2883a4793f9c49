/* What a repair would change. */
#ifndef TOOLS_REPAIR_PLAN_H
#define TOOLS_REPAIR_PLAN_H

#include "tool.h"

/* Prints the plan for repairing IMG (WHAT: enum img_repair_what). Returns check's exit code for the
 * image as it is. */
int show_repair_plan(struct tool *tool, struct img *img, unsigned what, const char *filename,
                     bool json);

#endif
