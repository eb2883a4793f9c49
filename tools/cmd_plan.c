/* imgtool plan: how to shorten a backing chain, before anything is done. */
#include "commands.h"
#include "output.h"
#include "source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_MERGE = SOURCE_OWN, OPTION_DEPTH, OPTION_TOP };

struct plan_request {
    struct tool *tool;
    struct img_open_options open;
    struct img_plan_options options;
    const char *filename;
    bool json, merge;
};

/* ---- JSON ---- */

static void json_layer(struct json *j, const struct img_plan_layer *l)
{
    json_open(j, NULL, '{');
    json_string(j, "filename", l->filename);
    json_string(j, "format", l->format);
    json_number(j, "virtual-size", l->virtual_size);
    json_number(j, "data-bytes", l->data_bytes);
    json_number(j, "zero-bytes", l->zero_bytes);
    json_bool(j, "needed", l->needed);
    json_open(j, "obstacles", '[');
    for (size_t i = 0; i < l->obstacle_count; i++) {
        const struct img_plan_obstacle *o = &l->obstacles[i];
        json_open(j, NULL, '{');
        json_string(j, "kind", img_plan_kind_name(o->kind));
        if (o->filename)
            json_string(j, "filename", o->filename);
        json_string(j, "what", o->what);
        json_close(j, '}');
    }
    json_close(j, ']');
    json_close(j, '}');
}

static void json_step(struct json *j, const struct img_plan_step *s)
{
    json_open(j, NULL, '{');
    json_number(j, "first", s->first);
    json_number(j, "last", s->last);
    json_number(j, "into", s->into);
    json_number(j, "bytes", s->bytes);
    json_open(j, "commands", '[');
    for (size_t i = 0; i < s->command_count; i++)
        json_string(j, NULL, s->commands[i]);
    json_close(j, ']');
    json_close(j, '}');
}

static void print_json(FILE *out, const struct img_merge_plan *p)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_number(&j, "depth", p->depth);
    json_number(&j, "wanted", p->wanted);
    json_number(&j, "least", p->least);
    json_bool(&j, "reachable", p->reachable);
    json_number(&j, "bytes", p->bytes);
    json_open(&j, "steps", '[');
    for (size_t i = 0; i < p->step_count; i++)
        json_step(&j, &p->steps[i]);
    json_close(&j, ']');
    json_open(&j, "layers", '[');
    for (unsigned i = 0; i < p->depth; i++)
        json_layer(&j, &p->layers[i]);
    json_close(&j, ']');
    json_open(&j, "problems", '[');
    for (size_t i = 0; i < p->problem_count; i++) {
        json_open(&j, NULL, '{');
        json_string(&j, "filename", p->problems[i].filename);
        json_string(&j, "error", p->problems[i].error);
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_close(&j, '}');
}

/* ---- text ---- */

static void print_safe(FILE *out, const char *before, const char *text, const char *after)
{
    char *safe = printable(text);
    fprintf(out, "%s%s%s", before, safe ? safe : "?", after);
    free(safe);
}

/* MERGED: the layer goes. What forbids that is told of those that stay. */
static void print_layer(FILE *out, const struct img_merge_plan *p, unsigned i, bool merged)
{
    const struct img_plan_layer *l = &p->layers[i];
    char size[32], data[32];
    fprintf(out, "%5u  ", i);
    print_safe(out, "", l->filename, "");
    fprintf(out, "  %s, %s", l->format, human_size(l->virtual_size, size));
    if (i + 1 < p->depth)
        fprintf(out, ", holds %s", human_size(l->data_bytes, data));
    fputs(merged ? "; is committed\n" : "\n", out);
    for (size_t k = 0; k < l->obstacle_count; k++)
        print_safe(out, "         stays: ", l->obstacles[k].what, "\n");
}

static bool is_merged(const struct img_merge_plan *p, unsigned layer)
{
    for (size_t i = 0; i < p->step_count; i++)
        if (layer >= p->steps[i].first && layer <= p->steps[i].last)
            return true;
    return false;
}

