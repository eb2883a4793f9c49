/* What becomes of a state when it is repaired, and when that is interrupted too. */
#ifndef CRASH_REPAIR_H
#define CRASH_REPAIR_H

#include "judge.h"

/*
 * Repairs S with img_repair: then nothing may be wrong with it, and it has to show what it showed
 * before; nothing is written when nothing was wrong. About LIMIT states of the repair itself are
 * judged, and added to COUNT. *CLEAN: nothing was wrong. False: V says what is wrong now.
 */
bool repair_state(const struct judge *j, const struct state *s, uint64_t seed, size_t limit,
                  bool *clean, struct verdict *v, struct states_count *count);

#endif
