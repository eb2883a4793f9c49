/* Trying subjects and counting what comes of it. */
#ifndef CRASH_REPORT_H
#define CRASH_REPORT_H

#include "subjects.h"

struct settings {
    uint64_t seed;
    size_t states;    /* a subject, about */
    const char *only; /* subjects whose command or image has these words */
    bool use_qemu, qemu_rows, drop, verbose;
    bool first;   /* one failure is enough */
    bool list;    /* only say which subjects there are */
    long subject; /* this one alone; -1: all */
};

struct tally {
    struct states_count states;
    size_t corrupt, leaked, neither;   /* of the distinct ones */
    size_t repaired, unrepaired;       /* states that were damaged, or should not have been */
    struct states_count repair_states; /* of the repairs themselves */
};

/* A row of the report. */
struct row {
    const char *command;
    unsigned runs;
    struct tally ours, theirs;
    bool has_theirs;
    size_t flushes, idle, found, needless, missed; /* of --drop */
};

struct report {
    const struct settings *settings;
    struct row *rows;
    size_t count;
    unsigned failures;
    unsigned long number; /* of the subject at hand */
};

void report_subject(struct report *r, const struct subject *s);

/* Prints the table. False: something was wrong. */
bool report_end(struct report *r);

/* dropped.c: each flush of the run left out in turn. */
void report_dropped(struct report *r, struct row *row, const struct subject *s,
                    const struct log *log, struct judge *j);

/* Puts the words for a failure on the screen. */
void report_failure(struct report *r, const struct subject *s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
