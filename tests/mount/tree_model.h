/* What tree_model.c and tree_compare.c share. */
#ifndef TESTS_TREE_MODEL_H
#define TESTS_TREE_MODEL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define HANDLES 12
#define DATA_MAX 20000
#define ENTRIES_MAX 64 /* names in one directory; there are fewer to choose from */

enum { MODEL, MOUNT };
struct side {
	const char *path;
	int root;
	int handle[HANDLES];
};
extern struct side side[2];

/* What one operation gave on one side. */
struct outcome {
	long r; /* or -errno */
	uint8_t data[DATA_MAX];
	size_t len;
};

/* Prints the last operations and ends. */
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *fmt, ...);

/* Sorted names but "." and "..", each followed by a slash and a letter for its type ('A' + d_type).
 * Closes fd. -ENOTDIR. */
int list(int fd, char *found[ENTRIES_MAX]);

/* Adds the attributes that must agree. A modification time of about now is as good as another. */
void put_stat(struct outcome *o, const struct stat *st);

/* Both entries of o; what names the operation on path. */
void compare_outcomes(const char *what, const char *path, const struct outcome *o);

/* Special files are left out; directories' times are; which names are of one inode is. */
extern bool skip_special, skip_dirtimes, skip_links;
void compare_all(void);
/* Gives all directories the same modification time on both sides. */
void settle_times(const char *path);

static inline long result(long r)
{
	return r < 0 ? -errno : r;
}

#endif
