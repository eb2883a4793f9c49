/*
 * What lies on a guest's disk, found by a process that may do nothing.
 *
 * libblkid parses what a hostile guest wrote; so it runs in a child with one descriptor: a memfd of
 * the disk's size, which is empty. A seccomp filter lets the child read it, and tells the parent of
 * each read before it happens; the parent then puts that part of the disk there. So the child sees
 * the whole disk, wherever a superblock may lie, and what nobody reads costs nothing. What the
 * child finds it writes into memory that both share, and the parent believes none of it.
 */
#ifndef LIB_OPS_FILESYSTEMS_H
#define LIB_OPS_FILESYSTEMS_H

#include "lib/error.h"

#include <stdint.h>

enum {
    PROBE_RECORDS_MAX = 1024,
    PROBE_LABEL = 512, /* longer than any label: UDF's have 127 characters, Btrfs's 255 bytes */
    PROBE_NAME = 128,
    PROBE_PATH = 1024,
    PROBE_ID = 64,
};

/* A volume as the child has it. Strings end with a NUL, unless the child was made to lie. */
struct probe_record {
    uint32_t kind;    /* enum img_volume_kind */
    uint32_t content; /* enum img_content */
    uint32_t number;  /* of a partition; an array's level */
    uint32_t parent;  /* the record it lies in; the disk: itself */
    uint32_t group;   /* the record of what it is a member of; 0: of nothing */
    uint64_t start, size, flags, content_size;
    char name[PROBE_PATH]; /* of arrays and LVM's volumes; a subvolume's path */
    char table[PROBE_ID], table_id[PROBE_ID];
    char part_type[PROBE_ID], part_uuid[PROBE_ID], part_label[PROBE_NAME];
    char type[PROBE_ID], version[PROBE_ID], uuid[PROBE_ID], label[PROBE_LABEL];
};

enum probe_outcome {
    PROBE_NOTHING_YET,
    PROBE_NO_SANDBOX, /* ERROR says why it could not be closed; nothing was read */
    PROBE_FAILED,     /* libblkid ran out of memory */
    PROBE_DONE,
};

/* What the child leaves. */
struct probe_report {
    uint32_t outcome, error;
    uint32_t sector_size;
    uint32_t cut;     /* there are more volumes than there is room */
    uint32_t starved; /* something wanted more memory than there is */
    uint32_t count;
    struct probe_record records[PROBE_RECORDS_MAX];
};

/* Where the disk is read from, and what to look for. */
struct probe_job {
    uint64_t size;
    unsigned sector_size; /* 0: find out */
    int (*read)(void *opaque, void *buf, size_t len, uint64_t off, struct img_error *err);
    void *opaque;
    /* What the child may take: bytes, and nanoseconds of processor, the reads for it included. */
    uint64_t memory, time;
};

/* What kept the child from looking at everything. */
enum probe_trouble {
    PROBE_TOO_LONG = 1 << 0,  /* its time was over */
    PROBE_TOO_LARGE = 1 << 1, /* it wanted more in one read than any table has */
    PROBE_DIED = 1 << 2,      /* it did what it may not do, or crashed */
};

/*
 * filesystems_sandbox.c: runs the child. *REPORT is shared memory that nobody writes any more, for
 * probe_report_free; *TROUBLE is enum probe_trouble, or-ed.
 */
int probe_run(struct probe_report **report, unsigned *trouble, const struct probe_job *job,
              struct img_error *err);
void probe_report_free(struct probe_report *report);

/* filesystems_probe.c: the child's part; FD has SIZE bytes. */
void probe_disk(struct probe_report *report, int fd, uint64_t size, unsigned sector_size);

/* filesystems_decode.c: makes a report that may hold anything into what the caller gets. */
int probe_decode(struct img_filesystems **out, const struct probe_report *report, uint64_t size,
                 struct img_error *err);

#endif
