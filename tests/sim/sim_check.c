/*
 * What must hold after healing:
 *
 *   1. every node has the same entries: for each path the same three registers;
 *   2. they are the greatest of all registers in all records that were ever published, by a
 *      maximum that is computed here from the segments in the buckets, without the code under
 *      test's merge;
 *   3. every node's tree is what the entries say, content included, which is fetched where it was
 *      evicted or never was: names are one inode exactly
 *      when their entries have one link id and one content, and show what all of them say;
 *   4. every file content that was published and lost against one whose writer had not seen it is
 *      listed as a conflict by some node, unless an application replaced it knowingly; and what was
 *      written behind the cache's back is published or kept (sim_unseen.c);
 *   5. every bucket holds for each live path its object with that content and those stamps,
 *      and no other.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/conflict.h"
#include "cache/entry.h"
#include "cache/journal.h"
#include "cache/tree.h"
#include "replicator/object_key.h"
#include "replicator/segment.h"

#define PATHS_MAX 256
#define CONTENTS_MAX 8192

/* Oracle: per path the winners of each register over everything published. */
struct winner {
	struct key key;
	struct entry content;
	struct entry attr;
	struct entry mtime;
	bool known;
};

/* A content that was published, once for each stamp. */
struct content {
	unsigned path;
	enum kind kind;
	struct stamp stamp;
	uint8_t hash[SHA256_SIZE];
	struct vector vector;
	bool listed; /* as a conflict's loser */
};

struct oracle {
	struct sim *s;
	unsigned contents;
	struct content c[CONTENTS_MAX];
	unsigned count;
	struct winner w[PATHS_MAX];
	uint64_t records;
};

static struct winner *winner_of(struct oracle *o, struct slice key)
{
	for (unsigned i = 0; i < o->count; i++)
		if (slice_equal(key_slice(&o->w[i].key), key))
			return &o->w[i];
	if (o->count == PATHS_MAX)
		sim_fail(o->s, "more than %d paths", PATHS_MAX);
	struct winner *w = &o->w[o->count++];
	memset(w, 0, sizeof *w);
	CHECK(key_set(&w->key, key));
	return w;
}

static void take(struct entry *to, const struct entry *from)
{
	entry_done(to);
	CHECK(entry_copy(to, from) == 0);
}

static bool newer(struct stamp a, struct stamp b)
{
	return a.time != b.time ? a.time > b.time : a.node > b.node;
}

static struct content *find_content(struct oracle *o, unsigned path, struct stamp stamp)
{
	for (unsigned i = 0; i < o->contents; i++)
		if (o->c[i].path == path && stamp_cmp(o->c[i].stamp, stamp) == 0)
			return &o->c[i];
	return NULL;
}

static void add_content(struct oracle *o, const struct winner *w, const struct entry *e)
{
	unsigned path = (unsigned)(w - o->w);

	if (find_content(o, path, e->content_stamp))
		return;
	if (o->contents == CONTENTS_MAX)
		sim_fail(o->s, "more than %d contents", CONTENTS_MAX);
	struct content *c = &o->c[o->contents++];
	*c = (struct content){
		.path = path, .kind = e->kind, .stamp = e->content_stamp, .vector = e->vector};
	memcpy(c->hash, e->hash, sizeof c->hash);
}

static int add_record(void *ctx, const struct record *r, const struct err *err)
{
	struct oracle *o = ctx;

	if (!r)
		sim_fail(o->s, "a published record is damaged: %s", err->text);
	struct winner *w = winner_of(o, key_slice(&r->key));
	o->records++;
	add_content(o, w, &r->entry);
	if (!w->known || newer(r->entry.content_stamp, w->content.content_stamp))
		take(&w->content, &r->entry);
	if (!w->known || newer(r->entry.attr_stamp, w->attr.attr_stamp))
		take(&w->attr, &r->entry);
	if (!w->known || newer(r->entry.mtime_stamp, w->mtime.mtime_stamp))
		take(&w->mtime, &r->entry);
	w->known = true;
	return 0;
}

struct listing {
	struct oracle *o;
	struct store *mem;
};

static int add_segment(void *ctx, const char *key, const struct store_object *object)
{
	struct listing *l = ctx;
	struct buf b CLEANUP(buf_done) = {0};
	struct store_error error = {0};
	struct segment segment = {0};
	struct err err = {0};

	if (store_get_buf(l->mem, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, NULL, &error) != STORE_OK)
		sim_fail(l->o->s, "segment %s cannot be read", key);
	if (segment_parse(key + strlen(SEGMENT_PREFIX), b.data, b.len, &segment, &err) < 0)
		sim_fail(l->o->s, "segment %s: %s", key, err.text);
	CHECK(segment_each(&segment, add_record, l->o) == 0);
	segment_done(&segment);
	return 0;
}

