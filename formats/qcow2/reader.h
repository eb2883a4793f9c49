/* Reads a table of records from front to back, through a small window: memory does not follow size.
 */
#ifndef QCOW2_READER_H
#define QCOW2_READER_H

#include "lib/file.h"

struct reader {
    struct file *file;
    uint64_t at, end; /* host offsets: the next byte, and where the table must stop */
    uint64_t window_start;
    size_t window_length;
    uint8_t window[4096];
};

void reader_init(struct reader *r, struct file *f, host_off start, uint64_t length);

/* The next LEN bytes; past the table's end is -EINVAL. */
int reader_get(struct reader *r, void *buf, size_t len, struct img_error *err);

/* The next LEN bytes as a string, owned by the caller. */
int reader_get_string(struct reader *r, char **out, size_t len, struct img_error *err);

int reader_skip(struct reader *r, uint64_t len, struct img_error *err);

#endif
