/*
 * A host file: the bytes that an image lies in. Backends: file_posix.c (files and block devices),
 * file_mem.c (tests, fuzzers) and file_null.c (no bytes at all). All calls are safe from several
 * threads at once. Every byte that imgtool writes goes through these ops, so that a test can put a
 * backend of its own underneath.
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
    /* The rest is for files opened to be written; all NULL where a backend only reads. */
    int (*pwrite)(struct file *f, const void *buf, size_t len, host_off off);
    /* On a device, only says whether it is large enough: -ENOSPC. */
    int (*truncate)(struct file *f, uint64_t size);
    /* Gives a range space of its own, what it holds unchanged. -EOPNOTSUPP: write it instead. */
    int (*allocate)(struct file *f, host_off off, uint64_t len);
    /* Makes a range inside the file read as zeroes. -EOPNOTSUPP: write zeroes instead. */
    int (*zero)(struct file *f, host_off off, uint64_t len);
    /* The same, and the range keeps its space. NULL: zero, then allocate. */
    int (*zero_keep)(struct file *f, host_off off, uint64_t len);
    int (*flush)(struct file *f);
    /* Makes a range the same as one of FROM, and both share their space on the host. -EOPNOTSUPP:
     * copy it instead. May be NULL. */
    int (*share)(struct file *f, host_off off, struct file *from, host_off from_off, uint64_t len);
    /* Bytes that the file could still grow by; -errno where nobody knows. */
    int64_t (*space)(struct file *f);
};

/* How much of a file's new length gets space at once. */
enum preallocation {
    PREALLOC_OFF,
    PREALLOC_METADATA, /* to the file the same as OFF: only the format's tables differ */
    PREALLOC_FALLOC,   /* reserved */
    PREALLOC_FULL,     /* written */
};

/* Asked between writes whether to go on. */
struct cancel {
    bool (*wanted)(void *opaque);
    void *opaque;
};

/* How far a long job is, told to whoever started it. FN may be NULL. */
struct progress_sink {
    img_progress fn;
    void *opaque;
};

static inline void progress_report(const struct progress_sink *p, const char *phase, uint64_t done,
                                   uint64_t total)
{
    if (p && p->fn)
        p->fn(p->opaque, phase, done, total);
}

struct file {
    const struct file_ops *ops;
    char *name; /* as the user or the overlay named it, resolved */
    struct file_identity id;
    int fd;        /* file_posix only; elsewhere -1 */
    int direct_fd; /* the same file, if it is used past the host's cache */
    bool direct;
    const void *mem;
    size_t mem_size;
    bool device;                          /* its length is what it is */
    enum img_zeroing zeroing;             /* of a device */
    uint32_t block;                       /* of a block device */
    bool whole;                           /* what lies past its end has been lost on the way */
    bool wants_notice;                    /* file_expect_write helps */
    bool used;                            /* a new file that an earlier run has written */
    uint64_t good;                        /* of that: what is behind it means nothing */
    const struct cancel *cancel;          /* NULL: nobody asks */
    const struct progress_sink *progress; /* told how far file_extend is; NULL: nobody listens */
};

int file_open_posix(struct file **out, const char *path, bool writable, struct img_error *err);

/* From now on, whole blocks are read and written past the host's cache (O_DIRECT). -EINVAL where
 * the file system cannot. Before other threads have F; nothing for files that are not the host's.
 */
int file_use_direct(struct file *f, struct img_error *err);

/* A file in memory; DATA is borrowed. */
int file_open_memory(struct file **out, const char *name, const void *data, size_t size,
                     struct img_error *err);

/* SIZE bytes that are not there: they read as zeroes, and what is written to them is gone. */
int file_open_null(struct file **out, const char *name, uint64_t size, struct img_error *err);

/* Takes FD over when it succeeds: a regular file or a device. PATH is its name. */
int file_adopt_posix(struct file **out, const char *path, int fd, struct img_error *err);

/*
 * file_pipe.c: a file that only goes forward, for one thread at a time. FD is borrowed. Written,
 * it takes offsets that ascend; read, what was asked for can be asked for again (up to 40 MiB in
 * all) until file_pipe_stop_keeping; -ESPIPE for what has gone by. CANCEL, which may be NULL, is
 * asked while it waits, too.
 */
int file_open_pipe(struct file **out, int fd, const char *name, bool writable,
                   const struct cancel *cancel, struct img_error *err);
void file_pipe_stop_keeping(struct file *f);
/* These bytes come before others that will be asked for first: they and what lies between such
 * stretches are kept when they come, as long as there is room. */
void file_pipe_expect_early(struct file *f, uint64_t start, uint64_t length);
/* Reads on to the end, so that who writes there does not find the pipe closed. */
int file_pipe_drain(struct file *f, struct img_error *err);

void file_close(struct file *f);

/* Another handle for F, which is file_posix's. */
int file_duplicate(struct file **out, const struct file *f, struct img_error *err);

/* Length in bytes now: a file that somebody writes may have grown since. */
int file_size(struct file *f, uint64_t *size, struct img_error *err);

/* Reads exactly LEN bytes; the end of the file on the way is an error. */
int file_read(struct file *f, void *buf, size_t len, host_off off, struct img_error *err);

/* Reads up to LEN bytes; *GOT is less only where the file ends. */
int file_read_upto(struct file *f, void *buf, size_t len, host_off off, size_t *got,
                   struct img_error *err);

