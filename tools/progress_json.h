/*
 * How far a job is, for programs: a line at the first step, then one a second, whether there was a
 * step or not, then, if the job succeeded, a last one with done = total:
 *
 *   {"phase": "copy", "done": 1048576, "total": 4194304, "rate": 524288, "seconds-left": 6}
 *
 * and, before the first step of a copy to a block device (how: "unmap", "device" or "write"):
 *
 *   {"device": "/dev/sdb", "zeroing": "unmap"}
 *
 * Bytes, bytes a second since the phase began, and seconds; the last two are null where nobody
 * knows yet. What cannot be written is dropped: a job does not fail because nobody listens.
 */
#ifndef TOOLS_PROGRESS_JSON_H
#define TOOLS_PROGRESS_JSON_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct progress_json {
    int fd;
    pthread_t thread; /* writes all of the lines */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* begun or over */
    bool begun, over, succeeded;
    const char *phase;
    uint64_t done, total;
    uint64_t phase_done; /* when it began */
    double phase_start;
};

/* PHASE until there is another. -1 and errno when there can be no thread. */
int progress_json_start(struct progress_json *j, int fd, const char *phase);
void progress_json_update(struct progress_json *j, const char *phase, uint64_t done,
                          uint64_t total);
/* Before the first step: a line that says how zeroes come about on a block device. */
void progress_json_zeroing(const struct progress_json *j, const char *device, const char *how);
/* The last line is written when it returns. */
void progress_json_end(struct progress_json *j, bool succeeded);

#endif
