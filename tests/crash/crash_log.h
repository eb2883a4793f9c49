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
    LOGGED_NAME,   /* the new file now stands under the name of the old one */
    LOGGED_APPEAR, /* it has a name of its own, the one in CRASH_BESIDE */
    LOGGED_NOTHING,
};

enum {
    LOGGED_FILE,     /* the one that is named in CRASH_RECORD when the program starts */
    LOGGED_NEW_FILE, /* another that is written */
    LOGGED_FOLDER,
};

struct logged {
    uint32_t kind, file;
    uint64_t offset, length;
};

#endif
