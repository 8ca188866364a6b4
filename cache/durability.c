/*
 * Why this file: fs/ has to know whether a file's fsync waits for regions, replicator/ has to find out
 * from the tables when they have it, and an attribute shows the same to people. Both sides meet here.
 *
 * What counts as there. A row of the outbox that is announced (OBJECT) stands for a change that is in a
 * segment of the region, or, of a large file, for an object that is still to be repaired; no row
 * stands for nothing that is missing, unless the region is still being seeded.
 *
 * Journal rows are told apart by their time, not by their number: an empty journal begins again at 1.
 */
#include "cache/durability.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>

#include "cache/internal.h"
#include "cache/outbox.h"
#include "cache/outbox_row.h"
#include "cache/replication.h"
#include "src/base/clock.h"

#define SCAN_MAX 1000 /* journal rows that a directory's fsync looks at before it says "not yet" */

struct durability_rules {
	struct durability_wish volume;
	bool matters;
	bool on_close;
	unsigned count;
	struct durability_rule rule[DURABILITY_RULES_MAX];
};

const char *durability_name(enum durability mode)
{
	static const char *const names[] = {"local", "home", "quorum", "all"};

	return names[mode];
}

/* ---- rules ---- */

void durability_rules_free(struct durability_rules *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < r->count; i++)
		free((char *)r->rule[i].glob);
	free(r);
}

int durability_set(struct cache *c, struct durability_wish volume,
	const struct durability_rule *rules, unsigned count)
{
	struct durability_rules *r;

	if (count > DURABILITY_RULES_MAX)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->volume = volume;
	r->matters = volume.mode != DURABILITY_LOCAL;
	r->on_close = volume.on_close;
	for (unsigned i = 0; i < count; i++) {
		struct durability_rule *rule = &r->rule[r->count];

		*rule = rules[i];
		rule->glob = strdup(rules[i].glob);
		if (!rule->glob) {
			durability_rules_free(r);
			return -ENOMEM;
		}
		r->count++;
		r->matters |= rule->has_mode && rule->wish.mode != DURABILITY_LOCAL;
		r->on_close |= rule->has_on_close && rule->wish.on_close;
	}
	durability_rules_free(c->durability);
	c->durability = r;
	return 0;
}

bool durability_matters(struct cache *c)
{
	return c->durability && c->durability->matters;
}

bool durability_on_close(struct cache *c)
{
	return c->durability && c->durability->on_close;
}

static bool matches(const struct durability_rule *rule, const char *path, const char *slashed)
{
	return fnmatch(rule->glob, path, 0) == 0 ||
	       (slashed && fnmatch(rule->glob, slashed, 0) == 0);
}

static struct durability_wish wish_of(
	const struct durability_rules *r, const char *path, const char *slashed)
{
	struct durability_wish wish = r->volume;
	bool mode = false, on_close = false;

	for (unsigned i = 0; i < r->count && !(mode && on_close); i++) {
		const struct durability_rule *rule = &r->rule[i];

		if (!matches(rule, path, slashed))
			continue;
		if (rule->has_mode && !mode)
			wish.mode = rule->wish.mode;
		if (rule->has_on_close && !on_close)
			wish.on_close = rule->wish.on_close;
		mode |= rule->has_mode;
		on_close |= rule->has_on_close;
	}
	return wish;
}

struct wishing {
	const struct durability_rules *rules;
	bool dir;
	struct durability_wish wish;
};

static int wish_name(void *ctx, struct slice key)
{
	char path[KEY_MAX + 1], slashed[KEY_MAX + 2];
	struct wishing *w = ctx;
	struct durability_wish wish;

	if (key.len > KEY_MAX)
		return -ENAMETOOLONG;
	memcpy(path, key.p, key.len);
	path[key.len] = '\0';
	snprintf(slashed, sizeof(slashed), "%s/", path);
	wish = wish_of(w->rules, path, w->dir ? slashed : NULL);
	if (wish.mode > w->wish.mode)
		w->wish.mode = wish.mode;
	w->wish.on_close |= wish.on_close;
	return 0;
}

