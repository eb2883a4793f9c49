/* Which parts of the disk were written: bits of GRANULARITY bytes each, as many as were touched. */
#ifndef QCOW2_WRITE_LOG_H
#define QCOW2_WRITE_LOG_H

#include "lib/error.h"

#include <stdbool.h>
#include <stdint.h>

struct write_log {
    unsigned granularity_bits;
    uint64_t leaf_count;
    uint8_t **leaves; /* NULL: nothing was written there */
};

int write_log_init(struct write_log *log, uint64_t size, unsigned granularity_bits,
                   struct img_error *err);
void write_log_free(struct write_log *log);

/* Makes room to note a range, so that noting it cannot fail. */
int write_log_reserve(struct write_log *log, uint64_t offset, uint64_t length,
                      struct img_error *err);
void write_log_note(struct write_log *log, uint64_t offset, uint64_t length);

/* Was anything written in the range? */
bool write_log_any(const struct write_log *log, uint64_t offset, uint64_t length);

#endif
