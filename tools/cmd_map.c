/* imgtool map: which layer and which host bytes stand behind each range of the guest's disk. */
#include "commands.h"
#include "output.h"
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct map_request {
    struct img_open_options open;
    bool json;
    uint64_t start, length;
};

struct map_printer {
    bool any; /* has an extent been printed yet? */
};

/* What `qemu-img map` calls data. */
static bool holds_data(const struct img_extent *e)
{
    return e->kind == IMG_EXTENT_DATA || e->kind == IMG_EXTENT_COMPRESSED ||
           e->kind == IMG_EXTENT_ENCRYPTED;
}

/* Text only knows plain data: what else holds data cannot be said. */
static int print_text(void *opaque, const struct img_extent *e)
{
    (void)opaque;
    bool data = holds_data(e);
    if (data && !e->has_offset)
        return 1;
    if (!data || e->reads_zero)
        return 0;
    char *name = printable(e->filename);
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start, e->length, e->offset,
           name ? name : "");
    free(name);
    return 0;
}

/* Digits without printf: a fragmented image has millions of extents. */
static char *put_number(char *p, uint64_t v)
{
    char digits[20];
    unsigned n = 0;
    do
        digits[n++] = (char)('0' + v % 10);
    while (v /= 10);
    while (n)
        *p++ = digits[--n];
    return p;
}

static char *put(char *p, const char *s)
{
    size_t n = strlen(s);
    memcpy(p, s, n);
    return p + n;
}

static char *put_bool(char *p, bool b)
{
    return put(p, b ? "true" : "false");
}

static int print_json(void *opaque, const struct img_extent *e)
{
    struct map_printer *printer = opaque;
    char line[320], *p = line;
    bool data = holds_data(e);
    p = put(p, printer->any ? ",\n{ \"start\": " : "{ \"start\": ");
    p = put_number(p, e->start);
    p = put_number(put(p, ", \"length\": "), e->length);
    p = put_number(put(p, ", \"depth\": "), e->depth);
    p = put_bool(put(p, ", \"present\": "), e->kind != IMG_EXTENT_UNALLOCATED && e->length);
    p = put_bool(put(p, ", \"zero\": "), e->reads_zero);
    p = put_bool(put(p, ", \"data\": "), data);
    p = put_bool(put(p, ", \"compressed\": "), e->kind == IMG_EXTENT_COMPRESSED);
    if (e->has_offset)
        p = put_number(put(p, ", \"offset\": "), e->offset);
    *p++ = '}';
    printer->any = true;
    return fwrite_unlocked(line, 1, (size_t)(p - line), stdout) ? 0 : 2;
}

static int print_extents(struct tool *tool, struct img *img, const struct map_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct map_printer printer = {0};
    if (r->json)
        putchar('[');
    else
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    int ret = img_map(img, r->start, r->length, r->json ? print_json : print_text, &printer, &err);
    if (ret < 0)
        return tool_report(tool, &err);
    if (ret == 1)
        return tool_error(tool, "File contains external, encrypted or compressed clusters.");
    if (r->json && !printer.any) { /* qemu-img says an empty range with an empty entry */
        struct img_extent none = {.start = r->start, .kind = IMG_EXTENT_UNALLOCATED};
        print_json(&printer, &none);
    }
    if (r->json)
        puts("]");
    return 0;
}

static int run(struct tool *tool, const char *filename, const struct map_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    if (img_open(&img, filename, &r->open, &err) < 0)
        return tool_report(tool, &err);
    int code = print_extents(tool, img, r);
    img_close(img);
    if (fflush(stdout) || ferror(stdout))
        return tool_error(tool, "Could not write the output");
    return code;
}

int cmd_map(struct tool *tool, int argc, char **argv)
{
    enum { SNAPSHOT = SOURCE_OWN };
    static const struct option options[] = {
        SOURCE_LONG,
        {"start-offset", required_argument, 0, 's'},
        {"max-length", required_argument, 0, 'l'},
        {"snapshot", required_argument, 0, SNAPSHOT},
        {0, 0, 0, 0},
    };
    struct map_request r = {.length = UINT64_MAX};
    const char *filename;
    int c, code, failed = 0;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "s:l:", options, &code)) !=
           -1) {
        switch (c) {
        case TOOL_STOP:
            return code;
        case SOURCE_OUTPUT:
            failed = tool_output_format(tool, optarg, &r.json);
            break;
        case 's':
            failed = tool_size(tool, "start offset", optarg, &r.start);
            break;
        case 'l':
            failed = tool_size(tool, "max length", optarg, &r.length);
            break;
        case SNAPSHOT:
            r.open.snapshot = optarg;
            break;
        }
        if (failed)
            return 1;
    }
    if (source_filename(tool, &r.open, argc, argv, &filename))
        return 1;
    return run(tool, filename, &r);
}
