#include "rebase_formats.h"
#include "interrupt.h"
#include "name_changes.h"

struct fixing {
    struct tool *tool;
    struct name_changes changes;
};

static void warn(void *opaque, enum img_warning warning, const char *message)
{
    const struct fixing *f = opaque;
    tool_warn(f->tool, warning, message);
}

static void add_change(void *opaque, const struct img_name_change *change)
{
    struct fixing *f = opaque;
    name_changes_add(&f->changes, change);
}

int rebase_fix_formats(const struct format_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_name_changes result;
    struct fixing f = {
        .tool = r->tool,
        .changes = {.tool = r->tool, .json = r->json, .quiet = r->quiet, .dry_run = r->dry_run}};
    const struct img_fix_formats_options options = {.open = r->open,
                                                    .trust_raw = r->trust_raw,
                                                    .dry_run = r->dry_run,
                                                    .change = add_change,
                                                    .warn = warn,
                                                    .cancelled = interrupt_wanted,
                                                    .opaque = &f};
    if (name_changes_start(&f.changes))
        return 1;
    interrupt_watch();
    int ret = img_fix_backing_formats(r->filename, &options, &result, &err);
    int code = name_changes_finish(&f.changes, &result, ret == 0);
    if (ret == 0)
        return code;
    interrupt_die();
    return tool_report(r->tool, &err);
}
