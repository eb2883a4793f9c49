/* imgtool tree: which images there are, who is based on whom, and who needs a file. */
#include "commands.h"
#include "output.h"
#include "tool.h"
#include "tree_output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NEEDED = 5 };

enum { OPTION_DEPENDENTS = 256, OPTION_OUTPUT };

struct tree_request {
    struct tool *tool;
    const char *dependents; /* of which file; NULL: the whole tree is wanted */
    bool json, dot;
};

/* Returns 1 when something could not be read. */
static int complain(const struct tool *tool, const struct img_tree *tree)
{
    int failed = 0;
    for (size_t i = 0; i < tree->problem_count; i++)
        failed = tool_error(tool, "%s", tree->problems[i].error);
    for (size_t i = 0; i < tree->count; i++)
        if (tree->images[i].state == IMG_TREE_UNREADABLE)
            failed = tool_error(tool, "Could not read '%s': %s", tree->images[i].filename,
                                tree->images[i].error);
    return failed;
}

static int show(const struct tree_request *r, const struct img_tree *tree)
{
    struct output o;
    int failed = 0;
    if (!output_start(&o))
        return tool_error(r->tool, "Out of memory");
    if (r->json)
        tree_json(o.stream, tree);
    else if (r->dot)
        tree_dot(o.stream, tree);
    else
        failed = tree_draw(o.stream, tree);
    if (output_finish(&o, !failed))
        return tool_error(r->tool, "Could not write the output");
    return failed ? tool_error(r->tool, "Out of memory") : complain(r->tool, tree);
}

/* ---- --dependents ---- */

static void dependents_json(FILE *out, const struct tree_request *r, const struct img_tree *tree,
                            const struct img_tree_dependents *d)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_string(&j, "filename", r->dependents);
    json_open(&j, "dependents", '[');
    for (size_t i = 0; i < d->count; i++) {
        const struct img_tree_dependent *item = &d->items[i];
        json_open(&j, NULL, '{');
        json_string(&j, "filename", tree->images[item->image].filename);
        json_bool(&j, "direct", item->direct);
        if (item->direct)
            json_string(&j, "kind", img_tree_kind_name(item->kind));
        else
            json_string(&j, "through", tree->images[item->through].filename);
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_number(&j, "unknown", d->unknown);
    json_close(&j, '}');
}

static void dependents_text(FILE *out, const struct img_tree *tree,
                            const struct img_tree_dependents *d)
{
    static const char *const kinds[] = {"its backing file", "its data file",
                                        "named in its backing file's name"};
    for (size_t i = 0; i < d->count; i++) {
        const struct img_tree_dependent *item = &d->items[i];
        char *name = printable(tree->images[item->image].filename);
        char *through = item->direct ? NULL : printable(tree->images[item->through].filename);
        if (item->direct)
            fprintf(out, "%s: %s\n", name ? name : "?", kinds[item->kind]);
        else
            fprintf(out, "%s: through %s\n", name ? name : "?", through ? through : "?");
        free(name);
        free(through);
    }
}

static int show_dependents(const struct tree_request *r, const struct img_tree *tree)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_tree_dependents d;
    struct output o;
    int code = 0, ret = img_tree_find_dependents(&d, tree, r->dependents, &err);
    if (ret < 0)
        code = tool_report(r->tool, &err);
    else if (!output_start(&o))
        code = tool_error(r->tool, "Out of memory");
    else {
        if (r->json)
            dependents_json(o.stream, r, tree, &d);
        else
            dependents_text(o.stream, tree, &d);
        if (output_finish(&o, true))
            code = tool_error(r->tool, "Could not write the output");
        else if (d.unknown)
            code = complain(r->tool, tree);
        if (d.count && (!code || d.unknown))
            code = NEEDED;
    }
    img_tree_dependents_free(&d);
    return code;
}

/* ---- options ---- */

static int set_output(struct tree_request *r, const char *value)
{
    r->dot = !strcmp(value, "dot");
    r->json = !strcmp(value, "json");
    if (r->dot || r->json || !strcmp(value, "human"))
        return 0;
    return tool_usage_error(r->tool, "--output expects 'human', 'json' or 'dot' not '%s'", value);
}

static int parse(struct tree_request *r, int argc, char **argv, int *code)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"dependents", required_argument, 0, OPTION_DEPENDENTS},
        {"output", required_argument, 0, OPTION_OUTPUT},
        {0, 0, 0, 0},
    };
    int c;
    while ((c = tool_getopt(r->tool, argc, argv, "h", options, code)) != -1) {
        if (c == TOOL_STOP)
            return 1;
        if (c == OPTION_DEPENDENTS)
            r->dependents = optarg;
        else if ((*code = set_output(r, optarg)))
            return 1;
    }
    *code = 0;
    if (optind == argc)
        *code = tool_usage_error(r->tool, "Expecting at least one folder");
    else if (r->dot && r->dependents)
        *code = tool_usage_error(r->tool, "--dependents and --output=dot are mutually exclusive");
    return *code;
}

int cmd_tree(struct tool *tool, int argc, char **argv)
{
    struct tree_request r = {.tool = tool};
    struct img_error err = IMG_ERROR_INIT;
    struct img_tree *tree;
    int code;
    if (parse(&r, argc, argv, &code))
        return code;
    if (img_tree_read(&tree, (const char *const *)&argv[optind], (size_t)(argc - optind), 0, &err) <
        0)
        return tool_report(tool, &err);
    code = r.dependents ? show_dependents(&r, tree) : show(&r, tree);
    img_tree_free(tree);
    return code;
}
