/* imgtool dd: a part of an image's disk, as a new image. */
#include "commands.h"
#include "interrupt.h"
#include "source.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCK = 2147483647 };

struct dd_request {
    struct tool *tool;
    struct img_open_options open;
    struct img_dd_options dd;
    const char *input, *output;
};

/* "NAME=VALUE". */
static int take_operand(struct dd_request *r, const char *operand)
{
    const char *value = strchr(operand, '=');
    size_t length = value ? (size_t)(value - operand) : strlen(operand);
    struct tool *tool = r->tool;
    if (value && !strncmp(operand, "bs=", 3))
        return tool_size_between(tool, "bs", value + 1, 1, MAX_BLOCK, &r->dd.block_size);
    if (value && !strncmp(operand, "count=", 6)) {
        r->dd.has_count = true;
        return tool_number(tool, "count", value + 1, 0, INT64_MAX, &r->dd.count);
    }
    if (value && !strncmp(operand, "skip=", 5))
        return tool_number(tool, "skip", value + 1, 0, INT64_MAX, &r->dd.skip);
    if (value && !strncmp(operand, "if=", 3))
        r->input = value + 1;
    else if (value && !strncmp(operand, "of=", 3))
        r->output = value + 1;
    else
        return tool_error(tool, "unrecognized operand %.*s", (int)length, operand);
    return 0;
}

static int run(struct dd_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    bool beyond;
    r->dd.open = &r->open;
    r->dd.cancelled = interrupt_wanted;
    interrupt_watch();
    int ret = img_dd(r->output, r->input, &r->dd, &beyond, &err);
    if (ret < 0) {
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    if (beyond) /* dd has made an empty image, and that is no failure */
        tool_error(r->tool, "%s: cannot skip to specified offset", r->input);
    return 0;
}

int cmd_dd(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"output-format", required_argument, 0, 'O'},
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},
        {"object", required_argument, 0, SOURCE_OBJECT},
        {"force-share", no_argument, 0, 'U'},
        {0, 0, 0, 0},
    };
    struct dd_request r = {.tool = tool};
    int c, code;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "O:", options, &code)) !=
           -1) {
        if (c == TOOL_STOP)
            return code;
        r.dd.format = optarg; /* the one that is dd's own */
    }
    for (; optind < argc; optind++)
        if (take_operand(&r, argv[optind]))
            return 1;
    if (!r.input || !r.output)
        return tool_error(tool, "Must specify both input and output files");
    return source_check(tool, &r.open) ? 1 : run(&r);
}
