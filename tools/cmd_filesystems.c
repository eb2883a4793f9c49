/* imgtool filesystems: partitions and file systems of a guest's disk. */
#include "commands.h"
#include "output.h"
#include "source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct request {
    struct img_open_options open;
    struct img_filesystems_options look;
    bool json;
};

enum { COLUMNS = 7 };

static const char *const titles[COLUMNS] = {"Name",  "Content", "Type", "Label",
                                            "Start", "Size",    "UUID"};

/* A cell's width on a terminal: characters, not bytes. */
static size_t width(const char *s)
{
    size_t n = 0;
    for (; *s; n++) {
        size_t bytes = utf8_length(s);
        s += bytes ? bytes : 1;
    }
    return n;
}

/* What a volume is, in one word that says more than its content where it has none. */
static const char *what(const struct img_volume *v)
{
    if (v->kind == IMG_VOLUME_GROUP || v->kind == IMG_VOLUME_SUBVOLUME)
        return img_volume_kind_name(v->kind);
    if (v->content == IMG_CONTENT_UNKNOWN && v->table)
        return "partition-table";
    bool extended = v->part_type && (!strcmp(v->part_type, "0x5") || !strcmp(v->part_type, "0xf") ||
                                     !strcmp(v->part_type, "0x85"));
    return extended ? "extended" : img_content_name(v->content);
}

/* A group and a subvolume are wherever there is room. */
static bool has_place(const struct img_volume *v)
{
    return v->kind != IMG_VOLUME_GROUP && v->kind != IMG_VOLUME_SUBVOLUME;
}

static int fill_row(char *row[COLUMNS], const struct img_volume *v)
{
    char start[24], size[32];
    const char *type = v->type ? v->type : v->table ? v->table : "-";
    snprintf(start, sizeof start, "%" PRIu64, v->start);
    row[0] = printable(v->name);
    row[1] = printable(what(v));
    row[2] = printable(type);
    row[3] = printable(v->label ? v->label : "-");
    row[4] = printable(has_place(v) ? start : "-");
    row[5] = printable(v->kind == IMG_VOLUME_SUBVOLUME ? "-" : human_size(v->size, size));
    row[6] = printable(v->uuid ? v->uuid : v->table_id ? v->table_id : "-");
    for (int c = 0; c < COLUMNS; c++)
        if (!row[c])
            return 1;
    return 0;
}

static void print_row(FILE *out, char *const row[COLUMNS], const size_t widths[COLUMNS])
{
    for (int c = 0; c < COLUMNS; c++) {
        size_t pad = widths[c] - width(row[c]);
        bool right = c == 4 || c == 5;
        fprintf(out, "%*s%s%*s", right ? (int)pad : 0, "", row[c],
                right || c == COLUMNS - 1 ? 0 : (int)pad, "");
        fputs(c == COLUMNS - 1 ? "\n" : "  ", out);
    }
}

static int print_table(FILE *out, const struct img_filesystems *f)
{
    char *(*rows)[COLUMNS] = calloc(f->count + 1, sizeof *rows);
    size_t widths[COLUMNS] = {0};
    int failed = !rows;
    for (int c = 0; c < COLUMNS && !failed; c++)
        failed = !(rows[0][c] = strdup(titles[c]));
    for (size_t i = 0; i < f->count && !failed; i++)
        failed = fill_row(rows[i + 1], &f->volumes[i]);
    for (size_t i = 0; i <= f->count && !failed; i++)
        for (int c = 0; c < COLUMNS; c++)
            widths[c] = width(rows[i][c]) > widths[c] ? width(rows[i][c]) : widths[c];
    for (size_t i = 0; i <= f->count && !failed; i++)
        print_row(out, rows[i], widths);
    for (size_t i = 0; i <= f->count && rows; i++)
        for (int c = 0; c < COLUMNS; c++)
            free(rows[i][c]);
    free(rows);
    return failed;
}

static void json_text(struct json *j, const char *key, const char *text)
{
    if (text)
        json_string(j, key, text);
}

static void print_partition(struct json *j, const struct img_volume *v)
{
    json_open(j, "partition", '{');
    json_number(j, "number", v->number);
    json_text(j, "type", v->part_type);
    json_text(j, "uuid", v->part_uuid);
    json_text(j, "label", v->part_label);
    json_number(j, "flags", v->part_flags);
    json_close(j, '}');
}

