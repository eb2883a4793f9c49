/* imgtool convert: copies the disk of an image, or of several, to another. */
#include "commands.h"
#include "interrupt.h"
#include "option_list.h"
#include "progress.h"
#include "source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 512, MAX_SPARSE_SECTORS = 32768, MAX_COROUTINES = 16 };

struct convert_request {
    struct tool *tool;
    struct img_convert_options convert;
    struct img_open_options open;
    const char *target;
    const char *cache, *source_cache;
    char *options; /* of all -o together */
    bool quiet, offload, sparse_given;
    struct progress progress;
};

enum {
    OBJECT = 256,
    IMAGE_OPTS,
    TARGET_IMAGE_OPTS,
    TARGET_IS_ZERO,
    SALVAGE,
    BITMAPS,
    SKIP_BROKEN,
    REFLINK,
    VERIFY,
    ADOPT,
    RESUME,
};

static int set_sparse(struct convert_request *r, const char *text)
{
    uint64_t size;
    if (tool_size(r->tool, "buffer size for sparse output", text, &size))
        return 1;
    if (size % SECTOR || size / SECTOR > MAX_SPARSE_SECTORS)
        return tool_error(r->tool,
                          "Invalid buffer size for sparse output specified. Valid sizes are "
                          "multiples of %d up to %d. Select 0 to disable sparse detection (fully "
                          "allocates output).",
                          SECTOR, MAX_SPARSE_SECTORS * SECTOR);
    r->sparse_given = true;
    r->convert.sparse_size = size;
    if (size)
        r->convert.flags &= ~(unsigned)IMG_CONVERT_DENSE;
    else
        r->convert.flags |= IMG_CONVERT_DENSE;
    return 0;
}

static int set_threads(struct convert_request *r, const char *text)
{
    uint64_t n = 0;
    int failed = tool_number(r->tool, "number of coroutines", text, 1, MAX_COROUTINES, &n);
    r->convert.threads = (unsigned)n;
    return failed;
}

static int set_reflink(struct convert_request *r, const char *text)
{
    static const char *const words[] = {"auto", "never", "always"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(text, words[i])) {
            r->convert.reflink = (enum img_reflink)i;
            return 0;
        }
    return tool_usage_error(r->tool, "--reflink expects 'auto', 'always' or 'never', not '%s'",
                            text);
}

/* An option of the target or of the copy. Returns 1 after a complaint. */
static int set_option(struct convert_request *r, int c, char *value)
{
    switch (c) {
    case 'S':
        return set_sparse(r, value);
    case REFLINK:
        return set_reflink(r, value);
    case 'm':
        return set_threads(r, value);
    case 'l':
        return source_snapshot(r->tool, &r->open, value);
    case 'o':
        return option_list_add(r->tool, &r->options, value);
    case 'r':
        return tool_size(r->tool, "rate limit", value, &r->convert.rate);
    case 'O':
        r->convert.format = value;
        break;
    case 'B':
        r->convert.backing_file = value;
        break;
    case 'F':
        r->convert.backing_format = value;
        break;
    case 'f':
        r->open.format = value;
        break;
    case 't':
        r->cache = value;
        break;
    case 'T':
        r->source_cache = value;
        break;
    case 'C':
        r->offload = true;
        break;
    case 'p':
        return progress_option(r->tool, &r->progress, value);
    case 'q':
        r->quiet = true;
        break;
    case 'U':
        r->open.flags |= IMG_OPEN_FORCE_SHARE;
        break;
    case IMAGE_OPTS:
        r->open.flags |= IMG_OPEN_IMAGE_OPTS;
        break;
    default: /* -W: where pieces go does not depend on it; --object: no image needs a secret */
        break;
    }
    return 0;
}

static unsigned flag_of(int c)
{
    switch (c) {
    case 'c':
        return IMG_CONVERT_COMPRESS;
    case 'n':
        return IMG_CONVERT_EXISTING;
    case TARGET_IMAGE_OPTS:
        return IMG_CONVERT_TARGET_OPTS;
    case TARGET_IS_ZERO:
        return IMG_CONVERT_TARGET_IS_ZERO;
    case SALVAGE:
        return IMG_CONVERT_SALVAGE;
    case BITMAPS:
        return IMG_CONVERT_BITMAPS;
    case VERIFY:
        return IMG_CONVERT_VERIFY;
    case ADOPT:
        return IMG_CONVERT_ADOPT;
    case RESUME:
        return IMG_CONVERT_RESUME;
    case SKIP_BROKEN:
        return IMG_CONVERT_SKIP_BROKEN_BITMAPS;
    default:
        return 0;
    }
}

