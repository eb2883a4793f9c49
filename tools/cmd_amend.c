/* imgtool amend: changes an image's options. */
#include "commands.h"
#include "interrupt.h"
#include "option_list.h"
#include "progress.h"
#include "source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct amend_request {
    struct tool *tool;
    const char *filename;
    struct img_open_options open;
    struct img_amend_options amend;
    const char *cache;
    bool quiet;
    char *options; /* of all -o together */
    struct progress progress;
};

static int print_options(const struct amend_request *r, const char *format)
{
    struct img_error err = IMG_ERROR_INIT;
    char *text;
    if (img_amend_help(&text, format, &err) < 0)
        return tool_report(r->tool, &err);
    printf("Amend options for '%s':\n%s", format, text);
    free(text);
    return 0;
}

static int amend(struct amend_request *r, struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    r->amend.options = r->options;
    r->amend.progress = progress_update;
    r->amend.opaque = &r->progress;
    if (img_amend(img, &r->amend, &err) == 0)
        return 0;
    progress_give_up(&r->progress);
    interrupt_die();
    return tool_report(r->tool, &err);
}

static int run(struct amend_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    tool_change_options(r->tool, &r->open);
    if (img_open(&img, r->filename, &r->open, &err) < 0)
        return tool_report(r->tool, &err);
    int code = option_list_asks_for_help(r->options) ? print_options(r, img_layer_format(img, 0))
                                                     : amend(r, img);
    img_close(img);
    interrupt_die();
    return code;
}

static int take_arguments(struct amend_request *r, int argc, char **argv)
{
    if (r->open.format && option_list_asks_for_help(r->options))
        return print_options(r, r->open.format);
    if (optind != argc - 1)
        return tool_error(r->tool, "Expecting one image file name");
    r->filename = argv[optind];
    if (r->cache && !tool_is_cache_mode(r->cache))
        return tool_error(r->tool, "Invalid cache option: %s", r->cache);
    if (source_check(r->tool, &r->open))
        return 1;
    return run(r);
}

static int parse(struct amend_request *r, int argc, char **argv)
{
    enum { FORCE = SOURCE_OWN };
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},
        {"object", required_argument, 0, SOURCE_OBJECT},
        {"options", required_argument, 0, 'o'},
        {"cache", required_argument, 0, 't'},
        {"force", no_argument, 0, FORCE},
        PROGRESS_OPTION,
        {"quiet", no_argument, 0, 'q'},
        {0, 0, 0, 0},
    };
    int c, code;
    while ((c = source_getopt(r->tool, &r->open, argc, argv, "hf:o:t:pq", options, &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case 'o':
            if (option_list_add(r->tool, &r->options, optarg))
                return 1;
            break;
        case 't': /* everything is on disk when the command is over, whatever the mode */
            r->cache = optarg;
            break;
        case FORCE:
            r->amend.force = true;
            break;
        case 'p':
            if (progress_option(r->tool, &r->progress, optarg))
                return 1;
            break;
        case 'q':
            r->quiet = true;
            break;
        }
    }
    if (!r->options)
        return tool_usage_error(r->tool, "Must specify options (-o)");
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    code = take_arguments(r, argc, argv);
    progress_end(&r->progress, code);
    return code;
}

int cmd_amend(struct tool *tool, int argc, char **argv)
{
    struct amend_request r = {.tool = tool};
    int code = parse(&r, argc, argv);
    free(r.options);
    return code;
}
