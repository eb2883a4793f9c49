#include "lib/ref_runtime.h"
#include "lib/imgtool.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum kind { ON_OFF, SIZE, NUMBER, NAME, DISCARD, DETECT_ZEROES, AIO, OVERLAP };

static const struct runtime_option {
    const char *key;
    enum kind kind;
    bool qcow2; /* not of raw images */
} known[] = {
    {"auto-read-only", ON_OFF, false},
    {"node-name", NAME, false},
    {"discard", DISCARD, false},
    {"detect-zeroes", DETECT_ZEROES, false},
    {"cache.no-flush", ON_OFF, false},
    {"lazy-refcounts", ON_OFF, true},
    {"pass-discard-request", ON_OFF, true},
    {"pass-discard-snapshot", ON_OFF, true},
    {"pass-discard-other", ON_OFF, true},
    {"discard-no-unref", ON_OFF, true},
    {"overlap-check", OVERLAP, true},
    {"l2-cache-size", SIZE, true},
    {"l2-cache-entry-size", SIZE, true},
    {"refcount-cache-size", SIZE, true},
    {"cache-size", SIZE, true},
    {"cache-clean-interval", NUMBER, true},
    {"file.auto-read-only", ON_OFF, false},
    {"file.aio", AIO, false},
    {"file.cache.no-flush", ON_OFF, false},
    {"file.discard", DISCARD, false},
    {"file.node-name", NAME, false},
};

static bool is_one_of(const char *value, const char *const *words)
{
    while (*words && strcmp(*words, value) != 0)
        words++;
    return *words;
}

static int check_words(enum kind kind, const char *value, struct img_error *err)
{
    static const char *const discard[] = {"ignore", "off", "unmap", "on", NULL};
    static const char *const zeroes[] = {"off", "on", "unmap", NULL};
    static const char *const aio[] = {"threads", "native", "io_uring", NULL};
    static const char *const overlap[] = {"none", "constant", "cached", "all", NULL};
    if (kind == DISCARD && !is_one_of(value, discard))
        return img_fail(err, EINVAL, "Invalid discard option");
    if ((kind == DETECT_ZEROES && !is_one_of(value, zeroes)) ||
        (kind == AIO && !is_one_of(value, aio)))
        return img_fail(err, EINVAL, "invalid parameter value: %s", value);
    if (kind == OVERLAP && !is_one_of(value, overlap))
        return img_fail(err, EINVAL,
                        "Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any "
                        "of the following: none, constant, cached, all",
                        value);
    return 0;
}

static int check_value(enum kind kind, const char *key, const char *value, struct img_error *err)
{
    static const char *const on_off[] = {"on", "off", "true", "false", "yes", "no", NULL};
    uint64_t size;
    char *end;
    switch (kind) {
    case ON_OFF:
        return is_one_of(value, on_off)
                   ? 0
                   : img_fail(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", key);
    case SIZE:
        if (*value == '-')
            return img_fail(err, EINVAL, "Value '%s' is out of range for parameter '%s'", value,
                            key);
        return img_parse_size(value, &size) < 0
                   ? img_fail(err, EINVAL,
                              "Parameter '%s' expects a non-negative number below 2^64", key)
                   : 0;
    case NUMBER:
        errno = 0;
        strtoull(value, &end, 0);
        return errno || !*value || *value == '-' || *end
                   ? img_fail(err, EINVAL, "Parameter '%s' expects a number", key)
                   : 0;
    case NAME: {
        bool letter = (*value >= 'a' && *value <= 'z') || (*value >= 'A' && *value <= 'Z');
        return letter ? 0 : img_fail(err, EINVAL, "Invalid node-name: '%s'", value);
    }
    default:
        return check_words(kind, value, err);
    }
}

int ref_runtime_option(const char *format, const char *key, const char *value,
                       struct img_error *err)
{
    bool is_raw = format && !strcmp(format, "raw");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].key, key) != 0 || (known[i].qcow2 && is_raw))
            continue;
        const char *own = strncmp(key, "file.", 5) ? key : key + 5;
        int ret = check_value(known[i].kind, own, value, err);
        return ret < 0 ? ret : 1;
    }
    return 0;
}
