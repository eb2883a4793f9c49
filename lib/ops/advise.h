/*
 * Advice on an image and on the host below it, in two halves that meet in struct advise_facts:
 *
 *   gathering   advise_layout.c, advise_tables.c, advise_host.c, advise_disks.c: I/O, no opinion. A
 *               fact that this host, this file system or this user cannot give is marked unknown,
 *               with the reason; only an image that does not open at all is an error.
 *   judging     advise_format.c, advise_chain.c, advise_blocks.c, advise_machine.c: pure functions
 *               from the facts to one finding each, so that they can be tested without NFS, btrfs
 *               or a rotating disk.
 *
 * advise.c has the list of checks. What is looked at is bounded: see ADVISE_MAX_*.
 */
#ifndef LIB_OPS_ADVISE_H
#define LIB_OPS_ADVISE_H

#include "lib/imgtool.h"

#include <stdio.h>

enum {
    ADVISE_MAX_SPANS = 100000, /* extents of the host file that are looked at */
    ADVISE_MAX_L2 = 16 << 20,  /* bytes of L2 tables; larger tables are sampled */
    ADVISE_SAMPLES = 1024,
    ADVISE_MAX_DISKS = 8,
};

/* ---- facts ---- */

/* Where the blocks of the host file are. */
struct advise_span {
    uint64_t start, length;
    bool unwritten; /* allocated, and reads as zeroes */
};

struct advise_layout {
    struct advise_span *spans; /* in order, apart or of different kind */
    size_t count, room;
    uint64_t known_to;   /* the spans are complete up to here */
    uint64_t span_bytes; /* of all spans together */
    bool holes_known; /* between the spans are holes (or, not unwritten_known, unwritten blocks) */
    bool unwritten_known; /* from FIEMAP */
    bool capped;          /* the file has more extents than were looked at */
    int fiemap_error;     /* positive errno where there is no FIEMAP: fragments are not known */
    uint64_t fragments;   /* how often the file goes on elsewhere without a hole, and 1 */
    uint64_t fragment_bytes;
    uint64_t physical_end; /* of the last fragment */
};

/* What the layout says of the places that the image's tables name. */
struct advise_placement {
    uint64_t hole, unwritten, written;
};

enum advise_preallocation {
    ADVISE_PREALLOC_UNKNOWN,
    ADVISE_PREALLOC_OFF,
    ADVISE_PREALLOC_METADATA,
    ADVISE_PREALLOC_FALLOC,
    ADVISE_PREALLOC_FULL,
    ADVISE_PREALLOC_FALLOC_OR_FULL, /* the blocks are there; nothing tells the two apart */
};

struct advise_tables {
    char *error;         /* why nothing below is known, or NULL */
    bool sampled;        /* shares are of a sample, not of the whole disk */
    uint64_t looked_at;  /* bytes of the guest's disk */
    uint64_t placed;     /* of these: with a place of their own in the host file */
    uint64_t compressed; /* of these: in compressed clusters */
    uint64_t end;        /* of the last place in the image file */
    struct advise_placement placement;
};

struct advise_disk {
    char name[64];
    char scheduler[32];  /* the active one */
    char available[256]; /* as the kernel lists them: "none [mq-deadline] bfq" */
    int rotational;      /* -1: not known */
    bool is_virtual;     /* itself a disk of a hypervisor */
};

struct advise_mount {
    char *type, *point, *source;
    char *options; /* of the mount and of the file system, comma-separated */
    unsigned major, minor;
};

enum advise_bool { ADVISE_NO, ADVISE_YES, ADVISE_NOT_KNOWN };

/* The file that holds the guest's data: the image, or its external data file. */
struct advise_host {
    char *path;
    bool regular; /* not a device */
    uint64_t length, allocated;
    bool free_known;
    uint64_t free_bytes; /* of the file system, for users */
    struct advise_layout layout;
    struct advise_mount mount; /* type NULL: not known */
    enum advise_bool nocow;
    int nocow_error;
    struct advise_disk disks[ADVISE_MAX_DISKS];
    size_t disk_count;
};

struct advise_facts {
    enum img_use use;
    const char *program;         /* that the command lines call */
    const char *path;            /* of the image's own file, for command lines */
    struct img_chain_info chain; /* at least the image itself */
    char *chain_error;           /* why the chain ends early, or NULL */
    struct advise_tables tables;
    struct advise_host host;
    uint64_t file_length; /* of the image file; as host.length without an external data file */
    bool file_regular;
    bool data_end_known;
    uint64_t data_end; /* of the last data in the image file at or behind tables.end */
    bool raw_window;   /* a raw image that is only a part of its file */
};

/* ---- findings ---- */