static void print_members(struct json *j, const struct img_filesystems *f, size_t group)
{
    json_open(j, "members", '[');
    for (size_t i = 0; i < f->count; i++)
        if (group && f->volumes[i].group == group)
            json_string(j, NULL, f->volumes[i].name);
    json_close(j, ']');
}

static void print_volume(struct json *j, const struct img_filesystems *f,
                         const struct img_volume *v)
{
    json_open(j, NULL, '{');
    json_string(j, "name", v->name);
    json_string(j, "kind", img_volume_kind_name(v->kind));
    if (v->kind != IMG_VOLUME_DISK)
        json_string(j, "parent", f->volumes[v->parent].name);
    if (has_place(v))
        json_number(j, "start", v->start);
    if (v->kind != IMG_VOLUME_SUBVOLUME)
        json_number(j, "size", v->size);
    if (v->table) {
        json_open(j, "partition-table", '{');
        json_string(j, "type", v->table);
        json_text(j, "id", v->table_id);
        json_close(j, '}');
    }
    if (v->kind == IMG_VOLUME_PARTITION)
        print_partition(j, v);
    if (v->kind == IMG_VOLUME_LOGICAL)
        json_text(j, "lvm-uuid", v->part_uuid);
    if (v->kind == IMG_VOLUME_ARRAY) {
        json_text(j, "array-uuid", v->part_uuid);
        json_number(j, "level", v->number);
    }
    if (v->kind == IMG_VOLUME_ARRAY || v->kind == IMG_VOLUME_GROUP)
        print_members(j, f, (size_t)(v - f->volumes));
    if (v->kind != IMG_VOLUME_GROUP)
        json_string(j, "content", img_content_name(v->content));
    json_text(j, "type", v->type);
    json_text(j, "version", v->version);
    json_text(j, "label", v->label);
    json_text(j, "uuid", v->uuid);
    if (v->content_size)
        json_number(j, "content-size", v->content_size);
    json_close(j, '}');
}

static void print_json(FILE *out, const struct img *img, const struct img_filesystems *f)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_string(&j, "filename", img_layer_filename(img, 0));
    json_string(&j, "format", img_layer_format(img, 0));
    json_number(&j, "virtual-size", img_size(img));
    json_number(&j, "sector-size", f->sector_size);
    json_bool(&j, "complete", !f->problem);
    json_open(&j, "volumes", '[');
    for (size_t i = 0; i < f->count; i++)
        print_volume(&j, f, &f->volumes[i]);
    json_close(&j, ']');
    json_close(&j, '}');
    fputc('\n', out);
}

static int look(struct tool *tool, struct img *img, const struct request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_filesystems *f;
    struct output output;
    if (img_filesystems(&f, img, &r->look, &err) < 0)
        return tool_report(tool, &err);
    FILE *out = output_start(&output);
    int failed = !out;
    if (out && r->json)
        print_json(out, img, f);
    else if (out)
        failed = print_table(out, f);
    if (failed)
        tool_error(tool, "Out of memory");
    if (out && output_finish(&output, !failed) && !failed)
        failed = tool_error(tool, "Could not write the output");
    if (f->problem)
        failed = tool_error(tool, "Some file systems may be missing: %s", f->problem);
    img_filesystems_free(f);
    return failed;
}

int cmd_filesystems(struct tool *tool, int argc, char **argv)
{
    enum { SECTOR_SIZE = SOURCE_OWN };
    static const struct option options[] = {
        SOURCE_LONG,
        {"snapshot", required_argument, 0, 'l'},
        {"sector-size", required_argument, 0, SECTOR_SIZE},
        {0, 0, 0, 0},
    };
    struct request r = {.json = false};
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    const char *filename;
    int c, code;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "l:", options, &code)) !=
           -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case SOURCE_OUTPUT:
            if (tool_output_format(tool, optarg, &r.json))
                return 1;
            break;
        case 'l':
            r.open.snapshot = optarg;
            break;
        case SECTOR_SIZE:
            r.look.sector_size = !strcmp(optarg, "512") ? 512 : !strcmp(optarg, "4096") ? 4096 : 0;
            if (!r.look.sector_size)
                return tool_usage_error(tool, "--sector-size expects 512 or 4096, not '%s'",
                                        optarg);
            break;
        }
    }
    if (source_filename(tool, &r.open, argc, argv, &filename))
        return 1;
    if (img_open(&img, filename, &r.open, &err) < 0)
        return tool_report(tool, &err);
    code = look(tool, img, &r);
    img_close(img);
    return code;
}
