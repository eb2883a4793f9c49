#include "report.h"
#include "repair.h"

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
    bool repair; /* bring the states through a repair */
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

static bool go_on(const struct trial *t)
{
    return !t->report->settings->first || (t->subject->flags & EXPECT_BAD);
}

/* Every state is repaired; so many that were damaged are crashed at length, the others at every
 * prefix of the repair's calls. */
static bool try_repair(struct trial *t, const struct state *s)
{
    const struct settings *o = t->report->settings;
    size_t limit = t->tally.repaired < o->states / 20 ? o->states / 20 : 0;
    struct verdict v;
    bool clean;
    bool any = s->running && t->judge->only_after; /* then nothing is promised */
    if (!t->repair || any || !scene_has_qcow2(t->judge->scene, s->disks))
        return true;
    bool good = repair_state(t->judge, s, o->seed, limit, &clean, &v, &t->tally.repair_states);
    t->tally.repaired += !clean;
    if (good)
        return true;
    t->tally.unrepaired++;
    show(t, s, &v);
    return go_on(t);
}

static bool try_state(void *opaque, const struct state *s)
{
    struct trial *t = opaque;
    struct verdict v;
    if (judge_state(t->judge, s, &v))
        return try_repair(t, s);
    t->tally.corrupt += v.corrupt;
    t->tally.leaked += v.leaked;
    t->tally.neither += v.neither;
    show(t, s, &v);
    return go_on(t);
}

static void add_tally(struct tally *sum, const struct tally *t)
{
    sum->states.generated += t->states.generated;
    sum->states.distinct += t->states.distinct;
    sum->corrupt += t->corrupt;
    sum->leaked += t->leaked;
    sum->neither += t->neither;
    sum->repaired += t->repaired;
    sum->unrepaired += t->unrepaired;
    sum->repair_states.generated += t->repair_states.generated;
    sum->repair_states.distinct += t->repair_states.distinct;
}

static struct tally try_all(struct report *r, const struct subject *s, const struct log *log,
                            const struct judge *j, bool quiet)
{
    struct trial t = {
        .report = r, .subject = s, .log = log, .judge = j, .quiet = quiet, .repair = !quiet};
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
    bool bad = t.corrupt + t.leaked + t.neither + t.unrepaired;
    if (r->settings->verbose)
        printf("%s (%s): %zu calls, %ld flushes, %zu states, %zu distinct\n", s->command, s->image,
               log->count, log_flushes(log), t.states.generated, t.states.distinct);
    add_tally(&row->ours, &t);
    row->runs++;
    if (wrong && !expected(s, &t))
        report_failure(r, s, "no state of this wrong writer is %s", s->expect);
    else if (!wrong && bad)
        report_failure(r, s,
                       "%zu states corrupt, %zu leaked, %zu neither old nor new, %zu not repaired",
                       t.corrupt, t.leaked, t.neither, t.unrepaired);
}

/* A recorded run on its way to the judge. */
struct run {
    struct stage stage;
    struct log *log;
    struct log script_log;
    struct disk end;
    struct judge judge;
    bool good;
    struct img_error err;
};

static void end_run(struct run *u)
{
    recorder_free(&u->stage.recorder);
    log_free(&u->script_log);
    disk_free(&u->end);
    judge_free(&u->judge);
    img_error_clear(&u->err);
}

/* The files that scene_make has left are used up by one script. */
static void record(struct run *u, const char *script, unsigned flags, const struct scene *scene)
{
    *u = (struct run){.judge.scene = scene};
    u->log = &u->script_log;
    u->good = record_script(u->log, &u->end, script, flags, scene, &u->judge, &u->err) == 0;
}

static void settle(struct run *u, unsigned flags, struct checker *checker)
{
    u->judge.checker = checker;
    u->good = u->good && stage_settle(&u->judge, &u->end, flags, &u->err) == 0;
}

static void run_ours(struct report *r, struct row *row, const struct subject *s, struct run *u)
{
    if (!u->good)
        report_failure(r, s, "%s", img_error_message(&u->err));
    else if (r->settings->drop)
        report_dropped(r, row, s, u->log, &u->judge);
    else
        judge_run(r, row, s, u->log, &u->judge);
}

/* What QEMU does is worth knowing, never a failure. */
static void run_theirs(struct report *r, struct row *row, const struct subject *s, struct run *u)
{
    u->judge.qemu_alone = true;
    if (!u->good) {
        printf("QEMU's own %s (%s) cannot be measured: %s\n", s->command, s->image,
               img_error_message(&u->err));
        return;
    }
    struct tally t = try_all(r, s, u->log, &u->judge, true);
    add_tally(&row->theirs, &t);
    row->has_theirs = true;
}

static void try_subject(struct report *r, struct row *row, const struct subject *s,
                        const struct scene *scene, struct run *theirs, struct run *ours)
{
    bool check = r->settings->use_qemu && !(s->flags & NO_CHECKER);
    struct checker *checker = check ? checker_start(scene->files, &scene->base) : NULL;
    if (s->run) {
        *ours = (struct run){.judge = {.scene = scene, .checker = checker}};
        ours->log = &ours->stage.recorder.log;
        ours->good = stage_run(&ours->stage, s, scene, &ours->judge, r->settings->seed,
                               &ours->err) == 0;
    } else {
        ours->judge.again = s->again;
        settle(ours, s->flags, checker);
    }
    run_ours(r, row, s, ours);
    if (theirs->log) {
        settle(theirs, s->flags | DAMAGED, checker);
        run_theirs(r, row, s, theirs);
    }
    checker_stop(checker);
}

static void make_scene(struct scene *scene, const struct subject *s)
{
    scene_make(scene, s->image);
    scene->damaged = s->flags & DAMAGED;
}

void report_subject(struct report *r, const struct subject *s)
{
    const struct settings *o = r->settings;
    if (o->first && r->failures)
        return;
    if (o->only && !strstr(s->command, o->only) && !strstr(s->image, o->only))
        return;
    struct scene scene;
    struct run theirs = {0}, ours = {0};
    bool compare = o->qemu_rows && o->use_qemu && s->qemu;
    make_scene(&scene, s);
    if (compare)
        record(&theirs, s->qemu, s->flags, &scene);
    if (!s->run && compare) {
        scene_free(&scene);
        make_scene(&scene, s);
    }
    if (!s->run)
        record(&ours, s->script, s->flags, &scene);
    try_subject(r, row_of(r, s->command), s, &scene, &theirs, &ours);
    end_run(&theirs);
    end_run(&ours);
    scene_free(&scene);
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
    printf("%-28s %4s%s repaired (states)%s\n", "", "runs", head, theirs ? head : "");
    for (size_t i = 0; i < r->count; i++) {
        const struct row *row = &r->rows[i];
        printf("%-28s %4u", row->command, row->runs);
        print_tally(&row->ours);
        printf(" %8zu %8zu", row->ours.repaired, row->ours.repair_states.distinct);
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
    printf("%-28s %8s %8s %8s %8s %8s\n", "each flush left out", "flushes", "idle", "found",
           "needless", "missed");
    for (size_t i = 0; i < r->count; i++) {
        const struct row *row = &r->rows[i];
        printf("%-28s %8zu %8zu %8zu %8zu %8zu\n", row->command, row->flushes, row->idle,
               row->found, row->needless, row->missed);
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
