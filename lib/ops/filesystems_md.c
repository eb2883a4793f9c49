/*
 * Linux's software RAID, from the superblocks of its members (versions 0.90 and 1, md_p.h): which
 * arrays there are, and what is in them. libblkid knows the members. Runs in the child.
 *
 * An array is listed when Linux would start it with what this disk has. Its content is looked for
 * in its first piece, on the member that has it: all of a mirror, a chunk of what is striped.
 */
#ifdef HAVE_BLKID

#include "lib/checked.h"
#include "lib/ops/filesystems_search.h"

#include <stdio.h>
#include <string.h>

enum { ARRAYS = 64, FIRST_NUMBER = 127, ROLES = 1024, ROLE_MAX = 0xfffd, SUPER = 256 };
enum { OFFSET_MAX = 1 << 30, LEVEL_RAID10 = 10 };

static const uint32_t MAGIC = 0xa92b4efc;

struct member {
    uint8_t array[16];
    int32_t level;
    uint32_t layout, disks, role;
    uint64_t chunk, used, data_at, data; /* bytes */
};

struct array {
    struct member first; /* as the first member that was found describes it */
    uint32_t record, found;
    uint64_t data; /* of all members that were found */
    bool placed;
    uint64_t start; /* of the member with the array's first bytes: where they are */
    uint32_t members[ROLES / 32];
};

static bool read_super(const struct search *s, const struct probe_record *r, uint64_t at,
                       struct member *m)
{
    uint8_t super[SUPER], role[2];
    if (!probe_read(s, super, sizeof super, r->start, at) || probe_little(super, 4) != MAGIC ||
        probe_little(super + 4, 4) != 1)
        return false;
    uint64_t number = probe_little(super + 160, 4);
    if (number >= ROLES || !probe_read(s, role, sizeof role, r->start, at + SUPER + 2 * number))
        return false;
    *m = (struct member){
        .level = (int32_t)probe_little(super + 72, 4),
        .layout = (uint32_t)probe_little(super + 76, 4),
        .disks = (uint32_t)probe_little(super + 92, 4),
        .role = (uint32_t)probe_little(role, 2),
        .chunk = probe_little(super + 88, 4) * 512,
        .used = min_u64(probe_little(super + 80, 8), INT64_MAX / 512) * 512,
        .data_at = min_u64(probe_little(super + 128, 8), OFFSET_MAX) * 512,
        .data = min_u64(probe_little(super + 136, 8), INT64_MAX / 512) * 512,
    };
    memcpy(m->array, super + 16, sizeof m->array);
    return m->disks && m->disks <= ROLES && m->role < m->disks && m->used <= r->size &&
           m->data_at <= r->size && m->data <= r->size - m->data_at;
}

/* Version 0.90, for which the last 64 KiB that begin at a multiple of that are set aside. */
static bool read_old_super(const struct search *s, const struct probe_record *r, struct member *m)
{
    enum { UNIT = 64 << 10, WORDS = 1024 };
    uint8_t super[4 * WORDS];
    uint64_t at = r->size >= 2 * UNIT ? align_down(r->size, UNIT) - UNIT : 0;
    if (!at || !probe_read(s, super, sizeof super, r->start, at) ||
        probe_little(super, 4) != MAGIC || probe_little(super + 4, 4) != 0 ||
        probe_little(super + 8, 4) < 90)
        return false;
    *m = (struct member){
        .level = (int32_t)probe_little(super + 28, 4),
        .layout = (uint32_t)probe_little(super + 256, 4),
        .disks = (uint32_t)probe_little(super + 40, 4),
        .role = (uint32_t)probe_little(super + 3968 + 12, 4),
        .chunk = probe_little(super + 260, 4),
        .used = probe_little(super + 32, 4) * 1024,
        .data = at,
    };
    static const unsigned uuid[] = {20, 52, 56, 60};
    for (unsigned i = 0; i < sizeof m->array; i++)
        m->array[i] = super[uuid[i / 4] + 3 - i % 4];
    return m->disks && m->disks <= ROLES && m->role < m->disks && m->used <= at;
}

/* At its beginning, 4 KiB into it, or near its end. */
static bool read_member(const struct search *s, const struct probe_record *r, struct member *m)
{
    uint64_t end = r->size >= 8192 ? align_down(r->size - 8192, 4096) : 0;
    return read_super(s, r, 4096, m) || read_super(s, r, 0, m) || read_super(s, r, end, m) ||
           read_old_super(s, r, m);
}

