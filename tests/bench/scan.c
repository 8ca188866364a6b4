/* What a reconcile scan of a large region costs this machine: seconds and memory. The region is made up: a listing of
 * FILES keys and their metadata, from no server.
 *
 *     scan DIRECTORY FILES
 *
 * Exits with 1 when a scan does not see everything, asks for what it should not, or takes more than half of the 200 MB
 * that are promised.
 *
 * Three scans: nothing is known of the bucket (each object is asked for), everything is known, and a hundredth of the
 * objects was replaced by another tool. Entries are put, not shown in the tree: fill.c measures that. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/entry.h"
#include "replicator/internal.h"
#include "replicator/object.h"
#include "src/base/clock.h"
#include "src/base/log.h"

struct made_up {
	struct store s;
	uint64_t files;
	uint64_t node;
	unsigned generation; /* of every hundredth object */
	char volume[1024];   /* .meridian/volume.json, as it was put; of Meridian's own the only one that is kept */
	size_t volume_len;
};

#define VOLUME_KEY ".meridian/volume.json"

static const char body[4096];
static uint8_t hash_of_body[SHA256_SIZE];

static struct made_up *of(struct store *s)
{
	return (struct made_up *)s;
}

static void key_of(uint64_t n, char key[64])
{
	snprintf(key, 64, "d%03" PRIu64 "/e%03" PRIu64 "/f%09" PRIu64, n / 100000, n / 1000 % 100,
		n);
}

static void object_of(const struct made_up *m, uint64_t n, struct store_object *o)
{
	*o = (struct store_object){.size = 4096, .mtime_ms = 1700000000000};
	snprintf(o->etag, sizeof(o->etag), "%032" PRIx64 "%u", n, n % 100 ? 0 : m->generation);
}

static void entry_of(const struct made_up *m, uint64_t n, struct entry *e)
{
	*e = (struct entry){.kind = KIND_FILE,
		.size = 4096,
		.mode = 0644,
		.content_mtime_ns = 1700000000000000000,
		.content_stamp = {.time = (UINT64_C(1700000000000) << 16) + n, .node = m->node}};
	memcpy(e->hash, hash_of_body, SHA256_SIZE);
	e->attr_stamp = e->content_stamp;
	vector_raise(&e->vector, e->content_stamp);
}

static enum store_result list(struct store *s, const char *prefix, const char *after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call UNUSED,
	struct store_error *error UNUSED)
{
	struct made_up *m = of(s);
	uint64_t low = 0, high = m->files, count = 0;
	struct store_object o;
	char key[64];

	if (strncmp(prefix, ".meridian/", 10) == 0)
		return STORE_OK;
	while (after && low < high) {
		uint64_t middle = low + (high - low) / 2;

		key_of(middle, key);
		if (strcmp(key, after) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < m->files && count < limit; low++, count++) {
		key_of(low, key);
		object_of(m, low, &o);
		if (fn(ctx, key, &o))
			break;
	}
	return STORE_OK;
}

static enum store_result head(struct store *s, const char *key, struct store_object *o,
	struct store_meta *meta, const struct store_call *call UNUSED,
	struct store_error *error UNUSED)
{
	struct store_meta made = {0};
	struct entry e;

	if (strncmp(key, ".meridian/", 10) == 0)
		return STORE_ABSENT;
	uint64_t n = strtoull(strrchr(key, 'f') + 1, NULL, 10);
	entry_of(of(s), n, &e);
	object_of(of(s), n, o);
	if (!meta)
		return STORE_OK;
	if (n % 100 || !of(s)->generation) {
		CHECK(object_meta_from_entry(&e, false, &made) == 0);
		CHECK(object_meta_set_key(&made, key) == 0);
	}
	*meta = made;
	return STORE_OK;
}

static enum store_result get(struct store *s, const char *key, uint64_t offset UNUSED,
	uint64_t length UNUSED, const char *match UNUSED, const struct store_sink *sink,
	struct store_object *o, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	struct store_object object;

	if (strcmp(key, VOLUME_KEY) == 0 && of(s)->volume_len)
		return sink->write(sink->ctx, of(s)->volume, of(s)->volume_len) == 0 ? STORE_OK : STORE_LOCAL;
	if (strncmp(key, ".meridian/", 10) == 0)
		return STORE_ABSENT;
	enum store_result r = head(s, key, o ? o : &object, meta, call, error);
	return r == STORE_OK && sink->write(sink->ctx, body, sizeof(body)) == 0 ? STORE_OK
										: STORE_LOCAL;
}

static enum store_result put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta UNUSED,
	const struct store_condition *condition UNUSED, char *etag UNUSED,
	const struct store_call *call UNUSED, struct store_error *error UNUSED)
{
	struct made_up *m = of(s);

	if (strcmp(key, VOLUME_KEY) != 0)
		return STORE_OK;
	CHECK(source->size <= sizeof(m->volume));
	CHECK(source->read(source->ctx, 0, m->volume, source->size) == (ssize_t)source->size);
	m->volume_len = source->size;
	return STORE_OK;
}

