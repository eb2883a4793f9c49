#include "repair_plan.h"
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct plan {
    bool as_json;
    struct json json;
    uint64_t changes;
};

static void print_json(struct json *j, const struct img_change *c)
{
    json_open(j, NULL, '{');
    json_string(j, "what", c->what);
    if (c->field)
        json_string(j, "field", c->field);
    json_number(j, "host-offset", c->host_offset);
    if (c->has_guest_offset)
        json_number(j, "guest-offset", c->guest_offset);
    json_number(j, "from", c->from);
    json_number(j, "to", c->to);
    json_close(j, '}');
}

static void print_text(const struct img_change *c)
{
    printf("%s%s%s: host 0x%" PRIx64, c->what, c->field ? " " : "", c->field ? c->field : "",
           c->host_offset);
    if (c->has_guest_offset)
        printf(", guest 0x%" PRIx64, c->guest_offset);
    bool count = !strcmp(c->what, "refcount"); /* all others are offsets and flags */
    printf(count ? ": %" PRIu64 " -> %" PRIu64 "\n" : ": 0x%" PRIx64 " -> 0x%" PRIx64 "\n", c->from,
           c->to);
}

static void print_change(void *opaque, const struct img_change *c)
{
    struct plan *p = opaque;
    p->changes++;
    if (p->as_json)
        print_json(&p->json, c);
    else
        print_text(c);
}

static void print_sums(struct plan *p, const struct img_check *c, const char *filename,
                       const char *format)
{
    struct json *j = &p->json;
    if (p->as_json) {
        json_close(j, ']');
        json_number(j, "corruptions", c->corruptions);
        json_number(j, "corruptions-fixed", c->corruptions_fixed);
        json_number(j, "check-errors", c->check_errors);
        json_number(j, "leaks", c->leaks);
        json_number(j, "leaks-fixed", c->leaks_fixed);
        json_string(j, "filename", filename);
        json_string(j, "format", format);
        json_close(j, '}');
        return;
    }
    if (!p->changes)
        puts("Nothing would be changed.");
    else
        printf("%" PRIu64 " changes would repair %" PRIu64 " leaked clusters and %" PRIu64
               " corruptions.\n",
               p->changes, c->leaks_fixed, c->corruptions_fixed);
    if (c->leaks || c->corruptions || c->check_errors)
        printf("%" PRIu64 " leaked clusters, %" PRIu64 " corruptions and %" PRIu64
               " internal errors would remain.\n",
               c->leaks, c->corruptions, c->check_errors);
}

int show_repair_plan(struct tool *tool, struct img *img, unsigned what, const char *filename,
                     bool json)
{
    struct plan p = {.as_json = json, .json = {.out = stdout}};
    struct img_repair_options o = {
        .what = what, .dry_run = true, .change = print_change, .opaque = &p};
    struct img_error err = IMG_ERROR_INIT;
    struct img_check c;
    if (json) {
        json_open(&p.json, NULL, '{');
        json_open(&p.json, "changes", '[');
    }
    int ret = img_repair(img, &o, &c, &err);
    if (!ret || json)
        print_sums(&p, &c, filename, img_layer_format(img, 0));
    if (ret < 0) {
        tool_report(tool, &err);
        return ret == -ENOTSUP ? 63 : 1;
    }
    if (fflush(stdout))
        return tool_error(tool, "Could not write the output");
    if (c.check_errors)
        return 1;
    return c.corruptions + c.corruptions_fixed ? 2 : c.leaks + c.leaks_fixed ? 3 : 0;
}
