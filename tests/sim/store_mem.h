/*
 * An object store in memory, for the simulation and the contract suite. Thread-safe; never blocks.
 * ETags are deterministic ("m" and a counter of this store's changes) and differ after every
 * change; Last-Modified is store_clock_ms(), and clock_realtime_ms() until that is known.
 */
#ifndef SIM_STORE_MEM_H
#define SIM_STORE_MEM_H

#include "replicator/store/store.h"

#define STORE_MEM_ALL                                                                              \
	(STORE_CAP_PUT_IF_ABSENT | STORE_CAP_PUT_IF_MATCH | STORE_CAP_DELETE_IF_MATCH |            \
		STORE_CAP_COPY | STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD |                      \
		STORE_CAP_UPLOAD_COPY | STORE_CAP_UPLOAD_IF)

/* A store that really has only these capabilities, as store_probe will find out. Conditions of a
 * put and copies that it lacks are STORE_UNSUPPORTED; conditions of a delete and of a copy are
 * ignored in silence, as Ceph does. The gateway learns of the lack by store_probe (or by setting
 * capabilities). Aborts when memory is out. */
struct store *store_mem_new(unsigned capabilities);

/* As large as memory by default, parts of at least 8 bytes. Before the store is used. */
void store_mem_set_limits(struct store *s, const struct store_limits *limits);

/* Uploads that are under way. */
size_t store_mem_uploads(struct store *s);

/* Objects that are there. s is what store_mem_new returned. */
size_t store_mem_count(struct store *s);

#endif
