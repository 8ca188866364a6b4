/*
 * The redo log: SQL statements with what they bind, in the order in which they ran.
 *
 * A commit of SQLite costs several times what its statements cost, and an application waits for each.
 * So operations of one writer share a transaction, and each is acknowledged when one write has put its
 * statements here: into the page cache, which a killed process leaves behind. What is logged is text
 * and values, not pages: the same statements on the same committed state give the same rows. That
 * asks of each that it depends on nothing but the database and what it binds: no time, no random.
 *
 * Same state: every commit to the database, of operations or not, leaves a number of its own in meta's
 * redo_number, and the records that follow it count on from there. A power cut may have taken the
 * last commits from the database and left the records behind them; their numbers do not fit then.
 *
 * File: a header of 64 bytes, then records from offset 64 on, without gaps.
 *
 *   header   "MERIREDO", version (4), zero (4), id (8): the database's meta row redo_id
 *   record   number (8), length of the rest (4), statements (4), checksum of all but itself (8),
 *            then each statement: length of the text (4), parameters (4), text, parameters:
 *            type (4), length (4), value (8, integers) or bytes, padded to 8
 *
 * Integers are this machine's. After each commit records start at the front again; their numbers go
 * on, and meta's redo_number says up to which they are committed. A record is valid when its checksum
 * is right and its number follows the one before it, the first one's redo_number. So what an earlier
 * round left behind is never taken for new, and after a power cut, which may have kept any part of
 * either file, either a prefix of what came after the last commit is there, or nothing.
 *
 * The file is allocated when it is made; a write that fails all the same fails its operation.
 */
#include "cache/redo.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/internal.h"
#include "cache/meta.h"
#include "src/base/buf.h"
#include "src/base/io.h"
#include "src/base/random.h"

#define FILE_SIZE (4U << 20)
#define FULL_SIZE (2U << 20)	   /* committed from here on */
#define RECORD_MAX (FILE_SIZE / 4) /* a set of extended attributes is the largest: 128 KiB */
#define VERSION 1
#define PARAMS_MAX 24
#define STATEMENTS 4 /* that write, each prepared before the one around it has run */

static const char magic[8] = "MERIREDO";

struct header {
	char magic[8];
	uint32_t version;
	uint32_t zero;
	uint64_t id;
	char pad[40];
};

struct record {
	uint64_t number;
	uint32_t length;
	uint32_t statements;
	uint64_t checksum;
};

struct param {
	int type; /* SQLITE_INTEGER, SQLITE_TEXT, SQLITE_BLOB; 0: none, NULL */
	int64_t v;
	const void *p;
	size_t len;
};

struct statement {
	sqlite3_stmt *s;
	const char *sql;
	int count;
	uint64_t used; /* turn of the last redo_statement */
	struct param param[PARAMS_MAX];
};

struct redo {
	int fd;
	uint64_t id;
	uint64_t number; /* of the last record */
	uint64_t committed;
	uint64_t at;	/* where the next record goes */
	struct buf op;	/* the operation under way, with room for its record */
	uint32_t noted; /* statements in it */
	struct statement statement[STATEMENTS];
	uint64_t turn;
};

_Static_assert(sizeof(struct header) == 64 && sizeof(struct record) == 24, "no padding");

/* Mixes eight bytes at a time (the finaliser of MurmurHash3, public domain, Appleby). */
static uint64_t mix(uint64_t h)
{
	h ^= h >> 33;
	h *= UINT64_C(0xff51afd7ed558ccd);
	h ^= h >> 33;
	h *= UINT64_C(0xc4ceb9fe1a85ec53);
	return h ^ h >> 33;
}

static uint64_t checksum(const struct record *rec, const void *rest)
{
	const char *p = rest;
	uint64_t h = mix(rec->number + UINT64_C(0x9e3779b97f4a7c15));
	uint64_t word;

	h = mix(h ^ ((uint64_t)rec->length << 32 | rec->statements));
	for (uint32_t at = 0; at + 8 <= rec->length; at += 8) {
		memcpy(&word, p + at, 8);
		h = mix(h ^ word) + at;
	}
	return h;
}

/* ---- noting ---- */

static struct statement *find(struct redo *r, sqlite3_stmt *s)
{
	for (unsigned i = 0; i < STATEMENTS; i++) {
		if (r->statement[i].s == s)
			return &r->statement[i];
	}
	return NULL;
}

void redo_statement(struct redo *r, sqlite3_stmt *s, const char *sql)
{
	struct statement *at = find(r, s);

	if (!at) {
		/* What was prepared last may not have run yet. */
		at = &r->statement[0];
		for (unsigned i = 1; i < STATEMENTS; i++) {
			if (r->statement[i].used < at->used)
				at = &r->statement[i];
		}
	}
	at->used = ++r->turn;
	at->s = s;
	at->sql = sql;
	memset(at->param, 0, (size_t)at->count * sizeof(at->param[0]));
	at->count = 0;
}

