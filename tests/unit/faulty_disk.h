/*
 * A host file in memory that can be written, and whose n-th call fails when a test wants it to.
 * Reads, writes and flushes count, and whatever else the host is asked.
 */
#ifndef FAULTY_DISK_H
#define FAULTY_DISK_H

#include "make_qcow2.h"

enum disk_fault {
    DISK_EIO,     /* one call does nothing and fails */
    DISK_ENOSPC,  /* one call does a part of what it should and fails: no space */
    DISK_AFTER,   /* one call does all of it and fails nevertheless */
    DISK_LASTING, /* from that call on, nothing works any more */
    DISK_FAULTS,
};

/* What several files may share. */
struct disk_faults {
    enum disk_fault fault;
    long countdown; /* calls until it happens; 0: never */
    long calls;     /* so far */
    bool happened;
};

struct disk {
    uint8_t *data; /* ROOM bytes, zeroes behind SIZE: the file itself never allocates */
    size_t size, room;
    struct disk_faults *faults;
};

/* SIZE bytes of DATA, copied, with room to grow. Release with free(disk->data). */
struct disk disk_new(const void *data, size_t size, struct disk_faults *faults);

/* The file; DISK and NAME are borrowed. */
struct file *disk_open(struct disk *disk, const char *name);

#endif
