/*
 * The advice as QEMU's -drive and -blockdev and as libvirt's <disk>. Sizes are written out also
 * where the default is the same, so that what runs later does not depend on whose default it is.
 */
#include "cache_output.h"
#include "output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char NOT_UTF8[] = "the file name is not UTF-8";
static const char CONTROL[] = "XML cannot hold the control characters of the file name";
static const char WINDOW[] = "a part of a file cannot be said this way";
static const char NO_MEMORY[] = "out of memory";

/* Is it text that JSON and XML can hold byte for byte? */
static bool is_utf8(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    while (*p) {
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        unsigned more = *p < 0x80 ? 0 : *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
        uint32_t c = more ? *p & (0x3fu >> more) : *p;
        if (more && (*p < 0xc2 || *p > 0xf4))
            return false;
        p++;
        for (unsigned i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80)
                return false;
            c = c << 6 | (*p & 0x3f);
        }
        if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
            return false;
    }
    return true;
}

/* Raw images may begin and end inside a file; their name then holds how they were opened. */
static const char *hinders(const struct cache_image *image)
{
    for (size_t i = 0; i < image->survey.count; i++)
        if (!strncmp(image->survey.layers[i].info->filename, "json:", 5))
            return WINDOW;
    return NULL;
}

static bool applies(const struct cache_image *image, size_t i)
{
    return image->advice[i].verdict != IMG_CACHE_NOT_APPLICABLE;
}

/* One word for the shell: in single quotes where it needs them. */
static void print_word(FILE *out, const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_@%+=:,./-";
    if (*s && !s[strspn(s, plain)]) {
        fputs(s, out);
        return;
    }
    fputc('\'', out);
    for (; *s; s++) {
        if (*s == '\'')
            fputs("'\\''", out);
        else
            fputc(*s, out);
    }
    fputc('\'', out);
}

/* Prints OPTION and, as one word, what SAY prints. */
static const char *print_argument(FILE *out, const char *option,
                                  void (*say)(FILE *word, const struct cache_request *r,
                                              const struct cache_image *image, size_t number),
                                  const struct cache_request *r, const struct cache_image *image,
                                  size_t number)
{
    struct output o;
    FILE *word = output_start(&o);
    if (!word)
        return NO_MEMORY;
    say(word, r, image, number);
    bool failed = fclose(o.stream) != 0;
    if (!failed) {
        fprintf(out, "%s ", option);
        print_word(out, o.text);
        fputc('\n', out);
    }
    free(o.text);
    return failed ? NO_MEMORY : NULL;
}

/* Calls PUT for each cache option of layer I. */
static void each_option(const struct cache_request *r, const struct cache_image *image, size_t i,
                        void (*put)(FILE *out, size_t depth, const char *name, uint64_t value),
                        FILE *out)
{
    const struct img_cache_advice *a = &image->advice[i];
    const struct img_cache_sizes *s = &a->advised;
    if (!applies(image, i))
        return;
    if (a->l2_by_sum)
        put(out, i, "cache-size", s->l2_cache_size + s->refcount_cache_size);
    else
        put(out, i, "l2-cache-size", s->l2_cache_size);
    put(out, i, "refcount-cache-size", s->refcount_cache_size);
    if (img_qemu_has_l2_entry_size(&r->version))
        put(out, i, "l2-cache-entry-size", s->l2_entry_size);
}

/* ---- -drive ---- */

static void put_drive_option(FILE *out, size_t depth, const char *name, uint64_t value)
{
    fputc(',', out);
    while (depth--)
        fputs("backing.", out);
    fprintf(out, "%s=%" PRIu64, name, value);
}

static void say_drive(FILE *out, const struct cache_request *r, const struct cache_image *image,
                      size_t number)
{
    const struct img_info *info = image->survey.layers[0].info;
    const char *name = info->file_name;
    (void)number;
    fputs("file=", out);
    if (*name != '/' && name[strcspn(name, ":/")] == ':')
        fputs("./", out); /* else what stands before the colon is a protocol */
    for (; *name; name++) {
        if (*name == ',')
            fputc(',', out);
        fputc(*name, out);
    }
    fprintf(out, ",format=%s", info->format);
    for (size_t i = 0; i < image->survey.count; i++)
        each_option(r, image, i, put_drive_option, out);
}

const char *cache_paste_qemu(FILE *out, const struct cache_request *r,
                             const struct cache_image *image, size_t number)
{
    const char *why = hinders(image);
    return why ? why : print_argument(out, "-drive", say_drive, r, image, number);
}

/* ---- -blockdev ---- */

static void put_json_option(FILE *out, size_t depth, const char *name, uint64_t value)
{
    (void)depth;
    fprintf(out, ", \"%s\": %" PRIu64, name, value);
}

