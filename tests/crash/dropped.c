/*
 * Is each flush needed, and would the harness see that it is missing? Each flush of a run is left
 * out in turn; then some state must be bad. One before which nothing was written since the last, or
 * that another one follows at once, is idle: it can be left out.
 */
#include "report.h"

#include <stdlib.h>
#include <string.h>

struct hunt {
    const struct judge *judge;
    const struct log *log;
    bool found;
    char why[WHY_LENGTH];
};

static bool hunt_state(void *opaque, const struct state *s)
{
    struct hunt *h = opaque;
    struct verdict v;
    if (judge_state(h->judge, s, &v))
        return true;
    h->found = true;
    memcpy(h->why, v.why, sizeof h->why);
    return false;
}

/* The call that follows number I and concerns FILE, or a step that is done: that is told to
 * everybody. */
static const struct op *next_of(const struct log *log, size_t i, unsigned file)
{
    while (++i < log->count)
        if (log->ops[i].kind == OP_STEP || log->ops[i].file == file)
            return &log->ops[i];
    return NULL;
}

/* Does flush number N end an epoch in which its file was changed, and no other flush at once? */
static bool has_work(const struct log *log, long n)
{
    bool work[FOLDER + 1] = {0};
    for (size_t i = 0; i < log->count; i++) {
        const struct op *o = &log->ops[i], *next;
        if (o->kind == OP_FLUSH && n-- == 0) {
            next = next_of(log, i, o->file);
            return work[o->file] && !(next && next->kind == OP_FLUSH);
        }
        if (o->kind != OP_STEP)
            work[o->file] = o->kind != OP_FLUSH;
    }
    return false;
}

/* Guest writes flush more than each run of them needs. */
static const char guest_reason[] =
    "in this run nothing depends on it, or only a leak; see the mutants of the sources";

void report_dropped(struct report *r, struct row *row, const struct subject *s,
                    const struct log *log, struct judge *j)
{
    struct checker *checker = j->checker;
    const char *why = s->needless ? s->needless : s->flags & MAY_LEAK ? guest_reason : NULL;
    j->checker = NULL; /* the library sees all that qemu-img does, and is faster */
    for (long n = 0; n < log_flushes(log); n++) {
        struct hunt h = {.judge = j, .log = log};
        struct states_count count = {0};
        struct states_options o = {
            .seed = r->settings->seed, .limit = r->settings->states, .drop_flush = n};
        row->flushes++;
        if (!has_work(log, n)) {
            row->idle++;
            continue;
        }
        states_each(log, &o, hunt_state, &h, &count);
        bool needless = !h.found && why;
        row->found += h.found;
        row->needless += needless;
        row->missed += !h.found && !needless;
        if (needless)
            printf("%s (%s): flush %ld may be left out: %s\n", s->command, s->image, n, why);
        else if (!h.found)
            report_failure(r, s, "flush %ld of %ld is not needed or not seen (%zu states)", n,
                           log_flushes(log), count.distinct);
        else if (r->settings->verbose)
            printf("%s (%s): without flush %ld: %s\n", s->command, s->image, n, h.why);
    }
    if (r->settings->verbose)
        log_print(stdout, log);
    j->checker = checker;
    row->runs++;
}