static void build_oracle(struct oracle *o)
{
	for (unsigned r = 0; r < o->s->regions; r++) {
		struct listing l = {o, o->s->region[r].mem};
		struct store_error error = {0};
		CHECK(store_list(l.mem, SEGMENT_PREFIX, NULL, 0, add_segment, &l, NULL, &error) ==
			STORE_OK);
		l.mem = o->s->region[r].removed;
		CHECK(store_list(l.mem, SEGMENT_PREFIX, NULL, 0, add_segment, &l, NULL, &error) ==
			STORE_OK);
	}
}

static void describe(const struct entry *e, char *p, size_t n)
{
	char c[STAMP_TEXT_SIZE], a[STAMP_TEXT_SIZE], m[STAMP_TEXT_SIZE], h[SHA256_HEX_SIZE];

	stamp_format(e->content_stamp, c);
	stamp_format(e->attr_stamp, a);
	stamp_format(e->mtime_stamp, m);
	hex_encode(e->hash, 4, h);
	snprintf(p, n,
		"kind %d size %" PRIu64
		" hash %.8s target %.12s content %s attr %s mode %o uid %u mtime %s",
		e->kind, e->size, h, e->target ? e->target : "-", c, a, e->mode, e->uid, m);
}

static void check_register(struct sim *s, unsigned n, const struct winner *w, const struct entry *e)
{
	bool same = stamp_cmp(e->content_stamp, w->content.content_stamp) == 0 &&
		    entry_content_equal(e, &w->content) &&
		    link_id_equal(e->link, w->content.link) &&
		    stamp_cmp(e->attr_stamp, w->attr.attr_stamp) == 0 &&
		    entry_attr_equal(e, &w->attr) &&
		    stamp_cmp(e->mtime_stamp, w->mtime.mtime_stamp) == 0 &&
		    e->mtime_ns == w->mtime.mtime_ns;
	char have[400], want[400];

	if (same)
		return;
	struct entry merged = w->content;
	merged.attr_stamp = w->attr.attr_stamp;
	merged.mode = w->attr.mode;
	merged.uid = w->attr.uid;
	merged.mtime_stamp = w->mtime.mtime_stamp;
	describe(e, have, sizeof have);
	describe(&merged, want, sizeof want);
	sim_fail(s, "n%u: entry \"%s\"\n  has  %s\n  want %s", n, w->key.p, have, want);
}

struct counter {
	uint64_t n;
};

static int count_key(void *ctx, struct slice key)
{
	((struct counter *)ctx)->n++;
	return 0;
}

static void check_entries(struct sim *s, unsigned n, struct oracle *o)
{
	struct conn *conn;
	struct counter counter = {0};

	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	for (unsigned i = 0; i < o->count; i++) {
		struct entry e = {0};
		if (entry_get(conn, key_slice(&o->w[i].key), &e) < 0)
			sim_fail(s, "n%u: no entry for \"%s\", which was published", n,
				o->w[i].key.p);
		check_register(s, n, &o->w[i], &e);
		entry_done(&e);
	}
	CHECK(entry_scan(conn, slice_of(""), slice_of(""), false, 100000, count_key, &counter) ==
		0);
	struct entry root = {0};
	bool has_root = entry_get(conn, slice_of(""), &root) == 0;
	entry_done(&root);
	/* whether the scan lists the root is its own business */
	if (counter.n > o->count || counter.n + has_root < o->count)
		sim_fail(s, "n%u: %" PRIu64 " entries, %u were published", n, counter.n, o->count);
	struct journal_stats stats;
	CHECK(journal_stats(conn, &stats) == 0);
	if (stats.rows)
		sim_fail(s, "n%u: %" PRIu64 " journal rows are left", n, stats.rows);
	for (unsigned r = 0; r < s->regions; r++) {
		struct outbox_stats out;
		CHECK(outbox_stats(conn, r, &out) == 0);
		if (out.rows)
			sim_fail(s,
				"n%u: %" PRIu64 " outbox rows are left for r%u (%" PRIu64
				" parked)",
				n, out.rows, r, out.parked);
	}
	cache_read_end(conn);
}

/* ---- conflicts ---- */

