/* What is mounted: a record of each, in the folder of runtime.h, named after its process. */
#ifndef TOOLS_MOUNT_RECORDS_H
#define TOOLS_MOUNT_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum record_state {
    RECORD_MOUNTED,
    RECORD_FAILED, /* it is over, and what was written may not be on disk: MESSAGE */
    RECORD_ENDED,  /* it is over, and all is on disk */
};

struct record {
    uid_t owner;
    pid_t pid;
    uint64_t started;       /* of the process, as /proc has it */
    uint64_t device, inode; /* of the image */
    enum record_state state;
    bool writable;
    char *image, *dir; /* absolute */
    char *message;
    bool alive; /* the process is there */
};

struct records {
    struct record *items;
    size_t count;
};

/* Writes the record of this process. 0 or -errno. */
int record_write(const struct record *r);
void record_remove(pid_t pid);

/* All that this user may see. For records_free. */
void records_read(struct records *all);
void records_free(struct records *all);

/* The record of process PID as it is now; false: there is none. For record_clear. */
bool record_find(struct record *r, pid_t pid);
void record_clear(struct record *r);

#endif