static void print_step(FILE *out, const struct img_merge_plan *p, size_t number)
{
    const struct img_plan_step *s = &p->steps[number];
    char size[32];
    fprintf(out, "%5zu. Commit layer", number + 1);
    if (s->last > s->first)
        fprintf(out, "s %u to %u", s->first, s->last);
    else
        fprintf(out, " %u", s->first);
    fprintf(out, " into %u, copying %s:\n", s->into, human_size(s->bytes, size));
    for (size_t i = 0; i < s->command_count; i++)
        print_safe(out, "           ", s->commands[i], "\n");
}

static void print_text(FILE *out, const struct img_merge_plan *p)
{
    char size[32];
    fprintf(out, "Layers: %u, wanted: %u\n", p->depth, p->wanted);
    for (unsigned i = 0; i < p->depth; i++)
        print_layer(out, p, i, is_merged(p, i));
    if (!p->reachable)
        fprintf(out, "No plan: at least %u layers stay.\n", p->least);
    else if (!p->step_count)
        fputs("Nothing is to be done.\n", out);
    else
        fprintf(out, "Plan: %zu step%s, copying %s\n", p->step_count, p->step_count == 1 ? "" : "s",
                human_size(p->bytes, size));
    for (size_t i = 0; i < p->step_count; i++)
        print_step(out, p, i);
}

/* ---- the command ---- */

static int show(const struct plan_request *r, const struct img_merge_plan *plan)
{
    struct output o;
    if (!output_start(&o))
        return tool_error(r->tool, "Out of memory");
    if (r->json)
        print_json(o.stream, plan);
    else
        print_text(o.stream, plan);
    if (output_finish(&o, true))
        return tool_error(r->tool, "Could not write the output");
    for (size_t i = 0; i < plan->problem_count; i++)
        tool_error(r->tool, "warning: '%s' may need a layer, but could not be read: %s",
                   plan->problems[i].filename, plan->problems[i].error);
    if (plan->reachable)
        return 0;
    return tool_error(r->tool, "A depth of %u cannot be reached, only one of %u", plan->wanted,
                      plan->least);
}

static int set_depth(struct plan_request *r, const char *value)
{
    char *end;
    unsigned long depth = strtoul(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || !depth || depth > 1000000)
        return tool_error(r->tool, "Invalid depth specified: '%s'.", value);
    r->options.depth = (unsigned)depth;
    return 0;
}

static int parse(struct plan_request *r, int argc, char **argv, int *code)
{
    static const struct option options[] = {
        SOURCE_LONG,
        {"merge", no_argument, 0, OPTION_MERGE},
        {"depth", required_argument, 0, OPTION_DEPTH},
        {"top", no_argument, 0, OPTION_TOP},
        {0, 0, 0, 0},
    };
    int c;
    *code = 0;
    while ((c = source_getopt(r->tool, &r->open, argc, argv, SOURCE_SHORT, options, code)) != -1) {
        if (c == TOOL_STOP)
            return 1;
        if (c == OPTION_MERGE)
            r->merge = true;
        else if (c == OPTION_TOP)
            r->options.flags |= IMG_PLAN_MERGE_TOP;
        else if (c == OPTION_DEPTH)
            *code = set_depth(r, optarg);
        else
            *code = tool_output_format(r->tool, optarg, &r->json);
        if (*code)
            return 1;
    }
    if (!r->merge)
        *code = tool_usage_error(r->tool, "What shall be planned? Expecting --merge");
    else if (!r->options.depth)
        *code = tool_usage_error(r->tool, "Expecting --depth with the number of layers to remain");
    else if (optind >= argc)
        *code = tool_usage_error(r->tool, "Expecting one image file name");
    else
        *code = source_check(r->tool, &r->open);
    return *code;
}

int cmd_plan(struct tool *tool, int argc, char **argv)
{
    struct plan_request r = {.tool = tool};
    struct img_error err = IMG_ERROR_INIT;
    struct img_merge_plan *plan;
    int code;
    if (parse(&r, argc, argv, &code))
        return code;
    r.filename = argv[optind];
    r.options.folders = (const char *const *)&argv[optind + 1];
    r.options.folder_count = (size_t)(argc - optind - 1);
    r.options.open = &r.open;
    if (img_plan_merge(&plan, r.filename, &r.options, &err) < 0)
        return tool_report(tool, &err);
    code = show(&r, plan);
    img_merge_plan_free(plan);
    return code;
}
