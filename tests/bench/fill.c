/* Fills a state directory with files, as if another server had made them, for the benchmarks of large volumes.
 *
 *     fill STATE_DIR REGION FILES [PER_DIRECTORY]
 *
 * Goes the way of a merge: the entry is put and projected into the tree, where the content is remote. Nothing is journalled and
 * nothing is due to REGION, whose configured name this must be. Paths are d<x>/e<y>/f<n>, PER_DIRECTORY (1,000) files in each
 * e<y>, 100 of those in each d<x>. 10,000 files are one transaction. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/entry.h"
#include "cache/project.h"
#include "cache/region.h"
#include "src/base/clock.h"

#define BATCH 10000
#define DIRECTORIES 100
#define WAL_BYTES (64U << 20)

struct fill {
	struct cache *cache;
	struct conn *conn;
	unsigned pending;
};

static int put(struct fill *f, const char *path, enum kind kind)
{
	struct slice key = slice_of(path);
	struct entry e = {.kind = kind, .mode = kind == KIND_DIR ? 0755 : 0644};
	uint64_t kept = 0;
	int r = 0;

	if (!f->conn)
		r = cache_begin(f->cache, &f->conn);
	if (r)
		return r;
	e.content_stamp = e.attr_stamp = cache_stamp(f->cache);
	e.content_mtime_ns = clock_realtime_ns();
	vector_raise(&e.vector, e.content_stamp);
	if (kind == KIND_FILE) {
		e.size = 4096;
		sha256(key.p, key.len, e.hash);
	}
	r = entry_put(f->conn, key, &e);
	if (!r)
		r = project_entry(f->conn, key, &e, true, NULL, &kept);
	if (r || ++f->pending < BATCH)
		return r;
	f->pending = 0;
	r = cache_commit(f->conn);
	f->conn = NULL;
	return r ? r : cache_checkpoint(f->cache, WAL_BYTES);
}

static int make_files(struct fill *f, uint64_t files, uint64_t per_directory)
{
	char path[96];
	int r = 0;

	for (uint64_t n = 0; !r && n < files; n++) {
		uint64_t directory = n / per_directory, top = directory / DIRECTORIES;

		if (n % (per_directory * DIRECTORIES) == 0) {
			snprintf(path, sizeof(path), "d%llu", (unsigned long long)top);
			r = put(f, path, KIND_DIR);
		}
		if (!r && n % per_directory == 0) {
			snprintf(path, sizeof(path), "d%llu/e%llu", (unsigned long long)top,
				(unsigned long long)directory);
			r = put(f, path, KIND_DIR);
		}
		snprintf(path, sizeof(path), "d%llu/e%llu/f%llu", (unsigned long long)top,
			(unsigned long long)directory, (unsigned long long)n);
		if (!r)
			r = put(f, path, KIND_FILE);
	}
	if (f->conn && !r) {
		r = cache_commit(f->conn);
		f->conn = NULL;
	}
	if (f->conn)
		cache_rollback(f->conn);
	return r;
}

int main(int argc, char **argv)
{
	const struct cache_options options = {
		.state_dir = argc > 1 ? argv[1] : "", .sync_off = true};
	struct fill f = {0};
	struct err err = {0};
	unsigned id;
	int r;

	if (argc < 4) {
		fprintf(stderr, "usage: fill STATE_DIR REGION FILES [PER_DIRECTORY]\n");
		return 2;
	}
	r = cache_open(&options, &f.cache, &err);
	if (!r) {
		const char *names[] = {argv[2]};

		r = region_register(f.cache, names, 1, false, &id, &err);
		if (!r)
			r = make_files(&f, strtoull(argv[3], NULL, 10),
				argc > 4 ? strtoull(argv[4], NULL, 10) : 1000);
		cache_close(f.cache);
	}
	if (r)
		fprintf(stderr, "fill: %s: %s\n", strerror(-r), err.text);
	return r != 0;
}
