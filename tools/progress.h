/*
 * How far a long job is: the same for every command that has one.
 *
 *   -p, --progress         a percentage on standard output, overwritten in place, as qemu-img has
 * it SIGUSR1                asks for a line on standard error, at the job's next step
 *   --progress=json[:FD]   a line a second to a file descriptor (progress_json.h)
 *
 * A command keeps a zeroed struct progress, hands 'p' to progress_option, calls progress_start
 * before the work and progress_end behind it, and gives the library progress_update.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include "progress_json.h"
#include "tool.h"

struct progress {
    bool text, json;  /* which of them were asked for */
    bool begun;       /* there was a step */
    int fd;           /* where the JSON goes */
    float now, shown; /* per cent; the second is what was printed last */
    struct progress_json lines;
};

/* For a command's table of long options; "p" belongs into its short ones. */
#define PROGRESS_OPTION                                                                            \
    {                                                                                              \
        "progress", optional_argument, 0, 'p'                                                      \
    }

/* For its help. */
#define PROGRESS_HELP                                                                              \
    "  -p, --progress\n     show how far it is; SIGUSR1 asks for that at any time;\n"              \
    "     --progress=json[:FD] writes a line of JSON a second to file descriptor FD (default 2)\n"

/* Reads option 'p'; VALUE is optarg. Complains, and returns 1, when it is wrong. */
int progress_option(struct tool *tool, struct progress *p, const char *value);

/* One at a time in a program: a signal leads to it. QUIET takes -p back. Complains, and returns 1,
 * when it cannot be done. */
int progress_start(struct tool *tool, struct progress *p, bool quiet);

/* For the library's "progress"; OPAQUE is a struct progress. */
void progress_update(void *opaque, const char *phase, uint64_t done, uint64_t total);

/* Before the first step: a line of its own. */
void progress_zeroing(struct progress *p, const char *device, enum img_zeroing how);

/* It failed after its first step: qemu-img amend shows 100 per cent then. */
void progress_give_up(struct progress *p);

/* The job is over, and ended with exit code CODE. */
void progress_end(struct progress *p, int code);

#endif
