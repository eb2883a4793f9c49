/*
 * A host file that remembers every change made to it, in order and with its data, so that what a
 * power failure can leave behind may be put together afterwards. Several files share one log.
 */
#ifndef CRASH_RECORD_H
#define CRASH_RECORD_H

#include "lib/file.h"

/*
 * The image and its external data file; or what stands under the image's name and a new file that
 * will come to stand there (OP_NAME), which is on disk when the folder is.
 */
enum { MAX_FILES = 2, FOLDER = 2, SECTOR = 512 };

/* What a file holds. All 0: an empty one. */
struct disk {
    uint8_t *data;
    size_t size, room;
};

enum op_kind {
    OP_WRITE,
    OP_TRUNCATE,
    OP_ZERO, /* makes the file longer where it reaches past the end */
    OP_GROW, /* the file reaches at least to the end of the range; contents stay */
    OP_FLUSH,
    OP_NAME,
    OP_APPEAR, /* the second file has a name of its own */
    OP_STEP,   /* not a call: the program was told that step number OFFSET is done */
};

struct op {
    enum op_kind kind;
    unsigned file;
    bool durable; /* OP_STEP: and was told that it survives */
    uint64_t offset, length;
    uint8_t *data; /* OP_WRITE */
};

struct log {
    struct disk start[MAX_FILES];
    unsigned files;
    struct op *ops;
    size_t count, room;
};

struct recorder {
    struct log log;
    struct disk now[MAX_FILES];
    bool device; /* the first file is one: its length is what it is */
};

/* malloc that ends the program instead of failing: these are tests. */
void *must(void *p);

void disk_set(struct disk *d, const void *data, size_t size);
void disk_resize(struct disk *d, size_t size);
void disk_free(struct disk *d);

/* Does to D what O did. */
void disk_apply(struct disk *d, const struct op *o);

/* Sectors that a write or a zeroing touches, and doing a part of it: those from FIRST on. */
size_t op_sectors(const struct op *o);
void disk_apply_sectors(struct disk *d, const struct op *o, size_t first, size_t count);

void log_add(struct log *l, const struct op *o);
void log_free(struct log *l);

/* A log that preload.c wrote. START is what the file held. END (may be NULL) becomes what stands
 * under its name. False: it is no log. */
bool log_read(struct log *l, const char *path, const struct disk *start, struct disk *end);

/* START (COUNT files) is copied. */
void recorder_init(struct recorder *r, const struct disk *start, unsigned count);
void recorder_free(struct recorder *r);
void recorder_step(struct recorder *r, unsigned step, bool durable);

/* File number FILE of R, which must outlive it. */
struct file *record_open(struct recorder *r, unsigned file, const char *name);

/* The disk D as a file that cannot be written; D must outlive it. */
struct file *disk_open(const struct disk *d, const char *name);

#endif
