/*
 * Random operations on one file, each checked against a model of the file in memory. The model is
 * an array of bytes and a size; what lies beyond the size is zero in it. Kept in a state file
 * between runs, so that the caller can remount, or kill the daemon, and go on.
 *
 *     file_model FILE STATE SEED OPERATIONS [NEEDED…]
 *
 * STATE need not exist: then FILE is made anew. NEEDED names features (punch zero direct copy) that
 * must be there; others that are missing are left out. Ends with 1 at the first difference, after
 * printing seed, step, the last operations and the first byte that differs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILE_MAX 262144 /* no operation goes beyond */
#define IO_MAX 65536
#define BLOCK 4096
#define DESCRIPTORS 4
#define HISTORY 60

static uint8_t model[FILE_MAX];
static size_t model_size;

static const char *path;
static uint64_t seed, rng_state, step;
static char history[HISTORY][160];
static uint8_t *buffer; /* IO_MAX, aligned for O_DIRECT */
static uint8_t *map;	/* a shared mapping that stays while other operations go on; NULL: none */

static struct {
	int fd;
	int flags;
} open_file[DESCRIPTORS];

enum { PUNCH = 1, ZERO = 2, DIRECT = 4, COPY = 8 };
static unsigned features;
static bool map_dirty; /* written through a mapping since the pages were last written back */

