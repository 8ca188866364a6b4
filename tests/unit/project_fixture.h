/* Records that are put and shown, for the tests of the projection. */
#ifndef TESTS_PROJECT_FIXTURE_H
#define TESTS_PROJECT_FIXTURE_H

#include "tests/unit/replica_fixture.h"

#include "cache/project.h"
#include "cache/replication.h"

static inline uint64_t content_bytes(unsigned content)
{
	return content * 10;
}

static inline void set_content(struct entry *e, unsigned content)
{
	e->kind = KIND_FILE;
	e->size = content_bytes(content);
	memset(e->hash, (int)content + 1, sizeof(e->hash));
}

/* Outside of a transaction, as the interface wants it. */
static inline struct content_writer write_content(struct fixture *f, uint64_t size)
{
	struct content_writer w;

	assert_int_equal(content_begin(f->cache, &w), 0);
	while (w.size < size)
		assert_int_equal(content_append(&w, "0123456789", 10), 0);
	content_finish(&w);
	return w;
}

static uint64_t stamps;

/* Puts and projects; kind ABSENT is a tombstone. content is ignored for other kinds than file. */
static inline uint64_t show(struct conn *conn, const char *key, enum kind kind, unsigned content)
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
static inline uint64_t show_local(struct fixture *f, const char *key, unsigned content)
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

static inline uint64_t ino_at(struct conn *conn, const char *key)
{
	struct inode_row row;
	int r = inode_resolve(conn, slice_of(key), &row);

	assert_true(r == 0 || r == -ENOENT);
	return r ? 0 : row.ino;
}

static inline enum kind kind_at(struct conn *conn, const char *key)
{
	struct inode_row row;

	return inode_resolve(conn, slice_of(key), &row) ? KIND_ABSENT : mode_kind(row.mode);
}

#endif
