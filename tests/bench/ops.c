/* Times operations in a loop and prints JSON: nanoseconds per operation, MiB/s for sequences.
 *
 *     ops DIRECTORY [count=N] [data=MIB] [random=N] [syncs=N] [near=FILE] [far=FILE] [only=NAME,...]
 *
 * near, far: also look up each path of FILE (lines, absolute) and make and remove a file beside it.
 * only: metadata, write_data, read_data, fsync, or single operations of metadata; each needs what those before it leave. DIRECTORY is made if
 * need be, and removed when nothing is left in it. One pass; the caller repeats it and takes minima. Any failure ends the program. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define CHUNK (1U << 20)
#define SYNC_THREADS 8

static char *block;
static const char *only;
static bool first = true;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static void check(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "ops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void print(const char *name, double value)
{
	printf("%s\"%s\": %.1f", first ? "{" : ", ", name, value);
	first = false;
}

static bool wanted(const char *name)
{
	if (!only)
		return true;
	size_t n = strlen(name);
	for (const char *at = only; (at = strstr(at, name)); at += n)
		if ((at == only || at[-1] == ',') && (at[n] == ',' || !at[n]))
			return true;
	return false;
}

static const char *numbered(char kind, unsigned n)
{
	static char name[16];
	snprintf(name, sizeof(name), "%c%u", kind, n);
	return name;
}

static void do_create(unsigned n)
{
	int fd = open(numbered('f', n), O_CREAT | O_EXCL | O_WRONLY, 0644);
	check(fd >= 0 && write(fd, block, BLOCK) == BLOCK && !close(fd), "create");
}

static void do_read(unsigned n)
{
	int fd = open(numbered('f', n), O_RDONLY);
	check(fd >= 0 && read(fd, block, BLOCK) == BLOCK && !close(fd), "read");
}

static void do_stat(unsigned n)
{
	struct stat st;
	check(!stat(numbered('f', n), &st) && st.st_size == BLOCK, "stat");
}

static char directory[3000];

static void do_stat_path(unsigned n)
{
	struct stat st;
	char path[4096];
	snprintf(path, sizeof(path), "%s/f%u", directory, n);
	check(!stat(path, &st) && st.st_size == BLOCK, "stat of a path");
}

static void do_absent(unsigned n)
{
	struct stat st;
	check(stat(numbered('x', n), &st) && errno == ENOENT, "stat of nothing");
}

static void do_chmod(unsigned n)
{
	check(!chmod(numbered('f', n), 0600), "chmod");
}

static void do_rename(unsigned n)
{
	char from[16];
	strcpy(from, numbered('f', n));
	check(!rename(from, numbered('g', n)), "rename");
}

static void do_unlink(unsigned n)
{
	check(!unlink(numbered('g', n)), "unlink");
}

static void do_mkdir(unsigned n)
{
	check(!mkdir(numbered('d', n), 0755), "mkdir");
}

static void do_rmdir(unsigned n)
{
	check(!rmdir(numbered('d', n)), "rmdir");
}

static void time_loop(const char *name, void (*operation)(unsigned), unsigned count)
{
	uint64_t start = now();
	for (unsigned n = 0; n < count; n++)
		operation(n);
	print(name, (double)(now() - start) / count);
}

/* Each operation finds what the one before it left. */
static void metadata(unsigned count)
{
	static const struct {
		const char *name;
		void (*operation)(unsigned);
	} steps[] = {
		{"create", do_create},
		{"open_read", do_read},
		{"stat", do_stat},
		{"stat_path", do_stat_path},
		{"stat_absent", do_absent},
		{"chmod", do_chmod},
		{"rename", do_rename},
		{"unlink", do_unlink},
		{"mkdir", do_mkdir},
		{"rmdir", do_rmdir},
	};
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		if (!wanted("metadata") && !wanted(steps[i].name))
			continue;
		/* Writing and reading made the kernel forget sizes and times: warm is the second stat. */
		if (steps[i].operation == do_stat || steps[i].operation == do_absent)
			for (unsigned n = 0; n < count; n++)
				steps[i].operation(n);
		time_loop(steps[i].name, steps[i].operation, count);
	}
}

