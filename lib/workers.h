/*
 * The same steps for piece after piece of a long job, on several threads.
 *
 *   take     in order, one at a time: what the next piece is
 *   work     for several pieces at once: read, decompress, look for zeroes, compress
 *   settle   in order again, one at a time: where the piece goes
 *   finish   for several pieces at once: write it there
 *
 * Since take and settle see the pieces in their order, the outcome does not depend on how many
 * threads there are. When a step fails, the pieces before it are still finished, those behind it
 * are not settled any more, and the error is that of the first piece that failed.
 */
#ifndef LIB_WORKERS_H
#define LIB_WORKERS_H

#include "lib/error.h"

#include <stddef.h>

struct workers_job {
    void *opaque;
    size_t slot_size; /* of a piece, which starts zeroed and is used again for a later one */
    /* 1: there is a piece, 0: there are no more, or -errno. May run beside settle. */
    int (*take)(void *opaque, void *slot, struct img_error *err);
    /* These are 0 or -errno; work, settle and finish may be NULL. */
    int (*work)(void *opaque, void *slot, struct img_error *err);
    int (*settle)(void *opaque, void *slot, struct img_error *err);
    int (*finish)(void *opaque, void *slot, struct img_error *err);
    /* Frees what a slot has gathered. May be NULL. */
    void (*clear)(void *opaque, void *slot);
};

/*
 * Runs JOB to its end in COUNT threads (at least 1), of which the caller's is one; with 1, no other
 * is started. As many slots are in use as there are threads.
 */
int workers_run(const struct workers_job *job, unsigned count, struct img_error *err);

/* How many processors this process may use. */
unsigned workers_processors(void);

#endif
