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

/* Removes NAME from FOLDER, which is OWNER's; NULL: from where runtime_write writes. 0 or -errno.
 */
int runtime_remove(const char *folder, uid_t owner, const char *name);

/* Calls FN for each file in this user's folders, whichever was the first when it was written, and
 * for root in every user's; OWNER is whose FOLDER is, FD is the open file. */
typedef void runtime_fn(void *opaque, const char *folder, uid_t owner, const char *name, int fd);
void runtime_each(runtime_fn *fn, void *opaque);

#endif
