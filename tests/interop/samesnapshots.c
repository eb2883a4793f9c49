/*
 * samesnapshots: do the internal snapshots of one image hold the bytes of another's?
 *
 *   samesnapshots IMAGE OTHER...
 *
 * For each OTHER and each of IMAGE's snapshots that OTHER has too (by ID and name), as far as both
 * disks go. A line for each that differs: the number of the OTHER (from 1), the snapshot's ID and
 * where; 0 instead of the number where IMAGE cannot be read. What cannot be read in OTHER is no
 * difference. Ends with 0, or 1 when IMAGE or an OTHER cannot be opened.
 */
#include <imgtool.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 18 };

static struct img_error err = IMG_ERROR_INIT;

static struct img *open_at(const char *name, const char *snapshot)
{
    struct img_open_options options = {.format = "qcow2", .snapshot = snapshot};
    struct img *img = NULL;
    return img_open(&img, name, &options, &err) < 0 ? NULL : img;
}

static bool describe(const char *name, struct img_info **info)
{
    struct img *img = open_at(name, NULL);
    bool done = img && img_describe(img, 0, info, &err) == 0;
    img_close(img);
    if (!done)
        fprintf(stderr, "samesnapshots: %s: %s\n", name, img_error_message(&err));
    return done;
}

static bool has(const struct img_info *info, const struct img_snapshot_info *s)
{
    for (size_t i = 0; i < info->snapshot_count; i++)
        if (!strcmp(info->snapshots[i].id, s->id) && !strcmp(info->snapshots[i].name, s->name))
            return true;
    return false;
}

static void compare_disks(struct img *a, struct img *b, int number, const char *id)
{
    static char mine[CHUNK], other[CHUNK];
    uint64_t size = img_size(a) < img_size(b) ? img_size(a) : img_size(b);
    for (uint64_t at = 0; at < size; at += CHUNK) {
        size_t n = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
        if (img_read(b, other, n, at, &err) < 0)
            return;
        if (img_read(a, mine, n, at, &err) < 0) {
            printf("0 %s %s\n", id, img_error_message(&err));
            return;
        }
        if (memcmp(mine, other, n)) {
            printf("%d %s in %zu bytes at %" PRIu64 "\n", number, id, n, at);
            return;
        }
    }
}

static bool compare_images(const char *image, const struct img_info *info, const char *other,
                           int number)
{
    struct img_info *theirs = NULL;
    if (!describe(other, &theirs))
        return false;
    for (size_t i = 0; i < info->snapshot_count; i++) {
        const char *id = info->snapshots[i].id;
        if (!has(theirs, &info->snapshots[i]))
            continue;
        struct img *b = open_at(other, id), *a = b ? open_at(image, id) : NULL;
        if (a)
            compare_disks(a, b, number, id);
        else if (b)
            printf("0 %s %s\n", id, img_error_message(&err));
        img_close(a);
        img_close(b);
    }
    img_info_free(theirs);
    return true;
}

int main(int argc, char **argv)
{
    struct img_info *info = NULL;
    if (argc < 3 || !describe(argv[1], &info))
        return 1;
    bool done = true;
    for (int i = 2; i < argc; i++)
        done = compare_images(argv[1], info, argv[i], i - 1) && done;
    img_info_free(info);
    img_error_clear(&err);
    return done ? 0 : 1;
}
