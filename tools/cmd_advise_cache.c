/* imgtool advise-cache: which caches QEMU should have for an image, and whether it has them. */
#include "cache_output.h"
#include "commands.h"
#include "output.h"
#include "source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum form { FORM_HUMAN, FORM_JSON, FORM_QEMU, FORM_BLOCKDEV, FORM_LIBVIRT };

static int parse_form(struct tool *tool, const char *value, enum form *out)
{
    static const char *const names[] = {"human", "json", "qemu", "blockdev", "libvirt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(value, names[i])) {
            *out = (enum form)i;
            return 0;
        }
    return tool_usage_error(tool,
                            "--output expects 'human', 'json', 'qemu', 'blockdev' or 'libvirt' not "
                            "'%s'",
                            value);
}

/* Looks at one FILE. What could be reached before an error stays. */
static int survey(const struct cache_request *r, struct cache_image *image, struct img_error *err)
{
    int ret = img_cache_survey(&image->survey, image->filename, &r->open, r->whole_chain, err);
    image->advice = calloc(image->survey.count + 1, sizeof *image->advice);
    if (!image->advice) {
        img_error_clear(err);
        err->code = ENOMEM;
        img_cache_survey_free(&image->survey);
        return -ENOMEM;
    }
    for (size_t i = 0; i < image->survey.count && !r->has_budget; i++) {
        struct img_error *why = ret < 0 ? NULL : err; /* the first failure is the one to tell */
        int bad = img_advise_cache(&image->advice[i], &image->survey.layers[i].facts, &r->version,
                                   why);
        ret = ret < 0 ? ret : bad;
    }
    return ret;
}

/* FACTS and ADVICE have room for the layers of all images, which share the budget. */
static int share_among(const struct cache_request *r, struct cache_image *images, size_t count,
                       struct img_cache_facts *facts, struct img_cache_advice *advice,
                       struct img_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < images[i].survey.count; k++)
            facts[n++] = images[i].survey.layers[k].facts;
    int ret = img_share_cache(advice, facts, n, r->budget, &r->version, NULL, err);
    n = 0;
    for (size_t i = 0; i < count && !ret; i++)
        for (size_t k = 0; k < images[i].survey.count; k++)
            images[i].advice[k] = advice[n++];
    return ret;
}

static int share(struct tool *tool, const struct cache_request *r, struct cache_image *images,
                 size_t count)
{
    struct img_error err = IMG_ERROR_INIT;
    size_t total = 0;
    int code = 0;
    for (size_t i = 0; i < count; i++)
        total += images[i].survey.count;
    struct img_cache_facts *facts = calloc(total + 1, sizeof *facts);
    struct img_cache_advice *advice = calloc(total + 1, sizeof *advice);
    if (!facts || !advice)
        code = tool_error(tool, "Out of memory");
    else if (share_among(r, images, count, facts, advice, &err) < 0)
        code = tool_report(tool, &err);
    free(facts);
    free(advice);
    return code;
}

/* The words around a file name, which may hold anything. */
static int complain(struct tool *tool, const char *before, const char *filename, const char *after,
                    const char *why)
{
    char *name = printable(filename);
    tool_error(tool, "%s '%s'%s%s", before, name ? name : "", after, why);
    free(name);
    return 1;
}

static int print_pastes(struct tool *tool, FILE *out, const struct cache_request *r, enum form form,
                        const struct cache_image *images, size_t count)
{
    cache_paste *paste = form == FORM_QEMU       ? cache_paste_qemu
                         : form == FORM_BLOCKDEV ? cache_paste_blockdev
                                                 : cache_paste_libvirt;
    for (size_t i = 0; i < count; i++) {
        const char *why = paste(out, r, &images[i], i);
        if (why)
            return complain(tool, "Could not describe", images[i].filename, ": ", why);
        for (size_t k = 0; k < images[i].survey.count; k++) {
            const struct img_info *info = images[i].survey.layers[k].info;
            if (info->encrypted)
                complain(tool, "warning:", info->filename, " is encrypted; ",
                         "its key must be added");
        }
    }
    return 0;
}

