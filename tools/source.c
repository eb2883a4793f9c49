#include "source.h"

#include <stdio.h>
#include <string.h>

#define SNAPSHOT_PREFIX "snapshot."

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

int source_options(struct tool *tool, struct img_open_options *open, int argc, char **argv,
                   const char *short_options, const struct option *long_options,
                   source_take_fn *take, void *request, int *exit_code)
{
    int c;
    while ((c = source_getopt(tool, open, argc, argv, short_options, long_options, exit_code)) !=
           -1) {
        if (c == TOOL_STOP)
            return 1;
        if (take(request, c)) {
            *exit_code = 1;
            return 1;
        }
    }
    return 0;
}

/* Ends the item of a list that begins at P, undoing doubled commas; returns the one behind it. */
static char *end_item(char *p)
{
    char *to = p;
    while (*p && (*p != ',' || p[1] == ',')) {
        p += *p == ',';
        *to++ = *p++;
    }
    char *next = p + (*p == ',');
    *to = 0;
    return next;
}

int source_snapshot(struct tool *tool, struct img_open_options *open, char *value)
{
    char *next, whole[512];
    snprintf(whole, sizeof whole, "%s", value);
    if (strncmp(value, SNAPSHOT_PREFIX, strlen(SNAPSHOT_PREFIX))) {
        open->snapshot = value;
        return 0;
    }
    for (char *p = value; *p; p = next) {
        next = end_item(p);
        char *equals = strchr(p, '=');
        if (equals)
            *equals = 0;
        if (equals && !strcmp(p, "snapshot.id")) {
            open->snapshot_id = equals + 1;
        } else if (equals && !strcmp(p, "snapshot.name")) {
            open->snapshot_name = equals + 1;
        } else {
            tool_error(tool, "Invalid parameter '%s'", p);
            return tool_error(tool, "Failed in parsing snapshot param '%s'", whole);
        }
    }
    return 0;
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
