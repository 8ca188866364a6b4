/*
 * fsync that waits for regions. What was acknowledged is looked for in the buckets themselves, at that moment: with
 * quorum more than half of them have the segment that announces it and its content, so it survives the
 * loss of this server together with any minority of the regions.
 *
 * A file that was written again, renamed or overtaken by another server meanwhile has another story; those waits
 * only have to end.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdio.h>

#include "cache/tree.h"
#include "replicator/segment.h"
#include "src/base/hash.h"
#include "src/base/random.h"
#include "tests/sim/store_mem.h"

#define WAITS_MAX 64

static struct promise {
	struct sim *s;
	unsigned n;
	const char *path; /* NULL: the slot is free */
	uint64_t ino;
	enum durability mode;
	uint8_t hash[SHA256_SIZE];
	int64_t deadline_ms;
} promises[WAITS_MAX];

static uint64_t kept, refused;

static bool content_hash(struct sim_node *node, uint64_t ino, uint8_t hash[SHA256_SIZE])
{
	struct file *f;
	uint8_t p[1024];
	ssize_t size;

	if (file_open(node->cache, ino, false, false, &f) < 0)
		return false;
	size = file_read(f, p, sizeof p, 0);
	file_release(f);
	if (size < 0 || size == sizeof p)
		return false;
	sha256(p, (size_t)size, hash);
	return true;
}

/* What a region has of a promise. */
struct search {
	const struct promise *p;
	struct store *mem;
	bool announced;
	bool content;
};

static int look_at_record(void *ctx, const struct record *record, const struct err *err)
{
	struct search *search = ctx;

	if (!record || record->entry.kind != KIND_FILE ||
		memcmp(record->entry.hash, search->p->hash, SHA256_SIZE) != 0 ||
		!slice_equal(key_slice(&record->key), slice_of(search->p->path)))
		return 0;
	search->announced = true;
	search->content |= record->has_content || record->entry.size == 0;
	return 0;
}

static int look_at_segment(void *ctx, const char *key, const struct store_object *object)
{
	struct search *search = ctx;
	struct store_error error = {0};
	struct segment segment = {0};
	struct buf b = {0};

	CHECK(store_get_buf(search->mem, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, NULL, &error) ==
		STORE_OK);
	CHECK(segment_parse(key + strlen(SEGMENT_PREFIX), b.data, b.len, &segment, NULL) == 0);
	CHECK(segment_each(&segment, look_at_record, search) == 0);
	segment_done(&segment);
	buf_done(&b);
	return 0;
}

/* False: another version is there, and nothing can be said. */
static bool look_at_region(struct search *search)
{
	struct store_error error = {0};
	uint8_t hash[SHA256_SIZE];
	struct buf b = {0};
	bool same = true;

	CHECK(store_list(search->mem, SEGMENT_PREFIX, NULL, 0, look_at_segment, search, NULL,
		      &error) == STORE_OK);
	if (!search->announced || search->content)
		return true;
	if (store_get_buf(search->mem, search->p->path, 1 << 20, &b, NULL, NULL, NULL, &error) ==
		STORE_OK) {
		sha256(b.data, b.len, hash);
		same = memcmp(hash, search->p->hash, SHA256_SIZE) == 0;
		search->content = same;
	}
	buf_done(&b);
	return same;
}

static void check_kept(struct promise *p)
{
	struct sim *s = p->s;
	struct sim_node *node = &s->node[p->n];
	uint8_t hash[SHA256_SIZE];
	struct inode inode;
	unsigned have = 0, need = s->regions / 2 + 1;
	bool home = false;

	if (tree_resolve(node->cache, slice_of(p->path), &inode) < 0 || inode.ino != p->ino ||
		!content_hash(node, p->ino, hash) || memcmp(hash, p->hash, SHA256_SIZE) != 0)
		return;
	for (unsigned r = 0; r < s->regions; r++) {
		struct search search = {.p = p, .mem = s->region[r].mem};

		if (!look_at_region(&search))
			return;
		have += search.announced && search.content;
		home |= r == node->home && search.announced && search.content;
	}
	if (p->mode == DURABILITY_HOME ? !home
				       : have < (p->mode == DURABILITY_ALL ? s->regions : need))
		sim_fail(s, "n%u: fsync of %s with %s was acknowledged, %u of %u regions have it",
			p->n, p->path, durability_name(p->mode), have, s->regions);
	kept++;
}

static void answered(void *arg, int result)
{
	struct promise *p = arg;

	sim_trace(p->s, "n%u fsync of %s with %s: %d", p->n, p->path, durability_name(p->mode),
		result);
	if (result == 0)
		check_kept(p);
	else if (result != -EIO && result != -ESTALE)
		sim_fail(p->s, "n%u: fsync of %s: %d", p->n, p->path, result);
	else
		refused++;
	p->path = NULL;
}

void sim_durability_sync(struct sim *s, unsigned n, const char *path, uint64_t ino)
{
	struct sim_node *node = &s->node[n];
	struct promise *p = NULL;

	for (unsigned i = 0; i < WAITS_MAX && !p; i++)
		p = promises[i].path ? NULL : &promises[i];
	if (!p)
		return;
	*p = (struct promise){.s = s,
		.n = n,
		.ino = ino,
		.mode = DURABILITY_HOME + (enum durability)random_below(3),
		.deadline_ms = s->now_ms + SIM_DURABILITY_MS};
	if (!content_hash(node, ino, p->hash))
		return;
	p->path = path;
	sim_trace(s, "n%u app fsync %s with %s", n, path, durability_name(p->mode));
	replicator_wait_durable(node->replicator, ino, p->mode, answered, p);
}

bool sim_durability_step(struct sim *s, unsigned n)
{
	bool did = false;
	int r = replicator_step_durable(s->node[n].replicator, &did);

	if (r < 0)
		sim_fail(s, "n%u: step durable: %d", n, r);
	for (unsigned i = 0; i < WAITS_MAX; i++) {
		if (promises[i].path && promises[i].n == n && s->now_ms > promises[i].deadline_ms)
			sim_fail(
				s, "n%u: fsync of %s is not answered in time", n, promises[i].path);
	}
	return did;
}

void sim_durability_done(struct sim *s)
{
	for (unsigned i = 0; i < WAITS_MAX; i++) {
		if (promises[i].path)
			sim_fail(s, "n%u: fsync of %s is not answered", promises[i].n,
				promises[i].path);
	}
}

uint64_t sim_durability_kept(void)
{
	return kept;
}