static double rate(uint64_t mib, uint64_t ns)
{
	return (double)mib * 1e9 / (double)ns;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void random_io(int fd, uint64_t mib, unsigned count)
{
	uint64_t state = 88172645463325252ULL, blocks = mib * CHUNK / BLOCK, start = now();
	for (unsigned n = 0; n < count; n++)
		check(pwrite(fd, block, BLOCK, (off_t)(next_random(&state) % blocks) * BLOCK) ==
				BLOCK,
			"pwrite");
	print("random_write", (double)(now() - start) / count);
	start = now();
	for (unsigned n = 0; n < count; n++)
		check(pread(fd, block, BLOCK, (off_t)(next_random(&state) % blocks) * BLOCK) ==
				BLOCK,
			"pread");
	print("random_read", (double)(now() - start) / count);
}

static uint64_t read_all(int fd, uint64_t mib)
{
	uint64_t start = now();
	for (uint64_t n = 0; n < mib; n++)
		for (size_t got = 0; got < CHUNK;) {
			ssize_t r = pread(fd, block, CHUNK - got, (off_t)(n * CHUNK + got));
			check(r > 0, "read of a sequence");
			got += (size_t)r;
		}
	return now() - start;
}

static void write_data(uint64_t mib, unsigned count)
{
	int fd = open("data", O_CREAT | O_RDWR, 0644);
	check(fd >= 0, "data");
	uint64_t start = now();
	for (uint64_t n = 0; n < mib; n++)
		check(pwrite(fd, block, CHUNK, (off_t)(n * CHUNK)) == CHUNK, "write of a sequence");
	print("seq_write_mib_s", rate(mib, now() - start));
	start = now();
	for (uint64_t n = 0; n < mib; n++)
		check(pwrite(fd, block, CHUNK, (off_t)(n * CHUNK)) == CHUNK,
			"write over a sequence");
	print("seq_overwrite_mib_s", rate(mib, now() - start));
	random_io(fd, mib, count);
	close(fd);
}

/* As another program finds it: opened for reading only, and warm. */
static void read_data(uint64_t mib, unsigned count)
{
	int fd = open("data", O_RDONLY);
	check(fd >= 0, "data");
	read_all(fd, mib);
	print("seq_read_mib_s", rate(mib, read_all(fd, mib)));
	uint64_t state = 1234567ULL, blocks = mib * CHUNK / BLOCK, start = now();
	for (unsigned n = 0; n < count; n++)
		check(pread(fd, block, BLOCK, (off_t)(next_random(&state) % blocks) * BLOCK) ==
				BLOCK,
			"pread");
	print("random_read_only", (double)(now() - start) / count);
	close(fd);
	check(!unlink("data"), "unlink of data");
}

struct appender {
	pthread_t thread;
	unsigned number, count;
};

static void *append_and_sync(void *argument)
{
	struct appender *a = argument;
	char name[16];
	snprintf(name, sizeof(name), "s%u", a->number);
	int fd = open(name, O_CREAT | O_WRONLY | O_APPEND, 0644);
	check(fd >= 0, name);
	for (unsigned n = 0; n < a->count; n++)
		check(write(fd, block, BLOCK) == BLOCK && !fsync(fd), "append and fsync");
	close(fd);
	check(!unlink(name), name);
	return NULL;
}

static void syncs(const char *name, unsigned threads, unsigned count)
{
	struct appender all[SYNC_THREADS];
	uint64_t start = now();
	for (unsigned n = 0; n < threads; n++) {
		all[n] = (struct appender){.number = n, .count = count};
		check(!pthread_create(&all[n].thread, NULL, append_and_sync, &all[n]), "thread");
	}
	for (unsigned n = 0; n < threads; n++)
		pthread_join(all[n].thread, NULL);
	print(name, (double)(now() - start) / count / threads);
}

struct list {
	char **path;
	unsigned count;
};

static struct list read_list(const char *name)
{
	struct list list = {0};
	FILE *file = fopen(name, "r");
	char line[4096];
	check(file != NULL, name);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		list.path = realloc(list.path, (list.count + 1) * sizeof(char *));
		check(list.path != NULL, "memory");
		list.path[list.count++] = strdup(line);
	}
	fclose(file);
	check(list.count > 0, "empty list");
	return list;
}

