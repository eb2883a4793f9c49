/* What img_advise makes of the flags with which it is told to open the image. */
#include "lib/imgtool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Its checks decide which parts of the image are opened; a caller's wish for less is not obeyed. */
static void partial_opens_are_ignored(void **state)
{
    (void)state;
    static const unsigned flags[] = {0, IMG_OPEN_NO_DATA, IMG_OPEN_NO_BACKING, IMG_OPEN_CHECK};
    char path[4096];
    snprintf(path, sizeof path, "%s/testimages/valid/chain/test.qcow2", getenv("SRCDIR"));
    struct img_advice_report *reports[4] = {NULL};
    for (unsigned i = 0; i < 4; i++) {
        struct img_open_options open = {.flags = flags[i]};
        struct img_advise_options options = {.open = &open};
        assert_int_equal(img_advise(&reports[i], path, &options, NULL), 0);
        assert_int_equal(reports[i]->count, reports[0]->count);
        for (size_t k = 0; k < reports[i]->count; k++)
            assert_int_equal(reports[i]->items[k].state, reports[0]->items[k].state);
    }
    for (unsigned i = 0; i < 4; i++)
        img_advice_report_free(reports[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(partial_opens_are_ignored)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
