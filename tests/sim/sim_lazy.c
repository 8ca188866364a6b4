/*
 * Reading by ranges, while objects are replaced, renamed and removed between two of them: blocks of two
 * versions must never meet. And fetching that nobody asked for.
 *
 * And while stores return wrong bytes of versions that have hashes of their parts: none of those may count as
 * a block that is here, or the whole would not be what it should be.
 *
 * Blocks have 32 bytes here, so that files have several. What is left of a file in the middle stays for
 * a later event, over a crash, too.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "cache/file.h"
#include "cache/partial.h"
#include "cache/tree.h"
#include "replicator/internal.h"
#include "replicator/range_source.h"
#include "src/base/random.h"

static uint64_t blocks_read, completed, refused;
static bool wrong; /* what is being read comes with a wrong byte */
static unsigned wrong_node;

static void range(void *ctx UNUSED, struct partial *p UNUSED, uint64_t offset UNUSED,
	uint64_t n UNUSED, cache_fetch_done done, void *arg)
{
	if (done)
		done(arg, -EIO);
}

void sim_lazy_on(struct sim *s, unsigned n, bool on)
{
	cache_set_ranger(s->node[n].cache, on ? range : NULL, NULL, 1);
}

static int write_wrong(void *ctx, const void *p, size_t n)
{
	struct sim_wrong_sink *w = ctx;
	AUTO_FREE char *bytes = malloc(n + 1);

	CHECK(bytes);
	memcpy(bytes, p, n);
	if (w->wrong >= w->at && w->wrong < w->at + n)
		bytes[w->wrong - w->at] ^= 1;
	w->at += n;
	return w->to->write(w->to->ctx, bytes, n);
}

static int reset_wrong(void *ctx)
{
	struct sim_wrong_sink *w = ctx;

	w->at = 0;
	return w->to->reset(w->to->ctx);
}

const struct store_sink *sim_lazy_sink(const struct sim *s UNUSED, unsigned n, const char *key,
	uint64_t length, const struct store_sink *sink, struct sim_wrong_sink *ret)
{
	if (!wrong || n != wrong_node || !length || strncmp(key, ".meridian/parts/", 16) == 0)
		return sink;
	*ret = (struct sim_wrong_sink){
		.sink = {.write = write_wrong, .reset = reset_wrong, .ctx = ret},
		.to = sink,
		.wrong = random_below(length)};
	return &ret->sink;
}

static bool count(void *ctx UNUSED, uint64_t block UNUSED)
{
	blocks_read++;
	return false;
}

static bool none_here(struct partial *p, uint64_t first, uint64_t end)
{
	while (first < end && partial_missing(p, first, first + 1) == first)
		first++;
	return first == end;
}

/* Reads up to three blocks and looks at what came. */
static void read_some(struct sim *s, unsigned n, const char *path, struct partial *p)
{
	struct range_version v = {
		.key = slice_of(path), .hash = partial_hash(p), .size = partial_size(p)};
	CLEANUP(range_buffer_done) struct range_buffer buffer = {0};
	uint64_t blocks = partial_blocks(p), first, end;
	bool fresh;
	struct range_source source;
	bool foreign = false;
	int r = range_source_find(&s->node[n].replicator->regions, &v, &source, &foreign);

	if (r == 0)
		r = range_source_parts(p, &source);
	if (r == -ENODATA)
		return; /* it would be fetched whole */
	for (unsigned i = 0; r == 0 && i < 3; i++) {
		first = partial_missing(p, random_below(blocks), blocks);
		if (first == blocks)
			first = partial_missing(p, 0, blocks);
		if (first == blocks)
			break;
		end = first + 1 + random_below(blocks - first);
		wrong = partial_has_parts(p) && random_below(2) == 0;
		fresh = none_here(p, first, end);
		wrong_node = n;
		r = range_read(p, &source,
			&(struct range_run){.first = first,
				.end = end,
				.priority = STORE_NORMAL,
				.buffer = &buffer,
				.block = count});
		if (wrong && fresh && r == 0)
			sim_fail(s, "n%u: wrong bytes of %s were taken", n, path);
		refused += r == -EBADMSG;
		if (r == -EBADMSG && !wrong)
			sim_fail(s, "n%u: right bytes of %s were refused", n, path);
		wrong = false;
		sim_trace(s, "n%u reads blocks %" PRIu64 " to %" PRIu64 " of %s: %d", n, first, end,
			path, r);
	}
	if (r != 0 && r != -EAGAIN && r != -EIO && r != -EHOSTDOWN && r != -EBADMSG)
		sim_fail(s, "n%u: reading ranges of %s: %d", n, path, r);
	r = partial_finish(p);
	if (r == -EBADMSG)
		sim_fail(s, "n%u: blocks of %s are not of one version", n, path);
	if (r != 0 && r != -EAGAIN)
		sim_fail(s, "n%u: completing %s: %d", n, path, r);
	completed += partial_state(p) == PARTIAL_DONE;
}

/* True: some of it is elsewhere. */
static bool read_partly(struct sim *s, unsigned n)
{
	const char *path = sim_paths[random_below(SIM_PATHS)];
	struct cache *c = s->node[n].cache;
	struct inode inode;
	struct file *f = NULL;
	struct partial *p;
	char bytes[512];
	int r = tree_resolve(c, slice_of(path), &inode);

	if (r || !S_ISREG(inode.mode))
		return false;
	sim_lazy_on(s, n, true);
	r = file_open(c, inode.ino, false, false, &f);
	p = r ? NULL : file_partial(f);
	if (p)
		read_some(s, n, path, p);
	if (!r && file_ready(f, 0, sizeof(bytes)) &&
		file_read(f, bytes, sizeof(bytes), 0) !=
			(ssize_t)(inode.size < sizeof(bytes) ? inode.size : sizeof(bytes)))
		sim_fail(s, "n%u: %s is not as long as it says", n, path);
	file_release(f);
	sim_lazy_on(s, n, false);
	return p != NULL;
}

void sim_lazy_event(struct sim *s, unsigned n)
{
	bool did = false;
	int r = 0;

	/* Its own step, as of a thread; not while another one of the node is on the stack. */
	if (s->node[n].running)
		return;
	s->node[n].running = true;
	s->current = n;
	sim_replaced_settle(s, n);
	if (random_below(3) == 0) {
		sim_lazy_on(s, n, random_below(2) == 0);
		r = replicator_step_refresh(s->node[n].replicator, &did);
		sim_lazy_on(s, n, false);
		if (did)
			sim_trace(s, "n%u fetches ahead: %d", n, r);
	} else {
		for (unsigned i = 0; i < 3 && !read_partly(s, n); i++)
			;
	}
	if (r)
		sim_fail(s, "n%u: fetching ahead: %d", n, r);
	s->node[n].running = false;
}

bool sim_lazy_happened(void)
{
	return blocks_read > 0 && completed > 0;
}

bool sim_lazy_refused(void)
{
	return refused > 0;
}
