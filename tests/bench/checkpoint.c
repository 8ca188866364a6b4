/*
 * checkpoint BUCKET FILES: puts a checkpoint of that many files, 1,000 a directory, into the directory of a
 * file:// region, as some server might have written it that nobody knows any more. For measuring what
 * a new server takes to start from one.
 */
#include <stdio.h>

#include "replicator/checkpoint.h"
#include "src/base/clock.h"
#include "src/base/random.h"

#define NODE 0x6368656b706f696eu
#define A_DIRECTORY 1000u

struct filling {
	struct store *store;
	struct checkpoint c;
	struct segment_writer part;
	struct buf out;
};

static void put(struct filling *f, const char *name)
{
	char key[CHECKPOINT_KEY_SIZE];
	struct store_error error = {0};

	snprintf(key, sizeof(key), CHECKPOINT_PREFIX "%s", name);
	CHECK(store_put_buf(f->store, key, f->out.data, f->out.len, NULL, NULL, NULL, NULL,
		      &error) == STORE_OK);
}

static void finish_part(struct filling *f)
{
	struct segment_id id = {f->c.ms, NODE, f->c.part_count + 1};
	struct checkpoint_part *part = &f->c.parts[f->c.part_count++];
	char name[SEGMENT_NAME_SIZE];

	CHECK(segment_finish(&f->part, &id, "", false, &f->out) == 0);
	part->size = f->out.len;
	sha256(f->out.data, f->out.len, part->hash);
	f->c.records += f->part.records;
	buf_clear(&f->part.raw);
	f->part.records = 0;
	segment_name(&id, name);
	put(f, name);
}

static void add(struct filling *f, enum kind kind, uint64_t number, const char *path)
{
	struct stamp stamp = {.time = (f->c.ms - 1000000 + number / 1000) << 16, .node = NODE};
	struct record r = {.entry = {.kind = kind,
				   .mode = kind == KIND_DIR ? 0755 : 0644,
				   .uid = 1000,
				   .gid = 1000,
				   .content_mtime_ns = (int64_t)(f->c.ms * 1000000 + number),
				   .content_stamp = stamp,
				   .attr_stamp = stamp}};

	CHECK(key_set(&r.key, slice_of(path)));
	if (kind == KIND_FILE) {
		r.entry.size = 1000 + number % 100000;
		random_bytes(r.entry.hash, sizeof(r.entry.hash));
	}
	segment_add(&f->part, &r);
	if (f->part.raw.len >= CHECKPOINT_PART_BYTES)
		finish_part(f);
}

int main(int argc, char **argv)
{
	struct filling f = {.c = {.node = NODE, .cover_count = 1}};
	uint64_t files = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	struct store_config config = {.name = "bench", .url = argc == 3 ? argv[1] : ""};
	char name[CHECKPOINT_NAME_SIZE], path[64];
	struct err err = {0};

	if (!files || store_open(&config, &f.store, &err) < 0) {
		fprintf(stderr, "usage: checkpoint file:///BUCKET FILES\n%s\n", err.text);
		return 2;
	}
	f.c.ms = (uint64_t)clock_realtime_ms();
	f.c.parts = calloc(files / 1000 + 2, sizeof(*f.c.parts));
	f.c.covers = calloc(1, sizeof(*f.c.covers));
	CHECK(f.c.parts && f.c.covers);
	f.c.covers[0] = (struct segment_id){.ms = f.c.ms, .node = NODE, .seq = 1};
	for (uint64_t at = 0; at < files; at++) {
		snprintf(path, sizeof(path), "directory-%05u", (unsigned)(at / A_DIRECTORY));
		if (at % A_DIRECTORY == 0)
			add(&f, KIND_DIR, at, path);
		snprintf(path, sizeof(path), "directory-%05u/some-file-%04u.dat",
			(unsigned)(at / A_DIRECTORY), (unsigned)(at % A_DIRECTORY));
		add(&f, KIND_FILE, at, path);
	}
	if (f.part.records)
		finish_part(&f);
	checkpoint_encode(&f.c, &f.out);
	checkpoint_name(f.c.ms, NODE, name);
	put(&f, name);
	printf("%llu records in %u parts\n", (unsigned long long)f.c.records, f.c.part_count);
	checkpoint_done(&f.c);
	segment_writer_done(&f.part);
	buf_done(&f.out);
	store_close(f.store);
	return 0;
}
