#include "view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *join(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

int view_make(struct guest *guest, char **path)
{
    struct img_error err = IMG_ERROR_INIT;
    const char *tmp = getenv("TMPDIR");
    char *name = join(tmp && tmp[0] == '/' ? tmp : "/tmp", "imgtool-view-XXXXXX");
    if (!name || !mkdtemp(name)) {
        free(name);
        return tool_error(guest->tool, "Could not make a temporary folder: %s", strerror(errno));
    }
    guest->folder = name;
    char *bytes = join(name, "bytes.qcow2");
    *path = join(name, "view.qcow2");
    int failed = !bytes || !*path;
    if (failed)
        tool_error(guest->tool, "Out of memory");
    else if (img_view_snapshot(guest->img, bytes, *path, &err) < 0)
        failed = tool_report(guest->tool, &err);
    free(bytes);
    return failed;
}

void view_remove(struct guest *guest)
{
    static const char *const names[] = {"bytes.qcow2", "view.qcow2"};
    for (size_t i = 0; guest->folder && i < sizeof names / sizeof *names; i++) {
        char *path = join(guest->folder, names[i]);
        if (path)
            unlink(path);
        free(path);
    }
    if (guest->folder)
        rmdir(guest->folder);
    free(guest->folder);
    guest->folder = NULL;
}
