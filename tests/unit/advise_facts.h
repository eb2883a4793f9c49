/* Facts made by hand for the tests of advice, and what a judgement of them should find. */
#ifndef TESTS_ADVISE_FACTS_H
#define TESTS_ADVISE_FACTS_H

#include "lib/ops/advise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
/* the order above is cmocka's demand */
#include <cmocka.h>

#define GIB(n) ((uint64_t)(n) << 30)
#define MIB(n) ((uint64_t)(n) << 20)
#define KIB(n) ((uint64_t)(n) << 10)

/* Facts about a sound 20 GiB image of default clusters on ext4 on a fast disk. */
struct made {
    struct img_info info[12];
    struct img_info *layers[12];
    struct advise_facts x;
};

static inline void make(struct made *m)
{
    *m = (struct made){0};
    for (unsigned i = 0; i < 12; i++) {
        m->layers[i] = &m->info[i];
        m->info[i] = (struct img_info){
            .filename = "a.qcow2",
            .file_name = "a.qcow2",
            .format = "qcow2",
            .virtual_size = GIB(20),
            .cluster_size = KIB(64),
            .is_qcow2 = true,
            .qcow2 = {.version = 3, .refcount_bits = 16, .compression_type = "zlib"},
        };
    }
    m->x.program = "imgtool";
    m->x.path = "a.qcow2";
    m->x.chain = (struct img_chain_info){m->layers, 1};
    m->x.tables.looked_at = GIB(20);
    m->x.host = (struct advise_host){
        .path = "a.qcow2",
        .regular = true,
        .length = MIB(1),
        .allocated = MIB(1),
        .free_known = true,
        .free_bytes = GIB(100),
        .layout = {.holes_known = true,
                   .unwritten_known = true,
                   .fragments = 1,
                   .fragment_bytes = MIB(1)},
        .mount = {.type = "ext4", .point = "/", .source = "/dev/sda1", .options = "rw", .major = 8},
        .disk_count = 1,
        .disks = {{.name = "sda",
                   .scheduler = "mq-deadline",
                   .available = "none [mq-deadline] bfq",
                   .rotational = 0}},
    };
    m->x.file_length = MIB(1);
    m->x.file_regular = true;
    m->x.data_end_known = true;
    m->x.data_end = MIB(1);
}

/* Turns the image into a raw one. */
static inline void make_raw(struct made *m)
{
    m->info[0].is_qcow2 = false;
    m->info[0].format = "raw";
    m->info[0].cluster_size = 0;
    m->x.tables.placed = GIB(20);
    m->x.host.length = GIB(20);
}

typedef void (*judge_fn)(struct advise_finding *f, const struct advise_facts *x);

/* What JUDGE finds: its state, a part of what it found, and its command (NULL: none). */
static inline void expect(judge_fn judge, const struct made *m, enum img_advice_state state,
                          const char *found, const char *fix)
{
    struct advise_finding f = {0};
    judge(&f, &m->x);
    assert_false(f.nomem);
    assert_non_null(f.out.found);
    if (!strstr(f.out.found, found))
        fail_msg("found '%s', not '%s'", f.out.found, found);
    assert_string_equal(img_advice_state_name(f.out.state), img_advice_state_name(state));
    if (fix) {
        assert_non_null(f.out.fix);
        assert_string_equal(f.out.fix, fix);
    } else {
        assert_null(f.out.fix);
    }
    free(f.out.found);
    free(f.out.why);
    free(f.out.fix);
}

static inline void expect_why(judge_fn judge, const struct made *m, const char *part)
{
    struct advise_finding f = {0};
    judge(&f, &m->x);
    if (!f.out.why || !strstr(f.out.why, part))
        fail_msg("why '%s', not '%s'", f.out.why, part);
    free(f.out.found);
    free(f.out.why);
    free(f.out.fix);
}

#endif