/* How many members it can be without, and its size; false: no level that we know. */
static bool measure(const struct array *a, uint32_t *spare, uint64_t *size)
{
    const struct member *m = &a->first;
    uint64_t copies = (uint64_t)(m->layout & 0xff) * (m->layout >> 8 & 0xff), by = 1;
    bool striped = m->level == 0 || m->level >= 4;
    *spare = 0;
    *size = 0;
    if (striped && (!m->chunk || m->chunk % 512))
        return false;
    switch (m->level) {
    case 0:
        *size = a->data;
        return *size <= INT64_MAX;
    case 1:
        *spare = m->disks - 1;
        break;
    case 4:
    case 5:
    case 6:
        *spare = m->level == 6 ? 2 : 1;
        by = m->disks - min_u64(*spare, m->disks);
        break;
    case LEVEL_RAID10:
        if (!copies || copies > m->disks)
            return false;
        *spare = (uint32_t)copies - 1;
        by = m->chunk;
        *size = m->used / m->chunk * m->disks / copies;
        return !__builtin_mul_overflow(*size, by, size) && *size <= INT64_MAX;
    default:
        return false;
    }
    return by && !__builtin_mul_overflow(m->used, by, size) && *size <= INT64_MAX;
}

static struct array *find(struct array *arrays, uint32_t *count, const struct member *m)
{
    for (uint32_t i = 0; i < *count; i++)
        if (!memcmp(arrays[i].first.array, m->array, sizeof m->array))
            return &arrays[i];
    if (*count == ARRAYS)
        return NULL;
    arrays[*count] = (struct array){.first = *m};
    return &arrays[(*count)++];
}

/* Which member has the array's first bytes: where the parity lies on the first one, the next. */
static uint32_t first_role(const struct member *m)
{
    enum { RIGHT_ASYMMETRIC = 1, RIGHT_SYMMETRIC = 3, PARITY_FIRST = 4 };
    return m->level == 5 && (m->layout == RIGHT_ASYMMETRIC || m->layout == RIGHT_SYMMETRIC ||
                             m->layout == PARITY_FIRST);
}

static void add_member(struct array *a, const struct member *m, const struct probe_record *r)
{
    uint32_t *word = &a->members[m->role / 32], bit = 1U << m->role % 32;
    if (*word & bit || m->level != a->first.level || m->disks != a->first.disks)
        return; /* a copy of another one */
    *word |= bit;
    a->found++;
    a->data += m->chunk ? m->data - m->data % m->chunk : m->data;
    if (!a->placed && (m->role == first_role(m) || m->level == 1)) {
        a->placed = true;
        a->start = r->start + m->data_at;
    }
}

static void name_array(struct probe_record *r, const struct array *a, uint32_t number)
{
    const uint8_t *u = a->first.array;
    snprintf(r->name, sizeof r->name, "md%u", number);
    snprintf(r->part_uuid, sizeof r->part_uuid,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
             u[15]);
    r->number = (uint32_t)a->first.level;
}

/* What level 6 keeps where its first bytes would be depends on its layout: nobody looks. */
static bool list_array(struct search *s, struct array *a, uint32_t parent, uint32_t number)
{
    uint32_t spare;
    uint64_t size;
    if (!measure(a, &spare, &size) || a->found + spare < a->first.disks)
        return false;
    uint64_t start = a->placed ? a->start : s->report->records[parent].start;
    struct probe_record *r = probe_add(s, IMG_VOLUME_ARRAY, parent, start, size);
    if (!r)
        return false;
    a->record = s->report->count - 1;
    name_array(r, a, number);
    uint64_t inside = a->first.level == 1 ? size : min_u64(size, a->first.chunk);
    if (a->placed && a->first.level != 6)
        probe_inside(s, r, min_u64(inside, s->size - start));
    return true;
}

void probe_md(struct search *s)
{
    struct array arrays[ARRAYS];
    struct member m;
    uint32_t parents[ARRAYS], count = 0, known = s->report->count;
    uint8_t belongs[PROBE_RECORDS_MAX] = {0}; /* to which array, plus 1 */
    for (uint32_t i = 0; i < known; i++) {
        const struct probe_record *r = &s->report->records[i];
        if (strcmp(r->type, "linux_raid_member") != 0 || !read_member(s, r, &m))
            continue;
        uint32_t before = count;
        struct array *a = find(arrays, &count, &m);
        if (!a)
            continue;
        if (count > before)
            parents[before] = i;
        add_member(a, &m, r);
        belongs[i] = (uint8_t)(a - arrays + 1);
    }
    uint32_t number = FIRST_NUMBER;
    for (uint32_t i = 0; i < count; i++)
        number -= list_array(s, &arrays[i], parents[i], number);
    for (uint32_t i = 0; i < known; i++)
        if (belongs[i])
            s->report->records[i].group = arrays[belongs[i] - 1].record;
}

#endif
