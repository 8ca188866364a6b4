/*
 * The journal: what changed here and is not sealed yet.
 *
 * Rows are appended inside the transaction of the change. Readers wait on a counter that a commit
 * with rows raises; it is guarded by journal_lock (a leaf) and says nothing but "look again".
 */
#include "cache/journal.h"

#include <errno.h>

#include "cache/internal.h"
#include "src/base/clock.h"

#define GATHER_MS 200

int journal_append(
	struct conn *conn, enum journal_op op, struct slice key, struct slice hint, uint64_t time)
{
	sqlite3_stmt *s = conn_statement(
		conn, "INSERT INTO journal(op, time, key, hint) VALUES(?1, ?2, ?3, ?4)");
	int r;

	CHECK(conn_writable(conn));
	bind_int(s, 1, (int)op);
	bind_int(s, 2, (int64_t)time);
	bind_slice(s, 3, key);
	if (op == JOURNAL_RENAME || op == JOURNAL_RENAME_DIR)
		bind_slice(s, 4, hint);
	r = conn_run(conn, s);
	if (!r) {
		conn->journalled = true;
		conn->journal_added++;
	}
	conn->last_put = 0;
	return r;
}

int journal_read(
	struct conn *conn, uint64_t after, unsigned max, struct journal_row *rows, unsigned *count)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT seq, op, time, key, hint FROM journal"
					       " WHERE seq > ?1 ORDER BY seq LIMIT ?2");
	unsigned n = 0;
	int r;

	bind_int(s, 1, (int64_t)after);
	bind_int(s, 2, max);
	while ((r = conn_row(conn, s)) > 0) {
		struct journal_row *row = &rows[n++];

		row->seq = (uint64_t)sqlite3_column_int64(s, 0);
		row->op = (enum journal_op)sqlite3_column_int(s, 1);
		row->time = (uint64_t)sqlite3_column_int64(s, 2);
		if (!key_set(&row->key, column_slice(s, 3)) ||
			!key_set(&row->hint, column_slice(s, 4))) {
			sqlite3_reset(s);
			return -EIO;
		}
	}
	if (!r)
		*count = n;
	return r;
}

int journal_remove(struct conn *conn, uint64_t first, uint64_t last)
{
	sqlite3_stmt *s = conn_statement(conn, "DELETE FROM journal WHERE seq BETWEEN ?1 AND ?2");
	int r;

	CHECK(conn_writable(conn));
	bind_int(s, 1, (int64_t)first);
	bind_int(s, 2, (int64_t)last);
	r = conn_run(conn, s);
	if (!r)
		conn->journal_added -= sqlite3_changes(conn->db);
	return r;
}

/* ---- pending ---- */

int journal_has_row(struct conn *conn, struct slice key, bool *ret)
{
	return journal_has_row_before(conn, key, INT64_MAX, ret);
}

int journal_has_row_before(struct conn *conn, struct slice key, uint64_t seq, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT EXISTS(SELECT 1 FROM journal WHERE key = ?1 AND seq < ?2)"
		" OR EXISTS(SELECT 1 FROM journal WHERE hint IS NOT NULL AND hint = ?1 AND seq < ?2)");
	int r;

	bind_slice(s, 1, key);
	bind_int(s, 2, (int64_t)seq);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	*ret = sqlite3_column_int(s, 0) != 0;
	sqlite3_reset(s);
	return 0;
}

int journal_time(struct conn *conn, struct slice key, uint64_t *ret)
{
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT time FROM journal WHERE key = ?1 ORDER BY seq DESC LIMIT 1");
	int64_t time;

	bind_slice(s, 1, key);
	int r = conn_number_or(conn, s, 0, &time);
	if (!r)
		*ret = (uint64_t)time;
	return r;
}

static int tree_row_above(struct conn *conn, struct slice key, bool *ret)
{
	/* Answered from a partial index, which is empty but for the moments after a directory's
	 * rename. */
	sqlite3_stmt *s = conn_statement(conn, "SELECT key, hint FROM journal WHERE op = 4");
	bool found = false;
	int r;

	while (!found && (r = conn_row(conn, s)) > 0)
		found = key_at_or_below(key, column_slice(s, 0)) ||
			key_at_or_below(key, column_slice(s, 1));
	if (found)
		sqlite3_reset(s);
	else if (r)
		return r;
	*ret = found;
	return 0;
}

int journal_pending(struct conn *conn, struct slice key, bool *ret)
{
	struct inode_row row;
	bool found = false;
	int r = journal_has_row(conn, key, &found);

	if (!r && !found)
		r = tree_row_above(conn, key, &found);
	if (!r && !found) {
		r = inode_resolve(conn, key, &row);
		if (!r)
			found = S_ISREG(row.mode) && file_has_unsealed(conn->cache, &row);
		else if (r == -ENOENT)
			r = 0;
	}
	if (!r)
		*ret = found;
	return r;
}

