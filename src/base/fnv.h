/*
 * FNV-1a, 64 bits (Fowler, Noll, Vo; IETF draft-eastlake-fnv): for tables and marks of short strings. Neither
 * hard to collide with on purpose nor good in its low bits: tables fold h ^ h >> 32. Values that are kept in the
 * database are part of its format.
 */
#ifndef BASE_FNV_H
#define BASE_FNV_H

#include <stddef.h>
#include <stdint.h>

#define FNV1A_BASIS UINT64_C(14695981039346656037)

/* Of what h is of (FNV1A_BASIS: nothing) followed by the n bytes at p. */
static inline uint64_t fnv1a(uint64_t h, const void *p, size_t n)
{
	const uint8_t *byte = p;

	for (size_t i = 0; i < n; i++)
		h = (h ^ byte[i]) * UINT64_C(1099511628211);
	return h;
}

#endif
