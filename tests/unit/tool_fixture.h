/* Another tool beside the servers of a cluster: what it does to a bucket, and the scans that find it. */
#ifndef TESTS_TOOL_FIXTURE_H
#define TESTS_TOOL_FIXTURE_H

#include "tests/unit/cluster.h"

#include "replicator/internal.h"

enum { EAST, WEST };

/* ---- another tool ---- */

static inline struct store *bucket(struct cluster *c, unsigned region)
{
	struct store_config config = {.name = "tool", .url = c->url[region]};
	struct err err = {0};
	struct store *s;

	if (store_dir_open(&config, &s, &err) < 0)
		fail_msg("store_dir_open: %s", err.text);
	return s;
}

static inline void tool_put_meta(struct cluster *c, unsigned region, const char *key, const void *p,
	size_t len, const struct store_meta *meta)
{
	struct store *s = bucket(c, region);
	struct store_error error = {0};

	assert_int_equal(store_put_buf(s, key, p, len, meta, NULL, NULL, NULL, &error), STORE_OK);
	store_close(s);
}

static inline void tool_put(struct cluster *c, unsigned region, const char *key, const char *text)
{
	tool_put_meta(c, region, key, text, strlen(text), NULL);
}

static inline void tool_remove(struct cluster *c, unsigned region, const char *key)
{
	struct store *s = bucket(c, region);
	struct store_error error = {0};

	assert_int_equal(store_remove(s, key, NULL, NULL, &error), STORE_OK);
	store_close(s);
}

/* With all metadata, as `aws s3 cp s3://… s3://…` does. */
static inline void tool_copy(struct cluster *c, unsigned region, const char *from, const char *to)
{
	struct store *s = bucket(c, region);
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_error error = {0};

	assert_int_equal(store_head(s, from, NULL, &meta, NULL, &error), STORE_OK);
	assert_int_equal(store_copy(s, from, to, &meta, NULL, NULL, NULL, &error), STORE_OK);
	store_close(s);
}

static inline void expect_object(struct cluster *c, unsigned region, const char *key, const char *text)
{
	struct store *s = bucket(c, region);
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_error error = {0};
	enum store_result r = store_get_buf(s, key, 1 << 20, &b, NULL, &meta, NULL, &error);

	if (!text) {
		assert_int_equal(r, STORE_ABSENT);
	} else {
		assert_int_equal(r, STORE_OK);
		assert_string_equal(buf_str(&b), text);
		assert_non_null(store_meta_get(&meta, "meridian-stamp"));
	}
	store_close(s);
}

/* ---- scans ---- */

static inline int no_finding(void *ctx UNUSED, enum reconcile_found f UNUSED, const char *key UNUSED)
{
	return 0;
}

static inline struct reconcile_counts scan_as(
	struct cluster *c, unsigned n, unsigned region, struct reconcile_request q)
{
	struct reconcile_counts counts = {0};
	struct err err = {0};

	q.region = region;
	q.alone = true;
	q.found = no_finding;
	if (reconciler_scan(c->node[n].replicator->reconciler, &q, &counts, &err) < 0)
		fail_msg("scan: %s", err.text);
	return counts;
}

static inline struct reconcile_counts scan(struct cluster *c, unsigned n, unsigned region)
{
	return scan_as(c, n, region, (struct reconcile_request){.path = {"", 0}});
}

static inline uint64_t findings(const struct reconcile_counts *c)
{
	uint64_t sum = 0;

	for (unsigned f = 0; f < FOUND_KINDS; f++)
		sum += c->found[f];
	return sum;
}

/* Nothing is young any more, and nothing is left to be found. */
static inline void expect_quiet(struct cluster *c)
{
	cluster_settle(c);
	cluster_now_ms += 3600000;
	for (unsigned n = 0; n < c->nodes; n++) {
		for (unsigned region = EAST; region <= WEST; region++) {
			struct reconcile_counts counts = scan(c, n, region);

			for (unsigned f = 0; f < FOUND_KINDS; f++) {
				if (counts.found[f])
					fail_msg("node %u region %u: %s", n, region,
						reconcile_found_name((enum reconcile_found)f));
			}
		}
	}
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(cluster_backlog(c, 1), 0);
}

static inline void expect_everywhere(struct cluster *c, const char *path, const char *text)
{
	for (unsigned n = 0; n < c->nodes; n++)
		text ? cluster_expect(c, n, path, text) : cluster_expect_absent(c, n, path);
	expect_object(c, EAST, path, text);
	expect_object(c, WEST, path, text);
}

static inline uint64_t conflicts(struct cluster *c)
{
	uint64_t sum = 0;

	for (unsigned n = 0; n < c->nodes; n++) {
		struct replicator_status *s = cluster_status(c, n);
		sum += s->conflicts;
		free(s);
	}
	return sum;
}

#endif
