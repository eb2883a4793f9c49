/*
 * What a format answers. A format knows its own file and nothing else: it never opens its parent or
 * its data file, it names them, and answers UNALLOCATED for a range that it does not hold.
 */
#ifndef LIB_DRIVER_H
#define LIB_DRIVER_H

#include "lib/extents.h"
#include "lib/head_change.h"
#include "lib/options.h"

/* One image of a chain. The format fills in what is marked so when it opens. */
struct layer {
    const struct driver *driver;
    void *state; /* the format's */
    char *filename;
    struct file *file;
    struct file *data_file;        /* opened by the core when external_data is set */
    uint64_t raw_offset, raw_size; /* window in a raw file; raw_size UINT64_MAX: to the end */
    bool direct;                   /* what is seen of the file is seen in whole sectors */
    bool cut_off;                  /* who named this layer said that nothing lies below it */
    bool other_view;               /* an internal snapshot's disk was chosen */
    bool data_file_given;          /* the user named the data file: the image need not */
    size_t cache_bytes;            /* how much mapping metadata to keep at hand */
    /* set by the format: */
    uint64_t size;
    uint64_t cluster_size; /* 0: no clusters */
    char *backing_name;    /* NULL: none */
    char *backing_format;  /* NULL: not named */
    char *data_file_name;  /* NULL: none */
    bool external_data;    /* guest data lies in data_file, not in file */
    bool encrypted;
    char *repaired; /* what was found and repaired when it was opened; NULL: nothing */
    const char
        *bitmaps_stale; /* why its bitmaps say nothing any more; NULL: they do, or none are there */
    /* set by the core before the format is asked to change anything: */
    bool backed; /* what is unallocated here is read from somewhere below */
    /* Returns when all late places are filled; -errno: one is not, and nothing that leads there may
     * come to disk. The format calls it first of all when it flushes. NULL: none are late. */
    int (*fill_late)(void *opaque, struct img_error *err);
    void *fill_late_opaque;
};

enum map_detail {
    MAP_ALLOCATION, /* what the format knows by itself */
    MAP_HOLES,      /* a raw file's holes too, at the cost of asking the host */
};

/* How much of the file the mapping tables take. */
struct layer_tables {
    uint64_t l2_bytes; /* allocated L2 tables of the active disk */
    bool extended_l2;
};

struct check_report;

/* What a new image asks of its host, known before a byte is written. */
struct create_plan {
    void *layout; /* the format's own; the core releases it with free() */
    uint64_t file_length;
    uint64_t file_bytes;   /* how much space of it is taken at once */
    const char *data_file; /* guest data goes there; NULL: it has none. As the options have it. */
    uint64_t data_size;
    enum preallocation data_preallocation;
    /* Called when all is written but what makes the file an image. NULL: nothing is to be done. */
    int (*before_image)(void *opaque, struct img_error *err);
    void *opaque;
};

/* How large a new image would be: what is known of it, and of what is to be copied into it. */
struct measure_request {
    const struct option_set *options;
    const struct img_info *source; /* NULL: nothing is copied, and the options have the size */
    /* How much data the source has, in whole clusters of CLUSTER bytes. */
    int (*data)(void *opaque, uint64_t cluster, uint64_t *bytes, struct img_error *err);
    void *opaque;
};

/* Options of an image that are to change: those that are given. */
struct amend_request {
    const struct option_set *options;
    bool backed; /* something lies below the image, whatever its header says */
    struct progress_sink progress;
    /* Gives the image another size, of which the format's amend is a part only. */
    int (*resize)(void *opaque, uint64_t size, struct img_error *err);
    void *opaque;
};

/* Names that an image shall have; NULL: as it has it now. */
struct layer_names {
    const char *backing, *backing_format, *data_file;
};

/* What is to be done to a bitmap: struct img_bitmap_action, with the layer instead of the image. */
struct bitmap_action {
    enum img_bitmap_action_kind kind;
    uint64_t granularity;
    const char *source_name;
    struct layer *source; /* NULL: the layer that is changed */
};

