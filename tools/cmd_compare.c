/* imgtool compare: do two images have the same disk? */
#include "commands.h"
#include "output.h"
#include "progress.h"
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAME = 0, DIFFER = 1, NOT_OPENED = 2, NOT_MAPPED = 3, NOT_READ = 4 };

struct compare_request {
    struct tool *tool;
    struct img_open_options open[2];
    const char *filenames[2];
    struct img_compare_options compare;
    struct progress progress;
    uint64_t common; /* where the shorter disk ends */
    bool quiet, list, json;
    bool any;    /* something was listed */
    bool warned; /* of disks of different sizes */
};

static void say(const struct compare_request *r, const char *fmt, uint64_t offset)
{
    if (!r->quiet)
        printf(fmt, offset);
}

/* Once the common part is known to be the same. */
static void warn_of_size(struct compare_request *r)
{
    if (!r->warned)
        say(r, "Warning: Image size mismatch!\n", 0);
    r->warned = true;
}

/* ---- what differs ---- */

static void list_one(struct compare_request *r, const struct img_difference *d)
{
    if (r->json)
        printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 "}", r->any ? ",\n" : "",
               d->start, d->length);
    else
        printf("%#-16" PRIx64 "%#" PRIx64 "\n", d->start, d->length);
    r->any = true;
}

static int difference(void *opaque, const struct img_difference *d)
{
    struct compare_request *r = opaque;
    if (r->list) {
        list_one(r, d);
        return 0;
    }
    if (d->kind == IMG_DIFFERENCE_DATA && d->start >= r->common)
        warn_of_size(r);
    switch (d->kind) {
    case IMG_DIFFERENCE_SIZE:
        say(r, "Strict mode: Image size mismatch!\n", 0);
        break;
    case IMG_DIFFERENCE_STATUS:
        say(r, "Strict mode: Offset %" PRIu64 " block status mismatch!\n", d->start);
        break;
    case IMG_DIFFERENCE_DATA:
        say(r, "Content mismatch at offset %" PRIu64 "!\n", d->start);
        break;
    }
    return 1;
}

static void progress(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct compare_request *r = opaque;
    progress_update(&r->progress, phase, done, total);
}

/* ---- how it ends ---- */

/* In the words of qemu-img, which does not say why a map could not be had. */
static int report(struct compare_request *r, const struct img_comparison *result,
                  struct img_error *err)
{
    const char *name = r->filenames[result->image];
    bool mapping = result->step == IMG_COMPARE_MAPPING;
    const char *detail = img_error_message(err);
    char why[512] = "";
    if (!r->tool->as_qemu)
        snprintf(why, sizeof why, " (%s)", detail);
    if (mapping)
        tool_error(r->tool, "Sector allocation test failed for %s%s", name, why);
    else
        tool_error(r->tool, "Error while reading offset %" PRIu64 " of %s: %s%s", result->offset,
                   name, strerror(err->code), why);
    img_error_clear(err);
    return mapping ? NOT_MAPPED : NOT_READ;
}

/* "Identical" is said in text, and where nothing was to be listed. */
static void conclude(struct compare_request *r, const struct img_comparison *result, bool sizes)
{
    if (r->json) {
        puts("]");
    } else if (!result->differ) {
        if (sizes)
            warn_of_size(r);
        say(r, "Images are identical.\n", 0);
    }
}

static int compare(struct compare_request *r, struct img *const *images)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_comparison result;
    uint64_t sizes[2] = {img_size(images[0]), img_size(images[1])};
    r->common = sizes[0] < sizes[1] ? sizes[0] : sizes[1];
    r->compare.flags |= r->list ? IMG_COMPARE_ALL : 0;
    r->compare.difference = difference;
    r->compare.progress = progress;
    r->compare.opaque = r;
    if (r->json)
        putchar('[');
    else if (r->list)
        printf("%-16s%s\n", "Offset", "Length");
    if (img_compare(images[0], images[1], &r->compare, &result, &err) < 0) {
        if (r->json) /* what was found until then stands above, and is whole */
            puts("]");
        return report(r, &result, &err);
    }
    conclude(r, &result, sizes[0] != sizes[1]);
    if (fflush(stdout) || ferror(stdout)) {
        tool_error(r->tool, "Could not write the output");
        return NOT_READ;
    }
    return result.differ ? DIFFER : SAME;
}

