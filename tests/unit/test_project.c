/* The tree as a pure function of the entries: by random records in random order. */
#include "tests/unit/project_fixture.h"

#include <fcntl.h>

#include "cache/outbox.h"

#define CASES 2500
#define KEYS 15
#define CONTENTS 4
#define STEPS 20

/* ---- records ---- */

static const char *const keys[KEYS] = {"", "a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b",
	"a/b/a", "a/b/b", "b/a/a", "b/a/b", "b/b/a", "b/b/b"};

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

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_tree_is_a_function_of_the_entries),
		TEST(statements_use_indexes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
