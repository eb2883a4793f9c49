#include "source.h"

int source_getopt(struct tool *tool, struct img_open_options *open, int argc, char **argv,
                  const char *short_options, const struct option *long_options, int *exit_code)
{
    int c;
    tool_open_options(tool, open);
    while ((c = tool_getopt(tool, argc, argv, short_options, long_options, exit_code)) != -1) {
        switch (c) {
        case 'f':
            open->format = optarg;
            break;
        case 'U':
            open->flags |= IMG_OPEN_FORCE_SHARE;
            break;
        case SOURCE_IMAGE_OPTS:
            open->flags |= IMG_OPEN_IMAGE_OPTS;
            break;
        case SOURCE_OBJECT:
            break;
        default:
            return c;
        }
    }
    return -1;
}

int source_check(struct tool *tool, const struct img_open_options *open)
{
    if (open->format && (open->flags & IMG_OPEN_IMAGE_OPTS))
        return tool_error(tool, "--image-opts and --format are mutually exclusive");
    return 0;
}

int source_filename(struct tool *tool, const struct img_open_options *open, int argc, char **argv,
                    const char **filename)
{
    if (optind != argc - 1)
        return tool_usage_error(tool, "Expecting one image file name");
    *filename = argv[optind];
    return source_check(tool, open);
}
