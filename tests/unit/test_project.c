/* The tree as a pure function of the entries: by random records in random order, and case by case.
 */
#include "tests/unit/replica_fixture.h"

#include <fcntl.h>

#include "cache/conflict.h"
#include "cache/outbox.h"
#include "cache/project.h"
#include "cache/replication.h"

#define CASES 2500
#define KEYS 15
#define CONTENTS 4
#define STEPS 20

/* ---- records ---- */

static const char *const keys[KEYS] = {"", "a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b",
	"a/b/a", "a/b/b", "b/a/a", "b/a/b", "b/b/a", "b/b/b"};

static uint64_t content_bytes(unsigned content)
{
	return content * 10;
}

static void set_content(struct entry *e, unsigned content)
{
	e->kind = KIND_FILE;
	e->size = content_bytes(content);
	memset(e->hash, (int)content + 1, sizeof(e->hash));
}

static struct stamp random_stamp(void)
{
	/* The node makes it unique: equal stamps do not happen. */
	return (struct stamp){1 + random_below(40), random_u64()};
}

static void random_record(struct entry *e)
{
	*e = (struct entry){.kind = KIND_ABSENT, .content_mtime_ns = (int64_t)random_below(1000)};
	e->content_stamp = random_stamp();
	switch (random_below(7)) {
	case 0:
	case 1:
		set_content(e, (unsigned)random_below(CONTENTS));
		break;
	case 2:
		e->kind = KIND_SYMLINK;
		e->target = strdup(random_below(2) ? "x" : "y");
		break;
	case 3:
		e->kind = KIND_DIR;
		break;
	default:
		break;
	}
	if ((e->kind == KIND_FILE || e->kind == KIND_SYMLINK) && random_below(2))
		e->link = (struct link_id){7, random_below(2)};
	/* A link id comes with a record of a server, which always has attributes. */
	if (e->link.origin || random_below(2)) {
		e->mode = (uint32_t)random_below(010000);
		e->uid = (uint32_t)random_below(3);
		e->gid = (uint32_t)random_below(3);
		e->attr_stamp = random_stamp();
		if (random_below(3) == 0) {
			buf_put_varint(&e->xattrs, 1);
			buf_put_bytes(&e->xattrs, "user.k", 6);
			buf_put_bytes(&e->xattrs, random_below(2) ? "1" : "2", 1);
		}
	}
	if (random_below(3) == 0) {
		e->mtime_ns = 1000 + (int64_t)random_below(1000);
		e->mtime_stamp = random_stamp();
	}
}

/* Last writer wins, register by register; true when the content register is the record's. */
static bool merge(struct entry *e, const struct entry *record)
{
	bool content = stamp_cmp(record->content_stamp, e->content_stamp) > 0;

	if (content) {
		free(e->target);
		e->kind = record->kind;
		e->size = record->size;
		e->link = record->link;
		memcpy(e->hash, record->hash, sizeof(e->hash));
		e->target = record->target ? strdup(record->target) : NULL;
		e->content_mtime_ns = record->content_mtime_ns;
		e->content_stamp = record->content_stamp;
	}
	if (stamp_cmp(record->attr_stamp, e->attr_stamp) > 0) {
		e->mode = record->mode;
		e->uid = record->uid;
		e->gid = record->gid;
		buf_clear(&e->xattrs);
		buf_put(&e->xattrs, record->xattrs.data, record->xattrs.len);
		e->attr_stamp = record->attr_stamp;
	}
	if (stamp_cmp(record->mtime_stamp, e->mtime_stamp) > 0) {
		e->mtime_ns = record->mtime_ns;
		e->mtime_stamp = record->mtime_stamp;
	}
	return content;
}

/* ---- the function ---- */

static bool below(const char *key, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 0)
		return key[0] != '\0';
	return strncmp(key, dir, n) == 0 && key[n] == '/';
}

struct expected {
	enum kind kind;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	bool owned;
};

