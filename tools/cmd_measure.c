/* imgtool measure: how large a new image would be. */
#include "commands.h"
#include "option_list.h"
#include "output.h"
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct measure_request {
    struct tool *tool;
    struct img_open_options open;
    struct img_measure_options measure;
    const char *filename;
    char *options; /* of all -o together */
    bool json;
    bool commit, rebase;  /* --for */
    const char *new_base; /* of rebase */
    struct img_open_options open_base;
};

static void print_json(FILE *out, const struct img_measurement *m)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    if (m->has_bitmaps)
        json_number(&j, "bitmaps", m->bitmaps);
    json_number(&j, "required", m->required);
    json_number(&j, "fully-allocated", m->fully_allocated);
    json_close(&j, '}');
}

static void print_text(FILE *out, const struct img_measurement *m)
{
    fprintf(out, "required size: %" PRIu64 "\n", m->required);
    fprintf(out, "fully allocated size: %" PRIu64 "\n", m->fully_allocated);
    if (m->has_bitmaps)
        fprintf(out, "bitmaps size: %" PRIu64 "\n", m->bitmaps);
}

/* What is wrong with the options, qemu-img says in two messages. */
static int report(const struct measure_request *r, struct img_error *err)
{
    bool options = err->context && !strcmp(err->context, "in the options of the new image");
    const char *format = r->measure.format ? r->measure.format : "raw";
    tool_report(r->tool, err);
    return options ? tool_error(r->tool, "Invalid options for file format '%s'", format) : 1;
}

static void print_growth(const struct measure_request *r, const struct img_growth *g)
{
    if (r->json) {
        struct json j = {.out = stdout};
        json_open(&j, NULL, '{');
        json_number(&j, "data", g->data);
        json_number(&j, "growth", g->growth);
        json_close(&j, '}');
        return;
    }
    printf("data to copy: %" PRIu64 "\n", g->data);
    printf("%s grows by at most: %" PRIu64 "\n", r->commit ? "backing file" : "image", g->growth);
}

/* What a commit or a rebase would need. */
static int run_growth(struct measure_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL, *base = NULL;
    struct img_growth growth;
    int ret = img_open(&img, r->filename, &r->open, &err);
    if (!ret && r->rebase)
        ret = img_open(&base, r->new_base, &r->open_base, &err);
    if (!ret)
        ret = r->commit ? img_measure_commit(&growth, img, &err)
                        : img_measure_rebase(&growth, img, base, &err);
    img_close(img);
    img_close(base);
    if (ret < 0)
        return tool_report(r->tool, &err);
    print_growth(r, &growth);
    return fflush(stdout) ? tool_error(r->tool, "Could not write the output") : 0;
}

static int take_purpose(struct measure_request *r, const char *purpose)
{
    r->commit = !strcmp(purpose, "commit");
    r->rebase = !strcmp(purpose, "rebase");
    if (r->commit || r->rebase)
        return 0;
    return tool_error(r->tool, "--for expects 'commit' or 'rebase', not '%s'", purpose);
}

static int check_purpose(struct measure_request *r)
{
    if ((r->commit || r->rebase) && !r->filename)
        return tool_error(r->tool, "--for needs a filename");
    if ((r->commit || r->rebase) && (r->measure.format || r->options))
        return tool_error(r->tool, "--for is about images that exist: -O and -o have no meaning");
    if (r->rebase != (r->new_base != NULL))
        return tool_error(r->tool, "--for=rebase and -b NEW_BASE go together");
    r->open_base.flags |= r->open.flags & IMG_OPEN_FORCE_SHARE;
    return 0;
}

static int run(struct measure_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    struct img_measurement m;
    r->measure.options = r->options;
    if (r->filename && img_open(&img, r->filename, &r->open, &err) < 0)
        return tool_report(r->tool, &err);
    int ret = img_measure(&m, img, &r->measure, &err);
    img_close(img);
    if (ret < 0)
        return report(r, &err);
    (r->json ? print_json : print_text)(stdout, &m);
    return fflush(stdout) ? tool_error(r->tool, "Could not write the output") : 0;
}

static int check(struct measure_request *r, int argc, char **argv)
{
    bool snapshot = r->open.snapshot || r->open.snapshot_id || r->open.snapshot_name;
    bool about_image = r->open.format || snapshot || (r->open.flags & IMG_OPEN_IMAGE_OPTS);
    bool sized = r->measure.size != IMG_SIZE_UNKNOWN;
    if (argc - optind > 1)
        return tool_error(r->tool, "At most one filename argument is allowed.");
    r->filename = optind < argc ? argv[optind] : NULL;
    if (!r->filename && about_image)
        return tool_error(r->tool, "--image-opts, -f, and -l require a filename argument.");
    if (r->filename && sized)
        return tool_error(r->tool, "--size N cannot be used together with a filename.");
    if (!r->filename && !sized)
        return tool_error(r->tool, "Either --size N or one filename must be specified.");
    return source_check(r->tool, &r->open);
}

static int parse(struct measure_request *r, int argc, char **argv)
{
    enum { SIZE = SOURCE_OWN, FOR };
    static const struct option options[] = {
        SOURCE_LONG,
        {"target-format", required_argument, 0, 'O'},
        {"options", required_argument, 0, 'o'},
        {"snapshot", required_argument, 0, 'l'},
        {"size", required_argument, 0, SIZE},
        {"for", required_argument, 0, FOR},
        {"backing", required_argument, 0, 'b'},
        {"backing-format", required_argument, 0, 'F'},
        {0, 0, 0, 0},
    };
    int c, code, failed = 0;
    while ((c = source_getopt(r->tool, &r->open, argc, argv, SOURCE_SHORT "O:o:l:b:F:", options,
                              &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case SOURCE_OUTPUT:
            failed = tool_output_format(r->tool, optarg, &r->json);
            break;
        case 'O':
            r->measure.format = optarg;
            break;
        case 'o':
            failed = option_list_add(r->tool, &r->options, optarg);
            break;
        case 'l':
            failed = source_snapshot(r->tool, &r->open, optarg);
            break;
        case FOR:
            failed = take_purpose(r, optarg);
            break;
        case 'b':
            r->new_base = optarg;
            break;
        case 'F':
            r->open_base.format = optarg;
            break;
        case SIZE:
            failed = tool_size(r->tool, "image size", optarg, &r->measure.size);
            break;
        }
        if (failed)
            return 1;
    }
    if (check(r, argc, argv) || check_purpose(r))
        return 1;
    return r->commit || r->rebase ? run_growth(r) : run(r);
}

int cmd_measure(struct tool *tool, int argc, char **argv)
{
    struct measure_request r = {.tool = tool, .measure.size = IMG_SIZE_UNKNOWN};
    tool_open_options(tool, &r.open_base);
    int code = parse(&r, argc, argv);
    free(r.options);
    return code;
}