static int print(struct tool *tool, const struct cache_request *r, enum form form,
                 const struct cache_image *images, size_t count, bool listed)
{
    struct output o;
    FILE *out = output_start(&o);
    if (!out)
        return tool_error(tool, "Out of memory");
    int failed = 0;
    if (form == FORM_HUMAN)
        cache_print_human(out, r, images, count);
    else if (form == FORM_JSON)
        cache_print_json(out, r, images, count, listed);
    else
        failed = print_pastes(tool, out, r, form, images, count);
    if (output_finish(&o, !failed))
        return tool_error(tool, "Could not write the output");
    return failed;
}

static void release(struct cache_image *image)
{
    img_cache_survey_free(&image->survey);
    free(image->advice);
}

/* Fills IMAGES with those that can be shown; ERRORS is one a name. Returns how many can be. */
static size_t survey_all(const struct cache_request *r, bool partly, char **names, size_t count,
                         struct cache_image *images, struct img_error *errors)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        struct cache_image *image = &images[n];
        *image = (struct cache_image){.filename = names[i]};
        int ret = survey(r, image, &errors[i]);
        if (ret == 0 || (partly && image->survey.count))
            n++;
        else
            release(image);
    }
    return n;
}

/*
 * A file that fails does not keep the others from being described, nor does a broken chain hide its
 * reachable layers; but half a chain is nothing to paste, and half a list nothing to share among.
 */
static int run(struct tool *tool, const struct cache_request *r, enum form form, char **names,
               size_t count)
{
    struct cache_image *images = calloc(count, sizeof *images);
    struct img_error *errors = calloc(count, sizeof *errors);
    if (!images || !errors) {
        free(images);
        free(errors);
        return tool_error(tool, "Out of memory");
    }
    bool partly = (form == FORM_HUMAN || form == FORM_JSON) && !r->has_budget;
    size_t n = survey_all(r, partly, names, count, images, errors);
    int failed = 0;
    bool show = n && (!r->has_budget || n == count);
    if (show && r->has_budget)
        failed = share(tool, r, images, n);
    if (show && !failed)
        failed = print(tool, r, form, images, n, count > 1);
    for (size_t i = 0; i < count; i++)
        if (errors[i].code)
            failed = tool_report(tool, &errors[i]);
    for (size_t i = 0; i < n; i++)
        release(&images[i]);
    free(images);
    free(errors);
    return failed;
}

int cmd_advise_cache(struct tool *tool, int argc, char **argv)
{
    enum { QEMU_VERSION = SOURCE_OWN, BUDGET };
    static const struct option options[] = {
        SOURCE_LONG,
        {"backing-chain", no_argument, 0, 'b'},
        {"qemu-version", required_argument, 0, QEMU_VERSION},
        {"budget", required_argument, 0, BUDGET},
        {0, 0, 0, 0},
    };
    struct cache_request r = {.version_text = "newest"};
    struct img_error err = IMG_ERROR_INIT;
    enum form form = FORM_HUMAN;
    int c, code, failed = 0;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "b", options, &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case 'b':
            r.whole_chain = true;
            break;
        case SOURCE_OUTPUT:
            failed = parse_form(tool, optarg, &form);
            break;
        case QEMU_VERSION:
            if (img_qemu_version_parse(&r.version, optarg, &err) < 0)
                return tool_report(tool, &err);
            r.version_text = optarg;
            break;
        case BUDGET:
            failed = tool_size(tool, "budget", optarg, &r.budget);
            r.has_budget = true;
            break;
        }
        if (failed)
            return 1;
    }
    if (optind >= argc)
        return tool_usage_error(tool, "Expecting at least one image file name");
    if (source_check(tool, &r.open))
        return 1;
    return run(tool, &r, form, argv + optind, (size_t)(argc - optind));
}