static struct param *param(struct redo *r, sqlite3_stmt *s, int index)
{
	struct statement *at = find(r, s);

	if (!at)
		return NULL; /* it reads */
	CHECK(index >= 1 && index <= PARAMS_MAX);
	if (index > at->count)
		at->count = index;
	return &at->param[index - 1];
}

void redo_bind_int(struct redo *r, sqlite3_stmt *s, int index, int64_t v)
{
	struct param *p = param(r, s, index);

	if (p)
		*p = (struct param){.type = SQLITE_INTEGER, .v = v};
}

void redo_bind_bytes(
	struct redo *r, sqlite3_stmt *s, int index, int type, const void *bytes, size_t len)
{
	struct param *p = param(r, s, index);

	if (p)
		*p = (struct param){.type = type, .p = bytes, .len = len};
}

static void put_u32(struct buf *b, size_t v)
{
	uint32_t u = (uint32_t)v;

	buf_put(b, &u, sizeof(u));
}

static void put_padded(struct buf *b, const void *p, size_t len)
{
	static const char zero[8];

	buf_put(b, p, len);
	buf_put(b, zero, -len & 7);
}

void redo_begin(struct redo *r)
{
	static const struct record empty;

	buf_clear(&r->op);
	buf_put(&r->op, &empty, sizeof(empty));
	r->noted = 0;
}

void redo_note(struct redo *r, sqlite3_stmt *s)
{
	struct statement *at = find(r, s);

	CHECK(at);
	put_u32(&r->op, strlen(at->sql));
	put_u32(&r->op, (size_t)at->count);
	put_padded(&r->op, at->sql, strlen(at->sql));
	for (int i = 0; i < at->count; i++) {
		const struct param *p = &at->param[i];

		put_u32(&r->op, (size_t)p->type);
		put_u32(&r->op, p->len);
		if (p->type == SQLITE_INTEGER)
			buf_put(&r->op, &p->v, sizeof(p->v));
		else
			put_padded(&r->op, p->p, p->len);
	}
	r->noted++;
}

bool redo_noted(const struct redo *r)
{
	return r->noted > 0;
}

bool redo_too_large(const struct redo *r)
{
	return r->op.len > RECORD_MAX;
}

void redo_cancel(struct redo *r)
{
	r->noted = 0;
}

int redo_end(struct redo *r)
{
	struct record rec = {.number = r->number + 1, .statements = r->noted};
	int e;

	if (r->op.failed)
		return -ENOMEM;
	if (r->op.len > RECORD_MAX || r->op.len > FILE_SIZE - r->at)
		return -ENOSPC;
	rec.length = (uint32_t)(r->op.len - sizeof(rec));
	rec.checksum = checksum(&rec, r->op.data + sizeof(rec));
	memcpy(r->op.data, &rec, sizeof(rec));
	e = io_write_at(r->fd, r->op.data, r->op.len, r->at);
	if (e)
		return e;
	r->at += r->op.len;
	r->number++;
	r->noted = 0;
	return 0;
}

bool redo_pending(const struct redo *r)
{
	return r->number != r->committed;
}

bool redo_full(const struct redo *r)
{
	return r->at >= FULL_SIZE;
}

int redo_mark(struct redo *r, struct conn *writer, bool more)
{
	return meta_set_int(writer, "redo_number", (int64_t)(r->number + more));
}

void redo_reset(struct redo *r, bool more)
{
	r->number += more;
	r->committed = r->number;
	r->at = sizeof(struct header);
}

/* ---- running again ---- */

struct scan {
	const uint8_t *p;
	size_t left;
	bool bad;
};

static uint32_t take_u32(struct scan *in)
{
	uint32_t v = 0;

	if (in->left < sizeof(v)) {
		in->bad = true;
		return 0;
	}
	memcpy(&v, in->p, sizeof(v));
	in->p += sizeof(v);
	in->left -= sizeof(v);
	return v;
}

static const void *take_padded(struct scan *in, size_t len)
{
	const void *p = in->p;
	size_t whole = len + (-len & 7);

	if (len > in->left || whole > in->left) {
		in->bad = true;
		return "";
	}
	in->p += whole;
	in->left -= whole;
	return p;
}

static void bind_one(sqlite3_stmt *s, int index, struct scan *in)
{
	uint32_t type = take_u32(in), len = take_u32(in);
	int64_t v;

	switch (type) {
	case SQLITE_INTEGER:
		memcpy(&v, take_padded(in, sizeof(v)), in->bad ? 0 : sizeof(v));
		if (!in->bad)
			sqlite3_bind_int64(s, index, v);
		break;
	case SQLITE_TEXT:
		sqlite3_bind_text(s, index, take_padded(in, len), (int)len, SQLITE_TRANSIENT);
		break;
	case SQLITE_BLOB:
		sqlite3_bind_blob(s, index, take_padded(in, len), (int)len, SQLITE_TRANSIENT);
		break;
	default:
		in->bad |= type != 0;
	}
}