int durability_names(struct conn *conn, uint64_t ino, durability_key_fn fn, void *ctx)
{
	return link_each(conn, ino, fn, ctx);
}

int durability_of(struct cache *c, uint64_t ino, struct durability_wish *ret)
{
	struct wishing w = {.rules = c->durability};
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	int r;

	*ret = (struct durability_wish){0};
	if (!w.rules)
		return 0;
	if (!w.rules->count) {
		*ret = w.rules->volume;
		return 0;
	}
	r = conn_take_warm(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r) {
		w.dir = S_ISDIR(row.mode);
		r = link_each(conn, ino, wish_name, &w);
	}
	if (!r)
		*ret = w.wish;
	return r == -ENOENT ? 0 : r;
}

/* ---- waiting ---- */

void cache_set_durability_waiter(struct cache *c, durability_wait_fn fn, void *ctx)
{
	mutex_lock(&c->hook_lock);
	c->durability_wait = fn;
	c->durability_ctx = ctx;
	mutex_unlock(&c->hook_lock);
}

void durability_wait(struct cache *c, uint64_t ino, durability_done_fn done, void *arg)
{
	struct durability_wish wish = {0};
	durability_wait_fn fn;
	void *ctx;
	int r = durability_matters(c) ? durability_of(c, ino, &wish) : 0;

	if (r || wish.mode == DURABILITY_LOCAL) {
		done(arg, r);
		return;
	}
	mutex_lock(&c->hook_lock);
	fn = c->durability_wait;
	ctx = c->durability_ctx;
	mutex_unlock(&c->hook_lock);
	if (fn)
		fn(ctx, ino, wish.mode, done, arg);
	else
		done(arg, -EIO);
}

/* ---- how far an inode is ---- */

static int add_name(void *ctx, struct slice key)
{
	uint64_t *sum = ctx;

	*sum += slice_hash(key) | 1; /* in whatever order */
	return 0;
}

/* Detached; what an application removed has no name in its row. */
static int is_displaced(struct conn *conn, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT 1 FROM inode WHERE ino = ?1 AND nlink = 0 AND name <> x''");

	bind_int(s, 1, (int64_t)ino);
	return conn_exists(conn, s, ret);
}

int durability_look(struct conn *conn, uint64_t ino, struct durability_target *ret)
{
	struct durability_target t = {.subject = SUBJECT_NAMED};
	struct inode_row row;
	bool displaced = false;
	int r = inode_get(conn, ino, &row);

	if (r && r != -ENOENT)
		return r;
	if (r || (row.nlink == 0 && ino != ROOT_INO)) {
		r = r ? 0 : is_displaced(conn, ino, &displaced);
		t.subject = displaced ? SUBJECT_DISPLACED : SUBJECT_GONE;
	} else {
		t.dir = S_ISDIR(row.mode);
		r = link_each(conn, ino, add_name, &t.names);
	}
	if (!r)
		*ret = t;
	return r;
}

/* One of the rows that move a directory, of which there are few and short-lived ones. */
static int moved_above(struct conn *conn, struct slice key, uint64_t time, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT key, hint FROM journal WHERE op = 4 AND time <= ?1");
	int r;

	bind_int(s, 1, (int64_t)time);
	while ((r = conn_row(conn, s)) == 1) {
		*ret = key_at_or_below(key, column_slice(s, 0)) ||
		       key_at_or_below(key, column_slice(s, 1));
		if (*ret) {
			sqlite3_reset(s);
			return 0;
		}
	}
	return r;
}

static int has_row(struct conn *conn, struct slice key, uint64_t time, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT EXISTS(SELECT 1 FROM journal WHERE key = ?1 AND time <= ?2)"
		" OR EXISTS(SELECT 1 FROM journal WHERE hint IS NOT NULL AND hint = ?1"
		" AND time <= ?2)");
	int r;

	bind_slice(s, 1, key);
	bind_int(s, 2, (int64_t)time);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	*ret = sqlite3_column_int(s, 0) != 0;
	sqlite3_reset(s);
	return 0;
}