static int list_conflict(void *ctx, uint64_t id, struct slice key, const struct entry *loser,
	uint64_t ino, int64_t at_ms, const char *reason)
{
	struct oracle *o = ctx;

	for (unsigned i = 0; i < o->count; i++) {
		if (!slice_equal(key_slice(&o->w[i].key), key))
			continue;
		/* perhaps it was never published, and its writer had seen others */
		add_content(o, &o->w[i], loser);
		find_content(o, i, loser->content_stamp)->listed = true;
	}
	return 0;
}

/* Somebody wrote over c, or the same bytes, knowing it. */
static bool followed(const struct oracle *o, const struct content *c)
{
	for (unsigned i = 0; i < o->contents; i++) {
		const struct content *by = &o->c[i];
		if (by->path != c->path || by == c || !newer(by->stamp, c->stamp))
			continue;
		if (by->stamp.node == c->stamp.node ||
			vector_get(&by->vector, c->stamp.node) >= c->stamp.time)
			return true;
		if (by->kind == KIND_FILE && memcmp(by->hash, c->hash, sizeof c->hash) == 0)
			return true;
	}
	return false;
}

static void check_conflicts(struct sim *s, struct oracle *o)
{
	for (unsigned n = 0; n < s->nodes; n++) {
		struct conn *conn;
		s->current = n;
		CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
		CHECK(conflict_scan(conn, 0, 100000, list_conflict, o) == 0);
		cache_read_end(conn);
	}
	for (unsigned i = 0; i < o->contents; i++) {
		struct content *c = &o->c[i];
		char text[STAMP_TEXT_SIZE];
		if (c->kind != KIND_FILE || c->listed ||
			stamp_cmp(c->stamp, o->w[c->path].content.content_stamp) == 0 ||
			followed(o, c) ||
			sim_was_replaced(s, key_slice(&o->w[c->path].key), c->stamp))
			continue;
		stamp_format(c->stamp, text);
		sim_fail(s, "content %s of \"%s\" was lost, and nobody lists it", text,
			o->w[c->path].key.p);
	}
}

static bool live_below(const struct oracle *o, struct slice key)
{
	for (unsigned i = 0; i < o->count; i++) {
		struct slice k = key_slice(&o->w[i].key);
		if (o->w[i].content.kind != KIND_ABSENT && k.len > key.len && k.p[key.len] == '/' &&
			memcmp(k.p, key.p, key.len) == 0)
			return true;
	}
	return false;
}

/* The kind that the tree must show at key. */
static enum kind shown(const struct oracle *o, const struct winner *w)
{
	return live_below(o, key_slice(&w->key)) ? KIND_DIR : w->content.kind;
}

/* It is shown as the file or symlink that its entry says. */
static bool is_leaf(const struct oracle *o, const struct winner *w)
{
	enum kind kind = shown(o, w);

	return w->key.len && kind == w->content.kind &&
	       (kind == KIND_FILE || kind == KIND_SYMLINK);
}

/* Two paths must be one inode: the rule of docs/consistency.md, from what was published alone. */
static bool share(const struct oracle *o, const struct winner *a, const struct winner *b)
{
	return a == b ||
	       (is_leaf(o, a) && is_leaf(o, b) && a->content.link.origin &&
		       link_id_equal(a->content.link, b->content.link) &&
		       entry_content_equal(&a->content, &b->content));
}

static struct stamp time_of(const struct winner *w, int64_t *ns)
{
	bool own = stamp_cmp(w->mtime.mtime_stamp, w->content.content_stamp) > 0;

	*ns = own ? w->mtime.mtime_ns : w->content.content_mtime_ns;
	return own ? w->mtime.mtime_stamp : w->content.content_stamp;
}

/* What the inode of w must show: over all of its names. */
static const struct entry *shared_attr(
	const struct oracle *o, const struct winner *w, int64_t *mtime_ns, unsigned *names)
{
	const struct entry *attr = &w->attr;
	struct stamp time = time_of(w, mtime_ns);

	*names = 1;
	for (unsigned i = 0; i < o->count; i++) {
		const struct winner *other = &o->w[i];
		int64_t ns;
		struct stamp stamp = time_of(other, &ns);

		if (other == w || !share(o, w, other))
			continue;
		(*names)++;
		if (entry_attr_cmp(&other->attr, attr) > 0)
			attr = &other->attr;
		if (stamp_cmp(stamp, time) > 0 || (!stamp_cmp(stamp, time) && ns > *mtime_ns)) {
			time = stamp;
			*mtime_ns = ns;
		}
	}
	return attr;
}

