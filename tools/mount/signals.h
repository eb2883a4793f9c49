/* SIGINT, SIGTERM and SIGHUP end the appliance, or the mount, in good order. */
#ifndef TOOLS_MOUNT_SIGNALS_H
#define TOOLS_MOUNT_SIGNALS_H

#include <stdbool.h>

/* From now on a thread waits for these signals: the first ends the appliance. */
void signals_start(void);

/* From now on they unmount DIR instead. NULL: do nothing more. DIR must stay. */
void signals_unmount(const char *dir);

/* Has one come? */
bool signals_pending(void);

/* In a child of ours: nothing is done about them, and they do nothing. */
void signals_ignore(void);

/* Runs fusermount -u on DIR. 0, or -1: it could not be unmounted, and it has said why unless
 * QUIET. */
int unmount_fuse(const char *dir, bool quiet);

#endif