static uint64_t random_next(void)
{
	uint64_t z = rng_state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static size_t below(size_t n)
{
	return n ? random_next() % n : 0;
}

__attribute__((format(printf, 1, 2))) static void note(const char *fmt, ...)
{
	char *line = history[step % HISTORY];
	va_list ap;
	int n = snprintf(line, sizeof(history[0]), "%8llu ", (unsigned long long)step);

	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(history[0]) - (size_t)n, fmt, ap);
	va_end(ap);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	for (unsigned i = 1; i <= HISTORY; i++)
		if (history[(step + i) % HISTORY][0])
			fprintf(stderr, "%s\n", history[(step + i) % HISTORY]);
	fprintf(stderr,
		"FAILED: seed %llu, step %llu, file of %zu bytes: ", (unsigned long long)seed,
		(unsigned long long)step, model_size);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static void fail_errno(const char *what)
{
	fail("%s: %s", what, strerror(errno));
}

/* n bytes at offset, as what saw them, must be the model's. */
static void check(const char *what, const uint8_t *got, size_t offset, size_t n)
{
	const uint8_t *want = model + offset;
	size_t last;

	if (memcmp(got, want, n) == 0)
		return;
	size_t i = 0;
	while (got[i] == want[i])
		i++;
	for (last = n - 1; got[last] == want[last]; last--)
		;
	fail("%s at %zu, %zu bytes: byte %zu is 0x%02x, should be 0x%02x (the last that differs: "
	     "%zu)",
		what, offset, n, offset + i, got[i], want[i], offset + last);
}

static void fill(uint8_t *p, size_t n)
{
	uint64_t word = random_next();

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(word >> (i % 8 * 8)) + (uint8_t)(i / 8);
}

static void model_write(const uint8_t *p, size_t offset, size_t n)
{
	memcpy(model + offset, p, n);
	if (offset + n > model_size)
		model_size = offset + n;
}

static void model_truncate(size_t size)
{
	if (size < model_size)
		memset(model + size, 0, model_size - size);
	model_size = size;
}

static void model_zero(size_t offset, size_t n, bool extend)
{
	if (offset < model_size)
		memset(model + offset, 0, n < model_size - offset ? n : model_size - offset);
	if (extend && offset + n > model_size)
		model_size = offset + n;
}

/* A random range; small ones are as frequent as large ones. */
static void range(size_t limit, size_t *offset, size_t *n)
{
	*offset = below(limit);
	*n = 1 + below((size_t)1 << below(17));
	if (*n > limit - *offset)
		*n = limit - *offset;
	if (below(4) == 0)
		*offset -= *offset % BLOCK;
	if (*n > IO_MAX)
		*n = IO_MAX;
}

static bool readable(unsigned i)
{
	return (open_file[i].flags & O_ACCMODE) != O_WRONLY;
}

static bool writable(unsigned i)
{
	return (open_file[i].flags & O_ACCMODE) != O_RDONLY;
}

static void reopen(unsigned i, int flags)
{
	if (open_file[i].fd >= 0 && close(open_file[i].fd) < 0)
		fail_errno("close");
	if (flags & O_TRUNC)
		model_truncate(0);
	open_file[i].fd = open(path, flags | O_CLOEXEC, 0644);
	open_file[i].flags = flags & ~O_TRUNC;
	if (open_file[i].fd < 0)
		fail_errno("open");
}

/* A descriptor that can do it; any, if it takes a reopen. Without O_DIRECT and O_APPEND unless
 * asked for. */
static int choose(bool write, int with)
{
	unsigned first = (unsigned)below(DESCRIPTORS);

	for (unsigned i = 0; i < DESCRIPTORS; i++) {
		unsigned n = (first + i) % DESCRIPTORS;

		if ((write ? writable(n) : readable(n)) &&
			(open_file[n].flags & (O_DIRECT | O_APPEND)) == with)
			return open_file[n].fd;
	}
	reopen(first, with | (write && below(4) == 0 ? O_WRONLY : O_RDWR));
	if (!write && !readable(first))
		reopen(first, with | O_RDWR);
	return open_file[first].fd;
}

/* ---- operations ---- */

static void do_read(void)
{
	size_t offset, n, want;
	bool direct = (features & DIRECT) && below(4) == 0;
	ssize_t got;

	range(FILE_MAX, &offset, &n);
	if (direct) {
		offset -= offset % BLOCK;
		n += (BLOCK - n % BLOCK) % BLOCK;
		n = n > IO_MAX ? IO_MAX : n;
	}
	note("read %zu + %zu%s", offset, n, direct ? " direct" : "");
	got = pread(choose(false, direct ? O_DIRECT : 0), buffer, n, (off_t)offset);
	want = offset >= model_size ? 0 : n < model_size - offset ? n : model_size - offset;
	if (got != (ssize_t)want)
		fail("read returned %zd (%s), should be %zu", got, got < 0 ? strerror(errno) : "",
			want);
	check("read", buffer, offset, want);
}

static void do_write(void)
{
	size_t offset, n;
	bool direct = (features & DIRECT) && below(4) == 0;
	int fd = choose(true, direct ? O_DIRECT : 0);

	range(FILE_MAX, &offset, &n);
	if (direct) {
		offset -= offset % BLOCK;
		n += (BLOCK - n % BLOCK) % BLOCK;
		n = n > IO_MAX ? IO_MAX : n;
	}
	fill(buffer, n);
	if (!direct && n > 2 && below(4) == 0) {
		size_t half = below(n);
		struct iovec parts[2] = {{buffer, half}, {buffer + half, n - half}};

		note("writev %zu + %zu", offset, n);
		if (pwritev(fd, parts, 2, (off_t)offset) != (ssize_t)n)
			fail_errno("writev");
	} else {
		note("write %zu + %zu%s", offset, n, direct ? " direct" : "");
		if (pwrite(fd, buffer, n, (off_t)offset) != (ssize_t)n)
			fail_errno("write");
	}
	model_write(buffer, offset, n);
}

static void do_append(void)
{
	size_t n = 1 + below((size_t)1 << below(14));
	int fd;

	if (n > FILE_MAX - model_size)
		return;
	fd = choose(true, O_APPEND);
	fill(buffer, n);
	note("append %zu at %zu", n, model_size);
	if (write(fd, buffer, n) != (ssize_t)n)
		fail_errno("append");
	model_write(buffer, model_size, n);
	if (lseek(fd, 0, SEEK_CUR) != (off_t)model_size)
		fail("the position after an append is not the end");
}

static void do_truncate(void)
{
	size_t size = below(3) ? below(FILE_MAX) : below(model_size + 1);

	note("truncate %zu -> %zu", model_size, size);
	if (below(2) ? truncate(path, (off_t)size) : ftruncate(choose(true, 0), (off_t)size))
		fail_errno("truncate");
	model_truncate(size);
}

static void do_fallocate(void)
{
	size_t offset, n;
	bool keep = below(2);
	int mode = keep ? FALLOC_FL_KEEP_SIZE : 0;

	range(FILE_MAX, &offset, &n);
	switch (below(3)) {
	case 0:
		note("allocate %zu + %zu%s", offset, n, keep ? " keep size" : "");
		if (fallocate(choose(true, 0), mode, (off_t)offset, (off_t)n) < 0)
			fail_errno("fallocate");
		if (!keep && offset + n > model_size)
			model_size = offset + n;
		break;
	case 1:
		if (!(features & PUNCH))
			return;
		note("punch %zu + %zu", offset, n);
		if (fallocate(choose(true, 0), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    (off_t)offset, (off_t)n) < 0)
			fail_errno("punch hole");
		model_zero(offset, n, false);
		break;
	case 2:
		if (!(features & ZERO))
			return;
		note("zero %zu + %zu%s", offset, n, keep ? " keep size" : "");
		if (fallocate(choose(true, 0), FALLOC_FL_ZERO_RANGE | mode, (off_t)offset,
			    (off_t)n) < 0)
			fail_errno("zero range");
		model_zero(offset, n, !keep);
		break;
	}
}

/* Maps the pages of a range within the file. */
static uint8_t *map_range(bool write, int sharing, size_t offset, size_t n, size_t *ret_skip)
{
	size_t skip = offset % BLOCK;
	int fd = -1;
	uint8_t *p;

	for (unsigned i = 0; i < DESCRIPTORS && fd < 0; i++)
		if ((open_file[i].flags & O_ACCMODE) == O_RDWR)
			fd = open_file[i].fd;
	if (fd < 0) {
		reopen(0, O_RDWR);
		fd = open_file[0].fd;
	}
	p = mmap(NULL, skip + n, PROT_READ | (write ? PROT_WRITE : 0), sharing, fd,
		(off_t)(offset - skip));
	if (p == MAP_FAILED)
		fail_errno("mmap");
	*ret_skip = skip;
	return p;
}

static void do_map_read(void)
{
	bool private = below(2);
	size_t offset, n, skip, tail;
	uint8_t *p;

	if (!model_size)
		return;
	range(model_size, &offset, &n);
	note("map %s read %zu + %zu", private ? "private" : "shared", offset, n);
	p = map_range(false, private ? MAP_PRIVATE : MAP_SHARED, offset, n, &skip);
	check("mapped read", p + skip, offset, n);
	/* The rest of the last page is zero. */
	tail = offset + n == model_size ? (BLOCK - model_size % BLOCK) % BLOCK : 0;
	for (size_t i = 0; i < tail; i++)
		if (p[skip + n + i])
			fail("mapped read: byte %zu behind the end is 0x%02x", model_size + i,
				p[skip + n + i]);
	munmap(p, skip + n);
}

static void do_map_write(void)
{
	bool private = below(3) == 0;
	size_t offset, n, skip;
	uint8_t *p;

	if (!model_size)
		return;
	range(model_size, &offset, &n);
	p = map_range(true, private ? MAP_PRIVATE : MAP_SHARED, offset, n, &skip);
	fill(buffer, n);
	memcpy(p + skip, buffer, n);
	if (private) {
		note("map private write %zu + %zu", offset, n);
	} else {
		bool sync = below(4) == 0;

		note("map shared write %zu + %zu%s", offset, n, sync ? " msync" : "");
		model_write(buffer, offset, n);
		map_dirty = true;
		if (sync && msync(p, skip + n, below(2) ? MS_SYNC : MS_ASYNC) < 0)
			fail_errno("msync");
	}
	munmap(p, skip + n);
}

/* A mapping of the whole file that lives on while the file changes under it. */
static void do_long_map(void)
{
	size_t offset, n, skip;

	if (!map) {
		note("long mapping begins");
		map = map_range(true, MAP_SHARED, 0, FILE_MAX, &skip);
		return;
	}
	if (below(16) == 0) {
		note("long mapping ends");
		munmap(map, FILE_MAX);
		map = NULL;
		return;
	}
	if (!model_size)
		return;
	range(model_size, &offset, &n);
	if (below(2)) {
		note("long mapping read %zu + %zu", offset, n);
		check("read of a long mapping", map + offset, offset, n);
	} else {
		note("long mapping write %zu + %zu", offset, n);
		fill(buffer, n);
		memcpy(map + offset, buffer, n);
		model_write(buffer, offset, n);
		map_dirty = true;
	}
}

static void do_sync(void)
{
	int fd = choose(true, 0), r;
	unsigned which = (unsigned)below(3);

	note("sync %u", which);
	r = which == 0 ? fsync(fd) : which == 1 ? fdatasync(fd) : 0;
	if (r < 0)
		fail_errno("fsync");
	if (which == 2 && map && msync(map, FILE_MAX, MS_SYNC) < 0)
		fail_errno("msync of the long mapping");
}

static void do_copy(void)
{
	size_t from, to, n;
	loff_t in, out;
	ssize_t done;

	if (!(features & COPY) || model_size < 2)
		return;
	range(model_size, &from, &n);
	to = below(FILE_MAX - n + 1);
	if (to < from + n && from < to + n)
		return; /* EINVAL by definition */
	note("copy %zu + %zu to %zu", from, n, to);
	reopen(0, O_RDWR);
	while (n) {
		in = (loff_t)from;
		out = (loff_t)to;
		done = copy_file_range(open_file[0].fd, &in, open_file[0].fd, &out, n, 0);
		if (done <= 0)
			fail("copy_file_range returned %zd: %s", done, strerror(errno));
		memcpy(buffer, model + from, (size_t)done);
		model_write(buffer, to, (size_t)done);
		from += (size_t)done;
		to += (size_t)done;
		n -= (size_t)done;
	}
}

static void do_reopen(void)
{
	static const int kinds[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_APPEND,
		O_WRONLY | O_APPEND, O_RDWR | O_SYNC, O_RDWR | O_DIRECT};
	unsigned i = (unsigned)below(DESCRIPTORS);
	int flags = kinds[below(sizeof(kinds) / sizeof(kinds[0]))];

	if ((flags & O_DIRECT) && !(features & DIRECT))
		return;
	if (below(40) == 0 && (flags & O_ACCMODE) != O_RDONLY)
		flags |= O_TRUNC;
	note("reopen descriptor %u with 0%o", i, (unsigned)flags);
	reopen(i, flags);
	if (flags & O_SYNC)
		reopen(i, O_RDWR);
}

static void do_seek(void)
{
	size_t from = below(model_size + 1);
	int fd = choose(false, 0);
	struct stat st;
	off_t data, hole;

	note("sizes and holes from %zu", from);
	if (fstat(fd, &st) < 0 || st.st_size != (off_t)model_size)
		fail("fstat says %lld bytes", (long long)st.st_size);
	if (lseek(fd, 0, SEEK_END) != (off_t)model_size)
		fail("SEEK_END says %lld bytes", (long long)lseek(fd, 0, SEEK_END));
	/* The kernel asks the file system, not its own pages, where there is data. */
	if (map_dirty && sync_file_range(fd, 0, 0,
				 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
					 SYNC_FILE_RANGE_WAIT_AFTER) < 0)
		fail_errno("sync_file_range");
	map_dirty = false;
	if (from == model_size) {
		if (lseek(fd, (off_t)from, SEEK_DATA) >= 0 || errno != ENXIO)
			fail("SEEK_DATA at the end does not say ENXIO");
		return;
	}
	data = lseek(fd, (off_t)from, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		fail_errno("SEEK_DATA");
	for (size_t i = from; i < (data < 0 ? model_size : (size_t)data); i++)
		if (model[i])
			fail("SEEK_DATA from %zu says %lld, but byte %zu is 0x%02x", from,
				(long long)data, i, model[i]);
	hole = lseek(fd, (off_t)from, SEEK_HOLE);
	if (hole < (off_t)from || hole > (off_t)model_size)
		fail("SEEK_HOLE from %zu says %lld", from, (long long)hole);
}

static void check_all(const char *what)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail_errno(what);
	if (st.st_size != (off_t)model_size)
		fail("%s: %lld bytes", what, (long long)st.st_size);
	for (size_t at = 0; at < model_size; at += IO_MAX) {
		size_t n = model_size - at < IO_MAX ? model_size - at : IO_MAX;

		if (pread(fd, buffer, n, (off_t)at) != (ssize_t)n)
			fail_errno(what);
		check(what, buffer, at, n);
	}
	close(fd);
}

/* ---- the run ---- */

static bool works(int fd, int mode)
{
	if (fallocate(fd, mode, 0, BLOCK) == 0)
		return true;
	if (errno != EOPNOTSUPP)
		fail_errno("fallocate");
	return false;
}

static void find_features(char *const *needed)
{
	static const struct {
		const char *name;
		unsigned bit;
	} names[] = {{"punch", PUNCH}, {"zero", ZERO}, {"direct", DIRECT}, {"copy", COPY}};
	char other[4096];
	loff_t in = 0, out = 0;
	unsigned found = 0;
	int fd, direct;

	snprintf(other, sizeof(other), "%s.features", path);
	fd = open(other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || pwrite(fd, buffer, 2 * BLOCK, 0) != 2 * BLOCK)
		fail_errno(other);
	found |= works(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ? PUNCH : 0;
	found |= works(fd, FALLOC_FL_ZERO_RANGE) ? ZERO : 0;
	out = 2 * BLOCK;
	found |= copy_file_range(fd, &in, fd, &out, BLOCK, 0) == BLOCK ? COPY : 0;
	direct = open(other, O_RDWR | O_DIRECT | O_CLOEXEC);
	found |= direct >= 0 ? DIRECT : 0;
	if (direct >= 0)
		close(direct);
	close(fd);
	unlink(other);
	features = found;
	for (unsigned i = 0; i < 4; i++) {
		if (!(found & names[i].bit))
			printf("not offered: %s\n", names[i].name);
		for (char *const *n = needed; *n; n++)
			if (strcmp(*n, names[i].name) == 0 && !(found & names[i].bit))
				fail("%s is needed and not offered", *n);
	}
}

static void state_load(const char *state)
{
	int fd = open(state, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0) {
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0)
			fail_errno(path);
		close(fd);
		return;
	}
	n = read(fd, model, sizeof(model));
	if (n < 0)
		fail_errno(state);
	model_size = (size_t)n;
	close(fd);
	check_all("the file as the last run left it");
}

static void state_save(const char *state)
{
	int fd = open(state, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, model, model_size) != (ssize_t)model_size || close(fd) < 0)
		fail_errno(state);
}

