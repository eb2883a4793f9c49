/*
 * imgtool check: what is wrong with an image's metadata, told finding by finding, and summed up;
 * and its repair, after which it is checked once more.
 */
#include "commands.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "repair_plan.h"
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLEAN = 0, NOT_COMPLETED = 1, CORRUPT = 2, LEAKING = 3, NOT_SUPPORTED = 63 };

struct check_request {
    struct tool *tool;
    struct img_open_options open;
    const char *filename;
    bool json, quiet, list;
    unsigned repair; /* enum img_repair_what; 0: only look */
    bool dry_run;
    const char *undo;
    uint64_t leaks_fixed, corruptions_fixed; /* before the image was checked once more */
    uint64_t hidden;                         /* corruptions that were counted, and not told */
    struct progress progress;
    struct json list_json; /* with --list, as JSON: open from the first finding on */
};

/* ---- findings ---- */

static void open_list(struct check_request *r)
{
    if (r->list_json.depth)
        return;
    json_open(&r->list_json, NULL, '{');
    json_open(&r->list_json, "findings", '[');
}

static void list_json(struct json *j, const struct img_finding *f)
{
    json_open(j, NULL, '{');
    json_string(j, "kind", img_finding_kind_name(f->kind));
    json_string(j, "severity", img_severity_name(f->severity));
    json_string(j, "what", f->what);
    json_number(j, "host-offset", f->host_offset);
    if (f->has_guest_offset)
        json_number(j, "guest-offset", f->guest_offset);
    json_close(j, '}');
}

static void list_text(const struct img_finding *f, const char *what)
{
    printf("%s: host 0x%" PRIx64, img_finding_kind_name(f->kind), f->host_offset);
    if (f->has_guest_offset)
        printf(", guest 0x%" PRIx64, f->guest_offset);
    printf(": %s\n", what);
}

/* What qemu-img finds nothing wrong with; bad bitmaps and keys it sees when it opens the image. */
static bool hides(const struct check_request *r, const struct img_finding *f)
{
    return r->tool->as_qemu && !r->list && f->unseen_by_qemu &&
           f->severity == IMG_SEVERITY_CORRUPTION && f->kind != IMG_FINDING_BITMAP &&
           f->kind != IMG_FINDING_ENCRYPTION;
}

/* As they are found: on standard error, as qemu-img has it, or on standard output as a list. */
static void tell(void *opaque, const struct img_finding *f)
{
    struct check_request *r = opaque;
    if (f->severity == IMG_SEVERITY_NOTE && !r->list)
        return;
    if (hides(r, f)) {
        r->hidden++;
        return;
    }
    if (r->list && r->json) {
        open_list(r);
        list_json(&r->list_json, f);
        return;
    }
    char *what = printable(f->what);
    if (r->list)
        list_text(f, what ? what : "");
    else
        fprintf(stderr, "%s\n", what ? what : "");
    if (f->kind == IMG_FINDING_REFCOUNT_OVERFLOW && !r->list)
        fputs("Use qemu-img amend to increase the refcount entry width or qemu-img convert to "
              "create a "
              "clean copy if the image cannot be opened for writing\n",
              stderr);
    free(what);
}

/* ---- the sums ---- */

static void json_counts(struct json *j, const struct check_request *r, const struct img_check *c,
                        const char *format)
{
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {
        {"image-end-offset", c->image_end_offset},
        {"compressed-clusters", c->compressed_clusters},
        {"total-clusters", c->total_clusters},
        {"corruptions", c->corruptions},
        {"corruptions-fixed", r->corruptions_fixed},
        {"check-errors", c->check_errors}, /* the one that is there when it is 0 */
        {"leaks", c->leaks},
        {"leaks-fixed", r->leaks_fixed},
        {"allocated-clusters", c->allocated_clusters},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value || !strcmp(numbers[i].key, "check-errors"))
            json_number(j, numbers[i].key, numbers[i].value);
    json_string(j, "filename", r->filename);
    json_string(j, "format", format);
    if (c->fragmented_clusters)
        json_number(j, "fragmented-clusters", c->fragmented_clusters);
}

static double percent(uint64_t part, uint64_t whole)
{
    return (double)part * 100.0 / (double)whole;
}

