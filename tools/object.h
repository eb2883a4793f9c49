/* --object, which QEMU's programs take: secrets and their like, of which nothing here makes use. */
#ifndef TOOLS_OBJECT_H
#define TOOLS_OBJECT_H

#include "tool.h"

/* Is TEXT ("secret,id=NAME,..." or JSON) an object that qemu-img would take? Else complains, or
 * lists the types when it asks for help, and returns 1 with *EXIT_CODE. */
int object_check(struct tool *tool, const char *text, int *exit_code);

#endif
