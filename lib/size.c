/* Sizes as people write them: 64k, 1.5G, 0x200. The grammar is that of QEMU's tools. */
#include "lib/checked.h"
#include "lib/error.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* 0, or how far a suffix moves the number to the left; -1 for none known. */
static int suffix_shift(char c)
{
    static const char suffixes[] = "bkmgtpe";
    const char *at = c ? strchr(suffixes, tolower((unsigned char)c)) : NULL;
    return c == 0 ? 0 : at ? (int)(at - suffixes) * 10 : -1;
}

/* Digits after a point, as a fraction; no exponent, since E is a suffix. */
static double parse_fraction(const char **p)
{
    double fraction = 0, unit = 0.1;
    for (; isdigit((unsigned char)**p); ++*p, unit /= 10)
        fraction += (**p - '0') * unit;
    return fraction;
}

static int parse_hex(const char *digits, uint64_t *out)
{
    size_t n = strspn(digits, "0123456789abcdefABCDEF");
    uint64_t value = strtoull(digits, NULL, 16);
    if (!n || digits[n])
        return -EINVAL;
    if (errno)
        return -ERANGE;
    *out = value;
    return 0;
}

int img_parse_size(const char *value, uint64_t *out)
{
    errno = 0;
    while (isspace((unsigned char)*value))
        value++;
    if (!strncasecmp(value, "0x", 2))
        return parse_hex(value + 2, out);
    bool negative = *value == '-';
    const char *p = value + (negative || *value == '+');
    if (!isdigit((unsigned char)*p) && !(*p == '.' && isdigit((unsigned char)p[1])))
        return -EINVAL;
    char *end;
    uint64_t whole = strtoull(p, &end, 10); /* none before ".5k": 0 */
    double fraction = 0;
    p = end;
    if (negative || errno) /* a number it is, if nothing follows */
        return *p ? -EINVAL : -ERANGE;
    if (*p == '.') {
        p++;
        fraction = parse_fraction(&p);
    }
    int shift = suffix_shift(*p);
    if (shift < 0 || (*p && p[1]) || (fraction > 0 && shift == 0))
        return -EINVAL;
    if (shift && whole >> (64 - shift))
        return -ERANGE;
    uint64_t sum, part = (uint64_t)round(fraction * (double)(1ull << shift));
    if (add_overflows(whole << shift, part, &sum))
        return -ERANGE;
    *out = sum;
    return 0;
}
