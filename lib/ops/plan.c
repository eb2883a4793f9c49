/* The plan of a merge: which commits, and the commands that make them. */
#include "lib/ops/advise.h"
#include "lib/ops/plan.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- commands ---- */

/* The command line is taken over. */
static int add_command(struct img_plan_step *s, char *line, struct img_error *err)
{
    char **all = line ? realloc(s->commands, (s->command_count + 1) * sizeof *all) : NULL;
    if (!all) {
        free(line);
        return img_fail_nomem(err);
    }
    s->commands = all;
    all[s->command_count++] = line;
    return 0;
}

/* "imgtool WHAT -b BASE [-F FORMAT] IMAGE". The words are taken over; NULL: out of memory. */
static char *command(const char *what, char *base, const char *format, char *image)
{
    char *line = NULL;
    if (base && image &&
        asprintf(&line, "imgtool %s -b %s%s%s %s", what, base, format ? " -F " : "",
                 format ? format : "", image) < 0)
        line = NULL;
    free(base);
    free(image);
    return line;
}

/* BASE as an overlay is to name it: beside it by its bare name, else from the root. */
static char *name_for(const struct layer *base, const struct layer *overlay)
{
    const char *from = overlay->file->name, *to = base->file->name;
    const char *from_slash = strrchr(from, '/'), *to_slash = strrchr(to, '/');
    size_t from_folder = from_slash ? (size_t)(from_slash - from) : 0;
    size_t to_folder = to_slash ? (size_t)(to_slash - to) : 0;
    bool beside = !from_slash == !to_slash && from_folder == to_folder &&
                  !strncmp(from, to, from_folder);
    if (beside)
        return advise_quote_path(to_slash ? to_slash + 1 : to, "");
    char *absolute = policy_absolute(to);
    char *quoted = absolute ? advise_quote_path(absolute, "") : NULL;
    free(absolute);
    return quoted;
}

static char *absolute_name(const struct layer *l)
{
    char *absolute = policy_absolute(l->file->name);
    char *quoted = absolute ? advise_quote_path(absolute, "") : NULL;
    free(absolute);
    return quoted;
}

static int add_rebase(struct img_plan_step *s, const struct layer *overlay,
                      const struct layer *base, struct img_error *err)
{
    return add_command(s,
                       command("rebase -u", name_for(base, overlay), base->driver->name,
                               advise_quote_path(overlay->file->name, "")),
                       err);
}

static int add_remove(struct img_plan_step *s, const struct layer *l, struct img_error *err)
{
    char *quoted = advise_quote_path(l->file->name, ""), *line = NULL;
    if (quoted && asprintf(&line, "rm %s", quoted) < 0)
        line = NULL;
    free(quoted);
    return add_command(s, line, err);
}

static int write_commands(struct img_merge_plan *plan, const struct img *img,
                          struct img_plan_step *s, struct img_error *err)
{
    const struct layer *into = img->layers[s->into], *first = img->layers[s->first];
    bool stays = plan->layers[s->first].needed;
    int ret = add_command(
        s, command("commit", absolute_name(into), NULL, advise_quote_path(first->file->name, "")),
        err);
    if (!ret && s->first)
        ret = add_rebase(s, img->layers[s->first - 1], into, err);
    if (!ret && stays && s->last > s->first)
        ret = add_rebase(s, first, into, err);
    for (unsigned i = s->first + stays; i <= s->last && !ret; i++)
        ret = add_remove(s, img->layers[i], err);
    return ret;
}

/* ---- the whole ---- */

static int describe_layers(struct img_merge_plan *plan, const struct img *img,
                           struct img_error *err)
{
    plan->layers = calloc(img->depth, sizeof *plan->layers);
    if (!plan->layers)
        return img_fail_nomem(err);
    plan->depth = img->depth;
    for (unsigned i = 0; i < img->depth; i++) {
        const struct layer *l = img->layers[i];
        struct img_plan_layer *out = &plan->layers[i];
        out->filename = strdup(l->filename);
        out->format = l->driver->name;
        out->virtual_size = l->size;
        if (!out->filename)
            return img_fail_nomem(err);
    }
    return 0;
}

static int make_plan(struct img_merge_plan *plan, struct img *img,
                     const struct img_plan_options *options, struct img_error *err)
{
    uint64_t *cost = NULL;
    plan->wanted = options->depth;
    if (img->depth > PLAN_MAX_DEPTH)
        return img_fail(err, E2BIG, "The chain has %u layers, a plan can have %d", img->depth,
                        PLAN_MAX_DEPTH);
    int ret = describe_layers(plan, img, err);
    if (!ret)
        ret = plan_find_obstacles(plan, img, options, err);
    if (!ret)
        ret = plan_measure(plan, img, &cost, err);
    if (!ret)
        ret = plan_choose(plan, cost, err);
    for (size_t i = 0; i < plan->step_count && !ret; i++)
        ret = write_commands(plan, img, &plan->steps[i], err);
    free(cost);
    return ret;
}

int img_plan_merge(struct img_merge_plan **out, const char *filename,
                   const struct img_plan_options *options, struct img_error *err)
{
    struct img *img;
    if (!options->depth)
        return img_fail(err, EINVAL, "A chain has at least one layer");
    int ret = img_open(&img, filename, options->open, err);
    if (ret < 0)
        return ret;
    struct img_merge_plan *plan = calloc(1, sizeof *plan);
    ret = plan ? make_plan(plan, img, options, err) : img_fail_nomem(err);
    img_close(img);
    if (ret < 0)
        img_merge_plan_free(plan);
    else
        *out = plan;
    return ret;
}

static void clear_layer(struct img_plan_layer *l)
{
    for (size_t i = 0; i < l->obstacle_count; i++) {
        free(l->obstacles[i].what);
        free(l->obstacles[i].filename);
    }
    free(l->obstacles);
    free(l->filename);
}

void img_merge_plan_free(struct img_merge_plan *plan)
{
    if (!plan)
        return;
    for (unsigned i = 0; i < plan->depth; i++)
        clear_layer(&plan->layers[i]);
    for (size_t i = 0; i < plan->step_count; i++) {
        for (size_t k = 0; k < plan->steps[i].command_count; k++)
            free(plan->steps[i].commands[k]);
        free(plan->steps[i].commands);
    }
    for (size_t i = 0; i < plan->problem_count; i++) {
        free(plan->problems[i].filename);
        free(plan->problems[i].error);
    }
    free(plan->problems);
    free(plan->layers);
    free(plan->steps);
    free(plan);
}

const char *img_plan_kind_name(enum img_plan_kind kind)
{
    static const char *const names[] = {"dependent", "top", "snapshots", "size", "target"};
    return names[kind];
}
