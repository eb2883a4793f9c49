/*
 * LVM's own description of its volumes, which libblkid does not read: a text in an area that the
 * label of each physical volume names (LVM2's format_text/layout.h). Runs in the child, like
 * libblkid.
 *
 * The text is a tree of sections and assignments; two walks through it collect the physical
 * volumes and then the logical ones. A logical volume's content is looked for in its first segment,
 * where that is on this disk: in all of it, or in its first stripe.
 */
#ifdef HAVE_BLKID

#include "lib/checked.h"
#include "lib/ops/filesystems_search.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1 << 20, DEPTH = 6, WORD = 128, PVS = 64, UUID = 38 };

struct pv {
    char alias[WORD];
    bool here;       /* on this disk: */
    uint32_t record; /* as that */
    uint64_t start, pe_start;
    uint64_t extents;
};

struct lvm {
    struct search *search;
    uint32_t group; /* a record */
    const char *text, *end;
    char path[DEPTH][WORD]; /* the sections that we are in */
    unsigned depth;
    char id[WORD];   /* of the group */
    uint64_t extent; /* bytes */
    struct pv pvs[PVS];
    unsigned pv_count;
    struct { /* the logical volume that we are in */
        char id[WORD];
        bool visible;
        uint64_t extents;
        /* of the first segment; a stripe has bytes */
        uint64_t first_extents, first_at, stripes, stripe;
        char first_pv[WORD];
        unsigned segments;
    } lv;
};

/* ---- where the text is -------------------------------------------------------------------------
 */

/* The offset of the first area of metadata; 0: none. */
static uint64_t find_area(const struct search *s, uint64_t base)
{
    uint8_t label[4 * 512];
    if (!probe_read(s, label, sizeof label, base, 0))
        return 0;
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *sector = label + 512 * i;
        uint64_t at = probe_little(sector + 20, 4);
        if (memcmp(sector, "LABELONE", 8) != 0 || memcmp(sector + 24, "LVM2 001", 8) != 0 ||
            at > 512 - 40)
            continue;
        const uint8_t *p = sector + at + 40, *end = sector + 512;
        while (p + 16 <= end && probe_little(p, 8)) /* areas of data */
            p += 16;
        return p + 32 <= end ? probe_little(p + 16, 8) : 0;
    }
    return 0;
}

/* The text, with a NUL behind it; it may go around the end of its area. */
static char *read_text(const struct search *s, uint64_t base, size_t *length)
{
    uint8_t head[512];
    uint64_t area = find_area(s, base);
    if (!area || !probe_read(s, head, sizeof head, base, area) ||
        memcmp(head + 4, " LVM2 x[5A%r0N*>", 16) != 0)
        return NULL;
    uint64_t room = probe_little(head + 32, 8), at = probe_little(head + 40, 8),
             size = probe_little(head + 48, 8);
    if (!size || size > TEXT_MAX || at < sizeof head || at >= room || size > room - sizeof head)
        return NULL;
    char *text = calloc(1, size + 1);
    uint64_t first = min_u64(size, room - at);
    if (!text || !probe_read(s, text, first, base, area + at) ||
        (first < size && !probe_read(s, text + first, size - first, base, area + sizeof head))) {
        free(text);
        return NULL;
    }
    *length = size;
    return text;
}

/* ---- the text ----------------------------------------------------------------------------------
 */

static const char *skip_space(const struct lvm *l, const char *p)
{
    while (p < l->end && (isspace((unsigned char)*p) || *p == '#' || *p == ',')) {
        if (*p == '#')
            while (p < l->end && *p != '\n')
                p++;
        else
            p++;
    }
    return p;
}

/* A name, a number or a string in quotes, cut to what WORD has room for. */
static const char *take_word(const struct lvm *l, const char *p, char out[WORD])
{
    size_t n = 0;
    bool quoted = p < l->end && *p == '"';
    p += quoted;
    while (p < l->end &&
           (quoted ? *p != '"' : !isspace((unsigned char)*p) && !strchr("={}[],#", *p))) {
        if (n + 1 < WORD)
            out[n++] = *p;
        p++;
    }
    out[n] = '\0';
    return p + (quoted && p < l->end);
}

struct value {
    char first[WORD]; /* or the only one */
    uint64_t number;  /* of the second, in a list; else of the first */
    bool visible;     /* "VISIBLE" is in it */
};

