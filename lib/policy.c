#include "lib/policy.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has_protocol(const char *name)
{
    return name[strcspn(name, ":/")] == ':';
}

/* NAME beside FILE. */
static char *beside(const char *file, const char *name)
{
    const char *slash = strrchr(file, '/');
    char *out;
    int folder = slash ? (int)(slash + 1 - file) : 0;
    return asprintf(&out, "%.*s%s", folder, file, name) < 0 ? NULL : out;
}

int policy_backing_name(char **full, const char *overlay, const char *name, struct img_error *err)
{
    bool as_is = has_protocol(name) || *name == '/';
    if (!as_is && !strncmp(overlay, "json:", 5))
        return img_fail(err, EINVAL, "Cannot use relative backing file names for '%s'", overlay);
    *full = as_is ? strdup(name) : beside(overlay, name);
    return *full ? 0 : img_fail_nomem(err);
}

int policy_data_file_path(char **path, const char *image, const char *name, struct img_error *err)
{
    bool as_is = *name == '/' || access(name, F_OK) == 0;
    char *near = as_is ? NULL : beside(image, name);
    if (!as_is && !near)
        return img_fail_nomem(err);
    bool use_near = near && access(near, F_OK) == 0;
    *path = use_near ? near : strdup(name);
    if (!use_near)
        free(near);
    return *path ? 0 : img_fail_nomem(err);
}

int policy_probed_backing(const struct driver *probed, struct file *f, bool guessed,
                          struct img_error *err)
{
    if (!guessed || !probed->probe_far)
        return 0;
    return img_fail(err, ENOTSUP,
                    "Backing file '%s' has no stated format; it would be taken for raw, but looks "
                    "like '%s'",
                    f->name, probed->name);
}

char *policy_absolute(const char *name)
{
    char *real = realpath(name, NULL);
    if (real || has_protocol(name))
        return real ? real : strdup(name);
    /* the file is missing: its folder may not be */
    const char *slash = strrchr(name, '/');
    char *folder = slash ? strndup(name, (size_t)(slash - name + 1)) : strdup(".");
    char *real_folder = folder ? realpath(folder, NULL) : NULL;
    char *out = NULL;
    if (real_folder && asprintf(&out, "%s/%s", strcmp(real_folder, "/") ? real_folder : "",
                                slash ? slash + 1 : name) < 0)
        out = NULL;
    char *current = real_folder || *name == '/' ? NULL : getcwd(NULL, 0);
    if (current && asprintf(&out, "%s/%s", current, name) < 0) /* the folder is missing, too */
        out = NULL;
    free(folder);
    free(real_folder);
    free(current);
    return out ? out : strdup(name);
}
