#include "lib/sector_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SECTOR = SECTOR_LOG_BYTES,
    CHUNK_SECTORS = 64, /* of memory */
};

int sector_log_init(struct sector_log *l, size_t memory)
{
    size_t chunks = memory / SECTOR / CHUNK_SECTORS;
    *l = (struct sector_log){.chunk_max = chunks, .spill = -1};
    l->chunks = calloc(chunks + !chunks, sizeof *l->chunks);
    return l->chunks ? 0 : -ENOMEM;
}

void sector_log_free(struct sector_log *l)
{
    for (size_t i = 0; i < l->chunk_count; i++)
        free(l->chunks[i]);
    free(l->chunks);
    free(l->versions);
    free(l->table);
    if (l->spill >= 0)
        close(l->spill);
}

/* ---- the bytes of a sector ----------------------------------------------------------------- */

static int open_spill(struct sector_log *l)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    folder = folder && *folder ? folder : "/tmp";
    l->spill = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (l->spill >= 0)
        return 0;
    if (strlen(folder) > sizeof path - 32) /* where there is no O_TMPFILE: */
        return -ENAMETOOLONG;
    strcat(strcpy(path, folder), "/imgtool.XXXXXX");
    l->spill = mkostemp(path, O_CLOEXEC);
    if (l->spill < 0)
        return -errno;
    unlink(path);
    return 0;
}

/* Where SLOT lies in memory, or NULL. */
static uint8_t *in_memory(const struct sector_log *l, uint32_t slot)
{
    size_t chunk = (slot - 1) / CHUNK_SECTORS;
    return chunk < l->chunk_max ? l->chunks[chunk] + (size_t)((slot - 1) % CHUNK_SECTORS) * SECTOR
                                : NULL;
}

int sector_log_load(const struct sector_log *l, uint32_t slot, uint8_t *buf)
{
    const uint8_t *p = in_memory(l, slot);
    if (p) {
        memcpy(buf, p, SECTOR);
        return 0;
    }
    ssize_t n = pread(l->spill, buf, SECTOR, (off_t)slot * SECTOR);
    return n == SECTOR ? 0 : n < 0 ? -errno : -EIO;
}

static int store(struct sector_log *l, uint32_t slot, const uint8_t *buf)
{
    size_t chunk = (slot - 1) / CHUNK_SECTORS;
    if (chunk < l->chunk_max) {
        if (chunk == l->chunk_count) {
            l->chunks[chunk] = malloc((size_t)CHUNK_SECTORS * SECTOR);
            if (!l->chunks[chunk])
                return -ENOMEM;
            l->chunk_count++;
        }
        memcpy(in_memory(l, slot), buf, SECTOR);
        return 0;
    }
    int ret = l->spill < 0 ? open_spill(l) : 0;
    if (ret < 0)
        return ret;
    ssize_t n = pwrite(l->spill, buf, SECTOR, (off_t)slot * SECTOR);
    return n == SECTOR ? 0 : n < 0 ? -errno : -ENOSPC;
}

/* ---- which sectors ------------------------------------------------------------------------- */

/* Where the number of SECTOR's last version is, or belongs. */
static uint32_t *entry_of(const struct sector_log *l, uint64_t sector)
{
    size_t i = (size_t)(sector * 0x9e3779b97f4a7c15ull >> 20);
    for (;; i++) {
        uint32_t *entry = &l->table[i & (l->capacity - 1)];
        if (!*entry || l->versions[*entry - 1].sector == sector)
            return entry;
    }
}

uint32_t sector_log_find(const struct sector_log *l, uint64_t sector)
{
    return l->count ? *entry_of(l, sector) : 0;
}

static int grow(struct sector_log *l)
{
    size_t capacity = l->capacity ? l->capacity * 2 : 64;
    struct sector_version *longer = realloc(l->versions, capacity * 2 / 3 * sizeof *longer);
    if (longer)
        l->versions = longer;
    uint32_t *wider = longer ? calloc(capacity, sizeof *wider) : NULL;
    if (!wider)
        return -ENOMEM;
    free(l->table);
    l->table = wider;
    l->capacity = capacity;
    for (size_t i = 0; i < l->count; i++) /* the last one of a sector stays */
        *entry_of(l, l->versions[i].sector) = (uint32_t)i + 1;
    return 0;
}

static unsigned count_versions(const struct sector_log *l, uint32_t last)
{
    unsigned n = 0;
    for (; last; last = l->versions[last - 1].before)
        n++;
    return n;
}

int sector_log_put(struct sector_log *l, uint64_t sector, uint32_t stage, const uint8_t *buf)
{
    int ret = l->count >= l->capacity * 2 / 3 ? grow(l) : 0;
    if (ret < 0)
        return ret;
    uint32_t *entry = entry_of(l, sector), last = *entry;
    bool again = last && l->versions[last - 1].stage == stage;
    if (!again && l->count == UINT32_MAX) /* 2 TiB of changes */
        return -EFBIG;
    uint32_t slot = again ? last : (uint32_t)l->count + 1;
    ret = store(l, slot, buf);
    if (ret < 0)
        return ret;
    if (again)
        return 0;
    l->versions[l->count++] = (struct sector_version){sector, stage, last};
    *entry = slot;
    unsigned n = count_versions(l, slot);
    l->most = n > l->most ? n : l->most;
    return 0;
}
