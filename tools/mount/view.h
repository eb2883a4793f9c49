/* An internal snapshot, in files that the appliance can open. */
#ifndef TOOLS_MOUNT_VIEW_H
#define TOOLS_MOUNT_VIEW_H

#include "guest.h"

/* Makes them, in a temporary folder. *PATH: the caller's, free(). Complains, and returns 1, when
 * it fails. */
int view_make(struct guest *guest, char **path);

/* Removes the folder and what is in it. */
void view_remove(struct guest *guest);

#endif
