/* imgtool commit: brings what an image holds into its base. */
#include "commands.h"
#include "interrupt.h"
#include "progress.h"
#include "source.h"

#include <stdio.h>
#include <stdlib.h>

struct commit_request {
    struct tool *tool;
    const char *filename;
    struct img_open_options open;
    struct img_commit_options commit;
    const char **siblings;
    const char *cache;
    bool quiet;
    struct progress progress;
};

/* qemu-img shows the beginning twice: when the image is open, and when the work begins. */
static void update(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct commit_request *r = opaque;
    if (!done && r->progress.text)
        progress_update(&r->progress, phase, done, total);
    progress_update(&r->progress, phase, done, total);
}

static int run(struct commit_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    tool_change_options(r->tool, &r->open);
    r->commit.open = &r->open;
    r->commit.siblings = r->siblings;
    r->commit.progress = update;
    r->commit.cancelled = interrupt_wanted;
    r->commit.opaque = r;
    if (img_commit(r->filename, &r->commit, NULL, &err) < 0) {
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    return 0;
}

static int take_arguments(struct commit_request *r, int argc, char **argv)
{
    if (optind != argc - 1)
        return tool_usage_error(r->tool, "Expecting one image file name");
    r->filename = argv[optind];
    if (r->cache && !tool_is_cache_mode(r->cache))
        return tool_error(r->tool, "Invalid cache option: %s", r->cache);
    if (source_check(r->tool, &r->open) || progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    int code = run(r);
    progress_end(&r->progress, code);
    if (!code && !r->quiet)
        puts("Image committed.");
    return ferror(stdout) || fflush(stdout) ? tool_error(r->tool, "Could not write the output")
                                            : code;
}

static int add_siblings(struct commit_request *r, const char *folder)
{
    const char **all = realloc(r->siblings, (r->commit.sibling_count + 1) * sizeof *all);
    if (!all)
        return tool_error(r->tool, "out of memory");
    r->siblings = all;
    all[r->commit.sibling_count++] = folder;
    return 0;
}

enum { FORCE = SOURCE_OWN, SIBLINGS };

static int take_option(void *request, int c)
{
    struct commit_request *r = request;
    switch (c) {
    case 'b':
        r->commit.base = optarg;
        break;
    case 'd':
        r->commit.flags |= IMG_COMMIT_KEEP;
        break;
    case 'r':
        return tool_size(r->tool, "rate limit", optarg, &r->commit.rate);
    case 't': /* everything is on disk when the command is over, whatever the mode */
        r->cache = optarg;
        break;
    case 'q':
        r->quiet = true;
        break;
    case 'p':
        return progress_option(r->tool, &r->progress, optarg);
    case FORCE:
        r->commit.flags |= IMG_COMMIT_FORCE;
        break;
    case SIBLINGS:
        return add_siblings(r, optarg);
    }
    return 0;
}

static int parse(struct commit_request *r, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},
        {"object", required_argument, 0, SOURCE_OBJECT},
        {"base", required_argument, 0, 'b'},
        {"drop", no_argument, 0, 'd'},
        {"rate-limit", required_argument, 0, 'r'},
        {"cache", required_argument, 0, 't'},
        {"force", no_argument, 0, FORCE},
        {"siblings", required_argument, 0, SIBLINGS},
        {"quiet", no_argument, 0, 'q'},
        PROGRESS_OPTION,
        {0, 0, 0, 0},
    };
    int code;
    if (source_options(r->tool, &r->open, argc, argv, "hf:t:b:dpqr:", options, take_option, r,
                       &code))
        return code;
    if (r->tool->as_qemu) /* qemu-img does not look for them */
        r->commit.flags |= IMG_COMMIT_FORCE;
    return take_arguments(r, argc, argv);
}

int cmd_commit(struct tool *tool, int argc, char **argv)
{
    struct commit_request r = {.tool = tool};
    int code = parse(&r, argc, argv);
    free(r.siblings);
    return code;
}
