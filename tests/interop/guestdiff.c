/*
 * guestdiff A B [SNAPSHOT]: where two images show their guests different bytes, and where A has
 * them.
 *
 * A line for each sector that differs: its offset, its place in A's file, "-" if it has none, and
 * "only A" or "only B" where the other cannot be read, else "both"; what cannot be read in either
 * is the same. The first MAX_DISK bytes are compared. Ends with 2 when an image cannot be opened or
 * more than MAX_LINES differ.
 */
#include <imgtool.h>

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 64 << 10, SECTOR = 512, MAX_DISK = 256 << 20, MAX_LINES = 1 << 16 };

static int take_place(void *opaque, const struct img_extent *e)
{
    *(struct img_extent *)opaque = *e;
    return 1;
}

static void tell(struct img *a, uint64_t offset, const char *readable)
{
    struct img_extent e = {0};
    img_map(a, offset, SECTOR, take_place, &e, NULL);
    printf("%" PRIu64 " ", offset);
    if (e.has_offset)
        printf("%" PRIu64 " %s\n", e.offset, readable);
    else
        printf("- %s\n", readable);
}

/* NULL: they are the same; else who can be read. */
static const char *differ(struct img *a, struct img *b, uint64_t offset, size_t n)
{
    static char x[PIECE], y[PIECE];
    bool bad_a = img_read(a, x, n, offset, NULL) < 0, bad_b = img_read(b, y, n, offset, NULL) < 0;
    if (bad_a && bad_b)
        return n == SECTOR ? NULL : "neither";
    if (bad_a || bad_b)
        return bad_a ? "only B" : "only A";
    return memcmp(x, y, n) ? "both" : NULL;
}

int main(int argc, char **argv)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options o = {.format = "qcow2"};
    struct img *a = NULL, *b = NULL;
    unsigned lines = 0;
    o.snapshot = argc == 4 ? argv[3] : NULL;
    if (argc < 3 || argc > 4 || img_open(&a, argv[1], &o, &err) < 0 ||
        img_open(&b, argv[2], &o, &err) < 0) {
        fprintf(stderr, "%s\n",
                err.message ? img_error_message(&err) : "usage: guestdiff A B [SNAPSHOT]");
        return 2;
    }
    uint64_t size = img_size(a) < MAX_DISK ? img_size(a) : MAX_DISK;
    for (uint64_t at = 0; at < size && lines < MAX_LINES; at += PIECE) {
        size_t n = (size_t)(size - at < PIECE ? size - at : PIECE);
        if (!differ(a, b, at, n))
            continue;
        for (size_t i = 0; i + SECTOR <= n; i += SECTOR) {
            const char *readable = differ(a, b, at + i, SECTOR);
            if (readable)
                tell(a, at + i, readable);
            lines += readable != NULL;
        }
    }
    if (img_size(a) != img_size(b))
        printf("%" PRIu64 " - size\n", img_size(a));
    img_close(a);
    img_close(b);
    return lines < MAX_LINES ? 0 : 2;
}