static void expect(const struct entry *entries, unsigned k, const struct expected *parent,
	struct expected *ret)
{
	const struct entry *e = &entries[k];

	ret->kind = e->kind;
	for (unsigned i = 0; i < KEYS; i++) {
		if (below(keys[i], keys[k]) && entry_live(&entries[i]))
			ret->kind = KIND_DIR;
	}
	ret->owned = e->attr_stamp.time != 0;
	ret->uid = ret->owned ? e->uid : parent->uid;
	ret->gid = ret->owned ? e->gid : parent->gid;
	ret->mode = ret->owned		     ? e->mode
		    : ret->kind == KIND_DIR  ? 0755
		    : ret->kind == KIND_FILE ? 0644
					     : 0777;
	if (ret->owned && ret->kind == KIND_DIR && e->kind != KIND_DIR)
		ret->mode |= (ret->mode & 0444) >> 2;
}

/* The names k and i are one inode. */
static bool share(const struct entry *entries, const struct expected *want, unsigned k, unsigned i)
{
	const struct entry *a = &entries[k], *b = &entries[i];

	return a->link.origin && want[k].kind == a->kind && want[i].kind == b->kind &&
	       link_id_equal(a->link, b->link) && entry_content_equal(a, b);
}

static struct stamp time_stamp(const struct entry *e)
{
	return stamp_cmp(e->mtime_stamp, e->content_stamp) > 0 ? e->mtime_stamp : e->content_stamp;
}

/* *ret: what the entries of all names of k's inode say, in one that borrows from them. */
static unsigned shown(const struct entry *entries, struct expected *want, unsigned k, struct entry *ret)
{
	const struct entry *attr = &entries[k], *time = attr;
	unsigned names = 1;

	for (unsigned i = 1; i < KEYS; i++) {
		const struct entry *e = &entries[i];

		if (i == k || !share(entries, want, k, i))
			continue;
		names++;
		if (stamp_cmp(e->attr_stamp, attr->attr_stamp) > 0)
			attr = e;
		if (stamp_cmp(time_stamp(e), time_stamp(time)) > 0)
			time = e;
	}
	*ret = entries[k];
	ret->xattrs = attr->xattrs;
	ret->content_mtime_ns = entry_mtime(time);
	ret->mtime_stamp = (struct stamp){0};
	if (names > 1) {
		want[k].mode = attr->mode;
		want[k].uid = attr->uid;
		want[k].gid = attr->gid;
	}
	return names;
}

static void check_inodes(struct conn *conn, const struct entry *entries, const struct expected *want)
{
	struct inode_row row;
	uint64_t ino[KEYS] = {0};

	for (unsigned k = 1; k < KEYS; k++) {
		if (want[k].kind != KIND_FILE && want[k].kind != KIND_SYMLINK)
			continue;
		assert_int_equal(inode_resolve(conn, slice_of(keys[k]), &row), 0);
		ino[k] = row.ino;
		for (unsigned i = 1; i < k; i++) {
			if (ino[i])
				assert_int_equal(ino[i] == ino[k], share(entries, want, k, i));
		}
	}
}

static void check_file(
	struct fixture *f, struct conn *conn, const struct inode_row *row, const struct entry *e)
{
	struct stat st;
	int fd;

	assert_int_equal(row->size, e->size);
	assert_true(row->has_hash);
	assert_memory_equal(row->hash, e->hash, SHA256_SIZE);
	if (row->state != STATE_LOCAL)
		return;
	fd = content_file(f->cache, row->ino, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, e->size);
	assert_int_equal(stat_mtime_ns(&st), entry_mtime(e));
	close(fd);
}