static enum store_result drop(struct store *s UNUSED, const char *key UNUSED,
	const char *match UNUSED, const struct store_call *call UNUSED,
	struct store_error *error UNUSED)
{
	return STORE_OK;
}

static enum store_result copy(struct store *s, const char *from,
	const char *to UNUSED, const struct store_meta *meta UNUSED, const char *match UNUSED,
	char *etag, const struct store_call *call UNUSED, struct store_error *error UNUSED)
{
	struct store_object o;
	enum store_result r = head(s, from, &o, NULL, NULL, NULL);

	if (r == STORE_OK && etag)
		snprintf(etag, STORE_ETAG_SIZE, "%s", o.etag);
	return r;
}

static void leave(struct store *s UNUSED)
{
}

static const struct store_ops ops = {.name = "made up",
	.get = get,
	.put = put,
	.head = head,
	.list = list,
	.remove = drop,
	.copy = copy,
	.close = leave};

static void put_entries(struct cache *c, const struct made_up *m)
{
	struct conn *conn = NULL;

	for (uint64_t n = 0; n < m->files; n++) {
		struct entry e;
		char key[64];

		if (!conn)
			CHECK(cache_begin(c, &conn) == 0);
		key_of(n, key);
		entry_of(m, n, &e);
		CHECK(entry_put(conn, slice_of(key), &e) == 0);
		if (n % 20000 == 19999 || n + 1 == m->files) {
			CHECK(cache_commit(conn) == 0);
			CHECK(cache_checkpoint(c, 1 << 20) == 0);
			conn = NULL;
		}
	}
}

/* Since the last call. */
static long peak_kib(void)
{
	char line[128];
	long kib = 0;
	FILE *f = fopen("/proc/self/status", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, "VmHWM:", 6) == 0)
			kib = strtol(line + 6, NULL, 10);
	fclose(f);
	f = fopen("/proc/self/clear_refs", "w");
	if (f) {
		fputs("5", f);
		fclose(f);
	}
	return kib;
}

enum { RESIDENT_MAX_MIB = 100 };

/* looked: how many objects are to be asked for. False: not as promised. */
static bool scan(struct replicator *r, const char *what, uint64_t files, uint64_t looked)
{
	const struct reconcile_request q = {.path = {"", 0}};
	struct reconcile_counts counts;
	struct err err = {0};

	(void)peak_kib();
	int64_t start = clock_monotonic_ms();
	int code = reconciler_scan(r->reconciler, &q, &counts, &err);
	if (code < 0)
		fprintf(stderr, "scan: %s\n", err.text);
	long mib = peak_kib() / 1024;
	printf("%s: %.1f s, %ld MiB resident at most, %" PRIu64 " objects, %" PRIu64
	       " asked for, %" PRIu64 " overwritten\n",
		what, (double)(clock_monotonic_ms() - start) / 1000, mib, counts.objects, counts.looked,
		counts.found[FOUND_OVERWRITE]);
	return code == 0 && counts.objects == files && counts.looked == looked && mib <= RESIDENT_MAX_MIB;
}

int main(int argc, char **argv)
{
	struct made_up m = {
		.s = {.ops = &ops, .capabilities = STORE_CAP_COPY | STORE_CAP_COPY_IF_MATCH}};
	struct replicator_options o = {.volume = "scan", .regions = 1};
	struct cache_options co = {.sync_off = true};
	struct replicator *r;
	struct err err = {0};
	struct cache *c;

	if (argc != 3)
		return 2;
	co.state_dir = argv[1];
	m.files = strtoull(argv[2], NULL, 10);
	sha256(body, sizeof(body), hash_of_body);
	log_set_level(LOG_LEVEL_WARN);
	o.region[0].store.name = "made-up";
	o.region[0].opened = &m.s;
	if (cache_open(&co, &c, &err) < 0 || replicator_new(c, &o, &r, &err) < 0) {
		fprintf(stderr, "scan: %s\n", err.text);
		return 1;
	}
	m.node = 1; /* another server wrote it all */
	put_entries(c, &m);
	struct region *region = &r->regions.region[0];
	region->state = REGION_UP;
	region->checked = region->probed = true;
	bool ok = scan(r, "nothing known", m.files, m.files);
	ok = scan(r, "everything known", m.files, 0) && ok;
	m.generation = 1;
	ok = scan(r, "a hundredth replaced", m.files, (m.files + 99) / 100) && ok;
	replicator_free(r);
	cache_close(c);
	return ok ? 0 : 1;
}