static bool lies_in(struct slice name, struct slice dir)
{
	return name.len > 0 && slice_equal(key_parent(name), dir);
}

static int has_row_in(struct conn *conn, struct slice dir, uint64_t time, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT key, hint FROM journal WHERE time <= ?1"
					       " ORDER BY seq LIMIT ?2");
	unsigned n = 0;
	int r;

	bind_int(s, 1, (int64_t)time);
	bind_int(s, 2, SCAN_MAX);
	while ((r = conn_row(conn, s)) == 1) {
		*ret = ++n == SCAN_MAX || lies_in(column_slice(s, 0), dir) ||
		       lies_in(column_slice(s, 1), dir);
		if (*ret) {
			sqlite3_reset(s);
			return 0;
		}
	}
	return r;
}

int durability_unsealed(struct conn *conn, struct slice key, bool in_dir, uint64_t time, bool *ret)
{
	bool found = false;
	int r = has_row(conn, key, time, &found);

	if (!r && !found)
		r = moved_above(conn, key, time, &found);
	if (!r && !found && in_dir)
		r = has_row_in(conn, key, time, &found);
	if (!r)
		*ret = found;
	return r;
}

/* The dir column of what lies in a directory. */
static uint64_t hash_in(struct slice dir)
{
	struct key name;

	if (!key_set(&name, dir) || name.len + 2 > KEY_MAX)
		return 0; /* nothing can lie in it */
	if (name.len)
		name.p[name.len++] = '/';
	name.p[name.len++] = 'x';
	return outbox_dir_hash(key_slice(&name));
}

int durability_untold(struct conn *conn, unsigned region, struct slice key, uint64_t order,
	unsigned limit, durability_row_fn fn, void *ctx, bool *more)
{
	static const char *const sql[] = {
		"SELECT key, time, node FROM outbox INDEXED BY outbox_held"
		" WHERE region = ?1 AND dir = ?2 AND first <= ?3 AND state IN (1, 5, 6)",
		"SELECT key, time, node FROM outbox INDEXED BY outbox_ready"
		" WHERE region = ?1 AND dir = ?2 AND last <= ?3 AND state = 2",
		"SELECT key, time, node FROM outbox INDEXED BY outbox_span"
		" WHERE region = ?1 AND dir = ?2 AND first <= ?3 AND state = 2 AND first < last"
		" AND last > ?3",
	};
	unsigned n = 0;
	int r = 0;

	*more = false;
	for (size_t i = 0; !r && !*more && i < ARRAY_SIZE(sql); i++) {
		sqlite3_stmt *s = conn_statement(conn, sql[i]);

		bind_int(s, 1, region);
		bind_int(s, 2, (int64_t)hash_in(key));
		bind_int(s, 3, (int64_t)order);
		while ((r = conn_row(conn, s)) == 1) {
			struct stamp stamp = {.time = (uint64_t)sqlite3_column_int64(s, 1),
				.node = (uint64_t)sqlite3_column_int64(s, 2)};

			*more = n++ == limit;
			r = *more ? 0 : fn(ctx, column_slice(s, 0), stamp);
			if (r || *more) {
				sqlite3_reset(s);
				break;
			}
		}
	}
	return r;
}

int durability_order(struct conn *conn, uint64_t *ret)
{
	return counter_get(conn, COUNTER_ORDER, ret);
}

/* ---- what is shown ---- */

struct showing {
	struct conn *conn;
	unsigned region;
	bool dir;
	bool seeding;
	bool out;
	bool unsealed;
	bool pending;
	uint64_t since_ms; /* of the oldest change that is missing; 0: none */
	char error[OUTBOX_ERROR_SIZE];
};

