/*
 * crash: shows that power may fail at any instant. Each subject is done once on a file that records
 * every call, then all states that a failure can leave (states.h) are judged (judge.h).
 *
 *   crash [--states N] [--seed N] [--only WORDS] [--qemu-rows] [--no-qemu] [-v] [GROUP...]
 *   crash [...] --drop [GROUP...]   the same with each flush left out in turn: it must be found out
 *   crash --list [GROUP...]         the subjects and their numbers; --subject N takes that one
 * alone
 *
 * --first ends the run with the first failure.
 * Without a GROUP, all but "wrong". The groups are the files subjects_GROUP.c. Environment:
 * QEMU_IMG, QEMU_IO, TMPDIR, BUILD, SEED, CRASH_STATES.
 */
#include "report.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct group *groups;

void group_add(struct group *g)
{
    struct group **at = &groups;
    while (*at && strcmp((*at)->name, g->name) < 0)
        at = &(*at)->next;
    g->next = *at;
    *at = g;
}

static const struct subject *find_group(const char *name)
{
    for (const struct group *g = groups; g; g = g->next)
        if (!strcmp(g->name, name))
            return g->subjects;
    fprintf(stderr, "crash: no group is called '%s'\n", name);
    exit(2);
}

static void run_group(struct report *r, const struct subject *s)
{
    const struct settings *o = r->settings;
    for (; s->command; s++, r->number++)
        if (o->list)
            printf("%lu %s (%s)\n", r->number, s->command, s->image);
        else if (o->subject < 0 || (unsigned long)o->subject == r->number)
            report_subject(r, s);
}

static uint64_t number_of(const char *text, const char *what)
{
    char *end;
    uint64_t n = strtoull(text, &end, 0);
    if (*text && !*end)
        return n;
    fprintf(stderr, "crash: %s '%s' is not a number\n", what, text);
    exit(2);
}

static void read_environment(struct settings *o)
{
    const char *seed = getenv("SEED"), *states = getenv("CRASH_STATES");
    o->seed = seed && *seed ? number_of(seed, "SEED") : (uint64_t)time(NULL);
    o->states = states && *states ? number_of(states, "CRASH_STATES") : 1000;
    o->use_qemu = true;
    o->subject = -1;
}

/* Each state takes and gives back whole disks: the memory is kept, not asked for anew. */
static void keep_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

int main(int argc, char **argv)
{
    struct settings o = {0};
    keep_memory();
    read_environment(&o);
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--states") && more)
            o.states = number_of(argv[++i], "--states");
        else if (!strcmp(argv[i], "--seed") && more)
            o.seed = number_of(argv[++i], "--seed");
        else if (!strcmp(argv[i], "--only") && more)
            o.only = argv[++i];
        else if (!strcmp(argv[i], "--subject") && more)
            o.subject = (long)number_of(argv[++i], "--subject");
        else if (!strcmp(argv[i], "--list"))
            o.list = true;
        else if (!strcmp(argv[i], "--qemu-rows"))
            o.qemu_rows = true;
        else if (!strcmp(argv[i], "--no-qemu"))
            o.use_qemu = false;
        else if (!strcmp(argv[i], "--drop"))
            o.drop = true;
        else if (!strcmp(argv[i], "--first"))
            o.first = true;
        else if (!strcmp(argv[i], "-v"))
            o.verbose = true;
        else
            break;
    }
    if (i < argc && argv[i][0] == '-') {
        fputs("usage: crash [--states N] [--seed N] [--only WORDS] [--qemu-rows] [--no-qemu]\n"
              "             [--drop] [--first] [--subject N] [--list] [-v] [GROUP...]\n",
              stderr);
        return 2;
    }
    if (!o.list)
        printf("SEED=%" PRIu64 " CRASH_STATES=%zu\n", o.seed, o.states);
    struct report r = {.settings = &o};
    for (const struct group *g = groups; i == argc && g; g = g->next)
        if (strcmp(g->name, "wrong") != 0)
            run_group(&r, g->subjects);
    for (; i < argc; i++)
        run_group(&r, find_group(argv[i]));
    return o.list || report_end(&r) ? 0 : 1;
}
