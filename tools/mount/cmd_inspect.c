/* imgtool inspect: which operating systems a guest's disk has. */
#include "commands.h"
#include "guest.h"
#include "../output.h"
#include "signals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct inspection {
    struct guest_request guest;
    bool json, packages;
};

/* libguestfs answers "unknown" where it does not know. */
static const char *known(const char *text)
{
    return text && strcmp(text, "unknown") != 0 && *text ? text : NULL;
}

static void text(struct json *j, const char *key, const char *label, char *value)
{
    if (known(value) && j->depth)
        json_string(j, key, value);
    else if (known(value)) {
        char *safe = printable(value);
        fprintf(j->out, "%-14s %s\n", label, safe ? safe : "");
        free(safe);
    }
    free(value);
}

/* Linux may have seen the appliance's disk first; libguestfs 1.48 then says so of subvolumes. There
 * is one disk, which all other commands know as /dev/sda. */
static char *disk_is_first(char *name)
{
    static const char subvolume[] = "btrfsvol:/dev/sd";
    if (name && !strncmp(name, subvolume, strlen(subvolume)) && name[strlen(subvolume)])
        name[strlen(subvolume)] = 'a';
    return name;
}

static void print_version(struct guest *guest, struct json *j, const char *root)
{
    int major = guestfs_inspect_get_major_version(guest->g, root);
    int minor = guestfs_inspect_get_minor_version(guest->g, root);
    char *version = NULL;
    if (major > 0 && asprintf(&version, "%d.%d", major, minor > 0 ? minor : 0) >= 0)
        text(j, "version", "version", version);
}

static void print_mount_points(struct guest *guest, struct json *j, const char *root)
{
    char **points = guestfs_inspect_get_mountpoints(guest->g, root);
    if (j->depth)
        json_open(j, "mount-points", '{');
    for (size_t i = 0; points && points[i]; i += 2)
        if (j->depth)
            json_string(j, points[i], disk_is_first(points[i + 1]));
        else {
            char *dir = printable(points[i]);
            char *device = printable(disk_is_first(points[i + 1]));
            fprintf(j->out, "%-14s %s on %s\n", "mounted", device ? device : "", dir ? dir : "");
            free(dir);
            free(device);
        }
    if (j->depth)
        json_close(j, '}');
    guest_list_free(points);
}

static void print_package(struct json *j, const struct guestfs_application2 *a)
{
    char *version = NULL;
    const char *dash = *a->app2_release ? "-" : "";
    if (asprintf(&version, "%s%s%s", a->app2_version, dash, a->app2_release) < 0)
        version = NULL;
    if (j->depth) {
        json_open(j, NULL, '{');
        json_string(j, "name", a->app2_name);
        json_string(j, "version", version ? version : "");
        json_string(j, "architecture", a->app2_arch);
        json_close(j, '}');
    } else {
        char *name = printable(a->app2_name), *safe = printable(version ? version : "");
        fprintf(j->out, "%-14s %s %s\n", "package", name ? name : "", safe ? safe : "");
        free(name);
        free(safe);
    }
    free(version);
}

/* They are in files, so the guest's file systems must be mounted. */
static int print_packages(struct guest *guest, const struct guest_request *r, struct json *j,
                          const char *root)
{
    struct guestfs_application2_list *list = NULL;
    int failed = guest_mount_root(guest, r, root);
    if (!failed && !(list = guestfs_inspect_list_applications2(guest->g, root)))
        failed = guest_error(guest, "Could not list the packages of %s", root);
    if (j->depth)
        json_open(j, "packages", '[');
    for (size_t i = 0; list && i < list->len; i++)
        print_package(j, &list->val[i]);
    if (j->depth)
        json_close(j, ']');
    guestfs_free_application2_list(list);
    guestfs_umount_all(guest->g);
    return failed;
}

static int print_root(struct guest *guest, const struct inspection *in, struct json *j,
                      const char *root)
{
    guestfs_h *g = guest->g;
    if (j->depth)
        json_open(j, NULL, '{');
    text(j, "root", "root", disk_is_first(strdup(root)));
    text(j, "type", "type", guestfs_inspect_get_type(g, root));
    text(j, "distribution", "distribution", guestfs_inspect_get_distro(g, root));
    print_version(guest, j, root);
    text(j, "product", "product", guestfs_inspect_get_product_name(g, root));
    text(j, "hostname", "host name", guestfs_inspect_get_hostname(g, root));
    text(j, "architecture", "architecture", guestfs_inspect_get_arch(g, root));
    text(j, "package-format", "packages are", guestfs_inspect_get_package_format(g, root));
    print_mount_points(guest, j, root);
    int failed = in->packages ? print_packages(guest, &in->guest, j, root) : 0;
    if (j->depth)
        json_close(j, '}');
    return failed;
}

static int inspect(struct guest *guest, const struct inspection *in)
{
    struct output output;
    FILE *out = output_start(&output);
    char **roots = out ? guestfs_inspect_os(guest->g) : NULL;
    struct json j = {.out = out};
    int failed = roots ? 0 : guest_error(guest, "Could not look for an operating system");
    if (roots && !roots[0] && !in->json)
        failed = tool_error(guest->tool, "No operating system was found in '%s'", guest->path);
    if (in->json && out)
        json_open(&j, NULL, '[');
    for (size_t i = 0; roots && roots[i] && !failed; i++) {
        if (i && !in->json)
            fputc('\n', out);
        failed = print_root(guest, in, &j, roots[i]);
    }
    if (in->json && out) {
        json_close(&j, ']');
        fputc('\n', out);
    }
    guest_list_free(roots);
    if (out && output_finish(&output, !failed) && !failed)
        failed = tool_error(guest->tool, "Could not write the output");
    return failed;
}

int cmd_inspect(struct tool *tool, int argc, char **argv)
{
    enum { PACKAGES = GUEST_OWN };
    static const struct option options[] = {GUEST_LONG,
                                            {"packages", no_argument, 0, PACKAGES},
                                            {"output", required_argument, 0, GUEST_OUTPUT},
                                            {0, 0, 0, 0}};
    struct inspection in = {.json = false};
    struct guest guest;
    int c, code;
    while ((c = tool_getopt(tool, argc, argv, "hf:l:", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == PACKAGES)
            in.packages = true;
        else if (c == GUEST_OUTPUT && tool_output_format(tool, optarg, &in.json))
            return 1;
        else if (guest_option(tool, &in.guest, c == 'l' ? GUEST_SNAPSHOT : c, optarg) < 0)
            return 1;
    }
    if (optind != argc - 1)
        return tool_usage_error(tool, "Expecting one image file name");
    in.guest.filename = argv[optind];
    signals_start();
    if (guest_start(tool, &guest, &in.guest))
        return 1;
    code = guest_unlock(&guest, &in.guest, UNLOCK_OR_WARN) || inspect(&guest, &in);
    return guest_end(&guest) || code;
}