/*
 * A place for guest data: LENGTH bytes of FILE at HOST. With HEAD or TAIL, so many bytes before and
 * behind it belong to the same place and must be given what the disk has there.
 */
struct placement {
    uint64_t length;
    struct file *file;
    host_off host;
    uint64_t head, tail;
    bool blank; /* all of it reads as zeroes on the host: what has to be zero need not be written */
    bool may_be_late; /* with "fill_late" of struct layer, it may be linked before it is filled */
    int how;          /* the format's own */
};

/*
 * What a format does for guest writes. The core writes the data itself: it asks for a place, fills
 * it, and tells the format that it is filled, or that it could not be. Ranges lie inside the layer.
 * Each call may leave its change in memory, where map sees it; flush brings it to disk, in an order
 * in which no crash shows a place before what was written there.
 */
struct driver_writing {
    /* A place for the bytes from OFF on, MAX at most. */
    int (*place)(struct layer *l, guest_off off, uint64_t max, struct placement *out,
                 struct img_error *err);
    /* P is filled: from now on the disk has these bytes at OFF. When it fails, P is given up. */
    int (*link)(struct layer *l, guest_off off, const struct placement *p, struct img_error *err);
    /*
     * A place for the STORED bytes that a compressor has made of the whole cluster at OFF (at the
     * end of the disk, of what is left of it and zeroes); then as above. NULL: this format has no
     * compressed clusters.
     */
    int (*place_compressed)(struct layer *l, guest_off off, size_t stored, struct placement *out,
                            struct img_error *err);
    /* One for each thread, for "compress" of struct driver_building. */
    int (*compressor_create)(void **compressor, const struct layer *l, struct img_error *err);
    /* P could not be filled. */
    void (*give_up)(struct layer *l, guest_off off, const struct placement *p);
    /* The alignment of zero and discard; the end of the disk is aligned, too. */
    uint64_t (*zero_unit)(const struct layer *l);
    /* Makes a range read as zeroes without writing them, *DONE bytes of it, which may be less than
     * LEN. None: the core is to write zeroes. FLAGS: enum img_zero_flags. */
    int (*zero)(struct layer *l, guest_off off, uint64_t len, unsigned flags, uint64_t *done,
                struct img_error *err);
    /* The guest needs a range, of whole clusters, no longer; *DONE as above, but never 0. */
    int (*discard)(struct layer *l, guest_off off, uint64_t len, uint64_t *done,
                   struct img_error *err);
    int (*flush)(struct layer *l, struct img_error *err);
    /* The same, and nothing is kept in memory: before something else changes the image. NULL:
     * nothing ever is. */
    int (*settle)(struct layer *l, struct img_error *err);
};

/*
 * Building a new image whose disk comes in order, each part of it once. Everything is given its
 * place in turn, tables are written once each, and the core writes the data itself. Runs are whole
 * units, but for extents that are only expected.
 *
 *   create     a builder for a plan
 *   expect     the disk from front to back, as it is known before anything is read
 *   start      the files are there
 *   data ...   again from front to back: what there is; never more than was expected
 *   finish     the image is complete; not yet flushed
 *
 * What is not mentioned is read from the backing file, or as zeroes without one.
 */
struct build_place {
    struct file *file;
    host_off host;
};