/* What contradicts itself, in qemu-img's order. */
static int check_options(const struct convert_request *r)
{
    unsigned flags = r->convert.flags;
    if ((flags & IMG_CONVERT_SKIP_BROKEN_BITMAPS) && !(flags & IMG_CONVERT_BITMAPS))
        return tool_error(r->tool, "Use of --skip-broken-bitmaps requires --bitmaps");
    if ((flags & IMG_CONVERT_COMPRESS) && r->offload)
        return tool_error(r->tool, "Cannot enable copy offloading when -c is used");
    if (r->sparse_given && r->offload)
        return tool_error(r->tool, "Cannot enable copy offloading when -S is used");
    if (r->offload && (flags & IMG_CONVERT_SALVAGE))
        return tool_error(r->tool, "Cannot use copy offloading in salvaging mode");
    if ((flags & IMG_CONVERT_TARGET_OPTS) && !(flags & IMG_CONVERT_EXISTING))
        return tool_error(r->tool, "--target-image-opts requires use of -n flag");
    if ((flags & IMG_CONVERT_EXISTING) && r->options)
        return tool_error(r->tool, "-o has no effect when skipping image creation");
    if ((flags & IMG_CONVERT_TARGET_IS_ZERO) && !(flags & IMG_CONVERT_EXISTING))
        return tool_error(r->tool, "--target-is-zero requires use of -n flag");
    const unsigned copying = IMG_CONVERT_COMPRESS | IMG_CONVERT_EXISTING | IMG_CONVERT_BITMAPS |
                             IMG_CONVERT_DENSE | IMG_CONVERT_VERIFY | IMG_CONVERT_SALVAGE;
    if ((flags & IMG_CONVERT_ADOPT) && ((flags & copying) || r->convert.backing_file))
        return tool_error(r->tool, "--adopt copies nothing: -B, -c, -n, -S 0, --bitmaps, --salvage "
                                   "and --verify make no sense with it");
    return 0;
}

static int print_options(const struct convert_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    const char *format = r->convert.format ? r->convert.format : "raw";
    char *text;
    if (img_create_help(&text, format, r->target, &err) < 0)
        return tool_report(r->tool, &err);
    if (r->target)
        printf("Supported options:\n%s", text);
    else
        printf("Supported %s options:\n%s\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n",
               format, text);
    if (r->convert.flags & IMG_CONVERT_COMPRESS && !r->tool->as_qemu)
        puts("  compression_level=<num>  - How hard to compress (zlib 1 to 12, zstd 1 to 22)");
    free(text);
    return 0;
}

/* ---- running ---- */

static void show(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct convert_request *r = opaque;
    progress_update(&r->progress, phase, done, total);
}

static void tell_zeroing(void *opaque, const char *device, enum img_zeroing how)
{
    struct convert_request *r = opaque;
    if (!r->tool->as_qemu)
        progress_zeroing(&r->progress, device, how);
}

static void warn(void *opaque, const char *message)
{
    struct convert_request *r = opaque;
    if (!r->quiet)
        tool_error(r->tool, "warning: %s", message);
}

static int run(struct convert_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    tool_open_options(r->tool, &r->open);
    if (!r->cache || !strcmp(r->cache, "unsafe"))
        r->convert.flags |= IMG_CONVERT_UNFLUSHED;
    if (!r->tool->as_qemu)
        r->convert.flags |= IMG_CONVERT_SAY_KEPT;
    if (tool_cache_is_direct(r->cache))
        r->convert.flags |= IMG_CONVERT_DIRECT;
    if (tool_cache_is_direct(r->source_cache))
        r->open.flags |= IMG_OPEN_DIRECT;
    r->convert.open = &r->open;
    r->convert.options = r->options;
    r->convert.warn = warn;
    r->convert.zeroing = tell_zeroing;
    r->convert.progress = show;
    r->convert.cancelled = interrupt_wanted;
    r->convert.opaque = r;
    interrupt_watch();
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    int ret = img_convert(r->target, &r->convert, &err);
    progress_end(&r->progress, ret);
    if (!ret)
        return 0;
    interrupt_die();
    return tool_report(r->tool, &err);
}