static void check_path(struct fixture *f, struct conn *conn, const struct entry *e, const char *key,
	const struct expected *want)
{
	CLEANUP(buf_done) struct buf xattrs = {0};
	AUTO_FREE char *target = NULL;
	struct inode_row row;
	int r = inode_resolve(conn, slice_of(key), &row);

	if (want->kind == KIND_ABSENT) {
		assert_int_equal(r, -ENOENT);
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(mode_kind(row.mode), want->kind);
	assert_int_equal(row.mode & 07777, want->mode);
	assert_int_equal(row.uid, want->uid);
	assert_int_equal(row.gid, want->gid);
	assert_int_equal(row.mtime_ns, entry_mtime(e));
	if (want->kind == KIND_FILE)
		check_file(f, conn, &row, e);
	if (want->kind == KIND_SYMLINK) {
		assert_int_equal(inode_target(conn, row.ino, &target), 0);
		assert_string_equal(target, e->target);
	}
	assert_int_equal(inode_get_xattrs(conn, row.ino, &xattrs), 0);
	if (e->xattrs.len > 1)
		assert_true(xattrs.len == e->xattrs.len &&
			    memcmp(xattrs.data, e->xattrs.data, xattrs.len) == 0);
	else
		assert_true(xattrs.len <= 1);
}

static void check_tree(struct fixture *f, struct conn *conn, const struct entry *entries)
{
	struct expected want[KEYS], look[KEYS];
	struct inode_row root;
	unsigned names = 0, implied = 0, links = 0;

	assert_int_equal(inode_get(conn, ROOT_INO, &root), 0);
	want[0] = (struct expected){.uid = root.uid, .gid = root.gid};
	if (entries[0].attr_stamp.time) {
		assert_int_equal(root.uid, entries[0].uid);
		assert_int_equal(root.gid, entries[0].gid);
	}
	for (unsigned k = 1; k < KEYS; k++) {
		struct slice dir = key_parent(slice_of(keys[k]));
		unsigned parent = 0;

		while (!slice_equal(slice_of(keys[parent]), dir))
			parent++;
		expect(entries, k, &want[parent], &want[k]);
		names += want[k].kind != KIND_ABSENT;
		implied += want[k].kind != KIND_ABSENT && !want[k].owned;
	}
	memcpy(look, want, sizeof(look));
	for (unsigned k = 1; k < KEYS; k++) {
		struct entry e;

		links += shown(entries, look, k, &e) > 1;
		check_path(f, conn, &e, keys[k], &look[k]);
	}
	check_inodes(conn, entries, want);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM dentry"), names);
	assert_int_equal(
		sql_int(conn, "SELECT sum(nlink) FROM inode WHERE nlink > 0 AND parent > 0"), names);
	assert_int_equal(links != 0, sql_int(conn, "SELECT count(*) FROM link") != 0);
	assert_int_equal(
		sql_int(conn, "SELECT count(*) FROM link_id WHERE ino NOT IN (SELECT ino FROM inode)"), 0);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM implied"), implied);
	/* Whatever lost its name and is still there is kept for a conflict row. */
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM inode WHERE nlink = 0"
				       " AND ino NOT IN (SELECT ino FROM conflict)"),
		0);
	assert_int_equal(
		sql_int(conn, "SELECT count(*) FROM conflict WHERE reason <> 'hidden'"), 0);
}

/* ---- random cases ---- */

struct step {
	unsigned key;
	struct entry record;
};

/* Outside of a transaction, as the interface wants it. */
static struct content_writer write_content(struct fixture *f, uint64_t size)
{
	struct content_writer w;

	assert_int_equal(content_begin(f->cache, &w), 0);
	while (w.size < size)
		assert_int_equal(content_append(&w, "0123456789", 10), 0);
	content_finish(&w);
	return w;
}

static void apply(struct conn *conn, struct entry *entries, const struct step *step,
	struct incoming *incoming)
{
	struct entry *e = &entries[step->key];
	bool content_changed = merge(e, &step->record);
	struct slice key = slice_of(keys[step->key]);

	if (!content_changed)
		incoming = NULL;
	assert_int_equal(entry_put(conn, key, e), 0);
	assert_int_equal(project_entry(conn, key, e, content_changed, incoming, NULL), 0);
}

