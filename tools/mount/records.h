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
};

struct record {
    uid_t owner;
    char *folder; /* where the record lies */
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

/* Writes the record of this process; 0 or -errno. Ends it. */
int record_write(const struct record *r);
void record_end(void);

/* Removes a record that was read, wherever it lies. */
void record_remove(const struct record *r);

/* All that this user may see. For records_free. */
void records_read(struct records *all);
void records_free(struct records *all);

/* The record of process PID as it is now; false: there is none. For record_clear. */
bool record_find(struct record *r, pid_t pid);
void record_clear(struct record *r);

#endif
