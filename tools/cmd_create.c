/* imgtool create: makes a new image. */
#include "commands.h"
#include "interrupt.h"
#include "option_list.h"
#include "output.h"
#include "progress.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct create_request {
    struct tool *tool;
    const char *filename;
    struct img_create_options create;
    bool quiet;
    char *options; /* of all -o together */
    struct progress progress;
};

static void update(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct create_request *r = opaque;
    progress_update(&r->progress, phase, done, total);
}

static void announce(void *opaque, const char *summary)
{
    const struct create_request *r = opaque;
    char *name = printable(r->filename), *text = printable(summary);
    if (!r->quiet && name && text)
        printf("Formatting '%s', fmt=%s %s\n", name, r->create.format ? r->create.format : "raw",
               text);
    fflush(stdout);
    free(name);
    free(text);
}

static int print_options(const struct create_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    const char *format = r->create.format ? r->create.format : "raw";
    char *text;
    if (img_create_help(&text, format, r->filename, &err) < 0)
        return tool_report(r->tool, &err);
    if (r->filename)
        printf("Supported options:\n%s", text);
    else
        printf("Supported %s options:\n%s\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n",
               format, text);
    free(text);
    return 0;
}

static int run(struct create_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    r->create.options = r->options;
    r->create.announce = announce;
    r->create.cancelled = interrupt_wanted;
    r->create.progress = update;
    r->create.opaque = r;
    interrupt_watch();
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    int ret = img_create(r->filename, &r->create, &err);
    progress_end(&r->progress, ret);
    if (!ret)
        return 0;
    interrupt_die();
    return tool_report(r->tool, &err);
}

static int take_arguments(struct create_request *r, int argc, char **argv)
{
    r->filename = optind < argc ? argv[optind++] : NULL;
    if (r->options && option_list_asks_for_help(r->options))
        return print_options(r);
    if (!r->filename)
        return tool_usage_error(r->tool, "Expecting image file name");
    if (optind < argc && tool_size(r->tool, "image size", argv[optind++], &r->create.size))
        return 1;
    if (optind < argc)
        return tool_usage_error(r->tool, "Unexpected argument: %s", argv[optind]);
    return run(r);
}

static int parse(struct create_request *r, int argc, char **argv)
{
    enum { OBJECT = 256 };
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"options", required_argument, 0, 'o'},
        {"backing", required_argument, 0, 'b'},
        {"backing-format", required_argument, 0, 'F'},
        {"backing-unsafe", no_argument, 0, 'u'},
        {"quiet", no_argument, 0, 'q'},
        {"object", required_argument, 0, OBJECT},
        PROGRESS_OPTION,
        {0, 0, 0, 0},
    };
    int c, code;
    while ((c = tool_getopt(r->tool, argc, argv, "hf:o:b:F:uqp", options, &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case 'f':
            r->create.format = optarg;
            break;
        case 'o':
            if (option_list_add(r->tool, &r->options, optarg))
                return 1;
            break;
        case 'b':
            r->create.backing_file = optarg;
            break;
        case 'F':
            r->create.backing_format = optarg;
            break;
        case 'u':
            r->create.flags |= IMG_CREATE_UNSAFE_BACKING;
            break;
        case 'q':
            r->quiet = true;
            break;
        case 'p':
            if (progress_option(r->tool, &r->progress, optarg))
                return 1;
            break;
        case OBJECT: /* a secret: images with a key cannot be made */
            break;
        }
    }
    return take_arguments(r, argc, argv);
}

int cmd_create(struct tool *tool, int argc, char **argv)
{
    struct create_request r = {.tool = tool, .create = {.size = IMG_SIZE_UNKNOWN}};
    int code = parse(&r, argc, argv);
    free(r.options);
    return code;
}
