/* Handles: one layer, and an image with its chain. */
#ifndef LIB_IMAGE_H
#define LIB_IMAGE_H

#include "lib/driver.h"
#include "lib/ref.h"

/* Mapping metadata that a layer keeps at hand, at most. */
enum { LAYER_CACHE_MAX = 32 << 20 };

struct img {
    struct layer **layers; /* 0 is the top */
    unsigned depth;
    unsigned flags;
    struct cancel cancel;
    struct progress_sink progress; /* of calls without options of their own */
};

/* Opens the one image that REF names, without its parent. Of OPTIONS, flags and warn count. */
int layer_open(struct layer **out, const struct image_ref *ref,
               const struct img_open_options *options, bool is_backing, bool *probed,
               struct img_error *err);
void layer_close(struct layer *l);

/* The same for a file that is open already, which is taken over (on failure too). FORMAT may be
 * NULL. */
int layer_open_file(struct layer **out, struct file *f, const char *format, unsigned flags,
                    struct img_error *err);

/*
 * An image whose files are open already; they are taken over, on failure too. No backing file is
 * opened. DATA_FILE is where an image with external data has it, or NULL; FORMAT may be NULL.
 */
int img_open_file(struct img **out, struct file *f, struct file *data_file, const char *format,
                  unsigned flags, struct img_error *err);

/*
 * An image in memory, for tests and fuzzers: SIZE bytes at DATA, which are borrowed until
 * img_close. No other file is touched: no backing file is opened, and a data file that the image
 * names has the same bytes as the image.
 */
int img_open_memory(struct img **out, const void *data, size_t size, const char *format,
                    unsigned flags, struct img_error *err);

/* img_open without its words in front of the message, and without a snapshot. */
int img_open_plainly(struct img **out, const char *filename, const struct img_open_options *options,
                     struct img_error *err);

/* Whoever writes IMG, or reads it at length, asks WANTED from now on whether to go on. */
void img_set_cancel(struct img *img, bool (*wanted)(void *opaque), void *opaque);

/* write.c: brings what the guest wrote to disk, before anything else changes the image. */
int layer_settle(struct layer *l, struct img_error *err);

/* Opens FILENAME as OPTIONS say, without its parent. *REF is what it names, for the caller to
 * clear. */
int layer_open_top(struct layer **out, struct image_ref *ref, const char *filename,
                   const struct img_open_options *options, struct img_error *err);

/* read.c: reads E, all of which L holds or says is zero, at OFF of the disk. */
int layer_read_extent(struct layer *l, const struct extent *e, void *buf, guest_off off,
                      struct img_error *err);

/* ops/info.c: describes a layer; *OUT is for img_info_free. */
int layer_describe(struct img_info **out, struct layer *l, struct img_error *err);

enum layer_walk {
    WALK_TOP,   /* the image alone */
    WALK_NAMED, /* and all that the images name below it: what `info --backing-chain` shows */
    WALK_USED,  /* and all that is read: a name may say that nothing lies below its file */
};

/*
 * ops/each_layer.c: calls FN for FILENAME and, as WALK says, for every layer below it, each opened
 * by itself for its metadata only and closed again. A FN that fails ends the walk.
 */
int each_layer(const char *filename, const struct img_open_options *options, enum layer_walk walk,
               int (*fn)(void *opaque, struct layer *l, struct img_error *err), void *opaque,
               struct img_error *err);

/* chain.c */

/* Opens every layer below the top of IMG. OVERRIDE: a backing file that the user named, or NULL. */
int chain_open(struct img *img, const struct img_open_options *options, const struct image_ref *ref,
               struct img_error *err);

/* What BELOW the layer L names as its backing file, and that name put together. */
int chain_backing_ref(struct image_ref *ref, char **full, const struct layer *l,
                      struct img_error *err);

/* Tells the user that L names no format for FULL. */
void chain_warn_probed(const struct img_open_options *options, const struct layer *l,
                       const char *full, const char *format);

/* Which files a chain has led through. */
struct chain_trail {
    struct chain_seen {
        struct file_identity id;
        const struct driver *driver;
    } * seen;
    size_t count;
};

/* Adds L; -ELOOP when it is there already. NAME is the name that led to it. */
int chain_trail_add(struct chain_trail *t, const struct layer *l, const char *name,
                    struct img_error *err);

/* Says in ERR where the backing file of L was looked for. */
void chain_explain(struct img_error *err, const struct layer *l, const char *full);

/*
 * The extent of the whole chain at OFF, at most MAX bytes long. *LAYER decides; WALK remembers what
 * each layer said, for a walk in ascending order, or is NULL.
 */
struct chain_walk {
    struct chain_step {
        uint64_t start;
        struct extent extent; /* length 0: nothing known */
    } * steps;                /* one a layer */
};

int chain_map(struct img *img, guest_off off, uint64_t max, enum map_detail detail,
              struct chain_walk *walk, struct extent *out, unsigned *depth, struct img_error *err);

#endif
