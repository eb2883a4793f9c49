/*
 * What a power failure can leave of a recorded run. Whatever came before the last completed flush
 * of a file is on disk; of the calls after it, any may have landed and any may not, in the order in
 * which they were made, and a write may have landed in part, by sectors of 512 bytes.
 *
 * The power fails before each flush completes and after each step is reported done. At such a point
 * of N calls that are not durable yet these states are taken:
 *   every prefix of the calls; every subset of them when there are up to 12; up to a limit shared
 *   by all points, writes torn at every sector, all calls but one, and drawn at random: subsets,
 *   prefixes that lack a call, prefixes and subsets with torn writes
 */
#ifndef CRASH_STATES_H
#define CRASH_STATES_H

#include "record.h"

#include <stdio.h>

enum { SUBSETS_UP_TO = 12 };

struct state {
    const struct disk *disks; /* one a file of the log */
    bool appeared;            /* the second file has its own name */
    /* The steps that may be seen: LO is the last that is known to survive. RUNNING: HI has not
     * been reported done. */
    unsigned lo, hi;
    bool running;
    uint64_t hash; /* of the contents */
    const struct choice *choice;
};

struct states_options {
    uint64_t seed;
    size_t limit;    /* states, about; 0: the prefixes alone */
    long drop_flush; /* this flush of the log does nothing; -1: all work */
};

struct states_count {
    size_t generated, distinct;
};

/* False ends the walk. */
typedef bool state_fn(void *opaque, const struct state *s);

/* Calls FN for each distinct state; true when none of them ended the walk. COUNT is added to. */
bool states_each(const struct log *l, const struct states_options *options, state_fn *fn,
                 void *opaque, struct states_count *count);

/* Which calls made the state, in words. */
void state_print(FILE *out, const struct log *l, const struct state *s);

void log_print(FILE *out, const struct log *l);

/* Flushes in the log. */
long log_flushes(const struct log *l);

uint64_t hash_bytes(uint64_t hash, const void *data, size_t len);

/* A random number, below N; N is not 0. */
uint64_t draw(uint64_t *seed);
uint64_t draw_below(uint64_t *seed, uint64_t n);

#endif
