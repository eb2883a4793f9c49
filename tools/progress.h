/*
 * How far a long job is: a percentage on standard output, overwritten in place, as qemu-img's -p
 * shows it; without -p, a line on standard error for every SIGUSR1.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

enum progress_style {
    PROGRESS_QUIET, /* only when a signal asks */
    PROGRESS_TEXT,
};

struct progress {
    enum progress_style style;
    float now, shown; /* per cent; the second is what was printed last */
};

/* One at a time in a program: a signal leads to it. */
void progress_start(struct progress *p, enum progress_style style);

/* DONE of TOTAL; OPAQUE is a struct progress: for the library's "progress". */
void progress_update(void *opaque, uint64_t done, uint64_t total);

/* The job is over, well or not. */
void progress_end(const struct progress *p);

#endif