static void run_order(struct fixture *f, struct step *steps, unsigned count, bool each)
{
	struct entry entries[KEYS] = {0};
	struct content_writer writers[STEPS];
	struct incoming incoming[STEPS] = {0};
	struct conn *conn;

	for (unsigned i = 0; i < count; i++) {
		if (steps[i].record.kind != KIND_FILE || random_below(4))
			continue;
		writers[i] = write_content(f, steps[i].record.size);
		incoming[i].content = &writers[i];
	}
	conn = fixture_begin(f);
	for (unsigned i = 0; i < count; i++) {
		apply(conn, entries, &steps[i], &incoming[i]);
		if (each) {
			assert_int_equal(project_settle(conn), 0);
			check_tree(f, conn, entries);
		}
	}
	assert_int_equal(project_settle(conn), 0);
	check_tree(f, conn, entries);
	cache_rollback(conn);
	for (unsigned i = 0; i < count; i++) {
		if (incoming[i].content)
			content_discard(f->cache, incoming[i].content);
	}
	for (unsigned k = 0; k < KEYS; k++)
		entry_done(&entries[k]);
}

static void shuffle(struct step *steps, unsigned count)
{
	for (unsigned i = count; i > 1; i--) {
		unsigned j = (unsigned)random_below(i);
		struct step s = steps[i - 1];

		steps[i - 1] = steps[j];
		steps[j] = s;
	}
}

static void the_tree_is_a_function_of_the_entries(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = test_seed(301);

	print_message("first seed %llu\n", (unsigned long long)seed);
	for (uint64_t i = 0; i < CASES; i++) {
		struct step steps[STEPS];
		unsigned count;

		/* One case: MERIDIAN_SEED=<number in the message> repeats it as the first. */
		if (getenv("MERIDIAN_VERBOSE"))
			print_message("seed %llu\n", (unsigned long long)(seed + i));
		random_seed_deterministic(seed + i);
		count = 1 + (unsigned)random_below(ARRAY_SIZE(steps));
		for (unsigned j = 0; j < count; j++) {
			steps[j].key = (unsigned)random_below(KEYS);
			random_record(&steps[j].record);
		}
		run_order(f, steps, count, i % 10 == 0);
		shuffle(steps, count);
		run_order(f, steps, count, false);
		for (unsigned j = 0; j < count; j++)
			entry_done(&steps[j].record);
	}
	random_use_system();
}

/* ---- one by one ---- */

static uint64_t stamps;

/* Puts and projects; kind ABSENT is a tombstone. content is ignored for other kinds than file. */
static uint64_t show(struct conn *conn, const char *key, enum kind kind, unsigned content)
{
	struct entry e = {.kind = kind, .mode = 0640, .uid = 5, .gid = 6};
	uint64_t kept = 99;

	e.content_stamp = e.attr_stamp = (struct stamp){++stamps, 1};
	if (kind == KIND_FILE)
		set_content(&e, content);
	if (kind == KIND_SYMLINK)
		e.target = strdup("target");
	assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
	assert_int_equal(project_entry(conn, slice_of(key), &e, true, NULL, &kept), 0);
	entry_done(&e);
	return kept;
}

/* The same with local content, in a transaction of its own. */
static uint64_t show_local(struct fixture *f, const char *key, unsigned content)
{
	struct content_writer w = write_content(f, content_bytes(content));
	struct incoming incoming = {.content = &w};
	struct entry e = {.mode = 0640};
	struct conn *conn = fixture_begin(f);

	e.content_stamp = e.attr_stamp = (struct stamp){++stamps, 1};
	set_content(&e, content);
	assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
	assert_int_equal(project_entry(conn, slice_of(key), &e, true, &incoming, NULL), 0);
	assert_true(incoming.used);
	fixture_commit(conn);
	return w.ino;
}

static uint64_t ino_at(struct conn *conn, const char *key)
{
	struct inode_row row;
	int r = inode_resolve(conn, slice_of(key), &row);

	assert_true(r == 0 || r == -ENOENT);
	return r ? 0 : row.ino;
}

