/* What file_posix.c does on block devices alone. */
#ifndef LIB_FILE_DEVICE_H
#define LIB_FILE_DEVICE_H

#include "lib/file.h"

/* Shorter ranges are written. */
enum { DEVICE_LEAST = 64 << 10 };

/* Asks F's device how it makes zeroes, and how long its blocks are. */
void device_learn(struct file *f);

/* For struct file_ops. */
int device_zero(struct file *f, host_off off, uint64_t len);
int device_zero_keep(struct file *f, host_off off, uint64_t len);

#endif