int journal_keys_since(struct conn *conn, uint64_t seq, journal_key_fn fn, void *ctx)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT key, hint, op FROM journal WHERE seq > ?1");
	int r;

	bind_int(s, 1, (int64_t)seq);
	while ((r = conn_row(conn, s)) == 1) {
		bool below = sqlite3_column_int(s, 2) == JOURNAL_RENAME_DIR;

		r = fn(ctx, column_slice(s, 0), below);
		if (!r && sqlite3_column_type(s, 1) != SQLITE_NULL)
			r = fn(ctx, column_slice(s, 1), below);
		if (r) {
			sqlite3_reset(s);
			break;
		}
	}
	return r;
}

int journal_stats(struct conn *conn, struct journal_stats *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT time FROM journal ORDER BY seq LIMIT 1");
	int64_t rows = atomic_load(&conn->cache->journal_rows) + (conn->writer ? conn->journal_added : 0);
	int r;

	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = (struct journal_stats){0};
	if (r == 0)
		return 0;
	/* The count is the last commit's, which may be later than this view. */
	ret->rows = rows > 0 ? (uint64_t)rows : 1;
	ret->oldest_ms = hlc_ms((uint64_t)sqlite3_column_int64(s, 0));
	sqlite3_reset(s);
	return 0;
}

/* ---- waiting ---- */

void journal_wait(struct cache *c, uint64_t *seen, int64_t timeout_ms)
{
	int64_t end = clock_monotonic_ms() + timeout_ms, left = timeout_ms;

	mutex_lock(&c->journal_lock);
	while (c->journal_count == *seen && left > 0) {
		if (!cond_wait_ms(&c->journal_cond, &c->journal_lock, left))
			break;
		left = end - clock_monotonic_ms();
	}
	/* The first of a group of operations woke us: what is sealed together costs less, and does not
	 * share the processor with the application's next calls. Another kick ends this, too. */
	*seen = c->journal_count;
	left = atomic_load(&c->grouped) && left > 0 ? GATHER_MS : 0;
	end = clock_monotonic_ms() + left;
	while (c->journal_count == *seen && left > 0) {
		if (!cond_wait_ms(&c->journal_cond, &c->journal_lock, left))
			break;
		left = end - clock_monotonic_ms();
	}
	*seen = c->journal_count;
	mutex_unlock(&c->journal_lock);
}

void journal_kick(struct cache *c)
{
	mutex_lock(&c->journal_lock);
	c->journal_count++;
	cond_broadcast(&c->journal_cond);
	mutex_unlock(&c->journal_lock);
}

/* ---- the state of a key ---- */

static int read_state(
	struct conn *conn, struct slice key, struct inode_row *row, struct local_state *ret)
{
	struct local_state state = {0};
	struct inode shown;
	int r = inode_resolve(conn, key, row);

	if (r) {
		*ret = state;
		return r;
	}
	inode_present(conn->cache, row, &shown);
	state.kind = mode_kind(row->mode);
	state.ino = row->ino;
	state.nlink = row->nlink;
	state.size = shown.size;
	state.dirty = row->dirty;
	state.has_hash = row->has_hash;
	state.remote = row->state == STATE_REMOTE;
	memcpy(state.hash, row->hash, sizeof(state.hash));
	state.mode = row->mode & 07777;
	state.uid = row->uid;
	state.gid = row->gid;
	state.mtime_ns = shown.mtime_ns;
	*ret = state;
	return 0;
}

int journal_glance(struct conn *conn, struct slice key, struct local_state *ret)
{
	struct inode_row row;
	int r = read_state(conn, key, &row, ret);

	return r == -ENOENT ? 0 : r;
}

int journal_local_state(struct conn *conn, struct slice key, struct local_state *ret)
{
	struct local_state state;
	struct inode_row row;
	int r = read_state(conn, key, &row, &state);

	if (!r && state.kind == KIND_SYMLINK)
		r = inode_target(conn, row.ino, &state.target);
	if (!r && (state.kind == KIND_FILE || state.kind == KIND_SYMLINK))
		r = link_id_get(conn, row.ino, &state.link);
	if (!r && row.xattrs)
		r = inode_get_xattrs(conn, row.ino, &state.xattrs);
	if (r && r != -ENOENT)
		local_state_done(&state);
	else
		*ret = state;
	return r == -ENOENT ? 0 : r;
}

void local_state_done(struct local_state *s)
{
	free(s->target);
	buf_done(&s->xattrs);
	*s = (struct local_state){0};
}

/* ---- the walk below a directory ---- */

/* Where the walk stands: path is the root's key and the names down to here; level n of the stack
 * has the directory's inode and the length of path up to it. */
struct walk {
	struct conn *conn;
	struct key path;
	unsigned depth;
	struct {
		uint64_t dir;
		size_t len;
	} level[DEPTH_MAX + 1];
};

