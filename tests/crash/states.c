#include "states.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* How much of each call that is not durable has landed. */
struct choice {
    const size_t *pending; /* indices into the log */
    size_t count;
    struct part {
        enum { NONE, WHOLE, FIRST, LAST, SOME } what;
        size_t sectors; /* FIRST, LAST: how many */
        uint64_t seed;  /* SOME: which */
    } * parts;
};

struct walk {
    const struct log *log;
    const struct states_options *options;
    state_fn *fn;
    void *opaque;
    struct states_count *count;
    struct disk durable[MAX_FILES], work[MAX_FILES];
    /* durably: the second file stands in the place of the first; or it has its own name */
    bool named, appeared;
    size_t *pending, pending_count;
    struct part *parts;
    unsigned lo, done; /* steps: durable, reported */
    unsigned steps;    /* of the whole log */
    uint64_t seed;
    uint64_t *seen; /* hashes of states that were handed out: an open table, 0 is free */
    size_t seen_count, seen_room;
    /* the first walk only measures */
    bool measuring;
    size_t mandatory, weight;
    size_t budget; /* of drawn states, all points together */
};

/* ---- numbers ------------------------------------------------------------------------------ */

uint64_t draw(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t draw_below(uint64_t *seed, uint64_t n)
{
    return draw(seed) % n;
}

/* Four lanes, so that the multiplications do not wait for each other. */
uint64_t hash_bytes(uint64_t hash, const void *data, size_t len)
{
    const uint64_t prime = 0x9fb21c651e98df25u;
    const uint8_t *p = data;
    uint64_t lane[4] = {hash, hash + 1, hash + 2, hash + len}, word;
    for (; len >= 32; len -= 32, p += 32)
        for (int i = 0; i < 4; i++) {
            memcpy(&word, p + 8 * i, 8);
            lane[i] = (lane[i] ^ word) * prime;
            lane[i] ^= lane[i] >> 29;
        }
    for (; len; len--)
        lane[0] = (lane[0] ^ *p++) * prime;
    for (int i = 0; i < 4; i++)
        hash = draw(&lane[i]) ^ hash * prime;
    return hash;
}

/* ---- handing out -------------------------------------------------------------------------- */

/* Enters HASH; false when it is there already. */
static bool enter(struct walk *w, uint64_t hash)
{
    if (w->seen_count * 2 >= w->seen_room) {
        uint64_t *old = w->seen;
        size_t old_room = w->seen_room;
        w->seen_room = old_room ? old_room * 2 : 1024;
        w->seen = must(calloc(w->seen_room, sizeof *w->seen));
        w->seen_count = 0;
        for (size_t i = 0; i < old_room; i++)
            if (old[i])
                enter(w, old[i]);
        free(old);
    }
    hash += !hash;
    size_t at = hash % w->seen_room;
    while (w->seen[at] && w->seen[at] != hash)
        at = (at + 1) % w->seen_room;
    if (w->seen[at])
        return false;
    w->seen[at] = hash;
    w->seen_count++;
    return true;
}

static void apply_part(struct disk *d, const struct op *o, const struct part *p)
{
    size_t sectors = op_sectors(o);
    uint64_t seed = p->seed;
    if (p->what == WHOLE)
        disk_apply(d, o);
    else if (p->what == FIRST)
        disk_apply_sectors(d, o, 0, p->sectors);
    else if (p->what == LAST)
        disk_apply_sectors(d, o, sectors - p->sectors, p->sectors);
    else if (p->what == SOME)
        for (size_t i = 0; i < sectors; i++)
            if (draw(&seed) & 1)
                disk_apply_sectors(d, o, i, 1);
}

static uint64_t put_together(struct walk *w, bool *appeared)
{
    bool named = w->named;
    *appeared = w->appeared;
    for (unsigned i = 0; i < w->log->files; i++)
        disk_set(&w->work[i], w->durable[i].data, w->durable[i].size);
    for (size_t i = 0; i < w->pending_count; i++) {
        const struct op *o = &w->log->ops[w->pending[i]];
        if (o->kind == OP_NAME)
            named |= w->parts[i].what == WHOLE;
        else if (o->kind == OP_APPEAR)
            *appeared |= w->parts[i].what == WHOLE;
        else
            apply_part(&w->work[o->file], o, &w->parts[i]);
    }
    if (named)
        disk_set(&w->work[0], w->work[1].data, w->work[1].size);
    uint64_t hash = *appeared;
    for (unsigned i = 0; i < w->log->files; i++)
        hash = hash_bytes(hash + w->work[i].size, w->work[i].data, w->work[i].size);
    return hash;
}

/* The state that w->parts describe. */
static bool hand_out(struct walk *w, bool running)
{
    struct choice c = {w->pending, w->pending_count, w->parts};
    struct state s = {.disks = w->work,
                      .lo = w->lo,
                      .hi = running && w->done < w->steps ? w->done + 1 : w->done,
                      .running = running && w->done < w->steps,
                      .choice = &c};
    s.hash = put_together(w, &s.appeared);
    w->count->generated++;
    uint64_t what = s.lo * 0x10001u + s.hi * 2u + s.running;
    if (!enter(w, hash_bytes(s.hash, &what, sizeof what)))
        return true;
    w->count->distinct++;
    return w->fn(w->opaque, &s);
}

/* ---- the states of a point ---------------------------------------------------------------- */

static void take_first(struct walk *w, size_t count)
{
    for (size_t i = 0; i < w->pending_count; i++)
        w->parts[i] = (struct part){.what = i < count ? WHOLE : NONE};
}

static bool each_prefix(struct walk *w, bool running)
{
    for (size_t n = 0; n <= w->pending_count; n++) {
        take_first(w, n);
        if (!hand_out(w, running))
            return false;
    }
    return true;
}

static bool each_subset(struct walk *w, bool running)
{
    for (size_t set = 0; set < (size_t)1 << w->pending_count; set++) {
        for (size_t i = 0; i < w->pending_count; i++)
            w->parts[i] = (struct part){.what = set >> i & 1 ? WHOLE : NONE};
        if (!hand_out(w, running))
            return false;
    }
    return true;
}

static size_t sectors_of(const struct walk *w, size_t i)
{
    return op_sectors(&w->log->ops[w->pending[i]]);
}

static struct part torn(struct walk *w, size_t i)
{
    size_t n = sectors_of(w, i);
    if (n < 2)
        return (struct part){.what = draw(&w->seed) & 1 ? WHOLE : NONE};
    struct part p = {.sectors = 1 + draw_below(&w->seed, n - 1), .seed = draw(&w->seed)};
    uint64_t kind = draw_below(&w->seed, 3);
    p.what = kind == 0 ? FIRST : kind == 1 ? LAST : SOME;
    return p;
}

/* All calls so far, the last of them torn at each of its sectors. */
static bool each_tear(struct walk *w, bool running)
{
    for (size_t i = 0; i < w->pending_count; i++)
        for (size_t n = 1; n < sectors_of(w, i); n++) {
            take_first(w, i);
            w->parts[i] = (struct part){.what = FIRST, .sectors = n};
            if (!hand_out(w, running))
                return false;
        }
    return true;
}

static bool each_but_one(struct walk *w, bool running)
{
    for (size_t i = 0; i < w->pending_count; i++) {
        take_first(w, w->pending_count);
        w->parts[i].what = NONE;
        if (!hand_out(w, running))
            return false;
    }
    return true;
}

static bool one_drawn(struct walk *w, bool running)
{
    size_t n = w->pending_count, last = draw_below(&w->seed, n);
    bool few = n <= SUBSETS_UP_TO; /* then whole calls say nothing new */
    uint64_t kind = few ? draw(&w->seed) & 1 : draw_below(&w->seed, 4);
    uint64_t density = 1 + draw_below(&w->seed, 7);
    take_first(w, last + 1);
    if (kind == 0) /* a prefix that ends in a torn write */
        w->parts[last] = torn(w, last);
    else if (kind == 2) /* a prefix that lacks a call */
        w->parts[draw_below(&w->seed, last + 1)].what = NONE;
    else /* a subset; in every other kind, torn */
        for (size_t i = 0; i < n; i++) {
            bool whole = draw_below(&w->seed, 8) < density;
            bool tear = kind == 1 && (draw(&w->seed) & 1);
            w->parts[i] = tear ? torn(w, i) : (struct part){.what = whole ? WHOLE : NONE};
        }
    return hand_out(w, running);
}

static size_t tears(const struct walk *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->pending_count; i++)
        n += sectors_of(w, i) - 1;
    return n;
}