static int show_row(struct showing *show, struct slice key)
{
	sqlite3_stmt *s = conn_statement(show->conn, "SELECT state, since_ms, error FROM outbox"
						     " WHERE region = ?1 AND key = ?2");
	int r;

	bind_int(s, 1, show->region);
	bind_slice(s, 2, key);
	r = conn_row(show->conn, s);
	if (r <= 0)
		return r;
	if (sqlite3_column_int(s, 0) & PARKED) {
		const char *error = (const char *)sqlite3_column_text(s, 2);

		snprintf(
			show->error, sizeof(show->error), "%s", error && *error ? error : "parked");
	} else if (sqlite3_column_int(s, 0) != OUTBOX_OBJECT) {
		uint64_t since = (uint64_t)sqlite3_column_int64(s, 1);

		show->pending = true;
		if (!show->since_ms || since < show->since_ms)
			show->since_ms = since;
	}
	sqlite3_reset(s);
	return 0;
}

/* Of a directory that something below it is missing is all that is said of that. */
static int show_name(void *ctx, struct slice key)
{
	struct showing *show = ctx;
	uint64_t waiting = 0;
	bool unsealed = false;
	int r = show->dir ? durability_unsealed(show->conn, key, true, UINT64_MAX >> 1, &unsealed)
			  : journal_pending(show->conn, key, &unsealed);

	show->unsealed |= unsealed;
	if (!r)
		r = show_row(show, key);
	if (!r && show->dir)
		r = outbox_waiting(show->conn, key, &waiting);
	show->pending |= (waiting >> show->region & 1) != 0;
	return r;
}

static void show_line(const struct showing *show, const char *name, struct buf *out)
{
	int64_t age_ms = clock_realtime_ms() - (int64_t)show->since_ms;

	if (show->error[0])
		buf_printf(out, "%s: failed: %s\n", name, show->error);
	else if (show->out)
		buf_printf(out, "%s: needs resync\n", name);
	else if (show->since_ms && age_ms >= 1000)
		buf_printf(out, "%s: %" PRId64 " s behind\n", name, age_ms / 1000);
	else if (show->since_ms || show->pending || show->unsealed)
		buf_printf(out, "%s: pending\n", name);
	else if (show->seeding)
		buf_printf(out, "%s: not known yet\n", name);
	else
		buf_printf(out, "%s: here\n", name);
}

static int show_regions(struct conn *conn, uint64_t ino, bool dir, struct buf *out)
{
	struct {
		unsigned id;
		bool seeding;
		bool out;
		char name[REGION_NAME_SIZE];
	} region[REGION_MAX];
	unsigned count = 0;
	sqlite3_stmt *s = conn_statement(conn, "SELECT id, name, seed_after IS NOT NULL, resync = "
					       "1 FROM region ORDER BY id LIMIT 8");
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		const char *name = (const char *)sqlite3_column_text(s, 1);

		region[count].id = (unsigned)sqlite3_column_int(s, 0);
		region[count].seeding = sqlite3_column_int(s, 2) != 0;
		region[count].out = sqlite3_column_int(s, 3) != 0;
		snprintf(region[count].name, sizeof(region[count].name), "%s", name ? name : "");
		if (++count == REGION_MAX) {
			sqlite3_reset(s);
			r = 0;
			break;
		}
	}
	for (unsigned i = 0; !r && i < count; i++) {
		struct showing show = {.conn = conn,
			.region = region[i].id,
			.dir = dir,
			.seeding = region[i].seeding,
			.out = region[i].out};

		r = link_each(conn, ino, show_name, &show);
		if (!r)
			show_line(&show, region[i].name, out);
	}
	return r;
}

int durability_text(struct cache *c, uint64_t ino, struct buf *ret)
{
	struct conn *conn AUTO_READ_END = NULL;
	struct inode_row row;
	int r = cache_read_begin(c, &conn);

	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r && row.nlink == 0 && ino != ROOT_INO)
		r = -ENODATA;
	return r ? r : show_regions(conn, ino, S_ISDIR(row.mode), ret);
}