struct advise_finding {
    struct img_advice out;
    bool nomem;
};

void advise_found(struct advise_finding *f, enum img_advice_state state, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Appends. */
void advise_why(struct advise_finding *f, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Takes a command line; NULL stays none. */
void advise_fix(struct advise_finding *f, char *command);

void advise_cluster_size(struct advise_finding *f, const struct advise_facts *x);
void advise_lazy_refcounts(struct advise_finding *f, const struct advise_facts *x);
void advise_compat(struct advise_finding *f, const struct advise_facts *x);
void advise_refcount_width(struct advise_finding *f, const struct advise_facts *x);
void advise_backing_format(struct advise_finding *f, const struct advise_facts *x);
void advise_backing_path(struct advise_finding *f, const struct advise_facts *x);
void advise_chain_depth(struct advise_finding *f, const struct advise_facts *x);
void advise_preallocated(struct advise_finding *f, const struct advise_facts *x);
void advise_fragmentation(struct advise_finding *f, const struct advise_facts *x);
void advise_sparse(struct advise_finding *f, const struct advise_facts *x);
void advise_end_of_file(struct advise_finding *f, const struct advise_facts *x);
void advise_nocow(struct advise_finding *f, const struct advise_facts *x);
void advise_nfs_options(struct advise_finding *f, const struct advise_facts *x);
void advise_io_scheduler(struct advise_finding *f, const struct advise_facts *x);

/* Which way of preallocation the tables and the host file's blocks amount to. */
enum advise_preallocation advise_preallocation_of(const struct advise_facts *x);
const char *advise_preallocation_name(enum advise_preallocation p);

/* The one image at the top. */
static inline const struct img_info *advise_top(const struct advise_facts *x)
{
    return x->chain.layers[0];
}

/* Bytes of L2 tables that map a disk of SIZE. */
uint64_t advise_l2_bytes(uint64_t size, uint64_t cluster_size, bool extended_l2);

/* ---- words (advise_text.c) ---- */

/* "64 KiB", "1.5 GiB". */
const char *advise_size(uint64_t size, char buf[32]);

/* S as one word of a shell's command line; control characters as $'\n'. NULL: no memory. */
char *advise_quote(const char *s);

/* PATH so that neither an option nor a protocol is seen in it, quoted, with SUFFIX behind it. */
char *advise_quote_path(const char *path, const char *suffix);

/* What a new image shall have otherwise than the old one; 0 and NULL: as it is. */
struct advise_change {
    uint64_t cluster_size;
    bool extended_l2;
    const char *preallocation;
};

/* The conversion that makes it so and keeps everything else; NULL where no one command does. */
char *advise_convert(const struct advise_facts *x, const struct advise_change *change);

/* Why there is no such command, for people; NULL when there is. */
const char *advise_no_convert(const struct advise_facts *x);

/* ---- gathering ---- */

/* advise_layout.c */
int advise_layout_read(struct advise_layout *l, int fd, uint64_t length, uint64_t allocated);
/* One extent as FIEMAP has it. False when the limit is reached. */
bool advise_layout_add(struct advise_layout *l, uint64_t logical, uint64_t physical,
                       uint64_t length, uint32_t flags);
void advise_layout_clear(struct advise_layout *l);
void advise_place(const struct advise_layout *l, uint64_t start, uint64_t length,
                  struct advise_placement *p);
/* The end of the last data at or behind FROM in a file of LENGTH. */
bool advise_data_end(int fd, uint64_t from, uint64_t length, uint64_t *end);

/* advise_tables.c */
struct img;
int advise_tables_read(struct advise_tables *t, struct img *img, const struct advise_layout *l,
                       struct img_error *err);

/* advise_host.c */
void advise_host_read(struct advise_host *h, int fd);
void advise_host_clear(struct advise_host *h);
/* The line of a mountinfo file; false when it is none. */
bool advise_mount_parse(struct advise_mount *m, const char *line, long *id);
/* The mount with this ID out of a mountinfo file. */
bool advise_mount_find(struct advise_mount *m, FILE *mountinfo, long id);
void advise_mount_clear(struct advise_mount *m);
/* Is NAME among OPTIONS? VALUE, where given: what follows its "=", or "". */
bool advise_mount_option(const char *options, const char *name, char *value, size_t size);

/* advise_disks.c */
/* The disks under a block device, through partitions, LVM, RAID and loop; SYS is "/sys". */
size_t advise_disks(const char *sys, unsigned major_no, unsigned minor_no,
                    struct advise_disk *disks, size_t max);
/* "none [mq-deadline] bfq" into the active one. */
bool advise_scheduler_parse(const char *text, char *active, size_t size);

#endif