static int run_one(struct conn *writer, struct scan *in)
{
	uint32_t text = take_u32(in), params = take_u32(in);
	const char *sql = take_padded(in, text);
	sqlite3_stmt *s = NULL;
	int code, r = 0;

	if (in->bad || params > PARAMS_MAX)
		return -EIO;
	if (sqlite3_prepare_v2(writer->db, sql, (int)text, &s, NULL) != SQLITE_OK)
		return conn_error(writer);
	for (uint32_t i = 1; i <= params; i++)
		bind_one(s, (int)i, in);
	do
		code = in->bad ? SQLITE_ERROR : sqlite3_step(s);
	while (code == SQLITE_ROW);
	if (code != SQLITE_DONE)
		r = in->bad ? -EIO : conn_error(writer);
	sqlite3_finalize(s);
	return r;
}

static int run_record(struct conn *writer, const struct record *rec, const void *rest)
{
	struct scan in = {.p = rest, .left = rec->length};
	int r = 0;

	for (uint32_t i = 0; !r && i < rec->statements; i++)
		r = run_one(writer, &in);
	return r;
}

/* The record at *at, if it is number; *at is then behind it. p is the whole file. */
static bool next_record(const uint8_t *p, uint64_t *at, uint64_t number, struct record *rec)
{
	if (*at > FILE_SIZE - sizeof(*rec))
		return false;
	memcpy(rec, p + *at, sizeof(*rec));
	if (rec->number != number || rec->length > FILE_SIZE - sizeof(*rec) - *at ||
		rec->length % 8 || rec->checksum != checksum(rec, p + *at + sizeof(*rec)))
		return false;
	*at += sizeof(*rec) + rec->length;
	return true;
}

int redo_replay(struct redo *r, struct conn *writer)
{
	AUTO_FREE uint8_t *p = calloc(1, FILE_SIZE);
	uint64_t at = sizeof(struct header), before, number = 0;
	struct record rec;
	int64_t committed = 0;
	ssize_t got = p ? io_read_at(r->fd, p, FILE_SIZE, 0) : -ENOMEM;
	int e = got < 0 ? (int)got : 0; /* what is behind it is zeros */

	/* A commit that failed may have happened all the same. */
	if (!e)
		e = meta_get_int(writer, "redo_number", &committed);
	if (!e && (uint64_t)committed != r->committed) {
		r->number = (uint64_t)committed;
		redo_reset(r, false);
		return 0;
	}
	number = r->committed;
	while (!e) {
		before = at;
		if (!next_record(p, &at, number + 1, &rec))
			break;
		e = run_record(writer, &rec, p + before + sizeof(rec));
		number++;
	}
	if (e)
		return e;
	/* In a running process this is what was there. */
	CHECK(r->number == r->committed || r->number == number);
	r->number = number;
	r->at = at;
	return 0;
}

/* ---- opening ---- */

static int make_file(struct redo *r)
{
	struct header h = {.version = VERSION, .id = r->id};
	int e;

	memcpy(h.magic, magic, sizeof(magic));
	if (ftruncate(r->fd, 0) != 0)
		return -errno;
	/* Where it cannot be allocated, writes may fail; they are answered so. */
	e = fallocate(r->fd, 0, 0, FILE_SIZE) == 0 ? 0 : -errno;
	if (e && e != -EOPNOTSUPP)
		return e;
	return io_write_at(r->fd, &h, sizeof(h), 0);
}

static int load_numbers(struct redo *r, struct conn *writer)
{
	int64_t id = 0, number = 0;
	int e = meta_get_int(writer, "redo_id", &id);

	if (!e)
		e = meta_get_int(writer, "redo_number", &number);
	if (e == -ENOENT) {
		id = (int64_t)random_u64();
		number = 0;
		e = meta_set_int(writer, "redo_id", id);
		if (!e)
			e = meta_set_int(writer, "redo_number", 0);
	}
	r->id = (uint64_t)id;
	r->number = r->committed = (uint64_t)number;
	return e;
}

int redo_open(struct conn *writer, int dir_fd, struct redo **ret)
{
	struct redo *r = calloc(1, sizeof(*r));
	struct header h = {0};
	int e;

	if (!r)
		return -ENOMEM;
	r->at = sizeof(h);
	r->fd = openat(dir_fd, "meridian.redo", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	e = r->fd < 0 ? -errno : load_numbers(r, writer);
	if (!e && (pread(r->fd, &h, sizeof(h), 0) != sizeof(h) ||
			  memcmp(h.magic, magic, sizeof(magic)) || h.version != VERSION ||
			  h.id != r->id))
		e = make_file(r);
	if (e) {
		redo_close(r);
		return e;
	}
	*ret = r;
	return 0;
}

void redo_close(struct redo *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	buf_done(&r->op);
	free(r);
}