static void text_counts(const struct img_check *c)
{
    if (!(c->corruptions || c->leaks || c->check_errors))
        puts("No errors were found on the image.");
    if (c->corruptions)
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               c->corruptions);
    if (c->leaks)
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               c->leaks);
    if (c->check_errors)
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", c->check_errors);
    if (c->total_clusters && c->allocated_clusters)
        printf("%" PRIu64 "/%" PRIu64
               " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed "
               "clusters\n",
               c->allocated_clusters, c->total_clusters,
               percent(c->allocated_clusters, c->total_clusters),
               percent(c->fragmented_clusters, c->allocated_clusters),
               percent(c->compressed_clusters, c->allocated_clusters));
    if (c->image_end_offset)
        printf("Image end offset: %" PRIu64 "\n", c->image_end_offset);
}

static void print_counts(struct check_request *r, const struct img_check *c, const char *format)
{
    struct json j = {.out = stdout}, *to = &j;
    fflush(stderr);           /* findings come first where both streams are one */
    if (r->list && r->json) { /* the list has begun, and goes on whether quiet or not */
        to = &r->list_json;
        open_list(r);
        json_close(to, ']');
    } else if (r->quiet) {
        return;
    } else if (r->json) {
        json_open(to, NULL, '{');
    }
    if (r->json) {
        json_counts(to, r, c, format);
        json_close(to, '}');
    } else {
        text_counts(c);
    }
}

/* ---- the command ---- */

/* The check could not be finished; what was found until then has been told. */
static int report_failure(struct check_request *r, const struct img_check *c, const char *format,
                          int ret, struct img_error *err)
{
    if (ret == -ENOTSUP) {
        tool_report(r->tool, err);
        return NOT_SUPPORTED;
    }
    if (r->list_json.depth)
        print_counts(r, c, format);
    if (r->repair && c->check_errors) /* it has been told */
        ;
    else if (err->context && !r->tool->as_qemu)
        tool_error(r->tool, "ERROR %s (%s)", img_error_message(err), err->context);
    else
        tool_error(r->tool, "ERROR %s", img_error_message(err));
    if (err->hint)
        fprintf(stderr, "%s\n", err->hint);
    img_error_clear(err);
    return tool_error(r->tool, "Check failed: %s", strerror(-ret));
}

static int exit_code(const struct check_request *r, const struct img_check *c)
{
    if (c->untold)
        fprintf(stderr, "%" PRIu64 " more findings are counted, but not listed\n", c->untold);
    if (ferror(stdout) || fflush(stdout))
        return tool_error(r->tool, "Could not write the output");
    if (c->check_errors)
        return tool_error(r->tool, "Check failed");
    return c->corruptions ? CORRUPT : c->leaks ? LEAKING : CLEAN;
}

/* Called as qemu-img, check counts what qemu-img does. */
static void leave_out_hidden(struct check_request *r, struct img_check *c)
{
    c->corruptions -= r->hidden;
    r->hidden = 0;
}

/* Says what was repaired: the image is checked once more then. */
static int repair(struct check_request *r, struct img *img, struct img_check *c,
                  struct img_error *err)
{
    struct img_repair_options o = {
        .what = r->repair, .undo_file = r->undo, .finding = tell, .opaque = r};
    int ret = img_repair(img, &o, c, err);
    leave_out_hidden(r, c);
    r->leaks_fixed = c->leaks_fixed;
    r->corruptions_fixed = c->corruptions_fixed;
    if (ret < 0 || r->json || r->quiet || !(c->leaks_fixed || c->corruptions_fixed))
        return ret;
    fflush(stderr);
    printf("The following inconsistencies were found and repaired:\n\n"
           "    %" PRIu64 " leaked clusters\n"
           "    %" PRIu64 " corruptions\n\n"
           "Double checking the fixed image now...\n",
           c->leaks_fixed, c->corruptions_fixed);
    if (!r->tool->as_qemu) /* qemu-img's findings come first where both streams are one */
        fflush(stdout);
    return 0;
}

static int check(struct check_request *r, struct img *img, struct img_check *c,
                 struct img_error *err)
{
    int ret = img_check(img, c, tell, r, err);
    leave_out_hidden(r, c);
    return ret;
}

