#include "snapshot_list.h"
#include "output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

static void print_one(FILE *out, const struct img_snapshot_info *s)
{
    char date[32] = "", clock[64], icount[32] = "--", size[32];
    char *id = printable(s->id), *name = printable(s->name);
    time_t when = s->date_sec;
    struct tm local;
    if (localtime_r(&when, &local))
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
    uint64_t seconds = s->vm_clock_nsec / 1000000000;
    snprintf(clock, sizeof clock, "%04d:%02d:%02d.%03d", (int)(seconds / 3600),
             (int)(seconds / 60 % 60), (int)(seconds % 60),
             (int)(s->vm_clock_nsec / 1000000 % 1000));
    if (s->has_icount)
        snprintf(icount, sizeof icount, "%" PRId64, (int64_t)s->icount);
    /* QEMU's tools keep 127 bytes of an ID and 255 of a name */
    fprintf(out, "%-7.127s %-16.255s %8s %19s %15s %10s\n", id ? id : "", name ? name : "",
            human_size(s->vm_state_size, size), date, clock, icount);
    free(id);
    free(name);
}

void print_snapshots(FILE *out, const struct img_info *info)
{
    if (!info->snapshot_count)
        return;
    fprintf(out, "Snapshot list:\n%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE",
            "VM_CLOCK", "ICOUNT");
    for (size_t i = 0; i < info->snapshot_count; i++)
        print_one(out, &info->snapshots[i]);
}
