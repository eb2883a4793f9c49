/* Fields that end with a NUL each: names may have anything else in them. */
#include "records.h"
#include "runtime.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUFFIX ".mount"

enum { RECORD_MAX = 4 * PATH_MAX, FIELDS = 9, NAME_SIZE = 32 };

/* When a process began, which tells it from a later one of the same number; 0: there is none. */
static uint64_t process_start(pid_t pid)
{
    char path[64], text[1024];
    uint64_t started = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    size_t got = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[got] = '\0';
    char *p = strrchr(text, ')'), state = 0;
    if (p)
        sscanf(
            p + 1,
            " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
            &state, &started);
    return state == 'Z' || state == 'X' ? 0 : started;
}

static void name_of(pid_t pid, char name[NAME_SIZE])
{
    snprintf(name, NAME_SIZE, "%d" SUFFIX, (int)pid);
}

int record_write(const struct record *r)
{
    char name[NAME_SIZE], *text = NULL;
    size_t length = 0;
    FILE *f = open_memstream(&text, &length);
    if (!f)
        return -ENOMEM;
    fprintf(f, "1%c%d%c%" PRIu64 "%c%" PRIu64 "%c%" PRIu64 "%c%d%c%s%c%s%c%s", 0, (int)r->pid, 0,
            process_start(r->pid), 0, r->device, 0, r->inode, 0, (int)r->state * 2 + r->writable, 0,
            r->image, 0, r->dir, 0, r->message ? r->message : "");
    fputc('\0', f);
    fclose(f);
    name_of(r->pid, name);
    int ret = runtime_write(name, text, length);
    free(text);
    return ret;
}

void record_end(void)
{
    char name[NAME_SIZE];
    name_of(getpid(), name);
    runtime_remove(NULL, geteuid(), name);
}

void record_remove(const struct record *r)
{
    char name[NAME_SIZE];
    name_of(r->pid, name);
    runtime_remove(r->folder, r->owner, name);
}

void record_clear(struct record *r)
{
    free(r->folder);
    free(r->image);
    free(r->dir);
    free(r->message);
    *r = (struct record){0};
}

static bool parse(struct record *r, char *text, size_t length)
{
    const char *field[FIELDS];
    size_t count = 0;
    for (char *p = text; count < FIELDS && p < text + length; p += strlen(p) + 1)
        field[count++] = p;
    if (count < FIELDS || strcmp(field[0], "1") != 0)
        return false;
    int state = atoi(field[5]);
    *r = (struct record){
        .pid = atoi(field[1]),
        .started = strtoull(field[2], NULL, 10),
        .device = strtoull(field[3], NULL, 10),
        .inode = strtoull(field[4], NULL, 10),
        .state = (enum record_state)(state / 2),
        .writable = state % 2,
        .image = strdup(field[6]),
        .dir = strdup(field[7]),
        .message = strdup(field[8]),
    };
    r->alive = r->started && process_start(r->pid) == r->started;
    return r->image && r->dir && r->message;
}

static void add(void *opaque, const char *folder, uid_t owner, const char *name, int fd)
{
    struct records *all = opaque;
    char text[RECORD_MAX + 1];
    size_t length = strlen(name);
    if (length < sizeof SUFFIX || strcmp(name + length - strlen(SUFFIX), SUFFIX) != 0)
        return;
    ssize_t got = read(fd, text, RECORD_MAX);
    struct record *items = realloc(all->items, (all->count + 1) * sizeof *items);
    if (items)
        all->items = items;
    if (got <= 0 || !items)
        return;
    text[got] = '\0';
    struct record *r = &items[all->count];
    if (!parse(r, text, (size_t)got))
        return;
    r->owner = owner;
    r->folder = strdup(folder);
    all->count++;
}

void records_read(struct records *all)
{
    *all = (struct records){0};
    runtime_each(add, all);
}

void records_free(struct records *all)
{
    for (size_t i = 0; i < all->count; i++)
        record_clear(&all->items[i]);
    free(all->items);
    *all = (struct records){0};
}

bool record_find(struct record *r, pid_t pid)
{
    struct records all;
    bool found = false;
    records_read(&all);
    for (size_t i = 0; i < all.count && !found; i++)
        if (all.items[i].pid == pid) {
            *r = all.items[i];
            all.items[i] = (struct record){0};
            found = true;
        }
    records_free(&all);
    return found;
}
