/* imgtool bitmap: adds, removes and changes persistent bitmaps. */
#include "commands.h"
#include "interrupt.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bitmap_request {
    struct tool *tool;
    struct img_open_options open, open_source;
    const char *filename, *bitmap;
    const char *source; /* NULL: the same image */
    struct img_bitmap_action *actions;
    size_t count;
    uint64_t granularity;
};

static const char *action_name(enum img_bitmap_action_kind kind)
{
    static const char *const names[] = {
        [IMG_BITMAP_ADD] = "add",         [IMG_BITMAP_REMOVE] = "remove",
        [IMG_BITMAP_CLEAR] = "clear",     [IMG_BITMAP_ENABLE] = "enable",
        [IMG_BITMAP_DISABLE] = "disable", [IMG_BITMAP_MERGE] = "merge",
    };
    return names[kind];
}

static bool has_action(const struct bitmap_request *r, enum img_bitmap_action_kind kind)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->actions[i].kind == kind)
            return true;
    return false;
}

/*
 * Where imgtool names the file, qemu-img names a node of its own, which it numbers at random: for
 * scripts that look for such a name. The new text, for free(), or NULL.
 */
static char *name_node(const struct bitmap_request *r, const char *text)
{
    static const char node[] = "#block100";
    char *make = NULL, *store = NULL, *out = NULL;
    int ret = 0;
    if (asprintf(&make, "Can't make bitmap '%s' persistent in '%s'", r->bitmap, r->filename) < 0)
        return NULL;
    if (asprintf(&store, "Can't store persistent bitmaps to %s", r->filename) < 0) {
        free(make);
        return NULL;
    }
    if (!strncmp(text, make, strlen(make)))
        ret = asprintf(&out, "Can't make bitmap '%s' persistent in '%s'%s", r->bitmap, node,
                       text + strlen(make));
    else if (!strncmp(text, store, strlen(store)))
        ret = asprintf(&out, "Can't store persistent bitmaps to %s%s", node, text + strlen(store));
    free(make);
    free(store);
    return ret < 0 ? NULL : out;
}

/* FAILED: the action that was refused, or none. */
static int report(const struct bitmap_request *r, size_t failed, struct img_error *err)
{
    const struct tool *tool = r->tool;
    if (failed == r->count)
        return tool_report(tool, err);
    const char *operation = action_name(r->actions[failed].kind);
    char *qemu = tool->as_qemu ? name_node(r, img_error_message(err)) : NULL;
    const char *text = qemu ? qemu : img_error_message(err);
    if (err->context && !tool->as_qemu)
        tool_error(tool, "Operation %s on bitmap %s failed: %s (%s)", operation, r->bitmap, text,
                   err->context);
    else
        tool_error(tool, "Operation %s on bitmap %s failed: %s", operation, r->bitmap, text);
    if (err->hint)
        fprintf(stderr, "%s\n", err->hint);
    free(qemu);
    img_error_clear(err);
    return 1;
}

static int change(struct bitmap_request *r, struct img *img, struct img *source)
{
    struct img_error err = IMG_ERROR_INIT;
    size_t failed;
    for (size_t i = 0; i < r->count; i++) {
        r->actions[i].granularity = r->granularity;
        r->actions[i].source = source;
    }
    if (img_bitmap_change(img, r->bitmap, r->actions, r->count, &failed, &err) == 0)
        return 0;
    interrupt_die();
    return report(r, failed, &err);
}

static int run(struct bitmap_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL, *source = NULL;
    tool_change_options(r->tool, &r->open);
    tool_open_options(r->tool, &r->open_source);
    r->open.flags |= IMG_OPEN_NO_BACKING;
    r->open_source.flags |= IMG_OPEN_NO_BACKING;
    int ret = img_open(&img, r->filename, &r->open, &err);
    if (!ret && r->source)
        ret = img_open(&source, r->source, &r->open_source, &err);
    int code = 1;
    if (ret < 0) {
        interrupt_die();
        tool_report(r->tool, &err);
    } else {
        code = change(r, img, source);
    }
    img_close(source);
    img_close(img);
    interrupt_die();
    return code;
}

static int take_arguments(struct bitmap_request *r, int argc, char **argv)
{
    struct tool *tool = r->tool;
    if (!r->count)
        return tool_error(tool, "Need at least one of --add, --remove, --clear, --enable, "
                                "--disable, or --merge");
    if (r->granularity && !has_action(r, IMG_BITMAP_ADD))
        return tool_error(tool, "granularity only supported with --add");
    if (r->open_source.format && !r->source)
        return tool_error(tool, "-F only supported with -b");
    if (r->source && !has_action(r, IMG_BITMAP_MERGE))
        return tool_error(tool, "Merge bitmap source file only supported with --merge");
    if (optind != argc - 2)
        return tool_error(tool, "Expecting filename and bitmap name");
    r->filename = argv[optind];
    r->bitmap = argv[optind + 1];
    if (r->open.format && (r->open.flags & IMG_OPEN_IMAGE_OPTS))
        return tool_error(tool, "--image-opts and --format are mutually exclusive");
    return run(r);
}

static int parse(struct bitmap_request *r, int argc, char **argv)
{
    enum { ACTION = 256, IMAGE_OPTS = ACTION + IMG_BITMAP_MERGE + 1, OBJECT };
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"image-opts", no_argument, 0, IMAGE_OPTS},
        {"object", required_argument, 0, OBJECT},
        {"add", no_argument, 0, ACTION + IMG_BITMAP_ADD},
        {"remove", no_argument, 0, ACTION + IMG_BITMAP_REMOVE},
        {"clear", no_argument, 0, ACTION + IMG_BITMAP_CLEAR},
        {"enable", no_argument, 0, ACTION + IMG_BITMAP_ENABLE},
        {"disable", no_argument, 0, ACTION + IMG_BITMAP_DISABLE},
        {"merge", required_argument, 0, ACTION + IMG_BITMAP_MERGE},
        {"granularity", required_argument, 0, 'g'},
        {"source-file", required_argument, 0, 'b'},
        {"source-format", required_argument, 0, 'F'},
        {0, 0, 0, 0},
    };
    int c, code;
    while ((c = tool_getopt(r->tool, argc, argv, "b:f:F:g:h", options, &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case 'f':
            r->open.format = optarg;
            break;
        case 'b':
            r->source = optarg;
            break;
        case 'F':
            r->open_source.format = optarg;
            break;
        case 'g':
            if (tool_size(r->tool, "granularity", optarg, &r->granularity))
                return 1;
            break;
        case IMAGE_OPTS:
            r->open.flags |= IMG_OPEN_IMAGE_OPTS;
            break;
        case OBJECT: /* a secret: bitmaps are never encrypted */
            break;
        default:
            r->actions[r->count++] = (struct img_bitmap_action){
                .kind = (enum img_bitmap_action_kind)(c - ACTION), .source_name = optarg};
        }
    }
    return take_arguments(r, argc, argv);
}

int cmd_bitmap(struct tool *tool, int argc, char **argv)
{
    struct bitmap_request r = {.tool = tool};
    r.actions = calloc((size_t)argc, sizeof *r.actions); /* at most one a word */
    if (!r.actions)
        return tool_error(tool, "out of memory");
    int code = parse(&r, argc, argv);
    free(r.actions);
    return code;
}