static int run(struct compare_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *images[2] = {NULL, NULL};
    int code = SAME;
    for (unsigned i = 0; i < 2 && !code; i++)
        if (img_open(&images[i], r->filenames[i], &r->open[i], &err) < 0) {
            tool_report(r->tool, &err);
            code = NOT_OPENED;
        }
    if (!code)
        code = compare(r, images);
    img_close(images[0]);
    img_close(images[1]);
    return code;
}

/* ---- options ---- */

static int check(struct compare_request *r, int argc, char **argv)
{
    if (optind != argc - 2)
        return tool_usage_error(r->tool, "Expecting two image file names");
    r->filenames[0] = argv[optind];
    r->filenames[1] = argv[optind + 1];
    if (r->list && (r->compare.flags & IMG_COMPARE_STRICT))
        return tool_error(r->tool, "--list and --strict are mutually exclusive");
    if (r->list && r->quiet)
        return tool_error(r->tool, "--list and --quiet are mutually exclusive");
    if (r->json && !r->list)
        return tool_error(r->tool, "--output=json needs --list");
    return 0;
}

static int check_cache(const struct compare_request *r, const char *cache)
{
    if (!cache || tool_is_cache_mode(cache))
        return 0;
    tool_error(r->tool, "Invalid source cache option: %s", cache);
    return NOT_OPENED;
}

static int start(struct compare_request *r, int argc, char **argv, const char *cache)
{
    if (check(r, argc, argv))
        return 1;
    int code = check_cache(r, cache);
    if (tool_cache_is_direct(cache))
        r->open[0].flags |= IMG_OPEN_DIRECT;
    r->open[1].flags = r->open[0].flags;
    for (unsigned i = 0; i < 2 && !code; i++)
        code = source_check(r->tool, &r->open[i]) ? NOT_OPENED : 0;
    if (code)
        return code;
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    code = run(r);
    progress_end(&r->progress, code);
    return code;
}

int cmd_compare(struct tool *tool, int argc, char **argv)
{
    enum { LIST = SOURCE_OWN };
    static const struct option options[] = {
        SOURCE_LONG,
        PROGRESS_OPTION,
        {"quiet", no_argument, 0, 'q'},
        {"cache", required_argument, 0, 'T'},
        {"a-format", required_argument, 0, 'f'},
        {"left-format", required_argument, 0, 'f'},
        {"b-format", required_argument, 0, 'F'},
        {"right-format", required_argument, 0, 'F'},
        {"strict", no_argument, 0, 's'},
        {"list", no_argument, 0, LIST},
        {0, 0, 0, 0},
    };
    struct compare_request r = {.tool = tool};
    const char *cache = NULL;
    int c, code, failed = 0;
    tool_open_options(tool, &r.open[1]);
    while ((c = source_getopt(tool, &r.open[0], argc, argv, SOURCE_SHORT "F:T:pqs", options,
                              &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case SOURCE_OUTPUT:
            failed = tool_output_format(tool, optarg, &r.json);
            break;
        case 'F':
            r.open[1].format = optarg;
            break;
        case 'T':
            cache = optarg;
            break;
        case 'p':
            failed = progress_option(tool, &r.progress, optarg);
            break;
        case 'q':
            r.quiet = true;
            break;
        case 's':
            r.compare.flags |= IMG_COMPARE_STRICT;
            break;
        case LIST:
            r.list = true;
            break;
        }
        if (failed)
            return 1;
    }
    return start(&r, argc, argv, cache);
}
