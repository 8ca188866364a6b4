/* Reading and writing at an offset, whole and whatever interrupts. */
#ifndef BASE_IO_H
#define BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "src/base/attribute.h"

/* How many bytes there were, fewer than n only at the end of the file; or -errno. */
ssize_t io_read_at(int fd, void *p, size_t n, uint64_t offset) MUST_CHECK;
/* All of it, or -errno; then some of it may be there. */
int io_write_at(int fd, const void *p, size_t n, uint64_t offset) MUST_CHECK;

#endif
