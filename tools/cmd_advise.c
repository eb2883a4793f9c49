/* imgtool advise: what should be different about an image and its place, and how to make it so. */
#include "commands.h"
#include "output.h"
#include "source.h"

#include <stdio.h>
#include <string.h>

enum { EXIT_ADVISED = 4, COLUMNS = 98, INDENT = 26 };

struct advise_request {
    struct img_open_options open;
    struct img_advise_options advise;
    bool json, strict;
};

/* Names inside images may hold anything; a terminal only gets what it can show. */
static size_t print_word(FILE *out, const char *s, size_t n)
{
    size_t width = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20 || c == 0x7f)
            width += (size_t)fprintf(out, "\\x%02x", c);
        else
            width += (fputc(c, out), (c & 0xc0) != 0x80);
    }
    return width;
}

/* Word by word from column AT on; what does not fit goes below, at INDENT. */
static void print_wrapped(FILE *out, size_t at, const char *text)
{
    for (bool first = true; *text; first = false) {
        size_t n = strcspn(text, " ");
        if (!first && at + 1 + n > COLUMNS) {
            fprintf(out, "\n%*s", INDENT, "");
            at = INDENT;
        } else if (!first) {
            fputc(' ', out);
            at++;
        }
        at += print_word(out, text, n);
        text += n;
        text += *text == ' ';
    }
    fputc('\n', out);
}

static void print_text(FILE *out, const struct img_advice_report *r)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct img_advice *a = &r->items[i];
        const char *state = a->state == IMG_ADVICE_NOT_APPLICABLE ? "-"
                                                                  : img_advice_state_name(a->state);
        fprintf(out, "%-8s  %-14s  ", state, a->check);
        print_wrapped(out, INDENT, a->found);
        if (a->state != IMG_ADVICE_ADVISED)
            continue;
        if (*a->why) {
            fprintf(out, "%20swhy:  ", "");
            print_wrapped(out, INDENT, a->why);
        }
        if (a->fix) { /* never wrapped: it is there to be copied */
            fprintf(out, "%20sfix:  ", "");
            print_word(out, a->fix, strlen(a->fix));
            fputc('\n', out);
        }
    }
    if (r->advised)
        fprintf(out, "\n%zu of %zu checks advise%s a change.\n", r->advised, r->count,
                r->advised == 1 ? "s" : "");
    else
        fprintf(out, "\nNothing to advise.\n");
}

static void print_json(FILE *out, const struct img_advice_report *r)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_string(&j, "filename", r->filename);
    json_string(&j, "format", r->format);
    json_open(&j, "findings", '[');
    for (size_t i = 0; i < r->count; i++) {
        const struct img_advice *a = &r->items[i];
        json_open(&j, NULL, '{');
        json_string(&j, "check", a->check);
        json_string(&j, "state", img_advice_state_name(a->state));
        json_string(&j, "found", a->found);
        json_string(&j, "why", a->why);
        if (a->fix)
            json_string(&j, "fix", a->fix);
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_number(&j, "advised", r->advised);
    json_close(&j, '}');
}

static int run(struct tool *tool, const char *filename, const struct advise_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_advice_report *report;
    struct output o;
    if (img_advise(&report, filename, &r->advise, &err) < 0)
        return tool_report(tool, &err);
    int code = r->strict && report->advised ? EXIT_ADVISED : 0;
    FILE *out = output_start(&o);
    if (out)
        (r->json ? print_json : print_text)(out, report);
    if (!out || output_finish(&o, true))
        code = tool_error(tool, "Could not write the output");
    img_advice_report_free(report);
    return code;
}

static int parse_use(struct tool *tool, const char *value, enum img_use *use)
{
    static const char *const names[] = {"general", "database", "sequential", "overlay"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(value, names[i])) {
            *use = (enum img_use)i;
            return 0;
        }
    return tool_usage_error(
        tool, "--use expects 'general', 'database', 'sequential' or 'overlay' not '%s'", value);
}

int cmd_advise(struct tool *tool, int argc, char **argv)
{
    enum { STRICT = SOURCE_OWN, USE };
    static const struct option options[] = {
        SOURCE_LONG,
        {"strict", no_argument, 0, STRICT},
        {"use", required_argument, 0, USE},
        {0, 0, 0, 0},
    };
    struct advise_request r = {0};
    const char *filename;
    int c, code, failed = 0;
    r.advise.open = &r.open;
    r.advise.program = tool->as_qemu ? tool->program : NULL;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT, options, &code)) != -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case SOURCE_OUTPUT:
            failed = tool_output_format(tool, optarg, &r.json);
            break;
        case STRICT:
            r.strict = true;
            break;
        case USE:
            failed = parse_use(tool, optarg, &r.advise.use);
            break;
        }
        if (failed)
            return 1;
    }
    if (source_filename(tool, &r.open, argc, argv, &filename))
        return 1;
    return run(tool, filename, &r);
}