static const char *take_value(const struct lvm *l, const char *p, struct value *v)
{
    char word[WORD];
    *v = (struct value){.number = 0};
    p = skip_space(l, p);
    if (p >= l->end || *p != '[') {
        p = take_word(l, p, v->first);
        v->number = strtoull(v->first, NULL, 10);
        return p;
    }
    p++;
    for (unsigned i = 0;; i++) {
        p = skip_space(l, p);
        if (p >= l->end || *p == ']' || strchr("={}[", *p))
            return p + (p < l->end && *p == ']');
        p = take_word(l, p, word);
        if (i == 0)
            memcpy(v->first, word, sizeof word);
        if (i == 1)
            v->number = strtoull(word, NULL, 10);
        v->visible |= !strcmp(word, "VISIBLE");
    }
}

/* Calls ASSIGN for each assignment, ENTER and LEAVE for each section. Ends at what is no such text.
 */
static void walk(struct lvm *l, void (*enter)(struct lvm *l), void (*leave)(struct lvm *l),
                 void (*assign)(struct lvm *l, const char *name, const struct value *v))
{
    const char *p = l->text;
    l->depth = 0;
    while ((p = skip_space(l, p)) < l->end && *p) {
        char name[WORD];
        struct value v;
        if (*p == '}') {
            if (!l->depth)
                return;
            leave(l);
            l->depth--;
            p++;
            continue;
        }
        p = skip_space(l, take_word(l, p, name));
        if (p < l->end && *p == '{' && l->depth < DEPTH) {
            memcpy(l->path[l->depth++], name, sizeof name);
            enter(l);
            p++;
        } else if (p < l->end && *p == '=') {
            p = take_value(l, p + 1, &v);
            assign(l, name, &v);
        } else {
            return;
        }
    }
}

static bool in(const struct lvm *l, unsigned depth, const char *second)
{
    return l->depth == depth && (depth < 2 || !strcmp(l->path[1], second));
}

/* ---- the first walk: the group and its physical volumes ----------------------------------------
 */

static void nothing(struct lvm *l)
{
    (void)l;
}

static void enter_pv(struct lvm *l)
{
    if (in(l, 3, "physical_volumes") && l->pv_count < PVS) {
        struct pv *pv = &l->pvs[l->pv_count++];
        memset(pv, 0, sizeof *pv);
        memcpy(pv->alias, l->path[2], WORD);
    }
}

/* The physical volume with this ID, among what has been found on the disk. */
static void locate(struct lvm *l, struct pv *pv, const char *id)
{
    const struct probe_report *report = l->search->report;
    for (uint32_t i = 0; i < report->count; i++) {
        const struct probe_record *r = &report->records[i];
        if (r->content == IMG_CONTENT_LVM && !strcmp(r->uuid, id)) {
            pv->here = true;
            pv->record = i;
            pv->start = r->start;
        }
    }
}

static void assign_first(struct lvm *l, const char *name, const struct value *v)
{
    struct pv *pv = l->pv_count ? &l->pvs[l->pv_count - 1] : NULL;
    if (in(l, 1, "") && !strcmp(name, "id"))
        memcpy(l->id, v->first, WORD);
    else if (in(l, 1, "") && !strcmp(name, "extent_size") && v->number < 1 << 30)
        l->extent = v->number * 512;
    else if (!pv || !in(l, 3, "physical_volumes"))
        return;
    else if (!strcmp(name, "id"))
        locate(l, pv, v->first);
    else if (!strcmp(name, "pe_start"))
        pv->pe_start = min_u64(v->number, UINT32_MAX) * 512;
    else if (!strcmp(name, "pe_count"))
        pv->extents = min_u64(v->number, UINT32_MAX);
}

/* ---- the second: logical volumes ---------------------------------------------------------------
 */

static void enter_lv(struct lvm *l)
{
    if (in(l, 3, "logical_volumes"))
        memset(&l->lv, 0, sizeof l->lv);
    else if (in(l, 4, "logical_volumes"))
        l->lv.segments++;
}

