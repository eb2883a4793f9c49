/* What advise-cache prints: for people, for scripts, and ready to paste for QEMU and libvirt. */
#ifndef TOOLS_CACHE_OUTPUT_H
#define TOOLS_CACHE_OUTPUT_H

#include <imgtool.h>
#include <stdio.h>

/* One FILE of the command line: its layers, top first, and the advice for each. */
struct cache_image {
    const char *filename;
    struct img_cache_survey survey;
    struct img_cache_advice *advice; /* one a layer */
};

struct cache_request {
    struct img_open_options open;
    bool whole_chain;
    struct img_qemu_version version;
    const char *version_text; /* "newest" when none was stated */
    bool has_budget;
    uint64_t budget;
};

/* Bytes that an image's caches take, all layers together; 0 where nothing is cached. */
uint64_t cache_total(const struct cache_image *image);

/* cache_report.c. COUNT images; LISTED: as a list, however many there are. */
void cache_print_human(FILE *out, const struct cache_request *r, const struct cache_image *images,
                       size_t count);
void cache_print_json(FILE *out, const struct cache_request *r, const struct cache_image *images,
                      size_t count, bool listed);

/*
 * cache_paste.c. NUMBER counts the images, for names that must differ. Returns NULL, or what
 * hinders: a name that the notation cannot hold.
 */
typedef const char *cache_paste(FILE *out, const struct cache_request *r,
                                const struct cache_image *image, size_t number);
cache_paste cache_paste_qemu, cache_paste_blockdev, cache_paste_libvirt;

#endif