static void check_sharing(struct sim *s, unsigned n, const struct oracle *o)
{
	uint64_t ino[PATHS_MAX] = {0};

	for (unsigned i = 0; i < o->count; i++) {
		struct inode inode;

		if (!is_leaf(o, &o->w[i]))
			continue;
		if (tree_resolve(s->node[n].cache, key_slice(&o->w[i].key), &inode) == 0)
			ino[i] = inode.ino;
		for (unsigned j = 0; j < i; j++) {
			bool want = share(o, &o->w[i], &o->w[j]);

			if (ino[j] && (ino[i] == ino[j]) != want)
				sim_fail(s, "n%u: \"%s\" and \"%s\" %s one inode", n,
					o->w[i].key.p, o->w[j].key.p,
					want ? "are not" : "must not be");
			s->shared += want;
		}
	}
}

static void check_path(struct sim *s, unsigned n, const struct oracle *o, const struct winner *w)
{
	struct cache *c = s->node[n].cache;
	struct inode inode;
	enum kind kind = shown(o, w);
	int r = tree_resolve(c, key_slice(&w->key), &inode);

	if (kind == KIND_ABSENT) {
		if (r == 0)
			sim_fail(s, "n%u: \"%s\" is there, it was removed", n, w->key.p);
		return;
	}
	if (r < 0)
		sim_fail(s, "n%u: \"%s\" is not there (%d)", n, w->key.p, r);
	mode_t type = kind == KIND_FILE ? S_IFREG : kind == KIND_DIR ? S_IFDIR : S_IFLNK;
	if ((inode.mode & S_IFMT) != type)
		sim_fail(s, "n%u: \"%s\" is of mode %o, wanted kind %d", n, w->key.p, inode.mode,
			kind);
	int64_t mtime_ns;
	unsigned names;
	const struct entry *attr = shared_attr(o, w, &mtime_ns, &names);
	if (kind == w->content.kind && kind != KIND_SYMLINK && attr->attr_stamp.time &&
		((inode.mode & 07777) != attr->mode || inode.uid != attr->uid))
		sim_fail(s, "n%u: \"%s\" has mode %o uid %u, wanted %o %u", n, w->key.p, inode.mode,
			inode.uid, attr->mode, attr->uid);
	if (kind != KIND_DIR && inode.nlink != names)
		sim_fail(s, "n%u: \"%s\" has %u names, wanted %u", n, w->key.p, inode.nlink, names);
	if (kind == KIND_SYMLINK) {
		char *target = NULL;
		if (tree_readlink(c, inode.ino, &target) < 0 ||
			strcmp(target, w->content.target) != 0)
			sim_fail(s, "n%u: \"%s\" points elsewhere", n, w->key.p);
		free(target);
	}
	if (kind != KIND_FILE)
		return;
	if (inode.size != w->content.size || inode.mtime_ns != mtime_ns)
		sim_fail(s,
			"n%u: \"%s\" has size %" PRIu64 " mtime %" PRId64 ", wanted %" PRIu64
			" %" PRId64,
			n, w->key.p, inode.size, inode.mtime_ns, w->content.size, mtime_ns);
	struct file *file;
	r = file_open(c, inode.ino, false, false, &file);
	if (r == -EREMOTE) {
		r = sim_fetch(s, n, inode.ino);
		if (r < 0)
			sim_fail(s, "n%u: \"%s\" cannot be fetched: %d", n, w->key.p, r);
		r = file_open(c, inode.ino, false, false, &file);
	}
	if (r < 0)
		sim_fail(s, "n%u: \"%s\" cannot be opened: %d", n, w->key.p, r);
	char content[1024];
	uint8_t hash[SHA256_SIZE];
	ssize_t got = file_read(file, content, sizeof content, 0);
	CHECK(got >= 0);
	sha256(content, (size_t)got, hash);
	if (memcmp(hash, w->content.hash, sizeof hash) != 0)
		sim_fail(s, "n%u: \"%s\" has other content: \"%.40s\"", n, w->key.p, content);
	file_release(file);
}

struct walk {
	struct sim *s;
	const struct oracle *o;
	unsigned n;
	unsigned found;
};

static int check_known(void *ctx, struct slice key)
{
	struct walk *w = ctx;
	for (unsigned i = 0; i < w->o->count; i++) {
		if (slice_equal(key_slice(&w->o->w[i].key), key) &&
			shown(w->o, &w->o->w[i]) != KIND_ABSENT)
			return 0;
	}
	if (live_below(w->o, key))
		return 0; /* implied by what lies below it */
	sim_fail(w->s, "n%u: \"%.*s\" is in the tree and nothing says so", w->n, (int)key.len,
		key.p);
}

