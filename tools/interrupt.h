/* SIGINT, SIGTERM and SIGHUP as a question that the library asks: so that it can clean up. */
#ifndef TOOLS_INTERRUPT_H
#define TOOLS_INTERRUPT_H

#include <stdbool.h>

/* From now on these signals only raise a flag, unless they are ignored. */
void interrupt_watch(void);
/* Has one come? For the library's "cancelled". */
bool interrupt_wanted(void *opaque);
/* Dies of the signal that came, if one did, as if it had never been caught. */
void interrupt_die(void);

#endif
