/* The log that preload.c writes and record.c reads: records one behind the other, WRITE ones with
 * LENGTH bytes of data behind them. */
#ifndef CRASH_LOG_H
#define CRASH_LOG_H

#include <stdint.h>

enum {
    LOGGED_WRITE,
    LOGGED_TRUNCATE,  /* to OFFSET bytes */
    LOGGED_ZERO,      /* inside the file */
    LOGGED_ZERO_GROW, /* and the file reaches to the end of the range */
    LOGGED_GROW,      /* the file reaches to the end of the range */
    LOGGED_FLUSH,
    LOGGED_NOTHING,
};

struct logged {
    uint32_t kind, unused;
    uint64_t offset, length;
};

#endif