static void check_tree(struct sim *s, unsigned n, struct oracle *o)
{
	struct conn *conn;
	struct walk walk = {s, o, n, 0};

	s->current = n;
	for (unsigned i = 0; i < o->count; i++)
		if (o->w[i].key.len)
			check_path(s, n, o, &o->w[i]);
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	CHECK(journal_walk(conn, slice_of(""), slice_of(""), 10000, check_known, &walk) == 0);
	cache_read_end(conn);
}

struct objects {
	struct sim *s;
	const struct oracle *o;
	unsigned region;
	unsigned found;
};

static int check_object(void *ctx, const char *key, const struct store_object *object)
{
	struct objects *c = ctx;
	struct key path;
	bool directory;
	struct buf body CLEANUP(buf_done) = {0};
	struct store_meta meta CLEANUP(store_meta_done) = {0};
	struct store_error error = {0};

	if (strncmp(key, ".meridian/", 10) == 0)
		return 0;
	if (object_key_to_path(key, &path, &directory) < 0)
		sim_fail(c->s, "r%u: object %s is no path", c->region, key);
	const struct winner *w = NULL;
	for (unsigned i = 0; i < c->o->count; i++)
		if (slice_equal(key_slice(&c->o->w[i].key), key_slice(&path)))
			w = &c->o->w[i];
	if (!w || w->content.kind == KIND_ABSENT || (w->content.kind == KIND_DIR) != directory)
		sim_fail(c->s, "r%u: object %s should not be there", c->region, key);
	c->found++;
	CHECK(store_get_buf(c->s->region[c->region].mem, key, 1 << 20, &body, NULL, &meta, NULL,
		      &error) == STORE_OK);
	char want[STAMP_TEXT_SIZE];
	stamp_format(w->content.content_stamp, want);
	const char *have = store_meta_get(&meta, "meridian-stamp");
	if (!have || strcmp(have, want) != 0)
		sim_fail(c->s, "r%u: object %s has stamp %s, wanted %s", c->region, key,
			have ? have : "none", want);
	stamp_format(w->attr.attr_stamp, want);
	have = store_meta_get(&meta, "meridian-attr-stamp");
	if (!have || strcmp(have, want) != 0)
		sim_fail(c->s, "r%u: object %s has attribute stamp %s, wanted %s", c->region, key,
			have ? have : "none", want);
	if (w->content.kind == KIND_FILE) {
		uint8_t hash[SHA256_SIZE];
		sha256(body.data, body.len, hash);
		if (memcmp(hash, w->content.hash, sizeof hash) != 0)
			sim_fail(c->s, "r%u: object %s has another body", c->region, key);
	} else if (w->content.kind == KIND_SYMLINK &&
		   strcmp(buf_str(&body), w->content.target) != 0) {
		sim_fail(c->s, "r%u: object %s has another target", c->region, key);
	}
	return 0;
}

static void check_bucket(struct sim *s, unsigned r, struct oracle *o)
{
	struct objects c = {s, o, r, 0};
	struct store_error error = {0};
	unsigned live = 0;

	CHECK(store_list(s->region[r].mem, "", NULL, 0, check_object, &c, NULL, &error) ==
		STORE_OK);
	for (unsigned i = 0; i < o->count; i++)
		live += o->w[i].key.len && o->w[i].content.kind != KIND_ABSENT;
	if (c.found != live)
		sim_fail(s, "r%u: %u objects, %u paths are live", r, c.found, live);
}

void sim_check(struct sim *s)
{
	struct oracle *o = calloc(1, sizeof *o);

	CHECK(o);
	o->s = s;
	build_oracle(o);
	for (unsigned n = 0; n < s->nodes; n++) {
		s->current = n;
		if (!s->node[n].dead)
			check_entries(s, n, o);
	}
	for (unsigned n = 0; n < s->nodes; n++)
		if (!s->node[n].dead)
			check_tree(s, n, o);
	for (unsigned n = 0; n < s->nodes; n++)
		if (!s->node[n].dead)
			check_sharing(s, n, o);
	check_conflicts(s, o);
	for (unsigned i = 0; i < o->contents; i++)
		sim_unseen_published(s, o->c[i].hash);
	sim_unseen_check(s);
	for (unsigned r = 0; r < s->regions; r++)
		check_bucket(s, r, o);
	for (unsigned i = 0; i < o->count; i++) {
		entry_done(&o->w[i].content);
		entry_done(&o->w[i].attr);
		entry_done(&o->w[i].mtime);
	}
	free(o);
}
