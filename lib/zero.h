/* Looking for zeroes in data. */
#ifndef LIB_ZERO_H
#define LIB_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Are all LENGTH bytes zero? Of most data that is not, only the first few are looked at. */
bool zero_all(const void *data, size_t length);

#endif
