/*
 * A host file: the bytes that an image lies in. Backends: file_posix.c (files and block devices) and
 * file_mem.c (tests, fuzzers). All calls are safe from several threads at once.
 */
#ifndef LIB_FILE_H
#define LIB_FILE_H

#include "lib/addr.h"
#include "lib/error.h"

#include <stddef.h>
#include <stdint.h>

/* Which file it is, whatever name led to it. */
struct file_identity {
    uint64_t device, inode;
};

/* A stretch of a file that is all data or all hole. */
struct file_extent {
    uint64_t length;
    bool data;
};

struct file;

struct file_ops {
    const char *protocol; /* QEMU's name for this kind of node */
    /* Reads up to LEN bytes; fewer only at the end of the file. */
    int64_t (*pread)(struct file *f, void *buf, size_t len, host_off off);
    int (*size)(struct file *f, uint64_t *size);
    /* Space allocated on the host, or -errno where that has no meaning. */
    int64_t (*allocated)(struct file *f);
    /* The stretch that starts at OFF, which lies before the end. Without knowledge: all data. */
    int (*extent)(struct file *f, host_off off, struct file_extent *out);
    void (*close)(struct file *f);
};

struct file {
    const struct file_ops *ops;
    char *name; /* as the user or the overlay named it, resolved */
    struct file_identity id;
    int fd; /* file_posix only; elsewhere -1 */
    const void *mem;
    size_t mem_size;
};

int file_open_posix(struct file **out, const char *path, struct img_error *err);

/* A file in memory; DATA is borrowed. */
int file_open_memory(struct file **out, const char *name, const void *data, size_t size,
                     struct img_error *err);

void file_close(struct file *f);

/* Length in bytes now: a file that somebody writes may have grown since. */
int file_size(struct file *f, uint64_t *size, struct img_error *err);

/* Reads exactly LEN bytes; the end of the file on the way is an error. */
int file_read(struct file *f, void *buf, size_t len, host_off off, struct img_error *err);

/* Reads LEN bytes; what lies past the end of the file reads as zeroes. */
int file_read_padded(struct file *f, void *buf, size_t len, host_off off, struct img_error *err);

#endif