static enum kind kind_at(struct conn *conn, const char *key)
{
	struct inode_row row;

	return inode_resolve(conn, slice_of(key), &row) ? KIND_ABSENT : mode_kind(row.mode);
}

static void attributes_keep_the_inode_content_does_not(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct entry e = {0};
	uint64_t file, dir, kept = 1;

	show(conn, "d", KIND_DIR, 0);
	dir = ino_at(conn, "d");
	show(conn, "d/f", KIND_FILE, 1);
	file = ino_at(conn, "d/f");
	assert_int_equal(entry_get(conn, slice_of("d/f"), &e), 0);
	e.mode = 0600;
	e.attr_stamp.time = ++stamps;
	assert_int_equal(project_entry(conn, slice_of("d/f"), &e, false, NULL, &kept), 0);
	assert_int_equal(kept, 0);
	assert_int_equal(ino_at(conn, "d/f"), file);
	/* The same content written again. */
	show(conn, "d/f", KIND_FILE, 1);
	assert_int_equal(ino_at(conn, "d/f"), file);
	show(conn, "d/f", KIND_FILE, 2);
	assert_int_not_equal(ino_at(conn, "d/f"), file);
	show(conn, "d", KIND_DIR, 0);
	assert_int_equal(ino_at(conn, "d"), dir);
	entry_done(&e);
	fixture_commit(conn);
}

static void an_attribute_never_replaces_what_is_being_written(void **state)
{
	struct fixture *f = *state;
	struct entry e = {.content_stamp = {1, 1}, .mode = 0604, .attr_stamp = {2, 1}};
	struct inode inode;
	struct file *file;
	struct conn *conn;

	set_content(&e, 3);
	assert_int_equal(tree_create_open(f->cache, ROOT_INO, slice_of("f"), S_IFREG | 0600, 0, 0,
				 true, &inode, &file),
		0);
	assert_int_equal(file_write(file, "x", 1, 0, false), 1);
	conn = fixture_begin(f);
	assert_int_equal(entry_put(conn, slice_of("f"), &e), 0);
	assert_int_equal(project_entry(conn, slice_of("f"), &e, false, NULL, NULL), 0);
	assert_int_equal(ino_at(conn, "f"), inode.ino);
	fixture_commit(conn);
	assert_int_equal(tree_getattr(f->cache, inode.ino, &inode), 0);
	assert_int_equal(inode.mode, S_IFREG | 0604);
	assert_int_equal(inode.size, 1);
	assert_int_not_equal(inode.mtime_ns, entry_mtime(&e));
	file_release(file);
}

static void a_hidden_file_that_was_written_does_not_come_back_as_the_old_one(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 1), n = 0;
	struct file *file;
	struct inode_row row;
	struct conn *conn;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	fixture_commit(conn);
	assert_int_equal(file_write(file, "later", 5, 0, false), 5);
	file_release(file);
	conn = fixture_begin(f);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	show(conn, "f/x", KIND_ABSENT, 0);
	assert_int_equal(kind_at(conn, "f"), KIND_FILE);
	assert_int_not_equal(ino_at(conn, "f"), ino);
	/* Its next version does not take the conflict's content along. */
	assert_int_equal(show(conn, "f", KIND_FILE, 2), ino);
	assert_int_equal(inode_get(conn, ino, &row), 0);
	fixture_commit(conn);
}

static void a_replaced_local_file_is_handed_over(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 1);
	struct conn *conn = fixture_begin(f);
	struct inode_row row;
	int fd;

	assert_int_equal(show(conn, "f", KIND_FILE, 2), ino);
	assert_int_equal(inode_get(conn, ino, &row), 0);
	assert_int_equal(row.nlink, 0);
	/* What is remote has nothing to keep. */
	assert_int_equal(show(conn, "f", KIND_FILE, 3), 0);
	fixture_commit(conn);
	ino = show_local(f, "f", 1);
	conn = fixture_begin(f);
	assert_int_equal(show(conn, "f", KIND_ABSENT, 0), ino);
	assert_int_equal(ino_at(conn, "f"), 0);
	fixture_commit(conn);
	fd = content_file(f->cache, ino, O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
}

