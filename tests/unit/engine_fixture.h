/* Two servers without a bucket between them, for the tests of sealing and merging: records are
 * carried by hand. */
#ifndef TESTS_ENGINE_FIXTURE_H
#define TESTS_ENGINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/conflict.h"
#include "cache/file.h"
#include "cache/journal.h"
#include "cache/outbox.h"
#include "cache/progress.h"
#include "cache/region.h"
#include "cache/tree.h"
#include "replicator/merge.h"
#include "replicator/seal.h"
#include "src/base/clock.h"

#define INLINE_MAX 4096u

struct server {
	char dir[64];
	struct cache *cache;
	struct inline_cache *inline_cache;
	struct sealer *sealer;
	unsigned region;
	bool region_up; /* what the sealer is told */
	unsigned set_size, set_max; /* the sealer's options; 0: its own */
};

static inline bool server_region_up(void *ctx, unsigned region)
{
	return ((struct server *)ctx)->region_up;
}

static inline void server_open(struct server *s)
{
	const struct cache_options options = {
		.state_dir = s->dir, .sync_off = true, .no_lock = true};
	const struct sealer_options sealer = {.inline_max = INLINE_MAX,
		.seal_after_ms = 5000,
		.busy_ms = 300,
		.region_up = server_region_up,
		.region_ctx = s,
		.set_size = s->set_size,
		.set_max = s->set_max};
	const char *const region = "east";
	struct err err = {0};

	if (cache_open(&options, &s->cache, &err))
		fail_msg("cache_open: %s", err.text);
	if (region_register(s->cache, &region, 1, false, &s->region, &err))
		fail_msg("region_register: %s", err.text);
	s->inline_cache = inline_cache_new(1 << 20);
	assert_non_null(s->inline_cache);
	assert_int_equal(sealer_new(s->cache, &sealer, s->inline_cache, &s->sealer), 0);
}

static inline void server_close(struct server *s)
{
	sealer_free(s->sealer);
	inline_cache_free(s->inline_cache);
	cache_close(s->cache);
}

