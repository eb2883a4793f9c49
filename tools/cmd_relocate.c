/* imgtool relocate: images name their backing files where these are now. */
#include "commands.h"
#include "interrupt.h"
#include "name_changes.h"
#include "progress.h"

struct relocate_request {
    struct tool *tool;
    struct img_relocate_options options;
    const char *const *files;
    size_t count;
    bool quiet;
    struct name_changes changes;
    struct progress progress;
};

static void warn(void *opaque, enum img_warning warning, const char *message)
{
    struct relocate_request *r = opaque;
    tool_warn(r->tool, warning, message);
}

static void add_change(void *opaque, const struct img_name_change *change)
{
    struct relocate_request *r = opaque;
    name_changes_add(&r->changes, change);
}

static void update(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct relocate_request *r = opaque;
    progress_update(&r->progress, phase, done, total);
}

static int run(struct relocate_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_name_changes result = {0};
    r->changes.tool = r->tool;
    r->changes.quiet = r->quiet;
    r->changes.dry_run = r->options.dry_run;
    r->options.change = add_change;
    r->options.warn = warn;
    r->options.cancelled = interrupt_wanted;
    r->options.progress = update;
    r->options.opaque = r;
    if (name_changes_start(&r->changes))
        return 1;
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    interrupt_watch();
    int ret = img_relocate(r->files, r->count, &r->options, &result, &err);
    progress_end(&r->progress, ret);
    int code = name_changes_finish(&r->changes, &result, ret == 0);
    if (ret == 0)
        return code;
    interrupt_die();
    return tool_report(r->tool, &err);
}

static int take_style(struct relocate_request *r, enum img_name_style style)
{
    if (r->options.style != IMG_NAMES_KEEP && r->options.style != style)
        return tool_usage_error(r->tool, "--relative and --absolute are mutually exclusive");
    r->options.style = style;
    return 0;
}

static int check(struct relocate_request *r, int argc, char **argv)
{
    if (!r->options.from || !r->options.to)
        return tool_usage_error(r->tool, "Expecting --from and --to: where files were and are");
    if (optind == argc)
        return tool_usage_error(r->tool, "Expecting an image file name");
    r->files = (const char *const *)&argv[optind];
    r->count = (size_t)(argc - optind);
    return 0;
}

int cmd_relocate(struct tool *tool, int argc, char **argv)
{
    enum { FROM = 256, TO, RELATIVE, ABSOLUTE, DRY_RUN, OUTPUT };
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"quiet", no_argument, 0, 'q'},
        {"from", required_argument, 0, FROM},
        {"to", required_argument, 0, TO},
        {"relative", no_argument, 0, RELATIVE},
        {"absolute", no_argument, 0, ABSOLUTE},
        {"dry-run", no_argument, 0, DRY_RUN},
        {"output", required_argument, 0, OUTPUT},
        PROGRESS_OPTION,
        {0, 0, 0, 0},
    };
    struct relocate_request r = {.tool = tool};
    int c, code = 0;
    while (!code && (c = tool_getopt(tool, argc, argv, "hqp", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == 'q')
            r.quiet = true;
        else if (c == 'p')
            code = progress_option(tool, &r.progress, optarg);
        else if (c == FROM)
            r.options.from = optarg;
        else if (c == TO)
            r.options.to = optarg;
        else if (c == DRY_RUN)
            r.options.dry_run = true;
        else if (c == OUTPUT)
            code = tool_output_format(tool, optarg, &r.changes.json);
        else
            code = take_style(&r, c == RELATIVE ? IMG_NAMES_RELATIVE : IMG_NAMES_ABSOLUTE);
    }
    if (!code)
        code = check(&r, argc, argv);
    return code ? code : run(&r);
}
