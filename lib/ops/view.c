/*
 * An internal snapshot as a file of its own, for programs that know no snapshots (QEMU's block
 * devices have no way to choose one).
 *
 * Two small files, both empty but for what is said here: BYTES is an overlay over the image's file
 * taken as raw bytes, and holds its first sector with a header that makes the snapshot the disk;
 * VIEW is an overlay over what a qcow2 driver sees in BYTES. Nothing is copied, whatever the
 * clusters are: compressed, in backing files, with subclusters.
 */
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int make_bytes(struct layer *l, const char *filename, const char *path,
                      struct img_error *err)
{
    uint8_t head[SNAPSHOT_HEAD];
    uint64_t length = 0;
    struct img_open_options writing = {.format = "qcow2", .flags = IMG_OPEN_WRITE};
    struct img *img = NULL;
    int ret = l->driver->snapshot_head(l, head, err);
    if (!ret)
        ret = file_size(l->file, &length, err);
    if (ret < 0)
        return ret;
    struct img_create_options create = {.format = "qcow2",
                                        .size = align_up(length, 512),
                                        .backing_file = path,
                                        .backing_format = "raw",
                                        .flags = IMG_CREATE_UNSAFE_BACKING};
    ret = img_create(filename, &create, err);
    if (!ret)
        ret = img_open(&img, filename, &writing, err);
    if (!ret)
        ret = img_write(img, head, sizeof head, 0, err);
    if (!ret)
        ret = img_flush(img, err);
    img_close(img);
    return ret;
}

static struct json_object *file_node(const char *path)
{
    struct json_object *node = json_object_new_object();
    json_object_object_add(node, "driver", json_object_new_string("file"));
    json_object_object_add(node, "filename", json_object_new_string(path));
    return node;
}

static struct json_object *format_node(const char *format, struct json_object *file)
{
    struct json_object *node = json_object_new_object();
    json_object_object_add(node, "driver", json_object_new_string(format));
    json_object_object_add(node, "file", file);
    return node;
}

/* The image inside BYTES, with what lies below the image named from here. */
static char *describe_chain(struct img *img, const char *bytes)
{
    struct json_object *top = format_node("qcow2", format_node("qcow2", file_node(bytes)));
    if (img->depth > 1)
        json_object_object_add(
            top, "backing",
            format_node(img_layer_format(img, 1), file_node(img_layer_filename(img, 1))));
    char *name = NULL;
    const char *text = json_object_to_json_string_ext(top, JSON_C_TO_STRING_NOSLASHESCAPE);
    if (!text || asprintf(&name, "json:%s", text) < 0)
        name = NULL;
    json_object_put(top);
    return name;
}

int img_view_snapshot(struct img *img, const char *bytes, const char *view, struct img_error *err)
{
    struct layer *l = img->layers[0];
    if (!l->driver->snapshot_head)
        return img_fail(err, ENOTSUP, "Format '%s' has no internal snapshots", l->driver->name);
    char *path = realpath(l->filename, NULL);
    char *below = describe_chain(img, bytes);
    int ret = path && below ? make_bytes(l, bytes, path, err)
                            : img_fail_errno(err, errno, "Could not resolve '%s'", l->filename);
    struct img_create_options create = {.format = "qcow2",
                                        .size = l->size,
                                        .backing_file = below,
                                        .backing_format = "qcow2",
                                        .flags = IMG_CREATE_UNSAFE_BACKING};
    if (!ret)
        ret = img_create(view, &create, err);
    free(path);
    free(below);
    return ret;
}