static void do_one(void)
{
	static const struct {
		void (*run)(void);
		unsigned weight;
	} operation[] = {{do_read, 24}, {do_write, 20}, {do_append, 8}, {do_truncate, 6},
		{do_fallocate, 9}, {do_map_read, 6}, {do_map_write, 6}, {do_long_map, 6},
		{do_copy, 4}, {do_reopen, 6}, {do_seek, 4}};
	unsigned at, total = 0;

	for (unsigned i = 0; i < sizeof(operation) / sizeof(operation[0]); i++)
		total += operation[i].weight;
	/* A flush takes as long as a hundred others. */
	if (below(400) == 0) {
		do_sync();
		return;
	}
	at = (unsigned)below(total);
	for (unsigned i = 0;; at -= operation[i++].weight)
		if (at < operation[i].weight) {
			operation[i].run();
			return;
		}
}

int main(int argc, char **argv)
{
	uint64_t steps;

	if (argc < 5) {
		fprintf(stderr, "usage: file_model FILE STATE SEED OPERATIONS [NEEDED...]\n");
		return 2;
	}
	path = argv[1];
	rng_state = seed = strtoull(argv[3], NULL, 0);
	steps = strtoull(argv[4], NULL, 0);
	if (posix_memalign((void **)&buffer, BLOCK, IO_MAX))
		return 2;
	memset(buffer, 1, IO_MAX);
	find_features(argv + 5);
	state_load(argv[2]);
	for (unsigned i = 0; i < DESCRIPTORS; i++) {
		open_file[i].fd = -1;
		reopen(i, O_RDWR);
	}
	for (step = 1; step <= steps; step++) {
		do_one();
		if (step % 5000 == 0)
			check_all("the whole file");
	}
	for (unsigned i = 0; i < DESCRIPTORS; i++)
		close(open_file[i].fd);
	if (map)
		munmap(map, FILE_MAX);
	check_all("the whole file at the end");
	state_save(argv[2]);
	printf("%llu operations\n", (unsigned long long)steps);
	return 0;
}
