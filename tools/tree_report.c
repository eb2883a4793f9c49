/* The tree for programs: as JSON, and for graphviz. */
#include "output.h"
#include "tree_output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void json_strings(struct json *j, const char *key, char *const *items, size_t count)
{
    json_open(j, key, '[');
    for (size_t i = 0; i < count; i++)
        json_string(j, NULL, items[i]);
    json_close(j, ']');
}

static void json_findings(struct json *j, unsigned findings)
{
    json_open(j, "findings", '[');
    for (unsigned bit = 1; bit && bit <= findings; bit <<= 1)
        if (findings & bit)
            json_string(j, NULL, img_tree_finding_name(bit));
    json_close(j, ']');
}

static void json_references(struct json *j, const struct img_tree_image *image)
{
    json_open(j, "references", '[');
    for (size_t i = 0; i < image->reference_count; i++) {
        const struct img_tree_reference *r = &image->references[i];
        json_open(j, NULL, '{');
        json_string(j, "kind", img_tree_kind_name(r->kind));
        json_string(j, "name", r->name);
        if (r->format)
            json_string(j, "format", r->format);
        json_number(j, "image", r->target);
        if (r->cut)
            json_bool(j, "cut", true);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void json_image(struct json *j, const struct img_tree_image *image, size_t index)
{
    json_open(j, NULL, '{');
    json_number(j, "index", index);
    json_string(j, "filename", image->filename);
    json_strings(j, "other-names", image->other_names, image->other_name_count);
    json_string(j, "state", img_tree_state_name(image->state));
    if (image->error)
        json_string(j, "error", image->error);
    if (image->format)
        json_string(j, "format", image->format);
    if (image->state == IMG_TREE_IMAGE)
        json_number(j, "virtual-size", image->virtual_size);
    json_bool(j, "outside", image->outside);
    if (image->base != IMG_TREE_NONE)
        json_number(j, "base", image->base);
    json_open(j, "overlays", '[');
    for (size_t i = 0; i < image->overlay_count; i++)
        json_number(j, NULL, image->overlays[i]);
    json_close(j, ']');
    json_references(j, image);
    json_findings(j, image->findings);
    if (image->findings & IMG_TREE_HIDES)
        json_number(j, "hidden", image->hidden);
    json_close(j, '}');
}

void tree_json(FILE *out, const struct img_tree *tree)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_open(&j, "images", '[');
    for (size_t i = 0; i < tree->count; i++)
        json_image(&j, &tree->images[i], i);
    json_close(&j, ']');
    json_open(&j, "problems", '[');
    for (size_t i = 0; i < tree->problem_count; i++) {
        json_open(&j, NULL, '{');
        json_string(&j, "filename", tree->problems[i].filename);
        json_string(&j, "error", tree->problems[i].error);
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_number(&j, "files-seen", tree->files_seen);
    json_close(&j, '}');
}

/* ---- graphviz ---- */

/* Inside a quoted label: what graphviz would read as an escape or an entity is written out. */
static void dot_text(FILE *out, const char *text)
{
    char *safe = printable(text);
    for (const char *p = safe ? safe : "?"; *p;) {
        size_t n = utf8_length(p);
        if (n == 0)
            fprintf(out, "\\\\x%02x", (unsigned char)*p++);
        else if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p++);
        else if (*p == '&')
            p++, fputs("&amp;", out);
        else {
            fwrite(p, 1, n, out);
            p += n;
        }
    }
    free(safe);
}

static void dot_image(FILE *out, const struct img_tree_image *image, size_t index)
{
    char size[32];
    fprintf(out, "    n%zu [label=\"", index);
    dot_text(out, image->filename);
    if (image->state == IMG_TREE_IMAGE)
        fprintf(out, "\\n%s, %s", image->format, human_size(image->virtual_size, size));
    else
        fprintf(out, "\\n%s", img_tree_state_name(image->state));
    for (unsigned bit = 1; bit && bit <= image->findings; bit <<= 1)
        if (image->findings & bit)
            fprintf(out, "\\n%s", img_tree_finding_name(bit));
    fputs("\"", out);
    if (image->state != IMG_TREE_IMAGE)
        fputs(", style=dashed", out);
    if (image->findings & (IMG_TREE_BROKEN | IMG_TREE_ORPHAN) || image->state != IMG_TREE_IMAGE)
        fputs(", color=red", out);
    fputs("];\n", out);
}

static const char *dot_style(const struct img_tree_image *image, size_t reference)
{
    if (reference == 0 && image->base != IMG_TREE_NONE)
        return "solid";
    return image->references[reference].kind == IMG_TREE_DATA_FILE ? "dashed" : "dotted";
}

void tree_dot(FILE *out, const struct img_tree *tree)
{
    fputs("digraph images {\n    rankdir=BT;\n    node [shape=box];\n", out);
    for (size_t i = 0; i < tree->count; i++)
        dot_image(out, &tree->images[i], i);
    for (size_t i = 0; i < tree->count; i++)
        for (size_t k = 0; k < tree->images[i].reference_count; k++)
            fprintf(out, "    n%zu -> n%zu [style=%s];\n", i, tree->images[i].references[k].target,
                    dot_style(&tree->images[i], k));
    fputs("}\n", out);
}
