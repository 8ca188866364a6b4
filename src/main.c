/*
 * The program meridian: see verbs.h.
 *
 * The allocator is told to keep memory together: by default glibc gives every thread of the
 * replicator's pools an arena that keeps its peak for ever, and raises its threshold for mapped
 * blocks to the largest ever freed, so that buffers for segments would stay in the arenas too.
 */
#include <stdlib.h> /* tells which C library this is */

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "src/verbs.h"

static void set_up_allocator(void)
{
#ifdef __GLIBC__
	/* Failing would only cost memory. */
	mallopt(M_ARENA_MAX, 2);
	/* Over libcurl's buffers, which come and go with each request. */
	mallopt(M_MMAP_THRESHOLD, 768 << 10);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
#endif
}

int main(int argc, char **argv)
{
	set_up_allocator();
	return verbs_main(argc, argv);
}