static void a_hidden_file_comes_back(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "p/f", 1), hidden = 0, n = 9;
	struct conn *conn = fixture_begin(f);
	uint8_t hash[SHA256_SIZE];

	memset(hash, 2, sizeof(hash));
	assert_int_equal(show(conn, "p/f/x/y", KIND_FILE, 2), 0);
	assert_int_equal(kind_at(conn, "p/f"), KIND_DIR);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(project_hidden_ino(conn, slice_of("p/f"), hash, &hidden), 0);
	assert_int_equal(hidden, ino);
	fixture_commit(conn);
	conn = fixture_begin(f);
	show(conn, "p/f/x/y", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "p/f"), ino);
	assert_int_equal(project_hidden_ino(conn, slice_of("p/f"), hash, &hidden), -ENOENT);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM conflict"), 0);
	/* Hidden again, and overwritten meanwhile: now it is a replaced version. */
	show(conn, "p/f/x", KIND_SYMLINK, 0);
	assert_int_equal(show(conn, "p/f", KIND_FILE, 3), ino);
	assert_int_equal(kind_at(conn, "p/f"), KIND_DIR);
	show(conn, "p/f/x", KIND_ABSENT, 0);
	assert_int_equal(kind_at(conn, "p/f"), KIND_FILE);
	assert_int_not_equal(ino_at(conn, "p/f"), ino);
	fixture_commit(conn);
}

static void what_is_not_sealed_is_never_removed(void **state)
{
	struct fixture *f = *state;
	struct inode dir, file;
	struct conn *conn = fixture_begin(f);
	struct entry tombstone = {.content_stamp = {1000, 1}};

	show(conn, "d", KIND_DIR, 0);
	show(conn, "d/old", KIND_FILE, 1);
	fixture_commit(conn);
	assert_int_equal(tree_resolve(f->cache, slice_of("d"), &dir), 0);
	assert_int_equal(
		tree_create(f->cache, dir.ino, slice_of("new"), S_IFREG | 0600, 0, 0, NULL, &file),
		0);
	conn = fixture_begin(f);
	show(conn, "d", KIND_ABSENT, 0);
	show(conn, "d/old", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "d"), dir.ino);
	assert_int_equal(ino_at(conn, "d/new"), file.ino);
	assert_int_equal(ino_at(conn, "d/old"), 0);
	fixture_commit(conn);
	/* Removed here, and the removal sealed. */
	assert_int_equal(tree_unlink(f->cache, dir.ino, slice_of("new")), 0);
	conn = fixture_begin(f);
	assert_int_equal(
		sqlite3_exec(conn->db, "DELETE FROM journal", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(entry_put(conn, slice_of("d/new"), &tombstone), 0);
	assert_int_equal(project_ancestors(conn, slice_of("d/new")), 0);
	assert_int_equal(ino_at(conn, "d"), 0);
	fixture_commit(conn);
	/* A directory that an application made again, before anybody sealed it. */
	assert_int_equal(
		tree_create(f->cache, ROOT_INO, slice_of("d"), S_IFDIR | 0700, 0, 0, NULL, &dir),
		0);
	conn = fixture_begin(f);
	show(conn, "d/old", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "d"), dir.ino);
	fixture_commit(conn);
}

static void an_unsealed_file_that_gives_way_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	struct inode file;
	struct conn *conn;
	uint64_t n = 0;

	assert_int_equal(
		tree_create(f->cache, ROOT_INO, slice_of("f"), S_IFREG | 0600, 0, 0, NULL, &file),
		0);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	assert_int_equal(kind_at(conn, "f"), KIND_DIR);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	fixture_commit(conn);
	conn = fixture_begin(f);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM inode WHERE nlink = 0"), 1);
	cache_rollback(conn);
}