static void assign_lv(struct lvm *l, const char *name, const struct value *v)
{
    bool first = in(l, 4, "logical_volumes") && l->lv.segments == 1;
    if (in(l, 3, "logical_volumes") && !strcmp(name, "id"))
        memcpy(l->lv.id, v->first, WORD);
    else if (in(l, 3, "logical_volumes") && !strcmp(name, "status"))
        l->lv.visible = v->visible;
    else if (in(l, 4, "logical_volumes") && !strcmp(name, "extent_count")) {
        l->lv.extents += min_u64(v->number, UINT32_MAX);
        l->lv.first_extents = first ? min_u64(v->number, UINT32_MAX) : l->lv.first_extents;
    } else if (first && !strcmp(name, "stripe_count"))
        l->lv.stripes = v->number;
    else if (first && !strcmp(name, "stripe_size"))
        l->lv.stripe = min_u64(v->number, UINT32_MAX) * 512;
    else if (first && !strcmp(name, "stripes")) {
        memcpy(l->lv.first_pv, v->first, WORD);
        l->lv.first_at = min_u64(v->number, UINT32_MAX);
    }
}

/* Where the first segment lies on the disk. */
static bool place_lv(const struct lvm *l, uint64_t *start)
{
    uint64_t inside;
    for (unsigned i = 0; i < l->pv_count; i++) {
        const struct pv *pv = &l->pvs[i];
        if (pv->here && l->lv.stripes && !strcmp(pv->alias, l->lv.first_pv))
            return !__builtin_mul_overflow(l->lv.first_at, l->extent, &inside) &&
                   !__builtin_add_overflow(pv->start + pv->pe_start, inside, start) &&
                   *start < l->search->size;
    }
    return false;
}

static void leave_lv(struct lvm *l)
{
    if (!in(l, 3, "logical_volumes") || !l->lv.visible)
        return;
    uint64_t start = 0, size, inside;
    bool placed = place_lv(l, &start);
    if (__builtin_mul_overflow(l->lv.extents, l->extent, &size) || size > INT64_MAX ||
        __builtin_mul_overflow(l->lv.first_extents, l->extent, &inside))
        return;
    struct probe_record *r = probe_add(l->search, IMG_VOLUME_LOGICAL, l->group, placed ? start : 0,
                                       size);
    if (!r)
        return;
    snprintf(r->name, sizeof r->name, "%s/%s", l->path[0], l->path[2]);
    PUT(r, part_uuid, l->lv.id);
    if (l->lv.stripes > 1)
        inside = min_u64(inside, l->lv.stripe);
    if (placed)
        probe_inside(l->search, r, min_u64(inside, l->search->size - start));
}

/* What of its physical volumes is on this disk: that they are, and how much LVM uses of each. */
static void mark_members(const struct lvm *l)
{
    for (unsigned i = 0; i < l->pv_count; i++) {
        struct probe_record *r = &l->search->report->records[l->pvs[i].record];
        uint64_t size;
        if (!l->pvs[i].here)
            continue;
        r->group = l->group;
        if (!__builtin_mul_overflow(l->pvs[i].extents, l->extent, &size) && size <= INT64_MAX)
            r->content_size = size;
    }
}

static bool is_known(const struct lvm *l)
{
    const struct probe_report *report = l->search->report;
    for (uint32_t i = 0; i < report->count; i++)
        if (report->records[i].kind == IMG_VOLUME_GROUP && !strcmp(report->records[i].uuid, l->id))
            return true;
    return false;
}

void probe_lvm(struct search *s, uint32_t pv)
{
    size_t length = 0;
    struct lvm *l = calloc(1, sizeof *l);
    char *text = l ? read_text(s, s->report->records[pv].start, &length) : NULL;
    if (text) {
        uint64_t extents = 0, size;
        *l = (struct lvm){.search = s, .text = text, .end = text + length};
        walk(l, enter_pv, nothing, assign_first);
        for (unsigned i = 0; i < l->pv_count; i++)
            extents += l->pvs[i].extents;
        bool is_sane = l->id[0] && l->path[0][0] && l->extent && strlen(l->id) == UUID &&
                       !__builtin_mul_overflow(extents, l->extent, &size) && size <= INT64_MAX;
        struct probe_record *r = NULL;
        if (is_sane && !is_known(l))
            r = probe_add(s, IMG_VOLUME_GROUP, pv, s->report->records[pv].start, size);
        if (r) {
            l->group = s->report->count - 1;
            mark_members(l);
            snprintf(r->name, sizeof r->name, "%s", l->path[0]);
            PUT(r, uuid, l->id);
            walk(l, enter_lv, leave_lv, assign_lv);
        }
    }
    free(text);
    free(l);
}

#endif
