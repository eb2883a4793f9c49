/* Zeroes: every length and place of one byte that is none. */
#include "lib/zero.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LENGTH = 700 };

static void one_byte_anywhere(void **state)
{
    (void)state;
    for (size_t length = 0; length < LENGTH; length += 1 + length / 40)
        for (size_t start = 0; start < 3; start++) {
            uint8_t *p = calloc(1, start + length + 1);
            p[start + length] = 1; /* behind the end */
            assert_true(zero_all(p + start, length));
            for (size_t at = 0; at < length; at++) {
                p[start + at] = 0x80;
                assert_false(zero_all(p + start, length));
                p[start + at] = 0;
            }
            free(p);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_byte_anywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
