/* More for the tests of the local half of the cache: files, journal rows, crashes. */
#ifndef TESTS_CACHE_FIXTURE_H
#define TESTS_CACHE_FIXTURE_H

#include "cache/conflict.h"
#include "tests/unit/replica_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>


static inline void fixture_reopen(struct fixture *f)
{
	cache_close(f->cache);
	fixture_open(f);
}

/* As after kill -9. */
static inline void fixture_crash(struct fixture *f)
{
	cache_abandon(f->cache);
	fixture_open(f);
}

static inline void sweep_all(struct fixture *f)
{
	bool more = true;

	while (more)
		assert_int_equal(cache_sweep(f->cache, &more), 0);
}

/* That what was added up is what is there. */
static inline void assert_totals(struct fixture *f)
{
	struct conn *conn = fixture_begin(f);
	struct cache_usage u = {0};

	assert_int_equal(cache_usage(f->cache, &u), 0);
	assert_false(u.counting);
	assert_int_equal(u.inodes, sql_int(conn, "SELECT count(*) FROM inode"));
	assert_int_equal(
		u.content_files, sql_int(conn, "SELECT count(*) FROM inode WHERE state = 1"));
	assert_int_equal(u.content_bytes,
		sql_int(conn, "SELECT coalesce(sum(size), 0) FROM inode WHERE state = 1"));
	cache_rollback(conn);
}

static inline uint64_t make(struct fixture *f, uint64_t parent, const char *name, uint32_t mode)
{
	struct inode inode = {0};

	assert_int_equal(tree_create(f->cache, parent, slice_of(name), mode, 1000, 1001,
				 S_ISLNK(mode) ? "target" : NULL, &inode),
		0);
	return inode.ino;
}

static inline uint64_t make_dir(struct fixture *f, uint64_t parent, const char *name)
{
	return make(f, parent, name, S_IFDIR | 0755);
}

/* A new file that is open for writing. */
static inline struct file *make_open(struct fixture *f, uint64_t parent, const char *name)
{
	struct inode inode = {0};
	struct file *file = NULL;

	assert_int_equal(tree_create_open(f->cache, parent, slice_of(name), S_IFREG | 0644, 1000,
				 1001, true, &inode, &file),
		0);
	return file;
}

static inline uint64_t make_file(
	struct fixture *f, uint64_t parent, const char *name, const char *text)
{
	struct file *file = make_open(f, parent, name);
	uint64_t ino = file_ino(file);

	assert_int_equal(file_write(file, text, strlen(text), 0, false), (ssize_t)strlen(text));
	file_release(file);
	return ino;
}

static inline void assert_content(struct fixture *f, uint64_t ino, const char *text)
{
	char got[4096] = "";
	struct file *file = NULL;

	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	assert_int_equal(file_read(file, got, sizeof(got) - 1, 0), (ssize_t)strlen(text));
	assert_string_equal(got, text);
	file_release(file);
}

/* "op key hint;" for each row. */
static inline const char *journal_text(struct fixture *f)
{
	static char text[8192];
	static struct journal_row rows[64];
	struct conn *conn = NULL;
	unsigned count = 0;
	size_t n = 0;

	text[0] = '\0';
	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(journal_read(conn, 0, 64, rows, &count), 0);
	cache_read_end(conn);
	for (unsigned i = 0; i < count; i++) {
		static const char *const ops[] = {"?", "put", "remove", "rename", "rename-dir"};

		if (i)
			assert_true(rows[i].time >= rows[i - 1].time);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %s%s%s;", ops[rows[i].op],
			rows[i].key.p, rows[i].hint.len ? " " : "", rows[i].hint.p);
	}
	return text;
}

static inline void journal_clear(struct fixture *f)
{
	struct conn *conn = fixture_begin(f);

	assert_int_equal(
		sqlite3_exec(conn->db, "DELETE FROM journal", NULL, NULL, NULL), SQLITE_OK);
	fixture_commit(conn);
}

static inline struct inode_row row_of(struct fixture *f, uint64_t ino)
{
	struct inode_row row = {0};
	struct conn *conn = NULL;

	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(inode_get(conn, ino, &row), 0);
	cache_read_end(conn);
	return row;
}

static inline bool has_row(struct fixture *f, uint64_t ino)
{
	struct inode_row row;
	struct conn *conn = NULL;
	int r;

	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	r = inode_get(conn, ino, &row);
	cache_read_end(conn);
	assert_true(r == 0 || r == -ENOENT);
	return r == 0;
}

static inline bool has_content(struct fixture *f, uint64_t ino)
{
	char name[CONTENT_NAME_SIZE], path[128];

	content_name(ino, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	return access(path, F_OK) == 0;
}

/* Seals as the replicator does. */
static inline struct content_version seal_now(struct fixture *f, uint64_t ino)
{
	struct content_version v = {0};
	struct conn *conn;

	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
	conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, &v), 0);
	fixture_commit(conn);
	return v;
}

/* What a reader of that version gets. */
static inline void hash_of_version(struct fixture *f, uint64_t ino, const uint8_t *hash, uint8_t *got)
{
	struct content_reader *r = NULL;
	struct sha256 h;
	char buffer[65536];
	uint64_t at = 0;
	ssize_t n;

	assert_int_equal(content_open(f->cache, ino, hash, &r), 0);
	sha256_init(&h);
	while ((n = content_read(r, buffer, sizeof(buffer), at)) > 0) {
		sha256_update(&h, buffer, (size_t)n);
		at += (uint64_t)n;
	}
	assert_int_equal(n, 0);
	assert_int_equal(at, content_size(r));
	sha256_final(&h, got);
	content_close(r);
}

static inline uint64_t lookup(struct fixture *f, uint64_t parent, const char *name)
{
	struct inode inode = {0};

	assert_int_equal(tree_lookup(f->cache, parent, slice_of(name), &inode), 0);
	return inode.ino;
}

static inline int lookup_error(struct fixture *f, uint64_t parent, const char *name)
{
	struct inode inode;

	return tree_lookup(f->cache, parent, slice_of(name), &inode);
}

/* As a remote change does. */
static inline void displace(struct fixture *f, const char *name, uint64_t ino)
{
	struct conn *conn = fixture_begin(f);
	struct slice key = slice_of(name);

	assert_int_equal(inode_detach(conn, ROOT_INO, key, ino, false, &key), 0);
	fixture_commit(conn);
}

static inline uint64_t conflicts(struct fixture *f)
{
	struct conn *conn = NULL;
	uint64_t n = 0;

	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(conflict_count(conn, &n), 0);
	cache_read_end(conn);
	return n;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
