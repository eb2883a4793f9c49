/* Who holds a lock: the kernel does not say, but /proc does. */
#ifndef LIB_LOCK_HOLDER_H
#define LIB_LOCK_HOLDER_H

#include "lib/file.h"

/* "qemu-io (process 123)" for a program that holds BYTE of F, or NULL where none can be seen. Owned
 * by the caller. */
char *lock_find_holder(const struct file *f, unsigned byte);

#endif