/* How many of the drawn states a point should have, relative to others. */
static size_t point_weight(const struct walk *w)
{
    size_t n = tears(w) + (w->pending_count > SUBSETS_UP_TO ? 4 * w->pending_count : 0);
    return (size_t)min_u64(n, 64);
}

static bool draw_states(struct walk *w, bool running)
{
    size_t weight = point_weight(w);
    if (!weight || !w->weight)
        return true;
    size_t share = w->budget * weight / w->weight + 1, before = w->count->generated;
    if (tears(w) <= share / 2 && !each_tear(w, running))
        return false;
    if (w->pending_count > SUBSETS_UP_TO && w->pending_count <= share / 4 &&
        !each_but_one(w, running))
        return false;
    while (w->count->generated - before < share)
        if (!one_drawn(w, running))
            return false;
    return true;
}

/* The power fails here. */
static bool point(struct walk *w, bool running)
{
    size_t n = w->pending_count;
    bool subsets = n <= SUBSETS_UP_TO && w->options->limit;
    if (w->measuring) {
        w->mandatory += subsets ? (size_t)1 << n : n + 1;
        w->weight += point_weight(w);
        return true;
    }
    return (subsets ? each_subset(w, running) : each_prefix(w, running)) &&
           (!w->options->limit || draw_states(w, running));
}

/* ---- the walk ----------------------------------------------------------------------------- */