/* "-" is standard input or output; qemu-img has files of that name. */
static int take_streams(struct convert_request *r)
{
    bool in = false, out = !strcmp(r->target, "-") && !r->tool->as_qemu;
    for (size_t i = 0; i < r->convert.source_count; i++)
        in |= !strcmp(r->convert.sources[i], "-") && !r->tool->as_qemu;
    if ((in || out) && (r->convert.flags & IMG_CONVERT_ADOPT))
        return tool_error(r->tool, "--adopt needs files");
    if (in && r->convert.source_count > 1)
        return tool_error(r->tool, "Standard input (-) can only be the one source");
    if (out && r->progress.text)
        return tool_error(r->tool, "-p and the image cannot both go to standard output; use "
                                   "--progress=json");
    if (out && isatty(STDOUT_FILENO))
        return tool_error(r->tool, "An image is not written to a terminal");
    r->convert.flags |= (in ? IMG_CONVERT_FROM_STREAM : 0u) | (out ? IMG_CONVERT_TO_STREAM : 0u);
    r->convert.source_fd = STDIN_FILENO;
    r->convert.target_fd = STDOUT_FILENO;
    return 0;
}

static int take_arguments(struct convert_request *r, int argc, char **argv)
{
    int count = argc - optind - 1;
    r->target = count >= 1 ? argv[argc - 1] : NULL;
    if (check_options(r))
        return 1;
    if (r->options && option_list_asks_for_help(r->options))
        return print_options(r);
    if (count < 1)
        return tool_error(r->tool, "Must specify image file name");
    if (r->source_cache && !tool_is_cache_mode(r->source_cache))
        return tool_error(r->tool, "Invalid source cache option: %s", r->source_cache);
    if (r->cache && !tool_is_cache_mode(r->cache))
        return tool_error(r->tool, "Invalid cache option: %s", r->cache);
    if (r->open.format && (r->open.flags & IMG_OPEN_IMAGE_OPTS))
        return tool_error(r->tool, "--image-opts and --format are mutually exclusive");
    r->convert.sources = (const char *const *)(argv + optind);
    r->convert.source_count = (size_t)count;
    return take_streams(r) ? 1 : run(r);
}

static const struct option long_options[] = {
    {"help", no_argument, 0, 'h'},
    {"format", required_argument, 0, 'f'},
    {"source-format", required_argument, 0, 'f'},
    {"output-format", required_argument, 0, 'O'},
    {"options", required_argument, 0, 'o'},
    {"backing", required_argument, 0, 'B'},
    {"backing-format", required_argument, 0, 'F'},
    {"snapshot", required_argument, 0, 'l'},
    {"sparse-size", required_argument, 0, 'S'},
    {"parallel", required_argument, 0, 'm'},
    {"rate", required_argument, 0, 'r'},
    {"source-cache", required_argument, 0, 'T'},
    {"oob-writes", no_argument, 0, 'W'},
    {"copy-range-offloading", no_argument, 0, 'C'},
    {"quiet", no_argument, 0, 'q'},
    {"reflink", required_argument, 0, REFLINK},
    {"verify", no_argument, 0, VERIFY},
    {"adopt", no_argument, 0, ADOPT},
    {"resume", no_argument, 0, RESUME},
    {"object", required_argument, 0, OBJECT},
    {"image-opts", no_argument, 0, IMAGE_OPTS},
    {"force-share", no_argument, 0, 'U'},
    {"target-image-opts", no_argument, 0, TARGET_IMAGE_OPTS},
    {"salvage", no_argument, 0, SALVAGE},
    {"target-is-zero", no_argument, 0, TARGET_IS_ZERO},
    {"bitmaps", no_argument, 0, BITMAPS},
    {"skip-broken-bitmaps", no_argument, 0, SKIP_BROKEN},
    PROGRESS_OPTION,
    {0, 0, 0, 0},
};

static int parse(struct convert_request *r, int argc, char **argv)
{
    static const char letters[] = "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:";
    int c, code;
    while ((c = tool_getopt(r->tool, argc, argv, letters, long_options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        r->convert.flags |= flag_of(c);
        if (set_option(r, c, optarg))
            return 1;
    }
    return take_arguments(r, argc, argv);
}

int cmd_convert(struct tool *tool, int argc, char **argv)
{
    struct convert_request r = {.tool = tool};
    int code = parse(&r, argc, argv);
    free(r.options);
    return code;
}