static void give_link_id(struct fixture *f, const char *key)
{
	struct entry e = {0};
	struct conn *conn = fixture_begin(f);

	assert_int_equal(entry_get(conn, slice_of(key), &e), 0);
	e.link = (struct link_id){7, 1};
	e.content_stamp.time = ++stamps;
	assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
	assert_int_equal(project_entry(conn, slice_of(key), &e, false, NULL, NULL), 0);
	entry_done(&e);
	fixture_commit(conn);
}

/* Of two that become one, the one that was written since its seal stays, whoever has which open. */
static void joining_keeps_what_is_not_sealed(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2; i++) {
		const char *const older = i ? "a" : "c", *const newer = i ? "b" : "d";
		uint64_t ino = show_local(f, older, i), written = show_local(f, newer, i);
		struct file *reader, *writer;
		struct conn *conn;
		char text[8] = {0};

		assert_int_equal(file_open(f->cache, ino, false, false, &reader), 0);
		assert_int_equal(file_open(f->cache, written, true, false, &writer), 0);
		assert_int_equal(file_write(writer, "later", 5, 0, false), 5);
		if (i)
			file_release(writer);
		give_link_id(f, older);
		give_link_id(f, newer);
		if (!i)
			file_release(writer);
		file_release(reader);
		conn = fixture_begin(f);
		assert_int_equal(ino_at(conn, older), written);
		assert_int_equal(ino_at(conn, newer), written);
		fixture_commit(conn);
		assert_int_equal(file_open(f->cache, written, false, false, &reader), 0);
		assert_int_equal(file_read(reader, text, 5, 0), 5);
		assert_string_equal(text, "later");
		file_release(reader);
	}
}

static void write_text(struct fixture *f, uint64_t ino, const char *text, struct file **ret)
{
	size_t n = strlen(text);

	assert_int_equal(file_open(f->cache, ino, true, true, ret), 0);
	assert_int_equal(file_write(*ret, text, n, 0, false), n);
}

static void assert_text(struct fixture *f, uint64_t ino, const char *text)
{
	char got[32] = {0};
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	assert_int_equal(file_read(file, got, sizeof(got) - 1, 0), strlen(text));
	assert_string_equal(got, text);
	file_release(file);
}

/* Whether the files are open or closed: what is not sealed of either exists nowhere else. */
static void two_that_were_both_written_stay_two(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4; i++) {
		const char a[] = {'a', (char)('0' + i), 0}, b[] = {'b', (char)('0' + i), 0};
		uint64_t first = show_local(f, a, 1), second = show_local(f, b, 1);
		struct file *one, *two;
		struct conn *conn;

		write_text(f, first, "mine", &one);
		write_text(f, second, "yours", &two);
		if (i & 1)
			file_release(one);
		if (i & 2)
			file_release(two);
		give_link_id(f, a);
		give_link_id(f, b);
		conn = fixture_begin(f);
		assert_int_equal(ino_at(conn, a), first);
		assert_int_equal(ino_at(conn, b), second);
		fixture_commit(conn);
		if (!(i & 1))
			file_release(one);
		if (!(i & 2))
			file_release(two);
		assert_text(f, first, "mine");
		assert_text(f, second, "yours");
		/* The next pair is another file. */
		assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of(a)), 0);
		assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of(b)), 0);
	}
}

/* A write can come between the look at what is not sealed and the change that takes the name. */
static void written_while_its_name_is_taken(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 2), n = 0;
	struct entry e = {0};
	struct file *file;
	struct conn *conn;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	file_unseen(file, O_WRONLY);
	conn = fixture_begin(f);
	assert_int_equal(pwrite(file_fd(file), "later", 5, 0), 5);
	e.content_stamp.time = ++stamps;
	set_content(&e, 3);
	assert_int_equal(entry_put(conn, slice_of("f"), &e), 0);
	assert_int_equal(project_entry(conn, slice_of("f"), &e, true, NULL, NULL), 0);
	assert_int_not_equal(ino_at(conn, "f"), ino);
	fixture_commit(conn);
	file_release(file);
	conn = fixture_begin(f);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(sql_int(conn, "SELECT ino FROM conflict"), ino);
	fixture_commit(conn);
}

