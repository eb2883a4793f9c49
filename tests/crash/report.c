#include "report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_STATES = 3 }; /* bad states of a subject that are printed */

/* One run being judged. */
struct trial {
    struct report *report;
    const struct subject *subject;
    const struct log *log;
    const struct judge *judge;
    struct tally tally;
    bool quiet;
    unsigned shown;
};

void report_failure(struct report *r, const struct subject *s, const char *fmt, ...)
{
    va_list ap;
    r->failures++;
    printf("FAILED %s (%s): ", s->command, s->image);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

static void show(struct trial *t, const struct state *s, const struct verdict *v)
{
    if (t->quiet || t->shown++ >= SHOWN_STATES)
        return;
    printf("bad state of %s (%s): %s\n  ", t->subject->command, t->subject->image, v->why);
    state_print(stdout, t->log, s);
}

static bool try_state(void *opaque, const struct state *s)
{
    struct trial *t = opaque;
    struct verdict v;
    if (judge_state(t->judge, s, &v))
        return true;
    t->tally.corrupt += v.corrupt;
    t->tally.leaked += v.leaked;
    t->tally.neither += v.neither;
    show(t, s, &v);
    return true;
}

static void add_tally(struct tally *sum, const struct tally *t)
{
    sum->states.generated += t->states.generated;
    sum->states.distinct += t->states.distinct;
    sum->corrupt += t->corrupt;
    sum->leaked += t->leaked;
    sum->neither += t->neither;
    sum->repaired += t->repaired;
    sum->repair_states += t->repair_states;
}

static struct tally try_all(struct report *r, const struct subject *s, const struct log *log,
                            const struct judge *j, bool quiet)
{
    struct trial t = {.report = r, .subject = s, .log = log, .judge = j, .quiet = quiet};
    struct states_options o = {
        .seed = r->settings->seed, .limit = r->settings->states, .drop_flush = -1};
    states_each(log, &o, try_state, &t, &t.tally.states);
    return t.tally;
}

/* ---- subjects ----------------------------------------------------------------------------- */

static struct row *row_of(struct report *r, const char *command)
{
    for (size_t i = 0; i < r->count; i++)
        if (!strcmp(r->rows[i].command, command))
            return &r->rows[i];
    r->rows = must(realloc(r->rows, (r->count + 1) * sizeof *r->rows));
    r->rows[r->count] = (struct row){.command = command};
    return &r->rows[r->count++];
}

static bool expected(const struct subject *s, const struct tally *t)
{
    return !strcmp(s->expect, "corrupt")  ? t->corrupt
           : !strcmp(s->expect, "leaked") ? t->leaked
                                          : t->neither;
}

static void judge_run(struct report *r, struct row *row, const struct subject *s,
                      const struct log *log, struct judge *j)
{
    bool wrong = s->flags & EXPECT_BAD;
    struct tally t = try_all(r, s, log, j, wrong && !r->settings->verbose);
    bool bad = t.corrupt + t.leaked + t.neither;
    if (r->settings->verbose)
        printf("%s (%s): %zu calls, %ld flushes, %zu states, %zu distinct\n", s->command, s->image,
               log->count, log_flushes(log), t.states.generated, t.states.distinct);
    add_tally(&row->ours, &t);
    row->runs++;
    if (wrong && !expected(s, &t))
        report_failure(r, s, "no state of this wrong writer is %s", s->expect);
    else if (!wrong && bad)
        report_failure(r, s, "%zu states corrupt, %zu leaked, %zu neither old nor new", t.corrupt,
                       t.leaked, t.neither);
}

static void run_ours(struct report *r, struct row *row, const struct subject *s,
                     const struct scene *scene, struct checker *checker)
{
    struct img_error err = IMG_ERROR_INIT;
    struct judge j = {.scene = scene, .checker = checker};
    struct stage stage;
    if (stage_run(&stage, s, scene, &j, r->settings->seed, &err) < 0)
        report_failure(r, s, "%s", img_error_message(&err));
    else if (r->settings->drop)
        report_dropped(r, row, s, &stage.recorder.log, &j);
    else
        judge_run(r, row, s, &stage.recorder.log, &j);
    recorder_free(&stage.recorder);
    judge_free(&j);
    img_error_clear(&err);
}

/* What QEMU does is worth knowing, never a failure. */
static void judge_theirs(struct report *r, struct row *row, const struct subject *s,
                         const struct log *log, const struct judge *j)
{
    struct tally t = try_all(r, s, log, j, true);
    add_tally(&row->theirs, &t);
    row->has_theirs = true;
}

void report_subject(struct report *r, const struct subject *s)
{
    const struct settings *o = r->settings;
    if (o->only && !strstr(s->command, o->only) && !strstr(s->image, o->only))
        return;
    struct img_error err = IMG_ERROR_INIT;
    struct scene scene;
    struct log log = {0};
    struct row *row = row_of(r, s->command);
    scene_make(&scene, s->image);
    struct judge theirs = {.scene = &scene};
    bool recorded = o->qemu_rows && s->qemu && record_qemu(&log, s, &scene, &theirs, &err);
    if (o->qemu_rows && s->qemu && !recorded)
        printf("qemu's own %s (%s) cannot be measured: %s\n", s->command, s->image,
               img_error_message(&err));
    struct checker *checker = o->use_qemu ? checker_start(scene.files, &scene.base) : NULL;
    run_ours(r, row, s, &scene, checker);
    theirs.checker = checker;
    if (recorded)
        judge_theirs(r, row, s, &log, &theirs);
    checker_stop(checker);
    log_free(&log);
    judge_free(&theirs);
    scene_free(&scene);
    img_error_clear(&err);
    fflush(stdout);
}

/* ---- the table ---------------------------------------------------------------------------- */

static void print_tally(const struct tally *t)
{
    printf(" | %8zu %8zu %7zu %6zu %7zu", t->states.generated, t->states.distinct, t->corrupt,
           t->leaked, t->neither);
}

static void print_states(const struct report *r)
{
    const char *head = " |   states distinct corrupt leaked neither";
    bool theirs = r->settings->qemu_rows;
    printf("%-28s %4s%s%s\n", "", "runs", head, theirs ? head : "");
    for (size_t i = 0; i < r->count; i++) {
        const struct row *row = &r->rows[i];
        printf("%-28s %4u", row->command, row->runs);
        print_tally(&row->ours);
        if (row->has_theirs)
            print_tally(&row->theirs);
        else if (theirs)
            printf(" |        -        -       -      -       -");
        putchar('\n');
    }
    if (theirs)
        puts("Left: imgtool. Right: QEMU's own programs doing the same.");
}

static void print_dropped(const struct report *r)
{
    printf("%-28s %8s %8s %8s %8s\n", "a flush left out", "flushes", "idle", "found", "missed");
    for (size_t i = 0; i < r->count; i++) {
        const struct row *row = &r->rows[i];
        printf("%-28s %8zu %8zu %8zu %8zu\n", row->command, row->flushes, row->idle, row->found,
               row->missed);
    }
}

bool report_end(struct report *r)
{
    if (r->settings->drop)
        print_dropped(r);
    else
        print_states(r);
    if (!r->count)
        puts("no subject has that name");
    bool good = r->count && !r->failures;
    free(r->rows);
    return good;
}