/* What FILE was given so far is on disk. */
static void make_durable(struct walk *w, unsigned file)
{
    size_t left = 0;
    for (size_t i = 0; i < w->pending_count; i++) {
        const struct op *o = &w->log->ops[w->pending[i]];
        if (o->file != file)
            w->pending[left++] = w->pending[i];
        else if (o->kind == OP_NAME)
            w->named = true;
        else if (o->kind == OP_APPEAR)
            w->appeared = true;
        else if (!w->measuring)
            disk_apply(&w->durable[file], o);
    }
    w->pending_count = left;
}

static bool step_done(struct walk *w, const struct op *o)
{
    w->done = (unsigned)o->offset;
    if (o->durable)
        w->lo = w->done;
    return point(w, false);
}

static bool walk_log(struct walk *w)
{
    long flush = 0;
    bool go_on = true;
    w->pending_count = 0;
    w->named = w->appeared = false;
    w->lo = w->done = 0;
    for (size_t i = 0; i < w->log->count && go_on; i++) {
        const struct op *o = &w->log->ops[i];
        if (o->kind == OP_STEP) {
            go_on = step_done(w, o);
        } else if (o->kind != OP_FLUSH) {
            w->pending[w->pending_count++] = i;
        } else if (flush++ != w->options->drop_flush) {
            go_on = point(w, true);
            make_durable(w, o->file);
        }
    }
    return go_on && point(w, true);
}

bool states_each(const struct log *l, const struct states_options *options, state_fn *fn,
                 void *opaque, struct states_count *count)
{
    struct walk w = {.log = l,
                     .options = options,
                     .fn = fn,
                     .opaque = opaque,
                     .count = count,
                     .seed = options->seed,
                     .measuring = true};
    w.pending = must(calloc(l->count + 1, sizeof *w.pending));
    w.parts = must(calloc(l->count + 1, sizeof *w.parts));
    for (size_t i = 0; i < l->count; i++)
        if (l->ops[i].kind == OP_STEP)
            w.steps = (unsigned)l->ops[i].offset;
    for (unsigned i = 0; i < l->files; i++)
        disk_set(&w.durable[i], l->start[i].data, l->start[i].size);
    walk_log(&w);
    size_t limit = options->limit;
    w.budget = w.mandatory < limit ? limit - w.mandatory : 0;
    w.budget = (size_t)max_u64(w.budget, limit / 4); /* torn writes are never left out */
    w.measuring = false;
    bool all = walk_log(&w);
    for (unsigned i = 0; i < l->files; i++) {
        disk_free(&w.durable[i]);
        disk_free(&w.work[i]);
    }
    free(w.pending);
    free(w.parts);
    free(w.seen);
    return all;
}

long log_flushes(const struct log *l)
{
    long n = 0;
    for (size_t i = 0; i < l->count; i++)
        n += l->ops[i].kind == OP_FLUSH;
    return n;
}

/* ---- in words ----------------------------------------------------------------------------- */

static void print_op(FILE *out, const struct op *o)
{
    static const char *const names[] = {[OP_WRITE] = "write",
                                        [OP_TRUNCATE] = "truncate to",
                                        [OP_ZERO] = "zero",
                                        [OP_GROW] = "grow over"};
    if (o->kind == OP_NAME || o->kind == OP_APPEAR) {
        fprintf(out, "give the second file %s",
                o->kind == OP_NAME ? "the name of the first" : "its own name");
        return;
    }
    fprintf(out, "%s%s %#" PRIx64, o->file ? "second file: " : "", names[o->kind], o->offset);
    if (o->kind != OP_TRUNCATE)
        fprintf(out, "+%#" PRIx64, o->length);
}

void log_print(FILE *out, const struct log *l)
{
    long flush = 0;
    for (size_t i = 0; i < l->count; i++) {
        const struct op *o = &l->ops[i];
        fputs("    ", out);
        if (o->kind == OP_FLUSH)
            fprintf(out, "flush %ld of file %u", flush++, o->file);
        else if (o->kind == OP_STEP)
            fprintf(out, "step %" PRIu64 " is done%s", o->offset, o->durable ? " and durable" : "");
        else
            print_op(out, o);
        fputc('\n', out);
    }
}

void state_print(FILE *out, const struct log *l, const struct state *s)
{
    const struct choice *c = s->choice;
    fprintf(out, "steps %u..%u%s, %zu calls not durable:\n", s->lo, s->hi,
            s->running ? ", the last under way" : ", all reported done", c->count);
    for (size_t i = 0; i < c->count; i++) {
        const struct part *p = &c->parts[i];
        fprintf(out, "    %s ",
                p->what == NONE    ? "lost  "
                : p->what == WHOLE ? "landed"
                                   : "torn  ");
        print_op(out, &l->ops[c->pending[i]]);
        if (p->what == FIRST || p->what == LAST)
            fprintf(out, " (%s %zu sectors)", p->what == FIRST ? "first" : "last", p->sectors);
        else if (p->what == SOME)
            fprintf(out, " (some sectors, seed %#" PRIx64 ")", p->seed);
        fputc('\n', out);
    }
}