static inline void server_start(struct server *s)
{
	*s = (struct server){0};
	snprintf(s->dir, sizeof(s->dir), "/tmp/meridian-test-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	server_open(s);
}

static inline int server_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static inline void server_end(struct server *s)
{
	server_close(s);
	nftw(s->dir, server_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* Its sealer has no more room than that. */
static inline void server_cramp(struct server *s, unsigned set_size, unsigned set_max)
{
	server_close(s);
	s->set_size = set_size;
	s->set_max = set_max;
	server_open(s);
}

/* servers[0] and [1] as state. */
static inline int servers_setup(void **state)
{
	struct server *s = calloc(2, sizeof(*s));

	if (!s)
		return -1;
	server_start(&s[0]);
	server_start(&s[1]);
	*state = s;
	return 0;
}

static inline int servers_teardown(void **state)
{
	struct server *s = *state;

	server_end(&s[0]);
	server_end(&s[1]);
	free(s);
	return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, servers_setup, servers_teardown)

/* ---- what applications do ---- */

static inline uint64_t ino_of(struct server *s, struct slice key)
{
	struct inode i;
	int r = tree_resolve(s->cache, key, &i);

	return r ? 0 : i.ino;
}

static inline void do_write(struct server *s, const char *path, const char *content)
{
	struct slice key = slice_of(path);
	uint64_t ino = ino_of(s, key);
	struct file *f;
	struct inode i;

	if (ino)
		assert_int_equal(file_open(s->cache, ino, true, true, &f), 0);
	else
		assert_int_equal(tree_create_open(s->cache, ino_of(s, key_parent(key)),
					 key_name(key), S_IFREG | 0644, 1000, 1000, true, &i, &f),
			0);
	assert_int_equal(
		file_write(f, content, strlen(content), 0, false), (ssize_t)strlen(content));
	file_release(f);
}

static inline void do_mkdir(struct server *s, const char *path)
{
	struct slice key = slice_of(path);
	struct inode i;

	assert_int_equal(tree_create(s->cache, ino_of(s, key_parent(key)), key_name(key),
				 S_IFDIR | 0755, 1000, 1000, NULL, &i),
		0);
}

static inline void do_symlink(struct server *s, const char *path, const char *target)
{
	struct slice key = slice_of(path);
	struct inode i;

	assert_int_equal(tree_create(s->cache, ino_of(s, key_parent(key)), key_name(key),
				 S_IFLNK | 0777, 1000, 1000, target, &i),
		0);
}

static inline void do_unlink(struct server *s, const char *path)
{
	struct slice key = slice_of(path);

	assert_int_equal(tree_unlink(s->cache, ino_of(s, key_parent(key)), key_name(key)), 0);
}

static inline void do_rmdir(struct server *s, const char *path)
{
	struct slice key = slice_of(path);

	assert_int_equal(tree_rmdir(s->cache, ino_of(s, key_parent(key)), key_name(key)), 0);
}

static inline void do_rename(struct server *s, const char *from, const char *to)
{
	struct slice a = slice_of(from), b = slice_of(to);

	assert_int_equal(tree_rename(s->cache, ino_of(s, key_parent(a)), key_name(a),
				 ino_of(s, key_parent(b)), key_name(b), 0),
		0);
}

static inline void do_chmod(struct server *s, const char *path, uint32_t mode)
{
	struct inode v = {.mode = mode}, i;

	assert_int_equal(tree_setattr(s->cache, ino_of(s, slice_of(path)), SET_MODE, &v, &i), 0);
}

static inline void do_touch(struct server *s, const char *path, int64_t mtime_ns)
{
	struct inode v = {.mtime_ns = mtime_ns}, i;

	assert_int_equal(tree_setattr(s->cache, ino_of(s, slice_of(path)), SET_MTIME, &v, &i), 0);
}

static inline void do_link(struct server *s, const char *from, const char *to)
{
	struct inode i;

	assert_int_equal(
		tree_link(s->cache, ino_of(s, slice_of(from)), ROOT_INO, slice_of(to), &i), 0);
}

/* ---- what is there ---- */

static inline struct inode inode_at(struct server *s, const char *path)
{
	struct inode i = {0};

	assert_int_equal(tree_getattr(s->cache, ino_of(s, slice_of(path)), &i), 0);
	return i;
}

#define REMOTE "(remote)"

/* Content with NUL, "" for an absent path, REMOTE where it would have to be fetched; heap. */
static inline char *content_at(struct server *s, const char *path)
{
	uint64_t ino = ino_of(s, slice_of(path));
	char *p = calloc(1, 65536);
	struct file *f;
	ssize_t n;
	int r;

	assert_non_null(p);
	if (!ino)
		return p;
	r = file_open(s->cache, ino, false, false, &f);
	if (r == -EREMOTE)
		return strcpy(p, REMOTE);
	assert_int_equal(r, 0);
	n = file_read(f, p, 65535, 0);
	assert_true(n >= 0);
	file_release(f);
	return p;
}

static inline void assert_content(struct server *s, const char *path, const char *content)
{
	char *p = content_at(s, path);

	assert_string_equal(p, content);
	free(p);
}

static inline bool exists(struct server *s, const char *path)
{
	return ino_of(s, slice_of(path)) != 0;
}

static inline void get_entry(struct server *s, const char *path, struct entry *ret)
{
	struct conn *conn;
	int r;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	r = entry_get(conn, slice_of(path), ret);
	cache_read_end(conn);
	if (r == -ENOENT)
		*ret = (struct entry){0};
	else
		assert_int_equal(r, 0);
}

static inline void seal(struct server *s)
{
	bool did = true;

	while (did)
		assert_int_equal(sealer_step(s->sealer, &did), 0);
}

static inline uint64_t journal_rows(struct server *s)
{
	struct journal_stats stats;
	struct conn *conn;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(journal_stats(conn, &stats), 0);
	cache_read_end(conn);
	return stats.rows;
}

static inline uint64_t conflicts(struct server *s)
{
	struct conn *conn;
	uint64_t n;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(conflict_count(conn, &n), 0);
	cache_read_end(conn);
	return n;
}

static inline struct outbox_stats outbox(struct server *s)
{
	struct outbox_stats stats;
	struct conn *conn;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_stats(conn, s->region, &stats), 0);
	cache_read_end(conn);
	return stats;
}

/* Rows of one state, in order of first; at most 64. */
static inline unsigned outbox_rows(
	struct server *s, enum outbox_state state, struct outbox_row *rows)
{
	struct conn *conn;
	unsigned count = 0;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_due(conn, s->region, state, INT64_MAX, 0, 64, rows, &count), 0);
	cache_read_end(conn);
	return count;
}

/* As when everything was delivered. */
static inline void outbox_empty(struct server *s)
{
	static const enum outbox_state states[] = {OUTBOX_UPLOAD, OUTBOX_ANNOUNCE, OUTBOX_OBJECT};
	struct outbox_row *rows = calloc(64, sizeof(*rows));

	assert_non_null(rows);
	for (unsigned i = 0; i < ARRAY_SIZE(states); i++) {
		unsigned n;

		while ((n = outbox_rows(s, states[i], rows)) > 0) {
			struct conn *conn;

			assert_int_equal(cache_begin(s->cache, &conn), 0);
			for (unsigned k = 0; k < n; k++)
				assert_int_equal(outbox_finish(conn, s->region,
							 key_slice(&rows[k].key), rows[k].stamp),
					0);
			assert_int_equal(cache_commit(conn), 0);
		}
	}
	assert_int_equal(outbox(s).rows, 0);
	free(rows);
}

/* ---- carrying records ---- */

static inline const struct merger_options *merger_options(struct server *s)
{
	static struct merger_options o;

	o = (struct merger_options){
		.sealer = s->sealer, .max_clock_skew_ms = 300000, .inline_max = INLINE_MAX};
	return &o;
}

/* The sealed content of path from its file, when it is here. */
static inline bool read_sealed(
	struct server *s, const char *path, const struct entry *e, struct buf *b)
{
	struct content_reader *r;
	bool whole;

	buf_clear(b);
	if (content_open(s->cache, ino_of(s, slice_of(path)), e->hash, &r))
		return false;
	assert_non_null(buf_reserve(b, e->size + 1));
	whole = content_read(r, b->data, e->size, 0) == (ssize_t)e->size;
	b->len = e->size;
	content_close(r);
	return whole;
}

/* The record of path as s would announce it now. bytes keeps the content. */
static inline void make_record(
	struct server *s, const char *path, struct record *r, struct buf *bytes)
{
	const struct entry *e = &r->entry;

	*r = (struct record){0};
	get_entry(s, path, &r->entry);
	assert_true(e->content_stamp.time != 0);
	assert_true(key_set(&r->key, slice_of(path)));
	if (e->kind != KIND_FILE || e->size > INLINE_MAX)
		return;
	if (inline_cache_get(s->inline_cache, e->hash, bytes) || read_sealed(s, path, e, bytes)) {
		r->has_content = true;
		r->content = bytes->data ? bytes->data : (const uint8_t *)"";
	}
}

static inline void merge_one(struct server *s, const struct record *r)
{
	struct merge_batch *b;

	assert_int_equal(merge_batch_new(s->cache, merger_options(s), &b), 0);
	assert_int_equal(merge_batch_add_record(b, r), 0);
	assert_int_equal(merge_batch_commit(b, NULL, NULL), 0);
	merge_batch_free(b);
}

static inline void carry(struct server *from, struct server *to, const char *path)
{
	CLEANUP(buf_done) struct buf bytes = {0};
	struct record r;

	make_record(from, path, &r, &bytes);
	merge_one(to, &r);
	record_done(&r);
}

struct key_list {
	unsigned count;
	struct key keys[4096];
};

static inline int take_key(void *ctx, struct slice key)
{
	struct key_list *l = ctx;

	assert_true(l->count < ARRAY_SIZE(l->keys));
	assert_true(key_set(&l->keys[l->count++], key));
	return 0;
}

static inline struct key_list *all_keys(struct server *s)
{
	struct key_list *l = calloc(1, sizeof(*l));
	struct conn *conn;

	assert_non_null(l);
	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(entry_scan(conn, slice_of(""), slice_of(""), false, ARRAY_SIZE(l->keys),
				 take_key, l),
		0);
	cache_read_end(conn);
	return l;
}

/* Everything that from has sealed, as one segment through its bytes. */
static inline void carry_all(struct server *from, struct server *to)
{
	struct key_list *l = all_keys(from);
	struct segment_id id = {1, cache_node(from->cache), 1};
	CLEANUP(buf_done) struct buf out = {0}, bytes = {0};
	struct segment_writer w = {0};
	char name[SEGMENT_NAME_SIZE];
	struct merge_batch *b;
	struct segment seg;
	struct err err = {0};

	for (unsigned i = 0; i < l->count; i++) {
		struct record r;

		make_record(from, l->keys[i].p, &r, &bytes);
		segment_add(&w, &r);
		record_done(&r);
	}
	free(l);
	assert_int_equal(segment_finish(&w, &id, "", false, &out), 0);
	segment_writer_done(&w);
	segment_name(&id, name);
	if (segment_parse(name, out.data, out.len, &seg, &err))
		fail_msg("%s", err.text);
	assert_int_equal(merge_batch_new(to->cache, merger_options(to), &b), 0);
	assert_int_equal(merge_batch_add_segment(b, &seg), 0);
	assert_int_equal(merge_batch_commit(b, NULL, NULL), 0);
	merge_batch_free(b);
	segment_done(&seg);
}

static inline void assert_same_state(const char *path, struct server *a, struct server *b)
{
	struct local_state x, y;
	struct conn *conn;

	assert_int_equal(cache_read_begin(a->cache, &conn), 0);
	assert_int_equal(journal_local_state(conn, slice_of(path), &x), 0);
	cache_read_end(conn);
	assert_int_equal(cache_read_begin(b->cache, &conn), 0);
	assert_int_equal(journal_local_state(conn, slice_of(path), &y), 0);
	cache_read_end(conn);
	if (x.kind != y.kind || x.mode != y.mode || x.uid != y.uid || x.mtime_ns != y.mtime_ns)
		fail_msg("%s: kind %d/%d mode %o/%o uid %u/%u mtime %lld/%lld", path, x.kind,
			y.kind, x.mode, y.mode, x.uid, y.uid, (long long)x.mtime_ns,
			(long long)y.mtime_ns);
	if (x.kind == KIND_FILE) {
		char *p = content_at(a, path), *q = content_at(b, path);

		/* Nobody fetches here: a file that was hidden when it was carried came without
		 * content. */
		if (strcmp(p, q) && strcmp(p, REMOTE) && strcmp(q, REMOTE))
			fail_msg("%s: \"%s\" and \"%s\"", path, p, q);
		free(p);
		free(q);
	}
	if (x.kind == KIND_SYMLINK)
		assert_string_equal(x.target, y.target);
	local_state_done(&x);
	local_state_done(&y);
}

/* Both maps and both trees are the same. */
static inline void assert_converged(struct server *a, struct server *b)
{
	struct key_list *x = all_keys(a), *y = all_keys(b);

	assert_int_equal(x->count, y->count);
	for (unsigned i = 0; i < x->count; i++) {
		CLEANUP(buf_done) struct buf p = {0}, q = {0};
		struct record r = {.key = x->keys[i]}, t = {.key = y->keys[i]};

		assert_string_equal(x->keys[i].p, y->keys[i].p);
		get_entry(a, x->keys[i].p, &r.entry);
		get_entry(b, x->keys[i].p, &t.entry);
		record_encode(&r, &p);
		record_encode(&t, &q);
		if (p.len != q.len || memcmp(p.data, q.data, p.len))
			fail_msg("%s: entries differ", x->keys[i].p);
		record_done(&r);
		record_done(&t);
		assert_same_state(x->keys[i].p, a, b);
	}
	free(x);
	free(y);
}

#endif