/* Reads LEN bytes; what lies past the end of the file reads as zeroes: -ENODATA where it is known
 * to have been more. */
int file_read_padded(struct file *f, void *buf, size_t len, host_off off, struct img_error *err);

/*
 * Writing. All bytes are written or the call fails; -ECANCELED when the file's owner asked to stop.
 * Only file_flush makes sure that what was written survives.
 */
int file_write(struct file *f, const void *buf, size_t len, host_off off, struct img_error *err);
/* The same with zeroes that are written out. */
int file_write_zeroes(struct file *f, host_off off, uint64_t len, struct img_error *err);
int file_truncate(struct file *f, uint64_t size, struct img_error *err);
/* For who reads at length before writing: -ECANCELED when the file's owner asked to stop. */
int file_go_on(const struct file *f, struct img_error *err);
int file_flush(struct file *f, struct img_error *err);
/* Of a used file: what lies behind what is good reads as zeroes; MODE: it keeps its space. */
int file_forget_rest(struct file *f, enum preallocation mode, struct img_error *err);
/* The names in the folder of PATH are on disk. */
int file_flush_folder(const char *path, struct img_error *err);
/* A hint that the range is about to be written, all of it, where the host is faster when it is
 * told: ext4 then writes into blocks that it has, instead of reserving one after the other. Changes
 * no length. */
void file_expect_write(struct file *f, host_off off, uint64_t len);
/* Lets the host begin to bring what was written to disk, while more is being prepared, so that a
 * flush has less to wait for. Promises nothing. */
void file_begin_flush(struct file *f);

/* Shares what FROM has; -EOPNOTSUPP, without words, where that cannot be done. */
int file_share(struct file *f, host_off off, struct file *from, host_off from_off, uint64_t len,
               struct img_error *err);

/* Makes a range read as zeroes; past the end of the file, the file grows by a hole. */
int file_zero(struct file *f, host_off off, uint64_t len, struct img_error *err);

/* The same, and the range has space of its own. */
int file_zero_keep(struct file *f, host_off off, uint64_t len, struct img_error *err);

/* Makes the file at least TO bytes long and gives [FROM, TO), which lies past its end, space by
 * MODE. */
int file_extend(struct file *f, uint64_t from, uint64_t to, enum preallocation mode,
                struct img_error *err);

/* -ENOSPC when the host plainly has less than BYTES left for the file. */
int file_check_space(struct file *f, uint64_t bytes, struct img_error *err);

/*
 * file_create.c: a file that appears under its name only when it is whole.
 *
 *   new_file_open      makes it, empty, beside its future name; that may be a symbolic link, which
 * is followed, or a file that exists, which is locked against other programs (write through ->file)
 *   new_file_finish    flushes it
 *   new_file_publish   gives it its name, in the place of what was there
 *   new_file_close     in any case; what was not published is gone without a trace
 *
 * Between finish and publish, a file that another one is to name first can have a name beside its
 * own one: new_file_name_beside, and new_file_publish_beside instead of new_file_publish.
 *
 * A block device is written in place: whoever does so writes last what makes it an image.
 *
 * With PARTIAL the file has a name meanwhile, ".NAME.imgtool-partial" in the same folder, and is
 * locked; when one is there already, that is opened, as it is. On a block device it means nothing.
 */
struct new_file_options {
    bool nocow;                /* no copy-on-write on btrfs, where that can be had */
    uint64_t extent_size_hint; /* XFS's allocation unit; 0: none */
    bool partial;              /* it shall outlive who is interrupted */
    const struct cancel *cancel;
    const struct progress_sink *progress;
};

struct new_file {
    struct file *file;
    struct file *old; /* what stands under its name now, locked; NULL: nothing */
    char *path;       /* its name, with no symbolic link at the end */
    char *temporary;  /* where it lies meanwhile; NULL: nowhere */
    bool in_place, published;
    bool unflushed; /* its folder is not flushed when it is published */
    bool partial;   /* it goes on from an earlier run, or a later one may with it */
    bool found;     /* partial: there was one already */
    bool kept;      /* partial: new_file_close leaves it where it is */
};

int new_file_open(struct new_file **out, const char *path, const struct new_file_options *options,
                  struct img_error *err);
int new_file_finish(struct new_file *n, struct img_error *err);
int new_file_publish(struct new_file *n, struct img_error *err);
/* Gives N a name in the folder of its own one, ->temporary, on disk when this returns. */
int new_file_name_beside(struct new_file *n, struct img_error *err);
/*
 * The same as new_file_publish for N, which has had the name *BESIDE, the caller's, and keeps it.
 * Where a file has one name at most, that one is changed, and *BESIDE becomes NULL.
 */
int new_file_publish_beside(struct new_file *n, char **beside, struct img_error *err);
/* Removes the name BESIDE of N. What fails here is only that it may still be there. */
void new_file_drop_beside(const struct new_file *n, const char *beside);
/* Is N what will stand under the name PATH, or stands there now? */
bool new_file_is(const struct new_file *n, const char *path);
/* The name beside PATH of what belongs to it: ".NAME" and SUFFIX; for the caller to free. */
char *new_file_beside(const char *path, const char *suffix);
/* Takes back a published file, if there was none before it. */
void new_file_withdraw(struct new_file *n);
void new_file_close(struct new_file *n);

#endif