static int check_image(struct check_request *r, struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check c;
    const char *format = img_layer_format(img, 0);
    r->list_json.out = stdout;
    int ret = r->repair ? repair(r, img, &c, &err) : 0;
    if (!ret && (!r->repair || r->leaks_fixed || r->corruptions_fixed))
        ret = check(r, img, &c, &err);
    if (ret == -ECANCELED) {
        img_error_clear(&err);
        return NOT_COMPLETED;
    }
    if (ret < 0)
        return report_failure(r, &c, format, ret, &err);
    print_counts(r, &c, format);
    return exit_code(r, &c);
}

static int run(struct check_request *r)
{
    static char errors[64 << 10]; /* a line at a time would cost more than finding it */
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    r->open.flags |= IMG_OPEN_CHECK;
    if (r->repair && !r->dry_run)
        tool_change_options(r->tool, &r->open);
    if (img_open(&img, r->filename, &r->open, &err) < 0) {
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    if (progress_start(r->tool, &r->progress, r->quiet)) {
        img_close(img);
        return 1;
    }
    r->tool->progress = &r->progress;
    setvbuf(stderr, errors, _IOFBF, sizeof errors);
    int code = r->dry_run ? show_repair_plan(r->tool, img, r->repair, r->filename, r->json)
                          : check_image(r, img);
    fflush(stderr);
    img_close(img);
    progress_end(&r->progress, code == NOT_COMPLETED);
    r->tool->progress = NULL;
    if (code == NOT_COMPLETED)
        interrupt_die();
    return code;
}

static int take_argument(struct check_request *r, int argc, char **argv, const char *cache)
{
    if (source_filename(r->tool, &r->open, argc, argv, &r->filename))
        return 1;
    if (cache && !tool_is_cache_mode(cache))
        return tool_error(r->tool, "Invalid source cache option: %s", cache);
    if ((r->dry_run || r->undo) && !r->repair)
        return tool_usage_error(r->tool, "%s goes with --repair (-r)",
                                r->dry_run ? "--dry-run" : "--undo");
    if (r->dry_run && (r->undo || r->list))
        return tool_usage_error(r->tool,
                                "--dry-run changes nothing and lists what would change; "
                                "it does not go with %s",
                                r->undo ? "--undo" : "--list");
    if (r->repair && !r->dry_run && (r->open.flags & IMG_OPEN_FORCE_SHARE))
        return tool_error(r->tool,
                          "Could not open '%s': force-share=on can only be used with read-only "
                          "images",
                          r->filename);
    return run(r);
}

int cmd_check(struct tool *tool, int argc, char **argv)
{
    enum { LIST = SOURCE_OWN, DRY_RUN, UNDO };
    static const struct option options[] = {
        SOURCE_LONG,
        {"cache", required_argument, 0, 'T'},
        {"repair", required_argument, 0, 'r'},
        {"quiet", no_argument, 0, 'q'},
        PROGRESS_OPTION,
        {"list", no_argument, 0, LIST},
        {"dry-run", no_argument, 0, DRY_RUN},
        {"undo", required_argument, 0, UNDO},
        {0, 0, 0, 0},
    };
    struct check_request r = {.tool = tool};
    const char *cache = NULL;
    int c, code;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "T:r:qp", options, &code)) !=
           -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case 'T': /* what is written is flushed in any case */
            cache = optarg;
            break;
        case 'r':
            if (strcmp(optarg, "leaks") && strcmp(optarg, "all"))
                return tool_usage_error(tool, "--repair (-r) expects 'leaks' or 'all' not '%s'",
                                        optarg);
            r.repair = strcmp(optarg, "all") ? IMG_REPAIR_LEAKS : IMG_REPAIR_ALL;
            break;
        case 'q':
            r.quiet = true;
            break;
        case 'p':
            if (progress_option(tool, &r.progress, optarg))
                return 1;
            break;
        case SOURCE_OUTPUT:
            if (tool_output_format(tool, optarg, &r.json))
                return 1;
            break;
        case LIST:
            r.list = true;
            break;
        case DRY_RUN:
            r.dry_run = true;
            break;
        case UNDO:
            r.undo = optarg;
            break;
        }
    }
    return take_argument(&r, argc, argv, cache);
}
