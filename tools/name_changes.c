#include "name_changes.h"

#include <stdlib.h>
#include <string.h>

int name_changes_start(struct name_changes *n)
{
    if (!output_start(&n->output))
        return tool_error(n->tool, "Out of memory");
    n->list = (struct json){.out = n->output.stream};
    if (n->json) {
        json_open(&n->list, NULL, '{');
        json_open(&n->list, "changes", '[');
    }
    return 0;
}

static void add_json(struct json *j, const struct img_name_change *c)
{
    json_open(j, NULL, '{');
    json_string(j, "filename", c->filename);
    json_string(j, "what", c->what);
    if (c->from)
        json_string(j, "from", c->from);
    json_string(j, "to", c->to);
    json_close(j, '}');
}

/* "a.qcow2: backing file '/old/b' -> '/new/b'" */
static void add_text(FILE *out, const struct img_name_change *c)
{
    char *file = printable(c->filename), *what = strdup(c->what);
    char *from = c->from ? printable(c->from) : NULL, *to = printable(c->to);
    for (char *p = what; p && *p; p++)
        *p = *p == '-' ? ' ' : *p;
    fprintf(out, "%s: %s ", file ? file : "?", what ? what : "?");
    if (c->from)
        fprintf(out, "'%s' -> ", from ? from : "?");
    fprintf(out, "'%s'\n", to ? to : "?");
    free(file);
    free(what);
    free(from);
    free(to);
}

void name_changes_add(void *opaque, const struct img_name_change *c)
{
    struct name_changes *n = opaque;
    if (n->json)
        add_json(&n->list, c);
    else if (!n->quiet)
        add_text(n->output.stream, c);
}

static void print_sum(FILE *out, const struct name_changes *n, const struct img_name_changes *r)
{
    if (r->finished)
        fputs(n->dry_run ? "An interrupted change was found, which would be finished first.\n"
                         : "An interrupted change was found and finished first.\n",
              out);
    if (!r->changed)
        fputs("Nothing is to be changed.\n", out);
    else
        fprintf(out,
                n->dry_run ? "%zu name%s in %zu image%s would change.\n"
                           : "%zu name%s in %zu image%s changed.\n",
                r->names, r->names == 1 ? "" : "s", r->changed, r->changed == 1 ? "" : "s");
}

int name_changes_finish(struct name_changes *n, const struct img_name_changes *r, bool succeeded)
{
    struct json *j = &n->list;
    if (n->json) {
        json_close(j, ']');
        json_number(j, "images", r->images);
        json_number(j, "changed", r->changed);
        json_bool(j, "dry-run", n->dry_run);
        json_bool(j, "finished-interrupted", r->finished);
        json_close(j, '}');
    } else if (!n->quiet) {
        print_sum(n->output.stream, n, r);
    }
    if (output_finish(&n->output, succeeded) && succeeded)
        return tool_error(n->tool, "Could not write the output");
    return 0;
}
