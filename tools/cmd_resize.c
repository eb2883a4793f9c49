/* imgtool resize: gives a disk another size. */
#include "commands.h"
#include "interrupt.h"
#include "progress.h"
#include "source.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct resize_request {
    struct tool *tool;
    struct img_open_options open;
    const char *filename, *size;
    struct img_resize_options resize;
    bool quiet;
    struct progress progress;
};

/* What SIZE says: a number, and whether it is one to add (1), to take away (-1) or the size (0). */
static int parse_amount(const struct resize_request *r, int *relative, uint64_t *amount)
{
    const char *text = r->size;
    *relative = *text == '+' ? 1 : *text == '-' ? -1 : 0;
    text += *relative != 0;
    int ret = img_parse_size(text, amount);
    if (ret == -ERANGE)
        return tool_error(r->tool, "Value '%s' is out of range for parameter 'size'", text);
    if (ret < 0) {
        tool_error(r->tool, "Parameter 'size' expects a non-negative number below 2^64");
        fputs("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
              "and exabytes, respectively.\n",
              stderr);
        return 1;
    }
    return 0;
}

/* 0 for what is no size at all, as the library refuses it then. */
static uint64_t new_size(uint64_t now, int relative, uint64_t amount)
{
    if (amount > INT64_MAX)
        return 0;
    if (relative < 0)
        return amount < now ? now - amount : 0;
    return relative ? now + amount : amount;
}

static int refuse_to_shrink(const struct resize_request *r)
{
    tool_error(r->tool, "Use the --shrink option to perform a shrink operation.");
    return tool_error(r->tool,
                      "warning: Shrinking an image will delete all data beyond the shrunken "
                      "image's end. Before performing such an operation, make sure there is no "
                      "important data there.");
}

static int resize(struct resize_request *r, struct img *img, int relative, uint64_t amount)
{
    struct img_error err = IMG_ERROR_INIT;
    uint64_t now = img_size(img), size = new_size(now, relative, amount);
    bool allowed = r->resize.flags & IMG_RESIZE_SHRINK;
    if (size && size < now && !allowed && r->resize.preallocation == IMG_PREALLOCATION_OFF)
        return refuse_to_shrink(r);
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    r->resize.progress = progress_update;
    r->resize.opaque = &r->progress;
    int ret = img_resize(img, size, &r->resize, &err);
    progress_end(&r->progress, ret);
    if (ret < 0) {
        int code = err.code;
        if (code == ECANCELED)
            img_error_clear(&err);
        return code == ECANCELED ? 1 : tool_report(r->tool, &err);
    }
    if (!r->quiet)
        puts("Image resized.");
    return ferror(stdout) || fflush(stdout) ? tool_error(r->tool, "Could not write the output") : 0;
}

static int run(struct resize_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    int relative;
    uint64_t amount;
    if (parse_amount(r, &relative, &amount) || source_check(r->tool, &r->open))
        return 1;
    tool_change_options(r->tool, &r->open);
    if (img_open(&img, r->filename, &r->open, &err) < 0) {
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    int code = resize(r, img, relative, amount);
    img_close(img);
    if (code)
        interrupt_die();
    return code;
}

static int parse_preallocation(struct resize_request *r, const char *mode)
{
    static const char *const modes[] = {
        [IMG_PREALLOCATION_OFF] = "off",
        [IMG_PREALLOCATION_METADATA] = "metadata",
        [IMG_PREALLOCATION_FALLOC] = "falloc",
        [IMG_PREALLOCATION_FULL] = "full",
    };
    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(mode, modes[i]))
            continue;
        r->resize.preallocation = (enum img_preallocation)i;
        return 0;
    }
    return tool_error(r->tool, "Invalid preallocation mode '%s'", mode);
}

/*
 * A word that is no option. A negative number right behind the file name is no option either,
 * though it looks like several.
 */
static int take_word(struct resize_request *r, int argc, char **argv, const char *word)
{
    if (!r->filename) {
        r->filename = word;
        const char *next = optind < argc ? argv[optind] : "";
        if (*next == '-' && isdigit((unsigned char)next[1]))
            r->size = argv[optind++];
    } else if (!r->size) {
        r->size = word;
    } else {
        return tool_usage_error(r->tool, "Extra argument(s) in command line");
    }
    return 0;
}

static int take_rest(struct resize_request *r, int argc, char **argv)
{
    if (!r->filename && optind < argc)
        r->filename = argv[optind++];
    if (!r->size && optind < argc)
        r->size = argv[optind++];
    if (!r->filename || !r->size || optind < argc)
        return tool_usage_error(r->tool, "Expecting image file name and size");
    return run(r);
}

int cmd_resize(struct tool *tool, int argc, char **argv)
{
    enum { WORD = 1, SHRINK = SOURCE_OWN, PREALLOCATION };
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},
        {"preallocation", required_argument, 0, PREALLOCATION},
        {"shrink", no_argument, 0, SHRINK},
        {"quiet", no_argument, 0, 'q'},
        PROGRESS_OPTION,
        {"object", required_argument, 0, SOURCE_OBJECT},
        {0, 0, 0, 0},
    };
    struct resize_request r = {.tool = tool};
    int c, code;
    while ((c = tool_getopt(tool, argc, argv, "-hf:qp", options, &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case WORD:
            if (take_word(&r, argc, argv, optarg))
                return 1;
            break;
        case 'f':
            r.open.format = optarg;
            break;
        case 'q':
            r.quiet = true;
            break;
        case SOURCE_IMAGE_OPTS:
            r.open.flags |= IMG_OPEN_IMAGE_OPTS;
            break;
        case SHRINK:
            r.resize.flags |= IMG_RESIZE_SHRINK;
            break;
        case PREALLOCATION:
            if (parse_preallocation(&r, optarg))
                return 1;
            break;
        case 'p':
            if (progress_option(tool, &r.progress, optarg))
                return 1;
            break;
        default: /* --object: nothing is encrypted that could be resized */
            break;
        }
    }
    return take_rest(&r, argc, argv);
}
