/* Errors: worded once, prefixed, cleared, and no error at all. */
#include "make_qcow2.h"

static void set_and_clear(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    assert_string_equal(img_error_message(&err), "no error");
    assert_string_equal(img_error_message(NULL), "no error");
    assert_int_equal(img_fail(&err, ENOENT, "no '%s' (%d)", "x", 7), -ENOENT);
    assert_int_equal(err.code, ENOENT);
    assert_string_equal(img_error_message(&err), "no 'x' (7)");
    img_hint(&err, "look %s", "there");
    img_context(&err, "named by '%s'", "y");
    assert_string_equal(err.hint, "look there");
    assert_string_equal(err.context, "named by 'y'");
    /* the next error replaces all of it */
    assert_int_equal(img_fail(&err, EIO, "other"), -EIO);
    assert_string_equal(img_error_message(&err), "other");
    assert_null(err.hint);
    assert_null(err.context);
    img_error_clear(&err);
    img_error_clear(&err);
    assert_int_equal(err.code, 0);
    assert_null(err.message);
    img_error_clear(NULL);
}

static void words_of_the_system(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    expect_error(&err, img_fail_errno(&err, ENOSPC, "Could not write %d bytes", 5), ENOSPC,
                 "Could not write 5 bytes: No space left on device");
}

static void prefixes(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    int ret = img_fail(&err, EINVAL, "L2 table is 100%% wrong");
    ret = img_prefix(&err, ret, "Could not open '%s': ", "a%sb");
    ret = img_prefix(&err, ret, "Sorry: ");
    expect_error(&err, ret, EINVAL, "Sorry: Could not open 'a%sb': L2 table is 100% wrong");
}

static void nobody_wants_to_know(void **state)
{
    (void)state;
    assert_int_equal(img_fail(NULL, EINVAL, "%s", "x"), -EINVAL);
    assert_int_equal(img_fail_errno(NULL, EIO, "%s", "x"), -EIO);
    assert_int_equal(img_prefix(NULL, -ENOENT, "%s", "x"), -ENOENT);
    assert_int_equal(img_fail_nomem(NULL), -ENOMEM);
    img_hint(NULL, "%s", "x");
    img_context(NULL, "%s", "x");
}

static void contexts_add_up(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    (void)img_fail(&err, ENOENT, "gone");
    img_context(&err, "near");
    img_context(&err, "far");
    assert_string_equal(err.context, "near; far");
    img_error_clear(&err);
}

static void out_of_memory(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    (void)img_fail(&err, EINVAL, "before");
    expect_error(&err, img_fail_nomem(&err), ENOMEM, "Out of memory");
    err.code = ENOMEM; /* not even the words fitted */
    assert_string_equal(img_error_message(&err), "Cannot allocate memory");
    img_error_clear(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_and_clear),   cmocka_unit_test(words_of_the_system),
        cmocka_unit_test(prefixes),        cmocka_unit_test(nobody_wants_to_know),
        cmocka_unit_test(contexts_add_up), cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