/* The first name after last in the walk's deepest directory. 1, 0 or -errno. */
static int next_name(struct walk *w, struct slice last, char name[NAME_MAX_BYTES], size_t *len,
	uint64_t *ino, bool *dir)
{
	sqlite3_stmt *s = conn_statement(w->conn,
		"SELECT d.name, d.ino, i.mode FROM dentry d JOIN inode i ON i.ino = d.ino"
		" WHERE d.parent = ?1 AND (d.place, d.name) > (?3, ?2)"
		" ORDER BY d.place, d.name LIMIT 1");
	struct slice found;
	int r;

	bind_int(s, 1, (int64_t)w->level[w->depth].dir);
	bind_slice(s, 2, last);
	bind_int(s, 3, last.len ? name_place(last) : 0);
	r = conn_row(w->conn, s);
	if (r <= 0)
		return r;
	found = column_slice(s, 0);
	*len = found.len;
	memcpy(name, found.p, found.len <= NAME_MAX_BYTES ? found.len : NAME_MAX_BYTES);
	*ino = (uint64_t)sqlite3_column_int64(s, 1);
	*dir = S_ISDIR((uint32_t)sqlite3_column_int64(s, 2));
	sqlite3_reset(s);
	return *len <= NAME_MAX_BYTES ? 1 : -EIO;
}

static int path_push(struct walk *w, struct slice name)
{
	size_t slash = w->path.len > 0;

	if (w->path.len + slash + name.len > KEY_MAX)
		return -EIO;
	if (slash)
		w->path.p[w->path.len++] = '/';
	memcpy(w->path.p + w->path.len, name.p, name.len);
	w->path.len += name.len;
	w->path.p[w->path.len] = '\0';
	return 0;
}

static void path_cut(struct walk *w, size_t len)
{
	w->path.len = len;
	w->path.p[len] = '\0';
}

static int descend(struct walk *w, uint64_t dir)
{
	if (w->depth >= DEPTH_MAX)
		return -EIO;
	w->depth++;
	w->level[w->depth].dir = dir;
	w->level[w->depth].len = w->path.len;
	return 0;
}

/* Takes the walk to just behind `after`: into it when it is a directory that is still there, else
 * behind its name. *last is the name to go on from in the deepest directory. */
static int resume(struct walk *w, struct slice after, struct slice *last)
{
	size_t root_len = w->path.len;
	const char *p, *end = after.p + after.len;
	struct inode_row row;
	int r;

	*last = slice_of("");
	if (after.len <= root_len || !key_at_or_below(after, key_slice(&w->path)))
		return 0;
	p = after.p + root_len + (root_len > 0);
	while (p < end) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		struct slice name = {p, (size_t)((slash ? slash : end) - p)};

		*last = name;
		r = inode_child(w->conn, w->level[w->depth].dir, name, &row);
		if (r == -ENOENT || (!r && !S_ISDIR(row.mode)))
			return 0;
		if (!r)
			r = path_push(w, name);
		if (!r)
			r = descend(w, row.ino);
		if (r)
			return r;
		*last = slice_of("");
		p = slash ? slash + 1 : end;
	}
	return 0;
}

/* Steps up; *last becomes the name of the directory that is left. False at the root. */
static bool ascend(struct walk *w, char name[NAME_MAX_BYTES], struct slice *last)
{
	struct slice left;

	if (w->depth == 0)
		return false;
	path_cut(w, w->level[w->depth].len);
	left = key_name(key_slice(&w->path));
	memcpy(name, left.p, left.len);
	*last = (struct slice){name, left.len};
	w->depth--;
	path_cut(w, w->level[w->depth].len);
	return true;
}

static int walk_on(struct walk *w, struct slice last, unsigned limit, journal_walk_fn fn, void *ctx)
{
	char name[NAME_MAX_BYTES];
	uint64_t ino = 0;
	bool dir = false;
	size_t len = 0;
	int r;

	while (limit > 0) {
		r = next_name(w, last, name, &len, &ino, &dir);
		if (r < 0)
			return r;
		if (r == 0) {
			if (!ascend(w, name, &last))
				return 0;
			continue;
		}
		last = (struct slice){name, len};
		r = path_push(w, last);
		if (!r)
			r = fn(ctx, key_slice(&w->path));
		if (r)
			return r;
		limit--;
		if (dir) {
			r = descend(w, ino);
			if (r)
				return r;
			last = slice_of("");
		} else {
			path_cut(w, w->level[w->depth].len);
		}
	}
	return 0;
}

int journal_walk(struct conn *conn, struct slice root, struct slice after, unsigned limit,
	journal_walk_fn fn, void *ctx)
{
	struct walk *w AUTO_FREE = NULL;
	struct slice last;
	struct inode_row row;
	int r;

	r = inode_resolve(conn, root, &row);
	if (r || !S_ISDIR(row.mode))
		return r == -ENOENT ? 0 : r;
	w = calloc(1, sizeof(*w));
	if (!w || !key_set(&w->path, root))
		return w ? -ENAMETOOLONG : -ENOMEM;
	w->conn = conn;
	w->level[0].dir = row.ino;
	w->level[0].len = root.len;
	r = resume(w, after, &last);
	return r ? r : walk_on(w, last, limit, fn, ctx);
}
