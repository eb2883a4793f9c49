/*
 * Relocating: names in images that lead under one folder are to lead under another.
 *
 *   relocate_names.c   what a name becomes
 *   relocate.c         the walk through the chains, and the order of all of it
 *   same.c             do two files hold the same?
 *   chain_edit.c       new names for several images, all of them or none
 *   journal.c          what makes it so across a crash
 */
#ifndef LIB_OPS_RELOCATE_H
#define LIB_OPS_RELOCATE_H

#include "lib/image.h"

/* FROM and TO as they are compared with. */
struct place {
    char *text; /* absolute, without ".", ".." and double slashes; "" for the root */
    char *real; /* the same, with the symbolic links of its folder resolved */
};

struct relocation_map {
    struct place from, to;
    enum img_name_style style;
};

int relocation_map_init(struct relocation_map *m, const char *from, const char *to,
                        enum img_name_style style, struct img_error *err);
void relocation_map_clear(struct relocation_map *m);

/*
 * What the backing file's name in L, or (DATA_FILE) its data file's, shall be: *NAME, NULL when it
 * stays. All files that a new name leads to are there. *COUNT: how many paths change in it.
 */
int relocation_name(const struct relocation_map *m, const struct layer *l, bool data_file,
                    char **name, struct img_error *err);

/* same.c */
/* Two names of what should be the same. */
struct same_request {
    const char *old, *new; /* paths */
    const char *format;    /* NULL: as they look, each */
    uint64_t size;         /* out: bytes to read; 0 when they are one file */
};

/* Compares formats and sizes; that the old one is gone is fine. */
int same_look(struct same_request *r, struct img_error *err);
/* Compares what the guest reads. STEP is told how far it is; when it fails, so does the call. */
int same_bytes(const struct same_request *r,
               int (*step)(void *opaque, uint64_t bytes, struct img_error *err), void *opaque,
               struct img_error *err);

#endif
