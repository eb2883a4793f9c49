#include "output.h"
#include "progress.h"
#include "tool.h"
#include "interrupt.h"
#include "object.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void complain(const struct tool *tool, const char *fmt, va_list ap)
{
    char *message = NULL, *safe = NULL;
    if (vasprintf(&message, fmt, ap) < 0)
        message = NULL;
    if (message)
        safe = printable(message);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", tool->program, safe ? safe : "out of memory");
    free(message);
    free(safe);
}

int tool_error(const struct tool *tool, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    complain(tool, fmt, ap);
    va_end(ap);
    return 1;
}

int tool_point_to_help(const struct tool *tool)
{
    fprintf(stderr, "Try '%s%s%s --help' for more info\n", tool->program, tool->command ? " " : "",
            tool->command ? tool->command : "");
    return 1;
}

int tool_usage_error(const struct tool *tool, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    complain(tool, fmt, ap);
    va_end(ap);
    return tool_point_to_help(tool);
}

int tool_report(const struct tool *tool, struct img_error *err)
{
    const char *message = img_error_message(err);
    if (err->context && !tool->as_qemu)
        tool_error(tool, "%s (%s)", message, err->context);
    else
        tool_error(tool, "%s", message);
    if (err->hint)
        fprintf(stderr, "%s\n", err->hint);
    img_error_clear(err);
    return 1;
}

/* In the words, and with the layout, of qemu-img. */
static void warn_probed_raw(const char *filename)
{
    char *name = printable(filename);
    fflush(stdout);
    fprintf(stderr,
            "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write "
            "operations on block 0 will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.\n",
            name ? name : "");
    free(name);
}

void tool_warn(void *opaque, enum img_warning warning, const char *message)
{
    const struct tool *tool = opaque;
    if (warning == IMG_WARN_REPAIRED) { /* lines of their own, as check has them */
        fprintf(stderr, "%s\n", message);
        return;
    }
    if (warning == IMG_WARN_PROBED_RAW) {
        warn_probed_raw(message);
        return;
    }
    if (!tool->as_qemu || warning == IMG_WARN_BITMAPS_STALE)
        tool_error(tool, "warning: %s", message);
    if (warning == IMG_WARN_BITMAPS_STALE)
        fputs("Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.\n",
              stderr);
}

void tool_progress(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    const struct tool *tool = opaque;
    if (tool->progress)
        progress_update(tool->progress, phase, done, total);
}

void tool_open_options(struct tool *tool, struct img_open_options *options)
{
    options->warn = tool_warn;
    options->progress = tool_progress;
    options->opaque = tool;
    if (tool->as_qemu)
        options->flags |= IMG_OPEN_PROBE_LIKE_QEMU;
}

void tool_change_options(struct tool *tool, struct img_open_options *options)
{
    tool_open_options(tool, options);
    options->flags |= IMG_OPEN_WRITE;
    options->cancelled = interrupt_wanted;
    interrupt_watch();
}

void tool_help(const struct tool *tool)
{
    for (const struct command *c = commands; c->name; c++)
        if (!strcmp(c->name, tool->command))
            printf("%s.  Usage:\n\n  %s %s %s", c->summary, tool->program, c->name, c->usage);
}

int tool_getopt(struct tool *tool, int argc, char **argv, const char *short_options,
                const struct option *long_options, int *exit_code)
{
    char name[64];
    snprintf(name, sizeof name, "%s %s", tool->program, tool->command);
    argv[0] = name; /* getopt's own messages begin with it */
    int which = -1, c = getopt_long(argc, argv, short_options, long_options, &which);
    argv[0] = (char *)(uintptr_t)tool->command;
    if (c == '?') {
        *exit_code = tool_point_to_help(tool);
        return TOOL_STOP;
    }
    if (c == 'h') {
        tool_help(tool);
        *exit_code = 0;
        return TOOL_STOP;
    }
    if (which >= 0 && c != -1 && !strcmp(long_options[which].name, "object") &&
        object_check(tool, optarg, exit_code))
        return TOOL_STOP;
    return c;
}

int tool_output_format(struct tool *tool, const char *value, bool *json)
{
    *json = !strcmp(value, "json");
    if (*json || !strcmp(value, "human"))
        return 0;
    return tool_usage_error(tool, "--output expects 'human' or 'json' not '%s'", value);
}

/* RET is how VALUE could be read. */
static int check_number(struct tool *tool, const char *name, const char *value, int ret,
                        uint64_t least, uint64_t most, const uint64_t *out)
{
    if (ret == -EINVAL)
        return tool_error(tool, "Invalid %s specified: '%s'.", name, value);
    if (ret < 0 || *out < least || *out > most)
        return tool_error(tool,
                          "Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".",
                          name, least, most);
    return 0;
}

int tool_size_between(struct tool *tool, const char *name, const char *value, uint64_t least,
                      uint64_t most, uint64_t *out)
{
    return check_number(tool, name, value, img_parse_size(value, out), least, most, out);
}

int tool_size(struct tool *tool, const char *name, const char *value, uint64_t *out)
{
    return tool_size_between(tool, name, value, 0, INT64_MAX, out);
}

int tool_number(struct tool *tool, const char *name, const char *value, uint64_t least,
                uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(value, &end, 0); /* a negative number becomes a huge one: out of range */
    int ret = end == value || *end ? -EINVAL : errno ? -errno : 0;
    return check_number(tool, name, value, ret, least, most, out);
}

bool tool_cache_is_direct(const char *mode)
{
    return mode && (!strcmp(mode, "none") || !strcmp(mode, "off") || !strcmp(mode, "directsync"));
}

bool tool_is_cache_mode(const char *mode)
{
    static const char *const modes[] = {"none",      "off",          "directsync",
                                        "writeback", "writethrough", "unsafe"};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(mode, modes[i]))
            return true;
    return false;
}