static void print_listed(const char *what, const char *suffix, double value)
{
	char name[64];
	snprintf(name, sizeof(name), "%s_%s", what, suffix);
	print(name, value);
}

/* What names lie in is known to the kernel before the clock starts. */
static void lookups(const struct list *list, const char *suffix)
{
	struct stat st;
	char path[4096];
	for (unsigned n = 0; n < list->count; n++) {
		snprintf(path, sizeof(path), "%s", list->path[n]);
		*strrchr(path, '/') = '\0';
		check(!stat(path, &st), path);
	}
	uint64_t start = now();
	for (unsigned n = 0; n < list->count; n++)
		check(!stat(list->path[n], &st), list->path[n]);
	print_listed("lookup", suffix, (double)(now() - start) / list->count);
}

static void changes(const struct list *list, const char *suffix)
{
	char path[4096];
	uint64_t start = now();
	for (unsigned n = 0; n < list->count; n++) {
		snprintf(path, sizeof(path), "%s.new", list->path[n]);
		int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		check(fd >= 0 && write(fd, block, BLOCK) == BLOCK && !close(fd), path);
	}
	print_listed("create", suffix, (double)(now() - start) / list->count);
	start = now();
	for (unsigned n = 0; n < list->count; n++) {
		snprintf(path, sizeof(path), "%s.new", list->path[n]);
		check(!unlink(path), path);
	}
	print_listed("unlink", suffix, (double)(now() - start) / list->count);
}

/* All lookups come before the first change, whose sealing goes on beside what follows. */
static void listed(const char *near, const char *far)
{
	const char *const file[] = {near, far}, *const suffix[] = {"near", "far"};
	struct list list[2] = {0};
	for (unsigned i = 0; i < 2; i++)
		if (file[i]) {
			list[i] = read_list(file[i]);
			lookups(&list[i], suffix[i]);
		}
	for (unsigned i = 0; i < 2; i++) {
		if (file[i])
			changes(&list[i], suffix[i]);
		for (unsigned n = 0; n < list[i].count; n++)
			free(list[i].path[n]);
		free(list[i].path);
	}
}

static uint64_t option(int argc, char **argv, const char *name, uint64_t otherwise)
{
	size_t n = strlen(name);
	for (int i = 2; i < argc; i++)
		if (!strncmp(argv[i], name, n) && argv[i][n] == '=')
			return strtoull(argv[i] + n + 1, NULL, 10);
	return otherwise;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: ops DIRECTORY [count=N] [data=MIB] [random=N] [syncs=N] "
				"[near=FILE] [far=FILE] "
				"[only=metadata,write_data,read_data,fsync or single names]\n");
		return 2;
	}
	for (int i = 2; i < argc; i++)
		if (!strncmp(argv[i], "only=", 5))
			only = argv[i] + 5;
	block = malloc(CHUNK);
	check(block != NULL, "memory");
	memset(block, 'x', CHUNK);
	check((!mkdir(argv[1], 0755) || errno == EEXIST) && !chdir(argv[1]), argv[1]);
	check(getcwd(directory, sizeof(directory)) != NULL, "getcwd");
	const char *near = NULL, *far = NULL;
	for (int i = 2; i < argc; i++) {
		if (!strncmp(argv[i], "near=", 5))
			near = argv[i] + 5;
		if (!strncmp(argv[i], "far=", 4))
			far = argv[i] + 4;
	}
	listed(near, far);
	metadata((unsigned)option(argc, argv, "count", 2000));
	uint64_t mib = option(argc, argv, "data", 256);
	unsigned random = (unsigned)option(argc, argv, "random", 20000);
	if (wanted("write_data"))
		write_data(mib, random);
	if (wanted("read_data"))
		read_data(mib, random);
	unsigned count = (unsigned)option(argc, argv, "syncs", 200);
	if (wanted("fsync")) {
		syncs("fsync_1", 1, count);
		syncs("fsync_8", SYNC_THREADS, count);
	}
	printf("%s}\n", first ? "{" : "");
	check(!chdir("/") && (!rmdir(argv[1]) || errno == ENOTEMPTY), argv[1]);
	free(block);
	return 0;
}
