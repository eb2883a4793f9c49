/* Looking for zeroes: zero.c, each of its paths that this machine has. */
#include "lib/zero.h"
#include "make_qcow2.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Longer than two strides of the widest vectors. */
enum { LONGEST = 700 };

/* LONGEST bytes of which neither the one before nor the one behind may be read. */
static uint8_t *fenced(size_t *length)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *p = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(mprotect(p + page, page, PROT_READ | PROT_WRITE), 0);
    *length = page;
    return p + page;
}

static void unfence(uint8_t *p, size_t page)
{
    munmap(p - page, 3 * page);
}

/* All lengths and, in each, one byte at every place, at both ends of what may be read. */
static void one_path(zero_all_fn *all)
{
    size_t page;
    uint8_t *p = fenced(&page);
    for (size_t length = 0; length <= LONGEST; length++) {
        uint8_t *places[] = {p, p + page - length, p + 3};
        for (size_t i = 0; i < 3; i++) {
            uint8_t *data = places[i];
            assert_true(all(data, length));
            for (size_t at = 0; at < length; at++) {
                data[at] = at % 2 ? 1 : 0x80;
                if (all(data, length))
                    fail_msg("byte %zu of %zu was not seen (place %zu)", at, length, i);
                data[at] = 0;
            }
        }
        /* what stands around it does not count */
        uint8_t *inside = p + 100;
        inside[-1] = inside[length] = 0xff;
        assert_true(all(inside, length));
        inside[-1] = inside[length] = 0;
    }
    unfence(p, page);
}

static void every_path(void **state)
{
    (void)state;
    unsigned tried = 0;
    for (unsigned path = 0; path < ZERO_PATHS; path++) {
        zero_all_fn *all = zero_path((enum zero_path)path);
        if (all)
            one_path(all);
        tried += all != NULL;
    }
    assert_non_null(zero_path(ZERO_PLAIN)); /* which every machine has */
#if defined(__x86_64__)
    assert_non_null(zero_path(ZERO_SSE2));
#elif defined(__aarch64__)
    assert_non_null(zero_path(ZERO_NEON));
#endif
    print_message("%u of the %d paths are there on this machine\n", tried, ZERO_PATHS);
    one_path(zero_all);
}

static void paths_agree_on_long_data(void **state)
{
    (void)state;
    enum { SIZE = 1 << 17 };
    uint8_t *data = calloc(1, SIZE);
    assert_non_null(data);
    for (unsigned path = 0; path < ZERO_PATHS; path++) {
        zero_all_fn *all = zero_path((enum zero_path)path);
        if (!all)
            continue;
        assert_true(all(data, SIZE));
        for (size_t at = 0; at < SIZE; at += 997) {
            data[at] = 1;
            assert_false(all(data, SIZE));
            data[at] = 0;
        }
    }
    free(data);
}

/* The runs that DATA falls into, written as "4z 8d". */
static void assert_runs(const uint8_t *data, size_t length, size_t block, const char *expected)
{
    char text[200] = "";
    for (size_t at = 0; at < length;) {
        bool zero;
        size_t n = zero_run(data + at, length - at, block, &zero);
        assert_true(n > 0 && n <= length - at);
        size_t end = strlen(text);
        snprintf(text + end, sizeof text - end, "%s%zu%c", end ? " " : "", n, zero ? 'z' : 'd');
        at += n;
    }
    assert_string_equal(text, expected);
}

static void runs(void **state)
{
    (void)state;
    uint8_t data[4096 + 100] = {0};
    assert_runs(data, sizeof data, 512, "4196z");
    assert_runs(data, 1, 512, "1z");
    data[0] = 1;
    assert_runs(data, sizeof data, 512, "512d 3684z");
    assert_runs(data, sizeof data, 4096, "4096d 100z");
    assert_runs(data, sizeof data, 1 << 20, "4196d");
    data[511] = 1;
    data[512] = 1; /* in the next block */
    assert_runs(data, sizeof data, 512, "1024d 3172z");
    data[4195] = 1; /* in the last, short one */
    assert_runs(data, sizeof data, 512, "1024d 3072z 100d");
    assert_runs(data, sizeof data, 1024, "1024d 3072z 100d");
    assert_runs(data, sizeof data, 2048, "2048d 2048z 100d");
    assert_runs(data + 512, 1024, 512, "512d 512z");
    memset(data, 0xff, sizeof data);
    assert_runs(data, sizeof data, 512, "4196d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path),
        cmocka_unit_test(paths_agree_on_long_data),
        cmocka_unit_test(runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
