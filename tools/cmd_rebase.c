/* imgtool rebase: gives an image another backing file. */
#include "commands.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "rebase_formats.h"
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct rebase_request {
    struct tool *tool;
    const char *filename;
    struct img_open_options open;
    struct img_rebase_options rebase;
    const char *cache, *source_cache;
    bool quiet, json, fix_format;
    struct progress progress;
};

static void print_json(FILE *out, const struct img_rebase_result *r)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_number(&j, "shared-bytes", r->shared_bytes);
    json_number(&j, "read-bytes", r->read_bytes);
    json_number(&j, "copy-bytes", r->copied_bytes);
    json_number(&j, "zero-bytes", r->zeroed_bytes);
    json_number(&j, "growth-bytes", r->growth_bytes);
    json_close(&j, '}');
    fputc('\n', out);
}

static void print_line(FILE *out, const char *what, uint64_t bytes, const char *note)
{
    char size[32];
    fprintf(out, "%-9s %" PRIu64 " bytes (%s)%s\n", what, bytes, human_size(bytes, size), note);
}

static int print_survey(const struct rebase_request *r, const struct img_rebase_result *result)
{
    struct output o;
    FILE *out = output_start(&o);
    if (out && r->json) {
        print_json(out, result);
    } else if (out) {
        print_line(out, "shared:", result->shared_bytes, ", known to be equal without reading");
        print_line(out, "to read:", result->read_bytes, ", of both backing files");
        print_line(out, "to copy:", result->copied_bytes, " at most");
        print_line(out, "to zero:", result->zeroed_bytes, " at most");
        print_line(out, "growth:", result->growth_bytes, " at most");
    }
    return output_finish(&o, true) ? tool_error(r->tool, "Could not write the output") : 0;
}

/* On paper, the beginning was told before the image was opened. */
static void update(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct rebase_request *r = opaque;
    if (r->progress.text && !strcmp(phase, "snapshots")) /* they are not what takes long */
        return;
    if (done || !r->progress.text)
        progress_update(&r->progress, phase, done, total);
}

static int fix_formats(struct rebase_request *r)
{
    const struct format_request formats = {.tool = r->tool,
                                           .filename = r->filename,
                                           .open = &r->open,
                                           .trust_raw = r->rebase.flags & IMG_REBASE_FORCE,
                                           .dry_run = r->rebase.flags & IMG_REBASE_DRY_RUN,
                                           .json = r->json,
                                           .quiet = r->quiet};
    int code = rebase_fix_formats(&formats);
    if (!code)
        progress_update(&r->progress, "rebase", 1, 1);
    return code;
}

