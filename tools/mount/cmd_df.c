/* imgtool df: how full a guest's file systems are. */
#include "commands.h"
#include "guest.h"
#include "../output.h"
#include "signals.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct report {
    FILE *out;
    struct json json;
    bool as_json;
};

static void print_usage(struct report *r, const char *device, const struct guestfs_statvfs *st)
{
    uint64_t block = (uint64_t)st->frsize, size = (uint64_t)st->blocks * block;
    uint64_t available = (uint64_t)st->bavail * block;
    uint64_t used = ((uint64_t)st->blocks - (uint64_t)st->bfree) * block;
    if (r->as_json) {
        json_open(&r->json, NULL, '{');
        json_string(&r->json, "device", device);
        json_number(&r->json, "size", size);
        json_number(&r->json, "used", used);
        json_number(&r->json, "available", available);
        json_number(&r->json, "inodes", (uint64_t)st->files);
        json_number(&r->json, "inodes-free", (uint64_t)st->ffree);
        json_close(&r->json, '}');
        return;
    }
    char a[32], b[32], c[32], *safe = printable(device);
    unsigned percent = used + available
                           ? (unsigned)(100.0 * (double)used / (double)(used + available) + .5)
                           : 0;
    fprintf(r->out, "%-24s %10s %10s %10s %4u%%\n", safe ? safe : "", human_size(size, a),
            human_size(used, b), human_size(available, c), percent);
    free(safe);
}

static int measure(struct guest *guest, struct report *r, const char *device)
{
    if (guestfs_mount_ro(guest->g, device, "/") < 0)
        return guest_error(guest, "Could not mount %s", device);
    struct guestfs_statvfs *st = guestfs_statvfs(guest->g, "/");
    int failed = st ? 0 : guest_error(guest, "Could not ask how full %s is", device);
    if (st)
        print_usage(r, device, st);
    guestfs_free_statvfs(st);
    guestfs_umount_all(guest->g);
    return failed;
}

static bool has_filesystem(struct guest *guest, const char *device)
{
    char *type = guestfs_vfs_type(guest->g, device);
    size_t length = type ? strlen(type) : 0;
    bool member = length > 7 && !strcmp(type + length - 7, "_member");
    bool has = length && !member && strcmp(type, "swap") != 0 && strcmp(type, "crypto_LUKS") != 0;
    free(type);
    return has;
}

/* Takes LIST over. */
static int measure_list(struct guest *guest, struct report *r, char **list)
{
    int failed = list ? 0 : guest_error(guest, "Could not list what is behind LVM and LUKS");
    for (size_t i = 0; list && list[i]; i++)
        if (has_filesystem(guest, list[i]))
            failed |= measure(guest, r, list[i]);
    guest_list_free(list);
    return failed;
}

/* What is on partitions is known already; what is behind LUKS or LVM, the appliance knows. */
static int measure_all(struct guest *guest, struct report *r)
{
    int failed = 0;
    bool behind = false;
    for (size_t i = 0; i < guest->volumes->count; i++) {
        const struct img_volume *v = &guest->volumes->volumes[i];
        behind |= v->content == IMG_CONTENT_LVM || v->content == IMG_CONTENT_LUKS;
        bool listed_by_lvm = v->kind == IMG_VOLUME_LOGICAL;
        bool shares_space = v->kind == IMG_VOLUME_SUBVOLUME;
        if (v->content == IMG_CONTENT_FILESYSTEM && !listed_by_lvm && !shares_space)
            failed |= measure(guest, r, v->name);
    }
    if (behind) {
        failed |= measure_list(guest, r, guestfs_list_dm_devices(guest->g));
        failed |= measure_list(guest, r, guestfs_lvs(guest->g));
    }
    return failed;
}

static int df(struct guest *guest, bool as_json)
{
    struct output output;
    struct report r = {.out = output_start(&output), .as_json = as_json};
    if (!r.out)
        return tool_error(guest->tool, "Out of memory");
    r.json.out = r.out;
    if (as_json)
        json_open(&r.json, NULL, '[');
    else
        fprintf(r.out, "%-24s %10s %10s %10s %5s\n", "Device", "Size", "Used", "Available", "Use");
    int failed = measure_all(guest, &r);
    if (as_json) {
        json_close(&r.json, ']');
        fputc('\n', r.out);
    }
    if (output_finish(&output, true))
        failed = tool_error(guest->tool, "Could not write the output");
    return failed;
}

int cmd_df(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        GUEST_LONG, {"output", required_argument, 0, GUEST_OUTPUT}, {0, 0, 0, 0}};
    struct guest_request request = {.writable = false};
    struct guest guest;
    bool json = false;
    int c, code;
    while ((c = tool_getopt(tool, argc, argv, "hf:l:", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == GUEST_OUTPUT && tool_output_format(tool, optarg, &json))
            return 1;
        if (guest_option(tool, &request, c == 'l' ? GUEST_SNAPSHOT : c, optarg) < 0)
            return 1;
    }
    if (optind != argc - 1)
        return tool_usage_error(tool, "Expecting one image file name");
    request.filename = argv[optind];
    signals_start();
    if (guest_start(tool, &guest, &request))
        return 1;
    code = guest_unlock(&guest, &request, UNLOCK_OR_WARN) || df(&guest, json);
    return guest_end(&guest) || code;
}