struct driver_building {
    /* COMPRESS: runs of one unit may come compressed. */
    int (*create)(void **builder, struct create_plan *plan, bool compress, struct img_error *err);
    void (*destroy)(void *builder); /* NULL is fine */
    uint64_t (*unit)(const void *builder);
    /* Can a range be said to be zero, or must zeroes be written where a backing file is below? */
    bool (*says_zero)(const void *builder);
    /* There may be data here, or zeroes that hide a backing file. */
    int (*expect)(void *builder, guest_off off, uint64_t len, struct img_error *err);
    /* SEQUENTIAL: F is a pipe. All runs come twice, each time followed by finish: first for the
     * tables, then with their data. */
    int (*start)(void *builder, struct file *f, struct file *data_file, bool sequential,
                 struct img_error *err);
    /* A place for a run of data, all in one. */
    int (*data)(void *builder, guest_off off, uint64_t len, struct build_place *out,
                struct img_error *err);
    /* For STORED bytes that a compressor made of one unit. NULL: the format has no such thing. */
    int (*compressed)(void *builder, guest_off off, uint64_t stored, struct build_place *out,
                      struct img_error *err);
    int (*zero)(void *builder, guest_off off, uint64_t len, struct img_error *err);
    int (*finish)(void *builder, struct img_error *err);

    /* One for each thread; LEVEL 0 is the format's choice. */
    int (*compressor_create)(void **compressor, const void *builder, int level,
                             struct img_error *err);
    /* What one takes, in bytes, at most. */
    size_t (*compressor_memory)(const void *builder, int level);
    void (*compressor_destroy)(void *compressor);
    /* Into OUT, which has room for a unit. 0: it would not become shorter. */
    size_t (*compress)(void *compressor, const void *unit, void *out);
};

/* A new size for a disk; the core has checked that it is one. */
struct resize_request {
    uint64_t size;
    enum preallocation preallocation; /* only for growth */
    uint64_t below;                   /* size of the layer below; 0: there is none */
    /* Reads the disk as it is now, with what lies below it. */
    int (*read)(void *opaque, void *buf, size_t len, guest_off off, struct img_error *err);
    void *opaque;
};

enum { SNAPSHOT_HEAD = 512 };

struct driver {
    const char *name;
    bool plain; /* the file is the disk: there is no metadata that a writer could change under a
                   reader */
    /* How sure the first bytes of a file make it: 0 not at all, 100 certain. */
    int (*probe)(const uint8_t *head, size_t len);
    /* The same by what stands elsewhere in a file whose first bytes said nothing; may be NULL. */
    int (*probe_far)(struct file *f, struct img_error *err);
    /* Reads and checks the metadata. On failure, close is not called. */
    int (*open)(struct layer *l, unsigned flags, struct img_error *err);
    void (*close)(struct layer *l);
    /* Makes the layer the disk of the internal snapshot that the options choose, before anything
     * was mapped. May be NULL. */
    int (*select_snapshot)(struct layer *l, const struct img_open_options *options,
                           struct img_error *err);
    /* The first bytes of the file as they would be were that snapshot the disk. May be NULL. */
    int (*snapshot_head)(struct layer *l, uint8_t head[SNAPSHOT_HEAD], struct img_error *err);
    /*
     * The extent at OFF, at most MAX bytes long, which do not cross the layer's size. As long as it
     * can be. Safe from several threads at once, as are all calls below.
     */
    int (*map)(struct layer *l, guest_off off, uint64_t max, enum map_detail detail,
               struct extent *out, struct img_error *err);
    /* Reads a part of a COMPRESSED extent. */
    int (*read_compressed)(struct layer *l, void *buf, size_t len, guest_off off,
                           struct img_error *err);
    /* Do DATA extents lie in holes of the host file (metadata was preallocated)? May be NULL. */
    bool (*data_has_holes)(struct layer *l);
    /* Adds what only this format has; the core has filled in the rest. May be NULL. */
    int (*describe)(struct layer *l, struct img_info *info, struct img_error *err);
    /* May be NULL: the format has no tables. */
    int (*tables)(struct layer *l, struct layer_tables *out, struct img_error *err);
    /* Looks for damage in a layer opened with IMG_OPEN_CHECK (check.h). May be NULL. */
    int (*check)(struct layer *l, struct check_report *report, struct img_error *err);
    /* Repairs it; OPTIONS' functions are REPORT's. May be NULL. */
    int (*repair)(struct layer *l, const struct img_repair_options *options,
                  struct check_report *report, struct img_error *err);
    /* Frees the clusters that nothing references, unless there is other damage, of a layer opened
     * to be written that was not written yet. May be NULL. */
    int (*sweep)(struct layer *l, struct img_error *err);

