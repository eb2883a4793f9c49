#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static _Atomic int caught; /* read by all threads; without a lock, so that a handler may set it */

static void note(int number)
{
    caught = number;
}

void interrupt_watch(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction action;
        if (sigaction(signals[i], NULL, &action) < 0 || action.sa_handler == SIG_IGN)
            continue;
        action = (struct sigaction){.sa_handler = note};
        sigemptyset(&action.sa_mask);
        sigaction(signals[i], &action, NULL);
    }
}

bool interrupt_wanted(void *opaque)
{
    (void)opaque;
    return caught != 0;
}

void interrupt_die(void)
{
    if (!caught)
        return;
    signal(caught, SIG_DFL);
    raise(caught);
}
