#include "formats/qcow2/check_refs.h"
#include "lib/checked.h"

#include <stdlib.h>
#include <string.h>

struct refs_chunk {
    uint8_t width; /* bytes a count: 1, 2, 8 */
    uint8_t counts[];
};

/* The two largest values of each width stand for REFS_OTHER and REFS_UNKNOWN. */
static uint64_t largest(unsigned width)
{
    return (width == 1 ? UINT8_MAX : width == 2 ? UINT16_MAX : UINT64_MAX) - 2;
}

static uint64_t load(const struct refs_chunk *c, size_t i)
{
    uint16_t narrow;
    uint64_t wide;
    if (c->width == 1)
        return c->counts[i];
    if (c->width == 2) {
        memcpy(&narrow, c->counts + i * 2, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, c->counts + i * 8, sizeof wide);
    return wide;
}

static void store(struct refs_chunk *c, size_t i, uint64_t value)
{
    uint16_t narrow = (uint16_t)value;
    if (c->width == 1)
        c->counts[i] = (uint8_t)value;
    else if (c->width == 2)
        memcpy(c->counts + i * 2, &narrow, sizeof narrow);
    else
        memcpy(c->counts + i * 8, &value, sizeof value);
}

int refs_init(struct refs *r, uint64_t clusters, uint64_t max, struct img_error *err)
{
    *r = (struct refs){.clusters = clusters, .max = min_u64(max, REFS_MAX)};
    r->chunks = calloc(clusters / REFS_CHUNK + 1, sizeof(struct refs_chunk *));
    return r->chunks ? 0 : img_fail_nomem(err);
}

void refs_free(struct refs *r)
{
    for (uint64_t i = 0; r->chunks && i <= r->clusters / REFS_CHUNK; i++)
        free(r->chunks[i]);
    free(r->chunks);
    r->chunks = NULL;
}

static struct refs_chunk *new_chunk(unsigned width)
{
    struct refs_chunk *c = calloc(1, sizeof *c + (size_t)REFS_CHUNK * width);
    if (c)
        c->width = (uint8_t)width;
    return c;
}

/* Puts a wider copy in the place of *CHUNK. */
static bool widen(struct refs_chunk **chunk)
{
    struct refs_chunk *old = *chunk, *wide = new_chunk(old->width == 1 ? 2 : 8);
    if (!wide)
        return false;
    for (size_t i = 0; i < REFS_CHUNK; i++)
        store(wide, i, load(old, i));
    free(old);
    *chunk = wide;
    return true;
}

/* Adds to N counts of one byte, unless one of them would not fit (then to none). */
static bool add_bytes(uint8_t *counts, size_t n, uint64_t times, uint64_t max)
{
    uint64_t room = min_u64(largest(1), max);
    uint8_t most = 0;
    if (times > room)
        return false;
    for (size_t i = 0; i < n; i++)
        most = counts[i] > most ? counts[i] : most;
    if (most > room - times)
        return false;
    for (size_t i = 0; i < n; i++)
        counts[i] = (uint8_t)(counts[i] + times);
    return true;
}

static bool add_one(struct refs *r, struct refs_chunk **chunk, uint64_t cluster, uint64_t times)
{
    size_t i = cluster % REFS_CHUNK;
    uint64_t sum, lost = 0;
    if (add_overflows(load(*chunk, i), times, &sum) || sum > r->max) {
        lost = times - (r->max - load(*chunk, i));
        sum = r->max;
    }
    while (sum > largest((*chunk)->width))
        if (!widen(chunk))
            return false;
    store(*chunk, i, sum);
    if (lost && r->overflow)
        r->overflow(r->opaque, cluster, lost);
    return true;
}

int refs_add(struct refs *r, uint64_t first, uint64_t count, uint64_t times, struct img_error *err)
{
    while (count) {
        struct refs_chunk **chunk = &r->chunks[first / REFS_CHUNK];
        size_t at = first % REFS_CHUNK;
        size_t n = (size_t)min_u64(count, REFS_CHUNK - at);
        if (!*chunk)
            *chunk = new_chunk(1);
        if (!*chunk)
            return img_fail_nomem(err);
        if ((*chunk)->width != 1 || !add_bytes((*chunk)->counts + at, n, times, r->max)) {
            for (size_t i = 0; i < n; i++)
                if (!add_one(r, chunk, first + i, times))
                    return img_fail_nomem(err);
        }
        first += n;
        count -= n;
    }
    return 0;
}

int refs_grow(struct refs *r, uint64_t clusters, struct img_error *err)
{
    size_t old = (size_t)(r->clusters / REFS_CHUNK) + 1, new = (size_t)(clusters / REFS_CHUNK) + 1;
    struct refs_chunk **wider = realloc(r->chunks, new * sizeof(struct refs_chunk *));
    if (!wider)
        return img_fail_nomem(err);
    memset(wider + old, 0, (new - old) * sizeof(struct refs_chunk *));
    r->chunks = wider;
    r->clusters = clusters;
    return 0;
}

void refs_drop(struct refs *r, uint64_t cluster, uint64_t times)
{
    struct refs_chunk *c = cluster < r->clusters ? r->chunks[cluster / REFS_CHUNK] : NULL;
    uint64_t count = refs_get(r, cluster);
    if (c && count <= REFS_MAX)
        store(c, cluster % REFS_CHUNK, count > times ? count - times : 0);
}

uint64_t refs_get(const struct refs *r, uint64_t cluster)
{
    const struct refs_chunk *c = cluster < r->clusters ? r->chunks[cluster / REFS_CHUNK] : NULL;
    if (!c)
        return 0;
    uint64_t value = load(c, cluster % REFS_CHUNK), most = largest(c->width);
    return value > most ? REFS_MAX + (value - most) : value;
}

void refs_set(struct refs *r, uint64_t cluster, uint64_t value)
{
    struct refs_chunk *c = r->chunks[cluster / REFS_CHUNK];
    store(c, cluster % REFS_CHUNK,
          value > REFS_MAX ? largest(c->width) + (value - REFS_MAX) : value);
}

bool refs_empty(const struct refs *r, uint64_t cluster)
{
    return !r->chunks[cluster / REFS_CHUNK];
}

const uint8_t *refs_bytes(const struct refs *r, uint64_t cluster)
{
    const struct refs_chunk *c = r->chunks[cluster / REFS_CHUNK];
    return c && c->width == 1 ? c->counts + cluster % REFS_CHUNK : NULL;
}