    /* Internal snapshots, of a layer opened to be written; all NULL: the format has none. */
    int (*snapshot_create)(struct layer *l, const char *name, struct img_error *err);
    int (*snapshot_apply)(struct layer *l, const char *id_or_name, struct img_error *err);
    int (*snapshot_delete)(struct layer *l, const char *name, struct img_error *err);

    const struct driver_writing *writing; /* NULL: guest data cannot be written */

    /* Gives the disk another size, on disk when it returns. May be NULL. */
    int (*resize)(struct layer *l, const struct resize_request *r, struct img_error *err);

    /* What a new image can be given: "size" and more. NULL: this format cannot be created. */
    const struct option_desc *create_options;
    /* Checks OPTIONS and computes what they lead to, without any I/O. -EFBIG: the size is too
     * large. */
    int (*plan)(struct create_plan *plan, const struct option_set *options, struct img_error *err);
    /* Lays the image out in F, a file of the planned length without contents, or a device with some
     * that mean nothing any more. What makes it an image comes last. */
    int (*create)(const struct create_plan *plan, struct file *f, struct img_error *err);

    /* How large an image of the options would be. NULL: nobody can say. */
    int (*measure)(const struct measure_request *r, struct img_measurement *out,
                   struct img_error *err);
    const struct driver_building *building; /* NULL: a disk has to be written into the new image */

    /* What an image can be given later. */
    const struct option_desc *amend_options;
    /* Changes a layer that was opened to be written. NULL: options of this format cannot change. */
    int (*amend)(struct layer *l, const struct amend_request *request, struct img_error *err);
    /* Does all of ACTIONS to the bitmap NAME, or nothing; *FAILED as in img_bitmap_change. NULL:
     * the format has no bitmaps. */
    int (*change_bitmap)(struct layer *l, const char *name, const struct bitmap_action *actions,
                         size_t count, size_t *failed, struct img_error *err);

    /*
     * Names another backing file (NULL: none) and its format (NULL: not stated) in a layer that was
     * opened to be written, in one step; what the disk has is not touched, and what of it was
     * written is on disk before. ONLY_CHECK: just says whether that can be done. -ENOSPC: the
     * header has no room. NULL: this format names none.
     */
    int (*set_backing)(struct layer *l, const char *name, const char *format, bool only_check,
                       struct img_error *err);
    /* What would have to change in the file for the layer to have NAMES; nothing is written. OUT is
     * for head_change_clear. -ENOSPC: the header has no room. May be NULL. */
    int (*plan_names)(struct layer *l, const struct layer_names *names, struct head_change *out,
                      struct img_error *err);
    /* The layer's disk holds nothing any more, so that all of it is read from below; in one step.
     * May be NULL. */
    int (*make_empty)(struct layer *l, struct img_error *err);
};

/* All formats, raw last; ends with NULL. Defined by the formats (formats/drivers.c). */
extern const struct driver *const drivers[];

/* probe.c */
const struct driver *driver_by_name(const char *name);
/* Is FORMAT a name that QEMU knows, whether we do or not? */
bool driver_named_by_qemu(const char *format);
/* The driver of a format that the user names; NULL for one that only QEMU has. */
int driver_find(const struct driver **out, const char *format, struct img_error *err);

/* ops/bitmap.c */
/* What holds for a new bitmap in any format. */
int bitmap_check_new(const char *name, uint64_t granularity, struct img_error *err);
int bitmap_not_found(const char *name, struct img_error *err);

/*
 * Chooses by looking at the file. *GUESSED: nothing matched its first bytes; *OUT is then raw, or,
 * with FAR, what the rest of it looks like.
 */
int driver_probe(const struct driver **out, struct file *f, bool far, bool *guessed,
                 struct img_error *err);

#endif
