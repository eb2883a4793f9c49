#include "formats/qcow2/reader.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void reader_init(struct reader *r, struct file *f, host_off start, uint64_t length)
{
    r->file = f;
    r->at = start.v;
    r->end = start.v + length;
    r->window_start = 0;
    r->window_length = 0;
}

static int check_left(const struct reader *r, uint64_t len, struct img_error *err)
{
    if (len <= r->end - r->at)
        return 0;
    return img_fail(err, EINVAL,
                    "%" PRIu64 " bytes at %#" PRIx64 " reach past its end at %#" PRIx64, len, r->at,
                    r->end);
}

int reader_skip(struct reader *r, uint64_t len, struct img_error *err)
{
    int ret = check_left(r, len, err);
    if (!ret)
        r->at += len;
    return ret;
}

int reader_get(struct reader *r, void *buf, size_t len, struct img_error *err)
{
    int ret = check_left(r, len, err);
    uint8_t *to = buf;
    while (!ret && len) {
        if (r->at < r->window_start || r->at >= r->window_start + r->window_length) {
            r->window_start = r->at;
            r->window_length = (size_t)min_u64(sizeof r->window, r->end - r->at);
            ret = file_read(r->file, r->window, r->window_length, host(r->at), err);
            if (ret < 0) {
                r->window_length = 0;
                break;
            }
        }
        size_t skip = (size_t)(r->at - r->window_start);
        size_t n = (size_t)min_u64(len, r->window_length - skip);
        memcpy(to, r->window + skip, n);
        r->at += n;
        to += n;
        len -= n;
    }
    return ret;
}

int reader_get_string(struct reader *r, char **out, size_t len, struct img_error *err)
{
    int ret = check_left(r, len, err);
    if (ret < 0)
        return ret;
    char *s = malloc(len + 1);
    if (!s)
        return img_fail_nomem(err);
    ret = reader_get(r, s, len, err);
    s[ret < 0 ? 0 : len] = 0;
    if (ret < 0)
        free(s);
    else
        *out = s;
    return ret;
}