static int run(struct rebase_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_rebase_result result;
    tool_change_options(r->tool, &r->open);
    r->rebase.open = &r->open;
    r->rebase.progress = update;
    r->rebase.cancelled = interrupt_wanted;
    r->rebase.opaque = r;
    if (img_rebase(r->filename, &r->rebase, &result, &err) < 0) {
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    return r->rebase.flags & IMG_REBASE_DRY_RUN ? print_survey(r, &result) : 0;
}

/* It looks at backing files that are there, and names no other one. */
static int check_fix_format(struct rebase_request *r)
{
    const unsigned flags = r->rebase.flags;
    if (!(flags & IMG_REBASE_UNSAFE))
        return tool_usage_error(r->tool, "--fix-format is for unsafe mode (-u)");
    if (r->rebase.backing_file || r->rebase.backing_format ||
        (flags & (IMG_REBASE_COMPRESS | IMG_REBASE_COMPARE)))
        return tool_usage_error(r->tool, "--fix-format does not go with -b, -F, -c and --compare");
    return 0;
}

/* What is wrong with it that has nothing to do with any file. */
static int check(struct rebase_request *r, int argc, char **argv)
{
    const unsigned flags = r->rebase.flags;
    if (optind != argc - 1)
        return tool_usage_error(r->tool, "Expecting one image file name");
    r->filename = argv[optind];
    if (r->fix_format)
        return check_fix_format(r);
    if (!(flags & IMG_REBASE_UNSAFE) && !r->rebase.backing_file)
        return tool_usage_error(r->tool, "Must specify backing file (-b) or use unsafe mode (-u)");
    if ((flags & IMG_REBASE_COMPARE) && !(flags & IMG_REBASE_UNSAFE))
        return tool_usage_error(r->tool, "--compare is for unsafe mode (-u)");
    if (r->json && !(flags & IMG_REBASE_DRY_RUN))
        return tool_usage_error(r->tool, "--output is for --dry-run");
    return 0;
}

static int run_with_progress(struct rebase_request *r)
{
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    if (r->progress.text) /* qemu-img shows it before it opens anything */
        progress_update(&r->progress, "compare", 0, 1);
    int code = 1;
    if (r->cache && !tool_is_cache_mode(r->cache))
        tool_error(r->tool, "Invalid cache option: %s", r->cache);
    else if (r->source_cache && !tool_is_cache_mode(r->source_cache))
        tool_error(r->tool, "Invalid source cache option: %s", r->source_cache);
    else if (!source_check(r->tool, &r->open))
        code = r->fix_format ? fix_formats(r) : run(r);
    progress_end(&r->progress, code);
    return code;
}

/* Options whose names imgtool alone knows, and what qemu-img shares with other commands. */
enum { FORCE = SOURCE_OWN, COMPARE, DRY_RUN, FIX_FORMAT };

static int take_option(void *request, int c)
{
    struct rebase_request *r = request;
    switch (c) {
    case 'b':
        r->rebase.backing_file = optarg;
        break;
    case 'F':
        r->rebase.backing_format = optarg;
        break;
    case 'u':
        r->rebase.flags |= IMG_REBASE_UNSAFE;
        break;
    case 'c':
        r->rebase.flags |= IMG_REBASE_COMPRESS;
        break;
    case 't': /* everything is on disk when the command is over, whatever the mode */
        r->cache = optarg;
        break;
    case 'T':
        r->source_cache = optarg;
        break;
    case 'q':
        r->quiet = true;
        break;
    case 'p':
        return progress_option(r->tool, &r->progress, optarg);
    case FORCE:
        r->rebase.flags |= IMG_REBASE_FORCE;
        break;
    case FIX_FORMAT:
        r->fix_format = true;
        break;
    case COMPARE:
        r->rebase.flags |= IMG_REBASE_COMPARE;
        break;
    case DRY_RUN:
        r->rebase.flags |= IMG_REBASE_DRY_RUN;
        break;
    case SOURCE_OUTPUT:
        return tool_output_format(r->tool, optarg, &r->json);
    }
    return 0;
}

int cmd_rebase(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        SOURCE_LONG,
        {"backing", required_argument, 0, 'b'},
        {"backing-format", required_argument, 0, 'F'},
        {"backing-unsafe", no_argument, 0, 'u'},
        {"compress", no_argument, 0, 'c'},
        {"cache", required_argument, 0, 't'},
        {"backing-cache", required_argument, 0, 'T'},
        {"source-cache", required_argument, 0, 'T'},
        {"force", no_argument, 0, FORCE},
        {"compare", no_argument, 0, COMPARE},
        {"fix-format", no_argument, 0, FIX_FORMAT},
        {"dry-run", no_argument, 0, DRY_RUN},
        {"quiet", no_argument, 0, 'q'},
        PROGRESS_OPTION,
        {0, 0, 0, 0},
    };
    struct rebase_request r = {.tool = tool};
    int code;
    if (source_options(tool, &r.open, argc, argv, "hf:F:b:upt:T:qUc", options, take_option, &r,
                       &code))
        return code;
    if (check(&r, argc, argv))
        return 1;
    if (tool->as_qemu) /* qemu-img names what it is told, and forgets the snapshots */
        r.rebase.flags |= IMG_REBASE_FORCE;
    return run_with_progress(&r);
}
