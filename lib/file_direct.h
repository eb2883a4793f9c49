/* What file_posix.c does for a file that is used past the host's cache. */
#ifndef LIB_FILE_DIRECT_H
#define LIB_FILE_DIRECT_H

#include "lib/file.h"

int64_t direct_pread(struct file *f, void *buf, size_t len, host_off off);
int direct_pwrite(struct file *f, const void *buf, size_t len, host_off off);

#endif
