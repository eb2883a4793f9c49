/*
 * Versions of sectors in the order in which they were written, each of them with its bytes.
 *
 * These lie in slots, the first of which are held in memory and the others in an unnamed temporary
 * file; beside its slot, a version takes up to 44 bytes. A hash table leads from a sector to its
 * last version, and from there it goes back.
 */
#ifndef LIB_SECTOR_LOG_H
#define LIB_SECTOR_LOG_H

#include <stddef.h>
#include <stdint.h>

enum { SECTOR_LOG_BYTES = 512 };

/* Its number, counted from 1, is that of its slot. */
struct sector_version {
    uint64_t sector;
    uint32_t stage;  /* in which it was written */
    uint32_t before; /* the sector's version of an earlier stage; 0: none */
};

struct sector_log {
    struct sector_version *versions;
    size_t count;
    uint32_t *table;  /* numbers of versions; 0: a free entry */
    size_t capacity;  /* a power of two */
    unsigned most;    /* versions of one sector */
    uint8_t **chunks; /* of the first slots */
    size_t chunk_count, chunk_max;
    int spill; /* the file of the others; -1: none so far */
};

/* MEMORY: bytes of slots that are held there. */
int sector_log_init(struct sector_log *l, size_t memory);
void sector_log_free(struct sector_log *l);

/* What SECTOR holds from now on; stages never go back, and in one of them the last bytes count. */
int sector_log_put(struct sector_log *l, uint64_t sector, uint32_t stage, const uint8_t *buf);

/* The number of SECTOR's last version; 0: there is none. */
uint32_t sector_log_find(const struct sector_log *l, uint64_t sector);

int sector_log_load(const struct sector_log *l, uint32_t number, uint8_t *buf);

#endif
