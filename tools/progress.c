#include "progress.h"

#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t asked;

static void note(int number)
{
    (void)number;
    asked = 1;
}

void progress_start(struct progress *p, enum progress_style style)
{
    *p = (struct progress){.style = style};
    if (style != PROGRESS_QUIET)
        return;
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
}

static void show(const struct progress *p)
{
    if (p->style == PROGRESS_TEXT) {
        printf("    (%3.2f/100%%)\r", (double)p->now);
        fflush(stdout);
    } else if (asked) {
        fprintf(stderr, "    (%3.2f/100%%)\n", (double)p->now);
        asked = 0;
    }
}

/* Steps of less than one per cent are not worth a line; computed as qemu-img does, so that the
 * roundings are its own, too. */
void progress_update(void *opaque, uint64_t done, uint64_t total)
{
    struct progress *p = opaque;
    float now = total ? 100.f * (float)done / (float)total : 100.f;
    p->now = now > 100 ? 100 : now;
    if (p->now > p->shown + 1 || p->now < p->shown - 1 || p->now == 100 || p->now == 0) {
        p->shown = p->now;
        show(p);
    }
}

void progress_end(const struct progress *p)
{
    if (p->style == PROGRESS_TEXT)
        putchar('\n');
}
