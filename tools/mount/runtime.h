/* A folder of this user's, which ends with the machine: notes and records of what is mounted. */
#ifndef TOOLS_MOUNT_RUNTIME_H
#define TOOLS_MOUNT_RUNTIME_H

#include <stddef.h>
#include <sys/types.h>

/* Reads at most ROOM - 1 bytes of the file NAME and ends them with a NUL; their number or -errno.
 */
ssize_t runtime_read(const char *name, char *text, size_t room);

/* Makes NAME hold LENGTH bytes, at once. 0 or -errno. */
int runtime_write(const char *name, const char *text, size_t length);

int runtime_remove(const char *name);

/* Calls FN for each file of the folder, and for root of every user's; OWNER is whose it is, FD is
 * the open file. */
void runtime_each(void (*fn)(void *opaque, uid_t owner, const char *name, int fd), void *opaque);

#endif