struct seen {
	unsigned names;
	unsigned attributes;
	char last[NAME_MAX_BYTES + 1];
};

static void note(void *ctx, const struct invalidation *i)
{
	struct seen *seen = ctx;

	if (i->name) {
		seen->names++;
		snprintf(seen->last, sizeof(seen->last), "%s", i->name);
	} else {
		seen->attributes++;
	}
}

static void the_kernel_is_told(void **state)
{
	struct fixture *f = *state;
	struct seen seen = {0};
	struct entry e = {0};
	struct conn *conn;

	cache_set_invalidator(f->cache, note, &seen);
	conn = fixture_begin(f);
	show(conn, "d/f", KIND_FILE, 1);
	assert_int_equal(seen.names, 0);
	fixture_commit(conn);
	assert_int_equal(seen.names, 2);
	assert_string_equal(seen.last, "f");
	conn = fixture_begin(f);
	assert_int_equal(entry_get(conn, slice_of("d/f"), &e), 0);
	e.uid = 77;
	assert_int_equal(project_entry(conn, slice_of("d/f"), &e, false, NULL, NULL), 0);
	fixture_commit(conn);
	assert_int_equal(seen.names, 2);
	assert_int_equal(seen.attributes, 1);
	conn = fixture_begin(f);
	assert_int_equal(project_entry(conn, slice_of("d/f"), &e, false, NULL, NULL), 0);
	fixture_commit(conn);
	assert_int_equal(seen.attributes, 1);
	conn = fixture_begin(f);
	show(conn, "d/f", KIND_ABSENT, 0);
	cache_rollback(conn);
	assert_int_equal(seen.names, 2);
	conn = fixture_begin(f);
	show(conn, "d/f", KIND_ABSENT, 0);
	fixture_commit(conn);
	assert_int_equal(seen.names, 4);
	assert_string_equal(seen.last, "d");
	cache_set_invalidator(f->cache, NULL, NULL);
	entry_done(&e);
}

static void an_open_reader_keeps_what_it_opened(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 2);
	struct conn *conn;
	struct file *file;
	char text[32];

	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	/* Hidden, attached again while it is open, then gone. */
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	fixture_commit(conn);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "f"), ino);
	fixture_commit(conn);
	assert_int_equal(file_read(file, text, sizeof(text), 0), 20);
	file_release(file);
	conn = fixture_begin(f);
	assert_int_equal(ino_at(conn, "f"), ino);
	fixture_commit(conn);
	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	conn = fixture_begin(f);
	show(conn, "f", KIND_DIR, 0);
	fixture_commit(conn);
	assert_int_equal(file_read(file, text, sizeof(text), 0), 20);
	file_release(file);
}

static void statements_use_indexes(void **state)
{
	struct fixture *f = *state;
	struct conn *conn;

	show_local(f, "f", 1);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	show(conn, "f/x", KIND_ABSENT, 0);
	assert_no_scans(conn, "conflict");
	assert_no_scans(conn, "implied");
	assert_no_scans(conn, "entry");
	fixture_commit(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_attribute_never_replaces_what_is_being_written,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			a_hidden_file_that_was_written_does_not_come_back_as_the_old_one,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(attributes_keep_the_inode_content_does_not,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			a_replaced_local_file_is_handed_over, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			a_hidden_file_comes_back, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			what_is_not_sealed_is_never_removed, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(an_unsealed_file_that_gives_way_is_a_conflict,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			joining_keeps_what_is_not_sealed, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(two_that_were_both_written_stay_two,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			written_while_its_name_is_taken, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			the_kernel_is_told, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			an_open_reader_keeps_what_it_opened, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			statements_use_indexes, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			the_tree_is_a_function_of_the_entries, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
