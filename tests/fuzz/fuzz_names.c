/*
 * A name of an image, as a user types it or an image holds it: path, "json:{...}", list of options.
 * No file is opened. A name that parses must have a path, and be shown as one that parses to the
 * same.
 */
#include "lib/image.h"
#include "lib/policy.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names inside images are at most 1,023 bytes; a user's may be longer. */
enum { MAX_NAME = 4096 };

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void check_display(const struct image_ref *ref)
{
    char *shown = ref_display_name(ref);
    struct image_ref again;
    REQUIRE(shown);
    if (!strncmp(shown, "json:{", 6) && (ref->raw_offset || ref->raw_size != UINT64_MAX) &&
        ref_parse(&again, shown, NULL) == 0) {
        REQUIRE(again.raw_offset == ref->raw_offset && again.raw_size == ref->raw_size);
        ref_clear(&again);
    }
    free(shown);
}

static void check(int ret, struct image_ref *ref, struct img_error *err)
{
    REQUIRE(ret <= 0 && err->code == -ret && !err->message == !ret);
    if (!ret) {
        REQUIRE(ref->path);
        check_display(ref);
    } else {
        REQUIRE(!ref->path && !ref->format && !ref->backing);
    }
    img_error_clear(err);
    ref_clear(ref);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > MAX_NAME)
        return 0;
    struct img_error err = IMG_ERROR_INIT;
    struct image_ref ref;
    char *full, *name = malloc(size + 1);
    REQUIRE(name);
    memcpy(name, data, size);
    name[size] = 0;

    check(ref_parse(&ref, name, &err), &ref, &err);
    check(ref_parse_opts(&ref, name, &err), &ref, &err);
    if (policy_backing_name(&full, "folder/top.qcow2", name, &err) == 0) {
        check(ref_parse(&ref, full, &err), &ref, &err);
        free(full);
    }
    img_error_clear(&err);
    free(name);
    return 0;
}