static void say_blockdev(FILE *out, const struct cache_request *r, const struct cache_image *image,
                         size_t number)
{
    size_t count = image->survey.count;
    for (size_t i = 0; i < count; i++) {
        const struct img_info *info = image->survey.layers[i].info;
        fprintf(out, "%s{\"driver\": \"%s\"", i ? ", \"backing\": " : "", info->format);
        if (!i)
            fprintf(out, ", \"node-name\": \"disk%zu\"", number);
        each_option(r, image, i, put_json_option, out);
        fprintf(out, ", \"file\": {\"driver\": \"%s\", \"filename\": ", info->file_protocol);
        json_print_string(out, info->file_name);
        fputc('}', out);
    }
    /* a chain that ends above what its last image names: QEMU must not go on */
    if (r->whole_chain && count && image->survey.layers[count - 1].info->backing_filename)
        fputs(", \"backing\": null", out);
    while (count--)
        fputc('}', out);
}

const char *cache_paste_blockdev(FILE *out, const struct cache_request *r,
                                 const struct cache_image *image, size_t number)
{
    const char *why = hinders(image);
    for (size_t i = 0; i < image->survey.count && !why; i++)
        if (!is_utf8(image->survey.layers[i].info->file_name))
            why = NOT_UTF8;
    return why ? why : print_argument(out, "-blockdev", say_blockdev, r, image, number);
}

/* ---- libvirt ---- */

static void print_escaped(FILE *out, const char *s)
{
    for (; *s; s++) {
        if (strchr("&<>'\"\t\n\r", *s))
            fprintf(out, "&#%d;", *s);
        else
            fputc(*s, out);
    }
}

/* libvirt wants absolute names; links stay, since what they lead to may change. */
static void print_source(FILE *out, const struct img_info *info, const char *folder, int indent)
{
    bool device = !strcmp(info->file_protocol, "host_device");
    fprintf(out, "%*s<source %s='", indent, "", device ? "dev" : "file");
    if (*info->file_name != '/') {
        print_escaped(out, folder);
        fputc('/', out);
    }
    print_escaped(out, info->file_name);
    fputs("'/>\n", out);
}

static const char *disk_type(const struct img_info *info)
{
    return strcmp(info->file_protocol, "host_device") ? "file" : "block";
}

/* <driver> of the disk or <format> of a backing layer: ELEMENT with TYPE as its attributes. */
static void print_format(FILE *out, const struct cache_image *image, size_t i, const char *element,
                         int indent)
{
    const struct img_cache_sizes *s = &image->advice[i].advised;
    const char *name = i ? "" : " name='qemu'";
    const char *format = image->survey.layers[i].info->format;
    fprintf(out, "%*s<%s%s type='%s'", indent, "", element, name, format);
    if (!applies(image, i)) {
        fputs("/>\n", out);
        return;
    }
    fprintf(out, ">\n%*s<metadata_cache>\n%*s<max_size unit='bytes'>%" PRIu64 "</max_size>\n",
            indent + 2, "", indent + 4, "", s->l2_cache_size + s->refcount_cache_size);
    fprintf(out, "%*s</metadata_cache>\n%*s</%s>\n", indent + 2, "", indent, "", element);
}

static void print_backing(FILE *out, const struct cache_image *image, const char *folder)
{
    size_t count = image->survey.count;
    int indent = 2;
    for (size_t i = 1; i < count; i++) {
        const struct img_info *info = image->survey.layers[i].info;
        fprintf(out, "%*s<backingStore type='%s'>\n", indent, "", disk_type(info));
        indent += 2;
        print_format(out, image, i, "format", indent);
        print_source(out, info, folder, indent);
    }
    fprintf(out, "%*s<backingStore/>\n", indent, "");
    while (indent > 2) {
        indent -= 2;
        fprintf(out, "%*s</backingStore>\n", indent, "");
    }
}

/* vda .. vdz, vdaa ... */
static void print_target(FILE *out, size_t number)
{
    char name[16], *p = name + sizeof name - 1;
    *p = 0;
    for (number++; number; number = (number - 1) / 26)
        *--p = (char)('a' + (number - 1) % 26);
    fprintf(out, "  <target dev='vd%s' bus='virtio'/>\n", p);
}

static const char *hinders_xml(const char *name)
{
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 && !strchr("\t\n\r", *p))
            return CONTROL;
    return is_utf8(name) ? NULL : NOT_UTF8;
}

const char *cache_paste_libvirt(FILE *out, const struct cache_request *r,
                                const struct cache_image *image, size_t number)
{
    const struct img_info *top = image->survey.layers[0].info;
    const char *why = hinders(image);
    char *folder = getcwd(NULL, 0);
    if (!folder)
        return "the current folder has no name";
    for (size_t i = 0; i < image->survey.count && !why; i++)
        why = hinders_xml(image->survey.layers[i].info->file_name);
    why = why ? why : hinders_xml(folder);
    if (!why) {
        fprintf(out, "<disk type='%s' device='disk'>\n", disk_type(top));
        print_format(out, image, 0, "driver", 2);
        print_source(out, top, folder, 2);
        if (r->whole_chain)
            print_backing(out, image, folder);
        print_target(out, number);
        fputs("</disk>\n", out);
    }
    free(folder);
    return why;
}
