/*
 * Small valid qcow2 images in memory, which a test then patches, and the few ways in which tests
 * open them. Helpers fail the running test when something goes wrong that is not being tested.
 *
 * Layout, in clusters: header, refcount table, refcount block, L1 table, one L2 table (which maps
 * the start of the disk), then whatever a test adds.
 */
#ifndef MAKE_QCOW2_H
#define MAKE_QCOW2_H

/* cmocka wants these before itself */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct image {
    uint8_t *data; /* exactly SIZE bytes, so that a sanitizer sees the first one past it */
    size_t size;
    size_t cluster; /* bytes */
    size_t reftable, refblock, l1, l2;
    size_t extension; /* where the next header extension goes */
    unsigned entry;   /* bytes of an L2 entry */
};

/* A disk of SIZE bytes. INCOMPATIBLE: feature bits, of version 3. */
struct image make_qcow2(unsigned version, unsigned cluster_bits, uint64_t size,
                        uint64_t incompatible);
void image_free(struct image *m);

/* The offset of field FIELD of the header, and stores there. */
#define HEADER(m, field)   ((m)->data + offsetof(struct ondisk_header, field))
#define SET32(m, field, v) store_be32(HEADER(m, field), (uint32_t)(v))
#define SET64(m, field, v) store_be64(HEADER(m, field), (v))

/* Adds COUNT clusters of zeroes, returns the offset of the first. Pointers into data change. */
size_t image_grow(struct image *m, size_t count);
/* Adds a cluster filled with BYTE. */
size_t image_add_data(struct image *m, uint8_t byte);
/* Cuts or extends the file. */
void image_resize(struct image *m, size_t size);

/* Appends a header extension with its padding. */
void image_extend(struct image *m, uint32_t type, const void *data, size_t length);
/* Names a backing file at the end of the header's cluster. */
void image_set_backing(struct image *m, const char *name);

/* Entry INDEX of the first L2 table; BITMAP only counts with extended L2. */
void image_set_entry(struct image *m, size_t index, uint64_t entry, uint64_t bitmap);

/* Adds a snapshot table with one entry that shares the active L1 table's contents. */
struct snapshot_spec {
    const char *id, *name;
    uint32_t extra_size;
    uint64_t disk_size;
};
size_t image_add_snapshots(struct image *m, const struct snapshot_spec *specs, size_t count);

/* Adds a bitmap directory of one bitmap and the extension that names it; returns its offset. */
size_t image_add_bitmap(struct image *m, const char *name);

struct img *image_open(const struct image *m, unsigned flags);
/* Opens as qcow2; it must fail with exactly this code and text, "message (context)". */
void expect_open(const struct image *m, unsigned flags, int code, const char *message);
/* The same, but it must succeed. */
void expect_opens(const struct image *m, unsigned flags);

/* Checks ERR, "message (context)" or the message alone where it has no context, and clears it. */
void expect_error(struct img_error *err, int ret, int code, const char *message);

/* img_map written as text: "start+length kind[@offset]" for each extent, joined by spaces. */
char *map_text(struct img *img, uint64_t offset, uint64_t length);
/* Maps the whole disk and compares. */
void expect_map(const struct image *m, const char *text);

/* Files of this test: in a folder of its own, which is removed at the end of the program. */
const char *test_path(const char *name);
void write_file(const char *path, const void *data, size_t size);
void image_write(const struct image *m, const char *name);

#endif
